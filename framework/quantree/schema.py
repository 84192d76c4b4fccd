"""Typed settings and strict YAML.

Settings are frozen pydantic models that refuse unknown keys. A `Document` is parsed YAML that remembers the line of
every key, so that any error, ours or pydantic's, is told as file, line, key, reason.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml
from pydantic_core import PydanticCustomError

from quantree.errors import ConfigError, nearest

Location = tuple[str | int, ...]
C = TypeVar("C", bound="Config")


class Config(pydantic.BaseModel):
    """Base of all settings: immutable, hashable, strict about types, no unknown keys."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            for key in value:
                if key not in cls.model_fields:
                    reason = f"unknown key {key!r}; {nearest(str(key), list(cls.model_fields))}"
                    raise PydanticCustomError("unknown_key", "{reason}", {"reason": reason, "key": key})
        return value


@dataclass(frozen=True)
class Document:
    """Plain data (mappings, tuples, scalars) with the place where each part was written."""

    data: Any
    source: str = "config"
    lines: Mapping[Location, int] = field(default_factory=dict)

    def where(self, location: Location) -> str:
        """`file:line` of the deepest part of `location` that is known."""
        for end in range(len(location), -1, -1):
            if location[:end] in self.lines:
                line = self.lines[location[:end]]
                return (
                    f"{self.source}:{line}"
                    if line
                    else f"{self.source} ({dotted(location[:end])} set outside the file)"
                )
        return self.source

    def error(self, location: Location, reason: str) -> ConfigError:
        """A `ConfigError` that tells where in this document something is wrong."""
        key = f"{dotted(location)}: " if location else ""
        return ConfigError(f"{self.where(location)}: {key}{reason}")

    def at(self, location: Location) -> "Document":
        """The part of the document at `location`, which keeps its lines."""
        data, size = _get(self.data, location), len(location)
        lines = {place[size:]: line for place, line in self.lines.items() if place[:size] == location}
        return Document(data, self.source, lines)

    def find(self, value: Any) -> Location:
        """Where `value` is first written, as a key or as a scalar; the root if nowhere."""
        return next(
            (place for place in self.lines if place and (place[-1] == value or _get(self.data, place) == value)), ()
        )

    def replaced(self, location: Location, value: Any) -> "Document":
        """The same document with `value` at `location`; mappings on the way are made, tuples must be long enough."""
        lines = {place: line for place, line in self.lines.items() if place[: len(location)] != location}
        lines[location] = 0
        return Document(_replaced(self.data, location, freeze(value), self, location), self.source, lines)


def _get(data: Any, location: Location) -> Any:
    for key in location:
        data = data[key]
    return data


def _replaced(data: Any, location: Location, value: Any, document: Document, whole: Location) -> Any:
    if not location:
        return value
    key, rest = location[0], location[1:]
    if isinstance(data, tuple):
        if not isinstance(key, int) or not 0 <= key < len(data):
            raise document.error(whole, f"{key!r} is no index into a list of {len(data)}")
        return tuple(_replaced(item, rest, value, document, whole) if i == key else item for i, item in enumerate(data))
    if data is not None and not isinstance(data, Mapping):
        raise document.error(whole, f"can't set {key!r} inside {data!r}")
    old = dict(data or {})
    return {**old, key: _replaced(old.get(key), rest, value, document, whole)}


def dotted(location: Location) -> str:
    """`('stages', 0, 'k')` -> `stages[0].k`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in location).removeprefix(".")


def undotted(text: str) -> Location:
    """`stages.0.k` or `stages[0].k` -> `('stages', 0, 'k')`."""
    keys = [key for key in re.split(r"[.\[\]]+", text) if key]
    return tuple(int(key) if key.isdecimal() else key for key in keys)


def freeze(value: Any) -> Any:
    """Lists become tuples, all the way down: settings are hashable."""
    if isinstance(value, Mapping):
        return {key: freeze(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    return value


def validate(model: type[C], document: Document | Any, location: Location = ()) -> C:
    """Builds `model` from a document. `ConfigError` names file, line and key of the first thing that is wrong.

    `location` is where the document stands inside its file, for messages about a part of it.
    """
    if not isinstance(document, Document):
        document = Document(freeze(document))
    try:
        return model.model_validate(document.data)
    except pydantic.ValidationError as error:
        raise tell(error, document, location) from None


def tell(error: pydantic.ValidationError, document: Document, prefix: Location = ()) -> ConfigError:
    """Pydantic's first complaint as a `ConfigError` with file and line."""
    first = error.errors(include_url=False)[0]
    context = first.get("ctx", {})
    location = prefix + tuple(first["loc"]) + ((context["key"],) if "key" in context else ())
    given = "" if "key" in context or first["type"] == "missing" else f", not {_shortened(first['input'])}"
    return document.error(location, first["msg"][0].lower() + first["msg"][1:] + given)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.2's scalars (`1e-3` is a number, `on` is a word), and no repeated keys."""


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":float", ":bool", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$"), list("tf"))
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$|^[-+]?\.inf$|^\.nan$"),
    list("-+.0123456789"),
)


def parse_scalar(text: str) -> Any:
    """A value as a config file would read it: `4` is an int, `1e-3` a float, `[1, 2]` a tuple."""
    return freeze(yaml.load(text, _StrictLoader))


def read_yaml(path: str | Path) -> Document:
    """Reads a YAML file strictly. `ConfigError` with file and line if it is missing, malformed or repeats a key."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: can't read the config: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a UTF-8 text file") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str = "config") -> Document:
    """As `read_yaml`, from a string."""
    lines: dict[Location, int] = {}
    try:
        loader = _StrictLoader(text)
        node = loader.get_single_node()
        data = None if node is None else _build(node, (), lines, loader, source)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(f"{source}:{line}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{source}: not YAML: {error}") from None
    return Document(data, source, lines)


def _build(
    node: yaml.Node, location: Location, lines: dict[Location, int], loader: yaml.SafeLoader, source: str
) -> Any:
    lines[location] = node.start_mark.line + 1 if location else 1
    if isinstance(node, yaml.SequenceNode):
        return tuple(_build(item, (*location, i), lines, loader, source) for i, item in enumerate(node.value))
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node, deep=True)
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool):
            raise ConfigError(f"{source}:{key_node.start_mark.line + 1}: a key must be a plain word, not {key!r}")
        place = (*location, key) if isinstance(key, str | int) else (*location, str(key))
        if key in mapping:
            line, first = key_node.start_mark.line + 1, lines[place]
            raise ConfigError(f"{source}:{line}: {dotted(place)}: repeated key; first given on line {first}")
        mapping[key] = _build(value_node, place, lines, loader, source)
        lines[place] = key_node.start_mark.line + 1
    return mapping
