"""Layers of a linear network as matrices: against SciPy, and their blur against the receptive field's."""

import numpy as np
import pytest
from scipy.signal import correlate2d

from research.oracles.clarity import decodable_share
from research.oracles.linear_maps import linear_clarity, linear_maps, mean_frequency, mean_pooling, padded_correlation
from research.oracles.receptive_field import receptive_field

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(3, 3, 2)), RNG.normal(size=(3, 3, 2, 3))
PICTURES = RNG.normal(size=(300, 8, 8)).cumsum(axis=2) + RNG.normal(size=(8, 8))
FLAT = PICTURES.reshape(300, 64)
AVERAGE = FLAT.mean(axis=0)
COVARIANCE = (FLAT - AVERAGE).T @ (FLAT - AVERAGE) / 300


def maps(picture):
    """The three kinds of maps of one picture, with SciPy."""
    fine = [correlate2d(picture, kernel, "same") for kernel in np.moveaxis(FIRST, 2, 0)]
    pooled = [each.reshape(4, 2, 4, 2).mean(axis=(1, 3)) for each in fine]
    return fine, pooled, [sum(correlate2d(pooled[i], SECOND[:, :, i, j], "same") for i in range(2)) for j in range(3)]


def test_the_matrices_are_scipys_correlations_and_means():
    for layer, expected in zip(linear_maps(FIRST, SECOND, 8), maps(PICTURES[0]), strict=True):
        np.testing.assert_allclose(layer @ FLAT[0], np.reshape(expected, (len(expected), -1)), atol=1e-12)


def test_clarity_is_that_of_the_maps_themselves():
    found = linear_clarity(FIRST, SECOND, COVARIANCE, AVERAGE)
    kinds = [np.array(kind) for kind in zip(*map(maps, PICTURES), strict=True)]  # each (picture, map, row, column)
    for place, (kind, spacing) in enumerate(zip(kinds, (1, 2, 2), strict=True)):
        for number in range(kind.shape[1]):
            values = kind[:, number].reshape(300, -1)
            centred = values - values.mean(axis=0)
            across = centred.T @ (FLAT - AVERAGE) / 300
            share = decodable_share(centred.T @ centred / 300, across, np.trace(COVARIANCE))
            assert found[place][number] == pytest.approx(share, abs=1e-7)
            power = np.sum(np.abs(np.fft.fft2(kind[:, number])) ** 2, axis=0)
            power[0, 0] = 0
            along = np.fft.fftfreq(kind.shape[-1], spacing)
            assert found[3 + place][number] == pytest.approx(
                np.sum(power * np.hypot(along[:, None], along)) / power.sum()
            )


def test_filters_of_ones_blur_like_the_receptive_field():
    ones = np.ones((3, 3, 1)), np.ones((3, 3, 1, 1))
    layer = linear_maps(*ones, 16)[2][0].reshape(8, 8, 16, 16)
    effect = layer[4, 4].sum(axis=0)  # along one axis
    places = np.arange(16)
    mean = effect @ places / effect.sum()
    field = receptive_field(np.array([3, 2, 3]), np.array([1, 2, 1]), np.array([1, 0, 1]))
    assert np.flatnonzero(effect).tolist() == list(range(int(field.start + 8), int(field.start + 8 + field.size)))
    assert effect @ (places - mean) ** 2 / effect.sum() == pytest.approx(field.variance)
    noise = lambda matrix, spacing: mean_frequency(matrix @ matrix.T, spacing)
    fine, _, second = linear_maps(*ones, 16)
    white = noise(np.eye(256), 1)
    assert noise(second[0], 2) < noise(fine[0], 1) < white


def test_a_convolution_of_one_map_blurs_its_spectrum_but_takes_nothing_from_what_can_be_read():
    bell = np.outer([0.2, 1.0, 0.2], [0.2, 1.0, 0.2])
    assert np.linalg.cond(padded_correlation(bell, 4)) < 100
    found = linear_clarity(FIRST[..., :1], bell[:, :, None, None], COVARIANCE, AVERAGE)
    np.testing.assert_allclose(found.second_share, found.pooled_share, rtol=1e-9)
    assert 0.1 < found.second_share < 0.9
    assert found.second_frequency < found.pooled_frequency


def test_a_filter_of_one_weight_is_the_picture():
    point = np.zeros((3, 3, 1))
    point[1, 1] = 2.0
    found = linear_clarity(point, point[..., None], COVARIANCE, AVERAGE)
    assert found.frequency == pytest.approx(mean_frequency(COVARIANCE + np.outer(AVERAGE, AVERAGE), 1))
    assert found.pooled_share == pytest.approx(found.second_share)
    assert np.isnan(linear_clarity(0 * point, point[..., None], COVARIANCE, AVERAGE).frequency).all()


def test_nan_gives_nan_and_bad_input_is_named():
    assert all(np.isnan(part).all() for part in linear_clarity(FIRST * np.nan, SECOND, COVARIANCE, AVERAGE))
    for call, message in (
        (lambda: padded_correlation(np.ones((2, 2)), 4), "kernel has shape"),
        (lambda: mean_pooling(3), "size is 3"),
        (lambda: linear_maps(FIRST, SECOND[:, :, :1], 8), "second takes 1 maps"),
        (lambda: linear_clarity(FIRST, SECOND, COVARIANCE[:60, :60], AVERAGE[:60]), "covariance has 60 rows"),
        (lambda: linear_clarity(FIRST, SECOND, COVARIANCE, AVERAGE[:60]), "average has 60 entries"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
