"""A picture that stays the same when the network is randomised explains nothing of what the network has learnt.

Claim: A reader may doubt that pictures of what a unit "sees" explain a network. With its layers randomised from the
top, and for another class, the gradient becomes another map, while those of guided backpropagation and the deconvnet
stay much more alike: they recover the picture. For a random network with N filters and no pooling that is a theorem:
the guided map is Σ_p x_p/‖x_p‖, every patch normalised and put back, up to an error whose square is as large as C/N,
the gradient's and the deconvnet's mean is zero.

Source: Adebayo et al. 2018, arXiv 1810.03292, section 3.1 (cascading randomisation: gradients change, guided
backpropagation hardly does). Nie, Zhang & Patel 2018, arXiv 1805.07039 (guided backpropagation and, with max-pooling,
the deconvnet recover the picture); C is derived in research/oracles/recovery.py.

Departure: Adebayo et al. look at Inception on ImageNet; here networks of two convolutions on digits of 8 × 8 pixels.
They name no thresholds: "changes" is a rank correlation below 0.3 here, "stays" one above 0.7, with and without the
sign of the pixels, mean over pictures, of the logit of the right class. Structural similarity (Wang et al. 2004) is
taken over the whole picture, not in windows; a map that is zero throughout is like none. Filters of the random network
have variance 1: scale drops out. Recovery needs many filters: with 8 a layer, all drawn anew, no map stays above 0.7,
with 32 that of guided backpropagation hardly does, the interval straddles 0.7, and the deconvnet's does not. That a
cosine's mean is zero is judged by its own spread over random networks, in five standard errors.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import linen
from jaxtyping import Array, Float

from research import plots
from research.deconvnet import Method, backprojection
from research.dynamics import Descent, Run
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select
from research.models import ConvolutionalNetwork, drawn_at_once, patch_convolution
from research.oracles.recovery import guided_recovery, recovery_error
from research.statistics import over_seeds, rank_correlation, slope
from research.vision import Data, learning, pictures

METHODS: tuple[Method, ...] = ("gradient", "deconvnet", "guided")
LAYERS = ("readout", "hidden", "convolution_1", "convolution_0")  # from the top
MEASURES = ("signed", "absolute", "structure")
DIFFERENT, ALIKE, ERRORS, LEARNT = 0.3, 0.7, 5.0, 0.5


class Shallow(linen.Module):
    """One convolution without bias, ReLU, one output."""

    filters: int

    @linen.compact
    def __call__(self, images: Float[Array, "image row column channel"]) -> Float[Array, "image 1"]:
        """Return the output."""
        convolution = linen.Conv(
            self.filters, (3, 3), use_bias=False, conv_general_dilated=patch_convolution, name="convolution"
        )
        outputs = linen.relu(convolution(images))
        return linen.Dense(1, use_bias=False, name="readout")(outputs.reshape(len(images), -1))


class Observables(NamedTuple):
    accuracy: Float[Array, ""]
    maps: Float[Array, "stage method picture row column"]


class Given(NamedTuple):
    subject: Float[Array, "row column"]
    random: Float[Array, "rule count draw row column"]
    filters: Float[np.ndarray, "count"]


def simulate(
    key: Array,
    learning_rate: float,
    weight_decay: float,
    masked: float = 1.0,
    *,
    data: Data = "digits",
    features: int = 8,
    units: int = 16,
    steps: int = 600,
    subjects: int = 12,
    draws: int = 8,
    widest: int = 256,
) -> Run:
    """A network learns and is then randomised from the top; beside it `draws` random networks of one convolution.

    `maps` are those of the logit of the right class: trained, with each layer and all above it drawn anew, and trained
    for the class after the right one. The random networks have `widest` filters, and those cut to a quarter, a
    sixteenth; their first map is guided backpropagation, which `masked` 0 makes a deconvnet, the others the gradient's
    and the deconvnet's, each over the number of filters.
    """
    learn_key, new_key, random_key = jax.random.split(key, 3)
    network = ConvolutionalNetwork((features, features), hidden=units)
    learner = learning(learn_key, network, data, learning_rate, weight_decay)
    held = pictures(data)
    images = jnp.asarray(held.test[:subjects], jnp.result_type(float))[..., None]
    labels = held.test_labels[:subjects]
    new = drawn_at_once(new_key, network, images[:1])["params"]
    drawn_anew = np.array([[stage > place and stage <= len(LAYERS) for place in range(4)] for stage in range(6)])
    right = jax.nn.one_hot(np.stack([labels] * 5 + [(labels + 1) % 10]), 10, dtype=images.dtype)

    def observe(state: Descent) -> Observables:
        own: Any = state.params["params"]

        def maps(anew: Array, seeds: Array) -> Array:
            params = {
                name: jax.tree.map(
                    lambda now, other, chosen=anew[place]: jnp.where(chosen, other, now), own[name], new[name]
                )
                for place, name in enumerate(LAYERS)
            }
            return backprojection(network, params, images, {"readout": seeds}, METHODS)[..., 0]

        every = jax.lax.map(lambda stage: maps(*stage), (jnp.asarray(drawn_anew), right))
        return Observables(learner.accuracy(state.params), every)

    picture = images[:1]
    shallow, count = Shallow(widest), widest // np.array([16, 4, 1])
    size = picture.shape[1] * picture.shape[2]

    def random(draw: tuple[Array, Array]) -> Array:
        def of(kept: Array) -> Array:
            sent = draw[1] * (jnp.arange(widest) < kept)[None, :]
            params = {"convolution": {"kernel": draw[0]}, "readout": {"kernel": sent.reshape(-1, 1)}}
            rules: list[Any] = [(masked, 1.0), "gradient", "deconvnet"]
            seeds = {"readout": jnp.ones((1, 1), picture.dtype)}
            return backprojection(shallow, params, picture, seeds, rules)[:, 0, ..., 0] / kept

        return jax.lax.map(of, jnp.asarray(count))

    normal = jax.random.normal(random_key, (draws, (9 + size) * widest), picture.dtype)
    first, second = jnp.split(normal, [9 * widest], axis=1)
    found = jax.lax.map(random, (first.reshape(draws, 3, 3, 1, widest), second.reshape(draws, size, widest)))
    given = Given(picture[0, ..., 0], jnp.moveaxis(found, 0, 2).swapaxes(0, 1), count.astype(float))
    return Run(learner.state, learner.step, observe, np.array([steps]), given)


def similarity(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The structural similarity of maps (last axis), each scaled to [0, 1]; Wang et al. 2004, equation 13."""
    scaled = lambda map_: (map_ - map_.min(-1, keepdims=True)) / np.maximum(np.ptp(map_, axis=-1)[..., None], 1e-30)
    x, y = scaled(x), scaled(y)
    covariance = ((x - x.mean(-1, keepdims=True)) * (y - y.mean(-1, keepdims=True))).mean(-1)
    means = (2 * x.mean(-1) * y.mean(-1) + 1e-4) / (x.mean(-1) ** 2 + y.mean(-1) ** 2 + 1e-4)
    return np.asarray(means * (2 * covariance + 9e-4) / (x.var(-1) + y.var(-1) + 9e-4))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """How alike the maps are to the trained network's, and the random networks' maps to the picture recovered."""
    end = dataset.isel(step=-1)
    flat = end.maps.stack(pixel=("row", "column")).transpose(..., "pixel")

    def compared(measure: Callable, maps: xr.DataArray) -> xr.DataArray:
        found = xr.apply_ufunc(measure, maps, maps.isel(stage=0), input_core_dims=[["pixel"], ["pixel"]])
        silent = (maps == 0).all("pixel") | (maps.isel(stage=0) == 0).all("pixel")  # no map, and like nothing
        return found.where(~silent, 0.0).mean("picture", skipna=False)

    theory = lift(guided_recovery, dataset.subject)
    relative = ((dataset.random - theory["mean"]) ** 2).sum(["row", "column"], skipna=False)
    relative = relative / (theory["mean"] ** 2).sum(["row", "column"], skipna=False)
    expected = lift(recovery_error, dataset.subject) / dataset.filters
    aligned = (dataset.random * theory["mean"]).sum(["row", "column"])
    lengths = (dataset.random**2).sum(["row", "column"]) * (theory["mean"] ** 2).sum(["row", "column"])
    cosine = aligned / lengths**0.5
    return dataset.assign(
        signed=compared(rank_correlation, flat),
        absolute=compared(rank_correlation, abs(flat)),
        structure=compared(similarity, abs(flat)),
        recovered=theory["mean"],
        error=relative,
        expected=expected,
        ratio=(relative / expected).mean("draw", skipna=False),
        spread=(2 * theory.squared) ** 0.5 / theory.variance,
        cosine=cosine.mean("draw", skipna=False),
        cosine_variance=cosine.var("draw", ddof=1, skipna=False),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The law of the random network; what stays when layers or the class are others, method by method."""
    networks = dataset.sizes["seed"] * dataset.sizes["draw"]
    allowed = ERRORS * float(dataset.spread.max(skipna=False)) / networks**0.5
    wide = dataset.isel(count=-1)
    what = f"{int(wide.filters.max())} random filters: squared distance of the guided map to the patches, over theory"
    ratio = per_seed(wide.ratio.isel(rule=0), "mean")
    found = [Finding.of(what, (1 - allowed, 1 + allowed), over_seeds(ratio))]
    if dataset.sizes["count"] > 1:
        error = dataset.error.isel(rule=0).mean("draw")
        rows = error.mean([each for each in error.dims if each not in ("seed", "count")]).transpose("seed", "count")
        counts = np.unique(dataset.filters.values)
        rate = slope(np.log(counts), np.log(rows.values))
        # of independent draws the ends of the fit are off by the same spread, over the width of the fit
        off = 2 * allowed / float(np.log(counts[-1] / counts[0]))
        found.append(Finding.of("slope of that distance's logarithm on ln N", (-1 - off, -1 + off), over_seeds(rate)))
    for number, name in ((1, "gradient"), (2, "deconvnet")):
        cosine = per_seed(wide.cosine.isel(rule=number), "mean")
        chance = ERRORS * (float(wide.cosine_variance.isel(rule=number).mean(skipna=False)) / networks) ** 0.5
        what = f"{networks} networks of random filters: cosine of the {name} with the picture's patches"
        found.append(Finding.of(what, (-chance, chance), over_seeds(cosine)))
    for filters in np.unique(dataset.features.values)[::-1]:
        runs = select(dataset, features=filters)
        learnt = runs.accuracy.isel(step=-1) > LEARNT
        for stage, said in ((4, "all layers drawn anew"), (1, "readout drawn anew"), (5, "the next class")):
            for place, name in enumerate(METHODS):
                one = {each: runs[each].isel(stage=stage, method=place).where(learnt) for each in MEASURES}
                band = (-1.0, DIFFERENT) if name == "gradient" else (ALIKE, 1.0)
                more = (
                    f"without sign {float(one['absolute'].mean()):.2f}, structure {float(one['structure'].mean()):.2f}"
                )
                what = f"{filters} filters, {said}: rank correlation of the {name}'s map with the former one ({more})"
                found.append(Finding.of(what, band, over_seeds(per_seed(one["signed"], "mean"))))
        for place in (1, 2):
            more = (runs.signed.isel(stage=4, method=place) - runs.signed.isel(stage=4, method=0)).where(learnt)
            what = f"{filters} filters, all layers drawn anew: that of {METHODS[place]} less the gradient's"
            found.append(Finding.of(what, (0.0, np.inf), over_seeds(per_seed(more, "mean"))))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Maps of one picture by stage; how alike they stay; the random network's law."""
    figure, panels = plots.figure(1, 3, "Which maps mind which network they explain?", (5.0, 4.0))
    maps, alike, law = panels[0]
    axes = [each for each in dataset.diverged.dims if each != "seed"]
    run = dataset.isel(dict.fromkeys(axes, -1)).isel(seed=0, step=-1)
    one = run.maps.isel(picture=0).transpose("method", "stage", "row", "column").values
    names = ["trained", "readout", "+ hidden", "+ layer 2", "+ layer 1", "other\nclass"]
    plots.tiles(maps, list(one), METHODS, [True] * 3)
    maps.set_xticks((np.arange(6) + 0.45) * (run.sizes["row"] + 1), names, fontsize=7)
    maps.set(title="a  one digit", xlabel="drawn anew, from the top")
    for filters, style in zip(np.unique(dataset.features.values)[::-1], ("-", ":"), strict=False):
        for place, name in enumerate(METHODS):
            values = select(dataset, features=filters).signed.isel(method=place)
            values = values.mean([each for each in values.dims if each not in ("seed", "stage")])
            values = values.assign_coords(stage=np.arange(6)).isel(stage=slice(5)).transpose("seed", "stage")
            plots.seeds(alike, values, f"{name}, {filters} filters", color=f"C{place}", linestyle=style)
    for level in (DIFFERENT, ALIKE):
        plots.theory(alike, (0, 4), (level, level), "0.3 and 0.7" if level == ALIKE else None, linestyle="-.")
    alike.set_xticks(range(5), names[:5], fontsize=7)
    alike.set(
        title="b  how alike the maps stay",
        xlabel="drawn anew, from the top",
        ylabel="rank correlation with the trained network's map",
        ylim=(-0.25, 1.6),
    )
    counts = np.unique(dataset.filters.values)
    for number, (rule, label) in enumerate(((1, "gradient"), (2, "deconvnet"), (0, "guided"))):
        error = dataset.error.isel(rule=rule).mean("draw")
        error = error.mean([each for each in error.dims if each not in ("seed", "count")]).transpose("seed", "count")
        plots.seeds(law, error.assign_coords(count=counts), label, color=f"C{number}", marker="o", ms=3)
    expected = dataset.expected.mean([each for each in dataset.expected.dims if each != "count"])
    plots.theory(law, counts, expected, "C/N, guided")
    law.set(
        title="c  random networks",
        xscale="log",
        yscale="log",
        xlabel="filters N",
        ylabel="squared distance to the picture's patches, relative",
    )
    plots.legend(alike, ncols=2, loc="upper right")
    plots.legend(law)
    return figure


AXES = ("features", "learning_rate", "weight_decay")
ARMS = [(8, rate, decay) for rate in (0.02, 0.05) for decay in (0.0, 1e-3)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: [*ARMS, (32, 0.02, 0.0)]},
    smoke={"seeds": 2, AXES: [(4, 0.05, 0.0)], "steps": 300, "subjects": 4, "widest": 64},
    paper={"seeds": 16, AXES: [(filters, 0.02, 0.0) for filters in (8, 32, 128)], "steps": 5_000},
    control={"masked": 0.0},
)
