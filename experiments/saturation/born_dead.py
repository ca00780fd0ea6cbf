"""Narrow and deep ReLU networks are born dead, and training leaves them at the mean or the median of their targets.

Claim: With symmetric weights, with or without symmetric biases, each layer of n ReLUs is inactive at a given input with
probability 2⁻ⁿ, whatever came before: a network is dead there by layer L with probability 1 − (1 − 2⁻ⁿ)ᴸ. For all
inputs at once that is a bound, which is met as the inputs shrink to a point. A dead network computes a constant, and
learns the mean of its targets under the squared error and their median under the absolute error.

Source: Lu, Shin, Su & Karniadakis 2020, "Dying ReLU and initialization", arXiv 1903.06733; Lu, Su & Karniadakis 2018,
"Collapse of deep and narrow neural nets", arXiv 1808.04947; Rister & Rubin, "Probabilistic bounds on neuron death in
deep rectifier networks" (the limit of one point). The bracket for one feature is derived in the oracle's module.

Departure: One input feature. Without biases a network is linear on either half-line: ±1 stand for all inputs, the
second layer has a closed form, 2·4⁻ⁿ + (1 − 2¹⁻ⁿ)·4⁻ⁿ, and deeper ones a bracket. With biases "all inputs" are three,
1, 1 − r and 1 − 2r. The other side: weights whose mean is not zero, `shift` of their deviations, die far less, by the
same law with Φ(−shift) for a half at most. Trained networks have 10 layers of 2 units and fit x sin 5x, by full-batch
descent whose rate falls to a millionth (on |x| mean and median nearly agree).

Bands: a share of M networks by layer is farther than ε/√M from its law at any layer with probability 2 exp(−2ε²) at
most (Massart 1990); ε makes that 1e-3 for all runs together. Shares at one layer: four standard deviations.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from scipy.special import ndtr

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import first_arm, lift, per_seed, select, table
from research.oracles.born_dead import line_death, point_death
from research.statistics import every_seed, over_seeds, share

EXCEPTION = 1e-3  # the probability that chance alone breaks a band
SIGMAS = 4.0


class Initial(NamedTuple):
    dead_at_point: Float[Array, "layer"]
    dead_everywhere: Float[Array, "layer"]


class Trained(NamedTuple):
    born_dead: Float[Array, ""]
    collapsed: Float[Array, ""]
    distance: Float[Array, ""]
    distance_from_rival: Float[Array, ""]


def simulate(
    key: Array,
    width: float,
    bias_scale: float = 0.0,
    shift: float = 0.0,
    radius: float = 1.0,
    absolute: float = 0.0,
    uniform: float = 0.0,
    *,
    networks: int = 2000,
    depth: int = 40,
    most_units: int = 8,
    steps: int = 0,
) -> Run:
    """Many networks of `width` (at most `most_units`) units a layer: which are dead by which layer, or, trained, where.

    Weights have deviation √(2/width) and a mean of `shift` deviations; biases `bias_scale` times that deviation.
    `absolute` is 0 for half the squared error, 1 for the absolute error; `uniform` 0 for normal weights, 1 for uniform.
    """
    active = jnp.arange(most_units) < width
    deviation = jnp.sqrt(2 / width)

    def layer(key: Array) -> tuple[Array, Array]:
        shape = (networks, most_units + 1, most_units)  # the last row is that of the biases
        between = jax.random.uniform(key, shape, jnp.float32, np.nextafter(np.float32(-1), np.float32(0)))
        unit = jnp.where(uniform > 0, 3**0.5 * between, 2**0.5 * jax.scipy.special.erfinv(between))
        return deviation * (unit[:, :-1] + shift), bias_scale * deviation * unit[:, -1:]

    relu = lambda h, weights, biases: jnp.where(active[None, None, :], jax.nn.relu(h @ weights + biases), 0.0)
    entered = lambda x: jnp.zeros((networks, len(x), most_units)).at[:, :, 0].set(x[None, :])

    def further(carried: tuple, key: Array) -> tuple:
        h, point, everywhere = carried
        h = relu(h, *layer(key))
        inactive = jnp.all(h == 0, axis=2)
        point, everywhere = point | inactive[:, 0], everywhere | jnp.all(inactive, axis=1)
        return (h, point, everywhere), Initial(jnp.mean(point, dtype=h.dtype), jnp.mean(everywhere, dtype=h.dtype))

    if not steps:
        begin = (entered(1 - radius * jnp.arange(3.0)), *jnp.zeros((2, networks), bool))
        counted: Any = lambda key: jax.lax.scan(further, begin, jax.random.split(key, depth))[1]
        return Run(key, lambda key: key, counted, np.zeros(1, int))

    x = np.linspace(-(3.0**0.5), 3.0**0.5, 41)
    y = x * np.sin(5 * x)
    weights, biases = jax.vmap(layer)(jax.random.split(key, depth + 1))

    def outputs(params: tuple) -> Array:
        layers, readout, constant = params
        top, _ = jax.lax.scan(lambda h, each: (relu(h, *each), None), entered(x), layers)
        return (top @ readout)[..., 0] + constant

    def loss(params: tuple) -> Array:  # a sum over networks, which do not see each other
        error = outputs(params) - y[None, :]
        return jnp.where(absolute > 0, jnp.abs(error), optax.l2_loss(error)).mean(axis=1).sum()

    params = ((weights[:-1], biases[:-1]), weights[-1, :, :, :1], jnp.zeros((networks, 1)))
    optimizer = optax.sgd(lambda count: 0.1 * 10.0 ** jnp.minimum(4 - 10 * count / steps, 0.0))
    forward = descent(loss, optimizer)
    mean, median = float(np.mean(y)), float(np.median(y))
    centres = jnp.where(absolute > 0, median, mean), jnp.where(absolute > 0, mean, median)

    def observe(state: tuple) -> Trained:
        said, dead = outputs(state[0].params), state[1]
        right, rival = (jnp.max(jnp.where(dead[:, None], jnp.abs(said - centre), 0.0)) for centre in centres)
        share_of = lambda which: jnp.mean(which, dtype=said.dtype)
        return Trained(share_of(dead), share_of(jnp.ptp(said, axis=1) < 1e-9), right, rival)

    state = (start(params, optimizer), jnp.ptp(outputs(params), axis=1) == 0)
    return Run(state, lambda state: (forward(state[0]), state[1]), observe, log_spaced(steps, 12))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The law at one input, the bracket for the line where there are no biases, and √networks × the distance to it."""
    lacking = {*Initial._fields, *Trained._fields} - {*dataset}  # of an arm that is not there
    dataset = dataset.assign(dict.fromkeys(lacking, xr.full_like(dataset.diverged, np.nan, float)))
    initial = dataset[[*Initial._fields]].isel(step=0, drop=True, missing_dims="ignore")
    initial = initial.rename({name: str(name).removeprefix("dead_") for name in initial})
    depth, root = dataset.sizes.get("layer", 2), dataset.networks**0.5
    law = lift(point_death, dataset.width, layers=depth)
    bracket = lift(line_death, dataset.width, layers=depth).where((dataset.bias_scale == 0) & (dataset["shift"] == 0))
    shifted = lift(point_death, dataset.width, depth, xr.apply_ufunc(ndtr, -dataset["shift"]))
    outside = np.maximum(initial.everywhere - bracket.most, bracket.least - initial.everywhere)
    compared = xr.Dataset({**initial, **bracket, "law": law, "shifted": shifted}).assign(
        distance_to_law=root * abs(initial.at_point - law).max("layer"),
        distance_of_set=root * abs(initial.everywhere - law).max("layer"),
        outside=root * outside.clip(min=0).max("layer"),
        above=root * (initial.at_point - shifted).max("layer"),
    )
    return dataset.assign(compared).assign_coords(layer=np.arange(1, depth + 1))


def findings(dataset: xr.Dataset) -> list[Finding]:
    """One input, all inputs of a line, a shrinking set, weights that are not symmetric, and what training does."""
    found: list[Finding] = []

    def add(runs: xr.Dataset, what: str, values: xr.DataArray) -> None:
        if runs.diverged.size:
            chance = float(np.sqrt(np.log(2 * runs.diverged.size / EXCEPTION) / 2))
            found.append(Finding.of(what, (0.0, chance), every_seed(per_seed(values))))

    initial = select(dataset, steps=0)
    symmetric, free = select(initial, shift=0.0), select(initial, shift=0.0, bias_scale=0.0)
    judged = symmetric if symmetric.diverged.size else initial
    law = "√networks × distance of the share of dead networks to"
    add(judged, f"{law} 1 − (1 − 2⁻ⁿ)ˡ at one input, any layer, the largest of a seed", judged.distance_to_law)
    add(free, f"no biases, all inputs: {law} its bracket, any layer, the largest of a seed", free.outside)
    normal = select(free, uniform=0.0)
    for width in np.unique(normal.width)[:2] if normal.diverged.size else ():
        runs = select(normal, width=width)
        dead = _hits(runs.everywhere.sel(layer=2), runs)
        p = float(np.ravel(runs.least.sel(layer=2))[0])
        off = SIGMAS * (p * (1 - p) / dead.size) ** 0.5
        what = f"no biases, all inputs, 2 layers of {width:g}: share dead, 2·4⁻ⁿ + (1 − 2¹⁻ⁿ)·4⁻ⁿ = {p:.4f}"
        found.append(Finding.of(what, (p - off, p + off), share(dead)))
    biased = select(initial, shift=0.0, bias_scale=lambda scale: scale > 0)
    excess = (biased.networks**0.5 * (biased.everywhere - biased.law)).max("layer").clip(min=0)
    what = "with biases, all inputs: √networks × share dead above 1 − (1 − 2⁻ⁿ)ˡ, any layer, the largest of a seed"
    add(biased, what, excess)
    if np.unique(biased.radius).size > 1:
        lasts = table(_shrinking(biased), "gap", "radius")
        radii = lasts.radius.values
        what = f"rise of the largest gap from radius to radius {radii[0]:g} … {radii[-1]:g}, the least"
        found.append(Finding.of(what, (0.0, np.inf), over_seeds(lasts.diff("radius").min("radius"))))
        smallest = select(_shrinking(biased), radius=radii[0])
        add(smallest, f"radius {radii[0]:g}, all inputs: {law} 1 − (1 − 2⁻ⁿ)ˡ, any layer", smallest.distance_of_set)
    asymmetric = select(initial, shift=lambda value: value > 0)
    what = "weights of positive mean: √networks × share dead above 1 − (1 − Φ(−shift)ⁿ)ˡ, the largest of a seed"
    add(asymmetric, what, asymmetric.above.clip(min=0))
    for absolute, centre in enumerate(("mean", "median")):
        runs = select(dataset, steps=lambda steps: steps > 0, absolute=float(absolute))
        if runs.diverged.size:
            found += _trained(runs.isel(step=-1), centre)
    return found


def _trained(runs: xr.Dataset, centre: str) -> list[Finding]:
    """Born-dead networks after training: at the mean or median; and how many are constant."""
    distance = per_seed(runs.distance.where(runs.distance_from_rival > 0.01))
    dead, gone = (_hits(runs[name], runs) for name in ("born_dead", "collapsed"))
    depth, width = int(runs.depth.max()), float(runs.width.max())
    bounds = [float(end[-1]) for end in line_death(width, depth)]
    off = SIGMAS * max(p * (1 - p) / dead.size for p in bounds) ** 0.5
    kind = f"{'squared' if centre == 'mean' else 'absolute'} error, {depth} layers of {width:g}"
    to_centre = f"{kind}: distance of born-dead networks' outputs to the {centre} of y, the largest of a seed"
    return [
        Finding.of(to_centre, (0.0, 1e-6), every_seed(distance)),
        Finding.of(f"{kind}: share born dead", (bounds[0] - off, min(bounds[1] + off, 1.0)), share(dead)),
        Finding.of(f"{kind}: share constant after training", (bounds[0] - off, 1.0), share(gone)),
    ]


def _hits(shares: xr.DataArray, runs: xr.Dataset) -> np.ndarray:
    """One truth value a network, from the shares of equally many."""
    counts = np.rint(shares.values * float(runs.networks.max())).ravel()
    return np.concatenate([np.arange(float(runs.networks.max())) < count for count in counts])


def _shrinking(biased: xr.Dataset) -> xr.Dataset:
    """The runs of the width at which the radius of the inputs varies, and what the whole set lags one input by."""
    wide = [np.unique(select(biased, width=width).radius).size for width in np.unique(biased.width)]
    runs = select(biased, width=float(np.unique(biased.width)[np.argmax(wide)]), uniform=0.0)
    return runs.assign(gap=(runs.at_point - runs.everywhere).max("layer"))


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Dead by layer at one input and on the line, with biases on a shrinking set, and trained networks in time."""
    figure, ((points, line), (sets, time)) = plots.figure(2, 2, "Born dead: narrow, deep ReLU networks")
    initial = select(dataset, steps=0)
    free = select(initial, shift=0.0, bias_scale=0.0, uniform=0.0)
    for number, width in enumerate(np.unique(free.width) if free.diverged.size else ()):
        runs, style = first_arm(select(free, width=width)), {"label": f"width {width:g}", "color": f"C{number}"}
        plots.seeds(points, runs.at_point, **style)
        plots.theory(points, runs.layer, runs.law, None)
        plots.seeds(line, runs.everywhere, color=f"C{number}")
        plots.theory(line, runs.layer, np.stack([runs.least, runs.most], axis=1), None, linewidth=0.9)
    plots.theory(points, [], [], "1 − (1 − 2⁻ⁿ)ᴸ")
    biased = select(initial, shift=0.0, bias_scale=lambda scale: scale > 0)
    if np.unique(biased.radius).size > 1:
        shrinking = _shrinking(biased)
        for number, radius in enumerate(np.unique(shrinking.radius.values)[::-1]):
            runs = first_arm(select(shrinking, radius=radius))
            plots.seeds(sets, runs.everywhere, f"1, 1 − r, 1 − 2r, r = {radius:g}", color=f"C{number}")
        plots.theory(sets, runs.layer, runs.law, f"one input, width {float(runs.width):g}")
    asymmetric = select(initial, shift=lambda value: value > 0)
    if asymmetric.diverged.size:
        narrow = first_arm(select(asymmetric, width=float(np.min(asymmetric.width))))
        plots.seeds(sets, narrow.at_point, f"mean of weights > 0, width {float(narrow.width):g}", color="C5")
        plots.theory(sets, narrow.layer, narrow.shifted, "its bound", linestyle=":")
    for number, (centre, rival) in enumerate((("mean", "median"), ("median", "mean"))):
        runs = select(dataset, steps=lambda steps: steps > 0, absolute=float(number))
        if runs.diverged.size:
            runs = first_arm(runs).isel(step=slice(1, None))
            kind, color = ("squared", "absolute")[number], f"C{number}"
            plots.seeds(time, runs.distance, f"{kind} error: to the {centre}", color=color)
            plots.seeds(time, runs.distance_from_rival, f"{kind} error: to the {rival}", color=color, linestyle=":")
    plots.theory(time, dataset.step[[1, -1]] if dataset.step.size > 1 else [1, 2], [1e-6, 1e-6], "allowed at the end")
    titles = (
        "a  at one input, symmetric weights",
        "b  all inputs, no biases; black: theory's bracket",
        "c  with biases, on a shrinking set",
    )
    for axes, title in zip((points, line, sets), titles, strict=True):
        axes.set(title=title, xlabel="hidden layer L", ylabel="share of networks dead by the layer", ylim=(0, 1))
        axes.set_xlim(0, (1.1 if axes is line else 1.75) * dataset.sizes["layer"])  # room for a legend; b's is a's
        axes.set_xticks(np.linspace(0, dataset.sizes["layer"], 5))
    time.set(title="d  trained: born-dead networks", xlabel="step", ylabel="largest distance of an output")
    time.set(xscale="log", yscale="log")
    for axes in figure.axes:
        plots.legend(axes, loc="best" if axes is time else "lower right")
    return figure


NAMES = ("networks", "depth", "most_units", "steps", "width", "bias_scale", "shift", "radius", "absolute", "uniform")


def arms(networks: int, depth: int, widths: tuple, trained: int, steps: int) -> list[tuple]:
    """Rows of the design: normal weights with and without biases, uniform ones, a shrinking set, a mean, training."""
    initial, descents = (networks, depth, max(widths), 0), (trained, 10, 2, steps)
    few = [float(width) for width in widths[:2]]
    return [
        *((*initial, float(width), 0.0, 0.0, 1.0, 0.0, 0.0) for width in widths),
        *((*initial, float(width), 1.0, 0.0, 1.0, 0.0, 0.0) for width in widths[1:3]),
        *((*initial, few[1], 1.0, 0.0, radius, 0.0, 0.0) for radius in (0.1, 0.01)),
        *((*initial, width, 0.0, 0.5, 1.0, 0.0, 0.0) for width in few),
        *((*initial, width, bias, 0.0, 1.0, 0.0, 1.0) for width in few for bias in (0.0, 1.0)),
        *((*descents, 2.0, 0.0, 0.0, 1.0, absolute, 0.0) for absolute in (0.0, 1.0)),
    ]


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 10, NAMES: arms(2000, 40, (2, 3, 4, 5, 6, 8), 50, 600)},
    smoke={"seeds": 4, NAMES: arms(400, 20, (2, 3, 4), 20, 300)},
    paper={"seeds": 50, NAMES: arms(20_000, 100, (2, 3, 4, 5, 6, 8, 10), 1000, 10_000)},
    control={"shift": 0.5},
)
