"""The saturation measure φ_B: what its bins do, how it varies over the phase plane, and what it does not see.

Claim: Over Gaussian pre-activations of the mean field's variance q*, φ_B = E|g(√q* z)| for every even number of bins B,
10 as recommended or 2 or 100: B does nothing. An odd B takes the middle bin away: φ_B = E|g|·1(|g| > 1/B). A network of
width N is off by the order of 1/√N. φ_B is a function of q* alone: two networks of one q*, one ordered, one chaotic,
have the same φ_B, though in the first a unit says the same for every input and in the second it is as often at one end
of its range as at the other.

Source: Rakitianskaia & Engelbrecht 2015, "Measuring saturation in neural networks", IEEE SSCI, pp. 1423–1430, for the
measure and B = 10; the mean field: Poole et al. 2016, arXiv 1606.05340, Schoenholz et al. 2017, arXiv 1611.01232. The
laws of B and of what is constant are derived in `research.oracles.saturation_bins`.

Departure: tanh, random networks only (for other activations and for training see activation_saturation); Gaussian
inputs of correlation 1/2 (those at right angles an odd unit without bias keeps there by symmetry, chaotic or not); the
last of ten layers, with theory's recursion followed to it, where chaos has left 0.39, 0.27 and 0.14 of the mean square
constant at q* = 0.3, 1 and 3, on the way to 0. φ_B pools units and inputs; for
an even B its mean over units, each with its own bins, is the same number. The constant share of a unit's mean square is
that of E g(u₁)g(u₂), without bias at any number of inputs.

Bands: φ_B is a mean over N units of numbers in [0, 1], of deviation 1/2 at most: 2/√N is four times that over √N; so it
is for the difference of two, and for a share, each a mean of products of such numbers over another. That B is without
effect where it is even is an identity (float64). The exponent of N: q has a bias of order 1/N; where that of φ_B is up
to 3/N and its deviation 1/√N, widths from 40 to 320 show an exponent of up to 0.05 more, and as much comes from chance.
What B = 9 leaves out is low by a term of the width, not of B: 0.88, 0.90, 0.91 and 0.95 of theory at N = 40 to 320.
"""

from itertools import product
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.experiment import Experiment, Finding
from research.labels import largest, lift, per_seed, select, table
from research.models import centred, key_at
from research.observables import saturation as measures
from research.oracles.activations import named
from research.oracles.mean_field import correlation_path, edge_of_chaos, mean_field, saturation, variance_path
from research.oracles.saturation_bins import binned_saturation, constant_share
from research.oracles.wide_layer import mean_square, mean_square_slope
from research.statistics import Estimate, every_seed, over_seeds, slope

BINS = (2, 3, 9, 10, 11, 100)
ALLOWANCE = 2.0  # in units of 1/√width
CORRELATION = 0.5  # of two inputs
SHOWN = (0.5, 1.5, 4.0)  # σ_w² whose φ_B is drawn against B
ORDERED, SAME = 0.5, 1e-6  # χ_1 of the ordered network of a pair, and the relative distance of its q* to the other's


class Observables(NamedTuple):
    by_bins: Float[Array, "bins"]
    by_unit: Float[Array, ""]
    limit: Float[Array, ""]
    constant: Float[Array, ""]


def simulate(
    key: Array,
    weight_variance: float,
    bias_variance: float,
    *,
    width: int = 200,
    depth: int = 10,
    inputs: int = 32,
    initialization: Literal["gaussian", "uniform"] = "gaussian",
) -> Observables:
    """The last layer of a random tanh network, whose first layer has pre-activations of variance 1.

    `by_unit` is the mean over units of φ_10, each unit with bins of its own. "uniform" weights lie between ±√(σ_w²/N)
    and have a third of the variance.
    """
    input_key, layer_key = jax.random.split(key_at(key, weight_variance, bias_variance))
    kernel = centred(weight_variance, per_input=True, uniform=initialization == "uniform")
    bias = centred(bias_variance, per_input=False)

    def layer(sums: Array, key: Array) -> tuple[Array, None]:
        weight_key, bias_key = jax.random.split(key)
        W = kernel(weight_key, (width, width), jnp.float32)
        return jnp.tanh(sums) @ W + bias(bias_key, (1, width), jnp.float32), None

    common, own = jnp.split(jax.random.normal(input_key, (1 + inputs, width)), [1])
    first = CORRELATION**0.5 * common + (1 - CORRELATION) ** 0.5 * own
    sums, _ = jax.lax.scan(layer, first, jax.random.split(layer_key, depth - 1))
    g = jnp.tanh(sums)
    binned = lambda outputs, bins: measures.binned_saturation(outputs, -1.0, 1.0, bins)
    squares = jnp.sum(g**2)
    # All products of two inputs, those of an input with itself left out.
    pairs = (jnp.sum(jnp.sum(g, axis=0) ** 2) - squares) / (inputs - 1)
    return Observables(
        jnp.stack([binned(g, bins) for bins in BINS]),
        jnp.mean(jax.vmap(lambda unit: binned(unit, 10), in_axes=1)(g)),
        measures.mean_saturation(g, -1.0, 1.0),
        pairs / squares,
    )


class Prediction(NamedTuple):
    predicted: Float[np.ndarray, "bins"]
    predicted_constant: float
    chi: float
    q: float


def prediction(weight_variance: float, bias_variance: float, depth: int) -> Prediction:
    """φ_B of every B and the constant share in the last layer, χ_1 there and the q* that it is near."""
    network = ("tanh", weight_variance, bias_variance)
    q = variance_path(*network, 1.0, int(depth))[-1]
    c = correlation_path(*network, 1.0, CORRELATION, int(depth))[-1]
    chi = weight_variance * mean_square_slope(named("tanh"), q)
    levels = np.array([binned_saturation("tanh", q, bins) for bins in BINS])
    return Prediction(levels, constant_share("tanh", q, max(c, 0.0)), chi, mean_field(*network).q)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Theory in every cell, and the distances to it in units of 1/√width."""
    theory = lift(prediction, dataset.weight_variance, dataset.bias_variance, dataset.depth)
    dataset = dataset.assign(theory).assign_coords(bins=list(BINS))
    off = dataset.by_bins - dataset.predicted
    even = dataset.by_bins.sel(bins=[bins for bins in BINS if bins % 2 == 0])
    identity = np.maximum(abs(even - dataset.limit).max("bins"), abs(dataset.by_unit - dataset.limit))
    return dataset.assign(off=off, distance=abs(off).max("bins") * dataset.width**0.5, identity=identity)


def _typical(dataset: xr.Dataset) -> xr.DataArray:
    """The root mean square distance to theory over the plane and bins, by seed and width."""
    mean = (dataset.off**2).mean([each for each in dataset.off.dims if each not in ("seed", "width")], skipna=False)
    sized = mean if "width" in mean.dims else mean.expand_dims(width=[int(dataset.width)])
    return (sized**0.5).transpose("seed", "width")


def pairs(dataset: xr.Dataset) -> list[tuple[xr.Dataset, xr.Dataset]]:
    """Runs of the largest width, in order and in chaos, of the same q*."""
    wide = largest(dataset, "width")
    weights, biases = (np.atleast_1d(wide[name].values) for name in ("weight_variance", "bias_variance"))
    if weights.shape != biases.shape or not wide.diverged.size:  # not the zip of the design
        return []
    cells = [
        select(wide, weight_variance=float(w), bias_variance=float(b)) for w, b in zip(weights, biases, strict=True)
    ]
    q = np.array([float(cell.q.max()) for cell in cells])
    chaotic = [number for number in range(len(cells)) if biases[number] == 0 and float(cells[number].chi.max()) > 1]
    partners = [(np.flatnonzero((abs(q / q[number] - 1) < SAME) & (biases > 0)), number) for number in chaotic]
    return [(cells[found[0]], cells[number]) for found, number in partners if found.size]


def findings(dataset: xr.Dataset) -> list[Finding]:
    """φ_B against theory for every B, what odd and even B do, the width, and what φ_B does not see."""
    widths = np.unique(dataset.width.values)
    allowed = ALLOWANCE / float(widths[-1]) ** 0.5
    found: list[Finding] = []

    def add(statement: str, band: tuple[float, float], estimate: Estimate) -> None:
        found.append(Finding.of(statement, band, estimate))

    shown = ", ".join(map(str, BINS))
    what = f"√width × distance of φ_B to quadrature, the largest over the plane and B = {shown}, of a seed"
    add(what, (0.0, ALLOWANCE), every_seed(per_seed(dataset.distance)))
    what = "even B, pooled or unit by unit: distance of φ_B to mean|g|, the largest of a seed"
    add(what, (0.0, 1e-12), every_seed(per_seed(dataset.identity)))
    wide = largest(dataset, "width")
    lost, expected = (each.sel(bins=10) - each.sel(bins=9) for each in (wide.by_bins, wide.predicted))
    expected = expected + 0 * lost
    over = [each for each in lost.dims if each != "seed"]
    share = (lost * expected).sum(over, skipna=False) / (expected**2).sum(over, skipna=False)
    what = "what B = 9 leaves out of φ_B, in units of E|g|·1(|g| < 1/9), least squares over the plane"
    add(what, (1 - allowed, 1 + allowed), over_seeds(share))
    if widths.size > 1:
        size = _typical(dataset)
        what = f"exponent of the width in the root mean square distance to theory, widths {widths[0]} to {widths[-1]}"
        add(what, (-0.6, -0.4), over_seeds(slope(np.log(size.width.values), np.log(size.values))))
    couples = pairs(dataset)
    if couples:
        level = lambda cell: per_seed(cell.limit, "mean")
        difference = np.mean([level(chaotic) - level(ordered) for ordered, chaotic in couples], axis=0)
        what = "the same q*, once in order and once in chaos: difference of φ_B, mean of pairs"
        add(what, (-allowed, allowed), over_seeds(difference))
        constant = lambda cell, name: per_seed(cell[name], "mean")
        seen, said = (
            np.mean([constant(ordered, name) - constant(chaotic, name) for ordered, chaotic in couples], axis=0)
            for name in ("constant", "predicted_constant")
        )
        theirs = float(np.max(said))
        what = f"the same pairs: share of a unit's mean square that no input changes, order less chaos ({theirs:.3f})"
        add(what, (theirs - allowed, theirs + allowed), over_seeds(seen))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """φ_B over the plane with the edge of chaos; φ_B against B; order and chaos of one q*; the width."""
    figure, axes = plots.figure(
        2, 2, "The saturation measure φ_B: even bins do nothing, and q* says it all", (5.0, 3.8)
    )
    (phases, bins), (blind, sizes) = axes
    wide = largest(dataset, "width")
    _phases(phases, wide)
    for number, weight in enumerate(SHOWN):
        cell = select(wide, bias_variance=0.04, weight_variance=weight)
        if cell.diverged.size:
            style = {"color": f"C{number}", "markersize": 5}
            levels = table(cell, "limit").mean()
            plots.points(bins, cell.bins, cell.by_bins, f"σ_w² = {weight:g}, mean|g| = {float(levels):.2f}", **style)
            q = float(variance_path("tanh", weight, 0.04, 1.0, int(cell.depth.max()))[-1])
            odd = np.arange(1, 203, 2)
            law = [binned_saturation("tanh", q, each) for each in odd.tolist()]
            plots.theory(bins, odd, law, None if number else "odd B: E|g|·1(|g| > 1/B)")
            label = None if number else "even B: E|g|"
            plots.theory(bins, [2, 202], [saturation("tanh", q)] * 2, label, linestyle=":")
    bins.set(title="b  an even number of bins is without effect", xlabel="bins B", ylabel="φ_B", xscale="log")
    bins.set_ylim(-0.02, 1.05)
    for number, (ordered, chaotic) in enumerate(pairs(dataset)):
        for cell, marker, phase in ((ordered, "o", "order"), (chaotic, "^", "chaos")):
            label = None if number else phase
            style = {"color": f"C{(phase == 'chaos') * 1}", "marker": marker, "markersize": 5}
            plots.points(blind, cell.constant, cell.limit, label, **style)
        ends = [float(cell.predicted_constant.max()) for cell in (ordered, chaotic)]
        level = saturation("tanh", float(ordered.q.max()))
        plots.theory(blind, ends, [level] * 2, None if number else "E|g(√q* z)|")
        blind.annotate(f"q* = {float(ordered.q.max()):g}", (0.75, level + 0.02), ha="center")
    blind.set(
        title="c  the same φ_B in order and in chaos", xlabel="share of a unit's mean square that no input changes"
    )
    blind.set(ylabel="φ_B", ylim=(0, 1))
    cells = [each for each in dataset.off.dims if each not in ("seed", "width")]
    typical = _typical(dataset)
    if typical.width.size > 1:
        plots.seeds(sizes, typical, "root mean square over plane and B")
    plots.points(sizes, dataset.width, abs(dataset.off).max(cells), "largest", color="C1", marker="^")
    ends = np.array([0.9, 1.1]) * [dataset.width.min(), dataset.width.max()]
    plots.theory(sizes, ends, ALLOWANCE / ends**0.5, "allowed: 2/√N")
    sizes.set(title="d  a finite width", xlabel="width N", ylabel="|φ_B − theory|")
    sizes.set(xscale="log", yscale="log")
    for each in axes.flat:
        plots.legend(each)
    return figure


def _phases(axes: plots.Axes, wide: xr.Dataset) -> None:
    """φ_B as colours, theory as contours, and the edge of chaos."""
    if not wide.diverged.size:
        return
    weights, biases = (np.unique(wide[name].values) for name in ("weight_variance", "bias_variance"))
    x, y, seen = xr.broadcast(wide.weight_variance**0.5, wide.bias_variance**0.5, wide.limit.mean("seed"))
    colour = axes.scatter(x.values.ravel(), y.values.ravel(), c=seen.values.ravel(), vmin=0.0, vmax=1.0, s=45)
    axes.figure.colorbar(colour, ax=axes, label="φ_B measured")
    right, top = 1.03 * weights[-1] ** 0.5, 1.05 * biases[-1] ** 0.5 + 0.05
    grid = np.linspace(0.9 * weights[0] ** 0.5, right, 24), np.linspace(0, top, 16)
    levels = [[saturation("tanh", mean_field("tanh", w**2, b**2).q) for w in grid[0]] for b in grid[1]]
    lines = axes.contour(*grid, levels, levels=np.arange(0.1, 1.0, 0.1), colors="black", linewidths=0.7)
    axes.clabel(lines, fontsize=6)
    heights = top * np.linspace(0, 1, 40) ** 2
    edge = np.array([edge_of_chaos("tanh", height**2) ** 0.5 for height in heights])
    seen = edge < right
    plots.theory(axes, edge[seen], heights[seen], "edge of chaos, χ_1 = 1", linewidth=2.2)
    axes.set(title="a  φ_B (contours: theory)", xlabel="σ_w", ylabel="σ_b", xlim=(grid[0][0], right))


def couple(q: float) -> list[tuple[float, float]]:
    """(σ_w², σ_b²) of two networks of that q*: without bias, in chaos, and with χ_1 = 1/2, in order."""
    square, growth = (expectation(named("tanh"), q) for expectation in (mean_square, mean_square_slope))
    weight = ORDERED / growth
    return [(q / square, 0.0), (weight, q - weight * square)]


NAMES = ("weight_variance", "bias_variance")
COUPLES = [cell for q in (0.3, 1.0, 3.0) for cell in couple(q)]
PLANE = [*product((0.5, 1.0, 1.5, 2.25, 4.0, 9.0), (0.0, 0.04, 0.16, 0.49, 1.0))]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 12, NAMES: [*PLANE, *COUPLES], "width": (40, 80, 160, 320)},
    smoke={"seeds": 3, NAMES: [(0.5, 0.04), (4.0, 0.04), *COUPLES[2:4]], "width": (100,)},
    paper={
        "seeds": 20,
        NAMES: [
            *product(sorted({*np.geomspace(0.5, 9, 15).tolist(), *SHOWN}), (0.0, 0.04, 0.16, 0.36, 0.64, 1.0)),
            *COUPLES,
        ],
    },
    control={"initialization": "uniform"},
)
