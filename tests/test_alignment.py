import math

import numpy as np
import pytest
from problems import classification
from scipy.integrate import solve_ivp
from scipy.special import expit

from research.oracles.alignment import rank_one_excess


def layers(seed=0, depth=3, size=4, scale=1.0):
    random = np.random.default_rng(seed)
    return scale * random.normal(size=(depth - 1, size, size)), scale * random.normal(size=size)


def excess(hidden):
    return max((W**2).sum() - np.linalg.norm(W, 2) ** 2 for W in hidden)


def gradients(Z, hidden, readout):
    """Of Σ ln(1 + exp(−z·w)), w = readout W_{L−1} … W_1, by the chain rule written out."""
    matrices = [*hidden, readout[None, :]]
    product = np.linalg.multi_dot(matrices[::-1])[0]
    slope = -expit(-Z @ product) @ Z
    found = []
    for k in range(len(matrices)):
        above, below = np.eye(1), np.eye(Z.shape[1])
        for W in matrices[:k]:
            below = W @ below
        for W in matrices[:k:-1]:
            above = above @ W
        found.append(above.T @ slope[None, :] @ below.T)
    return np.stack(found[:-1]), found[-1][0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("depth", [2, 3])
def test_no_layer_exceeds_it_along_the_flow_and_under_descent(seed, depth):
    X, y = classification(seed, 10, 4)
    hidden, readout = layers(seed, depth)
    Z, shape = X * y[:, None], hidden.shape
    split = lambda flat: (flat[: hidden.size].reshape(shape), flat[hidden.size :])
    flow = lambda t, flat: -np.concatenate([part.ravel() for part in gradients(Z, *split(flat))])
    begin = np.concatenate([hidden.ravel(), readout])
    path = solve_ivp(flow, (0, 2), begin, rtol=1e-8, atol=1e-10)
    assert max(excess(split(flat)[0]) for flat in path.y.T) <= rank_one_excess(hidden, readout) * (1 + 1e-6)
    W, row, walked = hidden, readout, 0.0
    for count in range(200):
        parts = gradients(Z, W, row)
        length = 0.3 / (count + 1) ** 0.5 / math.sqrt(sum((part**2).sum() for part in parts))
        W, row = W - length * parts[0], row - length * parts[1]
        walked += 0.09 / (count + 1)
        assert excess(W) <= rank_one_excess(hidden, readout, walked)


def test_it_is_tight_for_balanced_layers_of_rank_one_and_for_one_layer_more():
    u = np.array([0.6, 0.8, 0.0])
    assert rank_one_excess(2 * np.outer(u, u)[None], 2 * u) == pytest.approx(0, abs=1e-12)
    # a second direction that the readout does not see stays as it is: it is all of the excess, and half of the bound
    W = np.diag([2.0, 1.0])[None]
    assert rank_one_excess(W, np.array([2.0, 0.0])) == pytest.approx(2)
    assert rank_one_excess(W, np.array([2.0, 0.0]), 0.5) == pytest.approx(3.5)


def test_bad_input_is_named_and_nan_gives_nan():
    hidden, readout = layers()
    for message, arguments in {
        "hidden has shape": (hidden[:, :, :2], readout),
        "readout has 2 entries": (hidden, readout[:2]),
        "squared_path is -1": (hidden, readout, -1.0),
        "hidden has an infinite": (np.full((1, 2, 2), np.inf), np.ones(2)),
    }.items():
        with pytest.raises(ValueError, match=message):
            rank_one_excess(*arguments)
    assert math.isnan(rank_one_excess(hidden * math.nan, readout))
    assert math.isnan(rank_one_excess(hidden, readout, math.nan))
