"""The top sigmoid layer collapses at once; a network of four layers escapes in time, one of five does not.

Claim: With SGD from the standard initialisation the last hidden layer of a deep sigmoid network is quickly pushed to
zero, while the means of the layers below stay above one half, the larger the nearer they are to it. With fewer layers
the network leaves this plateau after a while, and its first hidden layer begins to saturate then; with five layers it
does not.

Source: Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", AISTATS,
section 3.1 and Figure 2: W uniform in ±1/√fan_in, zero biases, batches of 10, 4 and 5 hidden layers.

Departure: Bundled digits instead of Shapeset-3×2, 100 of each class drawn with replacement instead of online, layers of
50 units instead of 1000, η = 1 and 0.5, and eight seeds. To escape is to have more than half of 300 training images
right (chance is a tenth); runs end once 95 % are. Escape times are those of recordings, which are 12 % apart, and are
censored at the last step: survival curves are Kaplan–Meier's. Of the layers below, what is ordered is how far their
means have moved: the means themselves begin one hundredth apart, by chance, and the first layer's hardly moves.
"""

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
from research.dynamics import Run, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import at_step, lift, per_seed, select
from research.models import FullyConnected, uniform_start
from research.oracles.gradient_noise import top_activation
from research.statistics import Estimate, every_seed, over_seeds, share

CLASSES, SHOWN, JUDGED = 10, 300, 40  # images on which layers are read, and on which the prediction is made
SOON, COLLAPSED, ESCAPED, LEARNT = 1000, 0.05, 0.5, 0.95


class Observables(NamedTuple):
    top: Float[Array, ""]
    means: Float[Array, "layer"]
    deviations: Float[Array, "layer"]
    high: Float[Array, "layer"]
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
    steps: int = 12_000,
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
    step = stochastic_descent(loss, optimizer, lambda key: jax.random.randint(key, (batch,), 0, len(X)))

    def right(state: Any) -> tuple[Array, Array]:
        logits, sums = forward(state.params, X[:SHOWN])
        return jnp.mean(jnp.argmax(logits, axis=1) == y[:SHOWN], dtype=X.dtype), jax.nn.sigmoid(sums)

    def observe(state: Any) -> Observables:
        accuracy, outputs = right(state)
        units = outputs.reshape(depth, -1)
        means = units.mean(axis=1)
        return Observables(means[-1], means, units.std(axis=1), jnp.percentile(units, 98, axis=1), accuracy)

    given = Given(X[:JUDGED], y[:JUDGED].astype(X.dtype), initial)
    at = np.union1d(log_spaced(steps, 50, first=40), [min(SOON, steps)])
    return Run(
        start(params, optimizer, draw_key), step, observe, at, given, stop=lambda state: right(state)[0] >= LEARNT
    )


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The collapse that `sgd_noise` explains, up to step 1000, and when a run escapes (NaN: it does not)."""
    early = dataset.step.sel(step=dataset.step <= SOON)
    rate, noise = dataset.learning_rate, 1 / dataset.batch
    deep = (dataset.X, dataset.labels, dataset.initial)
    predicted = lift(top_activation, *deep, early, rate, noise, dataset.width, dataset.depth)
    relaxation = rate * (1 + dataset.width * dataset.top.isel(step=0) ** 2) / CLASSES
    out = dataset.accuracy > ESCAPED
    return dataset.assign(
        predicted=predicted.reindex(step=dataset.step),
        soon=at_step(dataset.top, xr.zeros_like(rate) + min(SOON, int(dataset.step.max()))),
        # see `sgd_noise`: a finite rate moves ln h by that much, and the prediction may miss the order after it
        allowed=(-np.log1p(-relaxation.where(relaxation < 2) / 2) / 2) ** 2,
        escape=dataset.step.where(out).min("step"),
    )


def cell(dataset: xr.Dataset, depth: int, rate: float) -> xr.Dataset:
    """The runs of that depth and rate that did not diverge, one a seed; no seeds where the design lacks them."""
    runs = select(dataset, depth=depth, learning_rate=rate)
    if not runs.diverged.size:
        return runs.isel(seed=[])
    runs = runs.isel(dict.fromkeys((name for name in runs.diverged.dims if name != "seed"), 0))
    runs = runs.isel(seed=np.flatnonzero(~runs.diverged.values))
    return runs.sel(layer=slice(0, depth - 1)) if "layer" in runs.coords else runs.isel(layer=slice(0, depth))


def axes(dataset: xr.Dataset) -> tuple[list[int], list[float]]:
    """The depths and the learning rates of the design, each increasing."""
    return np.unique(dataset.depth.values).tolist(), np.unique(dataset.learning_rate.values).tolist()


def survival(runs: xr.Dataset) -> stats.CensoredData:
    """The escape times, those of runs that are still on the plateau censored at their last step."""
    times = runs.escape.values
    still = np.isnan(times)
    return stats.CensoredData(uncensored=times[~still], right=np.full(still.sum(), float(runs.steps)))


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The collapse, its prediction, the order of the layers, the escapes of each depth, and the first layer."""
    depths, rates = axes(dataset)
    found: list[Finding] = []
    for rate in rates[::-1]:
        deep = [cell(dataset, depth, rate) for depth in depths[-2:]]
        low = np.concatenate([runs.soon.values for runs in deep])
        what = f"η = {rate:g}: mean of the last hidden layer at step {SOON}, the deepest two, every seed"
        found.append(Finding.of(what, (0.0, COLLAPSED), every_seed(low)))
    for rate in rates[::-1]:
        for depth in depths[-2:]:
            runs = cell(dataset, depth, rate)
            if runs.seed.size:
                found += _collapse(runs, f"{depth} layers, η = {rate:g}")
    for rate in rates:
        times = {
            depth: survival(cell(dataset, depth, rate)) for depth in depths if cell(dataset, depth, rate).seed.size
        }
        for shallow, deeper in zip(list(times)[:-1], list(times)[1:], strict=True):
            p = float(stats.logrank(times[shallow], times[deeper], alternative="greater").pvalue)
            p = p if np.isfinite(p) else 1.0  # nobody has escaped
            what = f"η = {rate:g}: {shallow} layers escape before {deeper}, p of the log-rank test (one-sided)"
            found.append(Finding.of(what, (0.0, 0.01), Estimate(p, (p, p))))
        for depth in times:
            runs = cell(dataset, depth, rate)
            out = share(np.isfinite(runs.escape.values))
            what = f"{depth} layers, η = {rate:g}: share of seeds that escape within {int(runs.steps)} updates"
            found.append(Finding.of(what, (0.0, 0.5) if depth >= 5 else (0.5, 1.0), out))
            gone = runs.isel(seed=np.flatnonzero(np.isfinite(runs.escape.values)))
            if depth == 4 and gone.seed.size > 1:
                first = gone.high.isel(layer=0)
                rise = at_step(first, 2 * gone.escape) - at_step(first, gone.escape / 2)
                what = f"4 layers, η = {rate:g}: rise of layer 1's 98th percentile, half to twice the time of escape"
                found.append(Finding.of(f"{what} ({gone.seed.size} seeds)", (0.1, np.inf), every_seed(rise)))
    return found


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
    depths, rates = axes(dataset)
    epochs = float(np.atleast_1d(dataset.batch)[0]) / (CLASSES * float(np.atleast_1d(dataset.per_class)[0]))
    for panel, letter, depth in ((one, "a", depths[-2:][0]), (other, "b", depths[-1])):
        runs = cell(dataset, depth, rates[-1])
        if runs.seed.size:
            order = np.argsort(np.nan_to_num(runs.escape.values, nan=np.inf))
            shown = runs.isel(seed=int(order[len(order) // 2]))
            _layers(panel, shown, epochs)
        panel.set_title(f"{letter}  {depth} layers, η = {rates[-1]:g}, one seed: mean ± deviation")
    for number, depth in enumerate(depths):
        for rate, style in zip(rates, ("-", ":", "--", "-."), strict=False):
            runs = cell(dataset, depth, rate)
            if runs.seed.size:
                left = stats.ecdf(survival(runs)).sf
                times = np.r_[40.0, left.quantiles, float(runs.steps)]
                share_left = np.r_[1.0, left.probabilities, left.probabilities[-1:]]
                label = f"{depth} layers, η = {rate:g}"
                curves.step(times, share_left, where="post", color=f"C{number}", linestyle=style, label=label)
        runs = cell(dataset, depth, rates[-1])
        if runs.seed.size:
            late = runs.isel(step=slice(1, None))
            plots.seeds(collapse, late.top.transpose("seed", "step"), f"{depth} layers", color=f"C{number}")
            named = None if number else "descent on L + (η/4B) tr Cov, with F"
            plots.theory(collapse, late.step, late.predicted.median("seed"), named)
    curves.set(title="c  still on the plateau (Kaplan–Meier)", xlabel="updates", ylabel="share of seeds", xscale="log")
    curves.set_ylim(-0.03, 1.05)
    collapse.set(title=f"d  the collapse, η = {rates[-1]:g}", xlabel="updates", ylabel="mean of the last hidden layer")
    collapse.set(xscale="log", yscale="log")
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


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, "depth": (3, 4, 5), "learning_rate": (0.5, 1.0)},
    smoke={"seeds": 2, "depth": (4,), "learning_rate": (1.0,), "steps": 1200, "per_class": 50},
    paper={
        "seeds": 10,
        "depth": (3, 4, 5),
        "learning_rate": (0.1, 0.3, 0.5, 1.0),
        "batch": (10, 100),
        "width": 100,
        "steps": 100_000,
    },
    control={"batch": 200},
    precision="float32",
)
