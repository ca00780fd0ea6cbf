"""Dropout on least squares is ridge whose strength follows the scale of each feature; on logistic loss, only nearly.

Claim: Averaged over its masks, stochastic descent with dropout of the inputs ends at
(XᵀX + (1 − q)/q · diag(XᵀX))⁻¹ Xᵀy, q the probability to keep an input: of orthogonal features every coefficient is
shrunk by q, whatever its scale, where ridge shrinks the small ones more. The mean of the iterates gets there as
t^-1/2. For the logistic loss dropout ends at the minimiser of the mean over all masks; the quadratic penalty that
approximates it misses this.

Source: Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014, JMLR 15, section 9.1; Wager, Wang & Liang 2013,
arXiv 1307.1493, for the quadratic penalty; the mean of the iterates: Polyak & Juditsky 1992.

Departure: A step takes eight masks, each for all samples: the mean loss has only each sample's own mean over masks in
it. (Of orthogonal features such a mask has no gradient noise left at the end, so the features here are not quite
orthogonal.) The mean of the iterates weighs step t by t³, which forgets the start and costs a factor of 16/7 in
variance. What the quadratic penalty misses does not grow steadily with the dropout, as one might expect: the third
cumulant of the noise, of which its first error is made, changes sign at q = 1/2. Dropout
of hidden units is another claim, in dropout_factorization.
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
from research.dynamics import Run, averaged, log_spaced, start, start_averaged, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import arms, lift, norm, per_seed, select, table
from research.oracles.dropout import averaged_error, dropout_logistic, dropout_ridge, quadratic_dropout_logistic
from research.oracles.least_squares import minimum_l2_norm, ridge
from research.statistics import every_seed, over_seeds, slope_within

Data = Literal["gaussian", "diabetes"]
Model = Literal["least_squares", "logistic"]


class Observables(NamedTuple):
    mean: Float[Array, "feature"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    kept: Float[Array, ""]


def problem(key: Array, data: Data, model: Model, samples: int, features: int) -> tuple[Array, Array]:
    """X and y: Gaussian inputs or patients in units from 1 to 1/4; for the logistic loss ±1, and one unit."""
    inputs_key, weights_key, noise_key = jax.random.split(key, 3)
    units = 0.25 ** jnp.linspace(0.0, 1.0, features)
    if data == "diabetes":
        patients, progression = problems.diabetes()
        chosen = jax.random.choice(inputs_key, len(patients), (samples,), replace=False)
        return jnp.asarray(patients)[chosen, :features] * units[None, :], jnp.asarray(progression)[chosen]
    normal = jax.random.normal(inputs_key, (samples, features))
    outputs = normal @ jnp.sign(jax.random.normal(weights_key, (features,)))
    uniform = jax.random.uniform(noise_key, (samples,))
    if model == "logistic":
        return normal, jnp.where(uniform < jax.nn.sigmoid(outputs), 1.0, -1.0)
    return normal * units[None, :], outputs + uniform - 0.5


def simulate(
    key: Array,
    learning_rate: float,
    keep: float,
    inverted: float = 1.0,
    *,
    model: Model = "least_squares",
    data: Data = "gaussian",
    samples: int = 60,
    features: int = 10,
    masks: int = 8,
    steps: int = 20_000,
) -> Run:
    """One stochastic descent from zero on the mean over samples and masks of (y − x·(m∘w)/q)²/2 or the logistic loss.

    `keep` is q, in steps of 1/256 (a mask is made of bytes, which are cheap to draw). `learning_rate` is in units of
    1/smoothness of the mean loss. `inverted` 0 leaves the division by q out.
    """
    data_key, mask_key = jax.random.split(key)
    X, y = problem(data_key, data, model, samples, features)
    kept = jnp.round(256 * keep) / 256
    sample = lambda key: (jax.random.bits(key, (masks, features), jnp.uint8) < 256 * kept) / kept**inverted

    def loss(w: Array, mask: Array) -> Array:
        outputs = (mask * w[None, :]) @ X.T
        if model == "logistic":
            return jax.nn.softplus(-outputs * y[None, :]).mean()
        return optax.l2_loss(outputs, jnp.broadcast_to(y, outputs.shape)).mean()

    smoothness = (jnp.linalg.norm(X, 2) ** 2 / samples) / kept * (0.25 if model == "logistic" else 1.0)
    optimizer = optax.sgd(learning_rate / smoothness)
    step = averaged(stochastic_descent(loss, optimizer, sample), power=3)

    state = start_averaged(start(jnp.zeros(X.shape[1]), optimizer, mask_key))
    return Run(state, step, lambda state: Observables(state.mean), log_spaced(steps, 25), Given(X, y, kept))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The minimisers, and the distances to them in the scale of the features (of their columns' norms)."""
    linear = xr.where(dataset.model == "least_squares", 1.0, np.nan)
    signs = dataset.y.where(dataset.model == "logistic")
    X, y, kept, end = dataset.X, dataset.y * linear, dataset.kept, dataset["mean"].sel(step=dataset.steps)
    scale = norm(X, "sample")
    size = lambda vectors: norm(scale * vectors)
    adaptive, plain = lift(dropout_ridge, X, y, kept), lift(minimum_l2_norm, X, y)
    # Ridge of the same mean strength, the rival that does not follow the scales.
    strength = (1 - kept) / kept * (X**2).mean(("sample", "feature"))
    alike = lift(ridge, X, y, strength)
    exact, quadratic = lift(dropout_logistic, X, signs, kept), lift(quadratic_dropout_logistic, X, signs, kept)
    distance = size(dataset["mean"] - adaptive.fillna(exact)) / size(adaptive.fillna(exact))
    rival = np.minimum(size(adaptive - plain), size(adaptive - alike)) / size(adaptive)
    steps = dataset.step.where(dataset.step > 0)
    predicted = (scale**2 * lift(averaged_error, X, y, kept)).sum("feature", min_count=1) ** 0.5 / size(adaptive)
    return dataset.assign(
        distance=distance,
        nearness=distance.sel(step=dataset.steps) / rival,
        predicted=predicted * (16 / 7 / steps / dataset.masks) ** 0.5,
        power=slope_within(np.log(steps), np.log(distance), steps >= dataset.steps / 30),
        shrinkage=end / plain,
        adaptive=adaptive,
        alike=alike,
        adaptive_shrinkage=adaptive / plain,
        alike_shrinkage=alike / plain,
        scale=scale / scale.max("feature"),
        approximate=size(end - quadratic) / size(exact),
        approximation=size(exact - quadratic) / size(exact),
        dropped=(1 - kept) / kept,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Least squares against both ridges, its rate, real data, and the logistic loss and its approximation."""
    found: list[Finding] = []
    much = lambda number: number <= 0.75
    for data in dict.fromkeys(np.atleast_1d(dataset.data.values).tolist()):
        runs = select(dataset, model="least_squares", data=data, keep=much)
        if runs.diverged.size:
            what = f"least squares, {data}: distance to dropout's ridge over its to the nearer of ridge and none, worst"
            found.append(Finding.of(what, (0.0, 0.02), every_seed(per_seed(runs.nearness))))
            what = f"least squares, {data}: relative distance to dropout's ridge at the end, worst"
            end = runs.distance.sel(step=runs.steps)
            found.append(Finding.of(what, (0.0, 5e-3), every_seed(per_seed(end))))
    runs = select(dataset, model="least_squares")
    if runs.diverged.size:
        # What is left of the start, 24/(ηλt)⁴ by the weights of the mean, is below the noise there at the larger rate.
        quick = select(runs, learning_rate=float(runs.learning_rate.max()))
        what = "least squares: slope of ln(distance) on ln t over the last decade and a half, mean over runs"
        found.append(Finding.of(what, (-0.6, -0.4), over_seeds(per_seed(quick.power, "mean"))))
        square = (runs.distance / runs.predicted).sel(step=runs.steps) ** 2
        what = "least squares: mean square of the distance, over that of Polyak & Juditsky (small steps)"
        found.append(Finding.of(what, (0.75, 1.25), over_seeds(per_seed(square, "mean"))))
    runs = select(dataset, model="logistic")
    if runs.diverged.size:
        end = runs.distance.sel(step=runs.steps)
        what = "logistic: relative distance to the minimiser of the mean over all masks, worst"
        found.append(Finding.of(what, (0.0, 5e-3), every_seed(per_seed(end))))
        ratio = (end / runs.approximate).where(runs.kept <= 0.75, 0.0)
        what = "logistic, keep <= 0.75: distance to it over that to the quadratic penalty's minimiser, worst"
        found.append(Finding.of(what, (0.0, 0.5), every_seed(per_seed(ratio))))
        missed = table(runs, "approximation", "keep")
        if missed.sizes["keep"] > 1:
            what = "logistic: what the quadratic penalty misses, least increase from one keep to the next smaller"
            found.append(Finding.of(what, (0.0, np.inf), over_seeds(per_seed(-missed.diff("keep"), "min"))))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a, b) shrinkage against scale, (c) the mean of the iterates, (d) the logistic loss."""
    figure, ((gaussian, diabetes), (path, logistic)) = plots.figure(2, 2, "Dropout is ridge that follows each scale")
    linear = select(dataset, model="least_squares")
    keeps = np.unique(linear.keep.values).tolist()
    fastest = float(np.max(dataset.learning_rate.values))
    for point, runs in arms(select(linear, learning_rate=fastest)) if linear.diverged.size else ():
        color, axes = f"C{keeps.index(point['keep'])}", gaussian if point["data"] == "gaussian" else diabetes
        runs = runs.transpose("seed", ...)
        if point["data"] == "gaussian":
            one, label = runs.isel(seed=0), point["keep"] == keeps[0]
            plots.points(
                axes, one.scale, one.shrinkage, f"keep {point['keep']:g}", color=color, alpha=1.0, markersize=4
            )
            plots.theory(axes, one.scale, one.adaptive_shrinkage, "dropout's ridge" if label else None)
            plots.theory(axes, one.scale, one.alike_shrinkage, "ridge" if label else None, linestyle=":")
            after = runs.isel(step=slice(1, None))
            plots.seeds(path, after.distance, f"keep {point['keep']:g}", color=color)
            plots.theory(path, after.step, after.predicted.median("seed"), "Polyak & Juditsky" if label else None)
        else:
            end, only = runs["mean"].sel(step=runs.steps), "against plain ridge" if point["keep"] == keeps[0] else None
            plots.points(axes, runs.adaptive, end, f"keep {point['keep']:g}", color=color)
            plots.points(axes, runs.alike, end, only, color=color, marker="x")
    if diabetes.lines:
        ends = np.array(diabetes.get_xlim())
        plots.theory(diabetes, ends, ends, "equal")
    nonlinear = select(dataset, model="logistic")
    if nonlinear.diverged.size:
        shown = nonlinear.assign(end=nonlinear.distance.sel(step=nonlinear.steps))
        for number, (name, label) in enumerate(
            (("end", "to the mean over all masks"), ("approximate", "to the quadratic penalty"))
        ):
            plots.seeds(logistic, table(shown, name, "keep"), label, marker="o", markersize=3, color=f"C{number}")
        missed = table(shown, "approximation", "keep").median("seed")
        plots.theory(logistic, missed.keep, missed, "between the two (Newton)")
    gaussian.set(title="a  Gaussian features, one seed", xscale="log", xlabel="scale of the feature", ylim=(0, 1.45))
    gaussian.set_ylabel("coefficient / least-squares coefficient")
    diabetes.set(title="b  diabetes", xlabel="coefficient in theory", ylabel="coefficient of dropout")
    path.set(title="c  the mean of the iterates", xscale="log", yscale="log", xlabel="step")
    path.set_ylabel("relative distance to dropout's ridge")
    logistic.set(title="d  logistic loss", yscale="log", xlabel="probability to keep an input")
    logistic.set_ylabel("relative distance of dropout")
    for axes in (gaussian, diabetes, path, logistic):
        plots.legend(axes)
    return figure


AXES = ("model", "data", "features", "keep", "learning_rate")
ARMS = [
    *(("least_squares", "gaussian", 10, keep, rate) for keep in (0.5, 0.75, 0.875) for rate in (0.2, 0.5)),
    *(("least_squares", "diabetes", 10, keep, rate) for keep in (0.5, 0.75) for rate in (0.2, 0.5)),
    *(("logistic", "gaussian", 6, keep, 0.5) for keep in (0.375, 0.5, 0.625, 0.75, 0.875, 0.9375)),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 3, AXES: [arm for arm in ARMS if arm[1:3] == ("gaussian", 10)], "steps": 5000},
    paper={"seeds": 64, "steps": 1_000_000},
    control={"inverted": 0.0},
)
