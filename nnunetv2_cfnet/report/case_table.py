"""The table of every case: each model's Dice, and the first minus each other model, by region and over all regions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas

from nnunetv2_cfnet.report.chosen_cases import order_of_cases
from nnunetv2_cfnet.report.comparison import Model
from nnunetv2_cfnet.report.tables import ALL_REGIONS, Table, number, signed

MAX_CELLS = 100_000  # of a page that is ready at once


@dataclass(frozen=True)
class CaseTable:
    """What a reader sorts, and opens a case from.

    cases: of its rows, as they are called; the first column.
    marks: what the case of each row is ("worst"), or nothing.
    """

    table: Table
    cases: Sequence[str]
    marks: Sequence[str]


def case_table(models: Sequence[Model], regions: Sequence[str], chosen: Mapping[str, str]) -> CaseTable:
    """Lay out the table; the worst and the most different cases come first.

    Args:
        models: with rows of the same cases.
        regions: in the order of their columns. Without those where all together would be more than MAX_CELLS.
        chosen: case -> what it is, for the marks.
    """
    cases = order_of_cases(models)
    of_models = [model.rows.pivot(index="case", columns="region", values="dice").loc[cases] for model in models]
    groups: dict[str, list[pandas.Series]] = {}
    if len(regions) > 1:
        groups[ALL_REGIONS] = [dice.mean(axis=1) for dice in of_models]
    if not groups or len(cases) * (1 + len(regions)) * (2 * len(models) - 1) <= MAX_CELLS:
        groups |= {region: [dice[region] for dice in of_models] for region in regions}
    columns = [cases]
    for first, *others in groups.values():
        columns += [[number(value, "dice") for value in values] for values in (first, *others)]
        columns += [[signed(value, "dice") for value in first - other] for other in others]
    header = [*(model.name for model in models), *_differences(models)]
    table = Table(
        "Dice of every case",
        ("case", *header * len(groups)),
        list(zip(*columns, strict=True)),
        groups=[("", 1), *((title, len(header)) for title in groups)],
    )
    return CaseTable(table, cases, [chosen.get(case, "") for case in cases])


def _differences(models: Sequence[Model]) -> list[str]:
    _, *others = models
    return ["difference"] if len(others) == 1 else [f"minus {other.name}" for other in others]
