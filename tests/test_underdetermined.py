from typing import get_args

import jax
import numpy as np
import pytest

from research.underdetermined import Underdetermined, underdetermined_problem


@pytest.mark.parametrize("kind", get_args(Underdetermined))
def test_weights_are_not_determined_and_the_curvature_is_one(kind):
    with jax.enable_x64(True):
        X, y = map(np.asarray, underdetermined_problem(jax.random.key(0), kind))
        other = np.asarray(underdetermined_problem(jax.random.key(1), kind).X)
    assert len(X) == len(y) < X.shape[1]
    assert np.linalg.eigvalsh(X @ X.T / len(X))[-1] == pytest.approx(1)
    fits = np.linalg.matrix_rank(X) == np.linalg.matrix_rank(np.column_stack([X, y]))
    assert fits == (kind != "rank_deficient")
    assert not np.array_equal(X, other)


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="kind is 'round'"):
        underdetermined_problem(jax.random.key(0), "round")
