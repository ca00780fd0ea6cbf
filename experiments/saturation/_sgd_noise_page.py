"""The figure and the page of text of `sgd_noise`."""

from itertools import cycle

import numpy as np
import xarray as xr

from experiments.saturation._sgd_noise import cells, leading, named, network_of, nulls, rivals, standard_cells
from research import plots
from research.labels import at_step, averaged, per_seed


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the collapse onto η²t/B, (b) run over prediction in time, (c) no replacement, (d) elsewhere, and tanh."""
    figure, ((fall, ratio), (order, others)) = plots.figure(
        2, 2, "Mini-batch noise, not the loss, saturates the top sigmoid layer", (5.0, 3.9)
    )
    dataset = dataset.isel(step=slice(1, None))  # a logarithmic axis has no place for step 0
    markers = dict(zip(sorted({int(batch) for batch in np.atleast_1d(dataset.batch)}), cycle("xos^vD*P"), strict=False))
    noisy = standard_cells(dataset)
    rates = sorted({float(cell.learning_rate) for cell in noisy}, reverse=True)
    for number, cell in enumerate(noisy):
        color = f"C{rates.index(float(cell.learning_rate)) % 10}"
        style = {"color": color, "marker": markers[int(cell.batch)], "markersize": 3.5, "markevery": (number, 3)}
        clock = averaged(cell.clock, "step").values
        curve = cell.top.assign_coords(step=clock)
        plots.seeds(fall, curve.transpose("seed", "step"), named(cell), linewidth=1.0, **style)
        predicted = cell.predicted.median("seed")
        plots.theory(fall, clock, predicted, None if number else "descent on L + (η/4B) tr Cov, with F", linewidth=1.0)
        plots.seeds(ratio, cell.ratio.transpose("seed", "step"), named(cell), linewidth=1.0, **style)
    for cell in noisy[:1]:
        clock = averaged(cell.clock, "step").values
        plots.theory(fall, clock, cell.scalar.median("seed"), "scalar law", linestyle=":")
        plots.seeds(ratio, cell.plain_ratio.transpose("seed", "step"), f"{named(cell)}, without F", color="0.6")
        most = float(cell.allowed.mean()) ** 2
        ratio.axhspan(np.exp(-most), np.exp(most), color="0.93", label=f"allowed at η = {float(cell.learning_rate):g}")
    first = [network_of(cell) for cell in noisy[:1]]
    silent = [cell for cell in nulls(dataset) if int(cell.batch) == 0]
    for cell in silent:
        # without noise there is no η²t/B: drawn at the same steps as the noisiest cell
        if network_of(cell) in first:
            curve = cell.top.assign_coords(step=averaged(noisy[0].clock, "step").values)
            plots.seeds(fall, curve.transpose("seed", "step"), "all samples", color="0.6", linewidth=3)
    for number, cell in enumerate(shuffled(dataset)):
        plots.seeds(order, cell.top.transpose("seed", "step"), named(cell), color=f"C{number % 10}")
        plots.theory(order, cell.step, cell.predicted.median("seed"), None if number else "prediction, F of an epoch")
        label = None if number else "first order (Smith et al.)"
        plots.theory(order, cell.step, cell.plain.median("seed"), label, linestyle=":")
    shown = 0
    usual = leading(dataset, "fresh", "per_class")
    for cell in cells(dataset, batch=lambda batch: batch > 0, replacement=True, **usual):
        if str(cell.activation.values) == "tanh":
            plots.seeds(others, cell["size"].transpose("seed", "step"), f"tanh, mean |h|, {named(cell)}", color="0.6")
        elif network_of(cell) not in first:
            label = f"{described(cell)}, {named(cell)}"
            plots.seeds(others, cell.top.transpose("seed", "step"), label, color=f"C{shown % 10}")
            plots.theory(others, cell.step, cell.predicted.median("seed"), None if shown else "prediction")
            shown += 1
    for number, cell in enumerate(cell for cell in silent if network_of(cell) not in first):
        color = f"C{number + 3}"
        label = f"{described(cell)}, {named(cell)}"
        plots.seeds(others, cell.top.transpose("seed", "step"), label, linewidth=3, color=color)
        for rival in rivals(dataset, cell)[:1]:
            label = f"the same, B = {int(rival.batch)} of them"
            marked = {"linestyle": "none", "marker": "o", "markersize": 5, "markevery": 3, "markerfacecolor": "none"}
            plots.seeds(others, rival.top.transpose("seed", "step"), label, color=color, zorder=4, **marked)
    top = "mean output of the last hidden layer, h"
    fall.set(title="a  one curve for all η and B", xlabel="η²t/B  (all samples: η²t/10)", ylabel=top)
    ratio.axhline(1, color="black", linestyle="--", linewidth=1.2)
    ratio.set(title="b  nothing fitted", xlabel="step t", ylabel="h / prediction", ylim=(0.78, 1.12), xscale="log")
    order.set(title="c  epochs without replacement", xlabel="step t", ylabel=top)
    others.set(title="d  other networks; no noise; tanh", xlabel="step t", ylabel="mean output of the last layer")
    for axes in (fall, order, others):
        axes.set(xscale="log", yscale="log")
    for axes in (fall, ratio, order, others):
        plots.legend(axes, fontsize=6.5)
    return figure


def shuffled(dataset: xr.Dataset) -> list[xr.Dataset]:
    """The noisy cells without replacement of the network that the design names first."""
    alike = leading(dataset, "problem", "activation", "depth", "width", "fresh")
    return cells(dataset, batch=lambda batch: batch > 0, replacement=False, **alike)


def described(cell: xr.Dataset) -> str:
    return "{}, {} layers of {}".format(*network_of(cell))


def page(dataset: xr.Dataset) -> str:
    """One page of Markdown that stands alone: the claim, how it was tested, the numbers, where it fails."""
    last = dataset.sel(step=dataset.steps)
    noisy = standard_cells(last)
    if not noisy:
        return "# Mini-batch noise and the top sigmoid layer\n\nThis design has no noisy runs.\n"
    loud, seeds = noisy[0], int(dataset.seed.size)
    steps = int(loud.steps)
    mean = lambda values: float(np.mean(per_seed(values)))
    spread = lambda values: f"{values.mean():.3f} [{values.min():.3f}, {values.max():.3f}]"
    said = [
        "# Mini-batch noise, not the loss, saturates the top sigmoid layer",
        "![The collapse, run over prediction, epochs without replacement, other networks](sgd_noise.png)",
        "Glorot & Bengio (2010, Figure 2) saw the last hidden layer of a deep sigmoid network fall to zero early in "
        "training, and suspected that the readout learns to ignore features that are still useless. We find another "
        "cause. The readout's noise under mini-batches is the larger, the larger the layer's outputs are; on average "
        "this noise acts as a force, the gradient of (η/4B) tr Cov(gradient), and that force pushes the layer to zero.",
        "**Prediction.** The flow of L + (η/4)‖∇L‖² + (ηc/4) tr Cov from the same initial weights, integrated in "
        "float64 by code that shares nothing with the runs but the data and the initial weights; c = 1/B with "
        "replacement and (n − B)/(B (n − 1)) without. To first order in η this is, without replacement, the theorem of "
        "Smith et al. (2021); with replacement it rests on the argument that on the plateau Cov is the Hessian. At a "
        "finite rate the force is F times as large. For x → (1 − a)x − ηξ, a = ηλ, where the variance of ξ is cλ, the "
        "mean force ½∂λ Var x + E[x ∂ξ] is F ηc∂λ/4 with F = 1/(1 − a/2) for fresh batches and, for epochs of m = n/B "
        "batches, F = [1 + (1 − (1 − (1 − a)^m)/(m a))/(m − 1)]/(1 − a/2). Here λ = (1 + ‖h‖²)/K, K classes. Nothing "
        "is fitted.",
        f"**Test.** {described(loud)} logistic units, {int(dataset.classes.max())} classes, "
        f"n = {int(mean(loud.population))} samples, W uniform in ±1/√fan_in, b = 0, SGD on the cross-entropy, {steps} "
        f"steps, {seeds} seeds. The layer starts at a mean output of "
        f"{mean(standard_cells(dataset.sel(step=0))[0].top):.3f}. Brackets are the range over seeds.",
    ]
    head = "| η | B | sampling | h at the end | h / prediction | at a tenth of the time | h / first order, F = 1 |"
    rows = [head, "| --- | --- | --- | --- | --- | --- | --- |"]
    for whole in (*standard_cells(dataset), *shuffled(dataset)):
        cell = whole.sel(step=steps)
        then = mean(at_step(whole.ratio, xr.DataArray(steps / 10)))
        way = "with replacement" if bool(cell.replacement) else "without"
        first = f"| {float(cell.learning_rate):g} | {int(cell.batch)} | {way} | {mean(cell.top):.4f} "
        plain = spread(per_seed(cell.plain_ratio))
        rows.append(f"{first}| {spread(per_seed(cell.ratio))} | {then:.3f} | {plain} |")
    said.append("\n".join(rows))
    usual = leading(dataset, "per_class")
    others = cells(last, activation="sigmoid", replacement=True, batch=lambda batch: batch > 0, fresh=1.0, **usual)
    others = [cell for cell in others if network_of(cell) != network_of(loud)]
    if others:
        words = [f"{described(cell)} ({named(cell)}): {spread(per_seed(cell.ratio))}" for cell in others]
        said.append("**Elsewhere**, h / prediction at the end: " + "; ".join(words) + ".")
    silent = list(zip(nulls(dataset.sel(step=0)), nulls(last), strict=True))
    if silent:
        head = (
            "| network | without noise | h at the start | h at the end | loss at the end | of guessing "
            "| the same samples with noise: h at the end | loss at the end |"
        )
        rows = [
            "**Without noise** the layer does not follow: it stays, or moves either way as the network fits.\n",
            head,
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for before, cell in silent:
            beside = "– | –"
            for rival in rivals(last, cell)[:1]:
                beside = f"{spread(per_seed(rival.top))} (B = {int(rival.batch)}) | {mean(rival.loss):.3f}"
            rows.append(
                f"| {described(cell)} | {named(cell)} | {mean(before.top):.3f} | {spread(per_seed(cell.top))} "
                f"| {mean(cell.loss):.3f} | {np.log(mean(cell.classes)):.3f} | {beside} |"
            )
        rows.append(
            "\nWhere a network learns without noise and, on the same samples, sits at the loss of guessing with it, "
            "noise has made the plateau. A batch that is the same at every step is a small training set."
        )
        said.append("\n".join(rows))
    farthest = lambda name: np.nanmax([abs(mean(cell[name]) - 1) for cell in (*noisy, *shuffled(last))])
    said.append(
        "**Where the prediction fails.** Without F (last column) it is off by what a finite rate does, up to "
        f"{farthest('plain_ratio'):.0%} in these cells; with F by up to "
        f"{farthest('ratio'):.1%}. At the larger rates that is within the next order "
        "in η, for which the square of ½ ln F stands; at the smaller ones seeds scatter by more than that order, and "
        "nothing is decided. F also explains epochs without replacement: for m a ≫ 1, cF is that of fresh batches, and "
        "the layer falls as if batches were drawn with replacement; for few batches an epoch F is larger than "
        "1/(1 − a/2). Not explained: the first hundred steps of the noisiest runs, in which seeds scatter by some "
        "percents and most fall faster than predicted, and the scatter of the four-layer network, whose layers depend "
        "on the inputs, so that 4 samples of each class are few. The scalar law dh/ds = −½ E‖p − y‖² "
        "(1 + ‖a‖²) h³ (1 − h)², s = η²t/B, with the layer a below held at its start, is off by a factor: h over it is "
        f"{mean(loud.scalar_ratio):.2f}. That the layer below rises explains this in part only: with ‖a‖² as it was "
        f"in the run, h over the law is {mean(loud.driven_ratio):.2f}. The power −1/2 in s that it ends in is not "
        "reached in this time, by the runs or by the prediction."
    )
    for cell in cells(last, activation="tanh", batch=lambda batch: batch > 0):
        begin = cells(dataset.sel(step=0), activation="tanh", batch=lambda batch: batch > 0)[0]
        said.append(
            f"**tanh.** The same network of tanh units ({named(cell)}) learns (loss {mean(cell.loss):.2g}) and "
            f"saturates at both ends: mean |h| goes from {mean(begin['size']):.3f} to {mean(cell['size']):.3f}. Its "
            "noise pulls to h = 0, which is no end: by this theory it is the loss that saturates them."
        )
        break
    said.append(
        "**Reproduce** with `python -m experiments.saturation sgd_noise`; the checks of F against the covariances of "
        "an epoch, and against simulated descent on a parabola, are in `tests/test_gradient_noise.py`."
    )
    return "\n\n".join(said) + "\n"
