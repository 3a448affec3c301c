"""Releases of empty files: what find_cases finds of each layout, what it refuses, and whose cases they are."""

import errno
import os
from pathlib import Path

import pytest

from nnunetv2_cfnet.brats.editions import CHANNELS, EDITIONS
from nnunetv2_cfnet.brats.sources import find_cases
from nnunetv2_cfnet.errors import UserError

CONTENTS = (*CHANNELS, "seg")
FIRST, SECOND = "BraTS20_Training_001", "BraTS20_Training_002"


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def add_case(parent: Path, name: str, edition: str = "2020", ending: str = ".nii.gz") -> Path:
    """A case's files, right in the folder."""
    touch(*(parent / f"{name}{suffix}{ending}" for suffix in EDITIONS[edition].suffixes.values()))
    return parent


def found(folder: Path, edition: str = "auto") -> dict[str, dict[str, list[str]]]:
    """Files of each case by content, below the folder; every one must belong to a case."""
    source = find_cases(folder, edition)
    assert source.unclaimed == []
    return {
        case.name: {content: [str(file.relative_to(folder)) for file in files] for content, files in case.files.items()}
        for case in source.cases
    }


def patients(folder: Path, edition: str = "auto") -> dict[str, str]:
    return {case.name: case.patient for case in find_cases(folder, edition).cases}


def unclaimed(folder: Path, edition: str) -> list[str]:
    return [path.name for path in find_cases(folder, edition).unclaimed]


NAMES = {
    "2018": ("Brats18_CBICA_AAB_1", "Brats18_TCIA01_131_1"),
    "2019": ("BraTS19_CBICA_AAB_1", "BraTS19_2013_0_1"),
    "2020": (FIRST, "BraTS20_Validation_001", "BraTS20_Testing_001"),
    "2021": ("BraTS2021_00000", "BraTS2021_01666"),
    "2023": ("BraTS-GLI-00000-000", "BraTS-SSA-00002-000"),
    "2024": ("BraTS-GLI-00005-100", "BraTS-GLI-02062-102"),
}
LAYOUTS = {
    "a folder for each case": "{name}",
    "flat": "",
    "by grade": "HGG/{name}",
    "nested deeper": "MICCAI/MICCAI_BraTS_TrainingData/{name}",
}


@pytest.mark.parametrize("edition", NAMES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_cases_are_found_in_every_layout(layout, edition, tmp_path):
    for name in NAMES[edition]:
        add_case(tmp_path / layout.format(name=name), name, edition)
    cases = find_cases(tmp_path, edition)
    assert [case.name for case in cases.cases] == sorted(NAMES[edition])
    for case in cases.cases:
        parent = tmp_path / layout.format(name=case.name)
        suffixes = EDITIONS[edition].suffixes
        assert case.files == {content: [parent / f"{case.name}{suffixes[content]}.nii.gz"] for content in CONTENTS}
    assert cases.unclaimed == []
    assert cases.edition.name == edition


@pytest.mark.parametrize("edition", ["2018", "2019", "2020", "2021"])
def test_the_edition_is_decided_from_names(edition, tmp_path):
    for name in NAMES[edition]:
        add_case(tmp_path, name, edition)
    assert find_cases(tmp_path).edition.name == edition


def test_t1_is_not_t1ce(tmp_path):
    touch(tmp_path / f"{FIRST}_t1ce.nii.gz", tmp_path / f"{SECOND}_t1.nii.gz")
    assert found(tmp_path) == {FIRST: {"T1ce": [f"{FIRST}_t1ce.nii.gz"]}, SECOND: {"T1": [f"{SECOND}_t1.nii.gz"]}}


def test_a_file_in_a_folder_of_its_own_name(tmp_path):
    touch(tmp_path / f"{FIRST}_t1.nii" / "00000_brain_t1.nii", tmp_path / f"{FIRST}_seg.nii.gz" / "final.nii.gz")
    assert found(tmp_path) == {
        FIRST: {"T1": [f"{FIRST}_t1.nii/00000_brain_t1.nii"], "seg": [f"{FIRST}_seg.nii.gz/final.nii.gz"]}
    }


def test_what_macos_adds_is_left_out(tmp_path):
    add_case(tmp_path / FIRST, FIRST)
    expected = found(tmp_path)
    add_case(tmp_path / "__MACOSX" / SECOND, SECOND)
    add_case(tmp_path / ".Trashes", SECOND)
    touch(tmp_path / FIRST / f"._{FIRST}_t1.nii.gz", tmp_path / f"._{FIRST}_seg.nii.gz" / f"{FIRST}_seg.nii.gz")
    (tmp_path / "__MACOSX" / "name_mapping.csv").write_text("no table")
    assert found(tmp_path) == expected


def test_4d_files_of_msd(tmp_path):
    touch(*(tmp_path / "Task01" / f for f in ("imagesTr/BRATS_001.nii.gz", "labelsTr/BRATS_001.nii.gz")))
    touch(tmp_path / "Task01" / "imagesTs" / "BRATS_485.nii.gz", tmp_path / "Task01" / "BRATS_002.nii.gz")
    source = find_cases(tmp_path)
    train, test = source.cases
    assert source.edition.name == "msd"
    assert (train.name, train.is_training, test.name, test.is_training) == ("BRATS_001", True, "BRATS_485", False)
    assert all(train.files[channel] == [tmp_path / "Task01" / "imagesTr" / "BRATS_001.nii.gz"] for channel in CHANNELS)
    assert source.unclaimed == [tmp_path / "Task01" / "BRATS_002.nii.gz"]


def test_duplicates_are_all_kept(tmp_path):
    add_case(tmp_path / "HGG" / FIRST, FIRST)
    touch(tmp_path / "more" / f"{FIRST}_t1.nii", tmp_path / "more" / f"{FIRST}_t1.nii.gz")
    assert found(tmp_path)[FIRST]["T1"] == [
        f"HGG/{FIRST}/{FIRST}_t1.nii.gz",
        f"more/{FIRST}_t1.nii",
        f"more/{FIRST}_t1.nii.gz",
    ]


@pytest.mark.parametrize(("owner", "function", "unreadable"), [(os, "scandir", SECOND), (Path, "stat", f"{SECOND}/x")])
def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch, owner, function, unreadable):
    """By a patch, since root may read all: mode 000 fails to list a folder, mode 444 to look at what it holds."""
    add_case(tmp_path / FIRST, FIRST)
    touch(add_case(tmp_path / SECOND, SECOND) / "x")
    original = getattr(owner, function)

    def refuse(path, *arguments, **options):
        if str(path) == str(tmp_path / unreadable):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(owner, function, refuse)
    with pytest.raises(UserError, match=rf"{tmp_path / unreadable} can't be read \(Permission denied\), and cases"):
        find_cases(tmp_path)


def test_links_are_followed(tmp_path):
    """To the release, a case, a file and a table; one that leads back ends there."""
    store, release = tmp_path / "store", tmp_path / "release"
    add_case(store / "a", FIRST)
    add_case(store / "b", SECOND)
    touch(store / "file.nii.gz")
    (store / "tables").mkdir()
    (store / "tables" / "name_mapping.csv").write_text(f"Grade,A_ID,B_ID\nLGG,{FIRST},{SECOND}\n")
    release.mkdir()
    for link, target in ((FIRST, "a"), (SECOND, "b"), ("tables", "tables")):
        (release / link).symlink_to(store / target, target_is_directory=True)
    (release / "BraTS20_Training_003_t1.nii.gz").symlink_to(store / "file.nii.gz")
    (store / "a" / "back").symlink_to(release, target_is_directory=True)
    (release / "BraTS20_Training_004_t1.nii.gz").symlink_to(store / "nothing.nii.gz")
    (tmp_path / "link").symlink_to(release, target_is_directory=True)
    for folder in (release, tmp_path / "link"):
        cases = found(folder)
        assert list(cases) == [FIRST, SECOND, "BraTS20_Training_003", "BraTS20_Training_004"]
        assert all(cases[name]["T1"] == [f"{name}/{name}_t1.nii.gz"] for name in (FIRST, SECOND))
        assert [case.grade for case in find_cases(folder).cases] == ["LGG", "LGG", None, None]
        assert len(set(patients(folder).values())) == 3


def test_other_names_are_unclaimed_where_some_are_of_the_edition(tmp_path):
    name = "BraTS2021_00001"
    add_case(tmp_path / name, name, "2021")
    expected = found(tmp_path)
    touch(tmp_path / name / f"{name}_brain_seg.nii.gz", tmp_path / "x_seg" / "readme.nii.gz", tmp_path / "mine_t1.nii")
    for edition in ("auto", "2021"):
        source = find_cases(tmp_path, edition)
        assert [case.name for case in source.cases] == [name]
        assert list(source.cases[0].files.values()) == [
            [tmp_path / path for path in paths] for paths in expected[name].values()
        ]
        assert unclaimed(tmp_path, edition) == [f"{name}_brain_seg.nii.gz", "mine_t1.nii", "readme.nii.gz"]


def test_any_name_will_do_where_none_is_of_brats(tmp_path):
    add_case(tmp_path / "hospital", "patient_7", "2021")
    touch(tmp_path / "hospital" / "notes.nii.gz")
    assert [case.name for case in find_cases(tmp_path, "2021").cases] == ["patient_7"]
    assert unclaimed(tmp_path, "2021") == ["notes.nii.gz"]
    with pytest.raises(UserError, match=r"named as in 2018, 2019, 2020, 2021\. Say with --edition which"):
        find_cases(tmp_path)


@pytest.mark.parametrize("edition", ["auto", "2021", "msd"])
@pytest.mark.parametrize(
    ("files", "advice"),
    [
        (("BraTS20.zip", "a/b.TAR.GZ"), "There are 2 files such as BraTS20.zip: unpack them, and give the folder."),
        ((f"{FIRST}_t1.mha", f"{FIRST}_seg.mha"), f"There are 2 files such as {FIRST}_seg.mha: not read here, write "),
        (("volume_1_slice_0.h5",), "There are 1 files such as volume_1_slice_0.h5: not read here, get the release's "),
        (("scan.dcm",), "There are 1 files such as scan.dcm: not read here, get the release's own NIfTI files."),
        (("readme.nii.gz",), "There are 1 files such as readme.nii.gz, of which none is named so. Give the folder"),
        ((), "Give the folder that the release was unpacked to, with its file names."),
        (("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz"), "needs no conversion: put it into"),
        (("imagesTr/BRATS_001_0000.nii.gz", "labelsTr/BRATS_001.nii.gz"), "needs no conversion: put it into nnUNet"),
    ],
)
def test_where_no_edition_would_do_what_there_is_decides_the_advice(files, advice, edition, tmp_path):
    touch(*(tmp_path / file for file in files))
    with pytest.raises(UserError) as error:
        find_cases(tmp_path, edition)
    assert advice in str(error.value)
    assert "--edition" not in str(error.value)


def test_endings_may_be_in_capitals(tmp_path):
    touch(tmp_path / f"{FIRST}_t2.NII.GZ", tmp_path / f"{FIRST}_t1.Nii")
    assert found(tmp_path) == {FIRST: {"T2": [f"{FIRST}_t2.NII.GZ"], "T1": [f"{FIRST}_t1.Nii"]}}


def test_4d_files_may_have_numbers_as_nnunets_channels_do(tmp_path):
    touch(*(tmp_path / folder / f"case_{n:04d}.nii.gz" for folder in ("imagesTr", "labelsTr") for n in (0, 1)))
    assert [case.name for case in find_cases(tmp_path, "msd").cases] == ["case_0000", "case_0001"]


def test_a_link_to_nothing_is_still_a_file_of_its_case_or_unclaimed(tmp_path):
    """A training case whose segmentation git-annex has not fetched is no test case."""
    add_case(tmp_path / FIRST, FIRST)
    (tmp_path / FIRST / f"{FIRST}_seg.nii.gz").unlink()
    (tmp_path / FIRST / f"{FIRST}_seg.nii.gz").symlink_to("../.git/annex/objects/seg")
    (tmp_path / SECOND).symlink_to("gone")
    source = find_cases(tmp_path)
    assert [(case.name, case.is_training) for case in source.cases] == [(FIRST, True)]
    assert source.unclaimed == [tmp_path / SECOND]


@pytest.mark.parametrize("edition", ["auto", "2023", "2024"])
@pytest.mark.parametrize(
    ("name", "tumour"),
    [
        ("BraTS-PED-00002-000", "BraTS-PED is not supported: .*BraTS-PED-00002-000.*, which is of paediatric tumours"),
        ("BraTS-MEN-00000-000", "BraTS-MEN is not supported: .*, which is of meningioma"),
        ("BraTS-MEN-RT-0000-1", "BraTS-MEN is not supported: .*, which is of meningioma"),
        ("BraTS-MET-00001-000", "BraTS-MET is not supported: .*, which is of metastases"),
        ("BraTS-GoAT-00001", "BraTS-GoAT is not supported: .*, which is of several tumours"),
        ("brats-ped-00002-000", "brats-ped is not supported: .*, which is of paediatric tumours"),
    ],
)
def test_other_tumours_are_refused_by_name(tmp_path, name, tumour, edition):
    """Alone, and beside glioma."""
    add_case(tmp_path / name, name, "2023")
    for _ in range(2):
        with pytest.raises(UserError, match=tumour) as error:
            find_cases(tmp_path, edition)
        assert "--edition" not in str(error.value)
        add_case(tmp_path / "BraTS-GLI-00000-000", "BraTS-GLI-00000-000", "2023")


def test_several_editions_are_refused(tmp_path):
    add_case(tmp_path, FIRST)
    add_case(tmp_path, SECOND)
    add_case(tmp_path, "BraTS2021_00000", "2021")
    listing = rf"several editions \(2021: 1, as BraTS2021_00000; 2020: 2, as {FIRST}\)\. Give one of them a folder of"
    with pytest.raises(UserError, match=listing):
        find_cases(tmp_path)


def test_the_user_must_say_whether_it_is_2023_or_2024(tmp_path):
    add_case(tmp_path, "BraTS-GLI-00005-100", "2024")
    with pytest.raises(UserError, match=r"as in 2023 and 2024 \(BraTS-GLI-00005-100\).*Say which with --edition"):
        find_cases(tmp_path)
    assert find_cases(tmp_path, "2023").edition.name == "2023"


@pytest.mark.parametrize("edition", ["2018", "2021", "2024", "msd"])
def test_a_wrong_edition_is_refused(edition, tmp_path):
    add_case(tmp_path, FIRST)
    add_case(tmp_path, SECOND)
    with pytest.raises(UserError, match=rf"{FIRST} \(and 1 more\) is named as in 2020, not in {edition}\. Choose"):
        find_cases(tmp_path, edition)


def test_no_cases_and_no_folder_are_refused(tmp_path):
    touch(tmp_path / "readme.nii.gz")
    with pytest.raises(UserError, match=r"holds no cases with BraTS names\. There are 1 files such as readme.nii.gz"):
        find_cases(tmp_path)
    with pytest.raises(UserError, match=r"no cases of edition 2021 \(files ending in _t1, _t1ce, _t2, _flair, _seg\)"):
        find_cases(tmp_path, "2021")
    with pytest.raises(UserError, match=r"no cases of edition msd \(files ending in imagesTr/ and labelsTr/"):
        find_cases(tmp_path, "msd")
    with pytest.raises(UserError, match=r"nowhere is no folder: give the one that the release was unpacked to"):
        find_cases(tmp_path / "nowhere")


def test_grades_come_from_folders_and_else_from_the_table(tmp_path):
    names = [f"BraTS20_Training_{number:03d}" for number in range(1, 6)]
    for name, parent in zip(names, ("HGG", "lgg", "", "", ""), strict=True):
        add_case(tmp_path / parent / name, name)
    (tmp_path / "name_mapping.csv").write_text(
        f"Grade,BraTS_2020_subject_ID\nLGG,{names[0]}\n LGG ,{names[2]}\nNA,{names[3]}\n"
    )
    assert [case.grade for case in find_cases(tmp_path).cases] == ["HGG", "LGG", "LGG", None, None]


@pytest.mark.parametrize(
    ("edition", "names"),
    [
        ("2019", ("BraTS19_CBICA_AAB_1", "BraTS19_CBICA_AAB_2", "BraTS19_CBICA_AAC_1")),
        *(
            (edition, (f"BraTS-{tumour}-00007-000", f"BraTS-{tumour}-00007-001", f"BraTS-{tumour}-00008-000"))
            for edition in ("2023", "2024")
            for tumour in ("GLI", "SSA")
        ),
    ],
)
def test_time_points_share_a_patient(edition, names, tmp_path):
    for name in names:
        add_case(tmp_path, name, edition)
    first, second, other = patients(tmp_path, edition).values()
    assert first == second != other


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_name_mapping_merges_patients_transitively(delimiter, tmp_path):
    """001 and 002 by two time points of 2019, 003 by an ID of TCGA that 004 links to them; 005 is alone."""
    for number in range(1, 6):
        add_case(tmp_path, f"BraTS20_Training_{number:03d}")
    rows = [
        ("Grade", " BraTS_2020_subject_ID ", "BraTS_2019_subject_ID", "TCGA_TCIA_subject_ID", "Note"),
        ("HGG", "BraTS20_Training_001", "BraTS19_CBICA_AAB_1", "NA", "same"),
        ("HGG", " BraTS20_Training_002", "BraTS19_CBICA_AAB_2", "", "same"),
        ("HGG", "BraTS20_Training_003", "NA", "TCGA-02-0006 ", "same"),
        ("HGG", "BraTS20_Training_004", "BraTS19_CBICA_AAB_3", "TCGA-02-0006", "same"),
        ("HGG", "BraTS20_Training_005"),
    ]
    text = "\n".join(delimiter.join(row) for row in rows)
    (tmp_path / "name_mapping.csv").write_text(text, encoding="utf-8-sig")
    *merged, alone = patients(tmp_path).values()
    assert len(set(merged)) == 1
    assert alone not in merged


@pytest.mark.parametrize("none", ["NA", "N/A", "nan", "NaN", "none", "None", "-", "", "  ", " na ", '""'])
def test_no_id_is_no_patient(none, tmp_path):
    add_case(tmp_path, FIRST)
    add_case(tmp_path, SECOND)
    (tmp_path / "name_mapping.csv").write_text(f"Grade,A_ID,B_ID\nHGG,{none},{FIRST}\nHGG,{none},{SECOND}\n")
    assert patients(tmp_path) == {FIRST: FIRST, SECOND: SECOND}


def test_a_name_mapping_that_cannot_be_read_is_refused(tmp_path):
    add_case(tmp_path, FIRST)
    table = tmp_path / "tables" / "name_mapping.csv"
    table.parent.mkdir()
    table.write_text("Grade,A_ID\n", encoding="utf-16")
    with pytest.raises(
        UserError, match=r"tables/name_mapping.csv is not UTF-8 .*: save it as a CSV in UTF-8, or take it"
    ):
        find_cases(tmp_path)
    for row, problem in (
        ("HGG," + 140_000 * "x", r"line 2: field larger than field limit \(131072\)"),
        (f'HGG,"{FIRST}\nHGG,"{SECOND}"', "line 3: ',' expected after '\"'"),
        (f'HGG,"{FIRST}', "line 2: unexpected end of data"),
    ):
        table.write_text(f"Grade,A_ID\n{row}\n")
        with pytest.raises(UserError, match=rf"mapping.csv is no table that can be read \({problem}\)\. Put the"):
            find_cases(tmp_path)
    for header in ("Grade,subject", "Grade|A_ID|B", ""):
        table.write_text(f"{header}\nHGG,{FIRST}\n")
        with pytest.raises(UserError, match=r"tables/name_mapping.csv has no column whose name ends in _ID") as error:
            find_cases(tmp_path)
        assert repr(header) in str(error.value)
