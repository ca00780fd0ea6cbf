"""Receptive fields by recursion, against a brute-force walk through the layers."""

import math

import numpy as np
import pytest

from research.oracles.receptive_field import receptive_field

RNG = np.random.default_rng(0)


def seen(kernels, strides, paddings, unit):
    """How often each input counts in the unit, all weights one; inputs may lie in the padding."""
    counts = {unit: 1}
    for kernel, stride, padding in reversed(list(zip(kernels, strides, paddings, strict=True))):
        below = {}
        for place, times in counts.items():
            for tap in range(kernel):
                where = place * stride - padding + tap
                below[where] = below.get(where, 0) + times
        counts = below
    return counts


@pytest.mark.parametrize("case", range(12))
def test_the_field_is_that_of_a_walk_through_the_layers(case):
    kernels = RNG.integers(1, 6, size=case % 5 + 1)
    strides = np.minimum(RNG.integers(1, 4, size=len(kernels)), kernels)
    paddings = RNG.integers(0, 3, size=len(kernels))
    field = receptive_field(kernels, strides, paddings)
    for unit in (0, 3):
        counts = seen(kernels, strides, paddings, unit)
        first = field.start + unit * field.jump
        assert sorted(counts) == list(range(int(first), int(first + field.size)))
    places, weights = np.array(list(counts)), np.array(list(counts.values()))
    mean = np.average(places, weights=weights)
    assert field.variance == pytest.approx(np.average((places - mean) ** 2, weights=weights), abs=1e-9)


def test_known_networks():
    assert receptive_field([3, 2, 3], [1, 2, 1], [1, 0, 1])[:3] == (8, 2, -3)
    assert receptive_field([7], [2], [0])[:3] == (7, 2, 0)
    assert receptive_field([3] * 10, [1] * 10, [0] * 10) == (21, 1, 0, pytest.approx(20 / 3))


def test_nan_gives_nan_and_bad_input_is_named():
    assert math.isnan(receptive_field([np.nan], [1.0], [0.0]).size)
    with pytest.raises(ValueError, match="kernels is"):
        receptive_field([0.0], [1.0], [0.0])
    with pytest.raises(ValueError, match="strides is"):
        receptive_field([3.0], [1.5], [0.0])
    with pytest.raises(ValueError, match="paddings has 2 entries"):
        receptive_field([3.0], [1.0], [0.0, 1.0])
