import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import classification, regression

from research.oracles import margin, power_norm
from research.oracles.least_squares import minimum_l1_norm, minimum_l2_norm, minimum_linf_norm, null_component

POWERS = [1.1, 1.5, 2.0, 3.0, 10.0]


@pytest.mark.parametrize("power", POWERS)
def test_minimum_power_norm_agrees_with_a_cone_program(power):
    import cvxpy

    X, y = regression(0)
    weights = power_norm.minimum_power_norm(X, y, power)
    np.testing.assert_allclose(X @ weights, y, atol=1e-9)
    variable = cvxpy.Variable(20)
    cvxpy.Problem(cvxpy.Minimize(cvxpy.pnorm(variable, power)), [X @ variable == y]).solve(solver=cvxpy.CLARABEL)
    np.testing.assert_allclose(weights, variable.value, atol=3e-4)
    size = np.linalg.norm(weights, power)
    assert size <= np.linalg.norm(variable.value, power) * (1 + 1e-7)
    for other in POWERS:
        if other != power:
            assert size < np.linalg.norm(power_norm.minimum_power_norm(X, y, other), power)


@pytest.mark.parametrize("power", [1.5, 2.0, 3.0])
def test_minimum_power_norm_is_stationary_from_any_start_and_agrees_with_a_general_solver(power):
    from scipy.optimize import minimize

    X, y = regression(1, 4, 9)
    start = np.random.default_rng(2).normal(size=9)
    weights = power_norm.minimum_power_norm(X, y, power, start)
    moved = power_norm.mirror(weights, power) - power_norm.mirror(start, power)
    np.testing.assert_allclose(null_component(X, moved), 0, atol=1e-8)
    base = power_norm.mirror(start, power)
    divergence = lambda w: (np.abs(w) ** power).sum() / power - base @ w
    slope = lambda w: power_norm.mirror(w, power) - base
    constraint = {"type": "eq", "fun": lambda w: X @ w - y, "jac": lambda w: X}
    found = minimize(divergence, minimum_l2_norm(X, y), jac=slope, constraints=[constraint], tol=1e-14)
    np.testing.assert_allclose(weights, found.x, atol=1e-5)
    assert np.linalg.norm(weights - power_norm.minimum_power_norm(X, y, power)) > 0.01


def test_minimum_power_norm_has_the_known_limits():
    X, y = regression(3)
    np.testing.assert_allclose(power_norm.minimum_power_norm(X, y, 2.0), minimum_l2_norm(X, y), rtol=1e-9)
    start = np.random.default_rng(4).normal(size=20)
    nearest = minimum_l2_norm(X, y, start)
    np.testing.assert_allclose(power_norm.minimum_power_norm(X, y, 2.0, start), nearest, rtol=1e-9, atol=1e-12)
    # Hölder: the least lp norm has an l1 norm at most d^(1 − 1/p) times the least, and an l∞ norm at most d^(1/p)
    ratio = np.abs(power_norm.minimum_power_norm(X, y, 1.02)).sum() / np.abs(minimum_l1_norm(X, y)).sum()
    assert 1 - 1e-9 <= ratio <= 20 ** (1 - 1 / 1.02)
    ratio = np.abs(power_norm.minimum_power_norm(X, y, 60.0)).max() / np.abs(minimum_linf_norm(X, y)).max()
    assert 1 - 1e-9 <= ratio <= 20 ** (1 / 60)
    assert not power_norm.minimum_power_norm(X, 0 * y, 3.0).any()
    # one equation: w ∝ sign(x)|x|^(q-1), the case of equality in Hölder's inequality
    x = np.array([[1.0, -2.0, 0.5]])
    weights = power_norm.minimum_power_norm(x, np.array([3.0]), 3.0)
    direction = np.sign(x[0]) * np.abs(x[0]) ** 0.5
    np.testing.assert_allclose(weights, 3 * direction / (x[0] @ direction), rtol=1e-9)


@settings(max_examples=15, deadline=None)
@given(power=st.sampled_from(POWERS), exponents=st.tuples(st.integers(-6, 6), st.integers(-6, 6)))
def test_minimum_power_norm_scales_with_its_data(power, exponents):
    X, y = regression(5, 4, 9)
    a, b = 10.0 ** np.array(exponents)
    solved = power_norm.minimum_power_norm(a * X, b * y, power) * a / b
    np.testing.assert_allclose(solved, power_norm.minimum_power_norm(X, y, power), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("power", [1.5, 2.0, 3.0])
def test_mirror_modes_tell_the_step_at_which_mirror_descent_no_longer_settles(power):
    X, y = regression(6, 3, 5)
    target = power_norm.minimum_power_norm(X, y, power)
    modes = power_norm.mirror_modes(X, target, power)
    assert modes.fastest > modes.slowest > 0
    ends = []
    for factor in (0.9, 1.1):
        dual = power_norm.mirror(target * (1 + 1e-6 * np.arange(5)), power)
        weights = target
        for _ in range(2000):
            weights = np.sign(dual) * np.abs(dual) ** (1 / (power - 1))
            dual = dual - factor * 2 / modes.fastest * X.T @ (X @ weights - y) / 3
        ends.append(np.linalg.norm(X @ weights - y))
    assert ends[0] < 1e-9 < 1e-3 < ends[1]


def test_mirror_modes_at_a_weight_of_zero():
    X, _ = regression(7, 3, 5)
    weights = np.array([1.0, 0.0, 2.0, 1.0, 1.0])
    assert power_norm.mirror_modes(X, weights, 3.0).fastest == math.inf
    assert np.isfinite(power_norm.mirror_modes(X, weights, 1.5)).all()
    assert np.isnan(power_norm.mirror_modes(X, weights * np.nan, 1.5)).all()
    np.testing.assert_allclose(
        power_norm.mirror_modes(X, weights, 2.0), np.linalg.eigvalsh(X @ X.T / 3)[[-1, 0]], rtol=1e-9
    )


@pytest.mark.parametrize("power", POWERS)
def test_maximum_power_margin_meets_its_conditions(power):
    X, y = classification(8, 12, 20)
    weights = power_norm.maximum_power_margin(X, y, power)
    margins = y * (X @ weights)
    assert margins.min() == pytest.approx(1, abs=1e-9)
    on = margins < 1 + 1e-7
    Z = (X * y[:, None])[on]
    image = power_norm.mirror(weights, power)
    multipliers = np.linalg.lstsq(Z.T, image, rcond=None)[0]
    assert (multipliers > 0).all()
    np.testing.assert_allclose(multipliers @ Z, image, atol=1e-8 * np.linalg.norm(image))
    other = power_norm.maximum_power_margin(X, y, 2.5)
    assert np.linalg.norm(weights, power) < np.linalg.norm(other, power)


def test_maximum_power_margin_of_order_two_is_the_support_vector_machine():
    X, y = classification(9, 12, 20)
    np.testing.assert_allclose(
        power_norm.maximum_power_margin(X, y, 2.0), margin.maximum_margin(X, y, 2), rtol=1e-6, atol=1e-9
    )
    assert power_norm.margin_gap_constant(X, y, 2.0) == pytest.approx(1 / margin.margin_gap_slope(X, y), rel=1e-5)


def test_maximum_power_margin_approaches_the_linear_programs():
    X, y = classification(10, 6, 8)
    near = np.abs(power_norm.maximum_power_margin(X, y, 1.05)).sum() / np.abs(margin.maximum_margin(X, y, 1)).sum()
    assert 1 - 1e-9 <= near <= 8 ** (1 - 1 / 1.05)
    near = np.abs(power_norm.maximum_power_margin(X, y, 60.0)).max() / np.abs(margin.maximum_margin(X, y, np.inf)).max()
    assert 1 - 1e-9 <= near <= 8 ** (1 / 60)


def test_margin_gap_constant_is_that_of_the_flow_of_the_exponential_loss():
    from scipy.integrate import solve_ivp

    X, y = classification(11, 4, 6)
    Z, power = X * y[:, None], 3.0
    best = power_norm.maximum_power_margin(X, y, power)
    constant = power_norm.margin_gap_constant(X, y, power)
    primal = lambda dual: np.sign(dual) * np.abs(dual) ** (1 / (power - 1))

    def flow(way, dual):  # the flow divided by the loss, at a pace at which the weights grow evenly
        exponents = -Z @ primal(dual)
        share = np.exp(exponents - exponents.max())
        return (1 + way) * share / share.sum() @ Z

    path = solve_ivp(flow, (0, 300), 1e-3 * Z.sum(axis=0), method="LSODA", rtol=1e-10, atol=1e-12, t_eval=[100, 300])
    products = []
    for dual in path.y.T:
        weights = primal(dual)
        longer = np.linalg.norm(weights, power) / np.linalg.norm(best, power)
        products.append((1 - (Z @ weights).min() / longer) * longer)
    assert products[-1] == pytest.approx(constant, rel=0.01)
    assert abs(products[1] - constant) < abs(products[0] - constant)


@pytest.mark.parametrize("power", [1.5, 3.0])
def test_margin_curvature_is_that_of_the_map_of_a_step(power):
    X, y = classification(1, 3, 7)
    Z, far = X * y[:, None], 1e6 * power_norm.maximum_power_margin(X, y, power)
    alpha = np.linalg.lstsq(Z.T, power_norm.mirror(far / 1e6, power), rcond=None)[0]
    # on the path w = ŵ·s + r the shares of the gradient are those of the multipliers
    far = far + np.linalg.lstsq(Z, -np.log(np.maximum(alpha, 1e-300)), rcond=None)[0]

    def step(weights):
        exponents = -Z @ weights
        share = np.exp(exponents - exponents.max())
        pace = (power - 1) * np.linalg.norm(far, power) ** (power - 2)
        dual = power_norm.mirror(weights, power) + pace * share / share.sum() @ Z
        return np.sign(dual) * np.abs(dual) ** (1 / (power - 1))

    map_ = np.array([(step(far + 1e-3 * e) - step(far - 1e-3 * e)) / 2e-3 for e in np.eye(7)]).T
    found = 1 - np.linalg.eigvals(map_).real.min()
    assert (alpha > 0).all()
    assert found == pytest.approx(power_norm.margin_curvature(X, y, power), rel=0.02)


def test_data_without_a_separator_or_without_a_solution_are_void():
    X = np.array([[1.0], [2.0]])
    assert np.isnan(power_norm.maximum_power_margin(X, np.array([-1.0, 1.0]), 3.0)).all()
    assert math.isnan(power_norm.margin_gap_constant(X, np.array([-1.0, 1.0]), 3.0))
    assert np.isnan(power_norm.minimum_power_norm(X, np.array([1.0, 1.0]), 3.0)).all()
    twice = np.array([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]])
    assert np.isnan(power_norm.minimum_power_norm(twice, np.ones(2), 1.5)).all()


def test_broken_answers_fail_their_certificates(monkeypatch):
    X, y = regression(12)
    right = power_norm.minimum_power_norm(X, y, 3.0)
    assert power_norm.optimality_residual(X, y, right, 3.0) < 1e-12
    assert power_norm.optimality_residual(X, y, right, 2.9) > 1e-3
    assert power_norm.optimality_residual(X, y, right * (1 + 1e-6), 3.0) > 1e-8
    assert power_norm.optimality_residual(X, y, right * np.nan, 3.0) == math.inf
    X, y = classification(13, 12, 20)
    weights = power_norm.maximum_power_margin(X, y, 3.0)
    assert power_norm.margin_gap(X, y, weights, np.ones(12), 3.0) > 1e-3
    assert power_norm.margin_gap(X, y, weights, -np.ones(12), 3.0) == math.inf
    exact = power_norm.minimum_power_norm
    careless = lambda *problem: exact(*problem) * (1 + 1e-3 * np.arange(20))
    monkeypatch.setattr(power_norm, "minimum_power_norm", careless)
    assert np.isnan(power_norm.maximum_power_margin(X, y, 3.0)).all()


def test_a_careless_newton_method_is_void(monkeypatch):
    X, y = regression(14)
    exact = power_norm._newton
    for power in (1.5, 3.0):
        monkeypatch.setattr(power_norm, "_newton", lambda *parts: (exact(*parts)[0] * (1 + 1e-6), 0.0))
        assert np.isnan(power_norm.minimum_power_norm(X, y, power)).all()
        monkeypatch.setattr(power_norm, "_newton", lambda *parts: (exact(*parts)[0], 1e-6))
        assert np.isnan(power_norm.minimum_power_norm(X, y, power)).all()
        monkeypatch.setattr(power_norm, "_newton", exact)


X, Y = classification()
REFUSED = {
    "power is 1;": lambda: power_norm.minimum_power_norm(X, Y, 1.0),
    "power is 64": lambda: power_norm.maximum_power_margin(X, Y, 64),
    "power is 'p'": lambda: power_norm.mirror_modes(X, np.ones(6), "p"),
    "power is 0.5": lambda: power_norm.mirror(np.ones(6), 0.5),
    "nearest_to has 2 entries": lambda: power_norm.minimum_power_norm(X, Y, 3.0, np.ones(2)),
    "weights has 2 entries": lambda: power_norm.mirror_modes(X, np.ones(2), 3.0),
    "y has the label 0": lambda: power_norm.margin_gap_constant(X, 0 * Y, 3.0),
    "y has 3 entries": lambda: power_norm.minimum_power_norm(X, Y[:3], 3.0),
    "X has an infinite": lambda: power_norm.maximum_power_margin(np.full((2, 2), np.inf), Y[:2], 3.0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_nan_gives_nan():
    X, y = regression(15)
    bad, nan = X.copy(), float("nan")
    bad[0, 0] = nan
    for arguments in ((bad, y, 3.0), (X, y * nan, 3.0), (X, y, nan), (X, y, 3.0, np.full(20, nan))):
        assert np.isnan(power_norm.minimum_power_norm(*arguments)).all()
    assert np.isnan(power_norm.mirror_modes(bad, np.ones(20), 3.0)).all()
    assert np.isnan(power_norm.mirror(np.ones(2), nan)).all()
    for arguments in ((bad, np.sign(y), 3.0), (X, np.sign(y), nan)):
        assert np.isnan(power_norm.maximum_power_margin(*arguments)).all()
        assert math.isnan(power_norm.margin_gap_constant(*arguments))
        assert math.isnan(power_norm.margin_curvature(*arguments))
