import numpy as np
import pytest

from research.oracles.dropout import dropout_logistic
from research.oracles.mask_noise import mask_deviation, mask_noise

CONFLICT = np.array([[1.0, -0.5], [-0.5, 1.0]])
LABELS = np.ones(2)


def test_the_mean_of_many_descents_is_shifted_and_scattered_as_said():
    """An independent descent, masks and all."""
    rng, rate, batch, steps, runs = np.random.default_rng(0), 1.0, 4, 600, 400
    rest = dropout_logistic(CONFLICT, LABELS, 0.5)
    w, total = np.tile(rest, (runs, 1)), np.zeros((runs, 2))
    for _ in range(steps):
        Z = CONFLICT * ((rng.random((runs, batch, 2, 2)) < 0.5) / 0.5)
        slope = 1 / (1 + np.exp(np.einsum("rbsf,rf->rbs", Z, w)))
        w = w + rate * (slope[..., None] * Z).mean(axis=1).sum(axis=1)
        total += w
    theory = mask_noise(CONFLICT, LABELS, 0.5, rate, batch)
    away = total / steps - rest
    error = away.mean(axis=1).std() / runs**0.5
    assert abs(away.mean() - theory.shift.mean()) < 4 * error + 0.2 * theory.shift.mean()  # to first order in V
    assert theory.shift.mean() > 6 * error
    about = away - away.mean(axis=0)
    squares = np.einsum("ri,ij,rj->r", about, theory.precision, about)
    assert steps * squares.mean() == pytest.approx(2, rel=0.2)
    one = mask_deviation(CONFLICT, LABELS, rest + theory.shift + about[0], 0.5, rate, batch)
    assert one**2 == pytest.approx(squares[0])


def test_one_input_by_hand():
    """Labels 1 and -1 of the inputs 1 and 2, kept with probability 1/2: the inputs are 0 or 2, and 0 or 4."""
    X, y, rate, batch = np.array([[1.0], [2.0]]), np.array([1.0, -1.0]), 1e-6, 3
    w = dropout_logistic(X, y, 0.5)[0]
    chance = lambda z: 1 / (1 + np.exp(-z))
    low, high = chance(-2 * w), chance(4 * w)
    curve, cubic = (2**n * low * (1 - low) * (2 * low - 1) ** (n - 2) / 2 for n in (2, 3))
    H = curve + 4**2 * high * (1 - high) / 2
    third = cubic - 4**3 * high * (1 - high) * (2 * high - 1) / 2
    C = ((2 * low) ** 2 + (4 * high) ** 2) / 4 / batch
    theory = mask_noise(X, y, 0.5, rate, batch)
    assert theory.shift[0] == pytest.approx(-third / H * rate * C / (4 * H), rel=1e-4)
    assert theory.precision[0, 0] == pytest.approx(H**2 / C, rel=1e-9)


def test_without_masks_nothing_is_off():
    theory = mask_noise(np.array([[1.0], [0.5]]), np.array([1.0, -1.0]), 1.0, 0.1, 1)
    assert theory.shift.tolist() == [0.0]
    assert np.isinf(theory.precision).all()


def test_the_shift_goes_with_the_rate_and_one_over_the_batch():
    shift = lambda rate, batch: mask_noise(CONFLICT, LABELS, 0.5, rate, batch).shift[0]
    assert shift(1e-3, 4) / shift(5e-4, 4) == pytest.approx(2, rel=1e-3)
    assert shift(1e-3, 4) / shift(1e-3, 8) == pytest.approx(2, rel=1e-3)


def test_without_a_minimiser_or_rest_there_is_no_answer():
    for nothing in (mask_noise(np.eye(2), LABELS, 0.5, 0.1, 4), mask_noise(CONFLICT, LABELS, 0.5, 60.0, 1)):
        assert np.isnan(nothing.shift).all()
        assert np.isnan(nothing.precision).all()
    assert np.isnan(mask_noise(CONFLICT * np.nan, LABELS, 0.5, 0.1, 4).shift).all()
    for wrong, name in (({"learning_rate": 0.0}, "learning_rate"), ({"batch": 0}, "batch"), ({"keep": 2.0}, "keep")):
        with pytest.raises(ValueError, match=name):
            mask_noise(CONFLICT, LABELS, **({"keep": 0.5, "learning_rate": 0.1, "batch": 4} | wrong))
