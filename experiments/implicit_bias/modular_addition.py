"""Modular addition: weight decay λ makes a network grok at the time (ln α + C)/λ, long after it has fitted its data.

Claim: A network with one hidden layer that is to learn a + b mod p from a part of all pairs fits these within a time
that weight decay does not enter, at a test accuracy no better than chance. Only when the decay has taken its large
start away, at a time of order ln α / λ, α the scale of the start, does the test accuracy rise, within a time of order
1/λ. So the delay grows as 1/λ, and test curves over λt collapse. Without weight decay cross-entropy does not make it
generalise in that time; squared error does, from a small start, and is said to make it grok.

Source: Lyu, Jin, Li, Du, Lee & Hu 2024, arXiv 2311.18817, section 2 and figure 2 (p = 97, 3763 pairs, 1024 ReLU
units, λ = 1e-4, cross-entropy, gradient descent; for α > 1 the last layer is 0 at the start). Theorems 3.4 and 3.5 give
the time ln α / λ for homogeneous smooth networks, binary labels, exponential loss and λ = Θ(α^−p). Without decay theirs
grok in the end, from t = 10^100 to 10^10000 (appendix B.1). Quadratic units and squared error: Gromov 2023, arXiv
2301.02679, whose networks grok by plain gradient descent, with no regularisation and from a small start.

Departure: p = 23, 70 % of the pairs and 96 quadratic units, which are smooth: the network is homogeneous of degree 3;
beside them ReLUs (degree 2). The rate follows the loss (by 1/mean c‖∂f‖², research/residues.py, at most h/λ), so
that a run takes thousands of steps and not millions; time is the sum of the rates. The start is large (entries
N(0, α²/2p), α >= 4), since the law is one of large α; α and λ vary one at a time. Once the data are fitted all depends
on α exp(−λt), up to the size of the margins, ln(1/λ) less a constant: λt* = ln α + C, and C falls by 1/degree of the ln
of that size, so that t* grows a little less than 1/λ. Each unit k keeps ‖W1_k‖² − (degree − 1)‖W2_k‖² but for the
decay, which in the flow multiplies it by exp(−2λt): that measures what the steps miss. The time to fit scatters, near
what is stable. Squared error from α = 0.5 (Gromov: N^(−1/3) = 0.2) makes it generalise, but hardly later than it fits:
over steps, which shorten, it looks late. The 0.9 asked of accuracy and the 3 times of grokking are chosen numbers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.clock import at_time, by_time
from research.dynamics import Run, log_spaced
from research.experiment import Experiment, Finding
from research.labels import arms, chosen_per_seed, first_arm, largest, per_seed, select, sound, table
from research.residues import Activation, Objective, Weights, loss_and_trace, modular_sums, outputs
from research.statistics import crossing, every_seed, slope, slope_within

HALF = 0.5  # the test accuracy at which the network groks, or at least generalises
FITTED = 0.99  # the training accuracy at which the data are fitted
LATER = 3.0  # how many times the time to fit this takes if it is to count as grokking
CAP = 0.01  # of λt in one step, at most
SPELT = {"squared_error": "squared error", "cross_entropy": "cross-entropy"}
BEYOND = {"quadratic": 4.0, "relu": 6.0}  # what is run of λt beyond ln α
# How many times the trace exceeds the largest curvature, at least; of squared error as E u⁴ is 3 (E u²)².
SPREAD = {"quadratic": 100.0, "relu": 300.0, "squared_error": 3.0}


class Observables(NamedTuple):
    clock: Float[Array, ""]
    loss: Float[Array, ""]
    train_accuracy: Float[Array, ""]
    test_accuracy: Float[Array, ""]
    length: Float[Array, ""]
    imbalance: Float[Array, ""]


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
    activation: Activation = "quadratic",
    objective: Objective = "cross_entropy",
) -> Run:
    """One full-batch descent on the mean loss + coupled λ/2 ‖weights‖², logits φ(x W1) W2, x two one-hot codes.

    The rate is learning_rate · SPREAD over the trace (research/residues.py), at most CAP/λ. `clock` is λt, `length`
    the weights' norm, `imbalance` the sum over units of ‖W1_k‖² − (degree − 1)‖W2_k‖². `decoupled` decay takes the
    part decoupled · 500 λ off the weights in each step, whatever the rate. Ends at λt = ln init_scale + BEYOND.
    """
    data_key, init_key = jax.random.split(key)
    X, y = modular_sums(data_key, modulus)
    seen = int(share * modulus**2)
    loss = lambda weights: loss_and_trace(weights, X[:seen], y[:seen], activation, objective)
    spread = SPREAD[objective if objective == "squared_error" else activation]
    first = init_scale * jax.random.normal(init_key, (2 * modulus, units)) / (2 * modulus) ** 0.5

    def step(state: tuple[Weights, Array]) -> tuple[Weights, Array]:
        weights, clock = state
        gradient, trace = jax.grad(loss, has_aux=True)(weights)
        rate = jnp.minimum(learning_rate * spread / trace, CAP / weight_decay)
        before, after = (optax.add_decayed_weights(part * weight_decay) for part in (coupled, -500 * decoupled))
        optimizer = optax.chain(before, optax.sgd(rate), after)
        updates, _ = optimizer.update(gradient, optimizer.init(weights), weights)
        return optax.apply_updates(weights, updates), clock + weight_decay * rate

    def observe(state: tuple[Weights, Array]) -> Observables:
        weights, clock = state
        right = jnp.argmax(outputs(weights, X, activation), axis=1) == y
        imbalance = jnp.sum(weights.first**2) - (2 if activation == "quadratic" else 1) * jnp.sum(weights.last**2)
        accuracies = right[:seen].astype(first.dtype).mean(), right[seen:].astype(first.dtype).mean()
        return Observables(clock, loss(weights)[0], *accuracies, optax.tree.norm(weights), imbalance)

    start = (Weights(first, jnp.zeros((units, modulus))), jnp.zeros(()))
    at = np.union1d(log_spaced(steps, 40), np.arange(0, steps + 1, 20))
    return Run(start, step, observe, at, stop=lambda state: state[1] > jnp.log(init_scale) + BEYOND[activation])


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """When the data are fitted, when the network groks, what it knows in between, how well the steps keep time."""
    dataset = sound(dataset)
    clock, logarithm = dataset.clock, np.log(dataset.init_scale)
    cores = [["step"], ["step"], []]
    when = lambda values, level: xr.apply_ufunc(crossing, clock, values, level, input_core_dims=cores, vectorize=True)
    fitted, grokked = when(dataset.train_accuracy, FITTED), when(dataset.test_accuracy, HALF)
    plateau = (clock > fitted) & (clock < 0.5 * logarithm)
    last = logarithm + xr.where(dataset.activation == "relu", BEYOND["relu"], BEYOND["quadratic"])
    lost = -np.log(dataset.imbalance.clip(1e-30) / dataset.imbalance.isel(step=0)) / 2
    early = (clock > 0.5 * logarithm) & (clock < logarithm)
    return dataset.assign(fitted=fitted, grokked=grokked, short=clock.max("step") < last).assign(
        ratio=np.log(grokked / fitted),
        log_time=np.log(grokked / dataset.weight_decay),
        plateau=dataset.test_accuracy.where(plateau).mean("step"),
        end=at_time(clock, dataset.test_accuracy, last),
        rise=at_time(clock, dataset.test_accuracy, last) - at_time(clock, dataset.test_accuracy, last - 1),
        final=dataset.test_accuracy.sel(step=dataset.steps),
        kept=slope_within(clock, lost, early),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The power of 1/λ in the time and in the delay, ln α, chance before, all after; no decay, and other networks."""
    found: list[Finding] = []
    relu, dataset, free = _parts(dataset)
    kept = select(dataset, coupled=0.0, decoupled=0.0)
    runs = select(dataset, **{"coupled" if np.any(dataset.coupled == 1.0) else "decoupled": 1.0})
    runs = largest(runs, "learning_rate")
    chance = 1 / float(np.max(dataset.modulus))

    def add(what: str, band: tuple[float, float], values: np.ndarray) -> None:
        found.append(Finding.of(what, band, every_seed(values)))

    decays = np.unique(runs.weight_decay.values) if runs.diverged.size else np.zeros(0)
    each = [select(runs, init_scale=scale) for scale in np.unique(runs.init_scale.values).tolist()]
    each = [some for some in each if np.unique(some.weight_decay.values).size == decays.size > 1]
    if each:
        said = f"λ from {decays[-1]:g} to {decays[0]:g}, a seed's least and largest over α: power of 1/λ"
        powers = {variable: np.stack([_power(some, variable) for some in each]) for variable in ("log_time", "ratio")}
        # C takes 1/(3 Λ λt*) off the power, Λ the size of the margins: above 4 where the loss is below e^-4 = 0.02
        # throughout, and λt* above ln α = 1.4.
        add(f"{said} with which the time to grok grows", (0.94, 1.0), powers["log_time"])
        add(f"{said} in its ratio to the time to fit", (0.94, 1.06), powers["ratio"])
    middle = float(decays[decays.size // 2]) if decays.size else 0.0
    along = table(select(runs, weight_decay=middle), "grokked", "init_scale")
    if along.init_scale.size > 1:
        logs = np.log(along.init_scale.values)
        # While the data are being fitted the weights grow by a share of order 1/α: 0.1 of a range of 1.1 in ln α.
        what = f"α from {np.exp(logs[0]):g} to {np.exp(logs[-1]):g}, λ = {middle:g}: slope of λt* on ln α"
        add(what, (0.9, 1.1), slope(logs, along.values))
    if runs.diverged.size:
        add("plateau up to λt = ln α / 2: test accuracy, a seed's largest", (0.0, chance), per_seed(runs.plateau))
        if (~runs.short).any():
            what = f"test accuracy at λt = ln α + {BEYOND['quadratic']:g}, a seed's least{_left_out(runs)}"
            add(what, (0.9, 1.0), chosen_per_seed(runs.end, ~runs.short, "min"))
        what = "slope of −½ ln(imbalance) on λt from ½ ln α to ln α, where the flow has 1"
        add(what, (0.97, 1.03), per_seed(runs.kept, "min", "max"))
    rates = np.unique(dataset.learning_rate.values)
    if rates.size > 1:
        halved = select(dataset, learning_rate=float(rates[0]))
        place = {name: float(np.unique(halved[name])[0]) for name in ("init_scale", "weight_decay")}
        whole = select(runs, **place).grokked
        add("λt* at half the rate over that at the full rate", (0.97, 1.03), per_seed(halved.grokked) / per_seed(whole))
    if kept.diverged.size and not kept.short.all():
        what = f"cross-entropy, α = {float(np.max(kept.init_scale)):g}, no weight decay: test accuracy at that time"
        add(what, (0.0, HALF), chosen_per_seed(kept.end, ~kept.short, "max"))
    for name, runs in free.items():
        what, squared = f"{name}, α = {float(np.max(runs.init_scale)):g}, no weight decay: ", name == "squared error"
        end = f"test accuracy at the end, t = {float((runs.clock.max('step') / runs.weight_decay).median()):.2g}"
        add(f"{what}{end}", (0.9, 1.0) if squared else (0.0, HALF), per_seed(runs.final))
        if squared:
            add(f"{what}time to test accuracy {HALF:g} over that to fit", (LATER, np.inf), per_seed(np.exp(runs.ratio)))
    if relu.diverged.size and np.unique(relu.weight_decay.values).size > 1:
        # As above: C takes 1/(2 Λ λt*) off the power.
        add("ReLU: power of 1/λ with which the time to grok grows", (0.91, 1.0), _power(relu, "log_time"))
        add("ReLU: test accuracy up to λt = ln α / 2, a seed's largest", (0.0, chance), per_seed(relu.plateau))
        what, rise = f"ReLU: test accuracy at λt = ln α + {BEYOND['relu']:g}, a seed's least", float(relu.rise.min())
        outlook = f"it still rises, by {rise:.2f} at least for each unit of λt" if rise > 0 else ""
        found.append(Finding.of(what, (0.9, 1.0), every_seed(per_seed(relu.end, "min")), outlook))
    return found


def _left_out(runs: xr.Dataset) -> str:
    """How many runs of which arms end before their last accuracy can be judged."""
    short = [(point, int(some.short.sum()), some.short.size) for point, some in arms(runs)]
    names = [f"{n} of {of} with α = {at['init_scale']:g}, λ = {at['weight_decay']:g}" for at, n, of in short if n]
    return f" (end before and are left out: {'; '.join(names)})" if names else ""


def _power(runs: xr.Dataset, logarithm: str) -> np.ndarray:
    """Of every seed the power of 1/λ in what has that logarithm."""
    return slope(-np.log(np.unique(runs.weight_decay.values)), table(runs, logarithm, "weight_decay").values)


def _parts(dataset: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset, dict[str, xr.Dataset]]:
    """ReLUs with decay; quadratic units under cross-entropy from large starts; from small ones without, by loss."""
    smooth = select(dataset, activation="quadratic")
    large, small = (select(smooth, init_scale=which) for which in (lambda scale: scale >= 1, lambda scale: scale < 1))
    free = {SPELT[name]: select(small, coupled=0.0, decoupled=0.0, objective=name) for name in SPELT}
    relu = select(dataset, activation="relu", coupled=1.0)
    return relu, select(large, objective="cross_entropy"), {k: runs for k, runs in free.items() if runs.diverged.size}


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Lyu's figure 2: (a) grokking, (b) collapse in λ; (c) no decay; the time against (d) λ and (e) α; (f) ReLU."""
    figure, panels = plots.figure(2, 3, "Modular addition is learnt when the start is gone")
    (single, collapse, small), (times, law, kinked) = panels
    relu, dataset, free = _parts(dataset)
    runs = largest(select(dataset, coupled=1.0), "learning_rate")
    kept = select(dataset, coupled=0.0, decoupled=0.0)
    decays, scales = (np.unique(runs[name].values) for name in ("weight_decay", "init_scale"))
    scale = float(scales[len(scales) // 2]) if scales.size else 0.0
    place = {"init_scale": scale, "weight_decay": float(decays[(decays.size - 1) // 2]) if decays.size else 0.0}
    if kept.diverged.size:
        place = {name: float(np.max(kept[name])) for name in place}
    for number, decay in enumerate(decays[::-1].tolist()):
        for some in _curves(select(runs, init_scale=scale, weight_decay=decay)):
            plots.seeds(collapse, some.test_accuracy, f"λ = {decay:g}", color=f"C{number}")
        some = select(runs, weight_decay=decay)
        plots.points(law, some.init_scale, some.grokked, f"λ = {decay:g}", color=f"C{number}")
    for some in _curves(select(runs, **place)):
        plots.seeds(single, some.train_accuracy, "training", color="C0")
        plots.seeds(single, some.test_accuracy, "test", color="C1")
    for some in _curves(select(kept, **place)):
        plots.seeds(single, some.test_accuracy, "test, no weight decay", color="C6", linestyle=":")
    single.set(title=f"a  α = {place['init_scale']:g}, λ = {place['weight_decay']:g}", xscale="log")
    bent = float(relu.init_scale.max()) if relu.diverged.size else 0.0
    for axes, start in ((single, place["init_scale"]), (collapse, scale), (kinked, bent), (small, 0.0)):
        axes.axhline(1 / float(np.max(dataset.modulus)), color="black", linestyle=":", linewidth=1.2, label="chance")
        axes.set(xlabel="time t" if axes is small else "λt", ylabel="accuracy", ylim=(-0.03, 1.05))
        if start:
            axes.axvline(np.log(start), color="black", linewidth=1, label="λt = ln α")
    collapse.set_title(f"b  test accuracy, α = {scale:g}")
    for number, value in enumerate(scales.tolist()):
        some = select(runs, init_scale=value)
        plots.points(times, some.weight_decay, np.exp(some.log_time), f"α = {value:g}: to grok", color=f"C{number + 1}")
        if number == len(scales) // 2:
            plots.points(times, some.weight_decay, some.fitted / some.weight_decay, "to fit", color="C0")
            plots.theory(times, decays, float(some.grokked.median()) / decays, "1/λ")
    if scales.size:
        rest = float((runs.grokked - np.log(runs.init_scale)).median())
        plots.theory(law, scales, np.log(scales) + rest, f"ln α + {rest:.2f}: slope 1")
        plots.theory(law, scales, np.log(scales), "ln α, of which λt* is 1 + o(1) times", linestyle="-")
    times.set(title="d  the delay grows as 1/λ", xscale="log", yscale="log", xlabel="weight decay λ", ylabel="time")
    law.set(title="e  and as ln α", xscale="log", xlabel="α, the scale of the start", ylabel="λt*")
    for name, runs in free.items():
        for some in _curves(runs.assign(clock=runs.clock / runs.weight_decay), 100.0):
            color = "C1" if name == "squared error" else "C6"
            plots.seeds(small, some.train_accuracy, f"{name}, training", color=color, linestyle="--")
            plots.seeds(small, some.test_accuracy, f"{name}, test", color=color)
        small.set(title=f"c  no weight decay, α = {float(np.max(runs.init_scale)):g}", xscale="log")
    for number, decay in enumerate(np.unique(relu.weight_decay.values)[::-1].tolist() if bent else []):
        for some in _curves(select(relu, weight_decay=decay)):
            plots.seeds(kinked, some.test_accuracy, f"test, λ = {decay:g}", color=f"C{number}")
    kinked.set_title(f"f  ReLU, α = {bent:g}")
    for axes in panels.ravel():
        plots.legend(axes, **({"loc": "upper left"} if axes is law else {}))
    return figure


def _curves(runs: xr.Dataset, first: float = 1e-4) -> list[xr.Dataset]:
    """The accuracies of the first of the runs, if any, at times from `first` on that all seeds share."""
    if not runs.diverged.size:
        return []
    runs = first_arm(runs)
    shared = np.geomspace(first, float(runs.clock.max("step").min()), 400)
    return [xr.Dataset({name: by_time(runs[name], runs.clock, shared) for name in ("train_accuracy", "test_accuracy")})]


AXES = ("init_scale", "weight_decay", "coupled", "learning_rate", "activation", "objective")
PLAIN = ("quadratic", "cross_entropy")
ARMS = [
    *((scale, decay, 1.0, 2.0, *PLAIN) for scale in (4.0, 8.0) for decay in (1e-4, 1e-5, 1e-6)),
    *((scale, 1e-5, 1.0, 2.0, *PLAIN) for scale in (6.0, 12.0)),
    *((4.0, 1e-5, coupled, rate, *PLAIN) for coupled, rate in ((1.0, 1.0), (0.0, 2.0))),
    *((0.5, 1e-5, 0.0, 2.0, "quadratic", objective) for objective in ("cross_entropy", "squared_error")),
    *((4.0, decay, 1.0, 2.0, "relu", "cross_entropy") for decay in (1e-4, 1e-5)),
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
