"""Where Adam goes on the losses of Reddi, Kale & Kumar, whose rare large gradient it forgets or shrinks.

Every third loss is Cx, the others are −x, on [−1, 1], C > 2: their sum falls to the left, and the best point is −1.
With b1 = 0 Adam divides each gradient by the root of v, the decayed mean of squares (Reddi et al. 2018, arXiv
1904.09237).
"""

import numpy as np

from research.oracles import inputs

BOUND = 1e-12


def period_drift(large: float, b2: float) -> float:
    """Return by how much three of Adam's steps move x inside the interval, in units of the learning rate; b1 = 0.

    At late times v repeats every three steps: after the gradient C it is (1 − b2)(C² + b2 + b2²)/(1 − b2³), and so on
    in turn; the step is −g/√v. Positive: to +1, the worst point. −(C − 2) of the gradient itself is negative always.

    Certificate: v after three steps is v again to 1e-12 of itself, else NaN. NaN for NaN. Raises ValueError for a
    gradient that is not above 2, and b2 outside [0, 1).
    """
    C, b2 = inputs.number("large", large), inputs.number("b2", b2, low=0.0, below=1.0)
    if C <= 2:
        raise ValueError(f"large is {C:g}; it takes a number above 2")
    if np.isnan([C, b2]).any():
        return float("nan")
    gradients = np.array([C, -1.0, -1.0])
    v = (1 - b2) * (C**2 + b2 + b2**2) / (1 - b2**3)
    moments = [v]
    for g in (-1.0, -1.0, C):
        moments.append(b2 * moments[-1] + (1 - b2) * g**2)
    if abs(moments[3] - v) > BOUND * v:
        return float("nan")
    return float(-(gradients / np.sqrt(moments[:3])).sum())


def critical_b2(large: float) -> float:
    """Return the b2 below which Adam (b1 = 0) goes to the worst point and above which it does not.

    The root of `period_drift` in b2. For b2 → 1 all gradients are divided by the same number and the drift is that of
    gradient descent. NaN where the drift has one sign throughout, and for NaN. Raises ValueError as that does.
    """
    from scipy.optimize import brentq

    if np.isnan(large):
        return float("nan")
    ends = 1e-6, 1 - 1e-9
    if not period_drift(large, ends[0]) > 0 > period_drift(large, ends[1]):
        return float("nan")
    return float(brentq(lambda b2: period_drift(large, b2), *ends, xtol=1e-14))
