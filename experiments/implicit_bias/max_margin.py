"""Descent on separable data turns towards the l2 maximum-margin direction; how fast depends on the optimiser.

Claim: On linearly separable data gradient descent on the logistic loss grows as w(t) = ŵ ln t + w̃ + o(1), ŵ the hard-margin
support vector machine, so that 1/gap is affine in ln t, gap being the share of the largest margin that is missing. Its
slope is a closed form of the multipliers α: 1/D with D = max ln α − Σ (α/Σα) ln α. Descent normalised by the loss walks the
same path faster, and the gap falls as t^-1/2 (step ∝ t^-1/2), t^-1 (constant step) and t^-2 (dual acceleration). Weight
decay λ stops the walk at one point of it, and λ → 0 leads to the same direction. On data that no direction separates
the weights converge to the logistic optimum instead.

Source: Soudry, Hoffer, Nacson, Gunasekar & Srebro 2018, arXiv 1710.10345, Theorems 3 and 4; normalised steps: Nacson et
al. 2019, arXiv 1803.01905 (upper bound ln t/√t), Ji & Telgarsky 2021, arXiv 1906.04540 (1/t); Ji, Srebro & Telgarsky 2021,
arXiv 2107.00595, Algorithm 1 (t^-2 up to a logarithm); weight decay: Rosset, Zhu & Hastie 2004, JMLR 5; no separator:
Ji & Telgarsky 2018, arXiv 1803.07300. The constants of all four laws are derived here from ŵ and w̃.

Departure: Soudry et al. draw 16 points in the plane whose symmetry makes w̃ parallel to ŵ, an atypical case. Here the
"planted" data have four support vectors with unequal multipliers and every other sample at least twice as far from the
plane, in their span: then w̃ is a closed form and the o(1) is a power of t that dies within the budget. On the
"gaussian" data that power is so small that the slope is not reached in any budget: both are shown. The normalised
steps divide by the loss, not by the gradient's norm as Nacson et al. do (the two differ by a factor that tends to the
margin). The bundled digits (3 against 8) and breast_cancer have a constant feature in place of a bias, and each seed
takes a random half of the samples. Rosset et al. follow the minimiser; here it is reached by Nesterov's method.
"""

from typing import Any, Literal, NamedTuple

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
from research.labels import arms, lift, per_seed, select
from research.optimizers import dual_acceleration, inverse_square_root
from research.oracles.margin import logistic_optimum, margin_gap_slope, maximum_margin, separable, support_multipliers
from research.statistics import every_seed, over_seeds, slope

Data = Literal["planted", "gaussian", "digits", "breast_cancer", "overlapping"]
Optimizer = Literal["gradient_descent", "nesterov", "normalized_decaying", "normalized", "accelerated"]
SMOOTHNESS = 1 / 4  # of the mean logistic loss where ‖z‖ <= 1; that of the logarithm of the exponential loss is 1
REACHED = 0.02  # of the largest margin may be missing where the direction counts as reached
SEPARATED = 0.95  # the largest cosine between the maximum-margin directions of two norms
POWERS = (("normalized_decaying", -0.5, 0.07), ("normalized", -1.0, 0.07), ("accelerated", -2.0, 0.15))


class Observables(NamedTuple):
    weights: Float[Array, "feature"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]


class Asymptote(NamedTuple):
    """w = ŵ s + w̃ + O(e^(−exponent·s)): direction, w̃ where s = ln(ηt/n), and exponent."""

    direction: Float[np.ndarray, "feature"]
    residual: Float[np.ndarray, "feature"]
    exponent: Float[np.ndarray, ""]


def planted(key: Array, samples: int = 20, features: int = 80, support: int = 4) -> Given:
    """Samples z = y·x with planted multipliers p: z_k = u + a_k with a_k ⟂ u and Σ p_k a_k = 0, so that ŵ = u and α = p.

    The others are mixtures of these, moved to a margin between two and three. All numbers come from one draw: each
    more would cost a second of compilation.
    """
    draw = jax.random.normal(key, (samples + 1, features))
    direction, across, others = draw[0] / jnp.linalg.norm(draw[0]), draw[1 : 1 + support], draw[1 + support :]
    p = jax.nn.softmax(jnp.linspace(0.0, 1.2, support))
    across = 3 * (across - (across @ direction)[:, None] * direction) / features**0.5
    nearest = direction + across - p @ across
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
        inputs = inputs if data == "digits" else problems.standardized(inputs)
        chosen = jax.random.permutation(key, len(labels))[: len(labels) // 2]
        X = jnp.asarray(problems.with_constant(inputs))[chosen]
        y = jnp.asarray(problems.signed(labels, 3 if data == "digits" else 1))[chosen]
    return Given(X / jnp.max(jnp.linalg.norm(X, axis=1)), y)


def simulate(
    key: Array,
    learning_rate: float = 1.0,
    weight_decay: float = 0.0,
    *,
    data: Data = "planted",
    optimizer: Optimizer = "gradient_descent",
    steps: int = 1_000_000,
) -> Run:
    """One descent from zero on the mean logistic loss + weight_decay/2 ‖w‖².

    The normalised and the accelerated descent take the logarithm of the exponential loss, whose gradient is that loss's
    own, divided by the loss. `learning_rate` is in units of 1/smoothness: 1/(1/4 + weight_decay) for the former, else 1.
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


def asymptote(X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"]) -> Asymptote:
    """Soudry et al. 2018, Theorem 4, on the span of the support vectors; NaN where the multipliers are not certified.

    exp(−z_k·w̃) = α_k there. The remainder r obeys dr/ds = −Σ α_k z_k (z_k·r) + O(e^((1 − z·ŵ)s)) + O(e^−s): from the
    support vectors, the nearest of the other samples, and the discrete time.
    """
    alpha = support_multipliers(X, y)
    if np.isnan(alpha).any():
        return Asymptote(*(np.full(X.shape[1], np.nan),) * 2, np.array(np.nan))
    Z, on = X * y[:, None], alpha > 0
    modes = np.linalg.eigvalsh((Z[on].T * alpha[on]) @ Z[on])[-np.linalg.matrix_rank(Z[on]) :]
    beyond = (Z[~on] @ (alpha @ Z)).min(initial=np.inf) - 1
    residual = np.linalg.lstsq(Z[on], -np.log(alpha[on]), rcond=None)[0]
    return Asymptote(alpha @ Z, residual, np.array(min(1.0, modes[0], beyond)))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """How much of the largest margin is missing, the law that theory gives for it, and where the weights should end."""
    X, y, weights, kind = dataset.X, dataset.y, dataset.weights, dataset.optimizer
    t, samples = dataset.step.where(dataset.step > 0), y.notnull().sum("sample")
    width, spread = 1 / _norm(lift(maximum_margin, X, y, order=2)), 1 / lift(margin_gap_slope, X, y)
    # 1/gap grows by 1/D a unit of this clock: of ln t, or of γ² times the way that a gradient of length γ leads.
    clock = np.log(t) + xr.zeros_like(width)
    for name, way in {"normalized_decaying": 2 * t**0.5, "normalized": t, "accelerated": (t**2 + 3 * t) / 4}.items():
        clock = xr.where(kind == name, width**2 * dataset.learning_rate * way, clock)
    line, shift = lift(asymptote, X, y), np.log(dataset.learning_rate / SMOOTHNESS / samples)
    foreseen = (line.direction * (np.log(t) + shift) + line.residual).where(kind == "gradient_descent")
    gap, window = _gap(weights, X, y, width), (t >= dataset.steps / 1000) & (t <= dataset.steps)
    # Where no direction separates there is nothing to approach: the largest margin is zero, and so is 1/gap.
    approached = lambda values: xr.where(lift(separable, X, y) == 0, 0.0, values)
    optimum = lift(logistic_optimum, X, y, dataset.weight_decay)
    # Regularised weights are λ w = Σ exp(−z_k·w) z_k / n: ŵ s + w̃ again, where s + ln s = −ln(λn).
    depth = 1 / (dataset.weight_decay.where(dataset.weight_decay > 0) * samples)
    units = {n: _unit(lift(maximum_margin, X.where(dataset.data == "planted"), y, order=n)) for n in (1, 2, np.inf)}
    pairs = [xr.dot(units[a].fillna(0), units[b].fillna(0), dim="feature") for a, b in ((1, 2), (2, np.inf), (1, np.inf))]
    apart = np.maximum(np.maximum(*pairs[:2]), pairs[2]) <= SEPARATED
    return dataset.assign(
        gap=gap,
        spread=spread,
        clock=clock,
        foreseen=_gap(foreseen, X, y, width),
        remainder=_norm(weights - foreseen) / _norm(line.direction * shift + line.residual),
        fading=np.exp(-line.exponent * (np.log(t) + shift)),
        exponent=line.exponent,
        law=approached(_slope(clock, 1 / gap, window) * spread),
        power=approached(_slope(np.log(t), np.log(gap.where(gap > 0)), window)),
        growth=approached(_slope(np.log(t), _norm(weights), window & (t >= dataset.steps / 10)) * width),
        distance=_norm(weights - optimum) / _norm(optimum),
        optimal_gap=_gap(optimum, X, y, width),
        depth=xr.apply_ufunc(lambda ratio: lambertw(ratio).real, depth),
        **{f"from_l{order}": _norm(_unit(weights) - unit).where(apart) for order, unit in units.items()},
    )


def _norm(weights: xr.DataArray) -> xr.DataArray:
    return np.sqrt((weights**2).sum("feature", min_count=1))


def _unit(weights: xr.DataArray) -> xr.DataArray:
    return weights / _norm(weights)


def _gap(weights: xr.DataArray, X: xr.DataArray, y: xr.DataArray, width: xr.DataArray) -> xr.DataArray:
    """The share of the largest margin, `width`, that the direction of the weights misses."""
    margin = (y * xr.dot(X.fillna(0), weights.fillna(0), dim="feature")).min("sample")
    return 1 - margin / _norm(weights) / width


def _slope(x: xr.DataArray, y: xr.DataArray, window: xr.DataArray) -> xr.DataArray:
    """The least-squares slope of y on x over the recorded times in the window."""
    x, y = xr.broadcast(x, y.where(window))
    x = x.where(y.notnull())
    x = x - x.mean("step")
    return (x * y).sum("step", min_count=2) / (x**2).sum("step", min_count=2)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The affine law, the weights themselves, the powers of t, other data, weight decay, and no separator."""
    free = select(dataset, weight_decay=0.0)
    first = str(np.atleast_1d(dataset.data.values)[0])
    main = select(free, data=first, optimizer="gradient_descent")
    name = f"{first}, gradient descent"
    found = [
        # The remainder at the window's start, 200^-exponent <= 0.02 on the planted data, over D = 0.41.
        _every(f"{name}: slope of 1/gap on ln t over the last three decades, in units of 1/D", 0.95, 1.05, main.law),
        _every(f"{name}: slope of ‖w‖ on ln t over the last decade, in units of ‖ŵ‖", 0.98, 1.02, main.growth),
        _every(f"{name}: ‖w − ŵ ln t − w̃‖/‖w̃‖ at the end", 0.0, 0.01, _last(main.remainder, main)),
    ]
    for optimizer, power, tolerance in POWERS:
        runs, name = select(free, data=first, optimizer=optimizer), f"{first}, {optimizer.replace('_', ' ')}"
        if runs.diverged.size:
            statement = f"{name}: slope of ln(gap) on ln t over the last three decades"
            slopes = over_seeds(per_seed(runs.power, "mean"))
            found.append(Finding.of(statement, (power - tolerance, power + tolerance), slopes))
            found.append(_every(f"{name}: slope of 1/gap on the way theory gives it, in units of 1/D", 0.98, 1.02, runs.law))
    near = select(free, data="planted", optimizer="accelerated")
    if near.diverged.size:
        ratio = _last(near.from_l2 / np.minimum(near.from_l1, near.from_linf), near)
        found.append(_every("planted, accelerated: distance to the l2 over that to the l1 or l∞ direction", 0.0, 0.01, ratio))
    for data in ("gaussian", "digits", "breast_cancer"):
        found += _elsewhere(select(free, data=data), data) if data != first else []
    decayed = select(dataset, optimizer="nesterov", weight_decay=lambda strength: strength > 0)
    if decayed.diverged.size:
        found += _path(decayed)
    overlapping = select(free, data="overlapping", optimizer="gradient_descent")
    if overlapping.diverged.size:
        end = _last(overlapping.distance, overlapping)
        found.append(_every("overlapping, gradient descent: relative distance to the logistic optimum", 0.0, 1e-6, end))
    return found


def _every(statement: str, low: float, high: float, values: xr.DataArray, outlook: str = "") -> Finding:
    return Finding.of(statement, (low, high), every_seed(per_seed(values)), outlook)


def _last(values: xr.DataArray, runs: xr.Dataset) -> xr.DataArray:
    return values.where(runs.step == runs.steps).sum("step", min_count=1)


def _elsewhere(runs: xr.Dataset, data: str) -> list[Finding]:
    """On data that nobody planted gradient descent is too slow, and the accelerated descent is not."""
    found: list[Finding] = []
    slow, fast = (select(runs, optimizer=optimizer) for optimizer in ("gradient_descent", "accelerated"))
    if slow.diverged.size and data == "gaussian":
        exponent = float(slow.exponent.median())
        outlook = f"the remainder falls as t^-{exponent:.2g} (median), below 1 % from t = 10^{2 / exponent:.0f} on"
        found.append(_every(f"{data}, gradient descent: slope of 1/gap on ln t, in units of 1/D", 0.95, 1.05, slow.law, outlook))
    elif slow.diverged.size:
        outlook = f"1/gap gains 1/D a unit of ln t: at t = 10^{float(slow.spread.median()) / REACHED / np.log(10):.0f}"
        found.append(_every(f"{data}, gradient descent: gap at the end", 0.0, REACHED, _last(slow.gap, slow), outlook))
    if fast.diverged.size:
        found.append(_every(f"{data}, accelerated: gap at the end", 0.0, REACHED, _last(fast.gap, fast)))
        found.append(_every(f"{data}, accelerated: slope of 1/gap on γ²t²/4, in units of 1/D", 0.98, 1.02, fast.law))
    return found


def _path(decayed: xr.Dataset) -> list[Finding]:
    """Every run against its minimiser, and the gap of the minimisers as the decay vanishes."""
    ends = [(point["weight_decay"], point["steps"], runs.sel(step=point["steps"])) for point, runs in arms(decayed)]
    # Nesterov's method takes the squared distance below (4 ln 2/λ) (1 − √κ)^t, κ = λ/(1/4 + λ).
    enough = lambda strength: np.log(4 * np.log(2) / strength) + 2 * np.log(1e6)
    had_time = [end for λ, steps, end in ends if steps * (λ / (SMOOTHNESS + λ)) ** 0.5 >= enough(λ)]
    least = min(strength for strength, *_ in ends)
    small = [end for strength, _, end in ends if strength <= 1001 * least]
    gaps = np.stack([end.gap.values for end in small], axis=-1)
    depths = np.stack([np.broadcast_to(end.depth, end.gap.shape) for end in small], axis=-1)
    laws = slope(depths, 1 / gaps) * ends[0][2].spread.values
    worst = np.max([end.distance.values for end in had_time], axis=0) if had_time else []
    return [
        Finding.of(
            "weight decay: relative distance to the minimiser at the end, the worst of the runs that had time",
            (0.0, 1e-6),
            every_seed(worst),
        ),
        Finding.of(
            "weight decay λ → 0: slope of 1/gap on s, s + ln s = −ln(λn), in units of 1/D, over its last three decades",
            (0.9, 1.1),  # the next term of 1/gap is of order 1/s, and s is 5 where the window starts
            every_seed(laws),
        ),
    ]


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) four speeds, (b) the affine law, (c) direction and rivals, (d) weight decay, (e) real data, (f) no separator."""
    figure, ((speeds, affine, rivals), (decay, real, ends)) = plots.figure(
        2, 3, "Descent on separable data turns towards the l2 maximum-margin direction"
    )
    kinds, sets = (list(dict.fromkeys(np.atleast_1d(dataset[name].values).tolist())) for name in ("optimizer", "data"))
    path = []
    for point, runs in arms(dataset):
        data, kind, descends = point["data"], point["optimizer"], point["optimizer"] == "gradient_descent"
        runs = runs.sel(step=(runs.step > 0) & runs.weights.notnull().any(("seed", "feature")))
        colour, shade = f"C{kinds.index(kind)}", f"C{sets.index(data)}"
        promised = (runs.foreseen if descends else runs.spread / runs.clock).median("seed")
        promised = promised.where((promised > 0) & (promised < 1))
        if point["weight_decay"] > 0:
            path.append((point["weight_decay"], runs.gap.isel(step=-1), runs.optimal_gap))
        elif data == "planted":
            plots.seeds(speeds, runs.gap, kind.replace("_", " "), color=colour)
            plots.theory(speeds, runs.step, promised, "theory, nothing fitted" if descends else None)
        elif data in ("digits", "breast_cancer"):
            line = {"color": shade, "linestyle": "-" if descends else "-."}
            plots.seeds(real, runs.gap, f"{data}, {kind}".replace("_", " "), **line)
            if not descends:
                plots.theory(real, runs.step, promised, "theory, nothing fitted" if data == "digits" else None)
        if descends and data in ("planted", "gaussian", "digits"):
            plots.seeds(affine, runs.spread / runs.gap, data, color=shade)
        if descends and data == "planted":
            late = runs.sel(step=runs.step >= 10)
            plots.theory(affine, late.step, (late.spread / late.foreseen).median("seed"), "ŵ ln t + w̃: slope 1")
            plots.seeds(ends, runs.remainder, "planted: to ŵ ln t + w̃", color=shade)
            plots.theory(ends, late.step, late.fading.median("seed"), "power of t from the multipliers")
        if descends and data == "overlapping":
            plots.seeds(ends, runs.distance, "overlapping: to the logistic optimum", color=shade)
        if kind == "accelerated" and data == "planted":
            for number, (order, title) in enumerate((("l1", "l1"), ("l2", "l2"), ("linf", "l∞"))):
                plots.seeds(rivals, runs[f"from_{order}"], f"to the {title} direction", color=f"C{number}")
            plots.theory(rivals, runs.step, np.sqrt(2 * promised), "bound √(2 gap)")
    if path:
        strengths, found, optimal = zip(*sorted(path, key=lambda each: each[0]), strict=True)
        found, optimal = (xr.concat(each, xr.DataArray(list(strengths), dims="weight_decay", name="weight_decay")) for each in (found, optimal))
        plots.seeds(decay, found, "Nesterov's method", color="C0")
        plots.theory(decay, strengths, optimal.median("seed"), "minimiser (Newton)")
    for axes in (speeds, rivals, real, ends):
        axes.set(xscale="log", yscale="log", xlabel="step t")
    speeds.set(title="a  four speeds (planted)", ylabel="missing share of the largest margin")
    affine.set(title="b  gradient descent: 1/gap is affine in ln t", xscale="log", xlabel="step t", ylabel="D / gap")
    rivals.set(title="c  accelerated: which direction", ylabel="distance of the unit vectors")
    decay.set(title="d  weight decay → 0 (planted)", xscale="log", yscale="log", xlabel="weight decay λ", ylabel="missing share of the largest margin")
    decay.invert_xaxis()
    real.set(title="e  real data", ylabel="missing share of the largest margin")
    ends.set(title="f  gradient descent: where the weights go", ylabel="relative distance")
    for axes in (speeds, affine, rivals, decay, real, ends):
        plots.legend(axes)
    return figure


AXES = ("data", "optimizer", "steps", "weight_decay")
DESCENTS = [("planted", "gradient_descent", 1_000_000, 0.0)]
