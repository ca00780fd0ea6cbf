"""Momentum rolls over small local minima, up to a boundary that the balance of energy draws; gradient descent never.

Claim: At small rates the heavy ball ends where a body of mass one and friction (1 − β)/√η does that is let go at its
start: across a local minimum if its energy lasts over the barrier behind it, in it otherwise. Gradient descent stays in
the first local minimum on its way, however shallow. It is not one-sided: with more momentum the body comes back, and
may be caught after all, and from the other side it can roll past the better minimum and end in the worse one, which
gradient descent never does.

Source: the remark that momentum avoids small local minima is common. Polyak 1964; Qian 1999, "On the momentum term in
gradient descent learning algorithms" (the body with friction); the oracle integrates that body's equation.

Departure: a bowl x²/2 with a dent of width 0.3 at x = 2, of six depths; in the last it is the better minimum. Starts at
rest between 2.6 and 4.2 on either side. The body is the limit of small rates, right to the order of √η = 0.03: judged
are the starts whose fate is the same for a friction 10 % larger and smaller and from places up to 0.26 away (10 % of
the nearest start), away from the separatrix, and these are counted.
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
from research.labels import first_arm, lift, per_seed, select, sound, table
from research.oracles.rolling import dented_bowl, resting_place
from research.statistics import every_seed

DENT = 1.2  # beyond this x a body is in the dent
MARGIN = 0.1
LONGEST = 160.0  # that any body of the design takes to be at rest
PLACES = np.r_[np.linspace(-4.2, -2.6, 17), np.linspace(2.6, 4.2, 17)]


class Observables(NamedTuple):
    position: Float[Array, "body"]


def simulate(
    key: Array,
    depth: float,
    momentum: float,
    learning_rate: float = 0.001,
    tilt: float = 0.0,
    *,
    bodies: int = 40,
    steps: int = 6000,
) -> Run:
    """`bodies` descents from rest at random starts, half of them on the left, on the bowl with a dent, + tilt · x."""
    uniform = jax.random.uniform(key, (bodies,), minval=2.6, maxval=4.2)
    places = jnp.where(jnp.arange(bodies) % 2 == 0, uniform, -uniform)
    loss = lambda x: jnp.sum(x**2 / 2 + tilt * x - depth * jnp.exp(-((x - 2) ** 2) / 0.18))
    optimizer = optax.sgd(learning_rate, momentum=momentum)
    observe = lambda state: Observables(state.params)
    return Run(start(places, optimizer), descent(loss, optimizer), observe, log_spaced(steps, 40))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Whether each body ends in the dent, whether theory says so, and where theory is sure of it."""
    dataset = sound(dataset)
    friction = (1 - dataset.momentum) / dataset.learning_rate**0.5
    # what creeps is at rest after a few times the friction, what rolls after a few times its inverse
    time = np.minimum(dataset.steps * dataset.learning_rate**0.5, np.minimum(5 * friction + 12 / friction, LONGEST))
    fates = []
    for rougher in (1 - MARGIN, 1.0, 1 + MARGIN):
        places = xr.DataArray(PLACES, dims="place")
        end = lift(resting_place, places, dataset.depth, friction * rougher, time)
        fates.append((end > DENT).where(end.notnull()))
    foreseen = xr.concat(fates, "friction_factor")
    initial = dataset.position.isel(step=0, drop=True)
    near = xr.DataArray(PLACES, dims="place")
    within = np.abs(initial - near) <= MARGIN * 2.6
    asked = foreseen.where(within)
    low, high = asked.min(["friction_factor", "place"]), asked.max(["friction_factor", "place"])
    certain = foreseen.notnull().all(["friction_factor", "place"])
    last = dataset.position.sel(step=dataset.steps)
    dent = (last > DENT).where(last.notnull())
    ended = last.notnull().all("body")
    clear = (low == high) & certain
    held = xr.apply_ufunc(_worse, dataset.depth, vectorize=True)
    side = initial > 0
    return dataset.assign(
        initial=initial,
        dent=dent,
        clear=clear,
        agree=(dent == low).where(clear).mean("body").where(certain & ended),
        certain=certain & ended,
        judged=clear.mean("body"),
        worse=held,
        escapes=(1 - dent).where(side).mean("body").where(ended),
        trapped=dent.where(~side).mean("body").where(ended),
        foreseen_escape=(1 - foreseen.isel(friction_factor=1)).isel(place=PLACES > 0).mean("place", skipna=False),
        foreseen_trap=foreseen.isel(friction_factor=1).isel(place=PLACES < 0).mean("place", skipna=False),
    )


def _worse(depth: float) -> bool:
    """Whether the dent is deep enough to be a minimum of its own, and not so deep that it is the better one."""
    values, slopes = dented_bowl(np.linspace(1.0, 2.6, 4001), depth)
    return bool((slopes < 0).any()) and bool(values.min() > 0)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The fates against the body's, gradient descent in every dent, momentum out of it, and momentum into it."""
    found: list[Finding] = []
    others = [each for each in dataset.diverged.dims if each != "seed"]

    def add(what: str, band: tuple[float, float], runs: xr.Dataset, values: xr.DataArray, reduce: str = "mean") -> None:
        if runs.diverged.size:
            found.append(Finding.of(what, band, every_seed(per_seed(values, reduce))))

    share = float(dataset.judged.mean())
    # a cell in which no start is away from the separatrix says nothing; one that is not certified or diverged voids all
    right = dataset.agree.mean(others).where(dataset.certain.all(others)) if others else dataset.agree
    said = f"share of the starts away from the separatrix ({share:.0%} of all) that end where the body does"
    add(said, (0.99, 1.0), dataset, right)
    plain = select(dataset, momentum=0.0)
    dents = plain.worse
    if plain.diverged.size and bool(dents.any()):
        add(
            "gradient descent: share that escapes from a worse local minimum",
            (0.0, 0.0),
            plain,
            plain.escapes.where(dents, 0.0),
            "max",
        )
        add("gradient descent: share from the left that ends in the dent", (0.0, 0.0), plain, plain.trapped, "max")
    heavy = select(dataset, momentum=lambda beta: beta > 0)
    if heavy.diverged.size:
        foreseen = heavy.foreseen_escape.where(heavy.worse)
        for share, words, band, reduce in ((1.0, "every", (0.99, 1.0), "min"), (0.0, "no", (0.0, 0.01), "max")):
            if bool((foreseen == share).any()):
                what = f"momentum, worse local minima that the body leaves from {words} start: share that escapes"
                values = heavy.escapes.where(foreseen == share, share).where(heavy.foreseen_escape.notnull())
                add(f"{what}, {'least' if share else 'most'} of these depths and momenta", band, heavy, values, reduce)
        what = "momentum: share from the left that ends in the dent, past the better minimum, the most of any"
        add(what, (0.0, np.inf), heavy, heavy.trapped.where(heavy.worse, 0.0), "max")
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the landscape, (b) paths from 3.5, (c) escape and (d) capture over momentum and depth."""
    figure, ((shape, course), (out, into)) = plots.figure(
        2, 2, "Momentum rolls over small local minima, up to a boundary"
    )
    depths, momenta = (np.unique(dataset[name].values) for name in ("depth", "momentum"))
    x = np.linspace(-4.3, 4.3, 400)
    for number, depth in enumerate(depths.tolist()):
        plots.theory(shape, x, dented_bowl(x, depth)[0], f"depth {depth:g}", color=f"C{number}", linestyle="-")
    deep = depths[-2:][0]
    rate = float(np.atleast_1d(dataset.learning_rate.values)[0])
    for number, beta in enumerate(momenta.tolist()):
        runs = select(dataset, depth=float(deep), momentum=beta)
        if runs.diverged.size:
            runs = first_arm(runs)
            body = int(np.abs(runs.initial.isel(seed=0) - 3.5).argmin("body"))
            path = runs.position.isel(body=body).isel(seed=[0], step=slice(1, None))
            plots.seeds(course, path, f"β = {beta:g}", color=f"C{number}")
            origin = np.array([float(runs.initial.isel(seed=0, body=body))])
            times = path.step.values[::3]
            friction = (1 - beta) / rate**0.5
            ends = [resting_place(origin, float(deep), friction, step * rate**0.5)[0] for step in times if step < 3000]
            plots.theory(
                course, times[: len(ends)], ends, None if number else "body with friction", marker=".", linestyle=""
            )
    for axes, measured, theory, label in (
        (out, "escapes", "foreseen_escape", "share from the right that escapes"),
        (into, "trapped", "foreseen_trap", "share from the left that is caught"),
    ):
        both = dataset.assign({theory: dataset[theory] + xr.zeros_like(dataset.escapes)})
        for number, depth in enumerate(depths.tolist()):
            runs = select(both, depth=depth)
            curve, law = (table(runs, name, "momentum") for name in (measured, theory))
            friction = (1 - curve.momentum.values) / rate**0.5
            values = curve.assign_coords(momentum=friction)
            plots.seeds(axes, values, f"depth {depth:g}", color=f"C{number}", marker="o", markersize=3)
            plots.theory(axes, friction, law[0], None if number else "body with friction")
        axes.set(xscale="log", xlabel="friction (1 − β)/√η (right end: gradient descent)", ylabel=label)
    shape.set(title="a  a bowl with a dent", xlabel="x", ylabel="f(x)")
    course.set(title=f"b  from near 3.5, depth {float(deep):g}", xlabel="step", ylabel="x", xscale="log")
    out.set_title("c  out of the local minimum …")
    into.set_title("d  … and into it, past the better one")
    for axes in (shape, course, out, into):
        plots.legend(axes, fontsize=6.5)
    return figure


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={
        "seeds": 8,
        "depth": (0.5, 1.0, 1.25, 1.5, 1.8, 3.0),
        "momentum": (0.0, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995),
    },
    smoke={"seeds": 2, "depth": 1.8, "momentum": (0.0, 0.97, 0.98), "steps": 4000, "bodies": 20},
    paper={"seeds": 64, "bodies": 400},
    control={"tilt": -2.0},
)
