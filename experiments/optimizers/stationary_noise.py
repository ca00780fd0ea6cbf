"""The noise of mini-batches leaves a descent at a distance: how far depends on rate, batch, curvature and momentum.

Claim: The mean gradient of B of N samples drawn without replacement has variance σ²/B · (N − B)/(N − 1). Where the loss
has curvature h, descent at a constant rate η comes to rest with the variance ησ_B²/(h(2 − ηh)), σ_B² that of the
gradient, and heavy-ball momentum with ησ_B²(1 + β)/(h(1 − β)(2(1 + β) − ηh)): at the same η momentum amplifies the
noise by about 1/(1 − β), at the same η/(1 − β) it changes nothing to first order in η. Rates η/(1 + ct) lead all the
way: the variance falls as 1/t if a = ηh/c > 1/2, and only as t^-2a if a < 1/2.

Source: Cochran 1977, "Sampling techniques", theorem 2.2 (finite population); Mandt, Hoffman & Blei 2017, arXiv
1704.04289 (stationary SGD; the exact forms here, at finite rates, are derived in research/oracles/heavy_ball.py);
Moulines & Bach 2011 (rates t^-min(1, 2a)).

Departure: the mean of N = 12 numbers, by descent on h/2 (w − x)², the smallest problem in which the gradient's noise
does not depend on w, as the formulas assume; a fresh batch every step. The variance is that of 1000 independent
descents at 40 late times.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Descent, Run, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import first_arm, lift, per_seed, select, sound
from research.oracles.heavy_ball import batch_variance, stationary_variance, variance_path
from research.statistics import Estimate, every_seed, over_seeds, slope_within

# Of the last 300 steps at least ten are independent: the squares of a descent forget as fast as (1 − ηh)², ηh >= 0.04.
# Standard errors: three for chance, also in the farthest of a few cells, and two for the interval.
INDEPENDENT, ERRORS = 10, 5.0


class Observables(NamedTuple):
    variance: Float[Array, ""]
    gradient_variance: Float[Array, ""]


class Given(NamedTuple):
    numbers: Float[Array, "sample"]


def simulate(
    key: Array,
    learning_rate: float,
    momentum: float = 0.0,
    batch: float = 1.0,
    curvature: float = 1.0,
    cooling: float = 0.0,
    *,
    samples: int = 12,
    descents: int = 1000,
    steps: int = 600,
) -> Run:
    """`descents` descents on curvature/2 · (w − x)², each step on `batch` of the N values x, without replacement.

    The rate is learning_rate/(1 + cooling · t). `variance` is the mean square distance to the mean of x;
    `gradient_variance` is that of one batch's gradient, over `curvature`². They start at the mean.
    """
    data_key, run_key = jax.random.split(key)
    values = jax.random.normal(data_key, (samples,))

    def weights(key: Array) -> Array:
        # who is among the `batch` first of a random order: counting compiles and runs faster than sorting
        drawn = jax.random.uniform(key, (descents, samples))
        rank = jnp.sum(drawn[:, None, :] < drawn[:, :, None], axis=2)
        return (rank < batch) / batch

    # Σ over descents of h/2 (w − x̄_B)², whose gradient is that of the batch
    loss = lambda w, chosen: curvature * optax.l2_loss(w, chosen @ values).sum()
    optimizer = optax.sgd(lambda count: learning_rate / (1 + cooling * count), momentum=momentum)

    def observe(state: Descent) -> Observables:
        seen = weights(jax.random.fold_in(state.key, 1)) @ values
        return Observables(jnp.mean((state.params - values.mean()) ** 2), jnp.mean((seen - values.mean()) ** 2))

    at = np.union1d(log_spaced(steps, 25), np.linspace(steps // 2, steps, 40).astype(int))
    state = start(jnp.full((descents,), values.mean()), optimizer, run_key)
    return Run(state, stochastic_descent(loss, optimizer, weights), observe, at, Given(values))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Variances over what theory says of them, at rest and on the way, and the powers of t with which they fall."""
    dataset = sound(dataset)
    h, rate, beta, cooling = (dataset[name] for name in ("curvature", "learning_rate", "momentum", "cooling"))
    noise = lift(batch_variance, dataset.numbers, dataset.batch)
    rest = lift(stationary_variance, h, rate, beta, noise * h**2)
    plain = lift(stationary_variance, h, rate, 0.0, noise * h**2)
    path = lift(variance_path, h, rate, beta, noise * h**2, cooling, 0.0, dataset.step.astype(float))
    late = dataset.step >= dataset.steps / 2
    mean = dataset.variance.where(late).mean("step")
    gradient = dataset.gradient_variance.mean("step", skipna=False)
    falls = lambda values: slope_within(
        np.log(dataset.step.where(dataset.step > 0)),
        np.log(values.where(values > 0)),
        dataset.step >= dataset.steps / 10,
    )
    exponent = rate * h / cooling.where(cooling > 0)
    return dataset.assign(
        noise=noise,
        rest=rest,
        path=path,
        at_rest=mean,
        ratio=(mean / rest.where(rest > 0)).where(cooling == 0),
        plain_ratio=(mean / plain.where(plain > 0)).where(cooling == 0),
        gradient=gradient,
        gradient_ratio=gradient / noise.where(noise > 1e-12),
        falling=falls(dataset.variance).where(cooling > 0),
        foreseen_falling=falls(path).where(cooling > 0),
        exponent=exponent,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """SGD at rest, the batch's variance, momentum, the two comparisons with it, and schedules."""
    steady = select(dataset, cooling=0.0)
    squares = INDEPENDENT * dataset.sizes["seed"] * int(np.min(dataset.descents))
    allowed = ERRORS * (2 / squares) ** 0.5
    small = lambda runs: select(runs, batch=lambda size: size < float(np.max(dataset.samples)))
    found: list[Finding] = []

    def worst(what: str, runs: xr.Dataset, variable: str) -> None:
        """The cell whose mean over seeds is farthest from what theory says, with its interval."""
        if not runs.diverged.size:
            return
        others = [each for each in runs.diverged.dims if each != "seed"]
        cells = runs[variable].stack(cell=others) if others else runs[variable].expand_dims("cell")
        each = [over_seeds(cells.isel(cell=place).values) for place in range(cells.sizes["cell"])]
        off = [np.abs(estimate.value - 1) if np.isfinite(estimate.value) else np.inf for estimate in each]
        farthest: Estimate = each[int(np.argmax(off))]
        found.append(Finding.of(f"{what}, the farthest of {len(each)}", (1 - allowed, 1 + allowed), farthest))

    plain = small(select(steady, momentum=0.0))
    judged = plain if plain.diverged.size else small(steady)
    worst("SGD: variance at rest over ησ_B²/(h(2 − ηh))", judged, "plain_ratio")
    worst("variance of a batch's gradient over σ²/B · (N − B)/(N − 1)", small(steady), "gradient_ratio")
    whole = select(steady, batch=float(np.max(dataset.samples)))
    if whole.diverged.size:
        # (x̄ by two orders of summing)²
        what = "B = N: variance at rest, in units of σ²"
        values = per_seed(whole.at_rest / whole.numbers.var("sample"))
        found.append(Finding.of(what, (0.0, 1e-25), every_seed(values)))
    rolling = small(select(steady, momentum=lambda beta: beta > 0))
    worst("momentum: variance at rest over ησ_B²(1 + β)/(h(1 − β)(2(1 + β) − ηh))", rolling, "ratio")
    for beta in np.unique(rolling.momentum.values).tolist():
        heavy = select(rolling, momentum=beta, batch=1.0, curvature=1.0)
        rate = float(np.min(heavy.learning_rate)) if heavy.diverged.size else np.nan
        heavy = select(heavy, learning_rate=rate)
        for other, said, first in (
            (rate, "at the same η", 1 / (1 - beta)),
            (round(rate / (1 - beta), 12), "at the same η/(1 − β)", 1.0),
        ):
            light = select(plain, learning_rate=other, batch=1.0, curvature=1.0)
            if heavy.diverged.size and light.diverged.size:
                ratio = per_seed(heavy.at_rest, "mean") / per_seed(light.at_rest, "mean")
                what = f"β = {beta:g}, η = {rate:g}: variance over SGD's {said}, over {first:g}"
                # the factors (1 − ηh/2)/(1 − ηh/2(1 + β)) are what is neglected
                spread = allowed + max(rate, other) / 2
                found.append(Finding.of(what, (1 - spread, 1 + spread), over_seeds(ratio / first)))
    scheduled = small(select(dataset, momentum=0.0))
    if not scheduled.diverged.size:
        return found
    axes = [each for each in scheduled.diverged.dims if each != "seed"]
    cells = scheduled.assign(exponent=scheduled.exponent + 0.0 * scheduled.diverged.any("seed"))
    cells = cells.stack(cell=axes, create_index=False) if axes else cells.expand_dims("cell")
    for a in np.unique(cells.exponent.values[np.isfinite(cells.exponent.values)]).tolist():
        runs = cells.isel(cell=np.flatnonzero(cells.exponent.values == a))
        power = -min(1.0, 2 * a)
        # beyond the leading power the variance has t^-2a for a > 1/2, t^-1 for a < 1/2: what that does to the slope
        # over the last decade is read off the exact recursion
        bend = float(np.abs(runs.foreseen_falling - power).max(skipna=False))
        what = f"rate η/(1 + ct), a = ηh/c = {a:g}: power of t with which the variance falls, last decade"
        band = (power - bend - 0.05, power + bend + 0.05)
        found.append(Finding.of(what, band, over_seeds(per_seed(runs.falling, "mean"))))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Variance (a) at rest against the rate, (b) of the batch against B, (c) on the way, (d) for schedules."""
    figure, ((rest, batches), (way, schedules)) = plots.figure(2, 2, "How far from the minimum noise leaves a descent")
    steady, one = select(dataset, cooling=0.0), {"batch": 1.0, "curvature": 1.0}
    unit = dataset.numbers.var("sample")
    scaled = dataset.assign(rest=dataset.rest / unit, at_rest=dataset.at_rest / unit)
    for number, beta in enumerate(np.unique(dataset.momentum.values).tolist()):
        runs = select(select(scaled, cooling=0.0, momentum=beta), **one)
        if runs.diverged.size:
            plots.points(rest, runs.learning_rate, runs.at_rest, f"β = {beta:g}", color=f"C{number}", markersize=4)
            dense = np.geomspace(0.005, 1.95 * (1 + beta), 80)
            law = [stationary_variance(1.0, rate, beta, 1.0) for rate in dense]
            plots.theory(rest, dense, law, None if number else "η(1 + β)/((1 − β)(2(1 + β) − η))")
    runs = select(steady, momentum=0.0, curvature=1.0, learning_rate=BATCHED)
    if runs.diverged.size:
        sizes = np.linspace(1, float(np.max(dataset.samples)), 60)
        total = float(np.max(dataset.samples))
        plots.points(batches, runs.batch, runs.gradient / unit, "of the batch's gradient", markersize=4)
        plots.points(batches, runs.batch, runs.at_rest / unit, f"at rest, η = {BATCHED:g}", color="C1", markersize=4)
        share = (total - sizes) / (total - 1) / sizes
        plots.theory(batches, sizes, share, "(N − B)/(B(N − 1))")
        plots.theory(
            batches, sizes, share * stationary_variance(1.0, BATCHED, 0.0, 1.0), "η/(2 − η) times that", linestyle=":"
        )
    for number, (rate, beta) in enumerate(FAIR):
        runs = select(select(steady, learning_rate=rate, momentum=beta), **one)
        _path(way, runs, unit, f"η = {rate:g}, β = {beta:g}", number)
    cooled = select(dataset, cooling=lambda value: value > 0)
    for number, rate in enumerate(np.unique(cooled.learning_rate.values).tolist() if cooled.diverged.size else []):
        runs = select(cooled, learning_rate=rate)
        _path(schedules, runs, unit, f"a = {float(runs.exponent.max()):g}", number)
    rest.set(title="a  at rest, B = 1", xlabel="learning rate η (h = 1)", ylabel="variance of w / σ²", ylim=(2e-3, 100))
    rest.set(xscale="log", yscale="log")
    batches.set(title="b  batches without replacement, N = 12", xlabel="batch B", ylabel="variance / σ²")
    way.set(title="c  on the way: equal η, equal η/(1 − β)", xlabel="step", ylabel="variance of w / σ²")
    schedules.set(title="d  rates η/(1 + ct), a = ηh/c", xlabel="step", ylabel="variance of w / σ²")
    for axes in (way, schedules):
        axes.set(xscale="log", yscale="log")
    for axes in figure.axes:
        plots.legend(axes)
    return figure


def _path(axes: plots.Axes, runs: xr.Dataset, unit: xr.DataArray, label: str, number: int) -> None:
    """The variance against the step, and the exact recursion."""
    if runs.diverged.size:
        runs = first_arm(runs).isel(step=slice(1, None))
        plots.seeds(axes, runs.variance / unit, label, color=f"C{number}")
        law = (runs.path / unit).median("seed")
        plots.theory(axes, runs.step, law, None if number else "exact recursion")


BATCHED = 0.5
FAIR = [(0.4, 0.0), (0.04, 0.0), (0.04, 0.9)]
AXES = ("learning_rate", "momentum", "batch", "curvature", "cooling")
ARMS = [
    *((rate, 0.0, 1.0, 1.0, 0.0) for rate in (0.04, 0.1, 0.4, BATCHED, 1.0, 1.5, 1.9)),
    *((rate, beta, 1.0, 1.0, 0.0) for beta in (0.5, 0.9) for rate in (0.05, 0.2, 1.0, 2.5)),
    (0.04, 0.9, 1.0, 1.0, 0.0),
    *((0.4, beta, 4.0, 2.0, 0.0) for beta in (0.0, 0.9)),
    *((BATCHED, 0.0, float(size), 1.0, 0.0) for size in (2, 3, 4, 6, 9, 12)),
    *((a, 0.0, 1.0, 1.0, 1.0) for a in (0.25, 0.75, 1.0)),
]
SMALL = [ARMS[2], ARMS[0], ARMS[15], ARMS[3], ARMS[19], ARMS[23], ARMS[-1]]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 4, "descents": 256, AXES: SMALL},
    paper={"seeds": 64, "steps": 6000},
    control={"momentum": 0.9},
)
