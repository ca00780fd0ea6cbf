"""How the slopes of an activation are distributed over Gaussian pre-activations of a large variance.

For u ~ N(0, q) and a slope that is square integrable, E φ'(u)² = ∫ φ'(x)² N(x; 0, q) dx tends to ∫ φ'² dx/√(2πq),
whatever the tails of φ': the few units near 0 carry it. A typical unit is another matter: for an even φ' that falls
with |u|, the median of φ'(u) is φ' at the median of |u|, 0.6745·√q.
"""

from itertools import pairwise

import numpy as np
from scipy.special import ndtri

from research.oracles import inputs
from research.oracles.activations import Activation, named

TOLERANCE = 1e-9
MEDIAN = float(ndtri(0.75))  # of |z| for a standard normal z


def mean_square_law(activation: str | Activation, q: float) -> float:
    """Return ∫ φ'² dx/√(2πq), which E φ'(√q z)² tends to as q grows.

    The integral: 4/3 for tanh, 2/3 for softsign, 1/6 for the logistic function. The relative error of the law is
    ∫ x²φ'²/(2q ∫ φ'²) to first order. NaN where the integral is not certified within 1e-9 (it does not exist for an
    unbounded φ such as "relu"). Raises ValueError for an unknown activation and for q that is not positive.
    """
    from scipy.integrate import quad

    function, variance = named(activation), inputs.number("q", q, low=np.nextafter(0.0, 1.0))
    if np.isinf([function.low, function.high]).any() or np.isnan(variance):
        return float("nan")
    breaks = [-np.inf, *sorted({-4.0, 4.0, *function.bends}), np.inf]
    square = lambda x: float(function.slope(np.asarray(x)) ** 2)
    parts = [quad(square, *ends, epsabs=1e-13, epsrel=1e-12, limit=200) for ends in pairwise(breaks)]
    value, error = np.sum(parts, axis=0)
    return float(value / np.sqrt(2 * np.pi * variance)) if error <= TOLERANCE * value else float("nan")


def median_slope(activation: str | Activation, q: float) -> float:
    """Return the median of φ'(√q z) for an activation whose slope is even and falls with |x|.

    NaN where it is not (looked at up to ten standard deviations). Raises as `mean_square_law`.
    """
    function, variance = named(activation), inputs.number("q", q, low=np.nextafter(0.0, 1.0))
    if np.isnan(variance):
        return float("nan")
    x = np.sqrt(variance) * np.linspace(0, 10, 1001)
    slopes, mirrored = function.slope(x), function.slope(-x)
    if not np.allclose(slopes, mirrored, rtol=1e-12, atol=0) or (np.diff(slopes) > 0).any():
        return float("nan")
    return float(function.slope(np.array(MEDIAN * np.sqrt(variance))))
