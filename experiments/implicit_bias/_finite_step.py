"""The figure of `finite_step`, and which of its runs are of which size."""

import numpy as np
import xarray as xr

from research import plots
from research.labels import averaged, first_arm, recorded, select, table

NEAR = 1e-4  # the training residual relative to ‖y‖ below which the error to the planted weights is judged


def parts(dataset: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """The runs of the size that the design names first, without padding, and those of the other."""
    first = int(np.atleast_1d(dataset.samples)[0])
    small, edge = select(dataset, samples=first), select(dataset, samples=lambda samples: samples != first)
    return small.isel(feature=slice(int(small.features.max()))), edge


def smallest_step(runs: xr.Dataset) -> xr.Dataset:
    """The runs at the smallest learning rate among these, at every init_scale that has it."""
    return select(runs, learning_rate=float(runs.learning_rate.min()))


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) error against step size, (b, c) the gain's shape, (d) the identity, (e, f) the edge of stability."""
    figure, ((error, shape, ratio), (identity, coordinates, growth)) = plots.figure(
        2, 3, "A finite step size changes which interpolant is found"
    )
    small, edge = parts(dataset)
    batches = np.unique(small.batch.values).tolist()[::-1]
    alpha = float(np.min(small.init_scale))
    for number, batch in enumerate(batches):
        runs = select(small, batch=batch, init_scale=alpha)
        if not runs.diverged.size:
            continue
        style = {"label": "full batch" if batch in small.samples else f"batch {batch}", "color": f"C{number}"}
        flow = table(runs, "flow_error", "learning_rate")
        plots.seeds(error, table(runs, "error", "learning_rate") / flow, **style, marker="o", markersize=3)
        middle = (table(runs, "predicted_error", "learning_rate") / flow).median("seed", skipna=False)
        plots.theory(error, middle.learning_rate, middle, None if number else "theory from the gains")
        end = runs.sel(step=runs.steps)
        gain = averaged((end.gain / end.gain.mean("feature")).where(end.residual < NEAR), "seed", "feature")
        order = np.argsort(-abs(averaged(small.planted, "seed", "feature").values), axis=1)
        place = {"seed": gain.seed, "coordinate": 1 + np.arange(order.shape[1])}
        ranked = xr.DataArray(np.take_along_axis(gain.values, order, axis=1), place, ("seed", "coordinate"))
        plots.seeds(shape, ranked, **style)
        slow = smallest_step(select(small, batch=batch))
        plots.points(ratio, slow.first_ratio, slow.ratio, **style, alpha=1.0)
        rested = select(small, batch=batch)
        plots.points(identity, rested.learning_rate, rested.distance.clip(1e-16), **style)
        for variable, marker in (("shiftless_distance", "x"), ("plain_distance", "^")):
            rival = rested[variable].clip(1e-16)
            plots.points(identity, rested.learning_rate, rival, marker=marker, color=style["color"])
    if edge.diverged.size:
        plots.points(
            identity, edge.learning_rate, edge.distance, f"full batch of {int(edge.samples.max())}", color="C3"
        )
    for label, marker in (("any, without the shift", "x"), ("any, α alone", "^")):
        identity.plot([], [], linestyle="none", marker=marker, markersize=3, color="0.4", label=label)
    last_runs = edge if edge.diverged.size else select(small, batch=batches[0], init_scale=alpha)
    largest_first = np.unique(last_runs.learning_rate.values)[::-1]
    for number, rate in enumerate(largest_first[:3]):
        runs = recorded(first_arm(select(last_runs, learning_rate=float(rate))), "residual")
        runs = runs.sel(step=runs.step > 0)
        plots.seeds(growth, runs.gain.max("feature"), f"γ = {rate:.3g}", color=f"C{number}")
        if number == 0:
            last = runs.isel(seed=int(np.argmax(runs.rest.values)))
            for feature in range(last.sizes["feature"]):
                on = bool(last.planted[feature])
                color, width = ("C0", 1.6) if on else ("0.6", 0.6)
                coordinates.plot(last.step, last.weights.isel(feature=feature), color=color, linewidth=width)
                if on:
                    called = None if coordinates.get_legend_handles_labels()[0] else "planted (others: 0)"
                    plots.theory(coordinates, last.step, np.full(last.step.size, last.planted[feature]), called)
            coordinates.set_title(f"e  n = {int(last.samples)}, the seed furthest from rest, γ = {rate:.3g}")
    coordinates.set(xscale="log", xlabel="step", ylabel="weights (blue: on the support)")
    growth.set(title="f  at the edge the gain stops late or never", xscale="log", yscale="log", xlabel="step")
    growth.set_ylabel("largest gain of a coordinate")
    plots.theory(ratio, (1, 20), (1, 20), "first step's E g²")
    plots.theory(identity, identity.get_xlim(), (1e-8, 1e-8), "tolerance of the claim")
    error.set(title="a  large steps hurt, large noisy steps help", ylabel="‖w − planted‖ / that of gradient flow")
    shape.set(
        title="b  where the gain sits", xlabel="coordinate, largest planted weight first", ylabel="gain / its mean"
    )
    ratio.set(title="c  decided at the start", xlabel="first step: g² on the support / off it")
    ratio.set_ylabel("gain on the support / off it")
    identity.set(title="d  the exact limit and its rivals", ylabel="relative distance of the end")
    for axes in (error, identity):
        axes.set(xscale="log", xlabel="learning rate γ")
    ratio.set_xscale("log")
    for axes in (error, shape, ratio, identity):
        axes.set_yscale("log")
        plots.legend(axes)
    plots.legend(identity, loc="center left", bbox_to_anchor=(0.0, 0.58), ncols=2)
    for axes in (coordinates, growth):
        plots.legend(axes)
    identity.set_xlim(left=0.01)
    return figure
