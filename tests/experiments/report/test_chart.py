import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from experiments.report import write_report
from experiments.report.chart import draw


def curves(axes: Axes, style: str) -> list[tuple[list[float], list[float]]]:
    lines = [line for line in axes.lines if line.get_drawstyle() == style]
    return [(list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))) for line in lines]  # pyright: ignore


def test_the_picture_shows_something(tmp_path, demo, store):
    write_report([store(tmp_path, demo)])
    pixels = np.asarray(Image.open(tmp_path / "pareto.png").convert("RGB"), dtype=float)
    assert pixels.shape[0] > 400 and pixels.shape[1] > 800
    assert pixels.std() > 5 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_front_baseline_and_spread_are_drawn(tmp_path, row, store):
    metrics = {4: 0.90, 16: 0.94, 64: 0.93}  # k=64 is larger and worse than k=16
    rows = [row(k=k, seed=s, metric=m + 0.01 * s, file_bytes=100 * k) for k, m in metrics.items() for s in (0, 1)]
    (axes,) = draw(write_report([store(tmp_path, rows)])).axes
    ((x, y),) = curves(axes, "steps-pre")
    assert x == pytest.approx([25, 100]) and y == pytest.approx([0.945, 0.905])
    assert any(list(line.get_ydata()) == [0.95, 0.95] for line in axes.lines)  # pyright: ignore
    assert axes.get_xscale() == "log"
    up = [container.lines[2][1].get_segments() for container in axes.containers]  # pyright: ignore
    assert sorted(end[1] for segments in up for _, end in segments) == pytest.approx(
        [m + 0.005 + 0.01 / 2**0.5 for m in (0.90, 0.93, 0.94)]
    )


def test_each_data_set_and_model_has_its_plot(tmp_path, demo, store):
    figure = draw(write_report([store(tmp_path, demo)]))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["digits · small", "mnist · small"]


def test_a_ruined_setting_is_an_arrow_at_the_edge(tmp_path, row, store):
    rows = [row(k=k, metric=0.94) for k in (4, 8, 16)] + [row(k=2, metric=0.1, file_bytes=900)]
    (axes,) = draw(write_report([store(tmp_path, rows)])).axes
    bottom, _ = axes.get_ylim()
    assert bottom > 0.8 and "1 setting beyond" in axes.get_title(loc="right")
    assert any(line.get_marker() == "v" and list(line.get_ydata()) == [bottom] for line in axes.lines)  # pyright: ignore


def test_what_a_long_error_bar_brings_into_the_picture_gets_no_arrow(tmp_path, row, store):
    wide = [row(k=k, seed=seed, metric=0.80 + 0.2 * seed) for k in (4, 8) for seed in (0, 1)]  # 0.90 +- 0.14
    (axes,) = draw(write_report([store(tmp_path, [*wide, row(k=2, metric=0.85)])])).axes
    assert axes.get_ylim()[0] < 0.85 and axes.get_title(loc="right") == ""


def test_names_that_mean_something_to_matplotlib_are_plain_text(tmp_path, row, store):
    names = {"method": r"_$\frac{", "dataset": "$x", "model": "_$y$", "metric_name": r"$\oops"}
    write_report([store(tmp_path, [row(**names)])])


def test_without_a_finished_trial_there_is_a_picture_that_says_so(tmp_path, failed, store):
    summary = write_report([store(tmp_path, [failed()])])
    assert draw(summary).axes == [] and (tmp_path / "pareto.png").stat().st_size > 1_000


def test_the_legend_of_many_methods_lies_inside_of_the_picture(tmp_path, row, store):
    methods = [f"a method with a name of some length {i}" for i in range(14)]
    rows = [row(method=method, k=4 + i, file_bytes=1000 + i) for i, method in enumerate(methods)]
    figure = draw(write_report([store(tmp_path, rows)]))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (legend,), (axes,) = figure.legends, figure.axes
    box, place = legend.get_window_extent(canvas.get_renderer()), axes.get_window_extent(canvas.get_renderer())
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and place.height > 0.35 * figure.bbox.height
