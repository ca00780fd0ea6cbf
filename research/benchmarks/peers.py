"""The same trainings in PyTorch, from the same initial values: one run after another, and all of them in one vmap.

Imported only where torch is installed. Learning rates and initial values come from the workload; so does the order in
which the convolutional network sees its images, so that drawing it costs torch nothing.
"""

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional

from research import layout
from research.benchmarks import workloads
from research.benchmarks.workloads import Workload


class Diagonal(nn.Module):
    """u² − v²."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.empty(features))
        self.v = nn.Parameter(torch.empty(features))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the predictions."""
        return inputs @ (self.u**2 - self.v**2)


class Factors(nn.Module):
    """A product of three square matrices, of which `inputs`, a mask, lets the seen entries through."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Parameter(torch.empty(size, size)) for _ in range(3))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the seen entries of the product."""
        return inputs * (self.third @ self.second @ self.first)


class Peer(NamedTuple):
    """A workload as torch has it.

    `initial` maps each of the network's parameters to its values in all runs, one run a row; `batches`, where there
    are any, holds the samples (run, step, sample) that a step sees.
    """

    network: Callable[[], nn.Module]
    inputs: torch.Tensor
    targets: torch.Tensor
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    initial: dict[str, torch.Tensor]
    learning_rates: torch.Tensor
    steps: int
    momentum: float = 0.0
    batches: torch.Tensor | None = None

    def module(self, run: int) -> nn.Module:
        """The network of one run before its first step."""
        network = self.network()
        network.load_state_dict({name: values[run] for name, values in self.initial.items()})
        return network


def peer(workload: Workload) -> Peer:
    """The workload in torch, with the initial values of all its runs."""
    with layout.precision("float32"):
        params = jax.vmap(lambda key, rate: workload.one(key, rate).state.params)(*workload.mapped())
    made = MADE[workload.simulate](workload, jax.tree.map(np.array, params))
    return made._replace(learning_rates=torch.from_numpy(workload.mapped()[1]), steps=workload.steps)


def eager(trained: Peer, runs: int) -> tuple[float, np.ndarray]:
    """(seconds, final losses) of the first `runs` runs, trained one after another by `torch.optim.SGD`."""
    networks = [trained.module(run) for run in range(runs)]
    inputs, targets, losses = trained.inputs, trained.targets, []
    began = time.perf_counter()
    for run, network in enumerate(networks):
        rate = float(trained.learning_rates[run])
        optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=trained.momentum)
        for step in range(trained.steps):
            if trained.batches is not None:
                chosen = trained.batches[run, step]
                inputs, targets = trained.inputs[chosen], trained.targets[chosen]
            optimizer.zero_grad()
            trained.loss(network(inputs), targets).backward()
            optimizer.step()
        with torch.no_grad():
            losses.append(float(trained.loss(network(trained.inputs), trained.targets)))
    return time.perf_counter() - began, np.array(losses)


def vmapped(trained: Peer) -> tuple[float, np.ndarray]:
    """(seconds, final losses) of all runs at once: `stack_module_state`, and `vmap` of `grad`."""
    stacked, _ = stack_module_state([trained.module(run) for run in range(len(trained.learning_rates))])
    params = {name: values.detach() for name, values in stacked.items()}
    network = trained.network().to("meta")

    def loss(params: dict, chosen: torch.Tensor | None) -> torch.Tensor:
        inputs, targets = trained.inputs, trained.targets
        if chosen is not None:
            inputs, targets = inputs[chosen], targets[chosen]
        return trained.loss(functional_call(network, params, (inputs,)), targets)

    gradient = vmap(grad(loss), in_dims=(0, None if trained.batches is None else 0))
    rates = {name: trained.learning_rates.reshape(-1, *(1,) * (each.ndim - 1)) for name, each in params.items()}
    velocity = {name: torch.zeros_like(values) for name, values in params.items()}
    began = time.perf_counter()
    for step in range(trained.steps):
        slopes = gradient(params, None if trained.batches is None else trained.batches[:, step])
        for name, slope in slopes.items():
            if trained.momentum:
                slope = velocity[name].mul_(trained.momentum).add_(slope)
            params[name].sub_(rates[name] * slope)
    losses = vmap(loss, in_dims=(0, None))(params, None)
    return time.perf_counter() - began, losses.numpy()


def _logistic(workload: Workload, weights: np.ndarray) -> Peer:
    X, y = map(torch.from_numpy, workloads.classification())
    loss = lambda outputs, y: functional.softplus(-y * outputs[:, 0]).mean()
    return _made(lambda: nn.Linear(X.shape[1], 1, bias=False), X, y, loss, {"weight": weights[:, None]})


def _diagonal(workload: Workload, params: dict) -> Peer:
    X, y = map(torch.from_numpy, workloads.regression())
    loss = lambda outputs, y: functional.mse_loss(outputs, y) / 2
    return _made(lambda: Diagonal(X.shape[1]), X, y, loss, params)


def _factorization(workload: Workload, factors: tuple) -> Peer:
    target, seen = map(torch.from_numpy, workloads.partly_observed())
    loss = lambda outputs, target: functional.mse_loss(outputs, target, reduction="sum") / 2
    initial = dict(zip(("first", "second", "third"), factors, strict=True))
    return _made(lambda: Factors(len(target)), seen, seen * target, loss, initial)


def _perceptron(workload: Workload, params: dict) -> Peer:
    images, labels = workloads.digits()
    layers = params["params"].values()  # in the order in which they are called
    sizes = [images.shape[1], *(layer["bias"].shape[-1] for layer in layers)]

    def network() -> nn.Module:
        linears = [nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
        return nn.Sequential(*(part for linear in linears for part in (linear, nn.ReLU())))[:-1]

    initial: dict[str, np.ndarray] = {}
    for place, layer in enumerate(layers):
        initial |= {f"{2 * place}.weight": layer["kernel"].swapaxes(1, 2), f"{2 * place}.bias": layer["bias"]}
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels).long()
    return _made(network, inputs, targets, functional.cross_entropy, initial)._replace(momentum=workloads.MOMENTUM)


def _convolution(workload: Workload, params: dict) -> Peer:
    images, labels = workloads.large_digits()
    readout = params["params"]["Dense_0"]["kernel"]
    rows, channels = images.shape[1] // 4, params["params"]["Conv_1"]["bias"].shape[-1]

    def network() -> nn.Module:
        stage = lambda incoming, outgoing: (nn.Conv2d(incoming, outgoing, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        return nn.Sequential(*stage(1, 8), *stage(8, channels), nn.Flatten(), nn.Linear(readout.shape[1], 10))

    initial: dict[str, np.ndarray] = {}
    for place, name in ((0, "Conv_0"), (3, "Conv_1"), (7, "Dense_0")):
        kernel, bias = params["params"][name]["kernel"], params["params"][name]["bias"]
        if name == "Dense_0":  # torch has the channel before the pixel
            weight = kernel.reshape(-1, rows, rows, channels, 10).transpose(0, 4, 3, 1, 2).reshape(len(kernel), 10, -1)
        else:
            weight = kernel.transpose(0, 4, 3, 1, 2)
        initial |= {f"{place}.weight": weight, f"{place}.bias": bias}
    with layout.precision("float32"):
        drawn = jax.vmap(lambda key, rate: workloads.batches(workload.one(key, rate), workload.steps))
        seen = torch.from_numpy(np.array(drawn(*workload.mapped()))).long()
    inputs, targets = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels).long()
    made = _made(network, inputs, targets, functional.cross_entropy, initial)
    return made._replace(momentum=workloads.MOMENTUM, batches=seen)


def _made(network: Callable, inputs: torch.Tensor, targets: torch.Tensor, loss: Callable, initial: dict) -> Peer:
    held = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in initial.items()}
    return Peer(network, inputs, targets, loss, held, learning_rates=torch.empty(0), steps=0)


MADE: dict[Any, Callable[[Workload, Any], Peer]] = {
    workloads.logistic: _logistic,
    workloads.diagonal: _diagonal,
    workloads.factorization: _factorization,
    workloads.perceptron: _perceptron,
    workloads.convolution: _convolution,
}
