"""Where slopes of activations end in a number format, and how many units of a wide layer lie beyond.

With p bits of significand (24 in float32), numbers below 1 are 2⁻ᵖ apart. tanh(x) rounds to 1, and 1 - tanh² to 0, once
1 - tanh(x) ~ 2e^(-2x) < 2^(-p-1): at x = (p + 2)·ln 2/2. The logistic function computed as 1/(1 + e^(-x)) is 1, and
σ(1 - σ) is 0, once e^(-x) < 2⁻ᵖ, half the distance of numbers above 1: at x = p·ln 2. To the left it has a slope until
e^x is below the smallest normal number 2^m, if smaller ones are flushed to zero: at x = m·ln 2.
"""

import numpy as np

from research.oracles import inputs
from research.oracles.gaussian import FINER, ORDER, gaussian_expectation

# bits of the significand, the leading one included, and the exponent of the smallest normal number
FORMATS = {"bfloat16": (8, -126), "float16": (11, -14), "float32": (24, -126), "float64": (53, -1022)}
BOUND = 1e-9


def last_slope(activation: str, number_format: str, end: float) -> float:
    """Return the x at which the slope of "tanh" or "sigmoid" becomes zero in that format, to the left for `end` < 0.

    Raises ValueError for another activation or format.
    """
    if number_format not in FORMATS:
        raise ValueError(f"number_format is {number_format!r}; it takes one of {', '.join(FORMATS)}")
    bits, exponent = FORMATS[number_format]
    side = np.sign(inputs.number("end", end))
    if activation == "tanh":
        return float(side * (bits + 2) / 2 * np.log(2))
    if activation == "sigmoid":
        return float((bits if side > 0 else exponent if side < 0 else np.nan) * np.log(2))
    raise ValueError(f"activation is {activation!r}; it takes 'tanh' or 'sigmoid'")


def exponential_end(number_format: str, end: float) -> float:
    """Return the x at which e^x leaves the format: ln of the largest number, or for `end` < 0 of the least normal one.

    The largest is just short of 2^(2 - m), m the exponent of the least normal one. Raises ValueError as `last_slope`.
    """
    if number_format not in FORMATS:
        raise ValueError(f"number_format is {number_format!r}; it takes one of {', '.join(FORMATS)}")
    exponent, side = FORMATS[number_format][1], np.sign(inputs.number("end", end))
    return float((2 - exponent if side > 0 else exponent if side < 0 else np.nan) * np.log(2))


def beyond_share(q: float, low: float, high: float) -> float:
    """Return P(u < low or u > high) for u ~ N(0, q). Raises ValueError for a negative q."""
    from scipy.special import ndtr

    deviation = np.sqrt(inputs.number("q", q, low=0.0))
    ends = inputs.number("low", low), inputs.number("high", high)
    if np.isnan([deviation, *ends]).any():
        return float("nan")
    if deviation == 0:
        return float(ends[0] > 0 or ends[1] < 0)
    return float(ndtr(ends[0] / deviation) + ndtr(-ends[1] / deviation))


def silent_share(q: float, correlation: float, samples: int, low: float, high: float) -> float:
    """Return the probability that a unit lies beyond for every one of that many inputs, of that correlation.

    With u_p = √(qc)·z + √(q(1 - c))·e_p it is E_z of the probability of one, given z, to the power of their number.
    Certificate: a finer quadrature within 1e-9, else NaN. Raises ValueError for a negative q, a correlation outside
    [0, 1] and fewer than one sample.
    """
    from scipy.special import ndtr

    variance, c = inputs.number("q", q, low=0.0), inputs.number("correlation", correlation, low=0.0, below=1 + 1e-15)
    if samples != int(samples) or samples < 1:
        raise ValueError(f"samples is {samples!r}; it takes a whole number from 1")
    if np.isnan([variance, c, low, high]).any():
        return float("nan")
    own = np.sqrt(variance * (1 - c))
    if own <= 1e-6 * np.sqrt(variance):
        return beyond_share(variance, low, high)
    power = lambda shared: (ndtr((low - shared) / own) + ndtr((shared - high) / own)) ** samples
    # The integrand bends on the scale of `own`: in units of it, on the scale of 1.
    function = lambda x: power(own * x)
    value, finer = (
        gaussian_expectation(function, variance * c / own**2, order, (low / own, 0.0, high / own))
        for order in (ORDER, FINER)
    )
    return value if abs(value - finer) <= BOUND else float("nan")
