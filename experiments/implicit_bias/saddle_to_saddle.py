"""From next to nothing a diagonal linear network jumps from saddle to saddle, at times known beforehand.

Claim: Gradient flow on w = u² − v² from u = v = α stays, as α → 0, at one saddle of the loss after another; in units of
ln(1/α) the times of the jumps tend to those of a homotopy like LARS, up to terms of order 1/ln(1/α), and the saddles to
its points, up to powers of α. What is chosen next is decided by the integral of the gradient (|s_i| = 1, where
s = −2 ∫∇L/ln(1/α)), not by the gradient of the moment as in matching pursuit. The last point is the interpolant of
least l1 norm. From a start that is not small there are no saddles.

Source: Pesme & Flammarion 2023, arXiv 2304.00488, Algorithm 1 (limit, jump times, saddles). The orders in 1/ln(1/α) and
α are derived here: |w_i| = α^(2(1 − |s_i|)), so a weight is at half its size where |s_i| = 1 + O(1/ln(1/α)).

Departure: Pesme & Flammarion draw one small problem with one small α; here 8 Gaussian samples of 12 features with three
planted weights, α from 10⁻⁴ to 10⁻¹²⁸, and every jump that theory puts 0.4 or more from its neighbours is timed where
the way from one saddle to the next is half done. Descent with learning rate η is late by a factor 1 + O(η), the same at
every α: the limit 1/ln(1/α) → 0 is judged with that allowance, and the order by differences, in which it drops out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.data import gaussian_regression
from research.dynamics import Descent, Run, descent, start
from research.experiment import Experiment, Finding
from research.labels import lift, norm
from research.oracles.least_squares import minimum_l1_norm, minimum_l2_norm
from research.oracles.saddle_to_saddle import jump_times, matching_pursuit, saddles
from research.statistics import crossing, every_seed, few, over_seeds, slope

MOST = 40  # jumps that theory is asked for
APART = 0.4  # from its neighbours a jump must lie to be judged
SMALL = 15  # decades of 1/α from which on the terms of order 1/ln(1/α) are followed


class Observables(NamedTuple):
    weights: Float[Array, "feature"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]


def simulate(
    key: Array,
    learning_rate: float,
    decades: float,
    tilt: float = 0.0,
    *,
    samples: int = 8,
    features: int = 12,
    support: int = 3,
    horizon: float = 10.0,
    steps: int = 2000,
) -> Run:
    """One descent on 1/(2n) ‖Xw − y‖², w = u² − v², u = v = α = 10^−decades, up to the time horizon · ln(1/α).

    A step of the run is horizon/steps of that time: as many steps of descent as the learning rate, at most
    `learning_rate`, needs. With `tilt` feature i of d starts at α^(1 + tilt · (i − 1)/(d − 1)) instead.
    """
    X, y, _ = gaussian_regression(key, samples, features, support=support)
    size = decades * jnp.log(10.0)
    count = jnp.ceil(horizon / steps * size / learning_rate)
    optimizer = optax.sgd(horizon / steps * size / count)
    weights = lambda halves: halves[0] ** 2 - halves[1] ** 2
    fine = descent(lambda halves: optax.l2_loss(X @ weights(halves), y).mean(), optimizer)

    def step(state: Descent) -> Descent:
        return jax.lax.fori_loop(0, count.astype(int), lambda _, inner: fine(inner), state)

    initial = jnp.exp(-size * (1 + tilt * jnp.linspace(0.0, 1.0, features)))
    observe = lambda state: Observables(weights(state.params))
    return Run(start(jnp.stack([initial, initial]), optimizer), step, observe, np.arange(steps + 1), Given(X, y))


def timed(
    time: np.ndarray, weights: np.ndarray, jumps: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """When each way from one saddle to the next is half done, and the distance to the saddle before each jump.

    Looked for between the middles of the plateaus by theory, of those jumps that lie apart; NaN for the others. The
    distance is that at the middle of the plateau which ends with the jump, over the norm of the last saddle.
    """
    seen, off = np.full((2, len(jumps)), np.nan)
    known = int(np.isfinite(jumps).sum())
    if not known or not np.isfinite(weights).all():
        return seen, off
    edges = np.r_[0.0, jumps[:known], max(time[-1], jumps[known - 1])]
    stops = np.vstack([np.zeros(weights.shape[1]), points[:known]])
    for k in range(known):
        middles = (edges[k : k + 2].mean(), edges[k + 1 : k + 3].mean())
        if np.diff(edges[k : k + 3]).min() < APART or middles[1] > time[-1]:
            continue
        inside = (time >= middles[0]) & (time <= middles[1])
        way = stops[k + 1] - stops[k]
        seen[k] = crossing(time[inside], (weights[inside] - stops[k]) @ way / (way @ way), 0.5)
        at = np.array([np.interp(middles[0], time, column) for column in weights.T])
        off[k] = np.linalg.norm(at - stops[k]) / np.linalg.norm(stops[-1])
    return seen, off


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The saddles and the times of the jumps by theory, what the runs show of them, and the rivals."""
    if not dataset.decades.ndim:
        alone = dataset[["X", "y"]].drop_vars("decades")
        dataset = dataset.expand_dims("decades").assign(alone)
    X, y = dataset.X, dataset.y
    times, points = lift(jump_times, X, y, most=MOST), lift(saddles, X, y, most=MOST)
    time = dataset.step * dataset.horizon / dataset.steps
    core = [["step"], ["step", "feature"], ["jump"], ["jump", "feature"]]
    seen, off = xr.apply_ufunc(
        timed,
        time,
        dataset.weights,
        times,
        points,
        input_core_dims=core,
        output_core_dims=[["jump"], ["jump"]],
        vectorize=True,
    )
    end = dataset.weights.sel(step=dataset.steps)
    l1, l2 = lift(minimum_l1_norm, X, y), lift(minimum_l2_norm, X, y)
    support = (points != 0).where(points.notnull()).sum("feature", min_count=1)
    return dataset.assign(
        time=time,
        times=times,
        saddles=points,
        seen=seen,
        off=off,
        support=support,
        pursuit=norm(points - lift(matching_pursuit, X, y, support)) / norm(l1),
        from_l1=norm(end - l1) / norm(l1),
        from_l2=norm(end - l2) / norm(l2),
        done=times.max("jump") + APART < dataset.horizon,
    )


def _along(runs: xr.Dataset, variable: str) -> xr.DataArray:
    """The variable of the smallest learning rate, without tilt, by seed, decades and whatever else it has."""
    chosen = runs[variable]
    axes = [each for each in runs.diverged.dims if each not in ("seed", "decades")]
    least = {each: int(runs[each].argmin()) if each in runs.coords else 0 for each in axes}
    return chosen.isel(least).transpose("seed", "decades", ...).sortby("decades")


def _squared(decades: np.ndarray) -> list[float]:
    """Those decades of 1/α whose double, that of 1/α², is there as well."""
    return [float(each) for each in decades if 2 * each in decades]


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The times of the jumps, their order, the saddles, what is not the rule of choice, the end, and a large start."""
    found: list[Finding] = []
    seen, off = _along(dataset, "seen"), _along(dataset, "off")
    decades = seen.decades.values
    small = decades >= SMALL
    times, pursuit = (dataset[name].transpose("seed", "jump", ...) for name in ("times", "pursuit"))
    judged = np.isfinite(seen.values[:, small]).all(axis=1) if small.any() else np.zeros(times.shape, bool)
    counted = judged.any(axis=1)
    told = f"{int(judged.sum())} of {int(np.isfinite(times.values).sum())} jumps, of {int(counted.sum())} seeds"
    told += few(int(counted.sum()))
    extremes = lambda rows: np.stack([reduce(rows[counted], axis=1) for reduce in (np.nanmin, np.nanmax)])
    if small.sum() >= 2 and (counted.any() or not np.isfinite(times.values).any()):
        inverse, late = 1 / decades[small], seen.values[:, small].transpose(0, 2, 1)
        steep = slope(inverse, late)
        limit = np.where(judged, (late.mean(axis=-1) - steep * inverse.mean()) / times.values, np.nan)
        # The way is interpolated on a grid, and descent is late by the factor 1 + η|∇|, |∇| < 1.
        room = 0.01 + float(np.max(dataset.learning_rate))
        said = (
            f"time of a jump over theory's, extrapolated linearly to 1/ln(1/α) = 0, a seed's least and largest, {told}"
        )
        found.append(
            Finding.of(said, (1 - room, 1 + room), every_seed(extremes(limit) if counted.any() else np.full(2, np.nan)))
        )
    pairs = _squared(decades[small])
    if len(pairs) >= 2 and counted.any():
        values = seen.where(xr.DataArray(judged, dims=("seed", "jump")))
        moved = [abs(values.sel(decades=low) - values.sel(decades=2 * low)).mean("jump").values for low in pairs]
        order = slope(np.log(pairs), np.log(np.stack(moved, axis=1)[counted]))
        said = "slope of ln|time of a jump at α − that at α²| on ln ln(1/α), mean of a seed's jumps"
        said += few(int(counted.sum()))
        found.append(Finding.of(said, (-1.1, -0.9), every_seed(order)))
    last = np.where(judged, off.values[:, -1], np.nan)
    if counted.any() and small.any():
        said = f"α = 10^-{decades[-1]:g}: distance to the saddle at the middle of a plateau, a seed's largest, over ‖w‖"
        said += few(int(counted.sum()))
        found.append(Finding.of(said, (0.0, 0.01), every_seed(np.nanmax(last[counted], axis=1))))
        # the saddle before a jump is the one that the jump before led to
        rival = np.pad(pursuit.values, ((0, 0), (1, 0)))[:, :-1]
        differs = judged & (rival > 0.1)
        if differs.any(axis=1).sum() > 1:
            ratios = np.where(differs, last / np.maximum(rival, 1e-300), np.nan)[differs.any(axis=1)]
            said = "the same over the distance to matching pursuit, where it is elsewhere: "
            said += f"{int(differs.sum())} saddles{few(len(ratios))}"
            found.append(Finding.of(said, (0.0, 0.1), every_seed(np.nanmax(ratios, axis=1))))
    done = dataset.done.values
    if done.sum() > 1:
        ends = np.log((_along(dataset, "from_l1") / _along(dataset, "from_l2")).values[done, -1])
        said = f"α = 10^-{decades[-1]:g}: ln(distance of the end to the l1 interpolant / to the l2 one)"
        said = f"{said}, {int(done.sum())} of {done.size} seeds{few(int(done.sum()))}"
        found.append(Finding.of(said, (-np.inf, np.log(0.01)), every_seed(ends)))
    if decades[0] < 1:
        near = off.values[:, 0]
        inner = np.isfinite(near) & np.isfinite(np.pad(pursuit.values, ((0, 0), (1, 0)))[:, :-1])
        inner[:, 0] = False
        rows = inner.any(axis=1)
        if rows.sum() > 1:
            said = f"α = 10^-{decades[0]:g}: distance to the saddle at the middle of a plateau, mean of a seed's,"
            said += " over ‖w‖"
            mean = np.nanmean(np.where(inner, near, np.nan)[rows], axis=1)
            found.append(Finding.of(said, (0.1, np.inf), over_seeds(mean)))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the loss and (b) the weights of one seed, (c) the times of all jumps, (d) their distance to theory."""
    figure, ((loss, course), (scatter, order)) = plots.figure(2, 2, "From saddle to saddle, at times known beforehand")
    seen = _along(dataset, "seen")
    decades = seen.decades.values
    timed = np.isfinite(seen.values[:, -1])
    seed = int(timed.sum(axis=1).argmax())
    one = dataset.isel(seed=seed)
    X, y, time = one.X.values, one.y.values, one.time.values.ravel()[: one.sizes["step"]]
    weights = _along(dataset, "weights").isel(seed=seed)
    known = int(np.isfinite(one.times.values).sum())
    stops = np.vstack([np.zeros(X.shape[1]), one.saddles.transpose("jump", "feature").values[:known]])
    edges = np.r_[0.0, one.times.values[:known], time[-1]]
    loss_of = lambda rows: ((rows @ X.T - y) ** 2).sum(axis=-1) / (y @ y)
    for number, place in enumerate(np.unique(np.linspace(0, len(decades) - 1, 3).round().astype(int))):
        path = weights.isel(decades=place).transpose("step", "feature").values
        loss.plot(time, loss_of(path), color=f"C{number}", label=f"α = 10^-{decades[place]:g}")
    stairs = np.repeat(np.arange(known + 1), 2)
    ends = np.repeat(edges, 2)[1:-1]
    plots.theory(loss, ends, loss_of(stops[stairs]), "α → 0")
    path = weights.isel(decades=-1).transpose("step", "feature").values
    for feature in range(X.shape[1]):
        course.plot(time, path[:, feature], color=f"C{feature % 7}", linewidth=1.2, alpha=0.9)
        plots.theory(course, ends, stops[stairs, feature], None if feature else "α → 0", linewidth=0.9)
    for place, scale in enumerate(decades):
        rows, style = seen.isel(decades=place), {"color": f"C{place}", "alpha": 0.7}
        plots.points(scatter, dataset.times, rows, f"α = 10^-{scale:g}", **style)
    top = float(dataset.horizon.max())
    plots.theory(scatter, (0.3, top), (0.3, top), "α → 0")
    pairs = _squared(decades[decades > 1])
    moved = [abs(seen.sel(decades=low) - seen.sel(decades=2 * low)).values.ravel() for low in pairs]
    for line in np.array(moved).T:
        order.plot(pairs, np.maximum(line, 1e-6), color="C0", alpha=0.4, linewidth=0.8, marker="o", markersize=2)
    plots.theory(order, pairs, [1 / low for low in pairs], "∝ 1/ln(1/α)")
    loss.set(title=f"a  the loss (seed {seed})", xlabel="time / ln(1/α)", ylabel="loss / at the start")
    course.set(title=f"b  the weights, α = 10^-{decades[-1]:g}", xlabel="time / ln(1/α)", ylabel="weights w")
    scatter.set(title="c  the times of the jumps, all seeds", xlabel="theory", ylabel="time of the jump / ln(1/α)")
    order.set(title="d  what is left is of order 1/ln(1/α)", xlabel="log₁₀(1/α)", ylabel="|time at α − time at α²|")
    for axes in (scatter, order):
        axes.set(xscale="log", yscale="log")
    for axes in figure.axes:
        plots.legend(axes)
    return figure


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 12, "decades": (0.5, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0), "learning_rate": 0.01},
    smoke={"seeds": 3, "decades": (16.0, 32.0), "learning_rate": 0.02, "horizon": 5.0, "steps": 500},
    paper={"seeds": 32, "decades": (0.5, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0), "learning_rate": 0.002},
    control={"tilt": 0.5},
)
