"""The layers of a deep linear classifier align and become rank one, and their product turns to the l2 maximum margin.

Claim: Descent on the logistic or exponential loss of linearly separable data makes every layer W_k of a deep linear
network rank one and neighbouring layers aligned, and turns the product w to the hard-margin support vector machine ŵ.
The balance of the layers bounds what is not of rank one, ‖W_k‖_F² − ‖W_k‖_2² <= D for all time, so that its share falls
as 1/‖W_k‖². The margin of w, in the span of the data, is missing a share D'/s of the largest, s being the length
‖w‖/‖ŵ‖ and D' = max ln α − Σ (α/Σα) ln α, whatever the depth L.

Source: Ji & Telgarsky 2019, arXiv 1810.02032 (balanced layers, alignment, maximum margin). The law of the margin is
that of one layer (Soudry et al. 2018, arXiv 1710.10345, Theorem 4): with aligned layers w moves along P g + L (ŵ·g) ŵ,
P g being the part of g = Σ e^(−z·w) z across ŵ; w = ŵ s + w̃ needs P g = 0 in the end, hence e^(−z_k·w̃) ∝ α_k.

Departure: Ji & Telgarsky follow gradient flow, and small steps. Here the gradient of ln Σ e^(−z·w) is normalised, and
the step falls as t^(1/L − 1), at which the product grows in proportion to t; plain gradient descent on the logistic
loss is shown beside it, for which all this takes exponentially long. Finite steps loosen D by three times the sum of
the squared steps (derived in the oracle). Depth slows one thing that the paper does not speak of: what the first layer
has across the span of the data stays, and is multiplied by the other layers, so that the direction of w is s^(−1/L)
away (s^−1 for one layer). The data span 4 of 24 dimensions to show this. The rival directions, l1 and l∞, are apart
(asserted). Squared loss does not send the layers to infinity, and diagonal layers cannot align: on both the claim
fails.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import arms, lift, norm, per_seed, select
from research.oracles.alignment import rank_one_excess
from research.oracles.least_squares import null_component
from research.oracles.margin import margin_gap_slope, maximum_margin
from research.separable import planted_support
from research.statistics import every_seed, slope_within

Optimizer = Literal["normalized", "gradient_descent"]
REACHED = 1e-3  # what an alignment or a cosine may lack of 1
AXES = ("depth", "optimizer", "squared", "diagonal", "init_scale")
ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}
SEPARATED = 0.95  # the largest cosine between the maximum-margin directions of two norms


class Observables(NamedTuple):
    hidden: Float[Array, "layer row column"]
    readout: Float[Array, "column"]


class Given(NamedTuple):
    X: Float[Array, "sample column"]
    y: Float[Array, "sample"]


def simulate(
    key: Array,
    learning_rate: float = 0.5,
    squared: float = 0.0,
    diagonal: float = 0.0,
    init_scale: float = 0.05,
    *,
    depth: int = 3,
    optimizer: Optimizer = "normalized",
    features: int = 24,
    samples: int = 8,
    steps: int = 10_000,
) -> Run:
    """One descent on readout · W_{L−1} … W_1 x, on separable data of which the longest input has norm 1.

    The loss is (1 − squared) ln Σ exp(−margin) + squared · half the mean squared error, for "gradient_descent" the mean
    logistic loss in place of the first. `diagonal` 1 keeps the hidden layers diagonal. The entries of a layer start as
    N(0, init_scale²/features). The normalised descent's step t is learning_rate · t^(1/depth − 1) long, all layers.
    """
    if depth < 2:
        raise ValueError(f"depth is {depth}; it takes two layers or more, since one has no neighbour to align with")
    data_key, init_key = jax.random.split(key)
    X, y = planted_support(data_key, samples, features)
    X = X / jnp.max(jnp.linalg.norm(X, axis=1))
    draw = init_scale * jax.random.normal(init_key, (depth, features, features)) / features**0.5
    kept = 1 - diagonal * (1 - jnp.eye(features))
    initial = (draw[:-1] * kept[None], draw[-1, 0])

    def product(layers: tuple[Array, Array]) -> Array:
        row = layers[1]
        for number in range(depth - 2, -1, -1):
            row = row @ (layers[0][number] * kept)
        return row

    def loss(layers: tuple[Array, Array]) -> Array:
        margins = y * (X @ product(layers))
        plain = jax.nn.softplus(-margins).mean() if optimizer == "gradient_descent" else jax.nn.logsumexp(-margins)
        return (1 - squared) * plain + squared * optax.l2_loss(margins, jnp.ones_like(margins)).mean()

    falling = lambda count: learning_rate * (count + 1.0) ** (1 / depth - 1)
    chain = {
        "normalized": optax.chain(optax.normalize_by_update_norm(eps=1e-30), optax.sgd(falling)),
        "gradient_descent": optax.sgd(learning_rate),
    }[optimizer]
    observe = lambda state: Observables(*state.params)
    return Run(start(initial, chain), descent(loss, chain), observe, log_spaced(steps, 33), Given(X, y))


class Layers(NamedTuple):
    """What is read off the layers: shares of the leading mode, alignments, what is not of rank one, and the product."""

    share: Float[np.ndarray, ""]
    alignment: Float[np.ndarray, ""]
    excess: Float[np.ndarray, ""]
    size: Float[np.ndarray, ""]
    product: Float[np.ndarray, "column"]


def layers_read(hidden: Float[np.ndarray, "layer row column"], readout: Float[np.ndarray, "column"]) -> Layers:
    """The least ‖W_k‖_2²/‖W_k‖_F² and |v_{k+1}·u_k|, most ‖W_k‖_F² − ‖W_k‖_2², the least ‖W_k‖_F, and the product."""
    U, s, Vt = np.linalg.svd(hidden)
    above = np.concatenate([Vt[1:, 0], readout[None] / np.linalg.norm(readout)])
    aligned = np.abs((above * U[:, :, 0]).sum(axis=1))
    product = readout
    for W in hidden[::-1]:
        product = product @ W
    whole, lead = (s**2).sum(axis=1), s[:, 0] ** 2
    least = np.sqrt(whole.min())
    return Layers((lead / whole).min(), aligned.min(), (whole - lead).max(), least, product)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The layers' shapes with the bound on them, and the product's direction and margin with their limits."""
    X, y = dataset.X, dataset.y
    read = lift(layers_read, dataset.hidden, dataset.readout)
    t = dataset.step.where(dataset.step > 0)
    path = np.arange(1.0, float(dataset.step.max()) + 1)
    walked = lambda depth: float((path ** (2 / depth - 2)).sum())
    squared_path = dataset.learning_rate**2 * xr.apply_ufunc(walked, dataset.depth, vectorize=True)
    bound = lift(rank_one_excess, dataset.hidden.isel(step=0), dataset.readout.isel(step=0), squared_path)
    ends = {name: lift(maximum_margin, X.rename(column="feature"), y, order=order) for name, order in ORDERS.items()}
    ends = {name: end.rename(feature="column") for name, end in ends.items()}
    unit = lambda vectors: vectors / norm(vectors, "column")
    cosine = lambda one, other: xr.dot(unit(one), unit(other), dim="column")
    closest = xr.concat([cosine(ends["l2"], ends[each]) for each in ("l1", "linf")], "rival").max("rival")
    width = 1 / norm(ends["l2"], "column")
    product = read["product"]
    margin = (y * xr.dot(X, product.fillna(0), dim="column")).min("sample")
    across = norm(lift(null_component, X.rename(column="feature"), product.rename(column="feature")))
    within = (norm(product, "column") ** 2 - across**2) ** 0.5
    gap, length = 1 - margin / within / width, within * width
    late = (t >= dataset.steps / 100) & (t <= dataset.steps) & (gap > 0)
    away = {f"from_{name}": norm(unit(product) - unit(end), "column") for name, end in ends.items()}
    spread = 1 / lift(margin_gap_slope, X.rename(column="feature"), y)
    return (
        dataset.assign(read.drop_vars("product"))
        .assign(away)
        .assign(
            bound=bound.where(dataset.optimizer == "normalized"),
            missing_share=1 - read["share"],
            missing_alignment=1 - read["alignment"],
            missing_cosine=(away["from_l2"] ** 2 / 2).where(closest <= SEPARATED),
            gap=gap,
            width=width,
            turning=slope_within(np.log(length), np.log(across / norm(product, "column")), late) * dataset.depth,
            spread=spread,
            length=length,
            law=slope_within(length, spread / gap, late),
            power=slope_within(np.log(read["size"] ** 2), np.log(1 - read["share"]), late),
        )
    )


def _kinds(dataset: xr.Dataset) -> list[tuple[str, dict[str, Any], xr.Dataset]]:
    """Each arm there is at the first learning rate: what it is called, its parameters, and its runs."""
    found = []
    for point, runs in arms(dataset):
        if point["learning_rate"] != np.atleast_1d(dataset.learning_rate.values)[0]:
            continue
        words = [f"depth {point['depth']}"]
        words += ["plain gradient descent"] if point["optimizer"] == "gradient_descent" else []
        words += ["squared loss"] if point["squared"] else []
        words += ["diagonal layers"] if point["diagonal"] else []
        words += [f"init_scale {point['init_scale']:g}"] if point["init_scale"] > 0.05 else []
        found.append((", ".join(words), point, runs))
    return found


def _meant(point: dict[str, Any]) -> bool:
    """Whether the claim speaks of this arm, and the budget reaches it."""
    return point["optimizer"] == "normalized" and not point["squared"] and not point["diagonal"]


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The direction, rank one, alignment, the bound, the two rates; then plain descent and where the claim fails."""
    found: list[Finding] = []
    cosine, share = "1 − cosine of the product to the l2 maximum margin", "1 − least ‖W_k‖_2²/‖W_k‖_F²"
    for number, (name, point, _) in enumerate(_kinds(dataset)):
        runs = select(dataset, **{each: point[each] for each in AXES})
        end = runs.isel(step=-1)
        worst, least = (lambda values, of=of: every_seed(per_seed(values, of)) for of in ("max", "min"))
        both = lambda values: every_seed(per_seed(values, "min", "max"))
        add = lambda what, band, estimate, outlook="", name=name: found.append(
            Finding.of(f"{name}: {what}", band, estimate, outlook)
        )
        falls = lambda values: bool((values.isel(step=slice(-6, None)).diff("step") < 0).all())
        norms = (end.excess / REACHED) ** (end.depth / 2)  # what the product of the layers' norms has to be for that
        if point["squared"]:
            partner = select(dataset, **{each: point[each] for each in AXES} | {"squared": 0.0}).isel(step=-1)
            if partner.diverged.size:  # the same start, whose share falls as one over a norm² that grows without end
                ratio = per_seed(end.missing_share, "min") / per_seed(partner.missing_share)
                add(f"{share}, least, over the largest with the other loss", (1.0, np.inf), every_seed(ratio))
        elif point["optimizer"] == "gradient_descent":
            time = float((norms * end.width).median())  # ln of it
            outlook = f"the excess stays and s is about ln t: beyond any budget (ln t = {time:.1g}, median run)"
            add(share, (0.0, REACHED), worst(end.missing_share), outlook if falls(runs.missing_share) else "")
        elif number == 0 or _meant(point):
            # late, the part across the span is what is missing: 1 − cosine falls as s^(−2/L), and s grows as t
            when = float((end.steps * (end.missing_cosine / REACHED) ** (end.depth / 2)).max())
            late = when > np.max(end.steps) and falls(runs.missing_cosine)
            turns = f"1 − cosine falls as t^(−2/L): t = {when:.1g} (slowest run)" if late else ""
            when = float((norms / (end.learning_rate * end.depth**0.5) ** end.depth).max())
            late = when > np.max(end.steps) and falls(runs.missing_share)
            narrows = f"the excess stays and ‖W‖ grows as t^(1/L): t = {when:.1g} (slowest run)" if late else ""
            add(cosine, (0.0, REACHED), worst(end.missing_cosine), turns)
            add(share, (0.0, REACHED), worst(end.missing_share), narrows)
            add("1 − least |v_(k+1)·u_k|", (0.0, REACHED), worst(end.missing_alignment))
            inside = (runs.excess / runs.bound).max("step")
            add(f"‖W_k‖_F² − ‖W_k‖_2² at {runs.sizes['step']} times, over its bound D", (0.0, 1.0), worst(inside))
            # the excess settles, and its share falls as one over the squared norm; a tenth for what has not settled
            add("slope of ln(1 − share of the leading mode) on ln ‖W‖_F²", (-1.1, -0.9), both(runs.power))
            add("slope of 1/gap in the span on s, in units of 1/D'", (0.95, 1.05), both(runs.law))
            add("slope of ln(share of w across the span) on ln s, in units of 1/L", (-1.1, -0.9), both(runs.turning))
        else:
            add(f"{cosine}, the best of a seed's runs", (REACHED, np.inf), least(end.missing_cosine))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) rank one and (b) alignment against time, (c) which direction, (d) the gap against the length."""
    figure, ((ranks, aligned), (direction, gaps)) = plots.figure(
        2, 2, "Deep linear classifiers: layers align, margin is l2"
    )
    every = _kinds(dataset)
    for number, (name, point, runs) in enumerate(every):
        runs = runs.sel(step=runs.step > 0)
        claimed = _meant(point)
        style = {"color": f"C{number % 7}", "linestyle": "-" if claimed else ":"}
        plots.seeds(ranks, runs.missing_share, name, **style)
        plots.seeds(aligned, runs.missing_alignment, name, **style)
        if claimed:
            if number == 0:
                plots.theory(ranks, runs.step, (runs.bound / runs["size"] ** 2).median("seed"), f"{name}: D/‖W‖_F²")
            late = runs.sel(step=runs.step >= runs.steps / 300)
            x, y = late.length.median("seed"), (late.spread / late.gap).median("seed")
            gaps.plot(x, y, color=style["color"], marker="o", markersize=3, label=name)
            for seed in range(late.sizes["seed"]):
                one = late.isel(seed=seed)
                gaps.plot(one.length, one.spread / one.gap, color=style["color"], linewidth=0.6, alpha=0.3)
            if number == 0:
                ends = np.array([float(x.min()), float(x.max())])
                plots.theory(gaps, ends, ends, "D' / gap = s")
        if number == 0:
            for order, color in (("l1", "C0"), ("l2", "C1"), ("linf", "C2")):
                plots.seeds(
                    direction, runs[f"from_{order}"] ** 2 / 2, f"{name}: to {order.replace('inf', '∞')}", color=color
                )
        elif not claimed and point["optimizer"] == "normalized":
            plots.seeds(direction, runs.from_l2**2 / 2, f"{name}: to l2", color=style["color"], linestyle=":")
    plots.theory(direction, direction.get_xlim(), (REACHED, REACHED), "tolerance of the claim")
    plots.theory(aligned, aligned.get_xlim(), (REACHED, REACHED), "tolerance of the claim")
    ranks.set(title="a  rank one", ylabel="1 − least ‖W_k‖_2²/‖W_k‖_F²")
    aligned.set(title="b  neighbours aligned", ylabel="1 − least |v_(k+1)·u_k|")
    direction.set(title="c  direction of the product", ylabel="1 − cosine to the maximum margin")
    for axes in (ranks, aligned, direction):
        axes.set(xscale="log", yscale="log", xlabel="step t")
    gaps.set(title="d  margin: 1/gap is affine in the length", xscale="log", yscale="log")
    gaps.set(xlabel="length of the product, ‖w‖/‖ŵ‖", ylabel="D' / gap")
    for axes in (ranks, aligned, direction, gaps):
        plots.legend(axes, fontsize=6)
    return figure


ARMS = [
    (3, "normalized", 0.0, 0.0, 0.05),
    (2, "normalized", 0.0, 0.0, 0.05),
    (4, "normalized", 0.0, 0.0, 0.05),
    (3, "normalized", 0.0, 0.0, 1.0),
    (3, "gradient_descent", 0.0, 0.0, 1.0),
    (3, "normalized", 1.0, 0.0, 1.0),
    (2, "normalized", 0.0, 1.0, 0.05),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS, "learning_rate": (0.5, 0.25)},
    smoke={"seeds": 2, AXES: [ARMS[0], ARMS[3], ARMS[5]], "learning_rate": 0.5},
    paper={"seeds": 32, "features": 64, "samples": 64, "steps": 1_000_000},
    control={"diagonal": 1.0},
)
