"""Pictures to learn from, and how a network learns to name them: what the experiments on vision share."""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from jax import Array
from jaxtyping import Float, Int

from research import images
from research.data import digits
from research.dynamics import Descent, start, stochastic_descent
from research.models import drawn_at_once

Data = Literal["digits", "mnist", "fashion_mnist"]
DITHER, TESTED = 1e-3, 500


class Pictures(NamedTuple):
    """Grey pictures, 0 to 1, and their classes, 0 to 9; those to learn from and those to be tested on. Read-only."""

    train: Float[np.ndarray, "image row column"]
    train_labels: Int[np.ndarray, "image"]
    test: Float[np.ndarray, "image row column"]
    test_labels: Int[np.ndarray, "image"]


@cache
def pictures(data: Data = "digits") -> Pictures:
    """Return scikit-learn's 1797 digits of 8 × 8 pixels, the last 500 for the test, or MNIST or Fashion-MNIST.

    Normal noise of deviation 1e-3 is added to the pixels, the same in every call: without it patches of one grey tie,
    and rounding would decide where max-pooling finds its maximum. MNIST and Fashion-MNIST as in `research.images`.
    Raises ValueError for other names.
    """
    if data == "digits":
        inputs, labels = digits()
        grey = inputs.reshape(-1, 8, 8)
        parts = [grey[:-TESTED], labels[:-TESTED], grey[-TESTED:], labels[-TESTED:]]
    elif data in ("mnist", "fashion_mnist"):
        load = images.mnist if data == "mnist" else images.fashion_mnist
        train, test = load("train"), load("test")
        parts = [train.images / 255, train.labels, test.images / 255, test.labels]
    else:
        raise ValueError(f'data is {data!r}; it takes "digits", "mnist" or "fashion_mnist"')
    rng = np.random.default_rng(0)
    for place in (0, 2):
        parts[place] = parts[place] + DITHER * rng.standard_normal(parts[place].shape)
    for part in parts:
        part.setflags(write=False)
    return Pictures(*parts)


class Learning(NamedTuple):
    """A network as it starts to learn: its state, the step, and its accuracy on the pictures of the test."""

    state: Descent
    step: Callable[[Descent], Descent]
    accuracy: Callable[[Any], Array]


def learning(
    key: Array,
    network: linen.Module,
    data: Data,
    learning_rate: Array | float,
    weight_decay: Array | float = 0.0,
    *,
    momentum: float = 0.9,
    batch: int = 64,
    most: int = 10_000,
) -> Learning:
    """Return stochastic descent on the mean cross-entropy, with heavy-ball momentum, from `drawn_at_once`.

    Weight decay is coupled: λ‖parameters‖²/2 is part of the loss, biases included. Batches are drawn with replacement
    from the first `most` pictures, which are part of the compiled program; `accuracy` is that of parameters on at most
    500 of the test. The dtype is JAX's default.
    """
    init_key, batch_key = jax.random.split(key)
    held = pictures(data)
    train, test = (
        jnp.asarray(part, jnp.result_type(float))[..., None] for part in (held.train[:most], held.test[:TESTED])
    )
    labels, tested = jnp.asarray(held.train_labels[:most]), jnp.asarray(held.test_labels[:TESTED])
    optimizer = optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=momentum))
    forward: Any = network.apply

    def loss(params: Any, chosen: Array) -> Array:
        logits = forward(params, train[chosen])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen]).mean()

    step = stochastic_descent(loss, optimizer, lambda key: jax.random.randint(key, (batch,), 0, len(train)))
    right = lambda params: jnp.argmax(forward(params, test), axis=1) == tested
    accuracy = lambda params: jnp.mean(right(params), dtype=train.dtype)
    return Learning(start(drawn_at_once(init_key, network, train[:1]), optimizer, batch_key), step, accuracy)


class Strongest(NamedTuple):
    """For each channel the pictures with the largest activations, in falling order: which, where in the map, how large.

    `position` counts the places of a map row by row; it is 0 where a layer has none.
    """

    image: Array
    position: Array
    activation: Array


def strongest(outputs: Array, count: int = 9) -> Strongest:
    """Return the `count` pictures in which each channel of a layer is strongest, one place of the map from each.

    `outputs` has the shape (image, …, channel). Of equal activations the first place and the first picture are taken.
    Raises ValueError where there are fewer pictures.
    """
    if not 1 <= count <= len(outputs):
        raise ValueError(f"count is {count}; there are {len(outputs)} pictures")
    maps = outputs.reshape(len(outputs), -1, outputs.shape[-1])
    position = jnp.argmax(maps, axis=1)
    values, image = jax.lax.top_k(jnp.max(maps, axis=1).T, count)
    return Strongest(image, jnp.take_along_axis(position.T, image, axis=1), values)
