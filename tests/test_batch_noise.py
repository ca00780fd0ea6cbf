import itertools
import math

import numpy as np
import pytest

from research.oracles.batch_noise import batch_mean_variance


@pytest.mark.parametrize("batch", [1, 2, 5, 7])
def test_the_variance_is_that_over_all_batches(batch):
    values = np.random.default_rng(0).normal(size=7) + 3
    means = [np.mean(chosen) for chosen in itertools.combinations(values, batch)]
    assert batch_mean_variance(values, batch) == pytest.approx(np.var(means), abs=1e-15)


def test_of_many_values_it_is_that_of_independent_draws():
    values = np.random.default_rng(1).normal(size=100_000)
    assert batch_mean_variance(values, 10) == pytest.approx(values.var() / 10, rel=1e-4)


def test_bad_input_is_named_and_nan_passes():
    with pytest.raises(ValueError, match="batch is 8"):
        batch_mean_variance(np.ones(7), 8)
    with pytest.raises(ValueError, match="batch is 0"):
        batch_mean_variance(np.ones(7), 0)
    with pytest.raises(ValueError, match="values has 1 entry"):
        batch_mean_variance(np.ones(1), 1)
    assert math.isnan(batch_mean_variance(np.array([1.0, np.nan]), 1))
    assert math.isnan(batch_mean_variance(np.ones(3), math.nan))
