"""Noisy activations: noise opens the flat of a hard tanh in time only where it is strong, a leak with α < 1 always.

Claim: A unit in the flat of a hard tanh has no gradient and never leaves. The noisy activation
φ = α h + (1 − α) u + d s ε, whose noise s grows with the distance from the flat's edge, gives it one, so that descent
leaves the flat.

Source: Gulcehre, Moczulski, Denil & Bengio 2016, "Noisy Activation Functions", arXiv 1603.00391, section 3; α = 1.15
and c = 0.5 are those of NTanhP in their code, which learns p and draws noise of both signs; here noise is half-normal,
as in the paper's algorithm. What follows for one unit is derived in `research.oracles.noisy_unit`.

Departure: One unit, x = 1 + v, with the squared error to the target 0 and a learning rate of 0.5, p = 1 fixed (the
paper learns it), no recurrent network. The claim holds conditionally. At α = 1 the noise is lost as fast as the
distance v: ln v takes a random walk that falls, by E ln|1 − c p² η ξ/8| a step. For small v a unit leaves by a single
ξ > 8/(c p² η), whose chance is the same at every step: every unit leaves in the end, after a mean time 1/P(ξ > 16/c)
that grows like exp(½(16/c)²): 5 steps at c = 20, 1455 at c = 5 (three quarters leave in the 2000 steps here, nearly
all in 10,000: "not yet"), 10¹⁵ at c = 2 and 10²²⁴ at c = 0.5, which is never. Far out (v = 8) noise has a flat of its
own, which takes time to cross. At α < 1 the leak (1 − α) u has a slope, and needs no noise, which delays it. At α > 1
that slope has the wrong sign: the unit goes further out, until φ has come down to the target there.

Bands: Shares of n independent units are within √(ln(2·cells/0.001)/(2n)) of the law at all steps of all cells, but for
one in a thousand (Massart 1990), and 0.005 for the law's own grid. For the random walk of ln v, a tenth: the expansion
to first order in v leaves out a drift −2 k² η v² a step, less than a tenth of the walk's −2 k² η² from v = 0.2 on.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from scipy.stats import norm

from research import plots
from research.dynamics import Descent, Run, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import averaged, lift, per_seed, select, sound
from research.oracles.noisy_unit import escape_probability, log_contraction
from research.statistics import every_seed, over_seeds, slope_within

GRID_ERROR = 0.005  # of the oracle
CLAIMED = (0.95, 1.0)  # share of units that leave, as the claim is judged
LINEAR = 0.2  # the distance below which ln v is a random walk


class Observables(NamedTuple):
    escaped: Float[Array, ""]
    log_distance: Float[Array, ""]
    farthest: Float[Array, ""]


def simulate(
    key: Array,
    alpha: float,
    noise_scale: float,
    first: float = 1.0,
    learning_rate: float = 0.5,
    *,
    steps: int = 2000,
    units: int = 300,
    noise: Literal["gaussian", "uniform"] = "gaussian",
) -> Run:
    """Units in the flat, `first` above its edge, each by itself with fresh noise at every step.

    The share that has ever left, the mean of ln v over the others (0 where there are none) and the largest change of v.
    "uniform" noise has variance 1 as well.
    """

    def activation(v: Array, xi: Array) -> Array:
        hard = jnp.clip(v, -2.0, 0.0)  # h - 1; in terms of v nothing is lost by rounding
        beyond = hard - v
        # c (sigmoid(p·beyond) - 1/2)², without cancellation
        scale = noise_scale / 4 * jnp.tanh(beyond / 2) ** 2
        epsilon = jnp.where(alpha == 1, xi, -jnp.sign(1 + v) * jnp.sign(1 - alpha) * jnp.abs(xi))
        return 1 + alpha * hard + (1 - alpha) * v + scale * epsilon

    def sample(key: Array) -> Array:
        drawn = jax.random.normal(key, (units,))
        return drawn if noise == "gaussian" else 3**0.5 * (2 * jax.scipy.stats.norm.cdf(drawn) - 1)

    loss = lambda v, xi: jnp.sum(optax.l2_loss(activation(v, xi)))
    optimizer = optax.sgd(learning_rate)
    forward = stochastic_descent(loss, optimizer, sample)

    def step(state: tuple[Descent, Array]) -> tuple[Descent, Array]:
        moved = forward(state[0])
        return moved, state[1] | (moved.params <= 0)

    def observe(state: tuple[Descent, Array]) -> Observables:
        v, gone = state[0].params, state[1]
        logs = jnp.sum(jnp.where(gone, 0.0, jnp.log(jnp.where(gone, 1.0, v))))
        return Observables(
            jnp.mean(gone, dtype=v.dtype),
            logs / jnp.maximum(jnp.sum(~gone), 1),
            jnp.max(jnp.abs(v - first)),
        )

    state = start(jnp.full(units, first), optimizer, key)
    return Run((state, jnp.zeros(units, bool)), step, observe, log_spaced(steps, 40))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The law of the share that has left, the distance to it, and the slope of ln v where it is a random walk."""
    dataset = sound(dataset)
    parameters = [dataset[name] for name in ("alpha", "noise_scale", "learning_rate", "first")]
    law = lift(escape_probability, *parameters, dataset.step.astype(float))
    free = (dataset.alpha == 1) & (dataset.noise_scale > 0)
    contraction = lift(log_contraction, dataset.noise_scale, dataset.learning_rate)
    late = dataset.log_distance < np.log(LINEAR)
    step = dataset.step.astype(float) + 0 * dataset.log_distance
    return dataset.assign(
        law=law + 0 * dataset.escaped.isel(seed=0, drop=True),
        distance=abs(dataset.escaped - law).max("step", skipna=False),
        contraction=contraction.where(free) + 0 * dataset.diverged.isel(seed=0, drop=True),
        slope=slope_within(step, dataset.log_distance, late),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The law of leaving; without noise, with the authors', with strong noise; far out; leaks; the random walk."""
    units, cells = int(dataset.units.min()), dataset.diverged.isel(seed=0).size
    chance = float(np.sqrt(np.log(2 * cells * dataset.sizes["seed"] / 1e-3) / 2))
    what = "√units × distance of the share that has left the flat to its law, at any step and cell, largest of a seed"
    band = (0.0, chance + GRID_ERROR * units**0.5)
    found = [Finding.of(what, band, every_seed(per_seed(dataset.distance) * units**0.5))]
    last = dataset.isel(step=-1)
    still = select(last, alpha=1.0, noise_scale=0.0)
    if still.diverged.size:
        what = "α = 1, no noise: the largest change of a unit's weight"
        found.append(Finding.of(what, (0.0, 0.0), every_seed(per_seed(still.farthest))))
    steps = int(last.steps.max())
    for alpha, scale, first, what in CASES:
        runs = select(last, alpha=alpha, noise_scale=scale, first=first)
        if runs.diverged.size:
            law = float(runs.law.max())
            said = f"{what}: share of units that leave within {steps} steps (law {law:.3g})"
            found.append(Finding.of(said, CLAIMED, over_seeds(per_seed(runs.escaped, "mean")), _later(runs)))
    outward = select(last, alpha=1.15, noise_scale=0.0)
    if outward.diverged.size:
        # α - (α - 1)·(1 + v) is the target 0 at v = 1/(α - 1).
        rest = 1 / 0.15 - float(outward["first"].max())
        what = f"α = 1.15, no noise: the unit's way outwards, over {rest:.3f}, where φ is on target"
        # What is left of the way falls by 1 - η (α - 1)² a step.
        needed = np.log(0.01) / np.log1p(-float(outward.learning_rate.min()) * 0.15**2)
        outlook = f"99 % of the way take {needed:.0f} steps" if needed > steps else ""
        found.append(Finding.of(what, (0.99, 1.01), every_seed(per_seed(outward.farthest) / rest), outlook))
    walking = select(dataset, alpha=1.0, noise_scale=WALK)
    if walking.diverged.size and bool(walking.slope.notnull().all()):
        theirs = float(walking.contraction.max())
        what = f"α = 1, c = {WALK:g}: slope of the mean of ln v on steps, over {theirs:.3g}, from v = {LINEAR:g} on"
        found.append(Finding.of(what, (0.9, 1.1), over_seeds(per_seed(walking.slope, "mean") / theirs)))
    return found


def _later(runs: xr.Dataset) -> str:
    """When as many as claimed will have left, at α = 1 by the law of small v.

    "" where that is not within 100 times the budget.
    """
    hazard = norm.sf(8 / max(1e-9, float((runs.noise_scale * runs.learning_rate).min())))
    staying, steps = 1 - float(runs.law.max()), int(runs.steps.max())
    if float(runs.alpha.max()) != 1 or hazard == 0 or staying <= 1 - CLAIMED[0]:
        return ""
    needed = steps + np.log(staying / (1 - CLAIMED[0])) / hazard
    said = f"a unit leaves with {hazard:.2g} a step, the law of small v: {CLAIMED[0]:g} by step {needed:.0f}"
    return said if needed <= 100 * steps else ""


def draw(dataset: xr.Dataset) -> plots.Figure:
    """The activation, the share that has left at α = 1 and elsewhere, and ln v in time."""
    figure, axes = plots.figure(2, 2, "What brings a unit out of the flat: strong noise, or the leak", (5.0, 3.8))
    (shape, noisy), (leaks, walks) = axes
    x = np.linspace(-1, 9, 400)
    beyond = np.maximum(x - 1, 0)
    for number, alpha in enumerate((0.9, 1.0, 1.15)):
        mean = alpha * np.clip(x, -1, 1) + (1 - alpha) * x
        spread = 0.5 / 4 * np.tanh(beyond / 2) ** 2
        side = -np.sign(1 - alpha)
        low, high = (mean - spread, mean + spread) if alpha == 1 else (mean, mean + side * spread)
        shape.plot(x, mean, color=f"C{number}", label=f"α = {alpha:g}, c = 0.5: with one deviation of noise")
        shape.fill_between(x, low, high, color=f"C{number}", alpha=0.25)
    plots.theory(shape, x, np.clip(x, -1, 1), "hard tanh", linewidth=0.9)
    shape.set(title="a  the noisy hard tanh", xlabel="x", ylabel="φ(x)", ylim=(-1.1, 2.6))
    later = dataset.isel(step=slice(1, None))
    for panel, chosen in ((noisy, lambda alpha: alpha == 1), (leaks, lambda alpha: alpha != 1)):
        runs = select(later, alpha=chosen)
        for number, (alpha, scale, first) in enumerate(_rows(runs)):
            cell = select(runs, alpha=alpha, noise_scale=scale, first=first)
            label = (
                f"c = {scale:g}"
                + ("" if alpha == 1 else f", α = {alpha:g}")
                + (f", v = {first:g}" if first > 1 else "")
            )
            curve = averaged(cell.escaped, "seed", "step")
            plots.seeds(panel, curve, label, color=f"C{number}")
            plots.theory(panel, cell.step, np.ravel(cell.law), None if number else "law")
        panel.set(xlabel="step", ylabel="share of units that has left the flat", xscale="log", ylim=(-0.03, 1.35))
    noisy.set_title("b  α = 1: by noise alone")
    leaks.set_title("c  α ≠ 1: by the leak")
    for number, scale in enumerate((0.5, WALK)):
        cell = select(later, alpha=1.0, noise_scale=scale)
        if cell.diverged.size:
            curve = averaged(cell.log_distance, "seed", "step")
            plots.seeds(walks, curve, f"c = {scale:g}", color=f"C{number}")
            rate, end = float(cell.contraction.max()), float(curve.isel(step=-1).median())
            line = np.array([0.3, 1.0]) * float(cell.step[-1])
            plots.theory(walks, line, end + rate * (line - line[-1]), None if number else "slope E ln|1 − cη ξ/8|")
    walks.set(title="d  α = 1: the noise is lost on the way", xlabel="step", ylabel="mean of ln v, v = x − 1")
    for each in axes.flat:
        plots.legend(each, ncols=2 if each in (noisy, leaks) else 1)
    return figure


def _rows(runs: xr.Dataset) -> list[tuple[float, float, float]]:
    """(α, c, first distance) of the cells."""
    if not runs.diverged.size:
        return []
    columns = np.broadcast_arrays(*(np.atleast_1d(runs[name].values) for name in ("alpha", "noise_scale", "first")))
    return sorted({(float(alpha), float(scale), float(first)) for alpha, scale, first in zip(*columns, strict=True)})


WALK = 2.0
CASES = (
    (1.0, 0.5, 1.0, "α = 1, c = 0.5 (c of the authors' code)"),
    (1.0, 20.0, 1.0, "α = 1, c = 20"),
    (1.0, 5.0, 1.0, "α = 1, c = 5"),
    (1.0, 5.0, 8.0, "α = 1, c = 5, from far out (v = 8)"),
    (0.9, 0.0, 1.0, "α = 0.9, no noise"),
    (0.9, 0.5, 1.0, "α = 0.9, c = 0.5"),
    (1.15, 0.5, 1.0, "α = 1.15, c = 0.5 (α and c of the authors' code)"),
)
NAMES = ("alpha", "noise_scale", "first")
SCALES = (0.0, 0.5, WALK, 5.0, 10.0, 20.0)
ROWS = [(1.0, scale, 1.0) for scale in SCALES] + [(1.0, 5.0, 8.0)]
LEAKS = [(alpha, scale, 1.0) for alpha in (0.9, 1.15) for scale in (0.0, 0.5)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, NAMES: [*ROWS, *LEAKS], "learning_rate": 0.5},
    smoke={"seeds": 3, NAMES: [ROWS[0], ROWS[3], LEAKS[0]], "steps": 400, "units": 200},
    paper={"seeds": 16, NAMES: [*ROWS, *LEAKS], "units": 1000, "steps": 10_000},
    control={"noise": "uniform"},
)
