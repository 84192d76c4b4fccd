"""A sweep in processes on this machine.

    python -m launch.local CONFIG.yaml [dotted.key=value ...] --workdir DIR [--workers N] [--smoke] [--data-dir DIR]

Exit status: 0 every trial is done, 1 some failed, 2 the command or the config is wrong, 130 interrupted.
"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

import jax

from experiments.config import load_experiment
from experiments.store import Store
from experiments.sweep import plan, prepare
from experiments.trial import Trial
from launch.crew import Crew, CrewError
from quantree.errors import QuantreeError


def main(arguments: list[str] | None = None) -> int:
    """Runs the sweep that the command line asks for; returns the exit status."""
    chosen = _parser().parse_intermixed_args(arguments)
    # Checking recipes takes JAX, but must not take the device that the workers need.
    jax.config.update("jax_platforms", "cpu")
    try:
        trials = plan(load_experiment(chosen.config, chosen.overrides, chosen.smoke), chosen.data_dir)
        store = Store(chosen.workdir)
        waiting = prepare(trials, store)
    except QuantreeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    done = len(trials) - len(waiting)
    print(f"{trials[0].experiment}: {len(trials)} trials{f', {done} of them done' if done else ''}", flush=True)
    status = _run(waiting, store, chosen) if waiting else 0
    if status not in (0, 1):
        return status
    return max(status, _report(trials, store))


def _run(waiting: list[Trial], store: Store, chosen: argparse.Namespace) -> int:
    workers = min(chosen.workers or _default_workers(waiting[0]), len(waiting))
    try:
        Crew(waiting, store, chosen.data_dir, workers).run()
    except KeyboardInterrupt:
        left = sum(not store.trial(trial.id).is_dir() for trial in waiting)
        print(f"\nstopped with {left} trials to go; the same command goes on from here", file=sys.stderr)
        return 130
    except CrewError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _report(trials: tuple[Trial, ...], store: Store) -> int:
    from experiments.report import show, write_report  # drawing takes seconds to import, and was not needed before

    show(write_report([store.root]))
    for name in ("results.csv", "pareto.png", "report.html"):
        print(store.root / name)
    failed = [trial for trial in trials if (store.result(trial.id) or {"status": "failed"})["status"] != "done"]
    if failed:
        counts = ", ".join(f"{method} ({n})" for method, n in Counter(trial.method for trial in failed).items())
        print(f"{len(failed)} of {len(trials)} trials failed: {counts}", file=sys.stderr)
        print(f"their tracebacks: {store.root}/trials/*/error.txt; the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def _default_workers(trial: Trial) -> int:
    """As many as the cores feed; on an accelerator one, which fills it."""
    execution = trial.runs_on
    return max(1, len(os.sched_getaffinity(0)) // execution.threads) if execution.device == "cpu" else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launch.local",
        description="Runs a sweep in processes on this machine; the same command goes on with one that was stopped.",
    )
    parser.add_argument("config", metavar="CONFIG.yaml", type=Path, help="the experiment; see configs/")
    parser.add_argument("overrides", metavar="dotted.key=value", nargs="*", help="replaces a value of the config")
    parser.add_argument("--workdir", metavar="DIR", type=Path, required=True, help="where results go")
    parser.add_argument(
        "--workers", metavar="N", type=_positive, help="processes; default: one per core, or 1 on a GPU"
    )
    parser.add_argument("--smoke", action="store_true", help="the config's smoke variant, which ends within seconds")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="where data sets are; default: TFDS's")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, 1 or more, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
