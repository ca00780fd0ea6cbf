"""Where gradient descent on separable data is late in time: the direction, the offset, and how the rest fades."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles.margin import support_multipliers


class Asymptote(NamedTuple):
    """w = direction·s + offset + O(exp(−exponent·s)), s being the logarithm of (learning rate)·(time)/(samples)."""

    direction: Float[np.ndarray, "feature"]
    offset: Float[np.ndarray, "feature"]
    exponent: Float[np.ndarray, ""]


def asymptote(X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"]) -> Asymptote:
    """Return the asymptote of gradient descent from zero on the mean logistic or exponential loss.

    The direction is ŵ = Σ α_k z_k, the maximum-margin solution of order 2, and the offset solves exp(−z_k·offset) = α_k
    on the support vectors (Soudry et al. 2018, arXiv 1710.10345). Where they span the data this is the whole
    of it; else the offset returned is the part in their span, and the weights keep a constant part across it.

    The rest r obeys dr/ds = −Σ α_k z_k (z_k·r) + O(exp((1 − z_i·ŵ) s)) + O(exp(−s)): from the support vectors, from
    the nearest z_i of the other samples, and from the discrete time. The slowest of the three gives the exponent.

    Certificate: that of `support_multipliers`, else NaN. Raises ValueError as `maximum_margin` does.
    """
    alpha = support_multipliers(X, y)
    if np.isnan(alpha).any():
        void = np.full(np.shape(X)[1], np.nan)
        return Asymptote(void, void, np.array(np.nan))
    Z = np.asarray(X, dtype=np.float64) * np.asarray(y, dtype=np.float64)[:, None]
    near, far, direction = Z[alpha > 0], Z[alpha == 0], alpha @ Z
    offset = np.linalg.lstsq(near, -np.log(alpha[alpha > 0]), rcond=None)[0]
    modes = np.linalg.eigvalsh((near.T * alpha[alpha > 0]) @ near)[-np.linalg.matrix_rank(near) :]
    beyond = (far @ direction).min(initial=np.inf) - 1
    return Asymptote(direction, offset, np.array(min(1.0, modes[0], beyond)))
