"""What is wrong with a case of BraTS: everything, not just the first thing.

Files are read whole, one case at a time. What can be measured despite a defect is measured: a file that can't be read
does not keep the others from being checked. The constants below are what counts as wrong.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK

from nnunetv2_cfnet.brats.editions import CHANNELS, Edition, editions_of
from nnunetv2_cfnet.brats.findings import NO_CASE, Finding, Kind, Severity
from nnunetv2_cfnet.brats.labels import labels_flag
from nnunetv2_cfnet.brats.sources import SEGMENTATION, Source, SourceCase
from nnunetv2_cfnet.files.volumes import (
    BROKEN,
    Geometry,
    count_non_finite,
    geometry_of,
    is_broken_link,
    listing,
    name_for_itk,
    shared_geometry,
    unreadable,
)

# Voxels align although headers differ: brains overlap by so much (skull-stripped by one mask, they nearly coincide), ..
ALIGNED_DICE = 0.9
# .. so much of the segmentation lies in the brain, ..
ALIGNED_SHARE_INSIDE = 0.95
# .. and no mirroring fits better (see _aligned) by the mutual information of intensities in so many bins.
BINS = 32

SHARE_OUTSIDE = 0.05  # of the segmentation, that may lie outside the brain
# A brain that was cut at its bottom, where BraTS's images often end in the brain stem, covers less of the image's face.
SHARE_OF_FACE = 0.1
SHARE_SATURATED = 0.01  # of the brain, that may have the highest intensity of all
# Brains of two patients overlap by up to 0.95 where both are registered, those of one case by over 0.999.
DICE_OF_ONE_BRAIN = 0.97
# Mean FLAIR of what is labelled over that of the brain, in the brain's standard deviations: lesions have over 1.2, the
# same segmentations on other patients under 0.4.
LEAST_ON_FLAIR = 0.6
FEW_VOXELS = 50  # of a tissue, whose mean says nothing

WARNINGS = (  # all others are errors
    Kind.OUTSIDE,
    Kind.CLIPPED,
    Kind.SATURATED,
    Kind.BRAIN,
    Kind.SEQUENCE,
    Kind.ELSEWHERE,
    Kind.FEW_LABELS,
    Kind.MEANING,
)


@dataclass
class Volume:
    """A modality or the segmentation as it was read.

    title: how messages call it: its file, and which volume of it in a 4D file.
    array: (z, y, x), a view of what `image` holds.
    """

    title: str
    image: SimpleITK.Image
    array: np.ndarray

    @property
    def geometry(self) -> Geometry:
        return geometry_of(self.image)


class TissueSignal(NamedTuple):
    """How many voxels of a tissue a case has, and their mean in T1ce and FLAIR, NaN where it can't be measured."""

    num_voxels: int
    t1ce: float
    flair: float


class Inspection(NamedTuple):
    """What was found in one case, and what is compared with other cases'.

    digests: of each modality's voxels.
    tissues: that are labelled; none without a segmentation, or one that can't be read or has other labels.
    """

    findings: list[Finding]
    digests: dict[str, bytes]
    tissues: dict[str, TissueSignal]


def inspect_case(case: SourceCase, edition: Edition) -> Inspection:
    """Everything that is wrong with a case: files, then voxels, then how they lie."""
    defects = _check_files(case, edition)
    volumes: dict[str, Volume] = {}
    for path, contents in _first_files(case).items():
        volumes_of_file, defects_of_file = _read(path, contents, edition)
        volumes |= volumes_of_file
        defects += defects_of_file
    segmentation = volumes.pop(SEGMENTATION, None)
    modalities = {channel: volumes[channel] for channel in CHANNELS if channel in volumes}
    digests = {
        channel: hashlib.blake2b(np.ascontiguousarray(volume.array).data).digest()
        for channel, volume in volumes.items()
        if not _is_empty(volume)
    }

    defects += _check_equal(digests, volumes)
    for volume in modalities.values():
        defects += _check_intensities(volume)
    unknown = _check_labels(segmentation, edition, case.name) if segmentation else []
    defects += unknown
    tissues: dict[str, TissueSignal] = {}
    if modalities:
        misplaced, images, labelled, brain = _check_against_most(modalities, segmentation)
        other_brains = _check_brains(images, brain)
        exchanged = [] if other_brains else _check_sequences(images, brain)
        defects += misplaced + other_brains + exchanged
        if labelled:
            elsewhere = _check_outside(labelled, brain) or _check_elsewhere(labelled, images, brain, edition)
            defects += [] if exchanged else elsewhere
            if not unknown:
                tissues = _measure_tissues(labelled, {} if elsewhere else images, edition)
                defects += _check_tissues(labelled, tissues, edition)
    findings = [
        Finding(case.name, Severity.WARNING if kind in WARNINGS else Severity.ERROR, kind, message)
        for kind, message in defects
    ]
    return Inspection(findings, digests, tissues)


def check_source(source: Source, inspections: Sequence[Inspection]) -> list[Finding]:
    """What only shows across cases: equal voxels, lost segmentations, and files that no case claims."""
    findings = []
    first_with: dict[bytes, str] = {}
    for case, inspection in zip(source.cases, inspections, strict=True):
        # not within the case: that is one of its own findings
        twins = {first_with[digest] for digest in inspection.digests.values() if digest in first_with}
        for twin in sorted(twins):
            message = f"has the same voxels as {twin}. Keep one of the two, or fetch them anew."
            findings.append(Finding(case.name, Severity.ERROR, Kind.DUPLICATE, f"{case.name} {message}"))
        first_with |= {digest: case.name for digest in inspection.digests.values() if digest not in first_with}
    tissues = [inspection.tissues for inspection in inspections]
    return [
        *findings,
        *_check_meanings(source, tissues),
        *_check_absent(source, tissues),
        *_check_lost_segmentations(source),
        *(
            Finding(NO_CASE, Severity.WARNING, Kind.UNCLAIMED, _unclaimed(path, source.edition))
            for path in source.unclaimed
        ),
    ]


def _check_meanings(source: Source, tissues: Sequence[Mapping[str, TissueSignal]]) -> list[Finding]:
    """An error if most cases with enhancing tumour have it where T1ce is brighter elsewhere."""
    told = [(case, brightest) for case in tissues if (brightest := _brightest(case))]
    wrong = [case for case, brightest in told if brightest != "ET"]
    if 2 * len(wrong) <= len(told):
        return []
    labels = source.edition.labels
    readings = Counter(tuple(_seeming_labels(case, labels).items()) for case in wrong)
    seeming = dict(max(readings.items(), key=lambda item: (len(item[0]), item[1]))[0])
    message = (
        f"In {len(wrong)} of {len(told)} cases that have label {labels['ET']} = ET, the mean T1ce is higher in another "
        f"label. By T1ce and FLAIR, labels seem to be {', '.join(f'{label} = {t}' for t, label in seeming.items())}."
    )
    if source.labels_given:
        return [Finding(NO_CASE, Severity.WARNING, Kind.MEANING, f"{message} They are taken as --labels has them.")]
    example = f": --labels {labels_flag(labels | seeming)}" if len(seeming) > 1 else ""
    remedy = f"Look at some cases, and fetch the release anew or say with --labels what the labels are{example}"
    return [Finding(NO_CASE, Severity.ERROR, Kind.MEANING, f"{message} {remedy}")]


def _seeming_labels(tissues: Mapping[str, TissueSignal], labels: Mapping[str, int]) -> dict[str, int]:
    """What labels seem to be: enhancing tumour is brightest on T1ce, and of two others oedema on FLAIR."""
    measured = [tissue for tissue, signal in tissues.items() if signal.num_voxels >= FEW_VOXELS and tissue != "RC"]
    enhancing = max(measured, key=lambda tissue: tissues[tissue].t1ce)
    others = sorted((t for t in measured if t != enhancing), key=lambda t: tissues[t].flair)
    seeming = {"ET": enhancing} | (dict(zip(("NCR/NET", "ED"), others, strict=True)) if len(others) == 2 else {})
    return {tissue: labels[read_as] for tissue, read_as in seeming.items()}


def _check_absent(source: Source, tissues: Sequence[Mapping[str, TissueSignal]]) -> list[Finding]:
    """A warning for each tissue of the edition that is labelled nowhere."""
    if not any(tissues):
        return []
    return [
        Finding(
            NO_CASE,
            Severity.WARNING,
            Kind.ABSENT,
            f"No case has label {label} = {tissue} of edition {source.edition.name}. Is it of that edition?",
        )
        for tissue, label in source.edition.labels.items()
        if not any(tissue in case for case in tissues)
    ]


def _unclaimed(path: Path, edition: Edition) -> str:
    if is_broken_link(path):
        return (
            f"{path} is a link to {path.readlink()}, which is not there, and is left out. Fetch that if it is a case."
        )
    return f"{path} belongs to no case and is left out: give it the name of edition {edition.name} if it should."


def _check_lost_segmentations(source: Source) -> list[Finding]:
    """A warning for each case without a segmentation among cases that have one."""
    folders = {case.name: _folder_of(case) for case in source.cases}
    labelled = {folders[case.name] for case in source.cases if case.is_training}
    message = "has no segmentation, though other cases in {} have one: it becomes a test case. Fetch it if it was lost."
    return [
        Finding(case.name, Severity.WARNING, Kind.MISSING, f"{case.name} {message.format(folders[case.name])}")
        for case in source.cases
        if not case.is_training and folders[case.name] in labelled and not re.search("Validation|Testing", case.name)
    ]


def _folder_of(case: SourceCase) -> Path:
    """Where a case lies beside others: its own folder's, if it has one."""
    folder = next(paths[0] for paths in case.files.values() if paths).parent
    return folder.parent if folder.name == case.name else folder


# Files


Defects = list[tuple[Kind, str]]


def _check_files(case: SourceCase, edition: Edition) -> Defects:
    """Modalities without a file, and with more than one."""
    defects = []
    if missing := case.lacking:
        some_file = next(paths[0] for paths in case.files.values() if paths)
        if edition.volumes:
            expected = f"imagesTr/{case.name}.nii.gz"
        else:
            expected = ", ".join(f"{case.name}{edition.suffixes[channel]}.nii.gz" for channel in missing)
        or_fill = "; --allow-missing writes a zero image for it" if case.is_incomplete else ""
        defects.append(
            (
                Kind.MISSING,
                f"{', '.join(missing)}: no file of that modality (such as {expected}, as {some_file.name} lies in "
                f"{some_file.parent}). Fetch it from the release{or_fill}.",
            )
        )
    for paths in dict.fromkeys(tuple(paths) for paths in case.files.values() if len(paths) > 1):
        listing = " and ".join(str(path) for path in paths)
        defects.append((Kind.DUPLICATE, f"{listing} are the same thing twice. Keep one of them."))
    return defects


def _first_files(case: SourceCase) -> dict[Path, list[str]]:
    """What each file holds; of duplicates, the first."""
    contents: dict[Path, list[str]] = {}
    for content, paths in case.files.items():
        if paths:
            contents.setdefault(paths[0], []).append(content)
    return contents


def _read(path: Path, contents: list[str], edition: Edition) -> tuple[dict[str, Volume], Defects]:
    """The volumes of a file, none if it is of no use."""
    try:
        num_non_finite = count_non_finite(path)
        image = SimpleITK.ReadImage(name_for_itk(path))
    except BROKEN as error:
        return {}, [(Kind.UNREADABLE, unreadable(path, error, "Fetch it anew."))]
    size = image.GetSize()
    expected = () if contents == [SEGMENTATION] else edition.volumes
    if image.GetNumberOfComponentsPerPixel() != 1 or len(size) not in ((3, 4) if expected else (3,)):
        message = f"{path} has {listing(size)} voxels of {image.GetPixelIDTypeAsString()}, which is no volume in 3D"
        return {}, [(Kind.SHAPE, f"{message}. Fetch it anew.")]
    if "complex" in image.GetPixelIDTypeAsString():
        message = f"{path} has complex numbers where magnitudes are expected. Save their magnitudes, or fetch it anew."
        return {}, [(Kind.SHAPE, message)]

    defects = []
    if num_non_finite:
        message = f"{path} has {num_non_finite} voxels that are NaN or infinite. Set them to what they should be."
        defects = [(Kind.NON_FINITE, message)]
    array = SimpleITK.GetArrayViewFromImage(image)
    if not expected:
        return {contents[0]: Volume(str(path), image, array)}, defects
    found = size[3] if len(size) == 4 else 1
    if found != len(expected):
        kind = Kind.MISSING if found < len(expected) else Kind.SHAPE
        message = f"{path} has {found} volume(s), edition {edition.name} has {len(expected)} ({', '.join(expected)})"
        return {}, [*defects, (kind, f"{message}. Fetch it anew.")]
    volumes = {
        channel: Volume(f"{path} ({channel}, volume {index})", image, array[index])
        for index, channel in enumerate(expected)
    }
    return volumes, defects


# How the volumes lie


def _check_against_most(
    modalities: Mapping[str, Volume], segmentation: Volume | None
) -> tuple[Defects, dict[str, Volume], Volume | None, np.ndarray]:
    """Everything against the header that most share, and the image's edge against the brain.

    Returns:
        what is wrong, the modalities whose voxels align and which show something, the segmentation if it aligns, and
        the brain.
    """
    volumes = [*modalities.values(), segmentation] if segmentation else list(modalities.values())
    shared = shared_geometry([volume.geometry for volume in volumes])
    reference = next((volume for volume in modalities.values() if volume.geometry == shared), volumes[0])
    of_one_shape = [volume for volume in modalities.values() if volume.geometry.size == reference.geometry.size]
    brain = _brain(of_one_shape)
    defects = []
    aligned: dict[str, Volume] = {}
    for channel, volume in modalities.items():
        misplaced = _check_geometry(volume, reference, lambda volume: _aligned_brains(reference, volume))
        if all(kind is Kind.HEADER for kind, _ in misplaced) and not _is_empty(volume):
            aligned[channel] = volume
        defects += misplaced
    if segmentation:
        misplaced = _check_geometry(
            segmentation, reference, lambda volume: _aligned_tumour(of_one_shape, brain, volume)
        )
        defects += misplaced
        if any(kind is not Kind.HEADER for kind, _ in misplaced):
            defects += _check_outside(segmentation, brain)
            segmentation = None
    return defects + _check_clipped(brain, reference), aligned, segmentation, brain


def _check_geometry(volume: Volume, reference: Volume, aligned: Callable[[Volume], bool]) -> Defects:
    """Shape and header against the reference's."""
    own, theirs = volume.geometry, reference.geometry
    if own.size != theirs.size:
        message = f"{volume.title} has {listing(own.size)} voxels, {reference.title} has {listing(theirs.size)}."
        return [(Kind.SHAPE, f"{message} Fetch both anew: they are not of one grid.")]
    differences = own.differences(theirs)
    if not differences:
        return []
    message = f"{volume.title} has another header than {reference.title}: {differences}"
    if aligned(volume):
        return [(Kind.HEADER, f"{message}; but their voxels align. --fix-headers gives it the latter's header.")]
    return [
        (Kind.GEOMETRY, f"{message}; and their voxels do not align. Fetch both anew, or resample one to the other.")
    ]


def _aligned_brains(reference: Volume, other: Volume) -> bool:
    ours, theirs = reference.array != 0, other.array != 0
    dice = 2 * _count(ours & theirs) / max(1, _count(ours) + _count(theirs))
    return dice > ALIGNED_DICE and _aligned([reference], other)


def _aligned_tumour(references: list[Volume], brain: np.ndarray, segmentation: Volume) -> bool:
    tumour = segmentation.array != 0
    if not tumour.any():
        return True
    inside = _count(tumour & brain) / _count(tumour)
    return inside >= ALIGNED_SHARE_INSIDE and _aligned(references, segmentation)


def _aligned(references: list[Volume], other: Volume) -> bool:
    """Tell whether the other's voxels fit the references' as they lie better than mirrored, or as its header has them.

    A head is nearly its own mirror image, and a shift by some voxels hardly shows: where an array was turned or moved
    along with its header, brains overlap all the same, and so does a tumour with the brain. To write another header to
    it would put the tumour elsewhere.
    """
    codes = [_binned(reference.array) for reference in references]

    def fit(array: np.ndarray) -> float:
        binned = _binned(array)
        return sum(_mutual_information(code, binned) for code in codes)

    as_it_lies = fit(other.array)
    mirrorings = [steps for steps in product((1, -1), repeat=3) if steps != (1, 1, 1)]
    mirrored = max(fit(other.array[tuple(slice(None, None, step) for step in steps)]) for steps in mirrorings)
    return as_it_lies > mirrored and as_it_lies >= fit(_placed(other.image, references[0].geometry))


def _placed(image: SimpleITK.Image, geometry: Geometry) -> np.ndarray:
    """An image's voxels in another grid, where its own header puts them."""
    return SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(
            image,
            geometry.size,
            SimpleITK.Transform(),
            SimpleITK.sitkNearestNeighbor,
            geometry.origin_mm,
            geometry.spacing_mm,
            geometry.direction,
        )
    )


def _binned(array: np.ndarray) -> np.ndarray:
    """Bin 0 for background, BINS - 1 others for the range of all but extreme intensities."""
    foreground = array[array != 0]
    if not len(foreground):
        return np.zeros(array.shape, dtype=np.uint16)
    low, high = np.nanpercentile(foreground, [1, 99]).astype(np.float32)
    scaled = np.clip((array.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1) * (BINS - 2)
    return np.where(array == 0, 0, 1 + np.nan_to_num(scaled)).astype(np.uint16)


def _mutual_information(codes: np.ndarray, others: np.ndarray) -> float:
    from sklearn.metrics import mutual_info_score  # takes a second, and few cases need it

    # counted here: from the voxels themselves it takes 50 times as long
    counts = np.bincount((codes * BINS + others).ravel(), minlength=BINS**2).reshape(BINS, BINS)
    return float(mutual_info_score(None, None, contingency=counts))


# Voxels


def _check_labels(segmentation: Volume, edition: Edition, case_name: str) -> Defects:
    try:
        edition.to_nnunet(segmentation.array)
    except ValueError as error:
        flags = "--labels" if editions_of(case_name) == [edition.name] else "--edition or --labels"
        remedy = f"Mend them, or say what they are with {flags}"
        return [(Kind.LABELS, f"{segmentation.title}: {error}. {remedy}.")]
    return []


def _measure_tissues(segmentation: Volume, images: Mapping[str, Volume], edition: Edition) -> dict[str, TissueSignal]:
    where = np.nonzero(segmentation.array)
    labels = segmentation.array[where]
    signals = [
        images[channel].array[where] if channel in images else np.full(len(labels), np.nan)
        for channel in ("T1ce", "FLAIR")
    ]
    return {
        tissue: TissueSignal(_count(labels == label), *(float(signal[labels == label].mean()) for signal in signals))
        for tissue, label in edition.labels.items()
        if (labels == label).any()
    }


def _check_tissues(segmentation: Volume, tissues: Mapping[str, TissueSignal], edition: Edition) -> Defects:
    """Labels that there are few of, and enhancing tumour that enhances less than other tissues."""
    if len(tissues) < 2:
        has = ", ".join(f"label {edition.labels[tissue]} = {tissue} alone" for tissue in tissues) or "no label at all"
        return [(Kind.FEW_LABELS, f"{segmentation.title} has {has}. Is that so, or is it of something else?")]
    brightest = _brightest(tissues)
    if brightest in (None, "ET"):
        return []
    message = (
        f"{segmentation.title}: the mean T1ce is highest in label {edition.labels[brightest]} = {brightest} "
        f"({tissues[brightest].t1ce:.4g}), and not in {edition.labels['ET']} = ET ({tissues['ET'].t1ce:.4g}). Do the "
        "labels mean that, and is T1ce the image after contrast?"
    )
    return [(Kind.MEANING, message)]


def _brightest(tissues: Mapping[str, TissueSignal]) -> str | None:
    """The tissue with the highest mean T1ce, if it can be compared with enhancing tumour."""
    measured = {
        tissue: signal.t1ce
        for tissue, signal in tissues.items()
        if signal.num_voxels >= FEW_VOXELS and np.isfinite(signal.t1ce)
    }
    return max(measured, key=measured.__getitem__) if "ET" in measured and len(measured) > 1 else None


def _check_equal(digests: dict[str, bytes], volumes: dict[str, Volume]) -> Defects:
    """Modalities with the same voxels."""
    defects = []
    for channel, other in combinations(digests, 2):
        if digests[channel] == digests[other]:
            message = f"{volumes[channel].title} and {volumes[other].title} have the same voxels. Fetch them anew."
            defects.append((Kind.DUPLICATE, message))
    return defects


def _check_intensities(volume: Volume) -> Defects:
    highest = volume.array.max()
    if _is_empty(volume):
        return [(Kind.EMPTY, f"{volume.title} is empty: all its voxels are {highest:g}. Fetch it anew.")]
    share = _count(volume.array == highest) / _count(volume.array)
    if highest != 0 and share > SHARE_SATURATED:
        message = (
            f"{volume.title}: {share:.1%} of the brain has the highest intensity, {highest:g} "
            f"(more than {SHARE_SATURATED:.0%}). Was it cut off there?"
        )
        return [(Kind.SATURATED, message)]
    return []


def _is_empty(volume: Volume) -> bool:
    return bool(volume.array.min() == volume.array.max())


def _brain(volumes: list[Volume]) -> np.ndarray:
    """Voxels that are not 0 in two modalities or more.

    In any one alone would be spoilt by a modality with a background other than 0, in all by one with less of the brain.
    """
    volumes = [volume for volume in volumes if not _is_empty(volume)] or volumes
    num_modalities = np.zeros(volumes[0].array.shape, dtype=np.uint8)
    for volume in volumes:
        num_modalities += volume.array != 0
    return num_modalities >= min(2, len(volumes))


def _check_brains(images: Mapping[str, Volume], brain: np.ndarray) -> Defects:
    """Modalities that show another brain than most."""
    defects = []
    for volume in images.values():
        own = volume.array != 0
        if own.all():  # no background to tell by
            continue
        dice = 2 * _count(own & brain) / max(1, _count(own) + _count(brain))
        if dice < DICE_OF_ONE_BRAIN:
            message = (
                f"{volume.title}: its brain has another shape than the other modalities' (Dice {dice:.3f}, less than "
                f"{DICE_OF_ONE_BRAIN}). Is it of this case?"
            )
            defects.append((Kind.BRAIN, message))
    return defects


def _check_sequences(images: Mapping[str, Volume], brain: np.ndarray) -> Defects:
    """T1 and T1ce are more alike than either is to T2 or FLAIR, unless files were exchanged."""
    intensities = {channel: _intensities(volume, brain) for channel, volume in images.items()}
    if not {"T1", "T1ce"} <= set(intensities) or not brain.any():
        return []
    alike = {
        pair: float(np.corrcoef(intensities[pair[0]], intensities[pair[1]])[0, 1])
        for pair in product(("T1", "T1ce"), ("T1ce", "T2", "FLAIR"))
        if pair[0] != pair[1] and pair[1] in intensities
    }
    first, second = max(alike, key=alike.__getitem__)
    if second == "T1ce":
        return []
    other = "T1ce" if first == "T1" else "T1"
    message = (
        f"{images[first].title} is more like {images[second].title} (correlation {alike[first, second]:.2f}) than like "
        f"{images[other].title} ({alike['T1', 'T1ce']:.2f}). Were {other} and {second} exchanged?"
    )
    return [(Kind.SEQUENCE, message)]


def _intensities(volume: Volume, brain: np.ndarray) -> np.ndarray:
    """Those of the brain, without extremes."""
    values = volume.array[brain].astype(np.float32)
    return np.clip(values, *np.nanpercentile(values, [1, 99])) if len(values) else values


def _check_elsewhere(
    segmentation: Volume, images: Mapping[str, Volume], brain: np.ndarray, edition: Edition
) -> Defects:
    """A tumour and its oedema are bright on FLAIR, and the same place mirrored is not."""
    labelled = (segmentation.array != 0) & (segmentation.array != edition.labels.get("RC", 0))
    if "FLAIR" not in images or _count(labelled) < FEW_VOXELS:
        return []
    flair = images["FLAIR"]
    of_brain = flair.array[brain]
    where = np.nonzero(labelled)

    def brightness(mirrored_axis: int | None = None) -> float:
        place = tuple(
            length - 1 - indices if axis == mirrored_axis else indices
            for axis, (indices, length) in enumerate(zip(where, labelled.shape, strict=True))
        )
        return float((flair.array[place].mean() - of_brain.mean()) / of_brain.std())

    as_it_lies = brightness()
    mirrored = {name: brightness(axis) for axis, name in enumerate("zyx")}
    best = max(mirrored, key=mirrored.__getitem__)
    title = f"{segmentation.title}: on FLAIR, what it labels is"
    if mirrored[best] > max(as_it_lies, LEAST_ON_FLAIR):
        message = (
            f"{title} less bright ({as_it_lies:.2f} standard deviations over the brain's mean) than the same place "
            f"mirrored along {best} ({mirrored[best]:.2f}). Was it mirrored?"
        )
    elif as_it_lies < LEAST_ON_FLAIR:
        message = (
            f"{title} hardly brighter than the brain's mean ({as_it_lies:.2f} standard deviations, less than "
            f"{LEAST_ON_FLAIR}). Is it of this case?"
        )
    else:
        return []
    return [(Kind.ELSEWHERE, message)]


def _check_outside(segmentation: Volume, brain: np.ndarray) -> Defects:
    if segmentation.array.shape != brain.shape:
        return []
    tumour = segmentation.array != 0
    share = _count(tumour & ~brain) / max(1, _count(tumour))
    if share <= SHARE_OUTSIDE:
        return []
    return [
        (
            Kind.OUTSIDE,
            f"{segmentation.title}: {share:.0%} of it lies outside the brain (more than {SHARE_OUTSIDE:.0%}). Is it of "
            "this case?",
        )
    ]


def _check_clipped(brain: np.ndarray, reference: Volume) -> Defects:
    faces = []
    for axis, name in enumerate("zyx"):
        for index, end in ((0, "first"), (-1, "last")):
            share = brain.take(index, axis=axis).mean()
            if share > SHARE_OF_FACE:
                faces.append(f"{share:.0%} of the {end} slice along {name}")
    if not faces:
        return []
    return [
        (
            Kind.CLIPPED,
            f"{reference.title}: the brain covers {', '.join(faces)} (more than {SHARE_OF_FACE:.0%}). Was it cut?",
        )
    ]


def _count(array: np.ndarray) -> int:
    return int(np.count_nonzero(array))
