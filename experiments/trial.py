"""One trial: baseline -> recipe -> file -> load -> decode -> metric -> row."""

import dataclasses
import functools
import json
import shutil
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
from pydantic import Field

from experiments.baseline import Baseline, Trained, obtain, on_test
from experiments.data.dataset import source_named
from experiments.execution import Execution
from experiments.identity import content_hash
from experiments.papers import PaperRule
from experiments.plugins import PluginFile
from experiments.store import Busy, Store, write_json
from quantree import storage
from quantree.encodings import Compressed
from quantree.errors import DataError
from quantree.recipe import Recipe, changed_leaves
from quantree.recovery import evaluate
from quantree.registry import Choice
from quantree.schema import Config

FILE = "model.qtree"


class Trial(Config):
    """Everything that decides a trial's numbers, and under which names they are told."""

    version: Literal[1] = Field(default=1, description="of this schema")
    experiment: str = Field(description="name of the sweep")
    method: str = Field(description="name of the recipe")
    settings: dict[str, Any] = Field(description="what was written for this trial: its stages, choices from grids")
    baseline: Baseline = Field(description="the network that is compressed; holds the seed")
    recipe: Recipe = Field(description="what is done to it")
    plugins: tuple[PluginFile, ...] = Field((), description="files that register plug-ins")
    paper: Choice[PaperRule] | None = Field(default=None, description="how the column `paper_ratio` is counted")
    execution: Execution | None = Field(
        default=None, description="kind of device and threads; None: those that trained the baseline"
    )

    @property
    def runs_on(self) -> Execution:
        """Kind of device and threads of its worker."""
        return self.execution or self.baseline.execution

    @functools.cached_property
    def id(self) -> str:
        """Content hash of what decides the numbers: neither names nor paths, nor how a paper counts what is there."""
        return self.prefix("trial", len(self.stages))

    def prefix(self, what: str, stages: int) -> str:
        """Content hash of what decides the model after so many of the stages that run."""
        return content_hash(
            what,
            baseline=self.baseline.id,
            stages=[stage.to_config() for stage in self.stages[:stages]],
            plugins=[plugin.sha256 for plugin in self.plugins],
            **({} if self.execution is None else {"execution": self.execution.model_dump(mode="json")}),
        )

    @functools.cached_property
    def stages(self) -> tuple[Any, ...]:
        """The recipe with presets expanded."""
        return self.recipe.expanded

    def labels(self) -> dict[str, Any]:
        """The part of the row that is known before anything has run."""
        task = source_named(self.baseline.data.name).task
        return {
            "trial": self.id,
            "experiment": self.experiment,
            "dataset": self.baseline.data.name,
            "model": self.baseline.model.name,
            "method": self.method,
            "seed": self.baseline.seed,
            "settings": self._all_settings(),
            "metric_name": task.metric_name,
            "metric_direction": task.direction,
        }

    def _all_settings(self) -> dict[str, Any]:
        """Whatever decides the numbers but the seed, so that equal settings mean: the same but for the seed.

        Stages as they were written, the rest with defaults filled in. Digests are cut to 16 digits.
        """
        baseline = self.baseline.model_dump(mode="json", include={"data", "model", "training", "execution"})
        checkpoint = self.baseline.checkpoint
        imported = {} if checkpoint is None else {"checkpoint": checkpoint.sha256[:16]}
        return {
            "stages": self.settings["stages"],
            "data": {**baseline["data"], "fingerprint": self.baseline.fingerprint[:16]},
            "model": baseline["model"],
            "baseline": baseline["training"] or imported,
            "execution": self.runs_on.model_dump(mode="json"),
            **({} if self.execution is None else {"trained_on": baseline["execution"]}),
            "plugins": [plugin.sha256[:16] for plugin in self.plugins],
        }


@dataclass(frozen=True)
class _Partial:
    """A model after some stages, the seconds that they took, and the stages that changed each leaf."""

    compressed: Compressed
    compress_seconds: float = 0.0
    recover_seconds: float = 0.0
    taken: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def notes(self) -> dict[str, Any]:
        """All but the model, as JSON."""
        return {name: getattr(self, name) for name in ("compress_seconds", "recover_seconds", "taken")}


def run_trial(trial: Trial, store: Store, data_dir: Path | None = None) -> None:
    """Leaves a whole folder of results, with the row in result.json.

    An error is a row too, with the traceback beside it. `Busy` if another process runs this trial or something that it
    needs; then nothing is left.
    """
    store.once("trials", trial.id, lambda work: _run(trial, store, data_dir, work))


def _run(trial: Trial, store: Store, data_dir: Path | None, work: Path) -> None:
    try:
        row = _measured(trial, store, data_dir, work)
    except Busy:
        raise
    except Exception as error:
        shutil.rmtree(work)
        work.mkdir()
        (work / "error.txt").write_text(traceback.format_exc())
        row = failed_row(trial, f"{type(error).__name__}: {error}")
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    write_json(work / "config.json", trial.model_dump(mode="json"))
    write_json(work / "result.json", row)


def renamed(trial: Trial, row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A finished trial's row as this sweep tells it: under its names, and by the rule of its paper.

    The rule is no part of a trial's hash, and what it needs is the file, which lies in `folder`: `DataError` if it is
    gone, `FormatError` if it is damaged.
    """
    labels = json.loads(json.dumps(trial.labels()))
    paper = None if trial.paper is None else trial.paper.to_config()
    if row.get("paper") == paper:
        return {**row, **labels}
    try:
        loaded = storage.load(folder / FILE)
    except OSError as error:
        reason = f"{folder / FILE}: can't be read: {error.strerror}; without {folder} the trial is run again"
        raise DataError(reason) from None
    return {**row, **labels, **paper_columns(trial, loaded)}


def paper_columns(trial: Trial, loaded: Compressed) -> dict[str, Any]:
    """The size as the trial's paper counts it, and the rule."""
    if trial.paper is None:
        return {"paper": None, "paper_ratio": None}
    return {"paper": trial.paper.to_config(), "paper_ratio": trial.paper.count(loaded).ratio}


def failed_row(trial: Trial, error: str) -> dict[str, Any]:
    """The row of a trial that gave no numbers."""
    return {**trial.labels(), "status": "failed", "error": error}


def _measured(trial: Trial, store: Store, data_dir: Path | None, work: Path) -> dict[str, Any]:
    trained = obtain(trial.baseline, store, data_dir)
    partial = _after(len(trial.stages), trial, trained, store, work / "checkpoints")
    started = time.perf_counter()
    ledger = storage.save(work / FILE, partial.compressed)
    encoded = time.perf_counter()
    loaded = storage.load(work / FILE)
    jax.block_until_ready(loaded.decode())
    decoded = time.perf_counter()
    write_json(work / "ledger.json", ledger.to_rows())
    test = evaluate(loaded, trained.model, on_test(trained.splits))
    return {
        **trial.labels(),
        "validation_metric": evaluate(loaded, trained.model, trained.splits.data).metric,
        "baseline_metric": trained.metric,
        "baseline_validation_metric": trained.validation_metric,
        "metric": test.metric,
        "beside": test.beside,
        "dense_bytes": ledger.dense_bytes,
        "file_bytes": ledger.total,
        "ratio": ledger.ratio,
        **paper_columns(trial, loaded),
        "bits_per_weight": ledger.bits_per_weight,
        "compress_seconds": partial.compress_seconds,
        "recover_seconds": partial.recover_seconds,
        "encode_seconds": encoded - started,
        "decode_seconds": decoded - encoded,
        "leaves": _leaves(loaded, ledger, partial.taken),
        "status": "done",
        "error": None,
    }


def _after(count: int, trial: Trial, trained: Trained, store: Store, checkpoints: Path) -> _Partial:
    """The model after the first `count` stages.

    A stage that trains is worth keeping: the model after it is stored, and all trials that begin with the same stages
    go on from there, as does a trial that was killed. What follows always sees the model as loaded, so that it makes no
    difference who stored it. (The end of a recipe is stored anyway, as the trial's own file.)
    """
    cut = max((i + 1 for i, stage in enumerate(trial.stages[: count - 1]) if stage.trains), default=0)
    if cut:
        folder = store.once(
            "stages",
            trial.prefix("stages", cut),
            lambda work: _store(_after(cut, trial, trained, store, work / "checkpoints"), work),
        )
        partial = _Partial(storage.load(folder / FILE), **json.loads((folder / "notes.json").read_text()))
    else:
        partial = _Partial(Compressed.from_model(trained.model))
    for index in range(cut, count):
        partial = _step(partial, index, trial, trained, checkpoints)
    return partial


def _store(partial: _Partial, work: Path) -> None:
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    storage.save(work / FILE, partial.compressed)
    write_json(work / "notes.json", partial.notes())


def _step(partial: _Partial, index: int, trial: Trial, trained: Trained, checkpoints: Path) -> _Partial:
    stage, started = trial.stages[index], time.perf_counter()
    after = trial.recipe.run_stage(
        index,
        partial.compressed,
        model=trained.model,
        key=jax.random.key(trial.baseline.seed),
        data=trained.splits.data,
        folder=checkpoints,
    )
    jax.block_until_ready(jax.tree.leaves(after))
    seconds = "recover_seconds" if stage.trains else "compress_seconds"
    changed = {path: (*partial.taken.get(path, ()), stage.name) for path in changed_leaves(partial.compressed, after)}
    return dataclasses.replace(
        partial,
        compressed=after,
        taken={**partial.taken, **changed},
        **{seconds: getattr(partial, seconds) + time.perf_counter() - started},
    )


def _leaves(compressed: Compressed, ledger: storage.Ledger, taken: dict[str, tuple[str, ...]]) -> list[dict[str, Any]]:
    """Leaf, shape, stages that changed it, bits per weight of its own streams (shared codebooks and tables apart)."""
    own = dict.fromkeys(compressed.leaves, 0)
    for entry in ledger.entries:
        if entry.section == "leaf":
            own[entry.path] += entry.bytes
    return [
        {
            "leaf": path,
            "shape": list(leaf.shape),
            "taken_by": ", ".join(taken.get(path, ())) or None,
            "bits": 8 * own[path] / max(1, int(jax.numpy.size(leaf.decode(compressed.codebooks)))),
        }
        for path, leaf in compressed.leaves.items()
    ]
