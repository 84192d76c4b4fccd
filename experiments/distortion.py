"""What quantizing adds as error, leaf by leaf, for the recipes of a config, before any training.

    python -m experiments.distortion CONFIG.yaml [dotted.key=value ...] --workdir DIR [--data-dir DIR] [--json]

Runs each recipe up to its first stage that trains. A leaf's error is the sum of squares of what its quantizer changed,
over that of the leaf, as a mean over the seeds. "along G" is that of all weights, in several leaves, that take the
channels of one group G of the network, which may move but have one order in all of them; "in all" is that of all
leaves. Of a grid the settings are numbered in its order. Baselines are taken from the work folder, or trained or
imported into it. Exit status: 0, or 2 after one line on standard error.
"""

import argparse
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.baseline import obtain
from experiments.config import load_experiment
from experiments.methods import PLAIN_WIDTH
from experiments.store import Store
from experiments.sweep import plan
from experiments.trial import Trial
from quantree.encodings import Coded, Compressed
from quantree.errors import QuantreeError
from quantree.graph import coupled
from quantree.stage import Context

_ALL = "in all"
Errors = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.distortion", description="The error that quantizing adds, leaf by leaf."
    )
    parser.add_argument("config", metavar="CONFIG.yaml", type=Path, help="the sweep; see configs/")
    parser.add_argument("overrides", metavar="dotted.key=value", nargs="*", help="replaces a value of the config")
    parser.add_argument("--workdir", metavar="DIR", type=Path, required=True, help="where its baselines are, or go")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="where data sets are; default: TFDS's")
    parser.add_argument("--json", action="store_true", help="as JSON: recipe -> leaf or group -> error")
    chosen = parser.parse_intermixed_args(arguments)
    try:
        loaded = load_experiment(chosen.config, chosen.overrides)
        written = [point.method for point in loaded.points]
        trials = sorted(plan(loaded, chosen.data_dir), key=lambda trial: written.index(trial.method))
        found = _measured(trials, chosen)
    except (QuantreeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if chosen.json:
        print(json.dumps(found, indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(_table(found))
    return 0


def _measured(trials: Sequence[Trial], chosen: Any) -> dict[str, Errors]:
    """Recipe -> leaf or group -> mean error. Recipes that begin alike are one, under the name of the first. A group of
    which some seeds have left one channel only is that of the others.
    """
    errors: dict[str, list[Errors]] = defaultdict(list)
    points: dict[str, list[str]] = defaultdict(list)
    names: dict[str, str] = {}
    for trial in trials:
        begin = [stage.to_config() for stage in itertools.takewhile(lambda stage: not stage.trains, trial.stages)]
        written = json.dumps(trial.settings, sort_keys=True)
        if written not in points[trial.method]:
            points[trial.method].append(written)
        number = points[trial.method].index(written) + 1
        name = trial.method if number == 1 else f"{trial.method} {number}"
        if names.setdefault(json.dumps(begin), name) == name:
            try:
                errors[name].append(_of(trial, len(begin), chosen))
            except QuantreeError as error:
                raise QuantreeError(f"recipe {name!r}, seed {trial.baseline.seed}: {error}") from None
    return {
        name: {
            leaf: float(np.mean([each[leaf] for each in found if leaf in each]))
            for leaf in dict.fromkeys(leaf for each in found for leaf in each)
        }
        for name, found in errors.items()
        if found[0]
    }


def _of(trial: Trial, stages: int, chosen: Any) -> Errors:
    """Leaf -> error, after so many stages of a trial; then groups, and all."""
    trained = obtain(trial.baseline, Store(chosen.workdir), chosen.data_dir)
    key, data = jax.random.key(trial.baseline.seed), trained.splits.data
    compressed = Compressed.from_model(trained.model)
    lost, energy = dict[str, np.ndarray](), dict[str, np.ndarray]()  # of each weight
    for index in range(stages):
        before = compressed
        compressed = trial.recipe.run_stage(index, before, model=trained.model, key=key, data=data)
        for path, leaf in compressed.leaves.items():
            if isinstance(leaf, Coded) and not isinstance(old := before.leaves[path], Coded):
                exact, coded = (
                    np.asarray(each.decode(net.codebooks), np.float64)
                    for each, net in ((old, before), (leaf, compressed))
                )
                lost[path], energy[path] = np.square(coded - exact), np.square(exact)
    if not lost:
        return {}
    parts: dict[str, list[_Part]] = {path: [_Part(path)] for path in lost}
    for group in coupled(compressed, Context(trained.model, key, data), "distortion").free:
        takes = [_Part(each.path, each.axis, each.places) for each in group.having("consumer") if each.path in lost]
        if len({part.path for part in takes}) > 1:
            parts[f"along {group.name}"] = takes
    parts[_ALL] = [_Part(path) for path in lost]
    return {
        name: sum(part.total(lost) for part in each) / max(sum(part.total(energy) for part in each), 1e-300)
        for name, each in parts.items()
    }


class _Part(NamedTuple):
    """A leaf, or what lies at some places of one of its axes."""

    path: str
    axis: int = 0
    places: np.ndarray | None = None

    def total(self, of_leaves: Mapping[str, np.ndarray]) -> float:
        leaf = of_leaves[self.path]
        return float(np.sum(leaf if self.places is None else np.take(leaf, self.places.ravel(), self.axis)))


def _table(found: dict[str, Errors]) -> Table:
    table = Table("leaves", title="error of quantizing, as a share of their energy", title_justify="left")
    for name in found:
        table.add_column(name, justify="right")
    leaves = dict.fromkeys(leaf for errors in found.values() for leaf in errors if leaf != _ALL)
    for leaf in (*leaves, _ALL):
        table.add_row(leaf, *(f"{errors[leaf]:.5f}" if leaf in errors else "" for errors in found.values()))
    return table


if __name__ == "__main__":
    sys.exit(main())
