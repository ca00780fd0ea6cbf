import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar

from research.oracles import simplex_frame


def test_gram_is_that_of_a_regular_simplex():
    gram = simplex_frame.simplex_gram(4)
    vertices = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 2
    np.testing.assert_allclose(gram, vertices @ vertices.T)
    assert np.linalg.norm(gram) == pytest.approx(3**0.5)
    np.testing.assert_allclose(gram @ gram, gram, atol=1e-15)


@settings(max_examples=40, deadline=None)
@given(classes=st.integers(2, 8), count=st.integers(1, 100), exponent=st.floats(-4, -0.5))
def test_balanced_loss_is_that_of_the_scalar_problem(classes, count, exponent):
    weight_decay, feature_decay = 10.0**exponent, 10.0 ** (exponent - 1)
    s = (count * weight_decay * feature_decay) ** 0.5
    scalar = lambda c: np.log1p((classes - 1) * np.exp(-c)) + (classes - 1) * s * c
    best = minimize_scalar(scalar, bounds=(0, 40), method="bounded", options={"xatol": 1e-12})
    answer = simplex_frame.minimum_loss(np.full(classes, float(count)), weight_decay, feature_decay)
    assert answer == pytest.approx(min(best.fun, scalar(0)), rel=1e-9)


@pytest.mark.parametrize("counts", [[6, 6, 6], [6, 6, 2], [9, 3, 1, 1]])
@pytest.mark.parametrize("decays", [(0.01, 0.01), (0.2, 0.002)])
def test_loss_is_the_least_over_features_and_classifier(counts, decays):
    K, N = len(counts), sum(counts)
    labels = np.repeat(np.arange(K), counts)

    def objective(params):
        W, H = params[: K * K].reshape(K, K), params[K * K :].reshape(K, N)
        Z = W @ H
        peak = Z.max(axis=0)
        chances = np.exp(Z - peak)
        entropy = np.log(chances.sum(axis=0)) + peak - Z[labels, np.arange(N)]
        slope = (chances / chances.sum(axis=0) - np.eye(K)[:, labels]) / N
        gradient = np.concatenate([(slope @ H.T + decays[0] * W).ravel(), (W.T @ slope + decays[1] * H).ravel()])
        return entropy.mean() + (decays[0] * (W**2).sum() + decays[1] * (H**2).sum()) / 2, gradient

    begin = np.random.default_rng(1).normal(size=K * K + K * N)
    found = minimize(
        objective, begin, jac=True, method="L-BFGS-B", options={"maxiter": 20000, "ftol": 0, "gtol": 1e-10}
    )
    sizes = np.array(counts, float)
    assert simplex_frame.minimum_loss(sizes, *decays) == pytest.approx(found.fun, rel=1e-8)
    W = found.x[: K * K].reshape(K, K)
    gram = simplex_frame.classifier_gram(sizes, *decays)
    np.testing.assert_allclose(gram, W @ W.T, atol=1e-4 * np.abs(gram).max())


def test_unbalanced_loss_agrees_with_a_cone_program():
    import cvxpy

    counts, decay = np.array([20.0, 20, 2, 2]), 0.02
    Z = cvxpy.Variable((4, 4))
    entropy = sum(n / 44 * (cvxpy.log_sum_exp(Z[:, k]) - Z[k, k]) for k, n in enumerate(counts))
    program = cvxpy.Problem(cvxpy.Minimize(entropy + decay * cvxpy.normNuc(Z @ np.diag(counts**0.5))))
    program.solve(solver=cvxpy.CLARABEL)
    assert simplex_frame.minimum_loss(counts, decay, decay) == pytest.approx(program.value, rel=1e-7)


def test_balanced_classifier_is_a_simplex_and_a_minority_collapses():
    gram = simplex_frame.classifier_gram(np.full(5, 7.0), 0.01, 0.02)
    np.testing.assert_allclose(gram / gram[0, 0], simplex_frame.simplex_gram(5) * 5 / 4, atol=1e-12)
    cosine = lambda gram: gram[-1, -2] / np.sqrt(gram[-1, -1] * gram[-2, -2])
    path = [cosine(simplex_frame.classifier_gram(np.array([20.0, 20, n, n]), 0.03, 0.03)) for n in (20, 10, 4, 2, 1)]
    assert path[0] == pytest.approx(-1 / 3)
    assert path == sorted(path)
    assert path[-1] == pytest.approx(1, abs=1e-9)
    # a class without samples gets no vector
    assert (
        simplex_frame.classifier_gram(np.array([5.0, 5.0, 0.0]), 0.01, 0.01)[2, 2]
        < simplex_frame.classifier_gram(np.array([5.0, 5.0, 5.0]), 0.01, 0.01)[2, 2]
    )


def test_too_much_decay_leaves_nothing():
    counts = np.full(4, 25.0)
    assert simplex_frame.minimum_loss(counts, 0.05, 0.05) == pytest.approx(np.log(4), rel=1e-15)
    assert not simplex_frame.classifier_gram(counts, 0.06, 0.05).any()
    assert simplex_frame.minimum_loss(counts, 0.049, 0.05) < np.log(4)


def test_no_decay_and_nan():
    counts = np.full(3, 5.0)
    assert simplex_frame.minimum_loss(counts, 0.0, 0.1) == 0
    assert np.isnan(simplex_frame.classifier_gram(counts, 0.0, 0.1)).all()
    for bad in ((counts * np.nan, 0.1, 0.1), (counts, np.nan, 0.1), (counts, 0.1, np.nan)):
        assert np.isnan(simplex_frame.minimum_loss(*bad))
        assert np.isnan(simplex_frame.classifier_gram(*bad)).all()


def test_broken_logits_fail_the_certificate(monkeypatch):
    counts = np.array([8.0, 8.0, 2.0])
    logits = simplex_frame._descended(counts, 0.02)
    assert simplex_frame.duality_gap(counts, 0.02, logits) < 1e-8
    for broken in (logits * 1.01, logits[:, ::-1], logits - 0.01 * np.eye(3), np.zeros((3, 3))):
        assert simplex_frame.duality_gap(counts, 0.02, broken) > 1e-5
    assert simplex_frame.duality_gap(counts, 0.03, logits) > 1e-4
    simplex_frame._optimum.cache_clear()
    monkeypatch.setattr(simplex_frame, "_descended", lambda sizes, strength: logits * 1.01)
    assert np.isnan(simplex_frame.minimum_loss(counts, 0.02, 0.02))
    simplex_frame._optimum.cache_clear()


REFUSED = {
    "classes is 1": lambda: simplex_frame.simplex_gram(1),
    "classes is 2.5": lambda: simplex_frame.simplex_gram(2.5),
    "counts has 1 entry": lambda: simplex_frame.minimum_loss(np.ones(1), 0.1, 0.1),
    "counts is": lambda: simplex_frame.minimum_loss(np.array([-1.0, 2.0]), 0.1, 0.1),
    "counts has shape": lambda: simplex_frame.minimum_loss(np.ones((2, 2)), 0.1, 0.1),
    "weight_decay is -1": lambda: simplex_frame.minimum_loss(np.ones(2), -1, 0.1),
    "feature_decay is 'much'": lambda: simplex_frame.classifier_gram(np.ones(2), 0.1, "much"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
