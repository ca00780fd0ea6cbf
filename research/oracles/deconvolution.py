"""Zeiler & Fergus' projection of a unit back to pixels, written out for a small convolutional network.

The network: two convolutions (cross-correlations with zeros around, odd filters, channels last) with ReLU and 2 × 2
max-pooling behind each, a hidden layer with ReLU, a linear readout. The way back is written out layer by layer:
unpooling puts each value where the maximum was (of equal ones at the first), rectification is a maximum with zero,
filtering adds each value times its filter to the places that the filter looked at. Zeiler & Fergus 2013, arXiv
1311.2901, section 2.1; guided backpropagation: Springenberg et al. 2014, arXiv 1412.6806, section 3.4.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

TIE = 1e-12  # relative distance of the two largest in a window below which rounding may decide


class Stage(NamedTuple):
    """What a convolution with its pooling has seen: sums before the ReLU, and where in each window the maximum was."""

    sums: np.ndarray
    switches: np.ndarray
    tied: np.ndarray


def unit_projections(
    pictures: Float[np.ndarray, "unit row column"],
    first: Float[np.ndarray, "side across filter"],
    first_bias: Float[np.ndarray, "filter"],
    second: Float[np.ndarray, "side across filter deeper"],
    second_bias: Float[np.ndarray, "deeper"],
    hidden: Float[np.ndarray, "flat within"],
    hidden_bias: Float[np.ndarray, "within"],
    readout: Float[np.ndarray, "within label"],
    readout_bias: Float[np.ndarray, "label"],
    layer: Float[np.ndarray, "unit"],
    place: Float[np.ndarray, "unit"],
    channel: Float[np.ndarray, "unit"],
    masked: float,
    rectified: float,
) -> Float[np.ndarray, "unit row column"]:
    """Return what each picture shows to its unit, the unit sending back its own output, rectified.

    Unit i is channel `channel[i]` of layer `layer[i]` (0 and 1 convolutions, 2 hidden, 3 readout) at place `place[i]`
    of the map, row by row, before the ReLU. At a ReLU on the way back `masked` 1 lets pass only where the ReLU was
    open, `rectified` 1 only what is positive: deconvnet (0, 1), guided backpropagation (1, 1), gradient (1, 0).

    Certificate: NaN for pictures in which the two largest of a window differ, but by less than 1e-12 of them, so that
    rounding decides. Of equal ones, which patches of zeros leave, the first is taken. NaN in gives NaN out. Raises
    ValueError for shapes that do not fit, and units or flags that there are not.
    """
    pictures = inputs.array("pictures", pictures, 3)
    kernels = inputs.array("first", first, 3)[:, :, None, :], inputs.array("second", second, 4)
    biases = inputs.array("first_bias", first_bias, 1), inputs.array("second_bias", second_bias, 1)
    dense = [inputs.array(name, value, 2) for name, value in (("hidden", hidden), ("readout", readout))]
    shifts = [inputs.array("hidden_bias", hidden_bias, 1), inputs.array("readout_bias", readout_bias, 1)]
    units = [inputs.array(name, value, 1) for name, value in (("layer", layer), ("place", place), ("channel", channel))]
    for name, flag in (("masked", masked), ("rectified", rectified)):
        if flag not in (0, 1):
            raise ValueError(f"{name} is {flag}; it takes 0 or 1")
    if kernels[0].shape[0] % 2 == 0 or kernels[1].shape[2] != kernels[0].shape[3]:
        raise ValueError(f"second has shape {kernels[1].shape} behind first {kernels[0].shape}; it takes odd sides")
    values = [pictures, *kernels, *biases, *dense, *shifts, *units]
    if any(np.isnan(each).any() for each in values):
        return np.full(pictures.shape, np.nan)

    outputs, stages = pictures[..., None], list[Stage]()
    for kernel, bias in zip(kernels, biases, strict=True):
        outputs, stage = _stage(outputs, kernel, bias)
        stages.append(stage)
    flat = outputs.reshape(len(pictures), -1)
    if flat.shape[1] != len(dense[0]):
        raise ValueError(f"hidden has shape {dense[0].shape}; it takes {flat.shape[1]} inputs")
    sums = flat @ dense[0] + shifts[0]
    logits = np.maximum(sums, 0) @ dense[1] + shifts[1]

    maps = [stages[0].sums, stages[1].sums, sums[:, None, None, :], logits[:, None, None, :]]
    seeds = [_seeds(each, number, *units) for number, each in enumerate(maps)]
    at_relu = lambda back, sums: np.where((sums > 0) | (masked == 0), np.maximum(back, 0) if rectified else back, 0.0)
    back = at_relu(seeds[3][:, 0, 0] @ dense[1].T, sums) + seeds[2][:, 0, 0]
    back = (back @ dense[0].T).reshape(outputs.shape)
    for kernel, stage, seed in zip(kernels[::-1], stages[::-1], seeds[1::-1], strict=True):
        back = at_relu(unpooled(back, stage.switches), stage.sums) + seed
        back = transposed_convolution(back, kernel)
    tied = np.any([stage.tied for stage in stages], axis=0)
    return np.where(tied[:, None, None], np.nan, back[..., 0])


def logits(
    pictures: Float[np.ndarray, "picture row column"],
    first: Float[np.ndarray, "side across filter"],
    first_bias: Float[np.ndarray, "filter"],
    second: Float[np.ndarray, "side across filter deeper"],
    second_bias: Float[np.ndarray, "deeper"],
    hidden: Float[np.ndarray, "flat within"],
    hidden_bias: Float[np.ndarray, "within"],
    readout: Float[np.ndarray, "within label"],
    readout_bias: Float[np.ndarray, "label"],
) -> Float[np.ndarray, "picture label"]:
    """Return what the network says of each picture; NaN in gives NaN out. Raises ValueError as `unit_projections`."""
    outputs = inputs.array("pictures", pictures, 3)[..., None]
    kernels = inputs.array("first", first, 3)[:, :, None, :], inputs.array("second", second, 4)
    biases = inputs.array("first_bias", first_bias, 1), inputs.array("second_bias", second_bias, 1)
    for kernel, bias in zip(kernels, biases, strict=True):
        outputs = _stage(outputs, kernel, bias)[0]
    inner, outer = inputs.array("hidden", hidden, 2), inputs.array("readout", readout, 2)
    flat = outputs.reshape(len(outputs), -1)
    if flat.shape[1] != len(inner):
        raise ValueError(f"hidden has shape {inner.shape}; it takes {flat.shape[1]} inputs")
    sums = flat @ inner + inputs.array("hidden_bias", hidden_bias, 1)
    return np.asarray(np.maximum(sums, 0) @ outer + inputs.array("readout_bias", readout_bias, 1))


def convolution(maps: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return Σ kernel[i, j, c, f] · maps[:, r + i − s, q + j − s, c], s half the side, zeros outside the map."""
    side = len(kernel)
    padded = np.pad(maps, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
    return np.einsum("nrqcij,ijcf->nrqf", patches, kernel, optimize=True)


def transposed_convolution(maps: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return the adjoint of `convolution`: each value, times its filter, added where the filter looked."""
    side, (count, rows, columns, _) = len(kernel), maps.shape
    padded = np.zeros((count, rows + side - 1, columns + side - 1, kernel.shape[2]))
    for i in range(side):
        for j in range(side):
            padded[:, i : i + rows, j : j + columns] += maps @ kernel[i, j].T
    return padded[:, side // 2 :][:, :rows, side // 2 :][:, :, :columns]


def unpooled(maps: np.ndarray, switches: np.ndarray) -> np.ndarray:
    """Return maps of twice the size with each value at its switch (0 to 3 in its 2 × 2 window), zeros elsewhere."""
    windows = maps[..., None] * (switches[..., None] == np.arange(4))
    count, rows, columns, channels = maps.shape
    return (
        windows.reshape(count, rows, columns, channels, 2, 2)
        .transpose(0, 1, 4, 2, 5, 3)
        .reshape(count, 2 * rows, 2 * columns, channels)
    )


def _stage(maps: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, Stage]:
    """Convolution, ReLU and pooling: what comes out, and what the way back needs."""
    sums = convolution(maps, kernel) + bias
    count, rows, columns, filters = sums.shape
    if rows % 2 or columns % 2:
        raise ValueError(f"pictures are pooled from {rows} × {columns}; it takes sides that are multiples of 4")
    windows = np.maximum(sums, 0).reshape(count, rows // 2, 2, columns // 2, 2, filters)
    windows = windows.transpose(0, 1, 3, 5, 2, 4).reshape(count, rows // 2, columns // 2, filters, 4)
    second, largest = np.moveaxis(np.sort(windows, axis=-1)[..., -2:], -1, 0)
    tied = ((largest > second) & (largest - second <= TIE * largest)).any(axis=(1, 2, 3))
    return windows.max(axis=-1), Stage(sums, windows.argmax(axis=-1), tied)


def _seeds(maps: np.ndarray, number: int, layer: np.ndarray, place: np.ndarray, channel: np.ndarray) -> np.ndarray:
    """Zeros but for each picture's unit, where it is in this layer: there its output, rectified."""
    seeds, flat = np.zeros(maps.shape), maps.reshape(len(maps), -1, maps.shape[-1])
    for picture in np.flatnonzero(layer == number):
        where = (int(place[picture]), int(channel[picture]))
        if not (0 <= where[0] < flat.shape[1] and 0 <= where[1] < flat.shape[2]):
            raise ValueError(f"place, channel is {where}; layer {number} has {flat.shape[1:]}")
        seeds.reshape(flat.shape)[picture, where[0], where[1]] = max(flat[picture, where[0], where[1]], 0.0)
    return seeds
