"""How saturated a layer is: the Rakitianskaia–Engelbrecht measure, its limit, vanished slopes, dead units, growth.

A layer's outputs are read against the range of its activation function. With g' an output scaled linearly from that
range to [−1, 1], the measure is φ_B = Σ_b |Σ_(g in bin b) g'| / (number of outputs), B equal bins over the range: f_b
times the mean of a bin is the sum over it. It pools units and patterns; read unit by unit it is another quantity, and
neither tells a unit stuck at one end from one that jumps between both. Rakitianskaia & Engelbrecht 2015, "Measuring
saturation in neural networks", IEEE SSCI, pp. 1423–1430.

For an even B no bin straddles the middle, so that all its g' have one sign and φ_B is the mean of |g'|, whatever B is.
For an odd B the middle bin cancels, and φ_B is smaller, by less than 1/B.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

RANGES = {"tanh": (-1.0, 1.0), "erf": (-1.0, 1.0), "softsign": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}


def binned_saturation(outputs: Float[Array, "..."], low: float, high: float, bins: int) -> Float[Array, ""]:
    """Return φ_B of outputs in [low, high] over that many bins: 0 in the middle of the range, 1 at its ends.

    NaN where an output is not finite. Raises ValueError for fewer than one bin or an empty range.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}: it takes a whole number from 1")
    scaled = _scaled(outputs, low, high).reshape(-1)
    place = jnp.clip(jnp.floor((scaled + 1) / 2 * bins), 0, bins - 1)
    sums = jnp.zeros(bins, scaled.dtype).at[place.astype(int)].add(scaled)
    return _known(jnp.sum(jnp.abs(sums)) / scaled.size, scaled)


def mean_saturation(outputs: Float[Array, "..."], low: float, high: float) -> Float[Array, ""]:
    """Return the mean of |g'|: what φ_B is for every even B, and tends to for the odd ones. NaN as there."""
    scaled = _scaled(outputs, low, high)
    return _known(jnp.mean(jnp.abs(scaled)), scaled)


def share_beyond(outputs: Float[Array, "..."], low: float, high: float, threshold: float) -> Float[Array, ""]:
    """Return the share of outputs whose |g'| is above `threshold`; NaN where one is not finite.

    0.9 means outside [-0.9, 0.9] for tanh and outside [0.05, 0.95] for the logistic sigmoid. There is no threshold that
    all agree on. Raises ValueError for one outside [0, 1).
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold!r}; it takes a number from 0 to less than 1")
    return _share(jnp.abs(_scaled(outputs, low, high)) > threshold, outputs)


def vanished_share(slopes: Float[Array, "..."]) -> Float[Array, ""]:
    """Return the share of derivatives of the activation that are zero exactly; NaN where one is not finite.

    It depends on the precision: that of `jax.numpy.tanh` vanishes from |x| = 8 on in float32, from 20 on in float64.
    """
    return _share(slopes == 0, slopes)


def never_active_share(pre_activations: Float[Array, "sample unit"]) -> Float[Array, ""]:
    """Return the share of units that are above zero on no sample (dead ReLUs); NaN where one is not finite."""
    return _share(jnp.max(pre_activations, axis=0) <= 0, pre_activations)


def perturbation_growth(
    network: Callable[[Array], Array], inputs: Float[Array, "sample feature"], key: Array
) -> Float[Array, "layer"]:
    """Return by how much each layer multiplies the mean square of a small perturbation of the inputs, mean of samples.

    `network` maps inputs to its (layer, sample, unit) pre-activations. The perturbation is random, of first order, and
    orthogonal to the input, so that it moves the angle between inputs and not their variance: in a wide network the
    growth is σ_w² in the first layer and χ_1 beyond (Schoenholz et al. 2017). A perturbation that has died grows by 0.
    `key` must not be the one that drew the inputs: a perturbation along them has no orthogonal part.
    """
    tangents = jax.random.normal(key, inputs.shape, inputs.dtype)
    along = jnp.sum(tangents * inputs, axis=1, keepdims=True) / jnp.sum(inputs**2, axis=1, keepdims=True)
    tangents -= along * inputs
    _, moved = jax.jvp(network, (inputs,), (tangents,))
    sizes = jnp.concatenate([jnp.mean(tangents**2, axis=1)[None], jnp.mean(moved**2, axis=2)])
    return jnp.mean(sizes[1:] / jnp.maximum(sizes[:-1], jnp.finfo(sizes.dtype).tiny), axis=1)


def _scaled(outputs: Array, low: float, high: float) -> Array:
    if not low < high:
        raise ValueError(f"the range is [{low}, {high}]: it must not be empty")
    return 2 * (outputs - low) / (high - low) - 1


def _share(hits: Array, of: Array) -> Array:
    """The share of hits, written so that a diverged network (NaN <= 0 is False) does not pass for a healthy one."""
    return _known(jnp.mean(hits, dtype=of.dtype), of)


def _known(measure: Array, of: Array) -> Array:
    return jnp.where(jnp.all(jnp.isfinite(of)), measure, jnp.nan)
