"""Neuron agglomerative clustering (Wang et al., Sensors 2020): the figures of its abstract, and our trials beside them.

    python -m experiments.papers.wang2020 [WORKDIR ...] [--json | --markdown]

Ours: settings that merge neurons of a VGG network, on the same data set. Of each network and method two stand here,
chosen on validation data: the one that has lost most parameters without loss, and the one of the best metric.
"""

import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import jax

from experiments.papers.ours import Found, best, kinds, read
from experiments.papers.published import Wang2020, load
from experiments.papers.published.forms import Reduction
from experiments.papers.sheet import Made, Sheet, command
from experiments.zoo import Network
from quantree.errors import DataError

PAPER = load(Wang2020, "wang2020")
MERGE = "merge"  # the stage


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    return command("wang2020", __doc__ or "", sheets, arguments)


def sheets(folders: Sequence[Path]) -> Made:
    """The table, and what was wrong in the folders."""
    found, problems = read(folders, {})
    merged, lost = [], []
    for each in found:
        first = each.setting.first
        if MERGE in kinds(first) and first.model.startswith("vgg") and first.dataset in PAPER.datasets:
            try:
                merged.append(_merged(each))
            except (DataError, ValueError) as error:
                lost.append(f"a setting of {first.method} is left out: {error}")
    rows = [row for published in PAPER.rows for row in _rows(published, merged)]
    columns = {"data": "", "source": "", "reduction published": ".2f", "accuracy published": "", "setting": ""}
    columns |= {"chosen": "", "seeds": "", "parameters before": ",.0f", "after": ",.0f", "reduction": ".2f"}
    columns |= {"difference": "+.2f", "accuracy before": ".2f", "accuracy": ".2f", "won": "+.2f"}
    notes = (
        "reduction: % of the parameters, 1 - after / before, by the shapes of all leaves of the smaller network and of "
        "the one that was trained; difference: in points. accuracy: of the test images in %, mean over the seeds",
        "chosen by validation data: smallest, the largest reduction that loses nothing; best, the best metric",
    )
    return [Sheet("Parameters merged away", columns, tuple(rows), notes)], (*problems, *lost)


@dataclass(frozen=True)
class _Merged:
    """A setting whose recipe merges neurons. before, after: parameters, mean over the seeds."""

    found: Found
    before: int
    after: float

    @property
    def reduction(self) -> float:
        """% of the parameters that are gone."""
        return 100 * (1 - self.after / self.before)


def _merged(found: Found) -> _Merged:
    """`DataError` if the results don't say what is left; a `ValueError` if the network isn't known here."""
    first = found.setting.first
    after = [sum(prod(leaf.shape) for leaf in trial.leaves or ()) for trial in found.setting.done]
    if not all(after):
        raise DataError("its results name no leaves; they are of an earlier version")
    images = PAPER.datasets[first.dataset]
    network = Network.from_config(first.settings.get("model", first.model))
    params = network.abstract(images.shape, images.classes).params
    return _Merged(found, sum(prod(leaf.shape) for leaf in jax.tree.leaves(params)), statistics.fmean(after))


def _rows(published: Reduction, merged: Iterable[_Merged]) -> list[dict[str, Any]]:
    paper = {"data": published.dataset, "source": published.source}
    paper |= {"reduction published": published.reduction, "accuracy published": published.accuracy}
    methods: dict[tuple[str, str], list[_Merged]] = {}
    for each in merged:
        setting = each.found.setting
        if setting.first.dataset == published.dataset:
            methods.setdefault((setting.model, setting.first.method), []).append(each)
    rows = []
    for name, alike in methods.items():
        lossless = [each for each in alike if each.found.lossless]
        top = best(each.found for each in alike)
        chosen = {
            "smallest": max(lossless, key=lambda each: each.reduction, default=None),
            "best": next((each for each in alike if each.found is top), None),
        }
        for why, each in chosen.items():
            missing = "none without loss" if why == "smallest" else "no setting has results of every seed"
            told = {"setting": f"{' '.join(name)}: {missing}"} if each is None else _told(each, published)
            rows.append({**paper, "chosen": why, **told})
    return rows or [{**paper, "setting": "not run"}]


def _told(merged: _Merged, published: Reduction) -> dict[str, Any]:
    setting = merged.found.setting
    return {
        "setting": f"{setting.model} {setting.first.method} {setting.label}".strip(),
        "seeds": f"{len(setting.done)}",
        "parameters before": merged.before,
        "after": merged.after,
        "reduction": merged.reduction,
        "difference": merged.reduction - published.reduction,
        "accuracy before": 100 * setting.baseline_metric.mean,
        "accuracy": 100 * setting.metric.mean,
        "won": 100 * (setting.metric.mean - setting.baseline_metric.mean),
    }


if __name__ == "__main__":
    sys.exit(main())
