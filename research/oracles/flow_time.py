"""How long gradient flow on a linear classifier takes to an accuracy, by the cost that it descends.

Flow: dw/dt = -∇ of the mean cost of the samples; u = y (x·w) is the margin of a sample, labels are -1 and +1. Costs as
in `cost_functions`: "cross_entropy" ln(1 + e^-u), "quadratic" (1 - p)²/2 with p = 1/(1 + e^-u) the label's probability.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs
from research.oracles.cost_functions import COSTS

AGREEMENT = 1e-3
LONGEST = 1e6
CLOSER = 10


def flow_time(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    initial: Float[np.ndarray, "feature"],
    cost: str,
    accuracy: float,
) -> float:
    """Return the first time at which that share of the margins is positive, from the weights `initial`; 0 if at once.

    Integrated in the margins, du/dt = K s(u)/n with K = Z Zᵀ, Z = y x and s the slope of the cost, by Dormand and
    Prince's method of order 8. Certificate: a looser tolerance moves the answer by 0.1 % at most, else NaN; NaN
    too beyond a time of 10⁶. Raises ValueError for another cost, an accuracy outside (0, 1] and as `maximum_margin`.
    """
    X, y = inputs.classification(X, y)
    initial = inputs.vector("initial", initial, X.shape[1], "X has columns")
    accuracy = inputs.number("accuracy", accuracy, low=1e-9, below=1 + 1e-9)
    if cost not in COSTS:
        raise ValueError(f"cost is {cost!r}; it takes {' or '.join(COSTS)}")
    if np.isnan(X).any() or np.isnan(y).any() or np.isnan(initial).any() or np.isnan(accuracy):
        return float("nan")
    Z = X * y[:, None]
    gram, start, needed = Z @ Z.T / len(Z), Z @ initial, int(np.ceil(accuracy * len(Z) - 1e-9))
    coarse, fine = (_reached(gram, start, cost, needed, tolerance) for tolerance in (1e-7, 1e-10))
    return fine if abs(coarse - fine) <= AGREEMENT * fine else float("nan")


def _reached(gram: np.ndarray, start: np.ndarray, cost: str, needed: int, tolerance: float) -> float:
    """Return when `needed` margins are positive first, NaN where they are not by the longest time."""
    from scipy.integrate import DOP853
    from scipy.special import expit

    enough = lambda u: int((u > 0).sum()) >= needed
    if enough(start):
        return 0.0
    slope = expit if cost == "cross_entropy" else (lambda v: expit(v) ** 2 * expit(-v))
    solver = DOP853(lambda _, u: gram @ slope(-u), 0.0, start, LONGEST, rtol=tolerance, atol=tolerance)
    while solver.status == "running":
        solver.step()
        between = solver.dense_output()
        times = np.linspace(solver.t_old, solver.t, CLOSER + 1)  # a margin may be positive in between only
        first = next((place for place, time in enumerate(times) if enough(between(time))), None)
        if first:
            low, high = times[first - 1], times[first]
            for _ in range(60):
                middle = (low + high) / 2
                low, high = (low, middle) if enough(between(middle)) else (middle, high)
            return float(high)
    return float("nan")
