"""The Flax modules compute what their docstrings say, in the precision of their inputs, under jit and vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from research.models import (
    ConvolutionalNetwork,
    FullyConnected,
    centred,
    critical,
    drawn_at_once,
    halved,
    key_at,
    matrix_product,
    orthogonal_factor,
    patch_convolution,
    random_stack,
    uniform_start,
)
from research.oracles.mean_field import mean_field

KEY = jax.random.key(0)


def network(**options):
    return FullyConnected(depth=3, width=7, labels=4, activation=jnp.tanh, **options)


@pytest.mark.parametrize("double", [False, True])
def test_layers_are_the_sums_that_the_parameters_give(double):
    with jax.enable_x64(double):
        inputs = jax.random.normal(KEY, (5, 6))
        variables = network(bias_init=centred(0.5, per_input=False)).init(KEY, inputs)
        assert all(np.any(layer["bias"]) for layer in variables["params"].values())
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {inputs.dtype}
        logits, sums = network().apply(variables, inputs)
        assert sums.shape == (3, 5, 7)
        assert logits.shape == (5, 4)
        assert logits.dtype == sums.dtype == inputs.dtype
        outputs = np.asarray(inputs)
        for layer, seen in enumerate(sums):
            parameters = variables["params"][f"hidden_{layer}"]
            outputs = outputs @ np.asarray(parameters["kernel"]) + np.asarray(parameters["bias"])[None, :]
            np.testing.assert_allclose(seen, outputs, atol=1e-5)
            outputs = np.tanh(outputs)
        parameters = variables["params"]["readout"]
        expected = outputs @ np.asarray(parameters["kernel"]) + np.asarray(parameters["bias"])[None, :]
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_initial_biases_are_zero_unless_asked_for():
    variables = network().init(KEY, jnp.zeros((2, 6)))
    assert all(jnp.all(layer["bias"] == 0) for layer in variables["params"].values())


@pytest.mark.parametrize(("uniform", "factor"), [(False, 1.0), (True, 1 / 3)])
@pytest.mark.parametrize("per_input", [False, True])
def test_centred_draws_have_the_variance_asked_for(uniform, factor, per_input):
    drawn = centred(3.0, per_input=per_input, uniform=uniform)(KEY, (50, 4000), jnp.float32)
    expected = 3.0 * factor / (50 if per_input else 1)
    assert float(jnp.mean(drawn)) == pytest.approx(0, abs=5 * (expected / drawn.size) ** 0.5)
    assert float(jnp.var(drawn)) == pytest.approx(expected, rel=5 * (2 / drawn.size) ** 0.5)
    bound = (3.0 / (50 if per_input else 1)) ** 0.5
    assert bool(jnp.all(jnp.abs(drawn) <= bound)) == uniform


def test_the_variance_may_be_traced_and_mapped():
    inputs = jax.random.normal(KEY, (5, 6))

    @jax.jit
    @jax.vmap
    def spread(variance):
        model = network(kernel_init=centred(variance, per_input=True))
        return jnp.std(model.apply(model.init(KEY, inputs), inputs).pre_activations[0])

    one, four = spread(jnp.array([1.0, 4.0]))
    assert float(four / one) == pytest.approx(2, rel=1e-5)


def test_a_matrix_product_has_its_first_factor_on_the_right():
    first, second, third = jax.random.normal(KEY, (3, 2, 2))
    np.testing.assert_allclose(matrix_product([first, second, third]), third @ second @ first, rtol=1e-5)
    assert matrix_product([first]) is first


def test_a_uniform_start_is_one_of_the_module_and_a_vector():
    params, vector = jax.jit(lambda key: uniform_start(key, [6, 7, 7, 7, 4], jnp.float32))(KEY)
    wanted = jax.eval_shape(network().init, KEY, jnp.ones((1, 6)))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, wanted)
    layers = [params["params"][name] for name in ("hidden_0", "hidden_1", "hidden_2", "readout")]
    parts = [layer[part].ravel() for layer in layers for part in ("kernel", "bias")]
    np.testing.assert_array_equal(vector, np.concatenate(parts))
    for layer, inputs in zip(layers, (6, 7, 7, 7), strict=True):
        assert 0.7 < float(jnp.abs(layer["kernel"]).max()) * inputs**0.5 <= 1
        assert not layer["bias"].any()


@pytest.mark.parametrize("depth", [1, 4])
def test_a_stack_is_the_fully_connected_network_of_the_same_parameters(depth):
    inputs = jax.random.normal(jax.random.key(1), (5, 6))
    stack = random_stack(KEY, 6, 7, depth, 3, 2.0, 0.5)
    layers = {
        f"hidden_{layer}": {"kernel": stack.hidden[layer - 1] if layer else stack.entry, "bias": stack.biases[layer]}
        for layer in range(depth)
    }
    params = {"params": {**layers, "readout": {"kernel": stack.readout, "bias": jnp.zeros(3)}}}
    expected = FullyConnected(depth, width=7, labels=3, activation=jnp.tanh).apply(params, inputs)
    for seen, wanted in zip(stack(inputs, jnp.tanh), expected, strict=True):
        assert seen.shape == wanted.shape
        np.testing.assert_allclose(seen, wanted, atol=1e-5)


def test_a_stack_has_the_variances_asked_for():
    stack = random_stack(KEY, 40, 90, 5, 70, 2.0, 0.3)
    for part, variance in zip(stack, (2 / 40, 2 / 90, 0.3, 2 / 90), strict=True):
        assert float(jnp.var(part)) == pytest.approx(variance, rel=5 * (2 / part.size) ** 0.5)
    flat = random_stack(KEY, 40, 90, 5, 70, 2.0, 0.3, dtype=jnp.float16, uniform=True)
    for part, variance in zip(flat, (2 / 40, 2 / 90, 0.3, 2 / 90), strict=True):
        assert part.dtype == jnp.float16
        assert 0.95 * variance**0.5 < float(jnp.abs(part).max()) <= 1.001 * variance**0.5
        assert float(jnp.var(part.astype(float))) == pytest.approx(variance / 3, rel=5 * (1 / part.size) ** 0.5)


def test_a_place_has_a_key_of_its_own():
    places = [(0.5, 1.0), (0.5, 1.0), (0.25, 1.0), (1.0, 0.5), (0.5, 1.5)]
    keys = [key_at(KEY, *place) for place in places] + [jax.jit(key_at)(KEY, 0.5, 1.0)]
    drawn = [float(jax.random.normal(key)) for key in keys]
    assert drawn[0] == drawn[1] == drawn[-1]
    assert len(set(drawn)) == 4


@pytest.mark.parametrize("q", [0.05, 0.57005, 2.0])
def test_the_edge_of_chaos_is_critical_and_rests_at_its_variance(q):
    with jax.enable_x64(True):
        edge = jax.jit(lambda q: critical(jnp.tanh, q))(q)
    field = mean_field("tanh", float(edge.weight_variance), float(edge.bias_variance))
    assert field.chi == pytest.approx(1, abs=5e-5)
    assert field.q == pytest.approx(q, rel=1e-4)
    assert float(edge.weight_variance * edge.output + edge.bias_variance) == pytest.approx(q)


def test_a_rectifier_is_critical_at_twice_the_weight_variance():
    edge = critical(jax.nn.relu, 1.0)
    assert float(edge.weight_variance) == pytest.approx(2, rel=1e-5)
    assert float(edge.bias_variance) == pytest.approx(0, abs=1e-5)


def test_an_orthogonal_factor_is_uniform():
    """Orthogonal, and without the signs of LAPACK's convention: the mean of a diagonal entry is zero."""
    factors = np.asarray(orthogonal_factor(jax.random.normal(KEY, (4000, 3, 3))))
    np.testing.assert_allclose(factors @ factors.swapaxes(1, 2), np.tile(np.eye(3), (4000, 1, 1)), atol=1e-5)
    np.testing.assert_allclose(factors.mean(axis=0), 0, atol=4 / (3 * 4000) ** 0.5)


@pytest.mark.parametrize("padding", ["SAME", "VALID", [(0, 2), (1, 0)]])
@pytest.mark.parametrize("side", [2, 3])
def test_a_convolution_by_patches_is_that_of_lax(padding, side):
    with jax.enable_x64(True):
        pictures = jax.random.normal(KEY, (2, 5, 6, 3))
        filters = jax.random.normal(jax.random.key(1), (side, 3, 3, 4))
        expected = jax.lax.conv_general_dilated(
            pictures, filters, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        found = jax.jit(lambda pictures, filters: patch_convolution(pictures, filters, (1, 1), padding))
        np.testing.assert_allclose(found(pictures, filters), expected, atol=1e-13)
    with pytest.raises(ValueError, match="window_strides is"):
        patch_convolution(pictures, filters, (2, 2), padding)


def test_the_convolutional_network_is_two_convolutions_with_pooling_and_two_dense_layers():
    from scipy.signal import correlate2d

    with jax.enable_x64(True):
        network, picture = ConvolutionalNetwork((2, 3), hidden=4, labels=5), jax.random.normal(KEY, (1, 8, 8, 1))
        variables = drawn_at_once(KEY, network, picture)
        shift = lambda leaf: leaf + 0.1 * jnp.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape)
        variables = jax.tree.map(lambda leaf: shift(leaf) if leaf.ndim == 1 else leaf, variables)
        outputs = np.moveaxis(np.asarray(picture[0]), -1, 0)
        for layer in range(2):
            weights = jax.tree.map(np.asarray, variables["params"][f"convolution_{layer}"])
            sums = [
                sum(correlate2d(each, kernel, "same") for each, kernel in zip(outputs, kernels, strict=True)) + bias
                for kernels, bias in zip(np.transpose(weights["kernel"], (3, 2, 0, 1)), weights["bias"], strict=True)
            ]
            rectified = np.maximum(np.stack(sums), 0)
            outputs = rectified.reshape(len(sums), rectified.shape[1] // 2, 2, -1, 2).max(axis=(2, 4))
        hidden, readout = (jax.tree.map(np.asarray, variables["params"][name]) for name in ("hidden", "readout"))
        flat = np.moveaxis(outputs, 0, -1).ravel()
        expected = np.maximum(flat @ hidden["kernel"] + hidden["bias"], 0) @ readout["kernel"] + readout["bias"]
        np.testing.assert_allclose(jax.jit(network.apply)(variables, picture)[0], expected, atol=1e-13)
    with pytest.raises(ValueError, match="images has shape"):
        network.init(KEY, jnp.zeros((1, 3, 8, 1)))


def test_halved_is_max_pooling():
    maps = jax.random.normal(KEY, (2, 5, 6, 3))
    np.testing.assert_array_equal(halved(maps), linen.max_pool(maps, (2, 2), (2, 2)))


def test_variables_drawn_at_once_have_the_shapes_of_init_and_the_variance_of_he():
    network, picture = ConvolutionalNetwork((8, 30), hidden=300), jnp.zeros((1, 8, 8, 1))
    variables, usual = drawn_at_once(KEY, network, picture), jax.eval_shape(network.init, KEY, picture)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), usual
    )
    assert not any(np.any(layer["bias"]) for layer in variables["params"].values())
    kernel = variables["params"]["hidden"]["kernel"]
    assert float(jnp.var(kernel)) == pytest.approx(2 / kernel.shape[0], rel=0.03)  # uniform: spread √(0.8/n) = 0.5 %
    for normalised, names in ((linen.BatchNorm(False), "mean, scale, var"), (linen.LayerNorm(), "scale")):
        with pytest.raises(ValueError, match=f"network has {names}; it takes"):
            drawn_at_once(KEY, normalised, picture)
