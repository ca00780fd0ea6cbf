"""Descent to an interpolant shows double descent: the risk peaks where features equal samples, then falls again.

Claim: With n samples and p = γn features, descent on least squares from zero ends at X⁺y, whose risk for isotropic
Gaussian X is σ²p/(n − p − 1) for p < n − 1 and r²(1 − n/p) + σ²n/(p − n − 1) for p > n + 1, the limit of which is
σ²γ/(1 − γ) and r²(1 − 1/γ) + σ²/(γ − 1): infinite at γ = 1 and falling again. Ridge at its best strength γσ²/r² has no
peak. Where Σ is not the identity, nothing changes for p < n, and everything for p > n.

Source: Hastie, Montanari, Rosset & Tibshirani 2022, arXiv 1903.08560, on isotropic and correlated features;
Belkin, Hsu, Ma & Mandal 2019, arXiv 1812.11118, for random features of images; Dobriban & Wager 2018, arXiv 1507.03003.

Departure: n = 40 rather than 200, against formulas for this n: exact for interpolation, with the 1/n term for ridge.
How they tend to their limit is judged at p = n/2 for n = 10, 20 and 40, with 2048 draws of each seed, against the
standard error that theory gives to the mean of so many.
The p features are those of the first p columns that are not masked, so that every γ is one program. Descent is the
heavy ball with the momentum that is critical for the slowest mode, and plain gradient descent. Spiked: a tenth of the
features has eleven times the variance of the others. Digits: odd (1) against even (−1) from random cosine features,
with label noise; no formula there but for where the peak is.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from experiments.implicit_bias._double_descent import (
    NOISE,
    SHARES,
    USUAL,
    VARIANCES,
    Data,
    deviations,
    law_error,
    mean_risk,
    parts,
    problem,
    risk_curve,
    slope_score,
    spare,
)
from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import check_at_most, lift, norm, per_seed, select
from research.oracles.least_squares import minimum_l2_norm, ridge
from research.oracles.ridgeless_risk import optimal_ridge_risk, ridge_risk, ridgeless_risk
from research.statistics import Estimate, every_seed, largest_score, over_seeds

TOLERANCE = 1e-6  # of the distance to the least-squares solution
CLEAR = 0.2  # |p − n|/n from which E (risk)⁴ is finite, so that a mean of few draws may be judged by its own spread


class Observables(NamedTuple):
    risk: Float[Array, "draw"]
    weights: Float[Array, "feature"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    slowest: Float[Array, "draw"]


def simulate(
    key: Array,
    aspect_ratio: float,
    signal: float,
    strength: float = 0.0,
    learning_rate: float = 0.9,
    acceleration: float = 1.0,
    spike: float = 0.0,
    *,
    data: Data = "gaussian",
    samples: int = 40,
    largest_ratio: int = 4,
    draws: int = 8,
    repeats: int = 1,
    steps: int = 1000,
) -> Run:
    """`draws` · `repeats` descents from zero on 1/(2n) ‖Xw − y‖² + λ/2 ‖w‖² with p = aspect_ratio · samples features.

    The risk of a draw is the mean over its repeats. `strength` is λ in units of the best one, γσ²/r². `learning_rate`
    is in units of gradient descent's threshold, and `acceleration` scales the momentum, from 0 to the critical one of
    the slowest mode that the data move. `spike` 1 gives a tenth of the Gaussian features a larger variance, 0 none. Of
    the first descent weights and data are recorded. `slowest`: what theory leaves of the slowest mode at the end.
    """
    active = jnp.round(aspect_ratio * samples)
    make = lambda key: problem(key, active, signal, spike, data, samples, largest_ratio * samples)
    keys = jax.random.split(key, draws * repeats)
    by_draw = lambda values: values.reshape(draws, repeats)
    X, y = jax.vmap(lambda key: make(key)[:2])(keys)
    decay = strength * aspect_ratio * NOISE**2 / signal**2
    curvatures = jnp.linalg.eigvalsh(X @ jnp.swapaxes(X, 1, 2) / samples)
    lowest = curvatures[:, jnp.maximum(samples - active, 0).astype(int)] + decay
    rate = learning_rate * 2 / (curvatures[:, -1] + decay)
    momentum = acceleration * jnp.maximum(1 - jnp.sqrt(rate * lowest), 0.0) ** 2
    misfit = lambda w: optax.l2_loss(jnp.einsum("dnp,dp->dn", X, w), y).mean(axis=1)
    loss = lambda w: jnp.sum(misfit(w) + decay / 2 * jnp.sum(w**2, axis=1))
    optimizer = optax.sgd(rate[:, None], momentum=momentum[:, None])
    middle = 1 + momentum - rate * lowest
    root = (middle + jnp.sqrt(jnp.maximum(middle**2 - 4 * momentum, 0.0))) / 2
    risks = lambda w: jax.vmap(lambda key, w: make(key)[2](w))(keys, w)
    observe = lambda state: Observables(by_draw(risks(state.params)).mean(axis=1), state.params[0])
    state = start(jnp.zeros((draws * repeats, largest_ratio * samples)), optimizer)
    given = Given(X[0], y[0], by_draw(root**steps).max(axis=1))
    return Run(state, descent(loss, optimizer), observe, log_spaced(steps, 3), given)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The risks that theory promises, and how far the descent is from the solution by LAPACK."""
    check_at_most(dataset, "aspect_ratio", "largest_ratio")
    gamma, signal, samples, strength = dataset.aspect_ratio, dataset.signal, dataset.samples, dataset.strength
    end = dataset.sel(step=dataset.steps)
    finite, limit = (lift(ridgeless_risk, gamma, signal, NOISE, *size) for size in ((samples,), ()))
    best = lift(optimal_ridge_risk, gamma, signal, NOISE, samples)
    blocks = [xr.DataArray(list(values), dims="block") for values in (VARIANCES, SHARES)]
    decay = strength * gamma * NOISE**2 / signal**2
    solution = xr.where(
        strength == 0, lift(minimum_l2_norm, end.X, end.y), lift(ridge, end.X, end.y, decay.where(strength > 0, 1.0))
    )
    cells = xr.zeros_like(end.diverged.isel(seed=0, drop=True), dtype=float)
    return dataset.assign(
        finite=finite + cells,
        limit=limit + cells,
        best=best + cells,
        general=lift(ridge_risk, gamma, *blocks, signal, NOISE, decay) + cells,
        distance=norm(end.weights - solution) / norm(solution),
        settled=dataset.slowest.isel(draw=0) < TOLERANCE / 1000,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The exact risk, the descent, the peak, the way to the limit, the best ridge, and a covariance other than I."""
    first, spike = str(np.atleast_1d(dataset.data.values)[0]), float(np.atleast_1d(dataset.spike.values)[0])
    usual, sizes = parts(dataset)
    clear = lambda gamma: abs(gamma - 1) >= CLEAR - 1e-9
    timely = lambda runs: (runs.slowest < TOLERANCE).all(("seed", "draw"))
    cells = lambda data, strength, where=clear, spike=0.0: select(
        usual, data=data, strength=strength, aspect_ratio=where, spike=spike
    )
    found: list[Finding] = []

    def largest(what: str, runs: xr.Dataset, variable: str, fails: bool = False, law: bool = False) -> None:
        if runs.diverged.size:
            values = deviations(runs, runs[variable].where(timely(runs)), law_error(runs) if law else None)
            worst, limit = largest_score(values, np.inf if law else runs.sizes["seed"] * runs.sizes["draw"] - 1)
            said = f"{what}: largest |z| of {values.size} mean risks"
            found.append(Finding.of(said, (limit, np.inf) if fails else (0, limit), worst))

    def ordered(what: str, here: tuple[float, float], *there: tuple[float, float]) -> None:
        runs = [cells("gaussian", strength, lambda g, gamma=gamma: g == gamma) for gamma, strength in (here, *there)]
        if all(each.diverged.size for each in runs):
            risk, *others = (per_seed(mean_risk(each), "mean") for each in runs)
            found.append(Finding.of(what, (-np.inf, 0.0), over_seeds(risk - np.min(others, axis=0))))

    largest(f"{first}: exact formula for this n", cells(first, 0.0, spike=spike), "finite")
    others = [dimension for dimension in dataset.settled.dims if dimension != "seed"]
    apart = per_seed(dataset.distance.where(dataset.settled, 0.0).where(dataset.settled.any(others)))
    had = f"{int(dataset.settled.sum())} of {dataset.settled.size} runs that had time"
    what = f"relative distance of descent to LAPACK's solution, the worst of a seed's, of the {had}"
    found.append(Finding.of(what, (0.0, TOLERANCE), every_seed(apart)))
    for data in ("gaussian", "digits"):
        runs = cells(data, 0.0, lambda gamma: True)
        if len(np.unique(runs.aspect_ratio.values)) > 2 and runs.diverged.size:
            risk = risk_curve(runs, "median")
            peak = risk.aspect_ratio[risk.fillna(0).argmax("aspect_ratio")].where(risk.notnull().all("aspect_ratio"))
            what, band = f"{data}: p/n at which a seed's median risk peaks", 1 / float(np.min(runs.samples))
            found.append(Finding.of(what, (1 - band, 1 + band), every_seed(peak)))
    counts = np.unique(sizes.samples.values)
    if counts.size > 2:
        largest(f"gaussian, p = n/2, n = {counts[0]} to {counts[-1]}: exact formula", sizes, "finite", law=True)
        # The exact risk exceeds its limit by limit / (n − p − 1).
        score, uncertain = slope_score(sizes)
        worst, most = largest_score(score if timely(sizes).all() else np.nan)
        what = "gaussian, p = n/2: slope of ln(mean risk − limit) on ln(n − p − 1) against −1"
        found.append(Finding.of(f"{what}: |z|, in its standard errors of {uncertain:.2g}", (0, most), worst))
    largest("gaussian: best ridge against its closed form", cells("gaussian", 1.0, lambda gamma: True), "best")
    ordered("gaussian: best ridge, mean risk at p = n minus that at p = 2n (no peak)", (1.0, 1.0), (2.0, 1.0))
    what = "gaussian, p = n: mean risk of the best ridge minus the least at a third and three times its strength"
    ordered(what, (1.0, 1.0), (1.0, 1 / 3), (1.0, 3.0))
    below = cells("gaussian", 0.0, lambda gamma: clear(gamma) and gamma < 1, spike=1.0)
    above = cells("gaussian", 0.0, lambda gamma: clear(gamma) and gamma > 1, spike=1.0)
    largest("spiked, p < n: the isotropic formula holds", below, "finite")
    largest("spiked, p > n: the isotropic formula fails", above, "finite", fails=True)
    if above.diverged.size:
        mean = mean_risk(above).mean("seed", skipna=False)
        to = lambda variable: float(np.abs(np.log((mean / above[variable]).values)).sum())
        ratio = to("general") / to("limit")
        what = "spiked, p > n: |ln(mean risk / limit for this Σ)| over that to the isotropic limit, summed over γ"
        found.append(Finding.of(what, (0.0, 1.0), Estimate(ratio, (ratio, ratio))))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the risk and the exact formula, (b) the best ridge, (c) a spiked covariance, (d) digits, (e) larger n."""
    figure, panels = plots.figure(2, 3, "The risk peaks where features equal samples")
    (risk, best), (spiked, real) = panels[:, :2]
    for axes in panels[:, 2]:
        axes.remove()
    way = figure.add_subplot(risk.get_gridspec()[:, 2])
    usual, sizes = parts(dataset)
    samples, ratios = float(np.atleast_1d(dataset.samples)[0]), np.unique(dataset.aspect_ratio.values)
    dense = np.geomspace(ratios[0], ratios[-1], 400)
    sides = [dense[dense <= 1 - 2 / samples], dense[dense >= 1 + 2 / samples]]
    signals = np.unique(dataset.signal.values).tolist()

    def dots(axes: plots.Axes, label: str, reduce: str = "mean", color: str = "C0", **conditions: object) -> None:
        runs = select(usual, **conditions)
        if runs.diverged.size:
            curve = risk_curve(runs, reduce)
            plots.points(axes, curve.aspect_ratio, curve, color=color)
            whole = curve.mean("seed") if reduce == "mean" else curve.median("seed")
            plots.points(axes, whole.aspect_ratio, whole, label, color=color, markersize=6, alpha=1.0)

    def curves(axes: plots.Axes, formula: Callable, label: str | None, **style: object) -> None:
        for number, side in enumerate(sides):
            plots.theory(axes, side, [formula(gamma) for gamma in side], None if number else label, **style)

    for number, signal in enumerate(signals):
        exact, limit = (partial(ridgeless_risk, signal=signal, noise=NOISE, samples=n) for n in (samples, None))
        said = f"‖β‖² = {signal**2:g}σ²"
        dots(risk, said, color=f"C{number}", data="gaussian", signal=signal, strength=0.0, spike=0.0)
        curves(risk, exact, f"exact, n = {samples:g}" if number == 0 else None, linestyle="-")
        curves(risk, limit, "limit n → ∞" if number == 0 else None, linestyle=":")
    signal = signals[-1]
    dots(best, "least norm (λ = 0)", data="gaussian", signal=signal, strength=0.0, spike=0.0)
    dots(best, "best ridge, λ = γσ²/‖β‖²", color="C1", data="gaussian", signal=signal, strength=1.0)
    curves(best, exact, "theory", linestyle="-")
    plots.theory(best, dense, [optimal_ridge_risk(g, signal, NOISE, samples) for g in dense], None, linestyle="-")
    best.axhline(signal**2, color="0.5", linewidth=0.8, label="no features used")
    dots(spiked, "a tenth of the features at\n11 times the variance", data="gaussian", strength=0.0, spike=1.0)
    blocks = np.array(VARIANCES), np.array(SHARES)
    curves(spiked, lambda g: ridge_risk(g, *blocks, signal, NOISE), "limit for this Σ", linestyle="-")
    curves(spiked, limit, "limit for Σ = I", linestyle=":")
    dots(real, "odd or even, median", "median", data="digits", strength=0.0)
    if sizes.diverged.size:
        x, gap = spare(sizes), mean_risk(sizes) - sizes.limit
        plots.points(way, x, gap, "p = n/2, n from 10 to 40")
        plots.points(way, x, gap.mean("seed"), color="C0", alpha=1.0, markersize=6)
        plots.theory(way, x, sizes.finite - sizes.limit, "limit / (n − p − 1)", linestyle="-")
        plots.legend(way)
    way.set(title="e  the risk tends to its limit as 1/(n − p − 1)", xscale="log", yscale="log", xlabel="n − p − 1")
    way.set_ylabel("(risk − limit n → ∞) / σ²")
    for axes, title in (
        (risk, "a  descent to the least norm"),
        (best, f"b  the best ridge has no peak (‖β‖² = {signal**2:g}σ²)"),
        (spiked, "c  Σ ≠ I: another formula beyond p = n"),
        (real, "d  random features of digits"),
    ):
        axes.axvline(1, color="black", linestyle="--", linewidth=1.2, label="p = n" if axes is real else None)
        axes.set(title=title, xscale="log", yscale="log", xlabel="features / samples, γ = p/n", ylabel="risk / σ²")
        axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.set_xticks([], minor=True)
        plots.legend(axes)
    real.set_ylabel("squared error on 200 others / σ²")
    return figure


REPEATS = 256  # of each draw where sizes are compared: enough for n = 10, see `law_error`
TICKS = (0.25, 0.5, 1.0, 2.0, 4.0)
RATIOS = (0.25, 0.5, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0, 3.0, 4.0)
LARGE = 5**0.5
AXES = (
    *("data", "aspect_ratio", "signal", "strength", "learning_rate", "acceleration", "spike"),
    *("samples", "largest_ratio", "repeats", "steps"),
)
CASES = [
    *(
        ("gaussian", gamma, signal, strength, USUAL, 1.0, 0.0)
        for strength in (0.0, 1.0)
        for signal in (1.0, LARGE)
        for gamma in RATIOS
    ),
    *(("gaussian", 1.0, LARGE, strength, USUAL, 1.0, 0.0) for strength in (1 / 3, 3.0)),
    *(
        ("gaussian", gamma, LARGE, 0.0, rate, momentum, 0.0)
        for gamma in (0.5, 2.0)
        for rate, momentum in ((0.3, 1.0), (0.3, 0.0), (0.9, 0.0))
    ),
    *(("gaussian", gamma, LARGE, 0.0, USUAL, 1.0, 1.0) for gamma in RATIOS),
    *(("digits", gamma, LARGE, 0.0, USUAL, 1.0, 0.0) for gamma in RATIOS),
]
SIZES = [("gaussian", 0.5, 1.0, 0.0, USUAL, 1.0, 0.0, n, 1, REPEATS, 6000 // n) for n in (10, 20, 40)]
ARMS = [(*case, 40, 4, 1, 1000) for case in CASES]
SMALL = (0.5, 0.8, 1.0, 2.0)
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS + SIZES},
    smoke={"seeds": 3, AXES: [arm for arm in ARMS if arm[1] in SMALL and arm[0] != "digits"]},
    paper={"seeds": 64, AXES: [(*case, 200, 4, 1, 10_000) for case in CASES] + SIZES},
    control={AXES: [arm for arm in ARMS if arm[6] and arm[1] in SMALL]},
)
