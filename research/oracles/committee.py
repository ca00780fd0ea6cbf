"""A committee of quadratic units: what its tangent kernel learns, as a polynomial, and the error of a polynomial.

f(x) = (α/N) Σ φ(w_i·x), φ(h) = h + ε h²/2, less what it says at the start, on ½ mean (f − y)², as in Kumar, Bordelon,
Gershman & Pehlevan 2024 (arXiv 2310.06110, equation 3). With m and M the means of w_i and of w_i w_iᵀ, f is the
polynomial α m·x + (αε/2) xᵀ M x. Its gradients have the products (α²/N) K, K(x, z) = x·z (1 + ε m·(x + z) + ε² xᵀ M z)
(equation 5). Descent at the rate `rate` N/α² on the linearised network therefore does not know α, and knows the width
through m and M alone.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RESIDUAL_BOUND = 1e-9


class Polynomial(NamedTuple):
    """linear·x + xᵀ quadratic x, after each number of steps."""

    linear: Float[np.ndarray, "step feature"]
    quadratic: Float[np.ndarray, "step feature other"]


def committee_kernel(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    mean: Float[np.ndarray, "feature"],
    second: Float[np.ndarray, "feature other"],
    bend: float,
    rate: float,
    at: Float[np.ndarray, "step"],
) -> Polynomial:
    """Return what kernel descent has learnt after `at` steps (infinite: kernel regression), from the first m and M.

    The outputs are K(x, X) c with c = V (1 − (1 − rate s/n)^t) / s Vᵀ y, K = V diag(s) Vᵀ. Certificate: the eigenvalue
    decomposition right to 1e-9 relative, and for kernel regression K c = y to 1e-6, else NaN. Raises ValueError for
    shapes that do not agree, a negative number of steps, rate or bend.
    """
    X, y = inputs.regression(X, y)
    mean, second = inputs.vector("mean", mean, X.shape[1], "X has columns"), inputs.array("second", second, 2)
    if second.shape != (X.shape[1], X.shape[1]):
        raise ValueError(f"second has shape {second.shape}; it takes {X.shape[1]} rows and columns, as X has")
    bend, rate = inputs.number("bend", bend, low=0.0), inputs.number("rate", rate, low=0.0)
    steps = np.asarray(at, dtype=np.float64)
    if steps.ndim != 1 or (steps < 0).any():
        raise ValueError(f"at is {at}; it takes numbers of steps from 0 on")
    void = Polynomial(np.full((len(steps), X.shape[1]), np.nan), np.full((len(steps), *[X.shape[1]] * 2), np.nan))
    if np.isnan([X.sum(), y.sum(), mean.sum(), second.sum(), bend, rate, steps.sum()]).any():
        return void
    along = bend * X @ mean
    kernel = (X @ X.T) * (1 + along[:, None] + along[None, :] + bend**2 * X @ second @ X.T)
    s, V = np.linalg.eigh(kernel)
    if np.abs(V * s @ V.T - kernel).max() > RESIDUAL_BOUND * s[-1] or s[0] < -RESIDUAL_BOUND * s[-1]:
        return void
    s = np.maximum(s, 1e-14 * s[-1])
    left = np.where(np.isinf(steps)[:, None], 0.0, (1 - rate * s[None, :] / len(X)) ** steps[:, None])
    weights = ((1 - left) / s * (V.T @ y)) @ V.T
    ends = np.isinf(steps)
    if np.abs(weights[ends] @ kernel - y).max(initial=0.0) > 1e-6 * np.abs(y).max():
        return void
    first, moments = weights @ X, np.einsum("ts,si,sj->tij", weights, X, X)
    quadratic = bend * first[:, :, None] * mean + bend**2 * moments @ second
    return Polynomial((weights * (1 + along)) @ X, (quadratic + quadratic.transpose(0, 2, 1)) / 2)


def polynomial_error(
    linear: Float[np.ndarray, "feature"],
    quadratic: Float[np.ndarray, "feature other"],
    beta: Float[np.ndarray, "feature"],
) -> float:
    """Return E (f − y)²/E y² for y = (β·x)²/2 and x ~ N(0, I/d): 0 for y itself, 1 for f = 0.

    With A = symmetric part of quadratic − ββᵀ/2 it is ((tr A)² + 2‖A‖² + d‖linear‖²)/(3‖β‖⁴/4), by Wick's theorem; A of
    two polynomials gives their distance (equation 6 of arXiv 2310.06110 for f centred at zero). NaN for NaN.
    Raises ValueError for shapes that do not agree.
    """
    linear, quadratic = inputs.array("linear", linear, 1), inputs.array("quadratic", quadratic, 2)
    beta = inputs.vector("beta", beta, len(linear), "linear")
    if quadratic.shape != (len(linear), len(linear)):
        raise ValueError(f"quadratic has shape {quadratic.shape}; it takes {len(linear)} rows and columns")
    off = (quadratic + quadratic.T) / 2 - np.outer(beta, beta) / 2
    size = 3 * (beta @ beta) ** 2 / 4
    return float((np.trace(off) ** 2 + 2 * (off**2).sum() + len(linear) * (linear @ linear)) / size)
