"""How a descent on the logistic loss under dropout fluctuates about the minimiser, and where its mean iterate lies."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs
from research.oracles.dropout import dropout_logistic


class MaskNoise(NamedTuple):
    """What the masks of dropout do to a long descent at a constant learning rate."""

    shift: Float[np.ndarray, "feature"]
    precision: Float[np.ndarray, "feature other"]


def mask_noise(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    keep: float,
    learning_rate: float,
    batch: int,
) -> MaskNoise:
    """Return the mean iterate less the minimiser, and the precision per step of the mean of iterates about it.

    The loss is the SUM over samples of ln(1 + exp(-y x·w)), each averaged over `batch` masks of its own, drawn anew in
    every step. With H its Hessian in the mean over masks and C the covariance of a step's gradient, iterates scatter by
    V = E (1 - ηH_t) V (1 - ηH_t) + η²C, H_t a step's Hessian; as E ∇L(w) = 0 at rest, their mean is off by
    -½ H⁻¹ Σ_jk ∂_j∂_k∇L V_jk to first order in V. The mean of N iterates has the precision N · H C⁻¹ H (Polyak &
    Juditsky 1992, Theorem 1).

    Without masks (keep = 1) nothing is off and the precision infinite. NaN where there is no minimiser, and where the
    descent does not come to rest (η too large). Raises ValueError for a learning rate that is not positive, a batch
    below 1, and as `dropout_logistic`.
    """
    rate = inputs.number("learning_rate", learning_rate, low=0.0)
    count = inputs.number("batch", batch, low=1.0)
    if rate == 0:
        raise ValueError("learning_rate is 0; it takes a positive number")
    weights = dropout_logistic(X, y, keep)
    features = weights.size
    nothing = MaskNoise(np.full(features, np.nan), np.full((features, features), np.nan))
    if np.isnan([*weights, rate, count]).any():
        return nothing
    if keep == 1:
        return MaskNoise(np.zeros(features), np.full((features, features), np.inf))
    masks = ((np.arange(2**features)[:, None] >> np.arange(features)) & 1).astype(float)
    chances = np.prod(np.where(masks > 0, keep, 1 - keep), axis=1)
    Z = np.asarray(X, float)[:, None, :] * np.asarray(y, float)[:, None, None] * masks / keep  # sample, mask, feature
    slope = 1 / (1 + np.exp(Z @ weights))
    curve = slope * (1 - slope)
    mean = lambda values: np.tensordot(chances, values, axes=(0, 1)).sum(axis=0)
    gradients = -slope[..., None] * Z
    squares = Z[..., :, None] * Z[..., None, :]
    flat = (curve[..., None, None] * squares).reshape(*curve.shape, features**2)
    H = mean(flat).reshape(features, features)
    third = mean((curve * (2 * slope - 1))[..., None, None, None] * squares[..., None] * Z[..., None, None, :])

    def covariance(values: np.ndarray) -> np.ndarray:
        about = values - np.tensordot(values, chances, axes=(1, 0))[:, None, :]
        return np.einsum("m,smi,smj->ij", chances, about, about) / count

    C, spread = covariance(gradients), covariance(flat)
    # vec(A V A) = (A ⊗ A) vec V; the Hessians' own covariance comes in the order (ij, kl) and goes to (ik, jl)
    A = np.eye(features) - rate * H
    shuffled = spread.reshape([features] * 4).transpose(0, 2, 1, 3).reshape(features**2, features**2)
    kept = np.kron(A, A) + rate**2 * shuffled
    if np.abs(np.linalg.eigvals(kept)).max() >= 1:
        return nothing
    V = np.linalg.solve(np.eye(features**2) - kept, rate**2 * C.ravel()).reshape(features, features)
    return MaskNoise(
        -0.5 * np.linalg.solve(H, np.einsum("ijk,jk->i", third, V)),
        H @ np.linalg.solve(C, H),
    )


def mask_deviation(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    mean: Float[np.ndarray, "feature"],
    keep: float,
    learning_rate: float,
    batch: int,
) -> float:
    """Return how far a mean iterate is from the minimiser and its shift, in standard errors of a single step.

    √(dᵀPd) of that distance d and the precision P of `mask_noise`; times √N its law is that of χ with as many degrees
    as there are features, for the mean of N iterates. NaN, and ValueError, as there.
    """
    noise = mask_noise(X, y, keep, learning_rate, batch)
    away = inputs.array("mean", mean, 1) - dropout_logistic(X, y, keep) - noise.shift
    return float(np.sqrt(away @ noise.precision @ away))
