"""What dropout of the inputs of a linear model says of its uncertainty at prediction, and what the posterior says.

Every input is kept with probability 1 - drop and then divided by it. The posterior is that of y = x·w + noise·N(0, 1)
under the prior w ~ N(0, prior_variance), Bayesian linear regression: a Gaussian process of kernel prior_variance x·x'.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs


class Posterior(NamedTuple):
    """Mean and variance of the function x·w, without the noise of a new measurement, at each place."""

    mean: Float[np.ndarray, "place"]
    variance: Float[np.ndarray, "place"]


def pass_variance(
    places: Float[np.ndarray, "place feature"], weights: Float[np.ndarray, "feature"], drop: float
) -> Float[np.ndarray, "place"]:
    """Return the variance of x·(m∘w)/(1 - drop) over the masks m: drop/(1 - drop)·Σ x_j² w_j².

    NaN in gives NaN. Raises ValueError for a drop outside [0, 1) and shapes that do not agree.
    """
    X = inputs.array("places", places, 2)
    w = inputs.vector("weights", weights, X.shape[1], "places has columns")
    drop = inputs.number("drop", drop, low=0.0, below=1.0)
    return drop / (1 - drop) * X**2 @ w**2


def variance_error(
    places: Float[np.ndarray, "place feature"], weights: Float[np.ndarray, "feature"], drop: float, passes: float
) -> Float[np.ndarray, "place"]:
    """Return the standard error of the (unbiased) sample variance of so many passes: √(σ⁴·2/(T - 1) + κ₄/T).

    κ₄ is the fourth cumulant, a sum over the inputs: that of a mask is pq(1 - 6pq), each of a_j⁴ = (x_j w_j/q)⁴.
    NaN in gives NaN. Raises ValueError for fewer than 2 passes, and as `pass_variance`.
    """
    variance = pass_variance(places, weights, drop)
    count = inputs.number("passes", passes, low=2.0)
    spread = drop * (1 - drop)
    fourth = spread * (1 - 6 * spread) * ((np.asarray(places) * weights / (1 - drop)) ** 4).sum(axis=1)
    return np.sqrt(2 * variance**2 / (count - 1) + fourth / count)


def function_posterior(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    places: Float[np.ndarray, "place feature"],
    noise: float,
    prior_variance: float,
) -> Posterior:
    """Return the posterior of the function at `places` (Rasmussen & Williams 2006, equations 2.8 and 2.9).

    NaN in gives NaN. Raises ValueError for a noise or prior variance that is not positive and shapes that do not agree.
    """
    X, y = inputs.regression(X, y)
    Z = inputs.array("places", places, 2)
    square = inputs.number("noise", noise, low=0.0) ** 2
    prior = inputs.number("prior_variance", prior_variance, low=0.0)
    if square == 0 or prior == 0:
        raise ValueError(f"noise is {noise:g} and prior_variance {prior:g}; they take positive numbers")
    if Z.shape[1] != X.shape[1]:
        raise ValueError(f"places has {Z.shape[1]} columns; it takes as many as X, {X.shape[1]}")
    if np.isnan(X).any() or np.isnan(y).any() or np.isnan([square, prior]).any() or np.isnan(Z).any():
        return Posterior(np.full(len(Z), np.nan), np.full(len(Z), np.nan))
    precision = X.T @ X / square + np.eye(X.shape[1]) / prior
    return Posterior(
        Z @ np.linalg.solve(precision, X.T @ y) / square, (Z * np.linalg.solve(precision, Z.T).T).sum(axis=1)
    )
