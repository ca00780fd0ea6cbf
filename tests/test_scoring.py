import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from research.oracles.scoring import RULES, best_prediction, negative_log_likelihood, slope_ratio

Q = np.array([0.5, 0.3, 0.15, 0.05])
SCORES = {
    "cross_entropy": lambda p: -np.log(p),
    "quadratic": lambda p: ((p - np.eye(len(p))) ** 2).sum(axis=1),
    "linear": lambda p: 1 - p,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_best_prediction_is_that_of_a_general_solver(rule):
    found = minimize(
        lambda p: Q @ SCORES[rule](p),
        np.full(4, 0.25),
        method="SLSQP",
        bounds=[(1e-9, 1)] * 4,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    np.testing.assert_allclose(best_prediction(Q, rule), found.x, atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(weights=st.lists(st.floats(1e-3, 1.0), min_size=2, max_size=8))
def test_proper_rules_reward_the_truth(weights):
    q = np.array(weights) / np.sum(weights)
    for rule in ("cross_entropy", "quadratic"):
        np.testing.assert_allclose(best_prediction(q, rule), q, atol=1e-11)


def test_the_linear_rule_rewards_the_likeliest_class_and_a_tie_is_void():
    assert best_prediction(Q, "linear").tolist() == [1, 0, 0, 0]
    assert np.isnan(best_prediction(np.full(2, 0.5), "linear")).all()


def test_the_likelihood_is_that_of_the_draws():
    draws, p = np.array([0, 0, 1, 2, 3, 0, 1]), Q
    counts = np.bincount(draws, minlength=4)
    assert negative_log_likelihood(counts, p) == pytest.approx(-np.log(p[draws]).sum(), rel=1e-12)


def test_the_slope_ratio_is_that_of_the_losses():
    sigmoid = lambda z: 1 / (1 + np.exp(-z))
    for z in (-2.0, 0.0, 1.5, 6.0):
        quadratic, entropy = (lambda z: sigmoid(z) ** 2), (lambda z: np.logaddexp(0, z))
        slopes = [(f(z + 1e-5) - f(z - 1e-5)) / 2e-5 for f in (quadratic, entropy)]
        assert slope_ratio(z) == pytest.approx(slopes[0] / slopes[1], rel=1e-6)
    assert slope_ratio(40.0) == pytest.approx(2 * math.exp(-40))
    assert slope_ratio(0.0) == 0.5


def test_not_a_number_in_is_not_a_number_out():
    nan = np.array([np.nan, 0.5])
    assert np.isnan(best_prediction(nan, "linear")).all()
    assert math.isnan(negative_log_likelihood(np.ones(2), nan))
    assert math.isnan(negative_log_likelihood(nan, np.full(2, 0.5)))
    assert math.isnan(slope_ratio(math.nan))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: best_prediction(Q, "hinge"), "rule is 'hinge'; it takes cross_entropy, quadratic, linear"),
        (lambda: best_prediction(2 * Q, "linear"), "frequencies is 0.1 at least and sums to 2; it takes"),
        (lambda: best_prediction(np.array([1.0, 0.0]), "linear"), "frequencies is 0 at least"),
        (lambda: negative_log_likelihood(np.ones(3), Q), "counts has 3 entries; it takes 4"),
        (lambda: slope_ratio("far"), "logit is 'far'; it takes a number"),
    ],
)
def test_bad_input_is_refused_by_name(call, said):
    with pytest.raises(ValueError, match=said):
        call()
