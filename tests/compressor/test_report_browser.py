"""The report in a real browser: it draws, it sorts, it fits, it is legible, it asks the network for nothing."""

from __future__ import annotations

import json

import pytest

from compressor.report import write_report
from tests.compressor.browser import Browser
from tests.compressor.report_fixture import write_run
from tests.tools import need

DRAWN = "document.documentElement.dataset.plots"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    need("chromium")
    browser = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report([write_run(folder)], folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def page(browser, report):
    browser.size(1280)
    browser.scheme("light")
    browser.open(report, DRAWN)
    return browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width_px", [360, 1280])
def test_page_draws_fits_and_stays_offline(browser, report, width_px, scheme):
    browser.size(width_px)
    browser.scheme(scheme)
    browser.open(report, DRAWN)
    assert browser.evaluate(DRAWN) == "drawn"
    assert browser.complaints() == []
    assert browser.requests() == [report.as_uri()]
    assert browser.evaluate("window.pwned") is None
    assert browser.evaluate("document.documentElement.scrollWidth") <= width_px
    for details in ("true", "false"):  # opened as well as closed
        browser.evaluate(f"document.querySelectorAll('details').forEach((d) => {{ d.open = {details}; }})")
        assert browser.evaluate("document.documentElement.scrollWidth") <= width_px


def test_every_plot_is_drawn_or_says_why_not(page):
    places = page.evaluate("""[...document.querySelectorAll(".plot")].map((place) => {
      const standIn = place.querySelector(".stand-in");
      return [place.id, place.querySelectorAll("svg.main-svg").length, standIn.hidden ? "" : standIn.textContent];
    })""")
    assert len(places) >= 6
    empty = {place: text for place, drawings, text in places if not drawings}
    assert list(empty.values()) == ["This cost was not measured for x86-laptop."]
    points = page.evaluate("document.querySelectorAll('#tradeoff-0 .scatterlayer .point').length")
    assert points == 6  # two runtimes, three precisions
    assert page.evaluate("document.querySelectorAll('#latency-0 .scatterlayer path.js-line').length") == 6


def test_plots_fill_their_place_in_a_small_window(browser, report):
    browser.size(360)
    browser.open(report, DRAWN)
    widths = browser.evaluate("""[...document.querySelectorAll(".plot")].filter((p) => p.querySelector("svg")).map(
      (p) => [p.clientWidth, p.querySelector("svg.main-svg").getBoundingClientRect().width])""")
    assert widths and all(outer - 2 <= inner <= outer + 1 and outer > 280 for outer, inner in widths)
    browser.size(800)
    browser.wait("document.querySelector('#latency-0 svg.main-svg').getBoundingClientRect().width > 600")


def test_choice_of_cost_changes_both_plots(page):
    title = "document.querySelector('#tradeoff-0 .xtitle').textContent"
    assert "latency" in page.evaluate(title)
    page.evaluate("document.querySelector('input[name=cost-axis]:checked').focus()")
    page.press("ArrowRight")
    page.wait(f"{title}.includes('file size')")
    page.wait("document.querySelectorAll('#tradeoff-1 svg.main-svg').length > 0")
    page.press("ArrowRight")
    page.wait(f"{title}.includes('multiply-accumulates')")
    assert page.evaluate("document.querySelectorAll('#tradeoff-0 .scatterlayer .point').length") == 7  # and the teacher
    assert page.complaints() == []


def column(browser, index):
    """The values of one column of the table of all artifacts, by device; null where nothing was measured."""
    text = browser.evaluate(f"""JSON.stringify([...document.getElementById("artifacts").tBodies].map((body) =>
      [...body.rows].filter((row) => !row.classList.contains("group")).map((row) => {{
        const value = row.cells[{index}].dataset.value;
        return value === undefined ? row.cells[{index}].textContent.trim() : value === "" ? null : Number(value);
      }})))""")
    return json.loads(text)


def test_tables_sort_within_each_device_and_keep_what_was_not_measured_last(page):
    heading = "document.getElementById('artifacts').tHead.rows[0].cells[2]"  # size
    before = column(page, 2)
    assert all(None in values for values in before[1:]) and len(before) == 2
    assert page.evaluate(f"{heading}.getAttribute('aria-sort')") is None
    for order, reverse in (("descending", True), ("ascending", False)):
        page.evaluate(f"{heading}.querySelector('button').click()")
        assert page.evaluate(f"{heading}.getAttribute('aria-sort')") == order
        for now, was in zip(column(page, 2), before, strict=True):
            numbers = sorted((value for value in was if value is not None), reverse=reverse)
            assert now == numbers + [None] * was.count(None)
    assert page.evaluate("[...document.querySelectorAll('tr.group')].every((r) => r.sectionRowIndex === 0)")


def test_tables_sort_with_the_keyboard(page):
    page.evaluate("document.getElementById('artifacts').tHead.rows[0].cells[0].querySelector('button').focus()")
    page.press("Enter")
    assert column(page, 0)[0] == sorted(column(page, 0)[0])
    page.press("Enter")
    assert column(page, 0)[0] == sorted(column(page, 0)[0], reverse=True)


def test_layers_sort_by_their_macs(page):
    page.evaluate("document.querySelector('#layers table.sortable th.n button').click()")
    values = page.evaluate(
        "[...document.querySelector('#layers table.sortable tbody').rows].map((r) => Number(r.cells[3].dataset.value))"
    )
    assert values == sorted(values, reverse=True) and len(values) == 15


def test_page_reads_without_javascript(browser, report):
    browser.size(1280)
    browser.scripting(False)
    try:
        browser.open(report)
    finally:
        browser.scripting(True)
    # Evaluation works again, but the page's own scripts never ran.
    assert browser.evaluate(DRAWN) is None and browser.evaluate("document.querySelectorAll('th button').length") == 0
    text = browser.evaluate("document.body.innerText")
    for part in ("1/153", "rejected", "All artifacts", "The plot needs JavaScript", "p99", "Credits"):
        assert part in text
    assert browser.evaluate("getComputedStyle(document.querySelector('fieldset.choice')).display") == "none"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(browser, report, scheme):
    browser.size(1280)
    browser.scheme(scheme)
    browser.open(report, DRAWN)
    colours = browser.evaluate("""(() => {
      const style = getComputedStyle(document.documentElement);
      const names = ["paper", "raised", "ink", "muted", "accent", "accent-soft", "good", "warn", "bad",
        "series-1", "series-2", "series-3", "series-4", "series-5", "series-6"];
      return Object.fromEntries(names.map((name) => [name, style.getPropertyValue("--" + name).trim()]));
    })()""")
    for name in ("ink", "muted", "accent", "good", "warn", "bad"):
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
    assert contrast(colours["muted"], colours["raised"]) >= 4.5
    assert contrast(colours["good"], colours["accent-soft"]) >= 4.5
    assert contrast(colours["ink"], colours["accent-soft"]) >= 4.5
    for name in (n for n in colours if n.startswith("series")):
        assert contrast(colours[name], colours["paper"]) >= 3, name  # graphics
    drawn = browser.evaluate("document.querySelector('#latency-0 .js-line').style.stroke")
    assert drawn == f"rgb({', '.join(str(part) for part in rgb(colours['series-1']))})"


def rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def contrast(a: str, b: str) -> float:
    """WCAG 2.2, "contrast ratio" and "relative luminance"."""

    def luminance(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (p / 255 for p in rgb(colour))]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_change_of_scheme_redraws_the_plots(page):
    stroke = "document.querySelector('#latency-0 .js-line').style.stroke"
    light = page.evaluate(stroke)
    page.scheme("dark")
    page.wait(f"{stroke} !== {json.dumps(light)}")


def test_structure_serves_a_screen_reader(page):
    problems = page.evaluate("""(() => {
      const found = [];
      const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
      const main = document.querySelectorAll("main, nav, header.page").length;
      if (main !== 3) found.push("landmarks");
      const twice = ids.filter((id, i) => ids.indexOf(id) !== i && !id.match(/^(clip|legend|topdefs|defs)/));
      if (twice.some((id) => document.querySelector("section#" + CSS.escape(id)))) found.push("ids " + twice);
      for (const image of document.images) {
        if (!image.alt) found.push("image without a text");
        if (!image.complete || !image.naturalWidth) found.push("broken " + image.alt);
      }
      for (const plot of document.querySelectorAll(".plot")) if (!plot.getAttribute("aria-label")) found.push(plot.id);
      for (const table of document.querySelectorAll("table")) {
        const box = table.closest(".scroll");
        if (!box || box.tabIndex !== 0 || !box.getAttribute("aria-label")) found.push("table outside a scrolling box");
        for (const cell of table.tHead.rows[0].cells) if (cell.scope !== "col") found.push("heading without scope");
      }
      let level = 0;
      for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
        const now = Number(heading.tagName[1]);
        if (now > level + 1 && !(level === 2 && now === 4)) found.push("heading skips: " + heading.textContent);
        level = now;
      }
      if (document.querySelectorAll("h1").length !== 1) found.push("h1");
      return found;
    })()""")
    assert problems == []


def test_it_prints_in_the_colours_of_paper_and_comes_back(browser, report):
    browser.size(1280)
    browser.scheme("dark")
    browser.open(report, DRAWN)
    stroke = browser.evaluate("document.querySelector('#latency-0 .js-line').style.stroke")
    browser.evaluate("""addEventListener("beforeprint", () => {
      window.printed = document.querySelector("#latency-0 .js-line").style.stroke;
    })""")
    assert browser.pdf().startswith(b"%PDF")
    assert browser.evaluate("window.printed") not in (None, stroke)
    browser.wait(f"document.querySelector('#latency-0 .js-line').style.stroke === {json.dumps(stroke)}")


def test_sections_are_absent_when_there_are_no_details(browser, tmp_path):
    write_report([write_run(tmp_path, with_details=False)], tmp_path / "report.html")
    browser.size(360)
    browser.open(tmp_path / "report.html", DRAWN)
    ids = browser.evaluate("[...document.querySelectorAll('section')].map((s) => s.id)")
    assert not {"layers", "queries", "training"} & set(ids)
    links = browser.evaluate("[...document.querySelectorAll('nav a')].map((a) => a.getAttribute('href').slice(1))")
    assert links == ids
    assert browser.complaints() == [] and browser.evaluate("document.documentElement.scrollWidth") <= 360
