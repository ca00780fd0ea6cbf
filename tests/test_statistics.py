import math

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from research.statistics import (
    crossing,
    every_seed,
    few,
    largest_score,
    median,
    over_seeds,
    rank_correlation,
    share,
    slope,
    slope_within,
)


def test_the_bootstrap_interval_of_a_mean_covers_as_often_as_it_says():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(30):
        low, high = over_seeds(random.normal(3.0, 2.0, size=20)).interval
        hits += low <= 3.0 <= high
    assert 25 <= hits <= 30  # 28.5 expected; fewer than 25 happen once in 300 times at a coverage of 95 %


def test_the_bootstrap_is_that_of_scipy_and_the_same_every_time():
    sample = np.random.default_rng(1).exponential(size=12)
    estimate = over_seeds(sample, np.mean)
    assert estimate.value == np.mean(sample)
    expected = stats.bootstrap(
        (sample,), np.mean, vectorized=False, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert estimate.interval == (expected.low, expected.high)
    assert over_seeds(sample.reshape(3, 4)) == estimate == over_seeds(sample)
    assert over_seeds(sample, np.median).value == np.median(sample)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan], [1.0, np.inf, 2.0], [-np.inf, -np.inf]])
def test_a_value_that_is_not_finite_makes_the_answer_unknown(values):
    estimate = over_seeds(values)
    assert np.isnan([estimate.value, *estimate.interval]).all()


def test_equal_values_give_a_point():
    assert over_seeds([0.3] * 5) == (np.mean([0.3] * 5), (np.mean([0.3] * 5),) * 2)
    assert over_seeds([0, 0, 0]).interval == (0.0, 0.0)


@pytest.mark.parametrize("statistic", [np.median, np.ptp, lambda sample: 7.0])
def test_a_statistic_that_hardly_varies_still_has_an_interval_of_its_own_values(statistic):
    sample = [5.0] * 9 + [6.0]
    value, (low, high) = over_seeds(sample, statistic)
    assert value == statistic(np.array(sample))
    assert low <= value <= high
    if statistic is not np.ptp:
        assert (low, high) == (value, value)
    else:
        assert (low, high) == (0.0, 1.0)


def test_every_seed_spans_all_seeds():
    assert every_seed([3.0, 1.0, 2.0]) == (2.0, (1.0, 3.0))
    assert every_seed([[1.0, 2.0, 4.0], [3.0, 5.0, 6.0]]) == (3.5, (1.0, 6.0))
    assert np.isnan(every_seed([[0.99], [1.01]]).value)  # the least and largest run of one seed
    for values in ([], [1.0], [1.0, np.nan], [1.0, np.inf]):
        assert np.isnan(every_seed(values).value)
        assert np.isnan(every_seed(values).interval).all()


@pytest.mark.parametrize("seeds", [2, 5, 6, 8, 9, 12, 30, 101])
def test_the_interval_of_a_median_is_the_shortest_that_covers_it_often_enough(seeds):
    estimate = median(np.random.default_rng(0).permutation(seeds) + 1.0)
    low, high = estimate.interval
    assert estimate.value == (seeds + 1) / 2 == (low + high) / 2
    # the median lies outside where the low-th least is above it: at most low − 1 of the seeds below; the same above
    missed = lambda place: 2 * sum(math.comb(seeds, below) for below in range(int(place))) / 2**seeds
    assert missed(low) <= 0.05 or (seeds < 6 and low == 1)
    assert missed(low + 1) > 0.05
    assert bool(few(seeds)) == (missed(1) > 0.05)
    assert np.isnan(median([1.0, np.nan]).value)


def test_share_is_the_exact_binomial_interval():
    estimate = share([True] * 8 + [False] * 2)
    assert estimate.value == 0.8
    low, high = estimate.interval  # the tails of Clopper and Pearson
    np.testing.assert_allclose(stats.binom.sf(7, 10, low), 0.025, rtol=1e-6)
    np.testing.assert_allclose(stats.binom.cdf(8, 10, high), 0.025, rtol=1e-6)
    assert share(np.ones((3, 4), bool)).interval[1] == 1.0
    for unknown in ([], [1.0, np.nan]):  # a NaN is true to NumPy
        assert np.isnan([share(unknown).value, *share(unknown).interval]).all()


def test_slope_is_the_least_squares_line_along_the_last_axis():
    random = np.random.default_rng(0)
    x, y = random.normal(size=7), random.normal(size=(3, 2, 7))
    found = slope(x, y)
    assert found.shape == (3, 2)
    for place in np.ndindex(3, 2):
        np.testing.assert_allclose(found[place], np.polyfit(x, y[place], 1)[0])
    y[1, 0, 3] = np.nan
    y[2, 1, 0] = np.inf
    assert np.isnan(slope(x, y)).tolist() == [[False, False], [True, False], [False, True]]
    assert np.isnan(slope([1.0, 1.0], [0.0, 1.0]))
    assert np.isnan(slope([1.0, np.inf], [0.0, 1.0]))


def test_crossing_is_the_first_rise_through_the_level():
    assert crossing([0, 1, 2, 3, 4], [0, 0.5, 1.5, 0, 2], 1.0) == pytest.approx(1.5)
    assert crossing([0, 1, 2], [0.9, 1.0, 2.0], 1.0) == pytest.approx(1.0)
    for never in ([2, 1, 0], [0.1, 0.2, 0.3], [2, 3, 4], [0, np.nan, 2]):
        assert np.isnan(crossing([0, 1, 2], never, 1.0))


def test_slope_within_looks_only_inside_the_window():
    step = np.arange(6.0)
    y = xr.DataArray([[9.0, 0.0, 2.0, 4.0, np.nan, 8.0]], {"seed": [0], "step": step}, ("seed", "step"))
    fitted = slope_within(y.step, y, y.step >= 1)
    np.testing.assert_allclose(fitted, [2.0])
    assert np.isnan(slope_within(y.step, y, y.step > 4.5)).all()


def test_rank_correlation_is_spearmans_along_the_last_axis():
    x, y = np.random.default_rng(3).normal(size=(2, 4, 9)).round(1)
    found = rank_correlation(x, y)
    expected = [stats.spearmanr(*rows).statistic for rows in zip(x, y, strict=True)]
    np.testing.assert_allclose(found, expected)
    assert rank_correlation(x[0], np.exp(x[0])) == pytest.approx(1.0)
    y[0, 0] = np.nan
    assert np.isnan(rank_correlation(x, y)).tolist() == [True, False, False, False]
    assert np.isnan(rank_correlation(x[0], np.ones(9)))


def test_the_largest_score_stays_below_its_limit_as_often_as_it_says():
    random = np.random.default_rng(4)
    samples = random.normal(size=(2000, 6, 5))
    scores = samples.mean(axis=2) / samples.std(axis=2, ddof=1) * 5**0.5
    answers = [largest_score(row, degrees=4) for row in scores]
    share_below = np.mean([worst.value < limit for worst, limit in answers])
    assert 0.94 <= share_below <= 0.97  # 95.1 % for six independent ones
    assert largest_score([1.0, -3.0])[0] == (3.0, (3.0, 3.0))
    assert largest_score([0.5])[1] == pytest.approx(1.959964)
    for unknown in ([], [1.0, np.nan]):
        assert np.isnan(largest_score(unknown)[0].value)
