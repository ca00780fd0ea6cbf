import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.oracles.lasso import lasso, lasso_residual, next_knot, shrinkage, soft_threshold


def problem(seed=0, samples=40, features=8):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((samples, features)) @ (np.eye(features) + 0.3)
    return X, X[:, :3] @ np.array([1.0, -2.0, 0.5]) + rng.standard_normal(samples)


def largest_strength(X, y):
    return np.abs(X.T @ y / len(y)).max()


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.01])
@pytest.mark.parametrize("shape", [(40, 8), (10, 20)])
def test_the_path_agrees_with_coordinate_descent(share, shape):
    from sklearn.linear_model import Lasso

    X, y = problem(1, *shape)
    strength = share * largest_strength(X, y)
    found = Lasso(alpha=strength, fit_intercept=False, tol=1e-14, max_iter=500_000).fit(X, y).coef_
    weights = lasso(X, y, strength)
    np.testing.assert_allclose(weights, found, atol=1e-6)
    assert ((weights != 0) == (np.abs(found) > 1e-7)).all()
    assert lasso_residual(X, y, weights, strength) < 1e-12


def test_from_the_largest_strength_on_there_is_nothing_and_without_one_least_squares():
    X, y = problem()
    most = largest_strength(X, y)
    assert not lasso(X, y, most).any()
    assert np.count_nonzero(lasso(X, y, 0.999 * most)) == 1
    np.testing.assert_allclose(lasso(X, y, 0.0), np.linalg.lstsq(X, y, rcond=None)[0], atol=1e-10)


def test_the_support_changes_at_knots_only():
    X, y = problem()
    pieces = {}
    for strength in np.linspace(0.01, 0.99, 97) * largest_strength(X, y):
        pieces.setdefault(next_knot(X, y, strength), []).append(lasso(X, y, strength))
    pieces.pop(math.nan, None)
    assert len(pieces) > 3
    for weights in pieces.values():
        assert len({tuple(np.sign(each)) for each in weights}) == 1
    assert math.isnan(next_knot(X, y, largest_strength(X, y)))


@settings(max_examples=20, deadline=None)
@given(strength=st.floats(0.0, 3.0))
def test_orthonormal_columns_give_the_soft_threshold_and_the_factor(strength):
    from research.oracles.least_squares import ridge

    X, y = problem()
    Q = np.linalg.qr(X)[0] * len(X) ** 0.5
    z = Q.T @ y / len(y)
    np.testing.assert_allclose(lasso(Q, y, strength), [soft_threshold(each, strength) for each in z], atol=1e-10)
    np.testing.assert_allclose(ridge(Q, y, strength), [shrinkage(each, strength) for each in z], atol=1e-10)


def test_weights_that_are_off_have_a_residual():
    X, y = problem()
    weights = lasso(X, y, 0.3)
    assert lasso_residual(X, y, weights + 1e-3, 0.3) > 1e-4
    assert lasso_residual(X, y, weights, 0.31) > 1e-4


def test_not_a_number_in_is_not_a_number_out():
    X, y = problem()
    assert np.isnan(lasso(X * np.nan, y, 0.1)).all()
    assert np.isnan(lasso(X, y, math.nan)).all()
    assert math.isnan(lasso_residual(X, y, np.full(8, np.nan), 0.1))
    assert math.isnan(next_knot(X, y * np.nan, 0.1))
    assert math.isnan(soft_threshold(math.nan, 1.0))
    assert math.isnan(shrinkage(1.0, math.nan))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: lasso(*problem(), -1.0), "strength is -1; it takes"),
        (lambda: lasso(problem()[0], np.ones(3), 1.0), "y has 3 entries; it takes 40"),
        (lambda: soft_threshold("a", 1.0), "z is 'a'; it takes a number"),
        (lambda: shrinkage(1.0, -2.0), "strength is -2; it takes"),
    ],
)
def test_bad_input_is_refused_by_name(call, said):
    with pytest.raises(ValueError, match=said):
        call()
