"""How far weights are from a first-order optimum of the margin problem: the limit of descent on homogeneous networks.

The problem is min ‖θ‖²/2 subject to q_n(θ) >= 1 for margins q_n = y_n f(x_n; θ) that are homogeneous of degree L > 0,
q_n(cθ) = c^L q_n(θ). It is not convex for L > 1: a point that meets its conditions need not be a maximum of the margin.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

DEGREES = {"relu": 2, "squared_relu": 3, "quadratic": 3}


def stationarity_residual(
    weights: Float[np.ndarray, "parameter"],
    jacobian: Float[np.ndarray, "sample parameter"],
    margins: Float[np.ndarray, "sample"],
    degree: float,
) -> float:
    """Return how much of θ its Karush–Kuhn–Tucker conditions leave over, for the direction of θ; 0 where they hold.

    θ is first scaled to θ' of smallest margin 1, which takes the margins to q' = q/min q and the Jacobian J of q to J'.
    The conditions are θ' = Σ α_n J'_n and α_n (q'_n − 1) = 0 for multipliers α >= 0. As J'_n·θ' = L q'_n, they make
    Σ α_n = ‖θ'‖²/L, which gives both parts one unit: the answer is the least over α >= 0 of the square root of

        ‖θ' − Σ α_n J'_n‖² / ‖θ'‖²  +  Σ (α_n (q'_n − 1) L / ‖θ'‖²)²

    by non-negative least squares. It is at most 1 (α = 0), whatever the length of θ. Descent on a loss with an
    exponential tail takes it to 0 (Lyu & Li 2020, arXiv 1906.05890, Theorem 4.4). Where q has kinks, J is one element
    of the subdifferential and the answer an upper bound.

    NaN unless every margin is positive. Raises ValueError for a degree that is not positive, shapes that do not agree
    and infinite entries.
    """
    from scipy.optimize import nnls

    J = inputs.array("jacobian", jacobian, 2)
    theta = inputs.vector("weights", weights, J.shape[1], "jacobian has columns")
    q = inputs.vector("margins", margins, len(J), "jacobian has rows")
    degree = inputs.number("degree", degree, low=np.finfo(float).tiny)
    if any(np.isnan(each).any() for each in (J, theta, q)) or np.isnan(degree) or not q.min() > 0 or not theta.any():
        return float("nan")
    # In units of ‖θ'‖ and Σα, with u = θ/‖θ‖: J'_n α_n/‖θ'‖ = J_n ‖θ‖ a_n/(L min q) for a = α L/‖θ'‖².
    length, least = np.linalg.norm(theta), q.min()
    columns = J.T * (length / least / degree)
    rows = np.vstack([columns, np.diag(q / least - 1)])
    target = np.append(theta / length, np.zeros(len(q)))
    return float(nnls(rows, target, maxiter=100 * len(q))[1])


def margin_growth(turned: float, spread: float, degree: float) -> float:
    """Return by how much gradient flow on 𝓛 = Σ exp(−q_n) < 1 raises ln γ̃, γ̃ = ln(1/𝓛)/ρ^L and ρ = ‖θ‖, on a way.

    `turned` is ∫ v² d ln ρ, v = ‖dθ̂/d ln ρ‖ of the direction θ̂, and `spread` ∫ (1 + v²) H/ln(1/𝓛) d ln ρ, H the entropy
    of the shares p_n = exp(−q_n)/𝓛; the answer is L times their sum. For −d𝓛 = ‖dθ‖²/dt = (dρ² + ρ²‖dθ̂‖²)/dt, while by
    Euler ρ dρ/dt = L 𝓛 Σ p_n q_n, and Σ p_n q_n = ln(1/𝓛) + H. The first over the second:

        d ln ln(1/𝓛) = (1 + v²) L (1 + H/ln(1/𝓛)) d ln ρ,    and L d ln ρ is to be taken off.

    Without H it is Lemma 5.1 of Lyu & Li 2020 (arXiv 1906.05890), an inequality. Neither term is negative.
    NaN where an argument is. Raises ValueError for a degree that is not positive and for a negative `turned`.
    """
    turned, spread = inputs.number("turned", turned, low=0.0), inputs.number("spread", spread)
    return inputs.number("degree", degree, low=np.finfo(float).tiny) * (turned + spread)


def two_layer_residual(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    hidden: Float[np.ndarray, "unit feature"],
    readout: Float[np.ndarray, "unit"],
    activation: str,
    kink: float = 0.0,
) -> float:
    """Return the `stationarity_residual` of f(x) = Σ_j a_j φ(w_j·x), a the readout and w_j the rows of `hidden`.

    φ(u) is "relu", max(u, 0), of which f is homogeneous of degree 2, "squared_relu" or "quadratic", u², of degree 3.
    A ReLU counts as on its kink at a sample where |w_j·x| <= `kink`·‖w_j‖·‖x‖. There Clarke's subdifferential has every
    slope between 0 and 1, which the conditions may choose: α_n s a_j x with 0 <= s <= 1, so β = α_n s is a further
    multiplier, 0 <= β <= α_n. The answer is an upper bound of that minimum, attained to rounding.

    NaN unless every margin is positive. Raises ValueError for another activation, a negative kink, labels other than −1
    and 1, shapes that do not agree and infinite entries.
    """
    X, y = inputs.classification(X, y)
    hidden = inputs.array("hidden", hidden, 2)
    readout = inputs.vector("readout", readout, len(hidden), "hidden has rows")
    kink = inputs.number("kink", kink, low=0.0)
    if hidden.shape[1] != X.shape[1]:
        raise ValueError(f"hidden has {hidden.shape[1]} columns; it takes {X.shape[1]}, as many as X")
    if activation not in DEGREES:
        raise ValueError(f"activation is {activation!r}; it takes {', '.join(map(repr, DEGREES))}")
    if any(np.isnan(each).any() for each in (X, y, hidden, readout)) or np.isnan(kink):
        return float("nan")
    sums = X @ hidden.T
    power, degree = DEGREES[activation] - 1, DEGREES[activation]
    positive = sums if activation == "quadratic" else np.maximum(sums, 0)
    slopes = (sums > 0).astype(float) if power == 1 else 2 * positive
    scale = np.linalg.norm(X, axis=1)[:, None] * np.linalg.norm(hidden, axis=1)
    free = (np.abs(sums) <= kink * scale) & (power == 1)
    slopes = np.where(free, 0.0, slopes)
    gradient = (y[:, None] * slopes * readout)[:, :, None] * X[:, None, :]
    J = np.concatenate([gradient.reshape(len(X), -1), y[:, None] * positive**power], axis=1)
    theta, margins = np.append(hidden, readout), y * (positive**power @ readout)
    if not free.any():
        return stationarity_residual(theta, J, margins, degree)
    return _with_kinks(theta, J, margins, degree, free, y[:, None] * X, readout)


def _with_kinks(
    theta: np.ndarray,
    J: np.ndarray,
    margins: np.ndarray,
    degree: float,
    free: np.ndarray,
    Z: np.ndarray,
    readout: np.ndarray,
) -> float:
    """Return the residual where sample n may have any slope between 0 and 1 at the units j with `free[n, j]`."""
    from scipy.optimize import nnls

    if not margins.min() > 0:
        return float("nan")
    length, least, samples = np.linalg.norm(theta), margins.min(), len(margins)
    where, unit = np.nonzero(free)
    extra = np.zeros((len(where), *free.shape[1:], Z.shape[1]))
    extra[np.arange(len(where)), unit] = readout[unit, None] * Z[where]
    extra = np.concatenate([extra.reshape(len(where), -1), np.zeros((len(where), free.shape[1]))], axis=1)
    rows = np.vstack(
        [np.concatenate([J, extra]).T * (length / least / degree), np.zeros((samples, samples + len(where)))]
    )
    rows[-samples:, :samples] = np.diag(margins / least - 1)
    target = np.append(theta / length, np.zeros(samples))
    # β <= α as β + s = α with a slack s >= 0 and a heavy weight; what it leaves open is closed before the answer.
    heavy = 1e4 * np.linalg.norm(rows, axis=0).max()
    tied = np.zeros((len(where), samples + 2 * len(where)))
    tied[np.arange(len(where)), where] = -heavy
    tied[:, samples : samples + len(where)] = tied[:, samples + len(where) :] = heavy * np.eye(len(where))
    whole = np.vstack([np.hstack([rows, np.zeros((len(rows), len(where)))]), tied])
    found = nnls(whole, np.append(target, np.zeros(len(where))), maxiter=100 * whole.shape[1])[0][: rows.shape[1]]
    found[samples:] = np.minimum(found[samples:], found[where])
    return float(np.linalg.norm(rows @ found - target))
