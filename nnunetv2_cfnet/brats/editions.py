"""The editions of BraTS: their file names and labels, and nnU-Net's labels for them.

    edition  case                          sequences                labels of the source
    2018     Brats18_CBICA_AAB_1           _t1 _t1ce _t2 _flair     1 = NCR/NET, 2 = ED, 4 = ET
    2019     BraTS19_CBICA_AAB_1           the same                 the same
    2020     BraTS20_Training_001          the same                 the same
    2021     BraTS2021_00000               the same                 the same
    2023     BraTS-GLI-00000-000           -t1n -t1c -t2w -t2f      1 = NCR, 2 = ED, 3 = ET
    2024     BraTS-GLI-00000-100           the same                 the same, 4 = RC (resection cavity)
    msd      BRATS_001 (Task01, 4D files)  FLAIR, T1w, T1gd, T2w    1 = ED, 2 = NCR/NET, 3 = ET

What is written for nnU-Net has the order of nnU-Net's own BraTS converters, 1 = ED, 2 = NCR/NET, 3 = ET (4 = RC), and
the channels T1, T1ce, T2, FLAIR. Source: the releases' own descriptions.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nnunetv2_cfnet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

CHANNELS = ("T1", "T1ce", "T2", "FLAIR")
# Tissues by what nnU-Net's order calls 1, 2, 3 and 4.
TISSUES = ("ED", "NCR/NET", "ET", "RC")
REGIONS = {"whole_tumor": (1, 2, 3), "tumor_core": (2, 3), "enhancing_tumor": (3,)}


@dataclass(frozen=True)
class Edition:
    """One edition's names and labels.

    case_name: matches a whole case name; its group `patient` is what time points of a patient share.
    suffixes: of each channel in file names, and of the segmentation ("seg"); none where a case is one 4D file.
    labels: source label of each tissue.
    volumes: the channels of a 4D file, in its order.
    """

    name: str
    case_name: re.Pattern[str]
    labels: dict[str, int]
    suffixes: dict[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()

    @property
    def regions(self) -> dict[str, tuple[int, ...]]:
        """Regions in nnU-Net's labels."""
        return REGIONS | ({"resection_cavity": (4,)} if "RC" in self.labels else {})

    def to_nnunet(self, segmentation: "np.ndarray") -> "np.ndarray":
        """Source labels -> nnU-Net's, uint8.

        Raises:
            ValueError: values that are not of the edition; names them.
        """
        return _relabel(segmentation, {label: TISSUES.index(t) + 1 for t, label in self.labels.items()}, self.name)

    def from_nnunet(self, segmentation: "np.ndarray") -> "np.ndarray":
        """nnU-Net's labels -> the source's, uint8.

        Raises:
            ValueError: values that the edition has no label for; names them.
        """
        return _relabel(segmentation, {TISSUES.index(t) + 1: label for t, label in self.labels.items()}, self.name)


def _relabel(segmentation: "np.ndarray", mapping: dict[int, int], edition: str) -> "np.ndarray":
    import numpy as np  # commands read EDITIONS for their --help, which works without numpy

    relabelled = np.zeros(segmentation.shape, dtype=np.uint8)
    known = segmentation == 0
    for before, after in mapping.items():
        voxels = segmentation == before
        relabelled[voxels] = after
        known |= voxels
    if not known.all():
        unknown = np.unique(segmentation[~known])
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        raise ValueError(
            f"labels {unknown[:10].tolist()}{more} are not of edition {edition}, which has {sorted(mapping)}"
        )
    return relabelled


_UNTIL_2021 = {"NCR/NET": 1, "ED": 2, "ET": 4}
_SUFFIXES_UNTIL_2021 = {"T1": "_t1", "T1ce": "_t1ce", "T2": "_t2", "FLAIR": "_flair", "seg": "_seg"}
_SUFFIXES_SINCE_2023 = {"T1": "-t1n", "T1ce": "-t1c", "T2": "-t2w", "FLAIR": "-t2f", "seg": "-seg"}
_SINCE_2023 = re.compile(r"(?P<patient>BraTS-(?:GLI|SSA)-\d+)-\d+")  # glioma, and glioma of sub-Saharan Africa
# What else has such names, and other labels: in PED of 2024, 1 is enhancing tumour.
_OTHER_TUMOURS = {"PED": "paediatric tumours", "MEN": "meningioma", "MET": "metastases", "GOAT": "several tumours"}
_OF_OTHER_TUMOURS = re.compile(f"BraTS-({'|'.join(_OTHER_TUMOURS)})(?=-(?:RT-)?[0-9])", re.IGNORECASE)

EDITIONS = {
    edition.name: edition
    for edition in (
        Edition("2018", re.compile(r"(?P<patient>Brats18_\w+)_\d+"), _UNTIL_2021, _SUFFIXES_UNTIL_2021),
        Edition("2019", re.compile(r"(?P<patient>BraTS19_\w+)_\d+"), _UNTIL_2021, _SUFFIXES_UNTIL_2021),
        Edition(
            "2020",
            re.compile(r"(?P<patient>BraTS20_(?:Training|Validation|Testing)_\d+)"),
            _UNTIL_2021,
            _SUFFIXES_UNTIL_2021,
        ),
        Edition("2021", re.compile(r"(?P<patient>BraTS2021_\d+)"), _UNTIL_2021, _SUFFIXES_UNTIL_2021),
        Edition("2023", _SINCE_2023, {"NCR/NET": 1, "ED": 2, "ET": 3}, _SUFFIXES_SINCE_2023),
        Edition("2024", _SINCE_2023, {"NCR/NET": 1, "ED": 2, "ET": 3, "RC": 4}, _SUFFIXES_SINCE_2023),
        Edition(
            "msd",
            re.compile(r"(?P<patient>BRATS_\d+)"),
            {"ED": 1, "NCR/NET": 2, "ET": 3},
            volumes=("FLAIR", "T1", "T1ce", "T2"),
        ),
    )
}
AUTO = "auto"


def editions_of(case_name: str) -> list[str]:
    """The editions whose case names look like this."""
    return [name for name, edition in EDITIONS.items() if edition.case_name.fullmatch(case_name)]


def refuse_other_tumours(names: Iterable[str], where: str) -> None:
    """Files or cases of other tumours, which no edition has the labels for.

    Raises:
        UserError: there is one; names the tumour.
    """
    for name in names:
        if match := _OF_OTHER_TUMOURS.match(name):
            raise UserError(
                f"{match[0]} is not supported: {where} holds {name}, which is of {_OTHER_TUMOURS[match[1].upper()]}, "
                "and only glioma is known here (BraTS-GLI, BraTS-SSA). Give a folder without such cases."
            )


def decide_edition(case_names: Iterable[str], where: str) -> Edition:
    """The one edition that all case names are of.

    Raises:
        UserError: there are none, they are of several editions, or names alone do not tell (2023 and 2024); says how to
            choose with --edition.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for name in case_names:
        found.setdefault(tuple(editions_of(name)), []).append(name)
    found.pop((), None)
    if not found:
        raise UserError(f"{where} holds no cases with BraTS names; say what they are with --edition.")
    if len(found) > 1:
        listing = "; ".join(
            f"{' or '.join(editions)}: {len(names)}, as {names[0]}" for editions, names in found.items()
        )
        raise UserError(f"{where} holds cases of several editions ({listing}). Give one of them a folder of its own.")
    (editions,) = found
    if len(editions) > 1:
        raise UserError(
            f"{where}: cases are named as in {' and '.join(editions)} ({found[editions][0]}), whose labels differ "
            "(2024 has 4 = resection cavity). Say which with --edition."
        )
    return EDITIONS[editions[0]]
