"""Which tissue each value is: of a model's predictions, by its dataset.json, or of a release, by what a user says."""

import json
from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path

from nnunetv2_cfnet.brats.editions import TISSUES, Edition
from nnunetv2_cfnet.errors import UserError

# Names of labels and regions in datasets for nnU-Net -> the tissues that they stand for; see _plain for the spelling.
SPELLINGS = {
    ("ED", "NCR/NET", "ET"): ("whole tumor", "complete tumor", "wt"),
    ("NCR/NET", "ET"): ("tumor core", "tc"),
    ("ED",): (
        "edema",
        "ed",
        "peritumoral edema",
        "peritumoral edematous tissue",
        "peritumoral edematous invaded tissue",
        "snfh",
        "surrounding non enhancing flair hyperintensity",
    ),
    ("NCR/NET",): (
        "ncr net",
        "ncr",
        "net",
        "netc",
        "necrosis",
        "necrotic core",
        "necrotic tumor core",
        "non enhancing tumor",
        "non enhancing tumor core",
        "necrotic and non enhancing tumor",
        "necrotic and non enhancing tumor core",
    ),
    ("ET",): ("enhancing tumor", "et", "gd enhancing tumor", "enhancing tissue"),
    ("RC",): ("resection cavity", "rc"),
}
TISSUES_OF = {spelling: set(tissues) for tissues, spellings in SPELLINGS.items() for spelling in spellings}


def labels_flag(labels: Mapping[str, int]) -> str:
    """As parse_labels reads them: ED=1,NCR=2,ET=3."""
    return ",".join(f"{tissue.partition('/')[0]}={labels[tissue]}" for tissue in TISSUES if tissue in labels)


def parse_labels(text: str, edition: Edition) -> dict[str, int]:
    """The label of each tissue in a release whose labels are others than its edition's.

    Args:
        text: as in ED=1,NCR=2,ET=3.
        edition: whose tissues these have to be.

    Raises:
        UserError: they are not, or two have one label.
    """
    pairs = [pair.partition("=")[::2] for pair in text.split(",")]
    try:
        labels = {tissue: int(label) for name, label in pairs for tissue in TISSUES_OF[_plain(name)]}
    except (KeyError, ValueError):
        labels = {}
    if set(labels) != set(edition.labels) or len(set(labels.values())) < len(pairs) or min(labels.values()) < 1:
        raise UserError(
            f"--labels {text} does not give each tissue of edition {edition.name} a label of its own from 1 on, as in "
            f"--labels {labels_flag(edition.labels)}."
        )
    return labels


def read_label_order(dataset_json: dict, file: Path) -> dict[int, str]:
    """The tissue of each label value in predictions.

    The key "label_order" gives it, which convert_brats writes. Without the key it follows from the names of labels and
    regions: a value is the one tissue that all names with it share and, if they share several, that no other name has.

    Args:
        dataset_json: of the model that predicted.
        file: where it was read, for messages.

    Raises:
        UserError: it does not follow from either.
    """
    if "label_order" in dataset_json:
        given = dataset_json["label_order"]
        is_order = (
            isinstance(given, dict)
            and set(given) <= set(TISSUES)
            and all(type(value) is int and value > 0 for value in given.values())
            and len(set(given.values())) == len(given) > 0
        )
        if not is_order:
            raise UserError(
                f"{file}: label_order is {given}; it must give tissues ({', '.join(TISSUES)}) a label each, such as "
                '{"ED": 1, "NCR/NET": 2, "ET": 3}.'
            )
        return {value: tissue for tissue, value in given.items()}

    labels = dataset_json.get("labels", {})
    try:
        named = _values_of_names(labels)
        tissues = {name: TISSUES_OF[_plain(name)] for name in named}
        order = {}
        for value in sorted(set().union(*named.values())):
            shared = set.intersection(*(tissues[name] for name in named if value in named[name]))
            if len(shared) > 1:
                shared = shared.difference(*(tissues[name] for name in named if value not in named[name]))
            (order[value],) = shared
    except (KeyError, ValueError, TypeError, AttributeError):
        order = {}
    if not order:
        raise UserError(
            f"{file}: its labels {json.dumps(labels)} do not say which value is which tissue. Understood are tissues "
            "by name (edema, ED, SNFH; non-enhancing tumor, necrosis, NCR, NET, NETC; enhancing tumor, ET; resection "
            "cavity, RC) and the regions whole tumor, tumor core and enhancing tumor together. Otherwise add what is "
            'the case to that file, such as "label_order": {"ED": 1, "NCR/NET": 2, "ET": 3}.'
        )
    _check_class_order(named, dataset_json, file)
    return order


def _plain(name: str) -> str:
    """A name in small letters, without British spelling and punctuation."""
    name = name.lower().replace("tumour", "tumor").replace("oedema", "edema").replace("nonenhancing", "non enhancing")
    return " ".join("".join(character if character.isalnum() else " " for character in name).split())


def _values_of_names(labels: dict) -> dict[str, list[int]]:
    """The values of each label or region but background and nnU-Net's label for voxels to ignore."""
    values = {name: value if isinstance(value, list) else [value] for name, value in labels.items()}
    return {name: list(map(index, value)) for name, value in values.items() if name not in ("background", "ignore")}


def _check_class_order(named: Mapping[str, Sequence[int]], dataset_json: dict, file: Path) -> None:
    """nnU-Net writes a region's entry of regions_class_order, later regions over earlier ones: it must be the label."""
    if all(len(values) == 1 for values in named.values()):
        return
    class_order = dataset_json.get("regions_class_order", [])
    if not isinstance(class_order, list) or any(type(label) is not int for label in class_order):
        raise UserError(
            f"{file}: regions_class_order is {json.dumps(class_order)}; it must list the labels of the regions, such "
            "as [1, 2, 3]. Copy the file from the model folder."
        )
    written = {value: label for values, label in zip(named.values(), class_order, strict=False) for value in values}
    if len(class_order) != len(named) or any(value != label for value, label in written.items()):
        raise UserError(
            f"{file}: regions_class_order {class_order} writes other values than the regions "
            f"{json.dumps(dict(named))} have, so that the labels of the predictions are not known. Add what is the "
            'case to that file, such as "label_order": {"ED": 1, "NCR/NET": 2, "ET": 3}.'
        )
