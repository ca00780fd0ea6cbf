"""What Newton–Schulz steps make of singular values: Muon's approximation to the polar factor."""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

STANDARD, CUBIC = (3.4445, -4.7750, 2.0315), (1.5, -0.5, 0.0)  # Jordan et al. 2024 and optax's default; order two


def newton_schulz_factor(
    s: Float[np.ndarray, "value"], steps: int, coefficients: tuple[float, float, float] = STANDARD
) -> Float[np.ndarray, "value"]:
    """Return what that many steps X -> a·X + b·(X Xᵀ)X + c·(X Xᵀ)²X make of singular values s: one, were they exact.

    Each step is odd in X, so that singular vectors stay and every singular value goes its way alone: s -> a·s + b·s³ +
    c·s⁵. Muon divides a matrix by its Frobenius norm first: s is the share of that, in [0, 1]. NaN gives NaN.
    Raises ValueError for steps below 0 and infinite entries.
    """
    values, count = inputs.array("s", s, 1), inputs.number("steps", steps, low=0.0)
    a, b, c = coefficients
    for _ in range(int(count)):
        values = a * values + b * values**3 + c * values**5
    return values
