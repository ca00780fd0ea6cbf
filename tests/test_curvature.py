"""Lanczos's eigenvalues are those of the dense Hessian, with a bound that holds, and Jacobi's are those of LAPACK."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

from research.models import uniform_start
from research.observables.curvature import hessian_spectrum, lanczos, symmetric_eigenvectors, tridiagonal

SIZE, FEW = 12, 6


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def network_loss(params):
    X = jnp.linspace(-1, 1, 12)[:, None]
    one, two = params["params"].values()
    outputs = jnp.tanh(X @ one["kernel"] + one["bias"][None, :]) @ two["kernel"] + two["bias"][None, :]
    return jnp.mean((outputs[:, 0] - X[:, 0] ** 3) ** 2)


def network(seed):
    return jax.tree.map(lambda leaf: 1.5 * leaf, uniform_start(jax.random.key(seed), [1, 9, 1], float)[0])


def dense(params):
    flat, restore = ravel_pytree(params)
    return np.asarray(jax.hessian(lambda vector: network_loss(restore(vector)))(flat))


@functools.cache
def compiled(count, iterations):
    """The spectrum of a quadratic's Hessian, one program for all matrices of a size."""
    loss = lambda matrix: lambda vector: vector @ matrix @ vector / 2
    return jax.jit(
        lambda matrix: hessian_spectrum(loss(matrix), jnp.ones(len(matrix), matrix.dtype), count, iterations=iterations)
    )


def spectrum(matrix, count, iterations):
    return [np.asarray(part) for part in compiled(count, iterations)(jnp.asarray(matrix))[:2]]


def rotated(diagonal):
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(SIZE, SIZE)))[0]
    return turn * diagonal @ turn.T


def test_under_vmap_and_jit_they_are_those_of_the_dense_hessian_and_the_bound_holds():
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[network(seed) for seed in range(3)])
    found = jax.jit(jax.vmap(lambda one: hessian_spectrum(network_loss, one, 3, iterations=9)))(params)
    for seed in range(3):
        values = np.linalg.eigvalsh(dense(network(seed)))[::-1]
        assert_allclose(found.values[seed, 0], values[0], rtol=1e-6)
        for value, bound in zip(found.values[seed], found.residuals[seed], strict=True):
            assert np.abs(values - value).min() <= bound + 1e-13 * values[0]
        assert (np.asarray(found.values[seed]) <= values[:3] + 1e-12).all()
        assert 1e-13 < found.residuals[seed, 2] < 0.1 * values[0]


def test_as_many_iterations_as_parameters_give_the_whole_preconditioned_spectrum_and_its_vectors():
    params = network(0)
    flat, restore = ravel_pytree(params)
    P = 0.5 + jnp.abs(flat)
    compute = lambda params, P: hessian_spectrum(
        network_loss, params, flat.size, iterations=500, preconditioner=restore(P), vectors=True
    )
    found = jax.jit(compute)(params, P)
    H = dense(params) / np.outer(P**0.5, P**0.5)
    values = np.linalg.eigvalsh(H)[::-1]
    assert_allclose(found.values, values, atol=1e-12 * values[0])
    assert jax.tree.structure(found.vectors) == jax.tree.structure(params)
    vectors = np.asarray(jax.vmap(lambda tree: ravel_pytree(tree)[0])(found.vectors))
    assert_allclose(vectors @ vectors.T, np.eye(flat.size), atol=1e-10)
    assert_allclose(H @ vectors.T, vectors.T * values, atol=1e-11 * values[0])


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_an_exhausted_krylov_space_gives_neither_nan_nor_spurious_values(rank):
    factor = np.random.default_rng(rank).normal(size=(rank, SIZE))
    values, residuals = spectrum(factor.T @ factor, 5, FEW)
    expected = np.r_[np.linalg.eigvalsh(factor @ factor.T)[::-1] if rank else [], np.zeros(5 - rank)]
    assert_allclose(values, expected, atol=1e-12 * max(1, expected[0]))
    assert_allclose(residuals, 0, atol=1e-10 * max(1, expected[0]))


def test_repeated_eigenvalues_are_found_as_often_as_they_occur_once_the_space_is_exhausted():
    diagonal = np.array([5.0, 5, 5, 3, 3, 1, 0, 0, -2, -7, -7, -8])
    assert_allclose(spectrum(rotated(diagonal), SIZE, SIZE)[0], diagonal, atol=1e-12)
    # three products find one of each, and three more in the complement a second one
    values, residuals = spectrum(rotated(np.sort(np.r_[diagonal[:6], diagonal[:6]])), 5, FEW)
    assert_allclose(values, [5, 5, 3, 3, 1], atol=1e-10)
    assert (residuals <= 1e-10).all()


def test_close_eigenvalues_and_wide_spectra_have_an_honest_bound():
    for diagonal in (1 + 1e-3 * np.arange(SIZE), np.geomspace(1e-8, 1e4, SIZE), -np.arange(1.0, SIZE + 1)):
        values, residuals = spectrum(rotated(diagonal), 5, FEW)
        nearest = np.abs(values[:, None] - diagonal[None, :]).min(axis=1)
        assert (nearest <= residuals + 1e-13 * np.abs(diagonal).max()).all()
        assert values[0] <= diagonal.max() * (1 + 1e-13)


@pytest.mark.parametrize("size", [1, 3])
def test_of_fewer_parameters_than_iterations_all_is_known(size):
    matrix = np.random.default_rng(size).normal(size=(size, size))
    matrix += matrix.T
    values, residuals = spectrum(matrix, size, 24)
    assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1], atol=1e-14)
    assert (residuals == 0).all()


def test_single_precision_and_what_is_not_finite():
    matrix = rotated(np.arange(SIZE)).astype(np.float32)
    values, _ = spectrum(matrix, SIZE, SIZE)
    assert values.dtype == np.float32
    assert_allclose(values, np.arange(SIZE)[::-1], atol=1e-5)
    assert all(np.isnan(part).all() for part in spectrum(np.full((SIZE, SIZE), np.nan), 5, FEW))


def test_lanczos_keeps_its_basis_orthonormal_and_its_equation():
    matrix = np.diag(np.geomspace(1e-8, 1e4, 60))
    found = jax.jit(lambda matrix: lanczos(lambda vector: matrix @ vector, jnp.ones(60), 30))(jnp.asarray(matrix))
    V, T = np.asarray(found.basis), np.asarray(tridiagonal(found.diagonal, found.beside[:-1]))
    assert_allclose(V @ V.T, np.eye(30), atol=1e-13)
    rest = matrix @ V.T - V.T @ T
    assert_allclose(rest[:, :-1], 0, atol=1e-10)
    assert np.linalg.norm(rest[:, -1]) == pytest.approx(float(found.beside[-1]), rel=1e-9)


@pytest.mark.parametrize("rows", [1, 31])
def test_jacobi_agrees_with_lapack(rows):
    matrix = np.random.default_rng(rows).normal(size=(rows, rows))
    matrix += matrix.T
    values, vectors = (np.asarray(part) for part in jax.jit(symmetric_eigenvectors)(jnp.asarray(matrix)))
    assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1], atol=1e-13 * rows)
    assert_allclose(vectors.T @ vectors, np.eye(rows), atol=1e-13)
    assert_allclose(matrix @ vectors, vectors * values, atol=1e-13 * rows)


@pytest.mark.parametrize("scale", [0.0, 1e-8])
def test_jacobi_of_an_odd_size_is_as_exact_for_a_tiny_matrix(scale):
    matrix = np.array([[1, 2, 3], [2, 5, -1], [3, -1, 4]]) * scale
    given = jnp.asarray(matrix, jnp.float32)
    values, vectors = (np.asarray(part) for part in jax.jit(symmetric_eigenvectors)(given))
    assert values.dtype == np.float32
    assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1], atol=2e-6 * scale)
    assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-6)


def test_jacobi_leaves_equal_entries_alone_that_nothing_couples():
    matrix = np.diag([2.0, 2, 2, 5]) + np.diag([0.0, 0, 1], 1) + np.diag([0.0, 0, 1], -1)
    values, vectors = (np.asarray(part) for part in jax.jit(symmetric_eigenvectors)(jnp.asarray(matrix)))
    assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1], atol=1e-14)
    assert_allclose(matrix @ vectors, vectors * values, atol=1e-14)


def test_no_lapack_is_called():
    lowered = jax.jit(lambda params: hessian_spectrum(network_loss, params, 2).values).lower(network(0))
    assert "lapack" not in lowered.as_text().lower()


@pytest.mark.parametrize(("count", "iterations"), [(0, 5), (6, 5), (11, 20)])
def test_more_eigenvalues_than_there_are_is_refused(count, iterations):
    with pytest.raises(ValueError, match=f"count is {count}: it takes 1 to {min(iterations, 10)}"):
        hessian_spectrum(lambda vector: vector @ vector, jnp.ones(10), count, iterations=iterations)
    with pytest.raises(ValueError, match="iterations is 11: it takes 1 to 10"):
        lanczos(lambda vector: vector, jnp.ones(10), 11)
