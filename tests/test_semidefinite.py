import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import linprog

from research.oracles import semidefinite


def gaussian(seed=0, size=6, measured=12, rank=1):
    random = np.random.default_rng(seed)
    A = random.normal(size=(measured, size, size))
    A = (A + A.transpose(0, 2, 1)) / 2
    factor = random.normal(size=(size, rank))
    planted = factor @ factor.T
    return A, np.einsum("ijk,jk->i", A, planted), planted


def commuting(seed=0, size=6, measured=3, rank=2):
    """Measurements with common eigenvectors, their eigenvalues and a planted sparse spectrum."""
    random = np.random.default_rng(seed)
    basis = np.linalg.qr(random.normal(size=(size, size)))[0]
    values = random.normal(size=(measured, size))
    A = np.einsum("aj,ij,bj->iab", basis, values, basis)
    spectrum = np.where(np.arange(size) < rank, random.uniform(0.5, 1.5, size), 0.0)
    return (A + A.transpose(0, 2, 1)) / 2, values @ spectrum, values, basis


@pytest.mark.parametrize("seed", range(4))
def test_minimum_trace_of_commuting_measurements_is_a_linear_program(seed):
    A, y, values, basis = commuting(seed, size=8, measured=4, rank=8)
    program = linprog(np.ones(8), A_eq=values, b_eq=y, bounds=(0, None), method="highs")
    found = semidefinite.minimum_trace(A, y)
    assert np.trace(found) == pytest.approx(program.fun, rel=1e-6)
    np.testing.assert_allclose(found, (basis * program.x) @ basis.T, atol=1e-4)
    np.testing.assert_allclose(np.einsum("ijk,jk->i", A, found), y, atol=1e-6)
    slack = 1 - program.eqlin.marginals @ values
    assert semidefinite.least_slack(A, y) == pytest.approx(slack[program.x < 1e-9].min(), abs=1e-4)


def test_minimum_trace_agrees_with_a_first_order_solver():
    import cvxpy

    A, y, planted = gaussian(1, measured=9, rank=2)
    found = semidefinite.minimum_trace(A, y)
    variable = cvxpy.Variable(planted.shape, PSD=True)
    fits = [cvxpy.sum(cvxpy.multiply(a, variable)) == b for a, b in zip(A, y, strict=True)]
    program = cvxpy.Problem(cvxpy.Minimize(cvxpy.trace(variable)), fits)
    program.solve(solver=cvxpy.SCS, eps=1e-9)
    assert np.trace(found) == pytest.approx(program.value, rel=1e-5)
    np.testing.assert_allclose(found, variable.value, atol=1e-3 * np.abs(found).max())
    assert np.trace(found) < 0.999 * np.trace(planted)
    assert np.linalg.eigvalsh(found)[0] > -1e-12


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_minimum_trace_recovers_rank_one_from_many_measurements_at_any_scale(scale):
    A, y, planted = gaussian(2, measured=16)
    np.testing.assert_allclose(semidefinite.minimum_trace(A, scale * y) / scale, planted, atol=1e-4)


def test_minimum_trace_where_it_is_known():
    trace = np.eye(3)[None]
    assert np.trace(semidefinite.minimum_trace(trace, [2.0])) == pytest.approx(2)
    entry = np.zeros((1, 2, 2))
    entry[0, 0, 1] = entry[0, 1, 0] = 0.5
    np.testing.assert_allclose(semidefinite.minimum_trace(entry, [3.0]), np.full((2, 2), 3.0), atol=1e-4)
    assert not semidefinite.minimum_trace(entry, [0.0]).any()
    assert np.isnan(semidefinite.minimum_trace(trace, [-1.0])).all()
    assert math.isnan(semidefinite.least_slack(trace, [-1.0]))
    first = np.diag([1.0, 0.25, 0.5])[None]
    assert semidefinite.least_slack(first, [1.0]) == pytest.approx(0.5, abs=1e-5)
    assert math.isnan(semidefinite.least_slack(trace, [2.0]))


def test_broken_solutions_fail_their_certificate(monkeypatch):
    A, y, _ = gaussian(3)
    matrix, dual = semidefinite._semidefinite_program(A, y)
    assert semidefinite.trace_gap(A, y, matrix, dual) < 1e-7
    assert semidefinite.trace_gap(A, y, 1.001 * matrix, dual) > 1e-4
    assert semidefinite.trace_gap(A, y, matrix, np.roll(dual, 1)) > 1e-3
    assert semidefinite.trace_gap(A, y, matrix, 2 * dual) == pytest.approx(0, abs=1e-6)  # scaled back until feasible
    assert semidefinite.trace_gap(A, y, matrix - 0.01 * np.eye(len(matrix)), dual) > 1e-4
    assert semidefinite.trace_gap(A, y, np.full_like(matrix, np.nan), dual) == math.inf
    monkeypatch.setattr(semidefinite, "_semidefinite_program", lambda *_: (1.01 * matrix, dual))
    assert np.isnan(semidefinite.minimum_trace(A, y * 1.5)).all()


@pytest.mark.parametrize("init_scale", [0.03, 1.0])
def test_flow_limit_is_that_of_the_gradient_flow(init_scale):
    A, y, _, _ = commuting(5, measured=2)
    size = A.shape[1]

    def flow(_, flat):
        U = flat.reshape(size, size)
        return -np.einsum("i,ijk->jk", np.einsum("ijk,jk->i", A, U @ U.T) - y, A).ravel() @ np.kron(np.eye(size), U)

    start = init_scale * np.eye(size).ravel()
    end = solve_ivp(flow, (0, 300), start, method="LSODA", rtol=1e-9, atol=1e-12).y[:, -1].reshape(size, size)
    np.testing.assert_allclose(semidefinite.flow_limit(A, y, init_scale), end @ end.T, atol=1e-6)


@pytest.mark.parametrize("init_scale", [1e-3, 0.1, 3.0])
def test_flow_limit_has_the_least_entropy(init_scale):
    import cvxpy

    A, y, values, basis = commuting(6, size=5)
    found = semidefinite.flow_limit(A, y, init_scale)
    masses = cvxpy.Variable(5)
    entropy = -cvxpy.sum(cvxpy.entr(masses)) - (math.log(init_scale**2) + 1) * cvxpy.sum(masses)
    cvxpy.Problem(cvxpy.Minimize(entropy), [values @ masses == y]).solve(solver=cvxpy.CLARABEL)
    np.testing.assert_allclose(found, (basis * masses.value) @ basis.T, atol=1e-5 * np.abs(found).max())


def test_flow_limit_tends_to_the_least_trace_as_twice_the_slack():
    A, y, _, _ = commuting(1, measured=2)
    least = semidefinite.minimum_trace(A, y)
    scales = np.array([1e-2, 1e-3])
    away = [np.linalg.norm(semidefinite.flow_limit(A, y, scale) - least) for scale in scales]
    slope = np.diff(np.log(away))[0] / np.diff(np.log(scales))[0]
    assert slope == pytest.approx(2 * semidefinite.least_slack(A, y), rel=0.1)


def test_what_has_no_flow_limit_is_void():
    assert np.isnan(semidefinite.flow_limit(*gaussian()[:2], 0.1)).all()
    assert np.isnan(semidefinite.flow_limit(np.eye(3)[None], [-1.0], 0.1)).all()


def test_nan_gives_nan():
    A, y, _ = gaussian()
    bad, label = A.copy(), y.copy()
    bad[0, 0, 0] = label[0] = np.nan
    for arguments in ((bad, y), (A, label)):
        assert np.isnan(semidefinite.minimum_trace(*arguments)).all()
        assert math.isnan(semidefinite.least_slack(*arguments))
        assert np.isnan(semidefinite.flow_limit(*arguments, 0.1)).all()
    assert np.isnan(semidefinite.flow_limit(A, y, math.nan)).all()


REFUSED = {
    "measurements has shape": lambda: semidefinite.minimum_trace(np.eye(2), [1.0]),
    "measurements of shape .* are not all symmetric": lambda: semidefinite.minimum_trace([[[0, 1], [0, 0]]], [1.0]),
    "y has 2 entries": lambda: semidefinite.least_slack(np.eye(2)[None], [1.0, 2.0]),
    "y has an infinite": lambda: semidefinite.minimum_trace(np.eye(2)[None], [math.inf]),
    "init_scale is 0": lambda: semidefinite.flow_limit(np.eye(2)[None], [1.0], 0.0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
