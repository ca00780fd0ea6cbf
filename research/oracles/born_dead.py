"""How likely a ReLU network is born dead: by some hidden layer no unit is active, so that no input passes.

Given the layer below, units with independent symmetric weights (and biases) are inactive at an input with probability
1/2 each, so that each layer of n units dies there with probability 2⁻ⁿ, whatever came before: at one input, the law of
Lu, Shin, Su & Karniadakis 2020 (arXiv 1903.06733; a bound for all inputs at once) is exact.

With one input feature and no biases a network is linear on either half-line, and all inputs are two: x = 1 and x = -1.
In the first layer a unit is active on one of them exactly; so the second layer sees two inputs of disjoint support,
whose signs are independent (closed form). From then on both are non-negative vectors, on which a unit with
independent weights is inactive together with probability p >= 1/4 (Harris's inequality) and p <= 1/2. The probability
of death rises with p, as both half-lines are alive with probability at least 0: p = 1/4 and 1/2 bracket it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs


class Bracket(NamedTuple):
    """Between what the probability of death lies, by layer (from the first one)."""

    least: Float[np.ndarray, "layer"]
    most: Float[np.ndarray, "layer"]


def point_death(width: float, layers: int, inactive: float = 0.5) -> Float[np.ndarray, "layer"]:
    """Return 1 - (1 - inactiveʷ)ˡ for l = 1, …, `layers` of that width: the probability of death at one input.

    `inactive` is that of one unit, 1/2 for symmetric weights. NaN for NaN. Raises ValueError for fewer than one unit or
    layer, and for an `inactive` outside [0, 1].
    """
    units, chance, depth = _numbers(width, layers, inactive)
    return -np.expm1(np.arange(1, depth + 1) * np.log1p(-(chance**units)))


def line_death(width: float, layers: int) -> Bracket:
    """Return the bracket of the probability of death for all inputs at once, one feature and no biases.

    Its ends are equal in the first layer, 0, and in the second, 2·4⁻ʷ + (1 - 2¹⁻ʷ)·4⁻ʷ. NaN for NaN.
    Raises ValueError as `point_death` does.
    """
    units, _, depth = _numbers(width, layers, 0.5)
    ends = []
    for later in (0.25, 0.5):
        one = 2.0 ** (1 - units)
        alive = np.array([1 - one, one, 0.0])  # both half-lines, one of them, none
        path = [0.0]
        for layer in range(1, depth):
            together, single = (0.25 if layer == 1 else later) ** units, 0.5**units
            half = 2 * (single - together)
            move = np.array([[1 - half - together, half, together], [0.0, 1 - single, single], [0.0, 0.0, 1.0]])
            alive = alive @ move
            path.append(float(alive[2]))
        ends.append(np.array(path) * units / units)
    return Bracket(*ends)


def _numbers(width: float, layers: int, inactive: float) -> tuple[float, float, int]:
    if layers != int(layers) or layers < 1:
        raise ValueError(f"layers is {layers!r}; it takes a whole number from 1")
    chance = inputs.number("inactive", inactive, low=0.0, below=np.nextafter(1.0, 2.0))
    return inputs.number("width", width, low=1.0), chance, int(layers)
