import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.residues import Weights, loss_and_trace, modular_sums, outputs


def network(modulus=3, units=4):
    first, last = (np.random.default_rng(0).normal(size=size) for size in ((2 * modulus, units), (units, modulus)))
    return Weights(jnp.asarray(first, jnp.float32), jnp.asarray(last, jnp.float32))


def test_every_pair_stands_once_with_its_sum():
    X, y = (np.asarray(part) for part in modular_sums(jax.random.key(0), 5))
    one, other = X[:, :5].argmax(axis=1), X[:, 5:].argmax(axis=1)
    assert (X.sum(axis=1) == 2).all()
    assert len({*zip(one.tolist(), other.tolist(), strict=True)}) == 25
    assert (y == (one + other) % 5).all()
    assert (one[:5] != one[0]).any()  # in random order


@pytest.mark.parametrize(("activation", "degree"), [("quadratic", 3), ("relu", 2)])
def test_outputs_are_homogeneous(activation, degree):
    X, _ = modular_sums(jax.random.key(0), 3)
    once, twice = (outputs(Weights(*(c * part for part in network())), X, activation) for c in (1, 2))
    np.testing.assert_allclose(twice, 2**degree * once, rtol=1e-4)
    hidden = np.asarray(X @ network().first)
    hidden = hidden**2 if activation == "quadratic" else np.maximum(hidden, 0)
    np.testing.assert_allclose(once, hidden @ np.asarray(network().last), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["quadratic", "relu"])
@pytest.mark.parametrize("objective", ["cross_entropy", "squared_error"])
def test_the_loss_and_the_trace_are_those_of_the_jacobian(activation, objective):
    X, y = modular_sums(jax.random.key(1), 3)
    loss, trace = (float(part) for part in loss_and_trace(network(), X, y, activation, objective))
    logits = np.asarray(outputs(network(), X, activation), float)
    jacobian = jax.jit(jax.jacobian(lambda weights: outputs(weights, X, activation)))(network())
    rows = np.concatenate([np.asarray(part, float).reshape(9, 3, -1) for part in jacobian], axis=2)
    by_first = (np.asarray(jacobian.first) ** 2).sum(axis=(1, 2, 3))
    by_last = (np.asarray(jacobian.last) ** 2).sum(axis=(2, 3))[:, 0]
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    right = chances[np.arange(9), y]
    squares = (np.diag(each) - np.outer(each, each) for each in chances)
    inner = np.stack([*squares]) if objective == "cross_entropy" else np.broadcast_to(np.eye(3), (9, 3, 3))
    gauss_newton = np.einsum("nki,nkl,nlj->ij", rows, inner, rows) / 9
    assert np.linalg.eigvalsh(gauss_newton)[-1] <= (2 if objective == "cross_entropy" else 1) * trace
    if objective == "cross_entropy":
        assert loss == pytest.approx(-np.log(right).mean(), rel=1e-4)
        assert trace == pytest.approx(((1 - right) * (by_first + by_last)).mean(), rel=1e-4)
    else:
        assert loss == pytest.approx(((logits - np.eye(3)[y]) ** 2).sum(axis=1).mean() / 2, rel=1e-4)
        assert trace == pytest.approx((by_first + by_last).mean(), rel=1e-4)
