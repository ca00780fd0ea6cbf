"""Deep tanh networks near isometry learn faster than those with Gaussian weights, and than ReLU networks.

Claim: Deep networks that begin with dynamical isometry learn orders of magnitude faster than networks that do not, and
tanh networks with orthogonal weights faster than deep ReLU networks.

Source: Pennington, Schoenholz & Ganguli 2017, "Resurrecting the sigmoid in deep learning through dynamical isometry",
arXiv 1711.04735, abstract and section 3; of linear networks: Saxe, McClelland & Ganguli 2014, arXiv 1312.6120.

Departure: Digits of 8 × 8 pixels, width 64 and 40 layers in place of CIFAR-10, 400 and 200; plain SGD, batches of 32.
Every network begins at the edge of chaos. Time is the number of steps after which the loss on 128 of the images stays
below half of ln 10, what it is for a guess, as long as it is looked at: a run ends once it is half of that. Each
network has the best of six learning rates, a factor of √3 apart: from 0.4 over the number of layers for tanh, from 0.12
over it for ReLUs. A network that does not get there is counted with all steps, less than its time: a ratio is then "at
least", its interval open above. What theory says is only the order: the variance of the squared singular values of the
Jacobian, `research.oracles.isometry`. The paper says "orders of magnitude", at ten times the depth: first that much is
asked for which the choice of rates cannot make, and then a factor of 10.

Theory's distance alone does not order the times. q* = 0.5 is 22 times as far from isometry as 0.05 at either depth:
with 40 layers it takes more steps, with 8 it takes half of them. q* = 0.01, the nearest of all, takes three times as
many as 0.05, and with 40 layers twice as many as 0.5: its signals are small as well, from which the readout learns
slowly, we suppose.
"""

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
from research.labels import largest, lift, select, sound
from research.models import critical, orthogonal_factor
from research.oracles.isometry import jacobian_spread
from research.statistics import Estimate, crossing, every_seed

FUNCTIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh}
GUESS = float(np.log(10))
LEARNED = GUESS / 2
SHOWN = 128  # images whose loss is recorded
STEP = 3**0.5  # from one learning rate to the next


class Observables(NamedTuple):
    loss: Float[Array, ""]


def simulate(
    key: Array,
    learning_rate: float,
    orthogonal: float,
    q: float,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    depth: int = 40,
    width: int = 64,
    steps: int = 250,
    batch: int = 32,
) -> Run:
    """Training on digits from the edge of chaos with fixed point q; weights are orthogonal (1) or Gaussian (0).

    Images are as wide as the layers: they enter repeated where those are wider than 64, with the variance of q.
    """
    pixels, labels = problems.digits()
    inputs = np.resize(problems.standardized(pixels).T, (width, len(labels))).T
    inputs *= (width / np.sum(inputs**2, axis=1, keepdims=True)) ** 0.5
    X, y = jnp.asarray(inputs, float), jnp.asarray(labels)
    function = FUNCTIONS[activation]
    edge = critical(function, q)

    init_key, descent_key = jax.random.split(key)
    # The whole is one draw, which compiles faster than several.
    drawn = jax.random.normal(init_key, (depth * width + depth + 10, width))
    gaussian = drawn[: depth * width].reshape(depth, width, width)
    directions = jnp.where(orthogonal > 0, orthogonal_factor(gaussian), gaussian / width**0.5)
    weights = jnp.sqrt(edge.weight_variance) * directions
    biases = jnp.sqrt(edge.bias_variance) * drawn[depth * width : -10]
    params = (weights, biases, drawn[-10:].T / width**0.5)

    def loss(params: Any, drawn: Any) -> Array:
        weights, biases, readout = params
        layer = lambda outputs, given: (function(outputs @ given[0] + given[1][None]), None)
        outputs, _ = jax.lax.scan(layer, jnp.sqrt(edge.output) * X[drawn], (weights, biases))
        return cross_entropy(outputs @ readout, y[drawn]).mean()

    chain = optax.sgd(learning_rate)
    step = stochastic_descent(loss, chain, lambda key: jax.random.randint(key, (batch,), 0, len(X)))
    seen = lambda state: loss(state.params, np.arange(SHOWN))
    begin, at = start(params, chain, descent_key), log_spaced(steps, 30)
    return Run(begin, step, lambda state: Observables(seen(state)), at, stop=lambda state: seen(state) <= LEARNED / 2)


def distance(activation: str, q: float, orthogonal: float, depth: float) -> float:
    """Return the variance of the squared singular values of the Jacobian over the square of their mean."""
    return float(jacobian_spread(activation, q, np.inf, orthogonal > 0, int(depth))[-1])


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The steps after which each run has learned (NaN: it has not), and how far theory has it from isometry."""
    dataset = sound(dataset)
    steps = np.log(np.maximum(dataset.step.values, 0.5))
    # a loss that jumps up again has not been learned: the largest from here on is looked at
    reached = xr.apply_ufunc(
        lambda losses: np.exp(crossing(steps, -np.maximum.accumulate(losses[::-1])[::-1], -LEARNED)),
        dataset.loss,
        input_core_dims=[["step"]],
        vectorize=True,
    )
    expected = lift(distance, dataset.activation, dataset.q, dataset.orthogonal, dataset.depth)
    return dataset.assign(reached=reached, expected=expected)


def arm(dataset: xr.Dataset, activation: str, orthogonal: float, q: float) -> xr.Dataset:
    """The runs of one kind of network."""
    return select(dataset, activation=activation, orthogonal=orthogonal, q=q)


def by_rate(runs: xr.Dataset, variable: str) -> np.ndarray:
    """That variable of the one kind of network that is left, seeds first, then learning rates."""
    others = [each for each in runs.diverged.dims if each != "seed"]
    values = runs[variable].transpose("seed", *others, ...).values
    return np.asarray(values.reshape(runs.sizes["seed"], -1, *values.shape[1 + len(others) :]))


def times(runs: xr.Dataset) -> np.ndarray:
    """The steps that each seed takes at the best of its rates, of the one kind of network that is left."""
    most = float(runs.steps.max())
    return np.nan_to_num(by_rate(runs, "reached"), nan=most).min(axis=1)


def best(runs: xr.Dataset) -> np.ndarray:
    """The place of each seed's best rate; of a network that never learns, of the one of least loss at the end."""
    most = float(runs.steps.max())
    ends = np.nan_to_num(by_rate(runs, "loss")[..., -1], nan=np.inf)
    reached = by_rate(runs, "reached")
    return np.asarray(np.where(np.isnan(reached), most + ends, reached).argmin(axis=1))


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Orthogonal against Gaussian tanh and ReLU networks, deep and shallow; fixed points farther off and nearer."""
    found: list[Finding] = []
    deep = largest(dataset, "depth")
    shallow = select(dataset, depth=int(dataset.depth.min()))
    depth, lost = int(deep.depth.max()), int(dataset.diverged.sum())

    def add(statement: str, band: tuple[float, float], estimate: Estimate) -> None:
        found.append(Finding.of(statement, band, estimate))

    near, gaussian = ("tanh", 1.0, ISOMETRIC), ("tanh", 0.0, ISOMETRIC)

    def ratio(runs: xr.Dataset, over: tuple, of: tuple) -> np.ndarray:
        """How many times as long as the second kind the first one takes; NaN where the second never learns."""
        least = times(arm(runs, *of))
        return times(arm(runs, *over)) / np.where(least < runs.steps.values.max(), least, np.nan)

    def compared(what: str, band: tuple[float, float], runs: xr.Dataset, over: tuple, of: tuple) -> None:
        """Add that ratio; where seeds of the first kind did not get there, it is at least what their steps say."""
        estimate, spent = every_seed(ratio(runs, over, of)), times(arm(runs, *over))
        missed = int((spent >= runs.steps.values.max()).sum())
        if missed:
            what = f"{what}, at least ({missed} of {spent.size} seeds did not get there)"
            estimate = Estimate(estimate.value, (estimate.interval[0], np.inf))
        add(what, band, estimate)

    has = lambda runs, *kinds: all(arm(runs, *kind).diverged.size for kind in kinds)
    both = int(shallow.depth.max()) < depth
    if has(deep, near, gaussian):
        what = f"{depth} layers, tanh, q* = {ISOMETRIC:g}: steps to learn, Gaussian over orthogonal"
        compared(f"{what} (of {dataset.diverged.size} runs {lost} diverged)", (STEP, np.inf), deep, gaussian, near)
        compared(f"{what}, as an order of magnitude", (10.0, np.inf), deep, gaussian, near)
        if both and has(shallow, near, gaussian):
            what = f"the same, over what it is at {int(shallow.depth.max())} layers"
            add(what, (1.0, np.inf), every_seed(ratio(deep, gaussian, near) / ratio(shallow, gaussian, near)))
    for orthogonal, weights in ((1.0, "orthogonal"), (0.0, "Gaussian")):
        other = ("relu", orthogonal, 1.0)
        if has(deep, near, other):
            what = f"{depth} layers: steps to learn, ReLU with {weights} weights over orthogonal tanh"
            compared(what, (1.0, np.inf), deep, other, near)
    smaller, far = ("tanh", 1.0, SMALLER), ("tanh", 1.0, FAR)
    for runs in (deep, shallow) if both else (deep,):
        what = f"{int(runs.depth.max())} layers, orthogonal tanh: steps to learn, q* = "
        if has(runs, near, smaller):
            nearer = f"{what}{SMALLER:g} over {ISOMETRIC:g} (nearer to isometry: less than 1)"
            compared(nearer, (0.0, 1.0), runs, smaller, near)
        if has(runs, near, far):
            farther = f"{what}{FAR:g} over {ISOMETRIC:g} (farther from isometry: more than 1)"
            compared(farther, (1.0, np.inf), runs, far, near)
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """The loss of the deepest networks at their best rates, and steps to learn against theory's distance."""
    figure, axes = plots.figure(1, 3, "Near isometry, deep networks learn fast", (4.6, 3.8))
    curves, against, distances = axes[0]
    depths = np.unique(dataset.depth.values).tolist()
    for number, kind in enumerate(KINDS):
        activation, orthogonal, q = kind
        runs = arm(dataset, *kind)
        if not runs.diverged.size:
            continue
        level = f", q* = {q:g}" if activation == "tanh" else ""
        label = f"{'orthogonal' if orthogonal else 'Gaussian'} {activation}{level}"
        color = f"C{number}"
        deep = largest(runs, "depth")
        place = int(np.median(best(deep)))
        loss = xr.DataArray(by_rate(deep, "loss")[:, place, 1:], {"step": deep.step[1:]}, ("seed", "step"))
        rate = float(np.broadcast_to(deep.learning_rate.values, by_rate(deep, "reached").shape[1])[place])
        plots.seeds(curves, loss, f"{label}, η = {rate:.2g}", color=color)
        for depth in depths:
            cell = select(runs, depth=depth)
            if cell.diverged.size:
                marker = {"marker": "o" if depth == depths[-1] else "v", "alpha": 0.7}
                place, seen = cell.expected.max(), xr.DataArray(times(cell), dims="seed")
                named = label if depth == depths[-1] else None
                plots.points(against, place, seen, named, color=color, **marker)
                distances.plot(depth, float(place), color=color, label=None, **{**marker, "markersize": 5})
        layers = np.unique(np.geomspace(1, depths[-1], 20).astype(int))
        expected = jacobian_spread(activation, q, np.inf, orthogonal > 0, int(layers[-1]))[layers - 1]
        plots.theory(distances, layers, expected, None if number else "theory, colours as in b")
    for height, text in ((GUESS, "a guess"), (LEARNED, "learned"), (LEARNED / 2, "here a run ends")):
        plots.theory(curves, (1, float(dataset.step.max())), (height, height), None, linewidth=0.8)
        end = (float(dataset.step.max()), height)
        curves.annotate(text, end, (0, 2), textcoords="offset points", ha="right", fontsize=7)
    curves.set(
        title=f"a  {depths[-1]} layers, each at its best rate", xlabel="step", xscale="log", ylabel="loss (nats)"
    )
    shallow = f", ▼ {depths[0]}" if len(depths) > 1 else ""
    against.set(
        title=f"b  steps to learn: ● {depths[-1]} layers{shallow}",
        xscale="log",
        yscale="log",
        ylabel="step at which the loss is ln(10)/2",
    )
    against.set_xlabel("variance of squared singular values, theory")
    last = float(dataset.step.max())
    against.axhline(last, color="0.6", linestyle=":", linewidth=1.0)
    against.annotate("not by the last step", (4.0, last), (0, 2), textcoords="offset points", ha="center", fontsize=7)
    against.set_ylim(top=1.8 * last)
    distances.set(title="c  theory", xlabel="layers", xscale="log", yscale="log")
    distances.set_ylabel("variance of squared singular values")
    for each in axes[0]:
        plots.legend(each, fontsize=6.5)
    return figure


ISOMETRIC, SMALLER, FAR = 0.05, 0.01, 0.5  # q*
KINDS = [
    ("tanh", 1.0, SMALLER),
    ("tanh", 1.0, ISOMETRIC),
    ("tanh", 1.0, FAR),
    ("tanh", 0.0, ISOMETRIC),
    ("relu", 1.0, 1.0),
    ("relu", 0.0, 1.0),
]
NAMES = ("activation", "orthogonal", "q", "depth", "learning_rate")
RATES = {"tanh": 0.4 * STEP ** np.arange(6), "relu": 0.12 * STEP ** np.arange(6)}  # times the number of layers
networks = lambda depths, kinds=KINDS: [
    (*kind, depth, float(f"{rate / depth:.3g}")) for depth, kind in product(depths, kinds) for rate in RATES[kind[0]]
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, NAMES: networks((8, 40))},
    smoke={"seeds": 2, NAMES: [(*kind, 40, 0.04) for kind in (KINDS[1], KINDS[3])], "steps": 120},
    paper={"seeds": 8, NAMES: networks((25, 50, 100, 200)), "width": 400, "steps": 10_000},
    control={"depth": 2, "learning_rate": 0.3},
    precision="float32",
)
