"""The non-negative interpolant of least weighted sum: what a network w = v² finds where noise has erased the start."""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

GAP_BOUND = 1e-8


def minimum_weighted_sum(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], costs: Float[np.ndarray, "feature"]
) -> Float[np.ndarray, "feature"]:
    """Return argmin Σ costs·w subject to Xw = y, w >= 0, by a linear program; unique for data in general position.

    With costs 1 it is the non-negative solution of least l1 norm. With costs mean(x²) it is where descent with label
    noise ends on w = v²: that noise drives it along the solutions to the least trace of the Hessian, 2 Σ mean(x²)·v²
    (Blanc et al. 2020, arXiv 1904.09080; Damian, Ma & Lee 2021, arXiv 2106.06530).

    Certificate: `weighted_gap` at most 1e-8, else NaN; NaN too where there is no non-negative solution.
    Raises ValueError for costs that are not positive, shapes that do not agree and infinite entries.
    """
    from scipy.optimize import linprog

    X, y = inputs.regression(X, y)
    costs = inputs.vector("costs", costs, X.shape[1], "X has columns")
    if (costs <= 0).any():
        raise ValueError(f"costs has the entry {costs[costs <= 0][0]:g}; it takes positive numbers")
    void = np.full(X.shape[1], np.nan)
    if np.isnan(X).any() or np.isnan(y).any() or np.isnan(costs).any():
        return void
    if not y.any():
        return np.zeros(X.shape[1])
    if not X.any():
        return void
    # HiGHS's tolerances are absolute: the program is solved in units in which they are relative.
    unit_X, unit_y = np.abs(X).max(), np.abs(y).max()
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    solution = linprog(
        costs / costs.max(), A_eq=X / unit_X, b_eq=y / unit_y, bounds=(0, None), method="highs", options=options
    )
    if solution.status != 0:
        return void
    weights = solution.x * (unit_y / unit_X)
    multipliers = solution.eqlin.marginals * costs.max() / unit_X
    return weights if weighted_gap(X, y, weights, costs, multipliers) <= GAP_BOUND else void


def weighted_gap(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "feature"],
    costs: Float[np.ndarray, "feature"],
    multipliers: Float[np.ndarray, "sample"],
) -> float:
    """Return the larger of ||Xw - y|| / ||y|| and the gap between Σ costs·w and its best known lower bound, relative.

    For multipliers ν with Xᵀν <= costs, ν·y is a lower bound on the sum of every solution; others are scaled down
    until they comply. Infinite for a negative weight.
    """
    if (weights < 0).any():
        return float("inf")
    excess = max(1.0, float((X.T @ multipliers / costs).max()))
    total, bound = float(costs @ weights), float(multipliers @ y) / excess
    misfit = float(np.linalg.norm(X @ weights - y) / np.linalg.norm(y))
    return max(misfit, abs(total - bound) / total if total > 0 else 0.0 if bound == 0 else float("inf"))
