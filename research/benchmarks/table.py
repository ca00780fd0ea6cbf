"""The comparison in words: `results/throughput.md`, and a table in the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from research.benchmarks.comparison import EXTRAPOLATED, NAIVE, OURS, RIVALS
from research.benchmarks.targets import SHARE, ratios, verdicts

METHOD = f"""\
Everybody trains the same runs in float32: same architecture, data, loss, optimiser, number of steps and initial values,
and ends at the same final losses; that is checked before times are compared. A time is the fastest of several rounds in
which all take turns, in one process a workload, after a warm-up. The ratio is a rival's time over the sweep's.

- **sweep**: what all segments of `research.sweep.sweep` take, with everything that is recorded and checked on the way,
  lanes chosen by itself. Compilation, without JAX's cache on disk, stands apart, as does the first call as a whole.
- **torch eager**: `torch.optim.SGD`, one run after another. {EXTRAPOLATED} runs are timed and extrapolated to all of
  them (*), since every run costs the same.
- **torch.func**: `stack_module_state`, `vmap` of `grad`, all runs at once, updated in place.
- **JAX loop**: one run, `lax.scan` over its steps, jitted; a Python loop over all runs.
- **naive JAX**: `jit(vmap(scan))` over all runs.
- **best lanes**: the sweep with 1, 2, 4, … lanes up to all runs of a device, the best of them.

Rivals are tried in several settings, the best of which counts: torch with one thread and with one for every core, the
JAX programs with a sweep's flags (a device for every core, intra-op threads off) and with JAX's own, the latter in a
process beside.

The share is that of the machine which the sweep uses: its arithmetic against a matrix product of 1024 × 1024 on all
cores, or its traffic against copies of as many bytes as a step touches, whichever is larger. XLA counts both, for as
many runs together as the best number of lanes; it counts a byte for every operation that reads or writes it.
"""


def seconds(value: float) -> str:
    """A time as a reader wants it."""
    if value < 0.1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if value < 1000 else f"{value:,.0f} s"


def times(value: float) -> str:
    """A ratio as a reader wants it: `0.87×`, `12.3×`, `1,180×`."""
    return f"{value:.3g}×" if value < 1000 else f"{value:,.0f}×"


def markdown(records: Sequence[dict[str, Any]], growth: dict[str, Any] | None, figure: str) -> str:
    """The whole of `throughput.md`, which shows the `figure` beside it."""
    parts = ["# Throughput", "Written by `python -m experiments.throughput`.", *_machines([*records, growth or {}])]
    if records:
        parts += [_compared(records), _apart(records)]
    if full := [record for record in records if not record["quick"]]:
        parts += ["## Targets", _judged(full)]
    if records:
        parts += [f"![Throughput]({figure})"]
    if growth:
        parts += ["## From ten runs to many", _grown(growth)]
    missing = [f"- {each['title']}, {name}: {why}" for each in records for name, why in each["reasons"].items()]
    if missing:
        parts += ["## What is missing, and why", "\n".join(missing)]
    return "\n\n".join([*parts, "## How it is measured", METHOD])


def compared(records: Sequence[dict[str, Any]]) -> Table:
    """Times and ratios, for the terminal."""
    table = Table("workload", "runs × steps", OURS, *RIVALS, "share", title="Throughput", title_justify="left")
    for record in records:
        table.add_row(*_row(record))
    return table


def _row(record: dict[str, Any]) -> list[str]:
    faster = ratios(record)
    cells = [record["title"], f"{record['runs']:,} × {record['steps']:,}", _time(record, OURS)]
    cells += [f"{_time(record, name)}, {times(faster[name])}" if name in faster else "" for name in RIVALS]
    return [*cells, _share(record)]


def _time(record: dict[str, Any], name: str) -> str:
    if name not in record["times"]:
        return ""
    timing = record["times"][name]
    return seconds(timing["seconds"]) + ("*" if timing["runs"] < record["runs"] else "")


def _share(record: dict[str, Any]) -> str:
    return "" if record["share"] is None else f"{record['share']:.0%} of {record['bound']}"


def _compared(records: Sequence[dict[str, Any]]) -> str:
    return _table(["workload", "runs × steps", OURS, *RIVALS, "share of the machine"], map(_row, records))


def _apart(records: Sequence[dict[str, Any]]) -> str:
    """Compilation, whole calls, and which setting was the best."""

    def row(record: dict[str, Any]) -> list[str]:
        found = record["times"]
        kept = lambda name, fact: seconds(found[name][fact]) if found.get(name, {}).get(fact) is not None else ""
        settings = [found[name]["setting"] if name in found else "" for name in RIVALS]
        arithmetic = f"{record['arithmetic']:.0%}" if record["arithmetic"] is not None else ""
        rate = f"{record['matmul'] / 1e9:.0f} GFLOP/s ({record['matmul_by']})"
        return [
            *(record["title"], kept(OURS, "compile"), kept(OURS, "whole"), kept(NAIVE, "compile"), *settings),
            *(arithmetic, rate, f"{record['copy'] / 1e9:.0f} GB/s", f"{max(record['load']):.1f}"),
        ]

    head = [
        "workload",
        "sweep compiles in",
        "first whole call",
        "naive JAX compiles in",
        *(f"{name} at" for name in RIVALS),
    ]
    return _table([*head, "arithmetic", "matrix product", "copy", "load average"], map(row, records))


def _judged(records: Sequence[dict[str, Any]]) -> str:
    def row(record: dict[str, Any], verdict: Any) -> list[str]:
        write = (lambda share: f"{share:.0%}") if verdict.what == SHARE else times
        measured = "" if verdict.measured is None else write(verdict.measured)
        said = {None: "not measured", True: "reached", False: "**not reached**"}[verdict.reached]
        return [record["title"], verdict.what, f"≥ {write(verdict.target)}", measured, said]

    rows = (row(record, verdict) for record in records for verdict in verdicts(record))
    return _table(["workload", "against", "target, on two CPU cores", "measured", ""], rows)


def _grown(growth: dict[str, Any]) -> str:
    rows = [
        [f"{runs:,}", seconds(spent), seconds(whole), f"{1e6 * spent / runs / growth['steps']:.3g} µs"]
        for runs, spent, whole in zip(growth["runs"], growth["seconds"], growth["whole"], strict=True)
    ]
    title = f"A sweep of {growth['title']}, {growth['steps']} steps:"
    return f"{title}\n\n" + _table(["runs", "running", "whole call", "a step of a run"], rows)


def _machines(records: Sequence[dict[str, Any]]) -> list[str]:
    """Where it was measured; several lines where parts of it were measured elsewhere."""
    lines: dict[str, list[str]] = {}
    for record in filter(None, records):
        versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items() if number != "absent")
        line = f"{record['device']}; {record['processor']}, {record['cores']} cores; {versions}"
        lines.setdefault(line, []).append(record["title"])
    return [line + (f" ({', '.join(titles)})" if len(lines) > 1 else "") for line, titles in lines.items()]


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
