import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from scipy.sparse.linalg import lsmr
from scipy.stats import multivariate_normal

from research.oracles import least_squares, low_rank, margin, mean_field

DUAL = {1: np.inf, 2: 2, np.inf: 1}
ORDERS = [1, 2, np.inf]


def regression(seed=0, samples=8, features=20):
    random = np.random.default_rng(seed)
    return random.normal(size=(samples, features)), random.normal(size=samples)


def classification(seed=0, samples=12, features=6):
    random = np.random.default_rng(seed)
    X = random.normal(size=(samples, features))
    return X, np.sign(X @ random.normal(size=features))


def overlapping(seed=0, samples=60, features=4):
    random = np.random.default_rng(seed)
    X = random.normal(size=(samples, features))
    return X, np.sign(X @ random.normal(size=features) + 2 * random.normal(size=samples))


def test_no_oracle_imports_jax_and_the_slow_solvers_wait():
    program = """
import sys
from research.oracles import inputs, least_squares, low_rank, margin, mean_field
print([name for name in ("jax", "flax", "cvxpy", "sklearn", "scipy.optimize") if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


# Least squares


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


@pytest.mark.parametrize("order", ORDERS)
def test_a_separator_that_is_not_the_best_is_void(monkeypatch, order):
    X, y = classification(24, 8, 20)
    for solver in ("_linear_program", "_least_distance"):
        exact = getattr(margin, solver)

        def careless(*problem, exact=exact):
            weights, multipliers = exact(*problem)
            return weights * (1 + 1e-3 * np.arange(20)), multipliers

        monkeypatch.setattr(margin, solver, careless)
    assert np.isnan(margin.maximum_margin(X, y, order)).all()


# Margins


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(12, 6), (10, 30)])
def test_maximum_margin_agrees_with_a_cone_program(order, shape):
    import cvxpy

    X, y = classification(20, *shape)
    weights = margin.maximum_margin(X, y, order)
    assert (y * (X @ weights)).min() == pytest.approx(1, abs=1e-9)
    variable = cvxpy.Variable(shape[1])
    program = cvxpy.Problem(cvxpy.Minimize(cvxpy.norm(variable, order)), [cvxpy.multiply(y, X @ variable) >= 1])
    program.solve(solver=cvxpy.CLARABEL)
    np.testing.assert_allclose(weights, variable.value, atol=1e-5 * np.abs(weights).max())
    assert margin.margin(X, y, weights, order) == pytest.approx(1 / program.value, rel=1e-6)
    for other in set(ORDERS) - {order}:
        assert margin.margin(X, y, margin.maximum_margin(X, y, other), order) < margin.margin(X, y, weights, order)


def test_support_multipliers_meet_the_kkt_conditions():
    X, y = classification(21, 40, 10)
    weights, alpha = margin.maximum_margin(X, y, 2), margin.support_multipliers(X, y)
    np.testing.assert_allclose((alpha * y) @ X, weights, rtol=1e-9)
    assert alpha.min() == 0
    np.testing.assert_allclose(alpha * (y * (X @ weights) - 1), 0, atol=1e-8 * alpha.max())
    assert alpha.sum() == pytest.approx(weights @ weights)


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=8, deadline=None)
@given(exponent=st.integers(-8, 8))
def test_maximum_margin_is_scale_equivariant(order, exponent):
    X, y = classification(22, 8, 5)
    scaled = margin.maximum_margin(10.0**exponent * X, y, order)
    np.testing.assert_allclose(10.0**exponent * scaled, margin.maximum_margin(X, y, order), rtol=1e-6, atol=1e-9)


def test_a_thin_margin_is_still_certified():
    X = np.array([[1.0, 1e-4], [-1.0, 1e-4]])
    np.testing.assert_allclose(margin.maximum_margin(X, np.ones(2), 2), [0, 1e4], atol=1e-6)


def test_data_without_a_separator():
    X, y = overlapping()
    assert not margin.separable(X, y)
    for order in ORDERS:
        assert np.isnan(margin.maximum_margin(X, y, order)).all()
    assert np.isnan(margin.support_multipliers(X, y)).all()
    assert math.isnan(margin.margin_gap_slope(X, y))
    assert margin.separable(*classification())
    # Separable with a threshold, not through the origin.
    assert not margin.separable(np.array([[1.0], [2.0]]), np.array([-1.0, 1.0]))
    assert not margin.separable(np.zeros((2, 1)), np.ones(2))


def gradient_flow_slope(X, y, first, last):
    """Integrate the flow of the logistic loss in s = ln t and regress 1/gap on s."""
    Z, best = X * y[:, None], 1 / np.linalg.norm(margin.maximum_margin(X, y, 2))
    flow = lambda s, w: Z.T @ np.exp(s - np.logaddexp(0, Z @ w)) / len(Z)
    times = np.linspace(first, last, 12)
    path = solve_ivp(flow, (0, last), np.ones(X.shape[1]), method="LSODA", t_eval=times, rtol=1e-8, atol=1e-9)
    gaps = [1 - margin.margin(X, y, w, 2) / best for w in path.y.T]
    return np.polyfit(times, 1 / np.array(gaps), 1)[0]


@pytest.mark.parametrize("seed", range(4))
def test_margin_gap_slope_is_that_of_the_gradient_flow(seed):
    X, y = classification(seed)
    assert margin.margin_gap_slope(X, y) == pytest.approx(gradient_flow_slope(X, y, 500, 2000), rel=1e-3)


def test_margin_gap_slope_with_copies_of_a_sample():
    X, y = classification(3)
    heavy = np.argmax(margin.support_multipliers(X, y))
    X, y = np.vstack([X, X[[heavy]]]), np.append(y, y[heavy])
    alpha = margin.support_multipliers(X, y)
    assert alpha[heavy] == pytest.approx(alpha[-1])
    np.testing.assert_allclose((alpha * y) @ X, margin.maximum_margin(X, y, 2), rtol=1e-8)
    assert margin.margin_gap_slope(X, y) == pytest.approx(gradient_flow_slope(X, y, 500, 2000), rel=1e-3)


def test_margin_gap_slope_of_the_symmetric_toy_is_infinite():
    X = np.array([[0.5, 1.5], [1.5, 0.5], [-0.5, -1.5], [-1.5, -0.5]])
    y = np.array([1.0, 1.0, -1.0, -1.0])
    np.testing.assert_allclose(margin.support_multipliers(X, y), 1 / 8)
    assert margin.margin_gap_slope(X, y) == math.inf


def test_a_sample_on_the_margin_without_a_multiplier_is_void():
    X = np.array([[0.0, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(margin.maximum_margin(X, np.ones(2), 2), [0, 1], atol=1e-12)
    assert np.isnan(margin.support_multipliers(X, np.ones(2))).all()


def test_margin_of_weights_zero_or_diverged_is_nan():
    X, y = classification()
    for bad in (0.0, np.nan, np.inf):
        assert math.isnan(margin.margin(X, y, np.full(6, bad), 2))
    assert margin.margin(X, y, np.full(6, 1e300), 2) == pytest.approx(margin.margin(X, y, np.ones(6), 2))


@pytest.mark.parametrize("weight_decay", [0.0, 1e-3, 1.0])
def test_logistic_optimum_agrees_with_scikit_learn(weight_decay):
    from sklearn.linear_model import LogisticRegression

    X, y = overlapping()
    weights = margin.logistic_optimum(X, y, weight_decay)
    gradient = weight_decay * weights - (y / (1 + np.exp(y * (X @ weights)))) @ X / len(y)
    np.testing.assert_allclose(gradient, 0, atol=1e-14)
    strength = 1 / (weight_decay * len(y)) if weight_decay else np.inf
    model = LogisticRegression(C=strength, fit_intercept=False, tol=1e-12, max_iter=10_000).fit(X, y)
    np.testing.assert_allclose(weights, model.coef_[0], rtol=1e-5)


def test_logistic_optimum_of_separable_data_turns_to_the_maximum_margin():
    X, y = classification(23)
    assert np.isnan(margin.logistic_optimum(X, y, 0.0)).all()
    target = margin.maximum_margin(X, y, 2)
    gaps = []
    for weight_decay in (1e-4, 1e-8, 1e-12):
        weights = margin.logistic_optimum(X, y, weight_decay)
        gaps.append(1 - margin.margin(X, y, weights, 2) * np.linalg.norm(target))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.03


def test_logistic_optimum_without_a_finite_minimiser_or_with_many():
    # One direction is separated, the other overlaps: the infimum is not attained, though no w has all margins > 0.
    X, y = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.array([1.0, 1.0, 1.0, -1.0])
    assert not margin.separable(X, y)
    assert np.isnan(margin.logistic_optimum(X, y, 0.0)).all()
    assert np.isfinite(margin.logistic_optimum(X, y, 0.01)).all()
    X, y = overlapping()
    twice = margin.logistic_optimum(np.hstack([X, X]), y, 0.0)
    np.testing.assert_allclose(twice, np.tile(margin.logistic_optimum(X, y, 0.0) / 2, 2), rtol=1e-8)
    assert not margin.logistic_optimum(0 * X, y, 0.0).any()


def test_broken_margins_fail_their_certificates():
    X, y = classification(24, 8, 20)
    weights, alpha = margin.maximum_margin(X, y, 2), margin.support_multipliers(X, y)
    assert margin.duality_gap(X, y, weights, alpha, 2) < 1e-12
    rival = margin.maximum_margin(X, y, 1)
    assert margin.duality_gap(X, y, rival, alpha, 2) > 1e-3
    assert margin.duality_gap(X, y, weights, alpha, 1) > 1e-3
    assert margin.duality_gap(X, y, weights, np.roll(alpha, 1), 2) > 1e-3
    assert margin.duality_gap(X, y, weights, -alpha, 2) == math.inf
    assert margin.duality_gap(X, y, 2 * weights, alpha, 2) == math.inf
    assert margin.newton_distance(X, y, margin.logistic_optimum(X, y, 0.1), 0.11) > 1e-3
    assert margin.newton_distance(X, y, np.full(20, np.nan), 0.1) == math.inf


# Low rank


def completion(seed=0, rows=8, columns=7, rank=1, share=0.6):
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(rows, rank)) @ random.normal(size=(rank, columns))
    return random.random((rows, columns)) < share, matrix


def singular_value_thresholding(mask, values, steps=20_000):
    """Douglas-Rachford between the nuclear norm and the observed entries."""
    state = np.where(mask, values, 0.0)
    for _ in range(steps):
        U, s, Vt = np.linalg.svd(state, full_matrices=False)
        shrunk = (U * np.maximum(s - 1.0, 0)) @ Vt
        reflected = 2 * shrunk - state
        state = state + np.where(mask, values, reflected) - shrunk
        if np.abs(np.where(mask, values, reflected) - shrunk).max() < 1e-10:
            break
    return np.where(mask, values, shrunk)


def test_minimum_nuclear_norm_agrees_with_douglas_rachford():
    mask, matrix = completion(4, rank=2, share=0.5)
    found = low_rank.minimum_nuclear_norm(mask, np.where(mask, matrix, np.nan))
    np.testing.assert_array_equal(found[mask], matrix[mask])
    rival = singular_value_thresholding(mask, matrix)
    assert np.linalg.norm(found, "nuc") == pytest.approx(np.linalg.norm(rival, "nuc"), rel=1e-6)
    np.testing.assert_allclose(found, rival, atol=1e-4)
    assert np.linalg.norm(found, "nuc") < 0.99 * np.linalg.norm(np.where(mask, matrix, 0), "nuc")


def test_minimum_nuclear_norm_recovers_rank_one_from_enough_entries_at_any_scale():
    mask, matrix = completion(0, share=0.85)
    for scale in (1e-6, 1.0, 1e6):
        found = low_rank.minimum_nuclear_norm(mask, scale * matrix)
        np.testing.assert_allclose(found / scale, matrix, atol=1e-5)


def test_minimum_nuclear_norm_of_a_set_of_solutions_has_the_certified_norm():
    mask, matrix = completion(1, rank=2, share=0.5)
    found, rival = low_rank.minimum_nuclear_norm(mask, matrix), singular_value_thresholding(mask, matrix)
    assert np.linalg.norm(found, "nuc") == pytest.approx(np.linalg.norm(rival, "nuc"), rel=1e-6)
    assert np.abs(found - rival).max() > 0.1


def test_minimum_nuclear_norm_where_it_is_known():
    mask, values = np.array([[False, True], [True, True]]), np.array([[np.nan, 1.0], [1.0, 0.0]])
    assert np.linalg.norm(low_rank.minimum_nuclear_norm(mask, values), "nuc") == pytest.approx(2)
    np.testing.assert_array_equal(low_rank.minimum_nuclear_norm(mask | True, np.eye(2)), np.eye(2))
    assert not low_rank.minimum_nuclear_norm(mask & False, values).any()
    assert np.isnan(low_rank.minimum_nuclear_norm(mask | True, values)).all()


def test_broken_completions_fail_their_certificate(monkeypatch):
    mask, matrix = completion(3)
    right, dual = low_rank._semidefinite_program(mask, np.where(mask, matrix, 0))
    assert low_rank.duality_gap(mask, matrix, right, dual) < 1e-7
    zeros = np.where(mask, matrix, 0.0)
    assert low_rank.duality_gap(mask, matrix, zeros, dual) > 1e-3
    assert low_rank.duality_gap(mask, matrix, right * 1.001, dual) > 1e-4
    assert low_rank.duality_gap(mask, matrix, right, np.roll(dual, 1)) > 1e-3
    assert low_rank.duality_gap(mask, matrix, np.full_like(right, np.nan), dual) == math.inf
    monkeypatch.setattr(low_rank, "_semidefinite_program", lambda *_: (zeros, dual))
    assert np.isnan(low_rank.minimum_nuclear_norm(mask, matrix)).all()


def test_effective_rank():
    assert low_rank.effective_rank(np.eye(5)[:3]) == pytest.approx(3)
    assert low_rank.effective_rank(np.outer([1.0, 2.0], [3.0, -1.0])) == pytest.approx(1)
    p = np.array([0.7, 0.2, 0.1])
    assert low_rank.effective_rank(1e-200 * np.diag(p)) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert math.isnan(low_rank.effective_rank(np.zeros((2, 2))))
    assert math.isnan(low_rank.effective_rank(np.full((2, 2), np.inf)))


# Mean field


def reference(function, q):
    """Gaussian expectation by adaptive quadrature, cut where the function bends."""
    density = lambda z: function(np.full(1, np.sqrt(q) * z))[0] * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    cuts = {0.0, 1.0, 4.0, 12.0} | {min(width / np.sqrt(q), 12.0) for width in (0.1, 1.0, 5.0, 30.0)}
    cuts = sorted(cuts | {-cut for cut in cuts})
    parts = [quad(density, *ends, epsabs=1e-13, epsrel=1e-12, limit=200)[0] for ends in pairwise(cuts)]
    return sum(parts)


@pytest.mark.parametrize("q", [1e-3, 1.0, 30.0, 100.0])
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "erf", "softsign", "relu", "linear"])
def test_gaussian_expectations_agree_with_adaptive_quadrature(name, q):
    activation = mean_field.ACTIVATIONS[name]
    for function in (lambda u: activation.value(u) ** 2, lambda u: activation.slope(u) ** 2):
        assert mean_field.gaussian_expectation(function, q) == pytest.approx(reference(function, q), rel=1e-11)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "erf", "softsign"])
def test_activations_have_the_derivatives_they_name(name):
    activation = mean_field.ACTIVATIONS[name]
    x = np.array([-9.0, -2.0, -0.3, 0.4, 1.7, 8.0])
    difference = lambda function: (function(x + 1e-5) - function(x - 1e-5)) / 2e-5
    np.testing.assert_allclose(activation.slope(x), difference(activation.value), rtol=1e-5, atol=1e-10)
    np.testing.assert_allclose(activation.curvature(x), difference(activation.slope), rtol=1e-5, atol=1e-10)
    assert activation.slope(np.array([-800.0, 800.0])).max() < 2e-6


def test_erf_has_closed_forms():
    q = 3.7
    field = mean_field.mean_field("erf", 4.0, 0.2)
    assert field.q == pytest.approx(4 * 2 / np.pi * np.arcsin(2 * field.q / (1 + 2 * field.q)) + 0.2, rel=1e-12)
    assert field.chi == pytest.approx(4 * 4 / np.pi / np.sqrt(1 + 4 * field.q), rel=1e-12)
    covariance = 2 * field.q * field.correlation / (1 + 2 * field.q)
    assert field.q * field.correlation == pytest.approx(4 * 2 / np.pi * np.arcsin(covariance) + 0.2, rel=1e-9)
    slope = 16 / np.pi / np.sqrt((1 + 2 * field.q) ** 2 - (2 * field.q * field.correlation) ** 2)
    assert field.correlation_depth == pytest.approx(-1 / np.log(slope), rel=1e-8)
    absolute = mean_field.gaussian_expectation(lambda u: np.abs(mean_field.ACTIVATIONS["erf"].value(u)), q)
    assert (
        mean_field.saturation("erf", q) == absolute == pytest.approx(2 / np.pi * np.arctan(np.sqrt(2 * q)), rel=1e-12)
    )


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softsign"])
@pytest.mark.parametrize("angle", [1e-3, 0.4, 1.5])
def test_pair_expectations_agree_with_a_plain_grid(name, angle):
    activation, q = mean_field.ACTIVATIONS[name], 6.0
    z = np.linspace(-8, 8, 3201)
    density = multivariate_normal(np.zeros(2), np.eye(2)).pdf(np.stack(np.meshgrid(z, z), -1)) * (z[1] - z[0]) ** 2
    u1, u2 = np.sqrt(q) * z, np.sqrt(q) * (np.cos(angle) * z + np.sin(angle) * z[:, None])
    spread = (density * (activation.value(u1) - activation.value(u2)) ** 2).sum()
    assert mean_field._pair_expectation(activation.value, q, angle, False) == pytest.approx(spread, rel=3e-4)
    slopes = (density * activation.slope(u1) * activation.slope(u2)).sum()
    assert mean_field._pair_expectation(activation.slope, q, angle, True) == pytest.approx(slopes, rel=3e-4)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "erf", "softsign"])
@pytest.mark.parametrize("weight", [0.5, 3.0, 150.0])
def test_fixed_points_are_where_the_maps_lead(name, weight):
    bias = 0.3
    field = mean_field.mean_field(name, weight, bias)
    path = mean_field.variance_path(name, weight, bias, 2.0, 80)
    assert path[0] == 2.0
    assert path[-1] == pytest.approx(field.q, rel=1e-9)
    late = np.abs(path[2:] - field.q)
    shrinking = np.flatnonzero(late > 1e-9 * field.q)[-1]
    assert late[shrinking] / late[shrinking - 1] == pytest.approx(np.exp(-1 / field.variance_depth), rel=1e-2)
    assert mean_field.residual(name, weight, bias, field) < 1e-11
    assert (field.correlation == 1) == (field.chi <= 1)
    activation = mean_field.ACTIVATIONS[name]
    near, far = np.arccos(field.correlation), 1.2
    for _ in range(200):
        spread = weight * mean_field._pair_expectation(activation.value, field.q, far, False)
        far = np.arccos(1 - spread / (2 * field.q))
    assert far == pytest.approx(near, abs=1e-5)


def test_numbers_of_the_published_phase_diagram():
    assert mean_field.edge_of_chaos("tanh", 0.0) == 1.0
    assert mean_field.edge_of_chaos("tanh", 0.05) == pytest.approx(1.76095, abs=1e-5)
    assert mean_field.edge_of_chaos("tanh", 0.1) == pytest.approx(1.98607, abs=1e-5)
    assert mean_field.mean_field("tanh", 1.76095, 0.05).q == pytest.approx(0.57005, abs=1e-5)
    field = mean_field.mean_field("tanh", 1.3**2, 0.3**2)
    assert (field.correlation_depth, field.variance_depth) == (
        pytest.approx(16.1, abs=0.05),
        pytest.approx(1.34, abs=0.005),
    )
    for width, chi in ((1, 0.0557), (2, 0.172), (4, 0.399), (8, 0.795)):
        assert mean_field.mean_field("sigmoid", width**2.0, 0.0).chi == pytest.approx(chi, abs=5e-4)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "erf", "softsign"])
@pytest.mark.parametrize("bias", [0.0, 1e-6, 0.1, 4.0])
def test_edge_of_chaos_is_where_chi_is_one(name, bias):
    edge = mean_field.edge_of_chaos(name, bias)
    assert mean_field.mean_field(name, edge, bias).chi == pytest.approx(1, abs=1e-8)
    below, above = (mean_field.mean_field(name, factor * edge, bias) for factor in (0.97, 1.03))
    assert below.chi < 1 < above.chi
    assert below.correlation == 1 > above.correlation


def test_the_logistic_edge_lies_in_saturation():
    edge = mean_field.edge_of_chaos("sigmoid", 0.0)
    field = mean_field.mean_field("sigmoid", edge, 0.0)
    assert (edge, field.q) == (pytest.approx(103.0076, abs=1e-4), pytest.approx(45.6243, abs=1e-4))
    assert mean_field.saturation("sigmoid", field.q) == pytest.approx(0.84, abs=0.005)


def test_limits_without_bias():
    still = mean_field.mean_field("tanh", 0.5, 0.0)
    assert still == mean_field.MeanField(
        0.0, pytest.approx(0.5), 1.0, pytest.approx(1 / np.log(2)), pytest.approx(1 / np.log(2))
    )
    critical = mean_field.mean_field("tanh", 1.0, 0.0)
    assert critical == mean_field.MeanField(0.0, pytest.approx(1.0), 1.0, math.inf, math.inf)
    assert mean_field.mean_field("tanh", 4.0, 0.0).correlation == 0.0
    assert mean_field.mean_field("tanh", 0.0, 0.3) == mean_field.MeanField(pytest.approx(0.3), 0.0, 1.0, 0.0, 0.0)
    near = mean_field.mean_field("tanh", 1 + 1e-4, 0.0)
    assert near.q == pytest.approx(5e-5, rel=1e-2)


def test_homogeneous_activations_in_closed_form():
    relu = mean_field.mean_field("relu", 1.0, 0.1)
    assert relu == mean_field.MeanField(
        pytest.approx(0.2), 0.5, 1.0, pytest.approx(1 / np.log(2)), pytest.approx(1 / np.log(2))
    )
    np.testing.assert_allclose(mean_field.variance_path("relu", 1.0, 0.1, 3.0, 80)[-1], relu.q)
    critical = mean_field.mean_field("relu", 2.0, 0.0)
    assert math.isnan(critical.q)
    assert critical[1:] == (1.0, 1.0, math.inf, math.inf)
    growing = mean_field.mean_field("relu", 3.0, 0.1)
    assert growing.q == math.inf
    assert np.isnan(growing[2:]).all()
    assert mean_field.mean_field("linear", 0.5, 0.1) == mean_field.mean_field("identity", 0.5, 0.1)
    assert mean_field.edge_of_chaos("relu", 0.0) == 2.0
    assert math.isnan(mean_field.edge_of_chaos("relu", 0.1))
    assert np.isnan(mean_field.variance_path("relu", 1e9, 0.0, 1.0, 60)).all()


def test_saturation_by_definition():
    for q in (1e-8, 1.0, 100.0):
        softsign = lambda x: abs(x) / (1 + abs(x))
        assert mean_field.saturation("tanh", q) == pytest.approx(reference(lambda x: abs(np.tanh(x)), q), rel=1e-10)
        assert mean_field.saturation("sigmoid", q) == pytest.approx(
            reference(lambda x: abs(np.tanh(x / 2)), q), rel=1e-6
        )
        assert mean_field.saturation("softsign", q) == pytest.approx(reference(softsign, q), rel=1e-10)
    assert mean_field.saturation("tanh", 0.0) == mean_field.saturation("sigmoid", 0.0) == 0.0
    assert mean_field.saturation("tanh", 1e12) == pytest.approx(1, abs=1e-5)
    assert math.isnan(mean_field.saturation("relu", 1.0))
    assert math.isnan(mean_field.saturation("tanh", math.inf))


@pytest.mark.parametrize(
    ("name", "weight", "bias"), [("tanh", 4.0, 0.1), ("sigmoid", 30.0, 0.1), ("softsign", 6.0, 0.2)]
)
def test_wide_random_networks_settle_on_the_mean_field(name, weight, bias):
    width, networks, layers = 300, 60, 20
    activation, field = mean_field.ACTIVATIONS[name], mean_field.mean_field(name, weight, bias)
    statistics = []
    for seed in range(networks):
        random = np.random.default_rng(seed)
        cosine = 0.5
        first, second = random.normal(size=(2, width)) * np.sqrt(field.q)
        u = np.stack([first, cosine * first + np.sqrt(1 - cosine**2) * second])
        for _ in range(layers):
            matrix = random.normal(size=(width, width)) * np.sqrt(weight / width)
            u = activation.value(u) @ matrix + random.normal(size=width) * np.sqrt(bias)
        products = u @ u.T / width
        scaled = 2 * (activation.value(u) - activation.low) / (activation.high - activation.low) - 1
        sizes = np.trace(products) / 2
        statistics.append([sizes, products[0, 1] / np.sqrt(products[0, 0] * products[1, 1]), np.abs(scaled).mean()])
    values, errors = np.mean(statistics, axis=0), np.std(statistics, axis=0, ddof=1) / np.sqrt(networks)
    expected = [field.q, field.correlation, mean_field.saturation(name, field.q)]
    # Four standard errors and a finite-width bias of order 1/width.
    tolerance = 4 * errors + 5 / width * np.array([field.q, 1.0, 1.0])
    assert (np.abs(values - expected) < tolerance).all(), (values, expected, errors)
    assert (tolerance < 0.1 * np.array([field.q, 1.0, 1.0])).all()


def test_broken_fixed_points_fail_their_certificate(monkeypatch):
    field = mean_field.mean_field("tanh", 4.0, 0.1)
    for wrong in (field._replace(q=field.q * 1.0001), field._replace(correlation=1.0), field._replace(correlation=0.5)):
        assert mean_field.residual("tanh", 4.0, 0.1, wrong) > 1e-6
    with monkeypatch.context() as patch:
        patch.setattr(mean_field, "_fixed_variance", lambda *_: field.q * 1.0001)
        assert np.isnan(mean_field.mean_field("tanh", 4.0, 0.1)).all()
    with monkeypatch.context() as patch:
        patch.setattr(mean_field, "_fixed_angle", lambda *_: 0.3)
        assert np.isnan(mean_field.mean_field("tanh", 4.0, 0.1)).all()
    # A quadrature that is wrong where it answers disagrees with the finer one of the certificate.
    exact = mean_field.gaussian_expectation
    with monkeypatch.context() as patch:
        coarse = lambda function, q, order=mean_field.ORDER: exact(function, q, order) * (1 + (order < 25) * 1e-6)
        patch.setattr(mean_field, "gaussian_expectation", coarse)
        assert math.isnan(mean_field.saturation("tanh", 3.0))
        assert np.isnan(mean_field.variance_path("tanh", 4.0, 0.1, 3.0, 4)).all()
        assert math.isnan(mean_field.edge_of_chaos("sigmoid", 5.0))


# What is refused


X, Y = classification()
REFUSED = {
    "X has shape": lambda: least_squares.minimum_l2_norm(X[0], Y),
    "y has 3 entries": lambda: least_squares.minimum_l1_norm(X, Y[:3]),
    "X has an infinite": lambda: least_squares.minimum_linf_norm(np.full((2, 2), np.inf), Y[:2]),
    "nearest_to has 2 entries": lambda: least_squares.minimum_l2_norm(X, Y, np.ones(2)),
    "strength is -1": lambda: least_squares.ridge(X, Y, -1.0),
    "strength is 'much'": lambda: least_squares.ridge(X, Y, "much"),
    "momentum is 1": lambda: least_squares.stability_threshold(X, 0.0, 1.0),
    "w has 3 entries": lambda: least_squares.null_component(X, np.ones(3)),
    "X is 'data'": lambda: least_squares.null_component("data", np.ones(3)),
    "order is '2'": lambda: margin.maximum_margin(X, Y, "2"),
    "order is 3": lambda: margin.margin(X, Y, np.ones(6), 3),
    "order is True": lambda: margin.margin(X, Y, np.ones(6), True),
    "y has the label 0": lambda: margin.separable(X, 0 * Y),
    "y has the label 2": lambda: margin.margin_gap_slope(X, 2 * np.abs(Y)),
    "weights has 2 entries": lambda: margin.margin(X, Y, np.ones(2), 2),
    "weight_decay is -1": lambda: margin.logistic_optimum(X, Y, -1.0),
    "mask has entries": lambda: low_rank.minimum_nuclear_norm(2 * np.eye(2), np.eye(2)),
    "values has shape": lambda: low_rank.minimum_nuclear_norm(np.eye(2), np.eye(3)),
    "values has an infinite": lambda: low_rank.minimum_nuclear_norm(np.eye(2), np.full((2, 2), np.inf)),
    "matrix has shape": lambda: low_rank.effective_rank(np.ones(3)),
    "activation is 'swish'": lambda: mean_field.mean_field("swish", 1.0, 1.0),
    "weight_variance is -1": lambda: mean_field.mean_field("tanh", -1.0, 1.0),
    "weight_variance is inf": lambda: mean_field.mean_field("tanh", math.inf, 1.0),
    "bias_variance is -1": lambda: mean_field.edge_of_chaos("tanh", -1.0),
    "first is -1": lambda: mean_field.variance_path("tanh", 1.0, 1.0, -1.0, 3),
    "layers is 0": lambda: mean_field.variance_path("tanh", 1.0, 1.0, 1.0, 0),
    "q is -1": lambda: mean_field.saturation("tanh", -1.0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_nan_in_the_data_gives_nan():
    bad, nan = X.copy(), float("nan")
    bad[0, 0] = nan
    label = Y.copy()
    label[0] = nan
    for samples, labels in ((bad, Y), (X, label)):
        answers = [
            least_squares.minimum_l2_norm(samples, labels),
            least_squares.minimum_l1_norm(samples, labels),
            least_squares.minimum_linf_norm(samples, labels),
            least_squares.ridge(samples, labels, 0.1),
            margin.maximum_margin(samples, labels, 2),
            margin.support_multipliers(samples, labels),
            margin.margin_gap_slope(samples, labels),
            margin.margin(samples, labels, np.ones(6), 1),
            margin.logistic_optimum(samples, labels, 0.1),
        ]
        assert all(np.isnan(answer).all() for answer in answers)
        assert not margin.separable(samples, labels)
    assert np.isnan(least_squares.ridge(X, Y, nan)).all()
    assert np.isnan(least_squares.null_component(bad, np.ones(6))).all()
    assert math.isnan(least_squares.stability_threshold(bad))
    assert math.isnan(least_squares.stability_threshold(X, nan))
    assert np.isnan(mean_field.mean_field("tanh", nan, 0.0)).all()
    assert np.isnan(mean_field.variance_path("tanh", 1.0, 0.0, nan, 3)).all()
    assert math.isnan(mean_field.edge_of_chaos("tanh", nan))
    assert math.isnan(mean_field.saturation("tanh", nan))
