import math

import numpy as np
import pytest

from research.oracles.noisy_unit import escape_probability, log_contraction

AT = np.array([1.0, 10.0, 100.0, 300.0])


def published(x, xi, alpha, c, p=1.0):
    """The noisy hard tanh as its authors write it."""
    h = np.clip(x, -1, 1)
    scale = c * (1 / (1 + np.exp(-p * (h - x))) - 0.5) ** 2
    noise = xi if alpha == 1 else -np.sign(x) * np.sign(1 - alpha) * np.abs(xi)
    return alpha * h + (1 - alpha) * x + scale * noise


def simulated(alpha, c, rate, start, p=1.0, target=0.0, units=4000):
    """The share that has left the flat, by descent with slopes from central differences."""
    random, x, gone, seen = np.random.default_rng(0), np.full(units, 1.0 + start), np.zeros(units, bool), []
    for step in range(1, int(AT[-1]) + 1):
        xi, tiny = random.normal(size=units), 1e-6
        slope = (published(x + tiny, xi, alpha, c, p) - published(x - tiny, xi, alpha, c, p)) / (2 * tiny)
        x = np.where(gone, x, x - rate * (published(x, xi, alpha, c, p) - target) * slope)
        gone |= x <= 1
        if step in AT:
            seen.append(gone.mean())
    return np.array(seen)


@pytest.mark.parametrize(
    ("alpha", "c", "start", "p", "target"),
    [(1.0, 20.0, 1.0, 1.0, 0.0), (1.0, 8.0, 0.5, 1.0, 0.0), (1.0, 3.0, 2.0, 2.0, -0.5), (1.15, 30.0, 1.0, 1.0, 0.0)],
)
def test_the_chain_leaves_as_simulated_units_do(alpha, c, start, p, target):
    expected = escape_probability(alpha, c, 0.5, start, AT, p, target)
    # Massart 1990: farther than this with probability 1e-6.
    near = np.sqrt(np.log(2e6) / 2 / 4000)
    assert np.abs(simulated(alpha, c, 0.5, start, p, target) - expected).max() < near
    assert (np.diff(expected) >= -1e-12).all()


def test_without_noise_the_leak_decides():
    assert (escape_probability(1.0, 0.0, 0.5, 1.0, AT) == 0).all()
    assert (escape_probability(1.15, 0.0, 0.5, 1.0, AT) == 0).all()
    # φ = 1 + 0.1 v: v falls by 0.05·(1 + 0.1 v) a step, in 19.1 steps from 1 to 0.
    np.testing.assert_array_equal(escape_probability(0.9, 0.0, 0.5, 1.0, np.array([19.0, 20.0])), [0.0, 1.0])


def test_a_little_noise_hardly_moves_what_the_leak_does():
    np.testing.assert_allclose(
        escape_probability(0.9, 0.05, 0.5, 1.0, np.array([0.0, 5.0, 60.0])), [0, 0, 1], atol=1e-6
    )
    assert escape_probability(1.0, 0.25, 0.5, 1.0, AT)[-1] < 1e-12


def test_the_mean_of_the_logarithm():
    xi = np.random.default_rng(1).normal(size=400_000)
    for c in (2.0, 8.0, 40.0):
        s = c / 16
        sample = np.log(np.abs(1 - s * xi))
        error = 5 * sample.std() / math.sqrt(len(xi))
        assert log_contraction(c, 0.5) == pytest.approx(sample.mean(), abs=error)
    assert log_contraction(0.1, 0.5) == pytest.approx(-((0.1 / 16) ** 2) / 2, rel=1e-3)
    assert log_contraction(0.0, 0.5) == 0


def test_no_answer_and_bad_input():
    nan = float("nan")
    assert np.isnan(escape_probability(nan, 1.0, 0.5, 1.0, AT)).all()
    assert np.isnan(escape_probability(1.0, nan, 0.5, 1.0, AT)).all()
    assert math.isnan(log_contraction(nan, 0.5))
    for call, message in (
        (lambda: escape_probability(1.0, -1.0, 0.5, 1.0, AT), "noise_scale is -1"),
        (lambda: escape_probability(1.0, 1.0, 0.0, 1.0, AT), "learning_rate is 0"),
        (lambda: escape_probability(1.0, 1.0, 0.5, 0.0, AT), "start is 0"),
        (lambda: escape_probability(1.0, 1.0, 0.5, 1.0, -AT), "steps has the entry -300"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
