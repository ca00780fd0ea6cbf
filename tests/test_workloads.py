import importlib.util

import jax
import numpy as np
import pytest

from experiments import throughput
from research.benchmarks.comparison import EAGER, FUNC, NAIVE, initial_loss, swept
from research.benchmarks.machine import cost
from research.benchmarks.rivals import Rival
from research.benchmarks.workloads import WORKLOADS, classification, partly_observed, regression

PEERS = [EAGER, FUNC] if importlib.util.find_spec("torch") else []


def logistic_slope(weights):
    X, y = classification()
    return -(y / (1 + np.exp(y * (X @ weights)))) @ X / len(y)


def diagonal_slope(params):
    X, y = regression()
    u, v = params["u"], params["v"]
    by_weight = (X @ (u**2 - v**2) - y) @ X / len(y)
    return {"u": 2 * u * by_weight, "v": -2 * v * by_weight}


def factorization_slope(factors):
    target, seen = partly_observed()
    first, second, third = factors
    residual = seen * (third @ second @ first - target)
    return (third @ second).T @ residual, third.T @ residual @ first.T, residual @ (second @ first).T


def logistic_loss(weights):
    X, y = classification()
    return np.log1p(np.exp(-y * (X @ weights))).mean()


def diagonal_loss(params):
    X, y = regression()
    return ((X @ (params["u"] ** 2 - params["v"] ** 2) - y) ** 2).mean() / 2


def factorization_loss(factors):
    target, seen = partly_observed()
    return (seen * (factors[2] @ factors[1] @ factors[0] - target) ** 2).sum() / 2


@pytest.mark.parametrize(
    ("name", "loss", "slope"),
    [
        ("logistic", logistic_loss, logistic_slope),
        ("diagonal", diagonal_loss, diagonal_slope),
        ("factorization", factorization_loss, factorization_slope),
    ],
)
def test_a_workload_is_gradient_descent_as_a_numpy_loop_has_it(name, loss, slope):
    workload = WORKLOADS[name].quick()
    losses, initial = [], []
    for key, rate in zip(*workload.mapped(), strict=True):
        with jax.enable_x64(False):
            start = workload.one(key, rate).state.params
        params = jax.tree.map(lambda leaf: np.asarray(leaf, float), start)
        initial.append(loss(params))
        for _ in range(workload.steps):
            params = jax.tree.map(lambda leaf, step, rate=rate: leaf - rate * step, params, slope(params))
        losses.append(loss(params))
    np.testing.assert_allclose(swept(workload).losses, losses, rtol=1e-5)
    np.testing.assert_allclose(initial_loss(workload), initial, rtol=1e-5)
    assert np.all(np.array(losses) < initial)


def trained(workload, name):
    if name == NAIVE:
        return np.array(Rival(workload).time("naive")["losses"])
    from research.benchmarks import peers

    way = {EAGER: lambda peer: peers.eager(peer, workload.runs), FUNC: peers.vmapped}[name]
    return way(peers.peer(workload))[1]


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=lambda workload: workload.name)
def test_every_rival_ends_where_the_sweep_ends(workload):
    workload = workload.quick()
    reference = swept(workload).losses
    assert len(np.unique(reference)) == workload.runs == 4
    for rival in (NAIVE, *PEERS):
        np.testing.assert_allclose(trained(workload, rival), reference, rtol=2e-5, err_msg=rival)


def test_the_six_workloads_have_the_sizes_that_are_named():
    assert list(WORKLOADS) == list(throughput.NAMES)
    assert WORKLOADS["logistic"].runs == 1024
    assert WORKLOADS["perceptron"].runs == 64

    def shapes(name):
        key, rate = (each[0] for each in WORKLOADS[name].mapped())
        params = jax.eval_shape(lambda key, rate: WORKLOADS[name].one(key, rate).state.params, key, rate)
        return [leaf.shape for leaf in jax.tree.leaves(params)]

    assert shapes("logistic") == [(50,)]
    assert shapes("factorization") == [(50, 50)] * 3
    assert sorted(shapes("perceptron")) == [(10,), (64,), (64, 10), (64, 64)]
    assert sorted(shapes("wide_perceptron")) == [(10,), (64, 256), (256,), (256,), (256, 10), (256, 256)]
    assert sorted(shapes("convolution")) == [(3, 3, 1, 8), (3, 3, 8, 16), (8,), (10,), (16,), (784, 10)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("logistic", 4 * 100 * 50),
        ("factorization", 6 * 2 * 50**3),
        ("perceptron", 2 * 512 * (2 * 64 * 64 + 3 * 64 * 10)),
        ("wide_perceptron", 2 * 512 * (2 * 64 * 256 + 3 * 256 * 256 + 3 * 256 * 10)),
        ("convolution", 2 * 64 * (2 * 28 * 28 * 9 * 8 + 3 * 14 * 14 * 72 * 16 + 3 * 784 * 10)),
    ],
)
def test_operations_are_counted_as_by_hand(name, expected):
    counted = cost(WORKLOADS[name])
    assert expected / 2 < counted.flops < 2 * expected
    assert counted.bytes > 0
