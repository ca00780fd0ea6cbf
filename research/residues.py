"""Addition modulo p as a classification of pairs, and the network with one hidden layer that is to learn it."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

Activation = Literal["quadratic", "relu"]
Objective = Literal["cross_entropy", "squared_error"]


class Weights(NamedTuple):
    """Those of the hidden layer and of the readout; there are no biases."""

    first: Float[Array, "input unit"]
    last: Float[Array, "unit label"]


def modular_sums(key: Key[Array, ""], modulus: int) -> tuple[Float[Array, "pair input"], Int[Array, "pair"]]:
    """Return all pairs (a, b) of residues in random order, as two one-hot codes side by side, and a + b mod p."""
    pairs = jax.random.permutation(key, modulus**2)
    one, other = pairs // modulus, pairs % modulus
    codes = [jax.nn.one_hot(each, modulus) for each in (one, other)]
    return jnp.concatenate(codes, axis=1), (one + other) % modulus


def outputs(weights: Weights, X: Float[Array, "pair input"], activation: Activation) -> Float[Array, "pair label"]:
    """Return φ(x W1) W2, φ(u) = u² or max(u, 0): homogeneous of degree 3 or 2."""
    return _units(X @ weights.first, activation) @ weights.last


def loss_and_trace(
    weights: Weights, X: Float[Array, "pair input"], y: Int[Array, "pair"], activation: Activation, objective: Objective
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the mean loss, and mean c‖∂f‖², from which a rate may be taken.

    The cross-entropy in nats, c = 1 − p_y; or half the squared distance to the one-hot code, c = 1. ‖∂f‖² is by W1 over
    all logits, φ'(sum)² W2² for each of the two codes that are 1, and by W2 of one logit alone, the units' squares: the
    p logits have weights of their own there. So it is up to p times less than the whole ‖∂f‖².

    It bounds the largest eigenvalue of the Gauss–Newton part of the curvature, to a factor of 2 for cross-entropy: that
    of diag(p) − pp' is at most 2(1 − p_y). The part with the network's second derivative is left out.
    """
    sums = X @ weights.first
    slopes = 2 * sums if activation == "quadratic" else (sums > 0).astype(sums.dtype)
    units = _units(sums, activation)
    size = (units**2).sum(axis=1) + 2 * (slopes**2 @ (weights.last**2).sum(axis=1))
    if objective == "squared_error":
        codes = jax.nn.one_hot(y, weights.last.shape[1])
        return ((units @ weights.last - codes) ** 2).sum(axis=1).mean() / 2, jnp.mean(size)
    chances = jax.nn.log_softmax(units @ weights.last)
    right = jnp.take_along_axis(chances, y[:, None], axis=1)[:, 0]
    return -right.mean(), jnp.mean(-jnp.expm1(right) * size)


def _units(sums: Float[Array, "pair unit"], activation: Activation) -> Float[Array, "pair unit"]:
    return sums**2 if activation == "quadratic" else jax.nn.relu(sums)
