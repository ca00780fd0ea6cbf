import numpy as np
import pytest
from numpy.testing import assert_allclose
from problems import classification
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from research.oracles.margin import maximum_margin
from research.oracles.tail import decrement, power_tail_direction

X, Y = classification(samples=8, features=12)
Z = X * Y[:, None]


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_it_is_stationary_and_the_minimum(power):
    v = power_tail_direction(X, Y, power)
    assert_allclose(v, Z.T @ (Z @ v) ** -(power + 1), rtol=1e-8)
    assert decrement(X, Y, v, power) < 1e-10
    objective = lambda w: w @ w / 2 + ((Z @ w).clip(1e-9) ** -power).sum() / power
    other = minimize(objective, maximum_margin(X, Y, 2), method="BFGS", options={"gtol": 1e-10})
    assert_allclose(other.x, v, rtol=1e-4)


def test_one_sample_and_equal_orthogonal_samples_have_closed_forms():
    # v = c z with c ‖z‖² = u and c = u^−(power+1)
    z = np.array([[3.0, 4.0]])
    assert_allclose(power_tail_direction(z, np.ones(1), 1.0), 25 ** (-2 / 3) * z[0])
    assert_allclose(power_tail_direction(np.eye(4), np.ones(4), 2.0), np.ones(4))


def test_gradient_flow_goes_there():
    power, n = 1.0, len(Z)
    v = power_tail_direction(X, Y, power)
    flow = lambda t, w: Z.T @ (Z @ w) ** -(power + 1) / n
    end = solve_ivp(flow, (0.0, 1e9), maximum_margin(X, Y, 2), "LSODA", rtol=1e-9, atol=1e-9).y[:, -1]
    assert_allclose(end / np.linalg.norm(end), v / np.linalg.norm(v), atol=1e-3)
    assert np.linalg.norm(end) == pytest.approx((3e9 / n) ** (1 / 3) * np.linalg.norm(v), rel=1e-3)


def test_a_steep_tail_has_the_maximum_margin_and_a_flat_one_has_not():
    widest = maximum_margin(X, Y, 2)
    cosine = lambda v: v @ widest / np.linalg.norm(v) / np.linalg.norm(widest)
    flat, steep = (cosine(power_tail_direction(X, Y, power)) for power in (1.0, 100.0))
    assert flat < 0.999 < steep


def test_what_it_does_not_take():
    with pytest.raises(ValueError, match="power is 0"):
        power_tail_direction(X, Y, 0.0)
    with pytest.raises(ValueError, match="y has the label 2"):
        power_tail_direction(X, 2 * np.abs(Y), 1.0)
    one = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert np.isnan(power_tail_direction(one, np.array([1.0, -1.0]), 1.0)).all()
    assert np.isnan(power_tail_direction(np.where(X > 1, np.nan, X), Y, 1.0)).all()
    assert decrement(X, Y, -power_tail_direction(X, Y, 1.0), 1.0) == np.inf
