import numpy as np
import pytest

from research.oracles.newton_schulz import CUBIC, STANDARD, newton_schulz_factor


@pytest.mark.parametrize("coefficients", [STANDARD, CUBIC])
def test_it_is_what_the_matrix_iteration_does_to_singular_values(coefficients):
    random = np.random.default_rng(0)
    X = random.normal(size=(4, 6))
    X, (a, b, c) = X / np.linalg.norm(X), coefficients
    expected = newton_schulz_factor(np.linalg.svd(X, compute_uv=False), 3, coefficients)
    for _ in range(3):
        gram = X @ X.T
        X = a * X + (b * gram + c * gram @ gram) @ X
    np.testing.assert_allclose(np.linalg.svd(X, compute_uv=False), np.sort(expected)[::-1], rtol=1e-12)


def test_the_cubic_one_converges_and_the_standard_one_does_not():
    s = np.array([1e-3, 0.1, 0.7, 1.0])
    np.testing.assert_allclose(newton_schulz_factor(s, 30, CUBIC), 1.0, atol=1e-12)
    standard = newton_schulz_factor(np.linspace(0.01, 1, 200), 5)
    assert 0.6 < standard.min() < 0.8 < 1.1 < standard.max() < 1.25  # the range that its authors aim at
    assert sum(STANDARD) == pytest.approx(0.701)  # 1 is no fixed point of it
    np.testing.assert_array_equal(newton_schulz_factor(s, 0), s)


def test_bad_input_is_named_and_nan_gives_nan():
    with pytest.raises(ValueError, match="steps is -1"):
        newton_schulz_factor(np.ones(2), -1)
    with pytest.raises(ValueError, match="s has an infinite"):
        newton_schulz_factor(np.array([np.inf]), 1)
    assert np.isnan(newton_schulz_factor(np.array([np.nan, 0.5]), 2)).tolist() == [True, False]
