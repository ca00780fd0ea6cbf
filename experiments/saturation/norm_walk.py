"""The length of activations in a finite random ReLU network takes a random walk: right on average, and seldom typical.

Claim: With weights of variance 2/fan_in the mean of ‖h‖²/n stays what it was, but its logarithm takes a random walk
whose mean is −β/2 and whose variance is β = 5·Σ 1/n over the layers, whatever the widths are one by one, and becomes
Gaussian: most networks shrink, and the second moment grows as e^β. Small perturbations of the input, and so gradients,
do the same. In linear networks β = 2·Σ 1/n.

Source: Hanin & Rolnick 2018, "How to start training", arXiv 1803.01719 (its second failure mode); Hanin 2018, arXiv
1801.03744; Hanin & Nica 2018, arXiv 1812.05994 (the Gaussian limit). The exact law is in `research.oracles.log_length`.

Departure: The law at finite width is exact, and judged: at 10 units the variance is 73 % above 5/n a layer, by terms
18.5/n² and more, so that widths collapse onto one line only as they grow. Networks without an active unit in some layer
are counted and left out, as the law does. Uneven networks alternate 20 units and 60. Gaussian weights, one input, and
no training. The second moment is not estimated: of 20,000 networks one draw in a thousand decides it.

Bands: means and variances are judged in standard errors of the law, from its first four cumulants, 4.5 of them (7e-6 by
chance). Distance to a Gaussian, of the networks of all seeds together: Massart 1990, and the first Edgeworth term of
the law's skewness, twice.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float
from scipy import stats

from research import plots
from research.experiment import Experiment, Finding
from research.labels import arms, lift, per_seed, select
from research.oracles.log_length import length_square, log_length
from research.statistics import Estimate, every_seed, over_seeds, share

ERRORS = 4.5  # standard errors, exceeded by chance with probability 7e-6
SUMMED = 5  # layers: an estimated variance of fewer terms has fatter tails than its standard error tells
EXCEPTION = 1e-3  # the probability that chance alone breaks the band of a distribution, all runs together
EARLY = 0.1  # Σ 1/n up to which the mean of the length itself is judged: its variance is below e^(1/2)
SECOND = 3.7  # the variance of a layer is 5/n·(1 + 3.7/n + …): see `findings`
COLLAPSING = 20  # units from which widths are expected on one line


class Observables(NamedTuple):
    mean: Float[Array, "layer"]
    variance: Float[Array, "layer"]
    mean_moved: Float[Array, "layer"]
    variance_moved: Float[Array, "layer"]
    length: Float[Array, "layer"]
    alive: Float[Array, "layer"]
    final: Float[Array, "network"]


def simulate(
    key: Array,
    gain: float = 1.0,
    linear: float = 0.0,
    narrow: float = 1.0,
    *,
    width: int = 20,
    depth: int = 20,
    networks: int = 500,
) -> Observables:
    """ReLU networks without biases, weights N(0, 2·`gain`/fan_in); with `linear` 1 linear ones, N(0, `gain`/fan_in).

    Every other layer, the first one too, has `narrow` times as many units. `mean` and `variance` over living networks
    are those of ln(‖h‖²/n), `mean_moved` and `variance_moved` those of a perturbation of the input, and `length` the
    mean of ‖h‖²/n over all; it is 1 at the input, as the perturbation is.
    """
    counts = jnp.where(jnp.arange(depth + 1) % 2 == 0, float(width), jnp.round(narrow * width))
    input_key, *keys = jax.random.split(key, depth + 1)
    within = lambda vectors: vectors / jnp.sqrt(jnp.mean(vectors**2, axis=2, keepdims=True))
    begin = within(jax.random.normal(input_key, (networks, 2, width)))

    def layer(carried: Array, given: tuple[Array, Array, Array]) -> tuple[Array, tuple]:
        before, after, key = given
        deviation = jnp.sqrt(gain * jnp.where(linear > 0, 1.0, 2.0) / before)
        W = deviation * jax.random.normal(key, (networks, width, width))
        sums = jnp.einsum("dvi,dij->dvj", carried, W)
        gates = ((sums[:, :1] > 0) | (linear > 0)) & (jnp.arange(width) < after)[None, None, :]
        outputs = jnp.where(gates, sums, 0.0)
        sizes = jnp.sum(outputs**2, axis=2) / after
        alive = jnp.all(sizes > 0, axis=1)
        logs = jnp.where(alive[:, None], jnp.log(jnp.where(sizes > 0, sizes, 1.0)), 0.0)
        living = jnp.sum(alive, dtype=sums.dtype)
        mean = jnp.sum(logs, axis=0) / living
        spread = jnp.sum(jnp.where(alive[:, None], logs - mean[None, :], 0.0) ** 2, axis=0) / (living - 1)
        return outputs, (mean, spread, jnp.mean(sizes[:, 0]), living / networks, sizes[:, 0])

    _, (mean, spread, length, alive, sizes) = jax.lax.scan(layer, begin, (counts[:-1], counts[1:], jnp.stack(keys)))
    return Observables(mean[:, 0], spread[:, 0], mean[:, 1], spread[:, 1], length, alive, sizes[-1])


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The law summed over layers, β, and the distances to it in standard errors; in the last layer the distribution."""
    if bool((dataset.narrow > 1).any()):
        # uneven layers are cut from arrays of `width` units
        raise ValueError(f"narrow takes at most 1, a part of width, got {float(dataset.narrow.max()):g}")
    layer = xr.DataArray(np.arange(dataset.sizes["layer"]), dims="layer")
    units = xr.where(layer % 2 == 0, np.round(dataset.narrow * dataset.width), dataset.width).where(
        layer < dataset.depth
    )
    active = xr.where(dataset.linear > 0, 1.0, 0.5)
    law = lift(log_length, units, active).cumsum("layer", skipna=False)
    growth = np.log(lift(length_square, units, active)).cumsum("layer", skipna=False)
    inverse = (1 / units).cumsum("layer", skipna=False)
    living = dataset.alive * dataset.networks
    law_error = (law.variance / living) ** 0.5
    spread_error = law.variance * ((2 + law.fourth / law.variance**2) / living) ** 0.5
    off = {
        "mean_off": (dataset["mean"] - law["mean"]) / law_error,
        "variance_off": (dataset.variance - law.variance) / spread_error,
        "mean_moved_off": (dataset.mean_moved - law["mean"]) / law_error,
        "variance_moved_off": (dataset.variance_moved - law.variance) / spread_error,
        "length_off": (dataset.length - 1) / (np.expm1(growth) / dataset.networks) ** 0.5,
    }
    # NaN is padding beyond the depth only: a law that is not certified stays NaN
    off = {name: abs(values).where(layer < dataset.depth, 0.0) for name, values in off.items()}
    return dataset.assign(
        **off,
        law_mean=law["mean"],
        law_variance=law.variance,
        skewness=(law.third / law.variance**1.5).isel(layer=dataset.depth - 1),
        inverse=inverse,
        beta=inverse * xr.where(dataset.linear > 0, 2.0, 5.0),
        narrowest=units.min("layer"),
    ).assign_coords(layer=layer + 1)


def last(runs: xr.Dataset) -> xr.Dataset:
    """Those runs in the last layer of each."""
    return runs.sel(layer=runs.depth)


def living(runs: xr.Dataset) -> np.ndarray:
    """ln(‖h‖²/n) of the last layer for the networks of one arm that are alive, all seeds together."""
    lengths = runs.final.values.ravel()
    return np.log(lengths[lengths > 0])


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The exact law, of lengths and of perturbations; β = 5·Σ 1/n; the mean, the typical, and the Gaussian."""
    found: list[Finding] = []
    died = float((1 - last(dataset).alive).mean())

    def add(what: str, values: xr.DataArray) -> None:
        statement = f"{what}, largest distance to the law in standard errors, any layer, of a seed"
        found.append(Finding.of(statement, (0.0, ERRORS), every_seed(per_seed(values))))

    add(f"mean of ln(‖h‖²/n) over living networks ({died:.2%} died)", dataset.mean_off)
    late = dataset.layer >= SUMMED
    add(f"variance of ln(‖h‖²/n) from layer {SUMMED} on", dataset.variance_off.where(late, 0.0))
    add("mean of ln of a squared perturbation", dataset.mean_moved_off)
    moved = dataset.variance_moved_off.where(late, 0.0)
    add(f"variance of ln of a squared perturbation from layer {SUMMED} on", moved)
    early = dataset.inverse < EARLY
    if early.any():
        add(f"mean of ‖h‖²/n over all networks, to Σ 1/n = {EARLY}", dataset.length_off.where(early, 0.0))
    # Of S = 1 + x, the mean of n squares with variance 5/n and third moment 44/n², Var ln S is that of
    # x − x²/2 + x³/3: 5/n − 44/n² + (75 − 25)/(4n²) + (2/3)·75/n² = 5/n·(1 + 3.7/n). Twice that covers what follows.
    wide = select(dataset, linear=0.0, width=lambda width: width >= COLLAPSING)
    if wide.diverged.size:
        end = last(wide)
        ratio = end.variance / end.beta
        narrowest = float(end.narrowest.min())
        what = f"variance of ln(‖h‖²/n) over 5·Σ 1/n, farthest from 1 of the networks from {narrowest:g} units on"
        each = [(ratio - 1).mean("seed").values.ravel()] if ratio.ndim > 1 else [0]
        place = int(np.argmax(np.abs(each[0])))
        values = ratio.transpose("seed", ...).values.reshape(ratio.sizes["seed"], -1)[:, place]
        allowed = 2 * SECOND / narrowest
        found.append(Finding.of(what, (1 - allowed, 1 + allowed), over_seeds(values)))
    for _, arm in arms(select(dataset, linear=0.0)):
        if arm.seed.size and int(arm.width) >= COLLAPSING and float(arm.narrow) == 1:
            found += _distribution(arm, dataset.diverged.size)
    return found


def _distribution(arm: xr.Dataset, runs: int) -> list[Finding]:
    """How many networks have shrunk by the last layer, and how far from Gaussian the logarithm is."""
    logs, end = living(arm), last(arm)
    mean, variance = (float(end[name].values.ravel()[0]) for name in ("law_mean", "law_variance"))
    name = f"{int(arm.width)} units, {int(arm.depth)} layers"
    shrunk = Finding.of(f"{name}: share of networks that shrink", (0.5, 1.0), share(logs < 0))
    if not (np.isfinite(mean) and variance > 0):
        return [shrunk]
    # All networks of all seeds, independent: those of one seed are too few to tell a Gaussian from a uniform. Within
    # `noise` of the sample's distribution the true one lies with probability 1 − EXCEPTION/runs.
    distance = float(stats.kstest(logs, stats.norm(mean, variance**0.5).cdf).statistic)
    noise = float(np.sqrt(np.log(2 * runs / EXCEPTION) / 2 / len(logs)))
    # the first Edgeworth term is largest in the middle: |γ|/6·φ(0); as much again for the following ones
    edgeworth = 2 * abs(float(arm.skewness)) / 6 * stats.norm.pdf(0)
    what = f"{name}: Kolmogorov distance of ln(‖h‖²/n) of all {len(logs)} networks to a Gaussian"
    return [shrunk, Finding.of(what, (0.0, noise + edgeworth), Estimate(distance, (distance, distance)))]


def label(parameters: dict[str, Any]) -> str:
    """The name of an arm in the legend."""
    width, few = parameters["width"], round(parameters["narrow"] * parameters["width"])
    return f"{'linear' if parameters['linear'] else 'ReLU'}, n = {width if few == width else f'{few}/{width}'}"


def _by_inverse(arm: xr.Dataset, variable: str) -> xr.DataArray:
    """That variable against Σ 1/n."""
    return arm[variable].transpose("seed", "layer").assign_coords(layer=arm.inverse.values)


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Variance against Σ 1/n on one line; mean and typical length; the distribution of the logarithm."""
    title = "He initialisation keeps the mean of ‖h‖²/n; the typical network shrinks, by a random walk in ln ‖h‖²"
    figure, ((spread, typical, shape),) = plots.figure(1, 3, title, (4.6, 3.7))
    widest: xr.Dataset | None = None
    for number, (parameters, arm) in enumerate(arms(dataset)):
        layers = slice(None, int(arm.depth))
        arm = arm.isel(layer=layers)
        plots.seeds(spread, _by_inverse(arm, "variance"), label(parameters), color=f"C{number}")
        spread.plot(
            arm.inverse, arm.law_variance, color="black", linewidth=0.7, zorder=5, label=None if number else "exact law"
        )
        if not parameters["linear"] and parameters["narrow"] == 1:
            widest = arm if widest is None or int(arm.width) > int(widest.width) else widest
    top = float(dataset.inverse.max())
    plots.theory(spread, (0, top), (0, 5 * top), "5·Σ 1/n")
    plots.theory(spread, (0, top), (0, 2 * top), "2·Σ 1/n", linestyle=":")
    if widest is not None:
        x = widest.inverse.values
        plots.seeds(typical, _by_inverse(widest, "length"), "mean of ‖h‖²/n", color="C0")
        usual = widest.assign(typical=np.exp(widest["mean"]))
        plots.seeds(typical, _by_inverse(usual, "typical"), "typical: exp of the mean of ln", color="C1")
        plots.theory(typical, x, np.ones_like(x), "1")
        plots.theory(typical, x, np.exp(widest.law_mean), "exact law (e^(−β/2) for wide ones)", linestyle=":")
        logs, end = living(widest), last(widest)
        shape.hist(logs, bins=60, density=True, color="C1", alpha=0.5, label=f"{len(logs)} networks, last layer")
        mean, deviation = float(end.law_mean.mean()), float(end.law_variance.mean()) ** 0.5
        line = np.linspace(logs.min(), logs.max(), 200)
        plots.theory(shape, line, stats.norm(mean, deviation).pdf(line), "Gaussian of the exact law")
        shape.axvline(0.0, color="0.5", linewidth=1, label="the input's, and E ‖h‖²/n")
        name = f"n = {int(widest.width)}"
        typical.set_title(f"b  {name}: mean and typical length")
        shape.set_title(f"c  {name}, {int(widest.depth)} layers")
    spread.set(
        title="a  one line, the wider the closer", xlabel="Σ 1/n over the layers", ylabel="variance of ln(‖h‖²/n)"
    )
    typical.set(xlabel="Σ 1/n over the layers", ylabel="‖h‖²/n over the input's", yscale="log")
    shape.set(xlabel="ln(‖h‖²/n)", ylabel="density")
    shape.margins(y=0.35)
    for axes in (spread, typical, shape):
        plots.legend(axes, loc="lower left" if axes is typical else "upper left")
    return figure


NAMES = ("width", "depth", "networks", "narrow", "linear")
design = lambda few, many: [
    (10, 10, many, 1.0, 0.0),
    (20, 20, many, 1.0, 0.0),
    (20, 20, many, 1.0, 1.0),
    (40, 40, few, 1.0, 0.0),
    (60, 30, few // 2, 1 / 3, 0.0),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, NAMES: design(500, 1000)},
    smoke={"seeds": 3, NAMES: [(20, 20, 250, narrow, linear) for narrow, linear in ((1.0, 0.0), (1.0, 1.0))]},
    paper={"seeds": 20, NAMES: design(2000, 20_000)},
    control={"gain": 0.5},  # Xavier's: the mean of ln loses ln 2 a layer
    precision="float32",
)
