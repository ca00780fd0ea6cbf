"""Where the flow of a small network's loss leads, with the penalty on its gradient that a finite step size amounts to.

The network has one hidden layer and no biases, x -> v·φ(Uᵀx), and the loss is the mean over the samples of half the
squared error. Its parameters lie in one vector: U (features × width, row by row), then v (width).
"""

import itertools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

BALANCE_BOUND = 1e-9
EVALUATIONS = 5000
ACTIVATIONS: dict[str, tuple[Callable, Callable, Callable]] = {  # φ, φ' and φ''
    "identity": (lambda z: z, np.ones_like, np.zeros_like),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2, lambda z: -2 * np.tanh(z) * (1 - np.tanh(z) ** 2)),
    "relu": (lambda z: np.maximum(z, 0.0), lambda z: (z > 0).astype(float), np.zeros_like),
}


class _RunsAlongAKinkError(Exception):
    """The integration has to stop."""


def modified_flow(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    initial: Float[np.ndarray, "parameter"],
    times: Float[np.ndarray, "step"],
    learning_rate: float,
    momentum: float,
    coefficients: Float[np.ndarray, "coefficient"],
    activation: str = "tanh",
    *,
    displaced: bool = True,
) -> Float[np.ndarray, "coefficient step parameter"]:
    """Return θ(t) on dθ/dt = −∇(L + c·κ‖∇L‖²), κ = learning_rate (1 + momentum)/(1 − momentum), for each c.

    `learning_rate` is the time h that a step takes: momentum β divides the gradient's factor in a step by 1 − β. The
    coefficient c = 1/4 makes the flow follow gradient descent to O(h²), c = 0 to O(h) only (Barrett & Dherin 2021,
    arXiv 2009.11162); the factor (1 + β)/(1 − β) is that of the heavy ball (Ghosh et al. 2023, arXiv
    2302.00849). It follows from θ_{k+1} − θ_k − β (θ_k − θ_{k−1}) = −(1 − β) h ∇L(θ_k): with θ_k = θ(kh) expanded to
    h², (1 − β) θ' + (1 + β) (h/2) θ'' = −(1 − β) ∇L, hence θ' = −∇L − (h/2) (1 + β)/(1 − β) ∇²L ∇L.

    A ball at rest has to pick up speed first: Σ_{j≤k} (1 − β^j) = k − β (1 − β^k)/(1 − β) of its k first steps are
    taken. So where `displaced` the flow starts at θ(0) + h β/(1 − β) ∇L, which is right to O(h²).

    Certificate: the loss lost on the way equals the work −∫ ∇L·θ' dt, an equation integrated along, to 1e-9 of the
    loss, else NaN. It holds across the kinks of a ReLU too, where ∇L jumps and the loss does not. A flow that runs
    along a kink, being driven back from both sides, has no classical solution: NaN after 5000 evaluations.
    Raises ValueError for shapes that do not agree, times below 0, a learning rate <= 0, a momentum outside [0, 1), an
    unknown activation and infinite entries.
    """
    from scipy.integrate import solve_ivp

    X, y, initial = _checked(X, y, initial, activation)
    times = inputs.array("times", times, 1)
    coefficients = inputs.array("coefficients", coefficients, 1)
    h = inputs.number("learning_rate", learning_rate, low=0.0)
    momentum = inputs.number("momentum", momentum, low=0.0, below=1.0)
    if h == 0 or (times < 0).any():
        raise ValueError(
            f"learning_rate is {h:g} and the least of times {times.min():g}; the one must be > 0, no time < 0"
        )
    void = np.full((len(coefficients), len(times), len(initial)), np.nan)
    if not all(np.isfinite(each).all() for each in (X, y, initial, times, coefficients, h, momentum)):
        return void
    penalty = 2 * h * (1 + momentum) / (1 - momentum) * coefficients[:, None]
    begin = initial + displaced * h * momentum / (1 - momentum) * gradient(X, y, initial, activation)

    evaluations = itertools.count()

    def field(_: float, state: np.ndarray) -> np.ndarray:
        if next(evaluations) >= EVALUATIONS:
            raise _RunsAlongAKinkError
        slope, curved = _derivatives(X, y, state.reshape(len(coefficients), -1)[:, :-1], activation)
        moved = -slope - penalty * curved
        return np.concatenate([moved, -(slope * moved).sum(axis=1, keepdims=True)], axis=1).ravel()

    ways = np.tile(np.append(begin, 0.0), len(coefficients))
    if not times.any():
        return np.broadcast_to(begin, void.shape).copy()
    when, place = np.unique(np.append(0.0, times), return_inverse=True)
    try:
        solved = solve_ivp(field, (0.0, when[-1]), ways, method="DOP853", t_eval=when, rtol=1e-12, atol=1e-13)
    except _RunsAlongAKinkError:
        return void
    if not solved.success:
        return void
    path = solved.y.T.reshape(len(when), len(coefficients), -1)
    start = loss(X, y, begin, activation)
    for number in range(len(coefficients)):
        end, work = path[-1, number, :-1], path[-1, number, -1]
        if not abs(start - loss(X, y, end, activation) - work) <= BALANCE_BOUND * start:
            path[:, number] = np.nan
    return path[place.ravel()[1:], :, :-1].transpose(1, 0, 2)


def loss(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "parameter"],
    activation: str = "tanh",
) -> float:
    """Return the mean over the samples of (v·φ(Uᵀx) − y)²/2. Raises ValueError as `modified_flow` does."""
    X, y, weights = _checked(X, y, weights, activation)
    U, v = _layers(weights, X.shape[1])
    return float((((ACTIVATIONS[activation][0](X @ U) @ v) - y) ** 2).mean() / 2)


def gradient(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "parameter"],
    activation: str = "tanh",
) -> Float[np.ndarray, "parameter"]:
    """Return ∇L. Raises ValueError as `modified_flow` does."""
    X, y, weights = _checked(X, y, weights, activation)
    return _derivatives(X, y, weights[None], activation)[0][0]


def half_gradient_of_square(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "parameter"],
    activation: str = "tanh",
) -> Float[np.ndarray, "parameter"]:
    """Return ∇²L ∇L, half the gradient of ‖∇L‖². Raises ValueError as `modified_flow` does."""
    X, y, weights = _checked(X, y, weights, activation)
    return _derivatives(X, y, weights[None], activation)[1][0]


def _checked(X: object, y: object, weights: object, activation: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    X, y = inputs.regression(X, y)
    weights = inputs.array("weights", weights, 1)
    if len(weights) % (X.shape[1] + 1):
        raise ValueError(
            f"weights has {len(weights)} entries; it takes a multiple of {X.shape[1] + 1}, a unit's weights"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; it takes {', '.join(ACTIVATIONS)}")
    return X, y, weights


def _layers(weights: np.ndarray, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Return U and v of each vector along the last axis."""
    width = weights.shape[-1] // (features + 1)
    return weights[..., : features * width].reshape(*weights.shape[:-1], features, width), weights[
        ..., features * width :
    ]


def _derivatives(X: np.ndarray, y: np.ndarray, weights: np.ndarray, activation: str) -> tuple[np.ndarray, np.ndarray]:
    """Return ∇L and ∇²L ∇L for each row of weights: backpropagation, and its derivative along ∇L (Pearlmutter 1994)."""
    activated, slope, curvature = ACTIVATIONS[activation]
    U, v = _layers(weights, X.shape[1])
    joined = lambda first, second: np.concatenate([first.reshape(len(weights), -1), second], axis=1)
    along = lambda hidden, layer: (hidden @ layer[:, :, None])[:, :, 0]
    against = lambda error, hidden: (error[:, None, :] @ hidden)[:, 0, :]
    sums = X @ U
    hidden, D = activated(sums), slope(sums)
    error = (along(hidden, v) - y) / len(X)
    back = error[:, :, None] * v[:, None, :]
    dU, dv = X.T @ (back * D), against(error, hidden)
    moved = X @ dU
    dhidden = D * moved
    derror = (along(dhidden, v) + along(hidden, dv)) / len(X)
    dback = derror[:, :, None] * v[:, None, :] + error[:, :, None] * dv[:, None, :]
    ddU = X.T @ (dback * D + back * curvature(sums) * moved)
    return joined(dU, dv), joined(ddU, against(error, dhidden) + against(derror, hidden))
