"""Projections of units of Flax models, against the way back written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from research.deconvnet import backprojection, layer_outputs, projection
from research.oracles.deconvolution import unit_projections
from research.vision import strongest

RULES = {"deconvnet": (0, 1), "guided": (1, 1), "gradient": (1, 0)}
LAYERS = ["Conv_0", "Conv_1", "Dense_0", "Dense_1"]


@pytest.fixture(autouse=True, scope="module")
def double():
    with jax.enable_x64(True):
        yield


class Net(nn.Module):
    """Flax's own convolutions; ReLU and max-pooling in the given spelling."""

    relu: object = nn.relu
    pool: object = lambda x: nn.max_pool(x, (2, 2), (2, 2))

    @nn.compact
    def __call__(self, x):
        for filters in (3, 4):
            x = self.pool(self.relu(nn.Conv(filters, (3, 3))(x)))
        x = self.relu(nn.Dense(5)(x.reshape(len(x), -1)))
        return nn.softmax(nn.Dense(2)(x))  # behind the last unit: no obstacle


SPELLINGS = {
    "Flax": Net(),
    "below": Net(relu=lambda x: jnp.where(x < 0, 0, x)),
    "jnp": Net(
        relu=lambda x: jnp.maximum(0.0, x),
        pool=lambda x: x.reshape(len(x), x.shape[1] // 2, 2, -1, 2, x.shape[3]).max((2, 4)),
    ),
    "slices": Net(
        relu=jax.jit(lambda x: jnp.where(x > 0, x, jnp.zeros_like(x))),
        pool=lambda x: jnp.maximum(
            jnp.maximum(x[:, ::2, ::2], x[:, ::2, 1::2]), jnp.maximum(x[:, 1::2, ::2], x[:, 1::2, 1::2])
        ),
    ),
}
RNG = np.random.default_rng(1)
PICTURES = RNG.normal(size=(4, 8, 8))


def drawn(shapes, rng=RNG):
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2), shapes)


VARIABLES = drawn(
    {
        "params": {
            name: {"kernel": np.zeros(shape), "bias": np.zeros(shape[-1])}
            for name, shape in zip(LAYERS, [(3, 3, 1, 3), (3, 3, 3, 4), (16, 5), (5, 2)], strict=True)
        }
    }
)
PLACES, CHANNELS = np.array([11.0, 5.0, 0.0, 0.0]), np.array([2.0, 3.0, 1.0, 1.0])


def expected(method):
    weights = [np.asarray(VARIABLES["params"][name][leaf]) for name in LAYERS for leaf in ("kernel", "bias")]
    weights[0] = weights[0][:, :, 0]
    return unit_projections(PICTURES, *weights, np.arange(4.0), PLACES, CHANNELS, *RULES[method])


def seeded(model, factor=1.0):
    """For picture i the unit of layer i, with its rectified output."""
    outputs = layer_outputs(model, VARIABLES, jnp.asarray(PICTURES)[..., None], LAYERS)
    seeds = {}
    for number, (name, output) in enumerate(outputs.items()):
        flat = np.asarray(output).reshape(len(output), -1, output.shape[-1])
        seed = np.zeros(flat.shape)
        place = number, int(PLACES[number]), int(CHANNELS[number])
        seed[place] = max(flat[place], 0.0) * factor
        seeds[name] = jnp.asarray(seed.reshape(output.shape))
    return seeds


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_relu_and_pooling_is_the_deconvnet_written_out(spelling):
    model, images = SPELLINGS[spelling], jnp.asarray(PICTURES)[..., None]
    found = jax.jit(lambda images, seeds: backprojection(model, VARIABLES, images, seeds, list(RULES)))
    for method, pixels in zip(RULES, found(images, seeded(model)), strict=True):
        wanted = expected(method)
        assert np.abs(wanted).max() > 0.1
        np.testing.assert_allclose(pixels[..., 0], wanted, rtol=0, atol=1e-10)


def test_a_unit_by_its_place_or_at_its_strongest():
    image, unit = PICTURES[1][..., None], ("Conv_1", (1, 1, 3))
    pixels = projection(Net(), VARIABLES, image, unit)
    assert pixels.shape == (8, 8, 1)
    np.testing.assert_allclose(pixels[..., 0], expected("deconvnet")[1], atol=1e-10)
    output = layer_outputs(Net(), VARIABLES, jnp.asarray(image)[None], ["Conv_1"])["Conv_1"]
    place = divmod(int(strongest(output, 1).position[3, 0]), 4)
    # parameters without the key "params"
    whole = projection(Net(), VARIABLES["params"], image, ("Conv_1", 3))
    np.testing.assert_array_equal(whole, projection(Net(), VARIABLES, image, ("Conv_1", (*place, 3))))


def test_the_gradient_is_that_of_jax():
    images = jnp.asarray(PICTURES)[..., None]
    pixels = projection(Net(), VARIABLES, images[1], ("Dense_1", 1), "gradient")
    params = VARIABLES["params"]

    def unit(image):
        hidden = Net().apply(VARIABLES, image[None], capture_intermediates=True)[1]["intermediates"]["Dense_0"]
        return nn.relu(hidden["__call__"][0][0]) @ params["Dense_1"]["kernel"][:, 1]

    np.testing.assert_allclose(pixels, jax.jit(jax.grad(unit))(images[1]), atol=1e-13)


def test_positively_homogeneous_in_the_seed_and_silent_for_a_closed_unit():
    image = PICTURES[1][..., None]
    for method in ("deconvnet", "guided"):
        one, many = (projection(Net(), VARIABLES, image, ("Dense_1", 0), method, seed=s) for s in (1.0, 3.7))
        np.testing.assert_allclose(many, 3.7 * one, rtol=1e-12, atol=1e-14)
    outputs = layer_outputs(Net(), VARIABLES, jnp.asarray(image)[None], ["Conv_1"])["Conv_1"][0]
    closed = tuple(int(i) for i in np.argwhere(np.asarray(outputs) < 0)[0])
    assert not projection(Net(), VARIABLES, image, ("Conv_1", closed)).any()


class Single(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(2, (3, 3), strides=(2, 2))(x)


def test_a_single_layer_without_relu_is_its_gradient_with_stride_and_negative_pixels():
    variables = drawn({"params": {"Conv_0": {"kernel": np.zeros((3, 3, 1, 2)), "bias": np.zeros(2)}}})
    image = PICTURES[0][..., None]
    found = [projection(Single(), variables, image, ("Conv_0", (1, 2, 1)), m, seed=1.0) for m in RULES]
    for pixels in found[1:]:
        np.testing.assert_array_equal(pixels, found[0])
    wanted = np.zeros((9, 9))  # SAME with stride 2 on 8 pixels pads below and on the right
    wanted[2:5, 4:7] = variables["params"]["Conv_0"]["kernel"][:, :, 0, 1]
    np.testing.assert_allclose(found[0][..., 0], wanted[:8, :8], atol=1e-14)
    assert (found[0] < 0).any()


class Normed(nn.Module):
    """What else is linear: batch normalisation with fixed statistics, dropout at rest, means, a skip connection."""

    train: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.train)(nn.Conv(3, (3, 3))(x))
        x = nn.relu(x) + nn.Conv(3, (1, 1))(nn.Dropout(0.5, deterministic=True)(x))
        return nn.Dense(2)(nn.avg_pool(x, (2, 2), (2, 2)).mean(axis=(1, 2)))


def test_what_is_linear_passes_and_what_is_not_is_refused_by_name():
    image = PICTURES[0][..., None]
    variables = drawn(jax.eval_shape(Normed().init, jax.random.key(0), jnp.asarray(image)[None]))
    variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])
    assert projection(Normed(), variables, image, ("Dense_0", 1)).shape == (8, 8, 1)
    with pytest.raises(ValueError, match="between the picture and Dense_0"):
        projection(Normed(train=True), variables, image, ("Dense_0", 1))
    assert projection(Net(relu=jnp.tanh), VARIABLES, image, ("Conv_1", 1), "gradient").any()
    for function, name in ((jnp.tanh, "tanh"), (nn.silu, "logistic"), (nn.relu6, "min"), (nn.leaky_relu, "select_n")):
        with pytest.raises(ValueError, match=f"model has '{name}' between the picture and Conv_1"):
            projection(Net(relu=function), VARIABLES, image, ("Conv_1", 1))
        assert projection(Net(relu=function), VARIABLES, image, ("Conv_0", 1)).shape == (8, 8, 1)


NO_RELU = {
    "max": (lambda x: jnp.maximum(x, -x), lambda x: jnp.maximum(x, 0.1 * x), lambda x: jnp.maximum(x, jnp.sum(x))),
    "select_n": (lambda x: jnp.where(x < 0, x, 0), lambda x: jnp.where(x > 0, 0, x)),
    "convert_element_type": (lambda x: (x > 0).astype(float),),
}


@pytest.mark.parametrize("name", NO_RELU)
def test_what_resembles_a_relu_or_pooling_is_refused(name):
    for function in NO_RELU[name]:
        with pytest.raises(ValueError, match=f"model has '{name}' between the picture and Conv_1"):
            projection(Net(relu=function), VARIABLES, PICTURES[0][..., None], ("Conv_1", 1))


IMAGE = PICTURES[0][..., None]
REFUSED = {
    "model is": lambda: projection("net", VARIABLES, IMAGE, ("Conv_0", 1)),
    "variables is": lambda: projection(Net(), {}, IMAGE, ("Conv_0", 1)),
    "image is": lambda: projection(Net(), VARIABLES, "picture", ("Conv_0", 1)),
    "image has shape": lambda: projection(Net(), VARIABLES, IMAGE * np.nan, ("Conv_0", 1)),
    "model does not run": lambda: projection(Net(), VARIABLES, PICTURES, ("Conv_0", 1)),
    "unit is": lambda: projection(Net(), VARIABLES, IMAGE, "Conv_0"),
    "layer is 'Conv_7'; the model has Conv_0, Conv_1": lambda: projection(Net(), VARIABLES, IMAGE, ("Conv_7", 1)),
    "unit has the index 3": lambda: projection(Net(), VARIABLES, IMAGE, ("Conv_0", 3)),
    "unit has the index True": lambda: projection(Net(), VARIABLES, IMAGE, ("Conv_0", True)),
    r"unit has the index \(1, 2\)": lambda: projection(Net(), VARIABLES, IMAGE, ("Conv_0", (1, 2))),
    "method is 'smooth'": lambda: projection(Net(), VARIABLES, IMAGE, ("Conv_0", 1), "smooth"),
    "seed is nan": lambda: projection(Net(), VARIABLES, IMAGE, ("Conv_0", 1), seed=float("nan")),
    r"seeds\['Conv_0'\] has shape": lambda: backprojection(
        Net(), VARIABLES, jnp.asarray(IMAGE)[None], {"Conv_0": jnp.zeros((1, 8, 8))}
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


class Looped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.scan(Inner, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)(name="loop")(x, None)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.Dense(4, name="dense")(x)), None


def test_a_loop_is_refused_by_name():
    variables = drawn({"params": {"loop": {"dense": {"kernel": np.zeros((2, 4, 4)), "bias": np.zeros((2, 4))}}}})
    with pytest.raises(ValueError, match="layer is 'loop/dense'"):
        projection(Looped(), variables, np.ones(4), ("loop/dense", 1))
