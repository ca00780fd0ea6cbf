"""How quiet the units of one random ReLU layer are on Gaussian inputs: their dormancy scores, in closed form.

With x ~ N(0, I) a unit's sum u = w·x + b is N(b, σ²), σ = ‖w‖, and E relu(u) = σ φ(b/σ) + b Φ(b/σ), E relu(u)² =
(σ² + b²) Φ(b/σ) + b σ φ(b/σ), φ and Φ the density and distribution function of N(0, 1). A score is a unit's mean
activity over the layer's (Sokar et al. 2023, arXiv 2302.12902, definition 3.1). Without biases it is ‖w‖ over the mean
norm: of n Gaussian weights each, ‖w‖ follows the chi law, whose relative deviation is 1/√(2n) for large n.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs


def layer_scores(
    norms: Float[np.ndarray, "neuron"], biases: Float[np.ndarray, "neuron"]
) -> Float[np.ndarray, "neuron"]:
    """Return each unit's score: its mean activity over that of the layer. NaN for NaN.

    Raises ValueError for a norm that is not positive, and for shapes that do not agree.
    """
    mean, _ = _moments(norms, biases)
    return mean / mean.mean()


def score_errors(
    norms: Float[np.ndarray, "neuron"], biases: Float[np.ndarray, "neuron"], samples: float
) -> Float[np.ndarray, "neuron"]:
    """Return the standard error of each score from that many independent inputs, that of the layer's mean left out.

    A unit's activity over its expectation has that deviation. NaN for NaN. Raises ValueError as `layer_scores`, and for
    fewer than two samples.
    """
    mean, square = _moments(norms, biases)
    count = inputs.number("samples", samples, low=2.0)
    return np.sqrt(np.maximum(square - mean**2, 0) / count) / mean.mean()


def relative_deviation(fan_in: float) -> float:
    """Return the relative standard deviation of the norm of `fan_in` Gaussian weights: about 1/√(2 fan_in).

    NaN for NaN. Raises ValueError for a fan_in below 1.
    """
    from scipy.special import gammaln

    count = inputs.number("fan_in", fan_in, low=1.0)
    mean_square = 2 * np.exp(2 * (gammaln((count + 1) / 2) - gammaln(count / 2)))  # of the chi law, (E‖w‖)²
    return float(np.sqrt(count / mean_square - 1))


def _moments(norms: object, biases: object) -> tuple[np.ndarray, np.ndarray]:
    """The mean of relu(N(b, σ²)) and of its square."""
    from scipy.special import ndtr

    sigma = inputs.array("norms", norms, 1)
    b = inputs.vector("biases", biases, len(sigma), "norms")
    if (sigma <= 0).any():
        raise ValueError(f"norms has the entry {sigma.min():g}; it takes positive numbers")
    density = np.exp(-((b / sigma) ** 2) / 2) / np.sqrt(2 * np.pi)
    below = ndtr(b / sigma)
    return sigma * density + b * below, (sigma**2 + b**2) * below + b * sigma * density
