"""Checkpoints on disk: safetensors files and Orbax directories."""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantree.checkpoints.layouts import Layout, detect, from_layout, to_layout
from quantree.errors import FormatError, LeafError
from quantree.model import Model, flatten, from_params, unflatten

SUFFIX = ".safetensors"
_MARK = "_CHECKPOINT_METADATA"  # Orbax puts it into every folder that it writes
# Names that promise a file of another format; an Orbax directory of that name would mislead.
_FOREIGN = frozenset(
    (".bin", ".ckpt", ".gguf", ".h5", ".hdf5", ".keras", ".msgpack", ".npy", ".npz", ".onnx", ".pkl", ".pt", ".pth")
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as a model without `apply`.

    layout: whose names and axes it had. left_out: names of counters (`num_batches_tracked`) that were not read.
    """

    model: Model
    layout: Layout
    left_out: tuple[str, ...]


def read(path: str | Path, layout: Layout | None = None, state: Iterable[str] | None = None) -> Checkpoint:
    """Reads a safetensors file, or an Orbax directory of nested arrays.

    layout: None: found out from the names. state: see `from_layout`. `FormatError` if it can't be read, `LeafError` if
    a leaf of it can't be taken; both name the file.
    """
    path = Path(path)
    arrays = _read_orbax(path) if path.is_dir() else _read_safetensors(path)
    layout = layout or detect(arrays)
    try:
        split = from_layout(arrays, layout, state)
        model = from_params(unflatten(split.params), unflatten(split.state))
    except LeafError as error:
        raise LeafError(f"{path}: {error}") from None
    return Checkpoint(model, layout, tuple(split.left_out))


def write(path: str | Path, params: Mapping[str, Any], state: Mapping[str, Any], layout: Layout) -> None:
    """Writes nested dicts of arrays: as safetensors if the name ends so, else as an Orbax directory.

    What appears is whole, or nothing does. A file or a checkpoint that was there is replaced; any other folder is a
    `FormatError`: it may hold anything. So is a name that promises another format, such as `net.pt`. `LeafError` for an
    array without elements, which Orbax can't hold.
    """
    path = Path(path)
    if path.suffix.lower() in _FOREIGN:
        raise FormatError(
            f"{path}: {path.suffix} files are not written; a name that ends in {SUFFIX} gives a file, one without an "
            "ending an Orbax directory"
        )
    arrays = to_layout(flatten(params), flatten(state), layout)
    if path.is_dir() and (path.suffix == SUFFIX or not (path / _MARK).exists()):
        raise FormatError(f"{path}: a folder that is no checkpoint; it is left as it is: choose another name")
    fresh, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        if path.suffix == SUFFIX:
            from safetensors.numpy import save

            # Hugging Face's transformers refuse a file that does not say this.
            metadata = {"format": "pt"} if layout == "torch" else None
            fresh.write_bytes(save(arrays, metadata))  # save_file would make a file that nobody else may read
        else:
            _write_orbax(fresh, path, arrays)
        if fresh.is_dir() and path.exists():  # no folder takes another's name in one step
            path.replace(old)
        try:
            fresh.replace(path)
        except BaseException:
            if old.exists():
                old.replace(path)
            raise
        _remove(old)
    finally:
        _remove(fresh)


def _write_orbax(folder: Path, name: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """`folder` becomes what `StandardCheckpointer` and `PyTreeCheckpointer` restore; errors say `name`."""
    # What `orbax.checkpoint.v1` saves lies a folder deeper, where these two don't find it; it reads both forms.
    from orbax.checkpoint import StandardCheckpointer

    for key, array in arrays.items():
        if not array.size:
            raise LeafError(
                f"{name}: {key} has no elements (shape {array.shape}), and Orbax holds no such array; choose a name "
                f"that ends in {SUFFIX}"
            )
    with StandardCheckpointer() as checkpointer:  # waits for the end
        checkpointer.save(folder.resolve(), unflatten(arrays))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except OSError as error:
        raise FormatError(f"{path}: can't be read: {error.strerror or error}") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise FormatError(f"{path}: not a safetensors file, or damaged: {error}") from None


def _read_orbax(path: Path) -> dict[str, np.ndarray]:
    from orbax.checkpoint import v1 as orbax

    try:
        tree: Any = orbax.load(str(path.resolve()))
    except Exception as error:  # Orbax raises whatever the damage makes it trip over
        raise FormatError(f"{path}: {_wrong(path, error)}") from None
    return {name: np.asarray(leaf) for name, leaf in flatten(_plain(tree)).items()}


def _wrong(path: Path, error: Exception) -> str:
    """Why Orbax could not read a folder; what it says itself may be advice to programmers."""
    steps = sorted((mark.parent.name for mark in path.glob(f"*/{_MARK}")), key=lambda name: (len(name), name))
    if steps:
        which = "" if len(steps) == 1 else "one of them, such as "
        return f"a folder of checkpoints, it holds steps {', '.join(steps)}; give {which}{path / steps[-1]}"
    if (path / _MARK).exists():
        first = str(error).strip().partition("\n")[0]
        return f"not an Orbax checkpoint of arrays, or damaged: {first}"
    whole = f"; it is a part of {path.parent}, give that" if (path.parent / _MARK).exists() else ""
    return f"not an Orbax checkpoint: there is no {_MARK} in it{whole}"


def _plain(tree: Any) -> Any:
    """Lists and mappings with whole numbers as keys become mappings with words as keys."""
    if isinstance(tree, Mapping):
        return {str(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return {str(i): _plain(value) for i, value in enumerate(tree)}
    return tree
