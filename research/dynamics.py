"""What happens in time: the `Run` that a simulation describes, the steps it takes, the times it is looked at."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree


class Run(NamedTuple):
    """One run of one optimiser on one problem; the sweep drives it.

    `state` is all that is carried (parameters, optimiser state, the key of a stochastic step) and `step` maps it to
    the next. `observe` maps it to a NamedTuple of annotated floating-point arrays, recorded at the steps `at`. `given`
    holds what the oracle needs and time does not change (data, labels). `stop`, where there is one, ends a run: its
    state stays as it is from the first recorded step at which `stop(state)` holds.
    """

    state: PyTree
    step: Callable[[Any], Any]
    observe: Callable[[Any], Any]
    at: Int[np.ndarray, "step"]
    given: Any = ()
    stop: Callable[[Any], Any] | None = None


class Descent(NamedTuple):
    """The state of a descent: parameters, optimiser state, and the key of a stochastic one."""

    params: PyTree
    optimizer_state: PyTree
    key: Any = ()


def descent(loss: Callable[[Any], Array], optimizer: optax.GradientTransformationExtraArgs) -> Callable:
    """The step of full-batch descent on `loss(params)`; its state begins as `start(params, optimizer)`."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(state: Descent) -> Descent:
        value, gradient = jax.value_and_grad(loss)(state.params)
        updates, optimizer_state = optimizer.update(
            gradient, state.optimizer_state, state.params, value=value, grad=gradient
        )
        return state._replace(params=optax.apply_updates(state.params, updates), optimizer_state=optimizer_state)

    return step


def stochastic_descent(
    loss: Callable[..., Array], optimizer: optax.GradientTransformationExtraArgs, sample: Callable[[Any], Any]
) -> Callable:
    """The step of descent on `loss(params, sample(key))` with a fresh key each time (a batch, a mask, noise)."""

    def step(state: Descent) -> Descent:
        key, sample_key = jax.random.split(state.key)
        batch = sample(sample_key)
        return descent(lambda params: loss(params, batch), optimizer)(state)._replace(key=key)

    return step


def start(params: PyTree, optimizer: optax.GradientTransformation, key: Any = ()) -> Descent:
    """The state before the first step."""
    return Descent(params, optimizer.init(params), key)


class Averaged(NamedTuple):
    """A descent, the weighted mean of its parameters after each step, and the number of steps."""

    descent: Descent
    mean: PyTree
    count: Any


def averaged(step: Callable[[Descent], Descent], power: int = 0) -> Callable[[Averaged], Averaged]:
    """The step of a descent that carries the mean of its iterates, the t-th of them weighed by about t^power.

    Power 0 is the plain mean of Polyak & Juditsky 1992; a larger one forgets the start sooner (Shamir & Zhang 2013,
    arXiv 1212.1824: weights (t + power − 1)!/(t − 1)!, so that the newest has the share (power + 1)/(t + power)).
    """

    def moved(state: Averaged) -> Averaged:
        descent = step(state.descent)
        share = (power + 1) / (state.count + power + 1)
        mean = jax.tree.map(lambda old, new: old + share * (new - old), state.mean, descent.params)
        return Averaged(descent, mean, state.count + 1)

    return moved


def start_averaged(descent: Descent) -> Averaged:
    """The state before the first step; the first iterate replaces the mean."""
    return Averaged(descent, descent.params, jnp.zeros(()))


def gradient_flow(loss: Callable[[Any], Array], time_step: Float[Array, ""] | float) -> Callable:
    """The step of classical Runge–Kutta (order 4) on `d params / dt = −∇ loss`; `time_step` is in units of time."""
    field = lambda params: jax.tree.map(jnp.negative, jax.grad(loss)(params))
    along = lambda params, slope, length: jax.tree.map(lambda p, s: p + length * s, params, slope)

    def step(params: PyTree) -> PyTree:
        first = field(params)
        second = field(along(params, first, time_step / 2))
        third = field(along(params, second, time_step / 2))
        fourth = field(along(params, third, time_step))
        mean = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, first, second, third, fourth)
        return along(params, mean, time_step)

    return step


def log_spaced(last: int, points: int, first: int = 1) -> Int[np.ndarray, "step"]:
    """Step 0 and about `points` increasing steps from `first` to `last`, evenly spaced in log t (rounded, distinct).

    Raises ValueError unless 1 <= first <= last and points >= 2.
    """
    if not 1 <= first <= last or points < 2:
        raise ValueError(f"log_spaced takes 1 <= first <= last and points >= 2, got {first=}, {last=}, {points=}")
    return np.unique(np.r_[0, np.rint(np.geomspace(first, last, points)).astype(int)])
