"""nnU-Net's dataset.json, as far as planning and training read it."""

from pathlib import Path
from typing import Any

from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.files.json_files import read_dataset_json
from nnunetv2_cfnet.planning.modality_groups import channel_names_of
from nnunetv2_cfnet.planning.plans import MALFORMED


def read_dataset(file: Path, remedy: str) -> dict[str, Any]:
    """A dataset.json that nnU-Net can plan and train with.

    Args:
        remedy: what to do if it can't be read, a sentence for the message.

    Raises:
        UserError: it can't be read, or nnU-Net would stop at its channels, labels, regions or reader; says which.
    """
    dataset_json = read_dataset_json(file, remedy)
    if not isinstance(dataset_json.get("labels"), dict):
        raise UserError(f"{file}: labels={dataset_json.get('labels')!r} is missing or wrong; nnU-Net needs it.")
    try:
        channel_names_of(dataset_json)
        LabelManager(dataset_json["labels"], dataset_json.get("regions_class_order"))
    except (ValueError, *MALFORMED) as error:
        raise UserError(f"{file}: {error or 'regions_class_order is missing or wrong'}") from error
    return dataset_json
