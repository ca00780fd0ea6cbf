"""Pictures and how they are learnt."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research import images
from research.images import Images
from research.models import ConvolutionalNetwork
from research.vision import learning, pictures, strongest


def test_digits_are_split_and_no_two_pixels_tie():
    held = pictures("digits")
    assert held.train.shape == (1297, 8, 8)
    assert held.test.shape == (500, 8, 8)
    assert len(held.train_labels) == 1297
    labels = np.concatenate([held.train_labels, held.test_labels])
    # optdigits.names of the UCI repository, "Class Distribution" of the testing set
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert set(held.test_labels.tolist()) == set(range(10))
    assert np.unique(held.train).size == held.train.size
    with pytest.raises(ValueError, match="data is 'cats'"):
        pictures("cats")


def test_mnist_is_taken_from_its_files(monkeypatch):
    shown = {"train": Images(np.full((3, 28, 28), 255, np.uint8), np.arange(3)), "test": Images(*[np.zeros(0)] * 2)}
    monkeypatch.setattr(images, "mnist", lambda split: shown[split])
    held = pictures("mnist")
    pictures.cache_clear()
    assert np.abs(held.train - 1).max() < 0.01
    assert held.train_labels.tolist() == [0, 1, 2]


def test_a_step_is_that_of_the_loss_with_coupled_weight_decay():
    network = ConvolutionalNetwork((2, 2), hidden=3)
    begun = learning(jax.random.key(0), network, "digits", 0.1, 0.5, batch=8)
    held = pictures("digits")
    sample_key = jax.random.split(begun.state.key)[1]
    chosen = jax.random.randint(sample_key, (8,), 0, len(held.train))

    def loss(params):
        logits = network.apply(params, jnp.asarray(held.train, jnp.float32)[chosen][..., None])
        decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)) / 4
        return (
            optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(held.train_labels)[chosen]).mean()
            + decay
        )

    expected = jax.tree.map(
        lambda leaf, slope: leaf - 0.1 * slope, begun.state.params, jax.jit(jax.grad(loss))(begun.state.params)
    )
    jax.tree.map(
        lambda found, wanted: np.testing.assert_allclose(found, wanted, atol=1e-6),
        jax.jit(begun.step)(begun.state).params,
        expected,
    )
    assert 0 <= float(begun.accuracy(begun.state.params)) <= 0.4


def test_strongest_names_pictures_places_and_activations():
    outputs = jnp.zeros((3, 2, 2, 2)).at[1, 0, 1, 0].set(5.0).at[2, 1, 0, 0].set(7.0).at[0, 1, 1, 1].set(1.0)
    found = strongest(outputs, 2)
    assert found.image.tolist() == [[2, 1], [0, 1]]
    assert found.position.tolist() == [[2, 1], [3, 0]]
    assert found.activation.tolist() == [[7, 5], [1, 0]]
    with pytest.raises(ValueError, match="count is 4"):
        strongest(outputs, 4)
