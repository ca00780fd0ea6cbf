"""Problems on which margins are judged: planted support vectors, Soudry's points in the plane, halves of real sets.

No separator has a bias term; real sets get a constant feature instead. The longest of the inputs has norm 1.
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key

from research import data

Separable = Literal["planted", "symmetric", "gaussian", "digits", "breast_cancer", "overlapping"]


class Labelled(NamedTuple):
    """Inputs, and labels that are −1 or 1."""

    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]


def separable_problem(key: Key[Array, ""], kind: Separable) -> Labelled:
    """The inputs, the longest of norm 1, and the labels of one problem.

    "planted": `planted_support` (20 × 80); "symmetric": `symmetric_points` (16 × 2); "gaussian": 30 × 10, the generic
    case; "digits" (3 against 8) and "breast_cancer": a random half of the samples with a constant feature (separable,
    as a test certifies); "overlapping": 30 × 6, which no direction separates. Raises ValueError for another kind.
    """
    if kind == "planted":
        X, y = planted_support(key)
    elif kind == "symmetric":
        X, y = symmetric_points(key)
    elif kind == "gaussian":
        X, y, _ = data.separable_classification(key, samples=30, features=10)
    elif kind == "overlapping":
        X, y, _ = data.overlapping_classification(key, samples=30, features=6, flipped=0.25)
    elif kind in ("digits", "breast_cancer"):
        inputs, labels = data.digits((3, 8)) if kind == "digits" else data.breast_cancer()
        chosen = jax.random.permutation(key, len(labels))[: len(labels) // 2]
        X = jnp.asarray(data.with_constant(inputs if kind == "digits" else data.standardized(inputs)))[chosen]
        y = jnp.asarray(data.signed(labels, 3 if kind == "digits" else 1))[chosen]
    else:
        raise ValueError(f"kind is {kind!r}: it takes {' or '.join(get_args(Separable))}")
    return Labelled(X / jnp.max(jnp.linalg.norm(X, axis=1)), y)


def standardized_sample(key: Key[Array, ""], kind: Literal["digits", "breast_cancer"], samples: int = 60) -> Labelled:
    """Random samples of digits (3 against 8) or breast_cancer, each feature standardised over the whole set.

    Features that never vary are left out and a constant one is added, so that none is zero on every sample.
    """
    inputs, labels = data.digits((3, 8)) if kind == "digits" else data.breast_cancer()
    varied = data.with_constant(data.standardized(inputs[:, np.ptp(inputs, axis=0) > 0]))
    chosen = jax.random.permutation(key, len(labels))[:samples]
    return Labelled(jnp.asarray(varied)[chosen], jnp.asarray(data.signed(labels, 3 if kind == "digits" else 1))[chosen])


def planted_support(key: Key[Array, ""], samples: int = 20, features: int = 80, support: int = 4) -> Labelled:
    """Support vectors z_k = u + a_k with a_k ⟂ u and Σ p_k a_k = 0, so that ŵ = u and α = p, and others beyond them.

    The multipliers p are unequal (softmax of 0 to 1.2). All samples but the first `support` are mixtures of these at
    margins between two and three, so that the late weights are a closed form, reached as fast as a power of t.
    Raises ValueError unless `samples` exceeds `support`.
    """
    if samples <= support:
        raise ValueError(f"samples is {samples}; it takes more than the {support} support vectors that it counts")
    draw = jax.random.normal(key, (samples + 1, features))  # one draw, as each more costs time to compile
    direction, across, others = draw[0] / jnp.linalg.norm(draw[0]), draw[1 : 1 + support], draw[1 + support :]
    p = jax.nn.softmax(jnp.linspace(0.0, 1.2, support))
    across = 3 * (across - jnp.outer(across @ direction, direction)) / features**0.5
    nearest = across + (direction - p @ across)[None, :]
    mixed = jax.nn.softmax(others[:, :support]) @ nearest * (2 + jax.nn.sigmoid(others[:, -1:]))
    return _labelled_in_turn(jnp.concatenate([nearest, mixed]))


def symmetric_points(key: Key[Array, ""], samples: int = 16) -> Labelled:
    """Points in the plane as in figure 1 of Soudry et al. 2018 (arXiv 1710.10345): a case that is not generic.

    The support vectors are ±(1/2, 3/2) and ±(3/2, 1/2); the others lie at two to three times their margin. By symmetry
    the multipliers are equal, and the late weights w̃ parallel to ŵ = (1/2, 1/2).
    """
    nearest = jnp.array([[0.5, 1.5], [1.5, 0.5]])
    draw = jax.random.normal(key, (samples - 4, 2))
    along, across = 2 + jax.nn.sigmoid(draw[:, :1]), draw[:, 1:]
    others = along * jnp.array([[1.0, 1.0]]) + across * jnp.array([[1.0, -1.0]])
    return _labelled_in_turn(jnp.concatenate([jnp.repeat(nearest, 2, axis=0), others]))


def _labelled_in_turn(Z: Float[Array, "sample feature"]) -> Labelled:
    """The problem whose y x are Z, labels 1 and −1 in turn."""
    y = jnp.where(jnp.arange(len(Z)) % 2 == 0, 1.0, -1.0)
    return Labelled(Z * y[:, None], y)
