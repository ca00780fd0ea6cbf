import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from research.oracles.missing_labels import logit_shift, standard_errors


@pytest.mark.parametrize("kept", [(1.0, 0.2), (0.3, 0.9), (0.5, 0.5)])
def test_the_population_fit_of_what_is_seen_has_the_true_slope_and_the_shifted_intercept(kept):
    x = np.linspace(-3, 3, 61)
    density = np.exp(-(x**2) / 2)
    p = expit(0.7 + 1.3 * x)

    def loss(w):
        z = w[0] + w[1] * x
        return density @ (kept[0] * p * np.logaddexp(0, -z) + kept[1] * (1 - p) * np.logaddexp(0, z)) / density.sum()

    found = minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-10}).x
    np.testing.assert_allclose(found, [0.7 + logit_shift(*kept), 1.3], atol=1e-4)


def test_the_odds_follow_bayes():
    for p in (0.01, 0.4, 0.9):
        seen = 0.8 * p / (0.8 * p + 0.1 * (1 - p))
        logit = lambda p: math.log(p / (1 - p))
        assert logit(seen) - logit(p) == pytest.approx(logit_shift(0.8, 0.1))
    assert logit_shift(0.4, 0.4) == 0


def test_the_standard_errors_of_a_lone_intercept_and_of_a_simulation():
    assert standard_errors(np.ones((50, 1)), np.zeros(1))[0] == pytest.approx(2 / math.sqrt(50))
    rng = np.random.default_rng(0)
    X = np.c_[rng.standard_normal((400, 1)), np.ones(400)]
    truth, found = np.array([1.0, -0.5]), []
    for _ in range(200):
        y = rng.random(400) < expit(X @ truth)
        w = truth.copy()
        for _ in range(6):
            p = expit(X @ w)
            w = w - np.linalg.solve((X.T * (p * (1 - p))) @ X, X.T @ (p - y))
        found.append(w)
    np.testing.assert_allclose(np.std(found, axis=0), standard_errors(X, truth), rtol=0.2)


def test_not_a_number_in_is_not_a_number_out():
    assert math.isnan(logit_shift(math.nan, 0.5))
    assert np.isnan(standard_errors(np.full((3, 2), np.nan), np.zeros(2))).all()
    assert np.isnan(standard_errors(np.ones((3, 2)), np.array([0.0, np.nan]))).all()
    assert np.isnan(standard_errors(np.ones((3, 2)), np.zeros(2))).all()  # two columns that are one


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: logit_shift(0.0, 0.5), "kept_positive is 0; it takes a number"),
        (lambda: logit_shift(0.5, 1.5), "kept_negative is 1.5; it takes a number"),
        (lambda: standard_errors(np.ones((3, 2)), np.zeros(3)), "weights has 3 entries; it takes 2"),
    ],
)
def test_bad_input_is_refused_by_name(call, said):
    with pytest.raises(ValueError, match=said):
        call()
