"""The network before compression: trained or imported once, used by every trial that begins with it."""

import dataclasses
import functools
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as orbax
from pydantic import Field

from experiments.data import DataConfig, Splits, splits
from experiments.execution import Execution
from experiments.identity import content_hash
from experiments.imported import Imported
from experiments.store import Store, write_json
from experiments.zoo import Network
from quantree.encodings import Compressed
from quantree.model import Model, unflatten
from quantree.recovery import Training, evaluate, fit
from quantree.registry import Choice
from quantree.schema import Config
from quantree.task import Data

cut = functools.lru_cache(maxsize=8)(splits)


class Baseline(Config):
    """What decides the weights of a trained network."""

    data: DataConfig = Field(description="what it is trained on")
    fingerprint: str = Field(description="digest of the data set's arrays")
    model: Choice[Network] = Field(description="the network")
    training: Training | None = Field(description="how it is trained; None: it is imported")
    checkpoint: Imported | None = Field(default=None, description="where its weights come from, if not from training")
    seed: int = Field(description="of initial weights, validation split and order of batches")
    execution: Execution = Field(description="kind of device and threads")
    sources: tuple[str, ...] = Field((), description="digests of the plug-in files that define network or data set")

    @functools.cached_property
    def id(self) -> str:
        """Content hash."""
        path = {"checkpoint": {"path"}} if self.checkpoint else None  # of the file only the content counts
        return content_hash("baseline", **self.model_dump(mode="json", exclude=path))


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network, its data, and its metrics on validation and test split. If it was imported, it may have been
    trained on the validation images.
    """

    model: Model
    splits: Splits
    validation_metric: float
    metric: float


def obtain(baseline: Baseline, store: Store, data_dir: Path | None = None) -> Trained:
    """Loads the network from the store, or trains or imports it now. `Busy` if another process is at it."""
    data = cut(baseline.data, baseline.seed, data_dir)  # pyright: ignore[reportArgumentType]  frozen, so hashable
    folder = store.once("baselines", baseline.id, lambda work: _train(baseline, data, work))
    return _load(folder, baseline, data)  # pyright: ignore[reportArgumentType]


def _train(baseline: Baseline, data: Splits, work: Path) -> None:
    started = time.perf_counter()
    model, history, checkpoints = _fresh(baseline, data), [], work / "checkpoints"
    if baseline.checkpoint is not None:
        trained = baseline.checkpoint.into(model)
        validation = evaluate(Compressed.from_model(trained), trained, data.data)
    else:
        assert baseline.training is not None
        fitted = fit(
            Compressed.from_model(model),
            model=model,
            data=data.data,
            training=baseline.training,
            seed=baseline.seed,
            folder=checkpoints,
            label="baseline",
        )
        state = unflatten(fitted.compressed.state)
        trained = dataclasses.replace(model, params=fitted.compressed.decode(), state=state)
        validation, history = fitted.score, fitted.history
    seconds = time.perf_counter() - started
    test = evaluate(Compressed.from_model(trained), trained, on_test(data))
    shutil.rmtree(checkpoints, ignore_errors=True)
    orbax.save(str((work / "model").resolve()), _plain(trained), overwrite=True)  # a killed process may have been here
    result = {
        "baseline": baseline.id,
        "validation_metric": validation.metric,
        "metric": test.metric,
        "beside": test.beside,
        "train_seconds": seconds,
        "history": history,
    }
    write_json(work / "config.json", baseline.model_dump(mode="json"))
    write_json(work / "result.json", result)


@functools.lru_cache(maxsize=4)
def _load(folder: Path, baseline: Baseline, data: Splits) -> Trained:
    fresh = _fresh(baseline, data)
    arrays: Any = orbax.load(str((folder / "model").resolve()), _plain(fresh))
    result = json.loads((folder / "result.json").read_text())
    model = dataclasses.replace(fresh, params=arrays["params"], state=arrays.get("state", {}))
    return Trained(model, data, result["validation_metric"], result["metric"])


def _fresh(baseline: Baseline, data: Splits) -> Model:
    return baseline.model.model(baseline.seed, data.dataset.shape, len(data.dataset.classes))


def _plain(model: Model) -> dict[str, Any]:
    return {"params": model.params, "state": model.state} if model.state else {"params": model.params}


def on_test(data: Splits) -> Data:
    """The test split in the place of the validation split, to measure an end result."""
    return dataclasses.replace(data.data, validation=data.test)
