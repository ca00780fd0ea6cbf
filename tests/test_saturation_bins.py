import math

import numpy as np
import pytest
from scipy.integrate import dblquad

from research.oracles.activations import ACTIVATIONS, Activation
from research.oracles.mean_field import saturation
from research.oracles.saturation_bins import binned_saturation, constant_share

BOUNDED = ["tanh", "sigmoid", "erf", "softsign", "hard_tanh"]


def published(g, bins):
    """Σ_b |mean of bin b| f_b / Σ_b f_b over [-1, 1], as its authors write it."""
    place = np.clip(np.floor((g + 1) / 2 * bins), 0, bins - 1)
    return sum(abs(g[place == each].mean()) * (place == each).mean() for each in np.unique(place))


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("q", [0.01, 1.0, 40.0])
def test_it_is_the_published_formula_on_a_large_sample(name, q):
    function = ACTIVATIONS[name]
    z = np.random.default_rng(0).normal(size=100_000)
    u = np.sqrt(q) * np.concatenate([z, -z])
    g = 2 * (function.value(u) - function.low) / (function.high - function.low) - 1
    for bins in (1, 2, 3, 9, 10):
        assert binned_saturation(name, q, bins) == pytest.approx(published(g, bins), abs=5e-3)


def test_even_numbers_are_all_alike_and_odd_ones_lose_less_than_a_bin():
    for name in BOUNDED:
        limit = saturation(name, 0.5)
        assert {binned_saturation(name, 0.5, bins) for bins in (2, 10, 100)} == {limit}
        odd = [binned_saturation(name, 0.5, bins) for bins in (1, 3, 9, 101, 1001)]
        assert odd[0] == pytest.approx(0, abs=1e-12)
        assert (np.diff(odd) > 0).all()
        assert all(0 <= limit - phi < 1 / bins for phi, bins in zip(odd, (1, 3, 9, 101, 1001), strict=True))
    assert binned_saturation("tanh", 0.01, 10) == pytest.approx(0.0794, abs=3e-4)
    assert binned_saturation("tanh", 0.01, 9) == pytest.approx(0.0425, abs=3e-4)


def test_a_function_that_is_not_odd_keeps_something_in_the_middle_bin():
    # 0.1 more than the middle, whatever comes in: all of it lies in the middle bin of three, on one side.
    flat = Activation(lambda x: 0.0 * x + 0.1, lambda x: 0.0 * x, -1.0, 1.0)
    assert binned_saturation(flat, 1.0, 3) == pytest.approx(0.1, abs=1e-9)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.95])
def test_the_constant_share_agrees_with_a_plain_integral(correlation):
    root = math.sqrt(1 - correlation**2)
    density = lambda a, b: math.exp(-(a**2 + b**2) / 2) / (2 * math.pi)
    pair = lambda a, b: math.tanh(2 * a) * math.tanh(2 * (correlation * a + root * b)) * density(a, b)
    square = lambda a, b: math.tanh(2 * a) ** 2 * density(a, b)
    expected = dblquad(pair, -8, 8, -8, 8, epsabs=1e-7)[0] / dblquad(square, -8, 8, -8, 8, epsabs=1e-7)[0]
    assert constant_share("tanh", 4.0, correlation) == pytest.approx(expected, abs=1e-5)


def test_limits_of_the_constant_share():
    assert constant_share("tanh", 1e-6, 0.4) == pytest.approx(0.4, abs=1e-4)  # linear there
    assert constant_share("tanh", 1e10, 0.5) == pytest.approx(1 / 3, abs=1e-3)  # signs: 2/π arcsin c
    assert constant_share("sigmoid", 3.0, 0.0) == pytest.approx(0, abs=1e-12)
    assert constant_share("softsign", 3.0, 1.0) == 1.0


def test_no_answer_and_bad_input():
    nan = float("nan")
    assert math.isnan(binned_saturation("relu", 1.0, 9))
    assert math.isnan(binned_saturation("relu", 1.0, 10))
    assert math.isnan(binned_saturation("tanh", nan, 9))
    assert math.isnan(constant_share("tanh", nan, 0.5))
    assert math.isnan(constant_share("tanh", 1.0, nan))
    assert math.isnan(constant_share("relu", 1.0, 0.5))
    for call, message in (
        (lambda: binned_saturation("tanh", 1.0, 0), "bins is 0"),
        (lambda: binned_saturation("tanh", 1.0, 2.5), "bins is 2.5"),
        (lambda: binned_saturation("tanh", -1.0, 3), "q is -1"),
        (lambda: constant_share("tanh", 0.0, 0.5), "q is 0"),
        (lambda: constant_share("tanh", 1.0, -0.5), "correlation is -0.5"),
        (lambda: constant_share("swish", 1.0, 0.5), "activation is"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
