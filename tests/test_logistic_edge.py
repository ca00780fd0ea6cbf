"""The sampling errors that `logistic_edge` takes its bands from, against networks' units drawn at random."""

import numpy as np
import pytest
import xarray as xr
from scipy.special import expit

from experiments.saturation._logistic_edge import bound_error, orthogonal_spread, prediction
from research.oracles.isometry import jacobian_spread

SEEDS = 8


def test_the_spread_of_one_layer_varies_from_network_to_network_as_told():
    scale, width, rng = 10.0, 300, np.random.default_rng(0)
    law = orthogonal_spread(scale, width, 1)
    q = 44.20744  # the fixed point
    below = rng.standard_normal((4000, width)) * q**0.5
    variances = scale**2 * (expit(below) ** 2).mean(axis=1, keepdims=True)
    assert variances.mean() == pytest.approx(q, rel=0.01)
    slopes = expit(rng.standard_normal(below.shape) * variances**0.5)
    slopes = slopes * (1 - slopes)
    kurtosis = (slopes**4).mean(axis=1) / (slopes**2).mean(axis=1) ** 2
    # to first order in 1/width, and at most
    assert 0.9 * law.deviation < kurtosis.std() < 1.02 * law.deviation


def test_more_layers_spread_more_and_gaussian_weights_lie_outside_the_band():
    one, four = (orthogonal_spread(10.0, 200, layers) for layers in (1, 4))
    assert four.deviation == pytest.approx(2 * one.deviation)
    gaussian = jacobian_spread("sigmoid", 44.20744, 200, False, 4)[-1]
    assert gaussian > four.expected + 5 * four.deviation / SEEDS**0.5
    assert np.isnan(orthogonal_spread(float("nan"), 200, 4)).all()


def test_growth_below_its_bound_has_at_most_the_error_told():
    width, layers, rng = 300, 15, np.random.default_rng(0)
    share = 16 * prediction(1.0, 1.0, 0.5, 0.5, 0.0, 0.0, 30).expected_growth
    runs = xr.Dataset(coords={"width": width, "depth": 2 * layers, "seed": np.arange(SEEDS)})
    activations = expit(rng.standard_normal((20_000, width)) * 0.27**0.5)
    gradients = rng.standard_normal(activations.shape)
    ratios = ((activations * (1 - activations)) ** 2 * gradients**2).mean(axis=1)
    one = bound_error(runs, share) * ((layers - 1) * SEEDS) ** 0.5
    assert 0.9 * one < ratios.std() / ratios.mean() < one
