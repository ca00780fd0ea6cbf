"""Which separator classification picks: maximum margins in three norms, the rate to the l2 one, the logistic optimum.

No separator here has a bias term. Labels are -1 and +1, z_i = y_i·x_i, and the margin of w is min_i z_i·w / ||w||.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

GAP_BOUND = {1.0: 1e-8, 2.0: 1e-12, np.inf: 1e-8}
SEPARATION = 1e-9
NEWTON_BOUND = 1e-9
TIGHT = 1e-7


def maximum_margin(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], order: int | float
) -> Float[np.ndarray, "feature"]:
    """Return argmin ||w|| in the norm of that order (1, 2 or numpy.inf) subject to z_i·w >= 1 for every sample.

    The margin of the result is the largest there is, 1/||w||. Order 2 is the hard-margin support vector machine, by
    non-negative least squares on its least-distance dual (Lawson & Hanson 1974, chapter 23), always unique. Orders
    1 and infinity are linear programs, unique for data in general position. Steepest descent in a norm approaches the
    direction that maximises the margin in that norm (Gunasekar et al. 2018, arXiv 1802.08246, Theorem 5).

    Certificate: `duality_gap` at most 1e-12 for order 2 (the direction is then right to about 1e-6), 1e-8 for orders 1
    and infinity, else NaN. NaN too for data that are not `separable`.
    Raises ValueError for other orders, labels other than -1 and +1, shapes that do not agree and infinite entries.
    """
    return _solve(X, y, order)[0]


def support_multipliers(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"]
) -> Float[np.ndarray, "sample"]:
    """Return α >= 0 with `maximum_margin(X, y, 2)` = Σ α_i·z_i, zero off the support vectors.

    Where the support vectors are linearly dependent, α is the multiplier vector that gradient descent selects, the only
    one of the form α_k = exp(-z_k·v) for some v (equal copies of a sample share their weight equally).

    Certificate: that of `maximum_margin`, and the sum right to 1e-9. NaN for data that are not separable and where a
    sample on the margin has no positive multiplier (a degenerate case of measure zero).
    Raises ValueError as `maximum_margin` does.
    """
    weights, multipliers = _solve(X, y, 2)
    void = np.full(len(multipliers), np.nan)
    if np.isnan(weights).any():
        return void
    Z = np.asarray(X, dtype=np.float64) * np.asarray(y, dtype=np.float64)[:, None]
    support = Z @ weights - 1 < TIGHT
    Z = Z[support]
    dependent = np.linalg.matrix_rank(Z, tol=1e-8 * np.linalg.norm(Z, 2)) < len(Z)
    alpha = _selected(Z, weights) if dependent else multipliers[support]
    exact = np.linalg.norm(Z.T @ alpha - weights) <= 1e-9 * np.linalg.norm(weights)
    if not exact or alpha.min() <= TIGHT * alpha.max():
        return void
    result = np.zeros(len(multipliers))
    result[support] = alpha
    return result


def margin_gap_slope(X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"]) -> float:
    """Return lim d(1/g)/d(ln t), g the relative l2-margin gap of gradient descent on the logistic or exponential loss.

    g(t) = 1 - margin(w(t)) / largest margin. With ŵ the maximum-margin solution and α its multipliers, the iterates are
    w(t) = ŵ·ln t + w̃ + o(1) with (η/n)·exp(-z_k·w̃) = α_k on the support vectors (Soudry et al. 2018, arXiv 1710.10345),
    n the sample size of the mean loss and η the learning rate. Put L = ln(η/n) and p_k = α_k/Σα; as Σα = ||ŵ||²:

        min_k z_k·w = ln t + L - max_k ln α_k
        ||w||/||ŵ|| = ln t + ŵ·w̃/||ŵ||² + O(1/ln t) = ln t + L - Σ p_k·ln α_k + O(1/ln t)
        g = 1 - min_k z_k·w / (||w||/||ŵ||) = (max_k ln α_k - Σ p_k·ln α_k + O(1/ln t)) / (ln t + O(1))

    so that 1/g is affine in ln t with slope 1 / (max_k ln α_k - Σ p_k·ln α_k): neither the learning rate nor the start
    enters. Infinite where all multipliers are equal: then the margin gap falls faster than 1/ln t.

    Certificate: that of `support_multipliers`, else NaN. Raises ValueError as `maximum_margin` does.
    """
    alpha = support_multipliers(X, y)
    if np.isnan(alpha).any():
        return float("nan")
    alpha = alpha[alpha > 0]
    spread = np.log(alpha.max()) - alpha @ np.log(alpha) / alpha.sum()
    return float(1 / spread) if spread > SEPARATION else float("inf")


def margin(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "feature"],
    order: int | float,
) -> float:
    """Return min_i z_i·w / ||w|| in the norm of that order (1, 2 or numpy.inf); NaN for weights zero or not finite.

    Raises ValueError as `maximum_margin` does.
    """
    order = inputs.norm_order(order)
    X, y = inputs.classification(X, y)
    weights = np.asarray(weights, dtype=np.float64)
    weights = inputs.vector("weights", np.where(np.isfinite(weights), weights, np.nan), X.shape[1], "X has columns")
    scale = np.abs(weights).max()
    if not scale > 0:
        return float("nan")
    return float((y * (X @ (weights / scale))).min() / np.linalg.norm(weights / scale, order))


def duality_gap(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "feature"],
    multipliers: Float[np.ndarray, "sample"],
    order: int | float,
) -> float:
    """Return the relative gap between the margin of `weights` and the least upper bound that multipliers α >= 0 prove.

    No weights have a margin above ||Σ α_i·z_i|| / Σ α_i in the dual norm. Infinite for a negative multiplier, and for
    weights that do not satisfy min_i z_i·w = 1 to 1e-9.
    """
    order = inputs.norm_order(order)
    Z = X * y[:, None]
    least = (Z @ weights).min()
    if multipliers.min() < 0 or multipliers.sum() <= 0 or not abs(least - 1) <= 1e-9:
        return float("inf")
    bound = np.linalg.norm(Z.T @ multipliers, {1.0: np.inf, 2.0: 2, np.inf: 1}[order]) / multipliers.sum()
    return float(abs(bound - least / np.linalg.norm(weights, order)) / bound) if bound > 0 else float("inf")


def separable(X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"]) -> bool:
    """Return whether some w has z_i·w > 0 for every sample, by the linear program of the l-infinity margin.

    True where that margin is above 1e-9 of the largest l1 norm of a sample, proved by the weights themselves; False
    where it is below 1e-7 of that, proved by the multipliers, and for NaN in the data. Raises ValueError as
    `maximum_margin` does, and ArithmeticError where the program proves neither.
    """
    X, y = inputs.classification(X, y)
    if np.isnan(X).any() or np.isnan(y).any() or not X.any():
        return False
    Z, unit = X * y[:, None], np.abs(X).sum(axis=1).max()
    weights, multipliers = _linear_program(Z / unit, np.inf)
    if (Z @ weights).min() > SEPARATION * unit * np.abs(weights).max():
        return True
    if not np.abs(Z.T @ multipliers.clip(0)).sum() < 1e-7 * unit * multipliers.clip(0).sum():
        raise ArithmeticError("the linear program for separability ended without a proof")
    return False


def logistic_optimum(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], weight_decay: float
) -> Float[np.ndarray, "feature"]:
    """Return argmin of mean_i ln(1 + exp(-z_i·w)) + weight_decay/2·||w||², by Newton's method in the row space of X.

    Without weight decay, the minimiser of least norm; NaN where there is none, because some w has z_i·w >= 0 for every
    sample and > 0 for one (Albert & Anderson 1984), by a linear program.

    Certificate: `newton_distance` at most 1e-9, else NaN.
    Raises ValueError for a negative weight decay and as `maximum_margin` does.
    """
    from scipy.special import expit

    X, y = inputs.classification(X, y)
    weight_decay = inputs.number("weight_decay", weight_decay, low=0.0)
    void = np.full(X.shape[1], np.nan)
    if np.isnan(X).any() or np.isnan(y).any() or np.isnan(weight_decay):
        return void
    if not X.any():
        return np.zeros(X.shape[1])
    if weight_decay == 0 and _monotone(X * y[:, None]):
        return void
    _, s, Vt = np.linalg.svd(X, full_matrices=False)
    basis = Vt[s > max(X.shape) * np.finfo(float).eps * s[0]].T
    Z = y[:, None] * (X @ basis)
    objective = lambda v: np.logaddexp(0.0, -Z @ v).mean() + weight_decay / 2 * (v @ v)
    v = np.zeros(basis.shape[1])
    for _ in range(200):
        share = expit(-Z @ v)
        gradient = weight_decay * v - Z.T @ share / len(Z)
        hessian = (Z.T * (share * (1 - share))) @ Z / len(Z) + weight_decay * np.eye(len(v))
        step = np.linalg.lstsq(hessian, -gradient, rcond=None)[0]
        size, value = 1.0, objective(v)
        # Next to the optimum the objective no longer resolves the step, and rounding must not shorten it.
        rounding = 1e-14 * value
        while size > 1e-10 and objective(v + size * step) > value + rounding + 1e-4 * size * (gradient @ step):
            size /= 2
        v = v + size * step
        if np.linalg.norm(step) <= 1e-12 * np.linalg.norm(v):
            break
    weights = basis @ v
    return weights if newton_distance(X, y, weights, weight_decay) <= NEWTON_BOUND else void


def newton_distance(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "feature"],
    weight_decay: float,
) -> float:
    """Return the length of the Newton step at `weights`, the distance to the optimum of the logistic objective.

    Relative to ||w||, or to the weights at which the longest sample has a margin of one where those are larger.
    """
    from scipy.special import expit

    if not np.isfinite(weights).all():
        return float("inf")
    Z = X * y[:, None]
    share = expit(-Z @ weights)
    gradient = weight_decay * weights - Z.T @ share / len(Z)
    hessian = (Z.T * (share * (1 - share))) @ Z / len(Z) + weight_decay * np.eye(len(weights))
    step = np.linalg.lstsq(hessian, gradient, rcond=1e-15)[0]
    length = np.linalg.norm(X, axis=1).max()
    if np.linalg.norm(hessian @ step - gradient) > 1e-6 * np.linalg.norm(gradient) + 1e-15 * length:
        return float("inf")
    return float(np.linalg.norm(step) / max(np.linalg.norm(weights), 1 / length if length > 0 else 1.0))


def _solve(X: np.ndarray, y: np.ndarray, order: int | float) -> tuple[np.ndarray, np.ndarray]:
    """Return the certified weights and multipliers of the maximum margin, or NaN for both."""
    order = inputs.norm_order(order)
    X, y = inputs.classification(X, y)
    void = np.full(X.shape[1], np.nan), np.full(len(X), np.nan)
    if np.isnan(X).any() or np.isnan(y).any() or not X.any():
        return void
    # The solvers' tolerances are absolute: the problem is solved in the unit in which its samples have length one.
    unit = np.linalg.norm(X, {1.0: np.inf, 2.0: 2, np.inf: 1}[order], axis=1).max()
    Z = X * y[:, None] / unit
    weights, multipliers = _least_distance(Z) if order == 2 else _linear_program(Z, order)
    least = (Z @ weights).min()
    if not least > SEPARATION * np.linalg.norm(weights, order):
        return void
    weights, multipliers = weights / (least * unit), multipliers.clip(0)
    certified = duality_gap(X, y, weights, multipliers, order) <= GAP_BOUND[order]
    return (weights, multipliers / unit**2) if certified else void


def _linear_program(Z: np.ndarray, order: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of norm one (order 1 or infinity) with the largest margin, and the multipliers of it."""
    from scipy.optimize import linprog

    samples, features = Z.shape
    ones = np.ones((samples, 1))
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    if order == 1:
        rows = np.vstack([np.hstack([-Z, Z, ones]), np.append(np.ones(2 * features), 0.0)])
        limits = np.append(np.zeros(samples), 1.0)
        box: list[tuple[float | None, float | None]] = [(0.0, None)] * (2 * features) + [(None, None)]
    else:
        rows, limits = np.hstack([-Z, ones]), np.zeros(samples)
        box = [(-1.0, 1.0)] * features + [(None, None)]
    cost = np.append(np.zeros(rows.shape[1] - 1), -1.0)
    solution = linprog(cost, rows, limits, bounds=box, method="highs", options=options)
    if solution.status != 0:
        return np.zeros(features), np.zeros(samples)
    weights = solution.x[:features] - (solution.x[features:-1] if order == 1 else 0.0)
    return weights, -solution.ineqlin.marginals[:samples]


def _least_distance(Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of least l2 norm with margins one, and their multipliers; zeros where there are none."""
    from scipy.optimize import nnls

    nothing = np.zeros(Z.shape[1]), np.zeros(len(Z))
    target = np.append(np.zeros(Z.shape[1]), 1.0)
    try:
        u, _ = nnls(np.vstack([Z.T, np.ones(len(Z))]), target, maxiter=30 * max(Z.shape))
    except RuntimeError:
        return nothing
    slack = 1 - u.sum()
    if not slack > SEPARATION**2:
        return nothing
    # The division by a small slack costs digits; the equations of the support vectors give them back.
    active, multipliers = u > 0, u / slack
    weights = np.linalg.lstsq(Z[active], np.ones(active.sum()), rcond=None)[0]
    polished = np.linalg.lstsq(Z[active].T, weights, rcond=None)[0]
    if (Z @ weights).min() < 1 - 1e-9 or polished.min() <= 0:
        return Z.T @ multipliers, multipliers
    multipliers[active] = polished
    return weights, multipliers


def _selected(Z: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the multipliers exp(-Z·v) of linearly dependent support vectors, v = argmin Σ exp(-z_k·v) + w·v."""
    _, s, Vt = np.linalg.svd(Z, full_matrices=False)
    basis = Vt[s > 1e-8 * s[0]].T
    Z, target, v = Z @ basis, weights @ basis, np.zeros(basis.shape[1])
    v = v - target * np.log(target @ target / len(Z))
    for _ in range(200):
        alpha = np.exp(-Z @ v)
        step = np.linalg.lstsq((Z.T * alpha) @ Z, Z.T @ alpha - target, rcond=None)[0]
        v = v + step / max(1.0, np.abs(Z @ step).max())
    return np.exp(-Z @ v)


def _monotone(Z: np.ndarray) -> bool:
    """Return whether some w has Zw >= 0 and Zw != 0, so that the logistic loss falls forever along it."""
    from scipy.optimize import linprog

    unit = np.abs(Z).sum(axis=1).max()
    solution = linprog(-Z.sum(axis=0) / unit, -Z / unit, np.zeros(len(Z)), bounds=(-1, 1), method="highs")
    return bool(solution.status != 0 or -solution.fun > SEPARATION)
