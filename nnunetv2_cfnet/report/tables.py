"""Tables and sentences of the report, as text: Markdown and HTML show the same ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas

from nnunetv2_cfnet.evaluation.metrics import METRICS
from nnunetv2_cfnet.evaluation.summary import summarise
from nnunetv2_cfnet.report.comparison import MAIN_METRICS, Comparison, Cost, Model, PairedTest

NOTHING = "–"
ALL_REGIONS = "mean of regions"
MOST_DETAILED = 2  # other models of which the headline has numbers; there is no room for more on the first screen
MOST_REGIONS = 6  # that the first screen's table has columns for


@dataclass(frozen=True)
class Table:
    """A table; `text_columns` hold words, the others numbers.

    groups: title and number of columns, from left to right, of what stands above the header; "" above the first.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: Sequence[int] = (0,)
    groups: Sequence[tuple[str, int]] = ()

    @property
    def full_header(self) -> list[str]:
        """The header with the groups in its cells, as in "Dice, tumor_core"."""
        titles = [title for title, span in self.groups for _ in range(span)] or [""] * len(self.header)
        return [f"{title}, {cell}" if title else cell for title, cell in zip(titles, self.header, strict=True)]


@dataclass(frozen=True)
class Verdict:
    """A sentence, and its verdict: "better", "worse" or "no difference shown"."""

    kind: str
    sentence: str


def headline(
    first: str,
    tests: Sequence[PairedTest],
    things: str = "regions",
    smallest_differences: Mapping[str, float] | None = None,
) -> str:
    """One sentence on the tests: per metric, in how many regions the first model is what, and by how much.

    Args:
        first: the first model's name.
        tests: of each other model in turn; of more than MOST_DETAILED, it is not said by how much.
        things: what a test is of.
        smallest_differences: metric -> the smallest difference that matters, if one was given.
    """
    others = dict.fromkeys(test.other for test in tests)
    is_detailed = len(others) <= MOST_DETAILED
    clauses: list[str] = []
    for other in others:
        metrics = []
        for metric in dict.fromkeys(test.metric for test in tests):
            of_metric = [test for test in tests if (test.other, test.metric) == (other, metric)]
            smallest = (smallest_differences or {}).get(metric, 0)
            metrics.append(_clause(of_metric, things, smallest, is_detailed=is_detailed))
        against = f"{first} against" if is_detailed or not clauses else "Against"
        clauses.append(f"{against} {other}: {'; '.join(filter(None, metrics))}.")
    return " ".join(clauses)


def _clause(tests: Sequence[PairedTest], things: str, smallest: float, *, is_detailed: bool) -> str:
    """As in "Dice better in 2 of 3 regions (+0.012 to +0.034), no difference shown in 1 (+0.002)"."""
    parts: list[str] = []
    for kind in ("better", "worse", "no difference shown"):
        differences = sorted(test.difference for test in tests if test.verdict == kind)
        if differences:
            of_all = "" if parts else f" of {len(tests)} {things}" if is_detailed else f" of {len(tests)}"
            metric = tests[0].metric
            sizes = [_range(differences, metric)] if is_detailed else []
            in_brackets = ", ".join(sizes + _too_small(differences, metric, smallest))
            parts.append(f"{kind} in {len(differences)}{of_all}" + (f" ({in_brackets})" if in_brackets else ""))
    return f"{METRICS[tests[0].metric].title} {', '.join(parts)}" if parts else ""


def _range(differences: Sequence[float], metric: str) -> str:
    """As in "−0.73 to −0.52 mm", of ascending ones."""
    ends = dict.fromkeys(signed(value, metric) for value in (differences[0], differences[-1]))
    return f"{' to '.join(ends)}{_unit(metric)}"


def _too_small(differences: Sequence[float], metric: str, smallest: float) -> list[str]:
    """As in "all below 1 mm"; nothing where none is."""
    num_small = sum(abs(difference) < smallest for difference in differences)
    which = "" if len(differences) == 1 else "all " if num_small == len(differences) else f"{num_small} "
    return [f"{which}below {smallest:g}{_unit(metric)}"] if num_small else []


def _unit(metric: str) -> str:
    return f" {METRICS[metric].unit}" if METRICS[metric].unit else ""


def description(model: Model, regions: Sequence[str]) -> str:
    """One sentence on a model that is compared with none."""
    summary = summary_of(model)
    parts = []
    for metric, statistic in (("dice", "mean"), ("hd95", "median")):
        values = _by_region(summary, metric, statistic)
        listed = ", ".join(f"{region} {number(value, metric)}{_unit(metric)}" for region, value in values.items())
        parts.append(f"{statistic} {METRICS[metric].title}{',' if ALL_REGIONS in values else ''} {listed}")
    return f"{model.name}, {summary[regions[0]]['num_cases']} cases: {'; '.join(parts)}."


def _by_region(summary: Mapping[str, dict], metric: str, statistic: str) -> dict[str, float]:
    """The statistic of each region; of more than MOST_REGIONS the mean of all of them alone."""
    values = {region: of_region["metrics"][metric]["brats"][statistic] for region, of_region in summary.items()}
    return values if len(values) <= MOST_REGIONS else {ALL_REGIONS: float(np.mean(list(values.values())))}


def overview_table(comparison: Comparison) -> Table:
    """What one looks at first: mean Dice and median HD95 of each region, and cost where there is any."""
    regions = list(comparison.regions) if len(comparison.regions) <= MOST_REGIONS else [ALL_REGIONS]
    shown = {"mean Dice": ("dice", "mean"), "median HD95, mm": ("hd95", "median")}
    costs = _cost_columns("FLOPs", "peak memory") if any(model.cost for model in comparison.models) else {}
    rows = []
    for model in comparison.models:
        summary = summary_of(model)
        cells = [
            number(_by_region(summary, metric, statistic)[region], metric)
            for metric, statistic in shown.values()
            for region in regions
        ]
        rows.append((model.name, *cells, *(column(model.cost or Cost()) for column in costs.values())))
    groups = [("", 1), *((title, len(regions)) for title in shown), ("cost", len(costs))]
    header = ("model", *regions, *regions, *costs)
    return Table("At a glance", header, rows, groups=[group for group in groups if group[1]])


def verdicts(comparison: Comparison) -> list[Verdict]:
    """A sentence for each other model, region and for Dice and HD95."""
    first = comparison.models[0].name
    return [
        Verdict(test.verdict, verdict_line(first, test)) for test in comparison.tests if test.metric in MAIN_METRICS
    ]


def verdict_line(first: str, test: PairedTest) -> str:
    """As in "tumor_core, Dice: A is better than B (mean difference +0.021, 95 % interval 0.004 to 0.040, ..)"."""
    metric = METRICS[test.metric]
    claim = (
        f"no difference shown between {first} and {test.other}"
        if test.verdict == "no difference shown"
        else f"{first} is {test.verdict} than {test.other}"
    )
    unit = _unit(test.metric)
    kind = "mean" if metric.bounded else "median"
    facts = f"{kind} difference {signed(test.difference, test.metric)}{unit}"
    if test.interval is None:
        cases = "1 case" if test.num_cases == 1 else f"{test.num_cases} cases"
        facts += f", {cases}: too few for an interval"
    else:
        facts += f", 95 % interval {interval_text(test)}{unit}, {test.num_cases} cases"
        facts += f"; Wilcoxon p {p_text(test.p_value)}, with Holm {p_text(test.p_holm)}"
    return f"{test.region}, {metric.title}: {claim} ({facts})"


def tables_of_tests(models: Sequence[str], tests: Sequence[PairedTest]) -> list[Table]:
    """For each model but the first, all tests against it."""
    header = ("region", "metric", "cases", "difference", "95 % interval", "p", "p, Holm", "wins", "ties", "losses")
    tables = []
    for other in models[1:]:
        rows = [
            (
                test.region,
                _metric_name(test.metric),
                str(test.num_cases),
                signed(test.difference, test.metric),
                interval_text(test),
                p_text(test.p_value),
                p_text(test.p_holm),
                str(test.wins),
                str(test.ties),
                str(test.losses),
                test.verdict,
            )
            for test in tests
            if test.other == other
        ]
        caption = f"{models[0]} against {other}"
        tables.append(Table(caption, (*header, "verdict"), rows, text_columns=(0, 1, len(header))))
    return tables


def summary_tables(comparison: Comparison) -> list[Table]:
    """For each region, mean and median of each model's metrics; Dice by both rules for empty regions."""
    summaries = {model.name: summary_of(model) for model in comparison.models}
    header = ["metric", *(f"{name}, {value}" for name in summaries for value in ("mean", "median"))]
    tables = []
    for region in comparison.regions:
        rows = []
        for metric in METRICS:
            by_model = [summary[region]["metrics"][metric]["brats"] for summary in summaries.values()]
            cells = [number(values[value], metric) for values in by_model for value in ("mean", "median")]
            name = _metric_name(metric)
            if metric == "dice_nnunet":
                counts = [str(values["num_cases"]) for values in by_model]
                name += f" ({counts[0] if len(set(counts)) == 1 else ' and '.join(counts)} cases)"
            rows.append((name, *cells))
        tables.append(Table(region, header, rows))
    return tables


def summary_of(model: Model) -> dict[str, dict]:
    """Of each region, over the cases of all replicates: an empty region is one in each of them by itself."""
    return summarise(pandas.concat(model.replicate_rows) if model.replicate_rows else model.rows)


def rank_table(comparison: Comparison) -> Table:
    rows = sorted(comparison.ranks.items(), key=lambda item: item[1])
    caption = f"Mean rank among {len(rows)} models; 1 is best"
    return Table(caption, ("model", "mean rank"), [(name, f"{rank:.2f}") for name, rank in rows])


def cost_table(comparison: Comparison) -> Table:
    columns: dict[str, Callable[[Cost], str]] = {
        **_cost_columns("FLOPs of a patch, forward", "peak memory of a training step"),
        "measured on": lambda cost: cost.device or NOTHING,
        "notes": lambda cost: "; ".join(cost.notes),
    }
    rows = []
    for model in comparison.models:
        rows.append((model.name, *(column(model.cost or Cost(notes=("not measured",))) for column in columns.values())))
    return Table("Cost of training", ("model", *columns), rows, text_columns=(0, 5, 6))


def _cost_columns(flops: str, memory: str) -> dict[str, Callable[[Cost], str]]:
    """What is known of a cost, by heading; two of them are given."""
    return {
        "parameters": lambda cost: _scaled(cost.parameters, 1e6, 1, " M"),
        flops: lambda cost: _scaled(cost.forward_flops, 1e9, 1, " G"),
        "epoch": lambda cost: _scaled(cost.epoch_s, 1, 1, " s"),
        memory: lambda cost: _scaled(cost.step_peak_bytes, 2**20, 0, " MiB"),
    }


def replicate_table(comparison: Comparison) -> Table | None:
    """Mean Dice of each replicate and how far they are apart; nothing where no model has several."""
    rows = []
    for model in comparison.models:
        for region in comparison.regions:
            means = [float(rows[rows["region"] == region]["dice"].mean()) for rows in model.replicate_rows]
            if means:
                values = ", ".join(number(mean, "dice") for mean in means)
                deviation = number(float(np.std(means, ddof=1)), "dice")
                rows.append((model.name, region, values, number(max(means) - min(means), "dice"), deviation))
    header = ("model", "region", "mean Dice of each replicate", "largest minus smallest", "standard deviation")
    return Table("Replicates", header, rows, text_columns=(0, 1)) if rows else None


def interval_text(test: PairedTest) -> str:
    if test.interval is None:
        return NOTHING
    low, high = (number(limit, test.metric) for limit in test.interval)
    return f"{low} to {high}"


def number(value: float | None, metric: str) -> str:
    """Three decimals, or two of a distance or volume; more where they would make 0 or 1 of another number."""
    if value is None or not np.isfinite(value):
        return NOTHING
    for decimals in range(3 if METRICS[metric].bounded else 2, 7):
        text = f"{value:.{decimals}f}"
        if abs(float(text)) not in (0, 1) or float(text) == value:
            break
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "−")


def p_text(p_value: float | None) -> str:
    if p_value is None:
        return NOTHING
    return "< 0.0001" if p_value < 1e-4 else f"{p_value:.2g}"


def signed(value: float, metric: str) -> str:
    """number, with + before what is above zero."""
    text = number(value, metric)
    return f"+{text}" if value > 0 else text


def _metric_name(metric: str) -> str:
    title, unit = METRICS[metric].title, METRICS[metric].unit
    return f"{title}, {unit}" if unit else title


def _scaled(value: float | None, unit: float, decimals: int, suffix: str) -> str:
    return NOTHING if value is None else f"{value / unit:,.{decimals}f}{suffix}".replace(",", " ")
