"""Networks for images in nnx. Images are 8 x 8 with three channels."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tests.graph.cases import network, vectors

IMAGES = vectors(2, 8, 8, 3)


class Normed(nnx.Module):
    """A convolution with batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs, size: int = 3, stride: int = 1) -> None:
        self.conv = nnx.Conv(inputs, outputs, (size, size), stride, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(outputs, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return nnx.relu(self.bn(self.conv(x)))


@network(IMAGES, {"first/conv": 6, "second/conv": 4, "fc1": 9})
class FlattenedImage(nnx.Module):
    """Pooling, flattening with the channel last, dense layers, and dropout."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.second = Normed(3, 6, rngs), Normed(6, 4, rngs)
        self.fc1, self.fc2 = nnx.Linear(16, 9, rngs=rngs), nnx.Linear(9, 5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        for layer in (self.first, self.second):
            x = nnx.max_pool(layer(x), (2, 2), (2, 2))
        x = self.dropout(nnx.relu(self.fc1(x.reshape(x.shape[0], -1))))
        return self.fc2(x)


@network(IMAGES, {"conv": 6})
class FlattenedChannelsFirst(nnx.Module):
    """As a network that came from PyTorch flattens."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv, self.fc = nnx.Conv(3, 6, (3, 3), strides=2, rngs=rngs), nnx.Linear(96, 5, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.fc(jnp.transpose(nnx.elu(self.conv(x)), (0, 3, 1, 2)).reshape(x.shape[0], -1))


@network(IMAGES, {"stem/conv": 6, "inner/conv": 4, "outer": 7})
class ProjectedShortcut(nnx.Module):
    """A residual block whose shortcut is a convolution of its own, then global pooling."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem, self.inner = Normed(3, 6, rngs), Normed(6, 4, rngs, stride=2)
        self.outer = nnx.Conv(4, 7, (3, 3), use_bias=False, rngs=rngs)
        self.outer_bn = nnx.BatchNorm(7, rngs=rngs)
        self.shortcut = nnx.Conv(6, 7, (1, 1), strides=2, use_bias=False, rngs=rngs)
        self.shortcut_bn = nnx.BatchNorm(7, rngs=rngs)
        self.head = nnx.Linear(7, 5, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        y = self.outer_bn(self.outer(self.inner(x)))
        return self.head(nnx.relu(y + self.shortcut_bn(self.shortcut(x))).mean(axis=(1, 2)))


@network(IMAGES, {"inner/conv": 5}, {"stem/conv": 4, "outer/conv": 3})
class PaddedShortcut(nnx.Module):
    """A residual block without parameters in its shortcut: new channels are zero, on one side."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem, self.inner, self.outer = Normed(3, 4, rngs), Normed(4, 5, rngs, stride=2), Normed(5, 7, rngs)
        self.head = nnx.Linear(7, 6, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        with jax.numpy_dtype_promotion("standard"):  # Flax divides by an integer
            pooled = nnx.avg_pool(x, (2, 2), (2, 2))
        shortcut = jnp.pad(pooled, ((0, 0), (0, 0), (0, 0), (0, 3)))
        return self.head((self.outer(self.inner(x)) + shortcut).mean(axis=(1, 2)))


@network(IMAGES, {"stem": 5, "layers/0": 4, "layers/1": 4, "layers/2": 4})
class DenselyConnected(nnx.Module):
    """Each layer sees the channels of all before it, through a batch norm over their concatenation."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        widths = (5, 9, 13, 17)
        self.stem = nnx.Conv(3, 5, (3, 3), rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(width, rngs=rngs) for width in widths])
        self.layers = nnx.List([nnx.Conv(width, 4, (3, 3), use_bias=False, rngs=rngs) for width in widths[:-1]])
        self.head = nnx.Linear(17, 6, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = jnp.concatenate([x, layer(nnx.gelu(norm(x)))], axis=-1)
        return self.head(nnx.gelu(self.norms[-1](x)).mean(axis=(1, 2)))


@network(IMAGES, {"stem/conv": 6, "pointwise": 5})
class DepthwiseSeparable(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = Normed(3, 6, rngs)
        self.depthwise = nnx.Conv(6, 6, (3, 3), feature_group_count=6, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(6, rngs=rngs)
        self.pointwise = nnx.Conv(6, 5, (1, 1), rngs=rngs)
        self.head = nnx.Linear(5, 7, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.hard_swish(self.bn(self.depthwise(self.stem(x))))
        return self.head(nnx.relu(self.pointwise(x)).mean(axis=(1, 2)))


@network(IMAGES, {"stem/conv": 4}, {"depthwise": 2})
class DepthwiseWithMultiplier(nnx.Module):
    """Two channels are made of each."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = Normed(3, 4, rngs)
        self.depthwise = nnx.Conv(4, 8, (3, 3), feature_group_count=4, rngs=rngs)
        self.pointwise = nnx.Conv(8, 5, (1, 1), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.pointwise(nnx.relu(self.depthwise(self.stem(x)))).mean(axis=(1, 2))


@network(IMAGES, {}, {"stem/conv#1": 2, "stem/conv#2": 3, "grouped": 4})
class GroupedConvolution(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = Normed(3, 6, rngs)
        self.grouped = nnx.Conv(6, 8, (3, 3), feature_group_count=2, rngs=rngs)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.head(nnx.relu(self.grouped(self.stem(x))).mean(axis=(1, 2)))


@network(IMAGES, {}, {"stem/conv#1": 2, "stem/conv#2": 3})
class ShuffledChannels(nnx.Module):
    """Two grouped convolutions, with the channels of the groups dealt out between them."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = Normed(3, 6, rngs)
        self.one = nnx.Conv(6, 8, (1, 1), feature_group_count=2, rngs=rngs)
        self.two = nnx.Conv(8, 4, (1, 1), feature_group_count=2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.one(self.stem(x)))
        x = x.reshape(*x.shape[:-1], 2, 4).swapaxes(-1, -2).reshape(x.shape)
        return self.two(x).mean(axis=(1, 2))


@network(IMAGES, {"stem/conv": 6, "squeeze": 2, "conv/conv": 5})
class SqueezedAndExcited(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem, self.conv = Normed(3, 6, rngs), Normed(6, 5, rngs)
        self.squeeze, self.excite = nnx.Linear(6, 2, rngs=rngs), nnx.Linear(2, 6, rngs=rngs)
        self.head = nnx.Linear(5, 4, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        gate = nnx.sigmoid(self.excite(nnx.gelu(self.squeeze(x.mean(axis=(1, 2))))))
        return self.head(self.conv(x * gate[:, None, None, :]).mean(axis=(1, 2)))


@network(IMAGES, {}, {"conv#1": 2, "conv#2": 3})
class NormedInGroups(nnx.Module):
    """Group norm of two groups: a mean over half of the channels."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv, self.norm = nnx.Conv(3, 6, (3, 3), rngs=rngs), nnx.GroupNorm(6, num_groups=2, rngs=rngs)
        self.head = nnx.Linear(6, 5, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.head(nnx.relu(self.norm(self.conv(x))).mean(axis=(1, 2)))


@network(IMAGES, {"conv": 6})
class NormedInInstances(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 6, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.InstanceNorm(6, rngs=rngs)
        self.head = nnx.Linear(6, 5, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.head(nnx.relu(self.norm(self.conv(x)))[:, 2:5, 1:4].mean(axis=(1, 2)))


@network(IMAGES, {"conv": 6})
class NormedWithoutScale(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, use_bias=False, use_scale=False, rngs=rngs)
        self.head = nnx.Linear(6, 5, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.head(nnx.relu(self.norm(self.conv(x))).mean(axis=(1, 2)))


@network(IMAGES, {"down/conv": 6, "middle/conv": 7, "up": 4, "join/conv": 5})
class DownAndUpAgain(nnx.Module):
    """A small U-Net: transposed convolution, a skip that is concatenated, an image resized by the library."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.down, self.middle = Normed(3, 6, rngs), Normed(6, 7, rngs, stride=2)
        self.up = nnx.ConvTranspose(7, 4, (2, 2), strides=(2, 2), rngs=rngs)
        self.join, self.head = Normed(10, 5, rngs), nnx.Conv(5, 2, (1, 1), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        skip = self.down(x)
        x = jnp.concatenate([nnx.leaky_relu(self.up(self.middle(skip))), skip], axis=-1)
        x = self.join(x)
        return self.head(jax.image.resize(x, (x.shape[0], 12, 12, x.shape[3]), "bilinear"))


@network(IMAGES, {"conv": 6})
class PixelsFromChannels(nnx.Module):
    """Four channels become the pixels of one; what reads them reads only the six before."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv, self.expand = nnx.Conv(3, 6, (3, 3), rngs=rngs), nnx.Conv(6, 8, (1, 1), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.expand(nnx.gelu(self.conv(x)))
        n, h, w, c = x.shape
        x = x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(n, 2 * h, 2 * w, c // 4)


@network(IMAGES, {}, {"expand": 2})
class ShuffledPixelsRead(nnx.Module):
    """The same, with a convolution of the finer image behind it."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.expand, self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.Conv(2, 5, (3, 3), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.expand(x))
        n, h, w, c = x.shape
        x = x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c // 4)
        return self.conv(x).mean(axis=(1, 2))


@network(IMAGES, {"conv": 6, "wide/conv": 4, "narrow/conv": 5})
class BranchesOfSeveralSizes(nnx.Module):
    """Branches side by side, one of which is pooled, and dilated convolution."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 6, (3, 3), kernel_dilation=2, rngs=rngs)
        self.wide, self.narrow = Normed(6, 4, rngs, size=3), Normed(6, 5, rngs, size=1)
        self.head = nnx.Linear(15, 7, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.softplus(self.conv(x))
        pooled = nnx.max_pool(x, (3, 3), padding="SAME")
        x = jnp.concatenate([self.wide(x), pooled, self.narrow(x)], axis=-1)
        return self.head(x.mean(axis=(1, 2)))


@network(vectors(2, 12, 3), {"conv1": 6, "conv2": 4, "fc1": 7})
class SignalsInTime(nnx.Module):
    """Convolution along one axis."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv1, self.conv2 = nnx.Conv(3, 6, (3,), rngs=rngs), nnx.Conv(6, 4, (3,), padding="CAUSAL", rngs=rngs)
        self.fc1, self.fc2 = nnx.Linear(12, 7, rngs=rngs), nnx.Linear(7, 5, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        for conv in (self.conv1, self.conv2):
            x = nnx.max_pool(nnx.relu(conv(x)), (2,), (2,))
        return self.fc2(nnx.tanh(self.fc1(x.reshape(x.shape[0], -1))))
