"""Dropout of the hidden units of a linear network shrinks singular values by a threshold, and makes all units equal.

Claim: The mean over the masks of the loss 1/2 ‖M − U diag(m/q) Vᵀ‖², q the probability to keep a hidden unit, is 1/2 ‖M
− UVᵀ‖² + (1 − q)/2q Σ ‖u_i‖²‖v_i‖², which is least where the r units are equalised, ‖u_i‖‖v_i‖ the same for all. It is
then the squared nuclear norm, (1 − q)/2qr ‖W‖_*², of W = UVᵀ: its singular values are max(s − κ, 0), where the
threshold κ = (1 − q)/qr · Σ max(s − κ, 0) falls with the number r of units.

Source: Mianjy, Arora & Vidal 2018, arXiv 1806.09777 (equalised units), and Cavazza, Morerio, Haeffele, Lane, Murino &
Vidal 2018, AISTATS (the squared nuclear norm); derived in research/oracles/dropout.py.

Departure: The inputs are white, so that the loss is that of a factorisation of the map M, and a mask is drawn for all
samples at once: in the mean only each sample's own counts. M is diagonal, its singular values one in each of equal
strata; descent does not see a rotation, and Gaussian layers are as likely as rotated ones. The rate falls linearly to
zero, and what is left of the masks' noise then is judged against the distance to the nearest rival; descent on the mean
loss itself (`exact` 1) has none, but a mode next to the threshold moves as slowly as e^(−|s − κ|ηt). Equalised are
the products ‖u_i‖‖v_i‖: the mean loss does not see a factor that moves from u_i to v_i. Other side: one coin for all
units at once (`common` 1) is ridge, s → q s, whatever their number.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import check_at_most, lift, norm, per_seed, select, sound, table
from research.oracles.dropout import dropout_singular_values
from research.statistics import every_seed, over_seeds

LARGEST = 2.0  # singular value of M
CLOSE = 1e-6  # of the relative distance without noise
NEARER = 0.1  # of the distance to the nearest rival is as much as the masks' noise may leave
SURVIVES = 1e-3  # the least singular value that counts


class Observables(NamedTuple):
    product: Float[Array, "mode"]
    across: Float[Array, ""]
    units: Float[Array, "unit"]


class Given(NamedTuple):
    target: Float[Array, "mode"]


def simulate(
    key: Array,
    learning_rate: float,
    keep: float,
    width: float,
    exact: float = 0.0,
    common: float = 0.0,
    *,
    modes: int = 5,
    largest_width: int = 16,
    masks: int = 8,
    steps: int = 10_000,
) -> Run:
    """One descent on the mean over `masks` masks of 1/2 ‖M − U diag(m/q) Vᵀ‖², fresh ones each step, or over all.

    `keep` is q, in steps of 1/256; `width` the number of units that there are, of at most `largest_width`. U and V
    start as N(0, 1/4). `product` is the diagonal of UVᵀ, `across` the norm of the rest, `units` are ‖u_i‖‖v_i‖ (0 where
    there is no unit).
    """
    target_key, init_key, mask_key = jax.random.split(key, 3)
    target = LARGEST * (jnp.arange(modes)[::-1] + jax.random.uniform(target_key, (modes,))) / modes
    there = jnp.arange(largest_width) < width
    layers = tuple(jax.random.normal(init_key, (2, modes, largest_width)) / 2 * there[None, None, :])
    kept = jnp.round(256 * keep) / 256

    def sample(key: Array) -> Array:
        drawn = jax.random.bits(key, (masks, largest_width), jnp.uint8) < 256 * kept
        return jnp.where(common == 1, drawn[:, :1], drawn) / kept

    def loss(layers: tuple[Array, Array], mask: Array) -> Array:
        U, V = layers
        noisy = jnp.mean(jnp.sum(((U[None] * mask[:, None]) @ V.T - jnp.diag(target)[None]) ** 2, axis=(1, 2))) / 2
        W = U @ V.T
        spread = jnp.where(common == 1, jnp.sum(W**2), jnp.sum(jnp.sum(U**2, axis=0) * jnp.sum(V**2, axis=0)))
        mean = jnp.sum((W - jnp.diag(target)) ** 2) / 2 + (1 - kept) / kept / 2 * spread
        return jnp.where(exact == 1, mean, noisy)

    def observe(state: tuple) -> Observables:
        U, V = state[0]
        W = U @ V.T
        units = jnp.linalg.norm(U, axis=0) * jnp.linalg.norm(V, axis=0)
        return Observables(jnp.diag(W), jnp.linalg.norm(W - jnp.diag(jnp.diag(W))), units)

    optimizer = optax.sgd(optax.linear_schedule(learning_rate, 0.0, steps))
    step = stochastic_descent(loss, optimizer, sample)
    return Run(start(layers, optimizer, mask_key), step, observe, log_spaced(steps, 25), Given(target))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The singular values that theory has, and how far those of the run, and its units, are from it."""
    check_at_most(dataset, "width", "largest_width")
    dataset = sound(dataset)
    target, keep = dataset.target, np.round(256 * dataset.keep) / 256
    sizes, shrunk = lift(dropout_singular_values, target, keep, dataset.width), keep * target
    away = lambda values: (norm(dataset["product"] - values, "mode") ** 2 + dataset.across**2) ** 0.5
    rivals = [norm(sizes - rival, "mode") for rival in (target, shrunk)]
    end, units = dataset.sel(step=dataset.steps), dataset.units.where(dataset.units > 0)
    kappa = (1 - keep) / keep / dataset.width * sizes.sum("mode", skipna=False)
    distance = away(sizes) / norm(sizes, "mode")
    measured = (target - end["product"]).where(sizes > 0).mean("mode")
    return dataset.assign(
        thresholded=sizes,
        distance=distance,
        from_ridge=(away(shrunk) / norm(shrunk, "mode")).sel(step=dataset.steps),
        nearness=(away(sizes) / xr.concat(rivals, "rival").min("rival")).sel(step=dataset.steps),
        # a mode at s < κ falls as e^(−(κ − s)τ) in both layers, τ being the sum of the rates, half of ηt
        slowest=abs(target - kappa).min("mode"),
        unequal=units.max("unit") / units.min("unit") - 1,
        threshold=kappa,
        measured=measured,
        wrong_rank=abs((end["product"] > SURVIVES).sum("mode") - (sizes > 0).sum("mode")).where(
            sizes.notnull().all("mode")
        ),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The threshold with noise and without, the rank, equal units, width, and one coin for all."""
    found: list[Finding] = []

    def add(what: str, band: tuple[float, float], values: str, later: str = "", **chosen: object) -> None:
        runs = select(dataset, **chosen)
        if runs.diverged.size:
            judged = runs[values].isel(step=-1) if "step" in runs[values].dims else runs[values]
            estimate = every_seed(per_seed(judged, "min" if np.isinf(band[1]) else "max"))
            found.append(Finding.of(what, band, estimate, later))

    coin = float(np.atleast_1d(dataset.common.values)[0])
    mean: dict[str, Any] = {"exact": 1.0, "common": coin}
    noisy: dict[str, Any] = {"exact": 0.0, "common": coin}
    runs, later = select(dataset, **mean), ""
    end, before = (runs.distance.isel(step=place) for place in (-1, -6))
    late = end > CLOSE
    if late.any() and (end < before / 2).where(late, True).all():
        steps = runs.steps + np.log(end / CLOSE) / (runs.slowest * runs.learning_rate)
        later = f"the mode nearest to the threshold is there with {float(steps.max()):.1g} steps (slowest run)"
    add("mean loss: relative distance of W to the thresholded M, worst", (0.0, CLOSE), "distance", later, **mean)
    add("mean loss: modes alive, more or fewer than theory has, worst", (0.0, 0.0), "wrong_rank", **mean)
    add("mean loss: largest over smallest ‖u_i‖‖v_i‖, less one, worst", (0.0, 1e-3), "unequal", **mean)
    what = "masks: distance of W to the thresholded M over that to the nearer of M and q M, worst"
    add(what, (0.0, NEARER), "nearness", **noisy)
    runs = select(dataset, **noisy)
    if runs.diverged.size:
        ratio = per_seed(runs.measured / runs.threshold, "mean")
        what = "masks: mean of s minus the singular value of W, of those that survive, over κ, mean over runs"
        found.append(Finding.of(what, (0.95, 1.05), over_seeds(ratio)))
    if coin == 0:
        add(
            "one coin for all units: relative distance of W to ridge, q M, worst",
            (0.0, CLOSE),
            "from_ridge",
            common=1.0,
        )
        what = "one coin for all units: relative distance of W to the thresholded M, least"
        add(what, (NEARER, np.inf), "distance", common=1.0)
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) thresholded singular values, (b) the threshold against the width, (c) units become equal, (d) the way."""
    figure, panels = plots.figure(2, 2, "Dropout of hidden units is a squared nuclear norm")
    shrinkage, widths, units, ways = panels.ravel()
    usual = select(dataset, common=0.0, exact=0.0)
    keeps = np.unique(dataset.keep.values).tolist()
    for number, keep in enumerate(keeps):
        runs, style = select(usual, keep=keep), {"color": f"C{number}"}
        if not runs.diverged.size:
            continue
        fastest = select(runs, learning_rate=float(runs.learning_rate.max()))
        narrow = select(fastest, width=float(fastest.width.min()))
        one = narrow.isel(seed=0, step=-1).squeeze()
        plots.points(shrinkage, one.target, one["product"], f"q = {keep:g}", alpha=1.0, markersize=5, **style)
        line = xr.DataArray(np.linspace(0.0, LARGEST, 200), dims="s")
        threshold = float((one.target - one.thresholded).where(one.thresholded > 0).mean())
        plots.theory(shrinkage, line, np.maximum(line - threshold, 0), None if number else "max(s − κ, 0)")
        curve = table(fastest, "measured", "width")
        if curve.sizes["width"] > 1:
            plots.seeds(widths, curve, f"q = {keep:g}", marker="o", markersize=3, **style)
            plots.theory(
                widths, curve.width, table(fastest, "threshold", "width").median("seed"), None if number else "κ"
            )
        flat = {each: 0 for each in narrow.distance.dims if each not in ("seed", "step")}
        plots.seeds(ways, narrow.distance.isel(flat).sel(step=narrow.step > 0), f"q = {keep:g}", **style)
        mean = select(dataset, keep=keep, exact=1.0, common=0.0)
        if mean.diverged.size:
            flat = {each: 0 for each in mean.distance.dims if each not in ("seed", "step")}
            after = mean.isel(flat).sel(step=mean.step > 0)
            plots.seeds(ways, after.distance.clip(1e-17), f"q = {keep:g}, mean loss", linestyle=":", **style)
            plots.seeds(units, after.unequal.clip(1e-17), f"q = {keep:g}, mean loss", **style)
    coins = select(dataset, common=1.0, exact=0.0)
    if coins.diverged.size:
        one = coins.isel(step=-1).isel(dict.fromkeys(coins.diverged.dims, 0))
        plots.points(shrinkage, one.target, one["product"], "one coin for all", color="C4", alpha=1.0, marker="s")
        plots.theory(shrinkage, (0, LARGEST), (0, LARGEST * float(one.keep)), "q s", linestyle=":")
    plots.theory(ways, ways.get_xlim(), (CLOSE, CLOSE), "tolerance without noise")
    plots.theory(units, units.get_xlim(), (1e-3, 1e-3), "tolerance of the claim")
    shrinkage.set(title="a  fewest units, one seed", xlabel="singular value s of M", ylabel="singular value of W")
    widths.set(title="b  more units, less shrinkage", xlabel="number of units r", ylabel="threshold κ")
    units.set(title="c  units become equal", xscale="log", yscale="log", xlabel="step")
    units.set_ylabel("largest / smallest ‖u_i‖‖v_i‖ − 1")
    ways.set(title="d  distance to the thresholded M", xscale="log", yscale="log", xlabel="step")
    ways.set_ylabel("relative distance of W")
    for axes in panels.ravel():
        plots.legend(axes)
    return figure


AXES = ("keep", "width", "learning_rate", "exact", "common")
ARMS = [
    *((keep, width, rate, 0.0, 0.0) for keep in (0.5, 0.75) for width in (5.0, 8.0, 16.0) for rate in (0.05, 0.1)),
    *((keep, width, 0.1, 1.0, 0.0) for keep in (0.5, 0.75) for width in (5.0, 16.0)),
    *((0.5, 16.0, 0.05, exact, 1.0) for exact in (0.0, 1.0)),
]
SMALL = [ARMS[0], ARMS[4], (0.5, 5.0, 0.25, 1.0, 0.0), ARMS[-1]]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, AXES: SMALL, "steps": 4000},
    paper={"seeds": 64, "modes": 20, "largest_width": 64, "steps": 100_000},
    control={"common": 1.0},
)
