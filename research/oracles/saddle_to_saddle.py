"""From which saddle to which a diagonal linear network jumps when it starts from next to nothing, and when.

Gradient flow on L(w) = |Xw - y|²/(2n), w = u² - v², from u = v = α: w = -2α² sinh(4 ∫∇L), so that with s = -2 ∫∇L/L₀,
L₀ = ln(1/α), w_i is of order one only where |s_i| reaches 1. In the time τ = t/L₀ the limit α → 0 is ds/dτ = -2 ∇L(w),
s in the subdifferential of |w|_1: s_i = ±1 where w_i is not zero. The weights stay at a saddle until the next |s_i|
reaches 1; then they jump to the minimum of L over the weights that have the sign of s_i where |s_i| = 1 and are zero
elsewhere (Pesme & Flammarion 2023, arXiv 2304.00488, Algorithm 1; their w = u·v gives another unit of time). The last
one is the interpolant of least l1 norm, since s lies in the row space of X.
"""

import functools

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

BOUND = 1e-9  # of gradients, in units of the largest one at zero, and of |s| = 1
NARROW = 1e-12  # time between jumps below which the order is not to be had


def jump_times(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], most: int = 40
) -> Float[np.ndarray, "jump"]:
    """Return the times τ of all jumps up to the last saddle, NaN beyond them; `most` is the length of the answer.

    Certificate and errors: those of `saddles`.
    """
    return _path(*_checked(X, y, most))[0]


def saddles(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], most: int = 40
) -> Float[np.ndarray, "jump feature"]:
    """Return the saddle that each jump leads to, NaN beyond them; the last has the least l1 norm of all minima of L.

    Certificate: at every saddle the gradient is zero on the support, and where |s_i| = 1 without a weight it points
    back inside (the conditions for the constrained minimum); at the last it is zero everywhere. All to 1e-9 of the
    largest gradient at zero, else NaN throughout; NaN too where `most` jumps do not suffice.
    Raises ValueError for shapes that do not agree and a `most` that is no whole number from 1.
    """
    return _path(*_checked(X, y, most))[1]


def matching_pursuit(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], count: float
) -> Float[np.ndarray, "feature"]:
    """Return least squares on `count` features, chosen one by one by the largest gradient: orthogonal matching pursuit.

    The rival: what is chosen by the gradient of the moment, not by its integral over time. Raises ValueError as
    `saddles`, and for a count that is no whole number from 0 to the number of features.
    """
    X, y = inputs.regression(X, y)
    count = inputs.number("count", count, low=0.0, below=X.shape[1] + 1.0)
    if np.isnan(X).any() or np.isnan(y).any() or np.isnan(count):
        return np.full(X.shape[1], np.nan)
    if count % 1:
        raise ValueError(f"count is {count:g}; it takes a whole number")
    w = np.zeros(X.shape[1])
    chosen: list[int] = []
    for _ in range(int(count)):
        gradient = np.abs(X.T @ (X @ w - y))
        gradient[chosen] = -1.0
        chosen.append(int(gradient.argmax()))
        w[chosen] = np.linalg.lstsq(X[:, chosen], y, rcond=None)[0]
    return w


def _checked(X: object, y: object, most: object) -> tuple[bytes, bytes, tuple[int, int], int]:
    samples, targets = inputs.regression(X, y)
    count = inputs.number("most", most, low=1.0)
    if count % 1:
        raise ValueError(f"most is {most}; it takes a whole number")
    return samples.tobytes(), targets.tobytes(), (samples.shape[0], samples.shape[1]), int(count)


@functools.lru_cache(maxsize=64)
def _path(samples: bytes, targets: bytes, shape: tuple[int, int], most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the times and the saddles."""
    from scipy.optimize import nnls

    X, y = np.frombuffer(samples).reshape(shape), np.frombuffer(targets)
    times, weights = np.full(most, np.nan), np.full((most, X.shape[1]), np.nan)
    void = times.copy(), weights.copy()
    if np.isnan(X).any() or np.isnan(y).any():
        return void
    gradient_of = lambda w: X.T @ (X @ w - y) / len(X)
    w, s, now = np.zeros(X.shape[1]), np.zeros(X.shape[1]), 0.0
    gradient = gradient_of(w)
    unit = np.abs(gradient).max()
    for jump in range(most + 1):
        moving = np.abs(gradient) > BOUND * unit
        if not moving.any():
            return times, weights
        if jump == most:
            return void
        # s_i - 2 δ g_i = -sign(g_i)
        ahead = np.full(len(s), np.inf)
        ahead[moving] = (-np.sign(gradient[moving]) - s[moving]) / (-2 * gradient[moving])
        if ahead.min() <= NARROW:
            return void
        s = s - 2 * ahead.min() * np.where(moving, gradient, 0.0)
        now += float(ahead.min())
        active = np.abs(s) >= 1 - BOUND
        if not active.any():
            return void
        s[active] = np.sign(s[active])
        columns = X[:, active] * s[active][None, :]
        solution, _ = nnls(columns, y, maxiter=100 * X.shape[1])
        w = np.zeros(X.shape[1])
        w[active] = s[active] * _refined(columns, y, solution)
        gradient = gradient_of(w)
        outward = -s * gradient
        if (np.abs(gradient[w != 0]) > BOUND * unit).any() or (outward[active] > BOUND * unit).any():
            return void
        if (w * s < 0).any():
            return void
        times[jump], weights[jump] = now, w
    return void


def _refined(columns: np.ndarray, y: np.ndarray, solution: np.ndarray) -> np.ndarray:
    """Return the least-squares solution on the support of a non-negative one, which rounding has left inexact."""
    support = solution > 1e-12 * max(solution.max(initial=0.0), 1e-300)
    refined = np.zeros_like(solution)
    if support.any():
        refined[support] = np.linalg.lstsq(columns[:, support], y, rcond=None)[0]
    return refined
