"""How much of the largest margin steepest descent can still miss after t steps, in any norm.

Descent on f(w) = ln Σ exp(−z_i·w) over N vectors z takes steps of length η_s in a norm. Its gradient has dual norm at
least γ, the largest margin, since the mean −∇f of the z_i makes at least γ with the direction of that margin; and f has
curvature at most R², R the largest dual norm of a z. So f, which starts at ln N and is at least minus the least z·w,
falls to ln N − γ Σ η + R² Σ η²/2 or below, while ‖w‖ is at most Σ η.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs


def power_sum(step: Float[np.ndarray, "step"], exponent: float) -> Float[np.ndarray, "step"]:
    """Return Σ s^-exponent for s = 1, …, t at each of the steps t; NaN where t, or the exponent, is.

    Raises ValueError for steps that are not whole numbers from 1.
    """
    step, exponent = inputs.array("step", step, 1), inputs.number("exponent", exponent)
    known = step[~np.isnan(step)]
    if (known < 1).any() or (known != np.rint(known)).any():
        raise ValueError(f"step has the entry {known[(known < 1) | (known != np.rint(known))][0]:g}; it takes 1, 2, …")
    if not known.size:
        return np.full(step.shape, np.nan)
    sums = np.cumsum(np.arange(1, int(known.max()) + 1.0) ** -exponent)
    return np.where(np.isnan(step), np.nan, sums[np.nan_to_num(step, nan=1).astype(int) - 1])


def margin_gap_bound(
    step: Float[np.ndarray, "step"], learning_rate: float, exponent: float, vectors: float, width: float
) -> Float[np.ndarray, "step"]:
    """Return (ln N + Σ η²/2)/(width·Σ η), η_s = learning_rate·s^-exponent: the share of the margin missing at most.

    Lengths are in units of 1/R: η in steps of that length, and `width` = γ/R. N = `vectors`. For η ∝ s^-1/2 it falls as
    ln t/√t. NaN where an argument is. Raises ValueError for a learning_rate or width that is not positive, vectors < 1,
    and as `power_sum` does.
    """
    rate, width = inputs.number("learning_rate", learning_rate, low=0.0), inputs.number("width", width, low=0.0)
    vectors = inputs.number("vectors", vectors, low=1.0)
    for name, value in (("learning_rate", rate), ("width", width)):
        if value == 0:
            raise ValueError(f"{name} is 0; it takes a number above 0")
    squares = rate**2 * power_sum(step, 2 * exponent)
    return np.asarray((np.log(vectors) + squares / 2) / (width * rate * power_sum(step, exponent)))
