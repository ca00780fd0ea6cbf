"""Large pre-activations: the mean gradient falls as q^(−1/2) for every activation, the typical one by its tails.

Claim: For pre-activations of variance q, the mean squared slope E φ'² tends to ∫ φ'² dx/√(2πq), for exponential tails
(tanh, logistic, erf) as for polynomial ones (softsign): the few units near zero carry the gradient. The slope of a
typical unit is φ' at the median of |u|, 0.6745 √q: exponentially small in √q for tanh, of the order 1/q for softsign.

Source: Derived in `research.oracles.slope_tails`. It bears on the softsign that "saturates less" in Glorot & Bengio
2010 ("Understanding the difficulty of training deep feedforward neural networks", section 3.3): its typical unit does,
while its mean slope is half of tanh's; and on the textbooks' "gradients vanish exponentially", which holds for a
typical unit and not for the mean.

Departure: One layer of `width` units on inputs of mean square 1, with weights of variance q/features, and the gradient
that comes back through it. `offset` is the mean of the pre-activations in standard deviations: the law is that of
centred ones, and 3 takes the units away from zero.
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
from research.oracles.slope_tails import MEDIAN, mean_square_law, median_slope
from research.statistics import over_seeds, slope

LARGE = 100.0  # the variance from which the law is judged
FEATURES = 64
SORTED = 32  # inputs over which the median is taken: sorting costs more than all the rest


class Observables(NamedTuple):
    mean_square: Float[Array, ""]
    median_unit: Float[Array, ""]


def _sech_squared(x: Array) -> Array:
    """The slope of tanh where 1 − tanh² is zero in floating point, too."""
    small = jnp.exp(-2 * jnp.abs(x))
    return 4 * small / (1 + small) ** 2


SLOPES = {
    "tanh": _sech_squared,
    "sigmoid": lambda x: _sech_squared(x / 2) / 4,
    "erf": lambda x: 2 / jnp.sqrt(jnp.pi) * jnp.exp(-(x**2)),
    "softsign": lambda x: (1 + jnp.abs(x)) ** -2.0,
}


def simulate(
    key: Array,
    variance: float,
    offset: float = 0.0,
    *,
    activation: Literal["tanh", "sigmoid", "erf", "softsign"] = "tanh",
    width: int = 4096,
    inputs: int = 128,
) -> Observables:
    """The mean squared slope over units and inputs, by which a layer multiplies squared gradients, and the median."""
    weight_key, input_key = jax.random.split(key)
    X = jax.random.normal(input_key, (inputs, FEATURES))
    X /= jnp.sqrt(jnp.mean(X**2, axis=1, keepdims=True))
    W = jnp.sqrt(variance / FEATURES) * jax.random.normal(weight_key, (FEATURES, width))
    slopes = SLOPES[activation](X @ W + offset * jnp.sqrt(variance))
    return Observables(jnp.mean(slopes**2), jnp.median(slopes[:SORTED]))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The law for the mean, the slope of the median unit, and the ratios of what was measured to both."""
    cells = xr.zeros_like(dataset.diverged.isel(seed=0, drop=True), dtype=float)
    law = lift(mean_square_law, dataset.activation, dataset.variance) + cells
    typical = lift(median_slope, dataset.activation, dataset.variance) + cells
    return dataset.assign(
        law=law,
        typical=typical,
        ratio=dataset.mean_square / law,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The law of the mean, its exponent for each kind of tail, and the medians."""
    large = select(dataset, variance=lambda q: q >= LARGE)
    found = [
        Finding.of(
            f"mean squared slope over ∫φ'²/√(2πq), mean of activations and of q from {LARGE:g}",
            (0.99, 1.01),
            over_seeds(per_seed(large.ratio, "mean")),
        )
    ]
    tails = {"exponential tails": ("tanh", "sigmoid", "erf"), "polynomial tails": ("softsign",)}
    for name, members in tails.items():
        runs = select(large, activation=members)
        if runs.diverged.size and np.unique(runs.variance).size > 1:
            rows = table(runs, "mean_square", "activation", "variance")
            exponent = slope(np.log(rows.variance.values), np.log(rows.values)).mean(axis=1)
            # The law's own relative error at q is at most 1/(2q): 0.005 at 100, over ln 10 and more.
            what = f"{name}: exponent of q in the mean squared slope, q from {LARGE:g}"
            found.append(Finding.of(what, (-0.51, -0.49), over_seeds(exponent)))
    for name, root in (("tanh", 2 * MEDIAN), ("sigmoid", MEDIAN)):
        runs = select(large, activation=name)
        if runs.diverged.size and np.unique(runs.variance).size > 1:
            rows = table(runs, "median_unit", "variance")
            fall = -slope(np.sqrt(rows.variance.values), np.log(rows.values))
            what = f"{name}: fall of the logarithm of the median slope with √q, over {root:.4f}"
            found.append(Finding.of(what, (0.99, 1.01), over_seeds(fall / root)))
    soft = select(large, activation="softsign")
    if soft.diverged.size:
        ratio = per_seed(soft["median_unit"] / soft.typical, "mean")
        found.append(Finding.of("softsign: median slope over 1/(1 + 0.6745 √q)²", (0.99, 1.01), over_seeds(ratio)))
    hard = select(large, activation="tanh")
    if soft.diverged.size and hard.diverged.size:
        first = float(large.variance.min())
        medians, means = (
            per_seed(select(soft, variance=first)[name], "mean") / per_seed(select(hard, variance=first)[name], "mean")
            for name in ("median_unit", "mean_square")
        )
        expected = median_slope("softsign", first) / median_slope("tanh", first)
        what = f"softsign over tanh at q = {first:g}: median slope, in units of {expected:.0f}"
        found.append(Finding.of(what, (0.9, 1.1), over_seeds(medians / expected)))
        what = f"softsign over tanh at q = {first:g}: mean squared slope (1/2 in the law)"
        found.append(Finding.of(what, (0.49, 0.51), over_seeds(means)))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """The mean squared slope and the median slope against q, with the laws."""
    figure, axes = plots.figure(1, 3, "Who carries the gradient through a saturated layer?", (4.4, 3.8))
    means, medians, ratios = axes[0]
    for number, name in enumerate(SLOPES):
        runs = select(dataset, activation=name)
        if not runs.diverged.size:
            continue
        q = np.unique(runs.variance.values)
        fine, style = np.geomspace(q[0], q[-1], 60), {"color": f"C{number}", "markersize": 4}
        for panel, variable in ((means, "mean_square"), (medians, "median_unit"), (ratios, "ratio")):
            seen = table(runs, variable, "variance")
            plots.points(panel, seen.variance, seen, name, **style)
        plots.theory(means, fine, [mean_square_law(name, each) for each in fine], None if number else "∫φ'²/√(2πq)")
        plots.theory(medians, fine, [median_slope(name, each) for each in fine], None if number else "φ'(0.6745 √q)")
    ratios.axhline(1.0, color="black", linestyle="--", linewidth=1.2, label="law")
    means.set(
        title="a  the mean: q^(−1/2) for all", xscale="log", yscale="log", xlabel="q", ylabel="mean squared slope"
    )
    medians.set(title="b  the typical unit: tails decide", xscale="log", yscale="log", ylim=(1e-30, 2))
    medians.set(xlabel="q", ylabel="median slope")
    ratios.set(title="c  the mean over its law", xscale="log", ylim=(0, 1.1))
    ratios.set(xlabel="variance q of pre-activations", ylabel="mean squared slope / law")
    for each in axes.flat:
        plots.legend(each, loc="lower left" if each is not ratios else "lower right")
    return figure


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, "variance": (1.0, 3.0, 10.0, 30.0, 100.0, 200.0, 400.0, 1000.0), "activation": tuple(SLOPES)},
    smoke={"seeds": 3, "variance": (100.0, 400.0), "activation": ("tanh", "softsign")},
    paper={"seeds": 32, "inputs": 1000, "variance": tuple(np.geomspace(1.0, 10_000.0, 17).tolist())},
    control={"offset": 3.0},
)
