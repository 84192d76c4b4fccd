"""pareto.png: test metric against compression ratio, one plot per data set and model."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

from experiments.report.style import Look, looks
from experiments.report.summary import Panel, Setting, Spread, Summary, baselines, pareto, reach
from experiments.report.tables import replacing

COLUMNS = 3
TIMES = "\u00d7"
_INCHES, _HANDLE, _LINE = 0.072, 0.75, 0.19  # about: a letter of the legend, what stands about its words, its lines
INK, LINE, FAINT = "#222222", "#555555", "#8a8a8a"


def draw(summary: Summary) -> Figure:
    """The figure; with a line of text in place of plots if no trial has ended with numbers."""
    panels = summary.drawn
    columns = min(COLUMNS, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(5.6 * columns + 0.8, 4.3 * rows + 0.7), dpi=150, layout=layout, facecolor="white")
    if not panels:
        figure.text(0.5, 0.5, "no trial ended with numbers; see report.html for the errors", ha="center", color=INK)
        return figure
    look = looks(summary.methods)
    for i, (panel, settings) in enumerate(panels.items()):
        _plot(figure.add_subplot(rows, columns, i + 1), panel, settings, look)
    drawn = [setting for settings in panels.values() for setting in settings]
    shown = {setting.first.method for setting in drawn}
    handles = _legend(
        {method: look[method] for method in summary.methods if method in shown},
        any(setting.chosen for setting in drawn),
    )
    longest = max(len(str(handle.get_label())) for handle in handles)
    wide = max(1, min(6, 2 * columns + 2, int(figure.get_figwidth() / (_INCHES * longest + _HANDLE))))
    figure.set_figheight(figure.get_figheight() + _LINE * max(0, math.ceil(len(handles) / wide) - 3))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=wide,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    return figure


def write_png(summary: Summary, path: Path) -> None:
    """Draws to a PNG file."""
    figure = draw(summary)
    replacing(path, lambda part: figure.savefig(part, format="png"))


def _plot(axes: Axes, panel: Panel, settings: list[Setting], look: dict[str, Look]) -> None:
    axes.set_xscale("log")
    axes.set_title(f"{panel.dataset} · {panel.model}", fontsize=11, color=INK, loc="left", parse_math=False)
    axes.set_xlabel("compression ratio (uncompressed bytes / file bytes)", fontsize=9, color=INK)
    axes.set_ylabel(f"test {panel.metric_name}", fontsize=9, color=INK, parse_math=False)
    axes.grid(True, which="major", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    lines = baselines(settings)
    for value in lines:
        axes.axhline(value, color=FAINT, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
    size = 6.5 if len(settings) <= 60 else 5 if len(settings) <= 250 else 3.5
    for method in dict.fromkeys(setting.first.method for setting in settings):
        _draw_points(axes, [setting for setting in settings if setting.first.method == method], look[method], size)
    _draw_front(axes, panel, settings)
    _frame(axes, panel, settings, lines, look, size)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %" if panel.percent else f"{y:g}"))


def _draw_points(axes: Axes, settings: list[Setting], look: Look, size: float) -> None:
    """The settings of one method: their spread as thin crosses, faint off the front; rings around the chosen."""
    for strong in (False, True):
        some = [setting for setting in settings if (setting.pareto or setting.chosen) == strong]
        x, y = [s.ratio.mean for s in some], [s.metric.mean for s in some]
        x_std, y_std = [s.ratio.std for s in some], [s.metric.std for s in some]
        alpha = 1.0 if strong else 0.45
        axes.errorbar(
            x, y, xerr=x_std, yerr=y_std, fmt="none", ecolor=look.color, elinewidth=0.9, alpha=alpha / 2, zorder=2.5
        )
        axes.plot(
            x, y, look.marker, color=look.color, markersize=size, alpha=alpha, markeredgecolor="white",
            markeredgewidth=0.5, zorder=3 + strong,
        )  # fmt: skip
    chosen = [setting for setting in settings if setting.chosen]
    axes.plot(
        [s.ratio.mean for s in chosen], [s.metric.mean for s in chosen], "o", markersize=size + 6,
        markerfacecolor="none", markeredgecolor=INK, zorder=5,
    )  # fmt: skip


def _draw_front(axes: Axes, panel: Panel, settings: list[Setting]) -> None:
    """A staircase: up to a setting's ratio, its metric can be had."""
    points = [(s.ratio.mean, panel.sign * s.metric.mean) for s in settings]
    front = sorted({point for point, on in zip(points, pareto(points), strict=True) if on})
    x, y = [x for x, _ in front], [panel.sign * y for _, y in front]
    axes.plot(x, y, drawstyle="steps-pre", color=LINE, linewidth=1.1, zorder=2)


def _frame(
    axes: Axes, panel: Panel, settings: list[Setting], lines: list[float], look: dict[str, Look], size: float
) -> None:
    """Limits and ticks. Settings that lose too much become arrows at the edge: none is left out unsaid."""
    ratios = [s.ratio.mean for s in settings]
    low, high = min(ratios), max(ratios)
    pad = max((high / low) ** 0.06, 1.12)
    axes.set_xlim(low / pad, high * pad)
    decades = math.log10(high / low * pad * pad)
    subs = (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    if decades < 0.6:
        axes.xaxis.set_major_locator(FixedLocator(_even_ticks(low / pad, high * pad)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}{TIMES}"))
    axes.xaxis.set_minor_formatter(NullFormatter())

    limit = reach(settings)
    near = [s for s in settings if limit is None or s.loss <= limit]
    values = [value for s in near for value in _ends(s.metric)] + lines
    margin = 0.07 * (max(values) - min(values)) or 0.01 * abs(values[0]) or 0.01
    bottom, top = min(values) - margin, max(values) + margin
    far = [s for s in settings if not bottom <= s.metric.mean <= top]
    edge = bottom if panel.sign > 0 else top
    if far:
        for setting in far:
            axes.plot(
                [setting.ratio.mean], [edge], "v" if panel.sign > 0 else "^", clip_on=False, markersize=size,
                color=look[setting.first.method].color, markeredgecolor=INK, markeredgewidth=0.6, zorder=6,
            )  # fmt: skip
        arrow = "▾" if panel.sign > 0 else "▴"
        text = f"{len(far)} {'settings' if len(far) > 1 else 'setting'} beyond the edge ({arrow})"
        axes.set_title(text, loc="right", fontsize=8, color=FAINT)
    axes.set_ylim(bottom, top)
    for value in lines:
        label = f"baseline\n{panel.tell(value)}" if len(lines) == 1 else panel.tell(value)
        axes.annotate(
            label, (1, value), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", fontsize=8, color="#6a6a6a", annotation_clip=False, parse_math=False,
        )  # fmt: skip


def _ends(spread: Spread) -> tuple[float, float]:
    std = 0.0 if math.isnan(spread.std) else spread.std
    return spread.mean - std, spread.mean + std


def _even_ticks(low: float, high: float) -> list[float]:
    """About five round numbers between the limits, for an axis that spans less than a decade."""
    step = 10 ** math.floor(math.log10((high - low) / 5))
    step *= min((1, 2, 5, 10), key=lambda m: abs((high - low) / (step * m) - 5))
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step) + 1)]


def _legend(look: dict[str, Look], chosen: bool) -> list[Line2D]:
    def entry(label: str, **style: object) -> Line2D:
        # A leading underscore would hide the entry, a dollar sign would start a formula.
        return Line2D([], [], label=("\u200b" + label).replace("$", r"\$"), **style)  # pyright: ignore[reportArgumentType]

    ring = {"marker": "o", "markersize": 12, "markerfacecolor": "none", "markeredgecolor": INK}
    marks = [
        entry("front", color=LINE, linewidth=1.1),
        entry("baseline", color=FAINT, linewidth=1, linestyle=(0, (5, 3))),
    ]
    if chosen:
        marks.append(entry("chosen on validation", linestyle="", **ring))
    methods = [entry(m, color=x.color, marker=x.marker, linestyle="", markersize=6.5) for m, x in look.items()]
    return methods + marks
