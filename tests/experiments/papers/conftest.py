"""Compressed models whose values are known, and sweeps that were not run."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from quantree import storage
from quantree.encodings import Codebook, Coded, Compressed, Encoding, Pruned, Raw, Scalar, Table

Make = Callable[..., Compressed]


@pytest.fixture(scope="session")
def model() -> Make:
    """`model(leaves, coded={path: codebook}, pruned=[path])`: these arrays, some of them coded or pruned."""

    def make(
        leaves: Mapping[str, np.ndarray], coded: Mapping[str, str] | None = None, pruned: tuple[str, ...] = ()
    ) -> Compressed:
        coded, books = coded or {}, {}
        found: dict[str, Encoding] = {}
        for name in coded.values():
            of = [leaves[path].reshape(-1) for path in coded if coded[path] == name]
            books[name] = np.unique(np.concatenate(of).astype(np.float32))
        for path, array in leaves.items():
            value = jnp.asarray(array, jnp.float32)
            leaf: Encoding = Pruned.of(value, value != 0) if path in pruned else Raw.of(value)
            if path in coded:
                codes = np.searchsorted(books[coded[path]], np.asarray(value).reshape(1, -1)).astype(np.uint16)
                leaf = Coded(jnp.asarray(codes), None, coded[path], Scalar(), False, array.shape, np.dtype(np.float32))
            found[path] = leaf
        tables: dict[str, Codebook] = {name: Table(jnp.asarray(book).reshape(1, -1, 1)) for name, book in books.items()}
        dense = sum(4 * array.size for array in leaves.values())
        return Compressed(found, tables, {}, dense)

    return make


@pytest.fixture(scope="session")
def trial() -> Callable[..., None]:
    """`trial(folder, compressed, seed=0, metric=..., settings=...)`: a trial's results; None: of one that failed."""

    def write(folder: Path, compressed: Compressed | None, **given: Any) -> None:
        row: dict[str, Any] = {
            "experiment": "made up",
            "dataset": "davis",
            "model": "deepdta",
            "method": "a method",
            "seed": 0,
            "settings": {"stages": [{"kind": "kmeans", "k": 4}]},
            "metric_name": "mse" if given.get("dataset", "davis") == "davis" else "accuracy",
            "metric_direction": "min" if given.get("dataset", "davis") == "davis" else "max",
            "validation_metric": 0.3,
            "baseline_validation_metric": 0.3,
            "baseline_metric": 0.32,
            "metric": 0.3,
        } | given
        name = re.sub(r"\W+", "_", json.dumps([row["dataset"], row["settings"], row["seed"]]))
        place = folder / "trials" / name
        place.mkdir(parents=True)
        if compressed is None:
            end = {"status": "failed", "error": "LeafError: made up"}
        else:
            ledger = storage.save(place / "model.qtree", compressed)
            sizes = {"dense_bytes": ledger.dense_bytes, "file_bytes": ledger.total, "ratio": ledger.ratio}
            end = {**sizes, "bits_per_weight": ledger.bits_per_weight, "status": "done"}
        (place / "result.json").write_text(json.dumps({"trial": name, **row, **end}))

    return write
