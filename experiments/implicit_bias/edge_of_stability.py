"""Gradient descent sharpens the loss until it is just no longer stable, and goes on learning there.

Claim: The sharpness λ, the largest eigenvalue of the loss's Hessian, rises as long as it is below 2/η, beyond which
steps of the learning rate η overshoot. Where the gradient flow would take it beyond, gradient descent hovers at 2/η
instead, while the loss goes on falling, though not at every step: λ at the end is 2/η whatever the data.

Source: Cohen, Kaur, Li, Kolter & Talwalkar 2021, arXiv 2103.00065 (figure 1; their toy data, their tanh networks with
default initialisation). Why it stays there: Damian, Nichani & Lee 2023, arXiv 2209.15594.

Departure: A Chebyshev polynomial of degree 4 and 100 digits (8 × 8 pixels, one-hot), two hidden layers of 32 tanh
units; biases begin at 0. With the images at hand, `--paper --set data=mnist --set samples=5000` (or fashion_mnist,
cifar10) is the paper's own problem. There (2 seeds, eight rates in one sweep, 2,000 steps) ηλ/2 ends at 1.02, 1.04,
1.04, 1.05 for η = .1, .15, .2, .3, up to .03 above the band, and at .09, .2, .48, .79 for .02, .03, .05, .07, still on
the way. The flow foretells all sixteen: by its time 140 its λ is .82 to .84 times 2/.07, and by 100 beyond 2/.1 (its
gradients in float32, its balance off by 3e-3). What a run will do is foretold by the flow's sharpness up to its own
time η · steps. As a yes or no that is hardly better than one least η for each problem, the best in hindsight, whose
score stands beside it; so where the flow stays below the edge the largest λ itself is judged too, against what the
other seeds reach at that rate: a rival chosen once the runs had been seen, which no theorem names. All that is foretold
wrongly is cross-entropy, at the rate with which the flow just gets to 2/η. Other sides: with cross-entropy the
sharpness falls again once the samples are fitted; noise of mini-batches keeps it below 2/η. Where the flow's own
sharpness falls again the descent leaves the edge too.

Bands: along the sharpest direction the weights are multiplied by 1 − ηλ a step. At ηλ/2 = 1.03 an oscillation grows by
1.06 a step, at 0.98 it shrinks by 0.96: neither lasts the hundreds of steps of the last quarter, whose median is taken.
"""

from typing import NamedTuple

import jax
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import arms, chosen_per_seed, lift, recorded, select, sound
from research.observables.curvature import hessian_spectrum
from research.oracles.gradient_flow import flow_sharpness
from research.sharpening import Data, Loss, sharpening_problem
from research.statistics import every_seed, over_seeds, slope_within

HOVER = (0.98, 1.03)  # of 2/η
BEYOND, BELOW = 1.1, 0.95  # of 2/η: where the flow's sharpness leaves no doubt
RISE = 2  # of the flow's sharpness at the start: a run that does nothing would be foretold if it did not rise
ACCURACY = 0.01  # of 2/η, of the median over the last quarter


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
    momentum: float = 0.0,
    *,
    data: Data = "chebyshev",
    objective: Loss = "squared_error",
    batch: int = 0,
    samples: int = 20,
    steps: int = 6_000,
    width: int = 32,
    depth: int = 2,
    points: int = 36,
    iterations: int = 40,
) -> Run:
    """One descent on the mean loss (halved where squared) from the default initialisation; `batch` 0: on all samples.

    The sharpness is found by that many iterations of Lanczos's method, `residual` is its error at most.
    """
    problem_key, run_key = jax.random.split(key)
    X, Y, params, initial, mean_loss = sharpening_problem(
        problem_key, data, objective, samples=samples, width=width, depth=depth
    )
    optimizer = optax.sgd(learning_rate, momentum=momentum)
    step = descent(mean_loss, optimizer)
    if batch:
        chosen = lambda sample_key: jax.random.randint(sample_key, (batch,), 0, samples)
        step = stochastic_descent(mean_loss, optimizer, chosen)

    def observe(state: tuple) -> Observables:
        largest = hessian_spectrum(mean_loss, state[0], iterations=iterations)
        return Observables(mean_loss(state[0]), largest.values[0], largest.residuals[0])

    at = np.union1d(log_spaced(steps, points // 3), np.rint(np.linspace(0, steps, points)).astype(int))
    return Run(start(params, optimizer, run_key), step, observe, at, Given(X, Y, initial))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Each sharpness in units of 2/η, and what the flow's would be by the time the descent reaches."""
    dataset = sound(dataset)
    edge, horizon = 2 / dataset.learning_rate, dataset.learning_rate * dataset.steps
    ends = np.unique(horizon.values)
    grid = np.unique(np.r_[0.0, ends, np.geomspace(ends[0] / 30, ends[-1], 40)])
    times = xr.DataArray(grid, {"time": grid}, "time")
    budget, network = 2 * BEYOND**2 * dataset.steps, (dataset.width, dataset.depth, dataset.objective)
    flow = lift(flow_sharpness, dataset.X, dataset.Y, dataset.initial, times, budget, *network)
    foreseen = flow.where(times <= horizon).max("time") / edge
    ratio = dataset.sharpness / edge
    error = dataset.residual / edge
    # a Ritz value is never too large, so λ has reached the edge where it has, and has not where the bound says so
    decided = (ratio >= 1).any("step") | ((ratio + error < 1) | ratio.isnull()).all("step")
    tail = (dataset.step >= 0.75 * dataset.steps) & (dataset.step <= dataset.steps)
    end = ratio.where(tail).median("step")
    crossing = dataset.step.where(ratio >= 1).min("step")
    return dataset.assign(
        flow=flow,
        crossing=crossing,
        foreseen=foreseen.where(flow.isel(time=0).notnull()),
        ratio=ratio,
        sharp=dataset.sharpness.where(tail).median("step"),
        peak=ratio.max("step").where(decided),
        end=end.where((ratio + error).where(tail).median("step") - end <= ACCURACY),
        fall=dataset.loss.where(tail).median("step") / dataset.loss.where(dataset.step == crossing).max("step"),
    )


def balanced_accuracy(runs: xr.Dataset, foretold: xr.DataArray) -> np.ndarray:
    """In every seed, the share of runs whose fate was foretold (λ reaches 2/η or not), the mean over the two fates.

    Runs that diverged are left out. NaN where only one fate was foretold, which would be no test.
    """
    reaches, kept = runs.peak >= 1, ~runs.diverged
    others = [dimension for dimension in kept.dims if dimension != "seed"]
    right = (reaches == foretold).where(kept)
    share = xr.concat([right.where(reaches == fate).mean(others) for fate in (True, False)], "fate").mean("fate")
    both = (foretold & kept).any(others) & (~foretold & kept).any(others)
    known = (runs.peak.notnull() & runs.foreseen.notnull() | ~kept).all(others)
    return np.atleast_1d(share.where(both & known).values)


def by_rate_alone(runs: xr.Dataset) -> xr.DataArray:
    """Whether λ reaches 2/η, by a least learning rate for each problem: in hindsight, the one with most runs right."""
    rates, reaches = xr.broadcast(runs.learning_rate, runs.peak >= 1)
    foretold = xr.zeros_like(reaches)
    for data in np.unique(runs.data):
        for objective in np.unique(runs.objective):
            here = (runs.data == data) & (runs.objective == objective) & ~runs.diverged
            limits = [*np.unique(rates.where(here, np.inf)), np.inf]
            right = [int((((rates >= limit) == reaches) & here).sum()) for limit in limits]
            foretold = foretold | here & (rates >= limits[int(np.argmax(right))])
    return foretold


def error_against_rate(runs: xr.Dataset) -> xr.DataArray:
    """The error of the flow's ln of the largest λ, and that of the mean of all other seeds at the same rate: `of`."""
    peak = np.log(runs.peak.where(~runs.diverged))
    others = (peak.sum("seed") - peak.fillna(0)) / (peak.count("seed") - peak.notnull())
    return xr.concat([abs(peak - np.log(runs.foreseen)), abs(peak - others)], "of")


def findings(dataset: xr.Dataset) -> list[Finding]:
    """What the flow foretells, where the sharpness hovers and where it never comes, the law in η; both other sides."""
    found: list[Finding] = []
    full, noisy = select(dataset, batch=0), select(dataset, batch=lambda batch: batch > 0)
    squared, entropy = (select(full, objective=name) for name in ("squared_error", "cross_entropy"))
    # what the flow does not foretell is not left out: it makes a finding void
    beyond, disturbed = (~(runs.foreseen <= BEYOND) & ~runs.diverged for runs in (squared, noisy))
    told = lambda runs, values: values.where(runs.foreseen.notnull())

    def add(what: str, band: tuple[float, float], values: xr.DataArray, chosen: xr.DataArray, *sides: str) -> None:
        if chosen.any():
            rows = chosen_per_seed(values, chosen, *sides)
            # the least and the largest of one seed are not two seeds
            found.append(Finding.of(what, band, every_seed(rows)))

    if full.diverged.size:
        lost = f"{int(full.diverged.sum())} of {full.diverged.size} diverged"
        missed = lambda runs: int((((runs.peak >= 1) != (runs.foreseen >= 1)) & ~runs.diverged).sum())
        said = lambda runs: f"{missed(runs)} of {runs.diverged.size}"
        rival = float(np.mean(balanced_accuracy(full, by_rate_alone(full))))
        wrong = f"wrong: squared error {said(squared)}, cross-entropy {said(entropy)}"
        beside = f"one limit on η for each problem, in hindsight: {rival:.3f}"
        share = "does λ reach 2/η? Balanced accuracy of what the flow's sharpness foretells"
        share = f"{share} ({lost}; {wrong}; {beside})"
        found.append(Finding.of(share, (0.95, 1.0), over_seeds(balanced_accuracy(full, full.foreseen >= 1))))
    hover = f"the flow goes beyond {BEYOND} · 2/η: ηλ/2, median of the last quarter"
    add(f"{hover}, the middle run of each seed", HOVER, told(squared, squared.end), beyond, "median")
    add(f"{hover}, all runs of a seed", HOVER, told(squared, squared.end), beyond, "min", "max")
    if beyond.any() and len(np.unique(squared.learning_rate.where(beyond))) > 2:
        rates, sharp = (np.log(each).where(beyond) for each in xr.broadcast(squared.learning_rate, squared.sharp))
        dimensions = [dimension for dimension in beyond.dims if dimension != "seed"]
        flat = lambda values: values.stack(run=dimensions)
        rows = slope_within(flat(rates), flat(sharp), flat(beyond), "run")
        away = abs(rates - rates.mean(dimensions))
        allowed = np.log(HOVER[1] / HOVER[0]) / 2 * float((away.sum(dimensions) / (away**2).sum(dimensions)).min())
        law = "slope of ln λ on ln η over these runs, data pooled"
        found.append(Finding.of(law, (-1 - allowed, -1 + allowed), every_seed(rows)))
    learns = "loss in the last quarter over that when λ reached 2/η, all runs of a seed that did in the first half"
    add(learns, (0.0, 1.0), squared.fall, beyond & (squared.crossing <= squared.steps / 2), "max")
    never = f"the flow stays below {BELOW} · 2/η: the largest ηλ/2 of a run, all runs of a seed"
    below = ~(squared.foreseen >= BELOW) & ~squared.diverged
    add(never, (0.0, 1.0), told(squared, squared.peak), below, "max")
    risen = below & ~(squared.foreseen * 2 / squared.learning_rate < RISE * squared.flow.isel(time=0))
    if risen.any():
        of_flow = (squared.peak / squared.foreseen).where(risen)
        flow, rate = (chosen_per_seed(each, risen, "mean") for each in error_against_rate(squared))
        near = f"the largest λ over the flow's from {float(of_flow.min()):.3f} to {float(of_flow.max()):.3f}"
        what = f"the same, λ at least {RISE} times that at the start: error of ln λ foretold by the flow ({near})"
        against = "that of the other seeds' mean at the same rate (a rival chosen after the runs)"
        what = f"{what} over {against}, means over a seed's runs"
        found.append(Finding.of(what, (0.0, 1.0), every_seed(flow / rate)))
    late = "cross-entropy, λ has reached 2/η: ηλ/2, median of the last quarter, all runs of a seed"
    add(late, (0.0, HOVER[0]), entropy.end, (entropy.peak >= 1) & ~entropy.diverged, "max")
    under = f"mini-batches, the flow goes beyond {BEYOND} · 2/η: ηλ/2, median of the last quarter, all runs of a seed"
    add(under, (0.0, HOVER[0]), told(noisy, noisy.end), disturbed, "max")
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Loss over sharpness against the step on two problems; where all runs end; the loss and noise that differ."""
    figure, panels = plots.figure(2, 3, "Gradient descent works at the edge of stability, λ = 2/η")
    full = select(dataset, batch=0, objective="squared_error")
    for (loss, sharp), data in zip(panels[:, :2].T, np.unique(full.data.values)[::-1], strict=False):
        tried = [(point["learning_rate"], recorded(run)) for point, run in arms(select(full, data=data))]
        drawn = [(rate, run.isel(seed=0)) for rate, run in tried[:: -max(1, len(tried) // 4)][:4] if run.seed.size]
        for number, (rate, run) in enumerate(drawn):
            style = {"color": f"C{number}", "linewidth": 1.3, "label": f"η = {rate:g}"}
            loss.plot(run.step, run.loss, **style)
            sharp.plot(run.step, run.sharpness, **style)
            edge = {"color": f"C{number}", "label": None if number else "2/η, same colour"}
            plots.theory(sharp, run.step[[0, -1]], (2 / rate, 2 / rate), **edge)
        loss.set(title=f"{data}: the loss falls", yscale="log", xlabel="step", ylabel="loss (one seed)")
        sharp.set(title=f"{data}: λ rises to 2/η and hovers", xlabel="step", ylabel="sharpness λ (one seed)")
        if drawn:
            sharp.set_ylim(0, 1.9 * max(float(run.sharpness.max()) for _, run in drawn))
    ends, sides = panels[:, 2]
    for number, data in enumerate(np.unique(full.data.values)):
        runs = select(full, data=data)
        if runs.diverged.size:
            plots.points(ends, runs.foreseen, runs.end, str(data), color=f"C{number}")
    limits = np.array([1e-2, 1.0, 1e1])
    plots.theory(ends, limits, np.minimum(limits, 1), "the smaller of the flow's λ and 2/η")
    ends.set(title="where every run ends", xscale="log", yscale="log", xlim=(1e-2, 12), ylim=(1e-2, 2.5))
    ends.set(xlabel="ηλ/2 that the flow would reach", ylabel="ηλ/2, median of the last quarter")
    other = {
        "squared error": full,
        "cross-entropy": select(dataset, batch=0, objective="cross_entropy"),
        "mini-batches": select(dataset, batch=lambda batch: batch > 0),
    }
    for number, (name, runs) in enumerate(other.items()):
        for point, run in list(arms(select(runs, data=lambda data: data != "chebyshev")))[-1:]:
            label = f"{name}, η = {point['learning_rate']:g}"
            plots.seeds(sides, recorded(run).ratio, label, color=f"C{number}")
    sides.axhline(1.0, color="black", linestyle="--", linewidth=1.2, label="λ = 2/η")
    sides.set(title="another loss, and noise (digits)", xscale="log", xlabel="step", ylabel="ηλ/2")
    for axes in panels.ravel():
        axes.set_visible(axes.has_data())  # an override may leave one problem only
        plots.legend(axes, **({"loc": "upper left", "ncols": 3} if axes in panels[1, :2] else {}))
    return figure


AXES = ("data", "objective", "batch", "samples", "steps", "learning_rate")
CHEBYSHEV = (0.02, 0.03, 0.045, 0.07, 0.1, 0.15, 0.2, 0.3)
DIGITS = (0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)
ARMS = [
    *(("chebyshev", "squared_error", 0, 20, 6_000, rate) for rate in CHEBYSHEV),
    *(("digits", "squared_error", 0, 100, 1_500, rate) for rate in DIGITS),
    *(("digits", "cross_entropy", 0, 100, 1_500, rate) for rate in (1.5, 1.75)),
    *(("digits", "squared_error", 10, 100, 1_500, rate) for rate in (0.4, 0.6)),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, AXES: [("chebyshev", "squared_error", 0, 20, 3_000, rate) for rate in (0.07, 0.12, 0.15)]},
    paper={"seeds": 3, "width": 200, AXES: [("digits", "squared_error", 0, 1_797, 20_000, rate) for rate in DIGITS]},
    control={"momentum": 0.9},
    precision="float32",
)
