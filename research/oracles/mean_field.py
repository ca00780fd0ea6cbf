"""How variance, correlation and saturation travel through a wide random network.

Weights are N(0, weight_variance / width), biases N(0, bias_variance), q is the variance of a pre-activation and φ the
activation: "tanh", "sigmoid" (the logistic one), "erf", "softsign", "relu" or "linear" (also "identity"). Poole et al.
2016 (arXiv 1606.05340) and Schoenholz et al. 2017 (arXiv 1611.01232).

Gaussian expectations are composite Gauss-Legendre rules whose panels halve towards z = 0 down to the width on which φ
bends, 1/√q. They are right to 1e-12 for every φ here, kinks included: within 2e-15 of
scipy.integrate.quad for q from 1e-4 to 1e4.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import erf

from research.oracles import inputs

RESIDUAL_BOUND = 1e-9
REACH = 10.0  # standard deviations: the tail beyond has mass 1e-23
ORDER, FINER = 20, 28  # nodes a panel, for the answer and for its certificate

Function = Callable[[np.ndarray], np.ndarray]


class Activation(NamedTuple):
    """An activation function, its first two derivatives (off the kinks) and its range."""

    value: Function
    slope: Function
    curvature: Function
    low: float
    high: float


class MeanField(NamedTuple):
    """The fixed point of an infinitely wide network and the depths on which it is approached, in layers."""

    q: float
    chi: float
    correlation: float
    correlation_depth: float
    variance_depth: float


def _sech_squared(x: np.ndarray) -> np.ndarray:
    small = np.exp(-2 * np.abs(x))
    return 4 * small / (1 + small) ** 2


ACTIVATIONS = {
    "tanh": Activation(np.tanh, _sech_squared, lambda x: -2 * np.tanh(x) * _sech_squared(x), -1.0, 1.0),
    "sigmoid": Activation(
        lambda x: (1 + np.tanh(x / 2)) / 2,
        lambda x: _sech_squared(x / 2) / 4,
        lambda x: -np.tanh(x / 2) * _sech_squared(x / 2) / 4,
        0.0,
        1.0,
    ),
    "erf": Activation(
        erf,
        lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2)),
        lambda x: -4 / np.sqrt(np.pi) * x * np.exp(-(x**2)),
        -1.0,
        1.0,
    ),
    "softsign": Activation(
        lambda x: x / (1 + np.abs(x)),
        lambda x: (1 + np.abs(x)) ** -2.0,
        lambda x: -2 * np.sign(x) * (1 + np.abs(x)) ** -3.0,
        -1.0,
        1.0,
    ),
    "relu": Activation(lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0, lambda x: 0 * x, 0.0, np.inf),
    "linear": Activation(lambda x: x, lambda x: 0 * x + 1, lambda x: 0 * x, -np.inf, np.inf),
}
ACTIVATIONS["identity"] = ACTIVATIONS["linear"]


def mean_field(activation: str, weight_variance: float, bias_variance: float) -> MeanField:
    """Return q*, χ_1, c*, ξ_c and ξ_q, the last two as "correlation_depth" and "variance_depth".

    q* = σ_w²·E φ(√q* z)² + σ_b² is the stable fixed point of the variance; χ_1 = σ_w²·E φ'(√q* z)²; c* the stable fixed
    point of the correlation of two inputs (1 for χ_1 <= 1, less in the chaotic phase);
    ξ_c = -1/ln(σ_w²·E φ'(u_1)φ'(u_2)) at c*, which is -1/ln χ_1 for χ_1 <= 1;
    ξ_q = -1/ln(χ_1 + σ_w²·E φ''(√q* z)φ(√q* z)) (Schoenholz et al. 2017).
    A depth is infinite where the approach is algebraic (the slope is 1), 0 where one layer suffices.
    Where q* = 0 (φ(0) = 0, no bias, χ_1 <= 1) correlations do not move: c* is 1 and ξ_c the depth on which the
    covariance vanishes. For "relu" and "linear", closed forms: q* is infinite, and everything but χ_1 NaN, where the
    variance grows without bound, and q* alone is NaN where every q is a fixed point.

    Certificate: both fixed points put back into their maps with a finer quadrature, residual at most 1e-9 of q* and of
    1 - c*, else every field is NaN. Raises ValueError for an unknown activation and for negative variances.
    """
    function, weight, bias = _network(activation, weight_variance, bias_variance)
    if np.isnan(weight) or np.isnan(bias):
        return MeanField(*[float("nan")] * 5)
    if np.isinf(function.high):
        return _homogeneous(weight * (0.5 if activation == "relu" else 1.0), bias)
    q = _fixed_variance(function, weight, bias)
    chi = weight * gaussian_expectation(lambda u: function.slope(u) ** 2, q)
    bend = weight * gaussian_expectation(lambda u: function.curvature(u) * function.value(u), q)
    angle = _fixed_angle(function, weight, bias, q) if chi > 1 + 1e-10 else 0.0
    slope = weight * _pair_expectation(function.slope, q, angle, product=True) if angle else chi
    field = MeanField(q, chi, float(np.sin(np.pi / 2 - angle)) if angle else 1.0, _depth(slope), _depth(chi + bend))
    # Written so that a NaN does not pass.
    return field if residual(activation, weight, bias, field) <= RESIDUAL_BOUND else MeanField(*[float("nan")] * 5)


def residual(activation: str, weight_variance: float, bias_variance: float, field: MeanField) -> float:
    """Return how far q* and c* of a bounded activation are from being fixed points, relative to q* and 1 - c*."""
    function, weight, bias = _network(activation, weight_variance, bias_variance)
    image = weight * gaussian_expectation(lambda u: function.value(u) ** 2, field.q, FINER) + bias
    moved = abs(image - field.q) / field.q if field.q > 0 else float(image)
    apart = 1 - field.correlation
    if not apart:
        slope = weight * gaussian_expectation(lambda u: function.slope(u) ** 2, field.q, FINER)
        return float(np.maximum(moved, max(slope - 1 - 1e-10, 0.0)))
    angle = 2 * np.arcsin(np.sqrt(apart / 2))
    spread = weight * _pair_expectation(function.value, field.q, angle, product=False, order=FINER) / (2 * field.q)
    # With c = 1 - apart known to 1e-16 only, so is the relative distance to 1e-16 / apart.
    return float(np.maximum(moved, max(abs(spread / apart - 1) - 1e-15 / apart, 0.0)))


def variance_path(
    activation: str, weight_variance: float, bias_variance: float, first: float, layers: int
) -> Float[np.ndarray, "layer"]:
    """Return the pre-activation variances of that many layers: q_1 = `first`, q_(l+1) = σ_w²·E φ(√q_l z)² + σ_b².

    Certificate: every step again with a finer quadrature, within 1e-9 relative, else NaN.
    Raises ValueError for an unknown activation, negative variances and fewer than one layer.
    """
    function, weight, bias = _network(activation, weight_variance, bias_variance)
    first = inputs.number("first", first, low=0.0)
    if layers != int(layers) or layers < 1:
        raise ValueError(f"layers is {layers!r}; it takes a whole number from 1")
    path = [first]
    square = lambda u: function.value(u) ** 2
    while len(path) < layers:
        with np.errstate(over="ignore", invalid="ignore"):
            step, finer = (weight * gaussian_expectation(square, path[-1], order) + bias for order in (ORDER, FINER))
        path.append(step if abs(step - finer) <= RESIDUAL_BOUND * finer else float("nan"))
    return np.array(path) if np.isfinite(path).all() else np.full(int(layers), np.nan)


def edge_of_chaos(activation: str, bias_variance: float) -> float:
    """Return the weight variance at which χ_1 = 1 for that bias variance.

    Solved along the edge, which q* parametrises: σ_w² = 1/E φ'², σ_b² = q* - E φ²/E φ'², one q* for each σ_b². For
    an odd φ without bias it is 1/φ'(0)², at q* = 0; for "sigmoid" it lies deep in saturation even there, at 103.0076
    with q* = 45.6243. For "relu" and "linear" there is an edge without bias only, at 2 and at 1, and NaN otherwise.

    Certificate: χ_1 - 1 and the fixed point of q, by a finer quadrature, at most 1e-9, else NaN.
    Raises ValueError for an unknown activation and for a negative bias variance.
    """
    from scipy.optimize import brentq

    function, _, bias = _network(activation, 0.0, bias_variance)
    if np.isnan(bias):
        return float("nan")
    if np.isinf(function.high):
        return (2.0 if activation == "relu" else 1.0) if bias == 0 else float("nan")
    zero = np.zeros(1)
    if bias == 0 and function.value(zero)[0] == 0:
        return float(1 / function.slope(zero)[0] ** 2)

    def edge(q: float, order: int = ORDER) -> tuple[float, float]:
        weight = 1 / gaussian_expectation(lambda u: function.slope(u) ** 2, q, order)
        return weight, q - weight * gaussian_expectation(lambda u: function.value(u) ** 2, q, order)

    high = 1.0
    while edge(high)[1] < bias:
        high *= 2
    low = high / 2
    while edge(low)[1] > bias:
        low /= 2
    q = np.exp(brentq(lambda log_q: edge(np.exp(log_q))[1] - bias, np.log(low), np.log(high), xtol=1e-15, rtol=1e-15))
    (weight, _), (finer, finer_bias) = edge(q), edge(q, FINER)
    certified = abs(weight / finer - 1) <= RESIDUAL_BOUND and abs(finer_bias - bias) <= RESIDUAL_BOUND * q
    return float(weight) if certified else float("nan")


def saturation(activation: str, q: float) -> float:
    """Return E|g(√q z)|, with g the activation scaled linearly from its range to [-1, 1].

    The value on Gaussian pre-activations of the saturation measure φ_B of Rakitianskaia & Engelbrecht (2015), for every
    even number of bins B: 0 for units at the middle of their range, 1 at its ends. NaN for an unbounded range ("relu",
    "linear"), where the measure is not defined, and for q not finite.

    Certificate: a finer quadrature within 1e-9, else NaN. Raises ValueError for an unknown activation and negative q.
    """
    function, _, _ = _network(activation, 0.0, 0.0)
    q = float("nan") if np.isinf(q) else inputs.number("q", q, low=0.0)
    if np.isinf(function.high) or np.isnan(q):
        return float("nan")
    scaled = lambda u: np.abs(2 * (function.value(u) - function.low) / (function.high - function.low) - 1)
    value, finer = (gaussian_expectation(scaled, q, order) for order in (ORDER, FINER))
    return value if abs(value - finer) <= RESIDUAL_BOUND else float("nan")


def gaussian_expectation(function: Function, q: float, order: int = ORDER) -> float:
    """Return E function(√q z) for z ~ N(0, 1); the function may have a kink at 0 and bend there on the scale of 1.

    NaN for q not finite.
    """
    if not np.isfinite(q):
        return float("nan")
    z, weight = _panels(REACH, 0.5 / np.sqrt(max(q, 1.0)), order)
    weight = weight * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    u = np.sqrt(q) * z
    return float(weight @ (function(u) + function(-u)))


def _pair_expectation(function: Function, q: float, angle: float, product: bool, order: int = ORDER) -> float:
    """Return E f(u_1)·f(u_2), or E (f(u_1) - f(u_2))², for Gaussians of variance q and correlation cos(angle).

    In polar coordinates the kinks u_1 = 0 and u_2 = 0 are two rays, towards which the panels shrink. The other half of
    the plane doubles the result: -u_1, -u_2 change neither, as φ - φ(0) is odd and φ' even.
    """
    scale = 0.5 / np.sqrt(max(q, 1.0))
    radius, weight = _panels(REACH, scale, order)
    weight = weight * radius * np.exp(-(radius**2) / 2) / (2 * np.pi)
    pieces = []
    for start, width in ((-np.pi / 2, angle), (angle - np.pi / 2, np.pi - angle)):
        near, share = _panels(width / 2, scale / REACH, order)
        pieces += [(start + near, share), (start + width - near, share)]
    theta, share = (np.concatenate(part) for part in zip(*pieces, strict=True))
    total = 0.0
    for r, w in zip(np.sqrt(q) * radius, weight, strict=True):
        first, second = function(r * np.cos(theta)), function(r * np.cos(theta - angle))
        total += w * (share @ (first * second if product else (first - second) ** 2))
    return 2 * float(total)


def _panels(length: float, finest: float, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights on [0, length] of Gauss-Legendre panels that halve towards 0 down to `finest`."""
    halvings = max(3, int(np.ceil(np.log2(length / finest)))) if length > 0 else 0
    breaks = np.append(0.0, length * 0.5 ** np.arange(halvings, -1, -1))
    node, weight = np.polynomial.legendre.leggauss(order)
    half = np.diff(breaks) / 2
    return (breaks[:-1, None] + half[:, None] * (1 + node)).ravel(), (half[:, None] * weight).ravel()


def _fixed_variance(function: Activation, weight: float, bias: float) -> float:
    """Return the stable fixed point of the variance of a bounded activation, E φ(√q z)²/q falling in q."""
    from scipy.optimize import brentq

    zero = np.zeros(1)
    floor = weight * float(function.value(zero)[0]) ** 2 + bias
    if floor == 0 and weight * float(function.slope(zero)[0]) ** 2 <= 1:
        return 0.0
    growth = lambda q: (weight * gaussian_expectation(lambda u: function.value(u) ** 2, q) + bias) / q - 1
    high = 1.01 * (weight + bias)
    low = 0.99 * floor if floor > 0 else high / 4
    while growth(low) < 0 and low > 1e-14:
        low /= 4
    if growth(low) < 0:
        return 0.0
    return float(np.exp(brentq(lambda t: growth(np.exp(t)), np.log(low), np.log(high), xtol=1e-15, rtol=1e-15)))


def _fixed_angle(function: Activation, weight: float, bias: float, q: float) -> float:
    """Return arccos c* in the chaotic phase: where (1 - c) is mapped to itself, written without cancellation."""
    from scipy.optimize import brentq

    growth = lambda angle: (
        weight * _pair_expectation(function.value, q, angle, product=False) / (4 * q * np.sin(angle / 2) ** 2) - 1
    )
    if growth(np.pi / 2) >= -1e-13:
        return np.pi / 2
    low = 1.0
    while growth(low) < 0 and low > 1e-7:
        low /= 4
    return float(brentq(growth, low, np.pi / 2, xtol=1e-15, rtol=1e-14))


def _homogeneous(slope: float, bias: float) -> MeanField:
    """Return the fixed point of an activation for which E φ(√q z)² = q·E φ'², with slope = σ_w²·E φ'²."""
    nan, inf = float("nan"), float("inf")
    if slope > 1 or (slope == 1 and bias > 0):
        return MeanField(inf, slope, nan, nan, nan)
    return MeanField(bias / (1 - slope) if slope < 1 else nan, slope, 1.0, _depth(slope), _depth(slope))


def _depth(slope: float) -> float:
    """Return the number of layers over which a deviation falls by 1/e when each one multiplies it by `slope`."""
    if abs(slope - 1) <= 1e-10:
        return float("inf")
    return (float(-1 / np.log(slope)) if slope > 0 else 0.0) if slope < 1 else float("nan")


def _network(activation: str, weight_variance: float, bias_variance: float) -> tuple[Activation, float, float]:
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; it takes one of {', '.join(ACTIVATIONS)}")
    weight = inputs.number("weight_variance", weight_variance, low=0.0)
    return ACTIVATIONS[activation], weight, inputs.number("bias_variance", bias_variance, low=0.0)
