"""Grokking: from a large start weight decay leads from the l2 to the l1 maximum margin, at the time ln α / λ.

Claim: A diagonal network, w = u² − v² with u = v = α at the start, descends on the logistic loss + λ/2 (‖u‖² + ‖v‖²)
first to the direction of the l2 maximum margin and stays until the time (1 − c) ln α / λ; by (1 + c) ln α / λ it is on
the way to the l1 maximum margin, for every c in (0, 1) as α grows and λ falls as one of its powers. Where the truth is
sparse the test accuracy jumps late (grokking); where it has a large l2 margin, it falls late (misgrokking).

Source: Lyu, Jin, Li, Du, Lee & Hu 2024, arXiv 2311.18817: Theorems 3.4 and 3.5, Corollaries 3.6 and 3.7 (exponential
loss, flow, λ = Θ(α^−p)), figure 1. Late points tend to Karush–Kuhn–Tucker points of the l1 problem: no more is proved.

Departure: d = 400 in place of 100,000, where their start of norm 128 has entries of 0.3. α and λ vary one at a time.
The rate grows geometrically to h/λ, so that runs take equally many steps. Weight decay makes u v = α² exp(−2λt),
whatever the data, and leaves one unknown a sample (research/oracles/diagonal_flow.py). Hence, once the data are fitted,
w depends on α² exp(−2λt) alone, up to the size ln(1/λ) of the margins: the time of the transition t* obeys
λt* = ln α + C, C the less the smaller λ, by ½ ln ln(1/λ) (Lemma C.5 has such a term in its bound), and its width in λt
does not depend on α. So λt*/ln α falls to 1 as slowly as C/ln α, also if λ = α^−p: "sharp at 1" is out of reach. The
end, the minimum of the mean loss + (λ/2)‖w‖₁, is the same for all α, and the l1 maximum margin as λ → 0 alone. In the
descent u v falls at the rate λ(1 + h/2 … h).
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import first_arm, lift, norm, per_seed, select, sound, table
from research.oracles.diagonal_flow import diagonal_flow
from research.oracles.margin import maximum_margin
from research.statistics import crossing, every_seed, slope

GROWTH = 0.1  # of the rate in one step: while the data are being fitted the curvature falls as 3/t
FIRST = 400  # steps at most in which the rate grows
BEYOND = 6.0  # what is run of λt beyond ln α
LARGE = 16.0  # α from which it counts as large: the plateau ends at ln α = 2.8 times λ⁻¹
APART = 0.9  # the most that the cosine of the two margins may be


class Observables(NamedTuple):
    weights: Float[Array, "feature"]
    clock: Float[Array, ""]
    train_accuracy: Float[Array, ""]
    test_accuracy: Float[Array, ""]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    points: Float[Array, "point feature"]
    truth: Float[Array, "point"]
    time_step: Float[Array, ""]


def simulate(
    key: Array,
    init_scale: float,
    weight_decay: float,
    coupled: float = 1.0,
    decoupled: float = 0.0,
    separation: float = 7.0,
    *,
    data: Literal["sparse", "separated"] = "sparse",
    samples: int = 60,
    features: int = 400,
    unseen: int = 200,
    steps: int = 2400,
) -> Run:
    """One descent from u = v = init_scale on mean_i ln(1 + exp(−y_i w·x_i)) + coupled λ/2 (‖u‖² + ‖v‖²), w = u² − v².

    "sparse": x of ±1, y the sign of three signed entries' sum. "separated": y = sign(z·w*), x = z + y separation/2 w*,
    z and w* Gaussian, ‖w*‖ = 1. `clock` is λt, t the sum of the rates; the last rate is `time_step`/λ. `decoupled`
    decay takes the share decoupled · λ/0.001 · time_step off the weights in each step, whatever the rate.
    """
    data_key, truth_key = jax.random.split(key)  # the start is not random
    if data == "sparse":
        X = jnp.sign(jax.random.normal(data_key, (samples + unseen, features)))
        y = jnp.sign(X[:, :3] @ jnp.sign(jax.random.normal(truth_key, (3,))))
    else:
        drawn = jax.random.normal(data_key, (samples + unseen + 1, features))
        direction = drawn[-1] / jnp.linalg.norm(drawn[-1])
        y = jnp.sign(drawn[:-1] @ direction)
        X = drawn[:-1] + separation / 2 * y[:, None] * direction[None, :]
    inputs, labels = X[:samples], y[:samples]
    effective = lambda halves: halves[0] ** 2 - halves[1] ** 2
    loss = lambda halves: jax.nn.softplus(-labels * (inputs @ effective(halves))).mean()
    # A quarter of what is stable at the start, where the curvature is 2α² that of the inputs' second moment.
    first = 0.25 / (init_scale**2 * (1 + (features / samples) ** 0.5) ** 2)
    time_step = (jnp.log(init_scale) + BEYOND) / (steps - FIRST)
    last = time_step / weight_decay
    rate = optax.exponential_decay(first, 1, 1 + GROWTH, end_value=last)
    optimizer = optax.chain(
        optax.add_decayed_weights(coupled * weight_decay),
        optax.sgd(rate),
        optax.add_decayed_weights(-decoupled * time_step * weight_decay / 1e-3),
    )
    growing = jnp.ceil(jnp.log(last / first) / np.log(1 + GROWTH))

    def observe(state: tuple) -> Observables:
        halves, optimizer_state, _ = state
        count = optax.tree.get(optimizer_state, "count").astype(float)
        rising = first * jnp.expm1(np.log(1 + GROWTH) * jnp.minimum(count, growing)) / GROWTH
        clock = weight_decay * (rising + last * jnp.maximum(count - growing, 0))
        right = (X @ effective(halves)) * y > 0
        return Observables(effective(halves), clock, right[:samples].mean(), right[samples:].mean())

    at = np.union1d(log_spaced(FIRST, 12), np.linspace(FIRST, steps, 57).round().astype(int))
    given = Given(inputs, labels, X[samples:].astype(jnp.float32), y[samples:], time_step)
    first_state = start(jnp.full((2, features), init_scale), optimizer)
    return Run(first_state, descent(loss, optimizer), observe, at, given)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Both maximum margins, the flow, the cosines with either, and the transition: when, how wide, of run and flow."""
    dataset = sound(dataset)
    X, y = dataset.X, dataset.y
    l2, l1 = lift(maximum_margin, X, y, order=2), lift(maximum_margin, X, y, order=1)
    decay = dataset.weight_decay * dataset.coupled
    flow = lift(diagonal_flow, X, y, dataset.init_scale, decay, dataset.clock / dataset.weight_decay)
    accuracy = lambda weights: (xr.dot(dataset.points, weights, dim="feature") * dataset.truth > 0).mean("point")
    between, logarithm = _cosine(l1, l2), np.log(dataset.init_scale)
    levels, cores = xr.DataArray([-0.5, 0.0, 0.5], dims="level"), [["step"], ["step"], []]
    made: dict[str, xr.DataArray] = {"tau": dataset.clock / logarithm.where(dataset.init_scale > 1)}
    for name, weights in {"": dataset.weights, "flow_": flow}.items():
        to_l1, to_l2 = _cosine(weights, l1), _cosine(weights, l2)
        side = ((to_l1 - to_l2) / (1 - between)).where(between < APART)
        # A transition leads from the one to the other: nothing that only happens to be nearer counts.
        led = (to_l2.max("step") > 0.98) & (to_l1.sel(step=dataset.steps) > 0.6)
        times = xr.apply_ufunc(crossing, dataset.clock, side.where(led), levels, input_core_dims=cores, vectorize=True)
        when = dict(zip(levels.values.tolist(), times.transpose("level", ...), strict=True))
        made |= {
            f"{name}to_l1": to_l1,
            f"{name}to_l2": to_l2,
            f"{name}transition": when[0.0],
            f"{name}width": when[0.5] - when[-0.5],
        }
    plateau = (made["tau"] > 0.05) & (made["tau"] < 0.5)
    return dataset.assign(made).assign(
        plateau=made["to_l2"].where(plateau).min("step"),
        early=dataset.test_accuracy.where(plateau).mean("step"),
        scaled=made["transition"] / logarithm,
        end_l2=made["to_l2"].sel(step=dataset.steps),
        late=dataset.test_accuracy.sel(step=dataset.steps),
        l2_accuracy=accuracy(l2),
        l1_accuracy=accuracy(l1),
        flow_accuracy=accuracy(flow).where(flow.notnull().all("feature")),
    )


def _cosine(one: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    return xr.dot(one, other, dim="feature") / (norm(one) * norm(other))


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The collapse in λ, the flow, ln α, the width, both phases, what the limit asks for; no decay; misgrokking."""
    found: list[Finding] = []

    def add(what: str, band: tuple[float, float], values: np.ndarray, outlook: str = "") -> None:
        found.append(Finding.of(what, band, every_seed(values), outlook))

    decaying = select(dataset, **{"coupled" if np.any(dataset.coupled == 1.0) else "decoupled": 1.0})
    large = select(decaying, data="sparse", init_scale=lambda scale: scale >= LARGE)
    decade = select(large, weight_decay=lambda decay: 0.99e-3 < decay < 1.01e-2)
    spread = []
    for scale in np.unique(decade.init_scale.values).tolist() if decade.diverged.size else []:
        values = table(select(decade, init_scale=scale), "scaled", "weight_decay").values
        spread += [values.std(axis=1) / values.mean(axis=1)] if values.shape[1] > 1 else []
    if spread:  # By C a decade of λ makes ½ ln(ln 1000 / ln 100) = 0.2 of λt* > ln 16 + 1.
        what = "τ* = λt*/ln α for λ from 0.01 to 0.001: standard deviation over mean, the largest over α ≥ 16"
        add(what, (0.0, 0.03), np.max(spread, axis=0))
    if decaying.diverged.size:
        coarse, ratio = float(decaying.time_step.max()), decaying.transition / decaying.flow_transition
        # λt is off by the share h/2 to h of the e-folding; between recordings both are interpolated alike.
        what = "t* of the descent over that of the flow, the least and the largest of a seed's runs"
        add(what, (1 - coarse, 1.0), per_seed(ratio, "min", "max"))
    if large.diverged.size:
        decays, frequency = np.unique(large.weight_decay.values, return_counts=True)
        found += _against_scale(select(large, weight_decay=float(decays[np.argmax(frequency)])))
        what = "plateau, 0.05 < τ < 0.5: least cosine with the l2 maximum margin over α ≥ 16"
        add(what, (0.995, 1.0), per_seed(large.plateau, "min"))
        left = np.log((1 - large.to_l1.sel(step=large.steps)) / (1 - large.end_l2))
        add("end: ln of the distance² to the l1 over that to the l2 maximum margin", (-np.inf, 0.0), per_seed(left))
        what = "grokking: test accuracy at the end minus that of the plateau, a seed's least"
        add(what, (0.0, np.inf), per_seed(large.late - large.early, "min"))
    kept = select(dataset, data="sparse", coupled=0.0, decoupled=0.0)
    if kept.diverged.size:
        what = "no weight decay: cosine with the l2 maximum margin at the end of the same time"
        add(what, (0.995, 1.0), per_seed(kept.end_l2, "min"))
    other = select(decaying, data="separated")
    if other.diverged.size:
        what = "misgrokking, large l2 margin: test accuracy at the end minus that of the plateau, a seed's largest"
        add(what, (-np.inf, 0.0), per_seed(other.late - other.early))
    return found


def _against_scale(runs: xr.Dataset) -> list[Finding]:
    """How the time and the width of the transition depend on α, and how far τ* is from 1."""
    times, widths, scaled = (table(runs, name, "init_scale") for name in ("transition", "width", "scaled"))
    scales = times.init_scale.values
    if scales.size < 2:
        return []
    logs, falls = np.log(scales), np.diff(scaled.values).max(axis=1)
    rest = float(np.median(times.values - logs[None, :]))
    ahead = f"λt* = ln α + {rest:.2g} (median): within 10 % of 1 from α = 10^{rest / 0.1 / np.log(10):.0f} on"
    named = f"α from {scales[0]:g} to {scales[-1]:g}, λ = {float(np.unique(runs.weight_decay)[0]):g}"
    # What the start has left is of order 1/α²; the time step grows with ln α and takes up to h off the slopes.
    return [
        Finding.of(what, band, every_seed(values), outlook)
        for what, band, values, outlook in (
            (f"{named}: slope of λt* on ln α", (0.98, 1.02), slope(logs, times), ""),
            (f"{named}: slope on ln α of the transition's width in λt", (-0.05, 0.05), slope(logs, widths), ""),
            (f"{named}: largest change of τ* from one α to the next", (-np.inf, 0.0), falls, ""),
            (f"τ* at α = {scales[-1]:g}", (0.9, 1.1), scaled.values[:, -1], ahead * bool((falls < 0).all())),
        )
    ]


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Lyu's figure 1, (a) grokking and (b) misgrokking; (c) the collapse in λ; (d) ln α."""
    title = "Grokking: first the l2, then the l1 maximum margin"
    figure, ((grok, misgrok), (collapse, law)) = plots.figure(2, 2, title)
    decaying = select(dataset, coupled=1.0)
    for axes, data, name in ((grok, "sparse", "a  grokking"), (misgrok, "separated", "b  misgrokking")):
        runs = select(decaying, data=data)
        for some in _curves(runs, float(runs.weight_decay.min())) if runs.diverged.size else ():
            late = some.sel(tau=some["tau"] > 1e-9)
            plots.seeds(axes, late.train_accuracy, "training", color="C0")
            plots.seeds(axes, late.test_accuracy, "test", color="C1")
            plots.theory(axes, late["tau"], late.flow_accuracy.median("seed"), "flow, test (median)")
            for accuracy, said, style in ((late.l2_accuracy, "l2 margin", ":"), (late.l1_accuracy, "l1 margin", "-.")):
                level = float(accuracy.median())
                axes.axhline(level, color="black", linestyle=style, linewidth=1, label=f"{said}, test (median)")
            at = f"α = {float(some.init_scale):g}, λ = {float(some.weight_decay):g}"
            axes.set(title=f"{name}: {at}", xscale="log", ylabel="accuracy", ylim=(0.35, 1.03))
    sparse = select(decaying, data="sparse")
    decays = np.unique(sparse.weight_decay.values)[::-1].tolist() if sparse.diverged.size else []
    for number, decay in enumerate(decays):
        for some in _curves(sparse, decay):
            plots.seeds(collapse, some.to_l2, f"λ = {decay:g}", color=f"C{number}")
            plots.seeds(collapse, some.to_l1, None, color=f"C{number}", linestyle="-.")
            for label, each in (("flow (median)", some.flow_to_l2), (None, some.flow_to_l1)):
                plots.theory(collapse, some["tau"], each.median("seed"), None if number else label)
            collapse.set_title(f"c  the collapse in λ: α = {float(some.init_scale):g}")
    collapse.set(ylim=(-0.05, 1.05), ylabel="cosine with the l2 (solid), l1 (dash-dotted) margin", xlim=(0, None))
    for number, data in enumerate(("sparse", "separated")):
        runs = select(decaying, data=data)
        if runs.diverged.size:
            plots.points(law, runs.init_scale, runs.transition, f"{data} data", color=f"C{number}")
            ends = np.array([float(runs.init_scale.min()), float(runs.init_scale.max())])
            rest = float((runs.flow_transition - np.log(runs.init_scale)).median())
            style = ("--", ":")[number]
            plots.theory(law, ends, np.log(ends) + rest, f"ln α + {rest:.2f} (flow, median)", linestyle=style)
            limit = None if number else "ln α, of which λt* is 1 + o(1) times"
            plots.theory(law, ends, np.log(ends), limit, linestyle="-")
    law.set(title="d  the time of the transition", xscale="log", xlabel="α, the scale of the start", ylabel="λt*")
    for axes in (grok, misgrok, collapse, law):
        if axes is not law:
            axes.axvline(1.0, color="black", linewidth=1, label="τ = 1")
            axes.set_xlabel("τ = λt / ln α")
        plots.legend(axes, **({"loc": "lower left", "ncols": 2} if axes in (grok, misgrok) else {}))
    return figure


def _curves(runs: xr.Dataset, decay: float) -> list[xr.Dataset]:
    """The runs of that decay over τ, at the α (above 1) that most decays share, or none."""
    scales, shared = np.unique(runs.init_scale.where(runs.init_scale > 1, drop=True), return_counts=True)
    some = select(runs, weight_decay=decay, init_scale=float(scales[np.argmax(shared)]) if scales.size else 0.0)
    if not some.diverged.size:
        return []
    some = first_arm(some)
    return [some.assign_coords(tau=some.tau.median("seed")).swap_dims(step="tau").isel(tau=slice(1, None))]


AXES = ("data", "samples", "init_scale", "weight_decay", "coupled")
SPARSE, SEPARATED = ("sparse", 60), ("separated", 16)
ARMS = [
    *((*SPARSE, scale, decay, 1.0) for scale in (16.0, 64.0, 1024.0) for decay in (1e-2, 3e-3, 1e-3)),
    *((*SPARSE, scale, 1e-3, 1.0) for scale in (4.0, 256.0, 4096.0)),
    (*SPARSE, 64.0, 1e-4, 1.0),
    (*SPARSE, 64.0, 1e-3, 0.0),
    *((*SEPARATED, scale, 1e-3, 1.0) for scale in (16.0, 64.0, 1024.0)),
]
SMOKE = [arm for arm in ARMS if arm[:2] == SPARSE and arm[2] in (16.0, 64.0) and arm[3] in (1e-2, 1e-3)]
PAPER = [(data, {60: 256, 16: 32}[samples], *others) for data, samples, *others in ARMS]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: ARMS},
    smoke={"seeds": 2, "steps": 1200, "features": 200, AXES: SMOKE},
    paper={"seeds": 16, "features": 100_000, "separation": 25.0, AXES: PAPER},
    control={"coupled": 0.0, "decoupled": 1.0, "weight_decay": (1e-3, 2e-3)},
)
