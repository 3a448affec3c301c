"""write_report: what is in compare.json, compare.md and report.html, and what an earlier report becomes."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas
import pytest

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.evaluation.metrics import METRICS
from nnunetv2_cfnet.report import write
from nnunetv2_cfnet.report.comparison import Comparison, Cost, PairedTest
from nnunetv2_cfnet.report.figures import Picture
from nnunetv2_cfnet.report.presentation import Presentation
from nnunetv2_cfnet.report.tables import (
    cost_table,
    description,
    headline,
    number,
    overview_table,
    p_text,
    replicate_table,
    signed,
    verdict_line,
)
from nnunetv2_cfnet.report.write import write_report

TEST = PairedTest(
    other="nnUNetTrainer",
    region="enhancing_tumor",
    metric="dice",
    num_cases=73,
    difference=0.021,
    interval=(0.004, 0.04),
    p_value=0.012,
    p_holm=0.31,
    wins=40,
    ties=3,
    losses=30,
    verdict="better",
)


class Page(HTMLParser):
    """Tags with their attributes, and the text, of an HTML file."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def quick_figures(monkeypatch):
    """Instead of figures, which take seconds; their names are what counts."""

    def picture(name):
        return Picture(name, name, name, b"made up")

    monkeypatch.setattr(write, "box_plots", lambda comparison: [picture("dice_boxes")])
    monkeypatch.setattr(write, "difference_plots", lambda comparison: [])
    monkeypatch.setattr(write, "case_pictures", lambda comparison: [])
    monkeypatch.setattr(write, "make_sheets", lambda comparison, cases: ({}, []))
    monkeypatch.setattr(
        write, "training_curves", lambda comparison: [picture("curves")] if comparison.models[0].curves else []
    )


def test_the_report_is_four_things(report):
    assert {path.name for path in report.iterdir()} == {"compare.json", "compare.md", "report.html", "figures"}
    assert {path.name for path in report.parent.iterdir()} == {"out"}


def test_the_page_needs_nothing_else(report):
    html = (report / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert len(html.encode()) < 5_000_000
    assert all(source.startswith("data:image/png;base64,") for source in page.attributes("src"))
    assert all(link.startswith("#") for link in page.attributes("href"))
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "url(" not in html
    assert "@import" not in html


def test_the_contents_lead_to_every_section(report):
    page = Page((report / "report.html").read_text(encoding="utf-8"))
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert page.attributes("href") == [f"#{section}" for section in sections]
    assert sections == [
        *("cases", "verdict", "boxes", "differences", "curves", "tests"),
        *("means", "ranks", "cost", "replicates", "how", "provenance"),
    ]
    assert [tag for tag, _ in page.tags].count("details") == 7  # from the tests on


def test_every_picture_says_what_it_shows(report, comparison):
    page = Page((report / "report.html").read_text(encoding="utf-8"))
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    dice_boxes, _, dice_differences, _, curves = alts
    assert all(len(alt) > 50 for alt in alts)
    assert "nnUNetTrainerCFNet ends at a mean pseudo Dice of" in curves
    dice = comparison.models[0].rows.query("region == 'whole_tumor'")["dice"].median()
    assert f"nnUNetTrainerCFNet: whole_tumor {dice:.3g}, tumor_core" in dice_boxes
    test = comparison.tests[0]
    counts = f"nnUNetTrainer, whole_tumor: {test.wins} wins, {test.ties} ties, {test.losses} losses"
    assert counts in dice_differences
    (forest,) = (attributes["aria-label"] for _, attributes in page.tags if attributes.get("class") == "forest")
    assert f"whole_tumor, Dice, nnUNetTrainer: {signed(test.difference, 'dice')} (" in forest
    assert "FLAIR and T1ce with the reference's regions filled" in (report / "compare.md").read_text(encoding="utf-8")


def test_markdown_has_the_page_s_order_and_links_every_figure(report, comparison):
    markdown = (report / "compare.md").read_text(encoding="utf-8")
    assert markdown.splitlines()[2].startswith("nnUNetTrainerCFNet against nnUNetTrainer: Dice ")
    assert re.findall("^## (.+)", markdown, flags=re.MULTILINE) == [
        *("Cases", "Verdict", "Spread over cases", "Paired differences", "Training curves", "All paired tests"),
        *("All metrics: means and medians", "Ranks", "Cost", "Replicates", "How it was computed", "Provenance"),
    ]
    lines = markdown.partition("## Verdict\n\n")[2].splitlines()
    num_verdicts = 2 * 2 * 3  # other models, metrics, regions
    assert all(line.startswith("- ") for line in lines[:num_verdicts])
    assert "- whole_tumor, Dice: nnUNetTrainerCFNet " in lines[0]
    linked = re.findall(r"!\[.+\]\((figures/\w+\.png)\)", markdown)
    assert sorted(linked) == sorted(f"figures/{path.name}" for path in (report / "figures").iterdir())


def test_markdown_tables_have_as_many_cells_in_every_row(report):
    tables = re.findall(r"(?:^\|.*\n)+", (report / "compare.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(tables) == 1 + 2 + 3 + 4  # the overview, others, regions, and ranks, cost, replicates, provenance
    for table in tables:
        rows = table.splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
        assert set(rows[1]) == set("|-: ") or set(rows[1]) == set("|- ")


def test_json_is_strict_and_holds_everything(report, comparison):
    def refuse(constant):
        pytest.fail(f"{constant} is no JSON")

    content = json.loads((report / "compare.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert content["regions"] == {"whole_tumor": [1, 2, 3], "tumor_core": [2, 3], "enhancing_tumor": [3]}
    assert [model["name"] for model in content["models"]] == [model.name for model in comparison.models]
    first = content["models"][0]
    rows = pandas.concat(comparison.models[0].replicate_rows)
    assert first["summary"]["tumor_core"]["metrics"]["dice"]["brats"]["mean"] == pytest.approx(
        rows[rows["region"] == "tumor_core"]["dice"].mean()
    )
    # one of 14 is NaN, in each of two replicates
    assert first["summary"]["enhancing_tumor"]["metrics"]["dice"]["nnunet"]["num_cases"] == 26
    assert first["cases"]["case_002"]["enhancing_tumor"]["dice_nnunet"] is None
    assert set(first["cases"]["case_000"]["tumor_core"]) == set(METRICS)
    assert first["cost"]["parameters"] == 31_195_594
    assert len(first["curves"][0]["pseudo_dice"]) == 50
    assert len(content["tests"]) == len(comparison.tests)
    assert content["tests"][0]["interval"] == list(comparison.tests[0].interval)
    assert content["ranks"] == comparison.ranks
    assert content["notes"] == list(comparison.notes)
    assert content["provenance"] == comparison.provenance
    assert content["figures"] == [
        *("case_best", "case_median", "case_worst"),
        *("dice_boxes", "hd95_boxes", "dice_differences", "hd95_differences", "training_curves"),
    ]


@pytest.mark.usefixtures("quick_drawing")
def test_names_are_escaped(make_comparison, tmp_path):
    comparison = make_comparison(num_cases=1, names=('<b>&"', "a|b*`[c]"), regions={"<i>": (1,), "x|y": (2,)})
    write_report(comparison, tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not {"b", "i"} & {tag for tag, _ in page.tags}
    assert "<b>" not in html
    assert "<i>" not in html
    assert "&lt;b&gt;&amp;&#34;" in html
    assert '<b>&" against a|b*`[c]' in page.text
    assert any('<b>&"' in alt for alt in page.attributes("alt"))
    markdown = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert "<b>" not in markdown
    assert r"&lt;b&gt;&amp;\" against a\|b\*\`\[c\]".replace('\\"', '"') in markdown
    assert r"| x\|y | Dice | 1 |" in markdown


@pytest.mark.usefixtures("quick_figures")
def test_what_is_no_text_in_names_is_shown_escaped(make_comparison, tmp_path):
    comparison = make_comparison(num_cases=1, names=("a\x1b[31m", "b\udce4"), regions={"x\ry\nz": (1,)})
    write_report(comparison, tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_bytes().decode("utf-8")
    markdown = (tmp_path / "out" / "compare.md").read_bytes().decode("utf-8")
    assert all(line.isprintable() for text in (html, markdown) for line in text.split("\n"))
    assert r"a\x1b[31m against b\udce4" in html
    assert r"a\\x1b\[31m against b\\udce4" in markdown
    assert r"| x\\ry z | Dice | 1 |" in markdown
    assert list(json.loads((tmp_path / "out" / "compare.json").read_bytes())["regions"]) == ["x\ry\nz"]


@pytest.mark.usefixtures("quick_figures")
@pytest.mark.parametrize(
    ("fails", "error"),
    [
        ("nnunetv2_cfnet.report.write.to_html", RuntimeError("a bug")),
        ("pathlib.Path.write_bytes", OSError(28, "No space left on device")),
    ],
    ids=["a bug", "a full disk"],
)
def test_a_failure_leaves_the_earlier_report(comparison, tmp_path, monkeypatch, fails, error):
    def fail(*_):
        raise error

    out = tmp_path / "out"
    write_report(comparison, out)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(fails, fail)
        with pytest.raises(type(error), match=error.args[-1]):
            write_report(replace(comparison, title="another title"), out)
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("quick_figures")
def test_a_new_report_removes_figures_that_only_the_earlier_one_had(comparison, tmp_path):
    write_report(comparison, tmp_path)
    assert (tmp_path / "figures" / "curves.png").exists()
    (tmp_path / "figures" / "mine.png").write_bytes(b"not ours")
    (tmp_path / "notes.txt").write_text("not ours")
    models = [replace(model, curves=()) for model in comparison.models]
    write_report(replace(comparison, models=models, title="without curves"), tmp_path)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"mine.png", "dice_boxes.png"}
    assert (tmp_path / "notes.txt").exists()
    assert "# without curves" in (tmp_path / "compare.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("quick_figures")
def test_a_listed_figure_outside_the_folder_is_not_removed(comparison, tmp_path):
    out = tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    (tmp_path / "precious.png").write_bytes(b"not ours")
    (out / "compare.json").write_text('{"figures": ["../../precious"]}')
    write_report(comparison, out)
    assert (tmp_path / "precious.png").exists()


@pytest.mark.parametrize(
    ("place", "make", "message"),
    [
        ("", Path.touch, " is a file, and a folder is to be written there"),
        ("figures", Path.touch, "figures is a file, and a folder is to be written there"),
        ("compare.md", Path.mkdir, r"compare\.md is a folder, and a file is to be written there"),
    ],
)
def test_another_thing_in_the_place_of_a_file_or_folder_is_refused(comparison, tmp_path, place, make, message):
    taken = tmp_path / "out" / place
    taken.parent.mkdir(exist_ok=True)
    make(taken)
    before = list(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        write_report(comparison, tmp_path / "out")
    assert list(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("num_cases", "sentence"),
    [
        (9, "With fewer than 10 cases there is no interval, and no difference can be shown."),
        (10, "With 10 cases, fewer than 20, the intervals are rough, and too narrow."),
        (19, "With 19 cases, fewer than 20, the intervals are rough, and too narrow."),
        (20, None),
    ],
)
@pytest.mark.usefixtures("quick_figures")
def test_the_verdict_says_how_far_few_cases_carry(comparison, num_cases, sentence):
    page = write.make_page(replace(comparison, tests=[replace(TEST, num_cases=num_cases)]), Presentation())
    (verdict,) = (section for section in page.sections if section.key == "verdict")
    assert page.caution == (sentence or "")
    assert "All values are made up." in verdict.paragraphs
    found = [paragraph for paragraph in verdict.paragraphs if paragraph.startswith("With ")]
    assert found == ([sentence] if sentence else [])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {},
            "enhancing_tumor, Dice: nnUNetTrainerCFNet is better than nnUNetTrainer (mean difference +0.021, 95 % "
            "interval 0.004 to 0.040, 73 cases; Wilcoxon p 0.012, with Holm 0.31)",
        ),
        (
            {"metric": "hd95", "difference": 1.5, "interval": (0.25, 3.0), "verdict": "worse", "p_value": 1e-7},
            "enhancing_tumor, HD95: nnUNetTrainerCFNet is worse than nnUNetTrainer (median difference +1.50 mm, 95 % "
            "interval 0.25 to 3.00 mm, 73 cases; Wilcoxon p < 0.0001, with Holm 0.31)",
        ),
        (
            {"interval": (-0.004, 0.04), "verdict": "no difference shown"},
            "enhancing_tumor, Dice: no difference shown between nnUNetTrainerCFNet and nnUNetTrainer (mean difference "
            "+0.021, 95 % interval −0.004 to 0.040, 73 cases; Wilcoxon p 0.012, with Holm 0.31)",
        ),
        (
            {"interval": None, "p_value": None, "p_holm": None, "num_cases": 1, "verdict": "no difference shown"},
            "enhancing_tumor, Dice: no difference shown between nnUNetTrainerCFNet and nnUNetTrainer (mean difference "
            "+0.021, 1 case: too few for an interval)",
        ),
    ],
    ids=["better", "worse", "no difference", "one case"],
)
def test_verdict_lines(changes, line):
    assert verdict_line("nnUNetTrainerCFNet", replace(TEST, **changes)) == line


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (0.8765, "dice", "0.876"),
        (1.0, "dice", "1.000"),
        (0.99987, "specificity", "0.9999"),
        (0.0002, "dice", "0.0002"),
        (-0.0002, "dice", "−0.0002"),
        (-1e-12, "dice", "0.000000"),
        (0.0, "dice", "0.000"),
        (373.128, "hd95", "373.13"),
        (float("nan"), "dice", "–"),
        (None, "dice", "–"),
    ],
)
def test_numbers_never_read_as_0_or_1_where_they_are_not(value, metric, text):
    assert number(value, metric) == text


def test_p_values():
    assert [p_text(p) for p in (None, 1.0, 0.0312, 0.00012, 0.00009)] == ["–", "1", "0.031", "0.00012", "< 0.0001"]


def test_cost_has_a_dash_and_the_reason_where_nothing_was_measured(comparison):
    first, second, _ = comparison.models
    cost = Cost(2_500_000, 10**9, 12.25, 3 << 20, "cpu", ("a", "b"))
    models = [replace(first, cost=None), replace(second, cost=cost)]
    rows = cost_table(replace(comparison, models=models)).rows
    assert rows[0] == (first.name, "–", "–", "–", "–", "–", "not measured")
    assert rows[1] == (second.name, "2.5 M", "1.0 G", "12.2 s", "3 MiB", "cpu", "a; b")


def test_replicates_are_shown_with_their_spread(comparison, make_model):
    first, second, _ = comparison.models
    # standard deviation of 0.8, 0.9, 0.7 by hand: sqrt((0 + 0.01 + 0.01) / 2) = 0.1
    replicates = [make_model("", {"dice": [dice]}).rows for dice in (0.8, 0.9, 0.7)]
    models = [replace(first, replicate_rows=replicates), replace(second, replicate_rows=())]
    comparison = replace(comparison, models=models, regions={"tumour": (1,)})
    assert replicate_table(comparison).rows == [(first.name, "tumour", "0.800, 0.900, 0.700", "0.200", "0.100")]
    assert replicate_table(replace(comparison, models=models[1:])) is None


def test_the_headline_counts_verdicts_and_says_by_how_much():
    better = [replace(TEST, region=region, difference=value) for region, value in (("a", 0.034), ("b", 0.012))]
    none = replace(TEST, region="c", difference=0.002, verdict="no difference shown")
    worse = [replace(TEST, region=region, metric="hd95", difference=1.2, verdict="worse") for region in "abc"]
    assert headline("CFNet", [*better, none, *worse]) == (
        "CFNet against nnUNetTrainer: Dice better in 2 of 3 regions (+0.012 to +0.034), no difference shown in 1 "
        "(+0.002); HD95 worse in 3 of 3 regions (+1.20 mm)."
    )


def test_the_headline_says_which_differences_are_too_small_to_matter():
    distances = [replace(TEST, metric="hd95", difference=difference) for difference in (-0.7, -0.5)]
    dice = [TEST, replace(TEST, difference=0.002)]
    assert headline("CFNet", [*dice, *distances], smallest_differences={"dice": 0.01, "hd95": 1}) == (
        "CFNet against nnUNetTrainer: Dice better in 2 of 2 regions (+0.002 to +0.021, 1 below 0.01); HD95 better in 2 "
        "of 2 regions (−0.70 to −0.50 mm, all below 1 mm)."
    )
    assert "(−0.70 mm, below 1 mm)" in headline("CFNet", distances[:1], smallest_differences={"hd95": 1.0})


def test_the_headline_is_short_on_each_of_many_models():
    tests = [replace(TEST, other=other, region=region) for other in "ABC" for region in "xy"]
    tests[-1] = replace(tests[-1], verdict="worse")
    assert headline("D", tests) == (
        "D against A: Dice better in 2 of 2. Against B: Dice better in 2 of 2. Against C: Dice better in 1 of 2, worse "
        "in 1."
    )
    assert headline("D", tests, smallest_differences={"dice": 0.1}).startswith(
        "D against A: Dice better in 2 of 2 (all below 0.1). "
    )


def test_the_headline_has_a_sentence_for_each_other_model():
    tests = [replace(TEST, other="A"), replace(TEST, other="B", verdict="worse", difference=-0.1)]
    assert (
        headline("C", tests)
        == "C against A: Dice better in 1 of 1 regions (+0.021). C against B: Dice worse in 1 of 1 regions (−0.100)."
    )


def test_the_overview_has_dice_distances_and_cost(make_model):
    model = make_model(
        "A", {"core": {"dice": [0.5, 1.0], "hd95": [1.0, 4.0]}, "whole": {"dice": [1, 1], "hd95": [0, 9]}}
    )
    models = [replace(model, cost=Cost(2_500_000, 10**9, 12.25, 3 << 20, "cpu"))]
    table = overview_table(Comparison("title", {"core": (2,), "whole": (1, 2)}, models, [], {}, {}))
    assert table.full_header == [
        *("model", "mean Dice, core", "mean Dice, whole", "median HD95, mm, core", "median HD95, mm, whole"),
        *("cost, parameters", "cost, FLOPs", "cost, epoch", "cost, peak memory"),
    ]
    assert table.rows == [("A", "0.750", "1.000", "2.50", "4.50", "2.5 M", "1.0 G", "12.2 s", "3 MiB")]
    without = overview_table(Comparison("title", {"core": (2,)}, [model], [], {}, {}))
    assert without.header == ("model", "core", "core")


def test_of_many_regions_the_overview_has_the_mean(make_model):
    regions = {f"organ_{number}": (number,) for number in range(1, 8)}
    values = {region: {"dice": [number / 10], "hd95": [number]} for number, region in enumerate(regions, start=1)}
    model = make_model("A", {region: {**of, "volume_reference_ml": [1]} for region, of in values.items()})
    table = overview_table(Comparison("title", regions, [model], [], {}, {}))
    assert table.full_header == ["model", "mean Dice, mean of regions", "median HD95, mm, mean of regions"]
    assert table.rows == [("A", "0.400", "4.00")]
    assert description(model, list(regions)) == (
        "A, 1 cases: mean Dice, mean of regions 0.400; median HD95, mean of regions 4.00 mm."
    )
    six = dict(list(regions.items())[:6])
    model = make_model("A", {region: values[region] for region in six})
    assert len(overview_table(Comparison("title", six, [model], [], {}, {})).header) == 1 + 2 * 6


def test_one_model_is_described_without_a_comparison(make_model):
    model = make_model("A", {"core": {"dice": [0.5, 1.0], "hd95": [1.0, 4.0], "volume_reference_ml": [1, 1]}})
    assert description(model, ["core"]) == "A, 2 cases: mean Dice core 0.750; median HD95 core 2.50 mm."


@pytest.mark.usefixtures("quick_drawing")
def test_a_case_that_can_not_be_read_is_reported_once(make_comparison, tmp_path):
    comparison = make_comparison(num_cases=1, tests=())
    broken = comparison.models[1].predictions["case_000"]
    broken.write_bytes(b"no image")
    write_report(comparison, tmp_path)
    markdown = (tmp_path / "compare.md").read_text(encoding="utf-8").replace("\\", "")
    assert markdown.count("case_000, only, most different, can't be shown: ") == markdown.count(str(broken)) == 1
    assert "case_only.png" not in markdown


@pytest.mark.usefixtures("quick_figures")
def test_short_names_are_on_the_pages_and_full_ones_in_json_and_provenance(make_comparison, tmp_path):
    full = ("nnUNetTrainerCFNet__nnUNetPlans", "nnUNetTrainer__nnUNetPlans")
    comparison = make_comparison(num_cases=1, names=full, regions={"core": (1,)})
    write_report(comparison, tmp_path)
    for name in ("compare.md", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8").replace("\\_", "_")
        assert "CFNet against U-Net" in text
        for model in full:
            assert text.count(model) == 1, "in the provenance"
    content = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    assert [model["name"] for model in content["models"]] == list(full)
    assert content["names"] == {full[0]: "CFNet", full[1]: "U-Net"}
    assert content["tests"][0]["other"] == full[1]
