"""The scaled tanh f(w) = 1.7159 tanh(2w/3) of LeCun et al. 1998, and a unit trained to say a target with it.

The unit has one weight w, input 1 and the cost (f(w) - target)²/2, so that gradient flow is dw/dt = (target - f) f'.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

AMPLITUDE, STEEPNESS = 1.7159, 2 / 3
RESIDUAL_BOUND = 1e-9
LARGEST = 200.0


def largest_curvature() -> float:
    """Return the w > 0 at which |f''| is largest: tanh² = 1/3 there, so 3/2 · artanh(1/√3) = 0.9877."""
    return float(np.arctanh(3**-0.5) / STEEPNESS)


def target_weight(target: float) -> float:
    """Return the w with f(w) = target, infinite for a target at the asymptote or beyond it; NaN for NaN."""
    share = inputs.number("target", target) / AMPLITUDE
    if np.isnan(share) or abs(share) < 1:
        return float(np.arctanh(share) / STEEPNESS)
    return float(np.copysign(np.inf, share))


def asymptotic_weight(time: Float[np.ndarray, "step"], initial: float) -> Float[np.ndarray, "step"]:
    """Return w at those times of the flow whose target is the asymptote, 1.7159.

    With y = e^(4w/3): 1 - tanh(2w/3) = 2/(1 + y) and f' = A (2/3) · 4y/(1 + y)², so that dy/dt = (64/9) A² y²/(1 + y)³
    and y²/2 + 3y + 3 ln y - 1/y = (64/9) A² t + the same at the start. So y ~ √t in the end, and w ~ 3/8 ln t.

    Certificate: that equation within 1e-9 of its parts, else NaN; NaN for NaN. Raises ValueError for negative times and
    an initial weight beyond ±200.
    """
    from scipy.optimize import brentq

    times, initial = inputs.array("time", time, 1), inputs.number("initial", initial, low=-LARGEST, below=LARGEST)
    if (times < 0).any():
        raise ValueError(f"time is {times.min():g} somewhere; it takes numbers that are not negative")
    answers = np.full(len(times), np.nan)
    if np.isnan(initial):
        return answers
    parts = lambda s: np.array([np.exp(2 * s) / 2, 3 * np.exp(s), 3 * s, -np.exp(-s)])  # s = ln y
    begun = parts(2 * STEEPNESS * initial).sum()
    for place, passed in enumerate(64 / 9 * AMPLITUDE**2 * times):
        if np.isnan(passed):
            continue
        left = lambda s, passed=passed: float(parts(s).sum() - begun - passed)
        low, high = 2 * STEEPNESS * initial - 1, max(2 * STEEPNESS * initial, 0.0) + np.log1p(2 * passed) + 1
        s = brentq(left, low, high, xtol=1e-14, rtol=1e-14)
        if abs(left(s)) <= RESIDUAL_BOUND * np.abs(parts(s)).sum():
            answers[place] = s / (2 * STEEPNESS)
    return answers
