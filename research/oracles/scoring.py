"""Which prediction a scoring rule rewards most, and the losses and slopes of a wrong one.

A prediction p is a distribution over classes. What it costs where class k comes true: -ln p_k ("cross_entropy"),
‖p - e_k‖² ("quadratic", Brier 1950), 1 - p_k ("linear": the chance that a guess drawn from p is wrong). A rule is
proper where the true probabilities cost least on average: Savage 1971; Gneiting & Raftery 2007, Strictly proper scoring
rules.
Natural logarithms; a score is that of one sample.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RESIDUAL_BOUND = 1e-12
RULES = ("cross_entropy", "quadratic", "linear")


def best_prediction(frequencies: Float[np.ndarray, "outcome"], rule: str) -> Float[np.ndarray, "outcome"]:
    """Return the distribution p that minimises Σ_k frequency_k · score(p, k).

    By Newton's method on the conditions of Karush, Kuhn and Tucker in the simplex, from the uniform distribution,
    without knowing the answer; by the linear program's vertex for the linear rule. Certificate: a gradient that is the
    same in every class, and a sum of one, to 1e-12 (for a vertex: no tie), else NaN. NaN for NaN.
    Raises ValueError for another rule, and frequencies that are not positive or do not sum to one.
    """
    q, rule = _checked(frequencies, "frequencies"), _rule(rule)
    if np.isnan(q).any():
        return np.full(len(q), np.nan)
    if rule == "linear":
        vertex = (q == q.max()).astype(float)
        return vertex if vertex.sum() == 1 else np.full(len(q), np.nan)
    p = np.full(len(q), 1 / len(q))
    for _ in range(200):
        gradient, curvature = _derivatives(q, p, rule)
        multiplier = ((p.sum() - 1) - (gradient / curvature).sum()) / (1 / curvature).sum()
        step = -(gradient + multiplier) / curvature
        p = p + step * min(1.0, 0.9 / max(1e-300, float((-step / p).max())))
    gradient, curvature = _derivatives(q, p, rule)
    certified = np.ptp(gradient) <= RESIDUAL_BOUND * (curvature * p).max() and abs(p.sum() - 1) <= RESIDUAL_BOUND
    return p if certified and p.min() > 0 else np.full(len(q), np.nan)


def negative_log_likelihood(counts: Float[np.ndarray, "outcome"], probabilities: Float[np.ndarray, "outcome"]) -> float:
    """Return -ln of the probability of a sequence of independent draws with those counts, by SciPy's multinomial law.

    NaN for NaN and where a count is not whole. Raises ValueError for probabilities that are not positive or do not sum
    to one, and for sizes that do not agree.
    """
    from scipy.special import gammaln
    from scipy.stats import multinomial

    p = _checked(probabilities, "probabilities")
    n = inputs.vector("counts", counts, len(p), "probabilities has")
    if np.isnan(n).any() or np.isnan(p).any() or (n != np.round(n)).any() or n.min() < 0:
        return float("nan")
    orders = gammaln(n.sum() + 1) - gammaln(n + 1).sum()
    return float(orders - multinomial(int(n.sum()), p / p.sum()).logpmf(n))


def slope_ratio(logit: float) -> float:
    """Return the slope of the quadratic loss (1 - p)² over that of -ln p where p = 1/(1 + e^logit) is the label's.

    2(1 - p)·p(1 - p) over 1 - p: 2p(1 - p) = 2e^-z/(1 + e^-z)², which vanishes as 2e^-|z|. NaN for NaN.
    """
    z = abs(inputs.number("logit", logit))
    return float(2 * np.exp(-z) / (1 + np.exp(-z)) ** 2)


def _derivatives(q: np.ndarray, p: np.ndarray, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Return gradient and (diagonal) second derivative of the mean score: -Σ q ln p, and ‖p‖² - 2 q·p + 1."""
    return (-q / p, q / p**2) if rule == "cross_entropy" else (2 * p - 2 * q, np.full(len(p), 2.0))


def _checked(values: object, name: str) -> np.ndarray:
    array = inputs.array(name, values, 1)
    if not np.isnan(array).any() and (array.min() <= 0 or abs(array.sum() - 1) > 1e-6):
        raise ValueError(
            f"{name} is {array.min():g} at least and sums to {array.sum():g}; it takes positive numbers that sum to 1"
        )
    return array


def _rule(rule: str) -> str:
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; it takes {', '.join(RULES)}")
    return rule
