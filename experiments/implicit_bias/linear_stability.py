"""Which minima SGD can stay at: an exact threshold of the learning rate, far below 2/λ for small batches.

Claim: At a minimum that all samples share, the mean square of the error grows under SGD exactly if the spectral radius
of E[(I − ηH_B) ⊗ (I − ηH_B)] exceeds 1, H_B the Hessian of a random batch. That threshold η rises with the batch size,
up to full-batch descent's 2/λmax(H), and lies beyond the one that λmax(E(I − ηH_B)²) = 1 promises. Of two minima as
sharp as each other SGD leaves the one whose samples disagree about the curvature, where gradient descent stays.

Source: Wu, Ma & E 2018, NeurIPS, "How SGD selects the global minima in over-parameterized learning" (what suffices, and
the two minima); the exact threshold: Mulayoff & Michaeli 2024, arXiv 2306.07850. Both are derived for batches with and
without replacement in research/oracles/linear_stability.py.

Departure: Wu et al. look at networks; here least squares that can be fitted exactly (8 samples of unequal lengths in 3
dimensions), where the linearisation is no approximation, and their two parabolas min{x², (x − 1)²/10} and min{x²,
1.9 (x − 1)²}. The mean square is carried by rare runs, which a plain mean over runs misses within tens of steps. So a
run is a population of SGD runs that are copied after each step in proportion to their squared errors ("cloned"; as the
problem is linear, errors are rescaled), as in diffusion Monte Carlo: right up to O(1/population). The other side are
plain runs: the typical one converges up to a larger η. In one dimension that second threshold, E ln|1 − ηh| = 0, is
exact as well, and a minimum between the two is left only with a small probability.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Descent, Run, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select, table
from research.oracles.linear_stability import escape, escape_probability, growth, stability
from research.statistics import crossing, every_seed, over_seeds, slope_within

CURVATURES = (0.2, 3.8)  # of the two samples at the minimum 1; at the minimum 0 both have 2
EDGE = 0.1**0.5 / (1 + 0.1**0.5)  # up to here from 0 the first sample's parabola is the other one
NEAR = 1 / (1 + 1.9**0.5)  # so far from 1 both samples' parabolas are their own: up to here the error is multiplied
DISTURBANCE = 1e-3  # of the start from the minimum 1


class Observables(NamedTuple):
    growth: Float[Array, ""]
    typical: Float[Array, ""]
    away: Float[Array, ""]
    arrived: Float[Array, ""]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    rate: Float[Array, ""]
    initial: Float[Array, "feature other"]


def simulate(
    key: Array,
    learning_rate: float,
    batch: float,
    replacement: float,
    cloned: float,
    *,
    problem: Literal["regression", "two minima"] = "regression",
    population: int = 256,
    steps: int = 160,
) -> Run:
    """A population of SGD runs on the mean of half squared errors, or on Wu, Ma & E's two parabolas.

    Regression: errors begin as N(0, I), and `learning_rate` is in units of the one at which the first step leaves their
    mean square as it is, 2 tr H/tr E(H_B²). `growth` is ln of the mean square, `typical` the mean of ln|e|. With two
    minima (`learning_rate` as it is) errors are counted from x = 1 and nothing is cloned: `away` is the share of runs
    beyond the edge of its parabola, `arrived` that of runs within 1e-6 of x = 0.
    """
    data_key, init_key, run_key = jax.random.split(key, 3)
    if problem == "regression":
        draw = jax.random.normal(data_key, (9, 3)) * jnp.array([[1.4, 1.0, 0.7]])
        X, minimum, samples = draw[:8], draw[8:], 8
        each = lambda w: optax.l2_loss((w - minimum) @ X.T)
        initial = minimum + jax.random.normal(init_key, (population, 3))
    else:
        X, minimum, samples = jnp.sqrt(jnp.array(CURVATURES))[:, None], jnp.ones((1, 1)), 2
        each = lambda x: jnp.minimum(x**2, jnp.array([[0.1, 1.9]]) * (x - 1) ** 2)
        initial = minimum + DISTURBANCE * jax.random.normal(init_key, (population, 1))
    share = jnp.where(replacement > 0, 1 / batch, (samples - batch) / (batch * (samples - 1)))
    H = X.T @ X / samples
    squared = (1 - share) * jnp.sum(H**2) + share * jnp.mean(jnp.sum(X**2, axis=1) ** 2)
    rate = learning_rate * (2 * jnp.trace(H) / squared if problem == "regression" else 1.0)
    optimizer = optax.sgd(rate)

    def weights(sample_key: Array) -> Array:
        """How often each run's batch has each sample, over the size of the batch."""
        uniform, places = jax.random.uniform(sample_key, (population, samples), jnp.float32), jnp.arange(samples)
        drawn = jnp.floor(uniform * samples)[:, :, None] == places[None, None, :]
        counts = jnp.sum(drawn & (places < batch)[None, :, None], axis=1)
        ranks = jnp.sum(uniform[:, :, None] > uniform[:, None, :], axis=2)
        return jnp.where(replacement > 0, counts, ranks < batch) / batch

    descend = stochastic_descent(lambda w, chosen: jnp.sum(chosen * each(w)), optimizer, weights)

    def step(state: tuple[Descent, Array]) -> tuple[Descent, Array]:
        descent, logarithm = descend(state[0]), state[1]  # of what the errors were divided by
        if problem == "two minima":
            return descent, logarithm
        error = descent.params - minimum
        size = jnp.linalg.norm(error, axis=1)
        # Systematic resampling: as many copies as the share of the squares, up to one.
        ladder = (jnp.arange(population) + jax.random.uniform(jax.random.fold_in(descent.key, 2))) / population
        copies = jnp.searchsorted(jnp.cumsum(size**2) / jnp.sum(size**2), ladder).clip(0, population - 1)
        source = jnp.where(cloned > 0, copies, jnp.arange(population))
        logarithm += jnp.where(cloned > 0, jnp.log(jnp.mean(size**2)) / 2, jnp.log(size))
        return descent._replace(params=minimum + (error / size[:, None])[source]), logarithm

    def observe(state: tuple[Descent, Array]) -> Observables:
        size = jnp.linalg.norm(state[0].params - minimum, axis=1)
        logs = state[1] + jnp.log(jnp.maximum(size, 1e-300))
        mean_square = jax.nn.logsumexp(2 * logs) - jnp.log(population)
        nearby = jnp.mean(jnp.linalg.norm(state[0].params, axis=1) < 1e-6, dtype=size.dtype)
        return Observables(mean_square, jnp.mean(logs), jnp.mean(jnp.exp(logs) > 1 - EDGE, dtype=size.dtype), nearby)

    at = np.unique(np.concatenate([np.arange(0, min(steps, 160) + 1, 8), log_spaced(steps, 12)]))
    state, error = (start(initial, optimizer, run_key), jnp.zeros(population)), initial - minimum
    return Run(state, step, observe, at, Given(X, jnp.asarray(rate), error.T @ error / population))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Thresholds and growth by theory, growth a step as it is seen, and the chance to leave the minimum 1."""
    regression = dataset.problem == "regression"
    X, batch = dataset.X.where(regression), (dataset.batch, dataset.replacement)
    at = dataset.step.where(dataset.step <= dataset.steps).astype(float)
    predicted = lift(growth, X, dataset.rate, *batch, dataset.initial, at)
    limits = lift(stability, X, *batch)
    curvatures, ends = xr.DataArray(list(CURVATURES), dims="sample"), escape(np.array(CURVATURES))
    late = (dataset.step >= dataset.steps / 4) & (dataset.step <= dataset.steps)
    pace = lambda values: slope_within(dataset.step, values, late)
    # Who gets beyond EDGE was beyond NEAR before. The start is N(0, 1) times DISTURBANCE: E|z|^κ <= 1 for κ <= 2.
    chance = lift(escape_probability, curvatures, dataset.learning_rate.where(~regression), DISTURBANCE, NEAR)
    return dataset.assign(limits).assign(
        foreseen=np.log(predicted.radius),
        foreseen_growth=np.log(predicted.mean_squares.where(predicted.mean_squares > 0)),
        seen=pace(dataset.growth),
        pace=2 * pace(dataset.typical),
        mean_square=ends.mean_square,
        almost_sure=ends.almost_sure,
        chance=chance,
    )


def _regression(dataset: xr.Dataset, cloned: float, batch: float, replacement: float) -> xr.Dataset:
    return select(dataset, problem="regression", cloned=cloned, batch=batch, replacement=replacement)


def _batches(dataset: xr.Dataset, cloned: float) -> list[tuple[float, float]]:
    """The batch sizes and ways of drawing (with replacement: 1) of the regressions that several rates were tried on."""
    runs = select(dataset, problem="regression", cloned=cloned)
    pairs = [(b, r) for r in np.unique(runs.replacement.values) for b in np.unique(runs.batch.values)]
    rates = lambda pair: np.unique(_regression(runs, cloned, *pair).learning_rate.values)
    return [pair for pair in pairs if _regression(runs, cloned, *pair).diverged.size and rates(pair).size > 2]


def _still(runs: xr.Dataset, variable: str, over: str) -> np.ndarray:
    """Of each seed the rate at which the variable stands still, over a threshold; linear in ln η between rates."""
    seen = table(runs, variable, "learning_rate")
    places = [np.exp(crossing(np.log(seen.learning_rate), row, 0.0)) for row in seen.values]
    return np.array(places) * per_seed(runs.rate / runs.learning_rate / runs[over], "mean")


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The exact threshold for every batch; growth on both sides; the rivals; typical runs; the two minima."""
    judged, whole = float(np.max(dataset.cloned)), float(dataset.X.sizes["sample"])
    runs = {pair: _regression(dataset, judged, *pair) for pair in _batches(dataset, judged)}
    found: list[Finding] = []
    if runs:
        near = select(dataset, problem="regression", cloned=judged)
        gap = float(np.diff(np.log(np.unique(near.learning_rate.values))).max())
        # ρ = 1 − aη/η* + a(η/η*)²: a chord over a gap of ln η is off by (3 − a) gap²/8. The mean of 256 copies is low
        # by their variance over 2 · 256, and chance leaves as much: 0.01 is allowed for both.
        room = 0.01 + 3 * gap**2 / 8
        ratios = np.stack([_still(each, "seen", "exact") for each in runs.values()])
        worst = ratios[np.argmax(np.abs(ratios.mean(axis=1) - 1))]
        for which, values in ((f"mean of {len(runs)} kinds of batch", ratios.mean(axis=0)), ("the worst kind", worst)):
            what = f"η at which the mean square stands still, over the exact threshold, {which}"
            found.append(Finding.of(what, (1 - room, 1 + room), over_seeds(values)))
        axes = [each for each in near.diverged.dims if each != "seed"]
        foreseen, seen = (near[name].stack(run=axes) for name in ("foreseen", "seen"))
        slopes = slope_within(foreseen, seen, abs(foreseen) < 1, "run").values
        what = "slope of ln(growth a step) on ln(spectral radius), all of a seed's runs within a factor e of 1"
        found.append(Finding.of(what, (0.97, 1.03), over_seeds(slopes)))
        small, kind, all_of = min(runs), f"batch {min(runs)[0]:g}", f"batch {whole:g} of {whole:g}"
        if (whole, 0.0) in runs:
            wrong = ((runs[whole, 0.0].seen > 0) != (runs[whole, 0.0].rate > runs[whole, 0.0].full_batch)).astype(float)
            what = f"{all_of}: share of a seed's rates that do not (fall below, grow above) obey the rule 2/λ"
            found.append(Finding.of(what, (0.0, 0.0), every_seed(per_seed(wrong, "mean"))))
        for pair, over, what, limits in (
            (small, "full_batch", f"{kind}: the same η over full-batch descent's 2/λ", (0.0, 1.0)),
            (small, "sufficient", f"{kind}: the same η over the one where λmax(E(I − ηH_B)²) = 1", (1.0, np.inf)),
            ((whole, 1.0), "full_batch", f"{all_of}, drawn with replacement: the same η over 2/λ", (0.0, 1.0)),
        ):
            if pair in runs:
                found.append(Finding.of(what, limits, every_seed(_still(runs[pair], "seen", over))))
        if judged and small in _batches(dataset, 0.0):
            typical = _still(_regression(dataset, 0.0, *small), "pace", "exact")
            what = f"{kind}, plain runs: η up to which the typical one converges, over the mean square's threshold"
            found.append(Finding.of(what, (1.0, np.inf), every_seed(typical)))
    return found + _minima(select(dataset, problem="two minima"))


def _minima(dataset: xr.Dataset) -> list[Finding]:
    """Who leaves the minimum on which the samples disagree."""
    if not dataset.diverged.size:
        return []
    ends = dataset.sel(step=int(dataset.steps.max()))
    square, sure = float(ends.mean_square), float(ends.almost_sure)
    at = lambda batch, low, high: select(ends, batch=batch, learning_rate=lambda rate: low < rate < high)
    below, between, above = at(1.0, 0, square), at(1.0, square, sure), at(1.0, 1.05 * sure, 1)
    found: list[Finding] = []
    for what, runs, variable, share in (
        (f"batch 1, η < {square:.4f}: share of runs that leave", below, "away", 0.0),  # bound: six in a million
        ("batch 1, η beyond: share of runs that end at the other minimum", above, "arrived", 1.0),
        ("full batch, any η < 1: share of runs that leave", at(2.0, 0, 1), "away", 0.0),
    ):
        if runs.diverged.size:
            rows = per_seed(runs[variable], "min", "max")
            found.append(Finding.of(f"two minima, {what}", (share, share), every_seed(rows)))
    if between.diverged.size:
        left = per_seed(between.away, "mean") / per_seed(between.chance, "mean")
        what = f"two minima, batch 1, {square:.4f} < η < {sure:.4f}: share that leaves over the martingale's bound"
        found.append(Finding.of(what, (0.0, 1.0), over_seeds(left)))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) mean square and typical size, (b) thresholds against the batch, (c) growth, (d) the two minima."""
    title = "Where SGD can stay: an exact threshold, far below 2/λ for small batches"
    figure, ((course, limits), (paces, minima)) = plots.figure(2, 2, title)
    pairs = _batches(dataset, judged := float(np.max(dataset.cloned)))
    since = lambda values: (values - values.isel(step=0)) / np.log(10)
    first = [(cloned, _regression(dataset, cloned, *min(pairs))) for cloned in (1.0, 0.0)] if pairs else []
    for cloned, runs in ((cloned, runs) for cloned, runs in first if runs.diverged.size):
        rates = runs.learning_rate.values.ravel().tolist()
        one = select(runs, learning_rate=min(rates, key=lambda rate: abs(rate - 1.15)))
        one = one.squeeze([each for each in one.diverged.dims if each != "seed"]).isel(seed=slice(0, 1))
        one = one.sel(step=one.growth.notnull().all("seed"))
        plots.seeds(
            course, since(one.growth), f"{'cloned' if cloned else 'plain'} runs: mean square", color=f"C{int(cloned)}"
        )
        if not cloned:
            plots.seeds(course, since(2 * one.typical), "plain runs: typical", color="C2")
        if cloned == judged:
            plots.theory(course, one.step, since(one.foreseen_growth).isel(seed=0), "exact mean square")
            rate = float(one.rate.isel(seed=0) / one.exact.isel(seed=0))
            course.set_title(f"a  batch {min(pairs)[0]:g}, η = {rate:.2f} of the threshold (seed 0)")
    for replacement, marker in ((0.0, "o"), (1.0, "x")):
        label = f"{'with' if replacement else 'without'} replacement"
        style = {"color": f"C{int(replacement)}", "marker": marker, "alpha": 0.8}
        sizes = [size for size, kind in pairs if kind == replacement]
        shown = [_regression(dataset, judged, size, replacement) for size in sizes]
        for number, (size, runs) in enumerate(zip(sizes, shown, strict=True)):
            still = xr.DataArray(_still(runs, "seen", "full_batch"), dims="seed")
            plots.points(limits, xr.full_like(still, size), still, None if number else label, **style)
            plots.points(paces, runs.foreseen, runs.seen, None if number else label, **style)
        for name, said, line in (("exact", "exact (median)", "--"), ("sufficient", "λmax(E(I − ηH_B)²) = 1", ":")):
            middle = [float((runs[name] / runs.full_batch).median()) for runs in shown]
            plots.theory(limits, sizes, middle, None if replacement else said, linestyle=line)
    limits.axhline(1.0, color="black", linewidth=0.8, label="2/λ")
    plots.theory(paces, (-1.5, 1.5), (-1.5, 1.5), "ln(spectral radius)")
    if (ends := select(dataset, problem="two minima")).diverged.size:
        ends = ends.sel(step=int(ends.steps.max()))
        for size, label in ((1.0, "SGD, one of the two samples"), (2.0, "gradient descent")):
            if (runs := select(ends, batch=size)).diverged.size:
                plots.seeds(minima, table(runs, "away", "learning_rate"), label, marker="o", ms=3)
        for name, line in (("mean_square", "--"), ("almost_sure", ":")):
            said = f"{name.replace('_', ' ')} limit"
            minima.axvline(float(ends[name]), color="black", linestyle=line, lw=1, label=said)
    course.set(xlabel="step", ylabel="log₁₀(squared error / at the start)")
    limits.set(title="b  the threshold against the batch size", xscale="log", ylabel="η where it stands still / (2/λ)")
    limits.set_xlabel("batch size (of 8)")
    paces.set(title="c  growth on both sides", xlabel="ln(spectral radius)", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
    paces.set_ylabel("ln(growth of the mean square a step)")
    minima.set(title="d  two minima of the same sharpness", xlabel="learning rate η", ylabel="share that left x = 1")
    for axes in figure.axes:
        plots.legend(axes)
    return figure


AXES = ("problem", "batch", "replacement", "cloned", "learning_rate", "steps")
KINDS = [(1, 0, 1), (1, 0, 0), (2, 0, 1), (4, 0, 1), (8, 0, 1), (2, 1, 1), (8, 1, 1)]
RATES = np.geomspace(0.5, 2.0, 14).tolist()
PLACES = (0.3, 0.5, 0.55, 0.556, 0.558, 0.565, 0.6, 0.7, 0.8, 0.95)
arms = lambda kinds, rates: [("regression", *kind, rate, 160) for kind in kinds for rate in rates]
minima = lambda places, steps: [("two minima", size, 0.0, 0.0, rate, steps) for size in (1.0, 2.0) for rate in places]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: [*arms(KINDS, RATES), *minima(PLACES, 6000)]},
    smoke={"seeds": 2, AXES: [*arms([*KINDS[:2], KINDS[4]], RATES[1:12:2]), *minima((0.5, 0.7), 500)]},
    paper={"seeds": 32, "population": 1024, AXES: [*arms(KINDS, RATES), *minima(PLACES, 20_000)]},
    control={"cloned": 0.0},
)
