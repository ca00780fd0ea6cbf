"""What a unit of a convolutional network responds to, projected back to pixels; and how features come about.

Claim: Zeiler & Fergus' deconvnet (unpooling at the switches, rectification, transposed filters) is backpropagation of
the unit's output in which each ReLU on the way back rectifies what passes instead of remembering where it was open;
guided backpropagation does both, the gradient the latter alone. So in the first layer, with no ReLU below, all three
are one, and pixels may be negative, since nothing is rectified behind the last filter. The nine pictures that excite a
feature most belong together, and lower layers settle earlier in training than upper ones. First filters are said to
become edge detectors: more of their energy is then in gradients, and in edges, than of random filters (2/9 and 4/9).

Source: Zeiler & Fergus 2013, arXiv 1311.2901, sections 2.1, 4 and figures 2 and 4; Springenberg et al. 2014, arXiv
1412.6806, section 3.4; Simonyan et al. 2013, arXiv 1312.6034, section 4, for the relation to the gradient. Frei & Chen
1977, "Fast boundary detection: a generalization and a new algorithm", for what an edge is to a 3 × 3 filter.

Departure: Zeiler & Fergus show eight-layer networks on ImageNet by eye; here two convolutions and two dense layers on
digits of 8 × 8 pixels, and every statement is a number. `research.deconvnet` projects units of the Flax model as it is,
in every layer, the oracle writes the way back out in NumPy. "Belong together" is the share of the commonest class among
the nine, against the same units before training; "settle" is the step at which half of the way from a layer's first
filters to its last ones is gone. Neither is seen here: random filters group their nine nearly as well, and both layers
settle together, as far as six recordings can tell. Filters of 3 × 3 pixels become gradients in part, .30 of their
energy for .23; ripples, the other edges, lose .05 of it, so that eight seeds do not tell whether filters become edges
as a whole. Zeiler & Fergus normalise filters and contrast, which is left out. `--set data=mnist` and
`data=fashion_mnist` take those pictures where they are at hand (10 000 to learn from).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.nn import one_hot
from jaxtyping import Array, Float

from research import plots
from research.deconvnet import RULES, Method, backprojection, layer_outputs
from research.dynamics import Descent, Run, log_spaced
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed
from research.models import ConvolutionalNetwork
from research.oracles.deconvolution import unit_projections
from research.oracles.edge_energy import RANDOM, edge_energy, random_deviation
from research.statistics import every_seed, over_seeds
from research.vision import TESTED, Data, learning, pictures, strongest

LAYERS = ("convolution_0", "convolution_1", "hidden", "readout")
METHODS: tuple[Method, ...] = ("deconvnet", "guided", "gradient")
NINE, LEARNT = 9, 0.5  # pictures a feature; a network below this accuracy has learnt nothing


class Observables(NamedTuple):
    accuracy: Float[Array, ""]
    first: Float[Array, "side across filter"]
    first_bias: Float[Array, "filter"]
    second: Float[Array, "side across filter deeper"]
    second_bias: Float[Array, "deeper"]
    hidden: Float[Array, "flat within"]
    hidden_bias: Float[Array, "within"]
    readout: Float[Array, "within label"]
    readout_bias: Float[Array, "label"]
    picture: Float[Array, "unit"]
    place: Float[Array, "unit"]
    projections: Float[Array, "rule unit row column"]
    nine: Float[Array, "feature rank row column"]
    nine_pictures: Float[Array, "feature rank"]


class Given(NamedTuple):
    layer: Float[np.ndarray, "unit"]
    channel: Float[np.ndarray, "unit"]


def simulate(
    key: Array,
    learning_rate: float,
    weight_decay: float,
    masked: float = 0.0,
    *,
    data: Data = "digits",
    features: int = 8,
    units: int = 16,
    steps: int = 600,
    shown: int = 300,
) -> Run:
    """A network of two convolutions with `features` filters each learns; its units are projected to pixels meanwhile.

    Each unit on that of the first `shown` pictures in which its output is largest, by the deconvnet, by guided
    backpropagation and by the gradient, all times its rectified output; filters also on the nine with the largest.
    `masked` 1 makes the deconvnet remember where ReLUs were open, which it is not to do.
    """
    network = ConvolutionalNetwork((features, features), hidden=units)
    learner = learning(key, network, data, learning_rate, weight_decay)
    held = pictures(data)
    both = jnp.asarray(np.concatenate([held.train[:shown], held.test[:TESTED]]), jnp.result_type(float))[..., None]
    images, tested = both[:shown], held.test_labels[:TESTED]
    sizes = (features, features, units, 10)
    count = [NINE, NINE, 1, 1]
    channel = np.concatenate([np.repeat(np.arange(size), n) for size, n in zip(sizes, count, strict=True)])
    layer = np.repeat(np.arange(4), np.multiply(sizes, count))
    best = np.concatenate([np.arange(size * n) % n == 0 for size, n in zip(sizes, count, strict=True)])
    side = images.shape[1]

    def observe(state: Descent) -> Observables:
        variables = state.params
        every = layer_outputs(network, variables, both, LAYERS)
        right = jnp.argmax(every["readout"][shown:], axis=1) == tested
        outputs = {name: output[:shown] for name, output in every.items()}
        top = [strongest(output, n) for output, n in zip(outputs.values(), count, strict=True)]
        image, place, activation = (jnp.concatenate([each[i].ravel() for each in top]) for i in range(3))
        seeds = {}
        for number, (name, output) in enumerate(outputs.items()):
            places = output.size // (shown * output.shape[-1])
            amount = jnp.where(layer == number, jnp.maximum(activation, 0), 0)
            where = one_hot(place, places)[:, :, None] * one_hot(channel, output.shape[-1])[:, None, :]
            seed = amount[:, None, None] * where
            seeds[name] = seed.reshape(len(layer), *output.shape[1:])
        methods = [(masked, 1.0), *METHODS[1:]]
        found = backprojection(network, variables, images[image], seeds, methods)[..., 0]
        weights = {name: variables["params"][name] for name in LAYERS}
        kernels: Any = [leaf for name in LAYERS for leaf in (weights[name]["kernel"], weights[name]["bias"])]
        return Observables._make(
            [
                jnp.mean(right, dtype=images.dtype),
                kernels[0][:, :, 0],
                *kernels[1:],
                image[best].astype(images.dtype),
                place[best].astype(images.dtype),
                found[:, best],
                found[0, : 2 * features * NINE].reshape(2 * features, NINE, side, side),
                image[: 2 * features * NINE].reshape(2 * features, NINE).astype(images.dtype),
            ]
        )

    given = Given(layer[best].astype(float), channel[best].astype(float))
    return Run(learner.state, learner.step, observe, log_spaced(steps, 5, first=min(10, steps)), given)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The projections written out, their distances, and how far the filters and the nine pictures have come."""
    data = str(np.atleast_1d(dataset.data.values)[0])
    held = pictures(data)
    known = dataset.picture.notnull()
    index = dataset.picture.fillna(0).astype(int)
    seen = xr.DataArray(held.train[index.values], dims=(*index.dims, "row", "column")).where(known)
    names = Observables._fields[1:9]
    flags = [xr.DataArray([RULES[each][i] for each in METHODS], dims="rule") for i in range(2)]
    units = (dataset.layer, dataset.place, dataset.channel)
    written = lift(unit_projections, seen, *(dataset[name] for name in names), *units, *flags)
    largest = lambda values: abs(values).max(["row", "column"], skipna=False)
    scale = largest(written).max("unit", skipna=False)
    gradient = dataset.projections.isel(rule=2)
    labels = held.train_labels[dataset.nine_pictures.fillna(0).values.astype(int)]
    common = np.max([np.mean(labels == label, axis=-1) for label in range(10)], axis=0)
    together = dataset.nine_pictures.isel(rank=0, drop=True).copy(data=common)
    way = {}
    for name in ("first", "second"):
        own = [each for each in dataset[name].dims if each in ("side", "across", "filter", "deeper")]
        left = ((dataset[name] - dataset[name].isel(step=-1)) ** 2).sum(own) ** 0.5
        way[name] = left / left.isel(step=0)
    shares = lift(edge_energy, dataset["first"])
    return dataset.assign(
        written=written,
        gap=(largest(dataset.projections - written) / scale).max("unit", skipna=False),
        same=(largest(dataset.projections - gradient) / scale).where(dataset.layer == 0, 0.0).max("unit"),
        negative=(written.min(["row", "column"], skipna=False) < 0).where(dataset.layer == 1).mean("unit"),
        alive=(largest(written) > 0).where(dataset.layer == 1).mean("unit"),
        together=together,
        gradient_share=shares.gradient,
        edge_share=shares.edge,
        way=xr.concat([way["first"], way["second"]], "convolution"),
    )


def half_way(way: np.ndarray, step: np.ndarray) -> float:
    """The step at which half of the way is gone for the first time, between recordings linear in ln(1 + step)."""
    after = int(np.argmax(way < 0.5))
    part = slice(max(after - 1, 0), after + 1)
    return float(np.expm1(np.interp(-0.5, -way[part], np.log1p(step[part]))))


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The projections against what is written out; where they agree; grouping, edges, and the order of layers."""
    found: list[Finding] = []
    for number, name in enumerate(("deconvnet", "guided backpropagation", "gradient")):
        what = f"{name}: largest difference of a pixel to the one written out, over the largest pixel"
        found.append(Finding.of(what, (0.0, 1e-10), every_seed(per_seed(dataset.gap.isel(rule=number)))))
    one = "layer 1: largest difference of deconvnet or guided to the gradient, over the largest pixel"
    found.append(Finding.of(one, (0.0, 1e-12), every_seed(per_seed(dataset.same))))
    end = dataset.isel(step=-1)
    sound = end.accuracy > LEARNT
    share = (end.negative.isel(rule=0) / end.alive.isel(rule=0)).where(sound)
    what = "layer 2, deconvnet: share of pictures of units that respond which have negative pixels"
    found.append(Finding.of(what, (0.0, np.inf), over_seeds(per_seed(share, "mean"))))
    half = dataset.sizes["feature"] // 2
    gain = (dataset.together.isel(step=-1) - dataset.together.isel(step=0)).where(sound)
    for number, layer in enumerate(("layer 1", "layer 2")):
        part = slice(number * half, (number + 1) * half)
        level = float(end.together.isel(feature=part).mean())
        what = (
            f"{layer}: share of the commonest class among a filter's nine pictures ({level:.2f}), less before training"
        )
        found.append(Finding.of(what, (0.0, np.inf), over_seeds(per_seed(gain.isel(feature=part), "mean"))))
    ripples = dataset.edge_share - dataset.gradient_share
    kinds = {"gradients, as Sobel's": dataset.gradient_share, "ripples, the other edges": ripples}
    for kind, shares in (*kinds.items(), ("edges, gradients included", dataset.edge_share)):
        mean = shares.mean("filter", skipna=False)
        level = float(mean.isel(step=-1).mean())
        what = f"layer 1: share of a filter's energy in {kind} ({level:.2f}), less before training"
        rise = (mean.isel(step=-1) - mean.isel(step=0)).where(sound)
        found.append(Finding.of(what, (0.0, np.inf), over_seeds(per_seed(rise, "mean"))))
    begin = dataset.gradient_share.isel(step=0).mean("filter")
    room = 5 * random_deviation(2) / (dataset.sizes["seed"] * dataset.sizes["filter"]) ** 0.5
    what = "check, before training: the share in gradients less 2/9, that of random filters"
    found.append(Finding.of(what, (-room, room), over_seeds(per_seed(begin - RANDOM.gradient, "mean"))))
    time = xr.apply_ufunc(
        half_way, dataset.way, dataset.step, input_core_dims=[["step"], ["step"]], vectorize=True
    ).where(sound)
    ratio = np.log(time.isel(convolution=1) / time.isel(convolution=0))
    steps = ", ".join(f"{step:g}" for step in dataset.step.values)
    what = "step at which layer 2 has half of its way behind it over that of layer 1, logarithm"
    what += f" (between steps {steps} only interpolated)"
    found.append(Finding.of(what, (0.0, np.inf), over_seeds(per_seed(ratio, "mean"))))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Top nine by layer and projections; a feature's evolution; filters; three methods; ways; agreement; edges."""
    figure, panels = plots.figure(2, 4, "What the units of a small network respond to", (5.0, 4.4))
    data = str(np.atleast_1d(dataset.data.values)[0])
    held = pictures(data).train
    axes = [each for each in dataset.diverged.dims if each != "seed"]
    run = dataset.isel(dict.fromkeys(axes, -1)).isel(seed=0)
    end, half = run.isel(step=-1), run.sizes["feature"] // 2
    for number, panel in enumerate(panels[0, :2]):
        rows, labels = [], list[str]()
        for feature in range(number * half, number * half + min(half, 4)):
            one = end.isel(feature=feature)
            rows += [one.nine.transpose("rank", "row", "column").values, held[one.nine_pictures.values.astype(int)]]
            labels += [f"filter {feature % half + 1}", ""]
        plots.tiles(panel, rows, labels, [True, False] * (len(rows) // 2))
        panel.set(
            title=f"{'ab'[number]}  layer {number + 1}: top nine of four filters",
            xlabel="projection, and picture below",
        )
    chosen = [place for place in (0, 1, 2, half, half + 1, half + 2) if place < 2 * half]
    evolution = run.nine.isel(feature=chosen, rank=0).transpose("feature", "step", "row", "column").values
    labels = [f"layer {1 + (place >= half)}" for place in chosen]
    plots.tiles(panels[0, 2], list(evolution), labels, [True] * len(chosen))
    steps = ", ".join(f"{step:g}" for step in run.step.values)
    panels[0, 2].set(title="c  strongest picture of a filter as it learns", xlabel=f"step {steps}")
    layers = [int(np.flatnonzero(run.layer == number)[place]) for number in (1, 2, 3) for place in (0, 3)]
    seen = held[end.picture.isel(unit=layers).values.astype(int)]
    three = end.projections.isel(unit=layers).transpose("rule", "unit", "row", "column").values
    plots.tiles(panels[1, 0], [seen, *three], ["picture", *METHODS], [False, True, True, True])
    panels[1, 0].set(title="e  three ways back", xlabel="units of layer 2, hidden layer, readout (two each)")
    way, agree, edges = panels[1, 1:]
    kernels = run["first"].transpose("step", "filter", "side", "across").values[:, :8]
    plots.tiles(panels[0, 3], list(kernels), [f"step {step:g}" for step in run.step.values], [True] * len(kernels))
    panels[0, 3].set(title="d  filters of layer 1", xlabel="filter, each over its largest weight")
    steps = dataset.step + 1
    shares = {"edges": dataset.edge_share, "of them gradients": dataset.gradient_share}
    shares["of them ripples"] = dataset.edge_share - dataset.gradient_share
    for number, (label, share) in enumerate(shares.items()):
        values = share.mean([*axes, "filter"]).transpose("step", "seed")
        edges.plot(steps, values, color=f"C{number}", alpha=0.3, linewidth=0.6)
        edges.plot(steps, values.mean("seed"), color=f"C{number}", label=f"{label}, mean")
    plots.theory(edges, (1, int(steps[-1])), (RANDOM.edge,) * 2, "random filters: 4/9, 2/9")
    plots.theory(edges, (1, int(steps[-1])), (RANDOM.gradient,) * 2, None)
    edges.set(title="h  do filters become edge detectors?", xlabel="step + 1", ylabel="share of a filter's energy")
    edges.set(xscale="log", ylim=(0, None))
    for number in range(2):
        values = dataset.way.isel(convolution=number)
        values = values.isel(dict.fromkeys(axes, -1)).transpose("seed", "step").assign_coords(step=values.step + 1)
        plots.seeds(way, values, f"layer {number + 1}", color=f"C{number}")
    plots.theory(way, way.get_xlim(), (0.5, 0.5), "half of the way", linestyle=":")
    way.set(
        title="f  which layer settles first?",
        xlabel="step + 1",
        ylabel="distance of filters to their last, relative",
    )
    way.set(xscale="log")
    for number, name in enumerate(METHODS):
        drawn = end.isel(rule=number)
        plots.points(agree, drawn.written, drawn.projections, name, color=f"C{number}")
    plots.theory(agree, agree.get_xlim(), agree.get_xlim(), "equal")
    agree.set(title="g  every pixel of every unit", xlabel="written out in NumPy", ylabel="research.deconvnet")
    for each in (way, agree, edges):
        plots.legend(each)
    return figure


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, "learning_rate": (0.02, 0.05), "weight_decay": (0.0, 1e-3)},
    smoke={"seeds": 2, "learning_rate": 0.05, "weight_decay": 0.0, "features": 4, "steps": 300, "shown": 100},
    paper={"seeds": 32, "features": 32, "units": 128, "steps": 5_000, "shown": 1297},
    control={"masked": 1.0},
)
