"""Modules of `flax.nnx` with fewer channels than they were built with.

A layer knows its widths from the shapes of its arrays and, once more, as numbers that it was built with. Some layers
compute with these. Once channels have been merged or removed, the arrays are right.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

Shapes = tuple[tuple[int, ...], ...]


def shapes(arrays: Iterable[Any]) -> Shapes:
    """The shape of each array."""
    return tuple(tuple(jnp.shape(array)) for array in arrays)


def is_narrower(shape: tuple[int, ...], built: tuple[int, ...]) -> bool:
    """True if an array has as many axes as the one that a layer was built with, and none of them is longer."""
    return len(shape) == len(built) and all(new <= old for new, old in zip(shape, built, strict=True))


def refit(module: nnx.Module) -> None:
    """Gives the layers of a module, in place, the widths that their arrays have.

    Knows the layers of Flax, also as parts of layers of anyone's own. A convolution in groups whose kernel has fewer
    outputs but as many inputs has fewer groups, as a depthwise one does; a group norm keeps the number of its groups.
    """
    for _, layer in nnx.iter_modules(module):
        for name, width in _widths(layer).items():
            setattr(layer, name, width)


def _widths(layer: Any) -> Mapping[str, Any]:
    """Attributes of a layer that tell a width -> what its arrays say. Axes are counted from the last one: layers that
    were made by `nnx.vmap` have one more before them.
    """
    match layer:
        case nnx.Linear():
            inputs, outputs = layer.kernel.shape[-2:]
            return {"in_features": inputs, "out_features": outputs}
        case nnx.Conv():
            return _conv(layer)
        case nnx.ConvTranspose():
            kernel = layer.kernel.shape[-len(layer.kernel_shape) :]
            inputs, outputs = kernel[:-3:-1] if layer.transpose_kernel else kernel[-2:]
            return {"kernel_shape": kernel, "in_features": inputs, "out_features": outputs}
        case nnx.LinearGeneral():
            kernel, inputs, outputs = layer.kernel.shape, len(layer.in_features), len(layer.out_features)
            return {"in_features": kernel[-inputs - outputs : -outputs], "out_features": kernel[-outputs:]}
        case nnx.Einsum():
            return {"kernel_shape": layer.kernel.shape[-len(layer.kernel_shape) :]}
        case nnx.Embed():
            entries, features = layer.embedding.shape[-2:]
            return {"num_embeddings": entries, "features": features}
        case nnx.MultiHeadAttention():
            return _attention(layer)
        case nnx.BatchNorm() | nnx.LayerNorm() | nnx.RMSNorm() | nnx.GroupNorm() | nnx.InstanceNorm():
            return _norm(layer)
        case nnx.LSTMCell() | nnx.OptimizedLSTMCell() | nnx.SimpleCell() | nnx.GRUCell():
            inputs, hidden = (layer.ii, layer.hi) if isinstance(layer, nnx.LSTMCell) else (layer.dense_i, layer.dense_h)
            return {"in_features": inputs.kernel.shape[-2], "hidden_features": hidden.kernel.shape[-2]}
    return {}


def _conv(layer: nnx.Conv) -> Mapping[str, Any]:
    kernel, groups = layer.kernel.shape[-len(layer.kernel_shape) :], layer.feature_group_count
    *_, inputs, outputs = kernel
    if inputs == layer.kernel_shape[-2]:
        groups = max(1, outputs * groups // layer.out_features)
    return {
        "kernel_shape": kernel,
        "in_features": inputs * groups,
        "out_features": outputs,
        "feature_group_count": groups,
    }


def _attention(layer: nnx.MultiHeadAttention) -> Mapping[str, Any]:
    inputs, heads, width = layer.query.kernel.shape[-3:]
    memory, memory_heads, _ = layer.key.kernel.shape[-3:]
    return {
        "in_features": inputs,
        "in_kv_features": memory,
        "out_features": layer.out.kernel.shape[-1],
        "qkv_features": heads * width,
        "head_dim": width,
        "num_heads": heads,
        "num_kv_heads": memory_heads,
    }


def _norm(layer: Any) -> Mapping[str, Any]:
    arrays = (getattr(layer, name, None) for name in ("scale", "bias", "mean"))
    features = next((array.shape[-1] for array in arrays if array is not None), None)
    if features is None:
        return {}  # it has no widths of its own
    if isinstance(layer, nnx.GroupNorm):
        return {"group_size": features // layer.num_groups}
    return {"num_features": features}
