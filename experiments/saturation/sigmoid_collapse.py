"""The top sigmoid layer collapses at once; a network of four layers escapes in time, one of five does not.

Claim: With SGD from the standard initialisation the last hidden layer of a deep sigmoid network is quickly pushed to
zero, while the means of the layers below stay above one half, the larger the nearer they are to it. With fewer layers
the network leaves this plateau after a while, and its first hidden layer begins to saturate then; with five layers it
does not.

Source: Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", AISTATS,
section 3.1 and Figure 2: W uniform in ±1/√fan_in, zero biases, batches of 10, 4 and 5 hidden layers.

Departure: Bundled digits instead of Shapeset-3×2, 100 of each class drawn with replacement instead of online, layers of
50 units instead of 1000, and eight seeds; η from 0.1 to 1 and batches of 100 as well, as a collapse that goes by η²t/B
(`sgd_noise`) is not quick where η is small or B large. To escape is to have more than half of 300 training images right
(chance is a tenth); runs end once 95 % are. Escape times are those of recordings, which are 12 % apart, and are
censored at the last step: survival curves are Kaplan–Meier's, and p-values of the log-rank test are multiplied by the
number of tests (Bonferroni). Runs that are there for the collapse only, shorter than the others, are not asked whether
they escape; their curve ends early. Of the layers below, what is ordered is how far their
means have moved: the means themselves begin one hundredth apart, by chance, and the first layer's hardly moves.
"""

from itertools import cycle, pairwise, product
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
from research.labels import arms, at_step, first_arm, lift, per_seed, recorded, select
from research.models import FullyConnected, uniform_start
from research.oracles.gradient_noise import top_activation
from research.statistics import Estimate, every_seed, over_seeds, share

CLASSES, SHOWN, JUDGED = 10, 300, 40  # images on which layers are read, and on which the prediction is made
SOON, COLLAPSED, ESCAPED, LEARNT = 1000, 0.05, 0.5, 0.95
SHORT, LONG = 2000, 12_000  # steps


class Observables(NamedTuple):
    top: Float[Array, ""]
    means: Float[Array, "layer"]
    deviations: Float[Array, "layer"]
    high: Float[Array, ""]
    accuracy: Float[Array, ""]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    labels: Float[Array, "sample"]
    initial: Float[Array, "parameter"]


def simulate(
    key: Array,
    learning_rate: float,
    *,
    depth: int = 4,
    width: int = 50,
    batch: int = 10,
    per_class: int = 100,
    steps: int = LONG,
) -> Run:
    """SGD on the mean cross-entropy of `depth` hidden layers of logistic units; batches are drawn with replacement."""
    data_key, init_key, draw_key = jax.random.split(key, 3)
    pixels, labels = problems.digits()
    chosen = problems.balanced_subset(data_key, labels, per_class)
    X, y = jnp.asarray(problems.standardized(pixels), jnp.result_type(float))[chosen], jnp.asarray(labels)[chosen]
    forward: Any = FullyConnected(depth, width, CLASSES, jax.nn.sigmoid).apply
    params, initial = uniform_start(init_key, [X.shape[1], *[width] * depth, CLASSES], X.dtype)
    optimizer = optax.sgd(learning_rate)
    loss = lambda params, drawn: cross_entropy(forward(params, X[drawn]).logits, y[drawn]).mean()
    step = stochastic_descent(loss, optimizer, lambda key: jax.random.bits(key, (batch,), jnp.uint32) % len(X))

    def right(state: Any) -> tuple[Array, Array]:
        logits, sums = forward(state.params, X[:SHOWN])
        return jnp.mean(jnp.argmax(logits, axis=1) == y[:SHOWN], dtype=X.dtype), jax.nn.sigmoid(sums)

    def observe(state: Any) -> Observables:
        accuracy, outputs = right(state)
        units = outputs.reshape(depth, -1)
        means = units.mean(axis=1)
        return Observables(means[-1], means, units.std(axis=1), jnp.percentile(units[0], 98), accuracy)

    given = Given(X[:JUDGED], y[:JUDGED].astype(X.dtype), initial)
    times = np.rint(SHORT * (LONG / SHORT) ** (np.arange(-35, 80) / 16)).astype(int)  # the same, however long runs are
    at = np.union1d(times[times <= steps], [0, min(SOON, steps), steps])
    begin = start(params, optimizer, draw_key)
    return Run(begin, step, observe, at, given, stop=lambda state: right(state)[0] >= LEARNT)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The collapse that `sgd_noise` explains, up to step 1000, and when a run escapes (NaN: it does not)."""
    early = dataset.step.sel(step=dataset.step <= SOON)
    rate, noise = dataset.learning_rate, 1 / dataset.batch
    told = dataset.X.where(dataset.depth >= deep(dataset)[-2:][0])  # the deepest two are judged
    network = (told, dataset.labels, dataset.initial)
    predicted = lift(top_activation, *network, early, rate, noise, dataset.width, dataset.depth)
    relaxation = rate * (1 + dataset.width * dataset.top.isel(step=0) ** 2) / CLASSES
    out = dataset.accuracy > ESCAPED
    return dataset.assign(
        predicted=predicted.reindex(step=dataset.step),
        soon=at_step(dataset.top, xr.zeros_like(rate) + min(SOON, int(dataset.step.max()))),
        # see `sgd_noise`: a finite rate moves ln h by that much, and the prediction may miss the order after it
        allowed=(-np.log1p(-relaxation.where(relaxation < 2) / 2) / 2) ** 2,
        escape=dataset.step.where(out).min("step"),
    )


def cell(dataset: xr.Dataset, depth: int, batch: int, rate: float) -> xr.Dataset:
    """The runs of that kind that did not diverge, one a seed, while they lasted; no seeds where there are none."""
    runs = select(dataset, depth=depth, learning_rate=rate, batch=batch)
    if not runs.diverged.size:
        return runs.isel(seed=[])
    runs = recorded(first_arm(runs), "top")
    return runs.sel(layer=slice(0, depth - 1)) if "layer" in runs.coords else runs.isel(layer=slice(0, depth))


def conditions(dataset: xr.Dataset) -> list[tuple[int, float]]:
    """The batches and learning rates of the design: the smallest batch first, and of that the largest rate."""
    pairs = {(parameters["batch"], parameters["learning_rate"]) for parameters, _ in arms(dataset)}
    return sorted(pairs, key=lambda pair: (pair[0], -pair[1]))


def deep(dataset: xr.Dataset) -> list[int]:
    """The depths of the design, increasing."""
    return np.unique(dataset.depth.values).tolist()


def called(batch: int, rate: float) -> str:
    """The learning rate and the batch in words."""
    return f"η = {rate:g}, B = {batch}"


def survival(runs: xr.Dataset) -> stats.CensoredData:
    """The escape times, those of runs that are still on the plateau censored at their last step."""
    times = runs.escape.values
    still = np.isnan(times)
    return stats.CensoredData(uncensored=times[~still], right=np.full(still.sum(), float(runs.steps)))


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The collapse, its prediction, the order of the layers, the escapes of each depth, and the first layer."""
    found: list[Finding] = []
    cells = {
        pair: {depth: runs for depth in deep(dataset) if (runs := cell(dataset, depth, *pair)).seed.size}
        for pair in conditions(dataset)
    }
    for pair, kinds in cells.items():
        shown = list(kinds)[-2:]
        low = np.concatenate([kinds[depth].soon.values for depth in shown])
        what = f"{called(*pair)}: mean of the last hidden layer at step {SOON}, {_listed(shown)} layers, every seed"
        found.append(Finding.of(what, (0.0, COLLAPSED), every_seed(low)))
    for pair, kinds in cells.items():
        for depth in list(kinds)[-2:]:
            found += _collapse(kinds[depth], f"{depth} layers, {called(*pair)}")
    long = {
        pair: {depth: survival(runs) for depth, runs in kinds.items() if float(runs.steps) > SHORT}
        for pair, kinds in cells.items()
    }
    tests = sum(len(list(pairwise(times))) for times in long.values())
    for pair, times in list(long.items())[::-1]:
        kinds = cells[pair]
        for shallow, deeper in pairwise(times):
            p = float(stats.logrank(times[shallow], times[deeper], alternative="greater").pvalue)
            p = min(tests * p, 1.0) if np.isfinite(p) else 1.0  # nobody has escaped
            what = f"{called(*pair)}: {shallow} layers escape before {deeper}, p of the log-rank test (one-sided)"
            found.append(Finding.of(f"{what} times {tests} tests", (0.0, 0.01), Estimate(p, (p, p))))
        for depth in times:
            runs = kinds[depth]
            out = share(np.isfinite(runs.escape.values))
            what = f"{depth} layers, {called(*pair)}: share of seeds that escape within {int(runs.steps)} updates"
            found.append(Finding.of(what, (0.0, 0.5) if depth >= 5 else (0.5, 1.0), out))
            gone = runs.isel(seed=np.flatnonzero(np.isfinite(runs.escape.values)))
            if depth == 4 and gone.seed.size > 1:
                rise = gone.high.isel(step=-1) - at_step(gone.high, gone.escape / 2)
                what = f"4 layers, {called(*pair)}: rise of layer 1's 98th percentile"
                what += " from half the time of escape to the end of the run"
                found.append(Finding.of(f"{what} ({gone.seed.size} seeds)", (0.1, np.inf), every_seed(rise)))
    return found


def _listed(depths: list[int]) -> str:
    return " and ".join(map(str, depths))


def _collapse(runs: xr.Dataset, name: str) -> list[Finding]:
    """The prediction by noise alone, and the order of the layers, at step 1000 or the last one before."""
    early = runs.isel(step=np.flatnonzero(runs.step <= SOON)[-1])
    allowed = float(early.allowed.mean())
    band = (float(np.exp(-allowed)), float(np.exp(allowed)))
    what = f"{name}: last hidden layer at step {int(early.step)} over that of descent on L + (η/4B) tr Cov"
    found = [Finding.of(f"{what}, mean of seeds", band, over_seeds(per_seed(early.top / early.predicted)))]
    below = early.means.transpose("seed", "layer").values[:, :-1]
    moved = below - runs.means.isel(step=0).transpose("seed", "layer").values[:, :-1]
    if below.shape[1]:
        lowest = f"{name}: least mean of a layer below the last one"
        found.append(Finding.of(lowest, (0.49, np.inf), every_seed(below.min(axis=1))))
    if below.shape[1] > 1:
        order = (
            f"{name}: the mean has risen since step 0 the more, the nearer the layer is to the last: least difference"
        )
        found.append(Finding.of(order, (0.0, np.inf), every_seed(np.diff(moved, axis=1).min(axis=1))))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a, b) the layers of a run of four layers and of one of five, (c) survival on the plateau, (d) the collapse."""
    figure, panels = plots.figure(2, 2, "Sigmoid networks: the top layer collapses; the deeper, the longer it stays")
    (one, other), (curves, collapse) = panels
    depths, pairs = deep(dataset), conditions(dataset)
    epochs = pairs[0][0] / (CLASSES * float(np.atleast_1d(dataset.per_class)[0]))
    for panel, letter, depth in ((one, "a", depths[-2:][0]), (other, "b", depths[-1])):
        runs = cell(dataset, depth, *pairs[0])
        if runs.seed.size:
            order = np.argsort(np.nan_to_num(runs.escape.values, nan=np.inf))
            shown = runs.isel(seed=int(order[len(order) // 2]))
            _layers(panel, shown, epochs)
        panel.set_title(f"{letter}  {depth} layers, η = {pairs[0][1]:g}, one seed: mean ± deviation")
    for number, depth in enumerate(depths):
        for pair, style in zip(pairs, cycle(("-", ":", "--", "-.", (0, (1, 3)))), strict=False):
            runs = cell(dataset, depth, *pair)
            if runs.seed.size:
                left = stats.ecdf(survival(runs)).sf
                times = np.r_[40.0, left.quantiles, float(runs.steps)]
                share_left = np.r_[1.0, left.probabilities, left.probabilities[-1:]]
                label = f"{depth} layers, {called(*pair)}"
                curves.step(times, share_left, where="post", color=f"C{number}", linestyle=style, label=label)
    for number, pair in enumerate(pairs):
        runs = cell(dataset, depths[-2:][0], *pair)
        if runs.seed.size:
            early = runs.isel(step=slice(1, None)).dropna("step", subset=["predicted"])
            plots.seeds(collapse, early.top.transpose("seed", "step"), called(*pair), color=f"C{number}")
            named = None if number else "descent on L + (η/4B) tr Cov, with F"
            plots.theory(collapse, early.step, early.predicted.median("seed"), named)
    curves.set(title="c  still on the plateau (Kaplan–Meier)", xlabel="updates", ylabel="share of seeds", xscale="log")
    curves.set_ylim(-0.03, 1.05)
    collapse.set(title=f"d  the collapse, {depths[-2:][0]} layers", xlabel="updates")
    collapse.set(xscale="log", yscale="log", ylabel="mean of the last hidden layer")
    for panel in panels.flat:
        plots.legend(panel)
    return figure


def _layers(panel: plots.Axes, run: xr.Dataset, epochs: float) -> None:
    """Mean and deviation of each layer in time, until the run ends."""
    end = int(np.argmax(run.accuracy.values >= LEARNT)) or run.step.size
    run = run.isel(step=slice(1, end + 1))
    for layer in range(run.sizes["layer"]):
        here, shift = run.isel(layer=layer), 1.03**layer  # apart, so that bars do not hide each other
        bars: dict[str, Any] = {"color": f"C{layer}", "linewidth": 1.2, "elinewidth": 0.5, "alpha": 0.85}
        panel.errorbar(here.step * epochs * shift, here.means, here.deviations, label=f"layer {layer + 1}", **bars)
    panel.axhline(0.5, color="black", linestyle="--", linewidth=0.8)
    if np.isfinite(run.escape):
        panel.axvline(float(run.escape) * epochs, color="black", linestyle=":", linewidth=1.0, label="escape")
    panel.set(xlabel="epoch", ylabel="output of the hidden units", xscale="log", ylim=(-0.05, 1.15))


NAMES = ("depth", "learning_rate", "batch", "steps")
SLOWER = [(4, 0.1, 10, LONG), (4, 0.3, 10, LONG), (4, 1.0, 100, SHORT)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, NAMES: [*product((3, 4, 5), (0.5, 1.0), (10,), (LONG,)), *SLOWER]},
    smoke={"seeds": 2, NAMES: [(4, 1.0, 10, 1200)], "per_class": 50},
    paper={
        "seeds": 10,
        NAMES: list(product((3, 4, 5), (0.1, 0.3, 0.5, 1.0), (10, 100), (100_000,))),
        "width": 100,
    },
    control={"batch": 200},
    precision="float32",
)
