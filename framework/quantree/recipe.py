"""An ordered list of stages, checked before it runs and after each step."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from pydantic import Field

from quantree import presets, quantizers, recovery, transforms  # registers the stages that come with quantree
from quantree.encodings import Coded, Compressed, Encoding
from quantree.errors import ConfigError, DataError, QuantreeError
from quantree.graph import Graph, couple
from quantree.model import Apply, Model, told
from quantree.registry import Choice
from quantree.schema import Config, Document, Location, dotted, freeze, validate
from quantree.stage import Context, Stage
from quantree.task import Data

__all__ = ["Recipe", "changed_leaves", "presets", "quantizers", "recovery", "transforms"]

_TRIED = 128  # examples on which a network is tried out before anything runs

OnStage = Callable[[int, Stage, Compressed, Compressed, float], None]


class Recipe(Config):
    """How to compress: stages in the order in which they run. A method of a paper is a recipe."""

    stages: tuple[Choice[Stage], ...] = Field(description="the stages, in order")

    @classmethod
    def from_config(cls, stages: Sequence[Any] | Document, location: Location = ()) -> "Recipe":
        """Builds a recipe from a list of `{kind: name, **settings}`, or from a document that holds one at its root.

        `location` is where that list stands in its file. `ConfigError` names file, line, key and the nearest valid
        name.
        """
        document = stages if isinstance(stages, Document) else Document(freeze(stages), "recipe")
        if not isinstance(document.data, tuple) or not document.data:
            raise document.error(location, "a recipe is a list of stages, and has at least one")
        lines = {("stages", *place): line for place, line in document.lines.items()}
        try:
            return validate(cls, Document({"stages": document.data}, document.source, lines))
        except ConfigError as error:
            raise ConfigError(str(error).replace("stages[", f"{dotted(location)}[", 1)) from None

    @property
    def expanded(self) -> tuple[Stage, ...]:
        """The stages that run: presets replaced by what they stand for."""
        return tuple(inner for stage in self.stages for inner in stage.expand())

    def check(
        self,
        model: Model,
        document: Document | None = None,
        location: Location = (),
        graph: Callable[[], Graph] | None = None,
    ) -> None:
        """Tells what can't fit this model before any time is spent; its arrays may be `jax.ShapeDtypeStruct`s.

        With the document (the list of stages, which stands at `location` in its file) the `ConfigError` names the line.
        graph: reads the network's groups of channels; without it, stages that name some are not held against them. Nor
        are those behind a stage that foresees other leaves, which make another network.
        """
        leaves: Mapping[str, Encoding] = Compressed.from_model(model).leaves
        eval_only = ""
        for index, stage in enumerate(self.stages):
            for inner in stage.expand():
                try:
                    inner.check(leaves)
                    if graph is not None:
                        inner.check_channels(graph)
                    foreseen = inner.foreseen(leaves)
                    if foreseen.keys() != leaves.keys():
                        graph = None
                    leaves = foreseen
                    if eval_only and inner.train_mode:
                        raise ConfigError(
                            f"it runs the network in train mode, which {eval_only!r} before it rules out; put it first"
                        )
                except ConfigError as error:
                    if document is None:
                        raise ConfigError(f"stage {index} ({stage.name}): {error}", error.value) from None
                    place = (index, *document.at((index,)).find(error.value))
                    message = document.error(place, str(error))
                    written, wanted = dotted(place), dotted((*location, *place))
                    raise ConfigError(str(message).replace(written, wanted, 1), error.value) from None
                if inner.needs_eval_mode:
                    eval_only = inner.name

    def run(
        self,
        model: Model,
        *,
        key: jax.Array,
        data: Data | None = None,
        folder: Path | None = None,
        on_stage: OnStage | None = None,
    ) -> Compressed:
        """Compresses a model.

        data: needed only if a stage trains or measures. folder: where long stages keep checkpoints. on_stage: called
        after each stage with (index, stage, model before, model after, seconds). `QuantreeError` tells before anything
        runs if one of these is not what it must be.
        """
        _check_given(model, key, data)
        batch, apply = None if data is None else next(iter(data.validation(_TRIED)), None), model.apply
        graph = None
        if apply is not None and batch is not None:  # without a batch, whatever needs one says so
            graph = functools.cache(lambda: couple(apply, model.params, model.state, batch[0]))
        self.check(model, graph=graph)
        for index, stage in enumerate(self.stages):
            if data is None and any(inner.trains for inner in stage.expand()):
                raise DataError(f"stage {index} ({stage.name}) learns from data: give `data` to Recipe.run")
        if apply is not None and batch is not None:
            _try_out(apply, model, batch[0])
        compressed = Compressed.from_model(model)
        for index, stage in enumerate(self.expanded):
            before, started = compressed, time.perf_counter()
            compressed = self.run_stage(index, before, model=model, key=key, data=data, folder=folder)
            if on_stage is not None:
                on_stage(index, stage, before, compressed, time.perf_counter() - started)
        return compressed

    def run_stage(
        self,
        index: int,
        compressed: Compressed,
        *,
        model: Model,
        key: jax.Array,
        data: Data | None = None,
        folder: Path | None = None,
    ) -> Compressed:
        """Runs one stage of `expanded`. `key` is the recipe's; the stage gets its own. Checks what must stay true."""
        stage = self.expanded[index]
        place = None if folder is None else folder / f"stage-{index}"
        try:
            after = stage.run(compressed, Context(model, jax.random.fold_in(key, index), data, place))
        except ConfigError as error:
            raise ConfigError(f"stage {index} ({stage.name}): {error}", error.value) from None
        except QuantreeError as error:
            raise type(error)(f"stage {index} ({stage.name}): {error}") from error.__cause__
        _assert_kept(compressed, after, stage, index)
        return after


def _check_given(model: Any, key: Any, data: Any) -> None:
    if not isinstance(model, Model):
        raise QuantreeError(
            f"expected a Model, not {told(model)}; make it one: quantree.from_nnx(module), "
            "from_linen(module, variables) or from_params(params)"
        )
    try:
        jax.random.fold_in(key, 0)
    except (TypeError, ValueError):
        raise QuantreeError(f"key must be a key of JAX, such as jax.random.key(0), not {key!r}") from None
    if not isinstance(data, Data | None):
        raise DataError(
            f"data must be a quantree.Data, not {told(data)}; make it one: Data.from_arrays((inputs, targets), "
            "(validation_inputs, validation_targets), task)"
        )


def _try_out(apply: Apply, model: Model, inputs: Any) -> None:
    """Errors of a network that would else show deep in the first stage that runs it. Computes nothing."""
    try:
        outputs = jax.eval_shape(apply, model.params, model.state, inputs)
    except QuantreeError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        raise QuantreeError(f"the network fails on validation inputs: {type(error).__name__}: {reason}") from error
    if not isinstance(outputs, tuple) or len(outputs) != 2 or not isinstance(outputs[1], Mapping):
        raise QuantreeError("`apply` must return a pair: the outputs, and the state as a dict")


def changed_leaves(before: Compressed, after: Compressed) -> list[str]:
    """Paths of the leaves that a stage has replaced or added."""
    return [path for path, leaf in after.leaves.items() if before.leaves.get(path) is not leaf]


def _assert_kept(before: Compressed, after: Compressed, stage: Stage, index: int) -> None:
    """A later stage never undoes an earlier one: zeros stay zero, codes stay the same codes."""
    for path in changed_leaves(before, after):
        old, new = before.leaves.get(path), after.leaves[path]
        zeros = None if old is None or getattr(stage, "release_mask", False) else old.zeros()
        if zeros is not None:
            kept = new.zeros()
            if kept is None or not _stay(zeros, kept, stage.rearranges):
                raise QuantreeError(
                    f"stage {index} ({stage.name}): {path}: weights that were pruned are not zero any more"
                )
        if isinstance(old, Coded) and not (isinstance(new, Coded) and _same_codes(old, new)):
            raise QuantreeError(f"stage {index} ({stage.name}): {path}: an earlier stage's codes were changed")


def _stay(zeros: np.ndarray, kept: np.ndarray, moved: bool) -> bool:
    """Whether what was pruned still is, where a stage may have moved channels or taken some away."""
    if moved:
        return kept.shape != zeros.shape or int(kept.sum()) >= int(zeros.sum())
    return kept.shape == zeros.shape and bool(kept[zeros].all())


def _same_codes(old: Coded, new: Coded) -> bool:
    meanings = [(leaf.codebook, leaf.blocking, leaf.zero, leaf.shape) for leaf in (old, new)]
    return meanings[0] == meanings[1] and np.array_equal(old.codes, new.codes)
