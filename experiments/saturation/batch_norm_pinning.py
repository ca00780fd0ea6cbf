"""Normalised before tanh, saturation is what the gain says, and weights settle on a sphere; normalised after it, not.

Claim: With pre-activations normalised over the batch and multiplied by a gain γ, φ_B is E|tanh(γ z)| in every layer of
a random network whatever its weights, and stays below tanh γ in training. The loss does not know the length of the
weights: ‖w‖² goes to (1 - ηλ)²‖w‖² + η²‖g‖² in every step, and with weight decay comes to rest where the weights turn
by √(2ηλ) a step. Normalised after tanh instead, layers saturate strongly, and yet generalise better.

Source: Ioffe & Szegedy 2015, arXiv 1502.03167; van Laarhoven 2017, arXiv 1706.05350; Wan et al. 2020, "Spherical motion
dynamics", arXiv 2006.08419 (√(2ηλ)); Kim, Kim & Kim 2023, "Tanh works better with asymmetry", NeurIPS.

Departure: Normalisation with the batch's own variance, without ε and shift; gains are fixed, not learned. Random
networks have Gaussian inputs; training is on digits of 8 × 8 pixels in three layers of 64 units, and the images not
trained on are normalised as one batch (Kim et al.: VGG and ResNet on CIFAR). There the last sentence fails: with the
order swapped the last layer saturates hardly more, with decay less. The ceiling is a theorem, not known to be
published: tanh √s is concave, E u² = γ² in every unit, and Jensen's inequality holds for all weights and data. Decay is
coupled, λ‖w‖²/2 in the loss.

Bands: In a wide layer a sample's normalised values are Gaussian but for terms of 1/batch (the unit's variance is that
of the batch) and of 1/width; three standard errors of the mean of width · batch numbers in [0, 1] besides. The identity
is exact in real numbers. Rest is judged where what the start has left of ‖w‖⁴ at half of the training,
exp(−4ηλ·steps/2)·‖w₀‖⁴, is at most e⁻⁴ of it at the end, 2 %; gradients that still shrink lag by less than the 10 %
allowed. A difference of saturation counts as strong from 0.1 on, as in random networks.
"""

from itertools import product
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
from research.dynamics import Descent, Run, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import at_step, averaged, lift, per_seed, select, sound, table
from research.observables.saturation import mean_saturation
from research.oracles.mean_field import saturation
from research.statistics import Estimate, every_seed, over_seeds

RELAXED = 4.0  # −ln of the part that the start has in ‖w‖⁴ when the second half of the training begins

STRONG = (0.1, np.inf)  # a difference of φ_B


class Observables(NamedTuple):
    level: Float[Array, "layer"]
    squared_norm: Float[Array, "layer"]
    predicted_norm: Float[Array, "layer"]
    turned: Float[Array, "layer"]
    accuracy: Float[Array, ""]


class Turning(NamedTuple):
    """A descent, the squared norms that follow from its gradients, and the sum of the squared angles of its steps."""

    descent: Descent
    predicted_norm: Array
    turned: Array


def simulate(
    key: Array,
    gain: float,
    weight_scale: float,
    learning_rate: float,
    weight_decay: float,
    *,
    order: Literal["before", "after"] = "before",
    inputs: Literal["gaussian", "digits"] = "digits",
    depth: int = 3,
    width: int = 64,
    batch: int = 64,
    steps: int = 600,
) -> Run:
    """SGD on the cross-entropy of a tanh network with normalisation before or after the activation; 0 steps: its start.

    Weights are N(0, weight_scale²/width). `turned` sums ‖η g‖²/‖w‖² over the steps.
    """
    init_key, descent_key = jax.random.split(key)
    # The whole is one draw, which compiles faster than several.
    drawn = jax.random.normal(init_key, (depth * width + 10 + 2 * batch, width))
    X: Any
    if inputs == "digits":
        pixels, labels = problems.digits()
        X, y = jnp.asarray(problems.standardized(pixels), float), jnp.asarray(labels)
    else:
        X, y = drawn[-2 * batch :], jnp.arange(2 * batch) % 10
    held_out = np.arange(len(y)) % (4 if inputs == "digits" else 2) == 0

    def normalised(values: Array) -> Array:
        return (values - jnp.mean(values, axis=0, keepdims=True)) / jnp.std(values, axis=0, keepdims=True)

    def forward(params: Any, given: Array) -> tuple[Array, Array]:
        """The logits, and the mean of |tanh| in every layer."""

        def layer(given: Array, weights: Array) -> tuple[Array, Array]:
            sums = given @ weights
            outputs = jnp.tanh(gain * normalised(sums) if order == "before" else sums)
            return outputs if order == "before" else normalised(outputs), mean_saturation(outputs, -1.0, 1.0)

        outputs, levels = jax.lax.scan(layer, given, params[0])
        return outputs @ params[1], levels

    weights = weight_scale * drawn[: depth * width].reshape(depth, width, width) / width**0.5
    params = (weights, drawn[depth * width : -2 * batch].T / width**0.5)
    loss = lambda params, drawn: cross_entropy(forward(params, X[drawn])[0], y[drawn]).mean()
    chain = optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate))
    trained = np.flatnonzero(~held_out)
    sample = lambda key: jnp.asarray(trained)[jax.random.randint(key, (batch,), 0, len(trained))]
    descend = stochastic_descent(loss, chain, sample)
    squared = lambda arrays: jnp.sum(arrays**2, axis=(1, 2))

    def step(state: Turning) -> Turning:
        before, moved = state.descent.params[0], descend(state.descent)
        shrunk = (1 - learning_rate * weight_decay) * before
        pushed = squared(moved.params[0] - shrunk)  # η²‖g‖²
        predicted = (1 - learning_rate * weight_decay) ** 2 * state.predicted_norm + pushed
        return Turning(moved, predicted, state.turned + pushed / squared(before))

    def observe(state: Turning) -> Observables:
        logits, levels = forward(state.descent.params, X[held_out])
        right = jnp.mean(jnp.argmax(logits, axis=1) == y[held_out], dtype=logits.dtype)
        return Observables(levels, squared(state.descent.params[0]), state.predicted_norm, state.turned, right)

    begin = Turning(start(params, chain, descent_key), squared(weights), jnp.zeros(depth, weights.dtype))
    at = np.unique(np.append(log_spaced(steps, 20), steps // 2)) if steps else np.zeros(1, int)
    return Run(begin, step, observe, at)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Levels and accuracy at the ends, how far norms are from the identity, and the angle of a step (second half)."""
    dataset = sound(dataset)
    dataset = dataset.assign_coords(layer=np.arange(1, dataset.sizes["layer"] + 1))
    decay = dataset.learning_rate * dataset.weight_decay
    half = dataset.steps // 2
    turned = at_step(dataset.turned, dataset.steps) - at_step(dataset.turned, half)
    rest = 1 - (1 - decay) ** 2
    # Norms that grow from their start lack no more than the exponential of the resting value.
    excess = np.log(dataset.squared_norm.isel(step=0) / at_step(dataset.squared_norm, dataset.steps)).clip(0)
    return dataset.assign(
        first=dataset.level.isel(step=0).mean("layer"),
        last=at_step(dataset.level, dataset.steps).where(dataset.layer == dataset.depth).max("layer"),
        right=at_step(dataset.accuracy, dataset.steps),
        identity=abs(dataset.squared_norm / dataset.predicted_norm - 1).max(["layer", "step"]),
        turn=(turned.mean("layer") / half.where(half > 0)) ** 0.5,
        expected_turn=rest**0.5,
        relaxations=4 * decay * half - 2 * excess.max(["layer", "seed"]),
    )


def random(dataset: xr.Dataset, order: str) -> xr.Dataset:
    """The networks with that order on Gaussian inputs."""
    return select(dataset, order=order, inputs="gaussian")


def trained(dataset: xr.Dataset, order: str) -> xr.Dataset:
    """The runs that train, with that order."""
    return select(dataset, order=order, steps=lambda steps: steps > 0)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Pinned levels, their ceiling through training, the swapped order, the norms and the turning of the weights."""
    found: list[Finding] = []

    def add(statement: str, band: tuple[float, float], estimate: Estimate) -> None:
        found.append(Finding.of(statement, band, estimate))

    # Under the control there are none normalised before.
    pinned, swapped = random(dataset, "before"), random(dataset, "after")
    runs = pinned if pinned.diverged.size else swapped
    if runs.diverged.size:
        batch, width = int(runs.batch.min()), int(runs.width.min())
        off = abs(runs.level.isel(step=0) - lift(saturation, "tanh", runs.gain**2)).max("layer")
        gains = np.unique(runs.gain).size
        what = f"random networks: |φ_B - E|tanh(γ z)||, largest of layers, weight scales and {gains} γ"
        add(what, (0.0, 1 / batch + 1 / width + 1.5 / (batch * width) ** 0.5), every_seed(per_seed(off)))
    for order, runs, band in (("before", pinned, (0.0, 1e-9)), ("after", swapped, STRONG)):
        if runs.diverged.size and np.unique(runs.weight_scale).size > 1:
            levels = table(runs, "first", "gain", "weight_scale")
            spread = (levels.max("weight_scale") - levels.min("weight_scale")).max("gain")
            what = f"random networks normalised {order} tanh: φ_B, largest less smallest of the weight scales"
            add(what, band, every_seed(spread))
    before, after = trained(dataset, "before"), trained(dataset, "after")
    if before.diverged.size:
        over = per_seed((before.level - np.tanh(before.gain)).max(["layer", "step"]))
        what = "training: φ_B less the ceiling tanh γ, largest of layers, steps and runs"
        add(what, (-np.inf, 0.0), every_seed(over))
        what = "training: ‖w‖² over what follows from the gradients, largest distance to 1"
        add(what, (0.0, 1e-9), every_seed(per_seed(before.identity)))
        settled = before.relaxations >= RELAXED
        if bool(settled.any()):
            turn = (before.turn / before.expected_turn).where(settled)
            mean = turn.mean([each for each in turn.dims if each != "seed"])
            what = f"training: angle a step over √(2ηλ), mean of layers and of {int(settled.sum())} rates and decays"
            add(what, (0.9, 1.1), over_seeds(mean))
    same = select(before, gain=1.0, weight_scale=1.0)
    if same.diverged.size and after.diverged.size:
        what = "normalised after tanh: ‖w‖² over what would follow from the gradients, largest distance to 1"
        add(what, (1e-3, np.inf), every_seed(per_seed(after.identity)))
        for decays, chosen in (("without decay", lambda decay: decay == 0), ("with decay", lambda decay: decay > 0)):
            what = f"normalised after tanh less before, {decays}"
            one, other = (select(runs, weight_decay=chosen) for runs in (after, same))
            for rate in np.intersect1d(one.learning_rate, other.learning_rate).tolist():
                more, less = (per_seed(select(runs, learning_rate=rate)["last"], "mean") for runs in (one, other))
                add(f"{what}, rate {rate:g}: φ_B of the last layer at the end", STRONG, every_seed(more - less))
            if one.diverged.size and other.diverged.size:
                better, right = (per_seed(runs.right, "mean") for runs in (one, other))
                accuracy = f"accuracy on images not trained on ({right.mean():.3f} before)"
                add(f"{what}: {accuracy}", (0.0, np.inf), over_seeds(better - right))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Levels of random networks and in training, squared norms, and the angle of a step."""
    figure, axes = plots.figure(
        2, 2, "Normalisation before tanh pins saturation and the turning of the weights", (5, 3.6)
    )
    (levels, course), (norms, turns) = axes
    for number, (order, parameter) in enumerate((("before", "gain"), ("after", "weight_scale"))):
        runs, label = random(dataset, order), f"normalised {order} tanh"
        if runs.diverged.size:
            plots.points(levels, runs[parameter], runs.level.isel(step=0), f"{label}, each layer", color=f"C{number}")
        runs = trained(dataset, order)
        if runs.diverged.size:
            same = select(runs, gain=1.0, learning_rate=runs.learning_rate.max().item(), weight_decay=0.0)
            same = same if same.diverged.size else select(runs, gain=1.0)
            for place, layer in enumerate(runs.layer.values[:3].tolist() if same.diverged.size else ()):
                shown = averaged(same.level.sel(layer=layer, drop=True), "seed", "step").dropna("step", how="all")
                style = {"color": f"C{number}", "linestyle": ("-", "--", ":")[place]}
                plots.seeds(course, shown.isel(step=slice(1, None)), f"{label}, layer {layer}", **style)
    line, ends = np.geomspace(0.2, 20, 60), (1, max(float(dataset.step.max()), 2.0))
    plots.theory(levels, line, [saturation("tanh", x**2) for x in line], "E|tanh(γ z)|")
    plots.theory(levels, line, np.tanh(line), "ceiling tanh γ", linestyle=":")
    plots.theory(course, ends, (saturation("tanh", 1.0),) * 2, "E|tanh z|")
    plots.theory(course, ends, (np.tanh(1.0),) * 2, "ceiling tanh 1", linestyle=":")
    every = trained(dataset, "before")
    runs = select(every, gain=1.0) if every.diverged.size else every
    for number, decay in enumerate(np.unique(runs.weight_decay).tolist() if runs.diverged.size else ()):
        cell = select(runs, weight_decay=decay, learning_rate=runs.learning_rate.max().item())
        seen, follows = (
            averaged(cell[name], "seed", "step").isel(step=slice(1, None)).dropna("step", how="all")
            for name in ("squared_norm", "predicted_norm")
        )
        plots.seeds(norms, seen, f"decay λ = {decay:g}", color=f"C{number}")
        told = None if number else "from the gradients"
        plots.theory(norms, follows.step, follows.median("seed"), told, linestyle=":")
    if every.diverged.size:
        resting, settled = every.expected_turn.where(every.expected_turn > 0), every.relaxations >= RELAXED
        for number, (label, shown) in enumerate((("at rest", settled), ("not yet at rest", ~settled))):
            plots.points(turns, resting.where(shown), every.turn.where(shown), f"{label}, a seed", color=f"C{number}")
        limits = np.array([0.7 * resting.min(), 1.4 * resting.max()])
        plots.theory(turns, limits, limits, "√(2ηλ)")
    levels.set(title="a  random networks", xlabel="gain γ (before), weight scale (after)", ylabel="φ_B", xscale="log")
    course.set(title="b  training on digits, γ = 1", xlabel="step", ylabel="φ_B", xscale="log", ylim=(0, 1.35))
    norms.set(title="c  the length of the weights", xlabel="step", ylabel="‖w‖²", xscale="log", yscale="log")
    turns.set(title="d  where it comes to rest", xlabel="√(1 - (1 - ηλ)²), about √(2ηλ)", ylabel="angle a step (rad)")
    turns.set(xscale="log", yscale="log")
    for each in axes.flat:
        plots.legend(each, **({"ncols": 2, "loc": "upper center"} if each is course else {}))
    return figure


SIZES, STARTS = ("inputs", "order", "depth", "width", "batch", "steps"), ("gain", "weight_scale")
NAMES = (*SIZES, *STARTS, "learning_rate", "weight_decay")
GAINS, SCALES = (0.25, 0.5, 1.0, 2.0, 4.0), (0.5, 1.0, 4.0, 16.0)


def cells(width: int, batch: int, depth: int, steps: int, rates: tuple, decays: tuple) -> list[tuple]:
    """Random networks, of which those normalised after tanh know no gain, and networks of three layers that train."""
    size, three, strong = (depth, width, batch, 0, 1.0), (3, 64, 64, steps), (decays[-1] / 2, decays[-1])
    return [
        *[("gaussian", "before", *size[:4], *cell, 0.0, 0.0) for cell in product(GAINS, (0.5, 3.0))],
        *[("gaussian", "after", *size, scale, 0.0, 0.0) for scale in SCALES],
        *[("digits", *cell[:1], *three, 1.0, 1.0, *cell[1:]) for cell in product(("before", "after"), rates, decays)],
        *[("digits", "before", *three, *cell) for cell in product((0.5, 2.0), (1.0,), rates[-1:], strong)],
    ]


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, NAMES: cells(200, 200, 10, 600, (0.1, 0.4), (0.0, 0.02, 0.1))},
    smoke={
        "seeds": 3,
        NAMES: [
            ("gaussian", "before", 4, 64, 100, 120, gain, scale, 0.4, 0.2)
            for gain in GAINS[1:4:2]
            for scale in (1.0, 3.0)
        ],
    },
    paper={"seeds": 8, NAMES: cells(300, 256, 20, 20_000, (0.01, 0.03, 0.1, 0.3), (0.0, 0.003, 0.01, 0.03))},
    control={"order": "after"},
)
