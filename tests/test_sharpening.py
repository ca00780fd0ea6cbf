"""The problems are the published ones, in any precision, and images come from where they are asked for."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from research import images
from research.oracles.gradient_flow import LOSSES, sharpness
from research.sharpening import sharpening_problem

SIZES = {"width": 4, "depth": 2}


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def problem(data="chebyshev", loss="squared_error", samples=6, seed=0):
    return sharpening_problem(jax.random.key(seed), data, loss, samples=samples, **SIZES)


def test_the_polynomial_swings_five_times_between_its_ends():
    X, Y, *_ = problem(samples=5)
    assert_allclose(X[:, 0], [-1, -0.5, 0, 0.5, 1])
    assert_allclose(Y[:, 0], [1, -0.5, 1, -0.5, 1], atol=1e-12)


def test_digits_are_drawn_by_the_key_and_one_hot():
    one, other = problem("digits", samples=50), problem("digits", samples=50, seed=1)
    assert one.X.shape == (50, 64)
    assert_allclose(one.Y.sum(axis=1), 1)
    assert not np.array_equal(one.X, other.X)
    whole = problem("digits", samples=1797).X
    assert_allclose(whole.mean(axis=0), 0, atol=1e-12)
    assert_allclose(whole.std(axis=0)[whole.std(axis=0) > 0], 1)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_is_that_of_the_oracle_and_of_the_chosen_samples(loss):
    X, Y, params, initial, mean = problem("digits", loss, samples=8)
    flat, restore = jax.flatten_util.ravel_pytree(params)
    values = np.linalg.eigvalsh(jax.hessian(lambda vector: mean(restore(vector)))(flat))
    assert sharpness(*map(np.asarray, (X, Y, initial)), 4, 2, loss) == pytest.approx(values[-1], rel=1e-6)
    parts = [float(mean(params, np.array([number]))) for number in range(8)]
    assert float(mean(params)) == pytest.approx(np.mean(parts))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_images_are_the_first_ones_of_the_training_set(name, monkeypatch):
    shape = (9, 4, 4, 3) if name == "cifar10" else (9, 4, 4)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    asked = []
    monkeypatch.setattr(images, name, lambda split: (asked.append(split), images.Images(pixels, np.arange(9)))[1])
    X, Y, *_ = problem(name, samples=7)
    assert asked == ["train"]
    first = pixels[:7].reshape(7, -1)[:, 0] / 255
    assert_allclose(X[:, 0], (first - first.mean()) / first.std())
    assert np.argmax(Y, axis=1).tolist() == list(range(7))


def test_other_names_are_refused():
    with pytest.raises(ValueError, match="data is 'letters'"):
        problem("letters")
    with pytest.raises(ValueError, match="loss is 'hinge'"):
        problem(loss="hinge")
