"""Weight decay on free features and a classifier ends in a simplex: neural collapse, and minority collapse.

Claim: Cross-entropy of W h_i with weight decay on W and on every feature h_i, for K balanced classes in at least K − 1
dimensions, is least at neural collapse: the features of a class are equal (NC1 → 0), the class means are the vertices
of a regular simplex (NC2), and the classifier is the same simplex (NC3), of the size that minimises
ln(1 + (K − 1) e^−c) + (K − 1) s c, s² = n λ_W λ_H. For s ≥ 1/K it is 0. With more dimensions than classes every other
critical point is a strict saddle, so descent gets there from everywhere.

Source: Zhu, Ding, Zhou, Li, You, Sulam & Qu 2021, arXiv 2105.02375, Theorems 3.1 and 3.2; the measures: Papyan, Han &
Donoho 2020, arXiv 2008.08186; imbalance: Fang, He, Long & Su 2021, arXiv 2101.12699 (they bound the norms instead of
decaying them); no decay: Ji, Lu, Zhang, Deng & Su 2022, arXiv 2110.02796.

Departure: The theorems are about critical points and have a bias too, which is 0 at the minimum; here descent, with and
without momentum, is held against the least loss. NC1 is tr Σ_W / tr Σ_B, which needs no pseudo-inverse. It falls as
(1 − ηλ_H)^2t: what a feature has outside the span of W is reached by nothing but its decay. Other sides: in fewer than
K − 1 dimensions there is no simplex; where half of the classes have fewer samples, their classifier vectors come closer
to each other until they are equal (the optimum is then that of a convex program in the logits, certified by its dual);
without decay the frame is approached as slowly as 1/ln t.
"""

import itertools
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
from research.labels import arms, lift, per_seed, select, sound
from research.oracles.simplex_frame import classifier_gram, minimum_loss, simplex_gram
from research.statistics import every_seed, slope_within


class Observables(NamedTuple):
    classifier: Float[Array, "label feature"]
    means: Float[Array, "label feature"]
    within: Float[Array, ""]
    loss: Float[Array, ""]


class Given(NamedTuple):
    counts: Float[Array, "label"]


def simulate(
    key: Array,
    weight_decay: float,
    feature_decay: float,
    minority: float,
    dimension: float,
    learning_rate: float,
    momentum: float,
    init_scale: float,
    *,
    classes: int = 4,
    samples: int = 20,
    most_features: int = 8,
    steps: int = 6_000,
) -> Run:
    """One descent on mean cross-entropy + weight_decay/2 ‖W‖² + feature_decay/2 Σ‖h_i‖² (norms halved, summed).

    The first half of the classes has `samples` samples, the other half `minority`; the features have `dimension`
    entries. W and h begin as N(0, init_scale²). `within` is the mean square distance of a feature to its class mean.
    """
    counts = jnp.where(jnp.arange(classes) < classes // 2, float(samples), minority)
    # What is outside is 0 and stays 0: the sizes may vary within one compiled program.
    seen = (jnp.arange(samples)[None, :] < counts[:, None]).astype(float)
    inside = (jnp.arange(most_features) < dimension).astype(float)
    drawn = init_scale * jax.random.normal(key, (classes, 1 + samples, most_features)) * inside[None, None, :]
    params = {"W": drawn[:, 0], "H": drawn[:, 1:] * seen[:, :, None]}
    penalties = {"W": weight_decay, "H": feature_decay}

    def loss(params: dict) -> Array:
        logits = jnp.einsum("kid,ld->kil", params["H"], params["W"])
        entropy = jax.nn.logsumexp(logits, axis=2) - jnp.einsum("kik->ki", logits)
        penalty = sum(decay * optax.tree.norm(params[name], squared=True) / 2 for name, decay in penalties.items())
        return jnp.sum(seen * entropy) / jnp.sum(seen) + penalty

    def observe(state: tuple) -> Observables:
        W, H = state[0]["W"], state[0]["H"]
        means = jnp.sum(H, axis=1) / counts[:, None]
        within = jnp.sum(seen[:, :, None] * (H - means[:, None, :]) ** 2) / jnp.sum(seen)
        return Observables(W, means, within, loss(state[0]))

    optimizer = optax.sgd(learning_rate, momentum=momentum)
    return Run(start(params, optimizer), descent(loss, optimizer), observe, log_spaced(steps, 40), Given(counts))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The least loss and the best classifier, the three measures of collapse, and which runs the claim is about."""
    dataset, classes = sound(dataset), dataset.sizes["label"]
    decays = (dataset.weight_decay, dataset.feature_decay)
    least = lift(minimum_loss, dataset.counts, *decays)
    gram = lift(classifier_gram, dataset.counts, *decays)
    frame = xr.DataArray(simplex_gram(classes) / np.sqrt(classes - 1), dims=("label", "other"))
    W, centred = dataset.classifier, dataset.means - dataset.means.mean("label")
    product = lambda left, right: xr.dot(left, right.rename(label="other"), dim="feature")
    off = lambda values: _frobenius(values / _frobenius(values) - frame)
    own, strength = product(W, W), (dataset.samples * decays[0] * decays[1]) ** 0.5
    balanced, decayed = dataset.minority == dataset.samples, strength > 0
    nc1 = dataset.within / (centred**2).sum("feature").mean("label")
    return dataset.assign(
        least=least,
        excess=abs(dataset.loss.isel(step=-1) / least.where(least > 0) - 1),
        nc1=nc1,
        nc2=off(product(centred, centred)),
        nc3=off(product(W, centred)),
        off=_frobenius(own.isel(step=-1) - gram) / _frobenius(gram),
        cosine=_minority_cosine(own.isel(step=-1)),
        predicted_cosine=_minority_cosine(gram),
        size=_frobenius(own),
        collapses=balanced & decayed & (strength < 1 / classes) & (dataset.dimension >= classes - 1),
        vanishes=balanced & (strength >= 1 / classes),
        flat=balanced & decayed & (dataset.dimension < classes - 1),
        skewed=~balanced & decayed & (dataset.dimension >= classes),
        rate=slope_within(dataset.step, np.log(nc1.where(nc1 > 0)), (nc1 < 1e-6) & (nc1 > 1e-24))
        / (2 * np.log1p(-dataset.learning_rate * dataset.feature_decay)),
    )


def _frobenius(matrix: xr.DataArray) -> xr.DataArray:
    return (matrix**2).sum(["label", "other"], skipna=False) ** 0.5


def _minority_cosine(gram: xr.DataArray) -> xr.DataArray:
    """The cosine of the last two vectors of a Gram matrix."""
    entry = lambda row, column: gram.isel(label=row, other=column)
    return entry(-1, -2) / (entry(-1, -1) * entry(-2, -2)) ** 0.5


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The least loss, the collapse and its rate; too much decay, none, too few dimensions, and imbalance."""
    found: list[Finding] = []
    end = dataset.isel(step=-1)

    def add(
        what: str, high: float, chosen: xr.DataArray, values: xr.DataArray, low: float = 0.0, why: str = ""
    ) -> None:
        """The worst of a seed's chosen runs, from above; from below where there is no upper end."""
        if chosen.any():
            upwards = np.isinf(high)
            worst = per_seed(values.where(chosen, np.inf if upwards else 0.0), "min" if upwards else "max")
            found.append(Finding.of(what, (low, high), every_seed(worst), why))

    claimed = dataset.collapses if dataset.collapses.any() else dataset.collapses | dataset.flat | dataset.skewed
    least = "relative distance of the loss to min over c of ln(1 + (K − 1) e^−c) + (K − 1) s c"
    add(least, 1e-8, claimed, end.excess)
    add("NC1: tr Σ_W / tr Σ_B at the end", 1e-8, dataset.collapses, end.nc1)
    # the two centred means of two classes are opposite, whatever they are: a simplex by construction
    several = xr.DataArray(dataset.sizes["label"] > 2)
    add("NC2: distance of the means' Gram matrix to the simplex", 1e-5, dataset.collapses & several, end.nc2)
    add("NC3: distance of classifier times means to the simplex", 1e-5, dataset.collapses, end.nc3)
    plain = dataset.collapses & (dataset.momentum == 0) & (dataset.dimension >= dataset.classes)
    if plain.any():
        ends = per_seed(dataset.rate.where(plain, 1.0), "min", "max")
        what = "momentum 0: slope of ln NC1 on t over 2 ln(1 − ηλ_H), each of a seed's runs"
        found.append(Finding.of(what, (0.99, 1.01), every_seed(ends)))
    add("s ≥ 1/K: ‖WWᵀ‖ at the end", 1e-8, dataset.vanishes, end["size"])
    add("fewer than K − 1 dimensions: loss above that of the simplex, relative", np.inf, dataset.flat, end.excess, 1e-8)
    add("fewer than K − 1 dimensions: NC2", np.inf, dataset.flat, end.nc2, 1e-5)
    add("imbalance: relative distance of the loss to the convex program's", 1e-6, dataset.skewed, end.excess)
    # the certificate, 1e-7 of the loss, fixes the position to about its square root
    add("imbalance: relative distance of WWᵀ to the convex program's", 1e-3, dataset.skewed, end.off)
    collapsed = dataset.skewed & (dataset.predicted_cosine > 1 - 1e-6)
    add(
        "strong imbalance: 1 − cosine of the minority's two vectors (minority collapse)",
        1e-5,
        collapsed,
        1 - end.cosine,
    )
    add("imbalance: NC2", np.inf, dataset.skewed & several, end.nc2, 1e-5)
    free = select(dataset, weight_decay=0.0, feature_decay=0.0)
    if free.diverged.size and several:
        late = (free.step >= free.step[-1] / 10) & (free.step > 0)
        gain = float(slope_within(np.log(free.step.where(free.step > 0)), 1 / free.nc2, late).median())
        further = float(f"{1e5 / gain:.1g}") if gain > 0 else np.nan
        why = f"1/NC2 gains {gain:.2g} a unit of ln t: beyond any budget (ln t = {further:g})" if gain > 0 else ""
        worst = every_seed(per_seed(free.nc2.isel(step=-1)))
        found.append(Finding.of("no decay: NC2 at the end", (0.0, 1e-5), worst, why))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the collapse in time, (b) the simplex, (c) where there is none, (d) how imbalance joins the small classes."""
    figure, ((times, space), (others, skew)) = plots.figure(2, 2, "Neural collapse: weight decay ends in a simplex")
    place = space.get_subplotspec()
    space.remove()
    space = figure.add_subplot(place, projection="3d")
    dataset = dataset.assign(free=(dataset.weight_decay == 0) & (dataset.feature_decay == 0))
    sides = {
        "collapses": "balanced",
        "flat": "dimension < K − 1",
        "skewed": "half the classes small",
        "free": "no decay",
    }
    for number, (side, name) in enumerate(sides.items()):
        runs = next((run for _, run in arms(dataset) if run[side]), None)
        if runs is None:
            continue
        plots.seeds(others, runs.nc2.sel(step=runs.step > 0), name, color=f"C{number}")
        if side == "collapses":
            _simplex(space, runs.isel(seed=0, step=-1))
            for color, measure in enumerate(("nc1", "nc2", "nc3")):
                plots.seeds(times, runs[measure], measure.upper(), color=f"C{color}")
            last = runs.step.where((runs.nc1 > 1e-22).all("seed"), drop=True)
            decay = float(np.log1p(-runs.learning_rate * runs.feature_decay))
            line = runs.nc1.sel(step=last[-1]).median("seed") * np.exp(2 * decay * (runs.step - last[-1]))
            plots.theory(times, runs.step, line, "NC1 ∝ (1 − ηλ_H)^2t")
    others.axhline(1e-5, color="black", linestyle="--", linewidth=1.2, label="reached")
    rows = [
        (point["weight_decay"], point["samples"] / point["minority"], float(run.predicted_cosine), run.cosine)
        for point, run in arms(dataset)
        if (run.collapses or run.skewed) and point["weight_decay"] == point["feature_decay"] >= 0.01
    ]
    for number, decay in enumerate(sorted({row[0] for row in rows})):
        mine = sorted((row[1:] for row in rows if row[0] == decay), key=lambda row: row[0])
        for ratio, _, cosines in mine:
            label = f"λ = {decay:g}" if ratio == mine[0][0] and cosines is mine[0][2] else None
            plots.points(skew, xr.DataArray(ratio), cosines, label, color=f"C{number}")
        plots.theory(skew, [row[0] for row in mine], [row[1] for row in mine], None if number else "convex program")
    skew.axhline(
        -1 / (dataset.sizes["label"] - 1), color="black", linestyle=":", linewidth=1.2, label="simplex: −1/(K − 1)"
    )
    times.set(
        title="a  the three measures", yscale="log", xlabel="step", ylabel="distance from collapse", ylim=(1e-31, 1e3)
    )
    others.set(
        title="c  where there is no simplex", xscale="log", yscale="log", xlabel="step", ylabel="NC2", ylim=(1e-6, 3)
    )
    skew.set(title="d  minority collapse", xscale="log", xlabel="samples of a large class / of a small one")
    skew.set_ylabel("cosine of two small classes' vectors")
    for axes in (times, others, skew):
        plots.legend(axes)
    return figure


def _simplex(space: Any, run: xr.Dataset) -> None:
    """Class means, classifier and the nearest regular simplex in space, each of unit length, in their own span."""
    means = (run.means - run.means.mean("label")).values
    axes = np.linalg.svd(means)[2][:3]
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
    means, classifier = unit(means @ axes.T), unit(run.classifier.values @ axes.T)
    vertices = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5
    if len(means) == len(vertices):
        left, _, right = np.linalg.svd(means.T @ vertices)
        for number, (one, other) in enumerate(itertools.combinations(vertices @ (left @ right).T, 2)):
            label = None if number else "regular simplex"
            space.plot(*zip(one, other, strict=True), color="black", linestyle="--", linewidth=1.0, label=label)
    for number, (mean, vector) in enumerate(zip(means, classifier, strict=True)):
        mean_label, classifier_label = (None, None) if number else ("class means", "classifier")
        space.plot(*zip(0 * mean, mean, strict=True), color=f"C{number}", label=mean_label)
        space.plot(*vector[:, None], color=f"C{number}", marker="o", linestyle="none", label=classifier_label)
    space.set(title="b  the means of four classes", xlabel="", xticklabels=[], yticklabels=[], zticklabels=[])
    space.set_xlabel("in the span of the means", labelpad=-8)
    space.legend(loc="upper left")


AXES = ("weight_decay", "feature_decay", "minority", "dimension", "learning_rate", "momentum")
EVEN = (0.01, 0.01, 20.0, 8.0)
FLAT = (0.01, 0.01, 20.0, 2.0, 1.0, 0.9)  # fewer than K − 1 dimensions
ARMS = [
    (*EVEN, 1.0, 0.0),
    (*EVEN, 3.0, 0.0),
    (*EVEN, 1.0, 0.9),
    *((decay, 1e-4 / decay, 20.0, 8.0, 1.0, 0.9) for decay in (0.001, 0.1)),
    *((decay, decay, 20.0, 8.0, 1.0, 0.9) for decay in (0.003, 0.03, 0.1)),
    (0.01, 0.01, 20.0, 3.0, 1.0, 0.9),
    FLAT,
    *((decay, decay, count, 8.0, 1.0, 0.9) for decay in (0.01, 0.03) for count in (1.0, 2.0, 4.0, 10.0)),
    (0.0, 0.0, 20.0, 8.0, 1.0, 0.0),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS, "init_scale": (0.1, 1.0)},
    smoke={"seeds": 2, "init_scale": 0.5},
    paper={
        "seeds": 32,
        "classes": 10,
        "samples": 100,
        "most_features": 64,
        "steps": 100_000,
        AXES: [(*EVEN[:2], 100.0, 64.0, 1.0, 0.9)],
    },
    control={AXES: [FLAT]},
)
