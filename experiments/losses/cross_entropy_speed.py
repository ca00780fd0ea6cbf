"""Cross-entropy is faster than squared error from a saturated start; from zero a learning rate makes up for it.

Claim: At equal learning rates a logistic model of digits gets to its accuracy several times sooner under cross-entropy
than under the quadratic cost: exactly by the ratio of the times of the two gradient flows, which grows with the logits
of the start. At zero σ'(0) = 1/4 stands in the quadratic cost's first gradient and all of the difference is that
factor; it is less on the way, three times the time to the accuracy. With the rate tuned for each cost, what is left
from zero is little or nothing; from a saturated start the cross-entropy stays ahead, and it forgives rates that are far
too large.

Source: Nielsen 2015, Neural Networks and Deep Learning, chapter 3; Glorot & Bengio 2010 (plateaus of the quadratic
cost). The times are integrated by `research.oracles.flow_time`, and for one neuron known in closed form.

Departure: The statement "cross-entropy converges faster" is mostly shown at equal rates. Digits 3 against 8, 100 of
them, the longest of norm 1, full batch; the quadratic cost is (a - y)²/2 of the sigmoid's output. Start: Gaussian
weights whose logits have the root mean square `init_scale`. Beyond a random start nothing is saturated by design, so
that half of the samples are right at once, and the ratio stays below that of a lone neuron that is wrong by as much.
"Tuned" is the best of a grid: where that is its last rate, a larger one might be better, and those seeds are counted.

Bands: A step of descent errs by up to ηλ/2 of its length, λ <= 1/4 the curvature of either cost (the longest input has
norm 1): both times are exact to η/8 and one step, and so is their ratio to twice that. What is claimed of tuned rates
is an order, tested for paired seeds.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Descent, Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import first_arm, lift, per_seed, select, sound, table
from research.oracles.cost_functions import half_time
from research.oracles.flow_time import flow_time
from research.separable import separable_problem
from research.statistics import every_seed, median

COSTS = ("cross_entropy", "quadratic")
LEVEL = 0.98  # of the training accuracy
GENTLE = 0.5  # the rate at which descent follows the flow
NEAR = 4.0  # a rate counts as good where it takes at most so many times the steps of the best


class Observables(NamedTuple):
    accuracy: Float[Array, ""]
    waited: Float[Array, ""]
    reached: Float[Array, ""]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    initial: Float[Array, "feature"]
    first_ratio: Float[Array, ""]


class Timed(NamedTuple):
    """The descent, whether it has reached the level of accuracy, and after how many steps."""

    descent: Descent
    reached: Any
    waited: Any


def simulate(
    key: Array,
    init_scale: float,
    learning_rate: float,
    *,
    cost: Literal["cross_entropy", "quadratic"] = "cross_entropy",
    samples: int = 100,
    steps: int = 3000,
) -> Run:
    """Gradient descent on the mean cost of 3 against 8 from weights whose logits have that root mean square.

    `waited`: the steps until the accuracy on the samples reaches the level. `first_ratio`: at weights of zero, the
    gradient of the quadratic cost over that of the cross-entropy.
    """
    data_key, init_key = jax.random.split(key)
    X, y = (each[:samples] for each in separable_problem(data_key, "digits"))
    margins = lambda w: y * (X @ w)
    costs = {
        "cross_entropy": lambda w: jnp.mean(jax.nn.softplus(-margins(w))),
        "quadratic": lambda w: jnp.mean(jax.nn.sigmoid(-margins(w)) ** 2) / 2,
    }
    direction = jax.random.normal(init_key, (X.shape[1],))
    initial = init_scale * direction / jnp.sqrt(jnp.mean((X @ direction) ** 2))
    optimizer = optax.sgd(learning_rate)
    advance = descent(costs[cost], optimizer)
    accuracy = lambda w: jnp.mean(margins(w) > 0, dtype=w.dtype)

    def step(state: Timed) -> Timed:
        reached = jnp.maximum(state.reached, accuracy(state.descent.params) >= LEVEL - 1e-9)
        return Timed(advance(state.descent), reached, state.waited + 1 - reached)

    first = [jax.grad(costs[name])(jnp.zeros_like(initial)) for name in COSTS]
    return Run(
        Timed(start(initial, optimizer), jnp.zeros(()), jnp.zeros(())),
        step,
        lambda state: Observables(accuracy(state.descent.params), state.waited, state.reached),
        log_spaced(steps, 40),
        Given(X, y, initial, jnp.linalg.norm(first[1]) / jnp.linalg.norm(first[0])),
        stop=lambda state: state.reached > 0,
    )


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Steps to the level (NaN: not reached), and the flow's time."""
    ends = sound(dataset).sel(step=dataset.steps)
    taken = ends.waited.where(ends.reached > 0)
    time = lift(flow_time, dataset.X, dataset.y, dataset.initial, dataset.cost, xr.DataArray(LEVEL))
    return dataset.assign(taken=taken, time=time, duration=taken * dataset.learning_rate)


def of_rates(dataset: xr.Dataset, cost: str, scale: float) -> xr.DataArray:
    """Steps by seed and learning rate."""
    return table(select(dataset, cost=cost, init_scale=scale), "taken", "learning_rate")


def good_rates(taken: xr.DataArray) -> np.ndarray:
    """Of each seed the number of learning rates that take at most `NEAR` times the fewest steps."""
    return (taken <= NEAR * taken.min("learning_rate")).sum("learning_rate").values


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The ratio of times against the flows', the factor at zero, tuned rates, and rates that are forgiven."""
    found: list[Finding] = []

    def add(what: str, band: tuple[float, float], values: np.ndarray, estimate: Callable = every_seed) -> None:
        found.append(Finding.of(what, band, estimate(values)))

    slowest = float(dataset.learning_rate.min())
    slow, tuned = (select(dataset, learning_rate=chosen) for chosen in (slowest, lambda rate: rate > GENTLE))
    if set(np.atleast_1d(dataset.cost.values).tolist()) == set(COSTS):
        entropy, square = (select(slow, cost=cost) for cost in COSTS)
        ratio = table(square, "duration", "init_scale") / table(entropy, "duration", "init_scale")
        theory = table(square, "time", "init_scale") / table(entropy, "time", "init_scale")
        allowed = GENTLE / 8 + GENTLE / float(slow.time.min(skipna=False))
        both = lambda values: per_seed(values, "min", "max")
        what = "small rates: rate × steps to the accuracy over the flow's time, both costs, each start"
        add(what, (1 - allowed, 1 + allowed), both(slow.duration / slow.time))
        what = "equal small rates: time of the quadratic cost over that of the cross-entropy, over the flows' ratio"
        add(f"{what}, each start", (1 - 2 * allowed, 1 + 2 * allowed), both(ratio / theory))
        for scale in ratio.init_scale.values.tolist():
            what = f"equal small rates, logits of {scale:g} at the start: ln(time quadratic / time cross-entropy)"
            add(what, (0.0, np.inf), np.log(ratio.sel(init_scale=scale).values))
        if ratio.init_scale.size > 1:
            grown = np.log((ratio.isel(init_scale=-1) / ratio.isel(init_scale=0)).values)
            what = f"… and its growth from logits of {ratio.init_scale[0]:g} to {ratio.init_scale[-1]:g}"
            add(what, (0.0, np.inf), grown)
        if tuned.diverged.size and len(np.unique(tuned.learning_rate.values)) > 3:
            found += _tuned(tuned)
    ones = per_seed(dataset.first_ratio, "mean")
    add("gradient of the quadratic cost at zero over that of the cross-entropy", (0.25 - 1e-12, 0.25 + 1e-12), ones)
    return found


def _tuned(tuned: xr.Dataset) -> list[Finding]:
    """The fewest steps over all rates, and how many rates are good."""
    found = []
    for scale in np.unique(tuned.init_scale.values).tolist():
        entropy, square = (of_rates(tuned, cost, scale) for cost in COSTS)
        ratio = np.log((square.min("learning_rate") / entropy.min("learning_rate").clip(1)).values)
        last = [int((each.fillna(np.inf).argmin("learning_rate") == each.learning_rate.size - 1).sum())
                for each in (square, entropy)]  # fmt: skip
        what = (
            f"rates tuned, logits of {scale:g} at the start: ln(steps quadratic / steps cross-entropy); the best rate "
            f"is the grid's last for {last[0]} (quadratic) and {last[1]} of {entropy.sizes['seed']} seeds"
        )
        found.append(Finding.of(what, (0.0, np.inf), median(ratio)))
        more = good_rates(entropy) - good_rates(square)
        what = f"logits of {scale:g}: good learning rates of the cross-entropy less those of the quadratic cost"
        found.append(Finding.of(f"{what}, of {entropy.learning_rate.size}", (0.0, np.inf), median(more)))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) accuracy in time, (b) how much faster, against the start, (c) steps against the learning rate."""
    figure, ((course, ratios, rates),) = plots.figure(1, 3, "Cross-entropy is faster: where it starts saturated")
    slowest = float(dataset.learning_rate.min())
    slow, tuned = (select(dataset, learning_rate=chosen) for chosen in (slowest, lambda rate: rate > GENTLE))
    scales = np.unique(slow.init_scale.values)
    for number, cost in enumerate(COSTS):
        for scale, style in ((scales[0], "-"), (scales[-1], ":")):
            runs = select(slow, cost=cost, init_scale=float(scale))
            if runs.diverged.size:
                runs = first_arm(runs)
                seen = runs.accuracy.dropna("step").assign_coords(step=lambda kept: kept.step * slowest)
                seen = seen.sel(step=(seen.step > 0) & (seen.step < 3 * float(runs.time.max())))
                label = f"{cost.replace('_', '-')}, logits {scale:g}"
                plots.seeds(course, seen, label, color=f"C{number}", linestyle=style)
                once = None if number or style == ":" else "flow's time (median)"
                marks = {"linestyle": "none", "marker": "D", "markersize": 5}
                plots.theory(course, [float(runs.time.median())], [LEVEL], once, **marks)
        ends = np.unique(tuned.init_scale.values)[[0, -1]].tolist() if tuned.diverged.size else []
        for scale, style in zip(ends, ("-", ":"), strict=False):
            taken = of_rates(tuned, cost, scale).clip(1).fillna(float(tuned.steps.max()))
            label = f"{cost.replace('_', '-')}, logits {scale:g}"
            plots.seeds(rates, taken, label, color=f"C{number}", linestyle=style, marker="o", ms=3)
    entropy, square = (select(dataset, cost=cost) for cost in COSTS)
    if entropy.diverged.size and square.diverged.size:
        theory = (table(square, "time", "init_scale") / table(entropy, "time", "init_scale")).median("seed")
        plots.theory(ratios, theory.init_scale, theory, "ratio of the flows (median)", marker="_")
        slow_square, slow_entropy = (table(select(slow, cost=cost), "duration", "init_scale") for cost in COSTS[::-1])
        plots.points(ratios, slow_square.init_scale, slow_square / slow_entropy, "equal small rates", markersize=5)
        for scale in np.unique(tuned.init_scale.values).tolist() if tuned.diverged.size else ():
            least = [of_rates(tuned, cost, scale).min("learning_rate") for cost in COSTS[::-1]]
            ratio = least[0] / least[1].clip(1)
            place = xr.full_like(ratio, scale + 0.1)
            plots.points(ratios, place, ratio, None if scale else "rates tuned", color="C2", markersize=5)
        z = np.linspace(0.1, max(float(theory.init_scale.max()), 1.0), 100)
        lone = [half_time("quadratic", each, 1.0) / half_time("cross_entropy", each, 1.0) for each in z]
        plots.theory(ratios, z, lone, "one neuron, wrong by that logit", linestyle=":")
    ratios.axhline(1, color="black", linewidth=0.8)
    course.set(title=f"a  equal learning rates, {slowest:g}", xlabel="time = rate × step", xscale="log")
    course.set(ylabel="accuracy on the samples", ylim=(0.3, 1.02))
    ratios.set(title="b  how much faster", xlabel="root mean square logit at the start", yscale="log")
    ratios.set(ylabel="quadratic over cross-entropy", ylim=(0.2, 100))
    rates.set(title="c  rates tuned (at the top: not reached)", xlabel="learning rate", xscale="log", yscale="log")
    rates.set(ylabel=f"steps to an accuracy of {LEVEL:g}", ylim=(1, 5e4))
    for axes in (course, ratios, rates):
        plots.legend(axes)
    return figure


AXES = ("steps", "learning_rate", "init_scale")
SLOW = [(60_000, GENTLE, scale) for scale in (0.0, 1.0, 2.0)]
TUNED = [(2000, 2.0**power, scale) for scale in (0.0, 2.0, 6.0) for power in np.arange(1.0, 14.0, 1.5)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, "cost": list(COSTS), AXES: SLOW + TUNED},
    smoke={"seeds": 3, AXES: [(4000, GENTLE, 0.0)]},
    paper={"seeds": 50, "samples": 178, AXES: [(200_000, GENTLE, scale) for scale in (0.0, 1.0, 2.0, 4.0)] + TUNED},
    control={AXES: [(4000, 256.0, 0.0)]},
)
