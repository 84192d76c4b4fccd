"""The networks of the zoo as cases, on small images; those that take long to compile or to trace stand apart."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.zoo import MLP, DeepDta, Network
from quantree.registry import registered
from tests.graph.cases import Case, tokens, vectors

CLASSES = 7
NETWORKS: dict[str, Any] = {
    **{name: network for name, network in registered("network").items() if name != "module"},
    "mlp": lambda: MLP(hidden=(6, 4)),
    "deepdta": lambda: DeepDta(
        ligand=9, ligand_letters=5, protein_letters=6, ligand_kernel=2, protein_kernel=3, hidden=(7, 8, 5)
    ),
}
QUICK = ("mlp", "lenet5", "vgg_small", "resnet8")


def _case(name: str, inputs: jax.Array, free: Mapping[str, int] | None, tied: Mapping[str, int] | None = None) -> Case:
    network: Network = NETWORKS[name]()
    return Case(lambda: network.model(0, inputs.shape[1:], CLASSES), inputs, free, tied or {})


def _cifar(name: str) -> Case:
    """Inside the blocks of three stages channels are free; the stream is padded from 16 to 32 to 64 channels."""
    blocks = (int(name.removeprefix("resnet")) - 2) // 6
    free = {f"layer{stage + 1}/{i}/conv1": 16 * 2**stage for stage in range(3) for i in range(blocks)}
    return _case(name, vectors(2, 8, 8, 3), free, {"conv1": 16, "layer2/0/conv2": 16, "layer3/0/conv2": 32})


def _vgg(name: str) -> Case:
    widths = NETWORKS[name]().widths
    size = 2 ** widths.count(0)
    free = {f"conv{i}": width for i, width in enumerate((width for width in widths if width), 1)}
    return _case(name, vectors(2, size, size, 3), free)


def _deepdta() -> Case:
    both = jnp.concatenate([tokens(2, 9, letters=5), tokens(2, 12, letters=6)], axis=1)
    free = {f"conv_{branch}{i}": 32 * i for branch in ("ligand", "protein") for i in (1, 2, 3)}
    # The product of embedding and first kernel is part of the program, and its sum is named after the kernel.
    embedded = {f"conv_{branch}1/kernel:1": 128 for branch in ("ligand", "protein")}
    return _case("deepdta", both, {**free, "fc1": 7, "fc2": 8, "fc3": 5}, embedded)


def _imagenet(name: str) -> Case:
    """A stream for each of four stages, which shortcuts project, and one or two layers inside each block."""
    network = NETWORKS[name]()
    inner, expansion = (2, 4) if network.bottleneck else (1, 1)
    free = {"conv1": 64}
    for stage, count in enumerate(network.blocks, 1):
        width = 32 << stage
        free |= {f"layer{stage}/{i}/conv{j}": width for i in range(count) for j in range(1, inner + 1)}
        if stage > 1 or expansion > 1:
            free[f"layer{stage}/0/conv{inner + 1}"] = expansion * width
    return _case(name, vectors(2, 32, 32, 3), free)


def _resnet8() -> Case:
    streams = {"conv2d": 16, "conv2d_4": 32, "conv2d_7": 64}
    return _case("resnet8", vectors(2, 8, 8, 3), {**streams, "conv2d_1": 16, "conv2d_3": 32, "conv2d_6": 64})


ZOO = {
    "mlp": _case("mlp", vectors(2, 5), {"fc1": 6, "fc2": 4}),
    "lenet300": _case("lenet300", vectors(2, 5), {"fc1": 300, "fc2": 100}),
    "lenet5": _case("lenet5", vectors(2, 20, 20, 1), {"conv1": 20, "conv2": 50, "fc1": 500}),
    "resnet8": _resnet8(),
    "deepdta": _deepdta(),
    **{name: _cifar(name) for name in ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")},
    **{name: _imagenet(name) for name in ("resnet18", "resnet50")},
    **{name: _vgg(name) for name in ("vgg_small", "vgg16", "vgg19")},
}
