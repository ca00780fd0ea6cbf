"""The random walk of the logarithm of a random network's length, layer by layer, at any finite width.

Without biases and with weights N(0, 1/(p·fan_in)), a layer of n units of which each is active with probability p
multiplies ‖h‖²/n by χ²_K/(p·n), K ~ Binomial(n, p), whatever came before: given the layer below, pre-activations are
independent Gaussians, and the sign of one does not depend on its square. p = 1/2 is ReLU (weights 2/fan_in: He et al.
2015, arXiv 1502.01852), p = 1 a linear network. A fixed perturbation of the input grows by the same law, since a gate,
the sign of w·h, and (w·t)² are independent even where t and h are not (Hanin & Nica 2018, arXiv 1812.05994).

The mean factor is 1, its variance (3/p - 1)/n, that is 5/n and 2/n; its logarithm has mean -(3/p - 1)/(2n) and variance
(3/p - 1)/n up to terms of 1/n², which the sums over layers β = (3/p - 1)·Σ 1/n turn into lengths of mean 1, typical
size e^(-β/2) and second moment e^β (Hanin & Rolnick 2018, arXiv 1803.01719).
"""

from typing import NamedTuple

import numpy as np

from research.oracles import inputs


class LogLength(NamedTuple):
    """The first four cumulants of what one layer adds to ln(‖h‖²/n), given that one of its units is active at least."""

    mean: float
    variance: float
    third: float
    fourth: float


def log_length(width: float, active: float = 0.5) -> LogLength:
    """Return the cumulants of ln(χ²_K/(p·n)), K ~ Binomial(n = `width`, p = `active`) given K >= 1.

    Given K, the cumulants are ψ(K/2) + ln 2, ψ'(K/2), ψ''(K/2) and ψ'''(K/2); the sum over K is exact. NaN for NaN.
    Raises ValueError for a width that is not a whole number from 1, and `active` outside (0, 1].
    """
    from scipy.special import polygamma
    from scipy.stats import binom

    units, chance = _numbers(width, active)
    if np.isnan([units, chance]).any():
        return LogLength(*[float("nan")] * 4)
    count = np.arange(1, int(units) + 1)
    weight = binom.pmf(count, int(units), chance)
    weight = weight / weight.sum()
    centre, spread, skew, tail = (polygamma(order, count / 2) for order in range(4))
    mean = weight @ centre
    off = centre - mean
    variance = weight @ (spread + off**2)
    third = weight @ (skew + 3 * spread * off + off**3)
    fourth = weight @ (tail + 3 * spread**2 + 4 * skew * off + 6 * spread * off**2 + off**4) - 3 * variance**2
    return LogLength(float(mean + np.log(2 / (chance * units))), float(variance), float(third), float(fourth))


def length_growth(weight_variance: float, active: float = 0.5) -> float:
    """Return the mean factor of a layer with weights N(0, `weight_variance`/fan_in): p·weight_variance, at any width.

    1 for ReLU at 2 (He et al. 2015), 1/2 at 1 (Glorot & Bengio 2010, "Xavier"). NaN for NaN.
    Raises ValueError for a negative variance and `active` outside (0, 1].
    """
    return _numbers(1.0, active)[1] * inputs.number("weight_variance", weight_variance, low=0.0)


def length_square(width: float, active: float = 0.5) -> float:
    """Return the second moment of the factor χ²_K/(p·n) of a layer, 1 + (3/p - 1)/n; its mean is 1.

    E (χ²_K)² = E K(K + 2), layers without an active unit included. NaN for NaN. Raises ValueError as `log_length` does.
    """
    units, chance = _numbers(width, active)
    return 1 + (3 / chance - 1) / units


def _numbers(width: float, active: float) -> tuple[float, float]:
    units = inputs.number("width", width, low=1.0)
    if not np.isnan(units) and units != int(units):
        raise ValueError(f"width is {units:g}; it takes a whole number from 1")
    return units, inputs.number("active", active, low=np.nextafter(0.0, 1.0), below=np.nextafter(1.0, 2.0))
