"""Networks in Linen, whose layers come without names of their own."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from tests.graph.cases import network
from tests.graph.images import IMAGES
from tests.graph.sequences import SERIES, WORDS

Conv = functools.partial(nn.Conv, use_bias=False)
Norm = functools.partial(nn.BatchNorm, use_running_average=True)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1, with a shortcut that is projected where it must be."""

    inner: int
    outer: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.silu(Norm()(Conv(self.inner, (1, 1))(x)))
        y = nn.silu(Norm()(Conv(self.inner, (3, 3), self.stride)(y)))
        y = Norm(scale_init=nn.initializers.zeros_init())(Conv(self.outer, (1, 1))(y))
        if y.shape != x.shape:
            x = Norm(name="shortcut_norm")(Conv(self.outer, (1, 1), self.stride, name="shortcut")(x))
        return nn.silu(x + y)


@network(
    IMAGES,
    {
        "Conv_0": 5,
        **{f"Bottleneck_{block}/Conv_{layer}": 4 for block in (0, 1, 2) for layer in (0, 1)},
        "Bottleneck_0/Conv_2": 7,
        "Bottleneck_2/Conv_2": 9,
    },
)
class LinenResidual(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.relu(Norm()(Conv(5, (3, 3))(x)))
        x = Bottleneck(4, 7)(x)
        x = Bottleneck(4, 7)(x)
        x = Bottleneck(4, 9, stride=2)(x)
        return nn.Dense(6)(x.mean(axis=(1, 2)))


@network(IMAGES, {"Conv_0": 5, "Conv_1": 4, "Conv_2": 4, "Dense_1": 7})
class LinenDense(nn.Module):
    """Concatenation of features, flattened at the end."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Conv(5, (3, 3), strides=4)(x)
        for _ in range(2):
            x = jnp.concatenate([x, nn.Conv(4, (3, 3))(nn.relu(Norm()(x)))], axis=-1)
        return nn.Dense(3)(nn.relu(nn.Dense(7)(x.reshape(len(x), -1))))


@network(IMAGES, {"Conv_0": 6, "Conv_2": 9, "Conv_4": 5, "Dense_1": 2})
class LinenMobile(nn.Module):
    """Depthwise convolution, squeeze and excitation, with a narrow end and a wide middle."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.relu6(Norm()(Conv(6, (3, 3), 2)(x)))
        x = nn.relu6(Norm()(Conv(6, (3, 3), feature_group_count=6)(x)))
        x = nn.relu6(Norm()(Conv(9, (1, 1))(x)))
        x = nn.silu(Norm()(Conv(9, (3, 3), feature_group_count=9)(x)))
        gate = nn.Dense(9)(nn.silu(nn.Dense(2)(x.mean(axis=(1, 2)))))
        x = Norm()(Conv(5, (1, 1))(x * nn.sigmoid(gate)[:, None, None]))
        return nn.Dense(4)(x.mean(axis=(1, 2)))


@network(SERIES, {"Conv_0": 6, "Conv_1": 4, "Dense_1": 7})
class LinenSignals(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.max_pool(nn.relu(nn.Conv(6, (3,))(x)), (2,))
        x = nn.relu(nn.Conv(4, (2,), padding="VALID")(x))
        return nn.Dense(2)(nn.relu(nn.Dense(7)(x.reshape(x.shape[0], -1))))


@network((SERIES, WORDS), {"Embed_0": 6, "Dense_0": 4, "Dense_2": 8})
class LinenTwoInputs(nn.Module):
    @nn.compact
    def __call__(self, inputs: tuple[Array, Array]) -> Array:
        series, words = inputs
        both = [nn.relu(nn.Dense(4)(series)).max(axis=1), nn.Embed(11, 6)(words).sum(axis=1)]
        return nn.Dense(3)(nn.relu(nn.Dense(8)(jnp.concatenate(both, axis=-1))))


class Block(nn.Module):
    """Norm, causal attention, norm, MLP; carries a value for `nn.scan`."""

    @nn.compact
    def __call__(self, x: Array, _: None = None) -> tuple[Array, None]:
        y = nn.LayerNorm()(x)
        mask = nn.make_causal_mask(jnp.zeros(x.shape[:2]))
        x = x + nn.MultiHeadDotProductAttention(3, qkv_features=12, deterministic=True)(y, mask=mask)
        y = nn.Dense(7)(nn.LayerNorm()(x))
        return x + nn.Dense(x.shape[-1])(nn.gelu(y)), None


ATTENTION = "MultiHeadDotProductAttention_0"
# The heads, what each holds in its values, the layer between; what each holds in its queries and keys is summed up.
BLOCK = {f"{ATTENTION}/query#1": 3, f"{ATTENTION}/value": 4, "Dense_0": 7}


@network(
    WORDS,
    {f"Block_{i}/{name}": size for i in (0, 1) for name, size in BLOCK.items()},
    {"Embed_0": 8, **{f"Block_{i}/{ATTENTION}/query#2": 4 for i in (0, 1)}},
)
class LinenTransformer(nn.Module):
    """Words and outputs with one kernel."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        embed = nn.Embed(11, 8)
        x = embed(x) + self.param("positions", nn.initializers.normal(), (5, 8))[None]
        for _ in range(2):
            x, _ = Block()(x)
        return embed.attend(nn.LayerNorm()(x))


@network(
    SERIES,
    {f"ScanCheckpointBlock_0/{name}": size for name, size in BLOCK.items()},
    {"Dense_1": 8, f"ScanCheckpointBlock_0/{ATTENTION}/query#2": 4},
)
class LinenScannedTransformer(nn.Module):
    """The same block three times, with stacked parameters and checkpoints."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        blocks = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(2)(blocks()(nn.Dense(8)(x), None)[0])


@network(WORDS, {"Embed_0": 6}, {"OptimizedLSTMCell_0/hf": 4})
class LinenRecurrent(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        states = jnp.asarray(nn.RNN(nn.OptimizedLSTMCell(4))(nn.Embed(11, 6)(x)))
        return nn.Dense(3)(states[:, -1])


@network(IMAGES, {}, {"Conv_0#1": 3, "Conv_0#2": 2, "Conv_1": 5})
class LinenGroups(nn.Module):
    """Group norm, and a layer norm over height, width and channels at once."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.silu(nn.GroupNorm(num_groups=3)(nn.Conv(6, (3, 3), 2)(x)))
        x = nn.LayerNorm(reduction_axes=(1, 2, 3), feature_axes=-1)(nn.Conv(5, (3, 3))(x))
        return nn.Dense(4)(jax.nn.mish(x).mean(axis=(1, 2)))
