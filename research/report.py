"""What a reader sees in the terminal: plans, progress, findings."""

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from research import processes

STYLES = {
    "supported": "green",
    "refuted": "red",
    "inconclusive": "yellow",
    "not yet": "cyan",
    "void": "magenta",
    "failed": "bold red",
    "stopped": "yellow",
    "not run": "dim",
    "part": "green",
}
PLAIN_INTERVAL = 5.0  # seconds between two lines of progress where there is no terminal


class Outcome(NamedTuple):
    """An experiment that has been run: its findings, its dataset, its figure."""

    family: str
    name: str
    documentation: str
    findings: list[Any]
    dataset: Any
    figure: Path


class Unjudged(NamedTuple):
    """An experiment without findings: why, and whether it failed, was stopped, was not run, or only in part."""

    name: str
    reason: str
    status: str


def _console(stderr: bool = False) -> Console:
    """A console on the present standard output, wide enough for a table where there is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        quiet=not processes.first(),
        file=stream,
        width=None if stream.isatty() else 150,
        highlight=False,
        soft_wrap=not stream.isatty(),
    )


def plain(text: str) -> None:
    """Print a line as it is."""
    _console().print(escape(text))


def error(text: str) -> None:
    """Print an error line on standard error."""
    _console(stderr=True).print(f"[bold red]error:[/] {escape(text)}")


def heading(title: str, departure: str) -> None:
    """Print the beginning of an experiment."""
    _console().print(f"\n[bold]{escape(title)}[/] {escape(departure)}".rstrip())


def listing(experiments: list[tuple[str, str, Mapping[str, Any]]]) -> None:
    """Print the experiments with their claims, and their parameters where these are known."""
    for name, claim, parameters in experiments:
        _console().print(f"[bold]{escape(name)}[/]: {escape(claim)}")
        for parameter in parameters.values():
            kind = "one program for all values" if parameter.traced else "one program a value"
            _console().print(f"    {escape(parameter.name)} ({escape(parameter.kind)}; {kind})")


def plans(planned: list[tuple[str, str, Any]]) -> None:
    """Print what will be done: experiments, axes, runs, compiled programs, estimated memory."""
    table = Table("experiment", "axes", "runs", "programs", "memory", title="What will be done", title_justify="left")
    for name, departure, plan in planned:
        axes = " × ".join(f"{len(axis.values)} {axis.dimension.replace('+', ' with ')}" for axis in plan.grid.axes)
        described = f"{name}\n[dim]{escape(departure)}[/]" if departure else name
        table.add_row(
            described, f"{plan.seeds} seeds × {axes}", f"{plan.runs:,}", str(len(plan.cells)), _bytes(plan.memory)
        )
    runs, programs = sum(plan.runs for *_, plan in planned), sum(len(plan.cells) for *_, plan in planned)
    most = max((plan.memory for *_, plan in planned), default=0)
    table.add_section()
    table.add_row("in all", "", f"{runs:,}", str(programs), f"{_bytes(most)} at most")
    _console().print(table)


@contextlib.contextmanager
def progress() -> Iterator[Any]:
    """A `progress` for a sweep: a live bar on a terminal, a line now and then elsewhere."""
    console = _console()
    if not console.is_terminal:
        yield _Lines()
        return
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs, {task.fields[rate]}/s,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    ]
    with Progress(*columns, console=console) as bar:
        yield _Bar(bar)


class _Bar:
    """Progress on a terminal."""

    def __init__(self, bar: Progress) -> None:
        self.bar, self.runs, self.began = bar, 0, time.perf_counter()

    def __call__(self, done: float, runs: int, cell: str) -> None:
        if not self.runs:
            self.task = self.bar.add_task("", total=runs, rate="-")
        self.runs = runs
        rate = f"{done / max(1e-9, time.perf_counter() - self.began):.3g}"
        self.bar.update(self.task, completed=int(done), description=escape(cell or "runs")[:60], rate=rate)


class _Lines:
    """Progress where output is no terminal: a line every few seconds, and one at the end."""

    def __init__(self) -> None:
        self.runs, self.began, self.said = 0, time.perf_counter(), time.perf_counter()

    def __call__(self, done: float, runs: int, cell: str) -> None:
        self.runs = runs
        now = time.perf_counter()
        if now - self.said < PLAIN_INTERVAL and done < runs:
            return
        self.said = now
        spent = now - self.began
        left = f"about {spent * (runs - done) / done:.0f} s left" if done > 0.01 * runs else "time left not known yet"
        plain(f"{int(done)}/{runs} runs, {done / max(spent, 1e-9):.3g}/s, {left}  {cell}")


def experiment(outcome: Outcome) -> None:
    """Print an experiment's findings as soon as it has ended."""
    for finding in outcome.findings:
        style = STYLES[finding.status]
        _console().print(f"  [{style}]{finding.status:12s}[/] {escape(finding.statement)}: {escape(measured(finding))}")
        if finding.outlook and finding.status == "not yet":
            _console().print(f"               {escape(finding.outlook)}")


def findings(ended: Sequence[Outcome | Unjudged]) -> None:
    """Print the table that a run ends with."""
    narrow = _console().width < 120
    table = Table(title="\nFindings", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("claim, runs (diverged)" if narrow else "claim", overflow="fold", max_width=16 if narrow else None)
    table.add_column("statement", min_width=16)
    for column in ("theory's band", "measured [95 %]", *(() if narrow else ("runs", "diverged"))):
        table.add_column(column, justify="right")
    table.add_column("status", no_wrap=True, min_width=12)
    for outcome in ended:
        if isinstance(outcome, Unjudged):
            status = f"[{STYLES[outcome.status]}]{outcome.status}[/]"
            table.add_row(outcome.name, escape(outcome.reason), *[""] * (len(table.columns) - 3), status)
            table.add_section()
            continue
        runs, diverged = counted(outcome.dataset)
        for place, finding in enumerate(outcome.findings):
            first = place == 0
            table.add_row(
                (f"{outcome.name} {runs:,} ({diverged:,})" if narrow else outcome.name) if first else "",
                escape(finding.statement),
                escape(band(finding.band)),
                escape(measured(finding)),
                *(() if narrow else (f"{runs:,}", f"{diverged:,}") if first else ("", "")),
                f"[{STYLES[finding.status]}]{finding.status}[/]",
            )
        table.add_section()
    _console().print(table)


def counted(dataset: Any) -> tuple[int, int]:
    """(runs, diverged runs) of a dataset."""
    return int(dataset["diverged"].size), int(dataset["diverged"].sum())


def spared(dataset: Any) -> str:
    """In words, the share of its steps that a sweep did not take since runs had ended.

    Empty below half a percent, and where it is not known for all runs, some being of an earlier sweep.
    """
    facts = json.loads(dataset.attrs["provenance"])
    known = facts.get("steps_ahead") and not facts.get("runs_reused")
    share = 1 - facts["steps"] / facts["steps_ahead"] if known else 0.0
    return f"{100 * share:.0f} % of the steps spared by runs that ended early" if share >= 0.005 else ""


def number(value: float) -> str:
    """A number as a reader wants it: four significant digits, ∞ for infinity."""
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else "−∞"
    return f"{value:.4g}".replace("-", "−", 1) if value < 0 else f"{value:.4g}"


def band(ends: tuple[float, float]) -> str:
    """Theory's band: `< 0`, `> 0.5`, or `[0.9, 1.1]`."""
    low, high = ends
    if low == high:
        return f"= {number(low)}"
    if low == float("-inf"):
        return f"< {number(high)}"
    if high == float("inf"):
        return f"> {number(low)}"
    return f"[{number(low)}, {number(high)}]"


def measured(finding: Any) -> str:
    """The estimate with its interval."""
    return f"{number(finding.estimate)} [{number(finding.interval[0])}, {number(finding.interval[1])}]"


def section(documentation: str, title: str) -> str:
    """The text behind `Title:` in a docstring, up to the next blank line, on one line; empty if there is none."""
    match = re.search(rf"^{title}:\s*(.+?)(?:\n\s*\n|\Z)", documentation, flags=re.MULTILINE | re.DOTALL)
    return " ".join(match.group(1).split()) if match else ""


def stored(path: Path, dataset: Any) -> None:
    """Print the axes, findings and provenance of a stored result."""
    console = _console()
    console.print(f"[bold]{escape(str(path))}[/]  {escape(dataset.attrs.get('design') or 'default design')}")
    for name, coordinate in dataset.coords.items():
        values = coordinate.values.ravel().tolist()
        shown = ", ".join(map(str, values[:8])) + (f", … ({len(values)})" if len(values) > 8 else "")
        console.print(f"  {escape(str(name))} {escape(str(tuple(coordinate.dims)))}: {escape(shown)}")
    for name, variable in dataset.data_vars.items():
        console.print(f"  {escape(str(name))} {escape(str(tuple(variable.dims)))} {variable.dtype}")
    runs, diverged = counted(dataset)
    console.print(f"  {runs} runs, {diverged} diverged")
    for finding in json.loads(dataset.attrs.get("findings", "[]")):
        value = f"{number(finding['estimate'])} [{', '.join(map(number, finding['interval']))}]"
        console.print(
            f"  [{STYLES[finding['status']]}]{finding['status']:12s}[/] {escape(finding['statement'])}: {escape(value)}"
            f", theory {escape(band(tuple(finding['band'])))}"
        )
    for name, value in json.loads(dataset.attrs["provenance"]).items():
        console.print(escape(f"  {name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"))


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
