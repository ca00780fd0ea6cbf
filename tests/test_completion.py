import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from research.oracles import completion
from research.oracles.low_rank import effective_rank, minimum_nuclear_norm


def loss(matrix, corner=0.0):
    return ((matrix[0, 1] - 1) ** 2 + (matrix[1, 0] - 1) ** 2 + (matrix[1, 1] - corner) ** 2) / 2


@pytest.mark.parametrize("corner", [0.0, 0.1, -0.3, 2.0])
@pytest.mark.parametrize("allowed", [1e-4, 1e-2, 0.2])
def test_least_unobserved_agrees_with_a_constrained_search(corner, allowed):
    least, sign = completion.least_unobserved(allowed, corner), -1.0 if corner < 0 else 1.0
    matrix = lambda w: np.array([[w[0] * least * sign, w[1]], [w[2], w[3]]])  # in units in which all are near one
    constraints = [
        {"type": "ineq", "fun": lambda w: np.linalg.det(matrix(w))},
        {"type": "ineq", "fun": lambda w: (allowed - loss(matrix(w), corner)) / allowed},
    ]
    start = np.array([1.3, 1.0, 1.0, corner + sign * allowed**0.5])
    options = {"maxiter": 2000, "ftol": 1e-12}
    found = minimize(lambda w: w[0], start, constraints=constraints, method="SLSQP", options=options)
    assert found.x[0] == pytest.approx(1, rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-6, 0.24), st.floats(-1, 1))
def test_no_matrix_of_determinant_above_zero_is_below(seed, allowed, corner):
    random = np.random.default_rng(seed)
    way = random.normal(size=(200, 3))
    way *= math.sqrt(2 * allowed) / np.linalg.norm(way, axis=1, keepdims=True)
    W12, W21, W22 = 1 + way[:, 0], 1 + way[:, 1], corner + way[:, 2]
    assert (W12 * W21 / np.abs(W22)).min() >= completion.least_unobserved(allowed, corner) * (1 - 1e-12)


def test_least_unobserved_where_it_is_known():
    for allowed in (1e-3, 1e-6, 1e-12):
        # −ln(2 loss)/2 − 2 loss: the first two terms of its logarithm
        expected = -math.log(2 * allowed) / 2 - 2 * allowed
        assert math.log(completion.least_unobserved(allowed)) == pytest.approx(expected, abs=10 * allowed**2 + 1e-14)
        assert completion.least_unobserved(allowed, 1e-200) == pytest.approx(completion.least_unobserved(allowed))
    assert completion.least_unobserved(0.0) == math.inf
    assert completion.least_unobserved(0.0, -0.25) == 4
    assert completion.least_unobserved(1e-16, 0.25) == pytest.approx(4, rel=1e-6)
    assert completion.least_unobserved(1e-3, 0.25) == completion.least_unobserved(1e-3, -0.25)
    assert math.isnan(completion.least_unobserved(0.25))
    assert math.isnan(completion.least_unobserved(math.nan, 0.1))
    assert math.isnan(completion.least_unobserved(0.1, math.nan))


def test_largest_effective_rank_bounds_matrices_of_determinant_above_zero():
    random, tried = np.random.default_rng(0), 0
    for _ in range(20_000):
        W12, W21 = 1 + 0.1 * random.normal(size=2)
        W22 = 10.0 ** random.uniform(-3, -0.7)
        matrix = np.array([[W12 * W21 / W22 * random.uniform(1, 1.5), W12], [W21, W22]])
        if loss(matrix) < 0.05 and tried < 300:
            tried += 1
            assert effective_rank(matrix) <= completion.largest_effective_rank(loss(matrix))
    assert tried == 300
    assert completion.largest_effective_rank(0.0) == 1
    assert completion.largest_effective_rank(1e-8) == pytest.approx(1, abs=1e-6)
    assert math.isnan(completion.largest_effective_rank(math.nan))


MASK, TARGET = np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])


def symmetric_flow(_, flat):
    """Of U Uᵀ: two layers that are each other's transposes, since anything else leaves the valley at depth 2."""
    U = flat.reshape(2, 2)
    return -(MASK * (U @ U.T - TARGET) @ U).ravel()


def product(factors):
    return functools.reduce(lambda below, above: above @ below, factors, np.eye(2))


def flow(_, flat):
    factors = flat.reshape(-1, 2, 2)
    residual = MASK * (product(factors) - TARGET)
    return -np.ravel([product(factors[k + 1 :]).T @ residual @ product(factors[:k]).T for k in range(len(factors))])


@pytest.mark.parametrize("depth", [2, 3])
def test_valley_growth_is_that_of_the_gradient_flow(depth):
    layer, times = np.array([[0.4, 0.1], [0.1, 0.3]]), np.array([2_000.0, 8_000.0])
    start = np.ravel(layer if depth == 2 else [layer] * depth)  # symmetric and equal: balanced
    field = symmetric_flow if depth == 2 else flow
    path = solve_ivp(field, (0, times[-1]), start, method="LSODA", t_eval=times, rtol=1e-9, atol=1e-12)
    ends = [end.reshape(-1, 2, 2) for end in path.y.T]
    entries = [(end[0] @ end[0].T if depth == 2 else product(end))[0, 0] for end in ends]
    climbed = [entry ** (2 + 2 / depth) for entry in entries]
    law = [completion.valley_growth(time, depth) ** (2 + 2 / depth) for time in times]
    assert np.diff(climbed)[0] == pytest.approx(np.diff(law)[0], rel=0.03)


@pytest.mark.parametrize("corner", [0.0, 0.3, -0.9])
def test_the_least_nuclear_norm_is_two(corner):
    mask, values = np.array([[False, True], [True, True]]), np.array([[np.nan, 1.0], [1.0, corner]])
    found = minimum_nuclear_norm(mask, values)
    assert np.linalg.norm(found, "nuc") == pytest.approx(completion.LEAST_NUCLEAR_NORM, rel=1e-6)
    assert found[0, 0] == pytest.approx(corner, abs=1e-2)


def test_a_broken_root_fails_its_certificate(monkeypatch):
    monkeypatch.setattr("scipy.optimize.brentq", lambda _, low, high, **__: (low + high) / 2)
    assert math.isnan(completion.least_unobserved(1e-3, 0.1))


REFUSED = {
    "loss is -1": lambda: completion.least_unobserved(-1.0),
    "corner is 'far'": lambda: completion.least_unobserved(0.1, "far"),
    "corner is inf": lambda: completion.least_unobserved(0.1, math.inf),
    "time is -1": lambda: completion.valley_growth(-1.0, 2),
    "depth is 1": lambda: completion.valley_growth(1.0, 1),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
