"""A logistic unit under Gaussian input noise: its mean loss on a grid, and discriminant analysis of samples."""

import numpy as np
import pytest
from scipy.optimize import minimize

from research.oracles.discriminant import noisy_logistic_weights

MEAN, DEVIATION = np.array([0.6, -0.8]), np.array([0.7, 1.2])


def test_it_is_the_minimum_of_the_mean_loss_on_a_grid():
    z = np.linspace(-8, 8, 161)
    chance = np.exp(-(z**2) / 2)
    chance /= chance.sum()
    x = np.stack(np.meshgrid(MEAN[0] + DEVIATION[0] * z, MEAN[1] + DEVIATION[1] * z, indexing="ij"), axis=-1)
    both = chance[:, None] * chance[None, :]

    def loss(w):
        u = x @ w
        missing = both / (1 + np.exp(u))
        return np.sum(both * np.logaddexp(0, -u)), -np.einsum("ij,ijk->k", missing, x)

    found = minimize(loss, np.zeros(2), jac=True, tol=1e-12)
    np.testing.assert_allclose(noisy_logistic_weights(MEAN, DEVIATION), found.x, rtol=1e-5)
    np.testing.assert_allclose(loss(noisy_logistic_weights(MEAN, DEVIATION))[1], 0, atol=1e-10)


def test_it_is_discriminant_analysis_of_both_classes():
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    noise = DEVIATION * np.random.default_rng(0).normal(size=(40_000, 2))
    y = np.where(np.arange(40_000) % 2 == 0, 1, -1)
    found = LinearDiscriminantAnalysis().fit(y[:, None] * MEAN + noise, y).coef_[0]
    np.testing.assert_allclose(found, noisy_logistic_weights(MEAN, DEVIATION), atol=0.06)


def test_one_feature_and_its_limits():
    np.testing.assert_allclose(noisy_logistic_weights([1.0], [0.5]), [8.0])
    np.testing.assert_allclose(noisy_logistic_weights([1.0], [2.0]), [0.5])
    for small in (0.2, 0.12, 0.05, 1e-3):  # what is misclassified lies far out
        np.testing.assert_allclose(noisy_logistic_weights([0.6, 0.8], [small] * 2), [1.2 / small**2, 1.6 / small**2])
    np.testing.assert_allclose(noisy_logistic_weights([1.0], [1e6]), [2e-12])
    np.testing.assert_array_equal(noisy_logistic_weights([0.0, 0.0], [1.0, 2.0]), 0)
    assert np.isnan(noisy_logistic_weights([1.0], [0.0])).all()
    assert np.isnan(noisy_logistic_weights([np.nan, 1.0], [1.0, 1.0])).all()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="deviation is -1"):
        noisy_logistic_weights([1.0], [-1.0])
    with pytest.raises(ValueError, match="deviation has 1 entries"):
        noisy_logistic_weights([1.0, 2.0], [1.0])
