"""Penalties, smooth labels and batch norm lower the saturation of hidden layers; noise and dropout raise it.

Claim: Saturation of hidden layers grows with the learning rate and with time, so that stopping early limits it, and
every regulariser lowers it, as it lowers that of the output.

Source: textbook knowledge (Goodfellow, Bengio & Courville 2016, chapter 7). φ_B: Rakitianskaia & Engelbrecht 2015,
"Measuring saturation in neural networks", IEEE SSCI, in its limit, mean|tanh|. The laws of a single unit:
saturation_budget.

Departure: tanh networks on the bundled digits; L2 (coupled) and L1 (proximal) take biases too, noise is on standardised
pixels and dropout on hidden outputs, drawn afresh for each image of a batch. α is spread over all labels. φ_B is read
on images not trained on, without noise and masks; φ of the output is (10 p − 1)/9 on images trained on, p the
probability of the label, which is 1 − α where a smoothed label is fitted exactly. To lower is to lower from each
strength to the next, at each of the learning rates and in every seed. Noise and dropout refute the claim: at their
strongest they lower φ of the output, as L1 does, and yet they raise φ_B at every strength. At the output L2 and smooth
labels alone lower it from each strength to the next at every rate. Weak noise and weak dropout leave it about where it
is (at the smallest rate dropout raises it until p = 0.25), as L1 does in two seeds at the largest. Batch norm lowers
φ_B at all rates, but φ of the output it raises at the smallest.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import data as problems
from research import plots
from research.dynamics import Descent, Run, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import averaged, lift, per_seed, select, table
from research.models import FullyConnected
from research.observables.saturation import mean_saturation
from research.optimizers import soft_threshold
from research.oracles.mean_field import saturation, variance_path
from research.statistics import every_seed, slope, slope_within

STRENGTHS = {
    "l2": "L2 λ",
    "l1": "L1 λ",
    "smoothing": "smoothing α",
    "noise": "noise σ",
    "dropout": "dropout p",
    "normalised": "batch norm",
}
FALLS, RISES = (-np.inf, 0.0), (0.0, np.inf)


class Observables(NamedTuple):
    hidden: Float[Array, "layer"]
    output: Float[Array, ""]
    accuracy: Float[Array, ""]


class Given(NamedTuple):
    variance: Float[Array, ""]


class Parameters(NamedTuple):
    """The network, and what batch normalisation multiplies the units of each layer by and adds to them."""

    network: Any
    gains: Float[Array, "layer unit"]
    shifts: Float[Array, "layer unit"]


def simulate(
    key: Array,
    learning_rate: float,
    l2: float,
    l1: float,
    smoothing: float,
    noise: float,
    dropout: float,
    normalised: float = 0.0,
    *,
    steps: int = 1000,
    batch: int = 16,
    depth: int = 3,
    width: int = 50,
    images: int = 300,
) -> Run:
    """SGD on the cross-entropy with all regularisers at once, each of its own strength, from variance 1/fan_in.

    `l2` is λ of λ/2 ‖w‖², `l1` that of λ‖w‖₁, `noise` a standard deviation, `dropout` the probability to drop, in steps
    of 1/256. `normalised` 1 is batch normalisation before tanh, with gains and shifts that are trained, by the mean and
    variance of the images at hand, also where φ_B is read.
    """
    init_key, descent_key = jax.random.split(key)
    pixels, labels = problems.digits()
    inputs = problems.standardized(pixels)
    held = np.isin(np.arange(len(labels)), np.linspace(0, len(labels) - 1, images).astype(int))
    X, y, beyond, truth = (jnp.asarray(each) for each in (inputs[~held], labels[~held], inputs[held], labels[held]))
    optimizer = optax.chain(optax.add_decayed_weights(l2), optax.sgd(learning_rate), soft_threshold(learning_rate * l1))
    dropped = jnp.round(256 * dropout)

    def forward(params: Any, x: Array, masks: Array | None = None) -> tuple[Array, list[Array]]:
        masks = jnp.ones((depth, 1, 1), x.dtype) if masks is None else masks
        layers = iter(zip(params.gains, params.shifts, masks, strict=True))
        hidden: list[Array] = []

        def activation(sums: Array) -> Array:
            gain, shift, mask = next(layers)
            scaled = (sums - sums.mean(axis=0, keepdims=True)) / jnp.sqrt(sums.var(axis=0, keepdims=True) + 1e-5)
            sums = jnp.where(normalised > 0, gain[None, :] * scaled + shift[None, :], sums)
            hidden.append(jnp.tanh(sums))
            return hidden[-1] * mask

        said: Any = FullyConnected(depth, width, labels=10, activation=activation).apply(params.network, x)
        return said.logits, hidden

    def sample(key: Array) -> tuple[Array, Array, Array]:
        noise_key, bits_key = jax.random.split(key)
        added = noise * jax.random.normal(noise_key, (batch, X.shape[1]), jnp.float32)
        words = jax.random.bits(bits_key, (1 + depth * width, batch), jnp.uint32)
        masks = (words[1:] >> 24 >= dropped) / (1 - dropped / 256)
        return words[0] % len(X), added, masks.reshape(depth, batch, width)

    def loss(params: Any, drawn: tuple[Array, Array, Array]) -> Array:
        index, added, masks = drawn
        targets = optax.smooth_labels(jax.nn.one_hot(y[index], 10), smoothing)
        return optax.softmax_cross_entropy(forward(params, X[index] + added, masks)[0], targets).mean()

    def observe(state: Descent) -> Observables:
        logits, layers = forward(state.params, beyond)
        hidden = jax.vmap(lambda layer: mean_saturation(layer, -1.0, 1.0))(jnp.stack(layers))
        chance = jax.nn.softmax(forward(state.params, X[:images])[0])[jnp.arange(images), y[:images]]
        accuracy = jnp.mean(jnp.argmax(logits, axis=1) == truth, dtype=float)
        return Observables(hidden, jnp.mean(10 * chance - 1) / 9, accuracy)

    network = FullyConnected(depth, width, labels=10, activation=jnp.tanh).init(init_key, beyond)
    blank = jnp.zeros((depth, width), beyond.dtype)
    state = start(Parameters(network, blank + 1.0, blank), optimizer, descent_key)
    variance = jnp.mean(beyond**2)
    return Run(state, stochastic_descent(loss, optimizer, sample), observe, log_spaced(steps, 12, 10), Given(variance))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """How the runs end, how φ_B rises with ln t, and the mean field's φ_B of a wide network before training."""
    hidden, log_time = dataset.hidden.mean("layer"), np.log(dataset.step.where(dataset.step > 0))
    path = lift(variance_path, "tanh", 1.0, 0.0, dataset.variance, layers=dataset.sizes["layer"])
    return dataset.assign(
        end=hidden.sel(step=dataset.steps),
        said=dataset.output.sel(step=dataset.steps),
        right=dataset.accuracy.sel(step=dataset.steps),
        predicted=lift(saturation, "tanh", path),
        rise=slope_within(log_time, hidden, dataset.step > 0),
    )


def alone(dataset: xr.Dataset, name: str = "") -> xr.Dataset:
    """The runs in which no regulariser but this one is at work, those of strength zero included."""
    return select(dataset, **{other: 0.0 for other in STRENGTHS if other != name})


def findings(dataset: xr.Dataset) -> list[Finding]:
    """What each regulariser does to hidden layers and to the output, then learning rate, time, and the start."""
    found: list[Finding] = []
    for variable, what in (("end", "hidden φ_B"), ("said", "output φ")):
        for name, called in STRENGTHS.items():
            runs = alone(dataset, name)
            change = table(runs, variable, name, "learning_rate")
            if runs.diverged.size and change.sizes[name] > 1:
                moved = np.diff(change.values, axis=1)  # by seed, strength and learning rate
                strengths = ", ".join(f"{each:g}" for each in change[name].values)
                whole = ", ".join(f"{each:.2g}" for each in np.median(moved.sum(axis=1), axis=0)).replace("-", "−")
                at = ", ".join(f"{each:g}" for each in change.learning_rate.values)
                said = f"{called} = {strengths}: largest change of {what} from one to the next, at any learning rate"
                said += f" (in all {whole} at {at})"
                found.append(Finding.of(said, FALLS, every_seed(moved.max(axis=1).T)))
    free = alone(dataset)
    rates = np.unique(free.learning_rate.values)
    if free.diverged.size and len(rates) > 1:
        rising = slope(np.log(rates), table(free, "end", "learning_rate").values)
        what = f"none: slope of hidden φ_B on ln(learning rate), {rates[0]:g} to {rates[-1]:g}"
        found.append(Finding.of(what, RISES, every_seed(rising)))
    if free.diverged.size:
        what = "none: slope of hidden φ_B on ln t (early stopping), the least of the learning rates"
        found.append(Finding.of(what, RISES, every_seed(per_seed(free.rise, "min"))))
    plain = select(dataset, normalised=0.0)
    if plain.diverged.size:
        apart = abs(plain.hidden.isel(step=0) - plain.predicted) * plain.width**0.5
        what = "before training: √width × distance of φ_B to E|tanh(√q z)|, the worst layer of a seed"
        found.append(Finding.of(what, (0.0, 2.0), every_seed(per_seed(apart))))  # deviations in [0, 1] are < 1/2
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) φ_B by strength, (b) φ_B in time without a regulariser, (c) hidden layers against the output."""
    title = "Penalties, smooth labels and batch norm keep hidden units from saturating; noise and dropout saturate them"
    figure, ((budget, course, both),) = plots.figure(1, 3, title, (4.6, 3.8))
    rates = np.unique(dataset.learning_rate.values)
    free, fast = alone(dataset), select(dataset, learning_rate=rates[-1])
    most = 2
    start = float(dataset.predicted.mean())
    for number, (name, called) in enumerate(STRENGTHS.items()):
        runs, color = alone(fast, name), f"C{number}"
        hidden, said = (table(runs, each, name) for each in ("end", "said"))
        if not runs.diverged.size or hidden.sizes[name] < 2:
            continue
        strengths, most = ", ".join(f"{each:g}" for each in hidden[name].values[1:]), max(most, hidden.sizes[name])
        ranks = hidden.assign_coords({name: np.arange(hidden.sizes[name])})
        plots.seeds(budget, ranks, f"{called} = {strengths}", color=color, marker="o", markersize=3)
        plots.points(both, said, hidden, color=color)
        label = called.removesuffix(called[-2:]) if called[-2] == " " else called
        both.plot(said.median("seed"), hidden.median("seed"), "o-", color=color, markersize=6, label=label)
        if name == "smoothing":
            for strength, height in zip(hidden[name].values[1:], hidden.median("seed").values[1:], strict=True):
                both.plot([1 - strength] * 2, [height - 0.04, height + 0.04], color="black", linewidth=1.2)
    for number, rate in enumerate(rates if free.diverged.size else ()):
        hidden = averaged(select(free, learning_rate=rate).hidden, "seed", "step")
        plots.seeds(course, hidden.sel(step=hidden.step > 0), f"learning rate {rate:g}", color=f"C{number}")
    for axes in (budget, course, both):
        axes.axhline(start, color="black", linestyle="--", linewidth=1.2, label="mean field, before training")
        axes.set_ylabel("φ_B, mean of the hidden layers")
    budget.set(title=f"a  by strength (learning rate {rates[-1]:g})", xlabel="none, weaker … stronger")
    budget.set_xticks(range(most))
    course.set(title="b  no regulariser: stop early", xscale="log", xlabel="step t")
    both.set(
        title=f"c  against the output (learning rate {rates[-1]:g})", xlabel="φ of the output on images trained on"
    )
    both.plot([], [], color="black", linewidth=1.2, label="output at 1 − α")
    for axes in (budget, course, both):
        axes.set_ylim(0.38, 1.18)
        axes.set_yticks([0.4, 0.6, 0.8, 1.0])
        plots.legend(axes, loc="upper left", ncols=2, fontsize=6.5)
    return figure


RATES, AXES = (0.05, 0.2, 0.5), tuple(STRENGTHS)
STRONG: dict[str, tuple] = {
    "l2": (1e-3, 3e-3, 1e-2),
    "l1": (1e-4, 3e-4, 1e-3),
    "smoothing": (0.1, 0.2, 0.3),
    "noise": (0.25, 0.5, 1.0),
    "dropout": (0.1, 0.25, 0.5),
    "normalised": (1.0,),
}


def arms(strengths: dict[str, tuple]) -> list[tuple]:
    """No regulariser, then each alone at each of its strengths."""
    one = lambda name, strength: tuple(strength if each == name else 0.0 for each in STRENGTHS)
    return [one("", 0.0), *(one(name, strength) for name, values in strengths.items() for strength in values)]


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, "learning_rate": RATES, AXES: arms(STRONG)},
    smoke={
        "seeds": 2,
        "learning_rate": (0.2, 0.5),
        AXES: arms({name: strengths[-1:] for name, strengths in STRONG.items()}),
        "steps": 300,
        "width": 20,
        "depth": 2,
    },
    paper={"seeds": 32, "learning_rate": (0.02, *RATES), AXES: arms(STRONG), "steps": 100_000, "width": 1000},
    control={"learning_rate": 0.0},  # nothing is trained, and nothing changes
)
