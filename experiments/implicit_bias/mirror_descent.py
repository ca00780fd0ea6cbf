"""Mirror descent takes the geometry of its potential: least lp norm in regression, largest lp margin in classification.

Claim: Mirror descent with ψ(w) = ‖w‖_p^p / p started at w0 fits an under-determined regression by the interpolant of
least Bregman divergence D_ψ(w, w0), from zero the one of least lp norm, whatever the learning rate and the momentum in
the dual; momentum in the primal ends elsewhere. On separable data it turns to the direction of the largest lp margin.

Source: Gunasekar, Lee, Soudry & Srebro 2018, arXiv 1802.08246 (limit, momentum in the dual and in the primal); Sun,
Ahn, Thrampoulidis & Azizan 2022, arXiv 2205.12808 (p-GD). Two laws are derived in research/oracles/power_norm.py: a
step η settles at an interpolant only below 2 / λ_max(X diag(|w|^{2−p}/(p−1)) Xᵀ/n), and on separable data gap ·
‖w‖_p/‖ŵ‖_p → D, so that at a constant rate on the exponential loss the gap falls as D / ln t.

Departure: Sun et al. take a constant rate on the exponential loss ("plain" here). To go further along the same path the
other runs on separable data follow the logarithm of that loss by steps η (p − 1)(1 + ‖w‖_p)^{p−2}, for which ‖w‖_p
grows evenly for every p. The theorem supposes that the run fits. For p = 10 it does not: the curvature |w|^{−8}/9 at
the smallest weight of the interpolant allows no step that gets there in any budget, and with longer ones the weights
wander, on separable data too. The law gap ∝ 1/‖w‖ needs p > 3/2: what samples off the margin left in the dual in the
beginning stays there, turns w by the share ‖w‖^{1−p}, and costs the square of that, ‖w‖^{2−2p}, in the gap: for p = 1.5
another constant than D may remain, and for p = 1.1 the gap falls far slower.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import data as problems
from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import arms, lift, norm, per_seed, select, sound
from research.optimizers import mirror_descent
from research.oracles.least_squares import null_component
from research.oracles.power_norm import (
    margin_curvature,
    margin_gap_constant,
    maximum_power_margin,
    minimum_power_norm,
    mirror_modes,
)
from research.statistics import every_seed, slope_within

Problem = Literal["regression", "separable", "plain"]
POWERS = (1.1, 1.5, 2.0, 3.0, 10.0)
TOLERANCE = 1e-8  # of the claim: the relative distance at the end; 1e-12 of the slowest mode is left then
APART = 0.05  # the distance, relative, below which the ends of two powers say much the same
REACHED = 0.02  # of the largest margin may be missing where the direction counts as reached


class Observables(NamedTuple):
    weights: Float[Array, "feature"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    initial: Float[Array, "feature"]


def simulate(
    key: Array,
    power: float,
    learning_rate: float,
    momentum: float,
    primal_momentum: float,
    init_scale: float,
    *,
    problem: Problem,
    samples: int = 15,
    features: int = 40,
    steps: int = 15_000,
) -> Run:
    """One mirror descent from w0 ~ N(0, init_scale²/features), in regression on 1/(2n) ‖Xw − y‖².

    `momentum` is that of the dual. X is scaled so that the largest eigenvalue of XᵀX/n is near 1, or on separable data
    the longest sample has norm 1. On these the loss is Σ exp(−z·w)/n ("plain") or its logarithm.
    """
    data_key, init_key = jax.random.split(key)
    initial = init_scale * jax.random.normal(init_key, (features,)) / features**0.5
    chain = optax.chain(optax.trace(momentum), mirror_descent(learning_rate, power, primal_momentum))
    if problem == "regression":
        X, y, _ = problems.gaussian_regression(data_key, samples, features)
        scale = samples**0.5 / (samples**0.5 + features**0.5)
        X, y = scale * X, scale * y
        loss = lambda w: optax.l2_loss(X @ w, y).mean()
    else:
        X, y, _ = problems.separable_classification(data_key, samples, features, condition_number=3.0)
        loss = lambda w: jax.nn.logsumexp(-y * (X @ w))
    if problem == "plain":
        loss = lambda w: jnp.exp(-y * (X @ w)).mean()
    elif problem == "separable":
        longer = lambda w: (power - 1) * (1 + jnp.sum(jnp.abs(w) ** power) ** (1 / power)) ** (power - 2)
        chain = optax.chain(optax.stateless(lambda g, w: longer(w) * g), chain)
    observe = lambda state: Observables(state.params)
    return Run(start(initial, chain), descent(loss, chain), observe, log_spaced(steps, 40), Given(X, y, initial))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Where each run should end, how far off it is, which rates settle, and how far it is from other powers' ends."""
    dataset = sound(dataset)
    regression, separable = dataset.problem == "regression", dataset.problem != "regression"
    X, y, power, w0 = dataset.X, dataset.y, dataset.power, dataset.initial
    end, weights = dataset.weights.sel(step=dataset.steps), dataset.weights
    chosen = xr.where(regression, X, np.nan)
    target = lift(minimum_power_norm, chosen, y, power, w0)
    modes = lift(mirror_modes, chosen, target, power)
    # Half of the steps lead into the linear regime, and in the other half 1e-12 is left of the slowest mode.
    rate = dataset.learning_rate / (1 - dataset.momentum)
    unfinished = rate * modes.slowest * dataset.steps / 2 < np.log(1e12)
    dual = lambda w: np.sign(w) * abs(w) ** (power - 1)
    some, first = dual(weights.isel(step=slice(None, None, -8))), dual(w0)
    outside = norm(lift(null_component, chosen, some - first)) / (norm(some) + norm(first))
    distance = norm(end - target) / norm(target)
    # The widest margins, and on the way to them the norm as a clock.
    chosen, unit = xr.where(separable, X, np.nan), lambda vectors: vectors / norm(vectors)
    best, constant = lift(maximum_power_margin, chosen, y, power), lift(margin_gap_constant, chosen, y, power)
    power_norm = lambda w: (abs(w) ** power).sum("feature", min_count=1) ** (1 / power)
    longer = power_norm(weights) / power_norm(best)
    gap = 1 - (y * xr.dot(X.fillna(0), weights.fillna(0), dim="feature")).min("sample") / longer.where(longer > 0)
    curvature = xr.where(regression, modes.fastest, lift(margin_curvature, chosen, y, power))
    relative_rate = dataset.learning_rate * curvature / (2 * (1 + dataset.momentum))
    off, apart, nearest = xr.where(regression, distance, norm(unit(end) - unit(best))), np.inf, np.inf
    for other in POWERS:
        rival = xr.where(regression, lift(minimum_power_norm, X.where(regression), y, other, w0), np.nan)
        direction = unit(lift(maximum_power_margin, X.where(separable), y, other))
        between = xr.where(regression, norm(rival - target) / norm(target), norm(direction - unit(best)))
        away = xr.where(regression, norm(end - rival) / norm(target), norm(unit(end) - direction))
        apart = np.minimum(apart, between.where(power != other, np.inf))
        nearest = np.minimum(nearest, away.where(power != other, np.inf))
    late = (dataset.step > 0) & (dataset.step >= dataset.steps / 10)
    return dataset.assign(
        target=xr.where(regression, target, best),
        distance=distance,
        misfit=norm(xr.dot(X.fillna(0), end.fillna(0), dim="feature") - y, "sample") / norm(y, "sample"),
        path=norm(weights - target) / norm(target),
        relative_rate=relative_rate,
        slowest=modes.slowest,
        unfinished=unfinished,
        settled=(relative_rate < 0.99) & ~unfinished & modes.slowest.notnull(),
        outside=outside.max("step"),
        gap=gap,
        longer=longer,
        constant=constant,
        law=slope_within(longer, constant / gap.where(gap > 0), late),
        fall=slope_within(np.log(dataset.step.where(dataset.step > 0)), np.log(gap.where(gap > 0)), late),
        earlier=norm(weights.sel(step=dataset.steps / 10, method="nearest") - target) / norm(target),
        nearness=(off / nearest).where(apart >= APART),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The interpolant, its rivals, the dual, the largest rate, momentum in the primal, the margin and its law."""
    end, found = dataset.sel(step=dataset.steps), []
    own = float(np.atleast_1d(dataset.primal_momentum.values)[0])

    def add(what: str, band: tuple[float, float], values: xr.DataArray, reduce: str = "max", outlook: str = "") -> None:
        if values.size:
            found.append(Finding.of(what, band, every_seed(per_seed(values, reduce)), outlook))

    runs, others = select(end, problem="regression", primal_momentum=own), [*dataset.diverged.dims[1:]]
    judged = lambda values: values.where(runs.settled, 0.0).where(runs.settled.any(others))
    what = "regression: {}, the worst of a seed's runs that theory lets settle"
    distance = "relative distance to the interpolant of least lp divergence from w0"
    add(what.format(distance), (0.0, TOLERANCE), judged(runs.distance))
    add(what.format("that over the distance to the nearest other p's"), (0, TOLERANCE / APART), judged(runs.nearness))
    what = "regression, a check of the implementation: share of ∇ψ(w) − ∇ψ(w0) outside the row space of X at any step"
    add(f"{what}, but in {int(runs.diverged.sum())} runs that diverge", (0.0, 1e-10), runs.outside.max(others))
    had_time = ~runs.unfinished & runs.relative_rate.notnull() & (runs.momentum == 0)
    close = ~runs.diverged & (runs.distance < 1e-6)
    threshold = "regression: {} learning rate, in units of 2/λ_max(X diag(|w|^(2−p)/(p−1)) Xᵀ/n) at the interpolant, {}"
    if runs.diverged.size and bool((had_time & ~close).any(others).all()):
        rates = runs.relative_rate.where(had_time)
        add(threshold.format("largest", "that settles"), (0.0, 1.0), rates.where(close).max(others))
        add(threshold.format("smallest", "that does not"), (1.0, np.inf), rates.where(~close).min(others))
    flat = select(runs, power=10.0)
    if flat.diverged.size:
        steps = (np.log(1e12) * flat.relative_rate / flat.learning_rate / flat.slowest).where(flat.slowest > 0)
        what = f"regression, p = 10 (to settle takes 10^{float(np.log10(steps.median())):.0f} steps, median): "
        later = "then" * bool((flat.distance < flat.earlier).all() and (steps > flat.steps).all())
        add(what + distance + ", the worst run", (0.0, TOLERANCE), flat.distance, outlook=later)
    if own == 0:
        primal = select(end, problem="regression", primal_momentum=lambda momentum: momentum > 0)
        same = primal.power == 2
        curved = primal.distance.where((primal.misfit < 1e-6) & ~same, np.inf)
        what = "regression, momentum in the primal{}: " + distance
        add(what.format(", p ≠ 2") + ", the nearest run that fits", (1000 * TOLERANCE, np.inf), curved, "min")
        add(what.format(", p = 2"), (0.0, TOLERANCE), primal.distance.where(same, 0.0).where(same.any()))
        ladder = select(primal, power=1.5, primal_momentum=0.5)
        if ladder.learning_rate.size > 2:
            x, y = np.log(ladder.learning_rate), np.log(ladder.distance)
            # Each of 1/η steps adds to the dual a term of the order of its square.
            what = "regression, momentum 1/2 in the primal: order of that distance in the learning rate"
            add(what, (0.9, 1.1), slope_within(x, y, (ladder.misfit < 1e-6).all(x.dims), str(x.dims[0])))
    for problem, power in (*(("separable", power) for power in POWERS), ("plain", 2.0), ("plain", 3.0)):
        runs = select(end, problem=problem, power=power)
        if not runs.diverged.size:
            continue
        named, steps = f"{problem}, p = {power:g}: ", np.log10(runs.steps)
        pace = steps + np.log10(runs.gap / REACHED) / -runs.fall.where(runs.fall < 0)
        if problem == "plain":  # where ‖w‖/‖ŵ‖ grows by one, t grows e-fold
            pace = steps + runs.constant * (1 / REACHED - 1 / runs.gap) / np.log(10)
        ahead = bool((runs.fall < 0).all() and (pace.max() > steps.max()))
        later = f"at this pace at t = 10^{float(pace.max()):.0f} (slowest run)" if ahead else ""
        add(named + "missing share of the largest lp margin at the end", (0.0, REACHED), runs.gap, outlook=later)
        runs = runs.isel(seed=np.flatnonzero((runs.relative_rate < 0.5).all(others)))
        if problem == "plain" or runs.sizes["seed"] < 2:
            continue
        named = f"{named[:-2]}, {runs.sizes['seed']} of {end.sizes['seed']} seeds, whose curvature allows the rate: "
        if power in (1.5, 2.0, 3.0):
            what = "distance to the direction over that to the nearest other p's, the run that went furthest"
            add(named + what, (0.0, 1.0), runs.nearness, "min")
            # Terms of the order (‖ŵ‖/‖w‖)² are left in the slope, and ‖ŵ‖/‖w‖ is 0.1 or less where it is taken.
            # Where the law is at its end, p = 3/2, the gap may be larger, and the slope smaller.
            band, what = (0.98, 1.02) if power > 1.5 else (0.0, 1.0), "slope of D/gap on ‖w‖_p/‖ŵ‖_p, a seed's {}est"
            add(named + what.format("low"), band, runs.law, "min")
            add(named + what.format("high"), band, runs.law)
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the weights from sparse to flat, (b) the way there, (c) the margin against the norm, (d) the largest rate."""
    figure, panels = plots.figure(2, 2, "Mirror descent takes the geometry of its potential")
    (profile, way, margin, rates), drawn = panels.ravel(), set()  # of several arms of one kind the first is shown
    for point, runs in arms(dataset):
        power, problem = point["power"], point["problem"]
        kind = (problem, power, point["primal_momentum"] > 0)
        colour = {"color": f"C{POWERS.index(power)}" if power in POWERS else "C6", "label": f"p = {power:g}"}
        if problem == "regression" and not kind[2]:
            for late, marker in ((runs.unfinished, "x"), (~runs.unfinished, "o")):
                ended, style = runs.distance.where(late).clip(1e-16), {"marker": marker, "color": colour["color"]}
                plots.points(rates, runs.relative_rate, ended, **style)
        if kind in drawn or point["init_scale"] > 0 or point["momentum"] > 0:
            continue
        drawn.add(kind)
        later = runs.sel(step=runs.step > 0)
        if problem == "regression" and not kind[2]:
            plots.seeds(way, later.path.clip(1e-16), **colour)
            plots.seeds(profile, _profile(runs.weights.sel(step=runs.steps)), **colour)
            shape = _profile(runs.target).median("seed")
            plots.theory(profile, shape.place, shape, "least lp norm (oracle)" if len(drawn) == 1 else None)
        elif problem == "regression":
            label = None if any(each[2] for each in drawn - {kind}) else "momentum in the primal"
            plots.seeds(way, later.path.clip(1e-16), linestyle=":", **{**colour, "label": label})
        else:
            plain, points = problem == "plain", later.sel(step=later.step >= 30)
            for seed in range(points.sizes["seed"]):
                thin = {"linewidth": 0.9, "alpha": 0.7, "linestyle": ":" if plain else "-", "color": colour["color"]}
                label = None if seed else colour["label"] + ", plain" * plain
                margin.plot(points.longer.isel(seed=seed), points.gap.isel(seed=seed), label=label, **thin)
            if problem == "separable" and power == 2:
                clock = np.geomspace(float(points.longer.min()), float(points.longer.max()), 50)
                plots.theory(margin, clock, float(points.constant.median()) / clock, "D / (‖w‖/‖ŵ‖)")
    rates.axvline(1, color="black", linestyle="--", linewidth=1.2, label="2 / λ_max at the interpolant")
    rates.plot([], [], "x", color="0.4", markersize=3, label="no time to settle")
    way.axhline(TOLERANCE, color="black", linestyle="--", label="tolerance of the claim")
    distance = "relative distance to the\ninterpolant of least lp norm"
    profile.set(title="a  regression: sparse to flat", xlabel="weight, by size", ylabel="|w| / max |w|", ylim=(0, 1.35))
    way.set(title="b  regression: the way there", xlabel="step", ylabel=distance, xscale="log", yscale="log")
    margin.set(title="c  separable data: the margin", xscale="log", yscale="log", ylim=(1e-5, 3))
    margin.set(xlabel="‖w‖_p / ‖ŵ‖_p", ylabel="missing share of the largest lp margin")
    rates.set(title="d  the largest rate that settles", xlabel="learning rate / threshold", ylabel=distance)
    rates.set(xscale="log", yscale="log", xlim=(1e-2, 1e4))
    for axes, place in zip(panels.ravel(), ("upper right", "lower left", "lower left", "lower right"), strict=True):
        plots.legend(axes, loc=place, ncols=2 if axes is profile else 1)
    return figure


def _profile(weights: xr.DataArray) -> xr.DataArray:  # sizes in descending order, over the largest
    sizes = -np.sort(-abs(weights.transpose("seed", "feature").values), axis=1)
    return xr.DataArray(sizes / sizes[:, :1], {"place": np.arange(sizes.shape[1]) + 1.0}, ("seed", "place"))


AXES = ("problem", "power", "learning_rate", "momentum", "primal_momentum", "init_scale")
RATES = {1.1: (0.3, 0.1), 1.5: (1.0, 0.3), 2.0: (1.0, 0.3), 3.0: (0.01, 0.003), 10.0: (1e-9, 1e-10)}
SETTLING = [
    ("regression", power, rates[which], momentum, 0.0, scale)
    for power, rates in RATES.items()
    for which, momentum, scale in ((0, 0.0, 0.0), (1, 0.0, 0.0), (0, 0.9, 0.0), (0, 0.0, 1.0))
]
LADDER = [("regression", 1.5, rate, 0.0, 0.0, 0.0) for rate in (3.0, 3.5, 4.0, 6.0)]
LADDER += [("regression", 3.0, rate, 0.0, 0.0, 0.0) for rate in (0.02, 0.05, 0.1)]
PRIMAL = [("regression", 1.5, rate, 0.0, 0.5, 0.0) for rate in (0.03, 0.1, 0.3)]
PRIMAL += [("regression", power, rate, 0.0, 0.9, 0.0) for power, rate in ((1.5, 0.1), (2.0, 0.3), (3.0, 0.003))]
PACES = {1.1: (30.0, 10.0), 1.5: (10.0, 3.0), 2.0: (3.0, 1.0), 3.0: (0.1, 0.05), 10.0: (0.01, 0.001)}
SEPARABLE = [("separable", power, rate, 0.0, 0.0, 0.0) for power, rates in PACES.items() for rate in rates]
SEPARABLE += [("plain", power, 1.0, 0.0, 0.0, 0.0) for power in (2.0, 3.0)]
SMALL = [arm for arm in SETTLING if arm[1] in (1.5, 3.0) and arm[2] == RATES[arm[1]][0] and arm[3] == arm[5] == 0]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: SETTLING + LADDER + PRIMAL + SEPARABLE},
    smoke={"seeds": 2, AXES: [*SMALL, LADDER[-1], PRIMAL[0], PRIMAL[4], *SEPARABLE[4:8:2]]},
    paper={"seeds": 64, "features": 100, "steps": 1_000_000},
    control={"primal_momentum": 0.5},
)
