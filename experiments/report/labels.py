"""What tables and plots say about settings: only the parts in which rows differ."""

import functools
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from experiments.report.rows import Trial
from quantree.schema import Location, dotted, undotted

FEW = 4  # settings of a method that a label names although nothing varies
AROUND = ("data", "model", "baseline", "execution", "plugins")  # parts of the settings that are not the method's own


def models(trials: Iterable[Trial]) -> dict[str, str]:
    """Trial -> kind of its network, with the settings in which those of this kind on the same data set differ."""
    kinds = defaultdict(list)
    for trial in trials:
        kinds[trial.dataset, trial.model].append(trial)
    named = {}
    for (_, kind), alike in kinds.items():
        flat = [{name: x for name, x in around(trial).items() if _root(name) == "model"} for trial in alike]
        differing, known = varying(flat), any(flat)
        for trial, values in zip(alike, flat, strict=True):
            parts = {name.removeprefix("model."): values[name] for name in differing if name in values}
            # Rows of earlier versions don't say it; such a network is not taken for one that is known.
            unknown = known and not values
            named[trial.trial] = f"{kind} {'(settings unknown)' if unknown else _told(parts)}".rstrip()
    return named


def labels(trials: list[Trial], outside: list[str]) -> dict[str, str]:
    """Settings as JSON -> what is particular about them among the settings of one method, then those in `outside`."""
    flat = {trial.settings_text: _flatten(trial.settings) for trial in trials}
    own = [{name: x for name, x in values.items() if _root(name) not in AROUND} for values in flat.values()]
    differing, names = varying(own), _names(own)
    if not differing and len(names) <= FEW:
        differing = [name for name in names if name.rpartition(".")[2] != "kind"]  # the method is named already
    short = [name.rpartition(".")[2] for name in differing]
    shown = {n: s if short.count(s) == 1 else n for n, s in zip(differing, short, strict=True)}
    shown |= {name: name for name in outside}
    return {
        text: _told({show: values[name] for name, show in shown.items() if name in values})
        for text, values in flat.items()
    }


def around(trial: Trial) -> dict[str, Any]:
    """The settings that are not the method's own, by dotted name."""
    return {name: value for name, value in _flatten(trial.settings).items() if _root(name) in AROUND}


def varying(rows: list[dict[str, Any]]) -> list[str]:
    """The names whose values differ between rows. Rows of earlier versions lack whole parts, which is no difference."""
    parts = [{_root(name) for name in row} for row in rows]

    def values(name: str) -> set[str]:
        root = _root(name)
        return {repr(row.get(name)) for row, its in zip(rows, parts, strict=True) if root in its or root not in AROUND}

    return [name for name in _names(rows) if len(values(name)) > 1]


def _names(rows: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


@functools.cache
def _root(name: str) -> str:
    """`stages[0].k` -> `stages`."""
    return next(map(str, undotted(name)), "")


def _flatten(value: Any, location: Location = ()) -> dict[str, Any]:
    """Dotted name -> scalar, or list of scalars."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    if items and (isinstance(value, dict) or any(isinstance(item, dict | list) for _, item in items)):
        return {name: leaf for key, item in items for name, leaf in _flatten(item, (*location, key)).items()}
    return {dotted(location): value} if location else {}


def _told(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={_plain(value)}" for name, value in values.items())


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_plain, value))}]"
    short = f"{value:g}" if isinstance(value, float) else ""
    return short if short and float(short) == value else str(value)
