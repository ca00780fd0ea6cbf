import math

import numpy as np
import pytest
from problems import regression

from research.oracles import optimizer_loops
from research.oracles.optimizer_loops import LOOPS, optimizer_path, peers, provenance

RATE, EPSILON, DECAY, B1, B2 = 0.01, 1e-2, 0.1, 0.9, 0.99
X, Y = regression(3, samples=12, features=3)
ORDER = np.random.default_rng(4).integers(len(X), size=300).astype(float)
START = np.array([1.0, -2.0, 0.5])
PAIRS = [(method, peer) for method in LOOPS for peer in peers(method)]


def path(method, peer="NumPy", order=ORDER, rate=RATE, epsilon=EPSILON, decay=DECAY, b1=B1, b2=B2):
    return optimizer_path(X, Y, order, START, rate, epsilon, decay, method=method, peer=peer, b1=b1, b2=b2)


def gradient(w, step, order=ORDER):
    x = X[int(order[step])]
    return (x @ w - Y[int(order[step])]) * x


def in_closed_form(method, b1=B1, b2=B2, epsilon=EPSILON):
    """The path again, from the sums that the recursions unroll to: every step from all gradients so far."""
    w, seen, weights = START, [], [START]
    for t in range(1, len(ORDER) + 1):
        g = gradient(w, t - 1) + (DECAY * w if method == "adam_coupled" else 0.0)
        seen.append(g)
        age = np.arange(t)[::-1][:, None]
        first, second = (b1**age * seen).sum(axis=0), (b2**age * np.square(seen)).sum(axis=0)
        root = np.sqrt((1 - b2) * second)
        unbiased = first * (1 - b1) / (1 - b1**t) / (np.sqrt(second * (1 - b2) / (1 - b2**t)) + epsilon)
        w = (
            w
            - RATE
            * {
                "sgd": g,
                "heavy_ball": first,
                "ema": first,
                "dampened": first + b1 ** (t - 1) * seen[0] * b1 / (1 - b1),
                "nesterov": g + b1 * first,
                "adagrad": g / np.sqrt(np.square(seen).sum(axis=0)),
                "rmsprop": g / (root + epsilon),
                "rmsprop_inside": g / np.sqrt((1 - b2) * second + epsilon),
                "adam": unbiased,
                "adam_coupled": unbiased,
                "adamw": unbiased + DECAY * w,
            }[method]
        )
        weights.append(w)
    return np.array(weights)


@pytest.mark.parametrize(("method", "peer"), PAIRS)
def test_every_peer_agrees_with_the_unrolled_sums(method, peer):
    np.testing.assert_allclose(path(method, peer), in_closed_form(method), rtol=0, atol=1e-11)


@pytest.mark.parametrize("peer", peers("adam"))
def test_limits(peer):
    np.testing.assert_allclose(path("heavy_ball", peer, b1=0.0), path("sgd", peer), atol=1e-12)
    np.testing.assert_allclose(path("nesterov", b1=0.0), path("sgd", peer), atol=1e-12)  # torch refuses b1 = 0
    for method in ("adam_coupled", "adamw"):
        np.testing.assert_allclose(path(method, peer, decay=0.0), path("adam", peer), atol=1e-12)
    # a huge ε makes gradient descent of it, at the rate η/ε
    np.testing.assert_allclose(path("rmsprop", peer, rate=1e6 * RATE, epsilon=1e6), path("sgd", peer), atol=1e-4)
    # the first step of Adam is η sign(g), and that of RMSProp η sign(g)/√(1 − b2)
    first, signs = gradient(START, 0), np.sign(gradient(START, 0))
    assert np.abs(first).min() > 1e-3
    np.testing.assert_allclose(path("adam", peer, epsilon=0.0)[1], START - RATE * signs, atol=1e-14)
    np.testing.assert_allclose(path("rmsprop", peer, epsilon=0.0)[1], START - 10 * RATE * signs, atol=1e-13)


def test_dampening_is_not_the_mean_of_gradients():
    np.testing.assert_allclose(path("ema"), path("heavy_ball"), atol=1e-12)
    ema, dampened = path("ema"), path("dampened")
    np.testing.assert_allclose(dampened[1] - START, (ema[1] - START) / (1 - B1), rtol=1e-12)


def test_what_is_installed_is_named():
    assert provenance().endswith("NumPy")
    assert ("torch" in provenance()) == ("torch" in peers("adam"))
    assert peers("ema") == peers("rmsprop_inside") == ["NumPy"]


def test_nan_in_gives_nan():
    for place in range(7):
        arguments = [X, Y, ORDER, START, RATE, EPSILON, DECAY]
        arguments[place] = np.nan * np.asarray(arguments[place]) if place < 4 else math.nan
        assert np.isnan(optimizer_path(*arguments, method="adamw")).all()


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        ("method is 'adamax'", {"method": "adamax"}),
        ("peer is 'optax'", {"peer": "optax"}),
        ("order has entries", {"order": np.array([12.0])}),
        ("order has entries", {"order": np.array([0.5])}),
        ("initial has 2", {"initial": np.ones(2)}),
        ("learning_rate is -1", {"learning_rate": -1.0}),
        ("b2 is 1", {"b2": 1.0}),
    ],
)
def test_bad_input_is_named(message, changed):
    arguments = {"X": X, "y": Y, "order": ORDER, "initial": START, "method": "adam"}
    arguments |= {"learning_rate": RATE, "epsilon": EPSILON, "weight_decay": DECAY}
    with pytest.raises(ValueError, match=message):
        optimizer_path(**(arguments | changed))


def test_torch_is_not_asked_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(optimizer_loops, "find_spec", lambda name: None)
    assert provenance() == "NumPy"
    assert {peer for method in LOOPS for peer in peers(method)} == {"NumPy"}
