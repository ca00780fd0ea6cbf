"""Deep tanh networks train up to a few correlation lengths ξ_c, but not up to one and the same number of them.

Claim: A random tanh network can be trained if, and only if, correlations between inputs survive it: up to a depth of
about 6 ξ_c, on either side of the edge of chaos, where ξ_c diverges and networks of any depth should train.

Source: Schoenholz, Gilmer, Ganguli & Sohl-Dickstein 2017, "Deep information propagation", arXiv 1611.01232, section 5
and figure 5.

Departure: Bundled digits instead of MNIST, width 50 instead of 300, depths to 42 instead of 300, and 400 steps of SGD
at most; of two learning rates the better counts for each network (from 20 layers on there is the smaller one only). A
depth is trainable where half of 300 images trained on are right; between depths the accuracy is linear, and a readout
of the images, depth 0, learns. The statement is one of order of magnitude: away by a factor of two from 6 ξ_c it is
right (in chaos one network of the default design alone is as deep as 12 ξ_c), but the number in front of ξ_c depends on
the budget and the phase. It grows with the number of steps, in order by more than ln(steps), as which it would if a
signal of size e^(−L/ξ_c) were learnt at a rate of its size; and in chaos, where gradients explode besides, it is less
than half of what it is in order, so that ξ_c orders the depths within a phase and not across. At the edge 6 ξ_c is no
bound that a narrow network meets: fluctuations of the order of depth over width end it sooner.

Bands: of the paper's 6, 3 to 9 (it says "about"); an order of magnitude is judged a factor of two away.
"""

from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy
from scipy import stats

from research import data as problems
from research import plots
from research.dynamics import Run, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import arms, lift, sound
from research.models import Stack, random_stack
from research.oracles.mean_field import edge_of_chaos, mean_field
from research.statistics import crossing, every_seed, over_seeds, slope

FACTOR, BAND = 6.0, (3.0, 9.0)
CHANCE, HALF, SHOWN = 0.1, 0.5, 300
LONGEST = 20.0  # ξ_c from which a network counts as at the edge: 6 ξ_c is beyond the depths


class Observables(NamedTuple):
    accuracy: Float[Array, ""]
    held_out: Float[Array, ""]


def simulate(
    key: Array,
    weight_variance: float,
    learning_rate: float,
    bias_variance: float = 0.05,
    *,
    depth: int = 10,
    width: int = 50,
    steps: int = 400,
    batch: int = 32,
) -> Run:
    """SGD on the cross-entropy of `depth` layers of tanh, from W ~ N(0, weight_variance / fan_in), ‖x‖² = 64.

    Recorded at `steps` and its halves. Both accuracies are those of 300 images, trained on or not.
    """
    pixels, labels = problems.digits()
    inputs = problems.standardized(pixels)
    inputs *= (inputs.shape[1] / np.sum(inputs**2, axis=1, keepdims=True)) ** 0.5
    X, y = jnp.asarray(inputs, jnp.float32), jnp.asarray(labels)
    held, trained = slice(0, SHOWN), slice(SHOWN, 2 * SHOWN)
    init_key, descent_key = jax.random.split(key)
    network = random_stack(init_key, X.shape[1], width, depth, 10, weight_variance, bias_variance)
    optimizer = optax.sgd(learning_rate)
    loss = lambda network, drawn: cross_entropy(network(X[drawn], jnp.tanh).logits, y[drawn]).mean()
    # the remainder favours none of so few images by more than 1e-6, and compiles sooner than randint
    sample = lambda key: SHOWN + jax.random.bits(key, (batch,), jnp.uint32) % (len(X) - SHOWN)

    def observe(state: Any) -> Observables:
        said: Stack = state.params
        right = jnp.argmax(said(X[: 2 * SHOWN], jnp.tanh).logits, axis=1) == y[: 2 * SHOWN]
        return Observables(*(jnp.mean(right[part], dtype=X.dtype) for part in (trained, held)))

    at = np.unique([0, *(steps // 2**power for power in range(4))])
    return Run(start(network, optimizer, descent_key), stochastic_descent(loss, optimizer, sample), observe, at)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """ξ_c of every network; a run that diverged has the accuracy of chance."""
    field = lift(mean_field, "tanh", dataset.weight_variance, dataset.bias_variance)
    accuracy = sound(dataset).accuracy.where(~dataset.diverged, CHANCE)
    return dataset.assign(reached=accuracy, scale=field.correlation_depth, chi=field.chi)


def grid(dataset: xr.Dataset) -> xr.Dataset:
    """The accuracy by seed, step, σ_w² and depth, at the learning rate of the best median; NaN where there is no run.

    Depth 0 learns. ξ_c and χ_1 by σ_w². ValueError where two arms have the same of these.
    """
    axes = [np.unique(dataset[name].values) for name in ("weight_variance", "depth", "learning_rate")]
    shape = (dataset.sizes["seed"], dataset.sizes["step"], *map(len, axes))
    reached, scale, chi = np.full(shape, np.nan), np.full(len(axes[0]), np.nan), np.full(len(axes[0]), np.nan)
    for parameters, arm in arms(dataset):
        names = ("weight_variance", "depth", "learning_rate")
        place: Any = tuple(int(np.searchsorted(axis, parameters[name])) for axis, name in zip(axes, names, strict=True))
        if np.isfinite(reached[:, :, *place]).any():
            same = ", ".join(f"{name} {parameters[name]:g}" for name in names)
            raise ValueError(f"weight_variance, depth, learning_rate: two arms have {same}; takes one of each")
        reached[:, :, *place] = arm.reached.transpose("seed", "step").values
        scale[place[0]], chi[place[0]] = float(arm.scale.mean()), float(arm.chi.mean())
    median = np.nan_to_num(np.median(reached, axis=0), nan=-1.0)
    best = np.take_along_axis(reached, median.argmax(axis=3)[None, ..., None], axis=4)[..., 0]
    whole = np.concatenate([np.ones_like(best[..., :1]), best], axis=3)
    coordinates = {"seed": dataset.seed, "step": dataset.step, "weight_variance": axes[0], "depth": [0, *axes[1]]}
    found = xr.DataArray(whole, coordinates, tuple(coordinates))
    by_weight = {"weight_variance": axes[0]}
    return xr.Dataset(
        {"accuracy": found, "scale": ("weight_variance", scale), "chi": ("weight_variance", chi)}, by_weight
    )


def trainable_depth(cells: xr.Dataset) -> xr.DataArray:
    """The depth at which the accuracy falls through a half, by seed, step and σ_w²; NaN where it does not."""
    accuracy = cells.accuracy.transpose("seed", "step", "weight_variance", "depth")
    found = np.empty(accuracy.shape[:-1])
    for place in np.ndindex(found.shape):
        row = accuracy.values[place]
        known = np.isfinite(row)
        found[place] = crossing(accuracy.depth.values[known], -row[known], -HALF)
    return accuracy.isel(depth=0, drop=True).copy(data=found)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The boundary within a factor of two, its constant in either phase, its order, its growth, and the edge."""
    cells = grid(dataset)
    last = cells.isel(step=-1)
    # Written so that a theory without an answer (NaN) is judged, and void.
    away = cells.isel(weight_variance=np.flatnonzero(~(cells.scale.values > LONGEST)))
    end = away.isel(step=-1)
    over = end.depth / (FACTOR * end.scale)
    right = xr.where(over <= 0.5, end.accuracy >= HALF, (end.accuracy < HALF).where(over >= 2.0))
    right = right.where(end.accuracy.notnull() & (end.depth > 0))
    found = []
    chaotic = away.chi.values > 1
    for phase, chosen in (("both phases", chaotic | True), ("order", ~chaotic), ("chaos", chaotic)):
        if chosen.any():
            judged = right.isel(weight_variance=chosen)
            least, most = (int((judged.isel(seed=0).notnull() & side).sum()) for side in (over <= 0.5, over >= 2.0))
            what = (
                f"{phase}: share of networks that learn at 3 ξ_c or less ({least} a seed) and do not at 12 ξ_c or more"
            )
            share = judged.mean(["weight_variance", "depth"])
            found.append(Finding.of(f"{what} ({most} a seed)", (0.9, 1.0), every_seed(share)))
    depths = trainable_depth(away)
    sharp = depths.isel(step=-1).notnull().mean("seed").values > 0.5
    # A seed that learns at every depth counts with the deepest: left out, it would lower the mean by more.
    depths = depths.fillna(away.depth.where(away.accuracy.notnull()).max("depth").where(away.scale.notnull()))
    sides = {"order": sharp & (away.chi.values < 1), "chaos": sharp & (away.chi.values > 1)}
    logs = np.log(depths / away.scale)
    for side, chosen in sides.items():
        if chosen.any():
            k = np.exp(logs.isel(step=-1, weight_variance=chosen).mean("weight_variance"))
            span = np.exp(logs.isel(step=-1, weight_variance=chosen).median("seed"))
            each = f"{float(span.min()):.1f} to {float(span.max()):.1f}"
            what = f"{side}: trainable depth over ξ_c, geometric mean over {chosen.sum()} σ_w² ({each})"
            found.append(Finding.of(what, BAND, over_seeds(k)))
    if all(chosen.any() for chosen in sides.values()):
        ratio = [logs.isel(step=-1, weight_variance=chosen).mean("weight_variance") for chosen in sides.values()]
        what = "trainable depth over ξ_c, order over chaos (1 if one constant)"
        found.append(Finding.of(what, (0.5, 2.0), over_seeds(np.exp(ratio[0] - ratio[1]))))
    for side, chosen in {**sides, "both phases": sharp}.items():
        if chosen.sum() > 2:
            found.append(_order(side, depths.isel(step=-1, weight_variance=chosen), away.scale.values[chosen]))
    for side, chosen in sides.items():
        grown = logs.isel(step=cells.step.values > 0, weight_variance=chosen)
        grown = grown.isel(weight_variance=grown.notnull().all(["seed", "step"]).values)
        if grown.weight_variance.size and grown.step.size > 1:
            rise = slope(np.log(grown.step.values), np.exp(grown).mean("weight_variance").transpose("seed", "step"))
            what = f"{side}: slope of the trainable depth over ξ_c on ln(steps), {grown.weight_variance.size} σ_w²"
            found.append(Finding.of(what, (0.0, np.inf), over_seeds(rise)))
    for weight in cells.weight_variance.values[cells.scale.values > LONGEST].tolist():
        found += _edge(last.sel(weight_variance=weight), weight)
    return found


def _order(side: str, depths: xr.DataArray, scales: np.ndarray) -> Finding:
    """The rank correlation of trainable depth and ξ_c."""
    rows = depths.transpose("seed", ...).values
    ranks = [float(stats.spearmanr(row, scales).statistic) if np.ptp(row) else 0.0 for row in rows]
    return Finding.of(f"{side}: Spearman's rank correlation of trainable depth and ξ_c", (0.9, 1.0), over_seeds(ranks))


def _edge(cell: xr.Dataset, weight: float) -> list[Finding]:
    """The accuracy at the edge of the two deepest networks of the design."""
    known = cell.depth.values[np.isfinite(cell.accuracy.isel(seed=0).values)]
    return [
        Finding.of(
            f"edge, σ_w² = {weight:g}, 6 ξ_c = {FACTOR * float(cell.scale):.0f}: accuracy at {depth} layers",
            (HALF, 1.0),
            every_seed(cell.accuracy.sel(depth=depth)),
        )
        for depth in known[known > 0][-2:].tolist()
    ]


def draw(dataset: xr.Dataset) -> plots.Figure:
    """The accuracy over σ_w² and depth with 6 ξ_c; trainable depth over ξ_c by σ_w²; and by the number of steps."""
    figure, ((plane, constant, budget),) = plots.figure(
        1, 3, "How deep a random tanh network can be and still train", (4.8, 3.8)
    )
    cells = grid(dataset)
    bias = float(np.atleast_1d(dataset.bias_variance.values)[0])
    last, weights = cells.accuracy.isel(step=-1).mean("seed"), cells.weight_variance.values
    rows = last.transpose("depth", "weight_variance").isel(depth=slice(1, None))
    x, y = np.meshgrid(weights, rows.depth.values)
    known = np.isfinite(rows.values)
    colour = plane.scatter(
        x[known], y[known], c=rows.values[known], cmap="viridis", vmin=0.1, vmax=1, s=150, marker="s"
    )
    figure.colorbar(colour, ax=plane, label="accuracy on images trained on")
    edge = edge_of_chaos("tanh", bias)
    line = np.unique(
        np.r_[np.geomspace(weights[0] * 0.9, weights[-1] * 1.1, 80), edge + np.array([-0.05, -0.01, 0.01, 0.05])]
    )
    scale = np.array([mean_field("tanh", weight, bias).correlation_depth for weight in line])
    plots.theory(plane, line, FACTOR * scale, "6 ξ_c", linewidth=2.0)
    plane.set(
        title=f"a  what trains ({int(cells.step[-1])} steps)",
        xlabel="σ_w²",
        ylabel="depth (layers)",
        xscale="log",
        yscale="log",
    )
    plane.set_ylim(0.7 * float(rows.depth.min()), 1.6 * float(rows.depth.max()))
    depths = trainable_depth(cells)
    ratio = (depths / cells.scale).where(cells.scale <= LONGEST)
    for number, step in enumerate(cells.step.values[cells.step.values > 0][[0, -1]].tolist()):
        values = ratio.sel(step=step)
        plots.points(constant, values.weight_variance, values, color=f"C{number}")
        centre = values.median("seed")
        constant.plot(weights, centre, "o-", ms=5, color=f"C{number}", label=f"{step} steps")
    constant.axhline(FACTOR, color="black", linestyle="--", label="6 (Schoenholz et al.)")
    constant.axhspan(*BAND, color="0.9", label="3 to 9")
    constant.axvline(edge, color="0.6", linewidth=1, label="edge of chaos")
    constant.set(title="b  not one constant", xlabel="σ_w²", ylabel="trainable depth / ξ_c", xscale="log")
    constant.set_ylim(0, 16)
    budget.set_ylim(0, 16)
    steps = ratio.step.values > 0
    for number, weight in enumerate(weights[cells.scale.values <= LONGEST].tolist()):
        curve = ratio.sel(weight_variance=weight).isel(step=steps).dropna("step", how="any")
        if curve.step.size:
            plots.seeds(budget, curve.transpose("seed", "step"), f"σ_w² = {weight:g}", color=f"C{number}")
    span = cells.step.values[steps][[0, -1]]
    plots.theory(
        budget, span, FACTOR + np.log(span / span[0]) - np.log(span[-1] / span[0]) / 2, "slope 1: e^(L/ξ_c) steps"
    )
    budget.set(title="c  it grows with the budget", xlabel="steps", ylabel="trainable depth / ξ_c", xscale="log")
    for axes in (plane, constant, budget):
        plots.legend(axes, loc="upper left" if axes is budget else "upper right", ncols=2 if axes is budget else 1)
    return figure


NAMES = ("depth", "weight_variance", "learning_rate")


def design(depths: tuple, weights: tuple, rates: tuple, edge: float, deepest: int) -> list[tuple]:
    """Rows: the plane, the larger rate for shallow networks only, and a deeper network at the edge with less."""
    plane = product(depths, (*weights, edge), rates)
    rows = [row for row in plane if row[0] < 20 or row[2] < max(rates)]
    return [*rows, (deepest, edge, min(rates) / 4)]


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={
        "seeds": 8,
        NAMES: design((4, 8, 14, 24, 42), (0.3, 0.5, 0.8, 1.1, 4.0, 8.0, 16.0, 25.0), (0.02, 0.1), 1.76, 80),
    },
    smoke={"seeds": 2, NAMES: [(14, weight, 0.1) for weight in (0.3, 0.8, 1.2)], "steps": 200},
    paper={
        "seeds": 8,
        NAMES: design((10, 20, 40, 80, 160, 300), (1.0, 1.2, 1.4, 1.6, 2.0, 2.5, 3.0, 4.0), (1e-3, 1e-2), 1.76, 400),
        "width": 300,
        "steps": 14_000,
    },
    control={"learning_rate": 0.0},  # nothing is trained
    precision="float32",
)
