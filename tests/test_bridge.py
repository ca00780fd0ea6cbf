import math

import numpy as np
import pytest
from problems import classification
from scipy.optimize import minimize

from research.oracles import bridge
from research.oracles.margin import maximum_margin


def problem(seed=0, samples=5, features=12):
    random = np.random.default_rng(seed)
    return random.normal(size=(samples, features)), np.where(np.arange(samples) % 2 == 0, 1.0, -1.0)


def penalty(w):
    return np.abs(np.fft.fft(w, norm="ortho")).sum()


@pytest.mark.parametrize("features", [12, 13])
def test_maximum_fourier_margin_agrees_with_the_dual_solved_by_another_method(features):
    X, y = problem(3, 5, features)
    Z = X * y[:, None]
    spectra = np.fft.rfft(Z, norm="ortho")
    within = {"type": "ineq", "fun": lambda a: 1 - np.abs(a @ spectra) ** 2}
    dual = minimize(
        lambda a: -a.sum(), np.full(5, 0.1), method="SLSQP", bounds=[(0, None)] * 5, constraints=within, tol=1e-14
    )
    weights = bridge.maximum_fourier_margin(X, y)
    assert (Z @ weights).min() == pytest.approx(1, abs=1e-9)
    assert penalty(weights) == pytest.approx(-dual.fun, rel=1e-6)


def test_maximum_fourier_margin_of_one_sample_is_its_largest_coefficient():
    wave = np.cos(2 * np.pi * 3 * np.arange(16) / 16)
    X = (wave + 0.1 * np.cos(2 * np.pi * 5 * np.arange(16) / 16))[None, :]
    weights = bridge.maximum_fourier_margin(X, np.ones(1))
    np.testing.assert_allclose(weights, wave / (X @ wave), atol=1e-5)


def test_rivals_have_less_margin_in_this_norm():
    X, y = problem(4)
    best = penalty(bridge.maximum_fourier_margin(X, y))
    for order in (1, 2):
        assert penalty(maximum_margin(X, y, order)) > 1.01 * best


def test_growth_exponents_are_those_of_the_flow():
    X, y = problem(0, 4, 10)
    Z, random = X * y[:, None] / 3, np.random.default_rng(1)
    layers = 0.3 * random.normal(size=(2, 10))
    found = []
    for step in range(20_001):  # steps of a share of the length, as long as the weights take to settle
        coefficients = np.fft.rfft(layers, norm="ortho")
        weights = np.fft.irfft(coefficients.prod(axis=0), n=10, norm="ortho")
        if step in (5_000, 20_000):
            found.append((np.log(np.linalg.norm(weights)), np.log(np.abs(coefficients).prod(axis=0))))
        margins = Z @ weights
        shares = np.exp(margins.min() - margins)
        pull = np.fft.rfft(shares @ Z, norm="ortho") * coefficients[::-1].conj()
        gradient = np.fft.irfft(pull, n=10, norm="ortho")
        layers = layers + 8 / (step + 160) * gradient * np.linalg.norm(layers) / np.linalg.norm(gradient)
    measured = (found[1][1] - found[0][1]) / (found[1][0] - found[0][0])
    expected = bridge.growth_exponents(X, y)
    assert np.isfinite(expected).sum() >= 2
    np.testing.assert_allclose(measured[np.isfinite(expected)], expected[np.isfinite(expected)], atol=0.02)


def test_bridge_residual_vanishes_at_the_optimum_of_its_own_depth_alone():
    X, y = problem(5)
    ends = {1: maximum_margin(X, y, 2), 2: bridge.maximum_fourier_margin(X, y)}
    for depth, end in ends.items():
        for of in (1, 2, 3):
            residual = bridge.bridge_residual(X, y, end, of, True)
            assert residual < 1e-3 if of == depth else residual > 0.02, (depth, of)
    assert bridge.bridge_residual(X, y, maximum_margin(X, y, 1), 2, False) < 1e-6
    assert bridge.bridge_residual(X, y, maximum_margin(X, y, 1), 2, True) > 0.1
    scaled = bridge.bridge_residual(X, y, 1e40 * ends[2], 3, True)
    assert scaled == pytest.approx(bridge.bridge_residual(X, y, ends[2], 3, True))


@pytest.mark.parametrize("depth", [2, 3])
def test_convolution_residual_of_balanced_layers_is_that_of_the_bridge(depth):
    X, y = problem(6)
    weights = bridge.maximum_fourier_margin(X, y) + 0.1 * maximum_margin(X, y, 2)
    coefficients = np.fft.rfft(weights, norm="ortho")
    root = np.abs(coefficients) ** (1 / depth)
    layers = np.stack([np.fft.irfft(root, n=12, norm="ortho")] * (depth - 1) + [np.zeros(12)])
    layers[-1] = np.fft.irfft(root * np.exp(1j * np.angle(coefficients)), n=12, norm="ortho")
    expected = bridge.bridge_residual(X, y, weights, depth, True)
    assert bridge.convolution_residual(X, y, layers, 12) == pytest.approx(expected, rel=1e-6)
    assert bridge.convolution_residual(X, y, 1e30 * layers, 12) == pytest.approx(expected, rel=1e-6)
    assert bridge.convolution_residual(X, y, layers, 3) > expected


def test_convolution_residual_has_the_gradient_of_the_margins():
    X, y = problem(7, 3, 6)
    random = np.random.default_rng(7)
    layers = random.normal(size=(2, 6)) * np.array([[1, 1, 0, 0, 0, 0], [1] * 6])
    matrix = np.array([[layers[0, (i - j) % 6] for j in range(6)] for i in range(6)]) / 6**0.5
    y = np.where(X @ matrix @ layers[1] > 0, 1.0, -1.0)
    Z = X * y[:, None]
    shift = lambda j: np.roll(layers[1], j) / 6**0.5
    jacobian = np.hstack([Z @ np.stack([shift(0), shift(1)], axis=1), np.zeros((3, 4)), Z @ matrix])
    from research.oracles.margin_stationarity import stationarity_residual

    expected = stationarity_residual(layers.ravel(), jacobian, Z @ matrix @ layers[1], 2)
    assert bridge.convolution_residual(X, y, layers, 2) == pytest.approx(expected, rel=1e-9)


def test_broken_weights_and_multipliers_are_not_certified(monkeypatch):
    X, y = problem(8)
    weights, multipliers = bridge._solve(X, y)
    assert bridge.fourier_gap(X, y, weights, multipliers) < 1e-7
    assert bridge.fourier_gap(X, y, np.roll(weights, 1), multipliers) > 1e-3
    assert bridge.fourier_gap(X, y, weights, np.roll(multipliers, 1)) > 1e-3
    assert bridge.fourier_gap(X, y, weights, -multipliers) == math.inf
    monkeypatch.setattr(bridge, "GAP_BOUND", -1.0)
    assert np.isnan(bridge.maximum_fourier_margin(X, y)).all()
    assert np.isnan(bridge.growth_exponents(X, y)).all()


def test_data_without_a_separator_and_nan_give_nan():
    X = np.array([[1.0, 2.0], [1.0, 2.0]])
    assert np.isnan(bridge.maximum_fourier_margin(X, np.array([1.0, -1.0]))).all()
    X, y = classification()
    X[0, 0] = np.nan
    assert np.isnan(bridge.maximum_fourier_margin(X, y)).all()
    assert math.isnan(bridge.bridge_residual(X, y, np.ones(6), 2, True))
    X, y = classification()
    assert math.isnan(bridge.bridge_residual(X, y, np.full(6, np.nan), 2, True))
    assert math.isnan(bridge.bridge_residual(X, y, -maximum_margin(X, y, 2), 2, True))
    assert math.isnan(bridge.convolution_residual(X, y, np.zeros((2, 6)), 6))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X, y: bridge.maximum_fourier_margin(X, 0 * y), "y has the label 0"),
        (lambda X, y: bridge.growth_exponents(X, y[:3]), "y has 3 entries"),
        (lambda X, y: bridge.bridge_residual(X, y, np.ones(5), 2, True), "weights has 5 entries"),
        (lambda X, y: bridge.bridge_residual(X, y, np.ones(6), 0.5, True), "depth is 0.5"),
        (lambda X, y: bridge.convolution_residual(X, y, np.ones((2, 5)), 2), "layers has 5 columns"),
        (lambda X, y: bridge.convolution_residual(X, y, np.ones((2, 6)), 0), "kernel_width is 0"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(*classification())
