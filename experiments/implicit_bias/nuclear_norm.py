"""A factorisation started small finds the least nuclear norm, if the measurements commute or are many.

Claim: Gradient descent on ‖A(U Uᵀ) − y‖² from U = init_scale · I goes, as init_scale → 0, to the positive semidefinite
matrix of least trace, hence of least nuclear norm, that fits. Proved where the measurements A_i commute, conjectured in
general. Where they commute the limit is known for every init_scale, and the distance falls as init_scale^(2s), s the
least slack of the dual program. With many Gaussian measurements it holds as well. With few it does not: the trace
stays larger by some per cent, however small the start.

Source: Gunasekar, Woodworth, Bhojanapalli, Neyshabur & Srebro 2017, arXiv 1705.09280 (the conjecture, and the
theorem where they commute); Li, Ma & Zhang 2018, arXiv 1712.09203 (many measurements: the planted matrix is found);
against it with few: Li, Luo & Lyu 2021, arXiv 2012.09839, and Arora et al. 2019, arXiv 1905.13655, section 4.

Departure: Gunasekar et al. take 50 × 50 matrices of rank 2, several kinds of measurement and a step by line search;
here 10 × 10 of rank 2, or 3 where the measurements commute, whose symmetric matrices have 55 dimensions, and a constant
step. The commuting measurements share random eigenvectors; their eigenvalues are Gaussian but for a direction along
which the planted matrix is given a dual certificate of slack >= 0.3: with no slack nothing says how fast. The rate
init_scale^(2s) is derived here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select, table
from research.oracles.semidefinite import flow_limit, least_slack, minimum_trace
from research.statistics import every_seed, over_seeds, slope

CLOSE = 0.01  # the relative distance from which on the least trace counts as found
ORDER = (0.03, 0.3)  # the init_scales at which the limit is reached in time, for the order of the error in the step


class Observables(NamedTuple):
    product: Float[Array, "row column"]
    misfit: Float[Array, ""]


class Given(NamedTuple):
    measurements: Float[Array, "measurement row column"]
    y: Float[Array, "measurement"]
    planted: Float[Array, "row column"]


def problem(key: Array, commuting: float, measured: float, size: int, most: int) -> Given:
    """A planted matrix of trace 1, and the first `measured` of `most` measurements; the others are NaN.

    Its rank is 2, or 3 for those that commute. Gaussian ones are scaled so that the mean of ‖A(X)‖² is ‖X‖²_F.
    """
    basis_key, gaussian_key, turn_key, slack_key, value_key = jax.random.split(key, 5)
    basis, rank = jax.random.orthogonal(basis_key, size), 3
    spectrum = jnp.where(commuting > 0, jnp.array([0.5, 0.3, 0.2]), jnp.array([0.65, 0.35, 0.0]))
    planted = (basis[:, :rank] * spectrum[None, :]) @ basis[:, :rank].T
    seen = jnp.arange(most) < measured
    gaussian = jax.random.normal(gaussian_key, (most, size, size))
    gaussian = (gaussian + gaussian.transpose(0, 2, 1)) / 2 / jnp.sqrt(measured)
    # With e a unit vector, the eigenvalue vectors a_j have e·a_j = 1 on the planted range, where they are orthogonal
    # and as many as the measurements, and less off it: the only multipliers are e, and 1 − e·a_j is the slack.
    turn = jax.random.orthogonal(turn_key, rank)
    e = turn.sum(axis=1) / rank**0.5
    draws = jax.random.uniform(slack_key, (size - rank,))
    largest = 0.4 + 0.3 * draws[0]
    certified = jnp.concatenate([largest[None], -0.5 + (largest - 0.2 + 0.5) * draws[1:]])
    off = jax.random.normal(value_key, (rank, size - rank)) / rank**0.5
    values = jnp.concatenate([rank**0.5 * turn, off + jnp.outer(e, certified - e @ off)], axis=1)
    values = jnp.zeros((most, size)).at[:rank].set(values)
    alike = jnp.einsum("aj,ij,bj->iab", basis, values, basis)
    measurements = jnp.where(commuting > 0, (alike + alike.transpose(0, 2, 1)) / 2, gaussian)
    measurements = jnp.where(seen[:, None, None], measurements, jnp.nan)
    return Given(measurements, jnp.einsum("iab,ab->i", measurements, planted), planted)


def simulate(
    key: Array,
    learning_rate: float,
    init_scale: float,
    commuting: float,
    measured: float,
    *,
    size: int = 10,
    most: int = 40,
    steps: int = 20_000,
) -> Run:
    """One descent on a quarter of the sum of squared misfits, from U = init_scale · I: nothing random but the data."""
    given = problem(key, commuting, measured, size, most)
    A, y = jnp.nan_to_num(given.measurements), jnp.nan_to_num(given.y)
    misfits = lambda U: jnp.einsum("iab,ab->i", A, U @ U.T) - y
    loss = lambda U: jnp.sum(misfits(U) ** 2) / 4
    optimizer = optax.sgd(learning_rate)
    observe = lambda state: Observables(state.params @ state.params.T, jnp.linalg.norm(misfits(state.params)))
    initial = init_scale * jnp.eye(size)
    return Run(start(initial, optimizer), descent(loss, optimizer), observe, log_spaced(steps, 12), given)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The least trace, its dual slack, the flow's limit where it is known, and the distances of the end to them."""
    A, y = dataset.measurements, dataset.y
    end = dataset.product.sel(step=dataset.steps)
    least, limit = lift(minimum_trace, A, y), lift(flow_limit, A, y, dataset.init_scale)
    return dataset.assign(
        distance=_frobenius(end - least) / _frobenius(least),
        excess=_trace(end) / _trace(least) - 1,
        slack=lift(least_slack, A, y),
        from_limit=_frobenius(end - limit) / _frobenius(least),
        limit_distance=_frobenius(limit - least) / _frobenius(least),
        from_planted=_frobenius(end - dataset.planted) / _frobenius(dataset.planted),
    )


def _frobenius(matrix: xr.DataArray) -> xr.DataArray:
    return (matrix**2).sum(["row", "column"], skipna=False) ** 0.5


def _trace(matrix: xr.DataArray) -> xr.DataArray:
    diagonal = xr.DataArray(np.arange(matrix.sizes["row"]), dims="entry")
    return matrix.isel(row=diagonal, column=diagonal).sum("entry", skipna=False)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Commuting: the rate, a large start, the error of the step; many Gaussian measurements, and few."""
    found: list[Finding] = []
    rate = float(dataset.learning_rate.max())
    alike = select(dataset, commuting=1.0)
    scales = np.unique(alike.init_scale.values)
    if alike.diverged.size and scales.size > 1:
        # Two terms: the next slack is at least 0.2 larger (0.2 decades a decade: < 5 %), and a step η takes a mode of
        # growth m by ln(1 + ηm) instead of ηm, where m <= 1.
        walk = table(select(alike, learning_rate=rate), "distance", "init_scale").sel(init_scale=scales[:4])
        powers = slope(np.log(walk.init_scale), np.log(walk))
        slack = per_seed(alike.slack, "mean")
        said = "commuting, init_scale → 0: slope of ln(distance to the least trace) on ln(init_scale), over 2 · slack"
        found.append(Finding.of(said, (0.9, 1.1), every_seed(powers / 2 / slack)))
        large = select(alike, init_scale=scales[-1], learning_rate=rate)
        found.append(
            Finding.of(
                f"commuting, init_scale {scales[-1]:g}: distance to the least trace, over the flow limit's",
                (0.95, 1.05),
                every_seed(per_seed(large.distance / large.limit_distance)),
            )
        )
    slow = select(alike, init_scale=ORDER)
    if np.unique(slow.learning_rate.values).size > 1:
        error = table(slow, "from_limit", "init_scale", "learning_rate")
        order = slope(np.log(error.learning_rate), np.log(error))
        said = "commuting: slope of ln(distance to the flow's exact limit) on ln(learning rate), the farthest from 1"
        found.append(Finding.of(said, (0.9, 1.1), every_seed(1 + np.max(abs(order - 1), axis=1))))
    gaussian = select(dataset, commuting=0.0)
    if not gaussian.diverged.size:
        return found
    for measured in np.unique(gaussian.measured.values)[::-1]:
        runs = select(gaussian, measured=measured, learning_rate=rate)
        smallest = float(runs.init_scale.min())
        end = select(runs, init_scale=smallest)
        named = f"{measured:.0f} Gaussian measurements"
        said = f"{named}, init_scale {smallest:g}: relative distance to the least trace"
        found.append(Finding.of(said, (0.0, CLOSE), every_seed(per_seed(end.distance))))
        walk = table(select(runs, init_scale=lambda scale: scale < 0.05), "distance", "init_scale")
        if walk.init_scale.size > 1:
            said = f"{named}, init_scale → 0: slope of ln(distance to the least trace) on ln(init_scale)"
            found.append(Finding.of(said, (0.0, np.inf), over_seeds(slope(np.log(walk.init_scale), np.log(walk)))))
    said = f"{named}, init_scale {smallest:g}: trace over the least, minus 1"
    found.append(Finding.of(said, (0.0, 1e-3), every_seed(per_seed(end.excess))))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the rate and (b) the error of the step where they commute, (c) the trace, (d) the distance."""
    figure, ((rates, order), (norms, away)) = plots.figure(
        2, 2, "Started small, X = U Uᵀ finds the least trace, if measurements commute or are many"
    )
    rate = float(dataset.learning_rate.max())
    alike, gaussian = (select(dataset, commuting=which) for which in (1.0, 0.0))
    if alike.diverged.size:
        walk = select(alike, learning_rate=rate)
        kinds = ("distance", "limit_distance", "excess")
        measured, exact, excess = (table(walk, name, "init_scale") for name in kinds)
        plots.seeds(rates, measured, "gradient descent", color="C0", linestyle="none", marker="o", markersize=3)
        for number in range(exact.sizes["seed"]):
            label = None if number else "the flow's exact limit, each seed"
            plots.theory(rates, exact.init_scale, exact.isel(seed=number), label, linewidth=0.7)
        plots.seeds(norms, excess + 1, "commuting", color="C0")
        plots.seeds(away, measured, "commuting", color="C0")
        for number, scale in enumerate(ORDER):
            error = table(select(alike, init_scale=scale), "from_limit", "learning_rate")
            if error.size:
                plots.seeds(order, error, f"init_scale {scale:g}", color=f"C{number}", marker="o", markersize=3)
                first = float(error.median("seed")[-1])
                label = None if number else "proportional to the learning rate"
                plots.theory(order, error.learning_rate, first * error.learning_rate / rate, label)
    for number, measured in enumerate(np.unique(gaussian.measured.values).tolist() if gaussian.diverged.size else []):
        runs, style = select(gaussian, measured=measured), {"color": f"C{3 - number}"}
        plots.seeds(norms, table(runs, "excess", "init_scale") + 1, f"{measured:.0f} Gaussian", **style)
        plots.seeds(away, table(runs, "distance", "init_scale"), f"{measured:.0f} Gaussian", **style)
    plots.theory(norms, norms.get_xlim(), (1, 1), "least trace (semidefinite program)")
    scale_label, away_label = "init_scale", "distance to the least trace / its norm"
    rates.set(title="a  commuting: init_scale^(2 · slack)", xlabel=scale_label, ylabel=away_label)
    order.set(title="b  commuting: error of finite steps", xlabel="learning rate")
    order.set_ylabel("distance to the flow's limit / norm")
    norms.set(title="c  commuting or many", ylim=(0.98, 1.16), xlabel=scale_label, ylabel="trace of X / least trace")
    away.set(title="d  few Gaussian: another matrix", xlabel=scale_label, ylabel=away_label)
    for axes in figure.axes:
        axes.set_xscale("log")
        if axes is not norms:
            axes.set_yscale("log")
        plots.legend(axes)
    tried = np.unique(alike.learning_rate.values) if alike.diverged.size else [rate]
    order.set_xticks(tried, [f"{each:g}" for each in tried])
    order.minorticks_off()
    return figure


ARMS = ("commuting", "measured", "init_scale", "learning_rate")
SCALES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
COMMUTING = [(1.0, 3.0, scale, 0.1) for scale in SCALES]
SLOWER = [(1.0, 3.0, scale, rate) for scale in ORDER for rate in (0.05, 0.025)]
GAUSSIAN = [(0.0, float(m), 10.0**-power, 0.1) for m in (40, 28, 20) for power in range(1, 6)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, ARMS: COMMUTING + SLOWER + GAUSSIAN},
    smoke={"seeds": 2, "steps": 3_000, ARMS: [*COMMUTING, *SLOWER, *GAUSSIAN[-5::2]]},
    paper={
        "seeds": 16,
        "size": 50,
        "most": 1000,
        "steps": 300_000,
        ARMS: [*COMMUTING, *((0.0, float(m), 10.0**-power, 0.1) for m in (1000, 300, 200) for power in range(1, 6))],
    },
    control={ARMS: [*COMMUTING[:2], (1.0, 3.0, 0.6, 0.1)]},
)
