import itertools
import math

import numpy as np
import pytest

from research.oracles import parity


def corners(bits):
    X = np.array(list(itertools.product((-1.0, 1.0), repeat=bits)))
    return X, X.prod(axis=1)


@pytest.mark.parametrize("bits", [2, 3])
def test_the_best_linear_share_of_parity_is_that_of_counting_signs(bits):
    X, y = corners(bits)
    # Σ_{k <= m} (-1)^k C(d, k) = (-1)^m C(d - 1, m): what a threshold of the number of ones gets right
    counted = 0.5 + math.comb(bits - 1, (bits - 1) // 2) / 2**bits
    assert parity.best_linear_share(X, y) == counted == 0.75
    weights = np.random.default_rng(0).normal(size=(5000, bits + 1))
    shares = (y * (weights[:, :-1] @ X.T + weights[:, -1:]) > 0).mean(axis=1)
    assert shares.max() == counted


def test_what_a_line_can_do_it_does():
    X, _ = corners(2)
    assert parity.best_linear_share(X, np.where(X.min(axis=1) > 0, 1.0, -1.0)) == 1.0
    assert parity.best_linear_share(np.zeros((3, 1)), np.array([1.0, 1.0, -1.0])) == pytest.approx(2 / 3)


def descended(W, a, rate=0.02, steps=20_000):
    """Whether descent on the exponential loss fits XOR, by a NumPy loop."""
    X, y = corners(2)
    y = -y
    W, a = W.copy(), a.copy()
    for _ in range(steps):
        hidden = X @ W
        outputs = hidden.clip(0) @ a
        if (y * outputs > 0.5).all():
            return 1.0
        pull = y / (1 + np.exp(y * outputs)) / 4
        W, a = W + rate * X.T @ ((hidden > 0) * pull[:, None] * a), a + rate * hidden.clip(0).T @ pull
    return float((y * ((X @ W).clip(0) @ a) > 0).all())


def test_descent_does_what_the_kinds_say():
    rng = np.random.default_rng(1)
    answers = []
    for units in (3, 4, 6, 8, 8, 8):
        W = 0.5 * rng.normal(size=(2, units))
        a = 1.5 * np.linalg.norm(W, axis=0) * rng.choice([-1, 1], units)
        answers.append(parity.fits_xor(W, a))
        assert descended(W, a, steps=3000) == answers[-1]
    assert {0.0, 1.0} == set(answers)
    four = np.array([[1.0, -1.0, 1.0, -1.0], [-0.5, 0.5, 0.5, -0.5]]), np.array([1.0, 1.0, -1.0, -1.0])
    assert parity.fits_xor(*four) == 1.0
    assert parity.fits_xor(four[0], -four[1]) == 1.0
    assert parity.fits_xor(four[0], abs(four[1])) == 0.0
    assert parity.fits_xor(four[0][:, :3], four[1][:3]) == 0.0


@pytest.mark.parametrize("units", [1, 3, 4, 6])
def test_the_share_is_that_of_all_ways_to_draw_four_kinds(units):
    ways = itertools.product(range(4), repeat=units)
    assert parity.all_kinds_share(units) == pytest.approx(np.mean([len(set(way)) == 4 for way in ways]), abs=1e-12)


def test_bad_input_is_named_and_nan_passes():
    with pytest.raises(ValueError, match="input_weights has 3 rows"):
        parity.fits_xor(np.ones((3, 2)), np.ones(2))
    with pytest.raises(ValueError, match="output_weights has 3 entries"):
        parity.fits_xor(np.ones((2, 2)), np.ones(3))
    with pytest.raises(ValueError, match="units is 0"):
        parity.all_kinds_share(0)
    with pytest.raises(ValueError, match="y has the label 0"):
        parity.best_linear_share(np.ones((2, 2)), np.zeros(2))
    assert math.isnan(parity.fits_xor(np.full((2, 4), np.nan), np.ones(4)))
    assert math.isnan(parity.best_linear_share(np.full((2, 2), np.nan), np.ones(2)))
    assert math.isnan(parity.all_kinds_share(math.nan))
