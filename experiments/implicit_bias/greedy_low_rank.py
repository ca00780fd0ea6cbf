"""From an infinitesimal start a factorisation learns one rank after another, and not the least nuclear norm.

Claim: Gradient flow on ‖A(U Uᵀ) − y‖² from U = init_scale · I follows, as init_scale → 0, greedy low-rank learning: it
lingers at a stationary point of each rank, leaves it along the top eigenvector of −∇f, and comes to the next. Where the
matrix at which that algorithm ends and the one of least trace (nuclear norm) differ, the flow goes to the former.

Source: Li, Luo & Lyu 2021, arXiv 2012.09839, Algorithm 1 and its theorems on the first phase and on the later ones;
against Gunasekar et al. 2017, arXiv 1705.09280, whose conjecture is the least trace.

Departure: Li et al. complete matrices and simulate the infinitesimal start. Here descent starts at init_scale down to
1e-12, on 8 × 8 matrices, from all entries off the diagonal (factor analysis: with two dominant rows the least trace is
another matrix; without, the same one) or from Gaussian measurements. The paper bounds the distance by a power of
init_scale; here the power itself, and when each rank appears, are derived from the algorithm's spectra alone
(`greedy_rates`), with the growth ln(1 + ημ)/η of steps of size η. It is small where eigenvalues are nearly tied, which
is why some problems need an absurdly small start, and it says how small. With three layers the power is that of the
start itself whatever the gap, as the paper says of depth 3 and more, and init_scale = 1e-3 is small enough. With
dominant rows the last phase settles slowly: below an init_scale of 1e-3 to 1e-5 the distance to the greedy end is what
the budget of steps has left of that, and falls no further with the start.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import lift, sound
from research.oracles.greedy_low_rank import greedy_low_rank, greedy_rates
from research.oracles.semidefinite import minimum_trace
from research.statistics import crossing, every_seed, few, slope_within

APART = 0.1  # the relative distance from which on the two oracles count as different
DEEPEST = 1e-3  # the least init_scale from which a deeper product gets away in time
ESCAPED = 0.02  # the eigenvalue at which a direction has escaped: any small one, it drops out of the slope
ASYMPTOTIC = (1e-13, 1e-3)  # what theory leaves beyond the rank: above rounding, and small against the rest


class Observables(NamedTuple):
    product: Float[Array, "row column"]
    eigenvalues: Float[Array, "mode"]


class Given(NamedTuple):
    measurements: Float[Array, "measurement row column"]
    y: Float[Array, "measurement"]


def problem(key: Array, measured: float, dominance: float, second: float, size: int) -> Given:
    """A planted matrix of eigenvalues 1 − second and second, and what is measured of it.

    `measured` Gaussian measurements, scaled so that the mean of ‖A(X)‖² is ‖X‖²_F (the others are NaN), of Gaussian
    eigenvectors; or, for 0, every entry off the diagonal, of eigenvectors each with one entry `dominance` among
    Gaussian ones.
    """
    planted_key, measure_key = jax.random.split(key)
    pairs = np.triu_indices(size, 1)
    most = len(pairs[0])
    vectors = jax.random.normal(planted_key, (size, 2))
    rows = jnp.array([[dominance, 0.3 * vectors[0, 1]], [0.3 * vectors[1, 0], dominance]])
    vectors = jnp.where(measured > 0, vectors, vectors.at[:2].set(rows))
    first = vectors[:, 0] / jnp.linalg.norm(vectors[:, 0])
    other = vectors[:, 1] - first * (first @ vectors[:, 1])
    other = other / jnp.linalg.norm(other)
    planted = (1 - second) * jnp.outer(first, first) + second * jnp.outer(other, other)
    entries = np.zeros((most, size, size))
    entries[np.arange(most), *pairs] = entries[np.arange(most), *pairs[::-1]] = 0.5**0.5
    gaussian = jax.random.normal(measure_key, (most, size, size))
    gaussian = (gaussian + gaussian.transpose(0, 2, 1)) / 2 / jnp.sqrt(jnp.maximum(measured, 1))
    gaussian = jnp.where(jnp.arange(most)[:, None, None] < measured, gaussian, jnp.nan)
    measurements = jnp.where(measured > 0, gaussian, jnp.asarray(entries))
    return Given(measurements, jnp.einsum("iab,ab->i", measurements, planted))


def simulate(
    key: Array,
    learning_rate: float,
    init_scale: float,
    measured: float,
    dominance: float,
    second: float,
    *,
    depth: int = 2,
    size: int = 8,
    steps: int = 6_000,
) -> Run:
    """One descent of X = U Uᵀ on a quarter of the sum of squared misfits, from U = init_scale · I: data are random.

    Of `depth` above 2 it is X = U_L … U_1, on half that sum, from the same X = init_scale² · I.
    """
    given = problem(key, measured, dominance, second, size)
    A, y = jnp.nan_to_num(given.measurements), jnp.nan_to_num(given.y)
    matrix = lambda factors: factors[0] @ factors[0].T if depth == 2 else jnp.linalg.multi_dot(factors)
    loss = lambda factors: jnp.sum((jnp.einsum("iab,ab->i", A, matrix(factors)) - y) ** 2) / (4 if depth == 2 else 2)
    optimizer = optax.sgd(learning_rate)
    initial = [init_scale ** (2 / depth) * jnp.eye(size)] * (1 if depth == 2 else depth)

    def observe(state: tuple) -> Observables:
        X = matrix(state[0])
        return Observables(X, jnp.linalg.eigvalsh((X + X.T) / 2)[::-1])

    early = np.arange(0, min(steps, 2_400), 12)  # the escapes, in exponential growth, are evenly spaced in time
    at = np.unique(np.concatenate([early, log_spaced(steps, 20, first=max(1, steps // 4))]))
    return Run(start(initial, optimizer), descent(loss, optimizer), observe, at, given)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The algorithm's end and rates, the least trace, and what descent shows of them."""
    if not dataset.init_scale.ndim:
        dataset = dataset.expand_dims("init_scale")
    dataset = sound(dataset)
    A, y, scale = dataset.measurements, dataset.y, dataset.init_scale
    end, eigenvalues = dataset.product.sel(step=dataset.steps), dataset.eigenvalues
    greedy, least = lift(greedy_low_rank, A, y), lift(minimum_trace, A, y)
    rates = lift(greedy_rates, A, y, dataset.learning_rate)
    time = dataset.step * dataset.learning_rate
    crossed = lambda values, time: crossing(time, np.log(np.maximum(values, 1e-300)), np.log(ESCAPED))
    core: list[list[str]] = [["step"], ["step"]]
    escaped = xr.apply_ufunc(crossed, eigenvalues.rename(mode="phase"), time, input_core_dims=core, vectorize=True)
    core, rank = [["step", "mode"], ["step"], ["phase"], []], rates["rank"]
    beyond = xr.apply_ufunc(_at_last_escape, eigenvalues, time, escaped, rank, input_core_dims=core, vectorize=True)
    once = lambda values: values.isel(init_scale=0) if "init_scale" in values.dims else values
    left = scale**rates.exponent
    small = (left > ASYMPTOTIC[0]) & (left < ASYMPTOTIC[1])
    whole = ~dataset.diverged.any("init_scale")  # seeds with a run that diverged, or has not come so far, are left out
    slope = lambda values, window: slope_within(np.log(scale), values, window, "init_scale").where(whole)
    distance = _frobenius(end - greedy) / _frobenius(greedy)
    first, other = eigenvalues.isel(mode=0), eigenvalues.isel(mode=1)
    there = (first > ESCAPED) & (other < ESCAPED) & (rank > 1)
    return dataset.assign(
        greedy_distance=distance,
        least_distance=_frobenius(end - least) / _frobenius(least),
        apart=once(_frobenius(greedy - least) / _frobenius(greedy)),
        power=slope(np.log(beyond), small),
        exponent=once(rates.exponent),
        level=once(rates.level),
        missed=abs(first / rates.level.isel(phase=0, mode=0) - 1).where(there).min("step"),
        pace=-slope(escaped, scale < 1e-5),
        escape_time=once(rates.escape_time),
        fall=slope(np.log(distance), scale >= DEEPEST),
    )


def _at_last_escape(eigenvalues: np.ndarray, time: np.ndarray, escaped: np.ndarray, rank: float) -> float:
    """The largest eigenvalue beyond the algorithm's rank at the moment at which the last one within it escapes."""
    if not 1 <= rank < len(escaped):
        return float("nan")
    logarithms = np.log(np.maximum(eigenvalues[:, int(rank)], 1e-300))
    return float(np.exp(np.interp(escaped[int(rank) - 1], time, logarithms)))


def _frobenius(matrix: xr.DataArray) -> xr.DataArray:
    return (matrix**2).sum(["row", "column"], skipna=False) ** 0.5


def _settings(dataset: xr.Dataset) -> list[tuple[str, xr.Dataset]]:
    """The arms by name, each over seeds and init_scales."""
    others = [each for each in dataset.diverged.dims if each not in ("seed", "init_scale")]
    found = []
    for place in np.ndindex(*(dataset.sizes[each] for each in others)):
        runs = dataset.isel(dict(zip(others, place, strict=True)))
        kind = "off the diagonal" if runs.measured == 0 else f"{float(runs.measured):.0f} Gaussian"
        rank = f"rank {1 if runs.second == 0 else 2}"
        how = f", dominance {float(runs.dominance):g}" if runs.measured == 0 else ""
        how += f", depth {int(runs.depth)}" if runs.depth > 2 else ""
        found.append((f"{kind}, {rank}{how}", runs))
    return found


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Which of the two matrices; when each rank appears; what is left beyond the last one."""
    found: list[Finding] = []
    for number, (name, runs) in enumerate(_settings(dataset)):
        # A deep product leaves its start after a time of order init_scale^(−2 + 4/L): too long for the smallest.
        runs = runs.sel(init_scale=runs.init_scale >= (DEEPEST if runs.depth > 2 else 0.0))
        if not runs.init_scale.size:
            continue
        smallest, largest = float(runs.init_scale.min()), float(runs.init_scale.max())
        for scale in dict.fromkeys((smallest, largest) if number else (smallest,)):
            end = runs.sel(init_scale=scale)
            ratio = np.log10(end.greedy_distance / end.least_distance).values
            apart = ~(end.apart <= APART).values  # what is not certified is not known to be near: it stays, as NaN
            if number == 0 or apart.sum() > 1:
                said = "log10(distance to the greedy end / distance to the least trace)"
                said = f"{name}, init_scale {scale:g}: {said}; {apart.sum()} of {apart.size} seeds have the two apart"
                found.append(Finding.of(said + few(int(apart.sum())), (-np.inf, -1.0), every_seed(ratio[apart])))
        if runs.measured == 0 and not (runs.apart > APART).any():
            said = f"{name}, init_scale {smallest:g}: distance to the greedy end, which here is of least trace as well"
            found.append(Finding.of(said, (0.0, 1e-3), every_seed(runs.greedy_distance.sel(init_scale=smallest))))
        if runs.init_scale.size < 2:
            continue
        pace, power = runs.pace / runs.escape_time, runs.power / runs.exponent
        # What is of order one drops out of these slopes; what vanishes with init_scale, soon or late, does not. With L
        # layers dσ/dt = L μ σ^(2 − 2/L): at the first escape the others are at a multiple of where they started.
        missed = runs.missed.sortby("init_scale").transpose("seed", "init_scale").values
        if np.isfinite(missed[:, :2]).all():
            said = f"{name}, init_scale {smallest:g}: relative distance to the first phase's eigenvalue, at the nearest"
            nearer = (missed[:, 0] < missed[:, 1]).all()
            later = "nearer in every seed than from the start before: it fades as a small power of init_scale"
            found.append(Finding.of(said, (0.0, 0.01), every_seed(missed[:, 0]), later if nearer else ""))
        for what, width, values in (
            ("slope of the first escape's time on ln(1/init_scale), over the foreseen", 0.01, pace.isel(phase=0)),
            ("slope of the second escape's time on ln(1/init_scale), over the foreseen", 0.05, pace.isel(phase=1)),
            ("power of init_scale of what is beyond the rank at the last escape, over the foreseen", 0.1, power),
            ("slope of ln(distance to the greedy end) on ln(init_scale), over the foreseen 2", 0.1, runs.fall / 2),
        ):
            known = np.isfinite(values.values)
            if known.sum() > 1 and (runs.depth > 2) == what.endswith("2"):
                of = "" if known.all() else f"; {known.sum()} of {known.size} seeds"
                band = (1 - width, 1 + width)
                found.append(
                    Finding.of(f"{name}: {what}{of}{few(int(known.sum()))}", band, every_seed(values.values[known]))
                )
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) a staircase, (b) which matrix, (c) when each rank appears, (d) what is left beyond the last."""
    title = "From an infinitesimal start: one rank after another, not the least nuclear norm"
    figure, ((stairs, which), (times, powers)) = plots.figure(2, 2, title)
    settings = _settings(dataset)
    name, first = settings[0]
    first = first.isel(seed=0)
    for place, scale in enumerate(np.unique(first.init_scale.values)[[-1, -1 - first.init_scale.size // 2, 0]]):
        run, shade = first.sel(init_scale=scale), {"color": f"C{place}", "alpha": 0.8}
        for mode in range(2):
            label = None if mode else f"init_scale {scale:g}"
            time = run.step * run.learning_rate / max(-np.log(scale), 1e-300)
            stairs.plot(time, run.eigenvalues.isel(mode=mode), label=label, **shade)
    jumps = [0.0, *first.escape_time.values[:2]]
    levels = [[0.0, 0.0], *first.level.values[:2, :2]]
    for mode in range(2 if np.isfinite(jumps).all() else 0):
        label = None if mode else "infinitesimal: greedy learning"
        heights = [max(level[mode], 0.0) for level in levels]
        plots.theory(stairs, [*jumps, 2.6 * jumps[-1]], [*heights, heights[-1]], label, drawstyle="steps-post")
    stairs.set_xlim(0, 2.6 * jumps[-1] if np.isfinite(jumps[-1]) else None)
    for number, (name, runs) in enumerate(settings):
        color = f"C{number}"
        apart = np.flatnonzero(runs.apart > APART)
        shown = runs.sel(init_scale=runs.init_scale >= (DEEPEST if runs.depth > 2 else 0.0))
        if apart.size and shown.init_scale.size:
            chosen, style = shown.isel(seed=apart).transpose("seed", "init_scale", ...), {"color": color}
            plots.seeds(which, chosen.greedy_distance, f"{name}: to the greedy end", **style)
            label = None if number else "(dotted: to the least trace)"
            plots.seeds(which, chosen.least_distance, label, linestyle=":", **style)
        if runs.depth > 2:
            continue
        dots: dict[str, Any] = {"color": color, "markersize": 4, "alpha": 0.7}
        for phase, marker in enumerate("os"):
            foreseen = runs.escape_time.isel(phase=phase)
            plots.points(times, foreseen, runs.pace.isel(phase=phase), marker=marker, **dots)
        plots.points(powers, runs.exponent, runs.power, name, **dots)
    plots.theory(times, (0.4, 15.0), (0.4, 15.0), "from greedy learning's spectra")
    plots.theory(powers, (0.3, 2.4), (0.3, 2.4), "from greedy learning's spectra")
    ranks = "foreseen (circles: first rank, squares: second)"
    stairs.set(
        title="a  a staircase (seed 0)", xlabel="time / ln(1/init_scale)", ylabel="the two largest eigenvalues of X"
    )
    which.set(xlabel="init_scale", ylabel="distance / norm", ylim=(1e-15, 3))
    which.set_title(f"b  which matrix, after {int(dataset.steps.max()):,} steps")
    times.set(title="c  when each rank appears", xlabel=ranks, ylabel="time of escape per ln(1/init_scale)")
    powers.set(title="d  what is left beyond it", xlabel="foreseen", ylabel="power of init_scale")
    for axes in (which, times):
        axes.set(xscale="log", yscale="log")
    for axes in figure.axes:
        plots.legend(axes, **({"loc": "center right", "bbox_to_anchor": (1, 0.65)} if axes is stairs else {}))
    return figure


ARMS = ("measured", "dominance", "second", "learning_rate", "depth")
SETTINGS = [
    (0.0, 6.0, 0.35, 0.4, 2),
    (0.0, 1.0, 0.35, 0.4, 2),
    (24.0, 1.0, 0.35, 0.1, 2),
    (11.0, 1.0, 0.0, 0.05, 2),
    (11.0, 1.0, 0.0, 0.05, 3),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, ARMS: SETTINGS, "init_scale": tuple(10.0**-power for power in (2, 3, 4, 5, 6, 8, 10, 12))},
    smoke={"seeds": 2, ARMS: [SETTINGS[0], SETTINGS[3]]},
    paper={
        "seeds": 16,
        "size": 20,
        "steps": 100_000,
        ARMS: [*SETTINGS[:2], (120.0, 1.0, 0.35, 0.05, 2), (40.0, 1.0, 0.0, 0.03, 2), (40.0, 1.0, 0.0, 0.03, 3)],
    },
    control={"init_scale": 1.0},
)
