"""A saturated neuron unlearns slowly under the quadratic cost, and fast under the cross-entropy.

Claim: A sigmoid neuron that says z₀ where the label is 0 takes under the quadratic cost a time e^z₀ to get to an output
of 1/2, exponential in its saturation, and under the cross-entropy one linear in z₀. Both times are closed forms.

Source: Nielsen 2015, Neural Networks and Deep Learning, chapter 3: (w, b) = (0.6, 0.9) and (2, 2) at input 1 end after
300 epochs of the quadratic cost, at a learning rate of 0.15, at outputs of 0.09 and 0.20.

Departure: Only z₀ = x·w + b matters, and w is drawn at random; beside the book's one input of 1 there are four Gaussian
ones. Steps are counted with the fraction of the last, and less Euler's own error, ½ ln of the ratio of the slopes dC/dz
at the end and the start, which the step of first order adds to the flow. The book shows the cross-entropy at a learning
rate of 0.005: at equal rates it is the faster cost, at the book's it is the slower one.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Descent, Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import first_arm, lift, per_seed, select, table
from research.oracles.cost_functions import flow_activations, half_time
from research.statistics import every_seed, slope

RATE, GENTLE = 0.15, 0.005  # of the book: for the quadratic cost, for the cross-entropy
BOOK = {1.5: 0.09, 4.0: 0.20}  # the outputs after 300 epochs


class Observables(NamedTuple):
    output: Float[Array, ""]
    steps_above: Float[Array, ""]


class Given(NamedTuple):
    speed: Float[Array, ""]


class Counted(NamedTuple):
    """The descent, and the steps until z = 0, the last one in part."""

    descent: Descent
    above: Any


def simulate(
    key: Array,
    z0: float,
    learning_rate: float,
    *,
    cost: Literal["quadratic", "cross_entropy"] = "quadratic",
    features: int = 1,
    steps: int = 90_000,
) -> Run:
    """Gradient descent on (w, b) of one sample of label 0, from weights that say z0; `features` 1 is the input 1."""
    input_key, weight_key = jax.random.split(key)
    x = jax.random.normal(input_key, (features,)) / features**0.5 if features > 1 else jnp.ones(1)
    w = jax.random.normal(weight_key, (features,))
    says = lambda params: params["w"] @ x + params["b"]
    quadratic = lambda params: jax.nn.sigmoid(says(params)) ** 2 / 2
    loss = quadratic if cost == "quadratic" else (lambda params: jax.nn.softplus(says(params)))
    optimizer = optax.sgd(learning_rate)
    advance = descent(loss, optimizer)

    def step(state: Counted) -> Counted:
        moved = advance(state.descent)
        before, after = says(state.descent.params), says(moved.params)
        part = jnp.clip(before / (before - after), 0.0, 1.0)
        return Counted(moved, state.above + jnp.where(before > 0, part, 0.0))

    state = Counted(start({"w": w, "b": z0 - w @ x}, optimizer), jnp.zeros(()))
    observe = lambda state: Observables(jax.nn.sigmoid(says(state.descent.params)), state.above)
    at = np.union1d(log_spaced(steps, 40), np.arange(0, min(steps, 300) + 1, 15))
    return Run(state, step, observe, at, Given(x @ x + 1))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The half-times, in steps, and the outputs of the flow."""
    quadratic, z0, rate = dataset.cost == "quadratic", dataset.z0, dataset.learning_rate * dataset.speed
    sigmoid = lambda z: 1 / (1 + np.exp(-z))
    at_start = xr.where(quadratic, sigmoid(z0) ** 2 * sigmoid(-z0), sigmoid(z0))
    above = dataset.steps_above.sel(step=dataset.steps)
    measured = above - np.log(xr.where(quadratic, 1 / 8, 1 / 2) / at_start) / 2
    reached = dataset.output.sel(step=dataset.steps) < 0.5
    predicted = lift(half_time, dataset.cost, z0, rate)
    flow = lift(flow_activations, dataset.cost, dataset.step * dataset.learning_rate, z0, dataset.speed)
    return dataset.assign(
        predicted=predicted,
        measured=measured.where(reached),
        error=abs(measured.where(reached) / predicted - 1),
        duration=(measured * rate).where(reached),
        flow=flow.broadcast_like(dataset.output),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The times, how they grow with saturation, the book's numbers, and its learning rates."""
    what = "half-time over that of the flow: distance from 1, the worst of a seed"
    found = [Finding.of(what, (0.0, 0.02), every_seed(per_seed(dataset.error)))]
    far = select(dataset, z0=lambda z0: z0 >= 6, learning_rate=RATE)
    for cost, power in (("quadratic", np.log), ("cross_entropy", np.asarray)):
        runs = select(far, cost=cost)
        if runs.diverged.size and len(np.unique(runs.z0.values)) > 1:
            times = table(runs, "duration", "z0")
            law = "ln(half-time)" if cost == "quadratic" else "half-time"
            what = f"{cost.replace('_', '-')}: slope of {law} on z₀, from z₀ = 6, time = rate × (‖x‖² + 1) × steps"
            found.append(Finding.of(what, (0.95, 1.05), every_seed(slope(times.z0.values, power(times.values)))))
    one = select(dataset, features=1)
    book = select(one, cost="quadratic", learning_rate=RATE, z0=list(BOOK))
    if book.diverged.size and 300 in book.step:
        told = xr.DataArray([BOOK[z0] for z0 in np.atleast_1d(book.z0.values)], dims=book.z0.dims)
        apart = per_seed(abs(book.output.sel(step=300) - told))
        found.append(Finding.of("quadratic: output after 300 epochs less the book's", (0.0, 0.005), every_seed(apart)))
        apart = per_seed(abs(book.output - book.flow).sel(step=300))
        found.append(Finding.of("quadratic: output after 300 epochs less the flow's", (0.0, 1e-3), every_seed(apart)))
    for rate, said in ((RATE, "equal learning rates"), (GENTLE, "the book's learning rates, z₀ = 1.5 and 4")):
        slow, fast = (
            select(one, cost="quadratic", learning_rate=RATE),
            select(one, cost="cross_entropy", learning_rate=rate),
        )
        slow = select(slow, z0=list(np.unique(fast.z0.values))) if fast.diverged.size else slow
        if slow.diverged.size and fast.diverged.size:
            ratio = table(slow, "measured", "z0") / table(fast, "measured", "z0")
            what = f"{said}: ln(half-time of the quadratic cost over that of the cross-entropy), least"
            found.append(Finding.of(what, (0.0, np.inf), every_seed(np.log(per_seed(ratio, "min")))))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) output against epoch, the book's neurons; (b) half-time against saturation."""
    figure, ((course, times),) = plots.figure(1, 2, "A saturated neuron is slow under the quadratic cost", (4.8, 3.8))
    costs = {"quadratic": "C0", "cross_entropy": "C1"}
    for cost, color in costs.items():
        for z0, style in zip(BOOK, ("-", ":"), strict=True):
            runs = select(dataset, cost=cost, z0=z0, learning_rate=RATE, features=1)
            if runs.diverged.size:
                runs = first_arm(runs)
                runs = runs.sel(step=runs.step <= 300)
                label = f"{cost.replace('_', '-')}, z₀ = {z0:g}"
                plots.seeds(course, runs.output.dropna("step"), label, color=color, linestyle=style)
                flow = runs.flow.isel(seed=0)
                plots.theory(course, runs.step, flow, None if z0 > 2 or cost != "quadratic" else "flow")
    course.plot([300] * 2, list(BOOK.values()), "k*", markersize=9, label="the book's outputs", zorder=6)
    for cost, color in costs.items():
        for features, marker in ((1, "o"), (4, "^")):
            runs = select(dataset, cost=cost, features=features, learning_rate=RATE)
            if runs.diverged.size:
                label = f"{cost.replace('_', '-')}, {features} input" + "s" * (features > 1)
                plots.points(times, runs.z0, runs.duration, label, color=color, marker=marker, markersize=5)
        z = np.linspace(0.5, max(6.0, float(dataset.z0.max())), 100)
        plots.theory(times, z, [half_time(cost, each, 1.0) for each in z], "closed form" if color == "C0" else None)
    course.set(title=f"a  label 0, learning rate {RATE:g}", xlabel="epoch (step)", ylabel="output of the neuron")
    times.set(title="b  time to an output of 1/2", xlabel="saturation at the start, z₀", yscale="log")
    times.set_ylabel("learning rate × (‖x‖² + 1) × steps")
    for axes in (course, times):
        plots.legend(axes)
    return figure


def arms(quadratic: tuple[float, ...], steps: int, features: tuple[int, ...], rates: tuple[float, ...]) -> list[tuple]:
    """Both costs from each z₀, at each rate; the cross-entropy at the book's rate too. It needs fewer steps."""
    gentle = [("cross_entropy", 1, 3000, GENTLE, z0) for z0 in BOOK]
    return gentle + [
        (cost, inputs, many, rate, z0)
        for cost, many in (("quadratic", steps), ("cross_entropy", 3000))
        for inputs in features
        for rate in rates
        for z0 in quadratic
    ]


AXES = ("cost", "features", "steps", "learning_rate", "z0")
SATURATED = (1.5, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0)
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: arms(SATURATED, 90_000, (1, 4), (0.1, RATE))},
    smoke={"seeds": 2, AXES: arms((1.5, 4.0, 6.0, 7.0), 5000, (1,), (RATE,))},
    paper={"seeds": 8, AXES: arms((*SATURATED, 10.0, 12.0), 2_000_000, (1, 4), (0.1, RATE))},
    control={"learning_rate": 4.0},  # far from the flow: a step is longer than the plateau
)
