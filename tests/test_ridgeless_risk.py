import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from research.oracles.ridgeless_risk import optimal_ridge_risk, ridge_risk, ridgeless_risk


def sampled(n, p, signal, noise, strength=0.0, variances=1.0, draws=4000):
    """The risk over random X, with its standard error; over β and the noise the expectation is taken exactly."""
    random = np.random.default_rng(n + p)
    scales = np.sqrt(np.broadcast_to(variances, p))
    X = random.normal(size=(draws, n, p)) * scales
    gram = np.swapaxes(X, 1, 2) @ X
    inverse = np.linalg.inv(gram + n * strength * np.eye(p)) if strength else np.linalg.pinv(gram, hermitian=True)
    shrunk = inverse @ gram - np.eye(p)
    bias = ((shrunk * scales[:, None]) ** 2).sum((1, 2)) * signal**2 / p
    variance = (((inverse @ np.swapaxes(X, 1, 2)) * scales[:, None]) ** 2).sum((1, 2)) * noise**2
    return (bias + variance).mean(), (bias + variance).std() / draws**0.5


@pytest.mark.parametrize(("n", "p"), [(12, 3), (20, 12), (12, 20), (10, 40)])
def test_the_exact_risk_is_that_of_sampled_inputs(n, p):
    measured, error = sampled(n, p, 1.5, 0.7)
    assert abs(measured - ridgeless_risk(p / n, 1.5, 0.7, n)) < 4 * error
    assert abs(measured - ridgeless_risk(p / n, 1.5, 0.7)) > 4 * error  # the limit is another number at this size
    assert abs(measured - ridgeless_risk(p / n, 1.5, 0.75, n)) > 4 * error


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9, 1.1, 2.0, 10.0])
def test_the_limit_and_its_approach(gamma):
    gaps = [abs(ridgeless_risk(gamma, 2.0, 0.5, n) / ridgeless_risk(gamma, 2.0, 0.5) - 1) for n in (1e3, 1e4)]
    assert gaps[1] == pytest.approx(gaps[0] / 10, rel=0.05)
    assert ridge_risk(gamma, [1.0], [1.0], 2.0, 0.5) == pytest.approx(ridgeless_risk(gamma, 2.0, 0.5), rel=1e-9)


def test_special_ratios():
    assert ridgeless_risk(1.0, 1.0, 1.0) == math.inf
    assert ridgeless_risk(19 / 20, 1.0, 1.0, 20) == ridgeless_risk(21 / 20, 1.0, 1.0, 20) == math.inf
    assert ridgeless_risk(18 / 20, 1.0, 1.0, 20) == pytest.approx(18)
    assert ridgeless_risk(1.0, 1.0, 0.0) == 0
    assert ridgeless_risk(1e9, 3.0, 1.0) == pytest.approx(9)
    assert ridge_risk(1.0, [1.0], [1.0], 1.0, 1.0) == math.inf


@pytest.mark.parametrize("gamma", [0.3, 1.0, 3.0])
def test_optimal_ridge_is_the_integral_over_the_marchenko_pastur_law(gamma):
    signal, noise = 1.3, 0.6
    strength = gamma * noise**2 / signal**2
    low, high = (1 - gamma**0.5) ** 2, (1 + gamma**0.5) ** 2
    density = lambda angle: (  # with x = middle − half · cos(angle), which has no singular end
        ((high - low) / 2 * np.sin(angle)) ** 2
        / (2 * np.pi * gamma * (x := (high + low) / 2 - (high - low) / 2 * np.cos(angle)))
        / (x + strength)
    )
    transform = quad(density, 1e-9, np.pi)[0] + max(0, 1 - 1 / gamma) / strength
    assert optimal_ridge_risk(gamma, signal, noise) == pytest.approx(noise**2 * gamma * transform, rel=1e-6)
    risk = lambda factor: ridge_risk(gamma, [1.0], [1.0], signal, noise, factor * strength)
    assert risk(1.0) == pytest.approx(optimal_ridge_risk(gamma, signal, noise), rel=1e-9)
    assert risk(1.0) < min(risk(0.9), risk(1.1))


@pytest.mark.parametrize(("n", "p"), [(12, 6), (12, 12), (10, 25)])
def test_optimal_ridge_of_few_samples_is_that_of_sampled_inputs(n, p):
    # at n = 10 the term of order 1/n² is 0.3 %, that of order 1/n up to 5 %
    measured, error = sampled(n, p, 2.0, 1.0, p / n / 4)
    assert abs(measured - optimal_ridge_risk(p / n, 2.0, 1.0, n)) < 4 * error + 0.005 * measured
    assert optimal_ridge_risk(p / n, 2.0, 1.0, n) > optimal_ridge_risk(p / n, 2.0, 1.0)


@pytest.mark.parametrize(("n", "p", "strength"), [(60, 120, 0.0), (60, 30, 0.3), (50, 100, 0.2)])
def test_the_risk_of_two_variances_is_that_of_sampled_inputs(n, p, strength):
    variances = np.where(np.arange(p) < p // 10, 5.5, 0.5)
    measured, error = sampled(n, p, 1.0, 0.5, strength, variances, draws=60)
    predicted = ridge_risk(p / n, [5.5, 0.5], [0.1, 0.9], 1.0, 0.5, strength)
    assert abs(measured - predicted) < 4 * error + 0.02 * predicted
    other = ridge_risk(p / n, [1.0], [1.0], 1.0, 0.5, strength)
    assert abs(measured - other) > 4 * error + 0.02 * predicted


@settings(max_examples=50, deadline=None)
@given(gamma=st.floats(0.05, 20), factor=st.floats(0.0, 5), spike=st.floats(1, 50))
def test_ridge_risk_lies_between_its_limits(gamma, factor, spike):
    answer = ridge_risk(gamma, [spike, 1.0], [0.2, 0.8], 1.0, 1.0, factor)
    assert answer > 0
    scaled = ridge_risk(gamma, [3 * spike, 3.0], [0.2, 0.8], 1 / 3**0.5, 1.0, 3 * factor)
    if math.isfinite(answer) and abs(gamma - 1) > 1e-3:
        assert scaled == pytest.approx(answer, rel=1e-6)
    energy = 0.2 * spike + 0.8
    assert ridge_risk(gamma, [spike, 1.0], [0.2, 0.8], 1.0, 1.0, 1e9) == pytest.approx(energy, rel=1e-3)


def test_nan_in_gives_nan_out():
    nan = math.nan
    for bad in ((nan, 1.0, 1.0), (2.0, nan, 1.0), (2.0, 1.0, nan)):
        assert math.isnan(ridgeless_risk(*bad))
        assert math.isnan(optimal_ridge_risk(*bad))
        assert math.isnan(ridge_risk(bad[0], [1.0], [1.0], *bad[1:]))
    assert math.isnan(ridgeless_risk(2.0, 1.0, 1.0, nan))
    assert math.isnan(ridge_risk(2.0, [nan, 1.0], [0.5, 0.5], 1.0, 1.0))


REFUSED = {
    "aspect_ratio is 0": lambda: ridgeless_risk(0.0, 1.0, 1.0),
    "signal is -1": lambda: ridgeless_risk(1.0, -1.0, 1.0),
    "signal is 0": lambda: optimal_ridge_risk(1.0, 0.0, 1.0),
    "noise is inf": lambda: optimal_ridge_risk(1.0, 1.0, math.inf),
    "samples is 0": lambda: ridgeless_risk(1.0, 1.0, 1.0, 0),
    "variances has the entry 0": lambda: ridge_risk(1.0, [1.0, 0.0], [0.5, 0.5], 1.0, 1.0),
    "shares has 1 entries": lambda: ridge_risk(1.0, [1.0, 2.0], [1.0], 1.0, 1.0),
    "shares sum to 0.9": lambda: ridge_risk(1.0, [1.0, 2.0], [0.5, 0.4], 1.0, 1.0),
    "strength is -1": lambda: ridge_risk(1.0, [1.0], [1.0], 1.0, 1.0, -1.0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
