"""Reference classifiers against an optimum found otherwise, and against what chance does to two accuracies."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn import linear_model

from research.oracles.reference_classifier import chance_difference, reference_accuracy

RNG = np.random.default_rng(0)


def clouds(count, classes=3):
    labels = np.arange(count) % classes
    return RNG.standard_normal((count, 4)) + 1.2 * np.eye(classes, 4)[labels], labels


def test_logistic_regression_is_the_optimum_of_its_own_objective():
    (X, y), (X_test, y_test) = clouds(60), clouds(300)

    def objective(flat):
        W, b = flat[:12].reshape(3, 4), flat[12:]
        return W.ravel() @ W.ravel() / 2 - log_softmax(X @ W.T + b, axis=1)[np.arange(60), y].sum()

    found = minimize(objective, np.zeros(15), method="BFGS", options={"gtol": 1e-5}).x
    right = (X_test @ found[:12].reshape(3, 4).T + found[12:]).argmax(axis=1) == y_test
    assert reference_accuracy(X, y, X_test, y_test) == pytest.approx(right.mean(), abs=1 / 300)


def test_two_classes_and_a_hidden_layer_learn_what_can_be_learnt():
    X = RNG.standard_normal((400, 2))
    line, checks = (X[:, 0] > 0) * 1.0, (X[:, 0] * X[:, 1] > 0) * 1.0
    assert reference_accuracy(X[:300], line[:300], X[300:], line[300:]) > 0.95
    assert reference_accuracy(X[:300], checks[:300], X[300:], checks[300:]) < 0.7
    assert reference_accuracy(X[:300], checks[:300], X[300:], checks[300:], 32, 1) > 0.8


def test_what_has_not_converged_is_not_certified(monkeypatch):
    class Lazy(linear_model.LogisticRegression):
        def fit(self, X, y):
            fitted = super().fit(X, y)
            self.coef_ = self.coef_ * 0.5
            return fitted

    monkeypatch.setattr(linear_model, "LogisticRegression", Lazy)
    assert np.isnan(reference_accuracy(*clouds(60), *clouds(30)))


def test_nan_in_nan_out_and_bad_input_is_named():
    (X, y), (X_test, y_test) = clouds(30), clouds(30)
    assert np.isnan(reference_accuracy(np.full_like(X, np.nan), y, X_test, y_test))
    with pytest.raises(ValueError, match="X_test has 3 features; it takes as many as X, 4"):
        reference_accuracy(X, y, X_test[:, :3], y_test)
    with pytest.raises(ValueError, match="y has one class, 0"):
        reference_accuracy(X, np.zeros(30), X_test, y_test)
    with pytest.raises(ValueError, match=r"accuracy is 1\.5"):
        chance_difference(1.5, 10)
    with pytest.raises(ValueError, match="cases is 0"):
        chance_difference(0.5, 0)


def test_chance_lets_two_accuracies_differ_by_so_much():
    pairs = RNG.binomial(500, 0.9, (20_000, 2)) / 500
    beyond = np.abs(np.diff(pairs, axis=1)) > chance_difference(0.9, 500)
    assert 0.03 < beyond.mean() < 0.06
    assert chance_difference(1.0, 100) == 0
