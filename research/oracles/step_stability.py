"""How curved a loss may be for steps with momentum to be stable on it: where an oscillation stops to die out.

On a quadratic of curvature λ, g = λx. The methods, β the momentum and η the learning rate:
"heavy_ball": m ← βm + g, x ← x − ηm (Polyak 1964; gradient descent for β = 0);
"nesterov": m ← βm + g, x ← x − η(g + βm), the gradient taken where it is needed next;
"moving_average": m ← βm + (1 − β)g, x ← x − ηm: Adam, once its preconditioner stands still and λ is P^−1/2 H P^−1/2's.
"""

import numpy as np

from research.oracles import inputs

METHODS = ("heavy_ball", "nesterov", "moving_average")
CERTAINTY = 1e-6


def largest_curvature(method: str, learning_rate: float, momentum: float) -> float:
    """Return the curvature above which the method is unstable: 2(1 + β)/η, 2(1 + β)/((1 + 2β)η), 2(1 + β)/((1 − β)η).

    There a root of the step's characteristic polynomial is −1: each step turns the error round. Heavy ball:
    z² − (1 + β − ηλ)z + β; Nesterov: z² − (1 + β)(1 − ηλ)z + β(1 − ηλ); the moving average has (1 − β)η for η.
    Cohen et al. 2021 (arXiv 2103.00065) use the first two, Cohen et al. 2022 (arXiv 2207.14484) the third.

    Certificate: the spectral radius of the step, a matrix on (x, m), is 1 there, by a millionth below less, above
    more, else NaN. NaN for NaN; raises ValueError for another method, a rate <= 0 and a momentum outside [0, 1).
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; it takes {', '.join(METHODS)}")
    rate = inputs.number("learning_rate", learning_rate, low=np.finfo(float).tiny)
    beta = inputs.number("momentum", momentum, low=0.0, below=1.0)
    divisor = {"heavy_ball": 1.0, "nesterov": 1 + 2 * beta, "moving_average": 1 - beta}[method]
    answer = 2 * (1 + beta) / (divisor * rate)
    if np.isnan(answer):
        return float("nan")
    below, at, above = (spectral_radius(method, rate, beta, answer * (1 + way * CERTAINTY)) for way in (-1, 0, 1))
    return answer if below < 1 < above and abs(at - 1) <= 1e-9 else float("nan")


def spectral_radius(method: str, learning_rate: float, momentum: float, curvature: float) -> float:
    """Return the factor by which the slowest error shrinks or grows in a step, late, on a quadratic of that curvature.

    Raises ValueError for another method.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; it takes {', '.join(METHODS)}")
    share = 1 - momentum if method == "moving_average" else 1.0
    following = np.array([share * curvature, momentum])  # of m, from (x, m)
    moved = np.array([curvature, 0.0]) + momentum * following if method == "nesterov" else following
    step = np.stack([np.array([1.0, 0.0]) - learning_rate * moved, following])
    return float(np.abs(np.linalg.eigvals(step)).max())
