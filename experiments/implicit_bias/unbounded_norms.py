"""A factorised completion can raise every norm without bound: what it lowers is the rank.

Claim: Of a 2 × 2 matrix the entries W12 = W21 = 1 and W22 = 0 are observed. Gradient flow on a balanced product of two
or more matrices keeps the sign of its determinant; where that is positive, |W11|, and with it every norm, goes to
infinity as 1/√loss, while the effective rank falls to one. So no norm is what the factorisation minimises: the
completion of least nuclear norm has W11 = 0. With W22 = ε instead, |W11| is at least about 1/|ε|.

Source: Razin & Cohen 2020, arXiv 2005.06398, Theorem 1 and its extension to perturbed observations.

Departure: The paper starts layers at N(0, (8e-3)²), takes up to 5·10⁶ steps and shows depths 2, 3, 4. Here the start is
what the theorem asks, balanced, with singular values init_scale · (1, r), and the judge is sharper than its 1/√loss
minus a constant: the exact least |W11| at the loss of the moment, which the run meets from above. How fast it climbs is
derived here: |W11|^(2 + 2/L) = (2L + 2) t at depth L, for as long as η |W11|^(2 − 2/L), the largest eigenvalue of the
Hessian times the step, is below 2. Found on the way: the theorem is about the flow. At depth 2 the valley is unstable,
an imbalance of the layers grows as exp(2 ∫ W22 dt), and that which steps of finite length make turns the determinant's
sign near |W11| = 6, after which W11 stays; only a symmetric start, whose layers stay transposes of each other, goes
on. Depths 3 and 4 have no such growth. Gaussian layers, not balanced at all, turn at every depth if large.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select, sound
from research.models import matrix_product
from research.oracles.completion import LEAST_NUCLEAR_NORM, largest_effective_rank, least_unobserved, valley_growth
from research.oracles.low_rank import effective_rank
from research.statistics import every_seed, slope_within

JUDGED = 0.05  # the loss below which the run has settled in the valley: |W11| above 3
EXCESS = 1.05  # of |W11| over its least: det <= init_scale · |W11| adds at most 4 % here, leaving the floor O(|W11|⁻⁴)


class Observables(NamedTuple):
    product: Float[Array, "row column"]
    loss: Float[Array, ""]


def rotation(angle: Array) -> Float[Array, "row column"]:
    """The rotation of the plane by `angle`, in radians."""
    return jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])


def simulate(
    key: Array,
    learning_rate: float,
    init_scale: float,
    det_sign: float,
    corner: float,
    asymmetry: float,
    imbalance: float,
    *,
    depth: int,
    steps: int,
) -> Run:
    """One descent on half the sum of squared errors on W12 = W21 = 1 and W22 = `corner`.

    The start is balanced: U diag(1, ± r) init_scale Vᵀ with the L-th root of the diagonal in every layer, r uniform in
    [0.3, 1], and rotations U and V whose angles differ by `asymmetry` times a random one. Added to each layer is
    `imbalance` times N(0, init_scale^(2/L)), and the sign of the second row of Uᵀ W_L is what `det_sign` asks.
    """
    angle_key, value_key, layer_key = jax.random.split(key, 3)
    angle, turn = jax.random.uniform(angle_key, (2,), maxval=2 * jnp.pi)
    values = jnp.stack([jnp.ones(()), jax.random.uniform(value_key, minval=0.3)])
    layer = jnp.diag((init_scale * values) ** (1 / depth))
    noise = imbalance * init_scale ** (1 / depth) * jax.random.normal(layer_key, (depth, 2, 2))
    factors = [layer + noise[number] for number in range(depth)]
    determinant = lambda W: W[0, 0] * W[1, 1] - W[0, 1] * W[1, 0]
    flip = det_sign * jnp.prod(jnp.stack([jnp.sign(determinant(W)) for W in factors]))
    factors[0] = factors[0] @ rotation(angle + asymmetry * turn).T
    factors[-1] = rotation(angle) @ (factors[-1] * jnp.stack([jnp.ones(()), flip])[:, None])
    observed = jnp.array([[0.0, 1.0], [1.0, 0.0]]).at[1, 1].set(corner)
    mask = jnp.array([[0.0, 1.0], [1.0, 1.0]])
    loss = lambda factors: jnp.sum(mask * (matrix_product(factors) - observed) ** 2) / 2
    optimizer = optax.sgd(learning_rate)
    observe = lambda state: Observables(matrix_product(state.params), loss(state.params))
    return Run(start(factors, optimizer), descent(loss, optimizer), observe, log_spaced(steps, 60))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """What a determinant >= 0 allows at each moment's loss, how fast the valley is climbed, and norms and ranks."""
    dataset = sound(dataset)
    W = dataset.product
    entry = lambda row, column: W.isel(row=row, column=column)
    unobserved, curvature = np.abs(entry(0, 0)), 2 - 2 / dataset.depth
    least = lift(least_unobserved, dataset.loss, dataset.corner)
    time = dataset.learning_rate * dataset.step
    climbed = unobserved ** (2 + 2 / dataset.depth) / (2 * dataset.depth + 2)
    resolved = dataset.learning_rate * unobserved**curvature < 1
    valley = (dataset.loss < JUDGED) & resolved & (unobserved > 3)
    determinant = entry(0, 0) * entry(1, 1) - entry(0, 1) * entry(1, 0)
    # ‖W‖_* of a 2 × 2 matrix: its square is ‖W‖_F² + 2 |det W|
    nuclear = np.sqrt((W**2).sum(["row", "column"], skipna=False) + 2 * np.abs(determinant))
    logarithm = lambda values: np.log(values.where(values > 0))
    return dataset.assign(
        unobserved=unobserved,
        determinant=determinant,
        least=least,
        excess=unobserved / least,
        resolved=resolved,
        time=time,
        # the law, up to where η |W11|^(2 − 2/L), the largest eigenvalue of the Hessian times the step, is 2
        predicted=np.minimum(lift(valley_growth, time, dataset.depth), (2 / dataset.learning_rate) ** (1 / curvature)),
        # The floor is ln |W11| = −ln(2 loss)/2 − 2 loss + O(loss²); its second term counts where the window begins.
        slope=slope_within(logarithm(dataset.loss), logarithm(unobserved) + 2 * dataset.loss, valley),
        speed=slope_within(time, climbed, resolved & (unobserved > 8)),
        drift=slope_within(logarithm(dataset.step), logarithm(unobserved), dataset.step > dataset.steps / 3),
        nuclear=nuclear,
        effective_rank=lift(effective_rank, W),
        largest_rank=lift(largest_effective_rank, dataset.loss.where(valley)),
        valley=valley,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The exact floor, the slope, the speed, rank against norm; perturbed observations; where the claim ends."""
    found: list[Finding] = []
    end = dataset.sel(step=dataset.steps)
    kept = np.unique(dataset.imbalance.values).tolist()[0]
    plain = {"corner": 0.0, "asymmetry": 0.0, "imbalance": kept}
    depths = np.unique(dataset.depth.values).tolist()
    claimed = select(dataset, det_sign=1.0, **plain)
    # At depth 2 the valley is unstable, and a start stays symmetric only where the backend rounds both layers alike.
    shallow, deep = (select(claimed, depth=lambda depth, low=low: (depth < 3) == low) for low in (True, False))
    deep, named = (deep, "depth ≥ 3, ") if deep.diverged.size else (claimed, "")

    def add(what: str, band: tuple[float, float], values: xr.DataArray, reduce: str = "max") -> None:
        if values.size:
            found.append(Finding.of(what, band, every_seed(per_seed(values, reduce))))

    def met(runs: xr.Dataset) -> xr.DataArray:
        floor = runs.excess.where((runs.loss < JUDGED) & runs.resolved)
        return floor.max("step").where(floor.min("step") >= 1 - 1e-9, floor.min("step"))

    least = "det > 0: largest |W11| over the least that the loss allows, from loss = 0.05 on (smallest if ever below)"
    add(named + least, (1 - 1e-9, EXCESS), met(deep))
    if named:
        add("depth 2, layers each other's transposes to the last bit, " + least, (1 - 1e-9, EXCESS), met(shallow))
    add(
        f"{named}det > 0: slope of ln |W11| + 2 loss on ln loss, while loss < 0.05, of the run farthest from −1/2",
        (-0.52, -0.48),
        -0.5 - np.abs(deep.slope + 0.5),
        "min",
    )
    for depth in depths:
        add(
            f"depth {depth}: slope of |W11|^(2 + 2/L)/(2L + 2) on time η·step, from |W11| = 8 on, the slowest",
            (0.9, 1.1),  # the terms left out are of relative order |W11|⁻², 1.6 % at 8, with coefficients of order 1
            select(claimed, depth=depth).speed,
            "min",
        )
    what = "effective rank minus the most that the loss of the moment allows, the largest, while loss < 0.05"
    add(f"{named}det > 0: {what}", (-np.inf, 0.0), (deep.effective_rank - deep.largest_rank).max("step"))
    fastest = select(deep.sel(step=deep.steps), learning_rate=float(dataset.learning_rate.max()))
    # |W11|^(2 + 2/L) grows evenly: half of the law's |W11| at the end if the valley is reached in 4/5 of the time.
    what = f"nuclear norm at the end (least of all completions: {LEAST_NUCLEAR_NORM:g}) over the law's |W11|"
    add(f"{named}det > 0: {what}, the smallest", (0.5, np.inf), fastest.nuclear / fastest.predicted, "min")
    perturbed = select(end, det_sign=1.0, corner=lambda corner: corner > 0, depth=np.unique(deep.depth.values).tolist())
    what = "|W11| over the least that the loss of the end allows, 1/ε in the limit, the largest"
    add(f"{named}W22 = ε > 0, det > 0: {what}", (1 - 1e-9, EXCESS), perturbed.excess)
    negative = select(dataset, det_sign=-1.0, **plain)
    slower = negative.drift - negative.depth / (2 * negative.depth + 2)
    add("det < 0: power of t by which |W11| grows minus the one where det > 0, the largest", (-np.inf, 0.0), slower)
    for depth in depths:
        rotated = select(end, det_sign=1.0, corner=0.0, asymmetry=1.0, imbalance=0.0, depth=depth)
        said = (
            f"depth {depth}, balanced, not symmetric: det W at the end (the flow keeps it > 0), the largest of a seed"
        )
        add(said, (0.0, np.inf), rotated.determinant)
    gaussian = select(end, det_sign=1.0, corner=0.0, asymmetry=1.0, imbalance=1.0)
    said = "Gaussian layers (not balanced, the theorem is silent): det W at the end, the largest of a seed's runs"
    if kept == 0:
        add(said, (0.0, np.inf), gaussian.determinant)
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) |W11| against the loss, (b) against time, (c) perturbed observations, (d) where the claim ends."""
    figure, ((floor, speed), (perturbed, ends)) = plots.figure(2, 2, "Completion by factors: norms go to infinity")
    rate, scale = (float(np.atleast_1d(dataset[name].values)[0]) for name in ("learning_rate", "init_scale"))
    dataset = select(dataset, learning_rate=rate, init_scale=scale)
    depths = np.unique(dataset.depth.values).tolist()
    plain = {"det_sign": 1.0, "corner": 0.0, "asymmetry": 0.0, "imbalance": 0.0}
    losses = np.geomspace(1e-4, 0.2, 100)
    bound = lambda corner: [least_unobserved(float(loss), corner) for loss in losses]

    def path(axes: plots.Axes, runs: xr.Dataset, label: str | None, **style: Any) -> None:
        flat = runs.squeeze([each for each in runs.unobserved.dims if each not in ("seed", "step")])
        for number in range(flat.sizes["seed"]):
            run = flat.isel(seed=number)
            shown = run.unobserved.where(run.resolved)
            axes.plot(run.loss, shown, label=None if number else label, **{"alpha": 0.6, "linewidth": 2.5, **style})

    def against_time(axes: plots.Axes, runs: xr.Dataset, label: str | None, **style: Any) -> None:
        flat = runs.unobserved.squeeze([each for each in runs.unobserved.dims if each not in ("seed", "step")])
        flat = flat.assign_coords(step=flat.step * rate).sel(step=flat.step > 0)
        plots.seeds(axes, flat.transpose("seed", "step"), label, **style)

    times = np.geomspace(10.0, rate * float(dataset.steps.max()), 40)
    for number, depth in enumerate(depths):
        style = {"color": f"C{number}"}
        law = [valley_growth(float(time), depth) for time in times]
        runs = select(dataset, depth=depth, **plain)
        if runs.diverged.size:
            path(floor, runs, f"depth {depth}", **style)
            against_time(speed, runs, f"depth {depth}", **style)
            plots.theory(speed, times, law, None if number else "((2L + 2) t)^(L/(2L + 2))")
            edge = (2 / rate) ** (depth / (2 * depth - 2))
            if law[-1] > edge:
                said = f"η |W11|^(2 − 2/L) = 2, depth {depth}"
                plots.theory(speed, times[-12:], [edge] * 12, said, linestyle=":")
        runs = select(dataset, depth=depth, **{**plain, "det_sign": -1.0})
        if runs.diverged.size:
            path(floor, runs, None if number else "the same, det < 0", linestyle=":", linewidth=1, **style)
        runs = select(dataset, depth=depth, **{**plain, "asymmetry": 1.0})
        if runs.diverged.size:
            against_time(ends, runs, f"depth {depth}, not symmetric", **style)
            plots.theory(ends, times, law, None if number else "law of panel b")
        runs = select(dataset, depth=depth, **{**plain, "asymmetry": 1.0, "imbalance": 1.0})
        if runs.diverged.size:
            against_time(ends, runs, None if number else "the same, Gaussian layers", linestyle=":", **style)
    for number, corner in enumerate(np.unique(dataset.corner.values).tolist()):
        runs = select(dataset, depth=depths[0], **{**plain, "corner": corner})
        if runs.diverged.size:
            path(perturbed, runs, f"W22 = {corner:g}", color=f"C{number}")
            plots.theory(perturbed, losses, bound(corner), None if number else "least that det ≥ 0 allows")
    plots.theory(floor, losses, bound(0.0), "least with det ≥ 0")
    floor.set(title="a  every norm goes to infinity where det > 0", ylim=(1e-2, 100))
    perturbed.set(title=f"c  W22 = ε observed: |W11| → 1/ε (depth {depths[0]})", ylim=(0.1, 100))
    speed.set(title="b  how fast it goes there", ylim=(0.5, 100))
    ends.set(title="d  other starts: the determinant may turn", ylim=(0.05, 200))
    for axes in (floor, perturbed):
        axes.set(xscale="log", yscale="log", xlabel="loss", ylabel="|W11|, not observed", xlim=(1, 1e-4))
    for axes in (speed, ends):
        axes.set(xscale="log", yscale="log", xlabel="time (learning rate × step)", ylabel="|W11|, not observed")
        axes.set_xlim(left=1)
    for axes in figure.axes:
        plots.legend(axes, loc="upper left")
    return figure


ARMS = ("det_sign", "corner", "asymmetry", "imbalance")
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={
        "seeds": 8,
        "depth": (2, 3, 4),
        "steps": 200_000,
        "learning_rate": (0.01, 0.003),
        "init_scale": 1e-3,
        ARMS: [
            (1.0, 0.0, 0.0, 0.0),
            (-1.0, 0.0, 0.0, 0.0),
            *((1.0, corner, 0.0, 0.0) for corner in (0.3, 0.1)),
            (1.0, 0.0, 1.0, 0.0),
            (1.0, 0.0, 1.0, 1.0),
        ],
    },
    smoke={"seeds": 2, "depth": 3, "steps": 60_000, "learning_rate": 0.03},
    paper={"seeds": 16, "steps": 5_000_000, "learning_rate": 0.003, "init_scale": (5e-7, 1e-3)},
    control={"imbalance": 1.0},
)
