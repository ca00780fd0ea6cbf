"""What interpolating noise costs under any covariance: effective ranks, the exact risk on given inputs, its theory.

y = Xβ + ε: n rows x ~ N(0, Σ), Σ diagonal with falling eigenvalues λ_1 >= λ_2 >= …, ε ~ N(0, noise²), and the estimator
is the interpolant of least l2 norm. The excess risk is E (x·(w - β))², without the noise of a new y: a bias, what there
is of it without noise, and a variance, what the noise adds. Everything halved nowhere; `noise` is a standard deviation.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RESIDUAL_BOUND = 1e-10


class Ranks(NamedTuple):
    """r_k = Σ_{i>k} λ_i/λ_{k+1} and R_k = (Σ_{i>k} λ_i)²/Σ_{i>k} λ_i²."""

    small: float
    large: float


class Split(NamedTuple):
    """The number k* of directions that are estimated, and k*/n + n/R_{k*}, which measures what noise costs."""

    estimated: float
    cost: float


class Risk(NamedTuple):
    """The excess risk without noise, and what the noise adds to it."""

    bias: float
    variance: float


def effective_ranks(eigenvalues: Float[np.ndarray, "feature"], beyond: float) -> Ranks:
    """Return the effective ranks of what lies beyond the first `beyond` eigenvalues (Bartlett et al. 2020).

    r_k >= 1 and r_k² >= R_k >= r_k. Raises ValueError for eigenvalues that rise or are not positive, and a
    `beyond` that is no whole number of them from 0 that leaves at least one.
    """
    values = _spectrum(eigenvalues)
    k = inputs.number("beyond", beyond, low=0.0, below=len(values))
    if np.isnan(k) or np.isnan(values).any():
        return Ranks(float("nan"), float("nan"))
    if k % 1:
        raise ValueError(f"beyond is {k:g}; it takes a whole number")
    tail = values[int(k) :]
    return Ranks(float(tail.sum() / tail[0]), float(tail.sum() ** 2 / (tail**2).sum()))


def split(eigenvalues: Float[np.ndarray, "feature"], samples: float, constant: float = 1.0) -> Split:
    """Return k* = min{k >= 0: r_k >= constant · n} and k*/n + n/R_{k*}, infinite where there is none.

    Up to constants the variance is noise² (k*/n + n/R_{k*}) from above, where k* is below a share of n, and from below
    noise² min(k*/n + n/R_{k*}, 1) (Bartlett et al. 2020, arXiv 1906.11300, Theorem 4).
    Raises ValueError as `effective_ranks`, for samples below 1 and a constant below 0.
    """
    values = _spectrum(eigenvalues)
    n = inputs.number("samples", samples, low=1.0)
    constant = inputs.number("constant", constant, low=0.0)
    if np.isnan([n, constant, *values]).any():
        return Split(float("nan"), float("nan"))
    tails, squares = (np.cumsum(values[::-1] ** power)[::-1] for power in (1, 2))
    (enough,) = np.nonzero(tails / values >= constant * n)
    if not enough.size:
        return Split(float("inf"), float("inf"))
    k = int(enough[0])
    return Split(float(k), float(k / n + n * squares[k] / tails[k] ** 2))


def interpolation_risk(
    eigenvalues: Float[np.ndarray, "feature"], weights: Float[np.ndarray, "feature"], samples: float, noise: float
) -> Risk:
    """Return the bias and the variance in theory, up to relative terms that vanish with n.

    With κ the root of Σ λ/(λ + κ) = n and d = Σ (λ/(λ + κ))²/n: bias κ² Σ β²λ/(λ + κ)²/(1 - d), variance
    noise² d/(1 - d), so that 1/(1 - d) multiplies whatever there is of noise and bias (Mallinar et al. 2022, arXiv
    2207.06569). It tends to α for λ = k^-α and infinitely many features.
    Certificate: the equation for κ to 1e-10, else NaN. Raises ValueError as `split`, for a negative noise, weights not
    as many as the eigenvalues, and no more eigenvalues than samples.
    """
    from scipy.optimize import brentq

    values = _spectrum(eigenvalues)
    beta = inputs.vector("weights", weights, len(values), "eigenvalues")
    n, noise = inputs.number("samples", samples, low=1.0), inputs.number("noise", noise, low=0.0)
    if np.isnan([n, noise, *values, *beta]).any():
        return Risk(float("nan"), float("nan"))
    if n >= len(values):
        raise ValueError(f"samples is {n:g}; it takes fewer than there are eigenvalues, {len(values)}")
    # each term falls with κ; at κ = tail sum/n they sum to less than n, and at least n + 1 terms exceed λ_{n+1}/(λ+κ)
    missing = lambda log: float((values / (values + np.exp(log))).sum() - n)
    low, high = np.log(values[-1]) - np.log(n) - 40, np.log(values.sum() / n)
    kappa = float(np.exp(brentq(missing, low, high, xtol=1e-15, rtol=4 * np.finfo(float).eps, maxiter=1000)))
    if abs(missing(np.log(kappa))) > RESIDUAL_BOUND * n:
        return Risk(float("nan"), float("nan"))
    shares = values / (values + kappa)
    # 1 - d = Σ shares (1 - shares)/n, without cancellation
    spare = float((shares * kappa / (values + kappa)).sum() / n)
    bias = float((beta**2 * values * (kappa / (values + kappa)) ** 2).sum() / spare)
    return Risk(bias, noise**2 * (1 - spare) / spare)


def conditional_risk(
    gram: Float[np.ndarray, "sample other"],
    weighted: Float[np.ndarray, "sample other"],
    first: Float[np.ndarray, "sample"],
    leading: float,
    noise: float,
) -> Risk:
    """Return the exact bias and variance on given inputs, β being the first basis vector, averaged over the noise.

    `gram` is X Xᵀ, `weighted` X Σ Xᵀ, `first` the first column of X and `leading` λ_1: variance noise² tr(K⁻¹ S K⁻¹),
    and with a = K⁻¹ first, w = Xᵀa without noise: bias aᵀSa - 2 λ_1 first·a + λ_1.
    Certificate: K times its inverse is the identity to 1e-6, else NaN. Raises ValueError for shapes that do not agree.
    """
    K, S = inputs.array("gram", gram, 2), inputs.array("weighted", weighted, 2)
    x = inputs.vector("first", first, len(K), "gram has rows")
    if K.shape != (len(K), len(K)) or S.shape != K.shape:
        raise ValueError(f"gram and weighted have shapes {K.shape} and {S.shape}; it takes two equal square ones")
    leading, noise = inputs.number("leading", leading, low=0.0), inputs.number("noise", noise, low=0.0)
    void = Risk(float("nan"), float("nan"))
    if np.isnan([leading, noise, *K.ravel(), *S.ravel(), *x]).any() or np.linalg.matrix_rank(K) < len(K):
        return void
    inverse = np.linalg.inv(K)
    if np.abs(K @ inverse - np.eye(len(K))).max() > 1e-6:
        return void
    a = inverse @ x
    bias = a @ S @ a - 2 * leading * (x @ a) + leading
    return Risk(float(max(bias, 0.0)), float(noise**2 * np.einsum("ij,jk,ki->", inverse, S, inverse)))


def _spectrum(eigenvalues: object) -> np.ndarray:
    values = inputs.array("eigenvalues", eigenvalues, 1)
    if not np.isnan(values).any() and (values.min() <= 0 or (np.diff(values) > 0).any()):
        raise ValueError(f"eigenvalues is {values}; it takes positive numbers that do not rise")
    return values
