"""Tanh networks can have Jacobians whose singular values all are about 1, but only with orthogonal weights.

Claim: At the edge of chaos the squared singular values of the Jacobian of L layers have mean 1, and a variance of
L(μ₂/μ₁² - 1) for orthogonal weights and L·μ₂/μ₁² for Gaussian ones, μ_k = E φ'^(2k) at the fixed point q*. Orthogonal
linear networks are isometries, and orthogonal tanh ones as nearly as one likes for small q*; ReLU networks (variance L
and 2L) and all Gaussian ones are not, at any depth. The largest singular value of a linear Gaussian network is
√((L + 1)^(L + 1)/L^L).

Source: Pennington, Schoenholz & Ganguli 2017, "Resurrecting the sigmoid in deep learning through dynamical isometry",
arXiv 1711.04735; of linear networks: Saxe, McClelland & Ganguli 2014, arXiv 1312.6120.

Departure: Width 200 and 32 layers, four networks a seed. Theory is taken at the width of the runs, where products of
Gaussian matrices have heavy tails: E tr (JJᵀ)²/N over E (tr JJᵀ/N)², both means over all networks. The abstract's
"sigmoidal networks can achieve isometry" is of tanh and its like; the logistic sigmoid with centred weights cannot, as
its critical point lies deep in saturation.

Bands: Theory takes q* for the variance of every layer and slopes for independent of weights; a layer of N units is off
by O(1/N) in both, relative to a 1 - f' of about 2q* (f' the slope of the map of variances), and the spread of tanh is
quadratic in q*: 10 % for orthogonal weights. The trace of a Gaussian product has a relative variance of about
L/N a network, which networks of one seed and the seeds average: 25 %. So has, for slopes of either 0 or 1, that of
orthogonal ReLU networks. The mean itself: for small q*, Gaussian layers make q vary by
2q*²/N, which adds up to q*/(2N), and f'' = -4 takes it down by 1/(2N), so that E φ'², 1 - 2q, is up by 1/N a layer:
L/N is allowed, and three standard errors, √(L/N) over the root of the number of networks. That a Gaussian product's
largest singular value is below its limit, 0.73, 0.85 and 0.89 of it at N = 100, 200 and 400 (NumPy, 32 layers), is a
bias of the width, not chance, for which the 25 % have room at 200.
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
from research.models import critical, orthogonal_factor
from research.oracles.isometry import jacobian_spread, largest_singular_value
from research.statistics import Estimate, every_seed, over_seeds, slope

FUNCTIONS = {"linear": lambda u: u, "relu": jax.nn.relu, "tanh": jnp.tanh}
ORTHOGONAL, GAUSSIAN = 0.1, 0.25  # relative, allowed distances


class Observables(NamedTuple):
    mean_square: Float[Array, "layer"]
    squared_mean: Float[Array, "layer"]
    fourth: Float[Array, "layer"]
    singular_values: Float[Array, "mode"]


def simulate(
    key: Array,
    q: float,
    start: float = 1.0,
    *,
    activation: str = "tanh",
    orthogonal: bool = True,
    width: int = 200,
    depth: int = 32,
    draws: int = 4,
) -> Observables:
    """The Jacobian at one input of `draws` networks at the edge of chaos with fixed point q, layer by layer.

    Of A = JJᵀ: tr A/N, its square, and tr A²/N, means over the draws; the last layer's singular values are those of the
    first. The input has the variance that belongs to q, times `start`.
    """
    function = FUNCTIONS[activation]
    edge = critical(function, q)
    # The whole is one draw, which compiles faster than several.
    drawn = jax.random.normal(key, (draws, depth * width + depth + 1, width))
    weights = drawn[:, : depth * width].reshape(draws, depth, width, width)
    weights = orthogonal_factor(weights) if orthogonal else weights / width**0.5
    biases = jnp.sqrt(edge.bias_variance) * drawn[:, depth * width : -1]
    inputs = jnp.sqrt(start * edge.output) * drawn[:, -1]

    def layer(carry: tuple, given: tuple) -> tuple:
        outputs, jacobian = carry
        W, b = given
        sums = jnp.sqrt(edge.weight_variance) * jnp.einsum("dmn,dn->dm", W, outputs) + b
        outputs, slopes = jax.jvp(function, (sums,), (jnp.ones_like(sums),))
        jacobian = jnp.sqrt(edge.weight_variance) * slopes[:, :, None] * (W @ jacobian)
        gram = jacobian @ jacobian.swapaxes(1, 2)
        mean = jnp.mean(jnp.sum(jacobian**2, axis=2), axis=1)
        seen = jnp.mean(mean), jnp.mean(mean**2), jnp.sum(gram**2) / (draws * width)
        return (outputs, jacobian), seen

    identity = jnp.tile(jnp.eye(width, dtype=inputs.dtype), (draws, 1, 1))
    given = weights.swapaxes(0, 1), biases.swapaxes(0, 1)
    seen: tuple[Array, ...]
    (_, jacobian), seen = jax.lax.scan(layer, (inputs, identity), given)
    return Observables(seen[0], seen[1], seen[2], jnp.linalg.svd(jacobian[0], compute_uv=False))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The spread of the squared singular values in theory and measured, and the largest singular value of a product."""
    depth = dataset.sizes["layer"]
    dataset = dataset.assign_coords(layer=np.arange(1, depth + 1), mode=np.arange(1, dataset.sizes["mode"] + 1))
    network = dataset.activation, dataset.q, dataset.width, dataset.orthogonal
    expected = lift(jacobian_spread, *network, layers=depth)
    wide = lift(jacobian_spread, dataset.activation, dataset.q, np.inf, dataset.orthogonal, layers=depth)
    square = dataset.squared_mean.mean("seed")
    # One number a seed whose mean is the ratio of the means, less 1, over theory's.
    off = (dataset.fourth - (1 + expected) * dataset.squared_mean) / square
    return dataset.assign(
        expected=expected,
        wide=wide,
        spread=dataset.fourth.mean("seed") / square - 1,
        relative=1 + (off / expected.where(expected > 0)).isel(layer=-1),
        largest=dataset.singular_values.isel(mode=0) / (dataset.singular_values**2).mean("mode") ** 0.5,
        expected_largest=lift(largest_singular_value, dataset.depth),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The variance of squared singular values for each activation and kind of weights, what q* does to it; the mean."""
    found, depth = [], dataset.sizes["layer"]

    def add(statement: str, band: tuple[float, float], estimate: Estimate) -> None:
        found.append(Finding.of(statement, band, estimate))

    for name, orthogonal in product(("tanh", "relu", "linear"), (True, False)):
        runs = select(dataset, activation=name, orthogonal=orthogonal)
        if not runs.diverged.size:
            continue
        network, spread = f"{'orthogonal' if orthogonal else 'Gaussian'} {name}", "variance of squared singular values"
        if orthogonal and name == "linear":
            most = abs(runs.fourth / runs.squared_mean - 1).max("layer", skipna=False)
            add(f"{network}: {spread}, largest of layers (an isometry)", (0.0, 1e-5), every_seed(per_seed(most)))
            continue
        allowed = ORTHOGONAL if orthogonal and name == "tanh" else GAUSSIAN
        theory = " to ".join(f"{each:.3g}" for each in np.unique(runs.expected.isel(layer=-1))[[0, -1]])
        what = f"{spread} after {depth} layers over theory's ({theory}), mean of q*"
        add(f"{network}: {what}", (1 - allowed, 1 + allowed), over_seeds(per_seed(runs.relative, "mean")))
        if name == "tanh":
            values = table(runs.assign(measured=runs.relative * runs.expected.isel(layer=-1)), "measured", "q")
            powers = slope(np.log(values.q), np.log(values.where(values > 0)))
            if orthogonal and values.q.size > 1:
                # φ'² is 1 - 2u² for small u, of variance 8q².
                wide = table(runs.assign(wide=runs.wide.isel(layer=-1) + 0 * runs.relative), "wide", "q").mean("seed")
                power = float(slope(np.log(wide.q), np.log(wide)))
                what = f"power of q* with which it vanishes (theory {power:.2f}, to 2 for small q*)"
                add(f"{network}: {what}", (power - ORTHOGONAL, power + ORTHOGONAL), over_seeds(powers))
            elif not orthogonal:
                least = values.min("q") / depth
                add(f"{network}: {spread} a layer, least of q*", (1 - GAUSSIAN, np.inf), over_seeds(least))
        elif name == "linear":
            most = runs.largest / runs.expected_largest
            what = f"largest singular value over root mean square, over √((L + 1)^(L + 1)/L^L), L = {depth}"
            add(f"{network}: {what}", (1 - GAUSSIAN, 1 + GAUSSIAN), over_seeds(per_seed(most, "mean")))
    for name, orthogonal in product(("tanh", "relu", "linear"), (True, False)):
        runs = select(dataset, activation=name, orthogonal=orthogonal)
        if not runs.diverged.size:
            continue
        means = table(runs.isel(layer=-1), "mean_square", "q")
        allowed = 1e-5 if orthogonal and name == "linear" else _allowed(runs)
        far = int(np.argmax(abs(means.mean("seed") - 1).values))
        q = f", at q* = {float(means.q[far]):g}, the farthest from 1" if means.q.size > 1 else ""
        network = f"{'orthogonal' if orthogonal else 'Gaussian'} {name}"
        what = f"{network}: mean of squared singular values after {depth} layers{q}"
        add(what, (1 - allowed, 1 + allowed), over_seeds(means.isel(q=far)))
    return found


def _allowed(runs: xr.Dataset) -> float:
    """How far the mean of squared singular values over all networks may be from 1."""
    share, networks = runs.sizes["layer"] / int(runs.width.min()), runs.sizes["seed"] * int(runs.draws.min())
    return float(share + 3 * (share / networks) ** 0.5)


def draw(dataset: xr.Dataset) -> plots.Figure:
    """The variance against depth, against q*, and all singular values of the deepest networks."""
    figure, axes = plots.figure(1, 3, "Dynamical isometry: tanh with orthogonal weights at small q*", (4.6, 4.2))
    by_depth, by_level, spectra = axes[0]
    shown, colours = 0, {"linear": "C2", "relu": "C1", "tanh": "C0"}
    for name, orthogonal in product(colours, (True, False)):
        runs = select(dataset, activation=name, orthogonal=orthogonal)
        levels = np.unique(runs.q.values).tolist() if runs.diverged.size else []
        for place, q in enumerate(levels):
            cell = select(runs, q=q)
            line = "-" if orthogonal else "--"
            level = f", q* = {q:g}" if name == "tanh" else ""
            label = f"{'orthogonal' if orthogonal else 'Gaussian'} {name}{level}"
            style: dict = {"color": colours[name], "linestyle": line, "alpha": 1 - 0.75 * place / max(1, len(levels))}
            values = averaged(cell.singular_values, "seed", "mode")
            share = values.assign_coords(mode=(values.mode - 0.5) / values.sizes["mode"])
            spectra.plot(share.mode, share.median("seed"), label=label, **style)
            if orthogonal and name == "linear":
                continue
            curve = averaged(cell.spread, "layer")
            by_depth.plot(curve.layer, curve, **style)
            theory = averaged(cell.expected, "layer")
            plots.theory(by_depth, theory.layer, theory, None if shown else "theory", linestyle=":")
            shown += 1
        if name == "tanh" and levels:
            spread = (runs.relative * runs.expected.isel(layer=-1)).broadcast_like(runs.relative)
            label = f"{'orthogonal' if orthogonal else 'Gaussian'} weights, a seed"
            plots.points(by_level, runs.q, spread, label, color="C0" if orthogonal else "C3")
            finer = np.geomspace(levels[0] / 1.5, 1.5 * levels[-1], 30)
            width, depth = int(runs.width.min()), dataset.sizes["layer"]
            expected = [jacobian_spread("tanh", q, width, orthogonal, depth)[-1] for q in finer]
            plots.theory(by_level, finer, expected, "theory" if orthogonal else None)
    by_depth.set(title="a  how unequal singular values become", xlabel="layers", xscale="log", yscale="log")
    by_depth.set(ylabel="variance of squared singular values, over mean²")
    by_level.set(title="b  tanh: a matter of q*", xlabel="q*", xscale="log", yscale="log")
    by_level.set_ylabel(f"the same, after {dataset.sizes['layer']} layers")
    plots.theory(spectra, (0, 1), (1, 1), "isometry")
    spectra.set(title="c  all singular values", xlabel="rank, over the width", ylabel="singular value", yscale="log")
    spectra.set_ylim(1e-4, 30)
    for each in (by_depth, by_level):
        plots.legend(each)
    if shown:
        figure.legend(*spectra.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


NAMES = ("activation", "orthogonal", "q")
LEVELS = (0.05, 0.2, 0.8)
NETWORKS = [
    *product(("tanh",), (True, False), LEVELS),
    *product(("relu",), (True, False), (1.0,)),
    *product(("linear",), (True, False), (1.0,)),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 16, NAMES: NETWORKS},
    smoke={"seeds": 4, NAMES: [("tanh", True, 0.05), ("tanh", True, 0.2)], "width": 100, "depth": 16},
    paper={"seeds": 20, NAMES: NETWORKS, "width": 400, "depth": 200},
    control={"start": 16.0},
    precision="float32",
)
