"""One run -> a labelled grid of runs.

grid(simulate, axes)        which parameters vary                              research/axes.py
  └ static cells            one compiled program each                          research/program.py
      └ points × seeds      traced: laid over devices and lanes                research/layout.py
          └ segments        about a second of work, then progress; divergence and stopping inside
-> one xr.Dataset           dimensions (seed, *axes, step, own), what was given research/assembly.py
-> one .nc                  finished cells kept, so a killed sweep goes on     research/store.py
"""

import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from research import assembly, layout
from research.axes import Grid, grid, label
from research.layout import Precision
from research.program import DIVERGED, RUNNING, STOPPED, Program
from research.store import Store, address, provenance

SEGMENT = 1.0  # seconds of work between two looks at the clock
BEGINNING = 20  # a segment lasts at least that many times what it costs to begin one
FIRST_SEGMENT = 1e9  # bytes that the steps of the first, unmeasured segment may touch
Progress = Callable[[float, int, str], None]


class Cell(NamedTuple):
    """A static cell of the grid: its program, and where its runs stand in the grid."""

    program: Program
    name: str
    points: np.ndarray
    traced: dict[str, np.ndarray]


class Plan(NamedTuple):
    """What a sweep will do, known before anything is compiled."""

    grid: Grid
    cells: list[Cell]
    seeds: int
    key: int
    precision: Precision

    @property
    def runs(self) -> int:
        """Runs in all."""
        return self.seeds * sum(len(cell.points) for cell in self.cells)

    @property
    def memory(self) -> int:
        """Bytes, estimated: all that is recorded, and the largest cell's states and records twice on the device."""
        shapes = [(self.seeds * len(cell.points), cell.program.shape) for cell in self.cells]
        live = max(runs * (shape.record_bytes + shape.state_bytes) for runs, shape in shapes)
        return sum(runs * shape.record_bytes for runs, shape in shapes) + 2 * live

    def keys(self) -> jax.Array:
        """Seed i has the key `fold_in(key, i)`, at every grid point and whatever the number of seeds."""
        return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(self.key), np.arange(self.seeds))

    def addresses(self) -> list[str]:
        """The content address of every cell; traces the programs, compiles nothing."""
        numbers = {"seeds": self.seeds, "key": self.key, "precision": self.precision}
        with layout.precision(self.precision):
            return [address(cell.program.address(), {"traced": cell.traced, **numbers}) for cell in self.cells]


def plan(
    simulate: Callable,
    axes: Mapping[Any, Any],
    *,
    seeds: int = 1,
    key: int = 0,
    precision: Precision = "float64",
) -> Plan:
    """The plan of a sweep, after every check that can be made before compilation.

    Raises ValueError or TypeError naming what is wrong: an axis, a seed count, an observable's annotation or shape.
    """
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds takes a positive integer, got {seeds!r}")
    if isinstance(key, bool) or not isinstance(key, int):
        raise ValueError(f"key takes an integer, got {key!r}")
    laid = grid(simulate, axes)
    with layout.precision(precision):
        cells = [
            Cell(Program(simulate, static, traced), _named(static, laid), points, traced)
            for static, points, traced in laid.cells()
        ]
    assembly.check_names(laid, [cell.program.shape for cell in cells])
    return Plan(laid, cells, seeds, key, precision)


def sweep(
    simulate: Callable,
    axes: Mapping[Any, Any],
    *,
    seeds: int = 1,
    key: int = 0,
    lanes: int | None = None,
    store: Store | str | Path | None = None,
    progress: Progress | None = None,
    precision: Precision = "float64",
    fresh: bool = False,
) -> xr.Dataset:
    """Every run of the grid, as one labelled Dataset of dimensions (seed, *axes in the order given, step, own).

    `axes` maps a parameter of `simulate` to a number or a 1-d sequence; a tuple of names zips its values, and its
    dimension is the names joined by `+`. Seed i has the key `fold_in(jax.random.key(key), i)` at every grid point, so
    differences along other axes are paired and 16 seeds extend 8. `lanes` is the number of runs in flight on one device
    (None: chosen). `store` is where the result is kept and found again (`fresh=True` computes anew and replaces it);
    `progress(runs_done, runs, cell)` is called now and then. Each run carries `diverged` and `diverged_at` (the first
    recorded step with a non-finite state or observable, or -1): its observables are NaN from that step on and its state
    is frozen. What is `given` has only the dimensions along which it differs.

    Raises ValueError or TypeError before anything is compiled, as `plan` does.
    """
    layout.prepare()
    layout.check_lanes(lanes)
    planned = plan(simulate, axes, seeds=seeds, key=key, precision=precision)
    place = Store(store) if isinstance(store, (str, Path)) else store
    addresses = planned.addresses() if place else []
    stored = place.load() if place and not fresh else None
    described = _described(planned.grid)
    if stored is not None and stored.attrs["cells"].split() == addresses and stored.attrs.get("grid") == described:
        return stored[stored.attrs["swept"].split()]
    report = progress or (lambda done, runs, cell: None)
    began, done, reused = time.perf_counter(), 0, 0
    collected: list[assembly.Arrays] = []
    with layout.precision(precision):
        for number, cell in enumerate(planned.cells):
            arrays = None
            if place and not fresh:
                arrays = place.load_cell(addresses[number]) or assembly.cut(
                    stored, addresses[number], cell.program.shape
                )
            reused += arrays is not None
            if arrays is None:
                said = functools.partial(_said, report, done, planned.runs, cell.name)
                arrays = _driven(planned, cell, lanes, said)
                if place:
                    place.save_cell(addresses[number], arrays)
            collected.append(arrays)
            done += seeds * len(cell.points)
            report(done, planned.runs, cell.name)
        parts = [
            assembly.Part(cell.points, cell.program.shape, arrays, *_given(planned, cell))
            for cell, arrays in zip(planned.cells, collected, strict=True)
        ]
    dataset = assembly.assembled(planned.grid, seeds, parts)
    dataset.attrs = {
        "cells": " ".join(addresses),
        "grid": described,
        "points": json.dumps([cell.points.tolist() for cell in planned.cells]),
        "swept": " ".join(map(str, dataset.data_vars)),
        "provenance": provenance(
            simulate=f"{simulate.__module__}.{label(simulate)}",
            axes={axis.dimension: [list(map(label, row)) for row in axis.values] for axis in planned.grid.axes},
            fixed={name: label(value) for name, value in planned.grid.fixed.items()},
            seeds=seeds,
            key=key,
            precision=precision,
            device=layout.device(),
            wall_seconds=round(time.perf_counter() - began, 3),
            cells=len(planned.cells),
            cells_reused=reused,
        ),
    }
    if place:
        place.save(dataset)
        place.drop_cells()
    return dataset


def _described(laid: Grid) -> str:
    """The grid's labels: the same cells may also stand along other axes, or under other names."""
    return json.dumps([laid.shape, laid.coordinates()], default=lambda values: values.tolist())


def _named(static: Mapping[str, Any], laid: Grid) -> str:
    """The static values that set a cell apart from the others, in words."""
    return ", ".join(f"{name}={label(value)}" for name, value in static.items() if name not in laid.fixed)


def _said(report: Progress, before: int, runs: int, cell: str, part: float) -> None:
    report(before + part, runs, cell)


def _driven(planned: Plan, cell: Cell, lanes: int | None, report: Callable[[float], None]) -> assembly.Arrays:
    """Every run of the cell, from start to end: arrays of shape (seed, point, step, own…)."""
    shape, seeds = cell.program.shape, planned.seeds
    runs = seeds * len(cell.points)
    devices, padded, lanes = layout.even(runs, lanes, shape.working_set)
    point, seed = np.divmod(np.arange(padded) % runs, seeds)
    _, types = cell.program.signature
    traced = {name: np.asarray(values[point], types[name].dtype) for name, values in cell.traced.items()}
    keys = planned.keys()[seed]
    carry = layout.spread(cell.program.start, devices, lanes)((keys, traced))
    run = layout.spread(cell.program.advance, devices, lanes, live=lambda mapped: mapped[2].status == RUNNING)
    strides = np.diff(shape.at, prepend=0).astype(np.int32)
    advance = lambda first, last, rest: jax.block_until_ready(
        run((keys, traced, carry), np.int32(first), np.int32(last), strides, np.int32(rest))
    )
    carry = advance(0, 0, 0)  # compiles, and takes no step
    began = time.perf_counter()
    carry = advance(0, 0, 0)
    drawing = time.perf_counter() - began  # what a segment costs before its first step: the data are drawn anew
    total, record, taken = int(shape.at[-1]), 0, 0
    steps = max(1, int(FIRST_SEGMENT / (runs * max(1, shape.working_set))))
    while record < len(shape.at) and bool((np.asarray(carry.status) == RUNNING).any()):
        target = min(total, taken + steps)
        last = int(np.searchsorted(shape.at, target, side="right"))
        rest = target - int(shape.at[last - 1]) if last > record else target - taken
        began = time.perf_counter()
        carry = advance(record, last, rest)
        spent = time.perf_counter() - began
        if last < len(shape.at):
            strides[last] -= rest
        record, taken = last, target
        steps = max(1, int(steps * min(8.0, max(SEGMENT, BEGINNING * drawing) / max(spent - drawing, 1e-3))))
        report(runs * taken / total if total else runs)
    held = lambda leaf: np.asarray(leaf)[:runs].reshape(len(cell.points), seeds, *leaf.shape[1:]).swapaxes(0, 1)
    status, ended = held(carry.status), held(carry.ended_at)
    arrays = {name: held(values).copy() for name, values in carry.records.items()}
    for where in np.argwhere(status == STOPPED):
        for values in arrays.values():
            values[tuple(where)][ended[tuple(where)] + 1 :] = values[tuple(where)][ended[tuple(where)]]
    diverged = status == DIVERGED
    return {**arrays, "diverged": diverged, "diverged_at": np.where(diverged, shape.at[ended], -1)}


def _given(planned: Plan, cell: Cell) -> tuple[dict[str, list[np.ndarray]], np.ndarray]:
    """What the runs are given: distinct values by name, and for each (seed, point) which of them is its own."""
    program, seeds, points = cell.program, planned.seeds, len(cell.points)
    if not program.shape.given:
        return {}, np.zeros((seeds, points), int)
    needed = [cell.traced[name] for name in cell.traced if program.given_needs(name)]
    table = np.stack(needed, axis=1) if needed else np.zeros((points, 1))
    _, first, own = np.unique(table, axis=0, return_index=True, return_inverse=True)
    drawn = seeds if program.given_needs("key") else 1
    ask, keys, (_, types) = jax.jit(program.given), planned.keys(), program.signature
    values: dict[str, list[np.ndarray]] = {name: [] for name in program.shape.given}
    for seed in range(drawn):
        for point in first:
            traced = {name: np.asarray(column[point], types[name].dtype) for name, column in cell.traced.items()}
            for name, value in ask((keys[seed], traced)).items():
                values[name].append(np.asarray(value))
    index = np.arange(drawn)[:, None] * len(first) + own.reshape(1, -1)
    return values, np.broadcast_to(index, (seeds, points))
