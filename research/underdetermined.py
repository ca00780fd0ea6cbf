"""Least-squares problems with fewer samples than features, or of lower rank: many weights fit equally well."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from research import data

Underdetermined = Literal["gaussian", "rank_deficient", "digits", "breast_cancer"]


class Problem(NamedTuple):
    """Inputs and what was measured."""

    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]


def underdetermined_problem(key: Key[Array, ""], kind: Underdetermined) -> Problem:
    """X, scaled so that the largest eigenvalue of XᵀX/n is 1, and y; fewer samples than features.

    "gaussian": 20 × 100 that some weights fit; "rank_deficient": the same of rank 12, with a y that none fits;
    "digits": 200 random cosine features of 40 random images, the digit less the mean of all; "breast_cancer": 15
    random patients, 30 standardised measurements, labels ±1. Raises ValueError for another kind.
    """
    if kind == "gaussian":
        X, y, _ = data.gaussian_regression(key, samples=20, features=100)
    elif kind == "rank_deficient":
        X, y, _ = data.gaussian_regression(key, samples=20, features=100, rank=12, noise=0.5)
    elif kind == "digits":
        image_key, feature_key = jax.random.split(key)
        images, labels = data.digits()
        chosen = jax.random.choice(image_key, len(images), (40,), replace=False)
        X = data.random_features(feature_key, jnp.asarray(images)[chosen], 200, bandwidth=1.0)
        y = jnp.asarray(labels - labels.mean())[chosen]
    elif kind == "breast_cancer":
        patients, benign = data.breast_cancer()
        chosen = jax.random.choice(key, len(patients), (15,), replace=False)
        X, y = jnp.asarray(data.standardized(patients))[chosen], jnp.asarray(data.signed(benign, 1))[chosen]
    else:
        raise ValueError(f"kind is {kind!r}: it takes {' or '.join(get_args(Underdetermined))}")
    return Problem(X / jnp.sqrt(jnp.linalg.eigvalsh(X @ X.T / len(X))[-1]), y)
