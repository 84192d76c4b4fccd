"""A config file: what is trained, what is done to it, how often.

`python -m experiments.config --schema` prints a JSON schema for editors.
"""

import functools
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from experiments.data import DataConfig
from experiments.data.dataset import source_named
from experiments.data.source import Source
from experiments.execution import Execution
from experiments.grid import GRID, expand, forbid, misspelt, set_part
from experiments.imported import Checkpoint
from experiments.papers import PaperRule
from experiments.plugins import PluginFile
from experiments.zoo import Network
from quantree import registry
from quantree.encodings import Compressed
from quantree.errors import ConfigError, DataError, PluginError, nearest
from quantree.graph import Graph
from quantree.model import Model, flatten
from quantree.recipe import Recipe
from quantree.recovery import Training
from quantree.registry import Choice
from quantree.schema import Config, Document, Location, dotted, parse_scalar, read_yaml, undotted, validate
from quantree.stage import Stage

Name = Annotated[str, StringConstraints(pattern=r"^\w[\w +-]*$")]
_WHOLE = {
    "name": "it names the whole sweep",
    "seeds": "it is a list already",
    "plugins": "every trial sees all plug-ins",
    "execution": "all workers of a sweep run alike",
    "trained_on": "all baselines are trained alike",
    "paper": "it changes no network, and what it counts is one column",
}


class Experiment(Config):
    """A sweep: recipes x settings x seeds on one network and data set.

    Anywhere but in `name`, `seeds`, `plugins`, `execution`, `trained_on` and `paper`, `{grid: [a, b]}` may stand in
    place of a value; the sweep is the product.
    """

    name: Name = Field(description="name of the sweep, a column of its results")
    data: DataConfig = Field(description="data set, validation split, scaling")
    model: Choice[Network] = Field(description="the network")
    baseline: Training | None = Field(default=None, description="how the network is trained before it is compressed")
    checkpoint: Checkpoint | None = Field(default=None, description="a trained network to load in place of `baseline`")
    recipes: dict[Name, tuple[Choice[Stage], ...]] = Field(
        min_length=1, description="method -> stages, run in this order; the name is the column `method` of the results"
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        (0,), min_length=1, description="each fixes validation split, initial weights, order of batches and every draw"
    )
    plugins: tuple[str, ...] = Field((), description="Python files that register plug-ins; relative to this file")
    smoke: dict[str, Any] = Field({}, description="dotted.key -> value: what `--smoke` changes, to end within seconds")
    execution: Execution = Field(Execution(), description="kind of device and threads")
    trained_on: Execution | None = Field(
        None,
        description="kind of device and threads that trains the baselines, where it is another: a sweep there leaves "
        "them in `baselines/` of its work folder, from where they are copied; default: as `execution` says",
    )
    paper: Choice[PaperRule] | None = Field(
        None, description="how a paper counts size, for the column `paper_ratio` beside `ratio`; default: not at all"
    )

    @model_validator(mode="after")
    def _trained_or_loaded(self) -> "Experiment":
        if (self.baseline is None) == (self.checkpoint is None):
            reason = "give either `baseline`, how the network is trained, or `checkpoint`, where it is loaded from"
            raise PydanticCustomError("combination", "{reason}", {"reason": reason, "key": "baseline"})
        return self


@dataclass(frozen=True)
class Point:
    """One recipe at one point of the grid.

    document: what it was read from, without grids; tells lines.
    settings: what was written for the stages, and what was chosen from grids elsewhere; for tables.
    """

    experiment: Experiment
    method: str
    recipe: Recipe
    document: Document
    settings: dict[str, Any]


@dataclass(frozen=True)
class Loaded:
    """A config file that was read, expanded and checked."""

    source: str
    name: str
    points: tuple[Point, ...]
    seeds: tuple[int, ...]
    plugins: tuple[PluginFile, ...]


def load_experiment(path: str | Path, overrides: Iterable[str] = (), smoke: bool = False) -> Loaded:
    """Reads a config, applies its smoke variant if wanted and then `dotted.key=value` overrides; expands and checks it.

    `ConfigError` names file, line, key and the nearest valid name of the first thing that is wrong.
    """
    file = document = read_yaml(path)
    if file.data is None:
        raise file.error((), "the file is empty; an experiment has name, data, model, baseline and recipes")
    if smoke:
        document = _smoke(document)
    for text in overrides:
        document = _override(document, text)
    plugins = _load_plugins(document)
    loaded = _expanded(document, plugins)
    if not smoke and loaded.points[0].experiment.smoke:
        # A typo there must not wait for the day on which someone tries it. Overrides are for this run alone.
        _expanded(_smoke(file), plugins)
    return loaded


def _expanded(document: Document, plugins: tuple[PluginFile, ...]) -> Loaded:
    for key, reason in _WHOLE.items():
        if isinstance(document.data, Mapping) and key in document.data:
            forbid(document, (key,), reason)
    recipes = document.data.get("recipes") if isinstance(document.data, Mapping) else None
    if not isinstance(recipes, Mapping) or not recipes:
        experiment = validate(Experiment, document)
        raise AssertionError(f"a config without recipes is not valid, but was taken for {experiment}")
    points = [point for method in recipes for point in _points(document, method)]
    seeds = points[0].experiment.seeds
    repeated = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if repeated is not None:
        raise document.error(("seeds",), f"seed {repeated} is given twice")
    return Loaded(document.source, points[0].experiment.name, tuple(points), seeds, plugins)


def _points(document: Document, method: str) -> Iterable[Point]:
    place = ("recipes", method)
    alone = Document(
        {**document.data, "recipes": {method: document.data["recipes"][method]}}, document.source, document.lines
    )
    around = [key for key in ("data", "model", "baseline", "checkpoint") if key in document.data]
    choices = expand(alone, place)
    for key in around:
        choices = [
            type(choice)(more.document, {**choice.chosen, **more.chosen})
            for choice in choices
            for more in expand(choice.document, (key,))
        ]
    for choice in choices:
        experiment = _validated(choice.document)
        recipe = Recipe.from_config(choice.document.at(place), place)
        _check(choice.document, place, experiment, recipe)
        settings = {dotted(at): value for at, value in choice.chosen.items() if at[:2] != place}
        settings["stages"] = choice.document.data["recipes"][method]
        yield Point(experiment, method, recipe, choice.document, settings)


def _validated(document: Document) -> Experiment:
    try:
        return validate(Experiment, document)
    except ConfigError as error:
        for place in misspelt(document):
            if str(error).startswith(f"{document.where(place)}: {dotted(place)}"):
                [key] = document.at(place).data
                raise document.error(place, f"unknown key {key!r}; did you mean {{grid: [...]}}?") from None
        raise


@functools.lru_cache(maxsize=8)
def _abstract(network: Network, shape: tuple[int, ...], classes: int) -> Model:
    """As `Network.abstract`, once for all points of a grid."""
    return network.abstract(shape, classes)


@functools.lru_cache(maxsize=8)
def _graph(network: Network, source: Source) -> Graph:
    return network.graph(source.shape, source.dtype, len(source.classes))


def _check(document: Document, place: Location, experiment: Experiment, recipe: Recipe) -> None:
    """Holds a recipe against the network's leaves and validation against the data, before anything is trained."""
    source = source_named(experiment.data.name)
    try:
        experiment.data.held_out(source.sizes["train"])
    except DataError as error:
        raise document.error(("data", "validation"), str(error)) from None
    try:
        model = _abstract(experiment.model, source.shape, len(source.classes))  # pyright: ignore[reportArgumentType]  frozen, so hashable
    except ConfigError as error:
        raise document.error(("model",), str(error)) from None
    filters = experiment.baseline and experiment.baseline.filters
    if filters:
        try:
            filters.over(Compressed.from_model(model).leaves)
        except ConfigError as error:
            raise document.error(("baseline", "filters", "match"), str(error)) from None
    recipe.check(model, document.at(place), place, lambda: _graph(experiment.model, source))  # pyright: ignore[reportArgumentType]  frozen, so hashable
    if experiment.paper is not None:
        try:
            experiment.paper.check({path: len(leaf.shape) for path, leaf in flatten(model.params).items()})
        except ConfigError as error:
            raise document.error(("paper",), str(error)) from None
    if experiment.checkpoint is not None:
        _choose_nothing(document, place, recipe)


def _choose_nothing(document: Document, place: Location, recipe: Recipe) -> None:
    """An imported network may have been trained on the images that are cut off for validation here."""
    for index, stage in enumerate(recipe.stages):
        for inner in stage.expand():
            if inner.chooses:
                at = (*place, index, *document.at((*place, index)).find(inner.chooses))
                raise document.error(
                    at,
                    f"`{inner.chooses}` chooses on validation images, which an imported network may have been trained "
                    "on: fix the schedule (keep: last, and no patience or tolerance)",
                )


def _smoke(document: Document) -> Document:
    changes = document.data.get("smoke") if isinstance(document.data, Mapping) else None
    if not isinstance(changes, Mapping):
        return document
    for key in changes:
        if not isinstance(key, str):
            raise document.error(("smoke",), f"expected dotted.key: value, not the key {key!r}")
        location = _location(key)
        if not location:
            raise document.error(("smoke", key), "expected a dotted key such as baseline.epochs")
        _is_there(document, location, ("smoke", key))
        document = set_part(document, location, document.at(("smoke", key)))
    return document


def _override(document: Document, text: str) -> Document:
    key, equals, value = text.partition("=")
    location = _location(key)
    if not equals or not location:
        raise ConfigError(f"override {text!r}: expected dotted.key=value, such as baseline.epochs=5")
    try:
        parsed = parse_scalar(value)
    except ConfigError:
        raise ConfigError(f"override {text!r}: the value is not YAML") from None
    _is_there(document, location, location)
    return document.replaced(location, parsed)


def _location(key: str) -> Location:
    """The parts of a dotted key; none if one of them is empty."""
    return undotted(key) if re.fullmatch(r"[^.\[\]]+(\.[^.\[\]]+|\[\d+\])*", key) else ()


def _is_there(document: Document, location: Location, told: Location) -> None:
    """Below `recipes` the names are free, so a typo would make a new recipe: it must exist, or be given whole."""
    recipes = document.data.get("recipes") if isinstance(document.data, Mapping) else None
    if location[0] == "recipes" and len(location) > 2 and isinstance(recipes, Mapping) and location[1] not in recipes:
        name = str(location[1])
        raise document.error(told, f"there is no recipe {name!r}; {nearest(name, [str(key) for key in recipes])}")


def _load_plugins(document: Document) -> tuple[PluginFile, ...]:
    """Imports what the config lists; whatever is no list of names is left for validation to refuse."""
    named = document.data.get("plugins", ()) if isinstance(document.data, Mapping) else ()
    files: list[PluginFile] = []
    for i, path in enumerate(named if isinstance(named, tuple) else ()):
        if isinstance(path, str):
            try:
                files.append(PluginFile.at(Path(document.source).parent / path))
                files[-1].load()
            except PluginError as error:
                raise document.error(("plugins", i), str(error)) from error
    return tuple(files)


def json_schema() -> dict[str, Any]:
    """The schema of a config file, with every registered plug-in in its place and grids where they may stand."""
    schema = registry.json_schema(Experiment)
    for name, definition in schema["$defs"].items():
        if name.startswith("family:"):
            definition["anyOf"].append({"$ref": f"#/$defs/{GRID}"})
        else:
            _allow_grids(definition)
    _allow_grids(schema, except_for=(*_WHOLE, "smoke"))
    schema["$defs"][GRID] = {
        "type": "object",
        "properties": {GRID: {"type": "array", "minItems": 1, "description": "values to run, one after the other"}},
        "required": [GRID],
        "additionalProperties": False,
    }
    return schema


def _allow_grids(schema: dict[str, Any], except_for: tuple[str, ...] = ("kind",)) -> None:
    for name, value in schema.get("properties", {}).items():
        if name not in except_for:
            kept = {key: value.pop(key) for key in ("description", "default", "title") if key in value}
            schema["properties"][name] = {"anyOf": [value, {"$ref": f"#/$defs/{GRID}"}], **kept}


def main(arguments: list[str]) -> int:
    """Prints the JSON schema of config files."""
    if arguments != ["--schema"]:
        print("usage: python -m experiments.config --schema", file=sys.stderr)
        return 2
    print(json.dumps(json_schema(), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
