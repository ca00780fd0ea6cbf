"""Momentum is a longer step: the heavy ball goes the way of descent with the learning rate η/(1 − β), up to O(η).

Claim: At a fixed time, heavy ball with learning rate η and momentum β and gradient descent with the effective rate
h = η/(1 − β) are O(h) apart, and what sets them apart is known: the ball follows the flow of L + (h/4)(1 + β)/(1 − β)
‖∇L‖² from θ0 + h β/(1 − β) ∇L, as it has to pick up speed, and descent that of L + (h/4)‖∇L‖² from θ0; beyond the
difference of these two only O(h²) is left. So momentum has no bias of its own as h → 0. With another effective rate,
such as η itself, the two are apart by an amount that does not vanish.

Source: Kovachki & Stuart 2021, arXiv 1906.04285 (momentum as a flow with rescaled time, and the modified equation to
O(h²)); Ghosh, Lyu, Zhang & Wang 2023, arXiv 2302.00849 (the penalty); the displaced start is derived in
research/oracles/modified_flow.py.

Departure: The papers' theorems hold for one step or up to a constant; here all of it is measured, on networks of four
tanh units and 16 samples, whose flows are integrated to twelve digits. Steps h are in units of 1/λ, λ the largest
eigenvalue of the Hessian at the start, and the time is 6/λ. Both runs begin at the same point, at rest. The order is
read off where h (1 + β)/(1 − β) is at most 1/16. Nesterov's momentum has the same effective rate, so the same order.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Descent, Run, descent, start
from research.experiment import Experiment, Finding
from research.labels import lift, norm, per_seed, select, small_steps, table
from research.optimizers import until
from research.oracles.modified_flow import modified_flow
from research.statistics import every_seed, slope

FINE = 1 / 16  # of h (1 + β)/(1 − β), up to which the leading order is judged
HORIZON = 6.0  # in units of 1/λ
PENALTY = np.array([0.25])  # of h (1 + β)/(1 − β) ‖∇L‖²


class Observables(NamedTuple):
    weights: Float[Array, "method parameter"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    initial: Float[Array, "parameter"]
    sharpness: Float[Array, ""]


METHODS = ("ball", "twin", "slow")


def simulate(
    key: Array,
    learning_rate: float,
    momentum: float,
    power: float = 1.0,
    *,
    nesterov: bool = False,
    samples: int = 16,
    features: int = 3,
    width: int = 4,
    refinement: int = 12,
) -> Run:
    """Three descents on half the mean squared error: the ball, its twin without momentum, and one that is too slow.

    `learning_rate` is h, the effective step in units of 1/λ: the ball's is η = (1 − β) h, its twin's η/(1 − β)^power
    (1 is right) and the slow one's η. `refinement` is how often the coarsest step, h = 1, may be halved.
    """
    input_key, weight_key = jax.random.split(key)
    inputs = jax.random.normal(input_key, (samples, features + 1))
    X, y = inputs[:, :features], jnp.sin(2 * inputs[:, 0]) + 0.5 * inputs[:, features]
    draw = jax.random.normal(weight_key, (features + 1, width))
    initial = jnp.concatenate([(draw[:features] / features**0.5).ravel(), draw[features] / width**0.5])
    split = features * width
    network = lambda w: jnp.tanh(X @ w[:split].reshape(features, width)) @ w[split:]
    loss = lambda w: optax.l2_loss(network(w), y).mean()
    sharpness = jnp.linalg.eigvalsh(jax.hessian(loss)(initial))[-1]
    rate = (1 - momentum) * learning_rate
    rates = jnp.stack([rate, rate / (1 - momentum) ** power, rate])[:, None] / sharpness / learning_rate
    decay = jnp.stack([momentum, jnp.zeros(()), jnp.zeros(())])[:, None]
    left = until(HORIZON, learning_rate)
    optimizer = optax.sgd(lambda count: left(count) * rates, momentum=decay, nesterov=nesterov)
    fine = descent(lambda stack: jax.vmap(loss)(stack).sum(), optimizer)
    step = lambda state: (fine(state[0]), state[1] + learning_rate)
    observe = lambda state: Observables(state[0].params)
    state: tuple[Descent, Array] = (start(jnp.tile(initial, (3, 1)), optimizer), jnp.zeros(()))
    at = np.r_[0, HORIZON * 2 ** np.arange(refinement + 1)].astype(int)
    return Run(state, step, observe, at, Given(X, y, initial, sharpness), stop=lambda state: state[1] >= HORIZON)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """How far the ball is from the others at the end, and from its twin by what theory says of both."""
    rate, momentum = dataset.learning_rate / dataset.sharpness, dataset.momentum
    # beyond, the series in h says nothing, and the flows are stiff; Nesterov's has another penalty
    known = (dataset.learning_rate * (1 + momentum) / (1 - momentum) <= 1) & ~dataset.nesterov.astype(bool)
    time = xr.DataArray(np.array([HORIZON]), dims="step") / dataset.sharpness
    coefficients = xr.DataArray(PENALTY, dims="coefficient")
    problem = (dataset.X.where(known), dataset.y, dataset.initial, time, rate)
    flow_of = lambda momentum: lift(modified_flow, *problem, momentum, coefficients).squeeze(
        ["coefficient", "step"], drop=True
    )
    ball, twin, slow = (dataset.weights.isel(step=-1, method=number) for number in range(3))
    moved, foreseen = norm(twin - dataset.initial, "parameter"), flow_of(momentum) - flow_of(xr.zeros_like(momentum))
    missed = norm(ball - twin - foreseen, "parameter")
    late = xr.concat([1 - momentum, xr.ones_like(momentum)], "step") * HORIZON / dataset.sharpness
    plain = lift(
        modified_flow, *problem[:3], late, rate, xr.zeros_like(momentum), xr.zeros_like(coefficients), displaced=False
    ).isel(coefficient=0, drop=True)
    return dataset.assign(
        gap=norm(ball - twin, "parameter") / moved,
        foreseen_gap=norm(foreseen, "parameter") / moved,
        rest=missed / moved,
        error=missed / norm(foreseen, "parameter"),
        slow_gap=norm(ball - slow, "parameter") / moved,
        foreseen_slow_gap=norm(plain.diff("step").isel(step=0), "parameter")
        / norm(plain.isel(step=1) - dataset.initial, "parameter"),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """What sets ball and twin apart, the orders in h, Nesterov's, and a wrong rate.

    An error C h^p (1 + O(h)) has the slope p + O(h): 0.1 is allowed, at h (1 + β)/(1 − β) <= 1/16.
    """
    found: list[Finding] = []
    ball, nesterov = select(dataset, nesterov=False), select(dataset, nesterov=True)
    rates = [float(each) for each in np.unique(dataset.momentum.values) if each > 0]
    fine = [small_steps(ball, momentum, FINE) for momentum in rates]
    if any(runs.diverged.size for runs in fine):
        ends = [select(each, learning_rate=float(each.learning_rate.min())) for each in fine if each.diverged.size]
        worst = np.max([per_seed(each.error) for each in ends], axis=0)
        # What is left over is of relative order h (1 + β)/(1 − β), which is at most 1/64 at the finest step.
        said = "finest h: share of the distance of ball and twin that the two flows do not foresee, a seed's largest β"
        found.append(Finding.of(said, (0.0, 0.05), every_seed(worst)))

    def order(runs: xr.Dataset, what: str, variable: str, low: float, high: float) -> None:
        if runs.diverged.size and np.unique(runs.learning_rate.values).size > 1:
            rows = table(runs, variable, "learning_rate")
            slopes = slope(np.log(rows.learning_rate), np.log(rows))
            found.append(Finding.of(f"{what} on ln h", (low, high), every_seed(slopes)))

    for momentum, runs in zip(rates, fine, strict=True):
        order(runs, f"β = {momentum:g}: slope of ln(distance of the ball to its twin)", "gap", 0.9, 1.1)
        order(runs, f"β = {momentum:g}: slope of ln(what the flows do not foresee)", "rest", 1.9, 2.1)
        order(runs, f"β = {momentum:g}: slope of ln(distance to descent with η itself)", "slow_gap", -0.1, 0.1)
        if runs.diverged.size:
            end = select(runs, learning_rate=float(runs.learning_rate.min()))
            said = f"β = {momentum:g}, finest h: that distance over that of the flow at (1 − β) times the time"
            found.append(Finding.of(said, (0.98, 1.02), every_seed(per_seed(end.slow_gap / end.foreseen_slow_gap))))
        what = f"Nesterov, β = {momentum:g}: slope of ln(distance to the twin)"
        order(small_steps(nesterov, momentum, FINE), what, "gap", 0.9, 1.1)
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the distance to the twin, (b) what the flows leave of it, (c) all momenta on one curve, (d) a wrong rate."""
    figure, ((gaps, rests), (scale, wrong)) = plots.figure(
        2, 2, "Momentum β is a learning rate of η/(1 − β), up to O(η)"
    )
    ball, rates = (
        select(dataset, nesterov=False),
        [float(each) for each in np.unique(dataset.momentum.values) if each > 0],
    )
    for number, momentum in enumerate(rates):
        runs = select(ball, momentum=momentum, learning_rate=lambda rate: rate <= 1)
        if not runs.diverged.size:
            continue
        style = {"color": f"C{number}", "marker": "o", "markersize": 3}
        rows = {
            name: table(runs, name, "learning_rate")
            for name in ("gap", "foreseen_gap", "rest", "slow_gap", "foreseen_slow_gap")
        }
        plots.seeds(gaps, rows["gap"], f"β = {momentum:g}", **style)
        known = rows["foreseen_gap"].median("seed")
        plots.theory(gaps, known.learning_rate, known, None if number else "two modified flows")
        rest = rows["rest"].dropna("learning_rate")
        plots.seeds(rests, rest, f"β = {momentum:g}", **style)
        if rest.learning_rate.size:
            small = rest.learning_rate.values
            line = float(rest.isel(learning_rate=0).median()) * (small / small[0]) ** 2
            plots.theory(rests, small, line, None if number else "slope 2")
        at = rows["gap"].assign_coords(learning_rate=rows["gap"].learning_rate * momentum / (1 - momentum))
        plots.seeds(scale, at, f"β = {momentum:g}", **style)
        plots.seeds(wrong, rows["slow_gap"], f"β = {momentum:g}: rate η", **style)
        slow = rows["foreseen_slow_gap"].median("seed")
        plots.theory(wrong, slow.learning_rate, slow, None if number else "flow at (1 − β) times the time")
    ends = np.array([1e-4, 1.0])
    plots.theory(scale, ends, 0.3 * ends, "slope 1")
    away = "distance at time 6/λ / way gone"
    gaps.set(title="a  the ball and its twin", ylabel=away)
    rests.set(title="b  what the flows do not foresee", ylabel=away)
    scale.set(title="c  a delay of h β/(1 − β)", xlabel="h β/(1 − β) (units of 1/λ)", ylabel=away)
    wrong.set(title="d  the wrong effective rate", ylabel=away, ylim=(0, 1))
    for axes in figure.axes:
        axes.set(xscale="log", yscale="linear" if axes is wrong else "log")
        if axes is not scale:
            axes.set_xlabel("effective step h = η/(1 − β) (units of 1/λ)")
        plots.legend(axes, **({"loc": "lower left", "ncols": 2} if axes is wrong else {}))
    return figure


STEPS = tuple(2.0**-power for power in range(12, -1, -1))
AXES = ("momentum", "learning_rate", "nesterov")
arms = lambda steps, kinds: [(momentum, step, kind) for kind in kinds for momentum in (0.5, 0.8, 0.9) for step in steps]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: arms(STEPS, (False, True))},
    smoke={
        "seeds": 2,
        "refinement": 9,
        AXES: [(0.5, step, False) for step in (2.0**-9, 2.0**-7, 2.0**-6)],
    },
    paper={"seeds": 32, "samples": 64, "width": 16, "refinement": 14, AXES: arms(STEPS, (False, True))},
    control={"power": 0.5},
)
