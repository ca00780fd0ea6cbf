"""The scale of the start decides between least l1 and least l2 norm in a diagonal linear network.

Claim: Gradient flow on w = u² − v² from u = v = α converges to the interpolant of least Q_α(w) = Σ q(w_i/α²) with
q(z) = 2 − √(4 + z²) + z asinh(z/2), whatever the speed: of least l1 norm as α → 0 (rich), of least l2 norm as α → ∞
(kernel). Gradient descent with learning rate η ends at a distance of order η from it. Depth D (w = u^D − v^D) has its
own entropy, which is closer to the l1 norm at the same α; an uneven start weights the norm.

Source: Woodworth, Gunasekar, Lee, Moroshko, Savarese, Golan, Soudry & Srebro 2020, arXiv 2002.09277, Theorems 1 and 3
and figures 1 to 3. That the loss and its scale do not enter follows from u·v being constant (see the oracle). The power
α^-4 of panel d: w = 2α² sinh(Xᵀν) = 2α² (Xᵀν + (Xᵀν)³/6 + …), and Xᵀν is w/(2α²).

Departure: Woodworth et al. draw 100 samples in 1000 dimensions, the paper design here; the default is 40 in 100, with
the same five non-zero weights of norm 1 and noise of variance 0.01. The loss is 1/(2n)‖Xw − y‖². Small starts are slow
to leave the saddle at zero: what is not at rest at the end is reported as not yet there and judged by nothing else. At
depth 2 the l1 end is hardly in reach: α = 10⁻³ still leaves the norm about a percent too large, and takes 10⁶ steps.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.data import gaussian_regression
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import averaged, lift, norm, per_seed, select, table
from research.oracles.hyperbolic_entropy import minimum_depth_entropy, minimum_hyperbolic_entropy
from research.oracles.least_squares import minimum_l1_norm, minimum_l2_norm
from research.statistics import crossing, every_seed, over_seeds, slope

SETTLED = 1e-6  # the training residual relative to ‖y‖ below which a run is judged: far below the error of order η
GRID = np.geomspace(1e-5, 30.0, 25)  # the init_scale of the curves of theory


class Observables(NamedTuple):
    weights: Float[Array, "feature"]
    residual: Float[Array, ""]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    planted: Float[Array, "feature"]
    initial: Float[Array, "half feature"]


def simulate(
    key: Array,
    learning_rate: float,
    init_scale: float,
    spread: float = 0.0,
    *,
    depth: int = 2,
    optimizer: Literal["gradient_descent", "adam"] = "gradient_descent",
    samples: int = 40,
    features: int = 100,
    steps: int = 175_000,
) -> Run:
    """One descent on 1/(2n)‖Xw − y‖², w = u^depth − v^depth, from u, v = init_scale · exp(spread · N(0, 1)).

    `learning_rate` is in units of 1/(D² λ (1 + max(u^(2D−2) + v^(2D−2)))), λ the largest eigenvalue of XᵀX/n for large
    Gaussian X and 1 the norm of the planted weights: about half of what is stable. Adam takes a thousandth of it.
    """
    data_key, init_key = jax.random.split(key)
    X, y, planted = gaussian_regression(data_key, samples, features, support=5, noise=0.1)
    initial = init_scale * jnp.exp(spread * jax.random.normal(init_key, (2, features)))
    curvature = depth**2 * (1 + (features / samples) ** 0.5) ** 2
    rate = learning_rate / curvature / (1 + jnp.max(jnp.sum(initial ** (2 * depth - 2), axis=0)))
    chain = optax.sgd(rate) if optimizer == "gradient_descent" else optax.adam(learning_rate / 1000)
    weights = lambda halves: halves[0] ** depth - halves[1] ** depth
    loss = lambda halves: optax.l2_loss(X @ weights(halves), y).mean()
    residual = lambda state: jnp.linalg.norm(X @ weights(state.params) - y) / jnp.linalg.norm(y)
    return Run(
        start(initial, chain),
        descent(loss, chain),
        lambda state: Observables(weights(state.params), residual(state)),
        log_spaced(steps, 50),
        Given(X, y, planted, initial),
        stop=lambda state: residual(state) < 1e-10,
    )


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The limit that the entropy names, the interpolants of least l1 and l2 norm, the distances to all three."""
    X, y, u, v = dataset.X, dataset.y, dataset.initial.isel(half=0), dataset.initial.isel(half=1)
    l1, l2 = lift(minimum_l1_norm, X, y), lift(minimum_l2_norm, X, y)
    shallow, even = dataset.depth == 2, dataset.spread == 0
    own = lift(minimum_hyperbolic_entropy, X, y, (2 * u * v).where(shallow), (u**2 - v**2).where(shallow))
    deep = lift(minimum_depth_entropy, X, y, dataset.init_scale.where(even), dataset.depth)
    limit, end = xr.where(shallow, own, deep), dataset.sel(step=dataset.steps)
    settled = end.residual < SETTLED
    grid = xr.DataArray(GRID, {"grid": GRID}, "grid")
    curves: dict[Any, xr.DataArray] = {
        f"{name}_{depth}": values
        for depth in (2, 3)
        for name, values in _judged(lift(minimum_depth_entropy, X, y, grid, depth), l1, l2, dataset.planted).items()
    }
    return (
        dataset.assign(_judged(end.weights.where(settled), l1, l2, dataset.planted))
        .assign(curves)
        .assign(
            limit=limit,
            settled=settled,
            distance=_relative(end.weights, limit).where(settled),
            limit_from_l1=_relative(limit, l1),
            limit_from_l2=_relative(limit, l2),
            from_even=_relative(end.weights, lift(minimum_depth_entropy, X, y, dataset.init_scale, dataset.depth)),
            far=end.residual,
            earlier=dataset.residual.sel(step=dataset.steps / 2, method="nearest"),
        )
    )


def _judged(w: xr.DataArray, l1: xr.DataArray, l2: xr.DataArray, planted: xr.DataArray) -> dict[str, xr.DataArray]:
    size = lambda vector: abs(vector).sum("feature", skipna=False)
    return {
        "l1_excess": size(w) / size(l1) - 1,
        "l2_excess": norm(w) / norm(l2) - 1,
        "error": norm(w - planted),
        "from_l1": _relative(w, l1),
        "from_l2": _relative(w, l2),
    }


def _relative(weights: xr.DataArray, target: xr.DataArray) -> xr.DataArray:
    return norm(weights - target) / norm(target)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The order in η, its limit, the same at depth 3, an uneven start, both ends, the crossover, who is not there."""
    even, rate = select(dataset, spread=0.0), float(dataset.learning_rate.max())
    found: list[Finding] = []
    for depth in np.unique(dataset.depth.values).tolist():
        found += _orders(select(even, depth=depth), depth)
    uneven = select(dataset, spread=lambda spread: spread > 0, depth=2)
    if uneven.diverged.size:
        said = "uneven start: distance to its own limit over that to an even start's, the worst of a seed's runs"
        found.append(Finding.of(said, (0.0, 1.0), every_seed(per_seed(uneven.distance / uneven.from_even))))
    runs = select(even, depth=2, learning_rate=rate)
    scales = np.unique(runs.init_scale.values) if runs.diverged.size else np.zeros(0)
    rested = np.array([bool(select(runs, init_scale=scale).settled.all()) for scale in scales], bool)
    if rested.sum() > 1:
        found += _ends(even, rate, scales[rested])
    for scale in scales[~rested | (scales == scales.min(initial=np.inf))].tolist():
        late = select(runs, init_scale=scale)
        pace = np.log(late.earlier / late.far) / np.log(2)
        steps = dataset.steps * (late.far / SETTLED) ** (1 / pace.where(pace > 0))
        said = f"α = {scale:g}: training residual at the end, relative to ‖y‖"
        ahead = bool((pace > 0).all() and steps.max() > dataset.steps.max())
        outlook = f"at the power of t of the last factor 2 of steps by step {float(steps.max()):.1g}" * ahead
        found.append(Finding.of(said, (0.0, SETTLED), every_seed(per_seed(late.far)), outlook))
    return found


def _orders(runs: xr.Dataset, depth: int) -> list[Finding]:
    """How the distance to the limit falls with η, and what is left of it when η is extrapolated to zero."""
    rates, scales = (np.unique(runs[name].values).tolist() for name in ("learning_rate", "init_scale"))
    rates = [rate for rate in rates if rate < 2]  # beyond, no run is stable
    at = lambda rate, scale: select(runs, learning_rate=rate, init_scale=scale)
    scales = [scale for scale in scales if all(at(rate, scale).diverged.size for rate in rates)]
    if not scales or len(rates) < 3:
        return []
    logs, three = np.log(rates), rates[:3]
    slopes, left = [], []
    for scale in scales:
        distances = [per_seed(at(rate, scale).distance) for rate in rates]
        slopes.append(slope(logs, np.log(np.stack(distances, axis=-1))))
        ends = [averaged(at(rate, scale).weights.sel(step=runs.steps), "seed", "feature").values for rate in three]
        limit = averaged(at(three[0], scale).limit, "seed", "feature").values
        # The value at zero of the polynomial through the three (Lagrange).
        weights = [np.prod([other / (other - rate) for other in three if other != rate]) for rate in three]
        extrapolated = np.sum([weight * end for weight, end in zip(weights, ends, strict=True)], axis=0)
        left.append(np.linalg.norm(extrapolated - limit, axis=1) / np.linalg.norm(ends[0] - limit, axis=1))
    # For a mode of curvature 1/η₁ the shift of the start is Σ(ηg)², which sums to η/(2η₁ − η): not quite η.
    excess = float(slope(logs, np.log(np.divide(rates, np.subtract(2, rates))))) - 1
    named = f"w = u^{depth} − v^{depth}, α from {scales[0]:g} to {scales[-1]:g}:"
    order = f"{named} slope of ln(distance to the minimiser of Q_α) on ln η, the least and largest of a seed's α"
    zero = f"{named} distance of the weights extrapolated to η = 0 over that at η = {rates[0]:g}, a seed's largest"
    # Three rates remove the orders η and η²; the next is a few hundredths where the shift is η/(2η₁ − η).
    return [
        Finding.of(order, (1 - excess, 1 + excess), every_seed(np.stack([np.min(slopes, 0), np.max(slopes, 0)]))),
        Finding.of(zero, (0.0, 0.1), every_seed(np.max(left, axis=0))),
    ]


def _ends(even: xr.Dataset, rate: float, scales: np.ndarray) -> list[Finding]:
    """The l1 norm grows with α; the crossover; the error; the way to either end; depth."""
    runs = select(even, depth=2, learning_rate=rate)
    row = lambda name: np.stack([per_seed(select(runs, init_scale=scale)[name]) for scale in scales], axis=1)
    excess, error, first, last = row("l1_excess"), row("error"), f"α = {scales[0]:g}", f"α = {scales[-1]:g}"
    steps = np.diff(excess).min(axis=1)
    found = [Finding.of("least increase of the l1 norm from one α to the next", (0.0, np.inf), every_seed(steps))]
    ratios = [np.log(row(f"{whose}from_l1") / row(f"{whose}from_l2")) for whose in ("", "limit_")]
    crossed = [np.array([crossing(np.log10(scales), seed, 0.0) for seed in ratio]) for ratio in ratios]
    if np.isfinite(crossed).all():
        # The error of order η is below 1 % of either distance there, and their ratio grows by more than e in a decade.
        said = "crossover, where the l1 and the l2 interpolant are equally far: decades of α from that of Q_α"
        found.append(Finding.of(said, (-0.02, 0.02), every_seed(crossed[0] - crossed[1])))
    said = f"error to the planted weights at {first} over that at {last}"
    found.append(Finding.of(said, (0.0, 1.0), over_seeds(error[:, 0] / error[:, -1])))
    curve = runs.l1_excess_2.median("seed")
    end, smaller = select(runs, init_scale=scales[0]), float(curve.grid.where(curve < 0.01).max())
    # an outlook only where the runs follow the curve, which leads into the band at a smaller α
    ahead = bool((steps > 0).all() and (end.distance < end.limit_from_l1).all()) and smaller < float(scales[0])
    outlook = f"the minimiser of Q_α has it from α = {smaller:.0g} down (median)" * ahead
    said = f"rich end: relative excess of the l1 norm at {first}, the smallest that came to rest"
    found.append(Finding.of(said, (0.0, 0.01), every_seed(excess[:, 0]), outlook))
    slowest, large = select(even, depth=2, learning_rate=float(even.learning_rate.min())), scales[scales >= 2]
    if large.size > 1:
        ends = [np.log(per_seed(select(slowest, init_scale=scale).from_l2)) for scale in large]
        # What is of order η is a tenth of the distance at most, and the next power of 1/α less.
        said = f"kernel end: slope of ln(distance to the l2 interpolant) on ln α, from α = {large[0]:g} to {last}"
        found.append(Finding.of(said, (-4.2, -3.8), every_seed(slope(np.log(large), np.stack(ends, axis=-1)))))
    deep = select(even, depth=3, learning_rate=rate, init_scale=scales.tolist())
    if deep.diverged.size:
        scale = float(deep.init_scale.min())
        deeper = per_seed(select(deep, init_scale=scale).l1_excess) - excess[:, scales == scale][:, 0]
        said = f"α = {scale:g}: excess of the l1 norm at depth 3 minus that at depth 2"
        found.append(Finding.of(said, (-np.inf, 0.0), over_seeds(deeper)))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a, b) norms and error against α at depths 2 and 3, (c) order η, (d) both ends, (e) time, (f) uneven starts."""
    figure, panels = plots.figure(2, 3, "The scale of the start decides between least l1 and least l2 norm")
    (two, three, order), (ends, time, uneven) = panels
    even, rates = select(dataset, spread=0.0), np.unique(dataset.learning_rate.values)
    judged = {"l1_excess": "‖w‖₁ / least − 1", "l2_excess": "‖w‖₂ / least − 1", "error": "‖w − planted‖"}
    away = {"from_l1": "to the l1 interpolant", "from_l2": "to the l2 interpolant"}
    pictures = ((two, 2, judged), (three, 3, judged), (ends, 2, away))
    for axes, depth, shown in pictures:
        runs = select(even, depth=depth)
        for number, (name, label) in enumerate(shown.items()):
            if runs.diverged.size:
                plots.points(axes, runs.init_scale, runs[name], label, color=f"C{number}")
            curve, said = dataset[f"{name}_{depth}"].median("seed"), f"theory, depth {depth} (median seed)"
            plots.theory(axes, curve.grid, curve, None if number else said)
            if axes is ends:
                deep = dataset[f"{name}_3"].median("seed")
                plots.theory(axes, deep.grid, deep, None if number else "theory, depth 3", linestyle=":")
    shallow = select(even, depth=2)
    for number, scale in enumerate(np.unique(shallow.init_scale.values).tolist() if shallow.diverged.size else []):
        runs, style = select(shallow, init_scale=scale), {"label": f"α = {scale:g}", "color": f"C{number}"}
        row = table(runs, "distance", "learning_rate")
        if row.sizes["learning_rate"] == rates.size > 1 and row.notnull().all():
            plots.seeds(order, row, **style, marker="o", markersize=3)
            line = float(row.isel(learning_rate=-1).median()) * rates / rates[-1]
            plots.theory(order, rates, line, "slope 1" if scale == 1 else None)
        runs = select(runs, learning_rate=rates[-1])
        if scale < 1 and runs.diverged.size:
            plots.seeds(time, averaged(runs.residual, "seed", "step").clip(1e-9), **style)
    runs = select(dataset, depth=2, spread=lambda spread: spread > 0)
    for number, scale in enumerate(np.unique(runs.init_scale.values).tolist() if runs.diverged.size else []):
        some = select(runs, init_scale=scale)
        plots.points(uneven, some.from_even, some.distance, f"α = {scale:g}", color=f"C{number}", alpha=1.0)
    plots.theory(uneven, (0.1, 50.0), (0.1, 50.0), "no nearer")
    time.axhline(SETTLED, color="black", linestyle="--", linewidth=1.2, label="judged below")
    two.set(title="a  w = u² − v²", ylabel="relative excess, error")
    three.set(title="b  w = u³ − v³", ylabel="relative excess, error")
    order.set(title="c  gradient descent: of order η", ylabel="relative distance to the limit", ylim=(1e-9, 1e-2))
    order.set(xlabel="learning rate η (stable: about 2)")
    ends.set(title="d  α⁻⁴ to the kernel end", ylabel="relative distance of the end", ylim=(1e-7, 3))
    time.set(title="e  a small start takes time", xlabel="step", ylabel="training residual / ‖y‖", xlim=(100, None))
    uneven.set(title="f  an uneven start weights the norm", ylabel="to its own limit")
    uneven.set_xlabel("relative distance to the limit of an even start")
    for axes in panels.ravel():
        axes.set_xscale("log")
        if axes in (two, three, ends):
            axes.set_xlabel("α, the scale of the start")
        if axes not in (two, three):
            axes.set_yscale("log")
        places: dict[Any, dict[str, Any]] = {order: {"loc": "lower left", "ncols": 3}, ends: {"loc": "lower center"}}
        plots.legend(axes, **places.get(axes, {}))
    order.set_xticks(rates, [f"{rate:g}" for rate in rates])
    order.set_xticks([], minor=True)
    return figure


ARMS = [
    *((2, 0.5, scale, 0.0) for scale in (1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 4.0)),
    *((2, rate, scale, 0.0) for rate in (0.125, 0.25) for scale in (0.1, 0.3, 1.0, 2.0, 4.0)),
    *((2, 0.5, scale, 0.5) for scale in (0.1, 0.3, 1.0)),
    *((3, rate, scale, 0.0) for rate in (0.125, 0.25, 0.5) for scale in (0.3, 1.0, 2.0)),
]
AXES = ("depth", "learning_rate", "init_scale", "spread")
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, "steps": 20_000, AXES: [arm for arm in ARMS if arm[0] == 2 and arm[2] >= 0.3]},
    paper={"seeds": 16, "samples": 100, "features": 1000, "steps": 2_000_000, AXES: ARMS},
    control={"optimizer": "adam"},
)
