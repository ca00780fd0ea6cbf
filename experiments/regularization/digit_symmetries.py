"""Flipped and turned copies of digits cost a linear classifier accuracy: a half turn makes 6 and 9 alike.

Claim: Softmax regression with weight decay on digits and their copies under a group, mirror images or half turns, has
one minimum; its weights are exactly invariant and are those of the orbits' means without any copies. Pictures that are
upright are then read worse. A half turn costs most where it changes the meaning, 6 and 9, more than on 0 and 8, which
look alike turned. Where half of the pictures that are read are turned themselves, it is worth its price.

Source: Textbooks recommend flips and rotations as augmentation that improves generalisation, some with the warning
about 6 and 9 (Goodfellow, Bengio & Courville 2016, Deep Learning, chapter 7); means over orbits: Chen, Dobriban & Lee
2020, arXiv 1907.10905.

Departure: The model is linear, so that the optimum is known and what is measured is augmentation alone. An invariant
linear model sees only the mean of a picture and its copy, half of the pixels' dimensions: its loss is more than that
of a network, which has room for both pictures. Scikit-learn's digits, 8 × 8 pixels, 20 of each for training.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import data as problems
from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import averaged, lift, per_seed, select
from research.oracles.augmentation import softmax_optimum
from research.statistics import every_seed, over_seeds

IMAGES = {"mirror images": np.arange(64).reshape(8, 8)[:, ::-1].ravel(), "half turns": np.arange(64)[::-1]}
SHARES = {"mirror images": "mirrored", "half turns": "turned"}


class Observables(NamedTuple):
    weights: Float[Array, "pixel digit"]


class Given(NamedTuple):
    X: Float[Array, "sample pixel"]
    labels: Float[Array, "sample"]
    chosen: Float[Array, "sample"]


def simulate(
    key: Array,
    mirrored: float,
    turned: float,
    share: float = 1.0,
    *,
    weight_decay: float = 0.03,
    per_class: int = 20,
    steps: int = 3000,
) -> Run:
    """Accelerated descent from zero on the mean cross-entropy of softmax(XW) + weight_decay/2·‖W‖².

    `mirrored` and `turned`, 1 or 0, say which copy is added to each picture. It counts `share` times as much.
    """
    pixels, labels = problems.digits()
    chosen = problems.balanced_subset(key, labels, per_class)
    X, digit = jnp.asarray(pixels)[chosen], jnp.asarray(labels)[chosen]
    y = jax.nn.one_hot(digit, 10, dtype=float)
    weights = jnp.stack([jnp.ones(()), mirrored * share, turned * share])
    copies = jnp.stack([X, *(X[:, image] for image in IMAGES.values())])

    def loss(W: Array) -> Array:
        losses = optax.softmax_cross_entropy(copies @ W, jnp.broadcast_to(y, (3, *y.shape))).mean(axis=1)
        return weights @ losses / weights.sum() + weight_decay / 2 * jnp.sum(W**2)

    # softmax curves by 1/2 at most, and the largest eigenvalue of XᵀX/n is below its trace
    condition = (jnp.mean(jnp.sum(X**2, axis=1)) / 2 + weight_decay) / weight_decay
    momentum = (condition**0.5 - 1) / (condition**0.5 + 1)
    optimizer = optax.sgd(1 / (condition * weight_decay), momentum=momentum, nesterov=True)
    settled = lambda state: jnp.max(jnp.abs(jax.grad(loss)(state.params))) < 1e-9
    observe = lambda state: Observables(state.params)
    given = Given(X, digit.astype(float), chosen.astype(float))
    at = log_spaced(steps, 12, first=100)
    return Run(start(jnp.zeros((64, 10)), optimizer), descent(loss, optimizer), observe, at, given, stop=settled)


class Reading(NamedTuple):
    distance: float
    asymmetry: float
    upright: float
    either: float
    confused: float
    recall: Float[np.ndarray, "digit"]


def reading(
    X: Float[np.ndarray, "sample pixel"],
    labels: Float[np.ndarray, "sample"],
    chosen: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "pixel digit"],
    mirrored: float,
    turned: float,
    weight_decay: float,
) -> Reading:
    """Weights against the softmax on the orbits' means, relative, and how all other digits are read.

    `either` is the accuracy where half of the pictures are turned; `confused` the share of 6s and 9s read as the other.
    """
    turn = IMAGES["half turns"]
    image = turn if turned else IMAGES["mirror images"] if mirrored else np.arange(64)
    optimum = softmax_optimum((X + X[:, image]) / 2, labels, weight_decay, 10)
    size = np.linalg.norm(optimum)
    pixels, digits = problems.digits()
    rest = np.setdiff1d(np.arange(len(digits)), chosen.astype(int))
    pixels, digits = pixels[rest], digits[rest]
    answers, after = ((each @ weights).argmax(axis=1) for each in (pixels, pixels[:, turn]))
    among = np.isin(digits, (6, 9))
    return Reading(
        distance=float(np.linalg.norm(weights - optimum) / size),
        asymmetry=float(np.linalg.norm(weights - weights[image]) / size),
        upright=float(np.mean(answers == digits)),
        either=float(np.mean(answers == digits) / 2 + np.mean(after == digits) / 2),
        confused=float(np.mean(answers[among] == 15 - digits[among])),
        recall=np.array([np.mean(answers[digits == digit] == digit) for digit in range(10)]),
    )


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """What `reading` measures at the end of each run."""
    end = dataset.isel(step=-1)
    arms = (end.mirrored, end.turned, end.weight_decay)
    return dataset.assign(lift(reading, end.X, end.labels, end.chosen, end.weights, *arms))


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Whether the solutions are those of the orbits' means, and what the copies do to accuracy."""
    what = "distance of the weights to the softmax on the orbits' means, over their size, each group"
    found = [Finding.of(what, (0.0, 1e-5), every_seed(per_seed(dataset.distance)))]
    plain = select(dataset, mirrored=0.0, turned=0.0)
    for name, parameter in SHARES.items():
        arm = select(dataset, **{parameter: 1.0})
        if not arm.diverged.size or not plain.diverged.size:
            continue

        def add(what: str, change: np.ndarray, name: str = name) -> None:
            found.append(Finding.of(f"{name}: {what}", (0.0, np.inf), over_seeds(change)))

        gain = {
            each: per_seed(arm[each], "mean") - per_seed(plain[each], "mean")
            for each in ("upright", "either", "confused")
        }
        what = f"{name}: distance of the weights to themselves transformed, over their size"
        found.append(Finding.of(what, (0.0, 1e-9), every_seed(per_seed(arm.asymmetry))))
        add("textbook, such copies raise the accuracy on upright pictures, by", gain["upright"])
        if parameter == "turned":
            add("gain in accuracy where half of the pictures that are read are turned", gain["either"])
            add("rise of the share of 6s and 9s that are read as the other", gain["confused"])
            lost = averaged(plain.recall, "seed", "digit") - averaged(arm.recall, "seed", "digit")
            beyond = lost.isel(digit=[6, 9]).mean("digit") - lost.isel(digit=[0, 8]).mean("digit")
            add("loss of accuracy on 6 and 9 less that on 0 and 8, which look alike turned", beyond.values)
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) accuracy of each digit with and without copies, (b) the orbit's mean of 6 and 9, (c) the two accuracies."""
    figure, axes = plots.figure(1, 3, "Copies under a symmetry that the digits do not have cost accuracy")
    digits, pictures, both = axes[0]
    plain = select(dataset, mirrored=0.0, turned=0.0)
    groups = {"pictures alone": plain} | {name: select(dataset, **{each: 1.0}) for name, each in SHARES.items()}
    for number, (name, runs) in enumerate(groups.items()):
        if runs.diverged.size:
            recall = averaged(runs.recall, "seed", "digit")
            places = np.arange(10) + 0.27 * (number - 1)
            digits.bar(places, recall.mean("seed"), 0.25, color=f"C{number}", label=name)
            digits.vlines(places, recall.min("seed"), recall.max("seed"), color="0.3", linewidth=0.8)
            plots.points(both, runs.upright, runs.either, name, color=f"C{number}", alpha=0.8, markersize=5)
    ends = np.array([0.4, 1.0])
    plots.theory(both, ends, ends, "invariant to half turns: equal")
    one = dataset.isel(dict.fromkeys(dataset.diverged.dims, 0))
    images = [one.X.values[np.flatnonzero(one.labels.values == digit)[0]] for digit in (6, 9)]
    turn = IMAGES["half turns"]
    rows = [np.stack([picture, picture[turn], (picture + picture[turn]) / 2]).reshape(3, 8, 8) for picture in images]
    plots.tiles(pictures, rows, ["6", "9"], [False, False])
    digits.set(title="a  each digit", xlabel="digit", ylabel="accuracy on upright pictures", ylim=(0, 1.4))
    digits.set_xticks(range(10))
    pictures.set(title="b  what an invariant model sees", xlabel="picture, half turn, and their mean")
    both.set(title="c  upright or turned", xlabel="accuracy on upright pictures", xlim=(0.4, 1), ylim=(0.4, 1))
    both.set_ylabel("accuracy where half of them are turned")
    for panel in (digits, both):
        plots.legend(panel)
    return figure


ARMS = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, ("mirrored", "turned"): ARMS},
    smoke={"seeds": 3, "per_class": 10, "weight_decay": 0.1, "steps": 1500},
    paper={"seeds": 64, "per_class": 100, "steps": 20_000},
    control={"share": 0.3},
)
