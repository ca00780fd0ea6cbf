"""The heavy ball on a quadratic: what is left of a mode, how fast it goes, where it is stable, what noise leaves of it.

v ← βv + g, w ← w − ηv with g = h·w, from rest (Polyak 1964); gradient descent is β = 0. A mode of curvature h follows
x_{t+1} = (1 + β − ηh)·x_t − β·x_{t−1}, so its roots are those of z² − (1 + β − ηh)·z + β. h may be negative (a saddle).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs


class Best(NamedTuple):
    """The learning rate and the momentum for which the slowest mode is fastest, and what it keeps in a step."""

    eta: float
    beta: float
    kept: float


def mode_path(
    curvatures: Float[np.ndarray, "mode"], learning_rate: float, momentum: float, steps: Float[np.ndarray, "step"]
) -> Float[np.ndarray, "step mode"]:
    """Return x_t/x_0 of every mode at those steps, from rest: powers of the companion matrix by repeated squaring.

    Exact to rounding, of the order of t·1e-16 where the mode is stable. NaN for NaN. Raises ValueError for steps that
    are not whole, a momentum outside [0, 1), a negative rate and infinite entries.
    """
    h, steps = inputs.array("curvatures", curvatures, 1), inputs.array("steps", steps, 1)
    rate, beta = _rate(learning_rate), _momentum(momentum)
    if (steps < 0).any() or (np.floor(steps) != steps)[~np.isnan(steps)].any():
        raise ValueError(f"steps begin with {steps[:3]}; they are whole numbers from 0")
    if np.isnan(h).any() or np.isnan(steps).any() or np.isnan([rate, beta]).any():
        return np.full((len(steps), len(h)), np.nan)
    companion = np.zeros((len(h), 2, 2))
    companion[:, 0, 0], companion[:, 0, 1], companion[:, 1, 0] = 1 + beta - rate * h, -beta, 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array([np.linalg.matrix_power(companion, int(t))[:, 0].sum(axis=1) for t in steps])


def slowest_rate(curvatures: Float[np.ndarray, "mode"], learning_rate: float, momentum: float) -> float:
    """Return the largest modulus of a root over the modes, what the slowest one keeps in a step at late times.

    NaN for NaN. Raises ValueError as `mode_path` does.
    """
    h, rate, beta = inputs.array("curvatures", curvatures, 1), _rate(learning_rate), _momentum(momentum)
    if np.isnan(h).any() or np.isnan([rate, beta]).any():
        return float("nan")
    trace = 1 + beta - rate * h
    gap = trace**2 - 4 * beta
    return float(np.where(gap < 0, beta**0.5, (np.abs(trace) + np.sqrt(np.maximum(gap, 0))) / 2).max())


def best_descent(smallest: float, largest: float) -> Best:
    """Return gradient descent's best rate 2/(L + m), which keeps (κ − 1)/(κ + 1) a step, κ = L/m.

    Certificate: `slowest_rate` at both ends is that, and larger at rates 1e-6 to either side, else NaN.
    Raises ValueError unless 0 < smallest <= largest.
    """
    m, L = _ends(smallest, largest)
    return _certified(m, L, Best(2 / (L + m), 0.0, (L - m) / (L + m)))


def best_heavy_ball(smallest: float, largest: float) -> Best:
    """Return the best heavy ball: η = 4/(√L + √m)², β = ((√κ − 1)/(√κ + 1))², which keeps √β a step, κ = L/m.

    Polyak 1964; Lessard, Recht & Packard 2016, arXiv 1408.3595, section on quadratics. Certificate: `slowest_rate` at
    both ends is that to 1e-7, and no smaller at rates and momenta 1e-4 to either side, else NaN.
    Raises ValueError unless 0 < smallest <= largest.
    """
    m, L = _ends(smallest, largest)
    root = (L**0.5 - m**0.5) / (L**0.5 + m**0.5)
    return _certified(m, L, Best(4 / (L**0.5 + m**0.5) ** 2, root**2, root))


def stationary_variance(curvature: float, learning_rate: float, momentum: float, noise: float) -> float:
    """Return the variance of w at rest where every gradient has independent noise of variance `noise`.

    η(1 + β)/(h(1 − β)(2(1 + β) − ηh)) · noise, which is η/(h(2 − ηh)) · noise for β = 0: from E x² = E x'² and E x·x'
    of the recursion above with −ηξ added. Infinite from ηh = 2(1 + β) on. NaN for NaN.
    Raises ValueError for a curvature or rate that is not positive, a negative noise, a momentum outside [0, 1).
    """
    h, rate = inputs.number("curvature", curvature, low=0.0), _rate(learning_rate)
    beta, noise = _momentum(momentum), inputs.number("noise", noise, low=0.0)
    if np.isnan([h, rate, beta, noise]).any():
        return float("nan")
    if h == 0 or rate == 0:
        raise ValueError(f"curvature is {h:g} and learning_rate {rate:g}; both have to be positive")
    room = 2 * (1 + beta) - rate * h
    return rate * (1 + beta) / (h * (1 - beta) * room) * noise if room > 0 else float("inf")


def variance_path(
    curvature: float,
    learning_rate: float,
    momentum: float,
    noise: float,
    cooling: float,
    initial: float,
    steps: Float[np.ndarray, "step"],
) -> Float[np.ndarray, "step"]:
    """Return E w² at those steps, from w² = `initial` at rest, with rates η/(1 + cooling·t) and noisy gradients.

    The second moments of (w, v) follow a linear recursion, which is iterated: exact for every schedule. NaN for NaN.
    Raises ValueError for steps that are not whole, and for numbers out of range.
    """
    steps = inputs.array("steps", steps, 1)
    h, rate, beta = inputs.number("curvature", curvature), _rate(learning_rate), _momentum(momentum)
    noise, cooling = inputs.number("noise", noise, low=0.0), inputs.number("cooling", cooling, low=0.0)
    initial = inputs.number("initial", initial, low=0.0)
    if np.isnan(steps).any() or np.isnan([h, rate, beta, noise, cooling, initial]).any():
        return np.full(len(steps), np.nan)
    if (steps < 0).any() or (np.floor(steps) != steps).any():
        raise ValueError(f"steps begin with {steps[:3]}; they are whole numbers from 0")
    moments, found = np.array([[initial, 0.0], [0.0, 0.0]]), [initial]
    for t in range(int(steps.max())):
        now = rate / (1 + cooling * t)
        matrix = np.array([[1 - now * h, -now * beta], [h, beta]])
        kick = np.array([-now, 1.0])
        moments = matrix @ moments @ matrix.T + noise * np.outer(kick, kick)
        found.append(float(moments[0, 0]))
    return np.array(found)[steps.astype(int)]


def batch_variance(values: Float[np.ndarray, "sample"], batch: float) -> float:
    """Return the variance of the mean of `batch` values drawn without replacement: σ²/B · (N − B)/(N − 1).

    σ² is the population variance of the N values. NaN for NaN. Raises ValueError unless 1 <= batch <= N and N > 1.
    """
    values = inputs.array("values", values, 1)
    batch = inputs.number("batch", batch, low=1.0, below=len(values) + 1e-9)
    if len(values) < 2:
        raise ValueError("values has one entry; it takes two or more")
    return float(values.var() / batch * (len(values) - batch) / (len(values) - 1))


def _certified(m: float, L: float, best: Best) -> Best:
    if np.isnan([m, L]).any():
        return Best(float("nan"), float("nan"), float("nan"))
    at = lambda rate, beta: slowest_rate(np.array([m, L]), rate, beta)
    # a double root moves by the square root of rounding
    close = abs(at(best.eta, best.beta) - best.kept) <= 1e-7
    tried = [(best.eta * (1 + a), best.beta) for a in (-1e-4, 1e-4)]
    if best.beta > 0:
        tried += [(best.eta, best.beta * (1 + a)) for a in (-1e-4, 1e-4)]
    if close and all(at(*each) >= best.kept - 1e-12 for each in tried):
        return best
    return Best(float("nan"), float("nan"), float("nan"))


def _ends(smallest: float, largest: float) -> tuple[float, float]:
    m, L = inputs.number("smallest", smallest, low=0.0), inputs.number("largest", largest, low=0.0)
    if m == 0 or m > L:
        raise ValueError(f"smallest is {m:g} and largest {L:g}; it takes 0 < smallest <= largest")
    return m, L


def _rate(learning_rate: float) -> float:
    return inputs.number("learning_rate", learning_rate, low=0.0)


def _momentum(momentum: float) -> float:
    return inputs.number("momentum", momentum, low=0.0, below=1.0)
