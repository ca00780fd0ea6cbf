"""One static cell of a sweep as a program: start a run, advance it through time, read what it is given.

Inside each piece `simulate` is called anew and the parts that are needed are used; the rest is dead code to the
compiler. So closures never cross a jit boundary: only the state does, and data sets, which become arguments.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research import axes, labels
from research.dynamics import Run
from research.layout import L2_CACHE
from research.piece import Piece, anyone

RUNNING, STOPPED, DIVERGED = 0, 1, 2
UNTIMED = np.zeros(1, int)


class Shape(NamedTuple):
    """What a cell computes, known before it is compiled."""

    at: np.ndarray
    timed: bool
    observables: Mapping[str, tuple[tuple[str, ...], jax.ShapeDtypeStruct]]
    given: Mapping[str, tuple[tuple[str, ...], jax.ShapeDtypeStruct]]
    state_bytes: int
    given_bytes: int

    @property
    def record_bytes(self) -> int:
        """Bytes that one run's observables take over all recorded steps."""
        return len(self.at) * sum(_size(leaf) for _, leaf in self.observables.values())

    @property
    def run_bytes(self) -> int:
        """Bytes of what one run keeps on its device: state, records, and where it stands."""
        return self.record_bytes + self.state_bytes + 64

    @property
    def sizes(self) -> dict[str, int]:
        """The size of every dimension of the observables and of what is given."""
        return {
            dimension: size
            for dimensions, leaf in [*self.observables.values(), *self.given.values()]
            for dimension, size in zip(dimensions, leaf.shape, strict=True)
        }


class Carry(NamedTuple):
    """What goes from one segment to the next: a run's state, how and at which recording it ended, what was recorded."""

    state: Any
    status: Any
    ended_at: Any
    records: Any


class Program:
    """`simulate` with its static parameters bound, and the traced ones (arrays) still open.

    Each piece takes `mapped`: the raw data of a run's key, and its traced parameters by name.
    """

    def __init__(self, simulate: Callable, static: Mapping[str, Any], traced: Mapping[str, np.ndarray]) -> None:
        self.simulate = simulate
        self.static = dict(static)
        number = {name: jax.eval_shape(jnp.asarray, values[0]).dtype for name, values in traced.items()}
        self.signature = (
            jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))),
            {name: jax.ShapeDtypeStruct((), dtype) for name, dtype in number.items()},
        )
        self.shape, self.keys = self._shape()

    @functools.cached_property
    def start(self) -> Piece:
        """(mapped) -> the `Carry` of a run before its first step."""
        return Piece(self._start, self.signature)

    @functools.cached_property
    def advance(self) -> Piece:
        """(mapped, carry, first, last, strides, rest) -> the carry, further on in time."""
        count = jax.ShapeDtypeStruct((), np.int32)
        strides = jax.ShapeDtypeStruct((len(self.shape.at),), np.int32)
        return Piece(self._advance, self.signature, self.start.answer, count, count, strides, count)

    @functools.cached_property
    def given(self) -> Piece:
        """(mapped) -> what one run is given, by name."""
        return Piece(self._given, self.signature)

    def forget(self) -> None:
        """Drop the pieces that were traced."""
        for name in ("start", "advance", "given"):
            self.__dict__.pop(name, None)

    def given_needs(self, name: str) -> bool:
        """Whether what is given depends on the traced parameter `name` (or on the `key`)."""
        if not self.shape.given:
            return False
        key, traced = self.signature
        several = lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype)
        chosen = name == "key"
        mapped = (several(key) if chosen else key, {n: several(t) if n == name else t for n, t in traced.items()})
        along = (0 if chosen else None, {n: 0 if n == name else None for n in traced})
        one = lambda mapped: self.given(self.given.data, mapped)
        try:
            jax.eval_shape(jax.vmap(one, in_axes=(along,), out_axes=None), mapped)
        except ValueError:  # the documented answer of vmap where an output does vary along the axis
            return True
        return False

    @property
    def working_set(self) -> int:
        """Bytes that a step of one run touches, estimated: state, gradient, new state and data, or its widest array.

        The widest counts where it does not fit a cache at all: else a compiler keeps most of it in registers.
        """
        widest = self.advance.widest
        return max(3 * self.shape.state_bytes + self.shape.given_bytes, widest if widest > L2_CACHE else 0)

    def address(self) -> str:
        """The content address of the program: what one run computes, whatever its file, comments or layout."""
        labelled = [(name, own) for name, (own, _) in [*self.shape.observables.items(), *self.shape.given.items()]]
        pieces = [piece.address for piece in (self.start, self.advance, self.given)]
        parts = (self.shape.timed, self.shape.at.tolist(), labelled, pieces)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _run(self, mapped: tuple) -> Run:
        """The run as `simulate` describes it; an experiment without time becomes a run of no steps."""
        key, traced = mapped
        described = self.simulate(jax.random.wrap_key_data(key), **traced, **self.static)
        if isinstance(described, Run):
            return described
        return Run(state=(), step=lambda state: state, observe=lambda _: described, at=UNTIMED)

    def _start(self, mapped: tuple) -> Carry:
        blank = {
            name: jnp.full((len(self.shape.at), *leaf.shape), jnp.nan, leaf.dtype)
            for name, (_, leaf) in self.shape.observables.items()
        }
        # a weakly typed start (0.0, jnp.zeros_like of one) would change its type in the loop
        typed = lambda leaf: leaf if _is_key(leaf) else jax.lax.convert_element_type(leaf, leaf.dtype)
        state = jax.tree.map(typed, _arrays(self._run(mapped).state))
        return Carry(_raw(state), jnp.int32(RUNNING), jnp.int32(-1), blank)

    def _advance(self, mapped: tuple, carry: Carry, first: Any, last: Any, strides: Any, rest: Any) -> Carry:
        """One run from recording time `first` up to but without `last`, then `rest` steps more.

        `strides[k]` steps lead to recording time k. A run that has stopped or diverged keeps its state, and where all
        runs of a batch have, no step is taken.
        """
        run = self._run(mapped)

        def walk(k: Any, carry: Carry) -> Carry:
            running = carry.status == RUNNING
            steps = jnp.where(anyone(running), jnp.where(k < last, strides[k], rest), 0)
            walked = jax.lax.fori_loop(0, steps, lambda _, state: _arrays(run.step(state)), carry.state)
            state = _select(running, walked, carry.state)
            # what is left behind the last recording is one more round, not recorded: so a step is compiled once
            return jax.lax.cond(k < last, lambda: record(k, carry, state), lambda: carry._replace(state=state))

        def record(k: Any, carry: Carry, state: Any) -> Carry:
            running = carry.status == RUNNING
            seen = run.observe(state)._asdict()
            broken = ~(_finite(state) & _finite(seen))
            ended = jnp.where(broken, DIVERGED, jnp.where(run.stop(state), STOPPED, RUNNING) if run.stop else RUNNING)
            status = jnp.where(running, ended, carry.status).astype(jnp.int32)
            return Carry(
                state=_select(running & broken, carry.state, state),
                status=status,
                ended_at=jnp.where(running & (status != RUNNING), k, carry.ended_at).astype(jnp.int32),
                records={
                    name: carry.records[name].at[k].set(jnp.where(running & ~broken, value, carry.records[name][k]))
                    for name, value in seen.items()
                },
            )

        typed = lambda leaf, kind: jax.random.wrap_key_data(leaf, impl=kind) if kind else leaf
        carry = carry._replace(state=jax.tree.map(typed, carry.state, self.keys))
        carry = jax.lax.fori_loop(first, last + 1, walk, carry)
        return carry._replace(state=_raw(carry.state))

    def _given(self, mapped: tuple) -> dict[str, Any]:
        given = self._run(mapped).given
        return given._asdict() if given else {}

    def _shape(self) -> tuple[Shape, Any]:
        """The shapes of everything and which leaves of the state are keys, or an error that says what is wrong."""
        found: dict[str, Any] = {}

        def probe(mapped: tuple) -> tuple:
            run = self._run(mapped)
            found["timed"] = run.at is not UNTIMED
            found["at"], found["given"] = run.at, type(run.given)
            seen = run.observe(run.state)
            found["seen"] = type(seen)
            labels.fields(found["seen"])
            state = _arrays(run.state)
            found["keys"] = jax.tree.map(lambda leaf: str(jax.random.key_impl(leaf)) if _is_key(leaf) else "", state)
            stopped = run.stop(state) if run.stop else False
            return state, _arrays(run.step(state)), tuple(seen), tuple(run.given), _arrays(stopped)

        state, stepped, seen, given, stopped = jax.eval_shape(probe, self.signature)
        described = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)
        if described(state) != described(stepped):
            raise TypeError(
                f"{axes.label(self.simulate)}: a step must keep the shapes and dtypes of the state; "
                f"{described(state)} became {described(stepped)}"
            )
        if described(stopped) != ((), "bool"):
            raise TypeError(f"{axes.label(self.simulate)}: stop must answer one bool, got {described(stopped)}")
        sizes: dict[str, int] = {}
        shape = Shape(
            at=_increasing(found["at"]),
            timed=found["timed"],
            observables=_labelled(found["seen"], seen, sizes, floating=True),
            given=_labelled(found["given"], given, sizes) if given else {},
            state_bytes=sum(_size(leaf) for leaf in jax.tree.leaves(state)),
            given_bytes=sum(_size(leaf) for leaf in given),
        )
        return shape, found["keys"]


def _labelled(record: type, leaves: tuple, sizes: dict[str, int], floating: bool = False) -> dict:
    """Field -> (dimensions, shape), after checking one against the other and against the `sizes` seen before."""
    labelled = {}
    for (name, dimensions), leaf in zip(labels.fields(record).items(), leaves, strict=True):
        owner = f"{record.__name__}.{name}"
        if len(dimensions) != len(leaf.shape):
            raise TypeError(f"{owner} is annotated {dimensions}, but has shape {leaf.shape}")
        if floating and not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"{owner} is {leaf.dtype}: record it as a float, so that a diverged run can be NaN")
        for dimension, size in zip(dimensions, leaf.shape, strict=True):
            if sizes.setdefault(dimension, size) != size:
                raise TypeError(f"{owner}: dimension {dimension!r} is {size} here and {sizes[dimension]} before")
        labelled[name] = (dimensions, leaf)
    return labelled


def _increasing(at: Any) -> np.ndarray:
    if isinstance(at, jax.Array):
        raise TypeError("Run.at must be a NumPy array: when to look is structure, not data")
    at = np.asarray(at)
    at = at.astype(np.int64) if np.issubdtype(at.dtype, np.integer) else at  # unsigned differences would wrap
    if at.ndim != 1 or not at.size or not np.issubdtype(at.dtype, np.integer) or at[0] < 0 or (np.diff(at) <= 0).any():
        raise ValueError(f"Run.at takes increasing steps, 0 or later, got {at!r}")
    return at


def _arrays(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _raw(state: Any) -> Any:
    """The state between segments: keys as the numbers they are made of."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state)


def _select(condition: Any, chosen: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), chosen, other)


def _finite(tree: Any) -> Any:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])) if leaves else jnp.array(True)


def _size(leaf: Any) -> int:
    width = 8 if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else leaf.dtype.itemsize
    return int(np.prod(leaf.shape, dtype=int)) * width
