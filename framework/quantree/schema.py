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
from pydantic_core import ErrorDetails, PydanticCustomError

from quantree.errors import ConfigError, nearest

Location = tuple[str | int, ...]
C = TypeVar("C", bound="Config")


class Config(pydantic.BaseModel):
    """Base of all settings: immutable, strict about types, no unknown keys."""

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
        """Where `value` is first written, as a key or as a scalar; the root if nowhere, or if it is None."""
        if value is None:
            return ()
        return next(
            (place for place in self.lines if place and (place[-1] == value or _get(self.data, place) == value)), ()
        )

    def replaced(self, location: Location, value: Any) -> "Document":
        """The same document with `value` at `location`; mappings on the way are made, tuples must be long enough."""
        lines = {place: line for place, line in self.lines.items() if place[: len(location)] != location}
        # Mappings that are made on the way were not written in the file, either.
        made = [location[:end] for end in range(1, len(location)) if location[:end] not in lines]
        lines.update(dict.fromkeys([*made, location], 0))
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


def validate(model: type[C], document: Document | Any) -> C:
    """Builds `model` from a document. `ConfigError` names file, line and key of the first thing that is wrong."""
    if not isinstance(document, Document):
        document = Document(freeze(document))
    try:
        return model.model_validate(document.data)
    except pydantic.ValidationError as error:
        raise tell(error, document) from None


def tell(error: pydantic.ValidationError, document: Document) -> ConfigError:
    """Pydantic's first complaint as a `ConfigError` with file and line."""
    errors = [(_written(document.data, each["loc"]), each) for each in error.errors(include_url=False)]
    place = errors[0][0]
    # Where several types are allowed each complains; the one that fits what was written gets furthest into it.
    place, first = max((each for each in errors if each[0][: len(place)] == place), key=lambda each: len(each[0]))
    context = first.get("ctx", {})
    if first["type"] == "missing":
        place = (*place, first["loc"][-1])
    elif "key" in context and isinstance(_get(document.data, place), Mapping):
        place = (*place, context["key"])
    reason, given = _plain(first), _shortened(first["input"])
    # Half a sentence of `nearest` is an end: it begins with what was given.
    told = "key" in context or first["type"] == "missing" or re.search(r"; (did you mean .*\?|known: .*)$", reason)
    return document.error(place, reason if told else f"{reason}, not {given}")


def _plain(error: ErrorDetails) -> str:
    """Pydantic's message in the words of someone who writes YAML."""
    if error["type"] == "too_short":
        least = error.get("ctx", {})["min_length"]
        return f"needs at least {'one' if least == 1 else least}"
    reason = error["msg"].removeprefix("Value error, ")
    reason = reason.replace("valid tuple", "list").replace("valid dictionary", "mapping")
    reason = re.sub(r" or instance of \w+", "", reason)
    return reason[:1].lower() + reason[1:]


def _written(data: Any, location: Location) -> Location:
    """The keys of `location` that stand in the data; pydantic puts the names of allowed types between them."""
    place: Location = ()
    for key in location:
        keys = data if isinstance(data, Mapping) else range(len(data)) if isinstance(data, tuple) else ()
        if key in keys:
            place, data = (*place, key), _get(data, (key,))
    return place


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _StrictLoader(yaml.SafeLoader):
    """YAML with few kinds of scalars: `1e-3` is a number; `on`, `010` and `12:30` are words."""


_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = {f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}
_MOST_VALUES = 100_000  # in one file; aliases of aliases can stand for more than fit in memory
_SIGNS_AND_DIGITS = "-+0123456789"

_StrictLoader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in (
    ("null", r"^(null|~|)$", ["n", "~", ""]),
    ("bool", r"^(true|false)$", ["t", "f"]),
    ("int", r"^[-+]?(0|[1-9]\d*)$", [*_SIGNS_AND_DIGITS]),
    (
        "float",
        r"^[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$|^[-+]?\.inf$|^\.nan$",
        [*_SIGNS_AND_DIGITS, "."],
    ),
):
    _StrictLoader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(_pattern, re.ASCII), _first)


def parse_scalar(text: str) -> Any:
    """A value as a config file would read it: `4` is an int, `1e-3` a float, `[1, 2]` a tuple. `ConfigError`."""
    return parse_yaml(text, repr(text)).data


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
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{source}: nested too deeply, or an alias that contains itself") from None
    return Document(data, source, lines)


def _build(
    node: yaml.Node, location: Location, lines: dict[Location, int], loader: yaml.SafeLoader, source: str
) -> Any:
    here = node.start_mark.line + 1
    lines[location] = here if location else 1
    if len(lines) > _MOST_VALUES:
        raise ConfigError(f"{source}:{here}: more than {_MOST_VALUES:,} values")
    if node.tag not in _KNOWN_TAGS:
        raise ConfigError(f"{source}:{here}: the tag {node.tag!r} has no meaning here")
    if isinstance(node, yaml.SequenceNode):
        return tuple(_build(item, (*location, i), lines, loader, source) for i, item in enumerate(node.value))
    if not isinstance(node, yaml.MappingNode):
        try:
            return loader.construct_object(node, deep=True)
        except (ValueError, KeyError):  # `!!int abc`, or a number of thousands of digits
            shown = _shortened(node.value)
            raise ConfigError(f"{source}:{here}: {shown} is no {node.tag.removeprefix(_TAG)}") from None
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = _build(key_node, (*location, ""), {}, loader, source)
        line = key_node.start_mark.line + 1
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise ConfigError(f"{source}:{line}: a key must be a word or a whole number, not {_shortened(key)}")
        place = (*location, key)
        if key in mapping:
            raise ConfigError(f"{source}:{line}: {dotted(place)}: repeated key; first given on line {lines[place]}")
        mapping[key] = _build(value_node, place, lines, loader, source)
        lines[place] = line
    return mapping
