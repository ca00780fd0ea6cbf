"""Units that have stopped to work: dead ones, that pass no gradient, and dormant ones, that say next to nothing.

The two are different things. A dead ReLU is silent, hence dormant; a quiet one need not be dead. A tanh unit stuck at
one end of its range is dead in all but name (its slope has vanished on every sample) and never dormant: |h| = 1.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def dead_share(slopes: Float[Array, "sample unit"], threshold: float = 0.0) -> Float[Array, ""]:
    """Return the share of units whose slope φ'(u), in absolute value, is at most `threshold` on every sample.

    For ReLU and a threshold of 0 these are the dead ones (Lu et al. 2019, arXiv 1903.06733: the output is
    constant on all samples); for bounded activations units frozen in saturation. They learn nothing from these samples.
    NaN where a slope is not finite. Raises ValueError for a negative threshold.
    """
    _check("threshold", threshold)
    dead = jnp.max(jnp.abs(slopes), axis=0) <= threshold
    return jnp.where(jnp.all(jnp.isfinite(slopes)), jnp.mean(dead, dtype=slopes.dtype), jnp.nan)


def dormancy_scores(outputs: Float[Array, "sample unit"]) -> Float[Array, "unit"]:
    """Return s_i = E|h_i| / mean_k E|h_k|, E over samples: their mean is 1; 0 in a layer that is silent throughout.

    Sokar et al. 2023, "The dormant neuron phenomenon in deep reinforcement learning", arXiv 2302.12902, definition 3.1.
    The positions of a convolution count as samples, its channels as units. The authors' code
    (dopamine/labs/redo/weight_recyclers.py) divides by the mean plus 1e-9, so that a layer of mean activity 1e-9 loses
    half of its scores; these scores do not depend on a layer's scale. NaN for all units where an output is not finite.
    """
    activity = jnp.mean(jnp.abs(outputs), axis=0)
    mean = jnp.mean(activity)
    scores = jnp.where(mean > 0, activity / jnp.where(mean > 0, mean, 1.0), 0.0)
    return jnp.where(jnp.all(jnp.isfinite(outputs)), scores, jnp.nan)


def dormant_share(outputs: Float[Array, "sample unit"], tau: float) -> Float[Array, ""]:
    """Return the share of units that are τ-dormant: s_i <= τ, `dormancy_scores` (Sokar et al. 2023, definition 3.1).

    A layer that is silent throughout is dormant throughout. NaN where an output is not finite, as NaN <= τ is False and
    would pass for health. Raises ValueError for a negative τ.
    """
    _check("tau", tau)
    scores = dormancy_scores(outputs)
    return jnp.where(jnp.all(jnp.isfinite(scores)), jnp.mean(scores <= tau, dtype=outputs.dtype), jnp.nan)


def _check(name: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{name} is {value!r}; it takes a number from 0")
