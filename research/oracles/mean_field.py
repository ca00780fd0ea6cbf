"""The mean field of wide random networks: how variance, correlation, gradients and saturation travel through them.

A tool of its own: NumPy and SciPy, no training library. With weights N(0, weight_variance / width) and biases
N(0, bias_variance), the pre-activations of layer l are Gaussian in the limit of infinite width, with a variance q and,
of two inputs, a correlation c that follow a recursion (Poole et al. 2016, arXiv 1606.05340; Schoenholz et al. 2017,
arXiv 1611.01232):

    >>> from research.oracles.mean_field import edge_of_chaos, mean_field
    >>> mean_field("tanh", 1.3**2, 0.3**2)            # q*, χ_1, c*, ξ_c, ξ_q, ξ_grad, and the error of all that
    >>> mean_field("tanh", 1.3**2, 0.3**2, keep=0.9)  # with dropout that keeps nine units of ten
    >>> edge_of_chaos("gelu", 0.1)                    # the weight variance at which χ_1 = 1

An activation is a name ("tanh", "sigmoid" the logistic one, "erf", "softsign", "hard_tanh", "relu", "leaky_relu",
"elu", "softplus", "gelu", "silu", "linear") or your own `Activation(value, slope)`; see `research.oracles.activations`.

Dropout multiplies every activation by 0, or by 1/keep with probability keep, with a mask of its own for each input:
q' = (σ_w²/keep)·E φ² + σ_b² but q'·c' = σ_w²·E φ(u₁)φ(u₂) + σ_b², so that no two inputs, not even equal ones, stay
equal, c* < 1 (Schoenholz et al. 2017, section 5). Gradients pass one mask and grow by χ_1 = (σ_w²/keep)·E φ'².

Everything is computed by the quadrature of `research.oracles.gaussian`, closed forms for the homogeneous activations
(the arc-cosine kernel of Cho & Saul 2009), and certified by a finer quadrature.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs
from research.oracles.activations import ACTIVATIONS, Activation, leaky_relu, named
from research.oracles.gaussian import FINER, ORDER, gaussian_expectation
from research.oracles.wide_layer import (
    covariance_slope,
    fixed_distance,
    fixed_variance,
    mean_square,
    mean_square_slope,
    spread,
    variance_slope,
)

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "MeanField",
    "correlation_path",
    "edge_of_chaos",
    "leaky_relu",
    "mean_field",
    "residual",
    "saturation",
    "variance_path",
]

RESIDUAL_BOUND = 1e-9


class MeanField(NamedTuple):
    """The fixed point of an infinitely wide network and the depths on which it is approached, in layers.

    `error` is the estimate of the relative error of q*, χ_1 and 1 - c*: what a finer quadrature moves them by in one
    layer.
    """

    q: float
    chi: float
    correlation: float
    correlation_depth: float
    variance_depth: float
    gradient_depth: float
    error: float


UNKNOWN = MeanField(*[float("nan")] * 7)


def mean_field(
    activation: str | Activation, weight_variance: float, bias_variance: float, keep: float = 1.0, start: float = 1.0
) -> MeanField:
    """Return q*, χ_1, c*, ξ_c ("correlation_depth"), ξ_q ("variance_depth"), ξ_grad ("gradient_depth") and the error.

    q* = (σ_w²/keep)·E φ(√q* z)² + σ_b² is the fixed point that the variance reaches from `start` (bounded monotone
    activations have one stable fixed point, others may have several); χ_1 = (σ_w²/keep)·E φ'(√q* z)², by which a layer
    multiplies squared gradients and, with one mask for both, small perturbations; c* the stable fixed point of the
    correlation of two inputs: without dropout 1 for χ_1 <= 1, less in the chaotic phase; with dropout less than 1.
    ξ_c = -1/ln(σ_w²·E φ'(u₁)φ'(u₂)) at c*, which is -1/ln χ_1 for c* = 1; ξ_q = -1/ln((σ_w²/keep)·d E φ²/dq), the
    derivative being E φ'² + E φ''φ by partial integration (Schoenholz et al. 2017); ξ_grad = -1/ln χ_1, negative where
    gradients grow towards the input. A depth is infinite where the slope is 1 (the approach is algebraic), 0 where one
    layer suffices, NaN where there is no approach.

    Where q* = 0, two inputs fade in the linear regime: c* is 1 without dropout and 0 with it, and ξ_c is the depth on
    which the covariance vanishes. Homogeneous activations: where the variance grows without bound, q* is infinite and
    ξ_q NaN, and without bias q* is NaN for χ_1 = 1, as every q is fixed; c* and ξ_c are those that correlations have
    without bias (where it is outgrown, too), and depend on no variance. Others: where q* is infinite, the rest is NaN.

    Certificate: both fixed points put back into their maps with a finer quadrature, and χ_1 again: `error` at most
    1e-9, else every field is NaN. Raises ValueError for an unknown activation, negative variances, a `keep` outside
    (0, 1] and a `start` that is not positive.
    """
    function, weight, bias, kept = _network(activation, weight_variance, bias_variance, keep)
    first = inputs.number("start", start, low=np.nextafter(0.0, 1.0))
    if np.isnan([weight, bias, kept, first]).any():
        return UNKNOWN
    gain = weight / kept
    q = fixed_variance(function, gain, bias, first) if function.leak is None else _homogeneous(function, gain, bias)
    if function.leak is None and np.isinf(q):
        return UNKNOWN._replace(q=q)
    free = function.leak is not None and (bias == 0 or np.isinf(q))
    # Without bias, a homogeneous layer treats every variance alike: as it does 1 at χ_1 = 1.
    weight, at = (kept / mean_square_slope(function, 1.0), 1.0) if free else (weight, q)
    chi = gain * mean_square_slope(function, at)
    if at == 0:
        apart, slope = float(kept < 1), kept * chi
    else:
        ordered = kept == 1 and weight * mean_square_slope(function, at) <= 1 + 1e-10
        apart = 0.0 if ordered else fixed_distance(function, weight, kept, at)
        slope = weight * covariance_slope(function, at, apart)
    along = float("nan") if np.isinf(q) else gain * variance_slope(function, at)
    field = MeanField(q, chi, 1 - apart, _depth(slope), _depth(along), _gradient_depth(chi), 0.0)
    if not free:
        field = field._replace(error=residual(function, weight, bias, field, kept))
    # Written so that a NaN does not pass.
    return field if field.error <= RESIDUAL_BOUND else UNKNOWN


def residual(
    activation: str | Activation, weight_variance: float, bias_variance: float, field: MeanField, keep: float = 1.0
) -> float:
    """Return how far q* and c* are from being fixed points, relative to q* and 1 - c*, and χ_1 from its value.

    The largest of the three, by a finer quadrature.
    """
    function, weight, bias, kept = _network(activation, weight_variance, bias_variance, keep)
    image = weight / kept * mean_square(function, field.q, FINER) + bias
    chi = weight / kept * mean_square_slope(function, field.q, FINER)
    worst = [abs(image - field.q) / field.q if field.q > 0 else image, abs(chi - field.chi) / max(chi, 1.0)]
    apart = 1 - field.correlation
    if not apart and kept == 1:
        worst.append(max(chi - 1 - 1e-10, 0.0))
    elif field.q > 0:
        moved = weight * spread(function, field.q, apart, kept, FINER) / field.q
        # With c = 1 - apart known to 1e-16 only, so is the relative distance to 1e-16 / apart.
        worst.append(max(abs(moved / apart - 1) - 1e-15 / apart, 0.0) if apart else np.inf)
    return float(np.max(worst))


def variance_path(
    activation: str | Activation,
    weight_variance: float,
    bias_variance: float,
    first: float,
    layers: int,
    keep: float = 1.0,
) -> Float[np.ndarray, "layer"]:
    """Return the variances of that many layers: q_1 = `first`, q_(l+1) = (σ_w²/keep)·E φ(√q_l z)² + σ_b².

    Certificate: every step again with a finer quadrature, within 1e-9 relative, else NaN.
    Raises ValueError as `mean_field` does, and for fewer than one layer.
    """
    function, weight, bias, kept = _network(activation, weight_variance, bias_variance, keep)
    path = [inputs.number("first", first, low=0.0)]
    if layers != int(layers) or layers < 1:
        raise ValueError(f"layers is {layers!r}; it takes a whole number from 1")
    while len(path) < layers:
        with np.errstate(over="ignore", invalid="ignore"):
            step, finer = (weight / kept * mean_square(function, path[-1], order) + bias for order in (ORDER, FINER))
        path.append(step if abs(step - finer) <= RESIDUAL_BOUND * finer else float("nan"))
    return np.array(path) if np.isfinite(path).all() else np.full(int(layers), np.nan)


def correlation_path(
    activation: str | Activation,
    weight_variance: float,
    bias_variance: float,
    first: float,
    correlation: float,
    layers: int,
    keep: float = 1.0,
) -> Float[np.ndarray, "layer"]:
    """Return the correlations of that many layers of two inputs of variance `first` and that correlation at first.

    q_(l+1)·c_(l+1) = σ_w²·E φ(u₁)φ(u₂) + σ_b², the variance following `variance_path`.
    Certificate: every step again with a finer quadrature, 1 - c within 1e-9 relative or 1e-12, else NaN.
    Raises ValueError as `variance_path` does, and for a correlation outside [-1, 1].
    """
    function, weight, _, kept = _network(activation, weight_variance, bias_variance, keep)
    variances = variance_path(activation, weight_variance, bias_variance, first, layers, keep)
    beginning = inputs.number("correlation", correlation, low=-1.0, below=np.nextafter(1.0, 2.0))
    path = [1 - beginning]
    for before, after in pairwise(variances):
        if not (np.isfinite(path[-1]) and before > 0 and after > 0):
            return np.full(int(layers), np.nan)
        step, finer = (weight * spread(function, before, path[-1], kept, order) / after for order in (ORDER, FINER))
        path.append(step if abs(step - finer) <= RESIDUAL_BOUND * abs(finer) + 1e-12 else float("nan"))
    return 1 - np.array(path) if np.isfinite(path).all() else np.full(int(layers), np.nan)


def edge_of_chaos(activation: str | Activation, bias_variance: float, keep: float = 1.0) -> float:
    """Return the weight variance at which χ_1 = 1 for that bias variance; with dropout, `keep` times that without.

    Solved along the edge, which q* parametrises: σ_w² = keep/E φ'², σ_b² = q* - E φ²/E φ'². With dropout, gradients
    keep their size there, but correlations do not stay (c* < 1): the edge is no critical line of theirs.
    For an odd bounded φ without bias it is 1/φ'(0)², at q* = 0; for "sigmoid" it lies deep in saturation even there, at
    103.0076 with q* = 45.6243. Homogeneous activations have an edge without bias only, at 2/(1 + leak²), and NaN
    otherwise. Others ("gelu", "silu") may have several q* for one σ_b², and the edge is that of the smallest to which
    the variance returns when moved, or NaN where there is none.

    Certificate: χ_1 - 1 and the fixed point of q, by a finer quadrature, at most 1e-9, else NaN.
    Raises ValueError for an unknown activation, a negative bias variance and a `keep` outside (0, 1].
    """
    from scipy.optimize import brentq

    function, _, bias, kept = _network(activation, 0.0, bias_variance, keep)
    if np.isnan([bias, kept]).any():
        return float("nan")
    if function.leak is not None:
        return 2 * kept / (1 + function.leak**2) if bias == 0 else float("nan")

    def edge(q: float, order: int = ORDER) -> tuple[float, float]:
        weight = 1 / mean_square_slope(function, q, order)
        return weight, q - weight * mean_square(function, q, order)

    zero = np.zeros(1)
    value, slope = float(function.value(zero)[0]), float(function.slope(zero)[0])
    if bias == 0 == value and slope and mean_square(function, 1e-6) / slope**2 <= 1e-6 + 1e-15:
        return kept / slope**2
    grid = np.geomspace(1e-6, 1e8, 141)
    beyond = np.array([edge(q)[1] for q in grid]) - bias
    for place in np.flatnonzero((beyond[:-1] < 0) & (beyond[1:] >= 0)):
        near = np.log(grid[place : place + 2])
        q = float(np.exp(brentq(lambda t: edge(np.exp(t))[1] - bias, *near, xtol=1e-15, rtol=1e-15)))
        (weight, _), (finer, finer_bias) = edge(q), edge(q, FINER)
        if weight * variance_slope(function, q) <= 1:
            certified = abs(weight / finer - 1) <= RESIDUAL_BOUND and abs(finer_bias - bias) <= RESIDUAL_BOUND * q
            return float(kept * weight) if certified else float("nan")
    return float("nan")


def saturation(activation: str | Activation, q: float) -> float:
    """Return E|g(√q z)|, with g the activation scaled linearly from its range to [-1, 1].

    The value on Gaussian pre-activations of the saturation measure φ_B of Rakitianskaia & Engelbrecht (2015), for every
    even number of bins B: 0 for units at the middle of their range, 1 at its ends. NaN for an unbounded range ("relu",
    "linear"), where the measure is not defined, and for q not finite.

    Certificate: a finer quadrature within 1e-9, else NaN. Raises ValueError for an unknown activation and negative q.
    """
    function = named(activation)
    q = float("nan") if np.isinf(q) else inputs.number("q", q, low=0.0)
    if np.isinf([function.low, function.high]).any() or np.isnan(q):
        return float("nan")
    scaled = lambda u: np.abs(2 * (function.value(u) - function.low) / (function.high - function.low) - 1)
    value, finer = (gaussian_expectation(scaled, q, order, function.bends) for order in (ORDER, FINER))
    return value if abs(value - finer) <= RESIDUAL_BOUND else float("nan")


def _homogeneous(function: Activation, gain: float, bias: float) -> float:
    """Return the fixed point of a variance that a layer multiplies by χ_1, and adds the bias to."""
    chi = gain * mean_square_slope(function, 1.0)
    if chi > 1 or (chi == 1 and bias > 0):
        return float("inf")
    return bias / (1 - chi) if chi < 1 else float("nan")


def _depth(slope: float) -> float:
    """Return the number of layers over which a deviation falls by 1/e when each one multiplies it by `slope`."""
    if abs(slope - 1) <= 1e-10:
        return float("inf")
    return (float(-1 / np.log(slope)) if slope > 0 else 0.0) if slope < 1 else float("nan")


def _gradient_depth(chi: float) -> float:
    return float(-1 / np.log(chi)) if chi > 1 + 1e-10 else _depth(chi)


def _network(
    activation: str | Activation, weight_variance: float, bias_variance: float, keep: float
) -> tuple[Activation, float, float, float]:
    weight = inputs.number("weight_variance", weight_variance, low=0.0)
    bias = inputs.number("bias_variance", bias_variance, low=0.0)
    kept = inputs.number("keep", keep, low=np.nextafter(0.0, 1.0), below=np.nextafter(1.0, 2.0))
    return named(activation), weight, bias, kept
