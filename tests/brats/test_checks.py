"""Every kind of defect is found and called by its name, and what is none is not."""

import errno
import gzip
import shutil
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from defects import RAS, change, plant, relabelled
from images import read

from nnunetv2_cfnet.brats.checks import Inspection, check_source, inspect_case
from nnunetv2_cfnet.brats.editions import EDITIONS
from nnunetv2_cfnet.brats.findings import Finding, Kind, Severity
from nnunetv2_cfnet.brats.sources import Source, find_cases

OPEN_MS = Path(__file__).parents[1] / "data" / "open_ms"
CASE = "BraTS2021_00000"


def check(folder: Path, edition: str = "2021") -> list[Finding]:
    """Findings of the first case, with paths as they are below the folder."""
    source = find_cases(folder, edition)
    inspections = [inspect_case(case, source.edition) for case in source.cases]
    findings = [*inspections[0].findings, *check_source(source, inspections)]
    return [finding._replace(message=finding.message.replace(f"{folder}/", "")) for finding in findings]


@pytest.fixture
def release(write_release) -> Path:
    return write_release("2021", num_cases=1)


def file(release: Path, content: str) -> Path:
    return release / CASE / f"{CASE}_{content}.nii.gz"


@pytest.mark.parametrize("edition", EDITIONS)
def test_nothing_is_wrong_with_a_phantom_of_any_edition(edition, clean_release):
    source = find_cases(clean_release(edition, 2), edition)
    assert [finding for case in source.cases for finding in inspect_case(case, source.edition).findings] == []


FILE = f"{CASE}/{CASE}_t1ce.nii.gz"
FIRST = f"{CASE}/{CASE}_t1.nii.gz"
SEG = f"{CASE}/{CASE}_seg.nii.gz"
PLANTED = {
    Kind.MISSING: f"T1ce: no file of that modality (such as {CASE}_t1ce.nii.gz, as {CASE}_flair.nii.gz lies in "
    f"{CASE}). Fetch it from the release; --allow-missing writes a zero image for it.",
    Kind.UNREADABLE: f"{FILE} can't be read (Compressed file ended before the end-of-stream marker was reached). "
    "Fetch it anew.",
    Kind.DUPLICATE: f"{FILE.removesuffix('.gz')} and {FILE} are the same thing twice. Keep one of them.",
    Kind.SHAPE: f"{FILE} has (24, 28, 23) voxels, {FIRST} has (24, 28, 24). Fetch both anew: they are not of one grid.",
    Kind.GEOMETRY: f"{FILE} has another header than {FIRST}: origin (5, -239, 0) against (0, -239, 0); and their "
    "voxels do not align. Fetch both anew, or resample one to the other.",
    Kind.HEADER: f"{FILE} has another header than {FIRST}: origin (0, 239, 0) against (0, -239, 0), direction "
    "(-1, 0, 0, 0, -1, 0, 0, 0, 1) against (1, 0, 0, 0, 1, 0, 0, 0, 1); but their voxels align. --fix-headers gives it "
    "the latter's header.",
    Kind.LABELS: f"{SEG}: labels [7] are not of edition 2021, which has [1, 2, 4]. Mend them, or say what "
    "they are with --labels.",
    Kind.NON_FINITE: f"{FILE} has 1 voxels that are NaN or infinite. Set them to what they should be.",
    Kind.EMPTY: f"{FILE} is empty: all its voxels are 0. Fetch it anew.",
    Kind.OUTSIDE: f"{SEG}: 30% of it lies outside the brain (more than 5%). Is it of this case?",
    Kind.CLIPPED: f"{FIRST}: the brain covers 37% of the last slice along z (more than 10%). Was it cut?",
    Kind.SATURATED: f"{FILE}: 5.1% of the brain has the highest intensity, 190 (more than 1%). Was it cut off there?",
    Kind.BRAIN: f"{FILE}: its brain has another shape than the other modalities' (Dice 0.949, less than 0.97). Is it "
    "of this case?",
    Kind.SEQUENCE: f"{FILE} is more like {CASE}/{CASE}_flair.nii.gz (correlation 0.79) than like {FIRST} (0.58). Were "
    "T1 and FLAIR exchanged?",
    Kind.ELSEWHERE: f"{SEG}: on FLAIR, what it labels is less bright (0.63 standard deviations over the brain's mean) "
    "than the same place mirrored along x (1.36). Was it mirrored?",
    Kind.FEW_LABELS: f"{SEG} has no label at all. Is that so, or is it of something else?",
    Kind.UNCLAIMED: f"{CASE}_brainmask.nii.gz belongs to no case and is left out: give it the name of edition "
    "2021 if it should.",
}
WARNINGS = {
    Kind.OUTSIDE,
    Kind.CLIPPED,
    Kind.SATURATED,
    Kind.BRAIN,
    Kind.SEQUENCE,
    Kind.ELSEWHERE,
    Kind.FEW_LABELS,
    Kind.UNCLAIMED,
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_defect_is_the_one_that_is_found(kind, release):
    plant(find_cases(release).cases[0], kind)
    (finding,) = check(release)
    assert finding.kind is kind
    assert finding.severity is (Severity.WARNING if kind in WARNINGS else Severity.ERROR)
    assert finding.case == ("-" if kind is Kind.UNCLAIMED else CASE)
    assert finding.message == PLANTED[kind]


def test_another_edition_is_advised_where_names_allow_one(write_release):
    (finding,) = check(write_release("2023", 1, (Kind.LABELS,)), "2023")
    assert finding.message.endswith("which has [1, 2, 3]. Mend them, or say what they are with --edition or --labels.")


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_defect_is_found_in_4d_files(kind, write_release):
    findings = check(write_release("msd", 1, (kind,)), "msd")
    assert kind in {finding.kind for finding in findings}
    # a segmentation that lies elsewhere is outside the brain, too
    assert len(findings) == 1 or {finding.kind for finding in findings} == {Kind.GEOMETRY, Kind.OUTSIDE}


def test_a_4d_file_with_too_few_volumes_says_which_there_should_be(write_release):
    (finding,) = check(write_release("msd", 1, (Kind.MISSING,)), "msd")
    assert finding.message == (
        "Task01_BrainTumour/imagesTr/BRATS_001.nii.gz has 3 volume(s), edition msd has 4 (FLAIR, T1, T1ce, T2). "
        "Fetch it anew."
    )


def test_a_segmentation_without_images_is_all_modalities_missing(release):
    for content in ("t1", "t1ce", "t2", "flair"):
        file(release, content).unlink()
    (finding,) = check(release)
    assert finding.kind is Kind.MISSING
    assert finding.message.startswith(f"T1, T1ce, T2, FLAIR: no file of that modality (such as {CASE}_t1.nii.gz, ")


def test_all_defects_of_a_case_are_found(release):
    file(release, "t1").unlink()
    file(release, "t2").write_bytes(b"")
    change(file(release, "flair"), np.zeros_like)
    change(file(release, "seg"), lambda array: array + (array > 0) * 2, lambda image: image.SetDirection(RAS))
    change(file(release, "t1ce"), lambda array: np.minimum(array, np.quantile(array[array > 0], 0.9)))
    kinds = [Kind.EMPTY, Kind.HEADER, Kind.LABELS, Kind.MISSING, Kind.SATURATED, Kind.UNREADABLE]
    assert sorted(finding.kind for finding in check(release)) == sorted(kinds)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (1, 2)])
@pytest.mark.parametrize("content", ["flair", "seg"])
def test_an_array_that_was_mirrored_with_its_header_is_not_taken_for_a_header_to_repair(release, content, axes):
    """The brain overlaps with its mirror image: a repair would silently put the tumour on the other side."""
    brain = np.nonzero(read(file(release, "t1")))
    # into the middle of the image, where it covers itself mirrored
    shifts = [(length - 1 - where.min() - where.max()) // 2 for length, where in zip((24, 28, 24), brain, strict=True)]
    for name in ("t1", "t1ce", "t2", "flair", "seg"):
        change(file(release, name), lambda array: np.roll(array, shifts, axis=(0, 1, 2)))
    assert check(release) == []
    change(file(release, content), lambda array: np.flip(array, axes).copy(), lambda image: image.SetDirection(RAS))
    assert [finding.kind for finding in check(release) if finding.severity is Severity.ERROR] == [Kind.GEOMETRY]


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (lambda image: image.SetSpacing((1, 1, 1.1)), "spacing (1, 1, 1.1) against (1, 1, 1)"),
        (lambda image: image.SetOrigin((0, -239, 0.01)), "origin (0, -239, 0.01) against (0, -239, 0)"),
        (lambda image: image.SetDirection(RAS), "direction (-1, 0, 0, 0, -1, 0, 0, 0, 1) against (1, 0, 0,"),
    ],
)
@pytest.mark.parametrize("content", ["t2", "seg"])
def test_each_part_of_a_header_is_compared(release, content, header, value):
    change(file(release, content), header=header)
    (finding,) = check(release)
    assert finding.kind is Kind.HEADER
    assert value in finding.message


def test_headers_may_differ_within_the_tolerance(release):
    change(file(release, "t2"), header=lambda image: image.SetOrigin((0.0005, -239, 0)))
    change(file(release, "seg"), header=lambda image: image.SetSpacing((1, 1.0005, 1)))
    assert check(release) == []


def test_a_header_without_a_tumour_to_tell_by_can_be_repaired(release):
    change(file(release, "seg"), np.zeros_like, lambda image: image.SetDirection(RAS))
    assert [finding.kind for finding in check(release)] == [Kind.HEADER, Kind.FEW_LABELS]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_plain_file_that_was_cut_off_is_unreadable(release, share):
    """SimpleITK reads the rest as it comes."""
    content = gzip.decompress(file(release, "t2").read_bytes())
    plain = file(release, "t2").with_suffix("")
    plain.write_bytes(content[: int(share * len(content))])
    file(release, "t2").unlink()
    (finding,) = check(release)
    assert finding.kind is Kind.UNREADABLE
    num_bytes = len(content) - 352
    assert f"it has {int(share * len(content)) - 352} bytes of voxels and should have {num_bytes}" in finding.message


def with_wrong_check_sum(content: bytes) -> bytes:
    return content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]


def with_offset(value: float, content: bytes) -> bytes:
    """vox_offset is a float at byte 108 of a NIfTI header."""
    plain = gzip.decompress(content)
    return gzip.compress(plain[:108] + np.float32(value).tobytes() + plain[112:])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (with_wrong_check_sum, "CRC check failed"),
        (partial(with_offset, np.inf), ""),
        (partial(with_offset, 1e30), ""),
        (lambda _: b"", ""),
        (lambda _: b"no NIfTI file", ""),
        (lambda _: gzip.compress(b"no NIfTI file"), ""),
    ],
)
@pytest.mark.parametrize("name", ["t1", "seg"])
def test_a_damaged_file_is_unreadable(release, name, damage, reason):
    file(release, name).write_bytes(damage(file(release, name).read_bytes()))
    (finding,) = check(release)
    assert finding.kind is Kind.UNREADABLE
    assert finding.message.startswith(f"{CASE}/{CASE}_{name}.nii.gz can't be read ({reason}")


def test_what_can_not_be_read_says_why_and_what_to_do(release):
    """Each is something else than a broken file to be fetched anew."""
    t1, t1ce, t2, flair, seg = (file(release, name) for name in ("t1", "t1ce", "t2", "flair", "seg"))
    image = nibabel.load(t1)
    nibabel.Nifti2Image.from_image(image).to_filename(t1)
    t1ce.write_bytes(gzip.decompress(t1ce.read_bytes()))
    t2.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")
    plain = bytearray(gzip.decompress(flair.read_bytes()))
    plain[280:284] = np.float32(np.nan).tobytes()  # srow_x
    flair.write_bytes(gzip.compress(bytes(plain)))
    seg.unlink()
    seg.symlink_to("../.git/annex/objects/seg")
    findings = check(release)
    assert {(finding.kind, finding.severity) for finding in findings} == {(Kind.UNREADABLE, Severity.ERROR)}
    assert {finding.message.removeprefix(f"{CASE}/{CASE}_") for finding in findings} == {
        "t1.nii.gz can't be read (it is NIfTI-2, and NIfTI-1 is what is read here). Save it as NIfTI-1, as with "
        "nibabel: Nifti1Image.from_image(nibabel.load(file)).to_filename(file)",
        f"t1ce.nii.gz can't be read (not compressed, though its name ends in .gz). Rename it to {CASE}_t1ce.nii.",
        "t2.nii.gz can't be read (Git LFS's pointer to a file, not the file). Fetch that with: git lfs pull",
        "flair.nii.gz can't be read (its header has NaN or infinity where it should say how the image lies). Fetch it "
        "anew.",
        "seg.nii.gz can't be read (a link to ../.git/annex/objects/seg, which is not there). Fetch that, as with: git "
        "annex get",
    }


def test_what_may_not_be_read_is_not_called_broken(release, monkeypatch):
    """Under root, as tests may run, everything may be read."""
    open_file = Path.open

    def refuse(path: Path, *arguments):
        if path.name.endswith("_t2.nii.gz"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, *arguments)

    monkeypatch.setattr(Path, "open", refuse)
    (finding,) = check(release)
    assert finding.message == f"{CASE}/{CASE}_t2.nii.gz can't be read (permission denied). Allow it, as with: chmod +r"


def test_a_4d_file_where_a_volume_is_expected_has_the_wrong_shape(release):
    image = SimpleITK.ReadImage(str(file(release, "t2")))
    SimpleITK.WriteImage(SimpleITK.JoinSeries([image, image]), str(file(release, "t2")))
    (finding,) = check(release)
    assert finding.kind is Kind.SHAPE
    assert "_t2.nii.gz has (24, 28, 24, 2) voxels of 16-bit signed integer, which is no volume in 3D" in finding.message


def test_segmentations_in_whole_floats_are_fine_and_others_are_not(release):
    change(file(release, "seg"), lambda array: array.astype(np.float32))
    assert check(release) == []
    change(file(release, "seg"), lambda array: array * 0.5)
    (finding,) = check(release)
    assert finding.kind is Kind.LABELS
    assert "labels [0.5] are not of edition 2021" in finding.message
    change(file(release, "seg"), lambda array: np.linspace(0, 1, array.size).reshape(array.shape))
    assert "] and 16116 more are not of edition 2021" in check(release)[0].message


def test_infinite_values_are_found_in_segmentations_too(release):
    change(file(release, "seg"), lambda array: np.where(array == 4, np.inf, array).astype(np.float32))
    assert [finding.kind for finding in check(release)] == [Kind.NON_FINITE, Kind.ABSENT]


def test_a_case_without_segmentation_has_nothing_wrong(release):
    file(release, "seg").unlink()
    assert check(release) == []


def test_one_modality_with_a_background_does_not_hide_what_is_outside_the_brain(release):
    change(file(release, "t2"), lambda array: array + 10)
    change(file(release, "seg"), lambda array: np.roll(array, 12, axis=1))
    assert [finding.kind for finding in check(release)] == [Kind.OUTSIDE]


def test_a_brain_that_only_touches_the_edge_is_not_clipped(release):
    """As in an image that was cropped to the brain's box."""
    box = tuple(slice(where.min(), where.max() + 1) for where in np.nonzero(read(file(release, "t1"))))
    for content in ("t1", "t1ce", "t2", "flair", "seg"):
        change(file(release, content), lambda array: array[box])
    assert check(release) == []


def rolled(voxels: int) -> dict:
    """An array moved along x together with its header: in space, nothing has moved."""
    return {
        "voxels": lambda array: np.roll(array, voxels, axis=2),
        "header": lambda image: image.SetOrigin((-float(voxels), *image.GetOrigin()[1:])),
    }


@pytest.mark.parametrize("content", ["seg", "t2"])
@pytest.mark.parametrize("voxels", [1, 2])
def test_what_was_moved_along_with_its_header_is_not_called_aligned(release, content, voxels):
    """To write another header to it would move it."""
    change(file(release, content), **rolled(voxels))
    (finding,) = check(release)
    assert finding.kind is Kind.GEOMETRY


def test_the_header_that_most_files_have_is_the_right_one(release):
    change(file(release, "t1"), header=lambda image: image.SetSpacing((1, 1, 2)))
    (finding,) = check(release)
    assert finding.kind is Kind.HEADER
    assert finding.message.startswith(f"{FIRST} has another header than {FILE}: spacing (1, 1, 2) against (1, 1, 1)")


def test_equal_voxels_are_duplicates_within_a_case_and_between_cases(write_release):
    source = find_cases(write_release("2021", num_cases=3))
    names, files = [case.name for case in source.cases], [case.files for case in source.cases]
    shutil.copy(files[0]["T1"][0], files[0]["T1ce"][0])
    shutil.copy(files[1]["T2"][0], files[2]["T2"][0])
    inspections = [inspect_case(case, source.edition) for case in source.cases]
    (within,) = inspections[0].findings
    assert within.kind is Kind.DUPLICATE
    assert within.message.endswith("_t1ce.nii.gz have the same voxels. Fetch them anew.")
    (between,) = check_source(source, inspections)
    assert between[:3] == (names[2], Severity.ERROR, Kind.DUPLICATE)
    assert between.message == (
        f"{names[2]} has the same voxels as {names[1]}. Keep one of the two, or fetch them anew."
    )


# Meanings, sequences and patients


def check_all(source: Source) -> list[tuple[str, Severity, Kind]]:
    inspections = [inspect_case(case, source.edition) for case in source.cases]
    findings = [finding for inspection in inspections for finding in inspection.findings]
    return [finding[:3] for finding in findings + check_source(source, inspections)]


def relabel(release: Path, meanings: dict[int, int]) -> None:
    for path in release.rglob("*seg.nii.gz"):
        change(path, lambda array: relabelled(array, meanings))


def test_one_case_with_other_labels_is_a_warning(write_release):
    release = write_release("2021", 4, (Kind.MEANING,))
    assert check_all(find_cases(release)) == [(CASE, Severity.WARNING, Kind.MEANING)]
    finding = check(release)[0]
    assert finding.message == (
        f"{SEG}: the mean T1ce is highest in label 1 = NCR/NET (198.6), and not in 4 = ET (88.92). Do the labels mean "
        "that, and is T1ce the image after contrast?"
    )


@pytest.mark.parametrize(
    ("meanings", "seeming", "flag"),
    [
        ({1: 2, 2: 3, 3: 1}, "1 = ET, 2 = NCR/NET, 3 = ED", "ED=3,NCR=2,ET=1"),
        ({1: 3, 3: 1}, "1 = ET, 3 = NCR/NET, 2 = ED", "ED=2,NCR=3,ET=1"),
        ({2: 3, 3: 2}, "2 = ET, 1 = NCR/NET, 3 = ED", "ED=3,NCR=1,ET=2"),
        ({1: 3, 2: 1, 3: 2}, "2 = ET, 3 = NCR/NET, 1 = ED", "ED=1,NCR=3,ET=2"),
    ],
)
def test_other_labels_in_most_cases_are_an_error_that_says_what_they_seem_to_be(meanings, seeming, flag, write_release):
    release = write_release("2023", 6)
    relabel(release, meanings)
    (error,) = [finding for finding in check(release, "2023") if finding.severity is Severity.ERROR]
    assert error.case == "-"
    assert error.kind is Kind.MEANING
    assert (
        f"the mean T1ce is higher in another label. By T1ce and FLAIR, labels seem to be {seeming}. " in error.message
    )
    assert error.message.endswith(f"say with --labels what the labels are: --labels {flag}")
    assert check_all(find_cases(release, "2023", flag)) == []


def test_labels_that_were_given_are_taken_at_a_warning(write_release):
    release = write_release("2021", 2)
    findings = check_all(find_cases(release, labels="ED=4,NCR=1,ET=2"))
    assert {kind for _, _, kind in findings} == {Kind.MEANING}
    assert {severity for _, severity, _ in findings} == {Severity.WARNING}
    assert ("-", Severity.WARNING, Kind.MEANING) in findings


def test_few_voxels_of_enhancing_tumour_say_nothing(write_release):
    release = write_release("2021", 1)
    relabel(release, {1: 4, 4: 1})
    assert ("-", Severity.ERROR, Kind.MEANING) in check_all(find_cases(release))
    change(file(release, "seg"), lambda array: with_few(array, 4, 49))
    assert check_all(find_cases(release)) == []


def with_few(array: np.ndarray, label: int, num_voxels: int) -> np.ndarray:
    array.flat[np.flatnonzero(array == label)[num_voxels:]] = 2
    return array


def test_a_label_of_the_edition_that_no_case_has_is_warned_of(write_release):
    """A release of 2023 that is read as one of 2024."""
    source = find_cases(write_release("2023", 2), "2024")
    assert check_all(source) == [("-", Severity.WARNING, Kind.ABSENT)]
    inspections = [inspect_case(case, source.edition) for case in source.cases]
    (finding,) = check_source(source, inspections)
    assert finding.message == "No case has label 4 = RC of edition 2024. Is it of that edition?"


def test_one_label_alone_is_warned_of(release):
    change(file(release, "seg"), lambda array: (array > 0).astype(np.uint8))
    few, *absent = check(release)
    assert few.kind is Kind.FEW_LABELS
    assert few.message == f"{SEG} has label 1 = NCR/NET alone. Is that so, or is it of something else?"
    assert [finding.kind for finding in absent] == [Kind.ABSENT, Kind.ABSENT]


def test_complex_numbers_are_no_image(release):
    change(file(release, "t2"), lambda array: array.astype(np.complex64))
    (finding,) = check(release)
    assert finding[:3] == (CASE, Severity.ERROR, Kind.SHAPE)
    assert finding.message.startswith(f"{CASE}/{CASE}_t2.nii.gz has complex numbers where magnitudes are expected.")


@pytest.mark.parametrize(("channel", "other"), [("t1", "flair"), ("t1ce", "t2"), ("t1ce", "flair"), ("t1", "t2")])
def test_sequences_that_were_exchanged_are_named(channel, other, release):
    first, second = read(file(release, channel)), read(file(release, other))
    change(file(release, channel), lambda _: second)
    change(file(release, other), lambda _: first)
    (finding,) = [finding for finding in check(release) if finding.kind is Kind.SEQUENCE]
    channel, other = (name.upper().replace("CE", "ce") for name in (channel, other))
    assert finding.message.endswith(f"Were {channel} and {other} exchanged?")


@pytest.fixture
def real_release(tmp_path) -> Path:
    """Crops of real brains, with their lesions as oedema and a few voxels of them as core."""
    for patient, case in (("07", "BraTS2021_00000"), ("19", "BraTS2021_00001"), ("26", "BraTS2021_00002")):
        for name in ("t1", "t1ce", "t2", "flair", "seg"):
            (tmp_path / case).mkdir(exist_ok=True)
            shutil.copy(OPEN_MS / f"patient{patient}_{name}.nii.gz", tmp_path / case / f"{case}_{name}.nii.gz")
        change(tmp_path / case / f"{case}_seg.nii.gz", lambda array: with_few(np.where(array, 1, 0), 1, 20))
    return tmp_path


@pytest.mark.parametrize(("axis", "name"), list(enumerate("zyx")))
def test_a_mirrored_segmentation_of_a_real_case_is_found(axis, name, real_release):
    wanted = {Kind.BRAIN, Kind.SEQUENCE, Kind.ELSEWHERE, Kind.OUTSIDE, Kind.MEANING}
    source = find_cases(real_release)
    assert not [row for row in check_all(source) if row[2] in wanted]
    for case in source.cases:
        change(case.files["seg"][0], lambda array: np.flip(array, axis).copy())
    found = [inspect_case(case, source.edition).findings for case in source.cases]
    messages = [[f.message for f in findings if f.kind in (Kind.ELSEWHERE, Kind.OUTSIDE)] for findings in found]
    assert all(messages)
    assert any(f"mirrored along {name} (" in message for (message,) in messages)


def pass_on(files: list[Path]) -> None:
    """Each file gets the voxels of the one before, under its own header."""
    arrays = [read(path) for path in files]
    for number, path in enumerate(files):
        change(path, lambda _, before=arrays[number - 1]: before)


def test_another_patients_segmentation_is_found_in_real_cases(real_release):
    source = find_cases(real_release)
    pass_on([case.files["seg"][0] for case in source.cases])
    for case in source.cases:
        findings = inspect_case(case, source.edition).findings
        assert {Kind.ELSEWHERE, Kind.OUTSIDE} & {finding.kind for finding in findings}


def test_another_patients_t1_is_found(write_release):
    source = find_cases(write_release("2021", 6))
    pass_on([case.files["T1"][0] for case in source.cases])
    for case in source.cases:
        (finding,) = inspect_case(case, source.edition).findings
        assert finding[1:3] == (Severity.WARNING, Kind.BRAIN)
        assert "_t1.nii.gz: its brain has another shape than the other modalities'" in finding.message


def test_a_case_that_lost_its_segmentation_is_warned_of_and_a_validation_case_is_not(write_release):
    release = write_release("2020")
    next(release.rglob("BraTS20_Training_001_seg.nii*")).unlink()
    source = find_cases(release)
    (finding,) = check_source(source, [Inspection([], {}, {})] * len(source.cases))
    assert finding[:3] == ("BraTS20_Training_001", Severity.WARNING, Kind.MISSING)
    assert "has no segmentation, though other cases in " in finding.message
