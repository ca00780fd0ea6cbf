"""What least squares, interpolation and ridge cost on Gaussian inputs: exact and asymptotic excess risks.

y = Xβ + ε: n rows x ~ N(0, Σ), p = aspect_ratio · n features, a fixed β with ‖β‖ = signal, ε ~ N(0, noise²). The risk
of b is E (x·(b − β))² = (b − β)ᵀ Σ (b − β), without the noise of a new y, averaged over X and ε. `signal` and `noise`
are a norm and a standard deviation, not squares. Ridge minimises 1/(2n)·‖Xb − y‖² + strength/2·‖b‖².
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RESIDUAL_BOUND = 1e-10


def ridgeless_risk(aspect_ratio: float, signal: float, noise: float, samples: float | None = None) -> float:
    """Return the risk of the least-squares solution of least norm for Σ = I.

    Without `samples` the limit n → ∞ of Hastie, Montanari, Rosset & Tibshirani 2022 (arXiv 1903.08560, isotropic
    features): σ²γ/(1 − γ) below γ = 1, r²(1 − 1/γ) + σ²/(γ − 1) above it. With n = `samples` and p = γn the exact
    expectation, from E tr (XᵀX)⁻¹ = p/(n − p − 1) and its mirror image: σ²p/(n − p − 1) for p < n − 1,
    r²(1 − n/p) + σ²n/(p − n − 1) for p > n + 1, and infinite between (unless there is no noise). Any β, since the law
    of X is invariant under rotations.

    NaN for NaN. Raises ValueError for an aspect ratio that is not positive, a negative signal or noise, and samples
    below 1.
    """
    gamma, signal, noise = _checked(aspect_ratio, signal, noise)
    spare = 0.0 if samples is None else 1 / inputs.number("samples", samples, low=1.0)
    if np.isnan([gamma, signal, noise, spare]).any():
        return float("nan")
    bias = signal**2 * max(0.0, 1 - 1 / gamma)
    # In units of n: one degree of freedom is 1/n. Of p = γn and n the smaller is the number of inverted eigenvalues.
    room = abs(1 - gamma) - spare
    variance = noise**2 * min(gamma, 1.0) / room if room > 1e-12 else np.inf
    return float(bias + (variance if noise else 0.0))


def optimal_ridge_risk(aspect_ratio: float, signal: float, noise: float, samples: float | None = None) -> float:
    """Return the risk of ridge for Σ = I at its best strength λ = γσ²/r²: σ² E tr (XᵀX/n + λ)⁻¹ / n.

    Without `samples` σ²γ m(−λ), m the Stieltjes transform of the Marchenko–Pastur law (Dobriban & Wager 2018, arXiv
    1507.03003, Theorem 2.1; Hastie et al. 2022 on ridge). With them the next order in 1/n too: the trace exceeds p m by
    (1/√(a + λ) − 1/√(b + λ))²/4, a and b = (1 ∓ √γ)² (the mean in the central limit theorem of Bai & Silverstein 2004,
    Theorem 1.1, for f(x) = 1/(x + λ), whose integral against 1/√((x − a)(b − x)) is π/√((a + λ)(b + λ))). What is left
    is of order 1/n². For λ = 0 < 1 − γ it is the second term of p/(n − p − 1) in 1/n.

    NaN for NaN. Raises ValueError as `ridgeless_risk`, and for a signal or noise of zero.
    """
    gamma, signal, noise = _checked(aspect_ratio, signal, noise)
    count = np.inf if samples is None else inputs.number("samples", samples, low=1.0)
    for name, value in (("signal", signal), ("noise", noise)):
        if value == 0:
            raise ValueError(f"{name} is 0; it takes a positive number")
    if np.isnan([gamma, signal, noise, count]).any():
        return float("nan")
    strength = gamma * noise**2 / signal**2
    middle = 1 - gamma + strength
    root = np.hypot(middle, 2 * np.sqrt(gamma * strength))
    # The root of γλm² + (1 − γ + λ)m − 1 = 0, in the form that does not cancel.
    transform = 2 / (root + middle) if middle > 0 else (root - middle) / (2 * gamma * strength)
    if abs(gamma * strength * transform**2 + middle * transform - 1) > RESIDUAL_BOUND * (1 + abs(middle) * transform):
        return float("nan")
    low, high = ((1 + sign * np.sqrt(gamma)) ** 2 + strength for sign in (-1, 1))
    return float(noise**2 * (gamma * transform + (low**-0.5 - high**-0.5) ** 2 / 4 / count))


def ridge_risk(
    aspect_ratio: float,
    variances: Float[np.ndarray, "block"],
    shares: Float[np.ndarray, "block"],
    signal: float,
    noise: float,
    strength: float = 0.0,
) -> float:
    """Return the limit n → ∞ of the risk of ridge (strength 0: of the interpolant of least norm) for a diagonal Σ.

    A share of the features has each of the variances, and β is spread evenly over all features. With κ the root of
    κ (1 − d₁) = λ, d_k = γ Σ share · (s/(s + κ))^k, the risk is (κ² r² Σ share · s/(s + κ)² + σ² d₂) / (1 − d₂): Hastie
    et al. 2022 for correlated features, in the form of Bach 2024 (arXiv 2303.01372). Infinite at γ = 1 with λ = 0.

    Certificate: the equation for κ to 1e-10, else NaN. Raises ValueError as `ridgeless_risk`, for variances that are
    not positive, shares that are negative or do not sum to one, and a negative strength.
    """
    from scipy.optimize import brentq

    gamma, signal, noise = _checked(aspect_ratio, signal, noise)
    s = inputs.array("variances", variances, 1)
    shares = inputs.vector("shares", shares, len(s), "variances")
    strength = inputs.number("strength", strength, low=0.0)
    if np.isnan([gamma, signal, noise, strength, *s, *shares]).any():
        return float("nan")
    if s.min() <= 0:
        raise ValueError(f"variances has the entry {s.min():g}; it takes positive numbers")
    if shares.min() < 0 or abs(shares.sum() - 1) > 1e-9:
        raise ValueError(f"shares sum to {shares.sum():g}; it takes numbers from 0 that sum to 1")
    degrees = lambda kappa, power: gamma * float(shares @ (s / (s + kappa)) ** power)
    excess = lambda kappa: kappa * (1 - degrees(kappa, 1)) - strength
    kappa = 0.0
    strength = strength if strength > 1e-100 else 0.0  # below it, residuals are lost to the least numbers
    if strength > 0 or gamma > 1:
        # κ − λ = κ d₁ lies between 0 and γ Σ share · s; without λ, κ = 0 is the other root of the equation.
        lowest = strength if strength > 0 else s.min() * (gamma - 1) * (1 - 1e-12)
        kappa = brentq(excess, lowest, strength + 2 * gamma * (shares @ s), xtol=1e-300, rtol=1e-14, maxiter=2000)
        if abs(excess(kappa)) > RESIDUAL_BOUND * (kappa + strength):
            return float("nan")
    left = 1 - degrees(kappa, 2)
    bias = (kappa * signal) ** 2 * float(shares @ (s / (s + kappa) ** 2))
    return (bias + noise**2 * degrees(kappa, 2)) / left if left > 1e-12 else np.inf


def _checked(aspect_ratio: object, signal: object, noise: object) -> tuple[float, float, float]:
    gamma = inputs.number("aspect_ratio", aspect_ratio, low=0.0)
    if gamma == 0:
        raise ValueError("aspect_ratio is 0; it takes a positive number")
    return gamma, inputs.number("signal", signal, low=0.0), inputs.number("noise", noise, low=0.0)
