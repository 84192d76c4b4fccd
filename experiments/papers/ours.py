"""What the trials of sweeps gave, in the terms of a paper: which part was compressed, by what, and how small it is."""

import contextlib
import functools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.papers.accounting import PaperRule
from experiments.papers.accounting.kernels import kernels
from experiments.papers.accounting.rule import Part
from experiments.report.rows import Trial, read_trials
from experiments.report.summary import SAME, Setting, summarize
from experiments.trial import FILE
from quantree import storage
from quantree.encodings import Compressed
from quantree.errors import ConfigError, FormatError, QuantreeError
from quantree.quantizers import PerKind, Quantize, WholeNet
from quantree.recipe import Recipe
from quantree.recovery import Finetune
from quantree.stage import Stage
from quantree.transforms import Prune

# Names that papers give to what a learner does.
QUANTIZERS = {
    "kmeans": "CWS",
    "probabilistic": "PWS",
    "uniform": "UQ",
    "lattice": "UQ",
    "ecsq": "ECSQ",
    "ecsq_lloyd": "ECSQ",
}


@dataclass(frozen=True)
class Found:
    """One setting of a sweep: all of its seeds that are done.

    part: the kernels that are coded or pruned; None: none is. psi: name of a rule, as `read` was told -> compressed
    over uncompressed, mean over the seeds; rules that count kernels which this network lacks are absent.
    """

    setting: Setting
    part: Part | None
    psi: dict[str, float]

    @functools.cached_property
    def name(self) -> str:
        """`Pr-uCWS`: pruned or not, one codebook for many leaves or not, quantizer; else what the config calls it."""
        return method_name(self.setting.first)

    @property
    def validation(self) -> float:
        """Mean validation metric; larger is better."""
        return self.setting.panel.sign * self.setting.validation_metric.mean

    @property
    def lossless(self) -> bool:
        """Whether the mean validation metric is not worse than that of its baselines. Not with a failed seed."""
        baseline = self.setting.panel.sign * self.setting.baseline_validation_metric.mean
        return not self.setting.failed and self.validation >= baseline - SAME


def best(found: Iterable[Found]) -> Found | None:
    """The setting with the best mean validation metric."""
    complete = [each for each in found if not each.setting.failed]
    return max(complete, key=lambda each: each.validation, default=None)


def smallest(found: Iterable[Found], rule: str) -> Found | None:
    """The setting that a rule counts smallest, among those without loss on validation data."""
    counted = [each for each in found if each.lossless and rule in each.psi]
    return min(counted, key=lambda each: each.psi[rule], default=None)


def read(
    folders: Sequence[Path], rules: Mapping[str, PaperRule], imported: bool = False
) -> tuple[list[Found], tuple[str, ...]]:
    """The settings in these work folders, counted by some rules, and a sentence about whatever is not a whole result.

    imported: with those of imported networks, for tables that choose none: their validation images may be among those
    that they were trained on.
    """
    summary = summarize(read_trials(folders))
    found, problems = [], list(summary.problems)
    for setting in summary.settings:
        if not setting.done or (setting.first.imported and not imported):
            continue
        files = [_file(folders, trial) for trial in setting.done]
        try:
            models = (storage.load(file) for file in files)
            counted = [(_part(model), _psi(rules, model)) for model in models]
        except (FormatError, OSError) as error:
            problems.append(f"{error}; a setting of {setting.first.method} is left out")
            continue
        parts, sizes = zip(*counted, strict=True)
        psi = {rule: statistics.fmean(size[rule] for size in sizes) for rule in sizes[0]}
        found.append(Found(setting, parts[0], psi))
    return found, tuple(problems)


def _file(folders: Sequence[Path], trial: Trial) -> Path:
    places = [folder / "trials" / trial.trial / FILE for folder in folders]
    return next((place for place in places if place.is_file()), places[0])


def _part(model: Compressed) -> Part | None:
    changed = {kernel.dense for kernel in kernels(model) if kernel.form != "raw"}
    return "whole" if len(changed) == 2 else "dense" if True in changed else "conv" if changed else None


def _psi(rules: Mapping[str, PaperRule], model: Compressed) -> dict[str, float]:
    sizes = {}
    for name, rule in rules.items():
        with contextlib.suppress(ConfigError):  # it counts kernels that this network lacks
            sizes[name] = rule.count(model).psi
    return sizes


def method_name(trial: Trial) -> str:
    """What a paper would call a trial's method, read off its stages; the first `quantize` tells."""
    try:
        stages = Recipe.from_config(trial.settings["stages"]).expanded  # pyright: ignore[reportArgumentType]
    except (QuantreeError, KeyError):  # a plug-in that is not loaded here, or a row of another version
        return trial.method
    pruned = "Pr" if any(map(_prunes, stages)) else ""
    quantizer = next((stage for stage in stages if isinstance(stage, Quantize)), None)
    if quantizer is None:
        return pruned or trial.method
    called = QUANTIZERS.get(quantizer.learner.name)
    if called is None:
        return trial.method
    shared = "u" if isinstance(quantizer.grouping, PerKind | WholeNet) else ""
    return "-".join(filter(None, (pruned, shared + called)))


def kinds(trial: Trial) -> frozenset[str]:
    """Kinds of all that a trial's stages name, stages inside of others too, and of what its presets stand for."""
    written = trial.settings.get("stages")
    found = set(_named(written))
    for stage in written if isinstance(written, list) else ():
        with contextlib.suppress(QuantreeError):  # a plug-in that is not loaded here
            found |= set(_named([inner.to_config() for inner in Recipe.from_config([stage]).expanded]))
    return frozenset(found)


def _named(settings: Any) -> Iterator[str]:
    if isinstance(settings, Mapping):
        if isinstance(settings.get("kind"), str):
            yield settings["kind"]
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        for each in settings:
            yield from _named(each)


def _prunes(stage: Stage) -> bool:
    gradual = stage.gradual if isinstance(stage, Finetune) else None
    return isinstance(stage, Prune) or (gradual is not None and isinstance(gradual.stage, Prune))
