"""The law of one layer: by direct sampling of weights, by a Laplace transform, in the limit of wide layers."""

import numpy as np
import pytest
from scipy.integrate import quad

from research.oracles.log_length import length_growth, length_square, log_length

ROUNDING = 1e-12


def cumulants(values):
    off = values - values.mean()
    return values.mean(), values.var(), (off**3).mean(), (off**4).mean() - 3 * values.var() ** 2


@pytest.mark.parametrize(("width", "active"), [(4, 0.5), (20, 0.5), (6, 1.0)])
def test_layers_of_random_weights_obey_it(width, active):
    random, networks = np.random.default_rng(width), 100_000
    below = random.standard_normal(3)
    sums = random.standard_normal((networks, width, 3)) @ below / (active * 3) ** 0.5
    outputs = sums if active == 1 else np.maximum(sums, 0)
    factor = (outputs**2).mean(axis=1) / (below**2).mean()
    law, seen = log_length(width, active), cumulants(np.log(factor[factor > 0]))
    assert seen[0] == pytest.approx(law.mean, abs=4.5 * (law.variance / networks) ** 0.5)
    assert seen[1] == pytest.approx(law.variance, abs=4.5 * ((2 * law.variance**2 + law.fourth) / networks) ** 0.5)
    assert seen[2] == pytest.approx(law.third, rel=0.15)
    assert factor.mean() == pytest.approx(length_growth(1 / active, active), rel=4.5 * (5 / width / networks) ** 0.5)
    assert (factor**2).mean() == pytest.approx(length_square(width, active), rel=0.05)


@pytest.mark.parametrize("width", [2, 7, 50])
def test_the_mean_by_another_formula(width):
    # E ln S = ∫ (e^(-t) - E e^(-tS)) dt/t, and of a sum of n gated squares E e^(-tS) = (1/2 + (1 + 2t)^(-1/2)/2)^n
    none = 0.5**width
    transform = lambda t: (((1 + (1 + 2 * t) ** -0.5) / 2) ** width - none) / (1 - none)
    whole = sum(
        quad(lambda u: np.exp(-np.exp(u)) - transform(np.exp(u)), *ends, epsabs=1e-11, limit=200)[0]
        for ends in ((-40, 0), (0, 60))
    )
    assert log_length(width).mean == pytest.approx(whole + np.log(2 / width), abs=1e-7)


@pytest.mark.parametrize(("active", "beta"), [(0.5, 5.0), (1.0, 2.0)])
def test_wide_layers(active, beta):
    n = 10_000
    law = log_length(n, active)
    assert n * law.mean == pytest.approx(-beta / 2, rel=1e-3)
    assert n * law.variance == pytest.approx(beta, rel=1e-3)
    assert length_square(n, active) == pytest.approx(1 + beta / n)
    if active == 0.5:  # the second terms: 5/n·(1 + 3.7/n), and -2.5/n - 4.08/n²
        assert n * (n * law.variance / 5 - 1) == pytest.approx(3.7, rel=0.01)
        assert n * (n * law.mean + 2.5) == pytest.approx(44 / 3 - 18.75, rel=0.01)


def test_numbers():
    assert log_length(50).mean == pytest.approx(-0.05174, abs=5e-6)
    assert log_length(50).variance == pytest.approx(0.10817, abs=5e-6)
    one = log_length(1)  # ln 2χ²_1, and E ln χ²_1 = -γ - ln 2
    assert one.mean == pytest.approx(-np.euler_gamma, rel=ROUNDING)
    assert one.variance == pytest.approx(np.pi**2 / 2, rel=ROUNDING)
    assert length_square(1) == pytest.approx(6.0)


def test_mean_growth():
    assert [length_growth(variance) for variance in (1.0, 2.0)] == [0.5, 1.0]
    assert length_growth(1.5, active=1.0) == 1.5


def test_inputs():
    assert np.isnan(length_growth(np.nan))
    with pytest.raises(ValueError, match="weight_variance is -1"):
        length_growth(-1.0)
    assert np.isnan(log_length(np.nan)).all()
    assert np.isnan(log_length(3, np.nan)).all()
    assert np.isnan(length_square(np.nan))
    for bad in (log_length, length_square):
        with pytest.raises(ValueError, match="width is 0"):
            bad(0)
        with pytest.raises(ValueError, match=r"width is 2\.5"):
            bad(2.5)
        with pytest.raises(ValueError, match="active is 0"):
            bad(3, 0.0)
