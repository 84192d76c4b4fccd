import json
import re
from pathlib import Path

import pytest

from experiments.config import json_schema, load_experiment
from quantree.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
GOOD = """\
name: tiny
data: {name: digits}
model: {kind: mlp, hidden: [8]}
baseline: {epochs: 2}
seeds: [0, 1]
recipes:
  kmeans:
    - {kind: kmeans, k: {grid: [2, 4]}}
  pruned:
    - kind: prune
      match: "*/kernel"
      density: {grid: [0.5, 0.2]}
    - {kind: finetune, epochs: 1}
    - {kind: kmeans, k: {grid: [2, 4]}}
smoke: {baseline.epochs: 1, "recipes.pruned[0].density": 0.5}
"""


def written(folder: Path, text: str = GOOD) -> Path:
    path = folder / "c.yaml"
    path.write_text(text)
    return path


def told(folder: Path, text: str, *overrides: str, smoke: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        load_experiment(written(folder, text), overrides, smoke)
    return str(caught.value).removeprefix(f"{folder}/")


def test_each_recipe_is_expanded_over_its_own_grids(tmp_path: Path) -> None:
    loaded = load_experiment(written(tmp_path))
    assert loaded.seeds == (0, 1)
    assert [
        (point.method, [stage.get("k", stage.get("density")) for stage in point.settings["stages"]])
        for point in loaded.points
    ] == [
        ("kmeans", [2]),
        ("kmeans", [4]),
        ("pruned", [0.5, None, 2]),
        ("pruned", [0.5, None, 4]),
        ("pruned", [0.2, None, 2]),
        ("pruned", [0.2, None, 4]),
    ]


def test_a_grid_outside_of_the_recipes_multiplies_them_all_and_is_a_setting(tmp_path: Path) -> None:
    loaded = load_experiment(written(tmp_path), ["model.hidden={grid: [[8], [4, 4]]}"])
    assert len(loaded.points) == 12
    assert loaded.points[0].settings["model.hidden"] == (8,)
    assert loaded.points[1].experiment.model.model_dump()["hidden"] == (4, 4)


def test_smoke_and_overrides_change_values_and_overrides_win(tmp_path: Path) -> None:
    plain, smoke, both = (
        load_experiment(written(tmp_path), overrides, small).points
        for overrides, small in (([], False), ([], True), (["baseline.epochs=7", "recipes.kmeans.0.k=3"], True))
    )
    trainings = [points[0].experiment.baseline for points in (plain, smoke, both)]
    assert [training and training.epochs for training in trainings] == [2, 1, 7]
    assert [len(points) for points in (plain, smoke, both)] == [6, 4, 3]


# Every class of typo: what is written in place of what, and the beginning of the error.
TYPOS = {
    "unknown key": ("epochs: 2", "epoch: 2", "4: baseline.epoch: unknown key 'epoch'; did you mean 'epochs'?"),
    "unknown key at the top": ("seeds:", "seed:", "5: seed: unknown key 'seed'; did you mean 'seeds'?"),
    "unknown key in a stage": (
        "density: {",
        "densty: {",
        "12: recipes.pruned[0].densty: unknown key 'densty'; did you mean 'density'?",
    ),
    "wrong type": ("epochs: 2", "epochs: two", "4: baseline.epochs: input should be a valid integer"),
    "wrong type in a grid": ("[2, 4]", "[2, 4.5]", "8: recipes.kmeans[0].k: input should be a valid integer"),
    "out of range": ("density: {grid: [0.5, 0.2]}", "density: 1.5", "12: recipes.pruned[0].density"),
    "repeated key": ("seeds:", "name: again\nseeds:", "5: name: repeated key; first given on line 1"),
    "pattern without a leaf": (
        '"*/kernel"',
        '"fc9/kernel"',
        "11: recipes.pruned[0].match: pattern 'fc9/kernel' matches no leaf; did you mean 'fc",
    ),
    "group of channels that is not there": (
        "    - {kind: finetune, epochs: 1}\n",
        "    - {kind: finetune, epochs: 1}\n    - {kind: permute, match: fc9, d: 2}\n",
        "14: recipes.pruned[2].match: pattern 'fc9' matches no group; did you mean 'fc1'?",
    ),
    "grid on a missing field": (
        "match:",
        "mach: {grid: [a, b]}\n      match:",
        "11: recipes.pruned[0].mach: unknown key 'mach'; did you mean 'match'?",
    ),
    "empty grid": ("[0.5, 0.2]", "[]", "12: recipes.pruned[0].density.grid: an empty grid"),
    "nested grid": (
        "[0.5, 0.2]",
        "[0.5, {grid: [0.1]}]",
        "12: recipes.pruned[0].density.grid[1]: a grid inside of a grid",
    ),
    "grid of seeds": ("seeds: [0, 1]", "seeds: {grid: [0, 1]}", "5: seeds: no grid can stand here"),
    "unknown stage": (
        "kind: prune",
        "kind: prun",
        "10: recipes.pruned[0].kind: no stage is called 'prun'; did you mean 'prune'?",
    ),
    "unknown network": ("kind: mlp", "kind: mpl", "3: model.kind: no network is called 'mpl'; did you mean 'mlp'?"),
    "unknown data set": ("name: digits}", "name: digit}", "2: data.name"),
    "network that does not fit": (
        "{kind: mlp, hidden: [8]}",
        "lenet5",
        "3: model: network 'lenet5' takes inputs of shape",
    ),
    "no recipe": (GOOD[GOOD.index("recipes:") : GOOD.index("smoke:")], "recipes: {}\n", "6: recipes: "),
    "recipe that is no list": (
        "    - {kind: kmeans, k: {grid: [2, 4]}}\n  pruned",
        "    {kind: kmeans}\n  pruned",
        "7: recipes.kmeans: input should be a list",
    ),
    "repeated seed": ("[0, 1]", "[0, 1, 0]", "5: seeds: seed 0 is given twice"),
    "missing plug-in": ("seeds:", "plugins: [mine.py]\nseeds:", "5: plugins[0]: can't read the plug-in file"),
    "grid with a typo": (
        "{grid: [2, 4]}",
        "{gird: [2, 4]}",
        "8: recipes.kmeans[0].k: unknown key 'gird'; did you mean {grid: [...]}?",
    ),
    "grid with a typo in place of a plug-in": (
        "{kind: mlp, hidden: [8]}",
        "{girds: [mlp, lenet5]}",
        "3: model: unknown key 'girds'; did you mean {grid: [...]}?",
    ),
    "recipe without a stage": (
        "recipes:",
        "recipes:\n  none: []",
        "7: recipes.none: a recipe is a list of stages, and has at least one",
    ),
    "no seed": ("[0, 1]", "[]", "5: seeds: needs at least one"),
    "share above one": (
        "name: digits}",
        "name: digits, validation: 1.5}",
        "2: data.validation: expected a share above 0 and below 1",
    ),
    "validation larger than the data": (
        "name: digits}",
        "name: digits, validation: 100000}",
        "2: data.validation: digits: validation of 100000 leaves nothing of 1437 training examples",
    ),
    "unknown smoke key": (
        "baseline.epochs: 1",
        "basline.epochs: 1",
        "15: basline: unknown key 'basline'; did you mean 'baseline'?",
    ),
    "unknown recipe in smoke": (
        "recipes.pruned[0]",
        "recipes.prund[0]",
        "15: smoke.recipes.prund[0].density: there is",
    ),
    "smoke key with two dots": (
        "baseline.epochs: 1",
        "baseline..epochs: 1",
        "15: smoke.baseline..epochs: expected a dotted key",
    ),
    "not YAML": ("[0, 1]", "[0, 1", "6: not YAML"),
}


@pytest.mark.parametrize("typo", TYPOS)
def test_every_typo_is_told_with_file_line_key_and_the_nearest_name(typo: str, tmp_path: Path) -> None:
    old, new, message = TYPOS[typo]
    assert GOOD.count(old) >= 1
    assert told(tmp_path, GOOD.replace(old, new, 1)).startswith(f"c.yaml:{message}")


def test_a_pattern_of_the_baselines_penalty_is_held_against_the_network(tmp_path: Path) -> None:
    text = GOOD.replace("{epochs: 2}", "{epochs: 2, filters: {weight: 0.1, match: fc7/kernel}}")
    found = told(tmp_path, text)
    assert found.startswith("c.yaml:4: baseline.filters.match: pattern 'fc7/kernel' matches no")
    assert load_experiment(written(tmp_path, text.replace("fc7", "fc1"))).points


def test_the_nearest_name_is_the_end_of_the_sentence(tmp_path: Path) -> None:
    said = told(tmp_path, GOOD.replace("name: digits", "name: digit", 1))
    assert said.endswith("no dataset is called 'digit'; did you mean 'digits'?")


def test_a_list_that_only_resembles_a_grid_is_not_blamed_for_another_error(tmp_path: Path) -> None:
    text = GOOD.replace("  kmeans:", "  gird:").replace("epochs: 2", "epochs: two")
    assert told(tmp_path, text).startswith("c.yaml:4: baseline.epochs: input should be a valid integer")


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "---\n"])
def test_an_empty_file_is_told_as_such(text: str, tmp_path: Path) -> None:
    assert re.match(r"c\.yaml(:1)?: the file is empty", told(tmp_path, text))


def test_overrides_do_not_meddle_with_the_check_of_the_smoke_variant(tmp_path: Path) -> None:
    overrides = ["recipes={other: [{kind: kmeans, k: 4}]}", "baseline.epochs=9"]
    assert len(load_experiment(written(tmp_path), overrides).points) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("baseline.epoch=3", "unknown key 'epoch'; did you mean 'epochs'?"),
        ("baselin.epochs=3", "unknown key 'baselin'; did you mean 'baseline'?"),
        ("recipes.kmean.0.k=3", "there is no recipe 'kmean'; did you mean 'kmeans'?"),
        ("recipes.kmeans.3.k=3", "3 is no index into a list of 1"),
        ("baseline.epochs", "expected dotted.key=value"),
        ("baseline..epochs=3", "expected dotted.key=value"),
        (".baseline.epochs=3", "expected dotted.key=value"),
        ("recipes.kmeans[0.k=3", "expected dotted.key=value"),
        ("baseline.epochs=[1", "the value is not YAML"),
        ("baseline.epochs=x", "input should be a valid integer"),
    ],
)
def test_an_override_is_checked_like_the_file(override: str, message: str, tmp_path: Path) -> None:
    assert message in told(tmp_path, GOOD, override)


def test_a_wrong_smoke_variant_tells_its_line(tmp_path: Path) -> None:
    wrong = GOOD.replace("recipes.pruned[0].density", "recipes.prund[0].density")
    assert told(tmp_path, wrong, smoke=True).startswith("c.yaml:15: smoke.recipes.prund[0].density: there is no recipe")
    assert told(tmp_path, GOOD.replace("epochs: 1,", "epochs: no,"), smoke=True).startswith(
        "c.yaml:15: baseline.epochs"
    )


def test_a_plug_in_file_joins_before_its_names_are_checked(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from quantree import Stage, register\n"
        "@register('tests-config-nothing')\n"
        "class Nothing(Stage):\n"
        "    def run(self, compressed, context):\n"
        "        return compressed\n"
    )
    text = GOOD.replace("seeds:", "plugins: [mine.py]\nseeds:").replace(
        "{kind: finetune, epochs: 1}", "tests-config-nothing"
    )
    loaded = load_experiment(written(tmp_path, text))
    assert loaded.plugins[0].path == str(tmp_path / "mine.py")
    assert loaded.points[2].recipe.stages[1].name == "tests-config-nothing"


def test_a_plug_in_file_that_fails_is_an_error_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    message = told(tmp_path, GOOD.replace("seeds:", "plugins: [broken.py]\nseeds:"))
    assert message.startswith("c.yaml:5: plugins[0]: ") and "ZeroDivisionError" in message


def test_the_schema_knows_every_stage_and_lets_grids_stand_in_settings() -> None:
    schema = json.loads(json.dumps(json_schema()))
    definitions = schema["$defs"]
    assert {"stage:kmeans", "stage:finetune", "network:lenet5", "grid"} <= set(definitions)
    k = definitions["stage:kmeans"]["properties"]["k"]
    assert k["description"] and {"$ref": "#/$defs/grid"} in k["anyOf"]
    assert "anyOf" not in schema["properties"]["seeds"]
    mentioned = {part.split('"')[0] for part in json.dumps(schema).split('"#/$defs/')[1:]}
    assert mentioned <= set(definitions)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_and_its_smoke_variant_are_valid(path: Path) -> None:
    whole, smoke = load_experiment(path), load_experiment(path, smoke=True)
    assert whole.name == path.stem
    assert 1 <= len(smoke.points) * len(smoke.seeds) <= 16
    assert {point.method for point in smoke.points} == {point.method for point in whole.points}
    assert path.read_text().startswith("#") and "python -m launch.local" in path.read_text().split("\nname:")[0]
