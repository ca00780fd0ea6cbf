"""The tangent kernel of an infinitely wide ReLU network with one hidden layer, and how a residual decays under it.

f(x) = Σ_j a_j·max(b_j·x + c_j, 0)/√width, all of a and b drawn from N(0, 1) and c = 0 at the start. With θ the angle
between x and x' the tangent kernel is |x||x'|·(κ1 + κ0·cos θ) + bias·κ0, κ0 = (π - θ)/(2π) and κ1 = (sin θ + (π -
θ)·cos θ)/(2π) the arc-cosine kernels of degree 0 and 1 (Cho & Saul 2009, over 2); `bias` is 1 where c is trained, 0
where there is none (Jacot, Gabriel & Hongler 2018, arXiv 1806.07572; Bietti & Mairal 2019, arXiv 1905.12173).

On the unit circle with the uniform distribution the eigenfunctions are cos kθ and sin kθ. The eigenvalues are the
integrals 1/π·∫_0^π K(θ)·cos kθ dθ, by parts with ∫(π - θ)·cos nθ = (1 - (-1)^n)/n² and π²/2 for n = 0:

    even k: (k² + 3)/(π²·(k² - 1)²)      k = 1: 1/4      odd k > 1: 0
    bias:   plus 1/4 for k = 0, plus 1/(π²·k²) for odd k

That they vanish for odd k > 1 without bias, and not with it: Basri, Jacobs, Kasten & Kritchman 2019, arXiv 1906.00425.
In that case more is true: max(u, 0) - max(-u, 0) = u, so that f(x) - f(-x) is linear in x for any weights at all.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RESIDUAL_BOUND = 1e-10


def lengths_and_angles(
    X: Float[np.ndarray, "sample feature"], points: Float[np.ndarray, "point feature"]
) -> tuple[Float[np.ndarray, "sample point"], Float[np.ndarray, "sample point"]]:
    """Return |x||x'| and the angle between, for every row of X and every row of points; π/2 beside a row of zeros.

    Raises ValueError for rows of different lengths and infinite entries.
    """
    X, points = inputs.array("X", X, 2), inputs.array("points", points, 2)
    if points.shape[1] != X.shape[1]:
        raise ValueError(f"points has rows of {points.shape[1]} entries; it takes {X.shape[1]}, as many as X")
    lengths = np.linalg.norm(X, axis=1)[:, None] * np.linalg.norm(points, axis=1)
    unit = lambda rows: rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(float).tiny)
    one, other = unit(X)[:, None], unit(points)[None]
    # the arc cosine would lose half of the digits where the angle is small
    return lengths, 2 * np.arctan2(np.linalg.norm(one - other, axis=2), np.linalg.norm(one + other, axis=2))


def arc_cosine_kernel(
    X: Float[np.ndarray, "sample feature"], points: Float[np.ndarray, "point feature"], bias: float
) -> Float[np.ndarray, "sample point"]:
    """Return the tangent kernel of the infinitely wide network between two sets of inputs; 0 at x = 0 without bias.

    Raises ValueError for rows of different lengths, infinite entries, a bias below 0, and x = 0 with a bias, where the
    network starts on the kink.
    """
    lengths, angle = lengths_and_angles(X, points)
    bias = inputs.number("bias", bias, low=0.0)
    if bias > 0 and (lengths == 0).any():
        raise ValueError("X or points has a row of zeros; with a bias it takes rows of positive length")
    steps = (np.pi - angle) / (2 * np.pi)
    return lengths * (np.sin(angle) / (2 * np.pi) + 2 * steps * np.cos(angle)) + bias * steps


def circle_eigenvalues(frequency: Float[np.ndarray, "wave"], points: int, bias: float) -> Float[np.ndarray, "wave"]:
    """Return the eigenvalues of the tangent kernel over n, at n = `points` evenly spaced points of the unit circle.

    There cos kθ and sin kθ are eigenvectors, and the eigenvalue is the sum of those of the circle over the frequencies
    k + n·j that the points cannot tell from k: with Σ_j 1/(z + j)² = π²/sin²(πz), Σ_j 1/(z + j) = π·cot(πz) and
    (k² + 3)/(k² - 1)² = Σ± (1/(k ± 1)² ± 1/(2·(k ± 1))) it is, for even k, s(z) = 1/(n·sin(πz/n))²,

        s(k - 1) + s(k + 1) - (cot(π(k - 1)/n) - cot(π(k + 1)/n))/(2πn).

    Certificate: K·v = n·eigenvalue·v for v = cos(kθ) with the kernel of `arc_cosine_kernel`, to 1e-10, else NaN.
    Raises ValueError for frequencies that are not whole, an odd number of points and a bias below 0.
    """
    k = inputs.array("frequency", frequency, 1)
    n, bias = inputs.number("points", points, low=2.0), inputs.number("bias", bias, low=0.0)
    if (np.isfinite(k) & (k != np.rint(k))).any():
        raise ValueError(f"frequency is {k}; it takes whole numbers")
    if n % 2 == 1:
        raise ValueError(f"points is {n:g}; it takes an even number")
    if np.isnan([n, bias]).any() or np.isnan(k).any():
        return np.full(len(k), np.nan)
    even, folded = k % 2 == 0, np.minimum(k % n, -k % n)
    square = lambda z: 1 / (n * np.sin(np.pi * z / n)) ** 2
    below, above = np.where(even, k - 1, 0.5), np.where(even, k + 1, 0.5)
    difference = 1 / np.tan(np.pi * below / n) - 1 / np.tan(np.pi * above / n)
    values = np.where(
        even, square(below) + square(above) - difference / (2 * np.pi * n), np.where(folded == 1, 0.25, 0)
    )
    values = values + bias * np.where(even, np.where(folded == 0, 0.25, 0), square(np.where(even, 0.5, k)))
    angle = 2 * np.pi * np.arange(int(n)) / n
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    waves = np.cos(angle[:, None] * k)
    off = arc_cosine_kernel(circle, circle, bias) @ waves / n - waves * values
    return np.where(np.abs(off).max(axis=0) <= RESIDUAL_BOUND, values, np.nan)


def mode_rates(kernel: Float[np.ndarray, "sample other"]) -> Float[np.ndarray, "mode"]:
    """Return the eigenvalues of a kernel over n, the largest first.

    Under descent on half the mean squared error the residual along eigenfunction k is (1 - rate·eigenvalue)^t times
    what it was, as long as the kernel stays.

    Certificate: that of `eigenfunctions`, else NaN. Raises ValueError as that does.
    """
    return _modes(kernel)[0]


def eigenfunctions(kernel: Float[np.ndarray, "sample other"]) -> Float[np.ndarray, "sample mode"]:
    """Return the orthonormal eigenvectors of a kernel in columns, that of the largest eigenvalue first.

    Certificate: together with `mode_rates` they give back the kernel, and their Gram matrix the identity, to 1e-10
    relative, else NaN. Raises ValueError for a kernel that is not square and symmetric.
    """
    return _modes(kernel)[1]


def _modes(kernel: object) -> tuple[np.ndarray, np.ndarray]:
    """Return the certified eigenvalues over n and eigenvectors, or NaN for both."""
    K = inputs.array("kernel", kernel, 2)
    if K.shape[0] != K.shape[1] or (np.abs(K - K.T) > 1e-9 * np.abs(K).max()).any():
        raise ValueError(f"kernel of shape {K.shape} is not symmetric; it takes a symmetric matrix")
    void = np.full(len(K), np.nan), np.full(K.shape, np.nan)
    if np.isnan(K).any():
        return void
    values, vectors = np.linalg.eigh(K)
    size = max(np.abs(values).max(), np.finfo(float).tiny)
    off = np.abs(vectors * values @ vectors.T - K).max() / size
    if max(off, np.abs(vectors.T @ vectors - np.eye(len(K))).max()) > RESIDUAL_BOUND:
        return void
    return values[::-1] / len(K), vectors[:, ::-1]


def kernel_descent(
    kernel: Float[np.ndarray, "sample other"],
    residual: Float[np.ndarray, "sample"],
    rate: float,
    at: Float[np.ndarray, "step"],
) -> Float[np.ndarray, "step sample"]:
    """Return (1 - rate·K/n)^t · residual at the steps `at`: descent on half the mean squared error under a kernel.

    Certificate: that of `eigenfunctions`, else NaN. Raises ValueError as that does, and for a negative rate or step.
    """
    values, vectors = _modes(kernel)
    r, rate = inputs.vector("residual", residual, len(values), "kernel has rows"), inputs.number("rate", rate, low=0.0)
    steps = inputs.array("at", at, 1)
    if (steps < 0).any():
        raise ValueError(f"at is {steps}; it takes numbers of steps from 0 on")
    if np.isnan([values.sum(), r.sum(), rate, steps.sum()]).any():
        return np.full((len(steps), len(r)), np.nan)
    return ((1 - rate * values) ** steps[:, None] * (vectors.T @ r)) @ vectors.T
