"""Adam maximises the l∞ margin only while its epsilon is negligible and its gradient is that of the whole batch.

Claim: On linearly separable data full-batch Adam with eps = 0 and a decaying step is a smoothed sign descent: its
direction goes to the l∞ maximum margin, with step ∝ t^-1/2 at least as fast as t^-1/4. With eps > 0 that lasts until
the gradient has fallen to eps, which takes steps of total length near ln(1/eps)/γ, γ the l∞ margin; from there on Adam
is gradient descent with step η/eps, and its direction turns to the l2 maximum margin, in logarithmic time. One sample
at a time Adam goes elsewhere even with eps = 0: to the l2 maximum margin where all entries of a sample are of one size,
in general to a margin in a norm that the data choose. Signum stays at l∞.

Source: Zhang, Zou & Cao 2024, arXiv 2406.10650 (eps = 0; the bound t^(-a/2) for steps t^-a, a < 2/3); Wang, Meng,
Zhang, Sun, Chen, Ma & Liu 2021, arXiv 2110.03891 (eps > 0); Baek, Song & Yun 2025, arXiv 2510.26303 (incremental Adam,
generalized Rademacher data, Signum). The time of the turn is derived here.

Departure: Zhang et al. have 50 Gaussian samples in 50 dimensions; here 20 in 40 with unequal scales, on which the
directions of the three norms are apart, Rademacher data for the second theorem, and 60 digits (3 against 8) or 60
patients of breast_cancer. For eps = 0 the loss is multiplied by 10¹⁴⁰: to Adam nothing changes, and squared gradients
do not underflow. b2 is 0.99: the loss cannot fall faster than √b2 a step, so that with optax's 0.999 the rate shows
later; both are run. At optax's eps = 1e-8 the way from l∞ to l2 takes ln t of order 100: it has begun. Baek et al. take
b2 → 1; here 0.999. Batches of 5 and 10 of 20 lie in between, at neither margin.
"""

import itertools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import data as problems
from research import plots
from research.dynamics import Descent, Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import arms, lift, norm, per_seed, select, sound, table
from research.optimizers import inverse_square_root
from research.oracles.adam import adam_path_length, incremental_adam_direction
from research.oracles.margin import maximum_margin
from research.separable import standardized_sample
from research.statistics import crossing, every_seed, over_seeds, slope, slope_within

Data = Literal["gaussian", "rademacher", "digits", "breast_cancer"]
Optimizer = Literal["adam", "incremental_adam", "incremental_signum"]
REACHED = 0.03  # of the largest margin may be missing where the direction counts as reached
SEPARATED = 0.95  # the largest cosine between the maximum-margin directions of two norms
DEFAULT = 1e-8  # optax's eps


class Observables(NamedTuple):
    weights: Float[Array, "feature"]
    gradient_size: Float[Array, ""]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]


def problem(key: Array, data: Data) -> Given:
    """Inputs and labels; "rademacher": ±1 in every entry, times a size of the sample's own."""
    if data == "gaussian":
        X, y, _ = problems.separable_classification(key, samples=20, features=40, condition_number=10.0)
    elif data == "rademacher":
        sign_key, size_key = jax.random.split(key)
        signs = jax.random.rademacher(sign_key, (16, 32), dtype=float)
        y = jnp.where(jnp.arange(16) % 2 == 0, 1.0, -1.0)
        X = signs * jax.random.uniform(size_key, (16, 1), minval=0.5) / 4
    else:
        X, y = standardized_sample(key, data)
        X = X / jnp.max(jnp.linalg.norm(X, axis=1))
    return Given(X, y)


def simulate(
    key: Array,
    learning_rate: float,
    eps: float,
    b2: float = 0.99,
    batch: float = 1.0,
    *,
    data: Data = "gaussian",
    optimizer: Optimizer = "adam",
    steps: int = 100_000,
) -> Run:
    """One descent from zero on the mean logistic loss, with step learning_rate/√t.

    The incremental methods take `batch` samples a step, in turn. `gradient_size` is the largest |∂ loss/∂w_k| of all of
    them. `eps` and `b2` do not enter Signum, whose momentum remembers about a hundred samples.
    """
    X, y = problem(key, data)
    Z = X * y[:, None]
    scale = jnp.where(eps == 0, 1e140, 1.0)
    loss = lambda w, chosen: scale * jnp.sum(chosen * jax.nn.softplus(-Z @ w)) / jnp.sum(chosen)
    rate = inverse_square_root(learning_rate)
    chain = optax.signum(rate, beta=0.99) if optimizer == "incremental_signum" else optax.adam(rate, b2=b2, eps=eps)

    def step(state: Descent) -> Descent:
        chosen = (jnp.arange(len(Z)) - batch * state.key) % len(Z) < (len(Z) if optimizer == "adam" else batch)
        return descent(lambda w: loss(w, chosen), chain)(state)._replace(key=state.key + 1)

    def observe(state: Descent) -> Observables:
        gradient = jax.grad(lambda w: jax.nn.softplus(-Z @ w).mean())(state.params)
        return Observables(state.params, jnp.max(jnp.abs(gradient)))

    state = start(jnp.zeros(X.shape[1]), chain, jnp.zeros((), int))
    return Run(state, step, observe, log_spaced(steps, 50), Given(X, y))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The gaps to the l∞ and the l2 margin, the distances to all directions, and when the gradient falls to eps."""
    dataset = sound(dataset)
    X, y, weights, eps = dataset.X, dataset.y, dataset.weights, dataset.eps
    t = dataset.step.where(dataset.step > 0)
    unit = lambda vectors: (vectors / norm(vectors)).fillna(0)
    largest = lambda vectors: abs(vectors).max("feature")
    l1, l2, linf = (lift(maximum_margin, X, y, order=order) for order in (1, 2, np.inf))
    ends = {"fixed_point": lift(incremental_adam_direction, X, y), "l1": l1, "l2": l2, "linf": linf}
    known = norm(weights).notnull()
    away = {name: norm(unit(weights) - unit(end)).where(known & (norm(end) > 0)) for name, end in ends.items()}
    rivals = {name: [away[other] for other in ("l1", "l2", "linf") if other != name] for name in away}
    nearness = {name: away[name] / xr.concat(rivals[name], "rival").min("rival") for name in away}
    cosines = [xr.dot(unit(a), unit(b), dim="feature") for a, b in itertools.combinations(ends.values(), 2)]
    fixed = xr.concat(cosines, "pair").max("pair") <= SEPARATED
    apart = xr.concat(cosines[3:], "pair").max("pair") <= SEPARATED
    margin = (y * xr.dot(X.fillna(0), weights.fillna(0), dim="feature")).min("sample")
    width = 1 / largest(linf)
    gaps = {"linf": 1 - margin / largest(weights) / width, "l2": 1 - margin / norm(weights) * norm(l2)}
    fall = lambda gap, window: slope_within(np.log(t), np.log(gap.where(gap > 0)), window)
    last, before_last = t >= dataset.steps / 10, (t >= dataset.steps / 100) & (t < dataset.steps / 10)
    travelled = lift(adam_path_length, dataset.step.astype(float), dataset.learning_rate, width, dataset.b2) * width
    # where the gradient crosses eps, between recordings linear in the logarithm
    level, fallen = -np.log(eps.where(eps > 0)), dataset.gradient_size.where(dataset.gradient_size != 0, 1e-300)
    core: dict[str, Any] = {"input_core_dims": [["step"], ["step"], []], "vectorize": True}
    crossed = lambda values: xr.apply_ufunc(crossing, values, -np.log(fallen), level, **core)
    turn = crossed(np.sqrt(dataset.step.astype(float)) + xr.zeros_like(travelled)) ** 2
    early, late = (t <= turn) & (t >= turn / 10), t >= 2 * turn
    size = y.notnull().sum("sample") * X.notnull().any("sample").sum("feature")
    nearness = {name: each.where(fixed if name == "fixed_point" else apart) for name, each in nearness.items()}
    dataset = dataset.assign({f"nearness_{name}": np.log10(values) for name, values in nearness.items()})
    dataset = dataset.assign({f"gap_{name}": gap for name, gap in gaps.items()})
    dataset = dataset.assign({f"rate_{name}": fall(gap, last | before_last) for name, gap in gaps.items()})
    return dataset.assign(
        depth=crossed(travelled),
        turn=turn,
        slack=np.log(2 * np.log(2) * size * abs(X).max(("sample", "feature")) / width),
        bend=fall(gaps["linf"], last) - fall(gaps["linf"], before_last),
        before=slope_within(np.log(t), gaps["linf"], early),
        after_linf=slope_within(np.log(t), gaps["linf"], late),
        after_l2=slope_within(np.log(t), gaps["l2"], late),
        # steps of a window 1/(1 - b2) lower the loss by less than a factor e from here on
        settled=(width * dataset.learning_rate / (1 - dataset.b2)) ** 2,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Without eps; the turn and its time; eps that dominates; one sample at a time; real data."""
    ends = dataset.sel(step=dataset.steps)
    least, most = float(ends.eps.min()), float(ends.eps.max())
    found: list[Finding] = []

    def add(data: str, kind: str, eps: float, name: str, what: str, top: float, later: str = "", by: Any = 1) -> None:
        runs = select(ends, data=data, optimizer=kind, eps=eps, batch=by)
        runs = select(runs, b2=0.999 if later else 0.99) if kind == "adam" else runs
        if runs.diverged.size:
            ahead = bool((runs.bend < 0).all() and (100 * runs.settled > runs.steps).all())
            said = later.format(float(np.log10(100 * runs.settled.max()))) * ahead
            if name.startswith("gap") and (runs[name] > REACHED).any():
                trend = runs[name.replace("gap", "rate")].max()
                reached = np.log10(runs.steps * (runs[name].max() / REACHED) ** (-1 / trend))
                said = f"at this rate at t = 10^{float(reached):.1f}" if trend < 0 else ""
            named = f"{data}, {kind}, eps {eps:g}: {what}".replace("_", " ")
            low = -1e-8 if name.startswith("gap") else -np.inf  # what the oracle is certified to
            found.append(Finding.of(named, (low, top), every_seed(per_seed(runs[name])), said))

    rate = "slope of ln(l∞ gap) on ln t over the last two decades"
    missing = "share of the largest {} margin that is missing at the end"
    nearest = "log10 of the distance to the {} direction over that to the nearest rival"
    add("gaussian", "adam", least, "rate_linf", rate, -0.25)
    add("gaussian", "adam", 0.0, "gap_linf", missing.format("l∞"), REACHED)
    add("gaussian", "adam", 0.0, "nearness_linf", nearest.format("l∞"), 0.0)
    waits = "the loss falls too fast for the second moment until two decades before t = 10^{:.1f}"
    add("gaussian", "adam", 0.0, "rate_linf", "b2 = 0.999: " + rate, -0.25, waits)
    found += _turns(select(ends, data="gaussian", optimizer="adam", eps=lambda eps: eps > 0))
    for data in ("gaussian", "digits", "breast_cancer"):
        found += _reversal(select(ends, data=data, optimizer="adam", eps=DEFAULT), data)
    if most > DEFAULT:
        add("gaussian", "adam", most, "nearness_l2", nearest.format("l2"), 0.0)
    add("gaussian", "incremental_adam", 0.0, "nearness_fixed_point", nearest.format("fixed point's"), 0.0)
    add("gaussian", "incremental_adam", 0.0, "nearness_linf", f"5 or 10 of 20, {nearest.format('l∞')}", 0.0, by=(5, 10))
    add("rademacher", "adam", 0.0, "nearness_linf", nearest.format("l∞"), 0.0)
    for kind, which in (("incremental_adam", "l2"), ("incremental_signum", "linf")):
        add("rademacher", kind, 0.0, f"gap_{which}", missing.format(which.replace("inf", "∞")), REACHED)
        add("rademacher", kind, 0.0, f"nearness_{which}", nearest.format(which.replace("inf", "∞")), 0.0)
    for data in ("digits", "breast_cancer"):
        add(data, "adam", 0.0, "rate_linf", rate, -0.25)
    return found


def _turns(runs: xr.Dataset) -> list[Finding]:
    """While Adam is sign descent, updates of length s lower the loss by exp(−γs): the length to eps has slope 1/γ.

    With r_i = σ(−z_i·w), ‖∇L‖₁ >= γ · mean r: the loss falls by exp(−γs) at least, and the gradient is at most max|z|
    times it. The margin is at most γs, so mean r at least exp(−γs)/2n, and the gradient at least γ/d times that. So
    γs + ln(eps) varies by less than ln(2nd ln 2 max|z|/γ), which bounds the tilt of a fit.
    """
    if np.unique(runs.eps.values).size < 2 or not runs.diverged.size:
        return []
    lengths = [table(select(runs, learning_rate=rate), "depth", "eps") for rate in np.unique(runs.learning_rate.values)]
    x = -np.log(lengths[0].eps.values)
    slopes = np.mean([slope(x, length.values) for length in lengths], axis=0)
    tilt = float(runs.slack.max() / 2 * np.abs(x - x.mean()).sum() / ((x - x.mean()) ** 2).sum())
    what = "gaussian, adam: slope of γ·(predicted length of all updates until the gradient is eps) on ln(1/eps)"
    return [Finding.of(what, (1 - tilt, 1 + tilt), over_seeds(slopes))]


def _reversal(runs: xr.Dataset, data: str) -> list[Finding]:
    """The signs of the changes before and after the gradient has fallen to eps."""
    if not runs.diverged.size:
        return []
    named = f"{data}, adam, eps {DEFAULT:g}: change a unit of ln t of the".replace("_", " ")
    before, after = "in the decade before the gradient is eps", "from twice the step at which the gradient is eps"
    falls, judged = (-np.inf, 0.0), lambda *values: every_seed(per_seed(*values))
    return [
        Finding.of(f"{named} l∞ gap, {before}", falls, judged(runs.before)),
        Finding.of(f"{named} l∞ gap, {after}", (0.0, np.inf), judged(runs.after_linf, "min")),
        Finding.of(f"{named} l2 gap, {after}", falls, judged(runs.after_l2)),
    ]


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a, b) both margins against time, (c) the rate, (d) the turn, (e) one sample at a time, (f) real data."""
    figure, panels = plots.figure(2, 3, "Adam's epsilon and its batch decide which margin it maximises")
    (widest, euclidean, rates), (turns, single, real) = panels
    after = dataset.sel(step=dataset.step > 0)
    fastest = float(select(dataset, data="gaussian").learning_rate.max())
    colours = {eps: f"C{number}" for number, eps in enumerate(np.unique(dataset.eps.values).tolist())}
    kinds = {"adam": "Adam, full batch", "incremental_adam": "Adam, one sample", "incremental_signum": "Signum, one"}
    for point, runs in arms(after):
        data, kind, eps, batch = (point[each] for each in ("data", "optimizer", "eps", "batch"))
        named, style = f"eps = {eps:g}", {"color": colours[eps]}
        if data == "gaussian" and kind == "adam" and point["b2"] != 0.99:
            plots.seeds(rates, runs.gap_linf, f"{named}, b2 = {point['b2']:g}", color="C5")
        elif data == "gaussian" and (kind == "incremental_adam" or point["learning_rate"] == fastest):
            few = {"label": f"eps = 0, {batch:g} of 20", "color": "C6", "linestyle": {1: "-", 5: "--"}.get(batch, ":")}
            said = {"label": named, **style} if kind == "adam" else few
            plots.seeds(widest, 1 - runs.gap_linf, **said)
            plots.seeds(euclidean, 1 - runs.gap_l2, **said)
            if kind == "adam":
                plots.seeds(rates, runs.gap_linf, **said)
        elif data == "rademacher":
            line = {"color": f"C{list(kinds).index(kind)}"}
            plots.seeds(single, runs.gap_linf, f"{kinds[kind]}: l∞", **line)
            plots.seeds(single, runs.gap_l2, f"{kinds[kind]}: l2", linestyle=":", **line)
        elif data == "breast_cancer":
            plots.seeds(real, 1 - runs.gap_linf, f"{named}: l∞", **style)
            plots.seeds(real, 1 - runs.gap_l2, f"{named}: l2", linestyle=":", **style)
    for axes in (widest, euclidean, real):
        plots.theory(axes, (1, int(after.step.max())), (1, 1), "largest there is")
    plots.theory(rates, (1e3, 1e5), (0.4, 0.4 * 100**-0.25), "bound t^-1/4 (any constant)")
    judged = select(dataset, data="gaussian", optimizer="adam", eps=lambda eps: eps > 0)
    for number, rate in enumerate(np.unique(judged.learning_rate.values)):
        runs = select(judged, learning_rate=rate)
        plots.points(turns, 1 / runs.eps, runs.depth, f"learning rate {rate:g}", color=f"C{number}")
    levels = np.sort(1 / np.unique(judged.eps.values))
    plots.theory(turns, levels, np.log(levels), "ln(1/eps): slope 1")
    share = "margin / largest margin"
    widest.set(title="a  the l∞ margin (gaussian)", xscale="log", xlabel="step t", ylabel=f"l∞ {share}", ylim=(0, 1.04))
    euclidean.set(title="b  the l2 margin", xscale="log", xlabel="step t", ylabel=f"l2 {share}", ylim=(0, 1.04))
    rates.set(title="c  until the gradient is eps", xscale="log", yscale="log", xlabel="step t")
    rates.set(ylabel="missing share of the l∞ margin", xlim=(10, None))
    turns.set(title="d  when it turns", xscale="log", xlabel="1/eps", ylabel="γ · length of all updates until then")
    single.set(title="e  one sample at a time (Rademacher)", xscale="log", yscale="log", xlabel="step t")
    single.set(ylabel="missing share of the margin", xlim=(10, None), ylim=(4e-3, 2))
    real.set(title="f  real data (breast_cancer)", xscale="log", xlabel="step t", ylabel=share, ylim=(0, 1.04))
    for axes in panels.ravel():
        plots.legend(axes, **({"loc": "lower right", "ncols": 2} if axes in (widest, euclidean) else {}))
    return figure


AXES = ("data", "optimizer", "eps", "b2", "learning_rate", "batch")
ARMS = [
    *(("gaussian", "adam", eps, 0.99, rate, 1.0) for eps in (0.0, 1e-12, DEFAULT, 1e-5, 1e-3) for rate in (0.1, 0.3)),
    ("gaussian", "adam", 0.0, 0.999, 0.3, 1.0),
    ("rademacher", "adam", 0.0, 0.99, 0.1, 1.0),
    ("rademacher", "incremental_adam", 0.0, 0.999, 0.3, 1.0),
    ("rademacher", "incremental_signum", 0.0, 0.99, 0.3, 1.0),
    *((data, "adam", eps, 0.99, 2.0, 1.0) for data in ("digits", "breast_cancer") for eps in (0.0, DEFAULT)),
    *(("gaussian", "incremental_adam", 0.0, 0.999, 0.3, batch) for batch in (1.0, 5.0, 10.0)),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, "steps": 30_000, AXES: [ARMS[1], ARMS[5], ARMS[9], ARMS[10]]},
    paper={"seeds": 64, "steps": 1_000_000},
    control={"eps": 1e-3},
)
