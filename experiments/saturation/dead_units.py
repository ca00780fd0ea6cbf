"""Large learning rates kill ReLUs: more than 40 % in networks that work only under Adam, and with uncentred inputs.

Claim: "You may find that as much as 40 % of your network can be dead (i.e. neurons that never activate across the
entire training dataset) if the learning rate is set too high", and a dead unit "will never activate on any datapoint
again", since its gradient is zero from then on.

Source: Karpathy & Li, CS231n course notes (Stanford), "Neural networks 1: setting up the architecture". What a unit
does after its death: `research.oracles.coasting`.

Departure: He-uniform networks of three layers on the bundled digits. Dead is what is above zero on none of the 1500
training images; a network works that has more than 0.9 of the 297 others right. `shift` 1, about what centring takes
away, is added to standardised pixels. The claim needs Adam and such inputs. With centred ones accuracy falls to 0.9 as
the dead become 40 %; under SGD with momentum a working network has lost a quarter at most, without momentum hardly a
unit. In the first layer the dead stay dead, and rest once momentum has run out. Deeper ones often live again.

Bands: centred inputs sum to zero, and so do the sums that a unit of the first layer receives from them without a bias:
it cannot be dead at the start. In float32 each of k steps rounds a weight by half an ulp at most.
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
from research.observables.saturation import never_active_share
from research.oracles.coasting import coasting
from research.statistics import every_seed, over_seeds, slope

CLAIMED, WORKS = 0.4, 0.9
WATCHED = 20  # dead units are watched from this part of the run on, when many have just died
CHAINS = {"sgd": optax.sgd, "momentum": lambda rate: optax.sgd(rate, momentum=0.9), "adam": optax.adam}
MOMENTS = {"sgd": None, "momentum": "trace", "adam": "mu"}


class Observables(NamedTuple):
    dead: Float[Array, "layer"]
    accuracy: Float[Array, ""]
    died: Float[Array, "layer"]
    revived: Float[Array, "layer"]
    moved: Float[Array, ""]
    tracked: Float[Array, ""]
    weights: Float[Array, "entry"]
    weights_then: Float[Array, "entry"]
    first: Float[Array, "entry"]
    second: Float[Array, "entry"]


class Watched(NamedTuple):
    """A descent, the number of its steps, and what it was when a twentieth of the run was over."""

    now: Descent
    steps: Array
    then: Descent


def simulate(
    key: Array,
    learning_rate: float,
    shift: float = 0.0,
    leak: float = 0.0,
    *,
    optimizer: Literal["sgd", "momentum", "adam"] = "adam",
    depth: int = 3,
    width: int = 100,
    steps: int = 1500,
    batch: int = 32,
) -> Run:
    """Training on the cross-entropy; `leak` is the slope of the activation below zero.

    `died` and `revived` count the units that were dead at a twentieth of the run, and those of them that are active
    now. In the first layer `moved` is the largest change of an incoming weight (or bias) among those that are dead now
    too, `tracked` says whether there is one, and the last four are of that which was moving fastest: its weights, now
    and then, and the moments of the optimiser then.
    """
    init_key, descent_key = jax.random.split(key)
    pixels, labels = problems.digits()
    held = np.isin(np.arange(len(labels)), np.linspace(0, len(labels) - 1, 297).astype(int))
    inputs = problems.standardized(pixels)
    inputs = (inputs - inputs[~held].mean(axis=0, keepdims=True)).astype(np.float32)
    X, beyond = jnp.asarray(inputs[~held]) + shift, jnp.asarray(inputs[held]) + shift
    y = jnp.asarray(labels[~held])
    activation = lambda sums: jnp.where(sums > 0, sums, leak * sums)
    forward: Any = FullyConnected(depth, width, 10, activation).apply
    uniform, _ = uniform_start(init_key, [X.shape[1], *[width] * depth, 10], X.dtype)
    params = jax.tree.map(lambda entries: 6**0.5 * entries, uniform)
    chain = CHAINS[optimizer](learning_rate)
    loss = lambda params, drawn: cross_entropy(forward(params, X[drawn]).logits, y[drawn]).mean()
    forth = stochastic_descent(loss, chain, lambda key: jax.random.randint(key, (batch,), 0, len(X)))
    entries = lambda tree: jnp.concatenate([tree["kernel"], tree["bias"][None, :]])
    first_layer = lambda params: entries(params["params"]["hidden_0"])

    def step(state: Watched) -> Watched:
        then = jax.tree.map(lambda new, old: jnp.where(state.steps == steps // WATCHED, new, old), state[0], state.then)
        return Watched(forth(state.now), state.steps + 1, then)

    def observe(state: Watched) -> Observables:
        sums, before = (forward(descent.params, X).pre_activations for descent in (state.now, state.then))
        dead, dead_then = (jnp.max(each, axis=1) <= 0 for each in (sums, before))
        right = jnp.argmax(forward(state.now.params, beyond).logits, axis=1) == labels[held]
        both = dead[0] & dead_then[0]
        now, then = first_layer(state.now.params), first_layer(state.then.params)
        moment = lambda name: first_layer(optax.tree.get(state.then.optimizer_state, name)) if name else 0 * then
        first, second = moment(MOMENTS[optimizer]), moment("nu" if optimizer == "adam" else None)
        momentum = jnp.max(jnp.abs(first) / jnp.sqrt(jnp.where(second > 0, second, 1.0)), axis=0)
        unit, there = jnp.argmax(jnp.where(both, momentum, -1.0)), jnp.any(both)
        of_unit = lambda entries: jnp.where(there, entries[:, unit], 0.0)
        count = lambda hits: jnp.sum(hits, axis=1, dtype=sums.dtype)
        return Observables(
            jax.vmap(never_active_share)(sums),
            jnp.mean(right, dtype=sums.dtype),
            count(dead_then),
            count(dead_then & ~dead),
            jnp.max(jnp.where(both[None, :], jnp.abs(now - then), 0.0)),
            there.astype(sums.dtype),
            of_unit(now),
            of_unit(then),
            of_unit(first),
            of_unit(second),
        )

    begin = start(params, chain, descent_key)
    return Run(Watched(begin, jnp.zeros((), jnp.int32), begin), step, observe, log_spaced(steps, 12, first=4))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """How the runs end, and where theory has the dead unit that is tracked."""
    dataset = sound(dataset)
    end = dataset.sel(step=dataset.steps)
    since = dataset.steps // WATCHED
    dead_unit = end.tracked > 0
    predicted = lift(
        coasting, end["first"], end.second, dataset.learning_rate, since, dataset.steps - since, dataset.optimizer
    )
    off = abs(end.weights - end.weights_then - predicted).max("entry", skipna=False)
    reach = abs(end.weights_then).max("entry") + abs(predicted).max("entry")
    allowed = (dataset.steps - since) * float(np.finfo(np.float32).eps) * reach
    return dataset.assign(
        ended=end.dead.mean("layer", skipna=False),
        right=end.accuracy,
        coasted=abs(end.weights - end.weights_then).max("entry").where(dead_unit),
        off=off / allowed.where(dead_unit),
        moved_at_end=end.moved.where(end.died.isel(layer=0) > 0),
        died_before=end.died,
        back=end.revived,
    )


def of(dataset: xr.Dataset, method: str, leak: float = 0.0) -> xr.Dataset:
    """The runs of that optimiser and that leak."""
    return select(dataset, optimizer=method, leak=leak)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The dead in networks that work, by method; learning rate and inputs; what the dead do; and a leak."""
    found = []
    groups = [
        (f"{method}, {_called(shift)}", select(of(dataset, method), shift=shift))
        for method in ("adam", "sgd", "momentum")
        for shift in np.unique(dataset["shift"].values)[::-1]
    ]
    groups = [(name, runs) for name, runs in groups if runs.diverged.size]
    for name, runs in groups:
        lost = f"({int(runs.diverged.sum())} of {runs.diverged.size} runs diverged)"
        most = per_seed(runs.ended.where(runs.right > WORKS, 0.0))
        what = f"{name}: largest share of dead units in a network of accuracy above {WORKS} {lost}"
        found.append(Finding.of(what, (CLAIMED, 1.0), over_seeds(most)))
    for name, runs in groups:
        found += _rise(runs, name)
    centred = select(dataset, shift=0.0)
    if centred.diverged.size:
        initial = centred.dead.isel(step=0, layer=0).fillna(0.0)  # every network starts sound
        what = "centred inputs: share of the first layer dead at the start, the largest of a seed"
        found.append(Finding.of(what, (0.0, 0.0), every_seed(per_seed(initial))))
    for method in ("sgd", "momentum", "adam"):
        found += _after_death(of(dataset, method), method)
    leaky = select(dataset, leak=lambda leak: leak > 0)
    if leaky.diverged.size:
        same = {name: np.unique(leaky[name].values).tolist() for name in ("optimizer", "learning_rate", "shift")}
        rival = select(dataset, leak=0.0, **same)
        for variable, what, band in (("ended", "units never active", (-np.inf, 0.0)), ("right", "accuracy", (0.0, 1))):
            change = per_seed(leaky[variable], "mean") - per_seed(rival[variable], "mean")
            found.append(Finding.of(f"leak {float(leaky.leak.max()):g}: change of {what}", band, over_seeds(change)))
    return found


def _called(shift: float) -> str:
    return f"inputs {'centred' if not shift else f'+ {shift:g}'}"


def _rise(runs: xr.Dataset, name: str) -> list[Finding]:
    """The slope of the dead share on the logarithm of the rate, over the rates at which no run diverged."""
    share = table(runs, "ended", "learning_rate")
    whole = share.isel(learning_rate=np.flatnonzero(share.notnull().all("seed")))
    if whole.learning_rate.size < 2:
        return []
    least, *_, most = rates = whole.learning_rate.values
    what = f"{name}: slope of the dead share on ln(learning rate), {least:g} to {most:g}"
    return [Finding.of(what, (0.0, np.inf), over_seeds(slope(np.log(rates), whole)))]


def _after_death(runs: xr.Dataset, method: str) -> list[Finding]:
    """What the weights of dead units of the first layer do, and how many units live again."""
    if not runs.diverged.size:
        return []
    over = [each for each in runs.diverged.dims if each != "seed"]
    if method == "sgd":
        moved = runs.moved_at_end.max(over).dropna("seed").values
        what = f"sgd: largest change of a weight of a dead unit of the first layer ({moved.size} seeds have any)"
        rows = [(what, (0.0, 0.0), moved)]
    else:
        off, far = runs.off.max(over).dropna("seed").values, runs.coasted.max(over).median().item()
        what = f"{method}: a dead unit's weights, distance to where they must coast in units of rounding"
        rows = [(f"{what} (it moves by {far:.2g})", (0.0, 1.0), off)]
    for place, layers in (("first layer", slice(0, 1)), ("deeper layers", slice(1, None))):
        died, back = (runs[each].isel(layer=layers).sum([*over, "layer"]) for each in ("died_before", "back"))
        some = np.flatnonzero(died.values)
        share = (back / died).values[some]
        rows.append(
            (
                f"{method}, {place}: share of units dead at a twentieth of the run that live at the end",
                (0.0, 0.0),
                share,
            )
        )
    return [Finding.of(what, band, every_seed(values)) for what, band, values in rows if len(values) > 1]


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) dead units and (b) accuracy by learning rate, (c) one against the other, (d) dead units in time."""
    figure, ((dead, right), (both, time)) = plots.figure(
        2, 2, "Large learning rates kill ReLUs, and most easily where inputs are not centred", (4.8, 3.5)
    )
    styles = {0.0: "-", 1.0: "--", 2.0: ":"}
    for number, method in enumerate(("sgd", "momentum", "adam")):
        for shift in np.unique(dataset["shift"].values):
            runs = select(of(dataset, method), shift=shift)
            if not runs.diverged.size:
                continue
            style = {"color": f"C{number}", "linestyle": styles.get(shift, "-."), "marker": "o", "markersize": 3}
            label = f"{method}, {_called(shift)}"
            for axes, variable in ((dead, "ended"), (right, "right")):
                values = table(runs, variable, "learning_rate")
                named = label if axes is dead else None
                axes.plot(values.learning_rate, values.median("seed"), label=named, **style)
                plots.points(axes, values.learning_rate, values, color=f"C{number}")
            filled = {"color": f"C{number}", "mfc": f"C{number}" if not shift else "none", "alpha": 0.8}
            plots.points(both, runs.ended, runs.right, label, **filled)
    for axes in (dead, time):
        axes.axhline(CLAIMED, color="black", linestyle="--", linewidth=1.2, label="40 %")
    both.axvline(CLAIMED, color="black", linestyle="--", linewidth=1.2)
    for axes in (right, both):
        axes.axhline(WORKS, color="black", linestyle=":", linewidth=1.2, label="works" if axes is right else None)
    runs = select(of(dataset, "adam"), shift=float(dataset["shift"].max()))
    for number, rate in enumerate(np.unique(runs.learning_rate.values) if runs.diverged.size else ()):
        curve = averaged(select(runs, learning_rate=rate).dead, "seed", "step").isel(step=slice(1, None))
        plots.seeds(time, curve, f"learning rate {rate:g}", color=f"C{number}")
    dead.set(title="a  units dead at the end (runs not diverged)", xlabel="learning rate", xscale="log")
    right.set(title="b  accuracy at the end", xlabel="learning rate", ylabel="on images not trained on", xscale="log")
    both.set(title="c  dead units against accuracy, a run each", xlabel="share of units dead", ylabel="accuracy")
    time.set(title=f"d  Adam, {_called(float(dataset['shift'].max()))}: in time", xlabel="step", xscale="log")
    for axes in (dead, time):
        axes.set_ylabel("share of units dead")
    for axes in (dead, right, both, time):
        axes.set_ylim(-0.03, 1.2 if axes is time else 1.05)
        plots.legend(axes, fontsize=6.5)
    return figure


AXES = ("optimizer", "learning_rate", "shift", "leak")
ARMS = [
    *(("sgd", rate, 0.0, 0.0) for rate in (0.03, 0.1, 0.3, 0.5, 0.7)),
    *(("sgd", rate, 1.0, 0.0) for rate in (0.03, 0.1, 0.16, 0.2)),
    *(("momentum", rate, 0.0, 0.0) for rate in (0.01, 0.03, 0.06)),
    *(("momentum", rate, 1.0, 0.0) for rate in (0.01, 0.02, 0.04, 0.045, 0.05)),
    *(("adam", rate, 0.0, 0.0) for rate in (1e-3, 1e-2, 0.02, 0.025, 0.03, 0.1)),
    *(("adam", rate, 1.0, 0.0) for rate in (1e-3, 1e-2, 0.02, 0.025, 0.03)),
    ("adam", 0.03, 0.0, 0.01),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, AXES: [("adam", rate, 2.0, 0.0) for rate in (0.02, 0.025)], "steps": 500, "width": 80},
    paper={"seeds": 30, AXES: ARMS, "width": 500, "steps": 20_000},
    control={"learning_rate": (1e-3, 1.25e-3)},  # two, as in smoke, whose program it is
    precision="float32",
)
