"""The report of `nnunetv2_cfnet evaluate_subsets`: what models predict from every subset of the sequences.

    rows of cases -> mean Dice of each subset and region -> means over subsets, Shapley values -> tables, figures
                  -> paired tests of each subset and mean

A mean is over cases first and then over subsets, as the literature has it. In tests, the Dice of a case under a mean is
the mean over the subsets of that one case, so that cases stay what is drawn.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import pandas

from nnunetv2_cfnet.evaluation.metrics import METRICS
from nnunetv2_cfnet.evaluation.shapley import shapley_values
from nnunetv2_cfnet.evaluation.subsets import Subset, subset_name
from nnunetv2_cfnet.evaluation.summary import RULES
from nnunetv2_cfnet.files.json_files import to_json
from nnunetv2_cfnet.report.case_table import case_table
from nnunetv2_cfnet.report.comparison import Model, PairedTest
from nnunetv2_cfnet.report.forest import make_forest
from nnunetv2_cfnet.report.names import full_names, renamed_tests
from nnunetv2_cfnet.report.pages import CaseBrowser, Page, Section
from nnunetv2_cfnet.report.statistics import paired_tests
from nnunetv2_cfnet.report.subset_figures import shapley_plots, subset_plots
from nnunetv2_cfnet.report.tables import Table, Verdict, headline, number, signed, tables_of_tests, verdict_line
from nnunetv2_cfnet.report.write import caution, provenance_section, reservations, write_pages

STEM = "subsets"
Scores = Mapping[str, pandas.DataFrame]  # model -> mean Dice; a row for each subset and mean, a column for each region
Shares = Mapping[str, Mapping[str, Sequence[float]]]  # model -> region -> Shapley value of each channel


@dataclass(frozen=True)
class SubsetComparison:
    """What was evaluated.

    title: what was compared, on what.
    channels: their names, in channel order.
    subsets: in the order of the report.
    means: name -> the subsets that it is over.
    regions: in the dataset's order.
    models: rows have the column subset besides, a name; the first is compared with each of the others.
    notes: what a reader has to know, a sentence each.
    provenance: name -> value.
    """

    title: str
    channels: Sequence[str]
    subsets: Sequence[Subset]
    means: Mapping[str, Sequence[Subset]]
    regions: Sequence[str]
    models: Sequence[Model]
    notes: Sequence[str]
    provenance: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """Of the subsets."""
        return [subset_name(subset, self.channels) for subset in self.subsets]

    @property
    def is_complete(self) -> bool:
        """Whether it is every subset."""
        return len(self.subsets) == 2 ** len(self.channels) - 1


def write_subsets_report(comparison: SubsetComparison, names: Mapping[str, str], out: Path, made_in: Path) -> None:
    """Write subsets.json, subsets.md, report.html and figures/*.png into a folder.

    Args:
        comparison: what the report is on.
        names: of each model on the pages.
        out: the folder, without links.
        made_in: where its files are written (whole_file).
    """
    models = [with_means(model, comparison) for model in comparison.models]
    scores = {model.name: mean_dice(model, comparison) for model in models}
    shares = {model.name: shares_of(model, scores[model.name], comparison) for model in comparison.models}
    tests = tests_of(models, comparison)
    page = make_page(
        replace(
            comparison,
            models=[replace(model, name=names[model.name]) for model in models],
            provenance=full_names(names) | dict(comparison.provenance),
        ),
        {names[model]: score for model, score in scores.items()},
        {names[model]: share for model, share in shares.items()},
        renamed_tests(tests, names),
    )
    write_pages(page, partial(subsets_json, comparison, names, scores, shares, tests), out, made_in, STEM)


def with_means(model: Model, comparison: SubsetComparison) -> Model:
    """The same with rows for each mean, of each case over its subsets."""
    tables = [model.rows]
    for mean, subsets in comparison.means.items():
        names = [subset_name(subset, comparison.channels) for subset in subsets]
        over = model.rows[model.rows["subset"].isin(names)].groupby(["case", "region"], sort=False)
        tables.append(over[list(METRICS)].mean().reset_index().assign(subset=mean))
    return replace(model, rows=pandas.concat(tables, ignore_index=True))


def mean_dice(model: Model, comparison: SubsetComparison) -> pandas.DataFrame:
    """Over cases; a row for each subset and mean, a column for each region."""
    means = model.rows.groupby(["subset", "region"])["dice"].mean().unstack()
    return means.loc[[*comparison.names, *comparison.means], list(comparison.regions)]


def shares_of(model: Model, scores: pandas.DataFrame, comparison: SubsetComparison) -> dict[str, list[float]]:
    """Of each region the channels' Shapley values; none where subsets are missing.

    Without any channel nothing is predicted: Dice 1 where the reference is empty, else 0.
    """
    if not comparison.is_complete:
        return {}
    shares = {}
    for region in comparison.regions:
        values = dict(zip(comparison.subsets, scores.loc[comparison.names, region], strict=True))
        shares[region] = shapley_values(values | {(): dice_of_nothing(model, region)}, len(comparison.channels))
    return shares


def dice_of_nothing(model: Model, region: str) -> float:
    """Mean Dice of empty predictions: the share of cases whose reference is empty."""
    return float((model.rows.loc[model.rows["region"] == region, "volume_reference_ml"] == 0).mean())


def tests_of(models: Sequence[Model], comparison: SubsetComparison) -> list[PairedTest]:
    """Dice of the first model against each other one, for each subset and mean; a test's region names both."""
    as_regions = []
    for model in models:
        regions = list(map(_labelled, model.rows["subset"], model.rows["region"]))
        as_regions.append(replace(model, rows=model.rows.drop(columns="subset").assign(region=regions)))
    lines = [*comparison.means, *comparison.names]
    labels = [_labelled(line, region) for line in lines for region in comparison.regions]
    return paired_tests(as_regions, labels, ("dice",))


def _labelled(subset: str, region: str) -> str:
    return f"{subset}: {region}"


def make_page(comparison: SubsetComparison, scores: Scores, shares: Shares, tests: Sequence[PairedTest]) -> Page:
    """All of the report in reading order.

    Args:
        comparison: with the models' names as they are shown, and with_means.
    """
    models, first_mean = comparison.models, next(iter(comparison.means))
    names = [model.name for model in models]
    means = {_labelled(mean, region): (mean, region) for mean in comparison.means for region in comparison.regions}
    of_means = [test for test in tests if test.region in means]
    over_all = [
        replace(model, rows=model.rows[model.rows["subset"] == first_mean], replicate_rows=()) for model in models
    ]
    browser = CaseBrowser(case_table(over_all, comparison.regions, {}), names, {}, {}, HINT)
    has_shares = comparison.is_complete
    sections = [
        Section("figure", "At a glance", pictures=subset_plots(comparison, scores)),
        Section("dice", "Dice of every subset", tables=[dice_table(comparison, scores, comparison.names)]),
        Section(
            "verdict",
            "Verdict",
            verdicts=[Verdict(test.verdict, verdict_line(names[0], test)) for test in of_means],
            paragraphs=reservations(comparison.notes, tests) if tests else comparison.notes,
        ),
        Section(
            "shares",
            "What each sequence adds",
            paragraphs=[MEANING_OF_SHARES] if has_shares else [],
            tables=[share_table(comparison, shares)] if has_shares else [],
            pictures=shapley_plots(comparison, shares) if has_shares else [],
        ),
        Section("cases", f"Cases, {first_mean}", browser=browser),
        Section("tests", "All paired tests", tables=tables_of_tests(names, tests), folded=True),
        Section("how", "How it was computed", paragraphs=DEFINITIONS, folded=True),
        provenance_section(comparison.provenance),
    ]
    return Page(
        comparison.title,
        headline(names[0], of_means, "means") if tests else _description(comparison, scores),
        caution(tests),
        make_forest(names[0], of_means, {}, means),
        dice_table(comparison, scores, comparison.means),
        sections,
    )


def _description(comparison: SubsetComparison, scores: Scores) -> str:
    """One sentence on a model that is compared with none."""
    (model,) = comparison.models
    mean = next(iter(comparison.means))
    listed = (f"{region} {number(value, 'dice')}" for region, value in scores[model.name].loc[mean].items())
    return f"{model.name}, {mean}: mean Dice {', '.join(listed)}."


HINT = "Predictions from subsets are not kept: this report has no slices of cases."
MEANING_OF_SHARES = (
    "What a sequence adds to this model's score on these cases: Shapley values of the mean Dice, the mean over all "
    "orders in which the sequences may be added one after the other. They sum to the Dice with all sequences less that "
    "of predicting nothing. They are no measure of what a sequence tells a reader, or another model."
)
DEFINITIONS = (
    f"Dice: {RULES['brats']}",
    "Means are over cases first, and then over subsets. Where a region says so, a prediction of it with fewer voxels "
    "than that was set to none, as papers report the enhancing tumour; the other figures are raw.",
    "Cases are paired by name, and a difference is the first model minus the other: the mean over cases, with a "
    "bootstrap interval over cases (BCa); of a mean, each case counts with its mean over the subsets. p: Wilcoxon's "
    "signed-rank test, corrected by Holm over all tests of this report.",
)


def dice_table(comparison: SubsetComparison, scores: Scores, lines: Iterable[str]) -> Table:
    """A row for each of these subsets or means."""
    rows = [
        (line, *(number(scores[model].loc[line, region], "dice") for region, model in _columns(comparison)))
        for line in lines
    ]
    return Table("Mean Dice over cases", ("sequences", *_header(comparison)), rows, groups=_groups(comparison))


def share_table(comparison: SubsetComparison, shares: Shares) -> Table:
    """A row for each channel, and their sum."""
    rows = [
        (channel, *(signed(shares[model][region][index], "dice") for region, model in _columns(comparison)))
        for index, channel in enumerate(comparison.channels)
    ]
    sums = (signed(sum(shares[model][region]), "dice") for region, model in _columns(comparison))
    caption = "Shapley values of the mean Dice"
    header = ("sequence", *_header(comparison))
    return Table(caption, header, [*rows, ("sum: all less none", *sums)], groups=_groups(comparison))


def _columns(comparison: SubsetComparison) -> list[tuple[str, str]]:
    """Region and model: the models beside each other."""
    return [(region, model.name) for region in comparison.regions for model in comparison.models]


def _header(comparison: SubsetComparison) -> list[str]:
    several = len(comparison.models) > 1
    return [model if several else region for region, model in _columns(comparison)]


def _groups(comparison: SubsetComparison) -> list[tuple[str, int]]:
    """Regions, above several models' names."""
    num_models = len(comparison.models)
    return [("", 1), *((region, num_models) for region in comparison.regions)] if num_models > 1 else []


def subsets_json(
    comparison: SubsetComparison,
    names: Mapping[str, str],
    scores: Scores,
    shares: Shares,
    tests: Sequence[PairedTest],
    figures: Sequence[str],
) -> str:
    """Everything, as strict JSON."""
    content = {
        "title": comparison.title,
        "names": names,
        "channels": comparison.channels,
        "subsets": comparison.names,
        "means": {
            mean: [subset_name(subset, comparison.channels) for subset in subsets]
            for mean, subsets in comparison.means.items()
        },
        "models": [
            {
                "name": model.name,
                "mean_dice": scores[model.name].to_dict("index"),
                "shapley": {
                    region: dict(zip(comparison.channels, values, strict=True))
                    for region, values in shares[model.name].items()
                },
                "cases": model.rows.to_dict("records"),
            }
            for model in comparison.models
        ],
        "tests": [asdict(test) for test in tests],
        "notes": comparison.notes,
        "provenance": comparison.provenance,
        "rules": RULES,
        "figures": figures,
    }
    return to_json(content, indent=1) + "\n"
