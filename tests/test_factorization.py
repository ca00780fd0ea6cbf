import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp

from research.oracles.factorization import end_to_end_velocity, flow_singular_values, singular_velocities

RANDOM = np.random.default_rng(0)
W, G = RANDOM.normal(size=(2, 4, 5))


def balanced(matrix, depth):
    """[W_1, …, W_L] with the matrix as product."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    root = np.diag(values ** (1 / depth))
    return [root @ right, *[root] * (depth - 2), left @ root] if depth > 1 else [matrix]


def product(factors):
    return np.linalg.multi_dot(factors[::-1]) if len(factors) > 1 else factors[0]


def descended(factors, gradient, length):
    """The factors after a small step down the gradient of the product."""
    moved = []
    for j, factor in enumerate(factors):
        after = product(factors[j + 1 :]) if factors[j + 1 :] else np.eye(len(factor))
        before = product(factors[:j]) if factors[:j] else np.eye(factor.shape[1])
        moved.append(factor - length * after.T @ gradient @ before.T)
    return moved


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_both_velocities_are_those_of_a_product_of_balanced_factors(depth):
    there, back = (product(descended(balanced(W, depth), G, sign * 1e-6)) for sign in (1, -1))
    assert_allclose(end_to_end_velocity(W, G, depth), (there - back) / 2e-6, rtol=1e-6, atol=1e-7)
    values = [np.linalg.svd(matrix, compute_uv=False) for matrix in (there, back)]
    assert_allclose(singular_velocities(W, G, depth), (values[0] - values[1]) / 2e-6, rtol=1e-6, atol=1e-7)


def test_the_flow_is_that_of_the_factors():
    mask = (RANDOM.uniform(size=W.shape) < 0.6).astype(float)
    initial, time, depth = 0.3 * G, np.array([0.0, 0.5, 2.0]), 3
    factors = balanced(initial, depth)
    sizes = [factor.shape for factor in factors]
    cuts = np.cumsum([factor.size for factor in factors])[:-1]
    unpacked = lambda flat: [part.reshape(size) for part, size in zip(np.split(flat, cuts), sizes, strict=True)]

    def field(_, flat):
        now = unpacked(flat)
        moved = descended(now, mask * (product(now) - W), 1.0)
        return np.concatenate([(b - a).ravel() for a, b in zip(now, moved, strict=True)])

    start = np.concatenate([factor.ravel() for factor in factors])
    other = solve_ivp(field, (0.0, 2.0), start, "LSODA", time, rtol=1e-10, atol=1e-12).y.T
    expected = [np.linalg.svd(product(unpacked(flat)), compute_uv=False) for flat in other]
    assert_allclose(flow_singular_values(initial, W, mask, depth, time), expected, rtol=1e-6, atol=1e-8)


def test_without_depth_all_observed_entries_decay_alike():
    time, ones = np.array([0.0, 1.0]), np.ones_like(W)
    found = flow_singular_values(np.zeros_like(W) + 1e-30, W, ones, 1, time)
    assert_allclose(found[1], (1 - np.exp(-1)) * np.linalg.svd(W, compute_uv=False), rtol=1e-7)


def test_what_they_do_not_take():
    for message, call in {
        "gradient has shape": lambda: singular_velocities(W, G.T, 2),
        "depth is 0": lambda: singular_velocities(W, G, 0),
        "target and mask have shapes": lambda: flow_singular_values(W, W, W.T, 2, np.ones(1)),
        "time is": lambda: flow_singular_values(W, W, W, 2, np.ones(2)),
        "matrix has shape": lambda: singular_velocities(W[0], G, 2),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    assert np.isnan(singular_velocities(W * np.nan, G, 2)).all()
    assert np.isnan(flow_singular_values(W, W * np.nan, W, 2, np.ones(1))).all()
