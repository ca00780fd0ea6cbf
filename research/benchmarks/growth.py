"""How the time of a sweep grows with the number of its runs."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from research import layout
from research.benchmarks import machine
from research.benchmarks.comparison import swept
from research.benchmarks.workloads import WORKLOADS

RUNS = (10, 100, 1_000, 10_000, 100_000)
RATES, STEPS = 10, 100  # of a logistic regression; the number of seeds makes the runs


def grow(repeats: int, runs: Sequence[int] = RUNS, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Seconds of running and of the whole call for each number of runs, the fastest of `repeats` interleaved ones."""
    load = os.getloadavg()[0]
    layout.prepare()
    workload = WORKLOADS["logistic"]
    workload = workload._replace(learning_rates=workload.learning_rates[:RATES], steps=STEPS)
    seconds: dict[int, list[float]] = {count: [] for count in runs}
    whole: dict[int, list[float]] = {count: [] for count in runs}
    for turn in range(repeats):
        for count in runs:
            timing = swept(workload._replace(seeds=count // RATES))
            seconds[count].append(timing.seconds)
            whole[count].append(timing.whole or timing.seconds)
            say(f"  round {turn + 1}  {count:7,} runs {timing.seconds:10.4f} s, whole call {timing.whole:.3f} s")
    return {
        "workload": "growth",
        "title": workload.title,
        "steps": STEPS,
        "runs": list(runs),
        "seconds": [min(seconds[count]) for count in runs],
        "whole": [min(whole[count]) for count in runs],
        "load": [load, os.getloadavg()[0]],
        **machine.described(),
    }
