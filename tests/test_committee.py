import math

import numpy as np
import pytest

from research.oracles.committee import committee_kernel, polynomial_error

RANDOM = np.random.default_rng(5)
X, BETA, HIDDEN = RANDOM.normal(size=(7, 4)) / 2, RANDOM.normal(size=4), RANDOM.normal(size=(5, 4))
Y = (X @ BETA) ** 2 / 2
MEAN, SECOND = HIDDEN.mean(axis=0), HIDDEN.T @ HIDDEN / 5
BEND, RATE = 0.4, 1.5


def gradients(points):
    """Of f in all weights at the start, for α = N: the units' slopes times x."""
    return ((1 + BEND * points @ HIDDEN.T)[:, :, None] * points[:, None, :]).reshape(len(points), -1)


def said(polynomial, points, place):
    return points @ polynomial.linear[place] + ((points @ polynomial.quadratic[place]) * points).sum(axis=1)


def test_it_is_descent_on_the_linearised_network():
    learnt = committee_kernel(X, Y, MEAN, SECOND, BEND, RATE, np.array([0.0, 1.0, 25.0]))
    points = RANDOM.normal(size=(6, 4))
    moved = np.zeros(HIDDEN.size)
    for _ in range(25):
        moved -= RATE / len(HIDDEN) / len(X) * gradients(X).T @ (gradients(X) @ moved - Y)
    np.testing.assert_allclose(said(learnt, points, 2), gradients(points) @ moved, rtol=1e-10)
    np.testing.assert_array_equal(said(learnt, points, 0), np.zeros(6))
    np.testing.assert_allclose(learnt.quadratic, learnt.quadratic.transpose(0, 2, 1))


def test_in_the_end_it_is_kernel_regression():
    learnt = committee_kernel(X, Y, MEAN, SECOND, BEND, RATE, np.array([np.inf]))
    np.testing.assert_allclose(said(learnt, X, 0), Y, rtol=1e-8)
    points = RANDOM.normal(size=(6, 4))
    solution = np.linalg.lstsq(gradients(X), Y)[0]
    np.testing.assert_allclose(said(learnt, points, 0), gradients(points) @ solution, rtol=1e-8)


def test_the_error_is_that_over_the_inputs():
    assert polynomial_error(np.zeros(4), np.outer(BETA, BETA) / 2, BETA) == pytest.approx(0, abs=1e-30)
    assert polynomial_error(np.zeros(4), np.zeros((4, 4)), BETA) == pytest.approx(1)
    linear, quadratic = RANDOM.normal(size=4), RANDOM.normal(size=(4, 4))
    points = RANDOM.normal(size=(400_000, 4)) / 2
    truth = (points @ BETA) ** 2 / 2
    sampled = np.mean((points @ linear + ((points @ quadratic) * points).sum(axis=1) - truth) ** 2) / np.mean(truth**2)
    assert polynomial_error(linear, quadratic, BETA) == pytest.approx(sampled, rel=0.03)


def test_what_is_not_a_number_and_what_cannot_be_interpolated():
    assert np.isnan(committee_kernel(X * np.nan, Y, MEAN, SECOND, BEND, RATE, np.ones(1)).linear).all()
    assert math.isnan(polynomial_error(np.full(4, np.nan), np.zeros((4, 4)), BETA))
    twice = np.vstack([X, X])
    unequal = np.concatenate([Y, Y + 1])
    assert np.isnan(committee_kernel(twice, unequal, MEAN, SECOND, BEND, RATE, np.array([np.inf])).quadratic).all()


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        ("mean has 3 entries", {"mean": np.ones(3)}),
        ("second has shape", {"second": np.ones((2, 3))}),
        ("y has 2 entries", {"y": np.ones(2)}),
        ("bend is -1", {"bend": -1.0}),
        ("rate is -1", {"rate": -1.0}),
        ("at is", {"at": np.array([-1.0])}),
    ],
)
def test_bad_input_is_refused(message, changed):
    given = {"X": X, "y": Y, "mean": MEAN, "second": SECOND, "bend": BEND, "rate": RATE, "at": np.ones(1), **changed}
    with pytest.raises(ValueError, match=message):
        committee_kernel(**given)


def test_shapes_of_a_polynomial():
    with pytest.raises(ValueError, match="quadratic has shape"):
        polynomial_error(np.zeros(4), np.zeros((3, 3)), BETA)
