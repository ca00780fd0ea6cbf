"""Margins of networks that are homogeneous in their parameters: f(cθ) = c^L f(θ) for c > 0, L the degree."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


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


class MarginPath(NamedTuple):
    """What a descent on 𝓛 = Σ exp(−margin) has done to the smoothed margin γ̃ so far.

    Summed over the steps from 𝓛 < 1/e on: `growth` of ln γ̃; `turned`, v² Δ ln ρ with v = ‖Δθ̂‖/Δ ln ρ; `spread`,
    (1 + v²) Δ ln ρ times the mean of H/ln(1/𝓛) at both ends. Counted from the first 𝓛 < 1 on, whatever 𝓛 then is:
    `steps`, and `falls`, those after which γ̃ is lower, by a share of 1e-12 or more. `missed` is by how much a step
    that begins between 𝓛 = 1/e and e^−stretch misses the flow's growth, degree · (turned + spread), at most.
    """

    growth: Float[Array, ""]
    turned: Float[Array, ""]
    spread: Float[Array, ""]
    steps: Float[Array, ""]
    falls: Float[Array, ""]
    missed: Float[Array, ""]


def followed(
    path: MarginPath,
    before: Float[Array, "sample"],
    after: Float[Array, "sample"],
    here: Float[Array, "..."],
    there: Float[Array, "..."],
    degree: int | float,
    *,
    stretch: float = 10.0,
    taken: Bool[Array, ""] | bool = True,
) -> MarginPath:
    """Return the path with one more step, from the parameters `here` to `there`, given the margins at both.

    On gradient flow `growth` is degree · (turned + spread): `margin_growth` in research/oracles/margin_stationarity.py,
    H the `share_entropy`. A step −η g along g = ∇ ln 𝓛, of Hessian K, misses it by η²|g|²/(2 ln 𝓛) (gᵀKg/gᵀg −
    θᵀKg/θᵀg) to first order: by nothing where g lies along θ. A step back to 𝓛 >= 1 is a fall and adds to no sum. One
    that is not `taken` changes nothing.
    """
    rho, reached = jnp.linalg.norm(here), jnp.linalg.norm(there)
    old, new = smoothed_margin(before, rho, degree), smoothed_margin(after, reached, degree)
    loss, next_loss = (jax.nn.logsumexp(-margins) for margins in (before, after))
    longer = jnp.log(reached / rho)
    turned = jnp.sum((there / reached - here / rho) ** 2) / jnp.where(longer > 0, longer, 1.0)
    entropy = (share_entropy(before) / -loss + share_entropy(after) / -next_loss) / 2
    growth, spread = jnp.log(new / old), (longer + turned) * entropy
    miss = jnp.abs(degree * (turned + spread) - growth)
    counted, summed = taken & ((path.steps > 0) | (loss < 0)), taken & (loss < -1) & (next_loss < 0)
    add = lambda total, when, amount: total + jnp.where(when, amount, 0.0)
    return MarginPath(
        add(path.growth, summed, growth),
        add(path.turned, summed, turned),
        add(path.spread, summed, spread),
        add(path.steps, counted, 1.0),
        add(path.falls, counted & (new < old - 1e-12 * jnp.abs(old)), 1.0),
        jnp.maximum(path.missed, jnp.where(summed & (loss > -stretch), miss, 0.0)),
    )
