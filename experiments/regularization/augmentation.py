"""Noise on the inputs is ridge, and copies under a symmetry help a model of a target that shares it, and only then.

Claim: For a linear model with squared loss, inputs with Gaussian noise of standard deviation s are ridge of strength
s², (XᵀX + n s²)⁻¹Xᵀy: exactly in the mean over the noise, which only its covariance enters, and of freshly noisy inputs
within the chance of finitely many steps. Copies of the inputs under a finite group make the weights exactly invariant,
and these are the weights of the orbits' means without any copies. This lowers the risk where the target shares the
symmetry, and raises it where its odd part has a squared length above a bound in closed form. Noise of covariance Σ on
the input μ of a logistic unit gives it, in the mean, the weights 2Σ⁻¹μ of discriminant analysis; without, it has none.

Source: Bishop 1995, Training with noise is equivalent to Tikhonov regularization, Neural Computation 7; Chen, Dobriban
& Lee 2020, A group-theoretic framework for data augmentation, arXiv 1907.10905, for means over orbits. The risk of n
Gaussian inputs of d features, noise² d/(n − d − 1) or that of d/2 features with the odd part as noise, is Wishart's.
Efron 1975, The efficiency of logistic regression compared to normal discriminant analysis, J. Am. Stat. Assoc. 70.

Departure: "copies" takes for the mean over the noise 2d copies of each input, x ± s√d e_j, of the same covariance; the
symmetry is the reversed order of the features. The mean of iterates on fresh noise weighs step t by t³, which costs a
factor of 16/7 in variance. The logistic unit takes the mean over the noise by quadrature; fresh noise on it, whose
iterates at one rate have a biased mean, is in saturation_budget. That copies lower the risk whatever the target is a
finding here, refuted. Real pictures are another claim, in digit_symmetries.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from scipy.special import ndtri

from research import plots
from research.dynamics import Run, averaged, descent, log_spaced, start, start_averaged, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select, table
from research.oracles.augmentation import augmented_risk, mean_augmented_risk, noisy_input_deviation
from research.oracles.discriminant import noisy_logistic_weights
from research.oracles.least_squares import minimum_l2_norm, ridge
from research.statistics import every_seed, over_seeds

Kind = Literal["copies", "fresh"]
CHANCE = 0.0027  # of three standard errors, shared among all that are looked at
TINY = 1e-30  # the square root has no derivative at zero
# The rule of equal steps h converges like exp(−2πd/h), d = π/4 the distance of the nearest pole for a width of 4.
PLACES = np.linspace(-9, 9, 91)
CHANCES = np.exp(-(PLACES**2) / 2) / np.exp(-(PLACES**2) / 2).sum()


class Observables(NamedTuple):
    weights: Float[Array, "feature output"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample output"]
    planted: Float[Array, "feature"]
    mean: Float[Array, "feature"]
    deviation: Float[Array, "feature"]


def simulate(
    key: Array,
    input_noise: float,
    mirrored: float = 0.0,
    uneven: float = 0.0,
    tilt: float = 0.0,
    logistic: float = 0.0,
    *,
    kind: Kind = "copies",
    samples: int = 24,
    features: int = 8,
    draws: int = 64,
    noise: float = 0.5,
    steps: int = 10_000,
) -> Run:
    """Descent from zero on least squares, 1/(2n)‖Xw − y‖², with augmented inputs, for `draws` targets with noise.

    `mirrored` is the share of copies with the features in reverse order, 0 or 1/2, and `uneven` the squared length of
    the odd part of the planted weights, of length 1 in all. `input_noise` is s; `tilt` makes that of feature j larger,
    by 1 + tilt·j/(d − 1). "fresh" draws this noise anew in every step, for one target; "copies" is its mean.
    `logistic` 1 has instead, with "copies", a logistic unit with one input of length 1, `mean`, and the tilt 1.
    """
    data_key, step_key = jax.random.split(key)
    half = features // 2
    normal = jax.random.normal(data_key, (samples + 1, features + draws))  # one draw, which is compiled once
    X, errors = normal[:-1, :features], normal[:-1, features:]
    even, odd = (
        jnp.concatenate([each, sign * each[::-1]])
        for each, sign in ((normal[-1, :half], 1.0), (normal[-1, half : 2 * half], -1.0))
    )
    planted = (1 - uneven) ** 0.5 * even / jnp.linalg.norm(even) + uneven**0.5 * odd / jnp.linalg.norm(odd)
    targets = 1 if kind == "fresh" else draws
    y = (X @ planted)[:, None] + noise * errors[:, :targets]
    scale = input_noise * (1 + tilt * jnp.arange(features) / (features - 1))
    mean, deviation = errors[:features, 0], input_noise * (1 + jnp.arange(features) / (features - 1))
    mean = mean / jnp.linalg.norm(mean)
    given = Given(X, y, planted, mean, deviation)
    zero = jnp.zeros((features, targets))
    if kind == "fresh":
        rate = 0.2 / (jnp.max(jnp.sum(jnp.abs(X.T @ X), axis=1)) / samples + jnp.max(scale) ** 2)
        sample = lambda key: X + scale[None, :] * jax.random.normal(key, X.shape)
        error = lambda w, noisy: jnp.sum((noisy @ w - y) ** 2) / (2 * samples)
        optimizer = optax.sgd(rate)
        step = averaged(stochastic_descent(error, optimizer, sample), power=3)
        begun = start_averaged(start(zero, optimizer, step_key))
        return Run(begun, step, lambda state: Observables(state.mean), log_spaced(steps, 12), given)
    points = features**0.5 * jnp.concatenate([jnp.diag(scale), -jnp.diag(scale)])
    copies = X[None, :, :] + points[:, None, :]
    copies = jnp.stack([copies, copies[:, :, ::-1]])
    shares = jnp.stack([1 - mirrored, mirrored]) / (2 * features * samples)
    gram = jnp.einsum("m,mpsi,mpsj->ij", shares, copies, copies)
    moments = jnp.einsum("m,mpsi,so->io", shares, copies, y)
    squares = lambda w: jnp.sum(w * (gram @ w)) / 2 - jnp.sum(moments * w)

    def unit(w: Array) -> Array:
        width = jnp.sqrt(jnp.sum((deviation * w) ** 2) + TINY)
        return jnp.sum(CHANCES * jax.nn.softplus(-(w @ mean + width * PLACES)))

    loss = lambda w: jnp.where(logistic > 0, unit(w[:, 0]), squares(w))
    smooth = jnp.where(logistic > 0, (1 + jnp.max(deviation) ** 2) / 4, jnp.max(jnp.sum(jnp.abs(gram), axis=1)))
    optimizer = optax.sgd(1 / smooth)
    settled = lambda state: jnp.max(jnp.abs(jax.grad(loss)(state.params))) < 1e-13
    observe = lambda state: Observables(state.params)
    step = descent(loss, optimizer)
    return Run(start(zero, optimizer), step, observe, log_spaced(steps, 12), given, stop=settled)


class Fit(NamedTuple):
    gap: float
    effect: float
    score: float
    rival: float
    asymmetry: float
    risk: float
    risk_score: float
    weight: Float[np.ndarray, "feature"]
    ridge_weight: Float[np.ndarray, "feature"]
    plain_weight: Float[np.ndarray, "feature"]


def fit(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample output"],
    weights: Float[np.ndarray, "feature output"],
    planted: Float[np.ndarray, "feature"],
    input_noise: float,
    mirrored: float,
    noise: float,
    steps: float,
) -> Fit:
    """Weights against ridge on the means of the orbits, relative and in standard errors, and their risk."""
    w = weights[:, 0]
    exact = ridge((X + X[:, ::-1]) / 2 if mirrored else X, y[:, 0], input_noise**2)
    plain = minimum_l2_norm(X, y[:, 0])
    size = np.abs(exact).max()
    errors = noisy_input_deviation(X, y[:, 0], input_noise) * (16 / 7 / steps) ** 0.5
    errors = np.where(errors > 0, errors, np.nan)
    theory = augmented_risk(X, planted, noise, 1.0 if mirrored else 0.0)
    risk = ((weights - planted[:, None]) ** 2).sum(axis=0).mean()
    return Fit(
        gap=np.abs(w - exact).max() / size,
        effect=np.abs(w - plain).max() / size,
        score=np.max(np.abs(w - exact) / errors),
        rival=np.max(np.abs(w - plain) / errors),
        asymmetry=np.abs(weights - weights[::-1]).max() / np.abs(weights).max(),
        risk=risk,
        risk_score=(risk - theory.mean) / theory.deviation * weights.shape[1] ** 0.5,
        weight=w,
        ridge_weight=exact,
        plain_weight=plain,
    )


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """What `fit` measures at the end of each run, and discriminant analysis where the run is of a logistic unit.

    Raises ValueError for a logistic unit with fresh noise, which there is not.
    """
    if select(dataset, kind="fresh", logistic=lambda value: value > 0).diverged.size:
        raise ValueError('logistic is above 0 with kind "fresh"; it takes "copies"')
    end = dataset.isel(step=-1)
    fitted = lift(fit, end.X, end.y, end.weights, end.planted, end.input_noise, end.mirrored, end.noise, end.steps)
    discriminant = lift(noisy_logistic_weights, end["mean"], end.deviation)
    largest = abs(discriminant).max("feature", skipna=False)
    alike = 2 * end["mean"] / (end.deviation**2).mean("feature")
    return dataset.assign(fitted).assign(
        discriminant=discriminant,
        logistic_gap=abs(end.weights.isel(output=0) - discriminant).max("feature", skipna=False) / largest,
        logistic_rival=abs(end.weights.isel(output=0) - alike).max("feature", skipna=False) / largest,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Noise in the mean and fresh, the group's invariance, when it helps and when it hurts, and the digits."""
    found: list[Finding] = []

    def add(what: str, band: tuple[float, float], values: np.ndarray) -> None:
        found.append(Finding.of(what, band, every_seed(values)))

    positive = lambda value: value > 0
    noisy = select(dataset, kind="copies", input_noise=positive, logistic=0.0)
    if noisy.diverged.size:
        what = "noise, mean over it: largest distance of a weight to ridge of strength s², over the largest weight"
        add(what, (0.0, 1e-8), per_seed(noisy.gap))
        add("… to the weights without noise, the least", (1e-3, np.inf), per_seed(noisy.effect, "min"))
    units = select(dataset, kind="copies", input_noise=positive, logistic=1.0)
    if units.diverged.size:
        what = "logistic unit, mean over the noise: largest distance of a weight to 2Σ⁻¹μ, over the largest weight"
        add(what, (0.0, 1e-6), per_seed(units.logistic_gap))
        what = "… to 2μ over the mean variance, as if noise were alike in all features, the least"
        add(what, (1e-3, np.inf), per_seed(units.logistic_rival, "min"))
    fresh = select(dataset, kind="fresh", input_noise=positive, mirrored=0.0)
    if fresh.diverged.size:
        places = fresh.diverged.size * int(fresh.features.max())
        bound = float(-ndtri(CHANCE / 2 / places))
        what = f"fresh noise: largest distance of a weight's mean iterate to ridge in standard errors, of {places}"
        add(what, (0.0, bound), per_seed(fresh.score))
        add("… to the weights without noise, the least run's", (bound, np.inf), per_seed(fresh.rival, "min"))
    groups = select(dataset, kind="copies", input_noise=0.0, logistic=0.0)
    pairs = select(groups, mirrored=0.5)
    if pairs.diverged.size:
        what = "mirrored copies: largest distance of a weight to least squares on the orbits' means, over the largest"
        add(what, (0.0, 1e-8), per_seed(pairs.gap))
        add("… to the same weight in the mirror", (0.0, 1e-10), per_seed(pairs.asymmetry))
    if groups.diverged.size:
        bound = float(-ndtri(CHANCE / 2 / groups.diverged.size))
        what = f"mean risk over {int(groups.draws.max())} draws of the noise: |z| against theory, largest of "
        add(f"{what}{groups.diverged.size}", (0.0, bound), per_seed(abs(groups.risk_score)))
    alone = select(groups, mirrored=0.0)
    if pairs.diverged.size and alone.diverged.size:
        quotient = table(pairs, "risk", "uneven") / table(alone, "risk", "uneven")
        ratio = quotient.copy(data=np.log(quotient.values))
        if float(ratio.uneven[0]) == 0:
            what = "the target shares the symmetry: ln(risk with mirrored copies over risk without)"
            found.append(Finding.of(what, (-np.inf, 0.0), over_seeds(ratio.isel(uneven=0).values)))
        if float(ratio.uneven[-1]) > 0:
            what = f"textbook, odd part of squared length {float(ratio.uneven[-1]):g}: copies lower the risk, by ln"
            found.append(Finding.of(what, (-np.inf, 0.0), over_seeds(ratio.isel(uneven=-1).values)))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) noise is ridge, (b) what it is to a logistic unit, (c) where mirrored copies help and where they hurt."""
    figure, axes = plots.figure(1, 3, "Noise on the inputs is ridge; copies help where the symmetry is the target's")
    shrunk, discriminant, risks = axes[0]
    for number, (kind, label) in enumerate((("fresh", "fresh noise, mean iterate"), ("copies", "mean over the noise"))):
        runs = select(dataset, kind=kind, input_noise=lambda value: value > 0, logistic=0.0)
        if runs.diverged.size:
            style = {"marker": "o", "markersize": 5} if not number else {"marker": "x", "markersize": 3}
            plots.points(shrunk, runs.ridge_weight, runs.weight, label, color=f"C{number}", **style)
            if not number:
                plots.points(shrunk, runs.ridge_weight, runs.plain_weight, "without noise", color="C6", marker="+")
    units = select(dataset, kind="copies", logistic=1.0)
    for number, noise in enumerate(np.unique(units.input_noise.values) if units.diverged.size else ()):
        runs = select(units, input_noise=noise)
        ends = runs.weights.isel(step=-1, output=0)
        plots.points(discriminant, runs.discriminant, ends, f"noise {noise:g} to {2 * noise:g}", color=f"C{number}")
    for panel, words in ((shrunk, "equal: ridge of strength s²"), (discriminant, "equal: 2Σ⁻¹μ")):
        if panel.lines:
            ends = np.array(panel.get_xlim())
            plots.theory(panel, ends, ends, words)
    groups = select(dataset, kind="copies", input_noise=0.0, logistic=0.0)
    for number, (share, label) in enumerate(((0.0, "inputs alone"), (0.5, "with mirrored copies"))):
        runs = select(groups, mirrored=share)
        if runs.diverged.size:
            plots.seeds(risks, table(runs, "risk", "uneven"), label, color=f"C{number}", marker="o", ms=3)
            odd = np.linspace(0.0, float(runs.uneven.max()), 50)
            sizes = (int(runs.samples.max()), int(runs.features.max()), float(runs.noise.max()))
            expected = [mean_augmented_risk(*sizes, each, share) for each in odd]
            plots.theory(risks, odd, expected, None if number else "mean over inputs")
    shrunk.set(title="a  least squares", xlabel="weight of ridge", ylabel="weight")
    discriminant.set(title="b  a logistic unit", xlabel="weight of discriminant analysis", ylabel="weight")
    risks.set(title="c  a symmetry of the inputs", xlabel="squared length of the target's odd part")
    risks.set_ylabel("risk ‖w − w*‖²")
    for panel in axes[0]:
        plots.legend(panel)
    return figure


AXES = ("kind", "input_noise", "mirrored", "uneven", "logistic")
NOISES = (0.1, 0.25, 0.5, 1.0)
grid = lambda noises, odd: [
    *[("copies", noise, 0.0, 0.0, 0.0) for noise in noises],
    *[("copies", noise, 0.0, 0.0, 1.0) for noise in noises[-2:] if noise >= 0.5],
    *[("copies", 0.0, share, each, 0.0) for share in (0.0, 0.5) for each in odd],
    *[("fresh", noise, 0.0, 0.0, 0.0) for noise in noises[1:]],
]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: grid(NOISES, (0.0, 0.02, 0.05, 0.1, 0.2, 0.3))},
    smoke={"seeds": 3, AXES: grid((0.25, 0.5), (0.0, 0.3)), "steps": 2000},
    paper={"seeds": 64, "steps": 200_000, "draws": 1000},
    control={"tilt": 1.0},
)
