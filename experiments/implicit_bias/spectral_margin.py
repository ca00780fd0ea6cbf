"""Spectral descent maximises the spectral-norm margin; Muon with five Newton–Schulz steps stops short of it.

Claim: On separable multiclass data normalised steepest descent in a norm, with or without momentum and with steps ∝
t^-1/2, goes to the largest margin in that norm, and the missing share falls at least as fast as the bound on it, as
t^-1/2 up to a logarithm: spectral descent (the polar factor of the gradient) in the spectral norm, normalised gradient
descent in Frobenius', sign descent in the max norm. So does Muon where it orthogonalises exactly; with the
Newton–Schulz steps of its default, which do not converge, it stalls on most data.

Source: Fan, Schmidt & Thrampoulidis 2025, arXiv 2502.04664 (Muon there is momentum with the exact polar factor); the
Newton–Schulz coefficients that do not converge, on purpose: Jordan et al. 2024, "Muon: an optimizer for hidden layers",
as in optax.contrib.muon. That they change the limit is an observation made here. The bound (ln N + R² Ση_t²/2) / (γ
Ση_t) is derived as for any norm: f = ln Σ exp(−⟨Z, W⟩) over the N pairs Z of a sample and a wrong class has a gradient
of dual norm at least the margin γ, and curvature at most R², R the largest dual norm of a Z.

Departure: Fan et al. also train a two-layer network. Here 30 samples of 5 Gaussian classes in 12 dimensions, and the
exponential loss of all pairs, whose gradient is taken of its logarithm. The gradient has rank 4, as the classes' scores
count only relative to each other. Momentum averages the gradients of the logarithm, that of Fan et al. the loss's own
(after 10⁴ steps the margins differ by less than 0.5 %). Rates are judged at the largest learning rate of each
optimizer, against the slope of the bound at that rate (without momentum), fitted alike. On one of the eight data sets
Muon's five standard steps keep up with the exact factor all the same.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import arms, largest, lift, named_by, per_seed, select, sound
from research.optimizers import inverse_square_root, spectral_descent
from research.oracles.margin_bound import margin_gap_bound
from research.oracles.multiclass_margin import maximum_multiclass_margin, multiclass_margin
from research.oracles.newton_schulz import CUBIC, STANDARD, newton_schulz_factor
from research.statistics import every_seed, median, over_seeds, slope_within

Optimizer = Literal["spectral_descent", "muon", "gradient_descent", "sign_descent"]
Coefficients = Literal["standard", "cubic"]
OWN = {"spectral_descent": "spectral", "muon": "spectral", "gradient_descent": "frobenius", "sign_descent": "max"}
NORMS = ("spectral", "frobenius", "max")
OUTPUTS = 5
TRIPLES = {"standard": STANDARD, "cubic": CUBIC}
APART = 0.02  # of one norm's largest margin is missing, at least, where another's is attained


class Observables(NamedTuple):
    weights: Float[Array, "feature output"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    unit: Float[Array, ""]


def simulate(
    key: Array,
    learning_rate: float,
    momentum: float = 0.0,
    *,
    optimizer: Optimizer = "spectral_descent",
    newton_schulz: int = 5,
    coefficients: Coefficients = "standard",
    samples: int = 30,
    features: int = 12,
    steps: int = 30_000,
) -> Run:
    """One descent from zero on ln Σ exp(−margin) over the samples' pairs of the right and a wrong class.

    Steps have length learning_rate · unit / √t in the optimizer's norm, `unit` being 1/R. `momentum` is optax.trace's
    decay, and Muon's beta (its moments are Nesterov's, as in its default). `newton_schulz` steps and `coefficients`
    are Muon's: "standard" its default, "cubic" (3/2, −1/2, 0), which converge.
    """
    draw = jax.random.normal(key, (OUTPUTS + samples, features))
    labels = jnp.arange(samples) % OUTPUTS
    X = draw[labels] + 0.8 * draw[OUTPUTS:]
    right = jax.nn.one_hot(labels, OUTPUTS, dtype=X.dtype)
    # a pair is x (e_right − e_wrong)ᵀ: nuclear and Frobenius norm √2 ‖x‖, sum of the entries 2 ‖x‖₁
    size = 2 * jnp.abs(X).sum(axis=1) if optimizer == "sign_descent" else 2**0.5 * jnp.linalg.norm(X, axis=1)
    unit = 1 / jnp.max(size)

    def loss(W: Array) -> Array:
        scores = X @ W
        margins = (scores * right).sum(axis=1)[:, None] - scores
        return jax.nn.logsumexp(-margins, b=1 - right)

    rate = inverse_square_root(learning_rate * unit)
    # optax unrolls the one triple of its default; a list of them is scanned, and compiles in half the time
    triple = TRIPLES[coefficients]
    triples = triple if newton_schulz == 5 else (triple,) * newton_schulz
    chain = {
        "spectral_descent": optax.chain(optax.trace(momentum), spectral_descent(rate)),
        "muon": optax.contrib.muon(rate, triples, newton_schulz, beta=momentum),
        "gradient_descent": optax.chain(
            optax.trace(momentum), optax.normalize_by_update_norm(eps=0.0), optax.sgd(rate)
        ),
        "sign_descent": optax.chain(optax.trace(momentum), optax.sign_sgd(rate)),
    }[optimizer]
    observe = lambda state: Observables(state.params)
    initial = start(jnp.zeros((features, OUTPUTS)), chain)
    given = Given(X, labels.astype(X.dtype), unit)
    return Run(initial, descent(loss, chain), observe, log_spaced(steps, 40), given)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The missing share of the largest margin in each norm, and the bound on it in the optimizer's own."""
    dataset = sound(dataset)
    X, y, weights = dataset.X, dataset.y, dataset.weights
    best = {norm: lift(maximum_multiclass_margin, X, y, norm=norm, outputs=OUTPUTS) for norm in NORMS}
    widths = {norm: lift(multiclass_margin, X, y, end, norm=norm) for norm, end in best.items()}
    share = lambda matrix, norm: 1 - lift(multiclass_margin, X, y, matrix, norm=norm) / widths[norm]
    gaps = {norm: share(weights, norm) for norm in NORMS}
    apart = xr.concat([share(best[a], b) for a in NORMS for b in NORMS if a != b], "pair").min("pair") >= APART
    of_its_own = lambda values: named_by(dataset.optimizer, {kind: values[norm] for kind, norm in OWN.items()})
    own, width = of_its_own(gaps), of_its_own(widths)
    others = {norm: xr.concat([gaps[other] for other in NORMS if other != norm], "norm").min("norm") for norm in NORMS}
    t = dataset.step.where((dataset.step > 0) & (dataset.step <= dataset.steps))
    pairs = y.notnull().sum("sample") * (OUTPUTS - 1)
    reach = (width * dataset.unit).where(width > 0)
    bound = lift(margin_gap_bound, t, dataset.learning_rate, 0.5, pairs, reach)
    fitted = lambda values: slope_within(np.log(t), np.log(values.where(values > 0)), t >= dataset.steps / 100)
    return dataset.assign({f"gap_{norm}": gap for norm, gap in gaps.items()}).assign(
        own=own,
        bound=bound.where(dataset.momentum == 0),
        share=(own / bound).where(bound < 1).max("step"),
        nearness=np.log10((own / of_its_own(others)).where(apart)),
        rate=fitted(own),
        bound_rate=fitted(bound),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The rates, the winner of each norm, the bound, and Muon as it is deployed."""
    ends, found = dataset.sel(step=dataset.steps), []
    exact = select(ends, optimizer=lambda kind: kind != "muon")

    def add(what: str, band: tuple[float, float], values: xr.DataArray, interval: Callable = every_seed) -> None:
        if values.size:
            found.append(Finding.of(what.replace("_", " "), band, interval(per_seed(values))))

    ahead = (
        "largest learning rates: log10 of the gap to the largest margin in the own norm over the least gap in another, "
        "the worst optimizer"
    )
    each = [
        largest(select(exact if exact.diverged.size else ends, optimizer=kind, momentum=0.0), "learning_rate")
        for kind in OWN
    ]
    worst = [per_seed(runs.nearness) for runs in each if runs.diverged.size]
    found.append(Finding.of(ahead, (-np.inf, -np.log10(5)), every_seed(np.max(worst, axis=0) if worst else ())))
    plain = select(exact, momentum=0.0)
    plain = select(plain, learning_rate=float(plain.learning_rate.min())) if plain.diverged.size else plain
    bounded = (
        "smallest learning rate: gap in the own norm over its bound, wherever that is below 1, the worst optimizer"
    )
    add(bounded, (0, 1), plain.share)
    rate = "slope of ln(gap in the own norm) on ln t over the last two decades, the bound's at most"

    def add_rate(what: str, runs: xr.Dataset) -> None:
        if runs.diverged.size:
            falls = (-np.inf, float(runs.bound_rate.max()))
            add(f"{what}, learning rate {float(runs.learning_rate.max()):g}: {rate}", falls, runs.rate, over_seeds)

    for kind in (kind for kind in OWN if kind != "muon"):
        for momentum in np.unique(exact.momentum.values):
            runs = largest(select(exact, optimizer=kind, momentum=momentum), "learning_rate")
            add_rate(f"{kind}, momentum {momentum:g}", runs)
    spectral = largest(select(exact, optimizer="spectral_descent", momentum=0.0), "learning_rate")
    add("spectral_descent: gap to the largest spectral margin at the end", (-1e-6, 0.01), spectral.own)
    for steps, coefficients in ((30, "cubic"), (10, "standard"), (5, "standard")):
        muon = select(ends, optimizer="muon", newton_schulz=steps, coefficients=coefficients)
        for momentum in np.unique(muon.momentum.values) if muon.diverged.size else ():
            runs = largest(select(muon, momentum=momentum), "learning_rate")
            named = f"muon, {steps} {coefficients} Newton–Schulz steps, momentum {momentum:g}"
            add_rate(named, runs)
            if runs.diverged.size and spectral.diverged.size and coefficients == "standard":
                excess = np.log10(per_seed(runs.own) / per_seed(spectral.own))
                what = f"{named}: log10 of its gap over that of the exact polar factor, mean over seeds"
                found.append(Finding.of(what, (0.0, np.inf), over_seeds(excess)))
    deployed = select(ends, optimizer="muon", newton_schulz=5, coefficients="standard", momentum=0.95)
    rates = np.unique(deployed.learning_rate.values)
    if deployed.diverged.size and rates.size > 1:
        low, high = (per_seed(select(deployed, learning_rate=each).own) for each in (rates[0], rates[-1]))
        # a gap left by the steps themselves would be proportional to them; half way to that is the band's end
        end = np.log10(rates[-1] / rates[0]) / 2
        what = f"muon as deployed: log10 of its gap at learning rate {rates[-1]:g} over that at {rates[0]:g}"
        found.append(Finding.of(what + ", median", (-end, end), median(np.log10(high / low))))
    return sorted(found, key=lambda finding: rate not in finding.statement)  # the rate is the claim


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a–c) each norm's margin against time, (d) the rates, (e, f) Muon's Newton–Schulz steps."""
    figure, panels = plots.figure(2, 3, "Each optimizer maximises the margin in its own norm; Muon as deployed stalls")
    (*margins, rates, muon, factors) = panels.ravel()
    later = dataset.sel(step=dataset.step > 0)
    colours = {kind: f"C{number}" for number, kind in enumerate(OWN)}
    for point, runs in arms(later):
        runs = runs.sel(step=runs.step <= point["steps"])
        kind, steps, coefficients = (point[name] for name in ("optimizer", "newton_schulz", "coefficients"))
        if point["learning_rate"] < float(select(dataset, optimizer=kind).learning_rate.max()):
            continue
        deployed = (steps, coefficients, point["momentum"]) == (5, "standard", 0.95)
        named = kind.replace("_", " ") + (" (as deployed)" if kind == "muon" else "")
        if deployed if kind == "muon" else point["momentum"] == 0:
            for axes, norm in zip(margins, NORMS, strict=True):
                plots.seeds(axes, 1 - runs[f"gap_{norm}"], named, color=colours[kind])
        if kind != "muon" and point["momentum"] == 0:
            plots.seeds(rates, runs.own, f"{named}, {OWN[kind]} norm", color=colours[kind])
            bound = runs.bound.median("seed")
            bound = bound.where(bound < 1)
            plots.theory(rates, runs.step, bound, "bound (median seed)" if kind == "sign_descent" else None)
        if OWN[kind] == "spectral":
            style = {"linestyle": "-" if point["momentum"] == 0 else ":"}
            style["color"] = (
                "C0" if kind != "muon" else "C2" if coefficients == "cubic" else "C1" if steps == 5 else "C3"
            )
            how = f"muon, {steps} {coefficients}" if kind == "muon" else "exact polar factor"
            plots.seeds(muon, runs.own, f"{how}, momentum {point['momentum']:g}", **style)
            if kind == "spectral_descent" and point["momentum"] == 0:
                end = runs.own.isel(step=-1).median("seed")
                plots.theory(muon, runs.step, 2 * end * (runs.step / runs.step.max()) ** -0.5, "slope −1/2")
    s = np.geomspace(1e-4, 1, 400)
    for steps, coefficients, colour in ((5, "standard", "C1"), (10, "standard", "C3"), (30, "cubic", "C2")):
        factors.plot(
            s, newton_schulz_factor(s, steps, TRIPLES[coefficients]), label=f"{steps} {coefficients}", color=colour
        )
    plots.theory(factors, s, np.ones_like(s), "polar factor")
    for axes, norm, letter in zip(margins, NORMS, "abc", strict=True):
        plots.theory(axes, later.step, np.ones(later.sizes["step"]), "largest there is")
        axes.set(title=f"{letter}  {norm} norm", xscale="log", xlabel="step t", ylim=(0.1, 1.02), xlim=(10, None))
        axes.set_ylabel("margin / largest margin")
    for axes, title in ((rates, "d  own norm: t^-1/2"), (muon, "e  spectral norm: inexact polar factors stall")):
        axes.set(title=title, xscale="log", yscale="log", xlabel="step t", ylabel="missing share of the margin")
    muon.set_ylim(4e-4, 3)
    factors.set(title="f  what Newton–Schulz steps make of it", xscale="log", xlabel="singular value / Frobenius norm")
    factors.set_ylabel("singular value of the step")
    for axes in panels.ravel():
        plots.legend(axes)
    return figure


AXES = ("optimizer", "newton_schulz", "coefficients", "momentum", "learning_rate")
FASTEST = {"spectral_descent": 3.0, "muon": 3.0, "gradient_descent": 10.0, "sign_descent": 3.0}  # its norm is smooth
ARMS = [
    *((kind, 5, "standard", 0.0, rate) for kind, rate in FASTEST.items()),
    *((kind, 5, "standard", 0.0, 1.0) for kind in OWN if kind != "muon"),
    *((kind, 5, "standard", 0.9, rate) for kind, rate in FASTEST.items() if kind != "muon"),
    *(("muon", 5, "standard", 0.95, rate) for rate in (1.0, 3.0)),
    ("muon", 10, "standard", 0.0, 3.0),
    ("muon", 30, "cubic", 0.0, 3.0),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, "steps": 3000, AXES: [arm for arm in ARMS if arm[0] == "spectral_descent"]},
    paper={"seeds": 64, "steps": 1_000_000},
    control={"optimizer": "muon"},
)
