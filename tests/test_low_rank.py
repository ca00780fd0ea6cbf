import math

import numpy as np
import pytest

from research.oracles import low_rank

DUAL = {1: np.inf, 2: 2, np.inf: 1}
ORDERS = [1, 2, np.inf]


def completion(seed=0, rows=8, columns=7, rank=1, share=0.6):
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(rows, rank)) @ random.normal(size=(rank, columns))
    return random.random((rows, columns)) < share, matrix


def singular_value_thresholding(mask, values, steps=20_000):
    """Douglas-Rachford between the nuclear norm and the observed entries."""
    state = np.where(mask, values, 0.0)
    for _ in range(steps):
        U, s, Vt = np.linalg.svd(state, full_matrices=False)
        shrunk = (U * np.maximum(s - 1.0, 0)) @ Vt
        reflected = 2 * shrunk - state
        state = state + np.where(mask, values, reflected) - shrunk
        if np.abs(np.where(mask, values, reflected) - shrunk).max() < 1e-10:
            break
    return np.where(mask, values, shrunk)


def test_minimum_nuclear_norm_agrees_with_douglas_rachford():
    mask, matrix = completion(4, rank=2, share=0.5)
    found = low_rank.minimum_nuclear_norm(mask, np.where(mask, matrix, np.nan))
    np.testing.assert_array_equal(found[mask], matrix[mask])
    rival = singular_value_thresholding(mask, matrix)
    assert np.linalg.norm(found, "nuc") == pytest.approx(np.linalg.norm(rival, "nuc"), rel=1e-6)
    np.testing.assert_allclose(found, rival, atol=1e-4)
    assert np.linalg.norm(found, "nuc") < 0.99 * np.linalg.norm(np.where(mask, matrix, 0), "nuc")


def test_minimum_nuclear_norm_recovers_rank_one_from_enough_entries_at_any_scale():
    mask, matrix = completion(0, share=0.85)
    for scale in (1e-6, 1.0, 1e6):
        found = low_rank.minimum_nuclear_norm(mask, scale * matrix)
        np.testing.assert_allclose(found / scale, matrix, atol=1e-5)


def test_minimum_nuclear_norm_of_a_set_of_solutions_has_the_certified_norm():
    mask, matrix = completion(1, rank=2, share=0.5)
    found, rival = low_rank.minimum_nuclear_norm(mask, matrix), singular_value_thresholding(mask, matrix)
    assert np.linalg.norm(found, "nuc") == pytest.approx(np.linalg.norm(rival, "nuc"), rel=1e-6)
    assert np.abs(found - rival).max() > 0.1


def test_minimum_nuclear_norm_where_it_is_known():
    mask, values = np.array([[False, True], [True, True]]), np.array([[np.nan, 1.0], [1.0, 0.0]])
    assert np.linalg.norm(low_rank.minimum_nuclear_norm(mask, values), "nuc") == pytest.approx(2)
    np.testing.assert_array_equal(low_rank.minimum_nuclear_norm(mask | True, np.eye(2)), np.eye(2))
    assert not low_rank.minimum_nuclear_norm(mask & False, values).any()
    assert np.isnan(low_rank.minimum_nuclear_norm(mask | True, values)).all()


def test_broken_completions_fail_their_certificate(monkeypatch):
    mask, matrix = completion(3)
    right, dual = low_rank._semidefinite_program(mask, np.where(mask, matrix, 0))
    assert low_rank.duality_gap(mask, matrix, right, dual) < 1e-7
    zeros = np.where(mask, matrix, 0.0)
    assert low_rank.duality_gap(mask, matrix, zeros, dual) > 1e-3
    assert low_rank.duality_gap(mask, matrix, right * 1.001, dual) > 1e-4
    assert low_rank.duality_gap(mask, matrix, right, np.roll(dual, 1)) > 1e-3
    assert low_rank.duality_gap(mask, matrix, np.full_like(right, np.nan), dual) == math.inf
    monkeypatch.setattr(low_rank, "_semidefinite_program", lambda *_: (zeros, dual))
    assert np.isnan(low_rank.minimum_nuclear_norm(mask, matrix)).all()


def test_effective_rank():
    assert low_rank.effective_rank(np.eye(5)[:3]) == pytest.approx(3)
    assert low_rank.effective_rank(np.outer([1.0, 2.0], [3.0, -1.0])) == pytest.approx(1)
    p = np.array([0.7, 0.2, 0.1])
    assert low_rank.effective_rank(1e-200 * np.diag(p)) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert math.isnan(low_rank.effective_rank(np.zeros((2, 2))))
    assert math.isnan(low_rank.effective_rank(np.full((2, 2), np.inf)))
