"""Which weights minimise a loss under a bound on their largest absolute value, and with AdamW's epsilon for a barrier.

The losses are 1/(2n)·||Xw - y||² and mean_i ln(1 + exp(-y_i·x_i·w)): half, and mean over the n samples, as in a run.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

ERROR_BOUND = 1e-8


def box_least_squares(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], bound: float
) -> Float[np.ndarray, "feature"]:
    """Return argmin 1/(2n)·||Xw - y||² subject to max|w| <= bound.

    Full-batch AdamW with decoupled decay λ, if it converges at a non-increasing rate of infinite sum, ends there for
    bound = 1/λ (Xie & Li 2024, arXiv 2404.04454, Theorem 1.1), and so does Lion (Chen et al. 2023, arXiv 2310.05898).
    By bounded-variable least squares (Stark & Parker 1995) in SciPy.

    Certificate: `optimality_error`, a bound on the relative distance, at most 1e-8, else NaN; so the columns of X must
    be independent. Raises ValueError for a negative bound, shapes that do not agree and infinite entries.
    """
    from scipy.optimize import lsq_linear

    X, y = inputs.regression(X, y)
    bound = inputs.number("bound", bound, low=0.0)
    void = np.full(X.shape[1], np.nan)
    if np.isnan(X).any() or np.isnan(y).any() or np.isnan(bound):
        return void
    if bound == 0:
        return np.zeros(X.shape[1])
    weights = lsq_linear(X, y, (-bound, bound), method="bvls", tol=1e-14).x
    weights = _newton(weights, bound, lambda w: X.T @ (X @ w - y) / len(y), lambda w: X.T @ X / len(y))
    error = optimality_error(weights, bound, X.T @ (X @ weights - y) / len(y), X.T @ X / len(y))
    return weights if error <= ERROR_BOUND else void


def box_logistic(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], bound: float
) -> Float[np.ndarray, "feature"]:
    """Return argmin mean_i ln(1 + exp(-y_i·x_i·w)) subject to max|w| <= bound, for labels -1 and +1.

    By L-BFGS-B, and Newton's method in the coordinates that it leaves inside the box.

    Certificate: `optimality_error` at most 1e-8, else NaN; so the columns of X must be independent.
    Raises ValueError as `box_least_squares` does, and for other labels.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    X, y = inputs.classification(X, y)
    bound = inputs.number("bound", bound, low=0.0)
    void = np.full(X.shape[1], np.nan)
    if np.isnan(X).any() or np.isnan(y).any() or np.isnan(bound):
        return void
    if bound == 0:
        return np.zeros(X.shape[1])
    Z = X * y[:, None]
    gradient = lambda w: -Z.T @ expit(-Z @ w) / len(Z)
    hessian = lambda w: (Z.T * (expit(-Z @ w) * expit(Z @ w))) @ Z / len(Z)
    found = minimize(
        lambda w: np.logaddexp(0.0, -Z @ w).mean(),
        np.zeros(X.shape[1]),
        jac=gradient,
        method="L-BFGS-B",
        bounds=[(-bound, bound)] * X.shape[1],
        options={"maxiter": 10_000, "ftol": 1e-15, "gtol": 1e-10},
    )
    weights = _newton(found.x, bound, gradient, hessian)
    return weights if optimality_error(weights, bound, gradient(weights), hessian(weights)) <= ERROR_BOUND else void


def barrier_least_squares(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], weight_decay: float, epsilon: float
) -> Float[np.ndarray, "feature"]:
    """Return the rest point of AdamW on 1/(2n)·||Xw - y||² with any epsilon > 0.

    At rest the first moment is the gradient g and the root of the second is |g|, so that g/(|g| + ε) = -λ·w, or
    g = -ε·λ·w/(1 - λ|w|): the gradient of the loss plus the barrier ε·Σ(-|w_j| - ln(1 - λ|w_j|)/λ) is zero. The sum is
    strictly convex. For ε → 0 it is the box of half-width 1/λ; for ε → infinity the barrier is ε·λ/2·||w||² and the
    minimiser ridge(ε·λ). Found by Newton's method that stays inside.

    Certificate: its last step at most 1e-8 of the weights, else NaN.
    Raises ValueError for a weight decay or an epsilon that is not positive, and as `box_least_squares` does.
    """
    X, y = inputs.regression(X, y)
    weight_decay = inputs.number("weight_decay", weight_decay, low=float(np.finfo(float).tiny))
    epsilon = inputs.number("epsilon", epsilon, low=float(np.finfo(float).tiny))
    void = np.full(X.shape[1], np.nan)
    if np.isnan(X).any() or np.isnan(y).any() or np.isnan(weight_decay) or np.isnan(epsilon):
        return void
    H, b = X.T @ X / len(y), X.T @ y / len(y)
    inside = lambda w: 1 - weight_decay * np.abs(w)
    value = lambda w: (
        w @ H @ w / 2 - b @ w - epsilon * (np.abs(w) + np.log1p(-weight_decay * np.abs(w)) / weight_decay).sum()
    )
    w, moved = np.zeros(X.shape[1]), float("inf")
    for _ in range(1000):
        gradient = H @ w - b + epsilon * weight_decay * w / inside(w)
        step = -np.linalg.solve(H + np.diag(epsilon * weight_decay / inside(w) ** 2), gradient)
        size = np.linalg.norm(w)
        moved = float(np.linalg.norm(step) / size if size > 0 else np.linalg.norm(step) > 0)
        if moved <= 1e-13:
            break
        length = 1.0
        # Next to the minimum the value no longer resolves a step, which is then right as it is.
        while length > 1e-14 and (
            inside(w + length * step).min() <= 0
            or (moved > 1e-4 and value(w + length * step) > value(w) + 1e-4 * length * (gradient @ step))
        ):
            length /= 2
        w = w + length * step
    return w if moved <= ERROR_BOUND else void


def face_stiffness(X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], bound: float) -> float:
    """Return how much faster than w the gradient changes on the faces of the box: the largest eigenvalue of S/|g|.

    g is the gradient of 1/(2n)·||Xw - y||² at its minimiser in the box, in the coordinates on a face, and S the Schur
    complement there of the curvature, the coordinates inside following. Let one be δ short of its face. AdamW's
    √v = |g|(1 + ν) at rest moves as ν' = (1 - b2)(S·δ/|g| - ν), and w as δ' = -ηλδ - η(S·δ/|g| - ν). With s what is
    returned the slower of the two rates of a mode is about ηλ(1 - b2)/(1 - b2 + η(λ + s)), or (1 - b2)·λ/(λ + s) for η
    well above 1 - b2.

    0 where no coordinate is on a face; NaN where `box_least_squares` is or a multiplier is 0. Raises as it does.
    """
    weights = box_least_squares(X, y, bound)
    if np.isnan(weights).any():
        return float("nan")
    X, y = inputs.regression(X, y)
    H, gradient = X.T @ X / len(y), np.abs(X.T @ (X @ weights - y)) / len(y)
    on = np.abs(weights) >= bound * (1 - 1e-12)
    if not on.any():
        return 0.0
    if gradient[on].min() == 0:
        return float("nan")
    across = H[np.ix_(on, ~on)]
    S = H[np.ix_(on, on)] - across @ np.linalg.solve(H[np.ix_(~on, ~on)], across.T)
    root = np.sqrt(gradient[on])
    return float(np.linalg.eigvalsh(S / np.outer(root, root))[-1])


def optimality_error(
    weights: Float[np.ndarray, "feature"],
    bound: float,
    gradient: Float[np.ndarray, "feature"],
    hessian: Float[np.ndarray, "feature feature2"],
) -> float:
    """Return how far, relative to ||w||, a minimiser in the box may be from `weights` where this gradient was found.

    The multiplier conditions: a coordinate inside has no gradient, one on the box a gradient that pushes outwards; what
    is left of the gradient, over the least curvature, bounds the distance (for least squares; to first order else).
    Infinite outside the box.
    """
    if not np.isfinite(weights).all() or np.abs(weights).max() > bound * (1 + 1e-12):
        return float("inf")
    on, outwards = np.abs(weights) >= bound * (1 - 1e-12), np.sign(weights) * gradient <= 0
    left, least = np.linalg.norm(np.where(on & outwards, 0.0, gradient)), np.linalg.eigvalsh(hessian)[0]
    if left == 0:
        return 0.0
    return float(left / least / np.linalg.norm(weights)) if least > 0 and weights.any() else float("inf")


def _newton(w: np.ndarray, bound: float, gradient: Callable, hessian: Callable) -> np.ndarray:
    """Return w after Newton steps in the coordinates inside the box, for as long as they stay there."""
    w = np.clip(w, -bound, bound)
    slope = gradient(w)
    w = np.where((np.abs(w) > bound * (1 - 1e-6)) & (np.sign(w) * slope < 0), np.sign(w) * bound, w)
    free = np.abs(w) < bound
    for _ in range(20):
        if not free.any():
            break
        step = np.zeros(len(w))
        step[free] = -np.linalg.lstsq(hessian(w)[np.ix_(free, free)], gradient(w)[free], rcond=None)[0]
        if np.abs(w + step).max() > bound:
            break
        w = w + step
        if np.linalg.norm(step) <= 1e-15 * np.linalg.norm(w):
            break
    return w
