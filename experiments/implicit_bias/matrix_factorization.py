"""Depth and a small start make matrix factorisation find low rank where the nuclear norm does not.

Claim: Gradient descent on an over-parametrised product W = W_L … W_1, fitted to a few entries of a low-rank matrix,
finds a completion of lower effective rank, and nearer to the planted matrix, than the one of least nuclear norm; depth
and a small initialisation lower the rank, and a large initialisation destroys the effect. Without depth nothing couples
the entries: what is not observed stays as it was.

Source: Arora, Cohen, Hu & Luo 2019, arXiv 1905.13655, section 2 and figure 2; Gunasekar, Woodworth, Bhojanapalli,
Neyshabur & Srebro 2017, arXiv 1705.09280, for the conjecture on the nuclear norm that it contradicts.

Departure: Arora et al. complete 100 × 100 matrices of rank 5 from 2000 entries with up to 10⁶ steps of an adaptive
method, one start; here 16 × 16 of rank 2 from 123 (the same 2.05 entries for each degree of freedom) by plain gradient
descent, over seeds and starts; the paper design has their size. The factors are Gaussian and scaled so that the product
has about the same spectral norm `init_scale` at every depth. The paper states orderings, without a rate or a constant,
so the bands are orderings. The "breast_cancer" matrix is real: the best approximation of that rank to 16 random
measurements of 16 random patients, standardised.
"""

import itertools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.data import breast_cancer, low_rank_matrix, observed_mask, standardized
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import arms, lift, per_seed, select, table
from research.models import matrix_product
from research.observables.matrices import effective_rank
from research.oracles.low_rank import effective_rank as exact_effective_rank
from research.oracles.low_rank import minimum_nuclear_norm
from research.statistics import every_seed, over_seeds

Data = Literal["planted", "breast_cancer"]
FITTED = 1e-2  # relative misfit on the observed entries below which a product is judged


class Observables(NamedTuple):
    product: Float[Array, "row column"]
    singular_values: Float[Array, "mode"]
    effective_rank: Float[Array, ""]
    error: Float[Array, ""]
    misfit: Float[Array, ""]


class Given(NamedTuple):
    planted: Float[Array, "row column"]
    mask: Float[Array, "row column"]


def low_rank(key: Array, data: Data, size: int, rank: int) -> Float[Array, "row column"]:
    """A square matrix of that rank: of equal singular values, 1, or real ones, of which the largest is 1."""
    if data == "planted":
        return low_rank_matrix(key, size, size, rank) * rank**0.5
    row_key, column_key = jax.random.split(key)
    table = jnp.asarray(standardized(breast_cancer().inputs))
    rows, columns = (
        jax.random.choice(each, count, (size,), replace=False)
        for each, count in zip((row_key, column_key), table.shape, strict=True)
    )
    left, values, right = jnp.linalg.svd(table[rows][:, columns])
    return (left[:, :rank] * values[:rank] / values[0]) @ right[:rank]


def simulate(
    key: Array,
    learning_rate: float,
    init_scale: float,
    *,
    data: Data = "planted",
    depth: int = 3,
    size: int = 16,
    planted_rank: int = 2,
    observed: int = 123,
    steps: int = 20_000,
) -> Run:
    """One descent on half the sum of squared errors on `observed` entries of a planted matrix of spectral norm near 1.

    `learning_rate` is divided by the depth: near the solution the curvature grows in proportion to it. `error` and
    `misfit` are Frobenius norms relative to the planted matrix, on all entries and on the observed ones.
    """
    planted_key, mask_key, init_key = jax.random.split(key, 3)
    planted = low_rank(planted_key, data, size, planted_rank)
    mask = observed_mask(mask_key, size, size, observed).astype(planted.dtype)
    # a square Gaussian matrix of entries N(0, 1/n) has spectral norm near 2, and a product of them far less than 2^L
    factors = [
        (init_scale / 2) ** (1 / depth) * jax.random.normal(layer_key, (size, size)) / size**0.5
        for layer_key in jax.random.split(init_key, depth)
    ]
    optimizer = optax.sgd(learning_rate / depth)
    loss = lambda factors: jnp.sum(mask * (matrix_product(factors) - planted) ** 2) / 2

    def observe(state: tuple) -> Observables:
        W = matrix_product(state[0])
        singular_values = jnp.linalg.svd(W, compute_uv=False)
        relative = lambda difference: jnp.linalg.norm(difference) / jnp.linalg.norm(planted)
        return Observables(
            W, singular_values, effective_rank(singular_values), relative(W - planted), relative(mask * (W - planted))
        )

    return Run(
        start(factors, optimizer), descent(loss, optimizer), observe, log_spaced(steps, 60), Given(planted, mask)
    )


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The completion of least nuclear norm, how far it is from the planted matrix, and what moved unobserved.

    The completion is void where it does not fit, or has a larger nuclear norm than the planted matrix, which fits too:
    a poor completion would flatter the factorisation.
    """
    nuclear = lift(minimum_nuclear_norm, dataset.mask.astype(bool), dataset.planted * dataset.mask)
    frobenius = lambda matrix: np.sqrt((matrix**2).sum(["row", "column"], skipna=False))
    norms = [lift(_nuclear_norm, matrix) for matrix in (nuclear, dataset.planted)]
    fits = frobenius(dataset.mask * (nuclear - dataset.planted)) <= 1e-6 * frobenius(dataset.planted)
    nuclear = nuclear.where(fits & (norms[0] <= norms[1] * (1 + 1e-6)))
    hidden = 1 - dataset.mask
    change = (dataset.product.sel(step=dataset.steps) - dataset.product.isel(step=0)) * hidden
    return dataset.assign(
        nuclear_error=frobenius(nuclear - dataset.planted) / frobenius(dataset.planted),
        nuclear_rank=lift(exact_effective_rank, nuclear),
        planted_effective_rank=lift(exact_effective_rank, dataset.planted),
        hidden_change=frobenius(change) / frobenius(dataset.planted),
    )


def _nuclear_norm(matrix: Float[np.ndarray, "row column"]) -> float:
    return float(np.linalg.norm(matrix, "nuc"))


def findings(dataset: xr.Dataset) -> list[Finding]:
    """For each matrix: against the nuclear norm, with depth, with the initialisation, and without depth."""
    found = []
    for data in dict.fromkeys(np.atleast_1d(dataset.data.values).tolist()):
        prefix = "" if data == "planted" else f"{data}: ".replace("_", " ")
        found += [each._replace(statement=prefix + each.statement) for each in _settled(select(dataset, data=data))]
    return found


def _settled(dataset: xr.Dataset) -> list[Finding]:
    end = dataset.sel(step=dataset.steps)
    # A product that does not fit yet has a low rank for free; without depth nothing hinders the fit.
    end = end.where((end.misfit < FITTED) | (end.depth == 1))
    scales, depths = (np.unique(end[name].values).tolist() for name in ("init_scale", "depth"))
    at = lambda depth, scale: select(end, depth=depth, init_scale=scale)
    ratio = lambda runs: per_seed(np.log10(runs.error / runs.nuclear_error), "mean")
    rank = lambda depth, scale: per_seed(at(depth, scale).effective_rank, "mean")
    deep, small = at(depths[-1], scales[0]), scales[0]
    named = f"depth {depths[-1]}, init_scale {small:g}"
    found = [
        Finding.of(
            f"{named}: log10 of its error to the planted matrix over that of the least nuclear norm",
            (-np.inf, 0.0),
            over_seeds(ratio(deep)),
        ),
        Finding.of(
            f"{named}: its effective rank minus that of the least nuclear norm",
            (-np.inf, 0.0),
            over_seeds(per_seed(deep.effective_rank - deep.nuclear_rank, "mean")),
        ),
    ]
    found += [
        Finding.of(
            f"init_scale {small:g}: effective rank at depth {deeper} minus at depth {shallower}",
            (-np.inf, 0.0),
            over_seeds(rank(deeper, small) - rank(shallower, small)),
        )
        for shallower, deeper in itertools.pairwise(depths)
    ]
    if len(scales) > 1:
        found += [
            Finding.of(
                f"depth {depth}: least increase of the effective rank from one init_scale to the next larger",
                (0.0, np.inf),
                over_seeds(np.min([rank(depth, b) - rank(depth, a) for a, b in itertools.pairwise(scales)], axis=0)),
            )
            for depth in depths
            if depth > 1
        ]
        found.append(
            Finding.of(
                f"depth {depths[-1]}, init_scale {scales[-1]:g}: log10 of its error over the least nuclear norm's",
                (0.0, np.inf),
                over_seeds(ratio(at(depths[-1], scales[-1]))),
            )
        )
    if 1 in depths:
        found.append(
            Finding.of(
                "depth 1: change of the unobserved entries, relative to the planted matrix, the worst of a seed's runs",
                (0.0, 1e-12),
                every_seed(per_seed(select(end, depth=1).hidden_change)),
            )
        )
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Singular values against time at each depth; error and effective rank against the initialisation.

    Of other data there is the last panel; of any further axis the first value is drawn.
    """
    further = set(dataset.diverged.dims) - {"seed", *dataset.depth.dims, *dataset.data.dims, *dataset.init_scale.dims}
    whole = dataset.isel(dict.fromkeys(further, 0))
    dataset = select(whole, data=np.atleast_1d(whole.data.values)[0])
    depths, scales = (np.unique(dataset[name].values).tolist() for name in ("depth", "init_scale"))
    figure, axes = plots.figure(2, max(2, len(depths)), "Depth and a small start find low rank")
    first = {each: 0 for each in dataset.planted.dims if each not in ("row", "column")}
    planted = np.linalg.norm(dataset.planted.isel(first).values, ord=2)
    for place, depth in enumerate(depths):
        runs = select(dataset, depth=depth, init_scale=scales[0])
        panel = axes[0, place]
        shown = runs.singular_values.isel(mode=slice(0, 5))
        shown = shown.squeeze([dimension for dimension in shown.dims if dimension not in ("seed", "step", "mode")])
        for mode in range(shown.sizes["mode"]):
            plots.seeds(panel, shown.isel(mode=mode), label=f"σ{mode + 1}")
        plots.theory(panel, panel.get_xlim(), (planted, planted), "planted, each")
        panel.set(xscale="log", xlim=(1, int(dataset.step.max())), ylim=(-0.05 * planted, 1.25 * planted))
        panel.set(title=f"depth {depth}, init_scale {scales[0]:g}", xlabel="step", ylabel="singular value of W")
    plots.legend(axes[0, -1], loc="center left")
    end = dataset.sel(step=dataset.steps)
    nuclear = {"error": float(end.nuclear_error.median()), "effective_rank": float(end.nuclear_rank.median())}
    labels = {"error": "‖W − planted‖ / ‖planted‖", "effective_rank": "effective rank of W"}
    for panel, (name, label) in zip(axes[1], labels.items(), strict=False):
        for depth in depths:
            values = table(end, name, "depth", "init_scale").sel(depth=depth)
            plots.seeds(panel, values, label=f"depth {depth}", marker="o", markersize=3)
        plots.theory(panel, scales, [nuclear[name]] * len(scales), "least nuclear norm (median)")
        panel.set(xscale="log", yscale="log", xlabel="init_scale (spectral norm of W at the start)", ylabel=label)
        plots.legend(panel)
    rank = float(dataset.planted_effective_rank.median())
    plots.theory(axes[1, 1], scales, [rank] * len(scales), "planted", linestyle=":")
    plots.legend(axes[1, 1])
    spread = axes[1, -1] if len(depths) > 2 else None
    if spread is not None:
        for point, runs in arms(select(whole.sel(step=whole.steps), init_scale=scales[0])):
            style = {"color": f"C{depths.index(point['depth'])}", "marker": "ox"[point["data"] != "planted"]}
            label = f"depth {point['depth']}, {point['data']}".replace("_", " ")
            plots.points(spread, runs.nuclear_error, runs.error, label, markersize=4, alpha=1.0, **style)
        plots.theory(spread, spread.get_xlim(), spread.get_xlim(), "equal")
        spread.set(xscale="log", yscale="log", xlabel="error of the least nuclear norm")
        spread.set_ylabel("error of the factorisation")
        spread.set(title=f"each seed, init_scale {scales[0]:g}")
        plots.legend(spread)
    return figure


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={
        "seeds": 8,
        ("data", "depth"): [("planted", 1), ("planted", 2), ("planted", 3), ("breast_cancer", 2), ("breast_cancer", 3)],
        "init_scale": (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        "learning_rate": 0.6,
    },
    smoke={"seeds": 3, ("data", "depth"): [("planted", 1), ("planted", 3)], "init_scale": (1e-4, 1.0)},
    paper={
        "data": "planted",
        "depth": (1, 2, 3, 4),
        "size": 100,
        "planted_rank": 5,
        "observed": 2000,
        "steps": 200_000,
    },
    control={"init_scale": 1.0},
)
