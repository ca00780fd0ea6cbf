"""The tangent kernel is the dense Jacobian times its transpose, and its modes say how fast a residual falls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from research.observables.kernel import tangent_kernel, tangent_modes


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def apply(params, inputs):
    return jnp.tanh(inputs @ params["hidden"]["W"] + params["hidden"]["b"][None, :]) @ params["readout"]


def drawn(*outputs):
    random = np.random.default_rng(0)
    W, b, a, X = (jnp.asarray(random.normal(size=(3, *shape))) for shape in ((3, 7), (7,), (7, *outputs), (5, 3)))
    return {"hidden": {"W": W, "b": b}, "readout": a}, X


def dense(params, inputs):
    vector, unravel = ravel_pytree(params)
    return jax.jacfwd(lambda v: apply(unravel(v), inputs))(vector)


def test_kernel_is_the_dense_jacobian_times_its_transpose_under_jit_and_vmap():
    params, X = drawn(2)
    J, across = jax.jit(jax.vmap(lambda params, X: (dense(params, X), dense(params, X[:2] + 1))))(params, X)
    given, other = jax.jit(
        jax.vmap(lambda params, X: (tangent_kernel(apply, params, X), tangent_kernel(apply, params, X, X[:2] + 1)))
    )(params, X)
    assert other.shape == (3, 5, 2, 2, 2)
    for network in range(3):
        product = lambda left, right: np.tensordot(left, right, (-1, -1))
        np.testing.assert_allclose(given[network], product(J[network], J[network]), atol=1e-12)
        np.testing.assert_allclose(other[network], product(J[network], across[network]), atol=1e-12)


def test_modes_are_the_rates_of_descent():
    several, inputs = drawn()
    params, X = jax.tree.map(lambda leaf: leaf[0], several), inputs[0]
    rates, functions = (np.asarray(part) for part in tangent_modes(tangent_kernel(apply, params, X)))
    assert (np.diff(rates) <= 0).all()
    target, small, rate = np.asarray(apply(params, X)), 1e-6, 0.3 / rates[0]

    @jax.jit
    def left(along):
        loss = lambda params: jnp.mean((apply(params, X) - target - small * along) ** 2) / 2
        moved = jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss)(params))
        return (target + small * along - apply(moved, X)) / small

    for mode in range(5):
        along = functions[:, mode]
        np.testing.assert_allclose(left(along), (1 - rate * rates[mode]) * along, atol=1e-5)


def test_what_cannot_be_differentiated_is_refused():
    with pytest.raises(TypeError, match="params has entries of type int"):
        tangent_kernel(lambda params, X: X @ params, jnp.ones(3, int), jnp.ones((2, 3)))
