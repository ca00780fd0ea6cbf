"""What is timed: six small trainings, each a `simulate` for a sweep and the grid it is swept over.

Everything is float32. A run draws its own initial values from its key and has its own learning rate; the data are the
same for all runs. The loss is recorded before the first step and after the last one.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from jax import Array
from jaxtyping import Float

from research import data
from research.dynamics import Run, descent, start, stochastic_descent
from research.models import FullyConnected

BATCH = 64  # images that a step of the convolutional network sees
MOMENTUM = 0.9  # of the networks; the others descend without


class Observables(NamedTuple):
    """What is recorded of a run."""

    loss: Float[Array, ""]


class Workload(NamedTuple):
    """A training that is timed: one run, the learning rates and seeds it is swept over, and how many steps it takes."""

    name: str
    title: str
    simulate: Callable
    learning_rates: tuple[float, ...]
    seeds: int
    steps: int
    static: Mapping[str, Any] = {}

    @property
    def runs(self) -> int:
        """Runs in all."""
        return self.seeds * len(self.learning_rates)

    @property
    def axes(self) -> dict[str, Any]:
        """The grid, as `research.sweep.sweep` takes it."""
        return {"learning_rate": self.learning_rates, "steps": self.steps, **self.static}

    def quick(self) -> "Workload":
        """The same training, so few runs and steps of it that it takes no time."""
        return self._replace(learning_rates=self.learning_rates[:2], seeds=2, steps=3)

    def one(self, key: Array, learning_rate: Any) -> Run:
        """One run of it."""
        return self.simulate(key, learning_rate, steps=self.steps, **self.static)

    def mapped(self) -> tuple[Array, np.ndarray]:
        """(keys, learning rates) of all runs, in a sweep's order: seed by seed, and for each the learning rates."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), np.arange(self.seeds))
        rates = np.tile(np.asarray(self.learning_rates, np.float32), self.seeds)
        return jnp.repeat(keys, len(self.learning_rates)), rates


@cache
def classification(samples: int = 100, features: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of about unit norm, and labels ±1 of a planted direction, a tenth of them flipped."""
    draw = np.random.default_rng(0)
    X = draw.standard_normal((samples, features)) / features**0.5
    flips = np.where(np.arange(samples) < samples // 10, -1, 1)
    return X.astype(np.float32), (flips * np.sign(X @ draw.standard_normal(features))).astype(np.float32)


@cache
def regression(samples: int = 20, features: int = 50, support: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian inputs, and what they measure of sparse weights."""
    draw = np.random.default_rng(1)
    X = draw.standard_normal((samples, features)).astype(np.float32)
    return X, X[:, :support].sum(axis=1)


@cache
def partly_observed(size: int = 50, rank: int = 3, share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """A matrix of low rank with singular values of about 1, and a mask (0 or 1) of the entries that are seen."""
    draw = np.random.default_rng(2)
    factors = draw.standard_normal((2, size, rank)) / size**0.5
    return (factors[0] @ factors[1].T).astype(np.float32), (draw.random((size, size)) < share).astype(np.float32)


@cache
def digits(samples: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Images of 8 × 8 pixels as rows, and their labels."""
    images, labels = data.digits()
    return images[:samples].astype(np.float32), labels[:samples].astype(np.int32)


@cache
def large_digits(samples: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """The same images, enlarged to the 28 × 28 pixels and one channel of MNIST's, so that nothing is downloaded.

    A little noise keeps pixels apart: which of two equal ones a maximum takes is not the same everywhere.
    """
    from scipy.ndimage import zoom

    images, labels = digits(samples)
    large = zoom(images.reshape(-1, 8, 8), (1, 3.5, 3.5), order=1)[..., None]
    return (large + 0.05 * np.random.default_rng(3).random(large.shape)).astype(np.float32), labels


def logistic(key: Array, learning_rate: float, *, steps: int = 2000) -> Run:
    """Logistic regression, 100 samples and 50 features, by full-batch gradient descent.

    Margins stay near 1, so the textbook's formula does not overflow; `softplus` would take three times as long in XLA.
    """
    X, y = classification()
    loss = lambda weights: jnp.log1p(jnp.exp(-y * (X @ weights))).mean()
    return _trained(loss, 0.1 * jax.random.normal(key, X.shape[1:]), optax.sgd(learning_rate), steps)


def diagonal(key: Array, learning_rate: float, *, steps: int = 2000) -> Run:
    """A diagonal linear network u² − v² on 20 samples and 50 features, by full-batch gradient descent."""
    X, y = regression()
    loss = lambda params: optax.l2_loss(X @ (params["u"] ** 2 - params["v"] ** 2), y).mean()
    u, v = 0.3 + 0.03 * jax.random.normal(key, (2, X.shape[1]))
    return _trained(loss, {"u": u, "v": v}, optax.sgd(learning_rate), steps)


def factorization(key: Array, learning_rate: float, *, steps: int = 500) -> Run:
    """Matrix completion by a product of three matrices of 50 × 50, by full-batch gradient descent."""
    target, seen = partly_observed()
    loss = lambda factors: 0.5 * jnp.sum(seen * (factors[2] @ factors[1] @ factors[0] - target) ** 2)
    factors = 0.6 * jax.random.normal(key, (3, *target.shape)) / len(target) ** 0.5
    return _trained(loss, tuple(factors), optax.sgd(learning_rate), steps)


def perceptron(key: Array, learning_rate: float, *, depth: int = 1, width: int = 64, steps: int = 200) -> Run:
    """A fully connected network on 512 digits, by full-batch gradient descent with momentum."""
    images, labels = map(jnp.asarray, digits())
    network = FullyConnected(depth, width, 10, linen.relu)

    def loss(params: Any) -> Array:
        layers: Any = network.apply(params, images)
        return _cross_entropy(layers.logits, labels)

    return _trained(loss, network.init(key, images), optax.sgd(learning_rate, momentum=MOMENTUM), steps)


def patches_convolution(inputs: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    """What `linen.Conv` computes for a 3 × 3 kernel, stride 1 and zeros around, as one matrix product of patches.

    XLA rewrites convolutions into its fast forms on the CPU only outside of loops, and a vmap over kernels makes them
    grouped ones, which it has no fast form for (jaxlib 0.10.2: 20 ms a step of this network in a loop, with this 3.5).
    """
    rows, columns = inputs.shape[1:3]
    padded = jnp.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, row : row + rows, column : column + columns] for row in range(3) for column in range(3)]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def halved(images: Array) -> Array:
    """The largest of every 2 × 2 pixels: `linen.max_pool`, whose gradient is slow on the CPU, as two plain maxima."""
    count, rows, columns, channels = images.shape
    pairs = images.reshape(count, rows // 2, 2, columns, channels)
    pairs = jnp.maximum(pairs[:, :, 0], pairs[:, :, 1]).reshape(count, rows // 2, columns // 2, 2, channels)
    return jnp.maximum(pairs[:, :, :, 0], pairs[:, :, :, 1])


class Convolutional(linen.Module):
    """Two 3 × 3 convolutions of 8 and 16 channels, each with a maximum over 2 × 2 pixels, and a linear readout."""

    @linen.compact
    def __call__(self, images: Float[Array, "sample row column channel"]) -> Float[Array, "sample label"]:
        """Return the logits."""
        outputs = images
        for channels in (8, 16):
            layer = linen.Conv(channels, (3, 3), conv_general_dilated=patches_convolution)
            outputs = halved(linen.relu(layer(outputs)))
        return linen.Dense(10)(outputs.reshape(len(outputs), -1))


def convolution(key: Array, learning_rate: float, *, steps: int = 50) -> Run:
    """A small convolutional network on batches of 64 images of 28 × 28 pixels, with momentum."""
    images, labels = map(jnp.asarray, large_digits())
    init_key, batch_key = jax.random.split(key)
    network = Convolutional()
    loss = lambda params, chosen: _cross_entropy(network.apply(params, images[chosen]), labels[chosen])
    optimizer = optax.sgd(learning_rate, momentum=MOMENTUM)
    state = start(network.init(init_key, images[:1]), optimizer, batch_key)
    observe = lambda state: Observables(loss(state.params, jnp.arange(len(images))))
    return Run(state, stochastic_descent(loss, optimizer, _batch), observe, np.array([0, steps]))


def batches(run: Run, steps: int) -> Array:
    """The images that each step of a convolutional network's run sees, known beforehand."""

    def draw(key: Array, _: None) -> tuple[Array, Array]:
        key, sample_key = jax.random.split(key)
        return key, _batch(sample_key)

    return jax.lax.scan(draw, run.state.key, length=steps)[1]


def _batch(key: Array) -> Array:
    return jax.random.randint(key, (BATCH,), 0, len(large_digits()[0]))


def _cross_entropy(logits: Any, labels: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _trained(loss: Callable, params: Any, optimizer: optax.GradientTransformationExtraArgs, steps: int) -> Run:
    observe = lambda state: Observables(loss(state.params))
    return Run(start(params, optimizer), descent(loss, optimizer), observe, np.array([0, steps]))


def _rates(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(np.geomspace(low, high, count).round(6).tolist())


WORKLOADS = {
    each.name: each
    for each in (
        Workload("logistic", "logistic regression 100×50", logistic, _rates(0.1, 2.0, 32), seeds=32, steps=2000),
        Workload("diagonal", "diagonal network 20×50", diagonal, _rates(0.01, 0.05, 32), seeds=32, steps=5000),
        Workload(
            "factorization", "factorisation 50×50, depth 3", factorization, _rates(0.05, 0.3, 8), seeds=8, steps=500
        ),
        Workload("perceptron", "MLP 64-64-10", perceptron, _rates(0.01, 0.2, 8), seeds=8, steps=200),
        Workload(
            "wide_perceptron",
            "MLP 64-256-256-10",
            perceptron,
            _rates(0.01, 0.1, 4),
            seeds=8,
            steps=100,
            static={"depth": 2, "width": 256},
        ),
        Workload("convolution", "CNN 28×28", convolution, _rates(0.003, 0.03, 4), seeds=4, steps=50),
    )
}
