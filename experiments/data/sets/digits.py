"""scikit-learn's digits: the test part of UCI's "optical recognition of handwritten digits" (Alpaydin, Kaynak 1998)."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from experiments.data.hold_out import hold_out
from experiments.data.source import Images, Split
from quantree.registry import register


@register("digits")
class Digits(Images):
    """Inputs uint8 [n, 8, 8, 1] with values 0..16. The package has one split of 1,797; a fixed fifth of it is test."""

    version = "1.0.0"
    title = "handwritten digits, 8 x 8 grey, from scikit-learn"
    sizes: ClassVar = {"train": 1437, "test": 360}
    shape = (8, 8, 1)
    classes = tuple("0123456789")
    highest = 16

    def builder(self) -> type[Any]:
        """See `Source.builder`."""
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.registered import skip_registration

        image = tfds.features.Image(shape=self.shape)
        label = tfds.features.ClassLabel(names=list(self.classes))

        with skip_registration():

            class Builder(tfds.core.GeneratorBasedBuilder):
                VERSION = tfds.core.Version(self.version)

                def _info(self) -> tfds.core.DatasetInfo:
                    return tfds.core.DatasetInfo(
                        builder=self,
                        description="8 x 8 images of handwritten digits with values 0..16, from scikit-learn.",
                        features=tfds.features.FeaturesDict({"image": image, "label": label}),
                        supervised_keys=("image", "label"),
                        homepage="https://archive.ics.uci.edu/dataset/80",
                    )

        return Builder

    def read(self, raw: Path | None) -> dict[str, Split]:
        """See `Images.read`."""
        from sklearn.datasets import load_digits

        loaded: Any = load_digits()
        images, labels = loaded.images.astype(np.uint8)[..., None], loaded.target.astype(np.uint8)
        train, test = hold_out(len(labels), self.sizes["test"], seed=0, labels=labels)
        return {"train": (images[train], labels[train]), "test": (images[test], labels[test])}
