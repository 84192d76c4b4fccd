"""The tables of Marino et al. (ICPR 2020; arXiv 2108.12704, 2021; survey 2023), and ours beside them.

    python -m experiments.papers.marino2021 [WORKDIR ...] [--json | --markdown]

A published row, the setting of our trials with the same data set, network and method that is best in the same respect
by validation data (mean over its seeds), and the difference. Methods are recognised by their stages, not their names.
Rows for which there is no trial say so.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from experiments.papers.accounting import PaperRule
from experiments.papers.accounting.rule import Part
from experiments.papers.ours import Found, best, read, smallest
from experiments.papers.published import Marino2021, load
from experiments.papers.published.forms import Row, Table
from experiments.papers.sheet import Sheet, command

PAPER = load(Marino2021, "marino2021")
NOTE = (
    "ours: mean over the seeds; the setting was chosen on validation data (best: best validation metric; smallest: "
    "least psi whose validation metric is not worse than the baseline's)"
)
RULES = {
    f"{name}, {part}": PaperRule.named(name)(part=part)
    for name in ("marino2021", "marino2023")
    for part in get_args(Part)
}
HALVED = "psi published: half of what is printed for rows stored as HAC, whose words the script of 2020 counted twice"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; returns the exit status."""
    return command("marino2021", __doc__ or "", sheets, arguments)


def sheets(folders: Sequence[Path]) -> tuple[list[Sheet], tuple[str, ...]]:
    """All tables, and what was wrong in the folders."""
    found, problems = read(folders, RULES)
    known = [each for each in found if _network(each)]
    return [_baselines(known), _headlines(known), *(_table(table, known) for table in PAPER.tables)], problems


def _network(found: Found) -> bool:
    """Whether this is a network of the paper, on its data set."""
    network = PAPER.networks.get(found.setting.first.dataset)
    return network is not None and found.setting.first.model == network.model


def _on(dataset: str, found: Iterable[Found]) -> list[Found]:
    return [each for each in found if each.setting.first.dataset == dataset]


def _baselines(found: list[Found]) -> Sheet:
    rows = []
    for dataset, network in PAPER.networks.items():
        ran = _on(dataset, found)
        # Every setting of one baseline has the same one; with several, the one that most trials start from.
        most = max(ran, key=lambda each: len(each.setting.done)) if ran else None
        ours = None if most is None else most.setting.baseline_metric.mean
        rows.append(
            {"data set": dataset, "network": network.name, "published": network.metric}
            | ({"ours": ours, "difference": ours - network.metric} if ours is not None else {"seeds": _why(dataset)})
            | ({} if most is None else {"seeds": f"{len(most.setting.done)}"})
        )
    columns = {"data set": "", "network": "", "published": ".4f", "ours": ".4f", "difference": "+.4f", "seeds": ""}
    return Sheet("Baselines: test metric", columns, tuple(rows))


def _headlines(found: list[Found]) -> Sheet:
    rows = []
    for claim in PAPER.headlines:
        counting = f"marino2021, {claim.part}"
        ran = {each.setting.first.dataset: None for each in found if each.part == claim.part}
        for dataset in ran:
            chosen = smallest((each for each in _on(dataset, found) if each.part == claim.part), counting)
            rows.append({"claim": claim.text, "published": claim.psi, "data set": dataset, **_told(chosen, counting)})
        if not ran:
            rows.append({"claim": claim.text, "published": claim.psi, "ours: setting": "not run"})
    columns = {"claim": "", "published": ".4f", "data set": "", "psi": ".4f", "metric": ".4f", "ratio": ".1f"}
    return Sheet("Headlines: smallest psi without loss", {**columns, "ours: setting": "", "seeds": ""}, tuple(rows))


def _table(table: Table, found: list[Found]) -> Sheet:
    counting = f"{table.rule}, {table.part}"
    alike = [each for each in found if each.part == table.part]
    rows = []
    for row in table.rows:
        ran = [each for each in _on(row.dataset, alike) if _same(row, each, table.quantizer_only)]
        chosen = best(ran) if table.aim == "best" else smallest(ran, counting)
        told = _told(chosen, counting) if ran else {"ours: setting": _why(row.dataset)}
        published = {"metric published": row.metric, "psi published": _psi(row)}
        for name in ("metric", "psi"):
            if told.get(name) is not None and published[f"{name} published"] is not None:
                told[f"{name} difference"] = told[name] - published[f"{name} published"]
        rows.append({"data set": row.dataset, "method": row.method, "settings": row.settings, **published, **told})
    columns = {"data set": "", "method": "", "settings": "", "metric published": ".4f", "metric": ".4f"}
    columns |= {"metric difference": "+.4f", "psi published": ".4f", "psi": ".4f", "psi difference": "+.4f"}
    columns |= {"ratio": ".1f", "ours: setting": "", "seeds": ""}
    halved = (HALVED,) if any(row.form == "hac" for row in table.rows) else ()
    notes = (f"published: {table.source}; psi: rule {counting}; ratio: of the whole file", *halved, NOTE)
    return Sheet(table.title, columns, tuple(rows), notes)


def _psi(row: Row) -> float | None:
    return row.psi / 2 if row.form == "hac" and row.psi is not None else row.psi


def _same(row: Row, found: Found, quantizer_only: bool) -> bool:
    if quantizer_only:
        return found.name.removeprefix("Pr-").removeprefix("u") == row.method.removeprefix("u")
    return found.name == row.method


def _why(dataset: str) -> str:
    return "not run" if PAPER.networks[dataset].model else "not run: the network is not in the zoo"


def _told(chosen: Found | None, counting: str) -> dict[str, Any]:
    if chosen is None:
        return {"ours: setting": "run; no setting without loss on validation data, or none whose seeds are all done"}
    setting = chosen.setting
    return {
        "metric": setting.metric.mean,
        "psi": chosen.psi.get(counting),
        "ratio": setting.ratio.mean,
        "ours: setting": f"{setting.first.method} {setting.label}".strip(),
        "seeds": f"{len(setting.done)}",
    }


if __name__ == "__main__":
    sys.exit(main())
