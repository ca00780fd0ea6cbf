"""What weight decay does to the singular values of a product of L layers: the Schatten quasi-norm of order 2/L.

The objective is 1/2·||W_L…W_1 - Y||² + λ/2·Σ_l ||W_l||² (sums, Frobenius). Over all factorisations of W the penalty is
at least λL/2·Σ σ^(2/L), with equality where the layers are balanced, each with the singular values σ^(1/L) (arithmetic
and geometric mean; Dai, Karzand & Srebro 2021 and the references there). The problem then splits over the singular
values s of Y into 1/2·(σ - s)² + λL/2·σ^(2/L), `size` in what follows.
"""

from typing import NamedTuple

import numpy as np

from research.oracles import inputs

RESIDUAL_BOUND = 1e-10


class Sizes(NamedTuple):
    """The sizes at which one mode may rest, and where it ends from the initial size asked for."""

    barrier: float
    upper: float
    best: float
    end: float


def resting_sizes(target: float, weight_decay: float, depth: float, initial: float = np.inf) -> Sizes:
    """Return where the size σ of a mode of singular value s = `target` may rest under weight decay λ at this depth L.

    Depth 1: s/(1 + λ) (ridge). Depth 2: max(s - λ, 0), from every start but zero (soft thresholding). There `barrier`
    is 0. Depth 3 and more: zero is always a local minimum, and the roots of σ - s + λ·σ^(2/L-1) are another one,
    `upper`, and between the two the `barrier` that parts their basins; without roots they are 0 and infinity. `best` is
    the global minimiser, by the values of the objective at 0 and at `upper`. `end` is where gradient flow ends from the
    size `initial` of balanced and aligned layers: a = σ^(1/L) follows a' = -L·(a^L - s)·a^(L-1) - L·λ·a up to a factor,
    which has a single sign between rest points. The roots are bracketed on either side of the minimum of their
    equation, at σ = (λ·(1 - 2/L))^(1/(2 - 2/L)), and found by Brent's method.

    Certificate: the equation at both roots at most 1e-10 of its terms, else NaN. NaN in gives NaN.
    Raises ValueError for a negative target, initial size or weight decay, and a depth that is no positive integer.
    """
    from scipy.optimize import brentq

    s, decay = inputs.number("target", target, low=0.0), inputs.number("weight_decay", weight_decay, low=0.0)
    L = inputs.number("depth", depth, low=1.0)
    start = np.inf if initial == np.inf else inputs.number("initial", initial, low=0.0)
    if np.isnan([s, decay, L, start]).any():
        return Sizes(*[float("nan")] * 4)
    if round(L) != L:
        raise ValueError(f"depth is {L:g}; it takes a positive integer")
    if L <= 2 or decay == 0:
        rest = s / (1 + decay) if L == 1 else max(s - decay, 0.0)
        return Sizes(0.0, rest, rest, rest if start > 0 or L == 1 else 0.0)
    equation = lambda size: size - s + decay * size ** (2 / L - 1)
    turn = (decay * (1 - 2 / L)) ** (1 / (2 - 2 / L))
    if s == 0 or equation(turn) >= 0:
        return Sizes(float("inf"), 0.0, 0.0, 0.0)
    lower = brentq(equation, (decay / s) ** (1 / (1 - 2 / L)), turn, xtol=1e-300, rtol=1e-14, maxiter=1000)
    upper = brentq(equation, turn, s, xtol=1e-300, rtol=1e-14, maxiter=1000)
    if max(abs(equation(lower)), abs(equation(upper))) > RESIDUAL_BOUND * (s + 1):
        return Sizes(*[float("nan")] * 4)
    best = upper if objective(upper, s, decay, L) < objective(0.0, s, decay, L) else 0.0
    return Sizes(lower, upper, best, upper if start > lower else lower if start == lower else 0.0)


def objective(size: float, target: float, weight_decay: float, depth: float) -> float:
    """Return 1/2·(σ - s)² + λL/2·σ^(2/L), the least objective of layers whose product has the size σ in this mode."""
    return (size - target) ** 2 / 2 + weight_decay * depth / 2 * size ** (2 / depth)
