import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from research.oracles.schatten import objective, resting_sizes


@settings(max_examples=40, deadline=None)
@given(target=st.floats(0.01, 5), decay=st.floats(0.01, 2), depth=st.integers(1, 6))
def test_the_best_size_is_that_of_a_fine_grid(target, decay, depth):
    grid = np.r_[0.0, np.geomspace(1e-6, 6, 20_001)]
    values = objective(grid, target, decay, depth)
    best = resting_sizes(target, decay, depth).best
    assert objective(best, target, decay, depth) <= values.min() + 1e-12
    near = grid[values <= values.min() + 1e-9]
    assert abs(near - best).min() <= 1e-3 * (1 + best)


@settings(max_examples=40, deadline=None)
@given(target=st.floats(0.01, 5), decay=st.floats(0.01, 2), depth=st.integers(3, 6))
def test_the_barrier_is_a_maximum_and_the_upper_size_a_minimum(target, decay, depth):
    sizes = resting_sizes(target, decay, depth)
    if math.isinf(sizes.barrier):
        assert sizes.upper == 0
        grid = np.geomspace(1e-9, 6, 2001)
        assert (np.diff(objective(grid, target, decay, depth)) > -1e-12).all()
        return
    assert 0 < sizes.barrier <= sizes.upper < target
    for size, sign in ((sizes.barrier, -1), (sizes.upper, 1)):
        step = 1e-3 * min(size, sizes.upper - sizes.barrier)
        around = [objective(size + shift, target, decay, depth) for shift in (-step, step)]
        assert sign * (min(around) if sign > 0 else max(around)) >= sign * objective(size, target, decay, depth) - 1e-13


def test_shallow_nets_shrink_in_closed_form():
    assert resting_sizes(3.0, 0.5, 1).best == pytest.approx(2.0)
    assert resting_sizes(3.0, 0.5, 2).best == 2.5
    assert resting_sizes(0.4, 0.5, 2) == (0.0, 0.0, 0.0, 0.0)
    assert resting_sizes(3.0, 0.5, 2, 0.0).end == 0
    assert resting_sizes(3.0, 0.0, 5).best == 3
    # L = 3: σ - s + λσ^(-1/3) = 0 has the root 1 for s = 1 + λ
    assert resting_sizes(1.3, 0.3, 3).upper == pytest.approx(1.0, rel=1e-12)


def test_soft_thresholding_agrees_with_a_cone_program():
    import cvxpy

    Y = np.random.default_rng(0).normal(size=(4, 5))
    W = cvxpy.Variable((4, 5))
    cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(W - Y) / 2 + 1.5 * cvxpy.normNuc(W))).solve(solver=cvxpy.CLARABEL)
    sizes = [resting_sizes(s, 1.5, 2).best for s in np.linalg.svd(Y, compute_uv=False)]
    np.testing.assert_allclose(np.linalg.svd(W.value, compute_uv=False), sizes, atol=1e-4)


@pytest.mark.parametrize("depth", [2, 3])
def test_the_best_sizes_are_those_of_the_layers_themselves(depth):
    random = np.random.default_rng(1)
    Y, decay = np.diag([2.0, 1.0, 0.1]), 0.2

    def loss(flat):
        layers = flat.reshape(depth, 3, 3)
        product = np.linalg.multi_dot(layers[::-1])
        return ((product - Y) ** 2).sum() / 2 + decay / 2 * (layers**2).sum()

    found = min((minimize(loss, random.normal(size=9 * depth), tol=1e-12) for _ in range(6)), key=lambda end: end.fun)
    best = [resting_sizes(s, decay, depth).best for s in np.diag(Y)]
    assert found.fun == pytest.approx(sum(objective(b, s, decay, depth) for b, s in zip(best, np.diag(Y), strict=True)))
    product = np.linalg.multi_dot(found.x.reshape(depth, 3, 3)[::-1])
    np.testing.assert_allclose(np.linalg.svd(product, compute_uv=False), best, atol=1e-4)


@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("start", [0.9, 1.1])
def test_the_barrier_parts_the_basins_of_the_flow(depth, start):
    target, decay = 1.0, 0.15
    barrier = resting_sizes(target, decay, depth).barrier
    flow = lambda time, a: -(a**depth - target) * a ** (depth - 1) - decay * a
    path = solve_ivp(flow, (0, 300), [(start * barrier) ** (1 / depth)], rtol=1e-10, atol=1e-14)
    end = resting_sizes(target, decay, depth, start * barrier).end
    assert path.y[0, -1] ** depth == pytest.approx(end, abs=1e-8)
    assert (end > 0) == (start > 1)


REFUSED = {
    "target is -1": lambda: resting_sizes(-1.0, 0.1, 2),
    "weight_decay is -1": lambda: resting_sizes(1.0, -1.0, 2),
    "depth is 0": lambda: resting_sizes(1.0, 0.1, 0),
    "depth is 2.5": lambda: resting_sizes(1.0, 0.1, 2.5),
    "initial is -1": lambda: resting_sizes(1.0, 0.1, 3, -1.0),
    "target is 's'": lambda: resting_sizes("s", 0.1, 2),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_nan_gives_nan_and_a_root_that_is_none_is_void(monkeypatch):
    from scipy import optimize

    for arguments in ((math.nan, 0.1, 3), (1.0, math.nan, 3), (1.0, 0.1, math.nan), (1.0, 0.1, 3, math.nan)):
        assert np.isnan(resting_sizes(*arguments)).all()
    exact = optimize.brentq
    monkeypatch.setattr(optimize, "brentq", lambda *problem, **options: exact(*problem, **options) * (1 + 1e-6))
    assert np.isnan(resting_sizes(1.0, 0.1, 3)).all()
