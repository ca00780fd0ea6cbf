"""Model, strategy and algorithm: where one solution is best all algorithms find it, where many are it decides which.

Claim: On least squares (strategy) for a linear model, all algorithms end at the solution of the normal equations where
the loss is strictly convex. With more weights than samples every interpolant is optimal, and the algorithm decides
which is found, not every one another: from zero gradient descent, the heavy ball, Newton's method, conjugate gradients
and a direct solver all end at X⁺y, of least l2 norm; gradient descent in other units at D Xᵀ(X D Xᵀ)⁺y; mirror descent
with |w|^p at the least lp norm; from another start gradient descent ends at the interpolant nearest to it: four
solutions for eight of the ten algorithms here. Conjugate gradients take as many steps as the Hessian has rank, and lead
through the best fits of the Krylov spaces. Steepest descent in l∞ (a sign descent) and in l1 (coordinate descent) fit
as well, but not at the least norm of theirs, as is often said of them.

Source: model, strategy and algorithm are the three elements of statistical learning in Li 2012, "Statistical learning
methods". Gunasekar, Lee, Soudry & Srebro 2018, arXiv 1802.08246, on mirror descent, and on steepest descent in norms
that are not quadratic, which on squared loss is decided by the step size as well. Hestenes & Stiefel 1952, "Methods of
conjugate gradients for solving linear systems".

Departure: Gaussian data, 20 weights, 80 samples against 10. Newton's method inverts the Hessian on its range. p = 1.5
stands for a norm near l1. The direct solver is `jnp.linalg.lstsq`, whose answer is taken in the first step; conjugate
gradients have an exact step along each direction. Neither knows a learning rate.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, log_spaced, start
from research.experiment import Experiment, Finding, Findings
from research.labels import first_arm, lift, norm, select, sound
from research.optimizers import coordinate_descent, mirror_descent, steepest_descent
from research.oracles.krylov import krylov_fits
from research.oracles.least_squares import minimum_l1_norm, minimum_l2_norm, minimum_linf_norm, null_component
from research.oracles.power_norm import minimum_power_norm

REACHED = 1e-6  # relative distance at the end
APART = 0.05  # the least relative distance between the solutions that are told apart
POWER = 1.5
ALGORITHMS = {
    "gradient_descent": "gradient descent",
    "heavy_ball": "heavy ball",
    "newton": "Newton",
    "other_start": "gradient descent, another start",
    "other_units": "gradient descent, other units",
    "mirror_descent": f"mirror descent, |w|^{POWER:g}",
    "sign_descent": "sign descent (l∞)",
    "coordinate_descent": "coordinate descent (l1)",
    "direct": "direct solver (SVD)",
    "conjugate_gradients": "conjugate gradients",
}
OWN = {  # where each of them should end, by name of the solution
    "gradient_descent": "l2",
    "heavy_ball": "l2",
    "newton": "l2",
    "other_start": "nearest",
    "other_units": "weighted",
    "mirror_descent": "power",
    "direct": "l2",
    "conjugate_gradients": "l2",
}
SAID = {"sign_descent": "linf", "coordinate_descent": "l1"}
WORDS = {
    "l2": "least l2 norm, X⁺y",
    "nearest": "the nearest to its start",
    "weighted": "least weighted norm",
    "power": f"least l{POWER:g} norm",
    "linf": "least l∞ norm",
    "l1": "least l1 norm",
}


class Observables(NamedTuple):
    weights: Float[Array, "algorithm feature"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    initial: Float[Array, "feature"]
    units: Float[Array, "feature"]


def conjugate_gradients(H: Float[Array, "feature other"]) -> optax.GradientTransformation:
    """Fletcher & Reeves' directions with exact steps: on a quadratic of Hessian H the method of conjugate gradients."""
    over = lambda part, whole: jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)

    def update(gradient: Array, state: tuple[Array, Array], params: Array | None = None) -> tuple:
        before, direction = state
        direction = over(gradient @ gradient, before @ before) * direction - gradient
        length = over(-gradient @ direction, direction @ H @ direction)
        return length * direction, (gradient, direction)

    return optax.GradientTransformation(lambda params: (jnp.zeros_like(params),) * 2, update)


def simulate(
    key: Array, samples: float, learning_rate: float = 1.0, *, features: int = 20, most: int = 80, steps: int = 6000
) -> Run:
    """All algorithms on 1/(2n) ‖Xw − y‖² with the first `samples` of `most` rows; they start at zero, but for one.

    `learning_rate` is in units of one over the smoothness of the loss in the norm of each (mirror descent: a quarter of
    gradient descent's). `units` is the diagonal of D, random between 1/2 and 2. Momentum is 0.9 for the heavy ball,
    at a tenth of the rate.
    """
    normal = jax.random.normal(key, (most + 3, features + 1))
    used = (jnp.arange(most) < samples)[:, None]
    X = jnp.where(used, normal[3:, :features], 0.0)
    planted, initial, units = normal[0, :features], normal[1, :features], 2 ** jnp.tanh(normal[2, :features])
    y = X @ planted + 0.5 * used[:, 0] * normal[3:, features]
    H = X.T @ X / samples
    losses = lambda weights: jnp.sum(optax.l2_loss(weights @ X.T - y[None, :])) / samples
    values, vectors = jnp.linalg.eigh(H)
    rate, kept = learning_rate / values[-1], values > 1e-9 * values[-1]
    inverse = (vectors * jnp.where(kept, 1 / jnp.where(kept, values, 1.0), 0.0)[None, :]) @ vectors.T
    solution = jnp.linalg.lstsq(X, y)[0]
    scaled = lambda matrix: optax.stateless(lambda g, params=None: matrix @ g)
    # ‖H‖ from l∞ to l1 is at most Σ|H_jk|, from l1 to l∞ it is max|H_jk|; D^½HD^½ has at most max D times H's largest
    chains = {
        "gradient_descent": optax.sgd(rate),
        "heavy_ball": optax.sgd(rate / 10, momentum=0.9),
        "newton": optax.chain(scaled(inverse), optax.sgd(learning_rate)),
        "other_start": optax.sgd(rate),
        "other_units": optax.chain(scaled(jnp.diag(units)), optax.sgd(rate / units.max())),
        "mirror_descent": mirror_descent(rate / 4, POWER),
        "sign_descent": steepest_descent(learning_rate / jnp.abs(H).sum(), np.inf),
        "coordinate_descent": coordinate_descent(learning_rate / jnp.abs(H).max()),
        "direct": optax.stateless(lambda g, params=None: solution - params),
        "conjugate_gradients": conjugate_gradients(H),
    }

    def step(state: tuple) -> tuple:
        gradients = jax.grad(losses)(jnp.stack([each.params for each in state]))  # one row an algorithm
        moved = []
        for chain, each, gradient in zip(chains.values(), state, gradients, strict=True):
            updates, inner = chain.update(gradient, each.optimizer_state, each.params)
            moved.append(each._replace(params=each.params + updates, optimizer_state=inner))
        return tuple(moved)

    zero = jnp.zeros(features)
    state = tuple(start(initial if name == "other_start" else zero, chain) for name, chain in chains.items())
    observe = lambda state: Observables(jnp.stack([each.params for each in state]))
    hidden = jnp.where(used, X, jnp.nan)  # what is not used is padding to the oracles
    given = Given(hidden, jnp.where(used[:, 0], y, jnp.nan), initial, units)
    # every step to the largest rank, since conjugate gradients are compared with all Krylov spaces and at a run's rank
    at = np.union1d(log_spaced(steps, 40), np.arange(min(features, steps) + 1))
    return Run(state, step, observe, at, given)


def weighted_solution(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], units: Float[np.ndarray, "feature"]
) -> Float[np.ndarray, "feature"]:
    """Return the least-squares solution of least Σ w²/units: √D times that of X √D of least l2 norm."""
    return np.sqrt(units) * minimum_l2_norm(X * np.sqrt(units), y)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The solutions, the distances of every algorithm to each of them, and how well it fits."""
    dataset = sound(dataset).assign_coords(algorithm=list(ALGORITHMS))
    X, y = dataset.X, dataset.y
    many = dataset.samples < dataset.features
    blank = X.where(many)
    shortest = lift(minimum_l2_norm, X, y)
    solutions = {
        "l2": shortest,
        "nearest": shortest + lift(null_component, X, dataset.initial),
        "weighted": lift(weighted_solution, X, y, dataset.units),
        "power": lift(minimum_power_norm, blank, y.where(many), POWER),
        "linf": lift(minimum_linf_norm, blank, y.where(many)),
        "l1": lift(minimum_l1_norm, blank, y.where(many)),
    }
    ends = xr.concat(list(solutions.values()), xr.DataArray(list(solutions), dims="solution", name="solution"))
    size = norm(shortest)
    distances = norm(dataset.weights - ends) / size
    apart = [
        norm(ends.sel(solution=a) - ends.sel(solution=b)) / size
        for number, a in enumerate(solutions)
        for b in list(solutions)[:number]
    ]
    early = dataset.step.where(dataset.step <= dataset.sizes["feature"], drop=True)
    fits = lift(krylov_fits, X, y, early.astype(float))
    led = dataset.weights.sel(algorithm="conjugate_gradients", step=early)
    misfit = norm((X * dataset.weights).sum("feature", min_count=1) - y, "sample") / norm(y, "sample")
    return dataset.assign(
        distances=distances,
        misfit=misfit.sel(step=dataset.steps),
        apart=xr.concat(apart, "pair").min("pair", skipna=False),
        weighted_norm=norm(dataset.weights) / size,
        astray=(norm(led - fits) / size).max("step", skipna=False),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """With one solution; with many: all fit, eight end where theory says, two not where it is said; and when."""
    found = Findings()
    add = found.add
    one, many = (
        select(dataset, samples=lambda count: count >= float(np.max(dataset.features))),
        select(dataset, samples=lambda count: count < float(np.max(dataset.features))),
    )
    at = lambda runs: runs.distances.sel(step=runs.steps)
    judged, said = one, "strictly convex: relative distance to the normal equations' solution"
    if not one.diverged.size:  # then X⁺y is one of many solutions, and all algorithms should not end there
        judged, said = many, "many solutions, none strictly convex: relative distance to one of them, X⁺y"
    add(f"{said}, worst of {len(ALGORITHMS)} algorithms", (0.0, REACHED), judged, at(judged).sel(solution="l2"))
    add(f"many solutions: ‖Xw − y‖/‖y‖, worst of {len(ALGORITHMS)} algorithms", (0.0, REACHED), many, many.misfit)
    said = "check, rivals apart: relative distance between any two of the six interpolants, least"
    add(said, (APART, np.inf), many, many.apart, "min")
    for algorithm, solution in OWN.items():
        what = f"many solutions, {ALGORITHMS[algorithm]}: relative distance to {WORDS[solution]}"
        add(what, (0.0, REACHED), many, at(many).sel(algorithm=algorithm, solution=solution))
    features, last = dataset.sizes["feature"], int(np.min(dataset.steps))
    long = select(dataset, samples=lambda count: min(count, features) <= last)
    if long.diverged.size:
        rank = np.minimum(long.samples, long.features).astype(int)
        ranks = " and ".join(f"{value}" for value in np.unique(rank))
        at_rank = long.distances.sel(step=rank, solution="l2")
        what = f"after as many steps as the Hessian has rank ({ranks}): relative distance to X⁺y, "
        add(f"{what}conjugate gradients", (0.0, REACHED), long, at_rank.sel(algorithm="conjugate_gradients"))
        slow = at_rank.sel(algorithm="gradient_descent")
        add(f"{what}gradient descent, least", (REACHED, np.inf), long, slow, "min")
    what = "conjugate gradients: relative distance to the best fit of each Krylov space, largest of the first"
    add(f"{what} {min(features, last)} steps", (0.0, REACHED), dataset, dataset.astray)
    for algorithm, solution in SAID.items():
        what = f"many solutions, {ALGORITHMS[algorithm]}: distance to {WORDS[solution]} (as is said), least of a seed"
        add(what, (0.0, REACHED), many, at(many).sel(algorithm=algorithm, solution=solution), "min")
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Distances (a) to the one solution, (b) to each algorithm's own of many, (c) of every algorithm to every one."""
    figure, ((one, own, table),) = plots.figure(
        1, 3, "Where there are many solutions, the algorithm is part of the model", (5.0, 4.6)
    )
    for number, (algorithm, words) in enumerate(ALGORITHMS.items()):
        line = "--" if algorithm in SAID else "-" if number < 7 else ":"
        style = {"color": f"C{number}", "linestyle": line}
        for axes, wanted in ((one, lambda samples, p: samples >= p), (own, lambda samples, p: samples < p)):
            least = float(np.max(dataset.features))
            runs = select(dataset, samples=lambda samples, wanted=wanted, least=least: wanted(samples, least))
            if runs.diverged.size:
                runs = first_arm(runs).isel(step=slice(1, None))
                solution = "l2" if axes is one else (OWN | SAID)[algorithm]
                path = runs.distances.sel(algorithm=algorithm, solution=solution).clip(1e-16)
                plots.seeds(axes, path, words, **style)
    many = select(dataset, samples=lambda samples: samples < float(np.max(dataset.features)))
    if many.diverged.size:
        ends = many.distances.sel(step=many.steps).median(list(many.diverged.dims))
        shown = np.log10(ends.transpose("algorithm", "solution").clip(1e-8).values)
        colour = table.imshow(shown, cmap="viridis", vmin=-8, vmax=0, aspect="auto")
        figure.colorbar(colour, ax=table, label="log10 of the relative distance at the end")
        for row, algorithm in enumerate(ALGORITHMS):
            if algorithm in OWN:
                x = list(WORDS).index(OWN[algorithm])
                square = (np.array([-0.5, 0.5, 0.5, -0.5, -0.5]) + x, np.array([-0.5, -0.5, 0.5, 0.5, -0.5]) + row)
                plots.theory(table, *square, None if row else "theory", linestyle="-", linewidth=2)
        table.set_xticks(range(len(WORDS)), ("l2", "nearest", "weighted", f"l{POWER:g}", "l∞", "l1"), rotation=45)
        table.set_yticks(range(len(ALGORITHMS)), [name.replace("_", " ") for name in ALGORITHMS])
        table.grid(False)
    for axes in (one, own):
        axes.axhline(REACHED, color="black", linestyle="--", linewidth=1.2, label="theory: 0 (judged at 1e-6)")
        axes.set(xscale="log", yscale="log", xlabel="step", ylim=(1e-17, 30))
    named = one if len(one.get_legend_handles_labels()[1]) > 1 else own
    figure.legend(*named.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    one.set(title="a  one solution: all agree", ylabel="relative distance to the solution")
    own.set(title="b  many solutions: eight end where theory says", ylabel="distance to theory's (dashed: as is said)")
    table.set(
        title="c  who ends where", xlabel="interpolant: norm that is least, or nearest to the start", ylabel="algorithm"
    )
    return figure


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, "samples": (80.0, 10.0), "learning_rate": (0.5, 1.0)},
    smoke={"seeds": 2, "learning_rate": 1.0, "steps": 1500},
    paper={"seeds": 64, "steps": 100_000},
    control={"samples": 10.0},
)
