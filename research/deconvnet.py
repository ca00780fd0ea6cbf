"""What excites a unit of a Flax CNN, in pixels: Zeiler & Fergus' projection, guided backpropagation, the gradient.

All three go back from the unit through the same transposed filters and, at max-pooling, to the places where the maxima
were (the switches). They differ at a ReLU: the gradient passes where the ReLU's own input was positive, the deconvnet
(Zeiler & Fergus 2013, arXiv 1311.2901) rectifies what comes back instead, and guided backpropagation (Springenberg et
al. 2014, arXiv 1412.6806) does both. Biases take no part on the way back, and nothing is rectified behind the last
transposed filter: pixels may be negative.

The model is taken as it is. Its traced program is run again operation by operation, with another rule for the way back
at each ReLU, however it is written: `nn.relu(x)`, `jnp.maximum(x, 0)`, `jnp.where(x > 0, x, 0)` or `(x < 0, 0, x)`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.extend.core import Literal as Number

from research.pointwise import CALLS, KEEPS, MOVES

Method = Literal["deconvnet", "guided", "gradient"]
RULES = {"gradient": (1.0, 0.0), "deconvnet": (0.0, 1.0), "guided": (1.0, 1.0)}  # masked forwards, rectified backwards
KIND = "intermediates"
SUMS = {"add", "add_any", "concatenate", "cumsum", "neg", "reduce_sum", "reduce_window_sum", "rev", "slice", "sub"}
PRODUCTS = {"conv_general_dilated", "dot_general", "mul"}
OPERAND = {"div", "dynamic_slice", "gather", "pad"}  # linear in the first
PARTS = KEEPS | MOVES | {"dynamic_slice", "gather", "pad", "rev", "slice"}  # entries of the first, as they are


def projection(
    model: linen.Module,
    variables: Mapping[str, Any],
    image: Any,
    unit: tuple[str, Any],
    method: Method = "deconvnet",
    *,
    seed: float | None = None,
    **options: Any,
) -> np.ndarray:
    """Return what one picture shows to one unit, as an array of the picture's shape (rows, columns, channels).

    `unit` is (layer, channel), the channel's strongest place in this picture, or (layer, (row, column, channel)); for a
    dense layer (layer, number). A layer is named by its path in the model ("Conv_0", "block/Conv_1"; a second call of
    the same one "Conv_0 (2)"), and its output is what the module returns, before a ReLU behind it. `seed` is what the
    unit sends back, by default its output, rectified, and 1 for the gradient. Deconvnet and guided backpropagation are
    positively homogeneous in it. `options` go to `model.apply` (train=False).

    Max-pooling may be `nn.max_pool`, `jnp.max` over axes or a maximum of slices of one map; of equal ones it takes the
    first (`jnp.maximum`'s left). Raises ValueError that names the argument for a bad one, and where "deconvnet" and
    "guided" are not defined: for a model that has something else between picture and unit than ReLUs, max-pooling, and
    what is linear (a tanh, statistics of the batch, a loop). "gradient" takes any model.
    """
    if not isinstance(model, linen.Module):
        raise ValueError(f"model is {model!r:.80}; it takes a flax.linen.Module")
    if not isinstance(variables, Mapping) or not jax.tree.leaves(variables):
        raise ValueError(f"variables is {variables!r:.80}; it takes all variables of the model, or its parameters")
    try:
        pixels = np.asarray(image)
        finite = bool(np.isfinite(pixels.astype(float)).all()) and pixels.ndim > 0 and pixels.size > 0
    except (TypeError, ValueError) as error:
        raise ValueError(f"image is {image!r:.80}; it takes an array") from error
    if not finite:
        raise ValueError(f"image has shape {pixels.shape}; it takes one picture, and finite numbers")
    if not (isinstance(unit, tuple) and len(unit) == 2 and isinstance(unit[0], str)):
        raise ValueError(f"unit is {unit!r}; it takes (layer, channel) or (layer, (row, column, channel))")
    if seed is not None and not (isinstance(seed, (int, float)) and np.isfinite(seed)):
        raise ValueError(f"seed is {seed!r}; it takes a finite number")
    batch = jnp.asarray(pixels if np.issubdtype(pixels.dtype, np.inexact) else pixels.astype(float))[None]
    output = np.asarray(layer_outputs(model, variables, batch, [unit[0]], **options)[unit[0]][0])
    place = _place(unit[1], output)
    if seed is None:
        seed = 1.0 if method == "gradient" else max(float(output[place]), 0.0)
    seeds = {unit[0]: jnp.zeros((1, *output.shape), output.dtype).at[(0, *place)].set(seed)}
    return np.asarray(backprojection(model, variables, batch, seeds, method, **options)[0])


def _place(index: Any, output: np.ndarray) -> tuple[int, ...]:
    """The unit's place in the output of its layer."""
    whole = index if isinstance(index, tuple) else (index,)
    numbers = all(isinstance(each, (int, np.integer)) and not isinstance(each, bool) for each in whole)
    sizes = output.shape if isinstance(index, tuple) else output.shape[-1:]
    if not numbers or len(whole) != len(sizes) or not all(0 <= i < n for i, n in zip(whole, sizes, strict=True)):
        raise ValueError(f"unit has the index {index!r}; the layer has outputs of shape {output.shape}")
    if not isinstance(index, tuple):
        whole = (*np.unravel_index(np.argmax(output[..., index]), output.shape[:-1]), index)
    return tuple(int(each) for each in whole)


def layer_outputs(
    model: linen.Module, variables: Mapping[str, Any], images: Array, layers: Sequence[str], **options: Any
) -> dict[str, Array]:
    """Return what these layers put out for a batch of pictures, by name. For names and errors see `projection`."""
    return _run(model, variables, layers, (), options)(images)


def backprojection(
    model: linen.Module,
    variables: Mapping[str, Any],
    images: Array,
    seeds: Mapping[str, Array],
    method: Method | Sequence[Method | tuple[Any, Any]] = "deconvnet",
    **options: Any,
) -> Array:
    """Return what seeds at the outputs of layers become on the way back to a batch of pictures; may be traced.

    `seeds` has for each layer an array of the shape of its output: what each unit sends back. Seeds of several layers
    at the same picture meet on the way and are rectified together. A sequence of methods gives the array a leading
    axis of them, in one program; there a pair of numbers 0 or 1, which may be traced, is a rule of its own: whether
    ReLUs pass only where they were open, and whether only what is positive. For names and errors see `projection`.
    """
    several = [method] if isinstance(method, str) else list(method)
    if not several or not all(isinstance(each, tuple) or each in RULES for each in several):
        raise ValueError(f"method is {method!r}; it takes {', '.join(map(repr, RULES))}")

    def projected(*rule: Array) -> Array:
        outputs, back = jax.vjp(_run(model, variables, [*seeds], rule, options), images)
        for name, output in outputs.items():
            if seeds[name].shape != output.shape:
                raise ValueError(
                    f"seeds[{name!r}] has shape {seeds[name].shape}; the layer's output has {output.shape}"
                )
        return back(dict(seeds))[0]

    if several == ["gradient"]:
        return projected() if isinstance(method, str) else projected()[None]
    rules = [each if isinstance(each, tuple) else RULES[each] for each in several]
    flags = [jnp.asarray(column, images.dtype) for column in zip(*rules, strict=True)]
    return projected(flags[0][0], flags[1][0]) if isinstance(method, str) else jax.vmap(projected)(*flags)


def _run(
    model: linen.Module, variables: Mapping[str, Any], layers: Sequence[str], rule: Any, options: Mapping[str, Any]
) -> Callable[[Array], dict[str, Array]]:
    """The function from pictures to the layers' outputs; `rule`, unless empty, is what its ReLUs do on the way back."""
    variables = variables if isinstance(variables.get("params"), Mapping) else {"params": variables}
    kept = options.get("mutable", [name for name in variables if name != "params"])
    kept = [kept] if isinstance(kept, str) else list(kept or [])
    options = {**options, "mutable": [*kept, KIND], "capture_intermediates": lambda _, name: name == "__call__"}

    known: list[str] = []

    def forward(variables: Mapping[str, Any], images: Array) -> list[Array]:
        seen: Any = model.apply(variables, images, **options)
        calls = dict(_calls(seen[1].get(KIND, {})))
        known[:] = calls
        return [calls[name] for name in layers if name in calls]

    def outputs(images: Array) -> dict[str, Array]:
        flat, structure = jax.tree.flatten((variables, images))
        whole = lambda *flat: forward(*jax.tree.unflatten(structure, flat))
        try:
            program: Any = jax.make_jaxpr(whole)(*flat) if rule else whole(*flat)
        except (flax.errors.FlaxError, TypeError, ValueError) as error:
            raise ValueError(f"model does not run on these variables, pictures and options: {error}") from error
        if strangers := [name for name in layers if name not in known]:
            raise ValueError(f"layer is {strangers[0]!r}; the model has {', '.join(known)} (loops are not looked into)")
        if not rule:
            return dict(zip(layers, program, strict=True))
        entries = [*map(_Value, flat[:-1]), _Value(images, moving=True)]
        found = dict(zip(layers, _Interpreter(*rule).jaxpr(program.jaxpr, program.consts, entries), strict=True))
        for name, value in found.items():
            if value.refused:
                takes = "this method takes ReLUs, max-pooling and what is linear ('gradient' takes any)"
                raise ValueError(f"model has {value.refused!r} between the picture and {name}; {takes}")
        return {name: value.value for name, value in found.items()}

    return outputs


def _calls(seen: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Array]]:
    """The arrays that submodules have returned, by path, numbered from the second call on."""
    for name, entry in seen.items():
        if name != "__call__":
            yield from _calls(entry, f"{path}/{name}" if path else name)
            continue
        for number, output in enumerate(entry):
            if path and isinstance(output, jax.Array):
                yield path if number == 0 else f"{path} ({number + 1})", output


@dataclass(eq=False)
class _Value:
    """A value, whether it depends on the picture (`moving`), and what is known of it.

    `zero` says that it is filled with zeros, `positive` and `negative` of whose entries it says that, `whole` the map
    that it is a part of, and `refused` which operation on the way from the picture has no rule.
    """

    value: Any
    moving: bool = False
    zero: bool = False
    positive: "_Value | None" = None
    negative: "_Value | None" = None
    whole: "_Value | None" = None
    refused: str = ""


@jax.custom_vjp
def _relu(x: Array, masked: Array, rectified: Array) -> Array:
    return jnp.maximum(x, 0)


def _relu_forwards(x: Array, masked: Array, rectified: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return jnp.maximum(x, 0), (x > 0, masked, rectified)


def _relu_backwards(kept: tuple[Array, Array, Array], seed: Array) -> tuple[Array, Array, Array]:
    on, masked, rectified = kept
    passed = jnp.where(on | (masked == 0), seed, 0)
    return jnp.where((passed > 0) | (rectified == 0), passed, 0), jnp.zeros_like(masked), jnp.zeros_like(rectified)


_relu.defvjp(_relu_forwards, _relu_backwards)


class _Interpreter:
    """Runs a program operation by operation; `rule` is the flags of `RULES`."""

    def __init__(self, *rule: Array) -> None:
        self.rule = rule

    def jaxpr(self, jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[_Value]) -> list[_Value]:
        env = dict(zip(jaxpr.constvars, map(_Value, consts), strict=True))
        env.update(zip(jaxpr.invars, inputs, strict=True))
        read = lambda atom: _Value(atom.val, zero=not np.any(atom.val)) if isinstance(atom, Number) else env[atom]
        for equation in jaxpr.eqns:
            env.update(zip(equation.outvars, self.equation(equation, [read(a) for a in equation.invars]), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, equation: Any, inputs: list[_Value]) -> list[_Value]:
        name, params = equation.primitive.name, equation.params
        if name in CALLS:
            inner = next(params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params)
            closed = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
            return self.jaxpr(closed.jaxpr, closed.consts, inputs)
        moving, refused = [each.moving for each in inputs], next((each.refused for each in inputs if each.refused), "")
        if any(moving) and not refused:
            ruled = self.ruled(name, params, inputs)
            if ruled is not None:
                return [ruled]
            yes_or_no = name == "convert_element_type" and not jnp.issubdtype(inputs[0].value.dtype, jnp.floating)
            refused = "" if _linear(name, params, moving) and not yes_or_no else name
        if refused:
            return [_Value(None, True, refused=refused) for _ in equation.outvars]
        answer = equation.primitive.bind(*[each.value for each in inputs], **params)
        zero = name in KEEPS | MOVES | {"convert_element_type"} and inputs[0].zero
        answers = answer if equation.primitive.multiple_results else [answer]
        whole = inputs[0].whole or inputs[0] if name in PARTS and inputs[0].moving else None
        return [_Value(each, any(moving), zero, whole=whole) for each in answers]

    def ruled(self, name: str, params: Mapping[str, Any], inputs: list[_Value]) -> _Value | None:
        """The result where it is that of a ReLU or of max-pooling, or the condition of a ReLU; else None."""
        rectified = lambda each: _Value(_relu(each.value, *self.rule), True)
        if name == "max":
            left, right = inputs
            if left.zero or right.zero:
                return rectified(right if left.zero else left)
            whole = left.whole or left
            if whole is (right.whole or right):  # else a maxout, or |x| as max(x, -x)
                return _Value(jnp.where(left.value >= right.value, left.value, right.value), True, whole=whole)
        if name in {"gt", "ge", "lt", "le"}:
            large, small = inputs if name in {"gt", "ge"} else inputs[::-1]
            if small.zero:
                return _Value(large.value > 0, True, positive=large)
            if large.zero:
                return _Value(small.value < 0, True, negative=small)
        if name == "select_n" and len(inputs) == 3:
            condition, otherwise, chosen = inputs
            if otherwise.zero and chosen is condition.positive:
                return rectified(chosen)
            if chosen.zero and otherwise is condition.negative:
                return rectified(otherwise)
        if name == "reduce_max":
            value, axes = inputs[0].value, params["axes"]
            kept = [axis for axis in range(value.ndim) if axis not in axes]
            rows = jnp.transpose(value, (*kept, *axes)).reshape(*(value.shape[axis] for axis in kept), -1)
            switch = jax.nn.one_hot(jnp.argmax(rows, axis=-1), rows.shape[-1], dtype=bool)
            return _Value(jnp.sum(jnp.where(switch, rows, 0), axis=-1), True)
        return None


def _linear(name: str, params: Mapping[str, Any], moving: list[bool]) -> bool:
    """Whether an operation is linear in the operands that depend on the picture; max-pooling counts as that."""
    if name == "convert_element_type":
        return bool(jnp.issubdtype(params["new_dtype"], jnp.floating))
    if name in SUMS | KEEPS | MOVES | {"reduce_window_max"}:
        return True
    if name in PRODUCTS:
        return sum(moving) == 1
    return (name in OPERAND and not any(moving[1:])) or (name == "select_n" and not moving[0])
