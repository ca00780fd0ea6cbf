"""The cells, the figure and the page of text of `sgd_noise`."""

from typing import Any

import numpy as np
import xarray as xr

from research import plots
from research.labels import arms, at_step, averaged, per_seed, select


def cells(dataset: xr.Dataset, **conditions: Any) -> list[xr.Dataset]:
    """One dataset a cell of the design that has these parameters, without diverged runs; the noisiest cell first."""
    found = [point for _, point in arms(select(dataset, **conditions))]
    found = [point.isel(seed=np.flatnonzero(~point.diverged.values)) for point in found if point.seed.size]
    loudness = lambda point: float(point.learning_rate) ** 2 * float(point.noise.fillna(0.0).mean())
    return sorted((point for point in found if point.seed.size), key=loudness, reverse=True)


def standard_cells(dataset: xr.Dataset) -> list[xr.Dataset]:
    """The noisy cells with replacement of the problem, network and activation that the design names first."""
    first = {
        name: np.atleast_1d(dataset[name].values)[0].item()
        for name in ("problem", "activation", "depth", "width", "replacement")
    }
    return cells(dataset, batch=lambda batch: batch > 0, **first)


def named(cell: xr.Dataset) -> str:
    """What the cell is, in words."""
    way = "" if bool(cell.replacement) else " without replacement"
    batch = f"B = {int(cell.batch)}{way}" if int(cell.batch) else "all samples"
    return f"η = {float(cell.learning_rate):g}, {batch}"


def around(allowed: float) -> tuple[float, float]:
    return float(np.exp(-allowed)), float(np.exp(allowed))


def network_of(cell: xr.Dataset) -> tuple:
    return str(cell.problem.values), int(cell.depth), int(cell.width)


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the collapse onto η²t/B, (b) run over prediction in time, (c) no replacement, (d) elsewhere, and tanh."""
    figure, ((fall, ratio), (order, others)) = plots.figure(
        2, 2, "Mini-batch noise, not the loss, saturates the top sigmoid layer", (5.0, 3.9)
    )
    dataset = dataset.isel(step=slice(1, None))  # a logarithmic axis has no place for step 0
    markers = dict(zip(sorted({int(batch) for batch in np.atleast_1d(dataset.batch)}), "xos^v", strict=False))
    noisy = standard_cells(dataset)
    rates = sorted({float(cell.learning_rate) for cell in noisy}, reverse=True)
    for number, cell in enumerate(noisy):
        color = f"C{rates.index(float(cell.learning_rate))}"
        style = {"color": color, "marker": markers[int(cell.batch)], "markersize": 3.5, "markevery": (number, 3)}
        clock = averaged(cell.clock, "step").values
        curve = cell.top.assign_coords(step=clock)
        plots.seeds(fall, curve.transpose("seed", "step"), named(cell), linewidth=1.0, **style)
        predicted = cell.predicted.median("seed")
        plots.theory(fall, clock, predicted, None if number else "descent on L + (η/4B) tr Cov", linewidth=1.0)
        plots.seeds(ratio, cell.ratio.transpose("seed", "step"), named(cell), linewidth=1.0, **style)
    for cell in noisy[:1]:
        clock = averaged(cell.clock, "step").values
        plots.theory(fall, clock, cell.scalar.median("seed"), "scalar law", linestyle=":")
        allowed = around(float(cell.allowed.mean()))
        ratio.axhspan(*allowed, color="0.93", label=f"allowed at η = {float(cell.learning_rate):g}")
    for cell in cells(dataset, batch=0, activation="sigmoid"):
        # without noise there is no η²t/B: drawn at the same steps as the noisiest cell
        clock = averaged(noisy[0].clock, "step").values if noisy else cell.step.values
        plots.seeds(
            fall, cell.top.assign_coords(step=clock).transpose("seed", "step"), "all samples", color="0.6", linewidth=3
        )
    for number, cell in enumerate(cells(dataset, replacement=False, batch=lambda batch: batch > 0)):
        plots.seeds(order, cell.top.transpose("seed", "step"), named(cell), color=f"C{number}")
        plots.theory(order, cell.step, cell.predicted.median("seed"), None if number else "c = (n − B)/(B (n − 1))")
        same = [each for each in noisy if (each.batch, each.learning_rate) == (cell.batch, cell.learning_rate)]
        for rival in same:
            label = None if number else "c = 1/B"
            plots.theory(order, cell.step, rival.predicted.median("seed"), label, linestyle=":")
    first, shown = [network_of(cell) for cell in noisy[:1]], 0
    for cell in cells(dataset, batch=lambda batch: batch > 0, replacement=True):
        if str(cell.activation.values) == "tanh":
            plots.seeds(others, (abs(cell.top)).transpose("seed", "step"), f"tanh, {named(cell)}", color="0.6")
        elif network_of(cell) not in first:
            label = "{}, {} layers of {}".format(*network_of(cell)) + f", {named(cell)}"
            plots.seeds(others, cell.top.transpose("seed", "step"), label, color=f"C{shown}")
            plots.theory(others, cell.step, cell.predicted.median("seed"), None if shown else "prediction")
            shown += 1
    top = "mean output of the last hidden layer, h"
    fall.set(title="a  one curve for all η and B", xlabel="η²t/B  (all samples: η²t/10)", ylabel=top)
    ratio.axhline(1, color="black", linestyle="--", linewidth=1.2)
    ratio.set(title="b  nothing fitted", xlabel="step t", ylabel="h / prediction", ylim=(0.5, 1.3), xscale="log")
    order.set(title="c  epochs without replacement", xlabel="step t", ylabel=top)
    others.set(
        title="d  another problem, depth, width; tanh", xlabel="step t", ylabel="|mean output| of the last layer"
    )
    for axes in (fall, order, others):
        axes.set(xscale="log", yscale="log")
    for axes in (fall, ratio, order, others):
        plots.legend(axes, fontsize=6.5)
    return figure


def page(dataset: xr.Dataset) -> str:
    """One page of Markdown that stands alone: the claim, how it was tested, the numbers, where it fails."""
    last = dataset.sel(step=dataset.steps)
    noisy, silent = standard_cells(last), cells(last, batch=0, activation="sigmoid")
    if not noisy:
        return "# Mini-batch noise and the top sigmoid layer\n\nThis design has no noisy runs.\n"
    loud, seeds = noisy[0], int(dataset.seed.size)
    steps, problem = int(loud.steps), "{}, {} hidden layers of {} logistic units".format(*network_of(loud))
    mean = lambda values: float(np.mean(per_seed(values)))
    said = [
        "# Mini-batch noise, not the loss, saturates the top sigmoid layer",
        "Glorot & Bengio (2010, Figure 2) saw the last hidden layer of a deep sigmoid network fall to zero early in "
        "training, and suspected that the readout learns to ignore features that are still useless. We find another "
        "cause. The readout's noise under mini-batches is the larger, the larger the layer's outputs are; on average "
        "this noise acts as a force, the gradient of (η/4B) tr Cov(gradient), and that force pushes the layer to zero.",
        f"**Test.** {problem}, {int(dataset.classes.max())} classes, W uniform in ±1/√fan_in, b = 0, SGD on the "
        f"cross-entropy, {steps} steps, {seeds} seeds. The prediction is the flow of L + (η/4)‖∇L‖² + (η/4B) tr Cov "
        "from the same initial weights, integrated in float64 by code that shares nothing with the runs. It has no "
        "free parameter.",
        f"**Result.** The layer starts at a mean output of {mean(standard_cells(dataset.sel(step=0))[0].top):.3f}.",
    ]
    head = "| η | B | sampling | h at the end | h / prediction, [range over seeds] | at a tenth of the time |"
    rows = [head, "| --- | --- | --- | --- | --- | --- |"]
    shuffled = {"batch": lambda batch: batch > 0, "replacement": False, "activation": "sigmoid"}
    for whole in (*standard_cells(dataset), *cells(dataset, **shuffled)):
        cell = whole.sel(step=steps)
        then = mean(at_step(whole.ratio, xr.DataArray(steps / 10)))
        ratios = per_seed(cell.ratio)
        spread = f"{ratios.mean():.3f} [{ratios.min():.3f}, {ratios.max():.3f}]"
        way = "with replacement" if bool(cell.replacement) else "without"
        first = f"| {float(cell.learning_rate):g} | {int(cell.batch)} | {way} | {mean(cell.top):.4f} "
        rows.append(f"{first}| {spread} | {then:.3f} |")
    rows += [f"| {float(cell.learning_rate):g} | all | – | {mean(cell.top):.4f} | – | – |" for cell in silent]
    said.append("\n".join(rows))
    if silent:
        said.append(
            f"Without noise the layer ends at {mean(silent[0].top):.4f}. Its loss is then {mean(silent[0].loss):.4f}, "
            f"and that of the noisiest runs {mean(loud.loss):.4f}; guessing the classes' shares has "
            f"{np.log(float(dataset.classes.max())):.4f}."
        )
    others = cells(last, activation="sigmoid", replacement=True, batch=lambda batch: batch > 0)
    others = [cell for cell in others if network_of(cell) != network_of(loud)]
    if others:
        words = [
            "{}, {} layers of {} ({}): {:.3f}".format(*network_of(cell), named(cell), mean(cell.ratio))
            for cell in others
        ]
        said.append("**Elsewhere**, h / prediction at the end: " + "; ".join(words) + ".")
    said.append(
        "**Where the prediction fails.** It is of first order in η: a finite rate makes the scatter of the readout, "
        "and with it the force, 1/(1 − ηλ/2) times as large, λ = (1 + ‖h‖²)/K. With that factor h / prediction at the "
        "end is "
        + ", ".join(
            f"{mean(cell.finite_ratio):.3f} ({named(cell)})" for cell in noisy if np.isfinite(cell.finite_ratio).all()
        )
        + ". The scalar law dh/ds = −½ E‖p − y‖² (1 + ‖a‖²) h³ (1 − h)², s = η²t/B, with the layer below held at its "
        f"start, is off by a factor: h over it is {mean(loud.scalar_ratio):.2f}, since the layer below rises. "
        "Without replacement the layer falls faster than c = (n − B)/(B (n − 1)) says, the more so the larger B. "
        "The power −1/2 in s that it ends in is not reached in this time, by the runs or by the prediction."
    )
    return "\n\n".join(said) + "\n"
