"""report.html: one page with everything in it. It opens offline, asks nothing of any server, and can be sent by mail.

The page's own files lie in `page/`. Data goes in as JSON text and is shown as text only, so what a setting or an error
says is never run; a content security policy with the hashes of the two scripts makes sure of that.
"""

import base64
import hashlib
import html
import importlib.resources
import math
import string
from pathlib import Path
from typing import Any

import plotly.offline
import pydantic_core

from experiments.report.rows import Trial
from experiments.report.style import looks
from experiments.report.summary import Setting, Spread, Summary, baselines, ledger_by_kind, reach
from experiments.report.tables import replacing
from experiments.report.terminal import warn_larger

SPREADS = {
    "metric": "metric",
    "validation": "validation_metric",
    "baseline": "baseline_metric",
    "baseline_validation": "baseline_validation_metric",
    "ratio": "ratio",
    "bytes": "file_bytes",
    "bits": "bits_per_weight",
}


def page(summary: Summary) -> str:
    """The whole page as text."""
    scripts = {"plotly": plotly.offline.get_plotlyjs(), "script": _template("plots.js") + _template("report.js")}
    experiments = sorted({trial.experiment for trial in summary.trials})
    return string.Template(_template("report.html")).substitute(
        scripts,
        hashes=" ".join(f"'sha256-{_sha256(text)}'" for text in scripts.values()),
        style=_template("report.css"),
        title=html.escape(", ".join(experiments)),
        data=_json(_data(summary)),
    )


def write_html(summary: Summary, path: Path) -> None:
    """Writes the page as UTF-8."""
    # Bytes, so that no line ending is changed under the scripts' hashes.
    replacing(path, lambda part: part.write_bytes(page(summary).encode()))


def _data(summary: Summary) -> dict[str, Any]:
    """What the script draws. Kinds of ledger lines and strings are told once, and referred to by number."""
    kinds = list(ledger_by_kind(summary.trials))
    panels = list(summary.drawn)
    drawn = [setting for setting in summary.settings if setting.done]
    look = looks(summary.methods)
    strings: dict[str, int] = {}
    return {
        "panels": [
            panel._asdict() | {"percent": panel.percent, "reach": reach(settings), "baselines": baselines(settings)}
            for panel, settings in summary.drawn.items()
        ],
        "methods": [{"name": m, "color": look[m].color, "symbol": look[m].symbol} for m in summary.methods],
        "kinds": kinds,
        "settings": [_setting(setting, panels.index(setting.panel), strings) for setting in drawn],
        "trials": [_trial(trial, i, kinds) for i, setting in enumerate(drawn) for trial in setting.done],
        "failed": [trial.row() for trial in summary.failed],
        "warnings": [*summary.notes, *(warn_larger(setting) for setting in summary.larger), *summary.problems],
        "strings": list(strings),
    }


def _setting(setting: Setting, panel: int, strings: dict[str, int]) -> dict[str, Any]:
    first = setting.first
    spreads: dict[str, Spread] = {name: getattr(setting, field) for name, field in SPREADS.items()}

    def number(text: object) -> int:
        return strings.setdefault("" if text is None else str(text), len(strings))

    return {
        "panel": panel,
        "experiment": first.experiment,
        "method": first.method,
        "label": setting.label,
        "settings": first.settings,
        "seeds": len(setting.done),
        "failed": len(setting.failed),
        "front": setting.pareto,
        "chosen": setting.chosen,
        **{name: spread.mean for name, spread in spreads.items()},
        **{f"{name}_std": spread.std for name, spread in spreads.items() if not math.isnan(spread.std)},
        "ledger": [
            [number(x.section), number(x.path), number(x.what), number(x.coder), x.count, x.bytes]
            for x in first.ledger or ()
        ],
        "leaves": [[number(x.leaf), list(x.shape), number(x.taken_by), x.bits] for x in first.leaves or ()],
    }


def _trial(trial: Trial, setting: int, kinds: list[str]) -> dict[str, Any]:
    sizes = ledger_by_kind([trial])
    seconds = {name: getattr(trial, f"{name}_seconds") for name in ("compress", "recover", "encode", "decode")}
    return {
        "setting": setting,
        "trial": trial.trial,
        "seed": trial.seed,
        **{name: getattr(trial, field) for name, field in SPREADS.items()},
        "paper_ratio": trial.paper_ratio,
        "dense_bytes": trial.dense_bytes,
        "seconds": seconds,
        "kinds": [sizes.get(kind, 0) for kind in kinds] if sizes else None,
    }


def _template(name: str) -> str:
    return (importlib.resources.files("experiments.report") / "page" / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value: Any) -> str:
    # Inside a script element only "<" can end it or open a comment; in JSON a string may spell it as an escape.
    return pydantic_core.to_json(value, inf_nan_mode="null").decode().replace("<", "\\u003c")
