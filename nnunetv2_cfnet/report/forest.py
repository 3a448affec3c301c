"""The forest plot: the first model minus each other one in every region, with intervals; better is always to the right.

    tests -> lines (a region against a model) x panels (a metric) -> marks, in pixels of an SVG (forest.svg.jinja)

Distances are better when they are smaller, so that their axis runs from right to left: its numbers are differences as
in the tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from operator import itemgetter

from matplotlib.ticker import MaxNLocator

from nnunetv2_cfnet.evaluation.metrics import METRICS
from nnunetv2_cfnet.report.comparison import PairedTest
from nnunetv2_cfnet.report.tables import interval_text, signed

WIDTH, NUMBERS, GAP = 1200, 190, 28  # pixels: all, a panel's numbers, between panels
TOP, BOTTOM = 46, 44  # above the lines: titles; below: ticks and the directions
LINES_HEIGHT, LEAST_LINE, LARGEST_LINE = 250, 17, 42  # all lines have the first where a line is neither of the others
LETTER, LEAST_LETTERS, MOST_LETTERS = 8.2, 22, 40  # pixels; of labels
INDENT = 14  # pixels, of labels below a heading
TICKS = MaxNLocator(5, steps=[1, 2, 5, 10])


@dataclass(frozen=True)
class Mark:
    """A difference as it is drawn.

    x: of the difference, in pixels.
    interval: both of its ends; None where there are too few cases.
    kind: the verdict.
    text: the numbers.
    """

    x: float
    interval: tuple[float, float] | None
    kind: str
    text: str


@dataclass(frozen=True)
class Panel:
    """The axis of a metric.

    start, end: of the axis, in pixels.
    ticks: place and text of each.
    zero: its place.
    of_interest: where differences are smaller than the smallest that matters; None where none was given.
    """

    title: str
    start: float
    end: float
    ticks: Sequence[tuple[float, str]]
    zero: float
    of_interest: tuple[float, float] | None


@dataclass(frozen=True)
class Line:
    """A region against another model; a mark for each panel, None where nothing could be tested.

    label: as there is room for.
    title: all of it.
    """

    y: float
    label: str
    title: str
    marks: Sequence[Mark | None]


@dataclass(frozen=True)
class Forest:
    """Everything that is drawn.

    headings: y and text of what stands above a group of lines.
    indent: of the labels of lines.
    """

    height: float
    panels: Sequence[Panel]
    headings: Sequence[tuple[float, str]]
    lines: Sequence[Line]
    indent: int
    alt: str
    width: int = WIDTH
    top: int = TOP
    bottom: int = BOTTOM


def make_forest(
    first: str,
    tests: Sequence[PairedTest],
    smallest_differences: Mapping[str, float],
    groups: Mapping[str, tuple[str, str]] | None = None,
) -> Forest | None:
    """Lay out the tests of each region against each other model.

    Args:
        first: the first model's name.
        tests: of one or two metrics.
        smallest_differences: metric -> the smallest difference that matters.
        groups: region of a test -> the heading that it stands below, and its name there; no headings if not given.

    Returns:
        None where there is no test.
    """
    if not tests:
        return None
    metrics = list(dict.fromkeys(test.metric for test in tests))
    by_place = {(test.region, test.other, test.metric): test for test in tests}
    others, regions = dict.fromkeys(test.other for test in tests), dict.fromkeys(test.region for test in tests)
    compared = {(test.region, test.other) for test in tests}
    rows = [row for row in product(regions, others) if row in compared]
    above, names = zip(*((groups or {}).get(region, ("", region)) for region, _ in rows), strict=True)
    titles = [f"{name} vs {other}" if len(others) > 1 else name for name, (_, other) in zip(names, rows, strict=True)]
    indent = INDENT if groups else 0
    labels = indent + LETTER * min(MOST_LETTERS, max([LEAST_LETTERS, *map(len, titles)]))
    room = (WIDTH - labels) / len(metrics)
    panels, marks_of = [], []
    for number, metric in enumerate(metrics):
        start = labels + number * room
        in_panel = [by_place.get((*row, metric)) for row in rows]
        axis = _Axis(metric, in_panel, smallest_differences.get(metric, 0), start, start + room - NUMBERS - GAP)
        panels.append(axis.panel())
        marks_of.append([axis.mark(test) if test else None for test in in_panel])
    num_places = len(rows) + len(set(above) - {""})
    height = min(LARGEST_LINE, max(LEAST_LINE, LINES_HEIGHT / num_places))
    places = (TOP + (index + 0.5) * height for index in range(num_places))
    headings, lines = [], []
    for heading, group in groupby(zip(above, titles, *marks_of, strict=True), itemgetter(0)):
        if heading:
            headings.append((next(places), heading))
        lines += [Line(next(places), _shortened(title), title, marks) for _, title, *marks in group]
    listed = [f"{test.region}, {METRICS[test.metric].title}, {test.other}: {_numbers(test)}" for test in tests]
    alt = f"Paired differences, {first} minus {', '.join(others)}; better to the right. {'; '.join(listed)}."
    return Forest(TOP + height * num_places + BOTTOM, panels, headings, lines, indent, alt)


class _Axis:
    """From a difference to its place; zero, every interval and what is of no interest are on it."""

    def __init__(
        self, metric: str, tests: Sequence[PairedTest | None], smallest: float, start: float, end: float
    ) -> None:
        self.metric, self.smallest, self.start, self.end = metric, smallest, start, end
        self.sign = 1 if METRICS[metric].larger_is_better else -1
        shown = [0.0, -smallest, smallest]
        for test in filter(None, tests):
            shown += [test.difference, *(test.interval or ())]
        gains = [self.sign * value for value in shown]
        margin = 0.06 * (max(gains) - min(gains) or 1)
        self.low, self.high = min(gains) - margin, max(gains) + margin

    def place(self, difference: float) -> float:
        share = (self.sign * difference - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def panel(self) -> Panel:
        metric = METRICS[self.metric]
        gains = [gain for gain in TICKS.tick_values(self.low, self.high) if self.low <= gain <= self.high]
        ticks = [(self.place(self.sign * gain), f"{self.sign * gain + 0:g}".replace("-", "−")) for gain in gains]
        kind = "mean" if metric.bounded else "median"
        title = f"{metric.title}, {kind} difference{f' in {metric.unit}' if metric.unit else ''}"
        ends = sorted((self.place(-self.smallest), self.place(self.smallest)))
        of_interest = (ends[0], ends[1]) if self.smallest else None
        return Panel(title, self.start, self.end, ticks, self.place(0), of_interest)

    def mark(self, test: PairedTest) -> Mark:
        ends = sorted(map(self.place, test.interval or ()))
        interval = (ends[0], ends[1]) if ends else None
        return Mark(self.place(test.difference), interval, test.verdict.replace(" ", "-"), _numbers(test))


def _numbers(test: PairedTest) -> str:
    interval = f" ({interval_text(test)})" if test.interval else ""
    return f"{signed(test.difference, test.metric)}{interval}"


def _shortened(label: str) -> str:
    """Without its middle: long names of regions differ at their ends."""
    kept = (MOST_LETTERS - 3) // 2
    return label if len(label) <= MOST_LETTERS else f"{label[:kept]} … {label[-kept:]}"
