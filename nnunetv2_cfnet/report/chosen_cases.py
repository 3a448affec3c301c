"""Which cases are looked at first: the best, median and worst one, and those in which models differ most.

Cases are compared by the mean of Dice over the regions, by BraTS's rule for empty ones.
"""

from collections.abc import Sequence

import pandas

from nnunetv2_cfnet.report.comparison import Model


def mean_dice(model: Model) -> pandas.Series:
    """Of each case, over the regions."""
    return model.rows.groupby("case")["dice"].mean()


def largest_differences(models: Sequence[Model]) -> pandas.Series:
    """Of each case, first minus other model for the one that differs most; 0 where there is no other."""
    first, *others = [mean_dice(model) for model in models]
    differences = pandas.DataFrame({number: first - other for number, other in enumerate(others)}, index=first.index)
    if not others:
        return pandas.Series(0.0, first.index)
    return differences.apply(lambda row: row.iloc[row.abs().argmax()], axis=1)


def notable_cases(model: Model) -> dict[str, tuple[str, float]]:
    """The best, median and worst case by mean Dice over regions, with that; of fewer than three cases what there is."""
    ordered = sorted(mean_dice(model).items(), key=lambda item: (-item[1], item[0]))
    last = len(ordered) - 1
    places = {"best": 0, "median": last // 2, "worst": last}
    if last < 2:
        places = {"only": 0} if last == 0 else {"best": 0, "worst": last}
    return {rank: (str(ordered[place][0]), float(ordered[place][1])) for rank, place in places.items()}


def chosen_cases(models: Sequence[Model], num_different: int | None) -> dict[str, str]:
    """The cases that are shown in pictures, and what they are: "worst", "most different", .., or nothing of that.

    Args:
        models: the first one's best, median and worst case are among them.
        num_different: how many with the largest difference, of a single model how many of its worst; None: all cases.
    """
    chosen = {case: rank for rank, (case, _) in notable_cases(models[0]).items()}
    sizes = largest_differences(models).abs().sort_values(ascending=False, kind="stable")
    differing = [str(case) for case in sizes[sizes > 0].index][:num_different]
    for case in differing[:1]:
        chosen[case] = f"{chosen[case]}, most different" if case in chosen else "most different"
    in_order = len(models) == 1 or num_different is None
    for case in order_of_cases(models)[:num_different] if in_order else differing:
        chosen.setdefault(case, "")
    return chosen


def order_of_cases(models: Sequence[Model]) -> list[str]:
    """All of them: the first model's worst and the most different ones in turn, and so on to what is neither."""
    worst = mean_dice(models[0]).rank(method="first")
    sizes = largest_differences(models).abs()
    different = sizes[sizes > 0].rank(method="first", ascending=False)
    first = pandas.concat([worst, different], axis=1).min(axis=1)
    places = pandas.DataFrame({"first": first, "worst": worst})
    return [str(case) for case in places.sort_values(["first", "worst"]).index]
