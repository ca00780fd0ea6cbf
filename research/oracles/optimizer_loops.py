"""What optimisers do, written out: a few lines of NumPy each, and torch.optim where torch is installed.

The loss is that of one sample a step, (x·w − y)²/2, so that gradients stay of order one and none of the conventions in
which libraries differ is lost in rounding. Decayed means start at zero. g is the gradient, η the learning rate.
"""

from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs


class Settings(NamedTuple):
    """η, ε, the decay of weights λ, and the decays of the mean of gradients and of the mean of their squares."""

    rate: float
    epsilon: float
    weight_decay: float
    b1: float
    b2: float


State = tuple[np.ndarray, np.ndarray, np.ndarray]


def _sgd(w: np.ndarray, m: np.ndarray, v: np.ndarray, g: np.ndarray, t: int, s: Settings) -> State:
    return w - s.rate * g, m, v


def _heavy_ball(w: np.ndarray, m: np.ndarray, v: np.ndarray, g: np.ndarray, t: int, s: Settings) -> State:
    m = s.b1 * m + g
    return w - s.rate * m, m, v


def _ema(w: np.ndarray, m: np.ndarray, v: np.ndarray, g: np.ndarray, t: int, s: Settings) -> State:
    m = s.b1 * m + (1 - s.b1) * g
    return w - s.rate / (1 - s.b1) * m, m, v


def _dampened(w: np.ndarray, m: np.ndarray, v: np.ndarray, g: np.ndarray, t: int, s: Settings) -> State:
    m = g if t == 1 else s.b1 * m + (1 - s.b1) * g
    return w - s.rate / (1 - s.b1) * m, m, v


def _nesterov(w: np.ndarray, m: np.ndarray, v: np.ndarray, g: np.ndarray, t: int, s: Settings) -> State:
    m = s.b1 * m + g
    return w - s.rate * (g + s.b1 * m), m, v


def _adagrad(w: np.ndarray, m: np.ndarray, v: np.ndarray, g: np.ndarray, t: int, s: Settings) -> State:
    v = v + g**2
    return w - s.rate * g / np.sqrt(v), m, v


def _rmsprop(w: np.ndarray, m: np.ndarray, v: np.ndarray, g: np.ndarray, t: int, s: Settings) -> State:
    v = s.b2 * v + (1 - s.b2) * g**2
    return w - s.rate * g / (np.sqrt(v) + s.epsilon), m, v


def _rmsprop_inside(w: np.ndarray, m: np.ndarray, v: np.ndarray, g: np.ndarray, t: int, s: Settings) -> State:
    v = s.b2 * v + (1 - s.b2) * g**2
    return w - s.rate * g / np.sqrt(v + s.epsilon), m, v


def _adam(w: np.ndarray, m: np.ndarray, v: np.ndarray, g: np.ndarray, t: int, s: Settings) -> State:
    m, v = s.b1 * m + (1 - s.b1) * g, s.b2 * v + (1 - s.b2) * g**2
    return w - s.rate * m / (1 - s.b1**t) / (np.sqrt(v / (1 - s.b2**t)) + s.epsilon), m, v


def _adam_coupled(w: np.ndarray, m: np.ndarray, v: np.ndarray, g: np.ndarray, t: int, s: Settings) -> State:
    return _adam(w, m, v, g + s.weight_decay * w, t, s)


def _adamw(w: np.ndarray, m: np.ndarray, v: np.ndarray, g: np.ndarray, t: int, s: Settings) -> State:
    ahead, m, v = _adam(w, m, v, g, t, s)
    return ahead - s.rate * s.weight_decay * w, m, v


LOOPS: dict[str, Callable[..., State]] = {
    "sgd": _sgd,
    "heavy_ball": _heavy_ball,
    "ema": _ema,
    "dampened": _dampened,
    "nesterov": _nesterov,
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "rmsprop_inside": _rmsprop_inside,
    "adam": _adam,
    "adam_coupled": _adam_coupled,
    "adamw": _adamw,
}


def peers(method: str) -> list[str]:
    """Return who else computes it here: "NumPy", and before it "torch" where that is installed and has the method."""
    return [*(["torch"] if method in _TORCH and find_spec("torch") else []), "NumPy"]


def provenance() -> str:
    """Return "torch 2.x and NumPy", with the version that is installed, or "NumPy"."""
    return f"torch {version('torch')} and NumPy" if find_spec("torch") else "NumPy"


def optimizer_path(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    order: Float[np.ndarray, "iteration"],
    initial: Float[np.ndarray, "feature"],
    learning_rate: float,
    epsilon: float,
    weight_decay: float,
    *,
    method: str,
    peer: str = "NumPy",
    b1: float = 0.9,
    b2: float = 0.999,
) -> Float[np.ndarray, "iterate feature"]:
    """Return the weights before and after each iteration; `order` names the sample that each one sees.

    sgd: −ηg. heavy_ball: m ← b1·m + g, −ηm. ema: m ← b1·m + (1 − b1)·g and −η/(1 − b1)·m, the same iterates.
    dampened: torch's dampening = b1, as ema but for its first m, which is g. nesterov: −η(g + b1·m). adagrad:
    −ηg/√Σg², nothing added. rmsprop: v ← b2·v + (1 − b2)·g², −ηg/(√v + ε), no bias correction; rmsprop_inside:
    −ηg/√(v + ε). adam: both moments divided by 1 − bᵗ, ε outside the root (Kingma & Ba 2015, arXiv 1412.6980,
    algorithm 1). adam_coupled: g + λw in place of g; adamw: decoupled, −ηλw (Loshchilov & Hutter 2019, arXiv
    1711.05101). NaN where anything put in is.

    `peer` "torch" asks torch.optim. Raises ValueError for another method or peer, for orders that name no sample,
    shapes that do not agree, infinite entries, and decays outside [0, 1).
    """
    if method not in LOOPS:
        raise ValueError(f"method is {method!r}; it takes one of {', '.join(LOOPS)}")
    if peer not in peers(method):
        raise ValueError(f"peer is {peer!r}; for {method} it takes {' or '.join(peers(method))}")
    X, y = inputs.regression(X, y)
    order, initial = inputs.array("order", order, 1), inputs.vector("initial", initial, X.shape[1], "X has columns")
    known = order[~np.isnan(order)]
    if (known != np.floor(known)).any() or (known < 0).any() or (known >= len(X)).any():
        raise ValueError(f"order has entries that are no sample; it takes whole numbers from 0 to {len(X) - 1}")
    settings = Settings(
        inputs.number("learning_rate", learning_rate, low=0.0),
        inputs.number("epsilon", epsilon, low=0.0),
        inputs.number("weight_decay", weight_decay, low=0.0),
        inputs.number("b1", b1, low=0.0, below=1.0),
        inputs.number("b2", b2, low=0.0, below=1.0),
    )
    if any(np.isnan(each).any() for each in (X, y, order, initial, *settings)):
        return np.full((len(order) + 1, X.shape[1]), np.nan)
    run = _torch_path if peer == "torch" else _numpy_path
    return run(X, y, order.astype(int), initial, method, settings)


def _numpy_path(
    X: np.ndarray, y: np.ndarray, order: np.ndarray, initial: np.ndarray, method: str, settings: Settings
) -> np.ndarray:
    w, m, v, path = initial, np.zeros(len(initial)), np.zeros(len(initial)), [initial]
    for t, i in enumerate(order, 1):
        w, m, v = LOOPS[method](w, m, v, (X[i] @ w - y[i]) * X[i], t, settings)
        path.append(w)
    return np.array(path)


_TORCH: dict[str, tuple[str, Callable[[Settings], dict[str, Any]]]] = {
    "sgd": ("SGD", lambda s: {}),
    "heavy_ball": ("SGD", lambda s: {"momentum": s.b1}),
    "dampened": ("SGD", lambda s: {"lr": s.rate / (1 - s.b1), "momentum": s.b1, "dampening": s.b1}),
    "nesterov": ("SGD", lambda s: {"momentum": s.b1, "nesterov": True}),
    "adagrad": ("Adagrad", lambda s: {"eps": 0.0}),
    "rmsprop": ("RMSprop", lambda s: {"alpha": s.b2, "eps": s.epsilon}),
    "adam": ("Adam", lambda s: {"betas": (s.b1, s.b2), "eps": s.epsilon}),
    "adam_coupled": ("Adam", lambda s: {"betas": (s.b1, s.b2), "eps": s.epsilon, "weight_decay": s.weight_decay}),
    "adamw": ("AdamW", lambda s: {"betas": (s.b1, s.b2), "eps": s.epsilon, "weight_decay": s.weight_decay}),
}


def _torch_path(
    X: np.ndarray, y: np.ndarray, order: np.ndarray, initial: np.ndarray, method: str, settings: Settings
) -> np.ndarray:
    import torch

    name, options = _TORCH[method]
    w = torch.tensor(initial, dtype=torch.float64)
    optimizer = getattr(torch.optim, name)([w], **{"lr": settings.rate, **options(settings)})
    path = [initial]
    for i in order:
        w.grad = torch.as_tensor((X[i] @ w.numpy() - y[i]) * X[i])
        optimizer.step()
        path.append(w.numpy().copy())
    return np.array(path)
