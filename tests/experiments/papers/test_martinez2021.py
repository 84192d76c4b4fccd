"""Published rows, bits from shapes, and made-up trials beside the same ones without permuting."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.papers.accounting import Martinez2021 as Rule
from experiments.papers.martinez2021 import main
from quantree.encodings import Compressed

VECTORS = {"kind": "product", "k": 16, "d": 4}
PERMUTE = {"kind": "permute"}


def tables(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, list[dict[str, Any]]]:
    assert main([*map(str, arguments), "--json"]) == 0
    return {sheet["title"]: sheet["rows"] for sheet in json.loads(capsys.readouterr().out)}


def test_sizes_are_printed_with_their_difference(capsys: pytest.CaptureFixture[str]) -> None:
    [(title, rows)] = tables(capsys, "--sizes").items()
    assert title == "Sizes from shapes: 5 of 5 to the bit"
    assert [row["difference"] for row in rows] == [0] * 5
    resnet50 = next(row for row in rows if (row["network"], row["blocks"]) == ("ResNet-50", "large"))
    assert resnet50["ours"] == 26_718_976 and resnet50["ours, strict"] == 26_710_272
    assert resnet50["ratio"] == pytest.approx(30.61, abs=0.005) and resnet50["MiB"] == pytest.approx(3.185, abs=5e-4)


def test_what_the_paper_closes_of_the_gap(capsys: pytest.CaptureFixture[str]) -> None:
    rows = tables(capsys)["Published"]
    assert [round(row["closed %"]) for row in rows] == [24, 25, 53, 50, 41, 60, 71]
    assert {row["ours"] for row in rows} == {"not run: ImageNet is not here", "not run: COCO is not here"}


def test_permuted_trials_stand_beside_the_same_ones_without(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Callable[..., Compressed], trial: Callable[..., None]
) -> None:
    made = model({"fc/kernel": np.tile(np.arange(4.0), (20, 20)), "fc/bias": np.ones(80)}, coded={"fc/kernel": "a"})
    imported = {"baseline": {"checkpoint": "x.safetensors"}}
    shared = {"dataset": "cifar10", "model": "resnet20", "baseline_metric": 0.92}
    for seed, plain, permuted in ((0, 0.90, 0.91), (1, 0.89, 0.91)):
        for stages, metric in (([VECTORS], plain), ([PERMUTE, VECTORS], permuted)):
            trial(tmp_path, made, seed=seed, metric=metric, settings={"stages": stages, **imported}, **shared)
    others = {"k = 8": [PERMUTE, VECTORS | {"k": 8}], "one seed": [VECTORS | {"k": 8}], "scalars": [{"kind": "cast"}]}
    for method, stages in others.items():
        seeds = (0, 1) if method == "k = 8" else (0,)
        for seed in seeds:
            trial(tmp_path, made, seed=seed, metric=0.5, method=method, settings={"stages": stages}, **shared)
    trial(tmp_path, made, metric=0.5, settings={"stages": [VECTORS]}, dataset="cifar10", model="vgg16")

    rows = tables(capsys, tmp_path)["Ours: sub-vectors of residual networks"]
    assert len(rows) == 4, "neither scalars nor another network"
    won = {(row["setting"], row["permuted"]): row.get("won by permuting") for row in rows}
    [gain] = [each for each in won.values() if each is not None]
    assert gain == pytest.approx(1.5)
    unlike = next(row for row in rows if row["setting"].startswith("k = 8"))
    assert unlike["why not"] == "the other has other seeds"
    first = next(row for row in rows if row["permuted"] == "no" and row["seeds"] == "2")
    assert first["lost"] == pytest.approx(2.5)
    assert first["ratio, their count"] == pytest.approx(Rule().count(made).ratio)


@pytest.mark.parametrize("flag", ["--sizes", "--files"])
def test_a_flag_takes_no_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path, flag: str) -> None:
    with pytest.raises(SystemExit):
        main([flag, str(tmp_path)])
    assert "leave out WORKDIR" in capsys.readouterr().err
