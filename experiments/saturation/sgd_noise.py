"""The top sigmoid layer collapses because batches are noisy, as descent on L + (η/4B) tr Cov(gradient) predicts.

Claim: In a deep sigmoid classifier the last hidden layer falls towards zero at first (Glorot & Bengio's Figure 2).
The gradient of the loss does not push it there: without noise it stays, or rises as the network learns. The noise of
mini-batches does, at a pace set by η²t/B, and deterministic descent on L + (η/4B) tr Cov(gradient), with the factor
that a finite rate and the order of the samples put on its second term, predicts it with no free parameter.

Source: The figure: Glorot & Bengio 2010, section 3.1, who suspect the useless features of the lower layers. The
function: Smith et al. 2021, arXiv 2101.12176, for epochs without replacement and to first order; with replacement it
rests on our argument that Cov is the Hessian, and the factor is ours (see the oracle; of fresh batches it is Damian, Ma
& Lee's, arXiv 2106.06530). That noise explains the figure has not been published as far as we know. Near it: noise
lowers tr H along a valley (Wei & Schwab, 1910.00195) and holds a perceptron on its plateau (Sato, Tsutsui & Fujiwara,
2008.10498), a force of η/B empties first-layer weights (Beneventano, Pinto & Poggio, 2406.11110), stochastic collapse
(Chen et al. 2023, 2306.04251), and, as a hypothesis, noise saturates units along the sharpest directions (Jastrzębski
et al., ICLR 2018 workshop, openreview BJ04JEJvG).

Departure: Bundled digits, standardised, 32 of each class; 5 hidden layers of 50 units, a twentieth of the paper's
width. A generated Shapeset-like problem (16 × 16 pixels, 288 pictures drawn once, not online), another depth and width;
with and without replacement; tanh, which learns and saturates at both its ends. The prediction is a flow integrated on
4 samples of each class, with 14 it changes by less than 0.2 % (4 layers of 100: by percents). Two other networks are
shown without noise on 8 samples of each class, as 32 take long, and beside them with noise on the same samples, where
no flow is integrated. The scalar law falls behind, only partly since it holds the layer below at its start. On 320
images of MNIST (`--set problem=mnist`) h over its prediction is .991, .994 at B = 10, 40; without noise it stays. With
100 units (`--set`, η = .25, B = 10) it is .984, .990, .990 for 4, 5, 6 layers, and .83, refuted, for 3, which learn,
where the flow has 4 samples of each class; with 5 layers of 300 (η = 1/12) .991, of 1000, the paper's (η = 1/40, 3
seeds), .988 [.981, .994]. The first weights of 1000 units alone fill a file: that width is for `--set`.

Bands: A finite rate makes the force F(ηλ) times as large (the oracle's `noise_factor`), λ = (1 + N h²)/K for K classes
and N units at h, which falls with h. As h goes with the force to the power −1/2, F takes it down by ½ ln F at most: so
much may a prediction of first order miss. One with F may miss the next order, for which the square of that stands.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from experiments.saturation._sgd_noise import (
    cells,
    collapse_findings,
    leading,
    named,
    network_of,
    order_findings,
    silent_findings,
    standard_cells,
    tanh_findings,
)
from experiments.saturation._sgd_noise_page import draw, page
from research import data as problems
from research import images
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import at_step, lift, per_seed
from research.models import FullyConnected, uniform_start
from research.oracles.gradient_noise import noise_factor, scalar_activation, top_activation
from research.shapes import PAIRS, shapes
from research.statistics import median, over_seeds, slope

ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh}
FLOWS = 3  # seeds in which the run without noise is held against its flow, which takes long
SHOWN = 4  # samples of each class on which layers are read, and on which the prediction is made
Problem = Literal["digits", "shapes", "mnist"]


class Observables(NamedTuple):
    top: Float[Array, ""]
    size: Float[Array, ""]
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
    fresh: float = 1.0,
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

    Without replacement the order is drawn anew for every epoch, and what is left over of it is not used. `fresh` 0:
    every step takes the batch of the first. Raises ValueError where there are fewer samples than a batch takes.
    """
    data_key, init_key, draw_key, order_key = jax.random.split(key, 4)
    X, y = samples(data_key, problem, per_class)
    count, classes = len(X), len(X) // per_class
    if batch > count and not replacement:
        raise ValueError(f"batch is {batch}; without replacement it takes at most the {count} samples there are")
    forward: Any = FullyConnected(depth, width, classes, ACTIVATIONS[activation]).apply
    shown, optimizer = slice(SHOWN * classes), optax.sgd(learning_rate)

    def drawn(step: Array) -> Any:
        if not batch:
            return slice(None)
        step = jnp.where(fresh > 0, step, 0)
        if replacement:  # the remainder favours none of so few samples by more than 1e-6
            return jax.random.bits(jax.random.fold_in(draw_key, step), (batch,), jnp.uint32) % count
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
        return Observables(means[-1], jnp.abs(outputs[-1]).mean(), means, below, cross_entropy(logits, y[shown]).mean())

    params, initial = uniform_start(init_key, [X.shape[1], *[width] * depth, classes], X.dtype)
    number = lambda value: jnp.asarray(value, X.dtype)
    given = Given(X[shown], y[shown].astype(X.dtype), initial, number(count), number(classes))
    return Run(start(params, optimizer, jnp.zeros((), int)), step, observe, log_spaced(steps, 40), given)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """η²ct, the prediction, that of first order, the scalar laws, what each leaves; c = 1/B or (n − B)/(B(n − 1))."""
    rate, batch, begin = dataset.learning_rate, dataset.batch, dataset.top.isel(step=0)
    logistic = dataset.activation == "sigmoid"
    noisy = logistic & (batch > 0) & (dataset.fresh == dataset.fresh.max())  # the same batch again is no noise
    left = (dataset.population - batch) / (dataset.population - 1)
    noise = xr.where(dataset.replacement, 1.0, left) / batch.where(batch > 0)
    batches = xr.where(dataset.replacement | (batch == 0), np.inf, dataset.population / batch)
    clock = rate**2 * noise * dataset.step
    first = logistic
    for name, value in leading(dataset, "problem", "depth", "width").items():
        first = first & (dataset[name] == value)

    def flow(told: xr.DataArray, **options: bool) -> xr.DataArray:
        deep = (dataset.X.where(told), dataset.labels, dataset.initial, dataset.step, rate, noise.fillna(0.0))
        return lift(top_activation, *deep, dataset.width, dataset.depth, batches, **options)

    usual_count = dataset.per_class == leading(dataset, "per_class")["per_class"]
    predicted = flow((noisy & usual_count) | (first & (batch == 0) & (dataset.seed < FLOWS)))
    plain = flow(noisy & first, first_order=True)
    # rivals: a layer that has not halved by its prediction is not told apart from one that rests
    fallen = (batch == 0) | (predicted.min("step") < begin / 2)
    inside = noisy & (begin > 0) & (begin < 1)
    usual, begun = 1 - 1 / dataset.classes, begin.where(inside, 0.5)
    lengths, pace = 1 + dataset.below, clock.diff("step").reindex(step=dataset.step)
    rest, moving = lengths.isel(step=0) * clock, (lengths + lengths.shift(step=1)) / 2 * pace
    moving = moving.fillna(0.0).cumsum("step").assign_coords(step=dataset.step)
    scalar, driven = (lift(scalar_activation, each.fillna(0.0), usual, begun).where(inside) for each in (rest, moving))
    steepest = (1 + dataset.width * begun**2) / dataset.classes
    factor = lift(noise_factor, rate * steepest, batches.where(batches > 1, np.inf))
    return dataset.assign(
        noise=noise,
        clock=clock,
        predicted=predicted,
        plain=plain,
        scalar=scalar,
        ratio=(dataset.top / predicted).where(fallen),
        plain_ratio=(dataset.top / plain).where(fallen),
        scalar_ratio=dataset.top / scalar,
        driven_ratio=dataset.top / driven,
        allowed=np.log(factor) / 2,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The prediction, the nulls, the collapse onto η²t/B, first order, no replacement, other networks, scalar, tanh."""
    last, found = dataset.sel(step=dataset.steps), []
    noisy, ends = standard_cells(dataset), standard_cells(last)

    def close(what: str, cell: xr.Dataset, variable: str = "ratio") -> None:
        most = float(cell.allowed.mean())
        low, high = {"ratio": (most**2, most**2), "plain_ratio": (most + most**2, most**2)}.get(variable, (most, most))
        band = float(np.exp(-low)), float(np.exp(high))
        found.append(Finding.of(f"{named(cell)}: {what}, mean of seeds", band, over_seeds(cell[variable])))

    def explained(what: str, cell: xr.Dataset) -> None:
        shares = np.abs(np.log(per_seed(cell.ratio)) / np.log(per_seed(cell.plain_ratio)))
        statement = f"{named(cell)}: {what}share of |ln(h/prediction)| that the factor F leaves, median"
        found.append(Finding.of(statement, (0.0, 1.0), median(shares)))

    for number, cell in enumerate(ends):
        close("the same" if number else f"last hidden layer over its prediction, step {int(cell.steps)}", cell)
    if not ends or str(ends[0].activation.values) != "sigmoid":
        found = [Finding("noisy batches of a sigmoid network: none here", (0.0, 0.0), np.nan, (np.nan, np.nan))]
        return found + tanh_findings(dataset)
    found += silent_findings(dataset) + collapse_findings(noisy)
    for cell in ends:
        close("over the prediction of first order, without F", cell, "plain_ratio")
    found += order_findings(ends)
    relaxation = float(noisy[0].classes.mean() / noisy[0].learning_rate)
    moment = xr.DataArray(relaxation)
    early = noisy[0].assign({name: at_step(noisy[0][name], moment) for name in ("ratio", "plain_ratio")})
    close(f"after K/η = {relaxation:.0f} steps, over its prediction", early)
    explained(f"after {relaxation:.0f} steps, ", early)
    explained(f"at step {int(ends[0].steps)}, ", ends[0])
    alike = leading(dataset, "activation", "fresh", "per_class")
    for cell in cells(last, batch=lambda batch: batch > 0, replacement=False, **alike):
        if network_of(cell) == network_of(ends[0]):
            close("last hidden layer over its prediction, F that of an epoch", cell)
            close("over the prediction of first order (Smith et al.)", cell, "plain_ratio")
            explained("", cell)
    for cell in cells(last, batch=lambda batch: batch > 0, replacement=True, **alike):
        if network_of(cell) != network_of(ends[0]):
            close("{}, {} layers of {}: last hidden layer over its prediction".format(*network_of(cell)), cell)
    for cell in noisy[:1]:
        late = cell.sel(step=cell.step >= cell.steps / 10)
        x = np.log(late.clock.values)
        fitted, theory = (slope(x, np.log(late[name].values)) for name in ("top", "predicted"))
        # a ratio that goes from the edge of its band to 1 within the decade tilts the slope by so much
        tilt = float(cell.allowed.mean()) ** 2 / np.log(10)
        what = f"{named(cell)}: d ln h/d ln(η²t/B) in the last decade of time"
        found.append(Finding.of(f"{what}, less the prediction's", (-tilt, tilt), over_seeds(fitted - theory)))
        outlook = f"the prediction itself has {theory.mean():.2f} there; h must be small for h ~ (η²t/B)^(−1/2)"
        found.append(Finding.of(what, (-0.5 - tilt, -0.5 + tilt), over_seeds(fitted), outlook))
    for cell in ends[:1]:
        close("last hidden layer over the scalar law, the layer below resting", cell, "scalar_ratio")
        close("over the scalar law, the layer below as it moves in the run", cell, "driven_ratio")
    return found + tanh_findings(dataset)


AXES = ("problem", "activation", "depth", "width", "batch", "learning_rate", "replacement", "fresh", "per_class")
NETWORK, USUAL = ("digits", "sigmoid", 5, 50), (True, 1.0, 32)
CELLS = [
    *((*NETWORK, batch, rate, *USUAL) for batch, rate in ((10, 0.5), (10, 0.25), (10, 0.125), (40, 0.5), (40, 0.25))),
    (*NETWORK, 160, 0.5, *USUAL),
    *((*NETWORK, batch, 0.5, False, 1.0, 32) for batch in (40, 160)),
    ("digits", "tanh", 5, 50, 10, 0.5, *USUAL),
    ("shapes", "sigmoid", 5, 50, 10, 0.5, *USUAL),
    ("digits", "sigmoid", 4, 100, 10, 0.25, *USUAL),
    ("digits", "sigmoid", 6, 50, 10, 0.5, *USUAL),
    (*NETWORK, 0, 0.5, False, 1.0, 32),  # without noise from here on
    (*NETWORK, 10, 0.5, True, 0.0, 32),
    *(  # and with noise, of the same few samples
        (*network, batch, rate, batch > 0, 1.0, 8)
        for network, rate in ((("digits", "sigmoid", 4, 100), 0.25), (("shapes", "sigmoid", 5, 50), 0.5))
        for batch in (0, 10)
    ),
]
GRID = [(batch, rate, True) for batch in (10, 40, 160) for rate in (0.5, 0.25, 0.125)]
NETWORKS = {
    ("sigmoid", 5, 100): [*GRID, (40, 0.5, False), (160, 0.5, False), (0, 0.5, False)],
    **{("sigmoid", depth, 100): [*GRID[::3], (0, 0.5, False)] for depth in (3, 4, 6)},
    **{("sigmoid", 5, width): [*GRID[::3], (0, 0.5, False)] for width in (50, 300)},  # 1000 by --set: see Departure
    ("tanh", 5, 100): GRID[:1],
}
WIDE = [
    (problem, *network, batch, rate * min(1.0, 50 / network[-1]), replacement, 1.0, 128)
    for problem in ("digits", "shapes")  # and with MNIST at hand, --set problem=mnist
    for network, sampling in NETWORKS.items()
    for batch, rate, replacement in sampling
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: CELLS},
    smoke={"seeds": 2, AXES: [(*NETWORK, 10, rate, True, 1.0, 10) for rate in (0.5, 0.25)], "steps": 1000},
    paper={"seeds": 8, AXES: WIDE, "steps": 20_000},
    control={"fresh": 0.0},
    precision="float32",
    page=page,
)
