"""A heavy ball off the quadratic: on a plateau of constant slope, down a landscape as a body with friction.

v ← βv + f'(w), w ← w − ηv is, to first order in the step √η of time, the body x″ + c·x′ + f'(x) = 0 of mass one with
the friction c = (1 − β)/√η, n steps being the time n√η (Polyak 1964; Qian 1999, "On the momentum term in gradient
descent learning algorithms").
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

BALANCE = 1e-6


def plateau_position(
    steps: Float[np.ndarray, "step"], slope: float, learning_rate: float, momentum: float
) -> Float[np.ndarray, "step"]:
    """Return how far a descent from rest has come on f(x) = −slope·x: ηg/(1 − β) · (n − β(1 − βⁿ)/(1 − β)).

    v after n steps is g(1 − βⁿ)/(1 − β); this is η times its sum. Late it moves by ηg/(1 − β) a step and is β/(1 − β)
    steps behind a descent that did so from the start. NaN for NaN. Raises ValueError for negative steps or rate, and a
    momentum outside [0, 1).
    """
    n, g = inputs.array("steps", steps, 1), inputs.number("slope", slope)
    rate = inputs.number("learning_rate", learning_rate, low=0.0)
    beta = inputs.number("momentum", momentum, low=0.0, below=1.0)
    if (n < 0).any():
        raise ValueError(f"steps has the entry {n.min():g}; it takes numbers from 0")
    return rate * g / (1 - beta) * (n - beta * (1 - beta**n) / (1 - beta))


def plateau_crossing(distance: float, slope: float, learning_rate: float, momentum: float) -> float:
    """Return the first step after which `plateau_position` is at least `distance`, by bisection over whole numbers.

    NaN for NaN. Raises ValueError as that does, and for a distance, slope or rate that is not positive.
    """
    if np.isnan([distance, slope, learning_rate, momentum]).any():
        return float("nan")
    if min(distance, slope, learning_rate) <= 0:
        raise ValueError("distance, slope and learning_rate have to be positive; one of them is not")
    come = lambda n: plateau_position(np.array([float(n)]), slope, learning_rate, momentum)[0]
    low, high = 0, 1
    while come(high) < distance:
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if come(middle) < distance else (low, middle)
    return float(high)


def saddle_growth(curvature: float, learning_rate: float, momentum: float) -> float:
    """Return by what a descent moves away from a saddle or a maximum in a step: the larger root of the heavy ball.

    f(x) = −curvature·x²/2; the root of z² − (1 + β + ηh)z + β, and 1 + ηh for β = 0. NaN for NaN. Raises ValueError for
    a negative curvature or rate, and a momentum outside [0, 1).
    """
    h = inputs.number("curvature", curvature, low=0.0)
    rate = inputs.number("learning_rate", learning_rate, low=0.0)
    beta = inputs.number("momentum", momentum, low=0.0, below=1.0)
    middle = (1 + beta + rate * h) / 2
    return float(middle + np.sqrt(middle**2 - beta))


def overshoot(distance: float, slope: float, curvature: float, learning_rate: float, momentum: float) -> float:
    """Return how far beyond the minimum the body gets that comes off a plateau, over the plateau's slope/curvature.

    f' = −g for x < 0, hx − g beyond: the plateau has the length `distance`, and the minimum lies at g/h. Zero where the
    friction lets it creep in. Correct to first order in √(ηh) for the descent.

    Certificate: the energy lost is the friction's work ∫ c·x′² dt to 1e-6 of it, else NaN. NaN for NaN. Raises
    ValueError for a number that is not positive (the momentum may be 0).
    """
    named = {"distance": distance, "slope": slope, "curvature": curvature, "learning_rate": learning_rate}
    d, g, h, rate = (inputs.number(name, value, low=0.0) for name, value in named.items())
    beta = inputs.number("momentum", momentum, low=0.0, below=1.0)
    if np.isnan([d, g, h, rate, beta]).any():
        return float("nan")
    if min(d, g, h, rate) == 0:
        raise ValueError("distance, slope, curvature and learning_rate have to be positive; one of them is 0")
    potential = lambda x: np.where(x < 0, -g * x, h * x**2 / 2 - g * x)
    force = lambda x: np.where(x < 0, g, g - h * x)
    friction = (1 - beta) / rate**0.5
    # the time to cross at the terminal speed, or from rest without friction, then two swings and the creeping
    time = max(d * friction / g, (2 * d / g) ** 0.5) * 1.5 + 10 / h**0.5 + 10 * friction / h
    turns = lambda _, state: state[1]
    turns.direction = -1.0  # type: ignore[attr-defined]
    turns.terminal = True  # type: ignore[attr-defined]
    last = _rolled(np.array([-d]), np.zeros(1), potential, force, friction, time, turns)[0]
    return float(max(last * h / g - 1, 0.0))


def dented_bowl(x: np.ndarray, depth: float) -> tuple[np.ndarray, np.ndarray]:
    """Return f(x) = x²/2 − depth·exp(−(x − 2)²/0.18), a bowl with a dent of width 0.3 at 2, and its derivative."""
    dent = depth * np.exp(-((x - 2) ** 2) / 0.18)
    return x**2 / 2 - dent, x + dent * (x - 2) / 0.09


def resting_place(
    start: Float[np.ndarray, "place"], depth: float, friction: float, time: float
) -> Float[np.ndarray, "place"]:
    """Return where bodies of mass one, let go at rest in the `dented_bowl`, are after that time.

    Explicit Runge–Kutta method of order 8. Certificate: of each body the energy that is lost is the friction's work, to
    1e-6 of what it began with, else NaN. NaN for NaN. Raises ValueError for a negative depth, friction or time.
    """
    start, depth = inputs.array("start", start, 1), inputs.number("depth", depth, low=0.0)
    friction, time = inputs.number("friction", friction, low=0.0), inputs.number("time", time, low=0.0)
    if np.isnan(start).any() or np.isnan([depth, friction, time]).any():
        return np.full(len(start), np.nan)
    potential, force = (lambda x: dented_bowl(x, depth)[0]), (lambda x: -dented_bowl(x, depth)[1])
    return _rolled(start, np.zeros(len(start)), potential, force, friction, time)


def _rolled(
    start: np.ndarray,
    velocity: np.ndarray,
    potential: Callable[[np.ndarray], np.ndarray],
    force: Callable[[np.ndarray], np.ndarray],
    friction: float,
    time: float,
    event: Callable | None = None,
) -> np.ndarray:
    from scipy.integrate import solve_ivp

    count = len(start)

    def field(_: float, state: np.ndarray) -> np.ndarray:
        x, speed = state[:count], state[count : 2 * count]
        return np.concatenate([speed, force(x) - friction * speed, friction * speed**2])

    begin = np.concatenate([start, velocity, np.zeros(count)])
    solved = solve_ivp(field, (0.0, time), begin, "DOP853", rtol=1e-8, atol=1e-10, events=event)
    x, speed, work = solved.y[:count], solved.y[count : 2 * count], solved.y[2 * count :]
    energy = potential(x) + speed**2 / 2
    scale = energy[:, 0] - potential(x).min(axis=1)
    balanced = np.abs(energy[:, 0] - energy[:, -1] - work[:, -1]) <= BALANCE * scale + 1e-9
    return np.asarray(np.where(balanced & solved.success, x[:, -1], np.nan))
