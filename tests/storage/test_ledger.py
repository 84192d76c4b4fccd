import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from quantree import storage
from quantree.encodings import Compressed, Raw
from tests.storage.models import LENET300, coded_net, every_kind


@pytest.mark.parametrize("model", [coded_net(LENET300), every_kind(), Compressed({}, {}, {}, 0)])
@pytest.mark.filterwarnings("ignore:.*larger than the dense model")
def test_every_byte_is_accounted_for(model: Compressed, tmp_path: Path) -> None:
    ledger = storage.save(tmp_path / "x.qtree", model)
    assert ledger.total == (tmp_path / "x.qtree").stat().st_size
    assert ledger == storage.inspect(tmp_path / "x.qtree")
    assert ledger.payload + ledger.overhead == ledger.total
    assert sum(row["bytes"] for row in json.loads(json.dumps(ledger.to_rows()))) == ledger.total


def test_little_that_is_not_payload(tmp_path: Path) -> None:
    ledger = storage.save(tmp_path / "x.qtree", coded_net(LENET300))
    assert ledger.overhead <= 150
    raw = {entry.path: entry.bytes for entry in ledger.entries if entry.what in ("value", "centroids")}
    assert raw == {"fc1/bias": 1200, "fc2/bias": 400, "fc3/bias": 40} | dict.fromkeys(
        ("fc1/kernel", "fc2/kernel", "fc3/kernel"), 32
    )


def test_many_layers_cost_few_bytes_each(tmp_path: Path) -> None:
    layers = {f"layers/{i}/conv{j}": (3, 3, 4, 4) for i in range(50) for j in (1, 2)}
    ledger = storage.save(tmp_path / "x.qtree", coded_net(layers))
    assert ledger.overhead <= 100 * 20


def test_figures(tmp_path: Path) -> None:
    ledger = storage.save(tmp_path / "x.qtree", coded_net(LENET300))
    assert ledger.dense_bytes == 4 * (784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10)
    assert ledger.ratio == ledger.dense_bytes / ledger.total
    assert ledger.bits_per_weight == pytest.approx(32 / ledger.ratio)


def test_entries_name_stream_and_coder(tmp_path: Path) -> None:
    ledger = storage.save(tmp_path / "x.qtree", every_kind(), coder="fixed")
    found = {(entry.section, entry.path, entry.what): (entry.coder, entry.count) for entry in ledger.entries}
    assert found["leaf", "b/pruned", "mask"] == ("fixed", 60)
    assert found["leaf", "e/masked", "codes"] == ("fixed", 20)
    assert found["codebook", "pieces", "centroids"] == (None, 36)
    assert found["state", "norm/var", "value"] == (None, 4)
    assert not any(section == "table" for section, _, _ in found)


def test_table_for_people(tmp_path: Path) -> None:
    hostile = Compressed({"[red]w[/]": Raw.of(jnp.arange(1000.0))}, {}, {}, 10_000)
    ledger = storage.save(tmp_path / "x.qtree", hostile)
    console = Console(width=120)
    with console.capture() as capture:
        console.print(ledger.table())
    text = capture.get()
    assert "[red]w[/]" in text and "4,000" in text and "2.4" in text
    assert str(ledger).split() == text.split()


def test_a_file_larger_than_the_model_is_called_so(tmp_path: Path) -> None:
    model = Compressed({"w": Raw.of(jnp.ones(3))}, {}, {}, 12)
    with pytest.warns(UserWarning, match=r"(?s)larger than the dense model's 12 bytes.*crc32"):
        ledger = storage.save(tmp_path / "x.qtree", model)
    assert ledger.ratio < 1


def test_hand_counted_file() -> None:
    """A file with one leaf, byte by byte, as docs/file-format.md explains it."""
    data = storage.to_bytes(Compressed({"w": Raw.of(jnp.asarray([1.0, 2.0]))}, {}, {}, 8))
    header = b"\x94\xc0\x91\x96\xa1w\xff\x91\x02\xfd\x90\xfe\x90\x90"
    assert data[:-4] == b"\x93qt\x01" + bytes([2 * len(header)]) + header + np.array([1, 2], "<f4").tobytes()
