"""Whether descent leaves the flat of a noisy hard tanh: the law of one unit, without drawing any noise.

The noisy activation of Gulcehre, Moczulski, Denil & Bengio 2016 (arXiv 1603.00391), h the hard tanh, u(x) = x and
Δ = h - u: φ(x, ξ) = α h + (1 - α) u + d(x) s(x) ε, s(x) = c (sigmoid(pΔ) - 1/2)², d = -sgn(x) sgn(1 - α) and ε = |ξ|
for ξ ~ N(0, 1); for α = 1, where d would be 0, the noise is s(x) ξ. In the flat, a distance v > 0 above x = 1,
s = c/4 tanh²(pv/2). A step of descent on (φ - y)²/2 with the rate η and fresh noise takes v to
v - η (φ - y) dφ/dx: a Markov chain in one number, absorbed where v <= 0.

At α = 1 and small v the step is v·(1 - 2kη(1 - y)ξ) to first order, k = c p²/16: noise is lost as fast as the distance,
ln v takes a random walk of mean E ln|1 - 2kη(1 - y)ξ| < 0, and what leaves the flat must do so with one large ξ.
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

BOUND = 5e-3  # of an escape probability, between two grids
# z = ln(eᵛ - 1): below, the chain does not depend on the scale of v; above, v is the scale of the noise
LOWEST, HIGHEST = -9.0, 15.0
GRIDS, INTERVALS = (401, 801, 1601), 601  # places of z, tried until two agree; ends of intervals of ξ


def escape_probability(
    alpha: float,
    noise_scale: float,
    learning_rate: float,
    start: float,
    steps: Float[np.ndarray, "step"],
    steepness: float = 1.0,
    target: float = 0.0,
) -> Float[np.ndarray, "step"]:
    """Return the probability to have left the flat after each of these numbers of steps, from v = `start` > 0.

    Without noise it is 0 or 1, by iteration. With noise the chain is carried on a grid of ln(eᵛ - 1), with exact
    Gaussian probabilities of intervals of ξ; certificate: two grids, of half the spacing, within 0.005, else NaN.
    Raises ValueError for a noise scale or steepness below 0, a start or rate that is not positive, and steps below 0.
    """
    low = np.nextafter(0.0, 1.0)
    numbers = [
        inputs.number("alpha", alpha),
        inputs.number("noise_scale", noise_scale, low=0.0),
        inputs.number("steepness", steepness, low=0.0),
        inputs.number("target", target),
        inputs.number("learning_rate", learning_rate, low=low),
    ]
    first, at = inputs.number("start", start, low=low), inputs.array("steps", steps, 1)
    if (at < 0).any():
        raise ValueError(f"steps has the entry {at.min():g}; it takes numbers from 0")
    if np.isnan([*numbers, first, *at]).any():
        return np.full(len(at), np.nan)
    if numbers[1] == 0:
        return _without_noise(numbers, first, at)
    coarse = _with_noise(numbers, first, at, GRIDS[0], INTERVALS)
    for places in GRIDS[1:]:
        fine = _with_noise(numbers, first, at, places, INTERVALS)
        if np.abs(fine - coarse).max() <= BOUND:
            return np.clip(fine, 0.0, 1.0)
        coarse = fine
    return np.full(len(at), np.nan)


def log_contraction(noise_scale: float, learning_rate: float, steepness: float = 1.0, target: float = 0.0) -> float:
    """Return E ln|1 - 2kη(1 - y)ξ|, k = c p²/16: the mean of the change of ln v a step, at α = 1 and small v.

    Certificate: the error that the quadrature reports, at most 1e-8, else NaN.
    """
    from scipy.integrate import quad

    scale = inputs.number("noise_scale", noise_scale, low=0.0)
    s = scale * steepness**2 / 8 * learning_rate * (1 - target)
    if np.isnan(s) or s == 0:
        return float(s * 0)
    density = lambda x: np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    # The singularity ln|x - 1/s|, where it matters, is an end of an interval, which the rule never asks.
    ends = sorted({-12.0, 12.0, *((1 / s,) if abs(1 / s) < 12 else ())})
    parts = [
        quad(lambda x: np.log(abs(1 - s * x)) * density(x), *pair, epsabs=1e-12, limit=400, full_output=1)[:2]
        for pair in pairwise(ends)
    ]
    value, error = np.sum(parts, axis=0)
    return float(value) if error <= 1e-8 else float("nan")


def _step(numbers: list[float], v: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return where a step takes v > 0."""
    alpha, scale, steepness, target, rate = numbers
    epsilon = noise if alpha == 1 else -np.sign(1 - alpha) * np.abs(noise)
    tanh = np.tanh(steepness * v / 2)
    value = alpha + (1 - alpha) * (1 + v) + scale / 4 * tanh**2 * epsilon
    slope = 1 - alpha + scale / 4 * steepness * tanh * (1 - tanh**2) * epsilon
    return v - rate * (value - target) * slope


def _place(v: np.ndarray) -> np.ndarray:
    """Return ln(eᵛ - 1)."""
    return v + np.log(-np.expm1(-v))


def _without_noise(numbers: list[float], start: float, at: np.ndarray) -> np.ndarray:
    v, left = np.array(start), np.inf
    for step in range(1, int(at.max()) + 1):
        v = _step(numbers, v, np.zeros(()))
        if v <= 0:
            left = step
            break
    return (at >= left) * 1.0


def _with_noise(numbers: list[float], start: float, at: np.ndarray, places: int, intervals: int) -> np.ndarray:
    from scipy.special import ndtr

    grid = np.linspace(LOWEST, HIGHEST, places)
    ends = np.linspace(-9.0, 9.0, intervals)
    chance = np.diff(ndtr(ends))
    reached = _step(numbers, np.logaddexp(0, grid)[:, None], ends[None, :])
    left, right = reached[:, :-1], reached[:, 1:]
    alive = np.clip(np.maximum(left, right) / np.maximum(np.abs(right - left), 1e-300), 0, 1)
    alive = np.where(np.minimum(left, right) > 0, 1.0, np.where(np.maximum(left, right) <= 0, 0.0, alive))
    middle = (np.maximum(left, 0) + np.maximum(right, 0)) / 2
    position = (_place(np.maximum(middle, 1e-300)) - LOWEST) / (grid[1] - grid[0])
    below = np.clip(position, 1, places - 3).astype(int)
    t, mass = np.clip(position - below, -1, 2), chance * alive
    # Cubic through four places: linear interpolation would add a diffusion of its own.
    weights = (-t * (t - 1) * (t - 2) / 6, (t**2 - 1) * (t - 2) / 2, -t * (t + 1) * (t - 2) / 2, t * (t**2 - 1) / 6)
    move = np.zeros((places, places))
    rows = np.broadcast_to(np.arange(places)[:, None], below.shape)
    for offset, weight in enumerate(weights, start=-1):
        np.add.at(move, (rows, below + offset), mass * weight)
    inside, answers = np.ones(places), {0: 0.0}
    for step in range(1, int(at.max()) + 1):
        inside = move @ inside
        answers[step] = 1 - float(np.interp(_place(np.array(start)), grid, inside))
    return np.array([answers[int(step)] for step in at])
