"""Cross-entropy is the likelihood: it is minimal at the true probabilities, and never lets go of a mistake.

Claim: The mean cross-entropy of a model is minus the log likelihood of the labels over their number. Like the quadratic
(Brier) loss it is a proper score: without inputs to go by, descent on either ends at the frequencies of the classes,
whereas a linear loss, 1 - p of the true class, ends at the likeliest class. The slope of the cross-entropy is p - y in
the logits; on a wrong prediction it grows like the logit without bound and pulls with a force of one, where the
quadratic loss stays below 1 and pulls with 2e^-z. In a number format log(softmax) fails where log-softmax does not:
taken literally from logits of 88.7 on in float32 (of 87.3 on in XLA, which divides by multiplying with the inverse),
with the largest logit subtracted first from differences of 87.3 on.

Source: Brier 1950, Savage 1971; Gneiting & Raftery 2007, Strictly proper scoring rules, J. Amer. Statist. Assoc. 102.
That the quadratic loss has no slope where a sigmoid is wrong beyond doubt: Nielsen 2015, Neural Networks and Deep
Learning, chapter 3. The limits of the formats are ln of their largest and of their least normal number.

Departure: "Penalises mistakes" is said of the slope in the logit; in the probability p of the label both losses have a
slope, 1/p and 2(1 - p). The quadratic loss is as honest as the cross-entropy: what it lacks is the slope.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import first_arm, largest, lift, per_seed, select
from research.oracles.number_format import exponential_end
from research.oracles.scoring import best_prediction, negative_log_likelihood, slope_ratio
from research.statistics import every_seed, slope

Rule = Literal["cross_entropy", "quadratic", "linear"]
FORMATS = ("float32", "float64")
FORMS = {
    "log(softmax)": lambda z, k: -jnp.log(jnp.exp(z) / jnp.sum(jnp.exp(z)))[k],
    "log(softmax), largest subtracted": lambda z, k: -jnp.log(jax.nn.softmax(z))[k],
    "log-softmax": lambda z, k: -jax.nn.log_softmax(z)[k],
}
FARTHEST = 1e6
SETTLED = 1e-14  # of the gradient
LOSSES = ("cross-entropy", "quadratic")


class Observables(NamedTuple):
    prediction: Float[Array, "outcome"]
    loss: Float[Array, ""]


class Given(NamedTuple):
    """Counts of the classes; losses and slopes of a wrong logit z; p - y against automatic differentiation; formats."""

    counts: Float[Array, "outcome"]
    z: Float[Array, "place"]
    losses: Float[Array, "kind place"]
    slopes: Float[Array, "kind place"]
    slope_error: Float[Array, ""]
    lost_from: Float[Array, "number_format form label"]


def simulate(
    key: Array,
    learning_rate: float,
    *,
    rule: Rule = "cross_entropy",
    classes: int = 4,
    samples: int = 400,
    steps: int = 20_000,
) -> Run:
    """Descent from equal logits on the mean score of labels drawn from random probabilities; there are no inputs.

    The quadratic score is ‖softmax - e_k‖², the linear one 1 - p_k; for two classes and a logit z against the label the
    quadratic one is drawn by half of it, (1 - p)². `lost_from`: the least s, up to 10⁶, from which the loss of the
    logits (s, 0) is not finite, for the first and the second as label.
    """
    truth_key, label_key, place_key, logit_key = jax.random.split(key, 4)
    truth = jax.nn.softmax(0.7 * jax.random.normal(truth_key, (classes,)))
    drawn = jax.random.choice(label_key, classes, (samples,), p=truth)
    labels = jnp.concatenate([drawn, jnp.arange(classes)])  # one of each, so that no frequency is zero
    onehot = jax.nn.one_hot(labels, classes)

    def loss(logits: Array) -> Array:
        if rule == "cross_entropy":
            every = jnp.broadcast_to(logits, onehot.shape)
            return optax.losses.softmax_cross_entropy_with_integer_labels(every, labels).mean()
        p = jax.nn.softmax(logits)
        if rule == "quadratic":
            return jnp.mean(jnp.sum((p[None, :] - onehot) ** 2, axis=1))
        return 1 - jnp.mean(onehot @ p)

    optimizer = optax.sgd(learning_rate)
    logits = 5 * jax.random.normal(logit_key, (classes,))
    entropy = lambda z: optax.losses.softmax_cross_entropy_with_integer_labels(z, 0)
    error = jnp.max(jnp.abs(jax.grad(entropy)(logits) - (jax.nn.softmax(logits) - jnp.eye(classes)[0])))
    z = jnp.linspace(-6.0, 30.0, 37) + jax.random.uniform(place_key)
    kinds = (jax.nn.softplus, lambda z: (1 - jax.nn.sigmoid(-z)) ** 2)  # with σ(z) the slope would lose its digits
    values, slopes = zip(*(jax.vmap(jax.value_and_grad(kind))(z) for kind in kinds), strict=True)
    observe = lambda state: Observables(jax.nn.softmax(state.params), loss(state.params))
    return Run(
        start(jnp.zeros(classes), optimizer),
        descent(loss, optimizer),
        observe,
        log_spaced(steps, 20),
        Given(onehot.sum(axis=0), z, jnp.stack(values), jnp.stack(slopes), error, lost_from()),
        stop=lambda state: jnp.max(jnp.abs(jax.grad(loss)(state.params))) < SETTLED,
    )


def lost_from() -> Array:
    """By number format, form and label, where the loss of (s, 0) stops to be finite, by bisection."""

    def fine(sizes: Array, number_format: str) -> Array:
        pair = lambda size: jnp.stack([size, jnp.zeros(())]).astype(number_format)
        rows = [[FORMS[form](pair(sizes[i, label]), label) for label in (0, 1)] for i, form in enumerate(FORMS)]
        return jnp.isfinite(jnp.array(rows))

    def ends(number_format: str) -> Array:
        def halved(_: int, within: tuple[Array, Array]) -> tuple[Array, Array]:
            middle = (within[0] + within[1]) / 2
            kept = fine(middle, number_format)
            return jnp.where(kept, middle, within[0]), jnp.where(kept, within[1], middle)

        shape = (len(FORMS), 2)
        return jax.lax.fori_loop(0, 40, halved, (jnp.zeros(shape), jnp.full(shape, FARTHEST)))[1]

    return jnp.stack([ends(name) for name in FORMATS])


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """What a solver says of the best prediction, the likelihood by its law, slopes and limits in closed form."""
    dataset = dataset.assign_coords(
        number_format=list(FORMATS), form=list(FORMS), label=["larger logit", "smaller logit"], kind=list(LOSSES)
    )
    end = dataset.isel(step=-1)
    frequencies = dataset.counts / dataset.counts.sum("outcome")
    honest, own = (lift(best_prediction, frequencies, rule) for rule in (xr.DataArray("cross_entropy"), dataset.rule))
    likelihood = lift(negative_log_likelihood, dataset.counts, end.prediction) / dataset.counts.sum("outcome")
    ratio = dataset.slopes.sel(kind="quadratic") / dataset.slopes.sel(kind="cross-entropy")
    return dataset.assign(
        frequencies=frequencies,
        own=own,
        distance=abs(end.prediction - honest).max("outcome", skipna=False),
        likelihood_error=abs(end.loss - likelihood).where(dataset.rule == "cross_entropy"),
        ratio=ratio,
        foreseen_ratio=lift(slope_ratio, dataset.z),
        largest_end=lift(exponential_end, dataset.number_format, xr.DataArray(1.0)),
        least_end=-lift(exponential_end, dataset.number_format, xr.DataArray(-1.0)),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Where descent ends under each rule, the likelihood, slopes on a mistake, and what a number format breaks."""
    found: list[Finding] = []

    def add(what: str, band: tuple[float, float], values: np.ndarray) -> None:
        found.append(Finding.of(what, band, every_seed(values)))

    for rule in dict.fromkeys(np.atleast_1d(dataset.rule.values).tolist()):
        runs = select(dataset, rule=rule)
        said = f"{rule.replace('_', '-')}: largest distance of the prediction to the frequencies of the classes"
        proper = rule != "linear" or len(np.atleast_1d(dataset.rule.values)) == 1
        if proper:
            add(said, (0.0, 1e-8), per_seed(runs.distance))
        else:
            # p = 1 is reached as 1/(rate × steps × (q₁ − q₂)) only: the likeliest class wins, to one part in ten
            likeliest = per_seed((runs.prediction.isel(step=-1) * runs.own).sum("outcome"), "min")
            add("linear: probability given to the likeliest class", (0.9, 1.0), likeliest)
        if rule == "cross_entropy":
            what = "cross-entropy: mean loss at the end less −ln(likelihood)/n by the multinomial law"
            add(what, (0.0, 1e-10), per_seed(runs.likelihood_error))
    one = first_arm(dataset)
    add("cross-entropy: largest entry of its gradient in the logits less (p − y)", (0.0, 1e-12), one.slope_error.values)
    far = one.where(one.z > 10)
    error = abs(far.ratio / far.foreseen_ratio - 1).max("place")
    add("wrong by z > 10: slope of the quadratic loss over the cross-entropy's, over 2e^-z/(1 + e^-z)², less 1",
        (0.0, 1e-10), error.values)  # fmt: skip
    late = one.z.values > 10
    powers = [
        slope(z[chosen], np.log(row[chosen]))
        for z, row, chosen in zip(one.z.values, one.ratio.values, late, strict=True)
    ]
    # the next factor, (1 + e^-z)^-2, is 1 to 1e-4 there
    add("slope of ln of that ratio on z", (-1.0001, -0.9999), np.array(powers))
    entropy, quadratic = (one.losses.sel(kind=kind) for kind in LOSSES)
    add("wrong by z ≈ 30: cross-entropy less z", (0.0, 1e-9), (entropy - one.z).isel(place=-1).values)
    add("quadratic loss, the largest", (0.0, 1.0), quadratic.max("place").values)
    steepest = one.slopes.min(("kind", "place"))
    add("both losses grow with the logit against the label: the least slope", (0.0, np.inf), steepest.values)
    return found + _formats(one)


def _formats(one: xr.Dataset) -> list[Finding]:
    found = []
    literal, shifted, exact = FORMS
    for name in FORMATS:
        cell = one.sel(number_format=name)
        most, least = float(cell.largest_end), float(cell.least_end)
        # the literal form divides by e^s, and XLA does so by its inverse, which is lost a little before e^s is
        for form, label, end, low in (
            (literal, "larger logit", most, least / most),
            (shifted, "smaller logit", least, 1.0),
        ):
            what = f"{name}, {form}: s from which the loss of (s, 0) is lost, label the {label}, over {end:.2f}"
            values = np.full(one.sizes["seed"], cell.lost_from.sel(form=form, label=label) / end)  # no key in it
            found.append(Finding.of(what, (0.99 * low, 1.01), every_seed(values)))
        kept = np.full(one.sizes["seed"], cell.lost_from.sel(form=exact).min("label") / FARTHEST)
        found.append(
            Finding.of(
                f"{name}, {exact}: the same, either label, over 10⁶ (none lost)", (0.999, 1.001), every_seed(kept)
            )
        )
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) losses against the margin, (b) their slopes, (c) what descent says against what is true."""
    figure, ((losses, slopes, honest),) = plots.figure(1, 3, "Cross-entropy is honest, and never lets go of a mistake")
    one = first_arm(dataset)
    line = np.linspace(-6, 30, 400)
    p = 1 / (1 + np.exp(line))
    theory = {"cross-entropy": (np.logaddexp(0, line), 1 - p), "quadratic": ((1 - p) ** 2, 2 * p * (1 - p) ** 2)}
    for number, kind in enumerate(LOSSES):
        for panel, variable in ((losses, one.losses), (slopes, one.slopes)):
            plots.points(panel, -one.z, variable.sel(kind=kind), kind, color=f"C{number}")
        plots.theory(losses, -line, theory[kind][0], None if number else "closed forms")
        plots.theory(slopes, -line, theory[kind][1], None if number else "p − y, and 2p(1 − p)²")
    losses.plot([-6, 0, 0, 6], [1, 1, 0, 0], color="0.5", linewidth=1.2, label="mistakes (0–1 loss)")
    plots.theory(slopes, -line[line > 5], 2 * np.exp(-line[line > 5]), "2e^−z", linestyle=":")
    end = largest(dataset, "learning_rate").isel(step=-1)
    styles = {"cross_entropy": ("o", "C0", 6), "quadratic": ("x", "C1", 6), "linear": ("^", "C2", 4)}
    for rule, (marker, color, size) in styles.items():
        runs = select(end, rule=rule)
        if runs.diverged.size:
            style = {"marker": marker, "color": color, "markersize": size, "alpha": 0.7}
            plots.points(honest, runs.frequencies, runs.prediction, rule.replace("_", "-"), **style)
    plots.theory(honest, (0, 0.8), (0, 0.8), "honest")
    margin = "margin: logit in favour of the label"
    losses.set(title="a  loss of a sample", xlabel=margin, ylabel="loss", xlim=(-6, 6), ylim=(-0.2, 6.2))
    slopes.set(title="b  its pull", xlabel=margin, ylabel="−slope", yscale="log", xlim=(-30, 7), ylim=(1e-13, 5))
    honest.set(title="c  where descent ends", xlabel="frequency of a class", ylabel="probability that it is given")
    for axes in (losses, slopes, honest):
        plots.legend(axes)
    return figure


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, "rule": ["cross_entropy", "quadratic", "linear"], "learning_rate": [1.0, 3.0]},
    smoke={"seeds": 3, "rule": ["cross_entropy"], "learning_rate": [3.0], "steps": 2000},
    paper={"seeds": 64, "classes": 10, "samples": 10_000, "steps": 200_000},
    control={"rule": ["linear"]},
)
