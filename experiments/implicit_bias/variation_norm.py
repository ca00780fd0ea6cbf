"""Training both layers of a wide ReLU network maximises the variation-norm margin; the output layer, the kernel's.

Claim: On the logistic loss, gradient descent on both layers of an infinitely wide network f = Σ a max(b·x, 0)/m turns
towards the largest margin in the variation norm F1, the path norm of the network, Σ|a||b|/m, being what it pays. With
the hidden layer fixed as drawn it turns to the largest margin in F2, √(Σa²/m): a kernel support vector machine.

Source: Chizat & Bach 2020, arXiv 2002.04486 (infinite width, infinite time, no rate for both layers); steps, data and
figures as in their code, github.com/lchizat/2020-implicit-bias-wide-2NN: descent on ln Σ exp(−y f), whose gradient
keeps its size, with the rate 0.5/√(t + 1), times max(1, √(Σa²/m)) where only the output layer learns.

Departure: Chizat & Bach have no reference for the margin, which they plot against the width; here it is divided by the
largest there is, by linear programming over the whole sphere with a certified bracket. That takes inputs in the plane
(and a constant), 12 of them in 3 × 3 discs; theirs in that figure have 15 entries and are 256. The 12 and the 30 000
steps were chosen after a first run with 16 and 20 000 had given 0.970 [0.877, 0.984] of it. The largest F2 margin is
that of the m features at hand; where it is small (3 × 3 discs), the output layer takes far longer than both layers,
so that it is judged in 2 × 2 discs too. Narrow networks are the other side: of eight of width 8 three end far below the
largest margin (at 0, 0.33 and 0.74 of it), the others at 0.96 to 0.995. The path norm bounds the F1 norm from above,
so that no run can have more than the largest margin. Margins say more than classifiers: in one of the eight draws of
2 × 2 discs functions within 1 % of the largest margin are further from the F1 classifier than the F2 classifier is (by
linear programming), and there a run with 98.9 % of it is not nearer to the first.
"""

from collections.abc import Callable
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
from research.labels import largest, lift, norm, per_seed, select, sound, table
from research.optimizers import inverse_square_root
from research.oracles.variation_norm import feature_margin, kernel_classifier, variation_classifier, variation_margin
from research.statistics import every_seed, over_seeds, slope_within

REACHED = (0.95, 1 + 1e-6)  # of the largest margin, which is known to that precision
APART = 0.05  # least distance, as unit vectors, at which the two classifiers count as two
SIDE = 25
LINE = np.linspace(-0.7, 0.7, SIDE)
PLANE = np.stack([np.ones(SIDE**2), np.tile(LINE, SIDE), np.repeat(LINE, SIDE)], axis=1)


class Observables(NamedTuple):
    outputs: Float[Array, "sample"]
    landscape: Float[Array, "point"]
    path_norm: Float[Array, ""]
    output_norm: Float[Array, ""]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    hidden: Float[Array, "unit feature"]


def clustered(key: Array, samples: int, clusters: int) -> tuple[Array, Array]:
    """Points of the plane with a constant 1 before them, in clusters² discs on a grid, and their labels.

    A disc has radius 1/(3 clusters − 1), its neighbours' centres are three radii away; half of the discs, drawn at
    random and rounded down, have the label −1. As in the code of Chizat & Bach, where the radius is uniform too.
    """
    label_key, disc_key, place_key = jax.random.split(key, 3)
    radius = 1 / (3 * clusters - 1)
    labels = jnp.where(jax.random.permutation(label_key, clusters**2) < clusters**2 // 2, -1.0, 1.0)
    disc = jax.random.randint(disc_key, (samples,), 0, clusters**2)
    turn, way = jax.random.uniform(place_key, (2, samples))
    shift = way[:, None] * jnp.stack([jnp.cos(2 * jnp.pi * turn), jnp.sin(2 * jnp.pi * turn)], axis=1)
    centre = 1 + 3.0 * jnp.stack([disc % clusters, disc // clusters], axis=1)
    return jnp.concatenate([jnp.ones((samples, 1)), radius * (centre + shift) - 0.5], axis=1), labels[disc]


def simulate(
    key: Array,
    both: float,
    learning_rate: float = 0.5,
    *,
    width: int = 128,
    samples: int = 12,
    clusters: int = 3,
    steps: int = 30_000,
) -> Run:
    """One descent on ln Σ exp(−y f), f = Σ a max(b·x, 0)/width, all weights N(0, 1) at the start.

    For `both` 0 the hidden layer stays and a starts at 0. The learning rate is that of a unit's own weights, times
    `width` for the mean over units, over √(t + 1); for `both` 0 it is times max(1, √(Σa²/width)) too.
    """
    data_key, init_key = jax.random.split(key)
    X, y = clustered(data_key, samples, clusters)
    drawn = jax.random.normal(init_key, (width, 4))
    hidden = drawn[:, :3]
    output = lambda params, X: jax.nn.relu(X @ params[0].T) @ params[1] / width
    loss = lambda params: jax.nn.logsumexp(-y * output(params, X))
    size = lambda readout: jnp.sqrt(jnp.mean(readout**2))

    def scaled(updates: tuple, params: tuple) -> tuple:
        return both * updates[0], updates[1] * jnp.where(both > 0, 1.0, jnp.maximum(1.0, size(params[1])))

    optimizer = optax.chain(optax.stateless(scaled), optax.sgd(inverse_square_root(width * learning_rate)))

    def observe(state: tuple) -> Observables:
        b, a = state[0]
        path = jnp.mean(jnp.abs(a) * jnp.linalg.norm(b, axis=1))
        return Observables(output((b, a), X), output((b, a), jnp.asarray(PLANE, X.dtype)), path, size(a))

    begin = start((hidden, both * drawn[:, 3]), optimizer)
    return Run(begin, descent(loss, optimizer), observe, log_spaced(steps, 30, first=10), Given(X, y, hidden))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The margin of each run in both norms over the largest there is, and which of the two classifiers it is nearer to.

    `nearer` is the distance to the F1 classifier over that to the F2 classifier, of outputs over the plane as unit
    vectors; NaN where the two classifiers are not apart.
    """
    dataset = sound(dataset)
    plane = xr.DataArray(PLANE, dims=("point", "feature"))
    bracket = lift(variation_margin, dataset.X, dataset.y)
    first = lift(variation_classifier, dataset.X, dataset.y, plane)
    second = lift(kernel_classifier, dataset.X, dataset.y, plane)
    features = lift(feature_margin, dataset.X, dataset.y, dataset.hidden.where(dataset.both == 0))
    unit = lambda values: values / norm(values, "point")
    away = lambda other: norm(unit(dataset.landscape) - unit(other), "point")
    apart = norm(unit(first) - unit(second), "point")
    least = (dataset.outputs * dataset.y).min("sample", skipna=False)
    share = least / dataset.path_norm / bracket.upper
    return dataset.assign(
        bracket=bracket.lower / bracket.upper,
        first=first,
        second=second,
        share=share,
        of_features=least / dataset.output_norm.where(dataset.both == 0) / features,
        nearer=(away(first) / away(second)).where(apart > APART),
        closing=_closing(dataset, share),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The largest F1 margin, its approach in time and in width; F2 for the output layer; which classifier it is."""
    found: list[Finding] = []
    both, alone = select(dataset, both=1.0), select(dataset, both=0.0)
    hard = largest(both if both.diverged.size else dataset, "clusters")
    wide = largest(hard, "width")
    most, few = int(dataset.clusters.max()), int(dataset.clusters.min())

    def add(runs: xr.Dataset, said: str, band: tuple, variable: str, interval: Callable = every_seed) -> None:
        if runs.diverged.size:
            outlook = _outlook(runs, variable) if band == REACHED else ""
            found.append(Finding.of(said, band, interval(per_seed(_end(runs, variable), "mean")), outlook))

    margin, only = "margin over path norm, share of the largest F1 margin", "output layer alone"
    which = "distance to the F1 classifier over the distance to the F2 classifier"
    add(wide, f"{most}² discs, width {int(wide.width.max())}: {margin}", REACHED, "share")
    add(wide, "slope on ln t of ln(the missing share), last decade", (-np.inf, 0.0), "closing", over_seeds)
    if np.unique(hard.width.values).size > 1:
        rows = table(hard.assign(final=_end(hard, "share")), "final", "width")
        narrow, widest = rows.isel(width=0), rows.isel(width=-1)
        below = f"{int((narrow < REACHED[0]).sum())} of {narrow.size} seeds have less than {REACHED[0]}"
        said = f"what width {int(widest.width)} has more than width {int(narrow.width)} (there {below}) of that share"
        found.append(Finding.of(said, (0.0, np.inf), every_seed((widest - narrow).values)))
    for clusters in dict.fromkeys((few, most)):
        data, runs = f"{clusters}² discs", select(alone, clusters=clusters)
        for number, rate in enumerate(np.unique(dataset.learning_rate.values).tolist()):
            trained = largest(select(both, clusters=clusters, learning_rate=rate), "width")
            if clusters < most:
                add(trained, f"{data}, learning rate {rate:g}: {margin}", REACHED, "share")
            if not number:
                add(trained, f"both layers, {data}: {which}", (0.0, 1.0), "nearer")
        add(runs, f"{only}, {data}: share of the largest F2 margin of its features", REACHED, "of_features")
        if clusters == few:
            add(runs, f"{only}, {data}: {which}", (1.0, np.inf), "nearer")
            add(runs, f"{only}, {data}: {margin}", (0.0, REACHED[0]), "share")
    return found


def _end(runs: xr.Dataset, variable: str) -> xr.DataArray:
    """The variable at the last step of each run, or as it is where it has no steps."""
    return runs[variable].sel(step=runs.steps) if "step" in runs[variable].dims else runs[variable]


def _outlook(runs: xr.Dataset, variable: str) -> str:
    """When the worst run would be there at the pace of its last decade; "" if not within three more of them."""
    missing, pace = 1 - _end(runs, variable), _closing(runs, runs[variable])
    time = runs.steps * ((1 - REACHED[0]) / missing.clip(1e-9)) ** (1 / pace)
    later = float(time.where(pace < 0, np.inf).where(missing > 1 - REACHED[0], 0.0).max())
    near = 0 < later <= 1e3 * float(runs.steps.max())
    return f"at the pace of the last decade, from t = {later:.0e} on" if near else ""


def _closing(runs: xr.Dataset, share: xr.DataArray) -> xr.DataArray:
    """The slope of ln(missing share) on ln t over the last decade of each run."""
    late = (runs.step >= runs.steps / 10) & (runs.step <= runs.steps)
    return slope_within(np.log(runs.step.where(late)), np.log((1 - share).where(share < 1)), late)


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a, b) the two classifiers of a seed; (c) margin against width, (d, e) margins and (f) distances against time."""
    figure, panels = plots.figure(2, 3, "Both layers: the variation norm. The output layer alone: the kernel's norm")
    (first, second, widths), (times, alone, nearer) = panels
    both, only = select(dataset, both=1.0), select(dataset, both=0.0)
    hard = largest(both, "clusters")
    for axes, runs, name in ((first, largest(hard, "width"), "first"), (second, largest(only, "clusters"), "second")):
        if runs.diverged.size:
            run = runs.isel(dict.fromkeys(runs.diverged.dims, 0))
            shape = lambda values: values.values.reshape(SIDE, SIDE)
            ended = shape(run.landscape.isel(step=-1))
            axes.contourf(LINE, LINE, ended, levels=[-np.inf, 0, np.inf], colors=["C0", "C1"], alpha=0.3)
            axes.contour(LINE, LINE, shape(run[name]), levels=[0], colors="black", linestyles="--")
            plots.theory(axes, [], [], f"largest {'F1' if name == 'first' else 'F2'} margin")
            for label, marker, color in ((-1, "_", "C0"), (1, "+", "C1")):
                chosen = run.X.where(run.y == label, drop=True)
                axes.plot(chosen.isel(feature=1), chosen.isel(feature=2), marker, color=color, ms=8, mew=2)
        axes.set(xlabel="x₁", ylabel="x₂", aspect="equal")
        axes.grid(False)
    if hard.diverged.size:
        rows = table(hard.assign(final=_end(hard, "share")), "final", "width")
        plots.seeds(widths, rows, "both layers", color="C0", marker="o", ms=3)
        for number, width in enumerate(rows.width.values.tolist()):
            runs = select(hard, width=width)
            plots.seeds(times, _line(runs.share), f"m = {width}", color=f"C{number}")
    for number, clusters in enumerate(np.unique(dataset.clusters.values)[::-1].tolist()):
        if select(both, clusters=clusters).diverged.size:
            runs = largest(select(both, clusters=clusters), "width")
            plots.seeds(nearer, _line(runs.nearer), f"both layers, {clusters}² discs", color=f"C{number}")
        runs = select(only, clusters=clusters)
        if runs.diverged.size:
            plots.seeds(alone, _line(runs.of_features), f"{clusters}² discs", color=f"C{number}")
            said = f"output layer, {clusters}² discs"
            plots.seeds(nearer, _line(runs.nearer), said, color=f"C{number + 2}")
            plots.points(widths, runs.width, _end(runs, "share"), said, color=f"C{number + 2}")
    for axes, said in (
        (widths, "largest F1 margin"),
        (times, "largest F1 margin"),
        (alone, "largest F2 margin"),
        (nearer, "as far from both"),
    ):
        plots.theory(axes, (0, 1), (1, 1), said, transform=axes.get_yaxis_transform())
    widths.axhspan(float(dataset.bracket.min()), 1.0, color="black")  # the bracket of the largest
    first.set_title("a  both layers")
    second.set_title("b  output layer alone")
    widths.set(
        title="c  margin against the width",
        xlabel="width m",
        ylabel="margin / path norm, share of largest",
        ylim=(0.0, 1.05),
    )
    times.set(title="d  both layers, in time", xlabel="step", ylabel="margin / path norm, share of largest")
    times.set_ylim(0.0, 1.05)
    alone.set(
        title="e  output layer alone, in time",
        xlabel="step",
        ylabel="margin / √(Σa²/m), share of largest",
        ylim=(0.0, 1.05),
    )
    nearer.set(title="f  which classifier", xlabel="step", ylabel="distance to F1's / distance to F2's", yscale="log")
    for axes in (widths, times, alone, nearer):
        axes.set_xscale("log")
    widths.set_xlim(0.7 * float(dataset.width.min()), 1.5 * float(dataset.width.max()))
    for axes in panels.ravel():
        plots.legend(axes, frameon=True, loc="lower left" if axes is nearer else "lower right")
    return figure


def _line(values: xr.DataArray) -> xr.DataArray:
    """The rows of the seeds against the step, of the first of further runs."""
    return values.isel({each: 0 for each in values.dims if each not in ("seed", "step")}).transpose("seed", "step")


AXES = ("both", "learning_rate", "clusters", "width")
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={
        "seeds": 8,
        AXES: [
            *((1.0, 0.5, 3, width) for width in (8, 32, 128, 512)),
            *(
                (both, rate, clusters, 512)
                for both, rate, clusters in ((1.0, 0.5, 2), (1.0, 1.0, 2), (0.0, 0.5, 2), (0.0, 0.5, 3))
            ),
        ],
    },
    smoke={"seeds": 3, "samples": 8, "steps": 5_000, AXES: [(1.0, 0.5, 2, 64), (0.0, 0.5, 2, 64)]},
    paper={
        "samples": 100,
        "steps": 300_000,
        AXES: [
            *((1.0, 0.5, 4, 2**power) for power in range(3, 11)),
            *((both, 0.5, clusters, 1024) for both, clusters in ((1.0, 2), (0.0, 2), (0.0, 4))),
        ],
    },
    control={AXES: [(0.0, 0.5, 2, 64)]},
)
