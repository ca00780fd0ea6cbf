"""Gradient flow keeps the balance between neighbouring layers; descent lets it drift in proportion to the step size.

Claim: Along the gradient flow of a deep linear network W_{l+1}ᵀ W_{l+1} − W_l W_lᵀ is constant, for positively
homogeneous activations its diagonal is (for each neuron: outgoing less incoming squared norm). Under gradient descent
with step size η it has moved by η ∫ (G_{l+1}ᵀ G_{l+1} − G_l G_lᵀ) dt + O(η²) at a fixed time, G_l being the gradients.
Momentum β moves it (1 + β)/(1 − β) times as far. Weight decay λ multiplies it by e^(−2λt). Adam, sign descent and
AdaGrad do not keep it at any step size.

Source: Arora, Cohen & Hazan 2018, arXiv 1802.06509, proof of Theorem 1; Du, Hu & Lee 2018, arXiv 1806.00900 (each
neuron's in- and outgoing weights; linear layers); weight decay and momentum: Kunin, Sagastuy-Brena, Ganguli, Yamins &
Tanaka 2021, arXiv 2012.04728. The integral and the factors of momentum are derived in the oracle.

Departure: the papers bound the drift or follow it in trained networks; here its order in η and its constant are
measured, on three square layers and Gaussian regression. With momentum the drift is of first order in η as well, only
larger. What is not positively homogeneous (tanh), and for ReLU what lies off the diagonal, is kept at no step size.
Learning rates are the time that a step takes, which for momentum is the rate handed to the optimiser over 1 − β, and
for AdaGrad the square of that rate: its accumulator grows as 1/η, so that at a rate η it would stand still as η → 0,
while at √η, and from an empty accumulator, it follows a flow of its own, dθ/dt = −g/√(∫g²dt). The time is 4.
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
from research.labels import lift, select, table
from research.optimizers import until
from research.oracles.balancedness import balance_drift, drift_factor
from research.statistics import NOTHING, every_seed, slope

Optimizer = Literal["gradient_descent", "nesterov", "adam", "adagrad", "sign_descent"]
HORIZON = 4.0
MATRIX = ("hidden", "row", "column")


class Observables(NamedTuple):
    balance: Float[Array, "hidden row column"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample output"]
    initial: Float[Array, "layer row column"]


def simulate(
    key: Array,
    learning_rate: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    negative_slope: float = 1.0,
    tanh: float = 0.0,
    *,
    optimizer: Optimizer = "gradient_descent",
    size: int = 5,
    depth: int = 3,
    samples: int = 20,
    steps: int = 2048,
) -> Run:
    """One descent on half the mean squared error + weight_decay/2 Σ‖W_l‖² of a network of square layers.

    The activation is (1 − tanh)·leaky ReLU + tanh·tanh: linear for `negative_slope` 1 and `tanh` 0, a ReLU for both 0.
    `learning_rate` is the time that a step takes (AdaGrad is handed its root); at HORIZON it falls to zero.
    """
    data_key, init_key = jax.random.split(key)
    draw = jax.random.normal(data_key, (samples + size, size))
    X = draw[:samples] / 2
    y = X @ draw[samples:].T / size**0.5
    initial = jax.random.normal(init_key, (depth, size, size)) / size**0.5
    leaky = lambda sums: jnp.where(sums > 0, sums, negative_slope * sums)
    activation = lambda sums: (1 - tanh) * leaky(sums) + tanh * jnp.tanh(sums)

    def loss(layers: Array) -> Array:
        outputs = X
        for number in range(depth):
            outputs = outputs @ layers[number].T
            outputs = activation(outputs) if number < depth - 1 else outputs
        return jnp.sum((outputs - y) ** 2) / (2 * samples)

    left = until(HORIZON, learning_rate)
    rate = lambda count: (1 - momentum) * left(count)
    chain = {
        "gradient_descent": lambda: optax.sgd(rate, momentum=momentum),
        "nesterov": lambda: optax.sgd(rate, momentum=momentum, nesterov=True),
        "adam": lambda: optax.adam(rate),
        "adagrad": lambda: optax.adagrad(lambda count: left(count) / jnp.sqrt(learning_rate), 0.0),
        "sign_descent": lambda: optax.sign_sgd(rate),
    }[optimizer]()
    decaying = optax.chain(optax.add_decayed_weights(weight_decay), chain)

    def observe(state: tuple) -> Observables:
        W = state[0]
        return Observables(jnp.swapaxes(W[1:], 1, 2) @ W[1:] - W[:-1] @ jnp.swapaxes(W[:-1], 1, 2))

    return Run(start(initial, decaying), descent(loss, decaying), observe, log_spaced(steps, 24), Given(X, y, initial))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """What the balance should be, how far it is from that, all of it and each neuron's own, and the predicted drift."""
    time = np.minimum(dataset.step * dataset.learning_rate, HORIZON)
    left = np.exp(-2 * dataset.weight_decay * time)
    size = lambda matrices: np.sqrt((matrices**2).sum(MATRIX, min_count=1))
    own = xr.DataArray(np.eye(dataset.sizes["row"]), dims=MATRIX[1:])
    begin = dataset.balance.isel(step=0)
    moved = (dataset.balance - left * begin) / size(begin)
    factor = lift(drift_factor, dataset.momentum) * xr.ones_like(dataset.learning_rate)
    factor = xr.where(dataset.optimizer == "nesterov", lift(drift_factor, dataset.momentum, nesterov=True), factor)
    linear = (dataset.negative_slope == 1) & (dataset.tanh == 0) & (dataset.weight_decay == 0)
    first = lift(balance_drift, dataset.X, dataset.y, dataset.initial, HORIZON).where(linear)
    share = size(dataset.balance) / size(begin)
    return dataset.assign(
        time=time,
        left=left,
        share=share,
        drift=size(moved),
        neuron_drift=size(moved * own),
        off_diagonal=size(moved * (1 - own)),
        factor=factor,
        constant=factor * size(first) / size(begin),
        exponent=-np.log(share.sel(step=dataset.steps)) / (2 * dataset.weight_decay * HORIZON),
    )


KINDS: dict[str, tuple[dict[str, Any], str, bool]] = {  # name: (conditions, variable, whether the law holds there)
    "linear, gradient descent": ({"optimizer": "gradient_descent"}, "drift", True),
    "linear, momentum {momentum:g}": ({"optimizer": "gradient_descent"}, "drift", True),
    "linear, Nesterov {momentum:g}": ({"optimizer": "nesterov"}, "drift", True),
    "linear, weight decay {weight_decay:g}": ({"optimizer": "gradient_descent"}, "drift", True),
    "ReLU, each neuron": ({"optimizer": "gradient_descent", "negative_slope": 0.0}, "neuron_drift", True),
    "ReLU, off the diagonal": ({"optimizer": "gradient_descent", "negative_slope": 0.0}, "off_diagonal", False),
    "tanh, each neuron": ({"optimizer": "gradient_descent", "tanh": 1.0}, "neuron_drift", False),
    "linear, Adam": ({"optimizer": "adam"}, "drift", False),
    "linear, AdaGrad": ({"optimizer": "adagrad"}, "drift", False),
    "linear, sign descent": ({"optimizer": "sign_descent"}, "drift", False),
}


def _kinds(dataset: xr.Dataset) -> list[tuple[str, str, bool, xr.Dataset]]:
    """Each kind of run that there is: name, variable, whether the law holds, and its runs."""
    found = []
    for name, (conditions, variable, holds) in KINDS.items():
        plain: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "negative_slope": 1.0, "tanh": 0.0}
        for varied in ("momentum", "weight_decay"):
            if varied in name:
                plain[varied] = lambda value: value > 0
        runs = select(dataset, **{**plain, **conditions})
        if runs.diverged.size:
            numbers = {each: float(runs[each].max()) for each in ("momentum", "weight_decay")}
            runs = select(runs, **numbers)
            found.append((name.format(**numbers), variable, holds, runs))
    return found


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The order of the drift, its constant, weight decay, and what keeps no balance.

    A drift C η (1 + O(η)) has the slope 1 + O(η), and is judged at the three finest η; one that does not vanish has a
    slope around 0, and is judged at all.
    """
    found: list[Finding] = []
    end = dataset.sel(step=dataset.steps)
    for number, (name, variable, holds, runs) in enumerate(_kinds(end)):
        rates = np.sort(np.atleast_1d(runs.learning_rate.values))[: 3 if holds else None]
        fine = select(runs, learning_rate=lambda rate, most=rates[-1]: rate <= most)
        if rates.size < 2:
            continue
        drift = table(fine, variable, "learning_rate")
        limit = lambda values, r=rates: (r[1] * values[:, 0] - r[0] * values[:, 1]) / (r[1] - r[0])
        if "weight decay" in name:
            power = limit(table(fine, "exponent", "learning_rate").values)
            said = f"{name}: decay rate of the balance over 2λ, extrapolated to η = 0"
            found.append(Finding.of(said, (0.99, 1.01), every_seed(power)))
        elif holds and name.startswith("linear"):
            constant = table(fine, "constant", "learning_rate").values[:, 0]
            ratio = limit(drift.values / drift.learning_rate.values[None, :]) / constant
            factor = float(fine.factor.max())
            said = f"{name}: drift/η over {factor:.3g}·‖∫(G_(l+1)ᵀG_(l+1) − G_l G_lᵀ)dt‖, extrapolated to η = 0"
            found.append(Finding.of(said, (0.98, 1.02), every_seed(ratio)))
        slopes = slope(np.log(drift.learning_rate), np.log(drift))
        band = (0.95, 1.05) if holds or not number else (-np.inf, 0.5)
        found.append(Finding.of(f"{name}: slope of ln(drift of the balance) on ln η", band, every_seed(slopes)))
    if not found:
        missing = "slope of ln(drift of the balance) on ln η: this design has no two learning rates"
        found.append(Finding.of(missing, (0.95, 1.05), NOTHING))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) order of the drift, (b) which optimiser keeps the balance, (c) weight decay, (d) ReLU and tanh."""
    figure, ((orders, bars), (decay, neurons)) = plots.figure(2, 2, "Gradient flow keeps the balance of the layers")
    end = dataset.sel(step=dataset.steps)
    ticks: list[str] = []
    for number, (name, variable, holds, runs) in enumerate(_kinds(end)):
        rates = np.atleast_1d(runs.learning_rate.values)
        drift = table(runs, variable, "learning_rate")
        style = {"color": f"C{number % 7}", "marker": "o", "markersize": 3, "linestyle": "-" if holds else ":"}
        linear = name.startswith("linear")
        if not linear or number == 0:
            plots.seeds(neurons, drift, name, **style)
        if linear and "decay" not in name:
            plots.seeds(orders, drift, name.removeprefix("linear, "), **{**style, "color": f"C{len(ticks)}"})
            bars.bar(len(ticks), float(drift[:, 0].median()), color=f"C{len(ticks)}", alpha=0.5)
            plots.points(bars, xr.DataArray(float(len(ticks))), drift[:, 0], color="0.3")
            if holds:
                line = table(runs, "constant", "learning_rate").median("seed").values * np.sort(rates)
                plots.theory(orders, np.sort(rates), line, None if number else "theory, nothing fitted")
                reach = (len(ticks) - 0.4, len(ticks) + 0.4)
                plots.theory(bars, reach, (line[0], line[0]), None if number else "theory")
            ticks.append(name.removeprefix("linear, ").replace(" ", "\n"))
        if number == 0:
            plots.theory(neurons, np.sort(rates), float(drift[:, 0].median()) / rates.min() * np.sort(rates), "slope 1")
    least = float(np.min(np.atleast_1d(dataset.learning_rate.values)))
    for number, strength in enumerate(np.unique(dataset.weight_decay.values)):
        runs = select(dataset, weight_decay=strength, optimizer="gradient_descent", momentum=0.0, learning_rate=least)
        runs = select(runs, tanh=0.0, negative_slope=1.0)
        if runs.diverged.size and strength:
            runs = runs.squeeze([each for each in runs.diverged.dims if each != "seed"])
            curves = runs.assign_coords(time=runs.time).swap_dims(step="time")
            plots.seeds(decay, curves.share, f"λ = {strength:g}", color=f"C{number}")
            plots.theory(decay, curves.time, curves.left, "e^(−2λt)" if number == 1 else None)
    away = "drift ‖B − e^(−2λt)B0‖ / ‖B0‖ at t = 4"
    orders.set(title="a  linear network: drift against η", xlabel="learning rate η (time a step)", ylabel=away)
    bars.set(title=f"b  at η = {least:.2g}", ylabel=away)
    bars.set_xticks(range(len(ticks)), ticks, fontsize=6.5)
    decay.set(title="c  weight decay: balance left", xlabel="time t", ylabel="‖B(t)‖ / ‖B0‖", yscale="log")
    neurons.set(title="d  other activations", xlabel="learning rate η", ylabel=away)
    for axes in (orders, neurons):
        axes.set(xscale="log", yscale="log", ylim=(1e-7, 3))
        axes.xaxis.set_minor_formatter("")
        plots.legend(axes, loc="lower right", ncols=2, fontsize=6.5)
    bars.set_yscale("log")
    plots.legend(bars, loc="upper left")
    plots.legend(decay)
    return figure


AXES = ("optimizer", "momentum", "weight_decay", "negative_slope", "tanh")
ARMS = [
    ("gradient_descent", 0.0, 0.0, 1.0, 0.0),
    ("gradient_descent", 0.8, 0.0, 1.0, 0.0),
    ("gradient_descent", 0.0, 0.1, 1.0, 0.0),
    ("gradient_descent", 0.0, 0.3, 1.0, 0.0),
    ("gradient_descent", 0.0, 0.0, 0.0, 0.0),
    ("gradient_descent", 0.0, 0.0, 1.0, 1.0),
    ("nesterov", 0.8, 0.0, 1.0, 0.0),
    ("adam", 0.0, 0.0, 1.0, 0.0),
    ("adagrad", 0.0, 0.0, 1.0, 0.0),
    ("sign_descent", 0.0, 0.0, 1.0, 0.0),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS, "learning_rate": 2.0 ** np.arange(-4, -10, -1)},
    smoke={"seeds": 2, AXES: [ARMS[0], ARMS[1], ARMS[3], ARMS[5]], "learning_rate": 2.0 ** np.arange(-7, -10, -1)},
    paper={"seeds": 32, "size": 32, "samples": 256, "learning_rate": 2.0 ** np.arange(-4, -13, -1), "steps": 16384},
    control={"tanh": 1.0},
)
