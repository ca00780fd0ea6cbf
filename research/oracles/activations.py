"""Activation functions and their derivatives, as the mean field of a wide network needs them.

`ACTIVATIONS` has them by name; one of your own is `Activation(value, slope)`: both map float64 arrays to arrays of the
same shape. Quadrature is fine where a function bends on the scale of 1; `bends` names where it does, kinks and jumps of
the slope among them.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import erf, expit, ndtr

Function = Callable[[np.ndarray], np.ndarray]


class Activation(NamedTuple):
    """An activation function φ: its values, its slope φ' (off the kinks), its range, and where it bends.

    `leak` is given for the homogeneous ones alone, φ(x) = max(x, 0) + leak · min(x, 0), that have closed forms.
    """

    value: Function
    slope: Function
    low: float = -np.inf
    high: float = np.inf
    bends: tuple[float, ...] = (0.0,)
    leak: float | None = None


def leaky_relu(leak: float) -> Activation:
    """Return max(x, 0) + leak · min(x, 0) for a leak from -1 to 1: 0 is "relu", 1 is "linear", -1 is |x|."""
    if not -1 <= leak <= 1:
        raise ValueError(f"leak is {leak!r}; it takes a number from -1 to 1")
    return Activation(
        lambda x: np.maximum(x, 0) + leak * np.minimum(x, 0),
        lambda x: np.where(x > 0, 1.0, leak),
        low=0.0 if leak <= 0 else -np.inf,
        leak=float(leak),
    )


def named(activation: str | Activation) -> Activation:
    """Return the activation of that name, or what is one already.

    Raises ValueError for an unknown name, and for an empty range or bends that are not finite.
    """
    if isinstance(activation, Activation):
        if not activation.low < activation.high or not np.isfinite(activation.bends).all():
            raise ValueError(f"activation is {activation!r}; it takes a range that is not empty, and finite bends")
        return activation
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; it takes an Activation or one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[activation]


def _sech_squared(x: np.ndarray) -> np.ndarray:
    small = np.exp(-2 * np.abs(x))
    return 4 * small / (1 + small) ** 2


ACTIVATIONS = {
    "tanh": Activation(np.tanh, _sech_squared, -1.0, 1.0),
    "sigmoid": Activation(lambda x: (1 + np.tanh(x / 2)) / 2, lambda x: _sech_squared(x / 2) / 4, 0.0, 1.0),
    "erf": Activation(erf, lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2)), -1.0, 1.0),
    "softsign": Activation(lambda x: x / (1 + np.abs(x)), lambda x: (1 + np.abs(x)) ** -2.0, -1.0, 1.0),
    "hard_tanh": Activation(lambda x: np.clip(x, -1, 1), lambda x: (np.abs(x) < 1) * 1.0, -1.0, 1.0, bends=(-1.0, 1.0)),
    "relu": leaky_relu(0.0),
    "leaky_relu": leaky_relu(0.01),  # the slope of the libraries
    "elu": Activation(
        lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), lambda x: np.exp(np.minimum(x, 0)), -1.0
    ),
    "softplus": Activation(lambda x: np.logaddexp(0, x), expit, 0.0),
    # x Φ(x), not the approximation by tanh; least at x = -0.7518
    "gelu": Activation(
        lambda x: x * ndtr(x),
        lambda x: ndtr(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi),
        low=-0.16997120747,
    ),
    # x times the logistic sigmoid; least at x = -1.2785
    "silu": Activation(lambda x: x * expit(x), lambda x: expit(x) + x * _sech_squared(x / 2) / 4, low=-0.27846454276),
    "linear": leaky_relu(1.0),
}
ACTIVATIONS["identity"] = ACTIVATIONS["linear"]
