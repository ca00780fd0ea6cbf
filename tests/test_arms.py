"""The kinds of run that no experiment has at smoke size: their steps against the formulas, written out in NumPy."""

import itertools

import jax
import numpy as np
import pytest
from scipy.special import expit, logsumexp

from experiments.implicit_bias import adamw_box, adaptive_methods, dropout, layer_alignment
from experiments.saturation import dead_units, he_initialization, layer_saturation
from research import data


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def states(run, steps):
    """The states after 0, 1 … steps."""
    return list(itertools.accumulate(range(steps), lambda state, _: run.step(state), initial=run.state))


@pytest.mark.parametrize("optimizer", ["adagrad", "rmsprop", "adam"])
def test_adaptive_methods(optimizer):
    steps, memory, epsilon = 3, 0.8, 0.3
    run = adaptive_methods.simulate(
        jax.random.key(0), 0.2, epsilon, 0.5, memory, optimizer=optimizer, samples=6, steps=steps
    )
    X, y, rate = np.asarray(run.given.X), np.asarray(run.given.y), float(run.given.rate)
    added = epsilon * np.abs(X.T @ y).max() / 6
    w, first, second = (np.zeros(X.shape[1]) for _ in range(3))
    for t in range(1, steps + 1):
        gradient = X.T @ (X @ w - y) / 6
        second = second + gradient**2 if optimizer == "adagrad" else memory * second + (1 - memory) * gradient**2
        first = 0.9 * first + 0.1 * gradient
        mean = second / (1 - memory**t)
        left = rate * (1 - (t - 1) / steps)
        if optimizer == "adagrad":
            w = w - rate * gradient / np.sqrt(added**2 + second)
        elif optimizer == "rmsprop":
            w = w - left * gradient / np.sqrt(mean + added**2)
        else:
            w = w - left * first / (1 - 0.9**t) / (np.sqrt(mean) + added)
    np.testing.assert_allclose(states(run, steps)[-1].params, w, rtol=1e-6)  # the schedule counts in float32


@pytest.mark.parametrize(
    ("loss", "optimizer"), [("least_squares", "lion"), ("least_squares", "sgd"), ("logistic", "adamw")]
)
def test_decoupled_decay(loss, optimizer):
    rate, decay, b2, epsilon, scale = 0.1, 0.4, 0.8, 0.2, 5.0
    run = adamw_box.simulate(
        jax.random.key(0), rate, decay, 0.0, b2, epsilon, scale, loss=loss, optimizer=optimizer, steps=3
    )
    X, y = map(np.asarray, run.given)
    w, mean, square = (np.zeros(10) for _ in range(3))
    for t in range(3):
        gradient = X.T @ (X @ w - y) / 20 if loss == "least_squares" else -X.T @ (y * expit(-y * (X @ w))) / 20
        falling = rate / (1 + t / scale)
        if optimizer == "sgd":
            w = w - rate * (gradient + decay * w)
        elif optimizer == "lion":
            w = w - falling * (np.sign(0.9 * mean + 0.1 * gradient) + decay * w)
            mean = b2 * mean + (1 - b2) * gradient
        else:
            mean, square = 0.9 * mean + 0.1 * gradient, b2 * square + (1 - b2) * gradient**2
            root = np.sqrt(square / (1 - b2 ** (t + 1)))
            w = w - falling * (mean / (1 - 0.9 ** (t + 1)) / (root + epsilon) + decay * w)
    np.testing.assert_allclose(states(run, 3)[-1].params, w, rtol=1e-10, atol=1e-14)


def test_minibatches_are_drawn_with_replacement():
    huge = 1e9  # an epsilon beside which Adam is descent
    counts = []
    for seed in range(3):
        run = adamw_box.simulate(
            jax.random.key(seed), huge, 0.0, 0.0, 0.9, huge, 1e9, optimizer="adamw_minibatch", samples=5, steps=1
        )
        X, y = map(np.asarray, run.given)
        batch = -5 * np.linalg.lstsq(X.T * y, -np.asarray(states(run, 1)[-1].params), rcond=None)[0]
        np.testing.assert_allclose(batch, np.rint(batch), atol=1e-6)
        counts.append(np.rint(batch))
    assert all(row.sum() == 5 and row.min() >= 0 for row in counts)
    assert np.max(counts) > 1


@pytest.mark.parametrize(("model", "source"), [("logistic", "gaussian"), ("least_squares", "diabetes")])
def test_dropout(model, source):
    run = dropout.simulate(jax.random.key(0), 0.5, 0.5, model=model, data=source, samples=12, features=4, steps=1)
    X, y = np.asarray(run.given.X), np.asarray(run.given.y)
    slope = (0.5 if model == "logistic" else 1.0) * X.T @ y / 12
    smoothness = np.linalg.norm(X, 2) ** 2 / 12 / 0.5 * (0.25 if model == "logistic" else 1.0)
    kept = np.asarray(states(run, 1)[-1].mean) * smoothness / 0.5 / slope * 0.5 * 8  # of eight masks
    np.testing.assert_allclose(kept, np.rint(kept), atol=1e-8)
    assert 0 <= kept.min() < kept.max() <= 8
    if source == "diabetes":
        patients, progression = data.diabetes()
        rows = [np.abs(patients[:, :4] * 0.25 ** np.linspace(0, 1, 4) - row).sum(axis=1).argmin() for row in X]
        np.testing.assert_allclose(patients[rows, :4] * 0.25 ** np.linspace(0, 1, 4), X)
        np.testing.assert_allclose(progression[rows], y)
    else:
        assert set(y) == {-1.0, 1.0}


@pytest.mark.parametrize(("depth", "optimizer"), [(2, "normalized"), (4, "normalized"), (3, "gradient_descent")])
def test_deep_linear_layers(depth, optimizer):
    run = layer_alignment.simulate(
        jax.random.key(0), 0.3, init_scale=1.0, depth=depth, optimizer=optimizer, features=5, samples=6, steps=2
    )
    Z = np.asarray(run.given.X) * np.asarray(run.given.y)[:, None]
    path = [[*np.asarray(state.params[0]), np.asarray(state.params[1])[None]] for state in states(run, 2)]
    for t, (before, after) in enumerate(itertools.pairwise(path)):
        margins = Z @ np.linalg.multi_dot(before[::-1])[0]
        plain = optimizer == "gradient_descent"
        slope = -(expit(-margins) / 6 if plain else np.exp(-margins - logsumexp(-margins))) @ Z
        gradients = []
        for k in range(depth):
            above, below = np.eye(1), np.eye(5)
            for W in before[:k]:
                below = W @ below
            for W in before[:k:-1]:
                above = above @ W
            gradients.append(above.T @ (below @ slope)[None])
        size = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
        length = 0.3 if plain else 0.3 * (t + 1) ** (1 / depth - 1) / size
        for old, new, gradient in zip(before, after, gradients, strict=True):
            np.testing.assert_allclose(new, old - length * gradient, rtol=1e-9, atol=1e-12)


def test_what_has_no_meaning_is_refused():
    with pytest.raises(ValueError, match="depth is 1"):
        layer_alignment.simulate(jax.random.key(0), depth=1)


def gradients(layers, x, labels, function, slope):
    """Those of the mean cross-entropy, a pair of kernel and bias a layer, by backpropagation."""
    outputs, sums = [x], []
    for kernel, bias in layers:
        sums.append(outputs[-1] @ kernel + bias)
        outputs.append(function(sums[-1]))
    error = np.exp(sums[-1] - logsumexp(sums[-1], axis=1, keepdims=True))
    error[np.arange(len(labels)), labels] -= 1
    found = []
    for number in range(len(layers) - 1, -1, -1):
        found.append((outputs[number].T @ error / len(x), error.mean(axis=0)))
        error = error @ layers[number][0].T * slope(sums[number - 1]) if number else error
    return found[::-1]


def trained(layers, batches, rate, method, function, slope, still=()):
    """Kernels and biases after one step a batch of SGD, of heavy-ball momentum 0.9, or of Adam with its usual numbers.

    Those at the places `still` have no gradient.
    """
    flat = [np.asarray(entries, float) for layer in layers for entries in layer]
    mean, square = ([np.zeros_like(entries) for entries in flat] for _ in range(2))
    for t, (x, labels) in enumerate(batches, start=1):
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        slopes = [entries for pair in gradients(pairs, x, labels, function, slope) for entries in pair]
        slopes = [entries * (place not in still) for place, entries in enumerate(slopes)]
        if method == "adam":
            mean = [0.9 * old + 0.1 * new for old, new in zip(mean, slopes, strict=True)]
            square = [0.999 * old + 0.001 * new**2 for old, new in zip(square, slopes, strict=True)]
            scale = [np.sqrt(each / (1 - 0.999**t)) + 1e-8 for each in square]
            moves = [each / (1 - 0.9**t) / size for each, size in zip(mean, scale, strict=True)]
        else:
            mean = [0.9 * (method == "momentum") * old + new for old, new in zip(mean, slopes, strict=True)]
            moves = mean
        flat = [entries - rate * move for entries, move in zip(flat, moves, strict=True)]
    return flat


def entries(params, depth):
    """Kernel and bias of each layer of a `FullyConnected`, in turn."""
    layers = [params["params"][name] for name in (*(f"hidden_{layer}" for layer in range(depth)), "readout")]
    return [np.asarray(layer[part]) for layer in layers for part in ("kernel", "bias")]


def keys(key, count):
    """The keys with which the first steps of a stochastic descent draw."""
    for _ in range(count):
        key, drawn = jax.random.split(key)
        yield drawn


@pytest.mark.parametrize(("method", "leak"), [("sgd", 0.0), ("momentum", 0.0), ("adam", 0.01)])
def test_rectifiers_under_each_optimizer(method, leak):
    rate, shift, depth = 0.05, 0.5, 2
    run = dead_units.simulate(
        jax.random.key(0), rate, shift, leak, optimizer=method, depth=depth, width=6, steps=20, batch=5
    )
    pixels, labels = data.digits()
    held = np.isin(np.arange(len(labels)), np.linspace(0, len(labels) - 1, 297).astype(int))
    X = data.standardized(pixels)
    X, y = (X - X[~held].mean(axis=0))[~held] + shift, labels[~held]
    chosen = [np.asarray(jax.random.randint(key, (5,), 0, len(X))) for key in keys(run.state.now.key, 3)]
    path = states(run._replace(step=jax.jit(run.step)), 3)
    begin = entries(path[0].now.params, depth)
    found = trained(
        list(zip(begin[::2], begin[1::2], strict=True)),
        [(X[rows], y[rows]) for rows in chosen],
        rate,
        method,
        lambda sums: np.where(sums > 0, sums, leak * sums),
        lambda sums: np.where(sums > 0, 1.0, leak),
    )
    for seen, wanted in zip(entries(path[-1].now.params, depth), found, strict=True):
        np.testing.assert_allclose(seen, wanted, atol=1e-5)


def test_softsign_layers_from_the_normalised_start():
    rate, depth = 0.3, 2
    start = {"activation": "softsign", "data": "digits", "depth": depth, "width": 6, "batch": 5, "steps": 20}
    run = layer_saturation.simulate(jax.random.key(0), rate, layer_saturation.NORMALISED, **start)
    pixels, labels = data.digits()
    X = data.standardized(pixels)
    chosen = [np.asarray(jax.random.randint(key, (5,), 0, len(X))) for key in keys(run.state.key, 3)]
    path = states(run._replace(step=jax.jit(run.step)), 3)
    begin = entries(path[0].params, depth)
    assert 0.95 < np.abs(begin[0]).max() / (3 / X.shape[1]) ** 0.5 <= 1
    found = trained(
        list(zip(begin[::2], begin[1::2], strict=True)),
        [(X[rows], labels[rows]) for rows in chosen],
        rate,
        "sgd",
        lambda sums: sums / (1 + np.abs(sums)),
        lambda sums: (1 + np.abs(sums)) ** -2.0,
    )
    for seen, wanted in zip(entries(path[-1].params, depth), found, strict=True):
        np.testing.assert_allclose(seen, wanted, atol=1e-5)


@pytest.mark.parametrize("biased", [0.0, 1.0])
def test_deep_rectifiers_under_adam(biased):
    rate, depth, arm = 0.01, 3, {"optimizer": "adam", "width": 6, "steps": 10, "batch": 5}
    run = he_initialization.simulate(jax.random.key(0), 1.0, rate, 0.0, biased, depth=depth, **arm)
    pixels, labels = data.digits()
    X = data.standardized(pixels)
    X *= (X.shape[1] / np.sum(X**2, axis=1, keepdims=True)) ** 0.5
    chosen = [np.asarray(jax.random.bits(key, (5,), np.uint32)) % len(X) for key in keys(run.state.key, 3)]
    first, *_, last = (state.params for state in states(run._replace(step=jax.jit(run.step)), 3))
    kernels = lambda stack: [np.asarray(each) for each in (stack.entry, *stack.hidden, stack.readout)]
    begin = [(kernel, np.zeros(kernel.shape[1])) for kernel in kernels(first)]
    rectified = lambda sums: np.maximum(sums, 0.0), lambda sums: np.where(sums > 0, 1.0, 0.0)
    still = [2 * depth + 1] if biased else range(1, 2 * depth + 2, 2)  # the readout never has a bias
    found = trained(begin, [(X[rows], labels[rows]) for rows in chosen], rate, "adam", *rectified, still)
    for seen, wanted in zip(kernels(last), found[::2], strict=True):
        np.testing.assert_allclose(seen, wanted, atol=1e-6)
    np.testing.assert_allclose(last.biases, found[1 : 2 * depth : 2], atol=1e-6)
