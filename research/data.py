"""Problems with known structure: planted ones drawn from a key, and the real sets that scikit-learn carries.

The planted problems are pure functions of a key: jit and vmap them over the key and over every float parameter; sizes
are Python ints. Their floats have JAX's default width. A parameter is checked where it is a number; where it is an
array or traced, the caller answers for its range. The real sets are NumPy, float64 and read-only.
"""

from collections.abc import Sequence
from functools import cache
from numbers import Real as Number
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, Key, Real

Scalar = Real[ArrayLike, ""]


class Regression(NamedTuple):
    """Inputs, what was measured, and the weights that were planted."""

    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    weights: Float[Array, "feature"]


class Classification(NamedTuple):
    """Inputs, labels that are −1 or 1, and the unit direction that was planted."""

    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    weights: Float[Array, "feature"]


class Labelled(NamedTuple):
    """A real classification set, labels as they are published."""

    inputs: Float[np.ndarray, "sample feature"]
    labels: Int[np.ndarray, "sample"]


class Measured(NamedTuple):
    """A real regression set, one number to predict."""

    inputs: Float[np.ndarray, "sample feature"]
    targets: Float[np.ndarray, "sample"]


def gaussian_regression(
    key: Key[Array, ""],
    samples: int,
    features: int,
    *,
    rank: int | None = None,
    condition_number: Scalar | None = None,
    support: int | None = None,
    noise: Scalar = 0.0,
) -> Regression:
    """Linear measurements y = X w + noise · N(0, 1) of planted weights w with ‖w‖₂ = 1.

    The entries of X have variance 1: independent Gaussians, or with `rank` below both sizes the product of two Gaussian
    factors. With `condition_number` X has instead uniformly random singular vectors and `rank` singular values that are
    not zero, log-spaced from √samples + √features (the largest of a Gaussian matrix: Davidson & Szarek 2001, Theorem
    II.13) down by that ratio. `support` counts the non-zero weights, at random places; by default none is zero. `noise`
    is a standard deviation; that of the signal is 1 where the entries of X are independent.
    Raises ValueError for sizes below 1, a rank or support that does not fit, condition_number < 1 or noise < 0.
    """
    full_rank = min(samples, features)
    rank = full_rank if rank is None else rank
    support = features if support is None else support
    _check(1, samples=samples, features=features)
    _check(1, full_rank, rank=rank)
    _check(1, features, support=support)
    _check(0, noise=noise)
    left_key, right_key, weights_key, support_key, noise_key = jax.random.split(key, 5)
    if condition_number is not None:
        _check(1, condition_number=condition_number)
        left = jax.random.orthogonal(left_key, samples, m=rank) * _log_spaced(rank, condition_number)[None, :]
        X = (samples**0.5 + features**0.5) * left @ jax.random.orthogonal(right_key, features, m=rank).T
    elif rank < full_rank:
        X = jax.random.normal(left_key, (samples, rank)) @ jax.random.normal(right_key, (rank, features)) / rank**0.5
    else:
        X = jax.random.normal(left_key, (samples, features))
    planted = jax.random.permutation(support_key, features) < support
    weights = _unit(jnp.where(planted, jax.random.normal(weights_key, (features,)), 0.0))
    return Regression(X, X @ weights + noise * jax.random.normal(noise_key, (samples,)), weights)


def separable_classification(
    key: Key[Array, ""], samples: int, features: int, *, margin: Scalar = 0.1, condition_number: Scalar = 1.0
) -> Classification:
    """Two classes, labelled 1 and −1 in turn, that a planted unit direction w through the origin separates.

    In the result the smallest y (x·w) is `margin` and the largest ‖x‖₂ is 1, up to rounding. The widest l2 margin over
    all directions is usually larger. Before they are moved apart along w and scaled, the inputs are Gaussian with the
    feature scales log-spaced from 1 down by the ratio `condition_number`. They are not rotated, so that the l1, l2 and
    l∞ maximum-margin directions differ: clearly with more features than samples, else by the ratio (assert it).
    Raises ValueError for samples < 1, features < 2, a margin outside (0, 1) or condition_number < 1.
    """
    _check(2, features=features)
    _check(1, samples=samples, condition_number=condition_number)
    _check(0, 1, strict=True, margin=margin)
    inputs_key, direction_key = jax.random.split(key)
    weights = _unit(jax.random.normal(direction_key, (features,)))
    y = jnp.where(jnp.arange(samples) % 2 == 0, 1.0, -1.0)
    inputs = jax.random.normal(inputs_key, (samples, features)) * _log_spaced(features, condition_number)[None, :]
    inputs = inputs * jnp.where(y * (inputs @ weights) < 0, -1.0, 1.0)[:, None]
    along = inputs @ weights
    across = inputs - along[:, None] * weights[None, :]
    # The distance of each sample from the plane, over that of the nearest sample: the nearest ends up at the margin.
    beyond = jnp.abs(along) - jnp.min(jnp.abs(along))
    # The scale c at which ‖(margin + c·beyond) w + c·across‖ = 1, the positive root in the form that does not cancel.
    room = 1 - margin**2
    square = beyond**2 + jnp.sum(across**2, axis=1)
    scale = jnp.min(room / (margin * beyond + jnp.sqrt((margin * beyond) ** 2 + room * square)))
    X = (y * (margin + scale * beyond))[:, None] * weights[None, :] + scale * across
    return Classification(X, y, weights)


def overlapping_classification(
    key: Key[Array, ""],
    samples: int,
    features: int,
    *,
    flipped: Scalar = 0.1,
    margin: Scalar = 0.1,
    condition_number: Scalar = 1.0,
) -> Classification:
    """Separable classes in which a share `flipped` of the samples, the last ones, contradicts the planted direction.

    The last sample is half the first one with the other label, and so inwards. Zero then lies in the convex hull of the
    y x, and no direction separates: for every share, since at least one sample is flipped. Once as many as `features`
    are, the logistic loss has one finite minimiser, for the flipped samples span the space; with fewer, the weights may
    still diverge orthogonally to them.
    Raises ValueError for samples < 2, flipped outside [0, 1/2], and as `separable_classification`.
    """
    _check(2, samples=samples)
    _check(0, 0.5, flipped=flipped)
    X, y, weights = separable_classification(key, samples, features, margin=margin, condition_number=condition_number)
    count = jnp.clip(jnp.round(flipped * samples), 1, samples // 2)
    contradicts = jnp.arange(samples) >= samples - count
    # Halving is exact: a factor that rounds would leave the classes separable by a direction of huge norm.
    X = jnp.where(contradicts[:, None], X[::-1] / 2, X)
    return Classification(X, jnp.where(contradicts, -y[::-1], y), weights)


def low_rank_matrix(
    key: Key[Array, ""], rows: int, columns: int, rank: int, *, condition_number: Scalar = 1.0
) -> Float[Array, "row column"]:
    """Return a matrix of Frobenius norm 1 with uniformly random singular vectors and `rank` non-zero singular values.

    The singular values are log-spaced; `condition_number` is the largest over the smallest.
    Raises ValueError for sizes below 1, a rank that does not fit or condition_number < 1.
    """
    _check(1, rows=rows, columns=columns, condition_number=condition_number)
    _check(1, min(rows, columns), rank=rank)
    left_key, right_key = jax.random.split(key)
    left = jax.random.orthogonal(left_key, rows, m=rank) * _unit(_log_spaced(rank, condition_number))[None, :]
    return left @ jax.random.orthogonal(right_key, columns, m=rank).T


def observed_mask(key: Key[Array, ""], rows: int, columns: int, observed: int) -> Bool[Array, "row column"]:
    """Return which entries of a matrix are seen: exactly `observed`, uniformly without replacement.

    Raises ValueError for sizes below 1 or `observed` outside [0, rows · columns].
    """
    _check(1, rows=rows, columns=columns)
    _check(0, rows * columns, observed=observed)
    return (jax.random.permutation(key, rows * columns) < observed).reshape(rows, columns)


def random_features(
    key: Key[Array, ""], X: Float[Array, "sample input"], features: int, *, bandwidth: Scalar = 1.0
) -> Float[Array, "sample feature"]:
    """Return √(2/features) · cos(X W / bandwidth + b), with Gaussian W and b uniform on a circle.

    The inner product of two rows estimates exp(−‖x − x'‖² / (2 bandwidth²)) without bias (Rahimi & Recht 2007).
    The same key gives the same features, so training and test inputs may be mapped apart.
    Raises ValueError for features < 1 or a bandwidth that is not positive.
    """
    _check(1, features=features)
    _check(0, strict=True, bandwidth=bandwidth)
    frequency_key, phase_key = jax.random.split(key)
    frequencies = jax.random.normal(frequency_key, (X.shape[1], features)) / bandwidth
    phases = jax.random.uniform(phase_key, (1, features), maxval=2 * jnp.pi)
    return (2 / features) ** 0.5 * jnp.cos(X @ frequencies + phases)


def balanced_subset(key: Key[Array, ""], labels: Int[np.ndarray, "sample"], per_class: int) -> Int[Array, "chosen"]:
    """Return indices of `per_class` samples of every class, without replacement.

    The classes come in turn, in increasing order, so that every prefix is balanced too.
    Raises ValueError where per_class is below 1 or above the size of the smallest class.
    """
    counts = np.unique(labels, return_counts=True)[1]
    _check(1, min(counts.tolist()), per_class=per_class)
    shuffled = jax.random.permutation(key, len(labels))
    grouped = shuffled[jnp.argsort(jnp.asarray(labels)[shuffled], stable=True)]
    firsts = np.cumsum(counts) - counts
    return grouped[(firsts[None, :] + np.arange(per_class)[:, None]).reshape(-1)]


@cache
def digits(classes: tuple[int, ...] = tuple(range(10))) -> Labelled:
    """Return scikit-learn's images of 8 × 8 pixels in [0, 1] that show one of `classes`: 1797 for all ten.

    Classes 3 and 8 are linearly separable once a constant feature is appended (a test certifies it).
    Raises ValueError where classes are none, or not all among 0 to 9.
    """
    from sklearn.datasets import load_digits

    if not classes or not set(classes) <= set(range(10)):
        raise ValueError(f"classes is {classes!r}: it takes one or more of the digits 0 to 9")
    inputs, labels = load_digits(return_X_y=True)
    chosen = np.isin(labels, classes)
    return Labelled(_frozen(inputs[chosen] / 16), _frozen(labels[chosen]))


@cache
def breast_cancer() -> Labelled:
    """Return 569 biopsies with 30 measurements each, as published; label 1 is benign, 0 malignant.

    Standardised and with a constant feature appended the classes are linearly separable (a test certifies it).
    """
    from sklearn.datasets import load_breast_cancer

    return Labelled(*map(_frozen, load_breast_cancer(return_X_y=True)))


@cache
def diabetes(degree: int = 1) -> Measured:
    """Return 442 patients: standardised inputs, and the standardised progression of the disease after a year.

    Degree 1 has the 10 inputs; degree 2 has them, their products and the squares of those with more than two values
    (sex has two), each standardised again: the 64 columns of Efron et al. 2004, Least Angle Regression.
    Raises ValueError for another degree.
    """
    from sklearn.datasets import load_diabetes

    if degree not in (1, 2):
        raise ValueError(f"degree is {degree!r}: it must be 1 or 2")
    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    columns = standardized(inputs)
    if degree == 2:
        first, second = np.triu_indices(columns.shape[1])
        binary = np.array([len(np.unique(column)) == 2 for column in columns.T])
        new = (first != second) | ~binary[first]
        columns = standardized(np.concatenate([columns, columns[:, first[new]] * columns[:, second[new]]], axis=1))
    return Measured(_frozen(columns), _frozen(standardized(targets[:, None])[:, 0]))


def signed(labels: Int[np.ndarray, "sample"], positive: int | Sequence[int]) -> Float[np.ndarray, "sample"]:
    """Return 1 for the labels that are `positive` (one class, or several) and −1 for all others.

    Raises ValueError where only one sign would occur.
    """
    chosen = np.isin(labels, positive)
    if chosen.all() or not chosen.any():
        raise ValueError(f"positive is {positive!r}: it must name some, not all, of the labels {np.unique(labels)}")
    return np.where(chosen, 1.0, -1.0)


def standardized(inputs: Float[np.ndarray, "sample feature"]) -> Float[np.ndarray, "sample feature"]:
    """Return the columns with mean 0 and (population) standard deviation 1; constant columns become 0."""
    centred = inputs - inputs.mean(axis=0, keepdims=True)
    # Of what is centred already: the mean of a constant column rounds, and its deviation would not be zero.
    deviations = centred.std(axis=0, keepdims=True)
    return np.where(deviations > 0, centred, 0.0) / np.where(deviations > 0, deviations, 1.0)


def with_constant(inputs: Float[np.ndarray, "sample feature"]) -> Float[np.ndarray, "sample feature+1"]:
    """Return the inputs with a last column of ones: a bias that takes part in the norm."""
    return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def _log_spaced(count: int, ratio: Scalar) -> Float[Array, "count"]:
    return jnp.asarray(ratio, float) ** -jnp.linspace(0.0, 1.0, count)


def _unit(vector: Float[Array, "entry"]) -> Float[Array, "entry"]:
    return vector / jnp.linalg.norm(vector)


def _check(low: int | float, high: int | float = float("inf"), *, strict: bool = False, **named: Scalar) -> None:
    for name, value in named.items():
        if isinstance(value, Number) and not (low < value < high if strict else low <= value <= high):
            raise ValueError(f"{name} is {value}: it must lie {'strictly ' if strict else ''}between {low} and {high}")
