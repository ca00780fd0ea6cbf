import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import regression
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from research.oracles.hyperbolic_entropy import (
    first_gain,
    label_noise_scatter,
    minimum_depth_entropy,
    minimum_hyperbolic_entropy,
    minimum_relative_entropy,
)
from research.oracles.least_squares import minimum_l1_norm, minimum_l2_norm

X, Y = regression(3)
FEATURES = X.shape[1]
UNEVEN = np.exp(np.random.default_rng(1).normal(size=FEATURES))
START = np.random.default_rng(2).normal(size=FEATURES)


def off_the_row_space(vector):
    return np.linalg.norm(X.T @ np.linalg.lstsq(X.T, vector, rcond=None)[0] - vector) / np.linalg.norm(vector)


@pytest.mark.parametrize("nearest_to", [None, START])
@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 1e6, UNEVEN, 1e-6 * UNEVEN])
def test_the_two_conditions_of_optimality(scale, nearest_to):
    w = minimum_hyperbolic_entropy(X, Y, scale, nearest_to)
    np.testing.assert_allclose(X @ w, Y, atol=1e-9)
    start = np.zeros(FEATURES) if nearest_to is None else nearest_to
    assert off_the_row_space(np.arcsinh(w / scale) - np.arcsinh(start / scale)) < 1e-8


@pytest.mark.parametrize("scale", [0.1, UNEVEN])
def test_it_agrees_with_a_general_solver(scale):
    null = np.linalg.svd(X)[2][len(X) :].T
    first = minimum_l2_norm(X, Y)
    gradient = lambda w: np.arcsinh(w / scale) - np.arcsinh(START / scale)
    entropy = lambda w: np.sum(w * gradient(w) - np.hypot(w, scale))
    found = minimize(
        lambda z: entropy(first + null @ z),
        np.zeros(null.shape[1]),
        jac=lambda z: null.T @ gradient(first + null @ z),
        method="BFGS",
        options={"gtol": 1e-9},
    )
    np.testing.assert_allclose(first + null @ found.x, minimum_hyperbolic_entropy(X, Y, scale, START), atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(exponent=st.floats(-6, 6))
def test_it_scales_with_its_units(exponent):
    unit = 10.0**exponent
    small = minimum_hyperbolic_entropy(X, Y, UNEVEN, START)
    np.testing.assert_allclose(minimum_hyperbolic_entropy(X, unit * Y, unit * UNEVEN, unit * START), unit * small)
    np.testing.assert_allclose(minimum_hyperbolic_entropy(unit * X, unit * Y, UNEVEN, START), small, rtol=1e-6)


def test_both_ends():
    l1, l2 = minimum_l1_norm(X, Y), minimum_l2_norm(X, Y)
    np.testing.assert_allclose(minimum_hyperbolic_entropy(X, Y, 1e8), l2, atol=1e-12)
    weighted = UNEVEN * (np.linalg.pinv(X * UNEVEN**0.5) @ Y) / UNEVEN**0.5  # least Σ w²/p
    np.testing.assert_allclose(minimum_hyperbolic_entropy(X, Y, 1e8 * UNEVEN), weighted, atol=1e-12)
    norms = [np.abs(minimum_hyperbolic_entropy(X, Y, 10.0**power)).sum() for power in range(-60, 4, 4)]
    assert norms == sorted(norms)
    assert norms[0] == pytest.approx(np.abs(l1).sum(), rel=1e-3)
    np.testing.assert_allclose(minimum_depth_entropy(X, Y, 1e-6, 3), l1, atol=1e-8)
    np.testing.assert_allclose(minimum_depth_entropy(X, Y, 1e4, 3), l2, atol=1e-8)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_it_is_where_gradient_flow_ends(depth):
    X, y = regression(4, samples=3, features=6)
    w = lambda halves: halves[:6] ** depth - halves[6:] ** depth

    def field(_, halves):
        gradient = X.T @ (X @ w(halves) - y)
        return -depth * np.concatenate([gradient, -gradient]) * halves ** (depth - 1)

    path = solve_ivp(field, (0, 200), np.full(12, 0.5), method="LSODA", rtol=1e-11, atol=1e-12)
    assert np.linalg.norm(X @ w(path.y[:, -1]) - y) < 1e-8
    np.testing.assert_allclose(w(path.y[:, -1]), minimum_depth_entropy(X, y, 0.5, depth), atol=1e-7)


def test_an_uneven_start_is_a_scale_and_a_shift():
    X, y = regression(5, samples=3, features=6)
    initial = np.exp(np.random.default_rng(6).normal(size=(2, 6)) / 2)

    def field(_, halves):
        gradient = X.T @ (X @ (halves[:6] ** 2 - halves[6:] ** 2) - y)
        return -2 * np.concatenate([gradient, -gradient]) * halves

    end = solve_ivp(field, (0, 200), initial.ravel(), method="LSODA", rtol=1e-11, atol=1e-12).y[:, -1]
    u, v = initial
    target = minimum_hyperbolic_entropy(X, y, 2 * u * v, u**2 - v**2)
    np.testing.assert_allclose(end[:6] ** 2 - end[6:] ** 2, target, atol=1e-7)
    assert np.linalg.norm(target - minimum_hyperbolic_entropy(X, y, 2 * u * v)) > 1e-2


def positive(seed=7, samples=4, features=9):
    X, _ = regression(seed, samples, features)
    return X, X @ np.exp(np.random.default_rng(seed).normal(size=features))


def test_relative_entropy_meets_its_conditions_and_a_cone_program():
    import cvxpy

    X, y = positive()
    begin = np.exp(np.random.default_rng(8).normal(size=9))
    w = minimum_relative_entropy(X, y, begin)
    np.testing.assert_allclose(X @ w, y, atol=1e-9)
    log_ratio = np.log(w / begin)
    outside = X.T @ np.linalg.lstsq(X.T, log_ratio, rcond=None)[0] - log_ratio
    assert np.linalg.norm(outside) < 1e-9 * np.linalg.norm(log_ratio)
    variable = cvxpy.Variable(9)
    objective = cvxpy.Minimize(cvxpy.sum(cvxpy.kl_div(variable, begin)))
    cvxpy.Problem(objective, [X @ variable == y]).solve(solver=cvxpy.CLARABEL)
    np.testing.assert_allclose(w, variable.value, atol=1e-3)


def test_relative_entropy_is_where_gradient_flow_on_a_square_ends():
    X, y = positive()
    begin = np.exp(np.random.default_rng(9).normal(size=9))
    field = lambda _, v: -2 * v * (X.T @ (X @ v**2 - y))
    end = solve_ivp(field, (0, 100), np.sqrt(begin), method="LSODA", rtol=1e-11, atol=1e-12).y[:, -1]
    np.testing.assert_allclose(end**2, minimum_relative_entropy(X, y, begin), atol=1e-7)


def test_relative_entropy_without_a_positive_solution_is_void():
    assert np.isnan(minimum_relative_entropy(np.ones((1, 3)), -np.ones(1), np.ones(3))).all()


def test_what_is_not_certified_is_void():
    twice = np.vstack([X, X[:1]])
    assert np.isnan(minimum_hyperbolic_entropy(twice, np.append(Y, 1 + Y[0]), 1.0)).all()
    assert np.isnan(minimum_depth_entropy(X, Y, 1e-9, 8)).all()
    assert not minimum_hyperbolic_entropy(X, 0 * Y, 1.0).any()


def test_nan_in_gives_nan_out():
    nan = np.nan * START
    for answer in (
        minimum_hyperbolic_entropy(np.nan * X, Y, 1.0),
        minimum_hyperbolic_entropy(X, np.nan * Y, 1.0),
        minimum_hyperbolic_entropy(X, Y, nan),
        minimum_hyperbolic_entropy(X, Y, 1.0, nan),
        minimum_depth_entropy(X, Y, np.nan, 3),
        minimum_depth_entropy(X, Y, 1.0, np.nan),
        minimum_relative_entropy(np.nan * X, Y, np.ones(FEATURES)),
        minimum_relative_entropy(X, Y, nan),
    ):
        assert np.isnan(answer).all()


REFUSED = {
    "scale has the entry 0": lambda: minimum_hyperbolic_entropy(X, Y, 0.0),
    "scale has the entry -1": lambda: minimum_hyperbolic_entropy(X, Y, -np.ones(FEATURES)),
    "scale has 2 entries": lambda: minimum_hyperbolic_entropy(X, Y, np.ones(2)),
    "scale is 'small'": lambda: minimum_hyperbolic_entropy(X, Y, "small"),
    "nearest_to has 2 entries": lambda: minimum_hyperbolic_entropy(X, Y, 1.0, np.ones(2)),
    "y has 3 entries": lambda: minimum_depth_entropy(X, Y[:3], 1.0, 3),
    "init_scale is 0": lambda: minimum_depth_entropy(X, Y, 0.0, 3),
    "init_scale is -1": lambda: minimum_depth_entropy(X, Y, -1.0, 3),
    "start has the entry 0": lambda: minimum_relative_entropy(X, Y, np.zeros(FEATURES)),
    "start has 2 entries": lambda: minimum_relative_entropy(X, Y, np.ones(2)),
    "depth is 1": lambda: minimum_depth_entropy(X, Y, 1.0, 1),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_first_gain_is_the_mean_over_all_batches(batch):
    few, targets = X[:4], Y[:4]
    products = few * targets[:, None]
    batches = [products[list(chosen)].mean(axis=0) ** 2 for chosen in itertools.product(range(4), repeat=batch)]
    np.testing.assert_allclose(first_gain(few, targets, batch), np.mean(batches, axis=0), rtol=1e-12)


def test_the_first_gain_of_all_samples_and_of_large_gaussian_data():
    np.testing.assert_allclose(first_gain(X, Y, len(Y)), (X.T @ Y / len(Y)) ** 2, rtol=1e-12)
    random = np.random.default_rng(0)
    inputs = random.normal(size=(1_000_000, 4))
    gain = first_gain(inputs, inputs[:, :2].sum(axis=1), 5)
    assert gain[:2].mean() / gain[2:].mean() == pytest.approx(1 + (5 + 1) / 2, rel=0.02)


def test_the_scatter_of_label_noise_solves_its_lyapunov_equation():
    random = np.random.default_rng(3)
    few, v, rate, noise = random.normal(size=(4, 7)), random.uniform(0.3, 1.5, 7), 1e-5, 0.7
    moved = noise * few * v  # what a wrong label of each sample adds to the gradient of 1/(4n) ‖X v² − y‖²
    curvature = 2 * (few * v).T @ (few * v) / 4
    back, added = np.eye(7) - rate * curvature, rate**2 * moved.T @ moved / 4
    scatter = added
    for _ in range(40):  # the covariance after 2^k steps, by doubling
        scatter, back = scatter + back @ scatter @ back, back @ back
    expected = rate * noise**2 * label_noise_scatter(few, v**2)
    assert 4 * (v**2 * np.diagonal(scatter)).sum() == pytest.approx(expected, rel=1e-3)


def test_gain_and_scatter_name_bad_input_and_pass_nan_on():
    with pytest.raises(ValueError, match="batch is 0"):
        first_gain(X, Y, 0)
    with pytest.raises(ValueError, match="y has 2 entries"):
        first_gain(X, Y[:2], 1)
    with pytest.raises(ValueError, match="w has the entry -1"):
        label_noise_scatter(X, -np.ones(FEATURES))
    with pytest.raises(ValueError, match="w has 2 entries"):
        label_noise_scatter(X, np.ones(2))
    assert np.isnan(first_gain(X, Y * np.nan, 1)).all()
    assert np.isnan(label_noise_scatter(X * np.nan, np.ones(FEATURES)))
