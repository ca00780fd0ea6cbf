"""What a finite width adds to the mean field of a random network: the noise of the variance and, by it, its shift.

Given one layer, the pre-activations of the next are exactly Gaussian, independent, and of variance
Q' = σ_w²·(1/N) Σ_j φ(√Q z_j)² + σ_b²: at every width N the variance is a Markov chain in one number, of mean f(Q), the
mean field's map, and of variance v(Q)/N, v = σ_w⁴·Var φ(√Q z)². Expanded about f(q*) = q*, with f' and f'' there, its
stationary law has variance v/(N (1 - f'²)) and, as E Q = E f(Q), mean q* + c/N with c = f''·v/(2 (1 - f')² (1 + f')).
"""

from typing import NamedTuple

import numpy as np

from research.oracles.activations import Activation, named
from research.oracles.gaussian import gaussian_expectation
from research.oracles.mean_field import mean_field
from research.oracles.wide_layer import mean_square, variance_slope

STEP = 1e-4  # relative, of the difference quotient for f''; its error is of the order of the square


class FiniteWidth(NamedTuple):
    """N times the shift of the mean variance from q*, and N times what a long mean over layers varies by (a bound)."""

    shift: float
    fluctuation: float


def finite_width(activation: str | Activation, weight_variance: float, bias_variance: float) -> FiniteWidth:
    """Return c, and the long-run variance over layers of the mean square of N pre-activations, times N.

    The latter is at most (√2·q* + √v/(1 - f'))², as mean squares of N Gaussians vary by 2q*²/N about Q, and Q by v/N a
    layer, which the following layers sum up to 1/(1 - f') times as much. NaN where `mean_field` has no certified q*, or
    f' >= 1. Raises ValueError as `mean_field` does.
    """
    function, field = named(activation), mean_field(activation, weight_variance, bias_variance)
    q = field.q
    if not (np.isfinite(q) and q > 0):
        return FiniteWidth(float("nan"), float("nan"))
    slopes = [weight_variance * variance_slope(function, q * factor) for factor in (1 - STEP, 1.0, 1 + STEP)]
    slope, bend = slopes[1], (slopes[2] - slopes[0]) / (2 * STEP * q)
    if slope >= 1:
        return FiniteWidth(float("nan"), float("nan"))
    fourth = gaussian_expectation(lambda u: function.value(u) ** 4, q, bends=function.bends)
    noise = weight_variance**2 * (fourth - mean_square(function, q) ** 2)
    shift = bend * noise / (2 * (1 - slope) ** 2 * (1 + slope))
    return FiniteWidth(float(shift), float((np.sqrt(2) * q + np.sqrt(noise) / (1 - slope)) ** 2))
