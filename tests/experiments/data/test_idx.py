import gzip
import shutil

import numpy as np
import pytest

from experiments.data.idx import read_idx, read_pairs
from quantree.errors import DataError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
CONTENT = bytes.fromhex("00000803 00000002 00000003 00000004") + IMAGES.tobytes()
# Without the time of day: two test workers must collect the same cases.
ZIPPED = gzip.compress(CONTENT, mtime=0)


def test_plain_and_gzipped_files_hold_the_same(tmp_path):
    (tmp_path / "images").write_bytes(CONTENT)
    (tmp_path / "images.gz").write_bytes(ZIPPED)
    assert np.array_equal(read_idx(tmp_path / "images"), IMAGES)
    assert np.array_equal(read_idx(tmp_path / "images.gz"), IMAGES)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cut.gz", ZIPPED[:-9], "can't be read"),
        ("plain.gz", CONTENT, "can't be read"),
        ("damaged.gz", ZIPPED[:12] + b"\xff" * 30, "can't be read"),
        ("cut", CONTENT[:-1], "holds 23 values"),
        ("long", CONTENT + b"\x00", "holds 25 values"),
        ("floats", b"\x00\x00\x0d" + CONTENT[3:], "begins with 00 00 0d 03"),
        ("header", CONTENT[:9], "not an idx file"),
        ("empty", b"", "begins with nothing"),
    ],
)
def test_a_bad_file_is_named_with_the_reason(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_idx(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_every_cut_of_a_file_is_noticed(tmp_path):
    path = tmp_path / "images"
    for length in range(len(CONTENT)):
        path.write_bytes(CONTENT[:length])
        with pytest.raises(DataError):
            read_idx(path)


def test_the_folder_and_its_parent_are_searched(small_raw):
    sizes = {"train": 300, "test": 100}
    from_parent = read_pairs(small_raw, "mnist", (28, 28, 1), sizes)
    from_folder = read_pairs(small_raw / "mnist", "mnist", (28, 28, 1), sizes)
    images, labels = from_parent["train"]
    assert images.shape == (300, 28, 28, 1)
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]  # the start of MNIST, as in any tutorial
    assert np.array_equal(from_folder["test"][0], from_parent["test"][0])


def test_a_missing_file_and_a_wrong_count_are_named(small_raw, tmp_path):
    raw = tmp_path / "raw"
    shutil.copytree(small_raw / "mnist", raw)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: holds .*300, 28, 28.* where .*60000, 28, 28"):
        read_pairs(raw, "mnist", (28, 28, 1), {"train": 60_000, "test": 100})
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"no file t10k-labels-idx1-ubyte\.gz"):
        read_pairs(raw, "mnist", (28, 28, 1), {"train": 300, "test": 100})
