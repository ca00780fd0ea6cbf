import math

import numpy as np
import pytest
from scipy.stats import norm

from research.oracles.number_format import FORMATS, beyond_share, exponential_end, last_slope, silent_share


@pytest.mark.parametrize(("name", "dtype"), [("float16", np.float16), ("float32", np.float32), ("float64", np.float64)])
def test_slopes_end_where_the_rounded_values_do(name, dtype):
    assert FORMATS[name] == (np.finfo(dtype).nmant + 1, np.finfo(dtype).minexp)
    x = np.linspace(0.0, 50.0, 20_001)
    flat = lambda values, factors: x[np.flatnonzero(values * factors == 0)[0]]
    # rounded correctly: to the format from the exact value, known better than the format can hold
    tanh = 1 - (2 / (np.exp(2 * x.astype(np.longdouble)) + 1))
    rounded = tanh.astype(dtype)
    assert flat(rounded * 0 + 1, dtype(1) - rounded) == pytest.approx(last_slope("tanh", name, 1), abs=0.01)
    one = dtype(1)
    sigmoid = one / (one + np.exp(-x).astype(dtype))
    assert flat(sigmoid, one - sigmoid) == pytest.approx(last_slope("sigmoid", name, 1), abs=0.01)


def test_known_ends():
    assert last_slope("tanh", "float32", -1) == -last_slope("tanh", "float32", 1) == pytest.approx(-9.0109, abs=1e-4)
    assert last_slope("sigmoid", "float32", 1) == pytest.approx(16.64, abs=0.005)
    assert last_slope("sigmoid", "float32", -1) == pytest.approx(-87.34, abs=0.005)
    assert last_slope("sigmoid", "float64", -1) == pytest.approx(-708.4, abs=0.01)
    assert last_slope("tanh", "bfloat16", 1) == pytest.approx(3.466, abs=1e-3)


def test_shares_are_gaussian_tails():
    assert beyond_share(12.6, -8.0, 8.0) == pytest.approx(2 * norm.sf(8 / math.sqrt(12.6)), rel=1e-12)
    assert beyond_share(45.6243, -87.4, 16.64) == pytest.approx(0.0069, abs=1e-4)
    assert beyond_share(0.0, -1.0, 1.0) == 0.0
    assert beyond_share(1e300, -1.0, 1.0) == pytest.approx(1.0)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9, 0.999])
def test_silent_units_are_counted_right(correlation):
    random, q = np.random.default_rng(0), 30.0
    shared, own = random.normal(size=(200_000, 1)), random.normal(size=(200_000, 3))
    u = np.sqrt(q) * (np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own)
    seen = ((u < -4) | (u > 6)).all(axis=1).mean()
    expected = silent_share(q, correlation, 3, -4.0, 6.0)
    assert seen == pytest.approx(expected, abs=5 * math.sqrt(expected / 200_000))


def test_limits_of_silence():
    one = beyond_share(30.0, -4.0, 6.0)
    assert silent_share(30.0, 0.5, 1, -4.0, 6.0) == pytest.approx(one, rel=1e-8)
    assert silent_share(30.0, 0.0, 4, -4.0, 6.0) == pytest.approx(one**4, rel=1e-8)
    assert silent_share(30.0, 1.0, 4, -4.0, 6.0) == one
    assert silent_share(30.0, 0.9999, 4, -4.0, 6.0) == pytest.approx(one, rel=0.05)


def test_no_answer_and_bad_input():
    nan = float("nan")
    assert math.isnan(beyond_share(nan, -1.0, 1.0))
    assert math.isnan(silent_share(1.0, nan, 2, -1.0, 1.0))
    assert math.isnan(silent_share(1.0, 0.5, 2, nan, 1.0))
    assert math.isnan(last_slope("sigmoid", "float32", nan))
    for call, message in (
        (lambda: last_slope("relu", "float32", 1), "activation is 'relu'"),
        (lambda: last_slope("tanh", "int8", 1), "number_format is 'int8'"),
        (lambda: beyond_share(-1.0, -1.0, 1.0), "q is -1"),
        (lambda: silent_share(1.0, 1.5, 2, -1.0, 1.0), "correlation is 1.5"),
        (lambda: silent_share(1.0, 0.5, 0, -1.0, 1.0), "samples is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_the_exponential_ends_with_the_format(name):
    numbers = np.finfo(name)
    assert exponential_end(name, 1) == pytest.approx(float(np.log(np.float64(numbers.max))), abs=1e-3)
    assert exponential_end(name, -1) == pytest.approx(float(np.log(np.float64(numbers.smallest_normal))), rel=1e-12)
    with pytest.raises(ValueError, match="number_format is 'int8'"):
        exponential_end("int8", 1)
