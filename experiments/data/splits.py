"""What a config says about data, and the batches that come of it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator

from experiments.data.augment import Augment, Augmentation
from experiments.data.dataset import Dataset, load, source_named
from experiments.data.hold_out import hold_out
from quantree.errors import DataError, PluginError
from quantree.schema import Config
from quantree.task import Batch, Classification, Data, batches


class Normal(Config):
    """Fixed numbers to scale by, one per channel, in the scale of inputs from 0 to 1."""

    mean: tuple[float, ...] = Field(min_length=1, description="subtracted, per channel; inputs run from 0 to 1")
    deviation: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1, description="divided by, per channel")


class DataConfig(Config):
    """Which data set, how much of its training split is held out, how its inputs are scaled and varied."""

    name: str = Field(default="digits", description="data set; `python -m experiments.data list` shows the known ones")
    validation: int | float = Field(
        default=0.1,
        description="cut from train for validation: a share between 0 and 1, or a number of examples",
    )
    stratified: bool = Field(
        default=True, description="whether every class, if there are classes, gives the same share to validation"
    )
    scale: Literal["unit", "standard", "raw"] | Normal = Field(
        default="unit",
        description="of inputs; unit: from 0 to 1, at the largest possible value; standard: mean 0 and deviation 1 per "
        "channel, measured on the examples that are trained on; raw: as stored; or a fixed mean and deviation. Tokens "
        "always stay as stored",
    )
    augment: Augment | None = Field(default=None, description="random crops and flips of training images")

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            source_named(name)
        except PluginError as error:
            raise ValueError(str(error)) from None
        return name

    @field_validator("validation")
    @classmethod
    def _is_share_or_count(cls, value: int | float) -> int | float:
        if not (value >= 1 if isinstance(value, int) else 0 < value < 1):
            raise ValueError("expected a share above 0 and below 1, or a number of examples, at least 1")
        return value

    def held_out(self, examples: int) -> int:
        """How many of a training split's examples validation gets. `DataError` if it would get all of them."""
        count = self.validation if isinstance(self.validation, int) else max(1, round(self.validation * examples))
        if count >= examples:
            raise DataError(
                f"{self.name}: validation of {count} leaves nothing of {examples} training examples to train on"
            )
        return count


@dataclass(frozen=True)
class Scaling:
    """Maps stored inputs to what the network sees: `(inputs - mean) / deviation`, each a scalar or one per channel."""

    mean: np.ndarray | np.float32
    deviation: np.ndarray | np.float32

    @property
    def black(self) -> tuple[float, ...]:
        """What a stored 0 becomes, per channel or for all."""
        return tuple(float(each) for each in np.atleast_1d((0 - self.mean) / self.deviation))

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Inputs uint8 [n, ..., c] -> float32 [n, ..., c]."""
        return (inputs.astype(np.float32) - self.mean) / self.deviation


@dataclass(frozen=True, eq=False)
class Splits:
    """The three splits as networks see them: inputs float32 [n, ...], or tokens as stored; targets as stored (labels
    int32 [n]).

    data: training and validation, for stages. test: `(batch_size,)` -> the test split in order; only to measure the end
    result, never to choose anything. scaling: None for tokens. training_rows, validation_rows: which rows of the set's
    training split went where.
    """

    dataset: Dataset
    data: Data
    test: Callable[[int], Iterable[Batch]]
    scaling: Scaling | None
    training_rows: np.ndarray
    validation_rows: np.ndarray


def splits(config: DataConfig, seed: int, data_dir: str | Path | None = None) -> Splits:
    """Loads a data set and cuts it as `config` says; `seed` fixes the validation split.

    Arrays stay as they are stored; batches are scaled one by one. `DataError` if the data set is not prepared, or has
    fewer training examples than validation asks for; `PluginError` if there is no such data set.
    """
    dataset = load(config.name, data_dir)
    inputs, targets = dataset.train
    size = len(inputs)
    stratified = config.stratified and isinstance(dataset.task, Classification)
    kept, held = hold_out(size, config.held_out(size), seed, targets if stratified else None)
    scaling = _scaling(config, dataset, kept)
    if config.augment is not None and len(dataset.shape) != 3:
        raise DataError(f"{config.name}: only images [height, width, channels] can be augmented, not {dataset.shape}")

    def scaled(stored: np.ndarray) -> np.ndarray:
        return stored if scaling is None else scaling(stored)

    def fetched(rows: Iterable[Batch]) -> Iterator[Batch]:
        for chosen, _ in rows:
            yield scaled(inputs[chosen]), targets[chosen]

    # The order is drawn over row numbers, which pass for labels, so that the arrays need not be copied.
    rows = Data.from_arrays((kept, kept), (held, held), Classification())
    data = Data(
        train=lambda seed, epoch, batch_size: fetched(rows.train(seed, epoch, batch_size)),
        validation=lambda batch_size: fetched(rows.validation(batch_size)),
        task=dataset.task,
        examples=len(kept),
        augment=None if config.augment is None or scaling is None else Augmentation(config.augment, scaling.black),
    )

    def test(batch_size: int) -> Iterator[Batch]:
        for part, wanted in batches(dataset.test, batch_size):
            yield scaled(part), wanted

    return Splits(dataset, data, test, scaling, kept, held)


def _scaling(config: DataConfig, dataset: Dataset, rows: np.ndarray) -> Scaling | None:
    if dataset.source.highest is None:
        if config.scale not in ("unit", "raw"):
            raise DataError(f"{config.name}: its inputs are tokens, which `scale` can't change; leave it out")
        return None
    highest = np.float32(dataset.source.highest)
    if isinstance(config.scale, Normal):
        mean, deviation = (np.array(each, np.float32) * highest for each in (config.scale.mean, config.scale.deviation))
        for name, numbers in (("mean", mean), ("deviation", deviation)):
            if len(numbers) not in (1, dataset.shape[-1]):
                raise DataError(f"{config.name}: `{name}` has {len(numbers)} numbers for {dataset.shape[-1]} channels")
        return Scaling(mean, deviation)
    if config.scale == "standard":
        return _standard(dataset.train[0], rows)
    return Scaling(np.float32(0), highest if config.scale == "unit" else np.float32(1))


def _standard(inputs: np.ndarray, rows: np.ndarray) -> Scaling:
    """Mean and standard deviation per channel over `rows` of inputs uint8 [n, ..., c]; of a constant channel, 1."""
    total, squares = np.zeros((2, inputs.shape[-1]), np.int64)
    for chosen, _ in batches((rows, rows), 1000):
        part = inputs[chosen].astype(np.int64).reshape(-1, inputs.shape[-1])
        total, squares = total + part.sum(0), squares + (part**2).sum(0)
    values = len(rows) * inputs[0].size / inputs.shape[-1]
    mean = total / values
    deviation = np.sqrt(squares / values - mean**2)
    return Scaling(mean.astype(np.float32), np.where(deviation > 0, deviation, 1).astype(np.float32))
