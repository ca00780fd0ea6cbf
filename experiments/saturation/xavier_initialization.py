"""How Xavier initialisation sizes activations, gradients and Jacobians, and where its 0.8 and 0.5 come from.

Claim: With the standard weights, uniform between ±1/√n, n·Var W = 1/3: the variance of back-propagated gradients falls
by 1/3 a layer where units are linear, while that of weight gradients is the same in every layer. The normalised ones,
±√6/√(n_j + n_(j+1)), have n·Var W = 1 and keep both. The mean singular value of the Jacobian of a layer, measured as
about 0.8 normalised and 0.5 standard, equals the ratio of volumes and that of activation variances from one layer to
the next.

Source: Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", AISTATS,
equations 5, 6 and 14 to 16, section 4.2.1, figures 6 to 8.

Departure: Gaussian inputs in place of Shapeset images, of variance 1 or 1/4; every layer is square; the gradients start
as noise of variance 1 at the last hidden layer, drawn for each sample, in place of a softmax. Theory takes the slopes
into account that the paper sets to 1: the variance of the recursion, gain·E φ'² for gradients, and for singular values
the free product of `research.oracles.layer_jacobian`. For slopes near 1 the mean is 8/(3π)·√(n Var W), 0.849 and
0.490: there the measured numbers are the quarter circle's. The three quantities that the paper equates are three
different ones.

Bands: n·S squares of variance 2 to 5 (S samples, as many for tanh as for the sharper ReLU) put 4.5 standard errors on a
root mean square, and the common weights of all samples O(1/n). The mean singular value of a square matrix is low by
0.137/n and fluctuates by O(1/n), for both of which 3/n is allowed; that of one input's Jacobian has n slopes besides,
whose mean square has a relative variance of v/n, v = Var φ'²/(E φ'²)². A mean square of l layers before has one of 2/n,
which moves that of the slopes by v/n each at most (the part of Var φ'² along z² - 1). What the paper gives to one digit
is asked for to that digit.
"""

from itertools import product
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float
from scipy.stats import norm

from research import plots
from research.experiment import Experiment, Finding
from research.labels import averaged, largest, lift, per_seed, select
from research.oracles.layer_jacobian import layer_jacobian
from research.oracles.mean_field import variance_path
from research.statistics import every_seed, over_seeds

FUNCTIONS = {"linear": lambda u: u, "tanh": jnp.tanh, "softsign": jax.nn.soft_sign}
STANDARD, NORMALISED = 1 / 3, 1.0
NAMED = {STANDARD: ("standard", 0.5), NORMALISED: ("normalised", 0.8)}  # and the paper's mean singular value
ERRORS, SHOWN, BINS = 4.5, 30, 61  # standard errors; samples and bins of the histograms


class Observables(NamedTuple):
    output: Float[Array, "layer"]
    gradient: Float[Array, "layer"]
    weight_gradient: Float[Array, "layer"]
    singular_mean: Float[Array, "layer"]
    singular_geometric_mean: Float[Array, "layer"]
    output_density: Float[Array, "layer bin"]
    gradient_density: Float[Array, "layer bin"]


def simulate(
    key: Array,
    gain: float,
    input_variance: float,
    *,
    activation: Literal["linear", "tanh", "softsign"] = "tanh",
    width: int = 200,
    depth: int = 5,
    samples: int = 200,
    bound: Literal["variance", "deviation"] = "variance",
) -> Observables:
    """Samples through `depth` random layers and noise back: root mean squares, and each layer's singular values.

    Weights are uniform, n·Var W = `gain`: 1/3 standard, 1 normalised. With `bound` "deviation" they lie between
    ±√(gain/n) instead, whose variance is a third of that. Weight gradients are those of one sample.
    """
    if depth < 2:
        raise ValueError(f"depth is {depth}; it takes at least 2 layers, a last one and one to compare with it")
    # The whole is one draw, which compiles faster than three; erf(z/√2) is uniform between ±1.
    drawn = jax.random.normal(key, (depth * width + 2 * samples, width))
    reach = jnp.sqrt(gain * (3.0 if bound == "variance" else 1.0) / width)
    weights = reach * jax.lax.erf(drawn[2 * samples :] / 2**0.5).reshape(depth, width, width)
    inputs, noise = jnp.sqrt(input_variance) * drawn[:samples], drawn[samples : 2 * samples]
    function = FUNCTIONS[activation]

    def network(nudges: Array) -> tuple[Array, Any]:
        """The last layer's pre-activations; of every layer what it is given, slopes at one input, and outputs."""

        def layer(outputs: Array, given: tuple) -> tuple[Array, Any]:
            nudge, W = given
            sums = outputs @ W + nudge
            after, slopes = jax.jvp(function, (sums,), (jnp.ones_like(sums),))
            return after, (sums, outputs, slopes[0], after)

        _, (sums, *seen) = jax.lax.scan(layer, inputs, (nudges, weights))
        return sums[-1], seen

    _, pull, (before, slopes, after) = jax.vjp(network, jnp.zeros((depth, *noise.shape)), has_aux=True)
    (gradients,) = pull(noise)
    singular = jnp.linalg.svd(weights * slopes[:, None, :], compute_uv=False)
    mean_square = lambda values: jnp.mean(values**2, axis=(1, 2))
    by_sample = jnp.mean(before**2, axis=2) * jnp.mean(gradients**2, axis=2)
    least = jnp.finfo(singular.dtype).tiny
    return Observables(
        jnp.sqrt(mean_square(after)),
        jnp.sqrt(mean_square(gradients)),
        jnp.sqrt(jnp.mean(by_sample, axis=1)),
        jnp.mean(singular, axis=1),
        jnp.exp(jnp.mean(jnp.log(jnp.maximum(singular, least)), axis=1)),
        _densities(after[:, :SHOWN], 1.0),
        _densities(gradients[:, :SHOWN], 3.0),
    )


def _densities(values: Array, reach: float) -> Array:
    """The share of each layer's values in each of the equal bins between ± reach, over their width."""
    edges = jnp.linspace(-reach, reach, BINS + 1)
    count = lambda layer: jnp.histogram(layer, bins=edges)[0] / layer.size
    return jax.vmap(count)(values).astype(values.dtype) * (BINS / (2 * reach))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Theory's sizes and singular values layer by layer, and how far the measured ones are from them."""
    depth, gain = dataset.sizes["layer"], dataset.gain
    dataset = dataset.assign_coords(layer=np.arange(1, depth + 1))
    path = lift(
        variance_path, dataset.activation, gain, 0.0, gain * dataset.input_variance, layers=depth + 1
    ).assign_coords(layer=np.arange(1, depth + 2))
    q = path.sel(layer=dataset.layer)
    # E φ² of a layer is the next one's variance over the gain.
    output = (path.shift(layer=-1).sel(layer=dataset.layer) / gain) ** 0.5
    jacobian = lift(layer_jacobian, dataset.activation, gain, q)
    # Down from the last pre-activations a gradient passes the slopes of layers l to depth − 1, and the weights between.
    falls = np.log(jacobian.root_mean_square).where(dataset.layer < depth, 0.0)
    gradient = np.exp(falls.sum("layer", skipna=False) - falls.cumsum("layer", skipna=False) + falls)
    given = xr.where(dataset.layer == 1, dataset.input_variance**0.5, output.shift(layer=1))
    farthest = lambda measured, theory: abs(measured / theory - 1).max("layer", skipna=False)
    allowed = ERRORS / 2 * (jacobian.slope_variance * (1 + dataset.layer) / dataset.width) ** 0.5 + 3 / dataset.width
    factors = (dataset.gradient / dataset.gradient.shift(layer=-1)).isel(layer=slice(None, -1))
    return dataset.assign(
        expected_output=output,
        expected_gradient=gradient,
        expected_weight_gradient=given * gradient,
        expected_mean=jacobian["mean"],
        expected_geometric_mean=jacobian.geometric_mean,
        variance=q,
        factor_off=farthest(factors, jacobian.root_mean_square.isel(layer=slice(None, -1))),
        output_off=farthest(dataset.output, output),
        mean_excess=(abs(dataset.singular_mean / jacobian["mean"] - 1) / allowed).max("layer", skipna=False),
        weight_ratio=(dataset.weight_gradient.isel(layer=-1) / dataset.weight_gradient.isel(layer=0)) ** 2,
        fall=dataset.gradient.isel(layer=0) / dataset.gradient.isel(layer=-1),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Gradients, outputs and singular values against theory; then what the paper says of linear units and of tanh."""
    allowed = allowance(dataset)
    rows: list[tuple] = [
        ("back-propagated gradients, layer over next layer, over √(gain·E φ'²)", allowed, dataset.factor_off),
        ("outputs over the recursion's", allowed, dataset.output_off),
        ("mean singular value over the free product's, in units of what is allowed", 1.0, dataset.mean_excess),
    ]
    found = [
        Finding.of(f"{what}: distance to 1, largest of layers and networks", (0.0, most), every_seed(per_seed(off)))
        for what, most, off in rows
    ]
    for gain, (name, told) in NAMED.items():
        runs = select(dataset, gain=gain)
        linear = largest(select(runs, activation="linear"), "width")
        if linear.diverged.size:
            found += _of_linear_units(linear, name, gain, told)
        for variance in np.unique(runs.input_variance).tolist() if runs.diverged.size else ():
            tanh = largest(select(runs, activation="tanh", input_variance=variance), "width")
            if tanh.diverged.size:
                what = (
                    f"tanh, {name}, inputs of variance {variance:g}: mean singular value, mean of layers, to one digit"
                )
                mean = per_seed(tanh.singular_mean.mean("layer"), "mean")
                found.append(Finding.of(what, (told - 0.05, told + 0.05), every_seed(mean)))
    return found


def allowance(runs: xr.Dataset) -> float:
    """How far a layer's root mean square, over all samples, may be from theory's, relative."""
    width = int(runs.width.min())
    return float(ERRORS / 2 * (5 / (width * int(runs.samples.min()))) ** 0.5 + 3 / width)


def _of_linear_units(runs: xr.Dataset, name: str, gain: float, told: float) -> list[Finding]:
    """The fall of the gradients, the weight gradients, and the three quantities that the paper equates."""
    allowed = allowance(runs) * (runs.sizes["layer"] - 1) ** 0.5  # layers err independently of each other
    fall, circle, digit = gain ** ((runs.sizes["layer"] - 1) / 2), 8 / (3 * np.pi) * gain**0.5, 0.05 / told
    mean, volume = (per_seed(runs[f"singular_{which}mean"].mean("layer"), "mean") for which in ("", "geometric_"))
    rows = [
        (f"gradients, first layer over last, over {fall:.3f}", allowed, per_seed(runs.fall, "mean") / fall),
        ("variance of weight gradients, last layer over first", 2 * allowed, per_seed(runs.weight_ratio, "mean")),
        (f"mean singular value over 8/(3π)·√(n Var W) = {circle:.4f}", 0.01, mean / circle),
        ("mean singular value over the ratio of variances, as the paper equates them", digit, mean / gain),
        ("mean singular value over the ratio of volumes (n-th root), as the paper equates them", digit, mean / volume),
    ]
    return [
        Finding.of(f"linear, {name}: {what}", (1 - most, 1 + most), over_seeds(values)) for what, most, values in rows
    ]


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Figures 6 and 7 of the paper, standard above and normalised below; sizes by layer; mean singular values."""
    figure, axes = plots.figure(2, 3, "Xavier initialisation: what becomes of outputs, gradients and Jacobians")
    first = float(dataset.input_variance.max())
    tanh = largest(select(dataset, activation="tanh", input_variance=first), "width")
    for (outputs, gradients, _), (gain, (name, _)) in zip(axes, NAMED.items(), strict=True):
        runs = select(tanh, gain=gain)
        if runs.diverged.size:
            _histograms(outputs, runs, "output_density", 1.0)
            _histograms(gradients, runs, "gradient_density", 3.0)
        letters = "ab" if gain == STANDARD else "de"
        outputs.set(title=f"{letters[0]}  tanh, {name}: outputs", xlabel="output", ylabel="density", ylim=(0, 5))
        gradients.set(title=f"{letters[1]}  gradients", xlabel="gradient, over that of the last layer", ylim=(0, 1.5))
        gradients.set_ylabel("density")
    (_, _, sizes), (_, _, singular) = axes
    for number, (gain, (name, told)) in enumerate(NAMED.items()):
        for activation, line in (("linear", "-"), ("tanh", "--")):
            runs = largest(select(dataset, activation=activation, gain=gain, input_variance=first), "width")
            if not runs.diverged.size:
                continue
            style = {"color": f"C{number}", "linestyle": line}
            label = f"{activation}, {name}"
            plots.seeds(sizes, averaged(runs.gradient, "seed", "layer"), label, **style)
            weights = averaged(runs.weight_gradient, "seed", "layer")
            plots.seeds(sizes, weights / weights.isel(layer=-1), None, **{**style, "color": f"C{number + 2}"})
            expected = averaged(runs.expected_weight_gradient, "layer")
            for theory in (averaged(runs.expected_gradient, "layer"), expected / expected[-1]):
                plots.theory(sizes, theory.layer, theory, None, linestyle=":", marker=".")
            plots.seeds(singular, averaged(runs.singular_mean, "seed", "layer"), label, **style)
            mean = averaged(runs.expected_mean, "layer")
            plots.theory(singular, mean.layer, mean, None, linestyle=":", marker=".")
        sizes.plot([], [], color=f"C{number + 2}", label=f"weight gradients, {name}")
        singular.axhline(told, color="0.6", linewidth=0.8, label=None if number else "the paper: 0.5, 0.8")
    for each in (sizes, singular):
        plots.theory(each, [], [], "theory", linestyle=":", marker=".")
    ticks = dataset.layer.values
    sizes.set(title="c  gradients, over the last layer's", xlabel="layer", ylabel="root mean square", yscale="log")
    singular.set(title="f  the Jacobian of a layer", xlabel="layer", ylabel="mean singular value", ylim=(0, 1.25))
    for each in axes.flat:
        plots.legend(each, **({"ncols": 2, "loc": "upper right"} if each is singular else {}))
    for each in (sizes, singular):
        each.set_xticks(ticks)
    return figure


def _histograms(axes: plots.Axes, runs: xr.Dataset, density: str, reach: float) -> None:
    """Densities layer by layer and theory's: of tanh(√q z), and of Gaussian gradients times the slopes at √q z."""
    edges = np.linspace(-reach, reach, BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    for number, layer in enumerate(runs.layer.values.tolist()):
        shown = averaged(runs[density], "seed", "layer", "bin").sel(layer=layer, drop=True)
        plots.seeds(axes, shown.assign_coords(bin=middles), f"layer {layer}", color=f"C{number}")
        q = float(runs.variance.sel(layer=layer).mean())
        if density == "output_density":
            theory = norm.pdf(np.arctanh(middles), scale=q**0.5) / (1 - middles**2)
        else:
            slopes = 1 / np.cosh(q**0.5 * nodes) ** 2 if layer < runs.layer.max() else np.ones_like(nodes)
            size = float(runs.expected_gradient.sel(layer=layer).mean()) / (weights @ slopes**2 / weights.sum()) ** 0.5
            theory = norm.pdf(middles[:, None], scale=size * slopes) @ weights / weights.sum()
        plots.theory(axes, middles, theory, None if number else "theory", linestyle=":")


NAMES = ("activation", "width")
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={
        "seeds": 12,
        NAMES: [("linear", 100), ("linear", 300), ("tanh", 300), ("softsign", 300)],
        "gain": list(NAMED),
        "input_variance": [0.25, 1.0],
    },
    smoke={"seeds": 2, NAMES: [("linear", 100), ("tanh", 100)], "input_variance": 1.0},
    paper={"seeds": 20, NAMES: [*product(FUNCTIONS, (100, 300, 1000))], "samples": 300},
    control={"bound": "deviation", "activation": "tanh"},
    precision="float32",
)
