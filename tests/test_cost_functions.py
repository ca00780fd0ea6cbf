import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.special import expit

from research.oracles.cost_functions import COSTS, flow_activations, half_time

SLOPES = {"quadratic": lambda z: expit(z) ** 2 * expit(-z), "cross_entropy": expit}


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("z", [0.1, 1.5, 4.0, 9.0])
def test_the_half_time_is_the_integral_of_the_flow(cost, z):
    assert half_time(cost, z, 3.0) == pytest.approx(quad(lambda at: 1 / SLOPES[cost](at), 0, z)[0] / 3)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("z", [-1.0, 0.0, 1.5, 4.0])
def test_the_flow_solves_its_differential_equation(cost, z):
    times = np.array([0.0, 0.3, 5.0, 60.0])
    field = lambda _, at: -2 * SLOPES[cost](at)
    exact = solve_ivp(field, (0, 60), [z], t_eval=times, rtol=1e-11, atol=1e-12, method="DOP853").y[0]
    np.testing.assert_allclose(flow_activations(cost, times, z, 2.0), expit(exact), atol=1e-9)


@pytest.mark.parametrize("cost", COSTS)
def test_the_flow_is_at_a_half_at_the_half_time(cost):
    time = half_time(cost, 5.0, 2.0)
    assert flow_activations(cost, np.array([time]), 5.0, 2.0)[0] == pytest.approx(0.5)
    assert half_time(cost, 0.0, 2.0) == 0


def test_one_grows_exponentially_and_the_other_linearly():
    growth = np.log(half_time("quadratic", 40, 2.0) / half_time("quadratic", 30, 2.0)) / 10
    assert growth == pytest.approx(1, abs=1e-9)
    assert half_time("cross_entropy", 40, 2.0) - half_time("cross_entropy", 30, 2.0) == pytest.approx(5)
    ratios = [half_time("quadratic", z, 2.0) / half_time("cross_entropy", z, 2.0) for z in (1.5, 4, 6, 8)]
    np.testing.assert_allclose(ratios, [4.7, 13.9, 60.6, 334], rtol=0.01)


def test_the_books_two_neurons():
    ends = [flow_activations("quadratic", np.array([300 * 0.15]), z, 2.0)[0] for z in (1.5, 4.0)]
    np.testing.assert_allclose(ends, [0.09, 0.20], atol=6e-3)


@pytest.mark.parametrize("cost", COSTS)
def test_not_a_number_in_is_not_a_number_out(cost):
    assert np.isnan(half_time(cost, np.nan, 2.0))
    assert np.isnan(half_time(cost, 1.0, np.nan))
    assert np.isnan(flow_activations(cost, np.array([1.0, np.nan]), 1.0, 2.0)).tolist() == [False, True]
    assert np.isnan(flow_activations(cost, np.array([1.0]), np.nan, 2.0)).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: half_time("hinge", 1.0, 2.0), "cost is 'hinge'; it takes quadratic or cross_entropy"),
        (lambda: half_time("quadratic", -1.0, 2.0), "z is -1; it takes"),
        (lambda: half_time("quadratic", 1.0, 0.0), "speed is 0; it takes"),
        (lambda: flow_activations("quadratic", np.array([-1.0]), 1.0, 2.0), "time is -1 somewhere; it takes"),
    ],
)
def test_bad_input_is_refused_by_name(call, said):
    with pytest.raises(ValueError, match=said):
        call()
