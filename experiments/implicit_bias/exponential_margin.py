"""Setting the norm of the weights anew, ever larger, makes the margin grow exponentially fast.

Claim: On linearly separable data the margin of gradient descent closes as 1/ln t, that of normalised descent as 1/t,
that of progressive rescaling (PRGD) exponentially: in rounds of T steps the weights are put on a sphere of radius
R_k = R_0 c^k, and normalised descent stays within that ball. The share of the largest margin that is missing at the end
of a round is D ‖ŵ‖/R_k, so that it falls by c a round whatever the data, with D = max ln α − Σ (α/Σα) ln α for the
multipliers α of the hard margin ŵ. It works because descent returns to its attractor, ŵ s + w̃, at a rate that does not
depend on s. So the radius must grow (c = 1 stays where it is), but not by so much that a round is too short to return.

Source: Wang, Min & Wu 2024, arXiv 2311.14387 (algorithm, exponential rate of direction and margin). They bound the
rate; the law with its constants is derived here from w = ŵ s + w̃ (Soudry et al. 2018, arXiv 1710.10345): on the sphere
s = ‖w‖/‖ŵ‖ + O(1), and the gap is D/s as in `margin_gap_slope`.

Departure: Wang et al. show points in the plane, real sets and networks. Here the "planted" data of twenty samples have
four support vectors with unequal multipliers that span them, so that the way back to the attractor is short; generic
data have modes that are slower by orders of magnitude, and need rounds that are longer by as much. Normalised steps
divide the gradient of the exponential loss by that loss. Rounds follow 200 steps of normalised descent from zero.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import arms, lift, norm, per_seed, select, sound
from research.optimizers import progressive_rescaling
from research.oracles.margin import margin, margin_gap_slope, maximum_margin
from research.separable import Labelled, Separable, separable_problem
from research.statistics import every_seed, slope_within

Optimizer = Literal["rescaling", "normalized", "gradient_descent"]
WARM_UP = 200  # steps of normalised descent before the first round
REACHED = 1e-9  # of the gap, below which it is not followed: rounding of the oracle's is 1e-12


class Observables(NamedTuple):
    weights: Float[Array, "feature"]


def simulate(
    key: Array,
    learning_rate: float,
    growth: float = 2.0,
    radius: float = 100.0,
    *,
    data: Separable = "planted",
    optimizer: Optimizer = "rescaling",
    period: int = 40,
    steps: int = 1000,
) -> Run:
    """One descent from zero on the logarithm of the exponential loss, or on the mean logistic loss.

    The former's gradient is normalised by the loss. "rescaling" makes rounds of `period` steps, in the first of which
    the norm is set to radius · growth^k.
    """
    X, y = separable_problem(key, data)
    Z = X * y[:, None]
    logarithm = lambda w: jax.nn.logsumexp(-Z @ w)
    plain = lambda w: jax.nn.softplus(-Z @ w).mean()
    loss, chain = {
        "rescaling": (logarithm, progressive_rescaling(learning_rate, radius, growth, period, WARM_UP)),
        "normalized": (logarithm, optax.sgd(learning_rate)),
        "gradient_descent": (plain, optax.sgd(learning_rate)),
    }[optimizer]
    observe = lambda state: Observables(state.params)
    at = np.arange(0, steps + 1, 10) if optimizer == "rescaling" else log_spaced(steps, 1 + round(8 * np.log10(steps)))
    return Run(start(jnp.zeros(X.shape[1]), chain), descent(loss, chain), observe, at, Labelled(X, y))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """How much of the largest margin is missing, and what theory says of it at the end of each round."""
    dataset = sound(dataset)
    X, y, t = dataset.X, dataset.y, dataset.step.where(dataset.step > 0)
    width, spread = 1 / norm(lift(maximum_margin, X, y, order=2)), 1 / lift(margin_gap_slope, X, y)
    gap = 1 - lift(margin, X, y, dataset.weights, order=2) / width
    rounds = (dataset.step - WARM_UP) // dataset.period
    ends = ((dataset.step - WARM_UP) % dataset.period == 0) & (rounds > 0) & (dataset.step <= dataset.steps)
    sphere = dataset.radius * dataset.growth ** (rounds.clip(1) - 1.0)
    law = spread / width / sphere
    followed = ends & (gap > REACHED) & (rounds > 2)
    late = (t >= dataset.steps / 10) & (t <= dataset.steps)
    pace = slope_within(dataset.step, np.log(gap.where(gap > 0)), followed)
    return dataset.assign(
        gap=gap,
        law=law.where(ends),
        pace=-pace / (np.log(dataset.growth.where(dataset.growth > 1)) / dataset.period),
        constant=(gap / law).where(followed).median("step"),
        power=slope_within(np.log(t), np.log(gap.where(gap > 0)), late),
        inverse=spread * slope_within(np.log(t), 1 / gap.where(gap > 0), late),
        clock=width**2 * dataset.learning_rate * t,
        spread=spread,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The rate and the constant of rescaling, those of the others, and a radius that grows too slowly or too fast.

    Judged first is the first arm, which is to be one with rounds.
    """
    found: list[Finding] = []
    ends = dataset.sel(step=dataset.steps)
    growths = [float(each) for each in np.unique(dataset.growth.values)]
    first = float(np.atleast_1d(dataset.growth.values)[0])

    def add(what: str, runs: xr.Dataset, values: xr.DataArray, low: float, high: float) -> None:
        if runs.diverged.size:
            rows = per_seed(values, "min", "max")
            found.append(Finding.of(what, (low, high), every_seed(rows)))

    rounds = lambda growth: select(ends, optimizer="rescaling", growth=growth)
    rate = "rate of ln(gap) a step over ln(c)/T"
    for growth in (first, *[each for each in growths if 1 < each < 10 and each != first]):
        runs = rounds(growth)
        # The gap is D/(s + O(1)) with s from 20 on: over the rounds the rate is off by the share of this first one.
        add(f"rescaling, c = {growth:g}: {rate}", runs, runs.pace if growth > 1 else runs.power, 0.95, 1.05)
        if growth > 1:
            add(f"rescaling, c = {growth:g}: gap over D ‖ŵ‖/R_k, median round", runs, runs.constant, 0.9, 1.1)
    runs = select(ends, optimizer="normalized")
    add("normalised descent: slope of ln(gap) on ln t over the last decade", runs, runs.power, -1.07, -0.93)
    runs = select(ends, optimizer="gradient_descent")
    # 1/gap = (ln t + c)/D + O(1/ln t): the slope is off by O(1)/(ln t)², 0.01 times that at ln t = 10, and by what is
    # left of the way to w̃. The 0.05 allowed for both is a choice. A gap that stands still has slope 0.
    add("gradient descent: D times the slope of 1/gap on ln t over the last decade", runs, runs.inverse, 0.95, 1.05)
    best, rival = rounds(first), select(ends, optimizer="normalized")
    if best.diverged.size and rival.diverged.size and first > 1:
        ratio = per_seed(rival.gap, "min") / per_seed(best.gap.clip(1e-12), "max")
        steps = [int(runs.steps.max()) for runs in (rival, best)]
        said = f"ln(gap of normalised descent after {steps[0]} steps / of rescaling after {steps[1]})"
        found.append(Finding.of(said, (0.0, np.inf), every_seed(np.log(ratio))))
    still = rounds(1.0)
    if first != 1:
        # It rests at the attractor's point of that norm, D/(s + O(1)) with s of about 20.
        value = still.gap / still.law
        add("rescaling, c = 1 (the radius stays): gap at the end over D ‖ŵ‖/R_0", still, value, 0.8, 1.2)
    for growth in (each for each in growths if each >= 10):
        hasty = rounds(growth)
        add(f"rescaling, c = {growth:g} (too fast for the rounds): {rate}", hasty, hasty.pace, -np.inf, 0.5)
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the gap against the step, logarithmic in the gap only; (b) against ln t; (c) the law of each round."""
    figure, panels = plots.figure(1, 3, "Rescaled norms: the margin closes exponentially")
    line, decades, law = panels[0]
    names = {"normalized": "normalised descent", "gradient_descent": "gradient descent"}
    kinds: dict[str, str] = {}
    for point, runs in arms(dataset):
        kind, growth = point["optimizer"], point["growth"]
        label = f"rescaling, c = {growth:g}" if kind == "rescaling" else names[kind]
        color = kinds.setdefault(label, f"C{len(kinds)}")
        runs = runs.sel(step=(runs.step > 0) & runs.gap.notnull().all("seed"))
        gap = runs.gap.clip(1e-12)
        plots.seeds(line, gap.sel(step=gap.step <= 1000), label, color=color)
        plots.seeds(decades, gap, label, color=color)
        if kind == "normalized":
            clock = (runs.spread / runs.clock).median("seed")
            plots.theory(decades, runs.step[runs.step >= 50], clock[runs.step >= 50], "D/(γ² η t)", linestyle=":")
        if kind == "rescaling":
            ends = runs.sel(step=runs.law.notnull().all("seed"))
            plots.theory(line, ends.step, ends.law.median("seed"), "D ‖ŵ‖/R_k" if growth == 2 else None)
            plots.points(law, ends.law, ends.gap.clip(1e-12), label, color=color)
    plots.theory(law, (1e-10, 1), (1e-10, 1), "equal")
    missing = "missing share of the largest margin"
    line.set(title="a  exponential: a line in the step", yscale="log", xlabel="step t", ylabel=missing, ylim=(1e-10, 2))
    decades.set(title="b  the rivals are powers", xscale="log", yscale="log", xlabel="step t", ylabel=missing)
    law.set(title="c  the gap at the end of each round", xscale="log", yscale="log")
    law.set(xlabel="D ‖ŵ‖/R_k, nothing fitted", ylabel=missing, xlim=(1e-10, 1), ylim=(1e-10, 1))
    for axes in figure.axes:
        plots.legend(axes, **({"loc": "lower left", "fontsize": 6.5} if axes is not law else {}))
    return figure


AXES = ("optimizer", "growth", "steps")
ARMS = [
    *(("rescaling", growth, 1000) for growth in (2.0, 1.0, 1.5, 3.0, 64.0)),
    ("normalized", 2.0, 100_000),
    ("gradient_descent", 2.0, 100_000),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS, "learning_rate": 4.0},
    smoke={"seeds": 2, AXES: [ARMS[0], ARMS[1], ARMS[4]]},
    paper={"seeds": 64, AXES: [*ARMS[:5], ("normalized", 2.0, 1_000_000), ("gradient_descent", 2.0, 1_000_000)]},
    control={AXES: [("rescaling", 64.0, 1000)]},
)
