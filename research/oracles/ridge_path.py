"""What ridge costs on average at each strength, for given inputs, and at which strength it costs least.

y = Xβ + ε with ε ~ N(0, noise²) and a β that is itself random, N(0, signal²/d) in each of its d entries. Ridge
minimises 1/(2n)·||Xw - y||² + strength/2·||w||². The risk is the mean of ||w - β||² over β and ε: what new inputs with
the identity as covariance see, without the noise of their targets.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs


class Risk(NamedTuple):
    """Squared bias and variance of the weights."""

    bias: float
    variance: float


def path_risk(X: Float[np.ndarray, "sample feature"], strength: float, signal: float, noise: float) -> Risk:
    """Return bias² signal²/d · Σ (λ/(s + λ))² and variance noise²/n · Σ s/(s + λ)², s the d eigenvalues of XᵀX/n.

    NaN for NaN. Raises ValueError for a strength that is not positive, negative signal or noise and infinite entries.
    """
    X = inputs.array("X", X, 2)
    strength, signal, noise = (
        inputs.number(name, value, low=low)
        for name, value, low in (("strength", strength, 1e-300), ("signal", signal, 0.0), ("noise", noise, 0.0))
    )
    if np.isnan(X).any() or np.isnan([strength, signal, noise]).any():
        return Risk(float("nan"), float("nan"))
    n, d = X.shape
    s = np.zeros(d)
    s[: min(n, d)] = np.linalg.svd(X, compute_uv=False) ** 2 / n
    bias = signal**2 / d * ((strength / (s + strength)) ** 2).sum()
    return Risk(float(bias), float(noise**2 / n * (s / (s + strength) ** 2).sum()))


def best_strength(features: float, samples: float, signal: float, noise: float) -> float:
    """Return noise² d/(n signal²), at which the risk is least for every X: ridge is then the mean of β given y.

    Hoerl & Kennard 1970; in Gaussian terms, precision of the prior over that of the data. NaN for NaN. Raises
    ValueError for numbers that are not positive.
    """
    numbers = [
        inputs.number(name, value, low=1e-300)
        for name, value in (("features", features), ("samples", samples), ("signal", signal), ("noise", noise))
    ]
    return float(numbers[3] ** 2 * numbers[0] / (numbers[1] * numbers[2] ** 2))
