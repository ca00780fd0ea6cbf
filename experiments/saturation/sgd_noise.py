"""The top sigmoid layer collapses because batches are noisy, as descent on L + (η/4B) tr Cov(gradient) predicts.

Claim: In a deep sigmoid classifier the last hidden layer falls towards zero at first (Glorot & Bengio's Figure 2).
The gradient of the loss does not push it there: full-batch descent leaves it where it began. The noise of mini-batches
does, at a pace set by η²t/B, and deterministic descent on L + (η/4B) tr Cov(gradient) predicts it with no free
parameter.

Source: The figure: Glorot & Bengio 2010, section 3.1, who suspect the useless features of the lower layers. The
function: Smith et al. 2021, arXiv 2101.12176. That noise explains the figure has not been published as far as we know;
near it is the stochastic collapse of Chen et al. 2023, arXiv 2306.04251.

Departure: Bundled digits, standardised, 32 of each class; 5 hidden layers of 50 units, a twentieth of the paper's
width. A generated Shapeset-like problem (16 × 16 pixels, 288 pictures drawn once, not online), another depth and width;
with and without replacement; tanh. The prediction is a flow integrated on 4 samples of each class: with 14 it changes
by less than 0.2 %. The scalar law holds the layer below at its start, and falls behind. Batches of half the samples
without replacement move the layer faster than their formula says, those of an eighth as fast as with replacement.

Bands: to first order in η. At a finite rate the noise scatters the readout 1/(1 − ηλ/2) times as far (see the oracle),
λ = (1 + N h²)/K for K classes and N units at h, which falls with h. At its largest it makes h, which goes with the
strength of the noise to the power −1/2, (1 − ηλ/2)^(1/2) times as large: so much is allowed on either side. That this
is the reason is judged by the order in η, and by the flow with that factor.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from experiments.saturation._sgd_noise import around, cells, draw, named, network_of, page, standard_cells
from research import data as problems
from research import images
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import at_step, lift, per_seed
from research.models import FullyConnected, uniform_start
from research.oracles.gradient_noise import scalar_activation, top_activation
from research.shapes import PAIRS, shapes
from research.statistics import every_seed, over_seeds, slope

ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh}
SHOWN = 4  # samples of each class on which layers are read, and on which the prediction is made
Problem = Literal["digits", "shapes", "mnist"]


class Observables(NamedTuple):
    top: Float[Array, ""]
    means: Float[Array, "layer"]
    below: Float[Array, ""]
    loss: Float[Array, ""]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    labels: Float[Array, "sample"]
    initial: Float[Array, "parameter"]
    population: Float[Array, ""]
    classes: Float[Array, ""]


def samples(key: Array, problem: Problem, per_class: int) -> tuple[Array, Array]:
    """Standardised inputs and labels, the classes in turn."""
    if problem == "shapes":
        labels = np.tile(np.arange(len(PAIRS)), per_class)
        drawn = shapes(key, labels, 16).reshape(len(labels), -1)
        spread = jnp.std(drawn, axis=0, keepdims=True)
        return (drawn - drawn.mean(axis=0, keepdims=True)) / jnp.where(spread > 0, spread, 1.0), jnp.asarray(labels)
    if problem == "mnist":
        pixels, labels = (each[:10_000] for each in images.mnist("train"))
        pixels = pixels.reshape(len(pixels), -1) / 255
    else:
        pixels, labels = problems.digits()
    chosen = problems.balanced_subset(key, labels, per_class)
    return jnp.asarray(problems.standardized(pixels), jnp.result_type(float))[chosen], jnp.asarray(labels)[chosen]


def simulate(
    key: Array,
    learning_rate: float,
    *,
    problem: Problem = "digits",
    activation: Literal["sigmoid", "tanh"] = "sigmoid",
    depth: int = 5,
    width: int = 50,
    batch: int = 10,
    replacement: bool = True,
    per_class: int = 32,
    steps: int = 4000,
) -> Run:
    """SGD on the mean cross-entropy of a network with W between ±1/√fan_in and b = 0; a batch of 0 takes all samples.

    Without replacement the order is drawn anew for every epoch, and what is left over of it is not used.
    """
    data_key, init_key, draw_key, order_key = jax.random.split(key, 4)
    X, y = samples(data_key, problem, per_class)
    count, classes = len(X), len(X) // per_class
    forward: Any = FullyConnected(depth, width, classes, ACTIVATIONS[activation]).apply
    shown, optimizer = slice(SHOWN * classes), optax.sgd(learning_rate)

    def drawn(step: Array) -> Any:
        if not batch:
            return slice(None)
        if replacement:
            return jax.random.randint(jax.random.fold_in(draw_key, step), (batch,), 0, count)
        epoch, place = jnp.divmod(step, count // batch)
        order = jax.random.permutation(jax.random.fold_in(order_key, epoch), count)
        return jax.lax.dynamic_slice(order, (place * batch,), (batch,))

    def step(state: Any) -> Any:
        chosen = drawn(state.key)
        loss = lambda params: cross_entropy(forward(params, X[chosen]).logits, y[chosen]).mean()
        return descent(loss, optimizer)(state)._replace(key=state.key + 1)

    def observe(state: Any) -> Observables:
        logits, sums = forward(state.params, X[shown])
        outputs = ACTIVATIONS[activation](sums)
        means = outputs.mean(axis=(1, 2))
        below = jnp.mean(jnp.sum(outputs[-2] ** 2, axis=1))
        return Observables(means[-1], means, below, cross_entropy(logits, y[shown]).mean())

    params, initial = uniform_start(init_key, [X.shape[1], *[width] * depth, classes], X.dtype)
    number = lambda value: jnp.asarray(value, X.dtype)
    given = Given(X[shown], y[shown].astype(X.dtype), initial, number(count), number(classes))
    return Run(start(params, optimizer, jnp.zeros((), int)), step, observe, log_spaced(steps, 40), given)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """η²ct, the prediction, the scalar law, what each leaves; c = 1/B or (n − B)/(B(n − 1))."""
    rate, batch = dataset.learning_rate, dataset.batch
    noisy = batch > 0
    left = (dataset.population - batch) / (dataset.population - 1)
    noise = xr.where(dataset.replacement, 1.0, left) / batch.where(noisy)
    clock, begin = rate**2 * noise * dataset.step, dataset.top.isel(step=0)
    deep = (dataset.X.where(noisy), dataset.labels, dataset.initial)
    predicted = lift(top_activation, *deep, dataset.step, rate, noise.fillna(0.0), dataset.width, dataset.depth)
    strength = (1 - 1 / dataset.classes) * (1 + dataset.below.isel(step=0))
    inside = noisy & (begin > 0) & (begin < 1)  # the mean of tanh is about zero
    scalar = lift(scalar_activation, clock.fillna(0.0), strength, begin.where(inside, 0.5)).where(inside)
    steepest = (1 + dataset.width * begin.where(inside, 0.5) ** 2) / dataset.classes
    first = {name: np.atleast_1d(dataset[name].values)[0] for name in ("problem", "depth", "width")}
    small = noisy & (batch == batch.where(noisy).min()) & dataset.replacement  # the others would take too long
    for name, value in first.items():
        small = small & (dataset[name] == value)
    finite = (dataset.X.where(small), *deep[1:], dataset.step, rate, noise.fillna(0.0), dataset.width, dataset.depth)
    return dataset.assign(
        noise=noise,
        clock=clock,
        predicted=predicted,
        scalar=scalar,
        ratio=dataset.top / predicted,
        scalar_ratio=dataset.top / scalar,
        finite_ratio=dataset.top / lift(top_activation, *finite, finite=True),
        allowed=-np.log1p(-(rate * steepest / 2).clip(max=1.0)) / 2,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The prediction, the null, the collapse onto η²t/B, the scalar law, no replacement, tanh, other problems."""
    last, found = dataset.sel(step=dataset.steps), []
    noisy, ends = standard_cells(dataset), standard_cells(last)

    def close(what: str, cell: xr.Dataset, variable: str = "ratio") -> None:
        allowed = float(cell.allowed.mean())
        estimate = over_seeds(cell[variable])
        found.append(Finding.of(f"{named(cell)}: {what}, mean of seeds", around(allowed), estimate))

    for cell in ends[:1]:
        close(f"last hidden layer over its prediction, step {int(cell.steps)}", cell)
    for cell in ends[1:]:
        close("the same", cell)
    if not ends:
        found.append(Finding("noisy batches: none in this design", (0.0, 0.0), np.nan, (np.nan, np.nan)))
    if not ends or str(ends[0].activation.values) != "sigmoid":  # logarithms of the mean of tanh say nothing
        return found
    for null in cells(last, batch=0, activation="sigmoid"):
        before = cells(dataset.sel(step=0), batch=0, activation="sigmoid")[0].top
        rival = [cell for cell in ends if cell.learning_rate == null.learning_rate]
        if rival:
            begin = standard_cells(dataset.sel(step=0))[0].top
            moved = np.log(null.top / before).mean() / np.log(rival[0].top / begin)
            what = f"ln-change of the last layer with all samples, over that at B = {int(rival[0].batch)}"
            found.append(Finding.of(f"η = {float(null.learning_rate):g}: {what}", (-0.02, 0.02), over_seeds(moved)))
    found += _collapse(noisy) + _order(ends)
    for cell in noisy[:1]:
        late = cell.sel(step=cell.step >= cell.steps / 10)
        x = np.log(late.clock.values)
        fitted, theory = (slope(x, np.log(late[name].values)) for name in ("top", "predicted"))
        # a ratio that goes from the edge of its band to 1 within the decade tilts the slope by so much
        tilt = float(cell.allowed.mean()) / np.log(10)
        what = f"{named(cell)}: d ln h/d ln(η²t/B) in the last decade of time"
        found.append(Finding.of(f"{what}, less the prediction's", (-tilt, tilt), over_seeds(fitted - theory)))
        outlook = f"the prediction itself has {theory.mean():.2f} there; h must be small for h ~ (η²t/B)^(−1/2)"
        found.append(Finding.of(what, (-0.5 - tilt, -0.5 + tilt), over_seeds(fitted), outlook))
    for cell in ends[:1]:
        close("last hidden layer over the scalar law, the layer below resting", cell, "scalar_ratio")
    if noisy and float(noisy[0].learning_rate) > 0:
        relaxation = float(noisy[0].classes.mean() / noisy[0].learning_rate)
        names, moment = ("ratio", "finite_ratio"), xr.DataArray(relaxation)
        early = noisy[0].assign({name: at_step(noisy[0][name], moment) for name in names})
        when = f"after K/η = {relaxation:.0f} steps"
        close(f"{when}, over its prediction", early)
        for cell, then in ((early, when), (ends[0], f"at step {int(ends[0].steps)}")):
            left = np.abs(np.log(per_seed(cell.finite_ratio)) / np.log(per_seed(cell.ratio)))
            what = f"{named(cell)}: {then}, share of |ln(h/prediction)| left with the factor 1/(1 − ηλ/2)"
            found.append(Finding.of(what, (0.0, 1.0), over_seeds(left)))
    for cell in ends:
        if np.isfinite(cell.finite_ratio).all():
            close("over its prediction with the factor 1/(1 − ηλ/2)", cell, "finite_ratio")
    for cell in cells(last, batch=lambda batch: batch > 0, replacement=False, activation="sigmoid"):
        close("last hidden layer over its prediction, c = (n − B)/(B (n − 1))", cell)
        rival = [each for each in ends if (each.batch, each.learning_rate) == (cell.batch, cell.learning_rate)]
        if rival:
            wrong = per_seed(np.log(cell.top) - np.log(rival[0].predicted))
            shares = np.abs(np.log(per_seed(cell.ratio)) / wrong)
            what = "|ln(h/prediction)| over that of the prediction with c = 1/B"
            found.append(Finding.of(f"{named(cell)}: {what}", (0.0, 1.0), over_seeds(shares)))
    for cell in cells(last, activation="tanh", batch=lambda batch: batch > 0):
        what = "tanh, mean output of the last hidden layer (the sigmoid's goes to the end of its range)"
        bound = 2 / float(cell.width) ** 0.5  # of N outputs in [−1, 1] with mean zero: twice the largest deviation
        found.append(Finding.of(f"{named(cell)}: {what}", (-bound, bound), every_seed(cell.top)))
    others = cells(last, activation="sigmoid", replacement=True, batch=lambda batch: batch > 0)
    first = [network_of(cell) for cell in ends[:1]]
    for cell in others:
        if network_of(cell) not in first:
            close("{}, {} layers of {}: last hidden layer over its prediction".format(*network_of(cell)), cell)
    return found


def _collapse(noisy: list[xr.Dataset]) -> list[Finding]:
    """How far the cells are apart at one η²t/B, where the readout has relaxed ten times in each of them."""
    where = min((float(cell.clock.max()) for cell in noisy), default=np.nan) * 0.8
    step = lambda cell: where / (float(cell.learning_rate) ** 2 * float(cell.noise.mean()))
    kept = [cell for cell in noisy if step(cell) * float(cell.learning_rate) >= 10 * float(cell.classes.mean())]
    if len(kept) < 2:
        return []
    heights = np.stack([np.log(at_step(cell.top, xr.DataArray(step(cell))).values) for cell in kept])
    apart = np.abs(heights - heights.mean(axis=0)).max(axis=0)
    most = max(float(cell.allowed.mean()) for cell in kept)
    what = f"{len(kept)} cells at η²t/B = {where:.3g}: largest |ln h| from their mean"
    return [Finding.of(what, (0.0, most), every_seed(apart))]


def _order(ends: list[xr.Dataset]) -> list[Finding]:
    """How the distance to the prediction goes with η where η²/B is the same."""
    strength = lambda cell: round(float(cell.learning_rate) ** 2 * float(cell.noise.mean()), 12)
    alike = [[cell for cell in ends if strength(cell) == value] for value in sorted({strength(cell) for cell in ends})]
    alike = [group for group in alike if len(group) > 2]
    if not alike:
        return []
    rates = np.log([float(cell.learning_rate) for cell in alike[0]])
    away = np.stack([np.log(np.abs(np.log(per_seed(cell.ratio)))) for cell in alike[0]], axis=1)
    what = f"{len(rates)} cells of equal η²t/B: slope of ln|ln(h/prediction)| on ln η (first order: neither 0 nor 2)"
    return [Finding.of(what, (0.5, 1.5), over_seeds(slope(rates, away), np.median))]


AXES = ("problem", "activation", "depth", "width", "batch", "learning_rate", "replacement")
NETWORK = ("digits", "sigmoid", 5, 50)
LOUD = (*NETWORK, 10, 0.5, True)
NULL = (*NETWORK, 0, 0.5, False)
CELLS = [
    *((*NETWORK, batch, rate, True) for batch, rate in ((10, 0.5), (10, 0.25), (10, 0.125), (40, 0.5), (40, 0.25))),
    (*NETWORK, 160, 0.5, True),
    *((*NETWORK, batch, 0.5, False) for batch in (40, 160)),
    NULL,
    ("digits", "tanh", 5, 50, 10, 0.5, True),
    ("shapes", "sigmoid", 5, 50, 10, 0.5, True),
    ("digits", "sigmoid", 4, 100, 10, 0.25, True),
    ("digits", "sigmoid", 6, 50, 10, 0.5, True),
]
WIDE = [
    (problem, activation, depth, width, batch, rate * min(1.0, 50 / width), replacement)
    for problem in ("digits", "shapes")  # and with MNIST at hand, --set problem=mnist
    for activation, depth, width in (
        *(("sigmoid", depth, 100) for depth in (5, 3, 4, 6)),
        *(("sigmoid", 5, width) for width in (50, 300, 1000)),
        ("tanh", 5, 100),
    )
    for batch, rate, replacement in (
        *((batch, rate, True) for batch in (10, 40, 160) for rate in (0.5, 0.25, 0.125)),
        *((batch, 0.5, False) for batch in (10, 40, 160)),
        (0, 0.5, False),
    )
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: CELLS},
    smoke={"seeds": 2, AXES: [LOUD, (*NETWORK, 10, 0.25, True)], "steps": 1000, "per_class": 10},
    paper={"seeds": 8, AXES: WIDE, "per_class": 128, "steps": 20_000},
    control={"activation": "tanh"},
    precision="float32",
    page=page,
)
