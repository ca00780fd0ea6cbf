"""What single equations of a jaxpr answer when matrices among their operands lie turned, or come to lie turned.

The rules know the equations of which training consists: products, what is done entry by entry, sums along an axis,
broadcasts, transpositions, and the picking of single entries. `orientation` decides where they are used.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from jax import lax

ELEMENTWISE = """
    abs add add_any and atan2 cbrt ceil clamp convert_element_type copy cos cosh div eq erf erf_inv erfc exp exp2 expm1
    floor ge gt integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg not or pow rem round rsqrt
    select_n sign sin sinh sqrt square stop_gradient sub tan tanh xor
""".split()  # noqa: SIM905  one name a line would be a page
REDUCTIONS = ("argmax", "argmin", *(f"reduce_{name}" for name in ("and", "max", "min", "or", "prod", "sum")))
PICKING = ("gather", "scatter-add")
COLLAPSED = ("collapsed_slice_dims", "inserted_window_dims")  # the operand's axes in an equation's dimension numbers
ORDERED = ("operand_batching_dims", "scatter_dims_to_operand_dims", "start_index_map")


class Lying(NamedTuple):
    """A value and whether it lies turned: a matrix whose array has its axes the other way round."""

    array: Any
    turned: bool = False


class Tally:
    """Entries of products, those of them that came to lie turned, and entries that had to be moved in memory for it."""

    def __init__(self) -> None:
        self.products = self.turned = self.moved = 0

    @property
    def pays(self) -> bool:
        """Whether most entries of products came to lie turned, and twice as many as had to be moved."""
        return 2 * self.turned > self.products and self.turned > 2 * self.moved

    def array(self, value: Lying, turned: bool = False) -> Any:
        """The value's array as it lies upright, or turned."""
        if value.turned == turned:
            return value.array
        self.moved += value.array.size
        return lax.transpose(value.array, (1, 0))


Rule = Callable[[Any, list[Lying], Tally], list[Lying] | None]


def longer_first(shape: Sequence[int]) -> bool:
    """Whether this is the shape of a matrix whose rows are shorter than its columns."""
    return len(shape) == 2 and shape[0] > shape[1]


def _places(value: Lying, axes: Sequence[int]) -> tuple[int, ...]:
    """Where these axes of a value are in its array."""
    return tuple(1 - axis for axis in axes) if value.turned else tuple(axes)


def _elementwise(equation: Any, values: list[Lying], tally: Tally) -> list[Lying]:
    turned = any(value.turned for value in values)
    arrays = [tally.array(value, turned) if np.ndim(value.array) == 2 else value.array for value in values]
    return [Lying(equation.primitive.bind(*arrays, **equation.params), turned)]


def _product(equation: Any, values: list[Lying], tally: Tally) -> list[Lying] | None:
    contracted, batched = equation.params["dimension_numbers"]
    shape = equation.outvars[0].aval.shape
    tally.products += prod(shape)
    if any(batched) or len(shape) > 2 or any(np.ndim(value.array) not in (1, 2) for value in values):
        return None
    sides = [(value.array, _places(value, axes)) for value, axes in zip(values, contracted, strict=True)]
    precision, turned = equation.params["precision"], longer_first(shape)
    if turned:
        sides, precision = sides[::-1], precision[::-1] if isinstance(precision, tuple) else precision
    (left, here), (right, there) = sides
    kind = equation.params["preferred_element_type"]
    answer = lax.dot_general(left, right, ((here, there), ((), ())), precision=precision, preferred_element_type=kind)
    tally.turned += answer.size * turned
    return [Lying(answer, turned)]


def _reduced(equation: Any, values: list[Lying], tally: Tally) -> list[Lying] | None:
    (value,), axes = values, equation.params["axes"]
    if not axes:
        return None
    return [Lying(equation.primitive.bind(value.array, **{**equation.params, "axes": _places(value, axes)}))]


def _transposed(equation: Any, values: list[Lying], tally: Tally) -> list[Lying] | None:
    (value,) = values
    return [Lying(value.array, not value.turned)] if equation.params["permutation"] == (1, 0) else None


def _broadcast(equation: Any, values: list[Lying], tally: Tally) -> list[Lying] | None:
    shape, axes = equation.params["shape"], equation.params["broadcast_dimensions"]
    value, *sizes = values
    if sizes or len(shape) != 2 or not (value.turned or longer_first(shape)):
        return None
    array = tally.array(value, True) if len(axes) == 2 else value.array
    return [Lying(lax.broadcast_in_dim(array, shape[::-1], sorted(1 - axis for axis in axes)), True)]


def _flattened(equation: Any, values: list[Lying], tally: Tally) -> list[Lying] | None:
    value, *sizes = values
    shape = equation.outvars[0].aval.shape
    if sizes or not value.turned or 1 not in value.array.shape or len(shape) == 2:
        return None
    return [Lying(lax.reshape(value.array, shape))]


def _picked(equation: Any, values: list[Lying], tally: Tally) -> list[Lying] | None:
    """Single entries, as a loss takes those of the true labels and its gradient puts them back."""
    taken, *rest = values
    putting = equation.primitive.name != "gather"
    numbers = equation.params["dimension_numbers"]
    windows = numbers.update_window_dims if putting else numbers.offset_dims
    if not taken.turned or windows or len(numbers.operand_batching_dims) > 1:
        return None
    told = {name: _places(taken, getattr(numbers, name)) for name in ORDERED if hasattr(numbers, name)}
    told |= {
        name: tuple(sorted(_places(taken, getattr(numbers, name)))) for name in COLLAPSED if hasattr(numbers, name)
    }
    params = {**equation.params, "dimension_numbers": numbers._replace(**told)}
    answer = equation.primitive.bind(taken.array, *map(tally.array, rest), **params)
    return [Lying(answer, putting)]


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(REDUCTIONS, _reduced),
    **dict.fromkeys(PICKING, _picked),
    "dot_general": _product,
    "transpose": _transposed,
    "broadcast_in_dim": _broadcast,
    "reshape": _flattened,
    "squeeze": _flattened,
}
