"""Homogeneous networks raise their smoothed margin at every step, and turn to where its conditions for a maximum hold.

Claim: Let f(cθ) = c^L f(θ). Once the loss 𝓛 = Σ exp(−q_n) of the margins q_n is below 1, gradient flow never lowers
the smoothed normalised margin γ̃ = ln(1/𝓛)/‖θ‖^L, and the direction of θ tends to points that meet the
Karush–Kuhn–Tucker conditions of min ‖θ‖² at margin 1. Descent on smooth networks does so too for small steps.

Source: Lyu & Li 2020, arXiv 1906.05890: Theorems 4.1 (flow), 4.2 (descent on smooth networks) and 4.4 (conditions),
Lemma 5.1; figure 1. The law of the growth is derived here in research/oracles/margin_stationarity.py: Lemma 5.1 with
what it leaves out, the entropy of the samples' shares in the loss.

Departure: Two layers in place of a convolutional network; 24 digits, 3 against 8, with a constant feature (biases in
the first layer keep it homogeneous). Quadratic units (L = 3) are smooth; squared ReLU (L = 3) lacks a second derivative
at zero, ReLU (L = 2) the first: of these the theorems speak for the flow alone. Besides the constant rate on 𝓛 and a
loss-based one (on ln 𝓛, times 2^(1/5) after a step that lowers it, else undone and over 2^(1/10)) there are scaled
steps, η‖θ‖^(2−2L) on ln 𝓛, which follow the flow at a steady pace. The authors' code judges the loss-based rate once an
epoch, some 600 mini-batch steps; here it is judged, and grows, at every step, so that steps get far longer than theirs.
Steps too long for Theorem 4.2 (loss-based, η = 1000) lower γ̃ every other time, and raise it as a whole: that shows
where the theorem ends, and refutes nothing. By any one gradient the conditions stay violated for ReLU (figure), since
units rest with samples on their kinks, where descent goes to and fro (which the law counts as way); by Clarke's
subdifferential there, as in the theorem, they are approached as by smooth units. Loss-based steps throw units off their
kinks, and lead ReLU and most squared ReLU runs to no such point here: most of them end at ln(1/𝓛) > 10¹². A step back
to 𝓛 >= 1 counts as no fall. The other side: a linear path beside the units (`skip`) is not homogeneous, and γ̃ falls.
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
from research.labels import arms, lift, per_seed, sound
from research.observables.homogeneity import normalized_margin, share_entropy, smoothed_margin
from research.oracles.margin_stationarity import DEGREES, margin_growth, two_layer_residual
from research.separable import Labelled, standardized_sample
from research.statistics import every_seed, slope_within

Activation = Literal["quadratic", "squared_relu", "relu"]
CONSTANT, LOSS_BASED, SCALED = 0.0, 1.0, 2.0
SCHEDULES = {CONSTANT: "constant rate", LOSS_BASED: "loss-based rate", SCALED: "scaled steps"}
SPELT = {"quadratic": "quadratic", "squared_relu": "squared ReLU", "relu": "ReLU"}
ROUNDING = 1e-12  # a relative fall that counts
KINK = 1e-3  # the cosine of unit and sample below which the sample lies on the unit's kink
RESOLVED = 1e12  # ln(1/𝓛) beyond which float64 no longer tells whether a step lowers 𝓛
SHORT = 50.0  # the largest η of scaled steps that follow the flow
REACHED = 0.01  # the residual at which the conditions count as met


class Observables(NamedTuple):
    smoothed: Float[Array, ""]
    margin: Float[Array, ""]
    log_loss: Float[Array, ""]
    length: Float[Array, ""]
    growth: Float[Array, ""]
    turned: Float[Array, ""]
    spread: Float[Array, ""]
    falls: Float[Array, ""]
    fitted: Float[Array, ""]
    hidden: Float[Array, "unit feature"]
    readout: Float[Array, "unit"]


class Path(NamedTuple):
    """Parameters, ln 𝓛, its gradient, margins; the rate; and what the way since 𝓛 < 1/e (falls: 1) sums to."""

    params: Array
    value: Array
    gradient: Array
    seen: Array
    rate: Array
    growth: Array
    turned: Array
    spread: Array
    falls: Array
    fitted: Array


def simulate(
    key: Array,
    schedule: float = SCALED,
    learning_rate: float = 30.0,
    skip: float = 0.0,
    init_scale: float = 1.0,
    *,
    activation: Activation = "quadratic",
    width: int = 12,
    samples: int = 24,
    steps: int = 10_000,
) -> Run:
    """One descent of Σ_j a_j φ(w_j·x) + skip · v·x on Σ exp(−margin); `schedule` is 0 constant, 1 loss-based, 2 scaled.

    Entries start as N(0, init_scale²/fan_in), v at zero; inputs have norm 1. Falls are counted once 𝓛 < 1.
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
        lower, reached = value < state.value, jnp.linalg.norm(there)
        taken = lower | (schedule != LOSS_BASED)
        longer = jnp.log(reached / rho)
        turned = jnp.sum((there / reached - here / rho) ** 2) / jnp.where(longer > 0, longer, 1.0)
        entropy = (share_entropy(state.seen) / -state.value + share_entropy(seen) / -value) / 2
        gain = jnp.log(value / state.value) - degree * longer
        counted, summed = taken & (state.value < 0), taken & (state.value < -1)
        add = lambda total, when, amount: total + jnp.where(when, amount, 0.0)
        choose = lambda new, old: jnp.where(taken, new, old)
        return Path(
            choose(there, here),
            choose(value, state.value),
            choose(gradient, state.gradient),
            choose(seen, state.seen),
            state.rate * jnp.where(schedule == LOSS_BASED, jnp.where(lower, 2**0.2, 2**-0.1), 1.0),
            add(state.growth, summed, gain),
            add(state.turned, summed, turned),
            add(state.spread, summed, (longer + turned) * entropy),
            add(state.falls, counted & (gain < -ROUNDING), 1.0),
            add(state.fitted, counted, 1.0),
        )

    def observe(state: Path) -> Observables:
        seen, rho = state.seen, jnp.linalg.norm(state.params)
        measured = smoothed_margin(seen, rho, degree), normalized_margin(seen, rho, degree), state.value, rho
        return Observables(*measured, *state[5:], state.params[:-1, 1:], state.params[:-1, 0])

    (value, seen), gradient = jax.value_and_grad(log_loss, has_aux=True)(params)
    rate, zero = learning_rate * jnp.ones(()), jnp.zeros(())
    first = Path(params, value, gradient, seen, rate, zero, zero, zero, zero, zero)
    stop = lambda state: state.value < -RESOLVED
    return Run(first, step, observe, log_spaced(steps, 41), Labelled(X, y), stop)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """What the growth of γ̃ should be, and how far the conditions are from being met, by one gradient and Clarke's."""
    dataset = sound(dataset)
    degree = xr.apply_ufunc(lambda name: DEGREES[name], dataset.activation, vectorize=True).astype(float)
    hidden, readout = dataset.hidden.where(dataset.skip == 0), dataset.readout.where(dataset.skip == 0)
    judged = lambda kink: lift(two_layer_residual, dataset.X, dataset.y, hidden, readout, dataset.activation, kink=kink)
    clarke, gradient = judged(KINK), judged(0.0)
    foreseen = lift(margin_growth, dataset.turned, dataset.spread, degree)
    late = dataset.log_loss < -10  # before, the residual shows how soft the minimum over samples is
    ended = dataset.sel(step=dataset.steps)
    return dataset.assign(
        foreseen=foreseen,
        law=(ended.growth / foreseen.sel(step=dataset.steps)).where(ended.fitted > 0),
        share=(ended.falls / ended.fitted.where(ended.fitted > 0)),
        clarke=clarke,
        gradient=gradient,
        settling=slope_within(np.log(dataset.length), np.log(clarke), late),
    )


def _name(point: dict[str, Any]) -> str:
    """What an arm is called."""
    rate = f"{SCHEDULES[point['schedule']]} {point['learning_rate']:g}"
    return ", ".join([SPELT[point["activation"]], rate, *([f"skip {point['skip']:g}"] * (point["skip"] > 0))])


def _beyond(point: dict[str, Any]) -> str:
    """Why an arm lies beyond Theorem 4.2 on descent, or nothing."""
    if point["learning_rate"] > {CONSTANT: np.inf, LOSS_BASED: 0.0, SCALED: SHORT}[point["schedule"]]:
        return "steps too long for Theorem 4.2"
    return "" if point["activation"] == "quadratic" else "units not smooth, beyond Theorem 4.2"


def _fitted(runs: xr.Dataset) -> xr.Dataset:
    """The seeds of an arm that reach 𝓛 < 1, of which alone the claim speaks."""
    return runs.isel(seed=np.flatnonzero(runs.fitted.sel(step=runs.steps) > 0))


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The law of the growth, the falls, and the conditions of a maximum, for every arm there is; then figure 1."""
    found, margins = [], {}
    both = lambda values: every_seed(np.concatenate([per_seed(values, of) for of in ("min", "max")]))
    for number, (point, runs) in enumerate(arms(dataset)):
        name, seeds = _name(point), runs.sizes["seed"]
        runs = _fitted(runs)
        end, unfit = runs.sel(step=runs.steps), seeds - runs.sizes["seed"]
        stopped = int((end.log_loss < -RESOLVED).sum())
        told = [_beyond(point)] * (not point["skip"]) + [f"{unfit} of {seeds} seeds never fit"] * (unfit > 0)
        told += [f"{stopped} of {seeds} stopped at ln(1/loss) > 10^{np.log10(RESOLVED):g}"] * (stopped > 0)
        name += f" ({'; '.join(filter(None, told))})" if any(told) else ""

        def add(what: str, band: tuple, values: xr.DataArray, outlook: str = "", name: str = name) -> None:
            found.append(Finding.of(f"{name}: {what}", band, both(values), outlook))

        if number == 0 or (point["schedule"] == SCALED and not point["skip"]):
            # One per cent for what the steps leave out of the flow, which is in proportion to the rate.
            add("growth of ln γ̃ since loss < 1/e over that of the flow on its way", (0.99, 1.01), runs.law)
        never = (0.0, np.inf if point["skip"] and number else 0.0)
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
    for (activation, schedule, rate), value in margins.items():
        slow = [margin for (kind, how, _), margin in margins.items() if kind == activation and how == CONSTANT]
        if schedule == LOSS_BASED and slow:
            what = f"{SPELT[activation]}: normalised margin of the loss-based rate {rate:g} over the constant's"
            found.append(Finding.of(f"{what} (steps too long for the theorems)", (1.0, np.inf), both(value / slow[0])))
    return found


def _against_length(axes: plots.Axes, runs: xr.Dataset, variable: str, label: str, **style: Any) -> None:
    """One thin line a seed over ‖θ‖, and the median of both coordinates."""
    x, y = runs.length, runs[variable]
    axes.plot(x.transpose("step", "seed"), y.transpose("step", "seed"), **style | {"linewidth": 0.6, "alpha": 0.3})
    axes.plot(x.median("seed"), y.median("seed", skipna=False), label=label, **style)


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Lyu & Li's figure 1, the margin for three schedules, and below it the conditions; the law and the falls."""
    figure, panels = plots.figure(2, 3, "Homogeneous networks: the smoothed margin grows, to a stationary one")
    (smooth, kinked, law), (conditions, kinks, falls) = panels
    colours, bars = {CONSTANT: "C0", LOSS_BASED: "C1", SCALED: "C2"}, []
    for point, runs in arms(dataset):
        name, relu, schedule = _name(point), point["activation"] == "relu", point["schedule"]
        runs = _fitted(runs).sel(step=(runs.step > 0) & (runs.step <= point["steps"]))
        style, shown = {"color": colours[schedule]}, {"squared_relu": {"linestyle": ":"}}.get(point["activation"], {})
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
        if schedule == CONSTANT:
            continue
        if relu:
            _against_length(kinks, runs, "gradient", f"{name}: one gradient", **style | {"linestyle": ":"})
            _against_length(kinks, runs, "clarke", f"{name}: Clarke", **style | shown)
        else:
            _against_length(conditions, runs, "clarke", name, **style | shown)
    for axes, title in ((smooth, "a  quadratic units"), (kinked, "b  ReLU units")):
        axes.set(title=title, xscale="log", xlabel="step t", ylabel="smoothed margin γ̃ = ln(1/loss) / ‖θ‖^L")
    for axes, title in ((conditions, "d  conditions, smooth units"), (kinks, "e  conditions, ReLU: the kinks count")):
        plots.theory(axes, axes.get_xlim(), (REACHED, REACHED), "tolerance")
        axes.set(title=title, xscale="log", yscale="log", ylim=(1e-3, 1.5))
        axes.set(xlabel="‖θ‖", ylabel="residual of the conditions")
    plots.theory(law, (0.0, 3.0), (0.0, 3.0), "the flow's law", linestyle="-")
    law.set(title="c  growth along the way", xlabel="foreseen growth of ln γ̃", ylabel="growth of ln γ̃", xlim=(0, 6))
    falls.barh(range(len(bars)), [share for _, share in bars], color="C0", height=0.3, align="edge")
    for place, (name, _) in enumerate(bars):
        falls.text(0.01, place - 0.05, name, fontsize=7, va="bottom")
    falls.set(xlim=(0, 1), ylim=(len(bars), -0.6), yticks=[])
    falls.set(title="f  steps at which γ̃ falls", xlabel="share of steps since loss < 1, median seed")
    for axes in (smooth, kinked, law, conditions, kinks):
        plots.legend(axes, fontsize=6.5)
    return figure


AXES = ("activation", "schedule", "learning_rate", "skip")
ARMS = [
    *(("quadratic", *how) for how in ((SCALED, 30.0, 0.0), (SCALED, 1000.0, 0.0))),
    *(("quadratic", *how) for how in ((CONSTANT, 0.1, 0.0), (LOSS_BASED, 0.1, 0.0), (SCALED, 30.0, 10.0))),
    *(("squared_relu", *how) for how in ((SCALED, 30.0, 0.0), (LOSS_BASED, 0.1, 0.0))),
    *(("relu", *how) for how in ((SCALED, 3.0, 0.0), (CONSTANT, 0.1, 0.0), (LOSS_BASED, 0.1, 0.0))),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, "steps": 3000, AXES: [ARMS[0], ARMS[3], ARMS[4]]},
    paper={"seeds": 32, "samples": 300, "width": 128, "steps": 100_000, AXES: ARMS},
    control={"skip": 10.0},
)
