"""The instruments of the laboratory; nothing here knows of a particular experiment."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from research.inspection import saturation_report as saturation_report

__all__ = ["saturation_report"]


def __getattr__(name: str) -> Any:
    # Not before it is asked for: it imports Flax and matplotlib, for which `--help` cannot wait.
    if name == "saturation_report":
        from research.inspection import saturation_report

        return saturation_report
    raise AttributeError(f"module 'research' has no attribute {name!r}")
