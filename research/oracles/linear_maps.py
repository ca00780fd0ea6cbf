"""How clear the maps of a linear convolutional network are: its layers as matrices, what they hold, their spectrum.

The network: 3 × 3 convolutions (cross-correlations with zeros around) without bias or ReLU, mean-pooling of 2 × 2
between the first and the second. Each map is a matrix times the picture, so that what can be read off it and where its
spectrum lies follow from the pictures' moments alone. An invertible matrix takes nothing from what can be read off: a
3 × 3 convolution with zeros around is invertible but for exceptional filters, so that its blur shows in the spectrum
only. The share of one map can rise from the first layer to the second, which sums several maps.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs
from research.oracles.clarity import decodable_share
from research.oracles.convolution import correlation_matrix


class Clarity(NamedTuple):
    """Of each map of the first layer, of the same mean-pooled, and of the second: what can be read off, and frequency.

    Shares are those of `decodable_share` (of the first layer's maps they are 1, but for singular filters), frequencies
    the mean frequency of the map's power without its mean, in cycles a pixel of the picture; NaN for a constant map.
    """

    share: Float[np.ndarray, "filter"]
    pooled_share: Float[np.ndarray, "filter"]
    second_share: Float[np.ndarray, "deeper"]
    frequency: Float[np.ndarray, "filter"]
    pooled_frequency: Float[np.ndarray, "filter"]
    second_frequency: Float[np.ndarray, "deeper"]


def padded_correlation(kernel: Float[np.ndarray, "side across"], size: int) -> Float[np.ndarray, "output pixel"]:
    """Return the matrix of the cross-correlation of a square picture with zeros around it, of the picture's size.

    Raises ValueError for a kernel with an even side, which has no middle.
    """
    kernel = inputs.array("kernel", kernel, 2)
    if kernel.shape[0] % 2 == 0 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"kernel has shape {kernel.shape}; it takes a square of odd side")
    margin = kernel.shape[0] // 2
    whole = correlation_matrix(kernel, size + 2 * margin, size + 2 * margin)
    inner = np.pad(np.ones((size, size), bool), margin).ravel()
    return whole[:, inner]


def mean_pooling(size: int) -> Float[np.ndarray, "output pixel"]:
    """Return the matrix of 2 × 2 mean-pooling of a square picture of even size."""
    if size < 2 or size % 2:
        raise ValueError(f"size is {size}; it takes an even number from 2")
    along = np.kron(np.eye(size // 2), np.full((1, 2), 0.5))
    return np.kron(along, along)


def linear_maps(
    first: Float[np.ndarray, "height width filter"], second: Float[np.ndarray, "height width filter deeper"], size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the matrices (map, place, pixel) of the first layer, of the same pooled, and of the second layer."""
    first, second = inputs.array("first", first, 3), inputs.array("second", second, 4)
    if second.shape[2] != first.shape[2]:
        raise ValueError(f"second takes {second.shape[2]} maps; first has {first.shape[2]}")
    fine = np.stack([padded_correlation(kernel, size) for kernel in np.moveaxis(first, 2, 0)])
    pooled = mean_pooling(size) @ fine
    deeper = [
        sum(padded_correlation(second[:, :, i, j], size // 2) @ pooled[i] for i in range(len(pooled)))
        for j in range(second.shape[3])
    ]
    return fine, pooled, np.stack(deeper)


def mean_frequency(moments: Float[np.ndarray, "place other"], spacing: int) -> float:
    """Return the mean frequency of square maps with these second moments, without each map's mean, in 1/pixels.

    `spacing` is the distance of neighbours in pixels. The power at a frequency is a quadratic form in the moments.
    """
    size = round(len(moments) ** 0.5)
    wave = np.exp(-2j * np.pi * np.outer(np.arange(size), np.arange(size)) / size)
    waves = np.kron(wave, wave)
    power = np.einsum("kp,pq,kq->k", waves, moments, waves.conj(), optimize=True).real
    along = np.abs(np.fft.fftfreq(size, spacing))
    frequency = np.hypot(along[:, None], along[None, :]).ravel()
    power[0] = 0.0
    return float(power @ frequency / power.sum()) if power.sum() > 0 else float("nan")


def linear_clarity(
    first: Float[np.ndarray, "height width filter"],
    second: Float[np.ndarray, "height width filter deeper"],
    covariance: Float[np.ndarray, "pixel other"],
    average: Float[np.ndarray, "pixel"],
) -> Clarity:
    """Return how clear the maps of the linear network are on pictures with this covariance and this mean picture.

    NaN in gives NaN. Raises ValueError for shapes that do not fit and pictures that are not square with even side.
    """
    covariance = inputs.array("covariance", covariance, 2)
    average = inputs.vector("average", average, len(covariance), "covariance has rows")
    size = round(len(covariance) ** 0.5)
    if size**2 != len(covariance):
        raise ValueError(f"covariance has {len(covariance)} rows; it takes those of a square picture")
    layers = linear_maps(first, second, size)
    void = [np.full(len(layer), np.nan) for layer in layers]
    if any(np.isnan(each).any() for each in (*layers, covariance, average)):
        return Clarity(*void, *void)
    total = float(np.trace(covariance))
    seen = covariance + np.outer(average, average)
    shares = [
        np.array([decodable_share(M @ covariance @ M.T, M @ covariance, total) for M in layer]) for layer in layers
    ]
    frequencies = [
        np.array([mean_frequency(M @ seen @ M.T, spacing) for M in layer])
        for layer, spacing in zip(layers, (1, 2, 2), strict=True)
    ]
    return Clarity(*shares, *frequencies)
