"""Networks that more than one experiment draws or trains, and how their parameters are drawn."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float


class Layers(NamedTuple):
    """What a fully connected network says, and the sums that its hidden units receive."""

    logits: Float[Array, "sample label"]
    pre_activations: Float[Array, "layer sample unit"]


class FullyConnected(linen.Module):
    """`depth` hidden layers of `width` units and a linear readout; parameters have the dtype of the inputs.

    `kernel_init` and `bias_init` are initialisers as in `jax.nn.initializers`: of (key, shape, dtype).
    """

    depth: int
    width: int
    labels: int
    activation: Callable
    kernel_init: Callable = linen.initializers.lecun_normal()
    bias_init: Callable = linen.initializers.zeros

    @linen.compact
    def __call__(self, inputs: Float[Array, "sample feature"]) -> Layers:
        """Return the logits and every hidden layer's pre-activations."""
        dense = lambda size, name: linen.Dense(
            size, kernel_init=self.kernel_init, bias_init=self.bias_init, param_dtype=inputs.dtype, name=name
        )
        outputs, seen = inputs, []
        for layer in range(self.depth):
            seen.append(dense(self.width, f"hidden_{layer}")(outputs))
            outputs = self.activation(seen[-1])
        return Layers(dense(self.labels, "readout")(outputs), jnp.stack(seen))


class ConvolutionalNetwork(linen.Module):
    """Two convolutions with ReLU and 2 × 2 max-pooling behind each, a hidden layer with ReLU, and a linear readout.

    Convolutions have `side` × `side` filters and keep the size of the picture ("SAME" padding with zeros). Parameters
    have the dtype of the images.
    """

    filters: tuple[int, int] = (8, 8)
    hidden: int = 16
    labels: int = 10
    side: int = 3

    @linen.compact
    def __call__(self, images: Float[Array, "image row column channel"]) -> Float[Array, "image label"]:
        """Return the logits. Raises ValueError for pictures below 4 × 4, of which pooling leaves nothing."""
        if min(images.shape[1:3]) < 4:
            raise ValueError(f"images has shape {images.shape}; it takes pictures of 4 × 4 pixels or more")
        outputs = images
        for layer, filters in enumerate(self.filters):
            convolution = linen.Conv(
                filters,
                (self.side, self.side),
                conv_general_dilated=patch_convolution,
                param_dtype=images.dtype,
                name=f"convolution_{layer}",
            )
            outputs = halved(linen.relu(convolution(outputs)))
        dense = lambda size, name: linen.Dense(size, param_dtype=images.dtype, name=name)
        outputs = linen.relu(dense(self.hidden, "hidden")(outputs.reshape(len(images), -1)))
        return dense(self.labels, "readout")(outputs)


def patch_convolution(
    lhs: Float[Array, "image row column channel"],
    rhs: Float[Array, "height width channel filter"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Float[Array, "image ..."]:
    """Return `jax.lax.conv_general_dilated` of these, channels last, as one matrix product of all patches.

    With eight filters that is four times as fast on a CPU, and runs of a sweep have filters of their own at no cost.
    Raises ValueError for strides, dilation or groups, which it does not have.
    """
    dilations = [options.get(each) or (1,) for each in ("lhs_dilation", "rhs_dilation")]
    if any(set(each) != {1} for each in (window_strides, *dilations)) or options.get("feature_group_count", 1) > 1:
        raise ValueError(f"window_strides is {window_strides}, options {options}: no strides, dilation or groups here")
    height, width, channels, filters = rhs.shape
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(lhs.shape[1:3], (height, width), (1, 1), padding)
    padded = jnp.pad(lhs, ((0, 0), *map(tuple, padding), (0, 0)))
    count, wide = len(lhs), padded.shape[2]
    rows, columns = padded.shape[1] - height + 1, wide - width + 1
    corners = np.arange(rows)[:, None, None, None] * wide + np.arange(columns)[:, None, None]
    places = corners + np.arange(height)[:, None] * wide + np.arange(width)
    patches = jnp.take(padded.reshape(count, -1, channels), places.ravel(), axis=1, mode="clip")
    return patches.reshape(count, rows, columns, -1) @ rhs.reshape(-1, filters)


def halved(maps: Float[Array, "image row column channel"]) -> Float[Array, "image half_row half_column channel"]:
    """Return `linen.max_pool(maps, (2, 2), (2, 2))`, in a form that compiles in half the time."""
    count, rows, columns, channels = maps.shape
    even = maps[:, : rows // 2 * 2, : columns // 2 * 2]
    return even.reshape(count, rows // 2, 2, columns // 2, 2, channels).max(axis=(2, 4))


def drawn_at_once(key: Array, network: linen.Module, inputs: Array) -> Any:
    """Return variables for a network: kernels uniform between ±√(6 / fan_in) (He et al. 2015, ReLU), the rest zero.

    As `network.init` has them in structure, shape and dtype, in a single draw: that compiles ten times as fast. Raises
    ValueError for a network with anything but kernels and biases: a normalisation's scale is not to be zero.
    """
    shapes = jax.eval_shape(network.init, key, inputs)
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    names = {str(getattr(path[-1], "key", path[-1])) for path, _ in leaves}
    if strangers := sorted(names - {"kernel", "bias"}):
        raise ValueError(f"network has {', '.join(strangers)}; it takes one with kernels and biases alone")
    sizes = [int(np.prod(leaf.shape)) for _, leaf in leaves]
    whole = jax.random.uniform(key, (sum(sizes),), inputs.dtype, -1, 1)
    drawn = []
    for (path, leaf), part in zip(leaves, jnp.split(whole, np.cumsum(sizes)[:-1]), strict=True):
        fan_in = int(np.prod(leaf.shape[:-1]))
        kernel = getattr(path[-1], "key", None) == "kernel"
        drawn.append((part * (6 / fan_in) ** 0.5 * kernel).reshape(leaf.shape).astype(leaf.dtype))
    return jax.tree.unflatten(structure, drawn)


class Stack(NamedTuple):
    """The parameters of a deep network whose hidden layers have one width, those of all layers in one array each."""

    entry: Float[Array, "feature unit"]
    hidden: Float[Array, "between unit unit"]
    biases: Float[Array, "layer unit"]
    readout: Float[Array, "unit label"]

    def __call__(self, inputs: Float[Array, "sample feature"], activation: Callable) -> Layers:
        """Return the logits and every hidden layer's pre-activations. Depth costs no compilation."""

        def layer(sums: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:
            weights, bias = given
            following = activation(sums) @ weights + bias[None, :]
            return following, following

        first = inputs @ self.entry + self.biases[0][None, :]
        last, rest = jax.lax.scan(layer, first, (self.hidden, self.biases[1:]))
        return Layers(activation(last) @ self.readout, jnp.concatenate([first[None], rest]))


def random_stack(
    key: Array,
    features: int,
    width: int,
    depth: int,
    labels: int,
    weight_variance: Array | float,
    bias_variance: Array | float = 0.0,
    *,
    dtype: DTypeLike = float,
    uniform: bool = False,
) -> Stack:
    """Return `depth` hidden layers: weights N(0, weight_variance / fan_in), the readout's too, biases N(0, ·).

    Variances may be traced. `uniform` draws from the intervals between ± the square roots of these instead, which have
    a third of the variance.
    """
    shapes = (features, width), (depth - 1, width, width), (depth, width), (width, labels)
    variances = [weight_variance / features, weight_variance / width, bias_variance, weight_variance / width]
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])
    count = (int(ends[-1]),)  # one draw compiles faster than four
    whole = jax.random.uniform(key, count, dtype, -1, 1) if uniform else jax.random.normal(key, count, dtype)
    drawn = [part.reshape(shape) for part, shape in zip(jnp.split(whole, ends[:-1]), shapes, strict=True)]
    roots = (jnp.sqrt(variance).astype(whole.dtype) for variance in variances)
    return Stack(*(root * part for root, part in zip(roots, drawn, strict=True)))


class Critical(NamedTuple):
    """Variances of weights (times fan_in) and biases at the edge of chaos, and the mean square of the outputs."""

    weight_variance: Float[Array, ""]
    bias_variance: Float[Array, ""]
    output: Float[Array, ""]


def critical(function: Callable, q: Array | float) -> Critical:
    """Return the edge of chaos of variance q: σ_w² E φ'² = 1 and σ_w² E φ² + σ_b² = q, by Gauss–Hermite quadrature.

    q may be traced. The quadrature of 80 nodes is off by 1e-5 for tanh at q = 2, less below.
    Schoenholz et al. 2017, arXiv 1611.01232, section 3.
    """
    nodes, shares = np.polynomial.hermite_e.hermegauss(80)
    u = jnp.sqrt(q) * jnp.asarray(nodes, float)
    expected = lambda values: jnp.asarray(shares / shares.sum(), values.dtype) @ values**2
    outputs, slopes = jax.jvp(function, (u,), (jnp.ones_like(u),))
    weight_variance, output = 1 / expected(slopes), expected(outputs)
    return Critical(weight_variance, jnp.maximum(q - weight_variance * output, 0.0), output)


def orthogonal_factor(gaussian: Float[Array, "*stack row row"]) -> Float[Array, "*stack row row"]:
    """Return uniformly distributed orthogonal matrices made of Gaussian ones.

    The Q of their QR factors, with the signs of R's diagonal: Mezzadri 2007, arXiv math-ph/0609050.
    """
    q, r = jnp.linalg.qr(gaussian)
    return q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[..., None, :]


def key_at(key: Array, *place: Array | float) -> Array:
    """Return a key of its own for these numbers: points of a plane that share weights would share their errors.

    The numbers may be traced; they are taken in single precision.
    """
    for number in place:
        bits = jax.lax.bitcast_convert_type(jnp.asarray(number, jnp.float32), jnp.uint32)
        key = jax.random.fold_in(key, bits)
    return key


def centred(variance: Array | float, *, per_input: bool, uniform: bool = False) -> Callable:
    """Return the initialiser N(0, variance), `per_input` N(0, variance / fan_in); the variance may be traced.

    `uniform` draws from the interval between ± the square root of that instead, which has a third of the variance.
    """
    draw = (lambda *drawn: 2 * jax.random.uniform(*drawn) - 1) if uniform else jax.random.normal
    return lambda key, shape, dtype: jnp.sqrt(variance / (shape[0] if per_input else 1)) * draw(key, shape, dtype)


def matrix_product(factors: Sequence[Float[Array, "..."]]) -> Float[Array, "row column"]:
    """Return W_L … W_1 of [W_1, …, W_L]: a deep linear network, end to end."""
    return jnp.linalg.multi_dot(factors[::-1]) if len(factors) > 1 else factors[0]


def uniform_start(
    key: Array, sizes: Sequence[int], dtype: DTypeLike
) -> tuple[dict[str, Any], Float[Array, "parameter"]]:
    """Return the parameters of a `FullyConnected` of these sizes, inputs first, and the same in one vector.

    Kernels lie between ±1/√fan_in, biases are zero. In the vector each kernel (inputs × outputs, row by row) has its
    bias behind it. The whole is one draw, which compiles faster than one for each layer.
    """
    shapes, layers, parts = list(pairwise(sizes)), {}, []
    names = [*(f"hidden_{layer}" for layer in range(len(shapes) - 1)), "readout"]
    ends = np.cumsum([rows * columns for rows, columns in shapes])
    whole = jax.random.uniform(key, (int(ends[-1]),), dtype, -1, 1)
    for name, entries, (rows, columns) in zip(names, jnp.split(whole, ends[:-1]), shapes, strict=True):
        layers[name] = {"kernel": entries.reshape(rows, columns) / rows**0.5, "bias": jnp.zeros(columns, dtype)}
        parts += [layers[name]["kernel"].ravel(), layers[name]["bias"]]
    return {"params": layers}, jnp.concatenate(parts)
