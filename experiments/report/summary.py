"""Trials -> settings: mean and spread over seeds, the Pareto front, and the setting that one would choose.

Two marks, kept apart on purpose. `pareto` is what the plot shows: no other setting of the same data set and model has
both a test metric and a ratio at least as good, and one of them better. `chosen` is what one may claim: per method,
data set and model, the setting with the largest mean ratio among those whose mean *validation* metric is not worse
than their baselines' mean validation metric. The test metric has no say in it. A setting with a failed seed is never
chosen, nor is one of an imported network, whose validation images may be among those that it was trained on.
"""

import itertools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from typing import NamedTuple

from experiments.report.labels import around, labels, models, varying
from experiments.report.rows import Reading, Trial

SAME = 1e-9  # two means over the same numbers may differ in the last bit; no metric counts examples this finely
NEAR = 0.1  # share of the baseline's metric: settings that lose more are off the plot, unless most of them do


class Panel(NamedTuple):
    """What may be compared, and so shares a plot: one data set, one model, one metric.

    model: the kind of network, and where a data set has several of that kind the settings in which they differ.
    """

    dataset: str
    model: str
    metric_name: str
    metric_direction: str

    @property
    def sign(self) -> int:
        """Times this, a larger metric is better."""
        return 1 if self.metric_direction == "max" else -1

    @property
    def percent(self) -> bool:
        """Whether the metric is a share of the examples, and told in percent."""
        return "accuracy" in self.metric_name or "error" in self.metric_name

    def tell(self, value: float) -> str:
        """A metric for people; nothing for NaN."""
        if math.isnan(value):
            return ""
        return f"{rounded(100 * value, 2)} %" if self.percent else f"{value:.4g}"


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; NaN is the deviation of fewer than two numbers, and the mean of none."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread":
        """Over the numbers given; nothing at all if one of them is missing."""
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return cls(math.nan, math.nan)
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else math.nan)


@dataclass(frozen=True)
class Setting:
    """All seeds of one (experiment, dataset, model, method, settings).

    model: as in its panel. label: the settings in which the trials of this method differ, `k=16 density=0.1`, and
    those outside of the method in which the panel's trials differ, `baseline.epochs=2`. done, failed: the trials.
    """

    model: str
    label: str
    done: tuple[Trial, ...]
    failed: tuple[Trial, ...]
    metric: Spread
    validation_metric: Spread
    baseline_metric: Spread
    baseline_validation_metric: Spread
    ratio: Spread
    file_bytes: Spread
    bits_per_weight: Spread
    pareto: bool = False
    chosen: bool = False

    @property
    def first(self) -> Trial:
        """The trial that names the setting; a finished one if there is any."""
        return (*self.done, *self.failed)[0]

    @property
    def panel(self) -> Panel:
        """Where the setting is drawn."""
        first = self.first
        return Panel(first.dataset, self.model, first.metric_name or "", first.metric_direction or "max")

    @property
    def loss(self) -> float:
        """How much worse than its baselines the setting's mean test metric is; negative if it is better."""
        return self.panel.sign * (self.baseline_metric.mean - self.metric.mean)


@dataclass(frozen=True)
class Summary:
    """Everything that the report says. Settings and trials are in the order of the rows."""

    settings: tuple[Setting, ...]
    trials: tuple[Trial, ...]
    problems: tuple[str, ...]

    @property
    def failed(self) -> tuple[Trial, ...]:
        """The trials that ended with an error."""
        return tuple(trial for trial in self.trials if not trial.done)

    @property
    def drawn(self) -> dict[Panel, list[Setting]]:
        """The settings with numbers, by the plot that they belong to."""
        panels = defaultdict(list)
        for setting in self.settings:
            if setting.done:
                panels[setting.panel].append(setting)
        return dict(sorted(panels.items()))

    @property
    def methods(self) -> list[str]:
        """Every method, sorted: a method's place here decides its colour in all plots."""
        return sorted({trial.method for trial in self.trials})

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of these numbers."""
        imported = sorted({(s.panel.dataset, s.model) for s in self.settings if s.first.imported})
        return tuple(
            f"{dataset}, {model}: the network was imported, and may have been trained on the validation images: they "
            "serve no choice, and nothing is marked as chosen"
            for dataset, model in imported
        )

    @property
    def larger(self) -> tuple[Setting, ...]:
        """The settings whose mean file is larger than the uncompressed model."""
        return tuple(setting for setting in self.settings if setting.ratio.mean < 1)


def summarize(reading: Reading) -> Summary:
    """Groups the trials by setting, over seeds, and marks front and choice."""
    model = models(reading.trials)
    panels, methods = defaultdict(list), defaultdict(list)
    for trial in reading.trials:
        panel = trial.dataset, model[trial.trial]
        panels[panel].append(trial)
        methods[panel, trial.experiment, trial.method].append(trial)
    outside = {panel: varying([around(trial) for trial in trials]) for panel, trials in panels.items()}
    settings = []
    for (panel, _, _), trials in methods.items():
        label = labels(trials, outside[panel])
        for text, group in itertools.groupby(trials, key=lambda trial: trial.settings_text):
            settings.append(_setting(panel[1], label[text], list(group)))
    front, chosen = _front(settings), _chosen(settings)
    marked = (replace(s, pareto=i in front, chosen=i in chosen) for i, s in enumerate(settings))
    return Summary(tuple(marked), reading.trials, reading.problems)


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each point (larger is better in both coordinates) is on the front; equal points are on it together."""
    order = sorted(range(len(points)), key=lambda i: points[i], reverse=True)
    on, best = [False] * len(points), -math.inf
    for _, group in itertools.groupby(order, key=lambda i: points[i][0]):
        same_first = list(group)
        top = points[same_first[0]][1]
        if top > best:
            for i in same_first:
                on[i] = points[i][1] == top
            best = top
    return on


def baselines(settings: Iterable[Setting]) -> list[float]:
    """The baselines that the settings are held against, one number each: the mean over its seeds.

    A baseline is what an experiment trained with the same data, model and settings of the training.
    """
    found: dict[tuple[str, str], dict[int, float]] = {}
    for trial in itertools.chain.from_iterable(setting.done for setting in settings):
        if trial.baseline_metric is not None:
            key = trial.experiment, json.dumps(around(trial), sort_keys=True)
            found.setdefault(key, {})[trial.seed] = trial.baseline_metric
    return sorted({statistics.fmean(by_seed.values()) for by_seed in found.values()})


def reach(settings: Iterable[Setting]) -> float | None:
    """The largest loss against the baseline that a plot of these settings shows; None if it shows them all.

    A handful of ruined networks at chance level would press everything of interest into one line.
    """
    limits = [(setting.loss, NEAR * abs(setting.baseline_metric.mean)) for setting in settings]
    near = [limit for loss, limit in limits if loss <= limit]
    return max(near) if len(limits) > len(near) >= len(limits) / 2 else None


def ledger_by_kind(trials: Iterable[Trial]) -> dict[str, float]:
    """Mean bytes per kind of content (codes, codebooks, ...) over the trials that have a ledger, largest first."""
    ledgers = [trial.ledger for trial in trials if trial.ledger is not None]
    total: dict[str, float] = defaultdict(float)
    for line in itertools.chain.from_iterable(ledgers):
        total[line.kind] += line.bytes / len(ledgers)
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def rounded(value: float, digits: int = 0) -> str:
    """With so many decimals and thousands apart; halves go up, as on the page (JavaScript's `toFixed`)."""
    return f"{Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):,}"


def _setting(model: str, label: str, trials: list[Trial]) -> Setting:
    done = tuple(trial for trial in trials if trial.done)
    failed = tuple(trial for trial in trials if not trial.done)

    def spread(name: str) -> Spread:
        return Spread.of([getattr(trial, name) for trial in done])

    return Setting(
        model,
        label,
        done,
        failed,
        spread("metric"),
        spread("validation_metric"),
        spread("baseline_metric"),
        spread("baseline_validation_metric"),
        spread("ratio"),
        spread("file_bytes"),
        spread("bits_per_weight"),
    )


def _front(settings: list[Setting]) -> set[int]:
    panels = defaultdict(list)
    for i, setting in enumerate(settings):
        if setting.done:
            panels[setting.panel].append((i, (setting.ratio.mean, setting.panel.sign * setting.metric.mean)))
    marks = ((members, pareto([point for _, point in members])) for members in panels.values())
    return {i for members, on in marks for (i, _), mark in zip(members, on, strict=True) if mark}


def _chosen(settings: list[Setting]) -> set[int]:
    best: dict[tuple[Panel, str], tuple[float, float, int]] = {}
    for i, setting in enumerate(settings):
        validation = setting.panel.sign * setting.validation_metric.mean
        baseline = setting.panel.sign * setting.baseline_validation_metric.mean
        if setting.failed or setting.first.imported:
            continue
        if validation >= baseline - SAME:  # NaN, where no baseline is known, fails the comparison
            key = (setting.panel, setting.first.method)
            best[key] = max(best.get(key, (-math.inf, 0.0, 0)), (setting.ratio.mean, validation, -i))
    return {-minus_i for _, _, minus_i in best.values()}
