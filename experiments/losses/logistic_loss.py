"""The textbook's four steps to the logistic loss are right, and useless where they are needed: at confident mistakes.

Claim: The four steps (p = 1/(1 + e^-z), take p for label 1 and 1 - p for label 0, -ln, mean) give the mean of
ln(1 + e^m), m the logit in the wrong direction, as scikit-learn's `log_loss` does. In a number format whose next number
after 1 is 1 + ε they do so only to an error of about ε e^m, as 1 - p has no finer digits, and return an infinite loss
and no gradient from m = ln(2/ε) on: 36.7 in float64, 16.6 in float32. The form max(z, 0) - y z + ln(1 + e^-|z|), and
Optax's `sigmoid_binary_cross_entropy`, keep all digits of the loss for every logit, and their slope is p - y to ε.
scikit-learn clips: no sample costs it more than -ln ε = 36.04.

Source: The steps are every textbook's (Goodfellow, Bengio & Courville 2016, Deep Learning, section 6.2.2.2, says why
they are not to be taken apart). The error is derived here: 1 + e^-z is rounded by ε/2 at most and its inverse, below 1,
by ε/4, so that 1 - p is off by 3ε/4 at most; the second alone, spread evenly, has the root mean square ε/(4√3).

Departure: The digits are lost on one side. For label 1 and z → -∞ nothing is subtracted, and the steps hold until
e^z is too small for the format, z = -87.3 in float32 and -708.4 in float64. A loss that is not finite counts as an
error of its whole size. The slope of a sample that is right beyond doubt is tiny. In the form written by hand not all
digits of it survive automatic differentiation, which adds 1, -1 and the tiny part in its own order: refuted as far as
relative errors go. Optax's form, -y ln σ(z) - (1 - y) ln σ(-z), keeps them.

Bands: The stable forms have five operations; 32 roundings ε are allowed, since exp and log1p are not rounded correctly.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select
from research.oracles.log_loss import LARGEST, clipped_log_loss, logistic_losses, logistic_slopes
from research.oracles.number_format import last_slope
from research.statistics import every_seed

FORMATS = ("float32", "float64")
EPSILON = xr.DataArray([float(np.finfo(each).eps) for each in FORMATS], {"number_format": list(FORMATS)})
TINY = 1e-30  # losses below it are no loss: float32 has none below 1.2e-38
ROUNDINGS = 32
FARTHEST = 1e6
NAMES = {"stable": "max(z, 0) − yz + ln(1 + e^−|z|)", "optax": "Optax", "four steps": "four steps"}


class Measures(NamedTuple):
    logit: Float[Array, "number_format sample"]
    label: Float[Array, "sample"]
    probability: Float[Array, "number_format sample"]
    loss: Float[Array, "number_format sample"]
    slope: Float[Array, "number_format sample"]
    lost: Float[Array, "number_format sample"]
    average: Float[Array, "number_format"]
    infinite_from: Float[Array, "number_format side"]


def four_steps(logit: Array, label: Array) -> Array:
    """The loss of a sample as textbooks compute it."""
    p = jax.nn.sigmoid(logit)
    return -jnp.log(jnp.where(label == 1, p, 1 - p))


def stable(logit: Array, label: Array) -> Array:
    """The loss of a sample without a subtraction of near numbers and without a large exponential."""
    return jnp.maximum(logit, 0) - label * logit + jnp.log1p(jnp.exp(-jnp.abs(logit)))


FORMS = {"stable": stable, "optax": optax.losses.sigmoid_binary_cross_entropy, "four steps": four_steps}


def simulate(
    key: Array, magnitude: float, *, form: Literal["stable", "optax", "four steps"] = "stable", samples: int = 64
) -> Measures:
    """The losses of samples with |z| from magnitude/2 to magnitude, each sign with each label, in float32 and float64.

    `lost` is 1 where loss or slope is not a number or infinite; -1 stands for them then. `infinite_from` is the least
    |z|, up to 10⁶, from which a wrong prediction costs infinitely much, for z < 0 (label 1) and z > 0 (label 0).
    """
    number = jnp.arange(samples)
    sign, label = jnp.where(number % 2 == 0, 1.0, -1.0), (number // 2) % 2.0
    exact = magnitude * sign * jax.random.uniform(key, (samples,), minval=0.5)
    sides = jnp.array([-1.0, 1.0])

    def seen(number_format: str) -> tuple[Array, ...]:
        z, y = exact.astype(number_format), label.astype(number_format)
        loss, slope = jax.vmap(jax.value_and_grad(FORMS[form]))(z, y)
        lost = ~(jnp.isfinite(loss) & jnp.isfinite(slope))

        def halved(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            middle = (ends[0] + ends[1]) / 2
            wrong = jnp.isinf(FORMS[form]((sides * middle).astype(number_format), (sides < 0).astype(number_format)))
            return jnp.where(wrong, ends[0], middle), jnp.where(wrong, middle, ends[1])

        end = jax.lax.fori_loop(0, 40, halved, (jnp.zeros(2), jnp.full(2, FARTHEST)))[1]
        kept = lambda values: jnp.where(lost, -1, values)
        mean = jnp.where(lost.any(), -1, jnp.mean(loss))
        return tuple(each.astype(float) for each in (z, jax.nn.sigmoid(z), kept(loss), kept(slope), lost, mean, end))

    z, p, loss, slope, lost, mean, end = map(jnp.stack, zip(*map(seen, FORMATS), strict=True))
    return Measures(z, label, p, loss, slope, lost, mean, end)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The exact losses and slopes of the very logits, scikit-learn's mean, and the relative errors."""
    dataset = dataset.assign_coords(number_format=list(FORMATS), side=[-1.0, 1.0])
    exact, slopes = (lift(oracle, dataset.logit, dataset.label) for oracle in (logistic_losses, logistic_slopes))
    lost = dataset.lost == 1
    apart = lambda values, truth: (abs(values - truth) / (abs(truth) + TINY)).where(~lost, 1.0 + 0 * truth)
    wrong = (dataset.logit > 0) == (dataset.label == 0)
    double = dataset.sel(number_format="float64")
    return dataset.assign(
        exact=exact,
        wrong=wrong,
        error=apart(dataset.loss, exact),
        slope_error=abs(dataset.slope - slopes).where(~lost, 1.0 + 0 * slopes),
        tail_error=apart(dataset.slope, slopes),
        digits=((dataset.loss - exact) * np.exp(-abs(dataset.logit)) / EPSILON).where(~lost),
        clipped=lift(clipped_log_loss, double.probability, double.label),
        capped=np.minimum(exact.sel(number_format="float64"), LARGEST).mean("sample"),
        format_end=lift(last_slope, xr.DataArray("sigmoid"), dataset.number_format, dataset.side).pipe(abs),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Loss and slope of the stable forms, then what becomes of the four steps, then scikit-learn."""
    found: list[Finding] = []

    def add(what: str, band: tuple[float, float], values: np.ndarray) -> None:
        found.append(Finding.of(what, band, every_seed(values)))

    most = float(dataset.magnitude.max())
    for form in dict.fromkeys(np.atleast_1d(dataset.form.values).tolist()):
        runs = select(dataset, form=form)
        if form != "four steps" or len(np.atleast_1d(dataset.form.values)) == 1:
            for variable, name in (
                ("error", "relative error of the loss"),
                ("slope_error", "error of the slope"),
                ("tail_error", "relative error of the slope"),
            ):
                what = f"{form}: largest {name} for |z| up to {most:g}, in units of ε"
                add(what, (0.0, ROUNDINGS), per_seed(runs[variable] / EPSILON))
    steps = select(dataset, form="four steps")
    if steps.diverged.size:
        found += _steps(steps)
    within = lambda low, high: select(dataset, magnitude=lambda size: low <= size < high)
    small, large = within(0.0, 10.5), within(80.0, np.inf)
    if small.diverged.size:
        # the clipped mean of the library's own probabilities: 3ε/4 · e^10 at most, of losses that are 5 on average
        ratio = small.clipped / small.average.sel(number_format="float64") - 1
        add("|z| ≤ 10, float64: scikit-learn's log_loss over the mean, less 1", (-1e-11, 1e-11), _both(ratio))
    if large.diverged.size:
        ratio = large.clipped / large.capped - 1
        what = f"|z| ≥ 40: scikit-learn's log_loss over the mean of losses capped at {LARGEST:.4f}, less 1"
        add(what, (-1e-12, 1e-12), _both(ratio))
    return found


def _both(values: xr.DataArray) -> np.ndarray:
    return per_seed(values, "min", "max")


def _steps(steps: xr.Dataset) -> list[Finding]:
    """The digits that the four steps lose, and where nothing is left."""
    found = []
    for name in FORMATS:
        runs, epsilon = steps.sel(number_format=name), float(EPSILON.sel(number_format=name))
        # from |z| = 4, where 1 + e^-z is rounded as said, to errors of a tenth
        judged = runs.wrong & (runs.logit > 4) & (runs.logit < np.log(0.1 / epsilon))
        if bool(judged.any()):
            square = (runs.digits.where(judged) ** 2).mean([each for each in runs.digits.dims if each != "seed"])
            what = f"four steps, {name}, label 0: root mean square of (error of the loss)/(ε e^z), 4 < z < ln(0.1/ε)"
            found.append(Finding.of(what, (0.9 / (4 * 3**0.5), 0.75), every_seed(per_seed(square**0.5))))
        for side, said in ((1.0, "label 0, z > 0"), (-1.0, "label 1, z < 0")):
            cell = runs.sel(side=side)
            end = float(cell.format_end.max(skipna=False))
            what = f"four steps, {name}, {said}: the |z| from which the loss is infinite, over {end:.2f}"
            found.append(
                Finding.of(what, (0.99, 1.01), every_seed(per_seed(cell.infinite_from / cell.format_end, "mean")))
            )
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the loss of a wrong prediction, (b) relative errors of the loss, (c) of the slope."""
    title = "Logistic loss: the textbook's four steps fail at confident mistakes"
    figure, ((curve, errors, slopes),) = plots.figure(1, 3, title)
    line = np.linspace(-5, 50, 300)
    forms = dict.fromkeys(np.atleast_1d(dataset.form.values).tolist())
    for form in forms:
        runs = select(dataset, form=form)
        for number, name in enumerate(FORMATS):
            cell = runs.sel(number_format=name)
            color = {"four steps": ("C3", "C1")}.get(form, ("C5", "C0"))[number]
            marker = {"stable": "o", "optax": "+", "four steps": "o"}[form]
            shown = cell.where(cell.wrong & (cell.label == 0))
            style = {"color": color, "marker": marker, "alpha": 0.35, "markersize": 4 if form == "optax" else 3}
            label = f"{form}, {name}"
            for panel, variable, said in ((errors, "error", label), (slopes, "slope_error", None)):
                plots.points(panel, shown.logit, shown[variable].where(shown[variable] > 0), said, **style)
            if form != "optax" and (form == "four steps" or name == "float64"):
                inside = shown.where((shown.logit < 50) & (shown.lost == 0))
                plots.points(curve, inside.logit, inside.loss, label, **style)
            if form == "four steps":
                end = float(cell.infinite_from.sel(side=1.0).max())
                curve.axvline(end, color=color, linewidth=1.0, linestyle=":")
                curve.text(end + 0.3, 0.0, f"∞ from {end:.1f}", rotation=90, va="bottom", fontsize=7, color=color)
    plots.theory(curve, line, np.logaddexp(0, line), "ln(1 + e^z)")
    plots.theory(curve, line, np.minimum(np.logaddexp(0, line), LARGEST), "clipped by scikit-learn", linestyle=":")
    for number, name in enumerate(FORMATS):
        epsilon = float(EPSILON.sel(number_format=name))
        z = np.linspace(1, np.log(1 / epsilon), 200)
        plots.theory(errors, z, epsilon * np.exp(z) / np.logaddexp(0, z), None if number else "ε e^z / loss")
        plots.theory(slopes, (0.05, 1e4), (epsilon, epsilon), None if number else "ε")
    curve.set(title="a  a wrong prediction, label 0", xlabel="logit z", ylabel="loss", xlim=(-5, 50), ylim=(-2, 52))
    for panel, what in ((errors, "b  the loss, relative"), (slopes, "c  its slope p − y, absolute (colours as in b)")):
        panel.set(title=what, xscale="log", yscale="log", xlabel="logit z (label 0)")
        panel.set(ylabel="error (1: infinite or not a number)", ylim=(1e-18, 30))
    for axes in (curve, errors, slopes):
        plots.legend(axes)
    return figure


MAGNITUDES = tuple(float(each) for each in np.geomspace(0.1, 1e4, 31))
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, "form": ["stable", "optax", "four steps"], "magnitude": [*MAGNITUDES, 20.0, 30.0]},
    smoke={"seeds": 3, "form": ["stable", "four steps"], "magnitude": [1.0, 10.0, 20.0, 35.0, 100.0, 1e4]},
    paper={"seeds": 64, "samples": 1024},
    control={"form": "four steps"},
)
