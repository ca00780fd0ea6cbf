"""Steepest descent in a norm maximises the margin in that norm; on squared loss the norm does not decide the end.

Claim: On linearly separable data steepest descent in a norm, with steps of length η_t = η/√t in it, goes to the
direction of the largest margin in that norm, and to no other: coordinate descent to l1, normalised gradient descent to
l2, sign descent to l∞. The missing share of the margin is at most (ln n + R² Ση_t²/2)/(γ Ση_t), γ the margin and R the
largest dual norm of a sample: t^-1/2 up to a logarithm; it falls at least as fast as that bound. With constant steps l1
and l∞ stop short, while l2 goes on as 1/t. On squared loss the step size decides where steepest descent ends, even in
l4/3, smooth and strictly convex as it is (in l1 on some data only); in l2 it ends in the interpolant of least norm.

Source: Gunasekar, Lee, Soudry & Srebro 2018, arXiv 1802.08246, Theorem 5 (margins), and their example with squared
loss. The bound follows from two facts on f(w) = ln Σ exp(−z_i·w): its gradient has dual norm at least γ, and a step Δ
adds to the linear change at most R² ‖Δ‖²/2; so f, which is at least minus the least z_i·w, falls from ln n.

Departure: Gunasekar et al. state limits, without a rate, for the exponential loss; the direction of its gradient, all
that counts here, is that of f. Gaussian samples have features of unequal scale, which sets the norms apart; besides
them 60 digits (3 against 8) and 60 patients of breast_cancer. Of their regression with two samples and three weights
each entry of X is shifted by N(0, 0.1²), so that seeds differ.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from matplotlib.colors import LogNorm

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import arms, largest, lift, named_by, norm, per_seed, select, sound
from research.optimizers import coordinate_descent, steepest_descent
from research.oracles.least_squares import minimum_l1_norm, minimum_l2_norm, minimum_linf_norm
from research.oracles.margin import maximum_margin
from research.oracles.margin_bound import margin_gap_bound
from research.oracles.power_norm import minimum_power_norm
from research.separable import standardized_sample
from research.statistics import NOTHING, every_seed, over_seeds, slope_within

Data = Literal["gaussian", "digits", "breast_cancer", "regression"]
Optimizer = Literal["coordinate_descent", "gradient_descent", "sign_descent", "power_descent"]
OWN: dict[str, float] = {
    "coordinate_descent": 1,
    "gradient_descent": 2,
    "sign_descent": np.inf,
}  # the order of each one's norm
NAMES: dict[float, str] = {1: "l1", 2: "l2", np.inf: "l∞"}
POWER = 4 / 3
ORDERS = OWN | {"power_descent": POWER}
COLOURS = {kind: f"C{number}" for number, kind in enumerate(ORDERS)}
LINES = {"coordinate_descent": "--", "gradient_descent": ":", "sign_descent": "-."}  # of each one's bound, in black
SEPARATED = 0.95  # the largest cosine between the maximum-margin directions of two norms


class Observables(NamedTuple):
    weights: Float[Array, "feature"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    unit: Float[Array, ""]


def problem(key: Array, data: Data) -> tuple[Array, Array]:
    """Inputs, and labels or (for "regression") targets."""
    if data == "gaussian":
        # fewer samples than features: any labels are separable (one draw: each more costs time to compile)
        X = jax.random.normal(key, (12, 40)) * jnp.geomspace(1.0, 0.1, 40)[None, :]
        y = jnp.where(jnp.arange(12) % 2 == 0, 1.0, -1.0)
    elif data != "regression":
        X, y = standardized_sample(key, data)
    else:
        X = jnp.array([[1.0, 1.0, 1.0], [1.0, 2.0, 0.0]]) + 0.1 * jax.random.normal(key, (2, 3))
        y = jnp.array([1.0, 10.0])
    return X, y


def simulate(
    key: Array,
    learning_rate: float,
    exponent: float,
    *,
    data: Data = "gaussian",
    optimizer: Optimizer = "gradient_descent",
    steps: int = 100_000,
) -> Run:
    """One descent from zero, by steps learning_rate · unit / t^exponent.

    Classification: on ln Σ exp(−z_i·w), and the steps are lengths in the optimizer's norm; `unit` is 1/R. Regression:
    on ½‖Xw − y‖², and Δ minimises g·Δ + ‖Δ‖²/(2 step); `unit` is the inverse of a smoothness in the optimizer's norm.
    """
    X, y = problem(key, data)
    columns = jnp.linalg.norm(X, axis=0)
    if data == "regression":
        smoothness = {"coordinate_descent": jnp.max(columns) ** 2, "sign_descent": jnp.sum(columns) ** 2}
        unit = 1 / smoothness.get(optimizer, jnp.sum(columns**2))
        loss = lambda w: jnp.sum((X @ w - y) ** 2) / 2
    else:
        dual = {"coordinate_descent": np.inf, "sign_descent": 1}.get(optimizer, 2)
        unit = 1 / jnp.max(jnp.linalg.norm(X, dual, axis=1))
        loss = lambda w: jax.nn.logsumexp(-y * (X @ w))
    schedule = lambda count: learning_rate * unit / (count + 1.0) ** exponent
    normalized = optax.normalize_by_update_norm(eps=0.0)
    if data == "regression":
        chain = {
            "coordinate_descent": coordinate_descent(schedule),
            "gradient_descent": optax.sgd(schedule),
            "sign_descent": steepest_descent(schedule, np.inf),
            "power_descent": steepest_descent(schedule, POWER),
        }[optimizer]
    else:
        chain = {
            "coordinate_descent": optax.chain(coordinate_descent(1.0), normalized, optax.scale_by_schedule(schedule)),
            "gradient_descent": optax.chain(normalized, optax.sgd(schedule)),
            "sign_descent": optax.sign_sgd(schedule),
        }[optimizer]
    observe = lambda state: Observables(state.params)
    initial = start(jnp.zeros(X.shape[1]), chain)
    return Run(initial, descent(loss, chain), observe, log_spaced(steps, 50), Given(X, y, unit))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The missing share of the margin in three norms, the bound on it, and the interpolants of least norm."""
    dataset = sound(dataset)
    weights, separable = dataset.weights, dataset.data != "regression"
    X, y = dataset.X.where(separable), dataset.y.where(separable)
    t = dataset.step.where((dataset.step > 0) & (dataset.step <= dataset.steps))
    margin = (y * xr.dot(X.fillna(0), weights.fillna(0), dim="feature")).min("sample")
    best = {order: lift(maximum_margin, X, y, order=order) for order in NAMES}
    widths = {order: 1 / _size(end, order) for order, end in best.items()}
    gaps = {order: 1 - margin / _size(weights, order) / widths[order] for order in NAMES}
    unit = lambda vectors: (vectors / norm(vectors)).fillna(0)
    cosines = [xr.dot(unit(best[a]), unit(best[b]), dim="feature") for a, b in ((1, 2), (1, np.inf), (2, np.inf))]
    apart = xr.concat(cosines, "pair").max("pair") <= SEPARATED
    least = lambda *values: xr.concat(values, "norm").min("norm")
    others = {order: least(*(gaps[other] for other in NAMES if other != order)) for order in NAMES}
    of_its_own = lambda values: named_by(
        dataset.optimizer, {kind: values[order] for kind, order in ORDERS.items() if order in values}
    )
    own, other, width = of_its_own(gaps), of_its_own(others), of_its_own(widths)
    samples = y.notnull().sum("sample")
    vectors = samples.where(samples > 0)
    bound = lift(margin_gap_bound, t, dataset.learning_rate, dataset.exponent, vectors, width * dataset.unit)
    fitted = lambda values: slope_within(np.log(t), np.log(values.where(values > 0)), t >= dataset.steps / 100)
    X, y = dataset.X.where(~separable), dataset.y.where(~separable)
    oracles = {1: minimum_l1_norm, 2: minimum_l2_norm, np.inf: minimum_linf_norm}
    interpolants = {order: lift(oracle, X, y) for order, oracle in oracles.items()}
    interpolants[POWER] = lift(minimum_power_norm, X, y, power=POWER)
    interpolant = of_its_own(interpolants)
    return dataset.assign({f"gap_{order:g}": gap for order, gap in gaps.items()}).assign(
        own=own,
        bound=bound,
        share=(own / bound).where(bound < 1).max("step"),
        nearness=np.log10((own / other).where(apart)),
        rate=fitted(own),
        bound_rate=fitted(bound),
        interpolant=interpolant,
        distance=norm(weights - interpolant) / norm(interpolant),
    )


def _size(vectors: xr.DataArray, order: float) -> xr.DataArray:
    """The norm of that order (1, 2 or infinity); NaN where there is no vector."""
    sizes = {1: abs(vectors).sum("feature", min_count=1), 2: norm(vectors), np.inf: abs(vectors).max("feature")}
    return sizes[order]


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The winner of each norm, the bound, the rates, constant steps, and the ends on squared loss."""
    ends, found = dataset.sel(step=dataset.steps), []
    separable = select(ends, data=lambda data: data != "regression")

    def add(what: str, band: tuple[float, float], values: xr.DataArray, interval: Any = every_seed) -> None:
        if values.size:
            found.append(Finding.of(what.replace("_", " "), band, interval(per_seed(values))))

    ahead = "log10 of the gap to the largest margin in the own norm over the least gap in another, worst optimizer"
    for data in ("gaussian", "digits", "breast_cancer"):
        every = select(separable, data=data, exponent=lambda exponent: exponent > 0)
        runs = largest(every, "learning_rate")
        fastest = f"{data}, largest η = {float(every.learning_rate.max()):g}" if every.diverged.size else data
        add(f"{fastest}: {ahead}", (-np.inf, -np.log10(3)), runs.nearness)
        if data == "gaussian":
            add("gaussian: gap in the own norm over its bound, where that is below 1, the worst", (0, 1), every.share)
        for kind in OWN:
            judged = select(runs, optimizer=kind)
            what = f"{fastest}, {kind}: slope of ln(gap in the own norm) on ln t, last two decades, the bound's at most"
            end = float(judged.bound_rate.max()) if judged.rate.size else np.nan  # fitted as the run's own
            add(what, (-np.inf, end), judged.rate, over_seeds)
    for kind in OWN:
        runs = select(separable, data="gaussian", optimizer=kind, exponent=0.0)
        what = f"constant steps, {kind}: slope of ln(gap in the own norm) on ln t over the last two decades"
        # unit steps along ∇f/γ contract where f is smooth, and the way is ∝ t; l1 and l∞ jump from face to face forever
        band = (-1.07, -0.93) if kind == "gradient_descent" else (-0.1, 0.1)
        add(what, band, runs.rate)
    for kind in ORDERS:
        runs = select(ends, data="regression", optimizer=kind)
        if runs.diverged.size > runs.sizes["seed"]:
            what = f"squared loss, {kind}: spread of the ends over learning rates, relative to the weights"
            spread = runs.weights.max(_arms(runs), skipna=False) - runs.weights.min(_arms(runs), skipna=False)
            band = (0.0, 1e-6) if kind == "gradient_descent" else (1e-3, np.inf)
            add(what, band, norm(spread) / norm(runs.weights).mean(_arms(runs)))
    least = select(ends, data="regression", optimizer="gradient_descent").distance
    add("squared loss, gradient_descent: relative distance of the ends to the least l2 norm", (0.0, 1e-6), least)
    if not found:
        found.append(Finding.of("margin of each optimizer in its own norm: none in this design", (0.0, 0.0), NOTHING))
    return found


def _arms(runs: xr.Dataset) -> list:
    return [dimension for dimension in runs.diverged.dims if dimension != "seed"]


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) optimizer × norm, (b) the gaps and their bounds, (c) constant steps, (d) real data, (e, f) squared loss."""
    figure, panels = plots.figure(2, 3, "Steepest descent in a norm maximises the margin in that norm")
    (matrix, gaps, constant), (real, ends, path) = panels
    later = dataset.sel(step=dataset.step > 0)
    _winners(matrix, dataset)
    fastest = {data: float(select(dataset, data=data).learning_rate.max()) for data in np.unique(dataset.data)}
    for point, runs in arms(later):
        data, kind, rate = point["data"], point["optimizer"], point["learning_rate"]
        runs = runs.sel(step=runs.weights.notnull().any(("seed", "feature")))
        named = f"{kind.replace('_', ' ')}: {NAMES.get(ORDERS[kind], 'l4/3')} margin"
        if data != "regression" and (rate == fastest[data] or not point["exponent"]):
            axes = (gaps if data == "gaussian" else real) if point["exponent"] else constant
            second = data == "digits"  # in the panel of breast_cancer
            style = {"color": COLOURS[kind], "linestyle": "--" if second else "-"}
            # weights that have come back to zero have no margin
            plots.seeds(axes, runs.own.fillna(1.0), None if second else named, **style)
            if point["exponent"] and not second:
                bound = runs.bound.median("seed")
                bound = bound.where(bound < 1)
                its = f"bound, {NAMES[ORDERS[kind]]} (median seed)" if axes is gaps else None
                plots.theory(axes, runs.step, bound, its, linestyle=LINES[kind])
        elif kind == "power_descent" and data == "regression":
            first = runs.isel(seed=0, feature=slice(0, 3))
            path.plot(first.weights[:, 0], first.weights[:, 2], label=f"η = {rate:g}/β", marker=".")
            star, solutions = first.interpolant, np.cross(*first.X.isel(sample=slice(0, 2)).values)
            line = star.values[:, None] + solutions[:, None] / solutions[0] * np.array([0.0, 1.2])
            plots.theory(path, line[0], line[2], "all solutions" if rate == fastest[data] else None)
            plots.theory(path, star[:1], star[2:], None, marker="*", markersize=10)
    for kind in ORDERS:
        runs = select(dataset.sel(step=dataset.steps), data="regression", optimizer=kind)
        if runs.diverged.size:
            runs = runs.swap_dims({_arms(runs)[0]: "learning_rate"}) if runs.learning_rate.ndim else runs
            distance, named = runs.distance.clip(1e-16), kind.replace("_", " ")
            plots.points(ends, runs.learning_rate, distance, named, color=COLOURS[kind])
    titles = {gaps: "b  own norm, steps ∝ t^-1/2", constant: "c  constant steps", real: "d  breast_cancer"}
    for axes, title in titles.items():
        axes.set(title=title, xscale="log", yscale="log", xlabel="step t", ylabel="missing share of the margin")
    real.set_title("d  breast_cancer (dashed: digits)")
    ends.set(title="e  squared loss: only l2 decides the end", yscale="log", xlabel="step size · smoothness")
    ends.set_ylabel("relative distance of the end to the\ninterpolant of least norm")
    path.set(title="f  squared loss, l4/3: the step decides", xlabel="w₁", ylabel="w₃")
    for axes in panels.ravel()[1:]:
        plots.legend(axes, **({"loc": "center"} if axes is ends else {"fontsize": 6} if axes is gaps else {}))
    return figure


def _winners(axes: plots.Axes, dataset: xr.Dataset) -> None:
    """The matrix of optimizers × norms: the median gap at the end, the colour its logarithm."""
    runs = largest(
        select(dataset.sel(step=dataset.steps), data="gaussian", exponent=lambda exponent: exponent > 0),
        "learning_rate",
    )
    kinds = [kind for kind in OWN if select(runs, optimizer=kind).diverged.size]
    if not kinds:
        return
    cells = [[float(select(runs, optimizer=kind)[f"gap_{order:g}"].median()) for order in NAMES] for kind in kinds]
    shades = axes.imshow(cells, norm=LogNorm(), cmap="viridis", aspect="auto")
    for row, values in enumerate(cells):
        for column, value in enumerate(values):
            axes.text(column, row, f"{value:.2g}", ha="center", color="white" if value < 0.1 else "black")
    axes.figure.colorbar(shades, ax=axes, label="missing share of the largest margin")
    axes.set_xticks(range(len(NAMES)), [f"{name} margin" for name in NAMES.values()])
    axes.set_yticks(range(len(kinds)), [kind.replace("_", "\n") for kind in kinds])
    axes.set(title="a  each wins in its own norm (gaussian)", xlabel="norm of the margin")
    axes.grid(False)


AXES = ("data", "optimizer", "exponent", "learning_rate", "steps")
ARMS = [
    *(("gaussian", kind, *steps, 100_000) for kind in OWN for steps in ((0.5, 1.0), (0.5, 3.0), (0.0, 1.0))),
    *((data, kind, 0.5, 3.0, 100_000) for data in ("digits", "breast_cancer") for kind in OWN),
    *(("regression", kind, 0.0, rate, 10_000) for kind in ORDERS for rate in (0.1, 0.5, 1.0, 1.8)),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, AXES: [("gaussian", kind, 0.5, 1.0, 10_000) for kind in ("coordinate_descent", "sign_descent")]},
    paper={"seeds": 64, AXES: [(*arm[:4], 10 * arm[4]) for arm in ARMS]},
    control={"exponent": 2.0},
)
