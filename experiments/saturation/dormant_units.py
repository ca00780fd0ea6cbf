"""Dormant units: what their score is before training, what makes it fall, and what it does not see.

Claim: The score of a unit is its mean activity over that of its layer, and a unit is τ-dormant from τ down. Dormant
units multiply while targets keep changing, where under fixed ones they do not, and pruning them changes nothing.

Source: Sokar, Agarwal, Castro & Evci 2023, "The dormant neuron phenomenon in deep reinforcement learning", arXiv
2302.12902: definition 3.1, sections 3 and 4 (changing targets: CIFAR-10 with labels that are shuffled again and again;
τ = 0.1 is what they recycle). Scores before training: `research.oracles.dormancy`.

Departure: Networks of three layers on the bundled digits under Adam; labels that change are drawn anew at random after
a first period of the true ones. That they are random is a second difference from labels that stay true, so that others
change once, to random labels that then stay. Changing leaves more units dormant at every rate; but at the largest the
one change alone makes half of them so, most of which stay (0.38; ten changes: 0.60; none: 0.11), where at the smaller
ones they recover. The other side is what the score cannot see. A whole layer that collapses keeps its scores: the
definition is blind to scale (the authors' code adds 1e-9 to the layer's mean). A saturated tanh unit is never dormant:
no layer's mean is above 1, so that a score is at least mean|h|, which is φ_B of that unit (an identity). And dormant
is not dead: 7 % of the ReLUs are τ-dormant before training, few of which are dead.

Bands: a unit's score of m samples has a standard error in closed form; 5.5 of them are exceeded with probability 4e-8.
The relative deviation of N scores varies by 1/√(2N), five times that over √seeds is allowed.
"""

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
from research.dynamics import Descent, Run, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import averaged, lift, per_seed, select, sound, table
from research.models import FullyConnected, uniform_start
from research.observables.units import dead_share, dormancy_scores
from research.oracles.dormancy import layer_scores, relative_deviation, score_errors
from research.statistics import every_seed, over_seeds

TAU, ERRORS, GUARD, NEVER = 0.1, 5.5, 1e-9, 1e9
LARGEST, INPUTS, KEPT = 64, 4000, 1500  # fan-in and inputs of the random layer, images trained on
SATURATED = 0.9


class Initial(NamedTuple):
    scores: Float[Array, "neuron"]
    norms: Float[Array, "neuron"]
    biases: Float[Array, "neuron"]
    activity: Float[Array, ""]


class Trained(NamedTuple):
    unit_scores: Float[Array, "layer unit"]
    levels: Float[Array, "layer unit"]
    dead: Float[Array, "layer"]
    accuracy: Float[Array, ""]
    pruned: Float[Array, ""]


def simulate(
    key: Array,
    learning_rate: float,
    period: float = NEVER,
    fan_in: float = 64.0,
    bias_scale: float = 0.0,
    scale: float = 1.0,
    mean: float = 0.0,
    changes: float = NEVER,
    *,
    network: Literal["layer", "relu", "tanh"] = "relu",
    neurons: int = 500,
    depth: int = 3,
    width: int = 50,
    steps: int = 3000,
    tasks: int = 10,
    batch: int = 32,
) -> Run:
    """One random ReLU "layer" on inputs N(mean, I), its weights and biases times `scale`; or a network that is trained.

    `period` is the number of steps after which labels change, `changes` times or until `tasks` are over. `levels` are
    mean|h| of each unit; `pruned` is the accuracy with all dormant units silenced.
    """
    init_key, data_key, draw_key = jax.random.split(key, 3)
    if network == "layer":
        weight_key, bias_key = jax.random.split(init_key)
        used = (jnp.arange(LARGEST) < fan_in)[:, None] / jnp.sqrt(fan_in)
        W = scale * used * jax.random.normal(weight_key, (LARGEST, neurons), jnp.float32)
        b = scale * bias_scale * jax.random.normal(bias_key, (neurons,), jnp.float32)
        X = mean + jax.random.normal(data_key, (INPUTS, LARGEST), jnp.float32)
        outputs = jax.nn.relu(X @ W + b[None, :])
        seen = Initial(dormancy_scores(outputs), jnp.sqrt(jnp.sum(W**2, axis=0)), b, jnp.mean(outputs))
        return Run(key, lambda key: key, lambda key: seen, np.zeros(1, int))
    pixels, labels = problems.digits()
    inputs = problems.standardized(pixels).astype(np.float32)
    X, beyond, truth = jnp.asarray(inputs[:KEPT]), jnp.asarray(inputs[KEPT:]), jnp.asarray(labels[KEPT:])
    drawn = jax.random.randint(data_key, (tasks - 1, KEPT), 0, 10)
    y = jnp.concatenate([jnp.asarray(labels[None, :KEPT]), drawn])
    activation = jax.nn.relu if network == "relu" else jnp.tanh
    forward: Any = FullyConnected(depth, width, 10, activation).apply
    uniform, _ = uniform_start(init_key, [X.shape[1], *[width] * depth, 10], X.dtype)
    params = jax.tree.map(lambda entries: (6.0 if network == "relu" else 3.0) ** 0.5 * entries, uniform)
    optimizer = optax.adam(learning_rate)

    def step(state: tuple[Descent, Array]) -> tuple[Descent, Array]:
        task = jnp.minimum(state[1] / period, jnp.minimum(changes, tasks - 1)).astype(jnp.int32)
        loss = lambda params, index: cross_entropy(forward(params, X[index]).logits, y[task, index]).mean()
        sample = lambda key: jax.random.randint(key, (batch,), 0, KEPT)
        return stochastic_descent(loss, optimizer, sample)(state[0]), state[1] + 1

    def observe(state: tuple[Descent, Array]) -> Trained:
        outputs = activation(forward(state[0].params, X).pre_activations)
        scores = jax.vmap(dormancy_scores)(outputs)
        slopes = (outputs > 0).astype(X.dtype) if network == "relu" else 1 - outputs**2
        masks = iter(scores > TAU)
        silenced: Any = FullyConnected(depth, width, 10, lambda sums: activation(sums) * next(masks)[None, :]).apply
        share = lambda network: jnp.mean(
            jnp.argmax(network(state[0].params, beyond)[0], axis=1) == truth, dtype=X.dtype
        )
        levels = jnp.mean(jnp.abs(outputs), axis=1)
        return Trained(scores, levels, jax.vmap(dead_share)(slopes), share(forward), share(silenced))

    begin = (start(params, optimizer, draw_key), jnp.zeros((), jnp.float32))
    return Run(begin, step, observe, log_spaced(steps, 16, first=10))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The scores in theory and how far off the measured ones are; the share of dormant units of trained networks."""
    lacking = {"scores": "neuron", "norms": "neuron", "biases": "neuron", "activity": ""}
    lacking |= {"unit_scores": "layer unit", "levels": "layer unit", "dead": "layer", "accuracy": "", "pruned": ""}
    blank = xr.full_like(dataset.diverged, np.nan, float).expand_dims(step=dataset.step)
    for name, dimensions in lacking.items():  # of networks that are not there
        if name not in dataset:
            dataset = dataset.assign({name: blank.expand_dims(dict.fromkeys(dimensions.split(), 1))})
    dataset = sound(dataset)
    first = dataset.isel(step=0, drop=True)
    expected = lift(layer_scores, first.norms, first.biases)
    error = lift(score_errors, first.norms, first.biases, float(INPUTS))
    chi = lift(relative_deviation, dataset.fan_in)
    spread = (chi**2 + (error**2).mean("neuron")) ** 0.5  # the norms' and the samples'
    counted = dataset.unit_scores.notnull()
    dormant = (dataset.unit_scores <= TAU).where(counted)
    return dataset.assign(
        expected=expected,
        excess=abs((first.scores - expected) / error).max("neuron"),
        spread=first.scores.std("neuron") / spread,
        official=first.activity / (first.activity + GUARD),
        dormant=dormant.mean(["layer", "unit"]),
        dead_units=dataset.dead.mean("layer"),
        saturated=(dataset.levels > SATURATED).where(counted).mean(["layer", "unit"]),
        loss_by_pruning=dataset.accuracy - dataset.pruned,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Scores before training, their blindness to scale, changing targets, pruning, and what is not dormant."""
    found = []
    layer = select(dataset, network="layer")
    if layer.diverged.size:
        what = "random layer: distance of a unit's score to theory, in standard errors, the largest of a seed"
        found.append(Finding.of(what, (0.0, ERRORS), every_seed(per_seed(layer.excess))))
        plain = select(layer, bias_scale=0.0, scale=1.0)
        if plain.diverged.size:
            neurons, cells = float(np.max(plain.neurons)), plain.diverged.size
            off = 5 / (2 * neurons * cells) ** 0.5
            what = "no biases: deviation of scores over that of norms (about 1/√(2n)) and samples, mean of fan-ins"
            found.append(Finding.of(what, (1 - off, 1 + off), over_seeds(per_seed(plain.spread, "mean"))))
        small = select(layer, scale=lambda scale: scale < 1)
        if small.diverged.size and plain.diverged.size:
            alike = {name: np.unique(small[name].values).tolist() for name in ("fan_in", "bias_scale")}
            both = [each.scores.isel(step=0).mean(_cells(each)) for each in (small, select(layer, scale=1.0, **alike))]
            moved, official = per_seed(abs(both[0] - both[1])), per_seed(small.official, "mean")
            called = f"the layer shrunk to {float(small.scale.min()):g}"
            found.append(Finding.of(f"{called}: largest change of a score", (0.0, 1e-5), every_seed(moved)))
            what = f"{called}: mean score by the authors' code, the mean + 1e-9 below the line (1: blind, 0: sees it)"
            found.append(Finding.of(what, (0.0, 0.5), every_seed(official)))
    relu, tanh = (select(dataset, network=name) for name in ("relu", "tanh"))
    if relu.diverged.size:
        found += _targets(relu) + _quiet(relu)
    if tanh.diverged.size:
        after, end = tanh.isel(step=slice(1, None)), tanh.sel(step=tanh.steps)
        share = f"{float(end.saturated.median()):.0%} of units saturated beyond {SATURATED} in the median run"
        what = f"tanh, {share}: largest share of dormant units"
        found.append(Finding.of(what, (0.0, 0.0), every_seed(per_seed(after.dormant))))
    return found


def _cells(runs: xr.Dataset) -> list[Any]:
    return [each for each in runs.diverged.dims if each != "seed"]


KINDS: dict[str, dict[str, Any]] = {
    "true and fixed": {"period": NEVER},
    "changed once": {"period": lambda period: period < NEVER, "changes": 1.0},
    "changing": {"period": lambda period: period < NEVER, "changes": lambda changes: changes > 1},
}


def _targets(relu: xr.Dataset) -> list[Finding]:
    """What labels do that keep changing, that changed once and that stay true, at the same rates."""
    fixed, once, changing = (select(relu, **kind) for kind in KINDS.values())
    rise = lambda runs: runs.dormant.sel(step=runs.steps) - runs.dormant.isel(step=0)
    found = []
    if fixed.diverged.size:
        lost = per_seed(fixed.loss_by_pruning.sel(step=fixed.steps), "mean")
        what = "fixed labels: rise of the share of dormant ReLUs from start to end, mean of rates"
        found += [
            (what, (-np.inf, 0.0), per_seed(rise(fixed), "mean")),
            (f"fixed labels: accuracy lost when units of score <= {TAU} are silenced", (-0.01, 0.01), lost),
        ]
    for one, other, what in (
        (changing, once, "labels that keep changing less labels changed once, both random"),
        (once, fixed, "labels changed once, to random ones, less true ones that stay"),
    ):
        if one.diverged.size and other.diverged.size:
            ends = [table(runs.assign(end=rise(runs)), "end", "learning_rate") for runs in (one, other)]
            for rate in np.intersect1d(*(each.learning_rate for each in ends)):
                more = (ends[0] - ends[1]).sel(learning_rate=rate).values
                found.append((f"Adam {rate:g}: share of dormant ReLUs at the end, {what}", (0.0, np.inf), more))
    return [Finding.of(what, band, over_seeds(values)) for what, band, values in found]


def _quiet(relu: xr.Dataset) -> list[Finding]:
    """Dormant units that are not dead."""
    found = []
    for place, when in ((0, "before training"), (-1, "fixed labels, at the end")):
        runs = select(relu, period=NEVER) if place else relu
        if runs.diverged.size:
            dormant, dead = (per_seed(runs[name].isel(step=place), "mean") for name in ("dormant", "dead_units"))
            what = f"{when}: share of dormant ReLUs less that of dead ones, which is {np.mean(dead):.3f}"
            found.append(Finding.of(what, (0.0, np.inf), over_seeds(dormant - dead)))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) scores of a random layer against theory, (b) dormant ReLUs in time, (c) tanh units, (d) dormant or dead."""
    title = "Dormant units: changing targets make them; a saturated unit is never one"
    figure, ((initial, time), (units, dead)) = plots.figure(2, 2, title, (4.6, 3.5))
    layer = select(dataset, network="layer", scale=1.0)
    if layer.diverged.size:
        for number, (bias, called) in enumerate(((0.0, "no biases"), (None, "biases"))):
            runs = select(layer, bias_scale=bias if bias is not None else (lambda scale: scale > 0))
            if runs.diverged.size:
                runs = runs.isel(seed=0, step=0)
                plots.points(initial, runs.expected, runs.scores, called, color=f"C{number}", markersize=2)
        plots.theory(initial, (0, 2.5), (0, 2.5), "‖w‖ / mean ‖w‖, and with biases")
    relu = select(dataset, network="relu")
    rates = np.unique(relu.learning_rate.values) if relu.diverged.size else ()
    for number, rate in enumerate(rates):
        for (kind, where), style in zip(KINDS.items(), ("--", ":", "-"), strict=True):
            runs = select(relu, learning_rate=rate, **where)
            if runs.diverged.size:
                curve = averaged(runs.dormant, "seed", "step").isel(step=slice(1, None))
                called = f"Adam {rate:g}, labels {kind}"
                plots.seeds(time, curve, called, color=f"C{number}", linestyle=style)
                end = runs.sel(step=runs.steps)
                filled = {"marker": {"--": "o", ":": "^", "-": "s"}[style], "color": f"C{number}", "alpha": 0.7}
                plots.points(dead, end.dead_units, end.dormant, called, **filled)
        changes = select(relu, **KINDS["changing"])
        if changes.diverged.size and not number:
            time.axvline(float(changes.period.min()), color="black", linewidth=1, label="labels first change")
    tanh = select(dataset, network="tanh")
    if tanh.diverged.size:
        end = tanh.sel(step=tanh.steps)
        plots.points(units, end.levels, end.unit_scores, "tanh unit at the end", color="C2", markersize=2)
        plots.theory(units, (0, 1), (0, 1), "score = mean|h|, a lower bound")
    units.axhline(TAU, color="black", linestyle=":", linewidth=1.2, label=f"dormant below τ = {TAU}")
    plots.theory(dead, (0, 0.6), (0, 0.6), "dormant = dead")
    initial.set(title="a  one random layer", xlabel="score in theory", ylabel="score, 4000 inputs")
    time.set(title="b  ReLU networks in time", xlabel="step", ylabel="share of units dormant", xscale="log")
    units.set(title="c  tanh: saturated, not dormant", xlabel="mean|h| of a unit (φ_B)", ylabel="score", ylim=(0, 1.9))
    dead.set(title="d  ReLU networks at the end, a run each", xlabel="share dead", ylabel="share dormant")
    for axes in figure.axes:
        plots.legend(axes, fontsize=6.5)
    return figure


AXES = ("network", "learning_rate", "period", "fan_in", "bias_scale", "scale", "changes")
LAYERS = [
    *(("layer", 0.0, NEVER, fan_in, bias, 1.0, NEVER) for fan_in in (16.0, 64.0) for bias in (0.0, 0.5)),
    ("layer", 0.0, NEVER, 64.0, 0.0, 1e-10, NEVER),
]
RATES = (1e-3, 3e-3, 1e-2)
LABELS = ((NEVER, NEVER), (300.0, NEVER), (300.0, 1.0))  # period and changes: true and fixed, changing, changed once
networks = lambda name, rates, labels=LABELS: [
    (name, rate, period, 64.0, 0.0, 1.0, changes) for rate in rates for period, changes in labels
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: [*LAYERS, *networks("relu", RATES), *networks("tanh", RATES[1:], LABELS[:2])]},
    smoke={"seeds": 2, AXES: [*LAYERS, *networks("relu", RATES[2:])], "steps": 800, "width": 30, "depth": 2},
    paper={"seeds": 30, "steps": 100_000, "tasks": 400, "width": 512},
    control={"mean": 0.5},  # inputs of another mean than theory's
    precision="float32",
)
