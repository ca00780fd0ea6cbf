"""What stopping gradient flow at the least loss on held-out samples costs against stopping at the best time."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs


class Holdout(NamedTuple):
    """The best time of the flow, its risk ‖w - β‖², and the regret for one held-out sample: that of m is 1/m of it.

    `spread` is the variance of the logarithm of the time chosen, for one held-out sample alike.
    """

    best_time: float
    least_risk: float
    regret: float
    spread: float


def holdout_law(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    planted: Float[np.ndarray, "feature"],
    noise: float,
) -> Holdout:
    """Return what stopping by m held-out samples x ~ N(0, I), y = x·β + noise·N(0, 1) costs, as m grows.

    In τ = ln t the flow's risk is R(τ) ≈ R* + R''(τ - τ*)²/2. The slope of the held-out loss in τ at τ* has mean R' = 0
    and, for the residual e = y - x·w and w' = dw/dτ, variance 4 E e² E(x·w')²/m = 4 (noise² + R*)‖w'‖²/m (Isserlis; e
    and x·w' are uncorrelated at τ*). It moves the minimum by slope/R'', at a cost of slope²/(2R'') in the mean. Next
    orders are smaller by the variance of τ.

    Certificate: of 800 times from 1e-3/s_max to 1e3/s_min (s > 0 eigenvalues of XᵀX/n) the best is not at an end, and,
    polished, has |R'| <= 1e-6 R and R'' > 0, and is better than never stopping by 1 % at least; else NaN.
    NaN for NaN. Raises ValueError for shapes that do not agree.
    """
    from scipy.optimize import minimize_scalar

    X, y = inputs.regression(X, y)
    planted = inputs.vector("planted", planted, X.shape[1], "X has columns")
    noise = inputs.number("noise", noise, low=0.0)
    void = Holdout(*[float("nan")] * 4)
    if np.isnan(noise) or any(np.isnan(each).any() for each in (X, y, planted)):
        return void
    _, singular, Vt = np.linalg.svd(X, full_matrices=False)
    s = singular**2 / len(X)
    V, s = Vt[s > 1e-12 * s.max()].T, s[s > 1e-12 * s.max()]
    if not len(s):
        return void
    limit, own = (X.T @ y / len(X) @ V) / s, planted @ V
    unseen = planted @ planted - own @ own

    def derivatives(log_time: float) -> tuple[float, float, float, float]:
        x = s * np.exp(log_time)
        missing, first = -np.expm1(-x) * limit - own, x * np.exp(-x) * limit
        second = (1 - x) * first
        risk = missing @ missing + unseen
        return risk, 2 * missing @ first, 2 * (first @ first + missing @ second), first @ first

    grid = np.linspace(-np.log(s.max()) - 7, -np.log(s.min()) + 7, 800)
    place = int(np.argmin([derivatives(each)[0] for each in grid]))
    if place in (0, len(grid) - 1):
        return void
    risk_at = lambda log_time: derivatives(log_time)[0]
    bounds = (grid[place - 1], grid[place + 1])
    best = float(minimize_scalar(risk_at, bounds=bounds, method="bounded", options={"xatol": 1e-11}).x)
    risk, slope, curvature, speed = derivatives(best)
    if curvature <= 0 or abs(slope) > 1e-6 * risk or risk > 0.99 * risk_at(grid[-1]):
        return void
    variance = 4 * (noise**2 + risk) * speed
    return Holdout(float(np.exp(best)), risk, variance / (2 * curvature), variance / curvature**2)
