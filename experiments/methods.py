"""Everything that a config may name, with its settings: `python -m experiments.methods [PLUGIN_FILE ...] [--json]`."""

import argparse
import dataclasses
import json
import re
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

import experiments.data.sets
import experiments.papers
import experiments.zoo  # noqa: F401 - all three register what is listed here
from experiments.data.source import Source
from experiments.plugins import PluginFile
from quantree.conformance import instance
from quantree.errors import QuantreeError
from quantree.registry import Plugin, registered
from quantree.schema import Config
from quantree.stage import Stage
from quantree.task import Classification

FAMILIES = {
    "stage": "stages: the steps of a recipe",
    "grouping": "groupings: which weights share one codebook",
    "blocking": "blockings: which weights get one code together",
    "learner": "learners: how codebook and codes are found",
    "coder": "coders: how codes become bits",
    "network": "networks",
    "dataset": "data sets",
    "paper_rule": "rules of papers: how they count size",
}
PLAIN_WIDTH = 200  # columns of a pipe or a file
REQUIRED = "required"


@dataclass(frozen=True)
class Setting:
    """A field of a plug-in. default: as it would be written in a config, or that it is required."""

    name: str
    default: str
    about: str


@dataclass(frozen=True)
class Method:
    """A registered plug-in.

    expands: the stages that a preset stands for, as they would be written, at the settings of `example`; else empty.
    """

    family: str
    name: str
    about: str
    settings: tuple[Setting, ...]
    example: str = ""
    expands: tuple[str, ...] = ()


def methods() -> list[Method]:
    """All that is registered now in the families of configs, by family and name."""
    return [_method(family, name, plugin) for family in FAMILIES for name, plugin in sorted(registered(family).items())]


def _method(family: str, name: str, plugin: type[Plugin]) -> Method:
    about = _holds(plugin()) if issubclass(plugin, Source) else _sentence(vars(plugin).get("__doc__") or "")
    settings = tuple(_setting(field, info) for field, info in plugin.model_fields.items())
    if not issubclass(plugin, Stage) or plugin.expand is Stage.expand:
        return Method(family, name, about, settings)
    expands = tuple(written(stage) for stage in instance(family, name).expand())
    return Method(family, name, about, settings, _yaml({"kind": name, **plugin.example}), expands)


def _setting(name: str, info: Any) -> Setting:
    default = REQUIRED if info.is_required() else written(info.get_default(call_default_factory=True))
    choices = [str(choice) for choice in typing.get_args(info.annotation)]
    listed = f" ({' | '.join(choices)})" if typing.get_origin(info.annotation) is typing.Literal else ""
    return Setting(name, default, f"{info.description or ''}{listed}")


def _holds(source: Source) -> str:
    sizes = ", ".join(f"{count:,} {split}" for split, count in source.sizes.items())
    classes = f"{len(source.classes)} classes, " if isinstance(source.task, Classification) else ""
    return f"{source.title}; {classes}{sizes}"


def _sentence(docstring: str) -> str:
    """The first sentence of the first paragraph, on one line."""
    text = " ".join(docstring.split("\n\n")[0].split())
    found = re.match(r".*?[^.]\.(?= [A-Z`]|$)", text)
    return (found[0] if found else text).removesuffix(".")


def written(value: Any) -> str:
    """A setting as a config would say it on one line: a plug-in by its name and by what differs from its defaults."""
    return _yaml(_short(value))


def _short(value: Any) -> Any:
    if isinstance(value, Config):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        given = {
            name: _short(item)
            for name, item in fields.items()
            if type(value).model_fields[name].is_required() or item != type(value).model_fields[name].get_default()
        }
        if not isinstance(value, Plugin):
            return given
        return {"kind": type(value).name, **given} if given else type(value).name
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    return {key: _short(item) for key, item in value.items()} if isinstance(value, dict) else value


def _yaml(value: Any) -> str:
    plain = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=float("inf"), allow_unicode=True)
    return plain.strip().removesuffix("...").strip()


def show(found: Sequence[Method], console: Console) -> None:
    """Prints a table per family: a line for each method, and one for each of its settings."""
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    for family, title in FAMILIES.items():
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        table.add_column("name", no_wrap=True)
        table.add_column("default", overflow="fold", max_width=40)
        table.add_column("about", overflow="fold")
        for method in found:
            if method.family != family:
                continue
            table.add_row(Text(method.name, "bold"), "", Text(method.about, "bold"))
            for setting in method.settings:
                table.add_row(Text(f"  {setting.name}"), Text(setting.default, "cyan"), Text(setting.about))
            if method.expands:
                table.add_row("", "", Text(f"{method.example} stands for", "dim"))
            for stage in method.expands:
                table.add_row("", "", Text(f"- {stage}", "dim"))
        console.print(Text(title, "bold underline"))
        console.print(table)
        console.print()


def main(arguments: Sequence[str] | None = None) -> int:
    """Lists what is registered; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.methods", description="Lists everything that a config may name, with its settings."
    )
    parser.add_argument("files", metavar="PLUGIN_FILE", nargs="*", type=Path, help="Python files that register more")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(arguments)
    try:
        for file in given.files:
            PluginFile.at(file).load()
        found = methods()
    except QuantreeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps([dataclasses.asdict(method) for method in found], indent=1))
    else:
        show(found, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
