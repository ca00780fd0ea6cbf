import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import multivariate_normal

from research.oracles import mean_field

DUAL = {1: np.inf, 2: 2, np.inf: 1}
ORDERS = [1, 2, np.inf]


def reference(function, q):
    """Gaussian expectation by adaptive quadrature, cut where the function bends."""
    density = lambda z: function(np.full(1, np.sqrt(q) * z))[0] * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    cuts = {0.0, 1.0, 4.0, 12.0} | {min(width / np.sqrt(q), 12.0) for width in (0.1, 1.0, 5.0, 30.0)}
    cuts = sorted(cuts | {-cut for cut in cuts})
    parts = [quad(density, *ends, epsabs=1e-13, epsrel=1e-12, limit=200)[0] for ends in pairwise(cuts)]
    return sum(parts)


@pytest.mark.parametrize("q", [1e-3, 1.0, 30.0, 100.0])
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "erf", "softsign", "relu", "linear"])
def test_gaussian_expectations_agree_with_adaptive_quadrature(name, q):
    activation = mean_field.ACTIVATIONS[name]
    for function in (lambda u: activation.value(u) ** 2, lambda u: activation.slope(u) ** 2):
        assert mean_field.gaussian_expectation(function, q) == pytest.approx(reference(function, q), rel=1e-11)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "erf", "softsign"])
def test_activations_have_the_derivatives_they_name(name):
    activation = mean_field.ACTIVATIONS[name]
    x = np.array([-9.0, -2.0, -0.3, 0.4, 1.7, 8.0])
    difference = lambda function: (function(x + 1e-5) - function(x - 1e-5)) / 2e-5
    np.testing.assert_allclose(activation.slope(x), difference(activation.value), rtol=1e-5, atol=1e-10)
    np.testing.assert_allclose(activation.curvature(x), difference(activation.slope), rtol=1e-5, atol=1e-10)
    assert activation.slope(np.array([-800.0, 800.0])).max() < 2e-6


def test_erf_has_closed_forms():
    q = 3.7
    field = mean_field.mean_field("erf", 4.0, 0.2)
    assert field.q == pytest.approx(4 * 2 / np.pi * np.arcsin(2 * field.q / (1 + 2 * field.q)) + 0.2, rel=1e-12)
    assert field.chi == pytest.approx(4 * 4 / np.pi / np.sqrt(1 + 4 * field.q), rel=1e-12)
    covariance = 2 * field.q * field.correlation / (1 + 2 * field.q)
    assert field.q * field.correlation == pytest.approx(4 * 2 / np.pi * np.arcsin(covariance) + 0.2, rel=1e-9)
    slope = 16 / np.pi / np.sqrt((1 + 2 * field.q) ** 2 - (2 * field.q * field.correlation) ** 2)
    assert field.correlation_depth == pytest.approx(-1 / np.log(slope), rel=1e-8)
    absolute = mean_field.gaussian_expectation(lambda u: np.abs(mean_field.ACTIVATIONS["erf"].value(u)), q)
    assert (
        mean_field.saturation("erf", q) == absolute == pytest.approx(2 / np.pi * np.arctan(np.sqrt(2 * q)), rel=1e-12)
    )


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softsign"])
@pytest.mark.parametrize("angle", [1e-3, 0.4, 1.5])
def test_pair_expectations_agree_with_a_plain_grid(name, angle):
    activation, q = mean_field.ACTIVATIONS[name], 6.0
    z = np.linspace(-8, 8, 3201)
    density = multivariate_normal(np.zeros(2), np.eye(2)).pdf(np.stack(np.meshgrid(z, z), -1)) * (z[1] - z[0]) ** 2
    u1, u2 = np.sqrt(q) * z, np.sqrt(q) * (np.cos(angle) * z + np.sin(angle) * z[:, None])
    spread = (density * (activation.value(u1) - activation.value(u2)) ** 2).sum()
    assert mean_field._pair_expectation(activation.value, q, angle, False) == pytest.approx(spread, rel=3e-4)
    slopes = (density * activation.slope(u1) * activation.slope(u2)).sum()
    assert mean_field._pair_expectation(activation.slope, q, angle, True) == pytest.approx(slopes, rel=3e-4)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "erf", "softsign"])
@pytest.mark.parametrize("weight", [0.5, 3.0, 150.0])
def test_fixed_points_are_where_the_maps_lead(name, weight):
    bias = 0.3
    field = mean_field.mean_field(name, weight, bias)
    path = mean_field.variance_path(name, weight, bias, 2.0, 80)
    assert path[0] == 2.0
    assert path[-1] == pytest.approx(field.q, rel=1e-9)
    late = np.abs(path[2:] - field.q)
    shrinking = np.flatnonzero(late > 1e-9 * field.q)[-1]
    assert late[shrinking] / late[shrinking - 1] == pytest.approx(np.exp(-1 / field.variance_depth), rel=1e-2)
    assert mean_field.residual(name, weight, bias, field) < 1e-11
    assert (field.correlation == 1) == (field.chi <= 1)
    activation = mean_field.ACTIVATIONS[name]
    near, far = np.arccos(field.correlation), 1.2
    for _ in range(200):
        spread = weight * mean_field._pair_expectation(activation.value, field.q, far, False)
        far = np.arccos(1 - spread / (2 * field.q))
    assert far == pytest.approx(near, abs=1e-5)


def test_numbers_of_the_published_phase_diagram():
    assert mean_field.edge_of_chaos("tanh", 0.0) == 1.0
    assert mean_field.edge_of_chaos("tanh", 0.05) == pytest.approx(1.76095, abs=1e-5)
    assert mean_field.edge_of_chaos("tanh", 0.1) == pytest.approx(1.98607, abs=1e-5)
    assert mean_field.mean_field("tanh", 1.76095, 0.05).q == pytest.approx(0.57005, abs=1e-5)
    field = mean_field.mean_field("tanh", 1.3**2, 0.3**2)
    assert (field.correlation_depth, field.variance_depth) == (
        pytest.approx(16.1, abs=0.05),
        pytest.approx(1.34, abs=0.005),
    )
    for width, chi in ((1, 0.0557), (2, 0.172), (4, 0.399), (8, 0.795)):
        assert mean_field.mean_field("sigmoid", width**2.0, 0.0).chi == pytest.approx(chi, abs=5e-4)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "erf", "softsign"])
@pytest.mark.parametrize("bias", [0.0, 1e-6, 0.1, 4.0])
def test_edge_of_chaos_is_where_chi_is_one(name, bias):
    edge = mean_field.edge_of_chaos(name, bias)
    assert mean_field.mean_field(name, edge, bias).chi == pytest.approx(1, abs=1e-8)
    below, above = (mean_field.mean_field(name, factor * edge, bias) for factor in (0.97, 1.03))
    assert below.chi < 1 < above.chi
    assert below.correlation == 1 > above.correlation


def test_the_logistic_edge_lies_in_saturation():
    edge = mean_field.edge_of_chaos("sigmoid", 0.0)
    field = mean_field.mean_field("sigmoid", edge, 0.0)
    assert (edge, field.q) == (pytest.approx(103.0076, abs=1e-4), pytest.approx(45.6243, abs=1e-4))
    assert mean_field.saturation("sigmoid", field.q) == pytest.approx(0.84, abs=0.005)


def test_limits_without_bias():
    still = mean_field.mean_field("tanh", 0.5, 0.0)
    assert still == mean_field.MeanField(
        0.0, pytest.approx(0.5), 1.0, pytest.approx(1 / np.log(2)), pytest.approx(1 / np.log(2))
    )
    critical = mean_field.mean_field("tanh", 1.0, 0.0)
    assert critical == mean_field.MeanField(0.0, pytest.approx(1.0), 1.0, math.inf, math.inf)
    assert mean_field.mean_field("tanh", 4.0, 0.0).correlation == 0.0
    assert mean_field.mean_field("tanh", 0.0, 0.3) == mean_field.MeanField(pytest.approx(0.3), 0.0, 1.0, 0.0, 0.0)
    near = mean_field.mean_field("tanh", 1 + 1e-4, 0.0)
    assert near.q == pytest.approx(5e-5, rel=1e-2)


def test_homogeneous_activations_in_closed_form():
    relu = mean_field.mean_field("relu", 1.0, 0.1)
    assert relu == mean_field.MeanField(
        pytest.approx(0.2), 0.5, 1.0, pytest.approx(1 / np.log(2)), pytest.approx(1 / np.log(2))
    )
    np.testing.assert_allclose(mean_field.variance_path("relu", 1.0, 0.1, 3.0, 80)[-1], relu.q)
    critical = mean_field.mean_field("relu", 2.0, 0.0)
    assert math.isnan(critical.q)
    assert critical[1:] == (1.0, 1.0, math.inf, math.inf)
    growing = mean_field.mean_field("relu", 3.0, 0.1)
    assert growing.q == math.inf
    assert np.isnan(growing[2:]).all()
    assert mean_field.mean_field("linear", 0.5, 0.1) == mean_field.mean_field("identity", 0.5, 0.1)
    assert mean_field.edge_of_chaos("relu", 0.0) == 2.0
    assert math.isnan(mean_field.edge_of_chaos("relu", 0.1))
    assert np.isnan(mean_field.variance_path("relu", 1e9, 0.0, 1.0, 60)).all()


def test_saturation_by_definition():
    for q in (1e-8, 1.0, 100.0):
        softsign = lambda x: abs(x) / (1 + abs(x))
        assert mean_field.saturation("tanh", q) == pytest.approx(reference(lambda x: abs(np.tanh(x)), q), rel=1e-10)
        assert mean_field.saturation("sigmoid", q) == pytest.approx(
            reference(lambda x: abs(np.tanh(x / 2)), q), rel=1e-6
        )
        assert mean_field.saturation("softsign", q) == pytest.approx(reference(softsign, q), rel=1e-10)
    assert mean_field.saturation("tanh", 0.0) == mean_field.saturation("sigmoid", 0.0) == 0.0
    assert mean_field.saturation("tanh", 1e12) == pytest.approx(1, abs=1e-5)
    assert math.isnan(mean_field.saturation("relu", 1.0))
    assert math.isnan(mean_field.saturation("tanh", math.inf))


@pytest.mark.parametrize(
    ("name", "weight", "bias"), [("tanh", 4.0, 0.1), ("sigmoid", 30.0, 0.1), ("softsign", 6.0, 0.2)]
)
def test_wide_random_networks_settle_on_the_mean_field(name, weight, bias):
    width, networks, layers = 300, 60, 20
    activation, field = mean_field.ACTIVATIONS[name], mean_field.mean_field(name, weight, bias)
    statistics = []
    for seed in range(networks):
        random = np.random.default_rng(seed)
        cosine = 0.5
        first, second = random.normal(size=(2, width)) * np.sqrt(field.q)
        u = np.stack([first, cosine * first + np.sqrt(1 - cosine**2) * second])
        for _ in range(layers):
            matrix = random.normal(size=(width, width)) * np.sqrt(weight / width)
            u = activation.value(u) @ matrix + random.normal(size=width) * np.sqrt(bias)
        products = u @ u.T / width
        scaled = 2 * (activation.value(u) - activation.low) / (activation.high - activation.low) - 1
        sizes = np.trace(products) / 2
        statistics.append([sizes, products[0, 1] / np.sqrt(products[0, 0] * products[1, 1]), np.abs(scaled).mean()])
    values, errors = np.mean(statistics, axis=0), np.std(statistics, axis=0, ddof=1) / np.sqrt(networks)
    expected = [field.q, field.correlation, mean_field.saturation(name, field.q)]
    # Four standard errors and a finite-width bias of order 1/width.
    tolerance = 4 * errors + 5 / width * np.array([field.q, 1.0, 1.0])
    assert (np.abs(values - expected) < tolerance).all(), (values, expected, errors)
    assert (tolerance < 0.1 * np.array([field.q, 1.0, 1.0])).all()


def test_broken_fixed_points_fail_their_certificate(monkeypatch):
    field = mean_field.mean_field("tanh", 4.0, 0.1)
    for wrong in (field._replace(q=field.q * 1.0001), field._replace(correlation=1.0), field._replace(correlation=0.5)):
        assert mean_field.residual("tanh", 4.0, 0.1, wrong) > 1e-6
    with monkeypatch.context() as patch:
        patch.setattr(mean_field, "_fixed_variance", lambda *_: field.q * 1.0001)
        assert np.isnan(mean_field.mean_field("tanh", 4.0, 0.1)).all()
    with monkeypatch.context() as patch:
        patch.setattr(mean_field, "_fixed_angle", lambda *_: 0.3)
        assert np.isnan(mean_field.mean_field("tanh", 4.0, 0.1)).all()
    # A quadrature that is wrong where it answers disagrees with the finer one of the certificate.
    exact = mean_field.gaussian_expectation
    with monkeypatch.context() as patch:
        coarse = lambda function, q, order=mean_field.ORDER: exact(function, q, order) * (1 + (order < 25) * 1e-6)
        patch.setattr(mean_field, "gaussian_expectation", coarse)
        assert math.isnan(mean_field.saturation("tanh", 3.0))
        assert np.isnan(mean_field.variance_path("tanh", 4.0, 0.1, 3.0, 4)).all()
        assert math.isnan(mean_field.edge_of_chaos("sigmoid", 5.0))
