import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quantree as qt
from quantree import registry
from quantree.encodings import Coded, Compressed, Pruned, Raw, Table
from quantree.errors import ConfigError, QuantreeError
from quantree.model import Model
from quantree.recipe import Recipe, changed_leaves
from quantree.schema import parse_yaml, read_yaml
from quantree.stage import Context, Stage

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
MODEL = qt.from_params(
    {"a": RNG.normal(size=(4, 6)).astype(np.float32), "b": RNG.normal(size=(6, 3)).astype(np.float32)}
)

# --- Reading --------------------------------------------------------------------------------------------------------

FILE = """\
stages:
  - kind: prune
    density: 0.5
  - kind: quantize
    match: [a, c*]
    learner:
      kind: kmeans
      k: 4
"""


def complaint(function: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        function()
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("k: 4", "q: 4", "r.yaml:8: stages[1].learner.q: unknown key 'q'; known: init, iterations, k, "),
        ("k: 4", "k: four", "r.yaml:8: stages[1].learner.k: input should be a valid integer, not 'four'"),
        ("      k: 4\n", "", "r.yaml:6: stages[1].learner.k: field required"),
        ("kind: kmeans", "kind: kmean", "r.yaml:7: stages[1].learner.kind: no learner is called 'kmean'; did you mean"),
        ("density: 0.5", "density: 5", "r.yaml:3: stages[0].density: input should be less than or equal to 1, not 5"),
        ("density: 0.5", "densty: 5", "r.yaml:3: stages[0].densty: unknown key 'densty'; did you mean 'density'?"),
        ("kind: prune", "kind: prun", "r.yaml:2: stages[0].kind: no stage is called 'prun'; did you mean 'prune'?"),
        ("kind: prune", "knd: prune", "r.yaml:2: stages[0]: expected a stage: its name, or a mapping with `kind`"),
    ],
)  # fmt: skip
def test_errors_of_a_recipe_in_a_file_name_its_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    (tmp_path / "r.yaml").write_text(FILE.replace(old, new))
    document = read_yaml(tmp_path / "r.yaml")
    said = complaint(lambda: Recipe.from_config(document.at(("stages",)), ("stages",)))
    assert said.startswith(f"{tmp_path}/{told}")


def test_a_pattern_that_matches_nothing_is_found_before_anything_runs_with_its_line() -> None:
    document = parse_yaml(FILE, "r.yaml").at(("stages",))
    recipe = Recipe.from_config(document, ("stages",))
    said = complaint(lambda: recipe.check(MODEL, document, ("stages",)))
    assert said == "r.yaml:5: stages[1].match[1]: pattern 'c*' matches no leaf; known: a, b"
    assert complaint(lambda: recipe.check(MODEL)).startswith("stage 1 (quantize): pattern 'c*' matches no leaf")
    abstract = Model(jax.eval_shape(lambda: MODEL.params), {})
    assert complaint(lambda: recipe.run(abstract, key=KEY)).startswith("stage 1 (quantize): pattern 'c*'")


ORDERS = {
    "quantized, then pruned": (
        ["kmeans", "prune"],
        r"r.yaml:2: stages\[1\]: a: an earlier stage quantizes it; prune",
    ),
    "quantized twice": (["kmeans", "uniform"], r"r.yaml:2: stages\[1\]: quantize: every leaf .* by an earlier stage"),
    "a method twice": (["deep_compression", "deep_compression"], r"r.yaml:2: stages\[1\]: a: an earlier stage quant"),
}


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_that_can_not_be_is_told_before_anything_runs(name: str) -> None:
    kinds, told = ORDERS[name]
    settings = {
        "kmeans": "k: 3",
        "uniform": "k: 3",
        "prune": "density: 0.5",
        "deep_compression": "density: 0.5, k: 3, bias_k: null",
    }
    document = parse_yaml("\n".join(f"- {{kind: {kind}, {settings[kind]}}}" for kind in kinds), "r.yaml")
    recipe = Recipe.from_config(document, ("stages",))
    assert re.match(told, complaint(lambda: recipe.check(MODEL, document, ("stages",))))
    Recipe(stages=recipe.stages[1:]).check(MODEL)
    shared = Recipe.from_config([{"kind": "kmeans", "k": 2, "match": "a"}, {"kind": "kmeans", "k": 3}])
    shared.check(MODEL)  # what is left is taken


@pytest.mark.parametrize("given", [[], {}, "kmeans", None, 3])
def test_a_recipe_is_a_list(given: Any) -> None:
    assert complaint(lambda: Recipe.from_config(given)) == "recipe: a recipe is a list of stages, and has at least one"


@pytest.mark.parametrize(
    "stages",
    [
        [{"kind": "prune", "density": {"a": 0.5}, "match": ["a", "b"]}, {"kind": "kmeans", "k": 4}, {"kind": "cast"}],
        [{"kind": "finetune", "epochs": 2, "gradual": {"stage": {"kind": "prune", "quality": 1.5}}, "match": "*"}],
        [{"kind": "product", "k": 4, "d": 3}, {"kind": "uniform", "k": 3, "grouping": "net"}],
    ],
)
def test_resolved_settings_make_the_same_recipe(stages: list[Any]) -> None:
    recipe = Recipe.from_config(stages)
    assert Recipe.from_config([stage.to_config() for stage in recipe.stages]) == recipe
    resolved = Recipe.from_config([stage.to_config() for stage in recipe.expanded])
    assert resolved.stages == recipe.expanded == resolved.expanded
    assert [Stage.from_config(stage.to_config()) for stage in recipe.stages] == list(recipe.stages)


# --- Running --------------------------------------------------------------------------------------------------------


def test_the_same_key_gives_the_same_model_and_stages_get_keys_of_their_own() -> None:
    with registry.temporarily():
        keys = []

        @qt.register("listen")
        class Listen(Stage):
            def run(self, compressed: Compressed, context: Context) -> Compressed:
                keys.append(np.asarray(jax.random.key_data(context.key)).tolist())
                return compressed

        recipe = Recipe.from_config(["listen", "listen"])
        for seed in (0, 0, 1):
            recipe.run(MODEL, key=jax.random.key(seed))
    assert keys[:2] == keys[2:4] and keys[0] != keys[1] and keys[:2] != keys[4:]


def test_on_stage_sees_each_step_and_one_stage_can_be_run_alone() -> None:
    recipe = Recipe.from_config([{"kind": "prune", "density": 0.5, "match": "a"}, {"kind": "kmeans", "k": 2}])
    seen: list[Any] = []
    final = recipe.run(MODEL, key=KEY, on_stage=lambda *step: seen.append(step))
    assert [(index, stage.name) for index, stage, *_ in seen] == [(0, "prune"), (1, "quantize")]
    assert [changed_leaves(before, after) for _, _, before, after, _ in seen] == [["a"], ["a", "b"]]
    assert seen[0][3] is seen[1][2] and seen[1][3] is final and all(seconds > 0 for *_, seconds in seen)
    alone = recipe.run_stage(1, seen[0][3], model=MODEL, key=KEY)
    assert jax.tree.all(jax.tree.map(np.array_equal, alone, final))
    assert final.dense_bytes == MODEL.dense_bytes == 4 * (24 + 18)


def test_groups_of_channels_behind_a_stage_that_makes_another_network_are_left_to_their_stage() -> None:
    def apply(params: Any, state: Any, inputs: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Any]:
        hidden = inputs @ params["v"] if "v" in params else inputs @ params["a"]
        return jax.nn.relu(hidden) @ params["b"], state

    inputs, labels = RNG.normal(size=(8, 4)).astype(np.float32), np.arange(8) % 3
    data = qt.Data.from_arrays((inputs, labels), (inputs, labels), qt.Classification())
    model = qt.from_params(MODEL.params, apply=apply)
    with registry.temporarily():

        @qt.register("renames")
        class Renames(Stage):
            foretells: bool = True

            def run(self, compressed: Compressed, context: Context) -> Compressed:
                return dataclasses.replace(compressed, leaves=self._renamed(compressed.leaves))

            def foreseen(self, leaves: Any) -> Any:
                return self._renamed(leaves) if self.foretells else leaves

            def _renamed(self, leaves: Any) -> Any:
                return {"v" if path == "a" else path: leaf for path, leaf in leaves.items()}

        stages = [{"kind": "renames"}, {"kind": "remove", "keep": {"v:1": 0.5}}]
        after = Recipe.from_config(stages).run(model, key=KEY, data=data)
        assert {path: leaf.shape for path, leaf in after.leaves.items()} == {"v": (4, 3), "b": (3, 3)}
        stages[0]["foretells"] = False
        with pytest.raises(
            ConfigError, match=r"stage 1 \(remove\): pattern 'v:1' matches no group; did you mean 'a:1'"
        ):
            Recipe.from_config(stages).run(model, key=KEY, data=data)


# --- What must stay true --------------------------------------------------------------------------------------------


def coded(compressed: Compressed) -> Coded:
    leaf = compressed.leaves["a"]
    assert isinstance(leaf, Coded)
    return leaf


Damage = Callable[[Compressed], Compressed]
PRUNE, KMEANS = {"kind": "prune", "density": 0.5}, {"kind": "kmeans", "k": 3}
BROKEN_ZEROS: dict[str, tuple[list[Any], Damage]] = {
    "raw again": ([PRUNE], lambda c: c.replace({"a": Raw.of(c.decode()["a"])})),
    "a wider mask": ([PRUNE], lambda c: c.replace({"a": Pruned.of(jnp.ones((4, 6)), jnp.ones((4, 6), bool))})),
    "one more": (
        [PRUNE],
        lambda c: c.replace({"a": Pruned.of(jnp.ones((4, 6)), jnp.asarray(c.decode()["a"] != 0).at[0].set(True))}),
    ),
    "another shape": ([PRUNE], lambda c: c.replace({"a": Pruned.of(jnp.ones((6, 4)), jnp.zeros((6, 4), bool))})),
    "no zero symbol": ([PRUNE, KMEANS], lambda c: c.replace({"a": dataclasses.replace(coded(c), zero=False)})),
    "other codes": (
        [PRUNE, KMEANS],
        lambda c: c.replace({"a": dataclasses.replace(coded(c), codes=coded(c).codes * 0 + 1)}),
    ),
}
BROKEN_CODES: dict[str, tuple[list[Any], Damage]] = {
    "raw again": ([KMEANS], lambda c: c.replace({"a": Raw.of(c.decode()["a"])})),
    "one code": (
        [KMEANS],
        lambda c: c.replace({"a": dataclasses.replace(coded(c), codes=coded(c).codes.at[0, 5].add(1))}),
    ),
    "another book": ([KMEANS], lambda c: c.replace({"a": dataclasses.replace(coded(c), codebook="b")})),
}


def with_damage(stages: list[Any], damage: Damage, release: bool = False, moves: bool = False) -> Compressed:
    with registry.temporarily():

        @qt.register("damage")
        class Bad(Stage):
            rearranges: ClassVar[bool] = moves
            release_mask: bool = False

            def run(self, compressed: Compressed, context: Context) -> Compressed:
                return damage(compressed)

        return Recipe.from_config([*stages, {"kind": "damage", "release_mask": release}]).run(MODEL, key=KEY)


@pytest.mark.parametrize("name", BROKEN_ZEROS)
def test_a_stage_that_brings_pruned_weights_back_is_caught(name: str) -> None:
    stages, damage = BROKEN_ZEROS[name]
    with pytest.raises(
        QuantreeError, match=rf"stage {len(stages)} \(damage\): a: weights that were pruned are not zero"
    ):
        with_damage(stages, damage)


@pytest.mark.parametrize("name", BROKEN_CODES)
def test_a_stage_that_changes_codes_is_caught(name: str) -> None:
    stages, damage = BROKEN_CODES[name]
    with pytest.raises(QuantreeError, match=r"stage 1 \(damage\): a: an earlier stage's codes were changed"):
        with_damage(stages, damage)


@pytest.mark.parametrize("name", ["raw again", "a wider mask", "no zero symbol"])
def test_a_stage_that_moves_channels_keeps_as_many_zeros(name: str) -> None:
    stages, damage = BROKEN_ZEROS[name]
    with pytest.raises(QuantreeError, match="a: weights that were pruned are not zero"):
        with_damage(stages, damage, moves=True)


def test_a_stage_that_moves_channels_moves_zeros() -> None:
    def flip(compressed: Compressed, rows: slice = slice(None)) -> Compressed:
        leaf = compressed.leaves["a"]
        assert isinstance(leaf, Pruned)
        return compressed.replace({"a": Pruned.of(leaf.value[::-1][rows], leaf.mask[::-1][rows])})

    with_damage([PRUNE], flip, moves=True)
    with_damage([PRUNE], lambda c: flip(c, slice(1, None)), moves=True)
    with pytest.raises(QuantreeError, match="a: weights that were pruned are not zero"):
        with_damage([PRUNE], flip)


def test_what_a_stage_may_do() -> None:
    with_damage(*BROKEN_ZEROS["raw again"], release=True)
    with_damage([PRUNE], lambda c: c.replace({"a": Pruned.of(jnp.ones((4, 6)), jnp.zeros((4, 6), bool))}))
    with_damage([KMEANS], lambda c: c.replace(codebooks={"a": Table(c.codebooks["a"].table() + 1)}))
    with_damage([KMEANS], lambda c: c.replace({"a": dataclasses.replace(coded(c), coder="ans")}))
