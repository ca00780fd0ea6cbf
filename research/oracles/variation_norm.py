"""The largest margins of infinitely wide networks with one hidden layer of ReLU units, in two norms.

F1: f(x) = ∫ max(θ·x, 0) dν(θ) over the unit sphere, its norm the total variation of ν; a network Σ_j a_j·max(b_j·x, 0)
has an F1 norm of at most its path norm, Σ|a_j||b_j|. F2: f(x) = E a(b)·max(b·x, 0) over b ~ N(0, I), its norm
(E a²)^1/2: a Hilbert space, with the arc-cosine kernel (Cho & Saul 2009). Training both layers leads towards the
largest margin in the first, training the output layer alone to that in the second (Chizat & Bach 2020, arXiv
2002.04486).

The largest F1 margin is a linear program with one column for each point of the sphere; its dual is

    min over p >= 0, Σ p_i = 1, of the largest |G(θ)| on the sphere, G(θ) = Σ p_i·y_i·max(θ·x_i, 0).

For inputs with three entries (two and a constant) the inner maximum is exact: the planes θ·x_i = 0 cut the sphere into
cells in each of which G(θ) = g·θ, so that the maximum lies at ±g/|g|, at the projection of such a g on a plane, or
where two planes meet; and every cell has corners. Columns that violate the dual are added until the two values agree.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs
from research.oracles.arc_cosine import lengths_and_angles
from research.oracles.margin import maximum_margin

GAP_BOUND = 1e-6


class Bracket(NamedTuple):
    """The margin of a function that was found, and a bound on all margins."""

    lower: float
    upper: float


def variation_margin(X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"]) -> Bracket:
    """Return lower and upper bounds on the largest min_i y_i·f(x_i) of an f with F1 norm 1.

    Certificate: the bracket is at most 1e-6 wide, relative, else NaN; NaN too for data that no f separates.
    Raises ValueError for samples that have not three entries, one of them zero, labels other than -1 and +1.
    """
    return _solve(X, y)[0]


def variation_classifier(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    points: Float[np.ndarray, "point feature"],
) -> Float[np.ndarray, "point"]:
    """Return the outputs at `points` of a function with F1 norm 1 and the largest margin (one of them, if several).

    Certificate and errors as `variation_margin`.
    """
    _, directions, weights = _solve(X, y)
    points = inputs.array("points", points, 2)
    return np.maximum(points @ directions.T, 0) @ weights


def variation_bound(samples: Float[np.ndarray, "sample feature"], weights: Float[np.ndarray, "sample"]) -> float:
    """Return max |Σ_i weights_i·max(θ·x_i, 0)| over the unit sphere, exact for samples with three entries.

    Raises ValueError for samples of another length.
    """
    samples = inputs.array("samples", samples, 2)
    if samples.shape[1] != 3:
        raise ValueError(f"samples has rows of {samples.shape[1]} entries; it takes 3")
    weights = inputs.vector("weights", weights, len(samples), "samples has rows")
    return float(_extremes(samples, weights)[1].max())


def hidden_kernel(
    X: Float[np.ndarray, "sample feature"], points: Float[np.ndarray, "point feature"]
) -> Float[np.ndarray, "sample point"]:
    """Return E max(b·x, 0)·max(b·x', 0) over b ~ N(0, I): |x||x'|·(sin θ + (π - θ)·cos θ)/(2π), θ the angle between.

    Raises ValueError for rows of different lengths.
    """
    lengths, angle = lengths_and_angles(X, points)
    return lengths * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)


def kernel_margin(X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"]) -> float:
    """Return the largest min_i y_i·f(x_i) of an f with F2 norm 1: the support vector machine of `hidden_kernel`.

    Certificate: that of `maximum_margin` on a root of the kernel, else NaN. Raises ValueError as that does.
    """
    X, y = inputs.classification(X, y)
    weights = maximum_margin(_root(X), y, 2)
    return float(1 / np.linalg.norm(weights))


def kernel_classifier(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    points: Float[np.ndarray, "point feature"],
) -> Float[np.ndarray, "point"]:
    """Return the outputs at `points` of the function with F2 norm 1 and the largest margin.

    Certificate and errors as `kernel_margin`.
    """
    X, y = inputs.classification(X, y)
    root = _root(X)
    weights = maximum_margin(root, y, 2)
    if np.isnan(weights).any():
        return np.full(len(points), np.nan)
    coefficients = np.linalg.lstsq(root.T, weights / np.linalg.norm(weights), rcond=None)[0]
    return coefficients @ hidden_kernel(X, points)


def feature_margin(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], hidden: Float[np.ndarray, "unit feature"]
) -> float:
    """Return the largest margin of Σ_j a_j·max(b_j·x, 0)/m with (Σ a_j²/m)^1/2 = 1 for these m hidden weights b.

    Certificate: that of `maximum_margin`, else NaN. Raises ValueError as that does.
    """
    X, y = inputs.classification(X, y)
    hidden = inputs.array("hidden", hidden, 2)
    if np.isnan(hidden).any():
        return float("nan")
    features = np.maximum(X @ hidden.T, 0) / len(hidden) ** 0.5
    return float(1 / np.linalg.norm(maximum_margin(features, y, 2)))


def _root(X: np.ndarray) -> np.ndarray:
    """Return R with R·Rᵀ the kernel of the samples; NaN where they are."""
    if np.isnan(X).any():
        return np.full((len(X), len(X)), np.nan)
    values, vectors = np.linalg.eigh(hidden_kernel(X, X))
    return vectors * np.sqrt(np.maximum(values, 0))


def _solve(X: object, y: object) -> tuple[Bracket, np.ndarray, np.ndarray]:
    """Return the certified bracket, directions on the sphere and the weights of the best function found, or NaN."""
    from scipy.optimize import linprog

    X, y = inputs.classification(X, y)
    void = Bracket(np.nan, np.nan), np.full((1, 3), np.nan), np.full(1, np.nan)
    if X.shape[1] != 3:
        raise ValueError(f"X has rows of {X.shape[1]} entries; it takes 3")
    if (np.linalg.norm(X, axis=1) == 0).any():
        raise ValueError("X has a row of zeros; it takes samples of positive length")
    if np.isnan(X).any() or np.isnan(y).any():
        return void
    directions, lower, upper = _extremes(X, y)[0][:: max(1, len(X) // 4)], 0.0, np.inf
    for _ in range(60):
        outputs = y[:, None] * np.maximum(X @ directions.T, 0)
        count = len(directions)
        answer = linprog(
            np.append(np.zeros(2 * count), -1.0),
            A_ub=np.block([[-outputs, outputs, np.ones((len(X), 1))], [np.ones((1, 2 * count)), np.zeros((1, 1))]]),
            b_ub=np.append(np.zeros(len(X)), 1.0),
            bounds=(0, None),
            method="highs",
        )
        if answer.status != 0:
            return void
        weights = answer.x[:count] - answer.x[count:-1]
        lower = (outputs @ weights).min() / max(np.abs(weights).sum(), np.finfo(float).tiny)
        share = np.maximum(-answer.ineqlin.marginals[:-1], 0)
        if not share.sum() > 0:
            return void
        places, values = _extremes(X, share / share.sum() * y)
        upper = min(upper, values.max())
        if upper - lower <= GAP_BOUND * upper:
            break
        kept, best = weights != 0, np.argsort(-values)
        # of places next to each other, as those of one arc are, one is enough
        _, first = np.unique(np.round(places[best], 6), axis=0, return_index=True)
        new = places[best[np.sort(first)]][:40]
        directions = np.concatenate([directions[kept], new])
    if not (upper - lower <= GAP_BOUND * upper and lower > 0):
        return void
    return Bracket(float(lower), float(upper)), directions, weights / np.abs(weights).sum()


def _extremes(X: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places on the sphere among which |Σ weights_i·max(θ·x_i, 0)| has its maxima, and its values there."""
    one, other = np.triu_indices(len(X), 1)
    corners = np.cross(X[one], X[other])
    length = np.linalg.norm(corners, axis=1)
    kept = length > 1e-12 * length.max(initial=1e-300)
    one, other = np.tile(one[kept], 2), np.tile(other[kept], 2)
    corners = corners[kept] / length[kept, None]
    corners = np.concatenate([corners, -corners])
    inside, rows = corners @ X.T > 0, np.arange(len(corners))
    inside[rows, one] = inside[rows, other] = False  # zero but for rounding; the cells around have each of both signs
    pulls = weights[:, None] * X
    base = inside @ pulls
    units = X / np.linalg.norm(X, axis=1, keepdims=True)
    places = [corners, units]
    for first in (0, 1):
        for second in (0, 1):
            gradient = base + first * pulls[one] + second * pulls[other]
            places.append(gradient)
            places += [gradient - (gradient * units[at]).sum(axis=1, keepdims=True) * units[at] for at in (one, other)]
    every = np.concatenate(places)
    size = np.linalg.norm(every, axis=1)
    every = every[size > 1e-14 * np.abs(weights).max()] / size[size > 1e-14 * np.abs(weights).max(), None]
    every = np.concatenate([every, -every])
    return every, np.abs(np.maximum(every @ X.T, 0) @ weights)
