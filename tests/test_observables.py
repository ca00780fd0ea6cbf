"""What is read off layers and matrices is what the formulas say, and NaN never passes for health."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from research.observables import saturation
from research.oracles import mean_field

KEY, OTHER = jax.random.split(jax.random.key(0))


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def published(outputs, low, high, bins):
    """The measure as its authors write it: Σ_b |g'_b| f_b / Σ_b f_b, with g'_b from the mean output of bin b."""
    counts, edges = np.histogram(outputs, bins, (low, high))
    total = 0.0
    for index, count in enumerate(counts):
        above = outputs >= edges[index]
        below = outputs <= edges[index + 1] if index == bins - 1 else outputs < edges[index + 1]
        if count:
            total += abs(2 * (outputs[above & below].mean() - low) / (high - low) - 1) * count
    return total / counts.sum()


@pytest.mark.parametrize("bins", [1, 2, 9, 10, 11, 100])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0)])
def test_binned_saturation_is_the_published_formula(bins, low, high):
    outputs = np.random.default_rng(bins).uniform(low, high, (50, 7))
    measured = saturation.binned_saturation(jnp.asarray(outputs), low, high, bins)
    assert measured == pytest.approx(published(outputs, low, high, bins), abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(-1, 1), min_size=12, max_size=12), st.sampled_from([1, 4, 5]))
def test_even_bins_are_the_mean_distance_and_odd_ones_fall_short_by_less_than_a_bin(outputs, half):
    with jax.enable_x64(True):  # hypothesis calls this outside the fixture's reach
        outputs = jnp.asarray(outputs, float)
        limit = float(saturation.mean_saturation(outputs, -1.0, 1.0))
        assert float(saturation.binned_saturation(outputs, -1.0, 1.0, 2 * half)) == pytest.approx(limit, abs=1e-12)
        odd = float(saturation.binned_saturation(outputs, -1.0, 1.0, 2 * half + 1))
        assert limit - 1 / (2 * half + 1) - 1e-12 <= odd <= limit + 1e-12
        assert odd >= -1e-12
        assert limit <= 1 + 1e-12


def test_the_ends_of_the_range_are_saturated_and_its_middle_is_not():
    for low, high in saturation.RANGES.values():
        ends, middle = jnp.array([low, high, high, low]), jnp.full(4, (low + high) / 2)
        for bins in (9, 10):
            assert saturation.binned_saturation(ends, low, high, bins) == 1
            assert saturation.binned_saturation(middle, low, high, bins) == 0
    assert saturation.mean_saturation(jnp.linspace(-1, 1, 100_001), -1.0, 1.0) == pytest.approx(0.5, abs=1e-5)


def test_the_number_of_bins_matters_only_where_it_is_odd():
    quantiles = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    outputs = jnp.tanh(0.1 * jnp.asarray(quantiles))
    for bins, cancelled in ((10, 0.0), (100, 0.0), (9, 1 / 9), (11, 1 / 11)):  # the middle bin of an odd number cancels
        tail = quad(lambda z: 2 * math.tanh(0.1 * z) * norm.pdf(z), 10 * math.atanh(cancelled), 10)[0]
        assert saturation.binned_saturation(outputs, -1.0, 1.0, bins) == pytest.approx(tail, abs=1e-5)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softsign"])
def test_gaussian_sums_give_what_quadrature_says(activation):
    function = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "softsign": jax.nn.soft_sign}[activation]
    quantiles = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    for q in (0.1, 1.0, 30.0):
        outputs = function(math.sqrt(q) * jnp.asarray(quantiles))
        measured = saturation.binned_saturation(outputs, *saturation.RANGES[activation], 10)
        assert measured == pytest.approx(mean_field.saturation(activation, q), abs=1e-5)


def test_what_is_not_finite_is_never_healthy():
    for bad in (jnp.nan, jnp.inf):
        values = jnp.zeros((4, 3)).at[1, 2].set(bad)
        assert jnp.isnan(saturation.never_active_share(values))
        assert jnp.isnan(saturation.vanished_share(values))
        assert jnp.isnan(saturation.mean_saturation(values, -1.0, 1.0))
        assert jnp.isnan(saturation.binned_saturation(values, -1.0, 1.0, 10))


def test_a_dead_unit_is_active_on_no_sample():
    sums = jnp.array([[-1.0, 0.0, -1.0, 2.0], [-2.0, -1.0, 1e-9, 3.0]])
    assert saturation.never_active_share(sums) == 0.5
    assert jnp.isnan(saturation.never_active_share(sums * jnp.nan))


@pytest.mark.parametrize(
    ("dtype", "function", "present", "gone"),
    [(jnp.float32, jnp.tanh, 7, 9), (jnp.float64, jnp.tanh, 15, 25), (jnp.float32, jax.nn.sigmoid, 14, 18)],
)
def test_slopes_vanish_where_the_precision_ends(dtype, function, present, gone):
    share = lambda at: saturation.vanished_share(jax.vmap(jax.grad(function))(jnp.full(5, at, dtype)))
    assert share(present) == 0
    assert share(gone) == 1
    assert share(gone).dtype == dtype


def test_measures_refuse_what_they_cannot_read():
    with pytest.raises(ValueError, match="bins is 0"):
        saturation.binned_saturation(jnp.zeros(3), -1.0, 1.0, 0)
    with pytest.raises(ValueError, match="must not be empty"):
        saturation.mean_saturation(jnp.zeros(3), 1.0, 1.0)


def linear(weights):
    def network(inputs):
        sums = [inputs @ weights[0]]
        for matrix in weights[1:]:
            sums.append(sums[-1] @ matrix)
        return jnp.stack(sums)

    return network


def test_a_linear_network_grows_perturbations_by_its_gains():
    inputs = jax.random.normal(KEY, (6, 5))
    rotations = jax.random.orthogonal(jax.random.fold_in(KEY, 1), 5, shape=(3,))
    grown = saturation.perturbation_growth(linear([2 * rotations[0], 3 * rotations[1], rotations[2]]), inputs, OTHER)
    np.testing.assert_allclose(grown, [4.0, 9.0, 1.0], rtol=1e-12)


def test_perturbations_leave_the_size_of_the_input_and_may_die():
    inputs = jax.random.normal(KEY, (6, 5))
    size = lambda inputs: jnp.sum(inputs**2, axis=1, keepdims=True)[None]
    assert saturation.perturbation_growth(size, inputs, OTHER)[0] == pytest.approx(0, abs=1e-28)
    dead = saturation.perturbation_growth(linear([jnp.zeros((5, 5)), jnp.eye(5)]), inputs, OTHER)
    np.testing.assert_array_equal(dead, [0.0, 0.0])


def test_perturbations_grow_by_chi_in_a_wide_network():
    width, variance = 300, 2.0
    weights = (variance / width) ** 0.5 * jax.random.normal(KEY, (10, width, width))

    def network(inputs):
        sums = [inputs @ weights[0]]
        for matrix in weights[1:]:
            sums.append(jnp.tanh(sums[-1]) @ matrix)
        return jnp.stack(sums)

    inputs = jax.random.normal(jax.random.fold_in(KEY, 1), (20, width))
    grown = saturation.perturbation_growth(network, inputs, OTHER)
    chi = mean_field.mean_field("tanh", variance, 0.0).chi
    assert float(jnp.mean(grown[5:])) == pytest.approx(chi, rel=2 / width**0.5)
    assert grown[0] == pytest.approx(variance, rel=2 / width**0.5)
