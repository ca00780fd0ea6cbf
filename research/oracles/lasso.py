"""The lasso: the minimiser of 1/(2n)·||Xw - y||² + strength·||w||₁, from the path that least angle regression follows.

Efron, Hastie, Johnstone & Tibshirani 2004, Annals of Statistics 32: w is piecewise linear in the strength, and changes
its support at knots only. Half, mean over the n samples, no intercept, as scikit-learn's `Lasso`. For orthonormal
columns, XᵀX = n·1, both penalties act on z = Xᵀy/n entry by entry: the lasso as the soft threshold, ridge as a factor.
"""

from functools import cache

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RESIDUAL_BOUND = 1e-9
NEAR = 1e-5


def lasso(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], strength: float
) -> Float[np.ndarray, "feature"]:
    """Return the lasso's weights, exact zeros included, between two knots of scikit-learn's `lars_path`.

    Certificate: `lasso_residual` at most 1e-9, else NaN; NaN for NaN. Raises ValueError for a negative strength, shapes
    that do not agree and infinite entries.
    """
    X, y = inputs.regression(X, y)
    strength = inputs.number("strength", strength, low=0.0)
    void = np.full(X.shape[1], np.nan)
    if np.isnan(X).any() or np.isnan(y).any() or np.isnan(strength):
        return void
    alphas, weights = _path(X.tobytes(), y.tobytes(), X.shape)
    if strength >= alphas[0]:
        found = np.zeros(X.shape[1])
    else:
        after = int(np.argmax(alphas <= strength)) if alphas[-1] <= strength else len(alphas) - 1
        share = (alphas[after - 1] - strength) / (alphas[after - 1] - alphas[after])
        found = weights[:, after - 1] + share * (weights[:, after] - weights[:, after - 1])
    return found if lasso_residual(X, y, found, strength) <= RESIDUAL_BOUND else void


def lasso_residual(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "feature"],
    strength: float,
) -> float:
    """Return how far weights are from the conditions of Karush, Kuhn and Tucker, over the largest |Xᵀy|/n.

    Xᵀ(y - Xw)/n is strength · sign(w) where w is not zero, and at most the strength in size where it is.
    """
    if not np.isfinite(weights).all():
        return float("nan")
    slope = X.T @ (y - X @ weights) / len(y)
    apart = np.where(weights != 0, np.abs(slope - strength * np.sign(weights)), np.abs(slope) - strength)
    return float(max(apart.max(), 0.0) / np.abs(X.T @ y / len(y)).max())


def next_knot(X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], strength: float) -> float:
    """Return the number of the knots above a strength: which piece of the path it lies in; NaN within 1e-5 of a knot.

    Distances are relative to the first knot. NaN for NaN; raises as `lasso`.
    """
    X, y = inputs.regression(X, y)
    strength = inputs.number("strength", strength, low=0.0)
    if np.isnan(X).any() or np.isnan(y).any() or np.isnan(strength):
        return float("nan")
    alphas, _ = _path(X.tobytes(), y.tobytes(), X.shape)
    return float("nan") if np.abs(alphas - strength).min() < NEAR * alphas[0] else float((alphas > strength).sum())


def soft_threshold(z: float, strength: float) -> float:
    """Return sign(z)·max(|z| - strength, 0), the lasso's weight for orthonormal columns; z is that of least squares."""
    z, strength = inputs.number("z", z), inputs.number("strength", strength, low=0.0)
    return float(np.sign(z) * np.maximum(abs(z) - strength, 0.0))


def shrinkage(z: float, strength: float) -> float:
    """Return z/(1 + strength), the weight of ridge (strength/2·||w||²) there: zero for z = 0 alone."""
    z, strength = inputs.number("z", z), inputs.number("strength", strength, low=0.0)
    return float(z / (1 + strength))


@cache
def _path(X: bytes, y: bytes, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the knots, falling, and the weights at each."""
    from sklearn.linear_model import lars_path

    alphas, _, weights = lars_path(np.frombuffer(X).reshape(shape), np.frombuffer(y), method="lasso")
    return alphas, weights
