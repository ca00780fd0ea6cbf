"""Saturation of wide networks: before training as the mean field says, and through training on digits.

Claim: A wide random network is as saturated as the mean field says: the measure φ_B of Rakitianskaia & Engelbrecht is
E|g(√q* z)| at the variance q*, and perturbations grow from the edge of chaos on, χ_1 = 1. Training raises φ_B with the
learning rate, weight decay lowers it, and large learning rates kill ReLUs.

Source: Rakitianskaia & Engelbrecht 2015, "Measuring saturation in neural networks", IEEE SSCI, pp. 1423–1430; Poole et
al. 2016, arXiv 1606.05340; Schoenholz et al. 2017, arXiv 1611.01232, section 3; what learning rate and weight decay do,
and dead ReLUs: textbook statements.

Departure: Inputs are the bundled digits, standardised and each scaled to ‖x‖² = 64, so that all enter with one variance,
q_1 = σ_w² + σ_b². `weight_variance` is σ_w² (some papers' axes bear σ_w). φ_B pools units and images, in ten bins. What
is looked at (φ_B, units active on no image, accuracy) is seen on images that are not trained on. Weight decay is SGD's,
w ← w − η (∇L + λ w), biases included. Perturbations are of first order and orthogonal to the input. Where the variance
dies as 1/depth (tanh and softsign at σ_b = 0) the edge is not judged: no depth here is enough.

Bands: φ_B is a mean over N units of numbers in [0, 1], of deviation 1/2 at most, and 2/√N is four times that over √N. A
network has arrived where theory's own distance from the fixed point, at that depth, is a tenth of this or less. The
runs are in float64, since that φ_B is mean|g'| for even B is an identity, to be checked to 1e-12.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import data as problems
from research import plots
from research.dynamics import Run, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select, table
from research.models import FullyConnected
from research.observables.saturation import (
    RANGES,
    binned_saturation,
    mean_saturation,
    never_active_share,
    perturbation_growth,
)
from research.oracles.mean_field import edge_of_chaos, mean_field, saturation, variance_path
from research.statistics import crossing, every_seed, over_seeds, slope

ACTIVATIONS = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "softsign": jax.nn.soft_sign, "relu": jax.nn.relu}
EVEN, ODD = 10, 9  # bins
ALLOWANCE, ARRIVED = 2.0, 0.2  # in units of 1/√width
WORKS = 0.9  # accuracy


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
    looked_at: int = 500,
    steps: int = 2000,
    batch: int = 32,
) -> Run | Bounded | Rectified:
    """SGD on the cross-entropy from W ~ N(0, weight_variance / fan_in), b ~ N(0, bias_variance); 0 steps: the start alone.

    "uniform" draws W from ±√(weight_variance / fan_in), the libraries' old default: a third of that variance.
    """
    images, labels = problems.digits()
    inputs = problems.standardized(images)
    inputs *= (inputs.shape[1] / np.sum(inputs**2, axis=1, keepdims=True)) ** 0.5
    seen = np.isin(np.arange(len(labels)), np.linspace(0, len(labels) - 1, looked_at).astype(int))
    shown, X, y = jnp.asarray(inputs[seen]), jnp.asarray(inputs[~seen]), jnp.asarray(labels[~seen])
    init_key, tangent_key, descent_key = jax.random.split(key, 3)
    uniform = lambda *drawn: jax.random.uniform(*drawn, minval=-1, maxval=1)
    draw_kernel = uniform if initialization == "uniform" else jax.random.normal
    kernel = lambda key, shape, dtype: jnp.sqrt(weight_variance / shape[0]) * draw_kernel(key, shape, dtype)
    bias = lambda key, shape, dtype: jnp.sqrt(bias_variance) * jax.random.normal(key, shape, dtype)
    function = ACTIVATIONS[activation]
    network = FullyConnected(depth, width, labels=10, activation=function, kernel_init=kernel, bias_init=bias)

    def look(params: Any) -> Bounded | Rectified:
        logits, sums = network.apply(params, shown)
        growth = perturbation_growth(lambda inputs: network.apply(params, inputs).pre_activations, shown, tangent_key)
        accuracy = jnp.mean(jnp.argmax(logits, axis=1) == labels[seen], dtype=sums.dtype)
        if activation == "relu":
            return Rectified(jax.vmap(never_active_share)(sums), growth, accuracy)
        each = lambda measure, *bins: jax.vmap(lambda sums: measure(function(sums), *RANGES[activation], *bins))(sums)
        even, odd = each(binned_saturation, EVEN), each(binned_saturation, ODD)
        return Bounded(even, odd, each(mean_saturation), growth, accuracy)

    params = network.init(init_key, shown)
    if not steps:
        return look(params)
    chain = optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate))
    loss = lambda params, drawn: optax.softmax_cross_entropy_with_integer_labels(
        network.apply(params, X[drawn]).logits, y[drawn]
    ).mean()
    step = stochastic_descent(loss, chain, lambda key: jax.random.randint(key, (batch,), 0, len(X)))
    return Run(start(params, chain, descent_key), step, lambda state: look(state.params), log_spaced(steps, 24))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Theory's φ_B at the fixed point and layer by layer, the distances from it times √width, and how the runs end."""
    observed = dict.fromkeys((*Bounded._fields, *Rectified._fields))
    if "step" not in dataset.dims:
        dataset = dataset.assign({name: dataset[name].expand_dims(step=[0]) for name in observed if name in dataset})
    dataset = dataset.assign({name: xr.full_like(dataset.growth, np.nan) for name in observed if name not in dataset})
    activation, weight, bias = dataset.activation, dataset.weight_variance, dataset.bias_variance
    fixed = lift(saturation, activation, lift(mean_field, activation, weight, bias).q)
    path = lift(variance_path, activation, weight, bias, weight + bias, layers=dataset.sizes["layer"])
    along = lift(saturation, activation, path)
    layer, last = xr.DataArray(np.arange(dataset.sizes["layer"]), dims="layer"), dataset.depth - 1
    inside = (layer <= last) & (activation != "relu")
    near = (activation != "relu") & ~(abs(along.isel(layer=last) - fixed) > ARRIVED / dataset.width**0.5)
    initial = dataset.isel(step=0)
    scale = dataset.width**0.5
    recorded = lambda name, step: xr.apply_ufunc(
        np.interp,
        np.log1p(step),
        np.log1p(dataset.step),
        dataset[name].mean("layer") if "layer" in dataset[name].dims else dataset[name],
        input_core_dims=[[], ["step"], ["step"]],
        vectorize=True,
    )
    rate = dataset.learning_rate.where(dataset.learning_rate > 0)
    return dataset.assign(
        predicted=fixed,
        predicted_along=along.where(inside),
        initial=initial.saturation.isel(layer=last),
        arrived=near,
        distance=xr.where(near, abs(initial.saturation.isel(layer=last) - fixed) * scale, 0.0),
        distance_along=xr.where(inside, abs(initial.saturation - along) * scale, 0.0),
        chi=initial.growth.where((layer <= last) & (layer > last // 2)).mean("layer"),
        ends=recorded("saturation", dataset.steps),
        ends_dead=recorded("never_active", dataset.steps),
        ends_accuracy=recorded("accuracy", dataset.steps),
        at_equal_time=recorded("saturation", rate.min() * dataset.steps / rate),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Initial networks against the mean field, the measure itself, then learning rate and weight decay."""
    bounded = select(dataset, activation=lambda name: name != "relu")
    odd = (bounded.saturation - bounded.saturation_odd).isel(step=0).where(bounded.predicted_along.notnull(), 0.0)
    even = abs(bounded.saturation - bounded.saturation_limit).where(bounded.predicted_along.notnull(), 0.0)
    edges = [abs(seen / edge - 1) * width**0.5 for _, _, edge, seen, width, judged in crossings(dataset) if judged]
    rows: list[tuple] = [
        ("initial φ_B of the last layer: √width × distance to E|g(√q* z)|", ALLOWANCE, per_seed(bounded.distance)),
        ("initial φ_B of every layer: √width × distance to E|g(√q z)|", ALLOWANCE, per_seed(bounded.distance_along)),
        ("edge of chaos in σ_w²: √width × relative distance", ALLOWANCE, np.max(edges, axis=0) if edges else []),
        (f"distance of φ_B at B = {EVEN} to mean|g'|", 1e-12, per_seed(even)),
        (f"φ_B at B = {EVEN} less φ_B at B = {ODD}, before training", 1 / ODD, per_seed(odd)),
    ]
    found = [
        Finding.of(f"{what}, the largest of a seed", (0.0, most), every_seed(values)) for what, most, values in rows
    ]
    for name in ACTIVATIONS:
        runs = trained(dataset, name)
        if runs.diverged.size:
            found += _deaths(runs) if name == "relu" else _trends(runs, f"{name}, φ_B after training")
    return found


def trained(dataset: xr.Dataset, activation: str) -> xr.Dataset:
    """The runs of that activation that learn."""
    return select(dataset, activation=activation, steps=lambda steps: steps > 0, learning_rate=lambda rate: rate > 0)


def crossings(dataset: xr.Dataset) -> list[tuple]:
    """(activation, σ_b², theory's σ_w² of the edge, each seed's, width, whether theory arrives before it is looked at)."""
    found: list[tuple] = []
    depth, width = int(dataset.depth.max()), int(dataset.width.max())
    for activation in ACTIVATIONS:
        plane = select(dataset, activation=activation, depth=depth, width=width)
        chi = table(plane, "chi", "bias_variance", "weight_variance")
        weights = chi.weight_variance.values
        for bias in chi.bias_variance.values if chi.size else ():
            edge = edge_of_chaos(activation, bias)
            if weights[0] < edge < weights[-1]:
                q = mean_field(activation, edge, bias).q
                reached = variance_path(activation, edge, bias, edge + bias, depth // 2 + 1)[-1]
                near = activation == "relu" or abs(reached - q) <= ARRIVED / width**0.5 * q
                seen = [crossing(np.log(weights), values, 1.0) for values in chi.sel(bias_variance=bias).values]
                found.append((activation, bias, edge, np.exp(seen), width, near))
    return found


def _trends(runs: xr.Dataset, name: str) -> list[Finding]:
    """Up with the learning rate? Is it the rate, or the time? Down with weight decay? Up with the rate even then?"""
    ends = table(runs, "ends", "weight_decay", "learning_rate")
    rates, decays = ends.learning_rate.values, ends.weight_decay.values
    rows: list[tuple] = []
    if len(rates) > 1 and 0 in decays:
        free = ends.sel(weight_decay=0).values
        equal = table(select(runs, weight_decay=0.0), "at_equal_time", "learning_rate").values
        left = (equal[:, 1] - equal[:, 0]) / (free[:, 1] - free[:, 0])
        kept = f"share of its rise from learning rate {rates[0]:g} to {rates[1]:g} left at equal rate × steps"
        rows += [
            ("slope on ln(learning rate), no decay", (0.0, np.inf), slope(np.log(rates), free)),
            (f"{kept} (gradient flow: 0; an effect of the rate itself: 1)", (0.5, np.inf), left),
        ]
    if len(rates) > 1 and (decays > 0).sum() > 1:
        decayed = ends.values[:, decays > 0]
        down = slope(np.log(decays[decays > 0]), decayed.swapaxes(1, 2)).mean(axis=1)
        change = np.diff(decayed, axis=2).min(axis=(1, 2))
        rows += [
            ("slope on ln(weight decay), mean of the learning rates", (-np.inf, 0.0), down),
            ("smallest change from one learning rate to the next, with decay", (0.0, np.inf), change),
        ]
    return [Finding.of(f"{name}: {what}", band, over_seeds(values)) for what, band, values in rows]


def _deaths(runs: xr.Dataset) -> list[Finding]:
    """Dead ReLUs over the learning rates at which no run diverges, and in networks that work."""
    dead, accuracy = (table(runs, name, "weight_decay", "learning_rate") for name in ("ends_dead", "ends_accuracy"))
    whole = dead.isel(learning_rate=np.flatnonzero(np.isfinite(dead).all(["seed", "weight_decay"])))
    rise = slope(np.log(whole.learning_rate), whole).mean(axis=1)
    most = per_seed(xr.where(accuracy > WORKS, dead, 0.0))
    lost = f"({int(runs.diverged.sum())} of {runs.diverged.size} runs diverged)"
    rows = [
        (f"share of dead units, slope on ln(learning rate) where no run diverged {lost}", (0.0, np.inf), rise),
        (f"largest share of dead units in networks of accuracy above {WORKS} {lost}", (0.4, 1.0), most),
    ]
    return [Finding.of(f"relu: {what}", band, over_seeds(values)) for what, band, values in rows]


def draw(dataset: xr.Dataset) -> plots.Figure:
    """A column an activation: its plane, its layers in time, rates and decays. Last: theory, rate or time, dead ReLUs."""
    figure, axes = plots.figure(
        3, 4, "Saturation φ_B: mean field before training; learning rate and weight decay after it"
    )
    against, time, death = axes[:, 3]
    edges = crossings(dataset)
    for column, name in enumerate(("tanh", "sigmoid", "softsign")):
        plane, runs = select(dataset, activation=name, depth=int(dataset.depth.max())), trained(dataset, name)
        if plane.diverged.size:
            _plane(axes[0, column], plane, name, [edge for edge in edges if edge[0] == name])
            theory, seen = xr.broadcast(plane.predicted.where(plane.arrived), plane.initial)
            against.plot(
                theory.values.ravel(), seen.values.ravel(), "o", ms=2, alpha=0.4, color=f"C{column}", label=name
            )
        if runs.diverged.size:
            _layers(axes[1, column], runs, name)
            _rates(axes[2, column], runs, name)
    half = ALLOWANCE / float(dataset.width.max()) ** 0.5
    plots.theory(against, (0, 1), (0, 1), "E|g(√q* z)|")
    against.fill_between((0, 1), (-half, 1 - half), (half, 1 + half), color="0.9", label="± 2/√width")
    against.set(title="measured against theory", xlabel="E|g(√q* z)|", ylabel="φ_B of the last layer", ylim=(0, 1))
    _time(time, select(trained(dataset, "tanh"), weight_decay=0.0))
    _dead(death, trained(dataset, "relu"))
    for each in axes.flat:
        plots.legend(each)
    return figure


def _plane(axes: Any, plane: xr.Dataset, name: str, edges: list[tuple]) -> None:
    seen, theory = (
        table(plane, each, "bias_variance", "weight_variance").mean("seed") for each in ("initial", "predicted")
    )
    plots.plane(axes, seen, theory, "φ_B of the last layer")
    axes.set(title=f"{name}: at the start", xlabel="weight variance σ_w²", ylabel="bias variance σ_b²", xscale="log")
    limits = {"xlim": axes.get_xlim(), "ylim": axes.get_ylim()}
    heights = np.linspace(float(seen.bias_variance.min()), float(seen.bias_variance.max()), 50)
    plots.theory(axes, [edge_of_chaos(name, height) for height in heights], heights, "edge of chaos", linewidth=2.2)
    x, y = [np.median(edge[3]) for edge in edges], [edge[1] for edge in edges]
    axes.plot(x, y, "o", ms=5, mfc="white", mec="black", zorder=6, label="measured")
    axes.set(**limits)


def _layers(axes: Any, runs: xr.Dataset, name: str) -> None:
    """At the middle learning rate, without decay."""
    rates = np.unique(runs.learning_rate)
    run = select(runs, learning_rate=rates[len(rates) // 2], weight_decay=runs.weight_decay.min())
    for layer in range(int(run.depth.max())):
        plots.seeds(axes, _curve(run.isel(layer=[layer])), f"layer {layer + 1}", color=f"C{layer}")
        start = run.predicted_along.isel(layer=layer).mean()
        axes.plot(1, start, "k<", ms=5, label=None if layer else "mean field before")
    axes.set(title=f"{name}: learning rate {rates[len(rates) // 2]:g}", xlabel="step", ylabel="φ_B", xscale="log")


def _curve(runs: xr.Dataset) -> xr.DataArray:
    """φ_B by seed and step, from the first step on."""
    curve = runs.saturation.isel(step=slice(1, None))
    return curve.mean([dimension for dimension in curve.dims if dimension not in ("seed", "step")])


def _rates(axes: Any, runs: xr.Dataset, name: str) -> None:
    ends = table(runs, "ends", "weight_decay", "learning_rate")
    for number, decay in enumerate(ends.weight_decay.values):
        row = ends.sel(weight_decay=decay, drop=True)
        plots.seeds(axes, row, f"weight decay {decay:g}", color=f"C{number}", marker="o", ms=3)
    axes.set(title=f"{name}: after training", xlabel="learning rate", ylabel="φ_B, mean of the layers", xscale="log")


def _time(axes: Any, runs: xr.Dataset) -> None:
    for number, rate in enumerate(np.unique(runs.learning_rate) if runs.diverged.size else ()):
        curve = _curve(select(runs, learning_rate=rate))
        plots.seeds(axes, curve.assign_coords(step=curve.step * rate), f"learning rate {rate:g}", color=f"C{number}")
    axes.set(title="tanh: the rate, or the time?", xlabel="learning rate × steps", ylabel="φ_B, mean of the layers")
    axes.set(xscale="log")


def _dead(axes: Any, runs: xr.Dataset) -> None:
    runs = runs.assign(lost=runs.diverged * 1.0)
    for color, (name, label) in enumerate(
        {"ends_accuracy": "accuracy", "ends_dead": "dead units", "lost": "diverged"}.items()
    ):
        if runs.diverged.size:
            values = table(runs, name, "learning_rate", "weight_decay").stack(run=("seed", "weight_decay"))
            for run in values.transpose("run", ...).values:
                axes.plot(values.learning_rate, run, "o", ms=3, alpha=0.3, color=f"C{color}")
            axes.plot(values.learning_rate, values.mean("run"), color=f"C{color}", label=f"{label}, mean")
    axes.set(title="relu: dead units, what has not diverged", xlabel="learning rate", ylabel="share", xscale="log")


NAMES = (
    "activation",
    "depth",
    "width",
    "looked_at",
    "steps",
    "weight_variance",
    "bias_variance",
    "learning_rate",
    "weight_decay",
)


def starts(depth: int, width: int, planes: dict) -> list[tuple]:
    """Networks that are only begun: a plane of (weight variance, bias variance) for each activation."""
    return [
        (name, depth, width, 50, 0, float(weight), float(bias), 0.0, 0.0)
        for name, (weights, biases) in planes.items()
        for weight in weights
        for bias in biases
    ]


def courses(width: int, steps: int, rates: dict, decays: tuple) -> list[tuple]:
    """Networks of three hidden layers that learn, at the rates of each activation."""
    return [
        (name, 3, width, 500, steps, 2.0 if name == "relu" else 1.0, 0.0, rate, decay)
        for name, values in rates.items()
        for rate in values
        for decay in decays
    ]


def planes(points: int) -> dict:
    """The planes that bear the edge of chaos, with that many weight variances."""
    small, large = (0.0, 0.05, 0.1, 0.2, 0.3), (0.0, 2.5, 5.0, 10.0, 20.0)
    return {
        "tanh": (np.geomspace(0.5, 4, points), small),
        "sigmoid": (np.geomspace(2, 250, points), large),
        "softsign": (np.geomspace(0.5, 8, points), small),
        "relu": (np.geomspace(0.5, 4, points), small[:1]),
    }


RATES = {
    **dict.fromkeys(("tanh", "sigmoid", "softsign"), (0.03, 0.1, 0.3, 1.0, 3.0)),
    "relu": (0.03, 0.1, 0.3, 0.5, 0.7, 1.0),
}
DECAYS = (0.0, 1e-3, 3e-3, 1e-2)
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 6, NAMES: [*starts(15, 300, planes(10)), *courses(100, 2000, RATES, DECAYS)]},
    smoke={
        "seeds": 2,
        NAMES: [
            *starts(12, 100, {"tanh": ((0.5, 1.5, 2.0, 2.5), (0.1, 0.2))}),
            *courses(50, 200, {"tanh": (0.1, 0.5), "relu": (0.1, 0.5)}, DECAYS[:3]),
        ],
    },
    paper={"seeds": 20, NAMES: [*starts(30, 1000, planes(40)), *courses(1000, 20_000, RATES, DECAYS)]},
    control={"initialization": "uniform"},
)
