"""L, ‖∇L‖² and E‖g_i‖² of a deep sigmoid classifier, and their gradients: backpropagation, and back through that.

The network has `depth` hidden layers of `width` logistic units and a softmax readout; the loss L is the mean
cross-entropy, g_i the gradient of a sample's. Its parameters lie in one vector: of each layer the kernel (inputs ×
outputs, row by row), then the bias.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs


class Slopes(NamedTuple):
    """L, ‖∇L‖² and E‖g_i‖², ∇L, and the gradient of a sum of the two squares."""

    loss: float
    square: float
    moment: float
    of_loss: np.ndarray
    of_squares: np.ndarray


def moments(
    X: Float[np.ndarray, "sample feature"],
    labels: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "parameter"],
    width: int,
    depth: int,
) -> tuple[float, float, float]:
    """Return L, ‖∇L‖² and E‖g_i‖² = E Σ_l ‖δ_l‖² (1 + ‖h_(l−1)‖²), whose difference is tr C.

    Raises ValueError for shapes that do not agree, and labels that are not whole.
    """
    slopes = _checked_slopes(X, labels, weights, width, depth, (0.0, lambda _: 0.0))
    return slopes.loss, slopes.square, slopes.moment


def gradients(
    X: Float[np.ndarray, "sample feature"],
    labels: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "parameter"],
    width: int,
    depth: int,
) -> Float[np.ndarray, "function parameter"]:
    """Return the gradients of those three. Raises ValueError as `moments`."""
    first = _checked_slopes(X, labels, weights, width, depth, (1.0, lambda _: 0.0))
    second = _checked_slopes(X, labels, weights, width, depth, (0.0, lambda _: 1.0))
    return np.stack([first.of_loss, first.of_squares, second.of_squares])


def one_hot(labels: np.ndarray) -> np.ndarray:
    """Return the labels 0, 1, … as rows (sample, class). Raises ValueError for others."""
    if (labels < 0).any() or (labels != np.rint(labels)).any():
        raise ValueError(f"labels has entries such as {labels.min():g}; it takes whole numbers from 0 on")
    return np.eye(int(labels.max()) + 1)[labels.astype(int)]


def layer_shapes(features: int, width: int, depth: int, classes: int, parameters: int) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of every kernel. Raises ValueError unless that takes so many parameters."""
    sizes = [features, *[width] * depth, classes]
    shapes = list(pairwise(sizes))
    needed = sum((rows + 1) * columns for rows, columns in shapes)
    if parameters != needed:
        raise ValueError(f"initial has {parameters} entries; layers of {sizes} units have {needed} weights and biases")
    return shapes


def _checked_slopes(
    X: object, labels: object, weights: object, width: int, depth: int, shares: tuple[float, Callable[[float], float]]
) -> Slopes:
    X, labels = inputs.regression(X, labels)
    weights, targets = inputs.array("initial", weights, 1), one_hot(labels)
    return slopes_of(
        X, targets, weights, layer_shapes(X.shape[1], width, depth, targets.shape[1], len(weights)), shares
    )


def _layers(weights: np.ndarray, shapes: list[tuple[int, int]]) -> list[tuple[np.ndarray, np.ndarray]]:
    layers, place = [], 0
    for rows, columns in shapes:
        middle, end = place + rows * columns, place + (rows + 1) * columns
        layers.append((weights[place:middle].reshape(rows, columns), weights[middle:end]))
        place = end
    return layers


def forward(X: np.ndarray, weights: np.ndarray, shapes: list[tuple[int, int]]) -> tuple[list[np.ndarray], list]:
    """Return the outputs of every layer, the inputs first and the logits last, and the layers."""
    layers, outputs = _layers(weights, shapes), [X]
    for kernel, bias in layers:
        sums = outputs[-1] @ kernel + bias
        outputs.append(1 / (1 + np.exp(-sums)) if len(outputs) < len(layers) else sums)
    return outputs, layers


def slopes_of(
    X: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    shapes: list[tuple[int, int]],
    shares: tuple[float, Callable[[float], float]],
) -> Slopes:
    """Backpropagation, and backpropagation through it for those shares of ‖∇L‖² and E‖g_i‖²."""
    outputs, layers = forward(X, weights, shapes)
    logits, count = outputs.pop(), len(X)
    shifted = logits - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(shifted)
    total = probabilities.sum(axis=1, keepdims=True)
    probabilities /= total
    loss = float((np.log(total[:, 0]) - (shifted * targets).sum(axis=1)).mean())
    errors, backward = [probabilities - targets], []  # δ_l of the layers from the last to the first, and Wᵀδ before φ'
    for (kernel, _), hidden in zip(layers[:0:-1], outputs[:0:-1], strict=True):
        backward.append(errors[-1] @ kernel.T)
        errors.append(backward[-1] * hidden * (1 - hidden))
    errors, backward = errors[::-1], backward[::-1]
    slopes = [(hidden.T @ error / count, error.mean(axis=0)) for hidden, error in zip(outputs, errors, strict=True)]
    lengths = [1 + (hidden**2).sum(axis=1, keepdims=True) for hidden in outputs]
    sizes = [(error**2).sum(axis=1, keepdims=True) for error in errors]
    # Both functions are Σ f(δ_l, h_(l−1)): here are the derivatives of their weighted sum by δ_l and by h_(l−1).
    own = float(sum((size * length).mean() for size, length in zip(sizes, lengths, strict=True)))
    square, moment = 2 * shares[0] / count, 2 * shares[1](own) / count
    by_error = [
        square * (hidden @ slope + shift) + moment * length * error
        for hidden, (slope, shift), length, error in zip(outputs, slopes, lengths, errors, strict=True)
    ]
    by_output = [
        square * error @ slope.T + moment * size * hidden
        for error, (slope, _), size, hidden in zip(errors, slopes, sizes, outputs, strict=True)
    ]
    return Slopes(
        loss,
        float(sum((slope**2).sum() + (shift**2).sum() for slope, shift in slopes)),
        own,
        _joined(slopes),
        _joined(_through(outputs, layers, errors, backward, probabilities, by_error, by_output)),
    )


def _through(
    outputs: list[np.ndarray],
    layers: list,
    errors: list[np.ndarray],
    backward: list[np.ndarray],
    probabilities: np.ndarray,
    by_error: list[np.ndarray],
    by_output: list[np.ndarray],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The gradient of a function of the errors δ_l and outputs h_(l−1), back through both passes."""
    found, by_sum, carried = [], [], by_error[0]
    for number, (kernel, _) in enumerate(layers[1:]):
        hidden = outputs[number + 1]
        steep = hidden * (1 - hidden)
        by_sum.append(carried * backward[number] * steep * (1 - 2 * hidden))
        carried, before = by_error[number + 1] + (carried * steep) @ kernel, carried * steep
        found.append(before.T @ errors[number + 1])
    along = probabilities * (carried - (probabilities * carried).sum(axis=1, keepdims=True))
    answer = []
    for number in range(len(layers) - 1, -1, -1):
        kernel, hidden = layers[number][0], outputs[number]
        twice = found[number - 1] if number else 0.0
        answer.append((hidden.T @ along + twice, along.sum(axis=0)))
        if number:
            along = (along @ kernel.T + by_output[number]) * hidden * (1 - hidden) + by_sum[number - 1]
    return answer[::-1]


def _joined(layers: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.concatenate([part.ravel() for layer in layers for part in layer])
