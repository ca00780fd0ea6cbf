import numpy as np
import pytest

from research.oracles.coasting import coasting

RANDOM = np.random.default_rng(0)
M, V = RANDOM.normal(size=7), RANDOM.uniform(0.1, 2, size=7)


def walked(m, v, rate, age, steps):
    """Adam's recursion of its paper, step by step, on a gradient of zero."""
    w = np.zeros_like(m)
    for t in range(age + 1, age + steps + 1):
        m, v = 0.9 * m + 0.1 * 0.0, 0.999 * v + 0.001 * 0.0
        w = w - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


@pytest.mark.parametrize("age", [0, 1, 30, 1000])
@pytest.mark.parametrize("steps", [0, 1, 2, 300])
def test_adam_coasts_as_its_recursion(age, steps):
    np.testing.assert_allclose(
        coasting(M, V, 0.03, age, steps, "adam"), walked(M, V, 0.03, age, steps), rtol=1e-12, atol=1e-15
    )


def test_momentum_coasts_as_its_recursion_and_to_its_limit():
    m, w = M, np.zeros_like(M)
    for _ in range(5):
        m = 0.9 * m
        w = w - 0.1 * m
    np.testing.assert_allclose(coasting(M, V, 0.1, 3, 5, "momentum"), w, rtol=1e-12)
    np.testing.assert_allclose(coasting(M, V, 0.1, 3, 2000, "momentum"), -0.1 * 9 * M, rtol=1e-12)


def test_plain_descent_rests_and_an_old_adam_moves_about_ten_times_its_last_step():
    assert (coasting(M, V, 0.5, 10, 100, "sgd") == 0).all()
    old = coasting(M, V, 1.0, 10**6, 10**3, "adam")
    # β/√β₂ of the step before at each step, a geometric sum
    ratio = 0.9 / 0.999**0.5
    np.testing.assert_allclose(old, -M / np.sqrt(V) * ratio / (1 - ratio), rtol=1e-6)
    np.testing.assert_allclose(
        coasting(3 * M, 9 * V, 1.0, 9, 50, "adam"), coasting(M, V, 1.0, 9, 50, "adam"), rtol=1e-6
    )


def test_inputs():
    for method in ("sgd", "momentum", "adam"):
        assert np.isnan(coasting(M * np.nan, V, 0.1, 1, 2, method)).all()
        assert np.isnan(coasting(M, V, np.nan, 1, 2, method)).all()
    with pytest.raises(ValueError, match="method is 'lion'"):
        coasting(M, V, 0.1, 1, 2, "lion")
    with pytest.raises(ValueError, match="steps is -1"):
        coasting(M, V, 0.1, 1, -1, "adam")
    with pytest.raises(ValueError, match=r"age is 0\.5"):
        coasting(M, V, 0.1, 0.5, 1, "adam")
    with pytest.raises(ValueError, match="second has the entry"):
        coasting(M, -V, 0.1, 1, 1, "adam")
    with pytest.raises(ValueError, match="second has 3 entries"):
        coasting(M, V[:3], 0.1, 1, 1, "adam")
    with pytest.raises(ValueError, match="learning_rate is -1"):
        coasting(M, V, -1.0, 1, 1, "adam")
