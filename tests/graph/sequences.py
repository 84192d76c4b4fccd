"""Networks for sequences in nnx: attention in several forms, recurrent cells, tokens."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tests.graph.cases import network, tokens, vectors

WORDS = tokens(2, 5, letters=11)
SERIES = vectors(2, 5, 3)
WIDTH, HEADS = 12, 3


class Mlp(nnx.Module):
    def __init__(self, width: int, inner: int, rngs: nnx.Rngs) -> None:
        self.fc1, self.fc2 = nnx.Linear(width, inner, rngs=rngs), nnx.Linear(inner, width, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.fc2(nnx.gelu(self.fc1(x)))


class Attention(nnx.Module):
    """Causal attention with queries, keys and values from one layer."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.qkv, self.out = nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs), nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        n, length, _ = x.shape
        q, k, v = (
            part.reshape(n, length, HEADS, WIDTH // HEADS).transpose(0, 2, 1, 3)
            for part in jnp.split(self.qkv(x), 3, axis=-1)
        )
        scores = q @ k.swapaxes(-1, -2) / jnp.sqrt(WIDTH / HEADS)
        causal = jnp.tril(jnp.ones((length, length), bool))
        weights = nnx.softmax(jnp.where(causal[None, None], scores, -jnp.inf))
        return self.out((weights @ v).transpose(0, 2, 1, 3).reshape(n, length, WIDTH))


@network(
    WORDS,
    {"mlp/fc1": 7},
    {"embed": WIDTH, "attention/qkv#1": HEADS, "attention/qkv#2": 4, "attention/qkv#3": 4},
)
class TransformerByHand(nnx.Module):
    """GPT of one block: learned positions, norms before each part, words and outputs with one kernel."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(11, WIDTH, rngs=rngs)
        self.positions = nnx.Param(jnp.zeros((5, WIDTH)))
        self.norm1, self.norm2, self.norm3 = (nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(3))
        self.attention, self.mlp = Attention(rngs), Mlp(WIDTH, 7, rngs)

    def __call__(self, x: Array) -> Array:
        x = self.embed(x) + self.positions[...][None]
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.embed.attend(self.norm3(x))


@network(
    SERIES,
    {"attention/query#1": HEADS, "mlp/fc1": 7},
    {"embed": WIDTH, "attention/query#2": 4, "attention/value": 4},
)
class TransformerOfFlax(nnx.Module):
    """Encoder of one block with Flax's own attention, norms behind each part, and a token for the class."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Linear(3, WIDTH, rngs=rngs)
        self.cls = nnx.Param(jnp.zeros((1, 1, WIDTH)))
        self.norm1, self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.RMSNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.mlp, self.head = Mlp(WIDTH, 7, rngs), nnx.Linear(WIDTH, 4, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = jnp.concatenate([jnp.tile(self.cls[...], (x.shape[0], 1, 1)), self.embed(x)], axis=1)
        x = self.norm1(x + self.attention(x))
        return self.head(self.norm2(x + self.mlp(x))[:, 0])


@network(SERIES, {}, {"q:1#1": 2, "q:1#2": 2, "q:2": 6, "v:2": 6})
class AttentionInEinsums(nnx.Module):
    """Grouped queries: two heads of them for each of keys and values; kernels that hold the heads as an axis."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        for name, heads in (("q", 4), ("k", 2), ("v", 2)):
            setattr(self, name, nnx.Param(jnp.zeros((3, heads, 6))))
        self.out = nnx.Param(jnp.zeros((4, 6, 5)))

    def __call__(self, x: Array) -> Array:
        q, k, v = (jnp.einsum("ntc,chd->nthd", x, getattr(self, name)[...]) for name in "qkv")
        q = q.reshape(*q.shape[:2], 2, 2, 6)
        scores = jnp.einsum("nqgrd,nkgd->ngrqk", q, k)
        y = jnp.einsum("ngrqk,nkgd->nqgrd", nnx.softmax(scores), v)
        return jnp.einsum("nqhd,hdc->nqc", y.reshape(*y.shape[:2], 4, 6), self.out[...])


@network(SERIES, {"v": 6})
class RotaryAttention(nnx.Module):
    """One head whose queries and keys turn with their place, by pairs of channels."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.q, self.k, self.v = (nnx.Linear(3, 6, use_bias=False, rngs=rngs) for _ in range(3))
        self.out = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        angle = jnp.arange(5.0)[:, None] / 10.0 ** jnp.arange(3.0)[None]
        cos, sin = jnp.cos(angle)[None], jnp.sin(angle)[None]

        def turned(y: Array) -> Array:
            one, other = jnp.split(y, 2, axis=-1)
            return jnp.concatenate([one * cos - other * sin, one * sin + other * cos], axis=-1)

        q, k = turned(self.q(x)), turned(self.k(x))
        return self.out(nnx.softmax(q @ k.swapaxes(1, 2)) @ self.v(x))


@network(SERIES, {"q#1": HEADS}, {"q#2": 4, "v": 4})
class FlaxAttentionFunction(nnx.Module):
    """`jax.nn.dot_product_attention`."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.q, self.k, self.v = (nnx.LinearGeneral(3, (HEADS, 4), use_bias=False, rngs=rngs) for _ in range(3))
        self.out = nnx.LinearGeneral((HEADS, 4), 5, axis=(-2, -1), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.out(jax.nn.dot_product_attention(self.q(x), self.k(x), self.v(x), is_causal=True))


@network(SERIES, {"tokens/fc1": 7, "channels/fc1": 8}, {"embed": 6})
class MixerOfTokens(nnx.Module):
    """Dense layers over time and over channels by turns."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed, self.head = nnx.Linear(3, 6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)
        self.tokens, self.channels = Mlp(5, 7, rngs), Mlp(6, 8, rngs)
        self.norm = nnx.LayerNorm(6, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.embed(x)
        x = x + self.tokens(self.norm(x).swapaxes(1, 2)).swapaxes(1, 2)
        return self.head((x + self.channels(x)).mean(axis=1))


@network(WORDS, {"embed": 6}, {"rnn/cell/dense_i": 4})
class RecurrentOfFlax(nnx.Module):
    """GRU cell in Flax's own scan."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(11, 6, rngs=rngs)
        self.rnn = nnx.RNN(nnx.GRUCell(6, 4, rngs=rngs))
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.head(jnp.asarray(self.rnn(self.embed(x)))[:, -1])


@network(SERIES, {"rnn/backward_rnn/cell/ii": 6}, {"rnn/forward_rnn/cell/dense_i": 4})
class RecurrentBothWays(nnx.Module):
    """LSTM cells from either end."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        forward = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=rngs))
        self.rnn = nnx.Bidirectional(forward, nnx.RNN(nnx.LSTMCell(3, 6, rngs=rngs)))
        self.head = nnx.Linear(10, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.head(jnp.asarray(self.rnn(x)).mean(axis=1))


@network(SERIES, {"embed": 6, "blocks/fc1": 7})
class LayersInAScan(nnx.Module):
    """Blocks whose parameters are stacked, run by `nnx.scan`."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        @nnx.split_rngs(splits=4)
        @nnx.vmap(in_axes=0, out_axes=0)
        def blocks(rngs: nnx.Rngs) -> Mlp:
            return Mlp(6, 7, rngs)

        self.embed, self.blocks = nnx.Linear(3, 6, rngs=rngs), blocks(rngs)
        self.head = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x: Array, block: Mlp) -> Array:
            return x + block(x)

        return self.head(run(self.embed(x), self.blocks))


@network(SERIES, {"base": 6, "base/lora": 2})
class Adapted(nnx.Module):
    """A kernel with a low-rank addition."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.base = nnx.LoRALinear(3, 6, lora_rank=2, lora_param_type=nnx.Param, rngs=rngs)
        self.head = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.head(nnx.silu(self.base(x)))
