"""Theory of `logistic_edge`: wide networks of tanh and of logistic units with a bias; what is read off at the edge."""

from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.special import ndtr

from research.labels import table
from research.oracles.activations import Activation, named
from research.oracles.gaussian import gaussian_expectation
from research.oracles.isometry import jacobian_spread
from research.oracles.mean_field import edge_of_chaos, mean_field, saturation, variance_path
from research.oracles.wide_layer import mean_square_slope
from research.statistics import crossing

OUTER = np.log(19.0)  # a logistic unit beyond 0.05 and 0.95


class Prediction(NamedTuple):
    expected_growth: float
    expected_saturation: float


def shifted(shift: float) -> Activation:
    """The logistic function of u + shift."""
    logistic = named("sigmoid")
    slope = lambda u: logistic.slope(u + shift)
    return Activation(lambda u: logistic.value(u + shift), slope, 0.0, 1.0, bends=(-shift,))


def prediction(
    weight_scale: float, first_variance: float, mean: float, steepness: float, shift: float, centring: float, depth: int
) -> Prediction:
    """χ_1, mean of the last half of the layers, and φ_B of the last, with the variance followed from the first."""
    # without the mean, steepness·u is the pre-activation of a network of tanh with steepness² times the weight scale
    function, shrink = (shifted(shift), 1.0) if mean * (1 - centring) else (named("tanh"), steepness)
    weight, first = (weight_scale * shrink**2) ** 2, first_variance * shrink**2
    path = variance_path(function, weight, 0.0, first, int(depth))
    slopes = [mean_square_slope(function, q) for q in path[int(depth) // 2 : -1]]
    return Prediction(float(weight * np.mean(slopes)), saturation(function, path[-1]))


class Edge(NamedTuple):
    """Where χ_1 = 1, what is there, and the derivatives by ln σ_w of ln χ_1, φ_B and the share outside."""

    edge: float
    edge_variance: float
    edge_saturation: float
    edge_outside: float
    growth_slope: float
    saturation_slope: float
    outside_slope: float


def edge_at(shift: float) -> Edge:
    """The edge of chaos of logistic units of that bias."""
    function = shifted(shift)
    edge = float(edge_of_chaos(function, 0.0)) ** 0.5

    def there(scale: float) -> np.ndarray:
        field = mean_field(function, scale**2, 0.0)
        outside = sum(ndtr((each * shift - OUTER) / field.q**0.5) for each in (1, -1))
        return np.array([np.log(field.chi), saturation(function, field.q), outside, field.q])

    slopes = (there(1.01 * edge) - there(edge / 1.01)) / (2 * np.log(1.01))
    _, saturated, outside, q = there(edge)
    return Edge(edge, q, saturated, outside, *slopes[:3])


def at_edge(runs: xr.Dataset, variable: str) -> np.ndarray:
    """In every seed, the σ_w at which gradients keep their size ("weight_scale"), or what was seen there."""
    growth = table(runs, "growth", "weight_scale")
    scales = np.log(growth.weight_scale.values)
    places = np.array([crossing(scales, np.log(row), 0.0) for row in growth.values])
    if variable == "weight_scale":
        return np.exp(places)
    seen = table(runs, variable, "weight_scale").values
    found = np.array([np.interp(x, scales, row) for x, row in zip(places, seen, strict=True)])
    return np.where(np.isnan(places), np.nan, found)  # np.interp takes a place that is not known for the first


def layers_seen(runs: xr.Dataset) -> int:
    """The layers over which growth is averaged."""
    return int(runs.depth.max()) - 1 - int(runs.depth.max()) // 2


def error(runs: xr.Dataset, q: float) -> float:
    """The relative standard error of the growth, mean of seeds, for logistic units of that large variance."""
    units = int(runs.width.min()) * layers_seen(runs) * runs.sizes["seed"]
    rare = np.exp(float(runs["shift"].max()) ** 2 / (2 * q))  # with a bias fewer units receive about nothing
    return float((max(3 * 36 / 140 * np.sqrt(2 * np.pi * q) * rare - 1, 0.0) / units) ** 0.5)


def bound_error(runs: xr.Dataset, share: float) -> float:
    """The same where growth is that share of its bound σ_w²/16: E φ'⁴ <= E φ'²/16 makes E φ'⁴/(E φ'²)² <= 1/share."""
    units = int(runs.width.min()) * layers_seen(runs) * runs.sizes["seed"]
    return float(((3 / share - 1) / units) ** 0.5)


class Spread(NamedTuple):
    """The variance of the squared singular values of some layers, and its standard deviation over networks."""

    expected: float
    deviation: float


def orthogonal_spread(weight_scale: float, width: float, layers: int) -> Spread:
    """That of logistic units without bias and orthogonal weights, with sampling errors to first order in 1/width.

    Each layer adds about κ − 1, κ = m₄/m₂² of moments m_k over `width` slopes. With μ_k = E φ'^k its relative variance
    is, by the delta method, [μ₈/μ₄² − 1 − 4(μ₆/(μ₄μ₂) − 1) + 4(κ − 1)]/width. To it comes that of √q, in which κ is
    linear: q is σ_w² times a mean of φ² in [0, 1], whose variance is at most m(1 − m) for the mean m = q/σ_w².
    NaN where an oracle is not certified.
    """
    function, q = shifted(0.0), mean_field("sigmoid", weight_scale**2, 0.0).q
    moment = lambda power: gaussian_expectation(lambda u: function.slope(u) ** power, q, bends=function.bends)
    second, fourth, sixth, eighth = (moment(power) for power in (2, 4, 6, 8))
    kurtosis, mean = fourth / second**2, q / weight_scale**2
    slopes = eighth / fourth**2 - 1 - 4 * (sixth / (fourth * second) - 1) + 4 * (kurtosis - 1)
    relative = (slopes + (1 - mean) / (4 * mean)) / width
    expected = float(jacobian_spread("sigmoid", q, width, True, layers)[-1])
    return Spread(expected, float(kurtosis * (layers * relative) ** 0.5))
