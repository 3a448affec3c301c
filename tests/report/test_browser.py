"""The report in a real browser without a network: its first screen, cases opened and looked through, dark and print."""

import base64
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser, started_browser

from nnunetv2_cfnet.report import case_sheets, statistics, write
from nnunetv2_cfnet.report.figures import MAX_BYTES, Picture
from nnunetv2_cfnet.report.subsets import write_subsets_report
from nnunetv2_cfnet.report.write import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH")

CASE_IS_SHOWN = "document.querySelector('#viewer[open] #panels canvas') && document.querySelector('#place').value"
PICTURE = "document.querySelector('#panels canvas').toDataURL()"
TITLE = "document.querySelector('#viewer-title').textContent"
PLACE = "document.querySelector('#place').value"
SORTING_MS = """(() => {
    const start = performance.now();
    document.querySelector("#case-table tr:last-child th:nth-child(3) button").click();
    document.body.getBoundingClientRect(); // which lays it out
    return performance.now() - start;
})()"""
COLUMN = "[...document.querySelectorAll('#case-table tbody tr')].map(row => row.cells[{}].textContent)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with started_browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def page(browser, report) -> Iterator[Browser]:
    """The report of three models, opened; nothing is complained about, and nothing else is asked for."""
    file = report / "report.html"
    browser.open(file)
    yield browser
    assert browser.complaints == []
    assert browser.requests == [file.as_uri()]


def numbers(texts: list[str]) -> list[float]:
    return [float(text.replace("−", "-")) for text in texts]


@pytest.mark.parametrize("width", [1280, 500])
def test_every_picture_is_drawn_and_only_tables_scroll_sideways(page, report, width):
    page.open(report / "report.html", width=width)
    assert page.run("[...document.images].map(image => image.complete && image.naturalWidth > 0)") == [True] * 5
    assert page.run("document.documentElement.scrollWidth <= innerWidth")


def test_the_first_screen_answers_by_a_picture(page):
    """Headline, plot of the differences and overview, at 1280 x 800."""
    bottoms = page.run(
        "['.headline', '.forest', '#first table', '.look'].map(part => "
        "document.querySelector(part).getBoundingClientRect().bottom)"
    )
    assert 0 < bottoms[0] < bottoms[1] < bottoms[2] < bottoms[3] <= 800
    assert page.run(
        "[...document.querySelectorAll('#first .scroll')].every(part => part.scrollWidth <= part.clientWidth)"
    )
    marks = page.run("document.querySelectorAll('.forest g').length")
    assert marks == 2 * 2 * 3  # other models, metrics, regions
    shown = page.run(
        "[...document.querySelectorAll('.forest text')].every(text => {const box = text.getBoundingClientRect();"
        "return box.left >= 0 && box.right <= innerWidth})"
    )
    assert shown


@pytest.mark.usefixtures("quick_drawing")
@pytest.mark.parametrize(("num_models", "num_regions"), [(5, 3), (2, 14)])
def test_the_first_screen_holds_more_models_or_regions(
    browser, make_comparison, tmp_path, monkeypatch, num_models, num_regions
):
    monkeypatch.setattr(write, "make_sheets", lambda *_: ({}, []))
    monkeypatch.setattr(write, "case_pictures", lambda _: [])
    regions = {f"organ_{number}": (number,) for number in range(num_regions)}
    names = ("CFNet", "U-Net", "U-Net ResEncUNetM", "U-Net ResEncUNetL", "U-Net 250epochs")
    write_report(make_comparison(num_models=num_models, regions=regions, names=names, images=False), tmp_path)
    browser.open(tmp_path / "report.html")
    assert browser.run("document.querySelector('#first').getBoundingClientRect().bottom") <= 800
    assert browser.run(
        "[...document.querySelectorAll('#first .scroll')].every(part => part.scrollWidth <= part.clientWidth)"
    )


@pytest.mark.usefixtures("quick_drawing")
def test_the_first_screen_of_subsets_tells_means_and_regions_apart(browser, make_subsets, tmp_path, monkeypatch):
    """BraTS's four means and four regions."""
    monkeypatch.setattr(statistics, "bootstrap_interval", lambda *_: (0.01, 0.02))
    regions = ["whole_tumor", "tumor_core", "enhancing_tumor", "enhancing_tumor (none below 500 voxels)"]
    write_subsets_report(make_subsets(2, regions), {"model_0": "CFNet", "model_1": "U-Net"}, tmp_path, tmp_path)
    browser.open(tmp_path / "report.html")
    assert browser.run("document.querySelector('#first').getBoundingClientRect().bottom") <= 800
    labels = browser.run("[...document.querySelectorAll('.forest .label')].map(label => label.lastChild.textContent)")
    assert labels == regions * 4
    panel = "document.querySelector('.forest .grid').getBoundingClientRect().left"
    rights = "[...document.querySelectorAll('.forest .label')].map(label => label.getBoundingClientRect().right)"
    assert browser.run(f"Math.max(...{rights}) < {panel}")


def test_a_heading_sorts_and_sorts_back(page):
    page.click("#case-table thead tr:last-child th:nth-child(2) button")
    ascending = numbers(page.run(COLUMN.format(1)))
    assert ascending == sorted(ascending)
    assert len(set(ascending)) > 10
    page.click("#case-table thead tr:last-child th:nth-child(2) button")
    assert numbers(page.run(COLUMN.format(1))) == ascending[::-1]
    page.click("#case-table thead tr:last-child th:nth-child(1) button")
    cases = [re.match(r"case_\d+", text)[0] for text in page.run(COLUMN.format(0))]
    assert cases == [f"case_{number:03d}" for number in range(14)]
    sorted_by = page.run("[...document.querySelectorAll('[aria-sort]')].map(heading => heading.textContent)")
    assert sorted_by == ["case"]


@pytest.mark.parametrize("clicks", [1, 2])
def test_rows_without_a_value_come_last_whichever_way_one_sorts(page, clicks):
    page.run("document.querySelector('#case-table').tBodies[0].rows[3].cells[1].textContent = '–'")
    for _ in range(clicks):
        page.click("#case-table thead tr:last-child th:nth-child(2) button")
    assert page.run(COLUMN.format(1)).index("–") == 13


def test_a_row_opens_its_case_at_its_worst_slice(page):
    (first, *_) = page.run(COLUMN.format(0))
    page.click("#case-table tbody tr:first-child td:nth-child(4)")
    page.wait_for(CASE_IS_SHOWN)
    assert page.run(TITLE) == first
    assert page.run("[...document.querySelectorAll('#panels figcaption')].map(name => name.textContent)") == [
        *("T1", "T1ce", "T2", "FLAIR")
    ]
    sheets = 'JSON.parse(document.querySelector(`script[data-sheets="0"]`).textContent)'
    most_wrong = page.run(f"(sheets => sheets.first + sheets.start)({sheets})")
    assert page.run(PLACE) == f"slice {most_wrong} of 10"
    shown = page.run(
        "[...document.querySelectorAll('#numbers tr')].map(line => [...line.cells].map(c => c.textContent))"
    )
    assert shown[0][1:4] == ["nnUNetTrainerCFNet", "nnUNetTrainer", "nnUNetTrainer__nnUNetResEncUNetMPlans"]
    assert shown[1][1] == page.run(COLUMN.format(1))[0]
    assert page.run("(aside => aside.scrollWidth <= aside.clientWidth)(document.querySelector('aside'))")
    page.press("Escape")
    assert not page.run("document.querySelector('#viewer').open")


def test_the_worst_case_is_one_click_away(page):
    page.click('.look button[data-mark^="worst"]')
    page.wait_for(CASE_IS_SHOWN)
    assert "worst" in page.run(TITLE)


def test_slider_and_keys_step_through_slices(page):
    page.click("#case-table tr.pictured th button")
    page.wait_for(CASE_IS_SHOWN)
    last = int(page.run("document.querySelector('#slice').max"))
    page.press("Home")
    places, pictures = [page.run(PLACE)], [page.run(PICTURE)]
    for _ in range(last):
        page.press("ArrowRight")
        places.append(page.run(PLACE))
        pictures.append(page.run(PICTURE))
    steps = [int(re.match(r"slice (\d+) of 10", place)[1]) for place in places]
    assert steps == list(range(steps[0], steps[0] + last + 1))
    assert len(set(pictures)) == last + 1
    page.press("ArrowRight")
    assert page.run(PLACE) == places[-1]
    page.press("ArrowLeft")
    assert (page.run(PLACE), page.run(PICTURE)) == (places[-2], pictures[-2])
    page.click("#slice")  # in its middle
    assert page.run(PLACE) == places[(last + 1) // 2]
    page.press("w")
    assert page.run(PLACE) not in (places[0], places[-1])


def test_every_outline_and_region_is_switched_by_itself(page):
    page.click("#case-table tr.pictured th button")
    page.wait_for(CASE_IS_SHOWN)
    whole = page.run(PICTURE)
    for key in "0123":
        page.press(key)
        assert page.run(PICTURE) != whole, key
        page.press(key)
        assert page.run(PICTURE) == whole, key
    for key in "0123":
        page.press(key)
    without = page.run(PICTURE)
    page.press("0")
    reference = page.run(PICTURE)
    for number in (1, 2, 3):
        page.click(f"#regions label:nth-of-type({number}) input")
    assert reference != without == page.run(PICTURE)


def test_keys_go_from_case_to_case_and_one_without_slices_says_so(page):
    page.click("#case-table tr.pictured th button")
    page.wait_for(CASE_IS_SHOWN)
    rows = page.run("[...document.querySelectorAll('#case-table tbody tr')].map(row => row.className)")
    assert rows.count("pictured") == 7  # of 14: best, median, worst and 5 that differ, one of which is the worst
    for _ in range(rows.index("")):
        page.press("n")
    titles = page.run(COLUMN.format(0))
    assert page.run(TITLE) == titles[rows.index("")]
    assert page.run("getComputedStyle(document.querySelector('#panels')).display") == "none"
    assert "--all-cases" in page.run("document.querySelector('#no-pictures').innerText")
    page.press("p")
    assert page.run(TITLE) == titles[rows.index("") - 1]
    page.wait_for(CASE_IS_SHOWN)


def test_until_a_case_is_decoded_none_is_shown_and_one_that_can_not_be_says_so(page):
    page.click('.look button[data-mark^="worst"]')
    page.wait_for(CASE_IS_SHOWN)
    worst = page.run(TITLE)
    page.run("{HTMLImageElement.prototype.decode = () => new Promise(() => {})}")
    page.press("n")
    assert page.run(TITLE) != worst
    assert page.run("document.querySelector('#panels').childNodes.length") == 0
    assert page.run(PLACE) == ""
    page.click("#worst-slice")
    page.press("ArrowRight")  # which find nothing to step through
    page.run("{HTMLImageElement.prototype.decode = () => Promise.reject(Error())}")
    page.press("p")
    page.wait_for("document.querySelector('#panels').textContent")
    assert (
        page.run("document.querySelector('#panels').innerText") == "The browser can't decode the slices of this case."
    )


def test_it_is_dark_where_the_reader_s_screen_is(page, report):
    grounds = {}
    for scheme in ("light", "dark"):
        page.open(report / "report.html", scheme=scheme)
        grounds[scheme] = page.run(
            "['body', '#viewer'].map(part => getComputedStyle(document.querySelector(part)).backgroundColor).concat("
            "getComputedStyle(document.querySelector('.forest text')).fill)"
        )
    assert grounds["light"] == ["rgb(255, 255, 255)", "rgb(255, 255, 255)", "rgb(28, 30, 33)"]
    assert grounds["dark"] == ["rgb(22, 24, 27)", "rgb(22, 24, 27)", "rgb(230, 232, 234)"]


def test_folded_tables_are_open_in_print_and_folded_again(page):
    is_open = "[...document.querySelectorAll('details')].map(fold => fold.open)"
    assert page.run(is_open) == [False] * 7
    page.run(f"addEventListener('beforeprint', () => {{window.printed = {is_open}}}) ?? null")
    printed = base64.b64decode(page.call("Page.printToPDF")["data"])
    assert page.run("window.printed") == [True] * 7
    assert page.run(is_open) == [False] * 7
    assert printed.startswith(b"%PDF")
    page.media("print", "dark")  # paper is white
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.run("getComputedStyle(document.querySelector('.cases')).maxHeight") == "none"
    assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_a_link_unfolds_what_it_leads_to(page):
    page.click('nav a[href="#ranks"]')
    page.wait_for("document.querySelector('#ranks details').open")


def test_a_page_that_is_opened_at_a_folded_table_shows_it(browser, report, tmp_path):
    (tmp_path / "other.html").touch()
    browser.open(tmp_path / "other.html")  # so that the page is loaded again
    browser.open(report / "report.html", part="#ranks")
    assert browser.run("document.querySelector('#ranks details').open")


@pytest.mark.usefixtures("quick_drawing")
def test_a_2d_case_has_no_slider(browser, make_comparison, tmp_path):
    comparison = make_comparison(num_cases=3, shape=(30, 24), suffix=".png", regions={"tumour": (1,)}, tests=())
    write_report(comparison, tmp_path)
    browser.open(tmp_path / "report.html")
    browser.click("#case-table tr.pictured th button")
    browser.wait_for("document.querySelector('#panels canvas')")
    for of_slices in ("#slice", "#errors", "#worst-slice", ".of-slices"):
        assert browser.run(f"document.querySelector('{of_slices}').checkVisibility()") is False
    assert browser.run(PLACE) == ""
    assert browser.complaints == []


@pytest.mark.usefixtures("quick_drawing")
def test_a_case_that_is_shown_coarsely_says_so(browser, make_comparison, tmp_path, monkeypatch):
    monkeypatch.setattr(case_sheets, "SETTINGS", ((3, 45),))
    write_report(make_comparison(num_cases=1, tests=()), tmp_path)
    browser.open(tmp_path / "report.html")
    browser.click("#case-table tr.pictured th button")
    browser.wait_for(CASE_IS_SHOWN)
    assert re.fullmatch(r"slice \d+ of 10, every 3rd voxel", browser.run(PLACE))


@pytest.mark.usefixtures("quick_drawing")
def test_hostile_names_and_labels_are_text(browser, make_comparison, tmp_path):
    attack = "<img src=x onerror=document.title=1>"
    names = (f"{attack}A</script><script>document.title=2</script>", "{{ 7 * 7 }}\"'\x1b[31m")
    regions = {f"</script>{attack}": (1, 2, 3), "</style></dialog>": (3,)}
    comparison = make_comparison(num_cases=1, names=names, regions=regions, title=f"</title>{attack}")
    case = f"{attack}</td>"
    models = [
        replace(
            model,
            rows=model.rows.replace({"case": {"case_000": case}}),
            predictions={case: model.predictions["case_000"]},
        )
        for model in comparison.models
    ]
    comparison = replace(
        comparison,
        models=models,
        references={case: comparison.references["case_000"]},
        images={case: {f"{attack}T1": comparison.images["case_000"]["T1"]}},
        notes=[attack],
        provenance={attack: attack},
    )
    write_report(comparison, tmp_path)
    browser.open(tmp_path / "report.html")
    browser.click("#case-table tr.pictured th button")
    browser.wait_for(CASE_IS_SHOWN)
    assert browser.run("document.title") == f"</title>{attack}"
    assert case in browser.run(TITLE)
    assert browser.run("document.querySelector('#panels figcaption').textContent") == f"{attack}T1"
    labels = browser.run("[...document.querySelectorAll('#regions label')].map(label => label.textContent.trim())")
    assert labels == list(regions)
    assert names[0] in browser.run("document.querySelector('.headline').textContent")
    assert "{{ 7 * 7 }}\"'\\x1b[31m" in browser.run("document.querySelector('.headline').textContent")
    assert browser.run("document.querySelectorAll('img[src=x]').length") == 0
    assert browser.complaints == []
    assert browser.requests == [(tmp_path / "report.html").as_uri()]


def test_1251_cases_are_ready_within_two_seconds_in_less_than_25_mb(browser, make_comparison, tmp_path, monkeypatch):
    """With pictures that are as large as they may become."""
    generator = np.random.default_rng(0)

    def sheets(comparison, cases):
        content = base64.b64encode(generator.bytes(case_sheets.MAX_BYTES)).decode()
        return {case: {"images": [{"name": "T1", "sheet": content}]} for case in cases}, []

    plot = Picture("plot", "A plot", "A plot", generator.bytes(MAX_BYTES))
    monkeypatch.setattr(write, "make_sheets", sheets)
    monkeypatch.setattr(write, "case_pictures", lambda _: [])
    for name in ("box_plots", "difference_plots", "training_curves"):
        monkeypatch.setattr(write, name, lambda _: [plot] * 2)
    write_report(make_comparison(num_cases=1251, num_models=2, images=False), tmp_path)
    page = tmp_path / "report.html"
    assert page.stat().st_size < 25_000_000
    ready_ms, sorted_ms = [], []
    for _ in range(3):  # other work on the machine may slow down some of them
        browser.open(page)
        ready_ms.append(browser.run("performance.getEntriesByName('ready')[0].startTime"))
        sorted_ms.append(browser.run(SORTING_MS))
    assert browser.run("document.querySelectorAll('#case-table tbody tr').length") == 1251
    assert min(ready_ms) < 2000
    assert min(sorted_ms) < 2000
    assert browser.complaints == []


def test_the_browser_reports_what_these_tests_look_for(browser, tmp_path):
    """Errors in the console, requests that leave a page."""
    bad: Path = tmp_path / "bad.html"
    bad.write_text("<img src='http://example.org/a.png'><script>console.log('a'); fail()</script>")
    browser.open(bad)
    assert browser.requests == [bad.as_uri(), "http://example.org/a.png"]
    assert {word for line in browser.complaints for word in ("fail is not defined", '"a"') if word in line}
    assert len(browser.complaints) >= 2
