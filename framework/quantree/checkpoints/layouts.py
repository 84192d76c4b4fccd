"""Names and axes of checkpoints, as PyTorch, Keras and Flax write them.

Inside quantree a leaf has the name and the axes that Flax gives it: `kernel` with inputs and outputs as the last two
axes, `scale` and `bias`, statistics `mean` and `var`. Layout `linen` has these in collections, as a Linen module has
its variables: the parameters are in `params`, whose name they lose, and all other collections are state. Each layout
is a one-to-one mapping to that: what is written out again is what was read in, and a name for which this does not hold
is refused.
"""

import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, get_args

import numpy as np

from quantree.encodings import match
from quantree.errors import LeafError
from quantree.model import Flat, Layout

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
COUNTERS = "num_batches_tracked"  # PyTorch counts batches beside its statistics; a missing counter starts at 0

_STATE: dict[Layout, tuple[str, ...]] = {
    "torch": ("*running_mean", "*running_var"),
    "keras": ("*moving_mean", "*moving_variance"),
    "flax": ("batch_stats/*", "*/mean", "*/var"),
    "linen": (),  # its collections say it
}
_PARAMS = "params/"
_KERAS = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}
_TORCH = {"running_mean": "mean", "running_var": "var"}
_TAKEN = re.compile("(kernel|scale|mean|var)_*")  # a leaf of PyTorch's that has one of our names gets an underscore


class Split(NamedTuple):
    """A checkpoint in our names and axes. left_out: names of counters that no file needs."""

    params: Flat
    state: Flat
    left_out: list[str]


def detect(names: Iterable[str]) -> Layout:
    """The layout that such names have; `flax` if nothing speaks for another.

    PyTorch's names go before Keras's: its networks may call a parameter gamma or beta, and Keras has no `x.weight`.
    """
    names = list(names)
    if all(any(name.startswith(collection) for name in names) for collection in (_PARAMS, "batch_stats/")):
        return "linen"
    lasts = [(name, re.split(r"[./]", name)[-1]) for name in names]
    if any(last in ("weight", *_TORCH) and "/" not in name for name, last in lasts):
        return "torch"
    if any(last in _KERAS and ("/" in name or last.startswith("moving_")) for name, last in lasts):
        return "keras"
    return "flax"


def from_layout(arrays: Mapping[str, Any], layout: Layout, state: Iterable[str] | None = None) -> Split:
    """Sorts a checkpoint's arrays by name into parameters and state, in our names and axes.

    state: patterns over the checkpoint's own names; they must match something, the layout's usual ones (None) need not.
    `LeafError` if there is nothing, or if a name is empty, is there twice, or could not be written out again, or if
    collections are not as Linen has them; `ConfigError` for a pattern that matches nothing.
    """
    left_out = [name for name in arrays if layout == "torch" and name.split(".")[-1] == COUNTERS]
    names = [name for name in arrays if name not in left_out]
    if not names:
        raise LeafError("the checkpoint holds no arrays")
    usual = {name for name in names for pattern in _STATE[layout] if fnmatch.fnmatchcase(name, pattern)}
    stated = usual if state is None else set(match(state, names))
    if layout == "linen":
        stated = _outside_params(names, stated)
    found: dict[str, str] = {}
    for name in names:
        path = _path(name, np.ndim(arrays[name]), layout)
        if path in found:
            raise LeafError(f"{name} and {found[path]} would both be called {path}")
        found[path] = name
    for path, name in found.items():
        if _name(path, found, layout) != name or (layout == "torch" and "/" in name):
            raise LeafError(f"{name}: no name of layout {layout!r}; `flax` takes all names as they are")
    leaves = {path: _turned(path, arrays[name], layout, (0, 1), (-1, -2)) for path, name in found.items()}
    params = {_bare(path, layout): leaf for path, leaf in leaves.items() if found[path] not in stated}
    others = {path: leaf for path, leaf in leaves.items() if found[path] in stated}
    return Split(params, others, left_out)


def to_layout(params: Mapping[str, Any], state: Mapping[str, Any], layout: Layout) -> dict[str, np.ndarray]:
    """The inverse of `from_layout`."""
    leaves = {**({_PARAMS + path: leaf for path, leaf in params.items()} if layout == "linen" else params), **state}
    turned = {path: _turned(path, np.asarray(leaf), layout, (-1, -2), (0, 1)) for path, leaf in leaves.items()}
    # Not `ascontiguousarray`: it makes a vector of a scalar.
    return {_name(path, leaves, layout): np.asarray(leaf, order="C") for path, leaf in turned.items()}


def _outside_params(names: Collection[str], stated: set[str]) -> set[str]:
    """What is state among the variables of a Linen module."""
    inside = {name for name in names if name.startswith(_PARAMS)}
    if not inside:
        raise LeafError(
            "layout 'linen' needs a collection 'params', and there is none; `flax` takes all names as they are"
        )
    if wrong := sorted(stated & inside):
        raise LeafError(f"{wrong[0]}: in collection 'params' and thus no state; `flax` takes all names as they are")
    return set(names) - inside


def _bare(path: str, layout: Layout) -> str:
    return path.removeprefix(_PARAMS) if layout == "linen" else path


def _path(name: str, axes: int, layout: Layout) -> str:
    *parents, last = name.split("." if layout == "torch" else "/")
    if layout == "torch":
        if last == "weight":
            last = "kernel" if axes >= 2 else "scale"
        else:
            last = _TORCH.get(last, f"{last}_" if _TAKEN.fullmatch(last) else last)
    elif layout == "keras":
        last = _KERAS.get(last, last)
    return "/".join((*parents, last))


def _name(path: str, all_paths: Collection[str], layout: Layout) -> str:
    *parents, last = path.split("/")
    if layout == "torch":
        names = {"kernel": "weight", "scale": "weight", **{ours: theirs for theirs, ours in _TORCH.items()}}
        last = names.get(last, last.removesuffix("_") if _TAKEN.fullmatch(last) else last)
        return ".".join((*parents, last))
    if layout == "keras":
        # A layer that normalises calls its bias beta; a convolution's is a bias.
        beside = {"/".join((*parents, name)) for name in ("scale", "mean", "var")}
        names = {ours: theirs for theirs, ours in _KERAS.items()}
        if last != "bias" or not beside.isdisjoint(all_paths):
            last = names.get(last, last)
    return "/".join((*parents, last))


def _turned(path: str, array: Any, layout: Layout, axes: tuple[int, int], to: tuple[int, int]) -> Any:
    """PyTorch's [out, in, ...] <-> our [..., in, out]."""
    kernel = layout == "torch" and np.ndim(array) >= 2 and path.split("/")[-1] == "kernel"
    return np.moveaxis(array, axes, to) if kernel else array
