"""Momentum does not hurt on a plateau, it crosses it 1/(1 − β) times faster; what it costs is paid behind the plateau.

Claim: On a slope g that does not change, the heavy ball has come ηg/(1 − β) · (n − β(1 − βⁿ)/(1 − β)) after n steps: it
starts late, by β/(1 − β) steps, and is then 1/(1 − β) times as fast as gradient descent, which it overtakes at once. It
leaves a saddle of curvature −h at the larger root of z² − (1 + β + ηh)z + β a step, faster too. Behind the plateau it
runs past the minimum, as far as a body of friction (1 − β)/√η does, and swings there with an
amplitude that falls as β^(n/2): an overshoot of a comes to rest, within 0.01, 2 ln(a/0.01)/(1 − β) steps later, so
that with much momentum it does so later than with less. Gradient descent never runs past it.

Source: the sentence that momentum hurts on plateaus is common in courses, and refuted here. Polyak 1964; Qian 1999, "On
the momentum term in gradient descent learning algorithms" (the body with friction); the sums are derived in
research/oracles/rolling.py.

Departure: one coordinate has f' = −g up to x = 0 and hx − g beyond, g = h = 1; the other is the saddle, −y²/2. Starts
are random. The overshoot is that of an ordinary differential equation up to terms of the order of √(ηh), and what is
judged is that order, over rates with one and the same friction. With β = 0.98 and 0.99 the descent swings back onto the
plateau, where the amplitude's law is not exact: the steps to rest are judged where it stays behind it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding, Findings
from research.labels import chosen_per_seed, first_arm, lift, per_seed, select, sound
from research.oracles.rolling import overshoot, plateau_crossing, plateau_position, saddle_growth
from research.statistics import every_seed, slope_within

ROUNDING = 1e-10  # of the way: thousands of steps of 1e-16
NEAR = 0.01  # at rest is who stays closer to the minimum than this


class Observables(NamedTuple):
    position: Float[Array, ""]
    saddle: Float[Array, ""]
    crossed: Float[Array, ""]
    farthest: Float[Array, ""]
    settled: Float[Array, ""]


class State(NamedTuple):
    """The descent, its steps, the step at which it was across, the farthest it got, and its last step off the end."""

    descent: Any
    count: Any
    crossed: Any
    farthest: Any
    settled: Any


def simulate(key: Array, learning_rate: float, momentum: float, tilt: float = 0.0, *, steps: int = 4000) -> Run:
    """One descent on plateau and bowl (minimum at 1) and on a saddle, from x in [−6, −3] and |y| about 1e-6, at rest.

    `tilt` bends the plateau: f' = −1 + tilt · x for x < 0, which is steeper where the descent starts.
    """
    uniform, other = jax.random.uniform(key, (2,), minval=-1.0)
    flat = lambda x: jnp.where(x < 0, -x + tilt * x**2 / 2, x**2 / 2 - x)
    loss = lambda w: flat(w[0]) - w[1] ** 2 / 2
    optimizer = optax.sgd(learning_rate, momentum=momentum)
    step = descent(loss, optimizer)

    def moved(state: State) -> State:
        after, count = step(state.descent), state.count + 1
        x = after.params[0]
        crossed = jnp.where((x >= 0) & (state.crossed == 0), count, state.crossed)
        settled = jnp.where(jnp.abs(x - 1) > NEAR, count, state.settled)
        return State(after, count, crossed, jnp.maximum(state.farthest, x), settled)

    initial = jnp.array([1.5 * uniform - 4.5, 1e-6 * (1 + other / 2)])
    zero = jnp.zeros(())
    observe = lambda state: Observables(
        state.descent.params[0], state.descent.params[1], state.crossed, state.farthest, state.settled
    )
    state = State(start(initial, optimizer), zero, zero, initial[0], zero)
    return Run(state, moved, observe, log_spaced(steps, 60))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The way on the plateau, the step that crosses it, the growth at the saddle and the overshoot, by theory."""
    dataset = sound(dataset)
    rate, beta, step = dataset.learning_rate, dataset.momentum, dataset.step.astype(float)
    x = dataset.position
    distance = -x.isel(step=0, drop=True)
    come = lift(plateau_position, step, 1.0, rate, beta)
    end = dataset.sel(step=dataset.steps)
    late = dataset.step >= dataset.steps / 4
    growth = slope_within(dataset.step, np.log(np.abs(dataset.saddle)), late)
    ode = lift(overshoot, distance, 1.0, 1.0, rate, beta)
    beyond = (end.farthest - 1).clip(0)
    on = (dataset.step < end.crossed) | (end.crossed == 0)
    rest = end.settled.where(end.settled < dataset.steps)
    # behind the plateau the roots are √β e^(±iθ), h = 1: a half-swing takes π/θ steps and leaves √β^(π/θ) of its size
    cosine = (1 + beta - rate) / (2 * beta.where(beta > 0) ** 0.5)
    half = np.pi / np.arccos(cosine.where(cosine < 1))
    law = 2 * np.log(beyond.where(beyond > NEAR) / NEAR) / -np.log(beta.where(beta > 0))
    return dataset.assign(
        distance=distance,
        come=come,
        gap=(np.abs(x + distance - come) / distance).where(on).max("step"),
        crossing=end.crossed.where(end.crossed > 0),
        foreseen_crossing=lift(plateau_crossing, distance, 1.0, rate, beta),
        delay=beta / (1 - beta),
        growth=growth / np.log(lift(saddle_growth, 1.0, rate, beta)),
        overshoot=beyond,
        foreseen_overshoot=ode,
        off=np.abs(beyond - ode),
        rest=rest,
        late=(rest - end.crossed - law) / half,
        inside=(ode > NEAR) & (ode * beta ** (half / 2) < 1),
        friction=((1 - beta) / rate**0.5).round(9),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The way, the crossing, what courses say of it, the saddle, the overshoot, and when the descent comes to rest."""
    found = Findings()
    way = "plateau: largest distance to ηg/(1 − β) · (n − β(1 − βⁿ)/(1 − β)), of the way across"
    found.add(way, (0.0, ROUNDING), dataset, dataset.gap)
    # where the formula says that the plateau ends on a step to rounding, one step more or less is right
    missed = np.abs(dataset.crossing - dataset.foreseen_crossing)
    found.add("steps to cross the plateau, difference to the formula's", (0.0, 1.0), dataset, missed)
    usual = select(dataset, learning_rate=RATE)
    plain = select(usual, momentum=0.0)
    for beta in (0.9, 0.99):
        heavy = select(usual, momentum=beta)
        if not (heavy.diverged.size and plain.diverged.size):
            continue
        ratio = per_seed(heavy.crossing, "mean") / per_seed(plain.crossing, "mean")
        said = f"“momentum hurts on a plateau”: steps to cross at β = {beta:g} over those of gradient descent"
        found.append(Finding.of(said, (1.0, np.inf), every_seed(ratio)))
    words = "saddle: late slope of ln |y| over that of the larger root"
    found.add(words, (1 - 1e-6, 1 + 1e-6), dataset, dataset.growth, "min", "max")
    found.add("gradient descent: overshoot behind the plateau", (0.0, 0.0), plain, plain.overshoot)
    axes = [each for each in dataset.diverged.dims if each != "seed"]
    cells = dataset.stack(cell=axes, create_index=False) if axes else dataset.expand_dims("cell")
    same = np.ravel(cells.friction.values == round((1 - HEAVY) / RATE**0.5, 9))
    if same.sum() > 1:
        alike = cells.isel(cell=np.flatnonzero(same))
        order = slope_within(np.log(alike.learning_rate) / 2, np.log(alike.off), alike.off > 0, "cell")
        # the next order is √η again, at most 0.1 here, and the rates differ by factors of four: ln 1.1 / ln 2
        said = "overshoot: power of √η with which it comes close to the body with friction"
        found.add(said, (0.85, 1.15), alike, order, "min", "max")
    if bool(dataset.inside.any()):
        # the top comes less than a half-swing after the crossing, the last turn beyond NEAR less than one before the
        # law's time, and NEAR is passed less than one after that turn; 0.1 for single steps, of 30 to a half-swing
        said = "swings behind the plateau: steps from the crossing to rest, beyond 2 ln(a/0.01)/(−ln β), in half-swings"
        late = chosen_per_seed(dataset.late, dataset.inside, "min", "max")
        found.append(Finding.of(said, (-1.1, 2.1), every_seed(late)))
    for slow, fast, why in ((0.99, 0.9, "swings"), (0.9, 0.0, "crosses faster")):
        runs = [select(usual, momentum=beta) for beta in (slow, fast)]
        if all(each.diverged.size for each in runs):
            ratio = per_seed(runs[0].rest, "mean") / per_seed(runs[1].rest, "mean")
            band = (1.0, np.inf) if why == "swings" else (0.0, 1.0)
            said = f"steps from the start to rest, β = {slow:g} ({why}) over β = {fast:g}"
            found.append(Finding.of(said, band, every_seed(ratio)))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the way across, (b) behind the plateau, (c) the saddle, (d) steps to cross and to rest against β."""
    figure, ((way, bowl), (saddle, total)) = plots.figure(2, 2, "Momentum on a plateau: late, then fast, then too far")
    usual = select(dataset, learning_rate=RATE)
    for number, beta in enumerate(np.unique(usual.momentum.values).tolist()):
        runs = select(usual, momentum=beta)
        runs = first_arm(runs).isel(step=slice(1, None))
        style, label = {"color": f"C{number}"}, f"β = {beta:g}"
        first = None if number else "theory"
        plots.seeds(way, (runs.position + runs.distance).where(runs.step < runs.crossing), label, **style)
        crossing = float(runs.foreseen_crossing.median("seed"))
        plots.theory(way, runs.step, runs.come.where(runs.step <= crossing), first)
        plots.seeds(bowl, runs.position, label, **style)
        top = float(1 + runs.foreseen_overshoot.median("seed"))
        if beta > 0:
            plots.theory(bowl, (crossing, 3 * crossing), (top, top), "overshoot of the body" if number == 1 else None)
        grown = np.abs(runs.saddle) / 1e-6
        plots.seeds(saddle, grown.where(grown < 1e6), label, **style)
        law = saddle_growth(1.0, RATE, beta) ** runs.step
        plots.theory(saddle, runs.step, law.where(law < 1e6) if hasattr(law, "where") else law, first)
        plots.points(
            total, 1 - runs.momentum, runs.crossing, "across" if not number else None, color="C0", markersize=4
        )
        plots.points(total, 1 - runs.momentum, runs.rest, "at rest" if not number else None, color="C1", markersize=4)
    dense = np.geomspace(0.008, 1, 60)
    middle = float(dataset.distance.median())
    across = [plateau_crossing(middle, 1.0, RATE, 1 - share) for share in dense]
    plots.theory(total, dense, across, "across, theory (median distance)")
    way.set(title="a  the plateau: gains from the second step on", ylabel="way on the plateau", ylim=(5e-3, 10))
    bowl.set(title="b  behind it", ylabel="x (plateau up to 0, minimum at 1)", xscale="log")
    saddle.set(title="c  a saddle is left faster, too", ylabel="|y| / 1e-6", ylim=(0.3, 1e6))
    total.set(title="d  momentum pays up to a point", xlabel="1 − β", ylabel="steps")
    for axes in (way, bowl, saddle):
        axes.set(xlabel="step n", xscale="log")
    for axes in (way, saddle, total):
        axes.set(xscale="log", yscale="log")
    for axes in figure.axes:
        plots.legend(axes, loc="upper left" if axes is bowl else "best")
    return figure


RATE, HEAVY = 0.01, 0.9
AXES = ("learning_rate", "momentum")
FINER = [(RATE / 4, 1 - (1 - HEAVY) / 2), (RATE / 16, 1 - (1 - HEAVY) / 4)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: [*((RATE, beta) for beta in (0.0, 0.5, HEAVY, 0.95, 0.98, 0.99)), *FINER]},
    smoke={"seeds": 2, AXES: [(RATE, 0.0), (RATE, HEAVY), (RATE, 0.99), *FINER]},
    paper={"seeds": 256},
    control={"tilt": 0.1},
)
