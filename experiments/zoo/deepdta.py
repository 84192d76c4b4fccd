"""DeepDTA: how strongly a molecule binds to a protein, from their sequences of letters."""

import itertools
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from pydantic import Field

from experiments.zoo.network import Network
from quantree.model import Model, from_nnx
from quantree.registry import register

_FILTERS = (32, 64, 96)
_EMBEDDING = 128

Sizes = tuple[Annotated[int, Field(ge=1)], ...]


@register("deepdta")
class DeepDta(Network):
    """DeepDTA (Ozturk, Ozgur, Ozkirimli 2018): two branches of an embedding, three convolutions without padding and the
    largest value of each channel, then dense layers; dropout follows all hidden ones but the last.

    Inputs are tokens [n, ligand + protein]; 0 fills up what is shorter. Kernels are of one length throughout a branch,
    and any two lengths that add up to 20 have the 245,760 weights in convolutions that Marino et al. (2021) count. Of
    those, 8 for ligands and 12 for proteins is in the grid of DeepDTA's paper; the code of 2021 may have the two the
    other way round. 1,769,984 weights are in the dense layers.

    Leaves: `embed_ligand/embedding`, `conv_ligand1/kernel` ... `conv_protein3/bias`, `fc1/kernel`, ...
    """

    ligand: int = Field(default=85, ge=1, description="tokens of an input that are the ligand's; the rest is protein")
    ligand_letters: int = Field(default=65, ge=1, description="different tokens of ligands, with the one that fills up")
    protein_letters: int = Field(default=26, ge=1, description="different tokens of proteins, likewise")
    ligand_kernel: int = Field(default=8, ge=1, description="length of the kernels in the ligand's branch, in tokens")
    protein_kernel: int = Field(default=12, ge=1, description="likewise in the protein's branch")
    hidden: Sizes = Field(default=(1024, 1024, 512), min_length=1, description="units of the hidden dense layers")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of hidden units dropped in training")

    def build(self, rngs: nnx.Rngs, shape: tuple[int, ...], classes: int) -> nnx.Module:
        """See `Network.build`."""
        least = [3 * (kernel - 1) + 1 for kernel in (self.ligand_kernel, self.protein_kernel)]
        fits = len(shape) == 1 and self.ligand >= least[0] and shape[0] - self.ligand >= least[1]
        wanted = f"[{self.ligand} of a ligand, {least[0]} or more, and {least[1]} or more of a protein]"
        self.need(fits, shape, wanted)
        return _DeepDta(self, classes, rngs)

    def model(self, seed: int, shape: tuple[int, ...], classes: int) -> Model:
        """See `Network.model`; the branches are the model's stem."""
        branches = {"ligand_features": slice(0, self.ligand), "protein_features": slice(self.ligand, None)}
        return from_nnx(self.build(nnx.Rngs(seed), shape, classes), branches)


class _DeepDta(nnx.Module):
    def __init__(self, settings: DeepDta, outputs: int, rngs: nnx.Rngs) -> None:
        self.ligand, self.layers = settings.ligand, len(settings.hidden) + 1
        glorot = nnx.initializers.glorot_uniform()
        for branch, letters, length in (
            ("ligand", settings.ligand_letters, settings.ligand_kernel),
            ("protein", settings.protein_letters, settings.protein_kernel),
        ):
            # Weights start as in Keras, in which the network was published.
            embed = nnx.Embed(letters, _EMBEDDING, embedding_init=_keras_uniform, rngs=rngs)
            setattr(self, f"embed_{branch}", embed)
            for i, (inputs, filters) in enumerate(zip((_EMBEDDING, *_FILTERS), _FILTERS, strict=False), 1):
                conv = nnx.Conv(inputs, filters, (length,), padding="VALID", kernel_init=glorot, rngs=rngs)
                setattr(self, f"conv_{branch}{i}", conv)
        sizes = (2 * _FILTERS[-1], *settings.hidden, outputs)
        for i, (inputs, units) in enumerate(itertools.pairwise(sizes), 1):
            setattr(self, f"fc{i}", nnx.Linear(inputs, units, kernel_init=glorot, rngs=rngs))
        self.dropout = nnx.Dropout(settings.dropout, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        ligands, proteins = x[:, : self.ligand], x[:, self.ligand :]
        return self.head(jnp.concatenate([self.ligand_features(ligands), self.protein_features(proteins)], axis=1))

    def ligand_features(self, tokens: Array) -> Array:
        return self._features("ligand", tokens)

    def protein_features(self, tokens: Array) -> Array:
        return self._features("protein", tokens)

    def _features(self, branch: str, tokens: Array) -> Array:
        """Tokens [n, length] -> the largest value of each channel [n, 96]."""
        embedding = getattr(self, f"embed_{branch}").embedding[...]
        first, *others = (getattr(self, f"conv_{branch}{i}") for i in (1, 2, 3))
        # Embedding and first convolution are one convolution of the letters as unit vectors, five times cheaper than
        # the two; its gradient is a product of matrices too, where that of a look-up is a scatter.
        kernel = jnp.einsum("ve,kef->kvf", embedding, first.kernel[...])
        letters = jax.nn.one_hot(tokens.astype(jnp.int32), len(embedding), dtype=kernel.dtype)
        x = nnx.relu(convolve(letters, kernel, first.bias[...]))
        for conv in others:
            x = nnx.relu(convolve(x, conv.kernel[...], conv.bias[...]))
        return x.max(axis=1)

    def head(self, features: Array) -> Array:
        """Features [n, 192] -> outputs [n, outputs]."""
        x = features
        for i in range(1, self.layers):
            x = nnx.relu(getattr(self, f"fc{i}")(x))
            if i < self.layers - 1:
                x = self.dropout(x)
        return getattr(self, f"fc{self.layers}")(x)


def convolve(x: Array, kernel: Array, bias: Array) -> Array:
    """Convolution with stride 1 and no padding.

    x: [n, length, in]. kernel: [k, in, out]. bias: [out]. Returns [n, length - k + 1, out].
    """
    layout = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=layout) + bias.reshape(1, 1, -1)


def _keras_uniform(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    return jax.random.uniform(key, shape, dtype, -0.05, 0.05)
