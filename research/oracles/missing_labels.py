"""What labels that are missing do to logistic regression, where it is told of them and where not.

A sample with label 1 is seen with the probability `kept_positive`, one with label 0 with `kept_negative`, whatever its
inputs. By Bayes' rule the odds of label 1 among those seen are the true odds times kept_positive/kept_negative, for
every input: a logistic model of what is seen is true again, with the intercept moved by ln(kept_positive/kept_negative)
and nothing else (Prentice & Pyke 1979, Biometrika 66; King & Zeng 2001, Political Analysis 9, "prior correction").
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs


def logit_shift(kept_positive: float, kept_negative: float) -> float:
    """Return ln(kept_positive/kept_negative), by which the logit of what is seen exceeds the true one.

    NaN for NaN. Raises ValueError for probabilities outside (0, 1].
    """
    kept = [
        inputs.number(name, value, low=np.nextafter(0, 1), below=1 + 1e-12)
        for name, value in (("kept_positive", kept_positive), ("kept_negative", kept_negative))
    ]
    return float(np.log(kept[0]) - np.log(kept[1]))


def standard_errors(
    X: Float[np.ndarray, "sample feature"], weights: Float[np.ndarray, "feature"]
) -> Float[np.ndarray, "feature"]:
    """Return the standard errors of fitted logistic weights, √diag (Σ p(1 - p) x xᵀ)⁻¹, p = 1/(1 + e^(-x·w)).

    The asymptotic law of maximum likelihood. Certificate: the inverse to 1e-8, else NaN; NaN for NaN. Raises ValueError
    for shapes that do not agree and infinite entries.
    """
    from scipy.special import expit

    X = inputs.array("X", X, 2)
    weights = inputs.vector("weights", weights, X.shape[1], "X has columns")
    void = np.full(X.shape[1], np.nan)
    if np.isnan(X).any() or np.isnan(weights).any():
        return void
    p = expit(X @ weights)
    information = (X.T * (p * (1 - p))) @ X
    try:
        inverse = np.linalg.inv(information)
    except np.linalg.LinAlgError:
        return void
    if np.abs(information @ inverse - np.eye(len(inverse))).max() > 1e-8:
        return void
    return np.sqrt(np.diag(inverse))
