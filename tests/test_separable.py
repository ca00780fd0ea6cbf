from typing import get_args

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from research.oracles.asymptote import asymptote
from research.oracles.margin import maximum_margin, separable, support_multipliers
from research.separable import Separable, planted_support, separable_problem, standardized_sample, symmetric_points


@pytest.mark.parametrize("kind", get_args(Separable))
def test_the_longest_input_has_norm_one_and_a_direction_separates(kind):
    with jax.enable_x64(True):
        X, y = map(np.asarray, separable_problem(jax.random.key(0), kind))
        other = np.asarray(separable_problem(jax.random.key(1), kind).X)
    assert np.linalg.norm(X, axis=1).max() == pytest.approx(1)
    assert set(y) == {-1.0, 1.0}
    assert separable(X, y) == (kind != "overlapping")
    assert not np.array_equal(X, other)


def test_planted_support_vectors_are_those_of_the_margin():
    with jax.enable_x64(True):
        X, y = map(np.asarray, planted_support(jax.random.key(3)))
    solution, alpha = maximum_margin(X, y, 2), support_multipliers(X, y)
    p = np.exp(np.linspace(0, 1.2, 4))
    assert_allclose(alpha[:4], p / p.sum(), rtol=1e-6)
    assert not alpha[4:].any()
    assert np.linalg.norm(solution) == pytest.approx(1)
    assert (y * (X @ solution))[4:].min() >= 2
    assert np.linalg.matrix_rank(X) == 4


def test_symmetric_points_have_their_late_weights_along_the_margin():
    with jax.enable_x64(True):
        X, y = map(np.asarray, symmetric_points(jax.random.key(3)))
    line = asymptote(X, y)
    assert_allclose(line.direction, [0.5, 0.5], rtol=1e-9)
    assert line.offset[0] == pytest.approx(line.offset[1])
    assert float(line.exponent) == pytest.approx(0.25)


def test_samples_count_the_support_vectors():
    assert planted_support(jax.random.key(0), samples=7, features=9).X.shape == (7, 9)
    with pytest.raises(ValueError, match="samples is 4; it takes more than the 4 support vectors"):
        planted_support(jax.random.key(0), samples=4)


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="kind is 'round'"):
        separable_problem(jax.random.key(0), "round")


@pytest.mark.parametrize("kind", ["digits", "breast_cancer"])
def test_a_standardized_sample_is_separable_and_has_no_dead_feature(kind):
    with jax.enable_x64(True):
        X, y = map(np.asarray, standardized_sample(jax.random.key(0), kind, samples=40))
    assert len(X) == len(y) == 40
    assert (X != 0).any(axis=0).all()
    assert separable(X, y)
