"""How the modes of a deep linear network grow under gradient flow, and how much later they come under descent.

The network is the product of `depth` matrices and the loss half the squared Frobenius distance to the target (half the
sum of squared errors on whitened inputs, divided by their number). Where every layer starts with the same strength
w0 = initial^(1/depth) along matching singular vectors, a mode of singular value s stays apart from the others: dw/dt =
w^(depth−1) (s − w^depth), and its strength a = w^depth obeys da/dt = depth·a^(2 − 2/depth) (s − a) (Saxe, McClelland &
Ganguli 2014, arXiv 1312.6120; Arora, Cohen & Hazan 2018, arXiv 1802.06509).
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

ERROR_BOUND = 1e-9


def deep_linear_modes(
    s: float, initial: float, depth: int, time: Float[np.ndarray, "step"]
) -> Float[np.ndarray, "step"]:
    """Return the strength of a mode at these times: s·e^(2st)/(e^(2st) − 1 + s/initial) for depth 2.

    Depth 1 is the exponential s − (s − initial)·e^−t. From depth 3 on the equation of w is integrated.

    Certificate: from depth 3 on, |da/dt| times the difference between `time_to_reach` that strength, a quadrature, and
    the time is at most 1e-9·s, else NaN. What is within 1e-9·s of s is taken for s.
    Raises ValueError for s or initial <= 0, a depth that is no whole number from 1, times < 0 and infinite entries.
    """
    s, initial, depth = _checked(s, initial, depth)
    time = inputs.array("time", time, 1)
    if (time < 0).any():
        raise ValueError(f"time has the entry {time.min():g}; it takes times from 0")
    if np.isnan([s, initial]).any() or np.isnan(time).any():
        return np.full(time.shape, np.nan)
    if depth == 1:
        return s - (s - initial) * np.exp(-time)
    if depth == 2:
        left = np.exp(-2 * s * time)
        return s / (1 - left + s / initial * left)
    from scipy.integrate import solve_ivp

    when, place = np.unique(np.append(0.0, time), return_inverse=True)
    if len(when) == 1:
        return np.full(time.shape, initial)
    field = lambda t, w: w ** (depth - 1) * (s - w**depth)
    start = [initial ** (1 / depth)]
    solved = solve_ivp(field, (0, when[-1]), start, method="DOP853", t_eval=when, rtol=1e-12, atol=1e-15)
    strength = solved.y[0] ** depth if solved.success else np.full(when.shape, np.nan)
    strength = np.clip(strength, min(initial, s), max(initial, s))
    speed = depth * strength ** (2 - 2 / depth) * np.abs(s - strength)
    # next to s the time is not resolved, nor needed: there the flow moves by less than the bound for ever
    there = np.abs(s - strength) <= ERROR_BOUND * s
    late = [
        0.0 if close else t - time_to_reach(s, initial, depth, a)
        for t, a, close in zip(when, strength, there, strict=True)
    ]
    good = np.all(speed * np.abs(late) <= ERROR_BOUND * s)
    return strength[place.ravel()[1:]] if good else np.full(time.shape, np.nan)


def time_to_reach(s: float, initial: float, depth: int, strength: float) -> float:
    """Return the time at which the mode has that strength; ln(s/initial − 1)/(2s) for depth 2 and half of s.

    By dt = dw/(w^(depth−1) (s − w^depth)), whose singular parts are integrated by hand: with w^depth = s·x the rest is
    a quadrature. Infinite for the strength s; NaN for one that the mode never has.
    Raises ValueError as `deep_linear_modes` does.
    """
    s, initial, depth = _checked(s, initial, depth)
    strength = inputs.number("strength", strength)
    if np.isnan([s, initial, strength]).any() or not min(initial, s) <= strength <= max(initial, s):
        return float("nan")
    if strength == s != initial:
        return float("inf")
    if strength == initial:
        return 0.0
    ends = np.array([initial, strength])
    # 1/(w^(L−1) (s − w^L)) = (w^(1−L) + w/(s − w^L))/s; the pole of the latter is that of s^(2/L − 1) w^(L−1)/(s − w^L)
    pole = -(s ** (2 / depth - 1)) / depth * np.log(np.abs(s - ends))
    w = ends ** (1 / depth)
    power = np.log(w) if depth == 2 else -(w ** (2 - depth)) / (depth - 2)
    if depth <= 2:  # w/(s − w^L) dw = −d ln(s − a)/2 for L = 2, and the pole is all; for L = 1 the sum is −ln(s − w)
        whole = -np.log(np.abs(s - ends)) if depth == 1 else (power + pole) / s
        return float(whole[1] - whole[0])
    from scipy.integrate import quad

    def rest(w: float) -> float:
        """w/(s − w^L) less its pole s^(2/L − 1) w^(L−1)/(s − w^L), regular at s − w^L = 0."""
        top = s ** (1 / depth)
        x = w / top
        powers = sum(x**k for k in range(depth))  # (1 − x^L)/(1 − x)
        fewer = sum(x**k for k in range(depth - 2))  # (1 − x^(L−2))/(1 − x)
        return float(x * fewer / powers * top ** (1 - depth))

    middle = quad(rest, *w, epsabs=0.0, epsrel=1e-12, limit=200)[0]
    return float((power[1] - power[0] + pole[1] - pole[0] + middle) / s)


def descent_delay(s: float, initial: float, depth: int, strength: float) -> float:
    """Return by how much later descent has that strength than the flow, per unit of learning rate, to first order.

    Half of ln(f(w)/f(w0)), f = w^(depth−1) (s − w^depth): a step η of dw/dt = f follows dw/dt = f·(1 − η f'/2) to
    second order, so that dt = (1 + η f'/2) dw/f, and f'/f integrates to ln f. NaN for a strength that the mode never
    has. Raises ValueError as `deep_linear_modes` does.
    """
    s, initial, depth = _checked(s, initial, depth)
    strength = inputs.number("strength", strength)
    if np.isnan([s, initial, strength]).any() or not min(initial, s) <= strength <= max(initial, s):
        return float("nan")
    speed = lambda a: (1 - 1 / depth) * np.log(a) + np.log(np.abs(s - a))
    return float((speed(strength) - speed(initial)) / 2) if strength != initial else 0.0


def _checked(s: object, initial: object, depth: object) -> tuple[float, float, int]:
    s, initial = inputs.number("s", s, low=0.0), inputs.number("initial", initial, low=0.0)
    whole = inputs.number("depth", depth, low=1.0)
    for name, value in (("s", s), ("initial", initial)):
        if value == 0:
            raise ValueError(f"{name} is 0; it takes a number above 0")
    if whole != round(whole):
        raise ValueError(f"depth is {depth!r}; it takes a whole number from 1")
    return s, initial, int(whole)
