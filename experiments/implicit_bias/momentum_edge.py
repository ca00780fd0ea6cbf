"""With momentum the sharpness rises to another threshold: Polyak's ball may enter valleys that Nesterov's cannot.

Claim: With momentum β the sharpness rises up to the curvature beyond which steps are unstable, which for Polyak's heavy
ball is 2(1 + β)/η and for Nesterov's method 2(1 + β)/((1 + 2β)η). For β = 0.5 it hovers there as it does at 2/η without
momentum.

Source: Cohen, Kaur, Li, Kolter & Talwalkar 2021, arXiv 2103.00065, on momentum; the thresholds are derived and checked
in research/oracles/step_stability.py.

Departure: A Chebyshev polynomial of degree 4 on 20 points, two hidden layers of 32 tanh units, squared error. With
β = 0.9 crossing the threshold sets off a catapult that throws the weights far below it, from where the sharpness rises
anew: a median over time then says how long the climbs last, not where they end. So there the peak is judged. It
overshoots, as an oscillation takes time to grow, the more the faster the sharpness rises in a step: by less at smaller
rates, by more than the 15 % allowed at larger ones. The other side, drawn and not judged: rates so small that the
threshold is not reached. No flow is followed to tell beforehand which runs would reach it, so that what is said of
peaks and of all runs is said of those that did, and the others are counted: a peak so judged is 1 at least.

Bands: at β <= 0.5 as without momentum, the median of the last quarter in [0.98, 1.03], of runs that reached the
threshold before it; that of a peak, [0.95, 1.15], is a convention and not derived.
"""

from typing import NamedTuple

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
from research.oracles.step_stability import largest_curvature
from research.sharpening import Data, Loss, sharpening_problem
from research.statistics import every_seed

HOVER, PEAK = (0.98, 1.03), (0.95, 1.15)  # of the threshold
ACCURACY = 0.02  # of the threshold, of a measured peak or median
MILD, USUAL = 0.5, 0.02  # momentum with which it hovers; learning rate from which it gets there in these steps
NAMES, COLORS = {0.0: "heavy ball", 1.0: "Nesterov"}, {0.0: "C0", 1.0: "C1"}


class Observables(NamedTuple):
    loss: Float[Array, ""]
    sharpness: Float[Array, ""]
    residual: Float[Array, ""]


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

    `nesterov` 1 is Nesterov's method, 0 Polyak's heavy ball.
    """
    _, _, params, _, loss = sharpening_problem(key, data, objective, samples=samples, width=width, depth=depth)
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
    return Run(start(params, optimizer), descent(loss, optimizer), observe, at)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Each sharpness in units of the method's own threshold, and whether the peak is nearest to that one."""
    dataset = sound(dataset)
    limits = {
        (kind, beta): lift(largest_curvature, method, dataset.learning_rate, dataset.momentum * beta)
        for kind, beta, method in ((0.0, 0.0, "heavy_ball"), (0.0, 1.0, "heavy_ball"), (1.0, 1.0, "nesterov"))
    }
    edge = xr.where(dataset.nesterov == 1, limits[1.0, 1.0], limits[0.0, 1.0])
    ratio = dataset.sharpness / edge
    peak = dataset.sharpness.max("step")
    reached = dataset.step.where(ratio >= 1).min("step")
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
        peak=highest.where(peak_known),
        # what is not known is not left out: it makes a finding void
        there=reached.notnull() | ~peak_known,
        early=(reached <= 0.75 * dataset.steps) | ~peak_known,
        end=end.where(end_known),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Where the sharpness hovers with little momentum, and peaks with much; whose threshold it is."""
    found: list[Finding] = []
    usual = select(dataset, learning_rate=lambda rate: rate >= USUAL)
    judged = usual if usual.diverged.size else dataset

    def add(what: str, band: tuple[float, float], values: xr.DataArray, chosen: xr.DataArray, *sides: str) -> None:
        if chosen.any():
            rows = chosen_per_seed(values, chosen, *sides)
            # the least and the largest of one seed are not two seeds
            found.append(Finding.of(what, band, every_seed(rows if rows.size > len(sides) else [])))

    def lost(runs: xr.Dataset, kept: xr.DataArray) -> str:
        others = int((~kept & ~runs.diverged).sum())
        return f"of {runs.diverged.size} runs {int(runs.diverged.sum())} diverged, {others} never got there"

    mild, strong = (select(judged, momentum=test) for test in (lambda beta: beta <= MILD, lambda beta: beta > MILD))
    hover = f"β ≤ {MILD:g}: sharpness over the threshold, median of the last quarter"
    said = f"{hover}, the middle run of each seed ({lost(mild, mild.there)}, which count)"
    add(said, HOVER, mild.end, ~mild.diverged, "median")
    said = f"{hover}, all runs of a seed that were there before it ({lost(mild, mild.early)} in time)"
    add(said, HOVER, mild.end, mild.early & ~mild.diverged, "min", "max")
    several = select(judged, momentum=lambda beta: beta >= MILD)
    apart = "share of a seed's runs whose peak is nearest to its own method's threshold, of the three"
    apart = f"{apart} ({lost(several, several.there)}, which count)"
    add(apart, (1.0, 1.0), several.own.where(several.peak.notnull()), ~several.diverged, "mean")
    for kind, name in NAMES.items():
        runs = select(strong, nesterov=kind)
        there = runs.there & ~runs.diverged
        what = f"{name}, β > {MILD:g}: the largest sharpness over the threshold, all runs of a seed that got there"
        add(f"{what} ({lost(runs, runs.there)})", PEAK, runs.peak, there, "min", "max")
        rates = np.unique(runs.learning_rate.values).tolist()
        if len(rates) > 1:
            low, high = (select(runs, learning_rate=rate) for rate in (rates[0], rates[-1]))
            others = runs.diverged.dims[1:]
            both = (low.there & ~low.diverged).any(others) & (high.there & ~high.diverged).any(others)
            higher = high.peak.max(others) - low.peak.max(others)
            what = f"{name}, β > {MILD:g}: by how much it overshoots more at η = {rates[-1]:g} than at {rates[0]:g}"
            add(f"{what}, seeds that got there at both", (0.0, np.inf), higher, both, "max")
        what = f"{name}, β > {MILD:g}: median of the last quarter, all runs of a seed that got there"
        add(what, HOVER, runs.end, there, "min", "max")
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Sharpness against the step with little and with much momentum, and where it peaks for every run."""
    figure, panels = plots.figure(
        1, 3, "Momentum moves the edge: up for Polyak's heavy ball, down for Nesterov's method"
    )
    usual = select(dataset, learning_rate=lambda rate: rate >= USUAL)
    for axes, beta in zip(panels[0], (MILD, 0.9), strict=False):
        for kind, name in NAMES.items():
            for point, tried in list(arms(select(usual, momentum=beta, nesterov=kind)))[-1:]:
                run, edge = recorded(tried), float(tried.edge.max())
                plots.seeds(axes, run.sharpness, f"{name}, η = {point['learning_rate']:g}", color=COLORS[kind])
                plots.theory(axes, run.step[[0, -1]], (edge, edge), None if kind else "own threshold")
        axes.set(title=f"β = {beta:g}", xlabel="step", ylabel="sharpness λ")
    peaks = panels[0, 2]
    betas = np.linspace(0, 0.95, 50)
    for kind, name in NAMES.items():
        runs = select(dataset, nesterov=kind)
        peak = runs.learning_rate * runs.sharpness.max("step") / 2
        plots.points(peaks, runs.momentum, peak.where(~runs.diverged), name, color=COLORS[kind])
        law = (1 + betas) / (1 + 2 * betas if kind else 1)
        plots.theory(peaks, betas, law, None if kind else "1 + β and (1 + β)/(1 + 2β)")
    peaks.set(title="every run's peak", xlabel="momentum β", ylabel="largest ηλ/2", ylim=(0, 2.6))
    for axes in panels[0]:
        plots.legend(axes)
    return figure


AXES = ("learning_rate", "momentum", "nesterov")
ARMS = [
    *((rate, 0.0, 0.0) for rate in (0.1, 0.2)),
    *((rate, 0.5, 0.0) for rate in (0.1, 0.15, 0.2)),
    *((rate, 0.9, 0.0) for rate in (0.1, 0.12, 0.15)),
    *((rate, 0.5, 1.0) for rate in (0.05, 0.07, 0.1)),
    *((rate, 0.9, 1.0) for rate in (0.04, 0.05, 0.07)),
    *((0.01, 0.5, kind) for kind in (0.0, 1.0)),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={
        "seeds": 2,
        "steps": 3_000,
        "points": 80,
        AXES: [(0.2, 0.5, 0.0), (0.1, 0.5, 1.0), (0.05, 0.9, 1.0), (0.01, 0.5, 0.0)],
    },
    paper={"seeds": 3, "data": "digits", "samples": 1_797, "width": 200, "steps": 20_000},
    control={"learning_rate": 0.005},
    precision="float32",
)
