"""Annotations are labels: `Float[Array, "sample feature"]` names the dimensions of a result.

The same string documents an array, is checked at run time in the tests, and becomes its xarray dimensions. An oracle
annotated alike is lifted over every other axis of a dataset by name, with no axis arithmetic anywhere.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import AbstractArray

from research.cores import answers


def dimensions(annotation: Any, owner: str) -> tuple[str, ...]:
    """The dimension names in a jaxtyping annotation, `()` for a plain number; `owner` names the bearer in errors.

    Raises TypeError where there is no annotation to read names from, or it uses more than plain names.
    """
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next((part for part in typing.get_args(annotation) if part is not type(None)), annotation)
    if annotation in (float, int, bool, str):
        return ()
    if not (inspect.isclass(annotation) and issubclass(annotation, AbstractArray)):
        raise TypeError(f'{owner} needs an annotation such as Float[Array, "feature"]; it has {annotation!r}')
    names = tuple(annotation.dim_str.split())
    if not all(name.isidentifier() for name in names):
        raise TypeError(f"{owner}: dimensions must be plain names, got {annotation.dim_str!r}")
    if len(set(names)) < len(names):
        raise TypeError(f"{owner}: a dimension may stand only once, got {annotation.dim_str!r}")
    return names


def fields(record: type) -> dict[str, tuple[str, ...]]:
    """Field name -> dimension names of a NamedTuple class of annotated arrays.

    Raises TypeError for anything else.
    """
    if not (isinstance(record, type) and issubclass(record, tuple) and hasattr(record, "_fields")):
        raise TypeError(f"expected a NamedTuple of annotated arrays, got {record!r}")
    hints = typing.get_type_hints(record, include_extras=True)
    return {name: dimensions(hints.get(name), f"{record.__name__}.{name}") for name in record._fields}


def lift(oracle: Callable, *arguments: Any, **parameters: Any) -> Any:
    """The oracle's answer for every cell of the arguments' other axes: a DataArray, or a Dataset for a NamedTuple.

    `arguments` are DataArrays (or plain values) that carry at least the dimensions of the oracle's own annotations;
    `parameters` are handed on as they are. Entries that are NaN throughout along a dimension are padding (cells of
    different size share one array): they are cut off before the call and put back after it, and where nothing but
    padding is left the oracle is not asked and the answer is NaN. Equal inputs are asked once, and where that takes
    long, on all cores (`research.cores`).
    """
    hints = typing.get_type_hints(oracle, include_extras=True)
    names = list(inspect.signature(oracle).parameters)[: len(arguments)]
    called = getattr(oracle, "__name__", "oracle")
    cores = [dimensions(hints.get(name), f"{called}({name})") for name in names]
    answer = hints.get("return")
    record = isinstance(answer, type) and issubclass(answer, tuple) and hasattr(answer, "_fields")
    outputs: Mapping[str, tuple[str, ...]] = (
        fields(answer) if record else {called: dimensions(answer, f"{called} -> ")}  # type: ignore[arg-type]
    )
    for name, core, argument in zip(names, cores, arguments, strict=True):
        missing = set(core) - set(getattr(argument, "dims", core))
        if missing:
            raise ValueError(f"{called}({name}) needs the dimensions {core}, got {tuple(argument.dims)}")

    distinct: dict[tuple, tuple[np.ndarray, ...]] = {}

    def noted(*values: Any) -> int:
        return len(distinct.setdefault(_address(values), tuple(map(np.asarray, values))))

    over: dict[str, Any] = {"input_core_dims": [list(core) for core in cores], "vectorize": True, "keep_attrs": False}
    xr.apply_ufunc(noted, *arguments, **over)
    one = functools.partial(_without_padding, oracle, cores, list(outputs.values()), parameters)
    known = dict(zip(distinct, answers(one, list(distinct.values())), strict=True))
    single = len(outputs) == 1
    lifted = xr.apply_ufunc(
        lambda *values: known[_address(values)][0] if single else known[_address(values)],
        *arguments,
        output_core_dims=[list(core) for core in outputs.values()],
        **over,
    )
    if not record:
        return lifted.rename(called) if isinstance(lifted, xr.DataArray) else lifted
    return xr.Dataset(dict(zip(outputs, (lifted,) if single else lifted, strict=True)))


def _address(values: tuple) -> tuple:
    return tuple((value.shape, value.tobytes()) for value in map(np.asarray, values))


def _without_padding(
    oracle: Callable,
    cores: list[tuple[str, ...]],
    outputs: list[tuple[str, ...]],
    parameters: Mapping[str, Any],
    *values: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """The oracle's outputs on the arrays without their padding, padded back to the full sizes."""
    kept: dict[str, np.ndarray] = {}
    missing = False
    for core, value in zip(cores, values, strict=True):
        present = ~np.isnan(value) if np.issubdtype(value.dtype, np.inexact) else np.ones(value.shape, bool)
        missing = missing or not present.any()
        for position, dimension in enumerate(core):
            others = tuple(axis for axis in range(len(core)) if axis != position)
            inside = present.any(axis=others)
            kept[dimension] = kept.get(dimension, np.ones_like(inside)) & inside
    if missing:
        unknown = {dimension for output in outputs for dimension in output} - set(kept)
        if unknown:
            raise ValueError(f"{oracle} has nothing to work on, and the size of {sorted(unknown)} is not known")
        return tuple(np.full([kept[dimension].size for dimension in output], np.nan) for output in outputs)
    cut = [
        value[np.ix_(*(kept[dimension] for dimension in core))] if core else value.item()
        for core, value in zip(cores, values, strict=True)
    ]
    answer = oracle(*cut, **parameters)
    parts = answer if len(outputs) > 1 or hasattr(answer, "_fields") else (answer,)
    padded = []
    for output, part in zip(outputs, parts, strict=True):
        part = np.asarray(part, dtype=float)
        sizes = [kept[d].size if d in kept else part.shape[i] for i, d in enumerate(output)]
        whole = np.full(sizes, np.nan)
        places = [np.flatnonzero(kept[d]) if d in kept else np.arange(n) for d, n in zip(output, sizes, strict=True)]
        whole[np.ix_(*places) if output else ()] = part
        padded.append(whole)
    return tuple(padded)


def select(dataset: xr.Dataset, **conditions: Any) -> xr.Dataset:
    """The runs whose parameters have the given values, whether they are axes, parts of a zip, or fixed.

    A condition is a value, a collection of values, or a predicate of one value. Dimensions stay, and may become empty;
    where a fixed parameter does not meet its condition no seed is left.
    """
    for name, condition in conditions.items():
        if name not in dataset.coords:
            raise ValueError(f"{name!r} is no parameter of this dataset; it has {', '.join(map(str, dataset.coords))}")
        coordinate = dataset[name]
        values = np.atleast_1d(coordinate.values).tolist()
        if callable(condition):
            met = [bool(condition(value)) for value in values]
        else:
            wanted = list(condition) if isinstance(condition, (list, tuple, set, frozenset)) else [condition]
            met = [value in wanted for value in values]
        if coordinate.ndim:
            dataset = dataset.isel({coordinate.dims[0]: np.flatnonzero(met)})
        elif not met[0]:
            dataset = dataset.isel(seed=[])
    return dataset


def largest(dataset: xr.Dataset, parameter: str) -> xr.Dataset:
    """The runs in which the parameter is largest; the dataset itself where there are none."""
    return select(dataset, **{parameter: dataset[parameter].max().item()}) if dataset.diverged.size else dataset


def middle_value(parameter: xr.DataArray) -> float:
    """The median of a parameter over the arms; of an even number of them the upper one, which is a value of an arm."""
    return float(np.sort(np.atleast_1d(parameter.values))[parameter.size // 2])


def small_steps(runs: xr.Dataset, momentum: float, limit: float) -> xr.Dataset:
    """The runs of that momentum β whose learning rate times (1 + β)/(1 − β) is at most `limit`.

    That is the size of the next term where a law of the heavy ball holds to leading order in its step.
    """
    return select(runs, momentum=momentum, learning_rate=lambda rate: rate <= limit * (1 - momentum) / (1 + momentum))


def named_by(parameter: xr.DataArray, values: Mapping[Any, xr.DataArray]) -> xr.DataArray:
    """Of each run the entry of `values` that its parameter names, NaN where there is none."""
    chosen = xr.full_like(next(iter(values.values())), np.nan)
    for name, entry in values.items():
        chosen = xr.where(parameter == name, entry, chosen)
    return chosen


def sound(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with all that diverged runs recorded as NaN, so that no slope or extreme is read off their beginning.

    A statistic over steps may leave out NaN, as it must leave out the padding of shorter runs.
    """
    recorded = [name for name, values in dataset.data_vars.items() if "step" in values.dims]
    return dataset.assign({name: dataset[name].where(~dataset.diverged) for name in recorded})


def check_at_most(dataset: xr.Dataset, parameter: str, limit: str) -> None:
    """Raise ValueError where a traced parameter, which `simulate` cannot look at, goes beyond the size of an array."""
    if bool((dataset[parameter] > dataset[limit]).any()):
        most, given = float(dataset[limit].min()), float(dataset[parameter].max())
        raise ValueError(f"{parameter} takes at most {limit} = {most:g}, got {given:g}")


def per_seed(values: xr.DataArray, *reduce: str) -> np.ndarray:
    """One number a seed: max, or each `reduce` (min, mean, median, sum …) over every other dimension, NaN not skipped.

    Of several the rows are in their order, seeds last: what `every_seed` takes for a statement about all runs.
    """
    others = [dimension for dimension in values.dims if dimension != "seed"]
    if not all(values.sizes.values()):
        rows = [np.full(values.sizes["seed"], np.nan) for _ in reduce or ("max",)]
    else:
        reduced = (getattr(values, each)(others, skipna=False) if others else values for each in reduce or ("max",))
        rows = [np.atleast_1d(row.values) for row in reduced]
    return np.stack(rows) if len(rows) > 1 else rows[0]


def chosen_per_seed(values: xr.DataArray, chosen: xr.DataArray, *reduce: str) -> np.ndarray:
    """As `per_seed`, over the chosen runs of each seed.

    Seeds that have none are left out; NaN where the value of a chosen run is not known.
    """
    values, chosen = xr.broadcast(values, chosen)
    others = [dimension for dimension in chosen.dims if dimension != "seed"]
    unknown, some = (chosen & values.isnull()).any(others), np.atleast_1d(chosen.any(others).values)
    reduced = (getattr(values.where(chosen), each)(others).where(~unknown) for each in reduce)
    rows = [np.atleast_1d(row.values)[some] for row in reduced]
    return np.stack(rows) if len(rows) > 1 else rows[0]


def first_arm(dataset: xr.Dataset) -> xr.Dataset:
    """The first grid point of these runs: its dataset of dimensions seed, step and own ones."""
    return dataset.isel({dimension: 0 for dimension in dataset.diverged.dims if dimension != "seed"})


def recorded(run: xr.Dataset, variable: str = "loss") -> xr.Dataset:
    """The seeds that did not diverge, at the steps at which they were looked at: others' steps are padding."""
    kept = run.isel(seed=np.flatnonzero(~run.diverged.values))
    return kept.isel(step=np.flatnonzero(kept[variable].notnull().any("seed").values))


def arms(dataset: xr.Dataset) -> Iterator[tuple[dict[str, Any], xr.Dataset]]:
    """Each grid point: its parameters by name, and its dataset of dimensions seed, step and own ones."""
    axes = [dimension for dimension in dataset["diverged"].dims if dimension != "seed"]
    for position in np.ndindex(*(dataset.sizes[dimension] for dimension in axes)):
        point = dataset.isel(dict(zip(axes, position, strict=True)))
        yield {str(name): value.item() for name, value in point.coords.items() if not value.ndim}, point


def table(dataset: xr.Dataset, variable: str, *parameters: str) -> xr.DataArray:
    """The variable by seed and by the values of these parameters, whether they are axes, parts of a zip, or fixed.

    The mean over every other dimension; NaN where there is no run, or one of them is NaN.
    """
    values = [np.unique(dataset[name].values) for name in parameters]
    rows = np.empty((dataset.sizes["seed"], *map(len, values)))
    for place in np.ndindex(rows.shape[1:]):
        chosen = {name: column[i] for name, column, i in zip(parameters, values, place, strict=True)}
        rows[(slice(None), *place)] = per_seed(select(dataset, **chosen)[variable], "mean")
    coordinates = dict(zip(parameters, values, strict=True))
    return xr.DataArray(rows, {"seed": dataset.seed, **coordinates}, ("seed", *parameters), name=variable)


def averaged(values: xr.DataArray, *dimensions: str) -> xr.DataArray:
    """The mean over all other dimensions, with these in that order; padding is left out."""
    return values.mean([each for each in values.dims if each not in dimensions]).transpose(*dimensions)


def at_step(values: xr.DataArray, step: xr.DataArray) -> xr.DataArray:
    """What was recorded at that step of each run, between recordings linear in ln(1 + step); NaN for a step that is."""
    return xr.apply_ufunc(
        np.interp,
        np.log1p(step),
        np.log1p(values.step),
        values,
        input_core_dims=[[], ["step"], ["step"]],
        vectorize=True,
    )


def norm(vectors: xr.DataArray, dimension: str = "feature") -> xr.DataArray:
    """The l2 norm along a dimension; padding (NaN) is left out, and NaN is what is nothing but padding."""
    return (vectors**2).sum(dimension, min_count=1) ** 0.5
