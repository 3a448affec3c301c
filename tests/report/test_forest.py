"""The forest plot: better to the right, zero and intervals in sight, numbers as in the tables."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from jinja2 import Environment, PackageLoader

from nnunetv2_cfnet.report.comparison import PairedTest
from nnunetv2_cfnet.report.forest import WIDTH, Forest, make_forest

TEST = PairedTest("U-Net", "core", "dice", 30, 0.02, (0.01, 0.04), 0.01, 0.1, 20, 2, 8, "better")
DISTANCE = replace(TEST, metric="hd95", difference=-2.0, interval=(-3.0, -1.0))


def drawn(forest: Forest) -> ElementTree.Element:
    environment = Environment(loader=PackageLoader("nnunetv2_cfnet", "report"), autoescape=True)
    return ElementTree.fromstring(environment.get_template("forest.svg.jinja").render(forest=forest))


def test_better_is_to_the_right_of_zero_whatever_the_metric():
    forest = make_forest("CFNet", [TEST, DISTANCE], {})
    (line,) = forest.lines
    for panel, mark in zip(forest.panels, line.marks, strict=True):
        assert panel.zero < mark.interval[0] < mark.x < mark.interval[1]
        assert 0 < panel.start < panel.zero
        assert mark.interval[1] < panel.end < WIDTH
        assert mark.kind == "better"
    dice, distance = (panel.title for panel in forest.panels)
    assert (dice, distance) == ("Dice, mean difference", "HD95, median difference in mm")


def test_a_difference_lies_where_its_share_of_the_axis_is():
    """From zero on, 0.02 of 0.04 is half of the way."""
    (panel,), (line,) = (lambda forest: (forest.panels, forest.lines))(make_forest("CFNet", [TEST], {}))
    (mark,) = line.marks
    assert mark.x - panel.zero == pytest.approx((mark.interval[1] - panel.zero) / 2, abs=0.2)


def test_ticks_are_differences_with_their_sign():
    forest = make_forest("CFNet", [TEST, DISTANCE], {})
    dice, distance = ([label for _, label in panel.ticks] for panel in forest.panels)
    assert dice[0] == distance[0] == "0"
    assert "0.01" in dice
    assert "−1" in distance


def test_what_is_too_small_to_matter_is_around_zero():
    forest = make_forest("CFNet", [TEST, DISTANCE], {"hd95": 1.5})
    dice, distance = forest.panels
    assert dice.of_interest is None
    low, high = distance.of_interest
    assert (low + high) / 2 == pytest.approx(distance.zero, abs=0.2)
    assert low >= distance.start
    (mark,) = (line.marks[1] for line in forest.lines)
    assert mark.x > high  # 2 mm


def test_without_interval_there_is_the_difference_alone():
    forest = make_forest("CFNet", [replace(TEST, interval=None, verdict="no difference shown")], {})
    (mark,) = forest.lines[0].marks
    assert mark.interval is None
    assert (mark.kind, mark.text) == ("no-difference-shown", "+0.020")


def test_a_region_without_a_test_in_one_metric_keeps_its_line():
    forest = make_forest("CFNet", [TEST, replace(DISTANCE, region="whole")], {})
    assert [[mark is None for mark in line.marks] for line in forest.lines] == [[False, True], [True, False]]


def test_numbers_stand_beside_their_axis():
    forest = make_forest("CFNet", [TEST, DISTANCE, replace(DISTANCE, region="whole")], {})
    dice, distance = (panel.end + 12 for panel in forest.panels)
    core, whole = forest.lines
    texts = [(float(text.get("x")), float(text.get("y")), text.text) for text in drawn(forest).findall("g/text")]
    assert texts == [
        (dice, core.y + 5, core.marks[0].text),
        (distance, core.y + 5, core.marks[1].text),
        (distance, whole.y + 5, whole.marks[1].text),
    ]


def test_lines_name_the_other_model_where_there_are_several():
    tests = [TEST, replace(TEST, region="r" * 40), replace(TEST, other="ResEnc")]
    forest = make_forest("CFNet", tests, {})
    assert [line.label for line in forest.lines][:2] == ["core vs U-Net", "core vs ResEnc"]
    assert (forest.lines[2].label, forest.lines[2].title) == (
        f"{'r' * 18} … {'r' * 9} vs U-Net",
        f"{'r' * 40} vs U-Net",
    )
    assert forest.panels[0].start > make_forest("CFNet", [TEST], {}).panels[0].start, "longer labels take more room"
    assert "core, Dice, U-Net: +0.020 (0.010 to 0.040)" in forest.alt


def test_groups_stand_below_headings():
    regions = {
        f"{mean}: {region}": (mean, region) for mean in ("mean of 8", "mean of 7") for region in ("core", "whole")
    }
    forest = make_forest("CFNet", [replace(TEST, region=region) for region in regions], {}, regions)
    assert [line.label for line in forest.lines] == ["core", "whole", "core", "whole"]
    (first, title), (second, other) = forest.headings
    assert (title, other) == ("mean of 8", "mean of 7")
    assert sorted([first, second, *(line.y for line in forest.lines)]) == [
        *(first, forest.lines[0].y, forest.lines[1].y, second, forest.lines[2].y, forest.lines[3].y)
    ]
    assert forest.indent > 0 == make_forest("CFNet", [TEST], {}).indent


def test_equal_models_are_drawn_at_zero():
    forest = make_forest("CFNet", [replace(TEST, difference=0.0, interval=(0.0, 0.0))], {})
    assert forest.lines[0].marks[0].x == forest.panels[0].zero


def test_nothing_to_compare_is_no_plot():
    assert make_forest("CFNet", [], {}) is None
