"""A deep linear network learns its modes one after the other, the strongest first, each along an exact sigmoid.

Claim: On whitened inputs, and started with balanced layers along the singular vectors of the target, gradient flow
learns every mode alone. At depth 2 its strength is a(t) = s e^(2st)/(e^(2st) − 1 + s/a0), which is half learned at t =
ln(s/a0 − 1)/(2s). From the same a0, and for s of order one, three layers wait longer and then rise more steeply; a
single layer does not wait at all. Gradient descent is O(η) away, and later by (η/2) ln(f(w½)/f(w0)), f = w^(L−1) (s −
w^L) being the speed of a layer.

Source: Saxe, McClelland & Ganguli 2014, arXiv 1312.6120, section 1.3 and figure 3, and section 2 for depth; the delay
is derived here from the modified equation of a step (see the oracle).

Departure: Saxe et al. show the curves, and the half-time's delay over 100 random starts (figure 3, right). Here the
order in η of the largest error is measured, and the same error on the starts and inputs that the theorem excludes: a
random start, layers of different size, and correlated inputs, where it does not vanish with η. The loss is the expected
one, of inputs with a given covariance: nothing depends on samples. A random start of depth 2 comes close to the sigmoid
again, if a0 is read off its own layers: |g|²/4 of g = W1 v + W2ᵀ u, the part that grows, after Gram and Schmidt have
taken from g its components along those of the stronger modes, which decay once these are learned (derived here: with W
= W2 W1, p = W1 v and q = W2ᵀ u, p' = s q − W2ᵀW2 p and q' = s p − W1W1ᵀ q).
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
from research.labels import arms, averaged, lift, per_seed, select, sound, table
from research.models import matrix_product
from research.optimizers import until
from research.oracles.deep_linear import deep_linear_modes, descent_delay, time_to_reach
from research.statistics import crossing, every_seed, over_seeds, slope

STRENGTHS = (4.0, 3.0, 2.0, 1.0)
HORIZON = 8.0
FINE = 1 / 64  # learning rates up to here are judged
TIMES = ("half_time", "rise")


class Observables(NamedTuple):
    strength: Float[Array, "mode"]
    coupling: Float[Array, ""]


class Given(NamedTuple):
    s: Float[Array, "mode"]
    effective: Float[Array, "mode"]


def reflection(v: Float[Array, "row"]) -> Float[Array, "row column"]:
    """The orthogonal matrix I − 2vvᵀ/‖v‖²: of a Gaussian v a random one, and no decomposition is needed."""
    return jnp.eye(v.size) - 2 * jnp.outer(v, v) / (v @ v)


def simulate(
    key: Array,
    learning_rate: float,
    init_scale: float = 1e-3,
    randomness: float = 0.0,
    imbalance: float = 0.0,
    condition_number: float = 1.0,
    *,
    depth: int = 2,
    size: int = 6,
    width: int = 8,
    steps: int = 2048,
) -> Run:
    """One descent on half the expected squared error of W_L … W_1 x against U diag(STRENGTHS) Vᵀ x, up to time HORIZON.

    The layers start along the modes with product `init_scale` in each (`randomness` 0), the first one e^imbalance times
    as large and the last one as much smaller, or Gaussian (`randomness` 1) of a variance that makes the expected
    growing part of a mode `init_scale` at depth 2. The input covariance has `condition_number`, mean eigenvalue 1, and
    random eigenvectors. `coupling` is the Frobenius norm of UᵀWV off the modes, over that of the target.
    """
    modes, s = len(STRENGTHS), jnp.array(STRENGTHS)
    for name, value in (("size", size), ("width", width)):
        if value < modes:
            raise ValueError(f"{name} is {value}: it takes at least {modes}, as many as there are modes")
    data_key, init_key = jax.random.split(key)
    left, right, own = jax.random.normal(data_key, (3, size))
    U, V = reflection(left)[:, :modes], reflection(right)[:, :modes]
    target, axes = (U * s[None, :]) @ V.T, reflection(own)
    spectrum = condition_number ** -jnp.linspace(0.0, 1.0, size)
    covariance = (axes * (spectrum / spectrum.mean())[None, :]) @ axes.T
    sizes, widest = [size, *[width] * (depth - 1), size], max(size, width)
    draw = jax.random.normal(init_key, (depth, widest + 1, widest))  # one draw, as each more costs time to compile
    bases = [V, *(reflection(vector)[:, :modes] for vector in draw[: depth - 1, -1, :width]), U]
    lean = jnp.exp(imbalance * jnp.linspace(1.0, -1.0, depth)) if depth > 1 else jnp.ones(1)
    deviation = (2 * init_scale / width) ** 0.5 if depth == 2 else init_scale ** (1 / depth) / width**0.5
    factors = [
        (1 - randomness) * lean[layer] * init_scale ** (1 / depth) * bases[layer + 1] @ bases[layer].T
        + randomness * deviation * draw[layer, : sizes[layer + 1], : sizes[layer]]
        for layer in range(depth)
    ]

    def loss(factors: list[Array]) -> Array:
        error = matrix_product(factors) - target
        return jnp.sum(error @ covariance * error) / 2

    def observe(state: Any) -> Observables:
        W = U.T @ matrix_product(state.params) @ V
        strength = jnp.diagonal(W)
        return Observables(strength, jnp.linalg.norm(W - jnp.diag(strength)) / jnp.linalg.norm(s))

    growing = (factors[0] @ V + factors[-1].T @ U).T if depth == 2 else jnp.full((modes, width), jnp.nan)
    free: list[Array] = []  # of each mode, what the stronger ones leave: Gram and Schmidt's vectors
    for vector in growing:
        free.append(vector - sum((vector @ other) / (other @ other) * other for other in free))
    effective = jnp.array([vector @ vector / 4 for vector in free])
    optimizer = optax.sgd(until(HORIZON, learning_rate))
    at = log_spaced(steps, 1 + round(10 * np.log2(steps / 16)), first=16)  # common times of rates that are halved
    return Run(start(factors, optimizer), descent(loss, optimizer), observe, at, Given(s, effective))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The sigmoids, how far the strengths are from them at worst, and when each mode is half learned."""
    dataset = sound(dataset)
    time = np.minimum(dataset.step * dataset.learning_rate, HORIZON)
    follows = dataset.step * dataset.learning_rate <= HORIZON * (1 + 1e-9)
    oracle = lambda initial: lift(deep_linear_modes, dataset.s, initial, dataset.depth, time)
    away = lambda predicted: (abs(dataset.strength - predicted) / dataset.s).where(follows, 0.0)
    worst = lambda predicted: away(predicted).max(("step", "mode")).where(~dataset.diverged)
    predicted = oracle(dataset.init_scale)
    near = abs(dataset.strength / dataset.s - 0.5).fillna(1.0).argmin("step")
    reached, when = dataset.strength.isel(step=near), time.isel(step=near)
    known = (dataset.s, dataset.init_scale, dataset.depth)
    return dataset.assign(
        time=time,
        predicted=predicted,
        error=worst(predicted).where(predicted.notnull().all(("step", "mode"))),
        effective_error=worst(oracle(dataset.effective)).where(dataset.effective.notnull().all("mode")),
        half_time=_time_at(0.5, time, dataset.strength, dataset.s),
        rise=_time_at(0.75, time, dataset.strength, dataset.s) - _time_at(0.25, time, dataset.strength, dataset.s),
        predicted_half_time=lift(time_to_reach, *known, dataset.s / 2),
        effective_half_time=lift(time_to_reach, dataset.s, dataset.effective, dataset.depth, dataset.s / 2),
        # read where it was recorded next to half of s: between two records the curve is not known well enough
        delay=(when - lift(time_to_reach, *known, reached)) / lift(descent_delay, *known, reached),
        coupled=dataset.coupling.max("step"),
    )


def _time_at(part: float, time: xr.DataArray, strength: xr.DataArray, s: xr.DataArray) -> xr.DataArray:
    """When that part of s is first reached; the log-odds, between which is interpolated, are nearly linear in time."""
    share = (strength / s).clip(1e-12, 1 - 1e-12)
    first = lambda t, odds: crossing(t, odds, np.log(part / (1 - part)))
    return xr.apply_ufunc(
        first, time, np.log(share / (1 - share)), input_core_dims=[["step"], ["step"]], vectorize=True
    )


def _said(point: dict[str, Any]) -> str:
    """What a start and its inputs are called."""
    aligned = not point["randomness"] and not point["imbalance"] and point["condition_number"] == 1
    words = [f"depth {point['depth']}" + (f" from {point['init_scale']:g}" if aligned else "")]
    words += [f"random start of {point['init_scale']:g}"] if point["randomness"] else []
    words += [f"layers e^±{point['imbalance']:g} unbalanced"] if point["imbalance"] else []
    words += [f"inputs of condition {point['condition_number']:g}"] if point["condition_number"] > 1 else []
    return ", ".join(words)


def _arms(dataset: xr.Dataset) -> list[tuple[str, bool, xr.Dataset]]:
    """Each start and its inputs: name, whether the theorem speaks of it, and its runs by learning rate."""
    kept = dataset if dataset.learning_rate.ndim else dataset.expand_dims("learning_rate")
    found = []
    for point, _ in arms(kept.isel(learning_rate=[0])):
        place = {name: point[name] for name in ("depth", "init_scale", "randomness", "imbalance", "condition_number")}
        meant = not point["randomness"] and not point["imbalance"] and point["condition_number"] == 1
        others = [each for each in kept.diverged.dims if each not in ("seed", "learning_rate") and each in kept.dims]
        chosen = select(kept, **place)
        found.append((_said(place), meant, chosen.isel(dict.fromkeys(others, 0))))
    return found


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The order of the error, the half-times and their delay, and the starts of which the theorem does not speak.

    An error C η (1 + O(η)) has the slope 1 + O(η): 0.1 is allowed. Where a part of it does not vanish, the slope goes
    to zero, and is judged to be nearer to that.
    """
    found: list[Finding] = []
    for number, (name, meant, runs) in enumerate(_arms(dataset)):
        fine = runs.sel(learning_rate=runs.learning_rate <= FINE)
        if fine.learning_rate.size > 1:
            error = table(fine, "error", "learning_rate")
            slopes = slope(np.log(error.learning_rate), np.log(error))
            said = f"{name}: slope of ln(largest |a − theory|/s) on ln η"
            band = (0.9, 1.1) if meant or number == 0 else (-np.inf, 0.5)
            found.append(Finding.of(said, band, every_seed(slopes)))
        finest = fine.isel(learning_rate=[int(fine.learning_rate.values.argmin())]) if fine.learning_rate.size else fine
        if not finest.diverged.size:
            continue
        if meant:
            late = finest.delay / finest.learning_rate
            said = f"{name}: delay where a mode is half learned, over (η/2) ln(f(w)/f(w0))"
            # what is left is of order η s L, 0.05 for the strongest mode at η = 1/256
            ends = per_seed(late, "min", "max")
            found.append(Finding.of(said + ", least and largest of the modes", (0.9, 1.1), every_seed(ends)))
        elif "random" in name:
            gaps = finest.half_time.diff("mode")
            said = f"{name}: least time from a mode being half learned to the next weaker one"
            found.append(Finding.of(said, (0.0, np.inf), over_seeds(per_seed(gaps, "min"))))
            if finest.effective.notnull().all():  # depth 2
                gain = np.log10(per_seed(finest.effective_error) / per_seed(finest.error))
                said = f"{name}: log10 of the error with a0 read off the layers over that with a0 = init_scale"
                found.append(Finding.of(said, (-np.inf, 0.0), over_seeds(gain)))
    aligned = select(dataset, randomness=0.0, imbalance=0.0, condition_number=1.0)
    if aligned.diverged.size:
        said = "aligned starts: largest coupling between modes, ‖UᵀWV off the diagonal‖/‖s‖, of a seed's runs"
        found.append(Finding.of(said, (0.0, 1e-9), every_seed(per_seed(aligned.coupled))))
        found += _deeper(select(aligned, learning_rate=float(aligned.learning_rate.min())))
    return found


def _deeper(runs: xr.Dataset) -> list[Finding]:
    """Three layers against two from the same product: the wait, and the rise from a quarter to three quarters of s."""
    found = []
    for scale in np.unique(runs.init_scale.values).tolist():
        two, three = (select(runs, depth=depth, init_scale=scale) for depth in (2, 3))
        if two.diverged.size and three.diverged.size:
            wait, rise = (averaged(three[each], "seed", "mode") / averaged(two[each], "seed", "mode") for each in TIMES)
            for what, band, ratio in (
                ("half-times, least", (1.0, np.inf), per_seed(wait, "min")),
                ("rises from s/4 to 3s/4, largest", (0.0, 1.0), per_seed(rise)),
            ):
                said = f"aligned start of {scale:g}, depth 3 over depth 2: {what} of the modes"
                found.append(Finding.of(said, band, every_seed(ratio)))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the sigmoids, (b) the same from a random start, (c) orders of the error, (d) half-times."""
    figure, ((aligned, random), (orders, halves)) = plots.figure(
        2, 2, "Deep linear networks learn the strongest mode first"
    )
    every = _arms(dataset)
    panels = {next((name for name, _, _ in every if "random" in name), ""): random, every[0][0]: aligned}
    for number, (name, meant, runs) in enumerate(every):
        color = {"color": f"C{number}" if number < 7 else "tab:brown"}
        finest = runs.isel(learning_rate=int(runs.learning_rate.values.argmin()))
        if name in panels:
            curves = finest.assign_coords(time=finest.time).swap_dims(step="time")
            for mode in range(curves.sizes["mode"]):
                shown = curves.isel(mode=mode)
                plots.seeds(panels[name], shown.strength, f"s = {float(shown.s):g}", color=f"C{mode}")
                plots.theory(panels[name], shown.time, shown.predicted, None if mode else "closed form")
            panels[name].set_title(f"{'b' if panels[name] is random else 'a'}  {name}")
        if runs.learning_rate.size > 1:
            error = table(runs, "error", "learning_rate")
            plots.seeds(orders, error, name, linestyle="-" if meant else ":", marker="o", markersize=3, **color)
            rates = error.learning_rate.values
            if number == 0:
                plots.theory(orders, rates, float(error[:, 0].median()) * rates / rates[0], "slope 1")
        if meant or "random" in name:
            x, y = xr.broadcast(finest.predicted_half_time, finest.half_time)
            plots.points(halves, x, y, name if meant else f"{name},\na0 = scale", marker="o" if meant else "x", **color)
        if not meant and "random" in name:
            x, y = finest.effective_half_time, finest.half_time
            plots.points(halves, x, y, "the same, a0 read off the layers", marker="s", **color)
    ends = halves.get_xlim()
    plots.theory(halves, ends, ends, "formula")
    for axes in (aligned, random):
        axes.set(xlabel="time t = η · step", ylabel="strength of the mode", xlim=(0, HORIZON), ylim=(-0.2, 5))
        plots.legend(axes, loc="upper center", ncols=5, fontsize=6.5, columnspacing=1.0)
    orders.set(title="c  error at worst", xscale="log", yscale="log", ylim=(1e-5, 2))
    orders.set(xlabel="learning rate η", ylabel="largest |a − theory|/s")
    orders.xaxis.set_minor_formatter("")
    halves.set(title="d  when a mode is half learned", xlabel="time predicted", ylabel="time measured (finest η)")
    plots.legend(orders, loc="lower center", ncols=2, fontsize=6)
    plots.legend(halves, fontsize=6)
    return figure


AXES = ("depth", "init_scale", "randomness", "imbalance", "condition_number")
ARMS = [
    (2, 1e-3, 0.0, 0.0, 1.0),
    (1, 1e-3, 0.0, 0.0, 1.0),
    (3, 1e-2, 0.0, 0.0, 1.0),
    (2, 1e-2, 1.0, 0.0, 1.0),
    (2, 1e-4, 1.0, 0.0, 1.0),
    (2, 1e-3, 0.0, 1.0, 1.0),
    (2, 1e-3, 0.0, 0.0, 10.0),
    (2, 1e-2, 0.0, 0.0, 1.0),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS, "learning_rate": 2.0 ** np.arange(-5, -9, -1)},
    smoke={"seeds": 2, AXES: [ARMS[0], ARMS[3]], "learning_rate": (2.0**-7, 2.0**-8)},
    paper={"seeds": 32, "size": 32, "width": 64, "learning_rate": 2.0 ** np.arange(-4, -11, -1), "steps": 16384},
    control={"randomness": 1.0},
)
