"""The tangent kernel of a network: how its outputs move together when its parameters descend."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


class Modes(NamedTuple):
    """The rates of a kernel on its sample, the largest first, and in the columns its orthonormal eigenfunctions."""

    rates: Float[Array, "mode"]
    functions: Float[Array, "output mode"]


def tangent_kernel(
    apply: Callable[[PyTree, Array], Array], params: PyTree, inputs: Array, others: Array | None = None
) -> Float[Array, "..."]:
    """Return the inner products of the gradients, in all parameters, of each output with each.

    `apply` maps parameters and inputs to an array of outputs. With outputs of shape s the kernel has shape s + s; with
    `others`, their outputs of shape r, it is s + r. No scaling: under gradient descent on half the mean squared error
    of n outputs the residual r moves by −(learning rate / n) · kernel · r, to first order in the learning rate (Jacot,
    Gabriel & Hongler 2018, arXiv 1806.07572). One array of parameters is held at a time, as a Jacobian of outputs ×
    its entries. Raises TypeError for parameters that are not real floating-point numbers.
    """
    strangers = [leaf.dtype for leaf in map(jnp.asarray, jax.tree.leaves(params)) if leaf.dtype.kind != "f"]
    if strangers:
        raise TypeError(f"params has entries of type {strangers[0]}; it takes real floating-point numbers")
    gradients = lambda points: jax.jacrev(apply)(params, points)
    one = gradients(inputs)
    other = one if others is None else gradients(others)
    shapes = [jax.eval_shape(apply, params, points).shape for points in (inputs, inputs if others is None else others)]
    rows = lambda jacobian, shape: jacobian.reshape(*shape, -1)
    products = jax.tree.map(
        lambda left, right: jnp.tensordot(rows(left, shapes[0]), rows(right, shapes[1]), axes=(-1, -1)), one, other
    )
    return sum(jax.tree.leaves(products), jnp.zeros(()))


def tangent_modes(kernel: Float[Array, "..."]) -> Modes:
    """Return the eigenvalues, over the number n of outputs, and the eigenfunctions of a kernel of shape s + s.

    Under gradient descent on half the mean squared error the residual along mode k is multiplied in every step by
    1 − learning rate · rates[k], as long as the kernel stays. Outputs of more dimensions are taken in C order.
    """
    outputs = round(kernel.size**0.5)
    rates, functions = jnp.linalg.eigh(kernel.reshape(outputs, outputs) / outputs)
    return Modes(rates[::-1], functions[:, ::-1])
