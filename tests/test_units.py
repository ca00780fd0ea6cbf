"""Dead and dormant units, gradients, Jacobians and features: by hand, by what must not matter, and by NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.observables.features import feature_rank, percentiles
from research.observables.gradients import gradient_norms
from research.observables.jacobian import jacobian_singular_values
from research.observables.matrices import effective_rank
from research.observables.saturation import share_beyond
from research.observables.units import dead_share, dormancy_scores, dormant_share

OUTPUTS = np.array([[1.0, 0.0, -3.0, 0.1], [3.0, 0.0, 1.0, -0.1]])  # E|h| = 2, 0, 2, 0.1; their mean 1.025


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def rotation(size, seed=0):
    return np.linalg.qr(drawn(size, size, seed=seed))[0]


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def test_dormancy_by_hand():
    outputs = jnp.asarray(OUTPUTS)
    np.testing.assert_allclose(dormancy_scores(outputs), np.array([2, 0, 2, 0.1]) / 1.025, rtol=1e-12)
    assert dormant_share(outputs, 0.0) == 0.25
    assert dormant_share(outputs, 0.097) == 0.25
    assert dormant_share(outputs, 0.098) == 0.5  # 0.1 / 1.025 = 0.0976
    assert dormant_share(jnp.ones((2, 4)), 1.0) == 1  # s_i <= tau, not <


def test_where_dormancy_differs_from_its_authors_code():
    faint = 1e-9 * OUTPUTS
    activity = abs(faint).mean(axis=0)
    theirs = activity / (activity.mean() + 1e-9)
    np.testing.assert_allclose(dormancy_scores(jnp.asarray(faint)), theirs * (2.025 / 1.025), rtol=1e-12)
    silent = jnp.zeros((2, 4))
    np.testing.assert_array_equal(dormancy_scores(silent), np.zeros(4))  # as theirs
    assert dormant_share(silent, 0.0) == 1


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(1e-12, 1e12), st.sampled_from([0.0, 0.025, 0.1, 0.9]))
def test_dormancy_knows_neither_scale_nor_order_nor_sign(seed, scale, tau):
    with jax.enable_x64(True):  # hypothesis calls this outside the fixture's reach
        random = np.random.default_rng(seed)
        outputs = random.normal(size=(6, 10)) * np.exp(3 * random.normal(size=10))
        share = float(dormant_share(jnp.asarray(outputs), tau))
        shuffled = outputs[random.permutation(6)][:, random.permutation(10)]
        signs = random.choice([-1, 1], outputs.shape)
        for same in (scale * outputs, shuffled, signs * outputs):
            assert float(dormant_share(jnp.asarray(same), tau)) == share


def test_a_saturated_unit_is_dead_and_not_dormant_and_a_dead_relu_is_both():
    sums = jnp.stack([jnp.linspace(20, 30, 7), jnp.linspace(-1, 1, 7), jnp.linspace(-9, -0.1, 7)], axis=1)
    slopes = 1 - jnp.tanh(sums) ** 2
    assert dead_share(slopes, 0.05) == pytest.approx(1 / 3)
    assert dormant_share(jnp.tanh(sums), 0.1) == 0
    assert dead_share((sums > 0) * 1.0) == pytest.approx(1 / 3)
    assert dormant_share(jax.nn.relu(sums), 0.01) == pytest.approx(1 / 3)


def test_a_unit_is_dead_only_where_every_sample_leaves_it_flat():
    slopes = jnp.array([[0.0, 0.01, -0.2, 0.0], [0.0, -0.02, 0.0, 1.0]])
    assert dead_share(slopes) == 0.25
    assert dead_share(slopes, 0.02) == 0.5
    assert dead_share(slopes, 0.2) == 0.75  # the sign of a slope does not matter
    assert dead_share(slopes.T) == 0


def test_the_share_beyond_a_threshold_by_hand():
    outputs = jnp.array([-1.0, -0.91, -0.9, 0.0, 0.5, 0.95])
    assert share_beyond(outputs, -1.0, 1.0, 0.9) == pytest.approx(3 / 6)
    assert share_beyond((outputs + 1) / 2, 0.0, 1.0, 0.9) == pytest.approx(3 / 6)
    assert share_beyond(outputs, -1.0, 1.0, 0.0) == pytest.approx(5 / 6)


def test_percentiles_by_hand():
    np.testing.assert_allclose(
        percentiles(jnp.arange(101.0).reshape(101, 1), (0.0, 2.0, 50.0, 98.0, 100.0)), [0, 2, 50, 98, 100]
    )
    np.testing.assert_allclose(percentiles(jnp.array([0.0, 1.0]), (25.0,)), [0.25])


def test_low_precision_and_large_numbers_are_read_alike():
    outputs = drawn(20_000)
    expected = np.percentile(outputs, (2.0, 98.0))
    np.testing.assert_allclose(percentiles(jnp.asarray(outputs, jnp.bfloat16), (2.0, 98.0)), expected, rtol=0.01)
    assert gradient_norms([jnp.full(10**6, 1e-2, jnp.float16)])[0] == pytest.approx(10, rel=1e-3)
    assert effective_rank(jnp.full(5, 8e37, jnp.float32)) == pytest.approx(5)  # their sum overflows
    assert np.isnan(effective_rank(jnp.zeros(3)))
    assert np.isnan(effective_rank(jnp.array([1.0, np.inf])))


def test_gradient_norms_by_hand_and_where_squares_underflow():
    layers = [{"kernel": jnp.array([[3.0], [0.0]]), "bias": jnp.array([-4.0])}, jnp.zeros(3), [jnp.array(2.0)]]
    np.testing.assert_allclose(gradient_norms(layers), [5.0, 0.0, 2.0])
    tiny = jnp.full(4, 1e-30, jnp.float32)
    np.testing.assert_allclose(gradient_norms([tiny, 1e30 * tiny]), [2e-30, 2.0], rtol=1e-6)
    assert gradient_norms([tiny]).dtype == jnp.float32


def test_an_orthogonal_network_is_an_isometry():
    first, second = rotation(4, seed=1), rotation(4, seed=2)
    inputs = jnp.asarray(drawn(3, 4))
    values = jacobian_singular_values(lambda x: first @ (second @ x), inputs)
    np.testing.assert_allclose(values, np.ones((3, 4)), rtol=1e-12)
    leaning = jacobian_singular_values(lambda x: jnp.tanh(x) * 2, inputs)
    np.testing.assert_allclose(leaning, np.sort(2 - 2 * np.tanh(inputs) ** 2)[:, ::-1], rtol=1e-12)


@pytest.mark.parametrize("shape", [(2, 4), (4, 2)])
def test_singular_values_are_those_of_the_matrix_however_it_is_turned(shape):
    W = drawn(*shape)
    for turned in (W, rotation(shape[0], seed=1) @ W @ rotation(shape[1], seed=2)):
        values = jacobian_singular_values(lambda x, turned=turned: turned @ x, jnp.zeros((1, shape[1])))[0]
        np.testing.assert_allclose(values, np.linalg.svd(W, compute_uv=False), rtol=1e-12)


def test_the_rank_of_features_by_hand_and_what_it_does_not_see():
    rank = lambda outputs: float(feature_rank(jnp.asarray(outputs, float)))
    assert rank(np.eye(7, 4)) == pytest.approx(4)
    assert rank(np.outer(np.arange(1, 8), np.ones(4))) == pytest.approx(1)
    assert rank(np.diag([3, 1, 0, 0, 0, 0, 0])[:, :4]) == pytest.approx(4 / 3**0.75)  # exp of the entropy of 3/4, 1/4
    outputs = drawn(7, 4) * [1, 2, 5, 9]
    assert rank(outputs) == pytest.approx(float(effective_rank(jnp.linalg.svd(outputs, compute_uv=False))))
    assert rank(1e9 * outputs @ rotation(4)) == pytest.approx(rank(outputs))
    assert rank(rotation(7) @ outputs) == pytest.approx(rank(outputs))


MEASURES = {
    "dead": dead_share,
    "scores": dormancy_scores,
    "dormant": lambda values: dormant_share(values, 0.1),
    "beyond": lambda values: share_beyond(values, -1.0, 1.0, 0.9),
    "percentiles": lambda values: percentiles(values, (2.0, 98.0)),
    "rank": feature_rank,
    "gradients": lambda values: gradient_norms([values]),
    "jacobian": lambda values: jacobian_singular_values(lambda x: values @ x, jnp.ones((1, 3))),
}


def measures(values):
    return {name: measure(values) for name, measure in MEASURES.items()}


def test_what_is_not_finite_is_nan_throughout_inside_of_compiled_and_vectorised_programs():
    values = np.stack([0.5 * drawn(4, 3)] * 3)
    values[1, 1, 2], values[2, 1, 2] = np.nan, -np.inf
    together = jax.jit(jax.vmap(measures))(jnp.asarray(values))
    alone = measures(jnp.asarray(values[0]))
    for name, (sound, *bad) in together.items():
        np.testing.assert_allclose(sound, alone[name], rtol=1e-12, err_msg=name)
        assert np.isfinite(sound).all(), name
        assert np.isnan(bad).all(), name


def test_one_sample_that_is_not_finite_leaves_the_jacobian_of_the_others():
    values = jacobian_singular_values(jnp.sqrt, jnp.array([[1.0, 4.0], [0.0, 1.0]]))
    np.testing.assert_allclose(values[0], [0.5, 0.25])
    assert np.isnan(values[1]).all()


GIVEN = jnp.zeros((2, 3))
REFUSED = {
    "tau is -1": lambda: dormant_share(GIVEN, -1.0),
    "tau is nan": lambda: dormant_share(GIVEN, float("nan")),
    "threshold is -0.1": lambda: dead_share(GIVEN, -0.1),
    "threshold is 1": lambda: share_beyond(GIVEN, -1.0, 1.0, 1.0),
    "range is": lambda: share_beyond(GIVEN, 1.0, 1.0, 0.5),
    r"at is \(101.0,\)": lambda: percentiles(GIVEN, (101.0,)),
    r"at is \(\)": lambda: percentiles(GIVEN, ()),
    "layers is dict of 1": lambda: gradient_norms({"a": GIVEN}),
    "layers is list of 0": lambda: gradient_norms([]),
    "layers has no entries at place 1": lambda: gradient_norms([GIVEN, {}]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_refused_by_name(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
