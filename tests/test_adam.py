import math

import numpy as np
import pytest
from problems import classification, overlapping

from research.oracles.adam import adam_path_length, fixed_point_residual, incremental_adam_direction
from research.oracles.margin import maximum_margin


def unit(vector):
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("seed", range(3))
def test_incremental_adam_direction_is_where_the_proxy_goes(seed):
    """A second solver: descent along Σ g_i / √(Σ g_i²) itself, whose direction errs by about ln(t)/√t."""
    X, y = classification(seed, 10, 14)
    Z, w = X * y[:, None], np.zeros(14)
    for step in range(30_000):
        share = np.exp(-(Z @ w - (Z @ w).min()))
        w += 0.3 / np.sqrt(step + 1) * (share @ Z) / np.sqrt(share**2 @ Z**2)
    found = incremental_adam_direction(X, y)
    assert (Z @ found).min() == pytest.approx(1)
    rivals = [np.linalg.norm(unit(found) - unit(maximum_margin(X, y, order))) for order in (1, 2, np.inf)]
    assert np.linalg.norm(unit(w) - unit(found)) < 0.25 * min(rivals)


def test_entries_of_one_size_give_the_l2_margin_and_one_support_vector_a_feature_the_l_infinity_one():
    random = np.random.default_rng(0)
    signs = random.choice([-1.0, 1.0], (8, 24)) * random.uniform(0.5, 1, (8, 1))
    y = random.choice([-1.0, 1.0], 8)
    np.testing.assert_allclose(incremental_adam_direction(signs, y), maximum_margin(signs, y, 2), rtol=1e-7)
    blocks = np.zeros((3, 7))
    for sample, features in enumerate(([0, 1], [2, 3, 4], [5, 6])):
        values = random.normal(size=len(features))
        blocks[sample, features] = values / np.abs(values).sum()  # equal margins: all three are support vectors
    w = incremental_adam_direction(blocks, np.ones(3))
    np.testing.assert_allclose(w, np.sign(blocks.sum(axis=0)), rtol=1e-7)


def test_incremental_adam_direction_is_equivariant():
    X, y = classification(4, 8, 12)
    w = incremental_adam_direction(X, y)
    np.testing.assert_allclose(incremental_adam_direction(1e3 * X, y), w / 1e3, rtol=1e-5)
    np.testing.assert_allclose(incremental_adam_direction(-X, -y), w, rtol=1e-5)
    # sizes of the features do matter, and their order does not
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_allclose(incremental_adam_direction(X[:, order], y), w[order], rtol=1e-5)
    padded = np.insert(X, 3, 0.0, axis=1)
    np.testing.assert_allclose(incremental_adam_direction(padded, y), np.insert(w, 3, 0.0), rtol=1e-5)


def test_broken_multipliers_fail_the_certificate():
    X, y = classification(5, 8, 20)
    weights = maximum_margin(X, y, 2)
    alpha = np.linalg.lstsq((X * y[:, None]).T, weights, rcond=None)[0].clip(0)
    assert fixed_point_residual(X, y, alpha) > 1e-3  # the l2 maximum margin is not a fixed point
    assert fixed_point_residual(X, y, -alpha) == math.inf
    assert fixed_point_residual(X, y, 0 * alpha) == math.inf


def test_a_search_cut_short_is_void(monkeypatch):
    from research.oracles import adam

    monkeypatch.setattr(adam, "ROUNDS", 2)
    assert np.isnan(incremental_adam_direction(*classification(5, 8, 20))).all()


def test_data_without_a_direction_give_nan():
    assert np.isnan(incremental_adam_direction(*overlapping())).all()
    X, y = classification()
    X[0, 0] = np.nan
    assert np.isnan(incremental_adam_direction(X, y)).all()


@pytest.mark.parametrize(("b2", "learning_rate", "margin"), [(0.99, 0.3, 0.8), (0.999, 0.05, 1.0), (0.9, 1.0, 0.3)])
def test_adam_path_length_is_that_of_adam_on_one_weight(b2, learning_rate, margin):
    """Adam on exp(-margin·w), the gradient in units of 10¹⁰⁰."""
    w, m, v, at = 0.0, 0.0, 0.0, {}
    for step in range(1, 40_001):
        gradient = -margin * np.exp(230 - margin * w)
        m, v = 0.9 * m + 0.1 * gradient, b2 * v + (1 - b2) * gradient**2
        w -= learning_rate / np.sqrt(step) * (m / (1 - 0.9**step)) / np.sqrt(v / (1 - b2**step))
        at[step] = w
    steps = np.unique(np.geomspace(1, 40_000, 60).astype(int))
    found = adam_path_length(steps, learning_rate, margin, b2)
    late = steps >= 10_000
    moved = np.array([at[step] for step in steps])[late]
    np.testing.assert_allclose(found[late] - found[late][0], moved - moved[0], rtol=0.04)


def test_adam_path_length_in_its_limits():
    steps = np.array([0.0, 1.0, 10.0, 100.0, 1e4, 1e6])
    np.testing.assert_allclose(adam_path_length(steps, 0.3, 0.0, 0.99), 0.6 * np.sqrt(steps))
    # a huge margin: the loss falls by √b2 a step as long as the learning rate allows it
    fine = np.arange(100.0, 200.0)
    lengths = np.diff(adam_path_length(fine, 1.0, 1e3, 0.99)) * 1e3
    np.testing.assert_allclose(lengths, -np.log(0.99) / 2, rtol=0.01)
    assert (adam_path_length(steps, 0.3, 2.0, 0.999)[2:] < adam_path_length(steps, 0.3, 2.0, 0.99)[2:]).all()


def test_bad_input_is_named_and_nan_gives_nan():
    X, y = classification()
    with pytest.raises(ValueError, match="y has the label 0"):
        incremental_adam_direction(X, 0 * y)
    with pytest.raises(ValueError, match="X has shape"):
        incremental_adam_direction(y, y)
    with pytest.raises(ValueError, match="step must increase"):
        adam_path_length(np.array([1.0, 1.0]), 0.1, 1.0, 0.99)
    for arguments, name in (((-0.1, 1.0, 0.9), "learning_rate"), ((0.1, -1.0, 0.9), "margin"), ((0.1, 1.0, 1.0), "b2")):
        with pytest.raises(ValueError, match=f"{name} is"):
            adam_path_length(np.arange(3.0), *arguments)
    assert np.isnan(adam_path_length(np.arange(3.0), math.nan, 1.0, 0.9)).all()
