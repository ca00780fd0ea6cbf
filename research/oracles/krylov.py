"""The best fits in Krylov spaces: where conjugate gradients are after each step."""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RESIDUAL_BOUND = 1e-10
EXHAUSTED = 1e-10  # relative length of a new direction below which there is none


def krylov_fits(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], count: Float[np.ndarray, "step"]
) -> Float[np.ndarray, "step feature"]:
    """Return the minimiser of ||Xw - y|| over the span of b, Hb, ..., H^(k-1)b for each count k; b = Xᵀy, H = XᵀX.

    The k-th iterate of conjugate gradients from zero (Hestenes & Stiefel 1952). The spaces stop growing at the rank of
    X at the latest; from there on the answer is X⁺y, which lies in the span of the samples. Bases are orthonormal
    (every new direction freed twice of the older ones), the fit in them is NumPy's.

    Certificate: the gradient's part in the space at most 1e-10 of its terms, else NaN. NaN in gives NaN. Raises
    ValueError for shapes that do not agree and counts that are no whole numbers from 0.
    """
    X, y = inputs.regression(X, y)
    counts = inputs.array("count", count, 1)
    if ((counts < 0) | (counts != np.rint(counts))).any() and not np.isnan(counts).any():
        raise ValueError(f"count is {counts}; it takes whole numbers from 0")
    fits = np.full((len(counts), X.shape[1]), np.nan)
    if np.isnan(X).any() or np.isnan(y).any() or np.isnan(counts).any():
        return fits
    basis = np.zeros((X.shape[1], 0))
    direction = X.T @ y
    for _ in range(min(int(counts.max()), X.shape[1])):
        length = np.linalg.norm(direction)
        for _ in range(2):
            direction = direction - basis @ (basis.T @ direction)
        if not np.linalg.norm(direction) > EXHAUSTED * length:
            break
        basis = np.column_stack([basis, direction / np.linalg.norm(direction)])
        direction = X.T @ (X @ basis[:, -1])
    for row, k in enumerate(counts.astype(int)):
        space = basis[:, :k]
        fit = space @ np.linalg.lstsq(X @ space, y, rcond=None)[0] if space.size else np.zeros(X.shape[1])
        slope = np.linalg.norm(space.T @ (X.T @ (X @ fit - y)))
        whole = np.linalg.norm(X, 2) * (np.linalg.norm(X @ fit) + np.linalg.norm(y))
        if slope <= RESIDUAL_BOUND * whole:
            fits[row] = fit
    return fits
