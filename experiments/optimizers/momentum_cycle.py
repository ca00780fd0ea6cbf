"""The heavy ball that is best on quadratics need not converge on other convex functions: it can go round for ever.

Claim: There is a strongly convex function with m = 1 and L = 25 on which the heavy ball with η = 4/(√L + √m)² and
β = ((√L − √m)/(√L + √m))², the best there is on quadratics with these m and L, ends in a cycle of three points from
every start in [3.07, 3.46], though it converges from others. Gradient descent at η = 2/(L + m) stays below
|x_0| ((κ − 1)/(κ + 1))^t from every start, and the heavy ball with η = 1/L and Nesterov's method converge.

Source: Lessard, Recht & Packard 2016, arXiv 1408.3595 (function, cycle, and the interval of starts); Nesterov 2004,
"Introductory lectures on convex optimization", theorem 2.1.15 (gradient descent). Ghadimi, Feyzmahdavian &
Johansson 2014, arXiv 1412.7457: on every such function the heavy ball converges linearly if η < 2/L and
β < (mη/2 + √(m²η²/4 + 4(1 − ηL/2)))/2, which is 0.717 at η = 1/L = 1/25; 1/9 is above 2/L.

Departure: 400 random starts a seed in [−4, 4], not only those of the paper's interval, from rest. It is not the only
interval: a share of all starts that is counted here goes to the cycle. The bound of gradient descent is attained from
starts below 1, where f″ = 25 throughout: what can fail is that no start is above it.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, start
from research.experiment import Experiment, Finding
from research.labels import first_arm, lift, per_seed, select, sound
from research.oracles.cycle import descent_bound, three_cycle
from research.statistics import every_seed

INTERVAL = (3.07, 3.46)
AT_REST = 1e-6
WIDEST = 4.0


class Observables(NamedTuple):
    position: Float[Array, "start"]


def function(x: Array) -> Array:
    """The integral of 25x (x < 1), x + 24 (to 2) and 25x − 24 (beyond), zero at zero."""
    return jnp.where(x < 1, 12.5 * x**2, jnp.where(x < 2, x**2 / 2 + 24 * x - 12, 12.5 * x**2 - 24 * x + 36))


def simulate(
    key: Array,
    learning_rate: float,
    momentum: float,
    *,
    optimizer: Literal["heavy_ball", "nesterov"] = "heavy_ball",
    starts: int = 400,
    steps: int = 300,
) -> Run:
    """Descents on the function from `starts` places, uniform on [−4, 4], in increasing order."""
    places = jnp.sort(jax.random.uniform(key, (starts,), minval=-WIDEST, maxval=WIDEST))
    chain = optax.sgd(learning_rate, momentum=momentum, nesterov=optimizer == "nesterov")
    observe = lambda state: Observables(state.params)
    at = np.r_[np.arange(41), np.arange(steps - 2, steps + 1)]
    return Run(start(places, chain), descent(lambda x: function(x).sum(), chain), observe, np.unique(at))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Which descents end in the cycle and which at the minimum, and where the bound of gradient descent lies."""
    dataset = sound(dataset)
    last = dataset.position.isel(step=slice(-3, None))
    points = three_cycle()
    turns = [np.abs(last - xr.DataArray(np.roll(points, turn), dims="step")).max("step") for turn in range(3)]
    turned = xr.concat(turns, "turn").min("turn", skipna=False)
    initial = dataset.position.isel(step=0, drop=True)
    off = np.abs(last).max("step", skipna=False)
    bound = lift(descent_bound, initial, dataset.step.astype(float))
    within = (initial >= INTERVAL[0]) & (initial <= INTERVAL[1])
    return dataset.assign(
        initial=initial,
        turned=turned,
        off=off,
        bound=bound,
        over=(np.abs(dataset.position) / bound).isel(step=slice(1, None)).max(["step", "start"], skipna=False),
        cycles=turned.where(within).max("start").where(within.any("start")),
        cycling=(turned < AT_REST).mean("start").where(turned.notnull().all("start")),
        beyond=((turned < AT_REST) & ~within).mean("start").where(turned.notnull().all("start")),
        settled=(off < AT_REST).mean("start"),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The cycle from the paper's interval, other starts, and the methods that converge from all."""
    found: list[Finding] = []

    def add(what: str, band: tuple[float, float], variable: str, reduce: str, **where: object) -> None:
        runs = select(dataset, **where)
        if runs.diverged.size:
            found.append(Finding.of(what, band, every_seed(per_seed(runs[variable], reduce))))

    rates = np.atleast_1d(dataset.learning_rate.values)
    polyak = {"learning_rate": RATE, "momentum": MOMENTUM, "optimizer": "heavy_ball"}
    judged = polyak if select(dataset, **polyak).diverged.size else {"learning_rate": float(rates[0])}
    where = f"starts in [{INTERVAL[0]}, {INTERVAL[1]}]"
    # at 2/3 a step the distance to the cycle is gone after 300 steps
    add(f"heavy ball, 1/9 and 4/9, {where}: largest distance to the cycle", (0.0, AT_REST), "cycles", "max", **judged)
    said = f"heavy ball, 1/9 and 4/9: share of all starts in [−{WIDEST:g}, {WIDEST:g}]"
    add(f"{said} that end in the cycle from outside that interval", (0.0, np.inf), "beyond", "min", **polyak)
    add(f"{said} that end at the minimum (not every start fails)", (0.0, np.inf), "settled", "min", **polyak)
    plain = {"learning_rate": 1 / 13, "momentum": 0.0}
    bound = "gradient descent, η = 2/(L + m): largest |x| over |x_0| ((κ − 1)/(κ + 1))^t, t >= 1"
    add(bound, (0.0, 1.0 + 1e-9), "over", "max", **plain)
    for name, rate, momentum, kind in OTHERS:
        what = f"{name}: share of starts that end at the minimum"
        add(what, (1.0, 1.0), "settled", "min", learning_rate=rate, momentum=momentum, optimizer=kind)
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the function and the cycle, (b) descents from 3.3, (c) where each start ends."""
    figure, ((shape, course, ends),) = plots.figure(1, 3, "Convex, and still the best heavy ball for quadratics fails")
    points = three_cycle()
    x = np.linspace(-2.6, 3.6, 300)
    shape.plot(x, np.asarray(function(jnp.asarray(x))), color="C6", label="f, 1 ≤ f″ ≤ 25")
    values = np.asarray(function(jnp.asarray(points)))
    plots.theory(shape, np.r_[points, points[0]], np.r_[values, values[0]], "cycle (exact)", marker="o", markersize=4)
    shape.axvspan(1, 2, color="0.93", label="here f″ = 1")
    for number, (name, rate, momentum, kind) in enumerate([("heavy ball, 1/9 and 4/9", *POLYAK), *OTHERS]):
        runs = select(dataset, learning_rate=rate, momentum=momentum, optimizer=kind)
        if not runs.diverged.size:
            continue
        runs = first_arm(runs)
        style = {"color": f"C{number}"}
        near = np.abs(runs.initial - 3.3).argmin("start")
        path = runs.position.isel(start=near).sel(step=slice(0, 30))
        plots.seeds(course, path, name, **style)
        plots.points(ends, runs.initial, runs.off.clip(1e-16), name, markersize=2, **style)
    for place, point in enumerate(points):
        course.axhline(point, color="black", linestyle="--", linewidth=1, label=None if place else "cycle (exact)")
    ends.axhline(np.abs(points).max(), color="black", linestyle="--", linewidth=1, label="cycle (exact)")
    ends.axvspan(*INTERVAL, color="0.88", label=f"[{INTERVAL[0]}, {INTERVAL[1]}] (paper)")
    shape.set(title="a  strongly convex", xlabel="x", ylabel="f(x)")
    course.set(title="b  from a start near 3.3", xlabel="step", ylabel="x", ylim=(-2.8, 6.5))
    ends.set(title="c  where each start ends", xlabel="start", ylabel="largest |x| of the last three", yscale="log")
    ends.set(ylim=(1e-17, 1e5))
    for axes in (shape, course, ends):
        plots.legend(axes, **({"loc": "upper left", "ncol": 2, "fontsize": 6.5} if axes is ends else {}))
    return figure


RATE, MOMENTUM = 1 / 9, 4 / 9
POLYAK = (RATE, MOMENTUM, "heavy_ball")
OTHERS = [
    ("gradient descent, 2/(L + m)", 1 / 13, 0.0, "heavy_ball"),
    ("heavy ball, 1/25 and 4/9", 1 / 25, MOMENTUM, "heavy_ball"),
    ("Nesterov, 1/25 and 2/3", 1 / 25, 2 / 3, "nesterov"),
]
AXES = ("learning_rate", "momentum", "optimizer")
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 16, AXES: [POLYAK, *(arm[1:] for arm in OTHERS)]},
    smoke={"seeds": 2, AXES: [POLYAK, *(arm[1:] for arm in OTHERS[:2])]},
    paper={"seeds": 64, "starts": 4000},
    control={AXES: [OTHERS[1][1:]]},
)
