import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from research.oracles import spline


def points(seed, samples=6, tilt=0.0):
    random = np.random.default_rng(seed)
    x = np.linspace(-1, 1, samples) + random.uniform(-0.1, 0.1, samples)
    return random.permutation(x), random.normal(size=samples) + tilt * x


def units(x, knots):
    """Every unit with |w| = 1 and a knot on the grid, and the constant."""
    apart = x[:, None] - knots[None, :]
    return np.hstack([np.maximum(apart, 0), np.maximum(-apart, 0)])


def program(x, y, knots):
    """The least sum of |a| over networks with these knots: a linear program."""
    features = units(x, knots)
    equations = np.hstack([features, -features, np.ones((len(x), 1))])
    cost = np.append(np.ones(2 * features.shape[1]), 0.0)
    bounds = [(0, None)] * (len(cost) - 1) + [(None, None)]
    return linprog(cost, A_eq=equations, b_eq=y, bounds=bounds, method="highs")


@pytest.mark.parametrize("tilt", [0.0, 1.0, 5.0, -8.0])
@pytest.mark.parametrize("seed", range(4))
def test_cost_is_that_of_a_linear_program_over_knots(seed, tilt):
    x, y = points(seed, tilt=tilt)
    y = np.sort(y)[np.argsort(np.argsort(x))] if tilt else y  # steep data bend less than their ends rise
    coarse = program(x, y, np.append(x, [-3.0, 3.0])).fun
    assert spline.representation_cost(x, y) == pytest.approx(coarse, rel=1e-7)
    # more knots, between the points and beyond them, gain nothing
    finer = program(x, y, np.concatenate([x, np.linspace(-4, 4, 60)])).fun
    assert finer == pytest.approx(coarse, rel=1e-7)


def test_steep_data_cost_half_the_sum_of_bends_and_ends():
    x, y = np.array([0.0, 1.0, 3.0]), np.array([0.0, 2.0, 7.0])  # slopes 2 and 2.5: D = 0.5, S = 4.5
    assert spline.representation_cost(x, y) == pytest.approx(2.5)
    assert spline.representation_cost(x[:2], y[:2]) == pytest.approx(2)  # one unit: |a·w| is the slope
    assert spline.representation_cost(x, np.abs(x - 1)) == pytest.approx(2)  # D = 2, S = 0
    assert spline.representation_cost(x, np.full(3, 4.0)) == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), tilt=st.floats(-10, 10), samples=st.integers(2, 12))
def test_gradient_is_a_certificate_and_the_cost_is_homogeneous(seed, tilt, samples):
    x, y = points(seed, samples, tilt)
    gradient, cost = spline.cost_gradient(x, y), spline.representation_cost(x, y)
    assert spline.duality_gap(x, y, gradient) < 1e-10
    assert gradient @ y == pytest.approx(cost)
    assert spline.representation_cost(x, -3 * y + 7) == pytest.approx(3 * cost)
    assert spline.representation_cost(2 * x - 1, y) == pytest.approx(cost / 2)


@pytest.mark.parametrize("tilt", [0.0, 9.0])
@pytest.mark.parametrize("weight_decay", [1e-4, 1e-3])
def test_weight_decay_agrees_with_a_quadratic_program(weight_decay, tilt):
    import cvxpy

    x, y = points(3, tilt=tilt)
    y = np.sort(y)[np.argsort(np.argsort(x))] if tilt else y
    answer = spline.representation_cost(x, y, weight_decay)
    features = units(x, np.append(x, [-3.0, 3.0]))
    a, c = cvxpy.Variable(features.shape[1]), cvxpy.Variable()
    misfit = cvxpy.sum_squares(features @ a + c - y) / (2 * len(x))
    cvxpy.Problem(cvxpy.Minimize(misfit / weight_decay + cvxpy.norm1(a))).solve(solver=cvxpy.CLARABEL)
    assert answer == pytest.approx(np.abs(a.value).sum(), rel=1e-5)
    slope = (spline.representation_cost(x, y) - answer) / weight_decay
    assert slope == pytest.approx(6 * (spline.cost_gradient(x, y) ** 2).sum())


def test_beyond_its_linear_piece_the_answer_is_void():
    x, y = points(4)
    assert np.isnan(spline.representation_cost(x, y, 10.0))
    assert np.isnan(spline.representation_cost(x, y, np.nan))
    for place in range(2):
        bad = [x.copy(), y.copy()]
        bad[place][1] = np.nan
        assert np.isnan(spline.representation_cost(*bad))


def test_broken_multipliers_fail_the_certificate():
    x, y = points(5)
    gradient = spline.cost_gradient(x, y)
    for broken in (2 * gradient, gradient / 2, -gradient, np.roll(gradient, 1), gradient + 0.1):
        assert spline.duality_gap(x, y, broken) > 1e-3


REFUSED = {
    "x has 1 entry": lambda: spline.representation_cost(np.zeros(1), np.zeros(1)),
    "x has equal": lambda: spline.representation_cost(np.zeros(2), np.ones(2)),
    "y has 3 entries": lambda: spline.cost_gradient(np.arange(2.0), np.ones(3)),
    "y has an infinite": lambda: spline.representation_cost(np.arange(2.0), np.full(2, np.inf)),
    "weight_decay is -1": lambda: spline.representation_cost(np.arange(2.0), np.ones(2), -1.0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
