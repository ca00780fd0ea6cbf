import math

import numpy as np
import pytest
from problems import regression

from research.oracles.least_squares import minimum_l2_norm
from research.oracles.sign_interpolant import sign_curvature, sign_interpolant


def constructed(labels):
    """The features of Wilson et al. 2017, section 3.3: the label, two ones, and one or five ones of one's own."""
    X = np.zeros((len(labels), 3 + 5 * len(labels)))
    X[:, 0], X[:, 1:3] = labels, 1
    for row, label in enumerate(labels):
        X[row, 3 + 5 * row : 4 + 5 * row + 2 * (1 - int(label))] = 1
    return X, np.asarray(labels, float)


X, Y = constructed([1, 1, -1, 1, -1])


def adaptive_descent(X, y, rate, steps, kind):
    """AdaGrad, and RMSProp and Adam with long memories, from zero, the rate decaying to zero."""
    w, mean, square = (np.zeros(X.shape[1]) for _ in range(3))
    for step in range(steps):
        gradient = X.T @ (X @ w - y)
        decay = 1.0 if kind == "adagrad" else 0.999
        square = decay * square + (1 - decay if decay < 1 else 1) * gradient**2
        corrected = square if kind == "adagrad" else square / (1 - decay ** (step + 1))
        mean = 0.9 * mean + 0.1 * gradient if kind == "adam" else gradient
        direction = np.divide(mean, np.sqrt(corrected), out=np.zeros_like(mean), where=square > 0)
        w = w - rate * (1 - step / steps) * direction
    return w


@pytest.mark.parametrize(("kind", "rate"), [("adagrad", 0.05), ("rmsprop", 0.005), ("adam", 0.005)])
def test_adaptive_methods_end_there(kind, rate):
    weights = sign_interpolant(X, Y)
    np.testing.assert_allclose(X @ weights, Y, atol=1e-12)
    np.testing.assert_allclose(np.unique(np.abs(weights)), [0, 1 / 4])
    np.testing.assert_allclose(adaptive_descent(X, Y, rate, 4000, kind), weights, atol=1e-6)


def test_it_is_not_the_interpolant_of_least_norm():
    weights, smallest = sign_interpolant(X, Y), minimum_l2_norm(X, Y)
    assert np.linalg.norm(weights - smallest) > 0.1 * np.linalg.norm(smallest)
    # On a new sample of either class only the first three features are shared: the sum decides.
    assert weights[0] * np.array([1, -1]) @ [1, 1] == 0
    assert (weights[1:3].sum() + weights[0] * np.array([1, -1]) > 0).all()
    assert smallest[1:3].sum() + smallest[0] > 0 > smallest[1:3].sum() - smallest[0]


def test_off_the_ray_errors_grow_beyond_the_threshold():
    curvature, moments = sign_curvature(X, Y), X.T @ Y
    used = moments != 0
    scaled = X[:, used].T @ X[:, used] / np.abs(moments[used])[:, None]
    values, vectors = np.linalg.eig(scaled)
    assert curvature == pytest.approx(values.real.max())
    assert np.isclose(values.real, 4).any()  # the ray, since X sign(Xᵀy) = 4y
    assert curvature > 4
    error = vectors[:, values.real.argmax()].real
    for factor in (0.99, 1.01):
        after = error - factor * 2 / curvature * (scaled @ error)
        assert (np.linalg.norm(after) > np.linalg.norm(error)) == (factor > 1)
    assert math.isnan(sign_curvature(0 * X, Y))
    assert math.isnan(sign_curvature(X, Y * math.nan))


def test_scales():
    np.testing.assert_allclose(sign_interpolant(10 * X, Y), sign_interpolant(X, Y) / 10)
    np.testing.assert_allclose(sign_interpolant(X, 10 * Y), sign_interpolant(X, Y) * 10)
    np.testing.assert_allclose(sign_interpolant(X[:, ::-1], Y), sign_interpolant(X, Y)[::-1])
    np.testing.assert_allclose(sign_interpolant(np.eye(3), np.array([2.0, -2.0, 2.0])), [2, -2, 2])


def test_data_without_one_are_void():
    assert np.isnan(sign_interpolant(*regression())).all()
    assert np.isnan(sign_interpolant(X + 1e-6 * np.random.default_rng(0).normal(size=X.shape), Y)).all()
    assert np.isnan(sign_interpolant(np.eye(2), np.array([1.0, 2.0]))).all()
    assert np.isnan(sign_interpolant(0 * X, Y)).all()
    assert np.isnan(sign_interpolant(X, 0 * Y)).all()
    bad = X.copy()
    bad[0, 0] = math.nan
    assert np.isnan(sign_interpolant(bad, Y)).all()
    assert np.isnan(sign_interpolant(X, Y * math.nan)).all()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="y has 2 entries"):
        sign_interpolant(X, Y[:2])
    with pytest.raises(ValueError, match="X has an infinite"):
        sign_interpolant(np.full((5, 2), math.inf), Y)
    with pytest.raises(ValueError, match="X has shape"):
        sign_interpolant(X[0], Y)
