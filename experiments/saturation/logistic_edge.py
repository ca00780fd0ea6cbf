"""The logistic sigmoid keeps gradients in depth only where it saturates: its edge of chaos, and that of tanh.

Claim: In a wide random network each layer multiplies squared gradients by χ_1 = σ_w² E σ'(√q* z)². As the logistic
σ has mean 1/2, q* is at least σ_w²/4, and without bias χ_1 = 1 is reached at one σ_w = 10.149 only, where q* = 45.62
and φ_B = 0.841: to keep its gradients, the network must be saturated. For tanh the edge is at σ_w = 1 with q* = 0 and
φ_B = 0, and σ - 1/2 = tanh(u/2)/2 is tanh at a quarter of σ_w: it is the mean, not the shape, that forces saturation.
For large σ_w, χ_1 = σ_w/(6√π) · (1 + 1/(√π σ_w) + …). Orthogonal weights have the same edge, and no isometry there:
their Jacobians' squared singular values have variance μ₂/μ₁² − 1 = 3.45 a layer, μ_k = E σ'^(2k), where tanh has nearly
none. A bias of −2 for all units moves the edge to σ_w = 8.742 and φ_B = 0.787 only; that of −½ Σ_j W_ij, a unit's own,
takes away the mean and leaves tanh.

Source: The theory is Schoenholz et al. 2017, arXiv 1611.01232, section 3 (χ_1, edge of chaos); that σ' <= 1/4 makes
gradients vanish is a textbook remark. The numbers for the logistic function are derived here and known from no paper:
σ turns into a step for q* → ∞, so that E σ² = 1/2 - E σ' = 1/2 - 1/√(2πq*) and E σ'² = ∫σ'² du/√(2πq*) = 1/(6√(2πq*)).
Hence q* = σ_w²/2 · (1 - 2/(√π σ_w)) to first order, and χ_1 as above, each up to relative terms of order 1/σ_w².

Departure: One network for all σ_w of a seed, weights N(0, σ_w²/width), no biases; gradients start at random in the last
layer, and `growth` is the mean over the last half of the layers of ratios of squares: in the mean exact at any width,
where the mean logarithm is not. Networks of an odd activation start at q = `first_variance`, as at their edge the
variance falls only like 1/(2 layer); theory follows it layer by layer. Orthogonal networks are of 20 layers of 200.

Bands: A ratio is Σ φ'(h_i)² g_i² with Gaussian g, of relative variance (3 E φ'⁴/(E φ'²)² - 1)/width. ∫σ'⁴ du = 1/140
makes this (3 · 36/140 · √(2πq) - 1)/width for large q, with a factor e^(b²/2q) for a bias b. Bands are five standard
errors of the mean over the layers looked at and over seeds: three for chance, and two for the interval, which has to
lie inside. Theory's own slopes turn relative errors of growth into those of σ_w (about equal ones, as χ_1 ∝ σ_w), and
these into errors of φ_B, to which come as many standard errors of a mean over units of numbers in [0, 1],
√(φ_B(1 - φ_B)/width). Growth at the smallest σ_w and the variance of singular values have errors derived at
`bound_error` and `orthogonal_spread`. Biases −½ Σ_j W_ij make the centred network by arithmetic: its edge is judged.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from experiments.saturation._logistic_edge import (
    OUTER,
    Edge,
    at_edge,
    bound_error,
    edge_at,
    error,
    layers_seen,
    orthogonal_spread,
    prediction,
)
from research import plots
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select, table
from research.models import orthogonal_factor
from research.observables.saturation import mean_saturation
from research.statistics import over_seeds

# φ(u) = mean + steepness · tanh(steepness · u)
FUNCTIONS = {
    "logistic": {"mean": 0.5, "steepness": 0.5},
    "centred logistic": {"mean": 0.0, "steepness": 0.5},
    "tanh": {"mean": 0.0, "steepness": 1.0},
}
EDGES = {"tanh": 1.0, "centred logistic": 4.0}  # 1/φ'(0), for the odd ones
ERRORS = 5.0  # standard errors
CENTRED = "logistic, biases −½ Σ_j W_ij"
SPAN = 4  # layers of which the Jacobian is taken


class Measures(NamedTuple):
    growth: Float[Array, ""]
    saturation: Float[Array, ""]
    outside: Float[Array, ""]


class Orthogonal(NamedTuple):
    growth: Float[Array, ""]
    saturation: Float[Array, ""]
    outside: Float[Array, ""]
    spread: Float[Array, ""]


def simulate(
    key: Array,
    weight_scale: float,
    first_variance: float,
    mean: float = 0.5,
    steepness: float = 0.5,
    shift: float = 0.0,
    centring: float = 0.0,
    *,
    initialization: Literal["gaussian", "uniform", "orthogonal"] = "gaussian",
    width: int = 300,
    depth: int = 30,
    inputs: int = 4,
) -> Measures | Orthogonal:
    """A random network of mean + steepness·tanh(steepness·u), looked at in the last half of its layers.

    All units have the bias `shift`, and with `centring` 1 also −mean times the sum of their incoming weights.
    Saturation and the share outside are those of the last layer. "uniform" draws W between ±weight_scale/√width, the
    libraries' old default: a third of that variance. `spread`, of orthogonal weights, is the variance of the squared
    singular values of the last four layers' Jacobian over the square of their mean, at one input.
    """
    input_key, weight_key, gradient_key = jax.random.split(key, 3)
    function = lambda u: mean + steepness * jnp.tanh(steepness * (u + shift))
    drawn = {
        "gaussian": lambda key: jax.random.normal(key, (width, width)) / width**0.5,
        "uniform": lambda key: jax.random.uniform(key, (width, width), minval=-1.0) / width**0.5,
        "orthogonal": lambda key: orthogonal_factor(jax.random.normal(key, (width, width))),
    }[initialization]
    keys = jax.random.split(weight_key, depth - 1)
    weights = lambda key: drawn(key) * weight_scale  # all layers' would fill the memory
    first = jax.random.normal(input_key, (inputs, width)) * first_variance**0.5

    def forward(sums: Array, layer_key: Array) -> tuple[Array, Array]:
        W = weights(layer_key)
        return function(sums) @ W - centring * mean * jnp.sum(W, axis=0, keepdims=True), sums

    def backward(gradient: Array, layer: tuple[Array, Array]) -> tuple[Array, Array]:
        sums, layer_key = layer
        (below,) = jax.vjp(function, sums)[1](gradient @ weights(layer_key).T)
        size = jnp.linalg.norm(below, axis=1, keepdims=True)
        return below / size, jnp.mean(size**2)

    last, sums = jax.lax.scan(forward, first, keys)
    top = jax.random.normal(gradient_key, (inputs, width))
    top /= jnp.linalg.norm(top, axis=1, keepdims=True)
    _, ratios = jax.lax.scan(backward, top, (sums[depth // 2 :], keys[depth // 2 :]), reverse=True)
    received = last + shift
    saturation = mean_saturation(jnp.tanh(steepness * received), -1.0, 1.0)
    outside = jnp.mean(jnp.abs(received) > OUTER, dtype=last.dtype)
    seen = jnp.mean(ratios), saturation, outside
    if initialization != "orthogonal":
        return Measures(*seen)
    slopes = jax.jvp(function, (sums[-SPAN:, 0],), (jnp.ones_like(sums[-SPAN:, 0]),))[1]
    through = lambda jacobian, layer: ((jacobian @ weights(layer[1]).T) * layer[0][None, :], None)
    jacobian, _ = jax.lax.scan(through, jnp.eye(width), (slopes, keys[-SPAN:]), reverse=True)
    squares = jacobian @ jacobian.T
    return Orthogonal(*seen, width * jnp.sum(squares**2) / jnp.trace(squares) ** 2 - 1)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Growth and saturation as theory has them in every cell, and the edge of chaos of the logistic function."""
    parameters = [dataset[name] for name in (*GIVEN, "depth")]
    return dataset.assign(lift(prediction, *parameters)).assign(lift(edge_at, dataset["shift"]))


def arm(dataset: xr.Dataset, function: str, *, orthogonal: bool = False, **biases: float) -> xr.Dataset:
    """The runs of that function, by default without biases and not of orthogonal weights."""
    weights = lambda name: (name == "orthogonal") == orthogonal
    return select(dataset, **FUNCTIONS[function], **{"shift": 0.0, "centring": 0.0, **biases}, initialization=weights)


def _edge(runs: xr.Dataset, name: str) -> list[tuple]:
    """Where gradients keep their size, over theory's place, and what is seen there."""
    told = {field: float(runs[field].max(skipna=False)) for field in Edge._fields}
    edge, q, units = told["edge"], told["edge_variance"], int(runs.width.min()) * runs.sizes["seed"]
    allowed = ERRORS * error(runs, q) / told["growth_slope"]
    what = f"{name}: σ_w at which gradients keep their size, over σ_w = {edge:.3f} (q* = {q:.2f})"
    rows: list[tuple] = [(what, (1 - allowed, 1 + allowed), at_edge(runs, "weight_scale") / edge)]
    for variable, what in (("saturation", "φ_B"), ("outside", "share of units beyond [0.05, 0.95]")):
        mean = told[f"edge_{variable}"]
        spread = allowed * told[f"{variable}_slope"] + ERRORS * (mean * (1 - mean) / units) ** 0.5
        rows.append(
            (f"{name}: {what} there (theory {mean:.3f})", (mean - spread, mean + spread), at_edge(runs, variable))
        )
    return rows


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The edge of the logistic function and its saturation there; its slope bound and its law; the odd functions."""
    found: list[tuple] = []
    runs = arm(dataset, "logistic")
    if runs.diverged.size:
        found += _edge(runs, "logistic")
        least, largest = float(runs.weight_scale.min()), float(runs.weight_scale.max())
        low = select(runs, weight_scale=least)
        share = float(low.expected_growth.max(skipna=False)) / (least**2 / 16)
        spread, what = ERRORS * bound_error(low, share), f"{share:.3f} of its bound σ_w²/16"
        growth = per_seed(low.growth / low.expected_growth, "mean")
        found.append((f"logistic: growth at σ_w = {least:g} over theory's, {what}", (1 - spread, 1 + spread), growth))
        ratio = per_seed(select(runs, weight_scale=largest).growth, "mean") / (largest / (6 * np.pi**0.5))
        ends, spread = 1 + 1 / (np.pi**0.5 * largest), ERRORS * error(runs, largest**2 / 2)
        found.append((f"logistic: growth at σ_w = {largest:g} over σ_w/(6√π)", (ends - spread, ends + spread), ratio))
    odd = {name: (arm(dataset, name), place) for name, place in EDGES.items()}
    odd[CENTRED] = arm(dataset, "logistic", centring=1.0), EDGES["centred logistic"]
    for name, (runs, place) in odd.items():
        if runs.diverged.size:
            # linear there: a ratio has relative variance 2/width, and growth is (σ_w φ'(0))²
            units = int(runs.width.min()) * layers_seen(runs) * runs.sizes["seed"]
            allowed = ERRORS * (2 / units) ** 0.5 / 2
            what = f"{name}: σ_w at which gradients keep their size, over {place:g}"
            found.append((what, (1 - allowed, 1 + allowed), at_edge(runs, "weight_scale") / place))
            there = select(runs, weight_scale=place)
            if there.diverged.size:
                found.append((f"{name}: φ_B at σ_w = {place:g}", (0.0, 0.01), per_seed(there.saturation, "mean")))
    return [Finding.of(statement, band, over_seeds(values)) for statement, band, values in found + _remedies(dataset)]


def _remedies(dataset: xr.Dataset) -> list[tuple]:
    """What orthogonal weights and biases do to the edge of the logistic function."""
    found: list[tuple] = []
    runs, tanh = (arm(dataset, name, orthogonal=True) for name in ("logistic", "tanh"))
    if runs.diverged.size:
        found += _edge(runs, "logistic, orthogonal weights")[:2]
        scales = np.unique(runs.weight_scale.values)
        scale = float(scales[np.argmin(abs(np.log(scales / float(runs.edge.max()))))])
        there = select(runs, weight_scale=scale)
        law = orthogonal_spread(scale, float(there.width.max()), SPAN)
        allowed = ERRORS * law.deviation / there.sizes["seed"] ** 0.5
        what = f"logistic, orthogonal weights, σ_w = {scale:g}: variance of squared singular values of {SPAN} layers"
        what += f" (theory {law.expected:.1f}, isometry 0)"
        found.append((what, (law.expected - allowed, law.expected + allowed), per_seed(there.spread, "mean")))
    if tanh.diverged.size:
        found.append(("tanh, orthogonal weights, σ_w = 1: the same variance", (0.0, 0.01), per_seed(tanh.spread)))
    for shift in np.unique(dataset["shift"].values):
        runs = arm(dataset, "logistic", shift=shift)
        if shift and runs.diverged.size:
            found += _edge(runs, f"logistic, bias {shift:g}".replace("-", "−"))[:2]
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Growth of gradients against σ_w, saturation against σ_w, and the one against the other."""
    figure, axes = plots.figure(1, 3, "To keep its gradients, a logistic network must saturate")
    growth, saturated, traded = axes[0]
    for number, (name, (function, others)) in enumerate(ARMS.items()):
        runs = arm(dataset, function, **others)
        if not runs.diverged.size:
            continue
        seen = {each: table(runs, each, "weight_scale") for each in ("growth", "saturation")}
        theory = {each: table(runs, f"expected_{each}", "weight_scale")[0] for each in seen}
        label, scales = "theory" if not number else None, theory["growth"].weight_scale
        for panel, each in ((growth, "growth"), (saturated, "saturation")):
            plots.seeds(panel, seen[each], name, color=f"C{number}", marker="o", ms=3)
            plots.theory(panel, scales, theory[each], label)
        plots.points(traded, seen["growth"], seen["saturation"], name, color=f"C{number}")
        plots.theory(traded, theory["growth"], theory["saturation"], label)
    edge, _, phi, *_ = edge_at(0.0)
    far = np.array([2.0, float(dataset.weight_scale.max())])
    plots.theory(growth, far, far / (6 * np.pi**0.5), "σ_w/(6√π)", linestyle=":")
    growth.axhline(1.0, color="black", linewidth=0.8)
    traded.axvline(1.0, color="black", linewidth=0.8)
    growth.plot([edge], [1.0], "k*", ms=10, zorder=6, label=f"logistic edge, σ_w = {edge:.2f}")
    saturated.plot([edge], [phi], "k*", ms=10, zorder=6, label=f"φ_B = {phi:.3f} there")
    traded.plot([1.0], [phi], "k*", ms=10, zorder=6, label="gradients kept: logistic")
    growth.set(title="gradients", xlabel="weight scale σ_w", ylabel="growth of squared gradients a layer")
    saturated.set(title="saturation", xlabel="weight scale σ_w", ylabel="φ_B of the last layer", ylim=(-0.05, 1.05))
    traded.set(title="the price", xlabel="growth of squared gradients a layer", ylabel="φ_B of the last layer")
    growth.set(xscale="log", yscale="log")
    saturated.set(xscale="log")
    for each in (growth, saturated):
        each.set_xlim(right=25 * each.get_xlim()[1])  # room for the legend
    traded.set(xscale="log", ylim=(-0.05, 1.05))
    for each in axes[0]:
        plots.legend(each)
    return figure


GIVEN = ("weight_scale", "first_variance", "mean", "steepness", "shift", "centring")
NAMES = ("mean", "steepness", "weight_scale", "first_variance", "shift", "centring", "initialization", "width", "depth")
LOGISTIC = (1.0, 2.0, 4.0, 6.0, 8.0, 9.5, 11.0, 13.0, 16.0, 20.0, 32.0)
ODD = (0.5, 0.8, 1.0, 1.25, 2.0)
BIAS, NEAR = -2.0, (8.0, 10.0, 12.5)
ARMS: dict[str, tuple[str, dict]] = {
    **{name: (name, {}) for name in FUNCTIONS},
    "logistic, orthogonal weights": ("logistic", {"orthogonal": True}),
    "logistic, bias −2": ("logistic", {"shift": BIAS}),
}


def grid(logistic: tuple, odd: tuple, *network: Any) -> list[tuple]:
    """Rows of the design: the plain logistic function, and the odd ones about their edges."""
    plain = (0.0, 0.0, "gaussian", *network)
    rows = [(0.5, 0.5, scale, 1.0, *plain) for scale in logistic]
    return rows + [(*FUNCTIONS[name].values(), x * edge, 1e-6, *plain) for name, edge in EDGES.items() for x in odd]


def remedies(*network: Any) -> list[tuple]:
    """Rows of the design: a bias for all units, biases that centre, and orthogonal weights."""
    return [
        *((0.5, 0.5, scale, 1.0, BIAS, 0.0, "gaussian", *network) for scale in NEAR),
        *((0.5, 0.5, scale * EDGES["centred logistic"], 1e-6, 0.0, 1.0, "gaussian", *network) for scale in ODD[1:4]),
        *((0.5, 0.5, scale, 1.0, 0.0, 0.0, "orthogonal", 200, 20) for scale in NEAR),
        (0.0, 1.0, 1.0, 1e-6, 0.0, 0.0, "orthogonal", 200, 20),
    ]


SMALL = ((1.0, 8.0, 12.0, 20.0, 32.0), (0.8, 1.0, 1.25), 150, 20)
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, NAMES: grid(LOGISTIC, ODD, 300, 30) + remedies(300, 30)},
    smoke={"seeds": 3, NAMES: grid(*SMALL)},
    paper={"seeds": 10, NAMES: grid((*LOGISTIC, 64.0), ODD, 1000, 30) + remedies(1000, 30)},
    control={"initialization": "uniform"},
)
