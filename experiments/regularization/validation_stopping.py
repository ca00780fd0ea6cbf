"""Stopping at the least validation loss costs 1/m against the best time, with a constant in closed form.

Claim: Gradient flow on noisy least squares has a best time, and m validation samples find it up to an expected excess
of risk that falls like 1/m: 2(σ² + R*)‖w'‖²/(m R''), where R is the risk ‖w - β‖² over the logarithm of time, R* its
least value, and w' the speed of the path there. Never stopping costs much more where noise is large; where it is small
there is little to save. Stopped at its best, descent is within 1.2147 of ridge at its best.

Source: Early stopping as ridge: Ali, Kolter & Tibshirani 2019, arXiv 1810.10082 (1.2147; the bound 1.69 along the path
is settled in experiments/implicit_bias/early_stopping.py). The law of the regret is derived in
`research.oracles.holdout` (second order in the logarithm of time) and known from no paper.

Departure: Gaussian inputs, β of length 1. Descent at 0.2/λ_max or less in place of the flow, 6000 steps of it; it is
looked at 25 times an e-fold, and the least loss is refined by a parabola through three looks. A validation set of m
samples enters through its sufficient statistic, a Wishart matrix (Bartlett 1933), anew in each draw; m is at least
features + 1. The law needs a best time before the end: seeds whose noise has none, by the oracle, are left out of what
is said of it, and counted. The ratio to ridge is one of two closed forms, on the inputs of the runs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Descent, Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select, sound
from research.oracles.early_stopping import flow_risk, least_ridge_risk, tuned_constant
from research.oracles.holdout import holdout_law
from research.statistics import every_seed, over_seeds, slope

ERRORS = 5.0  # standard errors: three for chance, and two for the interval, which has to lie inside


class Observables(NamedTuple):
    risk: Float[Array, ""]
    validation: Float[Array, "draw"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    planted: Float[Array, "feature"]


def simulate(
    key: Array,
    noise: float,
    validation_samples: float,
    learning_rate: float = 0.2,
    tilt: float = 0.0,
    *,
    samples: int = 24,
    features: int = 12,
    draws: int = 100,
    steps: int = 6000,
) -> Run:
    """Descent from zero on 1/(2n)‖Xw - y‖², with the mean squared error on `draws` validation sets beside it.

    `learning_rate` is over the largest row sum of |XᵀX|/n, at least λ_max. `tilt` makes the last feature of validation
    inputs larger by 1 + tilt, and those between in proportion: a validation set from elsewhere.
    """
    normal_key, chi_key = jax.random.split(key)
    size = features + 1
    normal = jax.random.normal(normal_key, ((samples + 1) * size + draws * size**2,))  # one draw compiles faster
    drawn = normal[: (samples + 1) * size].reshape(samples + 1, size)
    X, planted = drawn[1:, :-1], drawn[0, :-1] / jnp.linalg.norm(drawn[0, :-1])
    y = X @ planted + noise * drawn[1:, -1]
    chi = jnp.sqrt(2 * jax.random.gamma(chi_key, (validation_samples - jnp.arange(size)) / 2, (draws, size)))
    lower = jnp.tril(normal[(samples + 1) * size :].reshape(draws, size, size), -1)
    factors = lower + chi[:, :, None] * jnp.eye(size)[None]
    scale = 1 + tilt * jnp.arange(features) / (features - 1)
    gram, moments = X.T @ X / samples, X.T @ y / samples
    loss = lambda w: w @ (gram @ w) / 2 - moments @ w
    optimizer = optax.sgd(learning_rate / jnp.max(jnp.sum(jnp.abs(gram), axis=1)))

    def observe(state: Descent) -> Observables:
        left = planted - state.params
        errors = jnp.einsum("dij,i->dj", factors, jnp.append(scale * left, noise))
        return Observables(left @ left, jnp.sum(errors**2, axis=1) / validation_samples)

    at = log_spaced(steps, int(25 * np.log(steps)))
    return Run(start(jnp.zeros(features), optimizer), descent(loss, optimizer), observe, at, Given(X, y, planted))


class Stopped(NamedTuple):
    chosen: float
    least: float


def stopped(
    risk: Float[np.ndarray, "step"], validation: Float[np.ndarray, "step draw"], step: Float[np.ndarray, "step"]
) -> Stopped:
    """Mean risk at the least validation loss of each draw, and the least risk; parabolas through three looks."""
    if np.isnan(risk).any() or np.isnan(validation).any():
        return Stopped(np.nan, np.nan)
    log_time = np.log(step)

    def through(values: np.ndarray, place: int) -> np.ndarray:
        around = slice(place - 1, place + 2)
        return np.polyfit(log_time[around] - log_time[place], values[around], 2)

    def least(values: np.ndarray) -> tuple[int, float]:
        place = int(np.argmin(values))
        if place in (0, len(values) - 1):
            return min(max(place, 1), len(values) - 2), log_time[place]
        square, linear, _ = through(values, place)
        return place, log_time[place] - linear / (2 * square) if square > 0 else log_time[place]

    found = [least(row) for row in validation.T]
    read = lambda place, when: float(np.polyval(through(risk, place), when - log_time[place]))
    return Stopped(float(np.mean([read(*each) for each in found])), read(*least(risk)))


class Tuned(NamedTuple):
    ratio: float
    unstopped: float


def tuned(X: Float[np.ndarray, "sample feature"], planted: Float[np.ndarray, "feature"], noise: float) -> Tuned:
    """Least Bayes risk of the flow over that of ridge, for signals of length 1 without a direction; and at the end."""
    s = np.linalg.svd(X, compute_uv=False) ** 2 / len(X)
    times = np.geomspace(1e-2 / s.max(), 1e3 / s.min(), 2000)
    flow = flow_risk(X, planted[None], times)
    flows = flow.even + noise**2 * flow.variance
    # a signal with equal shares of all directions has the risk of one without any
    shares = np.linalg.svd(X)[2].T @ np.ones(X.shape[1]) / X.shape[1] ** 0.5
    return Tuned(float(flows.min() / least_ridge_risk(X, shares, noise)), float(flows[-1] / flows.min()))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The regret of stopping by validation and of never stopping, its law, and the ratio of tuned risks."""
    dataset = sound(dataset)
    after = dataset.sel(step=dataset.step > 0)
    chosen = lift(stopped, after.risk, after.validation, after.step.astype(float))
    law = lift(holdout_law, dataset.X, dataset.y, dataset.planted, dataset.noise)
    ratios = lift(tuned, dataset.X, dataset.planted, dataset.noise)
    last = after.risk.isel(step=-1)
    return dataset.assign(
        regret=chosen.chosen - chosen.least,
        unstopped=last - chosen.least,
        saved=np.log(chosen.chosen / last),
        law=law.regret / dataset.validation_samples,
        spread=law.spread / dataset.validation_samples,
        tuned_ratio=ratios.ratio,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The law of the regret and its rate; never stopping; little noise; the ratio to ridge."""
    found: list[Finding] = []
    sizes, noises = np.unique(dataset.validation_samples.values), np.unique(dataset.noise.values)
    noisy = select(dataset, noise=float(noises[-1]))
    most = select(noisy, validation_samples=float(sizes[-1]))
    known = most.law.notnull().all([each for each in most.law.dims if each != "seed"]).values
    kept = noisy.isel(seed=np.flatnonzero(known))
    large = select(kept, validation_samples=float(sizes[-1]))
    draws = int(dataset.draws.max())
    # a regret is chi-squared with one degree of freedom; next orders are smaller by the variance of ln t
    chance = lambda runs: ERRORS * (2 / draws / max(runs.sizes["seed"], 1)) ** 0.5
    order = float(large.spread.mean()) if known.any() else np.nan
    ratio = per_seed(large.regret / large.law, "mean")
    off = chance(large) + 3 * order
    what = (
        f"noise {noises[-1]:g}: regret of stopping by {int(sizes[-1])} validation samples over the law's "
        f"({int((~known).sum())} of {known.size} seeds without a best time left out)"
    )
    found.append(Finding.of(what, (1 - off, 1 + off), over_seeds(ratio)))
    if sizes.size > 2 and known.any():
        fit = sizes[-3:]
        rows = np.array([per_seed(select(kept, validation_samples=float(size)).regret, "mean") for size in fit])
        rate = slope(np.log(fit), np.log(rows.T))
        off = (chance(large) + 3 * order * fit[-1] / fit[0]) * 2**0.5 / np.log(fit[-1] / fit[0])
        what = f"… slope of the regret's logarithm on that of the samples, {int(fit[0])} to {int(fit[-1])}"
        found.append(Finding.of(what, (-1 - off, -1 + off), over_seeds(rate)))
    few = float(sizes[0])
    for noise in noises[::-1]:
        saved = per_seed(select(dataset, noise=float(noise), validation_samples=few).saved, "mean")
        what = f"textbook: stopping by {int(few)} samples lowers the risk of never stopping, noise {noise:g}: ln of it"
        found.append(Finding.of(what, (-np.inf, 0.0), over_seeds(saved)))
    bound = tuned_constant()
    ratio = per_seed(dataset.tuned_ratio)
    found.append(Finding.of("best stopped flow's risk over best ridge's, the worst", (1.0, bound), every_seed(ratio)))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Risk and validation loss over time; the regret against the number of validation samples, with its law."""
    figure, axes = plots.figure(1, 3, "Stopping at the least validation loss: the price of not knowing", (4.6, 3.8))
    path, regret, saved = axes[0]
    sizes, noises = np.unique(dataset.validation_samples.values), np.unique(dataset.noise.values)
    run = select(dataset, noise=float(noises[-1]), validation_samples=float(sizes[0]))
    run = run.isel(dict.fromkeys(run.diverged.dims, 0))
    run = run.sel(step=run.step > 0)
    for number in range(min(5, run.sizes["draw"])):
        label = f"{int(sizes[0])} validation samples, less noise" if not number else None
        values = run.validation.isel(draw=number) - float(run.noise) ** 2
        path.plot(run.step, values, color="C1", lw=0.8, label=label)
        path.plot(run.step[int(np.argmin(values.values))], values.min(), "o", color="C1", ms=4)
    plots.theory(path, run.step, run.risk, "risk ‖w - β‖²", linestyle="-")
    path.set(title=f"a  one run, noise {noises[-1]:g}", xlabel="step", ylabel="squared error", xscale="log")
    for number, noise in enumerate(noises[::-1]):
        runs = select(dataset, noise=float(noise))
        kept = runs.isel(seed=np.flatnonzero(runs.law.notnull().all([d for d in runs.law.dims if d != "seed"])))
        mean = lambda values: values.mean([d for d in values.dims if d not in ("seed", "validation_samples")])
        if kept.sizes["seed"] and "validation_samples" in kept.regret.dims and not number:
            order = ("seed", "validation_samples")
            plots.seeds(regret, mean(kept.regret).transpose(*order), "by validation", color="C1", marker="o", ms=3)
            plots.theory(regret, sizes, mean(kept.law).median("seed"), "law, 1/m (median)")
            regret.axhline(float(mean(kept.unstopped).median()), color="C0", label="never stopping (median)")
        if "validation_samples" in runs.saved.dims:
            rows = np.exp(mean(runs.saved)).transpose("seed", "validation_samples")
            plots.seeds(saved, rows, f"noise {noise:g}", color=f"C{number + 1}", marker="o", ms=3)
    plots.theory(saved, sizes[[0, -1]], [1, 1], "never stopping")
    regret.set(title=f"b  noise {noises[-1]:g}", xlabel="validation samples m", ylabel="risk above the best time's")
    saved.set(title="c  is it worth it?", xlabel="validation samples m", ylabel="risk over that of never stopping")
    for each in (regret, saved):
        each.set(xscale="log", yscale="log")
    for each in axes[0]:
        plots.legend(each)
    return figure


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={
        "seeds": 16,
        "noise": [0.01, 0.1, 1.0],
        "validation_samples": [16, 64, 256, 1024, 4096, 16384, 65536],
        "learning_rate": 0.2,
    },
    smoke={"seeds": 6, "noise": 1.0, "validation_samples": [16, 16384], "draws": 50},
    paper={"seeds": 200, "draws": 1000},
    control={"tilt": 2.0},
)
