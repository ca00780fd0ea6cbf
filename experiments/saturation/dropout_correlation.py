"""Dropout destroys the critical point of correlations: even two copies of one input part, to a depth that is finite.

Claim: With dropout that keeps a share ρ of the units, with masks of its own for every input, q = (σ_w²/ρ) E φ² + σ_b²
but q c = σ_w² E φ(u₁)φ(u₂) + σ_b²: no two inputs stay equal, c* < 1 for every σ_w, and ξ_c, which diverges at the edge
of chaos without dropout, has a finite peak. Gradients still have a critical point, χ_1 = 1, at ρ times the σ_w² of the
edge; ReLU networks keep their variance at σ_w² = 2ρ, where c* < 1 as well. One mask for all inputs brings the edge
back, at ρ times its σ_w².

Source: Schoenholz et al. 2017, arXiv 1611.01232, section 5; for ReLU, where σ_w² is 2 over the second moment of the
noise, 1/ρ: Pretorius, van Biljon, Kroon & Kamper 2018, arXiv 1811.00293.

Departure: σ_b² = 0.05; ten networks of width 100 and depth 24 a run; nothing is trained (dropout_depth does that).
Correlations are compared with the recursion at the last four layers, where it is near c*. Rates: the gap between two
equal inputs and two at right angles closes as p^l in theory; the rate γ is that by which p must be sped up, p^(γl), to
meet the measured gap, linear least squares about γ = 1.

Bands: 10/N for 1 − c, as the map of correlations adds up noise of variance 1/N over at most ten layers; a tenth for
rates and 0.02 for ln χ_1, as in depth_scales; ReLU: in a layer a square has relative variance (6/ρ − 1)/N, from
E relu⁴ = 3/2, E relu² = 1/2 and E mask² = 1/ρ, and successive ratios are uncorrelated, with expectation σ_w²/(2ρ) at
every width. At one mask ln(1 − c) takes a random walk of variance 5/N a layer, looked at up to layer N/10.
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
from research.labels import averaged, lift, per_seed, select, table
from research.models import centred, key_at
from research.oracles.mean_field import correlation_path, mean_field
from research.statistics import over_seeds

BIAS = 0.05
EDGE = 1.32701  # σ_w of the edge of chaos at that bias variance
LAST = 4  # layers over which the resting correlation is averaged
SETTLED = 6  # layers left out of the growth of gradients
ERRORS = 4.0


class Observables(NamedTuple):
    growth_of_variance: Float[Array, "layer"]
    growth_of_gradients: Float[Array, "layer"]
    apart_equal: Float[Array, "layer"]
    apart_other: Float[Array, "layer"]


def simulate(
    key: Array,
    weight_scale: float,
    keep: float,
    shared: float = 0.0,
    rectified: float = 0.0,
    bias_variance: float = BIAS,
    *,
    width: int = 100,
    draws: int = 10,
    depth: int = 24,
    initialization: Literal["gaussian", "uniform"] = "gaussian",
) -> Observables:
    """1 − c of two equal inputs and of two at right angles, and growth factors, means of `draws` networks.

    `shared` 1 gives all inputs one mask; `rectified` 1 is ReLU, 0 tanh. The first layer has variance 1. What grows is
    the mean square of pre-activations, and of a small perturbation behind one mask; 1 in the last layer.
    """
    input_key, layer_key = jax.random.split(key_at(key, weight_scale, keep, shared))
    kernel = centred(weight_scale**2, per_input=True, uniform=initialization == "uniform")
    bias = centred(bias_variance, per_input=False)
    function = lambda u: jnp.where(rectified > 0, jax.nn.relu(u), jnp.tanh(u))
    drawn = jax.random.normal(input_key, (draws, 3, width))
    sums = drawn[:, jnp.array([0, 0, 1])]
    tangents = jnp.broadcast_to(drawn[:, 2:], sums.shape)

    def layer(carry: tuple, key: Array) -> tuple:
        weight_key, bias_key, mask_key = jax.random.split(key, 3)
        outputs, moved = jax.jvp(function, carry[:1], carry[1:])
        chance = jax.random.uniform(mask_key, outputs.shape, outputs.dtype)
        mask = jnp.where(shared > 0, chance[:, :1], chance) < keep
        W = kernel(weight_key, (width, draws * width), outputs.dtype).reshape(width, draws, width)
        through = lambda values: jnp.einsum("dpn,ndm->dpm", values * mask / keep, W)
        following = through(outputs) + bias(bias_key, (draws, 1, width), outputs.dtype), through(moved)
        return following, following

    after: tuple[Array, Array] = jax.lax.scan(layer, (sums, tangents), jax.random.split(layer_key, depth - 1))[1]
    sums, tangents = jnp.concatenate([sums[None], after[0]]), jnp.concatenate([tangents[None], after[1]])
    squares, sizes = jnp.sum(sums**2, axis=3), jnp.sum(tangents**2, axis=3)
    directions = sums / jnp.sqrt(squares)[..., None]
    apart = lambda other: jnp.mean(jnp.sum((directions[:, :, 0] - directions[:, :, other]) ** 2, axis=2), axis=1) / 2
    grown = lambda parts: jnp.append(jnp.mean(parts[1:] / parts[:-1], axis=(1, 2)), 1.0)
    return Observables(grown(squares), grown(sizes), apart(1), apart(2))


class Prediction(NamedTuple):
    chi: float
    scale: float
    rest: float
    path_equal: Float[np.ndarray, "layer"]
    path_other: Float[np.ndarray, "layer"]


def prediction(
    weight_scale: float, keep: float, shared: float, rectified: float, bias_variance: float, layers: int
) -> Prediction:
    """χ_1, ξ_c, and 1 − c: at rest and layer by layer, of two equal inputs and of two at right angles."""
    name, weight = "relu" if rectified else "tanh", weight_scale**2
    # One mask for all inputs is no noise between them, but larger weights.
    network = (weight / keep, bias_variance) if shared else (weight, bias_variance)
    own = 1.0 if shared else keep
    field = mean_field(name, *network, own)
    equal, other = (1 - correlation_path(name, *network, 1.0, start, layers, own) for start in (1.0, 0.0))
    return Prediction(field.chi, field.correlation_depth, 1 - field.correlation, equal, other)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Theory's paths and depth scales, 1 − c over theory's in the last layers, and what the gap's decay says of ξ_c."""
    names = ("weight_scale", "keep", "shared", "rectified", "bias_variance")
    depth = dataset.sizes["layer"]
    theory = lift(prediction, *(dataset[name] for name in names), layers=depth)
    dataset = dataset.assign(theory).assign_coords(layer=np.arange(1, depth + 1))
    last = dataset.isel(layer=slice(-LAST, None))
    ratio = last.apart_equal.mean("layer") / last.path_equal.where(last.path_equal > 0).mean("layer")
    gap, path = dataset.apart_other - dataset.apart_equal, dataset.path_other - dataset.path_equal
    sensitivity = (path * np.log(path.where(path > 0))).fillna(0.0)
    settled = dataset.isel(layer=slice(SETTLED, -1))
    return dataset.assign(
        ratio=ratio,
        resting=last.apart_equal.mean("layer"),
        expected=last.path_equal.mean("layer") + 0.0 * last.apart_equal.mean("layer"),
        scale_of_run=dataset.scale + 0.0 * last.apart_equal.mean("layer"),
        off=((gap - path) * sensitivity).sum("layer", skipna=False),
        square=(sensitivity**2).sum("layer", skipna=False) + 0 * gap.isel(layer=0, drop=True),
        gradient_slope=np.log(settled.growth_of_gradients.mean("layer")),
        variance_growth=dataset.growth_of_variance.isel(layer=slice(None, -1)).mean("layer"),
    )


def cells(dataset: xr.Dataset, *, rectified: float, shared: float = 0.0) -> xr.DataArray:
    """Which runs have dropout, those masks and that activation."""
    chosen = (dataset.keep < 1) & (dataset.shared == shared) & (dataset.rectified == rectified)
    return chosen & xr.ones_like(dataset.diverged.isel(seed=0, drop=True))


def total(values: xr.DataArray, chosen: xr.DataArray) -> np.ndarray:
    """The sum over those runs, one number a seed."""
    return per_seed((values + 0.0 * chosen).where(chosen, 0.0), "sum")


def speed(dataset: xr.Dataset, chosen: xr.DataArray) -> np.ndarray:
    """The rate at which the gap of those runs closes over theory's, one number a seed, all cells together."""
    return 1 + total(dataset.off, chosen) / total(dataset.square, chosen)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """c* < 1, the finite ξ_c, gradients at their critical point, one mask for all, and the rectifier."""
    found: list[Finding] = []
    width, depth = int(dataset.width.min()), int(dataset.depth.min())
    mean = lambda values, chosen: total(values, chosen) / int(chosen.sum())
    between = lambda values, chosen: [float(values.where(chosen).min()), float(values.where(chosen).max())]

    def add(statement: str, band: tuple[float, float], values: np.ndarray) -> None:
        found.append(Finding.of(statement, band, over_seeds(values)))

    for rectified, name in ((0.0, "tanh"), (1.0, "relu")):
        noisy = cells(dataset, rectified=rectified)
        if bool(noisy.any()):
            low, high = between(dataset.rest, noisy)
            shown = f"1 − c* from {low:.2g} to {high:.2g}"
            what = f"{name}: 1 − c of two equal inputs in the last layers, over theory's, mean of cells ({shown})"
            add(what, (1 - 10 / width, 1 + 10 / width), np.exp(mean(np.log(dataset.ratio.where(noisy)), noisy)))
    noisy = cells(dataset, rectified=0.0)
    critical = noisy & (abs(dataset.chi - 1) < 1e-3)
    for chosen, where in ((noisy, "tanh"), (critical, "tanh, where χ_1 = 1")):
        if bool(chosen.any()):
            low, high = between(dataset.scale, chosen)
            what = (
                f"{where}: rate at which correlations forget their start, over theory's (ξ_c {low:.2f} to {high:.2f})"
            )
            add(what, (0.9, 1.1), speed(dataset, chosen))
    if bool(critical.any()):
        what = "tanh, σ_w² = ρ × that of the edge: ln of the growth a layer of squared perturbations (χ_1)"
        add(what, (-0.02, 0.02), mean(dataset.gradient_slope, critical))
    one = cells(dataset, rectified=0.0, shared=1.0) & (abs(dataset.chi - 1) < 1e-3)
    if bool(one.any()):
        place = min(depth, max(2, width // 10))
        seen, theory = (dataset[name].sel(layer=place) for name in ("apart_other", "path_other"))
        what = f"one mask, σ_w² = ρ × that of the edge: 1 − c in layer {place}, over that of the edge without dropout"
        # ln(1 − c) has variance near 5/N a layer in one network, and may be off by 1/N a layer in the mean
        networks = int(dataset.draws.min()) * int(one.sum()) * dataset.sizes["seed"]
        allowed = 3 * (5 * place / width / networks) ** 0.5 + place / width
        add(what, (1 - allowed, 1 + allowed), mean(seen / theory, one))
    relu = cells(dataset, rectified=1.0)
    if bool(relu.any()):
        error = ((6 / float(dataset.keep.min()) - 1) / (width * int(dataset.draws.min()) * (depth - 1))) ** 0.5
        growth = dataset.variance_growth * 2 * dataset.keep / dataset.weight_scale**2
        what = "relu: growth of the variance a layer over σ_w²/(2ρ), mean of cells"
        add(what, (1 - ERRORS * error, 1 + ERRORS * error), mean(growth, relu))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Two equal inputs part; the peak of ξ_c is gone; c* against σ_w; the rectifier's variance."""
    figure, axes = plots.figure(2, 2, "Dropout destroys the critical point of correlations", (5.0, 3.8))
    (parting, scales), (rests, rectifier) = axes
    keeps: list[float] = np.unique(dataset.keep.values)[::-1].tolist()
    tanh = select(dataset, rectified=0.0)
    apart = select(tanh, shared=0.0)
    for number, keep in enumerate(keeps):
        style = {"color": f"C{number}"}
        runs = select(apart, keep=keep, weight_scale=EDGE)
        if runs.diverged.size:
            plots.seeds(parting, 1 - averaged(runs.apart_equal, "seed", "layer"), f"ρ = {keep:g}", **style)
            plots.theory(parting, runs.layer, 1 - averaged(runs.path_equal, "layer"), None if number else "recursion")
        runs = select(apart, keep=keep)
        if not runs.diverged.size:
            continue
        weights = np.unique(runs.weight_scale.values)
        square, off = (table(runs, name, "weight_scale").sum("seed") for name in ("square", "off"))
        scale = table(runs, "scale_of_run", "weight_scale").isel(seed=0)
        seen = (scale / (1 + off / square)).where(scale < float(runs.depth.max()))
        plots.points(scales, seen.weight_scale, seen, f"ρ = {keep:g}", alpha=1.0, markersize=4, **style)
        resting, expected = (1 - table(runs, name, "weight_scale") for name in ("resting", "expected"))
        if keep < 1:
            plots.points(rests, resting.weight_scale, resting, f"ρ = {keep:g}", **style)
            label = "recursion" if number == len(keeps) - 1 else None
            rests.plot(expected.weight_scale, expected[0], "k_", ms=9, zorder=6, label=label)
        line = np.linspace(weights[0], weights[-1], 50)
        fields = [mean_field("tanh", weight**2, BIAS, keep) for weight in line]
        plots.theory(scales, line, [field.correlation_depth for field in fields], None if number else "ξ_c")
        label = ("c* (top: ρ = 1)" if keep == 1 else "c*") if not number else None
        plots.theory(rests, line, [field.correlation for field in fields], label)
    one = select(tanh, shared=1.0)
    if one.diverged.size:
        curve = 1 - averaged(one.apart_equal, "seed", "layer")
        plots.seeds(parting, curve, "one mask for both", color="0.5", linestyle="-.")
    _rectifier(rectifier, select(dataset, rectified=1.0))
    scales.axvline(EDGE, color="0.6", linewidth=1, label="edge of chaos, ρ = 1")
    parting.set(title="a  two copies of one input", xlabel="layer", ylabel="correlation c")
    parting.set_xlim(0, 1.6 * float(dataset.layer.max()))  # room for the legend
    scales.set(title="b  no divergence of ξ_c is left", xlabel="σ_w", ylabel="ξ_c (layers)", yscale="log")
    scales.set_ylim(0.3, 100)
    rests.set(title="c  c* < 1 for every σ_w", xlabel="σ_w", ylabel="c of two equal inputs, last layers")
    rectifier.set(title="d  ReLU: critical at σ_w² = 2ρ", xlabel="layer", ylabel="variance", yscale="log")
    for each in axes.flat:
        plots.legend(each, loc="center right" if each is parting else "best")
    return figure


def _rectifier(axes: plots.Axes, runs: xr.Dataset) -> None:
    """The product of the growth factors up to every layer, and σ_w²/(2ρ) to that power."""
    if not runs.diverged.size:
        return
    pairs = sorted(
        {(keep, scale) for keep, scale in zip(*np.broadcast_arrays(runs.keep, runs.weight_scale), strict=True)}
    )
    for number, (keep, scale) in enumerate(pairs):
        cell = select(runs, keep=float(keep), weight_scale=float(scale))
        grown = averaged(cell.growth_of_variance, "seed", "layer")
        curve = grown.cumprod("layer").shift(layer=1, fill_value=1.0)
        label = f"ρ = {keep:g}, σ_w² = {scale**2:.3g}"
        plots.seeds(axes, curve, label, color=f"C{number}")
        law = (scale**2 / (2 * keep)) ** (curve.layer - 1.0)
        plots.theory(axes, curve.layer, law, None if number else "(σ_w²/2ρ)ˡ")


NAMES = ("weight_scale", "keep", "shared", "rectified", "bias_variance")
SCALES, KEEPS = (0.9, 1.1, EDGE, 1.6, 2.0, 2.6), (1.0, 0.98, 0.9, 0.8, 0.6)


def networks(scales: tuple, keeps: tuple, rectifiers: tuple) -> list[tuple]:
    """Rows of the design: the plane, the critical points of gradients with masks of their own and one, rectifiers."""
    plane = [(scale, keep, 0.0, 0.0, BIAS) for scale, keep in product(scales, keeps)]
    critical = [(EDGE * keep**0.5, keep, shared, 0.0, BIAS) for keep in keeps if keep < 1 for shared in (0.0, 1.0)]
    relu = [((2 * times) ** 0.5, keep, 0.0, 1.0, 0.0) for keep in rectifiers for times in sorted({keep, 1.0})]
    return [*plane, *critical, *relu]


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, NAMES: networks(SCALES, KEEPS, (1.0, 0.9, 0.6))},
    smoke={"seeds": 2, NAMES: networks((1.1, EDGE, 2.0), (1.0, 0.8), (0.8,)), "depth": 16},
    paper={
        "seeds": 16,
        NAMES: networks((EDGE, *np.linspace(0.8, 3.0, 23).tolist()), KEEPS, (1.0, 0.9, 0.6)),
        "width": 1000,
    },
    control={"initialization": "uniform"},
    precision="float32",
)
