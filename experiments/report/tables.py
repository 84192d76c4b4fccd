"""results.csv and results.parquet (a row per trial), summary.csv (a row per setting)."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from experiments.report.rows import SCHEMA, Trial
from experiments.report.summary import Setting

SPREADS = (
    "metric",
    "validation_metric",
    "baseline_metric",
    "baseline_validation_metric",
    "ratio",
    "file_bytes",
    "bits_per_weight",
)
NAMES = ("experiment", "dataset", "model", "method", "settings", "metric_name", "metric_direction")


def results_table(trials: tuple[Trial, ...]) -> pa.Table:
    """A row per trial, with exactly the columns of the contract."""
    return pa.Table.from_pylist([trial.row() for trial in trials], SCHEMA)


def summary_table(settings: tuple[Setting, ...]) -> pa.Table:
    """A row per setting: `seeds` finished and `failed` trials, mean and sample standard deviation, the two marks."""
    schema = pa.schema(
        [
            *(SCHEMA.field(name) for name in NAMES),
            *(pa.field(name, pa.int64()) for name in ("seeds", "failed")),
            *(pa.field(f"{name}_{part}", pa.float64()) for name in SPREADS for part in ("mean", "std")),
            *(pa.field(name, pa.bool_()) for name in ("pareto", "chosen")),
        ]
    )
    rows = [
        {name: setting.first.row()[name] for name in NAMES}
        | {"seeds": len(setting.done), "failed": len(setting.failed)}
        | {
            f"{name}_{part}": _known(getattr(getattr(setting, name), part))
            for name in SPREADS
            for part in ("mean", "std")
        }
        | {"pareto": setting.pareto, "chosen": setting.chosen}
        for setting in settings
    ]
    return pa.Table.from_pylist(rows, schema)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def write_csv(table: pa.Table, path: Path) -> None:
    """A comma-separated file with a header; missing values are empty."""
    replacing(path, lambda part: pyarrow.csv.write_csv(table, part))


def write_parquet(table: pa.Table, path: Path) -> None:
    """The same as a Parquet file, with types."""
    replacing(path, lambda part: pyarrow.parquet.write_table(table, part))


def replacing(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside `path`, then moves into place: a reader sees the old file or the new one, never half of one."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
