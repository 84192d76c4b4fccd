"""`python -m experiments.graph`: the table and the picture."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from experiments.graph import main

CONFIGS = Path(__file__).parents[2] / "configs"


def test_the_table_and_the_picture_of_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "graph.svg"
    assert main([str(CONFIGS / "digits.yaml"), "model={kind: mlp, hidden: [16, 8]}", "--svg", str(picture)]) == 0
    told = capsys.readouterr().out
    assert "fc1: 16 channels, may be permuted, merged, removed" in told
    assert "fc2: 8 channels, may be permuted, merged, removed" in told
    assert "an output of the network: fc3/bias[0], fc3/kernel[1]" in told or "fc3/kernel[1], fc3/bias[0]" in told
    words = {element.text for element in ElementTree.parse(picture).iter() if element.text}
    assert {"fc1  (16)", "fc2  (8)", "fc3", "may be permuted, merged and removed"} <= words
    first = picture.read_bytes()
    assert main([str(CONFIGS / "digits.yaml"), "model={kind: mlp, hidden: [16, 8]}", "--svg", str(picture)]) == 0
    assert picture.read_bytes() == first


def test_a_config_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
