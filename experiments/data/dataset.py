"""Data sets as arrays in memory, decoded once and kept next to the prepared directories."""

import contextlib
import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import experiments.data.sets  # noqa: F401  registers the data sets
from experiments.data import prepared
from experiments.data.source import Source, Split
from quantree.task import Task

CACHE = ".quantree"  # inside the data directory; may be deleted at any time
CACHE_VERSION = 1  # bump when the cached files change their meaning


@dataclass(frozen=True, eq=False)
class Dataset:
    """Both splits of a data set, (inputs [n, ...], targets [n, ...]), read-only.

    fingerprint: hex digest of the arrays; equal fingerprints, equal data in equal order.
    """

    source: Source
    train: Split
    test: Split
    fingerprint: str

    @property
    def name(self) -> str:
        """Name in TFDS, such as "mnist"."""
        return self.source.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.source.shape

    @property
    def classes(self) -> tuple[str, ...]:
        """What a network's outputs stand for: names of the labels 0, 1, ..., or of the quantities to predict."""
        return self.source.classes

    @property
    def task(self) -> Task:
        """Loss and metric that the data set is measured with."""
        return self.source.task


def source_named(name: str) -> Source:
    """The data set called `name`; `PluginError` with the nearest name if there is none."""
    return Source.named(name)()


def load(name: str, data_dir: str | Path | None = None) -> Dataset:
    """Loads a data set that is prepared in `data_dir` (see `data_root`).

    The arrays are memory-mapped, so processes share them. `PluginError` if there is no such data set, `DataError` with
    the command to type if it is not prepared.
    """
    source, root = source_named(name), prepared.data_root(data_dir)
    folder = prepared.find(source, root)
    cached = root / CACHE / f"{source.name}-{source.version}-{_state(folder)}"
    if cached.is_dir():
        return _mapped(source, cached)
    splits = prepared.read(source, folder)
    fingerprint = _fingerprint(splits)
    # A data directory that others own may be read-only: the arrays then stay in memory.
    with contextlib.suppress(OSError):
        _store(cached, splits, fingerprint)
        return _mapped(source, cached)
    return Dataset(source, splits["train"], splits["test"], fingerprint)


def _state(folder: Path) -> str:
    """Changes whenever the directory is prepared anew."""
    files = sorted((path.name, path.stat()) for path in folder.iterdir() if path.is_file())
    described = [(name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in files]
    return hashlib.sha256(repr((CACHE_VERSION, described)).encode()).hexdigest()[:16]


def _fingerprint(splits: dict[str, Split]) -> str:
    digest = hashlib.sha256()
    for split in ("train", "test"):
        for array in splits[split]:
            digest.update(f"{split} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _store(cached: Path, splits: dict[str, Split], fingerprint: str) -> None:
    """Writes the arrays into a directory that appears at once, whole. `OSError` if there is no way to write."""
    cached.parent.mkdir(exist_ok=True)
    written = Path(tempfile.mkdtemp(prefix="incomplete.", dir=cached.parent))
    try:
        for split, (inputs, targets) in splits.items():
            np.save(written / f"{split}_inputs.npy", inputs)
            np.save(written / f"{split}_targets.npy", targets)
        (written / "fingerprint.json").write_text(json.dumps(fingerprint))
        written.chmod(0o755)  # `mkdtemp` lets only its owner in
        written.rename(cached)
    except OSError:
        if not cached.is_dir():  # else another process was quicker
            raise
    finally:
        shutil.rmtree(written, ignore_errors=True)


def _mapped(source: Source, cached: Path) -> Dataset:
    def array(name: str) -> np.ndarray:
        return np.asarray(np.load(cached / f"{name}.npy", mmap_mode="r"))

    train = array("train_inputs"), array("train_targets")
    test = array("test_inputs"), array("test_targets")
    return Dataset(source, train, test, json.loads((cached / "fingerprint.json").read_text()))
