"""Margins of networks that are homogeneous in their parameters: f(cθ) = c^L f(θ) for c > 0, L the degree."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def normalized_margin(
    margins: Float[Array, "sample"], length: Float[Array, ""], degree: int | float
) -> Float[Array, ""]:
    """Return min_n q_n / ‖θ‖^L for the margins q_n = y_n f(x_n), `length` ‖θ‖: the margin of the direction of θ."""
    return jnp.min(margins) / length**degree


def smoothed_margin(margins: Float[Array, "sample"], length: Float[Array, ""], degree: int | float) -> Float[Array, ""]:
    """Return −ln Σ exp(−q_n) / ‖θ‖^L, at most ln(samples) / ‖θ‖^L below `normalized_margin`.

    Gradient flow on Σ exp(−q_n) never lowers it once that is below 1: Lyu & Li 2020, arXiv 1906.05890, equation 3 and
    Theorem 4.1. The loss is a sum, not a mean.
    """
    return -jax.nn.logsumexp(-margins) / length**degree


def share_entropy(margins: Float[Array, "sample"]) -> Float[Array, ""]:
    """Return −Σ p_n ln p_n in nats, p_n ∝ exp(−q_n) the samples' shares in the exponential loss."""
    logarithms = jax.nn.log_softmax(-margins)
    return -jnp.sum(jnp.exp(logarithms) * logarithms)
