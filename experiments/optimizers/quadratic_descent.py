"""On a quadratic every mode shrinks by 1 − ηh a step, up to η = 2/h; the best momentum takes the root of the condition.

Claim: After t steps of gradient descent (1 − ηh)^t is left of the mode of curvature h, so that it diverges if and only
if η > 2/h_max, and at its best rate η = 2/(L + m) keeps (κ − 1)/(κ + 1) a step, κ = L/m. The heavy ball is stable for
η < 2(1 + β)/h_max, and is fastest at η = 4/(√L + √m)², β = ((√κ − 1)/(√κ + 1))², where it keeps (√κ − 1)/(√κ + 1).

Source: Polyak 1964, "Some methods of speeding up the convergence of iteration methods"; Lessard, Recht & Packard 2016,
arXiv 1408.3595 (rates of both on quadratics); Goh 2017, "Why momentum really works", https://distill.pub/2017/momentum.

Departure: ten modes, log-spaced between m and L = 1, each with a random start of its own. At the best (η, β) both roots
of the extreme modes coincide, so that their size goes as t (√β)^t: the slope of its logarithm over the last half of T
steps is steeper than ln √β by the mean slope of ln t there, 2 ln 2/T, which is allowed for.
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
from research.experiment import Experiment, Finding, Findings
from research.labels import first_arm, lift, select, sound, table
from research.oracles.heavy_ball import best_descent, best_heavy_ball, mode_path, slowest_rate
from research.statistics import every_seed, slope_within

ROUNDING = 1e-10  # of what a mode starts with: 1000 steps of 1e-16, which equal roots magnify by the number of steps
SMALLEST = 1e-290  # of the sizes a slope is read off: normal numbers end at 2e-308
EDGE = 0.01  # of the threshold, relative: the rates tried next to it


class Observables(NamedTuple):
    weights: Float[Array, "mode"]


class Given(NamedTuple):
    curvatures: Float[Array, "mode"]


def simulate(
    key: Array,
    learning_rate: float,
    momentum: float = 0.0,
    condition_number: float = 100.0,
    *,
    modes: int = 10,
    steps: int = 1000,
) -> Run:
    """One descent on Σ h w²/2 with curvatures h from 1 down to 1/condition_number; optax's heavy ball, from rest.

    The start is ± a number between 1/2 and 3/2 in every mode.
    """
    h = condition_number ** -jnp.linspace(0.0, 1.0, modes)
    uniform = jax.random.uniform(key, (modes,), minval=-1.0)
    optimizer = optax.sgd(learning_rate, momentum=momentum)
    observe = lambda state: Observables(state.params)
    at = np.union1d(log_spaced(steps // 2, 25), np.linspace(steps // 2, steps, 26).astype(int))
    state = start(uniform + jnp.sign(uniform) / 2, optimizer)
    return Run(state, descent(lambda w: jnp.sum(h * w**2) / 2, optimizer), observe, at, Given(h))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """What is left of each mode and what theory leaves of it, how fast a run goes late, and how fast it should."""
    ended = dataset.diverged
    dataset = sound(dataset)
    rate, beta, h = (
        dataset.learning_rate,
        dataset.momentum,
        dataset.curvatures.isel(seed=0, drop=True, missing_dims="ignore"),
    )
    left = dataset.weights / dataset.weights.isel(step=0)
    theory = lift(mode_path, h, rate, beta, dataset.step.astype(float))
    largest = np.abs(left).max("mode", skipna=False)
    # in units of the largest, whose square may be too large a number
    size = largest * ((left / largest.where(largest > 0)) ** 2).mean("mode") ** 0.5
    # the last half of the steps, or of those up to the one at which the numbers are too small
    last = dataset.step.where(size > SMALLEST).max("step")
    late = (dataset.step >= last / 2) & (dataset.step <= last)
    # a run whose numbers end has grown, by how much is not known
    slope = slope_within(dataset.step, np.log(size.where(size > 0)), late).where(~ended, np.inf)
    stable = rate < 2 * (1 + beta)
    off = lambda predicted: np.abs(left - predicted).max(["mode", "step"], skipna=False)
    smallest = 1 / dataset.condition_number
    return dataset.assign(
        left=left,
        theory=theory,
        size=size,
        slope=slope,
        last=last,
        keeps=np.exp(slope),
        foreseen=lift(slowest_rate, h, rate, beta) + xr.zeros_like(slope),
        stable=stable,
        off_power=off(lift(mode_path, h, rate, 0.0, dataset.step.astype(float))),  # (1 − ηh)^t
        off_path=off(theory),
        misplaced=((slope < 0) != stable).where(slope.notnull()),
        descent=lift(best_descent, smallest, 1.0).kept,
        best=lift(best_heavy_ball, smallest, 1.0).kept,
        best_learning_rate=lift(best_heavy_ball, smallest, 1.0).eta,
        best_momentum=lift(best_heavy_ball, smallest, 1.0).beta,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The power law of gradient descent, its threshold, the heavy ball's, both best rates, and the best of the grid."""
    found = Findings()
    settled = select(dataset, learning_rate=lambda rate: rate < 2)
    plain = select(settled, momentum=0.0)
    judged = plain if plain.diverged.size else settled
    power = "gradient descent: largest difference of the share left of a mode to (1 − ηh)^t"
    found.add(power, (0.0, ROUNDING), judged, judged.off_power)
    rolling = select(dataset, momentum=lambda beta: beta > 0)
    rolling = rolling.assign(off_path=rolling.off_path.where(rolling.stable, 0.0))
    path = "heavy ball, where stable: largest difference of the share left of a mode to the companion matrix's power"
    found.add(path, (0.0, ROUNDING), rolling, rolling.off_path)
    for runs, name, limit in (
        (select(dataset, momentum=0.0), "gradient descent", "2/h_max"),
        (rolling, "heavy ball", "2(1 + β)/h_max"),
    ):
        if runs.diverged.size and 0 < float(runs.stable.mean()) < 1:
            near = float(np.abs(runs.learning_rate / (2 * (1 + runs.momentum)) - 1).min())
            said = f"{name}: share of a seed's runs that shrink beyond {limit} or grow below it (nearest: {near:.1%})"
            found.add(said, (0.0, 0.0), runs, runs.misplaced, "mean")
    for kappa in np.unique(dataset.condition_number.values).tolist():
        ours = select(dataset, condition_number=kappa)
        for name, where, theory in (
            (
                "gradient descent",
                {"momentum": 0.0, "learning_rate": best_descent(1 / kappa, 1.0).eta},
                "descent",
            ),
            ("heavy ball", _best(kappa), "best"),
        ):
            runs = select(ours, **where)
            if runs.diverged.size:
                law = np.log(runs[theory])
                low = 1 + 2 * np.log(2) / float(runs["last"].min()) / float(law.max()) * (theory == "best")
                word = "(κ − 1)/(κ + 1)" if theory == "descent" else "(√κ − 1)/(√κ + 1)"
                said = f"{name} at its best rate, κ = {kappa:g}: late slope of ln ‖w‖ over ln {word}"
                # 1 %: the other modes, of which at κ = 300 e^(−2·500·(h − m)) = 2e-4 is left at half the steps
                found.add(said, (low - 0.01, 1.01), runs, runs.slope / law, "min", "max")
    return found + _optimum(select(dataset, condition_number=KAPPA))


def _best(kappa: float) -> dict[str, float]:
    best = best_heavy_ball(1 / kappa, 1.0)
    return {"learning_rate": best.eta, "momentum": best.beta}


def _optimum(runs: xr.Dataset) -> list[Finding]:
    """How many cells of the grid lie between the fastest run of a seed and the predicted one."""
    if not runs.diverged.size or min(len(np.unique(runs[name])) for name in ("learning_rate", "momentum")) < 4:
        return []
    speed = table(runs, "keeps", "learning_rate", "momentum")
    speed = speed.where(speed.notnull(), np.inf)
    found = []
    for name, words in (("learning_rate", "learning rate"), ("momentum", "momentum")):
        other = "momentum" if name == "learning_rate" else "learning_rate"
        fastest = speed.min(other).argmin(name).values
        known = float(runs[f"best_{name}"].max(skipna=False))
        place = np.abs(speed[name].values - known).argmin() if np.isfinite(known) else np.nan
        what = f"κ = {KAPPA:g}: cells between the fastest {words} of the grid and the predicted {known:.4g}"
        found.append(Finding.of(what, (0.0, 1.0), every_seed(np.abs(fastest - place))))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) modes of gradient descent, (b) what the slowest keeps over (η, β), (c) error of both, (d) rate against κ."""
    figure, ((modes, plane), (errors, conditions)) = plots.figure(2, 2, "Descent on a quadratic: each mode by itself")
    runs = select(dataset, condition_number=KAPPA)
    plain = select(runs, momentum=0.0, learning_rate=lambda rate: rate in (1.5,))
    if plain.diverged.size:
        one = first_arm(plain)
        for number, mode in enumerate(range(0, one.sizes["mode"], 3)):
            share = np.abs(one.left.isel(mode=mode))
            label = f"h = {float(one.curvatures.isel(mode=mode, seed=0, missing_dims='ignore')):.2g} h_max"
            plots.seeds(modes, share.isel(step=slice(1, None)), label, color=f"C{number}")
            theory = np.abs(one.theory.isel(mode=mode, step=slice(1, None)))
            plots.theory(modes, one.step[1:], theory, None if number else "|1 − ηh|^t, η = 1.5/h_max")
    full = select(runs, momentum=[*MOMENTA, BEST["momentum"]], learning_rate=[*RATES, BEST["learning_rate"]])
    speed = table(full, "keeps", "momentum", "learning_rate").median("seed")
    if min(speed.shape) > 1:
        theory = table(full, "foreseen", "momentum", "learning_rate")[0].clip(0.8, 1.05)
        plots.plane(plane, speed.clip(0.8, 1.05), theory, "kept a step, ‖w‖ late (clipped to 0.8 … 1.05)")
        line = np.linspace(0, float(speed.momentum.max()), 50)
        plots.theory(plane, 2 * (1 + line), line, "η = 2(1 + β)/h_max", linestyle="-")
        plane.plot(*_best(KAPPA).values(), "k*", ms=12, label="Polyak's optimum")
    for number, (name, where) in enumerate(_arms(KAPPA).items()):
        arm = select(runs, **where)
        if arm.diverged.size:
            one, style = first_arm(arm), {"color": f"C{number}"}
            plots.seeds(errors, one["size"], name, **style)
            plots.theory(errors, one.step, (one.theory**2).mean("mode") ** 0.5, None if number else "theory")
        kappas = np.unique(dataset.condition_number.values)
        for kappa in kappas.tolist():
            arm = select(select(dataset, condition_number=kappa), **_arms(kappa)[name])
            if arm.diverged.size:
                one, first = first_arm(arm), kappa == kappas[-1]
                plots.points(
                    conditions,
                    xr.DataArray(kappa),
                    -one.slope,
                    name if first else None,
                    color=f"C{number}",
                    markersize=5,
                )
    least, most = (float(pick(dataset.condition_number.values)) for pick in (np.min, np.max))
    dense = np.geomspace(0.8 * least, 1.25 * most, 60)
    for number, law in enumerate((best_descent, best_heavy_ball)):
        label = ("−ln (κ − 1)/(κ + 1) ≈ 2/κ", "−ln (√κ − 1)/(√κ + 1) ≈ 2/√κ")[number]
        rates = [-np.log(law(1 / kappa, 1.0).kept) for kappa in dense]
        plots.theory(conditions, dense, rates, label, linestyle=("--", ":")[number])
    modes.set(
        title="a  gradient descent, mode by mode", xlabel="step t", ylabel="share left", xscale="log", yscale="log"
    )
    modes.set(ylim=(1e-12, 2))
    plane.set(title=f"b  rate and momentum, κ = {KAPPA:g}", xlabel="learning rate × h_max", ylabel="momentum β")
    errors.set(
        title=f"c  both at their best, κ = {KAPPA:g}", xlabel="step", ylabel="‖w‖ / ‖w‖ at the start", yscale="log"
    )
    conditions.set(title="d  the root of the condition number", xlabel="condition number κ", ylabel="−slope of ln ‖w‖")
    conditions.set(xscale="log", yscale="log")
    for axes in (modes, errors, conditions):
        plots.legend(axes)
    plots.legend(plane, loc="lower left")
    return figure


def _arms(kappa: float) -> dict[str, dict[str, float]]:
    descends = {"learning_rate": best_descent(1 / kappa, 1.0).eta, "momentum": 0.0}
    return {"gradient descent": descends, "heavy ball": _best(kappa)}


KAPPA = 100.0
AXES = ("learning_rate", "momentum", "condition_number")
RATES = (0.5, 1.0, 1.5, 1.8, 2 * (1 - EDGE), 2 * (1 + EDGE), 2.5, 2.9, 3.1, 3.6, 3.85)
MOMENTA = (0.0, 0.2, 0.4, 0.5, 0.6, 0.75, 0.85, 0.95)
EVERY = [(*arm.values(), kappa) for kappa in (10.0, 30.0, KAPPA, 300.0) for arm in _arms(kappa).values()]
BEST = _best(KAPPA)


def grid(rates: tuple[float, ...], momenta: tuple[float, ...]) -> list[tuple[float, float, float]]:
    """All pairs, those at the optimum, and rates that lie 1 % to either side of each momentum's threshold."""
    pairs = [(rate, beta) for rate in (*rates, BEST["learning_rate"]) for beta in (*momenta, BEST["momentum"])]
    edges = [(2 * (1 + beta) * (1 + side), beta) for beta in (0.5, 0.9) for side in (-EDGE, EDGE)]
    return [(*pair, KAPPA) for pair in dict.fromkeys([*pairs, *edges])]


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: list(dict.fromkeys([*grid(RATES, MOMENTA), *EVERY]))},
    smoke={"seeds": 2, AXES: list(dict.fromkeys([*grid((1.5, 1.98, 2.02, 3.1, 3.6), (0.0, 0.5, 0.85)), *EVERY[4:6]]))},
    paper={"seeds": 64, "modes": 20, "steps": 10_000},
    control={"momentum": 0.9},
)
