"""Dropout limits the depth that trains to about 6 ξ_c, unless one mask is kept for all images and all steps.

Claim: With dropout that keeps a share ρ of the units, correlations between inputs are forgotten over a depth ξ_c that
is finite everywhere, and networks deeper than about 6 ξ_c do not train, also where gradients keep their size, χ_1 = 1.

Source: Schoenholz, Gilmer, Ganguli & Sohl-Dickstein 2017, "Deep information propagation", arXiv 1611.01232, section 5;
ξ_c and correlations themselves: dropout_correlation.

Departure: Bundled digits instead of MNIST, tanh networks of width 64 up to 32 layers instead of 300, σ_b² = 0.05, SGD
with momentum 0.9 for 200 steps at the rate 0.2 over the number of layers. σ_w² is ρ times that of the edge of chaos,
so that gradients neither grow nor vanish, and what fails is not they. Masks are drawn for all hidden layers but the
last. A depth is trainable where half of 300 images trained on are right, without masks, between depths linear in ln L;
networks that learn at all depths count with the deepest, those that learn at none with the shallowest. One mask for all
images of a batch leaves equal images equal and has no finite ξ_c within a pass; yet it takes no deeper network: what is
forgotten is what was learned under the mask before. With one mask for all steps, read with it, depth trains again.

Bands: of the paper's 6, 3 to 9, as in trainable_depth.
"""

from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from research import data as problems
from research import plots
from research.dynamics import Run, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import lift, select, sound, table
from research.models import Stack, random_stack
from research.oracles.mean_field import mean_field
from research.statistics import crossing, every_seed, over_seeds, slope

BIAS_VARIANCE, EDGE = 0.05, 1.76096  # of the weights, without dropout
FACTOR, BAND, HALF, SHOWN = 6.0, (3.0, 9.0), 0.5, 300
MASKS = ("masks of their own", "one mask for all images", "one mask for all steps")


class Observables(NamedTuple):
    accuracy: Float[Array, ""]
    with_masks: Float[Array, ""]


def simulate(
    key: Array,
    keep: float,
    shared: float = 0.0,
    learning_rate: float = 0.2,
    *,
    depth: int = 8,
    width: int = 64,
    steps: int = 200,
    batch: int = 32,
) -> Run:
    """Training with masks that keep the share `keep`, in steps of 1/256.

    `shared` 1 has one mask for a whole batch, 2 the same for all steps as well, and for `with_masks`. `learning_rate`
    is divided by the number of layers. Accuracies are those on 300 images, without masks and with.
    """
    pixels, labels = problems.digits()
    inputs = problems.standardized(pixels)
    inputs *= (inputs.shape[1] / np.sum(inputs**2, axis=1, keepdims=True)) ** 0.5
    X, y = jnp.asarray(inputs, jnp.float32), jnp.asarray(labels)
    init_key, descent_key, shown_key = jax.random.split(key, 3)
    network = random_stack(init_key, X.shape[1], width, depth, 10, keep * EDGE, BIAS_VARIANCE)
    kept = jnp.round(256 * keep)

    def logits(network: Stack, images: Array, key: Array) -> Array:
        def layer(sums: Array, given: tuple) -> tuple[Array, None]:
            weights, bias, key = given
            bits = jax.random.bits(key, sums.shape, jnp.uint8)
            mask = (jnp.where(shared > 0, bits[:1], bits) < kept) / (kept / 256)
            return (jnp.tanh(sums) * mask) @ weights + bias[None, :], None

        first = images @ network.entry + network.biases[0][None, :]
        last, _ = jax.lax.scan(layer, first, (network.hidden, network.biases[1:], jax.random.split(key, depth - 1)))
        return jnp.tanh(last) @ network.readout

    def sample(key: Array) -> tuple[Array, Array]:
        batch_key, mask_key = jax.random.split(key)
        chosen = jax.random.bits(batch_key, (batch,), jnp.uint32) % len(X)
        same, new = jax.random.key_data(shown_key), jax.random.key_data(mask_key)
        return chosen, jax.random.wrap_key_data(jnp.where(shared > 1, same, new))

    loss = lambda network, drawn: cross_entropy(logits(network, X[drawn[0]], drawn[1]), y[drawn[0]]).mean()
    chain = optax.sgd(learning_rate / depth, momentum=0.9)
    right = lambda said: jnp.mean(jnp.argmax(said, axis=1) == y[:SHOWN], dtype=X.dtype)

    def observe(state: Any) -> Observables:
        plain = state.params(X[:SHOWN], jnp.tanh).logits
        return Observables(right(plain), right(logits(state.params, X[:SHOWN], shown_key)))

    at = np.unique([0, steps // 2, steps])
    return Run(start(network, chain, descent_key), stochastic_descent(loss, chain, sample), observe, at)


class Depths(NamedTuple):
    chi: float
    scale: float


def correlation_scale(keep: float, shared: float) -> Depths:
    """χ_1 and ξ_c; one mask for all inputs is no noise between them, but larger weights."""
    weight, own = (EDGE, 1.0) if shared else (keep * EDGE, keep)
    field = mean_field("tanh", weight, BIAS_VARIANCE, own)
    return Depths(field.chi, field.correlation_depth)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """What theory says of each network, and how it ends; a run that diverged has not learned."""
    dataset = sound(dataset)
    end = dataset.accuracy.sel(step=dataset.steps).where(~dataset.diverged, 0.0)
    masked = dataset.with_masks.sel(step=dataset.steps).where(~dataset.diverged, 0.0)
    end = xr.where(dataset.shared > 1, masked, end)
    return dataset.assign(lift(correlation_scale, dataset.keep, dataset.shared)).assign(end=end)


def trainable_depth(runs: xr.Dataset) -> np.ndarray:
    """In every seed the depth at which the accuracy falls through a half, or the end of the design on that side."""
    ends = table(runs, "end", "depth")
    logs = np.log(ends.depth.values)
    found = []
    for row in ends.values:
        place = crossing(logs, -row, -HALF)
        none = logs[0] if row[0] < HALF else logs[-1]
        found.append(np.nan if np.isnan(row).any() else np.exp(none if np.isnan(place) else place))
    return np.array(found)


def arms(dataset: xr.Dataset) -> dict[tuple[float, float], xr.Dataset]:
    """The runs of each share kept and kind of mask, most kept first."""
    kinds = {(keep, shared): select(dataset, keep=keep, shared=shared) for keep, shared in product(*_values(dataset))}
    return {kind: runs for kind, runs in kinds.items() if runs.diverged.size}


def _values(dataset: xr.Dataset) -> tuple[list[float], list[float]]:
    keeps, kinds = (np.unique(dataset[name].values).tolist() for name in ("keep", "shared"))
    return keeps[::-1], kinds


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Trainable depth over ξ_c for each share, its order; no dropout; one mask for all images, and for all steps."""
    found: list[Finding] = []
    kinds = arms(dataset)
    own = {keep: runs for (keep, shared), runs in kinds.items() if not shared and keep < 1}
    depths = {keep: trainable_depth(runs) for keep, runs in own.items()}
    for keep, runs in sorted(own.items()):
        scale = float(runs.scale.max(skipna=False))
        ends = " and ".join(f"{each:.1f}" for each in (depths[keep].min(), depths[keep].max()))
        what = f"ρ = {keep:g}: depth that trains over ξ_c = {scale:.2f} (between {ends} layers)"
        found.append(Finding.of(what, BAND, over_seeds(depths[keep] / scale)))
    if len(own) > 2:
        scales = np.log([float(runs.scale.max()) for runs in own.values()])
        rise = slope(scales, np.log(np.stack(list(depths.values()), axis=1)))
        what = f"slope of ln(depth that trains) on ln ξ_c, {len(own)} ρ (1: so many ξ_c, whatever ρ)"
        found.append(Finding.of(what, (0.5, 1.5), over_seeds(rise)))
    for (keep, shared), runs in kinds.items():
        deepest = int(runs.depth.max())
        at_end = table(runs, "end", "depth").sel(depth=deepest).values
        if keep == 1:
            what = f"without dropout: accuracy at {deepest} layers"
            found.append(Finding.of(what, (HALF, 1.0), every_seed(at_end)))
        elif shared:
            what = f"ρ = {keep:g}, {MASKS[int(shared)]}: accuracy at {deepest} layers"
            found.append(Finding.of(what, (HALF, 1.0), every_seed(at_end)))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Accuracy by depth for each share kept, 6 ξ_c marked; trainable depth against ξ_c."""
    figure, ((curves, depths),) = plots.figure(1, 2, "Dropout limits the depth that trains", (5.0, 3.8))
    scales = []
    for number, ((keep, shared), runs) in enumerate(arms(dataset).items()):
        color, scale = f"C{number}", float(runs.scale.max())
        label = f"ρ = {keep:g}" + (f", {MASKS[int(shared)]}" if shared else "")
        plots.seeds(curves, table(runs, "end", "depth"), label, color=color, marker="o", markersize=3)
        if keep < 1 and not shared:
            curves.axvline(FACTOR * scale, color=color, linestyle=":", linewidth=1.5)
            seen = trainable_depth(runs)
            depths.plot(np.full(seen.shape, scale), seen, "o", color=color, label=label, alpha=0.6)
            scales.append(scale)
    curves.axhline(HALF, color="black", linestyle="--", linewidth=1.0, label="half; dotted: 6 ξ_c")
    curves.set(title="a  after training", xlabel="layers", ylabel="accuracy on images trained on", xscale="log")
    layers = np.unique(dataset.depth.values)
    curves.set(ylim=(0, 1.03), xlim=(layers[0] / 4, 1.1 * layers[-1]))  # room for the legend
    curves.set_xticks(layers, layers, minor=False)
    curves.minorticks_off()
    if scales:
        line = np.array([0.8 * min(scales), 1.25 * max(scales)])
        plots.theory(depths, line, FACTOR * line, "6 ξ_c")
        depths.fill_between(line, BAND[0] * line, BAND[1] * line, color="0.9", label="3 to 9 ξ_c")
    depths.set(title="b  against theory", xlabel="ξ_c (layers)", ylabel="depth that trains", xscale="log", yscale="log")
    for axes in (curves, depths):
        plots.legend(axes)
    return figure


NAMES = ("keep", "shared", "depth")
networks = lambda kinds, depths: [(*kind, depth) for kind in kinds for depth in depths]
KINDS = [(1.0, 0.0), (0.9, 0.0), (0.8, 0.0), (0.6, 0.0), (0.8, 1.0), (0.8, 2.0)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, NAMES: networks(KINDS, (8, 16, 32))},
    smoke={"seeds": 2, NAMES: networks([(0.6, 0.0)], (4, 16)), "steps": 120, "width": 40},
    paper={"seeds": 10, NAMES: networks(KINDS, (8, 16, 32, 64, 128)), "width": 300, "steps": 5000},
    control={"learning_rate": 0.0},  # nothing is learned at any depth
    precision="float32",
)
