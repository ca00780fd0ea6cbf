"""The growth of gradients under batch normalisation: closed forms, a simulated layer, bad input."""

import numpy as np
import pytest
from scipy.stats import norm

from research.oracles.activations import Activation
from research.oracles.batch_norm import gradient_growth


def test_closed_forms():
    assert gradient_growth("relu", 1000) == pytest.approx(np.pi / (np.pi - 1), rel=1e-12)
    assert gradient_growth("linear", 8) == pytest.approx(1.2)
    assert gradient_growth("tanh", 100) == pytest.approx(1.1778, abs=1e-4)
    assert gradient_growth("sigmoid", 100) == pytest.approx(1.0336, abs=1e-4)


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_an_activation_of_ones_own(shift):
    shifted = Activation(lambda u: np.maximum(u + shift, 0), lambda u: (u > -shift) * 1.0, 0.0, bends=(-shift,))
    on, density = norm.cdf(shift), norm.pdf(shift)
    mean, square = shift * on + density, (shift**2 + 1) * on + shift * density
    assert gradient_growth(shifted, 1000) == pytest.approx(on / (square - mean**2), rel=1e-9)


@pytest.mark.parametrize(("activation", "batch"), [("linear", 8), ("linear", 12), ("relu", 200)])
def test_one_layer_of_many_units_by_simulation(activation, batch):
    generator = np.random.default_rng(0)
    units = 10_000
    active = lambda u: np.maximum(u, 0) if activation == "relu" else u
    unit_lengths = generator.standard_normal((units, batch))
    unit_lengths -= unit_lengths.mean(axis=1, keepdims=True)
    unit_lengths /= unit_lengths.std(axis=1, keepdims=True)
    below = active(unit_lengths)
    # of samples: a common part, which normalisation removes, and parts of their own; what is left has variance v
    v = (below - below.mean(axis=1, keepdims=True)).var(axis=1, ddof=1).mean()
    sums = np.sqrt(v) * generator.standard_normal((units, batch))
    sums -= sums.mean(axis=1, keepdims=True)
    deviation = sums.std(axis=1, keepdims=True)
    outputs = sums / deviation
    slope = outputs > 0 if activation == "relu" else 1.0
    gradient = generator.standard_normal((units, batch)) * slope
    back = gradient - gradient.mean(axis=1, keepdims=True)
    back = (back - outputs * (back * outputs).mean(axis=1, keepdims=True)) / deviation
    # from here up, weights pass gradients without their mean over the batch: (B - 1)/B of a standard one
    growth = (back**2).sum(axis=1).mean() / (batch - 1)
    assert growth == pytest.approx(gradient_growth(activation, batch), rel=0.02)


def test_bad_input_is_refused_by_name_and_nan_passes():
    with pytest.raises(ValueError, match="batch is 3"):
        gradient_growth("relu", 3)
    with pytest.raises(ValueError, match="activation is 'step'"):
        gradient_growth("step", 8)
    assert np.isnan([gradient_growth(name, float("nan")) for name in ("linear", "relu")]).all()
