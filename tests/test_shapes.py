import jax
import numpy as np
import pytest

from research.shapes import PAIRS, shapes


def test_pictures_show_one_shape_or_two():
    labels = np.arange(len(PAIRS) * 20) % len(PAIRS)
    pictures = np.asarray(jax.jit(lambda key: shapes(key, labels, 32))(jax.random.key(0)))
    assert pictures.shape == (180, 32, 32)
    assert pictures.min() == 0
    assert pictures.max() <= 1
    shades = np.array([len(np.unique(picture)) - 1 for picture in pictures])
    assert (shades[labels < 3] == 1).all()
    assert (shades[labels >= 3] <= 2).all()
    assert (shades[labels >= 3] == 2).mean() > 0.9
    # an ellipse of half-axes 0.3 to 0.5 covers π · 0.09 to π · 0.25 of the four units of area, where it is inside
    share = (pictures[labels == 2] > 0).mean(axis=(1, 2)) * 4
    assert (share > 0.15).all()
    assert (share < 0.85).all()


def test_pictures_are_functions_of_the_key():
    labels = np.arange(9)
    drawn = jax.jit(lambda key: shapes(key, labels, 16))
    first, again, other = (np.asarray(drawn(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(("labels", "side"), [(np.array([9]), 16), (np.array([0]), 0)])
def test_bad_input_is_named(labels, side):
    with pytest.raises(ValueError, match="classes 0 to 8"):
        shapes(jax.random.key(0), labels, side)
