"""The idx format of MNIST: two zero bytes, a type, the number of axes, the lengths (big-endian), the values."""

import gzip
import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.data.source import Split
from quantree.errors import DataError

FILES = {"train": "train", "test": "t10k"}
CONTENTS = "{train,t10k}-images-idx3-ubyte.gz and {train,t10k}-labels-idx1-ubyte.gz"


def read_idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in an idx file, gzipped if its name ends in .gz. `DataError` names a damaged file."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: can't be read, download it again: {error}") from None
    axes = content[3] if len(content) > 3 else 0
    start = 4 + 4 * axes
    if content[:3] != b"\x00\x00\x08" or len(content) < start:
        raise DataError(f"{path}: not an idx file of bytes: it begins with {content[:4].hex(' ') or 'nothing'}")
    shape = tuple(int(length) for length in np.frombuffer(content, ">u4", axes, offset=4))
    values = math.prod(shape)
    if len(content) - start != values:
        raise DataError(f"{path}: holds {len(content) - start} values where its header, {shape}, asks for {values}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_pairs(raw: Path, name: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> dict[str, Split]:
    """Images uint8 [n, *shape] and labels uint8 [n] of both splits, from the four files in `raw` or `raw/name`.

    shape: (h, w, 1). `DataError` names a file that is missing, damaged, or holds something else than expected.
    """
    splits = {}
    for split, prefix in FILES.items():
        size = sizes[split]
        images = _read_as(_find(raw, name, f"{prefix}-images-idx3-ubyte"), (size, *shape[:2]))
        labels = _read_as(_find(raw, name, f"{prefix}-labels-idx1-ubyte"), (size,))
        splits[split] = images.reshape(size, *shape), labels
    return splits


def _read_as(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    array = read_idx(path)
    if array.shape != shape:
        raise DataError(f"{path}: holds an array {array.shape} where {shape} is expected")
    return array


def _find(raw: Path, name: str, file: str) -> Path:
    places = [folder / f"{file}{ending}" for folder in (raw, raw / name) for ending in (".gz", "")]
    for place in places:
        if place.is_file():
            return place
    raise DataError(f"{name}: no file {file}.gz or {file} in {raw} or {raw / name}")
