import math

import numpy as np
import pytest

from research.oracles import multiclass_margin as oracle
from research.oracles.margin import maximum_margin
from research.oracles.multiclass_margin import duality_gap, maximum_multiclass_margin, multiclass_margin

NORMS = ("spectral", "frobenius", "max")


def size(weights, norm):
    return (
        np.abs(weights).max() if norm == "max" else np.linalg.norm(weights, {"spectral": 2, "frobenius": "fro"}[norm])
    )


def problem(seed=0, samples=15, features=8, outputs=4):
    random = np.random.default_rng(seed)
    y = np.arange(samples) % outputs
    return random.normal(size=(outputs, features))[y] + 0.5 * random.normal(size=(samples, features)), y * 1.0


@pytest.mark.parametrize("norm", NORMS)
def test_the_margin_is_one_over_the_norm_and_beats_the_other_norms_solutions(norm):
    X, y = problem()
    best = {each: maximum_multiclass_margin(X, y, each, 4) for each in NORMS}
    scores = X @ best[norm]
    margins = [scores[i, int(y[i])] - scores[i, c] for i in range(len(y)) for c in range(4) if c != y[i]]
    assert min(margins) == pytest.approx(1, abs=1e-8)
    assert multiclass_margin(X, y, best[norm], norm) == pytest.approx(1 / size(best[norm], norm))
    for other in set(NORMS) - {norm}:
        assert multiclass_margin(X, y, best[other], norm) < 0.99 * multiclass_margin(X, y, best[norm], norm)
    random = np.random.default_rng(1)
    for _ in range(200):
        nearby = best[norm] + 0.05 * random.normal(size=best[norm].shape) * np.abs(best[norm]).max()
        assert multiclass_margin(X, y, nearby, norm) <= multiclass_margin(X, y, best[norm], norm) * (1 + 1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_margin_agrees_with_a_second_program(norm):
    """The dual: the least dual norm of Σ α_p Z_p over the simplex, solved by another solver than the primal's."""
    import cvxpy

    X, y = problem(2)
    pairs = oracle._pairs(X, y, 4)
    alpha = cvxpy.Variable(len(pairs), nonneg=True)
    mean = cvxpy.reshape(pairs.reshape(len(pairs), -1).T @ alpha, pairs.shape[1:], order="C")
    dual = {
        "spectral": cvxpy.normNuc,
        "frobenius": lambda M: cvxpy.norm(M, "fro"),
        "max": lambda M: cvxpy.sum(cvxpy.abs(M)),
    }
    program = cvxpy.Problem(cvxpy.Minimize(dual[norm](mean)), [cvxpy.sum(alpha) == 1])
    program.solve(solver=cvxpy.SCS, eps=1e-7, max_iters=100_000)
    found = 1 / size(maximum_multiclass_margin(X, y, norm, 4), norm)
    assert found == pytest.approx(program.value, rel=1e-4)


def test_two_outputs_are_the_binary_problem():
    X, y = problem(3, samples=10, features=5, outputs=2)
    w = maximum_margin(X, 1 - 2 * y, 2)
    for norm, norms in (("spectral", np.linalg.norm(w) / 2**0.5), ("frobenius", np.linalg.norm(w) / 2**0.5)):
        found = maximum_multiclass_margin(X, y, norm, 2)
        assert size(found, norm) == pytest.approx(norms, rel=1e-6)
        np.testing.assert_allclose(found[:, 0] - found[:, 1], w, atol=1e-4 * np.abs(w).max())
    found = maximum_multiclass_margin(X, y, "max", 2)
    assert size(found, "max") == pytest.approx(np.abs(maximum_margin(X, 1 - 2 * y, np.inf)).max() / 2)


def test_one_sample_a_class_along_the_axes():
    """By symmetry W = a I + b 11ᵀ, of margin a: norms 1 (spectral), √(k − 1) (Frobenius) and 1/2 (max)."""
    for norm, least in (("spectral", 1.0), ("frobenius", 2.0), ("max", 0.5)):
        assert size(maximum_multiclass_margin(np.eye(5), np.arange(5.0), norm, 5), norm) == pytest.approx(
            least, rel=1e-6
        )


@pytest.mark.parametrize("norm", NORMS)
def test_scale_equivariance(norm):
    X, y = problem(4)
    for scale in (1e-4, 1e4):
        expected = size(maximum_multiclass_margin(X, y, norm, 4), norm) / scale
        assert size(maximum_multiclass_margin(scale * X, y, norm, 4), norm) == pytest.approx(expected, rel=1e-6)


def test_broken_solutions_fail_the_certificate(monkeypatch):
    X, y = problem(5)
    weights, alpha = oracle._semidefinite(oracle._pairs(X, y, 4), (8, 4))
    assert duality_gap(X, y, weights, alpha, 4) < 1e-7
    assert duality_gap(X, y, maximum_multiclass_margin(X, y, "frobenius", 4), alpha, 4) > 1e-3
    assert duality_gap(X, y, weights, np.roll(alpha, 1), 4) > 1e-3
    assert duality_gap(X, y, weights, -alpha, 4) == math.inf
    monkeypatch.setattr(oracle, "_semidefinite", lambda *problem: (weights + 1e-3 * np.eye(8, 4), alpha))
    assert np.isnan(maximum_multiclass_margin(X, y, "spectral", 4)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_what_has_no_answer_is_nan(norm):
    X, y = problem()
    assert np.isnan(maximum_multiclass_margin(np.vstack([X, X[:1]]), np.append(y, y[0] + 1), norm, 4)).all()
    assert np.isnan(maximum_multiclass_margin(0 * X, y, norm, 4)).all()
    bad = X.copy()
    bad[0, 0] = np.nan
    assert np.isnan(maximum_multiclass_margin(bad, y, norm, 4)).all()
    for weights in (np.zeros((8, 4)), np.full((8, 4), np.nan), np.full((8, 4), np.inf)):
        assert math.isnan(multiclass_margin(X, y, weights, norm))
    assert math.isnan(multiclass_margin(bad, y, np.ones((8, 4)), norm))


def test_bad_input_is_named():
    X, y = problem()
    with pytest.raises(ValueError, match="norm is 'nuclear'"):
        maximum_multiclass_margin(X, y, "nuclear", 4)
    with pytest.raises(ValueError, match="outputs is 1"):
        maximum_multiclass_margin(X, y, "max", 1)
    with pytest.raises(ValueError, match="y has the label 3; it takes labels 0 to 2"):
        maximum_multiclass_margin(X, y, "max", 3)
    with pytest.raises(ValueError, match=r"y has the label 0\.5"):
        multiclass_margin(X, y + 0.5, np.ones((8, 4)), "max")
    with pytest.raises(ValueError, match="X has an infinite"):
        maximum_multiclass_margin(np.full_like(X, np.inf), y, "max", 4)
    with pytest.raises(ValueError, match="y has 3 entries"):
        maximum_multiclass_margin(X, y[:3], "max", 4)
