import numpy as np
import pytest

from research.oracles import least_squares
from research.oracles.saddle_to_saddle import jump_times, matching_pursuit, saddles


def problem(seed, samples=5, features=9):
    random = np.random.default_rng(seed)
    return random.normal(size=(samples, features)), random.normal(size=samples)


def path(X, y):
    """The times and the saddles, without what lies beyond the last."""
    times = jump_times(X, y)
    return times[np.isfinite(times)], saddles(X, y)[np.isfinite(times)]


@pytest.mark.parametrize("seed", range(5))
def test_the_last_saddle_is_the_interpolant_of_least_l1_norm(seed):
    X, y = problem(seed)
    times, weights = path(X, y)
    np.testing.assert_allclose(weights[-1], least_squares.minimum_l1_norm(X, y), atol=1e-6)
    assert (np.diff(times) > 0).all()
    assert np.isnan(jump_times(X, y)[len(times) :]).all()
    loss = ((weights @ X.T - y) ** 2).sum(axis=1)
    assert (np.diff(loss) <= 1e-12).all()


@pytest.mark.parametrize("seed", range(5))
def test_every_saddle_is_stationary_on_its_support(seed):
    X, y = problem(seed)
    for w in path(X, y)[1]:
        np.testing.assert_allclose((X.T @ (X @ w - y))[w != 0], 0, atol=1e-8)


def test_the_dual_variable_stays_in_the_subdifferential():
    X, y = problem(3)
    s, before, w = np.zeros(9), 0.0, np.zeros(9)
    for time, after in zip(*path(X, y), strict=True):
        s = s - 2 * (time - before) * X.T @ (X @ w - y) / len(X)
        before, w = time, after
        assert np.abs(s).max() <= 1 + 1e-8
        np.testing.assert_allclose(s[w != 0], np.sign(w[w != 0]), atol=1e-8)


def test_with_orthogonal_features_jumps_are_at_the_inverse_knots_of_lars():
    from sklearn.linear_model import lars_path

    random = np.random.default_rng(0)
    X = np.linalg.qr(random.normal(size=(20, 6)))[0] * 20**0.5
    y = random.normal(size=20)
    times, weights = path(X, y)
    knots, order, _ = lars_path(X, y, method="lasso")
    np.testing.assert_allclose(times[:6], 1 / (2 * knots[:6]), rtol=1e-6)
    new = [int(np.flatnonzero(w)[~np.isin(np.flatnonzero(w), before)][0]) for w, before in _steps(weights[:6])]
    assert new == list(order)
    z = X.T @ y / 20
    np.testing.assert_allclose(weights[2], np.where(np.abs(z) >= np.sort(np.abs(z))[-3], z, 0), atol=1e-9)


def _steps(weights):
    return zip(weights, [np.array([], int), *(np.flatnonzero(w) for w in weights[:-1])], strict=True)


def test_descent_from_a_small_start_visits_the_saddles():
    X, y = problem(1, 6, 4)
    times, weights = path(X, y)
    size, rate = 40.0, 0.01
    edges, stops = np.r_[0.0, times, times[-1] + 1.0], np.vstack([np.zeros(4), weights])
    u, v = np.full((2, 4), np.exp(-size))
    step, visited = 0, 0
    for low, high, stop in zip(edges[:-1], edges[1:], stops, strict=True):
        while rate * step < size * (low + high) / 2:
            gradient = 2 * rate * X.T @ (X @ (u**2 - v**2) - y) / len(X)
            u, v, step = u - gradient * u, v + gradient * v, step + 1
        if high - low > 0.5:
            np.testing.assert_allclose(u**2 - v**2, stop, atol=0.03)
            visited += 1
    assert visited >= 2


def test_one_feature_jumps_once():
    X, y = np.array([[2.0], [0.0]]), np.array([3.0, 1.0])
    np.testing.assert_allclose(jump_times(X, y, 3), [1 / (2 * 3), np.nan, np.nan])
    np.testing.assert_allclose(saddles(X, y, 3)[0], 1.5)
    assert np.isnan(jump_times(X, 0 * y, 3)).all()


def test_too_few_jumps_and_bad_data_are_void():
    X, y = problem(2)
    assert np.isnan(saddles(X, y, 2)).all()
    bad = X.copy()
    bad[0, 0] = np.nan
    assert np.isnan(jump_times(bad, y)).all()
    assert np.isnan(matching_pursuit(bad, y, 2)).all()
    twice = np.hstack([X, X[:, :1]])  # two features that arrive together share their weight
    assert jump_times(twice, y)[0] == pytest.approx(jump_times(X, y)[0])


def test_matching_pursuit_agrees_with_scikit_learn():
    from sklearn.linear_model import orthogonal_mp

    X, y = problem(4, 12, 8)
    X = X / np.linalg.norm(X, axis=0)
    np.testing.assert_allclose(matching_pursuit(X, y, 3), orthogonal_mp(X, y, n_nonzero_coefs=3))
    assert not matching_pursuit(X, y, 0).any()


REFUSED = {
    "y has 3 entries": lambda: saddles(np.ones((2, 2)), np.ones(3)),
    "most is 0": lambda: saddles(*problem(0), 0),
    "most is 1.5": lambda: saddles(*problem(0), 1.5),
    "count is 10": lambda: matching_pursuit(*problem(0), 10),
    "count is 0.5": lambda: matching_pursuit(*problem(0), 0.5),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
