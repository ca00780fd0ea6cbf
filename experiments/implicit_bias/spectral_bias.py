"""A wide network learns low frequencies first: along an eigenfunction of its tangent kernel, at the eigenvalue's rate.

Claim: Gradient descent on half the mean squared error, learning rate η, multiplies the residual along eigenfunction k
of the tangent kernel by 1 − ηλ_k in every step, as long as the kernel stays. On the circle the eigenfunctions of a wide
ReLU network with one hidden layer are Fourier modes; λ_k = (k² + 3)/(π²(k² − 1)²) for even k, 1/4 for k = 1, and 0 for
odd k > 1, which it cannot represent at all. With biases 1/(π²k²) is added for odd k. λ_k falls with k: spectral bias.

Source: Rahaman et al. 2019, arXiv 1806.08734 (low frequencies first; figure 1); Jacot, Gabriel & Hongler 2018, arXiv
1806.07572 (descent along the eigenfunctions); Basri, Jacobs, Kasten & Kritchman 2019, arXiv 1906.00425 (the circle, odd
frequencies, biases; they train the first layer); eigenvalues of both layers: research/oracles/arc_cosine.py.

Departure: Rahaman et al. train deep networks on sums of sinusoids on an interval; here inputs lie evenly on the circle,
where theory is exact, all frequencies have amplitude 1 and random phases, and the output is scaled by α with the start
subtracted (Chizat, Oyallon & Bach 2019, arXiv 1812.07956), which keeps the kernel for large α. For smooth units the
distance to the kernel's closed form is O(1/α). Here nearly all of it (in a check apart from this, all but 1 %) comes
from units turned on or off: weights move by δ ~ 1/(α√width), which turns a unit at an input with probability δ, and of
random signs the sum is αδ^(3/2) = α^−1/2 width^−3/4, before descent works on it. Without scaling (α = 1, start left in)
the order stays, but not the rates: higher frequencies are learnt more slowly than their eigenvalues say. With a small α
the kernel itself changes manyfold.
"""

from collections.abc import Callable
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
from research.labels import first_arm, largest, lift, middle_value, per_seed, select, sound, table
from research.observables.kernel import tangent_kernel
from research.oracles.arc_cosine import circle_eigenvalues, eigenfunctions, kernel_descent, mode_rates
from research.statistics import every_seed, over_seeds, slope, slope_within

FREQUENCIES = 8
FALL = 1.0  # a rate is read off where theory says the logarithm of a mode has fallen by no more than this
SEEN, FALLEN = 0.1, 0.5  # modes judged: share of the residual at the start, fall of the logarithm within the run


class Observables(NamedTuple):
    outputs: Float[Array, "sample"]
    kernel_change: Float[Array, ""]


class Given(NamedTuple):
    y: Float[Array, "sample"]
    angle: Float[Array, "sample"]
    frequency: Float[Array, "wave"]
    kernel: Float[Array, "sample other"]
    rate: Float[Array, ""]


def simulate(
    key: Array,
    alpha: float,
    learning_rate: float,
    subtracted: float = 1.0,
    bias: float = 0.0,
    *,
    width: int = 1024,
    samples: int = 32,
    steps: int = 800,
) -> Run:
    """One descent on 1/(2n) Σ (αf(x) − y)²/α², f(x) = Σ a max(b·x + √bias·c, 0)/√width, at n points of the circle.

    a and b are N(0, 1) at the start, c is 0; `subtracted` times what f says there is taken off. y is a sum of the
    frequencies 1 to 8 with amplitude 1. `learning_rate` is in units of 2/λ_0, below 1/2. `kernel_change` is relative,
    in the Frobenius norm.
    """
    data_key, init_key = jax.random.split(key)
    angle, frequency = 2 * jnp.pi * jnp.arange(samples) / samples, jnp.arange(1.0, FREQUENCIES + 1)
    phase = jax.random.uniform(data_key, (FREQUENCIES,), maxval=2 * jnp.pi)
    y = jnp.cos(angle[:, None] * frequency[None, :] + phase[None, :]).sum(axis=1)
    X = jnp.stack([jnp.cos(angle), jnp.sin(angle), jnp.full(samples, jnp.sqrt(bias))], axis=1)
    drawn = jax.random.normal(init_key, (width, 3))
    first = drawn.at[:, 2].set(0.0), drawn[:, 2]
    apply = lambda params, X: jax.nn.relu(X @ params[0].T) @ params[1] / width**0.5
    outputs = lambda params: alpha * (apply(params, X) - subtracted * apply(first, X))
    rate = learning_rate * 2 / (3 / jnp.pi**2 + bias / 4)
    optimizer = optax.sgd(rate)
    loss = lambda params: optax.l2_loss(outputs(params), y).mean() / alpha**2
    kernel = tangent_kernel(apply, first, X)

    def observe(state: tuple) -> Observables:
        change = jnp.linalg.norm(tangent_kernel(apply, state[0], X) - kernel) / jnp.linalg.norm(kernel)
        return Observables(outputs(state[0]), change)

    given = Given(y, angle, frequency, kernel, jnp.asarray(rate))
    return Run(start(first, optimizer), descent(loss, optimizer), observe, log_spaced(steps, 40), given)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The rates of the frequencies and eigenfunctions, what theory says they are, and how far the residual is from it.

    `measured` (frequency) and `ratio` (eigenfunction) come from the slope of the logarithm of a mode; `law` is the
    eigenvalue of the infinitely wide network. `lowest` and `highest` are the extreme ratios of a run.
    """
    dataset = sound(dataset)
    points, rate, at = dataset.samples, dataset.rate, dataset.step.astype(float)
    residual = dataset.outputs - dataset.y
    waves = dataset.angle * dataset.frequency
    power = lambda values: np.hypot((values * np.cos(waves)).sum("sample"), (values * np.sin(waves)).sum("sample"))
    amplitude = (power(residual) * 2 / points).where(residual.notnull().all("sample"))
    law = lift(circle_eigenvalues, dataset.frequency, points, dataset.bias)
    rates, functions = lift(mode_rates, dataset.kernel), lift(eigenfunctions, dataset.kernel)
    along: xr.DataArray = abs((residual * functions).sum("sample", skipna=False))
    begin = along.isel(step=0)
    seen = (begin > SEEN * (begin**2).sum("mode") ** 0.5) & (-_fall(rates, rate) * dataset.steps > FALLEN)
    # a rate that is not known stays NaN: what is not seen must not hide it
    ratio = (_rate(along, rates, rate) / rates).where(seen | rates.isnull())
    predicted = lift(kernel_descent, dataset.kernel, residual.isel(step=0, drop=True), rate, at)
    off = ((residual - predicted) ** 2).mean("sample", skipna=False) ** 0.5 / (dataset.y**2).mean("sample") ** 0.5
    measured = _rate(amplitude, law, rate)
    over_law = (measured / law).where(law > 0)
    known = rates.notnull().all("mode") & ~dataset.diverged
    judged = law.notnull().all("wave") & measured.where(law > 0, 0.0).notnull().all("wave")
    moves = judged & (over_law.isel(wave=0) > 0.5)  # else nothing is learnt, odd or not
    return dataset.assign(
        amplitude=amplitude,
        learnt=power(dataset.outputs) * 2 / points,
        law=law,
        measured=measured,
        mean_over_law=over_law.mean("wave").where(judged),
        error_of_law=(((over_law - 1) ** 2).mean("wave") ** 0.5).where(judged),
        slowest_over_law=over_law.isel(wave=-1),
        inverted=_inverted(measured, law).where(judged),
        unlearnt=abs(amplitude / amplitude.isel(step=0) - 1).where(law == 0, 0.0).max(("step", "wave")).where(moves),
        lowest=ratio.min("mode").where(known),
        highest=ratio.max("mode").where(known),
        foreseen=amplitude.isel(step=0) * np.exp(_fall(law, rate) * at),
        distance=off.max("step", skipna=False),
        final_change=dataset.kernel_change.sel(step=dataset.steps),
    )


def _fall(eigenvalue: xr.DataArray, rate: xr.DataArray) -> xr.DataArray:
    """What one step adds to the logarithm of a mode: ln(1 − ηλ)."""
    fall: xr.DataArray = xr.apply_ufunc(np.log, abs(1 - rate * eigenvalue))
    return fall


def _rate(values: xr.DataArray, eigenvalue: xr.DataArray, rate: xr.DataArray) -> xr.DataArray:
    """The λ for which (1 − ηλ)^t falls as the values do, over the steps in which theory has them fall by e^−FALL."""
    window = _fall(eigenvalue, rate) * values.step >= -FALL
    measured: xr.DataArray = xr.apply_ufunc(np.expm1, slope_within(values.step.astype(float), np.log(values), window))
    return -measured / rate


def _inverted(measured: xr.DataArray, law: xr.DataArray) -> xr.DataArray:
    """The number of pairs of frequencies, eigenvalues not 0, whose measured rates are in the wrong order."""
    other, slower = measured.rename(wave="second"), law.rename(wave="second")
    return ((law > slower) & (slower > 0) & (measured <= other)).sum(("wave", "second")).astype(float)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Rates over the kernel's and the circle's; powers of α and width; odd frequencies; biases; without scaling."""
    found: list[Finding] = []
    lazy, plain = select(dataset, subtracted=1.0), select(dataset, subtracted=0.0, bias=0.0)
    free, biased = select(lazy, bias=0.0), select(lazy, bias=1.0)

    def add(runs: xr.Dataset, said: str, band: tuple[float, float], interval: Callable, **extremes: str) -> None:
        """The extremes, by variable, of the runs of each seed."""
        if runs.diverged.size:
            rows = [per_seed(runs[name], extreme) for name, extreme in extremes.items()]
            place = f"α = {float(runs.alpha.max()):g}, width {int(runs.width.max())}: " if runs.alpha.size == 1 else ""
            found.append(Finding.of(place + said, band, interval(np.stack(rows) if len(rows) > 1 else rows[0])))

    def fit(runs: xr.Dataset, said: str, variable: str, axis: str, band: tuple[float, float]) -> None:
        if runs.diverged.size and np.unique(runs[axis].values).size > 1:
            values = table(runs, variable, axis)
            estimate = over_seeds(slope(np.log(values[axis]), np.log(values)))
            found.append(Finding.of(f"slope of ln on ln {axis.replace('alpha', 'α')}: {said}", band, estimate))

    exact, extremes = (0.9, 1.1), {"lowest": "min", "highest": "max"}
    judged = _laziest(free if free.diverged.size else dataset)
    along = "rate along an eigenfunction of the kernel at the start over its eigenvalue, all of a seed"
    add(judged, along, exact, every_seed, **extremes)
    circle = "rate of a frequency over the circle's eigenvalue, mean over frequencies"
    add(judged, circle, exact, over_seeds, mean_over_law="mean")
    add(_laziest(biased), f"with biases: {circle}, odd ones too", exact, over_seeds, mean_over_law="mean")
    none = "no biases, odd frequencies > 1: largest relative change of the residual, any α and width"
    add(select(dataset, bias=0.0), none, (0.0, 1e-9), every_seed, unlearnt="max")
    sweep = select(free, width=middle_value(dataset.width), alpha=lambda alpha: alpha >= 3, learning_rate=RATE)
    wide = select(free, alpha=ANCHOR, learning_rate=RATE)
    # a mean over units; the band separates −1/2 from the exponents 0 and −1
    fit(wide, "rate over the circle's eigenvalue, distance from 1", "error_of_law", "width", (-0.75, -0.25))
    # exponents of both terms, smooth and kinks: −1 and −1/2, −1 and −3/4; 0.05 for what remains of the seeds
    fit(sweep, "distance to the kernel's closed form; smooth −1, kinks −1/2", "distance", "alpha", (-1.05, -0.45))
    fit(wide, "distance to the kernel's closed form; smooth −1, kinks −3/4", "distance", "width", (-1.05, -0.7))
    standard = largest(plain, "width")
    add(standard, "not scaled: pairs of frequencies in the wrong order", (0.0, 0.0), every_seed, inverted="max")
    slow = "rate of the highest frequency over the circle's eigenvalue"
    add(standard, f"not scaled: {slow}", exact, every_seed, slowest_over_law="mean")
    rich = select(free, alpha=lambda alpha: alpha < 1)
    add(rich, f"feature learning: {slow}", exact, every_seed, slowest_over_law="mean")
    return found


def _laziest(runs: xr.Dataset) -> xr.Dataset:
    """The runs of the largest α among the widest."""
    return largest(largest(runs, "width"), "alpha")


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a, b) what is learnt, by frequency and step; (c, d) residuals; (e) rates and (f) errors against α."""
    figure, panels = plots.figure(2, 3, "Low frequencies first, at the rates of the kernel")
    (plain, biased, rates), (lazy, rich, errors) = panels
    centred, waves = select(dataset, subtracted=1.0), np.arange(1, FREQUENCIES + 1)
    free = select(centred, bias=0.0)
    for axes, runs in ((plain, free), (biased, select(centred, bias=1.0))):
        if runs.diverged.size:
            runs = first_arm(_laziest(runs))
            learnt = runs.learnt.isel(step=slice(1, None)).median("seed").transpose("step", "wave")
            colour = axes.pcolormesh(waves, learnt.step, learnt.clip(0, 1), shading="nearest", vmin=0, vmax=1)
            figure.colorbar(colour, ax=axes, label="share learnt")
            due = 1 / (runs.law.where(runs.law > 0) * float(runs.rate.max()))
            plots.theory(axes, waves, due, "1/(ηλ)", linestyle="none", marker="_", ms=18, mew=3)
            axes.set_ylim(1, float(learnt.step.max()))
        axes.grid(False)
        axes.set(xlabel="frequency k", ylabel="step", yscale="log", xticks=waves)
    for axes, runs in ((lazy, _laziest(free)), (rich, largest(select(dataset, subtracted=0.0, bias=0.0), "width"))):
        runs = first_arm(runs) if runs.diverged.size else runs
        for number, k in enumerate(np.flatnonzero(runs.law > 0) if runs.diverged.size else ()):
            left = runs.isel(wave=k, step=slice(1, None))
            begin = runs.amplitude.isel(wave=k, step=0)
            plots.seeds(axes, left.amplitude / begin, f"k = {k + 1}", color=f"C{number}")
            line = (left.foreseen / begin).median("seed")
            plots.theory(axes, left.step, line, None if number else "(1 − ηλ)^t")
        axes.set(xlabel="step", ylabel="residual / residual at the start", xscale="log", yscale="log", ylim=(0.02, 9))
    middle = select(free, width=middle_value(dataset.width))
    swept = select(middle, learning_rate=float(np.max(dataset.learning_rate)))
    if swept.diverged.size:
        plots.points(errors, middle.alpha, middle.final_change, "change of the kernel", color="C6", marker="x")
        for number, (name, said) in enumerate({"highest": "fastest", "lowest": "slowest"}.items()):
            plots.points(rates, swept.alpha, swept[name], f"{said} of a run", color=f"C{number}")
        for number, width in enumerate(np.unique(free.width.values)[::-1].tolist()):
            runs = select(free, width=width)
            plots.points(errors, runs.alpha, runs.distance, f"width {width}", color=f"C{number}", alpha=0.7)
        far = np.unique(np.append(swept.alpha.values, 3.0))
        level = float(largest(swept, "alpha").distance.median(skipna=True))
        for power, line, said in ((-1, ":", "1/α"), (-0.5, "--", "1/√α")):
            plots.theory(errors, far, level * (far / far[-1]) ** power, said, linestyle=line)
    plots.theory(rates, (1.0, 300.0), (1.0, 1.0))
    plain.set_title("a  no biases: odd k > 1 never")
    biased.set_title("b  biases: all in turn")
    lazy.set_title("c  scaled up: the kernel's rates")
    rich.set_title("d  not scaled: the order, not the rates")
    rates.set(title="e  along eigenfunctions", xlabel="output scale α", ylabel="rate / eigenvalue", xscale="log")
    errors.set(title="f  distance to the closed form", xlabel="output scale α", ylabel="relative", xscale="log")
    errors.set_yscale("log")
    for axes in (plain, biased, rates, errors):
        plots.legend(axes, loc="best" if axes is errors else "lower right", frameon=True)
    for axes in (lazy, rich):
        plots.legend(axes, loc="upper right", ncols=3)
    return figure


AXES = ("alpha", "learning_rate", "subtracted", "bias", "width")
RATE, ANCHOR = 0.25, 100.0
ARMS = [
    *((alpha, RATE, 1.0, 0.0, 1024) for alpha in (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)),
    *((alpha, RATE / 5, 1.0, 0.0, 1024) for alpha in (0.1, ANCHOR)),
    (1.0, RATE, 0.0, 0.0, 1024),
    (ANCHOR, RATE, 1.0, 0.0, 256),
    *((ANCHOR, RATE, 1.0, bias, 4096) for bias in (0.0, 1.0)),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={
        "seeds": 3,
        "steps": 400,
        AXES: [(3.0, RATE, 1.0, 0.0, 1024), (300.0, RATE, 1.0, 0.0, 1024), (300.0, RATE, 1.0, 1.0, 1024)],
    },
    paper={
        "seeds": 32,
        "steps": 20_000,
        "samples": 200,
        AXES: [*ARMS, *((ANCHOR, RATE, 1.0, bias, 16_384) for bias in (0.0, 1.0))],
    },
    control={AXES: [(1.0, RATE, 1.0, 0.0, 1024)]},
)
