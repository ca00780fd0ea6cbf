from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from research.oracles import gradient_flow
from research.oracles.gradient_flow import LOSSES, flow_sharpness, sharpness


def problem(seed=0, samples=7, features=3, width=4, depth=2, labels=2):
    random = np.random.default_rng(seed)
    X, Y = random.normal(size=(samples, features)), np.eye(labels)[random.integers(0, labels, samples)]
    sizes = [features, *[width] * depth, labels]
    layers = [(random.uniform(-1, 1, (a, b)) / a**0.5, random.normal(size=b) / 10) for a, b in pairwise(sizes)]
    return X, Y, np.concatenate([part.ravel() for layer in layers for part in layer])


def plain_loss(X, Y, weights, width, depth, loss):
    """Written anew, layer by layer from the vector's beginning."""
    sizes, rest, outputs = [X.shape[1], *[width] * depth, Y.shape[1]], weights, X
    for number, (rows, columns) in enumerate(pairwise(sizes)):
        kernel, bias, rest = np.split(rest, [rows * columns, (rows + 1) * columns])
        outputs = outputs @ kernel.reshape(rows, columns) + bias
        outputs = np.tanh(outputs) if number < depth else outputs
    if loss == "squared_error":
        return ((outputs - Y) ** 2).sum(axis=1).mean() / 2
    return -(Y * (outputs - np.log(np.exp(outputs).sum(axis=1, keepdims=True)))).sum(axis=1).mean()


def derivative(function, at, step):
    return np.array([(function(at + step * e) - function(at - step * e)) / (2 * step) for e in np.eye(len(at))])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("depth", [1, 3])
def test_sharpness_is_that_of_the_hessian_by_differences(loss, depth):
    X, Y, weights = problem(features=2, width=3, depth=depth)
    slope = lambda at: derivative(lambda w: plain_loss(X, Y, w, 3, depth, loss), at, 1e-4)
    H = derivative(slope, weights, 1e-4)
    assert sharpness(X, Y, weights, 3, depth, loss) == pytest.approx(np.linalg.eigvalsh((H + H.T) / 2)[-1], rel=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_flow_agrees_with_another_method(loss):
    X, Y, weights = problem(1, samples=5, features=2, width=2, depth=1)
    times = np.array([0.0, 0.5, 3.0, 10.0])
    slope = lambda _, w: -derivative(lambda w: plain_loss(X, Y, w, 2, 1, loss), w, 1e-5)
    path = solve_ivp(slope, (0, 10), weights, method="LSODA", t_eval=times, rtol=1e-6, atol=1e-8).y.T
    expected = [sharpness(X, Y, each, 2, 1, loss) for each in path]
    np.testing.assert_allclose(flow_sharpness(X, Y, weights, times, 1e9, 2, 1, loss), expected, rtol=1e-3)


@pytest.mark.parametrize("size", [0.1, 10.0])
def test_at_the_origin_it_is_that_of_a_product(size):
    """f = W2 W1 (x, 1) + b2 to second order: the two kernels are coupled by C = −mean (x, 1) yᵀ, the bias has 1."""
    X, Y, weights = problem(2, depth=1)
    coupling = np.concatenate([X, np.ones((len(X), 1))], axis=1).T @ (size * Y) / len(X)
    expected = max(1.0, np.linalg.svd(coupling, compute_uv=False)[0])
    assert sharpness(X, size * Y, 1e-6 * weights, 4, 1) == pytest.approx(expected, rel=1e-4)


def test_the_flow_is_followed_until_the_budget_is_spent():
    X, Y, weights = problem(3)
    times = np.linspace(0, 20, 9)
    whole = flow_sharpness(X, Y, weights, times, 1e9, 4, 2)
    cut = flow_sharpness(X, Y, weights, times, whole[4] * times[4] * 0.99, 4, 2)
    np.testing.assert_array_equal(cut[:5], whole[:5])
    assert np.isnan(cut[5:]).all()


def test_what_is_not_certified_is_void(monkeypatch):
    X, Y, weights = problem(4)
    times = np.array([0.0, 1.0, 5.0])
    assert np.isfinite(flow_sharpness(X, Y, weights, times, 1e9, 4, 2)).all()
    right = gradient_flow._hessian_product
    monkeypatch.setattr(gradient_flow, "EVALUATIONS", 10)
    assert np.isnan(flow_sharpness(X, Y, weights, times, 1e9, 4, 2)).all()
    monkeypatch.undo()
    monkeypatch.setattr(gradient_flow, "_loss", lambda network, loss=gradient_flow._loss: 1.1 * loss(network))
    assert np.isnan(flow_sharpness(X, Y, weights, times, 1e9, 4, 2)).all()
    monkeypatch.undo()
    skew = np.random.default_rng(0).normal(size=(len(weights), len(weights)))
    monkeypatch.setattr(
        gradient_flow, "_hessian_product", lambda network, seen, along: right(network, seen, along) + skew @ along
    )
    assert np.isnan(sharpness(X, Y, weights, 4, 2))


def test_nan_gives_nan():
    times = np.array([0.0, 1.0])
    for place in range(3):
        given = [each.copy() for each in problem()]
        given[place].flat[0] = np.nan
        assert np.isnan(flow_sharpness(*given, times, 1.0, 4, 2)).all()
        assert np.isnan(sharpness(*given, 4, 2))
    assert np.isnan(flow_sharpness(*problem(), times, np.nan, 4, 2)).all()


X, Y, WEIGHTS = problem()
REFUSED = {
    "X has shape": lambda: sharpness(X[0], Y, WEIGHTS, 4, 2),
    "Y has 3 rows; it takes 7": lambda: sharpness(X, Y[:3], WEIGHTS, 4, 2),
    "weights has 5 entries; it takes 46": lambda: sharpness(X, Y, WEIGHTS[:5], 4, 2),
    "loss is 'hinge'": lambda: sharpness(X, Y, WEIGHTS, 4, 2, "hinge"),
    "depth is 0": lambda: sharpness(X, Y, WEIGHTS, 4, 0),
    "times is": lambda: flow_sharpness(X, Y, WEIGHTS, np.array([1.0, 0.5]), 1.0, 4, 2),
    "budget is -1": lambda: flow_sharpness(X, Y, WEIGHTS, np.ones(1), -1.0, 4, 2),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
