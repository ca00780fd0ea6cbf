"""Grokking without weight decay: a network whose output is scaled up first learns as its kernel does, and then better.

Claim: A committee of quadratic units, f = (α/N) Σ φ(w·x), is to learn y = (β·x)²/2 by gradient descent from fewer
samples than its tangent kernel needs. At first it follows kernel regression with the tangent kernel of the start; then
its features align with β, and the test error falls below the kernel's, after the training error has fallen. The larger
α, the longer after; as α → ∞ the end is the kernel's, and for small α nothing is delayed. The weights grow meanwhile.

Source: Kumar, Bordelon, Gershman & Pehlevan 2024, arXiv 2310.06110, section 5: equation 3 (model), 5 (kernel), 6 (test
error), figures 1, 3 and 4. That α controls the delay is their observation; they prove no rate. So two
bands for the smallest α are chosen numbers, not theory's: an end below half of the kernel's, a ratio of times up to 2.

Departure: 24 inputs, 132 samples, 30 units in place of 100, 550 and 500: f depends on the means of w and w wᵀ alone,
so that the width matters only through these at the start. f is centred by what it says at the start, the loss is half
the mean square. The rate is in units of N/α², as theirs, so that the linearised network does not know α. The test error
is the expectation over x, in closed form. The rates are derived here: to first order the network moves away from its
linearisation by O(1/α) at any time, so that what it gains on the kernel in the end falls as 1/α too. Delay is the ratio
of the steps that halve either error: their difference grows as ε falls only because all takes longer. From 300 samples
of 10 inputs, more than the 65 terms of a quadratic polynomial, the kernel learns y as well.
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
from research.labels import at_step, first_arm, lift, per_seed, select, sound, table
from research.oracles.committee import committee_kernel, polynomial_error
from research.statistics import crossing, every_seed, slope

HALF = 0.5  # of an error that is 1 at the start
RICH = 3.0  # α up to which the gap is judged: far beyond, the kernel's test error is never halved
LAZY = 100.0  # α from which the mean of w wᵀ need not change by its own size, d/(αε), which is 96/α here
MIDDLE = 0.25  # the bend ε at which α is varied


class Observables(NamedTuple):
    linear: Float[Array, "feature"]
    quadratic: Float[Array, "feature other"]
    train_error: Float[Array, ""]
    squared_weight: Float[Array, ""]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    beta: Float[Array, "feature"]
    first_moment: Float[Array, "feature"]
    second_moment: Float[Array, "feature other"]
    rate: Float[Array, ""]


def simulate(
    key: Array,
    alpha: float,
    bend: float = MIDDLE,
    learning_rate: float = 1.0,
    curved: float = 1.0,
    *,
    samples: int = 132,
    features: int = 24,
    units: int = 30,
    steps: int = 3000,
) -> Run:
    """One descent on ½ mean (f(x) − y)², f = (α/N) Σ (h + bend h²/2), h = w·x, less f at the start; w ~ N(0, 1).

    `learning_rate` is in units of N d/α² / (2 + 6 bend/α), d the inputs: half of what is stable. The kernel of the
    start has the eigenvalue 2/d at 5.5 samples an input, that of the end about 6 bend/(α d) along β. `curved` 0 leaves
    the linearisation in the weights. `linear` and `quadratic` are the polynomial f; `train_error` is relative to the
    mean of y², `squared_weight` the mean over all weights.
    """
    data_key, init_key = jax.random.split(key)
    drawn = jax.random.normal(data_key, (samples + 1, features))
    X, beta, hidden = drawn[1:] / features**0.5, drawn[0], jax.random.normal(init_key, (units, features))
    y = (X @ beta) ** 2 / 2

    def output(moved: Array) -> Array:
        """What f has become of itself at the start when the weights have moved so far."""
        step = X @ moved.T
        return alpha * (step * (1 + bend * X @ hidden.T) + curved * bend / 2 * step**2).mean(axis=1)

    def observe(state: tuple) -> Observables:
        moved = state[0]
        cross = hidden.T @ moved / units
        second = cross + cross.T + curved * moved.T @ moved / units
        error = jnp.mean((output(moved) - y) ** 2) / jnp.mean(y**2)
        weight = jnp.mean(jnp.sum((hidden + moved) ** 2, axis=1)) / features
        return Observables(alpha * moved.mean(axis=0), alpha * bend / 2 * second, error, weight)

    rate = jnp.asarray(learning_rate * features / (2 + curved * 6 * bend / alpha))
    optimizer = optax.sgd(rate * units / alpha**2)
    step = descent(lambda moved: optax.l2_loss(output(moved), y).mean(), optimizer)
    given = Given(X, y, beta, hidden.mean(axis=0), hidden.T @ hidden / units, rate)
    settled = lambda state: jnp.mean((output(state[0]) - y) ** 2) < 1e-8 * jnp.mean(y**2)
    at = log_spaced(steps, 48)
    return Run(start(jnp.zeros_like(hidden), optimizer), step, observe, at, given, settled)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The polynomials of the linearised network and of kernel regression, all errors, and when they are halved."""
    dataset = sound(dataset)
    known = (dataset.X, dataset.y, dataset.first_moment, dataset.second_moment, dataset.bend, dataset.rate)
    ask = lambda at: lift(committee_kernel, *known, at)
    lazy, beta = ask(dataset.step.astype(float)), dataset.beta
    limit = ask(xr.DataArray([np.inf], dims="step")).isel(step=0)
    error = lambda learnt: lift(polynomial_error, learnt.linear, learnt.quadratic, beta)
    test, lazy_test = error(dataset), error(lazy)
    # The distance of two polynomials is the error of their difference where the truth is 0, in units of E y².
    truth = beta * beta.rename(feature="other") / 2
    apart = xr.Dataset(
        {"linear": dataset.linear - lazy.linear, "quadratic": dataset.quadratic - lazy.quadratic + truth}
    )
    halved = lambda values: xr.apply_ufunc(
        lambda steps, ratio: np.exp(crossing(np.log1p(steps), -np.log(ratio), np.log(1 / HALF))) - 1,
        dataset.step, values.clip(1e-30), input_core_dims=[["step"], ["step"]], vectorize=True,
    )  # fmt: skip
    sure = abs(test.isel(step=0) - 1) < 1e-9  # where f = 0
    train_time, test_time, ends = halved(dataset.train_error), halved(test.where(sure)), {"step": dataset.steps}
    outputs = xr.dot(dataset.X, lazy.linear, dim="feature") + xr.dot(
        dataset.X, lazy.quadratic, dataset.X.rename(feature="other"), dim=["feature", "other"]
    )
    lazy_train = ((outputs - dataset.y) ** 2).mean("sample") / (dataset.y**2).mean("sample")
    away = error(apart) ** 0.5
    return dataset.assign(
        test_error=test,
        lazy_error=lazy_test,
        kernel_error=error(limit),
        away=away,
        train_time=train_time,
        lazy_time=halved(lazy_train),
        test_time=test_time,
        gap=np.log(test_time / train_time),
        delay=np.log((test_time - train_time).where(test_time > train_time) * dataset.rate),
        early=at_step(away, train_time),
        final=test.sel(ends),
        gain=lazy_test.sel(ends) - test.sel(ends),
        time=dataset.step * dataset.rate / dataset.features,
        growth=dataset.squared_weight.sel(ends) - dataset.squared_weight.isel(step=0),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The gap grows with α; early and late powers of 1/α; better than the kernel; the weights; ε; enough samples."""
    found: list[Finding] = []
    few, many = _by_samples(dataset)
    few = few if few.diverged.size else dataset
    runs = select(few, bend=MIDDLE)

    def along(variable: str, chosen: xr.Dataset, parameter: str = "alpha") -> tuple[np.ndarray, np.ndarray]:
        if not chosen.diverged.size:
            return np.zeros(0), np.zeros((0, 0))
        rows = table(chosen, variable, parameter)
        return rows[parameter].values, rows.values

    alphas, gaps = along("gap", select(runs, alpha=lambda alpha: alpha <= RICH))
    if alphas.size > 1:
        # Of the linearised network the gap does not depend on α but by rounding.
        powers = np.round(slope(np.log(alphas), gaps), 6)
        what = f"steps to halve the test over those of the training error, α = {alphas[0]:g} to {alphas[-1]:g}"
        found.append(Finding.of(f"{what}: slope of its ln on ln α", (0.0, np.inf), every_seed(powers)))
    lazy = select(runs, alpha=lambda alpha: alpha >= LAZY)
    # A next term of a quarter where the fit begins would tilt it over a decade by 0.1.
    for variable, said in (
        ("early", "distance to the linearised network when half of the training error is gone"),
        ("gain", "what the end gains on the linearised network in test error"),
    ):
        alphas, values = along(variable, lazy)
        if alphas.size > 1:
            with np.errstate(invalid="ignore"):
                powers = slope(np.log(alphas), np.log(values))
            found.append(Finding.of(f"{said}: slope of its ln on ln α, α ≥ 100", (-1.1, -0.9), every_seed(powers)))
    rich = select(runs, alpha=lambda alpha: alpha <= RICH)
    if rich.diverged.size and np.any(rich.curved == 1.0):
        smallest = float(np.min(rich.alpha))
        end = select(rich, alpha=smallest)
        said, grown = f"α = {smallest:g}", per_seed(rich.growth, "min")
        for what, band, values in (
            ("test error at the end over that of the kernel", (0.0, HALF), per_seed(end.final / end.kernel_error)),
            ("steps to halve the test error over those of the training error", (0.0, 2.0), per_seed(np.exp(end.gap))),
        ):
            found.append(Finding.of(f"{said}: {what}", band, every_seed(values)))
        said = "mean square of the weights: a seed's least growth"
        found.append(Finding.of(said, (0.0, np.inf), every_seed(grown)))
    found += _alignment(select(few, alpha=1.0))
    if many.diverged.size:
        worst = per_seed(many.final)
        what = "more samples than the kernel has terms: test error at the end, a seed's largest"
        found.append(Finding.of(what, (0.0, 1e-3), every_seed(worst)))
    return found


def _by_samples(dataset: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """The runs with fewer samples than a quadratic polynomial without constant has terms, and those with more."""
    terms = dataset.features * (dataset.features + 3) / 2
    known = dataset.assign_coords(enough=dataset.samples > terms)
    return select(known, enough=False), select(known, enough=True)


def _alignment(runs: xr.Dataset) -> list[Finding]:
    """What a smaller ε does, that is a start whose kernel is less aligned: a longer delay, a better end."""
    if not runs.diverged.size or np.unique(runs.bend.values).size < 2:
        return []
    said, found = "α = 1, from one ε to a larger one:", []
    for variable, what, sign in (
        ("final", "least increase of the test error at the end", 1),
        ("delay", "least decrease of ln(time from halving the training to halving the test error)", -1),
        ("gap", "least decrease of ln(steps to halve the test over those of the training error)", -1),
    ):
        change = sign * np.diff(table(runs, variable, "bend").values)
        found.append(Finding.of(f"{said} {what}", (0.0, np.inf), every_seed(change.min(axis=1))))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Kumar's figures: (a) both errors of one network, (b) of several α, (c) the gap, (d) early and late, against α."""
    title = "From lazy to rich: first what the kernel learns, then better"
    figure, ((single, several), (gaps, powers)) = plots.figure(2, 2, title)
    runs = select(_by_samples(dataset)[0], curved=1.0, bend=MIDDLE)
    one = lambda alpha: select(runs, alpha=alpha)
    alphas = np.unique(runs.alpha.values).tolist() if runs.diverged.size else []
    drawn = [alpha for alpha in alphas if alpha in (0.1, 1.0, 10.0, 100.0)] or alphas[:3]
    for number, alpha in enumerate(drawn):
        some = one(alpha)
        some = first_arm(some)
        some = some.assign_coords(time=some.time).swap_dims(step="time").isel(time=slice(1, None))
        if alpha == (1.0 if 1.0 in drawn else drawn[0]):
            plots.seeds(single, some.train_error.clip(1e-6), "training error", color="C0")
            plots.seeds(single, some.test_error, "test error", color="C1")
            plots.theory(single, some["time"], some.lazy_error.median("seed"), "linearised network, test (median)")
            single.axhline(float(some.kernel_error.median()), color="black", linestyle=":", linewidth=1.2,
                           label="kernel regression, test")  # fmt: skip
            single.set_title(f"a  α = {alpha:g}")
        plots.seeds(several, some.test_error, f"α = {alpha:g}", color=f"C{number}")
        median = some.train_error.median("seed").clip(1e-6)
        several.plot(some["time"], median, color=f"C{number}", linestyle=":", linewidth=1.2)
        if number == len(drawn) - 1:
            plots.theory(several, some["time"], some.lazy_error.median("seed"), "linearised, any α")
    if alphas:
        pace = runs.rate / runs.features
        for name, values, color in (("test error", runs.test_time, "C1"), ("training error", runs.train_time, "C0")):
            plots.points(gaps, runs.alpha, values * pace, name, color=color, alpha=0.7)
        lazy = select(runs, alpha=max(alphas))
        limit = float((lazy.lazy_time * lazy.rate / lazy.features).median())
        gaps.axhline(limit, color="black", linestyle="--", linewidth=1.2, label="training, linearised (median)")
        for number, (variable, said) in enumerate({"early": "early: to the linearised", "gain": "late: gain"}.items()):
            positive = runs[variable].where(runs[variable] > 0)
            plots.points(powers, runs.alpha, positive, said, color=f"C{number + 2}")
            far = lazy[variable].median()
            ends = np.array([max(min(alphas), 3.0), max(alphas)])
            plots.theory(powers, ends, float(far) * max(alphas) / ends, None if number else "1/α")
    several.set(title="b  test errors; training dotted (median)", xscale="log", yscale="log", ylim=(1e-3, 2))
    single.set(xscale="log", yscale="log", ylim=(1e-3, 2))
    for axes in (single, several):
        axes.set(xlabel="time: steps × rate / inputs", ylabel="error / that of f = 0")
    gaps.set(title="c  halving the test error takes ever longer", xscale="log", yscale="log")
    gaps.set(xlabel="α, the scale of the output", ylabel="time until the error is halved")
    powers.set(title="d  first and last, the kernel as α → ∞", xscale="log", yscale="log")
    powers.set(xlabel="α, the scale of the output", ylabel="relative to the labels")
    for axes in (single, several, gaps, powers):
        plots.legend(axes)
    return figure


AXES = ("samples", "features", "alpha", "bend")
SCALES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 300.0, 1000.0)
ARMS = [
    *((132, 24, alpha, MIDDLE) for alpha in SCALES),
    *((132, 24, 1.0, bend) for bend in (0.125, 0.5, 1.0)),
    *((300, 10, alpha, MIDDLE) for alpha in (0.1, 1.0, 10.0, 100.0)),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, "steps": 1000, AXES: [(132, 24, alpha, MIDDLE) for alpha in (0.03, 0.3, 3.0, 100.0, 300.0)]},
    paper={"seeds": 16, "steps": 100_000, "units": 500, AXES: [(550, 100, *arm[2:]) for arm in ARMS[:-4]]},
    control={AXES: [(300, 10, alpha, MIDDLE) for alpha in (0.3, 1.0, 3.0)], "curved": 0.0},
)
