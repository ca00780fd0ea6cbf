import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_discrete_lyapunov
from scipy.optimize import minimize

from research.oracles.heavy_ball import (
    batch_variance,
    best_descent,
    best_heavy_ball,
    mode_path,
    slowest_rate,
    stationary_variance,
    variance_path,
)

STEPS = np.arange(60.0)


def iterated(h, rate, beta, steps=60):
    w, v, path = 1.0, 0.0, [1.0]
    for _ in range(steps - 1):
        v = beta * v + h * w
        w -= rate * v
        path.append(w)
    return np.array(path)


@settings(max_examples=20, deadline=None)
@given(h=st.floats(-0.2, 1), rate=st.floats(0, 2), beta=st.floats(0, 0.95))
def test_mode_path_is_what_the_recursion_does(h, rate, beta):
    expected = iterated(h, rate, beta)
    np.testing.assert_allclose(
        mode_path(np.array([h]), rate, beta, STEPS)[:, 0], expected, atol=1e-9 * np.abs(expected).max()
    )


def test_mode_path_without_momentum_is_a_power():
    h = np.array([0.01, 0.5, 1.0])
    np.testing.assert_allclose(mode_path(h, 1.5, 0.0, STEPS), (1 - 1.5 * h) ** STEPS[:, None], atol=1e-14)


@pytest.mark.parametrize(("rate", "beta"), [(0.5, 0.0), (0.5, 0.9), (1.9, 0.5), (0.01, 0.3), (2.9, 0.5)])
def test_slowest_rate_is_the_largest_root(rate, beta):
    h = np.array([0.05, 0.3, 1.0])
    roots = [np.abs(np.roots([1, -(1 + beta - rate * each), beta])).max() for each in h]
    assert slowest_rate(h, rate, beta) == pytest.approx(max(roots))
    assert (slowest_rate(h, rate, beta) < 1) == (rate < 2 * (1 + beta))


@pytest.mark.parametrize("condition_number", [1.5, 100.0, 1e4])
def test_the_best_heavy_ball_by_a_search(condition_number):
    ends = np.array([1 / condition_number, 1.0])
    best = best_heavy_ball(*ends)
    found = minimize(
        lambda at: slowest_rate(ends, abs(at[0]), min(abs(at[1]), 0.9999)),
        (2.0, 0.5),
        method="Nelder-Mead",
        options={"maxiter": 4000, "xatol": 1e-10, "fatol": 1e-12},
    )
    assert best.kept <= found.fun + 1e-9
    assert slowest_rate(ends, best.eta, best.beta) == pytest.approx(best.kept, abs=1e-7)
    descent = best_descent(*ends)
    grid = [slowest_rate(ends, rate, 0.0) for rate in np.linspace(0.01, 2, 500)]
    assert descent.kept <= min(grid)
    assert slowest_rate(ends, descent.eta, 0.0) == pytest.approx(descent.kept)
    assert best.kept < descent.kept
    # known: κ = 100 keeps 9/11 a step, and gradient descent 99/101
    if condition_number == 100:
        assert best.kept == pytest.approx(9 / 11)
        assert descent.kept == pytest.approx(99 / 101)


def test_equal_curvatures_are_solved_in_one_step():
    assert best_descent(2.0, 2.0) == (0.5, 0.0, 0.0)
    assert best_heavy_ball(2.0, 2.0) == pytest.approx((0.5, 0.0, 0.0))


@pytest.mark.parametrize(("h", "rate", "beta"), [(1.0, 0.3, 0.0), (2.0, 0.7, 0.0), (0.5, 0.3, 0.9), (1.0, 2.5, 0.5)])
def test_stationary_variance_by_a_lyapunov_equation(h, rate, beta):
    matrix, kick = np.array([[1 - rate * h, -rate * beta], [h, beta]]), np.array([-rate, 1.0])
    expected = 3.0 * solve_discrete_lyapunov(matrix, np.outer(kick, kick))[0, 0]
    assert stationary_variance(h, rate, beta, 3.0) == pytest.approx(expected)
    assert variance_path(h, rate, beta, 3.0, 0.0, 1.0, np.array([500.0]))[0] == pytest.approx(expected)
    assert math.isinf(stationary_variance(h, 2 * (1 + beta) / h, beta, 3.0))


def test_variance_path_of_the_running_mean_and_without_noise():
    steps = np.array([1.0, 10.0, 100.0])
    # η_t = 1/(h(t + 1)) makes of w the mean of what was seen
    np.testing.assert_allclose(variance_path(2.0, 0.5, 0.0, 4.0, 1.0, 9.0, steps), 1 / steps, rtol=1e-12)
    np.testing.assert_allclose(
        variance_path(0.5, 0.4, 0.8, 0.0, 0.0, 1.0, STEPS), mode_path(np.array([0.5]), 0.4, 0.8, STEPS)[:, 0] ** 2
    )


def test_batch_variance_over_all_batches():
    from itertools import combinations

    values = np.array([1.0, 4.0, -2.0, 0.5, 3.0])
    for batch in range(1, 6):
        means = [np.mean(chosen) for chosen in combinations(values, batch)]
        assert batch_variance(values, batch) == pytest.approx(np.var(means), abs=1e-15)


def test_nan_in_gives_nan():
    nan, one = math.nan, np.ones(1)
    assert np.isnan(mode_path(np.array([nan]), 0.1, 0.0, STEPS)).all()
    assert np.isnan(mode_path(one, nan, 0.0, STEPS)).all()
    assert math.isnan(slowest_rate(one, 0.1, nan))
    assert np.isnan([*best_heavy_ball(nan, 1.0), *best_descent(0.1, nan)]).all()
    assert math.isnan(stationary_variance(1.0, 0.1, 0.0, nan))
    assert np.isnan(variance_path(1.0, 0.1, 0.0, 1.0, nan, 0.0, STEPS)).all()
    assert math.isnan(batch_variance(np.array([nan, 1.0]), 1))


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("momentum is 1", lambda: mode_path(np.ones(1), 0.1, 1.0, STEPS)),
        ("steps begin with", lambda: mode_path(np.ones(1), 0.1, 0.0, np.array([0.5]))),
        ("learning_rate is -1", lambda: slowest_rate(np.ones(1), -1.0, 0.0)),
        ("smallest is 2", lambda: best_heavy_ball(2.0, 1.0)),
        ("smallest is 0", lambda: best_descent(0.0, 1.0)),
        ("curvature is 0", lambda: stationary_variance(0.0, 0.1, 0.0, 1.0)),
        ("noise is -1", lambda: variance_path(1.0, 0.1, 0.0, -1.0, 0.0, 0.0, STEPS)),
        ("steps begin with", lambda: variance_path(1.0, 0.1, 0.0, 1.0, 0.0, 0.0, np.array([-1.0]))),
        ("batch is 4", lambda: batch_variance(np.arange(3.0), 4)),
        ("values has one", lambda: batch_variance(np.ones(1), 1)),
    ],
)
def test_bad_input_is_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()
