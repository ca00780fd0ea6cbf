"""The comparison as a figure: how many times longer the rivals take, and how time grows with the number of runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from research import plots
from research.benchmarks.comparison import RIVALS
from research.benchmarks.targets import ratios, verdicts


def chart(records: Sequence[dict[str, Any]], growth: dict[str, Any] | None) -> Figure:
    """Ratios of every workload with their targets in black, and beside them time against runs."""
    figure, ((left, right),) = plots.figure(1, 2, "A sweep against what else one could write", size=(5.2, 3.6))
    place = lambda row, name: row + 0.12 * (RIVALS.index(name) - (len(RIVALS) - 1) / 2)
    for name in RIVALS:
        faster = [ratios(record).get(name) for record in records]
        found = [(ratio, place(row, name)) for row, ratio in enumerate(faster) if ratio is not None]
        label = name if found else f"{name} (not measured)"
        left.plot([x for x, _ in found], [y for _, y in found], "o", markersize=4, label=label)
    wanted = [
        (verdict.target, place(row, verdict.what))
        for row, record in enumerate(records)
        for verdict in verdicts(record)
        if verdict.what in RIVALS
    ]
    if wanted:
        x, y = zip(*wanted, strict=True)
        plots.theory(left, x, y, "target", linestyle="none", marker="|", markersize=7)
    left.axvline(1.0, color="0.6", linewidth=0.8)
    left.set(xscale="log", xlabel="time of the rival / time of the sweep", title="further right: the sweep is faster")
    left.set_yticks(range(len(records)), [record["title"] for record in records])
    left.invert_yaxis()
    plots.legend(left)
    if growth:
        runs = np.array(growth["runs"])
        right.plot(runs, growth["seconds"], "o-", label="running")
        right.plot(runs, growth["whole"], "o-", label="whole call, with compilation")
        plots.theory(right, runs, growth["seconds"][-1] * runs / runs[-1], "proportional")
        right.set(xscale="log", yscale="log", xlabel="runs", ylabel="seconds")
        right.set_title(f"{growth['title']}, {growth['steps']} steps")
        plots.legend(right)
    else:
        right.set_axis_off()
    return figure
