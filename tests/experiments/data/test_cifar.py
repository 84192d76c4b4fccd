from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments.data import prepared
from experiments.data.cifar import find, read_batches
from experiments.data.dataset import source_named
from experiments.data.sets.cifar10 import Cifar10
from experiments.data.sets.cifar100 import Cifar100
from quantree.errors import DataError

RNG = np.random.default_rng(0)


def write(folder: Path, source: Cifar10, count: int) -> None:
    """Raw files of `count` images each; the last label is the index modulo 10, an earlier one is 1."""
    folder.mkdir(parents=True)
    for names in source.files.values():
        for name in names:
            labels = np.stack([np.ones(count), np.arange(count) % 10], axis=1)[:, -len(source.names) :]
            images = RNG.integers(0, 256, (count, 3072))
            (folder / name).write_bytes(np.concatenate([labels, images], axis=1).astype(np.uint8).tobytes())


@pytest.mark.parametrize(("name", "source"), [("cifar10", Cifar10), ("cifar100", Cifar100)])
def test_a_prepared_set_has_the_official_features_and_our_pixels(
    name: str, source: type[Cifar10], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = source()
    monkeypatch.setattr(source, "sizes", {split: 20 * len(files) for split, files in known.files.items()})
    write(tmp_path / "raw" / known.folder, known, 20)
    prepared.write(known, tmp_path / "raw", tmp_path)
    ours: Any = tfds.builder_from_directory(tmp_path / name / known.version)
    official: Any = tfds.builder_cls(name)(data_dir=tmp_path / "elsewhere")
    assert ours.info.features.keys() == official.info.features.keys()
    assert str(official.version) == known.version and ours.info.supervised_keys == official.info.supervised_keys
    assert tuple(ours.info.features["label"].names) == known.classes
    assert len(known.classes) == official.info.features["label"].num_classes
    assert ours.info.as_proto.module_name == official.info.as_proto.module_name
    read = prepared.read(known, tmp_path / name / known.version)
    images, labels = read["test"]
    raw, wanted = read_batches(tmp_path / "raw" / known.folder, known.files["test"], len(known.names), 20)
    assert images.shape == (20, 32, 32, 3) and images.dtype == np.uint8
    assert sorted(map(bytes, images)) == sorted(map(bytes, raw))
    assert sorted(labels) == sorted(wanted[:, -1])


def test_pixels_lie_plane_by_plane(tmp_path: Path) -> None:
    pixels = np.arange(3072) // 1024 * 50
    (tmp_path / "a.bin").write_bytes(bytes([7, *pixels]))
    images, labels = read_batches(tmp_path, ("a.bin",), 1, 1)
    assert (images == [0, 50, 100]).all() and labels.tolist() == [[7]]


def test_files_that_are_missing_or_cut_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file test_batch.bin in .* binary version"):
        find(tmp_path, "cifar-10-batches-bin", "test_batch.bin")
    (tmp_path / "a.bin").write_bytes(bytes(100))
    with pytest.raises(DataError, match=r"a.bin: 100 bytes are no whole number of images of 3,073"):
        read_batches(tmp_path, ("a.bin",), 1, 1)
    (tmp_path / "a.bin").write_bytes(bytes(3073))
    with pytest.raises(DataError, match="hold 1 images where 2 are expected"):
        read_batches(tmp_path, ("a.bin",), 1, 2)


def test_names_are_complete() -> None:
    assert len(set(Cifar100.classes)) == 100 and list(Cifar100.classes) == sorted(Cifar100.classes)
    assert len(source_named("cifar100").names["coarse_label"]) == 20  # pyright: ignore[reportAttributeAccessIssue]
