"""Residual networks for images of 224 x 224, as torchvision has them."""

from typing import ClassVar

from flax import nnx
from jax import Array

from experiments.zoo.network import Network
from quantree.registry import register


class ImageNetResNet(Network):
    """Four stages of residual blocks of widths 64, 128, 256, 512 (He et al. 2015, table 1), batch norm, shortcuts of
    1 x 1 where the shape changes, and the stride of a bottleneck in its 3 x 3 convolution ("v1.5").

    Leaves have the names of torchvision's (`layer1/0/conv1/kernel`, `layer2/0/downsample/1/scale`, `fc/kernel`), whose
    checkpoints can be loaded; padding is symmetric, as there.
    """

    blocks: ClassVar[tuple[int, int, int, int]]
    bottleneck: ClassVar[bool]

    def build(self, rngs: nnx.Rngs, shape: tuple[int, ...], classes: int) -> nnx.Module:
        """See `Network.build`."""
        self.need(len(shape) == 3 and min(shape[:2]) >= 8, shape, "[height, width, channels], 8 x 8 or more")
        return _ImageNet(self.blocks, _Bottleneck if self.bottleneck else _Basic, shape[2], classes, rngs)


@register("resnet18")
class ResNet18(ImageNetResNet):
    """ResNet-18 for ImageNet: 11,689,512 parameters with 1000 classes."""

    blocks: ClassVar = (2, 2, 2, 2)
    bottleneck: ClassVar = False


@register("resnet50")
class ResNet50(ImageNetResNet):
    """ResNet-50 for ImageNet: 25,557,032 parameters with 1000 classes."""

    blocks: ClassVar = (3, 4, 6, 3)
    bottleneck: ClassVar = True


class _ImageNet(nnx.Module):
    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        kind: "type[_Basic | _Bottleneck]",
        channels: int,
        classes: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv1 = _conv(channels, 64, 7, rngs, stride=2)
        self.bn1 = nnx.BatchNorm(64, momentum=0.9, rngs=rngs)
        self.stages, inputs = len(blocks), 64
        for stage, count in enumerate(blocks):
            width, layers = 64 << stage, nnx.List()
            for block in range(count):
                layers.append(kind(inputs, width, 2 if stage and not block else 1, rngs))
                inputs = kind.expansion * width
            setattr(self, f"layer{stage + 1}", layers)
        self.fc = nnx.Linear(inputs, classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.bn1(self.conv1(x)))
        x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
        for stage in range(self.stages):
            x = _through(getattr(self, f"layer{stage + 1}"), x)
        return self.fc(x.mean((1, 2)))


class _Basic(nnx.Module):
    """Two convolutions 3 x 3."""

    expansion: ClassVar = 1

    def __init__(self, inputs: int, width: int, stride: int, rngs: nnx.Rngs) -> None:
        self.conv1 = _conv(inputs, width, 3, rngs, stride)
        self.bn1 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.conv2 = _conv(width, width, 3, rngs)
        self.bn2 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.downsample = _shortcut(inputs, width, stride, rngs)

    def __call__(self, x: Array) -> Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        return nnx.relu(self.bn2(self.conv2(y)) + _through(self.downsample, x))


class _Bottleneck(nnx.Module):
    """A convolution 3 x 3 between two of 1 x 1; the last one has four times the channels."""

    expansion: ClassVar = 4

    def __init__(self, inputs: int, width: int, stride: int, rngs: nnx.Rngs) -> None:
        outputs = self.expansion * width
        self.conv1 = _conv(inputs, width, 1, rngs)
        self.bn1 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.conv2 = _conv(width, width, 3, rngs, stride)
        self.bn2 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.conv3 = _conv(width, outputs, 1, rngs)
        self.bn3 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        self.downsample = _shortcut(inputs, outputs, stride, rngs)

    def __call__(self, x: Array) -> Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = nnx.relu(self.bn2(self.conv2(y)))
        return nnx.relu(self.bn3(self.conv3(y)) + _through(self.downsample, x))


def _shortcut(inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> nnx.List:
    """Layers between the input of a block and its sum; none where the shape stays."""
    if inputs == outputs and stride == 1:
        return nnx.List()
    return nnx.List([_conv(inputs, outputs, 1, rngs, stride), nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)])


def _through(layers: nnx.List, x: Array) -> Array:
    for layer in layers:
        x = layer(x)
    return x


def _conv(inputs: int, outputs: int, size: int, rngs: nnx.Rngs, stride: int = 1) -> nnx.Conv:
    around = (size // 2, size // 2)  # at stride 2 too, where "SAME" would pad more on one side
    return nnx.Conv(inputs, outputs, (size, size), stride, padding=(around, around), use_bias=False, rngs=rngs)
