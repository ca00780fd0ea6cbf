"""Modular addition: weight decay λ makes a network grok at the time (ln α + C)/λ, long after it has fitted its data.

Claim: A network with one hidden layer that is to learn a + b mod p from a part of all pairs fits these within a time
that weight decay does not enter, at a test accuracy no better than chance. Only when the decay has taken its large
start away, at a time of order ln α / λ, α the scale of the start, does the test accuracy rise, within a time of order
1/λ. So the delay grows as 1/λ, and test curves over λt collapse. With cross-entropy and from α = 4 it does not grok in
that time without weight decay.

Source: Lyu, Jin, Li, Du, Lee & Hu 2024, arXiv 2311.18817, section 2 and figure 2 (p = 97, 3763 pairs, 1024 ReLU
units, λ = 1e-4, cross-entropy, gradient descent, the last layer 0 at the start); Theorems 3.4 and 3.5 give the time
ln α / λ for homogeneous smooth networks and binary labels. Quadratic units: Gromov 2023, arXiv 2301.02679, whose
networks grok under plain gradient descent on the squared error without any regularisation: decay is one way, not the
only one. What is said here of no decay holds for cross-entropy and a large start, as in Lyu et al.

Departure: p = 23, 70 % of the pairs and 96 quadratic units, which are smooth: the network is homogeneous of degree 3.
The rate follows the loss (a share of 1/mean (1 − p_y)‖∂f‖², at most h/λ), so that a run takes thousands of steps and
not millions; time is the sum of the rates. The start is large (entries N(0, α²/2p), α >= 4), since the law is one of
large α. Once the data are fitted all depends on α exp(−λt), up to the size of the margins, ln(1/λ) less a constant:
λt* = ln α + C, and C falls by a third of the ln of that size, so that t* grows a little less than 1/λ. Each unit k
keeps ‖W1_k‖² − 2‖W2_k‖² but for the decay, which in the flow multiplies it by exp(−2λt): that measures what the steps
miss. The time to fit scatters, as the rate is near what is stable then. Runs that use up their steps before
λt = ln α + 4 (α = 12, and λ = 1e-6 at α = 8) are left out, and counted, where accuracy is judged at that time. There is
no oracle for the test accuracy: the 0.9 asked for there is a chosen number, the other bands are those of the time law.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, log_spaced
from research.experiment import Experiment, Finding
from research.labels import chosen_per_seed, largest, per_seed, select, sound, table
from research.statistics import crossing, every_seed, slope, slope_within

HALF = 0.5  # the test accuracy at which the network groks
FITTED = 0.99  # the training accuracy at which the data are fitted
CAP = 0.01  # of λt in one step, at most
BEYOND = 4.0  # what is run of λt beyond ln α
SPREAD = 100.0  # how many times the trace of the curvature exceeds its largest eigenvalue, at least


class Observables(NamedTuple):
    clock: Float[Array, ""]
    loss: Float[Array, ""]
    train_accuracy: Float[Array, ""]
    test_accuracy: Float[Array, ""]
    length: Float[Array, ""]
    imbalance: Float[Array, ""]


class Weights(NamedTuple):
    first: Float[Array, "input unit"]
    last: Float[Array, "unit label"]


def simulate(
    key: Array,
    init_scale: float,
    weight_decay: float,
    coupled: float = 1.0,
    decoupled: float = 0.0,
    learning_rate: float = 2.0,
    *,
    modulus: int = 23,
    share: float = 0.7,
    units: int = 96,
    steps: int = 4000,
) -> Run:
    """One full-batch descent on the mean cross-entropy + coupled λ/2 ‖weights‖², logits (x W1)² W2.

    x two one-hot codes. The rate is learning_rate · SPREAD / mean (1 − p_y)‖∂f‖², at most CAP/λ. `clock` is λt,
    `length` the norm of all weights, `imbalance` the sum over the units of ‖W1_k‖² − 2‖W2_k‖². `decoupled` decay takes
    the share decoupled · 500 λ off the weights in each step, whatever the rate. Ends at λt = ln init_scale + BEYOND.
    """
    data_key, init_key = jax.random.split(key)
    pairs = jax.random.permutation(data_key, modulus**2)
    one, other = pairs // modulus, pairs % modulus
    y = (one + other) % modulus
    X = jnp.concatenate([jax.nn.one_hot(one, modulus), jax.nn.one_hot(other, modulus)], axis=1)
    seen = int(share * modulus**2)
    inputs, labels = X[:seen], y[:seen]
    first = init_scale * jax.random.normal(init_key, (2 * modulus, units)) / (2 * modulus) ** 0.5
    logits = lambda weights, X: (X @ weights.first) ** 2 @ weights.last

    def loss(weights: Weights) -> tuple[Array, Array]:
        sums = inputs @ weights.first
        chances = jax.nn.log_softmax(sums**2 @ weights.last)
        right = jnp.take_along_axis(chances, labels[:, None], axis=1)[:, 0]
        # ‖∂f‖²: by W1, over all labels' logits, 4 sums² W2² for each of the two codes; by W2 the units' squares, of one
        # logit alone, as all p have the same: so the rate is up to p times what the whole ‖∂f‖² would make it
        size = (sums**4).sum(axis=1) + 8 * (sums**2 @ (weights.last**2).sum(axis=1))
        return -right.mean(), jnp.mean(-jnp.expm1(right) * size)

    def step(state: tuple[Weights, Array]) -> tuple[Weights, Array]:
        weights, clock = state
        gradient, trace = jax.grad(loss, has_aux=True)(weights)
        rate = jnp.minimum(learning_rate * SPREAD / trace, CAP / weight_decay)
        optimizer = optax.chain(
            optax.add_decayed_weights(coupled * weight_decay),
            optax.sgd(rate),
            optax.add_decayed_weights(-500 * decoupled * weight_decay),
        )
        updates, _ = optimizer.update(gradient, optimizer.init(weights), weights)
        return optax.apply_updates(weights, updates), clock + weight_decay * rate

    def observe(state: tuple[Weights, Array]) -> Observables:
        weights, clock = state
        right = jnp.argmax(logits(weights, X), axis=1) == y
        imbalance = jnp.sum(weights.first**2) - 2 * jnp.sum(weights.last**2)
        accuracies = right[:seen].astype(first.dtype).mean(), right[seen:].astype(first.dtype).mean()
        return Observables(clock, loss(weights)[0], *accuracies, optax.tree.norm(weights), imbalance)

    start = (Weights(first, jnp.zeros((units, modulus))), jnp.zeros(()))
    at = np.union1d(log_spaced(steps, 40), np.arange(0, steps + 1, 20))
    return Run(start, step, observe, at, stop=lambda state: state[1] > jnp.log(init_scale) + BEYOND)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """When the data are fitted, when the network groks, what it knows in between, how well the steps keep time."""
    dataset = sound(dataset)
    clock, logarithm = dataset.clock, np.log(dataset.init_scale)
    cores = [["step"], ["step"], []]
    when = lambda values, level: xr.apply_ufunc(crossing, clock, values, level, input_core_dims=cores, vectorize=True)
    fitted, grokked = when(dataset.train_accuracy, FITTED), when(dataset.test_accuracy, HALF)
    plateau = (clock > fitted) & (clock < 0.5 * logarithm)
    last = logarithm + BEYOND
    when_at = lambda clock, values, at: xr.apply_ufunc(_at, clock, values, at, input_core_dims=cores, vectorize=True)
    lost = -np.log(dataset.imbalance.clip(1e-30) / dataset.imbalance.isel(step=0)) / 2
    early = (clock > 0.5 * logarithm) & (clock < logarithm)
    return dataset.assign(
        scaled=clock / logarithm,
        fitted=fitted,
        grokked=grokked,
        ratio=np.log(grokked / fitted),
        time=grokked / dataset.weight_decay,
        plateau=dataset.test_accuracy.where(plateau).mean("step"),
        end=when_at(clock, dataset.test_accuracy, last),
        short=clock.max("step") < last,
        kept=slope_within(clock, lost, early),
    )


def _at(clock: np.ndarray, values: np.ndarray, at: float) -> float:
    """The value at that time, linear between recordings; NaN where the run does not get there."""
    known = np.isfinite(clock) & np.isfinite(values)
    return float(np.interp(at, clock[known], values[known], right=np.nan)) if known.any() else np.nan


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The power of 1/λ in the time and in the delay, ln α, chance before, all after, nothing without decay."""
    found: list[Finding] = []
    kept = select(dataset, coupled=0.0, decoupled=0.0)
    runs = select(dataset, **{"coupled" if np.any(dataset.coupled == 1.0) else "decoupled": 1.0})
    runs = largest(runs, "learning_rate")
    chance = 1 / float(np.max(dataset.modulus))

    def add(what: str, band: tuple[float, float], values: np.ndarray) -> None:
        found.append(Finding.of(what, band, every_seed(values)))

    decays = np.unique(runs.weight_decay.values) if runs.diverged.size else np.zeros(0)
    powers: dict[str, list[np.ndarray]] = {"time": [], "ratio": []}
    for scale in np.unique(runs.init_scale.values).tolist() if decays.size > 1 else []:
        some = select(runs, init_scale=scale)
        if np.unique(some.weight_decay.values).size == decays.size:
            for name, values in powers.items():
                rows = table(some, name, "weight_decay").values
                values.append(slope(-np.log(decays), np.log(rows) if name == "time" else rows))
    if powers["time"]:
        said = f"λ from {decays[-1]:g} to {decays[0]:g}, a seed's least and largest over α:"
        both = {name: np.concatenate([np.min(rows, axis=0), np.max(rows, axis=0)]) for name, rows in powers.items()}
        # C takes 1/(3 Λ λt*) off the power, Λ the size of the margins: above 4 where the loss is below e^-4 = 0.02
        # throughout, and λt* above ln α = 1.4.
        add(f"{said} power of 1/λ with which the time to grok grows", (0.94, 1.0), both["time"])
        add(f"{said} power of 1/λ in its ratio to the time to fit", (0.94, 1.06), both["ratio"])
    middle = float(decays[decays.size // 2]) if decays.size else 0.0
    along = table(select(runs, weight_decay=middle), "grokked", "init_scale")
    if along.init_scale.size > 1:
        logs = np.log(along.init_scale.values)
        # While the data are being fitted the weights grow by a share of order 1/α: 0.1 of a range of 1.1 in ln α.
        what = f"α from {np.exp(logs[0]):g} to {np.exp(logs[-1]):g}, λ = {middle:g}: slope of λt* on ln α"
        add(what, (0.9, 1.1), slope(logs, along.values))
    if runs.diverged.size:
        add("plateau up to λt = ln α / 2: test accuracy, a seed's largest", (0.0, chance), per_seed(runs.plateau))
        short, there = int(runs.short.sum()), ~runs.short
        if there.any():
            told = f" ({short} of {runs.short.size} runs end before and are left out)" if short else ""
            what = f"test accuracy at λt = ln α + {BEYOND:g}, a seed's least{told}"
            add(what, (0.9, 1.0), chosen_per_seed(runs.end, there, "min"))
        wrong = np.concatenate([per_seed(runs.kept, each) for each in ("min", "max")])
        add("slope of −½ ln(imbalance) on λt from ½ ln α to ln α, where the flow has 1", (0.97, 1.03), wrong)
    rates = np.unique(dataset.learning_rate.values)
    if rates.size > 1:
        halved = select(dataset, learning_rate=float(rates[0]))
        place = {name: float(np.unique(halved[name])[0]) for name in ("init_scale", "weight_decay")}
        whole = select(runs, **place).grokked
        add("λt* at half the rate over that at the full rate", (0.97, 1.03), per_seed(halved.grokked) / per_seed(whole))
    if kept.diverged.size and not kept.short.all():
        what = f"cross-entropy, α = {float(np.max(kept.init_scale)):g}, no weight decay: test accuracy at that time"
        add(what, (0.0, HALF), chosen_per_seed(kept.end, ~kept.short, "max"))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Lyu's figure 2: (a) grokking, (b) the collapse in λ; the time to grok (c) against λ and (d) against α."""
    figure, ((single, collapse), (times, law)) = plots.figure(2, 2, "Modular addition is learnt when the start is gone")
    runs, kept = select(dataset, coupled=1.0), select(dataset, coupled=0.0, decoupled=0.0)
    runs = largest(runs, "learning_rate")
    decays, scales = (np.unique(runs[name].values) for name in ("weight_decay", "init_scale"))
    scale = float(scales[len(scales) // 2]) if scales.size else 0.0
    place = {"init_scale": scale, "weight_decay": float(decays[(decays.size - 1) // 2]) if decays.size else 0.0}
    if kept.diverged.size:
        place = {name: float(np.max(kept[name])) for name in place}
    for number, decay in enumerate(decays[::-1].tolist()):
        for some in _curves(select(runs, init_scale=scale, weight_decay=decay)):
            plots.seeds(collapse, some.test_accuracy, f"λ = {decay:g}", color=f"C{number}")
    for some in _curves(select(runs, **place)):
        plots.seeds(single, some.train_accuracy, "training", color="C0")
        plots.seeds(single, some.test_accuracy, "test", color="C1")
    for some in _curves(select(kept, **place)):
        plots.seeds(single, some.test_accuracy, "test, no weight decay", color="C6", linestyle=":")
    single.set_title(f"a  α = {place['init_scale']:g}, λ = {place['weight_decay']:g}")
    chance = 1 / float(np.max(dataset.modulus))
    for axes, start in ((single, place["init_scale"]), (collapse, scale)):
        axes.axhline(chance, color="black", linestyle=":", linewidth=1.2, label="chance")
        axes.axvline(np.log(start) if start else 1.0, color="black", linewidth=1, label="λt = ln α")
        axes.set(xlabel="λt", ylabel="accuracy", ylim=(-0.03, 1.05))
    single.set_xscale("log")
    collapse.set_title(f"b  test accuracy, α = {scale:g}")
    for number, value in enumerate(scales.tolist()):
        some = select(runs, init_scale=value)
        plots.points(times, some.weight_decay, some.time, f"α = {value:g}: to grok", color=f"C{number + 1}")
        if number == len(scales) // 2:
            plots.points(times, some.weight_decay, some.fitted / some.weight_decay, "to fit", color="C0")
            level = float((some.time * some.weight_decay).median())
            plots.theory(times, decays, level / decays, "1/λ")
    for number, decay in enumerate(decays[::-1].tolist()):
        some = select(runs, weight_decay=decay)
        plots.points(law, some.init_scale, some.grokked, f"λ = {decay:g}", color=f"C{number}")
    if scales.size:
        rest = float((runs.grokked - np.log(runs.init_scale)).median())
        plots.theory(law, scales, np.log(scales) + rest, f"ln α + {rest:.2f}: slope 1")
        plots.theory(law, scales, np.log(scales), "ln α, of which λt* is 1 + o(1) times", linestyle="-")
    times.set(title="c  the delay grows as 1/λ", xscale="log", yscale="log", xlabel="weight decay λ", ylabel="time")
    law.set(title="d  and as ln α", xscale="log", xlabel="α, the scale of the start", ylabel="λt*")
    for axes in (single, collapse, times, law):
        plots.legend(axes, **({"loc": "upper left"} if axes is law else {}))
    return figure


def _curves(runs: xr.Dataset) -> list[xr.Dataset]:
    """The first of the runs, if any, its recordings interpolated to times that all seeds share."""
    if not runs.diverged.size:
        return []
    runs = runs.isel({each: 0 for each in runs.diverged.dims if each != "seed"})[
        ["clock", "train_accuracy", "test_accuracy"]
    ]
    shared = np.geomspace(1e-4, float(runs.clock.max("step").min()), 400)
    across = lambda clock, values: np.interp(shared, clock, values)
    made = xr.apply_ufunc(
        across,
        runs.clock,
        runs,
        input_core_dims=[["step"], ["step"]],
        output_core_dims=[["clock_time"]],
        vectorize=True,
    )
    return [made.drop_vars("clock").assign_coords(clock_time=shared)]


AXES = ("init_scale", "weight_decay", "coupled", "learning_rate")
ARMS = [
    *((scale, decay, 1.0, 2.0) for scale in (4.0, 8.0) for decay in (1e-4, 1e-5, 1e-6)),
    (6.0, 1e-5, 1.0, 2.0),
    (12.0, 1e-5, 1.0, 2.0),
    (4.0, 1e-5, 1.0, 1.0),
    (4.0, 1e-5, 0.0, 2.0),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, "modulus": 17, "units": 64, "steps": 1000, AXES: [ARMS[0], ARMS[1]]},
    paper={"modulus": 97, "share": 0.4, "units": 1024, "steps": 100_000, AXES: ARMS},
    control={"coupled": 0.0, "decoupled": 1.0, "weight_decay": (1e-5, 2e-5)},
    precision="float32",
)
