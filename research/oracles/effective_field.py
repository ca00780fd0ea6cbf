"""How far the effective field of a stack of convolutions with positive weights spreads, layer by layer."""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs


def stacked_variance(filters: Float[np.ndarray, "depth tap"]) -> Float[np.ndarray, "depth"]:
    """Return the variance of the place of an input, weighted with its effect on a unit, behind each of the layers.

    Strides are one and nothing is rectified. The effect is the sum over paths of the product of their weights: each
    layer's weights over their sum are the chances of its step, steps are independent, and their variances add (Luo, Li,
    Urtasun & Zemel 2016, arXiv 1701.04128, for weights one: (k² - 1)/12 a layer). NaN in gives NaN. Raises ValueError
    for weights that are negative or of sum zero.
    """
    filters = inputs.array("filters", filters, 2)
    if np.isnan(filters).any():
        return np.full(len(filters), np.nan)
    whole = filters.sum(axis=1, keepdims=True)
    if (filters < 0).any() or (whole <= 0).any():
        raise ValueError(f"filters has the least weight {filters.min():g}; it takes positive ones")
    chances, place = filters / whole, np.arange(filters.shape[1])
    mean = chances @ place
    return np.cumsum(np.sum(chances * (place - mean[:, None]) ** 2, axis=1))
