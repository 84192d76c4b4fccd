"""The abstract's figures beside a made-up sweep that merges neurons."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.papers.wang2020 import main
from quantree.encodings import Compressed

Trial = Callable[..., None]
SMALL = 242_474  # parameters of vgg_small on CIFAR-10


@pytest.fixture
def made(model: Callable[..., Compressed]) -> Compressed:
    return model({"fc/kernel": np.tile(np.arange(4.0), (20, 20))}, coded={"fc/kernel": "a"})


def told(capsys: pytest.CaptureFixture[str], folder: Path) -> tuple[list[dict[str, Any]], str]:
    assert main([str(folder), "--json"]) == 0
    out = capsys.readouterr()
    return json.loads(out.out)[0]["rows"], out.err


def merged(rate: float, weights: int, **given: Any) -> dict[str, Any]:
    stages = [{"kind": "merge", "rate": rate}, {"kind": "cast"}]
    return {
        "dataset": "cifar10",
        "model": "vgg_small",
        "method": "nac",
        "settings": {"stages": stages, "model": {"kind": "vgg_small"}},
        "baseline_metric": 0.90,
        "baseline_validation_metric": 0.90,
        "leaves": [{"leaf": "conv1/kernel", "shape": [weights - 5]}, {"leaf": "conv1/bias", "shape": [5]}],
    } | given


def test_settings_are_chosen_on_validation_data(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Compressed, trial: Trial
) -> None:
    for rate, weights, validation in ((0.9, 20_000, 0.89), (0.8, 60_000, 0.91), (0.5, 120_000, 0.93)):
        for seed in (0, 1):
            size = weights + 1000 * seed
            trial(tmp_path, made, seed=seed, **merged(rate, size, validation_metric=validation, metric=0.901))
    trial(tmp_path, made, **merged(0.9, 10, validation_metric=0.99, settings={"stages": [{"kind": "cast"}]}))
    rows, problems = told(capsys, tmp_path)
    assert not problems
    smallest, best = (row for row in rows if row["source"] == "2020, abstract" and row["data"] == "cifar10")
    assert (smallest["chosen"], best["chosen"]) == ("smallest", "best")
    assert smallest["parameters before"] == SMALL and smallest["after"] == 60_500 and best["after"] == 120_500
    assert smallest["reduction"] == pytest.approx(100 * (1 - 60_500 / SMALL))
    assert smallest["difference"] == pytest.approx(smallest["reduction"] - 92.96)
    assert smallest["won"] == pytest.approx(0.1) and smallest["seeds"] == "2"
    assert next(row for row in rows if row["data"] == "cifar100")["setting"] == "not run"


def test_networks_are_counted_with_their_settings_and_those_without_loss_may_be_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Compressed, trial: Trial
) -> None:
    network = {"kind": "vgg_small", "widths": [8, 0, 16]}
    given = merged(0.5, 100, validation_metric=0.5)
    given["settings"]["model"] = network
    trial(tmp_path, made, **given)
    rows, _ = told(capsys, tmp_path)
    assert rows[0]["setting"].endswith("none without loss")
    # 3 x 3 kernels, two norms of two vectors, and the last layer
    assert rows[1]["parameters before"] == 9 * (3 * 8 + 8 * 16) + 2 * (8 + 16) + 16 * 10 + 10


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"leaves": None}, "its results name no leaves"), ({"model": "vgg_wide"}, "no network is called 'vgg_wide'")],
)
def test_what_can_not_be_counted_is_told(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    made: Compressed,
    trial: Trial,
    change: dict[str, Any],
    reason: str,
) -> None:
    settings = {"stages": [{"kind": "merge"}]}
    trial(tmp_path, made, **merged(0.5, 100, settings=settings, **change))
    rows, problems = told(capsys, tmp_path)
    assert {row["setting"] for row in rows} == {"not run"}
    assert "a setting of nac is left out" in problems and reason in problems
