"""What can be read off a map: against least squares, and its bound."""

import math

import numpy as np
import pytest

from research.oracles.clarity import decodable_share, principal_share

RNG = np.random.default_rng(0)
PICTURES = RNG.normal(size=(200, 6)) @ RNG.normal(size=(6, 6))
PICTURES = PICTURES - PICTURES.mean(axis=0)
COVARIANCE = PICTURES.T @ PICTURES / 200


def share(maps):
    maps = maps - maps.mean(axis=0)
    return decodable_share(maps.T @ maps / 200, maps.T @ PICTURES / 200, float(np.trace(COVARIANCE)))


def test_the_share_is_that_of_least_squares_and_below_the_bound():
    maps = np.maximum(PICTURES @ RNG.normal(size=(6, 3)), 0)
    centred = maps - maps.mean(axis=0)
    left = PICTURES - centred @ np.linalg.lstsq(centred, PICTURES, rcond=None)[0]
    assert share(maps) == pytest.approx(1 - np.sum(left**2) / np.sum(PICTURES**2))
    assert share(maps) <= principal_share(COVARIANCE, 3)
    assert share(np.hstack([maps, maps])) == pytest.approx(share(maps))


def test_limits():
    assert share(PICTURES) == pytest.approx(1.0)
    assert share(np.ones((200, 2))) == 0.0
    best = np.linalg.eigh(COVARIANCE)[1][:, -2:]
    assert share(PICTURES @ best) == pytest.approx(principal_share(COVARIANCE, 2))
    assert principal_share(COVARIANCE, 6) == pytest.approx(1.0)
    assert math.isnan(principal_share(COVARIANCE * np.nan, 2))
    assert math.isnan(decodable_share(np.full((1, 1), np.nan), np.ones((1, 2)), 1.0))


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("within has shape", lambda: decodable_share(np.eye(3), np.ones((2, 4)), 1.0)),
        ("total is -1", lambda: decodable_share(np.eye(2), np.ones((2, 4)), -1.0)),
        ("covariance has shape", lambda: principal_share(np.ones((2, 3)), 1)),
        ("count is 0", lambda: principal_share(np.eye(2), 0)),
    ],
)
def test_bad_input_is_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()
