"""Small tanh networks on which full-batch training sharpens the loss until it is no longer stable.

The problems of Cohen, Kaur, Li, Kolter & Talwalkar 2021, arXiv 2103.00065: a Chebyshev polynomial on a line of points,
and images against one-hot targets.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Key, PyTree

from research import data as sets
from research import images
from research.models import FullyConnected, uniform_start

Data = Literal["chebyshev", "digits", "mnist", "fashion_mnist", "cifar10"]
Loss = Literal["squared_error", "cross_entropy"]
DEGREE = 4


class Problem(NamedTuple):
    """Inputs and targets, the parameters at the start (as a tree, and in one vector), and the loss.

    `loss(params)` is that of all samples, `loss(params, chosen)` that of those of the given indices.
    """

    X: Float[Array, "sample feature"]
    Y: Float[Array, "sample label"]
    params: PyTree
    initial: Float[Array, "parameter"]
    loss: Callable


def sharpening_problem(key: Key[Array, ""], data: Data, loss: Loss, *, samples: int, width: int, depth: int) -> Problem:
    """The problem, with `depth` hidden layers of `width` tanh units: kernels between ±1/√fan_in, biases 0.

    "chebyshev": `samples` evenly spaced points from −1 to 1 and the Chebyshev polynomial of degree 4; the others have
    ten classes, one-hot, and pixels standardised over the set: a random part of the digits, or the first `samples`
    images of the training set. The loss is the mean over samples of ‖error‖²/2, or of the cross-entropy in nats.
    Raises ValueError for another name and FileNotFoundError for images that are not at hand.
    """
    if loss not in get_args(Loss):
        raise ValueError(f"loss is {loss!r}; it takes {' or '.join(get_args(Loss))}")
    data_key, init_key = jax.random.split(key)
    X, Y = _samples(data_key, data, samples)
    params, initial = uniform_start(init_key, [X.shape[1], *[width] * depth, Y.shape[1]], X.dtype)
    network = FullyConnected(depth, width, Y.shape[1], jnp.tanh)

    def mean_loss(params: PyTree, chosen: Array | slice = slice(None)) -> Array:
        layers: Any = network.apply(params, X[chosen])
        logits = layers.logits
        if loss == "cross_entropy":
            return optax.softmax_cross_entropy(logits, Y[chosen]).mean()
        return optax.l2_loss(logits, Y[chosen]).sum() / len(logits)

    return Problem(X, Y, params, initial, mean_loss)


def _samples(key: Array, data: Data, samples: int) -> tuple[Array, Array]:
    if data == "chebyshev":
        points = np.linspace(-1, 1, samples)[:, None]
        values = np.polynomial.chebyshev.chebval(points, [0] * DEGREE + [1])
        return jnp.asarray(points, float), jnp.asarray(values, float)
    if data == "digits":
        pixels, labels = sets.digits()
        chosen = jax.random.permutation(key, len(labels))[:samples]
    elif data in get_args(Data):
        found = getattr(images, data)("train")
        pixels, labels = found.images[:samples].reshape(samples, -1) / 255, found.labels[:samples]
        chosen = jnp.arange(samples)
    else:
        raise ValueError(f"data is {data!r}; it takes {' or '.join(get_args(Data))}")
    X = jnp.asarray(sets.standardized(pixels), float)[chosen]
    return X, jax.nn.one_hot(jnp.asarray(labels)[chosen], 10, dtype=X.dtype)
