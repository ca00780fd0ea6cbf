"""Thirty layers of ReLUs learn from He's initialisation and stall from Xavier's, under SGD.

Claim: A layer of ReLUs multiplies the mean of ‖h‖² by n·Var(W)/2, so that weights of variance 2/n keep it and those of
variance 1/n halve it; so do gradients. Both train networks of moderate depth, from 2/n faster; thirty layers learn from
2/n while from 1/n they stall completely.

Source: He, Zhang, Ren & Sun 2015, "Delving deep into rectifiers", arXiv 1502.01852, section 2.2 and figures 2 and 3;
Glorot & Bengio 2010, AISTATS ("Xavier"). The mean factor is exact at any width: `research.oracles.log_length`.

Departure: Fully connected networks on the bundled digits instead of convolutional ones on ImageNet; the moderate depth
is 10 instead of 22. SGD has momentum 0.9; of each start the best rate of a grid counts. No biases, where nothing else
is said. The stall is conditional: it is that of SGD. Adam, which divides by the size of the gradient, learns from
Xavier's as well if there are biases; without them it leaves the plateau and stays near twice chance in most seeds. And
since bias-free ReLU networks are homogeneous, Xavier's initialisation with logits 2^((L + 1)/2) times as large and half
the learning rate IS He's, step by step: all that SGD lacks is one factor at the output.

Bands: The sampled mean is within 4.5 standard errors, the variance of ‖h_L‖² being (1 + 5/n)ᴸ − 1; so is that of a
squared gradient. Initial networks of both starts are the same draws times a number: Xavier's lengths are He's times
2⁻ˡ and no evidence of their own. Learnt is an accuracy of 0.9 on images trained on, stalled one of 0.2, twice chance.
Step by step: rounding in float32, 1e-3 of the loss up to step 10; it switches a ReLU of some network sooner or later,
and grows from then on.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from research import data as problems
from research import plots
from research.dynamics import Run, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import arms, averaged, lift, per_seed, select, sound
from research.models import Stack, random_stack
from research.oracles.log_length import length_growth, length_square
from research.statistics import Estimate, every_seed, over_seeds

HE, XAVIER = 2.0, 1.0  # n·Var(W)
ERRORS = 4.5  # standard errors, exceeded by chance with probability 7e-6
LEARNT, STALLED = 0.9, 0.2
PULL = 640.0  # ‖x‖² = 64 times 10 outputs: backwards, too, a layer keeps the mean square if n·Var(W) is 2
EARLY = 10  # steps up to which two roundings of one descent are compared
SHOWN = 400  # images trained on, of which loss and accuracy are recorded
OPTIMIZERS = {"sgd": lambda rate: optax.sgd(rate, momentum=0.9), "adam": optax.adam}


class Initial(NamedTuple):
    length: Float[Array, "layer"]
    pull: Float[Array, ""]


class Trained(NamedTuple):
    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


def simulate(
    key: Array,
    gain: float,
    learning_rate: float,
    compensated: float = 0.0,
    biased: float = 0.0,
    leak: float = 0.0,
    *,
    optimizer: Literal["sgd", "adam"] = "sgd",
    depth: int = 30,
    width: int = 64,
    draws: int = 64,
    steps: int = 1500,
    batch: int = 32,
) -> Run:
    """Training from weights N(0, `gain`/fan_in); 0 steps: `draws` initial networks.

    `compensated` 1 multiplies logits by (2/gain)^((depth + 1)/2) and the rate by gain/2. `biased` 1 gives networks
    biases, zero at first. `leak` is the slope of the activation below zero. `length` is the mean of ‖h‖²/‖x‖² per unit,
    `pull` that of the squared gradient of the sum of the logits with respect to the weights of the first layer.
    """
    pixels, labels = problems.digits()
    inputs = problems.standardized(pixels)
    inputs *= (inputs.shape[1] / np.sum(inputs**2, axis=1, keepdims=True)) ** 0.5
    X, y = jnp.asarray(inputs, jnp.float32), jnp.asarray(labels)
    init_key, descent_key = jax.random.split(key)
    activation = lambda sums: jnp.where(sums > 0, sums, leak * sums)
    lacking = (HE / gain) ** 0.5

    def logits(network: Stack, images: Array) -> Array:
        said = network._replace(biases=biased * network.biases)(images, activation).logits
        return said * jnp.where(compensated > 0, lacking ** (depth + 1), 1.0)

    def sampled(key: Array) -> tuple[Array, Array]:
        weight_key, image_key = jax.random.split(key)
        image = X[jax.random.randint(image_key, (1,), 0, len(X))]
        network = random_stack(weight_key, X.shape[1], width, depth, 10, gain)
        outputs = activation(network(image, activation).pre_activations)
        gradient = jax.grad(lambda network: jnp.sum(network(image, activation).logits))(network)
        return jnp.mean(outputs**2, axis=(1, 2)), jnp.sum(gradient.entry**2)

    if not steps:
        means = lambda key: (each.mean(axis=0) for each in jax.lax.map(sampled, jax.random.split(key, draws)))
        observe = lambda key: Initial(*means(key))
        return Run(init_key, lambda key: key, observe, np.zeros(1, int))
    network = random_stack(init_key, X.shape[1], width, depth, 10, gain)
    chain = OPTIMIZERS[optimizer](learning_rate * jnp.where(compensated > 0, gain / HE, 1.0))
    loss = lambda network, drawn: cross_entropy(logits(network, X[drawn]), y[drawn]).mean()
    # the remainder favours none of so few images by more than 1e-6, and compiles sooner than randint
    step = stochastic_descent(loss, chain, lambda key: jax.random.bits(key, (batch,), jnp.uint32) % len(X))

    def observe_training(state: Any) -> Trained:
        said = logits(state.params, X[:SHOWN])
        right = jnp.mean(jnp.argmax(said, axis=1) == y[:SHOWN], dtype=said.dtype)
        return Trained(cross_entropy(said, y[:SHOWN]).mean(), right)

    at = np.union1d(log_spaced(steps, 40), [min(EARLY, steps)])
    return Run(start(network, chain, descent_key), step, observe_training, at)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The mean growth in theory, its standard error, how training ends, and when half the images are right."""
    dataset = sound(dataset)
    blank = dataset.diverged * dataset.step * np.nan
    lacking = {*Initial._fields, *Trained._fields} - {*dataset}
    dataset = dataset.assign({name: blank.expand_dims(layer=1) if name == "length" else blank for name in lacking})
    second = lift(length_square, dataset.width + 0 * dataset.gain)
    late = dataset.accuracy.sel(step=dataset.steps)
    half = dataset.step.where(dataset.accuracy > 0.5).min("step")
    return dataset.assign(
        doublings=np.log2(lift(length_growth, dataset.gain)),
        error=((second**dataset.depth - 1) / (dataset.draws * dataset.sizes["seed"])) ** 0.5,
        end=late.where(~dataset.diverged, 0.1).where(dataset.steps > 0),  # a run that diverged has not learnt
        half=half.where(half.notnull(), np.inf),
    ).assign_coords(layer=np.arange(1, dataset.sizes["layer"] + 1))


def best(runs: xr.Dataset) -> xr.Dataset:
    """Those runs at the learning rate of the largest median accuracy at the end, the earliest of several."""
    rates = np.unique(runs.learning_rate.values)
    ends = [select(runs, learning_rate=rate) for rate in rates]
    rank = lambda each: (float(each.end.median()), -float(each.half.median()))
    return ends[max(range(len(rates)), key=lambda place: rank(ends[place]))]


def trained(dataset: xr.Dataset, depth: int, gain: float, optimizer: str = "sgd", **others: float) -> xr.Dataset:
    """The runs of that network, by default without biases and with plain logits."""
    runs = select(dataset, steps=lambda steps: steps > 0, depth=depth, gain=gain)
    return select(runs, optimizer=optimizer, **{"compensated": 0.0, "biased": 0.0, **others})


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The growth of lengths and gradients; training at both depths; Adam; and Xavier with a factor at the output."""
    found: list[Finding] = []
    initial = select(dataset, steps=0)
    xavier, he = (select(initial, gain=gain).isel(step=0) for gain in (XAVIER, HE))
    found += [_growth(runs, name) for runs, name in ((xavier, "Xavier"), (he, "He, same draws")) if runs.diverged.size]
    if he.diverged.size:
        depth, allowed = int(he.depth.max()), ERRORS * float(np.max(he.error))
        what = f"He, {depth} layers: mean squared gradient at the first layer over theory's ‖x‖²·outputs = {PULL:g}"
        theory = 2.0 ** (depth * float(he.doublings.mean(skipna=False)))
        found.append(
            Finding.of(what, (1 - allowed, 1 + allowed), over_seeds(per_seed(he.pull, "mean") / PULL / theory))
        )
    training = select(dataset, steps=lambda steps: steps > 0)
    depths = np.unique(training.depth.values).tolist() if training.diverged.size else []
    return found + [each for depth in depths for each in _training(dataset, depth, stalls=depth == depths[-1])]


def _growth(runs: xr.Dataset, name: str) -> Finding:
    """The logarithm of the mean squared length a layer, against theory's."""
    depth = int(runs.depth.max())
    lengths = per_seed(runs.length.sel(layer=depth), "mean")
    theory = float(runs.doublings.mean(skipna=False))
    # to first order ln of the mean is off by its relative error
    allowed = ERRORS * float(np.max(runs.error)) / np.log(2) / depth
    seen = over_seeds(lengths, lambda sample: np.log2(np.mean(sample)) / depth)
    what = f"{name}, {depth} layers: log2 of the mean of ‖h‖²/‖x‖² per unit, over the number of layers"
    return Finding.of(what, (theory - allowed, theory + allowed), seen)


def _training(dataset: xr.Dataset, depth: int, stalls: bool) -> list[Finding]:
    """What a network of that depth learns from either start, by either optimiser."""
    found: list[Finding] = []
    he, xavier = (trained(dataset, depth, gain) for gain in (HE, XAVIER))
    same = trained(dataset, depth, XAVIER, compensated=1.0)

    def ends(name: str, runs: xr.Dataset, estimate: Estimate, band: tuple[float, float]) -> None:
        lost = f"{int(runs.diverged.sum())} of {runs.diverged.size} runs diverged"
        found.append(Finding.of(f"{depth} layers, {name} ({lost})", band, estimate))

    def learns(name: str, runs: xr.Dataset) -> None:
        if runs.diverged.size:
            what = f"{name}: accuracy at the best of the rates {_listed(runs)}"
            ends(what, runs, every_seed(per_seed(best(runs).end)), (LEARNT, 1.0))

    learns("He, SGD", he)
    for biased, runs in ((0.0, xavier), (1.0, trained(dataset, depth, XAVIER, biased=1.0))):
        if runs.diverged.size and stalls:
            what = f"Xavier, SGD{', biases' * int(biased)}: largest accuracy of the rates {_listed(runs)}"
            ends(what, runs, every_seed(per_seed(runs.end)), (0.0, STALLED))
    if not stalls:
        learns("Xavier, SGD", xavier)
        if he.diverged.size and xavier.diverged.size:
            sooner = per_seed(best(he).half) / per_seed(best(xavier).half)
            what = "SGD, best rates: steps until half the images are right, He over Xavier"
            ends(what, xavier, every_seed(sooner), (0.0, 1.0))
    for name, gain in (("He", HE), ("Xavier", XAVIER)):
        for biased, kind in ((1.0, "biases"), (0.0, "no biases")):
            learns(f"{name}, Adam, {kind}", trained(dataset, depth, gain, "adam", biased=biased))
    if same.diverged.size:
        rate = float(np.unique(same.learning_rate.values)[0])
        one, other = (select(runs, learning_rate=rate).loss.sel(step=slice(0, EARLY)) for runs in (same, he))
        if other.size:
            what = f"Xavier, logits times 2^{(depth + 1) / 2:g}, half of rate {rate:g}: loss over He's"
            off = every_seed(per_seed(abs(averaged(one, "seed", "step") / averaged(other, "seed", "step") - 1)))
            ends(f"{what}, largest distance to 1 up to step {EARLY}", same, off, (0.0, 1e-3))
    return found


def _listed(runs: xr.Dataset) -> str:
    return ", ".join(f"{rate:g}" for rate in np.unique(runs.learning_rate.values))


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Lengths by layer; the loss of moderate and of deep networks; what saves Xavier's."""
    title = "Deep ReLU networks: from He's initialisation they learn, from Xavier's they stall"
    figure, ((lengths, shallow, deep, saved),) = plots.figure(1, 4, title, (3.9, 3.5))
    named = {HE: "He, Var W = 2/n", XAVIER: "Xavier, Var W = 1/n"}
    for number, (gain, name) in enumerate(named.items()):
        runs = select(dataset, steps=0, gain=gain)
        for _, arm in arms(runs.isel(step=0)) if runs.diverged.size else ():
            plots.seeds(lengths, arm.length.transpose("seed", "layer").dropna("layer"), name, color=f"C{number}")
            line = 2.0 ** (arm.layer * float(arm.doublings.mean()))
            plots.theory(lengths, arm.layer, line, None if number else "(n·Var(W)/2)ˡ")
    training = select(dataset, steps=lambda steps: steps > 0)
    least, *_, most = sorted([*np.unique(training.depth.values).tolist()] * 2) if training.diverged.size else (0, 0)
    panels: list[tuple] = [(shallow, least, "sgd", {}), (deep, most, "sgd", {})]
    for optimizer, others in (("adam", {"biased": 1.0}), ("adam", {}), ("sgd", {"compensated": 1.0})):
        panels.append((saved, most, optimizer, others))
    for axes, depth, optimizer, others in panels:
        for number, gain in enumerate(named):
            runs = trained(dataset, depth, gain, optimizer, **others)
            if not runs.diverged.size or (axes is saved and gain == HE):
                continue
            chosen = best(runs)
            curve = averaged(chosen.loss.isel(step=slice(1, None)), "seed", "step")
            curve = curve.dropna("seed", how="all").dropna("step")
            kind = "SGD" if optimizer == "sgd" else f"Adam, {'biases' if others else 'no biases'}"
            what = f"logits × 2^{(depth + 1) / 2:g}, SGD" if "compensated" in others else kind
            color = f"C{number if axes is not saved else 2 + len(axes.get_legend_handles_labels()[0])}"
            plots.seeds(axes, curve, f"{('He', 'Xavier')[number]}, {what}, η = {_listed(chosen)}", color=color)
    titles = "b  He learns sooner", "c  Xavier stalls", "d  what saves it"
    for axes, depth, title in zip((shallow, deep, saved), (least, most, most), titles, strict=True):
        axes.axhline(np.log(10), color="black", linestyle="--", linewidth=1.2, label="no answer: ln 10")
        axes.set(title=f"{title} ({depth} layers)", xlabel="step", ylabel="loss on images trained on")
        axes.set(xscale="log", yscale="log", ylim=(1e-4, 10))
        axes.set_xlim(left=5)
    lengths.set(title="a  lengths at the start", xlabel="layer l", ylabel="mean of ‖h‖²/‖x‖² per unit", yscale="log")
    for axes in (lengths, shallow, deep, saved):
        plots.legend(axes, loc="lower left")
    return figure


NAMES = ("steps", "depth", "width", "draws", "optimizer", "gain", "learning_rate", "compensated", "biased")


def design(
    steps: int, depths: tuple, width: int, draws: int, rates: tuple, middle: tuple, adaptive: tuple
) -> list[tuple]:
    """Rows: initial networks, SGD at both depths, Adam at the larger one, and Xavier with a factor at the output."""
    (shallow, deep), network = depths, (steps, depths[1], width, 1)
    return [
        *((0, deep, 100, draws, "sgd", gain, 0.0, 0.0, 0.0) for gain in (HE, XAVIER)),
        *((steps, shallow, width, 1, "sgd", gain, rate, 0.0, 0.0) for gain in (HE, XAVIER) for rate in middle),
        *((*network, "sgd", gain, rate, 0.0, 0.0) for gain in (HE, XAVIER) for rate in rates),
        (*network, "sgd", XAVIER, rates[0], 1.0, 0.0),
        (*network, "sgd", XAVIER, rates[-1], 0.0, 1.0),
        *((*network, "adam", HE, rate, 0.0, 1.0) for rate in adaptive[:1]),
        *((*network, "adam", XAVIER, rate, 0.0, 0.0) for rate in adaptive[:1]),
        *((*network, "adam", XAVIER, rate, 0.0, 1.0) for rate in adaptive),
    ]


RATES = (3e-4, 1e-3, 3e-3, 1e-2, 1e-1)
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, NAMES: design(1200, (10, 30), 64, 64, (1e-3, 1e-2), (3e-3, 1e-2, 3e-2), (3e-4, 6e-4))},
    smoke={"seeds": 3, NAMES: [row for row in design(120, (8, 14), 32, 32, (3e-3,), (), ()) if row[1] == 14]},
    paper={
        "seeds": 16,
        NAMES: design(20_000, (22, 30), 1000, 200, (1e-4, *RATES), RATES, (1e-4, 3e-4, 1e-3)),
    },
    control={"leak": 1.0},  # linear networks, which 1/n keeps
    precision="float32",
)
