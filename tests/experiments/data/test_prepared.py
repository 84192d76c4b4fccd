import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.hashing import Hasher

from experiments.data import load, prepared, source
from experiments.data.__main__ import main
from experiments.data.dataset import source_named
from experiments.data.idx import read_idx, read_pairs
from quantree.errors import DataError

MNIST = source_named("mnist")
PATHS = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
FOLDER = Path("mnist", "3.0.1")


@pytest.fixture
def root(small_mnist, small_raw, tmp_path):
    """A data directory with a small mnist."""
    prepared.write(MNIST, small_raw, tmp_path)
    return tmp_path


def rows(images: np.ndarray, labels: np.ndarray) -> list[bytes]:
    """Each example as bytes, sorted: TFDS shuffles the records."""
    return sorted(image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True))


def test_the_directory_is_laid_out_as_by_tfds(root):
    assert sorted(path.name for path in (root / FOLDER).iterdir()) == [
        "dataset_info.json",
        "features.json",
        "mnist-test.array_record-00000-of-00001",
        "mnist-train.array_record-00000-of-00001",
    ]
    assert [path.name for path in root.iterdir()] == ["mnist"]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_features_and_version_are_the_official_ones(name, small_mnist, small_raw, tmp_path):
    prepared.write(source_named(name), small_raw / "mnist", tmp_path)
    ours: Any = tfds.builder_from_directory(tmp_path / name / "3.0.1")
    official: Any = tfds.builder_cls(name)(data_dir=tmp_path / "elsewhere")
    assert ours.info.features.to_json() == official.info.features.to_json()
    assert ours.info.supervised_keys == official.info.supervised_keys
    assert str(official.version) == "3.0.1"
    assert ours.info.as_proto.module_name == official.info.as_proto.module_name
    if name == "fashion_mnist":
        assert tuple(official.info.features["label"].names) == source_named(name).classes


def test_what_is_read_is_what_was_in_the_raw_files(root, small_raw):
    read = prepared.read(MNIST, root / FOLDER)
    for split, (images, labels) in read_pairs(small_raw, "mnist", MNIST.shape, MNIST.sizes).items():
        assert read[split][0].dtype == np.uint8
        assert read[split][1].dtype == np.int32
        assert rows(*read[split]) == rows(images, labels)


def test_records_stand_in_the_order_of_tfds(root, small_raw):
    """TFDS sorts by a salted hash of the key, so that a set has one order whoever prepares it."""
    hasher = Hasher("train")
    order = sorted(range(300), key=hasher.hash_key)
    labels = read_idx(small_raw / "mnist" / "train-labels-idx1-ubyte")
    assert prepared.read(MNIST, root / FOLDER)["train"][1].tolist() == labels[order].tolist()


def test_a_death_in_the_middle_leaves_nothing_that_looks_whole(small_mnist, small_raw, tmp_path):
    script = f"""
import os
from pathlib import Path
from typing import Any
from experiments.data import prepared, source
from experiments.data.sets.mnist import Mnist
Mnist.sizes = {{"train": 300, "test": 100}}
written = []
encode = source._png
def dying(image):
    written.append(image)
    return encode(image) if len(written) < 350 else os._exit(9)
source._png = dying
prepared.write(Mnist(), Path({str(small_raw)!r}), Path({str(tmp_path)!r}))
"""
    assert subprocess.run([sys.executable, "-c", script], env=PATHS).returncode == 9
    assert not (tmp_path / FOLDER).exists()
    assert not prepared.is_prepared(MNIST, tmp_path)
    prepared.write(MNIST, small_raw, tmp_path)
    assert len(load("mnist", tmp_path).train[0]) == 300


def test_an_error_in_the_middle_leaves_nothing(small_mnist, small_raw, tmp_path, monkeypatch):
    def broken(image):
        raise KeyboardInterrupt

    monkeypatch.setattr(source, "_png", broken)
    with pytest.raises(KeyboardInterrupt):
        prepared.write(MNIST, small_raw, tmp_path)
    assert list((tmp_path / "mnist").iterdir()) == []


def test_the_second_of_two_processes_finds_the_set_in_place(small_mnist, small_raw, tmp_path, monkeypatch):
    """While one process writes, another finishes."""
    encode, others = source._png, []

    def overtaken(image):
        if not others:
            others.append(True)
            prepared.write(MNIST, small_raw, tmp_path)
        return encode(image)

    monkeypatch.setattr(source, "_png", overtaken)
    assert prepared.write(MNIST, small_raw, tmp_path) == tmp_path / FOLDER
    assert [path.name for path in (tmp_path / "mnist").iterdir()] == ["3.0.1"]


def test_a_missing_set_is_an_error_with_the_command_to_type(small_mnist, small_raw, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))
    with pytest.raises(DataError, match="mnist is not prepared in") as caught:
        load("mnist", tmp_path / "a b")
    command = shlex.split(str(caught.value).splitlines()[-1])
    assert command == shlex.split(
        f"python -m experiments.data prepare mnist --from RAW_DIR --data-dir '{tmp_path / 'a b'}'"
    )
    typed = [str(small_raw) if word == "RAW_DIR" else word for word in command[3:]]
    assert main(typed) == 0
    assert len(load("mnist", tmp_path / "a b").test[0]) == 100
    with pytest.raises(DataError) as caught:
        load("mnist")
    assert str(caught.value).endswith("prepare mnist --from RAW_DIR")


def test_a_set_of_tfrecords_is_an_error_with_the_command_that_converts_it(root):
    folder = root / FOLDER
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    for path in folder.glob("*.array_record-*"):
        path.rename(folder / path.name.replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="is prepared as tfrecord, and array_record is needed") as caught:
        load("mnist", root)
    command = shlex.split(str(caught.value).splitlines()[-1])
    flags = dict(word.removeprefix("--").split("=") for word in command[3:])
    assert flags == {"dataset_version_dir": str(folder), "out_file_format": "array_record"}
    # The module itself can be imported only where Apache Beam is installed.
    spec = importlib.util.find_spec(command[2])
    assert spec is not None and spec.origin is not None
    known = re.findall(r"flags\.DEFINE_\w+\(\s*'(\w+)'", Path(spec.origin).read_text())
    assert flags.keys() <= set(known)


def test_a_set_converted_in_place_is_read(root):
    """TFDS's converter keeps the TFRecords and names array_record as an alternative."""
    path = root / FOLDER / "dataset_info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]}))
    assert len(load("mnist", root).train[0]) == 300


@pytest.mark.parametrize("keep", [0, 100, 20_000])
def test_a_cut_shard_is_an_error(root, keep):
    shard = root / FOLDER / "mnist-train.array_record-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"3\.0\.1: split 'train' .* delete the folder and prepare it again"):
        load("mnist", root)


def test_a_missing_shard_and_unreadable_metadata_are_errors(root):
    (root / FOLDER / "mnist-test.array_record-00000-of-00001").unlink()
    with pytest.raises(DataError, match="split 'test'"):
        load("mnist", root)
    (root / FOLDER / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset_info\.json: can't be read"):
        load("mnist", root)


def test_another_count_than_the_official_one_is_an_error(root, monkeypatch):
    monkeypatch.setattr(type(MNIST), "sizes", {"train": 60_000, "test": 10_000})
    with pytest.raises(DataError, match=r"split 'train' is \(300, 28, 28, 1\) where \(60000, 28, 28, 1\) is expected"):
        load("mnist", root)


def test_a_folder_without_metadata_is_not_taken_for_a_set(small_mnist, small_raw, tmp_path):
    (tmp_path / FOLDER).mkdir(parents=True)
    with pytest.raises(DataError, match="not whole: delete it"):
        prepared.write(MNIST, small_raw, tmp_path)


class Downloading:
    """Stands for the official builder, which needs a network."""

    def __init__(self, original: Path | None, data_dir: Path):
        self.original, self.data_dir = original, data_dir

    def download_and_prepare(self) -> None:
        if self.original is None:
            raise ConnectionError("no route")
        shutil.copytree(self.original, self.data_dir, dirs_exist_ok=True)


def test_where_tensorflow_is_installed_tfds_downloads(root, tmp_path, monkeypatch):
    asked = []

    def builder(name, data_dir, file_format):
        asked.append((name, file_format))
        return Downloading(root, data_dir)

    monkeypatch.setattr(prepared.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(tfds, "builder", builder)
    assert len(load("mnist", tmp_path / "new").train[0]) == 300
    assert asked == [("mnist", "array_record")]


def test_a_failed_download_tells_why_and_what_else_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir, file_format: Downloading(None, data_dir))
    with pytest.raises(DataError, match=r"could not download it: no route.*\n.*prepare mnist --from RAW_DIR"):
        load("mnist", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_whole_set_equals_the_raw_files(name, raw_dir, request):
    root = request.getfixturevalue(f"{name}_dir")
    dataset, chosen = load(name, root), source_named(name)
    raw = read_pairs(raw_dir, name, chosen.shape, chosen.sizes)
    assert rows(*dataset.train) == rows(*raw["train"])
    assert rows(*dataset.test) == rows(*raw["test"])
