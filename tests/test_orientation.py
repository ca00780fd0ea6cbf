"""Programs whose matrices were turned compute what was written, and a network has nothing to transpose in its loops."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from research.benchmarks.workloads import WORKLOADS
from research.layout import precision
from research.orientation import oriented
from research.turning import Tally

SAMPLES, FEATURES, UNITS, LABELS = 40, 6, 5, 3


def normal(number, *shape):
    return np.random.default_rng(number).standard_normal(shape)


X, Z, PICTURES = normal(0, SAMPLES, FEATURES), normal(1, SAMPLES, UNITS), normal(2, 8, 4, 4, 2)
LABEL = np.arange(SAMPLES) % LABELS


def looped(step, *begin, times=3):
    """A function of arrays: the step done `times` times in a scan, and once more in a loop of a length unknown."""

    def function(*arrays):
        carry, seen = jax.lax.scan(lambda carry, _: (step(*carry), carry), arrays, length=times)
        until = lambda pair: pair[0] < 1
        _, carry = jax.lax.while_loop(until, lambda pair: (pair[0] + 1, step(*pair[1])), (0, carry))
        return carry, seen

    return function, begin


def network(activation=jnp.tanh, inputs=X, labels=LABEL, average=optax.softmax_cross_entropy_with_integer_labels):
    def loss(first, bias, last):
        hidden = activation(inputs @ first + bias)
        return average(hidden @ last, labels).mean()

    def step(*weights):
        gradients = jax.grad(loss, argnums=(0, 1, 2))(*weights)
        return tuple(weight - 0.1 * gradient for weight, gradient in zip(weights, gradients, strict=True))

    return looped(step, normal(3, FEATURES, UNITS), normal(4, UNITS), normal(5, UNITS, LABELS))


def of_products(reduce):
    """Something done to the matrix of a product that lies turned, and added to the weights."""
    return looped(lambda weights: (weights + 1e-3 * reduce(X @ weights),), normal(6, FEATURES, UNITS))


def batched(weights):
    """A loop that ends for each of a batch at its own time."""
    halved = lambda row: jax.lax.while_loop(lambda row: row.sum() > 1, lambda row: row / 2, row)
    return weights + 1e-3 * jax.vmap(halved)(jnp.exp(X @ weights)).sum(axis=0)


def minibatch(weights, count):
    chosen = jax.random.randint(jax.random.fold_in(jax.random.key(0), count), (30,), 0, SAMPLES)
    inputs = jnp.asarray(X)[chosen]
    return weights - 1e-3 * inputs.T @ jnp.tanh(inputs @ weights), count + 1


def layered(weights):
    """A scan inside of the step, over the weights of square layers; its gradient scans backwards."""

    def loss(weights):
        outputs, _ = jax.lax.scan(lambda given, weight: (jnp.tanh(given @ weight), None), Z, weights)
        return jnp.mean(outputs**2)

    return (weights - 0.1 * jax.grad(loss)(weights),)


def every_entry(outputs):
    """Each entry picked by itself, both axes being those of a batch."""
    numbers = jax.lax.GatherDimensionNumbers(
        (), (), (), operand_batching_dims=(0, 1), start_indices_batching_dims=(0, 1)
    )
    return jax.lax.gather(outputs, jnp.zeros((*outputs.shape, 0), int), numbers, (1, 1)).sum(axis=0)


def pictures(filters):
    """Patches, a product, pooling: most of it is not about matrices."""

    def loss(filters):
        maps = jax.nn.relu(PICTURES.reshape(-1, 2) @ filters).reshape(8, 2, 2, 2, 2, UNITS)
        return jnp.sum(maps.max(axis=(2, 4)) ** 2)

    return (filters - 0.01 * jax.grad(loss)(filters),)


CASES = {
    "network": network(),
    "relu": network(jax.nn.relu),
    "one-hot": network(average=optax.softmax_cross_entropy, labels=np.eye(LABELS)[LABEL]),
    "custom jvp": network(jax.nn.silu),
    "normalized": network(lambda sums: jax.nn.relu((sums - sums.mean(0)) / jnp.sqrt(sums.var(axis=0) + 1e-3))),
    "minibatch": looped(minibatch, normal(7, FEATURES, UNITS), np.int32(0)),
    "layers": looped(layered, normal(8, 4, UNITS, UNITS)),
    "pictures": looped(pictures, normal(9, 2, UNITS)),
    "curvature": looped(
        lambda weights: (
            weights - 1e-3 * jax.jvp(jax.grad(lambda w: jnp.sum(jnp.tanh(X @ w) ** 2)), (weights,), (weights,))[1],
        ),
        normal(10, FEATURES, UNITS),
    ),
    "factors": looped(lambda left, right: (right @ left @ right, left.T @ right.T), normal(11, 5, 5), normal(12, 5, 5)),
    "vector": looped(lambda weights: (weights - 1e-2 * X.T @ jnp.sign(X @ weights),), normal(13, FEATURES)),
    "branches": of_products(
        lambda outputs: jax.lax.cond(outputs.sum() > 0, lambda o: o.max(axis=0), lambda o: -o.min(axis=0), outputs)
    ),
    "nobody's": of_products(lambda outputs: jnp.sort(outputs, axis=0)[3]),
    "cumulated": of_products(lambda outputs: jnp.cumsum(outputs, axis=1).mean(axis=0)),
    "argmax": of_products(lambda outputs: jax.nn.one_hot(outputs.argmax(axis=1), UNITS).mean(axis=0)),
    "entries": of_products(lambda outputs: outputs[3, 2] + outputs[7:9, 1:3].sum()),
    "norms": of_products(lambda outputs: (outputs / jnp.linalg.norm(outputs, axis=1, keepdims=True)).sum(axis=0)),
    "columns": of_products(lambda outputs: jnp.broadcast_to(outputs[:, :1], outputs.shape).sum(axis=0)),
    "sums of columns": of_products(
        lambda outputs: (outputs * jnp.broadcast_to(outputs.max(axis=1, keepdims=True), outputs.shape)).sum(axis=0)
    ),
    "rows": of_products(lambda outputs: (outputs + jnp.broadcast_to(jnp.exp(outputs[:1]), outputs.shape)).sum(axis=0)),
    "times a sum": of_products(lambda outputs: jnp.einsum("ij,->ij", outputs, outputs.sum()).mean(axis=0)),
    "times a sum, square": of_products(
        lambda outputs: jnp.einsum("ij,->ij", (outputs.T @ (outputs * jnp.arange(5.0))).T, outputs.sum())[0]
    ),
    "outer product": of_products(lambda outputs: jnp.einsum("ij,kl->ikjl", outputs, outputs[:7]).sum(axis=(0, 1, 2))),
    "with a vector": of_products(lambda outputs: jnp.einsum("ij,k->ijk", outputs, outputs[0]).sum(axis=(0, 1))),
    "over no axes": of_products(lambda outputs: jnp.max(outputs, axis=()).sum(axis=0)),
    "over no axes, square": of_products(lambda outputs: jnp.max((outputs.T @ (outputs**2)).T, axis=())[0]),
    "every entry": of_products(every_entry),
    "by platform": of_products(
        lambda outputs: jax.lax.platform_dependent(
            outputs, cpu=lambda o: o.sum(axis=0), default=lambda o: o.max(axis=0)
        )
    ),
    "diagonal": of_products(lambda outputs: jnp.diagonal(outputs[:5])),
    "recurrent": looped(
        lambda state, weights: (jnp.tanh(state @ weights + state), weights), normal(15, SAMPLES, 4), normal(16, 4, 4)
    ),
    "clipped": of_products(lambda outputs: jnp.clip(outputs, -0.5, outputs.mean()).sum(axis=0)),
    "batch of loops": looped(lambda weights: (batched(weights),), normal(14, FEATURES, UNITS)),
    "noise": of_products(lambda outputs: (outputs * jax.random.normal(jax.random.key(1), outputs.shape)).sum(axis=0)),
    "both ways": of_products(lambda outputs: (outputs + Z + outputs.T.reshape(outputs.shape)).sum(axis=0)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("everywhere", "lanes"), [(False, None), (True, 2)])
def test_a_turned_program_computes_what_was_written(case, lanes, everywhere, monkeypatch):
    if everywhere:  # also where it does not pay
        monkeypatch.setattr(Tally, "pays", True)
    function, begin = CASES[case]
    with precision("float64"), jax.numpy_rank_promotion("allow"):
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*begin)
        turned = jaxpr_as_fun(oriented(closed))
        arrays = [np.asarray(array) for array in begin]
        if lanes:
            arrays = [np.stack([array + lane * array.dtype.type(1) for lane in range(lanes)]) for array in arrays]
            function, turned = jax.vmap(function), jax.vmap(turned)
        answers = jax.tree.unflatten(jax.tree.structure(shape), jax.jit(turned)(*arrays))
        jax.tree.map(np.testing.assert_allclose, answers, jax.jit(function)(*arrays))


def loops(closed: ClosedJaxpr) -> list:
    """The equations of the innermost loops."""
    found = []
    for equation in closed.eqns:
        inner = [part for part in equation.params.values() if isinstance(part, ClosedJaxpr)]
        for part in inner:
            found += loops(part) or (part.eqns if equation.primitive.name in ("scan", "while") else [])
    return found


def step(name):
    """The equations of a workload's step, as written and turned."""
    workload = WORKLOADS[name]
    with precision("float32"):
        run = workload.one(jax.random.key(0), 0.1)
        many = lambda state: jax.lax.scan(lambda state, _: (run.step(state), None), state, length=9)[0]
        closed = jax.make_jaxpr(many)(run.state)
        return loops(closed), loops(oriented(closed))


@pytest.mark.parametrize("name", ["perceptron", "wide_perceptron"])
def test_samples_come_last_in_a_network_and_nothing_large_is_transposed(name):
    written, turned = step(name)
    product = lambda equation: equation.primitive.name == "dot_general"
    shapes = lambda equations: sorted(equation.outvars[0].aval.shape for equation in equations if product(equation))
    assert any(shape[0] == 512 for shape in shapes(written))
    assert len(shapes(turned)) == len(shapes(written))
    assert all(rows <= columns for rows, columns in shapes(turned))
    moved = [e.outvars[0].aval.size for e in turned if e.primitive.name == "transpose"]
    assert max(moved, default=0) <= 512  # biases and labels, of one axis


def test_a_loop_that_writes_elsewhere_is_left_as_it_is():
    def function(weights):
        seen = jax.new_ref(jnp.zeros(()))

        def step(weights, _):
            outputs = X @ weights
            seen[...] += outputs.sum()
            return weights - 1e-3 * X.T @ jnp.tanh(outputs), None

        return jax.lax.scan(step, weights, None, length=3)[0], seen[...]

    with precision("float64"):
        closed = jax.make_jaxpr(function)(normal(6, FEATURES, UNITS))
        for found, expected in zip(
            *(jax.jit(jaxpr_as_fun(each))(normal(6, FEATURES, UNITS)) for each in (oriented(closed), closed)),
            strict=True,
        ):
            np.testing.assert_allclose(found, expected)


def test_data_of_which_rows_are_drawn_is_not_turned_in_the_loop():
    function, begin = CASES["minibatch"]
    with precision("float64"):
        turned = loops(oriented(jax.make_jaxpr(function)(*begin)))
    assert any(e.primitive.name == "dot_general" and e.outvars[0].aval.shape == (UNITS, 30) for e in turned)
    assert all(e.invars[0].aval.size < X.size for e in turned if e.primitive.name == "transpose")


@pytest.mark.parametrize("name", ["convolution", "factorization", "logistic"])
def test_what_gains_nothing_stays_as_it_is_written(name):
    written, turned = step(name)
    moved = lambda equations: sum(equation.primitive.name == "transpose" for equation in equations)
    shapes = lambda equations: [e.outvars[0].aval.shape for e in equations if e.primitive.name == "dot_general"]
    assert (shapes(turned), moved(turned)) == (shapes(written), moved(written))
