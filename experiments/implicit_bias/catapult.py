"""Between two thresholds of the learning rate gradient descent throws itself out of a sharp valley into a flatter one.

Claim: A linear network with one hidden layer, trained on one datum from curvature λ0, has three phases. For ηλ0 < 2 the
loss falls monotonically and the curvature hardly moves; for 2 < ηλ0 < 4 the loss first grows, to the order of the
width, until the curvature has dropped below 2/η, and then converges there; for ηλ0 > 4 it diverges. At a finite width
the lower threshold is 4/(1 + √(1 − 8κ)) = 2 + 4κ + O(κ²), κ = f0²/(width λ0²), and the upper one is 4 exactly.

Source: Lewkowycz, Bahri, Dyer, Sohl-Dickstein & Gur-Ari 2020, arXiv 2003.02218, section 2, whose recursion for output
and curvature is the oracle; both thresholds are derived from it in research/oracles/catapult.py.

Departure: Lewkowycz et al. show one initialisation; here several, with every unit N(0, 1) and the target 0 as theirs,
and three widths. The other sides: with a target that is not 0 the recursion still holds, but not its invariant, and the
upper threshold is below 4 by more the narrower the network; with ReLU units and the target 1 nothing diverges: the
units that the catapult throws across zero are dead, and the curvature falls with them. But from ηλ0 = 4 on a growing
share of the networks, at ηλ0 = 8 nearly all, ends with every unit dead, at f = 0, having learnt nothing. (With the
target 0 these would count as converged. For deep ReLU networks on real data Lewkowycz et al. find a threshold near
12/λ0; a single datum shows none.)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import check_at_most, lift, per_seed, select
from research.oracles.catapult import catapult_path, thresholds
from research.statistics import crossing, every_seed, over_seeds

MARGINAL, LARGEST = 2.0, 4.0  # the thresholds of an infinitely wide network, in units of 1/λ0


class Observables(NamedTuple):
    output: Float[Array, ""]
    curvature: Float[Array, ""]


def simulate(
    key: Array,
    learning_rate: float,
    width: float,
    leak: float = 1.0,
    target: float = 0.0,
    *,
    most_units: int = 1024,
    steps: int = 600,
) -> Run:
    """One descent on (f − target)²/2, f = Σ v φ(u)/√width over the first `width` units, all N(0, 1) at the start.

    `learning_rate` is in units of 1/λ0, λ0 the curvature at the start: the squared length of f's gradient. φ is the
    identity on positive numbers and multiplies others by `leak`: 1 makes the network linear, 0 gives it ReLU units.
    """
    first, second = jax.random.normal(key, (2, most_units)) * (jnp.arange(most_units) < width)[None, :]
    output = lambda params: params[1] @ jnp.where(params[0] > 0, params[0], leak * params[0]) / jnp.sqrt(width)
    curvature = lambda params: optax.tree.norm(jax.grad(output)(params), squared=True)
    optimizer = optax.sgd(learning_rate / curvature((first, second)))
    loss = lambda params: optax.l2_loss(output(params), target)
    observe = lambda state: Observables(output(state.params), curvature(state.params))
    at = np.union1d(np.arange(41), log_spaced(steps, 20, first=40))
    return Run(start((first, second), optimizer), descent(loss, optimizer), observe, at)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Where each run ends, where the recursion ends, both thresholds, and where the runs of a seed say they are."""
    check_at_most(dataset, "width", "most_units")
    first = dataset.isel(step=0)
    begin = (first.output, first.curvature)
    rate = dataset.learning_rate / first.curvature
    at, network = dataset.step.astype(float), (dataset.width.astype(float), dataset.target)
    predicted = lift(catapult_path, *begin, rate, *network, at)
    limits = lift(thresholds, *begin, *network)
    loss, last = (dataset.output - dataset.target) ** 2 / 2, dataset.steps
    settles = _settles(dataset.output - dataset.target, rate * dataset.curvature, last)
    foreseen = _settles(predicted.outputs - dataset.target, rate * predicted.curvatures, last)
    rises = loss.max("step") > loss.isel(step=0) * (1 + 1e-9)
    right = (settles == (dataset.learning_rate < limits.divergence)) & (rises == (dataset.learning_rate > limits.spike))
    ratio = np.abs((dataset.output - dataset.target).isel(step=1) / (dataset.output - dataset.target).isel(step=0))
    known = limits.spike.notnull() & limits.divergence.notnull()
    deviation = np.abs(rate * (dataset.curvature - predicted.curvatures)).where(settles & foreseen, 0.0)
    return dataset.assign(
        loss=loss,
        relative_curvature=rate * dataset.curvature,
        predicted_loss=(predicted.outputs - dataset.target) ** 2 / 2,
        predicted_curvature=rate * predicted.curvatures,
        spike=limits.spike,
        divergence=limits.divergence,
        settles=settles,
        rises=rises,
        misplaced=(~right).astype(float).where(known),
        misjudged=(settles != foreseen).astype(float).where(predicted.curvatures.isel(step=0).notnull()),
        deviation=deviation.max("step").where(predicted.curvatures.isel(step=0).notnull()),
        final=(rate * dataset.curvature).sel(step=last),
        peak=loss.max("step") / first.width,
        measured_spike=xr.apply_ufunc(
            lambda rates, ratios: crossing(rates, ratios, 1.0),
            dataset.learning_rate,
            ratio,
            input_core_dims=[["learning_rate"], ["learning_rate"]],
            vectorize=True,
        )
        if dataset.learning_rate.ndim
        else xr.full_like(limits.spike, np.nan),
    )


def _settles(error: xr.DataArray, relative_curvature: xr.DataArray, last: xr.DataArray) -> xr.DataArray:
    """Whether a run ends where it is stable, ηλ < 2, and its loss falls, or is rounding; what is no number does not.

    `last` is the run's own last step: what is recorded beyond it, of longer runs, is padding.
    """
    size: xr.DataArray = abs(error)
    before = size.step.where(size.notnull() & (size.step < last)).max("step").fillna(0).astype(int)
    end = size.sel(step=last)
    falls = (end <= size.sel(step=before)) | (end <= 1e-9 * size.isel(step=0))
    return (relative_curvature.sel(step=last) < MARGINAL) & falls


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The three phases, both thresholds, the flatter minimum and the recursion; with a target, and with ReLU units."""
    linear = select(dataset, leak=1.0, target=0.0)
    targeted, rectified = select(dataset, leak=1.0, target=lambda value: value != 0), select(dataset, leak=0.0)
    found: list[Finding] = []

    def add(runs: xr.Dataset, what: str, band: tuple[float, float], values: xr.DataArray, *reduce: str) -> None:
        if runs.diverged.size:
            found.append(Finding.of(what, band, every_seed(per_seed(values, *reduce))))

    judged = linear if linear.diverged.size else dataset
    place = "share of a seed's runs that are not in the phase (falls; rises and converges; diverges) of their ηλ0"
    add(judged, f"{place}, thresholds 4/(1 + √(1 − 8κ)) and 4", (0.0, 0.0), judged.misplaced, "mean")
    if dataset.learning_rate.ndim:
        # The ratio of the first two errors is ηλ0 − 1 − κ(ηλ0)²: linear interpolation over a gap h of the grid is off
        # by at most κh²/4, h = 0.1 around the threshold, and the correction is at least 4κ.
        off = (linear.measured_spike - linear.spike) / (linear.spike - MARGINAL)
        rise = "ηλ0 from which the loss rises, interpolated: its distance to theory as a share of the correction 4κ"
        add(linear, rise, (-1e-3, 1e-3), off, "min", "max")
        bracket = xr.concat([_last_settled(linear), _first_unsettled(linear)], "end")
        add(linear, "ηλ0 that separates convergence from divergence, between two tried", (3.98, 4.02), bracket, "mean")
    thrown = (linear.learning_rate > linear.spike) & (linear.learning_rate < linear.divergence)
    if thrown.any():
        flatter = "2 < ηλ0 < 4: ηλ at the end, the largest of a seed's runs"
        add(linear, flatter, (0.0, MARGINAL), linear.final.where(thrown, 0.0))
    # On ηλ = 4 the recursion is s' = s(3 − s)², s = η²f²/width, which trebles an angle: rounding, 1e-16, grows at most
    # threefold a step (Lyapunov exponent ln 3) in the 20 steps that a catapult takes.
    same = "ηλ at any step against the recursion, the largest difference of a seed's runs that converge"
    for runs, said in ((linear, ""), (targeted, "target 1: ")):
        add(runs, said + same, (0.0, 1e-6), runs.deviation)
    fate = "target 1: share of a seed's runs that converge where the recursion diverges, or the reverse"
    add(targeted, fate, (0.0, 0.0), targeted.misjudged, "mean")
    if targeted.diverged.size and dataset.learning_rate.ndim:
        narrow = select(targeted, width=float(np.min(targeted.width)))
        edge = per_seed(_first_unsettled(narrow), "min")
        what = f"target 1, width {float(np.min(targeted.width)):g}: the least ηλ0 that does not converge"
        found.append(Finding.of(what, (3.98, 4.02), over_seeds(edge)))
    beyond = select(rectified, learning_rate=lambda rate: rate > LARGEST)
    said = "ReLU units, ηλ0 > 4: share of a seed's runs that"
    add(beyond, f"{said} diverge, all by the linear network's law", (1.0, 1.0), beyond.diverged.astype(float), "mean")
    dead = f"{int((beyond.final == 0).sum())} of {beyond.diverged.size} end with every unit dead"
    learnt = (beyond.settles & (beyond.final > 0)).astype(float)
    add(beyond, f"{said} learn, none by that law ({dead})", (0.0, 0.0), learnt, "mean")
    return found


def _last_settled(runs: xr.Dataset) -> xr.DataArray:
    """The largest learning rate that converges, along the axis."""
    return runs.learning_rate.where(runs.settles).max("learning_rate")


def _first_unsettled(runs: xr.Dataset) -> xr.DataArray:
    """The smallest learning rate that does not converge, along the axis."""
    return runs.learning_rate.where(~runs.settles).min("learning_rate")


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) loss and (b) curvature against the step in three phases, (c) where the runs end, (d) the lower threshold."""
    title = "The catapult: out of the sharp valley into a flatter one"
    figure, ((losses, curvatures), (ends, limits)) = plots.figure(2, 2, title)
    linear = select(dataset, leak=1.0, target=0.0)
    widest = select(linear, width=float(np.max(dataset.width)))
    rates = np.atleast_1d(dataset.learning_rate.values)
    phases = (
        ("falls", rates[rates < 1]),
        ("catapult", rates[(rates > 2) & (rates <= 3)]),
        ("diverges", rates[rates > 4]),
    )
    for number, (phase, within) in enumerate(phases):
        if widest.diverged.size and within.size:
            rate, style = (within[0] if phase == "diverges" else within[-1]), {"color": f"C{number}"}
            runs = select(widest.sel(step=widest.step <= 40), learning_rate=rate)
            runs = runs.squeeze([dimension for dimension in runs.diverged.dims if dimension != "seed"])
            relative = lambda values: (values / values.isel(step=0)).clip(1e-9, 1e5)
            plots.seeds(losses, relative(runs.loss), f"ηλ0 = {rate:g}: {phase}", **style)
            plots.seeds(curvatures, runs.relative_curvature.clip(0, 6), f"ηλ0 = {rate:g}: {phase}", **style)
            label = None if number else "recursion (median seed)"
            plots.theory(losses, runs.step, relative(runs.predicted_loss).median("seed"), label)
            plots.theory(curvatures, runs.step, runs.predicted_curvature.clip(0, 6).median("seed"), label)
    narrow = float(np.min(dataset.width))
    shown = {
        "linear": {"leak": 1.0, "target": 0.0},
        f"width {narrow:g}, target 1": {"leak": 1.0, "target": 1.0, "width": narrow},
        "ReLU (bottom: dead)": {"leak": 0.0},
    }
    for (name, chosen), color in zip(shown.items(), ("C0", "C4", "C3"), strict=True):
        runs = select(dataset, **chosen)
        plots.points(ends, runs.learning_rate, runs.final.where(runs.settles, 8.0).clip(1e-3), name, color=color)
    for width in np.unique(linear.width.values)[::-1].tolist():
        runs = select(linear, width=width)
        plots.points(limits, runs.spike - MARGINAL, runs.measured_spike - MARGINAL, f"width {width:g}", alpha=0.8)
    plots.theory(limits, limits.get_xlim(), limits.get_xlim(), "4/(1 + √(1 − 8κ)) − 2")
    for axes in (ends, curvatures):
        axes.axhline(MARGINAL, color="black", linestyle=":", linewidth=1.2, label="ηλ = 2")
    for rate in (MARGINAL, LARGEST):
        ends.axvline(rate, color="black", linestyle="--", linewidth=1.2, label="ηλ0 = 2 and 4" if rate < 3 else None)
    losses.set(title="a  three phases", yscale="log", xlabel="step", ylabel="loss / loss at the start")
    curvatures.set(title="b  the curvature drops below 2/η", xlabel="step", ylabel="ηλ")
    ends.set(
        title="c  where the runs end", xscale="log", yscale="log", xlabel="ηλ0", ylabel="ηλ at the end (8: diverges)"
    )
    limits.set(title="d  the lower threshold at a finite width", xscale="log", yscale="log")
    limits.set(xlabel="4/(1 + √(1 − 8κ)) − 2", ylabel="ηλ0 from which the loss rises, − 2")
    for axes in (losses, curvatures, ends, limits):
        plots.legend(axes, loc="lower left" if axes is ends else "best")
    return figure


ARMS = [
    (1024.0, 1.0, 0.0),
    (128.0, 1.0, 0.0),
    (16.0, 1.0, 0.0),
    (1024.0, 1.0, 1.0),
    (128.0, 1.0, 1.0),
    (16.0, 1.0, 1.0),
    (1024.0, 0.0, 1.0),
]
RISING = tuple(np.round(np.arange(1.95, 3.06, 0.1), 2).tolist())
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={
        "seeds": 16,
        ("width", "leak", "target"): ARMS,
        "learning_rate": (
            0.5,
            1.0,
            1.5,
            1.8,
            *RISING,
            3.3,
            3.5,
            3.7,
            3.8,
            3.9,
            3.99,
            4.01,
            4.1,
            4.3,
            5,
            6,
            8,
            12,
            16,
            24,
        ),
    },
    smoke={"seeds": 3, "learning_rate": (1.0, *RISING[:6], 3.0, 3.5, 3.99, 4.01, 6.0)},
    paper={"seeds": 64, "most_units": 1024, "steps": 5000},
    control={("width", "leak", "target"): [(1024.0, 0.0, 0.0)]},
)
