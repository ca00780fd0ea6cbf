"""The logistic sigmoid keeps gradients in depth only where it saturates: its edge of chaos, and that of tanh.

Claim: In a wide random network each layer multiplies squared gradients by χ_1 = σ_w² E σ'(√q* z)². As the logistic
σ has mean 1/2, q* is at least σ_w²/4, and without bias χ_1 = 1 is reached at one σ_w = 10.149 only, where q* = 45.62
and φ_B = 0.841: to keep its gradients, the network must be saturated. For tanh the edge is at σ_w = 1 with q* = 0 and
φ_B = 0, and σ - 1/2 = tanh(u/2)/2 is tanh at a quarter of σ_w: it is the mean, not the shape, that forces saturation.
For large σ_w, χ_1 = σ_w/(6√π) · (1 + 1/(√π σ_w) + …).

Source: The theory is Schoenholz et al. 2017, arXiv 1611.01232, section 3 (χ_1, edge of chaos); that σ' <= 1/4 makes
gradients vanish is a textbook remark. The numbers for the logistic function are derived here and known from no paper:
σ turns into a step for q* → ∞, so that E σ² = 1/2 - E σ' = 1/2 - 1/√(2πq*) and E σ'² = ∫σ'² du/√(2πq*) = 1/(6√(2πq*)).
Hence q* = σ_w²/2 · (1 - 2/(√π σ_w)) to first order, and χ_1 as above, each up to relative terms of order 1/σ_w².

Departure: One network for all σ_w of a seed, weights N(0, σ_w²/width), no biases; gradients start at random in the last
layer, and `growth` is the mean over the last half of the layers of ratios of squares: in the mean exact at any width,
where the mean logarithm is not. Networks of an odd activation start at q = `first_variance`, as at their edge the
variance falls only like 1/(2 layer); theory follows it layer by layer. The orthogonal case is left out.

Bands: A ratio is Σ φ'(h_i)² g_i² with Gaussian g, of relative variance (3 E φ'⁴/(E φ'²)² - 1)/width. ∫σ'⁴ du = 1/140
makes this (3 · 36/140 · √(2πq) - 1)/width for large q. Bands are five standard errors of the mean over the layers
looked at and over seeds: three for chance, and two for the interval, which has to lie inside. χ_1 ∝ σ_w turns relative
errors of growth into equal ones of σ_w, and φ_B = 1 - c/√q* into those times 1 - φ_B, to which come as many standard
errors of a mean over units of numbers in [0, 1], √(φ_B(1 - φ_B)/width).
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float
from scipy.special import ndtr

from research import plots
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select, table
from research.observables.saturation import mean_saturation
from research.oracles.activations import named
from research.oracles.mean_field import edge_of_chaos, mean_field, saturation, variance_path
from research.oracles.wide_layer import mean_square_slope
from research.statistics import crossing, over_seeds

# φ(u) = mean + steepness · tanh(steepness · u)
FUNCTIONS = {
    "logistic": {"mean": 0.5, "steepness": 0.5},
    "centred logistic": {"mean": 0.0, "steepness": 0.5},
    "tanh": {"mean": 0.0, "steepness": 1.0},
}
EDGES = {"tanh": 1.0, "centred logistic": 4.0}  # 1/φ'(0), for the odd ones
ERRORS, OUTER = 5.0, np.log(19.0)  # standard errors; a logistic unit beyond 0.05 and 0.95


class Measures(NamedTuple):
    growth: Float[Array, ""]
    saturation: Float[Array, ""]
    outside: Float[Array, ""]


def simulate(
    key: Array,
    weight_scale: float,
    first_variance: float,
    mean: float = 0.5,
    steepness: float = 0.5,
    *,
    initialization: Literal["gaussian", "uniform"] = "gaussian",
    width: int = 300,
    depth: int = 30,
    inputs: int = 4,
) -> Measures:
    """A random network of mean + steepness·tanh(steepness·u), looked at in the last half of its layers.

    Saturation and the share outside are those of the last layer. "uniform" draws W between ±weight_scale/√width, the
    libraries' old default: a third of that variance.
    """
    input_key, weight_key, gradient_key = jax.random.split(key, 3)
    function = lambda u: mean + steepness * jnp.tanh(steepness * u)
    uniform = lambda key, shape: jax.random.uniform(key, shape, minval=-1.0)
    draw = jax.random.normal if initialization == "gaussian" else uniform
    keys = jax.random.split(weight_key, depth - 1)
    weights = lambda key: draw(key, (width, width)) * (weight_scale / width**0.5)  # all layers' would fill the memory
    first = jax.random.normal(input_key, (inputs, width)) * first_variance**0.5

    def forward(sums: Array, layer_key: Array) -> tuple[Array, Array]:
        return function(sums) @ weights(layer_key), sums

    def backward(gradient: Array, layer: tuple[Array, Array]) -> tuple[Array, Array]:
        sums, layer_key = layer
        (below,) = jax.vjp(function, sums)[1](gradient @ weights(layer_key).T)
        size = jnp.linalg.norm(below, axis=1, keepdims=True)
        return below / size, jnp.mean(size**2)

    last, sums = jax.lax.scan(forward, first, keys)
    top = jax.random.normal(gradient_key, (inputs, width))
    top /= jnp.linalg.norm(top, axis=1, keepdims=True)
    _, ratios = jax.lax.scan(backward, top, (sums[depth // 2 :], keys[depth // 2 :]), reverse=True)
    return Measures(
        growth=jnp.mean(ratios),
        saturation=mean_saturation(jnp.tanh(steepness * last), -1.0, 1.0),
        outside=jnp.mean(jnp.abs(last) > OUTER, dtype=last.dtype),
    )


class Prediction(NamedTuple):
    expected_growth: float
    expected_saturation: float


def prediction(weight_scale: float, first_variance: float, mean: float, steepness: float, depth: int) -> Prediction:
    """χ_1, mean of the last half of the layers, and φ_B of the last, with the variance followed from the first."""
    # without the mean, steepness·u is the pre-activation of a network of tanh with steepness² times the weight scale
    name, shrink = ("sigmoid", 1.0) if mean else ("tanh", steepness)
    weight, first = (weight_scale * shrink**2) ** 2, first_variance * shrink**2
    path = variance_path(name, weight, 0.0, first, int(depth))
    slopes = [mean_square_slope(named(name), q) for q in path[int(depth) // 2 : -1]]
    return Prediction(float(weight * np.mean(slopes)), saturation(name, path[-1]))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Growth and saturation as theory has them in every cell, and the edge of chaos of the logistic function."""
    parameters = [dataset[name] for name in ("weight_scale", "first_variance", "mean", "steepness", "depth")]
    edge = edge_of_chaos("sigmoid", 0.0) ** 0.5
    fixed = mean_field("sigmoid", edge**2, 0.0)
    return dataset.assign(lift(prediction, *parameters)).assign(
        edge=edge,
        edge_variance=fixed.q,
        edge_saturation=saturation("sigmoid", fixed.q),
        edge_outside=2 * ndtr(-OUTER / fixed.q**0.5),
    )


def at_edge(dataset: xr.Dataset, activation: str, variable: str) -> np.ndarray:
    """In every seed, the σ_w at which gradients keep their size ("weight_scale"), or what was seen there."""
    runs = select(dataset, **FUNCTIONS[activation])
    if not runs.diverged.size:
        return np.array([])
    growth = table(runs, "growth", "weight_scale")
    scales = np.log(growth.weight_scale.values)
    places = np.array([crossing(scales, np.log(row), 0.0) for row in growth.values])
    if variable == "weight_scale":
        return np.exp(places)
    seen = table(runs, variable, "weight_scale").values
    found = np.array([np.interp(x, scales, row) for x, row in zip(places, seen, strict=True)])
    return np.where(np.isnan(places), np.nan, found)  # np.interp takes a place that is not known for the first


def error(dataset: xr.Dataset, q: float) -> float:
    """The relative standard error of the growth, mean of seeds, for logistic units of that large variance."""
    layers = int(dataset.depth.max()) - 1 - int(dataset.depth.max()) // 2
    units = int(dataset.width.min()) * layers * dataset.sizes["seed"]
    return float(((3 * 36 / 140 * np.sqrt(2 * np.pi * q) - 1) / units) ** 0.5)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The edge of the logistic function and its saturation there; its slope bound and its law; the odd functions."""
    edge, q, phi, outside = (
        float(dataset[name].max(skipna=False)) for name in ("edge", "edge_variance", "edge_saturation", "edge_outside")
    )
    found = []
    runs = select(dataset, **FUNCTIONS["logistic"])
    if runs.diverged.size:
        allowed = ERRORS * error(runs, q)
        where = f"σ_w = {edge:.3f} (q* = {q:.2f})"
        near, far = (
            (mean - spread, mean + spread)
            for mean in (phi, outside)
            for units in [int(runs.width.min()) * runs.sizes["seed"]]
            for spread in [allowed * (1 - mean) + ERRORS * (mean * (1 - mean) / units) ** 0.5]
        )
        scales, seen = at_edge(runs, "logistic", "weight_scale"), runs.weight_scale
        bound = per_seed(select(runs, weight_scale=float(seen.min())).growth / (float(seen.min()) ** 2 / 16), "mean")
        largest = float(seen.max())
        law = largest / (6 * np.pi**0.5)
        ratio = per_seed(select(runs, weight_scale=largest).growth, "mean") / law
        ends, spread = 1 + 1 / (np.pi**0.5 * largest), ERRORS * error(runs, largest**2 / 2)
        found = [
            (
                f"logistic: σ_w at which gradients keep their size, over {where}",
                (1 - allowed, 1 + allowed),
                scales / edge,
            ),
            (f"logistic: φ_B there (theory {phi:.3f})", near, at_edge(runs, "logistic", "saturation")),
            (
                f"logistic: share of units there beyond [0.05, 0.95] (theory {outside:.3f})",
                far,
                at_edge(runs, "logistic", "outside"),
            ),
            (f"logistic: growth at σ_w = {float(seen.min()):g} over its bound σ_w²/16", (0.0, 1.0), bound),
            (f"logistic: growth at σ_w = {largest:g} over σ_w/(6√π)", (ends - spread, ends + spread), ratio),
        ]
    for name, place in EDGES.items():
        runs = select(dataset, **FUNCTIONS[name])
        if runs.diverged.size:
            # linear there: a ratio has relative variance 2/width, and growth is (σ_w φ'(0))²
            layers = int(runs.depth.max()) - 1 - int(runs.depth.max()) // 2
            allowed = ERRORS * (2 / (int(runs.width.min()) * layers * runs.sizes["seed"])) ** 0.5 / 2
            scales = at_edge(runs, name, "weight_scale")
            found += [
                (
                    f"{name}: σ_w at which gradients keep their size, over {place:g}",
                    (1 - allowed, 1 + allowed),
                    scales / place,
                ),
            ]
            there = select(runs, weight_scale=place)
            if there.diverged.size:
                found.append((f"{name}: φ_B at σ_w = {place:g}", (0.0, 0.01), per_seed(there.saturation, "mean")))
    return [Finding.of(statement, band, over_seeds(values)) for statement, band, values in found]


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Growth of gradients against σ_w, saturation against σ_w, and the one against the other."""
    figure, axes = plots.figure(1, 3, "To keep its gradients, a logistic network must saturate")
    growth, saturated, traded = axes[0]
    for number, name in enumerate(FUNCTIONS):
        runs = select(dataset, **FUNCTIONS[name])
        if not runs.diverged.size:
            continue
        seen = {each: table(runs, each, "weight_scale") for each in ("growth", "saturation")}
        theory = {each: table(runs, f"expected_{each}", "weight_scale")[0] for each in seen}
        label, scales = "theory" if not number else None, theory["growth"].weight_scale
        for panel, each in ((growth, "growth"), (saturated, "saturation")):
            plots.seeds(panel, seen[each], name, color=f"C{number}", marker="o", ms=3)
            plots.theory(panel, scales, theory[each], label)
        plots.points(traded, seen["growth"], seen["saturation"], name, color=f"C{number}")
        plots.theory(traded, theory["growth"], theory["saturation"], label)
    edge, phi = (float(dataset[name].max()) for name in ("edge", "edge_saturation"))
    far = np.array([2.0, float(dataset.weight_scale.max())])
    plots.theory(growth, far, far / (6 * np.pi**0.5), "σ_w/(6√π)", linestyle=":")
    growth.axhline(1.0, color="black", linewidth=0.8)
    traded.axvline(1.0, color="black", linewidth=0.8)
    growth.plot([edge], [1.0], "k*", ms=10, zorder=6, label=f"logistic edge, σ_w = {edge:.2f}")
    saturated.plot([edge], [phi], "k*", ms=10, zorder=6, label=f"φ_B = {phi:.3f} there")
    traded.plot([1.0], [phi], "k*", ms=10, zorder=6, label="gradients kept: logistic")
    growth.set(title="gradients", xlabel="weight scale σ_w", ylabel="growth of squared gradients a layer")
    saturated.set(title="saturation", xlabel="weight scale σ_w", ylabel="φ_B of the last layer", ylim=(-0.05, 1.05))
    traded.set(title="the price", xlabel="growth of squared gradients a layer", ylabel="φ_B of the last layer")
    growth.set(xscale="log", yscale="log")
    saturated.set(xscale="log")
    traded.set(xscale="log", ylim=(-0.05, 1.05))
    for each in axes[0]:
        plots.legend(each)
    return figure


NAMES = ("mean", "steepness", "weight_scale", "first_variance")
LOGISTIC = (1.0, 2.0, 4.0, 6.0, 8.0, 9.5, 11.0, 13.0, 16.0, 20.0, 32.0)
ODD = (0.5, 0.8, 1.0, 1.25, 2.0)
grid = lambda logistic, odd: [
    *[(0.5, 0.5, scale, 1.0) for scale in logistic],
    *[(*FUNCTIONS[name].values(), scale * edge, 1e-6) for name, edge in EDGES.items() for scale in odd],
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, "width": 300, NAMES: grid(LOGISTIC, ODD)},
    smoke={"seeds": 3, "width": 150, "depth": 20, NAMES: grid((1.0, 8.0, 12.0, 20.0, 32.0), (0.8, 1.0, 1.25))},
    paper={"seeds": 10, "width": 1000, NAMES: grid((*LOGISTIC, 64.0), ODD)},
    control={"initialization": "uniform"},
)
