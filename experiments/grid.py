"""`{grid: [a, b]}` in place of a value: the product of all grids, taken on the document before anything is validated.

So every point of the product is validated as if it had been written out, and errors still tell the right line.
"""

import difflib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quantree.schema import Document, Location

GRID = "grid"


@dataclass(frozen=True)
class Choice:
    """One point of a product: the document without grids, and what was chosen where."""

    document: Document
    chosen: dict[Location, Any]


def expand(document: Document, location: Location) -> list[Choice]:
    """The product of all grids at and below `location`, the last grid running fastest; one point if there is none.

    `ConfigError` for a grid that is empty, repeats a value, holds another grid, or stands beside other keys.
    """
    places = list(_grids(document, location))
    return [_choose(document, places, picks) for picks in itertools.product(*(_picks(document, p) for p in places))]


def forbid(document: Document, location: Location, reason: str) -> None:
    """`ConfigError` if there is a grid at or below `location`."""
    for place in _grids(document, location):
        raise document.error(place, f"no grid can stand here: {reason}")


def set_part(document: Document, location: Location, part: Document) -> Document:
    """The document with `part` at `location`; errors inside it tell the lines that `part` came from."""
    replaced = document.replaced(location, part.data)
    lines = {(*location, *place): line for place, line in part.lines.items()}
    made = [location[:end] for end in range(1, len(location)) if location[:end] not in document.lines]
    return Document(
        replaced.data, document.source, {**replaced.lines, **dict.fromkeys(made, part.lines.get((), 0)), **lines}
    )


def misspelt(document: Document, location: Location = ()) -> Iterator[Location]:
    """Places at and below `location` of what looks like a grid but for a typo, such as `{gird: [4, 8]}`."""
    data = _at(document.data, location)
    if isinstance(data, Mapping) and len(data) == 1:
        [(key, values)] = data.items()
        if key != GRID and isinstance(values, tuple) and difflib.get_close_matches(str(key), [GRID]):
            yield location
    for key in _keys(data):
        yield from misspelt(document, (*location, key))


def _grids(document: Document, location: Location) -> Iterator[Location]:
    data = _at(document.data, location)
    if isinstance(data, Mapping) and GRID in data:
        _check(document, location)
        yield location
        return
    for key in _keys(data):
        yield from _grids(document, (*location, key))


def _check(document: Document, location: Location) -> None:
    data = _at(document.data, location)
    if len(data) > 1:
        other = next(key for key in data if key != GRID)
        raise document.error(location, f"`grid` stands in place of a whole value; it can't have {other!r} beside it")
    values = data[GRID]
    if not isinstance(values, tuple):
        raise document.error((*location, GRID), f"expected a list of values, not {values!r}")
    if not values:
        raise document.error((*location, GRID), "an empty grid leaves nothing to run; give at least one value")
    seen: dict[str, int] = {}
    for i, value in enumerate(values):
        place = (*location, GRID, i)
        for inner in _keys(value):
            for nested in _grids(document, (*place, inner)):
                raise document.error(nested, "a grid inside of a grid; write out the values, or grid one of the two")
        if isinstance(value, Mapping) and GRID in value:
            raise document.error(place, "a grid inside of a grid; write out the values, or grid one of the two")
        first = seen.setdefault(json.dumps(value, sort_keys=True, default=repr), i)
        if first != i:
            raise document.error(place, f"the grid repeats {value!r}")


def _picks(document: Document, location: Location) -> range:
    return range(len(_at(document.data, location)[GRID]))


def _choose(document: Document, places: list[Location], picks: tuple[int, ...]) -> Choice:
    chosen: dict[Location, Any] = {}
    for place, pick in zip(places, picks, strict=True):
        part = document.at((*place, GRID, pick))
        chosen[place] = part.data
        document = set_part(document, place, part)
    return Choice(document, chosen)


def _keys(data: Any) -> list[Any]:
    return list(data) if isinstance(data, Mapping) else list(range(len(data))) if isinstance(data, tuple) else []


def _at(data: Any, location: Location) -> Any:
    for key in location:
        data = data[key]
    return data
