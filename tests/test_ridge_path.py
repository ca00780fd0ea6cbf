import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from research.oracles.early_stopping import ridge_risk
from research.oracles.least_squares import ridge
from research.oracles.ridge_path import best_strength, path_risk

SHAPES = [(30, 6), (12, 12), (8, 20)]


def inputs(shape):
    return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_risk_is_that_of_a_simulation(shape):
    X, rng = inputs(shape), np.random.default_rng(1)
    squares = []
    for _ in range(800):
        beta = 1.5 * rng.standard_normal(shape[1]) / shape[1] ** 0.5
        y = X @ beta + 0.7 * rng.standard_normal(shape[0])
        squares.append(((ridge(X, y, 0.2) - beta) ** 2).sum())
    assert abs(np.mean(squares) - sum(path_risk(X, 0.2, 1.5, 0.7))) < 4 * np.std(squares) / 800**0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_the_risk_agrees_with_that_of_early_stopping(shape):
    X = inputs(shape)
    other = ridge_risk(X, np.eye(shape[1]), np.array([1 / 0.3]))
    risk = path_risk(X, 0.3, 2.0, 0.5)
    assert risk.variance == pytest.approx(0.25 * other.variance[0])
    assert risk.bias == pytest.approx(4 * other.even[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_best_strength_is_where_the_risk_is_least(shape):
    X, best = inputs(shape), best_strength(shape[1], shape[0], 1.5, 0.7)
    found = minimize_scalar(lambda log: sum(path_risk(X, np.exp(log), 1.5, 0.7)), bounds=(-9, 5), method="bounded",
                            options={"xatol": 1e-9})  # fmt: skip
    assert np.exp(found.x) == pytest.approx(best, rel=1e-4)


def test_its_ends():
    X = inputs((30, 6))
    assert path_risk(X, 1e12, 2.0, 0.5).bias == pytest.approx(4)
    assert path_risk(X, 1e-12, 2.0, 0.5).variance == pytest.approx(0.25 * np.trace(np.linalg.inv(X.T @ X)))


def test_not_a_number_in_is_not_a_number_out():
    assert np.isnan(path_risk(np.full((2, 2), np.nan), 1.0, 1.0, 1.0)).all()
    assert np.isnan(path_risk(np.eye(2), math.nan, 1.0, 1.0)).all()
    assert math.isnan(best_strength(3, math.nan, 1.0, 1.0))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: path_risk(np.eye(2), 0.0, 1.0, 1.0), "strength is 0; it takes"),
        (lambda: path_risk(np.eye(2), 1.0, -1.0, 1.0), "signal is -1; it takes"),
        (lambda: path_risk(np.ones(2), 1.0, 1.0, 1.0), "X has shape"),
        (lambda: best_strength(3, 4, 0.0, 1.0), "signal is 0; it takes"),
    ],
)
def test_bad_input_is_refused_by_name(call, said):
    with pytest.raises(ValueError, match=said):
        call()
