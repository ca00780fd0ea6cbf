"""The weights of a logistic unit on one input under Gaussian noise: those of linear discriminant analysis."""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RESIDUAL_BOUND = 1e-9


def noisy_logistic_weights(
    mean: Float[np.ndarray, "feature"], deviation: Float[np.ndarray, "feature"]
) -> Float[np.ndarray, "feature"]:
    """Return the minimiser of E ln(1 + exp(-w·x)), x normal with this mean and independent features: w = 2 mean/dev².

    The input counts with the label 1 (or its opposite with the other). Classes N(±mean, Σ) have the log-odds
    2 meanᵀΣ⁻¹x, which is the logistic model (Efron 1975, "The efficiency of logistic regression compared to normal
    discriminant analysis"), and of a model that is true the mean loss is least at its own weights.

    Certificate: the mean gradient -E x s(-w·x), s the logistic function, is Σw E s'(w·x) - mean E s(-w·x) by Stein's
    lemma: the two terms agree to 1e-9, else NaN. NaN in gives NaN, and so does a deviation of zero: there is no
    minimiser. Raises ValueError for negative deviations and shapes that do not agree.
    """
    mean = inputs.array("mean", mean, 1)
    deviation = inputs.vector("deviation", deviation, len(mean), "mean")
    if (deviation < 0).any():
        raise ValueError(f"deviation is {deviation.min():g} somewhere; it takes numbers that are not negative")
    if np.isnan([mean, deviation]).any() or not deviation.all():
        return np.full(len(mean), np.nan)
    from scipy.integrate import quad
    from scipy.special import expit

    weights = 2 * mean / deviation**2
    middle, width = float(weights @ mean), float(np.linalg.norm(weights * deviation))
    if not width:
        return weights  # a mean of zero, and both terms are zero
    # u = w·x is normal, but s(-u) and s'(u) leave of its density what lies about u = 0, middle/width deviations out:
    # there, without the factor exp(-middle²/(2 width²)), it is exp(u middle/width² - u²/(2 width²)), middle = width²/2.
    # Beyond |u| = 80 and beyond 12 deviations from the middle the integrands are below 1e-17 of their largest.
    density = lambda u: np.exp(u * middle / width**2 - (u / width) ** 2 / 2)
    unit = min(width, 1.0)
    bound = min(80.0, middle + 12 * width) / unit
    averaged = lambda value: quad(
        lambda v: density(unit * v) * value(unit * v), -bound, bound, epsabs=1e-14, epsrel=1e-12, limit=200
    )[0]
    missing = averaged(lambda u: expit(-u))
    slope = averaged(lambda u: expit(u) * expit(-u))
    certain = abs(2 * slope - missing) <= RESIDUAL_BOUND * missing  # Σw = 2 mean
    return weights if certain else np.full(len(mean), np.nan)
