"""Deep ReLU networks with vanilla batch normalisation do not train; near the linear regime they do.

Claim: Batch normalisation makes gradients grow exponentially towards the input, and so networks of 50 layers with it do
not train at the learning rates at which 10 layers do. Close to the linear regime, where gradients hardly grow, they do.

Source: Yang, Pennington, Rao, Sohl-Dickstein & Schoenholz 2019, "A Mean Field Theory of Batch Normalization", arXiv
1902.08129, abstract and figure 3 ("networks deeper than about 50 layers are untrainable regardless of batch size"). The
growth a layer, E φ'²/Var φ, is derived again in `research.oracles.batch_norm`.

Departure: Digits of 8 × 8 pixels, width 64, batches of 64, 150 steps of plain SGD. Normalisation by the batch's own
mean and biased variance with ε = 1e-5; gains and shifts are learned, from 1 and from one value for all units, which is
what takes ReLU to the linear regime: at a shift of 3 a unit is off for 0.1 % of the images. The images judged, 300 of
those trained on, are normalised as one batch. A network learns where half of them are right (chance: a tenth); a run
that diverged counts as chance. That batch normalisation itself is the cause is not what this shows: without it, from He
et al.'s weights, gradients do not grow, and yet 50 layers of this width do not learn in so many steps at any of the
rates.

Bands: the paper says "not trainable", which is less than half right; those of the growth are argued in
`batch_norm_explosion`: 2.5/width, four remembered layers' B/width/(B - 3), and 1/B.
"""

from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy
from scipy.stats import kendalltau

from research import data as problems
from research import plots
from research.dynamics import Run, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import arms, averaged, check_at_most, largest, lift, select, sound
from research.oracles.activations import Activation
from research.oracles.batch_norm import gradient_growth
from research.statistics import Estimate, every_seed, over_seeds

CHANCE, HALF, SHOWN = 0.1, 0.5, 300
FIRST = 4  # layers left out of the growth, in which samples become alike


class Observables(NamedTuple):
    accuracy: Float[Array, ""]
    gradient: Float[Array, "layer"]


class Parameters(NamedTuple):
    """Those of all hidden layers in one array each, and the readout."""

    weights: Float[Array, "layer unit other"]
    gains: Float[Array, "layer unit"]
    shifts: Float[Array, "layer unit"]
    readout: Float[Array, "unit label"]

    def __call__(
        self, inputs: Float[Array, "sample unit"], depth: Any, normalised: Any
    ) -> Float[Array, "sample label"]:
        """The logits of a batch after the first `depth` layers, normalised (1) or not (0)."""

        def layer(outputs: Array, given: tuple[Array, Array, Array, Array]) -> tuple[Array, None]:
            number, weights, gain, shift = given
            sums = outputs @ weights
            centred = sums - jnp.mean(sums, axis=0, keepdims=True)
            spread = jnp.sqrt(jnp.mean(centred**2, axis=0, keepdims=True) + 1e-5)
            sums = jnp.where(normalised > 0, centred / spread, sums)
            return jnp.where(number < depth, jax.nn.relu(gain[None] * sums + shift[None]), outputs), None

        outputs, _ = jax.lax.scan(layer, inputs, (jnp.arange(len(self.weights)), *self[:3]))
        return outputs @ self.readout


def gradient_norms() -> optax.GradientTransformation:
    """The first of a chain: its state is the norm of the last gradient, of the weights of each hidden layer."""
    norms = lambda gradient: jnp.sqrt(jnp.sum(gradient.weights**2, axis=(1, 2)))
    return optax.GradientTransformation(norms, lambda gradient, state, params=None: (gradient, norms(gradient)))


def simulate(
    key: Array,
    learning_rate: float,
    depth: float,
    normalised: float,
    shift: float,
    *,
    layers: int = 50,
    width: int = 64,
    batch: int = 64,
    steps: int = 150,
) -> Run:
    """SGD on the cross-entropy of `depth` layers of ReLU from W ~ N(0, 2/width), shifts all alike.

    `layers`, at least as many, are computed: one program can serve all depths at the cost of the largest. `gradient` is
    that of the step before (0: no gradient, the norm of the weights). Images enter repeated where layers are wider.
    """
    pixels, labels = problems.digits()
    inputs = np.resize(problems.standardized(pixels).T, (width, len(labels))).T
    X, y = jnp.asarray(inputs, jnp.float32), jnp.asarray(labels)
    init_key, descent_key = jax.random.split(key)
    # The whole is one draw, which compiles faster than several.
    drawn = jax.random.normal(init_key, (layers * width + 10, width))
    weights = drawn[:-10].reshape(layers, width, width) * (2 / width) ** 0.5
    flat = jnp.ones((layers, width), weights.dtype)
    params = Parameters(weights, flat, shift * flat, drawn[-10:].T / width**0.5)
    loss = lambda params, drawn: cross_entropy(params(X[drawn], depth, normalised), y[drawn]).mean()
    # the remainder favours none of so few images by more than 1e-6, and compiles sooner than randint
    sample = lambda key: jax.random.bits(key, (batch,), jnp.uint32) % len(X)

    def observe(state: Any) -> Observables:
        right = jnp.argmax(state.params(X[:SHOWN], depth, normalised), axis=1) == y[:SHOWN]
        return Observables(jnp.mean(right, dtype=X.dtype), state.optimizer_state[0])

    optimizer = optax.chain(gradient_norms(), optax.sgd(learning_rate))
    step = stochastic_descent(loss, optimizer, sample)
    return Run(start(params, optimizer, descent_key), step, observe, log_spaced(steps, 8))


def growth(shift: float, batch: float) -> float:
    """Return the factor by which squared gradients grow a layer in theory, for ReLU with that shift."""
    function = Activation(lambda u: np.maximum(u + shift, 0), lambda u: (u > -shift) * 1.0, 0.0, bends=(-shift,))
    return gradient_growth(function, int(batch))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """What is learned in the end; the growth a layer of the first gradient, theory's, and its decades over the depth.

    Without normalisation He et al.'s weights keep gradients as they are.
    """
    check_at_most(dataset, "depth", "layers")
    dataset = sound(dataset).assign_coords(layer=np.arange(1, dataset.sizes["layer"] + 1))
    dataset = dataset.assign(gradient=dataset.gradient.where(dataset.layer <= dataset.depth))
    inner = (dataset.layer > FIRST) & (dataset.layer < dataset.depth)
    slope = -np.log(dataset.gradient.sel(step=1)).where(inner).diff("layer").mean("layer")
    expected = lift(growth, dataset["shift"], dataset.batch)
    expected = xr.where(dataset.normalised > 0, expected, 1.0)
    return dataset.assign(
        reached=dataset.accuracy.isel(step=-1).where(~dataset.diverged, CHANCE),
        growth=np.exp(2 * slope),
        expected=expected,
        decades=(dataset.depth - 1) * np.log10(expected) / 2,
    )


def by_rate(runs: xr.Dataset) -> xr.DataArray:
    """The accuracy in the end of one kind of network, by seed and learning rate."""
    return averaged(runs.reached, "seed", "learning_rate")


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The deepest networks at the rates at which the shallowest learn, and at others; shifted; not normalised."""
    found: list[Finding] = []

    def add(statement: str, band: tuple[float, float], estimate: Estimate) -> None:
        found.append(Finding.of(statement, band, estimate))

    if "learning_rate" not in dataset.dims:
        dataset = dataset.expand_dims("learning_rate")
    normalised, plain = (select(dataset, normalised=each) for each in (1.0, 0.0))
    shallow, deep = (int(each(dataset.depth)) for each in (np.min, np.max))
    if normalised.diverged.size:
        least, most = (float(each(normalised["shift"])) for each in (np.min, np.max))
        vanilla = select(normalised, shift=least)
        trained, lost = (by_rate(select(vanilla, depth=each)) for each in (shallow, deep))
        learn = (trained.median("seed") >= HALF).values
        steps = int(dataset.steps.max())
        named = lambda chosen: ", ".join(f"{rate:g}" for rate in dataset.learning_rate.values[chosen])
        said = f"normalised, shift {least:g}: accuracy in {steps} steps,"
        for chosen, where in ((learn, f"at which {shallow} do"), (~learn, f"at which {shallow} do not, either")):
            if chosen.any():
                values = lost.isel(learning_rate=chosen).max("learning_rate")
                what = f"{said} {deep} layers, the best of the rates {where} ({named(chosen)})"
                add(what, (0.0, HALF), every_seed(values))
        add(f"{said} {shallow} layers, the best of the rates", (HALF, 1.0), every_seed(trained.max("learning_rate")))
        shifted = select(normalised, shift=most, depth=deep)
        if most > least and shifted.diverged.size:
            best = by_rate(shifted).max("learning_rate")
            add(f"normalised, shift {most:g}: the same of {deep} layers", (HALF, 1.0), every_seed(best))
        batch, width = int(dataset.batch.max()), int(dataset.width.min())
        allowed = 2.5 / width + FIRST * batch / width / (batch - 3) + 1 / batch
        for shift in np.unique(normalised["shift"].values).tolist():
            runs = largest(select(normalised, shift=shift), "depth")
            theory = float(runs.expected.mean(skipna=False))
            ratio = (runs.growth / runs.expected).mean([each for each in runs.growth.dims if each != "seed"])
            what = f"shift {shift:g}: growth of squared gradients a layer at the start, over {theory:.4f}"
            add(what, (1 - allowed, 1 + allowed), over_seeds(ratio))
        best = normalised.reached.max("learning_rate").transpose("seed", ...)
        decades = normalised.decades.transpose(*[each for each in best.dims if each != "seed"], ...).values.ravel()
        if decades.size > 2:
            order = [float(kendalltau(decades, row.ravel()).statistic) for row in best.values]
            what = f"Kendall's τ of accuracy and theory's decades of gradient, {decades.size} normalised networks"
            add(what, (-1.0, 0.0), over_seeds(order))
    plain = select(plain, depth=deep) if plain.diverged.size else plain
    if plain.diverged.size:
        best = by_rate(plain).max("learning_rate")
        what = (
            f"not normalised: accuracy of {deep} layers, the best of the rates ({int(plain.diverged.sum())} diverged)"
        )
        add(what, (HALF, 1.0), every_seed(best))
        if normalised.diverged.size:
            what = f"the same, less that of those normalised, shift {least:g} (the cause, if more than 0)"
            add(what, (0.0, 1.0), over_seeds(best.values - lost.max("learning_rate").values))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Gradients by layer, what is learned by learning rate, and at the best rate against theory's decades."""
    figure, axes = plots.figure(1, 3, "Deep ReLU networks with vanilla batch normalisation do not train", (4.6, 3.8))
    first, rates, decades = axes[0]
    if "learning_rate" not in dataset.dims:
        dataset = dataset.expand_dims("learning_rate")
    depths = np.unique(dataset.depth.values).astype(int).tolist()
    kinds = [(1.0, shift) for shift in np.unique(select(dataset, normalised=1.0)["shift"].values).tolist()]
    for number, (normalised, shift) in enumerate([*kinds, (0.0, 0.0)]):
        kind = select(dataset, normalised=normalised, shift=shift)
        if not kind.diverged.size:
            continue
        label, color = f"shift {shift:g}" if normalised else "not normalised", f"C{number}"
        cell = largest(kind, "depth")
        sizes = averaged(cell.gradient.sel(step=1, drop=True), "seed", "layer").dropna("layer", how="all")
        plots.seeds(first, sizes, label, color=color)
        theory = float(cell.expected.mean()) ** ((sizes.layer[-1] - sizes.layer) / 2)
        last = float(sizes.isel(layer=-1).median())
        plots.theory(first, sizes.layer, last * theory, None if number else "theory")
        for depth in sorted({depths[0], depths[-1]}):
            cell = select(kind, depth=depth)
            if cell.diverged.size and (not normalised or shift in (kinds[0][1], kinds[-1][1])):
                style = {"linestyle": "-" if depth == depths[-1] else ":", "color": color}
                plots.seeds(rates, by_rate(cell), f"{label}, {depth} layers", marker=".", **style)
        best = kind.assign(best=kind.reached.max("learning_rate"))
        for _, cell in arms(best.isel(learning_rate=0)):
            marker = "ov^sD"[depths.index(int(cell.depth)) % 5]
            told = label if int(cell.depth) == int(kind.depth.max()) else None
            plots.points(decades, cell.decades, cell.best, told, color=color, marker=marker, markersize=5)
    for each in (rates, decades):
        each.axhline(HALF, color="0.6", linewidth=1)
        each.set(ylim=(0, 1.02 if each is decades else 1.4), ylabel=f"accuracy after {int(dataset.steps.max())} steps")
    first.set(title=f"a  {depths[-1]} layers, at the start", xlabel="layer", yscale="log")
    first.set_ylabel("norm of the weights' gradient")
    rates.set(title="b  at every learning rate", xlabel="learning rate", xscale="log")
    said = ", ".join(f"{mark} {depth}" for mark, depth in zip("●▼▲■◆", depths, strict=False))
    decades.set(title=f"c  at the best rate; layers: {said}")
    decades.set_xlabel("decades by which gradients grow, theory")
    plots.legend(first)
    plots.legend(rates, loc="upper center", ncols=2, fontsize=6.5)
    plots.legend(decades, loc="lower center")
    return figure


NAMES = ("layers", "depth", "normalised", "shift")
KINDS = ((1.0, 0.0), (1.0, 1.0), (1.0, 3.0), (0.0, 0.0))
networks = lambda depths, kinds=KINDS: [(depth, depth, *kind) for depth, kind in product(depths, kinds)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={
        "seeds": 8,
        NAMES: [*networks((10, 50)), *networks((20,), KINDS[::3])],
        "learning_rate": [0.001, 0.01, 0.03, 0.1, 0.3, 1.0],
    },
    smoke={"seeds": 2, NAMES: [(50, depth, 1.0, 0.0) for depth in (10, 50)], "learning_rate": 0.05, "steps": 60},
    paper={"seeds": 8, NAMES: networks((10, 20, 30, 40, 50, 80)), "width": 1000, "steps": 10_000},
    control={"shift": 3.0},
    precision="float32",
)
