"""When SGD leaves a minimum that all samples share: the mean square of a linear random iteration, and its typical size.

Near such a minimum the error e of the weights obeys e' = (I - η H_B) e, H_B the mean Hessian of a random batch. The
mean square E e eᵀ =: M obeys M' = E[(I - η H_B) M (I - η H_B)]. For a batch of B among n, E[H_B ⊗ H_B] = (1 - c) H ⊗ H
+ c mean_i(H_i ⊗ H_i), with H the mean of the H_i: two members of a batch are the same sample with probability 1/n where
they are drawn with replacement, c = 1/B, and never without it, c = (n - B)/(B (n - 1)). Here H_i = x_i x_iᵀ (least
squares, half the squared error). With L = H ⊗ I + I ⊗ H and Q = E[H_B ⊗ H_B] the map is I - η L + η² Q, symmetric as
every factor is. It maps positive matrices to such, so its largest eigenvalue is also its spectral radius (Krein &
Rutman), and that is at most 1 exactly while η <M, Q M> <= <M, L M> for all M: up to η = 1/λmax(L^-1 Q).

Wu, Ma & E 2018 (NeurIPS, "How SGD selects the global minima") give λmax(E (I - ηH_B)²) <= 1, which suffices; Mulayoff &
Michaeli 2024 (arXiv 2306.07850) the exact threshold.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

EIGEN_BOUND = 1e-9


class Stability(NamedTuple):
    """Largest learning rates: mean square, exact; what suffices for it; and full-batch descent's 2/λmax(H)."""

    exact: float
    sufficient: float
    full_batch: float


class Growth(NamedTuple):
    """The spectral radius of the mean square's map, and the mean square at the steps asked for."""

    radius: float
    mean_squares: Float[np.ndarray, "step"]


class Escape(NamedTuple):
    """Largest learning rates at which the mean square, and the logarithm of the typical error, do not grow."""

    mean_square: float
    almost_sure: float


def stability(X: Float[np.ndarray, "sample feature"], batch: float, replacement: float) -> Stability:
    """Return the largest learning rates at which the interpolating minimum is stable for batches of that size.

    `replacement` is 1 for batches drawn with replacement, 0 without. Directions that no sample has are left out, as
    nothing moves along them. Certificate: the spectral radius at the exact threshold is 1 to 1e-9, else NaN throughout.
    Raises ValueError for a batch that is no whole number from 1 (without replacement: to the number of samples), and
    for a replacement other than 0 and 1.
    """
    X, share, known = _checked(X, batch, replacement)
    if not known:
        return Stability(*[float("nan")] * 3)
    H, Q, squared = _moments(X, share)
    size = len(H)
    L = np.kron(H, np.eye(size)) + np.kron(np.eye(size), H)
    exact = 1 / _largest(Q, L)
    at = np.linalg.eigvalsh(np.eye(size**2) - exact * L + exact**2 * Q)
    if not abs(max(at[-1], -at[0]) - 1) <= EIGEN_BOUND:
        return Stability(*[float("nan")] * 3)
    return Stability(float(exact), float(2 / _largest(squared, H)), float(2 / np.linalg.eigvalsh(H)[-1]))


def growth(
    X: Float[np.ndarray, "sample feature"],
    learning_rate: float,
    batch: float,
    replacement: float,
    initial: Float[np.ndarray, "feature other"],
    at: Float[np.ndarray, "step"],
) -> Growth:
    """Return the spectral radius, and E |e_t|² after `at` steps (whole, not negative) from the second moment `initial`.

    The radius is that on the span of the samples. Not finite where it overflows. Raises ValueError as
    `stability`, and for a negative learning rate or step.
    """
    X, share, known = _checked(X, batch, replacement)
    rate = inputs.number("learning_rate", learning_rate, low=0.0)
    start = inputs.array("initial", initial, 2)
    steps = inputs.array("at", at, 1)
    if start.shape != (X.shape[1], X.shape[1]):
        raise ValueError(f"initial has shape {start.shape}; it takes a square matrix of as many rows as X has columns")
    if (steps < 0).any() or (steps % 1 > 0).any():
        raise ValueError(f"at is {steps}; it takes whole numbers of steps from 0")
    if not known or np.isnan(rate) or np.isnan(start).any() or np.isnan(steps).any():
        return Growth(float("nan"), np.full(len(steps), np.nan))
    H, Q, _ = _moments(X, share)
    size, basis = len(H), _basis(X)
    L = np.kron(H, np.eye(size)) + np.kron(np.eye(size), H)
    values, vectors = np.linalg.eigh(np.eye(size**2) - rate * L + rate**2 * Q)
    inside = basis.T @ start @ basis
    weights = (vectors.T @ np.eye(size).ravel()) * (vectors.T @ inside.ravel())
    with np.errstate(over="ignore", invalid="ignore"):
        squares = ((values[None, :] ** steps[:, None]) * weights[None, :]).sum(axis=1)
    squares = squares + np.trace(start) - np.trace(inside)
    return Growth(float(max(values[-1], -values[0])), squares)


def escape(curvatures: Float[np.ndarray, "sample"]) -> Escape:
    """Return both thresholds of one weight and batches of one sample with these second derivatives, h_i >= 0.

    Mean square: E (1 - ηh)² = 1 at η = 2 E h/E h². Almost surely the error grows like exp(t E ln|1 - ηh|) (law of
    large numbers), at that η at most like 1 (Jensen): returned is the first zero from there on. Without spread both
    are 2/h. Certificate: the mean logarithm is 0 there to 1e-9, else NaN.
    Raises ValueError for a negative curvature, or none that is positive.
    """
    from scipy.optimize import brentq

    h = inputs.array("curvatures", curvatures, 1)
    if (h < 0).any() or not (np.isnan(h).any() or h.max() > 0):
        raise ValueError(f"curvatures is {h}; it takes numbers from 0, not all of them 0")
    if np.isnan(h).any():
        return Escape(float("nan"), float("nan"))
    mean_square = 2 * h.mean() / (h**2).mean()
    typical = lambda rate: float(np.log(np.maximum(np.abs(1 - rate * h), 1e-300)).mean())
    # beyond 2/h for the least h > 0 every factor grows
    rates = np.linspace(mean_square, 2 / h[h > 0].min(), 2001)
    above = np.flatnonzero([typical(rate) > 0 for rate in rates])
    root = mean_square
    if abs(typical(mean_square)) > EIGEN_BOUND and above.size and above[0] > 0:
        root = brentq(typical, *rates[above[0] - 1 : above[0] + 1], xtol=1e-14)
    if abs(typical(root)) > EIGEN_BOUND:
        return Escape(float("nan"), float("nan"))
    return Escape(float(mean_square), float(root))


def escape_probability(
    curvatures: Float[np.ndarray, "sample"], learning_rate: float, start: float, edge: float
) -> float:
    """Return a bound on the probability that the error ever grows from `start` to `edge`, batches of one sample.

    With κ > 0 at which E|1 - ηh|^κ = 1, |e|^κ is a martingale: the bound is (start/edge)^κ (Ville). There is such a κ
    where E ln|1 - ηh| < 0: it is above 2 below the threshold of the mean square, and 0 at the almost sure one, where
    the bound is 1. It is 0 where no factor exceeds 1. Raises ValueError as `escape`, and unless 0 <= start < edge.
    """
    from scipy.optimize import brentq

    h = inputs.array("curvatures", curvatures, 1)
    rate = inputs.number("learning_rate", learning_rate, low=0.0)
    edge = inputs.number("edge", edge, low=0.0)
    start = inputs.number("start", start, low=0.0, below=edge if edge > 0 else 0.0)
    if (h < 0).any():
        raise ValueError(f"curvatures is {h}; it takes numbers from 0")
    if np.isnan([rate, edge, start, *h]).any():
        return float("nan")
    logs = np.log(np.maximum(np.abs(1 - rate * h), 1e-300))
    if logs.max() <= 0 or start == 0:
        return 0.0
    if logs.mean() >= 0:
        return 1.0
    excess = lambda power: float(np.logaddexp.reduce(power * logs) - np.log(len(h)))
    high = 1.0
    while excess(high) <= 0:
        high *= 2
    # excess is convex, 0 at 0 and falling there: the other zero lies beyond its minimum
    low = 1e-12
    power = brentq(excess, low, high, xtol=1e-14) if excess(low) < 0 else low
    return float((start / edge) ** power)


def _moments(X: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return H, E[H_B ⊗ H_B] and E[H_B²] on the span of the samples."""
    Z = X @ _basis(X)
    H = Z.T @ Z / len(Z)
    pairs = np.einsum("na,nb->nab", Z, Z).reshape(len(Z), -1)  # vec(x xᵀ); (x xᵀ) ⊗ (x xᵀ) = (x ⊗ x)(x ⊗ x)ᵀ
    Q = (1 - share) * np.kron(H, H) + share * pairs.T @ pairs / len(Z)
    squared = (1 - share) * H @ H + share * (Z.T * (Z**2).sum(axis=1)) @ Z / len(Z)
    return H, Q, squared


def _basis(X: np.ndarray) -> np.ndarray:
    _, s, Vt = np.linalg.svd(X, full_matrices=False)
    return Vt[s > max(X.shape) * np.finfo(float).eps * s[0]].T


def _largest(matrix: np.ndarray, metric: np.ndarray) -> float:
    """Return the largest eigenvalue of metric^-1 matrix, both symmetric and the metric positive."""
    values, vectors = np.linalg.eigh(metric)
    root = vectors / np.sqrt(values)
    return float(np.linalg.eigvalsh(root.T @ matrix @ root)[-1])


def _checked(X: object, batch: object, replacement: object) -> tuple[np.ndarray, float, bool]:
    """Return the samples, the c of the module's docstring, and whether all is known."""
    X = inputs.array("X", X, 2)
    batch, replacement = inputs.number("batch", batch, low=1.0), inputs.number("replacement", replacement)
    samples = len(X)
    if replacement not in (0.0, 1.0) and not np.isnan(replacement):
        raise ValueError(f"replacement is {replacement:g}; it takes 0 or 1")
    if batch % 1 > 0 or (replacement == 0 and batch > samples):
        raise ValueError(f"batch is {batch:g}; it takes a whole number, without replacement at most {samples} samples")
    if not X.any():
        raise ValueError("X is zero throughout; it takes samples that curve the loss")
    known = not (np.isnan(X).any() or np.isnan(batch) or np.isnan(replacement))
    share = 1 / batch if replacement == 1 else (samples - batch) / (batch * max(samples - 1, 1))
    return X, share, known
