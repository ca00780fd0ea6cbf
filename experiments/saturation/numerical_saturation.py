"""Number formats kill units before theory does: slopes that are zero exactly, and how many units bear them.

Claim: In a number format with p bits tanh has no slope beyond (p + 2)·ln 2/2, the logistic function none to the right
of p·ln 2 and, where small numbers are flushed to zero, none to the left of the logarithm of the smallest one. In a wide
random network the share of units without a slope is therefore P(|√q* z| > that): 2.4 % at σ_w = 4, σ_b = 0.3 in
float32, none to speak of in float64, a third in bfloat16. Where inputs become equal (order), such a unit is silent for
all inputs and cannot learn; at the same q* in chaos hardly any is. The mean squared slope does not notice.

Source: Derived in `research.oracles.number_format` (rounding to nearest) and known from no paper; the variance q* and
the correlation of inputs: Poole et al. 2016, arXiv 1606.05340, Schoenholz et al. 2017, arXiv 1611.01232.

Departure: Pre-activations of the last layer, in float64, are rounded to each format, and the slope is what automatic
differentiation returns there. Where it ends in the library is found by bisection. The logistic function goes as far as
the format allows; XLA's tanh does not: in float32 it ends at 7.9988, where the format would carry slopes to 9.01, and
in float64 it goes on to 20, where correct rounding ends it at 19.06 (jax 0.10.2 on a CPU): so far the claim about tanh
is refuted. Shares are judged with the ends that the library has. Inputs are at right angles, where chaotic networks
without bias keep them by symmetry.

Bands: A width N shifts q* by the order of 1/N, and ln P by x²/(2q*) times the relative shift, x the end, 5 times at
most in the cells judged singly; 10/N is allowed for, times x²/(2q*) where that is more than 1, twice for silent units.
Formats are judged each by itself, where units without a slope are expected at all. Beyond x the squared slopes of
tanh, 16 e^(-4|u|), have 8 e^(-4x) of the whole
4/3, at most 6·10⁻⁶ in bfloat16, and those of the logistic function e^(-2x)/2 of 1/6, at most 5·10⁻⁵.
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
from research.oracles.activations import named
from research.oracles.mean_field import correlation_path, edge_of_chaos, variance_path
from research.oracles.number_format import beyond_share, last_slope, silent_share
from research.oracles.wide_layer import mean_square
from research.statistics import over_seeds

FORMATS = ("bfloat16", "float32", "float64")
FUNCTIONS = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}
FARTHEST = 1000.0  # beyond all ends
FEWEST = 100.0  # expected units without a slope, for a format to be judged
NEAR = 0.01  # the relative distance of numbers in bfloat16
CARRIED = {"tanh": 9e-6, "sigmoid": 8e-5}  # half as much again as the integrals above, for chance
PHASES = {"order": lambda bias: bias > 1, "chaos": lambda bias: bias == 0}
FAMOUS = {4.0: ("bfloat16", "float32"), 10.0: ("float64",)}  # σ_w, and formats whose share is not 0 there in practice


class Observables(NamedTuple):
    left: Float[Array, "number_format"]
    right: Float[Array, "number_format"]
    without_slope: Float[Array, "number_format"]
    silent: Float[Array, "number_format"]
    carried: Float[Array, "number_format"]


def simulate(
    key: Array,
    weight_scale: float,
    bias_scale: float,
    *,
    activation: Literal["tanh", "sigmoid"] = "tanh",
    width: int = 300,
    draws: int = 6,
    depth: int = 8,
    inputs: int = 4,
    initialization: Literal["gaussian", "uniform"] = "gaussian",
) -> Observables:
    """Where slopes end in each format, the share of units beyond, on one input and on all, and what these carry.

    Of `draws` networks with W ~ N(0, weight_scale²/width) and b ~ N(0, bias_scale²); "uniform" draws W between
    ±weight_scale/√width. `carried` is the share of the sum of squared slopes, in float64, that units beyond have.
    """
    input_key, layer_key = jax.random.split(key_at(key, weight_scale, bias_scale))
    kernel = centred(weight_scale**2, per_input=True, uniform=initialization == "uniform")
    bias, function = centred(bias_scale**2, per_input=False), FUNCTIONS[activation]
    slopes = jax.vmap(jax.grad(function))

    def layer(sums: Array, key: Array) -> tuple[Array, None]:
        weight_key, bias_key = jax.random.split(key)
        W = kernel(weight_key, (width, draws * width), jnp.float32).reshape(width, draws, width)
        return jnp.einsum("dpn,ndm->dpm", function(sums), W) + bias(bias_key, (draws, 1, width), jnp.float32), None

    first = (weight_scale**2 + bias_scale**2) ** 0.5 * jax.random.normal(input_key, (draws, inputs, width))
    sums, _ = jax.lax.scan(layer, first, jax.random.split(layer_key, depth - 1))
    exact = slopes(sums.ravel()) ** 2

    def end(number_format: str) -> Array:
        """The distances from 0 at which slopes end to the left and to the right."""
        signs = jnp.array([-1.0, 1.0])

        def halved(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            middle = (ends[0] + ends[1]) / 2
            gone = slopes((signs * middle).astype(number_format)) == 0
            return jnp.where(gone, ends[0], middle), jnp.where(gone, middle, ends[1])

        return signs * jax.lax.fori_loop(0, 40, halved, (jnp.zeros(2), jnp.full(2, FARTHEST)))[1]

    def seen(number_format: str) -> tuple[Array, ...]:
        gone = slopes(sums.astype(number_format).ravel()) == 0
        silent = jnp.all(gone.reshape(sums.shape), axis=1)
        share = lambda which: jnp.mean(which, dtype=sums.dtype)
        return *end(number_format), share(gone), share(silent), jnp.sum(jnp.where(gone, exact, 0)) / jnp.sum(exact)

    return Observables(*map(jnp.stack, zip(*map(seen, FORMATS), strict=True)))


def last_variance(activation: str, weight_scale: float, bias_scale: float, depth: int) -> float:
    """The variance in the last layer."""
    first = weight_scale**2 + bias_scale**2
    return float(variance_path(activation, weight_scale**2, bias_scale**2, first, int(depth))[-1])


class Path(NamedTuple):
    q: float
    correlation: float


def last_layer(activation: str, weight_scale: float, bias_scale: float, depth: int) -> Path:
    """The variance, and the correlation of inputs at right angles, in the last layer."""
    network = (activation, weight_scale**2, bias_scale**2)
    first = weight_scale**2 + bias_scale**2
    q = last_variance(activation, weight_scale, bias_scale, depth)
    return Path(q, float(np.clip(correlation_path(*network, first, 0.0, int(depth))[-1], 0.0, 1.0)))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Theory's shares with the ends that were found, and the ends that rounding has."""
    path = lift(last_layer, dataset.activation, dataset.weight_scale, dataset.bias_scale, dataset.depth)
    dataset = dataset.assign(path).assign_coords(number_format=list(FORMATS))
    left, right = (dataset[name].isel(seed=0, drop=True) for name in ("left", "right"))
    ends = {
        f"{name}_of_format": lift(last_slope, dataset.activation, dataset.number_format, sign)
        for name, sign in (("left", -1.0), ("right", 1.0))
    }
    return dataset.assign(
        **ends,
        beyond=lift(beyond_share, path.q, left, right),
        beyond_of_format=lift(beyond_share, path.q, ends["left_of_format"], ends["right_of_format"]),
        expected_silent=lift(silent_share, path.q, path.correlation, dataset.inputs, left, right),
    )


def fitted(seen: xr.DataArray, expected: xr.DataArray) -> np.ndarray:
    """Measured over expected shares, least squares over all cells, one number a seed."""
    expected = expected + 0 * seen
    return per_seed(seen * expected, "sum") / per_seed(expected**2, "sum")


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Shares, the known number, ends, silent units in order and in chaos, and what the lost slopes carried."""
    found: list[Finding] = []
    allowed = 10 / int(dataset.width.min())

    def add(statement: str, band: tuple[float, float], values: np.ndarray) -> None:
        found.append(Finding.of(statement, band, over_seeds(values)))

    # By format, since least squares of all would be those of bfloat16, which has the largest shares.
    pairs = int(dataset.width.min()) * int(dataset.draws.min()) * int(dataset.inputs.min()) * dataset.sizes["seed"]
    for name in FORMATS:
        cells = dataset.sel(number_format=name)
        if pairs * float(cells.beyond.sum()) < FEWEST:  # a run that shows nothing
            continue
        end = np.minimum(abs(cells.left), cells.right).isel(seed=0, drop=True)
        steepness = float((end**2 / (2 * cells.q) * cells.beyond**2).sum() / (cells.beyond**2).sum())
        near = allowed * max(1.0, steepness)
        what = f"{name}: share of units without a slope over P(|√q z| beyond the ends), least squares over networks"
        add(what, (1 - near, 1 + near), fitted(cells.without_slope, cells.beyond))
    for scale, formats in FAMOUS.items():
        famous = select(dataset, activation="tanh", weight_scale=scale, bias_scale=0.3)
        for name in formats if famous.diverged.size else ():
            share = float(famous.beyond.sel(number_format=name).mean())
            what = f"tanh, σ_w = {scale:g}, σ_b = 0.3, {name}: share without a slope (theory {share:.2g})"
            near = 10 * allowed / 2 * share
            add(what, (share - near, share + near), per_seed(famous.without_slope.sel(number_format=name), "mean"))
    for activation in FUNCTIONS:
        runs = select(dataset, activation=activation)
        if not runs.diverged.size:
            continue
        for name in FORMATS:
            cell = runs.sel(number_format=name)
            theirs = float(cell.right_of_format.max())
            what = f"{activation}, {name}: where slopes end to the right, over what rounding allows ({theirs:.4g})"
            add(what, (1 - NEAR, 1 + NEAR), per_seed(cell.right / cell.right_of_format, "mean"))
        if activation == "sigmoid":
            what = "sigmoid, all formats: where slopes end to the left, over the logarithm of the least number"
            add(what, (1 - NEAR, 1 + NEAR), per_seed(runs.left / runs.left_of_format, "mean"))
        what = f"{activation}: share of the squared slopes that units without a slope would carry, the largest"
        add(what, (0.0, CARRIED[activation]), per_seed(runs.carried))
    tanh = select(dataset, activation="tanh")
    for phase, chosen in PHASES.items():
        runs = select(tanh, bias_scale=chosen).sel(number_format="float32")
        if runs.diverged.size:
            sums = [per_seed(runs[name], "sum") for name in ("silent", "without_slope")]
            theirs = float(runs.expected_silent.sum() / runs.beyond.sum())
            what = f"{phase}: of units without a slope on one input, share without any on {int(runs.inputs.max())}"
            band = (max(0.0, theirs - 2 * allowed), min(1.0, theirs + 2 * allowed))
            add(f"{what} (theory {theirs:.3f})", band, sums[0] / sums[1])
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Shares without a slope against σ_w, the ends of slopes, and silent units in order and in chaos."""
    figure, axes = plots.figure(2, 2, "Slopes that are zero exactly: the number format kills units", (5.0, 3.8))
    (tanh, logistic), (ends, silence) = axes
    for panel, activation in ((tanh, "tanh"), (logistic, "sigmoid")):
        runs = select(dataset, activation=activation, bias_scale=lambda bias: bias < 1)
        if runs.diverged.size:
            _shares(panel, runs, activation)
        panel.set(xlabel="σ_w", ylabel="share of units without a slope", yscale="log", ylim=(1e-6, 2))
    tanh.set_title("a  tanh")
    logistic.set_title("b  logistic function")
    chosen = [name for name in FUNCTIONS if select(dataset, activation=name).diverged.size]
    for row, activation in enumerate(chosen):
        cell = select(dataset, activation=activation)
        for number, name in enumerate(FORMATS):
            at, place = cell.sel(number_format=name), row + 0.2 * (number - 1)
            for side in ("left", "right"):
                found, theirs = (float(np.abs(at[each]).max()) for each in (side, f"{side}_of_format"))
                dash = "o" if side == "right" else "s"
                ends.plot(found, place, dash, color=f"C{number}", ms=6, label=_once(f"{name}, {side}", row))
                ends.plot(theirs, place, "k|", ms=16, mew=1.5)
    ends.plot([], [], "k|", ms=7, mew=1.5, label="what the format allows")
    ends.set_yticks(range(len(chosen)), chosen)
    ends.set(title="c  where slopes end", xlabel="|x|", xscale="log", ylim=(-0.5, len(chosen) + 0.9))
    runs = select(dataset, activation="tanh")
    for number, (phase, condition) in enumerate(PHASES.items()):
        cell = select(runs, bias_scale=condition)
        if cell.diverged.size:
            plots.points(silence, cell.without_slope, cell.silent, phase, color=f"C{number + 3}", markersize=4)
    for number, power in enumerate((1, int(dataset.inputs.max()))):
        line = np.linspace(0, 1, 60)
        label = ("inputs equal: the same", f"inputs independent: to the power {power}")[number]
        plots.theory(silence, line, line**power, label, linestyle=("--", ":")[number])
    silence.set(title="d  silent units", xlabel="share of units without a slope on one input")
    silence.set_ylabel(f"… on {int(dataset.inputs.max())} inputs")
    for each in axes.flat:
        plots.legend(each, **({"ncols": 2, "loc": "upper left"} if each is ends else {}))
    return figure


def _once(label: str, count: int) -> str | None:
    return None if count else label


def _shares(panel: plots.Axes, runs: xr.Dataset, activation: str) -> None:
    """Dots for seeds, theory with the ends that were found, and with those that the format allows."""
    for number, name in enumerate(FORMATS):
        cell = runs.sel(number_format=name)
        seen = table(cell, "without_slope", "weight_scale")
        plots.points(panel, seen.weight_scale, seen, name, color=f"C{number}", markersize=4)
    line = np.geomspace(float(runs.weight_scale.min()), float(runs.weight_scale.max()), 40)
    bias, depth = float(np.median(runs.bias_scale)), int(runs.depth.max())
    variances = [last_variance(activation, weight, bias, depth) for weight in line]
    for number, name in enumerate(FORMATS):
        found, format_ends = (
            [float(runs[f"{side}{kind}"].sel(number_format=name).max()) for side in ("left", "right")]
            for kind in ("", "_of_format")
        )
        for each, style, label in ((found, "--", "theory"), (format_ends, ":", "as far as the format allows")):
            law = [beyond_share(q, *each) for q in variances]
            plots.theory(panel, line, law, _once(label, number), linestyle=style)
    if activation == "sigmoid":
        panel.axvline(edge_of_chaos("sigmoid", 0.0) ** 0.5, color="0.6", linewidth=1, label="edge of chaos")


def couple(q: float) -> list[tuple[str, float, float]]:
    """("tanh", σ_w, σ_b) of two networks of that q*: without bias in chaos, and with σ_w = 1 in order."""
    square = mean_square(named("tanh"), q)
    return [("tanh", float((q / square) ** 0.5), 0.0), ("tanh", 1.0, float((q - square) ** 0.5))]


NAMES = ("activation", "weight_scale", "bias_scale")
PLANE = [("tanh", scale, 0.3) for scale in (2.0, 3.0, 4.0, 6.0, 10.0)]
LOGISTIC = [("sigmoid", scale, 0.0) for scale in (5.0, 10.149, 16.0, 30.0)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, NAMES: [*PLANE, *couple(12.0), *couple(40.0), *LOGISTIC]},
    smoke={"seeds": 3, NAMES: [PLANE[2], *couple(40.0)], "draws": 3},
    paper={"seeds": 32, NAMES: [*PLANE, *couple(12.0), *couple(40.0), *LOGISTIC], "width": 1000, "depth": 20},
    control={"initialization": "uniform"},
)
