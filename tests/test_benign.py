import math

import numpy as np
import pytest

from research.oracles import benign, ridgeless_risk


def test_effective_ranks_of_equal_eigenvalues_are_their_number():
    assert benign.effective_ranks(np.full(7, 0.3), 0) == pytest.approx((7, 7))
    assert benign.effective_ranks(np.full(7, 0.3), 5) == pytest.approx((2, 2))


def test_effective_ranks_obey_their_inequalities():
    values = np.arange(1.0, 60) ** -1.3
    for k in (0, 3, 40, 58):
        small, large = benign.effective_ranks(values, k)
        assert 1 - 1e-12 <= small <= large * (1 + 1e-12)
        assert large <= small**2 * (1 + 1e-12)


def test_split_is_the_first_index_with_enough_rank():
    values = np.r_[10.0, 1.0, np.full(200, 0.01)]
    k, cost = benign.split(values, 20)
    assert benign.effective_ranks(values, k - 1).small < 20 <= benign.effective_ranks(values, k).small
    assert k == 2
    assert cost == pytest.approx(2 / 20 + 20 / benign.effective_ranks(values, k).large)
    assert benign.split(0.5 ** np.arange(50.0), 20) == (math.inf, math.inf)
    assert benign.split(values, 20, constant=0.1).estimated == 1


@pytest.mark.parametrize("ratio", [1.5, 4.0])
def test_risk_of_the_identity_is_hastie_and_others(ratio):
    n = 400
    p = int(ratio * n)
    beta = np.full(p, 2 / p**0.5)
    risk = benign.interpolation_risk(np.ones(p), beta, n, 0.7)
    assert sum(risk) == pytest.approx(ridgeless_risk.ridgeless_risk(ratio, 2.0, 0.7), rel=1e-9)


def test_risk_with_even_weights_is_that_of_the_block_formula():
    values = np.r_[np.full(30, 5.5), np.full(270, 0.5)]
    risk = benign.interpolation_risk(values, np.full(300, 300**-0.5), 100, 0.5)
    expected = ridgeless_risk.ridge_risk(3.0, np.array([5.5, 0.5]), np.array([0.1, 0.9]), 1.0, 0.5)
    assert sum(risk) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("power", [1.5, 2.0, 3.0])
def test_power_laws_are_tempered(power):
    values = np.arange(1.0, 400_001) ** -power
    excess = benign.interpolation_risk(values, np.zeros(len(values)), 100, 1.0).variance
    # d = n^-1 Σ (1 + κ k^α)^-2: the sum over k differs from the integral by half its first term, 1/2
    assert excess == pytest.approx(power - 1, rel=0.1 if power == 1.5 else 0.03)


def test_an_exponential_spectrum_is_catastrophic():
    values = np.exp(-np.arange(400) / 4.0)
    for n in (40, 80):
        excess = benign.interpolation_risk(values, np.zeros(400), n, 1.0).variance
        assert excess == pytest.approx(n / 4 - 1, rel=0.15)


def design(seed, n, values):
    return np.random.default_rng(seed).normal(size=(n, len(values))) * np.sqrt(values)


def test_conditional_risk_is_that_of_the_pseudoinverse():
    values = 1.0 / np.arange(1, 31)
    X = design(0, 8, values)
    beta = np.eye(30)[0]
    pinv = np.linalg.pinv(X)
    variance = 0.3**2 * np.trace(pinv.T @ np.diag(values) @ pinv)
    left = pinv @ X @ beta - beta
    risk = benign.conditional_risk(X @ X.T, (X * values) @ X.T, X[:, 0], values[0], 0.3)
    assert risk == pytest.approx((left @ (values * left), variance), rel=1e-9)


def test_theory_is_the_mean_over_inputs():
    values = np.r_[4.0, 1.0, np.full(300, 0.05)]
    beta = np.eye(302)[0]
    drawn = []
    for seed in range(60):
        X = design(seed, 60, values)
        drawn.append(benign.conditional_risk(X @ X.T, (X * values) @ X.T, X[:, 0], values[0], 1.0))
    theory = benign.interpolation_risk(values, beta, 60, 1.0)
    np.testing.assert_allclose(np.mean(drawn, axis=0), theory, rtol=0.08)


def test_nan_and_singular_data_are_void():
    nan = float("nan")
    values = np.ones(5)
    assert np.isnan(benign.effective_ranks(nan * values, 0)).all()
    assert np.isnan(benign.effective_ranks(values, nan)).all()
    assert np.isnan(benign.split(values, nan)).all()
    assert np.isnan(benign.interpolation_risk(values, nan * values, 2, 1.0)).all()
    assert np.isnan(benign.conditional_risk(np.ones((2, 2)), np.eye(2), np.ones(2), 1.0, 1.0)).all()
    assert np.isnan(benign.conditional_risk(np.eye(2), nan * np.eye(2), np.ones(2), 1.0, 1.0)).all()


REFUSED = {
    "eigenvalues is": lambda: benign.effective_ranks(np.array([1.0, 2.0]), 0),
    "eigenvalues has shape": lambda: benign.split(np.ones((2, 2)), 1),
    "beyond is 2": lambda: benign.effective_ranks(np.ones(2), 2),
    "beyond is 0.5": lambda: benign.effective_ranks(np.ones(2), 0.5),
    "samples is 0": lambda: benign.split(np.ones(2), 0),
    "samples is 2": lambda: benign.interpolation_risk(np.ones(2), np.ones(2), 2, 1.0),
    "noise is -1": lambda: benign.interpolation_risk(np.ones(3), np.ones(3), 2, -1.0),
    "weights has 2": lambda: benign.interpolation_risk(np.ones(3), np.ones(2), 2, 1.0),
    "gram and weighted": lambda: benign.conditional_risk(np.eye(2), np.eye(3), np.ones(2), 1.0, 1.0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
