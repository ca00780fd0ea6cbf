"""One run -> a labelled grid of runs.

grid(simulate, axes)        which parameters vary                              research/axes.py
  └ static cells            one program each, compiled in the background       research/program.py, piece.py
      └ seeds × points      its runs, as blocks of what the memory has room for
          └ slots, lanes    a block laid over devices, in batches of `lanes`   research/layout.py
              └ segments    about a second of work; then progress, packing of the runs that go on, and now and
                            then a copy of the state on disk                   research/block.py
-> blocks on disk           finished ones are kept, so a killed sweep goes on  research/store.py
-> one xr.Dataset           dimensions (seed, *axes, step, own), what is given research/assembly.py
-> one .nc                  in one step, with its provenance                   research/store.py
"""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from research import assembly, layout, processes
from research.axes import Grid, grid, label
from research.layout import Precision
from research.program import Program
from research.store import Store, address, provenance
from research.work import Options, Work

Progress = Callable[[float, int, str], None]
CHECKPOINT = 30.0  # seconds of work between two copies of the state


class Cell(NamedTuple):
    """A static cell of the grid: its program, and where its runs stand in the grid."""

    program: Program
    name: str
    points: np.ndarray
    traced: dict[str, np.ndarray]

    def mapped(self, keys: np.ndarray, runs: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """What the program is mapped over for these runs, seed by seed: each one's key data and traced parameters."""
        seed, point = np.divmod(runs, len(self.points))
        _, types = self.program.signature
        return keys[seed], {name: np.asarray(values[point], types[name].dtype) for name, values in self.traced.items()}

    def asking(self, seeds: int) -> tuple[np.ndarray, np.ndarray]:
        """Runs that between them have all that is given to any, and which of these has that of each (seed, point)."""
        program, points = self.program, len(self.points)
        if not program.shape.given:
            return np.zeros(0, int), np.zeros((seeds, points), int)
        needed = [self.traced[name] for name in self.traced if program.given_needs(name)]
        table = np.stack(needed, axis=1) if needed else np.zeros((points, 1))
        _, first, own = np.unique(table, axis=0, return_index=True, return_inverse=True)
        drawn = seeds if program.given_needs("key") else 1
        index = np.arange(drawn)[:, None] * len(first) + own.reshape(1, -1)
        return (np.arange(drawn)[:, None] * points + first).ravel(), np.broadcast_to(index, (seeds, points))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep will do, known before anything is compiled."""

    grid: Grid
    cells: list[Cell]
    seeds: int
    key: int
    precision: Precision

    @property
    def runs(self) -> int:
        """Runs in all."""
        return sum(self.cell_runs)

    @property
    def cell_runs(self) -> list[int]:
        """Runs of each static cell."""
        return [self.seeds * len(cell.points) for cell in self.cells]

    def part(self, number: int, parts: int) -> list[tuple[int, int]]:
        """The runs of each cell, (first, behind the last), that part `number` of `parts`, from 1, has to compute."""
        ends = np.cumsum(self.cell_runs)
        first, last = (self.runs * end // parts for end in (number - 1, number))
        cut = lambda run, end, runs: int(np.clip(run - (end - runs), 0, runs))
        return [(cut(first, end, runs), cut(last, end, runs)) for end, runs in zip(ends, self.cell_runs, strict=True)]

    @property
    def memory(self) -> int:
        """Bytes, estimated: all that is recorded, and the largest cell's states and records twice on the device."""
        shapes = [(self.seeds * len(cell.points), cell.program.shape) for cell in self.cells]
        live = max(runs * shape.run_bytes for runs, shape in shapes)
        return sum(runs * shape.record_bytes for runs, shape in shapes) + min(2 * live, layout.memory())

    @functools.cached_property
    def keys(self) -> np.ndarray:
        """The data of each seed's key, `fold_in(key, i)`, at every grid point and whatever the number of seeds."""
        return np.asarray(_keys(jax.random.key(self.key), np.arange(self.seeds)))

    def addresses(self) -> list[str]:
        """The content address of every cell, whatever the number of seeds; traces the programs, compiles nothing."""
        numbers = {"key": self.key, "precision": self.precision}
        with layout.precision(self.precision):
            return [address(cell.program.address(), {"traced": cell.traced, **numbers}) for cell in self.cells]


@jax.jit
def _keys(key: Any, seeds: Any) -> jax.Array:
    return jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, seeds))


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
    layout.prepare()  # before JAX starts, which tracing does
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
    memory: int | None = None,
    checkpoint: float = CHECKPOINT,
) -> xr.Dataset:
    """Every run of the grid, as one labelled Dataset of dimensions (seed, *axes in the order given, step, own).

    `axes` maps a parameter of `simulate` to a number or a 1-d sequence; a tuple of names zips its values, and its
    dimension is the names joined by `+`. Seed i has the key `fold_in(jax.random.key(key), i)` at every grid point, so
    differences along other axes are paired and 16 seeds extend 8. `lanes` is the number of runs in flight on one device
    (None: chosen). `store` is where the result is kept and found again (`fresh=True` computes anew and replaces it);
    `progress(runs_done, runs, cell)` is called now and then, and may raise to end the sweep: what is done is kept. Each
    run carries `diverged` and `diverged_at` (the first recorded step with a non-finite state or observable, or -1): its
    observables are NaN from that step on and its state is frozen. What is `given` has only the dimensions along which
    it differs. `memory` is what to plan with, in bytes (None: a quarter of the host's and the devices'); records beyond
    it lie in a file beside the store. With a store the state is kept after every `checkpoint` seconds of work.

    Raises ValueError or TypeError before anything is compiled, as `plan` does.
    """
    layout.prepare()
    layout.check_lanes(lanes)
    layout.check_memory(memory)
    planned = plan(simulate, axes, seeds=seeds, key=key, precision=precision)
    place = Store(store) if isinstance(store, (str, Path)) else store
    addresses = planned.addresses() if place else [""] * len(planned.cells)
    described = _described(planned.grid)
    if place and fresh:
        place.drop_cells()
    stored = place.load(memory) if place and not fresh else None
    if (
        stored is not None
        and stored.attrs["cells"].split() == addresses
        and stored.attrs["grid"] == described
        and stored.sizes["seed"] == seeds
    ):
        if place:
            place.drop_cells(addresses)  # of a process that was killed once the result was complete
        return stored[stored.attrs["swept"].split()]
    began = time.perf_counter()
    budget = int(-processes.agreed(-(memory or layout.memory())))  # the smallest: all processes share one layout
    shapes = [assembly.Cell(cell.points, cell.program.shape) for cell in planned.cells]
    gathered = assembly.Assembly(planned.grid, seeds, shapes, budget, place.path.parent if place else None)
    parts = [(0, seeds * len(cell.points)) for cell in planned.cells]
    options = Options(place, lanes, budget, checkpoint, progress or _silent)
    with Work(planned, parts, addresses, stored, options) as work:
        given = []
        for number in range(len(parts)):
            work.cell(number, functools.partial(gathered.put, number))
            given.append(work.given(number))
    dataset = gathered.dataset(given)
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
            processes=processes.count(),
            wall_seconds=round(time.perf_counter() - began, 3),
            **work.facts,
        ),
    }
    if place:
        place.save(dataset)
        place.drop_cells()
    return dataset


def sweep_part(
    simulate: Callable,
    axes: Mapping[Any, Any],
    part: tuple[int, int],
    *,
    store: Store,
    seeds: int = 1,
    key: int = 0,
    lanes: int | None = None,
    progress: Progress | None = None,
    precision: Precision = "float64",
    memory: int | None = None,
    checkpoint: float = CHECKPOINT,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Compute one part of a sweep's runs, `part` being (3, 16) for the third of sixteen, and keep it in the store.

    Parts need no connection with each other, and one that was killed goes on like a sweep; `research.parts` joins them.
    `about` is kept with the part, as JSON. Everything else is as in `sweep`.
    """
    layout.prepare()
    layout.check_lanes(lanes)
    layout.check_memory(memory)
    planned = plan(simulate, axes, seeds=seeds, key=key, precision=precision)
    ranges, addresses = planned.part(*part), planned.addresses()
    store.save_part(
        {"part": part, "addresses": addresses, "runs": planned.cell_runs, "ranges": ranges, "about": about or {}}
    )
    options = Options(store, lanes, memory or layout.memory(), checkpoint, progress or _silent, giving=False)
    with Work(planned, ranges, addresses, None, options) as work:
        for number, (first, last) in enumerate(ranges):
            if first < last:
                work.cell(number, lambda first, last, arrays: None)


def _silent(done: float, runs: int, cell: str) -> None:
    pass


def _described(laid: Grid) -> str:
    """The grid's labels: the same cells may also stand along other axes, or under other names."""
    return json.dumps([laid.shape, laid.coordinates()], default=lambda values: values.tolist())


def _named(static: Mapping[str, Any], laid: Grid) -> str:
    """The static values that set a cell apart from the others, in words."""
    return ", ".join(f"{name}={label(value)}" for name, value in static.items() if name not in laid.fixed)
