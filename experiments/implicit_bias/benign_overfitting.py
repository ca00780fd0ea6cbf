"""Interpolating noise can be harmless, costly or ruinous: the spectrum of the inputs decides.

Claim: The interpolant of least norm has an excess risk of the order of k*/n + n/R_{k*} in units of the noise variance;
k* directions are those that n samples can estimate, R_{k*} is the effective rank of the rest. It tends to 0 (benign)
where a few directions carry the signal, and weak ones, ever more of them but ever weaker together, absorb the noise. It
tends to a constant (tempered) where the eigenvalues fall like k^−α, namely α − 1, or where the weak directions are only
proportional to n, and grows like n (catastrophic), as n/τ − 1, where they fall like exp(−k/τ).

Source: Bartlett, Long, Lugosi & Tsigler 2020, arXiv 1906.11300 (effective ranks, bounds up to constants, and benign:
λ_k = exp(−k/τ) + ε with pε = o(n) and p/n → ∞); Mallinar, Simon et al. 2022, arXiv 2207.06569 (the three regimes, the
limit α). The risk, constants included, and n/τ are those of research/oracles/benign.py.

Departure: Bartlett et al. prove bounds, Mallinar et al. show kernels and networks; here inputs are Gaussian, the signal
is the first eigenvector, and the interpolant is the end of a descent from zero (heavy ball). An exponential spectrum is
too badly conditioned for that beyond few samples: there the risk judged is that of LAPACK's interpolant on the same
inputs. What the descent shows there is the other side: stopped long before it has fitted the noise, it does better.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select, table
from research.oracles.benign import conditional_risk, interpolation_risk, split
from research.statistics import every_seed, over_seeds, slope

NOISE = 1.0
CONDITION = 1e-5  # the least ratio of curvatures that the momentum takes into account
TOLERANCE = 1e-6  # of the risk, where theory leaves less than a thousandth of that of the slowest mode


class Observables(NamedTuple):
    risk: Float[Array, ""]
    residual: Float[Array, ""]


class Given(NamedTuple):
    eigenvalues: Float[Array, "feature"]
    gram: Float[Array, "sample other"]
    weighted_gram: Float[Array, "sample other"]
    y: Float[Array, "sample draw"]
    first: Float[Array, "sample"]
    slowest: Float[Array, ""]


def simulate(
    key: Array,
    samples: float,
    power: float = 0.0,
    decay: float = 0.0,
    tail: float = 0.0,
    multiple: float = 2.0,
    growth: float = 1.0,
    *,
    most_samples: int = 64,
    most_features: int = 1024,
    draws: int = 8,
    steps: int = 1000,
) -> Run:
    """Descents from zero on 1/(2n) ‖Xw − y‖² with one X and `draws` draws of noise, y = x_1 + N(0, 1).

    λ_k = k^−power exp(−decay (k − 1)) + tail · √n/p for k up to p = multiple · n^growth, and the first is brought to 1.
    The step is the inverse of the largest curvature, the momentum critical for the smallest. `risk`: mean of draws;
    `slowest` what theory leaves of the slowest mode at the end. Beyond n and p arrays are NaN.
    """
    features = jnp.round(multiple * samples**growth)
    k, row = jnp.arange(1, most_features + 1), jnp.arange(most_samples) < samples
    values = k**-power * jnp.exp(-decay * (k - 1.0)) + tail * samples**0.5 / features
    values = jnp.where(k <= features, values, 0.0) / values[0]
    normal = jax.random.normal(key, (most_samples, most_features + draws))
    X = jnp.where(row[:, None], normal[:, :most_features] * jnp.sqrt(values)[None, :], 0.0)
    y = jnp.where(row[:, None], X[:, :1] + NOISE * normal[:, most_features:], 0.0)
    gram, weighted = X @ X.T, (X * values[None, :]) @ X.T
    curvatures = jnp.linalg.eigvalsh(gram / samples + jnp.diag(jnp.where(row, 0.0, -1.0)))
    largest, least = curvatures[-1], curvatures[jnp.round(most_samples - samples).astype(int)]
    momentum = (1 - jnp.sqrt(jnp.maximum(least / largest, CONDITION))) ** 2
    optimizer = optax.sgd(1 / largest, momentum=momentum)
    loss = lambda w: optax.l2_loss(X @ w - y).sum() / samples
    residual = lambda state: jnp.linalg.norm(X @ state.params - y) / jnp.linalg.norm(y)
    planted = jnp.zeros((most_features, 1)).at[0].set(1.0)
    risk = lambda w: jnp.sum(values[:, None] * (w - planted) ** 2) / draws
    observe = lambda state: Observables(risk(state.params), residual(state))
    blank = lambda array, kept: jnp.where(kept, array, jnp.nan)
    square = row[:, None] & row[None, :]
    given = Given(
        blank(values, k <= features),
        blank(gram, square),
        blank(weighted, square),
        blank(y, row[:, None]),
        blank(X[:, 0], row),
        momentum ** (steps / 2) * steps,
    )
    return Run(
        start(jnp.zeros((most_features, draws)), optimizer),
        descent(loss, optimizer),
        observe,
        log_spaced(steps, 25),
        given,
        stop=lambda state: residual(state) < 1e-12,
    )


def interpolant_risk(
    gram: Float[np.ndarray, "sample other"],
    weighted: Float[np.ndarray, "sample other"],
    y: Float[np.ndarray, "sample draw"],
    first: Float[np.ndarray, "sample"],
) -> float:
    """Return the excess risk of Xᵀ(X Xᵀ)⁻¹y, mean of the draws: aᵀSa − 2 first·a + 1 for each a = (X Xᵀ)⁻¹y."""
    a = np.linalg.solve(gram, y)
    return float(np.mean(np.sum(a * (weighted @ a), axis=0) - 2 * first @ a + 1))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The risk by theory, that on the given inputs, that of LAPACK's interpolant, and k*/n + n/R_{k*}."""
    values, samples = dataset.eigenvalues, dataset.samples
    planted = values.where(values.isnull(), 0.0) + xr.DataArray(np.eye(1, values.sizes["feature"])[0], dims="feature")
    theory = lift(interpolation_risk, values, planted, samples, NOISE)
    given = lift(conditional_risk, dataset.gram, dataset.weighted_gram, dataset.first, 1.0, NOISE)
    exact = lift(interpolant_risk, dataset.gram, dataset.weighted_gram, dataset.y, dataset.first)
    parts = lift(split, values, samples)
    end = dataset.risk.sel(step=dataset.steps)
    return dataset.assign(
        theory=theory.bias + theory.variance,
        foreseen_variance=theory.variance,
        variance=given.variance,
        excess=given.bias + given.variance,
        averaged=end / exact * (given.bias + given.variance),
        rested=end.where(dataset.slowest < TOLERANCE / 1000),
        off=abs(end / exact - 1),
        settled=dataset.slowest < TOLERANCE / 1000,
        estimated=parts.estimated,
        cost=parts.cost,
    )


REGIMES = {  # power, decay, tail, multiple, growth
    "benign": (0.0, 1.0, 1.0, 2.0, 1.5),
    "tempered, k^−2": (2.0, 0.0, 0.0, 16.0, 1.0),
    "tempered, p = 4n": (0.0, 1.0, 1.0, 4.0, 1.0),
    "catastrophic": (0.0, 0.25, 0.0, 3.0, 1.0),
}
NAMES = ("power", "decay", "tail", "multiple", "growth")


def _regime(dataset: xr.Dataset, name: str) -> xr.Dataset:
    return select(dataset, **dict(zip(NAMES, REGIMES[name], strict=True)))


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The risk of the first regime by descent and by theory, how each changes with n, the bound, and the descent."""
    found: list[Finding] = []
    names = [name for name in REGIMES if _regime(dataset, name).diverged.size]
    sizes = np.unique(dataset.samples.values)
    large = sizes[sizes >= 16]

    def add(what: str, band: tuple[float, float], values: np.ndarray, every: bool = False) -> None:
        found.append(Finding.of(what, band, (every_seed if every else over_seeds)(values)))

    if names and large.size:
        runs = select(_regime(dataset, names[0]), samples=large.tolist())
        what = f"{names[0]}: excess risk of the descent over theory, mean of n from {large[0]:g} to {large[-1]:g}"
        # Theory is right up to O(1/n). The noise of y is averaged over: LAPACK's risk is known for it and on average.
        add(what, (0.9, 1.1), per_seed(runs.averaged / runs.theory, "mean"))
    for name in names:
        runs = _regime(dataset, name)
        last = select(runs, samples=float(sizes[-1]))
        what = f"{name}: excess risk on the given inputs over theory at n = {sizes[-1]:g}"
        if not name.startswith("cata"):
            add(what, (0.9, 1.1), per_seed(last.excess / last.theory, "mean"))
        if large.size < 2:
            continue
        rows = {
            each: table(runs, each, "samples").sel(samples=large) for each in ("excess", "variance", "cost", "theory")
        }
        trend = lambda values: slope(np.log(large), np.log(values.values))
        if name == "benign":
            # n/R falls as n^(1 − 3/2), and k*/n and the bias, of the order of κ² = 1/n, as 1/n at most.
            add("benign: slope of ln(excess risk) on ln n", (-1.0, -0.5), trend(rows["excess"]))
        elif name == "catastrophic":
            add("catastrophic: slope of ln(1 + excess risk) on ln n", (0.9, 1.1), trend(1 + rows["excess"]))
        else:
            own = float(trend(rows["theory"])[0])
            what = f"{name}: slope of ln(excess risk) on ln n, over theory's {own:.2f}, which vanishes for n → ∞"
            add(what, (-0.1, 0.1), trend(rows["excess"]) - own)
        if name == "benign" or name.endswith("4n"):
            what = f"{name}: slope of ln(variance/(k*/n + n/R)) on ln n"
            add(what, (-0.2, 0.2), trend(rows["variance"] / rows["cost"]))
    had = dataset.settled & (dataset.residual.sel(step=dataset.steps) < 1e-9)
    others = [each for each in had.dims if each != "seed"]
    off = dataset.off.where(dataset.settled, 0.0).where(had.any(others))
    add(
        "relative distance of the descent's risk to that of LAPACK's interpolant, where it had time",
        (0.0, TOLERANCE),
        per_seed(off),
        True,
    )
    if "catastrophic" in names:
        last = select(_regime(dataset, "catastrophic"), samples=float(sizes[-1]))
        # Zero weights have the excess risk 1: a descent that does nothing is not to pass for one that stops early.
        best = per_seed(last.risk.sel(step=slice(1, None)).min("step") / last.excess.clip(max=1.0), "mean")
        what = f"catastrophic, n = {sizes[-1]:g}: ln(least excess risk on the descent's way / the lesser of"
        add(f"{what} the interpolant's and 1, that of zero weights)", (-np.inf, 0.0), np.log(best), True)
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) spectra, (b) the risk against n, (c) the risk on the way of the descent."""
    figure, panels = plots.figure(1, 3, "Benign, tempered, catastrophic: what interpolating noise costs")
    spectra, risks, course = panels[0]
    sizes = np.unique(dataset.samples.values)
    shown = [name for name in REGIMES if _regime(dataset, name).diverged.size]
    for number, name in enumerate(shown):
        runs, style = _regime(dataset, name), {"color": f"C{number}"}
        last = select(runs, samples=float(sizes[-1]))
        last = last.squeeze([each for each in last.diverged.dims if each != "seed"])
        values = last.eigenvalues.isel(seed=0).values if "seed" in last.eigenvalues.dims else last.eigenvalues.values
        spectra.plot(np.arange(1, values.size + 1), values, label=name, **style)
        curve, end = (table(runs, each, "samples") for each in ("excess", "rested"))
        plots.seeds(risks, curve, name, **style)
        plots.points(
            risks,
            end.samples,
            end.mean("seed"),
            "descent, mean of seeds" if number == 0 else None,
            marker="o",
            markersize=5,
            alpha=1.0,
            **style,
        )
        theory = table(runs, "theory", "samples")
        plots.theory(risks, theory.samples, theory[0], None if number else "theory")
        way = last.risk.sel(step=(last.step > 0))
        plots.seeds(course, way.where(way.step <= last.steps), name, **style)
        course.axhline(
            float(last.theory.max()),
            color="black",
            linestyle="--",
            linewidth=1.0,
            label=None if number else "theory",
        )
    spectra.axvline(float(sizes[-1]), color="black", linewidth=0.8, label=f"n = {sizes[-1]:g}")
    spectra.set(title=f"a  the spectra at n = {sizes[-1]:g}", xlabel="k", ylabel="eigenvalue λ_k", ylim=(1e-7, 2))
    risks.set(title="b  the price against n", xlabel="samples n", ylabel="excess risk / noise variance")
    course.set(title=f"c  on the way, n = {sizes[-1]:g}", xlabel="step", ylabel="excess risk / noise variance")
    for axes in panels[0]:
        axes.set(xscale="log", yscale="log")
        plots.legend(axes)
    return figure


AXES = (*NAMES, "samples")
SAMPLES = (8.0, 16.0, 24.0, 32.0, 48.0, 64.0)
arms = lambda names, sizes: [(*REGIMES[name], n) for name in names for n in sizes]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 32, AXES: arms(REGIMES, SAMPLES)},
    smoke={"seeds": 6, "steps": 200, AXES: arms(REGIMES, (32.0, 64.0))},
    paper={
        "seeds": 64,
        "most_samples": 256,
        "most_features": 8192,
        "steps": 5000,
        AXES: arms(REGIMES, (*SAMPLES, 128.0, 256.0)),
    },
    control={"steps": 4},
)
