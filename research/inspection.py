"""A report on any Flax model: how saturated, dead or dormant its layers are, and whether it should be so.

`research.saturation_report(model, params, inputs)` takes a Flax (linen) model as it is. It finds the layers (submodules
with a kernel) and the activation behind each by following what the model computes, and sets what is measured beside
what the mean field of wide random networks says for weights and biases of such variances.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import linen
from matplotlib.figure import Figure

from research import plots
from research.diagnosis import (
    PERCENTILES,
    TAU,
    Measured,
    Predicted,
    bias_variance,
    measured,
    predicted,
    weight_variance,
)
from research.layers import Model
from research.observables.gradients import gradient_norms

MANY, SATURATED, OFF, RANGE = 0.2, 0.75, 2.0, 1e3  # where `remarks` begins: share dead, of flat slopes, q, gradients


def saturation_report(
    model: linen.Module,
    params: Mapping[str, Any],
    inputs: Any,
    *,
    loss: Callable[[Any], Any] | None = None,
    activations: Mapping[str, Any] | None = None,
    threshold: float = 0.05,
    figure: str | Path | None = None,
    show: bool = True,
    **options: Any,
) -> xr.Dataset:
    """Return what each layer of a Flax model does on a batch of inputs, print it as a table, and draw it into a file.

    `params` is the tree of parameters or all variables ({"params": …, "batch_stats": …}); `options` go to
    `model.apply`: rngs, method, train=False. `show=False` prints nothing; a `figure` is drawn where a path is given.
    `activations` says for layers, by name, which activation follows their output (a name of `research.oracles.
    activations`, an `Activation`, or a function of JAX), instead of what the report finds by itself.

    Dimension `layer`, in the order of calls. Positions of a convolution count as samples, its channels as units:

    - `function`, `units`, `fan_in`; `weight_variance` fan_in·Var W (σ_w²), `bias_variance` mean b² (σ_b²)
    - `variance` q, the mean square of what enters the activation; `variance_theory` σ_w²·E x² + σ_b², E x² being
      E φ(√q z)² at the predicted q of the layer before, where its activations are all the inputs, else the measured
      mean square of the inputs; less by what connections into padding miss, which takes inputs to be alike everywhere.
      It holds for random weights independent of the inputs; NaN where something stands between layer and activation
      (batch normalisation, a skip connection).
    - `saturation` φ_B in the limit of many bins, mean |g'|, for bounded activations, and `saturation_theory`, E |g'|
    - `saturated`: share of slopes |φ'| at most `threshold` times the steepest, for leaky ReLUs of those that are 0;
      `dead`: share of units all of whose slopes are; `dormant` by `tau`: share of units τ-dormant (Sokar et al. 2023)
    - `mean`, `deviation`, `percentiles` and `effective_rank` of the activations
    - `gradient`: norm of the gradient by the layer's output, of `loss(output)`, by default of a random projection of
      the model's output onto a vector of length 1; `gradient_theory`: from that of the next layer, times the root of
      `chi`, its σ_w² times E φ'(√q z)². NaN where the next layer's inputs are not just this layer's activations.
    - `remarks`: what stands out, by thresholds in this file; empty is no certificate of health.

    A layer is a submodule with a parameter `kernel`; a model's own matrices and embeddings are none. Of a sum of layers
    the one called last gets the activation. Outputs that are split (gates), concatenated, or averaged over positions
    first count as going into none, and so do those of a PReLU with a slope for each channel.

    Whatever is not finite makes its layer NaN throughout; a parameter, other variable, output or loss that is not
    makes all gradients NaN, and is named in the remarks. Raises ValueError that names the argument for a bad one.
    """
    variables = _checked(model, params, inputs, threshold, loss, activations)
    whole = Model(model, variables, jnp.asarray(inputs), options)
    layers = whole.layers(activations or {})
    gradient, broken = _gradients(whole, loss)
    seen = [measured(layer, threshold) for layer in layers]
    gradient = [slope if np.isfinite(each.variance) else np.nan for slope, each in zip(gradient, seen, strict=True)]
    theory = predicted(layers, gradient)
    columns: dict[str, Any] = {name: [getattr(each, name) for each in seen] for name in Measured._fields}
    columns |= {f"{name}_theory": [getattr(each, name) for each in theory] for name in Predicted._fields}
    columns |= {
        "chi": columns.pop("chi_theory"),
        "gradient": gradient,
        "function": [layer.function for layer in layers],
        "units": [layer.units for layer in layers],
        "fan_in": [layer.fan_in for layer in layers],
        "weight_variance": [weight_variance(layer) for layer in layers],
        "bias_variance": [bias_variance(layer) for layer in layers],
    }
    wide = {"dormant": ("layer", "tau"), "percentiles": ("layer", "percentile")}
    report = xr.Dataset(
        {name: (wide.get(name, "layer"), values) for name, values in columns.items()},
        {"layer": [layer.name for layer in layers], "tau": list(TAU), "percentile": list(PERCENTILES)},
        {"model": type(model).__name__, "samples": len(inputs), "threshold": threshold},
    )
    known = [["weights are transformed"] * layer.transformed + [broken] * bool(broken) for layer in layers]
    said = [_remarks(report.isel(layer=place), gradient[-1], each) for place, each in enumerate(known)]
    report["remarks"] = "layer", said
    if show:
        print(table(report))
    if figure is not None:
        drawn = draw(report)
        plots.finish(drawn)
        drawn.savefig(figure)
        plots.plt.close(drawn)
    return report


def _checked(model: Any, params: Any, inputs: Any, threshold: Any, loss: Any, activations: Any) -> Mapping[str, Any]:
    """The variables of the model; ValueError for an argument that cannot be worked with."""
    if not isinstance(model, linen.Module):
        raise ValueError(f"model is {model!r:.80}; it takes a flax.linen.Module")
    if not isinstance(params, Mapping) or not jax.tree.leaves(params):
        raise ValueError(f"params is {params!r:.80}; it takes the tree of parameters, or all variables, of the model")
    try:
        numbers = np.asarray(inputs).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"inputs is {inputs!r:.80}; it takes an array") from error
    if numbers.ndim < 2 or not numbers.size:
        raise ValueError(f"inputs has shape {numbers.shape}; it takes a batch of samples along its first dimension")
    if not np.isfinite(numbers).all():
        raise ValueError("inputs has entries that are not finite")
    if not (isinstance(threshold, (int, float)) and 0 <= threshold < 1):
        raise ValueError(f"threshold is {threshold!r}; it takes a number from 0 to less than 1")
    if loss is not None and not callable(loss):
        raise ValueError(f"loss is {loss!r:.80}; it takes a function of the model's output")
    if activations is not None and not isinstance(activations, Mapping):
        raise ValueError(f"activations is {activations!r:.80}; it takes a mapping of layer names to activations")
    whole = isinstance(params.get("params"), Mapping)
    return dict(params) if whole else {"params": params}


def _gradients(whole: Model, loss: Callable[[Any], Any] | None) -> tuple[list[float], str]:
    """The norm of the gradient by each layer's output, and what of the model is not finite, NaN then."""
    projected = lambda output: jnp.asarray(sum(jnp.sum(leaf * part) for leaf, part in _paired(output)))
    try:
        found, output, value = whole.gradients(loss or projected)
    except TypeError as error:
        raise ValueError(f"loss does not map the model's output to a number: {error}") from error
    if broken := _broken(whole.variables, output, value):
        return [np.nan] * len(found), broken
    with jax.enable_x64(True):
        norms = jax.jit(gradient_norms)([jnp.asarray(each) for each in found])
    return [float(norm) for norm in norms], ""


def _broken(variables: Mapping[str, Any], output: Any, loss: Any) -> str:
    """The first of variables, output and loss that is not finite, empty for none."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables)):
        if _infinite(leaf):
            kind, *names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
            return f"{'parameter' if kind == 'params' else kind} {'/'.join(names)} not finite"
    if any(_infinite(leaf) for leaf in jax.tree.leaves(output)):
        return "output not finite"
    return "loss not finite" if _infinite(loss) else ""


def _infinite(leaf: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)) and not bool(jnp.isfinite(leaf).all())


def _paired(output: Any) -> list[tuple[jax.Array, jax.Array]]:
    """The floating arrays of the output, each with its part of a random direction of length 1."""
    leaves = [leaf for leaf in jax.tree.leaves(output) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    keys = jax.random.split(jax.random.key(0), max(len(leaves), 1))
    drawn = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=False)]
    length = jnp.sqrt(sum(jnp.sum(each**2) for each in drawn))
    return [(leaf, (each / length).astype(leaf.dtype)) for leaf, each in zip(leaves, drawn, strict=True)]


def _remarks(layer: xr.Dataset, last: float, known: list[str]) -> str:
    """What stands out in one layer of a report beside what is known; `last` is the gradient of the last layer."""
    if not np.isfinite([layer.variance.item(), layer.weight_variance.item()]).all():
        return "not finite"
    found = [*known, f"{float(layer.dead):.0%} dead"] if layer.dead >= MANY else [*known]
    # By slopes: to a clipped ReLU, silent on half of all samples, φ_B is near 1.
    found += ["saturated"] if np.isfinite(layer.saturation) and layer.saturated >= SATURATED else []
    ratio = float(layer.variance / layer.variance_theory) if layer.variance_theory > 0 else np.nan
    off = max(OFF, 1 + 4.5 * (2 / layer.units.item()) ** 0.5)  # the mean square of so few units may well be off by that
    found += [f"q is {ratio:.2g} × theory"] if ratio > off or ratio < 1 / off else []
    if not np.isfinite(layer.gradient) and not any("not finite" in each for each in known):
        found += ["gradient not finite"]
    found += ["no gradient"] if layer.gradient == 0 else []
    share = float(layer.gradient) / last if last > 0 and layer.gradient != 0 else np.nan
    found += [f"gradient is {share:.1g} × the last"] if share > RANGE or share < 1 / RANGE else []
    return ", ".join(found)


def table(report: xr.Dataset) -> str:
    """Return a report as text: a line for each layer, theory in brackets, – where something is not defined."""
    header = ["layer", "activation", "units", "σ_w²", "σ_b²", "q", "φ_B", "saturated", "dead", "dormant"]
    rows = [[*header, "mean ± sd", "gradient", "remarks"]]
    for place in range(report.sizes["layer"]):
        layer = report.isel(layer=place)
        absent = "NaN" if layer.remarks.item() == "not finite" else "–"
        number = lambda value, absent=absent: f"{value.item():.2g}" if np.isfinite(value) else absent
        share = lambda value, absent=absent: f"{value.item():.0%}" if np.isfinite(value) else absent
        known = lambda value, number=number: f" ({number(value)})" if np.isfinite(value) else ""
        both = lambda name, layer=layer, number=number, known=known: (
            number(layer[name]) + known(layer[f"{name}_theory"])
        )
        rows.append(
            [
                *(str(layer[name].item()) for name in ("layer", "function", "units")),
                *(number(layer[name]) for name in ("weight_variance", "bias_variance")),
                *(both(name) for name in ("variance", "saturation")),
                *(share(value) for value in (layer.saturated, layer.dead, layer.dormant.sel(tau=0.1))),
                f"{number(layer['mean'])} ± {number(layer.deviation)}",
                number(layer.gradient, absent="NaN") + known(layer.gradient_theory),
                layer.remarks.item(),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"{report.attrs['model']} on {report.attrs['samples']} samples (mean field in brackets)", *lines])


def draw(report: xr.Dataset) -> Figure:
    """Return the figure of a report: activations, variance, gradients and idle units by layer, theory in black."""
    figure, axes = plots.figure(2, 2, f"{report.attrs['model']} on {report.attrs['samples']} samples", (5.0, 3.6))
    (spread, variance), (gradient, idle) = axes
    x = np.arange(1, report.sizes["layer"] + 1)
    activated = report["percentiles"].where(report.function != "none")
    low, lower, median, upper, high = activated.transpose("percentile", "layer").values
    spread.fill_between(x, low, high, color="C0", alpha=0.2, label="2nd to 98th percentile")
    spread.fill_between(x, lower, upper, color="C0", alpha=0.4, label="25th to 75th")
    spread.plot(x, median, "o-", color="C0", label="median")
    spread.set(title="a  activations", ylabel="output of the activation")
    for panel, name, title, label in (
        (variance, "variance", "b  what enters the activation", "mean square q"),
        (gradient, "gradient", "c  gradients", "norm of the gradient by the layer's output"),
    ):
        panel.plot(x, report[name], "o-", color="C0", label="measured")
        plots.theory(
            panel, x, report[f"{name}_theory"], "mean field, these σ_w² and σ_b²", marker="s", ms=4, mfc="none"
        )
        panel.set(title=title, ylabel=label)
        if (report[name] > 0).any():
            panel.set_yscale("log")
    shares = {"φ_B": report.saturation, "saturated": report.saturated, "dead": report.dead}
    shares["dormant, τ = 0.1"] = report.dormant.sel(tau=0.1)
    shares = {label: values for label, values in shares.items() if values.notnull().any()}
    for number, (label, values) in enumerate(shares.items()):
        idle.bar(x + (number - (len(shares) - 1) / 2) / 5, values, width=1 / 5, color=f"C{number}", label=label)
    if report.saturation_theory.notnull().any():
        marks = {"linestyle": "none", "marker": "_", "ms": 9, "mew": 2}
        plots.theory(idle, x - (len(shares) - 1) / 10, report.saturation_theory, "φ_B, mean field", **marks)
    idle.set(title="d  idle units", ylabel="share, and φ_B", xlim=(0.4, x[-1] + 0.6), ylim=(0, 1.35))
    idle.set_yticks(np.linspace(0, 1, 6))
    idle.set_axisbelow(True)
    for panel in axes.flat:
        panel.set_xticks(x, report.layer.values, rotation=30, ha="right")
        plots.legend(panel, **({"loc": "upper center", "ncols": 3} if panel is idle else {}))
    return figure
