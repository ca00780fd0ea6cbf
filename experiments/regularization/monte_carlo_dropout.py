"""Monte Carlo dropout samples from a distribution whose width the data do not narrow: a posterior it is not, by itself.

Claim: A linear model trained with dropout at rate p minimises RSS + p/(1 − p)·Σ ‖x_j‖² w_j², and dropout left on at
prediction has exactly the mean of the model without and the variance p/(1 − p)·Σ x_j² w_j². As n grows the weights
settle, and so does this variance, at what p says, where the posterior's falls as 1/n; the noise of the data, to which
the posterior's is proportional, it does not see. Coverage of its 95 % band is what p makes it. Tuned to the data,
p/(1 − p) = noise²/(n·prior variance), its variance falls as 1/n as well.

Source: Gal & Ghahramani 2016, Dropout as a Bayesian approximation, arXiv 1506.02142; the objection: Osband 2016, Risk
versus uncertainty in deep learning (NIPS workshop on Bayesian deep learning); RSS: Srivastava et al. 2014, JMLR 15,
section 9.1; the posterior: Rasmussen & Williams 2006, Gaussian processes for machine learning, section 2.1.

Departure: Descent goes along the mean over masks (where stochastic descent ends is another claim, in dropout). Eight
cosines of points in [-1, 1], targets drawn from the prior that the posterior takes, so that its coverage is 95 % by
construction. The variance is that of the function; Gal & Ghahramani add a constant 1/τ, the noise of a measurement.
That noise at prediction makes a model better, or less dependent on dropout, as it is often described, is a finding
here, refuted: it changes no mean, and a pass only adds its variance to the error; what it gives is samples. With many
points w = (1 − p) w*, so that a prediction errs by p·x·w* and the masks' standard deviation is that of p(1 − p) Σ x_j²
w*_j²: coverage depends on p alone. Below p = .32 the band covers always (Cauchy & Schwarz: 1.96 √((1 − p)/p) >= √8),
and that it holds its 95 % near p = 1/2 is a coincidence. Tuned to n it covers 89 %, for all that its variance is right
in the mean: Σ x_j² w_j² of the one function stands where the posterior has the mean over functions.

Bands: Passes are judged at fixed p: tuned to n it is so small that few masks drop anything. z of a sample variance is
skewed as a χ² of T − 1, by √(8/T) (Cornish & Fisher: bound z + (z² − 1)·√(8/T)/6). Coverage: three binomial standard
errors with one place counted for each function. Slopes: a tenth, as the posterior's variance is off its limit by up to
about 1 + 15/n, 15 the largest Σ x_j², and ln(1 + 15/64)/ln(1024/64) = 0.08.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from scipy.special import ndtri

from research import plots
from research.dynamics import Run, descent, start
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select, table
from research.oracles.monte_carlo_dropout import function_posterior, pass_variance, variance_error
from research.statistics import every_seed, over_seeds, slope

PRIOR = 1 / 8  # variance of a weight
CHANCE = 0.0027  # of three standard errors, shared among all that are looked at


class Observables(NamedTuple):
    weights: Float[Array, "feature function"]
    pass_mean: Float[Array, "place function"]
    sampled: Float[Array, "place function"]
    loss_score: Float[Array, ""]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample function"]
    places: Float[Array, "place feature"]
    truth: Float[Array, "place function"]
    rate: Float[Array, ""]


def cosines(x: Array, features: int) -> Array:
    """The first functions of the cosine series on [-1, 1], of mean square 1 there."""
    waves = jnp.arange(features)
    return jnp.cos(jnp.pi / 2 * waves[None, :] * (x[:, None] + 1)) * jnp.where(waves > 0, 2**0.5, 1.0)[None, :]


def simulate(
    key: Array,
    samples: float,
    drop_rate: float,
    tuned: float = 0.0,
    noise: float = 0.3,
    left_on: float = 1.0,
    *,
    most: int = 1024,
    functions: int = 64,
    passes: int = 2000,
    steps: int = 3000,
) -> Run:
    """Descent from zero on RSS/(2n) averaged over masks, for each of `functions` targets, and passes with dropout.

    The first `samples` of `most` points are seen. `drop_rate` is p; with `tuned` 1 it is
    noise²/(noise² + n·PRIOR). At prediction the rate is p·`left_on`. A pass has one mask for all places.
    """
    normal_key, uniform_key = jax.random.split(key)
    normal = jax.random.normal(normal_key, (8 + most, functions))  # of all that is normal, compiled once
    uniform = jax.random.uniform(uniform_key, (most + 8 * passes,))
    x = 2 * uniform[:most] - 1
    seen = jnp.arange(most) < samples
    X, places = cosines(x, 8), cosines(jnp.linspace(-1, 1, 41), 8)
    planted = PRIOR**0.5 * normal[:8]
    y = X @ planted + noise * normal[8:]
    p = jnp.where(tuned > 0, noise**2 / (noise**2 + samples * PRIOR), drop_rate)
    gram = (X * seen[:, None]).T @ X / samples
    moments = (X * seen[:, None]).T @ y / samples
    squares = jnp.diag(gram)
    expected = gram + p / (1 - p) * jnp.diag(squares)
    loss = lambda w: jnp.sum(w * (expected @ w)) / 2 - jnp.sum(moments * w)
    optimizer = optax.sgd(1 / jnp.max(jnp.sum(jnp.abs(expected), axis=1)))
    keep = 1 - p * left_on
    masks = (uniform[most:].reshape(passes, 8) < keep) / keep

    def observe(state: tuple) -> Observables:
        w = state[0]
        outputs = jnp.einsum("xj,tj,jf->txf", places, masks, w)
        # the mean loss of each pass, and of theory, less that of y alone; of the first function
        first, target = masks * w[None, :, 0], moments[:, 0]
        losses = jnp.einsum("tj,jk,tk->t", first, gram, first) - 2 * first @ target
        theory = w[:, 0] @ gram @ w[:, 0] - 2 * w[:, 0] @ target + p / (1 - p) * squares @ w[:, 0] ** 2
        return Observables(
            weights=w,
            pass_mean=outputs.mean(axis=0),
            sampled=outputs.var(axis=0, ddof=1),
            loss_score=(losses.mean() - theory) / losses.std(ddof=1) * passes**0.5,
        )

    given = Given(
        jnp.where(seen[:, None], X, jnp.nan), jnp.where(seen[:, None], y, jnp.nan), places, places @ planted, p
    )
    return Run(start(jnp.zeros_like(planted), optimizer), descent(loss, optimizer), observe, np.array([steps]), given)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The variance of passes and its error, the posterior, and coverage of both bands by place and function."""
    end = dataset.isel(step=-1)
    w, places = end.weights, end.places
    variance = lift(pass_variance, places, w, end.rate)
    error = lift(variance_error, places, w, end.rate, end.passes)
    posterior = lift(function_posterior, end.X, end.y, places, end.noise, PRIOR)
    mean = xr.dot(places, w, dim="feature")
    within = lambda center, square: (abs(end.truth - center) <= -ndtri(0.025) * square**0.5).where(square.notnull())
    missed = lambda outputs: ((outputs - end.truth) ** 2).mean(("place", "function"))
    looked = {"place": [0, 10, 20, 30, 40], "function": 0}
    return dataset.assign(
        expected=variance,
        variance_score=abs((end.sampled - variance) / error).isel(looked).max("place", skipna=False),
        mean_score=abs((end.pass_mean - mean) / (variance / end.passes) ** 0.5).isel(looked).max("place", skipna=False),
        dropout_mean=mean,
        dropout_variance=variance.mean(("place", "function")),
        posterior_mean=posterior["mean"],
        posterior_variance_at=posterior.variance,
        posterior_variance=posterior.variance.mean(("place", "function")),
        dropout_coverage=within(mean, variance).mean(("place", "function")),
        posterior_coverage=within(posterior["mean"], posterior.variance).mean(("place", "function")),
        worse=np.log((missed(end.pass_mean) + end.sampled.mean(("place", "function"))) / missed(mean)),
    )


def falling(runs: xr.Dataset, variable: str) -> np.ndarray:
    """The slope of ln(variable) on ln(n) from n = 64 on, of every seed."""
    values = table(runs, variable, "samples")
    values = values.isel(samples=values.samples.values >= 64)
    return slope(np.log(values.samples.values), np.log(values.values)) if values.sizes["samples"] > 1 else np.array([])


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Mean, variance and loss of the passes; the variance against n and noise; coverage; what passes do to errors."""
    found: list[Finding] = []
    judged = select(dataset, tuned=0.0)
    judged = judged if judged.diverged.size else dataset
    runs_seen = judged.diverged.size
    bound = lambda looks: float(-ndtri(CHANCE / 2 / (looks * runs_seen)))
    skewed = bound(5) + (bound(5) ** 2 - 1) * (8 / float(judged.passes.min())) ** 0.5 / 6
    what = f"{int(judged.passes.min())} passes: |z| of their variance against p/(1 − p)·Σ x_j² w_j², largest of"
    found.append(Finding.of(f"{what} {5 * runs_seen}", (0.0, skewed), every_seed(per_seed(judged.variance_score))))
    what = f"passes: |z| of their mean against the model without dropout, largest of {5 * runs_seen}"
    found.append(Finding.of(what, (0.0, bound(5)), every_seed(per_seed(judged.mean_score))))
    what = f"passes: |z| of their loss against RSS + p/(1 − p)·Σ‖x_j‖² w_j², largest of {runs_seen}"
    found.append(Finding.of(what, (0.0, bound(1)), every_seed(per_seed(abs(judged.loss_score)))))
    noise = float(np.atleast_1d(dataset.noise.values).min())
    fixed, tuned = (select(dataset, tuned=each, noise=noise) for each in (0.0, 1.0))
    for runs, label, expected in ((fixed, "dropout, p fixed", 0.0), (tuned, "dropout, p tuned to n", -1.0)):
        rates = np.unique(runs.drop_rate.values).tolist() if runs.diverged.size else []
        for drop in rates:
            change = falling(select(runs, drop_rate=drop), "dropout_variance")
            if change.size:
                what = f"{label}{f' at {drop:g}' if not expected else ''}: slope of ln(variance) on ln n, n >= 64"
                found.append(Finding.of(what, (expected - 0.1, expected + 0.1), over_seeds(change)))
    if fixed.diverged.size:
        change = falling(fixed, "posterior_variance")
        if change.size:
            what = "posterior: slope of ln(variance) on ln n, n >= 64"
            found.append(Finding.of(what, (-1.1, -0.9), over_seeds(change)))
    return found + _noise(dataset) + _coverage(fixed, tuned)


def _noise(dataset: xr.Dataset) -> list[Finding]:
    """What more noise in the data does to both variances, at the most points for which it was looked at."""
    found = []
    louder = select(dataset, tuned=0.0, noise=float(np.max(dataset.noise.values)))
    if louder.diverged.size and float(np.min(dataset.noise.values)) < float(np.max(dataset.noise.values)):
        samples, drop = float(louder.samples.max()), float(louder.drop_rate.max())
        both = table(select(dataset, tuned=0.0, samples=samples, drop_rate=drop), "posterior_variance", "noise")
        same = table(select(dataset, tuned=0.0, samples=samples, drop_rate=drop), "dropout_variance", "noise")
        for name, values, expected in (("posterior", both, 2.0), ("dropout, p fixed", same, 0.0)):
            change = slope(np.log(values.noise.values), np.log(values.values))
            what = f"{name}: slope of ln(variance) on ln(noise of the data), n = {samples:g}"
            found.append(Finding.of(what, (expected - 0.1, expected + 0.1), over_seeds(change)))
    return found


def _coverage(fixed: xr.Dataset, tuned: xr.Dataset) -> list[Finding]:
    """Coverage of the 95 % bands of the function, and the error of a pass against that of the model without dropout."""
    found: list[Finding] = []
    if not fixed.diverged.size:
        return found
    functions = fixed.sizes["seed"] * int(fixed.functions.max())
    allowed = 3 * (0.95 * 0.05 / functions) ** 0.5
    band, last = (0.95 - allowed, 0.95 + allowed), float(fixed.samples.max())

    def add(what: str, runs: xr.Dataset, variable: str) -> None:
        values = per_seed(select(runs, samples=last)[variable], "mean")
        if values.size:
            found.append(Finding.of(f"coverage of the 95 % band, n = {last:g}: {what}", band, over_seeds(values)))

    add("posterior", fixed, "posterior_coverage")
    for drop in np.unique(fixed.drop_rate.values).tolist():
        add(f"dropout, p = {drop:g}", select(fixed, drop_rate=drop), "dropout_coverage")
    add("dropout, p tuned to n", tuned, "dropout_coverage")
    what = "textbook: noise at prediction makes it better, ln(square error of a pass over that without), p fixed"
    found.append(Finding.of(what, (-np.inf, 0.0), over_seeds(per_seed(fixed.worse, "mean"))))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a, b) bands of one function with few points and with many, (c) variance against n, (d) coverage against n."""
    figure, ((few_points, many), (variance, coverage)) = plots.figure(
        2, 2, "Monte Carlo dropout: a width that the data do not narrow"
    )
    noise = float(np.min(dataset.noise.values))
    fixed, tuned = (select(dataset, tuned=each, noise=noise) for each in (0.0, 1.0))
    rates = np.unique(fixed.drop_rate.values).tolist() if fixed.diverged.size else []
    numbers = np.unique(fixed.samples.values).tolist() if rates else []
    x = np.linspace(-1, 1, dataset.sizes["place"])
    half = -ndtri(0.025)
    for letter, panel, samples in (("a", few_points, numbers[:1]), ("b", many, numbers[-1:])):
        if not rates:
            continue
        one = select(fixed, samples=samples, drop_rate=rates[0])
        one = one.isel(dict.fromkeys(one.diverged.dims, 0)).isel(function=0, step=-1)
        for color, label, center, square in (
            ("C1", f"dropout, p = {rates[0]:g}", one.dropout_mean, one.expected),
            ("C0", "posterior", one.posterior_mean, one.posterior_variance_at),
        ):
            width = half * square.values**0.5
            panel.fill_between(x, center - width, center + width, color=color, alpha=0.3, label=f"{label}, 95 %")
            panel.plot(x, center, color=color)
        low, high = float(one.truth.min()) - 1.5, float(one.truth.max()) + 2.5
        points = 2 / np.pi * np.arccos(np.clip(one.X.values[:, 1] / 2**0.5, -1, 1)) - 1
        panel.plot(points, one.y.values, ".", color="0.4", ms=2 if samples[0] > 100 else 6, zorder=1)
        plots.theory(panel, x, one.truth, "the function")
        panel.set(title=f"{letter}  {samples[0]:g} points", xlabel="x", ylabel="f(x)", ylim=(low, high))
    for number, (label, runs) in enumerate(
        [*((f"dropout, p = {each:g}", select(fixed, drop_rate=each)) for each in rates), ("dropout, p tuned", tuned)]
    ):
        if runs.diverged.size:
            style = {"color": f"C{number + 1}", "marker": "o", "ms": 3}
            sampled = runs.assign(sampled_variance=runs.sampled.isel(step=-1).mean(("place", "function")))
            shown, source = ("dropout_variance", "") if label.endswith("tuned") else ("sampled_variance", ", passes")
            plots.seeds(variance, table(sampled, shown, "samples"), label + source, **style)
            theory = table(runs, "dropout_variance", "samples").median("seed")
            plots.theory(variance, theory.samples, theory, None if number else "p/(1 − p)·Σ x_j² w_j²")
            plots.seeds(coverage, table(runs, "dropout_coverage", "samples"), label, **style)
    if rates:
        exact = select(fixed, drop_rate=rates[0])
        theory = table(exact, "posterior_variance", "samples").median("seed")
        plots.theory(variance, theory.samples, theory, "posterior", linestyle="-")
        plots.seeds(coverage, table(exact, "posterior_coverage", "samples"), "posterior", color="C0", marker="o", ms=3)
    coverage.axhline(0.95, color="black", linestyle="--", linewidth=1.2, label="95 %")
    variance.set(title="c  variance", xlabel="points n", ylabel="mean variance of f", xscale="log", yscale="log")
    coverage.set(title="d  coverage of the 95 % band", xlabel="points n", ylabel="share of f covered", xscale="log")
    coverage.set_ylim(0, 1.05)
    for panel in (few_points, many, variance, coverage):
        plots.legend(panel)
    return figure


AXES = ("drop_rate", "tuned", "noise", "samples")
grid = lambda rates, samples: [
    *[(rate, 0.0, 0.3, each) for rate in rates for each in samples],
    *[(0.0, 1.0, 0.3, each) for each in samples],
    *[(rates[-1], 0.0, noise, samples[-1]) for noise in (0.6,)],
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: grid((0.2, 0.5, 0.8), (16.0, 64.0, 256.0, 1024.0))},
    smoke={"seeds": 3, AXES: grid((0.2,), (16.0, 64.0, 256.0)), "most": 256, "functions": 8, "passes": 500},
    paper={"seeds": 64, "functions": 64, "passes": 10_000, "steps": 20_000},
    control={"left_on": 0.5},
)
