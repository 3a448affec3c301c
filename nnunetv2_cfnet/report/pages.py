"""What a report says, in reading order -> report.html, one file that needs nothing else, and Markdown.

The page's first screen is its headline, the forest plot and the overview; the page has the cases to look through, where
Markdown has pictures of a few.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from nnunetv2_cfnet.errors import printable
from nnunetv2_cfnet.report.case_table import CaseTable
from nnunetv2_cfnet.report.figures import Picture
from nnunetv2_cfnet.report.forest import Forest
from nnunetv2_cfnet.report.tables import Table, Verdict

FIGURES = "figures"
# Characters that Markdown, or the HTML that it may hold, takes for more than themselves.
MARKDOWN_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{character: f"\\{character}" for character in r"\|*`[]$"}}
)


@dataclass(frozen=True)
class CaseBrowser:
    """The cases as the page has them.

    sheets: of each case that can be looked through (case_sheets.py).
    models: their names.
    regions: name -> labels.
    hint: what the page says of a case without sheets.
    """

    table: CaseTable
    models: Sequence[str]
    regions: Mapping[str, Sequence[int]]
    sheets: Mapping[str, Mapping[str, Any]]
    hint: str


@dataclass(frozen=True)
class Section:
    """A part of the report; its contents are shown in the order of the fields.

    browser: shown by the page, in place of the pictures.
    folded: few read it, and the page shows its title alone until it is clicked.
    """

    key: str
    title: str
    verdicts: Sequence[Verdict] = ()
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    browser: CaseBrowser | None = None
    pictures: Sequence[Picture] = ()
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """A report.

    headline: what one has to know, in a sentence or two.
    caution: why not to trust it, if there is a reason.
    forest: of the paired differences; None where there is nothing to compare.
    overview: the numbers that one looks at first.
    sections: what is read after; those without any content are left out.
    """

    title: str
    headline: str
    caution: str
    forest: Forest | None
    overview: Table
    sections: Sequence[Section]

    @property
    def shown(self) -> list[Section]:
        """The sections that say something."""
        return [
            part
            for part in self.sections
            if part.verdicts or part.paragraphs or part.tables or part.browser or part.pictures
        ]

    @property
    def pictures(self) -> list[Picture]:
        """All that Markdown shows."""
        return [picture for section in self.sections for picture in section.pictures]


def to_html(page: Page) -> str:
    """One page that needs nothing else, and no network."""
    environment = Environment(
        loader=PackageLoader("nnunetv2_cfnet", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: _in_one_line(value) if type(value) is str else value,  # not what macros return
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode("ascii")
    return environment.get_template("report.html.jinja").render(page=page)


def to_markdown(page: Page) -> str:
    """As GitHub shows it, with figures linked."""
    lines = [f"# {_escaped(page.title)}", ""]
    for paragraph in filter(None, (page.headline, page.caution)):
        lines += [_escaped(paragraph), ""]
    lines += [*_markdown_rows(page.overview), ""]
    for section in page.shown:
        lines += [f"## {_escaped(section.title)}", ""]
        if section.verdicts:
            lines += [*(f"- {_escaped(verdict.sentence)}" for verdict in section.verdicts), ""]
        for paragraph in section.paragraphs:
            lines += [_escaped(paragraph), ""]
        for table in section.tables:
            lines += [f"### {_escaped(table.caption)}", "", *_markdown_rows(table), ""]
        for picture in section.pictures:
            link = f"![{_escaped(picture.alt)}]({FIGURES}/{picture.name}.png)"
            lines += [f"### {_escaped(picture.title)}", "", link, ""]
    return "\n".join(lines)


def _markdown_rows(table: Table) -> list[str]:
    marks = ["---" if index in table.text_columns else "---:" for index in range(len(table.header))]
    return [
        f"| {' | '.join(cells)} |"
        for cells in (map(_escaped, table.full_header), marks, *(map(_escaped, row) for row in table.rows))
    ]


def _escaped(text: str) -> str:
    return _in_one_line(text).translate(MARKDOWN_ESCAPES)


def _in_one_line(text: str) -> str:
    return text if text.isprintable() else printable(text.replace("\n", " "))  # pictures are long, and printable
