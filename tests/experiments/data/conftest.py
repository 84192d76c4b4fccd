"""A small MNIST cut from the real one, and digits prepared once."""

import lzma
from pathlib import Path

import numpy as np
import pytest

from experiments.data.sets.mnist import Mnist

SIZES = {"train": 300, "test": 100}


@pytest.fixture
def small_mnist(monkeypatch) -> None:
    """mnist and fashion_mnist are to have as few examples as `small_raw` holds."""
    monkeypatch.setattr(Mnist, "sizes", SIZES)


@pytest.fixture(scope="session")
def small_raw(shared_data, tmp_path_factory) -> Path:
    """The first images and labels of MNIST's four files, as plain idx files in a folder called mnist."""
    raw = tmp_path_factory.mktemp("raw")
    (raw / "mnist").mkdir()
    for split, prefix in (("train", "train"), ("test", "t10k")):
        for file, axes, each in ((f"{prefix}-images-idx3-ubyte", 3, 28 * 28), (f"{prefix}-labels-idx1-ubyte", 1, 1)):
            start, size = 4 + 4 * axes, SIZES[split]
            with lzma.open(shared_data / "mnist" / f"{file}.xz") as original:
                content = original.read(start + each * size)
            count = np.array(size, ">u4").tobytes()
            (raw / "mnist" / file).write_bytes(content[:4] + count + content[8:])
    return raw


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory) -> Path:
    """A data directory where digits is prepared and cached."""
    from experiments.data import load

    root = tmp_path_factory.mktemp("digits")
    load("digits", root)
    return root
