"""Batch normalisation makes gradients explode with depth, and pins saturation, whatever the scale of the weights.

Claim: In a network with random weights whose every layer is normalised over the batch, squared gradients grow towards
the input by a factor a layer: π/(π - 1) = 1.467 for ReLU at large batches, (B - 2)/(B - 3) for a linear network at
batch size B. No weight scale takes this away. After one step of gradient descent the range of the gradients is far
smaller. Saturation is pinned as well: φ_B of tanh is E|tanh z| = 0.556 in every layer at every weight scale. The loss
does not know the scale of a layer, so that its gradient is orthogonal to its weights, and one step grows them:
‖w'‖² = ‖w‖² + η²‖g‖² exactly.

Source: Yang, Pennington, Rao, Sohl-Dickstein & Schoenholz 2019, "A Mean Field Theory of Batch Normalization", arXiv
1902.08129, abstract; the factors are derived again in `research.oracles.batch_norm`. Orthogonality is Euler's theorem
on functions that are homogeneous of degree 0.

Departure: Gaussian inputs; normalisation with the biased variance and no ε, no gain and no shift, before the
activation; the loss is linear in the outputs. Growth is that of gradients with respect to pre-activations, the mean
logarithm over the layers from the fifth on. All weight scales share their weights, and the rate of the one step is in
units of the scale squared, as a network blind to the scale wants it. The paper does not say how much smaller
"dramatically" is: half of the decades is asked for. Networks normalised after the activation are not looked at.

Bands: The large-batch value lacks terms of relative size 1/B, as those of the linear one are. At width n a layer's
growth has variance 5/n at most (ReLU without normalisation), and its logarithm is low by half of that. The batch's Gram
matrix has eigenvalues of relative variance B/n for every layer that it remembers, all of them in a linear network and
about four in others; this raises the mean of 1/χ²_(B-1) by as much over B - 3. Over 50 layers the whole logarithm is
asked for within 5 %; from the second one on, as the inputs have a variance of their own. φ_B: on the sphere, moments
differ from Gaussian ones by terms of 1/B, samples have variances that differ by O(1/√n), which shifts it by O(1/n), and
the mean of n·B numbers in [0, 1] has three standard errors.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, start
from research.experiment import Experiment, Finding
from research.labels import arms, largest, lift, per_seed, select
from research.observables.saturation import mean_saturation
from research.oracles.batch_norm import gradient_growth
from research.oracles.mean_field import saturation, variance_path
from research.statistics import over_seeds

FUNCTIONS = {"relu": jax.nn.relu, "linear": lambda u: u, "tanh": jnp.tanh}
FIRST = 4  # layers left out, in which samples become alike
DEEP = 40  # layers from which the gradients of the whole network are compared with theory's


class Observables(NamedTuple):
    gradient: Float[Array, "layer"]
    weight_gradient: Float[Array, "layer"]
    weight_norm: Float[Array, "layer"]
    cosine: Float[Array, "layer"]
    saturation: Float[Array, "layer"]


def simulate(
    key: Array,
    weight_scale: float,
    learning_rate: float = 1.0,
    *,
    activation: Literal["relu", "linear", "tanh"] = "relu",
    batch: int = 128,
    width: int = 200,
    depth: int = 20,
    normalised: bool = True,
) -> Run:
    """One step of gradient descent from W ~ N(0, weight_scale²/width), at learning_rate · weight_scale²."""
    input_key, weight_key, target_key = jax.random.split(key, 3)
    first = jax.random.normal(input_key, (batch, width))
    targets = jax.random.normal(target_key, (batch, width)) / batch**0.5
    function = FUNCTIONS[activation]

    def layer(outputs: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:
        weights, shift = given
        sums = outputs @ weights + shift
        if normalised:
            sums = (sums - jnp.mean(sums, axis=0, keepdims=True)) / jnp.std(sums, axis=0, keepdims=True)
        outputs = function(sums)
        return outputs, mean_saturation(outputs, -1.0, 1.0)  # a saturation where the range is [-1, 1]

    def loss(weights: Array, shifts: Array) -> tuple[Array, Array]:
        outputs, levels = jax.lax.scan(layer, first, (weights, shifts))
        return jnp.sum(outputs * targets), levels

    shifts = jnp.zeros((depth, batch, width))  # what the gradient of each sample's pre-activation is read off

    def observe(state: tuple) -> Observables:
        (by_weights, by_sums), levels = jax.grad(loss, argnums=(0, 1), has_aux=True)(state[0], shifts)
        squared = lambda arrays: jnp.sum(arrays**2, axis=(1, 2))
        product, sizes = jnp.sum(by_weights * state[0], axis=(1, 2)), (squared(by_weights), squared(state[0]))
        return Observables(squared(by_sums), *sizes, product / jnp.sqrt(sizes[0] * sizes[1]), levels)

    optimizer = optax.sgd(learning_rate * weight_scale**2)
    weights = jax.random.normal(weight_key, (depth, width, width)) * (weight_scale / width**0.5)
    step = descent(lambda weights: loss(weights, shifts)[0], optimizer)
    return Run(start(weights, optimizer), step, observe, at=np.array([0, 1]))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The growth a layer towards the input, theory's, and the range of the weights' gradients before and after."""
    layer = xr.DataArray(np.arange(dataset.sizes["layer"]), dims="layer")
    logs = np.log(dataset.gradient.isel(step=0)).where((layer >= FIRST) & (layer < dataset.depth - 1))
    steps = -logs.diff("layer").mean("layer")
    sizes = np.log10(dataset.weight_gradient) / 2
    before, after = dataset.isel(step=0), dataset.isel(step=1)
    grown = (dataset.learning_rate * dataset.weight_scale**2) ** 2 * before.weight_gradient
    return dataset.assign(
        tanh_level=saturation("tanh", 1.0),
        identity=abs(after.weight_norm / (before.weight_norm + grown) - 1).max("layer"),
        growth=np.exp(steps),
        expected=lift(gradient_growth, dataset.activation, dataset.batch),
        range=sizes.max("layer") - sizes.min("layer"),
    ).assign_coords(layer=layer + 1)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Growth of each network over theory's, its dependence on the weight scale, and the range after one step."""
    found = []
    ratio = dataset.growth / dataset.expected
    for name in FUNCTIONS:
        runs = select(dataset.assign(ratio=ratio), activation=name)
        if not runs.diverged.size:
            continue
        batch, width, linear = int(np.max(runs.batch)), int(np.min(runs.width)), name == "linear"
        remembered = int(np.max(runs.depth)) if linear else FIRST
        allowed = 2.5 / width + remembered * batch / width / (batch - 3) + (0 if linear else 1 / batch)
        theory = float(runs.expected.mean(skipna=False))
        said = f"{name}, batch {batch}: growth of squared gradients a layer, over {theory:.4f}"
        found.append((said, (1 - allowed, 1 + allowed), per_seed(runs.ratio, "mean")))
    relu = select(dataset, activation="relu")
    if relu.diverged.size:
        deep = largest(relu, "depth")
        depth, batch = int(deep.depth.max()), int(deep.batch.max())
        if depth > DEEP:
            # Inputs have variance 1, not that of ReLU's outputs, which the first of the steps down misses.
            logs = np.log(deep.gradient.isel(step=0))
            ratio = (logs.isel(layer=1) - logs.isel(layer=depth - 1)) / ((depth - 2) * np.log(deep.expected))
            theory = 10 ** (float(np.log10(deep.expected).mean(skipna=False)) * (depth - 2))
            what = f"relu, {depth} layers, batch {batch}: ln of the squared gradient of layer 2 over that of the last"
            found.append((f"{what}, over ln {theory:.1e}", (0.95, 1.05), per_seed(ratio, "mean")))
        runs = select(relu, depth=int(relu.depth.min()))
        varied = np.log(runs.growth)
        others = [each for each in varied.dims if each != "seed"]
        moved = (varied.max(others) - varied.min(others)).values
        before, after = (per_seed(runs.range.isel(step=place), "mean") for place in (0, 1))
        found += [
            ("relu: ln growth, largest less smallest of the weight scales", (0.0, 1e-6), moved),
            (
                "relu: decades from the least to the largest gradient, after one step over before",
                (0.0, 0.5),
                after / before,
            ),
        ]
    runs = select(dataset, activation="tanh")
    if runs.diverged.size:
        level, batch, width = float(np.max(runs.tanh_level)), int(np.min(runs.batch)), int(np.min(runs.width))
        spread = 1 / batch + 1 / width + 3 * (level * (1 - level) / (width * batch)) ** 0.5
        farthest = per_seed(abs(runs.saturation.isel(step=0) - level).max("layer"))
        found.append((f"tanh: |φ_B - {level:.4f}|, largest of layers and weight scales", (0.0, spread), farthest))
    cosines = per_seed(abs(dataset.cosine.isel(step=0)).max("layer"))
    found += [
        ("|cosine| of a layer's gradient and its weights, largest", (0.0, 1e-6), cosines),
        ("‖w'‖² over ‖w‖² + η²‖g‖² after one step, largest distance to 1", (0.0, 1e-5), per_seed(dataset.identity)),
    ]
    return [Finding.of(statement, band, over_seeds(values)) for statement, band, values in found]


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Gradients by layer over those of the last one, then before and after one step."""
    title = "Batch normalisation makes gradients explode towards the input, and pins saturation"
    figure, axes = plots.figure(1, 3, title)
    initial, stepped, pinned = axes[0]
    number = 0
    for name in FUNCTIONS:
        runs = select(dataset, activation=name)
        for place, cell in enumerate(cell for _, cell in arms(runs) if cell.diverged.size):
            curve = cell.gradient.isel(step=0).dropna("layer", how="all")
            curve = (curve / curve.isel(layer=-1)).drop_vars("step")
            style = {"color": f"C{list(FUNCTIONS).index(name)}", "linestyle": ("-", "--", ":")[place % 3]}
            deep = place and int(cell.depth) > DEEP
            told = f"{int(cell.depth)} layers" if deep else f"B = {int(cell.batch)}"
            label = f"{name}, {told}" if deep or not place else None
            plots.seeds(initial, curve.transpose("seed", "layer"), label, **style)
            if not place or deep:
                theory = float(cell.expected.mean()) ** (float(curve.layer[-1]) - curve.layer)
                plots.theory(initial, curve.layer, theory, None if number else "theory")
                number += 1
            if name == "relu" and not place:
                for time, what in enumerate(("before", "after one step")):
                    sizes = cell.weight_gradient.isel(step=time).dropna("layer", how="all").drop_vars("step") ** 0.5
                    plots.seeds(stepped, sizes.transpose("seed", "layer"), what, color=f"C{time + 3}")
                    if not time:
                        growth = theory**0.5 * float(sizes.isel(layer=-1).median())
                        plots.theory(stepped, curve.layer, growth, "theory, before")
    runs = select(dataset, activation="tanh")
    for place, cell in enumerate(cell for _, cell in arms(runs) if cell.diverged.size):
        levels = cell.saturation.isel(step=0, drop=True).dropna("layer", how="all").transpose("seed", "layer")
        style = {"color": f"C{place}", "linestyle": ("-", "--", ":")[place % 3]}
        plots.seeds(pinned, levels, f"weight scale {float(cell.weight_scale):g}", **style)
        scale, layers = float(cell.weight_scale), int(cell.depth)
        plain = [saturation("tanh", q) for q in variance_path("tanh", scale**2, 0.0, scale**2, layers)]
        label = None if place else "theory without normalisation"
        plots.theory(pinned, levels.layer, plain, label, linestyle=":", linewidth=0.9)
    pinned.axhline(float(np.max(dataset.tanh_level)), color="black", linestyle="--", label="E|tanh z|")
    pinned.set(title="tanh: saturation", xlabel="layer", ylabel="φ_B", ylim=(0, 1.3))
    initial.set(title="every weight scale", xlabel="layer", ylabel="squared gradient, over the last layer's")
    stepped.set(title="ReLU: one step of descent", xlabel="layer", ylabel="norm of the weights' gradient")
    initial.set_yscale("log")
    stepped.set_yscale("log")
    for each in axes[0]:
        plots.legend(each, loc="upper right" if each is pinned else "best")
    return figure


NAMES = ("activation", "batch", "width", "depth", "weight_scale")
networks = lambda width, depth, batch, wide, scales: [
    *[("relu", batch, width, depth, scale) for scale in scales],
    *[("tanh", batch, width, depth, scale) for scale in scales],
    *([("linear", 8, wide, 12, 1.0)] if wide else []),
    ("relu", batch, width, 51, 1.0),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, NAMES: networks(200, 20, 128, 800, (0.5, 1.0, 3.0, 16.0)), "learning_rate": 1.0},
    smoke={"seeds": 3, NAMES: [(name, 64, 100, 14, scale) for name in ("relu", "tanh") for scale in (0.5, 3.0)]},
    paper={"seeds": 8, NAMES: networks(1000, 50, 1000, 1500, (0.5, 1.0, 3.0, 16.0))},
    control={"normalised": False, "activation": "relu"},
)
