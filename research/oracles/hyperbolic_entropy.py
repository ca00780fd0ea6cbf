"""Which interpolant a diagonal linear network finds: the one of least hyperbolic entropy, or of its kin.

The weights of the network are w = u^D - v^D (or v²), entry by entry. In gradient flow on any loss of Xw, u and v depend
on the integrated gradient alone, which lies in the row space of X: w = mean(Xᵀν + c) with an increasing function
`mean`, the gradient of a convex conjugate. The limit is hence the projection of the start on {Xw = y} in a Bregman
divergence, whatever the data, the loss and the speed. It is found by Newton's method on the n dual variables ν.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

STEP_BOUND = 1e-10
ITERATIONS = 400

Link = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def minimum_hyperbolic_entropy(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    scale: Float[np.ndarray, "feature"] | float,
    nearest_to: Float[np.ndarray, "feature"] | None = None,
) -> Float[np.ndarray, "feature"]:
    """Return the solution of Xw = y nearest to a point in the divergence of Σ w·asinh(w/s) - √(w² + s²), s = `scale`.

    `scale` is one number or one for each feature, `nearest_to` is 0 by default. The conditions are Xw = y and
    asinh(w/s) - asinh(nearest_to/s) in the row space of X. As s → 0 the solution tends to one of least l1 norm, as
    s → ∞ to the one of least l2 norm (for scales s·p of fixed proportions p, of least Σ w²/p).

    It is the limit of gradient flow on w = u² - v²: du/dt = -2u·g and dv/dt = 2v·g with g = ∂loss/∂w keep u·v and give
    w = 2u₀v₀·sinh(asinh((u₀² - v₀²)/(2u₀v₀)) - 4∫g), so s = 2u₀v₀ and nearest_to = u₀² - v₀²; for u₀ = v₀ = α that is
    2α² and 0, and the entropy is Q of Woodworth et al. 2020 (arXiv 2002.09277, Theorem 1) up to factors. Of w = u·v,
    u₀ = √2·α, v₀ = 0, it is the limit with s = α² (Even et al. 2023, arXiv 2302.08982).

    Certificate: a further Newton step, which bounds the error to first order, changes w by at most 1e-10 relative, and
    ||Xw - y|| <= 1e-10·||y||; else NaN. NaN too for linearly dependent samples.
    Raises ValueError for a scale that is not positive, shapes that do not agree and infinite entries.
    """
    X, y = inputs.regression(X, y)
    features = X.shape[1]
    width = np.full(features, inputs.number("scale", scale)) if np.ndim(scale) == 0 else scale
    width = inputs.vector("scale", width, features, "X has columns")
    if (width <= 0).any():
        raise ValueError(f"scale has the entry {width[width <= 0][0]:g}; it takes positive numbers")
    start = np.zeros(features) if nearest_to is None else nearest_to
    start = inputs.vector("nearest_to", start, features, "X has columns")

    def link(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return width * np.sinh(z), width * np.cosh(z), np.ones(features)

    return _projection(X, y, link, np.arcsinh(start / width))


def minimum_depth_entropy(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], init_scale: float, depth: int
) -> Float[np.ndarray, "feature"]:
    """Return the limit of gradient flow on w = u^D - v^D from u = v = `init_scale`, D = `depth` >= 2.

    With α = init_scale and G = -∫∂loss/∂w, du/dt = D·u^(D-1)·dG/dt makes u^(2-D) = α^(2-D) - D(D-2)·G, and v likewise
    with +G. So w = α^D·((1 - z)^-p - (1 + z)^-p) with p = D/(D-2) and z = D(D-2)·α^(D-2)·G in the row space of X
    (Woodworth et al. 2020, arXiv 2002.09277, Theorem 3). D = 2 is `minimum_hyperbolic_entropy` of scale 2α².

    Certificate and NaN as there; NaN too where 1 - |z| is lost in rounding (a great depth, a tiny start).
    Raises ValueError for init_scale <= 0, a depth below 2, and as there.
    """
    X, y = inputs.regression(X, y)
    alpha, layers = inputs.number("init_scale", init_scale, low=0.0), inputs.number("depth", depth, low=2.0)
    if alpha == 0:
        raise ValueError("init_scale is 0; it takes a positive number")
    if layers == 2:
        return minimum_hyperbolic_entropy(X, y, 2 * alpha**2)
    power, size = layers / (layers - 2), alpha**layers

    def link(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mean = 2 * size * (1 - z**2) ** (-power / 2) * np.sinh(power * np.arctanh(z))  # it does not cancel
        slope = size * power * ((1 - z) ** (-power - 1) + (1 + z) ** (-power - 1))
        return mean, slope, (1 - np.abs(z)) / (power + 1)

    return _projection(X, y, link, np.zeros(X.shape[1]))


def minimum_relative_entropy(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], start: Float[np.ndarray, "feature"]
) -> Float[np.ndarray, "feature"]:
    """Return the solution of Xw = y, w >= 0, of least Σ w·ln(w/start) - w + start: w = start·exp(Xᵀν).

    It is the limit of gradient flow on w = v² from v² = start, since d(ln w)/dt = -4·∂loss/∂w is in the row space of X
    (exponentiated gradient). Where steps add label noise, ln w also loses η²δ²·mean(x²) a step: see the experiment.

    Certificate as for `minimum_hyperbolic_entropy`, else NaN; NaN too where no such w exists.
    Raises ValueError for a start that is not positive, shapes that do not agree and infinite entries.
    """
    X, y = inputs.regression(X, y)
    start = inputs.vector("start", start, X.shape[1], "X has columns")
    if (start <= 0).any():
        raise ValueError(f"start has the entry {start[start <= 0][0]:g}; it takes positive numbers")

    def link(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.exp(z), np.exp(z), np.ones(len(z))

    return _projection(X, y, link, np.log(start))


def first_gain(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], batch: int
) -> Float[np.ndarray, "feature"]:
    """Return E g² of the first step on w = u·v from w = 0, g = mean(x·(x·w − y)) over a batch of that size.

    The gain Σ −ln(1 − γ²g²) is γ²·E g² a step to leading order. Of b samples drawn with replacement E g² =
    mean((x·y)²)/b + (1 − 1/b)·mean(x·y)²; a batch of all samples is the full one, and has the last mean alone. On
    average over Gaussian X, and s planted weights of one size, that is 1 + (b + 1)/s times as much on them as off them.

    NaN gives NaN. Raises ValueError for a batch below 1, shapes that do not agree and infinite entries.
    """
    X, y = inputs.regression(X, y)
    size = inputs.number("batch", batch, low=1.0)
    products = X * y[:, None]
    mean, noise = products.mean(axis=0) ** 2, (products**2).mean(axis=0)
    return np.asarray(mean if size == len(y) else noise / size + (1 - 1 / size) * mean)


def label_noise_scatter(X: Float[np.ndarray, "sample feature"], w: Float[np.ndarray, "feature"]) -> float:
    """Return Σ w_j P_jj, P the projection on the span of the v∘x_i: E ‖w − path‖² over ηδ², of descent on w = v².

    The loss is 1/(4n)·‖X v² − y‖², its step η, and δ the noise on one sample's label. That noise has covariance
    η²δ²·diag(v) C diag(v) a step, C = XᵀX/n, and the curvature of the loss is twice that over η²δ², so that v scatters
    with covariance (ηδ²/4)·P (an Ornstein–Uhlenbeck process), and w = v² with 2v as much.

    NaN gives NaN. Raises ValueError for a w with a negative entry, shapes that do not agree and infinite entries.
    """
    X = inputs.array("X", X, 2)
    w = inputs.vector("w", w, X.shape[1], "X has columns")
    if (w < 0).any():
        raise ValueError(f"w has the entry {w.min():g}; it takes numbers from 0")
    if np.isnan(X).any() or np.isnan(w).any():
        return float("nan")
    basis, _ = np.linalg.qr(np.sqrt(w)[:, None] * X.T)
    return float(w @ (basis**2).sum(axis=1))


def _projection(X: np.ndarray, y: np.ndarray, link: Link, shift: np.ndarray) -> np.ndarray:
    """Return mean(Xᵀν + shift) with X·mean = y.

    `link` gives the mean, its derivative, and a length over which that changes by no more than a factor e: a step of
    at most that length in every entry of z cannot overshoot (self-concordance, Bach 2010, arXiv 0910.4627).
    """
    void = np.full(X.shape[1], np.nan)
    nu = np.zeros(len(y))
    if np.isnan(X).any() or np.isnan(y).any() or np.isnan(shift).any() or np.isnan(link(shift)).any():
        return void
    with np.errstate(all="ignore"):
        for _ in range(ITERATIONS):
            mean, slope, length = link(X.T @ nu + shift)
            try:
                direction = np.linalg.solve((X * slope) @ X.T, y - X @ mean)
            except np.linalg.LinAlgError:
                return void
            change = X.T @ direction
            size = np.linalg.norm(mean)
            misfit = np.linalg.norm(X @ mean - y) <= STEP_BOUND * np.linalg.norm(y)
            if misfit and np.linalg.norm(slope * change) <= STEP_BOUND * size:
                return np.asarray(mean)
            largest = np.max(np.abs(change) / length)
            if not np.isfinite(largest):
                return void
            nu = nu + direction * min(np.log1p(largest), 1.0) / largest if largest > 0 else nu
    return void
