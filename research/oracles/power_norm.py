"""Which interpolant and which separator mirror descent with the potential ||w||_p^p / p picks, and how fast.

Throughout ψ(w) = Σ |w_j|^p / p with 1 < p < infinity, ∇ψ(w) = sign(w)·|w|^(p-1), and q = p/(p-1). `power` is p.
No separator has a bias term; labels are -1 and +1, z_i = y_i·x_i.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RESIDUAL_BOUND = 1e-9
GAP_BOUND = 1e-10
STEP_BOUND = 1e-8
LARGEST_POWER = 64.0


class Modes(NamedTuple):
    """The largest and the smallest rate at which what is not yet fitted shrinks in a unit of step times gradient."""

    fastest: float
    slowest: float


def mirror(w: Float[np.ndarray, "feature"], power: float) -> Float[np.ndarray, "feature"]:
    """Return ∇ψ(w), the dual image of the weights; not finite where they are not."""
    w, power = np.asarray(w, dtype=np.float64), _power(power)
    return np.sign(w) * np.abs(w) ** (power - 1) if power == power else np.full(w.shape, np.nan)


def minimum_power_norm(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    power: float,
    nearest_to: Float[np.ndarray, "feature"] | None = None,
) -> Float[np.ndarray, "feature"]:
    """Return the solution of Xw = y of least ψ(w) - ∇ψ(w0)·w, w0 = `nearest_to`; of least lp norm for w0 = 0.

    It minimises the Bregman divergence of ψ from w0, and is where mirror descent from w0 ends if it fits: all it adds
    to ∇ψ(w) lies in the row space of X (Gunasekar et al. 2018, arXiv 1802.08246). Always unique. Newton's
    method on the dual for p <= 2 and in the null space of X for p > 2, where each objective has two derivatives.

    Certificate: `optimality_residual` at most 1e-9 and the last Newton step at most 1e-8 of the weights, else NaN; NaN
    too where the rows of X are dependent.
    Raises ValueError for a power outside (1, 64), shapes that do not agree and infinite entries.
    """
    X, y = inputs.regression(X, y)
    power = _power(power)
    start = np.zeros(X.shape[1]) if nearest_to is None else nearest_to
    start = inputs.vector("nearest_to", start, X.shape[1], "X has columns")
    void = np.full(X.shape[1], np.nan)
    if np.isnan(power) or any(np.isnan(each).any() for each in (X, y, start)):
        return void
    if len(X) > X.shape[1] or np.linalg.matrix_rank(X, tol=1e-8 * np.linalg.norm(X, 2)) < len(X):
        return void
    if not y.any() and not start.any():
        return np.zeros(X.shape[1])
    # In these units both the targets and the samples have length one.
    unit, length = np.linalg.norm(y) if y.any() else np.abs(start).max(), np.linalg.norm(X, 2)
    weights, step = (_dual if power <= 2 else _primal)(X / length, y / unit, power, start * length / unit)
    weights = weights * unit / length
    good = step <= STEP_BOUND and optimality_residual(X, y, weights, power, start) <= RESIDUAL_BOUND
    return weights if good else void


def optimality_residual(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "feature"],
    power: float,
    nearest_to: Float[np.ndarray, "feature"] | None = None,
) -> float:
    """Return the larger of the misfit and the part of ∇ψ(w) - ∇ψ(w0) outside the row space of X, relative to sizes."""
    if not np.isfinite(weights).all():
        return float("inf")
    start = np.zeros(X.shape[1]) if nearest_to is None else nearest_to
    image, base = mirror(weights, power), mirror(start, power)
    outside = image - base - X.T @ np.linalg.lstsq(X.T, image - base, rcond=None)[0]
    misfit = np.linalg.norm(X @ weights - y) / (np.linalg.norm(X, 2) * np.linalg.norm(weights) or 1.0)
    return float(np.maximum(misfit, np.linalg.norm(outside) / ((np.linalg.norm(image) + np.linalg.norm(base)) or 1.0)))


def mirror_modes(X: Float[np.ndarray, "sample feature"], weights: Float[np.ndarray, "feature"], power: float) -> Modes:
    """Return the extreme eigenvalues of X·diag(|w|^(2-p)/(p-1))·Xᵀ/n, the curvature that mirror descent sees at w.

    Near an interpolant a step η on 1/(2n)·||Xw - y||² takes the misfit r to (1 - ηA)·r, A that matrix: dw = (∇²ψ)⁻¹dθ
    and dθ = -η·Xᵀr/n. So it settles only where η·fastest < 2, and loses a share η·slowest a step. For p > 2 a weight
    of zero makes the fastest infinite (and only that is returned as such): no step is small enough.
    NaN where a weight is not finite. Raises ValueError as `minimum_power_norm` does.
    """
    X = inputs.array("X", X, 2)
    power = _power(power)
    weights = np.asarray(weights, dtype=np.float64)
    if np.isnan(power) or np.isnan(X).any() or not np.isfinite(weights).all():
        return Modes(float("nan"), float("nan"))
    size = np.abs(inputs.vector("weights", weights, X.shape[1], "X has columns"))
    if power > 2 and (size == 0).any():
        return Modes(float("inf"), float("nan"))
    values = np.linalg.eigvalsh((X * size ** (2 - power) / (power - 1)) @ X.T / len(X))
    return Modes(float(values[-1]), float(values[0]))


def maximum_power_margin(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], power: float
) -> Float[np.ndarray, "feature"]:
    """Return argmin ||w||_p subject to z_i·w >= 1: the largest lp margin is 1/||w||_p, and the solution unique.

    p-GD, mirror descent with ψ on the exponential or logistic loss, turns to it (Sun et al. 2022, arXiv 2205.12808).
    A power-cone program (Clarabel) says which samples lie on the margin, and `minimum_power_norm` solves for these.

    Certificate: `margin_gap` at most 1e-10, else NaN. NaN too for data that no direction separates.
    Raises ValueError for a power outside (1, 64), labels other than -1 and +1, bad shapes and infinite entries.
    """
    return _margin(X, y, power)[0]


def margin_gap_constant(X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], power: float) -> float:
    """Return D = lim g·||w||_p/||ŵ||_p, g the share of the largest lp margin that the path of p-GD misses.

    With α > 0 the multipliers, ∇ψ(ŵ) = Σ α_i·z_i. Along the flow on Σ exp(-z_i·w), w = ŵ·s + r + o(1), the gradient
    Σ exp(-z_i·w)·z_i must stay parallel to ∇ψ(ŵ): -z_k·r = ln α_k + c on the support vectors. So, as Σα = ||ŵ||_p^p,

        min_k z_k·w = s - max_k ln α_k - c
        ||w||_p/||ŵ||_p = s + ∇ψ(ŵ)·r/||ŵ||_p^p + O(1/s) = s - Σ p_k·ln α_k - c + O(1/s),    p_k = α_k/Σα

    and D is the difference of the two: max ln α - Σ p_k·ln α_k, whatever p, the pace and the start. For p = 2 it is
    1/`margin_gap_slope` of research.oracles.margin, which derives it from Soudry et al. 2018.

    Certificate: that of `maximum_power_margin`, and every multiplier positive, else NaN. Raises ValueError as it does.
    """
    multipliers = _margin(X, y, power)[1]
    alpha = multipliers[multipliers > 0]
    if np.isnan(multipliers).any() or not len(alpha):
        return float("nan")
    return float(np.log(alpha.max()) - alpha @ np.log(alpha) / alpha.sum())


def margin_curvature(X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], power: float) -> float:
    """Return the largest curvature that steps proportional to ||w||_p^(p-2) see on the way to the widest margin.

    The largest eigenvalue of E·Zᵀ(diag(q) - qqᵀ)Z, E = diag((||ŵ||_p/|ŵ_j|)^(p-2)) and q = α/Σα: the second is the
    Hessian of ln Σ exp(-z_i·w), which keeps its size as the weights grow, and (p-1)·||w||_p^(p-2) over ∇²ψ(w) is the
    first. Steps η·(p-1)·||w||_p^(p-2) on that loss follow the path only where η times this is below 2. Infinite for
    p > 2 and a weight of zero.

    Certificate: that of `maximum_power_margin`, else NaN. Raises ValueError as it does.
    """
    weights, multipliers = _margin(X, y, power)
    if np.isnan(weights).any():
        return float("nan")
    Z, share = np.asarray(X) * np.asarray(y)[:, None], multipliers / multipliers.sum()
    size = np.abs(weights) / np.linalg.norm(weights, power)
    if power > 2 and (size == 0).any():
        return float("inf")
    root = Z * size ** (1 - power / 2)
    return float(np.linalg.eigvalsh((root.T * share) @ root - np.outer(share @ root, share @ root))[-1])


def margin_gap(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "feature"],
    multipliers: Float[np.ndarray, "sample"],
    power: float,
) -> float:
    """Return the relative gap between the lp margin of `weights` and the least upper bound that α >= 0 prove.

    No weights have a margin above ||Σ α_i·z_i||_q / Σ α_i. Infinite for a negative multiplier.
    """
    if not multipliers.min() >= 0 or not multipliers.sum() > 0:
        return float("inf")
    Z = X * y[:, None]
    bound = np.linalg.norm(Z.T @ multipliers, power / (power - 1)) / multipliers.sum()
    return float(abs(bound - (Z @ weights).min() / np.linalg.norm(weights, power)) / bound)


def _power(power: object) -> float:
    """Return the power as a float in (1, 64), or NaN."""
    return inputs.number("power", power, low=float(np.nextafter(1, 2)), below=LARGEST_POWER)


def _dual(X: np.ndarray, y: np.ndarray, power: float, start: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the weights, and the length of the last step in them, from min_ν ψ*(Xᵀν + ∇ψ(w0)) - ν·y, for p <= 2."""
    q, base = power / (power - 1), mirror(start, power)
    primal = lambda theta: np.sign(theta) * np.abs(theta) ** (q - 1)
    nu = np.linalg.lstsq(X.T, X.T @ np.linalg.solve(X @ X.T, y) - base, rcond=None)[0]
    return _newton(
        lambda nu: (np.abs(X.T @ nu + base) ** q).sum() / q - nu @ y,
        lambda nu: X @ primal(X.T @ nu + base) - y,
        lambda nu: (q - 1) * (X * np.abs(X.T @ nu + base) ** (q - 2)) @ X.T,
        nu,
        lambda nu: primal(X.T @ nu + base),
    )


def _primal(X: np.ndarray, y: np.ndarray, power: float, start: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the weights, and the length of the last step in them, from min_v ψ(w2 + Nv) - ∇ψ(w0)·Nv, for p > 2."""
    least, base = np.linalg.lstsq(X, y, rcond=None)[0], mirror(start, power)
    basis = np.linalg.svd(X)[2][len(X) :].T
    if not basis.shape[1]:
        return least, 0.0
    at = lambda v: least + basis @ v
    return _newton(
        lambda v: (np.abs(at(v)) ** power).sum() / power - base @ at(v),
        lambda v: basis.T @ (mirror(at(v), power) - base),
        lambda v: (power - 1) * (basis.T * np.abs(at(v)) ** (power - 2)) @ basis,
        np.zeros(basis.shape[1]),
        at,
    )


@np.errstate(over="ignore", invalid="ignore")  # a step that overflows is halved
def _newton(
    value: Callable, gradient: Callable, hessian: Callable, v: np.ndarray, weights: Callable
) -> tuple[np.ndarray, float]:
    """Return the weights at the minimum of a convex function, and how far a further step moves them, relative."""
    moved = float("inf")
    for _ in range(500):
        slope = gradient(v)
        step = np.linalg.lstsq(hessian(v), -slope, rcond=1e-15)[0]
        here, now = weights(v), value(v)
        moved = float(np.linalg.norm(weights(v + step) - here) / (np.linalg.norm(here) or 1.0))
        if not moved > 1e-13:
            break
        size = 1.0
        while size > 1e-12 and not value(v + size * step) <= now + 1e-14 * abs(now) + 1e-4 * size * (slope @ step):
            size /= 2
        v = v + size * step
    return weights(v), moved


def _margin(X: object, y: object, power: object) -> tuple[np.ndarray, np.ndarray]:
    """Return the certified weights and multipliers of the largest lp margin, or NaN for both."""
    X, y = inputs.classification(X, y)
    power = _power(power)
    void = np.full(X.shape[1], np.nan), np.full(len(X), np.nan)
    if np.isnan(power) or np.isnan(X).any() or np.isnan(y).any() or not X.any():
        return void
    unit = np.linalg.norm(X, axis=1).max()
    Z = X * y[:, None] / unit
    guess = _cone_program(Z, power)
    if guess is None:
        return void
    support = guess > 1e-5 * guess.max()
    for _ in range(20):
        weights, multipliers = minimum_power_norm(Z[support], np.ones(support.sum()), power), np.zeros(len(Z))
        if np.isnan(weights).any():
            return void
        multipliers[support] = np.linalg.lstsq(Z[support].T, mirror(weights, power), rcond=None)[0]
        wrong = (multipliers < 0) | (~support & (Z @ weights < 1 - 1e-12))
        if not wrong.any():
            break
        support = support ^ wrong
    if margin_gap(Z, np.ones(len(Z)), weights, multipliers, power) > GAP_BOUND:
        return void
    return weights / unit, multipliers / unit**power


def _cone_program(Z: np.ndarray, power: float) -> np.ndarray | None:
    """Return about the multipliers of z·w >= 1 at the least lp norm, or None where the solver finds none."""
    import cvxpy

    weights = cvxpy.Variable(Z.shape[1])
    apart = Z @ weights >= 1
    norm = cvxpy.pnorm(weights, power)  # type: ignore[arg-type]
    program = cvxpy.Problem(cvxpy.Minimize(norm), [apart])
    with warnings.catch_warnings():
        # "Solution may be inaccurate" is for the certificate to say.
        warnings.simplefilter("ignore")
        try:
            program.solve(solver=cvxpy.CLARABEL)
        except cvxpy.SolverError:
            return None
    found = weights.value is not None and apart.dual_value is not None and not program.status.startswith("infeasible")
    return np.abs(apart.dual_value) if found else None
