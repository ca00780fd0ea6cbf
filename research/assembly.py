"""From the arrays of static cells to one labelled Dataset, and back.

Cells may differ in their observables, their recorded steps and the sizes of their own dimensions: the Dataset is the
union, NaN where a cell has nothing.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from research.axes import Grid
from research.program import Shape

Arrays = dict[str, np.ndarray]
ALWAYS = ("diverged", "diverged_at")


class Part(NamedTuple):
    """A finished cell: its points in the grid, its arrays, what was given and which value of it each run has."""

    points: np.ndarray
    shape: Shape
    arrays: Arrays
    given: dict[str, list[np.ndarray]]
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


def assembled(grid: Grid, seeds: int, parts: Sequence[Part]) -> xr.Dataset:
    """The Dataset of dimensions (seed, *axes, step, own), with a coordinate for every axis and fixed parameter."""
    outer = ("seed", *(axis.dimension for axis in grid.axes))
    points = int(np.prod(grid.shape, dtype=int))
    folded = lambda flat: flat.reshape(seeds, *grid.shape, *flat.shape[2:])
    steps = np.unique(np.concatenate([part.shape.at for part in parts]))
    timed = any(part.shape.timed for part in parts)
    sizes: dict[str, int] = {}
    for part in parts:
        for dimension, size in part.shape.sizes.items():
            sizes[dimension] = max(sizes.get(dimension, 0), size)
    variables: dict[str, tuple] = {}
    for name in dict.fromkeys(name for part in parts for name in part.shape.observables):
        holders = [part for part in parts if name in part.shape.observables]
        own = holders[0].shape.observables[name][0]
        flat = np.full((seeds, points, len(steps), *(sizes[d] for d in own)), np.nan, holders[0].arrays[name].dtype)
        for part in holders:
            at, leaf = np.searchsorted(steps, part.shape.at), part.shape.observables[name][1]
            flat[np.ix_(np.arange(seeds), part.points, at, *map(np.arange, leaf.shape))] = part.arrays[name]
        variables[name] = ((*outer, "step", *own), folded(flat)) if timed else ((*outer, *own), folded(flat[:, :, 0]))
    for name in ALWAYS:
        flat = np.zeros((seeds, points), parts[0].arrays[name].dtype)
        for part in parts:
            flat[:, part.points] = part.arrays[name]
        variables[name] = (outer, folded(flat))
    for name in dict.fromkeys(name for part in parts for name in part.given):
        own = next(part.shape.given[name][0] for part in parts if name in part.given)
        table, index = _distinct(name, [sizes[dimension] for dimension in own], (seeds, points), parts)
        variables[name] = _reduced(outer, own, table, folded(index))
    coordinates = {"seed": np.arange(seeds), **({"step": steps} if timed else {}), **grid.coordinates()}
    return xr.Dataset(variables, coordinates)


def cut(stored: xr.Dataset | None, address: str, shape: Shape) -> Arrays | None:
    """The arrays of the cell with that content address, cut out of an earlier result; None if it is not there."""
    addresses = [] if stored is None else stored.attrs["cells"].split()
    if stored is None or address not in addresses:
        return None
    points = json.loads(stored.attrs["points"])[addresses.index(address)]
    outer = stored["diverged"].dims
    flat = lambda name: stored[name].values.reshape(stored.sizes["seed"], -1, *stored[name].shape[len(outer) :])
    arrays = {name: flat(name)[:, points] for name in ALWAYS}
    for name, (own, leaf) in shape.observables.items():
        values = flat(name)[:, points]
        if "step" in stored[name].dims:
            values = values[:, :, np.searchsorted(stored["step"].values, shape.at)]
        else:
            values = values[:, :, None]
        inside: tuple = (..., *(slice(0, size) for size in leaf.shape))
        arrays[name] = values[inside] if own else values
    return arrays


def _distinct(
    name: str, sizes: list[int], runs: tuple[int, int], parts: Sequence[Part]
) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values of what is given, padded to one size, and for each run which one it has (0: none)."""
    dtype = next(part.given[name][0].dtype for part in parts if name in part.given)
    rows = [np.full(sizes, np.nan, dtype if np.issubdtype(dtype, np.floating) else float)]
    index = np.zeros(runs, int)
    known: dict[bytes, int] = {}
    for part in parts:
        if name in part.given:
            place = []
            for value in part.given[name]:
                padded = rows[0].copy()
                padded[tuple(slice(0, size) for size in value.shape)] = value
                place.append(known.setdefault(padded.tobytes(), len(rows)))
                if place[-1] == len(rows):
                    rows.append(padded)
            index[:, part.points] = np.array(place)[part.which]
    return np.stack(rows), index


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
