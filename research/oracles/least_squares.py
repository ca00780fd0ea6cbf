"""Which solution of Xw = y: the one of least l2, l1 or l-infinity norm, the ridge one, the part no gradient reaches.

The objective of a run is 1/(2n)·||Xw - y||² + weight_decay/2·||w||² (half, mean over the n samples), here as there.

The rank of X is the number of singular values above max(n, d)·eps times the largest one. Where a singular value lies
between that and 1e-8 times the largest one the rank, and with it the answer, hangs on rounding: the result is NaN.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RESIDUAL_BOUND = 1e-10
GAP_BOUND = 1e-8
CONDITION_BOUND = 1e8


def minimum_l2_norm(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    nearest_to: Float[np.ndarray, "feature"] | None = None,
) -> Float[np.ndarray, "feature"]:
    """Return the least-squares solution nearest to a point: w0 + X⁺(y - X·w0), or X⁺y for w0 = 0.

    It is the limit of gradient descent on least squares started at w0 = `nearest_to` with any stable learning rate,
    because every gradient lies in the row space of X (Zhang et al. 2017, arXiv 1611.03530, section 5). Right as well
    for X of deficient rank and for y outside the range of X.

    Certificate: `projection_residual` at most 1e-10 and the rank decided, else NaN.
    Raises ValueError for shapes that do not agree and for infinite entries.
    """
    X, y = inputs.regression(X, y)
    start = np.zeros(X.shape[1]) if nearest_to is None else nearest_to
    start = inputs.vector("nearest_to", start, X.shape[1], "X has columns")
    void = np.full(X.shape[1], np.nan)
    factors = _factors(X)
    if factors is None or not np.isfinite(y).all() or not np.isfinite(start).all():
        return void
    U, s, V = factors
    weights = start + V @ ((U.T @ (y - X @ start)) / s)
    return weights if projection_residual(X, y, weights, start) <= RESIDUAL_BOUND else void


def projection_residual(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "feature"],
    nearest_to: Float[np.ndarray, "feature"],
) -> float:
    """Return how far `weights` are from the least-squares solution nearest to a point, relative to their sizes.

    The two conditions that single it out: a zero gradient, and a displacement that is a combination of the samples.
    """
    if not np.isfinite(weights).all():
        return float("inf")
    moved = weights - nearest_to
    slope = np.linalg.norm(X.T @ (X @ weights - y))
    size = np.linalg.norm(X, 2) * (np.linalg.norm(X, 2) * np.linalg.norm(weights) + np.linalg.norm(y))
    outside = np.linalg.norm(X.T @ np.linalg.lstsq(X.T, moved, rcond=None)[0] - moved)
    span = np.linalg.norm(weights) + np.linalg.norm(nearest_to)
    return float(np.maximum(_ratio(slope, size), _ratio(outside, span)))


def minimum_l1_norm(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"]
) -> Float[np.ndarray, "feature"]:
    """Return a solution of Xw = y with the least sum of absolute values (basis pursuit), by a linear program.

    It is the only one for data in general position, and a vertex of the set of them otherwise.
    Chen, Donoho & Saunders 1998, "Atomic decomposition by basis pursuit".

    Certificate: `duality_gap` of order 1 at most 1e-8, else NaN; NaN too where Xw = y has no solution.
    Raises ValueError for shapes that do not agree and for infinite entries.
    """
    return _interpolant(X, y, 1.0)


def minimum_linf_norm(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"]
) -> Float[np.ndarray, "feature"]:
    """Return a solution of Xw = y with the least largest absolute value, by a linear program.

    It is the only one for data in general position, and a vertex of the set of them otherwise.

    Certificate: `duality_gap` of order infinity at most 1e-8, else NaN; NaN too where Xw = y has no solution.
    Raises ValueError for shapes that do not agree and for infinite entries.
    """
    return _interpolant(X, y, np.inf)


def duality_gap(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "feature"],
    multipliers: Float[np.ndarray, "sample"],
    order: int | float,
) -> float:
    """Return the larger of ||Xw - y|| / ||y|| and the relative gap between ||w|| and its best known lower bound.

    For any multipliers ν, ν·y / ||Xᵀν|| in the dual norm is a lower bound on the norm of every solution of Xw = y.
    """
    order = inputs.norm_order(order)
    misfit = _ratio(np.linalg.norm(X @ weights - y), np.linalg.norm(y))
    bound = _ratio(multipliers @ y, np.linalg.norm(X.T @ multipliers, {1.0: np.inf, 2.0: 2, np.inf: 1}[order]))
    norm = np.linalg.norm(weights, order)
    return float(np.maximum(misfit, _ratio(abs(norm - bound), norm)))


def ridge(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], strength: float
) -> Float[np.ndarray, "feature"]:
    """Return argmin 1/(2n)·||Xw - y||² + strength/2·||w||²; for strength 0 its limit, the minimum-l2-norm solution.

    Certificate: the bound `ridge_error` on the relative error at most 1e-9, else NaN (and NaN for an undecided rank).
    Raises ValueError for a negative strength, shapes that do not agree and infinite entries.
    """
    X, y = inputs.regression(X, y)
    strength = inputs.number("strength", strength, low=0.0)
    void = np.full(X.shape[1], np.nan)
    factors = _factors(X)
    if factors is None or np.isnan(strength) or np.isnan(y).any():
        return void
    if strength == 0:
        return minimum_l2_norm(X, y)
    U, s, V = factors
    weights = V @ (s / (s**2 + len(y) * strength) * (U.T @ y))
    return weights if ridge_error(X, y, weights, strength) <= 10 * RESIDUAL_BOUND else void


def ridge_error(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "feature"],
    strength: float,
) -> float:
    """Return a bound on the distance of `weights` from the ridge solution, relative to their norm.

    The gradient over the curvature, apart in the row space of X and in its null space, where the solution is zero.
    """
    factors = _factors(X)
    if factors is None:
        return float("nan")
    _, s, V = factors
    gradient = X.T @ (X @ weights - y) / len(y) + strength * weights
    floor = strength + (s[-1] ** 2 / len(y) if len(s) else 0.0)
    outside = np.linalg.norm(weights - V @ (V.T @ weights))
    return _ratio(float(np.linalg.norm(V.T @ gradient) / floor + outside), float(np.linalg.norm(weights)))


def null_component(
    X: Float[np.ndarray, "sample feature"], w: Float[np.ndarray, "feature"]
) -> Float[np.ndarray, "feature"]:
    """Return the projection of w on the null space of X: what no gradient of a loss of Xw can change.

    Weights that are not finite (a run that diverged) give NaN.
    Certificate: X times the result, and the rest's distance from the row space, at most 1e-10 relative, else NaN.
    Raises ValueError for shapes that do not agree and for infinite entries of X.
    """
    X = inputs.array("X", X, 2)
    w = np.asarray(w, dtype=np.float64)
    w = inputs.vector("w", np.where(np.isfinite(w), w, np.nan), X.shape[1], "X has columns")
    void = np.full(X.shape[1], np.nan)
    factors = _factors(X)
    if factors is None or np.isnan(w).any():
        return void
    _, _, V = factors
    outside = w - V @ (V.T @ w)
    outside -= V @ (V.T @ outside)
    # The nearest interpolant of zero targets is the same projection, judged by the same two conditions.
    return outside if projection_residual(X, np.zeros(len(X)), outside, w) <= RESIDUAL_BOUND else void


def stability_threshold(
    X: Float[np.ndarray, "sample feature"], weight_decay: float = 0.0, momentum: float = 0.0
) -> float:
    """Return the learning rate above which heavy-ball gradient descent on the ridge objective diverges.

    2·(1 + momentum) / (λ_max(XᵀX/n) + weight_decay): the roots of z² - (1 + β - ηλ)·z + β stay in the unit disc for
    0 < ηλ < 2(1 + β) (Polyak 1964). The weight decay is part of the loss. Infinite for X = 0 without weight decay.

    Certificate: (1 + 1e-10)·λ_max - XᵀX/n positive definite by Cholesky, a Rayleigh quotient within 1e-10, else NaN.
    Raises ValueError for a negative weight decay, a momentum outside [0, 1) and infinite entries.
    """
    X = inputs.array("X", X, 2)
    weight_decay = inputs.number("weight_decay", weight_decay, low=0.0)
    momentum = inputs.number("momentum", momentum, low=0.0, below=1.0)
    if np.isnan(X).any() or np.isnan(weight_decay) or np.isnan(momentum):
        return float("nan")
    gram = (X @ X.T if len(X) < X.shape[1] else X.T @ X) / len(X)
    values, vectors = np.linalg.eigh(gram)
    largest, direction = max(float(values[-1]), 0.0), vectors[:, -1]
    if largest > 0:
        try:
            np.linalg.cholesky((1 + RESIDUAL_BOUND) * largest * np.eye(len(gram)) - gram)
        except np.linalg.LinAlgError:
            return float("nan")
        if abs(direction @ gram @ direction / (direction @ direction) - largest) > RESIDUAL_BOUND * largest:
            return float("nan")
    return 2 * (1 + momentum) / (largest + weight_decay) if largest + weight_decay > 0 else float("inf")


def smallest_eigenvalue(X: Float[np.ndarray, "sample feature"]) -> float:
    """Return the smallest eigenvalue of XᵀX/n that is not zero; NaN where the rank is not decided.

    Raises ValueError for infinite entries.
    """
    factors = _factors(inputs.array("X", X, 2))
    return float("nan") if factors is None else float(factors[1].min() ** 2 / len(X))


def _factors(X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return U, s, V of the rank-revealing X = U·diag(s)·Vᵀ, or None where the rank is not decided."""
    if np.isnan(X).any():
        return None
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    kept = s > max(X.shape) * np.finfo(float).eps * s[0]
    if (s[kept] * CONDITION_BOUND < s[0]).any():
        return None
    return U[:, kept], s[kept], Vt[kept].T


def _interpolant(X: np.ndarray, y: np.ndarray, order: float) -> np.ndarray:
    """Return the solution of Xw = y with the least norm of order 1 or infinity."""
    from scipy.optimize import linprog

    X, y = inputs.regression(X, y)
    features = X.shape[1]
    void = np.full(features, np.nan)
    if np.isnan(X).any() or np.isnan(y).any():
        return void
    if not y.any():
        return np.zeros(features)
    if not X.any():
        return void
    # HiGHS's tolerances are absolute: the program is solved in units in which they are relative.
    unit_X, unit_y = np.abs(X).max(), np.abs(y).max()
    A, b = X / unit_X, y / unit_y
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    if order == 1:
        cost, equations = np.ones(2 * features), np.hstack([A, -A])
        solution = linprog(cost, A_eq=equations, b_eq=b, bounds=(0, None), method="highs", options=options)
    else:
        cost, equations = np.append(np.zeros(features), 1.0), np.hstack([A, np.zeros((len(A), 1))])
        identity, ones = np.eye(features), np.ones((features, 1))
        box = np.block([[identity, -ones], [-identity, -ones]])
        free = [(None, None)] * features + [(0, None)]
        solution = linprog(
            cost, box, np.zeros(2 * features), equations, b, bounds=free, method="highs", options=options
        )
    if solution.status != 0:
        return void
    weights = solution.x[:features] - (solution.x[features:] if order == 1 else 0.0)
    weights = weights * (unit_y / unit_X)
    return weights if duality_gap(X, y, weights, solution.eqlin.marginals, order) <= GAP_BOUND else void


def _ratio(amount: float | np.floating, size: float | np.floating) -> float:
    """Return amount / size, and 0 for 0 / 0."""
    return 0.0 if amount == 0 else float(amount) / float(size) if size > 0 else np.inf
