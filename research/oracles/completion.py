"""What fitting three entries of a 2 × 2 matrix forces on the fourth while the determinant is not negative.

The matrix is [[W11, W12], [W21, W22]]; W12 = W21 = 1 and W22 = `corner` are observed, with the loss
((W12 − 1)² + (W21 − 1)² + (W22 − corner)²)/2. Razin & Cohen 2020, arXiv 2005.06398, Theorem 1, is corner = 0.
"""

import math

import numpy as np

from research.oracles import inputs

RESIDUAL_BOUND = 1e-12
LEAST_NUCLEAR_NORM = 2.0  # of the completions: (W11 − corner)² + 4 is its square where W11 · corner <= 1


def least_unobserved(loss: float, corner: float = 0.0) -> float:
    """Return the least |W11| of all matrices of determinant >= 0 whose loss is at most `loss`; for `loss` 0 its limit.

    With W12, W21 > 0 a determinant >= 0 asks |W11| >= W12 W21/|W22|. On the ball of radius ρ = √(2 loss) that is least
    where W12 = W21 = 1 − p and |W22| = |corner| + q, with 2p² + q² = ρ² and p (1 − p) = q (|corner| + q): one root. It
    goes as 1/√(2 loss) for corner = 0, and to 1/|corner| else. From loss = 1/4 on W12 and W21 need not be equal at the
    minimum: NaN, as for NaN.

    Certificate: the stationarity residual |p (1 − p) − q (|corner| + q)| at most 1e-12 of its terms, else NaN.
    Raises ValueError for a negative loss and infinite arguments.
    """
    from scipy.optimize import brentq

    loss, corner = inputs.number("loss", loss, low=0.0), abs(inputs.number("corner", corner))
    if not loss < 0.25 or math.isnan(corner):
        return math.nan
    if loss == 0:
        return 1 / corner if corner else math.inf
    square = 2 * loss
    across = lambda p: math.sqrt(max(square - 2 * p * p, 0.0))
    p = 2 * square / (math.sqrt(1 + 4 * square) + 1)  # the root for corner = 0, in the form that does not cancel
    if corner:
        # It grows with p: at the root above it is −corner · across <= 0, at p = ρ/√2 it is p (1 − p) > 0.
        balance = lambda p: p + p * p - square - corner * across(p)
        p = brentq(balance, p, math.sqrt(loss), xtol=1e-300, rtol=1e-15) if balance(p) < 0 else p
    q = across(p)
    if abs(p * (1 - p) - q * (corner + q)) > RESIDUAL_BOUND * (p + q):
        return math.nan
    return (1 - p) ** 2 / (corner + q)


def largest_effective_rank(loss: float) -> float:
    """Return a bound on the effective rank of a matrix of determinant >= 0 with that loss, for corner = 0.

    Zeroing W22 − W12 W21/W11, which lies between 0 and W22, leaves rank one: so σ2 <= √(2 loss), while σ1 >= |W11|. The
    effective rank, exp of the entropy of the singular values over their sum, grows with σ2/σ1. Certificate and errors
    as `least_unobserved`; NaN too where the two bounds cross, so that 2 is all that is known.
    """
    first, second = least_unobserved(loss), math.sqrt(2 * float(loss))
    if math.isinf(first):
        return 1.0
    share = second / (first + second)
    if not share <= 0.5:
        return math.nan
    return math.exp(-share * math.log(share) - (1 - share) * math.log1p(-share))


def valley_growth(time: float, depth: int) -> float:
    """Return |W11| on the gradient flow of a balanced product of `depth` matrices from determinant > 0, at late times.

    On the valley floor the matrix is σ u uᵀ (up to sign) with u within 1/σ of the first axis, and the loss 1/(2σ²) up
    to a factor 1 + O(σ⁻²). A balanced product moves a singular value by dσ/dt = −depth · σ^(2 − 2/depth) dloss/dσ
    (Arora et al. 2019, arXiv 1905.13655, Theorem 3) = depth · σ^(−1 − 2/depth), which integrates to
    σ^(2 + 2/depth) = (2 depth + 2)(t + constant). The constant is left out.

    Raises ValueError for a negative time and a depth below 2.
    """
    time, depth = inputs.number("time", time, low=0.0), int(inputs.number("depth", depth, low=2))
    return float(np.power((2 * depth + 2) * time, depth / (2 * depth + 2)))
