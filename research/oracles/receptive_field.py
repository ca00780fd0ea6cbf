"""Which inputs a unit of a convolutional network can see, and how its sensitivity is spread over them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs


class Field(NamedTuple):
    """Along one axis: how many inputs a unit sees, how far apart neighbours' are, and where those of unit 0 begin.

    `start` is negative where padding is seen. `variance` is that of the place of an input, weighted with its effect,
    where all weights are one and nothing is rectified.
    """

    size: float
    jump: float
    start: float
    variance: float


def receptive_field(
    kernels: Float[np.ndarray, "layer"], strides: Float[np.ndarray, "layer"], paddings: Float[np.ndarray, "layer"]
) -> Field:
    """Return the field of a unit behind layers with these filters (or pooling windows), strides and paddings in front.

    r = r' + (k − 1) j', j = j' s, start = start' − p j', from r = j = 1 and start = 0 (Araujo, Norris & Sim 2019,
    "Computing receptive fields of convolutional neural networks", Distill, equations 1 and 2). Unit i sees the inputs
    from start + i·j to start + i·j + r − 1, all of them where no stride is larger than the filter it belongs to.
    The effect of weights one is a convolution of boxes of k spikes at distance j', which have the variance
    j'² (k² − 1)/12 each, and variances add: Luo et al. 2016, arXiv 1701.04128. NaN in gives NaN out. Raises ValueError
    for sizes that are no whole numbers, filters and strides below 1 and paddings below 0.
    """
    columns = [inputs.array("kernels", kernels, 1)]
    columns += [
        inputs.vector(*each, len(columns[0]), "kernels") for each in (("strides", strides), ("paddings", paddings))
    ]
    if any(np.isnan(each).any() for each in columns):
        return Field(*[float("nan")] * 4)
    for name, values, least in zip(("kernels", "strides", "paddings"), columns, (1, 1, 0), strict=True):
        if (values < least).any() or (values != np.rint(values)).any():
            raise ValueError(f"{name} is {values}; it takes whole numbers from {least}")
    size, jump, start, variance = 1.0, 1.0, 0.0, 0.0
    for kernel, stride, padding in zip(*columns, strict=True):
        size += (kernel - 1) * jump
        start -= padding * jump
        variance += jump**2 * (kernel**2 - 1) / 12
        jump *= stride
    return Field(float(size), float(jump), float(start), float(variance))
