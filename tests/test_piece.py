import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.piece import Piece, anyone

MATRIX, BATCH = jax.ShapeDtypeStruct((8, 8), "float32"), jax.ShapeDtypeStruct((3, 8, 8), "float32")
DATA = np.random.default_rng(0).normal(size=(40, 8)).astype("float32")


@pytest.mark.parametrize(
    ("function", "argument", "expected"),
    [
        (lambda m: m @ m, MATRIX, "nothing"),
        (lambda m: jnp.linalg.svd(m, compute_uv=False), MATRIX, "matrices"),
        (lambda m: jax.lax.fori_loop(0, 3, lambda _, c: jnp.linalg.qr(c)[0], m), MATRIX, "matrices"),
        (lambda m: jnp.linalg.solve(m, m[0]), MATRIX, "matrices"),
        (jax.vmap(lambda m: jnp.linalg.cholesky(m)), BATCH, "batches"),
        (lambda m: jnp.linalg.eigvalsh(m), BATCH, "batches"),
    ],
)
def test_it_is_known_whether_a_program_decomposes_matrices(function, argument, expected):
    assert Piece(function, argument).decomposing == expected


def test_large_constants_become_arguments():
    piece = Piece(lambda x: (DATA @ x).sum() + jnp.arange(8.0) @ x, jax.ShapeDtypeStruct((8,), "float32"))
    (data,) = piece.data
    np.testing.assert_array_equal(data, DATA)
    x = np.ones(8, "float32")
    assert float(piece(piece.data, x)) == pytest.approx(DATA.sum() + 28, rel=1e-5)
    assert float(piece([2 * data], x)) == pytest.approx(2 * DATA.sum() + 28, rel=1e-5)
    assert "dense<" not in piece.text.replace("dense<0", "")
    assert piece.address != Piece(lambda x: (2 * DATA @ x).sum() + jnp.arange(8.0) @ x, piece.arguments[0]).address


def test_a_network_is_computed_the_same_with_matrices_turned():
    step = lambda _, m: m - 0.1 * DATA.T @ jnp.tanh(DATA @ m)
    piece = Piece(lambda m: jax.lax.fori_loop(0, 5, step, m), MATRIX)
    weights = np.random.default_rng(1).normal(size=(8, 8)).astype("float32")
    for number in (1, -2):
        data = [number * each for each in piece.data]
        np.testing.assert_allclose(piece.turned(data, weights), piece(data, weights), rtol=1e-4)
    products = [line for line in str(jax.make_jaxpr(piece.turned)(piece.data, weights)).splitlines() if "dot_g" in line]
    assert [line.split(":")[1].split(" ")[0] for line in products] == ["f32[8,40]", "f32[8,8]"]


def test_a_condition_is_one_for_the_whole_batch():
    steps = lambda running, x: jax.lax.fori_loop(0, jnp.where(anyone(running), 3, 0), lambda _, y: y + 1, x)
    assert steps(True, 0) == 3
    assert steps(False, 0) == 0
    several = jax.vmap(steps)
    assert several(jnp.array([False, True]), jnp.zeros(2)).tolist() == [3, 3]
    assert several(jnp.array([False, False]), jnp.zeros(2)).tolist() == [0, 0]


def test_the_widest_array_is_that_of_the_inner_loop():
    wide = lambda x: (x[:, None] * jnp.ones((1, 100))).sum(1)
    loop = lambda body, x: jax.lax.fori_loop(0, 3, lambda _, y: body(y), x)
    argument = jax.ShapeDtypeStruct((8,), "float32")
    assert Piece(lambda x: loop(lambda y: loop(wide, y), x), argument).widest == 3200
    assert Piece(lambda x: loop(lambda y: loop(jax.jit(wide), y), wide(x)), argument).widest == 3200
    assert Piece(lambda x: loop(wide, wide(x)), argument).widest == 0
