"""The largest eigenvalues of a loss's Hessian, plain or preconditioned, without ever forming it.

Lanczos with full reorthogonalisation on Hessian–vector products (Golub & Van Loan, "Matrix Computations", chapter 10;
Parlett, "The symmetric eigenvalue problem", chapter 13). It works in `observe`, under jit and vmap, and calls no
LAPACK, with which a CPU would take one run at a time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

SWEEPS = 12  # of Jacobi's method, which doubles its digits once it has one; six do for 100 rows


class Spectrum(NamedTuple):
    """The largest eigenvalues, the largest first, each with the distance to a true eigenvalue that it has at most.

    The bound holds up to rounding. `vectors` are the unit eigenvectors, leaves like the parameters' with a first axis
    for the mode, or () where they were not asked for.
    """

    values: Float[Array, "mode"]
    residuals: Float[Array, "mode"]
    vectors: Any


def hessian_spectrum(
    loss: Callable[[Any], Array],
    params: PyTree,
    count: int = 1,
    *,
    iterations: int = 24,
    preconditioner: PyTree | None = None,
    key: Array | None = None,
    vectors: bool = False,
) -> Spectrum:
    """Return the `count` algebraically largest eigenvalues of the Hessian H of `loss` at `params`.

    With a `preconditioner`, the diagonal of P > 0 in the shape of the parameters, they are those of P^−1/2 H P^−1/2,
    and so of P⁻¹H; the vectors then are those of P^−1/2 H P^−1/2. `iterations` Hessian–vector products are taken, each
    for about the price of two gradients; as many as there are parameters give the whole spectrum. The start is random.

    A residual ‖Hq − θq‖ = |β_m s_mi| bounds the distance from θ to the nearest eigenvalue (Parlett, theorem 4.5.1);
    its square over the gap is nearer to the truth. θ never lies above the largest eigenvalue. An eigenvalue of
    multiplicity k is found once, and k times only when the Krylov space has been exhausted: the iteration then goes on
    with a vector orthogonal to it. NaN where the Hessian is not finite.
    Raises ValueError for a count or iterations below 1, or more eigenvalues than iterations or parameters.
    """
    flat, restore = ravel_pytree(params)
    steps = min(iterations, flat.size)
    if not 1 <= count <= steps:
        raise ValueError(f"count is {count}: it takes 1 to {steps}, the smaller of iterations and parameters")
    _, product = jax.linearize(jax.grad(lambda vector: loss(restore(vector))), flat)
    multiply = product
    if preconditioner is not None:
        root = jnp.sqrt(ravel_pytree(preconditioner)[0])
        multiply = lambda vector: product(vector / root) / root
    start = jax.random.normal(jax.random.key(0) if key is None else key, flat.shape, flat.dtype)
    diagonal, beside, basis = lanczos(multiply, start, steps)
    values, small = symmetric_eigenvectors(tridiagonal(diagonal, beside[:-1]))
    # beyond all dimensions nothing is left but rounding
    last = beside[-1] if steps < flat.size else jnp.zeros_like(beside[-1])
    residuals = jnp.abs(jnp.where(jnp.isfinite(values), last * small[-1], jnp.nan))
    found = jax.vmap(restore)((basis.T @ small[:, :count]).T) if vectors else ()
    return Spectrum(values[:count], residuals[:count], found)


class Tridiagonal(NamedTuple):
    """A V = V T + β_m v e_mᵀ: the diagonal of T, β_1 … β_m beside it, and the orthonormal rows Vᵀ."""

    diagonal: Float[Array, "row"]
    beside: Float[Array, "row"]
    basis: Float[Array, "row parameter"]


def lanczos(multiply: Callable[[Array], Array], start: Float[Array, "parameter"], iterations: int) -> Tridiagonal:
    """Return what `iterations` products with a symmetric matrix make of it, beginning with `start` (random, not zero).

    Every new vector is orthogonalised against all before it, twice (Parlett: twice is enough). Where the Krylov space
    is exhausted, β <= 100 ε ‖T‖, β is 0 and the next vector is the start, its entries shifted, orthogonalised: what is
    found in one invariant subspace and then in its complement are eigenvalues of the whole.
    Raises ValueError for fewer than one iteration and for more than there are dimensions.
    """
    if not 1 <= iterations <= start.size:
        raise ValueError(f"iterations is {iterations}: it takes 1 to {start.size}, the number of dimensions")
    unit = lambda vector: vector / jnp.linalg.norm(vector)
    start, tolerance = unit(start), 100 * jnp.finfo(start.dtype).eps

    def step(carried: tuple[Array, Array, Array], number: Array) -> tuple[tuple[Array, Array, Array], Any]:
        basis, vector, scale = carried
        basis = basis.at[number].set(vector)
        free = lambda moved: moved - (basis @ moved) @ basis
        image = multiply(vector)
        along = vector @ image
        rest = free(free(image))
        size = jnp.linalg.norm(rest)
        scale = jnp.maximum(scale, jnp.abs(along) + size)
        exhausted = size <= tolerance * scale
        fresh = unit(free(jnp.roll(start, number + 1)))
        following = jnp.where(exhausted, fresh, rest / jnp.where(exhausted, 1, size))
        following = free(following)
        norm = jnp.linalg.norm(following)  # zero in the last step of all, where no dimension is left
        following = following / jnp.where(norm == 0, 1, norm)
        return (basis, following, scale), (along, jnp.where(exhausted, 0, size))

    empty = jnp.zeros((iterations, start.size), start.dtype)
    begin = empty, start, jnp.zeros((), start.dtype)
    (basis, _, _), (diagonal, beside) = jax.lax.scan(step, begin, jnp.arange(iterations))
    return Tridiagonal(diagonal, beside, basis)


def tridiagonal(diagonal: Float[Array, "row"], beside: Float[Array, "between"]) -> Float[Array, "row row2"]:
    """Return the symmetric matrix of that diagonal and those entries on either side of it."""
    return jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)


def symmetric_eigenvectors(
    matrix: Float[Array, "row row2"],
) -> tuple[Float[Array, "mode"], Float[Array, "row mode"]]:
    """Return the eigenvalues of a small symmetric matrix, the largest first, and its orthonormal eigenvectors.

    Jacobi's method in its parallel order (Golub & Van Loan, section 8.5): plain arithmetic on every device, for
    matrices of up to some hundred rows. Errors are of the order of rounding, ε ‖matrix‖. NaN where an entry is.
    """
    rows = len(matrix)
    odd = rows % 2
    # a row on its own, below all others by Gershgorin's theorem, makes the number even
    low = -2 * jnp.max(jnp.sum(jnp.abs(matrix), axis=1))  # no more, or `limit` would be of its size
    whole = jnp.pad(matrix, (0, odd)).at[-1, -1].set(low) if odd else matrix
    size, half = rows + odd, (rows + odd) // 2
    # all pairs meet once in size − 1 rounds: the first stays, the others go round (a round-robin tournament)
    top, bottom = list(range(half)), list(range(half, size))
    order = jnp.asarray([*top[:1], *bottom[:1], *top[1:-1], *bottom[1:], *top[-1:]] if half > 1 else [0, 1])
    limit = jnp.finfo(matrix.dtype).eps * jnp.linalg.norm(whole)

    def turned(rows: Array, c: Array, s: Array) -> Array:
        one, other = rows[:half], rows[half:]
        return jnp.concatenate([c * one - s * other, s * one + c * other])[order]

    def rotate(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        A, vectors = state  # the eigenvectors are the rows
        diagonal, between = jnp.diagonal(A), jnp.diagonal(A[:half, half:])
        still = between == 0
        cot = (diagonal[half:] - diagonal[:half]) / (2 * jnp.where(still, 1, between))
        t = jnp.where(cot < 0, -1, 1) / (jnp.abs(cot) + jnp.sqrt(1 + cot**2))
        t = jnp.where(still, 0, t)[:, None]
        c = 1 / jnp.sqrt(1 + t**2)
        A = turned(turned(A, c, t * c).T, c, t * c)
        return ((A + A.T) / 2, turned(vectors, c, t * c)), None

    def unfinished(state: tuple[Any, Any, Any]) -> Array:
        A, _, sweeps = state
        return (jnp.linalg.norm(A - jnp.diag(jnp.diagonal(A))) > limit) & (sweeps < SWEEPS)

    def sweep(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        (A, vectors), _ = jax.lax.scan(rotate, state[:2], length=size - 1)
        return A, vectors, state[2] + 1

    A, vectors, _ = jax.lax.while_loop(unfinished, sweep, (whole, jnp.eye(size, dtype=matrix.dtype), 0))
    values = jnp.diagonal(A)
    largest = jnp.argsort(-values)[:rows]
    return values[largest], vectors[largest, :rows].T
