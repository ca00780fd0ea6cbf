"""The exact risk of descent with momentum on least squares, at every step, by the modes of the data."""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs
from research.oracles.heavy_ball import mode_path

BOUND = 1e-8


def filter_risk(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    planted: Float[np.ndarray, "feature"],
    variances: Float[np.ndarray, "feature"],
    learning_rate: float,
    momentum: float,
    steps: Float[np.ndarray, "step"],
) -> Float[np.ndarray, "step"]:
    """Return Σ variances (w_t − planted)² of the heavy ball from zero on 1/(2n)·||Xw - y||², from rest.

    With XᵀX/n = Σ h v vᵀ, w_t = Σ (1 − x_t(h))/h · v vᵀ Xᵀy/n, x_t(h) the share that is left of a mode of curvature h
    (`mode_path`), and modes that the data do not move stay zero.

    Certificate: the singular vectors are orthonormal and give X back, to 1e-8 of its size, else NaN. NaN for NaN.
    Raises ValueError as `mode_path` does, and for shapes that do not agree.
    """
    X, y = inputs.regression(X, y)
    planted = inputs.vector("planted", planted, X.shape[1], "X has columns")
    variances = inputs.vector("variances", variances, X.shape[1], "X has columns")
    steps = inputs.array("steps", steps, 1)
    if any(np.isnan(each).any() for each in (X, y, planted, variances, steps, learning_rate, momentum)):
        return np.full(len(steps), np.nan)
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    if np.abs(U * s @ Vt - X).max() > BOUND * s[0] or np.abs(Vt @ Vt.T - np.eye(len(s))).max() > BOUND:
        return np.full(len(steps), np.nan)
    kept = s > 1e-12 * s[0]
    h = s[kept] ** 2 / len(X)
    fitted = (1 - mode_path(h, learning_rate, momentum, steps)) / h * (s[kept] * (U.T @ y)[kept] / len(X))
    return np.asarray(((fitted @ Vt[kept] - planted) ** 2) @ variances)
