import math

import numpy as np
import pytest
from problems import regression
from scipy.integrate import solve_ivp
from scipy.optimize import minimize_scalar

from research.oracles import early_stopping
from research.oracles.least_squares import minimum_l2_norm, ridge

SHAPES = [(12, 5), (6, 10)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_flow_solves_its_differential_equation(shape):
    X, y = regression(1, *shape)
    times = np.array([0.0, 0.3, 2.0, 20.0])
    path = early_stopping.flow(X, y, times)
    field = lambda _, w: X.T @ (y - X @ w) / len(y)
    exact = solve_ivp(field, (0, 20), np.zeros(shape[1]), t_eval=times, rtol=1e-10, atol=1e-12, method="DOP853").y.T
    np.testing.assert_allclose(path, exact, atol=1e-8)
    np.testing.assert_allclose(early_stopping.flow(X, y, np.array([1e6]))[0], minimum_l2_norm(X, y), atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["flow", "ridge"])
def test_risks_are_those_of_the_linear_maps(shape, kind):
    X, _ = regression(2, *shape)
    signals, time = np.random.default_rng(0).normal(size=(3, shape[1])), 1.7
    solve = (
        (lambda y: early_stopping.flow(X, y, np.array([time]))[0])
        if kind == "flow"
        else (lambda y: ridge(X, y, 1 / time))
    )
    smoother = np.array([solve(unit) for unit in np.eye(shape[0])]).T
    missing = smoother @ X - np.eye(shape[1])
    answer = getattr(early_stopping, f"{kind}_risk")(X, signals, np.array([time]))
    assert answer.variance[0] == pytest.approx((smoother**2).sum())
    assert answer.even[0] == pytest.approx((missing**2).sum() / shape[1])
    np.testing.assert_allclose(answer.bias[0], ((missing @ signals.T) ** 2).sum(axis=0))


def test_risks_at_both_ends_of_the_path():
    X, _ = regression(3, 12, 5)
    signals = np.eye(5)[:2]
    for risk in (early_stopping.flow_risk, early_stopping.ridge_risk):
        start, end = (risk(X, signals, np.array([time])) for time in (0.0, 1e9))
        assert start.variance[0] == 0
        assert start.even[0] == pytest.approx(1)
        np.testing.assert_allclose(start.bias[0], 1)
        assert end.variance[0] == pytest.approx(np.trace(np.linalg.inv(X.T @ X)))
        np.testing.assert_allclose(end.bias[0], 0, atol=1e-12)


def test_the_constants_of_the_paper():
    path, tuned = early_stopping.path_constant(), early_stopping.tuned_constant()
    assert 1.6858 < path <= 1.6862  # the bounds that the paper prints
    assert 1.2146 < tuned <= 1.2147
    x = np.geomspace(1e-3, 1e3, 100_000)
    assert path >= (((1 - np.exp(-x)) * (1 + x) / x) ** 2).max()
    assert tuned >= ((1 + x) * (np.exp(-2 * x) + (1 - np.exp(-x)) ** 2 / x)).max()
    # The derivative of the first ratio vanishes at the root of (1 + x) x exp(−x) = 1 − exp(−x), x = 1.7933.
    root = minimize_scalar(lambda x: abs((1 + x) * x * np.exp(-x) - 1 + np.exp(-x)), bounds=(1, 3), method="bounded").x
    assert path == pytest.approx(((1 - math.exp(-root)) * (1 + root) / root) ** 2, abs=1e-9)


def test_the_best_calibration_levels_two_maxima():
    c = early_stopping.best_calibration()
    assert 0.456 < c < 0.458
    assert 1.0785 < early_stopping.tuned_constant(c) < 1.0786
    assert early_stopping.tuned_constant(0.3) > early_stopping.tuned_constant(c) < early_stopping.tuned_constant(0.6)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_risk_ratio_exceeds_its_constant(shape):
    X, _ = regression(4, *shape)
    times, signals = np.geomspace(1e-2, 1e3, 300), np.eye(shape[1])
    gradient_flow, penalized = (
        risk(X, signals, times) for risk in (early_stopping.flow_risk, early_stopping.ridge_risk)
    )
    assert (gradient_flow.variance / penalized.variance).max() <= early_stopping.path_constant()
    assert (gradient_flow.bias <= penalized.bias * (1 + 1e-12)).all()
    for best in (0.1, 1.0, 10.0):
        noise = shape[0] / shape[1] / best  # its square: the best strength is σ² p / (n r²) = 1/best
        risk = penalized.even + noise * penalized.variance
        least = early_stopping.ridge_risk(X, signals, np.array([best]))
        assert least.even + noise * least.variance == pytest.approx(risk.min(), rel=1e-3)
        for c in (1.0, 0.4571):
            stopped = early_stopping.flow_risk(X, signals, np.array([c * best]))
            ratio = (stopped.even + noise * stopped.variance) / (least.even + noise * least.variance)
            assert 1 <= ratio <= early_stopping.tuned_constant(c)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_least_risk_of_ridge(shape):
    X, _ = regression(5, *shape)
    signal = np.random.default_rng(1).normal(size=shape[1])
    times = np.geomspace(1e-6, 1e8, 20_000)
    answer = early_stopping.ridge_risk(X, signal[None], times)
    for noise in (0.1, 1.0, 10.0):
        risk = answer.bias[:, 0] + noise**2 * answer.variance
        assert early_stopping.least_ridge_risk(X, signal, noise) == pytest.approx(risk.min(), rel=1e-5)
        assert early_stopping.least_ridge_risk(X, signal, noise) <= risk.min() * (1 + 1e-12)
    assert early_stopping.least_ridge_risk(X, signal, 1e6) == pytest.approx(signal @ signal, rel=1e-6)
    assert early_stopping.least_ridge_risk(X * 0, signal, 1.0) == pytest.approx(signal @ signal)
    assert early_stopping.least_ridge_risk(X, 0 * signal, 1.0) == 0


def test_nan_in_gives_nan_out():
    X, y = regression(6, 4, 3)
    bad, times, signals = X.copy(), np.ones(2), np.eye(3)
    bad[0, 0] = math.nan
    assert np.isnan(early_stopping.flow(bad, y, times)).all()
    assert np.isnan(early_stopping.flow(X, y * math.nan, times)).all()
    for risk in (early_stopping.flow_risk, early_stopping.ridge_risk):
        assert all(np.isnan(part).all() for part in risk(bad, signals, times))
    assert math.isnan(early_stopping.least_ridge_risk(bad, signals[0], 1.0))
    assert math.isnan(early_stopping.least_ridge_risk(X, signals[0], math.nan))
    assert math.isnan(early_stopping.tuned_constant(math.nan))


X, Y = regression(7, 4, 3)
REFUSED = {
    "y has 3 entries": lambda: early_stopping.flow(X, Y[:3], np.ones(1)),
    "times has the entry -1": lambda: early_stopping.flow_risk(X, np.eye(3), np.array([-1.0])),
    "signals has 2 columns": lambda: early_stopping.ridge_risk(X, np.eye(2), np.ones(1)),
    "X has an infinite": lambda: early_stopping.flow(X * math.inf, Y, np.ones(1)),
    "signal has 2 entries": lambda: early_stopping.least_ridge_risk(X, np.ones(2), 1.0),
    "noise is -1": lambda: early_stopping.least_ridge_risk(X, np.ones(3), -1.0),
    "calibration is 0": lambda: early_stopping.tuned_constant(0.0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
