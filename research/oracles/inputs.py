"""What an oracle accepts: arrays and numbers in float64, or a ValueError that names the argument.

NaN passes (a run that diverged leaves NaN, and the oracle answers NaN); infinities do not.
"""

import math

import numpy as np


def array(name: str, value: object, dimensions: int) -> np.ndarray:
    """Return `value` as a float64 array with that many dimensions, none of them empty."""
    try:
        result = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {value!r}; it takes an array of numbers") from error
    if result.ndim != dimensions or 0 in result.shape:
        raise ValueError(f"{name} has shape {result.shape}; it takes {dimensions} dimension(s), none of them empty")
    if np.isinf(result).any():
        raise ValueError(f"{name} has an infinite entry; it takes finite numbers")
    return result


def vector(name: str, value: object, length: int, owner: str) -> np.ndarray:
    """Return `value` as a float64 vector whose length matches that of `owner`."""
    result = array(name, value, 1)
    if len(result) != length:
        raise ValueError(f"{name} has {len(result)} entries; it takes {length}, as many as {owner}")
    return result


def regression(X: object, y: object) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples (one a row) and their targets."""
    samples = array("X", X, 2)
    return samples, vector("y", y, len(samples), "X has rows")


def classification(X: object, y: object) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples (one a row) and their labels, -1 or +1."""
    samples, labels = regression(X, y)
    strangers = labels[~(np.isnan(labels) | (np.abs(labels) == 1))]
    if len(strangers):
        raise ValueError(f"y has the label {strangers[0]:g}; it takes labels -1 and +1")
    return samples, labels


def measured(measurements: object, y: object) -> tuple[np.ndarray, np.ndarray]:
    """Return symmetric matrices, one each along the first dimension, and what each of them measured."""
    A = array("measurements", measurements, 3)
    if A.shape[1] != A.shape[2] or not np.allclose(A, A.transpose(0, 2, 1), rtol=1e-12, atol=1e-12, equal_nan=True):
        raise ValueError(f"measurements of shape {A.shape} are not all symmetric; it takes symmetric matrices")
    return A, vector("y", y, len(A), "there are measurements")


def number(name: str, value: object, *, low: float = -math.inf, below: float = math.inf) -> float:
    """Return `value` as a float with low <= value < below, or NaN."""
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {value!r}; it takes a number") from error
    if not (math.isnan(result) or low <= result < below):
        raise ValueError(f"{name} is {result:g}; it takes a number from {low:g} to less than {below:g}")
    return result


def norm_order(order: object) -> float:
    """Return the order of a norm, 1, 2 or infinity, as a float."""
    if isinstance(order, (str, bool)) or order not in (1, 2, math.inf):
        raise ValueError(f"order is {order!r}; it takes 1, 2 or numpy.inf")
    return float(order)
