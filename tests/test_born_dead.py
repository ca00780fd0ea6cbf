import numpy as np
import pytest

from research.oracles.born_dead import line_death, point_death


def shares(width, layers, networks, draw, inputs):
    """The share of simulated networks without bias of which no input passes, by layer."""
    h, dead = np.tile(inputs, (networks, 1, 1)), []
    for _ in range(layers):
        h = np.maximum(h @ draw((networks, h.shape[2], width)), 0)
        dead.append((h == 0).all(axis=(1, 2)).mean())
    return np.array(dead)


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_one_input_dies_as_simulated_networks_do(width):
    random, networks = np.random.default_rng(width), 10_000
    for draw in (lambda size: random.normal(size=size), lambda size: random.uniform(-1, 1, size)):
        seen = shares(width, 12, networks, draw, np.array([[0.3, -2.0]]))
        # Massart 1990: farther than this with probability 1e-6.
        assert np.abs(seen - point_death(width, 12)).max() < np.sqrt(np.log(2e6) / 2 / networks)


@pytest.mark.parametrize("width", [2, 3, 4])
def test_the_line_dies_within_the_bracket(width):
    random, networks = np.random.default_rng(width), 20_000
    near = np.sqrt(np.log(2e6) / 2 / networks)
    least, most = line_death(width, 12)
    for draw in (lambda size: random.normal(size=size), lambda size: random.uniform(-1, 1, size)):
        seen = shares(width, 12, networks, draw, np.array([[1.0], [-1.0]]))
        assert (seen > least - near).all()
        assert (seen < most + near).all()
        assert abs(seen[1] - (2 * 4.0**-width + (1 - 2.0 ** (1 - width)) * 4.0**-width)) < near


def test_the_bracket_starts_with_the_closed_form_and_stays_below_one_input():
    for width in (1.0, 2.0, 3.0, 6.0):
        least, most = line_death(width, 40)
        assert least[0] == most[0] == 0
        assert least[1] == pytest.approx(2 * 4**-width + (1 - 2 ** (1 - width)) * 4**-width)
        assert most[1] == pytest.approx(least[1])
        assert (least <= most + 1e-15).all()
        assert (most <= point_death(width, 40) + 1e-15).all()
        assert (np.diff(least) >= 0).all()


def test_limits():
    np.testing.assert_allclose(point_death(2.0, 2), [0.25, 1 - 0.75**2])
    assert point_death(2.0, 5)[-1] == pytest.approx(0.7627, abs=5e-5)
    assert point_death(60.0, 1)[0] == pytest.approx(2.0**-60)  # 1 - (1 - x) would be 0
    assert (point_death(3.0, 4, inactive=0.0) == 0).all()
    assert line_death(1.0, 200).least[-1] == pytest.approx(1)


def test_inputs():
    assert np.isnan(point_death(np.nan, 3)).all()
    assert np.isnan(line_death(np.nan, 3)).all()
    with pytest.raises(ValueError, match="width is 0"):
        point_death(0.0, 3)
    with pytest.raises(ValueError, match="layers is 0"):
        line_death(2.0, 0)
    with pytest.raises(ValueError, match="inactive is 2"):
        point_death(2.0, 3, inactive=2.0)
