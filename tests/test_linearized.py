import numpy as np
import pytest

from research.oracles import linearized


def network(seed=0, samples=7, points=5, features=3, units=12):
    random = np.random.default_rng(seed)
    X, y = random.normal(size=(samples, features)), random.normal(size=samples)
    return (
        X,
        y,
        random.normal(size=(points, features)),
        random.normal(size=(units, features)),
        random.normal(size=units),
    )


def output(X, hidden, readout, width):
    return np.tanh(X @ hidden.T) @ readout / width**0.5


def jacobian(X, hidden, readout, width):
    """Central differences in every weight."""
    weights, columns = np.concatenate([hidden.ravel(), readout]), []
    for place in range(len(weights)):
        ends = []
        for sign in (1, -1):
            moved = weights.copy()
            moved[place] += sign * 1e-5
            ends.append(output(X, moved[: hidden.size].reshape(hidden.shape), moved[hidden.size :], width))
        columns.append((ends[0] - ends[1]) / 2e-5)
    return np.array(columns).T


def test_kernel_is_that_of_numerical_gradients():
    X, _, points, hidden, readout = network()
    expected = jacobian(X, hidden, readout, 12) @ jacobian(points, hidden, readout, 12).T
    np.testing.assert_allclose(linearized.tangent_kernel(X, points, hidden, readout, 12), expected, atol=1e-8)


@pytest.mark.parametrize("scale", [0.5, 20.0])
def test_outputs_are_those_of_descent_on_the_linear_model(scale):
    X, y, points, hidden, readout = network(1)
    rate, at = 0.3, np.array([0.0, 1.0, 2.0, 50.0, 400.0])
    J, across = jacobian(X, hidden, readout, 12), jacobian(points, hidden, readout, 12)
    moved, seen = np.zeros(J.shape[1]), []
    for step in range(401):
        if step in at:
            seen.append(scale * (output(points, hidden, readout, 12) + across @ moved))
        residual = scale * (output(X, hidden, readout, 12) + J @ moved) - y
        moved = moved - rate * J.T @ residual / scale / len(X)
    answer = linearized.linearized_outputs(X, y, points, hidden, readout, 12, 0.0, scale, rate, at)
    np.testing.assert_allclose(answer, seen, atol=1e-6 * scale)


def test_the_limit_is_kernel_interpolation():
    X, y, points, hidden, readout = network(2)
    answer = linearized.linearized_outputs(X, y, points, hidden, readout, 12, 0.0, 3.0, 0.5, np.array([1e9]))[0]
    kernel = lambda left: linearized.tangent_kernel(left, X, hidden, readout, 12)
    start = lambda left: 3.0 * output(left, hidden, readout, 12)
    expected = start(points) - kernel(points) @ np.linalg.solve(kernel(X), start(X) - y)
    np.testing.assert_allclose(answer, expected, rtol=1e-7)


def test_what_is_subtracted_is_no_longer_in_the_residual():
    X, y, points, hidden, readout = network(5)
    ask = lambda labels, subtracted: linearized.linearized_outputs(
        X, labels, points, hidden, readout, 12, subtracted, 2.0, 0.5, np.array([0.0, 7.0])
    )
    centred = ask(y, 1.0)
    np.testing.assert_array_equal(centred[0], 0)
    shifted = ask(y + 2.0 * output(X, hidden, readout, 12), 0.0) - 2.0 * output(points, hidden, readout, 12)
    np.testing.assert_allclose(centred, shifted, atol=1e-12)


def test_directions_of_no_curvature_do_not_move():
    X, y, points, hidden, readout = network(3)
    twice, labels = np.vstack([X, X]), np.append(y, y + 1)
    answer = linearized.linearized_outputs(twice, labels, points, hidden, readout, 12, 0.0, 1.0, 0.5, np.array([1e9]))
    mean = linearized.linearized_outputs(X, y + 0.5, points, hidden, readout, 12, 0.0, 1.0, 0.5, np.array([1e9]))
    np.testing.assert_allclose(answer, mean, rtol=1e-6)


def test_nan_gives_nan_and_a_rate_too_large_grows():
    given = [*network(4), 12.0, 0.0, 1.0, 0.1, np.array([0.0, 10.0])]
    assert np.isfinite(linearized.linearized_outputs(*given)).all()
    for place in range(len(given)):
        bad = [np.nan * each if place == number else each for number, each in enumerate(given)]
        assert np.isnan(linearized.linearized_outputs(*bad)).all(), place
    given[8] = 100.0
    assert np.abs(linearized.linearized_outputs(*given)[1]).max() > 1e6


REFUSED = {
    "X has shape": lambda X, y, p, b, a: linearized.linearized_outputs(X[0], y, p, b, a, 12, 0.0, 1.0, 0.1, np.ones(1)),
    "y has 2 entries": lambda X, y, p, b, a: linearized.linearized_outputs(
        X, y[:2], p, b, a, 12, 0.0, 1.0, 0.1, np.ones(1)
    ),
    "readout has 2 entries": lambda X, y, p, b, a: linearized.tangent_kernel(X, p, b, a[:2], 12),
    "points has rows of 2": lambda X, y, p, b, a: linearized.tangent_kernel(X, p[:, :2], b, a, 12),
    "hidden has rows of 2": lambda X, y, p, b, a: linearized.tangent_kernel(X, p, b[:, :2], a, 12),
    "width is 0": lambda X, y, p, b, a: linearized.tangent_kernel(X, p, b, a, 0),
    "rate is -1": lambda X, y, p, b, a: linearized.linearized_outputs(X, y, p, b, a, 12, 0.0, 1.0, -1, np.ones(1)),
    "at is": lambda X, y, p, b, a: linearized.linearized_outputs(X, y, p, b, a, 12, 0.0, 1.0, 0.1, -np.ones(1)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message](*network())
