"""Tables and sentences of the report, as text: Markdown and HTML show the same ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas

from nnunetv2_cfnet.evaluation.metrics import METRICS
from nnunetv2_cfnet.evaluation.summary import summarise
from nnunetv2_cfnet.report.comparison import MAIN_METRICS, Comparison, Cost, Model, PairedTest

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """A table; `text_columns` hold words, the others numbers."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: Sequence[int] = (0,)


@dataclass(frozen=True)
class Verdict:
    """A sentence, and its verdict: "better", "worse" or "no difference shown"."""

    kind: str
    sentence: str


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
    unit = f" {metric.unit}" if metric.unit else ""
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
        "parameters": lambda cost: _scaled(cost.parameters, 1e6, 1, " M"),
        "FLOPs of a patch, forward": lambda cost: _scaled(cost.forward_flops, 1e9, 1, " G"),
        "epoch": lambda cost: _scaled(cost.epoch_s, 1, 1, " s"),
        "peak memory of a training step": lambda cost: _scaled(cost.step_peak_bytes, 2**20, 0, " MiB"),
        "measured on": lambda cost: cost.device or NOTHING,
        "notes": lambda cost: "; ".join(cost.notes),
    }
    rows = []
    for model in comparison.models:
        rows.append((model.name, *(column(model.cost or Cost(notes=("not measured",))) for column in columns.values())))
    return Table("Cost of training", ("model", *columns), rows, text_columns=(0, 5, 6))


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
