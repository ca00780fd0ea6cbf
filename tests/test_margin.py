import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import classification, overlapping
from scipy.integrate import solve_ivp

from research.oracles import margin

DUAL = {1: np.inf, 2: 2, np.inf: 1}
ORDERS = [1, 2, np.inf]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(12, 6), (10, 30)])
def test_maximum_margin_agrees_with_a_cone_program(order, shape):
    import cvxpy

    X, y = classification(20, *shape)
    weights = margin.maximum_margin(X, y, order)
    assert (y * (X @ weights)).min() == pytest.approx(1, abs=1e-9)
    variable = cvxpy.Variable(shape[1])
    program = cvxpy.Problem(cvxpy.Minimize(cvxpy.norm(variable, order)), [cvxpy.multiply(y, X @ variable) >= 1])
    program.solve(solver=cvxpy.CLARABEL)
    np.testing.assert_allclose(weights, variable.value, atol=1e-5 * np.abs(weights).max())
    assert margin.margin(X, y, weights, order) == pytest.approx(1 / program.value, rel=1e-6)
    for other in set(ORDERS) - {order}:
        assert margin.margin(X, y, margin.maximum_margin(X, y, other), order) < margin.margin(X, y, weights, order)


def test_support_multipliers_meet_the_kkt_conditions():
    X, y = classification(21, 40, 10)
    weights, alpha = margin.maximum_margin(X, y, 2), margin.support_multipliers(X, y)
    np.testing.assert_allclose((alpha * y) @ X, weights, rtol=1e-9)
    assert alpha.min() == 0
    np.testing.assert_allclose(alpha * (y * (X @ weights) - 1), 0, atol=1e-8 * alpha.max())
    assert alpha.sum() == pytest.approx(weights @ weights)


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=8, deadline=None)
@given(exponent=st.integers(-8, 8))
def test_maximum_margin_is_scale_equivariant(order, exponent):
    X, y = classification(22, 8, 5)
    scaled = margin.maximum_margin(10.0**exponent * X, y, order)
    np.testing.assert_allclose(10.0**exponent * scaled, margin.maximum_margin(X, y, order), rtol=1e-6, atol=1e-9)


def test_a_thin_margin_is_still_certified():
    X = np.array([[1.0, 1e-4], [-1.0, 1e-4]])
    np.testing.assert_allclose(margin.maximum_margin(X, np.ones(2), 2), [0, 1e4], atol=1e-6)


def test_data_without_a_separator():
    X, y = overlapping()
    assert not margin.separable(X, y)
    for order in ORDERS:
        assert np.isnan(margin.maximum_margin(X, y, order)).all()
    assert np.isnan(margin.support_multipliers(X, y)).all()
    assert math.isnan(margin.margin_gap_slope(X, y))
    assert margin.separable(*classification())
    # Separable with a threshold, not through the origin.
    assert not margin.separable(np.array([[1.0], [2.0]]), np.array([-1.0, 1.0]))
    assert not margin.separable(np.zeros((2, 1)), np.ones(2))


def gradient_flow_slope(X, y, first, last):
    """Integrate the flow of the logistic loss in s = ln t and regress 1/gap on s."""
    Z, best = X * y[:, None], 1 / np.linalg.norm(margin.maximum_margin(X, y, 2))
    flow = lambda s, w: Z.T @ np.exp(s - np.logaddexp(0, Z @ w)) / len(Z)
    times = np.linspace(first, last, 12)
    path = solve_ivp(flow, (0, last), np.ones(X.shape[1]), method="LSODA", t_eval=times, rtol=1e-8, atol=1e-9)
    gaps = [1 - margin.margin(X, y, w, 2) / best for w in path.y.T]
    return np.polyfit(times, 1 / np.array(gaps), 1)[0]


@pytest.mark.parametrize("seed", range(4))
def test_margin_gap_slope_is_that_of_the_gradient_flow(seed):
    X, y = classification(seed)
    assert margin.margin_gap_slope(X, y) == pytest.approx(gradient_flow_slope(X, y, 500, 2000), rel=1e-3)


def test_margin_gap_slope_with_copies_of_a_sample():
    X, y = classification(3)
    heavy = np.argmax(margin.support_multipliers(X, y))
    X, y = np.vstack([X, X[[heavy]]]), np.append(y, y[heavy])
    alpha = margin.support_multipliers(X, y)
    assert alpha[heavy] == pytest.approx(alpha[-1])
    np.testing.assert_allclose((alpha * y) @ X, margin.maximum_margin(X, y, 2), rtol=1e-8)
    assert margin.margin_gap_slope(X, y) == pytest.approx(gradient_flow_slope(X, y, 500, 2000), rel=1e-3)


def test_margin_gap_slope_of_the_symmetric_toy_is_infinite():
    X = np.array([[0.5, 1.5], [1.5, 0.5], [-0.5, -1.5], [-1.5, -0.5]])
    y = np.array([1.0, 1.0, -1.0, -1.0])
    np.testing.assert_allclose(margin.support_multipliers(X, y), 1 / 8)
    assert margin.margin_gap_slope(X, y) == math.inf


def test_a_sample_on_the_margin_without_a_multiplier_is_void():
    X = np.array([[0.0, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(margin.maximum_margin(X, np.ones(2), 2), [0, 1], atol=1e-12)
    assert np.isnan(margin.support_multipliers(X, np.ones(2))).all()


def test_margin_of_weights_zero_or_diverged_is_nan():
    X, y = classification()
    for bad in (0.0, np.nan, np.inf):
        assert math.isnan(margin.margin(X, y, np.full(6, bad), 2))
    assert margin.margin(X, y, np.full(6, 1e300), 2) == pytest.approx(margin.margin(X, y, np.ones(6), 2))


@pytest.mark.parametrize("weight_decay", [0.0, 1e-3, 1.0])
def test_logistic_optimum_agrees_with_scikit_learn(weight_decay):
    from sklearn.linear_model import LogisticRegression

    X, y = overlapping()
    weights = margin.logistic_optimum(X, y, weight_decay)
    gradient = weight_decay * weights - (y / (1 + np.exp(y * (X @ weights)))) @ X / len(y)
    np.testing.assert_allclose(gradient, 0, atol=1e-14)
    strength = 1 / (weight_decay * len(y)) if weight_decay else np.inf
    model = LogisticRegression(C=strength, fit_intercept=False, tol=1e-12, max_iter=10_000).fit(X, y)
    np.testing.assert_allclose(weights, model.coef_[0], rtol=1e-5)


def test_logistic_optimum_of_separable_data_turns_to_the_maximum_margin():
    X, y = classification(23)
    assert np.isnan(margin.logistic_optimum(X, y, 0.0)).all()
    target = margin.maximum_margin(X, y, 2)
    gaps = []
    for weight_decay in (1e-4, 1e-8, 1e-12):
        weights = margin.logistic_optimum(X, y, weight_decay)
        gaps.append(1 - margin.margin(X, y, weights, 2) * np.linalg.norm(target))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.03


def test_logistic_optimum_without_a_finite_minimiser_or_with_many():
    # One direction is separated, the other overlaps: the infimum is not attained, though no w has all margins > 0.
    X, y = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.array([1.0, 1.0, 1.0, -1.0])
    assert not margin.separable(X, y)
    assert np.isnan(margin.logistic_optimum(X, y, 0.0)).all()
    assert np.isfinite(margin.logistic_optimum(X, y, 0.01)).all()
    X, y = overlapping()
    twice = margin.logistic_optimum(np.hstack([X, X]), y, 0.0)
    np.testing.assert_allclose(twice, np.tile(margin.logistic_optimum(X, y, 0.0) / 2, 2), rtol=1e-8)
    assert not margin.logistic_optimum(0 * X, y, 0.0).any()


def test_broken_margins_fail_their_certificates():
    X, y = classification(24, 8, 20)
    weights, alpha = margin.maximum_margin(X, y, 2), margin.support_multipliers(X, y)
    assert margin.duality_gap(X, y, weights, alpha, 2) < 1e-12
    rival = margin.maximum_margin(X, y, 1)
    assert margin.duality_gap(X, y, rival, alpha, 2) > 1e-3
    assert margin.duality_gap(X, y, weights, alpha, 1) > 1e-3
    assert margin.duality_gap(X, y, weights, np.roll(alpha, 1), 2) > 1e-3
    assert margin.duality_gap(X, y, weights, -alpha, 2) == math.inf
    assert margin.duality_gap(X, y, 2 * weights, alpha, 2) == math.inf
    assert margin.newton_distance(X, y, margin.logistic_optimum(X, y, 0.1), 0.11) > 1e-3
    assert margin.newton_distance(X, y, np.full(20, np.nan), 0.1) == math.inf


@pytest.mark.parametrize("order", ORDERS)
def test_a_separator_that_is_not_the_best_is_void(monkeypatch, order):
    X, y = classification(24, 8, 20)
    for solver in ("_linear_program", "_least_distance"):
        exact = getattr(margin, solver)

        def careless(*problem, exact=exact):
            weights, multipliers = exact(*problem)
            return weights * (1 + 1e-3 * np.arange(20)), multipliers

        monkeypatch.setattr(margin, solver, careless)
    assert np.isnan(margin.maximum_margin(X, y, order)).all()
