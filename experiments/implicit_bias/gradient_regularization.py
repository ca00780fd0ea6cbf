"""Gradient descent follows the flow of L + (h/4)‖∇L‖² to second order in its step size h.

Claim: At a fixed time the iterates of gradient descent with step size h are O(h) away from the gradient flow of the
loss L, and O(h²) from the flow of L + (h/4)‖∇L‖²: finite steps amount to a penalty on the gradient. A wrong
coefficient, h/2, brings nothing: the error stays O(h). With momentum β, h being the time a step takes (the learning
rate over 1 − β), the coefficient is (h/4)(1 + β)/(1 − β).

Source: Barrett & Dherin 2021, arXiv 2009.11162 (the modified flow), after backward error analysis (Hairer, Lubich &
Wanner 2006, chapter IX); momentum: Ghosh, Lyu, Zhang & Wang 2023, arXiv 2302.00849. Both state the local error of one
step; over a fixed time one order less is left, which is what is measured.

Departure: Barrett & Dherin show E(a, b) = (y − ab)²/2 and networks on MNIST, where no flow can be integrated to twelve
digits; here the same E (panel a) and networks of four tanh or ReLU units. Step sizes are in units of 1/λ, λ being the
largest eigenvalue of the Hessian at the start, and the time is 6/λ. For momentum the published coefficient alone is
not enough: a ball at rest has to pick up speed, which leaves it h β/(1 − β) behind. The flow has to start at
θ0 + h β/(1 − β) ∇L(θ0) (derived in the oracle); without that the error is O(h), coefficient or not. A ReLU network has
kinks, at which the expansion in h ends after the first order; and beyond h = 1/λ there is no flow that gradient descent
follows: in the steepest direction it steps across the minimum, and the series in h diverges.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import lift, norm, per_seed, select, small_steps, table
from research.optimizers import until
from research.oracles.modified_flow import modified_flow
from research.statistics import every_seed, slope

Model = Literal["tanh", "relu", "scalar"]
COEFFICIENTS = (0.0, 0.25, 0.5)  # of h‖∇L‖²: the plain flow, the right one, a wrong one
FINE = 1 / 16  # step sizes (1 + β)/(1 − β) up to here are judged: the next term of the error is this small
HORIZON = 6.0  # in units of 1/λ


class Observables(NamedTuple):
    weights: Float[Array, "parameter"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    initial: Float[Array, "parameter"]
    sharpness: Float[Array, ""]


def simulate(
    key: Array,
    learning_rate: float,
    momentum: float = 0.0,
    *,
    model: Model = "tanh",
    samples: int = 16,
    features: int = 3,
    width: int = 4,
    steps: int = 1536,
) -> Run:
    """One descent from rest on the mean of half the squared error of v·φ(Uᵀx), up to the time HORIZON/λ.

    `learning_rate` is the time that a step takes, (rate handed to the optimiser)/(1 − momentum), in units of 1/λ. At
    the horizon it falls to zero, so that what is recorded last is there. The model "scalar" is E(a, b) = (0.6 − ab)²/2.
    """
    input_key, target_key, hidden_key, readout_key = jax.random.split(key, 4)
    if model == "scalar":
        X, y = jnp.ones((1, 1)), jnp.full(1, 0.6)
        U, v = 3 + 0.3 * jax.random.normal(hidden_key, (1, 1)), 1 + 0.3 * jax.random.normal(readout_key, (1,))
    else:
        X = jax.random.normal(input_key, (samples, features))
        y = jnp.sin(2 * X[:, 0]) + 0.5 * jax.random.normal(target_key, (samples,))
        U = jax.random.normal(hidden_key, (features, width)) / features**0.5
        v = jax.random.normal(readout_key, (width,)) / width**0.5
    initial, split = jnp.concatenate([U.ravel(), v]), U.size
    activation = {"tanh": jnp.tanh, "relu": jax.nn.relu, "scalar": lambda sums: sums}[model]
    network = lambda weights: activation(X @ weights[:split].reshape(U.shape)) @ weights[split:]
    loss = lambda weights: optax.l2_loss(network(weights), y).mean()
    sharpness = jnp.linalg.eigvalsh(jax.hessian(loss)(initial))[-1]
    left = until(HORIZON, learning_rate)
    optimizer = optax.sgd(lambda count: (1 - momentum) * left(count) / sharpness, momentum=momentum)
    observe = lambda state: Observables(state.params)
    at = log_spaced(steps, 24)
    return Run(start(initial, optimizer), descent(loss, optimizer), observe, at, Given(X, y, initial, sharpness))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The flows, how far the end is from each, and the coefficient that would fit best."""
    rate = dataset.learning_rate / dataset.sharpness
    times = np.minimum(dataset.step * dataset.learning_rate, HORIZON) / dataset.sharpness
    activation = xr.where(dataset.model == "scalar", "identity", dataset.model)
    coefficients = xr.DataArray(np.array(COEFFICIENTS), dims="coefficient", coords={"coefficient": list(COEFFICIENTS)})
    followed = dataset.learning_rate * (1 + dataset.momentum) / (1 - dataset.momentum) <= 2  # beyond, flows are stiff
    problem = lambda kept: (dataset.X.where(kept), dataset.y, dataset.initial, times, rate, dataset.momentum)
    flow = lift(modified_flow, *problem(followed), coefficients, activation)
    moving = lift(
        modified_flow, *problem(followed & (dataset.momentum > 0)), coefficients[1:2], activation, displaced=False
    )
    end, last = dataset.weights.sel(step=dataset.steps), flow.sel(step=dataset.steps)
    plain, right = last.sel(coefficient=0.0, drop=True), last.sel(coefficient=0.25, drop=True)
    way = norm(plain - dataset.initial, "parameter")
    shift = right - plain
    fit = ((end - plain) * shift).sum("parameter", min_count=1) / norm(shift, "parameter") ** 2
    undisplaced = moving.isel(coefficient=0, drop=True).sel(step=dataset.steps)
    return dataset.assign(
        flow=flow,
        gap=norm(end - last, "parameter") / way,
        undisplaced_gap=norm(end - undisplaced, "parameter") / way,
        fitted=fit / 4,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The orders, the coefficient itself, and where it ends: kinks, and steps as large as 1/λ.

    An error C h^p (1 + O(h)) has the slope p + O(h): 0.1 is allowed, at h (1 + β)/(1 − β) <= 1/16.
    """
    models, rates = (
        list(dict.fromkeys(np.atleast_1d(dataset[name].values).tolist())) for name in ("model", "momentum")
    )
    found: list[Finding] = []

    def order(model: str, momentum: float, what: str, values: xr.DataArray, low: float, high: float) -> None:
        runs = small_steps(select(dataset.assign(error=values), model=model), momentum, FINE)
        if runs.diverged.size and np.unique(runs.learning_rate.values).size > 1:
            error = table(runs, "error", "learning_rate")
            named = model if momentum == 0 else f"{model}, momentum {momentum:g}"
            slopes = slope(np.log(error.learning_rate), np.log(error))
            diverged = per_seed(runs.diverged.astype(float)) > 0  # voids the finding; a kink leaves the flow unknown
            crossing = np.isfinite(slopes) | (model != "relu") | diverged
            if not crossing.all():
                named = f"{named} ({crossing.sum()} of {crossing.size} seeds: in the others the flow runs along a kink)"
            said = f"{named}: slope of ln(distance to {what}) on ln h"
            found.append(Finding.of(said, (low, high), every_seed(slopes[crossing])))

    gap = lambda coefficient: dataset.gap.sel(coefficient=coefficient)
    for momentum in rates:
        by = "" if momentum == 0 else "(1 + β)/(1 − β)"
        order(models[0], momentum, f"the flow of L + (h/4){by}‖∇L‖²", gap(0.25), 1.9, 2.1)
        if momentum == 0:
            order(models[0], momentum, "the flow of L", gap(0.0), 0.9, 1.1)
            order(models[0], momentum, "the flow of L + (h/2)‖∇L‖², a wrong coefficient,", gap(0.5), 0.9, 1.1)
        else:
            order(models[0], momentum, "that flow, started at θ0 as if it moved,", dataset.undisplaced_gap, 0.9, 1.1)
    for momentum in rates:
        found += _coefficient(select(dataset, model=models[0]), momentum)
    for model in models[1:]:
        band = (-np.inf, 1.9) if model == "relu" else (1.9, 2.1)
        order(model, 0.0, "the flow of L + (h/4)‖∇L‖²", gap(0.25), *band)
    # at hλ = 2 a step maps the steepest direction to minus itself, and either flow to nearly zero: both are wrong
    coarse = select(dataset, model=models[0], momentum=0.0, learning_rate=lambda rate: rate > 1)
    if coarse.diverged.size:
        ratio = coarse.gap.sel(coefficient=0.25) / coarse.gap.sel(coefficient=0.0)
        said = f"{models[0]}, h > 1/λ: distance to the modified over that to the plain flow"
        found.append(Finding.of(said, (0.5, np.inf), every_seed(per_seed(ratio, "min"))))
    return found


def _coefficient(runs: xr.Dataset, momentum: float) -> list[Finding]:
    """The c with which the flow of L + c h‖∇L‖² comes nearest, from the two finest steps extrapolated to h = 0."""
    runs = small_steps(runs, momentum, FINE)
    rates = np.unique(runs.learning_rate.values)[:2]
    if not runs.diverged.size or rates.size < 2:
        return []
    finer, coarser = (table(runs, "fitted", "learning_rate").sel(learning_rate=rate).values for rate in rates)
    limit = (rates[1] * finer - rates[0] * coarser) / (rates[1] - rates[0])
    what = f"momentum {momentum:g}: coefficient of h (1 + β)/(1 − β)‖∇L‖² that fits best, extrapolated to h = 0"
    # what is left is of second order in h (1 + β)/(1 − β): 1/256, and a factor for the curvature gained on the way
    return [Finding.of(what, (0.2475, 0.2525), every_seed(limit))]


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) paths in the plane of Barrett & Dherin, (b) three orders, (c) the coefficient, (d) where it breaks."""
    figure, ((plane, orders), (coefficient, broken)) = plots.figure(2, 2, "The step size regularises the gradient")
    models = list(dict.fromkeys(np.atleast_1d(dataset.model.values).tolist()))
    first = next((model for model in models if model != "scalar"), models[0])
    _paths(plane, select(dataset, model="scalar", momentum=0.0, learning_rate=lambda rate: rate <= 0.25))
    runs = select(dataset, model=first, momentum=0.0)
    if runs.diverged.size:
        for value, name in zip(COEFFICIENTS, ("flow of L", "of L + (h/4)‖∇L‖²", "of L + (h/2)‖∇L‖²"), strict=True):
            error = table(runs.assign(error=runs.gap.sel(coefficient=value)), "error", "learning_rate")
            plots.seeds(orders, error, name, marker="o", markersize=3)
            if value < 0.5:
                power, small = 1 if value == 0 else 2, error.learning_rate.values
                line = float(error.isel(learning_rate=0).median()) * (small / small[0]) ** power
                plots.theory(orders, small, line, f"slope {power}", linestyle="--" if power == 1 else ":")
        orders.axvline(1, color="0.5", linewidth=0.8)
        orders.annotate("h = 1/λ", (1, 0.02), xycoords=("data", "axes fraction"), fontsize=7.5, ha="right", rotation=90)
    every = np.unique(dataset.momentum.values)
    fits = [small_steps(select(dataset, model=first), momentum, FINE) for momentum in every]
    for momentum, runs in zip(every, fits, strict=True):
        if runs.diverged.size:
            finest = select(runs, learning_rate=float(runs.learning_rate.min()))
            measured = finest.fitted * (1 + momentum) / (1 - momentum)
            plots.points(
                coefficient,
                xr.DataArray(momentum),
                measured,
                "descent" if momentum == 0 else None,
                color="C1",
                alpha=0.7,
            )
    betas = np.linspace(0, 0.8, 50)
    plots.theory(coefficient, betas, (1 + betas) / (1 - betas) / 4, "(1 + β)/(1 − β)/4")
    for number, (model, momentum, variable, name) in enumerate(
        (
            ("relu", 0.0, "quarter", "ReLU: kinks"),
            (first, 0.5, "undisplaced_gap", "momentum 0.5, flow started at θ0"),
            (first, 0.5, "quarter", "momentum 0.5, start displaced"),
        )
    ):
        runs = select(dataset.assign(quarter=dataset.gap.sel(coefficient=0.25)), model=model, momentum=momentum)
        if runs.diverged.size:
            largest = FINE if model == "relu" else 0.5
            error = table(
                select(runs, learning_rate=lambda rate, most=largest: rate <= most), variable, "learning_rate"
            )
            error = error.dropna("seed", how="any")
            if not error.size:
                continue
            plots.seeds(broken, error, name, marker="o", markersize=3, color=f"C{number + 3 if number else 2}")
            power, small = 2 if number == 2 else 1, error.learning_rate.values
            line = float(error.isel(learning_rate=0).median()) * (small / small[0]) ** power
            style = {1: "--", 2: ":"}[power]
            plots.theory(broken, small, line, f"slope {power}" if number else None, linestyle=style)
    plane.set(title="a  E(a, b) = (0.6 − ab)²/2", xlabel="a", ylabel="b")
    away = "distance at time 6/λ / way gone"
    orders.set(title=f"b  {first} network: three flows", xlabel="step size h (units of 1/λ)", ylabel=away)
    coefficient.set(title="c  coefficient of h‖∇L‖² that fits", xlabel="momentum β", ylabel="coefficient (finest h)")
    broken.set(title="d  to the modified flow: what breaks h²", xlabel="step size h (units of 1/λ)", ylabel=away)
    for axes in (orders, broken):
        axes.set(xscale="log", yscale="log")
    for axes in (plane, orders, coefficient, broken):
        plots.legend(axes)
    return figure


def _paths(axes: plots.Axes, runs: xr.Dataset) -> None:
    """Descent and the flows of one seed from one start, in the plane of the two weights."""
    rates = np.unique(runs.learning_rate.values) if runs.diverged.size else np.zeros(0)
    where = lambda coefficient, shown: shown.flow.sel(coefficient=coefficient, drop=True)
    for number, rate in enumerate(rates[[-1, 0]] if rates.size > 1 else rates):
        shown = select(runs, learning_rate=rate).isel(seed=0)
        shown = shown.squeeze([each for each in shown.diverged.dims if each in shown.dims])
        path = lambda values: values.isel(parameter=slice(0, 2)).transpose("parameter", "step").values
        if number == 0 and rates.size > 1:
            axes.plot(*path(shown.weights), "o", markersize=5, color="C0", label=f"descent, h = {rate:g}/λ")
            x, y = path(where(0.25, shown))
            plots.theory(axes, x, y, "modified flow, same times", linestyle=":", marker="x")
        else:
            x, y = path(where(0.0, shown))
            plots.theory(axes, x, y, "plain flow")
    if rates.size:
        low, high = axes.get_xlim()
        axes.plot([low, high], [0.6 / low, 0.6 / high], color="0.6", label="minima")


ARMS = [("tanh", 0.0), ("tanh", 0.5), ("tanh", 0.75), ("relu", 0.0), ("scalar", 0.0)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, ("model", "momentum"): ARMS, "learning_rate": 2.0 ** np.arange(1, -9, -1)},
    smoke={
        "seeds": 2,
        ("model", "momentum"): [("tanh", 0.0), ("tanh", 0.5)],
        "learning_rate": (1 / 16, 1 / 64, 1 / 256),
    },
    paper={
        "seeds": 32,
        "samples": 64,
        "features": 8,
        "width": 16,
        "learning_rate": 2.0 ** np.arange(1, -11, -1),
        "steps": 6144,
    },
    control={"seeds": 3, ("model", "momentum"): [("relu", 0.0)]},
)
