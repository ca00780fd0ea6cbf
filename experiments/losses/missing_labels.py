"""Missing labels harm cross-entropy where they are taken for labels, or where it depends on them who is missing.

Claim: With the loss masked and averaged over the labels that are there, descent ends at the optimum of the complete
samples alone: samples without a label have a gradient of zero. Averaged over the whole batch instead, weight decay λ
acts as λ/(share of labels). Labels missing at random cost precision and no bias. Where positive ones are kept with
probability s₁ and negative ones with s₀, the intercept is off by ln(s₁/s₀) and nothing else is; adding ln(s₁/s₀) to the
logits in training repairs it. Missing labels taken for 0, or for the −1 that marks them, have another optimum or none.

Source: The shift of the intercept: Prentice & Pyke 1979, Biometrika 66; King & Zeng 2001, Political Analysis 9. The
gradient of `where(there, loss(label), 0)` is not a number where the label is none, as 0 · NaN is NaN: JAX's own
documentation advises a second `where` inside (frequently asked questions, "Gradients contain NaN where using where").

Departure: The statement under test is that cross-entropy "is sensitive to missing labels": it is as long as they are
not treated as missing, and with any treatment that ignores why they are. Gaussian inputs, a true logistic model. The
shift is that of many samples: maximum likelihood of few makes weights too large, the intercept where s₁/s₀ is 6 by 0.03
on average, which the slope on ln(s₁/s₀) shows. The corrected model is the masked one in other coordinates: it has the
same errors, shifted, and no finding of its own.

Bands: An estimate is off by its standard error at random: the mean of n seeds of error over standard error lies within
5/√n, three of its standard errors for chance and two for the interval, which has to lie inside. So does the slope on
ln(s₁/s₀), the standard errors of its arms taken for independent: what arms of a seed have in common cancels in a slope.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from scipy.special import expit

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import arms, first_arm, lift, norm, per_seed, select, sound
from research.oracles.margin import logistic_optimum
from research.oracles.missing_labels import logit_shift, standard_errors
from research.statistics import every_seed, over_seeds, slope

Treatment = Literal["masked", "batch mean", "taken for 0", "taken for -1", "corrected"]
CLOSE = 1e-6


class Observables(NamedTuple):
    weights: Float[Array, "feature"]
    loss: Float[Array, ""]


class Given(NamedTuple):
    """Inputs, labels (NaN: missing), true weights; slopes at the missing labels by one `where`, and by two."""

    X: Float[Array, "sample feature"]
    label: Float[Array, "sample"]
    truth: Float[Array, "feature"]
    single_lost: Float[Array, ""]
    double_slope: Float[Array, ""]


def cross_entropy(logits: Array, labels: Array) -> Array:
    """max(z, 0) − yz + ln(1 + e^−|z|), for every sample."""
    return optax.losses.sigmoid_binary_cross_entropy(logits, labels)


def simulate(
    key: Array,
    kept_positive: float,
    kept_negative: float,
    weight_decay: float = 0.0,
    learning_rate: float = 1.0,
    *,
    treatment: Treatment = "masked",
    samples: int = 1000,
    features: int = 4,
    steps: int = 800,
) -> Run:
    """Descent on the mean cross-entropy + weight_decay/2 ‖w‖² of samples some of whose labels are missing (NaN).

    The last feature is 1: the intercept. A label 1 is kept with probability `kept_positive`, a 0 with `kept_negative`.
    "batch mean" divides the masked sum by all samples; "corrected" adds ln(kept_positive/kept_negative) to the logits.
    `single_lost`: the share of weights whose gradient is not a number with `where` outside the loss alone;
    `double_slope`: the largest slope at a missing label with another one inside.
    """
    input_key, truth_key, label_key, kept_key = jax.random.split(key, 4)
    X = jax.random.normal(input_key, (samples, features)).at[:, -1].set(1.0)
    truth = jax.random.normal(truth_key, (features,))
    y = (jax.random.uniform(label_key, (samples,)) < jax.nn.sigmoid(X @ truth)).astype(float)
    kept = jax.random.uniform(kept_key, (samples,)) < jnp.where(y == 1, kept_positive, kept_negative)
    label = jnp.where(kept, y, jnp.nan)
    there = jnp.isfinite(label)
    shift = jnp.log(kept_positive / kept_negative) if treatment == "corrected" else 0.0
    count = samples if treatment == "batch mean" else jnp.sum(there)
    safe = lambda logits: jnp.sum(jnp.where(there, cross_entropy(logits, jnp.where(there, label, 0.0)), 0.0)) / count
    filled = {"taken for 0": 0.0, "taken for -1": -1.0}.get(treatment)
    if filled is None:
        error = lambda logits: safe(logits + shift)
    else:
        error = lambda logits: jnp.mean(cross_entropy(logits, jnp.where(there, label, filled)))
    loss = lambda w: error(X @ w) + weight_decay / 2 * jnp.sum(w**2)
    single = jax.grad(lambda w: jnp.sum(jnp.where(there, cross_entropy(X @ w, label), 0.0)) / count)(truth)
    double = jnp.max(jnp.abs(jnp.where(there, 0.0, jax.grad(safe)(X @ truth))))
    optimizer = optax.sgd(learning_rate, momentum=0.9, nesterov=True)
    given = Given(X, label, truth, jnp.mean(jnp.isnan(single), dtype=float), double)
    observe = lambda state: Observables(state.params, loss(state.params))
    return Run(start(jnp.zeros(features), optimizer), descent(loss, optimizer), observe, log_spaced(steps, 25), given)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The optimum of the complete samples, its standard errors, and what the missing ones do to the intercept."""
    dataset = sound(dataset)
    there = dataset.label.notnull()
    X, y = dataset.X.where(there), 2 * dataset.label - 1  # NaN in all of a sample: it is left out by `lift`
    share = there.mean("sample")
    optimum = lift(logistic_optimum, X, y, dataset.weight_decay)
    shrunk = lift(logistic_optimum, X, y, dataset.weight_decay / share)
    shift = lift(logit_shift, dataset.kept_positive, dataset.kept_negative)
    last = xr.DataArray(np.arange(dataset.sizes["feature"]) == dataset.sizes["feature"] - 1, dims="feature")
    end = dataset.weights.sel(step=dataset.steps)
    errors = lift(standard_errors, X, optimum)
    corrected = (dataset.treatment == "corrected") * shift
    return dataset.assign(
        optimum=optimum,
        distance=norm(dataset.weights + last * corrected - optimum) / norm(optimum),
        shrunk_distance=norm(end - shrunk) / norm(shrunk),
        apart=norm(shrunk - optimum) / norm(shrunk),
        offset=shift,
        bias=(end - dataset.truth).isel(feature=-1),
        intercept_error=errors.isel(feature=-1),
        intercept_score=((end - dataset.truth - last * (shift - corrected)) / errors).isel(feature=-1),
        slope_score=((end - dataset.truth) / errors).isel(feature=slice(-1)).mean("feature"),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Masked descent against the complete samples, the slopes of missing labels, the average, and bias by kind."""
    found: list[Finding] = []
    ends = dataset.sel(step=dataset.steps)
    treatments = list(dict.fromkeys(np.atleast_1d(dataset.treatment.values).tolist()))
    of = lambda treatment, chosen: select(
        ends, treatment=treatment, weight_decay=chosen if callable(chosen) else (lambda decay: decay == chosen)
    )

    def add(what: str, band: tuple[float, float], values: np.ndarray, estimate: Callable = every_seed) -> None:
        found.append(Finding.of(what, band, estimate(values)))

    main = "masked" if "masked" in treatments else treatments[0]
    runs = of(main, lambda decay: True)
    what = f"{main}: relative distance to the optimum of the complete samples, the worst of a seed"
    add(what, (0.0, CLOSE), per_seed(runs.distance))
    missing = select(ends, kept_positive=lambda kept: kept < 1, kept_negative=lambda kept: kept < 1)
    if missing.diverged.size:  # what is the same for every key has no seeds of its own
        add(
            "largest slope at a missing label, where inside the loss too",
            (0.0, 0.0),
            per_seed(missing.double_slope + 0 * missing.bias),
        )
        what = "share of weights whose gradient is not a number, where outside the loss alone"
        add(what, (1.0, 1.0), per_seed(missing.single_lost + 0 * missing.bias, "min"))
    runs = of("batch mean", lambda decay: decay > 0)
    if runs.diverged.size:
        what = "batch mean, weight decay λ: relative distance to the optimum for λ/(share of labels)"
        add(what, (0.0, CLOSE), per_seed(runs.shrunk_distance))
        add("… and from the optimum for λ", (10 * CLOSE, np.inf), per_seed(runs.distance, "min"))
    found += _bias(of("masked", 0.0))
    runs = of("taken for 0", 0.0)
    if runs.diverged.size and "masked" in treatments:
        # p is multiplied by s₁ < 1 where missing labels count as 0: the logit falls for every input
        lossy = select(runs, kept_positive=lambda kept: kept < 1)
        if lossy.diverged.size:
            add("missing taken for 0: error of the intercept, the largest", (-np.inf, 0.0), per_seed(lossy.bias))
    runs = of("taken for -1", 0.0)
    if runs.diverged.size:
        add("missing taken for −1: the 'cross-entropy' at the end", (-np.inf, 0.0), per_seed(runs.loss))
    return found


def _bias(masked: xr.Dataset) -> list[Finding]:
    """Errors of intercept and slopes over their standard errors, where it is known what is missing."""
    found: list[Finding] = []
    if not masked.diverged.size:
        return found
    seeds = masked.sizes["seed"]
    flat = lambda name: masked[name].broadcast_like(masked.bias).transpose("seed", ...).values.reshape(seeds, -1)
    offset = flat("offset")[0]

    def add(what: str, chosen: np.ndarray, variable: str) -> None:
        if chosen.any():
            allowed = 5 / seeds**0.5
            found.append(Finding.of(what, (-allowed, allowed), over_seeds(flat(variable)[:, chosen].mean(axis=1))))

    add("missing at random: error of the intercept over its standard error", offset == 0, "intercept_score")
    add("by label: error of the intercept beyond ln(s₁/s₀) over its standard error", offset != 0, "intercept_score")
    add("by label: error of the other weights over their standard errors", offset != 0, "slope_score")
    if len(np.unique(offset)) > 2:
        x = offset - offset.mean()
        allowed = 5 * float(((x**2 * flat("intercept_error") ** 2).sum(axis=1).mean() / seeds) ** 0.5 / (x**2).sum())
        what = "slope of the intercept's error on ln(s₁/s₀), 1 for many samples"
        rate = over_seeds(slope(offset, flat("bias")))
        found.append(Finding.of(what, (1 - allowed, 1 + allowed), rate))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the intercept's error against ln(s₁/s₀), (b) calibration, (c) the way to the optimum."""
    figure, ((bias, calibration, way),) = plots.figure(
        1, 3, "Missing labels: what is masked does no harm, what is biased does"
    )
    kinds = ("masked", "corrected", "taken for 0", "batch mean")
    ends = dataset.sel(step=dataset.steps)
    for number, kind in enumerate(kinds[:3]):
        runs = select(ends, treatment=kind, weight_decay=0.0)
        if runs.diverged.size:
            plots.points(bias, runs.offset + 0.03 * (number - 1), runs.bias, kind, color=f"C{number}", markersize=4)
    limit = max(float(np.abs(dataset.offset).max()), 0.5)
    plots.theory(bias, (-limit, limit), (-limit, limit), "ln(s₁/s₀)")
    bias.axhline(0, color="black", linewidth=0.8)
    p = np.linspace(0.002, 0.998, 300)
    logit = np.log(p / (1 - p))
    runs = select(ends, treatment="masked", weight_decay=0.0)
    chosen = [point for point, _ in arms(runs)] if runs.diverged.size else []
    shown = {round(point["kept_positive"] / point["kept_negative"], 3): point for point in chosen}
    for number, (ratio, point) in enumerate(sorted(shown.items())):
        cell = select(runs, kept_positive=point["kept_positive"], kept_negative=point["kept_negative"])
        given = first_arm(cell).isel(seed=0)
        true, says = ((given.X @ given[name]).values for name in ("truth", "weights"))
        calibration.plot(expit(true), expit(says), ".", ms=2, alpha=0.5, color=f"C{number}", label=f"s₁/s₀ = {ratio:g}")
        plots.theory(calibration, p, expit(logit + np.log(ratio)), None if number else "odds × s₁/s₀")
    for number, kind in enumerate(kinds):
        runs = select(dataset, treatment=kind, kept_positive=lambda kept: kept < 1)
        runs = select(runs, weight_decay=lambda decay, kind=kind: (decay > 0) == (kind == "batch mean"))
        for place, (_, cell) in enumerate(list(arms(runs))[:1] if runs.diverged.size else []):
            cell = cell.sel(step=cell.step > 0)
            plots.seeds(way, cell.distance, None if place else kind, color=f"C{number}")
    plots.theory(way, way.get_xlim() if way.lines else (1, 10), (CLOSE, CLOSE), "allowed", linestyle=":")
    bias.set(
        title="a  error of the intercept", xlabel="ln(s₁/s₀): positive over negative kept", ylabel="estimate − truth"
    )
    calibration.set(
        title="b  what the masked model says (one seed)", xlabel="true probability", ylabel="probability given"
    )
    way.set(title="c  to the optimum of complete samples", xlabel="step", ylabel="relative distance", xscale="log")
    way.set(yscale="log")
    for axes in (bias, calibration, way):
        plots.legend(axes)
    return figure


AXES = ("treatment", "kept_positive", "kept_negative", "weight_decay")
AT_RANDOM = [(kept, kept) for kept in (1.0, 0.8, 0.5, 0.2)]
BY_LABEL = [(0.9, 0.45), (0.9, 0.15), (0.45, 0.9), (0.15, 0.9)]
ARMS = [
    *(("masked", *kept, 0.0) for kept in (*AT_RANDOM, *BY_LABEL)),
    *(("masked", *kept, 0.1) for kept in AT_RANDOM[2:]),
    *(("batch mean", *kept, 0.1) for kept in AT_RANDOM[2:]),
    *(("corrected", *kept, 0.0) for kept in BY_LABEL),
    *(("taken for 0", *kept, 0.0) for kept in (*AT_RANDOM[1:], *BY_LABEL)),
    ("taken for -1", 0.5, 0.5, 0.0),
]
SMALL = [arm for arm in ARMS if arm[0] == "masked" and arm[1:3] in (AT_RANDOM[2], BY_LABEL[1], BY_LABEL[2])]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 16, AXES: ARMS},
    smoke={"seeds": 4, AXES: SMALL, "steps": 400},
    paper={"seeds": 200, "samples": 5000},
    control={"treatment": "taken for 0"},
)
