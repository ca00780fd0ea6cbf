import math

import numpy as np
import pytest
from problems import classification
from scipy.special import expit

from research.oracles.cost_functions import COSTS, half_time
from research.oracles.flow_time import flow_time

X, Y = classification(20, 12, 6)
SLOPES = {"cross_entropy": expit, "quadratic": lambda v: expit(v) ** 2 * expit(-v)}


@pytest.mark.parametrize("cost", COSTS)
def test_one_sample_takes_the_half_time_in_closed_form(cost):
    x = np.array([[0.6, 1.2]])
    for z in (0.5, 3.0, 7.0):
        initial = -z * x[0] / (x[0] @ x[0])
        assert flow_time(x, np.ones(1), initial, cost, 1.0) == pytest.approx(half_time(cost, z, x[0] @ x[0]), rel=1e-6)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("accuracy", [0.7, 1.0])
def test_small_steps_take_as_long(cost, accuracy):
    Z, w, rate = X * Y[:, None], np.array([2.0, -1, 0, 1, -2, 1]), 0.02
    time = flow_time(X, Y, w, cost, accuracy)
    steps = 0
    while ((Z @ w) > 0).mean() < accuracy - 1e-9:
        w = w + rate * Z.T @ SLOPES[cost](-(Z @ w)) / len(Z)
        steps += 1
    assert steps * rate == pytest.approx(time, rel=0.03, abs=2 * rate)


def test_it_takes_no_time_where_nothing_is_to_do_and_no_end_where_it_cannot_be():
    assert flow_time(X, Y, X.T @ Y, "quadratic", 0.01) == 0
    contradiction = np.ones((2, 1)), np.array([1.0, -1.0])
    assert math.isnan(flow_time(*contradiction, np.zeros(1), "cross_entropy", 1.0))


def test_not_a_number_in_is_not_a_number_out():
    assert math.isnan(flow_time(X * np.nan, Y, np.zeros(6), "quadratic", 0.9))
    assert math.isnan(flow_time(X, Y, np.full(6, np.nan), "quadratic", 0.9))
    assert math.isnan(flow_time(X, Y, np.zeros(6), "quadratic", math.nan))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: flow_time(X, Y, np.zeros(5), "quadratic", 0.9), "initial has 5 entries; it takes 6"),
        (lambda: flow_time(X, Y, np.zeros(6), "hinge", 0.9), "cost is 'hinge'; it takes quadratic or cross_entropy"),
        (lambda: flow_time(X, Y, np.zeros(6), "quadratic", 1.5), "accuracy is 1.5; it takes"),
        (lambda: flow_time(X, 2 * Y, np.zeros(6), "quadratic", 0.9), "y has the label"),
    ],
)
def test_bad_input_is_refused_by_name(call, said):
    with pytest.raises(ValueError, match=said):
        call()
