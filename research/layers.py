"""The layers of a Flax model as it runs: what enters each, what it puts out, and which activation comes after it."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax.ad_checkpoint import checkpoint_name

from research.oracles.activations import Activation, named
from research.pointwise import CUT, Base, Program, Signal, activation_of, followed

MARK = "research.layers"
LINEAR = {"Conv", "ConvLocal", "ConvTranspose", "Dense", "DenseGeneral", "Einsum"}
Change = Callable[[int, linen.Module, Any], Any]


class Layer(NamedTuple):
    """A submodule with a kernel, and the activation that its output goes into.

    `power` is the mean square of its inputs and `coverage` the share of it that the connections of a unit receive, less
    than 1 where a convolution has padding; NaN for modules other than Flax's own in `LINEAR`, and where `transformed`:
    the weights at work are not the parameters (nn.WeightNorm, say). `units` counts the features of the output.
    `entering` goes into the activation: the output itself where `direct`, else what normalisation, pooling or a skip
    connection have made of it; without an activation, None, it is the output. `source` is the layer whose activations,
    all of them and nothing else, are the inputs, and `sole` says that its own go nowhere but into one operation.
    Arrays are NumPy's, in float64; `entering` has a row a sample or position, and a column a unit.
    """

    name: str
    kernel: np.ndarray
    bias: np.ndarray | None
    fan_in: int
    power: float
    coverage: float
    units: int
    entering: np.ndarray
    function: str
    activation: Activation | None
    direct: bool
    source: int | None
    sole: bool
    transformed: bool


class Model(NamedTuple):
    """A Flax model with its variables and inputs, and what else goes into `apply`."""

    module: linen.Module
    variables: Mapping[str, Any]
    inputs: jax.Array
    options: Mapping[str, Any]

    def output(self, variables: Mapping[str, Any], inputs: jax.Array, change: Change) -> Any:
        """Return the model's output, that of each of its layers being replaced by `change(number, module, output)`."""
        seen = 0

        def around(following: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            nonlocal seen
            if context.method_name != "__call__":
                return following(*args, **kwargs)
            if isinstance(context.module, linen.Dropout) and args:  # its factor is no part of the activation before it
                marked = _marked("cut", args[0])
                output = following(marked, *args[1:], **kwargs)
                return args[0] if output is marked else output
            if not context.module.has_variable("params", "kernel"):
                return following(*args, **kwargs)
            marked = [_marked(f"{seen} in", each) if place == 0 else each for place, each in enumerate(args)]
            output = following(*marked, **kwargs)
            if not _floating(output):  # a module that only holds the kernel, say
                return output
            seen += 1
            return change(seen - 1, context.module, output)

        # Statistics of a batch that the model keeps may change, and are let go.
        options = {"mutable": [name for name in variables if name != "params"], **self.options}
        with linen.intercept_methods(around):
            output = self.module.apply(variables, inputs, **options)
        return output if options["mutable"] is False else output[0]

    def layers(self, activations: Mapping[str, Any]) -> list[Layer]:
        """Return the layers in the order in which they are called; `activations` replaces what is found, by name.

        Raises ValueError where the model does not run or has no layer, where one runs in a loop or under nn.vmap, and
        for a name in `activations` that no layer has.
        """
        modules: list[tuple[tuple[str, ...], linen.Module, dict, tuple[int, ...]]] = []

        def mark(number: int, module: linen.Module, output: Any) -> Any:
            own = {name: jax.tree.leaves(leaf)[0].shape for name, leaf in module.variables["params"].items()}
            modules.append((module.path, module.clone(parent=None), own, output.shape))
            return _marked(f"{number} out", output)

        flat, structure = jax.tree.flatten((self.variables, self.inputs))

        def forward(*flat: Any) -> Any:
            variables, inputs = jax.tree.unflatten(structure, flat)
            return self.output(variables, inputs, mark)

        try:
            program = jax.make_jaxpr(forward)(*flat)
        except (flax.errors.FlaxError, TypeError, ValueError) as error:
            raise ValueError(f"model does not run on these params, inputs and options: {error}") from error
        names = _named(["/".join(path) or type(module).__name__ for path, module, *_ in modules])
        if not names:
            raise ValueError("model has no layer: no submodule has a parameter named 'kernel'")
        if strangers := sorted(set(activations) - set(names)):
            raise ValueError(f"activations has {', '.join(strangers)}; the layers are {', '.join(names)}")
        given = {name: _given(name, activation) for name, activation in activations.items()}
        found = followed(program, flat, _origin)
        if hidden := [name for number, name in enumerate(names) if f"{MARK} {number} out" not in found.marks]:
            raise ValueError(f"model runs {hidden[0]} in a loop (nn.scan, nn.RNN …); it has to be unrolled")
        made: list[Layer] = []
        after: list[Signal] = []
        for number, (name, (path, module, own, shape)) in enumerate(zip(names, modules, strict=True)):
            value, marked = found.marks[f"{MARK} {number} out"]
            if value.shape != shape:
                raise ValueError(f"model maps {name} over an axis (nn.vmap); the report takes one member at a time")
            output = marked.base
            features = value.shape[value.ndim - _axes(module) :]
            signal, function, activation = _following(output, found, features)
            base = signal.base
            if name in given:
                (function, activation), base, signal = given[name], output, Signal(Base(value))
            inputs, entrance = found.marks.get(f"{MARK} {number} in", (None, None))
            raw = _entry(self.variables["params"], path)
            leaves = {leaf: jax.tree.leaves(value) for leaf, value in raw.items()}
            fan_in = _fan_in(module, own["kernel"])
            transformed = _linear(module, own) and inputs is not None and not _makes(module, raw, inputs, value)
            coverage = np.nan if transformed else _received(module, own, inputs, fan_in)
            power = float(np.mean(_double(inputs) ** 2)) if inputs is not None else np.nan
            layer = Layer(
                name=name,
                kernel=_double(leaves["kernel"][0]),
                bias=_double(leaves["bias"][0]) if leaves.get("bias") else None,
                fan_in=fan_in,
                power=power,
                coverage=coverage / power if power else 1.0,
                units=math.prod(features),
                entering=_double(base.value).reshape(-1, math.prod(features)),
                function=function,
                activation=activation,
                direct=base is output,
                source=next((place for place, each in enumerate(after) if _same(entrance, each)), None),
                sole=len(output.uses) == 1,
                transformed=transformed,
            )
            made.append(layer)
            after.append(signal)
        return made

    def gradients(self, loss: Callable[[Any], jax.Array]) -> tuple[list[np.ndarray], Any, jax.Array]:
        """Return the gradient of a loss by the output of each layer, in the order of calls, the output, and the loss.

        The loss is a function of the output of the model.
        """
        shapes: list[Any] = []

        def note(number: int, module: linen.Module, output: Any) -> Any:
            shapes.append(output)
            return output

        jax.eval_shape(lambda inputs: self.output(self.variables, inputs, note), self.inputs)
        shifts = [jnp.zeros(each.shape, each.dtype) for each in shapes]

        def shifted(shifts: list[jax.Array]) -> tuple[jax.Array, Any]:
            output = self.output(self.variables, self.inputs, lambda number, _, output: output + shifts[number])
            return loss(output), output

        (value, output), slopes = jax.value_and_grad(shifted, has_aux=True)(shifts)
        return [_double(each) for each in slopes], output, value


def _marked(name: str, value: Any) -> Any:
    """The value under a name that the traced program keeps."""
    return checkpoint_name(value, f"{MARK} {name}") if _floating(value) else value


def _floating(value: Any) -> bool:
    return isinstance(value, jax.Array) and value.ndim > 0 and bool(jnp.issubdtype(value.dtype, jnp.floating))


def _origin(mark: str) -> int | None:
    """The number of the layer whose output a mark names."""
    if mark == f"{MARK} cut":
        return CUT
    return int(mark.split()[-2]) if mark.startswith(MARK) and mark.endswith("out") else None


def _following(output: Base, found: Program, features: tuple[int, ...]) -> tuple[Signal, str, Activation | None]:
    """What a layer's output goes into, directly or after normalisation and the like; itself if into no activation."""
    # Of as many dimensions: a statistic of layer normalisation may happen to have as long a last one.
    rank = output.value.ndim
    later = [base for base in found.bases if base.origin == output.origin and not base.direct]
    later = [
        base
        for base in later
        if np.ndim(base.value) == rank > 1 and base.value.shape[rank - len(features) :] == features
    ]
    for base in (output, *sorted(later, key=lambda base: -base.value.size)):
        for signal in base.uses:
            known = activation_of(signal.function, signal.name) if signal.function else None
            if known:
                return signal, *known
    return Signal(output), "none", None


def _received(module: linen.Module, own: Mapping[str, tuple[int, ...]], inputs: Any, fan_in: int) -> float:
    """The mean square of the inputs as the connections of a unit see it: what weights of 1/fan_in make of squares."""
    if inputs is None or not _linear(module, own):
        return float("nan")
    if type(module).__name__ in {"Dense", "DenseGeneral"}:  # no padding
        return float(np.mean(_double(inputs) ** 2))
    even = {leaf: jnp.full(shape, 1 / fan_in if leaf == "kernel" else 0.0) for leaf, shape in own.items()}
    return float(np.mean(_double(module.apply({"params": even}, inputs**2))))


def _linear(module: linen.Module, own: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether it is one of Flax's linear modules; one of the same name may do anything."""
    kind = type(module)
    return kind.__name__ in LINEAR and kind.__module__.startswith("flax.linen") and set(own) <= {"kernel", "bias"}


def _makes(module: linen.Module, raw: Mapping[str, Any], inputs: Any, output: jax.Array) -> bool:
    """Whether the parameters as they are make the output; true where either is not finite."""
    found, expected = _double(module.apply({"params": raw}, inputs)), _double(output)
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return True
    error = float(jnp.finfo(output.dtype).eps) ** 0.5  # far above rounding, far below what a transformation does
    return bool(np.abs(found - expected).max() <= error * np.abs(expected).max())


def _same(inputs: Any, activations: Signal) -> bool:
    return isinstance(inputs, Signal) and (inputs.base, inputs.function) == (activations.base, activations.function)


def _given(name: str, activation: Any) -> tuple[str, Activation]:
    """What a user says of a layer: a name, an `Activation`, or a function of JAX."""
    if isinstance(activation, (str, Activation)):
        return activation if isinstance(activation, str) else "given", named(activation)
    known = activation_of(activation) if callable(activation) else None
    if known is None:
        raise ValueError(
            f"activations[{name!r}] is {activation!r}; it takes a name, an Activation, or a function of JAX that is "
            "pointwise, not linear, and grows at most linearly"
        )
    return known


def _fan_in(module: linen.Module, shape: tuple[int, ...]) -> int:
    return math.prod(shape[: -_axes(module)])


def _axes(module: linen.Module) -> int:
    """The number of dimensions that the features of a module take, more than one for DenseGeneral((heads, size))."""
    features = getattr(module, "features", None)
    return len(features) if isinstance(features, (tuple, list)) and len(features) else 1


def _entry(tree: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    for name in path:
        tree = tree[name]
    return tree


def _named(names: list[str]) -> list[str]:
    """The names, numbered where a layer is called more than once."""
    times = [names[:place].count(name) + 1 for place, name in enumerate(names)]
    return [name if time == 1 else f"{name} ({time})" for name, time in zip(names, times, strict=True)]


def _double(value: Any) -> np.ndarray:
    return np.asarray(value).astype(np.float64)
