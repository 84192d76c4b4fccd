import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import experiments.data.sets
import experiments.zoo  # noqa: F401 - registers networks and data sets
from experiments import methods
from quantree import registry
from quantree.recipe import Recipe
from quantree.registry import registered

ROOT = Path(__file__).parents[2]


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert methods.main(arguments) == 0
    return capsys.readouterr().out


def test_everything_that_a_config_may_name_is_listed_with_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    found = {(method["family"], method["name"]): method for method in json.loads(listed(capsys, "--json"))}
    assert set(found) == {(family, name) for family in methods.FAMILIES for name in registered(family)}
    for (family, name), method in found.items():
        fields = registered(family)[name].model_fields
        assert [setting["name"] for setting in method["settings"]] == list(fields)
        assert method["about"] or not registered(family)[name].__doc__, (family, name)  # other tests leave plug-ins
        for setting in method["settings"]:
            info = fields[setting["name"]]
            assert info.description in setting["about"]
            assert (setting["default"] == methods.REQUIRED) == info.is_required()
    kmeans = {setting["name"]: setting for setting in found["learner", "kmeans"]["settings"]}
    assert kmeans["restarts"]["default"] == "1" and kmeans["k"]["default"] == "required"
    assert kmeans["init"]["default"] == "best"
    assert kmeans["init"]["about"].endswith("(best | k-means++ | k-means|| | random | linear | density)")
    assert "60,000 train, 10,000 test" in found["dataset", "mnist"]["about"]
    assert found["stage", "uniform"]["about"] == "Rounding to k evenly spaced levels"


def test_what_a_preset_stands_for_can_be_written_in_its_place() -> None:
    presets = {method.name: method for method in methods.methods() if method.expands}
    assert {"kmeans", "uniform", "product", "deep_compression"} <= set(presets)
    for preset in presets.values():
        stages = [yaml.safe_load(stage) for stage in preset.expands]
        assert Recipe.from_config(stages).expanded == Recipe.from_config([yaml.safe_load(preset.example)]).expanded
    assert [stage.split(",")[0] for stage in presets["deep_compression"].expands] == [
        "{kind: finetune",
        "{kind: quantize",
        "{kind: quantize",
        "{kind: finetune",
        "cast",
    ]


def test_a_pipe_gets_every_word() -> None:
    environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": os.pathsep.join((str(ROOT / "framework"), str(ROOT)))}
    command = [sys.executable, "-m", "experiments.methods"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    said = set(done.stdout.split())
    for method in methods.methods():
        assert {*method.about.split(), *" ".join(method.expands).split()} <= said
        for setting in method.settings:
            assert {setting.name, *setting.about.split()} <= said
    assert "…" not in done.stdout and "\x1b" not in done.stdout


def test_a_narrow_terminal_folds_and_loses_nothing() -> None:
    console = Console(width=60, force_terminal=True, color_system=None, file=io.StringIO())
    methods.show(methods.methods(), console)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "…" not in said and max(map(len, said.splitlines())) <= 60
    assert "[height, width" not in said and "`fc1/kernel`" in "".join(said.split())


def test_plug_in_files_are_listed_too_and_faults_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(
        "import quantree as qt\n@qt.register('mine')\nclass Mine(qt.Grouping):\n"
        "    'Groups as I like.'\n    def groups(self, paths, leaves):\n        return {'all': list(paths)}\n"
    )
    with registry.temporarily():
        assert re.search(r"^mine +Groups as I like *$", listed(capsys, str(tmp_path / "mine.py")), re.MULTILINE)
    assert methods.main([str(tmp_path / "none.py")]) == 1
    assert capsys.readouterr().err.startswith("error: can't read the plug-in file")
