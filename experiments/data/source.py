"""Where a data set comes from: the family of plug-ins of which `sets/` holds one file each."""

import io
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from quantree.registry import Plugin
from quantree.task import Classification, Task

Split = tuple[np.ndarray, np.ndarray]
Example = Mapping[str, Any]


class Source(Plugin, family="dataset"):
    """A data set under its TFDS name: how its raw files become TFDS examples, and these become arrays.

    Splits are called "train" and "test". Inputs and targets of one split are arrays [n, ...] of the same length.
    """

    version: ClassVar[str]  # of the TFDS data set
    title: ClassVar[str]  # half a line for people
    sizes: ClassVar[Mapping[str, int]]  # examples per split
    shape: ClassVar[tuple[int, ...]]  # of one input
    classes: ClassVar[tuple[str, ...]]  # what a network's outputs stand for: the labels 0, 1, ..., or quantities
    highest: ClassVar[int | None] = 255  # largest value that an input can hold; None: inputs are tokens, not amounts
    raw: ClassVar[str] = ""  # what the folder of raw files holds; empty: the set comes with an installed package
    official: ClassVar[bool] = False  # TFDS knows the set and can download it
    task: ClassVar[Task] = Classification()

    @property
    def dtype(self) -> type[np.number]:
        """Of inputs as a network gets them."""
        return np.int32 if self.highest is None else np.float32

    @abstractmethod
    def builder(self) -> type[Any]:
        """The `tfds.core.GeneratorBasedBuilder` with version and features; the official one where there is one."""

    @abstractmethod
    def examples(self, raw: Path | None) -> dict[str, Sequence[Example]]:
        """Split -> examples, as the features of `builder()` want them, in the order of TFDS's own keys 0, 1, ...

        raw: folder of the raw files. `DataError` names the file that is missing or wrong.
        """

    @abstractmethod
    def arrays(self, examples: Iterable[Example]) -> Split:
        """Decoded examples of one split -> (inputs, targets)."""


class Images(Source):
    """Labelled images: features `image` (uint8 [h, w, c]) and `label`; inputs uint8 [n, h, w, c], targets int32 [n]."""

    @abstractmethod
    def read(self, raw: Path | None) -> dict[str, Split]:
        """Split -> (images uint8 [n, h, w, c], labels [n]) from the raw files."""

    def examples(self, raw: Path | None) -> dict[str, Sequence[Example]]:
        """See `Source.examples`."""
        return {split: self.encoded(*arrays) for split, arrays in self.read(raw).items()}

    def encoded(self, images: np.ndarray, labels: np.ndarray) -> Sequence[Example]:
        """Examples with the features `image` and `label`."""
        return _Encoded(images, labels)

    def arrays(self, examples: Iterable[Example]) -> Split:
        """See `Source.arrays`."""
        pairs = [(example["image"], example["label"]) for example in examples]
        images, labels = zip(*pairs, strict=True)
        return np.stack(images), np.array(labels, np.int32)


class _Encoded(Sequence[Example]):
    # TFDS takes images as encoded bytes, too; given arrays, it would call TensorFlow to encode them.
    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        return {"image": _png(self.images[index]), "label": int(self.labels[index])}


def _png(image: np.ndarray) -> bytes:
    """A PNG file of an image uint8 [h, w, c] with 1 or 3 channels."""
    written = io.BytesIO()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    # Of Pillow's levels, 3 is the smallest on MNIST and a third faster than the default, 6.
    Image.fromarray(pixels).save(written, "PNG", compress_level=3)
    return written.getvalue()
