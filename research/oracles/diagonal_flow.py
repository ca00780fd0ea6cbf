"""Gradient flow of a diagonal network under weight decay, reduced to as many unknowns as there are samples.

f(x) = w·x, w = u² − v² coordinate by coordinate, u = v = α at the start, on mean_i ln(1 + exp(−z_i·w)) + λ/2 (‖u‖² +
‖v‖²), z_i = y_i x_i. With g = ∂(mean loss)/∂w the flow is (ln u)' = −2g − λ and (ln v)' = 2g − λ: the product u v = α²
exp(−2λt) is known, and ln(u/v)' = −4g = (4/n) Σ z_i/(1 + exp(z_i·w)) stays in the span of the samples. So w(t) =
2 α² exp(−2λt) sinh(Σ ν_i(t) z_i), where ν_i' = (4/n)/(1 + exp(z_i·w)) and ν(0) = 0. At rest w minimises the mean loss
+ (λ/2)‖w‖₁, as u² + v² >= |w|.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

TOLERANCES = 1e-4, 1e-6
AGREEMENT = 5e-3


def diagonal_flow(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    init_scale: float,
    weight_decay: float,
    times: Float[np.ndarray, "step"],
) -> Float[np.ndarray, "step feature"]:
    """Return w at `times` (from zero on, increasing) of the flow from u = v = init_scale; labels are −1 or 1.

    Certificate: backward differentiation formulae at relative tolerances 1e-4 and 1e-6 give weights that differ by at
    most 5e-3 of their length at each time, else NaN; the tighter is returned, right to about a tenth of that. NaN for
    NaN. Raises ValueError for times that are negative or do not increase, an init_scale that is not positive, a
    negative weight decay, labels other than −1 and 1 and shapes that do not agree.
    """
    X, y = inputs.classification(X, y)
    scale = inputs.number("init_scale", init_scale, low=np.finfo(float).tiny)
    decay = inputs.number("weight_decay", weight_decay, low=0.0)
    at = inputs.array("times", times, 1)
    if (at < 0).any() or (np.diff(at) <= 0).any():
        raise ValueError(f"times is {at}; it takes increasing times from 0 on")
    void = np.full((len(at), X.shape[1]), np.nan)
    if np.isnan([X.sum(), y.sum(), scale, decay, at.sum()]).any():
        return void
    rough, fine = (_integrated(X * y[:, None], scale, decay, at, tolerance) for tolerance in TOLERANCES)
    if rough is None or fine is None:
        return void
    apart, size = np.linalg.norm(fine - rough, axis=1), np.linalg.norm(fine, axis=1)
    return fine if (apart <= AGREEMENT * size).all() else void


def _integrated(Z: np.ndarray, scale: float, decay: float, at: np.ndarray, tolerance: float) -> np.ndarray | None:
    """The weights at these times; None where the integrator gives up."""
    from scipy.integrate import solve_ivp
    from scipy.special import expit

    samples = len(Z)

    def change(t: float, nu: np.ndarray) -> np.ndarray:
        return 4 / samples * expit(-Z @ weights(t, nu))

    def weights(t: float, nu: np.ndarray) -> np.ndarray:
        return 2 * scale**2 * np.exp(-2 * decay * t) * np.sinh(nu @ Z)

    def jacobian(t: float, nu: np.ndarray) -> np.ndarray:
        share = expit(-Z @ weights(t, nu))
        stretch = 2 * scale**2 * np.exp(-2 * decay * t) * np.cosh(nu @ Z)
        return -(4 / samples * share * (1 - share))[:, None] * ((Z * stretch) @ Z.T)

    if at[-1] == 0:
        return np.zeros((1, Z.shape[1]))
    with np.errstate(all="ignore"):  # a step that is tried and refused may overflow
        path = solve_ivp(
            change, (0.0, at[-1]), np.zeros(samples), method="BDF", jac=jacobian, t_eval=at,
            rtol=tolerance, atol=1e-8 * tolerance / scale**2, first_step=min(1e-3 / scale**2, at[-1] / 2),
        )  # fmt: skip
    return np.array([weights(t, nu) for t, nu in zip(path.t, path.y.T, strict=True)]) if path.success else None
