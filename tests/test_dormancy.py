import numpy as np
import pytest
from scipy import integrate, stats

from research.oracles.dormancy import layer_scores, relative_deviation, score_errors

NORMS, BIASES = np.array([0.3, 1.0, 2.0, 0.7]), np.array([-0.9, 0.0, 1.5, 0.2])


def moment(order, sigma, b):
    """E relu(N(b, σ²))^order by quadrature."""
    return integrate.quad(lambda u: u**order * stats.norm.pdf(u, b, sigma), 0, max(b, 0) + 12 * sigma)[0]


def test_scores_and_their_errors_by_quadrature():
    first, second = ([moment(k, s, b) for s, b in zip(NORMS, BIASES, strict=True)] for k in (1, 2))
    np.testing.assert_allclose(layer_scores(NORMS, BIASES), first / np.mean(first), rtol=1e-8)
    errors = np.sqrt((np.array(second) - np.array(first) ** 2) / 50) / np.mean(first)
    np.testing.assert_allclose(score_errors(NORMS, BIASES, 50), errors, rtol=1e-7)


def test_scores_of_a_simulated_layer():
    random = np.random.default_rng(0)
    W, b = random.normal(size=(20, 60)) / 20**0.5, random.normal(size=60)
    activity = np.maximum(random.normal(size=(20_000, 20)) @ W + b, 0).mean(axis=0)
    norms = np.linalg.norm(W, axis=0)
    off = (activity / activity.mean() - layer_scores(norms, b)) / score_errors(norms, b, 20_000)
    assert np.abs(off).max() < 4.5
    assert 0.6 < np.sqrt(np.mean(off**2)) < 1.4


def test_without_biases_scores_are_norms_whatever_the_scale():
    np.testing.assert_allclose(layer_scores(NORMS, 0 * BIASES), NORMS / NORMS.mean(), rtol=1e-14)
    np.testing.assert_allclose(layer_scores(1e-9 * NORMS, 1e-9 * BIASES), layer_scores(NORMS, BIASES), rtol=1e-12)
    assert layer_scores(NORMS, BIASES).mean() == pytest.approx(1)


def test_relative_deviation_of_a_norm():
    for fan_in in (1, 3, 10, 400):
        assert relative_deviation(fan_in) == pytest.approx(stats.chi.std(fan_in) / stats.chi.mean(fan_in), rel=1e-9)
    assert relative_deviation(1e4) * (2e4) ** 0.5 == pytest.approx(1, abs=1e-3)


def test_inputs():
    assert np.isnan(layer_scores(NORMS * np.nan, BIASES)).all()
    assert np.isnan(score_errors(NORMS, BIASES, np.nan)).all()
    assert np.isnan(relative_deviation(np.nan))
    with pytest.raises(ValueError, match="norms has the entry 0"):
        layer_scores(0 * NORMS, BIASES)
    with pytest.raises(ValueError, match="biases has 2 entries"):
        layer_scores(NORMS, BIASES[:2])
    with pytest.raises(ValueError, match="samples is 1"):
        score_errors(NORMS, BIASES, 1)
    with pytest.raises(ValueError, match="fan_in is 0"):
        relative_deviation(0)
