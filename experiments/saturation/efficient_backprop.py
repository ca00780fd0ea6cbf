"""Targets at the asymptotes of a sigmoid drive its weights to infinity; targets inside its range do not.

Claim: Trained to say the asymptote of f(w) = 1.7159 tanh(2w/3), a weight grows without end, as 3/8 ln t; trained to say
1, where |f''| is nearly largest, it converges. Targets beyond the asymptote drive it twice as fast, as 3/4 ln t.

Source: LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, sections 4.4 and 4.5. The laws are derived: from
1 − tanh(2w/3) ~ 2e^(−4w/3), dw/dt ∝ e^(−8w/3) at the asymptote, and e^(−4w/3) beyond it.

Departure: One weight, one sample of input 1, the cost (f − target)²/2, full-batch gradient descent. The paper has |f''|
largest at 1: it is at 0.988, and f(1) is 1 to 3·10⁻⁶.
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
from research.labels import lift, per_seed, select, table
from research.oracles.scaled_tanh import AMPLITUDE, STEEPNESS, asymptotic_weight, largest_curvature, target_weight
from research.statistics import every_seed, slope_within

BEYOND = 2.5
SETTLED = 30.0  # e-foldings of the distance to the target at the end


class Observables(NamedTuple):
    weight: Float[Array, ""]


def simulate(
    key: Array, target: float, learning_rate: float, steepness: float = STEEPNESS, *, steps: int = 100_000
) -> Run:
    """Gradient descent from N(0, 1/4) on (1.7159 tanh(steepness · w) − target)²/2."""
    loss = lambda w: optax.l2_loss(AMPLITUDE * jnp.tanh(steepness * w), target)
    optimizer = optax.sgd(learning_rate)
    state = start(jax.random.normal(key) / 2, optimizer)
    return Run(state, descent(loss, optimizer), lambda state: Observables(state.params), log_spaced(steps, 50))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The closed forms of the flow and of its end, and how the weights grow over the last two decades."""
    late, log_time = dataset.step >= dataset.steps / 100, np.log(dataset.step.where(dataset.step > 0))
    inside, at_asymptote = abs(dataset.target) < AMPLITUDE, dataset.target == AMPLITUDE
    end = lift(target_weight, dataset.target).where(inside)
    initial, time = dataset.weight.isel(step=0).where(at_asymptote), dataset.step * dataset.learning_rate
    law = lift(asymptotic_weight, time, initial)
    steep = AMPLITUDE * STEEPNESS * (1 - (dataset.target / AMPLITUDE) ** 2)  # f' at the target
    return dataset.assign(
        law=law,
        lag=abs(dataset.weight - law).where(late, 0.0).max("step", skipna=False),
        growth=slope_within(log_time, dataset.weight, late),
        goal=end,
        distance=abs(dataset.weight - end),
        settled=inside & (steep**2 * dataset.learning_rate * dataset.steps >= SETTLED),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The asymptote: the exact flow and its rate; the targets inside; the target beyond."""
    # Descent is ahead of the flow by some steps at first, 10 at most at these rates: 3/8 · 10/t, t ≥ 1000 steps.
    lag = per_seed(select(dataset, target=AMPLITUDE).lag)
    what = "target at the asymptote: |w − exact flow| over the last two decades, worst of the learning rates"
    found = [Finding.of(what, (0.0, 0.01), every_seed(lag))]
    for where, target, power in (("at", AMPLITUDE, 3 / 8), ("beyond", BEYOND, 3 / 4)):
        runs = select(dataset, target=target)
        if runs.diverged.size:
            growth = per_seed(runs.growth, "min", "max")
            what = f"target {where} the asymptote: slope of w on ln t, last two decades ({power:g} in theory)"
            found.append(Finding.of(what, (power - 0.01, power + 0.01), every_seed(growth)))
    if bool(dataset.settled.any()):
        end = dataset.distance.sel(step=dataset.steps).where(dataset.settled, 0.0)
        what = "targets inside the range: distance of w to 3/2 artanh(target/1.7159) at the end, worst that had time"
        found.append(Finding.of(what, (0.0, 1e-5), every_seed(per_seed(end))))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) f and its derivatives with the targets, (b) weights in time, (c) where each target leaves the weight."""
    figure, ((shape, course, ends),) = plots.figure(1, 3, "Targets belong inside the range of the sigmoid", (4.4, 3.6))
    w = np.linspace(-3.5, 3.5, 400)
    tanh = np.tanh(STEEPNESS * w)
    slope = AMPLITUDE * STEEPNESS * (1 - tanh**2)
    for label, values, style in (
        ("f", AMPLITUDE * tanh, "-"),
        ("f'", slope, "--"),
        ("f''", -2 * STEEPNESS * tanh * slope, ":"),
    ):
        plots.theory(shape, w, values, label, linestyle=style)
    bend = largest_curvature()
    for sign in (-1, 1):
        shape.plot([sign], [sign], "o", color="C2", label="target ±1" if sign > 0 else None, zorder=6)
        shape.axhline(sign * AMPLITUDE, color="C1", linewidth=1, label="asymptotes" if sign > 0 else None)
        shape.axvline(
            sign * bend, color="0.6", linewidth=0.8, label=f"largest |f''|, ±{bend:.3f}" if sign > 0 else None
        )
    fastest = select(dataset, learning_rate=float(dataset.learning_rate.max()))
    targets = np.unique(dataset.target.values)
    for number, target in enumerate(targets):
        runs = select(fastest, target=target)
        weight = runs.weight.isel({dimension: 0 for dimension in runs.diverged.dims if dimension != "seed"})
        weight = weight.sel(step=weight.step > 0)
        where = " (asymptote)" if target == AMPLITUDE else " (beyond)" if target > AMPLITUDE else ""
        plots.seeds(course, weight, f"target {target:g}{where}", color=f"C{number}")
        if target == AMPLITUDE:
            law = runs.law.median([d for d in runs.law.dims if d != "step"]).sel(step=weight.step)
            plots.theory(course, weight.step, law, "exact flow")
        elif target < AMPLITUDE:
            plots.theory(course, weight.step, [target_weight(target)] * weight.sizes["step"], None, linestyle=":")
        else:
            last = float(weight.isel(step=-1).median()) + 0.75 * np.log(weight.step / weight.step[-1])
            plots.theory(course, weight.step, last.where(last > 0), "3/4 ln t", linestyle="-.")
    inside = np.linspace(0, AMPLITUDE, 400)[:-1]
    plots.theory(ends, inside, [target_weight(each) for each in inside], "f⁻¹(target)", linestyle="-")
    reached = table(dataset.assign(end=dataset.weight.sel(step=dataset.steps)), "end", "target", "learning_rate")
    for number, rate in enumerate(reached.learning_rate.values):
        last = reached.sel(learning_rate=rate)
        plots.points(ends, last.target, last, f"at the end, learning rate {rate:g}", color=f"C{number}", markersize=5)
    ends.axvline(AMPLITUDE, color="C1", linewidth=1, label="asymptote")
    shape.set(title="a  f(w) = 1.7159 tanh(2w/3)", xlabel="w", ylabel="f and its derivatives")
    course.set(title="b  inside it converges, else it never ends", xscale="log", xlabel="step t", ylabel="weight w")
    ends.set(title="c  where the target leaves the weight", xlabel="target", ylabel="weight w")
    plots.legend(shape, loc="upper left", fontsize=6.5)
    for axes in (course, ends):
        plots.legend(axes)
    return figure


TARGETS = (0.5, 1.0, 1.3, 1.6, AMPLITUDE, BEYOND)
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, "target": TARGETS, "learning_rate": (0.1, 0.3, 1.0)},
    smoke={"seeds": 2, "target": (1.0, AMPLITUDE, BEYOND), "learning_rate": (0.3, 1.0), "steps": 100_000},
    paper={"seeds": 64, "target": TARGETS, "learning_rate": (0.1, 0.3, 1.0), "steps": 10_000_000},
    control={"steepness": 1.0},  # another sigmoid: its weight grows as ln t / 4
)
