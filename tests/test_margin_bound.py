import numpy as np
import pytest

from research.oracles.margin_bound import margin_gap_bound, power_sum


def test_power_sum_is_the_sum_at_each_step():
    steps = np.array([1.0, 7.0, 3.0, np.nan])
    for exponent in (0.0, 0.5, 1.0, 2.0):
        expected = [sum(s**-exponent for s in range(1, int(t) + 1)) for t in steps[:3]]
        np.testing.assert_allclose(power_sum(steps, exponent)[:3], expected, rtol=1e-14)
        assert np.isnan(power_sum(steps, exponent)[3])
    assert np.isnan(power_sum(np.array([np.nan]), 1.0)).all()
    assert power_sum(np.array([1e5]), 2.0)[0] == pytest.approx(np.pi**2 / 6, rel=1e-4)


@pytest.mark.parametrize("order", [1, 2, np.inf])
def test_steepest_descent_in_plain_numpy_stays_below_the_bound_and_comes_near_it(order):
    # one vector a coordinate and its mirror image in no other: Z = R·I, whose largest margins are known
    features, rate, exponent = 8, 1.0, 0.5
    Z = np.eye(features)  # dual norms: 1 in every norm
    width = {1: 1 / features, 2: features**-0.5, np.inf: 1.0}[order]
    w, gaps, last = np.zeros(features), [], 3000
    for t in range(1, last + 1):
        g = -np.exp(-Z @ w - np.max(-Z @ w)) @ Z
        g = g / np.abs(g).sum()
        step = {
            1: np.where(np.arange(features) == np.abs(g).argmax(), np.sign(g), 0.0),
            2: g / np.linalg.norm(g),
            np.inf: np.sign(g),
        }[order]
        w = w - rate * t**-exponent * step
        gaps.append(1 - (Z @ w).min() / np.linalg.norm(w, order) / width)
    steps = np.arange(1.0, last + 1)
    bound = margin_gap_bound(steps, rate, exponent, features, width)
    assert (np.array(gaps) <= bound).all()
    assert bound[-1] < {1: 1.0, 2: 0.4, np.inf: 0.15}[order]


def test_the_bound_is_what_a_smooth_function_can_lose():
    # f = ln N + R² Σ η²/2 − γ Σ η at ‖w‖ = Σ η: with each of its three terms by itself
    step, rate = np.array([1.0, 4.0]), 0.5
    np.testing.assert_allclose(margin_gap_bound(step, rate, 0.0, 1.0, 1.0), [rate / 2] * 2)  # no entropy at N = 1
    np.testing.assert_allclose(margin_gap_bound(step, 1e-9, 0.0, np.e, 1.0), 1e9 / step, rtol=1e-6)  # no curvature
    twice = margin_gap_bound(step, rate, 0.5, 9.0, 0.4)
    np.testing.assert_allclose(twice, 2 * margin_gap_bound(step, rate, 0.5, 9.0, 0.8))
    t = np.array([1e4, 1e5])  # Σ 1/s and Σ s^-1/2 by Euler and Maclaurin
    expected = (np.log(3) + 2 * (np.log(t) + np.euler_gamma)) / (0.1 * 2 * (2 * t**0.5 - 1.4603545))
    np.testing.assert_allclose(margin_gap_bound(t, 2.0, 0.5, 3.0, 0.1), expected, rtol=1e-4)


def test_bad_input_is_named_and_nan_gives_nan():
    step = np.array([1.0, 2.0])
    for message, arguments in {
        "learning_rate is 0": (step, 0.0, 0.5, 3.0, 1.0),
        "width is -1": (step, 1.0, 0.5, 3.0, -1.0),
        "vectors is 0": (step, 1.0, 0.5, 0.0, 1.0),
        "step has the entry 0": (np.array([0.0, 1.0]), 1.0, 0.5, 3.0, 1.0),
        "step has the entry 1.5": (np.array([1.5]), 1.0, 0.5, 3.0, 1.0),
    }.items():
        with pytest.raises(ValueError, match=message):
            margin_gap_bound(*arguments)
    assert np.isnan(margin_gap_bound(step, 1.0, 0.5, 3.0, np.nan)).all()
    assert np.isnan(margin_gap_bound(step, np.nan, 0.5, 3.0, 1.0)).all()
