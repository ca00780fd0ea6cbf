"""Which pointwise functions a program applies to which of its values: read off the program, whatever they are called.

An activation function need not be a module of its own: `nn.relu(x)` leaves no trace but what it computes. So the traced
program is run operation by operation, and every value carries what is known of it: that it is a function, entry by
entry, of one earlier value. The largest such functions, those whose results go into something else than a pointwise
operation, are what a layer's output, or its output after normalisation or a skip connection, has been put through.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from research.oracles.activations import ACTIVATIONS, Activation, leaky_relu

NAMES = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type cos cosh div eq
    erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg
    nextafter not or pow rem round rsqrt select_n sign sin sinh sqrt square sub tan tanh xor"""
POINTWISE = frozenset(NAMES.split())
MOVES = {"broadcast_in_dim", "expand_dims", "reshape", "squeeze", "transpose"}
KEEPS = {"copy", "copy_p", "name", "optimization_barrier", "reduce_precision", "sharding_constraint"}
CALLS = {"call", "checkpoint", "closed_call", "core_call", "jit", "pjit", "remat", "remat2"}
CALLS |= {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
CUT = -1  # the origin of a mark at which a pointwise function ends
SAME = 5e-3  # two activations are told apart by more; the approximation of GELU by tanh is off by 5e-4


@dataclass(eq=False)
class Base:
    """A value that is no pointwise function of another; `origin` is the last mark upstream, `direct` if itself marked.

    `uses` has the functions whose results go into operations that are not pointwise, one entry a use.
    """

    value: jax.Array
    origin: int = -1
    direct: bool = False
    uses: list["Signal"] = field(default_factory=list)


@dataclass(eq=False)
class Signal:
    """A pointwise function of a base, None for the base itself; `moves` is how its entries have been rearranged."""

    base: Base
    function: Callable[[jax.Array], jax.Array] | None = None
    moves: tuple[str, ...] = ()
    name: str = ""


@dataclass(eq=False)
class Constant:
    """A number, or an array filled with it."""

    value: jax.Array


@dataclass
class Program:
    """What a run has found: the values that have been marked, and all bases in the order in which they arose."""

    marks: dict[str, tuple[jax.Array, Signal]]
    bases: list[Base]


def followed(program: ClosedJaxpr, arguments: Sequence[Any], origin: Callable[[str], int | None]) -> Program:
    """Run a traced program on concrete arguments, and return what it did to the values that it marks.

    A mark is a `jax.ad_checkpoint.checkpoint_name`. Where `origin(name)` is a number, the value begins a base of that
    origin, for `CUT` of the same one; where it is None, it is only noted. Loops (scan, while, cond) are run and not
    looked into.
    """
    found = Program({}, [])
    run = _Run(found, origin)
    entries = [run.fresh(value) for value in arguments]
    for _, known in run.jaxpr(program.jaxpr, program.consts, list(zip(arguments, entries, strict=True))):
        run.use(known)
    return found


class _Run:
    def __init__(self, found: Program, origin: Callable[[str], int | None]) -> None:
        self.found, self.origin = found, origin

    def fresh(self, value: Any, origin: int = -1, direct: bool = False) -> Signal | Constant:
        if not np.ndim(value) and not direct:
            return Constant(value)
        base = Base(value, origin, direct)
        self.found.bases.append(base)
        return Signal(base)

    def use(self, known: Signal | Constant) -> None:
        if isinstance(known, Signal):
            known.base.uses.append(known)

    def jaxpr(self, jaxpr: Jaxpr, consts: Sequence[Any], inputs: list[tuple]) -> list[tuple]:
        """Run equation by equation; a value travels with what is known of it."""
        env = {var: (value, self.fresh(value)) for var, value in zip(jaxpr.constvars, consts, strict=True)}
        env.update(zip(jaxpr.invars, inputs, strict=True))
        read = lambda atom: (atom.val, self.fresh(atom.val)) if isinstance(atom, Literal) else env[atom]
        for equation in jaxpr.eqns:
            env.update(zip(equation.outvars, self.equation(equation, [read(a) for a in equation.invars]), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, equation: Any, inputs: list[tuple]) -> list[tuple]:
        name, params = equation.primitive.name, equation.params
        if name in CALLS:
            inner = next(params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params)
            closed = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
            results = self.jaxpr(closed.jaxpr, closed.consts, inputs)
            label = str(params.get("name", ""))
            whole = all(not isinstance(each, Signal) or each.function is None for _, each in inputs)
            for _, known in results:  # the outermost name is the one that the user knows
                if isinstance(known, Signal) and known.function and whole and label and not label.startswith("_"):
                    known.name = label
            return results
        values, known = [value for value, _ in inputs], [each for _, each in inputs]
        answer = equation.primitive.bind(*values, **params)
        answers = list(answer) if equation.primitive.multiple_results else [answer]
        if name == "convert_element_type" and _floating(values[0].dtype) and _floating(params["new_dtype"]):
            name = "copy"  # another precision of the same
        if len(answers) == 1 and (derived := self.derived(name, params, equation.primitive, known, answers[0])):
            return [(answers[0], derived)]
        for each in known:
            self.use(each)
        origin = max((each.base.origin for each in known if isinstance(each, Signal)), default=-1)
        return [(value, self.fresh(value, origin)) for value in answers]

    def derived(
        self, name: str, params: Any, primitive: Any, known: list, answer: jax.Array
    ) -> Signal | Constant | None:
        """What is known of a result: still a number, still a function of the same base, or None."""
        if name == "name":
            signal = known[0]
            place = self.origin(params["name"])
            if place == CUT and isinstance(signal, Signal):
                self.use(signal)
                signal = self.fresh(answer, signal.base.origin)
            elif place is not None and place != CUT:
                signal = self.fresh(answer, place, direct=True)
            self.found.marks[params["name"]] = answer, signal
            return signal
        if all(isinstance(each, Constant) for each in known):
            if name == "broadcast_in_dim" or name in KEEPS:
                return known[0] if known else None
            return Constant(primitive.bind(*[each.value for each in known], **params)) if name in POINTWISE else None
        signals = [each for each in known if isinstance(each, Signal)]
        first = signals[0]
        if name in KEEPS and len(known) == 1:
            return first
        if name in MOVES and answer.size == first.base.value.size and len(known) == 1:
            return Signal(first.base, first.function, (*first.moves, f"{name} {params}"), first.name)
        if name not in POINTWISE or any((s.base, s.moves) != (first.base, first.moves) for s in signals):
            return None
        return Signal(first.base, _composed(name, primitive, params, known), first.moves)


def _composed(name: str, primitive: Any, params: Any, known: list) -> Callable[[jax.Array], jax.Array]:
    """The function of the base that the operation makes of those of its operands, for any floating precision."""

    def operand(each: Signal | Constant, x: jax.Array) -> jax.Array:
        if isinstance(each, Signal):
            return each.function(x) if each.function else x
        value = jnp.asarray(each.value)
        return jnp.full(x.shape, value, x.dtype if _floating(value.dtype) else value.dtype)

    def function(x: jax.Array) -> jax.Array:
        if name == "convert_element_type" and _floating(params["new_dtype"]):
            return operand(known[0], x).astype(x.dtype)
        return primitive.bind(*[operand(each, x) for each in known], **params)

    return function


def _floating(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))


def activation_of(function: Callable[[jax.Array], jax.Array], name: str = "") -> tuple[str, Activation] | None:
    """Return the name and the activation that a pointwise function of JAX is, in double precision; None if it is none.

    One of `research.oracles.activations` where it agrees with it, else one of its own, whose range and kinks are
    looked for. An activation is finite everywhere, not affine, passes gradients, and grows at most linearly: squares,
    exponentials and (reciprocal) roots, which normalisation and softmax consist of, are none, nor are comparisons,
    steps and rounding.
    """
    grid, far = np.linspace(-8.0, 8.0, 129), np.array([-1e6, -1e3, 1e3, 1e6])
    try:
        with jax.enable_x64(True):  # not compiled: a network applies the same few operations in every layer
            values = function(jnp.asarray(np.concatenate([grid, far])))
    except TypeError:  # bitwise operations on booleans alone, say
        return None
    if not _floating(values.dtype):  # a comparison
        return None
    near, ends = np.split(np.asarray(values, float), [129])
    if not (np.isfinite(near).all() and np.isfinite(ends).all() and np.abs(ends).max() <= 1e8):
        return None
    # sqrt(max(x, 0) + ε) or its reciprocal, that divide by a deviation: from 10³ to 10⁶ by a factor of 10^±1.5.
    if np.ptp(near[grid <= 0]) == 0 and min(ends[2:]) > 0 and abs(abs(np.log10(ends[3] / ends[2])) - 1.5) < 1e-3:
        return None
    one, zero = near[grid == 1.0], near[grid == 0.0]
    if np.abs(near - zero - (one - zero) * grid).max() <= 1e-5 * np.abs(near).max():
        return None
    leak = float(-near[grid == -1.0][0])
    straight = np.where(grid > 0, grid, leak * grid)
    if abs(leak) <= 1 + 1e-6 and np.abs(near - straight).max() < 1e-5:
        leak = min(max(float(f"{leak:.6g}"), -1.0), 1.0) + 0.0
        return ("relu" if leak == 0 else "abs" if leak == -1 else f"leaky_relu({leak:g})"), leaky_relu(leak)
    for known, activation in ACTIVATIONS.items():
        if np.abs(activation.value(grid) - near).max() < SAME:
            return known, activation
    value, slope = (
        _double(jax.jit(function)),
        _double(jax.jit(lambda x: jax.jvp(function, (x,), (jnp.ones_like(x),))[1])),
    )
    if not slope(grid + 1 / 256).any():  # rounding, a step
        return None
    low, high = (_bound(ends, near, sign) for sign in (-1, 1))
    return name or "unnamed", Activation(value, slope, low, high, _kinks(slope))


def _double(function: Callable[[jax.Array], jax.Array]) -> Callable[[np.ndarray], np.ndarray]:
    """The function in double precision, of NumPy arrays."""

    def double(u: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(function(jnp.asarray(u, float)), float)

    return double


def _bound(ends: np.ndarray, near: np.ndarray, sign: int) -> float:
    """The largest value, or the smallest for sign -1; infinite where values beyond 1000 still grow."""
    grown = max(sign * (ends[0] - ends[1]), sign * (ends[3] - ends[2]))
    return sign * (np.inf if grown > 1 else float(np.max(sign * np.concatenate([near, ends]))))


def _kinks(slope: Callable[[np.ndarray], np.ndarray]) -> tuple[float, ...]:
    """0, and where the slope jumps, from -10 to 10: by more than that of a smooth activation from point to point."""
    grid = np.linspace(-10.0, 10.0, 1281) + 1 / 4096
    jumps = np.flatnonzero(np.abs(np.diff(slope(grid))) > 0.05)
    low, high = grid[jumps], grid[jumps + 1]
    for _ in range(50 if jumps.size else 0):
        middle = (low + high) / 2
        left = np.abs(slope(middle) - slope(low)) > np.abs(slope(high) - slope(middle))
        low, high = np.where(left, low, middle), np.where(left, middle, high)
    return tuple(sorted({0.0, *(round(float(kink), 9) + 0.0 for kink in (low + high) / 2)}))
