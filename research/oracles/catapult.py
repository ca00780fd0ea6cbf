"""Gradient descent on one datum by a linear network with one hidden layer: two numbers follow their own recursion.

f = u·v/√width, loss (f - target)²/2 (half), curvature λ = (|u|² + |v|²)/width, the squared length of ∂f/∂(u, v) and so
the only eigenvalue of the tangent kernel; at a minimum it is the only eigenvalue of the Hessian that is not zero. One
step u - η·g·v/√width, v - η·g·u/√width, with g = f - target, gives, by multiplying out,

    f' = f·(1 + η²g²/width) - η·g·λ,        λ' = λ·(1 + η²g²/width) - 4·η·g·f/width

(Lewkowycz et al. 2020, arXiv 2003.02218, section 2, for target 0).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

SLACK = 1e-9  # of |f| <= √width·λ/2, for inputs that were rounded


class Path(NamedTuple):
    """The output f and the curvature λ at the steps asked for."""

    outputs: Float[np.ndarray, "step"]
    curvatures: Float[np.ndarray, "step"]


class Thresholds(NamedTuple):
    """Learning rates in units of 1/λ0: above the first the loss rises at once, above the second it diverges."""

    spike: float
    divergence: float


def catapult_path(
    initial_output: float,
    initial_curvature: float,
    learning_rate: float,
    width: float,
    target: float,
    at: Float[np.ndarray, "step"],
) -> Path:
    """Return f and λ after `at` steps (whole, increasing, from 0) of gradient descent, by the exact recursion.

    Where a number overflows, it and what follows is NaN. NaN throughout for what no network has: |f| > √width·λ/2.
    Raises ValueError for a negative curvature, learning rate or step, a width below 1 and steps that do not increase.
    """
    f, curvature, width, target = _start(initial_output, initial_curvature, width, target)
    rate = inputs.number("learning_rate", learning_rate, low=0.0)
    steps = inputs.array("at", at, 1)
    if np.isnan(steps).any() or (steps < 0).any() or (steps % 1).any() or (np.diff(steps) <= 0).any():
        raise ValueError(f"at is {steps}; it takes whole numbers of steps that increase from 0 or more")
    path = np.full((2, len(steps)), np.nan)
    if np.isnan([f, curvature, rate, width, target]).any():
        return Path(*path)
    place = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(int(steps[-1]) + 1):
            if not np.isfinite(f) or not np.isfinite(curvature):
                break
            if step == steps[place]:
                path[:, place] = f, curvature
                place += 1
            way = np.float64(rate) * (f - target)
            stretch = 1 + way**2 / width
            f, curvature = f * stretch - way * curvature, curvature * stretch - 4 * way * f / width
    return Path(*path)


def thresholds(initial_output: float, initial_curvature: float, width: float, target: float = 0.0) -> Thresholds:
    """Return the learning rates, in units of 1/λ0, above which the loss rises at once and diverges.

    spike: the first step multiplies g by 1 - a + κ·a², a = ηλ0, κ = g·f/(width·λ0²), which leaves [-1, 1] at
    4/(1 + √(1 - 8κ)) = 2 + 4κ + O(κ²), or for κ > 1/8 at 1/κ; κ = O(1/width) is the correction for a finite width.
    divergence: for target 0 the recursion gives 4 - ηλ' = (4 - ηλ)·(1 + η²f²/width), so the sign of 4 - ηλ never
    changes: the threshold is 4 at every width. For another target it is NaN: there is no such law.
    Raises ValueError for a curvature that is not positive and a width below 1; NaN as `catapult_path`.
    """
    f, curvature, width, target = _start(initial_output, initial_curvature, width, target)
    if not curvature > 0:
        if curvature == 0:
            raise ValueError("initial_curvature is 0; it takes a positive number")
        return Thresholds(float("nan"), float("nan"))
    kappa = (f - target) * f / (width * curvature**2)
    spike = 1 / kappa if kappa > 1 / 8 else 4 / (1 + np.sqrt(1 - 8 * kappa))
    return Thresholds(float(spike), 4.0 if target == 0 else float("nan"))


def _start(
    initial_output: object, initial_curvature: object, width: object, target: object
) -> tuple[float, float, float, float]:
    """Return the four as numbers, the first NaN where |f| > √width·λ/2, so that no weights u and v exist."""
    f, target = inputs.number("initial_output", initial_output), inputs.number("target", target)
    curvature = inputs.number("initial_curvature", initial_curvature, low=0.0)
    width = inputs.number("width", width, low=1.0)
    possible = 2 * abs(f) <= (1 + SLACK) * np.sqrt(width) * curvature
    return (f if possible else float("nan")), (curvature if possible else float("nan")), width, target
