import itertools
import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from research.oracles import balancedness as oracle


def problem(seed=0, samples=12, size=4, depth=3):
    random = np.random.default_rng(seed)
    X = random.normal(size=(samples, size))
    return X, X @ random.normal(size=(size, size)), random.normal(size=(depth, size, size)) / size**0.5


def balance(layers):
    return np.stack([below.T @ below - above @ above.T for above, below in itertools.pairwise(layers)])


def test_gradients_are_finite_differences():
    X, y, layers = problem()
    direction = np.random.default_rng(1).normal(size=layers.shape)
    ahead, behind = (oracle.loss(X, y, layers + step * direction) for step in (1e-5, -1e-5))
    slope = (oracle.gradients(X, y, layers) * direction).sum()
    assert (ahead - behind) / 2e-5 == pytest.approx(slope, rel=1e-7)
    product = np.linalg.multi_dot(layers[::-1])
    assert oracle.loss(X, y, layers) == pytest.approx(((X @ product.T - y) ** 2).sum() / 24)


@pytest.mark.parametrize("depth", [2, 3])
def test_flow_keeps_the_balance_and_descent_drifts_by_the_integral(depth):
    X, y, layers = problem(2, depth=depth)
    predicted, found = oracle.balance_drift(X, y, layers, 1.0), []
    for rate in (1e-3, 5e-4):
        W = layers
        for _ in range(round(1 / rate)):
            W = W - rate * oracle.gradients(X, y, W)
        found.append((balance(W) - balance(layers)) / rate)
    np.testing.assert_allclose(2 * found[1] - found[0], predicted, atol=2e-3 * np.abs(predicted).max())


def test_integral_agrees_with_an_implicit_solver():
    X, y, layers = problem(3)
    flow = lambda t, flat: -oracle.gradients(X, y, flat.reshape(layers.shape)).ravel()
    times = np.linspace(0, 0.8, 401)
    path = solve_ivp(flow, (0, 0.8), layers.ravel(), method="LSODA", t_eval=times, rtol=1e-10, atol=1e-12)
    rates = []
    for flat in path.y.T:
        G = oracle.gradients(X, y, flat.reshape(layers.shape))
        rates.append(balance(G))
    from scipy.integrate import simpson

    expected = simpson(np.array(rates), x=times, axis=0)
    np.testing.assert_allclose(oracle.balance_drift(X, y, layers, 0.8), expected, atol=1e-6 * np.abs(expected).max())
    assert not oracle.balance_drift(X, y, layers, 0.0).any()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_drift_factor_is_that_of_descent_in_plain_numpy(momentum, nesterov):
    X, y, layers = problem(4)
    predicted, found = oracle.balance_drift(X, y, layers, 1.0), []
    for rate in (2e-3, 1e-3):
        W, speed = layers, np.zeros_like(layers)
        for _ in range(round(1 / rate)):
            G = oracle.gradients(X, y, W)
            speed = G + momentum * speed
            W = W - (1 - momentum) * rate * (G + momentum * speed if nesterov else speed)
        found.append(np.linalg.norm(balance(W) - balance(layers)) / np.linalg.norm(predicted) / rate)
    assert 2 * found[1] - found[0] == pytest.approx(oracle.drift_factor(momentum, nesterov), rel=0.02)


def test_a_flow_that_is_not_integrated_well_is_void(monkeypatch):
    X, y, layers = problem(5)
    careless = lambda *a, **k: solve_ivp(*a, **{**k, "rtol": 1e-2, "atol": 1e-2})
    monkeypatch.setattr("scipy.integrate.solve_ivp", careless)
    assert np.isnan(oracle.balance_drift(X, y, layers, 1.0)).all()


def test_bad_input_is_named_and_nan_gives_nan():
    X, y, layers = problem(6)
    for message, arguments in {
        "layers has shape": (X, y, layers[:1], 1.0),
        "layers has shape \\(3, 4, 3\\)": (X, y, layers[:, :, :3], 1.0),
        "X and y have shapes": (X[:5], y, layers, 1.0),
        "time is -1": (X, y, layers, -1.0),
        "X has an infinite": (np.full((12, 4), np.inf), y, layers, 1.0),
    }.items():
        with pytest.raises(ValueError, match=message):
            oracle.balance_drift(*arguments)
    with pytest.raises(ValueError, match="momentum is 1"):
        oracle.drift_factor(1.0)
    nan = layers.copy()
    nan[0, 0, 0] = math.nan
    assert np.isnan(oracle.balance_drift(X, y, nan, 1.0)).all()
    assert np.isnan(oracle.balance_drift(X, y, layers, math.nan)).all()
