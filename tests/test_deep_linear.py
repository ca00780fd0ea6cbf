import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from scipy.optimize import brentq

from research.oracles import deep_linear as oracle

DEPTHS = [1, 2, 3, 5]


def flow_of_the_matrices(target, initial, depth, times):
    """Integrate the gradient flow of the layers themselves, aligned and balanced at the start."""
    size = len(target)
    layers = np.stack([initial ** (1 / depth) * np.eye(size)] * depth)

    def field(t, flat):
        W = flat.reshape(layers.shape)
        product = lambda parts: np.linalg.multi_dot([np.eye(size), np.eye(size), *parts[::-1]])
        error = product(list(W)) - target
        return -np.stack([product(list(W[k + 1 :])).T @ error @ product(list(W[:k])).T for k in range(depth)]).ravel()

    path = solve_ivp(field, (0, times[-1]), layers.ravel(), method="LSODA", t_eval=times, rtol=1e-8, atol=1e-10)
    layered = path.y.T.reshape(len(times), *layers.shape)
    return np.array([np.diag(np.linalg.multi_dot([np.eye(size), np.eye(size), *W[::-1]])) for W in layered])


@pytest.mark.parametrize("depth", DEPTHS)
def test_modes_are_those_of_the_matrix_flow(depth):
    times, strengths = np.linspace(0, 3, 7), np.array([2.0, 0.7])
    path = flow_of_the_matrices(np.diag(strengths), 0.05, depth, times)
    for s, measured in zip(strengths, path.T, strict=True):
        np.testing.assert_allclose(oracle.deep_linear_modes(s, 0.05, depth, times), measured, atol=2e-6)


@pytest.mark.parametrize("depth", DEPTHS)
@settings(max_examples=8, deadline=None)
@given(s=st.floats(0.1, 10), share=st.floats(1e-4, 3), part=st.floats(0.01, 0.99))
def test_times_are_the_integral_of_the_inverse_speed(depth, s, share, part):
    if abs(share - 1) < 0.05:
        return
    initial = share * s
    strength = initial + part * (s - initial)
    w = np.array([initial, strength]) ** (1 / depth)
    by_quadrature = quad(lambda w: 1 / (w ** (depth - 1) * (s - w**depth)), *w, epsrel=1e-11, epsabs=0, limit=400)[0]
    time = oracle.time_to_reach(s, initial, depth, strength)
    assert time == pytest.approx(by_quadrature, rel=1e-7)
    (back,) = oracle.deep_linear_modes(s, initial, depth, np.array([time]))
    assert back == pytest.approx(strength, rel=1e-7)


def test_closed_forms_and_ends():
    assert oracle.time_to_reach(2.0, 1e-3, 2, 1.0) == pytest.approx(math.log(2000 - 1) / 4)
    assert oracle.time_to_reach(2.0, 0.5, 1, 1.0) == pytest.approx(math.log(1.5))
    assert oracle.time_to_reach(2.0, 0.5, 3, 0.5) == 0
    assert oracle.time_to_reach(2.0, 0.5, 3, 2.0) == math.inf
    for never in (0.4, 2.1):
        assert math.isnan(oracle.time_to_reach(2.0, 0.5, 3, never))
        assert math.isnan(oracle.descent_delay(2.0, 0.5, 3, never))
    for depth in DEPTHS:
        path = oracle.deep_linear_modes(2.0, 0.1, depth, np.array([500.0, 0.0, 0.0, 1.0]))
        np.testing.assert_allclose(path[:3], [2.0, 0.1, 0.1], rtol=1e-9)
        assert 0.1 < path[3] < 2
        np.testing.assert_allclose(oracle.deep_linear_modes(2.0, 2.0, depth, np.ones(2)), 2.0)
    # small starts: ln(1/a0)/(2s) for depth 2, and a0^(2/L − 1)/(s (L − 2)) beyond: depth makes the plateau longer
    for depth in (3, 5):
        time = oracle.time_to_reach(2.0, 1e-12, depth, 1.0)
        assert time == pytest.approx(1e-12 ** (2 / depth - 1) / (2 * (depth - 2)), rel=1e-2)


@pytest.mark.parametrize("depth", DEPTHS)
def test_delay_is_that_of_the_scalar_recursion(depth):
    s, initial, strength, measured = 2.0, 0.05, 1.0, []
    for rate in (1e-3, 5e-4):
        w, step = initial ** (1 / depth), 0
        while w**depth < strength:
            before, w, step = w, w + rate * w ** (depth - 1) * (s - w**depth), step + 1
        within = brentq(lambda x, before=before, w=w: (before + x * (w - before)) ** depth - strength, 0, 1)
        measured.append((rate * (step - 1 + within) - oracle.time_to_reach(s, initial, depth, strength)) / rate)
    assert 2 * measured[1] - measured[0] == pytest.approx(oracle.descent_delay(s, initial, depth, strength), abs=0.02)


def test_a_path_that_is_not_integrated_well_is_void(monkeypatch):
    careless = lambda *a, **k: solve_ivp(*a, **{**k, "rtol": 1e-3, "atol": 1e-3})
    monkeypatch.setattr("scipy.integrate.solve_ivp", careless)
    assert np.isnan(oracle.deep_linear_modes(2.0, 0.01, 3, np.linspace(0, 5, 9))).all()


def test_bad_input_is_named_and_nan_gives_nan():
    good = {"s": 1.0, "initial": 0.1, "depth": 3, "time": np.ones(2)}
    for message, changed in {
        "s is 0": {"s": 0.0},
        "s is -1": {"s": -1.0},
        "initial is 0": {"initial": 0.0},
        "depth is 2.5": {"depth": 2.5},
        "depth is 0": {"depth": 0},
        "time has the entry -1": {"time": -np.ones(2)},
        "time has shape": {"time": 1.0},
    }.items():
        with pytest.raises(ValueError, match=message):
            oracle.deep_linear_modes(**{**good, **changed})
    for changed in ({"s": math.nan}, {"initial": math.nan}, {"time": np.array([1.0, math.nan])}):
        assert np.isnan(oracle.deep_linear_modes(**{**good, **changed})).all()
    assert math.isnan(oracle.time_to_reach(1.0, 0.1, 3, math.nan))
    assert math.isnan(oracle.descent_delay(math.nan, 0.1, 3, 0.5))
