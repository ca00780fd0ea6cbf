"""With momentum the sharpness rises to another threshold: Polyak's ball may enter valleys that Nesterov's cannot.

Claim: Where the gradient flow takes the sharpness beyond the curvature at which steps with momentum β become unstable,
descent stops there: for Polyak's heavy ball at 2(1 + β)/η, for Nesterov's method at 2(1 + β)/((1 + 2β)η). For β = 0.5
it hovers there as it does at 2/η without momentum.

Source: Cohen, Kaur, Li, Kolter & Talwalkar 2021, arXiv 2103.00065, on momentum; the thresholds are derived and checked
in research/oracles/step_stability.py.

Departure: A Chebyshev polynomial of degree 4 on 20 points, two hidden layers of 32 tanh units, squared error. In t
steps momentum gets to the flow's time ηt/(1 − β). Only those runs are judged whose flow gets beyond 1.1 times the
threshold before their last quarter, and at a λ · time of five times their steps at most: the flow stiffens as it
sharpens, and is not followed longer. With β = 0.9 crossing the threshold sets off a catapult that throws the weights
far below it, from where the sharpness rises anew: a median over time then says how long the climbs last, not where they
end. So there the peak is judged. It overshoots, as an oscillation takes time to grow, the more the faster the sharpness
rises in a step: by less at smaller rates, by more than the 15 % allowed at larger ones. The other side: two rates at
which the flow tops out between 0.6 and 0.95 of the threshold. There descent goes as far as the flow: the heavy ball at
η = 0.06 beyond the threshold of Nesterov's method, at which that stops at this rate.

Bands: at β <= 0.5 as without momentum, the median of the last quarter in [0.98, 1.03]; that of a peak, [0.95, 1.15],
is a convention and not derived, and so are the 5 % that descent may differ from a flow it follows. Momentum lags behind
by a time of ηβ/(1 − β)², some 0.1, in which that flow's sharpness grows by less than 1 %.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, start
from research.experiment import Experiment, Finding
from research.labels import arms, chosen_per_seed, lift, recorded, select, sound
from research.observables.curvature import hessian_spectrum
from research.oracles.gradient_flow import flow_sharpness
from research.oracles.step_stability import largest_curvature
from research.sharpening import Data, Loss, sharpening_problem
from research.statistics import every_seed

HOVER, PEAK = (0.98, 1.03), (0.95, 1.15)  # of the threshold
ACCURACY = 0.02  # of the threshold, of a measured peak or median
BEYOND, BELOW = 1.1, 0.95  # of the threshold: where the flow's sharpness leaves no doubt
NEAR = 0.6  # of the threshold, from where on it means something that a flow stays below
FOLLOWED = 5.0  # λ · time up to which the flow is followed, over the steps of the descent
MILD = 0.5  # momentum with which it hovers
NAMES, COLORS = {0.0: "heavy ball", 1.0: "Nesterov"}, {0.0: "C0", 1.0: "C1"}


class Observables(NamedTuple):
    loss: Float[Array, ""]
    sharpness: Float[Array, ""]
    residual: Float[Array, ""]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    Y: Float[Array, "sample label"]
    initial: Float[Array, "parameter"]


def simulate(
    key: Array,
    learning_rate: float,
    momentum: float = 0.9,
    nesterov: float = 0.0,
    *,
    data: Data = "chebyshev",
    objective: Loss = "squared_error",
    samples: int = 20,
    steps: int = 4_000,
    width: int = 32,
    depth: int = 2,
    points: int = 140,
    iterations: int = 16,
) -> Run:
    """One descent with momentum on the mean loss (halved where squared) from the default initialisation.

    `nesterov` 1 is Nesterov's method, 0 Polyak's heavy ball, and between them its steps are a part of either's.
    """
    X, Y, params, initial, loss = sharpening_problem(key, data, objective, samples=samples, width=width, depth=depth)
    ball, ahead = (optax.sgd(learning_rate, momentum=momentum, nesterov=each) for each in (False, True))

    # both move the same velocity, so that one program serves for both
    def update(gradient: tuple, state: tuple, _: object = None) -> tuple:
        (plain, following), (looking, _) = ball.update(gradient, state), ahead.update(gradient, state)
        return jax.tree.map(lambda one, other: one + nesterov * (other - one), plain, looking), following

    optimizer = optax.with_extra_args_support(optax.GradientTransformation(ball.init, update))

    def observe(state: tuple) -> Observables:
        largest = hessian_spectrum(loss, state[0], iterations=iterations)
        return Observables(loss(state[0]), largest.values[0], largest.residuals[0])

    # the first peak comes early, and is thin
    at = np.unique(np.rint(steps * np.linspace(0, 1, points) ** 2).astype(int))
    return Run(start(params, optimizer), descent(loss, optimizer), observe, at, Given(X, Y, initial))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Each sharpness, and the flow's, in units of the method's own threshold; whether a peak is nearest to that one."""
    dataset = sound(dataset)
    limits = {
        (kind, beta): lift(largest_curvature, method, dataset.learning_rate, dataset.momentum * beta)
        for kind, beta, method in ((0.0, 0.0, "heavy_ball"), (0.0, 1.0, "heavy_ball"), (1.0, 1.0, "nesterov"))
    }
    edge = xr.where(dataset.nesterov == 1, limits[1.0, 1.0], limits[0.0, 1.0])
    ratio = dataset.sharpness / edge
    peak = dataset.sharpness.max("step")
    horizon = dataset.learning_rate * dataset.steps / (1 - dataset.momentum)
    ends = np.unique(horizon.values)
    grid = np.unique(np.r_[0.0, 0.75 * ends, ends, np.geomspace(ends.max() / 300, ends.max(), 24)])
    times = xr.DataArray(grid, {"time": grid}, "time")
    network = dataset.width, dataset.depth, dataset.objective
    flow = lift(flow_sharpness, dataset.X, dataset.Y, dataset.initial, times, FOLLOWED * dataset.steps, *network)
    sure = flow.isel(time=0).notnull()
    foreseen = (flow.where(times <= 0.75 * horizon).max("time") / edge).where(sure)
    top = flow.where(times <= horizon).max("time")
    whole = (flow.notnull() | (times > horizon)).all("time")  # followed as long as the descent goes
    away = lambda limit: abs(np.log(peak / limit))
    nearest = xr.concat([away(limit) for limit in limits.values()], "method").min("method")
    error = dataset.residual / edge
    late = (dataset.step >= 0.75 * dataset.steps) & (dataset.step <= dataset.steps)
    # a Ritz value is never too large, and too small by its residual at most
    span = lambda values, reduce: (reduce(values), reduce(values + error) - reduce(values) <= ACCURACY)
    highest, peak_known = span(ratio, lambda values: values.max("step"))
    end, end_known = span(ratio.where(late), lambda values: values.median("step"))
    return dataset.assign(
        edge=edge,
        ratio=ratio,
        own=(away(edge) <= nearest).astype(float).where(peak_known),
        peak=highest.where(peak_known & foreseen.notnull()),
        # what is not known is not left out: it makes a finding void
        foretold=~(foreseen <= BEYOND) & ~dataset.diverged,
        spared=(whole & (top > NEAR * edge) & (top < BELOW * edge) | ~sure) & ~dataset.diverged,
        followed=dataset.sharpness.max("step").where(peak_known & sure) / top,
        end=end.where(end_known & foreseen.notnull()),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Where the sharpness hovers with little momentum, and peaks with much; whose threshold it is; the other side."""
    found: list[Finding] = []

    def add(what: str, band: tuple[float, float], values: xr.DataArray, chosen: xr.DataArray, *sides: str) -> None:
        if chosen.any():
            rows = chosen_per_seed(values, chosen, *sides)
            # the least and the largest of one seed are not two seeds
            found.append(Finding.of(what, band, every_seed(rows)))

    def judged(runs: xr.Dataset) -> str:
        missed = int((runs.foretold & (runs.peak < 1)).sum())
        lost = f", {int(runs.diverged.sum())} diverged" * bool(runs.diverged.any())
        return f"{int(runs.foretold.sum())} of {runs.diverged.size} runs{lost}; {missed} of them never got there"

    mild, strong = (select(dataset, momentum=test) for test in (lambda beta: beta <= MILD, lambda beta: beta > MILD))
    hover = (
        f"β ≤ {MILD:g}, the flow goes beyond {BEYOND:g} · the threshold ({judged(mild)}): sharpness over the threshold"
    )
    add(f"{hover}, median of the last quarter, the middle run of each seed", HOVER, mild.end, mild.foretold, "median")
    add(f"{hover}, median of the last quarter, all runs of a seed", HOVER, mild.end, mild.foretold, "min", "max")
    several = select(dataset, momentum=lambda beta: beta >= MILD)
    apart = (
        f"likewise, β ≥ {MILD:g} ({judged(several)}): share of a seed's runs whose peak is nearest to its own method's"
    )
    add(
        f"{apart} threshold, of the three",
        (1.0, 1.0),
        several.own.where(several.peak.notnull()),
        several.foretold,
        "mean",
    )
    for kind, name in NAMES.items():
        runs = select(strong, nesterov=kind)
        said = f"{name}, β > {MILD:g}, likewise ({judged(runs)})"
        add(
            f"{said}: largest sharpness over the threshold, all runs of a seed",
            PEAK,
            runs.peak,
            runs.foretold,
            "min",
            "max",
        )
        rates = np.unique(runs.learning_rate.values).tolist()
        if len(rates) > 1:
            low, high = (select(runs, learning_rate=rate) for rate in (rates[0], rates[-1]))
            others = runs.diverged.dims[1:]
            both = low.foretold.any(others) & high.foretold.any(others)
            higher = high.peak.max(others) - low.peak.max(others)
            what = f"{name}, β > {MILD:g}: by how much it overshoots more at η = {rates[-1]:g} than at {rates[0]:g}"
            add(f"{what}, seeds whose flow goes beyond both thresholds", (0.0, np.inf), higher, both, "max")
        add(f"{said}: median of the last quarter, all runs of a seed", HOVER, runs.end, runs.foretold, "min", "max")
    for kind, name in NAMES.items():
        runs = select(dataset, nesterov=kind)
        lost = f", {int(runs.diverged.sum())} diverged" * bool(runs.diverged.any())
        said = f"{name}, the flow tops out between {NEAR:g} and {BELOW:g} of the threshold"
        said += f" ({int(runs.spared.sum())} runs{lost}): largest sharpness over"
        add(f"{said} it, all runs of a seed", (0.0, 1.0), runs.peak, runs.spared, "min", "max")
        add(f"{said} the flow's, likewise", (BELOW, 1 / BELOW), runs.followed, runs.spared, "min", "max")
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Sharpness against the step with little and with much momentum, and where it peaks for every run."""
    figure, panels = plots.figure(
        1, 3, "Momentum moves the edge: up for Polyak's heavy ball, down for Nesterov's method"
    )
    for axes, beta in zip(panels[0], (MILD, 0.9), strict=False):
        for kind, name in NAMES.items():
            tried = list(arms(select(dataset, momentum=beta, nesterov=kind)))
            spared = [(point, runs) for point, runs in tried[:-1] if runs.spared.any()]
            for number, (point, runs) in enumerate([*tried[-1:], *spared]):
                run, edge, below = recorded(runs), float(runs.edge.max()), int(runs.spared.sum())
                told = f", the flow stays below in {below} of {runs.spared.size} seeds" if number else ""
                style: dict[str, Any] = {"color": f"C{2 + int(kind)}"} if number else {"color": COLORS[kind]}
                plots.seeds(axes, run.sharpness, f"{name}, η = {point['learning_rate']:g}{told}", **style)
                plots.theory(axes, run.step[[0, -1]], (edge, edge), None if kind or number else "own threshold")
        _, top = axes.get_ylim()
        axes.set(title=f"β = {beta:g}", xlabel="step", ylabel="sharpness λ", ylim=(0, 1.5 * top))  # for the legend
    peaks = panels[0, 2]
    betas = np.linspace(0, 0.95, 50)
    for kind, name in NAMES.items():
        runs = select(dataset, nesterov=kind)
        peak = runs.learning_rate * runs.sharpness.max("step") / 2
        plots.points(peaks, runs.momentum, peak.where(runs.foretold), name, color=COLORS[kind])
        others = "the flow stays below, or close to it" if kind else None
        spared = peak.where(~runs.foretold & ~runs.diverged)
        plots.points(peaks, runs.momentum, spared, others, color=COLORS[kind], marker="x", alpha=0.8)
        law = (1 + betas) / (1 + 2 * betas if kind else 1)
        plots.theory(peaks, betas, law, None if kind else "1 + β and (1 + β)/(1 + 2β)")
    peaks.set(title="every run's peak", xlabel="momentum β", ylabel="largest ηλ/2", ylim=(0, 2.6))
    for axes in panels[0]:
        plots.legend(axes)
    return figure


AXES = ("learning_rate", "momentum", "nesterov")
ARMS = [
    *((rate, 0.5, kind) for rate, kind in ((0.06, 0.0), (0.04, 1.0))),
    *((rate, 0.0, 0.0) for rate in (0.1, 0.2)),
    *((rate, 0.5, 0.0) for rate in (0.1, 0.15, 0.2)),
    *((rate, 0.9, 0.0) for rate in (0.1, 0.12, 0.15)),
    *((rate, 0.5, 1.0) for rate in (0.06, 0.07, 0.1)),
    *((rate, 0.9, 1.0) for rate in (0.04, 0.05, 0.07)),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={
        "seeds": 2,
        "steps": 2_000,
        "points": 80,
        AXES: [(0.08, 0.5, 0.0), (0.2, 0.5, 0.0), (0.1, 0.5, 1.0), (0.07, 0.9, 1.0)],
    },
    paper={"seeds": 3, "data": "digits", "samples": 1_797, "width": 200, "steps": 20_000},
    control={"nesterov": 0.5},
    precision="float32",
)
