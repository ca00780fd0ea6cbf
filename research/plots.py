"""The figures' common language: seeds thin, their median thick, theory in black."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.prop_cycle": plt.cycler(color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F"]),
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.alpha": 0.25,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


def figure(rows: int, columns: int, title: str, size: tuple[float, float] = (4.2, 3.4)) -> tuple[Figure, Any]:
    """A figure of rows × columns axes, each `size` inches, and the array of its axes (always two-dimensional).

    From here on Matplotlib draws in this project's style; `matplotlib.rcdefaults()` goes back to its own.
    """
    plt.rcParams.update(STYLE)
    made, axes = plt.subplots(rows, columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False)
    made.suptitle(title, fontsize=11)
    return made, axes


def seeds(axes: Axes, values: xr.DataArray, label: str | None = None, **style: Any) -> None:
    """Curves over the last dimension: one thin line a seed, the median over seeds thick.

    `values` has the dimensions (seed, x), x bearing a coordinate; other dimensions are not taken.
    """
    (x,) = (dimension for dimension in values.dims if dimension != "seed")
    rows = values.transpose("seed", x).values
    (thick,) = axes.plot(values[x], np.median(rows, axis=0), label=label, **style)
    for row in rows:
        axes.plot(values[x], row, **{**style, "color": thick.get_color(), "alpha": 0.3, "linewidth": 0.6})


def points(axes: Axes, x: xr.DataArray, y: xr.DataArray, label: str | None = None, **style: Any) -> None:
    """A dot for every run: `x` and `y` are broadcast against each other by name."""
    x, y = xr.broadcast(x, y)
    dots = {"linestyle": "none", "marker": "o", "markersize": 3, "alpha": 0.4, **style}
    axes.plot(x.values.ravel(), y.values.ravel(), label=label, **dots)


def family(axes: Axes, values: xr.DataArray, **style: Any) -> None:
    """`seeds` for each value of a parameter: `values` has the dimensions (seed, parameter, x), with coordinates."""
    _, parameter, _ = values.dims
    for number, value in enumerate(values[parameter].values):
        row = values.isel({parameter: number}, drop=True)
        seeds(axes, row, f"{str(parameter).replace('_', ' ')} {value:g}", **{"color": f"C{number}", **style})


def theory(
    axes: Axes, x: Sequence[float] | Any, y: Sequence[float] | Any, label: str | None = "theory", **style: Any
) -> None:
    """A curve that theory predicts: black, dashed unless `style` says otherwise."""
    axes.plot(x, y, **{"color": "black", "linestyle": "--", "linewidth": 1.2, "zorder": 5, "label": label, **style})


def agreement(axes: Axes, allowance: float, label: str) -> None:
    """The diagonal of what lies in [0, 1], measured (y) against theory (x), and what theory allows on either side."""
    theory(axes, (0, 1), (0, 1))
    axes.fill_between((0, 1), (-allowance, 1 - allowance), (allowance, 1 + allowance), color="0.9", label=label)
    axes.set_ylim(0, 1)


def plane(axes: Axes, values: xr.DataArray, theory: xr.DataArray, label: str) -> None:
    """A phase plane over (y, x), the dimensions of both: what was measured in colour, what theory says as contours."""
    x, y = values[values.dims[1]].values, values[values.dims[0]].values
    colour = axes.pcolormesh(x, y, values.values, shading="nearest", alpha=0.6)
    axes.figure.colorbar(colour, ax=axes, label=label)
    if min(values.shape) > 1:
        lines = axes.contour(x, y, theory.transpose(*values.dims).values, colors="black", linewidths=0.8)
        axes.clabel(lines, fontsize=6)
    axes.grid(False)


def tiles(axes: Axes, rows: Sequence[Any], labels: Sequence[str], signed: Sequence[bool]) -> None:
    """Small pictures in a grid, a row of them (picture, height, width) for each label.

    Grey ones go from 0 to 1; signed ones, each over its largest pixel, are red above zero and blue below.
    """
    painted = []
    for row, both in zip(rows, signed, strict=True):
        values = np.asarray(row, dtype=float)
        largest = np.maximum(np.abs(values).max(axis=(1, 2), keepdims=True), np.finfo(float).tiny)
        shades = plt.get_cmap("RdBu_r")(values / largest / 2 + 0.5) if both else plt.get_cmap("gray")(values)
        framed = np.pad(shades[..., :3], ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1.0)
        painted.append(np.concatenate(framed, axis=1))
    axes.imshow(np.concatenate(painted)[:-1, :-1])
    heights = np.cumsum([0, *(len(row) for row in painted)])
    axes.set_yticks((heights[:-1] + heights[1:]) / 2 - 1, labels)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(False)


def legend(axes: Axes, **style: Any) -> None:
    """A legend of what bears a label, theory (what is black) last, in the place where it hides least."""
    entries = list(zip(*axes.get_legend_handles_labels(), strict=True))
    entries.sort(key=lambda entry: isinstance(entry[0], Line2D) and entry[0].get_color() == "black")
    if entries:
        handles, labels = zip(*entries, strict=True)
        axes.legend(handles, labels, **{"loc": "best", **style})


def finish(figure: Figure) -> None:
    """What every figure gets in the end: `mark_empty`, and labels of logarithmic axes that do not overlap."""
    mark_empty(figure)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            chosen = isinstance(axis.get_major_locator(), FixedLocator)  # by whoever drew it
            if axis.get_scale() == "log" and not chosen:
                _label_sparsely(axis)


def _label_sparsely(axis: Axis) -> None:
    """Powers of ten alone where two or more of them are in sight, else 1, 2 and 5 times them, as plain numbers."""
    low, high = sorted(axis.get_view_interval())
    if low > 0 and np.floor(np.log10(high)) - np.ceil(np.log10(low)) >= 1:
        axis.set_minor_formatter(NullFormatter())
    elif low > 0:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def mark_empty(figure: Figure) -> None:
    """Say so in panels in which an override of the design has left nothing to draw on a logarithmic axis."""
    for axes in figure.axes:
        curves = [line.get_xydata() for line in axes.lines if line.get_transform() == axes.transData]  # no axhline
        points = np.concatenate([np.empty((0, 2)), *(np.asarray(curve, dtype=float) for curve in curves)])
        points = points[np.isfinite(points).all(axis=1)]  # a line of theory may be NaN all along
        scales = (axes.get_xscale(), axes.set_xscale), (axes.get_yscale(), axes.set_yscale)
        empty = [scale == "log" and not (points[:, place] > 0).any() for place, (scale, _) in enumerate(scales)]
        if any(empty) and not axes.collections:
            axes.text(0.5, 0.5, "no such runs in this design", ha="center", transform=axes.transAxes, color="0.4")
            for (_, rescale), none in zip(scales, empty, strict=True):
                if none:
                    rescale("linear")
