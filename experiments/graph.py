"""Which channels of a network belong together, as a table and as a picture.

    python -m experiments.graph CONFIG.yaml [dotted.key=value ...] [--svg FILE.svg]

Of the config only `data` (the shape of an input), `model` and `plugins` count; no data set need be there. In the
picture a column is a kernel, in the order of the program; a row is a group, from what makes its channels (full) to what
sums over them (hollow). Exit status: 0, or 2 after one line on standard error.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.config import load_experiment
from experiments.data.dataset import source_named
from experiments.report.chart import FAINT, INK
from experiments.report.style import COLORS
from experiments.report.tables import replacing
from quantree.errors import QuantreeError
from quantree.graph import Graph

_FREE, _TIED = COLORS[0], COLORS[1]
_WORDS = {_FREE: "may be permuted, merged and removed", _TIED: "may only be permuted"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.graph", description="Which channels belong together.")
    parser.add_argument("config", metavar="CONFIG.yaml", type=Path, help="says network and data set; see configs/")
    parser.add_argument("overrides", metavar="dotted.key=value", nargs="*", help="replaces a value of the config")
    parser.add_argument("--svg", metavar="FILE.svg", type=Path, help="where to draw it")
    chosen = parser.parse_intermixed_args(arguments)
    try:
        name, graph = _traced(chosen.config, chosen.overrides)
        print(graph.describe())
        if chosen.svg is not None:
            replacing(chosen.svg, lambda part: _save(draw(graph, name), part))
    except (QuantreeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _traced(config: Path, overrides: Sequence[str]) -> tuple[str, Graph]:
    experiment = load_experiment(config, overrides).points[0].experiment
    source = source_named(experiment.data.name)
    return experiment.model.name, experiment.model.graph(source.shape, source.dtype, len(source.classes))


def draw(graph: Graph, title: str) -> Figure:
    """The picture of the groups that may move; with a line of text if there are none."""
    groups = graph.free
    kernels = {path: column for column, path in enumerate(graph.kernels)}
    figure = Figure(
        figsize=(2.2 + 0.34 * len(kernels), 1.9 + 0.3 * len(groups)), layout="constrained", facecolor="white"
    )
    if not groups:
        figure.text(0.5, 0.5, f"{title}: no channels may move", ha="center", color=INK)
        return figure
    axes = figure.add_subplot()
    for row, group in enumerate(groups):
        color = _FREE if group.tied is None else _TIED
        places = [kernels[member.path] for member in group.members if member.path in kernels]
        axes.plot([min(places), max(places)], [row, row], color=color, linewidth=1.5, alpha=0.5, zorder=1)
        for members, fill in ((group.having("producer"), color), (group.having("consumer"), "white")):
            along = [kernels[member.path] for member in members]
            axes.scatter(along, [row] * len(along), s=34, facecolor=fill, edgecolor=color, linewidth=1.5, zorder=2)
    axes.set_xticks(range(len(kernels)), [path.removesuffix("/kernel") for path in kernels], rotation=90)
    axes.set_yticks(range(len(groups)), [f"{group.name}  ({group.size})" for group in groups])
    axes.invert_yaxis()
    axes.set_title(title, fontsize=11, color=INK, loc="left", parse_math=False)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    axes.grid(True, axis="x", color="#eeeeee", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    used = dict.fromkeys(_FREE if group.tied is None else _TIED for group in groups)
    handles = [Line2D([], [], color=color, linewidth=2, label=_WORDS[color]) for color in used]
    for label, fill in (("makes the channels", FAINT), ("sums over them", "white")):
        mark = Line2D([], [], marker="o", linestyle="", markeredgecolor=FAINT, markerfacecolor=fill, label=label)
        handles.append(mark)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=INK)
    return figure


def _save(figure: Figure, path: Path) -> None:
    # The same graph gives the same file.
    with rc_context({"svg.hashsalt": "quantree", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
