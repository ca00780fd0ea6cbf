import math

import numpy as np
import pytest

from research.oracles import greedy_low_rank as greedy


def gaussian(seed=0, size=6, measured=16, spectrum=(1.0,)):
    random = np.random.default_rng(seed)
    basis = np.linalg.qr(random.normal(size=(size, size)))[0][:, : len(spectrum)]
    A = random.normal(size=(measured, size, size))
    A = (A + A.transpose(0, 2, 1)) / 2 / measured**0.5
    planted = (basis * np.array(spectrum)) @ basis.T
    return A, np.einsum("ijk,jk->i", A, planted), planted


def entries(matrix, diagonal):
    """Every entry on and above the diagonal, or above it only: of the norm of the matrix, or of what is off it."""
    rows, columns = np.triu_indices(len(matrix), 0 if diagonal else 1)
    A = np.zeros((len(rows), *matrix.shape))
    number, on = np.arange(len(rows)), rows == columns
    A[number, rows, columns] = A[number, columns, rows] = np.where(on, 1.0, 0.5**0.5)
    return A, np.einsum("ijk,jk->i", A, matrix)


def descended(A, y, init_scale, learning_rate, steps):
    """Plain gradient descent from init_scale · I, and the eigenvalues on the way."""
    U, path = init_scale * np.eye(A.shape[1]), []
    flat = A.reshape(len(A), -1)
    for _ in range(steps):
        U = U - learning_rate * ((flat @ (U @ U.T).ravel() - y) @ flat).reshape(U.shape) @ U
        path.append(np.linalg.eigvalsh(U @ U.T)[::-1])
    return U @ U.T, np.array(path)


def test_of_a_fully_observed_matrix_the_phases_are_its_eigenvalues():
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.normal(size=(5, 5)))[0]
    values = np.array([1.0, 0.7, 0.3, -0.2, -0.5])
    matrix = (basis * values) @ basis.T
    A, y = entries(matrix, diagonal=True)
    np.testing.assert_allclose(greedy.greedy_low_rank(A, y), (basis * np.maximum(values, 0)) @ basis.T, atol=1e-10)
    rates = greedy.greedy_rates(A, y)
    assert rates.rank == 3
    # each mode by itself: init_scale² exp(2 λ t)
    np.testing.assert_allclose(rates.escape_time[:3], 1 / values[:3], rtol=1e-6)
    for phase in range(3):
        np.testing.assert_allclose(rates.level[phase, : phase + 1], values[: phase + 1], atol=1e-8)
        np.testing.assert_allclose(rates.level[phase, phase + 1 :], 0, atol=1e-8)
    assert rates.exponent == pytest.approx(2 + 2 * 0.2 / 0.3, rel=1e-6)
    slowed = greedy.greedy_rates(A, y, 0.1)
    np.testing.assert_allclose(slowed.escape_time[:3], 0.1 / np.log1p(0.1 * values[:3]), rtol=1e-6)


def test_what_is_off_the_diagonal_gives_the_planted_matrix():
    random = np.random.default_rng(1)
    factor = random.normal(size=(6, 1)) + np.array([[3.0], [0], [0], [0], [0], [0]])
    planted = factor @ factor.T
    A, y = entries(planted, diagonal=False)
    np.testing.assert_allclose(greedy.greedy_low_rank(A, y), planted, atol=1e-8)
    assert greedy.greedy_rates(A, y).rank == 1


def test_descent_from_a_tiny_start_goes_there_at_the_foreseen_times():
    A, y, planted = gaussian(2, measured=20, spectrum=(0.7, 0.3))
    found, rates = greedy.greedy_low_rank(A, y), greedy.greedy_rates(A, y, 0.1)
    np.testing.assert_allclose(found, planted, atol=1e-9)
    assert rates.rank == 2
    crossed = []
    for init_scale in (1e-6, 1e-9):
        end, path = descended(A, y, init_scale, 0.1, 2500)
        crossed.append(0.1 * np.argmax(path[:, :2] > 0.02, axis=0))
    np.testing.assert_allclose(end, found, atol=1e-3)
    pace = np.subtract(*crossed[::-1]) / math.log(1e3)
    np.testing.assert_allclose(pace, rates.escape_time[:2], rtol=0.04)


def test_every_phase_is_stationary_and_lower():
    A, y, _ = gaussian(0, measured=18, spectrum=(0.6, 0.3, 0.1))
    phases = greedy._phases(A.tobytes(), y.tobytes(), A.shape)
    loss = [np.linalg.norm(np.einsum("ijk,jk->i", A, matrix) - y) for matrix, _ in phases]
    assert (np.diff(loss) < 0).all()
    for number, (matrix, spectrum) in enumerate(phases):
        assert np.linalg.matrix_rank(matrix, tol=1e-8) == number
        assert len(spectrum) == 6 - number
        gradient = np.einsum("i,ijk->jk", np.einsum("ijk,jk->i", A, matrix) - y, A)
        np.testing.assert_allclose(gradient @ matrix, 0, atol=1e-8)
    assert phases[-1][1].max(initial=0.0) <= 1e-7 * phases[0][1][0]


def test_a_phase_may_end_at_a_lower_rank():
    A, y, planted = gaussian(3, measured=18, spectrum=(0.6, 0.3, 0.1))  # by way of a local minimum of rank 3
    assert len(greedy._phases(A.tobytes(), y.tobytes(), A.shape)) == 5
    np.testing.assert_allclose(greedy.greedy_low_rank(A, y), planted, atol=1e-6)
    assert math.isnan(greedy.greedy_rates(A, y).exponent)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_algorithm_is_scale_equivariant(scale):
    A, y, _ = gaussian(4)
    plain, scaled = greedy.greedy_low_rank(A, y), greedy.greedy_low_rank(A, scale * y)
    np.testing.assert_allclose(scaled / scale, plain, atol=1e-8)
    paces = [greedy.greedy_rates(A, y).escape_time[0], greedy.greedy_rates(A, scale * y).escape_time[0] * scale]
    assert paces[0] == pytest.approx(paces[1])


def test_where_there_is_nothing_to_learn_or_no_single_way():
    A, y = entries(-np.eye(3), diagonal=True)
    assert not greedy.greedy_low_rank(A, y).any()
    assert greedy.greedy_rates(A, y).rank == 0
    A, y = entries(np.eye(3), diagonal=True)
    assert np.isnan(greedy.greedy_low_rank(A, y)).all()
    assert math.isnan(greedy.greedy_rates(A, y).exponent)


def test_a_flow_that_does_not_settle_is_void(monkeypatch):
    A, y, _ = gaussian(5)
    monkeypatch.setattr(greedy, "_refined", lambda A, y, factor: 1.0001 * factor)
    assert np.isnan(greedy.greedy_low_rank(A, 1.5 * y)).all()
    assert np.isnan(greedy.greedy_rates(A, 1.5 * y).escape_time).all()


def test_nan_gives_nan():
    A, y, _ = gaussian()
    bad, target = A.copy(), y.copy()
    bad[0, 0, 0] = target[0] = np.nan
    for arguments in ((bad, y), (A, target)):
        assert np.isnan(greedy.greedy_low_rank(*arguments)).all()
        assert math.isnan(greedy.greedy_rates(*arguments).exponent)
    assert math.isnan(greedy.greedy_rates(A, y, math.nan).exponent)


REFUSED = {
    "measurements has shape": lambda: greedy.greedy_low_rank(np.eye(2), [1.0]),
    "measurements of shape .* are not all symmetric": lambda: greedy.greedy_rates([[[0, 1], [0, 0]]], [1.0]),
    "y has 2 entries": lambda: greedy.greedy_low_rank(np.eye(2)[None], [1.0, 2.0]),
    "learning_rate is -1": lambda: greedy.greedy_rates(np.eye(2)[None], [1.0], -1.0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
