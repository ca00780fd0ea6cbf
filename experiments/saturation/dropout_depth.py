"""Dropout limits the depth that trains to about 6 ξ_c, unless one mask is kept for all images and all steps.

Claim: With dropout that keeps a share ρ of the units, correlations between inputs are forgotten over a depth ξ_c that
is finite everywhere, and networks deeper than about 6 ξ_c do not train, also where gradients keep their size, χ_1 = 1.

Source: Schoenholz, Gilmer, Ganguli & Sohl-Dickstein 2017, "Deep information propagation", arXiv 1611.01232, section 5;
ξ_c and correlations themselves: dropout_correlation.

Departure: Bundled digits instead of MNIST, tanh networks of width 64 up to 32 layers instead of 300, σ_b² = 0.05, SGD
with momentum 0.9 for 200 steps at the rate 0.2 over the number of layers. σ_w² is ρ times that of the edge of chaos,
so that gradients neither grow nor vanish in theory, χ_1 = 1 (in training they are not recorded). Masks are drawn for
all hidden layers but the last. A depth is trainable where half of 300 images trained on are right, without masks,
between depths linear in ln L. Networks that learn at all depths give a lower bound, those that learn at none an upper
one. Depths double, so that this is coarse: read so, the ratio falls as ξ_c grows, from 7.2 over 6.1 to 5.2, a power
0.71 of ξ_c instead of 1; yet all nine accuracies fall along one curve of L/ξ_c, from 0.81 at 5.1 over 0.60 at 5.6 to
0.19 at 7.0, as one number of ξ_c for all ρ would have it. That number is one of the budget: after 100 steps the ratios
are 6.5, 5.5 and 4.9. One mask for all images of a batch leaves equal images equal and has no finite ξ_c within a pass;
yet it takes no deeper network: we suppose that what was learned under the mask before is forgotten, which is not
tested. With one mask for all steps depth trains again, read with that mask; without it the deepest network has not
learned.

Bands: of the paper's 6, 3 to 9, as in trainable_depth. Where accuracy falls suddenly between two depths, the place read
is off by up to half their distance in ln L, and the slope on ln ξ_c by as much as such errors can add up to.
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
from research.statistics import Estimate, crossing, every_seed, over_seeds, slope

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
    read = lambda name, step: dataset[name].sel(step=step).where(~dataset.diverged, 0.0)
    plain, half = (read("accuracy", step) for step in (dataset.steps, dataset.steps // 2))
    end = xr.where(dataset.shared > 1, read("with_masks", dataset.steps), plain)
    return dataset.assign(lift(correlation_scale, dataset.keep, dataset.shared)).assign(end=end, plain=plain, half=half)


def trainable_depth(runs: xr.Dataset, variable: str = "end") -> np.ndarray:
    """The depth from which on less than half is right: rows "at least" and "at most", seeds last.

    The two are one where the accuracy falls through a half; a seed that learns at no depth of the design has (0, the
    shallowest), one that learns at the deepest (that, ∞); (NaN, NaN) where an accuracy is not known.
    """
    ends = table(runs, variable, "depth")
    depths, found = ends.depth.values, []
    for row in ends.values:
        place = float(np.exp(crossing(np.log(depths), HALF - row, np.nextafter(0.0, 1.0))))  # exactly half is learned
        bounds = (0.0, depths[0]) if (row < HALF).all() else (depths[-1], np.inf)
        found.append((np.nan,) * 2 if np.isnan(row).any() else bounds if np.isnan(place) else (place,) * 2)
    return np.array(found).T


def bounded(rows: np.ndarray) -> Estimate:
    """The mean over seeds of numbers known as rows "at least" and "at most", its interval that of both."""
    least, most = rows
    low, high = over_seeds(least).interval[0], over_seeds(np.where(np.isinf(most), least, most)).interval[1]
    return Estimate(float(np.mean(np.where(least > 0, least, most))), (low, np.inf if np.isinf(most).any() else high))


def gain(own: dict[float, xr.Dataset]) -> np.ndarray:
    """By how much more is right, in rows of pairs of networks, in the deeper one where it has fewer ξ_c."""
    networks = [
        (depth, depth / float(runs.scale.max(skipna=False)), table(runs, "end", "depth").sel(depth=depth).values)
        for runs in own.values()
        for depth in np.unique(runs.depth.values)
    ]
    pairs = [(one, other) for one in networks for other in networks if one[0] > other[0] and one[1] < other[1]]
    return np.array([deep[2] - shallow[2] for deep, shallow in pairs])


def arms(dataset: xr.Dataset) -> dict[tuple[float, float], xr.Dataset]:
    """The runs of each share kept and kind of mask, most kept first."""
    kinds = {(keep, shared): select(dataset, keep=keep, shared=shared) for keep, shared in product(*_values(dataset))}
    return {kind: runs for kind, runs in kinds.items() if runs.diverged.size}


def _values(dataset: xr.Dataset) -> tuple[list[float], list[float]]:
    keeps, kinds = (np.unique(dataset[name].values).tolist() for name in ("keep", "shared"))
    return keeps[::-1], kinds


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Trainable depth over ξ_c for each share, whether it is one number, and of what; no dropout; shared masks."""
    found: list[Finding] = []
    kinds = arms(dataset)
    own = {keep: runs for (keep, shared), runs in kinds.items() if not shared and keep < 1}
    depths = {keep: trainable_depth(runs) for keep, runs in own.items()}
    for keep, runs in sorted(own.items()):
        scale, (least, most) = float(runs.scale.max(skipna=False)), depths[keep]
        bounds = f"; {np.sum(least < most)} of {len(least)} seeds a bound" if (least < most).any() else ""
        ends = f"χ_1 = {float(runs.chi.max()):.3f}; between {least.min():.1f} and {most.max():.1f} layers{bounds}"
        what = f"ρ = {keep:g}: depth that trains over ξ_c = {scale:.2f} ({ends})".replace("inf", "∞")
        found.append(Finding.of(what, BAND, bounded(depths[keep] / scale)))
    if len(own) > 2:
        scales = np.log([float(runs.scale.max()) for runs in own.values()])
        least, most = np.moveaxis(np.array(list(depths.values())), 0, 2)
        apart = abs(scales - scales.mean())
        off = np.diff(np.log(np.unique(dataset.depth.values))).max() / 2 * apart.sum() / (apart**2).sum()
        rise = slope(scales, np.log(np.where(least == most, least, np.nan)))  # bounds have none
        what = f"slope of ln(depth that trains) on ln ξ_c, {len(own)} ρ (1: so many ξ_c, whatever ρ; read to {off:.2f})"
        found.append(Finding.of(what, (float(1 - off), float(1 + off)), over_seeds(rise)))
    if len(more := gain(own)):
        what = f"{len(more)} pairs of networks: accuracy of the deeper, which has fewer ξ_c, above the other's, mean"
        found.append(Finding.of(what, (0.0, np.inf), over_seeds(more.mean(axis=0))))
    if own:
        before = np.array([trainable_depth(runs, "half") for runs in own.values()])[:, ::-1]
        with np.errstate(divide="ignore"):
            grown = (np.array(list(depths.values())) / before).mean(axis=0)
        steps = int(dataset.steps.max())
        what = f"depth that trains after {steps} steps over that after {steps // 2}, mean of ρ (1: whatever the budget)"
        found.append(Finding.of(what, (1.0, np.inf), bounded(grown)))
    for (keep, shared), runs in kinds.items():
        deepest = int(runs.depth.max())
        at_end = table(runs, "end", "depth").sel(depth=deepest).values
        if keep == 1:
            what = f"without dropout: accuracy at {deepest} layers"
            found.append(Finding.of(what, (HALF, 1.0), every_seed(at_end)))
        elif shared:
            without = float(table(runs, "plain", "depth").sel(depth=deepest).median())
            read = f"read with that mask ({without:.2f} without)" if shared > 1 else "read without masks"
            what = f"ρ = {keep:g}, {MASKS[int(shared)]}: accuracy at {deepest} layers, {read}"
            found.append(Finding.of(what, (HALF, 1.0), every_seed(at_end)))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Accuracy by depth for each share kept, 6 ξ_c marked; trainable depth against ξ_c; accuracy by depth over ξ_c."""
    figure, ((curves, depths, one),) = plots.figure(1, 3, "Dropout limits the depth that trains", (4.7, 4.0))
    scales = []
    for number, ((keep, shared), runs) in enumerate(arms(dataset).items()):
        color, scale = f"C{number}", float(runs.scale.max())
        label = f"ρ = {keep:g}" + (f", {MASKS[int(shared)]}" if shared else "")
        label += " (read with it)" if shared > 1 else ""
        plots.seeds(curves, table(runs, "end", "depth"), label, color=color, marker="o", markersize=3)
        if shared > 1:
            without = table(runs, "plain", "depth").median("seed")
            curves.plot(without.depth, without, "--", color=color, linewidth=1.5, label="the same, read without masks")
        if keep < 1 and not shared:
            curves.axvline(FACTOR * scale, color=color, linestyle=":", linewidth=1.5)
            least, most = trainable_depth(runs)
            for marker, kind in (("o", least == most), ("^", np.isinf(most)), ("v", least == 0)):  # bounds: triangles
                seen = np.where(least > 0, least, most)[kind]
                name = label if marker == "o" else None
                depths.plot(np.full(seen.shape, scale), seen, marker, color=color, label=name, alpha=0.6)
            ends = table(runs, "end", "depth")
            ends = ends.assign_coords(depth=ends.depth / scale)
            plots.points(one, ends.depth.broadcast_like(ends), ends, color=color)
            one.plot(ends.depth, ends.median("seed"), "o", color=color, markersize=8, label=label)
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
    one.axvspan(*BAND, color="0.9", label="3 to 9 ξ_c")
    one.axvline(FACTOR, color="black", linewidth=1.5, label="6 ξ_c")
    one.axhline(HALF, color="black", linestyle="--", linewidth=1.0)
    one.set(title="c  all ρ by depth over ξ_c", xlabel="layers / ξ_c", ylabel="accuracy on images trained on")
    one.set(xscale="log", ylim=(0, 1.03))
    one.set_xticks((2, 3, 6, 9, 20), (2, 3, 6, 9, 20), minor=False)
    depths.set(title="b  against theory", xlabel="ξ_c (layers)", ylabel="depth that trains", xscale="log", yscale="log")
    depths.set_yticks(layers, layers, minor=False)
    depths.set_xticks(scales, [f"{each:.2f}" for each in scales], minor=False)
    for axes in (depths, one):
        axes.minorticks_off()
    for axes in (curves, depths, one):
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
