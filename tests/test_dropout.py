import itertools
import math

import numpy as np
import pytest
from problems import overlapping, regression
from scipy.optimize import minimize

from research.oracles import dropout
from research.oracles.margin import logistic_optimum


def mean_over_masks(loss, features, keep):
    """The expectation of loss(mask/keep), every mask written out."""
    total = 0.0
    for mask in itertools.product((0.0, 1.0), repeat=features):
        share = math.prod(keep if kept else 1 - keep for kept in mask)
        total += share * loss(np.array(mask) / keep)
    return total


@pytest.mark.parametrize("keep", [0.3, 0.8, 1.0])
def test_dropout_ridge_minimises_the_mean_over_the_masks(keep):
    X, y = regression(1, 9, 5)
    objective = lambda w: mean_over_masks(lambda m: ((X @ (m * w) - y) ** 2).mean() / 2, 5, keep)
    weights = dropout.dropout_ridge(X, y, keep)
    np.testing.assert_allclose(weights, minimize(objective, np.zeros(5), method="BFGS", tol=1e-10).x, atol=1e-6)


def test_dropout_shrinks_every_orthogonal_feature_alike():
    X, y = regression(2, 12, 4)
    X = np.linalg.qr(X)[0] * np.array([1.0, 0.1, 10.0, 3.0])
    least_squares = np.linalg.lstsq(X, y, rcond=None)[0]
    np.testing.assert_allclose(dropout.dropout_ridge(X, y, 0.7), 0.7 * least_squares)
    np.testing.assert_allclose(dropout.dropout_ridge(X, y, 1.0), least_squares)


@pytest.mark.parametrize("keep", [0.4, 0.9])
def test_dropout_logistic_minimises_the_mean_over_the_masks(keep):
    X, y = overlapping(3, 30, 4)
    objective = lambda w: mean_over_masks(lambda m: np.logaddexp(0, -y * (X @ (m * w))).mean(), 4, keep)
    weights = dropout.dropout_logistic(X, y, keep)
    np.testing.assert_allclose(weights, minimize(objective, np.zeros(4), method="BFGS", tol=1e-9).x, atol=1e-5)


@pytest.mark.parametrize("keep", [0.6, 0.95])
def test_the_quadratic_approximation_is_minimised(keep):
    X, y = overlapping(4, 60, 4)

    def objective(w):
        s = 1 / (1 + np.exp(-X @ w))
        penalty = (1 - keep) / keep / 2 * (s * (1 - s) * (X**2 @ w**2)).mean()
        return np.logaddexp(0, -y * (X @ w)).mean() + penalty

    weights = dropout.quadratic_dropout_logistic(X, y, keep)
    found = minimize(objective, weights + 0.1, method="BFGS", tol=1e-9)
    np.testing.assert_allclose(weights, found.x, atol=1e-5)


def test_the_two_agree_without_dropout_and_for_small_weights():
    X, y = overlapping(5, 40, 3)
    for oracle in (dropout.dropout_logistic, dropout.quadratic_dropout_logistic):
        np.testing.assert_allclose(oracle(X, y, 1.0), logistic_optimum(X, y, 0.0), rtol=1e-8)
    # Copies with the other label on all but a few samples make the weights, and with them what is neglected, small.
    X, y = np.vstack([X, X, X]), np.concatenate([y, np.ones(40), -np.ones(40)])
    exact, close = (oracle(X, y, 0.7) for oracle in (dropout.dropout_logistic, dropout.quadratic_dropout_logistic))
    far = logistic_optimum(X, y, 0.0)
    assert np.linalg.norm(close - exact) < 0.1 * np.linalg.norm(far - exact)


def test_separable_data_have_no_minimiser_without_dropout():
    X = np.array([[1.0, 0.2], [2.0, -0.1], [-1.0, 0.3]])
    y = np.array([1.0, 1.0, -1.0])
    assert np.isnan(dropout.dropout_logistic(X, y, 1.0)).all()


def test_the_error_of_the_mean_is_that_of_a_long_descent():
    X, y = regression(6, 20, 3)
    keep, rate, masks, runs = 0.6, 0.02, 8000, 400
    random = np.random.default_rng(0)
    exact = dropout.dropout_ridge(X, y, keep)
    weights, mean = np.tile(exact, (runs, 1)), np.zeros((runs, 3))
    for step in range(masks):
        M = (random.random((runs, 3)) < keep) / keep
        weights = weights - rate * M * (((M * weights) @ X.T - y) @ X) / len(y)
        mean += (weights - mean) / (step + 1)
    measured = ((mean - exact) ** 2).mean(axis=0) * masks
    np.testing.assert_allclose(measured, dropout.averaged_error(X, y, keep), rtol=0.3)


@pytest.mark.parametrize(("keep", "width"), [(0.5, 5), (0.5, 12), (0.2, 5), (0.9, 3), (1.0, 4)])
def test_dropout_of_hidden_units_minimises_the_mean_over_the_masks(keep, width):
    target = np.array([2.0, 0.3, 1.4, 1.0])
    sizes = dropout.dropout_singular_values(target, keep, width)
    M = np.diag(target)

    def objective(flat):
        U, V = flat.reshape(2, 4, width)
        spread = ((U**2).sum(axis=0) * (V**2).sum(axis=0)).sum()
        left = U @ V.T - M
        common = (1 - keep) / keep
        slopes = left @ V + common * U * (V**2).sum(axis=0), left.T @ U + common * V * (U**2).sum(axis=0)
        return (left**2).sum() / 2 + common / 2 * spread, np.concatenate([slope.ravel() for slope in slopes])

    starts = np.random.default_rng(0).normal(size=(3, 8 * width))
    found = [minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000}) for start in starts]
    U, V = min(found, key=lambda one: one.fun).x.reshape(2, 4, width)
    np.testing.assert_allclose(U @ V.T, np.diag(sizes), atol=2e-3)
    if keep < 1:
        products = np.linalg.norm(U, axis=0) * np.linalg.norm(V, axis=0)
        np.testing.assert_allclose(products, sizes.sum() / width, rtol=0.02)
    if width == 5:
        flat = np.concatenate([U.ravel(), V.ravel()])
        loss = mean_over_masks(lambda m: ((M - (U * m) @ V.T) ** 2).sum() / 2, width, keep)
        assert objective(flat)[0] == pytest.approx(loss)


def test_dropout_of_hidden_units_is_a_squared_nuclear_norm():
    import cvxpy

    M = np.random.default_rng(1).normal(size=(4, 4))
    W = cvxpy.Variable((4, 4))
    penalty = 0.7 / 0.3 / 6 / 2 * cvxpy.square(cvxpy.normNuc(W))
    cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(W - M) / 2 + penalty)).solve(solver=cvxpy.CLARABEL)
    sizes = dropout.dropout_singular_values(np.linalg.svd(M, compute_uv=False), 0.3, 6)
    np.testing.assert_allclose(np.linalg.svd(W.value, compute_uv=False), sizes, atol=1e-4)
    assert 0 < (sizes > 0).sum() < 4


def test_nan_in_gives_nan_out():
    assert np.isnan(dropout.dropout_singular_values(np.array([1.0, math.nan]), 0.5, 2)).all()
    assert np.isnan(dropout.dropout_singular_values(np.ones(2), math.nan, 2)).all()
    X, y = overlapping(7, 20, 3)
    bad = X.copy()
    bad[0, 0] = math.nan
    for oracle in (
        dropout.dropout_ridge,
        dropout.dropout_logistic,
        dropout.quadratic_dropout_logistic,
        dropout.averaged_error,
    ):
        assert np.isnan(oracle(bad, y, 0.5)).all()
        assert np.isnan(oracle(X, y * math.nan, 0.5)).all()
        assert np.isnan(oracle(X, y, math.nan)).all()


X, Y = regression(8, 4, 3)
REFUSED = {
    "keep is 0": lambda: dropout.dropout_ridge(X, Y, 0.0),
    "keep is 1.5": lambda: dropout.dropout_logistic(X, np.sign(Y), 1.5),
    "y has 2 entries": lambda: dropout.dropout_ridge(X, Y[:2], 0.5),
    "X has an infinite": lambda: dropout.dropout_ridge(np.full((4, 3), math.inf), Y, 0.5),
    "y has the label": lambda: dropout.quadratic_dropout_logistic(X, Y, 0.5),
    "width is 1.5": lambda: dropout.dropout_singular_values(np.ones(2), 0.5, 1.5),
    "target has a negative": lambda: dropout.dropout_singular_values(-np.ones(2), 0.5, 2),
    "X has 13 columns": lambda: dropout.averaged_error(np.ones((4, 13)), Y, 0.5),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
