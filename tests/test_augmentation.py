import numpy as np
import pytest
from problems import regression

from research.oracles.augmentation import augmented_risk, mean_augmented_risk, noisy_input_deviation, softmax_optimum


def test_the_mean_iterate_scatters_as_predicted():
    """Simulated covariance of a step's gradient at the minimiser, through the curvature."""
    X, y = regression(1, 10, 3)
    s = 0.7
    curvature = X.T @ X / 10 + s**2 * np.eye(3)
    w = np.linalg.solve(curvature, X.T @ y / 10)
    noisy = X + s * np.random.default_rng(2).standard_normal((40_000, 10, 3))
    gradients = np.einsum("kni,kn->ki", noisy, noisy @ w - y) / 10
    steps = gradients @ np.linalg.inv(curvature)
    assert np.abs(steps.mean(axis=0)).max() < 4 * steps.std(axis=0).max() / 200  # the minimiser of the mean is ridge's
    np.testing.assert_allclose(noisy_input_deviation(X, y, s), steps.std(axis=0), rtol=0.03)


def test_without_noise_nothing_scatters():
    X, y = regression(1, 10, 3)
    np.testing.assert_allclose(noisy_input_deviation(X, y, 0.0), 0.0, atol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_the_risk_is_that_of_least_squares_on_all_copies(strength):
    rng = np.random.default_rng(3)
    X, planted = rng.standard_normal((12, 4)), np.array([1.0, 0.5, -0.5, 2.0])
    copies = np.concatenate([X, X[:, ::-1]]) if strength else X
    y = (X @ planted)[:, None] + 0.5 * rng.standard_normal((12, 20_000))
    weights = np.linalg.lstsq(copies, np.concatenate([y, y]) if strength else y, rcond=None)[0]
    errors = ((weights - planted[:, None]) ** 2).sum(axis=0)
    mean, deviation = augmented_risk(X, planted, 0.5, strength)
    assert abs(errors.mean() - mean) < 4 * deviation / 20_000**0.5
    np.testing.assert_allclose(errors.std(), deviation, rtol=0.06)


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_the_mean_over_gaussian_inputs(strength):
    rng = np.random.default_rng(4)
    planted = 0.8 * np.array([0.5, 0.5, 0.5, 0.5]) + 0.6 * np.array([0.5, -0.5, 0.5, -0.5])
    risks = [augmented_risk(rng.standard_normal((10, 4)), planted, 0.5, strength).mean for _ in range(3000)]
    expected = mean_augmented_risk(10, 4, 0.5, 0.36, strength)
    assert abs(np.mean(risks) - expected) < 4 * np.std(risks) / 3000**0.5


def test_the_softmax_is_optimal_and_symmetric_where_the_inputs_are():
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((30, 4)), np.arange(30.0) % 3
    weights = softmax_optimum(X, y, 0.1, 3)

    def loss(W):
        outputs = X @ W
        return np.mean(np.log(np.exp(outputs).sum(axis=1)) - outputs[np.arange(30), y.astype(int)]) + 0.05 * np.sum(
            W**2
        )

    for _ in range(20):
        assert loss(weights + 1e-3 * rng.standard_normal((4, 3))) > loss(weights)
    even = softmax_optimum((X + X[:, ::-1]) / 2, y, 0.1, 3)
    np.testing.assert_allclose(even, even[::-1], atol=1e-10)
    copies = softmax_optimum(np.concatenate([X, X[:, ::-1]]), np.concatenate([y, y]), 0.1, 3)
    np.testing.assert_allclose(copies, even, atol=1e-6)


def test_nan_and_what_is_refused():
    X, y = regression(1, 10, 4)
    bad = np.where(X > 1, np.nan, X)
    assert np.isnan(noisy_input_deviation(bad, y, 0.5)).all()
    assert np.isnan(augmented_risk(bad, np.ones(4), 0.5)).all()
    assert np.isnan(softmax_optimum(bad, np.arange(10.0) % 3, 0.1, 3)).all()
    for call, message in (
        (lambda: noisy_input_deviation(X, y, -1.0), "input_noise is -1"),
        (lambda: augmented_risk(X, np.ones(3), 0.5), "planted has 3"),
        (lambda: augmented_risk(X, np.ones(4), 0.5, 0.3), "strength is 0.3"),
        (lambda: mean_augmented_risk(5, 4, 0.5, 0.0, 0.0), "samples is 5"),
        (lambda: mean_augmented_risk(20, 5, 0.5, 0.0, 0.0), "features is 5"),
        (lambda: softmax_optimum(X, np.arange(10.0) % 3, 0.0, 3), "weight_decay is 0"),
        (lambda: softmax_optimum(X, np.arange(10.0) % 2, 0.1, 3), "y has the labels"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
