import numpy as np
import pytest

from research.oracles import variation_norm as oracle
from research.oracles.margin import maximum_margin


def data(seed=0, samples=8):
    random = np.random.default_rng(seed)
    X = np.column_stack([np.ones(samples), random.uniform(-0.5, 0.5, (samples, 2))])
    return X, np.where(np.arange(samples) % 2, 1.0, -1.0)


def sphere(count, seed=0):
    places = np.random.default_rng(seed).normal(size=(count, 3))
    return places / np.linalg.norm(places, axis=1, keepdims=True)


@pytest.mark.parametrize("samples", [1, 2, 3, 8])
def test_the_bound_is_the_largest_value_on_the_sphere(samples):
    X, _ = data(1, samples)
    weights = np.random.default_rng(2).normal(size=samples)
    bound = oracle.variation_bound(X, weights)
    seen = np.abs(np.maximum(sphere(200_000) @ X.T, 0) @ weights).max()
    # the function has slope Σ|weights||x| at most, and the nearest of the random directions is within 0.02
    assert seen <= bound <= seen + 0.02 * np.abs(weights) @ np.linalg.norm(X, axis=1)
    assert oracle.variation_bound(-3 * X, weights) == pytest.approx(3 * bound)


def test_one_sample_and_opposite_samples():
    x = np.array([[1.0, 2.0, 2.0]])
    assert oracle.variation_margin(x, np.ones(1)) == pytest.approx((3.0, 3.0))
    assert oracle.kernel_margin(x, np.ones(1)) == pytest.approx(3 / 2**0.5)
    # half of the norm on each of two units that do not see the other sample
    both = oracle.variation_margin(np.concatenate([x, -x]), np.array([1.0, -1.0]))
    assert both == pytest.approx((1.5, 1.5))


def test_the_bracket_is_tight_and_the_classifier_has_the_margin():
    X, y = data()
    lower, upper = oracle.variation_margin(X, y)
    assert 0 < lower <= upper <= lower * (1 + 1e-6)
    assert (y * oracle.variation_classifier(X, y, X)).min() == pytest.approx(lower, rel=1e-9)
    assert oracle.variation_margin(5 * X, y).lower == pytest.approx(5 * lower, rel=2e-6)
    assert oracle.variation_margin(X, -y).lower == pytest.approx(lower, rel=2e-6)


def test_no_network_on_a_grid_has_a_larger_margin_and_a_fine_one_comes_near():
    from scipy.optimize import linprog

    X, y = data()
    directions = sphere(1500, 3)
    outputs = y[:, None] * np.maximum(X @ directions.T, 0)
    rows = np.block([[-outputs, outputs, np.ones((len(X), 1))], [np.ones((1, 3000)), np.zeros((1, 1))]])
    bounds = np.append(np.zeros(len(X)), 1.0)
    found = -linprog(np.append(np.zeros(3000), -1.0), A_ub=rows, b_ub=bounds, method="highs").fun
    assert 0.9 * oracle.variation_margin(X, y).lower < found <= oracle.variation_margin(X, y).upper


def test_the_kernel_margin_is_the_limit_of_many_features():
    X, y = data()
    hidden = np.random.default_rng(4).normal(size=(20_000, 3))
    several = [oracle.feature_margin(X, y, part) for part in hidden.reshape(10, 2000, 3)]
    exact = oracle.kernel_margin(X, y)
    assert abs(np.mean(several) - exact) < 5 * np.std(several) / 10**0.5 + 0.02 * exact
    features = np.maximum(X @ hidden[:50].T, 0) / 50**0.5
    readout = maximum_margin(features, y, 2)
    least = (y * (features @ readout)).min() / np.linalg.norm(readout)
    assert oracle.feature_margin(X, y, hidden[:50]) == pytest.approx(least)


def test_the_kernel_classifier_has_norm_one_and_the_margin():
    X, y = data()
    outputs = oracle.kernel_classifier(X, y, X)
    assert (y * outputs).min() == pytest.approx(oracle.kernel_margin(X, y))
    assert outputs @ np.linalg.solve(oracle.hidden_kernel(X, X), outputs) == pytest.approx(1)
    by_sampling = np.maximum(X @ np.random.default_rng(5).normal(size=(3, 200_000)), 0)
    np.testing.assert_allclose(oracle.hidden_kernel(X, X), by_sampling @ by_sampling.T / 200_000, rtol=0.03, atol=0.01)


def test_what_cannot_be_separated_is_void():
    X, y = data()
    same, labels = np.concatenate([X, X[:1]]), np.append(y, -y[0])
    assert np.isnan(oracle.variation_margin(same, labels)).all()
    assert np.isnan(oracle.variation_classifier(same, labels, X)).all()


def test_a_loose_bracket_is_not_certified(monkeypatch):
    right = oracle._extremes
    monkeypatch.setattr(oracle, "_extremes", lambda X, weights: (right(X, weights)[0], 1.01 * right(X, weights)[1]))
    assert np.isnan(oracle.variation_margin(*data())).all()


def test_nan_gives_nan():
    X, y = data()
    for bad, labels in ((X * np.nan, y), (X, y * np.nan)):
        assert np.isnan(oracle.variation_margin(bad, labels)).all()
        assert np.isnan(oracle.kernel_margin(bad, labels))
        assert np.isnan(oracle.kernel_classifier(bad, labels, X)).all()
        assert np.isnan(oracle.feature_margin(bad, labels, X))
    assert np.isnan(oracle.feature_margin(X, y, X * np.nan))


REFUSED = {
    "X has rows of 2": lambda X, y: oracle.variation_margin(X[:, :2], y),
    "X has a row of zeros": lambda X, y: oracle.variation_margin(0 * X, y),
    "y has the label 2": lambda X, y: oracle.variation_margin(X, 2 * np.abs(y)),
    "samples has rows of 2": lambda X, y: oracle.variation_bound(X[:, :2], y),
    "points has rows of 2": lambda X, y: oracle.hidden_kernel(X, X[:, :2]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message](*data())
