"""Descent on separable data turns towards the l2 maximum-margin direction; how fast depends on the optimiser.

Claim: On linearly separable data gradient descent on the logistic loss goes as w(t) = ŵ ln t + w̃ + o(1), ŵ the
hard-margin support vector machine. So 1/gap, the gap being the share of the largest margin that is missing, is affine
in ln t; its slope is 1/D, D = max ln α − Σ (α/Σα) ln α for the multipliers α. Descent normalised by the loss goes the
same way faster: the gap falls as t^-1/2 (step ∝ t^-1/2), t^-1 (constant step) and t^-2 (dual acceleration). Weight
decay λ stops it on the way, and λ → 0 leads to the same direction. Where no direction separates the data, the weights
converge to the logistic optimum.

Source: Soudry, Hoffer, Nacson, Gunasekar & Srebro 2018, arXiv 1710.10345, Theorems 3 and 4; normalised steps: Nacson et
al. 2019, arXiv 1803.01905 (bound ln t/√t), and Ji & Telgarsky 2021, arXiv 1906.04540 (1/t); Ji, Srebro & Telgarsky
2021, arXiv 2107.00595, Algorithm 1 (t^-2 up to a logarithm); weight decay: Rosset, Zhu & Hastie 2004, JMLR 5; no
separator: Ji & Telgarsky 2018, arXiv 1803.07300. The constants of all these laws are derived here from ŵ and w̃.

Departure: Soudry et al. draw 16 points in the plane whose symmetry makes w̃ parallel to ŵ, an atypical case. Here the
"planted" data have four support vectors of unequal multipliers, and in their span further samples at least twice as
far from the plane: w̃ is then a closed form, and the o(1) a power of t that dies within the budget. On "gaussian" data
the power is so small that no budget reaches the slope; both are shown. The normalised steps divide by the loss, not by
the gradient's norm as Nacson et al. do (the ratio of the two tends to the margin). Digits (3 against 8) and
breast_cancer have a constant feature in place of a bias, and each seed takes a random half of the samples. Rosset et
al. follow the minimiser; here Nesterov's method descends to it.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from scipy.special import lambertw

from research import data as problems
from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import arms, lift, norm, per_seed, select
from research.optimizers import dual_acceleration, inverse_square_root
from research.oracles.asymptote import asymptote
from research.oracles.margin import logistic_optimum, margin_gap_slope, maximum_margin, separable
from research.statistics import every_seed, slope_within

Data = Literal["planted", "gaussian", "digits", "breast_cancer", "overlapping"]
Optimizer = Literal["gradient_descent", "nesterov", "normalized_decaying", "normalized", "accelerated"]
GD, FAST = "gradient_descent", "accelerated"
SMOOTHNESS = 1 / 4  # of the mean logistic loss where ‖z‖ <= 1; that of the logarithm of the exponential loss is 1
REACHED = 0.02  # of the largest margin may be missing where the direction counts as reached
SEPARATED = 0.95  # the largest cosine between the maximum-margin directions of two norms
SPEEDS = (  # of the gap, the way that it follows, and the power of t, with what the start may add to it in the budget
    ("normalized_decaying", "2γ²√t", -0.5, 0.07),
    ("normalized", "γ²t", -1.0, 0.07),
    (FAST, "γ²(t² + 3t)/4", -2.0, 0.15),
)


class Observables(NamedTuple):
    weights: Float[Array, "feature"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]


def planted(key: Array, samples: int = 20, features: int = 80, support: int = 4) -> Given:
    """Support vectors z_k = u + a_k with a_k ⟂ u and Σ p_k a_k = 0, so that ŵ = u and α = p, and others beyond them.

    The others are mixtures of these at margins between two and three. One draw, as each more costs time to compile.
    """
    draw = jax.random.normal(key, (samples + 1, features))
    direction, across, others = draw[0] / jnp.linalg.norm(draw[0]), draw[1 : 1 + support], draw[1 + support :]
    p = jax.nn.softmax(jnp.linspace(0.0, 1.2, support))
    across = 3 * (across - jnp.outer(across @ direction, direction)) / features**0.5
    nearest = across + (direction - p @ across)[None, :]
    mixed = jax.nn.softmax(others[:, :support]) @ nearest * (2 + jax.nn.sigmoid(others[:, -1:]))
    y = jnp.where(jnp.arange(samples) % 2 == 0, 1.0, -1.0)
    return Given(jnp.concatenate([nearest, mixed]) * y[:, None], y)


def problem(key: Array, data: Data) -> Given:
    """X, scaled so that its longest row has norm 1, and y."""
    if data == "planted":
        X, y = planted(key)
    elif data == "gaussian":
        X, y, _ = problems.separable_classification(key, samples=30, features=10)
    elif data == "overlapping":
        X, y, _ = problems.overlapping_classification(key, samples=30, features=6, flipped=0.25)
    else:
        inputs, labels = problems.digits((3, 8)) if data == "digits" else problems.breast_cancer()
        chosen = jax.random.permutation(key, len(labels))[: len(labels) // 2]
        X = jnp.asarray(problems.with_constant(inputs if data == "digits" else problems.standardized(inputs)))[chosen]
        y = jnp.asarray(problems.signed(labels, 3 if data == "digits" else 1))[chosen]
    return Given(X / jnp.max(jnp.linalg.norm(X, axis=1)), y)


def simulate(
    key: Array, learning_rate: float = 1.0, weight_decay: float = 0.0, *, data: Data, optimizer: Optimizer, steps: int
) -> Run:
    """One descent from zero on the mean logistic loss + weight_decay/2 ‖w‖².

    The normalised and the accelerated descent take the logarithm of the exponential loss instead, whose gradient is
    that loss's own over the loss. `learning_rate` is in units of 1/smoothness: 1/(1/4 + weight_decay), for these 1.
    """
    X, y = problem(key, data)
    Z = X * y[:, None]
    logistic = lambda w: jax.nn.softplus(-Z @ w).mean() + weight_decay * optax.tree.norm(w, squared=True) / 2
    logarithm = lambda w: jax.nn.logsumexp(-Z @ w)
    rate, root = learning_rate / (SMOOTHNESS + weight_decay), jnp.sqrt(weight_decay / (SMOOTHNESS + weight_decay))
    loss, chain = {
        "gradient_descent": (logistic, optax.sgd(rate)),
        "nesterov": (logistic, optax.sgd(rate, momentum=(1 - root) / (1 + root), nesterov=True)),
        "normalized_decaying": (logarithm, optax.sgd(inverse_square_root(learning_rate))),
        "normalized": (logarithm, optax.sgd(learning_rate)),
        "accelerated": (logarithm, dual_acceleration(learning_rate)),
    }[optimizer]
    initial, points = jnp.zeros(X.shape[1]), 1 + round(8 * np.log10(steps))
    observe = lambda state: Observables(state.params)
    return Run(start(initial, chain), descent(loss, chain), observe, log_spaced(steps, points), Given(X, y))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """How much of the largest margin is missing, the law that theory gives for it, and where the weights should end."""
    X, y, weights, kind = dataset.X, dataset.y, dataset.weights, dataset.optimizer
    t, samples = dataset.step.where(dataset.step > 0), y.notnull().sum("sample")
    width, spread = 1 / norm(lift(maximum_margin, X, y, order=2)), 1 / lift(margin_gap_slope, X, y)
    # 1/gap grows by 1/D a unit of this clock: of ln t, or of γ² times the way that a gradient of length γ leads.
    clock = np.log(t) + xr.zeros_like(width)
    for name, way in {"normalized_decaying": 2 * t**0.5, "normalized": t, "accelerated": (t**2 + 3 * t) / 4}.items():
        clock = xr.where(kind == name, width**2 * dataset.learning_rate * way, clock)
    line, shift = lift(asymptote, X, y), np.log(dataset.learning_rate / SMOOTHNESS / samples)
    foreseen = (line.direction * (np.log(t) + shift) + line.offset).where(kind == "gradient_descent")
    gap, optimum = _gap(weights, X, y, width), lift(logistic_optimum, X, y, dataset.weight_decay)
    late = lambda decades: (t >= dataset.steps / 10**decades) & (t <= dataset.steps)
    # The minimisers obey λ w = Σ exp(−z_k·w) z_k / n at the end: ŵ s + w̃ again, where s + ln s = −ln(λn).
    depth = 1 / (dataset.weight_decay.where(dataset.weight_decay > 0) * samples)
    chosen, unit = X.where(dataset.data == "planted"), lambda vectors: vectors / norm(vectors)
    l1, l2, linf = (unit(lift(maximum_margin, chosen, y, order=order)) for order in (1, 2, np.inf))
    away = {f"from_{name}": norm(unit(weights) - end) for name, end in (("l1", l1), ("l2", l2), ("linf", linf))}
    apart = np.minimum(norm(l2 - l1), norm(l2 - linf)) ** 2 >= 2 * (1 - SEPARATED)
    remainder = norm(weights - foreseen) / norm(line.direction * shift + line.offset)
    across = line.offset - line.direction * xr.dot(line.direction, line.offset, dim="feature") * width**2
    return dataset.assign(away).assign(
        nearness=(away["from_l2"] / np.minimum(away["from_l1"], away["from_linf"])).where(apart),
        gap=gap,
        spread=spread,
        clock=clock,
        exponent=line.exponent,
        # Where no direction separates there is no gap; what is left of the law is that the weights grow with ln t.
        law=slope_within(clock, xr.where(lift(separable, X, y) == 0, norm(weights), spread / gap), late(3)),
        closing=slope_within(np.log(t), np.log(gap.where(gap > 0)), late(1)) < 0,
        fades=slope_within(np.log(t), np.log(remainder), late(1)) < 0,
        power=slope_within(np.log(t), np.log(gap.where(gap > 0)), late(3)),
        growth=slope_within(np.log(t), norm(weights), late(1)) * width,
        foreseen=_gap(foreseen, X, y, width),
        remainder=remainder,
        fading=np.exp(-line.exponent * (np.log(t) + shift)),
        turned=norm(across) * width / clock,
        distance=norm(weights - optimum) / norm(optimum),
        optimal_gap=_gap(optimum, X, y, width),
        depth=xr.apply_ufunc(lambda ratio: lambertw(ratio).real, depth),
    )


def _gap(weights: xr.DataArray, X: xr.DataArray, y: xr.DataArray, width: xr.DataArray) -> xr.DataArray:
    """The share of the largest margin, `width`, that the direction of the weights misses."""
    margin = (y * xr.dot(X.fillna(0), weights.fillna(0), dim="feature")).min("sample")
    return 1 - margin / norm(weights) / width


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The affine law, the weights themselves, the powers of t, other data, no separator, and weight decay."""
    first, ends = str(np.atleast_1d(dataset.data.values)[0]), dataset.sel(step=dataset.steps)
    found: list[Finding] = []

    def add(data: str, kind: str, what: str, variable: str, low: float, high: float, outlook: str = "") -> None:
        runs = select(ends, data=data, optimizer=kind, weight_decay=0.0)
        if runs.diverged.size:
            exponent, trend = float(runs.exponent.median()), runs.closing if variable == "gap" else runs.fades
            further = (
                runs.spread * (1 / REACHED - 1 / runs.gap) / np.log(10) if variable == "gap" else 2 / runs.exponent
            )
            decades = float((np.log10(runs.steps) * (variable == "gap") + further).median())
            ahead = bool(trend.all()) and decades > np.log10(runs.steps.max())
            said = outlook.format(exponent, decades) if ahead else ""
            measured, what = every_seed(per_seed(runs[variable])), f"{data}, {kind}: {what}".replace("_", " ")
            what = what.replace("1/gap", "‖w‖ (nothing separates: there is no gap)") if data == "overlapping" else what
            found.append(Finding.of(what, (low, high), measured, said))

    law = "slope of 1/gap on {}, in units of 1/D, over the last three decades"
    fading = "the remainder falls as t^-{:.2g} (median seed), to 1 % at t = 10^{:.0f}"
    for data in dict.fromkeys((first, "gaussian")):
        # The remainder at the window's start, 200^-exponent <= 0.02 on the planted data, is 5 % of D.
        add(data, GD, law.format("ln t"), "law", 0.95, 1.05, fading)
    add(first, GD, "slope of ‖w‖ on ln t over the last decade, in units of ‖ŵ‖", "growth", 0.98, 1.02, fading)
    add(first, GD, "‖w − ŵ ln t − w̃‖/‖w̃‖ at the end", "remainder", 0.0, 0.01, fading)
    for kind, way, power, width in SPEEDS:
        add(first, kind, "slope of ln(gap) on ln t over the last three decades", "power", power - width, power + width)
        add(first, kind, law.format(way), "law", 0.98, 1.02)
    add("planted", FAST, "distance to the l2 over that to the nearer of the l1 and l∞ direction", "nearness", 0.0, 0.01)
    further = "from here 1/gap gains 1/D a unit of ln t: t = 10^{1:.0f} (median seed)"
    for data in ("digits", "breast_cancer"):
        add(data, GD, "gap at the end", "gap", 0.0, REACHED, further)
        add(data, FAST, "gap at the end", "gap", 0.0, REACHED)
        add(data, FAST, law.format(SPEEDS[2][1]), "law", 0.98, 1.02)
    add("overlapping", GD, "relative distance to the logistic optimum at the end", "distance", 0.0, 1e-6)
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
    """(a) four speeds, (b) the affine law, (c) direction and rivals, (d) weight decay, (e) real data, (f) both ends."""
    figure, panels = plots.figure(2, 3, "Descent on separable data turns towards the l2 maximum-margin direction")
    (speeds, affine, rivals), (decay, real, ends) = panels
    theory, share = "theory, nothing fitted", "missing share of the largest margin"
    for axes in panels.ravel():
        axes.set(xscale="log", yscale="linear" if axes is affine else "log", xlabel="step t", ylabel=share)
    kinds, sets = (list(dict.fromkeys(np.atleast_1d(dataset[name]).tolist())) for name in ("optimizer", "data"))
    for point, runs in arms(select(dataset, weight_decay=0.0)):
        data, kind = point["data"], point["optimizer"]
        runs = runs.sel(step=(runs.step > 0) & runs.weights.notnull().any(("seed", "feature")))
        late, style = runs.sel(step=runs.step >= 100), {"color": f"C{sets.index(data)}"}
        promised = (late.foreseen if kind == GD else late.spread / late.clock).median("seed")
        if data == "planted":
            plots.seeds(speeds, runs.gap, kind.replace("_", " "), color=f"C{kinds.index(kind)}")
            plots.theory(speeds, late.step, promised, theory if kind == GD else None)
        elif data in ("digits", "breast_cancer"):
            dashed = ":" if kind == GD else "-"
            plots.seeds(real, runs.gap, f"{data}, {kind}".replace("_", " "), linestyle=dashed, **style)
            if kind == FAST:
                plots.theory(real, late.step, promised, theory if data == "digits" else None)
        if kind == GD and data in ("planted", "gaussian", "digits"):
            plots.seeds(affine, runs.spread / runs.gap, data, **style)
        if kind == GD and data == "planted":
            plots.theory(affine, late.step, (late.spread / late.foreseen).median("seed"), "ŵ ln t + w̃: slope 1")
            plots.seeds(ends, runs.remainder, "planted: to ŵ ln t + w̃", **style)
            plots.theory(ends, late.step, late.fading.median("seed"), "its power of t")
        if kind == GD and data == "overlapping":
            plots.seeds(ends, runs.distance, "overlapping: to\nthe logistic optimum", **style)
        if kind == FAST and data == "planted":
            for variable, order in (("from_l1", "l1"), ("from_l2", "l2"), ("from_linf", "l∞")):
                plots.seeds(rivals, runs[variable], f"to the {order} direction")
            plots.theory(rivals, late.step, late.turned.median("seed"), theory)
    decayed = select(dataset.sel(step=dataset.steps), optimizer="nesterov", weight_decay=lambda strength: strength > 0)
    if decayed.diverged.size and decayed.weight_decay.ndim:
        walk = decayed[["gap", "optimal_gap"]].swap_dims({decayed.weight_decay.dims[0]: "weight_decay"})
        walk = walk.median([dimension for dimension in walk.dims if dimension not in ("seed", "weight_decay")])
        plots.seeds(decay, walk.gap, "Nesterov's method")
        plots.theory(decay, walk.weight_decay, walk.optimal_gap.median("seed"), "minimiser (Newton)")
    speeds.set_title("a  four speeds (planted)")
    affine.set(title="b  gradient descent: 1/gap is affine in ln t", ylabel="D / gap")
    rivals.set(title="c  accelerated: which direction (planted)", ylabel="distance between unit vectors")
    decay.set(title="d  weight decay → 0 (planted)", xlabel="weight decay λ")
    decay.invert_xaxis()
    real.set_title("e  real data")
    ends.set(title="f  gradient descent: where the weights go", ylabel="relative distance")
    for axes in panels.ravel():
        plots.legend(axes, loc="lower left" if axes is ends else "best")
    return figure


AXES = ("data", "optimizer", "steps", "weight_decay")
ARMS = [
    ("planted", GD, 1_000_000, 0.0),
    ("planted", "normalized_decaying", 1_000_000, 0.0),
    ("planted", "normalized", 1_000_000, 0.0),
    ("planted", FAST, 100_000, 0.0),
    *(("planted", "nesterov", 100_000, 10.0**-power) for power in range(1, 8)),
    ("gaussian", GD, 1_000_000, 0.0),
    *((data, kind, 100_000, 0.0) for data in ("digits", "breast_cancer") for kind in (GD, FAST)),
    ("overlapping", GD, 100_000, 0.0),
]
SMALL = [("planted", GD), ("planted", FAST), ("planted", "nesterov"), ("digits", FAST), ("overlapping", GD)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, AXES: [arm for arm in ARMS if arm[:2] in SMALL]},
    paper={"seeds": 64, AXES: [(data, kind, 10 * steps, decay) for data, kind, steps, decay in ARMS]},
    control={AXES: ARMS[-1:]},
)
