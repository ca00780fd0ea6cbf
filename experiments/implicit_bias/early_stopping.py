"""Gradient descent stopped at time t is almost ridge of strength 1/t: never 1.69 times its risk.

Claim: For every X, signal and noise the risk of gradient flow from zero at time t is at most 1.6862 times that of ridge
of strength 1/t. For a signal without a preferred direction, at t = 1/λ and ridge at its best λ, it is at most 1.2147
times, and at least once, the risk of ridge.

Source: Ali, Kolter & Tibshirani 2019, arXiv 1810.10082: the bound along the whole path, for every X and every signal;
the one for ridge at its best; figures 1 to 3. The constants are computed here.

Departure: The runs are gradient descent, not its flow. Below the learning rate 1/λ_max a step costs at most the factor
(ln(1 − η)/η)², η the rate over 1/λ_max: −ln(1 − ηs) <= −s ln(1 − η), and 1 − e^{-cx} <= c(1 − e^{-x}) for c >= 1. A
run descends on all n unit vectors as targets at once, and so gives the map from y to the weights: bias and variance
are exact expectations over the noise. One thing the paper does not say: with t = 0.457/λ in place of 1/λ the 1.2147 is
1.0786, so that at the best of times descent is within 8 % of ridge. That second bound needs a signal without a
direction. The first does not, wherever a fixed signal points; but at the best of times such a signal is learned far
better than by any ridge along the largest eigenvalue, and along the smallest worse than 1.0786 allows.
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
from research.dynamics import Run, descent, start
from research.experiment import Experiment, Finding
from research.labels import lift, norm, per_seed, select, sound
from research.oracles.early_stopping import (
    best_calibration,
    flow,
    flow_risk,
    least_ridge_risk,
    path_constant,
    ridge_risk,
    tuned_constant,
)
from research.oracles.least_squares import ridge
from research.statistics import every_seed, slope

Data = Literal["planted", "gaussian", "diabetes"]
BEST_TIMES = np.array(
    [1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32]
)  # n r²/(σ² p) = 1/λ of the best ridge: the noise that is judged
EARLIER = 0.5  # of 1/λ: near the best calibration, and a time at which descent is recorded
COMPARED = 8.0  # the time at which descents of several rates are compared with the flow


class Observables(NamedTuple):
    weights: Float[Array, "feature"]
    variance: Float[Array, ""]
    even: Float[Array, ""]
    bias: Float[Array, "signal"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    signals: Float[Array, "signal feature"]


def problem(
    key: Array, data: Data, samples: int, features: int, condition_number: float, exponent: float
) -> tuple[Array, Array]:
    """X, whose largest eigenvalue of XᵀX/n is 1, and y: planted weights of norm 1 with noise, or the disease."""
    keys = jax.random.split(key, 4)
    if data == "diabetes":
        patients, progression = problems.diabetes()
        chosen = jax.random.choice(keys[0], len(patients), (samples,), replace=False)
        X, y = jnp.asarray(patients)[chosen], jnp.asarray(progression)[chosen]
    else:
        X = jax.random.normal(keys[0], (samples, features))
        if data == "planted":
            left, _, right = jnp.linalg.svd(X, full_matrices=False)
            eigenvalues = condition_number ** -(jnp.linspace(0.0, 1.0, min(samples, features)) ** exponent)
            X = left * jnp.sqrt(samples * eigenvalues)[None, :] @ right
        weights = jax.random.normal(keys[1], (features,))
        y = X @ weights / jnp.linalg.norm(weights) + 0.2 * jax.random.normal(keys[2], (samples,))
    return X / jnp.linalg.norm(X, 2) * samples**0.5, y


def simulate(
    key: Array,
    learning_rate: float,
    condition_number: float = 1.0,
    exponent: float = 1.0,
    *,
    data: Data = "planted",
    samples: int = 30,
    features: int = 21,
    steps: int = 2048,
) -> Run:
    """One descent from zero on 1/(2n) ‖XB − I‖², whose B maps every y to the weights of the descent on it.

    `learning_rate` is in units of 1/λ_max, which is 1. Planted eigenvalues fall from 1 to 1/condition_number,
    log-spaced for `exponent` 1, all but the last near 1 for a large one. `even` is the squared bias of a signal of norm
    1 without a direction, `bias` that along the largest and along the smallest eigenvalue; `variance` is for noise 1.
    """
    X, y = problem(key, data, samples, features, condition_number, exponent)
    signals = jnp.linalg.svd(X, full_matrices=False)[2][jnp.array([0, -1])]
    optimizer = optax.sgd(learning_rate)
    loss = lambda B: optax.l2_loss(X @ B, jnp.eye(samples)).sum() / samples

    def observe(state: tuple) -> Observables:
        B = state[0]
        missing = B @ X - jnp.eye(X.shape[1])
        even, bias = jnp.sum(missing**2) / X.shape[1], jnp.sum((missing @ signals.T) ** 2, axis=0)
        return Observables(B @ y, jnp.sum(B**2), even, bias)

    # Four steps an octave, so that rates a power of two apart are seen at the same times.
    octaves = np.arange(4, 8)[:, None] * 2 ** np.arange(0, 60)
    at = np.unique(np.r_[0:8, octaves[octaves <= steps], steps])
    state = start(jnp.zeros((X.shape[1], samples)), optimizer)
    return Run(state, descent(loss, optimizer), observe, at, Given(X, y, signals))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The risks of the flow and of ridge, and the ratios of descent's to them."""
    dataset = sound(dataset)
    X, signals, rate = dataset.X, dataset.signals, dataset.learning_rate
    time = rate * dataset.step
    ridges, flows = lift(ridge_risk, X, signals, time), lift(flow_risk, X, signals, time)
    best_time = xr.DataArray(BEST_TIMES, {"best_time": BEST_TIMES}, ("best_time",))
    tuned = lift(ridge_risk, X, signals, best_time.rename(best_time="step")).rename(step="best_time")
    features = X.notnull().any("sample").sum("feature")
    noise = (dataset.samples / features / best_time) ** 0.5  # the standard deviation whose best ridge is 1/best_time
    total = lambda risk, bias: risk[bias] + noise**2 * risk.variance
    after = dataset.sel(step=dataset.step > 0)
    ratios = [total(after, bias) / total(ridges.sel(step=after.step), bias) for bias in ("even", "bias")]
    pure = after.variance / ridges.variance.sel(step=after.step)
    even, best = total(after, "even"), total(tuned, "even")
    least = lift(least_ridge_risk, X, signals, noise)
    flowing = lift(flow, X, dataset.y, time)
    # What a step may cost over the flow: see Departure. From η = 1 on there is no allowance.
    allowance = (np.log1p(-rate.where(rate < 1, 0.5)) / rate.where(rate < 1, 0.5)) ** 2
    return dataset.assign(
        time=time,
        ratio=np.maximum(pure, np.maximum(ratios[0].max("best_time"), ratios[1].max(("best_time", "signal")))),
        pure_ratio=pure,
        flow_ratio=flows.variance.sel(step=after.step) / ridges.variance.sel(step=after.step),
        constant=path_constant() + 0 * rate,
        allowance=allowance.where(rate < 1, 1.0),
        on_time=even.where(time.sel(step=after.step) == best_time).max("step") / best,
        tuned=even.min("step") / best,
        fixed=total(after, "bias").min("step") / least,
        ridge_even=ridges.even,
        ridge_variance=ridges.variance,
        noise=noise,
        distance=norm(dataset.weights - flowing) / norm(flowing),
        ridge_path=lift(ridge, X, dataset.y, 1 / time.where(time > 0)),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The path, where its bound is attained, the best ridge, the order in η, fixed signals, and large steps."""
    rates = np.unique(dataset.learning_rate.values)
    below = select(dataset, learning_rate=lambda rate: rate < 1)
    finest = select(dataset, learning_rate=float(rates[0])) if rates[0] < 1 else below
    equal = {"data": "planted", "condition_number": 1.0}
    found: list[Finding] = []

    def add(what: str, band: tuple[float, float], values: xr.DataArray, reduce: str = "max") -> None:
        if values.size:
            extreme = getattr(values, reduce)(set(values.dims) - set(dataset.diverged.dims))  # padding is left out
            found.append(Finding.of(what, band, every_seed(per_seed(extreme, reduce))))

    # Where no rate is below 1 there is no allowance, and the bound is the constant itself.
    judged = below if below.diverged.size else dataset
    constant = float(dataset.constant.max())
    add(
        f"risk over that of ridge at λ = 1/t, any time, noise, signal: largest, in units of {constant:.4f} × allowance",
        (0.0, 1.0),
        judged.ratio / (judged.constant * judged.allowance),
    )
    cost = float(finest.allowance.max()) if finest.diverged.size else np.nan
    # The recorded time nearest to x = 1.7933, where the ratio is largest, misses it by less than 0.1 %.
    attained, sharper = (0.999 * constant, cost * constant), (1.0, cost * tuned_constant(EARLIER))
    add("equal eigenvalues, noise alone: largest, attains the constant", attained, select(finest, **equal).ratio)
    what = "isotropic signal, {}: risk over that of the best ridge, "
    add(what.format("t = 1/λ") + "largest", (1.0, cost * tuned_constant()), finest.on_time)
    add(what.format("best t") + "largest", sharper, finest.tuned)
    add(what.format("best t") + "smallest", sharper, finest.tuned, "min")
    small = select(dataset, learning_rate=lambda rate: rate <= 1 / 16)
    if len(np.unique(small.learning_rate.values)) > 1 and small.diverged.size:
        found.append(_order(small))
    # Of the small rates the largest has the time for what is worst along the smallest eigenvalue.
    spread = select(small, learning_rate=float(rates[rates <= 1 / 16].max(initial=0)), condition_number=lambda c: c > 1)
    if spread.diverged.size:
        what = "planted spectra, signal along the {}: risk at the best t over that of the best ridge, "
        beyond = tuned_constant(EARLIER) * float(spread.allowance.max())
        largest, smallest = (spread.fixed.isel(signal=which) for which in (0, 1))
        add(what.format("largest eigenvalue") + "least (below 1)", (0.0, 1.0), largest, "min")
        add(what.format("smallest eigenvalue") + "largest (beyond isotropic)", (beyond, np.inf), smallest)
    large = select(dataset, learning_rate=lambda rate: rate >= 1, **equal)
    if large.diverged.size:
        # After the first step, t = η, the variances in the mode s = 1 are η² and (1/(1 + 1/η))².
        ratio = large.ratio / (1 + large.learning_rate) ** 2
        add("η >= 1/λ_max, equal eigenvalues: largest ratio over (1 + η)²", (1 - 1e-9, 1 + 1e-9), ratio)
    return found


def _order(runs: xr.Dataset) -> Finding:
    """Per mode the distance to the flow is e^{-x}(1 − e^{-δ}), δ = xηs/2 + …, so the slope is 1 within about η."""
    distance, width = runs.distance.where(runs.time == COMPARED).max("step"), float(runs.learning_rate.max())
    slopes = slope(np.log(runs.learning_rate), np.log(distance.transpose(..., "learning_rate")))
    worst = np.stack([getattr(slopes.reshape(len(slopes), -1), which)(axis=1) for which in ("min", "max")])
    what = f"slope of ln(distance to the flow at t = {COMPARED:g}) on ln η, η <= {width:g}, smallest and largest"
    return Finding.of(what, (1 - width, 1 + width), every_seed(worst))


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) coefficients, (b) risk, (c) path ratio, (d) best ridge, (e) order in η, (f) large steps."""
    figure, panels = plots.figure(2, 3, "Descent stopped at time t is almost ridge of strength 1/t")
    (path, risk, ratio), (tuned, order, steps) = panels
    rates = np.unique(dataset.learning_rate.values)
    columns = xr.broadcast(*(dataset[name] for name in KIND))
    kinds = list(dict.fromkeys(zip(*(column.values.ravel().tolist() for column in columns), strict=True)))
    first = lambda data: next((kind for kind in kinds if kind[0] == data), kinds[0])
    for number, kind in enumerate(kinds):
        every = select(dataset, **dict(zip(KIND, kind, strict=True)))
        every = every.squeeze([each for each in every.diverged.dims if each not in ("seed", "learning_rate")])
        every = every if "learning_rate" in every.dims else every.expand_dims("learning_rate")
        at = lambda rate, runs=every: runs.sel(learning_rate=rate, method="nearest").isel(step=slice(1, None))
        timed = lambda rate, at=at: at(rate).assign_coords(step=at(rate).time.values)
        runs, name, color = timed(1 / 16), LABELS.get(kind, str(kind)), f"C{number}"
        if kind == first("diabetes"):
            one = runs.isel(seed=0).transpose("step", ...).dropna("feature", how="all")
            path.plot(one.step, one.weights, alpha=0.8)
            for feature in range(one.sizes["feature"]):
                black = None if feature else "ridge, λ = 1/t (descent in colours)"
                plots.theory(path, one.step, one.ridge_path.isel(feature=feature), black)
            path.set(title=f"a  coefficients ({name})", ylabel="coefficient")
        if kind == first("gaussian"):
            power = runs.noise.sel(best_time=BEST_TIMES[6]) ** 2
            plots.seeds(risk, runs.even + power * runs.variance, "descent", color="C0")
            ridges = (runs.ridge_even + power * runs.ridge_variance).median("seed")
            plots.theory(risk, runs.step, ridges, "ridge, λ = 1/t (median seed)")
            risk.set(title=f"b  risk, isotropic signal ({name})", ylabel="E‖w − β‖² / ‖β‖²")
        plots.seeds(ratio, timed(rates[0]).pure_ratio, name, color=color)
        flowing = timed(rates[0]).flow_ratio.median("seed")
        plots.theory(ratio, flowing.step, flowing, None if number else "gradient flow", linewidth=0.8)
        best = {"isotropic": runs.tuned, "largest": runs.fixed.isel(signal=0), "smallest": runs.fixed.isel(signal=1)}
        for place, (direction, values) in enumerate(best.items()):
            label = direction if direction == "isotropic" else f"along the {direction} eigenvalue"
            plots.points(tuned, values.best_time, values, None if number else f"signal {label}", color=f"C{place}")
        distance = every.distance.where(every.time == COMPARED).max("step").sel(learning_rate=rates[rates < 1])
        plots.seeds(order, distance, color=color)
        plots.points(steps, every.learning_rate, every.ratio.max("step"), color=color, alpha=0.7)
    constant, c = path_constant(), best_calibration()
    small, large = np.linspace(min(rates[0], 0.5), 0.7, 100), np.linspace(1.0, 1.5, 9)
    for axes, height, linestyle, label in (
        (ratio, constant, "-", f"constant {constant:.4f}"),
        (tuned, tuned_constant(), "-", f"bound at t = 1/λ: {tuned_constant():.4f}"),
        (tuned, tuned_constant(c), ":", f"bound at t = {c:.3f}/λ: {tuned_constant(c):.4f}"),
        (tuned, 1.0, "--", "best ridge"),
    ):
        axes.axhline(height, color="black", linewidth=1.2, linestyle=linestyle, label=label)
    plots.theory(order, rates[rates < 1], 0.1 * rates[rates < 1], "slope 1")
    plots.theory(steps, small, constant * (np.log1p(-small) / small) ** 2, "bound 1.6859 (ln(1 − η)/η)²")
    plots.theory(steps, large, (1 + large) ** 2, "first step, (1 + η)²", linestyle=":")
    ratio.set(title=f"c  noise alone, η = 1/{1 / rates[0]:g}: attained", ylim=(1, 2.05))
    ratio.set_ylabel("risk of descent / risk of ridge")
    tuned.set(title="d  each at its best", xlabel="1/λ of the best ridge", ylim=(0.35, 2.3))
    tuned.set_ylabel("risk of descent / risk of best ridge")
    order.set(title=f"e  to gradient flow at t = {COMPARED:g}", yscale="log", ylabel="relative distance")
    steps.set(title="f  large steps break the bound", ylabel="largest risk of descent / risk of ridge")
    for axes in panels.ravel():
        axes.set(xscale="log", **({} if axes.get_xlabel() else {"xlabel": "time t = η × steps, in 1/λ_max"}))
        plots.legend(axes, ncols=2 if axes is ratio else 1, loc="upper right" if axes is tuned else "best")
    for axes in (order, steps):
        axes.set_xlabel("learning rate η, in 1/λ_max (colours as in c)")
        axes.set_xticks([1 / 64, 1 / 16, 1 / 4, 1], ["1/64", "1/16", "1/4", "1"], minor=False)
        axes.set_xticks([], minor=True)
    return figure


KIND = ("data", "condition_number", "exponent")
LABELS = {
    ("planted", 1.0, 1.0): "equal eigenvalues",
    ("planted", 10.0, 1.0): "log-spaced, 10 : 1",
    ("planted", 100.0, 1.0): "log-spaced, 100 : 1",
    ("planted", 2.67, 1e3): "one 2.67 times smaller",
    ("gaussian", 1.0, 1.0): "Gaussian",
    ("diabetes", 1.0, 1.0): "diabetes, 30 patients",
}
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, KIND: list(LABELS), "learning_rate": (*(2.0**-power for power in range(6, 0, -1)), 1.0, 1.5)},
    smoke={"seeds": 2, KIND: [kind for kind in LABELS if kind[0] == "planted"], "learning_rate": (1 / 64, 1 / 16, 1.5)},
    paper={"seeds": 64, "samples": 400, "features": 200, "steps": 16_384},
    control={"learning_rate": 1.5},
)
