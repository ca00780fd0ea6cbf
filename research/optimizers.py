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


def steepest_descent(learning_rate: optax.ScalarOrSchedule, order: float) -> optax.GradientTransformation:
    """Steepest descent in the lp norm, 1 < p = `order` <= ∞: the minimiser of g·Δ + ‖Δ‖_p² / (2η).

    Δ_j = −η ‖g‖_q^(2−q) |g_j|^(q−1) sign(g_j), 1/p + 1/q = 1, all arrays taken together: gradient descent for p = 2,
    −η ‖g‖₁ sign(g) for p = ∞; for p = 1 see `coordinate_descent`. Divided by its norm it is the normalised one.
    """
    dual = 1.0 if order == float("inf") else order / (order - 1)

    def direction(updates: PyTree, params: PyTree | None = None) -> PyTree:
        largest = jnp.max(jnp.array([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(updates)]))
        unit = jax.tree.map(lambda leaf: leaf / jnp.where(largest > 0, largest, 1), updates)
        size = sum(jnp.sum(jnp.abs(leaf) ** dual) for leaf in jax.tree.leaves(unit)) ** (1 / dual)
        length = jnp.where(largest > 0, size, 1) ** (2 - dual) * largest
        return jax.tree.map(lambda leaf: length * jnp.abs(leaf) ** (dual - 1) * jnp.sign(leaf), unit)

    return optax.chain(optax.stateless(direction), optax.scale_by_learning_rate(learning_rate))


def spectral_descent(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Normalised steepest descent in the spectral norm: −η U Vᵀ for each matrix U diag(s) Vᵀ, zero s left out.

    The exact polar factor, which Muon's few Newton–Schulz steps approximate; every step has spectral norm η. From the
    eigenvectors of the smaller Gram matrix and one Newton–Schulz step, which squares their rounding error; singular
    values below about 1e-7 of the largest (in float64) count as zero.
    """

    def polar(matrix: Any) -> Any:
        largest = jnp.max(jnp.abs(matrix))
        scaled = matrix / jnp.where(largest > 0, largest, 1)
        wide = scaled if matrix.shape[0] <= matrix.shape[1] else scaled.T
        values, vectors = jnp.linalg.eigh(wide @ wide.T)
        kept = values > jnp.finfo(values.dtype).eps * max(wide.shape) * values[-1]
        root = jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, values, 1)), 0)
        factor = (vectors * root[None, :]) @ (vectors.T @ wide)
        factor = 1.5 * factor - 0.5 * factor @ (factor.T @ factor)
        return factor if wide is scaled else factor.T

    orthogonal = optax.stateless(lambda updates, params=None: jax.tree.map(polar, updates))
    return optax.chain(orthogonal, optax.scale_by_learning_rate(learning_rate))


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


class MirrorDescent(NamedTuple):
    """The number of steps taken, the dual image θ of the parameters, and the last step in the parameters."""

    count: Any
    dual: PyTree
    moved: PyTree


def mirror_descent(
    learning_rate: optax.ScalarOrSchedule, power: Any, primal_momentum: Any = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Mirror descent with the potential ψ(w) = Σ|w|^p / p, p = `power` > 1: θ_{t+1} = θ_t − η g_t, w = (∇ψ)⁻¹(θ).

    ∇ψ(w) = sign(w)|w|^{p−1}, one coordinate at a time; for p = 2 it is gradient descent. p-GD of Sun et al. 2022 (arXiv
    2205.12808). θ is carried, since it is not to be had from parameters that underflow. Momentum in the dual, θ_{t+1} =
    θ_t − η m_t, is `optax.chain(optax.trace(decay), mirror_descent(…))`. `primal_momentum` β starts the step from
    w_t + β (w_t − w_{t−1}) instead: θ_{t+1} = θ_t + ∇ψ(w_t + β (w_t − w_{t−1})) − ∇ψ(w_t) − η g_t, which leaves the
    span of the gradients (Gunasekar et al. 2018, arXiv 1802.08246). `power` and β may be traced.
    """
    image = lambda w: jnp.sign(w) * jnp.abs(w) ** (power - 1)
    preimage = lambda dual: jnp.sign(dual) * jnp.abs(dual) ** (1 / (power - 1))

    def init(params: PyTree) -> MirrorDescent:
        return MirrorDescent(jnp.zeros((), jnp.int32), jax.tree.map(image, params), optax.tree.zeros_like(params))

    def update(updates: PyTree, state: MirrorDescent, params: PyTree) -> tuple:
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        ahead = jax.tree.map(lambda w, moved: image(w + primal_momentum * moved) - image(w), params, state.moved)
        dual = jax.tree.map(lambda theta, a, g: (theta + a - rate * g).astype(g.dtype), state.dual, ahead, updates)
        moved = jax.tree.map(lambda theta, w: (preimage(theta) - w).astype(w.dtype), dual, params)
        return moved, MirrorDescent(optax.safe_increment(state.count), dual, moved)

    return optax.with_extra_args_support(optax.GradientTransformation(init, update))


def soft_threshold(threshold: Any) -> optax.GradientTransformation:
    """The proximal step of an l1 penalty, the last of a chain: every parameter moves towards zero, and stops there.

    It makes of the parameters w + u that the updates u lead to sign(w + u) · max(|w + u| − `threshold`, 0), all arrays
    alike. Behind `optax.sgd(η)` with the threshold η λ it is proximal descent (ISTA) on the loss + λ‖w‖₁, which has
    exact zeros where a descent along sign(w) has none. `threshold` may be traced.
    """

    def shrunk(updates: PyTree, params: PyTree) -> PyTree:
        ahead = jax.tree.map(jnp.add, params, updates)
        return jax.tree.map(lambda a, w: jnp.sign(a) * jnp.maximum(jnp.abs(a) - threshold, 0) - w, ahead, params)

    return optax.stateless(shrunk)


def until(time: float, learning_rate: Any) -> Callable[[Any], Any]:
    """The schedule η as long as `time` (η summed over steps) is not reached, then what is left of it, then 0."""
    return lambda count: jnp.clip(time - count * learning_rate, 0.0, learning_rate)


def progressive_rescaling(
    learning_rate: Any, radius: Any, growth: Any, period: int, warm_up: int = 0
) -> optax.GradientTransformationExtraArgs:
    """PRGD: in rounds of `period` steps the norm is set to R_k = radius · growth^k, and descent stays in that ball.

    Wang, Min & Wu 2024, arXiv 2311.14387: the first step of a round puts w on the sphere of radius R_k, the others are
    −η g, projected onto the ball. On ln of the exponential loss, whose gradient is that loss's own over the loss, these
    are their normalised steps. Before that come `warm_up` steps −η g as they are. `radius` and `growth` may be traced;
    the norm is taken over all arrays together, and zero weights stay zero when they are to be rescaled.
    """

    def update(updates: PyTree, state: Any, params: PyTree) -> tuple:
        count = jnp.maximum(state - warm_up, 0)
        limit = radius * growth ** (count // period).astype(float)
        moved = jax.tree.map(lambda w, g: w - learning_rate * g, params, updates)
        to_sphere = jnp.asarray(limit / jnp.maximum(optax.tree.norm(params), 1e-300))
        into_ball = jnp.minimum(1.0, limit / jnp.maximum(optax.tree.norm(moved), 1e-300))
        rescales = (state >= warm_up) & (count % period == 0)
        projects = jnp.where(state >= warm_up, into_ball, 1.0)
        new = jax.tree.map(lambda w, m: jnp.where(rescales, w * to_sphere, m * projects), params, moved)
        return jax.tree.map(jnp.subtract, new, params), optax.safe_increment(state)

    init = lambda params: jnp.zeros((), jnp.int32)
    return optax.with_extra_args_support(optax.GradientTransformation(init, update))
