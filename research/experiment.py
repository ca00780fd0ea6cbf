"""An experiment is a tuple of pure functions; a family of them is a package, one module each."""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from research.labels import per_seed
from research.layout import Precision
from research.plan import Plan, plan
from research.statistics import Estimate, every_seed
from research.sweep import sweep


class Experiment(NamedTuple):
    """One claim: how a run goes, what theory says, what follows, and the figure.

    `design` holds the axes of the default run (a laptop's CPU) and the number of "seeds"; `smoke` (seconds), `paper`
    (the paper's own size) and `control` (the main finding must NOT hold) override it. Where there is a `page`, the
    Markdown that it makes of the default design's result is written beside the figure.
    """

    simulate: Callable
    compare: Callable[[xr.Dataset], xr.Dataset]
    findings: Callable[[xr.Dataset], list["Finding"]]
    draw: Callable[[xr.Dataset], Any]
    design: Mapping[Any, Any]
    smoke: Mapping[Any, Any]
    paper: Mapping[Any, Any]
    control: Mapping[Any, Any]
    precision: Precision = "float64"
    page: Callable[[xr.Dataset], str] | None = None


class Finding(NamedTuple):
    """One sentence with its number: where theory says it lies, where it was found, and the 95 % interval over seeds.

    `outlook` is given where the trend is right but the bound lies beyond this budget: it says when it would be reached.
    """

    statement: str
    band: tuple[float, float]
    estimate: float
    interval: tuple[float, float]
    outlook: str = ""

    @classmethod
    def of(cls, statement: str, band: tuple[float, float], estimate: Estimate, outlook: str = "") -> "Finding":
        """The finding of an `Estimate`."""
        return cls(statement, band, estimate.value, estimate.interval, outlook)

    @property
    def status(self) -> str:
        """One of supported, refuted, inconclusive, not yet, void.

        Supported: the interval lies in the band, whose end is open where the other is infinite (an ordering is not a
        tie). Refuted: the two are disjoint. Inconclusive: it straddles an end. Not yet: not in the band, with an
        outlook. Void: no number, since an oracle was not certified, rivals were not separated, runs diverged or there
        were too few (a NaN never passes for health).
        """
        low, high = self.interval
        if np.isnan([self.estimate, low, high, *self.band]).any() or low > high:
            return "void"
        tie = (np.isinf(self.band[1]) and low == self.band[0]) or (np.isinf(self.band[0]) and high == self.band[1])
        if self.band[0] <= low and high <= self.band[1] and not tie:
            return "supported"
        if self.outlook:
            return "not yet"
        return "refuted" if high < self.band[0] or low > self.band[1] else "inconclusive"


class Findings(list[Finding]):
    """Findings in their order; a list, with a short word for those that spare no seed."""

    def add(
        self, statement: str, band: tuple[float, float], runs: xr.Dataset, values: xr.DataArray, *reduce: str
    ) -> None:
        """Append the finding on `every_seed` of `per_seed` of the values, unless an override has left no such runs."""
        if runs.diverged.size:
            self.append(Finding.of(statement, band, every_seed(per_seed(values, *reduce))))


def designed(experiment: Experiment, overrides: Mapping[Any, Any] | None = None) -> dict[Any, Any]:
    """The experiment's design with `overrides` laid over it.

    A parameter that is overridden leaves the zip it stood in; what is left of the zip keeps its distinct values.
    """
    design = dict(experiment.design)
    for name, values in (overrides or {}).items():
        if name in design:
            design[name] = values
            continue
        overridden = name if isinstance(name, tuple) else (name,)
        design = {key: column for axis in design for key, column in _left(axis, design[axis], overridden)}
        design[name] = values
    return design


def _left(axis: Any, column: Any, overridden: tuple[str, ...]) -> list[tuple[Any, Any]]:
    """What is left of an axis, as at most one (name, values), once the overridden parameters are taken out."""
    names = axis if isinstance(axis, tuple) else (axis,)
    left = [position for position, name in enumerate(names) if name not in overridden]
    if len(left) == len(names):
        return [(axis, column)]
    if not left:
        return []
    rows = list(dict.fromkeys(tuple(row[position] for position in left) for row in column))
    if len(left) == 1:
        return [(names[left[0]], [row[0] for row in rows])]
    return [(tuple(names[position] for position in left), rows)]


def planned(experiment: Experiment, overrides: Mapping[Any, Any] | None = None) -> Plan:
    """What `evaluate` will sweep; compiles nothing. Raises as `sweep` does."""
    axes = designed(experiment, overrides)
    seeds = axes.pop("seeds")
    return plan(experiment.simulate, axes, seeds=seeds, precision=experiment.precision)


def evaluate(experiment: Experiment, overrides: Mapping[Any, Any] | None = None, **options: Any) -> xr.Dataset:
    """The experiment's sweep under its design with `overrides`, compared with the oracle.

    `options` are those of `sweep`: store, lanes, progress, fresh, key. Raises as `sweep` does.
    """
    axes = designed(experiment, overrides)
    seeds = axes.pop("seeds")
    swept = sweep(experiment.simulate, axes, seeds=seeds, precision=experiment.precision, **options)
    return experiment.compare(swept).assign_attrs(swept.attrs)


def members(package: str) -> dict[str, Experiment]:
    """The experiments of a package by name: every module in it that ends in `experiment = Experiment(...)`."""
    return {name: importlib.import_module(f"{package}.{name}").experiment for name in names(package)}


def names(package: str) -> list[str]:
    """The modules of a package that are experiments, without importing them."""
    path = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_"))


def main(package: str) -> None:
    """The command line of a family; see `python -m <package> --help`. Exits with 0 if every experiment ran."""
    from research.command_line import run
    from research.interruption import leave

    leave(run([package], sys.argv[1:]))
