import math
from itertools import product

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import erf

from research.oracles import mean_field as tool
from research.oracles.mean_field import (
    ACTIVATIONS,
    Activation,
    MeanField,
    correlation_path,
    edge_of_chaos,
    leaky_relu,
    mean_field,
    residual,
    saturation,
    variance_path,
)

BOUNDED = ["tanh", "sigmoid", "erf", "softsign", "hard_tanh"]


def gaussian(function, q):
    density = lambda z: function(np.sqrt(q) * z) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return quad(density, -12, 0, epsabs=1e-13, limit=200)[0] + quad(density, 0, 12, epsabs=1e-13, limit=200)[0]


@pytest.mark.parametrize("keep", [1.0, 0.8])
def test_erf_has_closed_forms(keep):
    field = mean_field("erf", 4.0, 0.2, keep)
    q, covariance = field.q, field.q * field.correlation
    assert q == pytest.approx(4 / keep * 2 / np.pi * np.arcsin(2 * q / (1 + 2 * q)) + 0.2, rel=1e-12)
    assert field.chi == pytest.approx(4 / keep * 4 / np.pi / np.sqrt(1 + 4 * q), rel=1e-12)
    assert covariance == pytest.approx(4 * 2 / np.pi * np.arcsin(2 * covariance / (1 + 2 * q)) + 0.2, rel=1e-9)
    slope = 16 / np.pi / np.sqrt((1 + 2 * q) ** 2 - (2 * covariance) ** 2)
    assert field.correlation_depth == pytest.approx(-1 / np.log(slope), rel=1e-8)
    along = 4 / keep * 2 / np.pi * 2 / ((1 + 2 * q) * np.sqrt(1 + 4 * q))
    assert field.variance_depth == pytest.approx(-1 / np.log(along), rel=1e-9)
    assert field.gradient_depth == pytest.approx(-1 / np.log(field.chi), rel=1e-9)
    assert field.error < 1e-13
    assert saturation("erf", q) == pytest.approx(2 / np.pi * np.arctan(np.sqrt(2 * q)), rel=1e-12)


def test_relu_against_the_arc_cosine_kernel():
    field = mean_field("relu", 1.2, 0.1, keep=0.8)
    angle = np.arccos(field.correlation)
    assert field.q == pytest.approx(0.1 / (1 - 0.6 / 0.8))
    kernel = (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    assert field.q * field.correlation == pytest.approx(1.2 * field.q * kernel + 0.1, rel=1e-10)
    assert field.correlation_depth == pytest.approx(-1 / np.log(1.2 * (np.pi - angle) / (2 * np.pi)), rel=1e-10)
    # The same numbers by quadrature, and what the noisy rectifier keeps: σ_w² = 2·keep (Pretorius et al. 2018).
    plain = ACTIVATIONS["relu"]._replace(leak=None)
    np.testing.assert_allclose(mean_field(plain, 1.2, 0.1, 0.8)[:6], field[:6], rtol=1e-9)
    np.testing.assert_allclose(mean_field(plain, 1.2, 0.1)[:6], mean_field("relu", 1.2, 0.1)[:6], rtol=1e-9)
    assert edge_of_chaos("relu", 0.0, 0.8) == 1.6
    critical = mean_field("relu", 1.6, 0.0, 0.8)
    assert math.isnan(critical.q)
    assert (critical.chi, critical.gradient_depth, critical.variance_depth) == (pytest.approx(1.0), math.inf, math.inf)
    path = correlation_path("relu", 1.6, 0.0, 1.0, 0.1, 60, 0.8)
    assert path[-1] == pytest.approx(critical.correlation, rel=1e-9)
    gaps = np.abs(path[10:20] - critical.correlation)
    assert gaps[-1] / gaps[-2] == pytest.approx(np.exp(-1 / critical.correlation_depth), rel=1e-2)


def test_homogeneous_activations_in_closed_form():
    relu, log = mean_field("relu", 1.0, 0.1), pytest.approx(1 / np.log(2))
    assert relu == MeanField(pytest.approx(0.2), 0.5, 1.0, log, log, log, pytest.approx(0, abs=1e-15))
    np.testing.assert_allclose(variance_path("relu", 1.0, 0.1, 3.0, 80)[-1], relu.q)
    critical = mean_field("relu", 2.0, 0.0)
    assert math.isnan(critical.q)
    assert critical[1:] == (1.0, 1.0, math.inf, math.inf, math.inf, 0.0)
    growing = mean_field("relu", 3.0, 0.1)
    assert (growing.q, growing.chi, growing.correlation) == (math.inf, 1.5, 1.0)
    assert growing.gradient_depth == pytest.approx(-1 / np.log(1.5))
    assert math.isnan(growing.variance_depth)
    assert mean_field("linear", 0.5, 0.1) == mean_field("identity", 0.5, 0.1)
    assert edge_of_chaos("relu", 0.0) == 2.0
    assert edge_of_chaos(leaky_relu(0.5), 0.0) == 1.6
    assert math.isnan(edge_of_chaos("relu", 0.1))
    assert np.isnan(variance_path("relu", 1e9, 0.0, 1.0, 60)).all()
    # Without bias the angle falls as 1/layers on the edge: 1 - c ~ 9π²/(2 l²) (Hayou et al. 2019, arXiv 1902.06853).
    late = 1 - correlation_path("relu", 2.0, 0.0, 1.0, 0.0, 3000)[-1]
    assert late * 3000**2 == pytest.approx(9 * np.pi**2 / 2, rel=0.02)


@pytest.mark.parametrize("keep", [1.0, 0.9])
@pytest.mark.parametrize(
    ("name", "weight"),
    [
        *product([*BOUNDED, "gelu", "silu", "elu", "leaky_relu", "softplus"], [0.5, 1.6]),
        *product(BOUNDED, [20.0]),
    ],
)
def test_fixed_points_are_where_the_maps_lead(name, weight, keep):
    bias = 0.3
    field = mean_field(name, weight, bias, keep)
    path = variance_path(name, weight, bias, 1.5 * field.q, 200, keep)
    assert path[0] == 1.5 * field.q
    # Slow approaches end where layer 200 leaves them.
    left = 0.6 * np.exp(-199 / field.variance_depth) if field.variance_depth else 0.0
    assert path[-1] == pytest.approx(field.q, rel=max(1e-9, left))
    late = np.abs(path - field.q)
    near = np.flatnonzero(late > 1e-6 * field.q)[-1]
    if field.variance_depth:
        assert late[near] / late[near - 1] == pytest.approx(np.exp(-1 / field.variance_depth), rel=1e-2)
    assert residual(name, weight, bias, field, keep) == field.error < 1e-11
    assert (field.correlation == 1) == (field.chi <= 1 and keep == 1)
    near = 0.01 * (1 - field.correlation) if field.correlation < 1 else 1e-4
    gaps = np.abs(correlation_path(name, weight, bias, field.q, field.correlation - near, 3, keep) - field.correlation)
    if field.correlation_depth > 0.2:
        assert gaps[2] / gaps[1] == pytest.approx(np.exp(-1 / field.correlation_depth), rel=2e-2)


def test_variance_depth_is_that_of_the_second_derivative():
    q = mean_field("tanh", 1.69, 0.09).q
    tanh, slope = np.tanh, lambda x: np.cosh(x) ** -2.0
    bent = gaussian(lambda x: slope(x) ** 2 - 2 * tanh(x) ** 2 * slope(x), q)
    assert mean_field("tanh", 1.69, 0.09).variance_depth == pytest.approx(-1 / np.log(1.69 * bent), rel=1e-9)


def test_numbers_of_the_published_phase_diagram():
    assert edge_of_chaos("tanh", 0.0) == 1.0
    assert edge_of_chaos("tanh", 0.05) == pytest.approx(1.76095, abs=1e-5)
    assert edge_of_chaos("tanh", 0.1) == pytest.approx(1.98607, abs=1e-5)
    assert mean_field("tanh", 1.76095, 0.05).q == pytest.approx(0.57005, abs=1e-5)
    field = mean_field("tanh", 1.3**2, 0.3**2)
    assert field.correlation_depth == field.gradient_depth == pytest.approx(16.1, abs=0.05)
    assert field.variance_depth == pytest.approx(1.34, abs=0.005)
    assert mean_field("tanh", 1.761, 0.05, 0.9).correlation_depth == pytest.approx(4.67, abs=0.005)
    for width, chi in ((1, 0.0557), (2, 0.172), (4, 0.399), (8, 0.795)):
        assert mean_field("sigmoid", width**2.0, 0.0).chi == pytest.approx(chi, abs=5e-4)


@pytest.mark.parametrize(("name", "bias", "weight"), [("gelu", 0.17292, 1.98305), ("silu", 0.55514, 1.98800)])
def test_the_edge_of_gelu_and_silu_begins_where_both_directions_are_critical(name, bias, weight):
    # Roberts, Yaida & Hanin 2022 (arXiv 2106.10165, section 5.3.4): below, the variance leaves the edge.
    assert edge_of_chaos(name, bias + 3e-5) == pytest.approx(weight, abs=3e-5)
    assert math.isnan(edge_of_chaos(name, bias - 3e-5))
    assert mean_field(name, edge_of_chaos(name, 0.7), 0.7).chi == pytest.approx(1, abs=1e-8)
    assert mean_field("gelu", 3.0, 0.0, start=1e-3).q == 0
    assert mean_field("gelu", 3.0, 0.0, start=10.0).q == math.inf


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("bias", [0.0, 1e-6, 0.1, 4.0])
def test_edge_of_chaos_is_where_chi_is_one(name, bias):
    edge = edge_of_chaos(name, bias)
    assert mean_field(name, edge, bias).chi == pytest.approx(1, abs=1e-8)
    below, above = (mean_field(name, factor * edge, bias) for factor in (0.97, 1.03))
    assert below.chi < 1 < above.chi
    assert below.correlation == 1 > above.correlation
    assert edge_of_chaos(name, bias, 0.7) == pytest.approx(0.7 * edge)
    dropped = mean_field(name, 0.7 * edge, bias, 0.7)
    assert dropped.chi == pytest.approx(1, abs=1e-8)
    assert dropped.correlation < 1


def test_the_logistic_edge_lies_in_saturation():
    edge = edge_of_chaos("sigmoid", 0.0)
    field = mean_field("sigmoid", edge, 0.0)
    assert (edge, field.q) == (pytest.approx(103.0076, abs=1e-4), pytest.approx(45.6243, abs=1e-4))
    assert saturation("sigmoid", field.q) == pytest.approx(0.84, abs=0.005)


def test_limits_without_bias():
    depth = pytest.approx(1 / np.log(2))
    assert mean_field("tanh", 0.5, 0.0) == MeanField(0.0, pytest.approx(0.5), 1.0, depth, depth, depth, 0.0)
    critical = mean_field("tanh", 1.0, 0.0)
    assert critical == MeanField(0.0, pytest.approx(1.0), 1.0, math.inf, math.inf, math.inf, 0.0)
    assert mean_field("tanh", 4.0, 0.0).correlation == 0.0
    still = mean_field("tanh", 0.0, 0.3)
    assert still == MeanField(pytest.approx(0.3), 0.0, 1.0, 0.0, 0.0, 0.0, pytest.approx(0, abs=1e-15))
    assert mean_field("tanh", 1 + 1e-4, 0.0).q == pytest.approx(5e-5, rel=1e-2)
    dropped = mean_field("tanh", 0.4, 0.0, 0.8)
    assert (dropped.q, dropped.chi, dropped.correlation) == (0.0, pytest.approx(0.5), 0.0)
    assert dropped.correlation_depth == pytest.approx(-1 / np.log(0.4))
    np.testing.assert_allclose(
        correlation_path("tanh", 0.9, 0.0, 1e-9, 0.5, 4, 0.8), 0.5 * 0.8 ** np.arange(4), rtol=1e-6
    )


def test_ones_own_activation():
    own = Activation(lambda x: erf(x) * 1.0, lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2)), -1.0, 1.0)
    assert mean_field(own, 4.0, 0.2, 0.9) == mean_field("erf", 4.0, 0.2, 0.9)
    assert edge_of_chaos(own, 0.2) == edge_of_chaos("erf", 0.2)
    # E sin² = (1 - exp(-2q))/2, E cos² = (1 + exp(-2q))/2, E cos u₁ cos u₂ = exp(-q) cosh(qc).
    sine = mean_field(Activation(np.sin, np.cos, -1.0, 1.0), 3.0, 0.1)
    assert sine.q == pytest.approx(1.5 * (1 - np.exp(-2 * sine.q)) + 0.1, rel=1e-12)
    assert sine.chi == pytest.approx(1.5 * (1 + np.exp(-2 * sine.q)), rel=1e-12)
    slope = 3 * np.exp(-sine.q) * np.cosh(sine.q * sine.correlation)
    assert sine.correlation_depth == pytest.approx(-1 / np.log(slope), rel=1e-9)
    # A kink that is not named where it is: the finer quadrature disagrees, and there is no answer.
    assert np.isnan(mean_field(ACTIVATIONS["hard_tanh"]._replace(bends=(0.3,)), 4.0, 0.1)).all()


def test_saturation_by_definition():
    for q in (1e-8, 1.0, 100.0):
        measures = {
            "tanh": lambda x: abs(np.tanh(x)),
            "sigmoid": lambda x: abs(np.tanh(x / 2)),
            "softsign": lambda x: abs(x) / (1 + abs(x)),
        }
        for name, measure in measures.items():
            assert saturation(name, q) == pytest.approx(gaussian(measure, q), rel=1e-6)
    assert saturation("tanh", 0.0) == saturation("sigmoid", 0.0) == 0.0
    assert saturation("tanh", 1e12) == pytest.approx(1, abs=1e-5)
    assert saturation("hard_tanh", 1e-4) == pytest.approx(np.sqrt(2e-4 / np.pi), rel=1e-9)
    assert math.isnan(saturation("relu", 1.0))
    assert math.isnan(saturation("elu", 1.0))
    assert math.isnan(saturation("tanh", math.inf))


@pytest.mark.parametrize(
    ("name", "weight", "bias", "keep"),
    [
        ("tanh", 4.0, 0.1, 1.0),
        ("sigmoid", 30.0, 0.1, 1.0),
        ("softsign", 6.0, 0.2, 1.0),
        ("hard_tanh", 3.0, 0.1, 0.8),
        ("gelu", 1.5, 0.1, 0.9),
        ("relu", 1.1, 0.1, 0.9),
    ],
)
def test_wide_random_networks_settle_on_the_mean_field(name, weight, bias, keep):
    width, networks, layers = 300, 40, 12
    function, field = ACTIVATIONS[name], mean_field(name, weight, bias, keep)
    bounded = np.isfinite([function.low, function.high]).all()
    statistics = []
    for seed in range(networks):
        random = np.random.default_rng(seed)
        first, second = random.normal(size=(2, width)) * np.sqrt(field.q)
        u = np.stack([first, 0.5 * first + np.sqrt(0.75) * second])
        for _ in range(layers):
            matrix = random.normal(size=(width, width)) * np.sqrt(weight / width)
            masked = function.value(u) * (random.random(u.shape) < keep) / keep
            u = masked @ matrix + random.normal(size=width) * np.sqrt(bias)
        products = u @ u.T / width
        chi = weight / keep * (function.slope(u) ** 2).mean()
        scaled = np.abs(2 * (function.value(u) - function.low) / (function.high - function.low) - 1) if bounded else 0.0
        correlation = products[0, 1] / np.sqrt(products[0, 0] * products[1, 1])
        statistics.append([np.trace(products) / 2, correlation, chi, np.mean(scaled)])
    values, errors = np.mean(statistics, axis=0), np.std(statistics, axis=0, ddof=1) / np.sqrt(networks)
    expected = np.array([field.q, field.correlation, field.chi, saturation(name, field.q) if bounded else 0.0])
    # Four standard errors and a finite-width bias of order 1/width.
    tolerance = 4 * errors + 5 / width * np.array([field.q, 1.0, 1.0, 1.0])
    assert (np.abs(values - expected) <= tolerance).all(), (values, expected, errors)
    assert (tolerance < 0.1 * np.array([field.q, 1.0, 1.0, 1.0])).all()


def test_bad_input_is_named():
    for call, message in (
        (lambda: mean_field("tanh", 1.0, 1.0, 0.0), "keep is 0"),
        (lambda: mean_field("tanh", 1.0, 1.0, 1.1), "keep is 1.1"),
        (lambda: mean_field("tanh", 1.0, 1.0, 1.0, 0.0), "start is 0"),
        (lambda: correlation_path("tanh", 1.0, 1.0, 1.0, 1.5, 3), "correlation is 1.5"),
        (lambda: correlation_path("tanh", 1.0, 1.0, 1.0, 0.5, 2.5), "layers is 2.5"),
        (lambda: edge_of_chaos("tanh", 1.0, -0.5), "keep is -0.5"),
        (lambda: mean_field(np.tanh, 1.0, 1.0), "activation is"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    nan = float("nan")
    assert np.isnan(mean_field("tanh", 1.0, 0.1, nan)).all()
    assert np.isnan(correlation_path("tanh", 1.0, 0.1, 1.0, nan, 3)).all()
    assert math.isnan(edge_of_chaos("tanh", 0.1, nan))


def test_broken_fixed_points_fail_their_certificate(monkeypatch):
    field = mean_field("tanh", 4.0, 0.1)
    broken = [field._replace(q=field.q * 1.0001), field._replace(correlation=1.0), field._replace(correlation=0.5)]
    for wrong in (*broken, field._replace(chi=field.chi * 1.0001)):
        assert residual("tanh", 4.0, 0.1, wrong) > 1e-6
    for name, value in (("fixed_variance", field.q * 1.0001), ("fixed_distance", 0.3)):
        with monkeypatch.context() as patch:
            patch.setattr(tool, name, lambda *_, value=value: value)
            assert np.isnan(mean_field("tanh", 4.0, 0.1)).all()
            assert np.isnan(mean_field("tanh", 4.0, 0.1, 0.9)).all()
    # A quadrature that is wrong where it answers disagrees with the finer one of the certificate.
    coarse = lambda exact: lambda *arguments: exact(*arguments) * (1 + (tool.FINER not in arguments) * 1e-6)
    for name in ("mean_square", "spread", "gaussian_expectation"):
        with monkeypatch.context() as patch:
            patch.setattr(tool, name, coarse(getattr(tool, name)))
            if name == "gaussian_expectation":
                assert math.isnan(saturation("tanh", 3.0))
            elif name == "mean_square":
                assert np.isnan(variance_path("tanh", 4.0, 0.1, 3.0, 4)).all()
                assert math.isnan(edge_of_chaos("sigmoid", 5.0))
            else:
                assert np.isnan(correlation_path("tanh", 4.0, 0.1, 3.0, 0.5, 4)).all()
