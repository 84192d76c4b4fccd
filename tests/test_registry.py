import importlib.metadata
import json
import warnings
from typing import Any, ClassVar

import jsonschema
import pytest
from pydantic import Field

from quantree import registry
from quantree.errors import ConfigError, PluginError
from quantree.quantizers import Grouping, KMeans, Learner, WholeNet
from quantree.recipe import Recipe
from quantree.registry import Choice, Plugin, register
from quantree.schema import Config, validate
from quantree.stage import Stage


class Holder(Config):
    learner: Choice[Learner]
    groupings: tuple[Choice[Grouping], ...] = ()


def test_a_choice_takes_mapping_name_or_plug_in_and_tells_the_nearest_name() -> None:
    held = validate(Holder, {"learner": {"kind": "kmeans", "k": 4}, "groupings": ["net", {"kind": "tensor"}]})
    assert held.learner == KMeans(k=4) and [each.name for each in held.groupings] == ["net", "tensor"]
    assert Holder(learner=KMeans(k=4)).learner == KMeans(k=4)
    for settings, told in (
        ({"learner": {"kind": "kmens", "k": 4}}, r"learner\.kind: no learner is called 'kmens'; did you mean 'kmeans'"),
        ({"learner": {"kind": "kmeans", "q": 4}}, r"learner\.q: unknown key 'q'; known: .*tolerance"),
        ({"learner": {"kind": "kmeans", "k": "4"}}, r"learner\.k: input should be a valid integer, not '4'"),
        ({"learner": "kmeans"}, r"learner: field required|learner\.k: field required"),
        ({"learner": {"k": 4}}, r"learner: expected a learner: its name, or a mapping with `kind`"),
        ({"learner": 3}, r"learner: expected a learner"),
        ({"learner": KMeans(k=4), "groupings": ["kmeans"]}, r"groupings\[0\]: no grouping is called 'kmeans'"),
        ({"learner": {"kind": ["kmeans"]}}, r"learner: expected a learner"),
    ):
        with pytest.raises(ConfigError, match=told):
            validate(Holder, settings)


@pytest.mark.parametrize("family", sorted(registry.families()))
def test_names_of_all_plug_ins_lead_to_their_classes(family: str) -> None:
    base = registry.families()[family]
    for name, plugin in registry.registered(family).items():
        assert plugin.name == name and plugin.family == family and issubclass(plugin, base)


def test_a_name_is_taken_once() -> None:
    with registry.temporarily():

        @register("mine")
        class Mine(KMeans):
            pass

        assert Learner.named("mine") is Mine
        with pytest.raises(PluginError, match=r"learner 'mine' is already registered by .*Mine"):
            register("mine")(Mine)
        with pytest.raises(PluginError, match=r"learner 'kmeans' is already registered"):
            register("kmeans")(Mine)
        register("mine")(type("Other", (WholeNet,), {"__module__": __name__}))  # another family, another name space
    with pytest.raises(PluginError, match="no learner is called 'mine'"):
        Learner.named("mine")


@pytest.mark.parametrize("name", ["", "a/b", "Bad Name", "3", "_a", "a\n", "é", 3, None])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(PluginError, match="can't name a plug-in: a name begins with a letter"):
        register(name)


def test_to_register_without_a_name_is_told() -> None:
    with pytest.raises(PluginError, match=r'Mine: `register` wants the name .* write @register\("mine"\)'):

        @register  # pyright: ignore[reportArgumentType]
        class Mine(KMeans):
            pass


def test_a_name_of_another_family_is_told_with_its_place() -> None:
    with pytest.raises(PluginError, match=r"no stage is called 'ecsq', but a learner is; use \{kind: quantize, "):
        Stage.named("ecsq")
    with pytest.raises(PluginError, match="no learner is called 'net', but a grouping is; known: "):
        Learner.named("net")


def test_families() -> None:
    with registry.temporarily():

        class Paint(Plugin, family="paint"):
            pass

        with pytest.raises(PluginError, match=r"family .paint. is already declared by .*Paint"):
            type("Again", (Plugin,), {"__module__": __name__}, family="paint")
        assert registry.registered("paint") == {}
    assert "paint" not in registry.families()
    with pytest.raises(PluginError, match="there is no family 'paint'"):
        registry.registered("paint")
    with pytest.raises(PluginError, match="there is no family 'lerner'; did you mean 'learner'"):
        registry.registered("lerner")
    with pytest.raises(PluginError, match="Lost belongs to no family"):
        register("lost")(type("Lost", (Plugin,), {"__module__": __name__}))


def test_what_registered_gives_is_a_copy() -> None:
    registry.registered("learner").clear()
    assert "kmeans" in registry.registered("learner")


class _Point:
    """Stands for an entry point of an installed package."""

    value = "elsewhere:plugin"
    broken: ClassVar[bool] = False

    def __init__(self, name: str) -> None:
        self.name = name

    def load(self) -> None:
        if self.broken:
            raise ImportError("no module named 'elsewhere'")
        if self.name not in registry.registered("grouping"):  # asking for others while being loaded is fine
            register(self.name)(type("Installed", (WholeNet,), {"__module__": __name__}))


def test_installed_plug_ins_are_found_and_a_broken_one_is_an_error_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [_Point("installed")] * (group == registry.ENTRY_POINTS)
    )
    with registry.temporarily():
        monkeypatch.setattr(registry, "_loaded_entry_points", False)
        with registry.temporarily():
            assert "installed" in registry.registered("grouping")
        assert "installed" in registry.registered("grouping"), "loaded once, so it must outlive the inner block"
        monkeypatch.setattr(_Point, "broken", True)
        monkeypatch.setattr(registry, "_loaded_entry_points", False)
        for _ in range(2):
            with pytest.raises(PluginError, match=r"'installed' \(elsewhere:plugin\) can't be loaded: no module named"):
                registry.registered("grouping")
        monkeypatch.setattr(registry, "_loaded_entry_points", True)


# --- JSON schema ----------------------------------------------------------------------------------------------------


def refs(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(refs, node.values()))
    return set().union(*map(refs, node)) if isinstance(node, list) else set()


def test_the_schema_of_a_recipe_lists_every_plug_in_and_agrees_with_validation() -> None:
    with warnings.catch_warnings(), registry.temporarily():

        @register("painted")
        class Painted(Stage):
            """A stage that joins by being registered."""

            coats: int = Field(ge=1, description="how often")

        schema = json.loads(json.dumps(registry.json_schema(Recipe)))
        jsonschema.Draft202012Validator.check_schema(schema)
        assert all(ref.removeprefix("#/$defs/") in schema["$defs"] for ref in refs(schema))
        assert "x-family" not in json.dumps(schema)
        for family in ("stage", "learner", "grouping", "blocking"):
            for name, plugin in registry.registered(family).items():
                made = schema["$defs"][f"{family}:{name}"]
                assert made["properties"]["kind"] == {"const": name}
                assert set(made["properties"]) == {"kind", *plugin.model_fields}
                assert all("description" in made["properties"][field] for field in plugin.model_fields), name
        validator = jsonschema.Draft202012Validator(schema)
        good = [
            [{"kind": "painted", "coats": 2}],
            [{"kind": "quantize", "learner": {"kind": "kmeans", "k": 4}, "grouping": "net"}, "cast"],
            [{"kind": "finetune", "epochs": 1, "gradual": {"stage": {"kind": "prune", "density": {"a": 0.5}}}}],
        ]
        bad = [
            [{"kind": "painted", "coats": 0}],
            [{"kind": "painted", "coats": 1, "colour": 3}],
            [{"kind": "quantize", "learner": {"kind": "tensor"}}],
            [{"kind": "quantize", "learner": "kmeans"}],
            [{"kind": "nothing"}],
            ["painted"],
            [{"kind": "finetune", "epochs": 1, "gradual": {"stage": {"kind": "prune", "density": 2}}}],
        ]
        for stages in good:
            validator.validate({"stages": stages})
            Recipe.from_config(stages)
        for stages in bad:
            assert not validator.is_valid({"stages": stages}), stages
            with pytest.raises(ConfigError):
                Recipe.from_config(stages)


def test_pydantics_own_schema_is_valid_too() -> None:
    schema = Recipe.model_json_schema()
    jsonschema.Draft202012Validator(schema).validate({"stages": ["cast", {"kind": "prune", "density": 0.5}]})


def test_a_plugin_that_lacks_a_method_of_its_family_is_not_registered() -> None:
    class Half(Learner):
        k: int = 1

    with pytest.raises(PluginError, match=r"learner .half.: .*Half lacks learn"):
        register("half")(Half)
