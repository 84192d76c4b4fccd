"""The binary format of CIFAR: one byte for each label, then 3,072 bytes: red, green, blue planes, row by row."""

from pathlib import Path

import numpy as np

from quantree.errors import DataError

SIDE = 32
PIXELS = 3 * SIDE * SIDE


def read_batches(folder: Path, files: tuple[str, ...], labels: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [size, 32, 32, 3] and labels uint8 [size, labels] of one split, from the files in their order.

    `DataError` names a file that is missing, cut off, or holds something else, or the split that has another size.
    """
    parts = [_read(folder / file, labels) for file in files]
    rows = np.concatenate(parts)
    if len(rows) != size:
        raise DataError(f"{folder}: {', '.join(files)} hold {len(rows):,} images where {size:,} are expected")
    images = rows[:, labels:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), rows[:, :labels]


def find(raw: Path, folder: str, file: str) -> Path:
    """The folder with the binary files: `raw` itself or `folder` inside of it. `DataError` if it is neither."""
    for place in (raw, raw / folder):
        if (place / file).is_file():
            return place
    raise DataError(f"no file {file} in {raw} or {raw / folder}; the binary version of the set is needed")


def _read(path: Path, labels: int) -> np.ndarray:
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from None
    if not len(content) or len(content) % (labels + PIXELS):
        raise DataError(
            f"{path}: {len(content):,} bytes are no whole number of images of {labels + PIXELS:,}: "
            "it is cut off, or not the binary version of the set"
        )
    return content.reshape(-1, labels + PIXELS)
