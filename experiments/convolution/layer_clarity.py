"""Maps of the second layer are less clear than those of the first: since they are smaller, and rectified.

Claim: Seen as pictures, feature maps of a network's second convolution look less clear than those of the first. As
numbers: a linear decoder reads less of the picture off one of them, and their spectrum lies at lower frequencies. Three
controls tell why: random weights, maps of the first layer pooled to the size of the second's, and maps of the second
before its ReLU. What is left in a linear network of the same filters, with pooling by means, follows from the filters
and the pictures' covariance without a run. A map of v values gives at most the share of the picture's variance that is
in its v first principal components.

Source: A remark of courses on convolutional networks, beside pictures of feature maps. The bound: Eckart & Young 1936.
That a network gives up information about its input in depth: Tishby & Zaslavsky 2015, arXiv 1503.02406.

Departure: "Clear" has no definition in those courses. Here it is the share of the variance of all pixels that the best
linear decoder explains from one map, on the pictures learnt from (information of the order −ln(1 − R²)/2 where all is
Gaussian), and the mean frequency of the map's power without its mean, in cycles a pixel of the picture. Maps are taken
behind the ReLU, before pooling, 8 × 8 in the first layer and 4 × 4 in the second on digits; filters that are silent on
all pictures are left out. A blur that can be undone costs this share nothing, and a 3 × 3 convolution with zeros around
is invertible but for exceptional filters: only pooling and the spectrum can show blur. Two thirds of the loss are there
in layer 1 pooled; before its ReLU a map of layer 2, which sums several, says more than one of layer 1 pooled, not less;
behind it, less. At one size layer 2 has the higher frequencies, not the lower. Random weights lose, too; whether as
much, eight seeds do not tell. That no map exceeds the principal components holds for any map: the row is a check of the
decoder. The linear network takes the filters of the other, before and after training; besides the ReLUs it lacks biases
and pooling by the largest, so that its distance to the other has several causes. It is run, too, for a check of its
theory.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import linen
from jaxtyping import Array, Float

from research import plots
from research.deconvnet import layer_outputs
from research.dynamics import Descent, Run
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed
from research.models import ConvolutionalNetwork, halved, patch_convolution
from research.oracles.clarity import decodable_share, principal_share
from research.oracles.linear_maps import linear_clarity
from research.statistics import every_seed, over_seeds
from research.vision import Data, learning, pictures

LEARNT = 0.5  # a network below this accuracy has learnt nothing
KINDS = ("layer 1", "layer 1 pooled", "layer 2 before ReLU", "layer 2")
LINEAR = 3  # kinds of the linear network, whose second layer has no ReLU


class Observables(NamedTuple):
    accuracy: Float[Array, ""]
    fine_within: Float[Array, "feature fine other_fine"]
    fine_across: Float[Array, "feature fine pixel"]
    within: Float[Array, "kind feature coarse other_coarse"]
    across: Float[Array, "kind feature coarse pixel"]
    centroid: Float[Array, "spectrum feature"]
    linear_within: Float[Array, "linear_kind feature coarse other_coarse"]
    linear_across: Float[Array, "linear_kind feature coarse pixel"]
    linear_centroid: Float[Array, "linear_spectrum feature"]
    first: Float[Array, "height width filter"]
    second: Float[Array, "height width filter deeper"]
    example: Float[Array, "feature row column"]
    smaller: Float[Array, "kind feature half_row half_column"]


class Given(NamedTuple):
    covariance: Float[np.ndarray, "pixel other"]
    average: Float[np.ndarray, "pixel"]
    subject: Float[np.ndarray, "row column"]


class LinearNetwork(linen.Module):
    """The two convolutions of a `ConvolutionalNetwork` without biases and ReLUs, mean-pooling between them."""

    filters: tuple[int, int]

    @linen.compact
    def __call__(self, images: Float[Array, "image row column channel"]) -> tuple[Array, Array, Array]:
        """Return the maps of the first layer, the same pooled, and those of the second."""
        first, second = (
            linen.Conv(count, (3, 3), use_bias=False, conv_general_dilated=patch_convolution, name=f"convolution_{i}")
            for i, count in enumerate(self.filters)
        )
        fine = first(images)
        pooled = linen.avg_pool(fine, (2, 2), (2, 2))
        return fine, pooled, second(pooled)


def simulate(
    key: Array,
    learning_rate: float,
    weight_decay: float,
    blurred: float = 0.0,
    *,
    data: Data = "digits",
    features: int = 8,
    seen: int = 4,
    steps: int = 600,
    shown: int = 1000,
) -> Run:
    """A network learns; before and after, covariances of the first `seen` maps of each layer with the pixels.

    "fine" are maps of the first layer; the coarse kinds are the same max-pooled and those of the second layer, before
    and behind its ReLU; "linear" are those of a `LinearNetwork` of the same filters. `blurred` 1 pools the maps of the
    first layer to a quarter of their size before all that.
    """
    network, linear = ConvolutionalNetwork((features, features)), LinearNetwork((features, features))
    learner = learning(key, network, data, learning_rate, weight_decay)
    held = pictures(data).train[:shown]
    average = held.reshape(shown, -1).mean(axis=0)
    flat = held.reshape(shown, -1) - average
    images = jnp.asarray(held, jnp.result_type(float))[..., None]
    pixels = jnp.asarray(flat, images.dtype)

    def moments(maps: Array) -> tuple[Array, Array]:
        values = jnp.moveaxis(maps, -1, 0).reshape(maps.shape[-1], shown, -1)
        values -= values.mean(axis=1, keepdims=True)
        return jnp.einsum("fni,fnj->fij", values, values) / shown, jnp.einsum("fni,np->fip", values, pixels) / shown

    def centroid(maps: Array, spacing: int) -> Array:
        rows, columns = (np.abs(np.fft.fftfreq(size, spacing)) for size in maps.shape[1:3])
        frequency = np.hypot(rows[:, None], columns[None, :])[..., None]
        power = jnp.sum(jnp.abs(jnp.fft.fft2(maps - maps.mean(axis=(1, 2), keepdims=True), axes=(1, 2))) ** 2, axis=0)
        whole = jnp.maximum(jnp.sum(power, axis=(0, 1)), jnp.finfo(maps.dtype).tiny)  # 0 for a silent filter
        return jnp.sum(power * frequency, axis=(0, 1)) / whole

    def measured(*kinds: Array) -> tuple[Array, Array, Array]:
        within, across = (jnp.stack(each) for each in zip(*map(moments, kinds[1:]), strict=True))
        return within, across, jnp.stack([centroid(*each) for each in zip(kinds, (1, 2, 2, 2), strict=False)])

    def observe(state: Descent) -> Observables:
        variables: Any = state.params
        outputs = layer_outputs(network, variables, images, ["convolution_0", "convolution_1"])
        first, before = (output[..., :seen] for output in outputs.values())
        first, second = jnp.maximum(first, 0), jnp.maximum(before, 0)
        quarter = jnp.repeat(jnp.repeat(halved(halved(first)), 4, axis=1), 4, axis=2)
        first = jnp.where(blurred > 0, quarter, first)
        pooled = halved(first)
        filters = {name: {"kernel": variables["params"][name]["kernel"]} for name in outputs}
        plain: Any = linear.apply({"params": filters}, images)
        tops = jnp.stack([jnp.moveaxis(maps[0], -1, 0) for maps in (pooled, before, second)])
        example = jnp.moveaxis(first[0], -1, 0)
        return Observables(
            learner.accuracy(variables),
            *moments(first),
            *measured(first, pooled, before, second),
            *measured(*(maps[..., :seen] for maps in plain)),
            filters["convolution_0"]["kernel"][:, :, 0],
            filters["convolution_1"]["kernel"],
            example,
            tops,
        )

    given = Given(flat.T @ flat / shown, average, held[0])
    return Run(learner.state, learner.step, observe, np.array([0, steps]), given)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """What can be read off each map, at most and in fact, and where its spectrum lies; silent filters are NaN.

    `linear_share` and `linear_frequency` are theory's for the three kinds of maps of the linear network.
    """
    total = xr.DataArray(np.einsum("...ii", dataset.covariance.values), dims=dataset.covariance.dims[:-2])
    fine = lift(decodable_share, *_named(dataset.fine_within, dataset.fine_across, "fine"), total)
    coarse = lift(decodable_share, *_named(dataset.within, dataset.across, "coarse"), total)
    share = xr.concat([fine, *(coarse.isel(kind=i, drop=True) for i in range(coarse.sizes["kind"]))], "map")
    squares = dataset.within.transpose(..., "coarse", "other_coarse")
    trace = xr.DataArray(np.einsum("...ii", squares.values), dims=squares.dims[:-2])
    alive = (trace > 0).all("kind")
    sizes = [dataset.sizes["fine"], *[dataset.sizes["coarse"]] * 3]
    covariance = dataset.covariance
    bounds = [lift(principal_share, covariance, count=size) for size in sizes]
    centroid = dataset.centroid.rename(spectrum="map")
    theory = lift(linear_clarity, dataset["first"], dataset.second, covariance, dataset.average)
    some = lambda name: theory[name].rename({theory[name].dims[-1]: "feature"})[..., : dataset.sizes["feature"]]
    linear_share, linear_frequency = (
        xr.concat([some(f"{kind}{what}") for kind in ("", "pooled_", "second_")], "linear_map")
        for what in ("share", "frequency")
    )
    plain = lift(decodable_share, *_named(dataset.linear_within, dataset.linear_across, "coarse"), total)
    theirs = linear_share.isel(linear_map=slice(1, None)).rename(linear_map="linear_kind")
    ratio = dataset.linear_centroid.rename(linear_spectrum="linear_map") / linear_frequency
    return dataset.assign(
        linear_share=linear_share,
        linear_frequency=linear_frequency,
        linear_share_gap=abs(plain - theirs),
        linear_frequency_gap=abs(ratio - 1),
        share=share.where(alive),
        frequency=centroid.where(alive),
        bound=xr.concat(bounds, "map"),
        values=("map", np.array(sizes, float)),
    )


def _named(within: xr.DataArray, across: xr.DataArray, kind: str) -> tuple[xr.DataArray, xr.DataArray]:
    return within.rename({kind: "value", f"other_{kind}": "other"}), across.rename({kind: "value"})


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Layer 1 less layer 2: what can be read, frequency; random weights; at one size; ReLU; linear theory; bound."""
    end, begin = dataset.isel(step=-1), dataset.isel(step=0)
    learnt = end.accuracy > LEARNT
    found: list[Finding] = []

    def add(what: str, values: xr.DataArray, band: tuple[float, float] = (0.0, np.inf)) -> None:
        found.append(Finding.of(what, band, over_seeds(per_seed(values.where(learnt), "mean"))))

    mean = lambda values: values.mean("feature")
    level = [float(mean(end.share).isel(map=i).where(learnt).mean()) for i in range(4)]
    less = lambda runs, i, name="share", j=-1: mean(runs[name].isel(map=i) - runs[name].isel(map=j))
    add(f"share of the picture read off a map, layer 1 ({level[0]:.2f}) less layer 2 ({level[3]:.2f})", less(end, 0))
    add("the same with random weights, before training", less(begin, 0))
    add("the same trained less the same with random weights", less(end, 0) - less(begin, 0))
    add(f"layer 1 pooled to the size of layer 2 ({level[1]:.2f}) less layer 2", less(end, 1))
    add(f"layer 1 pooled less layer 2 before its ReLU ({level[2]:.2f})", less(end, 1, j=2))
    add("layer 2 before its ReLU less the same behind it", less(end, 2))
    linear = [mean(end.linear_share.isel(linear_map=i)) for i in range(LINEAR)]
    what = "layer 1 pooled less layer 2, a linear network of these filters (theory); below 0 is what mixing maps adds"
    add(what, linear[1] - linear[2])
    add("mean frequency, layer 1 less layer 2, cycles a pixel", less(end, 0, "frequency"))
    add("mean frequency, layer 1 pooled less layer 2, cycles a pixel", less(end, 1, "frequency"))
    spectrum = mean(end.linear_frequency.isel(linear_map=2))
    levels = [float(each.where(learnt).mean()) for each in (linear[0], linear[2], spectrum)]
    what = (
        f"layer 2 of a linear network of these filters (theory: {levels[1]:.2f}, layer 1: {levels[0]:.2f}), share less"
    )
    add(f"{what} that of the network", linear[2] - mean(end.share.isel(map=-1)))
    what = f"mean frequency, layer 2 of the network, less that of the linear one (theory: {levels[2]:.2f})"
    add(what, mean(end.frequency.isel(map=-1)) - spectrum)
    checks = {
        "share, distance to theory": "linear_share_gap",
        "frequency over theory's, distance to 1": "linear_frequency_gap",
    }
    for what, gap in checks.items():
        said = f"check, linear network as it is run: {what}, largest of a run"
        found.append(Finding.of(said, (0.0, 1e-9), every_seed(per_seed(dataset[gap]))))
    components = int(dataset["values"].values[-1])
    what = f"check, layer 2: share over that of {components} principal components, the largest of a run"
    add(what, (end.share / end.bound).isel(map=-1).max("feature"), (0.0, 1.0))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Maps of one digit; what can be read off a map against its size; where the spectra lie."""
    figure, panels = plots.figure(1, 3, "Are maps of the second layer less clear?", (4.8, 4.0))
    maps, share, spectrum = panels[0]
    run = dataset.isel({each: -1 for each in dataset.diverged.dims if each != "seed"}).isel(seed=0, step=-1)
    twice = lambda tiles: np.repeat(np.repeat(tiles, 2, axis=1), 2, axis=2)
    scaled = lambda tiles: tiles / np.maximum(tiles.max(axis=(1, 2), keepdims=True), 1e-30)
    small = run.smaller.transpose("kind", "feature", "half_row", "half_column").values
    large = run.example.transpose("feature", "row", "column").values
    rows = [np.repeat(run.subject.values[None], len(large), axis=0), *map(scaled, (large, *map(twice, small)))]
    plots.tiles(maps, rows, ["picture", *KINDS], [False, False, False, True, False])
    maps.set(title="a  four maps of each kind", xlabel="filter, each over its largest value")
    ends = {"random weights": dataset.isel(step=0), "trained": dataset.isel(step=-1)}
    for number, (name, runs) in enumerate(ends.items()):
        for panel, variable in ((share, "share"), (spectrum, "frequency")):
            values = runs[variable].mean([each for each in runs[variable].dims if each not in ("seed", "map")])
            for kind in range(len(KINDS)):
                column = values.isel(map=kind).values
                place = np.full(len(column), kind + 0.15 * (2 * number - 1))
                panel.plot(place, column, "o", color=f"C{number}", ms=4, alpha=0.6, label=None if kind else name)
    for number, runs in enumerate(ends.values()):
        for panel, values in ((share, runs.linear_share), (spectrum, runs.linear_frequency)):
            level = values.mean([each for each in values.dims if each != "linear_map"])
            for kind, height in enumerate(level.values):
                middle = kind + 0.15 * (2 * number - 1)
                label = None if number or kind else "linear network of the filters, theory"
                plots.theory(panel, (middle - 0.12, middle + 0.12), (height,) * 2, label, linestyle="-", linewidth=2)
    bound = dataset.bound.mean([each for each in dataset.bound.dims if each != "map"])
    for kind in range(len(KINDS)):
        label = "principal components, as many" if not kind else None
        plots.theory(share, (kind - 0.35, kind + 0.35), (bound[kind],) * 2, label, linestyle=":")
    share.set(title="b  what can be read off one map", ylabel="share of the picture's variance", ylim=(0, 1.3))
    spectrum.set(title="c  where its spectrum lies", ylabel="mean frequency, cycles a pixel")
    short = [kind.replace(" pooled", "\npooled").replace(" before ReLU", "\nbefore ReLU") for kind in KINDS]
    for panel in (share, spectrum):
        panel.set_xticks(
            range(len(KINDS)),
            [f"{kind}\n{int(v)} values" for kind, v in zip(short, dataset["values"].values, strict=True)],
        )
        panel.set_xlabel("kind of map")
        plots.legend(panel, loc="upper right")
    return figure


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, "learning_rate": (0.02, 0.05), "weight_decay": (0.0, 1e-3)},
    smoke={"seeds": 2, "learning_rate": 0.05, "weight_decay": 0.0, "features": 4, "steps": 300, "shown": 300},
    paper={"seeds": 64, "features": 32, "steps": 5_000, "shown": 1297},
    control={"blurred": 1.0},
)
