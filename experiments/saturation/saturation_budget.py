"""How much of what keeps a unit out of saturation: the laws of a logistic unit under each regulariser.

Claim: A logistic unit trained without end saturates; regularisation stops it where a law says. With φ = tanh(w/2) the
saturation of its output: L2 at λw(1 + e^w) = 1, L1 at φ = 1 − 2λ (and w = 0 from λ = 1/2), label smoothing at
φ = 1 − α, Gaussian input noise at w = 2/σ², an early stop where w + e^w = T + 1. Dropout of the input does not stop it:
1 − φ falls on, as t^-(1−p). With several inputs dropout has a finite minimiser only where the masked inputs cannot be
separated; where they can, dropout may even make the weights grow faster.

Source: textbook knowledge (Goodfellow, Bengio & Courville 2016, chapter 7); the laws are derived where the oracle
states them. Growth on separable data: Soudry et al. 2018, arXiv 1710.10345.

Departure: The learning rate is divided by 1 + σ², for the curvature. Noise and masks are drawn afresh for each of
`batch` copies in a step; under noise the mean of the iterates, weighted by their step, is judged. L1 is a proximal
step: along sign(w) nothing gets to zero. Hidden layers: see hidden_regularization.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from scipy import stats

from research import plots
from research.dynamics import Run, averaged, log_spaced, start, start_averaged, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import first_arm, lift, norm, per_seed, select
from research.optimizers import soft_threshold
from research.oracles.dropout import dropout_logistic
from research.oracles.mask_noise import mask_deviation
from research.oracles.saturation_laws import (
    dropout_diverges,
    flow_weight,
    masked_margin,
    noisy_descent,
    resting_weight,
    saturation_budget,
)
from research.statistics import Estimate, every_seed, slope_within

STRENGTHS = {"l2": "L2 λ", "l1": "L1 λ", "smoothing": "smoothing α", "noise": "noise σ", "dropout": "dropout p"}
ERRORS = "in standard errors of theory, largest of"
SETTLED, TARGET = 40.0, 0.9  # e-foldings of the slowest mode at the end; the saturation whose budget is printed


class Observables(NamedTuple):
    weights: Float[Array, "feature"]
    mean: Float[Array, "feature"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    rate: Float[Array, ""]


def simulate(
    key: Array,
    learning_rate: float,
    l2: float,
    l1: float,
    smoothing: float,
    noise: float,
    dropout: float,
    conflict: float = 0.0,
    *,
    model: Literal["single", "pair"] = "single",
    steps: int = 20_000,
    batch: int = 16,
) -> Run:
    """Descent with all regularisers at once, each of its own strength, on a logistic unit from N(0, 1/9).

    "single": one input, 1, of label 1; "pair": two, of the samples (1, −conflict) and (−conflict, 1). The loss is the
    sum over samples of ln(1 + exp(−x·w)). `dropout` is the probability to drop, in steps of 1/256.
    """
    init_key, descent_key = jax.random.split(key)
    X = jnp.ones((1, 1)) if model == "single" else jnp.eye(2) - conflict * (1 - jnp.eye(2))
    rate, dropped = learning_rate / (1 + noise**2), jnp.round(256 * dropout)
    optimizer = optax.chain(optax.add_decayed_weights(l2), optax.sgd(rate), soft_threshold(rate * l1))

    def sample(key: Array) -> Array:
        noise_key, mask_key = jax.random.split(key)
        drawn = X[None] + noise * jax.random.normal(noise_key, (batch, *X.shape), jnp.float32)
        return drawn * (jax.random.bits(mask_key, drawn.shape, jnp.uint8) >= dropped) / (1 - dropped / 256)

    def loss(w: Array, drawn: Array) -> Array:
        outputs = drawn @ w
        return (jax.nn.softplus(-outputs) + smoothing / 2 * outputs).mean(axis=0).sum()

    step = averaged(stochastic_descent(loss, optimizer, sample), power=1)

    initial = jax.random.normal(init_key, X.shape[1:]) / 3
    state = start_averaged(start(initial, optimizer, descent_key))
    observe = lambda state: Observables(state.descent.params, state.mean)
    return Run(state, step, observe, log_spaced(steps, 40), Given(X, jnp.asarray(rate, float)))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The laws of the single input, what linear and convex programs say of the pair, and how far the runs are."""
    one, rate, noise = dataset.model == "single", dataset.rate, dataset.noise
    late, log_time = dataset.step >= dataset.steps / 100, np.log(dataset.step.where(dataset.step > 0))
    growth = lambda values: slope_within(log_time, values, late)
    w, end, mean = dataset.weights.isel(feature=0), _end(dataset, "weights"), _end(dataset, "mean")
    resting = lift(resting_weight, dataset.l2.where(one), dataset.l1, dataset.smoothing, noise)
    law = lift(flow_weight, rate * dataset.step, w.isel(step=0).where(one), dataset.dropout)
    noisy = lift(noisy_descent, noise.where(one & (noise > 0)))
    samples, shift = dataset.steps * dataset.batch, rate / dataset.batch * noisy["shift"]
    allowed = rate * np.exp(rate) / (2 * np.e * (1 + np.exp(w.isel(step=0))))
    X = dataset.X.where(dataset.model == "pair")
    labels = xr.ones_like(X.isel(feature=0, drop=True))
    best = lift(dropout_logistic, X, labels, 1 - dataset.dropout)
    last = dataset["mean"].sel(step=dataset.steps)
    return dataset.assign(
        gap=abs(saturation(end) - saturation(resting)),
        end=end,
        law=law,
        lag=(abs(w - law) / allowed).max("step", skipna=False),
        power=growth(np.log1p(-saturation(w))) / growth(np.log1p(-saturation(law))),
        # the weights of the mean, 2t/N², make its variance 4/3 of that of the plain one
        deviation=(mean - 2 / noise**2 - shift) * (0.75 * noisy.information * samples) ** 0.5,
        settled=rate * noisy.information * dataset.steps >= SETTLED,
        diverges=lift(dropout_diverges, X, labels),
        margin=(margin := lift(masked_margin, X, labels, dataset.dropout)),
        growth=growth(norm(dataset.weights, "feature")) * margin,
        distance=lift(mask_deviation, X, labels, last, 1 - dataset.dropout, rate, dataset.batch)
        * (0.75 * dataset.steps) ** 0.5,
        best=norm(best, "feature"),
    )


def _end(runs: xr.Dataset, variable: str) -> xr.DataArray:
    return runs[variable].isel(feature=0).sel(step=runs.steps)


def saturation(weight: Any) -> Any:
    """The output of the unit, scaled to [−1, 1]."""
    return np.tanh(weight / 2)


def alone(dataset: xr.Dataset, name: str = "") -> xr.Dataset:
    """The runs on a single input in which this regulariser is at work and no other."""
    runs = select(dataset, model="single", **{other: 0.0 for other in STRENGTHS if other != name})
    return select(runs, **{name: lambda strength: strength > 0}) if name else runs


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The unit at rest; under noise; on its way; dropout of one input and of two."""
    found: list[Finding] = []

    def add(what: str, band: tuple, runs: xr.Dataset, variable: str, *reduce: str) -> None:
        if runs.diverged.size:
            values = per_seed(runs[variable], *reduce)
            found.append(Finding.of(what, band, every_seed(values)))

    regular = select(dataset, model="single", noise=0.0, dropout=0.0)
    at_work = regular.l2 + regular.l1 + regular.smoothing > 0
    regular = regular.assign(gap=regular.gap.where(at_work, 0.0).where(at_work.any()))
    add("distance of φ to the law, with L2, L1 or smoothing, worst", (0.0, 1e-3), regular, "gap")
    zero = select(alone(dataset, "l1"), l1=lambda strength: strength >= 0.5)
    add("L1 with λ ≥ 1/2: largest |w|, exactly zero", (0.0, 0.0), zero.assign(end=abs(zero.end)), "end")
    noisy = alone(dataset, "noise")
    deviations = abs(noisy.deviation).where(noisy.settled).values
    deviations = deviations[np.isfinite(deviations)]
    if deviations.size:
        limit = stats.norm.ppf(1 - 0.025 / deviations.size)  # all stay below with probability 95 % (Bonferroni)
        worst = float(deviations.max())
        what = f"noise: mean iterate less 2/σ² and its shift, {ERRORS} {deviations.size}"
        found.append(Finding.of(what, (0.0, limit), Estimate(worst, (worst, worst))))
    what = "none: largest distance to w + e^w = T + c, over the bound of Euler's error, ηe^η/(2e(1 + e^w₀))"
    add(what, (0.0, 1.0), alone(dataset), "lag")
    power = "power of t with which 1 − φ falls, over that of the law, last two decades"
    add(f"none: {power}", (0.95, 1.05), alone(dataset), "power", "min", "max")
    add(f"dropout: {power} (1 − p in the end)", (0.95, 1.05), alone(dataset, "dropout"), "power", "min", "max")
    pairs = select(dataset, model="pair", **{name: 0.0 for name in STRENGTHS if name != "dropout"})
    grow = pairs.assign(growth=pairs.growth.where(pairs.diverges == 1))
    growing = "slope of ‖w‖ on ln t, over one over the margin"
    for p in np.unique(select(pairs, conflict=lambda c: c < 0).dropout.values) if pairs.diverged.size else ():
        runs, whose = select(grow, conflict=lambda c: c < 0, dropout=p), f" of masked inputs, p = {p:g}" * bool(p)
        add(f"two inputs that agree: {growing}{whose}", (0.95, 1.05), runs, "growth", "min", "max")
    conflicting = select(pairs, conflict=lambda c: c > 0)
    without, dropped = select(conflicting, dropout=0.0), select(conflicting, dropout=lambda p: p > 0)
    add(f"two inputs in conflict, no dropout: {growing}", (0.95, 1.05), without, "growth", "min", "max")
    distances = dropped.distance.where(dropped.diverges == 0).values.ravel()
    if distances.size:
        limit, worst = stats.chi.ppf(1 - 0.05 / distances.size, 2), float(distances.max())
        what = f"two inputs in conflict, dropout: mean iterate less the finite minimiser and the masks' shift, {ERRORS}"
        found.append(Finding.of(f"{what} {distances.size}", (0.0, limit), Estimate(worst, (worst, worst))))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the laws and the runs on them, (b) the way there, and dropout, (c) dropout of two inputs."""
    figure, ((laws, way, pairs),) = plots.figure(1, 3, "The saturation budget of a logistic unit", (4.6, 3.8))
    for position, (name, called) in enumerate([*STRENGTHS.items()][:4]):
        runs, (low, high) = alone(dataset, name), SPANS[name]
        if runs.diverged.size:
            strengths = np.geomspace(low, high, 200)
            rest = [resting_weight(*(s if i == position else 0.0 for i in range(4))) for s in strengths]
            plots.theory(laws, strengths, saturation(np.array(rest)), None if position else "law", linestyle="-")
            last = _end(runs, "mean" if name == "noise" else "weights")
            plots.points(laws, runs[name], saturation(last), called, color=f"C{position}", markersize=5, alpha=0.7)
    budget = saturation_budget(TARGET)
    laws.axhline(TARGET, color="0.6", linewidth=0.8, zorder=0)
    said = (
        f"for φ = {TARGET:g} take\nL2 λ = {budget.l2:.2g}, or\nL1 λ = {budget.l1:.2g}, or\nα = {budget.smoothing:.2g}"
    )
    laws.text(1.3e-3, 0.03, f"{said}, or\nσ = {budget.noise:.2g}, or\nstop at T = {budget.time:.3g}", fontsize=8)
    free = select(dataset, model="single", l2=0.0, l1=0.0, smoothing=0.0, noise=0.0)
    free = select(free, learning_rate=float(dataset.learning_rate.max()))
    for number, p in enumerate(np.unique(free.dropout.values) if free.diverged.size else ()):
        runs = _curve(select(free, dropout=p))
        time = {"step": runs.step * float(runs.rate.median())}
        missing = (1 - saturation(runs.weights.isel(feature=0))).assign_coords(time)
        plots.seeds(way, missing, f"dropout p = {p:g}" if p else "none: stop at T", color=f"C{number}")
        law = 1 - saturation(runs.law.median("seed"))
        plots.theory(way, time["step"], law, None if number else "law")
    for number, (conflict, p) in enumerate((c, p) for c in (-0.5, 0.5) for p in (0.0, 0.5)):
        runs = select(dataset, model="pair", conflict=conflict, dropout=p)
        if runs.diverged.size:
            runs = _curve(runs)
            size, t = norm(runs.weights, "feature"), runs.step
            whose = "in conflict" if conflict > 0 else "agreeing"
            plots.seeds(pairs, size, f"{whose}, p = {p:g}", color=f"C{number}")
            margin = float(runs.margin.median())
            if margin > 0:
                line = float(size.isel(step=-1).median()) + np.log(t / t[-1]) / margin
                plots.theory(pairs, t, line.where(line > 0), None if number else "ln t / margin")
            else:
                plots.theory(pairs, t, [float(runs.best.median())] * t.size, "finite minimiser", linestyle=":")
    laws.set(title="a  at rest", xscale="log", xlabel="strength", ylabel="saturation φ of the output")
    way.set(title="b  early stopping; dropout delays, and no more", xscale="log", yscale="log", ylabel="1 − φ")
    way.set_xlabel("time T = learning rate × steps")
    pairs.set(title="c  dropout of two inputs", xscale="log", xlabel="step t", ylabel="‖w‖")
    for axes in (laws, way, pairs):
        plots.legend(axes)
    return figure


def _curve(runs: xr.Dataset) -> xr.Dataset:
    """One arm, by seed and positive step."""
    runs = first_arm(runs)
    return runs.sel(step=(runs.step > 0) & (runs.step <= float(runs.steps)))


SPANS = {"l2": (1e-3, 3.0), "l1": (5e-3, 0.8), "smoothing": (5e-3, 0.97), "noise": (0.3, 3.0)}
AXES = ("model", "steps", "learning_rate", *STRENGTHS, "conflict")
SINGLE = {
    "l2": (1e-3, 1e-2, 0.1, 1.0),
    "l1": (0.01, 0.1, 0.2, 0.3, 0.4, 0.6),
    "smoothing": (0.02, 0.1, 0.3, 0.6),
    "noise": (0.5, 0.7, 1.0, 1.5, 2.5),
    "dropout": (0.25, 0.5, 0.75),
}
FEW = {"l2": (0.1,), "l1": (0.1, 0.6), "smoothing": (0.3,), "noise": (1.5,), "dropout": (0.5,)}


def arms(steps: int, strengths: dict[str, tuple]) -> list[tuple]:
    """Each regulariser alone, and none, at two learning rates; then the pairs, without dropout and with it."""
    one = lambda name, strength: tuple(strength if each == name else 0.0 for each in STRENGTHS)
    points = [one("", 0.0), *(one(name, strength) for name, values in strengths.items() for strength in values)]
    pairs = [("pair", steps, 1.0, *one("dropout", p), c) for c in (-0.5, 0.5) for p in (0.0, 0.5)]
    return [*(("single", steps, rate, *point, 0.0) for rate in (0.1, 1.0) for point in points), *pairs]


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: arms(20_000, SINGLE)},
    smoke={"seeds": 2, AXES: arms(5000, FEW)},
    paper={"seeds": 64, AXES: arms(1_000_000, SINGLE)},
    # the laws are those of rest
    control={AXES: arms(20, FEW)},
)
