"""What augmented inputs do to a linear model: the scatter under noisy inputs, the risk, and a convex classifier."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RESIDUAL_BOUND = 1e-6


class Risk(NamedTuple):
    """The square error of the weights: its mean over the noise of the targets, and its standard deviation."""

    mean: float
    deviation: float


def noisy_input_deviation(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], input_noise: float
) -> Float[np.ndarray, "feature"]:
    """Return the standard deviation, of one step, of the mean iterate of a descent on freshly noisy inputs.

    The loss of a step is 1/(2n)·||(X + s·E)w - y||², E of independent standard normals drawn anew; its mean over E is
    that of ridge with strength s² (Bishop 1995, Training with noise is equivalent to Tikhonov regularization). The mean
    of N iterates scatters by H⁻¹SH⁻¹/N for small steps (Polyak & Juditsky 1992), H = XᵀX/n + s², S the covariance of a
    step's gradient at the minimiser w. With residuals r and ε normal of variance s², Σ_i of the second moments
    E (x+ε)(x+ε)ᵀ(r + ε·w)² = (r² + s²|w|²)(xxᵀ + s²) + 2rs²(xwᵀ + wxᵀ) + 2s⁴wwᵀ, less the squares of the means
    xr + s²w, over n². The square roots of the diagonal are returned.

    NaN in gives NaN, and so does a curvature that is not positive. Raises ValueError for a negative noise, and shapes
    that do not agree.
    """
    X, y = inputs.regression(X, y)
    square = inputs.number("input_noise", input_noise, low=0.0) ** 2
    count, features = X.shape
    void = np.full(features, np.nan)
    if np.isnan(X).any() or np.isnan(y).any() or np.isnan(square):
        return void
    curvature = X.T @ X / count + square * np.eye(features)
    if np.linalg.eigvalsh(curvature)[0] <= 1e-10 * np.trace(curvature):
        return void
    w = np.linalg.solve(curvature, X.T @ y / count)
    r = X @ w - y
    size = r**2 + square * (w @ w)
    crossed = 2 * square * np.outer(X.T @ r, w)
    second = (X.T * size) @ X + square * size.sum() * np.eye(features) + crossed + crossed.T
    second += 2 * square**2 * count * np.outer(w, w)
    means = X * r[:, None] + square * w[None, :]
    covariance = (second - means.T @ means) / count**2
    inverse = np.linalg.inv(curvature)
    return np.sqrt(np.maximum(np.diag(inverse @ covariance @ inverse), 0.0))


def augmented_risk(
    X: Float[np.ndarray, "sample feature"], planted: Float[np.ndarray, "feature"], noise: float, strength: float = 0.0
) -> Risk:
    """Return the risk of least squares on orbit means: of ||w - planted||², targets X·planted + noise·N(0, 1).

    The orbit of x is x and its mirror image, the features in reverse order. On all copies least squares has a symmetric
    solution, for which w·x = w·x̄, x̄ the mean of the orbit: it is that of x̄ alone, w = Ay. The error is b + noise·Az,
    b = (AX - 1)·planted, with the mean b² + noise² tr AAᵀ and the variance 4 noise² bᵀAAᵀb + 2 noise⁴ tr (AAᵀ)².
    `strength` 1 is that; 0 leaves the inputs as they are.

    NaN in gives NaN. Raises ValueError for a negative noise, a strength other than 0 and 1, and shapes that
    do not agree.
    """
    X = inputs.array("X", X, 2)
    planted = inputs.vector("planted", planted, X.shape[1], "X has columns")
    noise = inputs.number("noise", noise, low=0.0)
    strength = inputs.number("strength", strength, low=0.0)
    if strength not in (0, 1) and not np.isnan(strength):
        raise ValueError(f"strength is {strength:g}; it takes 0, no copies, or 1, all of them")
    if np.isnan([noise, strength, *planted]).any() or np.isnan(X).any():
        return Risk(np.nan, np.nan)
    A = np.linalg.pinv((X + X[:, ::-1]) / 2 if strength else X)
    spread, bias = A @ A.T, (A @ X - np.eye(X.shape[1])) @ planted
    variance = 4 * noise**2 * bias @ spread @ bias + 2 * noise**4 * np.trace(spread @ spread)
    return Risk(float(bias @ bias + noise**2 * np.trace(spread)), float(variance**0.5))


def mean_augmented_risk(samples: int, features: int, noise: float, uneven: float, strength: float) -> float:
    """Return the mean of `augmented_risk` over Gaussian X, `uneven` the squared length of planted's odd part.

    Wishart's inverse: tr E (XᵀX)⁻¹ = d/(n - d - 1). Without copies noise²·d/(n - d - 1); with them the even half of the
    features, k = d/2, is fitted and the odd part is noise to it: uneven + (noise² + uneven)·k/(n - k - 1).
    Raises ValueError for fewer than d + 2 samples and an odd number of features.
    """
    if samples < features + 2:
        raise ValueError(f"samples is {samples}; it takes {features + 2} or more, two beyond the features")
    if features % 2:
        raise ValueError(f"features is {features}; it takes an even number")
    even = features / 2
    return (
        uneven + (noise**2 + uneven) * even / (samples - even - 1)
        if strength
        else noise**2 * features / (samples - features - 1)
    )


def softmax_optimum(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], weight_decay: float, classes: int
) -> Float[np.ndarray, "feature output"]:
    """Return the minimiser of the mean cross-entropy of softmax(XW) + weight_decay/2·||W||², by scikit-learn.

    The labels y are all of 0, 1, ..., classes - 1; there is no bias.
    Certificate: a strongly convex loss is minimal within |gradient|/weight_decay, at most 1e-6 of ||W||, else NaN.
    NaN in gives NaN. Raises ValueError for a weight decay that is not positive and labels that are not these.
    """
    X, y = inputs.regression(X, y)
    decay = inputs.number("weight_decay", weight_decay, low=0.0)
    void = np.full((X.shape[1], int(classes)), np.nan)
    if np.isnan(X).any() or np.isnan(y).any() or np.isnan(decay):
        return void
    if decay == 0:
        raise ValueError("weight_decay is 0; it takes a positive number")
    if int(classes) < 3 or not np.array_equal(np.unique(y), np.arange(int(classes))):
        raise ValueError(f"y has the labels {np.unique(y)}; it takes all of 0 to classes - 1, three or more of them")
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / (len(y) * decay), fit_intercept=False, solver="newton-cg", tol=1e-10, max_iter=500)
    weights = model.fit(X, y).coef_.T
    outputs = X @ weights
    chances = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    gradient = X.T @ (chances - np.eye(int(classes))[y.astype(int)]) / len(y) + decay * weights
    return weights if np.linalg.norm(gradient) / decay <= RESIDUAL_BOUND * np.linalg.norm(weights) else void
