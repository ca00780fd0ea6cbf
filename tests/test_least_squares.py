import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from problems import regression
from scipy.sparse.linalg import lsmr

from research.oracles import least_squares

DUAL = {1: np.inf, 2: 2, np.inf: 1}
ORDERS = [1, 2, np.inf]


def test_minimum_l2_norm_meets_its_conditions_and_agrees_with_lsmr():
    X, y = regression()
    weights = least_squares.minimum_l2_norm(X, y)
    np.testing.assert_allclose(X @ weights, y, rtol=1e-12)
    np.testing.assert_allclose(least_squares.null_component(X, weights), 0, atol=1e-14)
    np.testing.assert_allclose(weights, lsmr(X, y, atol=1e-14, btol=1e-14)[0], rtol=1e-9)


def test_minimum_l2_norm_nearest_to_a_start_is_where_gradient_descent_ends():
    X, y = regression(1)
    start = np.random.default_rng(2).normal(size=20)
    weights = start
    for _ in range(4000):
        weights = weights - 0.9 * least_squares.stability_threshold(X) * X.T @ (X @ weights - y) / len(y)
    oracle = least_squares.minimum_l2_norm(X, y, nearest_to=start)
    np.testing.assert_allclose(oracle, weights, rtol=1e-10)
    np.testing.assert_allclose(
        oracle - least_squares.minimum_l2_norm(X, y), least_squares.null_component(X, start), atol=1e-13
    )


def test_minimum_l2_norm_of_deficient_rank_and_inconsistent_targets():
    X, _ = regression(3, 6, 4)
    X = np.hstack([X, X[:, :2] + X[:, 2:]])
    y = np.arange(6.0)
    weights = least_squares.minimum_l2_norm(X, y)
    np.testing.assert_allclose(weights, np.linalg.lstsq(X, y, rcond=None)[0], rtol=1e-10)
    assert np.linalg.norm(X @ weights - y) > 0.1


@pytest.mark.parametrize("order", [1, np.inf])
def test_interpolants_agree_with_a_cone_program(order):
    import cvxpy

    solve = least_squares.minimum_l1_norm if order == 1 else least_squares.minimum_linf_norm
    X, y = regression(4)
    weights = solve(X, y)
    np.testing.assert_allclose(X @ weights, y, atol=1e-10)
    variable = cvxpy.Variable(20)
    program = cvxpy.Problem(cvxpy.Minimize(cvxpy.norm(variable, order)), [X @ variable == y])
    program.solve(solver=cvxpy.CLARABEL)
    np.testing.assert_allclose(weights, variable.value, atol=1e-6)
    assert np.linalg.norm(weights, order) < np.linalg.norm(least_squares.minimum_l2_norm(X, y), order) * 0.99


def test_minimum_l1_norm_recovers_a_sparse_vector():
    X, _ = regression(5, 30, 60)
    sparse = np.zeros(60)
    sparse[[3, 17, 40]] = 1.0, -2.0, 0.5
    np.testing.assert_allclose(least_squares.minimum_l1_norm(X, X @ sparse), sparse, atol=1e-10)


@pytest.mark.parametrize("solve", [least_squares.minimum_l1_norm, least_squares.minimum_linf_norm])
def test_interpolants_of_targets_out_of_reach_are_void_and_of_zero_are_zero(solve):
    X = np.array([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]])
    assert np.isnan(solve(X, np.array([1.0, 1.5]))).all()
    assert np.isnan(solve(0 * X, np.array([1.0, 1.5]))).all()
    assert not solve(X, np.zeros(2)).any()
    assert np.isfinite(solve(X, np.ones(2))).all()


@pytest.mark.parametrize("solve", [least_squares.minimum_l2_norm, least_squares.minimum_l1_norm])
@settings(max_examples=10, deadline=None)
@example(exponents=(0, -11))
@example(exponents=(11, 11))
@given(exponents=st.tuples(st.integers(-6, 6), st.integers(-6, 6)))
def test_interpolants_scale_with_their_data(solve, exponents):
    X, y = regression(6, 4, 9)
    a, b = 10.0 ** np.array(exponents)
    np.testing.assert_allclose(solve(a * X, b * y) * a / b, solve(X, y), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("strength", [1e-6, 0.3, 50.0])
@pytest.mark.parametrize("shape", [(8, 20), (30, 5)])
def test_ridge_has_no_gradient_and_solves_the_normal_equations(strength, shape):
    X, y = regression(7, *shape)
    weights = least_squares.ridge(X, y, strength)
    gradient = X.T @ (X @ weights - y) / len(y) + strength * weights
    np.testing.assert_allclose(gradient, 0, atol=1e-14 * np.linalg.norm(X.T @ y))
    normal = X.T @ X / len(y) + strength * np.eye(shape[1])
    np.testing.assert_allclose(weights, np.linalg.solve(normal, X.T @ y / len(y)), rtol=1e-7, atol=1e-9)


def test_ridge_approaches_the_minimum_norm_solution_linearly():
    X, y = regression(8)
    limit = least_squares.minimum_l2_norm(X, y)
    distances = [np.linalg.norm(least_squares.ridge(X, y, strength) - limit) for strength in (1e-4, 1e-5)]
    assert distances[0] / distances[1] == pytest.approx(10, rel=1e-2)
    np.testing.assert_array_equal(least_squares.ridge(X, y, 0.0), limit)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_stability_threshold_separates_convergence_from_divergence(momentum):
    X, y = regression(9, 10, 4)
    optimum, threshold = least_squares.ridge(X, y, 0.2), least_squares.stability_threshold(X, 0.2, momentum)
    ends = []
    for factor in (0.99, 1.01):
        weights, velocity = np.ones(4), np.zeros(4)
        for _ in range(6000):
            velocity = momentum * velocity + X.T @ (X @ weights - y) / 10 + 0.2 * weights
            weights = weights - factor * threshold * velocity
            if np.linalg.norm(weights) > 1e6:
                break
        ends.append(np.linalg.norm(weights - optimum))
    assert ends[0] < 1e-8
    assert ends[1] > 1e3


def test_stability_threshold_without_curvature_is_infinite():
    assert least_squares.stability_threshold(np.zeros((2, 3))) == math.inf
    assert least_squares.stability_threshold(np.zeros((2, 3)), 0.5) == 4.0


def test_null_component_is_an_orthogonal_projection():
    X, _ = regression(10)
    w = np.random.default_rng(11).normal(size=20)
    part = least_squares.null_component(X, w)
    np.testing.assert_allclose(X @ part, 0, atol=1e-13)
    np.testing.assert_allclose(least_squares.null_component(X, part), part, atol=1e-14)
    assert part @ (w - part) == pytest.approx(0, abs=1e-13)
    assert np.isnan(least_squares.null_component(X, np.full(20, np.inf))).all()


def test_an_undecided_rank_is_void():
    X, y = regression(12, 3, 5)
    X[2] = X[0] + 1e-11 * np.arange(5)
    assert np.isnan(least_squares.minimum_l2_norm(X, y)).all()
    assert np.isnan(least_squares.ridge(X, y, 0.1)).all()
    assert np.isnan(least_squares.null_component(X, np.ones(5))).all()


def test_broken_least_squares_answers_fail_their_certificates():
    X, y = regression(13)
    start = np.zeros(20)
    right = least_squares.minimum_l2_norm(X, y)
    assert least_squares.projection_residual(X, y, right, start) < 1e-14
    elsewhere = right + 1e-6 * least_squares.null_component(X, np.ones(20))
    assert least_squares.projection_residual(X, y, elsewhere, start) > 1e-8
    assert least_squares.projection_residual(X, y, right * (1 + 1e-6), start) > 1e-8
    assert least_squares.ridge_error(X, y, least_squares.ridge(X, y, 0.1), 0.2) > 0.01
    multipliers = np.linalg.lstsq(X.T, right, rcond=None)[0]
    assert least_squares.duality_gap(X, y, right, multipliers, 2) < 1e-12
    assert least_squares.duality_gap(X, y, right, multipliers, 1) > 0.01
    assert least_squares.duality_gap(X, y, least_squares.minimum_l1_norm(X, y), multipliers, 2) > 0.01
    assert not least_squares.duality_gap(X, y, np.full(20, np.nan), multipliers, 1) <= 1


def test_an_oracle_whose_solver_errs_is_void(monkeypatch):
    from scipy import optimize

    X, y = regression(14)
    exact = optimize.linprog

    def careless(*arguments, **options):
        solution = exact(*arguments, **options)
        solution.x = solution.x * (1 + 1e-6)
        return solution

    monkeypatch.setattr(optimize, "linprog", careless)
    assert np.isnan(least_squares.minimum_l1_norm(X, y)).all()
    assert np.isnan(least_squares.minimum_linf_norm(X, y)).all()


def test_smallest_eigenvalue_passes_over_the_null_space():
    random = np.random.default_rng(0)
    X = random.normal(size=(9, 4)) @ random.normal(size=(4, 6))
    eigenvalues = np.linalg.eigvalsh(X.T @ X / 9)
    assert least_squares.smallest_eigenvalue(X) == pytest.approx(eigenvalues[2], rel=1e-9)
    assert math.isnan(least_squares.smallest_eigenvalue(np.full((2, 3), np.nan)))
