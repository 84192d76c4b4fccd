"""A stage maps a compressed model to a compressed model; a recipe is a list of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import jax
from pydantic import BeforeValidator, Field, WithJsonSchema

from quantree.encodings import Compressed, Encoding, match
from quantree.errors import ConfigError, DataError
from quantree.graph import Graph
from quantree.model import Model
from quantree.registry import Plugin
from quantree.task import Data

Patterns = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    Field(min_length=1),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
"""Shell-style patterns over leaf paths: one, or a list of them."""


@dataclass(frozen=True)
class Context:
    """What a stage may use besides the compressed model.

    model: the uncompressed baseline. key: this stage's own randomness. data: training and validation data, if there are
    any. folder: where to keep checkpoints, so that a long stage that was cut off goes on; None: nowhere.
    """

    model: Model
    key: jax.Array
    data: Data | None = None
    folder: Path | None = None

    def need_data(self, stage: str) -> Data:
        """The data; `DataError` if there are none."""
        if self.data is None:
            raise DataError(f"stage {stage!r} trains or measures: give `data` to Recipe.run")
        return self.data


class Stage(Plugin, family="stage"):
    """One step of a recipe. Subclass `Transform` or `Recovery`, or this for anything else."""

    trains: ClassVar[bool] = False
    train_mode: ClassVar[bool] = False
    """True if it runs the network in train mode, in which norms use the statistics of the batch, not those stored."""
    needs_eval_mode: ClassVar[bool] = False
    """True if what it leaves is the network in eval mode only: no stage of train mode may follow."""
    rearranges: ClassVar[bool] = False
    """True if it moves, merges or removes channels: what was pruned stays so, but in other places of its leaf."""

    def run(self, compressed: Compressed, context: Context) -> Compressed:
        """Returns the new model; never changes the old one."""
        raise NotImplementedError

    @property
    def chooses(self) -> str | None:
        """The setting by which this stage chooses something on validation data; None: it does not."""
        return None

    def expand(self) -> "tuple[Stage, ...]":
        """The stages that this one stands for: itself, unless it is a preset."""
        return (self,)

    def check(self, leaves: Mapping[str, Encoding]) -> None:
        """`ConfigError` if the settings can't fit a model with these leaves. Runs before any training is spent.

        They are as earlier stages leave them, in so far as those tell it by `foreseen`.
        """

    def check_channels(self, graph: Callable[[], Graph]) -> None:
        """`ConfigError` if groups of channels that the settings name are not among those of the network.

        `graph` reads them off its program, which takes a moment: it is for stages that do name some.
        """

    def foreseen(self, leaves: Mapping[str, Encoding]) -> Mapping[str, Encoding]:
        """The leaves after this stage, as far as their kinds are known before it runs; arrays in them may be missing.

        For the checks of later stages. The default says nothing: they stay as they are. A stage that gives leaves other
        names must tell so, or those behind it are refused for using them.
        """
        return leaves


class Transform(Stage):
    """Makes the model smaller or rearranges it, without training."""

    def at(self, progress: float) -> "Transform":
        """The transform at a part of its strength, for gradual use in training; progress runs from 0 to 1."""
        raise NotImplementedError


class Recovery(Stage):
    """Wins accuracy back. One that only runs the network in eval mode sets `train_mode` to False."""

    trains: ClassVar[bool] = True
    train_mode: ClassVar[bool] = True


def select(patterns: Patterns | None, leaves: Mapping[str, Encoding]) -> list[str]:
    """Paths that a stage takes: those that match, or, without patterns, every float leaf with two or more axes that is
    not empty.

    `ConfigError` if there is none.
    """
    if patterns is not None:
        return match(patterns, leaves)
    taken = [
        path for path, leaf in leaves.items() if len(leaf.shape) >= 2 and 0 not in leaf.shape and is_float_leaf(leaf)
    ]
    if not taken:
        raise ConfigError("the model has no float leaf with two or more axes; name the leaves to take in `match`")
    return taken


def is_float_leaf(leaf: Encoding) -> bool:
    """True if the leaf decodes to floats."""
    return jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating)
