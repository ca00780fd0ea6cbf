"""Optax chains that optax itself lacks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree


def coordinate_descent(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Steepest descent in the l1 norm: −η g_j e_j for the coordinate j of largest |g_j|, all arrays taken together.

    The Gauss–Southwell rule; ties move together.
    """

    def largest(updates: PyTree, params: PyTree | None = None) -> PyTree:
        most = jnp.max(jnp.array([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(updates)]))
        return jax.tree.map(lambda leaf: jnp.where(jnp.abs(leaf) >= most, leaf, 0), updates)

    return optax.chain(optax.stateless(largest), optax.scale_by_learning_rate(learning_rate))


class DualAcceleration(NamedTuple):
    """The number of steps taken, and the momentum g_{t−1}."""

    count: Any
    momentum: PyTree


def dual_acceleration(learning_rate: optax.ScalarOrSchedule = 1.0) -> optax.GradientTransformation:
    """Momentum with β_t = t/(t + 1): g_t = β_t (g_{t−1} + ∇_t), w_{t+1} = w_t − η (g_t + ∇_t).

    On ln of the exponential loss, whose gradient is the loss's own over the loss, it is Algorithm 1 of Ji, Srebro &
    Telgarsky 2021 (arXiv 2107.00595), where η = 1 and every input has norm at most 1.
    """

    def init(params: PyTree) -> DualAcceleration:
        return DualAcceleration(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params))

    def update(updates: PyTree, state: DualAcceleration, params: PyTree | None = None) -> tuple:
        share = lambda dtype: state.count.astype(dtype) / (state.count.astype(dtype) + 1)
        momentum = jax.tree.map(lambda g, m: share(g.dtype) * (m + g), updates, state.momentum)
        moved = jax.tree.map(jnp.add, momentum, updates)
        return moved, DualAcceleration(optax.safe_increment(state.count), momentum)

    return optax.chain(optax.GradientTransformation(init, update), optax.scale_by_learning_rate(learning_rate))


def inverse_square_root(learning_rate: Any) -> Callable[[Any], Any]:
    """The schedule η / √(t + 1), t counted from 0."""
    return lambda count: learning_rate / jnp.sqrt(count + 1.0)
