"""Linear convolutional networks seek few frequencies: depth L penalises the l_{2/L} norm of the Fourier coefficients.

Claim: On separable data a linear network whose L layers are circular convolutions of full width turns to a stationary
point of min ‖ŵ‖_{2/L} at margin 1, ŵ the Fourier coefficients of its predictor w: for L = 2 to the maximum margin in
the Fourier l1 norm, whatever the start. Diagonal networks do so in the standard basis, and fully connected ones of two
layers turn to the l2 maximum margin. For L = 2 each frequency that the limit lacks is left behind as a power of the
length, |ŵ_k| ∝ ‖w‖^|ẑ_k|, |ẑ_k| < 1 the dual certificate of the margin problem.

Source: Gunasekar, Lee, Soudry & Srebro 2018, arXiv 1806.00468. The powers are derived here, in
research/oracles/bridge.py.

Departure: Six Gaussian samples of 32 features, on which the maximum margins in l1, l2 and Fourier l1 are apart
(asserted): on data with more samples than features they all but agree. (With eight samples two of eight seeds do not
get there in time.) Fully connected networks turn to the l2 maximum margin at any depth in theory; two layers are run.
The powers make the way long: at L = 2 the limit needs a ‖w‖ beyond what steps of fixed length reach. The steps are
therefore a share c/(t + 20c) of the layers' length (c the learning rate), along the gradient of ln Σ e^(−margin): ‖w‖
grows as t^(cL), and the share, by which direction and margins waver, vanishes. The other sides in the same sweep:
kernels narrower than the data, of which the Fourier l1 norm is not the penalty, and depth 3, where the penalty is not
convex: runs end at stationary points that depend on the start. Both are judged by their own first-order conditions, at
which they arrive. A kernel is full from `features` entries on: with more than 32 features `kernel_width`, 32 unless it
is set as well, is narrow, and is named and judged as such.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Descent, Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import arms, lift, named_by, norm, per_seed, sound
from research.oracles.bridge import bridge_residual, convolution_residual, growth_exponents, maximum_fourier_margin
from research.oracles.margin import maximum_margin
from research.separable import Labelled
from research.statistics import every_seed, slope_within

Network = Literal["convolutional", "diagonal", "fully_connected"]
CONV = "convolutional"
REACHED = 1e-3  # what a cosine may lack of 1
SEPARATED = 0.95  # the largest cosine between two of the rival directions
RESOLVED = 1e-26  # of the largest |ŵ_k|, the square of a hundred times the rounding error of a layer's coefficients
NAMES = {"l2": "l2", "l1": "l1", "fourier": "Fourier l1"}


class Observables(NamedTuple):
    direction: Float[Array, "feature"]
    log_length: Float[Array, ""]
    layers: Float[Array, "layer feature"]


def simulate(
    key: Array,
    kernel_width: float = 32.0,
    learning_rate: float = 64.0,
    init_scale: float = 0.1,
    *,
    network: Network = "convolutional",
    depth: int = 2,
    features: int = 32,
    samples: int = 6,
    steps: int = 10_000,
) -> Run:
    """One descent on ln Σ exp(−margin), in steps t of learning_rate / (t + 20 learning_rate) of the layers' length.

    All entries start as N(0, init_scale²). Convolutions (the last layer apart) end at `kernel_width`; in Fourier space
    the predictor is the product of the layers, each divided by √features but the first. Fully connected hidden layers
    are square; their entries are not recorded.
    """
    data_key, init_key = jax.random.split(key)
    X = jax.random.normal(data_key, (samples, features))  # fewer samples than features: any labels are separable
    X = X / jnp.max(jnp.linalg.norm(X, axis=1))
    y = jnp.where(jnp.arange(samples) % 2 == 0, 1.0, -1.0)
    within = (jnp.arange(features) < kernel_width)[None, :] | (jnp.arange(depth) == depth - 1)[:, None]
    shape = (depth, features, features) if network == "fully_connected" else (depth, features)
    initial = init_scale * jax.random.normal(init_key, shape)
    initial = initial * within if network == CONV else initial

    def predictor(layers: Array) -> Array:
        if network == "fully_connected":
            product = layers[-1, 0]  # the readout is a row
            for number in range(depth - 2, -1, -1):
                product = product @ layers[number]
            return product
        if network == "diagonal":
            return jnp.prod(layers, axis=0)
        coefficients = jnp.prod(jnp.fft.rfft(layers * within), axis=0)
        return jnp.fft.irfft(coefficients, n=features) * features ** ((1 - depth) / 2)

    share = lambda count: learning_rate / (count + 20 * learning_rate)
    chain = optax.chain(optax.scale_by_trust_ratio(), optax.sgd(share))
    loss = lambda layers: jax.nn.logsumexp(-y * (X @ predictor(layers)))
    seen = lambda layers: jnp.zeros(shape[:2]) if network == "fully_connected" else layers

    def observe(state: Descent) -> Observables:
        weights = predictor(state.params)
        unit = weights / jnp.max(jnp.abs(weights))  # lengths reach e^300, of which the square is infinite
        length = jnp.linalg.norm(unit)
        return Observables(unit / length, jnp.log(jnp.max(jnp.abs(weights)) * length), seen(state.params))

    at = log_spaced(steps, 1 + round(8 * np.log10(steps)))
    return Run(start(initial, chain), descent(loss, chain), observe, at, Labelled(X, y))


def spectrum(layers: xr.DataArray) -> xr.DataArray:
    """|ŵ_k| for the frequencies 0 to d/2: a product of layers resolves more of it than their product does."""
    sizes = lambda values: np.abs(np.fft.rfft(values, norm="ortho"))
    each = xr.apply_ufunc(sizes, layers, input_core_dims=[["feature"]], output_core_dims=[["frequency"]])
    return each.prod("layer", min_count=1)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """How far the predictor is from each maximum margin and from stationarity, and the powers of the frequencies."""
    dataset = sound(dataset)
    X, y, weights, network, depth = (dataset[name] for name in ("X", "y", "direction", "network", "depth"))
    t = dataset.step.where(dataset.step > 0)
    unit = lambda vectors: vectors / norm(vectors)
    ends = {"l2": lift(maximum_margin, X, y, order=2), "l1": lift(maximum_margin, X, y, order=1)}
    ends = {name: unit(end) for name, end in (ends | {"fourier": lift(maximum_fourier_margin, X, y)}).items()}
    pairs = (("l2", "l1"), ("l2", "fourier"), ("l1", "fourier"))
    cosines = [xr.dot(ends[one], ends[other], dim="feature") for one, other in pairs]
    apart = xr.concat(cosines, "pair").max("pair") <= SEPARATED
    # half the squared distance of unit vectors is 1 − cosine, without its rounding error
    away = {name: (norm(weights - end) ** 2 / 2).where(apart) for name, end in ends.items()}
    mostly = named_by(network, {CONV: away["fourier"], "diagonal": away["l1"]})
    own = xr.where((depth == 1) | (network == "fully_connected"), away["l2"], mostly.where(depth == 2))
    nearest = xr.concat([each.where(each > own) for each in away.values()], "norm").min("norm")
    fourier = network == CONV
    layers = dataset.layers.where(fourier)
    penalties = {f"bridge_{of}": lift(bridge_residual, X, y, weights, float(of), fourier) for of in (1, 2, 3)}
    equal = xr.where(network == "fully_connected", 1, depth)  # they turn where one layer does
    own_bridge = xr.concat([each.where(equal == of) for of, each in enumerate(penalties.values(), 1)], "of").max("of")
    layers_residual = lift(convolution_residual, X, y, layers, np.minimum(dataset.kernel_width, dataset.features))
    residual = xr.where(fourier, layers_residual, own_bridge)
    sizes, late = spectrum(layers), (t >= dataset.steps / 10) & (t <= dataset.steps)
    sizes = sizes.where(sizes > RESOLVED * sizes.max("frequency"))
    judged = late & (sizes.where(late).count("step") >= 4)
    expected = lift(growth_exponents, X, y).where(fourier & (depth == 2) & (dataset.kernel_width >= dataset.features))
    power = slope_within(dataset.log_length, np.log(sizes), judged).where(expected.notnull())
    log_own = np.log(own.where(own > 0))
    found = penalties | {f"from_{name}": each for name, each in away.items()}
    return dataset.assign(found | {f"end_{name}": end for name, end in ends.items()}).assign(
        own=own,
        falling=slope_within(np.log(t), log_own, late),
        nearness=np.log10(own / nearest),
        residual=residual,
        settling=slope_within(np.log(t), np.log(residual), (t >= dataset.steps / 100) & (t <= dataset.steps)),
        from_depth_2=mostly,
        rival=np.log10(
            residual / xr.where(dataset.kernel_width < dataset.features, penalties["bridge_2"], penalties["bridge_1"])
        ),
        sizes=sizes,
        power=power,
        expected=expected,
        law=slope_within(expected, power, power.notnull(), "frequency"),
    )


def _name(point: dict[str, Any]) -> str:
    """What an arm is called."""
    words = [f"{point['network'].replace('_', ' ')}, depth {point['depth']}"]
    words += [f"kernel {point['kernel_width']:g} of {point['features']}"] * (point["kernel_width"] < point["features"])
    words += [f"learning rate {point['learning_rate']:g}"] * (point["learning_rate"] < 32)
    words += [f"init_scale {point['init_scale']:g}"] * (point["init_scale"] > 0.1)
    return ", ".join(words)


def _narrow(point: dict[str, Any]) -> bool:
    """Whether the Fourier norms are the wrong penalty, since the kernels do not span the data."""
    return point["network"] == CONV and point["depth"] > 1 and point["kernel_width"] < point["features"]


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The direction of each network, the powers of its frequencies, and its own first-order conditions."""
    found: list[Finding] = []
    for number, (point, runs) in enumerate(arms(dataset)):
        end, name, narrow = runs.isel(step=-1), _name(point), _narrow(point)
        least, worst = (lambda values, of=of: every_seed(per_seed(values, of)) for of in ("min", "max"))
        both = lambda values: every_seed(per_seed(values, "min", "max"))
        norms = {1: "l2", 2: "Fourier l1" if point["network"] == CONV else "l1"}
        target = norms.get(1 if point["network"] == "fully_connected" else point["depth"])

        def add(what: str, band: tuple, estimate: Any, outlook: str = "", name: str = name) -> None:
            found.append(Finding.of(f"{name}: {what}", band, estimate, outlook))

        if target and (number == 0 or not narrow):
            slowest = float((point["steps"] * (end.own / REACHED) ** (-1 / runs.falling)).max())
            ahead = bool((runs.falling < 0).all()) and slowest < 100 * point["steps"]  # beyond that it has levelled off
            outlook = f"it falls as a power of t: t = {slowest:.1g} (slowest seed)" if ahead else ""
            add(f"1 − cosine to the maximum {target} margin", (0.0, REACHED), worst(end.own), outlook)
        if target and not narrow:
            add("log10 of that over the least to a rival margin", (-np.inf, 0.0), worst(end.nearness))
        else:
            whose = "that of full width" if narrow else "that of depth 2"
            add(f"1 − cosine to the maximum {norms[2]} margin, {whose}", (REACHED, np.inf), least(end.from_depth_2))
            other = f"depth {2 if narrow else 1}, full width"
            add(f"log10 of its residual over that for {other}", (-np.inf, 0.0), worst(end.rival))
        if runs.expected.notnull().any():
            # A tenth for coefficients of the limit that have not settled: a factor e^6 while ‖w‖ gains e^60.
            what = "slope of the power of ‖w‖ with which a frequency grows that the limit lacks, on |ẑ_k|"
            add(what, (0.9, 1.1), both(runs.law))
        add("slope of ln(stationarity residual) on ln t, last two decades", (-np.inf, 0.0), worst(runs.settling))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Gunasekar's stems for three depths; then the directions, the powers of the frequencies, and stationarity."""
    figure, (stems, (angle, powers, settled)) = plots.figure(2, 3, "Deeper linear convolutions seek fewer frequencies")
    shown: dict[int, xr.Dataset] = {}
    for number, (point, runs) in enumerate(arms(dataset)):
        name, narrow, end = _name(point), _narrow(point), runs.isel(step=-1)
        runs = runs.sel(step=runs.step > 0)
        style = {"color": f"C{number % 7}", "linestyle": "-" if number < 7 else "--"}
        if point["network"] == CONV and not narrow and point["depth"] <= 3:
            shown.setdefault(point["depth"], end)
        if point["depth"] == 3 or narrow:
            plots.seeds(settled, runs.residual, name, **style)
        if number == 0 or point["init_scale"] <= 0.1:
            kind = {"linestyle": ":"} if point["depth"] == 3 or narrow else {}
            label = name if not kind else f"{name}: to that of depth 2" if not narrow else f"{name}: to Fourier l1"
            plots.seeds(angle, runs.from_depth_2 if kind else runs.own, label, **style | kind)
        if runs.expected.notnull().any():
            plots.points(powers, runs.expected, runs.power, name, color=style["color"])
        if number == 0:
            rate = point["learning_rate"]
            plots.theory(settled, runs.step, rate / (runs.step + 20 * rate), "a step's share of the length")
    names = {1: "end_l2", 2: "end_fourier", 3: "end_fourier"}
    titles = {1: "a  L = 1: l2", 2: "b  L = 2: Fourier l1", 3: "c  L = 3: Fourier l2/3"}
    for axes, depth in zip(stems, names, strict=True):
        if depth in shown:
            first = shown[depth].isel(seed=0)
            rows = [np.abs(np.fft.rfft(first[each].values, norm="ortho")) for each in ("direction", names[depth])]
            axes.bar(np.arange(len(rows[0])), rows[0], width=0.35, color=f"C{depth - 1}", label="network, first seed")
            label = {1: "maximum l2 margin", 2: "maximum Fourier l1 margin"}.get(depth, "maximum for L = 2, not 3")
            plots.theory(axes, np.arange(len(rows[1])), rows[1], label, linestyle="none", marker="_", markersize=9)
        axes.set(title=titles[depth], xlabel="frequency k", ylabel="|ŵ_k| / ‖w‖", ylim=(0, None))
    plots.theory(powers, (0, 1), (0, 1), "power = |ẑ_k|")
    plots.theory(angle, angle.get_xlim(), (REACHED, REACHED), "tolerance")
    angle.set(title="d  direction", ylabel="1 − cosine to its maximum margin", ylim=(1e-8, None))
    powers.set(title="e  what the limit lacks falls behind (L = 2)", xlabel="|ẑ_k|, of the dual certificate")
    powers.set_ylabel("measured: d ln|ŵ_k| / d ln‖w‖")
    settled.set(title="f  own first-order conditions", ylabel="stationarity residual", ylim=(1e-4, 2))
    for axes in (angle, settled):
        axes.set(xscale="log", yscale="log", xlabel="step t")
    for axes in (*stems, angle, powers, settled):
        plots.legend(axes, **({"fontsize": 5.5, "loc": "lower left"} if axes is angle else {}))
    return figure


AXES = ("network", "depth", "kernel_width", "learning_rate", "init_scale")
ARMS = [
    (CONV, 2, 32.0, 64.0, 0.1),
    (CONV, 2, 32.0, 16.0, 0.1),
    (CONV, 2, 32.0, 64.0, 1.0),
    (CONV, 2, 4.0, 64.0, 0.1),
    (CONV, 1, 32.0, 64.0, 0.1),
    (CONV, 3, 32.0, 32.0, 0.1),
    (CONV, 3, 32.0, 32.0, 1.0),
    ("diagonal", 2, 32.0, 64.0, 0.1),
    ("diagonal", 3, 32.0, 32.0, 0.1),
    ("fully_connected", 2, 32.0, 64.0, 0.1),
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, AXES: [*ARMS[:2], ARMS[3]]},
    paper={"seeds": 64, AXES: ARMS, "steps": 100_000},
    control={"kernel_width": 4.0},
)
