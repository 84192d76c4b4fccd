"""The table of coders, on a tiny matrix and on a tiny model."""

from pathlib import Path

import pytest

from experiments.benchmarks import coders, command, sizes
from quantree import storage
from tests.storage.models import coded_net


def test_ans_against_bare_constriction(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run("", coders.cases, argv=["--smoke", "--rounds", "1"]) == 0
    assert "decode 256 x 256, density 0.1" in capsys.readouterr().out


def test_every_coder_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage.save(tmp_path / "net.qtree", coded_net({"fc1": (60, 40), "fc2": (40, 10)}, density=0.1))
    assert sizes.main([str(tmp_path / "net.qtree"), "--markdown"]) == 0
    out = capsys.readouterr().out
    assert "2,800 weights" in out
    rows = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in out.splitlines() if line.startswith("|")}
    for name in ("entropy of the codes", "hac", "shac", "relative", "ans", "codes, zlib -9", "safetensors, zlib -9"):
        assert int(rows[name].replace(",", "")) > 0
    assert int(rows["codes, one by one"].replace(",", "")) == 2800


def test_a_file_that_holds_no_codes_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sizes.main([str(tmp_path / "gone.qtree")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
