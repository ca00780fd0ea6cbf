"""Adam can go to the worst point of a convex problem and stay there, where gradient descent finds the best one.

Claim: Of the losses Cx, −x, −x, Cx, … on [−1, 1], C > 2, the best point is −1. With b1 = 0, b2 = 1/(1 + C²) and rates
η/√t Adam goes to +1, for it shrinks the large gradient more than the small ones, and its regret grows by 2(C − 2)/3 a
step; gradient descent and AMSGrad, which never forgets a large gradient, go to −1. It is a matter of memory: with
b1 = 0 Adam goes to +1 if and only if b2 is below a critical value, which falls with C, 0.4723 for C = 3. With its
usual b1 = 0.9 and b2 = 0.999 it goes to −1 here; a longer cycle would defeat these, too.

Source: Reddi, Kale & Kumar 2018, arXiv 1904.09237, theorem 1 (b1 = 0, b2 = 1/(1 + C²)) and theorem 2 (every b1 < √b2
has its C and its cycle), AMSGrad in algorithm 2. The critical b2 is derived in research/oracles/adam_cycle.py.

Departure: bias correction as in optax, which theirs has not and which is gone after a few steps; ε = 0. Starts are
random. Where the drift is so small that a run could not have crossed the interval twice, its end is not judged.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, log_spaced, start
from research.experiment import Experiment, Finding, Findings
from research.labels import first_arm, lift, select, sound
from research.optimizers import inverse_square_root
from research.oracles.adam_cycle import critical_b2, period_drift

METHODS = ("adam", "amsgrad", "sgd")


class Observables(NamedTuple):
    position: Float[Array, "method"]
    regret: Float[Array, "method"]


class State(NamedTuple):
    """The steps taken, the three descents, and the regret of each so far."""

    count: Any
    descents: Any
    regret: Any


def simulate(
    key: Array, large: float, b2: float, b1: float = 0.0, learning_rate: float = 0.5, *, steps: int = 3000
) -> Run:
    """Adam, AMSGrad and gradient descent from one random point of [−1, 1], projected back to it after every step.

    Rates learning_rate/√t. The gradient is `large` in every third step, the first one too, and −1 in the others.
    `regret` is the sum of what each loss was above that loss at −1.
    """
    rate = inverse_square_root(learning_rate)
    optimizers = (optax.adam(rate, b1, b2, eps=0.0), optax.amsgrad(rate, b1, b2, eps=0.0), optax.sgd(rate))

    def step(state: State) -> State:
        gradient = jnp.where(state.count % 3 == 0, large, -1.0)
        at = jnp.stack([each.params for each in state.descents])
        moved = []
        for optimizer, each in zip(optimizers, state.descents, strict=True):
            updates, inner = optimizer.update(gradient, each.optimizer_state, each.params)
            moved.append(each._replace(params=jnp.clip(each.params + updates, -1.0, 1.0), optimizer_state=inner))
        return State(state.count + 1, tuple(moved), state.regret + gradient * (at + 1))

    initial = jax.random.uniform(key, minval=-1.0)
    observe = lambda state: Observables(jnp.stack([each.params for each in state.descents]), state.regret)
    state = State(jnp.zeros((), int), tuple(start(initial, each) for each in optimizers), jnp.zeros(len(METHODS)))
    # a whole number of cycles: where each has just seen two small gradients
    return Run(state, step, observe, np.unique(log_spaced(steps // 3, 50) * 3))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Where Adam's drift leads, whether it had time to get there, and the late regret of a step."""
    dataset = sound(dataset)
    last = int(dataset.step.max())
    drift = lift(period_drift, dataset.large, dataset.b2)
    travel = np.abs(drift) / 3 * dataset.learning_rate * 2 * last**0.5
    half = int(dataset.step.values[np.abs(dataset.step.values - last / 2).argmin()])
    late = (dataset.regret.sel(step=last) - dataset.regret.sel(step=half)) / (last - half)
    end = dataset.position.sel(step=last)
    critical = lift(critical_b2, dataset.large)
    judged = travel > 4  # across the interval and back once
    wrong = (end.isel(method=0) > 0) != (dataset.b2 < critical)
    worst = 2 * (dataset.large - 2) / 3
    # after the large gradient Adam's step is at most η/√((1 − b2) t)
    return dataset.assign(
        end=end,
        late=late / worst,
        allowed=dataset.learning_rate / np.sqrt((1 - dataset.b2) * half),
        misplaced=wrong.where(judged & critical.notnull()).astype(float),
        judged=judged,
        known=critical.notnull(),
    )


def _stacked(runs: xr.Dataset) -> xr.Dataset:
    """The runs with every axis but the seeds as one, `cell`."""
    axes = [each for each in runs.diverged.dims if each != "seed"]
    return runs.stack(cell=axes, create_index=False) if axes else runs.expand_dims("cell", axis=-1)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The counterexample, its regret, the other two methods, the critical b2, and Adam's usual settings."""
    found = Findings()
    plain = select(dataset, b1=0.0)
    plain = plain if plain.diverged.size else dataset
    plain = _stacked(plain)
    share = float(plain.judged.mean())
    what = f"Adam, b1 = 0: share of a seed's runs that are not on the side of the critical b2 ({share:.0%} had time)"
    found.add(what, (0.0, 0.0), plain, plain.misplaced.mean("cell", skipna=True).where(plain.known.all()))
    own = np.isclose(plain.b2 * (1 + plain.large**2), 1) & np.ones(plain.sizes["cell"], bool)
    judged = plain.isel(cell=np.flatnonzero(own))
    said = "Adam, b1 = 0, b2 = 1/(1 + C²)"
    near = (1 - judged.end.isel(method=0)) / judged.allowed
    found.add(f"{said}: distance to the worst point +1, over one step", (0.0, 1.0), judged, near)
    if judged.diverged.size:
        # within a step of +1 the three losses are within (C + 2) steps of theirs there
        slack = float(((judged.large + 2) * judged.allowed / (2 * (judged.large - 2))).max())
        regret = judged.late.isel(method=0)
        found.add(f"{said}: late regret a step over 2(C − 2)/3", (1 - slack, 1 + slack), judged, regret, "min", "max")
    for number, name in ((1, "AMSGrad"), (2, "gradient descent")):
        # AMSGrad's denominator is C from the first step on, so that it moves by η/√t at most, gradient descent by Cη/√t
        longest = dataset.learning_rate * (dataset.large if name == "gradient descent" else 1)
        worst = (dataset.end.isel(method=number) + 1) / longest * float(dataset.step.max()) ** 0.5
        found.add(f"{name}, every C and b2: distance to the best point −1, over one step", (0.0, 1.0), dataset, worst)
    usual = select(dataset, b1=0.9, b2=0.999)
    found.add("Adam, b1 = 0.9, b2 = 0.999: x at the end", (-1.0, -0.9), usual, usual.end.isel(method=0), "min", "max")
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the paths, (b) regret a step, (c) where Adam ends over C and b2."""
    figure, ((paths, regrets, plane),) = plots.figure(1, 3, "Adam can go to the worst point, and stay there")
    plain = select(dataset, b1=0.0)
    shown = select(plain, large=SHOWN, b2=1 / (1 + SHOWN**2))
    if shown.diverged.size:
        one = first_arm(shown).isel(step=slice(1, None))
        for number, name in enumerate(("Adam", "AMSGrad", "gradient descent")):
            style = {"color": f"C{number}"}
            plots.seeds(paths, one.position.isel(method=number), name, **style)
            plots.seeds(regrets, one.regret.isel(method=number) / one.step, name, **style)
        limit = 2 * (SHOWN - 2) / 3
        plots.theory(regrets, one.step, np.full(one.sizes["step"], limit), "2(C − 2)/3")
        for place, label in ((1.0, "worst point"), (-1.0, "best point")):
            line = {"linestyle": "--" if place > 0 else ":"}
            plots.theory(paths, one.step, np.full(one.sizes["step"], place), label, **line)
    if plain.diverged.size:
        cells = _stacked(plain)
        ends = cells.end.isel(method=0).median("seed")
        large, b2 = (cells[name].values + np.zeros(ends.size) for name in ("large", "b2"))
        dots = plane.scatter(large, b2, c=ends.values, cmap="coolwarm", vmin=-1, vmax=1, s=36)
        figure.colorbar(dots, ax=plane, label="where Adam ends (+1 is worst)")
    dense = np.geomspace(2.02, 12, 80)
    plots.theory(plane, dense, [critical_b2(each) for each in dense], "critical b2")
    plots.theory(plane, dense, 1 / (1 + dense**2), "1/(1 + C²), Reddi et al.", linestyle=":")
    paths.set(title=f"a  C = {SHOWN:g}, b2 = 1/(1 + C²)", xlabel="step", ylabel="x", xscale="log")
    regrets.set(title="b  regret", xlabel="step t", ylabel="regret / t", xscale="log")
    plane.set(title="c  a matter of memory (b1 = 0)", xlabel="C", ylabel="b2", xscale="log", ylim=(-0.03, 1.03))
    plane.set_xticks([2, 3, 5, 10], ["2", "3", "5", "10"])
    plane.set_xticks([], minor=True)
    for axes in (paths, regrets, plane):
        plots.legend(axes, **({"frameon": True, "loc": "upper right"} if axes is plane else {}))
    return figure


SHOWN = 3.0
AXES = ("large", "b2", "b1")
LARGE = (2.2, 2.5, SHOWN, 4.0, 6.0, 10.0)
GRID = [(C, b2, 0.0) for C in LARGE for b2 in (1 / (1 + C**2), 0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 0.99, 0.999)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: [*GRID, (SHOWN, 0.999, 0.9)]},
    smoke={"seeds": 2, AXES: [(SHOWN, b2, 0.0) for b2 in (1 / (1 + SHOWN**2), 0.3, 0.6, 0.9)]},
    paper={"seeds": 64, "steps": 300_000},
    control={"b1": 0.9},
)
