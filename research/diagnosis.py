"""What a layer of a network does on a batch, and what the mean field of wide random networks says it would do."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.layers import Layer
from research.observables.features import feature_rank, percentiles
from research.observables.saturation import mean_saturation
from research.observables.units import dead_share, dormant_share
from research.oracles.activations import named
from research.oracles.mean_field import saturation, variance_path
from research.oracles.wide_layer import mean_square_slope

PERCENTILES = (2.0, 25.0, 50.0, 75.0, 98.0)
TAU = (0.025, 0.1)


class Measured(NamedTuple):
    """What is read off one layer; NaN where its activation does not define it, or a value is not finite."""

    variance: float
    saturation: float
    saturated: float
    dead: float
    dormant: np.ndarray
    mean: float
    deviation: float
    effective_rank: float
    percentiles: np.ndarray


class Predicted(NamedTuple):
    """What the mean field says of one layer; NaN where it does not hold."""

    variance: float
    saturation: float
    chi: float
    gradient: float


def measured(layer: Layer, threshold: float) -> Measured:
    """Return what a layer does on the batch; a slope is flat up to `threshold` times the steepest of the activation.

    Of leaky ReLUs, whose slopes may all be small, only a slope of 0 is flat.
    """
    entering, known = layer.entering, layer.activation
    if not (np.isfinite(entering).all() and np.isfinite(layer.kernel).all()):
        entering = np.full_like(entering, np.nan)
    leaving, absent = entering, np.full_like(entering, np.nan)
    scaled = slopes = absent
    if known:
        # In float64: in the precision of the model, tanh is flat from 8 on.
        leaving, slopes = known.value(entering), np.where(np.isnan(entering), np.nan, known.slope(entering))
        slopes = slopes / np.max(abs(known.slope(np.linspace(-20.0, 20.0, 4001))))
        threshold = 0.0 if known.leak else threshold
    if known and np.isfinite([known.low, known.high]).all():
        scaled = 2 * (leaving - known.low) / (known.high - known.low) - 1
    with jax.enable_x64(True):
        read = _read(*map(jnp.asarray, (leaving, scaled, slopes)), threshold=threshold)
    level, dead, dormant, rank, places = (np.asarray(each) for each in read)
    return Measured(
        variance=float(np.mean(entering**2)),
        saturation=float(level),
        saturated=float(np.mean(abs(slopes) <= threshold)) if np.isfinite(slopes).all() else np.nan,
        dead=float(dead),
        dormant=dormant if known else np.full_like(dormant, np.nan),
        mean=float(np.mean(leaving)),
        deviation=float(np.std(leaving)),
        effective_rank=float(rank),
        percentiles=places,
    )


@partial(jax.jit, static_argnames="threshold")
def _read(outputs: jax.Array, scaled: jax.Array, slopes: jax.Array, threshold: float) -> tuple:
    """Saturation, dead and dormant shares, effective rank and percentiles, in one program for all layers alike."""
    dormant = jnp.stack([dormant_share(outputs, tau) for tau in TAU])
    level, dead = mean_saturation(scaled, -1.0, 1.0), dead_share(slopes, threshold)
    return level, dead, dormant, feature_rank(outputs), percentiles(outputs, PERCENTILES)


def weight_variance(layer: Layer) -> float:
    """Return σ_w² = fan_in·Var W; NaN where a weight is not finite."""
    return float(layer.fan_in * np.var(layer.kernel)) if np.isfinite(layer.kernel).all() else np.nan


def bias_variance(layer: Layer) -> float:
    """Return σ_b², the mean square of the biases, 0 without any: one that all units share counts as well."""
    return 0.0 if layer.bias is None else float(np.mean(layer.bias**2))


def predicted(layers: list[Layer], gradient: list[float]) -> list[Predicted]:
    """Return what the mean field says of each layer.

    It goes from the first to the last, and with the gradients back, begun anew from what is measured where theory does
    not know the layer before, or the next one.
    """
    variances: list[float] = []
    for layer in layers:
        weight, bias, q = weight_variance(layer) * layer.coverage, bias_variance(layer), np.nan
        if layer.direct and np.isfinite([weight, bias, layer.power]).all():
            q = weight * layer.power + bias
            if layer.source is not None and np.isfinite(variances[layer.source]):
                before = layers[layer.source].activation or "linear"
                q = float(variance_path(before, weight, bias, variances[layer.source], 2)[1])
        variances.append(q)
    chi, slope = [np.nan] * len(layers), [np.nan] * len(layers)
    for place, layer in reversed(list(enumerate(layers))):
        below = layer.source
        if below is not None and layers[below].sole and np.isfinite(variances[below]):
            squared = mean_square_slope(named(layers[below].activation or "linear"), variances[below])
            chi[below] = float(weight_variance(layer) * layer.coverage * squared)
            slope[below] = (slope[place] if np.isfinite(slope[place]) else gradient[place]) * chi[below] ** 0.5
    levels = [
        saturation(layer.activation, q) if layer.activation and np.isfinite(q) else np.nan
        for layer, q in zip(layers, variances, strict=True)
    ]
    return [Predicted(*each) for each in zip(variances, levels, chi, slope, strict=True)]
