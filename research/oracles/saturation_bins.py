"""What the saturation measure φ_B does with its bins, and what it cannot see, for Gaussian pre-activations.

φ_B = Σ_b |Σ_(g' in bin b) g'|/(number of outputs), g' an output scaled from the range of its activation to [-1, 1], B
equal bins (Rakitianskaia & Engelbrecht 2015, IEEE SSCI, pp. 1423-1430). Every bin but the one that holds the middle has
g' of one sign, and that one exists for odd B only: φ_B = E|g'| for even B, and for odd B = E|g'|·1(|g'| > 1/B) +
|E g'·1(|g'| <= 1/B)|, whose last term vanishes for an odd g'.

A unit that sits at one end for all inputs and one that jumps between both have the same |g'|. They are told apart by
the part of E g'² that is the same for all inputs, E g'(u₁)g'(u₂)/E g'², u₁ and u₂ the pre-activations of one unit for
two inputs.
"""

import numpy as np

from research.oracles import inputs
from research.oracles.activations import Activation, Function, named
from research.oracles.gaussian import FINER, ORDER, gaussian_expectation, pair_expectation
from research.oracles.mean_field import saturation

BOUND = 1e-9


def binned_saturation(activation: str | Activation, q: float, bins: int) -> float:
    """Return φ_B on pre-activations N(0, q), for a monotone activation with a bounded range.

    Certificate: a finer quadrature within 1e-9, else NaN; NaN for an unbounded range. Raises ValueError for an unknown
    activation, a negative q, and fewer than one bin.
    """
    function, variance = named(activation), inputs.number("q", q, low=0.0)
    if isinstance(bins, bool) or bins != int(bins) or bins < 1:
        raise ValueError(f"bins is {bins!r}; it takes a whole number from 1")
    if bins % 2 == 0 or np.isnan(variance) or np.isinf([function.low, function.high]).any():
        return saturation(function, variance)
    scaled = _scaled(function)
    places = (*function.bends, *(_where(scaled, end) for end in (-1 / bins, 1 / bins)))
    finite = [place for place in places if np.isfinite(place)]
    inside = lambda u: scaled(u) * (np.abs(scaled(u)) <= 1 / bins)
    outside = lambda u: np.abs(scaled(u)) * (np.abs(scaled(u)) > 1 / bins)
    value, finer = (
        gaussian_expectation(outside, variance, order, finite)
        + abs(gaussian_expectation(inside, variance, order, finite))
        for order in (ORDER, FINER)
    )
    return value if abs(value - finer) <= BOUND else float("nan")


def constant_share(activation: str | Activation, q: float, correlation: float) -> float:
    """Return E g'(u₁)g'(u₂)/E g'² for u₁, u₂ of variance q > 0 and that correlation, at least 0.

    1 where units say the same whatever the input, 0 where they are as often at one end as at the other.
    Certificate and errors as those of `binned_saturation`, and a correlation outside [0, 1].
    """
    function, variance = named(activation), inputs.number("q", q, low=np.nextafter(0.0, 1.0))
    apart = 1 - inputs.number("correlation", correlation, low=0.0, below=np.nextafter(1.0, 2.0))
    if np.isnan([variance, apart]).any() or np.isinf([function.low, function.high]).any():
        return float("nan")
    if apart == 0:
        return 1.0
    scaled, bends = _scaled(function), function.bends
    value, finer = (
        pair_expectation(scaled, variance, apart, product=True, order=order, bends=bends)
        / gaussian_expectation(lambda u: scaled(u) ** 2, variance, order, bends)
        for order in (ORDER, FINER)
    )
    return value if abs(value - finer) <= BOUND else float("nan")


def _scaled(function: Activation) -> Function:
    return lambda u: 2 * (function.value(u) - function.low) / (function.high - function.low) - 1


def _where(scaled: Function, level: float) -> float:
    """Return where a function that rises reaches the level; infinite beyond ±1e8."""
    from scipy.optimize import brentq

    off = lambda x: float(scaled(np.asarray(x))) - level
    if off(-1e8) > 0 or off(1e8) < 0:
        return float("inf")
    return float(brentq(off, -1e8, 1e8, xtol=1e-14, rtol=1e-14, maxiter=500))
