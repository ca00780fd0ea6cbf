"""What the noise of mini-batches does to a deep sigmoid classifier on average: a flow without noise, and a scalar law.

The network has `depth` hidden layers of `width` logistic units and a softmax readout; the loss L is the mean
cross-entropy. Its parameters lie in one vector: of each layer the kernel (inputs × outputs, row by row), then the bias.

Where the noise g_i − ∇L of a sample's gradient has covariance C, descent at rate η on batches of B goes, on average,
along −∇(L + (η/4)‖∇L‖² + (ηc/4) tr C). For epochs without replacement that is the theorem of Smith et al. 2021 (arXiv
2101.12176), c = (n − B)/(B (n − 1)), to first order in η. With replacement, c = 1/B, it follows where C is the Hessian
H, as for the cross-entropy of probabilities that are right: the weights scatter with covariance ηc/2 (a step adds
η²cC, and a share 2ηH of it decays), and the mean gradient of L there is ∇L + (ηc/4) ∇ tr H. At a rate that is not small
`noise_factor` stands before (ηc/4)∇λ in a direction of eigenvalue λ; for a fresh batch at every step that is −ln(1 −
ηλ/2)/(2η) for λ/4 (Damian, Ma & Lee 2021, arXiv 2106.06530). On the plateau, where the probabilities are those of K
equally frequent classes, tr C lies nearly all in the K − 1 directions in which the readout moves all logits of a class,
each with (1 + ‖h‖²)/K.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs
from research.oracles.gradient_moments import forward, layer_shapes, one_hot, slopes_of

BALANCE_BOUND = 1e-3
TOLERANCE = 1e-6
PARAMETERS = 20_000  # beyond, the tolerance falls as their number^(-1/2): the solver's norm averages over all, few move


def top_activation(
    X: Float[np.ndarray, "sample feature"],
    labels: Float[np.ndarray, "sample"],
    initial: Float[np.ndarray, "parameter"],
    steps: Float[np.ndarray, "step"],
    learning_rate: float,
    noise: float,
    width: int,
    depth: int,
    batches: float = np.inf,
    *,
    first_order: bool = False,
) -> Float[np.ndarray, "step"]:
    """Return the mean output of the last hidden layer at those steps on the flow of L + (η/4)‖∇L‖² + (ηc/4) tr C.

    A step takes the time η = `learning_rate`; c = `noise` is 1/B for batches of B with replacement, 0 for none. The
    labels are 0, 1, … up to their largest, K − 1. The gradient of (ηc/4) M, M = E‖g_i‖², is `noise_factor` times as
    large, at ηλ = ηM/(K − 1) as if all of it lay in K − 1 equal directions, and for an epoch of n/B = `batches`; NaN
    where one of them is not stable, ηλ >= 2. `first_order` leaves that factor out. Integrated by Runge–Kutta 2(3), for
    stability sets the steps, at a relative tolerance of 1e-6, and of less where there are more than 20,000 parameters.

    Certificate: what the function loses on the way is ∫ ‖its gradient‖² dt, integrated along, to 1e-3 of it (and 1e-5
    in all), else NaN. NaN where anything put in is. Raises ValueError for shapes that do not agree, labels that are
    not whole, steps that do not increase from 0 on, a rate or noise below 0, and infinite entries.
    """
    from scipy.integrate import quad, solve_ivp
    from threadpoolctl import threadpool_limits

    X, labels = inputs.regression(X, labels)
    initial, steps = inputs.array("initial", initial, 1), inputs.array("steps", steps, 1)
    rate = inputs.number("learning_rate", learning_rate, low=0.0)
    noise, batches = inputs.number("noise", noise, low=0.0), float(batches)
    if (steps < 0).any() or (np.diff(steps) <= 0).any():
        raise ValueError(f"steps begin with {steps[:3]}; they have to increase, from 0 on")
    if np.isnan(batches) or not all(np.isfinite(each).all() for each in (X, labels, initial, steps, rate, noise)):
        return np.full(len(steps), np.nan)
    targets = one_hot(labels)
    shapes = layer_shapes(X.shape[1], int(width), int(depth), targets.shape[1], len(initial))

    square, directions = rate / 4 * (1 - noise), targets.shape[1] - 1
    factor = lambda moment: 1.0 if first_order else noise_factor(rate * moment / directions, batches)
    # tr C = E‖g_i‖² − ‖∇L‖²; these are the share of ‖∇L‖², and the derivative by E‖g_i‖² of what stands for its own
    shares = square, (lambda moment: rate / 4 * noise * factor(moment) if noise else 0.0)

    def function(weights: np.ndarray) -> float:
        slopes = slopes_of(X, targets, weights, shapes, shares)
        own = quad(factor, 0.0, slopes.moment)[0] if noise else 0.0
        return slopes.loss + square * slopes.square + rate / 4 * noise * own

    if noise and not np.isfinite(factor(slopes_of(X, targets, initial, shapes, shares).moment)):
        return np.full(len(steps), np.nan)

    def field(_: float, state: np.ndarray) -> np.ndarray:
        slopes = slopes_of(X, targets, state[:-1], shapes, shares)
        ascent = slopes.of_loss + slopes.of_squares
        return np.append(-ascent, ascent @ ascent)

    begin, times = np.append(initial, 0.0), rate * steps
    last = float(times[-1])
    if last > 0:
        tolerance = TOLERANCE * min(1.0, (PARAMETERS / len(initial)) ** 0.5)
        accuracy = {"t_eval": times, "rtol": tolerance, "atol": tolerance / 10}
        with threadpool_limits(1, user_api="blas"):  # products this small take ten times as long on two threads
            solved = solve_ivp(field, (0.0, last), begin, "RK23", **accuracy)
        if not solved.success:
            return np.full(len(steps), np.nan)
        path = solved.y.T
    else:
        path = np.broadcast_to(begin, (len(steps), len(begin)))
    first, final = function(initial), function(path[-1, :-1])
    if not abs(first - final - path[-1, -1]) <= BALANCE_BOUND * abs(first - final) + BALANCE_BOUND / 100:
        return np.full(len(steps), np.nan)
    return np.array([forward(X, at[:-1], shapes)[0][depth].mean() for at in path])


def noise_factor(relaxation: float, batches: float = np.inf) -> float:
    """Return F: the mean force of the noise in a direction of curvature λ, a = ηλ = `relaxation`, is (ηc/4) F ∂λ.

    F = (1 + (1 − (1 − (1 − a)^m)/(m a))/(r − 1))/(1 − a/2), r = n/B = `batches`, m = ⌊r⌋ of them in an epoch whose
    order is drawn anew without replacement; 1/(1 − a/2) where r is infinite: fresh batches.

    For x → (1 − a)x − ηξ_k with E ξ_k² = cλ the force is ½∂λ Var x + E[x_k ∂ξ_k], in the mean over the m steps. Batches
    that share no sample have E ξ_jξ_k = −cλ/(r − 1), thus E[x_k ξ_k] = ηcλA/(r − 1), aA = 1 − (1 − (1 − a)^m)/(m a),
    and E[x_k ∂ξ_k] is ½ηc∂λ A/(r − 1). A step changes x² by −a(2 − a)x² + η²ξ_k² − 2η(1 − a)x_k ξ_k, on average by
    nothing: so Var x. The two add up to F. It is 1 as a → 0 (Smith et al. 2021), and for m a ≫ 1 cF is n/(n − 1) times
    that of fresh batches.

    NaN outside 0 <= a < 2, where x does not settle. Raises ValueError unless `batches` > 1.
    """
    if batches <= 1:
        raise ValueError(f"batches is {batches:g}; an epoch without replacement takes more than one batch of samples")
    if not 0 <= relaxation < 2:
        return float("nan")
    count, bound = np.floor(batches), 0.0
    if np.isfinite(batches) and relaxation > 0:
        within = np.expm1(count * np.log1p(-relaxation)) if relaxation < 1 else (1 - relaxation) ** count - 1
        bound = (1 + within / (count * relaxation)) / (batches - 1)
    return float((1 + bound) / (1 - relaxation / 2))


def scalar_activation(clock: Float[np.ndarray, "step"], strength: float, initial: float) -> Float[np.ndarray, "step"]:
    """Return h on dh/ds = −(S/2) h³ (1 − h)², s = `clock` = η²c t, S = `strength` = E‖p − y‖² (1 + ‖a‖²).

    What the readout's part of tr C, E‖p − y‖² (1 + ‖h‖²), does to the last hidden layer alone, all its units being h
    and the layer below resting at a: the descent on (ηc/4) E‖p − y‖² (1 + ‖h‖²) moves the sum z of a unit by
    −(η²c/2) E‖p − y‖² h · h (1 − h) · (1 + ‖a‖²) a step, and h by h (1 − h) of that. So h → (S s)^(−1/2).

    By separation: S s/2 = F(h) − F(initial), F(h) = 1/(2h²) + 2/h − 1/(1 − h) + 3 ln((1 − h)/h), solved by bisection.
    Raises ValueError for a strength below 0 or an initial h outside (0, 1).
    """
    clock = inputs.array("clock", clock, 1)
    strength = inputs.number("strength", strength, low=0.0)
    start = inputs.number("initial", initial, low=np.finfo(float).tiny, below=1.0)
    age = lambda h: 1 / (2 * h**2) + 2 / h - 1 / (1 - h) + 3 * np.log((1 - h) / h)
    wanted = age(start) + strength * clock / 2
    low, high = np.full(clock.shape, 1e-9), np.full(clock.shape, start)
    for _ in range(60):
        middle = np.sqrt(low * high)
        younger = age(middle) < wanted
        low, high = np.where(younger, low, middle), np.where(younger, middle, high)
    return np.where(np.isfinite(wanted), np.where(clock > 0, np.sqrt(low * high), start), np.nan)
