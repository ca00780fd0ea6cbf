"""Saturation of wide networks: before training as the mean field says, and through training on digits.

Claim: A wide random network is as saturated as the mean field says: the measure φ_B of Rakitianskaia & Engelbrecht is
E|g(√q* z)| at the variance q*, and perturbations grow from the edge of chaos on, χ_1 = 1. Training raises φ_B with the
learning rate, weight decay lowers it, and large learning rates kill ReLUs.

Source: Rakitianskaia & Engelbrecht 2015, "Measuring saturation in neural networks", IEEE SSCI; Poole et al. 2016,
arXiv 1606.05340; Schoenholz et al. 2017, arXiv 1611.01232, section 3; of learning rate, decay, dead ReLUs: textbooks.

Departure: Inputs are the bundled digits, standardised and scaled to ‖x‖² = 64, so that all enter with one variance,
q_1 = σ_w² + σ_b². `weight_variance` is σ_w² (some papers' axes bear σ_w). φ_B pools units and images, in ten bins. φ_B,
dead units (active on no image) and accuracy are read on images not trained on. Weight decay is that of SGD, biases
included. Perturbations are of first order and orthogonal to the input. The edge is judged where theory says that the
variance has arrived by the middle of the network: not for tanh and softsign at the smallest σ_b (1/depth at σ_b = 0).

Bands: φ_B is a mean over N units of numbers in [0, 1], of deviation 1/2 at most: 2/√N is four times that over √N. Where
theory's own distance from the fixed point at some depth is a tenth of this, it has arrived. The same 2/√N is allowed to
the place of the edge as a convention (edge_of_chaos judges it closely). That φ_B is mean|g'| for even B is an identity,
checked in float64 to 1e-12.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from research import data as problems
from research import plots
from research.dynamics import Run, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import at_step, averaged, lift, per_seed, select, table
from research.models import Stack, random_stack
from research.observables import saturation as measures
from research.oracles.mean_field import edge_of_chaos, mean_field, saturation, variance_path
from research.statistics import crossing, every_seed, over_seeds, slope

ACTIVATIONS = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "softsign": jax.nn.soft_sign, "relu": jax.nn.relu}
EVEN, ODD, PERTURBED = 10, 9, 50  # bins, bins, images
ALLOWANCE, ARRIVED, WORKS = 2.0, 0.2, 0.9  # the first two in units of 1/√width, the last an accuracy
UP, DOWN = (1e-6, np.inf), (-np.inf, -1e-6)


class Bounded(NamedTuple):
    saturation: Float[Array, "layer"]
    saturation_odd: Float[Array, "layer"]
    saturation_limit: Float[Array, "layer"]
    growth: Float[Array, "layer"]
    accuracy: Float[Array, ""]


class Rectified(NamedTuple):
    never_active: Float[Array, "layer"]
    growth: Float[Array, "layer"]
    accuracy: Float[Array, ""]


def simulate(
    key: Array,
    weight_variance: float,
    bias_variance: float,
    learning_rate: float,
    weight_decay: float,
    *,
    activation: Literal["tanh", "sigmoid", "softsign", "relu"] = "tanh",
    initialization: Literal["gaussian", "uniform"] = "gaussian",
    depth: int = 3,
    width: int = 100,
    images: int = 300,
    steps: int = 2000,
    batch: int = 32,
) -> Run:
    """SGD on the cross-entropy from W ~ N(0, weight_variance / fan_in), b ~ N(0, bias_variance); 0 steps: its start.

    "uniform" draws between ± the square roots of these, the libraries' old default: a third of the variance. The
    readout has no bias. Networks are of float32; what is measured of their outputs is computed in float64.
    """
    pixels, labels = problems.digits()
    inputs = problems.standardized(pixels)
    inputs *= (inputs.shape[1] / np.sum(inputs**2, axis=1, keepdims=True)) ** 0.5
    held_out = np.isin(np.arange(len(labels)), np.linspace(0, len(labels) - 1, images).astype(int))
    shown, X = (jnp.asarray(inputs[chosen], jnp.float32) for chosen in (held_out, ~held_out))
    y, function = jnp.asarray(labels[~held_out]), ACTIVATIONS[activation]
    init_key, tangent_key, descent_key = jax.random.split(key, 3)
    single = {"dtype": jnp.float32, "uniform": initialization == "uniform"}
    drawn = lambda key: random_stack(key, X.shape[1], width, depth, 10, weight_variance, bias_variance, **single)

    def observe(network: Stack) -> Bounded | Rectified:
        logits, sums = network(shown, function)
        forward = lambda inputs: network(inputs, function).pre_activations
        growth = measures.perturbation_growth(forward, shown[:PERTURBED], tangent_key)
        accuracy = jnp.mean(jnp.argmax(logits, axis=1) == labels[held_out], dtype=sums.dtype)
        if activation == "relu":
            return Rectified(jax.vmap(measures.never_active_share)(sums), growth, accuracy)
        outputs, (low, high) = function(sums.astype(float)), measures.RANGES[activation]
        binned = lambda bins: jax.vmap(lambda layer: measures.binned_saturation(layer, low, high, bins))(outputs)
        limit = jax.vmap(lambda layer: measures.mean_saturation(layer, low, high))(outputs)
        return Bounded(binned(EVEN), binned(ODD), limit, growth, accuracy)

    if not steps:  # the state is the key alone: the weights of a plane of deep networks would fill the memory
        return Run(init_key, lambda key: key, lambda key: observe(drawn(key)), np.zeros(1, int))
    rate, decay = (jnp.asarray(each, jnp.float32) for each in (learning_rate, weight_decay))
    chain = optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate))
    loss = lambda network, chosen: cross_entropy(network(X[chosen], function).logits, y[chosen]).mean()
    step = stochastic_descent(loss, chain, lambda key: jax.random.bits(key, (batch,), jnp.uint32) % len(X))
    begin = start(drawn(init_key), chain, descent_key)
    return Run(begin, step, lambda state: observe(state.params), log_spaced(steps, 18))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Theory's φ_B at the fixed point and layer by layer, the distances from it times √width, and how the runs end."""
    lacking = {*Bounded._fields, *Rectified._fields} - {*dataset}  # without a bounded activation, or without ReLU
    dataset = dataset.assign(dict.fromkeys(lacking, xr.full_like(dataset.growth, np.nan)))
    activation, weight, bias = dataset.activation, dataset.weight_variance, dataset.bias_variance
    layer = xr.DataArray(np.arange(dataset.sizes["layer"]), dims="layer")
    last, scale = dataset.depth - 1, dataset.width**0.5
    bounded, inside, initial = activation != "relu", layer <= last, dataset.isel(step=0)
    fixed = lift(saturation, activation, lift(mean_field, activation, weight, bias).q)
    path = lift(variance_path, activation, weight, bias, weight + bias, layers=layer.size)
    along = lift(saturation, activation, path)
    near = bounded & ~(abs(along.isel(layer=last) - fixed) > ARRIVED / scale)
    mean = dataset[["saturation", "never_active", "accuracy"]].mean("layer")
    rate = dataset.learning_rate.where(dataset.learning_rate > 0)
    return dataset.assign(
        predicted=fixed,
        arrived=near,
        predicted_along=along.where(inside),
        initial=initial.saturation.isel(layer=last),
        distance=xr.where(near, abs(initial.saturation.isel(layer=last) - fixed) * scale, 0.0).where(near.any()),
        distance_along=xr.where(inside & bounded, abs(initial.saturation - along) * scale, 0.0),
        chi=initial.growth.where(inside & (layer > last // 2)).mean("layer"),
        at_equal_time=at_step(mean.saturation, rate.min() * dataset.steps / rate),
        **{f"{name}_at_end": at_step(mean[name], dataset.steps) for name in mean},  # type: ignore[arg-type]
    ).assign_coords(layer=layer + 1)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Initial networks against the mean field, the measure itself, then learning rate and weight decay."""
    bounded = select(dataset, activation=lambda name: name != "relu")
    even = abs(bounded.saturation - bounded.saturation_limit).max(["layer", "step"])
    odd = (bounded.saturation - bounded.saturation_odd).isel(step=0).max("layer")
    rows: list[tuple] = [
        ("initial φ_B of the last layer: √width × distance to E|g(√q* z)|", ALLOWANCE, per_seed(bounded.distance)),
        ("initial φ_B of every layer: √width × distance to E|g(√q z)|", ALLOWANCE, per_seed(bounded.distance_along)),
        (f"distance of φ_B at B = {EVEN} to mean|g'|", 1e-12, per_seed(even)),
        (f"φ_B at B = {EVEN} less φ_B at B = {ODD}, before training", 1 / ODD, per_seed(odd)),
    ]
    found = [Finding.of(f"{what}, the largest of a seed", (0.0, most), every_seed(seen)) for what, most, seen in rows]
    allowed = ALLOWANCE / float(dataset.width.max()) ** 0.5
    for name in ACTIVATIONS:
        seen = [seen / edge for _, edge, seen, arrived in crossings(dataset, name) if arrived]
        if seen:
            what = f"{name}: σ_w² from which perturbations grow, over that of the edge of chaos, mean of σ_b²"
            found.append(Finding.of(what, (1 - allowed, 1 + allowed), over_seeds(np.mean(seen, axis=0))))
        runs = trained(dataset, name)
        if runs.diverged.size:
            found += _deaths(runs) if name == "relu" else _trends(runs, f"{name}, φ_B after training")
    return found


def trained(dataset: xr.Dataset, activation: str) -> xr.Dataset:
    """The runs of that activation that learn."""
    return select(dataset, activation=activation, steps=lambda steps: steps > 0, learning_rate=lambda rate: rate > 0)


def crossings(dataset: xr.Dataset, activation: str) -> Iterator[tuple]:
    """(σ_b², σ_w² of the edge in theory, in every seed, whether theory has arrived at q* where it is looked for)."""
    depth, width = int(dataset.depth.max()), int(dataset.width.max())
    plane = select(dataset, activation=activation, depth=depth, width=width)
    chi = table(plane, "chi", "bias_variance", "weight_variance")
    for bias in chi.bias_variance.values:
        weights, edge = chi.weight_variance.values, edge_of_chaos(activation, bias)
        if weights[0] < edge < weights[-1]:
            q = mean_field(activation, edge, bias).q
            reached = variance_path(activation, edge, bias, edge + bias, depth // 2 + 1)[-1]
            seen = [crossing(np.log(weights), np.log(row), 0.0) for row in chi.sel(bias_variance=bias).values]
            arrived = activation == "relu" or abs(reached - q) <= ARRIVED / width**0.5 * q
            yield bias, edge, np.exp(seen), arrived


def _trends(runs: xr.Dataset, name: str) -> list[Finding]:
    """Up with the learning rate, and whether by the rate or by the time; down with weight decay; up even then."""
    ends = table(runs, "saturation_at_end", "weight_decay", "learning_rate")
    rates, decays, least = ends.learning_rate.values, ends.weight_decay.values, ends.values[:, 0]
    if len(rates) < 2 or len(decays) < 2:
        return []
    equal = table(select(runs, weight_decay=decays[0]), "at_equal_time", "learning_rate").values
    down = slope(np.log(decays[decays > 0]), ends.values[:, decays > 0].swapaxes(1, 2)).mean(axis=1)
    left = (equal[:, 1] - equal[:, 0]) / (least[:, 1] - least[:, 0])
    pair = f"from learning rate {rates[0]:g} to {rates[1]:g}"
    works = f"{float((runs.accuracy_at_end > WORKS).mean()):.0%} of runs above accuracy {WORKS}"
    rows = [
        (f"slope on ln(learning rate), weight decay {decays[0]:g}", UP, slope(np.log(rates), least)),
        (f"its rise {pair}, share left at equal rate × step (as by the rate: 1, by the time: 0)", (0.5, np.inf), left),
        (f"slope on ln(weight decay), mean of the learning rates ({works})", DOWN, down),
        (f"smallest rise from rate to rate, weight decay {decays[-1]:g}", UP, np.diff(ends.values[:, -1]).min(axis=1)),
    ]
    return [Finding.of(f"{name}: {what}", band, over_seeds(values)) for what, band, values in rows]


def _deaths(runs: xr.Dataset) -> list[Finding]:
    """Dead ReLUs over the learning rates at which no run diverges, and in networks that work."""
    dead = table(runs, "never_active_at_end", "weight_decay", "learning_rate")
    accuracy = table(runs, "accuracy_at_end", "weight_decay", "learning_rate")
    whole = dead.isel(learning_rate=np.flatnonzero(dead.notnull().all(["seed", "weight_decay"])))
    rise = slope(np.log(whole.learning_rate), whole).mean(axis=1)
    most = per_seed(xr.where(accuracy > WORKS, dead, 0.0))
    lost = f"({int(runs.diverged.sum())} of {runs.diverged.size} runs diverged)"
    rows = [
        (f"share of dead units, slope on ln(learning rate) where no run diverged {lost}", UP, rise),
        (f"largest share of dead units in networks of accuracy above {WORKS} {lost}", (0.4, 1.0), most),
    ]
    return [Finding.of(f"relu: {what}", band, over_seeds(values)) for what, band, values in rows]


def draw(dataset: xr.Dataset) -> plots.Figure:
    """A column an activation: the plane, layers in time, rates and decays. Then theory, rate or time, dead ReLUs."""
    dataset = dataset.isel(step=slice(1, None))  # a logarithmic axis has no place for step 0
    columns = [name for name in ("tanh", "sigmoid", "softsign") if select(dataset, activation=name).diverged.size]
    figure, axes = plots.figure(3, len(columns) + 1, "Saturation φ_B: the mean field, learning rate and weight decay")
    for number, (name, (before, during, after)) in enumerate(zip(columns, axes.T, strict=False)):
        plane, runs = select(dataset, activation=name, depth=int(dataset.depth.max())), trained(dataset, name)
        _plane(before, plane, name, list(crossings(dataset, name)))
        plots.points(axes[0, -1], plane.predicted.where(plane.arrived), plane.initial, label=name, color=f"C{number}")
        if runs.diverged.size:
            rate = np.quantile(np.unique(runs.learning_rate), 0.5, method="higher")
            middle = select(runs, learning_rate=rate, weight_decay=runs.weight_decay.min())
            plots.family(during, averaged(middle.saturation, "seed", "layer", "step").dropna("layer", how="all"))
            theory = averaged(middle.predicted_along, "layer").dropna("layer")
            during.plot(np.ones(theory.size), theory, "k<", ms=5, label="mean field at step 0")
            during.set(title=f"{name}: learning rate {rate:g}", xlabel="step", ylabel="φ_B", xscale="log")
            plots.family(after, table(runs, "saturation_at_end", "weight_decay", "learning_rate"), marker="o", ms=3)
            after.set(title=f"{name}: after training", xlabel="learning rate", ylabel="φ_B, all layers", xscale="log")
    against, time, death = axes[:, -1]
    plots.agreement(against, ALLOWANCE / float(dataset.width.max()) ** 0.5, f"± {ALLOWANCE:g}/√width")
    against.set(title="measured against theory", xlabel="E|g(√q* z)|", ylabel="φ_B of the last layer")
    free = select(trained(dataset, "tanh"), weight_decay=0.0)
    for number, rate in enumerate(np.unique(free.learning_rate) if free.diverged.size else ()):
        curve = averaged(select(free, learning_rate=rate).saturation, "seed", "step")
        curve = curve.assign_coords(step=curve.step * rate)
        plots.seeds(time, curve, f"learning rate {rate:g}", color=f"C{number}")
    time.set(title="tanh: the rate, or the time?", xlabel="rate × step", ylabel="φ_B, all layers", xscale="log")
    runs = trained(dataset.assign(lost=dataset.diverged * 1.0), "relu")
    shown = {"accuracy_at_end": "accuracy", "never_active_at_end": "dead units", "lost": "share of runs diverged"}
    for number, (variable, label) in enumerate(shown.items() if runs.diverged.size else ()):
        values = table(runs, variable, "learning_rate", "weight_decay").mean("weight_decay")
        plots.points(death, values.learning_rate, values, color=f"C{number}")
        death.plot(values.learning_rate, values.mean("seed"), color=f"C{number}", label=label)
    death.set(title="relu: dead units", xlabel="learning rate", ylabel="mean of runs not diverged", xscale="log")
    for each in axes.flat:
        plots.legend(each)
    return figure


def _plane(axes: Any, plane: xr.Dataset, name: str, edges: list[tuple]) -> None:
    seen, theory = (table(plane, each, "bias_variance", "weight_variance") for each in ("initial", "predicted"))
    plots.plane(axes, seen.mean("seed"), theory.mean("seed"), "φ_B of the last layer")
    axes.set(title=f"{name}: at the start", xlabel="weight variance σ_w²", ylabel="bias variance σ_b²")
    axes.set_xscale("log", base=2)
    axes.autoscale(False)
    heights = np.linspace(plane.bias_variance.values.min(), plane.bias_variance.values.max(), 50)
    plots.theory(axes, [edge_of_chaos(name, height) for height in heights], heights, "edge of chaos", linewidth=2.2)
    x, y = [np.median(seen) for _, _, seen, _ in edges], [bias for bias, *_ in edges]
    axes.plot(x, y, "o", ms=5, mfc="white", mec="black", zorder=6, label="edge, measured")


DECAYS = (0.0, 1e-3, 1e-2)
LOW, SMALL, LARGE = (0.03, 0.1, 0.3), (0.0, 0.05, 0.1, 0.2, 0.3), (0.0, 2.5, 5.0, 10.0, 20.0)
PLANES = {"tanh": (0.5, 4, SMALL), "sigmoid": (2, 250, LARGE), "softsign": (0.5, 8, SMALL), "relu": (0.5, 4, SMALL[:1])}
RATES = {**dict.fromkeys(("tanh", "sigmoid", "softsign"), (*LOW, 1.0, 3.0)), "relu": (*LOW, 0.5, 0.7, 1.0)}
NETWORK, VARIANCES = ("activation", "depth", "width", "images", "steps"), ("weight_variance", "bias_variance")
NAMES = (*NETWORK, *VARIANCES, "learning_rate", "weight_decay")
starts = lambda depth, width, points, planes=PLANES: [
    (name, depth, width, PERTURBED, 0, float(weight), bias, 0.0, 0.0)
    for name, (low, high, biases) in planes.items()
    for weight, bias in product(np.geomspace(low, high, points), biases)
]
courses = lambda width, steps, rates=RATES, decays=DECAYS: [
    (name, 3, width, 300, steps, 2.0 if name == "relu" else 1.0, 0.0, rate, decay)
    for name in rates
    for rate, decay in product(rates[name], decays)
]
FEW, PAIR = {"tanh": (0.8, 3.2, (0.1, 0.2))}, {"tanh": (0.1, 0.5), "relu": (0.1, 0.5)}
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, NAMES: [*starts(15, 200, 8), *courses(100, 1000)]},
    smoke={"seeds": 2, NAMES: [*starts(8, 200, 4, FEW), *courses(50, 200, PAIR)]},
    paper={"seeds": 10, NAMES: [*starts(20, 1000, 20), *courses(1000, 10_000)]},
    control={"initialization": "uniform"},
)
