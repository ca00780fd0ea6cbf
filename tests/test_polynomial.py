import math

import numpy as np
import pytest

from research.oracles.polynomial import features, polynomial_risk

T = np.linspace(-0.95, 0.95, 40)
F = lambda x: np.sin(3 * x)


def points(samples=12, seed=0):
    return -1 + 2 * (np.arange(samples) + np.random.default_rng(seed).random(samples)) / samples


@pytest.mark.parametrize(("degree", "smoothness"), [(1, 0.0), (4, 0.0), (9, 1.0), (30, 1.0), (30, 0.0)])
def test_the_risk_is_that_of_a_simulation(degree, smoothness):
    x = points()
    risk = polynomial_risk(x, F(x), T, F(T), degree, 0.3, smoothness)
    X, P = features(x, degree, smoothness), features(T, degree, smoothness)
    y = F(x)[:, None] + 0.3 * np.random.default_rng(1).standard_normal((12, 4000))
    w = np.linalg.lstsq(X, y, rcond=1e-12)[0]
    squares, left = ((P @ w - F(T)[:, None]) ** 2).mean(axis=0), ((X @ w - y) ** 2).mean(axis=0)
    assert abs(squares.mean() - risk.bias - risk.variance) < 5 * squares.std() / 4000**0.5
    assert abs(left.mean() - risk.training) < 5 * left.std() / 4000**0.5 + 1e-12


def test_a_polynomial_of_the_degree_has_no_bias_and_the_variance_of_its_parameters():
    x = points()
    cubic = lambda x: 1 - x + 2 * x**3
    risk = polynomial_risk(x, cubic(x), x, cubic(x), 3, 0.5)
    assert risk.bias == pytest.approx(0, abs=1e-20)
    assert risk.variance == pytest.approx(0.25 * 4 / 12)
    assert risk.training == pytest.approx(0.25 * 8 / 12)
    assert polynomial_risk(x, cubic(x), x, cubic(x), 2, 0.5).bias > 0.01


def test_the_scale_of_features_matters_to_interpolants_alone():
    x = points()
    low, high = ([polynomial_risk(x, F(x), T, F(T), d, 0.3, s).bias for s in (0.0, 2.0)] for d in (5, 40))
    assert low[0] == pytest.approx(low[1], rel=1e-9)
    assert high[0] > 2 * high[1]
    assert polynomial_risk(x, F(x), T, F(T), 40, 0.3).training == pytest.approx(0, abs=1e-12)


def test_not_a_number_in_is_not_a_number_out():
    x = points()
    assert np.isnan(polynomial_risk(x * np.nan, F(x), T, F(T), 3, 0.3)).all()
    assert np.isnan(polynomial_risk(x, F(x), T, F(T), math.nan, 0.3)).all()
    assert np.isnan(polynomial_risk(x, F(x), T, F(T) * np.nan, 3, 0.3)).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: polynomial_risk(x, F(x), T, F(T), 2.5, 0.3), "degree is 2.5; it takes a whole number"),
        (lambda x: polynomial_risk(x, F(x), T, F(T), 2, -0.3), "noise is -0.3; it takes"),
        (lambda x: polynomial_risk(3 * x, F(x), T, F(T), 2, 0.3), "x goes up to"),
        (lambda x: polynomial_risk(x, F(x), T, F(x), 2, 0.3), "truth has 12 entries; it takes 40"),
    ],
)
def test_bad_input_is_refused_by_name(call, said):
    with pytest.raises(ValueError, match=said):
        call(points())
