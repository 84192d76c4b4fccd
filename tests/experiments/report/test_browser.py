"""The page in a real browser, without a network."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from experiments.report import show, write_report

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
RESET = """() => {
  $("controls").reset();
  state.hidden.clear();
  Object.assign(state, { sort: "ratio", descending: true, picked: null });
  draw();
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium: install the package `chromium` to test the page in a browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory, demo, store) -> str:
    folder: Path = store(tmp_path_factory.mktemp("sweep"), demo)
    write_report([folder])
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def opened(browser, address) -> Iterator[Page]:
    """The open page. At the end it must have asked for nothing and complained about nothing."""
    said, asked = [], []
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    expect(page.locator(".chart .point").first).to_be_attached()
    yield page
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [address]
    page.close()


@pytest.fixture
def page(opened) -> Page:
    """The page as if it had just been opened; loading plotly anew for each test would take a second."""
    opened.evaluate(RESET)
    return opened


def column(page: Page, name: str) -> list[str]:
    place = page.locator("#table th").evaluate_all("(all) => all.map((th) => th.dataset.column)").index(name) + 1
    return [text.strip() for text in page.locator(f"#table tbody td:nth-child({place})").all_inner_texts()]


def axis(page: Page, letter: str, chart: int = 0) -> str | None:
    return page.locator(".chart").nth(chart).locator(f".g-{letter}title").text_content()


def point(page: Page, method: str, chart: int = 0):
    """Some mark of a method, by its colour."""
    color = page.evaluate("(name) => methods[name].color", method)
    marks = page.locator(".chart").nth(chart).locator(".scatterlayer .point")
    colors = marks.evaluate_all("(all) => all.map((mark) => mark.style.fill)")
    wanted = page.evaluate("(c) => { const e = new Option().style; e.color = c; return e.color; }", color)
    return marks.nth(colors.index(wanted))


def hover(page: Page, mark) -> None:
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 30, y - 30)
    page.mouse.move(x, y, steps=4)


def test_a_point_tells_its_settings_and_ledger(page):
    hover(page, point(page, "product"))
    tip = page.locator("#tip")
    expect(tip).to_be_visible()
    expect(tip).to_contain_text("product")
    expect(tip).to_contain_text("k=16 · 2 seeds")
    expect(tip).to_contain_text("codes 1,569")
    page.mouse.move(5, 5)
    expect(tip).to_be_hidden()


def test_clicking_a_point_shows_its_ledger(page):
    hover(page, point(page, "product"))
    page.mouse.down()
    page.mouse.up()
    detail = page.locator("#detail")
    expect(detail.locator("h2")).to_have_text("product k=16")
    expect(detail.locator("tbody").first.locator("tr")).to_have_count(4)
    expect(detail.locator("tbody").first.locator("tr").first).to_have_text("codes1,56988.7 %")
    detail.get_by_text("Every line of seed 0").click()
    expect(detail.get_by_role("cell", name="centroids")).to_be_visible()
    detail.get_by_text("All settings").click()
    expect(detail.locator("pre")).to_contain_text('"density": 0.5')


def test_filters_hide_points_and_rows(page):
    assert set(column(page, "method")) == {"hostile", "kmeans", "product", "uniform"}
    page.get_by_role("checkbox", name="kmeans").uncheck()
    assert set(column(page, "method")) == {"hostile", "product", "uniform"}
    before = page.locator(".chart .scatterlayer .point").count()
    page.get_by_label("Data set").select_option("mnist")
    expect(page.locator(".chart")).to_have_count(1)
    assert set(column(page, "dataset")) == {"mnist"}
    assert page.locator(".chart .scatterlayer .point").count() < before
    page.get_by_role("button", name="none").click()
    expect(page.locator(".chart")).to_have_count(0)
    expect(page.get_by_text("Nothing matches the filters.")).to_be_visible()


def test_axes_switch(page):
    assert axis(page, "x") == "compression ratio"
    assert axis(page, "y") == "test accuracy (higher is better)"
    ticks = page.locator(".chart .xtick text")
    ratios = ticks.all_text_contents()
    assert ratios and all(text.endswith("\u00d7") for text in ratios)
    page.get_by_label("X axis").select_option("bytes")
    assert axis(page, "x") == "bytes of the file"
    assert all(text.endswith("B") for text in ticks.all_text_contents())
    page.get_by_label("X axis").select_option("bits")
    assert axis(page, "x") == "bits per weight"
    page.get_by_label("Y axis").select_option("validation")
    assert axis(page, "y") == "validation accuracy (higher is better)"
    page.get_by_label("Y axis").select_option("loss")
    assert axis(page, "y") == "test accuracy lost against the baseline"


def test_the_table_sorts_both_ways(page):
    def numbers():
        return [int(text.replace(",", "")) for text in column(page, "bytes")]

    heading = page.locator('#table th[data-column="bytes"]')
    heading.get_by_role("button").click()
    assert numbers() == sorted(numbers(), reverse=True) and heading.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Enter")
    assert numbers() == sorted(numbers()) and heading.get_attribute("aria-sort") == "ascending"
    assert page.locator('#table th[aria-sort="none"]').count() == page.locator("#table th").count() - 1
    page.get_by_role("button", name="setting").click()
    assert column(page, "label")[:6] == ["k=4"] * 6


def test_no_button_sends_the_data_anywhere(page):
    buttons = page.locator(".chart").first.locator(".modebar-btn")
    titles = buttons.evaluate_all("(all) => all.map((button) => button.dataset.title)")
    assert titles == ["Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"]


def test_every_seed_can_be_seen(page):
    settings = len(column(page, "method"))
    page.locator("#points").select_option("trials")
    assert len(column(page, "seed")) == 2 * (settings - 1) + 1


def test_a_row_is_chosen_from_the_keyboard(page):
    page.locator("#table .pick").nth(2).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#table tr[aria-current=true]")).to_have_count(1)
    expect(page.locator("#detail dl")).to_be_visible()
    assert page.evaluate("document.activeElement.className") == "pick"


def test_ruined_points_are_off_the_plot_until_asked_for(page):
    expect(page.get_by_text("1 far from the baseline")).to_have_count(2)
    page.get_by_label("Range").select_option("all")
    expect(page.get_by_text("far from the baseline")).to_have_count(0)


def test_failures_are_listed_and_hostile_text_is_only_text(page):
    listed = page.locator("#failed li")
    expect(listed).to_have_count(1)
    expect(listed).to_contain_text("LeafError: </script><script>alert(1)</script><img")
    expect(page.locator("#table")).to_contain_text("<img src=x")
    assert page.locator("img").count() == 0


def test_marks_are_in_table_and_plot(page):
    marks = column(page, "marks")
    assert any("front" in mark for mark in marks) and any("chosen" in mark for mark in marks)
    assert page.locator(".chart .annotation-text").first.text_content().startswith("baseline")


def test_page_and_terminal_round_alike_and_networks_are_apart(browser, tmp_path, row, store, capsys):
    def settings(hidden: int) -> dict:
        return {"stages": [{"k": 4}], "model": {"kind": "mlp", "hidden": [hidden]}}

    rows = [row(seed=seed, file_bytes=4_000 + seed, settings=settings(4)) for seed in (0, 1)]
    show(write_report([store(tmp_path, [*rows, row(settings=settings(8))])]))
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    expect(page.locator(".card h3")).to_have_text(["digits · small hidden=[4]", "digits · small hidden=[8]"])
    assert sorted(column(page, "model")) == ["small hidden=[4]", "small hidden=[8]"]
    assert sorted(column(page, "bytes")) == ["4,000", "4,001"]
    assert "4,001" in capsys.readouterr().out
    page.close()


def test_dark_and_narrow(browser, address):
    page = browser.new_page(viewport={"width": 380, "height": 800}, color_scheme="dark")
    page.goto(address)
    expect(page.locator(".chart .point").first).to_be_attached()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 28)"
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    page.close()


@pytest.mark.slow
def test_two_thousand_points(browser, tmp_path, row, store):
    rows = [row(f"m{k % 9}", k, file_bytes=1_000 + k, metric=0.9 + 1e-5 * k) for k in range(2_000)]
    write_report([store(tmp_path, rows)])
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    expect(page.locator("#table tbody tr")).to_have_count(2_000, timeout=20_000)
    spent = page.evaluate("() => { const t = performance.now(); draw(); return performance.now() - t; }")
    assert spent < 5_000
    page.close()
