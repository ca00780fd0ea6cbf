"""Frei & Chen's subspaces: the basis, known filters, and random ones."""

import math

import numpy as np
import pytest

from research.oracles.edge_energy import BASIS, RANDOM, edge_energy, random_deviation

RNG = np.random.default_rng(0)
SOBEL = np.array([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
LAPLACE = np.array([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])


def test_the_basis_is_orthonormal_and_the_shares_are_all():
    flat = BASIS.reshape(9, 9)
    np.testing.assert_allclose(flat @ flat.T, np.eye(9), atol=1e-15)
    for _ in range(5):
        shares = edge_energy(RNG.normal(size=(3, 3)))
        assert shares.edge + shares.line + shares.mean == pytest.approx(1.0)
        assert shares.gradient < shares.edge


def test_known_filters():
    for turned in (SOBEL, SOBEL.T, -3 * SOBEL):
        assert edge_energy(turned) == pytest.approx(((3 + 2 * 2**0.5) / 6, 1.0, 0.0, 0.0))
    assert edge_energy(LAPLACE) == pytest.approx((0.0, 0.0, 1.0, 0.0))
    assert edge_energy(np.ones((3, 3))) == pytest.approx((0.0, 0.0, 0.0, 1.0))


def test_edges_are_what_changes_sign_under_a_half_turn():
    one = RNG.normal(size=(3, 3))
    odd = (one - one[::-1, ::-1]) / 2
    assert edge_energy(one).edge == pytest.approx(np.sum(odd**2) / np.sum(one**2))


def test_gradients_hold_as_much_of_a_filter_in_every_direction():
    angle = 0.7
    steered = np.cos(angle) * BASIS[0] + np.sin(angle) * BASIS[1]
    assert edge_energy(steered).gradient == pytest.approx(1.0)
    one = RNG.normal(size=(3, 3))
    assert edge_energy(np.rot90(one)) == pytest.approx(edge_energy(one))


@pytest.mark.parametrize("law", ["normal", "uniform"])
def test_random_filters_have_the_share_of_the_dimension(law):
    drawn = RNG.normal(size=(4000, 3, 3)) if law == "normal" else RNG.uniform(-1, 1, size=(4000, 3, 3))
    shares = np.array([edge_energy(each) for each in drawn])
    np.testing.assert_allclose(shares.mean(axis=0), RANDOM, atol=0.015)
    for column, dimension in ((0, 2), (1, 4)):
        room = 0.04 if law == "normal" else 0.08
        assert shares[:, column].std() == pytest.approx(random_deviation(dimension), rel=room)


def test_nan_gives_nan_and_bad_input_is_named():
    assert all(map(math.isnan, edge_energy(np.full((3, 3), np.nan))))
    assert all(map(math.isnan, edge_energy(np.zeros((3, 3)))))
    for call, message in (
        (lambda: edge_energy(np.ones((2, 3))), "kernel has shape"),
        (lambda: random_deviation(9), "dimension is 9"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
