"""The sweeps of docs/bring-your-own-model.md, copied out of the document and run."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.config import load_experiment

DOCUMENT = (Path(__file__).parents[2] / "docs" / "bring-your-own-model.md").read_text()
FILES = re.findall(
    r"`(my_\w+\.(?:py|yaml))`[^\n]*:\n\n```(?:python|yaml)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES:
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_configs_are_short(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["my_linen.yaml", "my_net.py", "my_net.yaml"]
    for config in folder.glob("*.yaml"):
        assert len(config.read_text().splitlines()) < 25
        assert load_experiment(config).points


@pytest.mark.slow
@pytest.mark.parametrize("name", ["my_net", "my_linen"])
def test_a_sweep_of_a_network_of_ones_own_runs(name: str, folder: Path) -> None:
    overrides = {
        "my_net": ["seeds=[0]", "recipes.kmeans.0.k=16", "recipes.pruned.1.epochs=1", "baseline.epochs=8"],
        "my_linen": ["model.arguments.features=32", "recipes.kmeans.0.k=16", "baseline.epochs=8"],
    }[name]
    command = [sys.executable, "-m", "launch.local", f"{name}.yaml", *overrides, "--workdir", "w", "--workers", "1"]
    paths = os.pathsep.join(path for path in sys.path if path)
    ended = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    with (folder / "w" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"Net" if name == "my_net" else "LinenNet"}
    assert all(row["status"] == "done" and float(row["metric"]) > 0.5 for row in rows)
