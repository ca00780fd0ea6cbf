"""What fitting a polynomial by least squares costs on average: bias squared and variance, in closed form.

Targets y = f(x) + noise · N(0, 1) at fixed points x in [-1, 1]; features √(2k + 1)·P_k(x)/(1 + k)^smoothness, k = 0 …
degree, P_k the Legendre polynomials; weights X⁺y: least squares, and of all interpolants the one of least norm where
there are more features than points. Predictions at t are H y with H = T X⁺, so that their mean square error is the mean
of (H f - f)² (bias squared) plus noise² · the mean of Σ_i H_ti² (variance): Hastie, Tibshirani & Friedman 2009, The
Elements of Statistical Learning, section 7.3. The scale of a feature matters to interpolants alone.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RESIDUAL_BOUND = 1e-6


class Risk(NamedTuple):
    """Squared bias and variance of predictions, and the mean squared residual of the fit, averaged over the noise."""

    bias: float
    variance: float
    training: float


def polynomial_risk(
    x: Float[np.ndarray, "sample"],
    values: Float[np.ndarray, "sample"],
    places: Float[np.ndarray, "place"],
    truth: Float[np.ndarray, "place"],
    degree: float,
    noise: float,
    smoothness: float = 0.0,
) -> Risk:
    """Return bias², variance (means over `places`, where f is `truth`) and training error; f is `values` at x.

    Certificate: X X⁺ X = X to 1e-6 (relative), else NaN; NaN for NaN. Raises ValueError for a degree that is not a
    whole number from 0, a negative noise, points outside [-1, 1] and sizes that do not agree.
    """
    x, places = inputs.array("x", x, 1), inputs.array("places", places, 1)
    f = inputs.vector("values", values, len(x), "x has")
    truth = inputs.vector("truth", truth, len(places), "places has")
    degree, noise = inputs.number("degree", degree, low=0.0), inputs.number("noise", noise, low=0.0)
    smoothness = inputs.number("smoothness", smoothness, low=0.0)
    nothing = Risk(float("nan"), float("nan"), float("nan"))
    if np.isnan([*x, *f, *places, *truth, degree, noise, smoothness]).any():
        return nothing
    if degree != int(degree):
        raise ValueError(f"degree is {degree:g}; it takes a whole number")
    for name, points in (("x", x), ("places", places)):
        if np.abs(points).max() > 1:
            raise ValueError(f"{name} goes up to {np.abs(points).max():g} in size; it takes points in [-1, 1]")
    X, T = (features(points, int(degree), smoothness) for points in (x, places))
    inverse = np.linalg.pinv(X, rcond=1e-12)
    if np.abs(X @ inverse @ X - X).max() > RESIDUAL_BOUND * np.abs(X).max():
        return nothing
    hat, fitted = T @ inverse, X @ inverse
    training = ((fitted @ f - f) ** 2).mean() + noise**2 * (1 - np.trace(fitted) / len(x))
    variance = noise**2 * (hat**2).sum(axis=1).mean()
    return Risk(float(((hat @ f - truth) ** 2).mean()), float(variance), float(training))


def features(x: Float[np.ndarray, "sample"], degree: int, smoothness: float) -> Float[np.ndarray, "sample feature"]:
    """Return the features of the points, one row each."""
    k = np.arange(degree + 1)
    return np.polynomial.legendre.legvander(x, degree) * np.sqrt(2 * k + 1) / (1 + k) ** smoothness
