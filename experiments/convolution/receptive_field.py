"""A unit's receptive field grows with every layer, by filter and stride; what it heeds of it grows like a square root.

Claim: A unit behind layers of filters k and strides s sees r inputs along an axis, r = r' + (k − 1) j' with the
distance j = j' s of neighbours' fields: not the area of a filter, as of the first layer, but conv 3, pool 2, conv 3 see
8. Its sensitivity is spread unevenly: with all weights one the place of an input, weighted with its effect, has the
variance Σ j'² (k² − 1)/12. In depth n this effective field grows like √n while the field grows like n: its share falls.

Source: The recursion: Araujo, Norris & Sim 2019, Distill, "Computing receptive fields of convolutional neural
networks", section 2. The effective receptive field: Luo, Li, Urtasun & Zemel 2016, arXiv 1701.04128, section 2.

Departure: Random architectures of convolutions and mean pooling along one axis, strides at most the filter (else the
field has holes), weights positive and nothing rectified, so that no effect cancels; and in two dimensions the network
of this project with ReLU and max-pooling, whose field is the union of what matters over many pictures. Luo et al. also
train networks and look at Gaussian weights, which is left out. Depth is a stack of linear Flax convolutions with three
weights each, once ones and once random, where the layers' variances add just as well: what is found of their
spread is arithmetic, a check of the theory, the layers and the figure, which no network can fail.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import linen
from jaxtyping import Array, Float

from research import plots
from research.deconvnet import backprojection
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed
from research.models import ConvolutionalNetwork, drawn_at_once
from research.oracles.effective_field import stacked_variance
from research.oracles.receptive_field import Field, receptive_field
from research.statistics import every_seed, slope

LENGTH, UNIT, LAYERS, PLACE = 120, 1, 4, 4
OWN = ((3, 2, 3), (1, 2, 1), (1, 0, 1))  # filters, strides, paddings up to the second convolution of the network


class Measures(NamedTuple):
    effects: Float[Array, "weighting architecture place"]
    kernels: Float[np.ndarray, "architecture layer"]
    strides: Float[np.ndarray, "architecture layer"]
    filters: Float[Array, "weighting depth tap"]
    spread: Float[Array, "weighting depth along"]
    seen: Float[Array, "row column"]


def architectures(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random filters, strides and which layers pool, one to `LAYERS` layers; the rest has filter and stride 1."""
    rng = np.random.default_rng(1)
    kernels = rng.integers(2, 6, (count, LAYERS))
    strides = np.minimum(rng.integers(1, 3, (count, LAYERS)), kernels)
    absent = np.arange(LAYERS) >= 1 + np.arange(count)[:, None] % LAYERS
    kernels[0, :3], strides[0, :3], absent[0] = OWN[0], OWN[1], [False] * 3 + [True]
    kernels[absent], strides[absent] = 1, 1
    pooled = rng.random((count, LAYERS)) < 0.3
    pooled[0] = [False, True, False, False]
    return kernels, strides, pooled & (kernels > 1)


def simulate(key: Array, edge: float = 1.0, *, count: int = 8, deepest: int = 16, draws: int = 64) -> Measures:
    """The effect of every input on one unit of random architectures, in depth, and in the network of this project.

    `effects` are the derivatives of unit `UNIT`, once with weights uniform in [0.5, 1.5], the outermost of each filter
    times `edge`, once with weights one. `spread` are those of the middle unit behind each of the `deepest` layers with
    filters of three weights, `filters`, once uniform in [0.5, 1.5], once ones. `seen` says on how many of `draws`
    pictures a pixel matters to unit (4, 4, 0) of `convolution_1`.
    """
    weight_key, network_key, picture_key = jax.random.split(key, 3)
    kernels, strides, pooled = architectures(count)
    drawn = jax.random.uniform(weight_key, (count, LAYERS, 5), minval=0.5, maxval=1.5)
    tap, last = np.arange(5), kernels[..., None] - 1
    edged = drawn * jnp.where((tap == 0) | (tap == last), edge, 1.0)

    def unit(weights: Array, number: int) -> Any:
        def output(line: Array) -> Array:
            maps: Any = line[None, :, None]
            for layer in range(LAYERS):
                size, step = int(kernels[number, layer]), int(strides[number, layer])
                if pooled[number, layer]:
                    maps = linen.avg_pool(maps, (size,), (step,))
                elif size > 1:
                    kernel = weights[number, layer, :size]
                    convolution = linen.Conv(1, (size,), strides=step, padding="VALID", use_bias=False)
                    maps = convolution.apply({"params": {"kernel": kernel[:, None, None]}}, maps)
            return maps[0, UNIT, 0]

        return output

    line = jnp.ones(LENGTH, drawn.dtype)
    both = jnp.stack([edged, jnp.ones_like(drawn)])
    derivative = lambda number: jax.vmap(lambda weights: jax.grad(unit(weights, number))(line))(both)
    effects = jnp.stack([derivative(number) for number in range(count)], axis=1)

    thirds = jax.random.uniform(jax.random.fold_in(weight_key, 1), (deepest, 3), minval=0.5, maxval=1.5)
    filters = jnp.stack([thirds, jnp.ones_like(thirds)])
    third: Any = linen.Conv(1, (3,), padding="SAME", use_bias=False)

    def layer(maps: Array, kernel: Array) -> tuple[Array, Array]:
        maps = third.apply({"params": {"kernel": (kernel / jnp.sum(kernel))[:, None, None]}}, maps)
        return maps, maps[0, :, 0]

    def deep(kernels: Array) -> Array:
        line = jnp.ones((1, 4 * deepest + 1, 1), drawn.dtype)
        _, back = jax.vjp(lambda line: jax.lax.scan(layer, line, kernels)[1], line)
        middle = jnp.arange(line.size) == 2 * deepest
        units = jnp.eye(deepest)[:, :, None] * middle[None, None, :]  # of each depth that one
        return jax.vmap(back)(units)[0][:, 0, :, 0]

    spread = jax.vmap(deep)(filters)

    network = ConvolutionalNetwork((2, 1), hidden=1)
    images = jax.random.uniform(picture_key, (draws, 16, 16, 1), drawn.dtype, 0.5, 1.5)
    variables = jax.tree.map(jnp.abs, drawn_at_once(network_key, network, images[:1]))
    seeds = jnp.zeros((draws, 8, 8, 1), drawn.dtype).at[:, PLACE, PLACE, 0].set(1.0)
    seen = backprojection(network, variables, images, {"convolution_1": seeds}, "gradient")[..., 0]
    number = lambda values: np.asarray(values, float)
    matters = jnp.sum(seen != 0, axis=0).astype(drawn.dtype)
    return Measures(effects, number(kernels), number(strides), filters, spread, matters)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Fields by recursion; where effects begin and end, how they are spread, and by how much all that is off."""
    field = lift(receptive_field, dataset.kernels, dataset.strides, xr.zeros_like(dataset.kernels))
    first = field.start + UNIT * field.jump
    place = xr.DataArray(np.arange(dataset.sizes["place"]), dims="place")
    inside = (place >= first) & (place < first + field["size"])
    wrong = ((dataset.effects != 0) != inside).any("place") & field["size"].notnull()
    weight = dataset.effects.isel(weighting=1)
    mean = (weight * place).sum("place") / weight.sum("place")
    variance = (weight * (place - mean) ** 2).sum("place") / weight.sum("place")
    middle = xr.DataArray(np.arange(dataset.sizes["along"]) - dataset.sizes["along"] // 2, dims="along")
    layers = xr.DataArray(np.arange(1, dataset.sizes["depth"] + 1), dims="depth")
    deep = [Field(*receptive_field(*np.full((3, n), [[3.0], [1.0], [0.0]]))).variance for n in layers.values]
    total = dataset.spread.sum("along")
    off = (dataset.spread * middle).sum("along") / total
    own = Field(*receptive_field(*(np.array(each, float) for each in OWN)))
    begin = own.start + PLACE * own.jump
    box = lambda dimension: (np.arange(16) >= begin) & (np.arange(16) < begin + own.size)
    expected = xr.DataArray(np.outer(box("row"), box("column")), dims=("row", "column"))
    return dataset.assign(
        field_size=field["size"],
        first=first,
        misplaced=wrong.mean(["weighting", "architecture"]).where(field["size"].notnull().all()),
        variance_gap=abs(variance / field.variance - 1).max("architecture", skipna=False),
        deviation=((dataset.spread * (middle - off) ** 2).sum("along") / total) ** 0.5,
        expected_deviation=lift(stacked_variance, dataset.filters) ** 0.5,
        ones_deviation=("depth", np.array(deep) ** 0.5),
        own_wrong=((dataset.seen > 0) != expected).mean(["row", "column"]),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The support, the network of this project, the filter as a rival, the variance, and its growth in depth."""
    found: list[Finding] = []
    add = lambda what, band, values: found.append(Finding.of(what, band, every_seed(per_seed(values))))
    count = dataset.sizes["architecture"]
    add(f"share of {count} architectures in which other inputs matter than those predicted", (0, 0), dataset.misplaced)
    add("network of this project, second convolution: share of pixels off its 8 × 8 field", (0, 0), dataset.own_wrong)
    last = dataset.kernels.where(dataset.kernels > 1).max("layer")
    several = (dataset.kernels > 1).sum("layer") > 1
    matter = (dataset.effects != 0).sum("place").min("weighting")
    rival = (matter / last).where(several, np.inf).min("architecture")
    add("two layers and more: inputs that matter over the largest filter, the least", (1, np.inf), rival)
    add(
        "check, weights one: variance of the effective field over Σ j² (k² − 1)/12, distance to 1",
        (0, 1e-10),
        dataset.variance_gap,
    )
    deviation = dict(zip(("random", "ones"), dataset.deviation.transpose("weighting", ...), strict=True))
    stack = f"{dataset.sizes['depth']} convolutions of three"
    gap = lambda kind, theory: abs(deviation[kind] / theory - 1).max("depth", skipna=False)
    what = f"check, {stack} ones: deviation of the effective field over √(2n/3), distance to 1, largest of a depth n"
    add(what, (0, 1e-10), gap("ones", dataset.ones_deviation))
    what = f"check, {stack} random weights: deviation over the root of summed variances, distance to 1"
    add(what, (0, 1e-10), gap("random", dataset.expected_deviation.isel(weighting=0)))
    if dataset.sizes["depth"] > 4:
        # d ln(√n/(2n + 1))/d ln n = −1/2 + 1/(2n + 1)
        layers = np.arange(4, dataset.sizes["depth"] + 1)
        part = deviation["ones"].isel(depth=slice(3, None)).transpose(..., "depth")
        falls = xr.DataArray(slope(np.log(layers), np.log(part.values / (2 * layers + 1))), dims=part.dims[:-1])
        what = "check, follows from the ones: slope of the effective share's logarithm on the depth's, from 4 layers"
        add(what, (-0.5, -0.5 + 1 / 9), falls.broadcast_like(dataset.misplaced))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Effects of inputs with the predicted fields; an impulse in depth; field and effective field against depth."""
    figure, panels = plots.figure(1, 3, "What a unit can see, and what it heeds", (4.8, 3.8))
    fields, impulse, growth = panels[0]
    axes = dict.fromkeys(dataset.diverged.dims, 0)
    run = dataset.isel(axes)
    for number in range(dataset.sizes["architecture"]):
        effect = run.effects.isel(weighting=0, architecture=number).values
        first, size = (float(np.ravel(run[name].isel(architecture=number))[0]) for name in ("first", "field_size"))
        fields.plot(
            number + 0.8 * effect / effect.max(), color="C0", label="effect of an input" if not number else None
        )
        box = [first - 0.5, first - 0.5, first + size - 0.5, first + size - 0.5]
        label = "predicted field" if not number else None
        plots.theory(fields, box, number + np.array([0, 0.9, 0.9, 0]), label, linestyle="-", linewidth=0.8)
    sizes = [
        " ".join(f"{k:g}/{s:g}" for k, s in zip(*rows, strict=True) if k > 1)
        for rows in zip(run.kernels.values, run.strides.values, strict=True)
    ]
    fields.set_yticks(np.arange(len(sizes)) + 0.3, sizes, fontsize=7)
    fields.set(title="a  random architectures", xlabel="input", ylabel="filter/stride, layer by layer")
    fields.set_xlim(-2, float((run["first"] + run.field_size).max()) + 12)
    depths = [each for each in (1, 4, 16) if each <= dataset.sizes["depth"]]
    offset = np.arange(dataset.sizes["along"]) - dataset.sizes["along"] // 2
    for number, depth in enumerate(depths):
        values = run.spread.isel(weighting=1, depth=depth - 1).values
        impulse.plot(
            offset, values / values.max(), "o-", color=f"C{number}", ms=3, label=f"{depth} layer{'s'[: depth > 1]}"
        )
        fine = np.linspace(offset[0], offset[-1], 400)
        if depth > 1:
            label = "Gaussian of variance 2n/3" if number == 1 else None
            plots.theory(impulse, fine, np.exp(-(fine**2) / (4 * depth / 3)), label)
    impulse.set(
        title="b  layers of three ones",
        xlabel="distance of the input",
        ylabel="effect over the largest",
        xlim=(-18, 18),
    )
    layers = np.arange(1, dataset.sizes["depth"] + 1)
    values = dataset.deviation.isel({each: 0 for each in axes if each != "seed"})
    for number, label in enumerate(("deviation, random weights", "deviation, ones")):
        each = values.isel(weighting=number).transpose("seed", "depth").assign_coords(depth=layers)
        plots.seeds(growth, each, label, color=f"C{1 - number}", marker="o", ms=4 - number)
    plots.theory(growth, layers, (2 * layers / 3) ** 0.5, "√(2n/3)")
    plots.theory(growth, layers, layers + 0.5, "half the field, n + 1/2", linestyle=":")
    growth.set(title="c  it grows like a square root", xlabel="layers n", ylabel="inputs", xscale="log", yscale="log")
    for each in panels[0]:
        plots.legend(each)
    return figure


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, "edge": 1.0},
    smoke={"seeds": 2, "count": 4},
    paper={"seeds": 32, "count": 32, "deepest": 64},
    control={"edge": 0.0},
)
