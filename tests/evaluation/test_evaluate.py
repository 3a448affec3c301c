"""`evaluate`: folders to tables, against nnU-Net's own evaluation and values worked out by hand; what is refused."""

import json
import multiprocessing.dummy
import os
from collections.abc import Callable
from math import isnan, nan
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas
import pytest
from images import write_image
from nnunetv2.evaluation import evaluate_predictions as nnunet
from skimage.io import imsave

from nnunetv2_cfnet.errors import UserError
from nnunetv2_cfnet.evaluation import cases
from nnunetv2_cfnet.evaluation.cases import Pair, evaluate_pairs
from nnunetv2_cfnet.evaluation.evaluate import PROGRESS, SUMMARY, evaluate
from nnunetv2_cfnet.evaluation.metrics import METRICS, region_metrics
from nnunetv2_cfnet.evaluation.segmentations import Labelling, read_labelled_dataset
from nnunetv2_cfnet.evaluation.summary import summarise
from nnunetv2_cfnet.files.lock import locked
from nnunetv2_cfnet.files.processes import workers

SHAPE = (5, 6, 7)
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4},
    "regions_class_order": [1, 2, 3],
    "file_ending": ".nii.gz",
}
LABELS = {"labels": {"background": 0, "b": 2, "a": 1, "c": 3}, "file_ending": ".nii.gz"}
RESULTS = ["cfnet_summary.json", "per_case.csv"]


def write_cases(folder: Path, cases: dict[str, np.ndarray], ending: str = ".nii.gz", **header: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for case, array in cases.items():
        file = folder / f"{case}{ending}"
        if ending == ".png":
            imsave(file, array, check_contrast=False)
        else:
            write_image(array, file, **header)
    return folder


def write_json(folder: Path, dataset_json: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(dataset_json))


def noise(seed: int, num_labels: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, num_labels, SHAPE).astype(np.uint8)


def some_labels(**boxes: tuple[slice | int, ...]) -> np.ndarray:
    """As in some_labels(v1=(0, 0, 0)): label 1 in the first voxel."""
    array = np.zeros(SHAPE, dtype=np.uint8)
    for name, box in boxes.items():
        array[box] = int(name[1:])
    return array


def write_noise(root: Path) -> tuple[Path, Path]:
    """Labels and predictions of three cases of noise, with an ignore label; one case has no enhancing tumour."""
    references = {f"case_{number}": noise(number) for number in range(3)}
    predictions = {f"case_{number}": noise(10 + number, num_labels=4) for number in range(3)}
    for array in (references["case_1"], predictions["case_1"]):
        array[array == 3] = 0
    labels = write_cases(root / "labels", references)
    predicted = write_cases(root / "predictions", predictions)
    write_json(predicted, REGIONS)
    return labels, predicted


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    return write_noise(tmp_path)


class Evaluated(NamedTuple):
    folders: tuple[Path, Path]
    out: Path
    summary: dict


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Evaluated:
    root = tmp_path_factory.mktemp("evaluated")
    folders, out = write_noise(root), root / "new" / "out"
    return Evaluated(folders, out, run(folders, out))


def write_pair(root: Path, reference: np.ndarray, prediction: np.ndarray, dataset_json: dict = LABELS, **header):
    """Folders of one case."""
    ending = dataset_json["file_ending"]
    labels = write_cases(root / "labels", {"case": reference}, ending, **header)
    predictions = write_cases(root / "predictions", {"case": prediction}, ending, **header)
    write_json(predictions, dataset_json)
    return labels, predictions


def run(folders: tuple[Path, Path], out: Path | None = None, dataset_json: Path | None = None, np: int = 1) -> dict:
    """The summary, read as strict JSON."""
    evaluate(*folders, dataset_json, out, np)

    def refuse_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(((out or folders[1]) / RESULTS[0]).read_text(), parse_constant=refuse_constant)


def files_in(folder: Path) -> dict[Path, tuple[int, int] | None]:
    """Of each file its size and time; of a folder that it is there: a lock, which is gone again, changes its time."""
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None for path in folder.rglob("*")
    }


def refuse(tmp_path: Path, folders: tuple[Path, Path], **arguments) -> str:
    """The message of an evaluation that writes nothing."""
    before = files_in(tmp_path)
    with pytest.raises(UserError) as error:
        run(folders, **arguments)
    assert files_in(tmp_path) == before
    return str(error.value)


# Results


def test_dice_is_nnunets_own_where_voxels_are_ignored(evaluated, tmp_path, monkeypatch):
    threads = SimpleNamespace(get_context=lambda method: multiprocessing.dummy)  # processes take seconds to start
    monkeypatch.setattr(nnunet, "multiprocessing", threads)
    (tmp_path / "plans.json").write_text(json.dumps({"label_manager": "LabelManager"}))
    summary_file = tmp_path / "summary.json"
    files = (evaluated.folders[1] / "dataset.json", tmp_path / "plans.json", summary_file)
    nnunet.compute_metrics_on_folder2(*map(str, (*evaluated.folders, *files)), num_processes=1)
    theirs, ours = nnunet.load_summary_json(str(summary_file)), evaluated.summary
    keys = {"whole": (1, 2, 3), "core": (2, 3), "enhancing": 3}
    for our_case, their_case in zip(ours["metric_per_case"], theirs["metric_per_case"], strict=True):
        assert our_case["reference_file"] == their_case["reference_file"]
        assert our_case["prediction_file"] == their_case["prediction_file"]
        for region, key in keys.items():
            values, expected = our_case["metrics"][region], their_case["metrics"][key]
            dice = nan if values["dice_nnunet"] is None else values["dice_nnunet"]
            assert dice == pytest.approx(expected["Dice"], nan_ok=True)
            assert values["specificity"] == pytest.approx(expected["TN"] / (expected["TN"] + expected["FP"]))
            assert values["volume_reference_ml"] == pytest.approx(expected["n_ref"] / 1000)
    for region, key in keys.items():
        metrics = ours["regions"][region]["metrics"]
        assert metrics["dice"]["nnunet"]["mean"] == pytest.approx(theirs["mean"][key]["Dice"])
        assert metrics["dice_nnunet"]["brats"] == metrics["dice"]["nnunet"]
    assert ours["regions"]["enhancing"]["metrics"]["dice"]["nnunet"]["num_cases"] == 2


def test_both_files_hold_every_case_and_region(evaluated):
    rows = pandas.read_csv(evaluated.out / "per_case.csv")
    assert list(rows) == ["case", "region", *METRICS]
    assert list(zip(rows["case"], rows["region"], strict=True)) == [
        (f"case_{number}", region) for number in range(3) for region in ("whole", "core", "enhancing")
    ]
    for case in evaluated.summary["metric_per_case"]:
        for region, values in case["metrics"].items():
            row = rows[(rows["case"] == case["case"]) & (rows["region"] == region)].iloc[0]
            assert {name: None if isnan(row[name]) else row[name] for name in METRICS} == values
    empty = rows[(rows["case"] == "case_1") & (rows["region"] == "enhancing")].iloc[0]
    assert isnan(empty["dice_nnunet"])
    assert empty["dice"] == 1
    assert ",enhancing,1.0,,0.0," in (evaluated.out / "per_case.csv").read_text()
    assert sorted(path.name for path in evaluated.out.iterdir()) == RESULTS


def test_without_o_results_lie_beside_the_predictions(folders):
    before = {path.name for path in folders[1].iterdir()}
    run(folders)
    assert {path.name for path in folders[1].iterdir()} == before | set(RESULTS)


def test_the_summary_says_what_it_is_of(evaluated):
    provenance = evaluated.summary["provenance"]
    assert provenance["labels"] == str(evaluated.folders[0])
    assert provenance["predictions"] == str(evaluated.folders[1])
    assert provenance["num_cases"] == 3
    assert provenance["regions"] == {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
    assert provenance["ignore_label"] == 4
    assert {"nnunetv2", "nnunetv2_cfnet", "monai", "python"} <= set(provenance["versions"])
    assert "the diagonal of the volume" in provenance["rules"]["brats"]


def test_means_follow_both_rules_for_empty_regions():
    """By hand: a hit, a miss, a false alarm and a region that nobody has."""
    values = {
        "case": ["hit", "miss", "false", "none"],
        "dice": [0.5, 0, 0, 1],
        "dice_nnunet": [0.5, 0, 0, nan],
        "hd95": [4, 100, 100, 0],
        "sensitivity": [0.25, 0, 0, 1],
        "volume_reference_ml": [1, 1, 0, 0],
        "volume_prediction_ml": [3, 0, 1, 0],
    }
    rows = pandas.DataFrame({name: values.get(name, [0.0] * 4) for name in ("case", *METRICS)}).assign(region="core")
    summary = summarise(rows)["core"]
    assert [summary[name] for name in ("num_cases", "empty_in_reference", "empty_in_prediction", "empty_in_both")] == [
        *(4, 2, 2, 1)
    ]
    metrics = summary["metrics"]
    assert metrics["dice"] == {
        "brats": {"mean": 0.375, "median": 0.25, "num_cases": 4},
        "nnunet": {"mean": pytest.approx(1 / 6), "median": 0, "num_cases": 3},
    }
    assert metrics["hd95"] == {
        "brats": {"mean": 51, "median": 52, "num_cases": 4},
        "nnunet": {"mean": 4, "median": 4, "num_cases": 1},
    }
    assert metrics["sensitivity"]["nnunet"] == {"mean": 0.125, "median": 0.125, "num_cases": 2}
    none_left = summarise(rows[rows["case"] == "none"])["core"]["metrics"]["dice"]["nnunet"]
    assert isnan(none_left["mean"])
    assert none_left["num_cases"] == 0


def test_a_dataset_without_any_left_case_is_strict_json_and_printed(tmp_path, capsys):
    summary = run(write_pair(tmp_path, some_labels(v2=(0, 0, 0)), some_labels(v2=(0, 0, 1))))
    assert list(summary["regions"]) == ["b", "a", "c"]  # as in dataset.json
    assert summary["regions"]["a"]["metrics"]["hd95"]["nnunet"] == {"mean": None, "median": None, "num_cases": 0}
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines()[:-1])) <= 100
    row = next(line.split() for line in output.splitlines() if line.startswith("a "))
    assert row == ["a", "1.000", "-", "0.00", "0.00", "0.00", "1.000", "1.000", "1.000", "0.00"]
    assert "a is empty in 1 references, 1 predictions, both in 1 of 1 cases." in output


def test_the_table_fits_100_columns_with_any_name(tmp_path, capsys):
    name = "non_enhancing_tumor_core_and_cysts"
    dataset_json = {"labels": {"background": 0, name: 1}, "file_ending": ".nii.gz"}
    run(write_pair(tmp_path, some_labels(v1=(0, 0, 0)), some_labels(v1=slice(0, 5, 2)), dataset_json))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:2] == [name[:19], "0.016"]  # 2 / (1 + 3 * 42)
    assert {len(line) for line in lines[:3]} == {100}


def test_names_that_are_no_text_are_printed_escaped_and_written(tmp_path, capsys):
    dataset_json = {"labels": {"background": 0, "a\x1b[2J\udce4": 1}, "file_ending": ".nii.gz"}
    labels, predictions = write_pair(tmp_path, some_labels(), some_labels(), dataset_json)
    assert list(run((labels, predictions))["regions"]) == ["a\x1b[2J\udce4"]
    output = capsys.readouterr().out
    assert r"a\x1b[2J\udce4 is empty in 1 references" in output
    assert all(line.isprintable() for line in output.split("\n"))
    assert "a\x1b[2J\\udce4" in (predictions / "per_case.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("ending", "setting"),
    [
        (".nii.gz", {}),
        (".nrrd", {}),
        (".mha", {}),
        (".nii", {"overwrite_image_reader_writer": "NibabelIO"}),
        (".nii.gz", {"overwrite_image_reader_writer": "NibabelIOWithReorient"}),
        (".nii.gz", {"overwrite_image_reader_writer": "SimpleITKIOWithReorient"}),
    ],
)
def test_formats_and_readers_give_the_same_metrics(tmp_path, ending, setting):
    header = {"Spacing": (1.0, 2.0, 0.5), "Origin": (5.0, -7.0, 0.0)}
    dataset_json = {**LABELS, "file_ending": ending, **setting}
    folders = write_pair(tmp_path, noise(0, 4), noise(1, 4), dataset_json, **header)
    metrics = run(folders)["metric_per_case"][0]["metrics"]
    expected = region_metrics(noise(0, 4) == 1, noise(1, 4) == 1, (0.5, 2.0, 1.0))  # (z, y, x), and headers (x, y, z)
    assert metrics["a"] == pytest.approx(expected)


def test_2d_images_are_evaluated(tmp_path):
    reference, prediction = np.zeros((2, 40, 30), dtype=np.uint8)
    reference[10:20, 10:20], prediction[10:20, 13:23] = 1, 1
    dataset_json = {"labels": {"background": 0, "road": 1}, "file_ending": ".png"}
    summary = run(write_pair(tmp_path, reference, prediction, dataset_json))
    values = summary["metric_per_case"][0]["metrics"]["road"]
    assert values["dice"] == values["lesion_dice"] == 0.7
    assert values["hd95_max"] == 3
    assert values["volume_reference_ml"] == pytest.approx(0.1)


@pytest.mark.host
def test_worker_processes_give_the_same_results(evaluated, tmp_path, monkeypatch):
    # one will do: each takes seconds to start
    monkeypatch.setattr(cases, "workers", lambda _, *arguments, **more: workers(1, *arguments, **more))
    assert run(evaluated.folders, out=tmp_path, np=2)["metric_per_case"] == evaluated.summary["metric_per_case"]


# Going on


def test_an_interrupted_evaluation_goes_on_where_it_was(evaluated, tmp_path, monkeypatch, capsys):
    folders, _, expected = evaluated
    num_calls = 0

    def interrupted(*arguments) -> dict[str, float]:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 8:  # in the third case
            raise KeyboardInterrupt
        return region_metrics(*arguments)

    monkeypatch.setattr(cases, "region_metrics", interrupted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(folders, out=out)
    assert "Interrupted: the same command goes on where this one was." in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [PROGRESS]

    with (out / PROGRESS).open("a") as file:
        file.write('{"case": "case_2", "key": "torn')
    summary = run(folders, out=out)
    assert num_calls == 8 + 3  # the third case only
    assert "2 of 3 cases are taken over from an interrupted run." in capsys.readouterr().out
    assert summary == expected
    assert sorted(path.name for path in out.iterdir()) == RESULTS


def test_a_second_evaluation_into_one_folder_is_refused(folders, tmp_path):
    with (
        locked(tmp_path / "out" / SUMMARY),
        pytest.raises(UserError, match=r"out/cfnet_summary\.json is being written by process"),
    ):
        run(folders, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Resumed(NamedTuple):
    prediction: Path
    progress_file: Path
    evaluate: Callable[..., pandas.DataFrame]


@pytest.fixture
def resumed(tmp_path) -> Resumed:
    """A case that was evaluated and recorded: its reference has label 1, and its prediction nothing."""
    labels, predictions = write_pair(tmp_path, some_labels(v1=0), some_labels(), {**LABELS, "file_ending": ".nii"})
    pairs = {"case": Pair(labels / "case.nii", predictions / "case.nii")}
    _, labelling = read_labelled_dataset(predictions / "dataset.json", "")
    progress_file = tmp_path / "progress.jsonl"

    def evaluate(labelling: Labelling = labelling) -> pandas.DataFrame:
        more = {"num_processes": 1, "description": "cases", "progress_file": progress_file}
        return evaluate_pairs(pairs, labelling, {"file_ending": ".nii"}, **more)

    evaluate()
    return Resumed(pairs["case"].prediction, progress_file, evaluate)


def dice_of_a(rows: pandas.DataFrame) -> float:
    return float(rows.set_index("region").loc["a", "dice"])


def test_a_case_is_taken_over_where_its_files_were_only_touched(resumed, capsys):
    before = resumed.evaluate()
    os.utime(resumed.prediction, ns=(0, 0))
    capsys.readouterr()
    pandas.testing.assert_frame_equal(resumed.evaluate(), before)
    message = f"1 of 1 cases are taken over from an interrupted run. Remove {resumed.progress_file} to evaluate"
    assert message in capsys.readouterr().out


def test_a_case_whose_file_changed_at_the_same_size_and_time_is_evaluated_again(resumed):
    before = resumed.prediction.stat()
    write_image(some_labels(v1=0), resumed.prediction)
    os.utime(resumed.prediction, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert resumed.prediction.stat().st_size == before.st_size
    assert dice_of_a(resumed.evaluate()) == 1


def test_a_case_is_evaluated_again_for_other_regions(resumed, capsys):
    assert list(resumed.evaluate(Labelling({"whole": (1, 2, 3)}))["region"]) == ["whole"]
    assert "taken over" not in capsys.readouterr().out


def without(content: dict, *keys: str) -> dict:
    """A copy that lacks what the keys lead to."""
    first, *rest = keys
    return {
        key: without(value, *rest) if rest and key == first else value
        for key, value in content.items()
        if rest or key != first
    }


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: b"",
        lambda record: b"\xff\xfe\x00torn",
        lambda record: b"3",
        lambda record: b"[" * 100_000,
        lambda record: [record],
        lambda record: {**record, "case": ["case"]},
        lambda record: {**record, "metrics": None},
        lambda record: {**record, "metrics": {**record["metrics"], "a": [1.0]}},
        lambda record: without(record, "case"),
        lambda record: without(record, "key"),
        lambda record: without(record, "metrics"),
        lambda record: without(record, "metrics", "a"),
        lambda record: without(record, "metrics", "a", "hd95"),
        *(
            lambda record, value=value: {
                **record,
                "metrics": {**record["metrics"], "a": {**record["metrics"]["a"], "hd95": value}},
            }
            for value in (None, "1.0", True, nan)
        ),
    ],
)
def test_a_record_that_is_not_whole_is_no_record(resumed, spoil):
    expected, record = resumed.evaluate(), json.loads(resumed.progress_file.read_bytes())
    spoilt = spoil(record)
    resumed.progress_file.write_bytes(spoilt if isinstance(spoilt, bytes) else json.dumps(spoilt).encode())
    pandas.testing.assert_frame_equal(resumed.evaluate(), expected)
    *_, last = resumed.progress_file.read_bytes().splitlines()
    assert json.loads(last) == record  # found anew


# What is refused


def test_missing_and_extra_cases_are_named(folders, tmp_path):
    (folders[1] / "case_0.nii.gz").rename(folders[1] / "case_7.nii.gz")
    message = refuse(tmp_path, folders)
    assert f"1 without a prediction in {folders[1]}: case_0; and 1 without a label in {folders[0]}: case_7" in message
    assert "Predict what is missing" in message


def test_a_file_whose_name_is_not_utf_8_is_refused(folders, tmp_path):
    """Given its name, SimpleITK would abort."""
    for folder in folders:
        (folder / "case_1.nii.gz").rename(folder / "case_\udce4.nii.gz")
    assert "case_\udce4.nii.gz: this path is not in UTF-8" in refuse(tmp_path, folders)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "None"])
def test_a_path_beyond_ascii_is_read_where_python_takes_names_for_ascii(tmp_path, reader):
    """There it holds surrogates for its bytes, with LC_ALL=C and PYTHONUTF8=0: here as well, by name."""
    labels, predictions = write_noise(tmp_path / "ö")
    write_json(predictions, {**REGIONS, "overwrite_image_reader_writer": reader})
    as_ascii = [Path(os.fsencode(path).decode("ascii", "surrogateescape")) for path in (labels, predictions)]
    evaluate(*as_ascii, None, tmp_path / "out", 1)
    assert (tmp_path / "out" / SUMMARY).is_file()


def test_no_folder_no_files_and_no_dataset_json_are_refused(folders, tmp_path):
    assert f"{tmp_path / 'x'} is no folder" in refuse(tmp_path, (folders[0], tmp_path / "x"))
    empty = tmp_path / "empty"
    empty.mkdir()
    json_file = folders[1] / "dataset.json"
    message = refuse(tmp_path, (empty, folders[1]))
    assert f"{empty} holds no files ending in .nii.gz, the file_ending of dataset.json" in message
    assert f"{empty} holds no files" in refuse(tmp_path, (folders[0], empty), dataset_json=json_file)
    message = refuse(tmp_path, (folders[0], empty))
    assert (
        f"{empty / 'dataset.json'} does not exist. Give that of the model, or of the dataset, with -djfile." in message
    )
    assert f"{json_file} is a file, and a folder is to be written there: choose another -o" in refuse(
        tmp_path, folders, out=json_file
    )
    assert "0 processes can't do anything: give -np at least 1." in refuse(tmp_path, folders, np=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{torn", "dataset.json is no JSON ("),
        ("[]", "dataset.json holds no JSON object. Give that"),
        ("[" * 100_000, "dataset.json is nested too deeply to be read. Give that"),
        *(
            (
                json.dumps({**LABELS, "overwrite_image_reader_writer": reader}),
                f"overwrite_image_reader_writer is {json.dumps(reader)}; it must be the name of one of nnU-Net's",
            )
            for reader in (["SimpleITKIO"], None, 3)
        ),
        (
            json.dumps({**LABELS, "overwrite_image_reader_writer": "join"}),  # a function that nnU-Net finds there
            "check that they are whole, and file_ending .nii.gz and overwrite_image_reader_writer in dataset.json",
        ),
        (json.dumps({"labels": {"a": 1}}), 'file_ending is null; it must be that of the files, such as ".nii.gz"'),
        *(
            (json.dumps({"labels": labels, "file_ending": ".nii.gz"}), f"labels are {json.dumps(labels)}; they must")
            for labels in (
                *(None, {}, {"background": 0}, {"0": "background", "1": "tumor"}),
                *({"a": [1, "2"]}, {"a": 1.5}, {"a": [[1]]}, {"a": 1, "ignore": [2, 3]}),
            )
        ),
    ],
)
def test_a_dataset_json_that_says_nothing_is_refused(folders, tmp_path, text, message):
    (folders[1] / "dataset.json").write_text(text)
    assert message in refuse(tmp_path, folders)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".png"])
@pytest.mark.parametrize("share", [0, 0.6])
def test_a_truncated_file_is_refused_and_the_others_problems_too(tmp_path, ending, share, capsys):
    """Whichever of the files it is that a reader is first tried with."""
    array = np.random.default_rng(0).integers(0, 4, (40, 50)).astype(np.uint8)
    arrays = dict.fromkeys("ab", array if ending == ".png" else array[None])
    folders = tuple(write_cases(tmp_path / name, arrays, ending) for name in ("labels", "predictions"))
    write_json(folders[1], {**LABELS, "file_ending": ending})
    torn = folders[0] / f"a{ending}", folders[1] / f"b{ending}"
    for file in torn:
        content = file.read_bytes()
        file.write_bytes(content[: int(share * len(content))])
    message = refuse(tmp_path, folders)
    assert message.startswith("2 problems were found with cases; nothing was evaluated:")
    for file in torn:
        assert f"{file} can't be read (" in message
    assert "Traceback" not in capsys.readouterr().err


def test_a_file_that_may_not_be_read_is_refused_and_the_others_problems_too(folders, tmp_path, monkeypatch):
    closed, torn = folders[1] / "case_1.nii.gz", folders[1] / "case_2.nii.gz"
    torn.write_bytes(torn.read_bytes()[:100])
    opened = Path.open

    def refuse_one(path: Path, *arguments, **more):
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", refuse_one)
    message = refuse(tmp_path, folders)
    assert message.startswith("2 problems were found with cases; nothing was evaluated:")
    assert f"{closed} can't be read (permission denied). Allow it, as with: chmod +r" in message
    assert f"{torn} can't be read" in message


def test_files_that_no_reader_takes_are_refused(folders, tmp_path, capsys):
    for folder in folders:
        for path in folder.glob("*.nii.gz"):
            path.write_bytes(b"")
    message = refuse(tmp_path, folders)
    assert f"No reader of nnU-Net takes any of the files ({folders[0] / 'case_0.nii.gz'}, ..)" in message
    assert "Traceback" not in capsys.readouterr().err


def test_values_that_are_no_labels_are_named_of_every_file(folders, tmp_path):
    strange = some_labels(v1=0, v7=1, v9=2)
    write_cases(folders[0], {"case_0": strange})
    write_cases(folders[1], {"case_2": some_labels(v1=0).astype(np.float32) + np.float32(0.5)})
    message = refuse(tmp_path, folders)
    assert (
        f"{folders[0] / 'case_0.nii.gz'} has the values 7, 9, which are no labels of dataset.json (0, 1, 2, 3, 4)."
    ) in message
    assert f"{folders[1] / 'case_2.nii.gz'} has the values 0.5, 1.5, which" in message


def test_nan_is_refused(folders, tmp_path):
    """SimpleITK reads it as a number, in some files."""
    array = some_labels(v1=0).astype(np.float32)
    array[1, 1, 1] = nan
    write_cases(folders[1], {"case_2": array})
    assert f"{folders[1] / 'case_2.nii.gz'} has 1 voxels that are NaN or infinite." in refuse(tmp_path, folders)


@pytest.mark.parametrize(
    ("header", "difference"),
    [
        ({"Spacing": (1.0, 1.0, 1.5)}, "spacing (1, 1, 1.5) against (1, 1, 1)"),
        ({"Origin": (0.0, 4.0, 0.0)}, "origin (0, 4, 0) against (0, 0, 0)"),
        (
            {"Direction": (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)},
            "direction (-1, 0, 0, 0, -1, 0, 0, 0, 1) against (1, 0, 0, 0, 1, 0, 0, 0, 1)",
        ),
    ],
)
@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_geometry_that_differs_is_refused(folders, tmp_path, header, difference, reader):
    write_json(folders[1], {**REGIONS, "overwrite_image_reader_writer": reader})
    write_cases(folders[1], {"case_1": noise(11, 4)}, **header)
    message = refuse(tmp_path, folders)
    paths = [folder / "case_1.nii.gz" for folder in folders[::-1]]
    assert f"{paths[0]} lies elsewhere than {paths[1]}: " in message
    if reader == "SimpleITKIO":
        assert f": {difference}. Predict the images that the labels were drawn on." in message


def test_shapes_that_differ_are_refused(folders, tmp_path):
    write_cases(folders[1], {"case_1": np.zeros((5, 6, 8), dtype=np.uint8)})
    paths = [folder / "case_1.nii.gz" for folder in folders[::-1]]
    assert (f"{paths[0]} has 5 x 6 x 8 voxels and {paths[1]} has 5 x 6 x 7 (z, y, x). Predict the images") in refuse(
        tmp_path, folders
    )


def test_headers_that_are_rounded_lie_in_the_same_place(folders):
    write_cases(folders[1], {"case_1": noise(11, 4)}, Spacing=(1.0, 1.00001, 1.0), Origin=(0.0002, 0.0, 0.0))
    assert run(folders)["provenance"]["num_cases"] == 3


def test_an_rgb_image_is_no_segmentation(tmp_path):
    grey, colour = np.zeros((8, 8), dtype=np.uint8), np.zeros((8, 8, 3), dtype=np.uint8)
    folders = write_pair(tmp_path, grey, colour, {**LABELS, "file_ending": ".png"})
    message = refuse(tmp_path, folders)
    assert f"{folders[1] / 'case.png'} has 3 channels, and a segmentation has one." in message


def test_a_message_lists_ten_problems(tmp_path):
    cases = {f"case_{number:02d}": some_labels(v5=0) for number in range(12)}
    labels = write_cases(tmp_path / "labels", cases)
    predictions = write_cases(tmp_path / "predictions", dict.fromkeys(cases, some_labels()))
    write_json(predictions, LABELS)
    message = refuse(tmp_path, (labels, predictions))
    assert message.startswith("12 problems were found with cases")
    assert message.endswith("\n  and 2 more")
    assert message.count("has the values 5, which") == 10
