"""What the logistic loss of a sample is, its slope, and what scikit-learn's `log_loss` makes of it.

A sample of label y in {0, 1} and logit z has p = 1/(1 + e^-z) and the loss -y ln p - (1 - y) ln(1 - p) = ln(1 + e^m),
m = z for y = 0 and -z for y = 1; its slope in z is p - y. Natural logarithms; nothing is clipped unless said.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RESIDUAL_BOUND = 1e-13
LARGEST = -float(np.log(np.finfo(np.float64).eps))  # 36.04: the largest loss of a sample to scikit-learn


def logistic_losses(
    logits: Float[np.ndarray, "sample"], labels: Float[np.ndarray, "sample"]
) -> Float[np.ndarray, "sample"]:
    """Return ln(1 + e^m) of each sample, exact to a few units in the last place for every finite logit.

    Certificate: the losses of the two labels differ by the logit, and e^-loss of the two sum to one, each to 1e-13
    (relative), else NaN. NaN for NaN. Raises ValueError for labels other than 0 and 1, and for infinite logits.
    """
    z, y = _checked(logits, labels)
    wrong = np.where(y == 1, -z, z)
    with np.errstate(invalid="ignore", under="ignore"):
        losses, others = np.logaddexp(0.0, wrong), np.logaddexp(0.0, -wrong)
        apart = np.abs(losses - others - wrong) / np.maximum(np.abs(z), 1.0)
        whole = np.abs(np.exp(-losses) + np.exp(-others) - 1)
    return np.where((apart <= RESIDUAL_BOUND) & (whole <= RESIDUAL_BOUND) & ~np.isnan(y), losses, np.nan)


def logistic_slopes(
    logits: Float[np.ndarray, "sample"], labels: Float[np.ndarray, "sample"]
) -> Float[np.ndarray, "sample"]:
    """Return p - y of each sample, p - 1 as -1/(1 + e^z), so that no digits are lost. NaN and errors as for losses."""
    from scipy.special import expit

    z, y = _checked(logits, labels)
    return np.where(np.isnan(y), np.nan, np.where(y == 1, -expit(-z), expit(z)))


def clipped_log_loss(probabilities: Float[np.ndarray, "sample"], labels: Float[np.ndarray, "sample"]) -> float:
    """Return scikit-learn's mean log loss of the probabilities of label 1, which it clips to [eps, 1 - eps].

    So no sample costs more than 52 ln 2 = 36.04 there. NaN for NaN. Raises ValueError for labels other than 0 and 1 and
    for probabilities outside [0, 1].
    """
    from sklearn.metrics import log_loss

    p, y = _checked(probabilities, labels, "probabilities")
    if np.isnan(p).any() or np.isnan(y).any():
        return float("nan")
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"probabilities span {p.min():g} to {p.max():g}; it takes numbers from 0 to 1")
    return float(log_loss(y, p, labels=[0.0, 1.0]))


def _checked(values: object, labels: object, name: str = "logits") -> tuple[np.ndarray, np.ndarray]:
    numbers = inputs.array(name, values, 1)
    y = inputs.vector("labels", labels, len(numbers), f"{name} has")
    strangers = y[~(np.isnan(y) | (y == 0) | (y == 1))]
    if len(strangers):
        raise ValueError(f"labels has the entry {strangers[0]:g}; it takes 0 and 1")
    return numbers, y
