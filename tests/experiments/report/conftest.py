"""A made-up sweep: results as trials write them, with numbers that are easy to reckon with."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Row = dict[str, Any]
NUMBERS = (
    "validation_metric",
    "baseline_metric",
    "metric",
    "dense_bytes",
    "file_bytes",
    "ratio",
    "paper_ratio",
    "bits_per_weight",
    "compress_seconds",
    "recover_seconds",
    "encode_seconds",
    "decode_seconds",
    "baseline_validation_metric",
)
DENSE = 40_000


@pytest.fixture(scope="session")
def row() -> Callable[..., Row]:
    """`row(method, k, seed, metric=..., file_bytes=...)`: one trial's result; any column can be given."""

    def make(method: str = "kmeans", k: int = 16, seed: int = 0, file_bytes: int = 4_000, **given: Any) -> Row:
        codes, header = file_bytes - 200, 120
        made: Row = {
            "experiment": "demo",
            "dataset": "digits",
            "model": "small",
            "method": method,
            "seed": seed,
            "settings": {"stages": [{"kind": "prune", "density": 0.5}, {"kind": "quantize", "k": k}]},
            "metric_name": "accuracy",
            "metric_direction": "max",
            "validation_metric": 0.96,
            "baseline_metric": 0.95,
            "metric": 0.94,
            "dense_bytes": DENSE,
            "file_bytes": file_bytes,
            "ratio": DENSE / file_bytes,
            "paper_ratio": None,
            "bits_per_weight": 32 * file_bytes / DENSE,
            "compress_seconds": 1.5,
            "recover_seconds": 0.0,
            "encode_seconds": 0.01,
            "decode_seconds": 0.02,
            "status": "done",
            "error": None,
            "baseline_validation_metric": 0.96,
            "ledger": [
                {"section": "header", "path": "", "what": "header", "coder": None, "count": 0, "bytes": header},
                {"section": "leaf", "path": "a/kernel", "what": "codes", "coder": "ans", "count": 900, "bytes": codes},
                {"section": "codebook", "path": "a", "what": "centroids", "coder": None, "count": k, "bytes": 50},
                {"section": "table", "path": "a/kernel", "what": "codes", "coder": "ans", "count": 0, "bytes": 30},
            ],
            "leaves": [{"leaf": "a/kernel", "shape": [30, 30], "taken_by": "quantize", "bits": 4.0}],
        } | given
        name = json.dumps([made[key] for key in ("experiment", "dataset", "model", "method", "seed", "settings")])
        return {"trial": hashlib.sha256(name.encode()).hexdigest()[:16]} | made

    return make


@pytest.fixture(scope="session")
def failed(row: Callable[..., Row]) -> Callable[..., Row]:
    """As `row`, of a trial that ended with an error: no numbers."""

    def make(*arguments: Any, error: str = "LeafError: a/kernel: NaN", **given: Any) -> Row:
        nothing = dict.fromkeys((*NUMBERS, "ledger", "leaves"))
        return (
            row(*arguments, **nothing | {"file_bytes": 4_000} | given) | nothing | {"status": "failed", "error": error}
        )

    return make


@pytest.fixture(scope="session")
def store() -> Callable[[Path, list[Row]], Path]:
    """`store(folder, rows)`: writes the rows as a sweep's work folder."""

    def write(folder: Path, rows: list[Row]) -> Path:
        for made in rows:
            place = folder / "trials" / made["trial"]
            place.mkdir(parents=True)
            (place / "result.json").write_text(json.dumps(made))
        return folder

    return write


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> $data ${data} \x1b[31m [bold]&amp;"


@pytest.fixture(scope="session")
def demo(row: Callable[..., Row], failed: Callable[..., Row]) -> list[Row]:
    """Two data sets, three methods, three settings, two seeds; a ruined setting, failures, hostile text."""
    rows = []
    for dataset, baseline in (("digits", 0.95), ("mnist", 0.99)):
        for method, gain in (("kmeans", 1.0), ("product", 1.3), ("uniform", 0.8)):
            for k, loss in ((4, 0.02), (16, 0.004), (64, -0.001)):
                for seed in (0, 1):
                    metric = baseline - loss / gain + 0.001 * seed
                    metric = 0.1 if (method, k) == ("uniform", 4) else metric
                    given = {"metric": metric, "validation_metric": metric + 0.002, "baseline_metric": baseline}
                    given |= {"baseline_validation_metric": baseline, "dataset": dataset}
                    rows.append(row(method, k, seed, file_bytes=int((1500 + 50 * k) / gain), **given))
    rows.append(failed("kmeans", 256, 0, error=f"Traceback (most recent call last):\n  ...\nLeafError: {HOSTILE}"))
    rows.append(row("hostile", 8, 0, settings={"name": HOSTILE, "k": 8}, file_bytes=3_000))
    return rows
