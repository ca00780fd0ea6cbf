"""LeCun's scaled tanh with LeCun's weights carries signals through many layers; tanh with the same weights does not.

Claim: f(x) = 1.7159 tanh(2x/3) is made so that, with weights of variance 1/fan-in, activations keep a variance near
1. In the mean field of a wide random network the variance before f comes to rest at q* = 0.382, close to the edge of
chaos, where squared gradients grow by no more than χ_1 = 1.019 a layer, and φ_B is 0.299. With plain tanh q* is 0.

Source: LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, sections 4.4 and 4.6, which argue for a variance of 1. The
fixed point is that of Poole et al. 2016, arXiv 1606.05340, for an activation of one's own.

Departure: The paper's argument is for one layer. In a deep one the variance does not stay at 1, where it starts here: f
bends, and outputs have a variance of 0.38. One Gaussian input, no biases, several σ_w². The mean over layers leaves out
the first ones. Plain tanh with σ_w² = 1 is at its edge of chaos, where q falls as 1/(2 layers).

Bands: mean squares, 4.5 standard errors (7e-6 by chance) and the shift by the width, both as in
`research.oracles.finite_width`; φ_B lies on a curve in q of slope less than 1. Growth, for the mean of the seeds: the
shift of q*, of which χ_1 falls with a slope less than 1, and 3/width: the perturbation is correlated with the signal by
ρ, where ρ² is about 1/(width · (1 - slope of the variance map)) = 4.5/width, and E f'²t² is E f'² + ρ² q E(f'²)'', with
|q E(f'²)''| < 0.6.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select, table
from research.models import centred, key_at
from research.observables.saturation import mean_saturation
from research.oracles.activations import Activation
from research.oracles.finite_width import finite_width
from research.oracles.mean_field import edge_of_chaos, mean_field, saturation, variance_path
from research.oracles.scaled_tanh import AMPLITUDE, STEEPNESS
from research.statistics import every_seed, over_seeds

ERRORS = 4.5  # standard errors
SETTLED = 16  # layers that the means leave out


class Observables(NamedTuple):
    variance: Float[Array, "layer"]
    growth: Float[Array, "layer"]
    level: Float[Array, "layer"]


def simulate(
    key: Array,
    weight_variance: float,
    amplitude: float,
    steepness: float,
    *,
    width: int = 512,
    depth: int = 80,
    perturbations: int = 8,
    initialization: Literal["gaussian", "uniform"] = "gaussian",
) -> Observables:
    """One input of variance 1 through a random network of amplitude · tanh(steepness · x).

    `growth` is what the next layer multiplies the mean square of small perturbations by; 1 in the last. "uniform"
    weights lie between ±√(σ_w²/N) and have a third of the variance.
    """
    start_key, moved_key, *keys = jax.random.split(key_at(key, weight_variance + 64 * steepness), depth + 1)
    kernel = centred(weight_variance, per_input=True, uniform=initialization == "uniform")
    sums, moved = jax.random.normal(start_key, (width,)), jax.random.normal(moved_key, (perturbations, width))
    function = lambda x: amplitude * jnp.tanh(steepness * x)

    def layer(carry: tuple, key: Array) -> tuple:
        outputs, along = jax.linearize(function, carry[0])
        changes = jax.vmap(along)(carry[1])
        weights = kernel(key, (width, width), outputs.dtype)
        following = outputs @ weights, changes @ weights
        return following, following

    after: tuple[Array, Array] = jax.lax.scan(layer, (sums, moved), jnp.stack(keys))[1]
    sums, moved = jnp.concatenate([sums[None], after[0]]), jnp.concatenate([moved[None], after[1]])
    sizes = jnp.mean(moved**2, axis=2)
    levels = jax.vmap(lambda outputs: mean_saturation(outputs, -1.0, 1.0))(jnp.tanh(steepness * sums))
    return Observables(jnp.mean(sums**2, axis=1), jnp.append(jnp.mean(sizes[1:] / sizes[:-1], axis=1), 1.0), levels)


def scaled(amplitude: float, steepness: float) -> Activation:
    """Return amplitude · tanh(steepness · x) as an activation for the mean field."""
    return Activation(
        lambda x: amplitude * np.tanh(steepness * x),
        lambda x: amplitude * steepness * (1 - np.tanh(steepness * x) ** 2),
        -amplitude,
        amplitude,
    )


class Theory(NamedTuple):
    """The fixed point, the growth and the saturation there; N times the shift of q*, and N times its variance."""

    rest: float
    chi: float
    rest_level: float
    shift: float
    fluctuation: float


def theory(amplitude: float, steepness: float, weight_variance: float) -> Theory:
    """Return what theory says of a wide network of that function without biases."""
    function = scaled(amplitude, steepness)
    rest, chi, *_ = mean_field(function, weight_variance, 0.0)
    if np.isnan(rest) or rest == 0:
        return Theory(rest, chi, 0.0 * rest, 0.0, 0.0)
    corrected = finite_width(function, weight_variance, 0.0)
    return Theory(rest, chi, saturation(function, rest), corrected.shift, corrected.fluctuation)


def path(amplitude: float, steepness: float, weight_variance: float, layers: int) -> float:
    """Return the variance in the last of the layers."""
    return float(variance_path(scaled(amplitude, steepness), weight_variance, 0.0, 1.0, layers)[-1])


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Means over the settled layers, theory's values, and what width and chance allow."""
    told = lift(theory, dataset.amplitude, dataset.steepness, dataset.weight_variance)
    dataset = dataset.assign(told).assign_coords(layer=np.arange(1, dataset.sizes["layer"] + 1))
    settled = dataset.isel(layer=slice(SETTLED, None))
    samples = dataset.width * settled.sizes["layer"]
    shift = abs(told["shift"]) * (1 + 10 / dataset.width) / dataset.width
    return dataset.assign(
        q=settled.variance.mean("layer"),
        measured_chi=settled.growth.isel(layer=slice(None, -1)).mean("layer"),
        measured_level=settled.level.mean("layer"),
        allowed=ERRORS * (told.fluctuation / samples) ** 0.5 + shift,
        chi_allowed=shift + 3 / dataset.width,
        last=dataset.variance.isel(layer=-1),
        fading=lift(path, dataset.amplitude, dataset.steepness, dataset.weight_variance, dataset.sizes["layer"]),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The scaled tanh at σ_w² = 1 and at others; plain tanh."""
    found = []
    lecun = select(dataset, amplitude=AMPLITUDE, weight_variance=1.0)
    others = select(dataset, amplitude=AMPLITUDE, weight_variance=lambda value: value > 1)
    for runs, name in ((lecun, "σ_w² = 1"), (others, "σ_w² > 1, the farthest")):
        if not runs.diverged.size:
            continue
        for measured, expected, said in (("q", "rest", "q*"), ("measured_level", "rest_level", "φ_B")):
            off = abs(runs[measured] - runs[expected]) / runs.allowed
            off = off.max([each for each in off.dims if each != "seed"], skipna=False)
            value = f" = {float(runs[expected].mean(skipna=False)):.4f}" if runs is lecun else ""
            mean = f" (mean {float(runs[measured].mean()):.4f})" if runs is lecun else ""
            what = f"f = 1.7159 tanh(2x/3), {name}: distance of {said} to theory{value}, over what is allowed{mean}"
            found.append(Finding.of(what, (0.0, 1.0), every_seed(off)))
    if lecun.diverged.size:
        chi, allowed = (float(lecun[each].mean(skipna=False)) for each in ("chi", "chi_allowed"))
        what = f"f = 1.7159 tanh(2x/3), σ_w² = 1: growth of a perturbation a layer, χ_1 = {chi:.4f} in theory"
        band = (chi - allowed, chi + allowed)
        found.append(Finding.of(what, band, over_seeds(per_seed(lecun.measured_chi, "mean"))))
    plain = select(dataset, amplitude=1.0, weight_variance=1.0)
    if plain.diverged.size:
        depth, width, seeds = dataset.sizes["layer"], int(dataset.width.min()), dataset.sizes["seed"]
        # A layer multiplies q by 1 with a variance of 5/width at most; three standard errors of the mean of ln q.
        allowed = 3 * (5 * depth / width / seeds) ** 0.5 + 2.5 * depth / width
        ratio = np.log(plain.last / plain.fading).values.reshape(seeds, -1)[:, 0]
        theirs = float(plain.fading.mean(skipna=False))
        what = f"plain tanh, σ_w² = 1: ln of q in layer {depth} over theory's {theirs:.4f}, which falls to 0"
        found.append(Finding.of(what, (-allowed, allowed), over_seeds(ratio)))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Variance by layer; growth and saturation by σ_w², with theory."""
    figure, axes = plots.figure(1, 3, "LeCun's scaled tanh carries signals through random layers; tanh loses them")
    course, slopes, levels = axes[0]
    line = np.geomspace(0.4, 6, 50)
    for number, (amplitude, steepness, name) in enumerate(FUNCTIONS):
        runs = select(dataset, amplitude=amplitude)
        if not runs.diverged.size:
            continue
        color = f"C{number}"
        same = select(runs, weight_variance=1.0)
        if same.diverged.size:
            curve = same.variance.transpose("seed", "layer", ...)
            curve = curve.isel({each: 0 for each in curve.dims if each not in ("seed", "layer")})
            plots.seeds(course, curve, name, color=color)
            layers = variance_path(scaled(amplitude, steepness), 1.0, 0.0, 1.0, curve.sizes["layer"])
            plots.theory(course, curve.layer, layers, None if number else "theory")
        each = [theory(amplitude, steepness, weight) for weight in line]
        style = {"linestyle": ("--", ":")[number]}
        for axis, measured, expected in ((slopes, "measured_chi", "chi"), (levels, "measured_level", "rest_level")):
            values = table(runs, measured, "weight_variance")
            plots.points(axis, values.weight_variance, values, name, color=color)
            plots.theory(axis, line, [getattr(told, expected) for told in each], f"theory, {name}", **style)
            axis.axvline(edge_of_chaos(scaled(amplitude, steepness), 0.0), color=color, linewidth=0.8, alpha=0.6)
    course.set(
        title="a  σ_w² = 1", xlabel="layer", ylabel="variance of the pre-activations", xscale="log", yscale="log"
    )
    slopes.set(title="b  thin lines: edge of chaos", xlabel="σ_w²", ylabel="growth of a perturbation, χ_1")
    levels.set(title="c  saturation", xlabel="σ_w²", ylabel="φ_B")
    for axis in (slopes, levels):
        axis.set_xscale("log")
    for axis in axes[0]:
        plots.legend(axis)
    return figure


FUNCTIONS = ((AMPLITUDE, STEEPNESS, "1.7159 tanh(2x/3)"), (1.0, 1.0, "tanh x"))
NAMES = ("amplitude", "steepness")
BOTH = [function[:2] for function in FUNCTIONS]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, NAMES: BOTH, "weight_variance": (0.5, 1.0, 2.0, 4.0)},
    smoke={"seeds": 2, NAMES: BOTH, "weight_variance": (1.0, 2.0), "width": 200, "depth": 30},
    paper={"seeds": 64, NAMES: BOTH, "weight_variance": (0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 4.0), "width": 2000},
    control={"initialization": "uniform"},  # a third of the variance, which theory is not told
)
