"""What guided backpropagation shows of a random network, against many random filters."""

import numpy as np
import pytest

from research.oracles.recovery import guided_recovery, recovery_error

PICTURE = np.random.default_rng(0).normal(size=(4, 5))


def drawn(filters):
    """The map of each filter, by explicit loops over places."""
    rng, (rows, columns) = np.random.default_rng(1), PICTURE.shape
    padded, maps = np.pad(PICTURE, 1), np.zeros((filters, rows + 2, columns + 2))
    kernels = rng.normal(size=(filters, 3, 3))
    for row in range(rows):
        for column in range(columns):
            open_ = np.einsum("fij,ij->f", kernels, padded[row : row + 3, column : column + 3]) > 0
            sent = np.maximum(rng.normal(size=filters), 0) * open_
            maps[:, row : row + 3, column : column + 3] += sent[:, None, None] * kernels
    return maps[:, 1:-1, 1:-1].reshape(filters, -1)


def test_mean_and_covariance_are_those_of_many_random_filters():
    maps, found = drawn(100_000), guided_recovery(PICTURE)
    error = (maps.var(axis=0) / len(maps)) ** 0.5
    assert (np.abs(maps.mean(axis=0) - found.mean.ravel()) / error).max() < 4.5
    covariance = np.cov(maps.T)
    assert found.variance == pytest.approx(np.trace(covariance), rel=0.01)
    assert recovery_error(PICTURE) == found.variance / np.sum(found.mean**2)
    assert found.squared == pytest.approx(np.sum(covariance**2), rel=0.03)


def test_one_pixel_alone_is_recovered_as_its_sign():
    # One place, of whose filter only the middle counts: relu(v)·1[w x > 0]·w, of mean 1/2π and second moment 1/4.
    found = guided_recovery(np.array([[-3.0]]))
    assert found.mean[0, 0] == pytest.approx(-1 / (2 * np.pi))
    assert found.variance == pytest.approx(1 / 4 - 1 / (4 * np.pi**2))


def test_the_scale_of_the_picture_does_not_matter_and_nan_gives_nan():
    one, other = guided_recovery(PICTURE), guided_recovery(7 * PICTURE)
    np.testing.assert_allclose(one.mean, other.mean)
    assert one.variance == pytest.approx(other.variance)
    assert np.isnan(guided_recovery(PICTURE * np.nan).mean).all()


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("side is 2", lambda: guided_recovery(PICTURE, 2)),
        ("picture has a patch of zeros", lambda: guided_recovery(np.zeros((3, 3)))),
        ("picture has shape", lambda: guided_recovery(PICTURE[0])),
    ],
)
def test_bad_input_is_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()
