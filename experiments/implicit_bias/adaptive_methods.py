"""Adaptive methods can end at a multiple of sign(Xᵀy), which predicts one class for all; gradient descent does not.

Claim: On least squares with X sign(Xᵀy) = c y, c > 0, AdaGrad, RMSProp and Adam from zero end at sign(Xᵀy)/c, and on
the data constructed here predict the frequent class for every new sample; gradient descent ends at X⁺y and is right on
all. On other data the end of an adaptive method depends on its learning rate. What it adds to the second moments leads
back to X⁺y: the distance falls as 1/ε where ε is added to their root (Adam), and as ε^-2 where ε² is added below it.

Source: Wilson, Roelofs, Stern, Srebro & Recht 2017, arXiv 1705.08292, Lemma 3.1 and section 3.3. The powers of ε are
derived here: 1/(√v + ε) = 1/ε − √v/ε² + …, of which the first term is gradient descent, and 1/√(v + ε²) likewise.

Departure: 30 samples, 55 to 70 % of them positive. The five features that a negative sample has of its own are a
random partition of 5 where the paper has five ones, with which most seeds would be one problem, in whole numbers that
are hardly ever rounded. The lemma is about exact arithmetic, and assumes convergence. In float64 it holds for small
steps and long memories only: off the ray of sign(Xᵀy) the curvature that the method sees is a few times that along it,
so that steps which are stable along the ray let rounding errors grow off it. RMSProp, whose steps grow as it forgets
the first gradients, takes smaller ones here than the others, and with optax's decay of 0.9 leaves the ray even so. The
predictions are mostly those of the lemma even so, but not always (RMSProp in panel e), and not for optax's AdaGrad: its
first accumulator of 0.1 (the lemma has 0) is enough to be right on all. Here ε is 10⁻¹² of the largest first gradient
unless it is varied, the memory is 0.999, bias corrected, and the rates of RMSProp and Adam decay linearly to zero. A
share `perturbation` of Gaussian features leads from the construction, a knife's edge, to Gaussian data.
That least norm is better is no law: Shah, Basu, Kyrillidis & Sanghavi 2020, arXiv 2011.14066, which supersedes their
examples to the contrary in 1811.07055.
"""

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
from research.labels import arms, averaged, lift, norm, per_seed, select, table
from research.oracles.least_squares import minimum_l2_norm
from research.oracles.sign_interpolant import sign_curvature, sign_interpolant
from research.statistics import every_seed, slope

Optimizer = Literal["gradient_descent", "adagrad", "rmsprop", "adam"]
TOLERANCE = 1e-6  # of the relative distance at the end
SEPARATED = 0.1  # the least relative distance between the two interpolants
DEFAULT = 0.1**0.5  # optax's first accumulator of AdaGrad, 0.1, is ε² here, the largest first gradient being 1
POWERS = {"adagrad": -2.0, "rmsprop": -2.0, "adam": -1.0}


class Observables(NamedTuple):
    weights: Float[Array, "feature"]
    accuracy: Float[Array, ""]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    prior: Float[Array, ""]
    rate: Float[Array, ""]


def constructed(key: Array, labels: Array) -> Float[Array, "sample feature"]:
    """Features y, 1, 1 and five of one's own: 1 and zeros (y = 1), or positive ones whose sum is 5 (y = −1)."""
    count = len(labels)
    parts = 5 * jax.nn.softmax(jax.random.normal(key, (count, 5)))
    own = jnp.where(labels[:, None] < 0, parts, jnp.arange(5)[None, :] == 0)
    blocks = (jnp.eye(count)[:, :, None] * own[:, None, :]).reshape(count, 5 * count)
    return jnp.concatenate([labels[:, None], jnp.ones((count, 2)), blocks], axis=1)


def simulate(
    key: Array,
    learning_rate: float,
    epsilon: float = 1e-12,
    perturbation: float = 0.0,
    memory: float = 0.999,
    *,
    optimizer: Optimizer,
    samples: int = 30,
    steps: int = 5000,
) -> Run:
    """One descent from zero on 1/(2n) ‖Xw − y‖², y = ±1, X the construction mixed with Gaussian features.

    `epsilon` is in units of the largest entry g of the first gradient. `learning_rate` is in units of gradient
    descent's 2/λ_max: the others take it times (g + ε), so that ε → ∞ is gradient descent and ε → 0 has a first step
    of like size; that is their `rate`. `memory` is the decay of second moments. `accuracy` is that on 1000 new samples,
    and `prior` the share of positive ones among them.
    """
    label_key, features_key, test_key, other_key, parts_key = jax.random.split(key, 5)
    # A planted share of positive samples: there have to be more of them, and their order is of no account.
    share = jax.random.uniform(label_key, minval=0.55, maxval=0.7)
    y = jnp.where(jnp.arange(samples) < jnp.round(share * samples), 1.0, -1.0)
    mixed = lambda clean, key: (1 - perturbation) * clean + perturbation * jax.random.normal(key, clean.shape)
    X = mixed(constructed(parts_key, y), features_key)
    new = jnp.where(jax.random.bernoulli(test_key, 0.6, (1000,)), 1.0, -1.0)
    # What a new sample has of its own no training sample has, and no weight: only the first three features count.
    shared = jnp.stack([new, jnp.ones(1000), jnp.ones(1000)], axis=1)
    test = mixed(jnp.pad(shared, ((0, 0), (0, X.shape[1] - 3))), other_key)
    scale = jnp.max(jnp.abs(X.T @ y)) / samples
    rate = learning_rate * 2 / jnp.linalg.eigvalsh(X @ X.T / samples)[-1]
    adaptive, added = rate * scale * (1 + epsilon), epsilon * scale
    decaying = optax.linear_schedule(adaptive, 0.0, steps)
    chain = {
        "gradient_descent": optax.sgd(rate),
        "adagrad": optax.adagrad(adaptive, initial_accumulator_value=added**2, eps=0.0),
        "rmsprop": optax.rmsprop(decaying, decay=memory, eps=added**2, bias_correction=True),
        "adam": optax.adam(decaying, b2=memory, eps=added),
    }[optimizer]
    loss = lambda w: optax.l2_loss(X @ w, y).mean()
    observe = lambda state: Observables(state.params, jnp.mean(test @ state.params * new > 0))
    state = start(jnp.zeros(X.shape[1]), chain)
    return Run(state, descent(loss, chain), observe, log_spaced(steps, 12), Given(X, y, jnp.mean(new > 0), adaptive))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The interpolant of least norm, the sign one, the distances to them, and the rate at which the ray is stable."""
    X, y, end = dataset.X, dataset.y, dataset.sel(step=dataset.steps)
    smallest, signs = lift(minimum_l2_norm, X, y), lift(sign_interpolant, X, y)
    apart = norm(signs - smallest) / norm(smallest)
    off = (norm(dataset.weights - signs) / norm(signs)).where(apart > SEPARATED)
    return dataset.assign(
        smallest=smallest,
        signs=signs,
        off=off,
        from_signs=off.sel(step=dataset.steps),
        from_smallest=norm(end.weights - smallest) / norm(smallest),
        excess=end.accuracy - end.prior,
        right=end.accuracy,
        # Along sign(gradient) the first step is stable off the ray as well where this is below one.
        first_step=dataset.rate * lift(sign_curvature, X, y) / 2,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The lemma where its ray is stable and where it is not, the predictions, ε, and Gaussian data."""
    rates, epsilons = np.unique(dataset.learning_rate.values), np.unique(dataset.epsilon.values)
    small = lambda rate: rate <= max(rates[0], SMALL_STEP)
    adaptive = [kind for kind in POWERS if kind in np.atleast_1d(dataset.optimizer.values)]
    found: list[Finding] = []

    def add(what: str, band: tuple[float, float], variable: str, reduce: str = "max", **where: object) -> None:
        runs = select(dataset, **where)
        if runs.diverged.size:
            found.append(Finding.of(what, band, every_seed(per_seed(runs[variable], reduce))))

    long = {"memory": LONG, "epsilon": epsilons[0], "perturbation": 0.0}
    slow, fast = {"learning_rate": small, **long}, {"learning_rate": rates[-1], **long}
    reached, elsewhere = (0.0, TOLERANCE), (1000 * TOLERANCE, np.inf)
    what = "relative distance to sign(Xᵀy)/c"
    first = float(select(dataset, optimizer=adaptive, **slow).first_step.max())
    said = f"{', '.join(adaptive)}, first step at most {first:.2g} of the stable one off the ray: {what}, worst"
    add(said, reached, "from_signs", optimizer=adaptive, **slow)
    add("gradient descent: relative distance to X⁺y, worst", reached, "from_smallest", optimizer=GD)
    add("gradient descent: accuracy on new samples, least", (1.0, 1.0), "right", "min", optimizer=GD, perturbation=0.0)
    for reduce in ("max", "min"):
        said = f"adaptive, small steps: accuracy minus the share of the frequent class, {reduce}"
        add(said, (0.0, 0.0), "excess", reduce, optimizer=adaptive, **slow)
    for kind in adaptive:
        if rates.size > 1:
            first = float(select(dataset, optimizer=kind, **fast).first_step.median())
            said = f"{kind}, first step {first:.2g} of the stable one off the ray: {what} (rounding), least"
            add(said, (TOLERANCE, np.inf), "from_signs", "min", optimizer=kind, **fast)
    said = f"rmsprop, optax's decay {SHORT} (the lemma has any), small steps: {what}, worst"
    add(said, reached, "from_signs", optimizer="rmsprop", **{**slow, "memory": SHORT})
    said = "adagrad, optax's first accumulator 0.1 (the lemma has 0): accuracy minus the share of the frequent class"
    add(said, (0.0, 0.0), "excess", optimizer="adagrad", epsilon=DEFAULT, perturbation=0.0)
    for kind in adaptive:
        runs = select(dataset, optimizer=kind, perturbation=1.0, epsilon=lambda number: number >= 10)
        if np.unique(runs.epsilon.values).size > 2 and runs.diverged.size:
            distance = table(runs, "from_smallest", "epsilon")
            slopes = slope(np.log(distance.epsilon), np.log(distance))
            # The next term is of relative order 1/ε: 5 % at ε = 10, of which the slope over two decades feels less.
            band = (POWERS[kind] - 0.05, POWERS[kind] + 0.05)
            said = f"gaussian, {kind}: slope of ln(distance to X⁺y) on ln ε, ε >= 10"
            found.append(Finding.of(said, band, every_seed(slopes)))
    for kind in (GD, *adaptive):
        runs = select(dataset, optimizer=kind, perturbation=1.0, epsilon=epsilons[0])
        rates = np.unique(runs.learning_rate.values)
        if rates.size > 1 and runs.diverged.size:
            ends = [
                averaged(select(runs, learning_rate=rate).weights.sel(step=runs.steps), "seed", "feature")
                for rate in rates[[0, -1]]
            ]
            said = f"gaussian, {kind.replace('_', ' ')}: distance between the ends of two learning rates, over ‖X⁺y‖"
            band, size = reached if kind == GD else elsewhere, norm(averaged(runs.smallest, "seed", "feature"))
            found.append(Finding.of(said, band, every_seed(per_seed(norm(ends[0] - ends[1]) / size))))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) weights, (b) accuracy, (c) off the ray, (d) ε on Gaussian data, (e) accuracy and ε, (f) the knife's edge."""
    figure, panels = plots.figure(2, 3, "Adaptive methods and gradient descent end at different interpolants")
    (weights, bars, ray), (limit, decides, edge) = panels
    rates, epsilons = np.unique(dataset.learning_rate.values), np.unique(dataset.epsilon.values)
    kinds = list(dict.fromkeys(np.atleast_1d(dataset.optimizer.values).tolist()))
    for number, kind in enumerate(kinds):
        style, name = {"color": f"C{number}"}, kind.replace("_", " ")
        every = select(dataset, optimizer=kind, memory=LONG)
        for point, runs in arms(select(every, epsilon=epsilons[0], perturbation=0.0)):
            rate, end = point["learning_rate"], runs.sel(step=runs.steps)
            slow = rate <= max(rates[0], SMALL_STEP)
            if rate == rates[-1] if kind == GD else slow:
                _weights(weights, end.isel(seed=0), number, kind, name)
                plots.points(bars, xr.DataArray(float(number)), end.right, markersize=5, **style)
                theory = np.ones_like(end.prior) if kind == GD else end.prior
                label = None if number else "X⁺y: all right; sign(Xᵀy)/c: the frequent class"
                for value in theory:
                    plots.theory(bars, (number - 0.3, number + 0.3), (value, value), label, linewidth=0.7)
                    label = None
            if kind != GD and (slow or rate == rates[-1]):
                line = {"linestyle": "-" if slow else "--", **style}
                plots.seeds(ray, runs.off.isel(step=slice(1, None)).clip(1e-17), f"{name}, steps of {rate:g}", **line)
        usual = select(every, learning_rate=USUAL)
        gaussian, clean = (select(usual, perturbation=share) for share in (1.0, 0.0))
        mixed = select(usual, epsilon=epsilons[0])
        if kind != GD and gaussian.diverged.size:
            curve = table(gaussian, "from_smallest", "epsilon")
            plots.seeds(limit, curve, name, **style)
            large = curve.epsilon[curve.epsilon >= 10]
            guide = curve.isel(epsilon=-1).median("seed") * (large / curve.epsilon[-1]) ** POWERS[kind]
            plots.theory(limit, large, guide, "slopes −1 (adam) and −2" if kind == "adagrad" else None)
        if kind != GD and clean.diverged.size:
            plots.seeds(decides, table(clean, "right", "epsilon"), name, **style)
        if mixed.diverged.size:
            curve = table(mixed, "right", "perturbation")
            plots.seeds(edge, curve.assign_coords(perturbation=curve.perturbation.clip(1e-3)), name, **style)
    for axes in (decides, edge):
        share = float(dataset.prior.mean())
        axes.axhline(share, color="black", linestyle="--", linewidth=1.2, label="frequent class (mean share)")
        axes.set(xscale="log", ylim=(0.3, 1.03), ylabel="accuracy on new samples")
    decides.axvline(DEFAULT, color="0.5", linewidth=0.8, label="optax's default of adagrad")
    weights.set(title="a  weights at the end, one seed", ylabel="weight", ylim=(-0.4, 1.6))
    weights.set_xticks(range(4), ["y", "1, 1", "own\n(y = 1)", "own\n(y = −1)"])
    bars.set(title="b  all fit the training data; new samples", ylabel="accuracy on new samples", ylim=(0.4, 1.09))
    bars.set_xticks(range(len(kinds)), [kind.replace("_", "\n") for kind in kinds])
    ray.axhline(TOLERANCE, color="black", linestyle="--", linewidth=1.2, label="tolerance of the claim")
    ray.set(title="c  the lemma's ray and rounding", xscale="log", yscale="log", xlabel="step")
    ray.set(ylabel="relative distance to sign(Xᵀy)/c", ylim=(1e-17, 30))
    limit.set(title="d  Gaussian data", xscale="log", yscale="log", xlabel="ε / largest first gradient")
    limit.set_ylabel("relative distance to X⁺y")
    decides.set(title="e  ε decides", xlabel="ε / largest first gradient")
    edge.set(title="f  a knife's edge", xlabel="share of Gaussian features (0 drawn at 0.001)")
    places = {ray: "lower left", edge: (0.02, 0.5), decides: "lower left"}
    for axes in panels.ravel():
        plots.legend(axes, fontsize=6.5 if axes is ray else 7.5, loc=places.get(axes, "best"))
    return figure


def _weights(axes: plots.Axes, end: xr.Dataset, number: int, kind: str, name: str) -> None:
    """Each group of features that has something to say: the label, the ones, what positive and negative samples own."""
    own, positive = 3 + 5 * np.arange(end.sizes["sample"]), end.y.values > 0
    others = (own[~positive][:, None] + np.arange(5)).ravel()
    for place, column in enumerate((np.array([0]), np.array([1, 2]), own[positive], others)):
        first = place == 0
        exact = (end.smallest if kind == GD else end.signs).isel(feature=column)
        order, along = np.argsort(exact.values), place - 0.3 + 0.6 * (np.arange(len(column)) + 0.5) / len(column)
        x = xr.DataArray(along if kind == GD else along * 0 + place + 0.12 * (number - 1.5), dims="feature")
        ends = end.weights.isel(feature=column[order])
        plots.points(axes, x, ends, name if first else None, color=f"C{number}", alpha=1.0)
        if kind in (GD, "adam"):
            label = ("X⁺y" if kind == GD else "sign(Xᵀy)/c") if first else None
            wide, level = (place - 0.3, *along, place + 0.3), exact.values[order]
            style = {"linestyle": "-" if kind == GD else "--"}
            plots.theory(axes, wide, (level[0], *level, level[-1]), label, **style)


GD: Optimizer = "gradient_descent"
LONG, SHORT, USUAL, SMALL_STEP = 0.999, 0.9, 0.2, 0.02
AXES = ("optimizer", "learning_rate", "epsilon", "perturbation", "memory")
LEAST, STRENGTHS = 1e-12, (1e-8, 1e-4, 1e-2, 0.1, DEFAULT, 1.0, 10.0, 100.0, 1000.0)
ARMS = [
    *((kind, rate, LEAST, 0.0, LONG) for kind in POWERS for rate in (USUAL, 0.8)),
    *((kind, rate, LEAST, 0.0, LONG) for kind, rate in (("adagrad", 0.02), ("rmsprop", 0.005), ("adam", 0.02))),
    *((kind, USUAL, e, mixed, LONG) for kind in POWERS for mixed in (0.0, 1.0) for e in STRENGTHS),
    *((kind, USUAL, LEAST, mixed, LONG) for kind in POWERS for mixed in (0.01, 0.03, 0.1, 0.3, 1.0)),
    *((kind, rate, LEAST, 1.0, LONG) for kind in POWERS for rate in (0.02, 0.8)),
    *(("rmsprop", rate, LEAST, 0.0, SHORT) for rate in (0.005, USUAL, 0.8)),
    *((GD, rate, LEAST, mixed, LONG) for rate in (USUAL, 0.8) for mixed in (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)),
]
SMALL = [
    *((rate, LEAST, mixed) for rate in (0.02, 0.8) for mixed in (0.0, 1.0)),
    *((USUAL, e, 1.0) for e in (10.0, 100.0, 1000.0)),
    (USUAL, DEFAULT, 0.0),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, AXES: [arm for arm in ARMS if arm[0] in (GD, "adagrad") and arm[1:4] in SMALL]},
    paper={"seeds": 64, "samples": 200, "steps": 50_000},
    control={"epsilon": 1.0, "optimizer": "adagrad"},
)
