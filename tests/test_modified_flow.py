import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from research.oracles import modified_flow as oracle

ACTIVATIONS = ["identity", "tanh", "relu"]


def problem(seed=0, samples=8, features=3, width=4):
    random = np.random.default_rng(seed)
    X = random.normal(size=(samples, features))
    return X, random.normal(size=samples), random.normal(size=width * (features + 1))


def difference(function, weights, direction, step=1e-5):
    return (function(weights + step * direction) - function(weights - step * direction)) / (2 * step)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_derivatives_are_finite_differences(activation, seed):
    X, y, weights = problem(seed)
    direction = np.random.default_rng(seed + 1).normal(size=len(weights))
    sums = X @ weights[: 3 * 4].reshape(3, 4)
    slope = oracle.gradient(X, y, weights, activation)
    if activation == "relu" and np.abs(sums).min() < 1e-2:
        return  # a difference across a kink is no derivative
    loss = lambda w: oracle.loss(X, y, w, activation)
    assert difference(loss, weights, direction) == pytest.approx(slope @ direction, rel=1e-6, abs=1e-7)
    curved = difference(lambda w: oracle.gradient(X, y, w, activation), weights, slope)
    size = 1e-5 * (1 + np.abs(curved).max())
    np.testing.assert_allclose(oracle.half_gradient_of_square(X, y, weights, activation), curved, atol=size)


def test_plain_flow_agrees_with_an_implicit_solver_on_a_loss_written_out():
    X, y, weights = problem(1)
    times = np.array([0.0, 0.3, 2.0])
    (path,) = oracle.modified_flow(X, y, weights, times, 0.1, 0.0, np.zeros(1))

    def loss(w):
        return ((np.tanh(X @ w[:12].reshape(3, 4)) @ w[12:] - y) ** 2).mean() / 2

    field = lambda t, w: -np.array([difference(loss, w, unit, 1e-4) for unit in np.eye(16)])
    other = solve_ivp(field, (0, 2), weights, method="LSODA", t_eval=times, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(path, other.y.T, atol=1e-6)
    np.testing.assert_array_equal(path[0], weights)


def test_flow_of_one_linear_unit_is_known():
    # x = 1, y = 0: U and v obey a' = −a b², b' = −a² b; from a = b, a² = a0²/(1 + 2 a0² t).
    times = np.array([3.0, 0.0, 0.5, 0.5])
    (path,) = oracle.modified_flow(np.ones((1, 1)), np.zeros(1), np.ones(2), times, 1.0, 0.0, np.zeros(1), "identity")
    np.testing.assert_allclose(path**2, np.tile(1 / (1 + 2 * times[:, None]), 2), rtol=1e-10)
    # with ‖∇L‖² = 2 a⁶ the penalty c·h adds a' = −6 c h a⁵ on the diagonal
    (path,) = oracle.modified_flow(np.ones((1, 1)), np.zeros(1), np.ones(2), times, 0.5, 0.0, np.ones(1), "identity")
    exact = solve_ivp(lambda t, a: -(a**3) - 3.0 * a**5, (0, 3), [1.0], method="Radau", rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(path[0], np.tile(exact.y[:, -1], 2), rtol=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_descent_in_plain_numpy_is_followed_to_second_order_by_a_quarter_only(momentum):
    X, y, weights = problem(2)
    coefficients, gaps = np.array([0.0, 0.25, 0.5]), []
    for h in (0.02, 0.01):
        w, before = weights, weights
        for _ in range(round(1 / h)):
            w, before = w - (1 - momentum) * h * oracle.gradient(X, y, w) + momentum * (w - before), w
        path = oracle.modified_flow(X, y, weights, np.ones(1), h, momentum, coefficients)[:, 0]
        unmoved = oracle.modified_flow(X, y, weights, np.ones(1), h, momentum, coefficients, displaced=False)[:, 0]
        gaps.append(np.linalg.norm(np.concatenate([path, unmoved]) - w, axis=1))
    orders = np.log2(gaps[0] / gaps[1])
    np.testing.assert_allclose(orders[:3], [1, 2, 1], atol=0.2)
    assert orders[4] == pytest.approx(2 if momentum == 0 else 1, abs=0.2)


def test_a_flow_that_is_not_integrated_well_is_void(monkeypatch):
    X, y, weights = problem(3)
    careless = lambda *a, **k: solve_ivp(*a, **{**k, "rtol": 1e-3, "atol": 1e-3})
    monkeypatch.setattr("scipy.integrate.solve_ivp", careless)
    path = oracle.modified_flow(X, y, weights, np.array([2.0]), 0.1, 0.0, np.array([0.0, 0.25]))
    assert np.isnan(path).all()


def test_a_flow_along_a_kink_is_void():
    # The unit says |u| v on both samples, and their target is −1: u is driven to zero from either side.
    X, y = np.array([[1.0], [-1.0]]), -np.ones(2)
    for u in (0.5, -0.5):
        flow = lambda last, u=u: oracle.modified_flow(X, y, np.array([u, 1.0]), last, 0.1, 0.0, np.zeros(1), "relu")
        assert np.isfinite(flow(np.array([0.1]))).all()
        assert np.isnan(flow(np.array([0.1, 5.0]))).all()


def test_bad_input_is_named_and_nan_gives_nan():
    X, y, weights = problem(4)
    flow = lambda **changed: oracle.modified_flow(
        **{
            "X": X,
            "y": y,
            "initial": weights,
            "times": np.ones(2),
            "learning_rate": 0.1,
            "momentum": 0.0,
            "coefficients": np.ones(1),
            **changed,
        }
    )
    for message, changed in {
        "y has 2 entries": {"y": y[:2]},
        "weights has 15 entries": {"initial": weights[:15]},
        "learning_rate is 0": {"learning_rate": 0.0},
        "learning_rate is -1": {"learning_rate": -1.0},
        "momentum is 1": {"momentum": 1.0},
        "least of times -1": {"times": -np.ones(2)},
        "activation is 'swish'": {"activation": "swish"},
        "coefficients has shape": {"coefficients": 0.25},
        "X has an infinite": {"X": np.full((8, 3), np.inf)},
    }.items():
        with pytest.raises(ValueError, match=message):
            flow(**changed)
    nan = weights.copy()
    nan[3] = math.nan
    for changed in ({"initial": nan}, {"times": np.array([1.0, math.nan])}, {"learning_rate": math.nan}):
        assert np.isnan(flow(**changed)).all()
        assert flow(**changed).shape == (1, 2, 16)
