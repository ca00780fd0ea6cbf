"""L1 sets weights to zero, L2 never does: proximal descent follows the lasso's path, descent with L2 is ridge.

Claim: Proximal gradient descent on 1/(2n)‖Xw − y‖² + λ‖w‖₁ ends at the lasso, with the very weights and the very zeros
of the path that least angle regression computes in closed form, for every λ. With λ/2‖w‖² instead it ends at ridge,
(XᵀX + nλ)⁻¹Xᵀy, and no weight is zero, relevant or not, however strong the penalty. For orthonormal columns the one is
the soft threshold of the least-squares weights, sign(z)·max(|z| − λ, 0), the other a factor 1/(1 + λ). Descent along
the automatic derivative of λ‖w‖₁ at the rate η finds the weights to about 2ηλ and no zero at all.

Source: Tibshirani 1996, Regression shrinkage and selection via the lasso; Efron, Hastie, Johnstone & Tibshirani 2004,
Least angle regression; Hastie, Tibshirani & Friedman 2009, The Elements of Statistical Learning, section 3.4 (table 3.4
and figures 3.8 and 3.10); proximal descent: Daubechies, Defrise & De Mol 2004, arXiv math/0307152.

Departure: "L2 can set irrelevant weights to zero" stands in some textbooks and is a finding here, refuted. The supports
are compared at fixed strengths, those within 1e-5 of a knot left out, and the pieces of the path between knots that the
strengths visit are counted. Diabetes: a random half of the 442 patients for each seed. "planted": 4 of 10 weights.
Strengths are in units of max |Xᵀy|/n, from which on the lasso is zero; α in scikit-learn is the same λ.

Bands: Along the derivative a weight that is zero for the lasso goes back and forth across zero, in steps η|g ± λ| with
|g| <= λ: it stays within 2ηλ. That is for a weight by itself; with correlated columns the others' steps add to it.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import data as problems
from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select, table
from research.optimizers import soft_threshold as proximal
from research.oracles import lasso as closed
from research.oracles.lasso import lasso, lasso_residual, next_knot
from research.oracles.least_squares import ridge
from research.statistics import every_seed

Data = Literal["planted", "diabetes", "orthogonal"]
SETTLED = 1e-14
CLOSE = 1e-6
METHODS = {"lasso, proximal": (1.0, 0.0, 0.0), "lasso, derivative": (0.0, 1.0, 0.0), "ridge": (0.0, 0.0, 1.0)}
PENALTIES = ("proximal_share", "derivative_share", "square_share")


class Observables(NamedTuple):
    weights: Float[Array, "feature"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    planted: Float[Array, "feature"]
    penalty: Float[Array, ""]


def simulate(
    key: Array,
    strength: float,
    proximal_share: float = 1.0,
    derivative_share: float = 0.0,
    square_share: float = 0.0,
    rate: float = 1.0,
    *,
    data: Data = "planted",
    steps: int = 20_000,
) -> Run:
    """Descent from zero on least squares with λ = strength · max|Xᵀy|/n, shared among three ways to penalise.

    λ‖w‖₁ by its proximal step, λ‖w‖₁ by its automatic derivative, and λ/2‖w‖². `rate` is in units of the inverse of a
    bound on the curvature, the largest row sum of |XᵀX|/n. `planted` is NaN where the true weights are not known.
    """
    if data == "diabetes":
        inputs, targets = problems.diabetes()
        chosen = jax.random.permutation(key, len(targets))[: len(targets) // 2]
        X, y = jnp.asarray(inputs)[chosen], jnp.asarray(targets)[chosen]
        planted = jnp.full(X.shape[1], jnp.nan)
    else:
        X, y, planted = problems.gaussian_regression(
            key, 60, 10, support=4, noise=0.3, condition_number=1.0 if data == "orthogonal" else None
        )
        if data == "orthogonal":
            scale = jnp.sqrt(len(y) / jnp.sum(X[:, 0] ** 2))
            X, y = scale * X, y
    gram, target = X.T @ X / len(y), X.T @ y / len(y)
    penalty = strength * jnp.max(jnp.abs(target))
    square, derivative = square_share * penalty, derivative_share * penalty
    loss = lambda w: w @ gram @ w / 2 - target @ w + square * w @ w / 2 + derivative * jnp.sum(jnp.abs(w))
    step_size = rate / (jnp.max(jnp.sum(jnp.abs(gram), axis=1)) + square)
    optimizer = optax.chain(optax.sgd(step_size), proximal(step_size * proximal_share * penalty))
    step = descent(loss, optimizer)
    settled = lambda state: jnp.max(jnp.abs(step(state).params - state.params)) < SETTLED * step_size
    observe = lambda state: Observables(state.params)
    at, given = log_spaced(steps, 20), Given(X, y, planted, penalty)
    return Run(start(jnp.zeros(X.shape[1]), optimizer), step, observe, at, given, stop=settled)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The closed solutions of both penalties, the conditions of optimality, and zeros, at the end of each descent."""
    end = dataset.isel(step=-1)
    X, y, w, penalty = end.X, end.y, end.weights, end.penalty
    exact, square = lift(lasso, X, y, penalty), lift(ridge, X, y, penalty)
    least = lift(ridge, X, y, 0.0 * penalty)
    largest = abs(least).max("feature")
    threshold, factor = (lift(rule, least, penalty) for rule in (closed.soft_threshold, closed.shrinkage))
    return dataset.assign(
        end=w,
        exact=exact,
        square=square,
        least=least,
        threshold=threshold,
        factor=factor,
        lasso_gap=(abs(w - exact) / largest).max("feature", skipna=False),
        step_gap=abs(w - exact).max("feature", skipna=False) / (end.penalty * _rate(X)),
        ridge_gap=(abs(w - square) / largest).max("feature", skipna=False),
        rule_gap=(abs(w - xr.where(end.square_share > 0, factor, threshold)) / largest).max("feature", skipna=False),
        residual=lift(lasso_residual, X, y, w, penalty),
        piece=lift(next_knot, X, y, penalty),
        unlike=((w != 0) != (exact != 0)).sum("feature"),
        count=(w != 0).sum("feature"),
        exact_count=(exact != 0).sum("feature"),
        zeros=(w == 0).sum("feature"),
    )


def _rate(X: xr.DataArray) -> xr.DataArray:
    """The learning rate of a rate of 1 without L2: the inverse of the largest row sum of |XᵀX|/n."""
    known = X.fillna(0)
    gram = xr.dot(known, known.rename(feature="other"), dim="sample") / X.notnull().isel(feature=0).sum("sample")
    return 1 / abs(gram).sum("other").max("feature")


def penalised(dataset: xr.Dataset, method: str) -> xr.Dataset:
    """The runs of a method."""
    return select(dataset, **dict(zip(PENALTIES, METHODS[method], strict=True)))


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The lasso's path, its conditions, its supports; what the derivative does; ridge; the orthogonal design."""
    found: list[Finding] = []

    def add(what: str, band: tuple[float, float], values: np.ndarray) -> None:
        found.append(Finding.of(what, band, every_seed(values)))

    sets = list(dict.fromkeys(np.atleast_1d(dataset.data.values).tolist()))
    shares = {name: np.atleast_1d(dataset[name].values)[0] for name in PENALTIES}
    first = select(dataset, **shares)  # the arm that is judged, the proximal one but for overrides
    what = "proximal descent: largest distance of a weight to the lasso's path, over the largest of least squares"
    add(f"{what}, each strength", (0.0, CLOSE), per_seed(first.lasso_gap))
    path = penalised(dataset, "lasso, proximal")
    if path.diverged.size:
        what = "proximal descent: distance to the conditions of optimality, over max |Xᵀy|/n"
        add(what, (0.0, CLOSE), per_seed(path.residual))
    for data in sets:
        runs = select(path, data=data)
        if runs.diverged.size:
            clear = runs.piece.notnull()
            pieces = [len(np.unique(seed.values[~np.isnan(seed.values)])) for seed in runs.piece]
            what = f"{data}: zeros that are not those of the path, of {int(clear.sum())} strengths and seeds"
            add(
                f"{what} on {min(pieces)} pieces of the path at least",
                (0.0, 0.0),
                per_seed(runs.unlike.where(clear, 0)),
            )
        runs = select(penalised(dataset, "lasso, derivative"), data=data)
        # where the lasso leaves at most half of the weights
        sparse = runs.exact_count <= runs.sizes["feature"] / 2
        if runs.diverged.size and bool(sparse.any()):
            extra = (runs["count"] - runs.exact_count).where(sparse, np.inf)
            add(f"{data}, automatic derivative: non-zero weights beyond the lasso's, the fewest of sparse paths",
                (0.0, np.inf), per_seed(extra, "min"))  # fmt: skip
        if runs.diverged.size:
            what = f"{data}, automatic derivative: largest distance of a weight to the lasso's path, over rate × λ"
            add(what, (0.0, 2.0), per_seed(runs.step_gap / runs.rate))
    for data in sets:
        runs = select(penalised(dataset, "ridge"), data=data)
        if runs.diverged.size:
            what = f"{data}, L2: largest distance of a weight to (XᵀX + nλ)⁻¹Xᵀy, over the largest of least squares"
            add(what, (0.0, 1e-8), per_seed(runs.ridge_gap))
        if runs.diverged.size and data == "planted":
            most = float(runs.strength.max())
            irrelevant = (runs.end == 0).where(runs.planted == 0)
            what = f"textbook: L2 sets irrelevant weights to zero (share of them that are, strengths up to {most:g})"
            shared = irrelevant.mean([each for each in irrelevant.dims if each != "seed"])
            add(what, (0.5 / runs.end.size, 1.0), shared.values)
    for method, rule in (("lasso, proximal", "sign(z)·max(|z| − λ, 0)"), ("ridge", "z/(1 + λ)")):
        runs = select(penalised(dataset, method), data="orthogonal")
        if runs.diverged.size:
            what = f"orthonormal columns, {method}: largest distance of a weight to {rule}"
            add(what, (0.0, 1e-10), per_seed(runs.rule_gap))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the lasso's path, (b) ridge's, of one seed, (c) the orthogonal design, (d) the number of weights left."""
    figure, axes = plots.figure(2, 2, "L1 sets weights to zero, L2 only makes them small")
    (left, right), (rules, counts) = axes
    sets = list(dict.fromkeys(np.atleast_1d(dataset.data.values).tolist()))
    shown = "diabetes" if "diabetes" in sets else sets[0]
    for panel, method, theory in ((left, "lasso, proximal", "exact"), (right, "ridge", "square")):
        runs = select(penalised(dataset, method), data=shown)
        if runs.diverged.size:
            seed = runs.isel(seed=0)
            places = np.argsort(seed.strength.values.ravel())
            size = seed.strength.values.ravel()[places]
            for number, feature in enumerate(range(seed.sizes["feature"])):
                row, truth = (seed[name].isel(feature=feature).values.ravel()[places] for name in ("end", theory))
                panel.plot(size, row, "o", ms=3, alpha=0.7, color=f"C{number % 7}", label=None if number else "descent")
                plots.theory(
                    panel,
                    size,
                    truth,
                    None if number else {"exact": "least angle regression"}.get(theory, "(XᵀX + nλ)⁻¹Xᵀy"),
                )
        panel.axhline(0, color="black", linewidth=0.6)
    for number, method in enumerate(METHODS):
        runs = select(penalised(dataset, method), data=shown)
        if runs.diverged.size:
            counted = table(runs, "count", "strength")
            marker = {"marker": "s", "ms": 6} if method == "lasso, derivative" else {"marker": "o", "ms": 3}
            plots.seeds(counts, counted, method, color=f"C{number}", **marker)
            if method == "lasso, proximal":
                path = table(runs, "exact_count", "strength")
                plots.theory(counts, path.strength, path.median("seed"), "least angle regression")
        runs = select(penalised(dataset, method), data="orthogonal")
        if runs.diverged.size and method != "lasso, derivative":
            chosen = runs.strength.values.ravel()
            near = float(chosen[np.argmin(abs(np.log(chosen / 0.3)))])
            cell = select(runs, strength=near)
            cell = cell.isel(seed=0)  # λ is that of the seed
            penalty = float(cell.penalty.max())
            z = np.linspace(-1.1, 1.1, 201) * float(abs(cell.least).max())
            plots.points(rules, cell.least, cell.end, method, color=f"C{number}", markersize=4)
            rule = closed.soft_threshold if method != "ridge" else closed.shrinkage
            label = "sign(z)·max(|z| − λ, 0)" if method != "ridge" else "z/(1 + λ)"
            style = {} if method != "ridge" else {"linestyle": ":"}
            plots.theory(rules, z, [rule(each, penalty) for each in z], label, **style)
    left.set(title=f"a  {shown}: L1, the lasso", xlabel="strength λ / (max |Xᵀy|/n)", ylabel="weight", xscale="log")
    right.set(title=f"b  {shown}: L2, ridge", xlabel="strength λ / (max |Xᵀy|/n)", ylabel="weight", xscale="log")
    rules.set(title="c  orthonormal columns, one seed", xlabel="weight by least squares, z", ylabel="weight")
    counts.set(title=f"d  {shown}: weights that are not zero", xlabel="strength λ / (max |Xᵀy|/n)", xscale="log")
    counts.set_ylabel("weights")
    for each in axes.ravel():
        plots.legend(each)
    return figure


AXES = ("data", *PENALTIES, "strength")
STRENGTHS = tuple(float(each) for each in np.geomspace(1e-3, 1.1, 40))
arms = lambda data, method, strengths: [(data, *METHODS[method], strength) for strength in strengths]
ARMS = [
    arm
    for data in ("planted", "diabetes", "orthogonal")
    for method in METHODS
    for arm in arms(data, method, STRENGTHS if method == "lasso, proximal" else (*STRENGTHS[::3], 10.0, 100.0))
    if (data, method) != ("orthogonal", "lasso, derivative")
]
SMALL = [arm for method in METHODS for arm in arms("planted", method, (0.003, 0.03, 0.1, 0.3, 0.7))]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 3, AXES: SMALL, "steps": 3000},
    paper={"seeds": 64, "steps": 200_000},
    control={AXES: arms("planted", "ridge", (0.003, 0.03, 0.1, 0.3, 0.7))},
)
