"""Activations are found in what a network computes, and told from what normalisation and softmax consist of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from research.oracles.mean_field import saturation
from research.pointwise import activation_of

NAMED = {
    "relu": (jax.nn.relu, lambda x: jnp.where(x > 0, x, 0), lambda x: x * (x > 0)),
    "leaky_relu(0.2)": (lambda x: jnp.maximum(x, 0.2 * x), lambda x: jax.nn.leaky_relu(x, 0.2)),
    "abs": (jnp.abs,),
    "tanh": (jnp.tanh, lambda x: 2 * jax.nn.sigmoid(2 * x) - 1),
    "sigmoid": (jax.nn.sigmoid, lambda x: 1 / (1 + jnp.exp(-x))),
    "gelu": (linen.gelu, lambda x: linen.gelu(x, approximate=False)),
    "silu": (linen.silu,),
    "hard_tanh": (lambda x: jnp.clip(x, -1, 1),),
}


@pytest.mark.parametrize("name", NAMED)
def test_an_activation_is_known_by_what_it_computes(name):
    for function in NAMED[name]:
        found, activation = activation_of(function, "what it is called in the program does not matter")
        assert found == name
        assert activation.value(np.array([0.3])) == pytest.approx(float(function(jnp.float32(0.3))), abs=1e-3)


def test_unknown_activations_have_their_values_slopes_ranges_and_kinks_found():
    name, scaled = activation_of(lambda x: 1.7159 * jnp.tanh(2 * x / 3), "efficient")
    assert name == "efficient"
    assert (scaled.low, scaled.high) == (pytest.approx(-1.7159), pytest.approx(1.7159))
    assert scaled.slope(np.array([0.0])) == pytest.approx(1.7159 * 2 / 3)
    name, clipped = activation_of(lambda x: jnp.minimum(jax.nn.relu(x - 0.25), 6.0))
    assert name == "unnamed"
    assert (clipped.low, clipped.high, clipped.bends) == (0.0, 6.0, (0.0, 0.25, 6.25))
    assert np.isfinite(saturation(clipped, 2.0))  # certified, since quadrature knows the kinks


STEPS = [lambda x: x > 0, jnp.round, jnp.sign, lambda x: (x > 0.1) * 1.0]
ROOTS = [lambda x: jax.lax.rsqrt(jnp.maximum(x, 0) + 1e-6), lambda x: jnp.sqrt(jax.nn.relu(x) + 1e-3)]
PARTS = [jnp.square, jnp.exp, jax.lax.rsqrt, lambda x: 3 * x + 1, jnp.zeros_like]


@pytest.mark.parametrize("function", [*PARTS, *ROOTS, *STEPS])
def test_what_normalisation_softmax_and_rounding_consist_of_is_no_activation(function):
    assert activation_of(function) is None
