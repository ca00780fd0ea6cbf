"""A strongly convex function on which the heavy ball, tuned for quadratics, goes round for ever.

Lessard, Recht & Packard 2016, arXiv 1408.3595: f'(x) = 25x for x < 1, x + 24 for 1 <= x < 2, 25x − 24 from 2 on, so
that m = 1 and L = 25; the heavy ball has η = 4/(√L + √m)² = 1/9 and β = ((√L − √m)/(√L + √m))² = 4/9.
"""

from fractions import Fraction

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RATE, MOMENTUM = Fraction(1, 9), Fraction(4, 9)
PIECES = ((Fraction(25), Fraction(0)), (Fraction(1), Fraction(24)), (Fraction(25), Fraction(-24)))


def gradient(x: Fraction) -> Fraction:
    """Return f'(x)."""
    slope, offset = PIECES[int(x >= 1) + int(x >= 2)]
    return slope * x + offset


def three_cycle() -> Float[np.ndarray, "place"]:
    """Return the three points of the cycle in the order in which they are visited, the smallest first.

    The linear equations of one round, with two points in the first piece and one in the last, solved in fractions.
    Certificate: three exact steps lead back to where they began, else NaN. Attractive: both roots of each of the three
    steps are −2/3 (see `contraction`).
    """
    solution = _cycle_by_elimination((2, 0, 0))
    x = [solution[0], solution[1]]
    for _ in range(3):
        x.append((1 + MOMENTUM) * x[-1] - MOMENTUM * x[-2] - RATE * gradient(x[-1]))
    exact = x[2:5] == [solution[2], solution[0], solution[1]]
    points = np.array([float(each) for each in solution])
    return np.roll(points, -int(points.argmin())) if exact else np.full(3, np.nan)


def contraction() -> float:
    """Return the spectral radius of one round of the cycle: what three steps leave of a small distance."""
    step = lambda slope: np.array([[float(1 + MOMENTUM - RATE * slope), -float(MOMENTUM)], [1.0, 0.0]])
    whole = step(PIECES[0][0]) @ step(PIECES[0][0]) @ step(PIECES[2][0])
    return float(np.abs(np.linalg.eigvals(whole)).max())


def descent_bound(
    initial: Float[np.ndarray, "start"], steps: Float[np.ndarray, "step"], smallest: float = 1.0, largest: float = 25.0
) -> Float[np.ndarray, "step start"]:
    """Return |x_0| ((κ − 1)/(κ + 1))^t, what gradient descent at η = 2/(L + m) stays below from every start.

    For every function with m <= f'' <= L and the minimum 0 (Nesterov 2004, theorem 2.1.15). NaN for NaN. Raises
    ValueError unless 0 < smallest <= largest, and for steps below 0.
    """
    initial, steps = inputs.array("initial", initial, 1), inputs.array("steps", steps, 1)
    m, L = inputs.number("smallest", smallest, low=0.0), inputs.number("largest", largest, low=0.0)
    if m == 0 or m > L:
        raise ValueError(f"smallest is {m:g} and largest {L:g}; it takes 0 < smallest <= largest")
    if (steps < 0).any():
        raise ValueError(f"steps has the entry {steps.min():g}; it takes numbers from 0")
    return np.abs(initial)[None, :] * ((L - m) / (L + m)) ** steps[:, None]


def _cycle_by_elimination(pieces: tuple[int, int, int]) -> list[Fraction]:
    """Return x with x_{i+1} = (1 + β)x_i − βx_{i−1} − η(slope_i x_i + offset_i) around three places."""
    rows = []
    for i, piece in enumerate(pieces):
        slope, offset = PIECES[piece]
        row = [Fraction(0)] * 4
        row[(i + 1) % 3] += 1
        row[i] -= 1 + MOMENTUM - RATE * slope
        row[(i - 1) % 3] += MOMENTUM
        row[3] = -RATE * offset
        rows.append(row)
    for i in range(3):
        rows[i] = [entry / rows[i][i] for entry in rows[i]]
        for other in range(3):
            if other != i:
                rows[other] = [a - rows[other][i] * b for a, b in zip(rows[other], rows[i], strict=True)]
    return [row[3] for row in rows]
