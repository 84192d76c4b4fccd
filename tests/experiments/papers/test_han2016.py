"""Deep Compression's rates, and its table beside a sweep's."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments.papers.han2016 import main, rate
from experiments.papers.published import Han2016, load
from quantree.encodings import Compressed

Tables = dict[str, list[dict]]


def printed(capsys: pytest.CaptureFixture[str], *folders: Path) -> Tables:
    assert main([*map(str, folders), "--json"]) == 0
    return {sheet["title"].partition(":")[0]: sheet["rows"] for sheet in json.loads(capsys.readouterr().out)}


@pytest.mark.parametrize(
    ("network", "layer", "expected"),
    [("LeNet-300-100", "ip1", 2.98), ("LeNet-5", "ip1", 2.69), ("AlexNet", "fc6", 3.25), ("AlexNet", "conv3", 13.17)],
)
def test_rates_with_fillers_and_codebook(network: str, layer: str, expected: float) -> None:
    of = load(Han2016, "han2016").networks[network]
    found = rate(of.layers[layer], float(of.layers[layer].density) / 100, of.layers[layer].code + of.gap, of.gap)
    assert 100 * found == pytest.approx(expected, abs=0.005)


def test_a_rate_agrees_if_a_density_that_is_printed_so_gives_it(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {(title, row["layer"]): row for title, sheet in printed(capsys).items() for row in sheet if "layer" in row}
    assert len(rows) == 50
    for row in rows.values():
        assert row["from"] < row["ours"] < row["to"]
        half = 0.05 if len(row["published"].partition(".")[2]) == 1 else 0.005
        inside = row["from"] - half <= float(row["published"]) <= row["to"] + half
        assert (row["agrees"] == "yes") == inside, row
    assert rows["AlexNet", "conv3"]["agrees"] == rows["LeNet-300-100", "ip1"]["agrees"] == "yes"
    # 0.09 * 9 / 32 is 2.53 %: no filler would be too few, all that are expected at random are too many.
    assert rows["AlexNet", "fc6"]["why not"].startswith("65 % of the fillers")
    assert rows["LeNet-300-100", "ip2"]["why not"] == "it needs a density of 10.1 %"


def test_trials_stand_beside_table_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Callable[..., Compressed], trial: Callable[..., None]
) -> None:
    made = model({"fc/kernel": np.tile(np.arange(4.0), (20, 20))}, coded={"fc/kernel": "a"})
    for seed, error in ((0, 0.015), (1, 0.017)):
        trial(tmp_path, made, dataset="mnist", model="lenet300", seed=seed, metric=1 - error, baseline_metric=0.98)
    rows = {
        row["network"]: row for row in printed(capsys, tmp_path)["Table 1, and our trials"] if row["chosen"] != "best"
    }
    ours = rows["LeNet-300-100"]
    assert (ours["seeds"], ours["chosen"]) == ("2", "smallest")
    assert ours["error %"] == pytest.approx(1.6) and ours["error difference"] == pytest.approx(0.02)
    assert ours["KB difference"] == pytest.approx(ours["KB"] - 27) and ours["before %"] == pytest.approx(2)
    assert rows["LeNet-5"]["setting"] == "not run" and "ImageNet" in rows["VGG-16"]["setting"]


def test_a_folder_without_trials_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "not run" in told.out and "no such folder" in told.err
