import jax.numpy as jnp
import numpy as np
import pytest

from research.observables.homogeneity import normalized_margin, share_entropy, smoothed_margin


def test_margins_are_those_of_the_direction():
    for margin in (normalized_margin, smoothed_margin):
        far = margin(1e6 * jnp.array([2.0, 3.0, 4.0]), jnp.asarray(100.0 * 2), 3)
        assert float(far) == pytest.approx(2.0 / 8, rel=1e-5)
    assert float(normalized_margin(jnp.array([-1.0, 2.0]), jnp.asarray(2.0), 2)) == -0.25


def test_the_smoothed_margin_lies_below_by_the_logarithm_of_the_samples_at_most():
    q, length = jnp.array([1.0, 1.0, 1.0, 5.0]), jnp.asarray(2.0)
    missing = float((normalized_margin(q, length, 2) - smoothed_margin(q, length, 2)) * length**2)
    assert np.log(3) < missing < np.log(4)
    # Losses far below the least float keep their logarithm.
    assert float(smoothed_margin(jnp.array([1e6, 2e6]), length, 2)) == pytest.approx(1e6 / 4)


def test_share_entropy_lies_between_one_sample_and_all():
    assert float(share_entropy(jnp.array([0.0, 1e4, 2e4]))) == pytest.approx(0.0, abs=1e-9)
    assert float(share_entropy(1e5 + jnp.zeros(4))) == pytest.approx(np.log(4))
    shares = np.array([0.2, 0.3, 0.5])
    assert float(share_entropy(-jnp.log(shares))) == pytest.approx(-(shares * np.log(shares)).sum())
