"""The strength of L2: where it is best is a closed form, and how much hangs on it depends on how much data there is.

Claim: Over weights β with the norm r on average and noise σ the risk of ridge is squared bias plus variance, a sum over
the eigenvalues of XᵀX/n, and least at λ* = σ²d/(n r²) for any X: the noise of the weights over their size. With as many
features as samples that choice "decides life or death": without a penalty the risk is many times the least one. With
five samples a feature it decides little: any strength up to about λ* does. In both the least risk is flat: a strength
that is off by a factor of two costs 4 to 8 percent; one of four, 25 to 50.

Source: Hoerl & Kennard 1970, Ridge regression: biased estimation for nonorthogonal problems; Hastie, Tibshirani &
Friedman 2009, The Elements of Statistical Learning, section 3.4.1 (ridge as the mean of a posterior); risk for Gaussian
inputs: Dobriban & Wager 2018, arXiv 1507.03003.

Departure: The rule needs r and σ, which are known here. It is best on average over β and noise, for each X; single
draws have a best strength of their own, from 0 to infinity. Descent is Nesterov's method, with the momentum for a
curvature of λ, on all draws at once. Strengths are in units of λ*, and doubled from one to the next.

Bands: The mean over draws errs by its standard deviation over their root; the largest of all |z| is compared with the
quantile of Student's law that all stay below with probability 95 % (Bonferroni). "Decides" and "decides little" are the
closed form's own ratio of two risks, at the strengths that it names, mean over X, within five standard errors. All
strengths see the same draws: the error of a ratio a/b is that of the mean of their paired difference, a − b·E[a]/E[b].
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
from research.labels import lift, select, table
from research.oracles.ridge_path import best_strength, path_risk
from research.statistics import every_seed, largest_score, over_seeds

SIGNAL, NOISE = 1.0, 0.5
SETTLED = 1e-6  # the gradient over the penalty, a bound on the error of a weight
NEAR = 2.0  # a factor around the best strength


class Observables(NamedTuple):
    risk: Float[Array, "draw"]
    training: Float[Array, "draw"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    penalty: Float[Array, ""]


def simulate(
    key: Array,
    strength: float,
    hidden_noise: float = 1.0,
    *,
    features: int = 20,
    samples: int = 20,
    draws: int = 60,
    steps: int = 2000,
) -> Run:
    """Descent from zero on 1/(2n)‖Xw − y‖² + λ/2 ‖w‖² with λ = strength · σ²d/(n r²), for many draws of β and noise.

    X is Gaussian and one a seed. `risk` is ‖w − β‖² of each draw, `training` the mean squared residual. The noise is
    `hidden_noise` times what theory is told.
    """
    input_key, weight_key, noise_key = jax.random.split(key, 3)
    X = jax.random.normal(input_key, (samples, features))
    beta = SIGNAL * jax.random.normal(weight_key, (features, draws)) / features**0.5
    y = X @ beta + hidden_noise * NOISE * jax.random.normal(noise_key, (samples, draws))
    penalty = strength * NOISE**2 * features / (samples * SIGNAL**2)
    gram, target = X.T @ X / samples, X.T @ y / samples
    loss = lambda w: jnp.sum(w * (gram @ w) / 2 - target * w) + penalty / 2 * jnp.sum(w**2)
    top = jnp.sqrt(jnp.sum(gram**2)) + penalty
    root = jnp.sqrt(penalty / top)
    optimizer = optax.sgd(1 / top, momentum=(1 - root) / (1 + root), nesterov=True)
    settled = lambda state: jnp.max(jnp.abs(jax.grad(loss)(state.params))) < SETTLED * penalty
    square = lambda apart: jnp.mean(apart**2, axis=0)
    observe = lambda state: Observables(features * square(state.params - beta), square(X @ state.params - y))
    state = start(jnp.zeros((features, draws)), optimizer)
    return Run(
        state, descent(loss, optimizer), observe, log_spaced(steps, 12), Given(X, jnp.asarray(penalty)), stop=settled
    )


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The risk in closed form and the strength at which it is least, and how far the means are from it."""
    end = dataset.sel(step=dataset.steps)
    exact = lift(path_risk, dataset.X, dataset.penalty, xr.DataArray(SIGNAL), xr.DataArray(NOISE))
    best = lift(best_strength, dataset.features, dataset.samples, xr.DataArray(SIGNAL), xr.DataArray(NOISE))
    expected, error = exact.bias + exact.variance, end.risk.std("draw", ddof=1) / end.sizes["draw"] ** 0.5
    return dataset.assign(
        bias=exact.bias,
        variance=exact.variance,
        expected=expected,
        relative=dataset.penalty / best,
        mean_risk=end.risk.mean("draw"),
        mean_training=end.training.mean("draw"),
        score=(end.risk.mean("draw") - expected) / error,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The risk in closed form, where it is least, how flat it is there, and what the penalty is worth."""
    draws = dataset.sizes["draw"]
    worst, limit = largest_score(dataset.score, draws - 1)
    what = f"mean risk against bias² + variance: the largest |z| of {dataset.score.size} means of {draws}"
    found = [Finding.of(what, (0.0, limit), worst)]
    for features in np.unique(dataset.features.values).tolist():
        runs = select(dataset, features=features)
        found += _path(runs, f"{features} features, {int(np.min(runs.samples))} samples")
    return found


def _path(runs: xr.Dataset, named: str) -> list[Finding]:
    """What is said of one number of features."""
    found: list[Finding] = []
    seen, expected = (table(runs, name, "strength") for name in ("mean_risk", "expected"))
    strengths = seen.strength.values
    if strengths.size < 3 or not strengths[0] < 1 < strengths[-1]:
        return found
    relative = table(runs, "relative", "strength")
    whole = lambda curve: curve.notnull().all("strength")
    places = lambda curve: relative.isel(strength=curve.fillna(np.inf).argmin("strength")).where(whole(curve))
    at_least = lambda curve: np.log2(places(curve).values)
    what = f"{named}: log₂ of the strength of the least mean risk over σ²d/(n r²), each X"
    found.append(Finding.of(what, (-1.0, 1.0), every_seed(at_least(seen))))
    found.append(Finding.of(f"{named}: the same of the closed form", (-0.5, 0.5), every_seed(at_least(expected))))
    near = expected.where((expected.strength <= NEAR) & (expected.strength >= 1 / NEAR))
    end = runs.risk.sel(step=runs.steps)
    axis = [each for each in end.dims if each not in ("seed", "draw")]
    drawn = xr.concat([select(end, strength=each).mean(axis) for each in strengths], "strength")
    best = expected.fillna(np.inf).argmin("strength")
    for place, what in (
        (near.fillna(-np.inf).argmax("strength"), f"largest risk within a factor {NEAR:g} of the best strength"),
        (xr.zeros_like(best), f"risk at {strengths[0]:.1g} of the best strength"),
    ):
        closed = (expected.isel(strength=place) / expected.isel(strength=best)).values
        above, least = (np.asarray(drawn.isel(strength=each).transpose("seed", "draw")) for each in (place, best))
        mean = least.mean(axis=1)
        error = (above - closed[:, None] * least).std(axis=1, ddof=1) / mean / closed / above.shape[1] ** 0.5
        allowed = 5 * float(np.mean(error**2) ** 0.5) / len(error) ** 0.5
        what = f"{named}: {what}, over the least, over theory's ({float(np.median(closed)):.3g}, median X), mean over X"
        ratio = above.mean(axis=1) / mean / closed
        found.append(Finding.of(what, (1 - allowed, 1 + allowed), over_seeds(ratio)))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Risk against strength, with bias² and variance, for each number of features; where it is least."""
    sizes = np.unique(dataset.features.values).tolist()
    figure, axes = plots.figure(
        1, len(sizes) + 1, "The strength of L2: best at σ²d/(n r²), and vital where data are few"
    )
    *paths, places = axes[0]
    for number, (features, panel) in enumerate(zip(sizes, paths, strict=True)):
        runs = select(dataset, features=features)
        seen, training = (table(runs, name, "strength") for name in ("mean_risk", "mean_training"))
        plots.seeds(panel, seen, "risk", color="C1")
        plots.seeds(panel, training, "training error", color="C0")
        for name, style in (("expected", "--"), ("bias", ":"), ("variance", "-.")):
            curve = table(runs, name, "strength").median("seed")
            label = {"expected": "bias² + variance", "bias": "bias²"}.get(name, name)
            plots.theory(panel, curve.strength, curve, label, linestyle=style)
        panel.axvline(1, color="black", linewidth=0.8)
        title = f"{'abc'[number]}  {features} features, {int(np.min(runs.samples))} samples"
        panel.set(title=title, xlabel="strength / (σ²d/(n r²))", ylabel="mean square error", xscale="log", yscale="log")
        panel.set_ylim(3e-3, None)
        least = np.log2(seen.strength.values[seen.argmin("strength").values])
        bins = np.arange(-3.5, 4.5)
        width, label = 0.8 - 0.3 * number, f"{features} features"
        places.hist(least, bins=bins, color=f"C{number + 2}", alpha=0.6, label=label, rwidth=width)
    places.plot([0, 0], [0, dataset.sizes["seed"]], color="black", linestyle="--", label="σ²d/(n r²)")
    places.set(title=f"{'abcd'[len(sizes)]}  where the risk is least", xlabel="log₂ of strength / (σ²d/(n r²))")
    places.set_ylabel("inputs X")
    for panel in axes[0]:
        plots.legend(panel)
    return figure


STRENGTHS = tuple(2.0**power for power in range(-8, 8))
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 50, "features": [4, 20], "strength": STRENGTHS},
    smoke={"seeds": 3, "features": [4], "strength": STRENGTHS[2::2], "steps": 1000},
    paper={"seeds": 50, "features": [40, 200], "samples": 200, "strength": STRENGTHS, "draws": 1000, "steps": 5000},
    control={"hidden_noise": 2.0},
)
