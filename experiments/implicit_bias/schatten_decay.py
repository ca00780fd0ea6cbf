"""Weight decay on a linear net of L layers is a Schatten quasi-norm of order 2/L on what it computes.

Claim: The minimum of 1/2 ‖W_L … W_1 − Y‖² + λ/2 Σ‖W_l‖² over the layers is that of 1/2 ‖W − Y‖² + λL/2 Σ σ^{2/L} over
W = W_L … W_1. So descent with weight decay shrinks every singular value of Y alone: s → s/(1 + λ) for L = 1 (ridge),
s → (s − λ)_+ for L = 2 (soft thresholding, the nuclear norm), and for L >= 3 by nearly nothing or to zero.

Source: Srebro, Rennie & Jaakkola 2004 (L = 2); Shang, Liu & Cheng 2016, arXiv 1606.00668, and Dai, Karzand & Srebro
2021, NeurIPS, for any L. The laws of the way there are derived here and in research/oracles/schatten.py.

Departure: The claim is about the minimum. For L >= 3 zero is a local minimum of every mode, and descent, which goes to
a local one, has hysteresis: a mode survives where balanced layers start above the smaller root of σ − s + λσ^{2/L−1},
and dies below. So a small start misses the minimum, and a large one keeps some modes that the minimum drops. For L = 2
the end does not depend on the start. The layers are balanced at the end because W_{l+1}ᵀW_{l+1} − W_l W_lᵀ, which the
flow of the loss conserves, decays as e^{−2λt}. Y is diagonal, its singular values one in each of equal strata: descent
does not see a rotation of Y, and Gaussian layers are as likely as rotated ones. Noise of SGD is left out.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import arms, lift, select
from research.oracles.schatten import resting_sizes
from research.statistics import every_seed, over_seeds, slope_within

TOLERANCE = 1e-3  # of the claim, on a singular value; a critical mode of L = 2 falls as 1/(2ηt), to 1e-3 here
LARGEST = 2.0  # singular value of Y


class Observables(NamedTuple):
    product: Float[Array, "mode"]
    across: Float[Array, ""]
    energy: Float[Array, ""]
    imbalance: Float[Array, ""]


class Given(NamedTuple):
    target: Float[Array, "mode"]


def simulate(
    key: Array,
    learning_rate: float,
    weight_decay: float,
    init_scale: float,
    gaussian: float,
    *,
    depth: int,
    width: int = 6,
    steps: int = 10_000,
) -> Run:
    """One descent with weight decay on 1/2 ‖W_L … W_1 − Y‖², Y diagonal.

    The layers start as init_scale^{1/L} times the mixture (1 − gaussian) 1 + gaussian G/√n: aligned, balanced and with
    a product of size `init_scale` for `gaussian` = 0. `product` is its diagonal, `across` the norm of the
    rest, `energy` is Σ‖W_l‖², and `imbalance` the norm of all W_{l+1}ᵀW_{l+1} − W_l W_lᵀ.
    """
    target_key, init_key = jax.random.split(key)
    target = LARGEST * (jnp.arange(width)[::-1] + jax.random.uniform(target_key, (width,))) / width
    mixed = lambda noise: (1 - gaussian) * jnp.eye(width) + gaussian * noise / width**0.5
    noises = jax.random.normal(init_key, (depth, width, width))
    layers = [init_scale ** (1 / depth) * mixed(noise) for noise in noises]
    composed = lambda layers: jnp.linalg.multi_dot(layers[::-1]) if depth > 1 else layers[0]
    chain = optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate))
    step = descent(lambda layers: jnp.sum((composed(layers) - jnp.diag(target)) ** 2) / 2, chain)

    def observe(state: tuple) -> Observables:
        W, layers = composed(state[0]), state[0]
        differences = [after.T @ after - before @ before.T for before, after in itertools.pairwise(layers)]
        squares = lambda matrices: sum((jnp.sum(matrix**2) for matrix in matrices), jnp.zeros(()))
        across = jnp.linalg.norm(W - jnp.diag(jnp.diag(W)))
        return Observables(jnp.diag(W), across, squares(layers), jnp.sqrt(squares(differences)))

    return Run(start(layers, chain), step, observe, log_spaced(steps, 60), Given(target))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Where theory lets every mode rest, which of these the start selects, and the penalty against its identity."""
    end, depth, decay = dataset.sel(step=dataset.steps), dataset.depth, dataset.weight_decay
    rests = lift(resting_sizes, dataset.target, decay, depth, dataset.init_scale)
    measured, per_step = abs(end.product), dataset.learning_rate * decay
    distance = lambda sizes: np.maximum(abs(measured - sizes).max("mode", skipna=False), end.across)
    identity = (depth * measured ** (2 / depth)).sum("mode", skipna=False)
    ridge, hard = dataset.target / (1 + decay), dataset.target.where(dataset.target > decay, 0.0)
    late = (dataset.imbalance < 1e-2 * dataset.imbalance.isel(step=0)) & (dataset.imbalance > 1e-11)
    slope = slope_within(dataset.step, np.log(dataset.imbalance.where(dataset.imbalance > 0)), late)
    deep = depth.where(depth > 2)
    return dataset.assign(
        **rests,
        measured=measured,
        from_best=distance(rests.best),
        from_end=distance(rests.end),
        from_rest=distance(rests.upper.where(~(measured <= rests.upper / 2), 0.0)),
        nearness=distance(rests.best) / np.minimum(distance(ridge), distance(hard)),
        identity=abs(end.energy - identity) / (depth * dataset.target ** (2 / depth)).sum("mode"),
        # D = W_{l+1}ᵀW_{l+1} − W_l W_lᵀ goes to (1 − ηλ)² D plus η² times the same difference of the gradients of the
        # loss, which is −λ² D where a mode survives and less where it dies: a factor from (1 − ηλ)² down to 1 − 2ηλ.
        excess=(-slope / (2 * per_step) - 1) / per_step,
        # A mode of L >= 3 that survives is larger than the double root at which its two roots meet.
        smallest=measured.where(~(measured <= TOLERANCE), np.inf).min("mode", skipna=False)
        / (decay * (1 - 2 / deep)) ** (1 / (2 - 2 / deep)),
        survivors=(measured > TOLERANCE).mean("mode"),
        needless=xr.where(rests.best > 0, 0.0, measured > TOLERANCE)
        .where(rests.best.notnull())
        .sum("mode", skipna=False),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Soft thresholding and its rivals, ridge, the rests of deep nets and their basins, the identity and its rate."""
    found: list[Finding] = []

    def add(what: str, band: tuple[float, float], variable: str, reduce: str = "max", **chosen: object) -> None:
        runs = select(dataset, **chosen)
        if runs.diverged.size:
            # diverged runs are left out, and nothing else that is NaN
            values, kept = (each.transpose("seed", ...).values for each in (runs[variable], ~runs.diverged))
            rows = [row[keep] for row, keep in zip(values, kept, strict=True)]
            seeds = [getattr(row, reduce)() if row.size else np.nan for row in rows]
            found.append(Finding.of(what, band, (over_seeds if reduce == "mean" else every_seed)(seeds)))

    first = int(np.atleast_1d(dataset.depth.values)[0])
    error, close = "largest error of a singular value against {}, the worst of a seed's runs", (0.0, TOLERANCE)
    add(f"L = {first}: " + error.format("that of the minimum"), close, "from_best", depth=first)
    if first != 1:
        rivals = f"L = {first}: that error over the least of those against ridge and hard thresholding"
        add(rivals, (0.0, 0.01), "nearness", depth=first)
        add("L = 1: " + error.format("s/(1 + λ)"), close, "from_best", depth=1)
    for depth in (3, 4):
        basin = error.format("that which the barrier leaves")
        add(f"L = {depth}, balanced starts of every size: {basin}", close, "from_end", depth=depth, gaussian=0.0)
    rest = error.format("the nearer of zero and the upper root")
    add(f"L = 3, Gaussian starts: {rest}", close, "from_rest", depth=3, gaussian=1.0)
    several = lambda depth: depth > 1
    add("|Σ‖W_l‖² − L Σσ^(2/L)| over L Σs^(2/L), the worst of a seed's runs", (0.0, 1e-6), "identity", depth=several)
    rate = "L = 2: decay rate of the imbalance of layers is 2λ (1 + cηλ): {} c of a seed's runs"
    for reduce in ("min", "max"):
        # −ln(1 − x)/x − 1 is x/2 + x²/3: with x = 2ηλ <= 0.16 c exceeds one by up to 0.12
        add(rate.format(reduce), (0.5, 1.15), "excess", reduce, depth=2)
    jump = "L >= 3: least size of a mode that survives, over (λ (1 − 2/L))^(1/(2 − 2/L))"
    add(jump, (1.0, np.inf), "smallest", "min", depth=lambda depth: depth > 2)
    missed = "L = 3, starts of 0.01 and less: " + error.format("that of the minimum").replace("worst", "best")
    add(missed, (0.1, np.inf), "from_best", "min", depth=3, init_scale=lambda scale: scale <= 0.01)
    kept = f"L = 4, start of 2.5: of {dataset.sizes['mode']} modes survive and the minimum drops, mean over seeds"
    add(kept, (0.0, np.inf), "needless", "mean", depth=4, init_scale=2.5)
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) shrinkage, (b) the barrier between survival and death, (c) the start, (d) balance comes back."""
    figure, panels = plots.figure(2, 2, "Weight decay on L linear layers shrinks each singular value alone")
    shrinkage, plane, starts, balance = panels.ravel()
    usual = select(dataset, weight_decay=0.3, learning_rate=0.1)
    for number, (depth, scale) in enumerate(((1, 1.0), (2, 1.0), (3, 2.5), (4, 2.5))):
        runs = select(usual, depth=depth, init_scale=scale)
        if not runs.diverged.size:
            continue
        plots.points(shrinkage, runs.target, runs.measured, f"L = {depth}", color=f"C{number}", alpha=0.8)
        s = xr.DataArray(np.linspace(0.0, LARGEST, 400), dims="s")
        upper = lift(resting_sizes, s, 0.3, float(depth), scale).upper
        upper = upper if depth < 3 else upper.where(upper > 0)
        plots.theory(shrinkage, s, upper, None if number else "ridge, soft, and the upper roots", linewidth=0.9)
    runs = select(usual, depth=3, gaussian=0.0)
    if runs.diverged.size:
        for alive, colour, label in ((True, "C0", "survives"), (False, "C1", "dies")):
            place = runs.init_scale.where((runs.measured > TOLERANCE) == alive)
            plots.points(plane, runs.target, place, label, color=colour, alpha=0.8)
        s = xr.DataArray(np.linspace(0.01, LARGEST, 2000), dims="s")
        barrier = lift(resting_sizes, s, 0.3, 3.0, 1.0).barrier
        plots.theory(plane, s, barrier.where(np.isfinite(barrier)), "smaller root", linestyle="-")
        edge = float(s[np.isfinite(barrier)].min())
        plane.plot([edge, edge], [float(barrier.where(s == edge).max()), 5.0], color="black", linewidth=1.2)
    kinds = ((2, 1.0, "L = 2, Gaussian"), (3, 0.0, "L = 3, balanced"), (3, 1.0, "L = 3, Gaussian"))
    for number, (depth, gaussian, label) in enumerate(kinds):
        runs = select(usual, depth=depth, gaussian=gaussian).sortby("init_scale") if usual.init_scale.ndim else usual
        if runs.diverged.size and runs.init_scale.ndim:
            walk = runs[["survivors", "end", "best"]].swap_dims({runs.init_scale.dims[0]: "init_scale"})
            walk = walk.squeeze([each for each in walk.survivors.dims if each not in ("seed", "init_scale")])
            plots.seeds(starts, walk.survivors, label, color=f"C{number}", marker="o", markersize=3)
            exact = ((walk.best if depth == 2 else walk.end) > 0).mean("mode").median("seed")
            if gaussian == 0.0 or depth == 2:
                plots.theory(starts, walk.init_scale, exact, "theory" if number == 0 else None)
    shown: list[float] = []
    unbalanced = select(dataset, depth=2, learning_rate=0.1, init_scale=1.0, gaussian=1.0)
    for point, runs in arms(unbalanced) if unbalanced.diverged.size else ():
        runs, decay = runs.sel(step=runs.step > 0), point["weight_decay"]
        path = runs.imbalance / runs.imbalance.isel(step=0)
        time = path.assign_coords(step=runs.step * point["learning_rate"])
        plots.seeds(balance, time.clip(1e-16), f"λ = {decay:g}", color=f"C{len(shown)}")
        plots.theory(balance, time.step, np.exp(-2 * decay * time.step), None if shown else "e^(−2λt)", linewidth=0.9)
        shown.append(decay)
    shrinkage.set(title="a  shrinkage (λ = 0.3, large start)", xlabel="singular value s of Y")
    shrinkage.set_ylabel("singular value σ of W at the end")
    plane.set(
        title="b  L = 3: a mode's start decides (λ = 0.3)",
        xlabel="singular value s of Y",
        yscale="log",
        ylim=(2e-3, 40),
    )
    plane.set_ylabel("initial size σ of balanced layers")
    starts.set(
        title="c  the start matters for L >= 3 (λ = 0.3)", xlabel="initial size", xscale="log", ylim=(-0.05, 1.25)
    )
    starts.set_ylabel("share of modes that survive")
    balance.set(title="d  L = 2: balance comes back", xlabel="time ηt", yscale="log", xlim=(0, 80), ylim=(1e-16, 3))
    balance.set_ylabel("imbalance ‖W₂ᵀW₂ − W₁W₁ᵀ‖, over the first")
    for axes in panels.ravel():
        plots.legend(axes)
    return figure


AXES = ("depth", "learning_rate", "weight_decay", "init_scale", "gaussian")
SCALES = (0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.4, 0.8, 1.6, 2.5)
ARMS = [(2, rate, decay, 1.0, 1.0) for rate, decay in ((0.1, 0.1), (0.1, 0.3), (0.1, 0.8), (0.05, 0.3))]
ARMS += [(2, 0.1, 0.3, scale, 1.0) for scale in (0.003, 0.01, 0.03, 0.1, 0.4, 2.5)]
ARMS += [(1, 0.1, decay, 1.0, 1.0) for decay in (0.1, 0.3, 0.8)]
ARMS += [(3, 0.1, 0.3, scale, 0.0) for scale in SCALES]
ARMS += [(3, 0.1, decay, scale, 0.0) for decay in (0.1, 0.8) for scale in (0.03, 2.5)]
ARMS += [(3, 0.1, 0.3, scale, 1.0) for scale in (0.003, 0.01, 0.03, 0.1, 0.4, 1.0)]
ARMS += [(4, 0.1, 0.3, scale, 0.0) for scale in (0.01, 0.1, 0.4, 0.8, 2.5)]
SMALL = [arm for arm in ARMS if arm[0] in (2, 3) and arm[3] in (0.01, 1.0, 2.5)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, AXES: SMALL},
    paper={"seeds": 64, "width": 50, "steps": 100_000},
    control={"depth": 3},
)
