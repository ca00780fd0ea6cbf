"""What a sweep is to reach on two CPU cores, and whether it does."""

from typing import Any, NamedTuple

from research.benchmarks.comparison import EAGER, FUNC, LANES, NAIVE, OURS, RIVALS

SHARE = "matrix product"
OTHERS = {EAGER: 1.0, FUNC: 1.0, NAIVE: 1.0, LANES: 0.85}
TARGETS = {
    "logistic": {EAGER: 300.0, FUNC: 2.0, NAIVE: 1.0, LANES: 0.85},
    "perceptron": {EAGER: 10.0, FUNC: 3.0, NAIVE: 3.0, LANES: 0.85, SHARE: 0.6},
}


class Verdict(NamedTuple):
    """A target, what was measured (None where a rival is missing), and whether it is reached (None: not known)."""

    what: str
    target: float
    measured: float | None

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached."""
        return None if self.measured is None else self.measured >= self.target


def ratios(record: dict[str, Any]) -> dict[str, float]:
    """Rival -> its time over the sweep's; what is missing is left out."""
    times = record["times"]
    if OURS not in times:
        return {}
    return {name: times[name]["seconds"] / times[OURS]["seconds"] for name in RIVALS if name in times}


def verdicts(record: dict[str, Any]) -> list[Verdict]:
    """Every target of the record's workload, with what was measured."""
    measured: dict[str, float | None] = {**ratios(record), SHARE: record["arithmetic"]}
    wanted = TARGETS.get(record["workload"], OTHERS)
    return [Verdict(what, target, measured.get(what)) for what, target in wanted.items()]
