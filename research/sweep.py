"""One run -> a labelled grid of runs.

grid(simulate, axes)        which parameters vary                              research/axes.py
  └ static cells            one program each                                   research/plan.py, program.py, piece.py
      └ turned              on a CPU: the longer axis of its matrices last     research/orientation.py, turning.py
      └ compiled            in the background, while earlier ones run          research/workshop.py, work.py, ahead.py
      └ seeds × points      its runs, as blocks of what the memory has room for
          └ slots, lanes    a block laid over devices, in batches of `lanes`   research/layout.py
              └ segments    about a second of work; then progress, packing of the runs that go on, and now and
                            then a copy of the state on disk                   research/block.py
-> blocks on disk           finished ones are kept, so a killed sweep goes on  research/store.py
-> one xr.Dataset           dimensions (seed, *axes, step, own), what is given research/assembly.py
-> one .nc                  in one step, with its provenance                   research/store.py
"""

import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from research import assembly, layout, processes
from research.axes import Grid, label
from research.layout import Precision
from research.plan import Plan, plan
from research.store import Store, provenance
from research.work import Options, Work

Progress = Callable[[float, int, str], None]
CHECKPOINT = 30.0  # seconds of work between two copies of the state


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
    return swept(
        plan(simulate, axes, seeds=seeds, key=key, precision=precision),
        lanes=lanes,
        store=store,
        progress=progress,
        fresh=fresh,
        memory=memory,
        checkpoint=checkpoint,
    )


def swept(
    planned: Plan,
    *,
    lanes: int | None = None,
    store: Store | str | Path | None = None,
    progress: Progress | None = None,
    fresh: bool = False,
    memory: int | None = None,
    checkpoint: float = CHECKPOINT,
) -> xr.Dataset:
    """What `sweep` returns, of a plan that is made; the options are those of `sweep`.

    Raises ValueError before anything is compiled where `lanes` or `memory` is not a positive integer or None.
    """
    layout.check_lanes(lanes)
    layout.check_memory(memory)
    place = Store(store) if isinstance(store, (str, Path)) else store
    if place and fresh:
        place.drop_cells()
    budget = int(-processes.agreed(-(memory or layout.memory())))  # the smallest: all processes share one layout
    options = Options(place, lanes, budget, checkpoint, progress or _silent)
    try:
        return _swept(planned, options, place.load(memory) if place and not fresh else None)
    finally:
        planned.forget()


def _swept(planned: Plan, options: Options, stored: xr.Dataset | None) -> xr.Dataset:
    """The stored dataset, where it is that of the plan, else the one that the plan's runs make."""
    place = options.place
    addresses = planned.addresses() if place else [""] * len(planned.cells)
    described = _described(planned.grid)
    if (
        stored is not None
        and stored.attrs["cells"].split() == addresses
        and stored.attrs["grid"] == described
        and stored.sizes["seed"] == planned.seeds
    ):
        if place:
            place.drop_cells(addresses)  # of a process that was killed once the result was complete
        return stored[stored.attrs["swept"].split()]
    began = time.perf_counter()
    shapes = [assembly.Cell(cell.points, cell.program.shape) for cell in planned.cells]
    folder = place.path.parent if place else None
    gathered = assembly.Assembly(planned.grid, planned.seeds, shapes, options.memory, folder)
    parts = [(0, runs) for runs in planned.cell_runs]
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
            simulate=f"{planned.simulate.__module__}.{label(planned.simulate)}",
            axes={axis.dimension: [list(map(label, row)) for row in axis.values] for axis in planned.grid.axes},
            fixed={name: label(value) for name, value in planned.grid.fixed.items()},
            seeds=planned.seeds,
            key=planned.key,
            precision=planned.precision,
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
    planned: Plan,
    part: tuple[int, int],
    *,
    store: Store,
    lanes: int | None = None,
    progress: Progress | None = None,
    memory: int | None = None,
    checkpoint: float = CHECKPOINT,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Compute one part of a plan's runs, `part` being (3, 16) for the third of sixteen, and keep it in the store.

    Parts need no connection with each other, and one that was killed goes on like a sweep; `research.parts` joins them.
    `about` is kept with the part, as JSON. Everything else is as in `swept`.
    """
    layout.check_lanes(lanes)
    layout.check_memory(memory)
    options = Options(store, lanes, memory or layout.memory(), checkpoint, progress or _silent, giving=False)
    try:
        ranges, addresses = planned.part(*part), planned.addresses()
        store.save_part(
            {"part": part, "addresses": addresses, "runs": planned.cell_runs, "ranges": ranges, "about": about or {}}
        )
        with Work(planned, ranges, addresses, None, options) as work:
            for number, (first, last) in enumerate(ranges):
                if first < last:
                    work.cell(number, lambda first, last, arrays: None)
    finally:
        planned.forget()


def _silent(done: float, runs: int, cell: str) -> None:
    pass


def _described(laid: Grid) -> str:
    """The grid's labels: the same cells may also stand along other axes, or under other names."""
    return json.dumps([laid.shape, laid.coordinates()], default=lambda values: values.tolist())
