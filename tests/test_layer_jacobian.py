"""Singular values of one wide layer: the quarter circle, a free product in closed form, drawn matrices, bad input."""

import numpy as np
import pytest
from scipy import integrate, optimize

from research.oracles.activations import ACTIVATIONS
from research.oracles.layer_jacobian import layer_jacobian


@pytest.mark.parametrize("gain", [1 / 3, 1.0, 2.5])
def test_slope_one_is_the_quarter_circle(gain):
    density = lambda s: np.sqrt(4 * gain - s**2) / (np.pi * gain)
    mean, logarithm = (
        integrate.quad(lambda s, of=of: of(s) * density(s), 0, 2 * gain**0.5)[0] for of in (lambda s: s, np.log)
    )
    answer = layer_jacobian("linear", gain, 0.7)
    assert answer == pytest.approx((gain**0.5, mean, 0, np.exp(logarithm)), abs=1e-7)
    assert answer.mean == pytest.approx(8 / (3 * np.pi) * gain**0.5, rel=1e-8)


def test_half_of_the_slopes_zero_is_a_rectangular_matrix():
    # n/2 rows of variance 1/n: the eigenvalues of JJᵀ that are not zero have the Marchenko–Pastur law of ratio 1/2.
    low, high = (1 - 0.5**0.5) ** 2, (1 + 0.5**0.5) ** 2
    density = lambda x: np.sqrt((high - x) * (x - low)) / (2 * np.pi * 0.5 * x)
    mean = integrate.quad(lambda x: np.sqrt(x) * density(x), low, high)[0] / 2
    answer = layer_jacobian("relu", 1.0, 3.0)
    assert answer == pytest.approx((0.5**0.5, mean, 1, 0), rel=1e-7)


@pytest.mark.parametrize(("activation", "q"), [("tanh", 0.2), ("tanh", 4.0), ("softsign", 1.0)])
def test_the_mean_by_solving_for_the_stieltjes_transform(activation, q):
    z = np.linspace(-9, 9, 6001)
    tau, weights = ACTIVATIONS[activation].slope(np.sqrt(q) * z) ** 2, np.exp(-(z**2) / 2)
    weights /= weights.sum()

    def share(s):  # E λ/(λ + s²)
        m = optimize.brentq(lambda m: s**2 * m - weights @ (1 / (1 + tau * m)), 0, 1 / s**2, rtol=1e-14)
        return weights @ (tau * m / (1 + tau * m))

    mean = 2 / np.pi * sum(integrate.quad(share, *ends, epsrel=1e-8)[0] for ends in ((1e-9, 1), (1, np.inf)))
    assert layer_jacobian(activation, 1.0, q).mean == pytest.approx(mean, rel=1e-5)


def test_drawn_matrices():
    random, width, q = np.random.default_rng(0), 600, 1.3
    slopes = ACTIVATIONS["tanh"].slope(np.sqrt(q) * random.normal(size=(3, width, 1)))
    singular = np.linalg.svd(slopes * random.uniform(-1, 1, (3, width, width)) / width**0.5, compute_uv=False)
    answer = layer_jacobian("tanh", 1 / 3, q)
    error = 3 * (answer.slope_variance / singular.size) ** 0.5 / 2
    measured = (np.mean(singular**2) ** 0.5, singular.mean(), np.exp(np.log(singular).mean()))
    assert measured == pytest.approx((answer.root_mean_square, answer.mean, answer.geometric_mean), rel=2 * error)
    assert answer.slope_variance == pytest.approx(np.var(slopes**2) / np.mean(slopes**2) ** 2, rel=0.1)
    wrong = layer_jacobian("tanh", 1 / 3, 2 * q)
    assert abs(singular.mean() / wrong.mean - 1) > 2 * error


def test_bad_input_is_refused_by_name_and_nan_passes():
    with pytest.raises(ValueError, match="gain is 0"):
        layer_jacobian("tanh", 0.0, 1.0)
    with pytest.raises(ValueError, match="q is -1"):
        layer_jacobian("tanh", 1.0, -1.0)
    with pytest.raises(ValueError, match="activation is 'step'"):
        layer_jacobian("step", 1.0, 1.0)
    assert np.isnan([layer_jacobian("tanh", np.nan, 1.0), layer_jacobian("tanh", 1.0, np.nan)]).all()
