"""Networks lose plasticity over a sequence of tasks; dead units go with it, and explain only part of it.

Claim: A network that is trained on one task after the other learns later tasks less well than a fresh one does. Dead
units and the norm of the weights rise meanwhile and the rank of the features falls; weight decay helps. But dead units
are not the cause: networks lose plasticity without them ("it often occurs in the absence of saturated units"), and
reviving them does not restore it.

Source: Dohare et al. 2024, "Loss of plasticity in deep continual learning", Nature 632, arXiv 2306.13812 (Online
Permuted MNIST; L2 helps); Lyle et al. 2023, "Understanding plasticity in neural networks", arXiv 2303.01486 (abstract:
the sentence quoted; the intervention on dead units is our test of it).

Departure: 30 tasks of 200 updates of Adam on the bundled digits, whose 64 pixels are permuted anew for each task,
instead of 800 tasks of 60,000 of SGD on MNIST; three layers of 50 units. Plasticity is the accuracy on a task's images
at its end, less that of a network drawn anew for that task. `revive` draws units anew that were active on no sample of
a task (incoming weights; outgoing ones 0; Adam's moments stay). Rank is the participation ratio of the last layer's
Gram matrix, (tr G)²/tr G², not Roy & Vetterli's. What comes out is between the two readings: reviving dead units saves
half of the loss; weight decay saves more, with more of its units dead than the plain network has; and units of slope
0.1 below zero, none of which can die, still lose 0.4 of what ReLUs do. The rank falls at the small rate only: at the
large one it rises for ten tasks and falls back, still above the first task's and a fresh network's. Over tasks the
norm is the number of the task but for its scale (r = 0.99): what is partial to it is what is partial to time.

Bands: signs are those of the claims; rank, dead units and losses are means of the last quarter of tasks. To restore is
to save half of the loss, to lose nothing a tenth of it (or to gain); a partial correlation within ±0.3 counts as none.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from research import data as problems
from research import plots
from research.dynamics import Descent, Run, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import select, sound
from research.models import FullyConnected, uniform_start
from research.statistics import over_seeds, slope

KEPT, LEAKY = 1500, 0.1


class Observables(NamedTuple):
    accuracy: Float[Array, ""]
    dead: Float[Array, ""]
    norm: Float[Array, ""]
    rank: Float[Array, ""]


class Learner(NamedTuple):
    """A descent, the number of its steps, and which units have been active since the present task began."""

    now: Descent
    steps: Array
    active: Array


def simulate(
    key: Array,
    learning_rate: float,
    weight_decay: float = 0.0,
    leak: float = 0.0,
    fresh: float = 0.0,
    revive: float = 0.0,
    change: float = 1.0,
    *,
    tasks: int = 30,
    updates: int = 200,
    depth: int = 3,
    width: int = 50,
    batch: int = 32,
) -> Run:
    """A sequence of tasks of `updates` steps each: the digits under another permutation of the pixels each time.

    `leak` is the slope of the activation below zero: 0 for ReLU, 1 for a linear network. Before each task `fresh` 1
    draws all parameters anew, `revive` 1 those of units that were active on no sample of the task before (incoming
    weights anew, outgoing ones 0). `change` 0 keeps the first task for ever.
    """
    init_key, data_key, draw_key = jax.random.split(key, 3)
    pixels, labels = problems.digits()
    X = jnp.asarray(problems.standardized(pixels)[:KEPT], jnp.float32)
    y = jnp.asarray(labels[:KEPT])
    places = jax.vmap(lambda key: jax.random.permutation(key, X.shape[1]))(jax.random.split(data_key, tasks))
    activation = lambda sums: jnp.where(sums > 0, sums, leak * sums)
    forward: Any = FullyConnected(depth, width, 10, activation).apply
    names = [*(f"hidden_{layer}" for layer in range(depth)), "readout"]
    sizes = [X.shape[1], *[width] * depth, 10]
    gain = jnp.sqrt(6 / (1 + leak**2))
    drawn = lambda key: jax.tree.map(lambda entries: gain * entries, uniform_start(key, sizes, X.dtype)[0])
    optimizer = optax.adamw(learning_rate, weight_decay=weight_decay)
    task_of = lambda steps: jnp.where(change > 0, jnp.clip(steps // updates, 0, tasks - 1), 0)

    def renewed(params: Any, active: Array, key: Array) -> Any:
        new = drawn(key)["params"]
        layers = {}
        for place, name in enumerate(names):
            kernel, bias = params["params"][name]["kernel"], params["params"][name]["bias"]
            out = ~active[place][None, :] if place < depth else jnp.zeros((1, len(bias)), bool)
            into = ~active[place - 1][:, None] if place else jnp.zeros((len(kernel), 1), bool)
            kernel = jnp.where(out, new[name]["kernel"], jnp.where(into, 0.0, kernel))
            layers[name] = {"kernel": kernel, "bias": jnp.where(out[0], new[name]["bias"], bias)}
        return {"params": layers}

    def step(state: Learner) -> Learner:
        begins = (state.steps % updates == 0) & (state.steps > 0)
        key = jax.random.fold_in(init_key, state.steps)
        kept = state.now.params, state.now.optimizer_state
        anew = lambda: (drawn(key), jax.tree.map(jnp.zeros_like, kept[1]))
        again = lambda: (renewed(kept[0], state.active, key), kept[1])
        which = jnp.where(begins, jnp.where(fresh > 0, 1, jnp.where(revive > 0, 2, 0)), 0)
        params, moments = jax.lax.switch(which, [lambda: kept, anew, again])
        place = places[task_of(state.steps)]
        sample = lambda key: jax.random.randint(key, (batch,), 0, KEPT)
        loss = lambda params, index: cross_entropy(forward(params, X[index][:, place]).logits, y[index]).mean()
        index = sample(jax.random.split(state.now.key)[1])
        seen = jnp.any(forward(params, X[index][:, place]).pre_activations > 0, axis=1)
        active = jnp.where(begins, seen, state.active | seen)
        now = stochastic_descent(loss, optimizer, sample)(state.now._replace(params=params, optimizer_state=moments))
        return Learner(now, state.steps + 1, active)

    def observe(state: Learner) -> Observables:
        logits, sums = forward(state.now.params, X[:, places[task_of(state.steps - 1)]])
        top = activation(sums[-1])
        gram = top.T @ top
        rank = jnp.trace(gram) ** 2 / jnp.maximum(jnp.sum(gram**2), jnp.finfo(X.dtype).tiny)
        return Observables(
            jnp.mean(jnp.argmax(logits, axis=1) == y, dtype=X.dtype),
            jnp.mean(jnp.max(sums, axis=1) <= 0, dtype=X.dtype),
            optax.tree.norm(state.now.params),
            rank,
        )

    begin = start(drawn(init_key), optimizer, draw_key)
    state = Learner(begin, jnp.zeros((), jnp.int32), jnp.zeros((depth, width), bool))
    return Run(state, step, observe, updates * np.arange(1, tasks + 1))


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "drawn anew": {"fresh": 1.0},
    "dead units revived": {"revive": 1.0},
    "weight decay": {"weight_decay": lambda decay: decay > 0},
    "slope 0.1 below zero": {"leak": LEAKY},
    "slope 0.1, drawn anew": {"leak": LEAKY, "fresh": 1.0},
    "linear": {"leak": 1.0},
}
USUAL: dict[str, Any] = {"fresh": 0.0, "revive": 0.0, "weight_decay": 0.0, "leak": 0.0}
RESTORED, NOTHING_LOST, NO_CORRELATION = 0.5, 0.1, 0.3


def kind(dataset: xr.Dataset, name: str, rate: float) -> xr.Dataset | None:
    """The runs of that kind and rate, of dimensions seed and task; None where there are none."""
    runs = select(dataset, learning_rate=rate, **{**USUAL, **KINDS[name]})
    if not runs.diverged.size:
        return None
    return runs.isel(dict.fromkeys((each for each in runs.diverged.dims if each != "seed"), 0)).swap_dims(step="task")


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The runs, with the number of each task beside its last step; with a slope below zero no unit is dead."""
    dataset = sound(dataset).assign_coords(task=("step", np.arange(1, dataset.sizes["step"] + 1)))
    return dataset.assign(dead=dataset.dead * (dataset.leak == 0))


def slopes(values: xr.DataArray) -> np.ndarray:
    """The slope of each seed by task, in units of ten tasks."""
    return 10 * slope(values.task.values, values.transpose("seed", "task").values)


def late(values: xr.DataArray) -> np.ndarray:
    """The mean over the last quarter of tasks, by seed."""
    quarter = slice(-max(values.sizes["task"] // 4, 1), None)
    return np.asarray(values.isel(task=quarter).mean("task", skipna=False))


def lost(runs: xr.Dataset, fresh: xr.Dataset) -> np.ndarray:
    """How much lower the accuracy is than that of fresh networks, mean of the last quarter of tasks, by seed."""
    return late(fresh.accuracy - runs.accuracy)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The loss, what goes with it, what prevents it, and what is left of its correlation with dead units."""
    found: list[Finding] = []
    rises, falls = (0.0, np.inf), (-np.inf, 0.0)
    add = lambda what, band, values: found.append(Finding.of(what, band, over_seeds(values)))
    for rate in np.unique(dataset.learning_rate.values)[::-1]:
        runs = {name: each for name in KINDS if (each := kind(dataset, name, rate)) is not None}
        if not {"plain", "drawn anew"} <= {*runs}:
            continue
        plain, fresh, said = runs["plain"], runs["drawn anew"], f"Adam {rate:g}"
        what = f"{said}: accuracy at the end of a task less that of a fresh network, slope in 10 tasks"
        add(what, falls, slopes(plain.accuracy - fresh.accuracy))
        add(f"{said}: share of dead units, slope in 10 tasks", rises, slopes(plain.dead))
        add(f"{said}: norm of weights, slope in 10 tasks", rises, slopes(plain.norm))
        rank = plain["rank"]
        add(f"{said}: rank, last quarter of tasks less the first task", falls, late(rank - rank.isel(task=0)))
        add(f"{said}: rank, last quarter of tasks, less that of fresh networks", falls, late(rank - fresh["rank"]))
        loss = lost(plain, fresh)
        if "weight decay" in runs:
            kept = runs["weight decay"]
            share = lost(kept, fresh) / loss
            add(f"{said}, weight decay: loss over that of the plain network", (-np.inf, 1 - RESTORED), share)
            add(f"{said}: share of dead units with weight decay less that without", rises, late(kept.dead - plain.dead))
        if "dead units revived" in runs:
            revived = runs["dead units revived"]
            add(f"{said}: share of dead units with revival less that without", falls, late(revived.dead - plain.dead))
            share = lost(revived, fresh) / loss
            add(f"{said}, dead units revived: loss over that of the plain network", (1 - RESTORED, np.inf), share)
        if {"slope 0.1 below zero", "slope 0.1, drawn anew"} <= {*runs}:
            without = lost(runs["slope 0.1 below zero"], runs["slope 0.1, drawn anew"])
            what = f"{said}, slope 0.1 below zero, no unit can die: accuracy lost to its own fresh network"
            add(f"{what}, {np.mean(without) / np.mean(loss):.2f} of what ReLUs lose", rises, without)
        if "linear" in runs:  # a linear network knows less from the start: its slope is what counts
            share = slopes(runs["linear"].accuracy) / slopes(plain.accuracy)
            add(f"{said}, linear: slope of accuracy over that of the plain network", (-np.inf, NOTHING_LOST), share)
        raw, partial = correlations(plain, fresh)
        add(f"{said}: correlation of accuracy and dead units over tasks", (-1.0, 0.0), raw)
        clock = np.mean([np.corrcoef(plain.task, each)[0, 1] for each in plain.norm.transpose("seed", "task")])
        what = f"{said}: the same for given norm (which is the task's number, r = {clock:.2f}) and rank (partial)"
        add(what, (-NO_CORRELATION, NO_CORRELATION), partial)
    return found


def correlations(runs: xr.Dataset, fresh: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The correlation of lost accuracy's negative with dead units over tasks, and that for given norm and rank."""
    raw, partial = [], []
    for seed in runs.seed.values:
        one = runs.sel(seed=seed)
        accuracy, dead = (one.accuracy - fresh.accuracy.sel(seed=seed)).values, one.dead.values
        given = np.stack([np.ones(one.sizes["task"]), one.norm.values, one["rank"].values], axis=1)
        rest = lambda y, given=given: y - given @ np.linalg.lstsq(given, y, rcond=None)[0]
        sound_run = np.isfinite(given).all() and np.isfinite(accuracy).all() and np.std(dead) > 0
        raw.append(np.corrcoef(accuracy, dead)[0, 1] if sound_run else np.nan)
        partial.append(np.corrcoef(rest(accuracy), rest(dead))[0, 1] if sound_run else np.nan)
    return np.array(raw), np.array(partial)


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Accuracy, dead units, norm and rank by task, at the largest rate; the smaller one's accuracy dotted."""
    figure, panels = plots.figure(2, 2, "Loss of plasticity, and the dead units that go with it", (4.8, 3.4))
    rates = np.unique(dataset.learning_rate.values)
    shown = {
        "accuracy": "accuracy at the end of a task",
        "dead": "share of units dead",
        "norm": "norm of all weights",
        "rank": "rank of the last layer",
    }
    for panel, letter, (variable, label) in zip(panels.ravel(), "abcd", shown.items(), strict=True):
        for number, name in enumerate(KINDS):
            runs = kind(dataset, name, rates[-1])
            if runs is None:
                continue
            style = {"color": "black" if name == "drawn anew" else f"C{number}"}
            if "drawn anew" in name:  # the leaky one's in the colour of the network that it is the null of
                style = {"linestyle": "--", "color": style["color"] if name == "drawn anew" else f"C{number - 1}"}
            plots.seeds(panel, runs[variable].transpose("seed", "task"), name, **style)
        slow = kind(dataset, "plain", rates[0])
        if slow is not None and rates.size > 1:
            plots.seeds(
                panel, slow[variable].transpose("seed", "task"), f"plain, Adam {rates[0]:g}", color="C5", linestyle=":"
            )
        panel.set(title=f"{letter}  {label}", xlabel="task", ylabel=label)
    panels[0, 0].set_title(f"a  learning ever new tasks, Adam {rates[-1]:g}")
    plots.legend(panels[0, 0])
    plots.legend(panels[0, 1])
    return figure


AXES = ("learning_rate", "weight_decay", "leak", "fresh", "revive")
QUICK, SLOW = 5e-3, 1e-3
ARMS = [
    (QUICK, 0.0, 0.0, 0.0, 0.0),
    (QUICK, 0.0, 0.0, 1.0, 0.0),
    (QUICK, 0.0, 0.0, 0.0, 1.0),
    (QUICK, 0.1, 0.0, 0.0, 0.0),
    (QUICK, 0.0, LEAKY, 0.0, 0.0),
    (QUICK, 0.0, LEAKY, 1.0, 0.0),
    (QUICK, 0.0, 1.0, 0.0, 0.0),
    (SLOW, 0.0, 0.0, 0.0, 0.0),
    (SLOW, 0.0, 0.0, 1.0, 0.0),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, AXES: [(0.01, *arm[1:]) for arm in ARMS[:3]], "tasks": 14, "updates": 80, "width": 30},
    paper={"seeds": 30, AXES: ARMS, "tasks": 800, "updates": 2000, "width": 2000},
    control={"change": 0.0},  # one and the same task for ever
    precision="float32",
)
