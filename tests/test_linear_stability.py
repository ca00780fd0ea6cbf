import itertools
import math

import numpy as np
import pytest

from research.oracles import linear_stability


def samples(seed, count=4, features=2):
    return np.random.default_rng(seed).normal(size=(count, features)) * np.linspace(1.5, 0.5, features)


def batches(count, size, replacement):
    """All equally likely batches of that size."""
    return itertools.product(range(count), repeat=size) if replacement else itertools.combinations(range(count), size)


def second_moment(X, rate, size, replacement):
    """E[(I - ηH_B) ⊗ (I - ηH_B)], batch by batch."""
    every = [np.eye(X.shape[1]) - rate * X[list(b)].T @ X[list(b)] / size for b in batches(len(X), size, replacement)]
    return np.mean([np.kron(each, each) for each in every], axis=0)


@pytest.mark.parametrize("replacement", [0, 1])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_thresholds_are_those_of_all_batches_one_by_one(size, replacement):
    X = samples(size)
    limits = linear_stability.stability(X, size, replacement)
    radius = lambda rate: np.abs(np.linalg.eigvals(second_moment(X, rate, size, replacement))).max()
    assert radius(limits.exact) == pytest.approx(1, abs=1e-9)
    assert radius(0.99 * limits.exact) < 1 < radius(1.01 * limits.exact)
    every = [X[list(b)].T @ X[list(b)] / size for b in batches(len(X), size, replacement)]
    step = np.mean([(np.eye(2) - limits.sufficient * H) @ (np.eye(2) - limits.sufficient * H) for H in every], axis=0)
    assert np.linalg.eigvalsh(step)[-1] == pytest.approx(1, abs=1e-9)
    assert limits.sufficient <= limits.exact * (1 + 1e-12)
    assert limits.exact <= limits.full_batch * (1 + 1e-12)
    growth = linear_stability.growth(X, 0.7, size, replacement, np.eye(2), np.arange(3.0))
    assert growth.radius == pytest.approx(radius(0.7), rel=1e-12)
    once = second_moment(X, 0.7, size, replacement) @ np.eye(2).ravel()
    twice = second_moment(X, 0.7, size, replacement) @ once
    np.testing.assert_allclose(growth.mean_squares, [2, once[[0, 3]].sum(), twice[[0, 3]].sum()], rtol=1e-12)


def test_thresholds_rise_with_the_batch_to_that_of_full_batch_descent():
    X = samples(5, 8, 3)
    exact = [linear_stability.stability(X, size, 0).exact for size in range(1, 9)]
    assert (np.diff(exact) > 0).all()
    assert exact[-1] == pytest.approx(2 / np.linalg.eigvalsh(X.T @ X / 8)[-1], rel=1e-12)
    assert linear_stability.stability(X, 8, 1).exact < exact[-1]
    assert linear_stability.stability(X, 1_000_000, 1).exact == pytest.approx(exact[-1], rel=1e-4)
    assert linear_stability.stability(X, 1, 1) == linear_stability.stability(X, 1, 0)


def test_samples_of_one_length_are_projected_on():
    # |e|² falls by η(2 - η|x|²)(x·e)² a step: for one sample a step the threshold is 2/|x|², whatever the directions.
    X = samples(6, 5, 3)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    limits = linear_stability.stability(X, 1, 0)
    assert limits.exact == pytest.approx(2)
    assert limits.sufficient == pytest.approx(2)
    assert linear_stability.stability(X, 5, 0).exact > 2.5


def test_one_dimension_is_the_textbook_formula():
    X = np.array([[1.0], [2.0], [0.5]])
    h = X[:, 0] ** 2
    for size in (1, 2, 3):
        share = (3 - size) / (2 * size)
        expected = 2 * h.mean() / ((1 - share) * h.mean() ** 2 + share * (h**2).mean())
        assert linear_stability.stability(X, size, 0)[:2] == pytest.approx((expected, expected))
    assert linear_stability.escape(h).mean_square == pytest.approx(linear_stability.stability(X, 1, 0).exact)


def test_directions_without_samples_neither_grow_nor_shrink():
    X = samples(7)
    wide = np.hstack([X, np.zeros((4, 1))])
    assert linear_stability.stability(wide, 2, 0) == pytest.approx(linear_stability.stability(X, 2, 0))
    at = np.array([0.0, 5.0])
    alone = linear_stability.growth(X, 0.4, 2, 0, np.eye(2), at).mean_squares
    np.testing.assert_allclose(linear_stability.growth(wide, 0.4, 2, 0, np.eye(3), at).mean_squares, alone + 1)


def test_escape_from_wu_ma_and_es_minimum():
    # (1 - 0.2η)(3.8η - 1) = 1
    limits = linear_stability.escape(np.array([0.2, 3.8]))
    assert limits.mean_square == pytest.approx(2 * 2 / 7.24)
    assert limits.almost_sure == pytest.approx((4 - math.sqrt(16 - 8 * 0.76)) / 1.52)
    assert linear_stability.escape(np.array([2.0, 2.0])) == (1, 1)


@pytest.mark.parametrize("rate", [0.55, 0.553, 0.557])
def test_escape_bound_is_a_martingales_and_holds(rate):
    h = np.array([0.2, 3.8])
    bound = linear_stability.escape_probability(h, rate, 0.1, 1.0)
    power = math.log(bound) / math.log(0.1)
    assert np.mean(np.abs(1 - rate * h) ** power) == pytest.approx(1, abs=1e-9)
    assert (power > 2) == (rate < linear_stability.escape(h).mean_square)
    choices = np.random.default_rng(0).integers(0, 2, size=(4000, 400))
    paths = np.log(0.1) + np.log(np.abs(1 - rate * h))[choices].cumsum(axis=1)
    left = (paths.max(axis=1) > 0).mean()
    assert 0.2 * bound < left < bound + 3 * math.sqrt(bound / 4000)


def test_escape_bound_holds_for_the_two_parabolas_up_to_where_the_nearer_one_ends():
    # min{x², (x - 1)²/10} and min{x², 1.9 (x - 1)²}: the second ends 1/(1 + √1.9) from 1, the first 1/(1 + √0.1).
    rate, start, curved = 0.553, 0.1, np.array([0.1, 1.9])
    near, far = 1 / (1 + np.sqrt(curved[::-1]))
    random = np.random.default_rng(0)
    x, left = np.full(20_000, 1 - start), np.zeros(20_000, bool)
    for _ in range(600):
        scale = curved[random.integers(0, 2, x.size)]
        x = x - rate * np.where(x**2 < scale * (x - 1) ** 2, 2 * x, 2 * scale * (x - 1))
        left |= np.abs(x - 1) > far
    bound = lambda edge: linear_stability.escape_probability(2 * curved, rate, start, edge)
    assert bound(far) < left.mean() < bound(near)  # beyond the nearer end |e|^κ is no martingale


def test_escape_bound_at_its_ends():
    h = np.array([0.2, 3.8])
    assert linear_stability.escape_probability(h, 0.6, 0.1, 1.0) == 1
    assert linear_stability.escape_probability(h, 0.4, 0.1, 1.0) == 0
    assert linear_stability.escape_probability(h, 0.555, 0.0, 1.0) == 0


def test_nan_in_gives_nan_out():
    X, nan = samples(8), float("nan")
    bad = X.copy()
    bad[0, 0] = nan
    assert np.isnan(linear_stability.stability(bad, 1, 0)).all()
    assert np.isnan(linear_stability.stability(X, nan, 0)).all()
    assert np.isnan(linear_stability.growth(X, nan, 1, 0, np.eye(2), np.arange(3.0)).mean_squares).all()
    assert np.isnan(linear_stability.growth(X, 1.0, 1, 0, nan * np.eye(2), np.arange(3.0)).radius)
    assert np.isnan(linear_stability.escape(np.array([1.0, nan]))).all()
    assert math.isnan(linear_stability.escape_probability(np.array([1.0, 2.0]), nan, 0.1, 1.0))


REFUSED = {
    "batch is 0": lambda: linear_stability.stability(samples(0), 0, 0),
    "batch is 1.5": lambda: linear_stability.stability(samples(0), 1.5, 0),
    "batch is 5": lambda: linear_stability.stability(samples(0), 5, 0),
    "replacement is 2": lambda: linear_stability.stability(samples(0), 1, 2),
    "X is zero": lambda: linear_stability.stability(np.zeros((3, 2)), 1, 0),
    "learning_rate is -1": lambda: linear_stability.growth(samples(0), -1, 1, 0, np.eye(2), np.arange(3.0)),
    "initial has shape": lambda: linear_stability.growth(samples(0), 1, 1, 0, np.eye(3), np.arange(3.0)),
    "at is": lambda: linear_stability.growth(samples(0), 1, 1, 0, np.eye(2), np.array([0.5])),
    "curvatures is": lambda: linear_stability.escape(np.array([-1.0, 2.0])),
    "start is 2": lambda: linear_stability.escape_probability(np.array([1.0, 2.0]), 0.5, 2.0, 1.0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
