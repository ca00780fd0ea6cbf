"""What a univariate function costs a network with one hidden layer of ReLU units, and the cheapest that fits the data.

f(x) = Σ_j a_j·max(w_j·x + b_j, 0) + c costs 1/2·Σ_j (a_j² + w_j²), biases free. The cheapest network for f, as wide as
it takes, costs max(∫|f''|, |f'(-∞) + f'(∞)|) (Savarese, Evron, Soudry & Srebro 2019, arXiv 1902.05040, Theorem 3.1).

Over all f through the points: f' takes the slopes s_1, ..., s_m of the linear spline in this order, so that with
δ = |f'(-∞) - s_1| + |f'(∞) - s_m| the integral is at least D + δ, D = Σ|s_{i+1} - s_i|, and the other term at least
S - δ, S = |s_1 + s_m|; both are reached by bending the spline's ends outside the data. The least cost, over δ >= 0, is
D, or where S > D it is (D + S)/2.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

GAP_BOUND = 1e-9


def representation_cost(
    x: Float[np.ndarray, "sample"], y: Float[np.ndarray, "sample"], weight_decay: float = 0.0
) -> float:
    """Return the cost of the network that minimises 1/(2n)·Σ(f(x_i) - y_i)² + weight_decay·cost(f).

    For weight_decay 0, its limit, of the cheapest network through the points. The least cost C is a convex, piecewise
    linear function of y; where y - weight_decay·n·g, g = ∇C(y), still lies on the piece of y, these are the outputs of
    the minimiser, and the cost is C(y) - weight_decay·n·|g|²: linear in the weight decay.

    Certificate: `duality_gap` of g at those outputs at most 1e-9, else NaN: beyond the piece of y the answer is NaN.
    Raises ValueError for fewer than two points, equal x, a negative weight decay and infinite entries.
    """
    x, y = _points(x, y)
    weight_decay = inputs.number("weight_decay", weight_decay, low=0.0)
    if np.isnan(x).any() or np.isnan(y).any() or np.isnan(weight_decay):
        return float("nan")
    multipliers = cost_gradient(x, y)
    outputs = y - weight_decay * len(x) * multipliers
    return _spline_cost(x, outputs) if duality_gap(x, outputs, multipliers) <= GAP_BOUND else float("nan")


def cost_gradient(x: Float[np.ndarray, "sample"], y: Float[np.ndarray, "sample"]) -> Float[np.ndarray, "sample"]:
    """Return the gradient in y of the least cost through the points, with 0 for the sign of 0.

    Raises ValueError as `representation_cost`.
    """
    x, y = _points(x, y)
    order = np.argsort(x)
    bends, ends = _linear_maps(x[order])
    changes, ending = bends @ y[order], ends @ y[order]
    gradient = np.sign(changes) @ bends
    if abs(ending) > np.abs(changes).sum():
        gradient = (gradient + np.sign(ending) * ends) / 2
    back = np.empty(len(x))
    back[order] = gradient
    return back


def duality_gap(
    x: Float[np.ndarray, "sample"], y: Float[np.ndarray, "sample"], multipliers: Float[np.ndarray, "sample"]
) -> float:
    """Return the largest of what certifies multipliers g as dual to the least cost C through the points, relative.

    g·y is a lower bound on C where Σg = 0 (the free bias) and no unit of |a| = |w| = 1 has |Σ g_i·max(±(x_i - t), 0)|
    above 1. Both sums are piecewise linear in t with knots at the x_i, and constant beyond them, so the knots suffice.
    """
    x, y = _points(x, y)
    g, cost = np.asarray(multipliers, dtype=float), _spline_cost(x, y)
    apart = x[:, None] - x[None, :]
    units = np.concatenate([g @ np.maximum(apart, 0), g @ np.maximum(-apart, 0)])
    span = np.abs(g).sum() * np.ptp(x) + np.finfo(float).tiny
    missing = abs(g @ y - cost) / (cost if cost > 0 else 1.0)
    return float(np.max([np.abs(units).max() - 1, abs(g.sum()) * np.ptp(x) / span, missing, 0.0]))


def _spline_cost(x: np.ndarray, y: np.ndarray) -> float:
    """Return D, or (D + S)/2 where S > D."""
    order = np.argsort(x)
    bends, ends = _linear_maps(x[order])
    total, ending = np.abs(bends @ y[order]).sum(), abs(ends @ y[order])
    return float(max(total, (total + ending) / 2))


def _linear_maps(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the maps from y, in the order of x, to the changes of slope and to the sum of the first and last slope."""
    slopes = np.diff(np.eye(len(x)), axis=0) / np.diff(x)[:, None]
    return np.diff(slopes, axis=0), slopes[0] + slopes[-1]


def _points(x: object, y: object) -> tuple[np.ndarray, np.ndarray]:
    """Return the places and the values."""
    x = inputs.array("x", x, 1)
    y = inputs.vector("y", y, len(x), "x")
    if len(x) < 2:
        raise ValueError("x has 1 entry; it takes two or more")
    if len(np.unique(x[~np.isnan(x)])) < (~np.isnan(x)).sum():
        raise ValueError("x has equal entries; it takes distinct places")
    return x, y
