import numpy as np
import pytest
from scipy.integrate import quad

from research.oracles import arc_cosine


def circle(points):
    angle = 2 * np.pi * np.arange(points) / points
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def gradients(X, hidden, readout, bias):
    """The gradients of Σ a max(b·x + c, 0)/√width at c = 0 in a, b and c, side by side."""
    sums = X @ hidden.T
    on = (sums > 0) * readout
    parts = [np.maximum(sums, 0), *(on * column[:, None] for column in X.T), bias**0.5 * on]
    return np.concatenate(parts, axis=1) / len(hidden) ** 0.5


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_kernel_is_the_mean_over_random_units(bias):
    random = np.random.default_rng(0)
    X, units = random.normal(size=(6, 3)), 100_000
    J = gradients(X, random.normal(size=(units, 3)), random.choice([-1.0, 1.0], units), bias)
    # a unit's term is at most |b|² + 1 times lengths: its standard deviation is below 4 of them
    error = 5 * 4 * np.outer(*2 * [np.linalg.norm(X, axis=1) + bias]) / units**0.5
    assert (np.abs(J @ J.T - arc_cosine.arc_cosine_kernel(X, X, bias)) < error).all()


def test_kernel_on_special_pairs():
    x = np.array([[2.0, 0.0]])
    kernel = lambda other, bias: float(arc_cosine.arc_cosine_kernel(x, np.array([other]), bias)[0, 0])
    assert kernel([2.0, 0.0], 0.0) == pytest.approx(4.0)
    assert kernel([2.0, 0.0], 1.0) == pytest.approx(4.5)
    assert kernel([-3.0, 0.0], 1.0) == pytest.approx(0.0, abs=1e-15)
    assert kernel([0.0, 3.0], 0.0) == pytest.approx(6 / (2 * np.pi))
    assert kernel([0.0, 0.0], 0.0) == 0.0


@pytest.mark.parametrize("bias", [0.0, 0.5, 1.0])
def test_eigenvalues_of_the_circle_by_quadrature(bias):
    frequency = np.arange(9.0)
    steps = lambda t: (np.pi - t) / (2 * np.pi)
    kernel = lambda t: np.sin(t) / (2 * np.pi) + 2 * steps(t) * np.cos(t) + bias * steps(t)
    expected = [quad(lambda t, k=k: kernel(t) * np.cos(k * t) / np.pi, 0, np.pi)[0] for k in frequency]
    # of 800 points frequency 0 stands for ±800 too, …: 2 (1 + bias) Σ_j 1/(π 800 j)²
    np.testing.assert_allclose(arc_cosine.circle_eigenvalues(frequency, 800, bias), expected, atol=2e-6)


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_eigenvalues_of_the_points_by_eigh(bias):
    X, frequency = circle(14), np.arange(14.0)
    values = arc_cosine.circle_eigenvalues(frequency, 14, bias)
    expected = np.linalg.eigvalsh(arc_cosine.arc_cosine_kernel(X, X, bias) / 14)
    np.testing.assert_allclose(np.sort(values), expected, atol=1e-12)
    np.testing.assert_allclose(values[1:], values[:0:-1], atol=1e-15)
    assert (values[3:8:2] == 0).all() == (bias == 0)


def test_a_closed_form_that_is_wrong_is_not_certified(monkeypatch):
    right = arc_cosine.arc_cosine_kernel
    monkeypatch.setattr(arc_cosine, "arc_cosine_kernel", lambda *given: 1.001 * right(*given))
    values = arc_cosine.circle_eigenvalues(np.arange(4.0), 16, 0.0)
    assert np.isnan(values[:3]).all()
    assert values[3] == 0


def test_odd_functions_of_any_network_without_bias_are_linear():
    random = np.random.default_rng(1)
    hidden, readout, X = random.normal(size=(9, 2)), random.normal(size=9), circle(16)
    outputs = np.maximum(X @ hidden.T, 0) @ readout
    np.testing.assert_allclose(np.fft.fft(outputs)[3:8:2], 0, atol=1e-13)


def test_descent_is_that_of_the_matrix_powers():
    random = np.random.default_rng(2)
    J, r = random.normal(size=(5, 8)), random.normal(size=5)
    K, rate, left = J @ J.T, 0.3, r.copy()
    answer = arc_cosine.kernel_descent(K, r, rate, np.array([0.0, 1.0, 7.0]))
    for step in range(8):
        if step in (0, 1, 7):
            np.testing.assert_allclose(answer[(0, 1, 7).index(step)], left, rtol=1e-10)
        left = left - rate * K @ left / 5


def test_modes_of_the_circle_are_waves():
    X = circle(10)
    kernel = arc_cosine.arc_cosine_kernel(X, X, 1.0)
    rates, functions = arc_cosine.mode_rates(kernel), arc_cosine.eigenfunctions(kernel)
    np.testing.assert_allclose(rates[[0, 1, 2]], arc_cosine.circle_eigenvalues(np.array([0.0, 1.0, 1.0]), 10, 1.0))
    np.testing.assert_allclose(kernel @ functions, 10 * rates * functions, atol=1e-12)
    np.testing.assert_allclose(np.abs(functions[:, 0]), 10**-0.5)
    assert (np.diff(rates) <= 0).all()


def test_modes_that_are_wrong_are_not_certified(monkeypatch):
    right = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda K: (right(K)[0] * 1.001, right(K)[1]))
    assert np.isnan(arc_cosine.mode_rates(np.diag([1.0, 2.0]))).all()
    assert np.isnan(arc_cosine.eigenfunctions(np.diag([1.0, 2.0]))).all()


def test_nan_gives_nan():
    assert np.isnan(arc_cosine.mode_rates(np.nan * np.eye(2))).all()
    nan = np.nan
    assert np.isnan(arc_cosine.circle_eigenvalues(np.array([nan, 1.0]), 8, 0.0)).all()
    assert np.isnan(arc_cosine.circle_eigenvalues(np.ones(2), nan, 0.0)).all()
    assert np.isnan(arc_cosine.circle_eigenvalues(np.ones(2), 8, nan)).all()
    given = [np.eye(3), np.ones(3), 0.1, np.ones(2)]
    for place in range(4):
        bad = [nan * each if place == number else each for number, each in enumerate(given)]
        assert np.isnan(arc_cosine.kernel_descent(*bad)).all()
    assert np.isnan(arc_cosine.arc_cosine_kernel(nan * np.ones((1, 2)), np.ones((1, 2)), 0.0)).all()


REFUSED = {
    "points has rows of 2": lambda: arc_cosine.arc_cosine_kernel(np.ones((2, 3)), np.ones((2, 2)), 0.0),
    "bias is -1": lambda: arc_cosine.arc_cosine_kernel(np.ones((2, 3)), np.ones((2, 3)), -1.0),
    "row of zeros": lambda: arc_cosine.arc_cosine_kernel(np.zeros((2, 3)), np.ones((2, 3)), 1.0),
    "frequency is": lambda: arc_cosine.circle_eigenvalues(np.array([0.5]), 8, 0.0),
    "points is 7": lambda: arc_cosine.circle_eigenvalues(np.ones(1), 7, 0.0),
    "kernel of shape": lambda: arc_cosine.kernel_descent(np.ones((2, 3)), np.ones(2), 0.1, np.ones(1)),
    "residual has 3": lambda: arc_cosine.kernel_descent(np.eye(2), np.ones(3), 0.1, np.ones(1)),
    "rate is -1": lambda: arc_cosine.kernel_descent(np.eye(2), np.ones(2), -1.0, np.ones(1)),
    "at is": lambda: arc_cosine.kernel_descent(np.eye(2), np.ones(2), 0.1, -np.ones(1)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_angles_keep_their_digits_where_they_are_small_and_are_right_beside_a_row_of_zeros():
    small = 1e-9
    X = np.array([[3.0, 0.0], [0.0, 0.0]])
    lengths, angle = arc_cosine.lengths_and_angles(X, np.array([[2 * np.cos(small), 2 * np.sin(small)], [-1.0, 0.0]]))
    np.testing.assert_allclose(lengths, [[6, 3], [0, 0]])
    np.testing.assert_allclose(angle, [[small, np.pi], [np.pi / 2, np.pi / 2]], rtol=1e-12)
    with pytest.raises(ValueError, match="points has rows of 3 entries"):
        arc_cosine.lengths_and_angles(X, np.ones((1, 3)))
