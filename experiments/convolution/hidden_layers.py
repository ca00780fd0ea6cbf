"""A hidden layer fits XOR and a linear model cannot; how often descent finds the fit is a coupon collector's law.

Claim: No linear model gets more than three of the four corners of XOR right, and no more of parity than three quarters:
each square face of the cube is an XOR and has an error, and a corner lies on equally many faces as every other. Depth
without non-linearity does not help. One hidden layer of ReLU fits: two units with biases are enough for XOR, four are
needed without. Without biases gradient flow succeeds if and only if all four kinds of units (sign of the output weight;
which of its two corners the unit is active on) are there at the start: 4!/4⁴ = 9 % of starts at width 4, 62 % at 8,
96 % at 16. So more width than a fit needs is what makes descent find it.

Source: Minsky & Papert 1969, Perceptrons (parity); Rumelhart, Hinton & Williams 1986 (XOR with hidden units, and runs
that get stuck). The law of the four kinds is derived in `research.oracles.parity` and known from no paper; it needs
that output weights keep their sign, which is the conservation law of Du, Hu & Lee 2018, arXiv 1806.00900.

Departure: Descent, full batch, on the logistic loss; input weights N(0, 1/4), |a_j| = 1.5 ‖w_j‖ with random signs, so
that a² - ‖w‖² > 0 has room for the steps' error. Narrow networks are the first units of the widest. Biases start at
zero. "Fitted" means every corner on the right side in the end. Parity of three signs is measured without a law. The
linear network has the same weights, and the identity for ReLU. Without biases f(x) - f(-x) is linear, so that odd
parities cannot be fitted at any width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Descent, Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select, sound, table
from research.oracles.parity import all_kinds_share, best_linear_share, fits_xor
from research.statistics import Estimate, every_seed, over_seeds, share

ROUNDING = 1e-9  # a linear network comes to say 0 to every corner, up to the sign of what is left in float64
ERRORS = 5.0  # standard errors: three for chance, and two for the interval, which has to lie inside


class Observables(NamedTuple):
    accuracy: Float[Array, ""]
    loss: Float[Array, ""]


class Given(NamedTuple):
    X: Float[Array, "corner bit"]
    y: Float[Array, "corner"]
    input_weights: Float[Array, "bit unit"]
    output_weights: Float[Array, "unit"]


class Parameters(NamedTuple):
    input_weights: Float[Array, "bit unit"]
    biases: Float[Array, "unit"]
    output_weights: Float[Array, "unit"]
    output_bias: Float[Array, ""]


def simulate(
    key: Array,
    width: float,
    learning_rate: float,
    biased: float = 0.0,
    linear: float = 0.0,
    readout: float = 1.5,
    *,
    bits: int = 2,
    widest: int = 32,
    steps: int = 4000,
) -> Run:
    """Descent on the mean logistic loss over all corners, until it is below 0.02; the class is minus parity.

    `biased` and `linear` (the identity for ReLU) are 0 or 1; |a_j| starts at `readout` times ‖w_j‖.
    """
    X = jnp.asarray(np.stack(np.meshgrid(*[[-1.0, 1.0]] * bits), axis=-1).reshape(-1, bits))
    y = -jnp.prod(X, axis=1)
    drawn = jax.random.normal(key, (bits + 1, widest)) * (jnp.arange(widest) < width)[None, :]
    W = drawn[:-1] / 2
    a = readout * jnp.sign(drawn[-1]) * jnp.linalg.norm(W, axis=0)

    def outputs(params: Parameters) -> Array:
        sums = X @ params.input_weights + biased * params.biases[None, :]
        hidden = jnp.where(linear > 0, sums, jax.nn.relu(sums))
        return hidden @ params.output_weights + biased * params.output_bias

    loss = lambda params: jnp.mean(jax.nn.softplus(-y * outputs(params)))
    optimizer = optax.sgd(learning_rate)

    def observe(state: Descent) -> Observables:
        return Observables(jnp.mean(y * outputs(state.params) > ROUNDING, dtype=X.dtype), loss(state.params))

    begun = start(Parameters(W, jnp.zeros(widest), a, jnp.zeros(())), optimizer)
    stop = lambda state: loss(state.params) < 0.02
    return Run(begun, descent(loss, optimizer), observe, log_spaced(steps, 30), Given(X, y, W, a), stop=stop)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """Which runs fit in the end, which of them should, their share by width, and the best share of a linear model."""
    dataset = sound(dataset)
    end = dataset.accuracy.isel(step=-1)
    xor = select(dataset, bits=2)
    seen = {"input_weights": xor.input_weights.isel(bit=slice(2)), "output_weights": xor.output_weights}
    predicted = lift(fits_xor, seen["input_weights"], seen["output_weights"]) if xor.diverged.size else end * np.nan
    return dataset.assign(
        fitted=(end == 1).where(end.notnull()).astype(float),
        predicted=predicted,
        law=lift(all_kinds_share, dataset.width),
        best=lift(best_linear_share, dataset.X, dataset.y),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The four kinds, run by run and as a share; too few units; linear networks; biases; width."""
    found: list[Finding] = []

    def add(what: str, band: tuple[float, float], estimate: Estimate) -> None:
        found.append(Finding.of(what, band, estimate))

    lost = f" ({int(dataset.diverged.sum())} diverged)"
    kept = select(dataset, linear=0.0)
    bare = select(kept, bits=2, biased=0.0)
    if bare.diverged.size:
        agree = (bare.fitted == bare.predicted).where(bare.fitted.notnull() & bare.predicted.notnull())
        what = (
            "XOR, no biases: share of a seed's runs that fit just when all four kinds of units are there at the start"
        )
        add(what + lost, (1.0, 1.0), every_seed(per_seed(agree.astype(float), "mean")))
        widths = np.unique(bare.width.values)
        middle = float(widths[np.argmin([abs(all_kinds_share(float(each)) - 0.5) for each in widths])])
        law, runs = all_kinds_share(middle), select(bare, width=middle)
        off = ERRORS * (law * (1 - law) / bare.sizes["seed"]) ** 0.5
        rates = per_seed(runs.fitted, "mean")
        add(f"… share of seeds that fit at width {middle:g} (law {law:.3f})", (law - off, law + off), over_seeds(rates))
        narrow = select(bare, width=lambda width: width < 4)
        if narrow.diverged.size:
            what = f"… of runs below width 4, up to {3 * int(narrow.width.max())} parameters, none of which can"
            add(what, (0.0, 0.0), every_seed(per_seed(narrow.fitted)))
    for bits in np.unique(dataset.bits.values):
        runs = select(dataset, linear=1.0, bits=bits)
        if runs.diverged.size:
            best, widest = float(runs.best.max(skipna=False)), int(runs.width.max())
            what = f"parity of {bits}: best accuracy of a seed's linear networks, up to {(bits + 2) * widest + 1}"
            add(
                f"{what} parameters (linear programs: {best:g})",
                (0.0, best),
                every_seed(runs.accuracy.max([each for each in runs.accuracy.dims if each != "seed"])),
            )
        odd = select(kept, bits=bits, biased=0.0)
        if bits % 2 and odd.diverged.size:
            what = f"parity of {bits}, no biases: share fitted, at any width (f(x) - f(-x) is linear: none can)"
            add(what, (0.0, 0.0), every_seed(per_seed(odd.fitted)))
        runs = select(kept, bits=bits, biased=1.0)
        if not runs.diverged.size:
            continue
        least = select(runs, width=bits)
        if least.diverged.size:
            what = f"parity of {bits}, biases, width {bits}, enough for a fit ({bits * (bits + 2) + 1} parameters)"
            add(f"{what}: share of runs stuck", (0.0, np.inf), over_seeds(1 - per_seed(least.fitted, "mean")))
        rows = table(runs, "fitted", "width")
        if rows.sizes["width"] > 1:
            what = (
                f"parity of {bits}, biases: share fitted at width {int(rows.width[-1])} less that at {rows.width[0]:g}"
            )
            add(what, (0.0, np.inf), over_seeds((rows[:, -1] - rows[:, 0]).values))
            what = f"… share fitted at width {int(rows.width[-1])}"
            add(what, (0.75, 1.0), over_seeds(rows[:, -1].values))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """The share of runs that fit by width, with the law, for XOR and parity of three; one loss for each outcome."""
    bits = np.unique(dataset.bits.values)
    figure, axes = plots.figure(1, 1 + len(bits), "A hidden layer fits XOR, the wider the surer", (4.6, 3.8))
    kinds = (("ReLU, no biases", 0.0, 0.0), ("ReLU, biases", 1.0, 0.0), ("linear, biases", 1.0, 1.0))
    for panel, count in zip(axes[0, 1:], bits, strict=True):
        for number, (label, biased, linear) in enumerate(kinds):
            runs = select(dataset, bits=count, biased=biased, linear=linear)
            if runs.diverged.size:
                rows = table(runs, "fitted", "width")
                low = [share(each).interval for each in rows.values.T > 0.5]
                mean = rows.mean("seed")
                reach = np.abs(np.array(low).T - mean.values).clip(0)
                panel.errorbar(rows.width, mean, reach, marker="o", ms=4, capsize=2, color=f"C{number}", label=label)
        widths = np.arange(int(dataset.width.min()), int(dataset.width.max()) + 1)
        if count == 2:
            law = [all_kinds_share(float(each)) for each in widths]
            plots.theory(panel, widths, law, "coupon collector: four kinds")
        panel.axvline(count, color="black", linewidth=0.8, linestyle=":", label="enough, with biases")
        panel.set(
            title=f"{'bc'[int(count != bits[0])]}  " + ("XOR" if count == 2 else f"parity of {count}"),
            xlabel="hidden units",
            ylabel="share of runs that fit every corner (95 %)",
            xscale="log",
            ylim=(-0.04, 1.45),
        )
        panel.set_xticks(np.unique(dataset.width.values), [f"{each:g}" for each in np.unique(dataset.width.values)])
        panel.minorticks_off()
        plots.legend(panel, loc="upper left", ncols=2)
    first = axes[0, 0]
    for number, (label, biased, linear) in enumerate(kinds):
        runs = select(dataset, bits=bits[0], biased=biased, linear=linear, width=float(dataset.width.max()))
        if runs.diverged.size:
            rate = float(runs.learning_rate.values.ravel()[0])
            loss = select(runs, learning_rate=rate).loss
            loss = loss.mean([each for each in loss.dims if each not in ("seed", "step")]).transpose("seed", "step")
            plots.seeds(first, loss.isel(step=slice(1, None), seed=slice(16)), label, color=f"C{number}")
    plots.theory(first, [1, float(dataset.step.max())], [np.log(2)] * 2, "ln 2: no linear model below")
    first.set(title=f"a  width {dataset.width.max().item():g}", xlabel="step", ylabel="logistic loss", xscale="log")
    first.set_yscale("log")
    plots.legend(first)
    return figure


NAMES = ("biased", "linear")
KINDS = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={
        "seeds": 64,
        NAMES: KINDS,
        "width": [2, 3, 4, 6, 8, 12, 16, 32],
        "learning_rate": [0.05, 0.1, 0.2],
        "bits": [2, 3],
    },
    smoke={"seeds": 16, "width": [2, 3, 8, 32], "learning_rate": 0.2, "bits": 2, "steps": 1000},
    paper={"seeds": 1000, "bits": [2, 3, 4]},
    control={"readout": 0.0},
)
