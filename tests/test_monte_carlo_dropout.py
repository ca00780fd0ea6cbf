import itertools
import math

import numpy as np
import pytest
from problems import regression

from research.oracles.monte_carlo_dropout import function_posterior, pass_variance, variance_error


def all_passes(places, weights, drop):
    """Every mask written out: the outputs, one mask a row, and the probabilities."""
    masks = np.array(list(itertools.product((0.0, 1.0), repeat=len(weights))))
    shares = np.prod(np.where(masks > 0, 1 - drop, drop), axis=1)
    return masks * weights / (1 - drop) @ places.T, shares


@pytest.mark.parametrize("drop", [0.1, 0.5, 0.8])
def test_the_variance_and_its_error_are_those_over_all_masks(drop):
    places, _ = regression(1, 3, 5)
    weights = np.array([1.0, -2.0, 0.5, 0.0, 3.0])
    outputs, shares = all_passes(places, weights, drop)
    about = outputs - shares @ outputs
    np.testing.assert_allclose(shares @ outputs, places @ weights, atol=1e-12)
    variance, fourth = shares @ about**2, shares @ about**4
    np.testing.assert_allclose(pass_variance(places, weights, drop), variance)
    expected = np.sqrt((fourth - variance**2 * (50 - 3) / (50 - 1)) / 50)  # Var s² = (μ₄ − σ⁴(T−3)/(T−1))/T
    np.testing.assert_allclose(variance_error(places, weights, drop, 50), expected)


def test_without_dropout_nothing_varies():
    places, _ = regression(1, 3, 5)
    assert not pass_variance(places, np.ones(5), 0.0).any()
    assert not variance_error(places, np.ones(5), 0.0, 10).any()


def test_the_posterior_is_that_of_a_gaussian_process():
    X, y = regression(2, 9, 4)
    places = regression(3, 6, 4)[0]
    kernel = lambda a, b: 0.5 * a @ b.T
    gram = kernel(X, X) + 0.3**2 * np.eye(9)
    posterior = function_posterior(X, y, places, 0.3, 0.5)
    np.testing.assert_allclose(posterior.mean, kernel(places, X) @ np.linalg.solve(gram, y))
    covariance = kernel(places, places) - kernel(places, X) @ np.linalg.solve(gram, kernel(X, places))
    np.testing.assert_allclose(posterior.variance, np.diag(covariance), atol=1e-12)


def test_nan_and_what_is_refused():
    X, y = regression(1, 6, 3)
    assert math.isnan(pass_variance(X, np.array([1.0, np.nan, 0.0]), 0.2)[0])
    assert np.isnan(function_posterior(X, np.where(y > 0, np.nan, y), X, 0.3, 1.0).mean).all()
    for call, message in (
        (lambda: pass_variance(X, np.ones(3), 1.0), "drop is 1"),
        (lambda: pass_variance(X, np.ones(2), 0.5), "weights has 2"),
        (lambda: variance_error(X, np.ones(3), 0.5, 1), "passes is 1"),
        (lambda: function_posterior(X, y, X[:, :2], 0.3, 1.0), "places has 2 columns"),
        (lambda: function_posterior(X, y, X, 0.0, 1.0), "noise is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
