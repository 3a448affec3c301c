"""A comparison -> compare.json, compare.md, figures and report.html in one folder.

    comparison -> pictures, sheets, tables -> Page -> Markdown, with figures/NAME.png beside it
                                                   -> HTML, one file with everything in it
               -> JSON

Everything is written whole before the first file is put in its place. JSON has the models' full names, pages have
short ones.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from nnunetv2_cfnet.evaluation.bootstrap import MIN_CASES
from nnunetv2_cfnet.evaluation.metrics import METRICS
from nnunetv2_cfnet.evaluation.summary import RULES
from nnunetv2_cfnet.files.json_files import to_json
from nnunetv2_cfnet.files.paths import resolved
from nnunetv2_cfnet.files.whole import check_place, whole_file
from nnunetv2_cfnet.report.case_pictures import case_pictures
from nnunetv2_cfnet.report.case_sheets import make_sheets
from nnunetv2_cfnet.report.case_table import case_table
from nnunetv2_cfnet.report.chosen_cases import chosen_cases
from nnunetv2_cfnet.report.comparison import MAIN_METRICS, Comparison, Model, PairedTest
from nnunetv2_cfnet.report.figures import box_plots, difference_plots, training_curves
from nnunetv2_cfnet.report.forest import make_forest
from nnunetv2_cfnet.report.names import choose_names, renamed
from nnunetv2_cfnet.report.pages import FIGURES, CaseBrowser, Page, Section, to_html, to_markdown
from nnunetv2_cfnet.report.presentation import Presentation
from nnunetv2_cfnet.report.tables import (
    Table,
    cost_table,
    description,
    headline,
    overview_table,
    rank_table,
    replicate_table,
    summary_of,
    summary_tables,
    tables_of_tests,
    verdicts,
)

STEM, HTML = "compare", "report.html"
JSON = f"{STEM}.json"
ROUGH_BELOW = 20  # cases
HINT = "The slices of this case are not in this page. --cases N puts those of the N {} cases into it, --all-cases all."
# of RULES, those that the tables follow
RULE_TITLES = {
    "brats": "Empty regions",
    "hd95": METRICS["hd95"].title,
    "hd95_max": METRICS["hd95_max"].title,
    "lesion-wise": "Lesion-wise",
    "volumes": "Volumes",
}


def write_report(
    comparison: Comparison, out: Path, made_in: Path | None = None, presentation: Presentation | None = None
) -> None:
    """Write compare.json, compare.md, report.html and figures/*.png into a folder.

    An earlier report there is replaced, with the figures that it alone had; other files stay.

    Args:
        comparison: what the report is on.
        out: the folder; missing parents are made.
        made_in: where its files are written (whole_file).
        presentation: how pages show it; the default one if not given.

    Raises:
        UserError: the folder, or a file of it, is something else; or the names don't fit the models.
    """
    out, presentation = resolved(out), presentation or Presentation()
    check_report_place(out)
    names = choose_names([model.name for model in comparison.models], presentation.names)
    page = make_page(renamed(comparison, names), presentation)
    write_pages(page, partial(comparison_json, comparison, names), out, made_in)


def write_pages(
    page: Page,
    content: Callable[[Sequence[str]], str],
    out: Path,
    made_in: Path | None = None,
    stem: str = STEM,
) -> None:
    """Write STEM.json, STEM.md, report.html and figures/*.png into a folder.

    Args:
        page: what both pages say.
        content: of the JSON, which has to list the figures that it is given under "figures".
        out: the folder, without links.
        made_in: where its files are written (whole_file).
        stem: of the names of two of the files.
    """
    contents = {
        # the first one, and so put in its place last: until then it lists the figures that are to be replaced
        f"{stem}.json": content([picture.name for picture in page.pictures]).encode(),
        HTML: to_html(page).encode(),
        f"{stem}.md": to_markdown(page).encode(),
        **{f"{FIGURES}/{picture.name}.png": picture.png for picture in page.pictures},
    }
    former = _former_figures(out / f"{stem}.json")
    (out / FIGURES).mkdir(parents=True, exist_ok=True)
    with ExitStack() as unfinished:
        for name, written in contents.items():
            unfinished.enter_context(whole_file(out / name, made_in)).write_bytes(written)
    for name in former - {picture.name for picture in page.pictures}:
        (out / FIGURES / f"{name}.png").unlink(missing_ok=True)


def size_of_page(out: Path) -> str:
    """Of the report in a folder, as in 4.25 MB."""
    return f"{(out / HTML).stat().st_size / 1e6:.2f} MB"


def make_page(comparison: Comparison, presentation: Presentation) -> Page:
    """All of the report in reading order.

    Args:
        comparison: with the models' names as they are shown; of one model alone, what compares it is left out.
        presentation: how it is shown.
    """
    models, regions = comparison.models, list(comparison.regions)
    first = models[0].name
    main_tests = [test for test in comparison.tests if test.metric in MAIN_METRICS]
    chosen = chosen_cases(models, presentation.num_different)
    sheets, problems = make_sheets(comparison, chosen)
    several = len(models) > 1
    names = [model.name for model in models]
    hint = HINT.format("most different" if several else "worst")
    browser = CaseBrowser(case_table(models, regions, chosen), names, comparison.regions, sheets, hint)
    replicates = replicate_table(comparison)
    smallest = presentation.smallest_differences
    sections = [
        Section("cases", "Cases", paragraphs=problems, browser=browser, pictures=case_pictures(comparison)),
        Section(
            "verdict",
            "Verdict",
            verdicts=verdicts(comparison),
            paragraphs=reservations(comparison.notes, comparison.tests) if several else comparison.notes,
        ),
        Section("boxes", "Spread over cases", pictures=box_plots(comparison)),
        Section("differences", "Paired differences", pictures=difference_plots(comparison) if several else []),
        Section("curves", "Training curves", pictures=training_curves(comparison)),
        Section("tests", "All paired tests", tables=tables_of_tests(names, comparison.tests), folded=True),
        Section("means", "All metrics: means and medians", tables=summary_tables(comparison), folded=True),
        Section("ranks", "Ranks", tables=[rank_table(comparison)] if several else [], folded=True),
        Section("cost", "Cost", tables=[cost_table(comparison)] if several else [], folded=True),
        Section("replicates", "Replicates", tables=[replicates] if replicates else [], folded=True),
        Section("how", "How it was computed", paragraphs=_definitions(comparison), folded=True),
        provenance_section(comparison.provenance),
    ]
    return Page(
        comparison.title,
        headline(first, main_tests, smallest_differences=smallest) if several else description(models[0], regions),
        caution(comparison.tests),
        make_forest(first, main_tests, smallest),
        overview_table(comparison),
        sections,
    )


def provenance_section(provenance: Mapping[str, str]) -> Section:
    """What a report was made with."""
    table = Table("Made with", ("what", "value"), list(provenance.items()), text_columns=(0, 1))
    return Section("provenance", "Provenance", tables=[table], folded=True)


def comparison_json(comparison: Comparison, names: Mapping[str, str], figures: Sequence[str]) -> str:
    """Everything, as strict JSON: null where there is no number."""
    content = {
        "title": comparison.title,
        "names": names,
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
    notes = [*notes, *filter(None, [caution(tests)])]
    if _fewest_cases(tests) < MIN_CASES:
        return notes
    chance = "one in ten" if _fewest_cases(tests) < ROUGH_BELOW else "one in twenty"
    return [
        *notes,
        f"Each verdict is that of one 95 % interval: where nothing differs, about {chance} excludes zero by chance. "
        "Holm's column corrects for the number of tests, the intervals do not.",
        "An interval shows how the result varies with the cases, not with the seed of a training: two trainings of one "
        "model differ as well.",
    ]


def caution(tests: Sequence[PairedTest]) -> str:
    """Of few cases; nothing where there are enough, or no tests."""
    num_cases = _fewest_cases(tests)
    if not tests or num_cases >= ROUGH_BELOW:
        return ""
    if num_cases < MIN_CASES:
        return f"With fewer than {MIN_CASES} cases there is no interval, and no difference can be shown."
    return f"With {num_cases} cases, fewer than {ROUGH_BELOW}, the intervals are rough, and too narrow."


def _fewest_cases(tests: Sequence[PairedTest]) -> int:
    return min((test.num_cases for test in tests), default=0)


def _definitions(comparison: Comparison) -> list[str]:
    """How the numbers came about, and who defined them."""
    regions = [f"{region} {', '.join(map(str, labels))}" for region, labels in comparison.regions.items()]
    of_each = [
        f"Regions and their labels: {'; '.join(regions)}.",
        *(f"{title}: {RULES[name]}" for name, title in RULE_TITLES.items()),
    ]
    if len(comparison.models) == 1:
        return of_each
    first = comparison.models[0].name
    return [
        *of_each,
        f"Cases are paired by name, and a difference is {first} minus the other model: the mean over cases for metrics "
        "within 0 and 1, the median for distances, whose penalty for a missed region would dominate a mean. Intervals: "
        "bootstrap over cases (BCa, Efron 1987; percentiles where BCa has no value). p: Wilcoxon's signed-rank test "
        "with differences of zero split evenly, corrected by Holm (1979) over all tests of this report. The verdict is "
        "by the interval: better or worse where it excludes zero.",
        "Mean rank: models are ranked in each case and region by Dice and by HD95, ties share their mean rank, and all "
        "ranks are averaged, after BraTS (Bakas et al. 2018, arXiv:1811.02629; without its permutation test).",
        "FLOPs are two for each multiply-add. The epoch time is the median without the first epoch of each fold.",
    ]
