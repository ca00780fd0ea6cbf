from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from research.oracles import cycle


def test_the_cycle_of_the_paper():
    # p = 792/1225, q = -2208/1225, r = 2592/1225
    expected = [-2208 / 1225, 2592 / 1225, 792 / 1225]
    np.testing.assert_allclose(cycle.three_cycle(), expected, rtol=1e-15)
    assert cycle.contraction() == pytest.approx((2 / 3) ** 3, abs=1e-6)


def ended(start, rate, momentum, steps=400):
    x, before = start, start
    seen = []
    for _ in range(steps):
        x, before = (1 + momentum) * x - momentum * before - rate * float(cycle.gradient(x)), x
        seen.append(x)
    return np.array(seen[-3:])


def test_a_descent_near_the_cycle_is_drawn_to_it():
    points = cycle.three_cycle()
    last = ended(3.3, 1 / 9, 4 / 9)
    assert min(np.abs(last - np.roll(points, turn)).max() for turn in range(3)) < 1e-12
    assert np.abs(ended(0.5, 1 / 9, 4 / 9)).max() < 1e-12
    assert np.abs(ended(3.3, 1 / 25, 4 / 9)).max() < 1e-6


def test_three_steps_contract_as_finite_differences_say():
    def turned(state):
        x, before = state
        for _ in range(3):
            x, before = 13 / 9 * x - 4 / 9 * before - float(cycle.gradient(x)) / 9, x
        return np.array([x, before])

    points = cycle.three_cycle()
    at = np.array([points[1], points[0]])
    np.testing.assert_allclose(turned(at), at, atol=1e-14)
    jacobian = np.array([(turned(at + 1e-3 * e) - turned(at - 1e-3 * e)) / 2e-3 for e in np.eye(2)]).T
    assert cycle.contraction() == pytest.approx(np.abs(np.linalg.eigvals(jacobian)).max(), abs=1e-6)


def test_the_gradient_is_continuous_and_strongly_monotone():
    x = [Fraction(number, 100) for number in range(-300, 400)]
    slopes = [(cycle.gradient(b) - cycle.gradient(a)) / (b - a) for a, b in pairwise(x)]
    assert min(slopes) == 1
    assert max(slopes) == 25


def test_descent_keeps_below_its_bound_and_reaches_it():
    start, steps = np.array([-3.0, 0.7, 3.3]), np.arange(40.0)
    bound = cycle.descent_bound(start, steps)
    x = start.copy()
    for t in range(40):
        assert (np.abs(x) <= bound[t] * (1 + 1e-12)).all()
        x = x - np.array([float(cycle.gradient(each)) for each in x]) / 13
    assert np.abs(x[1]) == pytest.approx(0.7 * (12 / 13) ** 40)
    assert cycle.descent_bound(start, np.array([40.0]))[0, 1] == pytest.approx(np.abs(x[1]))
    assert np.isnan(cycle.descent_bound(np.array([np.nan]), steps)).all()
    with pytest.raises(ValueError, match="smallest is 3"):
        cycle.descent_bound(start, steps, 3.0, 2.0)
    with pytest.raises(ValueError, match="steps has"):
        cycle.descent_bound(start, -steps)


def test_a_wrong_cycle_is_void(monkeypatch):
    monkeypatch.setattr(cycle, "PIECES", (*cycle.PIECES[:2], (Fraction(25), Fraction(24))))
    assert np.isnan(cycle.three_cycle()).all()
