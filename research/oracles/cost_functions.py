"""How long a saturated sigmoid neuron takes to unlearn, by its cost: times of gradient flow in closed form.

The neuron is a = 1/(1 + exp(-z)), z = x·w + b, label 0 and one sample, so that flow moves z along: dz/dt = -s dC/dz
with s = ‖x‖² + 1 (2 for a single input of 1 and a bias). The quadratic cost a²/2 has dC/dz = a²(1 - a), the
cross-entropy -ln(1 - a) has dC/dz = a: Nielsen 2015, Neural Networks and Deep Learning, chapter 3.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RESIDUAL_BOUND = 1e-9
LARGEST = 600.0  # beyond, exp overflows
COSTS = ("quadratic", "cross_entropy")


def half_time(cost: str, z: float, speed: float) -> float:
    """Return the time of gradient flow from z to an output of 1/2, z = 0: ∫ dz / (speed · dC/dz) from 0 to z.

    1/a = 1 + e^-z gives (z + 1 - e^-z)/speed for the cross-entropy, linear in z; 1/(a²(1 - a)) = (1 + e^-z)² (1 + e^z)
    = 3 + 3e^-z + e^-2z + e^z gives (3z + 3(1 - e^-z) + (1 - e^-2z)/2 + e^z - 1)/speed for the quadratic cost, which is
    exponential in z. NaN for NaN. Raises ValueError for another cost, z not in [0, 600), speed not positive.
    """
    z, speed = inputs.number("z", z, low=0.0, below=LARGEST), inputs.number("speed", speed, low=1e-300)
    return float(_integral(_checked(cost), np.array(z)) / speed)


def flow_activations(cost: str, time: Float[np.ndarray, "step"], z: float, speed: float) -> Float[np.ndarray, "step"]:
    """Return the output at those times of the flow from z, the same integrals solved for their lower end.

    Certificate: the time of each answer within 1e-9 of the one asked for (relative), else NaN. NaN for NaN. Raises
    ValueError as `half_time`, and for negative times.
    """
    from scipy.optimize import brentq

    cost, times = _checked(cost), inputs.array("time", time, 1)
    z, speed = inputs.number("z", z, low=-LARGEST, below=LARGEST), inputs.number("speed", speed, low=1e-300)
    if (times < 0).any():
        raise ValueError(f"time is {times.min():g} somewhere; it takes numbers that are not negative")
    if np.isnan([z, speed]).any():
        return np.full(len(times), np.nan)
    begun, answers = float(_integral(cost, np.array(z))), np.full(len(times), np.nan)
    for place, passed in enumerate(speed * times):
        if np.isnan(passed):
            continue
        left = lambda at, passed=passed: float(_integral(cost, np.array(at))) - begun + passed
        low = z - 1.0
        while left(low) > 0:
            low = z - 2 * (z - low)
        at = brentq(left, low, z, xtol=1e-13, rtol=1e-14) if passed else z
        if abs(left(at)) <= RESIDUAL_BOUND * max(abs(begun), passed, 1.0):
            answers[place] = 1 / (1 + np.exp(-at))
    return answers


def _integral(cost: str, z: np.ndarray) -> np.ndarray:
    """Return ∫ dz / (dC/dz) from 0 to z."""
    if cost == "cross_entropy":
        return z - np.expm1(-z)
    return 3 * z - 3 * np.expm1(-z) - np.expm1(-2 * z) / 2 + np.expm1(z)


def _checked(cost: str) -> str:
    if cost not in COSTS:
        raise ValueError(f"cost is {cost!r}; it takes {' or '.join(COSTS)}")
    return cost
