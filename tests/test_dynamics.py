import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.dynamics import averaged, descent, gradient_flow, log_spaced, start, start_averaged, stochastic_descent


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def problem():
    """A ill-conditioned quadratic: its matrix and its centre, in NumPy."""
    random = np.random.default_rng(0)
    A = random.normal(size=(4, 4))
    return A @ A.T / 4 + np.diag([0.0, 0.1, 0.2, 0.3]), random.normal(size=4)


def quadratic(A, b):
    return lambda w: (w - b) @ jnp.asarray(A) @ (w - b) / 2


def walked(step, state, steps):
    return jax.lax.fori_loop(0, steps, lambda _, inner: step(inner), state)


def test_descent_is_the_loop_it_stands_for(problem):
    A, b = problem
    chain = optax.sgd(0.1)
    state = walked(descent(quadratic(A, b), chain), start(jnp.zeros(4), chain), 25)
    w = np.zeros(4)
    for _ in range(25):
        w = w - 0.1 * A @ (w - b)
    np.testing.assert_allclose(state.params, w, rtol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_carried(problem, nesterov):
    A, b = problem
    chain = optax.sgd(0.05, momentum=0.8, nesterov=nesterov)
    state = walked(descent(quadratic(A, b), chain), start(jnp.ones(4), chain), 25)
    w, velocity = np.ones(4), np.zeros(4)
    for _ in range(25):
        gradient = A @ (w - b)
        velocity = 0.8 * velocity + gradient
        w = w - 0.05 * (gradient + 0.8 * velocity if nesterov else velocity)
    np.testing.assert_allclose(state.params, w, rtol=1e-12)


def test_descent_hands_value_and_gradient_to_optimizers_that_ask(problem):
    def update(updates, state, params=None, *, value, grad, **_):
        return jax.tree.map(lambda g: -g * value, grad), state

    A, b = problem
    chain = optax.GradientTransformationExtraArgs(lambda params: (), update)
    state = descent(quadratic(A, b), chain)(start(jnp.zeros(4), chain))
    np.testing.assert_allclose(state.params, A @ b * (b @ A @ b / 2), rtol=1e-12)


def test_descent_moves_every_leaf_of_a_tree():
    chain = optax.sgd(0.5)
    loss = lambda params: params["a"] ** 2 + (params["b"] ** 2).sum()
    state = descent(loss, chain)(start({"a": jnp.array(1.0), "b": jnp.ones(2)}, chain))
    assert state.params["a"] == 0.0
    assert state.params["b"].tolist() == [0.0, 0.0]


def test_a_stochastic_step_draws_with_a_fresh_key_each_time():
    chain = optax.sgd(1.0)
    loss = lambda w, noise: w @ noise  # the gradient is the noise itself
    step = stochastic_descent(loss, chain, lambda key: jax.random.normal(key, (3,)))

    def moves(seed):
        state, found = start(jnp.zeros(3), chain, jax.random.key(seed)), []
        for _ in range(4):
            later = step(state)
            found.append(np.asarray(later.params - state.params))
            state = later
        return np.array(found)

    one, other = moves(0), moves(1)
    assert len(np.unique(np.concatenate([one, other]).round(9))) == 24  # no number is drawn twice
    np.testing.assert_array_equal(one, moves(0))


def test_a_stochastic_step_is_a_step_on_what_it_drew(problem):
    A, b = problem
    chain = optax.sgd(0.1, momentum=0.5)
    step = stochastic_descent(
        lambda w, row: (jnp.asarray(A)[row] @ (w - b)) ** 2, chain, lambda key: jax.random.randint(key, (), 0, 4)
    )
    state = start(jnp.zeros(4), chain, jax.random.key(3))
    w, velocity, key = np.zeros(4), np.zeros(4), jax.random.key(3)
    for _ in range(6):
        state = step(state)
        key, drawn = jax.random.split(key)
        row = A[int(jax.random.randint(drawn, (), 0, 4))]
        velocity = 0.5 * velocity + 2 * row * (row @ (w - b))
        w = w - 0.1 * velocity
    np.testing.assert_allclose(state.params, w, rtol=1e-12)


def test_gradient_flow_has_order_four():
    loss = lambda w: (w**4).sum() / 4  # dw/dt = −w³, so w(t) = w0 / √(1 + 2 w0² t)
    initial = jnp.array([0.4, 0.7, 1.0])
    exact = initial / jnp.sqrt(1 + 2 * initial**2)

    def error(steps):
        return float(jnp.abs(walked(gradient_flow(loss, 1 / steps), initial, steps) - exact).max())

    errors = np.array([error(steps) for steps in (32, 64, 128, 256)])
    orders = np.log2(errors[:-1] / errors[1:])
    np.testing.assert_allclose(orders, 4, atol=0.3)
    assert errors[-1] < 1e-10


def test_gradient_flow_of_a_quadratic_goes_downhill_in_every_leaf():
    loss = lambda params: params["a"] ** 2 + 2 * (params["b"] ** 2).sum()
    params = walked(gradient_flow(loss, jnp.array(0.01)), {"a": jnp.array(1.0), "b": jnp.ones(2)}, 100)
    np.testing.assert_allclose(params["a"], np.exp(-2), rtol=1e-8)
    np.testing.assert_allclose(params["b"], np.exp(-4), rtol=1e-6)


@pytest.mark.parametrize(
    ("last", "points", "first"), [(1, 2, 1), (100_000, 50, 1), (37, 40, 3), (10, 2, 10), (7, 100, 1)]
)
def test_log_spaced_steps_begin_at_zero_and_end_at_the_last(last, points, first):
    at = log_spaced(last, points, first)
    assert np.issubdtype(at.dtype, np.integer)
    assert at[0] == 0
    assert at[-1] == last
    assert (np.diff(at) > 0).all()
    assert at[1] == min(first, last)
    assert len(at) <= points + 1
    if points < first * 2 + 50 and last == 100_000:
        late = at[at > 100]
        np.testing.assert_allclose(np.diff(np.log(late)), np.log(1e5) / 49, rtol=0.05)


@pytest.mark.parametrize("arguments", [(0, 5), (10, 1), (10, 5, 0), (10, 5, 11), (-3, 5)])
def test_log_spaced_names_what_it_does_not_take(arguments):
    with pytest.raises(ValueError, match=rf"1 <= first <= last.*last={arguments[0]}"):
        log_spaced(*arguments)


@pytest.mark.parametrize(
    ("power", "weight"), [(0, lambda t: 1.0), (1, lambda t: t), (3, lambda t: t * (t + 1) * (t + 2))]
)
def test_the_mean_of_the_iterates_weighs_them_by_a_power_of_time(problem, power, weight):
    chain = optax.sgd(0.1)
    step, state = descent(quadratic(*problem), chain), start(jnp.ones(4), chain)
    mean = walked(averaged(step, power), start_averaged(state), 30).mean
    iterates = np.array([walked(step, state, t).params for t in range(1, 31)])
    weights = np.array([weight(t) for t in range(1, 31)])
    np.testing.assert_allclose(mean, weights @ iterates / weights.sum(), rtol=1e-12)
