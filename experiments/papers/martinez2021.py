"""Permute, Quantize, and Fine-tune (Martinez et al., CVPR 2021, arXiv 2010.15703): published rows, ours, difference.

    python -m experiments.papers.martinez2021 [WORKDIR ...] [--json | --markdown]
    python -m experiments.papers.martinez2021 (--sizes | --files) [--json | --markdown]

WORKDIR: accuracies, and our trials that code sub-vectors of residual networks, those that permute channels beside the
same ones without. --sizes: the paper's bits from the shapes of its networks, in seconds. --files: real files of these
sizes, in a minute or two; the weights are drawn at random, for there is no ImageNet here.
"""

import json
import sys
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from experiments.papers.accounting import Martinez2021 as Rule
from experiments.papers.ours import Found, kinds, read
from experiments.papers.published import Martinez2021, load
from experiments.papers.published.forms import Accuracy
from experiments.papers.random_files import files
from experiments.papers.regimes import count, cut, regimes, shapes
from experiments.papers.sheet import Flag, Made, Sheet, command
from experiments.report.rows import Trial
from quantree.encodings import KernelSlices, SubVectors

PAPER = load(Martinez2021, "martinez2021")
PERMUTE = "permute"  # the stage
MEBI = 1 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; returns the exit status."""
    flags = {
        "sizes": Flag("the paper's bits, from shapes alone", sizes),
        "files": Flag("files of these networks with random weights", lambda: (files(PAPER), ())),
    }
    return command("martinez2021", __doc__ or "", sheets, arguments, flags)


def sheets(folders: Sequence[Path]) -> Made:
    """Accuracies, and what was wrong in the folders."""
    found, problems = read(folders, {"martinez2021": Rule()}, imported=True)
    return [_accuracies(), _ours([each for each in found if _alike(each)])], problems


def _accuracies() -> Sheet:
    rows = [
        {"network": row.network, "blocks": row.regime, "data": row.dataset, "metric": row.metric}
        | {"original": row.original, "theirs": row.pqf, "kill-the-bits": row.bgd, "lost": row.original - row.pqf}
        | {"MiB": PAPER.networks[row.network].regimes[row.regime].mebibytes}
        | {"ratio": PAPER.networks[row.network].regimes[row.regime].ratio, "closed %": _closed(row)}
        | {"ours": f"not run: {row.dataset} is not here"}
        for row in PAPER.rows
    ]
    columns = {"network": "", "blocks": "", "data": "", "metric": "", "original": ".2f", "kill-the-bits": ".2f"}
    columns |= {"theirs": ".2f", "lost": ".2f", "closed %": ".0f", "MiB": "", "ratio": "", "ours": ""}
    note = "%; closed: share of what kill-the-bits loses that the paper wins back at the same size"
    return Sheet("Published", columns, tuple(rows), (note,))


def _closed(row: Accuracy) -> float:
    return 100 * (row.pqf - row.bgd) / (row.original - row.bgd)


def _alike(found: Found) -> bool:
    """Whether it is the paper's method or a part of it: sub-vectors of a residual network that classifies."""
    setting = found.setting
    vectors = not kinds(setting.first).isdisjoint((SubVectors.name, KernelSlices.name))
    return vectors and setting.first.model.startswith("resnet") and setting.panel.percent


def _ours(found: list[Found]) -> Sheet:
    plain = {_without_permuting(each.setting.first): each for each in found if not _permutes(each.setting.first)}
    rows = []
    for each in found:
        setting, first = each.setting, each.setting.first
        row = {"data": first.dataset, "network": setting.model, "setting": f"{first.method} {setting.label}".strip()}
        row |= {"permuted": "yes" if _permutes(first) else "no", "seeds": f"{len(setting.done)}"}
        row |= {"original": 100 * setting.baseline_metric.mean, "ours": 100 * setting.metric.mean}
        row |= {"lost": 100 * setting.loss, "KiB": setting.file_bytes.mean / 1024, "ratio": setting.ratio.mean}
        row |= {"ratio, their count": 1 / each.psi["martinez2021"]}
        other = plain.get(_without_permuting(first))
        if _permutes(first) and other is not None:
            if _seeds(each) == _seeds(other):
                row |= {"won by permuting": 100 * (setting.metric.mean - other.setting.metric.mean)}
            else:
                row |= {"why not": "the other has other seeds"}
        rows.append(row)
    if not rows:
        rows = [{"data": "", "setting": "not run"}]
    columns = {"data": "", "network": "", "setting": "", "permuted": "", "seeds": "", "original": ".2f", "ours": ".2f"}
    columns |= {"lost": ".2f", "won by permuting": "+.2f", "why not": "", "KiB": ",.2f", "ratio": ".1f"}
    columns |= {"ratio, their count": ".1f"}
    notes = (
        "test accuracy in %, mean over the seeds; KiB and ratio: of the whole file. their count: rule martinez2021 on "
        "the same weights",
        "won by permuting: against the same stages without `permute`, on the same seeds",
    )
    return Sheet("Ours: sub-vectors of residual networks", columns, tuple(rows), notes)


def _permutes(trial: Trial) -> bool:
    return PERMUTE in kinds(trial)


def _without_permuting(trial: Trial) -> str:
    """What a trial has in common with the one that does all but permute."""
    stages = trial.settings.get("stages")
    kept = [stage for stage in stages if not _is_permute(stage)] if isinstance(stages, list) else stages
    return json.dumps([trial.dataset, trial.model, {**trial.settings, "stages": kept}], sort_keys=True)


def _is_permute(stage: Any) -> bool:
    return isinstance(stage, dict) and stage.get("kind") == PERMUTE


def _seeds(found: Found) -> set[int]:
    return {trial.seed for trial in found.setting.done}


def sizes() -> Made:
    """The paper's bits, from shapes."""
    rows = []
    for name, network, size, regime in regimes(PAPER):
        leaves = shapes(network)
        bits = count(leaves, cut(leaves, network, regime))
        strict = count(leaves, cut(leaves, network, regime, strict=True)).total
        rows.append(
            {"network": name, "blocks": size, "published": regime.bits, "ours": bits.total}
            | {"difference": bits.total - regime.bits}
            | {"published, strict": regime.strict_bits, "ours, strict": strict}
            | ({} if regime.strict_bits is None else {"difference, strict": strict - regime.strict_bits})
            | {"codes": bits.codes, "codebooks": bits.codebooks, "rest": bits.rest}
            | {"MiB published": regime.mebibytes, "MiB": bits.total / 8 / MEBI}
            | {"ratio published": regime.ratio, "ratio": 32 * sum(map(prod, leaves.values())) / bits.total}
        )
    exact = sum(row["difference"] == 0 for row in rows)
    whole = ("published", "ours", "published, strict", "ours, strict", "codes", "codebooks", "rest")
    form = {
        **dict.fromkeys(whole, ",d"),
        "difference": "+,d",
        "difference, strict": "+,d",
        "MiB": ".3f",
        "ratio": ".2f",
    }
    columns = {column: form.get(column, "") for column in max(rows, key=len)}
    notes = (
        "bits: N log2 k + 16 k d for each kernel of N sub-vectors, 32 for any other number; norms as scale and shift",
        "k: at most a quarter of the sub-vectors; strict: less than a quarter, as in kill-the-bits",
    )
    return [Sheet(f"Sizes from shapes: {exact} of {len(rows)} to the bit", columns, tuple(rows), notes)], ()


if __name__ == "__main__":
    sys.exit(main())
