"""How far the Jacobian of a deep random network is from an isometry.

J = D_L W_L … D_1 W_1, D_l the slopes at the pre-activations of layer l, independent of each other and of the weights,
as in wide networks. With μ_k = E φ'^(2k), the eigenvalues of JJᵀ have, over the square of their mean, the variance
L(μ₂/μ₁² - 1) for orthogonal weights and L·μ₂/μ₁² for Gaussian ones (Pennington, Schoenholz & Ganguli 2017, arXiv
1711.04735, equations 17 to 22): none for orthogonal linear networks, and little where all pre-activations lie where φ
is straight.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs
from research.oracles.activations import Activation, named
from research.oracles.gaussian import FINER, ORDER, gaussian_expectation

ERROR_BOUND = 1e-9


def jacobian_spread(
    activation: str | Activation, q: float, width: float, orthogonal: bool, layers: int
) -> Float[np.ndarray, "layer"]:
    """Return E tr (JJᵀ)²/N over E (tr JJᵀ/N)², less 1, after each of that many layers of pre-activation variance q.

    At every width N, for slopes drawn independently. With x = E tr A²/N, y = E (tr A/N)² and a = E Σ A_ii²/N of
    A = W M Wᵀ, and x and y of M = D A D alike: M has x_M = μ₁²x + (μ₂ - μ₁²)a and y_M = μ₁²y + (μ₂ - μ₁²)a/N; Gaussian
    weights of variance 1/N make of it x = (1 + 1/N)x_M + y_M, y = y_M + 2x_M/N², a = y_M + 2x_M/N (Wick),
    Haar-orthogonal ones x = x_M, y = y_M, a = (N·y_M + 2x_M)/(N + 2). The common scale of the weights drops out. For N
    to infinity these are the formulas above, which an infinite width gives.

    Certificate: a finer quadrature within 1e-9 of μ₂/μ₁², else NaN. Raises ValueError for an unknown activation, a
    negative q, a width below 1 and fewer than one layer.
    """
    function, variance = named(activation), inputs.number("q", q, low=0.0)
    inverse = 1 / (width if width == np.inf else inputs.number("width", width, low=1.0))
    if layers != int(layers) or layers < 1:
        raise ValueError(f"layers is {layers!r}; it takes a whole number from 1")
    if np.isnan([variance, inverse]).any():
        return np.full(int(layers), np.nan)

    def kurtosis(order: int) -> float:
        moment = lambda power: gaussian_expectation(
            lambda u: function.slope(u) ** power, variance, order, function.bends
        )
        return moment(4) / moment(2) ** 2

    excess = kurtosis(FINER) - 1
    if not abs(excess + 1 - kurtosis(ORDER)) <= ERROR_BOUND * (1 + excess):
        return np.full(int(layers), np.nan)
    x = y = a = 1.0
    spreads = []
    for _ in range(int(layers)):
        # The slopes' mean square is taken for 1, and the common factor of each layer out: only ratios count.
        if orthogonal:
            a = (y + 2 * inverse * x) / (1 + 2 * inverse)
        else:
            x, y, a = (1 + inverse) * x + y, y + 2 * inverse**2 * x, y + 2 * inverse * x
        x, y = x + excess * a, y + excess * inverse * a
        x, y = x / y, 1.0
        spreads.append(x - 1)
    return np.array(spreads)


def largest_singular_value(depth: float) -> float:
    """Return the largest singular value of a product of that many wide square Gaussian matrices of entries 1/N.

    √((L + 1)^(L + 1)/L^L), the end of the Fuss–Catalan law (Penson & Życzkowski 2011, arXiv 1103.3453), which grows as
    √(e(L + 1/2)). Raises ValueError for a depth below 1.
    """
    L = inputs.number("depth", depth, low=1.0)
    return float(np.exp(((L + 1) * np.log(L + 1) - L * np.log(L)) / 2))
