"""Variance, correlation and gradients settle over depth scales that theory knows, and one of them diverges at the edge.

Claim: In a wide random network |q^l − q*| falls as e^(−l/ξ_q) and |c^l − c*| as e^(−l/ξ_c), with
1/ξ_c = −ln σ_w² E φ'(u₁)φ'(u₂) at c*; the squared gradient changes by χ_1 a layer. ξ_c diverges from both sides at the
edge of chaos, where 1 − c^l falls as 1/l instead; ξ_q is of the order of one layer everywhere.

Source: Schoenholz et al. 2017, arXiv 1611.01232, sections 3 and 4 and figures 1 to 4; the algebraic decay: Hayou,
Doucet & Rousseau 2019, arXiv 1902.06853, proposition 2.

Departure: tanh, σ_b = 0.3, fourteen networks of width 100 and depth 64 a run rather than width 1000, and four times as
many at the edge and next to it in chaos, where the noise is largest. Ratios of successive layers are averaged over the
networks before the logarithm, so that the random walk of the logarithm does not count. Near c* < 1 and near q* the
measured distances are as large as their noise: there the rate is that by which theory's recursion p^l must be sped up,
p¹·(p^l/p¹)^γ, to meet the measured distances, linear least squares about γ = 1 over all cells at once. ln(1 − c) takes
a random walk of variance near 5/N a layer: at the edge, where nothing else holds it, the power is looked for up to
layer N/5 only; a width N may change ln χ_1 by the order of 1/N a layer.
"""

from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float
from matplotlib import colormaps

from research import plots
from research.experiment import Experiment, Finding
from research.labels import averaged, lift, select
from research.models import centred, key_at
from research.oracles.mean_field import correlation_path, edge_of_chaos, mean_field, variance_path
from research.statistics import over_seeds, slope_within

BIAS = 0.3
EDGE = 1.3956  # σ_w of the edge of chaos at that bias
BEGINNING, LONGEST = 5, 40.0  # the first layer of the windows, and the largest ξ_c that the depth resolves


class Observables(NamedTuple):
    variance: Float[Array, "layer"]
    correlation: Float[Array, "layer"]
    contraction: Float[Array, "layer"]
    gradient_growth: Float[Array, "layer"]


def simulate(
    key: Array,
    weight_scale: float,
    bias_scale: float,
    first: float,
    start: float,
    *,
    width: int = 100,
    draws: int = 14,
    depth: int = 64,
    initialization: str = "gaussian",
) -> Observables:
    """Two inputs of variance `first` and correlation `start` in the first layer, through `draws` random tanh networks.

    `weight_scale` is σ_w, `bias_scale` σ_b. `contraction` is what the next layer multiplies 1 − c by, `gradient_growth`
    the squared gradient at a layer over that at the next, both means over networks; 1 in the last layer. "uniform"
    weights lie between ±σ_w/√N.
    """
    start_key, end_key, *keys = jax.random.split(key_at(key, weight_scale, bias_scale), depth + 1)
    kernel = centred(weight_scale**2, per_input=True, uniform=initialization == "uniform")
    bias = centred(bias_scale**2, per_input=False)
    inputs = jnp.sqrt(first) * jax.random.normal(start_key, (draws, 2, width))
    second = start * inputs[:, 0] + jnp.sqrt(1 - start**2) * inputs[:, 1]
    inputs = jnp.stack([inputs[:, 0], second], axis=1)

    def network(nudges: Array) -> tuple[Array, Array]:
        """The last layer's pre-activations, with something added to every layer's, and those of every layer."""

        def layer(sums: Array, drawn: tuple) -> tuple[Array, Array]:
            nudge, key = drawn
            weight_key, bias_key = jax.random.split(key)
            W = kernel(weight_key, (width, draws * width), sums.dtype).reshape(width, draws, width)
            sums = sums + nudge
            return jnp.einsum("dpn,ndm->dpm", jnp.tanh(sums), W) + bias(bias_key, (draws, 1, width), sums.dtype), sums

        return jax.lax.scan(layer, inputs, (nudges, jnp.stack(keys)))

    end, pull, layers = jax.vjp(network, jnp.zeros((depth - 1, *inputs.shape)), has_aux=True)
    cotangent = jax.random.normal(end_key, end.shape)
    (gradients,) = pull(cotangent)
    gradients, layers = jnp.append(gradients, cotangent[None], axis=0), jnp.append(layers, end[None], axis=0)
    sizes = jnp.sum(gradients**2, axis=3)
    lengths = jnp.linalg.norm(layers, axis=3, keepdims=True)
    directions = layers / lengths
    apart = jnp.sum((directions[:, :, 0] - directions[:, :, 1]) ** 2, axis=2) / 2
    padded = lambda ratios: jnp.append(ratios, 1.0)
    return Observables(
        jnp.mean(lengths**2, axis=(1, 2, 3)) / width,
        1 - jnp.mean(apart, axis=1),
        padded(jnp.mean(apart[1:] / apart[:-1], axis=1)),
        padded(jnp.mean(sizes[:-1] / sizes[1:], axis=(1, 2))),
    )


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Theory's depth scales and paths, and the measured decay of each quantity over theory's."""
    weight, bias, depth = dataset.weight_scale**2, dataset.bias_scale**2, dataset.sizes["layer"]
    dataset = dataset.assign_coords(layer=np.arange(1, depth + 1))
    field = lift(mean_field, "tanh", weight, bias)
    variances = lift(variance_path, "tanh", weight, bias, dataset.first, layers=depth)
    correlations = lift(correlation_path, "tanh", weight, bias, dataset.first, dataset.start, layers=depth)
    layer, inside = dataset.layer, dataset.layer < depth
    scale = field.correlation_depth
    window = (layer >= BEGINNING) & (layer <= BEGINNING + 3 * scale) & inside
    powers = (layer >= BEGINNING) & (layer <= dataset.width / 5) & inside
    contraction = np.log(dataset.contraction)
    cells = xr.zeros_like(dataset.diverged.isel(seed=0, drop=True), dtype=float)
    passed = (layer >= BEGINNING) & inside
    by_correlation = _deviation(dataset.correlation, correlations, field.correlation)
    by_variance = _deviation(dataset.variance / field.q, variances / field.q, 1.0 + cells)
    return dataset.assign(
        q=field.q + cells,
        chi=field.chi + cells,
        limit=field.correlation + cells,
        depth_of_correlation=scale + cells,
        depth_of_variance=field.variance_depth + cells,
        variance_path=variances,
        correlation_path=correlations,
        contraction_rate=-contraction.where(window).mean("layer") * scale,
        gradient_slope=np.log(dataset.gradient_growth).where(passed).mean("layer")
        - np.log(field.chi.where(field.chi > 0)),
        correlation_off=by_correlation.off,
        correlation_square=by_correlation.square,
        variance_off=by_variance.off,
        variance_square=by_variance.square,
        distance=contraction.cumsum("layer").shift(layer=1, fill_value=0.0) + np.log(1 - dataset.start),
        power=slope_within(np.log(layer) + cells, contraction.cumsum("layer").shift(layer=1), powers, "layer"),
        power_of_theory=slope_within(np.log(layer) + cells, np.log((1 - correlations).clip(1e-300)), powers, "layer"),
    )


def _deviation(measured: xr.DataArray, path: xr.DataArray, rest: xr.DataArray) -> xr.Dataset:
    """Theory's distance from rest differentiated by the speed of its decay, times itself and times what is off."""
    # A width shifts the rest by 1/N: each is taken from where it comes to rest itself.
    late = path.layer > 0.75 * path.sizes["layer"]
    settled = lambda values: values - values.where(late).mean("layer")
    p = path - rest
    share = p / p.isel(layer=0)
    sensitivity = (p * np.log(share.where(share > 0))).fillna(0.0).where(~late, 0.0)
    product = lambda values: (values * sensitivity).sum("layer")
    return xr.Dataset(
        {"off": product(settled(measured) - settled(path)), "square": product(sensitivity) + 0 * product(measured)}
    )


def speed(deviation: xr.Dataset, cells: xr.DataArray) -> xr.DataArray:
    """The measured rate of decay over theory's, one number a seed, from all those cells; NaN without any."""
    over = [each for each in deviation.off.dims if each != "seed"]
    sums = deviation.where(cells).sum(over)
    return 1 + sums.off / sums.square.where(sums.square > 0)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """ξ_c in order and in chaos, gradients, ξ_q, and the algebraic decay at the edge."""
    found: list[Finding] = []

    def add(statement: str, band: tuple[float, float], values: xr.DataArray, cells: xr.DataArray) -> None:
        if bool(cells.any()):
            over = [each for each in values.dims if each != "seed"]
            mean = values.where(cells, 0.0).sum(over, skipna=False) / cells.sum(
                [each for each in cells.dims if each in over]
            )
            found.append(Finding.of(statement, band, over_seeds(mean)))

    # Written so that a theory without an answer (NaN) is judged, and void.
    resolved = ~(dataset.depth_of_correlation >= LONGEST)
    ordered, chaotic = resolved & ~(dataset.chi >= 1), resolved & ~(dataset.chi <= 1)
    add("order: decay of 1 − c, times ξ_c, mean of σ_w", (0.9, 1.1), dataset.contraction_rate, ordered)
    rate = speed(part(dataset, "correlation"), chaotic)
    if bool(chaotic.any()):
        statement = "chaos: rate at which c goes to c*, over theory's, all σ_w"
        found.append(Finding.of(statement, (0.9, 1.1), over_seeds(rate)))
    slopes = "slope of the logarithm of squared gradients on layers less ln χ_1, mean of σ_w"
    add(f"order: {slopes}", (-0.02, 0.02), dataset.gradient_slope, ordered)
    add(f"chaos: {slopes}", (-0.02, 0.02), dataset.gradient_slope, chaotic)
    shown = f"(ξ_q from {float(dataset.depth_of_variance.min()):.2f} to {float(dataset.depth_of_variance.max()):.2f})"
    rate = speed(part(dataset, "variance"), xr.ones_like(dataset.diverged))
    statement = f"rate at which q goes to q*, over theory's, all σ_w {shown}"
    found.append(Finding.of(statement, (0.9, 1.1), over_seeds(rate)))
    at_edge = ~resolved & (dataset.start == dataset.start.min())
    if bool(at_edge.any()):
        expected, last = float(dataset.power_of_theory.where(at_edge).mean()), float(dataset.width.min()) / 5
        # ln(1 - c) may be off by 1/N a layer, 1/5 in all.
        allowed = 1 / 5 / np.log(last / BEGINNING)
        recursion = f"{expected:.3f} in theory's recursion, further back to −1"
        what = f"edge: slope of ln(1 − c) on ln(layer), to layer {last:g} ({recursion})"
        add(what, (expected - allowed, expected + allowed), dataset.power, at_edge)
    return found


def part(dataset: xr.Dataset, name: str) -> xr.Dataset:
    """What `speed` needs of that quantity."""
    return xr.Dataset({kind: dataset[f"{name}_{kind}"] for kind in ("off", "square")})


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Distances against layers, ξ_c against σ_w with its divergence, gradients, and the edge on logarithmic axes."""
    figure, axes = plots.figure(2, 2, "Depth scales of wide random tanh networks, σ_b = 0.3", (5.0, 3.8))
    (decays, scales), (gradients, edge) = axes
    low = float(dataset.start.min())
    scale = lambda runs: float(runs.depth_of_correlation.max())
    weights = np.unique(dataset.weight_scale.values).tolist()
    for number, weight in enumerate(weights):
        runs, style = (
            select(dataset, weight_scale=weight, start=low),
            {"color": colormaps["turbo"](0.05 + 0.9 * number / max(1, len(weights) - 1))},
        )
        if not runs.diverged.size:
            continue
        log = averaged(np.exp(runs.distance), "seed", "layer")
        theory = averaged(1 - runs.correlation_path, "layer")
        label = f"σ_w = {weight:g}"
        if scale(runs) >= LONGEST:
            plots.seeds(edge, log, f"{label}, the edge", **style)
            plots.theory(edge, theory.layer, theory, "recursion")
        elif float(runs.chi.max()) < 1:
            plots.seeds(decays, log.sel(layer=slice(None, 40)), label, **style)
            plots.seeds(edge, log, label, **style)
            plots.theory(decays, theory.layer[:40], theory[:40], None)
        layers = runs.layer.values
        size = np.log(runs.gradient_growth.isel(layer=slice(None, -1)))
        backward = averaged(size.isel(layer=slice(None, None, -1)).cumsum("layer"), "seed", "layer")
        backward = backward.assign_coords(layer=np.arange(1, backward.sizes["layer"] + 1))
        plots.seeds(gradients, backward, label, **style)
        plots.theory(gradients, layers, layers * float(np.log(runs.chi).mean()), None if number else "slope ln χ_1")
    _scales(scales, dataset)
    decays.set(title="a  order: inputs become equal", xlabel="layer", ylabel="1 − c", yscale="log", ylim=(1e-6, 2))
    decays.plot([], [], "k--", lw=1.2, label="recursion")
    gradients.set(
        title="c  gradients", xlabel="layers from the output", ylabel="ln squared gradient, from the last layer"
    )
    edge.set(title="d  at the edge: a power of the layer", xlabel="layer", ylabel="1 − c")
    edge.set(xscale="log", yscale="log", ylim=(1e-3, 2))
    for each in axes.flat:
        plots.legend(each)
    return figure


def _scales(axes: plots.Axes, dataset: xr.Dataset) -> None:
    """Depth scales against σ_w, theory's as curves."""
    bias = float(dataset.bias_scale.min())
    line = np.linspace(0.9 * float(dataset.weight_scale.min()), 1.02 * float(dataset.weight_scale.max()), 150)
    fields = [mean_field("tanh", weight**2, bias**2) for weight in line]
    plots.theory(axes, line, [field.correlation_depth for field in fields], "ξ_c")
    plots.theory(axes, line, [field.variance_depth for field in fields], "ξ_q", linestyle=":")
    axes.axvline(edge_of_chaos("tanh", bias**2) ** 0.5, color="0.6", linewidth=1, label="edge of chaos")
    ordered = (dataset.chi < 1) & (dataset.depth_of_correlation < LONGEST)
    highest = dataset.start == dataset.start.max()  # c* may be next to the lowest start
    chaotic = (dataset.chi > 1) & (dataset.depth_of_correlation < LONGEST) & highest
    shown = {
        "ξ_c measured, order": (dataset.depth_of_correlation / dataset.contraction_rate).where(ordered),
        "ξ_c measured, chaos": (dataset.depth_of_correlation / _rates(dataset, "correlation")).where(chaotic),
        "ξ_q measured": dataset.depth_of_variance / _rates(dataset, "variance"),
    }
    for number, (label, values) in enumerate(shown.items()):
        plots.points(axes, dataset.weight_scale, values, label, color=f"C{number}")
    axes.set(title="b  the scale of correlations diverges", xlabel="σ_w", ylabel="depth scale (layers)", yscale="log")
    axes.set_ylim(0.3, 300)


def _rates(dataset: xr.Dataset, name: str) -> xr.DataArray:
    """The rate of decay over theory's in every cell, all seeds together."""
    sums = part(dataset, name).sum("seed")
    return 1 + sums.off / sums.square.where(sums.square > 0)


MANY = {EDGE: 56, 1.6: 56}  # networks a run, fourteen elsewhere
SCALES = (1.0, 1.15, 1.3, EDGE, 1.6, 2.0, 2.5, 3.0)
NAMES = ("weight_scale", "start", "draws")
cells = lambda scales: [(scale, start, MANY.get(scale, 14)) for scale, start in product(scales, (0.0, 0.95))]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 12, NAMES: cells(SCALES), "bias_scale": BIAS, "first": 8.0},
    smoke={"seeds": 2, NAMES: [(1.0, 0.0, 14), (1.15, 0.0, 14), (EDGE, 0.0, 14), (2.0, 0.95, 14)], "depth": 32},
    paper={
        "seeds": 16,
        NAMES: cells(np.linspace(0.8, 3.2, 25).tolist()),
        "width": 1000,
        "depth": 100,
    },
    control={"initialization": "uniform"},
    precision="float32",
)
