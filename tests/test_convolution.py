"""Convolution as a matrix, as SciPy has it; pooling's size and what it keeps."""

import numpy as np
import pytest

from research.oracles.convolution import (
    correlation,
    correlation_matrix,
    pooled_size,
    toeplitz_product,
    unchanged_share,
)

RNG = np.random.default_rng(0)
PICTURE, KERNEL = RNG.normal(size=(6, 5)), RNG.normal(size=(3, 2))


def test_the_product_is_scipys_correlation_and_the_matrix_is_toeplitz():
    np.testing.assert_allclose(toeplitz_product(PICTURE, KERNEL), correlation(PICTURE, KERNEL), atol=1e-14)
    blocks = correlation_matrix(KERNEL, 6, 5).reshape(4, 4, 6, 5)
    np.testing.assert_array_equal(blocks[1:, 1:, 1:, 1:], blocks[:-1, :-1, :-1, :-1])
    turned = correlation(PICTURE, KERNEL[::-1, ::-1])
    assert np.abs(turned - correlation(PICTURE, KERNEL)).max() > 0.1
    np.testing.assert_array_equal(correlation(PICTURE, np.ones((1, 1))), PICTURE.ravel())


def test_pooled_size_counts_the_windows_that_fit():
    for size in range(1, 12):
        for window in range(1, 5):
            for stride in range(1, 5):
                starts = [place for place in range(0, size, stride) if place + window <= size]
                assert pooled_size(size, window, stride) == len(starts)


@pytest.mark.parametrize(("window", "shift"), [(2, 1), (3, 1), (3, 2), (2, 0), (2, 2)])
def test_the_maximum_of_noise_stays_as_often_as_said(window, shift):
    noise = RNG.normal(size=(20_000, window, window + shift))
    stays = (noise[:, :, :window].max(axis=(1, 2)) == noise[:, :, shift:].max(axis=(1, 2))).mean()
    assert stays == pytest.approx(unchanged_share(window, shift), abs=0.015)


def test_nan_gives_nan():
    bad = PICTURE.copy()
    bad[0, 0] = np.nan
    assert np.isnan(toeplitz_product(bad, KERNEL)).all()
    assert np.isnan(correlation(bad, KERNEL)).all()
    assert np.isnan(toeplitz_product(PICTURE, KERNEL * np.nan)).all()


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("kernel has shape", lambda: toeplitz_product(KERNEL, PICTURE)),
        ("picture has shape", lambda: correlation(PICTURE[0], KERNEL)),
        ("stride is 0", lambda: pooled_size(3, 2, 0)),
        ("window, shift is 0", lambda: unchanged_share(0, 1)),
    ],
)
def test_bad_input_is_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()
