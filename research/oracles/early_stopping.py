"""How early-stopped gradient flow on least squares compares with ridge: their paths, their risks, and two constants.

The flow starts at zero on 1/(2n)·||Xw - y||², and ridge adds strength/2·||w||². In mode s (an eigenvalue of XᵀX/n) they
multiply the least-squares solution by 1 - exp(-st) and s/(s + strength); at strength 1/t, with x = st, the shares that
are left are exp(-x) and 1/(1 + x). A risk is the mean over the noise of ||w - β||², for y = Xβ + noise.

Ali, Kolter & Tibshirani 2019, "A continuous-time view of early stopping for least squares" (arXiv 1810.10082).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

Function = Callable[[np.ndarray], np.ndarray]


class Risk(NamedTuple):
    """The variance for noise of variance one, and the squared bias of signals of norm one.

    `even` is the mean over all directions of the signal, `bias` that of each signal asked for.
    """

    variance: Float[np.ndarray, "step"]
    even: Float[np.ndarray, "step"]
    bias: Float[np.ndarray, "step signal"]


def flow(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], times: Float[np.ndarray, "step"]
) -> Float[np.ndarray, "step feature"]:
    """Return the gradient flow from zero at these times: Σ (1 - exp(-s t))/s · v vᵀ Xᵀ y/n over the modes (s, v).

    NaN for NaN. Raises ValueError for negative times, shapes that do not agree and infinite entries.
    """
    X, y = inputs.regression(X, y)
    times = _times(times)
    if np.isnan(X).any() or np.isnan(y).any():
        return np.full((len(times), X.shape[1]), np.nan)
    s, V = _modes(X)
    return _fitted(times[:, None] * s) * times[:, None] * (X.T @ y / len(y) @ V) @ V.T


def flow_risk(
    X: Float[np.ndarray, "sample feature"],
    signals: Float[np.ndarray, "signal feature"],
    times: Float[np.ndarray, "step"],
) -> Risk:
    """Return the risk of gradient flow from zero: variance Σ (1 - exp(-x))²/(n s), bias exp(-2x), x = s t.

    NaN for NaN. Raises ValueError for negative times, shapes that do not agree and infinite entries.
    """
    return _risk(X, signals, times, lambda x: np.exp(-x), _fitted)


def ridge_risk(
    X: Float[np.ndarray, "sample feature"],
    signals: Float[np.ndarray, "signal feature"],
    times: Float[np.ndarray, "step"],
) -> Risk:
    """Return the risk of ridge at the strengths 1/times: variance Σ s/(s + 1/t)²/n, bias 1/(1 + x)², x = s t.

    NaN for NaN. Raises ValueError for negative times, shapes that do not agree and infinite entries.
    """
    return _risk(X, signals, times, lambda x: 1 / (1 + x), lambda x: 1 / (1 + x))


def least_ridge_risk(
    X: Float[np.ndarray, "sample feature"], signal: Float[np.ndarray, "feature"], noise: float
) -> float:
    """Return the least risk of ridge over all strengths from 0 to infinity; `noise` is a standard deviation.

    The least of 400 strengths, evenly spaced in the logarithm from 1e-6 of the smallest eigenvalue to 1e6 of the
    largest, polished between its neighbours; both ends count too, the least-squares solution of least norm and w = 0.
    NaN for NaN. Raises ValueError for a negative noise, shapes that do not agree and infinite entries.
    """
    from scipy.optimize import minimize_scalar

    X = inputs.array("X", X, 2)
    signal = inputs.vector("signal", signal, X.shape[1], "X has columns")
    noise = inputs.number("noise", noise, low=0.0)
    if np.isnan(X).any() or np.isnan(signal).any() or np.isnan(noise):
        return float("nan")
    s, V = _modes(X)
    power, positive = (signal @ V) ** 2, s > 1e-12 * s.max(initial=0.0)

    def risk(log_time: float) -> float:
        x = s * np.exp(log_time)
        variance = np.exp(log_time) * (x / (1 + x) ** 2).sum() / len(X)
        return float((power / (1 + x) ** 2).sum() + noise**2 * variance)

    least_squares = power[~positive].sum() + noise**2 * (1 / s[positive]).sum() / len(X)
    if not positive.any():
        return float(power.sum())
    grid = np.linspace(-np.log(s.max()) - 14, -np.log(s[positive].min()) + 14, 400)
    place = int(np.argmin([risk(point) for point in grid]))
    bracket = grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)]
    polished = minimize_scalar(risk, bounds=bracket, method="bounded", options={"xatol": 1e-10}).fun
    return float(min(polished, risk(grid[place]), least_squares, power.sum()))


def path_constant() -> float:
    """Return 1.6859…, the largest risk of the flow at time t over that of ridge at strength 1/t.

    For every X, signal and noise: the bias never exceeds ridge's, since exp(x) >= 1 + x, and the ratio of the variances
    in one mode is ((1 - exp(-x))(1 + x)/x)², of which this is the maximum; the paper rounds it up to 1.6862.

    Certificate: not below a fine grid nor its own neighbours at a relative distance of 1e-5, else NaN.
    """
    return _largest(lambda x: (_fitted(x) * (1 + x)) ** 2)


def tuned_constant(calibration: float = 1.0) -> float:
    """Return the largest Bayes risk of the flow at time calibration/λ over the least of ridge, at its best strength λ.

    For a signal without a preferred direction, E ββᵀ ∝ I: in one mode, with x = s/λ, the risks are in the ratio
    (1 + x)(exp(-2cx) + (1 - exp(-cx))²/x), c = calibration, of which this is the supremum over x, for every X. At c = 1
    it is 1.2147 (Ali et al. 2019). It is infinite for c = 0.

    Certificate as of `path_constant`. Raises ValueError for a calibration that is not positive.
    """
    c = inputs.number("calibration", calibration, low=0.0)
    if c == 0:
        raise ValueError("calibration is 0; it takes a positive number")
    if np.isnan(c):
        return float("nan")
    return _largest(lambda x: (1 + x) * (np.exp(-2 * c * x) + (c * _fitted(c * x)) ** 2 * x))


def best_calibration() -> float:
    """Return 0.4571…, the calibration at which `tuned_constant` is least (1.0786).

    Certificate: both its neighbours at a distance of 1e-3 are worse, else NaN.
    """
    from scipy.optimize import minimize_scalar

    best = float(minimize_scalar(tuned_constant, bounds=(0.2, 1.0), method="bounded", options={"xatol": 1e-7}).x)
    lowest = tuned_constant(best)
    return best if lowest < min(tuned_constant(best - 1e-3), tuned_constant(best + 1e-3)) else float("nan")


def _largest(ratio: Function) -> float:
    """Return the maximum of a smooth function over x > 0, the best of a grid polished between its neighbours."""
    from scipy.optimize import minimize_scalar

    grid = np.geomspace(1e-4, 1e4, 4001)
    values = ratio(grid)
    place = int(np.clip(np.argmax(values), 1, len(grid) - 2))
    bounds = (grid[place - 1], grid[place + 1])
    best = minimize_scalar(lambda x: -ratio(x), bounds=bounds, method="bounded", options={"xatol": 1e-12})
    sides = [ratio(best.x * (1 + step)) for step in (-1e-5, 1e-5)]
    return float(-best.fun) if -best.fun >= max(*sides, values.max()) else float("nan")


def _fitted(x: np.ndarray) -> np.ndarray:
    """Return (1 - exp(-x))/x, and 1 for x = 0."""
    return np.where(x > 0, -np.expm1(-x) / np.where(x > 0, x, 1.0), 1.0)


def _times(times: object) -> np.ndarray:
    times = inputs.array("times", times, 1)
    if (times < 0).any():
        raise ValueError(f"times has the entry {times.min():g}; it takes numbers from 0")
    return times


def _modes(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all p eigenvalues of XᵀX/n, zeros included, and the eigenvectors, in columns."""
    _, singular, Vt = np.linalg.svd(X, full_matrices=True)
    s = np.zeros(X.shape[1])
    s[: len(singular)] = singular**2 / len(X)
    return s, Vt.T


def _risk(X: object, signals: object, times: object, left: Function, fitted: Function) -> Risk:
    """Return the risk of w = Σ t · fitted(s t) · v vᵀ Xᵀ y/n, of which the share left(s t) of a signal is missing."""
    X, signals, times = inputs.array("X", X, 2), inputs.array("signals", signals, 2), _times(times)
    if signals.shape[1] != X.shape[1]:
        raise ValueError(f"signals has {signals.shape[1]} columns; it takes {X.shape[1]}, as many as X")
    if np.isnan(X).any() or np.isnan(signals).any():
        nan = np.full(len(times), np.nan)
        return Risk(nan, nan, np.full((len(times), len(signals)), np.nan))
    s, V = _modes(X)
    x, t = times[:, None] * s, times[:, None]
    missing = left(x) ** 2
    variance = (s * (t * fitted(x)) ** 2).sum(axis=1) / len(X)
    return Risk(variance, missing.mean(axis=1), missing @ ((signals @ V) ** 2).T)
