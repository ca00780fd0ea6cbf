"""The axes of a sweep: which parameters vary, over which values, and which of them need a program of their own.

The signature of `simulate` is the configuration: left of `*` stand traced numbers, whose values share one compiled
program; right of it stands structure (shapes, functions, loop lengths), one program for each value.
"""

import difflib
import inspect
import itertools
import math
import numbers
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

RESERVED = ("seed", "step", "diverged", "diverged_at")


class Parameter(NamedTuple):
    """One parameter of `simulate`: whether it is traced, what its annotation says, its default."""

    name: str
    traced: bool
    annotation: Any
    default: Any

    @property
    def kind(self) -> str:
        """What the parameter takes, in words."""
        if typing.get_origin(self.annotation) is Literal:
            return " | ".join(map(repr, typing.get_args(self.annotation)))
        if self.annotation in (int, float, bool, str):
            return self.annotation.__name__
        return "number" if self.traced else "value"


class Axis(NamedTuple):
    """A dimension of the grid: `names` move together through `values`, one tuple a position."""

    names: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]

    @property
    def dimension(self) -> str:
        """The dimension's name: the parameter's own, or the zipped names joined by `+`."""
        return "+".join(self.names)


class Grid(NamedTuple):
    """The product of all axes, with the parameters that stay fixed."""

    axes: tuple[Axis, ...]
    fixed: Mapping[str, Any]
    traced: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Positions along each axis."""
        return tuple(len(axis.values) for axis in self.axes)

    def points(self) -> Iterator[dict[str, Any]]:
        """Every parameter's value at each grid point, in row-major order."""
        for combination in itertools.product(*(axis.values for axis in self.axes)):
            values = dict(self.fixed)
            for axis, value in zip(self.axes, combination, strict=True):
                values.update(zip(axis.names, value, strict=True))
            yield values

    def cells(self) -> list[tuple[dict[str, Any], np.ndarray, dict[str, np.ndarray]]]:
        """The static cells: (static values, indices of their grid points, traced values at these points)."""
        cells: dict[tuple, tuple[dict, list, list]] = {}
        for index, point in enumerate(self.points()):
            static = {name: value for name, value in point.items() if name not in self.traced}
            _, indices, members = cells.setdefault(tuple(map(_identity, static.values())), (static, [], []))
            indices.append(index)
            members.append(point)
        return [
            (static, np.array(indices), {name: np.array([point[name] for point in points]) for name in self.traced})
            for static, indices, points in cells.values()
        ]

    def coordinates(self) -> dict[str, Any]:
        """Coordinates for xarray: a label for each position of each axis, and the fixed parameters as scalars."""
        coordinates: dict[str, Any] = {name: label(value) for name, value in self.fixed.items()}
        for axis in self.axes:
            for name, column in zip(axis.names, zip(*axis.values, strict=True), strict=True):
                coordinates[name] = (axis.dimension, _column(column))
        return coordinates


def label(value: Any) -> Any:
    """How a parameter's value is written in a coordinate: numbers and text as they are, functions by name."""
    if isinstance(value, (str, bool, numbers.Integral, numbers.Real)):
        return value
    if hasattr(value, "func") and hasattr(value, "keywords"):
        bound = [*map(label, value.args), *(f"{name}={label(given)}" for name, given in value.keywords.items())]
        return f"{label(value.func)}({', '.join(map(str, bound))})"
    return getattr(value, "__name__", None) or str(value)


def parameters(simulate: Callable) -> dict[str, Parameter]:
    """The parameters of `simulate` after its key, by name.

    Raises TypeError for a signature the engine cannot drive (no key, *args, **kwargs).
    """
    name = label(simulate)
    signature = inspect.signature(simulate)
    hints = typing.get_type_hints(simulate) if inspect.isfunction(simulate) else {}
    found: dict[str, Parameter] = {}
    for position, parameter in enumerate(signature.parameters.values()):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{name} must name its parameters: *{parameter.name} cannot be an axis")
        if position == 0:
            if parameter.kind is parameter.KEYWORD_ONLY:
                raise TypeError(f"{name} must take the random key as its first, positional parameter")
            continue
        if parameter.name in RESERVED:
            raise TypeError(f"{name}: the name {parameter.name!r} is taken by the sweep itself")
        traced = parameter.kind is not parameter.KEYWORD_ONLY
        annotation = hints.get(parameter.name, parameter.annotation)
        found[parameter.name] = Parameter(parameter.name, traced, annotation, parameter.default)
    if not signature.parameters:
        raise TypeError(f"{name} must take the random key as its first parameter")
    return found


def grid(simulate: Callable, axes: Mapping[Any, Any]) -> Grid:
    """The grid that `axes` describes over the parameters of `simulate`.

    A number (or, for structure, a single value) fixes a parameter; a 1-d sequence makes it an axis; a tuple of names
    with a sequence of tuples moves several parameters together. Raises ValueError naming the axis, what it got and
    what it takes, for a name that is no parameter, an empty axis, a duplicate, or a value of the wrong kind.
    """
    known = parameters(simulate)
    seen: set[str] = set()
    made: list[Axis] = []
    fixed: dict[str, Any] = {}
    for name, values in axes.items():
        names = name if isinstance(name, tuple) else (name,)
        for each in names:
            _known(each, known, simulate)
            if each in seen:
                raise ValueError(f"axis {each!r} is given twice")
            seen.add(each)
        if not isinstance(name, tuple) and _single(values):
            fixed[name] = _checked(known[name], values)
            continue
        made.append(_axis(names, values, known))
    for parameter in known.values():
        if parameter.name not in seen:
            if parameter.default is inspect.Parameter.empty:
                raise ValueError(f"{label(simulate)} needs a value for {parameter.name!r} ({parameter.kind})")
            fixed[parameter.name] = _checked(parameter, parameter.default)
    order = [name for name in known if name in fixed]
    return Grid(
        axes=tuple(made),
        fixed={name: fixed[name] for name in order},
        traced=tuple(name for name, parameter in known.items() if parameter.traced),
    )


def _identity(value: Any) -> Any:
    """What tells two static values apart: equality where they can be hashed, else which object they are."""
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


def _known(name: Any, known: Mapping[str, Parameter], simulate: Callable) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    takes = ", ".join(f"{each.name} ({each.kind})" for each in known.values()) or "no parameter"
    raise ValueError(f"{name!r} is no parameter of {label(simulate)}{hint}; it takes {takes}")


def _single(values: Any) -> bool:
    return isinstance(values, str) or np.ndim(values) == 0 if _arraylike(values) else not _sequence(values)


def _arraylike(values: Any) -> bool:
    return isinstance(values, (str, numbers.Number)) or hasattr(values, "ndim")


def _sequence(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str)


def _axis(names: tuple[str, ...], values: Any, known: Mapping[str, Parameter]) -> Axis:
    written = names[0] if len(names) == 1 else names
    if hasattr(values, "ndim"):
        if values.ndim != 1 + (len(names) > 1):
            raise ValueError(f"axis {written!r} takes a 1-d sequence, got an array of shape {values.shape}")
        values = np.asarray(values).tolist()
    if not _sequence(values):
        raise ValueError(f"axis {written!r} takes a sequence of values, got {values!r}")
    if not len(values):
        raise ValueError(f"axis {written!r} is empty")
    rows = []
    for value in values:
        row = (value,) if len(names) == 1 else value
        if len(names) > 1 and not (_sequence(row) and len(row) == len(names)):
            raise ValueError(f"axis {written!r} takes tuples of {len(names)} values, got {value!r}")
        rows.append(tuple(_checked(known[name], each) for name, each in zip(names, row, strict=True)))
    labels = [tuple(label(each) for each in row) for row in rows]
    for position, row in enumerate(labels):
        if row in labels[:position]:
            raise ValueError(f"axis {written!r} holds {row[0] if len(row) == 1 else row!r} twice")
    return Axis(names, tuple(rows))


def _checked(parameter: Parameter, value: Any) -> Any:
    """The value as the engine keeps it, or an error that says what the parameter takes."""
    problem = f"{parameter.name!r} takes {parameter.kind}, got {value!r}"
    if parameter.traced:
        if hasattr(value, "item") and np.ndim(value) == 0:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ValueError(f"axis {parameter.name!r} takes finite numbers, got {value!r}")
        number = float(value)
        if parameter.annotation is int and not number.is_integer():
            raise ValueError(problem)
        return int(number) if parameter.annotation is int else number
    annotation = parameter.annotation
    if typing.get_origin(annotation) is Literal and value not in typing.get_args(annotation):
        raise ValueError(problem)
    if annotation is int and (isinstance(value, bool) or not isinstance(value, numbers.Integral)):
        raise ValueError(problem)
    if annotation is float and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
        raise ValueError(problem)
    if annotation in (str, bool) and not isinstance(value, annotation):
        raise ValueError(problem)
    return value


def _column(values: Sequence[Any]) -> np.ndarray:
    labels = [label(value) for value in values]
    if all(isinstance(each, (numbers.Real, np.bool_)) for each in labels):
        return np.array(labels)
    return np.array([str(each) for each in labels])
