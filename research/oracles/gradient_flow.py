"""The gradient flow of a tanh network and the sharpness along it, by an adaptive Runge–Kutta method and ARPACK.

The network has `depth` hidden layers of `width` tanh units with biases and a linear readout. Its parameters lie in one
vector, inputs first, each kernel (inputs × outputs, row by row) with its bias behind it. The loss is the mean over the
samples of half the squared length of the error ("squared_error"), or of the cross-entropy in nats ("cross_entropy",
targets that add up to 1). Sharpness is the largest eigenvalue of its Hessian.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

LOSSES = ("squared_error", "cross_entropy")
BALANCE_BOUND = 1e-3  # of the loss at the start
RESIDUAL_BOUND = 1e-4  # of the sharpness
EVALUATIONS = 1_000_000


def flow_sharpness(
    X: Float[np.ndarray, "sample feature"],
    Y: Float[np.ndarray, "sample label"],
    initial: Float[np.ndarray, "parameter"],
    times: Float[np.ndarray, "time"],
    budget: float,
    width: float,
    depth: float,
    loss: str = "squared_error",
) -> Float[np.ndarray, "time"]:
    """Return the sharpness λ on dθ/dt = −∇L(θ) from θ(0) = `initial`, at each of the increasing `times` (from 0).

    The flow is followed until λ·t exceeds `budget`, and NaN stands behind that: an explicit method takes about λ·t/3
    steps. Gradient descent with the rate η gets to the flow's time t in t/η steps, so with a budget of 2·c·steps every
    descent of that many steps whose answer is cut off has met c times its 2/η before.

    Certificate: the loss lost on the way equals ∫‖∇L‖² dt, integrated along, to 1e-3 of the first loss, and each
    λ has a residual ‖Hv − λv‖ <= 1e-4 λ, else NaN throughout; so too after a million gradients.
    Raises ValueError for shapes that do not agree, times that do not increase from 0 or more, another loss.
    """
    from scipy.integrate import solve_ivp

    network = _checked(X, Y, initial, width, depth, loss)
    times, budget = inputs.array("times", times, 1), inputs.number("budget", budget, low=0.0)
    if (times < 0).any() or (np.diff(times) <= 0).any():
        raise ValueError(f"times is {times}; it takes numbers that increase from 0 or more")
    found = np.full(len(times), np.nan)
    if np.isnan([network.X.sum(), network.Y.sum(), network.vector.sum(), times.sum(), budget]).any():
        return found
    start = _loss(network)
    evaluations = 0

    def field(_: float, state: np.ndarray) -> np.ndarray:
        nonlocal evaluations
        evaluations += 1
        slope = _gradient(network._replace(vector=state[:-1]))
        return np.append(-slope, slope @ slope)

    state, now, guess, last = np.append(network.vector, 0.0), 0.0, None, None
    for place, time in enumerate(times):
        if time > now:
            options: dict[str, float] = {} if last is None else {"first_step": min(last, time - now)}
            # at the limit of the method's stability its errors dissipate too: a tighter one, or the balance is off
            solved = solve_ivp(field, (now, time), state, method="RK45", rtol=1e-6, atol=1e-8, **options)
            if not solved.success or evaluations > EVALUATIONS:
                return np.full_like(found, np.nan)
            state, now = solved.y[:, -1], time
            last = np.diff(solved.t)[:-1].max() if len(solved.t) > 2 else last
        here = network._replace(vector=state[:-1])
        if not abs(start - _loss(here) - state[-1]) <= BALANCE_BOUND * start:
            return np.full_like(found, np.nan)
        found[place], guess = _largest(here, guess)
        if np.isnan(found[place]):
            return np.full_like(found, np.nan)
        if found[place] * time > budget:
            break
    return found


def sharpness(
    X: Float[np.ndarray, "sample feature"],
    Y: Float[np.ndarray, "sample label"],
    weights: Float[np.ndarray, "parameter"],
    width: float,
    depth: float,
    loss: str = "squared_error",
) -> float:
    """Return the largest eigenvalue of the Hessian, by ARPACK; NaN where its residual exceeds 1e-4 of it.

    Raises ValueError as `flow_sharpness` does.
    """
    network = _checked(X, Y, weights, width, depth, loss)
    if np.isnan([network.X.sum(), network.Y.sum(), network.vector.sum()]).any():
        return float("nan")
    return _largest(network, None)[0]


class _Network(NamedTuple):
    X: np.ndarray
    Y: np.ndarray
    vector: np.ndarray
    sizes: tuple[int, ...]
    loss: str


def _checked(X: object, Y: object, vector: object, width: object, depth: object, loss: str) -> _Network:
    X, Y, vector = inputs.array("X", X, 2), inputs.array("Y", Y, 2), inputs.array("weights", vector, 1)
    layers = int(inputs.number("depth", depth, low=1.0))
    units = int(inputs.number("width", width, low=1.0))
    if loss not in LOSSES:
        raise ValueError(f"loss is {loss!r}; it takes {', '.join(LOSSES)}")
    if len(X) != len(Y):
        raise ValueError(f"Y has {len(Y)} rows; it takes {len(X)}, as many as X")
    sizes = (X.shape[1], *[units] * layers, Y.shape[1])
    entries = sum((rows + 1) * columns for rows, columns in pairwise(sizes))
    if len(vector) != entries:
        raise ValueError(f"weights has {len(vector)} entries; it takes {entries}, for layers of {sizes}")
    return _Network(X, Y, vector, sizes, loss)


def _layers(vector: np.ndarray, sizes: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the kernel and the bias of each layer, as views of the vector."""
    layers, end = [], 0
    for rows, columns in pairwise(sizes):
        begin, end = end, end + (rows + 1) * columns
        layers.append((vector[begin : end - columns].reshape(rows, columns), vector[end - columns : end]))
    return layers


def _forward(network: _Network) -> list[np.ndarray]:
    """Return the inputs, the outputs of each hidden layer and the logits."""
    layers, seen = _layers(network.vector, network.sizes), [network.X]
    for number, (kernel, bias) in enumerate(layers, 1):
        sums = seen[-1] @ kernel + bias
        seen.append(np.tanh(sums) if number < len(layers) else sums)
    return seen


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _loss(network: _Network) -> float:
    logits = _forward(network)[-1]
    if network.loss == "squared_error":
        return float(((logits - network.Y) ** 2).sum() / len(network.X) / 2)
    largest = logits.max(axis=1, keepdims=True)
    logs = logits - largest - np.log(np.exp(logits - largest).sum(axis=1, keepdims=True))
    return float(-(network.Y * logs).sum() / len(network.X))


def _error(network: _Network, logits: np.ndarray) -> np.ndarray:
    outputs = logits if network.loss == "squared_error" else _softmax(logits)
    return (outputs - network.Y) / len(network.X)


def _gradient(network: _Network) -> np.ndarray:
    """Return ∇L, by backpropagation."""
    seen, answer = _forward(network), np.empty_like(network.vector)
    back = _error(network, seen[-1])
    layers = _layers(network.vector, network.sizes)
    for (kernel, _), (slope, shift), below in zip(
        layers[::-1], _layers(answer, network.sizes)[::-1], seen[-2::-1], strict=True
    ):
        slope[:], shift[:] = below.T @ back, back.sum(axis=0)
        back = (back @ kernel.T) * (1 - below**2)  # of the inputs it is not used
    return answer


def _hessian_product(network: _Network, seen: list[np.ndarray], along: np.ndarray) -> np.ndarray:
    """Return H·along: the derivative of backpropagation in that direction (Pearlmutter 1994)."""
    layers, moves = _layers(network.vector, network.sizes), _layers(along, network.sizes)
    moved = [np.zeros_like(network.X)]
    for number, ((kernel, _), (dkernel, dbias)) in enumerate(zip(layers, moves, strict=True), 1):
        sums = moved[-1] @ kernel + seen[number - 1] @ dkernel + dbias
        moved.append(sums * (1 - seen[number] ** 2) if number < len(layers) else sums)
    back, dback = _error(network, seen[-1]), moved[-1] / len(network.X)
    if network.loss == "cross_entropy":
        shares = _softmax(seen[-1])
        dback = shares * (dback - (shares * dback).sum(axis=1, keepdims=True))
    answer = np.empty_like(along)
    parts = _layers(answer, network.sizes)
    for number in range(len(layers) - 1, -1, -1):
        (kernel, _), (dkernel, _), below, dbelow = layers[number], moves[number], seen[number], moved[number]
        parts[number][0][:] = dbelow.T @ back + below.T @ dback
        parts[number][1][:] = dback.sum(axis=0)
        slope, through = 1 - below**2, back @ kernel.T
        dback = (dback @ kernel.T + back @ dkernel.T) * slope - 2 * through * below * dbelow
        back = through * slope
    return answer


def _largest(network: _Network, guess: np.ndarray | None) -> tuple[float, np.ndarray | None]:
    """Return the largest eigenvalue and its vector, begun at `guess`; NaN where it has not been found."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    seen, size = _forward(network), len(network.vector)
    product = lambda vector: _hessian_product(network, seen, np.ascontiguousarray(vector).reshape(-1))
    begin = np.random.default_rng(0).normal(size=size)
    if guess is not None:  # with a share of everything, lest another eigenvector has overtaken
        begin = guess + 0.1 * begin / np.linalg.norm(begin)
    try:
        values, vectors = eigsh(LinearOperator((size, size), product, dtype=float), 1, which="LA", v0=begin, tol=1e-6)
    except ArpackNoConvergence:
        return float("nan"), None
    value, vector = float(values[0]), vectors[:, 0]
    sound = np.linalg.norm(product(vector) - value * vector) <= RESIDUAL_BOUND * abs(value)
    return (value, vector) if sound else (float("nan"), None)
