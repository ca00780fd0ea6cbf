"""The best unconstrained features and classifier under weight decay: a simplex frame for balanced classes.

Features h_i and a classifier W without bias minimise, over all W and h in at least K dimensions (K classes; K - 1 if
balanced), mean cross-entropy of W·h_i + weight_decay/2·|W|² + feature_decay/2·Σ|h_i|² (the norms halved and summed).
In the logits Z = W·H that is a convex problem, for the least of the two penalties over all factorisations is
√(weight_decay·feature_decay)·‖Z‖ in the nuclear norm. All samples of a class have the same logits at its minimum.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

GAP_BOUND = 1e-7


class Optimum(NamedTuple):
    """Logits of each class (columns), their loss, and how far above a lower bound it may be."""

    logits: np.ndarray
    loss: float
    gap: float


def simplex_gram(classes: int) -> Float[np.ndarray, "label other"]:
    """Return the Gram matrix of the vertices of a regular simplex around 0: I - 11ᵀ/K, of Frobenius norm √(K - 1).

    Raises ValueError for fewer than two classes.
    """
    count = inputs.number("classes", classes)
    if count < 2 or count % 1:
        raise ValueError(f"classes is {classes!r}; it takes a whole number from 2 on")
    return np.eye(int(count)) - 1 / count


def minimum_loss(counts: Float[np.ndarray, "label"], weight_decay: float, feature_decay: float) -> float:
    """Return the least value of the objective for `counts` samples a class.

    For n samples of each class it is that of the logits c·(I - 11ᵀ/K): ln(1 + (K - 1)·e^-c) + (K - 1)·s·c with
    s = √(n·weight_decay·feature_decay), least at c = ln(1/s - K + 1), or 0 where s >= 1/K (Zhu et al. 2021, arXiv
    2105.02375, Theorem 3.1, for the frame); for other counts by descent on factors of the logits. 0 where one does not
    decay: then it is not reached.

    Certificate: `duality_gap` at most 1e-7 of the loss (of rounding where balanced), else NaN.
    Raises ValueError for fewer than two classes, negative counts or decays, and no sample at all.
    """
    optimum = _optimum(*_checked(counts, weight_decay, feature_decay))
    return optimum.loss if optimum.gap <= GAP_BOUND * optimum.loss else float("nan")


def classifier_gram(
    counts: Float[np.ndarray, "label"], weight_decay: float, feature_decay: float
) -> Float[np.ndarray, "label other"]:
    """Return W·Wᵀ of the best classifier: √(feature_decay/weight_decay)·U·S·Uᵀ for the logits U·S·Vᵀ of all samples.

    For balanced classes a multiple of `simplex_gram`. Certificate and errors as `minimum_loss`; NaN without decay.
    """
    sizes, weight_decay, feature_decay = _checked(counts, weight_decay, feature_decay)
    void = np.full((len(sizes), len(sizes)), np.nan)
    if not weight_decay > 0 or not feature_decay > 0 or np.isnan(minimum_loss(counts, weight_decay, feature_decay)):
        return void
    logits = _optimum(sizes, weight_decay, feature_decay).logits * np.sqrt(sizes)
    U, s, _ = np.linalg.svd(logits)
    return np.sqrt(feature_decay / weight_decay) * (U * s) @ U.T


def duality_gap(counts: Float[np.ndarray, "label"], strength: float, logits: Float[np.ndarray, "label other"]) -> float:
    """Return how far the loss of these logits is above a lower bound; `strength` is √(weight_decay·feature_decay).

    With the residuals G = softmax - onehot weighted by the classes' shares p and shrunk by t <= 1 until the spectral
    norm of G·diag(counts)^-1/2 is at most `strength`, the Fenchel dual is the mean entropy of (1 - t)·onehot +
    t·softmax.
    """
    sizes = np.asarray(counts, dtype=float)
    shares, labels = sizes / sizes.sum(), np.eye(len(sizes))
    chances = np.exp(logits - logits.max(axis=0))
    chances = chances / chances.sum(axis=0)
    seen = sizes > 0
    norm = np.linalg.norm(((chances - labels) * shares)[:, seen] / np.sqrt(sizes[seen]), 2)
    shrunk = labels + min(1.0, strength / norm if norm > 0 else 1.0) * (chances - labels)
    entropy = -np.where(shrunk > 0, shrunk * np.log(np.where(shrunk > 0, shrunk, 1.0)), 0.0).sum(axis=0)
    return float(_loss(sizes, strength, logits) - shares @ entropy)


def _loss(sizes: np.ndarray, strength: float, logits: np.ndarray) -> float:
    peak = logits.max(axis=0)
    entropy = np.log(np.exp(logits - peak).sum(axis=0)) + peak - np.diag(logits)
    return float(sizes / sizes.sum() @ entropy + strength * np.linalg.norm(logits * np.sqrt(sizes), "nuc"))


def _checked(counts: object, weight_decay: object, feature_decay: object) -> tuple[tuple[float, ...], float, float]:
    """Return the counts as a tuple, and both decays."""
    sizes = inputs.array("counts", counts, 1)
    if len(sizes) < 2:
        raise ValueError("counts has 1 entry; it takes one a class, two or more")
    if (sizes < 0).any() or sizes.sum() == 0:
        raise ValueError(f"counts is {sizes}; it takes numbers from 0 on, not all of them 0")
    weight_decay = inputs.number("weight_decay", weight_decay, low=0.0)
    return tuple(sizes.tolist()), weight_decay, inputs.number("feature_decay", feature_decay, low=0.0)


@lru_cache(maxsize=256)
def _optimum(counts: tuple[float, ...], weight_decay: float, feature_decay: float) -> Optimum:
    """Return the best logits, in closed form where the classes are balanced."""
    sizes, strength = np.array(counts), float(np.sqrt(weight_decay * feature_decay))
    classes, void = len(sizes), np.full((len(sizes), len(sizes)), np.nan)
    if np.isnan(sizes).any() or np.isnan(strength):
        return Optimum(void, float("nan"), float("inf"))
    if strength == 0:
        return Optimum(void, 0.0, 0.0)
    if np.ptp(sizes) == 0:
        s = strength * np.sqrt(sizes[0])
        logits = max(np.log(max(1 / s - classes + 1, 1.0)), 0.0) * simplex_gram(classes)
    else:
        logits = _descended(sizes, strength)
    return Optimum(logits, _loss(sizes, strength, logits), duality_gap(sizes, strength, logits))


def _descended(sizes: np.ndarray, strength: float) -> np.ndarray:
    """Return the best logits by descent on factors A·B = Z·diag(sizes)^1/2, whose minima are all global."""
    from scipy.optimize import minimize

    classes = len(sizes)
    shares, roots, labels = sizes / sizes.sum(), np.sqrt(np.maximum(sizes, np.finfo(float).tiny)), np.eye(classes)

    def objective(factors: np.ndarray) -> tuple[float, np.ndarray]:
        A, B = factors.reshape(2, classes, classes)
        logits = A @ B / roots
        chances = np.exp(logits - logits.max(axis=0))
        total = chances.sum(axis=0)
        entropy = np.log(total) + logits.max(axis=0) - np.diag(logits)
        slope = (chances / total - labels) * shares / roots
        gradient = np.stack([slope @ B.T + strength * A, A.T @ slope + strength * B])
        return float(shares @ entropy + strength / 2 * (factors @ factors)), gradient.ravel()

    begin = np.random.default_rng(0).normal(size=2 * classes**2)
    options = {"maxiter": 20_000, "maxfun": 100_000, "ftol": 0.0, "gtol": 1e-13, "maxcor": 60}
    A, B = minimize(objective, begin, jac=True, method="L-BFGS-B", options=options).x.reshape(2, classes, classes)
    return A @ B / roots
