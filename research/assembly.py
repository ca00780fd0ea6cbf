"""From the arrays of static cells to one labelled Dataset, and back.

Cells may differ in their observables, their recorded steps and the sizes of their own dimensions: the Dataset is the
union, NaN where a cell has nothing.
"""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from research.axes import Grid
from research.program import Shape
from research.store import Arrays, reserve

ALWAYS = ("diverged", "diverged_at")


class Cell(NamedTuple):
    """What assembly knows of a static cell: its points in the grid, and its shape. Run r is (seed, point) = divmod."""

    points: np.ndarray
    shape: Shape


class Given(NamedTuple):
    """What a cell's runs are given: values by name along axis 0, and which of them is that of each (seed, point)."""

    values: Arrays
    which: np.ndarray


def check_names(grid: Grid, shapes: Sequence[Shape]) -> None:
    """Raise ValueError where an observable or a dimension of its own bears a name that is taken or ambiguous."""
    taken = {axis.dimension for axis in grid.axes} | set(grid.coordinates()) | {"seed", "step", *ALWAYS}
    own: dict[str, tuple[str, ...]] = {}
    for shape in shapes:
        for name, (dimensions, _) in [*shape.observables.items(), *shape.given.items()]:
            if own.setdefault(name, dimensions) != dimensions:
                raise ValueError(f"{name!r} has dimensions {dimensions} in one cell and {own[name]} in another")
        names = [*shape.observables, *shape.given]
        for name in [*names, *shape.sizes]:
            if name in taken:
                raise ValueError(f"{name!r} names an observable or its dimension, but also an axis of the sweep")
        for name in names:
            if names.count(name) > 1 or name in shape.sizes:
                raise ValueError(f"{name!r} stands for two things among observables, what is given, and dimensions")


class Assembly:
    """The records of all runs, filled block by block; in a nameless file in `folder` where they outgrow `memory`."""

    def __init__(self, grid: Grid, seeds: int, cells: Sequence[Cell], memory: int, folder: Path | None) -> None:
        self.grid, self.seeds, self.cells = grid, seeds, cells
        self.steps = np.unique(np.concatenate([cell.shape.at for cell in cells]))
        self.timed = any(cell.shape.timed for cell in cells)
        self.sizes: dict[str, int] = {}
        for cell in cells:
            for dimension, size in cell.shape.sizes.items():
                self.sizes[dimension] = max(self.sizes.get(dimension, 0), size)
        runs = (seeds, int(np.prod(grid.shape, dtype=int)))
        self.own = {name: own for cell in cells for name, (own, _) in cell.shape.observables.items()}
        types = {name: leaf.dtype for cell in cells for name, (_, leaf) in cell.shape.observables.items()}
        shapes = {
            name: (*runs, len(self.steps), *(self.sizes[dimension] for dimension in own))
            for name, own in self.own.items()
        }
        size = sum(int(np.prod(shape, dtype=int)) * types[name].itemsize for name, shape in shapes.items())
        folder = folder if size > memory else None
        self.records = {name: _room(shape, types[name], np.nan, folder) for name, shape in shapes.items()}
        self.always = {"diverged": np.zeros(runs, bool), "diverged_at": np.full(runs, -1)}

    def put(self, cell: int, first: int, last: int, arrays: Arrays) -> None:
        """Fill in the runs from `first` up to but without `last` of a cell."""
        points, shape = self.cells[cell]
        seed, place = np.divmod(np.arange(first, last), len(points))
        for name, flat in self.always.items():
            flat[seed, points[place]] = arrays[name]
        at = np.searchsorted(self.steps, shape.at)
        for name, (_, leaf) in shape.observables.items():
            inside: tuple = (seed[:, None], points[place][:, None], at, *(slice(0, size) for size in leaf.shape))
            self.records[name][inside] = arrays[name]

    def dataset(self, given: Sequence[Given]) -> xr.Dataset:
        """The Dataset of dimensions (seed, *axes, step, own), with a coordinate for every axis and fixed parameter."""
        outer = ("seed", *(axis.dimension for axis in self.grid.axes))
        folded = lambda flat: flat.reshape(self.seeds, *self.grid.shape, *flat.shape[2:])
        variables: dict[str, tuple] = {}
        for name, flat in self.records.items():
            own = self.own[name]
            timed, still = (*outer, "step", *own), (*outer, *own)
            variables[name] = (timed, folded(flat)) if self.timed else (still, folded(flat[:, :, 0]))
        variables |= {name: (outer, folded(flat)) for name, flat in self.always.items()}
        for name in dict.fromkeys(name for part in given for name in part.values):
            own = next(cell.shape.given[name][0] for cell in self.cells if name in cell.shape.given)
            table, index = self._distinct(name, own, given)
            variables[name] = _reduced(outer, own, table, folded(index))
        steps = {"step": self.steps} if self.timed else {}
        return xr.Dataset(variables, {"seed": np.arange(self.seeds), **steps, **self.grid.coordinates()})

    def _distinct(self, name: str, own: tuple[str, ...], given: Sequence[Given]) -> tuple[np.ndarray, np.ndarray]:
        """The distinct values of what is given, padded to one size, and for each run which one it has (0: none)."""
        dtype = next(part.values[name].dtype for part in given if name in part.values)
        blank = np.full(
            [self.sizes[dimension] for dimension in own],
            np.nan,
            dtype if np.issubdtype(dtype, np.floating) else float,
        )
        rows, index = [blank], np.zeros(self.always["diverged"].shape, int)
        known: dict[bytes, int] = {}
        for cell, part in zip(self.cells, given, strict=True):
            if name in part.values:
                place = []
                for value in part.values[name]:
                    padded = value.astype(blank.dtype, copy=False)
                    if value.shape != blank.shape:
                        padded = blank.copy()
                        padded[tuple(slice(0, size) for size in value.shape)] = value
                    place.append(known.setdefault(hashlib.sha256(padded.tobytes()).digest(), len(rows)))
                    if place[-1] == len(rows):
                        rows.append(padded)
                index[:, cell.points] = np.array(place)[part.which]
        return np.stack(rows), index


def _room(shape: tuple[int, ...], dtype: Any, fill: float, folder: Path | None) -> np.ndarray:
    """An array of `fill`, in memory or, given a folder, in a file there that no other process can see."""
    if folder is None:
        return np.full(shape, fill, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        reserve(file.fileno(), int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize)
        array = np.memmap(file, dtype, "w+", shape=shape)
    for row in array:
        row[...] = fill
    return array


def runs_of(stored: xr.Dataset, address: str) -> int:
    """How many runs of the cell with that content address an earlier result holds: its seeds may be fewer, or more."""
    addresses = stored.attrs["cells"].split()
    if address not in addresses:
        return 0
    return stored.sizes["seed"] * len(json.loads(stored.attrs["points"])[addresses.index(address)])


def cut(stored: xr.Dataset, address: str, shape: Shape) -> Arrays:
    """The arrays of all runs of the cell with that content address in an earlier result, seed by seed."""
    addresses = stored.attrs["cells"].split()
    points = json.loads(stored.attrs["points"])[addresses.index(address)]
    outer = len(stored["diverged"].dims)

    def rows(name: str) -> np.ndarray:
        values = stored[name].values
        values = values.reshape(values.shape[0], -1, *values.shape[outer:])[:, points]
        return values.reshape(-1, *values.shape[2:])

    arrays = {name: rows(name) for name in ALWAYS}
    for name, (_, leaf) in shape.observables.items():
        values = rows(name)
        timed = "step" in stored[name].dims
        values = values[:, np.searchsorted(stored["step"].values, shape.at)] if timed else values[:, None]
        arrays[name] = values[(slice(None), slice(None), *(slice(0, size) for size in leaf.shape))]
    return arrays


def _reduced(outer: tuple[str, ...], own: tuple[str, ...], table: np.ndarray, index: np.ndarray) -> tuple:
    """(dimensions, values) without the outer dimensions along which nothing differs."""
    kept = list(outer)
    for dimension in outer:
        axis = kept.index(dimension)
        first = np.take(index, [0], axis=axis)
        # one seed cannot tell whether the key matters
        if (index == first).all() and not (dimension == "seed" and index.shape[axis] == 1):
            index = first.squeeze(axis)
            kept.remove(dimension)
    return ((*kept, *own), table[index])
