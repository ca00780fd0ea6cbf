"""Where adaptive methods end on least squares whose interpolant is a multiple of sign(Xᵀy)."""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RESIDUAL_BOUND = 1e-9


def sign_interpolant(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"]
) -> Float[np.ndarray, "feature"]:
    """Return τ·sign(Xᵀy) with X τ sign(Xᵀy) = y, or NaN where no τ > 0 has it.

    Where it exists AdaGrad, RMSProp and Adam from zero, with nothing added to the second moments, keep to multiples of
    sign(Xᵀy): at λ·sign(Xᵀy) the gradient Xᵀ(Xw - y) is a multiple of Xᵀy, and so is in every entry the root of any
    mean of its squares, up to the sign. If they converge, they end here (Wilson, Roelofs, Stern, Srebro & Recht 2017,
    arXiv 1705.08292, Lemma 3.1). An entry of Xᵀy that is zero keeps the weight zero. That they converge, and that
    rounding does not lead them away, is not said: see `sign_curvature`.

    Certificate: |X τ sign(Xᵀy) - y| at most 1e-9 of the largest |y|, else NaN.
    Raises ValueError for shapes that do not agree and for infinite entries.
    """
    X, y = inputs.regression(X, y)
    void = np.full(X.shape[1], np.nan)
    if np.isnan(X).any() or np.isnan(y).any() or not y.any():
        return void
    signs = np.sign(_moments(X, y))
    fitted = X @ signs
    length = float(fitted @ fitted)
    if length == 0 or fitted @ y <= 0:
        return void
    weights = signs * float(fitted @ y) / length
    return weights if np.abs(X @ weights - y).max() <= RESIDUAL_BOUND * np.abs(y).max() else void


def sign_curvature(X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"]) -> float:
    """Return the largest eigenvalue of diag(1/|Xᵀy|) XᵀX over the features with Xᵀy != 0.

    A step of learning rate h from zero along sign(gradient) multiplies what is off the ray of sign(Xᵀy), in the
    eigenvector of the eigenvalue c, by 1 - h·c: off-ray rounding errors grow where h·c > 2. For X sign(Xᵀy) = c y the
    ray itself has the eigenvalue c; where it is not the largest, a method that takes the longest step that is stable
    along the ray leaves it. NaN where no entry of Xᵀy differs from zero.

    Raises ValueError for shapes that do not agree and for infinite entries.
    """
    X, y = inputs.regression(X, y)
    if np.isnan(X).any() or np.isnan(y).any():
        return float("nan")
    moments = np.abs(_moments(X, y))
    used = moments > 0
    if not used.any():
        return float("nan")
    return float(np.linalg.eigvalsh((X[:, used] / moments[used]) @ X[:, used].T)[-1])


def _moments(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Xᵀy, in which what is zero but for rounding is zero."""
    moments = X.T @ y
    return moments * (np.abs(moments) > 1e-13 * (np.abs(X).T @ np.abs(y)))
