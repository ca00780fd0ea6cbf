"""The spread of a stack of filters, against repeated convolution."""

import numpy as np
import pytest

from research.oracles.effective_field import stacked_variance
from research.oracles.receptive_field import receptive_field

RNG = np.random.default_rng(0)


def test_it_is_that_of_the_convolved_filters():
    filters = RNG.uniform(0.1, 2.0, size=(5, 4))
    effect = np.ones(1)
    for number, variance in enumerate(stacked_variance(filters)):
        effect = np.convolve(effect, filters[number])
        place = np.arange(len(effect))
        mean = np.average(place, weights=effect)
        assert variance == pytest.approx(np.average((place - mean) ** 2, weights=effect))


def test_ones_are_the_boxes_of_the_receptive_field():
    variances = stacked_variance(np.ones((6, 3)))
    np.testing.assert_allclose(variances, 2 / 3 * np.arange(1, 7))
    assert variances[-1] == pytest.approx(receptive_field([3] * 6, [1] * 6, [0] * 6).variance)
    np.testing.assert_array_equal(stacked_variance(np.array([[0.0, 2.0, 0.0]])), 0)


def test_nan_gives_nan_and_bad_input_is_named():
    assert np.isnan(stacked_variance(np.full((2, 3), np.nan))).all()
    for bad in (-np.eye(3), np.zeros((1, 3))):
        with pytest.raises(ValueError, match="filters has the least weight"):
            stacked_variance(bad)
