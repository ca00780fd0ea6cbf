"""AdamW minimises the loss in the box |w| <= 1/λ; Adam with the decay in the gradient, and SGD, find ridge.

Claim: If full-batch AdamW with β1 <= β2 < 1 and decoupled weight decay λ converges, at rates that do not increase and
whose sum is infinite, it converges to a point that is optimal for the loss under ‖w‖_∞ <= 1/λ; to the constrained
minimiser where the loss is convex. λ does not weigh a penalty: it is the inverse of a bound, and inside the bound it
does nothing.

Source: Xie & Li 2024, arXiv 2404.04454, Theorem 1.1; for Lion, which decays alike: Chen, Liu, Liang & Liu 2023, arXiv
2310.05898; decoupled and coupled decay: Loshchilov & Hutter 2019, arXiv 1711.05101.

Departure: "Weight decay" is two things. Decoupled (optax.adamw, optax.lion), w ← w − η (u + λ w) with u = m/(√v + ε):
the gradient is normalised and the decay is not. Coupled (optax.add_decayed_weights before optax.scale_by_adam), λ w
joins the gradient before m and v: the descent is on the loss + λ/2 ‖w‖², whose minimiser is ridge. For plain SGD the
two are one. The theorem takes ε = 0. Here ε is an axis too, and the rest point of AdamW a closed form for all of it: u
= −λ w at m = g, √v = |g| says that the gradient of the loss plus the barrier ε Σ(−|w| − ln(1 − λ|w|)/λ) vanishes
(research/oracles/box.py), which is the box for ε → 0 and ridge of strength ελ for ε → ∞. An oscillation of
the order of the rate η is left, where it is constant and while ε << η; the sampling noise of mini-batches (drawn with
replacement) is what the sign of a gradient does not average out. For β2 near 1 the way is slow: √v lags behind the
gradient inside the box, and on its faces it undoes the decay (the two rates are derived here and in the oracle's file).
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import lift, norm, per_seed, select, sound
from research.oracles.box import barrier_least_squares, box_least_squares, box_logistic, face_stiffness
from research.oracles.least_squares import ridge
from research.statistics import every_seed, over_seeds, slope_within

Loss = Literal["least_squares", "logistic"]
Optimizer = Literal["adamw", "lion", "sgd", "adamw_minibatch"]
TOLERANCE = 1e-3  # of the claim: the relative distance at the end


class Observables(NamedTuple):
    weights: Float[Array, "feature"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]


def problem(key: Array, loss: Loss, samples: int, features: int) -> Given:
    """Gaussian X and noisy measurements of a planted direction, or their signs; one draw, which compiles fast."""
    draw = jax.random.normal(key, (samples + 1, features + 1))
    X, planted, noise = draw[:-1, :-1], draw[-1, :-1], draw[:-1, -1]
    measured = X @ planted / jnp.linalg.norm(planted)
    return Given(X, 3 * (measured + 0.3 * noise) if loss == "least_squares" else jnp.sign(measured + noise))


def simulate(
    key: Array,
    learning_rate: float,
    weight_decay: float,
    coupled: float,
    b2: float,
    epsilon: float,
    time_scale: float,
    *,
    loss: Loss = "least_squares",
    optimizer: Optimizer = "adamw",
    samples: int = 20,
    features: int = 10,
    batch: int = 5,
    steps: int = 30_000,
) -> Run:
    """One descent from zero on 1/(2n) ‖Xw − y‖², or on the mean logistic loss, at the rate η/(1 + t/time_scale).

    The share `coupled` of the weight decay joins the gradient before the moments, the rest decays the weights beside
    them; both are multiplied by the rate. "sgd" takes the constant rate.
    """
    data_key, batch_key = jax.random.split(key)
    X, y = problem(data_key, loss, samples, features)
    if loss == "least_squares":
        objective = lambda w, rows: optax.l2_loss(X[rows] @ w, y[rows]).mean()
    else:
        objective = lambda w, rows: jax.nn.softplus(-y[rows] * (X[rows] @ w)).mean()
    rate = lambda count: learning_rate / (1 + count / time_scale)
    apart = {"b2": b2, "weight_decay": (1 - coupled) * weight_decay}
    chain = {
        "adamw": optax.adamw(rate, eps=epsilon, **apart),
        "adamw_minibatch": optax.adamw(rate, eps=epsilon, **apart),
        "lion": optax.lion(rate, **apart),
        "sgd": optax.chain(optax.add_decayed_weights(apart["weight_decay"]), optax.sgd(learning_rate)),
    }[optimizer]
    chain = optax.chain(optax.add_decayed_weights(coupled * weight_decay), chain)
    if optimizer == "adamw_minibatch":
        step = stochastic_descent(objective, chain, lambda key: jax.random.choice(key, len(X), (batch,)))
    else:
        step = descent(lambda w: objective(w, slice(None)), chain)
    observe = lambda state: Observables(state.params)
    state = start(jnp.zeros(features), chain, batch_key)
    return Run(state, step, observe, log_spaced(steps, 40), Given(X, y))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The minimisers in the box, of ridge and with epsilon's barrier, and how far the weights are from each."""
    dataset = sound(dataset)
    X, y, decay, squares = dataset.X, dataset.y, dataset.weight_decay, dataset.loss == "least_squares"
    chosen, end = X.where(squares), dataset.weights.sel(step=dataset.steps)
    logistic = lift(box_logistic, X.where(~squares), y, 1 / decay)
    boxed = xr.where(squares, lift(box_least_squares, chosen, y, 1 / decay), logistic)
    penalized, weak = lift(ridge, chosen, y, decay), lift(ridge, chosen, y, decay * dataset.epsilon)
    barrier = lift(barrier_least_squares, chosen, y, decay, dataset.epsilon)
    away = lambda weights, target: norm(weights - target) / norm(target)
    path, late = away(dataset.weights, boxed), dataset.step >= dataset.steps / 10
    inside = 1 - (abs(boxed) * decay) ** 2
    apart = away(penalized, boxed) >= 0.05
    return dataset.assign(
        boxed=boxed,
        penalized=penalized,
        path=path,
        from_box=away(end, boxed),
        from_ridge=away(end, penalized),
        nearness=(norm(end - boxed) / norm(end - penalized)).where(apart),
        from_barrier=away(end, barrier),
        from_weak=away(end, weak),
        barrier_from_box=away(barrier, boxed),
        barrier_from_weak=away(barrier, weak),
        oscillation=path.where(late).median("step"),
        # a run that never left zero misses the minimiser's own, which is 1 where it touches the box
        overhang=abs(abs(end).max("feature") - abs(boxed).max("feature")) * decay,
        # While a gradient shrinks as e^(-ct), √v, which remembers 1/(1 − b2) steps, lags: |m|/√v = λ|w| at rest needs
        # c = (1 − b2)(1 − λ²w²)/2 for b2 near 1, slowest for the coordinate inside that is nearest to a face. On a face
        # the gradient grows as w comes nearer, and what √v lags behind pushes back: see `face_stiffness`; η >> 1 − b2.
        lag=(1 - dataset.b2)
        * np.minimum(
            inside.where(inside > 1e-9).min("feature").fillna(np.inf) / 2,
            decay / (decay + lift(face_stiffness, chosen, y, 1 / decay)),
        ),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The box, its rival, slow moments, other optimisers and losses, epsilon, constant rates, mini-batches."""
    found: list[Finding] = []
    first = str(np.atleast_1d(dataset.optimizer.values)[0])
    usual = {"loss": "least_squares", "optimizer": first, "epsilon": lambda epsilon: epsilon <= 1e-12}
    usual |= {"time_scale": lambda scale: scale < CONSTANT, "b2": lambda b2: b2 < 0.95}
    usual |= {"coupled": float(np.atleast_1d(dataset.coupled.values)[0])}

    def add(what: str, band: tuple[float, float], variable: str, reduce: str = "max", **chosen: object) -> xr.Dataset:
        runs = select(dataset, **{**usual, **chosen})
        if runs.diverged.size:
            least = {"max": "the worst", "min": "the nearest"}[reduce]
            kind = "adam, decay in the gradient" if chosen.get("coupled") == 1 else chosen.get("optimizer", first)
            said = f"{kind}: {what}, {least} of a seed's runs".replace("_", " ")
            found.append(Finding.of(said, band, every_seed(per_seed(runs[variable], reduce))))
        return runs

    box, penalty = "relative distance to the minimiser in |w| <= 1/λ", "relative distance to the ridge solution"
    close, far = (0.0, TOLERANCE), (100 * TOLERANCE, np.inf)
    add(box, close, "from_box")
    add("distance to that minimiser over the distance to ridge", (0.0, 0.01), "nearness")
    add("distance of λ max|w| to that of the minimiser (1 on the box)", close, "overhang")
    for b2 in (0.99, 0.999):
        slow = select(dataset, **{**usual, "b2": b2})
        if slow.diverged.size:
            late, outlook = slow.from_box > TOLERANCE, ""
            falls = (slow.path.isel(step=slice(-6, None)).diff("step") < 0).all("step")
            if bool(late.any() and falls.where(late, True).all()):
                time = slow.steps + np.log(slow.from_box / TOLERANCE) / slow.lag
                power = float(np.log10(time.where(late, 0.0).max()))
                outlook = f"the slowest mode is there at t = 10^{power:.1f} (slowest run)"
            said = f"{first}, b2 = {b2}: {box}, the worst of a seed's runs"
            found.append(Finding.of(said, close, every_seed(per_seed(slow.from_box)), outlook))
    add("logistic loss: " + box, close, "from_box", loss="logistic")
    add(box, close, "from_box", optimizer="lion", b2=0.99)
    for chosen in ({"coupled": 1.0}, {"optimizer": "sgd"}):
        add(penalty, close, "from_ridge", **chosen)
        add(box, far, "from_box", "min", **chosen)
    if first == "adamw":
        strong = lambda epsilon: epsilon >= 1e-4
        add(
            "ε from 10⁻⁴: relative distance to the minimiser with ε's barrier",
            (0.0, 1e-6),
            "from_barrier",
            epsilon=strong,
        )
        add("ε from 0.1: " + box, far, "from_box", "min", epsilon=lambda epsilon: epsilon >= 0.1)
        constant = select(dataset, **{**usual, "time_scale": CONSTANT})
        if constant.learning_rate.size > 2:
            x, y = np.log(constant.learning_rate), np.log(constant.oscillation)
            order = slope_within(x, y, ~constant.diverged.any(x.dims), str(x.dims[0]))
            said = "adamw, constant rate η: order in η of the distance that is left (median of the last decade), mean"
            found.append(Finding.of(said, (0.8, 1.2), over_seeds(per_seed(order))))
        add("batches of a quarter of the samples: " + box, far, "from_box", "min", optimizer="adamw_minibatch")
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) AdamW's coordinates and the box, (b) those of Adam with coupled decay and ridge, (c) epsilon, (d) the way."""
    figure, panels = plots.figure(2, 2, "AdamW minimises the loss in a box, not with a penalty")
    boxes, penalties, epsilons, ways = panels.ravel()
    plain = {"b2": 0.9, "epsilon": lambda epsilon: epsilon <= 1e-12, "time_scale": lambda scale: scale < CONSTANT}
    plain |= {"loss": "least_squares", "learning_rate": 0.1}
    for axes, share, oracle, said in (
        (boxes, 0.0, lambda X, y, decay: lift(box_least_squares, X, y, 1 / decay), "minimiser in the box"),
        (penalties, 1.0, lambda X, y, decay: lift(ridge, X, y, decay), "ridge"),
    ):
        runs = select(dataset.isel(seed=slice(0, 1)), **plain, optimizer="adamw", coupled=share)
        one = runs.weights.sel(step=runs.steps)
        others = dict.fromkeys(runs.diverged.dims, 0)
        decay = xr.DataArray(np.geomspace(0.25, 4.0, 80), dims="decay")
        for sign in (-1, 1):
            axes.plot(decay, sign / decay, color="0.6", label="box |w| = 1/λ" if sign > 0 else None)
        if one.size:
            X, y = (runs[name].isel(others, missing_dims="ignore") for name in ("X", "y"))
            exact = oracle(X, y, decay)
            for coordinate in range(one.sizes["feature"]):
                label, colour = None if coordinate else said, f"C{coordinate % 7}"
                plots.points(axes, one.weight_decay, one.isel(feature=coordinate), color=colour, alpha=1.0)
                plots.theory(axes, decay, exact.isel(feature=coordinate), label, linewidth=0.8)
        axes.set(xscale="log", xlabel="weight decay λ", ylabel="coordinates of w at the end (one seed)", ylim=(-3, 3))
        axes.set_xticks((0.25, 0.5, 1, 2, 4), ("1/4", "1/2", "1", "2", "4"))
        axes.xaxis.set_minor_formatter("")
    runs = select(
        dataset, loss="least_squares", optimizer="adamw", weight_decay=1.0, epsilon=lambda epsilon: epsilon > 1e-12
    )
    if runs.diverged.size:
        apart = [each for each in runs.from_box.dims if each not in runs.epsilon.dims]
        for number, (kind, said) in enumerate((("box", "box |w| <= 1/λ"), ("weak", "ridge of strength ελ"))):
            plots.points(epsilons, runs.epsilon, runs[f"from_{kind}"], f"to the {said}", color=f"C{number}")
            exact = runs[f"barrier_from_{kind}"].median(apart)
            plots.theory(epsilons, runs.epsilon, exact, None if number else "ε's barrier (median seed)")
        last = runs.learning_rate / (1 + runs.steps / runs.time_scale)
        # where g << ε this is descent at the rate η/ε, which momentum 0.9 keeps stable to 38 over the curvature
        small = np.atleast_1d(38 * runs.epsilon < last)
        plots.theory(
            epsilons,
            np.atleast_1d(runs.epsilon)[small],
            np.atleast_1d(last + 0 * runs.epsilon)[small],
            "last rate η, of whose order\nan oscillation may be left",
            linestyle=":",
        )
    for number, (said, chosen) in enumerate(WAYS.items()):
        runs = select(dataset, **{"weight_decay": 1.0, "optimizer": "adamw", "coupled": 0.0, **plain, **chosen})
        if runs.diverged.size:
            others = {each: 0 for each in runs.path.dims if each not in ("seed", "step")}
            plots.seeds(ways, runs.path.isel(others).sel(step=runs.step > 0), said, color=f"C{number}")
    ways.axhline(TOLERANCE, color="black", linestyle="--", linewidth=1.2, label="tolerance of the claim")
    boxes.set_title("a  AdamW: decoupled decay")
    penalties.set_title("b  Adam: decay in the gradient")
    epsilons.set(title="c  ε leads from the box to ridge (λ = 1)", xlabel="ε", xscale="log", yscale="log")
    epsilons.set_ylabel("relative distance of the end")
    ways.set(title="d  the way (λ = 1)", xlabel="step", xscale="log", yscale="log")
    ways.set_ylabel("relative distance to the\nminimiser in the box")
    ways.set_ylim(1e-8, 3)
    for axes in panels.ravel():
        plots.legend(axes)
    return figure


CONSTANTS = (0.003, 0.005, 0.008, 0.013, 0.02, 0.035, 0.06, 0.1)
TINY, CONSTANT, LS = 1e-15, 1e12, "least_squares"
WAYS: dict[str, dict] = {
    "AdamW": {},
    "AdamW, b2 = 0.999": {"b2": 0.999},
    "AdamW, constant rate": {"time_scale": CONSTANT, "learning_rate": 0.02},
    "AdamW, mini-batches": {"optimizer": "adamw_minibatch"},
    "Lion": {"optimizer": "lion", "b2": 0.99},
    "Adam, decay in the gradient": {"coupled": 1.0},
}
AXES = ("loss", "optimizer", "learning_rate", "weight_decay", "coupled", "b2", "epsilon", "time_scale")
ARMS = [(LS, "adamw", 0.1, decay, 0.0, 0.9, TINY, 100.0) for decay in (0.25, 0.4, 0.6, 1.0, 1.6, 2.5, 4.0)]
ARMS += [(LS, "adamw", 0.03, decay, 0.0, 0.9, TINY, 100.0) for decay in (1.0, 2.5)]
ARMS += [(LS, "adamw", 0.1, decay, 0.0, b2, TINY, 100.0) for b2 in (0.99, 0.999) for decay in (1.0, 2.5)]
ARMS += [(LS, "adamw", 0.1, decay, 1.0, 0.9, TINY, 100.0) for decay in (0.25, 0.4, 0.6, 1.0, 1.6, 2.5, 4.0)]
ARMS += [(LS, "adamw", rate, 1.0, 0.0, 0.9, TINY, CONSTANT) for rate in CONSTANTS]
ARMS += [(LS, "adamw", 0.03, 1.0, 0.0, 0.9, epsilon, 100.0) for epsilon in (1e-8, 1e-6)]
ARMS += [(LS, "adamw", 0.03, 1.0, 0.0, 0.9, 10.0**power, 1000.0) for power in (-4, -3, -2, -1, 0, 1, 2)]
ARMS += [(LS, "lion", 0.1, decay, 0.0, 0.99, TINY, 100.0) for decay in (1.0, 2.5)]
ARMS += [(LS, "sgd", 0.1, decay, 0.0, 0.9, TINY, 100.0) for decay in (1.0, 2.5)]
ARMS += [(LS, "adamw_minibatch", 0.1, 1.0, 0.0, 0.9, TINY, 100.0)]
ARMS += [("logistic", "adamw", 0.1, decay, 0.0, 0.9, TINY, 100.0) for decay in (1.0, 2.5)]
SMALL = [arm for arm in ARMS if arm[:2] == (LS, "adamw") and arm[3] in (1.0, 2.5) and arm[2] == 0.1]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, AXES: SMALL},
    paper={"seeds": 64, "steps": 1_000_000},
    control={"coupled": 1.0},
)
