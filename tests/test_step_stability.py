import math

import numpy as np
import pytest

from research.oracles import step_stability
from research.oracles.step_stability import METHODS, largest_curvature, spectral_radius


def end(method, rate, beta, curvature, steps=4000):
    """|x| after the steps themselves."""
    x, m = 1.0, 0.0
    for _ in range(steps):
        g = curvature * x
        m = beta * m + (g if method != "moving_average" else (1 - beta) * g)
        x -= rate * (g + beta * m if method == "nesterov" else m)
        if abs(x) > 1e6:
            break
    return abs(x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_below_it_the_steps_die_out_and_above_it_they_grow(method, beta):
    limit = largest_curvature(method, 0.3, beta)
    assert end(method, 0.3, beta, 0.98 * limit) < 1e-6
    assert end(method, 0.3, beta, 1.02 * limit) > 1e6


def test_known_values():
    assert largest_curvature("moving_average", 1e-3, 0.9) == pytest.approx(38e3)
    assert largest_curvature("heavy_ball", 0.1, 0.9) == pytest.approx(38)
    assert largest_curvature("nesterov", 0.1, 0.9) == pytest.approx(38 / 2.8)
    assert {largest_curvature(method, 0.5, 0.0) for method in METHODS} == {4.0}


@pytest.mark.parametrize("method", METHODS)
def test_the_spectral_radius_is_that_of_gradient_descent_without_momentum(method):
    for curvature in (0.5, 3.0, 9.0):
        assert spectral_radius(method, 0.3, 0.0, curvature) == pytest.approx(abs(1 - 0.3 * curvature))


def test_what_is_not_certified_is_void(monkeypatch):
    monkeypatch.setattr(step_stability, "spectral_radius", lambda *_: 0.5)
    assert math.isnan(largest_curvature("heavy_ball", 0.3, 0.5))


def test_nan_gives_nan():
    assert math.isnan(largest_curvature("nesterov", np.nan, 0.5))
    assert math.isnan(largest_curvature("nesterov", 0.3, np.nan))


REFUSED = {
    "method is 'adam'": lambda: largest_curvature("adam", 0.3, 0.5),
    "method is 'sgd'": lambda: spectral_radius("sgd", 0.3, 0.5, 1.0),
    "learning_rate is 0": lambda: largest_curvature("heavy_ball", 0.0, 0.5),
    "momentum is 1": lambda: largest_curvature("heavy_ball", 0.3, 1.0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
