"""The singular values of the Jacobian of one wide random layer, from what it is given to what it hands on.

J = D W: W a square matrix of independent entries of variance gain/n, D the diagonal of the slopes φ'(√q z) at Gaussian
pre-activations of variance q, which in a wide layer is independent of W. JJᵀ has the eigenvalues of a sample covariance
matrix whose population has the law of τ = gain·φ'²; with as many samples as dimensions Silverstein's equation
(Silverstein 1995, "Strong convergence of the empirical distribution of eigenvalues of large dimensional random
matrices") for m = E 1/(λ + t), t > 0, reads t·m = E 1/(1 + τm), which is solved for t: E λ/(λ + t) = E τm/(1 + τm).
"""

from typing import NamedTuple

import numpy as np

from research.oracles import inputs
from research.oracles.activations import Activation, named
from research.oracles.gaussian import FINER, ORDER, gaussian_expectation
from research.oracles.wide_layer import mean_square_slope

ERROR_BOUND = 1e-8
STEP, REACH = 0.1, 4.1  # of the trapezoidal rule in w, m = exp(2 sinh w); at its ends m is e^±60


class LayerJacobian(NamedTuple):
    """Root mean square and mean of the singular values, Var φ'² over (E φ'²)², and the geometric mean of the former."""

    root_mean_square: float
    mean: float
    slope_variance: float
    geometric_mean: float


UNKNOWN = LayerJacobian(*[float("nan")] * 4)


def layer_jacobian(activation: str | Activation, gain: float, q: float) -> LayerJacobian:
    """Return root mean square, mean and geometric mean of the singular values of D W in the limit of infinite width.

    The root mean square is √(gain·E φ'²), by which back-propagated gradients change (Glorot & Bengio 2010, equation 6,
    with the slopes that they set to 1). The mean: √λ = (2/π)∫ λ/(λ + s²) ds, by parts (2/π)∫ s dF with F = E λ/(λ + s²)
    and both given in m above; for slope 1 it is (2/π)·B(1/2, 2)·√gain = 8/(3π)·√gain, that of the quarter circle. The
    geometric mean, the n-th root of the ratio of volumes |det J|: √gain·exp(E ln|φ'| - 1/2), as determinants multiply
    and ln det WWᵀ is -n; 0 where the slope vanishes on part of the line. The relative variance of the squared slopes is
    what keeps J from an isometry even where W is orthogonal (Pennington et al. 2017, arXiv 1711.04735).

    Certificate: all of them again with a finer quadrature, the integral in half the steps, within 1e-8 relative, or of
    1 for the variance, else NaN. Raises ValueError for an unknown activation, a negative q, and a gain that is not
    positive.
    """
    function = named(activation)
    variance = inputs.number("q", q, low=0.0)
    factor = inputs.number("gain", gain, low=np.nextafter(0.0, 1.0))
    if np.isnan([variance, factor]).any():
        return UNKNOWN
    answers = [_answer(function, factor, variance, *rule) for rule in ((ORDER, STEP), (FINER, STEP / 2))]
    pairs = zip(*(answer._replace(slope_variance=1 + answer.slope_variance) for answer in answers), strict=True)
    certified = all(abs(value - finer) <= ERROR_BOUND * abs(finer) for value, finer in pairs)
    return answers[1] if certified else UNKNOWN


def _answer(function: Activation, gain: float, q: float, order: int, step: float) -> LayerJacobian:
    expected = lambda of: gaussian_expectation(lambda u: of(function.slope(u)), q, order, function.bends)
    mean_square = mean_square_slope(function, q, order)
    w = np.arange(-REACH, REACH + step / 2, step)
    # m in units of the mean of τ, so that the nodes lie where the integrand does
    nodes, jacobian = np.exp(2 * np.sinh(w)), 2 * np.cosh(w)
    tau = lambda slope: slope**2 / mean_square
    root = np.array([expected(lambda slope, m=m: 1 / (1 + tau(slope) * m)) for m in nodes])
    # dF/dm is E τ/(1 + τm)², the sum over m taken within the expectation.
    shares = step * np.sqrt(root / nodes) * nodes * jacobian
    mean = 2 / np.pi * expected(lambda slope: tau(slope) * (shares @ (1 + np.outer(nodes, tau(slope))) ** -2))
    with np.errstate(divide="ignore"):
        logarithm = expected(lambda slope: np.where(slope != 0, np.log(np.abs(np.where(slope, slope, 1))), -np.inf))
    size = np.sqrt(gain * mean_square)
    geometric_mean = np.sqrt(gain) * np.exp(logarithm - 0.5)
    variance = expected(lambda slope: (tau(slope) - 1) ** 2)
    return LayerJacobian(float(size), float(size * mean), variance, float(geometric_mean))
