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
from research.statistics import every_seed

Data = Literal["planted", "gaussian", "digits", "breast_cancer", "overlapping"]
Optimizer = Literal["gradient_descent", "nesterov", "normalized_decaying", "normalized", "accelerated"]
SMOOTHNESS = 1 / 4  # of the mean logistic loss where ‖z‖ <= 1; that of the logarithm of the exponential loss is 1
REACHED = 0.02  # of the largest margin may be missing where the direction counts as reached
SEPARATED = 0.95  # the largest cosine between the maximum-margin directions of two norms
COLOURS = {
    **{"gradient_descent": "C0", "normalized_decaying": "C1", "normalized": "C2", "accelerated": "C3"},
    **{"planted": "C0", "gaussian": "C1", "digits": "C2", "breast_cancer": "C3", "overlapping": "C4"},
}
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
    law = _slope(clock, 1 / gap, window) * spread
    optimum = lift(logistic_optimum, X, y, dataset.weight_decay)
    # The minimisers obey λ w = Σ exp(−z_k·w) z_k / n at the end: ŵ s + w̃ again, where s + ln s = −ln(λn).
    depth = 1 / (dataset.weight_decay.where(dataset.weight_decay > 0) * samples)
    l1, l2, linf = (_unit(lift(maximum_margin, X.where(dataset.data == "planted"), y, order=n)) for n in (1, 2, np.inf))
    apart = np.minimum(_norm(l2 - l1), _norm(l2 - linf)) ** 2 >= 2 * (1 - SEPARATED)
    return dataset.assign(
        gap=gap,
        spread=spread,
        clock=clock,
        exponent=line.exponent,
        # Where no direction separates there is nothing to approach: the largest margin is zero, and so is 1/gap.
        law=xr.where(lift(separable, X, y) == 0, 0.0, law),
        power=_slope(np.log(t), np.log(gap.where(gap > 0)), window),
        growth=_slope(np.log(t), _norm(weights), window & (t >= dataset.steps / 10)) * width,
        foreseen=_gap(foreseen, X, y, width),
        remainder=_norm(weights - foreseen) / _norm(line.direction * shift + line.residual),
        fading=np.exp(-line.exponent * (np.log(t) + shift)),
        aside=_norm(line.residual - line.direction * xr.dot(line.direction, line.residual, dim="feature") * width**2) * width,
        distance=_norm(weights - optimum) / _norm(optimum),
        optimal_gap=_gap(optimum, X, y, width),
        depth=xr.apply_ufunc(lambda ratio: lambertw(ratio).real, depth),
        **{f"from_{n}": _norm(_unit(weights) - unit).where(apart) for n, unit in (("l1", l1), ("l2", l2), ("linf", linf))},
    )


def _norm(weights: xr.DataArray) -> xr.DataArray:
    return np.sqrt((weights**2).sum("feature", min_count=1))


def _unit(weights: xr.DataArray) -> xr.DataArray:
    return weights / _norm(weights)


def _gap(weights: xr.DataArray, X: xr.DataArray, y: xr.DataArray, width: xr.DataArray) -> xr.DataArray:
    """The share of the largest margin, `width`, that the direction of the weights misses."""
    margin = (y * xr.dot(X.fillna(0), weights.fillna(0), dim="feature")).min("sample")
    return 1 - margin / _norm(weights) / width


def _slope(x: xr.DataArray, y: xr.DataArray, window: xr.DataArray, along: str = "step") -> xr.DataArray:
    """The least-squares slope of y on x over what was recorded in the window."""
    x, y = xr.broadcast(x, y.where(window))
    x = x.where(y.notnull())
    x = x - x.mean(along)
    return (x * y).sum(along, min_count=2) / (x**2).sum(along, min_count=2)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The affine law, the weights themselves, the powers of t, other data, weight decay, and no separator."""
    first = str(np.atleast_1d(dataset.data.values)[0])
    found: list[Finding] = []

    def add(runs: xr.Dataset, statement: str, values: xr.DataArray, low: float, high: float, outlook: str = "") -> None:
        if runs.diverged.size:
            found.append(Finding.of(statement, (low, high), every_seed(per_seed(values)), outlook))

    def chosen(data: str, optimizer: str) -> tuple[xr.Dataset, str]:
        runs = select(dataset, data=data, optimizer=optimizer, weight_decay=0.0)
        return runs, f"{data}, {optimizer}: ".replace("_", " ")

    runs, name = chosen(first, "gradient_descent")
    # The remainder at the window's start, 200^-exponent <= 0.02 on the planted data, is 5 % of D.
    add(runs, name + "slope of 1/gap on ln t over the last three decades, in units of 1/D", runs.law, 0.95, 1.05)
    add(runs, name + "slope of ‖w‖ on ln t over the last decade, in units of ‖ŵ‖", runs.growth, 0.98, 1.02)
    add(runs, name + "‖w − ŵ ln t − w̃‖/‖w̃‖ at the end", _last(runs, "remainder"), 0.0, 0.01)
    for optimizer, power, tolerance in POWERS:
        runs, name = chosen(first, optimizer)
        statement = name + "slope of ln(gap) on ln t over the last three decades"
        add(runs, statement, runs.power, power - tolerance, power + tolerance)
        add(runs, name + "slope of 1/gap on the way that theory gives, in units of 1/D", runs.law, 0.98, 1.02)
    runs, name = chosen("planted", "accelerated")
    rival = np.minimum(_last(runs, "from_l1"), _last(runs, "from_linf"))
    add(runs, name + "distance to the l2 over that to the l1 or l∞ direction", _last(runs, "from_l2") / rival, 0.0, 0.01)
    runs, name = chosen("gaussian", "gradient_descent")
    slow = _typical(runs.exponent)
    outlook = f"the remainder falls as t^-{slow:.2g} (median seed), to 1 % at t = 10^{2 / slow:.0f}"
    add(runs, name + "slope of 1/gap on ln t, in units of 1/D", runs.law, 0.95, 1.05, outlook)
    for data in ("digits", "breast_cancer"):
        runs, name = chosen(data, "gradient_descent")
        outlook = f"1/gap gains 1/D a unit of ln t: at t = 10^{_typical(runs.spread) / REACHED / np.log(10):.0f}"
        add(runs, name + "gap at the end", _last(runs, "gap"), 0.0, REACHED, outlook)
        runs, name = chosen(data, "accelerated")
        add(runs, name + "gap at the end", _last(runs, "gap"), 0.0, REACHED)
        add(runs, name + "slope of 1/gap on the way that theory gives, in units of 1/D", runs.law, 0.98, 1.02)
    runs, name = chosen("overlapping", "gradient_descent")
    add(runs, name + "relative distance to the logistic optimum at the end", _last(runs, "distance"), 0.0, 1e-6)
    return found + _path(select(dataset, optimizer="nesterov", weight_decay=lambda strength: strength > 0))


def _last(runs: xr.Dataset, name: str) -> xr.DataArray:
    return runs[name].where(runs.step == runs.steps).sum("step", min_count=1)


def _typical(values: xr.DataArray) -> float:
    return float(np.median(values)) if values.size else float("nan")


def _path(runs: xr.Dataset) -> list[Finding]:
    """Weight decay: every run against its minimiser, and how the gap closes as the decay vanishes."""
    decay = runs.weight_decay
    if not runs.diverged.size or not decay.ndim:
        return []
    # Nesterov's method takes the squared distance below (4 ln 2/λ) (1 − √κ)^t, κ = λ/(1/4 + λ).
    had_time = runs.steps * (decay / (SMOOTHNESS + decay)) ** 0.5 >= np.log(4 * np.log(2) / decay) + 2 * np.log(1e6)
    distance = _last(runs, "distance").where(had_time, 0.0)
    law = _slope(runs.depth, 1 / _last(runs, "gap"), decay <= 1001 * decay.min(), str(decay.dims[0])) * runs.spread
    statement = "weight decay: relative distance to the minimiser, the worst of a seed's runs that had time to reach it"
    return [
        Finding.of(statement, (0.0, 1e-6), every_seed(per_seed(distance))),
        Finding.of(
            "weight decay λ → 0, last three decades: slope of 1/gap on s, s + ln s = −ln(λn), in units of 1/D",
            (0.9, 1.1),  # the next term of 1/gap is of order 1/s, and s is 5 where the window starts
            every_seed(per_seed(law)),
        ),
    ]


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) four speeds, (b) the affine law, (c) direction and rivals, (d) weight decay, (e) real data, (f) no separator."""
    figure, panels = plots.figure(2, 3, "Descent on separable data turns towards the l2 maximum-margin direction")
    (speeds, affine, rivals), (decay, real, ends) = panels
    path: list[tuple[float, xr.DataArray, xr.DataArray]] = []
    for point, runs in arms(dataset):
        data, kind, descends = point["data"], point["optimizer"], point["optimizer"] == "gradient_descent"
        runs = runs.sel(step=(runs.step > 0) & runs.weights.notnull().any(("seed", "feature")))
        promised = (runs.foreseen if descends else runs.spread / runs.clock).median("seed")
        promised, name = promised.where((promised > 0) & (promised < 1)), kind.replace("_", " ")
        if point["weight_decay"] > 0:
            path.append((point["weight_decay"], runs.gap.isel(step=-1), runs.optimal_gap))
        elif data == "planted":
            plots.seeds(speeds, runs.gap, name, color=COLOURS[kind])
            plots.theory(speeds, runs.step, promised, "theory, nothing fitted" if descends else None)
        elif data in ("digits", "breast_cancer"):
            line = {"color": COLOURS[data], "linestyle": ":" if descends else "-"}
            plots.seeds(real, runs.gap, f"{data.replace('_', ' ')}, {name}", **line)
            if not descends:
                plots.theory(real, runs.step, promised, "theory, nothing fitted" if data == "digits" else None)
        if descends and data in ("planted", "gaussian", "digits"):
            plots.seeds(affine, runs.spread / runs.gap, data, color=COLOURS[data])
        if descends and data == "planted":
            late = runs.sel(step=runs.step >= 100)
            plots.theory(affine, late.step, (late.spread / late.foreseen).median("seed"), "ŵ ln t + w̃: slope 1")
            plots.seeds(ends, runs.remainder, "planted: to ŵ ln t + w̃", color=COLOURS[data])
            plots.theory(ends, late.step, late.fading.median("seed"), "its power of t")
        if descends and data == "overlapping":
            plots.seeds(ends, runs.distance, "overlapping: to\nthe logistic optimum", color=COLOURS[data])
        if kind == "accelerated" and data == "planted":
            for number, (order, title) in enumerate((("l1", "l1"), ("l2", "l2"), ("linf", "l∞"))):
                plots.seeds(rivals, runs[f"from_{order}"], f"to the {title} direction", color=f"C{number}")
            late = runs.sel(step=runs.step >= 30)
            plots.theory(rivals, late.step, (late.aside / late.clock).median("seed"), "theory, nothing fitted")
    if path:
        strengths, found, optimal = zip(*sorted(path, key=lambda each: each[0]), strict=True)
        along = xr.DataArray(list(strengths), dims="decay", name="decay")
        plots.seeds(decay, xr.concat(found, along.assign_coords(decay=along)), "Nesterov's method")
        plots.theory(decay, strengths, [gap.median() for gap in optimal], "minimiser (Newton)")
        decay.invert_xaxis()
    share = "missing share of the largest margin"
    for axes in (speeds, rivals, decay, real, ends):
        axes.set(xscale="log", yscale="log", xlabel="step t", ylabel=share)
    speeds.set_title("a  four speeds (planted)")
    affine.set(title="b  gradient descent: 1/gap is affine in ln t", xscale="log", xlabel="step t", ylabel="D / gap")
    rivals.set(title="c  accelerated: which direction", ylabel="distance between unit vectors")
    decay.set(title="d  weight decay → 0 (planted)", xlabel="weight decay λ")
    real.set_title("e  real data")
    ends.set(title="f  gradient descent: where the weights go", ylabel="relative distance")
    for axes in panels.ravel():
        plots.legend(axes, loc="lower left" if axes is ends else "best")
    return figure


AXES = ("data", "optimizer", "steps", "weight_decay")
DESCENT, FAST, NESTEROV = "gradient_descent", "accelerated", "nesterov"
REAL = [(data, optimizer, 100_000, 0.0) for data in ("digits", "breast_cancer") for optimizer in (DESCENT, FAST)]
ARMS = [
    ("planted", DESCENT, 1_000_000, 0.0),
    ("planted", "normalized_decaying", 1_000_000, 0.0),
    ("planted", "normalized", 1_000_000, 0.0),
    ("planted", FAST, 100_000, 0.0),
    *(("planted", NESTEROV, 100_000, 10.0**-power) for power in range(1, 8)),
    ("gaussian", DESCENT, 1_000_000, 0.0),
    *REAL,
    ("overlapping", DESCENT, 100_000, 0.0),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={
        "seeds": 2,
        AXES: [
            ARMS[0],
            ("planted", FAST, 10_000, 0.0),
            *(("planted", NESTEROV, 10_000, 10.0**-power) for power in range(2, 6)),
            ("digits", FAST, 10_000, 0.0),
            ("overlapping", DESCENT, 100_000, 0.0),
        ],
    },
    paper={"seeds": 64, AXES: [(data, optimizer, 10 * steps, decay) for data, optimizer, steps, decay in ARMS]},
    control={"data": "overlapping"},
)
