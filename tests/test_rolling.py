import math

import numpy as np
import pytest

from research.oracles import rolling
from research.oracles.rolling import (
    dented_bowl,
    overshoot,
    plateau_crossing,
    plateau_position,
    resting_place,
    saddle_growth,
)

STEPS = np.arange(200.0)


def heavy_ball(force, x, rate, beta, steps):
    v, path = 0.0, [x]
    for _ in range(steps - 1):
        v = beta * v - force(x)
        x -= rate * v
        path.append(x)
    return np.array(path)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.99])
def test_plateau_position_is_the_sum_of_the_steps(beta):
    path = heavy_ball(lambda x: 0.3, 0.0, 0.01, beta, 200)
    np.testing.assert_allclose(plateau_position(STEPS, 0.3, 0.01, beta), path, atol=1e-13)
    # late: β/(1 − β) steps behind one that has its last speed from the start
    late = plateau_position(np.array([1e5]), 0.3, 0.01, beta)[0] / (0.003 / (1 - beta))
    assert 1e5 - late == pytest.approx(beta / (1 - beta), abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_saddle_growth_is_the_late_ratio(beta):
    path = heavy_ball(lambda x: 2.0 * x, 1e-6, 0.05, beta, 200)
    assert path[-1] / path[-2] == pytest.approx(saddle_growth(2.0, 0.05, beta), rel=1e-9)
    assert saddle_growth(2.0, 0.05, 0.0) == pytest.approx(1.1)


@pytest.mark.parametrize("beta", [0.9, 0.99])
def test_overshoot_is_the_limit_of_small_steps(beta):
    # the same body at smaller and smaller steps: the friction (1 − β)/√η stays
    gaps = []
    for shrink in (1.0, 4.0):
        rate, momentum = 0.01 / shrink**2, 1 - (1 - beta) / shrink
        path = heavy_ball(lambda x: 1.0 if x < 0 else 1.0 - x, -5.0, rate, momentum, int(2000 * shrink))
        gaps.append(abs(path.max() - 1 - overshoot(5.0, 1.0, 1.0, rate, momentum)))
    assert gaps[1] < gaps[0] / 2.5
    assert gaps[0] < 0.1


def test_overshoot_without_friction_and_with_much():
    # without friction all of the energy g·d + g²/2h comes back: h a²/2 with a the way beyond the minimum
    assert overshoot(5.0, 1.0, 1.0, 1e-4, 0.9999999) == pytest.approx(math.sqrt(11), rel=1e-3)
    assert overshoot(5.0, 1.0, 1.0, 1e-2, 0.0) == pytest.approx(0.0, abs=1e-6)


def test_plateau_crossing_is_the_first_step_beyond():
    for beta in (0.0, 0.9, 0.99):
        n = plateau_crossing(5.0, 1.0, 0.01, beta)
        before, after = plateau_position(np.array([n - 1, n]), 1.0, 0.01, beta)
        assert before < 5.0 <= after
    assert plateau_crossing(1.0, 1.0, 0.3, 0.0) == 4.0


def test_resting_place_without_a_dent_is_an_oscillator(monkeypatch):
    start, friction, time = np.array([1.0, -2.0]), 0.4, 3.0
    omega = math.sqrt(1 - friction**2 / 4)
    exact = start * math.exp(-friction * time / 2)
    exact = exact * (math.cos(omega * time) + friction / 2 / omega * math.sin(omega * time))
    np.testing.assert_allclose(resting_place(start, 0.0, friction, time), exact, rtol=1e-7)
    # a force that is not the potential's fails the certificate
    monkeypatch.setattr(rolling, "dented_bowl", lambda x, depth: (x**2 / 2, 2 * x))
    assert np.isnan(resting_place(start, 0.0, friction, time)).all()


def test_the_dent_holds_what_creeps_and_not_what_rolls():
    x = np.array([0.3, 1.7, 2.2])
    values, slopes = dented_bowl(x, 2.0)
    np.testing.assert_allclose((dented_bowl(x + 1e-6, 2.0)[0] - values) / 1e-6, slopes, atol=1e-4)
    creeping, rolling_on = (resting_place(np.array([3.5]), 2.0, friction, 60.0)[0] for friction in (5.0, 0.2))
    assert creeping == pytest.approx(2, abs=0.2)
    assert abs(rolling_on) < 0.1
    assert abs(dented_bowl(np.array([creeping]), 2.0)[1][0]) < 1e-6


def test_nan_in_gives_nan_and_bad_input_is_named():
    assert np.isnan(plateau_position(STEPS, math.nan, 0.1, 0.0)).all()
    assert np.isnan(resting_place(STEPS, math.nan, 1.0, 1.0)).all()
    assert math.isnan(plateau_crossing(math.nan, 1.0, 0.1, 0.0))
    assert math.isnan(saddle_growth(1.0, math.nan, 0.5))
    assert math.isnan(overshoot(1.0, 1.0, 1.0, 0.1, math.nan))
    for message, call in (
        ("momentum is 1", lambda: plateau_position(STEPS, 1.0, 0.1, 1.0)),
        ("steps has", lambda: plateau_position(-STEPS, 1.0, 0.1, 0.5)),
        ("curvature is -1", lambda: saddle_growth(-1.0, 0.1, 0.5)),
        ("one of them is not", lambda: plateau_crossing(1.0, -1.0, 0.1, 0.5)),
        ("friction is -1", lambda: resting_place(STEPS, 1.0, -1.0, 1.0)),
        ("one of them is 0", lambda: overshoot(0.0, 1.0, 1.0, 0.1, 0.5)),
    ):
        with pytest.raises(ValueError, match=message):
            call()
