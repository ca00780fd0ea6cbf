"""Where gradient descent goes when the loss falls as a power of the margin, not exponentially."""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

DECREMENT_BOUND = 1e-10


def power_tail_direction(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], power: float
) -> Float[np.ndarray, "feature"]:
    """Return v = argmin ‖v‖²/2 + Σ (z_i·v)^−power / power over z_i·v > 0, for z_i = y_i x_i.

    For a loss that falls as u^−power/power gradient flow solves n ẇ = Σ (z_i·w)^−(power+1) z_i. The stationary v obeys
    v = Σ (z_i·v)^−(power+1) z_i, so w = τ v with τ^(power+2) = (power + 2) t/n is a solution, and the one that others
    approach: the direction is that of v, to which every sample adds, and not the maximum margin (Ji, Dudík, Schapire &
    Telgarsky 2020, arXiv 2006.11226, for every tail). It tends to the maximum margin as the power grows.

    Certificate: relative `decrement` at most 1e-10, else NaN; NaN for data that are not separable.
    Raises ValueError for a power that is not positive and as `maximum_margin` does.
    """
    from research.oracles.margin import maximum_margin

    X, y = inputs.classification(X, y)
    power = inputs.number("power", power, low=np.finfo(float).tiny)
    start = maximum_margin(X, y, 2)
    if np.isnan(start).any() or np.isnan(power):
        return np.full(X.shape[1], np.nan)
    Z, v = X * y[:, None], start
    objective = lambda v: v @ v / 2 + ((Z @ v) ** -power).sum() / power if (Z @ v).min() > 0 else np.inf
    for _ in range(200):
        gradient, hessian = _derivatives(Z, v, power)
        step, size, value = np.linalg.solve(hessian, -gradient), 1.0, objective(v)
        while size > 1e-12 and not objective(v + size * step) <= value * (1 + 1e-15) + size / 4 * gradient @ step:
            size /= 2
        v = v + size * step
        if np.linalg.norm(step) <= 1e-14 * np.linalg.norm(v):
            break
    return v if decrement(X, y, v, power) <= DECREMENT_BOUND else np.full(X.shape[1], np.nan)


def decrement(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "feature"],
    power: float,
) -> float:
    """Return the length of the Newton step at `weights` over theirs; infinite where a sample is on the wrong side.

    The Hessian is at least the identity, so this bounds the distance to the minimiser up to the gradient's own change.
    """
    Z = np.asarray(X, dtype=np.float64) * np.asarray(y, dtype=np.float64)[:, None]
    if not (Z @ weights).min() > 0:
        return float("inf")
    gradient, hessian = _derivatives(Z, weights, power)
    return float(np.linalg.norm(np.linalg.solve(hessian, gradient)) / np.linalg.norm(weights))


def _derivatives(Z: np.ndarray, v: np.ndarray, power: float) -> tuple[np.ndarray, np.ndarray]:
    u = Z @ v
    gradient = v - Z.T @ u ** -(power + 1)
    return gradient, np.eye(len(v)) + (power + 1) * (Z.T * u ** -(power + 2)) @ Z
