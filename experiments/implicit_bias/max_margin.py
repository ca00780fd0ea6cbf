"""Gradient descent on separable data turns towards the l2 maximum-margin direction, as slowly as 1/ln t.

Claim: On linearly separable data gradient descent on the logistic loss goes as w(t) = ŵ ln t + w̃ + o(1), ŵ the
hard-margin support vector machine, whatever the start, the learning rate, the momentum and the batch. So 1/gap, the gap
being the share of the largest margin that is missing, is affine in ln t; its slope is 1/D, D = max ln α − Σ (α/Σα) ln α
for the multipliers α. Weight decay λ stops it on the way, and λ → 0 leads to the same direction. A loss with a
polynomial tail leads to another direction, and where no direction separates, the weights converge.

Source: Soudry, Hoffer, Nacson, Gunasekar & Srebro 2018, arXiv 1710.10345 (limit, ŵ ln t + w̃; figure 1); batches:
Nacson, Srebro & Soudry 2019, arXiv 1806.01796; polynomial tails: Ji, Dudík, Schapire & Telgarsky 2020, arXiv
2006.11226; weight decay: Rosset, Zhu & Hastie 2004, JMLR 5; no separator: Ji & Telgarsky 2018, arXiv 1803.07300. The
constants of these laws are derived here from ŵ and w̃.

Departure: In the plane Soudry et al. draw points whose symmetry makes w̃ parallel to ŵ ("symmetric"): the sine of the
angle falls as a power of t over ln t there, not as 1/ln t. The "planted" data have four support vectors of unequal
multipliers, and in their span further samples at least twice as far from the plane: w̃ is then a closed form, and the
o(1) a power of t that dies within the budget. On "gaussian" data the power is so small that no budget reaches the
slope; both are shown. Digits (3 against 8) and breast_cancer have a constant feature in place of a bias, and each seed
takes a random half of the samples. Rosset et al. follow the minimiser; here Nesterov's method descends to it.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from scipy.special import lambertw

from research import plots
from research.dynamics import Run, descent, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import arms, lift, norm, per_seed, select, sound
from research.oracles.asymptote import asymptote
from research.oracles.least_squares import null_component
from research.oracles.margin import logistic_optimum, margin, margin_gap_slope, maximum_margin
from research.oracles.tail import power_tail_direction
from research.separable import Separable, separable_problem
from research.statistics import every_seed, slope_within

Optimizer = Literal["gradient_descent", "momentum", "stochastic", "adam", "polynomial", "nesterov"]
GD = "gradient_descent"
SMOOTHNESS = 1 / 4  # of the mean logistic loss where ‖x‖ <= 1
MOMENTUM = 0.9
POWER = 1.0  # of the margin with which the loss of "polynomial" falls
REACHED = 0.02  # of the largest margin may be missing where the direction counts as reached


class Observables(NamedTuple):
    weights: Float[Array, "feature"]
    loss: Float[Array, ""]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    initial: Float[Array, "feature"]


def power_tail(u: Array) -> Array:
    """(1 + u)^−POWER / POWER, continued by its tangent below zero: convex, decreasing, of slope −1 at zero."""
    return jnp.where(u > 0, (1 + jnp.maximum(u, 0.0)) ** -POWER / POWER, 1 / POWER - u)


def simulate(
    key: Array,
    learning_rate: float = 1.0,
    init_scale: float = 0.0,
    weight_decay: float = 0.0,
    *,
    data: Separable,
    optimizer: Optimizer,
    steps: int,
) -> Run:
    """One descent on the mean logistic loss + weight_decay/2 ‖w‖² from w0 ~ N(0, init_scale²/features).

    `learning_rate` is in units of 1/(1/4 + weight_decay), the inverse of the smoothness; Adam takes a thousandth of it.
    "stochastic" draws one sample a step; "momentum" is the heavy ball of 0.9; "polynomial" has the loss `power_tail`.
    """
    data_key, init_key, run_key = jax.random.split(key, 3)
    X, y = separable_problem(data_key, data)
    Z = X * y[:, None]
    fall = power_tail if optimizer == "polynomial" else lambda u: jax.nn.softplus(-u)
    loss = lambda w, z=Z: fall(z @ w).mean() + weight_decay * optax.tree.norm(w, squared=True) / 2
    rate, root = learning_rate / (SMOOTHNESS + weight_decay), jnp.sqrt(weight_decay / (SMOOTHNESS + weight_decay))
    chain = {
        "momentum": optax.sgd(rate * (1 - MOMENTUM), momentum=MOMENTUM),
        "nesterov": optax.sgd(rate, momentum=(1 - root) / (1 + root), nesterov=True),
        "adam": optax.adam(1e-3 * learning_rate),
    }.get(optimizer, optax.sgd(rate))
    initial = init_scale * jax.random.normal(init_key, (X.shape[1],)) / X.shape[1] ** 0.5
    step = descent(loss, chain)
    if optimizer == "stochastic":
        step = stochastic_descent(loss, chain, lambda sample_key: jax.random.choice(sample_key, Z))
    observe = lambda state: Observables(state.params, loss(state.params))
    at = log_spaced(steps, 1 + round(8 * np.log10(steps)))
    return Run(start(initial, chain, run_key), step, observe, at, Given(X, y, initial))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """How much of the largest margin is missing, the law that theory gives for it, and where the weights should end."""
    dataset = sound(dataset)
    X, y, weights, kind = dataset.X, dataset.y, dataset.weights, dataset.optimizer
    t, samples = dataset.step.where(dataset.step > 0), y.notnull().sum("sample")
    solution = lift(maximum_margin, X, y, order=2)
    width, spread = 1 / norm(solution), 1 / lift(margin_gap_slope, X, y)
    line, shift = lift(asymptote, X, y), np.log(dataset.learning_rate / SMOOTHNESS / samples)
    kept = lift(null_component, X, dataset.initial)  # what the start has across the data stays
    foreseen = line.direction * (np.log(t) + shift) + line.offset + kept
    gap_of = lambda vectors: 1 - lift(margin, X, y, vectors, order=2) / width
    gap, foreseen_gap, optimum = gap_of(weights), gap_of(foreseen), lift(logistic_optimum, X, y, dataset.weight_decay)
    late = lambda decades: (t >= dataset.steps / 10**decades) & (t <= dataset.steps)
    slope = lambda values, decades: slope_within(np.log(t), values, late(decades))
    # The minimisers obey λ w = Σ exp(−z_k·w) z_k / n at the end: ŵ s + w̃ again, where s + ln s = −ln(λn).
    depth = 1 / (dataset.weight_decay.where(dataset.weight_decay > 0) * samples)
    unit = lambda vectors: vectors / norm(vectors)
    turned = lambda vectors, end: norm(unit(vectors) - unit(end))
    own = lift(power_tail_direction, X.where(kind == "polynomial"), y, power=POWER)
    angle, remainder = turned(weights, solution), norm(weights - foreseen) / norm(foreseen - line.direction * np.log(t))
    return dataset.assign(
        gap=gap,
        spread=spread,
        exponent=line.exponent,
        angle=angle,
        foreseen_angle=turned(foreseen, solution),
        size=norm(weights) * width,
        foreseen_size=norm(foreseen) * width,
        foreseen_loss=SMOOTHNESS / (dataset.learning_rate * width**2 * t),  # (1/n) Σ exp(−z_k·w), of which Σ α = ‖ŵ‖²
        law=slope(1 / gap, 2) / slope(1 / foreseen_gap.where(foreseen_gap > 1e-9), 2),
        closing=slope(np.log(gap.where(gap > 0)), 1) < 0,
        fades=slope(np.log(remainder), 1) < 0,
        growth=slope(norm(weights), 1) * width,
        falling=slope(np.log(dataset.loss.where(dataset.loss > 0)), 1),
        turning=slope(np.log(angle * (np.log(t) + shift).clip(1e-9)), 2) / -line.exponent,
        foreseen_gap=foreseen_gap,
        remainder=remainder,
        fading=np.exp(-line.exponent * (np.log(t) + shift)),
        from_own=turned(weights, own),
        settling=slope(np.log(turned(weights, own)), 2),
        distance=norm(weights - optimum) / norm(optimum),
        optimal_gap=gap_of(optimum),
        depth=xr.apply_ufunc(lambda ratio: lambertw(ratio).real, depth),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """How the weights grow, the affine law, what does not matter, what does, real data, and weight decay.

    Judged first is the first arm, whatever its optimiser.
    """
    first, judged = (str(np.atleast_1d(dataset[name].values)[0]) for name in ("data", "optimizer"))
    ends = dataset.sel(step=dataset.steps)
    found: list[Finding] = []

    def add(data: str, kind: str, what: str, variable: str, band: tuple, outlook: str = "", plain: bool = True) -> None:
        runs = select(ends, data=data, optimizer=kind, weight_decay=0.0)
        runs = select(runs, learning_rate=1.0, init_scale=0.0) if plain else runs
        if runs.diverged.size:
            exponent, trend = float(runs.exponent.median()), runs.closing if variable == "gap" else runs.fades
            further = (
                runs.spread * (1 / REACHED - 1 / runs.gap) / np.log(10) if variable == "gap" else 2 / runs.exponent
            )
            decades = float((np.log10(runs.steps) * (variable == "gap") + further).median())
            ahead = bool(trend.all()) and decades > np.log10(runs.steps.max())
            said = outlook.format(exponent, decades) if ahead else ""
            what = f"{data}, {kind}: {what}".replace("_", " ") + ", each rate and start" * (not plain)
            values = per_seed(runs[variable], "min", "max")
            found.append(Finding.of(what, band, every_seed(values), said))

    fading = "the remainder falls as t^-{:.2g} (median seed), to 1 % at t = 10^{:.0f}"
    growth = "slope of ‖w‖ on ln t over the last decade, in units of ‖ŵ‖"
    add(first, judged, growth, "growth", (0.98, 1.02), fading * (judged == GD))
    law = "slope of 1/gap on ln t, over that of ŵ ln t + w̃, over the last two decades"
    for data in dict.fromkeys((first, "gaussian")):
        # On the planted data the remainder, t^-exponent in units of n/η steps, is below 1 % of w̃ and so 5 % of D.
        add(data, GD, law, "law", (0.95, 1.05), fading)
    for kind in (GD, "momentum", "stochastic"):
        add(first, kind, "‖w − ŵ ln t − w̃‖/‖w̃‖ at the end", "remainder", (0.0, 0.01), fading, plain=kind != GD)
    # The loss is ‖ŵ‖²/(ηt) (1 + o(1)), and the o(1) fades as above.
    add(first, GD, "slope of ln(loss) on ln t over the last decade", "falling", (-1.01, -0.99), fading)
    turning = "power of t with which angle × ln t falls, over that of the slowest mode, last two decades"
    add("symmetric", GD, turning, "turning", (0.95, 1.05))
    # w = τ v + δ with τ ∝ t^(1/(POWER+2)) and dδ/dτ = −(POWER+1)(Hδ + h)/τ, H = Σ u^−(POWER+2) z zᵀ over its minimum v:
    # δ tends to −h/H, so that the angle falls as 1/τ, with a rest of the power (POWER+1) μ_min(H), near 1/2 here.
    power = -1 / (POWER + 2)
    own = "slope of ln(angle to its own direction) on ln t, last two decades"
    add("planted", "polynomial", own, "settling", (power - 0.05, power + 0.05))
    runs = select(ends, data="planted", optimizer="polynomial")
    if runs.diverged.size:
        what = "planted, polynomial tail: ln of the angle to the maximum margin over that to its own direction"
        found.append(Finding.of(what, (0.0, np.inf), every_seed(per_seed(np.log(runs.angle / runs.from_own)))))
    further = "from here 1/gap gains 1/D a unit of ln t: t = 10^{1:.0f} (median seed)"
    for data in ("digits", "breast_cancer"):
        add(data, GD, "gap at the end", "gap", (0.0, REACHED), further)
    add("overlapping", GD, "relative distance to the logistic optimum at the end", "distance", (0.0, 1e-6))
    return found + _path(select(ends, optimizer="nesterov", weight_decay=lambda strength: strength > 0))


def _path(runs: xr.Dataset) -> list[Finding]:
    """Weight decay: every run against its minimiser, and how the gap closes as the decay vanishes."""
    decay = runs.weight_decay
    if not runs.diverged.size or not decay.ndim:
        return []
    # Nesterov's method takes the squared distance below (4 ln 2/λ) (1 − √κ)^t, κ = λ/(1/4 + λ).
    had_time = runs.steps * (decay / (SMOOTHNESS + decay)) ** 0.5 >= np.log(4 * np.log(2) / decay) + 2 * np.log(1e6)
    law = slope_within(runs.depth, 1 / runs.gap, decay <= 1001 * decay.min(), str(decay.dims[0])) * runs.spread
    close = "weight decay: relative distance to the minimiser, the worst of a seed's runs that had time for it"
    affine = "weight decay λ → 0, last three decades: slope of 1/gap on s, s + ln s = −ln(λn), in units of 1/D"
    # The next term of 1/gap is of order 1/s, and s is 5 where the last three decades begin.
    judged = ((close, (0.0, 1e-6), runs.distance.where(had_time, 0.0).where(had_time.any())), (affine, (0.9, 1.1), law))
    return [Finding.of(what, band, every_seed(per_seed(values))) for what, band, values in judged]


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Soudry's panels (a) norm, (b) loss, (c) angle, (d) margin; then (e) weight decay, (f) where the weights go."""
    figure, panels = plots.figure(2, 3, "Descent on separable data turns towards the l2 maximum margin, slowly")
    (size, loss, angle), (affine, decay, ends) = panels
    for axes in panels.ravel():
        axes.set(xscale="log", yscale="log", xlabel="step t")
    names = {"stochastic": "one sample a step", "polynomial": "polynomial tail", GD: "gradient descent"}
    kinds = list(dict.fromkeys(np.atleast_1d(dataset.optimizer.values).tolist()))
    sets = list(dict.fromkeys(np.atleast_1d(dataset.data.values).tolist()))
    for point, runs in arms(select(dataset, weight_decay=0.0, learning_rate=1.0, init_scale=0.0)):
        data, kind = point["data"], point["optimizer"]
        runs = runs.sel(step=(runs.step > 0) & (runs.step <= point["steps"]))
        late, label = runs.sel(step=runs.step >= 100), names.get(kind, kind)
        style, shade = {"color": f"C{kinds.index(kind)}"}, {"color": f"C{sets.index(data)}"}
        if data == "planted":
            plots.seeds(size, runs["size"], label, **style)
            plots.seeds(loss, runs.loss.where(runs.loss > 0), label, **style)
            if kind == GD:
                plots.theory(size, late.step, late.foreseen_size.median("seed"), "‖ŵ ln t + w̃‖")
                plots.theory(loss, late.step, late.foreseen_loss.median("seed"), "‖ŵ‖² / (learning rate × t)")
                plots.theory(angle, late.step, late.foreseen_angle.median("seed"), "ŵ ln t + w̃")
                plots.theory(affine, late.step, (late.spread / late.foreseen_gap).median("seed"), "ŵ ln t + w̃")
                plots.theory(ends, late.step, late.fading.median("seed"), "power of the slowest mode")
            if kind in (GD, "momentum", "stochastic"):
                plots.seeds(ends, runs.remainder, f"{label}: to ŵ ln t + w̃", **style)
            if kind in ("adam", "polynomial"):
                plots.seeds(angle, runs.angle, f"planted, {label}", linestyle=":", **style)
            if kind == "polynomial":
                plots.seeds(ends, runs.from_own, "polynomial tail: to its own direction", **style)
                end = runs.from_own.isel(step=-1).median()
                own = end * (late.step / late.step[-1]) ** (-1 / (POWER + 2))
                plots.theory(ends, late.step, own, "t^-1/3", linestyle=":")
        if kind == GD and data in ("planted", "gaussian", "symmetric"):
            plots.seeds(angle, runs.angle, f"{data}, {label}", **shade)
        if kind == GD and data == "symmetric":
            fall = late.fading / np.log(late.step)
            drawn = (late.angle.isel(step=-1) * fall / fall.isel(step=-1)).median("seed")
            plots.theory(angle, late.step, drawn, "slowest mode / ln t", linestyle=":")
        if kind == GD and data in ("planted", "gaussian", "digits"):
            plots.seeds(affine, runs.spread / runs.gap, data, **shade)
        if kind == GD and data == "overlapping":
            plots.seeds(ends, runs.distance, "nothing separates: to the optimum", color="C5")
    decayed = select(dataset.sel(step=dataset.steps), optimizer="nesterov", weight_decay=lambda strength: strength > 0)
    if decayed.diverged.size and decayed.weight_decay.ndim:
        walk = decayed[["gap", "optimal_gap"]].swap_dims({decayed.weight_decay.dims[0]: "weight_decay"})
        walk = walk.median([dimension for dimension in walk.dims if dimension not in ("seed", "weight_decay")])
        plots.seeds(decay, walk.gap, "Nesterov's method")
        plots.theory(decay, walk.weight_decay, walk.optimal_gap.median("seed"), "minimiser (Newton)")
    size.set(title="a  the weights grow as ln t (planted)", yscale="linear", ylabel="‖w‖ / ‖ŵ‖")
    loss.set(title="b  the loss falls as 1/t (planted)", ylabel="loss")
    angle.set(title="c  the angle closes slowly", ylabel="distance of unit vectors to the maximum margin")
    affine.set(title="d  1/gap is affine in ln t", yscale="linear", ylabel="D / gap")
    decay.set(
        title="e  weight decay → 0 (planted)", xlabel="weight decay λ", ylabel="missing share of the largest margin"
    )
    decay.invert_xaxis()
    ends.set(title="f  where the weights go", ylabel="relative distance")
    for axes in panels.ravel():
        plots.legend(axes, **({"loc": "lower left", "fontsize": 6.5} if axes in (ends, angle) else {}))
    return figure


AXES = ("data", "optimizer", "steps", "learning_rate", "init_scale", "weight_decay")
PLAIN = (1.0, 0.0, 0.0)
ARMS = [
    ("planted", GD, 1_000_000, *PLAIN),
    ("planted", GD, 1_000_000, 0.1, 0.0, 0.0),
    ("planted", GD, 1_000_000, 1.0, 1.0, 0.0),
    ("planted", "polynomial", 1_000_000, *PLAIN),
    *(("planted", kind, 100_000, *PLAIN) for kind in ("momentum", "stochastic", "adam")),
    *(("planted", "nesterov", 100_000, 1.0, 0.0, 10.0**-power) for power in range(1, 8)),
    *((data, GD, 1_000_000, *PLAIN) for data in ("gaussian", "symmetric")),
    *((data, GD, 100_000, *PLAIN) for data in ("digits", "breast_cancer", "overlapping")),
]
SMALL = [("planted", GD), ("planted", "nesterov"), ("symmetric", GD), ("overlapping", GD)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, AXES: [arm for arm in ARMS if arm[:2] in SMALL and arm[3:5] == PLAIN[:2]]},
    paper={"seeds": 64, AXES: [(data, kind, 10 * steps, *rest) for data, kind, steps, *rest in ARMS]},
    control={AXES: [("planted", "polynomial", 100_000, *PLAIN)]},
)
