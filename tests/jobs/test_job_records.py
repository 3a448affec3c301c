import json
import os
import time
from dataclasses import replace

import pytest

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.jobs import records as module
from nnunetv2_cfnet.jobs.progress import read_progress
from nnunetv2_cfnet.jobs.records import Record, Records
from nnunetv2_cfnet.jobs.status import print_status, summary_of
from nnunetv2_cfnet.jobs.steps import Step, StepError

EPOCH = """
2026-11-29 02:39:17.017807: Epoch {epoch}
2026-11-29 02:39:17.017807: Current learning rate: 0.01
2026-11-29 02:39:39.606157: train_loss -0.3201
2026-11-29 02:39:39.606574: Pseudo dice [np.float32(0.8), np.float32(0.6), nan]
2026-11-29 02:39:39.606657: Epoch time: {time_s} s
"""


def write_log(folder, number: int, *epochs: int, time_s: float = 60, more: str = "") -> None:
    """A log of nnU-Net, which names it by the time of the start."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(EPOCH.format(epoch=epoch, time_s=time_s) for epoch in epochs)
    (folder / f"training_log_2026_{number}_29_02_39_17.txt").write_text(text + more)


def test_progress_counts_an_epoch_that_was_trained_twice_once(tmp_path):
    write_log(tmp_path, 9, 0, 1, 2)
    write_log(tmp_path, 10, 2, 3, more="2026-11-29 02:39:17.017807: Epoch 4\n")
    progress = read_progress(tmp_path)
    assert (progress.epoch, progress.num_trained) == (4, 5)
    assert progress.dice == pytest.approx(0.7)
    assert progress.epoch_s == 60
    assert not progress.is_validating


def test_progress_knows_when_the_validation_has_begun(tmp_path):
    write_log(tmp_path, 1, 0, more="2026-11-29 02:40:00.0: Training done.\n2026-11-29 02:40:01.0: predicting case_1\n")
    assert read_progress(tmp_path).is_validating


def test_a_time_that_is_none_is_passed_over(tmp_path):
    write_log(tmp_path, 1, 0, time_s="abc")
    assert read_progress(tmp_path).epoch_s is None


def test_without_a_log_there_is_no_progress(tmp_path):
    assert read_progress(tmp_path / "absent").epoch == 0


def error_with(tmp_path, exit_code: int) -> StepError:
    log = tmp_path / "log"
    log.write_text("epoch 3\nRuntimeError: CUDA out of memory\n\n")
    return StepError(Step("fold_0", ["nnUNetv2_train"], tmp_path), exit_code, log)


@pytest.mark.parametrize(
    ("exit_code", "state", "why"),
    [
        (1, "failed", "RuntimeError: CUDA out of memory"),
        (-9, "interrupted", "RuntimeError: CUDA out of memory"),
        (-15, "interrupted", "RuntimeError: CUDA out of memory"),
        (75, "interrupted", "RuntimeError: CUDA out of memory"),
        (-11, "failed", "RuntimeError: CUDA out of memory"),
    ],
)
def test_how_a_command_ended_is_recorded(tmp_path, exit_code, state, why):
    records = Records(tmp_path)
    error = error_with(tmp_path, exit_code)
    with pytest.raises(StepError), records.running("fold_0"):
        raise error
    assert (records.read("fold_0").state, records.read("fold_0").why) == (state, why)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_process_is_an_interruption(tmp_path, error):
    records = Records(tmp_path)
    with pytest.raises(error), records.running("fold_0"):
        raise error
    assert records.read("fold_0").num_interruptions == 1
    with records.running("fold_0"):
        assert records.read("fold_0").num_interruptions == 1
    assert (records.read("fold_0").state, records.read("fold_0").num_interruptions) == ("done", 1)


def test_a_kill_that_could_record_nothing_is_an_interruption(tmp_path):
    records = Records(tmp_path)
    records.write("fold_0", Record(state="running", starts=[0]))
    with records.running("fold_0"):
        assert records.read("fold_0").num_interruptions == 1


def test_a_training_that_gets_no_further_is_stopped(tmp_path):
    records = Records(tmp_path)
    fold = tmp_path / "fold_0"
    write_log(fold, 1, 0, 1)
    for _ in range(module.MAX_STARTS_WITHOUT_PROGRESS):
        with pytest.raises(SystemExit), records.running("fold_0", fold):
            raise SystemExit
    stuck = pytest.raises(UserError, match="fold_0 was interrupted 5 times without getting further")
    with stuck, records.running("fold_0", fold):
        raise AssertionError
    assert records.read("fold_0").state == "failed"
    write_log(fold, 2, 2)
    with records.running("fold_0", fold):
        pass
    assert records.read("fold_0").state == "done"


def test_what_was_not_to_be_run_after_all_is_as_it_was(tmp_path):
    records = Records(tmp_path)
    failed = Record(state="failed", why="no memory", starts=[0])
    records.write("conclusion", failed)
    with pytest.raises(UserError, match="waiting"), records.expecting((), ["preparation", "conclusion"]):
        raise UserError(records.read("conclusion").state)
    assert (records.names(), records.read("conclusion")) == (["conclusion"], failed)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Record(), Record(state="failed", why="its job ended")),
        (Record(state="running", starts=[0]), Record(state="failed", why="its job ended", starts=[0])),
        (Record(state="interrupted", why="no memory"), Record(state="failed", why="no memory")),
        (Record(state="failed", why="crash"), Record(state="failed", why="crash")),
        (Record(state="cancelled"), Record(state="cancelled")),
    ],
)
def test_what_nobody_goes_on_with_has_failed(tmp_path, before, after):
    records = Records(tmp_path)
    records.write("fold_0", before)
    records.give_up("fold_0")
    assert records.read("fold_0") == replace(after, starts=[*after.starts])


def test_who_runs_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SIGN_OF_LIFE_S", 0.01)
    records = Records(tmp_path)
    with records.running("fold_0"):
        os.utime(records.folder / "fold_0.json", (0, 0))
        deadline = time.monotonic() + 10
        while records.is_silent("fold_0") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not records.is_silent("fold_0")


@pytest.mark.parametrize(
    "content",
    [
        {"status": "fine"},
        {"state": "fine"},
        {"state": ["done"]},
        {"why": None},
        {"host": 1},
        {"starts": 3},
        {"starts": ["0"]},
        {"fold_folder": 1},
        {"num_epochs": "many"},
    ],
)
def test_a_record_of_another_kind_is_named(tmp_path, content):
    records = Records(tmp_path)
    records.folder.mkdir()
    (records.folder / "fold_0.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"fold_0\.json is no record of a job"):
        records.read("fold_0")


def test_status_is_a_table_of_all_parts(tmp_path, capsys):
    records = Records(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "fold_1.log").touch()
    for fold, epochs in enumerate([(0, 1, 2, 3), (0, 1), (0,), (0,), (), (0, 1, 2, 3)]):
        write_log(tmp_path / f"fold_{fold}", 1, *epochs, time_s=1800)
    write_log(tmp_path / "fold_5", 2, more="2026-11-29 02:40:01.0: predicting case_1\n")
    (tmp_path / "fold_0" / "validation").mkdir()
    (tmp_path / "fold_0" / "validation" / "summary.json").write_text("{}")
    of = {fold: {"fold_folder": f"fold_{fold}", "num_epochs": 4} for fold in range(6)}
    records.write("preparation", Record(state="done"))
    records.write("fold_0", Record(state="done", starts=[0], **of[0]))
    records.write("fold_1", Record(state="running", starts=[0, 1, 1], **of[1]))
    records.write("fold_2", Record(state="failed", why="RuntimeError: CUDA out of memory\x1b", **of[2]))
    records.write("fold_3", Record(state="running", starts=[0], **of[3]))
    os.utime(records.folder / "fold_3.json", (0, 0))
    records.write("fold_4", Record(state="interrupted", why="no memory", starts=[0], **of[4]))
    records.write("fold_5", Record(state="running", starts=[0], **of[5]))
    records.write("conclusion", Record())
    print_status(tmp_path)
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [[cell.strip() for cell in row if cell] for row in rows] == [
        ["training", "state", "epoch", "Dice", "time left", "log"],
        ["preparation", "done"],
        ["fold_0", "done", "4/4", "0.700"],
        ["fold_1", "running, interrupted 2 times", "2/4", "0.700", "1 h 0 min", str(tmp_path / "logs" / "fold_1.log")],
        ["fold_2", "failed: RuntimeError: CUDA out of memory\\x1b", "1/4", "0.700", "1 h 30 min"],
        ["fold_3", "running, without a sign of life: killed?", "1/4", "0.700", "1 h 30 min"],
        ["fold_4", "waiting, interrupted 1 time: no memory", "0/4"],
        ["fold_5", "running, validating", "4/4", "0.700"],
        ["conclusion", "waiting"],
    ]
    assert summary_of(tmp_path) == "2 done, 1 failed, 3 running, 2 waiting: fold_1 2/4, fold_3 1/4, fold_5 4/4"


def test_a_record_that_is_none_is_a_row(tmp_path, capsys):
    records = Records(tmp_path)
    records.write("fold_0", Record(state="done"))
    records.write("fold_1\x1b[2J", Record(state="done"))
    (records.folder / "fold_2.json").write_text("{")
    print_status(tmp_path)
    _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(maxsplit=1) for row in rows] == [
        ["fold_0", "done"],
        ["fold_1\\x1b[2J", "done"],
        ["fold_2", f"record unreadable: {records.folder / 'fold_2.json'}"],
    ]
    assert summary_of(tmp_path) == "2 done"


def test_a_folder_without_trainings_is_named(tmp_path):
    with pytest.raises(UserError, match=r"has no records of trainings .* give the folder of a benchmark"):
        print_status(tmp_path)
