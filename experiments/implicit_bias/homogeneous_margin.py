"""Smooth homogeneous networks raise their smoothed margin by every short step, and approach a stationary one.

Claim: Let f(cθ) = c^L f(θ). Once the loss 𝓛 = Σ exp(−q_n) of the margins q_n is below 1, gradient flow never lowers
the smoothed normalised margin γ̃ = ln(1/𝓛)/‖θ‖^L, and the direction of θ tends to points that meet the
Karush–Kuhn–Tucker conditions of min ‖θ‖² at margin 1. For descent on smooth networks by small steps the same is proved
of a function that tends to γ̃; what a step misses of the flow's growth, more than which it cannot fall by, is O(η²).

Source: Lyu & Li 2020, arXiv 1906.05890: Theorems 4.1 (flow, all times after the first 𝓛 < 1), 4.2 (descent, networks
twice differentiable) and 4.4 (conditions), Lemma 5.1; figure 1. The law of the growth is derived here in research/
oracles/margin_stationarity.py: Lemma 5.1 with what it leaves out, the entropy of the samples' shares in the loss.

Departure: Two layers in place of a convolutional network; 24 digits, 3 against 8, with a constant feature. Quadratic
units (L = 3) are smooth; squared ReLU (L = 3) lacks a second derivative at zero, ReLU (L = 2) the first: there the
theorems are on the flow. Besides the constant rate on 𝓛 and a loss-based one (on ln 𝓛, times 2^(1/5) after a step that
lowers it, else undone and over 2^(1/10); the authors judge epochs, not steps) there are scaled steps, η‖θ‖^(2−2L) on ln
𝓛, which follow the flow at a steady pace. Steps too long for Theorem 4.2 (loss-based, η = 1000) lower γ̃ every other
time, and raise it as a whole: there the theorem ends. By any one gradient the conditions stay violated for ReLU, since
units rest with samples on their kinks, where descent goes to and fro (which the law counts as way); by Clarke's
subdifferential, as in the theorem, they are approached as by smooth units, but no run meets the 0.01 asked for yet.
Loss-based steps throw units off their kinks, and lead most runs of both ReLUs to no such point, but to ln(1/𝓛) > 10¹².
The miss is a power of η, 2 or, at kinks, 1, in runs no step of which lowers γ̃: a bound on falls, not their size. That
0.01 and the bands of those powers are conventions. With a linear path (`skip`), not homogeneous, γ̃ falls.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, log_spaced
from research.experiment import Experiment, Finding
from research.labels import arms, lift, per_seed, select, sound, table
from research.observables.homogeneity import MarginPath, followed, normalized_margin, smoothed_margin
from research.oracles.margin_stationarity import DEGREES, margin_growth, two_layer_residual
from research.separable import Labelled, standardized_sample
from research.statistics import every_seed, slope, slope_within

CONSTANT, LOSS_BASED, SCALED = 0.0, 1.0, 2.0
SCHEDULES = {CONSTANT: "constant rate", LOSS_BASED: "loss-based rate", SCALED: "scaled steps"}
SPELT = {"quadratic": "quadratic", "squared_relu": "squared ReLU", "relu": "ReLU"}
KINK = 1e-3  # the cosine of unit and sample below which the sample lies on the unit's kink
RESOLVED = 1e12  # ln(1/𝓛) beyond which float64 no longer tells whether a step lowers 𝓛
SHORT = 50.0  # the largest η of scaled steps that follow the flow
STRETCH = 10.0  # ln(1/𝓛) up to which a step's miss is looked at: all rates pass the same way, from 1 on
# The power of η in the miss, and by convention where it may lie: O(η²) is a bound; where kinks lie in a step is random.
ORDERS = {"quadratic": (2, (1.9, np.inf)), "relu": (1, (0.5, 1.5))}
REACHED = 0.01  # the residual at which the conditions count as met


class Observables(NamedTuple):
    smoothed: Float[Array, ""]
    margin: Float[Array, ""]
    log_loss: Float[Array, ""]
    length: Float[Array, ""]
    growth: Float[Array, ""]
    turned: Float[Array, ""]
    spread: Float[Array, ""]
    fitted: Float[Array, ""]
    falls: Float[Array, ""]
    missed: Float[Array, ""]
    hidden: Float[Array, "unit feature"]
    readout: Float[Array, "unit"]


class Path(NamedTuple):
    """Parameters, ln 𝓛, its gradient, the margins; the rate; and what became of γ̃ on the way."""

    params: Array
    value: Array
    gradient: Array
    seen: Array
    rate: Array
    way: MarginPath


def simulate(
    key: Array,
    schedule: float = SCALED,
    learning_rate: float = 30.0,
    skip: float = 0.0,
    until: float = RESOLVED,
    init_scale: float = 1.0,
    *,
    activation: Literal["quadratic", "squared_relu", "relu"] = "quadratic",
    width: int = 12,
    samples: int = 24,
    steps: int = 10_000,
) -> Run:
    """One descent of Σ_j a_j φ(w_j·x) + skip · v·x on Σ exp(−margin); `schedule` is 0 constant, 1 loss-based, 2 scaled.

    Entries start as N(0, init_scale²/fan_in), v at zero; inputs have norm 1. A run ends at ln(1/𝓛) > `until`.
    """
    data_key, init_key = jax.random.split(key)
    X, y = standardized_sample(data_key, "digits", samples)
    X = X / jnp.linalg.norm(X, axis=1, keepdims=True)
    degree = DEGREES[activation]
    unit = (lambda u: u**2) if activation == "quadratic" else (lambda u: jax.nn.relu(u) ** (degree - 1))
    draw = init_scale * jax.random.normal(init_key, (width, X.shape[1] + 1))
    drawn = jnp.concatenate([draw[:, :1] / width**0.5, draw[:, 1:] / X.shape[1] ** 0.5], axis=1)
    params = jnp.concatenate([drawn, jnp.zeros_like(draw[:1])])  # a row a unit, its readout first; the last row is v

    def log_loss(at: Array) -> tuple[Array, Array]:
        seen = y * (unit(X @ at[:-1, 1:].T) @ at[:-1, 0] + skip * (X @ at[-1, 1:]))
        return jax.nn.logsumexp(-seen), seen

    def step(state: Path) -> Path:
        here, rho = state.params, jnp.linalg.norm(state.params)
        rate = jnp.where(schedule == SCALED, learning_rate * rho ** (2.0 - 2 * degree), state.rate)
        rate = jnp.where(schedule == CONSTANT, learning_rate * jnp.exp(state.value), rate)
        there = here - rate * state.gradient
        (value, seen), gradient = jax.value_and_grad(log_loss, has_aux=True)(there)
        lower = value < state.value
        taken = lower | (schedule != LOSS_BASED)
        following = state.rate * jnp.where(schedule == LOSS_BASED, jnp.where(lower, 2**0.2, 2**-0.1), 1.0)
        way = followed(state.way, state.seen, seen, here, there, degree, stretch=STRETCH, taken=taken)
        kept, stepped = (*state[:4], following, way), Path(there, value, gradient, seen, following, way)
        return jax.tree.map(lambda new, old: jnp.where(taken, new, old), stepped, Path(*kept))

    def observe(state: Path) -> Observables:
        seen, rho = state.seen, jnp.linalg.norm(state.params)
        measured = smoothed_margin(seen, rho, degree), normalized_margin(seen, rho, degree), state.value, rho
        return Observables(*measured, *state.way, state.params[:-1, 1:], state.params[:-1, 0])

    (value, seen), gradient = jax.value_and_grad(log_loss, has_aux=True)(params)
    first = Path(params, value, gradient, seen, learning_rate * jnp.ones(()), MarginPath(*jnp.zeros(6)))
    return Run(first, step, observe, log_spaced(steps, 41), Labelled(X, y), lambda state: state.value < -until)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """What the growth of γ̃ should be, and how far the conditions are from being met, by one gradient and Clarke's."""
    dataset = sound(dataset)
    degree = xr.apply_ufunc(lambda name: DEGREES[name], dataset.activation, vectorize=True).astype(float)
    asked = (dataset.skip == 0) & (dataset.until == RESOLVED)
    hidden, readout = dataset.hidden.where(asked), dataset.readout.where(asked)
    judged = lambda kink: lift(two_layer_residual, dataset.X, dataset.y, hidden, readout, dataset.activation, kink=kink)
    clarke, gradient = judged(KINK), judged(0.0)
    foreseen = lift(margin_growth, dataset.turned, dataset.spread, degree)
    ended = dataset.sel(step=dataset.steps)
    return dataset.assign(
        foreseen=foreseen,
        law=(ended.growth / foreseen.sel(step=dataset.steps)).where(ended.fitted > 0),
        share=(ended.falls / ended.fitted.where(ended.fitted > 0)),
        miss=ended.missed.where(ended.log_loss < -STRETCH),
        clarke=clarke,
        gradient=gradient,
        settling=slope_within(np.log(dataset.length), np.log(clarke), dataset.log_loss < -10),  # min q is soft before
    )


def _name(point: dict[str, Any]) -> str:
    """What an arm is called."""
    rate = f"{SCHEDULES[point['schedule']]} {point['learning_rate']:g}"
    return ", ".join([SPELT[point["activation"]], rate, *([f"skip {point['skip']:g}"] * (point["skip"] > 0))])


def _beyond(point: dict[str, Any]) -> list[str]:
    """Why an arm lies beyond Theorem 4.2 on descent, if it does."""
    if point["learning_rate"] > {CONSTANT: np.inf, LOSS_BASED: 0.0, SCALED: SHORT}[point["schedule"]]:
        return ["steps too long for Theorem 4.2"]
    return ["units not smooth, beyond Theorem 4.2"] * (point["activation"] != "quadratic")


def _fitted(runs: xr.Dataset) -> xr.Dataset:
    """The seeds of an arm that reach 𝓛 < 1, of which alone the claim speaks."""
    return runs.isel(seed=np.flatnonzero(runs.fitted.sel(step=runs.steps) > 0))


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The law of the growth, the falls, and the conditions of a maximum, for every arm there is; then figure 1."""
    found, margins, whole = [], {}, select(dataset, until=RESOLVED)
    both = lambda values: every_seed(per_seed(values, "min", "max"))
    for number, (point, runs) in enumerate(arms(whole)):
        name, seeds = _name(point), runs.sizes["seed"]
        runs = _fitted(runs)
        end, unfit = runs.sel(step=runs.steps), seeds - runs.sizes["seed"]
        stopped = int((end.log_loss < -RESOLVED).sum())
        told = [f"{unfit} of {seeds} seeds never fit"] * (unfit > 0)
        told += [f"{stopped} of {seeds} stopped at ln(1/loss) > 10^{np.log10(RESOLVED):g}"] * (stopped > 0)
        name = f"{name} ({'; '.join(_beyond(point) + told)})".removesuffix(" ()")

        def add(what: str, band: tuple, values: xr.DataArray, outlook: str = "", name: str = name) -> None:
            found.append(Finding.of(f"{name}: {what}", band, both(values), outlook))

        if number == 0 or (point["schedule"] == SCALED and not point["skip"]):
            # One per cent for what the steps leave out of the flow, which is in proportion to the rate.
            add("growth of ln γ̃ since loss < 1/e over that of the flow on its way", (0.99, 1.01), runs.law)
        never = (1 / point["steps"], 1.0) if point["skip"] and number else (0.0, 0.0)
        add("share of steps since loss < 1 at which γ̃ falls", never, runs.share)
        if point["skip"]:
            continue
        margins[point["activation"], point["schedule"], point["learning_rate"]] = end.margin
        if point["schedule"] != CONSTANT:
            kind = "residual, Clarke's subdifferential" if point["activation"] == "relu" else "residual"
            add(f"slope of ln({kind}) on ln ‖θ‖ once loss < e^−10", (-np.inf, 0.0), runs.settling)
            when = float((end.length * (end.clarke / REACHED) ** (-1 / runs.settling)).median())
            further = bool((runs.settling < -0.2).all()) and np.isfinite(when)
            outlook = f"from here it falls as that power of ‖θ‖: ‖θ‖ = {when:.1g} (median seed)" if further else ""
            add(f"{kind} at the end", (0.0, REACHED), end.clarke, outlook)
    for activation, misses in _misses(dataset):
        rates, kept = misses.learning_rate.values, misses.dropna("seed").values
        fell = int((per_seed(select(dataset, until=STRETCH, activation=activation).share) > 0).sum())
        what = f"{SPELT[activation]}, scaled steps {rates[0]:g} to {rates[-1]:g} ({len(kept)} seeds; γ̃ falls in {fell})"
        what += ": power of η in the most by which the growth of ln γ̃ in a step misses the flow's"
        found.append(Finding.of(what, ORDERS[activation][1], every_seed(slope(np.log(rates), np.log(kept)))))
    for (activation, schedule, rate), value in margins.items():
        slow = [margin for (kind, how, _), margin in margins.items() if kind == activation and how == CONSTANT]
        if schedule == LOSS_BASED and slow:
            what = f"{SPELT[activation]}: normalised margin of the loss-based rate {rate:g} over the constant's"
            found.append(Finding.of(f"{what} (steps too long for the theorems)", (1.0, np.inf), both(value / slow[0])))
    return found


def _misses(dataset: xr.Dataset) -> list[tuple[str, xr.DataArray]]:
    """For units of which several rates are tried on one stretch: a step's largest miss by seed and rate."""
    kinds = {kind: select(dataset, until=STRETCH, skip=0.0, activation=kind) for kind in ORDERS}
    made = [(kind, table(some, "miss", "learning_rate")) for kind, some in kinds.items() if some.diverged.size]
    return [(kind, misses) for kind, misses in made if misses.learning_rate.size > 1]


def _against_length(axes: plots.Axes, runs: xr.Dataset, variable: str, label: str, **style: Any) -> None:
    """One thin line a seed over ‖θ‖, and the median of both coordinates."""
    x, y = runs.length, runs[variable]
    axes.plot(x.transpose("step", "seed"), y.transpose("step", "seed"), **style | {"linewidth": 0.6, "alpha": 0.3})
    axes.plot(x.median("seed"), y.median("seed", skipna=False), label=label, **style)


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Lyu & Li's figure 1, the margin for three schedules, and below it the conditions; the law and the falls."""
    figure, panels = plots.figure(2, 4, "Homogeneous networks: short steps raise the smoothed margin")
    (smooth, kinked, law), (conditions, kinks, missed) = panels[:, :3]
    for axes in panels[:, 3]:
        axes.remove()
    falls, bars = figure.add_subplot(smooth.get_gridspec()[:, 3]), []
    for point, runs in arms(select(dataset, until=RESOLVED)):
        name, relu, schedule = _name(point), point["activation"] == "relu", point["schedule"]
        runs = _fitted(runs).sel(step=(runs.step > 0) & (runs.step <= point["steps"]))
        style, shown = {"color": f"C{schedule:g}"}, {"squared_relu": {"linestyle": ":"}}.get(point["activation"], {})
        shown |= {"linestyle": "--"} if schedule == SCALED and point["learning_rate"] > SHORT else {}
        bars.append((name, float(runs.share.median())))
        if schedule == SCALED and point["learning_rate"] <= SHORT:
            summed = runs.log_loss < -1
            way, growth = runs.foreseen.where(summed), runs.growth.where(summed)
            plots.points(law, way, growth, name, color=f"C{len(law.lines)}")
        if point["skip"]:
            continue
        if not shown:
            axes = kinked if relu else smooth
            plots.seeds(axes, runs.smoothed.where(runs.log_loss < 0), SCHEDULES[schedule], **style)
            if schedule == SCALED:
                way = runs.foreseen - runs.foreseen.isel(step=-1)
                theory = (runs.smoothed.isel(step=-1) * np.exp(way)).where(runs.log_loss < -1)
                plots.theory(axes, runs.step, theory.median("seed", skipna=False), "the flow's law, back from the end")
        if relu and schedule != CONSTANT:
            _against_length(kinks, runs, "gradient", f"{name}: one gradient", **style | {"linestyle": ":"})
            _against_length(kinks, runs, "clarke", f"{name}: Clarke", **style | shown)
        elif schedule != CONSTANT:
            _against_length(conditions, runs, "clarke", name, **style | shown)
    for axes, title in ((smooth, "a  quadratic units"), (kinked, "b  ReLU units")):
        axes.set(title=title, xscale="log", xlabel="step t", ylabel="smoothed margin γ̃ = ln(1/loss) / ‖θ‖^L")
    for axes, title in ((conditions, "d  conditions, smooth units"), (kinks, "e  conditions, ReLU: the kinks count")):
        plots.theory(axes, axes.get_xlim(), (REACHED, REACHED), "tolerance")
        axes.set(title=title, xscale="log", yscale="log", ylim=(2e-4, 1.5), xlabel="‖θ‖", ylabel="residual")
    plots.theory(law, (0.0, 3.0), (0.0, 3.0), "the flow's law", linestyle="-")
    law.set(title="c  growth along the way", xlabel="foreseen growth of ln γ̃", ylabel="growth of ln γ̃", xlim=(0, 6))
    for number, (activation, misses) in enumerate(_misses(dataset)):
        rates, order = misses.learning_rate, ORDERS[activation][0]
        plots.points(missed, rates, misses, SPELT[activation], color=f"C{number}")
        power = float(misses.isel(learning_rate=-1).median()) * (rates / rates[-1]) ** order
        plots.theory(missed, rates, power, f"η^{order}", linestyle=("--", ":")[number])
    missed.set(title="f  the most that a step misses", xscale="log", yscale="log", xlabel="η", ylabel="miss of Δ ln γ̃")
    falls.barh([name for name, _ in bars[::-1]], [share for _, share in bars[::-1]], color="C0", height=0.4)
    falls.set(title="g  steps at which γ̃ falls", xlim=(0, 1), xlabel="share of steps since loss < 1, median seed")
    for axes in (smooth, kinked, law, conditions, kinks, missed):
        plots.legend(axes, fontsize=6.5)
    return figure


AXES = ("activation", "schedule", "learning_rate", "skip", "until")
ARMS = [
    *(("quadratic", SCALED, rate, skip, RESOLVED) for rate, skip in ((30.0, 0.0), (1000.0, 0.0), (30.0, 10.0))),
    *((kind, SCALED, rate, 0.0, RESOLVED) for kind, rate in (("squared_relu", 30.0), ("relu", 3.0))),
    *((kind, CONSTANT, 0.1, 0.0, RESOLVED) for kind in ("quadratic", "relu")),
    *((kind, LOSS_BASED, 0.1, 0.0, RESOLVED) for kind in SPELT),
    *(("quadratic", SCALED, rate, 0.0, STRETCH) for rate in (15.0, 7.5, 3.75)),
    *(("relu", SCALED, rate, 0.0, STRETCH) for rate in (1.5, 0.75, 0.375)),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, "steps": 3000, AXES: [*ARMS[:3:2], ARMS[7], *ARMS[10:12]]},
    paper={"seeds": 32, "samples": 300, "width": 128, "steps": 100_000, AXES: ARMS},
    control={"skip": 10.0},
)
