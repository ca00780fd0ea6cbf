"""Gradient descent on under-determined least squares finds the interpolant nearest to where it started.

Claim: For every stable learning rate, with or without momentum, by full batches or single samples, gradient descent on
least squares converges to w0 + X⁺(y − X w0), the solution nearest to its initialisation w0; what w0 has in the null
space of X never changes. Other geometries (Adam, sign descent, coordinate descent) end elsewhere. With weight decay the
start is forgotten, and the limit is the ridge solution, which tends to the minimum-norm one as the decay vanishes.

Source: Zhang, Bengio, Hardt, Recht & Vinyals 2017, arXiv 1611.03530, section 5; Gunasekar, Lee, Soudry & Srebro 2018,
arXiv 1802.08246; stability threshold of the heavy ball: Polyak 1964.

Departure: Zhang et al. show the effect on kernels of MNIST and CIFAR10. Here X is Gaussian (20 × 100), Gaussian of rank
12 with a y that no weights fit, 200 random cosine features of 40 bundled digits, and 15 patients of the breast cancer
data with their 30 measurements. Every X is scaled so that the largest eigenvalue of XᵀX/n is 1.
"""

import itertools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import lift, norm, per_seed, select, table
from research.optimizers import coordinate_descent
from research.oracles.least_squares import (
    minimum_l1_norm,
    minimum_l2_norm,
    minimum_linf_norm,
    null_component,
    ridge,
    smallest_eigenvalue,
    stability_threshold,
)
from research.statistics import NOTHING, Estimate, every_seed
from research.underdetermined import Underdetermined, underdetermined_problem

Optimizer = Literal["gradient_descent", "stochastic", "adam", "sign_descent", "coordinate_descent"]
CONTRASTS = ("adam", "sign_descent", "coordinate_descent")
TOLERANCE = 1e-6  # of the claim: the relative distance at the end


class Observables(NamedTuple):
    weights: Float[Array, "feature"]
    gradient_norm: Float[Array, ""]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    initial: Float[Array, "feature"]


def simulate(
    key: Array,
    learning_rate: float,
    init_scale: float,
    momentum: float,
    weight_decay: float,
    *,
    data: Underdetermined = "gaussian",
    optimizer: Optimizer = "gradient_descent",
    steps: int = 10_000,
) -> Run:
    """One descent on 1/(2n) ‖Xw − y‖² + weight_decay/2 ‖w‖² from w0 ~ N(0, init_scale²).

    `learning_rate` is in units of gradient descent's threshold 2 (1 + momentum)/(1 + weight_decay). Coordinate
    descent takes the same step; Adam (b1 = momentum) and sign descent a tenth of it, decaying linearly to zero, since
    with a constant one they would not settle. "stochastic" takes one random sample a step, and has the threshold
    2/max ‖x‖² (without momentum): below it every step shortens the distance to all interpolants.
    """
    data_key, init_key, run_key = jax.random.split(key, 3)
    X, y = underdetermined_problem(data_key, data)
    initial = init_scale * jax.random.normal(init_key, (X.shape[1],))
    loss = lambda w, X=X, y=y: optax.l2_loss(X @ w, y).mean() + weight_decay * optax.tree.norm(w, squared=True) / 2
    rate = learning_rate * 2 * (1 + momentum) / (1 + weight_decay)
    decaying = optax.linear_schedule(0.1 * rate, 0.0, steps)
    chain = {
        "gradient_descent": optax.sgd(rate, momentum=momentum),
        "stochastic": optax.sgd(learning_rate * 2 / jnp.max(jnp.sum(X**2, axis=1)), momentum=momentum),
        "adam": optax.adam(decaying, b1=momentum),
        "sign_descent": optax.sign_sgd(decaying),
        "coordinate_descent": coordinate_descent(rate),
    }[optimizer]
    step = descent(loss, chain)
    if optimizer == "stochastic":
        one = lambda sample_key: jax.random.randint(sample_key, (1,), 0, len(X))
        step = stochastic_descent(lambda w, chosen: loss(w, X[chosen], y[chosen]), chain, one)
    observe = lambda state: Observables(state.params, jnp.linalg.norm(jax.grad(loss)(state.params)))
    return Run(start(initial, chain, run_key), step, observe, log_spaced(steps, 12), Given(X, y, initial))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The interpolants and the ridge solution, the distances to them, and what moved in the null space."""
    X, y = dataset.X, dataset.y
    end = dataset.weights.sel(step=dataset.steps)
    nearest = lift(minimum_l2_norm, X, y, dataset.initial)
    regularized = lift(ridge, X, y, dataset.weight_decay)
    solution = xr.where(dataset.weight_decay == 0, nearest, regularized)
    smallest = lift(minimum_l2_norm, X, y, xr.zeros_like(dataset.initial))
    kept = lift(null_component, X, dataset.initial)
    away = lambda oracle: _relative(end, lift(oracle, X, y))
    rate = dataset.learning_rate * 2 * (1 + dataset.momentum) / (1 + dataset.weight_decay)
    lowest = lift(smallest_eigenvalue, X)
    # A sample x at the rate 2η/max ‖x‖² shortens the error e by (x·e)² 4η(1 − η)/max ‖x‖² or more, in the square.
    shrinks = 4 * dataset.learning_rate * (1 - dataset.learning_rate) * lowest / (X**2).sum("feature").max("sample")
    single = (1 - shrinks) ** (dataset.steps / 2)
    return dataset.assign(
        distance=_relative(end, solution),
        from_smallest=norm(end - smallest),
        from_smallest_predicted=norm(solution - smallest),
        null_change=norm(lift(null_component, X, end) - kept) / norm(end),
        smallest_eigenvalue=lowest,
        settled=xr.where(dataset.optimizer == "stochastic", single, _left(dataset, rate, lowest)) < 1e-9,
        relative_rate=rate / lift(stability_threshold, X, dataset.weight_decay, dataset.momentum),
        growth=dataset.gradient_norm.sel(step=dataset.steps) / dataset.gradient_norm.isel(step=0),
        from_l1=away(minimum_l1_norm),
        from_l2=away(minimum_l2_norm),
        from_linf=away(minimum_linf_norm),
        misfit=norm(X.fillna(0.0).dot(end.fillna(0.0), "feature") - y, "sample") / norm(y, "sample"),
    )


def _left(dataset: xr.Dataset, rate: xr.DataArray, lowest: xr.DataArray) -> xr.DataArray:
    """What theory leaves of the slowest mode at the end: a step takes the larger root of z² − (1 + β − ηs) z + β.

    Modes s of curvature: the lowest and the highest (1) of XᵀX/n, and with weight decay λ, which adds to all, zero.
    """
    left = xr.zeros_like(lowest)
    for mode in (0.0, lowest, 1.0):
        curvature = mode + dataset.weight_decay
        middle = 1 + dataset.momentum - rate * curvature
        spread = (middle**2 - 4 * dataset.momentum + 0j) ** 0.5
        root = np.maximum(np.abs(middle + spread), np.abs(middle - spread)) / 2
        left = np.maximum(left, (root**dataset.steps).where(curvature > 0, 0.0))
    return left


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The limit, the null space, the boundary, the contrasts, the ridge solution and its limit.

    Judged at the end are the runs that theory gives time: 1e-9 of the slowest mode is left. In the default design all
    are, but for those that forget a large start by a small weight decay.
    """
    first = str(np.atleast_1d(dataset.optimizer.values)[0])
    claimed = select(dataset, optimizer=first)
    below = select(dataset, learning_rate=lambda rate: rate < 1)
    stable, single = (
        select(below, optimizer=first),
        select(below, optimizer="stochastic", weight_decay=0.0, momentum=0.0),
    )
    free, decayed = (select(stable, weight_decay=which) for which in (0.0, lambda strength: strength > 0))
    found: list[Finding] = []

    def add(who: str, what: str, band: tuple[float, float], runs: xr.Dataset, variable: str) -> None:
        if runs.diverged.size:
            others = [dimension for dimension in runs.settled.dims if dimension != "seed"]
            judged = runs[variable].where(runs.settled, 0.0).where(runs.settled.any(others))
            said = f"{who.replace('_', ' ')}: {what}, the worst of a seed's stable runs"
            found.append(Finding.of(said, band, every_seed(per_seed(judged))))

    limit = "relative distance to w0 + X⁺(y − X w0) at the end"
    add(first, limit, (0.0, TOLERANCE), free, "distance")
    add(first, "relative change of the null-space part", (0.0, 1e-10), free, "null_change")
    add("one sample a step", limit, (0.0, TOLERANCE), single, "distance")
    threshold = (
        "largest learning rate that converges, in units of 2(1 + momentum)/(λ_max + weight decay), between two tried"
    )
    found.append(Finding.of(threshold, (0.99, 1.01), _boundary(claimed)))
    add(first, "with weight decay: relative distance to the ridge solution", (0.0, TOLERANCE), decayed, "distance")
    decayed = select(decayed, init_scale=0.0, learning_rate=lambda rate: rate >= 0.5)
    if np.unique(decayed.weight_decay.values).size > 1 and decayed.diverged.size:
        found.append(_vanishing_decay(decayed))
    for optimizer in CONTRASTS:
        runs = select(below, optimizer=optimizer, weight_decay=0.0, init_scale=0.0)
        if runs.diverged.size:
            said = (
                f"{optimizer.replace('_', ' ')} from zero, which interpolates too: relative distance of its end to the "
                "minimum-l2-norm interpolant, the nearest of a seed's runs"
            )
            nearest = per_seed(runs.from_l2.where(runs.misfit < 1e-3), "min")
            found.append(Finding.of(said, (1000 * TOLERANCE, np.inf), every_seed(nearest)))
    return found


def _boundary(claimed: xr.Dataset) -> Estimate:
    """Between the largest learning rate of a run that shrinks and the smallest of one that grows, in either order."""
    if claimed.relative_rate.isnull().any():
        return NOTHING
    grows = claimed.diverged | ~(claimed.growth < 1)
    highest = float(claimed.relative_rate.where(~grows).max())
    lowest = float(claimed.relative_rate.where(grows).min())
    return Estimate((highest + lowest) / 2, (min(highest, lowest), max(highest, lowest)))


def _vanishing_decay(runs: xr.Dataset) -> Finding:
    """Along the ridge path a mode s of XᵀX/n gives the distance the local slope s/(s + λ), and all of them a mean."""
    strengths = np.sort(np.unique(runs.weight_decay.values))[:2]
    near, far = (table(runs, "from_smallest", "data", "weight_decay").sel(weight_decay=each) for each in strengths)
    slopes = np.log(far / near) / np.log(strengths[1] / strengths[0])
    eigenvalue = table(runs, "smallest_eigenvalue", "data").rename("eigenvalue")
    lowest = eigenvalue / (eigenvalue + strengths[1])
    place = (slopes - lowest) / (1 - lowest)
    return Finding.of(
        "weight decay → 0: slope of ln(distance to X⁺y) on ln(weight decay), from that of the lowest mode (0) to 1 (1)",
        (0.0, 1.0),
        every_seed(per_seed(place, "min", "max")),
    )


def _relative(weights: xr.DataArray, target: xr.DataArray) -> xr.DataArray:
    return norm(weights - target) / norm(target)


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the start decides the end (of runs that had time), (b) until 2/λ_max, (c) other geometries, (d) ridge."""
    figure, ((where, boundary), (contrast, decay)) = plots.figure(
        2, 2, "Gradient descent finds the nearest interpolant"
    )
    claimed = select(dataset, optimizer=str(np.atleast_1d(dataset.optimizer.values)[0]))
    below = lambda rate: rate < 1
    for number, data in enumerate(np.unique(claimed.data.values).tolist()):
        style = {"color": f"C{number}", "label": data.replace("_", " ")}
        runs = select(claimed, data=data, weight_decay=0.0)
        plots.points(boundary, runs.relative_rate, runs.growth.where(~runs.diverged, 1e20).clip(1e-20, 1e20), **style)
        runs = select(runs, learning_rate=below, init_scale=lambda scale: scale > 0)
        plots.points(where, runs.from_smallest_predicted, runs.from_smallest.where(runs.settled), **style)
        settled = {"init_scale": 0.0, "learning_rate": lambda rate: 0.5 <= rate < 1}
        runs = select(claimed, data=data, weight_decay=lambda strength: strength > 0, **settled)
        plots.points(decay, runs.weight_decay, runs.from_smallest.where(runs.settled), **style)
        predicted = table(runs, "from_smallest_predicted", "weight_decay").median("seed")
        plots.theory(decay, predicted.weight_decay, predicted, None if number else "ridge (median seed)")
    optimizers = list(dict.fromkeys(np.atleast_1d(dataset.optimizer.values).tolist()))
    for place, optimizer in enumerate(optimizers):
        runs = select(
            dataset, optimizer=optimizer, data="gaussian", weight_decay=0.0, init_scale=0.0, learning_rate=below
        )
        for number, (name, distance) in enumerate({"l1": "from_l1", "l2": "from_l2", "l∞": "from_linf"}.items()):
            x, y = xr.DataArray(place + 0.22 * (number - 1)), runs[distance].clip(1e-16)
            plots.points(contrast, x, y, None if place else name, color=f"C{number}")
    plots.theory(where, where.get_xlim(), where.get_xlim(), "‖P_null w0‖")
    boundary.axvline(1, color="black", linestyle="--", linewidth=1.2, label="2(1 + momentum)/λ_max")
    contrast.axhline(TOLERANCE, color="black", linestyle="--", linewidth=1.2, label="tolerance of the claim")
    contrast.set_xticks(range(len(optimizers)), [name.replace("_", "\n") for name in optimizers])
    growth_label = "gradient norm, end / start\n(clipped to 1e±20)"
    away_label = "relative distance of the end\nto the interpolant of least norm"
    distance_label = "distance of the end to X⁺y"
    where.set(title="a  the start decides the end", xscale="log", xlabel="‖P_null w0‖", ylabel=distance_label)
    boundary.set(title="b  stable until 2/λ_max", xlabel="learning rate / threshold", ylabel=growth_label)
    contrast.set(title="c  other geometries end elsewhere", ylabel=away_label)
    decay.set(title="d  weight decay: ridge", xscale="log", xlabel="weight decay / λ_max", ylabel=distance_label)
    for axes in (where, boundary, contrast, decay):
        axes.set_yscale("log")
        plots.legend(axes)
    return figure


SETS = ("gaussian", "rank_deficient", "digits", "breast_cancer")
DECAYS = (0.0, 0.003, 0.03, 0.3)
AXES = ("data", "optimizer", "momentum", "weight_decay")
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={
        "seeds": 8,
        AXES: [
            *itertools.product(SETS, ("gradient_descent",), (0.0,), DECAYS),
            *itertools.product(SETS, ("gradient_descent",), (0.9,), (0.0, 0.03)),
            *(
                ("gaussian", optimizer, momentum, 0.0)
                for optimizer in ("stochastic", "adam")
                for momentum in (0.0, 0.9)
            ),
            *(("gaussian", optimizer, 0.0, 0.0) for optimizer in CONTRASTS[1:]),
        ],
        "learning_rate": (0.2, 0.5, 0.9, 0.995, 1.005, 1.1),
        "init_scale": (0.0, 0.1, 1.0),
    },
    smoke={
        "seeds": 2,
        AXES: [
            *itertools.product(SETS[:1], ("gradient_descent",), (0.0, 0.9), DECAYS[:3]),
            ("gaussian", "adam", 0.0, 0.0),
        ],
        "learning_rate": (0.5, 0.995, 1.005),
        "init_scale": (0.0, 1.0),
    },
    paper={"seeds": 64, "steps": 100_000},
    control={"optimizer": "adam", "data": "gaussian"},
)
