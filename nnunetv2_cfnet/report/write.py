"""A comparison -> compare.json, compare.md, figures and report.html in one folder.

    comparison -> pictures -> sections -> Markdown, with figures/NAME.png beside it
                                       -> HTML, one file with everything in it
               -> JSON

Everything is written whole before the first file is put in its place.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from nnunetv2_cfnet.errors import printable
from nnunetv2_cfnet.evaluation.bootstrap import MIN_CASES
from nnunetv2_cfnet.evaluation.metrics import METRICS
from nnunetv2_cfnet.evaluation.summary import RULES
from nnunetv2_cfnet.files.json_files import to_json
from nnunetv2_cfnet.files.paths import resolved
from nnunetv2_cfnet.files.whole import check_place, whole_file
from nnunetv2_cfnet.report.case_pictures import case_pictures
from nnunetv2_cfnet.report.comparison import Comparison, Model, PairedTest
from nnunetv2_cfnet.report.figures import Picture, box_plots, difference_plots, training_curves
from nnunetv2_cfnet.report.tables import (
    Table,
    Verdict,
    cost_table,
    rank_table,
    replicate_table,
    summary_of,
    summary_tables,
    tables_of_tests,
    verdicts,
)

STEM, HTML, FIGURES = "compare", "report.html", "figures"
JSON = f"{STEM}.json"
ROUGH_BELOW = 20  # cases
# of RULES, those that the tables follow
RULE_TITLES = {
    "brats": "Empty regions",
    "hd95": METRICS["hd95"].title,
    "hd95_max": METRICS["hd95_max"].title,
    "lesion-wise": "Lesion-wise",
    "volumes": "Volumes",
}
# Characters that Markdown, or the HTML that it may hold, takes for more than themselves.
MARKDOWN_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{character: f"\\{character}" for character in r"\|*`[]$"}}
)


@dataclass(frozen=True)
class Section:
    """A part of the report; its contents are shown in the order of the fields."""

    key: str
    title: str
    verdicts: Sequence[Verdict] = ()
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


def write_report(comparison: Comparison, out: Path, made_in: Path | None = None) -> None:
    """Write compare.json, compare.md, report.html and figures/*.png into a folder.

    An earlier report there is replaced, with the figures that it alone had; other files stay.

    Args:
        comparison: what the report is on.
        out: the folder; missing parents are made.
        made_in: where its files are written (whole_file).

    Raises:
        UserError: the folder, or a file of it, is something else.
    """
    out = resolved(out)
    check_report_place(out)
    write_pages(comparison.title, make_sections(comparison), partial(comparison_json, comparison), out, made_in)


def write_pages(
    title: str,
    sections: Sequence[Section],
    content: Callable[[Sequence[str]], str],
    out: Path,
    made_in: Path | None = None,
    stem: str = STEM,
) -> None:
    """Write STEM.json, STEM.md, report.html and figures/*.png into a folder.

    Args:
        title: of the pages.
        sections: of the pages.
        content: of the JSON, which has to list the figures that it is given under "figures".
        out: the folder, without links.
        made_in: where its files are written (whole_file).
        stem: of the names of two of the files.
    """
    pictures = [picture for section in sections for picture in section.pictures]
    contents = {
        # the first one, and so put in its place last: until then it lists the figures that are to be replaced
        f"{stem}.json": content([picture.name for picture in pictures]).encode(),
        HTML: to_html(title, sections).encode(),
        f"{stem}.md": to_markdown(title, sections).encode(),
        **{f"{FIGURES}/{picture.name}.png": picture.png for picture in pictures},
    }
    former = _former_figures(out / f"{stem}.json")
    (out / FIGURES).mkdir(parents=True, exist_ok=True)
    with ExitStack() as unfinished:
        for name, written in contents.items():
            unfinished.enter_context(whole_file(out / name, made_in)).write_bytes(written)
    for name in former - {picture.name for picture in pictures}:
        (out / FIGURES / f"{name}.png").unlink(missing_ok=True)


def make_sections(comparison: Comparison) -> list[Section]:
    """All of the report in reading order; parts that there is nothing to say about are left out."""
    replicates = replicate_table(comparison)
    pictures_of_cases, problems = case_pictures(comparison)
    sections = [
        Section(
            "verdict",
            "Verdict",
            verdicts=verdicts(comparison),
            paragraphs=reservations(comparison.notes, comparison.tests),
        ),
        Section(
            "tests",
            "All paired tests",
            tables=tables_of_tests([model.name for model in comparison.models], comparison.tests),
        ),
        Section("means", "Means and medians", tables=summary_tables(comparison)),
        Section("ranks", "Ranks", tables=[rank_table(comparison)]),
        Section("cost", "Cost", tables=[cost_table(comparison)]),
        Section("replicates", "Replicates", tables=[replicates] if replicates else []),
        Section("curves", "Training curves", pictures=training_curves(comparison)),
        Section("boxes", "All cases", pictures=box_plots(comparison)),
        Section("differences", "Paired differences", pictures=difference_plots(comparison)),
        Section("cases", "Best, median and worst case", paragraphs=problems, pictures=pictures_of_cases),
        Section("how", "How it was computed", paragraphs=_definitions(comparison)),
        provenance_section(comparison.provenance),
    ]
    return without_empty(sections)


def provenance_section(provenance: Mapping[str, str]) -> Section:
    """What a report was made with."""
    table = Table("Made with", ("what", "value"), list(provenance.items()), text_columns=(0, 1))
    return Section("provenance", "Provenance", tables=[table])


def without_empty(sections: Sequence[Section]) -> list[Section]:
    """Those that say something."""
    return [part for part in sections if part.verdicts or part.paragraphs or part.tables or part.pictures]


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """As GitHub shows it, with figures linked."""
    lines = [f"# {_escaped(title)}", ""]
    for section in sections:
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


def to_html(title: str, sections: Sequence[Section]) -> str:
    """One page that needs nothing else, no network and no script."""
    environment = Environment(
        loader=PackageLoader("nnunetv2_cfnet", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_in_one_line,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode("ascii")
    return environment.get_template("report.html.jinja").render(title=title, sections=sections)


def comparison_json(comparison: Comparison, figures: Sequence[str]) -> str:
    """Everything, as strict JSON: null where there is no number."""
    content = {
        "title": comparison.title,
        "regions": comparison.regions,
        "metrics": {name: metric._asdict() for name, metric in METRICS.items()},
        "models": [_model_content(model) for model in comparison.models],
        "tests": [asdict(test) for test in comparison.tests],
        "ranks": comparison.ranks,
        "references": comparison.references,
        "notes": comparison.notes,
        "provenance": comparison.provenance,
        "rules": RULES,
        "figures": figures,
    }
    return to_json(content, indent=1) + "\n"


def _model_content(model: Model) -> dict[str, Any]:
    by_case: dict[str, dict] = {}
    for row in model.rows.to_dict("records"):
        by_case.setdefault(row["case"], {})[row["region"]] = {metric: row[metric] for metric in METRICS}
    return {
        "name": model.name,
        "summary": summary_of(model),
        "cost": asdict(model.cost) if model.cost else None,
        "replicates": [rows.to_dict("records") for rows in model.replicate_rows],
        "curves": [asdict(curves) for curves in model.curves],
        "predictions": model.predictions,
        "cases": by_case,
    }


def check_report_place(out: Path, stem: str = STEM) -> None:
    """A UserError where no report can be written, because of what is there already, or of missing rights."""
    check_place(out, (f"{stem}.json", f"{stem}.md", HTML))
    check_place(out / FIGURES, ())


def _former_figures(json_file: Path) -> set[str]:
    """Names of the figures that an earlier report lists as its own."""
    try:
        figures = json.loads(json_file.read_text(encoding="utf-8"))["figures"]
        return {name for name in figures if Path(name).name == name}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


def reservations(notes: Sequence[str], tests: Sequence[PairedTest]) -> list[str]:
    """What a reader of the verdicts has to know: these notes, and how sure the tests are."""
    notes = list(notes)
    num_cases = min((test.num_cases for test in tests), default=0)
    if num_cases < MIN_CASES:
        return [*notes, f"With fewer than {MIN_CASES} cases there is no interval, and no difference can be shown."]
    chance = "one in twenty"
    if num_cases < ROUGH_BELOW:
        chance = "one in ten"
        notes.append(f"With {num_cases} cases, fewer than {ROUGH_BELOW}, the intervals are rough, and too narrow.")
    return [
        *notes,
        f"Each verdict is that of one 95 % interval: where nothing differs, about {chance} excludes zero by chance. "
        "Holm's column corrects for the number of tests, the intervals do not.",
        "An interval shows how the result varies with the cases, not with the seed of a training: two trainings of one "
        "model differ as well.",
    ]


def _definitions(comparison: Comparison) -> list[str]:
    """How the numbers came about, and who defined them."""
    first = comparison.models[0].name
    regions = [f"{region} {', '.join(map(str, labels))}" for region, labels in comparison.regions.items()]
    return [
        f"Regions and their labels: {'; '.join(regions)}.",
        *(f"{title}: {RULES[name]}" for name, title in RULE_TITLES.items()),
        f"Cases are paired by name, and a difference is {first} minus the other model: the mean over cases for metrics "
        "within 0 and 1, the median for distances, whose penalty for a missed region would dominate a mean. Intervals: "
        "bootstrap over cases (BCa, Efron 1987; percentiles where BCa has no value). p: Wilcoxon's signed-rank test "
        "with differences of zero split evenly, corrected by Holm (1979) over all tests of this report. The verdict is "
        "by the interval: better or worse where it excludes zero.",
        "Mean rank: models are ranked in each case and region by Dice and by HD95, ties share their mean rank, and all "
        "ranks are averaged, after BraTS (Bakas et al. 2018, arXiv:1811.02629; without its permutation test).",
        "FLOPs are two for each multiply-add. The epoch time is the median without the first epoch of each fold.",
    ]


def _markdown_rows(table: Table) -> list[str]:
    marks = ["---" if index in table.text_columns else "---:" for index in range(len(table.header))]
    return [
        f"| {' | '.join(cells)} |"
        for cells in (map(_escaped, table.header), marks, *(map(_escaped, row) for row in table.rows))
    ]


def _escaped(text: str) -> str:
    return _in_one_line(text).translate(MARKDOWN_ESCAPES)


def _in_one_line(text: str) -> str:
    return text if text.isprintable() else printable(text.replace("\n", " "))  # pictures are long, and printable
