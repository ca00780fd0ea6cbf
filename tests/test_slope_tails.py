import numpy as np
import pytest

from research.oracles.activations import ACTIVATIONS
from research.oracles.slope_tails import mean_square_law, median_slope
from research.oracles.wide_layer import mean_square_slope

INTEGRALS = {"tanh": 4 / 3, "softsign": 2 / 3, "sigmoid": 1 / 6, "erf": 2 * np.sqrt(2 / np.pi), "hard_tanh": 2.0}


@pytest.mark.parametrize("name", INTEGRALS)
def test_the_law_has_its_integral_and_is_the_limit_of_the_expectation(name):
    assert mean_square_law(name, 1.0) * np.sqrt(2 * np.pi) == pytest.approx(INTEGRALS[name], rel=1e-9)
    assert mean_square_law(name, 400.0) == pytest.approx(mean_square_law(name, 4.0) / 10)
    errors = [mean_square_law(name, q) / mean_square_slope(ACTIVATIONS[name], q) - 1 for q in (1e3, 1e4)]
    assert 0 < errors[1] < 0.2 * errors[0] < 1e-3


@pytest.mark.parametrize("name", INTEGRALS)
def test_medians_are_those_of_samples(name):
    u = 2 * np.random.default_rng(0).normal(size=400_001)
    assert median_slope(name, 4.0) == pytest.approx(np.median(ACTIVATIONS[name].slope(u)), rel=0.02)


def test_published_and_computed_numbers():
    assert mean_square_law("tanh", 100.0) == pytest.approx(0.05319, abs=1e-5)
    assert mean_square_law("softsign", 100.0) == pytest.approx(0.02660, abs=1e-5)
    assert mean_square_law("sigmoid", 100.0) == pytest.approx(0.006649, abs=1e-6)
    assert median_slope("tanh", 100.0) == pytest.approx(5.5e-6, rel=0.01)
    assert median_slope("softsign", 100.0) == pytest.approx(1.7e-2, rel=0.03)


def test_no_answer_and_bad_input():
    assert np.isnan(mean_square_law("relu", 1.0))
    assert np.isnan(mean_square_law("gelu", 1.0))
    assert np.isnan(median_slope("relu", 1.0))
    assert np.isnan(median_slope("gelu", 1.0))
    assert np.isnan(mean_square_law("tanh", np.nan))
    assert np.isnan(median_slope("tanh", np.nan))
    for oracle in (mean_square_law, median_slope):
        with pytest.raises(ValueError, match="q is 0"):
            oracle("tanh", 0.0)
        with pytest.raises(ValueError, match="activation is"):
            oracle("swish", 1.0)
