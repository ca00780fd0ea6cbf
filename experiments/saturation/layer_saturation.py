"""Tanh layers saturate one after the other, the first one first: on shapes at a large learning rate, not on digits.

Claim: With the standard initialisation the layers of a tanh network saturate sequentially, "starting with layer 1 and
propagating up in the network", and "why this is happening remains to be understood". Softsign layers saturate less, and
all together rather than one after the other.

Source: Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", AISTATS,
section 3.2 and Figure 3: five layers, W uniform in ±1/√fan_in, zero biases, batches of 10, 98th percentiles and
deviations of the outputs on 300 test images; Figure 4 (softsign).

Departure: Layers of 50 units instead of 1000, 1350 pictures of shapes of 16 × 16 pixels (`research.shapes`) instead of
an endless stream of 32 × 32, and digits; layers are read on images trained on, and seeds differ in start and batches.
The 98th percentile is that of |h|; a layer has saturated when it first passes 0.9 (softsign: 0.6, its knee), linear in
ln t between recordings. The claim depends on the task and the rate: on shapes the order is the paper's at η = 0.3; at
0.1 the last two layers swap, at 0.03 the last overtakes three; on digits it overtakes those below it at either rate.
Before training the percentiles fall from layer to layer in every one of these runs: that order is the start's, and
what training adds is whether it lasts. Softsign layers do saturate less, but not together: at η = 0.3 they are in order
as those of tanh are, at 0.1 neither is (median τ 0.6 and 0.8).

Bands: before training the mean square of a layer of N units is that of the layer below through N squares: its logarithm
has deviation √(2/N) and mean −1/N a layer, that of the deviation half of both. Three of these are allowed. To be less
in order is to lose half of what one exchange of two of L layers takes from Kendall's τ, 4/(L(L − 1)).
"""

from functools import cache
from typing import Any, Literal, NamedTuple

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
from research.dynamics import Descent, Run, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select, sound
from research.models import FullyConnected, uniform_start
from research.oracles.mean_field import variance_path
from research.shapes import PAIRS, shapes
from research.statistics import every_seed, over_seeds

LEVELS = {"tanh": 0.9, "softsign": 0.6}
FUNCTIONS = {"tanh": jnp.tanh, "softsign": jax.nn.soft_sign}
SHOWN, SIDE, STANDARD, NORMALISED = 198, 16, 1.0, 3**0.5
STARTS = {STANDARD: "standard", NORMALISED: "normalised"}


class Observables(NamedTuple):
    high: Float[Array, "layer"]
    deviation: Float[Array, "layer"]
    accuracy: Float[Array, ""]


class Given(NamedTuple):
    square: Float[Array, "image"]


@cache
def pictures(per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """The pictures of shapes, one a row, and their classes: the same for all runs, and drawn only once."""
    labels = np.arange(len(PAIRS) * per_class) % len(PAIRS)
    with jax.ensure_compile_time_eval():
        drawn = jax.jit(lambda key: shapes(key, labels, SIDE))(jax.random.key(0))
        return np.asarray(drawn).reshape(len(labels), -1), labels


def simulate(
    key: Array,
    learning_rate: float,
    gain: float = STANDARD,
    *,
    activation: Literal["tanh", "softsign"] = "tanh",
    data: Literal["shapes", "digits"] = "shapes",
    depth: int = 5,
    width: int = 50,
    batch: int = 10,
    per_class: int = 150,
    steps: int = 4000,
) -> Run:
    """SGD on the cross-entropy, from W uniform in ±gain/√fan_in; gain √3 is the normalised initialisation.

    `high` is the 98th percentile of |h|, `deviation` that of h, of all units and 198 images; `given` has mean squares.
    """
    init_key, draw_key = jax.random.split(key)
    if data == "digits":
        pixels, labels = problems.digits()
        inputs = jnp.asarray(problems.standardized(pixels), jnp.float32)
    else:
        drawn, labels = pictures(per_class)
        inputs = jnp.asarray((drawn - drawn.mean()) / drawn.std(), jnp.float32)
    X, y, classes = inputs, jnp.asarray(labels), int(labels.max()) + 1
    function = FUNCTIONS[activation]
    forward: Any = FullyConnected(depth, width, classes, function).apply
    uniform, _ = uniform_start(init_key, [X.shape[1], *[width] * depth, classes], X.dtype)
    optimizer = optax.sgd(learning_rate)
    loss = lambda params, drawn: cross_entropy(forward(params, X[drawn]).logits, y[drawn]).mean()
    step = stochastic_descent(loss, optimizer, lambda key: jax.random.randint(key, (batch,), 0, len(X)))

    def observe(state: Descent) -> Observables:
        logits, sums = forward(state.params, X[:SHOWN])
        outputs = function(sums).reshape(depth, -1)
        accuracy = jnp.mean(jnp.argmax(logits, axis=1) == y[:SHOWN], dtype=X.dtype)
        return Observables(jnp.percentile(jnp.abs(outputs), 98, axis=1), jnp.std(outputs, axis=1), accuracy)

    begin = start(jax.tree.map(lambda entries: gain * entries, uniform), optimizer, draw_key)
    times = np.rint(20 * 1.15 ** np.arange(100)).astype(int)  # whatever the number of steps, as runs share an axis
    return Run(begin, step, observe, np.r_[0, times[times <= steps]], Given(jnp.mean(X[:SHOWN] ** 2, axis=1)))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """When each layer saturates (infinite: not yet), and the mean field's deviations before training."""
    dataset = sound(dataset)
    weight = dataset.gain**2 / 3
    levels = xr.apply_ufunc(np.vectorize(LEVELS.__getitem__), dataset.activation)
    depth = dataset.sizes["layer"]
    # twenty images that stand for all: the midpoints of as many equal shares, by mean square
    square = dataset.square.quantile((np.arange(20) + 0.5) / 20, "image").rename(quantile="image").drop_vars("image")
    path = lift(variance_path, dataset.activation, weight, 0.0, weight * square, layers=depth + 1)
    below = path.mean("image")  # q of the next layer is σ_w² times the mean square of this one's outputs
    layers = np.arange(depth) + 1
    predicted = (below.isel(layer=slice(1, None)) / weight) ** 0.5
    return dataset.assign(
        time=xr.apply_ufunc(
            first_passage,
            dataset.step,
            dataset.high,
            levels,
            input_core_dims=[["step"], ["step"], []],
            vectorize=True,
        ),
        predicted=predicted,
    ).assign_coords(layer=layers)


def first_passage(step: np.ndarray, values: np.ndarray, level: float) -> float:
    """When the values first reach the level, linear in ln(1 + step): 0 at the start, ∞ for never, NaN for all NaN."""
    if np.isnan(values).all():
        return float("nan")
    (above,) = np.nonzero(values >= level)
    if not above.size or not above[0]:
        return float("inf") if not above.size else 0.0
    place = np.log1p(step[above[0] - 1 : above[0] + 1])
    return float(np.expm1(np.interp(level, values[above[0] - 1 : above[0] + 1], place)))


def runs_of(dataset: xr.Dataset, **conditions: Any) -> xr.Dataset:
    """The runs of those parameters, one a seed, that did not diverge; no seeds where there are none."""
    runs = select(dataset, **conditions)
    if not runs.diverged.size:
        return runs.isel(seed=[])
    runs = runs.isel(dict.fromkeys((each for each in runs.diverged.dims if each != "seed"), 0))
    return runs.isel(seed=np.flatnonzero(~runs.diverged.values))


def groups(dataset: xr.Dataset) -> list[tuple[str, dict[str, Any]]]:
    """What is swept, by name, the condition of the claim first: shapes, the standard start, the largest rate."""
    every = []
    for activation in ("tanh", "softsign"):
        for data in ("shapes", "digits"):
            for gain in np.unique(dataset.gain.values).tolist():
                for rate in np.unique(dataset.learning_rate.values)[::-1].tolist():
                    where = {"activation": activation, "data": data, "gain": gain, "learning_rate": rate}
                    begun = STARTS.get(gain, f"gain {gain:g}")
                    every.append((f"{activation}, {data}, {begun} start, η = {rate:g}", where))
    return [(name, where) for name, where in every if runs_of(dataset, **where).seed.size > 1]


def agreement(runs: xr.Dataset) -> np.ndarray:
    """Kendall's τ of the layers and their times to saturation, by seed; 0 where all are saturated at once, or none."""
    layers = np.arange(runs.sizes["layer"])
    times = runs.time.transpose("seed", "layer").values
    ranks = [stats.kendalltau(layers, stats.rankdata(row)).statistic for row in times]
    return np.asarray(np.nan_to_num(np.round(ranks, 12)))


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The order in which tanh layers saturate, by task, rate and start; what softsign does; and the start."""
    found = []
    depth = dataset.sizes["layer"]
    for name, where in groups(dataset):
        if where["activation"] == "tanh":
            ranks = agreement(runs_of(dataset, **where))
            ordered = f"{np.sum(ranks == 1)} of {ranks.size} seeds in order"
            what = f"{name}: Kendall's τ of layer and time to saturation ({ordered})"
            found.append(Finding.of(what, (1.0, 1.0), every_seed(ranks)))
    rivals = [(where, {**where, "activation": "tanh"}) for _, where in groups(dataset) if where["activation"] != "tanh"]
    for where, rival in rivals:
        soft, hard = (runs_of(dataset, **each) for each in (where, rival))
        both = np.intersect1d(soft.seed, hard.seed)
        if both.size > 1:
            soft, hard, said = (
                soft.sel(seed=both),
                hard.sel(seed=both),
                f"{where['data']}, η = {where['learning_rate']:g}",
            )
            ranks = agreement(soft)
            ordered = f"{ranks.mean():.2f} and {np.sum(ranks == 1)} of {ranks.size} seeds in order"
            what = f"{said}: Kendall's τ, softsign less tanh (softsign: {ordered})"
            band = (-np.inf, -2 / (depth * (depth - 1)))
            found.append(Finding.of(what, band, over_seeds(ranks - agreement(hard))))
            lower = (soft.high - hard.high).dropna("step").isel(step=-1)
            what = f"{said}: 98th percentile of |h|, softsign less tanh"
            found.append(Finding.of(f"{what}, the largest of layers", (-np.inf, 0.0), over_seeds(per_seed(lower))))
    return found + _initial(dataset)


def _initial(dataset: xr.Dataset) -> list[Finding]:
    """The last layer's deviation before training against the mean field."""
    depth, width = dataset.sizes["layer"], float(dataset.width.max())
    found = []
    for data in ("shapes", "digits"):
        runs = select(dataset, data=data, activation="tanh", gain=STANDARD)
        if runs.diverged.size:
            last = runs.isel(layer=-1)
            off = per_seed(np.log(last.deviation.isel(step=0) / last.predicted), "mean")
            allowed = 1.5 * (2 * depth / width / len(off)) ** 0.5 + depth / width
            what = f"{data}: ln of the last layer's deviation before training over the mean field's"
            found.append(
                Finding.of(f"{what}, {float(last.predicted.mean()):.3f}", (-allowed, allowed), over_seeds(off))
            )
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """The 98th percentile of each layer in time, a panel a condition; then when each layer saturates."""
    chosen = [(name, where) for name, where in groups(dataset)]
    figure, panels = plots.figure(
        2, -(-(len(chosen) + 1) // 2), "Which layer saturates first? 98th percentile of |h|", (3.4, 2.9)
    )
    places = panels.ravel()
    for panel, (name, where) in zip(places, chosen, strict=False):
        runs = runs_of(dataset, **where)
        for layer in runs.layer.values:
            curve = runs.high.sel(layer=layer, drop=True).isel(step=slice(1, None))
            curve = curve.dropna("step", how="all").transpose("seed", "step")
            plots.seeds(panel, curve, f"layer {layer}", color=f"C{layer - 1}")
        panel.axhline(LEVELS[where["activation"]], color="black", linestyle="--", linewidth=1.0)
        panel.set(title=name.replace(" start, ", ",\n"), xlabel="update", ylabel="98th percentile of |h|", xscale="log")
        panel.set_ylim(0, 1.03)
    last = places[-1]
    for number, (name, where) in enumerate(chosen):
        times = runs_of(dataset, **where).time
        shown = times.where(np.isfinite(times) & (times > 0))
        style = (
            {"color": f"C{number}", "marker": "o"}
            if where["activation"] == "tanh"
            else {"marker": "s", "linestyle": ":"}
        )
        last.plot(shown.layer, shown.median("seed"), ms=4, label=name.replace(" start", ""), **style)
    last.set(title="when it passes the dashed line", xlabel="layer", ylabel="update, median of seeds", yscale="log")
    plots.legend(places[0])
    plots.legend(last, fontsize=5)
    for panel in places[len(chosen) : -1]:
        panel.set_axis_off()
    return figure


AXES = ("activation", "data", "steps", "learning_rate", "gain")
ARMS = [
    *(("tanh", "shapes", 4000, rate, STANDARD) for rate in (0.03, 0.1, 0.3)),
    ("tanh", "shapes", 4000, 0.1, NORMALISED),
    *(("tanh", "digits", 2000, rate, STANDARD) for rate in (0.03, 0.1)),
    *(("softsign", "shapes", 4000, rate, STANDARD) for rate in (0.1, 0.3)),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, AXES: [("tanh", "shapes", 1000, 0.3, STANDARD)], "depth": 3, "width": 40, "per_class": 50},
    paper={"seeds": 20, AXES: [(*arm[:2], 1_000_000, *arm[3:]) for arm in ARMS], "width": 1000, "per_class": 10_000},
    control={"data": "digits"},
    precision="float32",
)
