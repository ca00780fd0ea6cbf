import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.dynamics import descent, start
from research.optimizers import (
    coordinate_descent,
    dual_acceleration,
    inverse_square_root,
    mirror_descent,
    progressive_rescaling,
    soft_threshold,
    spectral_descent,
    steepest_descent,
    until,
)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def paths(loss, chain, initial, steps):
    step, state, seen = jax.jit(descent(loss, chain)), start(initial, chain), []
    for _ in range(steps):
        state = step(state)
        seen.append(np.asarray(state.params))
    return np.array(seen)


def test_coordinate_descent_moves_the_steepest_coordinate_only():
    A = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 3.0]])
    b = np.array([1.0, -2.0, 0.5])
    found = paths(lambda w: w @ jnp.asarray(A) @ w / 2 - b @ w, coordinate_descent(0.2), jnp.zeros(3), 12)
    w = np.zeros(3)
    for place in range(12):
        gradient = A @ w - b
        steepest = np.argmax(np.abs(gradient))
        w[steepest] -= 0.2 * gradient[steepest]
        np.testing.assert_allclose(found[place], w, rtol=1e-12)
    assert (np.count_nonzero(np.diff(found, axis=0), axis=1) == 1).all()


def test_coordinate_descent_takes_all_arrays_together_and_moves_ties():
    chain = coordinate_descent(1.0)
    gradient = {"a": jnp.array([1.0, -3.0]), "b": jnp.array([[3.0, 0.0]])}
    updates, _ = chain.update(gradient, chain.init(gradient), gradient)
    assert updates["a"].tolist() == [0.0, 3.0]
    assert updates["b"].tolist() == [[-3.0, 0.0]]


def test_coordinate_descent_takes_a_schedule():
    chain = coordinate_descent(optax.linear_schedule(1.0, 0.0, 2))
    state, gradient, lengths = chain.init(jnp.ones(2)), jnp.array([2.0, 1.0]), []
    for _ in range(3):
        updates, state = chain.update(gradient, state, gradient)
        lengths.append(float(updates[0]))
    assert lengths == [-2.0, -1.0, 0.0]


def test_dual_acceleration_is_algorithm_1():
    random = np.random.default_rng(0)
    X = random.normal(size=(10, 4))
    X /= np.linalg.norm(X, axis=1).max()
    y = np.sign(X @ random.normal(size=4))
    Z = y[:, None] * X
    found = paths(lambda w: jax.nn.logsumexp(-jnp.asarray(Z) @ w), dual_acceleration(0.7), jnp.zeros(4), 30)
    # g_t = β_t (g_{t−1} + ∇_t), w_{t+1} = w_t − θ (g_t + ∇_t), β_t = t/(t + 1), where ∇_t = −Zᵀ q_t
    w, g = np.zeros(4), np.zeros(4)
    for t in range(30):
        q = np.exp(-Z @ w)
        gradient = -Z.T @ (q / q.sum())
        g = t / (t + 1) * (g + gradient)
        w = w - 0.7 * (g + gradient)
        np.testing.assert_allclose(found[t], w, rtol=1e-11, atol=1e-13)


def test_dual_acceleration_reaches_the_margin_faster_than_normalised_descent():
    random = np.random.default_rng(1)
    Z = np.abs(random.normal(size=(12, 3))) * [1.0, 0.2, 0.1]
    Z /= np.linalg.norm(Z, axis=1).max()
    loss = lambda w: jax.nn.logsumexp(-jnp.asarray(Z) @ w)
    margin = lambda w: (Z @ w).min() / np.linalg.norm(w)
    fast = margin(paths(loss, dual_acceleration(), jnp.zeros(3), 300)[-1])
    slow = margin(paths(loss, optax.sgd(1.0), jnp.zeros(3), 300)[-1])
    assert fast > slow


def test_dual_acceleration_keeps_the_dtype_of_its_parameters():
    chain = dual_acceleration(1.0)
    params = jnp.ones(2, "float32")
    updates, state = chain.update(params, chain.init(params), params)
    updates, state = chain.update(params, state, params)
    assert updates.dtype == "float32"
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}
    # gradient 1 twice: g_0 = 0, so −1; then g_1 = ½ (0 + 1), so −3/2
    np.testing.assert_allclose(updates, -1.5)


def test_inverse_square_root_counts_from_zero():
    schedule = inverse_square_root(0.6)
    np.testing.assert_allclose([schedule(jnp.array(count)) for count in (0, 3, 8)], [0.6, 0.3, 0.2], rtol=1e-14)
    found = paths(lambda w: w.sum(), optax.sgd(inverse_square_root(1.0)), jnp.zeros(1), 4)
    np.testing.assert_allclose(found[:, 0], -np.cumsum(1 / np.sqrt([1, 2, 3, 4])), rtol=1e-12)


@pytest.mark.parametrize("power", [1.1, 1.5, 2.0, 3.0, 10.0])
def test_mirror_descent_minimises_the_linear_loss_plus_the_divergence(power):
    random = np.random.default_rng(2)
    w, gradient, rate = random.normal(size=5), random.normal(size=5), 0.3
    chain = mirror_descent(rate, power)
    updates, _ = chain.update(jnp.asarray(gradient), chain.init(jnp.asarray(w)), jnp.asarray(w))
    # w' = argmin η g·w' + ψ(w') − ψ(w) − ∇ψ(w)·(w' − w), so that ∇ψ(w') = ∇ψ(w) − η g
    image = lambda v: np.sign(v) * np.abs(v) ** (power - 1)
    np.testing.assert_allclose(image(w + np.asarray(updates)), image(w) - rate * gradient, rtol=1e-9, atol=1e-12)


def test_mirror_descent_with_power_two_is_gradient_descent_with_its_momenta_and_schedules():
    loss = lambda w: (w @ jnp.array([[2.0, 0.5], [0.5, 1.0]]) @ w) / 2 - w.sum()
    schedule, initial = optax.linear_schedule(0.1, 0.0, 30), jnp.array([1.0, -2.0])
    np.testing.assert_allclose(
        paths(loss, mirror_descent(schedule, 2.0), initial, 20), paths(loss, optax.sgd(schedule), initial, 20)
    )
    heavy = paths(loss, optax.sgd(0.1, momentum=0.8), initial, 20)
    for chain in (mirror_descent(0.1, 2.0, 0.8), optax.chain(optax.trace(0.8), mirror_descent(0.1, 2.0))):
        np.testing.assert_allclose(paths(loss, chain, initial, 20), heavy, rtol=1e-12)


@pytest.mark.parametrize("momentum", ["dual", "primal"])
def test_only_primal_momentum_leaves_the_span_of_the_gradients(momentum):
    X = jnp.asarray(np.random.default_rng(3).normal(size=(2, 5)))
    loss = lambda w: ((X @ w - 1) ** 2).sum() / 2
    dual = optax.chain(optax.trace(0.7), mirror_descent(0.02, 1.5))
    chain = dual if momentum == "dual" else mirror_descent(0.02, 1.5, 0.7)
    w = paths(loss, chain, jnp.zeros(5), 40)[-1]
    image = np.sign(w) * np.abs(w) ** 0.5
    outside = image - X.T @ np.linalg.lstsq(X.T, image, rcond=None)[0]
    relative = np.linalg.norm(outside) / np.linalg.norm(image)
    assert relative < 1e-12 if momentum == "dual" else relative > 1e-3


def test_mirror_descent_keeps_the_dtype_of_its_parameters():
    chain = mirror_descent(1.0, jnp.asarray(3.0, "float32"))
    params = jnp.ones(2, "float32")
    updates, state = chain.update(params / 2, chain.init(params), params)
    assert updates.dtype == "float32"
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}
    np.testing.assert_allclose(params + updates, 0.5**0.5, rtol=1e-6)


@pytest.mark.parametrize("order", [1.1, 4 / 3, 2.0, 3.0, np.inf])
def test_steepest_descent_minimises_the_linear_loss_plus_half_the_squared_norm(order):
    random = np.random.default_rng(4)
    gradient = random.normal(size=6)
    arrays = {"a": jnp.asarray(gradient[:2]), "b": jnp.asarray(gradient[2:].reshape(2, 2))}
    chain = steepest_descent(0.3, order)
    updates, _ = chain.update(arrays, chain.init(arrays), arrays)
    moved = np.concatenate([np.ravel(updates["a"]), np.ravel(updates["b"])])
    dual = 1.0 if np.isinf(order) else order / (order - 1)
    # the minimum of g·Δ + ‖Δ‖²/(2η) is −η ‖g‖_q²/2, attained at ‖Δ‖ = η ‖g‖_q only
    value = gradient @ moved + np.linalg.norm(moved, order) ** 2 / 0.6
    assert value == pytest.approx(-0.15 * np.linalg.norm(gradient, dual) ** 2)
    assert np.linalg.norm(moved, order) == pytest.approx(0.3 * np.linalg.norm(gradient, dual))


def test_steepest_descent_stays_where_the_gradient_is_zero_and_keeps_the_dtype():
    chain = steepest_descent(0.3, 4 / 3)
    zero = jnp.zeros(3, "float32")
    updates, _ = chain.update(zero, chain.init(zero), zero)
    assert updates.dtype == "float32"
    assert not updates.any()


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3)])
def test_spectral_descent_steps_along_the_polar_factor(shape):
    gradient = np.random.default_rng(5).normal(size=shape)
    chain = spectral_descent(0.3)
    updates, _ = chain.update(jnp.asarray(gradient), chain.init(gradient), None)
    U, s, Vt = np.linalg.svd(gradient, full_matrices=False)
    np.testing.assert_allclose(updates, -0.3 * U @ Vt, atol=1e-13)
    # the least linear change among all steps of spectral norm 0.3: minus 0.3 times the nuclear norm
    assert (gradient * np.asarray(updates)).sum() == pytest.approx(-0.3 * s.sum())


def test_spectral_descent_leaves_out_what_has_no_gradient():
    U, V = (np.linalg.qr(np.random.default_rng(seed).normal(size=(size, 3)))[0] for seed, size in ((6, 5), (7, 8)))
    chain = spectral_descent(1.0)
    for values in ([1.0, 1e-4, 0.0], [1e-300, 1e-301, 0.0], [3.0, 0.0, 0.0]):
        gradient = jnp.asarray(U * values @ V.T)
        updates, _ = chain.update(gradient, chain.init(gradient), gradient)
        kept = np.array(values) > 0
        np.testing.assert_allclose(updates, -U[:, kept] @ V[:, kept].T, atol=1e-8)
    zero = jnp.zeros((5, 8), "float32")
    updates, _ = chain.update(zero, chain.init(zero), zero)
    assert updates.dtype == "float32"
    assert not updates.any()


def test_soft_threshold_is_the_proximal_step_and_reaches_zero_exactly():
    params, updates = jnp.array([1.0, -1.0, 0.3, -0.05, 0.0]), jnp.array([0.5, 0.5, -0.25, 0.0, 0.02])
    chain = soft_threshold(0.1)
    moved, _ = chain.update(updates, chain.init(params), params)
    after = np.asarray(params + moved)
    np.testing.assert_allclose(after, [1.4, -0.4, 0.0, 0.0, 0.0], atol=1e-15)
    assert not after[2:].any()
    # the minimiser of (z - ahead)²/2 + 0.1 |z|, on a grid
    grid = np.linspace(-2, 2, 4001)
    for ahead, found in zip(np.asarray(params + updates), after, strict=True):
        assert grid[np.argmin((grid - ahead) ** 2 / 2 + 0.1 * np.abs(grid))] == pytest.approx(found, abs=1e-3)


def test_until_gives_the_rate_until_the_time_is_reached_and_never_more():
    rates = np.array([until(1.0, 0.3)(count) for count in range(8)])
    np.testing.assert_allclose(rates, [0.3, 0.3, 0.3, 0.1, 0, 0, 0, 0], atol=1e-15)
    moved = paths(lambda params: params.sum(), optax.sgd(until(1.0, 0.3)), jnp.zeros(2), 8)
    np.testing.assert_allclose(moved[-1], -1.0, rtol=1e-14)


def test_progressive_rescaling_warms_up_rescales_and_stays_in_the_ball():
    loss = lambda params: params @ jnp.array([-3.0, 0.0, 4.0]) / 5
    moved = paths(loss, progressive_rescaling(1.0, 2.5, 2.0, 3, warm_up=2), jnp.array([0.0, 1.0, 0.0]), 8)
    sizes, step = np.linalg.norm(moved, axis=1), np.array([3.0, 0.0, -4.0]) / 5
    np.testing.assert_allclose(moved[1], np.array([0.0, 1.0, 0.0]) + 2 * step, rtol=1e-12)
    np.testing.assert_allclose(moved[2], 2.5 * moved[1] / sizes[1], rtol=1e-12)  # a round begins: only the norm changes
    np.testing.assert_allclose(moved[3], 2.5 * (moved[2] + step) / np.linalg.norm(moved[2] + step), rtol=1e-12)
    np.testing.assert_allclose(moved[5], 2 * moved[4], rtol=1e-12)
    np.testing.assert_allclose(sizes[2:], [2.5, 2.5, 2.5, 5, 5, 5], rtol=1e-12)
    back, chain = lambda params: -loss(params), progressive_rescaling(1.0, 2.5, 2.0, 3, warm_up=2)
    inside = np.linalg.norm(paths(back, chain, jnp.array([9.0, 0.0, -12.0]), 5), axis=1)
    np.testing.assert_allclose(inside, [14, 13, 2.5, 1.5, 0.5], rtol=1e-12)
