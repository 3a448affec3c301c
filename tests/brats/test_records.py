"""What was found in a case is taken over only where the record is whole, and of the same case by content."""

import json
import os

import pytest

from nnunetv2_cfnet.brats import records
from nnunetv2_cfnet.brats.checks import inspect_case
from nnunetv2_cfnet.brats.editions import EDITIONS
from nnunetv2_cfnet.brats.findings import Kind
from nnunetv2_cfnet.brats.records import check_case
from nnunetv2_cfnet.brats.sources import find_cases


@pytest.fixture
def check(tmp_path, monkeypatch):
    """check_case, and whether the case was looked at."""
    looked_at = []

    def inspect(*arguments):
        looked_at.append(arguments)
        return inspect_case(*arguments)

    monkeypatch.setattr(records, "inspect_case", inspect)

    def check(case, edition=EDITIONS["2021"]):
        looked_at.clear()
        checked = check_case(case, edition, tmp_path, tmp_path)
        return checked, bool(looked_at)

    return check


@pytest.mark.parametrize("kind", [None, Kind.OUTSIDE, Kind.MISSING])
def test_a_record_says_all_that_was_found(check, write_release, kind):
    release = write_release(num_cases=1, defects=(kind,) if kind else ())
    (case,) = find_cases(release).cases
    checked, was_looked_at = check(case)
    assert was_looked_at
    again, was_looked_at = check(case)
    assert not was_looked_at
    assert repr(again) == repr(checked)  # by their text, since NaN is not itself


def test_a_case_whose_files_or_edition_changed_is_looked_at_anew(check, write_release):
    case = find_cases(write_release(num_cases=1)).cases[0]
    (before, _), file = check(case), case.files["T1"][0]
    status = file.stat()
    file.touch()
    assert not check(case)[1]
    torn = bytearray(file.read_bytes())
    torn[len(torn) // 2] ^= 0xFF
    file.write_bytes(torn)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after, was_looked_at = check(case)
    assert was_looked_at
    assert after.digest != before.digest
    assert [finding.kind for finding in after.inspection.findings] == [Kind.UNREADABLE]
    assert check(case, EDITIONS["2023"])[1]


def test_a_case_that_cannot_be_read_has_no_record(check, write_release):
    case = find_cases(write_release(num_cases=1)).cases[0]
    case.files["T1"][0].unlink()
    for _ in range(2):
        checked, was_looked_at = check(case)
        assert was_looked_at
        assert checked.digest is None


BROKEN = (None, "", [], [[]], {}, [[], [], []], [[], {"T1": 5}, {}], [[["a", "no severity", "labels", ""]], {}, {}])


def test_a_record_that_is_broken_is_made_anew(check, write_release, tmp_path, monkeypatch):
    (case,) = find_cases(write_release(num_cases=1)).cases
    checked, _ = check(case)
    (file,) = tmp_path.glob("*.json")
    whole = file.read_text()
    record = json.loads(whole)
    looked_at = []
    monkeypatch.setattr(records, "inspect_case", lambda *_: looked_at.append(case) or checked.inspection)
    for broken in (
        "",
        "ÿ",
        "[" * 100_000,
        "[]",
        whole[:-9],
        json.dumps({"digest": record["digest"]}),
        json.dumps({**record, "digest": "another"}),
        *(json.dumps({**record, "inspection": inspection}) for inspection in BROKEN),
    ):
        file.write_text(broken, encoding="latin-1")
        looked_at.clear()
        assert check_case(case, EDITIONS["2021"], tmp_path, tmp_path) == checked
        assert looked_at, broken
        assert file.read_text() == whole
