"""The rows of a sweep, read from the folders of its trials.

A sweep's work folder holds `trials/<trial>/result.json`, with `ledger.json` and `model.qtree` beside it. Anything there
that is not a whole result is named and left out; names that begin with a dot are nobody's business.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
import pydantic

# The columns of results.csv, in order: a public contract (docs/results.md).
SCHEMA = pa.schema(
    {
        "trial": pa.string(),
        "experiment": pa.string(),
        "dataset": pa.string(),
        "model": pa.string(),
        "method": pa.string(),
        "seed": pa.int64(),
        "settings": pa.string(),
        "metric_name": pa.string(),
        "metric_direction": pa.string(),
        "validation_metric": pa.float64(),
        "baseline_metric": pa.float64(),
        "metric": pa.float64(),
        "dense_bytes": pa.int64(),
        "file_bytes": pa.int64(),
        "ratio": pa.float64(),
        "paper_ratio": pa.float64(),
        "bits_per_weight": pa.float64(),
        "compress_seconds": pa.float64(),
        "recover_seconds": pa.float64(),
        "encode_seconds": pa.float64(),
        "decode_seconds": pa.float64(),
        "status": pa.string(),
        "error": pa.string(),
    }
)
MEASURED = ("validation_metric", "baseline_metric", "metric", "dense_bytes", "file_bytes", "ratio", "bits_per_weight")

Count = Annotated[int, pydantic.Field(ge=0, lt=1 << 63)]
Seed = Annotated[int, pydantic.Field(ge=-(1 << 63), lt=1 << 63)]


KINDS = {"codebook": "codebooks", "table": "coding tables", "value": "values", "mask": "masks"}


class Line(pydantic.BaseModel):
    """One line of a file's ledger (`quantree.storage.Entry`): `count` elements took `bytes` bytes."""

    section: str
    path: str
    what: str
    coder: str | None
    count: Count
    bytes: Count

    @property
    def kind(self) -> str:
        """What the bytes are for, in a word or two: a leaf's streams by what they hold, the rest by section."""
        name = self.what if self.section == "leaf" else self.section
        return KINDS.get(name, name)


class Leaf(pydantic.BaseModel):
    """Which stage took a leaf of the model, and the mean bits per weight that it ended with."""

    leaf: str
    shape: tuple[int, ...]
    taken_by: str | None = None
    bits: float | None = None


class Trial(pydantic.BaseModel):
    """One row: the contract's columns, and behind them what only the page shows. A done trial has all its numbers."""

    model_config = pydantic.ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    trial: str
    experiment: str
    dataset: str
    model: str
    method: str
    seed: Seed
    settings: dict[str, pydantic.JsonValue]
    metric_name: str | None = None
    metric_direction: Literal["max", "min"] | None = None
    validation_metric: float | None = None
    baseline_metric: float | None = None
    metric: float | None = None
    dense_bytes: Count | None = None
    file_bytes: Count | None = None
    ratio: float | None = None
    paper_ratio: float | None = None
    bits_per_weight: float | None = None
    compress_seconds: float | None = None
    recover_seconds: float | None = None
    encode_seconds: float | None = None
    decode_seconds: float | None = None
    status: Literal["done", "failed"]
    error: str | None = None

    baseline_validation_metric: float | None = None
    ledger: tuple[Line, ...] | None = None
    leaves: tuple[Leaf, ...] | None = None

    @pydantic.model_validator(mode="after")
    def _done_means_measured(self) -> Self:
        if self.status == "done":
            missing = [name for name in (*MEASURED, "metric_name", "metric_direction") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"status is done, but there is no {missing[0]}")
            if not self.ratio > 0 or not self.file_bytes:  # pyright: ignore[reportOptionalOperand]
                raise ValueError("status is done, but ratio or file_bytes is not above 0")
        return self

    @property
    def done(self) -> bool:
        """Whether the trial ended with numbers."""
        return self.status == "done"

    @property
    def imported(self) -> bool:
        """Whether the network came trained: the validation images may be among those that it was trained on."""
        baseline = self.settings.get("baseline")
        return isinstance(baseline, dict) and "checkpoint" in baseline

    @property
    def settings_text(self) -> str:
        """The settings as one line of JSON, the same for equal settings."""
        return json.dumps(self.settings, sort_keys=True, ensure_ascii=False)

    def row(self) -> dict[str, Any]:
        """The contract's columns as plain values."""
        return {name: getattr(self, name) for name in SCHEMA.names} | {"settings": self.settings_text}


@dataclass(frozen=True)
class Reading:
    """What was found in the folders: whole rows in a fixed order, and a sentence about everything else."""

    trials: tuple[Trial, ...]
    problems: tuple[str, ...]


def read_trials(folders: Iterable[Path]) -> Reading:
    """Reads every `trials/<trial>/result.json` and joins the rows; a trial that is there twice counts once."""
    found: dict[str, Trial] = {}
    problems: list[str] = []
    for folder in folders:
        for trial in _read_folder(folder, problems):
            if found.setdefault(trial.trial, trial).row() != trial.row():
                problems.append(
                    f"{folder}: trial {trial.trial} is there twice, with other numbers; the first one counts"
                )
    order = sorted(
        found.values(), key=lambda t: (t.experiment, t.dataset, t.model, t.method, t.settings_text, t.seed, t.trial)
    )
    return Reading(tuple(order), (*problems, *_repeats(order)))


def _read_folder(folder: Path, problems: list[str]) -> Iterator[Trial]:
    root = folder / "trials"
    if not root.is_dir():
        problems.append(f"{root}: no such folder; expected a sweep's work folder, with one folder per trial in trials/")
        return
    for place in sorted(root.iterdir()):
        path = place / "result.json"
        if place.name.startswith("."):
            continue
        if not place.is_dir():
            problems.append(f"{place}: not a trial's folder; skipped")
        elif not path.is_file():
            problems.append(f"{place}: no result.json: not finished, or killed; skipped")
        else:
            trial = _parse(path, Trial, problems)
            if trial is not None:
                yield _with_ledger(trial, place, problems)


def _with_ledger(trial: Trial, place: Path, problems: list[str]) -> Trial:
    """Adds `ledger.json` where the result has no ledger, and holds the row's size against what lies on the disk."""
    path, file = place / "ledger.json", place / "model.qtree"
    if trial.ledger is None and path.is_file():
        ledger = _parse(path, tuple[Line, ...], problems)
        trial = trial.model_copy(update={"ledger": ledger})
    if trial.done and trial.ledger is not None:
        total = sum(line.bytes for line in trial.ledger)
        if total != trial.file_bytes:
            problems.append(f"{place}: the ledger adds up to {total} bytes, but the row says {trial.file_bytes}")
    if trial.done and file.is_file() and file.stat().st_size != trial.file_bytes:
        problems.append(f"{file}: has {file.stat().st_size} bytes, but the row says {trial.file_bytes}")
    return trial


def _parse(path: Path, kind: Any, problems: list[str]) -> Any:
    try:
        return pydantic.TypeAdapter(kind).validate_json(path.read_bytes())
    except OSError as error:
        problems.append(f"{path}: can't be read: {error.strerror}; skipped")
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(key) for key in first["loc"])
        problems.append(f"{path}: {place}{': ' if place else ''}{first['msg']}; skipped")
    return None


def _repeats(trials: list[Trial]) -> Iterator[str]:
    """Rows that claim to be the same run: left over from older code or another baseline, they would be averaged."""
    seen: dict[tuple[str | int, ...], Trial] = {}
    for trial in trials:
        key = (trial.experiment, trial.dataset, trial.model, trial.method, trial.settings_text, trial.seed)
        first = seen.setdefault(key, trial)
        if first is not trial:
            yield (
                f"trials {first.trial} and {trial.trial} have the same settings and seed ({trial.method}, seed "
                f"{trial.seed}): both count; if one is left over from an earlier version, remove its folder"
            )
