import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import overlapping, regression

from research.oracles import box
from research.oracles.least_squares import ridge
from research.oracles.margin import logistic_optimum


def tall(seed=0):
    return regression(seed, 20, 8)


@pytest.mark.parametrize("bound", [0.01, 0.1, 0.2, 10.0])
def test_box_least_squares_meets_its_conditions_and_agrees_with_a_cone_program(bound):
    import cvxpy

    X, y = tall()
    weights = box.box_least_squares(X, y, bound)
    gradient = X.T @ (X @ weights - y) / 20
    on = np.abs(weights) >= bound
    np.testing.assert_allclose(gradient[~on], 0, atol=1e-12)
    assert (np.sign(weights[on]) * gradient[on] < 0).all()
    assert on.all() if bound == 0.01 else not on.any() if bound == 10 else on.any() and not on.all()
    variable = cvxpy.Variable(8)
    misfit = cvxpy.Minimize(cvxpy.sum_squares(X @ variable - y))
    cvxpy.Problem(misfit, [cvxpy.abs(variable) <= bound]).solve(solver=cvxpy.CLARABEL)
    np.testing.assert_allclose(weights, variable.value, atol=1e-5)


@pytest.mark.parametrize("bound", [0.1, 0.5, 100.0])
def test_box_logistic_meets_its_conditions_and_agrees_with_projected_descent(bound):
    X, y = overlapping()
    weights = box.box_logistic(X, y, bound)
    gradient = lambda w: -(y / (1 + np.exp(y * (X @ w)))) @ X / len(y)
    descended = np.zeros(4)
    for _ in range(4000):
        descended = np.clip(descended - 0.5 * gradient(descended), -bound, bound)
    np.testing.assert_allclose(weights, descended, atol=1e-9)
    if bound == 100:
        np.testing.assert_allclose(weights, logistic_optimum(X, y, 0.0), rtol=1e-9)
    else:
        assert np.abs(weights).max() == bound


def test_box_least_squares_has_the_known_limits():
    X, y = tall(1)
    np.testing.assert_allclose(box.box_least_squares(X, y, 1e3), np.linalg.lstsq(X, y, rcond=None)[0], rtol=1e-9)
    np.testing.assert_array_equal(box.box_least_squares(X, y, 1e-6), 1e-6 * np.sign(X.T @ y))
    assert not box.box_least_squares(X, y, 0.0).any()
    orthogonal = np.linalg.qr(X)[0]
    clipped = np.clip(orthogonal.T @ y, -0.3, 0.3)
    np.testing.assert_allclose(box.box_least_squares(orthogonal, y, 0.3), clipped, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(exponents=st.tuples(st.integers(-5, 5), st.integers(-5, 5)))
def test_box_least_squares_scales_with_its_data(exponents):
    X, y = tall(2)
    a, b = 10.0 ** np.array(exponents)
    scaled = box.box_least_squares(a * X, b * y, 0.15 * b / a) * a / b
    np.testing.assert_allclose(scaled, box.box_least_squares(X, y, 0.15), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-3, 0.1, 10.0])
def test_barrier_least_squares_is_where_adamw_ends(epsilon):
    X, y = tall(3)
    weights = box.barrier_least_squares(X, y, 4.0, epsilon)
    gradient = X.T @ (X @ weights - y) / 20
    np.testing.assert_allclose(gradient / (np.abs(gradient) + epsilon), -4 * weights, rtol=1e-6, atol=1e-7)
    if epsilon < 0.1:
        return
    w, first, second = np.zeros(8), np.zeros(8), np.zeros(8)
    for t in range(1, 40_001):
        gradient = X.T @ (X @ w - y) / 20
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        w = w - 0.01 * (first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.99**t)) + epsilon) + 4 * w)
    np.testing.assert_allclose(weights, w, rtol=1e-8, atol=1e-12)


def test_barrier_least_squares_goes_from_the_box_to_ridge():
    X, y = tall(4)
    target = box.box_least_squares(X, y, 0.2)
    distances = [np.linalg.norm(box.barrier_least_squares(X, y, 5.0, eps) - target) for eps in (1e-3, 1e-5, 1e-7)]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-5
    far = box.barrier_least_squares(X, y, 5.0, 1e6)
    np.testing.assert_allclose(far, ridge(X, y, 5e6), rtol=1e-4)


def test_broken_answers_fail_the_certificate(monkeypatch):
    X, y = tall(5)
    weights = box.box_least_squares(X, y, 0.15)
    H = X.T @ X / 20
    error = lambda w, bound: box.optimality_error(w, bound, H @ w - X.T @ y / 20, H)
    assert error(weights, 0.15) < 1e-12
    inside = np.abs(weights) < 0.15
    # the bound is one: what it says is no less than the true distance
    moved = np.where(inside, weights * (1 + 1e-6), weights)
    assert error(moved, 0.15) >= np.linalg.norm(moved - weights) / np.linalg.norm(moved) * (1 - 1e-6)
    assert error(-weights, 0.15) > 0.1
    assert error(weights, 0.14) == np.inf
    assert error(weights, 0.16) > 1e-3
    assert error(weights * np.nan, 0.15) == np.inf
    exact = box._newton
    monkeypatch.setattr(box, "_newton", lambda *problem: exact(*problem) * (1 - 1e-6))
    assert np.isnan(box.box_least_squares(X, y, 0.15)).all()
    assert np.isnan(box.box_logistic(*overlapping(), 0.5)).all()


def test_minimisers_that_are_not_unique_are_void():
    X, y = regression(6, 3, 5)
    assert np.isnan(box.box_least_squares(X, y, 10.0)).all()


def test_faces_slow_adamw_down_as_the_stiffness_says():
    # one coordinate: 1/2·h·(w - c)² in |w| <= 1, S = h and |g| = h·(c - 1)
    assert box.face_stiffness(np.ones((2, 1)), np.full(2, 1.5), 1.0) == pytest.approx(2.0)
    X, y = tall()
    assert box.face_stiffness(X, y, 10.0) == 0
    decay, rate, b2 = 1 / 0.1, 0.01, 0.999
    weights, stiffness = box.box_least_squares(X, y, 0.1), box.face_stiffness(X, y, 0.1)
    gradient = lambda w: X.T @ (X @ w - y) / 20
    on = np.abs(weights) == 0.1
    # from next to the minimiser, the second moment being settled there
    w, v = np.where(on, 0.999 * weights, weights), gradient(weights) ** 2
    short = []
    for _ in range(24_000):
        slope = gradient(w)
        v = b2 * v + (1 - b2) * slope**2
        w = np.where(on, w - rate * (slope / np.sqrt(v) + decay * w), w)
        w[~on] -= np.linalg.solve(X[:, ~on].T @ X[:, ~on] / 20, gradient(w)[~on])  # those inside follow
        short.append(np.abs(w - weights)[on].max())
    measured = np.log(short[-8000] / short[-1]) / 7999
    expected = rate * decay * (1 - b2) / (1 - b2 + rate * (decay + stiffness))
    assert measured == pytest.approx(expected, rel=0.02)


X, Y = overlapping()
REFUSED = {
    "bound is -1": lambda: box.box_least_squares(X, Y, -1.0),
    "bound is 'wide'": lambda: box.box_logistic(X, Y, "wide"),
    "y has the label 0": lambda: box.box_logistic(X, 0 * Y, 1.0),
    "y has 3 entries": lambda: box.box_least_squares(X, Y[:3], 1.0),
    "X has an infinite": lambda: box.box_least_squares(np.full((2, 2), np.inf), Y[:2], 1.0),
    "weight_decay is 0": lambda: box.barrier_least_squares(X, Y, 0.0, 1.0),
    "epsilon is 0": lambda: box.barrier_least_squares(X, Y, 1.0, 0.0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_nan_gives_nan():
    bad, nan = X.copy(), float("nan")
    bad[0, 0] = nan
    for solve in (box.box_least_squares, box.box_logistic, box.face_stiffness):
        for arguments in ((bad, Y, 1.0), (X, Y * nan, 1.0), (X, Y, nan)):
            assert np.isnan(solve(*arguments)).all()
    for arguments in ((bad, Y, 1.0, 1.0), (X, Y * nan, 1.0, 1.0), (X, Y, nan, 1.0), (X, Y, 1.0, nan)):
        assert np.isnan(box.barrier_least_squares(*arguments)).all()
