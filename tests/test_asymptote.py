import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp

from research.oracles.asymptote import asymptote
from research.oracles.margin import maximum_margin


def test_orthogonal_samples_have_the_asymptote_of_their_own_scalar_equations():
    # dw_k/dt = e^(−c_k w_k) c_k / n: c_k w_k = ln(c_k² t/n) + o(1).
    scales = np.array([1.0, 0.5, 0.25])
    found = asymptote(np.diag(scales), np.ones(3))
    assert_allclose(found.direction, 1 / scales)
    assert_allclose(found.offset, np.log(scales**2) / scales, atol=1e-12)
    assert found.exponent == pytest.approx(1.0)


def test_gradient_flow_approaches_the_asymptote_at_its_exponent():
    Z = np.array([[1.0, 0.8, 0.1], [1.0, -0.5, 0.3], [1.0, 0.1, -0.9], [2.5, 0.3, 0.2]])
    found = asymptote(Z, np.ones(4))
    flow = lambda s, w: np.exp(s) * np.exp(-Z @ w) @ Z
    at = np.array([12.0, 16.0, 20.0])
    solution = solve_ivp(flow, (-12.0, 20.0), np.zeros(3), "LSODA", at, rtol=1e-10, atol=1e-10)
    rest = np.linalg.norm(solution.y.T - found.direction * at[:, None] - found.offset, axis=1)
    assert_allclose(np.diff(np.log(rest)) / 4, -found.exponent, rtol=0.1)


def test_it_agrees_with_the_maximum_margin_and_is_void_where_there_is_none():
    X = np.random.default_rng(0).normal(size=(6, 20))
    y = np.array([1.0, -1.0] * 3)
    found = asymptote(X, y)
    assert_allclose(found.direction, maximum_margin(X, y, 2), rtol=1e-6)
    assert found.exponent > 0
    for part in asymptote(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([1.0, -1.0])):
        assert np.isnan(part).all()
