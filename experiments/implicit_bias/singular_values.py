"""Depth makes large singular values grow faster than small ones, by an exact law.

Claim: Gradient flow on a product of L balanced factors moves each singular value of the product by
dσ_r/dt = −L σ_r^(2 − 2/L) ⟨∇, u_r v_rᵀ⟩, ∇ the gradient with respect to the product. Gradient descent obeys it up to
terms of the order of the learning rate. The factor σ^(2 − 2/L) holds small singular values back, the more the deeper.
Where the factors are not balanced at the start, the law does not hold, however small the learning rate.

Source: Arora, Cohen, Hu & Luo 2019, arXiv 1905.13655, Theorem 3 and figure 3; the flow of the whole product: Arora,
Cohen & Hazan 2018, arXiv 1802.06509, Theorem 1.

Departure: Arora et al. follow the ten largest singular values on MovieLens-100k (943 × 1682) from the identity, by
stochastic descent; here 10 × 10 matrices of rank 2, half of the entries observed, by full-batch descent from Gaussian
products, and every singular value is judged. A step of the run is `refinement` steps of a learning rate that is as many
times smaller, so that all runs are looked at at the same times.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.data import low_rank_matrix, observed_mask
from research.dynamics import Descent, Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select
from research.models import matrix_product
from research.oracles.factorization import flow_singular_values, singular_velocities
from research.statistics import every_seed, slope_within


class Observables(NamedTuple):
    product: Float[Array, "row column"]
    singular_values: Float[Array, "mode"]
    velocities: Float[Array, "mode"]


class Given(NamedTuple):
    planted: Float[Array, "row column"]
    mask: Float[Array, "row column"]


def simulate(
    key: Array,
    learning_rate: float,
    init_scale: float,
    refinement: float,
    imbalance: float,
    *,
    depth: int = 2,
    size: int = 10,
    planted_rank: int = 2,
    steps: int = 2_000,
) -> Run:
    """One descent on half the sum of squared errors on half the entries of a planted matrix of spectral norm near 1.

    The factors are the balanced roots of a Gaussian product of spectral norm near `init_scale`, to which `imbalance`
    adds that many times independent Gaussian factors of the same size. `velocities` are the derivatives of the singular
    values along the negative gradient of the factors, exact to rounding.
    """
    planted_key, mask_key, start_key, noise_key = jax.random.split(key, 4)
    planted = low_rank_matrix(planted_key, size, size, planted_rank) * planted_rank**0.5
    mask = observed_mask(mask_key, size, size, size**2 // 2).astype(planted.dtype)
    drawn = lambda key: jax.random.normal(key, (size, size)) / (2 * size**0.5)
    left, values, right = jnp.linalg.svd(init_scale * drawn(start_key))
    root = jnp.diag(values ** (1 / depth))
    factors = [root] * depth
    factors[0], factors[-1] = factors[0] @ right, left @ (factors[-1] if depth > 1 else factors[0] @ right)
    noise = imbalance * init_scale ** (1 / depth)
    factors = [W + noise * drawn(each) for W, each in zip(factors, jax.random.split(noise_key, depth), strict=True)]
    optimizer = optax.sgd(learning_rate / refinement)
    loss = lambda factors: jnp.sum(mask * (matrix_product(factors) - planted) ** 2) / 2
    fine = descent(loss, optimizer)

    def step(state: Descent) -> Descent:
        return jax.lax.fori_loop(0, jnp.rint(refinement).astype(int), lambda _, inner: fine(inner), state)

    def observe(state: Descent) -> Observables:
        downwards = jax.tree.map(jnp.negative, jax.grad(loss)(state.params))
        W, velocity = jax.jvp(matrix_product, (state.params,), (downwards,))
        U, values, V = jnp.linalg.svd(W, full_matrices=False)
        return Observables(W, values, jnp.einsum("ir,ij,rj->r", U, velocity, V))

    return Run(start(factors, optimizer), step, observe, log_spaced(steps, 30), Given(planted, mask))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The law's velocities from the product alone, the flow's singular values, and the distances to both."""
    gradient = dataset.mask * (dataset.product - dataset.planted)
    law = lift(singular_velocities, dataset.product, gradient, dataset.depth)
    time = dataset.learning_rate * dataset.step
    balanced = dataset.imbalance == 0
    initial = dataset.product.isel(step=0, drop=True).where(balanced, 0.0)
    flow = lift(flow_singular_values, initial, dataset.planted, dataset.mask, dataset.depth, time).where(balanced)
    farthest = lambda values: np.abs(values).max("mode", skipna=False)
    error = farthest(dataset.velocities - law) / farthest(dataset.velocities)
    off = farthest(dataset.singular_values - flow) / farthest(flow)
    rate, fine = dataset.learning_rate / dataset.refinement, "refinement"
    order = lambda worst: slope_within(np.log(rate), np.log(worst), worst.notnull(), fine).where(
        worst.notnull().all(fine)
    )
    worst, farther = error.max("step", skipna=False), off.max("step", skipna=False)
    several = dataset.refinement.ndim > 0
    return dataset.assign(
        law=law,
        flow=flow,
        time=time,
        rate=rate,
        error=error,
        worst=worst,
        off=farther,
        order=order(worst) if several else xr.full_like(worst, np.nan),
        flow_order=order(farther) if several else xr.full_like(worst, np.nan),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The order of the error in the learning rate: of the law, of the singular values; and without balance."""
    found: list[Finding] = []

    def add(what: str, band: tuple[float, float], runs: xr.Dataset, variable: str, *extremes: str) -> None:
        if runs.diverged.size and (variable == "worst" or runs.refinement.ndim):
            found.append(Finding.of(what, band, every_seed(per_seed(runs[variable], *extremes))))

    least = float(np.atleast_1d(dataset.imbalance.values).min())
    judged = select(dataset, imbalance=least)
    deep = select(judged, depth=lambda depth: depth > 1)
    # The imbalance that finite steps make is c η + O(η²), and 0.1 is the largest rate.
    error = "slope of ln(largest error of dσ/dt) on ln(learning rate), depth 2 and more, all runs of a seed"
    add(error, (0.9, 1.1), deep, "order", "min", "max")
    shallow = select(judged, depth=1)
    add("depth 1: largest error of dσ/dt, relative", (0.0, 1e-10), shallow, "worst", "max")
    if least == 0:
        flow = "slope of ln(largest distance of σ to the flow's) on ln(learning rate), all runs of a seed"
        add(flow, (0.9, 1.1), judged, "flow_order", "min", "max")
    unbalanced = select(dataset, imbalance=lambda value: value > least, depth=lambda depth: depth > 1)
    none = "not balanced at the start: slope of ln(largest error of dσ/dt) on ln(learning rate)"
    add(none, (-0.1, 0.1), unbalanced, "order", "min", "max")
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Singular values against time at each depth, with the flow in black; the error against the rate; the law.

    Of any further axis the first value is drawn.
    """
    kept = {"seed", *(str(each) for name in ("depth", "refinement", "imbalance") for each in dataset[name].dims)}
    dataset = dataset.isel({each: 0 for each in dataset.diverged.dims if each not in kept})
    depths = np.unique(dataset.depth.values).tolist()
    least, finest = (
        float(pick(np.atleast_1d(dataset[name]))) for pick, name in ((np.min, "imbalance"), (np.max, "refinement"))
    )
    figure, panels = plots.figure(2, max(3, len(depths)), "Depth lets large singular values run ahead of small ones")
    balanced = select(dataset, imbalance=least)
    for axes, depth in zip(panels[0], depths, strict=False):
        runs = select(balanced, depth=depth, refinement=finest)
        runs = runs.squeeze([each for each in runs.diverged.dims if each != "seed"])
        for mode in range(4):
            values = runs.singular_values.isel(mode=mode).assign_coords(step=runs.time.values)
            plots.seeds(axes, values.sel(step=values.step > 0), f"σ{mode + 1}")
            flow = runs.flow.isel(mode=mode).median("seed")
            plots.theory(axes, runs.time[1:], flow[1:], None if mode else "flow of the product (median)")
        axes.set(xscale="log", xlabel="time (learning rate × step)", ylabel="singular value of the product")
        axes.set_title(f"depth {depth}")
    plots.legend(panels[0, 0])
    errors, law, course = panels[1, :3]
    unbalanced = select(dataset, imbalance=lambda value: value > least)
    for number, depth in enumerate(depths):
        style = {"color": f"C{number}"}
        if depth > 1:
            runs = select(balanced, depth=depth)
            plots.points(errors, runs.rate, runs.worst, f"depth {depth}: dσ/dt", alpha=0.8, **style)
            plots.points(errors, runs.rate, runs.off, f"depth {depth}: σ", marker="x", alpha=0.8, **style)
        for kind, runs, line in (("", balanced, "-"), (", not balanced", unbalanced, ":")):
            shown = select(runs, depth=depth, refinement=finest)
            if shown.diverged.size and depth > 1:
                marker = {"marker": "x" if kind else "o", "markersize": 2.5}
                plots.points(
                    law, shown.law.clip(1e-9), shown.velocities.clip(1e-9), f"depth {depth}{kind}", **marker, **style
                )
                shown = shown.squeeze([each for each in shown.diverged.dims if each != "seed"])
                drawn = shown.error.assign_coords(step=shown.time.values).sel(step=slice(1e-9, None))
                plots.seeds(course, drawn, f"depth {depth}{kind}", linestyle=line, **style)
    rates = np.unique(dataset.rate.values)
    plots.theory(errors, rates, rates, "slope 1")
    plots.theory(law, (1e-9, 1), (1e-9, 1), "equal")
    errors.set(title="the law's error is of the order of the rate", xscale="log", yscale="log")
    errors.set(xlabel="learning rate", ylabel="largest relative error")
    law.set(title="every singular value, every time", xscale="log", yscale="log", xlim=(1e-9, 2), ylim=(1e-9, 2))
    law.set(xlabel="−L σ^(2 − 2/L) ⟨∇, u vᵀ⟩", ylabel="dσ/dt measured")
    course.set(title="without balance the law does not hold", xscale="log", yscale="log")
    course.set(xlabel="time (learning rate × step)", ylabel="relative error of dσ/dt")
    errors.set_xticks(rates, [f"{rate:.2g}" for rate in rates], minor=False)
    errors.set_xticks([], minor=True)
    for axes in (errors, law, course):
        plots.legend(axes, loc="lower right")
    return figure


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={
        "seeds": 8,
        "depth": (1, 2, 3),
        "learning_rate": 0.1,
        "refinement": (1.0, 2.0, 4.0, 8.0),
        "imbalance": (0.0, 1.0),
        "init_scale": 0.01,
    },
    smoke={"seeds": 2, "depth": 2, "refinement": (1.0, 4.0)},
    paper={"seeds": 16, "depth": (1, 2, 3, 4), "size": 100, "planted_rank": 5, "steps": 20_000, "init_scale": 1e-3},
    control={"imbalance": 1.0},
)
