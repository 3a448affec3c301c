"""What can be wrong with a case, and what was found."""

from enum import Enum
from typing import NamedTuple


class Severity(str, Enum):
    """error: the case can't be converted. warning: it can, and somebody should look. repaired: it was mended."""

    ERROR = "error"
    WARNING = "warning"
    REPAIRED = "repaired"


class Kind(str, Enum):
    """The defects that are looked for."""

    MISSING = "missing"  # a modality without a file: --allow-missing, if others have one
    UNREADABLE = "unreadable"
    DUPLICATE = "duplicate"  # two files for the same thing
    SHAPE = "shape"  # of modalities or segmentation differs
    GEOMETRY = "geometry"  # spacing, origin or direction differ, and the arrays do not align
    HEADER = "header"  # spacing, origin or direction differ, but the arrays align: --fix-headers
    LABELS = "labels"  # values that are not of the edition
    NON_FINITE = "non-finite"
    EMPTY = "empty"  # a modality of one value
    OUTSIDE = "outside"  # warning: segmentation outside the brain
    CLIPPED = "clipped"  # warning: the brain reaches the edge of the image
    SATURATED = "saturated"  # warning: many voxels share the highest intensity
    BRAIN = "brain"  # warning: a modality's brain has another shape than the others'
    SEQUENCE = "sequence"  # warning: T1 or T1ce seems to be exchanged with T2 or FLAIR
    ELSEWHERE = "elsewhere"  # warning: what is labelled is not bright on FLAIR
    FEW_LABELS = "few labels"  # warning: a segmentation that is empty or has one label
    MEANING = "meaning"  # warning: T1ce is not brightest in the label of ET; an error where most cases say so
    ABSENT = "absent"  # warning: a label of the edition that no case has
    UNCLAIMED = "unclaimed"  # warning: a NIfTI file that belongs to no case


NO_CASE = "-"  # in a finding's place for the case: it is about the release as a whole


class Finding(NamedTuple):
    """One line of the table: a case, how bad it is, what it is, and the message that names file and value."""

    case: str
    severity: Severity
    kind: Kind
    message: str
