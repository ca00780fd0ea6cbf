import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.observables.homogeneity import MarginPath, followed, normalized_margin, share_entropy, smoothed_margin


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


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


def margins_of(theta):
    """Two samples, degree 2."""
    return jnp.array([1.0, 2.0]) * theta[0] * theta[1] + theta[0] ** 2


def log_loss(theta):
    return jax.nn.logsumexp(-margins_of(theta))


@functools.partial(jax.jit, static_argnames="stretch")
def stepped(path, here, there, stretch, taken):
    return followed(path, margins_of(here), margins_of(there), here, there, 2, stretch=stretch, taken=taken)


def walked(*points, stretch=10.0, taken=True):
    path = MarginPath(*np.zeros(6))
    for here, there in itertools.pairwise(map(np.asarray, points)):
        path = stepped(path, here, there, stretch, taken)
    return {name: float(value) for name, value in path._asdict().items()}


@functools.partial(jax.jit, static_argnames="count")
def flow(step, count, start):
    """Descent on ln 𝓛, that is the flow for small steps."""
    onward = lambda here, _: (here - step * jax.grad(log_loss)(here), here)
    return jax.lax.scan(onward, start, length=count + 1)[1]


def test_the_growth_of_the_margin_on_a_small_way_is_that_of_the_flow():
    path = walked(*flow(1e-3, 40, np.array([1.0, 0.5])))
    assert path["growth"] == pytest.approx(2 * (path["turned"] + path["spread"]), rel=3e-3)
    assert path["growth"] > 0.01
    assert (path["steps"], path["falls"]) == (40, 0)


@pytest.mark.parametrize("start", [(1.5, 0.1), (0.8, 1.0)])
def test_what_a_step_misses_is_of_second_order_and_known(start):
    here, there = flow(1e-5, 1, np.array(start))
    g, K = (np.asarray(part) for part in jax.jit(lambda x: (jax.grad(log_loss)(x), jax.hessian(log_loss)(x)))(here))
    bend = g @ K @ g / (g @ g) - here @ K @ g / (here @ g)
    expected = 1e-10 * (g @ g) * bend / (2 * log_loss(here))
    assert walked(here, there)["missed"] == pytest.approx(abs(float(expected)), rel=1e-3)


def test_a_step_back_to_a_loss_of_one_is_a_fall_and_so_is_what_follows_where_it_goes_on_falling():
    near, far, farther = (1.0, 0.5), (1.0, -1.0), (0.8, -1.2)
    path = walked(near, far, farther, near)
    assert (path["steps"], path["falls"]) == (3, 2)
    assert path["growth"] == path["missed"] == 0
    assert walked(far, farther)["steps"] == 0  # the theorem begins with the first loss below one


def test_a_step_along_the_direction_neither_falls_nor_turns_and_one_not_taken_changes_nothing():
    path = walked((1.0, 0.5), (1.5, 0.75))
    assert (path["falls"], path["turned"]) == (0, pytest.approx(0, abs=1e-12))
    for there in ((1.0, -1.0), (0.9, 0.6)):
        assert not any(walked((1.0, 0.5), there, taken=False).values())


def test_only_steps_on_the_stretch_are_asked_what_they_miss():
    points = (3.0, 1.5), (3.1, 1.4)
    assert walked(*points, stretch=5.0)["missed"] == 0 < walked(*points, stretch=50.0)["missed"]
