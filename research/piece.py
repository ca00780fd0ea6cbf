"""A pure function of one run as a jaxpr, with the data sets it closes over as arguments instead of constants.

Constants would be copied into the program's text, its compilation and every cache of it; as arguments they are one
array on each device for the whole sweep, and cells that differ in nothing but their data share one compiled program.
"""

import functools
import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

from research.orientation import oriented

Decomposing = Literal["nothing", "matrices", "batches"]
DATA = 1024  # bytes from which a constant is data; smaller ones are left to the compiler's constant folding


class Piece:
    """`function(*arguments)`, traced once: `piece(piece.data, *arguments)` computes it, under any transformation."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        closed, self.answer = jax.make_jaxpr(function, return_shape=True)(*arguments)
        self.arguments = arguments
        self.jaxpr, self.constants = closed.jaxpr, closed.consts
        self.places = [i for i, each in enumerate(self.constants) if _is_data(each)]

    @property
    def data(self) -> list[np.ndarray]:
        """The large constants."""
        return [np.asarray(self.constants[place]) for place in self.places]

    def __call__(self, data: list[Any], *arguments: Any) -> Any:
        """What `function` answers, with `data` in place of its large constants."""
        return _typed(self.answer, self._computed(data, *jax.tree.leaves(arguments)))

    @functools.cached_property
    def turned(self) -> Callable:
        """What computes the same, with matrices turned where that pays on a CPU (`orientation`): rounded elsewhere.

        To be asked for outside of `shard_map`, whose mesh the program would keep.
        """
        program = jaxpr_as_fun(oriented(jax.make_jaxpr(self._computed)(self.data, *jax.tree.leaves(self.arguments))))
        answer = self.answer  # not the piece, which would keep itself alive
        return lambda data, *arguments: _typed(answer, program(*data, *jax.tree.leaves(arguments)))

    def _computed(self, data: list[Any], *leaves: Any) -> list[Any]:
        constants = list(self.constants)
        for place, value in zip(self.places, data, strict=True):
            constants[place] = value
        return jaxpr_as_fun(ClosedJaxpr(self.jaxpr, constants))(*leaves)

    @functools.cached_property
    def text(self) -> str:
        """The lowered program, without its data."""

        def piece(data: list[Any], *arguments: Any) -> Any:
            return self(data, *arguments)

        return jax.jit(piece).trace(self.data, *self.arguments).lower(lowering_platforms=("cpu",)).as_text()

    @property
    def decomposing(self) -> Decomposing:
        """Whether the program calls LAPACK or BLAS on a CPU, and if so with single matrices or with batches of them."""
        operands = re.findall(r"custom_call @(?:lapack|blas)_\w+\(.*?\) .*: \(tensor<([^>]*)>", self.text)
        if not operands:
            return "nothing"
        return "batches" if any(operand.count("x") > 2 for operand in operands) else "matrices"

    @property
    def widest(self) -> int:
        """Bytes of the largest array that is made inside a loop in a loop: in a run's step, if anywhere."""
        return max((_size(variable) for variable in _inner(self.jaxpr)), default=0)

    @functools.cached_property
    def address(self) -> str:
        """The content address: the lowered program and the bytes of its data."""
        digest = hashlib.sha256(self.text.encode())
        for value in self.data:
            digest.update(repr((value.shape, str(value.dtype))).encode() + value.tobytes())
        return digest.hexdigest()


def _typed(answer: Any, flat: list[Any]) -> Any:
    """The values in the answer's structure, as arrays: some of them are literals."""
    shapes, structure = jax.tree.flatten(answer)
    typed = [jnp.asarray(value, shape.dtype) for value, shape in zip(flat, shapes, strict=True)]
    return jax.tree.unflatten(structure, typed)


def _inner(jaxpr: Any, loops: int = 0) -> Iterator[Any]:
    """The variables that equations inside two loops or more define."""
    for equation in jaxpr.eqns:
        if loops > 1:
            yield from equation.outvars
        inside = loops + (equation.primitive.name in ("while", "scan"))
        for parameter in equation.params.values():
            for part in parameter if isinstance(parameter, (tuple, list)) else (parameter,):
                if isinstance(part, (ClosedJaxpr, Jaxpr)):
                    yield from _inner(part.jaxpr if isinstance(part, ClosedJaxpr) else part, inside)


def _size(variable: Any) -> int:
    dtype = variable.aval.dtype
    width = 8 if jnp.issubdtype(dtype, jax.dtypes.extended) else dtype.itemsize
    return int(np.prod(variable.aval.shape, dtype=int)) * width


def _is_data(constant: Any) -> bool:
    dtype = getattr(constant, "dtype", None)
    if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended):
        return False
    return int(np.prod(constant.shape, dtype=int)) * dtype.itemsize >= DATA


@jax.custom_batching.custom_vmap
def anyone(condition: Any) -> Any:
    """Whether the condition holds for any run of the batch this one is computed in: one answer for all of them.

    So a loop's length stays common to the batch, and can be nothing at all.
    """
    return condition


@anyone.def_vmap
def _(axis_size: int, batched: list[bool], condition: Any) -> tuple[Any, bool]:
    return jnp.any(condition), False
