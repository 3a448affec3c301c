"""`nnunetv2_cfnet evaluate --html`: the page of a single model's predictions, beside what evaluate writes."""

import shlex
import sys
from pathlib import Path

from nnunetv2_cfnet.evaluation.evaluate import evaluate
from nnunetv2_cfnet.evaluation.summary import versions
from nnunetv2_cfnet.files.whole import check_place, whole_file
from nnunetv2_cfnet.report.collect import images_beside
from nnunetv2_cfnet.report.comparison import Comparison, Model
from nnunetv2_cfnet.report.pages import to_html
from nnunetv2_cfnet.report.presentation import Presentation
from nnunetv2_cfnet.report.write import HTML, make_page, size_of_page


def evaluate_and_show(
    labels: Path,
    predictions: Path,
    dataset_json_file: Path | None,
    out: Path | None,
    *,
    num_processes: int,
    presentation: Presentation,
) -> None:
    """Evaluate a folder of predictions as `evaluate` does, and write report.html besides.

    Args:
        labels: folder of reference segmentations.
        predictions: folder with one for each.
        dataset_json_file: PREDICTIONS/dataset.json if not given.
        out: where the results go; PREDICTIONS if not given.
        num_processes: at a time; each holds one case.
        presentation: how the page shows it.

    Raises:
        UserError: something is wrong with the input; nothing is written then.
    """
    check_place(out or predictions, (HTML,))
    rows, pairs, labelling, dataset_json = evaluate(labels, predictions, dataset_json_file, out, num_processes)
    folder = out or predictions
    model = Model(predictions.resolve().name, rows, {case: pair.prediction for case, pair in pairs.items()})
    comparison = Comparison(
        title=f"Predictions of {labels.resolve()}",
        regions=labelling.regions,
        models=[model],
        tests=[],
        ranks={},
        references={case: pair.reference for case, pair in pairs.items()},
        images=images_beside(labels, pairs, dataset_json),
        ignore_label=labelling.ignore_label,
        provenance={
            "command": shlex.join(["nnunetv2_cfnet", *sys.argv[1:]]),
            "predictions": str(predictions.resolve()),
            **versions(),
        },
    )
    with whole_file(folder / HTML) as unfinished:
        unfinished.write_text(to_html(make_page(comparison, presentation)), encoding="utf-8")
    print(f"{folder / HTML}: {size_of_page(folder)}")
