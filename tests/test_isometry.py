"""The spread of the singular values of deep Jacobians: its limits, drawn matrices of small width, bad input."""

import numpy as np
import pytest

from research.oracles.activations import ACTIVATIONS
from research.oracles.isometry import jacobian_spread, largest_singular_value

LAYERS = np.arange(1, 7)


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize(("activation", "ratio"), [("linear", 1.0), ("relu", 2.0)])
def test_wide_networks_have_the_published_law(activation, ratio, orthogonal):
    expected = LAYERS * (ratio - orthogonal)
    assert jacobian_spread(activation, 0.3, np.inf, orthogonal, 6) == pytest.approx(expected, abs=1e-12)


def test_small_variances_of_tanh_by_its_series():
    # φ' = 1 - u² + 2u⁴/3 - …: Var φ'²/(E φ'²)² = 8q² (1 + O(q)).
    assert jacobian_spread("tanh", 1e-4, np.inf, True, 6) == pytest.approx(8e-8 * LAYERS, rel=2e-3)


def test_a_layer_of_one_unit_has_one_singular_value():
    # tr A² = (tr A)², whatever the weights; orthogonal ones are ±1.
    assert jacobian_spread("tanh", 1.0, 1.0, False, 6) == pytest.approx(0 * LAYERS, abs=1e-12)
    assert jacobian_spread("relu", 1.0, 1.0, True, 6) == pytest.approx(0 * LAYERS, abs=1e-12)


@pytest.mark.parametrize(
    ("activation", "q", "orthogonal"), [("tanh", 0.8, True), ("relu", 1.0, True), ("tanh", 0.2, False)]
)
def test_drawn_matrices_of_small_width(activation, q, orthogonal):
    width, draws, layers = 12, 20_000, 3
    random, function = np.random.default_rng(0), ACTIVATIONS[activation]
    product = np.eye(width)[None]
    for _ in range(layers):
        weights = random.normal(size=(draws, width, width))
        if orthogonal:
            weights, upper = np.linalg.qr(weights)
            weights *= np.sign(np.diagonal(upper, axis1=1, axis2=2))[:, None]
        product = function.slope(np.sqrt(q) * random.normal(size=(draws, width, 1))) * (weights @ product)
    gram = product @ product.swapaxes(1, 2)
    fourth, square = (gram**2).sum((1, 2)) / width, (np.trace(gram, axis1=1, axis2=2) / width) ** 2
    error = np.std(fourth - fourth.mean() / square.mean() * square) / square.mean() / draws**0.5
    expected = jacobian_spread(activation, q, width, orthogonal, layers)[-1]
    assert fourth.mean() / square.mean() - 1 == pytest.approx(expected, abs=4 * error)
    assert abs(expected - jacobian_spread(activation, q, np.inf, orthogonal, layers)[-1]) > 4 * error


def test_the_largest_singular_value_of_one_matrix_is_two():
    assert largest_singular_value(1) == pytest.approx(2)
    assert largest_singular_value(400) == pytest.approx(np.sqrt(np.e * 400.5), rel=1e-6)
    random, width = np.random.default_rng(1), 400
    product = random.normal(size=(width, width)) @ random.normal(size=(width, width)) / width
    assert np.linalg.norm(product, 2) == pytest.approx(largest_singular_value(2), rel=0.05)


def test_bad_input_is_refused_by_name_and_nan_passes():
    with pytest.raises(ValueError, match="q is -1"):
        jacobian_spread("tanh", -1.0, 10, True, 2)
    with pytest.raises(ValueError, match="width is 0"):
        jacobian_spread("tanh", 1.0, 0, True, 2)
    with pytest.raises(ValueError, match="layers is 0"):
        jacobian_spread("tanh", 1.0, 10, True, 0)
    with pytest.raises(ValueError, match="depth is 0"):
        largest_singular_value(0)
    assert np.isnan(jacobian_spread("tanh", np.nan, 10, True, 2)).all()
    assert np.isnan(largest_singular_value(np.nan))
