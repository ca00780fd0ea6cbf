"""Best fits in Krylov spaces: against SciPy's conjugate gradients, and where they end."""

import numpy as np
import pytest
from problems import regression
from scipy.sparse.linalg import cg

from research.oracles.krylov import krylov_fits

STEPS = np.arange(9.0)


@pytest.mark.parametrize("samples", [4, 20])
def test_they_are_scipys_conjugate_gradients_and_end_at_the_least_norm(samples):
    X, y = regression(1, samples, 6)
    fits = krylov_fits(X, y, STEPS)
    for k in range(1, min(samples, 6)):
        expected = cg(X.T @ X, X.T @ y, rtol=0, maxiter=k)[0]
        np.testing.assert_allclose(fits[k], expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(fits[0], 0)
    for late in fits[min(samples, 6) :]:
        np.testing.assert_allclose(late, np.linalg.pinv(X) @ y, atol=1e-9)


def test_each_is_the_best_of_its_space():
    X, y = regression(2, 20, 6)
    b, H = X.T @ y, X.T @ X
    fit = krylov_fits(X, y, np.array([2.0]))[0]
    space = np.column_stack([b, H @ b])
    assert np.linalg.norm(space.T @ (X.T @ (X @ fit - y))) < 1e-8 * np.linalg.norm(space) * np.linalg.norm(b)
    for change in (space[:, 0], space[:, 1]):
        for sign in (-1e-4, 1e-4):
            assert np.linalg.norm(X @ (fit + sign * change) - y) > np.linalg.norm(X @ fit - y)


def test_equal_eigenvalues_take_one_step():
    X = 3 * np.eye(5)[:3]
    y = np.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(krylov_fits(X, y, np.array([1.0, 3.0])), [[1 / 3, -2 / 3, 1 / 6, 0, 0]] * 2, atol=1e-15)
    np.testing.assert_array_equal(krylov_fits(X, 0 * y, np.array([2.0])), 0)


def test_nan_gives_nan_and_bad_input_is_named():
    X, y = regression(1, 4, 6)
    assert np.isnan(krylov_fits(X, y * np.nan, STEPS)).all()
    with pytest.raises(ValueError, match="count is"):
        krylov_fits(X, y, np.array([0.5]))
    with pytest.raises(ValueError, match="y has 3 entries"):
        krylov_fits(X, y[:3], STEPS)
