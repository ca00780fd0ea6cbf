"""Adam on separable data: how fast it goes, and where to when it sees one sample at a time.

No separator here has a bias term. Labels are -1 and +1, z_i = y_i·x_i, squares and roots are taken entry by entry.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs
from research.oracles.margin import maximum_margin, support_multipliers

RESIDUAL_BOUND = 1e-8
ROUNDS = 2000


def incremental_adam_direction(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"]
) -> Float[np.ndarray, "feature"]:
    """Return w with min_i z_i·w = 1 and w ∝ Σ c_i·z_i / √(Σ c_i²·z_i²), c >= 0 zero off the support vectors of w.

    Over an epoch at small steps, per-sample Adam with eps = 0 sums the gradients Σ g_i and divides by the root of the
    mean of their squares, which with b2 → 1 is √(Σ g_i²/n) (Baek, Song & Yun 2025, arXiv 2510.26303). On separable
    data g_i ∝ -c_i·z_i where the direction has settled. So w is the maximum margin in the norm √(Σ_k m_k·w_k²), and
    m = √(Σ c_i²·z_i²) depends on its own multipliers: a fixed point, found by solving for w and m in turn. Where every
    |z_ik| is the same for all features k, m is constant and w the l2 maximum margin; where each feature belongs to
    one support vector, every |w_k| is the same, the l-infinity one. That there is only one fixed point is not proved.

    Certificate: `fixed_point_residual` at most 1e-8, else NaN; NaN for data that are not separable.
    Raises ValueError for labels other than -1 and +1, shapes that do not agree and infinite entries.
    """
    X, y = inputs.classification(X, y)
    void = np.full(X.shape[1], np.nan)
    if np.isnan(X).any() or np.isnan(y).any() or np.isnan(maximum_margin(X, y, 2)).any():
        return void
    seen = np.abs(X).max(axis=0) > 0
    Z, metric = (X * y[:, None])[:, seen], np.ones(seen.sum())
    for _ in range(ROUNDS):
        multipliers = support_multipliers(Z / np.sqrt(metric), np.ones(len(Z)))
        found = np.sqrt(Z.T**2 @ multipliers**2)
        if not found.all() or np.isnan(found).any():
            return void
        if fixed_point_residual(Z, np.ones(len(Z)), multipliers) <= RESIDUAL_BOUND / 100:
            break
        # the mean of the old and the new metric in the logarithm: the plain iteration may go round in circles
        metric = np.sqrt(metric * found)
        metric /= metric.max()
    if not fixed_point_residual(Z, np.ones(len(Z)), multipliers) <= RESIDUAL_BOUND:
        return void
    weights, result = Z.T @ multipliers / found, np.zeros(X.shape[1])
    result[seen] = weights / (Z @ weights).min()
    return result


def adam_path_length(
    step: Float[np.ndarray, "step"], learning_rate: float, margin: float, b2: float, b1: float = 0.9
) -> Float[np.ndarray, "step"]:
    """Return the sum of the lengths, in the l-infinity norm, of Adam's updates up to each of the increasing steps.

    Step s has learning rate learning_rate/√s, eps = 0, and the loss falls by exp(-margin·length), as for a direction
    of that l-infinity margin. A gradient that falls by exp(-δ) a step has, in units of itself, the first moment
    (1 - b1)/(1 - b1·e^δ) and the second (1 - b2)/(1 - b2·e^2δ); the ratio r of the first to the root of the second is
    the length in units of the learning rate, and δ = margin·r·learning_rate/√s. So r < 1: the loss never falls faster
    than √b2 a step. Valid past the first 1/(1 - b2) steps; the lengths are summed by the trapezoidal rule in √s,
    exact to the spacing of the steps. Certificate: none but monotonicity, which makes r the only root.

    Raises ValueError for steps not increasing from 0 or more, and for numbers out of range.
    """
    step = inputs.array("step", step, 1)
    learning_rate = inputs.number("learning_rate", learning_rate, low=0.0)
    margin = inputs.number("margin", margin, low=0.0)
    b1, b2 = (inputs.number(name, value, low=0.0, below=1.0) for name, value in (("b1", b1), ("b2", b2)))
    if np.isnan([learning_rate, margin, b1, b2]).any() or np.isnan(step).any():
        return np.full(len(step), np.nan)
    if step[0] < 0 or (np.diff(step) <= 0).any():
        raise ValueError("step must increase, from 0 or more")
    fall = margin * learning_rate / np.sqrt(np.maximum(step, 1.0))
    low, high = np.zeros(len(step)), np.ones(len(step))
    for _ in range(60):
        middle = (low + high) / 2
        shorter = middle < _moment_ratio(fall * middle, b1, b2)
        low, high = np.where(shorter, middle, low), np.where(shorter, high, middle)
    lengths = (low[1:] + low[:-1]) * np.diff(np.sqrt(step)) * learning_rate
    return np.append(0.0, lengths.cumsum()) + 2 * learning_rate * low[0] * np.sqrt(step[0])


def _moment_ratio(fall: np.ndarray, b1: float, b2: float) -> np.ndarray:
    """Return m/√v of a gradient that falls by exp(-fall) a step, zero where v's memory is longer than that."""
    first, second = 1 - b1 * np.exp(fall), (1 - b2 * np.exp(2 * fall)) / (1 - b2)
    return np.where(second > 0, (1 - b1) / np.maximum(first, 1e-300) * np.sqrt(np.maximum(second, 0.0)), 0.0)


def fixed_point_residual(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], multipliers: Float[np.ndarray, "sample"]
) -> float:
    """Return 1 - (least margin)/(margin that the multipliers c weigh) of the w that c makes; zero at a fixed point.

    w = Σ c_i·z_i / √(Σ c_i²·z_i²), and the weighed margin is Σ c_i·z_i·w / Σ c_i: with c >= 0 the two agree only where
    c is zero off the support vectors. Infinite for a negative multiplier and where no sample with c > 0 has a feature.
    """
    Z = X * y[:, None]
    if not multipliers.min() >= 0 or not multipliers.sum() > 0:
        return float("inf")
    scale = np.sqrt(Z.T**2 @ multipliers**2)
    weights = np.divide(Z.T @ multipliers, scale, out=np.zeros_like(scale), where=scale > 0)
    margins = Z @ weights
    weighed = multipliers @ margins / multipliers.sum()
    return float(1 - margins.min() / weighed) if weighed > 0 else float("inf")
