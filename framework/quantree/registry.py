"""Plug-ins by name.

A plug-in is a frozen pydantic model: its fields are its settings, its methods do the work. Each family (`Learner`,
`Coder`, ...) is one abstract class in the room where it belongs; `register("name")` adds a subclass to its family, and
any config that mentions the family then accepts `{kind: name, ...}` in that place.
"""

import contextlib
import importlib.metadata
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self, TypeVar, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from quantree.errors import PluginError, nearest
from quantree.schema import Config, freeze

ENTRY_POINTS = "quantree.plugins"
_FAMILY = "x-family"  # in a JSON schema: what may stand here is any plug-in of this family

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]*")

_families: dict[str, type[Any]] = {}
_registry: dict[str, dict[str, type[Any]]] = {}
_loaded_entry_points = False


class Plugin(Config):
    """Base of all plug-ins. A family is declared by `class Learner(Plugin, family="learner")`."""

    family: ClassVar[str]
    name: ClassVar[str] = ""
    usage: ClassVar[str] = ""
    """How a recipe mentions a plug-in of this family, with {name}; for whoever names one where it can't stand."""
    example: ClassVar[Mapping[str, Any]] = {}
    """Settings of a small instance, by which `quantree.conformance` tries the plug-in; only what has no default."""

    def __init_subclass__(cls, family: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if family is not None:
            declare(family, cls)

    @classmethod
    def named(cls, name: str) -> type[Self]:
        """The registered subclass of this family called `name`; `PluginError` with the nearest name if there is
        none.
        """
        found = registered(cls.family).get(name)
        if found is None:
            others = [each for family, each in _families.items() if family != cls.family and name in registered(family)]
            usages = (getattr(each, "usage", "").format(name=name) for each in others)
            hint = next((f"use {usage}" for usage in usages if usage), nearest(name, list(registered(cls.family))))
            known = next((f", but a {each.family} is" for each in others), "")
            raise PluginError(f"no {cls.family} is called {name!r}{known}; {hint}")
        return cast("type[Self]", found)

    def to_config(self) -> dict[str, Any]:
        """Plain data that `from_config` turns back into an equal plug-in."""
        return {"kind": type(self).name, **self.model_dump(mode="json")}

    @classmethod
    def from_config(cls, value: Any) -> Self:
        """Builds a plug-in of this family from `{kind: name, **settings}`, or from its bare name.

        Raises what pydantic's validators raise, a `ValueError`; inside a field it becomes part of one `ConfigError`.
        """
        if isinstance(value, cls):
            return value
        settings = {"kind": value} if isinstance(value, str) else freeze(value)
        if not isinstance(settings, Mapping) or not isinstance(settings.get("kind"), str):
            raise PydanticCustomError(
                "plugin", "expected a {family}: its name, or a mapping with `kind`", {"family": cls.family}
            )
        try:
            chosen = cls.named(settings["kind"])
        except PluginError as error:
            raise PydanticCustomError("plugin", "{reason}", {"reason": str(error), "key": "kind"}) from None
        return chosen.model_validate({key: item for key, item in settings.items() if key != "kind"})


P = TypeVar("P", bound=type[Any])
T = TypeVar("T")


class _Choice:
    """Pydantic marker: the field holds any registered plug-in of the annotated family."""

    def __get_pydantic_core_schema__(self, source: type[Plugin], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            source.from_config,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda plugin: plugin.to_config()),
            metadata={"family": source.family},
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # Members join late, and may hold one another: only `json_schema` can list them.
        family = schema["metadata"]["family"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
        return {"type": ["string", "object"], _FAMILY: family}


Choice = Annotated[T, _Choice()]


class Named:
    """Pydantic marker for a string: the name of a registered plug-in, `Annotated[str, Named(Learner)]`, or one of a few
    other words.
    """

    def __init__(self, family: type[Plugin], *others: str) -> None:
        self.family, self.others = family, others

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "enum": [*self.others, *sorted(registered(self.family.family))]}

    def _check(self, name: str) -> str:
        if name in self.others:
            return name
        try:
            self.family.named(name)
        except PluginError as error:
            others = f", {', '.join(self.others)}" if self.others else ""
            raise PydanticCustomError("plugin", "{reason}", {"reason": f"{error}{others}"}) from None
        return name


def json_schema(model: type[Config]) -> dict[str, Any]:
    """JSON schema of settings, in which a field that holds a plug-in lists every registered one by its `kind`.

    Plug-ins are defined as `learner:kmeans`, what may stand for any learner as `family:learner`.
    """
    definitions: dict[str, Any] = {}
    mentioned: dict[str, None] = {}

    def schema_of(plugin: type[Config]) -> dict[str, Any]:
        schema = plugin.model_json_schema(schema_generator=_SchemaGenerator)
        definitions.update(link(schema.pop("$defs", {})))
        return link(schema)

    def link(node: Any) -> Any:
        if isinstance(node, list):
            return [link(item) for item in node]
        if not isinstance(node, dict):
            return node
        family = node.get(_FAMILY)
        if not isinstance(family, str):
            return {key: link(item) for key, item in node.items()}
        mentioned[family] = None
        beside = {key: item for key, item in node.items() if key not in ("type", _FAMILY)}
        return {**beside, "$ref": f"#/$defs/family:{family}"}

    whole = schema_of(model)
    while waiting := [family for family in mentioned if f"family:{family}" not in definitions]:
        for family in waiting:
            members = dict(sorted(registered(family).items()))
            definitions[f"family:{family}"] = {
                "anyOf": [
                    {"enum": [name for name, plugin in members.items() if not _required(plugin)]},
                    *({"$ref": f"#/$defs/{family}:{name}"} for name in members),
                ]
            }
            for name, plugin in members.items():
                schema = schema_of(plugin)
                schema["properties"] = {"kind": {"const": name}, **schema.get("properties", {})}
                schema["required"] = ["kind", *schema.get("required", [])]
                definitions[f"{family}:{name}"] = schema
    return {"$schema": GenerateJsonSchema.schema_dialect, **whole, "$defs": definitions}


class _SchemaGenerator(GenerateJsonSchema):
    def emit_warning(self, kind: str, detail: str) -> None:
        """A default that is no plain data is left out of the schema; nobody needs to be told."""


def _required(plugin: type[Config]) -> bool:
    return any(field.is_required() for field in plugin.model_fields.values())


def declare(family: str, base: type[Any]) -> None:
    """Makes `base` the abstract class of a family; `Plugin` does it for its own, encodings (which are pytrees) call
    it. `PluginError` if there is a family of that name.
    """
    if family in _families:
        raise PluginError(f"family {family!r} is already declared by {_families[family].__qualname__}")
    base.family = family
    _families[family] = base
    _registry.setdefault(family, {})


def register(name: str) -> Callable[[P], P]:
    """Class decorator that adds a plug-in to its family.

    `PluginError` if the name is taken or is none, there is no family, or a method of the family is not there.
    """
    if isinstance(name, type):
        wanted = f'@register("{name.__name__.lower()}")'
        raise PluginError(f"{name.__name__}: `register` wants the name that configs will use; write {wanted}")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PluginError(f"{name!r} can't name a plug-in: a name begins with a letter; digits and _ . + - may follow")

    def add(plugin: P) -> P:
        family = getattr(plugin, "family", None)
        if family is None:
            raise PluginError(f"{plugin.__name__} belongs to no family; subclass one of {', '.join(_families)}")
        missing = sorted(getattr(plugin, "__abstractmethods__", ()))
        if missing:
            raise PluginError(f"{family} {name!r}: {plugin.__qualname__} lacks {', '.join(missing)}")
        taken = _registry[family].get(name)
        if taken is not None:
            raise PluginError(f"{family} {name!r} is already registered by {taken.__module__}.{taken.__qualname__}")
        plugin.name = name
        _registry[family][name] = plugin
        return plugin

    return add


@contextlib.contextmanager
def temporarily() -> Iterator[None]:
    """Forgets on exit whatever was registered inside; for tests and notebooks."""
    _load_entry_points()  # they are loaded once, so they must not be among what is forgotten
    bases, before = dict(_families), {family: dict(plugins) for family, plugins in _registry.items()}
    try:
        yield
    finally:
        _families.clear()
        _families.update(bases)
        _registry.clear()
        _registry.update(before)


def registered(family: str) -> dict[str, type[Any]]:
    """Name -> class of every plug-in of a family, installed packages' entry points included.

    `PluginError` if there is no such family, or if an installed plug-in can't be loaded.
    """
    _load_entry_points()
    if family not in _families:
        raise PluginError(f"there is no family {family!r}; {nearest(family, list(_families))}")
    return dict(_registry[family])


def families() -> dict[str, type[Any]]:
    """Name -> abstract class of every family."""
    return dict(_families)


def _load_entry_points() -> None:
    global _loaded_entry_points
    if _loaded_entry_points:
        return
    _loaded_entry_points = True  # a plug-in may ask for others while it is loaded
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:
            _loaded_entry_points = False
            raise PluginError(f"installed plug-in {point.name!r} ({point.value}) can't be loaded: {error}") from error
