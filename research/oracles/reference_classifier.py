"""Classifiers that nobody here wrote, and what chance does to two accuracies measured on the same pictures."""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

SLOPE = 1e-3  # the largest slope, of the mean cross-entropy by a weight, at which logistic regression has converged


def reference_accuracy(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    X_test: Float[np.ndarray, "case feature"],
    y_test: Float[np.ndarray, "case"],
    hidden: int = 0,
    seed: int = 0,
) -> float:
    """Return the test accuracy of scikit-learn's logistic regression, or of its network with a hidden layer of ReLUs.

    `hidden` 0 is `LogisticRegression` with its own C = 1 (½‖W‖² + the sum of cross-entropies; biases are free), which
    is certified: NaN where a slope of the mean exceeds 1e-3. Otherwise `MLPClassifier` with so many hidden units, its
    early stopping on a tenth of the samples, Adam's rate .01 and its defaults apart from that, from `seed`: an
    implementation of its own and no optimum, so there is nothing to certify. NaN where anything put in is. Raises
    ValueError for shapes that do not agree and for fewer than two classes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    X, y = inputs.regression(X, y)
    X_test, y_test = inputs.regression(X_test, y_test)
    if X.shape[1] != X_test.shape[1]:
        raise ValueError(f"X_test has {X_test.shape[1]} features; it takes as many as X, {X.shape[1]}")
    if not all(np.isfinite(each).all() for each in (X, y, X_test, y_test)):
        return float("nan")
    if len(np.unique(y)) < 2:
        raise ValueError(f"y has one class, {y[0]:g}; it takes two or more")
    if hidden:
        network = MLPClassifier(
            (int(hidden),), early_stopping=True, learning_rate_init=0.01, max_iter=1000, random_state=int(seed)
        )
        return float(network.fit(X, y).score(X_test, y_test))
    model = LogisticRegression(solver="newton-cg", tol=SLOPE / 4, max_iter=10_000).fit(X, y)
    return float(model.score(X_test, y_test)) if _steepest(model, X, y) <= SLOPE else float("nan")


def _steepest(model: object, X: np.ndarray, y: np.ndarray) -> float:
    """The largest slope by a weight or bias of the mean cross-entropy plus ‖W‖²/(2n)."""
    wrong = model.predict_proba(X) - (y[:, None] == model.classes_[None, :])  # type: ignore[attr-defined]
    if wrong.shape[1] == 2:  # two classes share one row of weights
        wrong = wrong[:, 1:]
    slopes = (wrong.T @ X + model.coef_) / len(X)  # type: ignore[attr-defined]
    return float(max(np.abs(slopes).max(), np.abs(wrong.mean(axis=0)).max()))


def chance_difference(accuracy: float, cases: int) -> float:
    """Return what chance lets two independent classifiers of that accuracy differ by on so many test cases, 95 %.

    1.96 √(2 p(1 − p)/n), from the binomial variance p(1 − p)/n of each; that they share the cases makes it less.
    Raises ValueError for an accuracy outside [0, 1] or fewer than one case.
    """
    p = inputs.number("accuracy", accuracy, low=0.0)
    if p > 1:
        raise ValueError(f"accuracy is {p:g}; it takes at most 1")
    return float(1.96 * np.sqrt(2 * p * (1 - p) / inputs.number("cases", cases, low=1.0)))
