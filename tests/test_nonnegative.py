import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import regression

from research.oracles.nonnegative import minimum_weighted_sum, weighted_gap


def recoverable(seed=0, samples=12, features=25):
    X, _ = regression(seed, samples, features)
    planted = np.zeros(features)
    planted[:2] = 1.0, 2.0
    return X, X @ planted, planted


X, Y, PLANTED = recoverable()
COSTS = np.exp(np.random.default_rng(1).normal(size=25))


@pytest.mark.parametrize("costs", [np.ones(25), COSTS])
def test_it_agrees_with_an_interior_point_method(costs):
    import cvxpy

    y = X @ np.abs(np.random.default_rng(2).normal(size=25))
    variable = cvxpy.Variable(25, nonneg=True)
    program = cvxpy.Problem(cvxpy.Minimize(costs @ variable), [X @ variable == y])
    program.solve(solver=cvxpy.CLARABEL)
    w = minimum_weighted_sum(X, y, costs)
    assert w.min() >= 0
    np.testing.assert_allclose(X @ w, y, atol=1e-9)
    np.testing.assert_allclose(w, variable.value, atol=1e-5)
    assert (w > 0).sum() <= len(y)


def test_it_recovers_sparse_weights_and_follows_the_costs():
    np.testing.assert_allclose(minimum_weighted_sum(X, Y, np.ones(25)), PLANTED, atol=1e-9)
    first = minimum_weighted_sum(np.ones((1, 3)), np.ones(1), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(first, [1, 0, 0])
    last = minimum_weighted_sum(np.ones((1, 3)), np.ones(1), np.array([3.0, 2.0, 1.0]))
    np.testing.assert_allclose(last, [0, 0, 1])


@settings(max_examples=10, deadline=None)
@given(a=st.integers(-8, 8), b=st.integers(-8, 8), c=st.integers(-8, 8))
def test_it_scales_with_its_units(a, b, c):
    scaled = minimum_weighted_sum(10.0**a * X, 10.0**b * Y, 10.0**c * COSTS)
    np.testing.assert_allclose(10.0 ** (a - b) * scaled, minimum_weighted_sum(X, Y, COSTS), atol=1e-8)


def test_the_gap_knows_a_poor_answer():
    multipliers = np.linalg.lstsq(X.T, np.ones(25), rcond=None)[0]
    assert weighted_gap(X, Y, PLANTED, np.ones(25), multipliers) > 1e-3
    assert weighted_gap(X, Y, PLANTED + 1, np.ones(25), multipliers) > 1e-3
    assert weighted_gap(X, Y, -PLANTED, np.ones(25), multipliers) == np.inf


def test_no_solution_and_nan():
    assert np.isnan(minimum_weighted_sum(np.ones((1, 3)), -np.ones(1), np.ones(3))).all()
    assert np.isnan(minimum_weighted_sum(np.zeros((1, 3)), np.ones(1), np.ones(3))).all()
    assert not minimum_weighted_sum(X, 0 * Y, COSTS).any()
    for answer in (
        minimum_weighted_sum(np.nan * X, Y, COSTS),
        minimum_weighted_sum(X, np.nan * Y, COSTS),
        minimum_weighted_sum(X, Y, np.nan * COSTS),
    ):
        assert np.isnan(answer).all()


def test_an_answer_that_is_not_the_best_is_void(monkeypatch):
    from scipy import optimize

    exact = optimize.linprog

    def careless(*arguments, **options):
        solution = exact(*arguments, **options)
        solution.x = solution.x * 1.001
        return solution

    monkeypatch.setattr(optimize, "linprog", careless)
    assert np.isnan(minimum_weighted_sum(X, Y, COSTS)).all()


REFUSED = {
    "costs has the entry 0": lambda: minimum_weighted_sum(X, Y, 0 * COSTS),
    "costs has 2 entries": lambda: minimum_weighted_sum(X, Y, np.ones(2)),
    "y has 3 entries": lambda: minimum_weighted_sum(X, Y[:3], COSTS),
    "X has an infinite": lambda: minimum_weighted_sum(np.inf * np.abs(X), Y, COSTS),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
