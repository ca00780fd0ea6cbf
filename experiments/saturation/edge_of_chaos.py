"""The variance of a wide random network goes to q*, correlations to c*, and perturbations grow from χ_1 = 1 on.

Claim: With weights N(0, σ_w²/N) and biases N(0, σ_b²), the pre-activation variance goes within a few layers to
q* = σ_w² E φ(√q* z)² + σ_b² from wherever it starts; two inputs become equal where χ_1 = σ_w² E φ'(√q* z)² < 1, and go
to a correlation c* < 1 where χ_1 > 1, small perturbations growing by χ_1 a layer. A finite width shifts the mean
variance by c/N, with a c that theory knows.

Source: Poole et al. 2016, arXiv 1606.05340, sections 2 and 3 and figures 1 and 2; Schoenholz et al. 2017, arXiv
1611.01232, section 3. The shift is derived in `research.oracles.finite_width`.

Departure: Widths from 16 to 256, as many networks of each as draw equally many weights, rather than one of 1000. Every
point of the plane has weights of its own. The two inputs are at right angles in the first layer, with a perturbation
along the circle through them; the variance there is given. Bands: mean squares are judged against 4.5 standard errors
(7e-6 by chance) and the shift; the shift neglects terms of 1/N², relative 10/N at the narrowest; the edge
is that of the least-squares cubic of ln χ_1 on ln σ_w² (on theory's χ_1 it is within 0.002 of the edge), continued
to 1/N = 0.
"""

from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.experiment import Experiment, Finding
from research.labels import averaged, lift, per_seed, select, table
from research.models import centred, key_at
from research.oracles.finite_width import finite_width
from research.oracles.mean_field import edge_of_chaos, mean_field, variance_path
from research.statistics import Estimate, every_seed, over_seeds

ERRORS = 4.5  # standard errors, exceeded by chance with probability 7e-6
SETTLED = 8  # layers that the mean over layers leaves out: 5 ξ_q and more
CLEAR = 0.9  # slope of the correlation map up to which correlations have settled within the depth
CLOSE = 0.1  # relative distance to q* that ends the approach


class Observables(NamedTuple):
    variance: Float[Array, "layer"]
    growth: Float[Array, "layer"]
    correlation: Float[Array, "layer"]


def simulate(
    key: Array,
    weight_variance: float,
    bias_variance: float,
    first: float,
    *,
    width: int = 64,
    draws: int = 16,
    depth: int = 24,
    initialization: str = "gaussian",
) -> Observables:
    """Two inputs at right angles in the first layer, of variance `first`, through `draws` random tanh networks.

    `growth` is what the next layer multiplies the mean square of a small perturbation by, for the mean of networks and
    inputs; 1 in the last layer. "uniform" weights lie between ±√(σ_w²/N) and have a third of the variance.
    """
    start_key, *keys = jax.random.split(key_at(key, weight_variance, bias_variance), depth)
    kernel = centred(weight_variance, per_input=True, uniform=initialization == "uniform")
    bias = centred(bias_variance, per_input=False)
    sums = jnp.sqrt(first) * jax.random.normal(start_key, (draws, 2, width))
    tangents = jnp.stack([sums[:, 1], -sums[:, 0]], axis=1)

    def layer(carry: tuple, key: Array) -> tuple:
        weight_key, bias_key = jax.random.split(key)
        outputs, moved = jax.jvp(jnp.tanh, carry[:1], carry[1:])
        # All networks' weights at once, each with `width` inputs.
        W = kernel(weight_key, (width, draws * width), outputs.dtype).reshape(width, draws, width)
        shift = bias(bias_key, (draws, 1, width), outputs.dtype)
        following = jnp.einsum("dpn,ndm->dpm", outputs, W) + shift, jnp.einsum("dpn,ndm->dpm", moved, W)
        return following, following

    after: tuple[Array, Array] = jax.lax.scan(layer, (sums, tangents), jnp.stack(keys))[1]
    sums, tangents = jnp.concatenate([sums[None], after[0]]), jnp.concatenate([tangents[None], after[1]])
    squares, sizes = jnp.mean(sums**2, axis=3), jnp.mean(tangents**2, axis=3)
    cosine = jnp.mean(sums[:, :, 0] * sums[:, :, 1], axis=2) / jnp.sqrt(squares[:, :, 0] * squares[:, :, 1])
    growth = jnp.mean(sizes[1:] / sizes[:-1], axis=(1, 2))
    return Observables(squares.mean((1, 2)), jnp.append(growth, 1.0), cosine.mean(1))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Theory's fixed point and path for every cell, and what the layers behind the approach say of them."""
    weight, bias = dataset.weight_variance, dataset.bias_variance
    field = lift(mean_field, "tanh", weight, bias)
    corrected = lift(finite_width, "tanh", weight, bias)
    settled = dataset.isel(layer=slice(SETTLED, None))
    q = settled.variance.mean("layer")
    samples = dataset.width * dataset.draws * settled.sizes["layer"]
    error = (corrected.fluctuation / samples) ** 0.5
    allowed = ERRORS * error + abs(corrected["shift"]) * (1 + 10 / dataset.width) / dataset.width
    depth = dataset.sizes["layer"]
    path = lift(variance_path, "tanh", weight, bias, dataset.first, layers=depth)
    each = (corrected.fluctuation / (dataset.width * dataset.draws)) ** 0.5
    reach = (ERRORS * each + 10 * field.q / dataset.width) * np.maximum(path / field.q, 1)
    return dataset.assign(
        q=field.q + 0 * q,
        chi=field.chi + 0 * q,
        correlation_limit=field.correlation + 0 * q,
        correlation_slope=np.exp(-1 / field.correlation_depth) + 0 * q,
        predicted_shift=corrected["shift"] + 0 * q,
        path=path,
        path_excess=abs(dataset.variance - path) / reach,
        measured_q=q,
        excess=abs(q - field.q) / allowed,
        measured_chi=settled.growth.isel(layer=slice(None, -1)).mean("layer"),
        measured_correlation=settled.correlation.isel(layer=slice(-4, None)).mean("layer"),
    ).assign_coords(layer=np.arange(1, depth + 1))


def phase_plane(dataset: xr.Dataset) -> xr.Dataset:
    """The cells in which the variance starts at 1."""
    return select(dataset, first=1.0)


def settled_width(plane: xr.Dataset) -> int:
    """The largest width of which a run has several networks, so that the mean correlation is not that of one."""
    return int(plane.width.where(plane.draws >= 4).fillna(0).max()) if plane.diverged.size else 0


def shifts(plane: xr.Dataset) -> np.ndarray:
    """The mean variance less q* in units of c/N: least squares over plane and widths, one number a seed."""
    q, rest, shift = (
        table(plane, name, "bias_variance", "weight_variance", "width")
        for name in ("measured_q", "q", "predicted_shift")
    )
    expected, over = shift / q.width, ["bias_variance", "weight_variance", "width"]
    return np.asarray(((q - rest) * expected).sum(over, skipna=False) / (expected**2).sum(over, skipna=False))


def edges(plane: xr.Dataset, variable: str = "measured_chi") -> xr.DataArray:
    """The σ_w at which the cubic through ln χ_1 is zero, by seed, σ_b² and width; NaN without one in sight."""
    chi = table(plane, variable, "bias_variance", "width", "weight_variance")
    x = np.log(chi.weight_variance.values)
    found = np.full(chi.shape[:-1], np.nan)
    for place in np.ndindex(found.shape):
        y = np.log(chi.values[place])
        if x.size > 3 and np.isfinite(y).all():
            roots = np.roots(np.polyfit(x, y, 3))
            inside = [root.real for root in roots if abs(root.imag) < 1e-12 and x[0] < root.real < x[-1]]
            found[place] = np.exp(inside[0] / 2) if len(inside) == 1 else np.nan
    return chi.isel(weight_variance=0, drop=True).copy(data=found)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """q*, its shift by the width, the edge, the correlation in chaos, and the approach to q*."""
    plane, widths = phase_plane(dataset), np.unique(dataset.width.values)
    found: list[Finding] = []

    def add(statement: str, band: tuple[float, float], estimate: Estimate) -> None:
        found.append(Finding.of(statement, band, estimate))

    distance = (
        f"largest distance of the mean variance to q*, in units of {ERRORS:g} standard errors and |c|/N, of a seed"
    )
    add(distance, (0.0, 1.0), every_seed(per_seed(dataset.excess)))
    if widths.size > 1 and plane.diverged.size:
        neglected = 10 / widths[0]
        shift = "mean variance less q*, in units of the predicted c/N, least squares over the plane and widths"
        add(shift, (1 - neglected, 1 + neglected), over_seeds(shifts(plane)))
        crossings = edges(select(plane, width=lambda width: width >= widths[-1] / 8))
        inverse = 1 / crossings.width.values
        line = np.linalg.pinv(np.stack([np.ones_like(inverse), inverse], axis=1))[0]
        infinite = (crossings * xr.DataArray(line, {"width": crossings.width}, "width")).sum("width", skipna=False)
        for bias in infinite.bias_variance.values.tolist():
            edge = edge_of_chaos("tanh", bias) ** 0.5
            seen = infinite.sel(bias_variance=bias).values
            if plane.weight_variance.min() < edge**2 < plane.weight_variance.max() and np.isfinite(seen).all():
                add(
                    f"σ_b² = {bias:g}: σ_w of the measured edge less {edge:.4f}", (-0.02, 0.02), over_seeds(seen - edge)
                )
    several = settled_width(plane)
    chaotic = (plane.chi > 1) & (plane.correlation_slope < CLEAR) & (plane.width == several)
    if bool(chaotic.any()):
        off = (plane.measured_correlation - plane.correlation_limit).where(chaotic)
        mean = off.mean([each for each in off.dims if each != "seed"]).values
        # Noise of variance 1/N through a map whose curvature is of order one, summed up to 1/(1 - 0.9) times.
        allowed = 10 / several
        add(f"chaos, N = {several}: mean of c less c*", (-allowed, allowed), over_seeds(mean))
    starts = select(dataset, first=lambda first: first != 1.0)
    if starts.diverged.size:
        within = [_layers_to(rest, path) for rest, path in zip(*_curves(starts, "q", "path"), strict=True)]
        theirs = f"theory is within {CLOSE:.0%} of q* after {min(within)} to {max(within)} layers"
        path = f"largest distance to the recursion from any start at any layer, in such units ({theirs})"
        add(path, (0.0, 1.0), every_seed(per_seed(starts.path_excess)))
    return found


def _curves(dataset: xr.Dataset, *names: str) -> list[np.ndarray]:
    """Those variables of the first seed, a row for each run."""
    over = [each for each in dataset.diverged.dims if each != "seed"]
    wanted = [dataset[name].broadcast_like(dataset.variance).isel(seed=0) for name in names]
    return [each.transpose(*over, "layer").values.reshape(-1, dataset.sizes["layer"]) for each in wanted]


def _layers_to(rest: np.ndarray, path: np.ndarray) -> int:
    """The layers after the first until a path is within a tenth of where it comes to rest, and stays there."""
    off = np.flatnonzero(abs(path / rest - 1) > CLOSE)
    return int(off[-1]) + 1 if off.size else 0


def draw(dataset: xr.Dataset) -> plots.Figure:
    """The plane with the edge; the map of the variance; c* leaving 1; the shift by 1/N."""
    figure, axes = plots.figure(2, 2, "Order and chaos in wide random tanh networks", (5.0, 3.8))
    (phases, iterates), (orders, slopes) = axes
    plane, widths = phase_plane(dataset), np.unique(dataset.width.values)
    if plane.diverged.size:
        _phases(phases, plane)
    starts = select(dataset, first=lambda first: first != 1.0, width=int(widths[-1]))
    weights: list[float] = np.unique(starts.weight_variance.values).tolist() if starts.diverged.size else []
    for number, weight in enumerate(weights):
        runs = select(starts, weight_variance=weight)
        for place, start in enumerate(np.unique(runs.first.values)):
            run = select(runs, first=start)
            (path,) = _curves(run, "path")
            curve = averaged(run.variance, "seed", "layer").sel(layer=slice(None, 12))
            plots.seeds(iterates, curve, None if place else f"σ_w = {weight**0.5:g}", color=f"C{number}")
            plots.theory(iterates, curve.layer, path[0][:12], None if place or number else "recursion")
    iterates.set(title="b  from every start to q*", xlabel="layer", ylabel="variance of pre-activations", yscale="log")
    several = settled_width(plane)
    wide = select(plane, width=several)
    for number, bias in enumerate(np.unique(wide.bias_variance.values) if wide.diverged.size else []):
        seen = table(select(wide, bias_variance=bias), "measured_correlation", "weight_variance")
        plots.points(orders, seen.weight_variance**0.5, seen, f"σ_b² = {bias:g}", color=f"C{number}")
        line = np.linspace(seen.weight_variance.values[0] ** 0.5, seen.weight_variance.values[-1] ** 0.5, 60)
        fixed = [mean_field("tanh", weight**2, bias).correlation for weight in line]
        plots.theory(orders, line, fixed, None if number else "c*")
    orders.set(title=f"c  chaos: inputs stay apart (N = {several})", xlabel="σ_w", ylabel="correlation, last layers")
    if plane.diverged.size:
        _shifts(slopes, plane)
    for each in axes.flat:
        plots.legend(each)
    return figure


def _phases(axes: plots.Axes, plane: xr.Dataset) -> None:
    """The logarithm of χ_1 over the plane, and its edge: in theory, and measured at each width."""
    weights, biases = (np.unique(plane[name].values) for name in ("weight_variance", "bias_variance"))
    chi = table(select(plane, width=int(plane.width.min())), "measured_chi", "bias_variance", "weight_variance")
    shown = np.log(chi.mean("seed").values)
    x, y = np.meshgrid(weights**0.5, biases)
    colour = axes.scatter(x.ravel(), y.ravel(), c=shown.ravel(), cmap="RdBu_r", vmin=-0.6, vmax=0.6, s=45)
    axes.figure.colorbar(colour, ax=axes, label="ln χ_1 measured")
    heights = 1.1 * biases[-1] * np.linspace(0, 1, 60) ** 4
    plots.theory(axes, [edge_of_chaos("tanh", height) ** 0.5 for height in heights], heights, "edge of chaos, χ_1 = 1")
    if biases.size:
        crossings = edges(plane)
        for number, width in enumerate(crossings.width.values.tolist()):
            places = crossings.sel(width=width).median("seed")
            axes.plot(places, biases, "s", ms=4, mfc="none", color=f"C{number}", label=f"measured, N = {width}")
    axes.text(0.06, 0.5, "order", transform=axes.transAxes)
    axes.text(0.85, 0.1, "chaos", transform=axes.transAxes)
    axes.set(title="a  the phases", xlabel="σ_w", ylabel="σ_b²")


def _shifts(axes: plots.Axes, plane: xr.Dataset) -> None:
    """The mean variance less q*, in units of c, against 1/N."""
    q = table(plane, "measured_q", "bias_variance", "weight_variance", "width")
    rest, shift = (
        table(plane, name, "bias_variance", "weight_variance").mean("seed") for name in ("q", "predicted_shift")
    )
    over = ["bias_variance", "weight_variance"]
    off = ((q - rest) * shift).sum(over) / (shift**2).sum(over)
    plots.points(axes, 1 / q.width, off, "a seed", color="C0")
    middle, error = off.mean("seed"), off.std("seed", ddof=1) / off.sizes["seed"] ** 0.5
    axes.errorbar(1 / q.width, middle, 2 * error, fmt="o", color="C1", capsize=3, label="mean of seeds ± 2 SE")
    line = np.array([0, 1.1 / q.width.values.min()])
    plots.theory(axes, line, line, "c/N")
    axes.set(title="d  a finite width shifts q*", xlabel="1/N", ylabel="(mean variance − q*) / c")


WEIGHTS = tuple(np.round(np.geomspace(1.2, 4.0, 7), 4).tolist())
NAMES = ("weight_variance", "bias_variance", "first")
PLANE = [(weight, bias, 1.0) for weight, bias in product(WEIGHTS, (0.05, 0.1, 0.3))]
STARTS = [(weight**2, 0.09, first) for weight, first in product((1.3, 2.5, 4.0), (0.1, 15.0))]
SIZES = [(16, 256), (32, 64), (64, 16), (128, 4), (256, 1)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, NAMES: [*PLANE, *STARTS], ("width", "draws"): SIZES},
    smoke={"seeds": 2, NAMES: [*PLANE[1::6], *STARTS[:2]], ("width", "draws"): [(32, 32), (64, 8)], "depth": 16},
    paper={"seeds": 20, ("width", "draws"): [(100, 100), (300, 11), (1000, 1)], "depth": 50},
    control={"initialization": "uniform"},
    precision="float32",
)
