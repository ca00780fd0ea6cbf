"""What can fit parity, the product of signs: linear models by linear programs, ReLU networks for XOR by counting.

XOR is parity of two signs: the corners ±(1, 1) belong to one class, ±(1, -1) to the other.
"""

from itertools import combinations

import numpy as np
from jaxtyping import Float

from research.oracles import inputs
from research.oracles.margin import separable

KINDS = 4  # a hidden unit's: sign of its output weight, and which of the two corners of that sign it is active on


def best_linear_share(X: Float[np.ndarray, "corner bit"], y: Float[np.ndarray, "corner"]) -> float:
    """Return the largest share of samples that w·x + b gets strictly right, over all w and b.

    Leaves out samples, one more at a time, until a linear program finds the rest separable; each "no" and the "yes" are
    proved as `separable` says. Meant for 16 samples at most. NaN for NaN. Raises ValueError for labels other than ±1.
    """
    X, y = inputs.classification(X, y)
    if np.isnan(X).any() or np.isnan(y).any():
        return float("nan")
    Z = np.column_stack([X, np.ones(len(X))])
    for left_out in range(len(y)):
        for some in combinations(range(len(y)), left_out):
            if separable(np.delete(Z, some, axis=0), np.delete(y, some)):
                return 1 - left_out / len(y)
    return 0.0


def fits_xor(input_weights: Float[np.ndarray, "bit unit"], output_weights: Float[np.ndarray, "unit"]) -> float:
    """Return 1 where gradient flow of Σ_j a_j relu(w_j·x) from these weights comes to fit XOR (y = -x_1 x_2), else 0.

    Along the flow of a decreasing loss, if no a_j changes its sign (it cannot where |a_j| >= ‖w_j‖: a² - ‖w‖² is
    conserved, Du, Hu & Lee 2018, arXiv 1806.00900): (1, 1) ⟂ (1, -1), so that a unit with a_j > 0 moves along its part
    on (1, -1) away from zero and keeps the corner ±(1, -1) that it is active on; with a_j < 0 likewise ±(1, 1). A
    corner none of whose own units is active is never right: all that it hears has the wrong sign or is zero. Hence all
    four kinds of units must be there at the start, and then they are enough.
    Units whose weights are all zero are none. NaN for NaN. Raises ValueError for other than two inputs.
    """
    W = inputs.array("input_weights", input_weights, 2)
    if len(W) != 2:
        raise ValueError(f"input_weights has {len(W)} rows; it takes 2, those of XOR")
    a = inputs.vector("output_weights", output_weights, W.shape[1], "input_weights has columns")
    if np.isnan(W).any() or np.isnan(a).any():
        return float("nan")
    own = np.where(a > 0, W[0] - W[1], W[0] + W[1])
    kinds = {(sign, side) for sign, side in zip(np.sign(a), np.sign(own), strict=True) if sign and side}
    return float(len(kinds) == KINDS)


def all_kinds_share(units: float) -> float:
    """Return the share of random starts in which all four kinds are there: Σ_j (-1)^j C(4, j) (1 - j/4)^units.

    The coupon collector's law: signs of output weights are fair, and the input weights' law is isotropic. 0 below 4.
    NaN for NaN. Raises ValueError for less than one unit.
    """
    units = inputs.number("units", units, low=1.0)
    return float(sum(sign * (1 - j / 4) ** units for j, sign in enumerate((1, -4, 6, -4))))
