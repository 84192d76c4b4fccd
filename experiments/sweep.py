"""A sweep: which trials there are, and the loop in which a worker runs them.

`python -m experiments.sweep` is a worker: it reads one line of JSON, an `Order`, from standard input, writes one line
of JSON to standard output when it begins and when it ends a trial, and lives no longer than whoever holds its standard
input.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from experiments.baseline import Baseline
from experiments.config import Loaded, Point
from experiments.data import data_root, load
from experiments.data.dataset import source_named
from experiments.execution import Execution
from experiments.imported import Imported
from experiments.plugins import PluginFile
from experiments.store import Busy, Store, write_json
from experiments.trial import Trial, renamed, run_trial
from quantree.errors import ConfigError, DataError
from quantree.schema import Config, freeze

Tell = Callable[[Literal["begin", "end"], Trial], None]
PAUSE = 0.2  # seconds before looking again, when all that is left is in other hands


class Order(Config):
    """What a worker is told."""

    workdir: str = Field(description="the sweep's work folder")
    data_dir: str | None = Field(description="where data sets are; None: the default of `experiments.data`")
    trials: tuple[Trial, ...] = Field(description="the trials of the sweep, all of them")


def plan(loaded: Loaded, data_dir: Path | None = None) -> tuple[Trial, ...]:
    """The trials of a sweep: those that train come first, so that the last ones to run are short.

    `ConfigError` if two of them would be the same, or if a data set or the kind of device is missing; `DataError` if
    `data_dir` is no folder.
    """
    first_point, root = loaded.points[0], data_root(data_dir)
    try:
        first_point.experiment.execution.check()
    except ConfigError as error:
        raise first_point.document.error(("execution", "device"), str(error)) from None
    execution, elsewhere = first_point.experiment.execution.resolved(), first_point.experiment.trained_on
    if elsewhere is not None and elsewhere.device == "auto":
        reason = "say which kind of device trained the baselines: cpu, gpu or tpu"
        raise first_point.document.error(("trained_on", "device"), reason)
    trials = [_trial(point, seed, loaded.plugins, execution, root) for point in loaded.points for seed in loaded.seeds]
    known: dict[str, Trial] = {}
    for trial in trials:
        first = known.setdefault(trial.id, trial)
        if first is not trial:
            raise ConfigError(
                f"{loaded.source}: recipes {first.method!r} and {trial.method!r} ask for the same trial: "
                f"{json.dumps(first.settings)} and {json.dumps(trial.settings)}; drop one"
            )
    return tuple(sorted(trials, key=lambda trial: -sum(stage.trains for stage in trial.stages)))


def _trial(point: Point, seed: int, plugins: tuple[PluginFile, ...], execution: Execution, root: Path) -> Trial:
    experiment = point.experiment
    data = experiment.data
    try:
        fingerprint = load(data.name, root).fingerprint
    except DataError as error:
        raise point.document.error(("data", "name"), str(error)) from None
    checkpoint = None
    if experiment.checkpoint is not None:
        try:
            checkpoint = Imported.at(Path(point.document.source).parent, experiment.checkpoint)
        except DataError as error:
            raise point.document.error(("checkpoint", "file"), str(error)) from None
    # A plug-in file with nothing but a quantizer in it may change without training the network anew.
    modules = {*experiment.model.modules, type(source_named(data.name)).__module__}
    baseline = Baseline(
        data=data,
        fingerprint=fingerprint,
        model=experiment.model,
        training=experiment.baseline,
        checkpoint=checkpoint,
        seed=seed,
        execution=experiment.trained_on or execution,
        sources=tuple(plugin.sha256 for plugin in plugins if plugin.module in modules),
    )
    return Trial(
        experiment=experiment.name,
        method=point.method,
        settings=point.settings,
        baseline=baseline,
        recipe=point.recipe,
        plugins=plugins,
        paper=experiment.paper,
        execution=None if baseline.execution == execution else execution,
    )


def prepare(trials: Sequence[Trial], store: Store) -> list[Trial]:
    """The trials that are yet to run: failed ones are tried again, finished ones only get the names of this sweep,
    and are counted by the rule of its paper. `ConfigError` if a baseline was to be trained elsewhere, and is not here.
    """
    waiting = []
    for trial in trials:
        row = store.result(trial.id)
        if row is None:
            waiting.append(trial)
        elif row["status"] == "failed":
            store.discard(trial.id)
            waiting.append(trial)
        else:
            told = renamed(trial, row, store.trial(trial.id))
            if told != row:
                write_json(store.trial(trial.id) / "result.json", told)
    for trial in waiting:
        baseline = trial.baseline
        if trial.execution is not None and not (store.root / "baselines" / baseline.id).is_dir():
            raise ConfigError(
                f"{store.root}/baselines/{baseline.id} (seed {baseline.seed}) is missing. `trained_on` says that it "
                f"comes from a sweep on {baseline.execution.device} with {baseline.execution.threads} threads: run "
                "that, with `execution` as there, and copy its baselines/ into this work folder"
            )
    return waiting


def spread(trials: Sequence[Trial], worker: int, workers: int) -> tuple[Trial, ...]:
    """The trials in the order in which one of several workers tries them.

    Each worker begins with a method of its own, far from those of the others, so that two of them seldom compile the
    same program at the same time.
    """
    methods = list(dict.fromkeys(trial.method for trial in trials))
    first = worker * len(methods) // workers
    rank = {method: (i - first) % len(methods) for i, method in enumerate(methods)}
    return tuple(sorted(trials, key=lambda trial: rank[trial.method]))


def work(trials: Sequence[Trial], store: Store, data_dir: Path | None = None, tell: Tell | None = None) -> None:
    """Runs trials until each of them has a result, by this or by another process.

    Whatever another process is at is passed over as long as there is anything else to do. tell: called when a trial
    begins and when it ends.
    """
    tell = tell or (lambda event, trial: None)
    waiting = list(trials)
    while waiting:
        left = []
        for trial in waiting:
            if store.trial(trial.id).is_dir():
                continue
            tell("begin", trial)
            try:
                run_trial(trial, store, data_dir)
            except Busy:
                left.append(trial)
            tell("end", trial)
        if len(left) == len(waiting):
            time.sleep(PAUSE)
        waiting = left


def main() -> None:
    """The life of a worker process."""
    # Control-C goes to the whole group of processes, but it is for the parent to decide what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Standard output belongs to the reports; whatever a library or a plug-in prints goes where errors go.
    reports = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    order = _read_order(sys.stdin.readline())
    threading.Thread(target=_die_with_parent, daemon=True).start()

    def tell(event: str, trial: Trial) -> None:
        print(json.dumps({"event": event, "trial": trial.id}), file=reports)

    store = Store(Path(order.workdir))
    _keep_compiled(order.trials[0].runs_on.cache(store.root))
    work(order.trials, store, Path(order.data_dir) if order.data_dir else None, tell)


def _read_order(line: str) -> Order:
    order: dict[str, Any] = freeze(json.loads(line))
    # Plug-ins first: the trials' settings are checked against them.
    for trial in order["trials"][:1]:
        for plugin in trial["plugins"]:
            PluginFile.model_validate(plugin).load()
    return Order.model_validate(order)


def _die_with_parent() -> None:
    # The parent holds the other end of the pipe, and the kernel closes it however the parent ends.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _keep_compiled(folder: Path) -> None:
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


if __name__ == "__main__":
    main()
