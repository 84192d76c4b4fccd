"""Residual networks for 32 x 32 images."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax import Array

from experiments.zoo.network import Network
from quantree.registry import register

_AROUND = ((1, 1), (1, 1))  # one pixel on each side, at stride 2 too, where "SAME" would pad on one side only


class CifarResNet(Network):
    """Three stages of basic blocks with 16, 32, 64 channels (He et al. 2015, section 4.2), batch norm, and shortcuts
    without parameters: every second pixel, new channels filled with zeros, half on each side.

    Leaves have the names of the common PyTorch code (`layer1/0/conv1/kernel`, `bn1/scale`, `linear/kernel`), whose
    checkpoints can be loaded.
    """

    def build(self, rngs: nnx.Rngs, shape: tuple[int, ...], classes: int) -> nnx.Module:
        """See `Network.build`."""
        self.need(len(shape) == 3 and min(shape[:2]) >= 8, shape, "[height, width, channels], 8 x 8 or more")
        depth = int(self.name.removeprefix("resnet"))
        return _Cifar((depth - 2) // 6, shape[2], classes, rngs)


@register("resnet20")
class ResNet20(CifarResNet):
    """ResNet-20 for CIFAR: 269,722 parameters, 41 million multiplications per image."""


@register("resnet32")
class ResNet32(CifarResNet):
    """ResNet-32 for CIFAR: 464,154 parameters."""


@register("resnet44")
class ResNet44(CifarResNet):
    """ResNet-44 for CIFAR: 658,586 parameters."""


@register("resnet56")
class ResNet56(CifarResNet):
    """ResNet-56 for CIFAR: 853,018 parameters."""


@register("resnet110")
class ResNet110(CifarResNet):
    """ResNet-110 for CIFAR: 1,727,962 parameters."""


@register("resnet8")
class ResNet8(Network):
    """ResNet-8 of the benchmark MLPerf Tiny (Banbury et al. 2021): convolutions with biases, shortcuts of 1 x 1.

    Leaves have the names of its Keras original (`conv2d_3/kernel`, `batch_normalization_1/scale`, `dense/kernel`).
    """

    def build(self, rngs: nnx.Rngs, shape: tuple[int, ...], classes: int) -> nnx.Module:
        """See `Network.build`."""
        self.need(len(shape) == 3 and min(shape[:2]) >= 8, shape, "[height, width, channels], 8 x 8 or more")
        return _Tiny(shape[2], classes, rngs)


class _Cifar(nnx.Module):
    def __init__(self, blocks: int, channels: int, classes: int, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(channels, 16, (3, 3), padding=_AROUND, use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.layer1 = _stage(blocks, 16, 16, rngs)
        self.layer2 = _stage(blocks, 16, 32, rngs)
        self.layer3 = _stage(blocks, 32, 64, rngs)
        self.linear = nnx.Linear(64, classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.bn1(self.conv1(x)))
        for block in (*self.layer1, *self.layer2, *self.layer3):
            x = block(x)
        return self.linear(x.mean((1, 2)))


def _stage(blocks: int, inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.List:
    return nnx.List([_Block(inputs if i == 0 else outputs, outputs, rngs) for i in range(blocks)])


class _Block(nnx.Module):
    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs) -> None:
        self.new_channels = outputs - inputs
        stride = 1 if inputs == outputs else 2
        self.conv1 = nnx.Conv(inputs, outputs, (3, 3), stride, padding=_AROUND, use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(outputs, outputs, (3, 3), padding=_AROUND, use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        y = self.bn2(self.conv2(nnx.relu(self.bn1(self.conv1(x)))))
        if self.new_channels:
            half = self.new_channels // 2
            x = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (half, self.new_channels - half)))
        return nnx.relu(y + x)


class _Tiny(nnx.Module):
    def __init__(self, channels: int, classes: int, rngs: nnx.Rngs) -> None:
        # Convolutions in the order in which Keras numbered them: inputs, outputs, size, stride.
        convolutions: Sequence[tuple[int, int, int, int]] = (
            *((channels, 16, 3, 1), (16, 16, 3, 1), (16, 16, 3, 1)),
            *((16, 32, 3, 2), (32, 32, 3, 1), (16, 32, 1, 2)),
            *((32, 64, 3, 2), (64, 64, 3, 1), (32, 64, 1, 2)),
        )
        for i, (inputs, outputs, size, stride) in enumerate(convolutions):
            setattr(self, _numbered("conv2d", i), nnx.Conv(inputs, outputs, (size, size), stride, rngs=rngs))
        for i, width in enumerate((16, 16, 16, 32, 32, 64, 64)):
            norm = nnx.BatchNorm(width, momentum=0.99, epsilon=1e-3, rngs=rngs)
            setattr(self, _numbered("batch_normalization", i), norm)
        self.dense = nnx.Linear(64, classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self._normed(x, 0, 0))
        x = nnx.relu(x + self._normed(nnx.relu(self._normed(x, 1, 1)), 2, 2))
        for conv, norm in ((3, 3), (6, 5)):
            y = self._normed(nnx.relu(self._normed(x, conv, norm)), conv + 1, norm + 1)
            x = nnx.relu(y + getattr(self, _numbered("conv2d", conv + 2))(x))
        return self.dense(x.mean((1, 2)))

    def _normed(self, x: Array, conv: int, norm: int) -> Array:
        y = getattr(self, _numbered("conv2d", conv))(x)
        return getattr(self, _numbered("batch_normalization", norm))(y)


def _numbered(name: str, i: int) -> str:
    return f"{name}_{i}" if i else name
