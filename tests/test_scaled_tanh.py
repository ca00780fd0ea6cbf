import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import minimize_scalar

from research.oracles.scaled_tanh import AMPLITUDE, STEEPNESS, asymptotic_weight, largest_curvature, target_weight


def output(w):
    return AMPLITUDE * np.tanh(STEEPNESS * w)


@pytest.mark.parametrize("initial", [-2.0, 0.0, 0.5, 3.0])
def test_the_flow_solves_its_differential_equation(initial):
    times = np.array([0.0, 0.2, 5.0, 200.0])
    field = lambda _, w: (AMPLITUDE - output(w)) * AMPLITUDE * STEEPNESS / np.cosh(STEEPNESS * w) ** 2
    exact = solve_ivp(field, (0, 200), [initial], t_eval=times, rtol=1e-11, atol=1e-13, method="DOP853").y[0]
    np.testing.assert_allclose(asymptotic_weight(times, initial), exact, atol=1e-8)


def test_late_weights_grow_by_three_eighths_of_the_logarithm():
    w = asymptotic_weight(np.array([1e12, 1e14]), 0.0)
    assert (w[1] - w[0]) / np.log(100) == pytest.approx(3 / 8, abs=1e-5)


def test_the_weight_of_a_target():
    assert output(target_weight(0.7)) == pytest.approx(0.7)
    assert target_weight(1.0) == pytest.approx(1, abs=1e-5)  # f(1) = 1, almost: why the constants are what they are
    assert [target_weight(target) for target in (AMPLITUDE, -2.0, 0.0)] == [np.inf, -np.inf, 0]


def test_the_curvature_is_largest_near_one():
    slope = lambda w: AMPLITUDE * STEEPNESS / np.cosh(STEEPNESS * w) ** 2
    curvature = lambda w: -abs(slope(w + 1e-4) - slope(w - 1e-4)) / 2e-4
    found = minimize_scalar(curvature, bounds=(0.1, 3), method="bounded").x
    assert largest_curvature() == pytest.approx(found, abs=1e-4)


def test_not_a_number_in_is_not_a_number_out():
    assert np.isnan(target_weight(np.nan))
    assert np.isnan(asymptotic_weight(np.array([1.0, np.nan]), 0.0)).tolist() == [False, True]
    assert np.isnan(asymptotic_weight(np.array([1.0]), np.nan)).all()


def test_bad_input_is_refused_by_name():
    with pytest.raises(ValueError, match="time is -1 somewhere; it takes"):
        asymptotic_weight(np.array([-1.0]), 0.0)
    with pytest.raises(ValueError, match="initial is 300; it takes"):
        asymptotic_weight(np.array([1.0]), 300)
    with pytest.raises(ValueError, match="target is 'one'; it takes a number"):
        target_weight("one")
