"""What one infinitely wide random layer does to variance, correlation and gradients, and where that comes to rest.

Gaussian pre-activations of variance q go through an activation φ, dropout that keeps a share `keep` of the units, and
weights N(0, weight / width): q' = (weight/keep)·E φ(√q z)² + bias. Two inputs with masks of their own have, at variance
q and 1 - correlation = `apart`, the covariance q'·c' = weight·E φ(u₁)φ(u₂) + bias. For φ(x) = max(x, 0) +
leak·min(x, 0) the expectations are closed forms in the angle θ between the inputs, those of Cho & Saul 2009 ("Kernel
methods for deep learning", section 2): E relu(u₁)·relu(u₂) = q (sin θ + (π - θ) cos θ)/2π, P(u₁, u₂ > 0) = (π - θ)/2π.
"""

import numpy as np

from research.oracles.activations import Activation
from research.oracles.gaussian import ORDER, gaussian_expectation, pair_expectation

SMALLEST, LARGEST = 1e-14, 1e12  # the variances between which a fixed point is looked for


def mean_square(activation: Activation, q: float, order: int = ORDER) -> float:
    """Return E φ(√q z)²."""
    if activation.leak is not None:
        return q * (1 + activation.leak**2) / 2
    return gaussian_expectation(lambda u: activation.value(u) ** 2, q, order, activation.bends)


def mean_square_slope(activation: Activation, q: float, order: int = ORDER) -> float:
    """Return E φ'(√q z)²."""
    if activation.leak is not None:
        return (1 + activation.leak**2) / 2
    return gaussian_expectation(lambda u: activation.slope(u) ** 2, q, order, activation.bends)


def variance_slope(activation: Activation, q: float) -> float:
    """Return d E φ(√q z)²/dq = E u φ(u) φ'(u)/q, which is E φ'² + E φφ'' by partial integration."""
    if activation.leak is not None or q == 0:
        return mean_square_slope(activation, q)
    product = lambda u: u * activation.value(u) * activation.slope(u)
    return gaussian_expectation(product, q, bends=activation.bends) / q


def spread(activation: Activation, q: float, apart: float, keep: float = 1.0, order: int = ORDER) -> float:
    """Return E φ²/keep - E φ(u₁)φ(u₂), without cancellation: weight times it is q'·(1 - c')."""
    noise = (1 / keep - 1) * mean_square(activation, q, order) if keep < 1 else 0.0
    if apart == 0:
        return noise
    if activation.leak is not None:
        angle = 2 * np.arcsin(np.sqrt(apart / 2))
        rectified = (np.pi * apart - np.sin(angle) + angle * np.cos(angle)) / (2 * np.pi)
        return noise + q * (activation.leak * apart + (1 - activation.leak) ** 2 * float(rectified))
    difference = pair_expectation(activation.value, q, apart, product=False, order=order, bends=activation.bends)
    return noise + difference / 2


def covariance_slope(activation: Activation, q: float, apart: float) -> float:
    """Return E φ'(u₁)φ'(u₂), the derivative of E φ(u₁)φ(u₂) with respect to the covariance."""
    if apart == 0:
        return mean_square_slope(activation, q)
    if activation.leak is not None:
        angle = 2 * np.arcsin(np.sqrt(apart / 2))
        return activation.leak + (1 - activation.leak) ** 2 * float(np.pi - angle) / (2 * np.pi)
    return pair_expectation(activation.slope, q, apart, product=True, bends=activation.bends)


def fixed_variance(activation: Activation, gain: float, bias: float, start: float) -> float:
    """Return the first fixed point of q -> gain·E φ² + bias on the way from `start`, infinite where there is none."""
    from scipy.optimize import brentq

    growth = lambda q: (gain * mean_square(activation, q) + bias) / q - 1
    least = min(SMALLEST, (gain * float(activation.value(np.zeros(1))[0]) ** 2 + bias) / 2)
    up = growth(start) > 0
    near = start
    while (far := near * 2 if up else near / 2) and (growth(far) > 0) == up:
        if far > LARGEST:
            return float("inf")
        if far < SMALLEST and least == 0:
            return 0.0
        near = far
    logarithm = brentq(lambda t: growth(np.exp(t)), *sorted(np.log([near, far])), xtol=1e-15, rtol=1e-15)
    return float(np.exp(logarithm))


def fixed_distance(activation: Activation, weight: float, keep: float, q: float) -> float:
    """Return 1 - c* > 0 at the fixed variance q, where the distance of two inputs is mapped to itself.

    The map of the correlation is a power series with coefficients that are not negative, so that it has at most one
    fixed point in [0, 1) (Daniely, Frostig & Singer 2016, arXiv 1602.05897, section 3).
    """
    from scipy.optimize import brentq

    growth = lambda apart: weight * spread(activation, q, apart, keep) / (q * apart) - 1
    if growth(1.0) >= -1e-13:
        return 1.0
    low = 0.25
    while growth(low) < 0 and low > 1e-15:
        low /= 16
    return float(np.exp(brentq(lambda t: growth(np.exp(t)), np.log(low), 0.0, xtol=1e-15, rtol=1e-14)))
