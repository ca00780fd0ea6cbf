"""Saturation of wide networks: before training as the mean field says, and through training.

Claim: A random network's saturation (the measure φ_B of Rakitianskaia & Engelbrecht) is E|g(√q* z)| at the mean-field
variance q*, and perturbations grow past the edge of chaos, where χ_1 = 1. Training on digits raises φ_B with the
learning rate and lowers it with weight decay; a large learning rate kills ReLUs.

Source: Rakitianskaia & Engelbrecht 2015, IEEE SSCI, pp. 1423–1430; Poole, Lahiri, Raghu, Sohl-Dickstein & Ganguli 2016,
arXiv 1606.05340; Schoenholz, Gilmer, Ganguli & Sohl-Dickstein 2017, arXiv 1611.01232, equations 3 to 5.

Departure:
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import data as problems
from research import plots
from research.dynamics import Run, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select
from research.models import FullyConnected
from research.observables.saturation import (
    RANGES,
    binned_saturation,
    mean_saturation,
    never_active_share,
    vanished_share,
)
from research.oracles.mean_field import edge_of_chaos, mean_field, saturation, variance_path
from research.statistics import Estimate, every_seed, over_seeds, slope

ACTIVATIONS = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "softsign": jax.nn.soft_sign, "relu": jax.nn.relu}
EVEN, ODD = 10, 9


class Bounded(NamedTuple):
    saturation: Float[Array, "layer"]
    saturation_odd: Float[Array, "layer"]
    saturation_limit: Float[Array, "layer"]
    growth: Float[Array, "layer"]
    vanished: Float[Array, "layer"]
    accuracy: Float[Array, ""]


class Rectified(NamedTuple):
    never_active: Float[Array, "layer"]
    growth: Float[Array, "layer"]
    vanished: Float[Array, "layer"]
    accuracy: Float[Array, ""]


def simulate(
    key: Array,
    weight_variance: float,
    bias_variance: float,
    learning_rate: float,
    weight_decay: float,
    *,
    activation: Literal["tanh", "sigmoid", "softsign", "relu"] = "tanh",
    initialization: Literal["gaussian", "uniform"] = "gaussian",
    depth: int = 3,
    width: int = 100,
    images: int = 500,
    steps: int = 2000,
    batch: int = 32,
) -> Run | Bounded | Rectified:
    images_, labels = problems.digits()
    inputs = problems.standardized(images_)
    inputs *= inputs.shape[1] ** 0.5 / np.linalg.norm(inputs, axis=1, keepdims=True)
    held_out = np.isin(np.arange(len(labels)), np.linspace(0, len(labels) - 1, images).astype(int))
    shown, answers = jnp.asarray(inputs[held_out]), jnp.asarray(labels[held_out])
    X, y = jnp.asarray(inputs[~held_out]), jnp.asarray(labels[~held_out])
    init_key, tangent_key, descent_key = jax.random.split(key, 3)

    def kernel(key, shape, dtype):
        deviation = jnp.sqrt(jnp.asarray(weight_variance, dtype) / shape[0])
        if initialization == "uniform":
            return deviation * jax.random.uniform(key, shape, dtype, -1, 1)
        return deviation * jax.random.normal(key, shape, dtype)

    bias = lambda key, shape, dtype: jnp.sqrt(jnp.asarray(bias_variance, dtype)) * jax.random.normal(key, shape, dtype)
    network = FullyConnected(depth, width, 10, ACTIVATIONS[activation], kernel, bias)
    tangents = jax.random.normal(tangent_key, shown.shape)
    tangents -= jnp.sum(tangents * shown, axis=1, keepdims=True) * shown / jnp.sum(shown**2, axis=1, keepdims=True)

    def look(params):
        seen, moved = jax.jvp(lambda inputs: network.apply(params, inputs), (shown,), (tangents,))
        lengths = jnp.stack([jnp.mean(tangents**2, axis=1), *jnp.mean(moved.pre_activations**2, axis=2)])
        growth = jnp.mean(lengths[1:] / jnp.maximum(lengths[:-1], jnp.finfo(lengths.dtype).tiny), axis=1)
        outputs, slopes = jax.jvp(
            ACTIVATIONS[activation], (seen.pre_activations,), (jnp.ones_like(seen.pre_activations),)
        )
        vanished = jax.vmap(vanished_share)(slopes)
        accuracy = jnp.mean(jnp.argmax(seen.logits, axis=1) == answers, dtype=slopes.dtype)
        if activation == "relu":
            return Rectified(jax.vmap(never_active_share)(seen.pre_activations), growth, vanished, accuracy)
        measure = lambda bins: jax.vmap(lambda layer: binned_saturation(layer, *RANGES[activation], bins))(outputs)
        limit = jax.vmap(lambda layer: mean_saturation(layer, *RANGES[activation]))(outputs)
        return Bounded(measure(EVEN), measure(ODD), limit, growth, vanished, accuracy)

    params = network.init(init_key, shown)
    if not steps:
        return look(params)
    chain = optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate))
    loss = lambda params, drawn: optax.softmax_cross_entropy_with_integer_labels(
        network.apply(params, X[drawn]).logits, y[drawn]
    ).mean()
    sample = lambda key: jax.random.randint(key, (batch,), 0, len(X))
    step = stochastic_descent(loss, chain, sample)
    observe = lambda state: look(state.params)
    return Run(start(params, chain, descent_key), step, observe, log_spaced(steps, 16))
