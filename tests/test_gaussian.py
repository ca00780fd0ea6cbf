from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import ndtr

from research.oracles.activations import ACTIVATIONS
from research.oracles.gaussian import FINER, ORDER, gaussian_expectation, pair_expectation

NAMES = sorted(set(ACTIVATIONS) - {"identity"})


def adaptive(function, q):
    """Gaussian expectation by adaptive quadrature, cut where functions bend."""
    density = lambda z: function(np.sqrt(q) * z) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    cuts = {0.0, 1.0, 4.0, 12.0} | {min(width / np.sqrt(q), 12.0) for width in (0.1, 1.0, 5.0, 30.0)}
    cuts = sorted(cuts | {-cut for cut in cuts})
    return sum(quad(density, *ends, epsabs=1e-13, epsrel=1e-12, limit=200)[0] for ends in pairwise(cuts))


def moments(low, high):
    """∫ of 1, x and x² times the standard normal density from low to high."""
    density = lambda z: np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    mass = ndtr(high) - ndtr(low)
    return mass, density(low) - density(high), mass + low * density(low) - high * density(high)


def conditional(name, mean, deviation):
    """E φ(u) for u ~ N(mean, deviation²) in closed form."""
    if name == "relu":
        mass, first, _ = moments(-mean / deviation, 40.0)
        return mean * mass + deviation * first
    mass, first, _ = moments((-1 - mean) / deviation, (1 - mean) / deviation)
    return mean * mass + deviation * first - ndtr((-1 - mean) / deviation) + ndtr((mean - 1) / deviation)


@pytest.mark.parametrize("q", [1e-4, 1.0, 100.0])
@pytest.mark.parametrize("name", NAMES)
def test_one_gaussian_against_adaptive_quadrature(name, q):
    activation = ACTIVATIONS[name]
    for function in (lambda u: activation.value(u) ** 2, lambda u: activation.slope(u) ** 2):
        value = gaussian_expectation(function, q, bends=activation.bends)
        assert value == pytest.approx(adaptive(function, q), rel=1e-10)
        assert value == pytest.approx(gaussian_expectation(function, q, FINER, activation.bends), rel=1e-13)


@pytest.mark.parametrize("apart", [1e-6, 0.1, 0.9, 1.0, 1.6])
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "erf", "gelu", "silu", "softplus"])
def test_two_gaussians_against_a_plain_grid(name, apart):
    # The trapezoid rule converges exponentially for what is smooth: it shares nothing with panels.
    activation, q = ACTIVATIONS[name], 2.0
    z = np.linspace(-8.5, 8.5, 341)
    weight = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    angle = 2 * np.arcsin(np.sqrt(apart / 2))
    u, v = np.sqrt(q) * z[:, None], np.sqrt(q) * (np.cos(angle) * z[:, None] + np.sin(angle) * z)
    slopes = weight @ (activation.slope(u) * activation.slope(v)) @ weight
    assert pair_expectation(activation.slope, q, apart, product=True) == pytest.approx(slopes, rel=1e-8)
    products = weight @ (activation.value(u) * activation.value(v)) @ weight
    assert pair_expectation(activation.value, q, apart, product=True) == pytest.approx(products, rel=1e-8, abs=1e-14)
    spread = weight @ ((activation.value(u) - activation.value(v)) ** 2) @ weight
    assert pair_expectation(activation.value, q, apart, product=False) == pytest.approx(spread, rel=1e-8)


@pytest.mark.parametrize("q", [0.05, 3.0, 200.0])
@pytest.mark.parametrize("apart", [1e-4, 0.3, 1.0])
@pytest.mark.parametrize("name", ["relu", "hard_tanh"])
def test_kinks_against_conditional_closed_forms(name, apart, q):
    # E φ(u₁)φ(u₂) = E φ(u₁) E(φ(u₂) | u₁), the second factor in closed form: one adaptive quadrature is left.
    activation, c = ACTIVATIONS[name], 1 - apart
    product = lambda u: activation.value(u) * conditional(name, c * u, np.sqrt(q * (1 - c**2)))
    value = pair_expectation(activation.value, q, apart, product=True, bends=activation.bends)
    assert value == pytest.approx(adaptive(product, q), rel=1e-9)
    square = adaptive(lambda u: activation.value(u) ** 2, q)
    spread = pair_expectation(activation.value, q, apart, product=False, bends=activation.bends)
    assert spread == pytest.approx(2 * (square - value), rel=1e-7)


@pytest.mark.parametrize("apart", [1e-3, 0.4])
def test_softsign_against_nested_adaptive_quadrature(apart):
    q, angle = 6.0, 2 * np.arcsin(np.sqrt(apart / 2))
    value = lambda x: x / (1 + abs(x))

    def inner(z):
        along, across = np.sqrt(q) * np.cos(angle) * z, np.sqrt(q) * np.sin(angle)
        body = lambda y: value(along + across * y) * np.exp(-(y**2) / 2) / np.sqrt(2 * np.pi)
        cut = float(np.clip(-along / across, -9, 9))
        return quad(body, -9, cut, epsrel=1e-11)[0] + quad(body, cut, 9, epsrel=1e-11)[0]

    outer = lambda z: value(np.sqrt(q) * z) * inner(z) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    expected = 2 * sum(quad(outer, *ends, epsrel=1e-10)[0] for ends in ((0, 0.2), (0.2, 9)))
    softsign = ACTIVATIONS["softsign"].value
    assert pair_expectation(softsign, q, apart, product=True) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("apart", [1e-12, 1e-3, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_the_stated_error(name, apart):
    activation = ACTIVATIONS[name]
    for q in (1e-4, 1.0, 1e4):
        for function, product in ((activation.value, False), (activation.slope, True)):
            value, finer = (
                pair_expectation(function, q, apart, product, order, activation.bends) for order in (ORDER, FINER)
            )
            assert value == pytest.approx(finer, rel=1e-11), (q, product)


def test_polynomials_and_limits():
    assert gaussian_expectation(lambda u: u**4, 3.0) == pytest.approx(27, rel=1e-13)
    assert pair_expectation(lambda u: u, 3.0, 0.25, product=True) == pytest.approx(2.25, rel=1e-13)
    assert pair_expectation(lambda u: u, 3.0, 1e-9, product=False) == pytest.approx(6e-9, rel=1e-13)
    assert gaussian_expectation(lambda u: u + 2, 0.0) == 2
    assert np.isnan(gaussian_expectation(np.tanh, np.inf))
    assert np.isnan(gaussian_expectation(np.tanh, np.nan))
