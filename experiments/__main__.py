"""Every family, then `results/claims.md`; `show FILE` prints a stored result, `merge` joins the parts of sweeps."""

import pkgutil
import sys
from pathlib import Path

import experiments
from research import report
from research.command_line import run
from research.interruption import leave


def show(path: Path) -> int:
    """Print the axes, findings and provenance of a stored result; returns the exit status."""
    from research.store import UNREADABLE, read

    try:
        report.stored(path, read(path))
    except UNREADABLE as problem:
        report.error(f"{path} cannot be shown: {problem}")
        return 2
    return 0


if __name__ == "__main__":
    families = sorted(
        f"experiments.{module.name}" for module in pkgutil.iter_modules(experiments.__path__) if module.ispkg
    )
    if sys.argv[1:2] == ["show"]:
        if len(sys.argv) != 3:
            report.error("usage: python -m experiments show FILE.nc")
            sys.exit(2)
        sys.exit(show(Path(sys.argv[2])))
    if sys.argv[1:2] == ["merge"]:
        from research.merge import merge

        leave(merge(families, sys.argv[2:]))
    leave(run(families, sys.argv[1:]))
