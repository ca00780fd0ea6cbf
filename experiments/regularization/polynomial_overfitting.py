"""Too low a degree underfits, too high a degree overfits, and beyond the number of points the risk falls again.

Claim: For polynomials fitted by least squares the mean square error on new points is squared bias plus variance, each
in closed form from the hat matrix. Bias falls and variance grows with the degree, so that their sum has the shape of a
U, with its least value at the degree that theory names, while the error on the training points only falls, to zero
where there are as many features as points. There the closed form is largest ("100 points is not always good"). Beyond,
where the interpolant of least norm takes over, it falls again by many powers of ten, but not to the U's least value.

Source: Geman, Bienenstock & Doursat 1992, Neural networks and the bias/variance dilemma; Hastie, Tibshirani & Friedman
2009, The Elements of Statistical Learning, sections 2.9 and 7.3; beyond interpolation: Belkin, Hsu, Ma & Mandal 2019,
arXiv 1812.11118; polynomials there: Schaeffer et al. 2023, arXiv 2303.14151.

Departure: Legendre polynomials of the points, one in each of n equal cells of [-1, 1]; which basis matters to
interpolants alone, and `smoothness` there makes the features of high degree costly. The error is that of the function,
without the noise of a new measurement (the figure adds it). New points are even over the interval: the edges make the
peak high. The squared bias falls for certain on the training points only: on new ones it rises again at high degrees,
from next to nothing, so that "bias falls with complexity" is refuted there, where it no longer matters. One feature
more than points can be as bad as as many: for one seed the closed form has a tie there, to a thousandth, and the mean
risk is largest at degree 20. That the second descent gets below the U, as in Belkin et al., is refuted for three scales
of the features: f is a cubic, nearly.

Bands: The mean over d draws of the noise errs by its standard deviation over √d. The largest of all |z| is compared
with the quantile of Student's law that all stay below with probability 95 % (Bonferroni).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.experiment import Experiment, Finding
from research.labels import check_at_most, lift, per_seed, select, table
from research.oracles.polynomial import polynomial_risk
from research.statistics import every_seed, largest_score

SHOWN = ("underfitted", "right", "interpolant")


class Measures(NamedTuple):
    """Points, f there, places, f there; errors by draw of the noise; one draw's targets and its fit."""

    x: Float[Array, "sample"]
    values: Float[Array, "sample"]
    places: Float[Array, "place"]
    truth: Float[Array, "place"]
    risk: Float[Array, "draw"]
    training: Float[Array, "draw"]
    targets: Float[Array, "sample"]
    fit: Float[Array, "place"]


def legendre(x: Array, count: int) -> Array:
    """√(2k + 1)·P_k(x) for k = 0 … count − 1, a row for each point, by (k + 1)P_{k+1} = (2k + 1)x P_k − k P_{k−1}."""

    def following(pair: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], Array]:
        before, now = pair
        return (now, ((2 * k + 1) * x * now - k * before) / (k + 1)), now

    k = jnp.arange(count, dtype=x.dtype)
    _, rows = jax.lax.scan(following, (jnp.zeros_like(x), jnp.ones_like(x)), k)
    return rows.T * jnp.sqrt(2 * k + 1)[None, :]


def simulate(
    key: Array,
    degree: float,
    smoothness: float = 1.0,
    noise: float = 0.4,
    correlation: float = 0.0,
    *,
    samples: int = 20,
    largest_degree: int = 100,
    draws: int = 200,
) -> Measures:
    """Least-norm least squares on noisy values of f(x) = sin(πx) + x, and its mean square errors by draw of the noise.

    Features √(2k + 1)P_k(x)/(1 + k)^smoothness up to that degree. `correlation` is the share of the noise's variance
    that all points have in common.
    """
    point_key, noise_key = jax.random.split(key)
    f = lambda x: jnp.sin(jnp.pi * x) + x
    x = -1 + 2 * (jnp.arange(samples) + jax.random.uniform(point_key, (samples,))) / samples
    places = jnp.linspace(-0.99, 0.99, 100)
    k = jnp.arange(largest_degree + 1)
    scale = jnp.where(k <= degree, (1.0 + k) ** -smoothness, 0.0)
    X, T = (legendre(points, largest_degree + 1) * scale[None, :] for points in (x, places))
    drawn = jax.random.normal(noise_key, (samples + 1, draws))
    common = jnp.sqrt(correlation) * drawn[-1:] + jnp.sqrt(1 - correlation) * drawn[:-1]
    y = f(x)[:, None] + noise * common
    weights = jnp.linalg.pinv(X, rtol=1e-12) @ y
    square = lambda apart: jnp.mean(apart**2, axis=0)
    fit = T @ weights
    risk, training = square(fit - f(places)[:, None]), square(X @ weights - y)
    return Measures(x, f(x), places, f(places), risk, training, y[:, 0], fit[:, 0])


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Bias, variance and training error in closed form, and how far the simulated means are from them."""
    check_at_most(dataset, "degree", "largest_degree")
    given = [dataset[name] for name in ("x", "values", "places", "truth", "degree", "noise", "smoothness")]
    exact = lift(polynomial_risk, *given)
    expected = exact.bias + exact.variance
    error = dataset.risk.std("draw", ddof=1) / dataset.sizes["draw"] ** 0.5
    return dataset.assign(
        bias=exact.bias,
        variance=exact.variance,
        expected=expected,
        expected_training=exact.training,
        mean_risk=dataset.risk.mean("draw"),
        mean_training=dataset.training.mean("draw"),
        score=(dataset.risk.mean("draw") - expected) / error,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The risk in closed form, the U and its least degree, the training error, the peak, and what lies beyond."""
    found: list[Finding] = []

    def add(what: str, band: tuple[float, float], values: np.ndarray) -> None:
        found.append(Finding.of(what, band, every_seed(values)))

    samples, draws = int(np.min(dataset.samples)), dataset.sizes["draw"]
    worst, limit = largest_score(dataset.score, draws - 1)
    what = f"mean test risk against bias² + variance: the largest |z| of {dataset.score.size} means of {draws}"
    found.append(Finding.of(what, (0.0, limit), worst))
    classical = select(dataset, degree=lambda degree: degree < samples - 1)
    first = select(classical, smoothness=float(np.atleast_1d(dataset.smoothness)[0]))
    if first.diverged.size and len(np.unique(first.degree.values)) > 2:
        seen, expected, bias, variance, training = (
            table(first, name, "degree") for name in ("mean_risk", "expected", "bias", "variance", "mean_training")
        )
        whole = lambda curve: curve.notnull().all("degree")
        least = lambda curve: curve.degree[curve.fillna(np.inf).argmin("degree")].where(whole(curve)).values
        what = (
            f"degree of the least mean risk less that of the closed form ({np.median(least(expected)):g}, median seed)"
        )
        add(what, (-0.5, 0.5), least(seen) - least(expected))
        ends = [np.log((seen.isel(degree=end) / seen.min("degree")).values) for end in (0, -1)]
        lowest, highest = (float(seen.degree[end]) for end in (0, -1))
        add(f"underfitting: ln(mean risk of degree {lowest:g} over the least)", (0.0, np.inf), ends[0])
        add(f"overfitting: ln(mean risk of degree {highest:g} over the least)", (0.0, np.inf), ends[1])
        add("squared bias: its largest rise with the degree", (-np.inf, 1e-12), _rise(bias))
        add("variance: its largest fall with the degree", (-np.inf, 1e-12), _rise(-variance))
        add("training error: its largest rise with the degree", (-np.inf, 1e-12), _rise(training))
        full = select(dataset, degree=float(samples - 1), smoothness=float(np.atleast_1d(dataset.smoothness)[0]))
        if full.diverged.size:
            what = f"as many features as the {samples} points: mean training error, of noise² "
            add(what, (0.0, 1e-9), per_seed(full.mean_training / full.noise**2))
            peak = per_seed(full.mean_risk, "mean")
            add("… and ln(mean risk over the U's least)", (0.0, np.inf), np.log(peak / seen.min("degree").values))
            every = select(dataset, smoothness=float(np.atleast_1d(dataset.smoothness)[0]))
            seen_all, closed = (table(every, name, "degree") for name in ("mean_risk", "expected"))
            most = lambda curve: curve.degree[curve.fillna(-np.inf).argmax("degree")].where(whole(curve)).values
            what = "degree of the largest mean risk less that of the closed form"
            add(f"{what} ({np.median(most(closed)):g}, median seed)", (-0.5, 0.5), most(seen_all) - most(closed))
            found += _beyond(dataset, peak, seen.min("degree").values)
    return found


def _rise(curve: xr.DataArray) -> np.ndarray:
    return curve.diff("degree").max("degree").values


def _beyond(dataset: xr.Dataset, peak: np.ndarray, least: np.ndarray) -> list[Finding]:
    """The highest degree against as many features as points and the U's least risk, for each scale of the features."""
    found: list[Finding] = []
    last = float(dataset.degree.max())
    if last < 2 * float(np.min(dataset.samples)):
        return found
    for smoothness in np.unique(dataset.smoothness.values).tolist():
        runs = select(dataset, degree=last, smoothness=smoothness)
        if runs.diverged.size:
            risk = per_seed(runs.mean_risk, "mean")
            for name, other, band in (
                (f"risk of {int(np.min(dataset.samples))} features", peak, (-np.inf, 0.0)),
                ("U's least risk: the second descent gets below it", least, (-np.inf, 0.0)),
            ):
                what = f"smoothness {smoothness:g}: ln(mean risk of degree {last:g} over the {name})"
                found.append(Finding.of(what, band, every_seed(np.log(risk / other))))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) three fits of the same points, (b) bias, variance and risk, (c) beyond the number of points."""
    figure, ((fits, shape, beyond),) = plots.figure(1, 3, "Underfitting, overfitting, and what comes after")
    samples = int(np.min(dataset.samples))
    smooth = list(dict.fromkeys(np.atleast_1d(dataset.smoothness.values).tolist()))  # the first one below n as well
    first = select(dataset, smoothness=smooth[0])
    classical = select(first, degree=lambda degree: degree < samples)
    degrees = np.unique(classical.degree.values)
    if degrees.size:
        seen, expected = (table(classical, name, "degree") for name in ("mean_risk", "expected"))
        best = float(expected.median("seed").idxmin("degree"))
        chosen = dict.fromkeys((float(degrees[0]), best, float(degrees[-1])))
        for number, degree in enumerate(chosen):
            cell = select(classical, degree=degree).isel(seed=0)
            cell = cell.isel(dict.fromkeys(cell.diverged.dims, 0))
            if not number:
                fits.plot(cell.x, cell.targets, "o", color="0.4", ms=4, label="noisy values")
                plots.theory(fits, cell.places, cell.truth, "f", linestyle="-")
                low, high = float(cell.targets.min()), float(cell.targets.max())
                fits.set_ylim(low - 1, high + 1)
            fits.plot(cell.places, cell.fit, color=f"C{number}", label=f"degree {degree:g}")
        noise = float(np.min(dataset.noise)) ** 2
        plots.seeds(shape, seen + noise, "error on new points", color="C1", marker="o", ms=3)
        plots.seeds(shape, table(classical, "mean_training", "degree").clip(1e-4), "training error", color="C0")
        plots.theory(shape, expected.degree, expected.median("seed") + noise, "bias² + variance + noise²")
        for name, style in (("bias", ":"), ("variance", "-.")):
            curve = table(classical, name, "degree").median("seed").clip(1e-4)
            plots.theory(shape, curve.degree, curve, {"bias": "bias²"}.get(name, name), linestyle=style)
        shape.axvline(best, color="0.6", linewidth=0.8)
    for number, smoothness in enumerate(smooth):
        runs = select(dataset, smoothness=smoothness)
        seen, expected = (table(runs, name, "degree") for name in ("mean_risk", "expected"))
        seen, expected = (each.assign_coords(degree=each.degree + 1) for each in (seen, expected))
        label = f"risk, features / (1 + k)^{smoothness:g}"
        plots.seeds(beyond, seen, label, color=f"C{number + 1}", marker="o", ms=3)
        plots.theory(beyond, expected.degree, expected.median("seed"), None if number else "bias² + variance")
    beyond.axvline(samples, color="black", linewidth=0.8, linestyle=":")
    fits.set(title="a  one draw of the noise", xlabel="x", ylabel="y")
    shape.set(title="b  the U", xlabel="degree", ylabel="mean square error", yscale="log", ylim=(1e-4, 1e3))
    beyond.set(title=f"c  beyond {samples} features", xlabel="features", ylabel="mean square error")
    beyond.set(xscale="log", yscale="log")
    for axes in (fits, shape, beyond):
        plots.legend(axes)
    return figure


AXES = ("smoothness", "degree")
CLASSICAL = [(1.0, float(degree)) for degree in range(20)]
LATE = (20.0, 21.0, 23.0, 26.0, 30.0, 40.0, 60.0, 100.0)
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: [*CLASSICAL, *((smooth, degree) for smooth in (1.0, 0.0, 2.0) for degree in LATE)]},
    smoke={"seeds": 3, AXES: [(1.0, float(degree)) for degree in (0, 1, 3, 5, 8, 12, 19, 60)], "largest_degree": 60},
    paper={"seeds": 64, "draws": 10_000},
    control={"correlation": 0.5},
)
