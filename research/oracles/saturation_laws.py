"""Where one logistic unit ends, and when: exact laws of its saturation under each regulariser.

The unit has one weight w, input 1 and label 1: its output is 1/(1 + exp(-w)), its loss ln(1 + exp(-w)), and its
saturation, the output scaled linearly to [-1, 1], is tanh(w/2). The penalties are l2/2 · w² and l1 · |w|; smoothed
labels are 1 - smoothing/2; `noise` is the standard deviation of Gaussian noise on the input; `dropout` is the
probability to drop the input, which is else divided by 1 - dropout. Time is learning
rate × steps.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs
from research.oracles.margin import maximum_margin

RESIDUAL_BOUND = 1e-9
FEATURES = 12  # at most, of the criterion over all 2^d masks
LARGEST = 700.0  # beyond, exp overflows


class Budget(NamedTuple):
    """How much of each regulariser alone brings a unit to one saturation, and for how long it may train without."""

    l2: float
    l1: float
    smoothing: float
    noise: float
    time: float


def resting_weight(l2: float, l1: float, smoothing: float, noise: float) -> float:
    """Return the minimiser of E ln(1 + exp(-w x)) + smoothing/2 · E w x + l2/2 · w² + l1 |w|, x ~ N(1, noise²).

    NaN where there is none (all four zero) or it lies beyond 700. Certificate: the derivative at most 1e-9 of its
    parts, or w = 0 where the derivative there is at most l1; else NaN. Raises ValueError for a negative argument or a
    smoothing of 1 and more.
    """
    from scipy.optimize import brentq

    named = {"l2": l2, "l1": l1, "noise": noise}
    l2, l1, noise = (inputs.number(name, value, low=0.0) for name, value in named.items())
    smoothing = inputs.number("smoothing", smoothing, low=0.0, below=1.0)
    if np.isnan([l2, l1, smoothing, noise]).any():
        return float("nan")
    x, chance = _gaussian(noise)

    def parts(weight: float) -> np.ndarray:
        missing = x / (1 + np.exp(np.clip(weight * x, -LARGEST, LARGEST)))
        drawn = [chance @ np.maximum(missing, 0), chance @ np.minimum(missing, 0)]
        return np.array([*drawn, -smoothing / 2, -l2 * weight, -l1])  # E x = 1

    downhill = lambda weight: float(parts(weight).sum())
    if downhill(0.0) <= 0:
        return 0.0
    high = 1.0
    while downhill(high) > 0 and high < LARGEST:
        high *= 2
    if downhill(high) > 0:
        return float("nan")
    weight = float(brentq(downhill, 0.0, high, xtol=1e-14, rtol=1e-14))
    return weight if abs(downhill(weight)) <= RESIDUAL_BOUND * np.abs(parts(weight)).sum() else float("nan")


class NoisyDescent(NamedTuple):
    """The curvature of the noisy loss at its minimiser; the shift of a descent's mean, per learning rate / batch."""

    information: float
    shift: float


def noisy_descent(noise: float) -> NoisyDescent:
    """Return how a stochastic descent fluctuates about the minimiser w = 2/noise² under Gaussian input noise.

    The curvature there is E x² s (1 - s), s = 1/(1 + exp(-w x)), and it is also the mean square of the gradient of one
    noisy sample, E x² (1 - s)²: the inputs y + noise · N(0, 1) of labels y = ±1 follow the logistic model of weight
    2/noise² (linear discriminant analysis), and of a model that is true both are its Fisher information I. The mean of
    iterates over N samples has thus the variance 1/(I N), and one iterate, at the learning rate η and the batch B,
    η/(2B); by the third derivative M of the loss it shifts the mean by -η M / (4 B I), to first order in η.

    NaN for NaN. Raises ValueError for a noise below 0.001.
    """
    noise = inputs.number("noise", noise, low=1e-3)
    if np.isnan(noise):
        return NoisyDescent(noise, noise)
    x, chance = _gaussian(noise)
    half = np.clip(x / noise**2, -LARGEST / 2, LARGEST / 2)
    bell = 1 / (4 * np.cosh(half) ** 2)
    curvature = float(chance @ (x**2 * bell))
    return NoisyDescent(curvature, float(chance @ (x**3 * bell * np.tanh(half))) / (4 * curvature))


def flow_weight(time: Float[np.ndarray, "step"], initial: float, dropout: float = 0.0) -> Float[np.ndarray, "step"]:
    """Return w at those times of the gradient flow from `initial`, with no other regulariser than dropout.

    dw/dt = 1/(1 + e^w) gives w + e^w = t + initial + e^initial = c, so that w = ln ω(c) of the Wright function ω(c) =
    W(e^c), W Lambert's. The mean over the masks of the loss with dropout p is (1 - p) ln(1 + exp(-w/(1 - p))) and a
    constant, whose flow is the same for w/(1 - p) in time t/(1 - p): dropout has no minimiser, and w ~ (1 - p) ln t.

    NaN for NaN, and where w + e^w is not c to 1e-9. Raises ValueError for negative times or a dropout outside [0, 1).
    """
    from scipy.special import wrightomega

    times, initial = inputs.array("time", time, 1), inputs.number("initial", initial, low=-LARGEST, below=LARGEST)
    dropout = inputs.number("dropout", dropout, low=0.0, below=1.0)
    if (times < 0).any():
        raise ValueError(f"time is {times.min():g} somewhere; it takes numbers that are not negative")
    kept = 1 - dropout
    constant = times / kept + initial / kept + np.exp(initial / kept)
    weights = np.log(wrightomega(constant))
    with np.errstate(over="ignore"):
        certain = np.abs(weights + np.exp(weights) - constant) <= RESIDUAL_BOUND * np.abs(constant)
    return kept * np.where(certain, weights, np.nan)


def saturation_budget(saturation: float) -> Budget:
    """Return how much of each regulariser alone leaves the unit at this saturation, and when flow from 0 passes it.

    With w = 2 artanh(saturation), the laws solved for the strength: l2 = 1/(w (1 + e^w)); l1 = (1 - saturation)/2;
    smoothing = 1 - saturation; noise = √(2/w); time = w + e^w - 1. NaN for NaN. Raises ValueError outside (0, 1).
    """
    saturation = inputs.number("saturation", saturation, low=1e-12, below=1.0)
    weight = 2 * np.arctanh(saturation)
    time = weight + np.expm1(weight)
    l2 = 1 / (weight * (1 + np.exp(weight)))
    return Budget(*map(float, (l2, (1 - saturation) / 2, 1 - saturation, np.sqrt(2 / weight), time)))


def dropout_diverges(X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"]) -> float:
    """Return 1 if logistic regression with dropout of the inputs has no finite minimiser, 0 if it has one.

    The mean over all masks is the logistic loss of all masked samples, at whatever dropout rate in (0, 1) and with no
    bias: it has a minimiser unless some w has y z·w >= 0 for every masked sample z and > 0 for one (Albert & Anderson
    1984, Biometrika 71). The linear program maximises Σ y z·w over such w with |w_j| <= 1.

    NaN for NaN, without an optimum of the program, or where its value is neither zero nor clearly positive. Raises
    ValueError for more than 12 inputs, and labels other than -1 and +1.
    """
    from scipy.optimize import linprog

    X, y = inputs.classification(X, y)
    if X.shape[1] > FEATURES:
        raise ValueError(f"X has {X.shape[1]} columns; it takes at most {FEATURES}, for the masks are all 2^d")
    if np.isnan(X).any() or np.isnan(y).any():
        return float("nan")
    masks = (np.arange(2 ** X.shape[1])[:, None] >> np.arange(X.shape[1])) & 1
    signed = ((y[:, None] * X)[None] * masks[:, None]).reshape(-1, X.shape[1])
    signed = signed / np.abs(X).max()
    answer = linprog(-signed.sum(axis=0), A_ub=-signed, b_ub=np.zeros(len(signed)), bounds=(-1, 1), method="highs")
    if answer.status != 0 or 1e-9 < -answer.fun < 1e-6:
        return float("nan")
    return float(-answer.fun >= 1e-6)


def masked_margin(X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], dropout: float) -> float:
    """Return the largest l2 margin of all masked samples over 1 - dropout, with no bias; 0 where none separates them.

    One over it is the slope of ‖w‖ on ln t that descent with dropout tends to where there is no finite minimiser
    (Soudry et al. 2018, arXiv 1710.10345, for those samples). Without dropout it is that of the samples themselves.
    NaN and ValueError as `dropout_diverges`, and for a dropout outside [0, 1).
    """
    diverges, dropout = dropout_diverges(X, y), inputs.number("dropout", dropout, low=0.0, below=1.0)
    if np.isnan([diverges, dropout]).any():
        return float("nan")
    rows = np.asarray(y, float)[:, None] * np.asarray(X, float)
    if dropout:
        if not diverges:
            return 0.0
        masks = (np.arange(2 ** rows.shape[1])[:, None] >> np.arange(rows.shape[1])) & 1
        rows = np.unique((rows[None] * masks[:, None]).reshape(-1, rows.shape[1]), axis=0) / (1 - dropout)
        rows = rows[rows.any(axis=1)]
    return float(1 / np.linalg.norm(maximum_margin(rows, np.ones(len(rows)), 2)))


def _gaussian(deviation: float) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights of the mean over N(1, deviation²): the trapezoidal rule, for the smooth functions here.

    Its error is of the order exp(-2π a/step) for a function analytic within ±a·i of the real line (Trefethen & Weideman
    2014): 1/(1 + exp(-w x)) has its poles at ±πi/w, and w reaches 2/deviation², so the step is deviation²/8.
    """
    if deviation == 0:
        return np.ones(1), np.ones(1)
    step = min(deviation / 16, deviation**2 / 8)
    x = 1 + step * np.arange(-np.ceil(9 * deviation / step), np.ceil(9 * deviation / step) + 1)
    density = np.exp(-((x - 1) ** 2) / (2 * deviation**2))
    return x, density / density.sum()
