import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.oracles import catapult


def network(seed, width):
    random = np.random.default_rng(seed)
    u, v = random.normal(size=(2, width))
    return u, v, u @ v / width**0.5, (u @ u + v @ v) / width


@pytest.mark.parametrize("target", [0.0, 0.7])
@pytest.mark.parametrize("relative_rate", [0.5, 1.9, 2.5, 3.5])
@pytest.mark.parametrize("width", [1, 5, 300])
def test_path_is_that_of_the_weights_themselves(width, relative_rate, target):
    u, v, output, curvature = network(1, width)
    rate, seen = relative_rate / curvature, []
    for _ in range(6):
        f = u @ v / width**0.5
        seen.append((f, (u @ u + v @ v) / width))
        u, v = u - rate * (f - target) * v / width**0.5, v - rate * (f - target) * u / width**0.5
    path = catapult.catapult_path(output, curvature, rate, width, target, np.arange(6.0))
    kept = np.logical_and.accumulate(np.abs(seen).max(axis=1) < 1e3)
    np.testing.assert_allclose(np.array(path).T[kept], np.array(seen)[kept], rtol=1e-8, atol=1e-8)
    some = catapult.catapult_path(output, curvature, rate, width, target, np.array([0.0, 3.0, 5.0]))
    np.testing.assert_array_equal(some.outputs, path.outputs[[0, 3, 5]])


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 1000),
    relative_rate=st.floats(0.1, 6).filter(lambda rate: abs(rate - 4) > 1e-6),
    width=st.integers(1, 50),
)
def test_four_minus_the_relative_curvature_keeps_its_sign(seed, relative_rate, width):
    _, _, output, curvature = network(seed, width)
    rate = relative_rate / curvature
    path = catapult.catapult_path(output, curvature, rate, width, 0.0, np.arange(8.0))
    left = 4 - rate * path.curvatures
    held = np.abs(path.outputs[:-1]) < 1e6
    grown = left[:-1][held] * (1 + rate**2 * path.outputs[:-1][held] ** 2 / width)
    np.testing.assert_allclose(left[1:][held], grown, rtol=1e-9, atol=1e-9)
    assert (np.sign(left[1:][held]) == np.sign(left[0])).all()


def test_infinite_width_is_the_linear_model():
    path = catapult.catapult_path(0.8, 2.0, 0.3, 1e15, 0.5, np.arange(10.0))
    np.testing.assert_allclose(path.outputs - 0.5, 0.3 * (1 - 0.6) ** np.arange(10), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(path.curvatures, 2, rtol=1e-12)
    assert catapult.thresholds(0.8, 2.0, 1e15) == pytest.approx((2, 4))


@pytest.mark.parametrize("target", [0.0, 2.0, -3.0])
@pytest.mark.parametrize("seed", range(6))
def test_the_loss_rises_at_once_only_above_the_spike_threshold(seed, target):
    width = 16
    _, _, output, curvature = network(seed, width)
    spike = catapult.thresholds(output, curvature, width, target).spike
    for factor in (0.99, 1.01):
        f = catapult.catapult_path(output, curvature, factor * spike / curvature, width, target, np.arange(2.0)).outputs
        assert (abs(f[1] - target) > abs(f[0] - target)) == (factor > 1)


def test_spike_threshold_to_first_order_in_the_width():
    for width in (1e2, 1e4, 1e6):
        spike = catapult.thresholds(1.5, 2.0, width).spike
        assert (spike - 2) * width == pytest.approx(4 * 1.5**2 / 2.0**2, rel=20 / width)


@pytest.mark.parametrize("width", [20, 1000])
def test_divergence_threshold_is_four_at_every_width(width):
    _, _, output, curvature = network(3, width)
    assert catapult.thresholds(output, curvature, width).divergence == 4
    end = lambda relative: catapult.catapult_path(
        output, curvature, relative / curvature, width, 0.0, np.array([600.0])
    )
    assert 3.99 / curvature * end(3.99).curvatures[0] < 2
    assert np.isnan(end(4.01).curvatures[0])
    assert math.isnan(catapult.thresholds(output, curvature, width, 1.0).divergence)


def test_a_large_kappa_spikes_upwards():
    # u = v: κ = 1/4, f' = f·(1 - a/2)², which exceeds f from a = 4 on.
    assert catapult.thresholds(1.0, 2.0, 1) == (4, 4)


def test_what_no_network_has_is_void():
    assert np.isnan(catapult.catapult_path(3.0, 2.0, 0.1, 4, 0.0, np.arange(3.0))).all()
    assert np.isnan(catapult.thresholds(3.0, 2.0, 4)).all()
    for place in range(5):
        start = [0.1, 2.0, 0.1, 100.0, 0.0]
        start[place] = np.nan
        assert np.isnan(catapult.catapult_path(*start, np.arange(3.0))).all()


REFUSED = {
    "width is 0": lambda: catapult.thresholds(0.0, 1.0, 0),
    "initial_curvature is -1": lambda: catapult.thresholds(0.0, -1.0, 4),
    "initial_curvature is 0": lambda: catapult.thresholds(0.0, 0.0, 4),
    "learning_rate is -1": lambda: catapult.catapult_path(0.0, 1.0, -1.0, 4, 0.0, np.arange(2.0)),
    "target is 'one'": lambda: catapult.catapult_path(0.0, 1.0, 1.0, 4, "one", np.arange(2.0)),
    "at is": lambda: catapult.catapult_path(0.0, 1.0, 1.0, 4, 0.0, np.array([0.5])),
    "at has shape": lambda: catapult.catapult_path(0.0, 1.0, 1.0, 4, 0.0, np.ones((2, 2))),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
