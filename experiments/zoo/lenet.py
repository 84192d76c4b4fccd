"""The two LeNets that most compression papers begin with."""

from flax import nnx
from jax import Array

from experiments.zoo.batch_last import convolve, max_pool
from experiments.zoo.mlp import MLP
from experiments.zoo.network import Network
from quantree.registry import register


@register("lenet300")
class LeNet300(Network):
    """LeNet-300-100 (LeCun et al. 1998): 784-300-100-10 with ReLU, 266,610 parameters on 28 x 28 images."""

    def build(self, rngs: nnx.Rngs, shape: tuple[int, ...], classes: int) -> nnx.Module:
        """See `Network.build`."""
        return MLP(hidden=(300, 100)).build(rngs, shape, classes)


@register("lenet5")
class LeNet5(Network):
    """LeNet-5 in the form that came with Caffe and that Han et al. (2015) prune: 431,080 parameters on 28 x 28 images.

    Convolutions of 20 and 50 filters 5 x 5 without padding, each followed by 2 x 2 max-pooling and nothing else; then
    500 units with ReLU. Features are flattened with the channel last.
    """

    def build(self, rngs: nnx.Rngs, shape: tuple[int, ...], classes: int) -> nnx.Module:
        """See `Network.build`."""
        self.need(len(shape) == 3 and min(shape[:2]) >= 16, shape, "[height, width, channels], 16 x 16 or more")
        return _Caffe(shape, classes, rngs)


class _Caffe(nnx.Module):
    def __init__(self, shape: tuple[int, ...], classes: int, rngs: nnx.Rngs) -> None:
        height, width = (((size - 4) // 2 - 4) // 2 for size in shape[:2])
        self.conv1 = nnx.Conv(shape[2], 20, (5, 5), padding="VALID", rngs=rngs)
        self.conv2 = nnx.Conv(20, 50, (5, 5), padding="VALID", rngs=rngs)
        self.fc1 = nnx.Linear(height * width * 50, 500, rngs=rngs)
        self.fc2 = nnx.Linear(500, classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = x.transpose(3, 1, 2, 0)
        for conv in (self.conv1, self.conv2):
            assert conv.bias is not None
            x = max_pool(convolve(x, conv.kernel[...], conv.bias[...]))
        features = x.transpose(3, 1, 2, 0).reshape(x.shape[-1], -1)
        return self.fc2(nnx.relu(self.fc1(features)))
