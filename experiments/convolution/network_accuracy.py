"""A linear model, a dense and a convolutional network on the same pictures, as they are and with pixels permuted.

Claim: Behind early stopping on a validation split a network with a hidden layer is better than a linear model, and a
convolutional network better than both, each as good as published. A permutation of the pixels, the same in every
picture, leaves the dense network alone: its start has the same law in any order of the pixels. It takes from the
convolutional network what its neighbourhoods were worth.

Source: LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition" (MNIST: a linear
classifier 12.0 % wrong, LeNet-5 0.95 %); Simard, Steinkraus & Platt 2003 (one hidden layer of 800 units, cross-entropy:
1.6 %); Xiao et al. 2017, arXiv 1708.07747, and its repository's table (Fashion-MNIST: dense .883, two convolutions of
fewer than 100 000 weights .925). The invariance is a symmetry, shown here by a run with its first layer permuted alike.

Departure: The default are scikit-learn's digits, for which nothing is published on this split: there logistic
regression and the dense network are held against scikit-learn's own. `--set data=mnist` and `data=fashion_mnist`, with
`--paper` or without, take the real ones. Networks are small (see `network_of`), without augmentation; learning rate and
time are those of the least validation loss (early stopping with hindsight over the recorded times; the accuracy, tried
first, is perfect on so few pictures long before learning ends; at a rate of 0.1, also tried, the convolutional network
no longer settles), and the test pictures decide nothing.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from flax import linen
from jaxtyping import Array, Float
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from research import plots
from research.dynamics import Descent, Run, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import select, sound
from research.models import ConvolutionalNetwork, drawn_at_once
from research.oracles.reference_classifier import chance_difference, reference_accuracy
from research.statistics import every_seed, over_seeds
from research.vision import Data, pictures

Network = Literal["linear", "dense", "convolutional"]
NETWORKS = ("linear", "dense", "convolutional")
HIDDEN = 128
PUBLISHED = {
    "mnist": {"linear": 0.880, "dense": 0.984, "convolutional": 0.9905},
    "fashion_mnist": {"dense": 0.883, "convolutional": 0.925},
}
MOMENTS = {"mnist": (0.1307, 0.3081), "fashion_mnist": (0.2860, 0.3530)}  # of the pixels to learn from, 0 to 1
LENET_PASSES = 20  # LeCun et al. 1998, section III B
EARLY = 100  # steps within which rounding has not grown: a permuted sum is the same up to its order


class Observables(NamedTuple):
    validation: Float[Array, ""]
    test: Float[Array, ""]


class Given(NamedTuple):
    kept: Float[Array, "sample"]


class Perceptron(linen.Module):
    """Layers of ReLUs of those widths on the pixels, and a linear readout; without widths a linear model."""

    widths: tuple[int, ...] = ()

    @linen.compact
    def __call__(self, images: Float[Array, "image row column channel"]) -> Float[Array, "image label"]:
        """Return the logits."""
        outputs = images.reshape(len(images), -1)
        for layer, width in enumerate(self.widths):
            outputs = linen.relu(linen.Dense(width, param_dtype=images.dtype, name=f"hidden_{layer}")(outputs))
        return linen.Dense(10, param_dtype=images.dtype, name="readout")(outputs)


def network_of(network: Network) -> linen.Module:
    """A linear model, 128 hidden ReLUs, or convolutions of 8 and 16 filters with pooling and 64 hidden ReLUs."""
    if network == "convolutional":
        return ConvolutionalNetwork((8, 16), hidden=64)
    return Perceptron((HIDDEN,) if network == "dense" else ())


def simulate(
    key: Array,
    learning_rate: float,
    permuted: float = 0.0,
    alike: float = 0.0,
    neighbours: float = 0.0,
    *,
    network: Network = "convolutional",
    data: Data = "digits",
    batch: int = 64,
    momentum: float = 0.9,
    steps: int = 1500,
) -> Run:
    """Stochastic descent on the mean cross-entropy over four fifths of the training pictures, in a row from anywhere.

    `permuted` 1 shuffles the pixels, with `neighbours` 1 by turning rows into columns, which keeps neighbours; `alike`
    1 shuffles the dense network's first weights with them. `validation` is the mean cross-entropy of the other fifth,
    `test` the accuracy on all pictures of the test.
    """
    split_key, order_key, init_key, batch_key = jax.random.split(key, 4)
    held = pictures(data)
    side, dtype = held.train.shape[1], jnp.result_type(float)
    flat = lambda part: jnp.asarray(part.reshape(len(part), -1), dtype)
    natural, shuffled = jnp.arange(side**2), jnp.argsort(jax.random.uniform(order_key, (side**2,)))
    turned = natural.reshape(side, side).T.ravel()
    order = jnp.where(permuted > 0, jnp.where(neighbours > 0, turned, shuffled), natural)
    seen = lambda part: flat(part)[:, order].reshape(len(part), side, side, 1)
    count, last = len(held.train), len(held.train) * 4 // 5
    places = (jax.random.randint(split_key, (), 0, count) + jnp.arange(count)) % count
    kept, spared = places[:last], places[last:]
    (X, X_test), labels = (seen(held.train), seen(held.test)), jnp.asarray(held.train_labels)
    model, optimizer = network_of(network), optax.sgd(learning_rate, momentum=momentum)
    forward: Any = model.apply
    params = drawn_at_once(init_key, model, X[:1])
    if network == "dense":
        first = params["params"]["hidden_0"]
        first["kernel"] = jnp.where(alike > 0, first["kernel"][order], first["kernel"])

    def observe(state: Descent) -> Observables:
        validation = cross_entropy(forward(state.params, X[spared]), labels[spared]).mean()
        right = jnp.argmax(forward(state.params, X_test), axis=1) == jnp.asarray(held.test_labels)
        return Observables(validation, jnp.mean(right, dtype=dtype))

    sample = lambda key: kept[jax.random.randint(key, (batch,), 0, last)]
    loss = lambda params, drawn: cross_entropy(forward(params, X[drawn]), labels[drawn]).mean()
    step = stochastic_descent(loss, optimizer, sample)
    at = np.unique([*log_spaced(steps, 24), min(EARLY, steps)])
    return Run(start(params, optimizer, batch_key), step, observe, at, Given(kept.astype(dtype)))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The test accuracy of scikit-learn's logistic regression and of its network on each seed's training pictures."""
    dataset = sound(dataset)
    data = str(np.unique(dataset["data"].values)[0])
    held = pictures(data)
    flat = lambda part: part.reshape(len(part), -1)
    kept = dataset.kept.isel({each: 0 for each in dataset.kept.dims if each not in ("seed", "sample")})
    rows = kept.transpose("seed", "sample").values.astype(int) if data == "digits" else []  # of MNIST it takes an hour
    reference = [
        [
            reference_accuracy(
                flat(held.train[row]), held.train_labels[row], flat(held.test), held.test_labels, hidden, seed
            )
            for seed, row in enumerate(rows)
        ]
        for hidden in (0, HIDDEN)
    ]
    values = np.array(reference) if len(rows) else np.full((2, dataset.sizes["seed"]), np.nan)
    return dataset.assign(
        reference=(("other", "seed"), values),
        cases=len(held.test),
        average=held.train.mean(),
        spread=held.train.std(),
    ).assign_coords(other=["linear", "dense"])


def stopped(dataset: xr.Dataset, network: str, permuted: float = 0.0) -> np.ndarray:
    """Each seed's test accuracy at the learning rate and time of its least validation loss; empty without runs."""
    runs = select(dataset, network=network, permuted=permuted, alike=0.0)
    if not runs.diverged.size:
        return np.array([])
    axes = [each for each in runs.validation.dims if each != "seed"]
    validation, test = (runs[name].stack(place=axes).transpose("seed", "place") for name in ("validation", "test"))
    best = validation.fillna(np.inf).values.argmin(axis=1)  # a diverged run is never chosen
    return np.take_along_axis(test.values, best[:, None], axis=1)[:, 0]


def findings(dataset: xr.Dataset) -> list[Finding]:
    """What a permutation takes from each network, and their accuracies beside each other's, others' and published."""
    found: list[Finding] = []
    plain = {name: stopped(dataset, name) for name in NETWORKS}
    lost = {name: plain[name] - row for name in NETWORKS if len(row := stopped(dataset, name, 1.0)) == len(plain[name])}
    lost = {name: values for name, values in lost.items() if len(values)}
    cases, data = int(dataset.cases), str(np.unique(dataset["data"].values)[0])

    def add(what: str, band: tuple[float, float], values: Any, spread: Any = over_seeds, outlook: str = "") -> None:
        found.append(Finding.of(f"{data.replace('_', '-')}: {what}", band, spread(values), outlook))

    if {"convolutional", "dense"} <= {*lost}:
        what = "accuracy that permuted pixels take from the convolutional network, less that from the dense one"
        add(what, (1e-9, np.inf), lost["convolutional"] - lost["dense"])
    for name in ("dense", "linear"):
        if name in lost:  # equivalence within a point, the ledger's margin
            add(f"accuracy that permuted pixels take from the {name} one (equivalence)", (-0.01, 0.01), lost[name])
    twins = select(dataset, network="dense", permuted=1.0, alike=1.0).validation
    natural = select(dataset, network="dense", permuted=0.0, alike=0.0).validation
    if twins.size and natural.size and EARLY in dataset.step:
        early = [
            row.sel(step=EARLY).stack(run=[d for d in row.dims if d not in ("seed", "step")])
            for row in (twins, natural)
        ]
        apart = np.abs(early[0].transpose("seed", "run").values / early[1].transpose("seed", "run").values - 1).max(
            axis=1
        )
        # 100 steps, each a sum of 64 in another order: 100 × 64 × 2⁻²⁴, and ten times that
        what = f"dense, first weights permuted alike: validation loss at step {EARLY} over that without, distance to 1"
        add(what, (0.0, 4e-3), apart, every_seed)
    for better, worse in (("dense", "linear"), ("convolutional", "dense")):
        if len(plain[better]) and len(plain[worse]):
            add(
                f"accuracy of the {better} network less the {worse} one's", (1e-9, np.inf), plain[better] - plain[worse]
            )
    for name in ("linear", "dense"):
        other = dataset.reference.sel(other=name).values
        if len(plain[name]) and np.isfinite(other).all():
            most = chance_difference(float(other.mean()), cases)
            level = f"{plain[name].mean():.3f} against {other.mean():.3f}"
            add(f"{name}: accuracy less scikit-learn's ({level})", (-most, most), plain[name] - other)
    for name, value in PUBLISHED.get(data, {}).items():
        if len(plain[name]):
            room = chance_difference(value, cases) / 2**0.5
            passes = float(dataset.steps.max() * dataset.batch.max()) / dataset.sizes["sample"]
            outlook = f"after {passes:.1f} passes over the pictures; LeNet-5 took {LENET_PASSES}"
            outlook = outlook if passes < LENET_PASSES else ""
            add(f"{name}: test accuracy (published: {value:.4g})", (value - room, 1.0), plain[name], outlook=outlook)
    for what, name, value in zip(("mean", "deviation"), ("average", "spread"), MOMENTS.get(data, ()), strict=False):
        same = np.full(dataset.sizes["seed"], dataset[name])
        add(f"check of the files: {what} of the training pixels", (value - 5e-5, value + 5e-5), same)
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) accuracy as it is learnt, (b) at the best time of the validation split, (c) what a permutation takes."""
    figure, ((course, level, taken),) = plots.figure(1, 3, "What neighbourhood is worth: the same pictures, permuted")
    data = str(np.unique(dataset["data"].values)[0])
    rates = np.unique(dataset.learning_rate.values)
    for number, name in enumerate(NETWORKS):
        color = f"C{number}"
        for permuted in (0.0, 1.0):
            runs = select(dataset, network=name, permuted=permuted, alike=0.0, learning_rate=rates[len(rates) // 2])
            if runs.diverged.size:
                curve = runs.test.squeeze([d for d in runs.test.dims if d not in ("seed", "step")]).sel(
                    step=runs.step > 0
                )
                style = {"color": color, "linestyle": "--" if permuted else "-"}
                plots.seeds(course, curve, f"{name}, permuted" if permuted else name, **style)
            values = stopped(dataset, name, permuted)
            place = np.full(len(values), number + 0.3 * permuted)
            kind: dict[str, Any] = {
                "color": color,
                "linestyle": "none",
                "marker": "s" if permuted else "o",
                "markersize": 4,
            }
            level.plot(place, values, alpha=0.6, label="permuted" if permuted else "as it is", **kind)
        plain, mixed = stopped(dataset, name), stopped(dataset, name, 1.0)
        if len(plain) == len(mixed):
            taken.plot(np.full(len(plain), number), 100 * (plain - mixed), "o", color=color, alpha=0.6, markersize=4)
        others = [PUBLISHED[data][name]] if name in PUBLISHED.get(data, {}) else []
        if name != "convolutional" and np.isfinite(dataset.reference).all():
            others = [float(dataset.reference.sel(other=name).mean())]
        for value in others:
            label = "published" if data in PUBLISHED else "scikit-learn"
            plots.theory(level, (number - 0.2, number + 0.5), (value, value), None if number else label)
    taken.fill_between((-0.5, 2.5), -1, 1, color="0.9", label="one point")
    plots.theory(taken, (-0.5, 2.5), (0, 0), "symmetry: nothing is lost")
    course.set(
        title=f"a  learning, rate {rates[len(rates) // 2]:g}", xlabel="step", xscale="log", ylabel="test accuracy"
    )
    level.set(title="b  early stopping by validation", ylabel="test accuracy")
    taken.set(title="c  what a permutation takes", ylabel="points of test accuracy lost")
    for axes in (level, taken):
        axes.set_xticks(range(len(NETWORKS)), NETWORKS)
    handles, labels = level.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    level.legend(unique.values(), unique.keys())
    for axes in (course, taken):
        plots.legend(axes)
    return figure


AXES = ("network", "permuted", "alike")
ARMS = [*((name, permuted, 0.0) for name in NETWORKS for permuted in (0.0, 1.0)), ("dense", 1.0, 1.0)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS, "learning_rate": [0.01, 0.03]},
    smoke={"seeds": 2, AXES: ARMS[2:6], "learning_rate": [0.03], "steps": 300},
    paper={"steps": 20_000, "learning_rate": [0.003, 0.01, 0.03]},
    control={"neighbours": 1.0},
    precision="float32",
)
