"""Where dropout ends: the minimisers of losses averaged over masks, and of Wager's quadratic approximation.

In `dropout_singular_values` hidden units of a linear network are dropped, in all else the inputs of a linear model.
Every input is kept with probability `keep` and then divided by it, so that its mean stays. Losses are means over the n
samples: (y - x·w)²/2, or ln(1 + exp(-y x·w)) for labels -1 and +1. Only each sample's own mean over the masks enters:
whether samples share a mask or not makes no difference.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RESIDUAL_BOUND = 1e-9
FEATURES = 12  # at most, of the means over all 2^d masks


def dropout_ridge(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], keep: float
) -> Float[np.ndarray, "feature"]:
    """Return the minimiser for least squares, (XᵀX + (1 - keep)/keep · diag(XᵀX))⁻¹ Xᵀy; the least in norm of many.

    x·(m∘w)/keep has the variance (1 - keep)/keep · Σ x_j² w_j² over the masks m: Srivastava et al. 2014 (JMLR 15),
    section 9.1; Wager, Wang & Liang 2013 (arXiv 1307.1493).

    Certificate: the gradient at most 1e-9 of its parts, else NaN.
    Raises ValueError for a keep outside (0, 1], shapes that do not agree and infinite entries.
    """
    X, y, keep = _checked(X, y, keep)
    if np.isnan(X).any() or np.isnan(y).any() or np.isnan(keep):
        return np.full(X.shape[1], np.nan)
    gram, moments = X.T @ X, X.T @ y
    penalized = gram + (1 - keep) / keep * np.diag(np.diag(gram))
    weights = np.linalg.lstsq(penalized, moments, rcond=None)[0]
    left, size = np.abs(penalized @ weights - moments).max(), np.abs(moments).max()
    return weights if left <= RESIDUAL_BOUND * max(size, 1e-300) else np.full(X.shape[1], np.nan)


def dropout_logistic(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], keep: float
) -> Float[np.ndarray, "feature"]:
    """Return the minimiser of the logistic loss averaged over all 2^d masks, by Newton's method.

    Certificate: a Newton step of at most 1e-9 of the weights, else NaN; NaN too where there is no finite minimiser.
    Raises ValueError for more than 12 features, a keep outside (0, 1], labels other than -1 and +1, and as above.
    """
    X, y, keep = _checked(*inputs.classification(X, y), keep)
    if np.isnan(X).any() or np.isnan(y).any() or np.isnan(keep):
        return np.full(X.shape[1], np.nan)
    masks, shares = _masks(X.shape[1], keep)

    def derivatives(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gradient, hessian = np.zeros(len(weights)), np.zeros((len(weights), len(weights)))
        for mask, share in zip(masks / keep, shares, strict=True):
            Z = X * (y[:, None] * mask)
            slope = _sigmoid(-Z @ weights)
            gradient -= share * (slope @ Z) / len(y)
            hessian += share * (Z.T * (slope * (1 - slope))) @ Z / len(y)
        return gradient, hessian

    return _newton(derivatives, X.shape[1])


def quadratic_dropout_logistic(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], keep: float
) -> Float[np.ndarray, "feature"]:
    """Return the minimiser of the logistic loss + (1 - keep)/(2 keep n) · Σ_i s_i (1 - s_i) Σ_j x_ij² w_j².

    s_i = σ(x_i·w). It is the second order of the average over the masks (Wager et al. 2013, equation 8). The penalty is
    not convex: this is the stationary point that Newton's method finds from the exact minimiser, where it finds one.

    Certificate: a Newton step of at most 1e-9 of the weights and a positive curvature, else NaN. Raises ValueError as
    `dropout_logistic`.
    """
    exact = dropout_logistic(X, y, keep)
    X, y, keep = _checked(*inputs.classification(X, y), keep)
    if np.isnan(exact).any():
        return exact
    squares, rate = X**2, (1 - keep) / keep

    def derivatives(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        s = _sigmoid(X @ weights)
        v = s * (1 - s)  # and its derivatives in x·w
        first, second = v * (1 - 2 * s), v * (1 - 6 * v)
        spread = squares @ weights**2
        slope = s - (y + 1) / 2 + rate / 2 * first * spread
        gradient = (X.T @ slope + rate * weights * (squares.T @ v)) / len(y)
        crossed = rate * (X.T * first) @ (squares * weights)
        hessian = (X.T * (v + rate / 2 * second * spread)) @ X + crossed + crossed.T
        return gradient, (hessian + rate * np.diag(squares.T @ v)) / len(y)

    return _newton(derivatives, X.shape[1], exact)


def averaged_error(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], keep: float
) -> Float[np.ndarray, "feature"]:
    """Return, for each weight, the variance per mask of the mean of a long descent on least squares with small steps.

    The diagonal of H⁻¹ S H⁻¹, H the curvature of the mean loss and S the covariance over the masks, shared by all
    samples, of the gradient at the minimiser; the variance of a mean over N masks is this over N (Polyak & Juditsky
    1992, Theorem 1).

    NaN where `dropout_ridge` is. Raises ValueError for more than 12 features, and as there.
    """
    weights = dropout_ridge(X, y, keep)
    X, y, keep = _checked(X, y, keep)
    if np.isnan(weights).any():
        return weights
    masks, shares = _masks(X.shape[1], keep)
    M = masks / keep
    gradients = M * (((M * weights) @ X.T - y) @ X) / len(y)
    S = (gradients.T * shares) @ gradients
    gram = X.T @ X / len(y)
    inverse = np.linalg.inv(gram + (1 - keep) / keep * np.diag(np.diag(gram)))
    return np.diag(inverse @ S @ inverse)


def dropout_singular_values(target: Float[np.ndarray, "mode"], keep: float, width: float) -> Float[np.ndarray, "mode"]:
    """Return the singular values of W = UVᵀ, U and V of `width` columns, where dropout of these columns ends.

    The mean over the masks m of 1/2·||M - U diag(m/keep) Vᵀ||², M of the singular values `target`, is 1/2·||M - W||² +
    (1 - keep)/(2·keep)·Σ ||u_i||²·||v_i||². As Σ ||u_i||·||v_i|| >= ||W||_*, and a rotation of the columns makes all
    of these equal, the least of the sum over the factorisations of W is ||W||_*²/width (Cavazza, Morerio, Haeffele,
    Lane, Murino & Vidal 2018, AISTATS; Mianjy, Arora & Vidal 2018, arXiv 1806.09777). W shares M's vectors, its values
    are max(s - κ, 0) of the largest `width` ones, and κ = (1 - keep)/(keep·width)·Σ max(s - κ, 0), a piecewise linear
    equation, solved piece by piece.

    Certificate: its residual at most 1e-9 of the largest value, else NaN. NaN in gives NaN.
    Raises ValueError for negative or infinite values, a keep outside (0, 1] and a width that is no positive integer.
    """
    target, keep = inputs.array("target", target, 1), _kept(keep)
    width = inputs.number("width", width, low=1.0)
    void = np.full(len(target), np.nan)
    if np.isnan(target).any() or np.isnan(keep) or np.isnan(width):
        return void
    if round(width) != width:
        raise ValueError(f"width is {width:g}; it takes a positive integer")
    if target.min() < 0:
        raise ValueError("target has a negative entry; it takes singular values")
    rate, order = (1 - keep) / keep, np.argsort(-target)
    largest = target[order][: int(width)]
    # with the first k of them alive
    count = np.arange(1, len(largest) + 1)
    thresholds = rate * np.cumsum(largest) / (width + rate * count)
    alive = np.flatnonzero(largest > thresholds)
    threshold = thresholds[alive[-1]] if len(alive) else 0.0
    sizes = np.zeros(len(target))
    sizes[order[: len(largest)]] = np.maximum(largest - threshold, 0.0)
    left = abs(rate / width * sizes.sum() - threshold)
    return sizes if left <= RESIDUAL_BOUND * max(largest.max(), 1e-300) else void


def _newton(derivatives: object, features: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Return a minimum by Newton's method with steps of bounded length; NaN where it does not settle."""
    weights = np.zeros(features) if weights is None else weights.copy()
    for _ in range(100):
        gradient, hessian = derivatives(weights)  # type: ignore[operator]
        if np.linalg.eigvalsh(hessian)[0] <= 1e-12 * np.abs(hessian).max():
            return np.full(features, np.nan)
        step = np.linalg.solve(hessian, gradient)
        weights = weights - step * min(1.0, 5.0 / max(np.abs(step).max(), 1e-300))
        if np.abs(step).max() <= RESIDUAL_BOUND * np.abs(weights).max():
            return weights
    return np.full(features, np.nan)


def _masks(features: int, keep: float) -> tuple[np.ndarray, np.ndarray]:
    """Return all masks, one a row, and their probabilities."""
    if features > FEATURES:
        raise ValueError(f"X has {features} columns; it takes at most {FEATURES}, for the mean is over all masks")
    masks = (np.arange(2**features)[:, None] >> np.arange(features)) & 1
    kept = masks.sum(axis=1)
    return masks.astype(float), keep**kept * (1 - keep) ** (features - kept)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(z / 2))


def _checked(X: object, y: object, keep: object) -> tuple[np.ndarray, np.ndarray, float]:
    samples, targets = inputs.regression(X, y)
    return samples, targets, _kept(keep)


def _kept(keep: object) -> float:
    number = inputs.number("keep", keep, low=0.0)
    if number == 0 or number > 1:
        raise ValueError(f"keep is {number:g}; it takes a number above 0, up to 1")
    return number
