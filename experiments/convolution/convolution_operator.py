"""A convolutional layer is a matrix product that commutes with shifts; pooling keeps one value in four.

Claim: What Flax and `jax.lax` call a convolution is a cross-correlation: a doubly block Toeplitz matrix times the
picture, as `scipy.signal.correlate2d`; the turned kernel of the signal processors gives something else. It commutes
with shifts of the picture: exactly in the interior, not at padded borders, and with a stride only by its multiples. A
Sobel kernel on a step of height h is 4h beside the edge and 0 elsewhere, on a ramp 8 times the slope. Pooling of
windows k with stride s leaves floor((n − k)/s) + 1 values a side, one in four for k = s = 2, and its gradient puts
what comes back at the maxima, no more and no less. That pooling makes a network invariant to small shifts is half
true: of white noise a shift by one leaves a third of the maxima as they were, of a bright column half.

Source: Textbook (Goodfellow, Bengio & Courville 2016, Deep Learning, sections 9.1 to 9.3); Dumoulin & Visin 2016, arXiv
1603.07285, relationships 6 and 7 for sizes; the share (k − d)/(k + d) of maxima that stay is derived in
research/oracles/convolution.py. That networks with pooling are not shift-invariant: Zhang 2019, arXiv 1904.11486.

Departure: None of this needs training, so the axes are seed and shift. Pictures are white noise and digits. Whether
filters that a network has learnt are edge detectors is asked in feature_projections.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import linen
from jaxtyping import Array, Float

from research import plots
from research.experiment import Experiment, Finding
from research.labels import first_arm, lift, per_seed, select
from research.oracles.convolution import correlation, pooled_size, toeplitz_product, unchanged_share
from research.statistics import every_seed, over_seeds
from research.vision import pictures

SOBEL = np.array([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
CASES = [(size, window, stride) for size in range(4, 14) for window in (2, 3, 4) for stride in (1, 2, 3)]


class Measures(NamedTuple):
    picture: Float[Array, "row column"]
    kernel: Float[Array, "side across"]
    made: Float[Array, "output"]
    turned: Float[Array, "output"]
    interior: Float[Array, ""]
    border: Float[Array, ""]
    strided: Float[Array, ""]
    height: Float[Array, ""]
    edge: Float[Array, "along beside"]
    slope: Float[Array, ""]
    ramp: Float[Array, ""]
    sizes: Float[Array, "case"]
    mass: Float[Array, ""]
    places: Float[Array, ""]
    noise_kept: Float[Array, ""]
    pixel_kept: Float[Array, ""]
    digit_moved: Float[Array, ""]
    digit_pooled: Float[Array, ""]


def simulate(key: Array, shift: float, turn: float = 0.0, *, size: int = 16, noise: int = 128) -> Measures:
    """A Flax convolution, 3 × 3, of white noise, of a step, a ramp and digits; 2 × 2 max-pooling of the same.

    `shift` moves pictures to the right, in pixels; `turn` 1 turns the kernel as a mathematician's convolution does.
    `interior`, `border` and `strided` are the largest differences between the layer of the shifted picture and the
    shifted layer (stride 2: by half the shift), `mass` that of what comes back through pooling to what was sent.
    """
    counts = [size**2, 9, size**2 // 4, noise**2, 2]  # one draw compiles faster than five
    drawn = jnp.split(jax.random.uniform(key, (sum(counts),), minval=-1.0), np.cumsum(counts)[:-1])
    move = lambda maps, by: jnp.roll(maps, by, axis=2)
    by = jnp.rint(shift).astype(int)
    layer: Any = lambda kernels, maps, padding, strides: linen.Conv(
        kernels.shape[-1], (3, 3), strides=strides, padding=padding, use_bias=False
    ).apply({"params": {"kernel": kernels[:, :, None]}}, maps)
    pool = lambda maps: linen.max_pool(maps, (2, 2), (2, 2))
    picture, kernel = drawn[0].reshape(1, size, size, 1), drawn[1].reshape(3, 3)
    turned = kernel[::-1, ::-1]
    both = jnp.stack([jnp.where(turn > 0, turned, kernel), turned], axis=-1)
    made, turned = jnp.moveaxis(layer(both, picture, "VALID", 1)[0], -1, 0)

    beside = jnp.arange(size)[None, None, :, None]
    shifted = jnp.concatenate([picture, move(picture, by)])
    fine, coarse = (layer(kernel[..., None], shifted, "SAME", strides) for strides in (1, 2))
    off = jnp.abs(fine[1:] - move(fine[:1], by))
    inside = (beside > by) & (beside < size - 1)  # away from what has been wrapped around, and from the padding
    apart = jnp.abs(coarse[1:] - move(coarse[:1], by // 2))[:, 1:-1, size // 4 : -1]

    height, slope = 1.5 + drawn[4]
    edges = jnp.concatenate([height * (beside >= size // 2), slope * beside])
    edges = jnp.broadcast_to(edges, (2, size, size, 1))
    edge, ramp = layer(jnp.asarray(SOBEL, picture.dtype)[..., None], edges, "VALID", 1)[..., 0]

    pooled, back = jax.vjp(pool, picture)
    sent = 1.5 + drawn[2].reshape(pooled.shape)
    (came,) = back(sent)
    windows = came.reshape(size // 2, 2, size // 2, 2)
    sizes = [
        jax.eval_shape(lambda maps, k=k, s=s: linen.max_pool(maps, (k, k), (s, s)), jnp.zeros((1, n, n, 1))).shape[1]
        for n, k, s in CASES
    ]
    field = drawn[3].reshape(1, noise, noise, 1)
    pooled_both = lambda maps: jnp.split(pool(jnp.concatenate([maps, move(maps, by)])), 2)
    same = lambda maps: jnp.equal(*pooled_both(maps))
    lone = jnp.eye(size)[:, None, :, None] * jnp.ones((1, size, 1, 1))  # a bright column, once at every place
    places = slice(size // 4, -(size // 4))
    digits = jnp.asarray(pictures("digits").test[:100], picture.dtype)[..., None]
    digits = jnp.pad(digits, ((0, 0), (0, 0), (4, 4), (0, 0)))
    moved = lambda maps, other: jnp.sqrt(jnp.sum((other - maps) ** 2) / jnp.sum(maps**2))
    number = lambda condition: jnp.asarray(condition, picture.dtype)
    return Measures(
        picture=picture[0, :, :, 0],
        kernel=kernel,
        made=made.ravel(),
        turned=turned.ravel(),
        interior=jnp.max(jnp.where(inside, off[:, 1:-1], 0)),
        border=jnp.max(off),
        strided=jnp.max(apart),
        height=height,
        edge=edge,
        slope=slope,
        ramp=jnp.max(jnp.abs(ramp / (8 * slope) - 1)),
        sizes=number(sizes),
        mass=jnp.abs(jnp.sum(came) - jnp.sum(sent)) / jnp.sum(sent),
        places=number(jnp.max(jnp.sum(windows != 0, axis=(1, 3)))),
        noise_kept=jnp.mean(same(field), dtype=picture.dtype),
        pixel_kept=jnp.mean(jnp.all(same(lone[places]), axis=(1, 2, 3)), dtype=picture.dtype),
        digit_moved=moved(digits, move(digits, by)),
        digit_pooled=moved(*pooled_both(digits)),
    )


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The layer as a matrix product and as SciPy has it, Sobel's answer to a step, sizes and what pooling keeps."""
    product = lift(toeplitz_product, dataset.picture, dataset.kernel)
    scipy = lift(correlation, dataset.picture, dataset.kernel)
    gap = lambda found, told: (abs(found - told) / abs(told).max("output", skipna=False)).max("output", skipna=False)
    beside = np.arange(dataset.sizes["beside"])
    edge = xr.DataArray(np.isin(beside, (len(beside) // 2 - 1, len(beside) // 2)) * 4.0, dims="beside")
    fits = xr.DataArray([float(pooled_size(*case)) for case in CASES], dims="case")
    share = xr.apply_ufunc(np.vectorize(lambda shift: unchanged_share(2, int(shift))), dataset["shift"].astype(float))
    return dataset.assign(
        product=product,
        gap=gap(dataset.made, product),
        scipy_gap=gap(dataset.made, scipy),
        turned_gap=gap(dataset.turned, product),
        edge_gap=(abs(dataset.edge / dataset.height - edge)).max(["along", "beside"], skipna=False),
        size_gap=abs(dataset["sizes"] - fits).max("case"),
        expected_share=share,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The layer's identity, what commutes with shifts, edges, and pooling's size, gradient and (in)variance."""
    found: list[Finding] = []
    odd, even = (select(dataset, shift=lambda value, rest=rest: value % 2 == rest) for rest in (1, 0))

    def add(what: str, band: tuple[float, float], values: xr.DataArray, spread: str = "all") -> None:
        if values.size:
            found.append(Finding.of(what, band, (every_seed if spread == "all" else over_seeds)(per_seed(values))))

    add("3 × 3 layer against the Toeplitz product, largest difference over the largest value", (0, 1e-12), dataset.gap)
    add("the same against scipy.signal.correlate2d", (0, 1e-12), dataset.scipy_gap)
    add("with the kernel turned, as in mathematics: the same", (0, np.inf), dataset.turned_gap)
    add("layer of the shifted picture less the shifted layer, interior", (0, 1e-12), dataset.interior)
    add("the same at the padded border", (0, np.inf), dataset.border)
    add("stride 2, even shifts: the same, interior", (0, 1e-12), even.strided)
    add("stride 2, odd shifts: the same, interior", (0, np.inf), odd.strided)
    add("Sobel on a step over its height, distance to 4 beside the edge and 0 elsewhere", (0, 1e-12), dataset.edge_gap)
    add("Sobel on a ramp over 8 slopes, distance to 1", (0, 1e-12), dataset.ramp)
    add(f"values left a side in {len(CASES)} poolings, distance to floor((n − k)/s) + 1", (0, 0), dataset.size_gap)
    add("max-pooling: sum of what comes back over what was sent, distance to 1", (0, 1e-12), dataset.mass)
    add("max-pooling: places of a window that something comes back to, the most", (1, 1), dataset.places)
    one = select(dataset, shift=1)
    if one.noise_kept.size:
        # dependent neighbours: at most four windows share a pixel of the union, so count a quarter of them
        windows = (int(one.noise.max()) // 2) ** 2 * one.sizes["seed"] / 4
        off = 5 * (2 / 9 / windows) ** 0.5
        kept = "shift by one: share of 2 × 2 maxima of white noise that stay"
        add(f"{kept} (theory 1/3)", (1 / 3 - off, 1 / 3 + off), one.noise_kept, "mean")
        add("shift by one: share of places from which a bright column moves no maximum", (0.5, 0.5), one.pixel_kept)
        ratio = one.digit_pooled / one.digit_moved
        level = f"{float(one.digit_pooled.mean()):.2f} of {float(one.digit_moved.mean()):.2f}"
        add(f"shift by one: relative change of pooled digits over that of digits ({level})", (0, 1), ratio)
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """The layer against the matrix product; an edge; what is lost of maxima by shifts."""
    figure, panels = plots.figure(1, 3, "What convolution and pooling do", (4.6, 3.8))
    same, edge, kept = panels[0]
    plots.points(same, dataset["product"], dataset.turned, "kernel turned", color="C1", alpha=0.15)
    plots.points(same, dataset["product"], dataset.made, "the layer", color="C0", alpha=0.3)
    plots.theory(same, same.get_xlim(), same.get_xlim(), "equal")
    same.set(title="a  a layer is a Toeplitz product", xlabel="matrix times picture", ylabel="output of the layer")
    run = first_arm(dataset)
    values = (run.edge.mean("along") / run.height).transpose("seed", "beside")
    place = np.arange(values.sizes["beside"]) + 1
    plots.seeds(edge, values.assign_coords(beside=place), "Sobel", marker="o", ms=4)
    expected = np.where(np.isin(place, (len(place) // 2, len(place) // 2 + 1)), 4.0, 0.0)
    plots.theory(edge, place, expected, "4 beside the edge")
    edge.set(title="b  an edge detector on a step", xlabel="column", ylabel="response over the step's height")
    shifts = np.unique(dataset["shift"].values)
    for number, (name, label) in enumerate((("noise_kept", "white noise"), ("pixel_kept", "bright column"))):
        plots.points(kept, dataset["shift"], dataset[name], label, color=f"C{number}", markersize=4)
    rows = np.linspace(0, shifts.max(), 50)
    plots.theory(kept, rows, np.maximum((2 - rows) / (2 + rows), 0), "(2 − d)/(2 + d)")
    plots.theory(kept, rows, np.maximum(1 - rows / 2, 0), "1 − d/2", linestyle=":")
    kept.set(
        title="c  2 × 2 pooling forgives small shifts, in part",
        xlabel="shift d in pixels",
        ylabel="share of maxima unchanged",
    )
    for axes in panels[0]:
        plots.legend(axes)
    return figure


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, "shift": (0.0, 1.0, 2.0, 3.0)},
    smoke={"seeds": 2, "shift": (1.0, 2.0)},
    paper={"seeds": 64, "size": 64, "noise": 1024},
    control={"turn": 1.0},
)
