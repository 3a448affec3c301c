"""CFNet's planners on small synthetic fingerprints: `nnunetv2_cfnet plan`, and `show` of what was planned."""

import inspect
import json
import re
import signal
from pathlib import Path

import pytest
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_cfnet import cli
from nnunetv2_cfnet.planning import run_planners
from nnunetv2_cfnet.planning.planners import PLANNERS, nnUNetPlannerCFNetM, switched_off
from nnunetv2_cfnet.planning.plans import ARGUMENTS, CFNET, cfnet_plans, network_on_meta

INTENSITIES = {"mean": 1.0, "median": 1.0, "std": 1.0, "min": 0.0, "max": 2.0, "percentile_99_5": 2.0}
# spacing in mm and size in voxels of every case
SMALL = ((1.0, 1.0, 1.0), (40, 44, 40))  # quickest to plan
BRAIN = ((1.0, 1.0, 1.0), (140, 172, 140))
LARGE = ((1.0, 0.7, 0.7), (240, 400, 400))  # has a 3d_lowres
SLICES = ((5.0, 0.7, 0.7), (20, 320, 320))
ONE_SLICE = ((999.0, 1.0, 1.0), (1, 512, 512))
CASES = {"brain": BRAIN, "large": LARGE, "slices": SLICES, "one slice": ONE_SLICE}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
PLANS = "nnUNetCFNetPlansM"
WITHOUT_ALL = ("--without", "fusion", "context", "--without", "communication")
MINIMAL = '{"labels": {"background": 0}, "numTraining": 1, "file_ending": ".nii.gz"'


def write_dataset(root: Path, dataset_json: dict, case: tuple = SMALL, number: int = 1) -> Path:
    """A dataset of which only dataset.json, the fingerprint and empty images exist; returns its preprocessed folder."""
    spacing, shape = case
    raw, preprocessed = (root / name / f"Dataset{number:03d}_Test" for name in ("nnUNet_raw", "nnUNet_preprocessed"))
    raw.mkdir(parents=True)
    preprocessed.mkdir(parents=True)
    images = {"images": [f"a_{channel:04d}.nii.gz" for channel in range(4)], "label": "a.nii.gz"}
    for file in (*images["images"], images["label"]):
        (raw / file).touch()
    more = {"dataset": {"a": images}, "overwrite_image_reader_writer": "SimpleITKIO", "numTraining": 100}
    for folder in (raw, preprocessed):
        (folder / "dataset.json").write_text(json.dumps(dataset_json | more))
    fingerprint = {
        "spacings": [spacing] * 3,
        "shapes_after_crop": [shape] * 3,
        "median_relative_size_after_cropping": 0.5,
        "foreground_intensity_properties_per_channel": {str(channel): INTENSITIES for channel in range(4)},
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    return preprocessed


def use(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(root / variable))


@pytest.fixture
def make_dataset(tmp_path, monkeypatch, dataset_json):
    """write_dataset into a workspace of the test's own, in which commands run."""
    use(monkeypatch, tmp_path)

    def make(case: tuple = SMALL, number: int = 1) -> Path:
        return write_dataset(tmp_path, dataset_json, case, number)

    return make


_made: dict[tuple, str] = {}


@pytest.fixture
def planned(tmp_path_factory, dataset_json):
    """Plans of a case, of the command or of nnU-Net's default planner: each made once, for the tests that read them."""

    def get(case: tuple = SMALL, *flags: str, default: bool = False) -> dict:
        if (case, flags, default) not in _made:
            with pytest.MonkeyPatch.context() as monkeypatch:
                root = tmp_path_factory.mktemp("planned")
                use(monkeypatch, root)
                folder = write_dataset(root, dataset_json, case)
                if default:
                    plan_experiment_dataset(1, ExperimentPlanner)
                else:
                    assert cli.main(["plan", "-d", "1", *flags]) == 0
                (file,) = folder.glob("nnUNet*.json")
                _made[case, flags, default] = file.read_text()
        return json.loads(_made[case, flags, default])

    return get


def plan(folder: Path, *flags: object, name: str = PLANS) -> dict:
    assert cli.main(["plan", "-d", folder.name[7:10], *map(str, flags)]) == 0
    return read(folder, name)


def read(folder: Path, name: str = PLANS) -> dict:
    return json.loads((folder / f"{name}.json").read_text())


def show(capsys, *flags: str) -> str:
    capsys.readouterr()
    assert cli.main(["show", "-d", "1", *flags]) == 0
    return capsys.readouterr().out


def write(folder: Path, plans: dict, name: str = PLANS) -> None:
    (folder / f"{name}.json").write_text(json.dumps(plans))


def arguments_of(plans: dict, configuration: str = "3d_fullres") -> dict:
    return plans["configurations"][configuration]["architecture"]["arch_kwargs"]


def refused(folder: Path, *flags: object, command: str = "plan") -> bool:
    """Exit code 2, and no file is new or changed."""
    root = folder.parents[1]
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    exit_code = cli.main([command, "-d", folder.name[7:10], *map(str, flags)])
    return exit_code == 2 and before == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("case", "configurations"),
    [
        (BRAIN, {"2d", "3d_fullres"}),
        (LARGE, {"2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"}),
        (SLICES, {"2d", "3d_fullres"}),
        (ONE_SLICE, {"2d"}),
    ],
    ids=CASES,
)
def test_every_configuration_names_cfnet_with_every_argument(planned, dataset_json, case, configurations):
    plans = planned(case)
    manager = PlansManager(plans)
    assert set(manager.available_configurations) == configurations
    for name in configurations:
        configuration = manager.get_configuration(name)
        architecture = configuration.configuration["architecture"]
        assert architecture["network_class_name"] == CFNET
        assert architecture["arch_kwargs"].keys() == ARGUMENTS.keys()
        # what CFNet's own trainer would choose is what stock trainers find in the plans
        assert arguments_of(cfnet_plans(plans, dataset_json, name).plans, name) == architecture["arch_kwargs"]
    assert plans["experiment_planner_used"] == "nnUNetPlannerCFNetM"
    assert plans["plans_name"] == PLANS


@each_case
def test_a_larger_target_never_shrinks_patch_or_batch(planned, case):
    sizes: dict[str, list] = {}
    for planner in PLANNERS:
        plans = planned_by(planned, planner, case)
        for configuration in {"2d", "3d_fullres"} & plans["configurations"].keys():
            its = plans["configurations"][configuration]
            sizes.setdefault(configuration, []).append((its["patch_size"], its["batch_size"]))
    for small, medium, large in sizes.values():
        for less, more in ((small, medium), (medium, large)):
            assert all(a <= b for a, b in zip(less[0], more[0], strict=True))
            assert less[1] <= more[1]
        assert small != large


def planned_by(planned, planner: str, case: tuple) -> dict:
    return planned(case) if planner == "nnUNetPlannerCFNetM" else planned(case, "-pl", planner)


@pytest.mark.parametrize("planner", PLANNERS.values())
def test_a_smallest_batch_fits_the_target(planned, planner):
    """The patch, at nnU-Net's smallest batch, is one that CFNet's own count of feature maps allows."""
    configuration = planned_by(planned, planner.__name__, LARGE)["configurations"]["3d_fullres"]
    network = network_on_meta(configuration["architecture"], input_channels=4, num_classes=4)
    values = network.compute_conv_feature_map_size(configuration["patch_size"])
    assert configuration["batch_size"] == 2
    assert planner.reference.memory_gb(values, batch_size=2, dim=3) <= planner.reference.gb
    assert planner.reference.memory_gb(values, batch_size=4, dim=3) > planner.reference.gb


@pytest.mark.parametrize("planner", PLANNERS)
def test_brats_sized_images_are_planned_as_the_benchmarks_page_says(planned, planner):
    configurations = planned_by(planned, planner, ((1.0, 1.0, 1.0), (140, 171, 137)))["configurations"]
    cells = [planner]
    for configuration in (configurations["3d_fullres"], configurations["2d"]):
        cells += [" × ".join(map(str, configuration["patch_size"])), str(configuration["batch_size"])]
    assert f"| {' | '.join(cells)} |" in (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()


def test_the_estimate_is_of_the_network_in_the_plans(make_dataset, monkeypatch):
    make_dataset()
    estimates = {}
    estimate = nnUNetPlannerCFNetM.static_estimate_VRAM_usage

    def record(self, patch_size, *arguments):
        estimates[tuple(patch_size)] = estimate(self, patch_size, *arguments)
        return estimates[tuple(patch_size)]

    monkeypatch.setattr(nnUNetPlannerCFNetM, "static_estimate_VRAM_usage", record)
    plans = nnUNetPlannerCFNetM(
        1, modality_groups=[["T1"], ["T1ce", "T2", "FLAIR"]], without=["fusion"]
    ).plan_experiment()
    for configuration in plans["configurations"].values():
        network = network_on_meta(configuration["architecture"], input_channels=4, num_classes=4)
        patch_size = configuration["patch_size"]
        assert estimates[tuple(patch_size)] == network.compute_conv_feature_map_size(patch_size)


def test_augmentation_workers_do_not_matter(make_dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")  # nnU-Net's own planners fail with it
    plan(make_dataset())


def identifiers(plans: dict) -> dict[str, str]:
    return {
        name: configuration["data_identifier"].removesuffix(f"_{name}")
        for name, configuration in plans["configurations"].items()
        if "data_identifier" in configuration
    }


def test_data_are_shared_that_the_default_planner_would_make(make_dataset, planned):
    # 3d_lowres has a spacing that follows from the patch
    own_lowres = {"2d": "nnUNetPlans", "3d_lowres": PLANS, "3d_fullres": "nnUNetPlans"}
    assert identifiers(planned(LARGE)) == own_lowres
    folder = make_dataset(LARGE)
    write(folder, planned(LARGE, default=True), "nnUNetPlans")
    assert identifiers(plan(folder)) == own_lowres


def test_lowres_data_are_shared_where_the_spacing_is_the_same(make_dataset, planned):
    folder = make_dataset(LARGE)
    default = planned(LARGE) | {"plans_name": "nnUNetPlans"}
    for name in ("2d", "3d_lowres", "3d_fullres"):
        default["configurations"][name]["data_identifier"] = f"nnUNetPlans_{name}"
    write(folder, default, "nnUNetPlans")
    assert set(identifiers(plan(folder)).values()) == {"nnUNetPlans"}


@pytest.mark.parametrize("default_plans", [False, True])
@pytest.mark.parametrize("flags", [("-overwrite_target_spacing", 1, 1, 1.5), ("-preprocessor_name", "Pretend")])
def test_data_that_would_differ_are_not_shared(make_dataset, planned, monkeypatch, flags, default_plans):
    monkeypatch.setattr(run_planners, "recursive_find_python_class", lambda *_: object)
    folder = make_dataset()
    if default_plans:
        write(folder, planned(default=True), "nnUNetPlans")
    assert identifiers(plan(folder, *flags)) == {"2d": PLANS, "3d_fullres": PLANS}


@pytest.mark.parametrize(
    ("of_plans", "of_fullres", "shared"),
    [
        ({}, {}, {"2d", "3d_fullres"}),
        ({}, {"spacing": [1.5, 1.0, 1.0]}, {"2d"}),
        ({}, {"normalization_schemes": ["CTNormalization"] * 4}, {"2d"}),
        ({}, {"use_mask_for_norm": [False] * 4}, {"2d"}),
        ({}, {"preprocessor_name": "Another"}, {"2d"}),
        ({}, {"resampling_fn_data": "resample_torch_simple"}, {"2d"}),
        ({}, {"resampling_fn_seg_kwargs": {}}, {"2d"}),
        ({"transpose_forward": [1, 0, 2]}, {}, set()),
        ({"foreground_intensity_properties_per_channel": {}}, {}, set()),
    ],
)
def test_data_of_default_plans_are_shared_where_they_are_the_same(make_dataset, planned, of_plans, of_fullres, shared):
    folder, default = make_dataset(), planned(default=True) | of_plans
    default["configurations"]["3d_fullres"] |= of_fullres
    write(folder, default, "nnUNetPlans")
    assert {name for name, data in identifiers(plan(folder)).items() if data == "nnUNetPlans"} == shared


def test_a_target_spacing_that_is_the_default_plans_shares_their_data(make_dataset, planned):
    folder = make_dataset()
    write(folder, planned(default=True), "nnUNetPlans")
    assert set(identifiers(plan(folder, "-overwrite_target_spacing", 1, 1, 1)).values()) == {"nnUNetPlans"}


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ((), "Before training 2d, 3d_fullres: nnUNetv2_preprocess -d 1 -plans_name {} -c 2d 3d_fullres"),
        (
            ("nnUNetPlans_3d_fullres",),
            "The data of nnUNetPlans are there and are used for 3d_fullres. Before training 2d: nnUNetv2_preprocess "
            "-d 1 -plans_name {} -c 2d",
        ),
        (
            ("nnUNetPlans_2d", "nnUNetPlans_3d_fullres"),
            "The data of nnUNetPlans are there and are used for 2d, 3d_fullres. Nothing is to be preprocessed.",
        ),
    ],
)
def test_the_last_line_says_what_to_preprocess(make_dataset, capsys, there, message):
    """Never shared data that are there, which nnU-Net would make anew."""
    folder = make_dataset()
    for name in ("nnUNetPlans_2d", "nnUNetPlans_3d_fullres"):
        (folder / name).mkdir()  # as far as an interrupted preprocessing comes
        if name in there:
            (folder / name / "a.pkl").touch()
    plan(folder)
    assert capsys.readouterr().out.splitlines()[-1] == message.format(PLANS)


def test_own_data_are_to_be_preprocessed_even_where_earlier_ones_are(make_dataset, capsys):
    """They may be those of earlier plans with another spacing."""
    folder = make_dataset()
    for name in (f"{PLANS}_2d", f"{PLANS}_3d_fullres"):
        (folder / name).mkdir()
        (folder / name / "a.pkl").touch()
    plan(folder, "-overwrite_target_spacing", 1, 1, 1.5)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"Before training 2d, 3d_fullres: nnUNetv2_preprocess -d 1 -plans_name {PLANS} -c 2d 3d_fullres"


def test_what_nnunet_prints_is_in_a_log_beside_the_plans(make_dataset, capsys):
    folder = make_dataset()
    plan(folder)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 3
    assert f"Plans: {folder / PLANS}.json (nnU-Net's output: {PLANS}.log)\n" in printed
    assert "3D fullres U-Net configuration:\n{" in (folder / f"{PLANS}.log").read_text()


def test_parts_are_switched_off_in_every_configuration(planned):
    complete, plans = planned(), planned(SMALL, *WITHOUT_ALL)
    off = {"fusion": "concatenation", "context": False, "communication": False}
    for name in ("2d", "3d_fullres"):
        assert off.items() <= arguments_of(plans, name).items()
        assert not off.items() & arguments_of(complete, name).items()
    for part, value in off.items():
        assert switched_off([part]) == {part: value}


@pytest.mark.parametrize("groups", ["T1, T2, flair|T1ce", "0,2,3|1"])
def test_groups_land_in_every_configuration(make_dataset, capsys, groups):
    plans = plan(make_dataset(), "--groups", groups)
    assert [arguments_of(plans, name)["modality_groups"] for name in ("2d", "3d_fullres")] == [[[0, 2, 3], [1]]] * 2
    assert "CFNet's modality groups: (T1, T2, FLAIR) and (T1ce) - named by --groups." in capsys.readouterr().out


def test_groups_of_dataset_json_land_in_the_plans(make_dataset, dataset_json):
    dataset_json["cfnet_modality_groups"] = [["T1", "T1ce"], ["T2", "FLAIR"]]
    assert arguments_of(plan(make_dataset()))["modality_groups"] == [[0, 1], [2, 3]]


def test_custom_configurations_survive_planning_anew(make_dataset, planned):
    folder, plans, batch_size = make_dataset(), planned(), planned()["configurations"]["3d_fullres"]["batch_size"]
    custom = {"inherits_from": "3d_fullres", "batch_size": 5}
    plans["configurations"] |= {"mine": custom}
    plans["configurations"]["3d_fullres"]["batch_size"] = batch_size + 1
    write(folder, plans)
    again = plan(folder)
    assert again["configurations"]["mine"] == custom
    assert again["configurations"]["3d_fullres"]["batch_size"] == batch_size


def test_an_interrupted_write_leaves_the_earlier_plans(make_dataset, planned, monkeypatch):
    folder = make_dataset()
    write(folder, planned())

    def interrupt(unfinished: Path, file: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    assert cli.main(["plan", "-d", "1", "--without", "context"]) == cli.BY_SIGNAL + signal.SIGINT
    assert read(folder) == planned()


def test_another_target_and_name(make_dataset, capsys):
    folder = make_dataset()
    plans = plan(folder, "-gpu_memory_target", 4, "-overwrite_plans_name", "Small", name="Small")
    assert plans["plans_name"] == "Small"
    assert "are not the plans that" not in capsys.readouterr().out
    assert not (folder / f"{PLANS}.json").exists()
    plan(folder, "-gpu_memory_target", 4)
    assert (
        "These are not the plans that nnUNetPlannerCFNetM makes on its own: -overwrite_plans_name keeps them apart "
        "from nnUNetCFNetPlansM." in capsys.readouterr().out
    )


def test_several_datasets_are_checked_before_the_first_is_planned(make_dataset, capsys):
    first, second = make_dataset(number=1), make_dataset(number=2)
    (second / "dataset_fingerprint.json").write_text("{")
    assert refused(first, second.name[7:10])
    assert f"{second}/dataset_fingerprint.json is no JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-pl", "nnUNetPlannerResEncM"), "nnUNetPlannerCFNetXL. For nnU-Net's own planners use nnUNetv2_plan_experi"),
        (("-gpu_memory_target", 0), "-gpu_memory_target 0: give a positive number of GB"),
        (("-gpu_memory_target", "nan"), "-gpu_memory_target nan: give a positive"),
        (("-gpu_memory_target", "inf"), "-gpu_memory_target inf: give a positive"),
        (("-overwrite_target_spacing", 1, 1), "-overwrite_target_spacing 1.0 1.0: give three positive numbers"),
        (("-overwrite_target_spacing", 1, 0, 1), "-overwrite_target_spacing 1.0 0.0 1.0: give three positive numbers"),
        (("-overwrite_plans_name", "a/b"), "-overwrite_plans_name a/b: give a name"),
        (("-overwrite_plans_name", "nnUNetPlans"), "nnUNetPlans.json is for what nnU-Net's own commands put there"),
        (("-overwrite_plans_name", "nnUNetResEncUNetLPlans"), "nnUNetResEncUNetLPlans.json is for what nnU-Net's own"),
        (("-overwrite_plans_name", "splits_final"), "splits_final.json is for what nnU-Net's own commands put there"),
        (("-overwrite_plans_name", ".."), "-overwrite_plans_name ..: give a name"),
        (("-preprocessor_name", "recursive_find_python_class"), "there is no such class"),
        (("-preprocessor_name", "Absent"), "-preprocessor_name Absent: there is no such class"),
        (("--without", "attention"), "--without attention: unknown; CFNet can be planned without fusion, context, com"),
        (
            ("--groups", "T1,T2,T1ce,FLAIR"),
            '--groups "T1,T2,T1ce,FLAIR": give two groups, as in "T1,T1ce|T2,FLAIR" or "0,1|2,3"',
        ),
        (("--groups", "T1,T2|T1ce"), "--groups \"T1,T2|T1ce\": channels ['FLAIR'] are in no group"),
        (("--groups", "T1,T2|T1ce,PD"), "'PD' is none of the 4 channel(s)"),
        (("99",), "Could not find a dataset with the ID 99"),
    ],
)
def test_wrong_flags_are_named_and_nothing_is_written(make_dataset, capsys, flags, message):
    folder = make_dataset()
    assert refused(folder, *flags)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "case",
    [SMALL, ((5.0, 0.7, 0.7), (10, 64, 64)), ((999.0, 1.0, 1.0), (1, 64, 64))],
    ids=["brain", "slices", "one slice"],
)
def test_a_target_that_no_patch_fits_is_an_error(make_dataset, capsys, case):
    """nnU-Net's own search can end with a patch of no voxels then."""
    folder = make_dataset(case)
    assert cli.main(["plan", "-d", "1", "-gpu_memory_target", "1e-9"]) == 2
    error = capsys.readouterr().err
    assert "no patch in which CFNet has two scales fits 1e-09 GB" in error
    assert error.count("\n") == 1
    assert not list(folder.glob(f"{PLANS}.*"))


def test_an_error_of_nnunets_is_one_message_that_names_the_log(make_dataset, capsys, monkeypatch):
    """As of an image that can't be read."""

    def fail(number: int) -> None:
        print("the image that can't be read")
        raise RuntimeError("Some background worker is 6 feet under")

    folder = make_dataset()
    (folder / "dataset_fingerprint.json").unlink()
    monkeypatch.setattr(run_planners, "extract_fingerprint_dataset", fail)
    assert cli.main(["plan", "-d", "1"]) == 2
    log = folder / f"{PLANS}.log"
    error = capsys.readouterr().err
    assert f"stopped with RuntimeError: Some background worker is 6 feet under. What it printed is in {log}." in error
    assert "Traceback" not in error
    assert "the image that can't be read\nTraceback" in log.read_text()


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed"])
def test_a_variable_that_is_not_set_is_named(make_dataset, monkeypatch, capsys, variable):
    make_dataset()
    monkeypatch.delenv(variable)
    assert cli.main(["plan", "-d", "1"]) == 2
    assert f"{variable} is not set; fix it with: export {variable}=" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("dataset.json", None, "Write it as nnU-Net's documentation/dataset_format.md says"),
        ("dataset.json", "{", "is no JSON"),
        ("dataset.json", "[]", "holds no JSON object"),
        ("dataset.json", '{"numTraining": 1, "file_ending": ".nii.gz"}', "labels=None is missing or wrong"),
        ("dataset.json", MINIMAL + "}", 'has no "channel_names"'),
        ("dataset.json", MINIMAL + ', "channel_names": ["T1", "T2"]}', "dataset.json: "),
        (
            "dataset.json",
            MINIMAL + ', "channel_names": {"0": "T1", "1": "T2"}}',
            "imagesTr holds no images named *_0000.nii.gz",
        ),
        (
            "dataset.json",
            MINIMAL + ', "channel_names": {"0": "T1", "1": "T2"},"cfnet_modality_groups": [[0]]}',
            "cfnet_modality_groups=[[0]] in dataset.json",
        ),
        ("dataset_fingerprint.json", "", "nnUNetv2_extract_fingerprint -d 1 --clean"),
        ("dataset_fingerprint.json", '{"spacings": [[1, 1, 1]]}', "has no 'shapes_after_crop'"),
        ("nnUNetPlans.json", "{", "nnUNetPlans.json is no JSON"),
        (f"{PLANS}.json", "{", "Restore it, or delete it to plan anew"),
        (f"{PLANS}.json", "{}", f"{PLANS}.json has no configurations"),
        (f"{PLANS}.json", '{"configurations": {}}', "holds plans of an unknown planner, which would be lost"),
        (
            f"{PLANS}.json",
            '{"configurations": {}, "experiment_planner_used": "ExperimentPlanner"}',
            "holds plans of ExperimentPlanner, which would be lost: choose another name with -overwrite_plans_name",
        ),
    ],
)
def test_a_bad_file_is_named_and_nothing_is_written(make_dataset, tmp_path, capsys, file, content, message):
    folder = make_dataset()
    path = tmp_path / "nnUNet_raw" / folder.name / file if file == "dataset.json" else folder / file
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content)
    assert refused(folder)
    error = capsys.readouterr().err
    assert str(path.parent) in error
    assert message in error


def test_missing_label_file_is_named(make_dataset, tmp_path, capsys):
    folder = make_dataset()
    label = tmp_path / "nnUNet_raw" / folder.name / "a.nii.gz"
    label.unlink()
    assert refused(folder)
    assert f"{label} is missing" in capsys.readouterr().err


def test_regions_without_their_order_are_named(make_dataset, tmp_path, capsys):
    folder = make_dataset()
    file = tmp_path / "nnUNet_raw" / folder.name / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"labels": {"background": 0, "all": [1, 2], "core": 2}}))
    assert refused(folder)
    assert f"{file}: " in capsys.readouterr().err


def test_plan_extracts_only_a_missing_fingerprint(make_dataset, monkeypatch):
    folder = make_dataset()
    fingerprint = folder / "dataset_fingerprint.json"
    content, calls = fingerprint.read_text(), []

    def extract(number: int) -> None:
        calls.append(number)
        fingerprint.write_text(content)

    monkeypatch.setattr(run_planners, "extract_fingerprint_dataset", extract)
    plan(folder)
    assert calls == []
    fingerprint.unlink()
    plan(folder)
    assert calls == [1]


def test_show_prints_each_configuration_beside_its_unet(make_dataset, planned, capsys):
    folder, plans = make_dataset(), planned(SMALL, *WITHOUT_ALL)
    plans["configurations"]["mine"] = {"inherits_from": "2d", "batch_size": 5}
    write(folder, plans)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    shown = show(capsys)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert max(map(len, shown.splitlines())) <= 100
    header, *blocks, _ = shown.strip().split("\n\n")
    assert header == "nnUNetCFNetPlansM of Dataset001_Test"
    assert [block.split("\n")[0] for block in blocks] == ["2d", "3d_fullres", "mine"]
    rows = {line[2:20].strip(): line[20:].strip() for line in blocks[1].splitlines()[1:]}
    configuration = plans["configurations"]["3d_fullres"]
    assert rows["patch size"] == " x ".join(map(str, configuration["patch_size"]))
    assert rows["batch size"] == str(configuration["batch_size"])
    assert rows["stages"] == str(arguments_of(plans)["n_stages"])
    assert rows["widths"] == ", ".join(map(str, arguments_of(plans)["features_per_stage"]))
    assert rows["groups"] == "(T1, T1ce) and (T2, FLAIR)"
    assert rows["without"] == "fusion, context, communication"
    assert rows[""].split() == ["CFNet", "ResidualEncoderUNet"]
    for figure, unit in (("parameters", "M"), ("forward FLOPs", "G"), ("estimated memory", "GB")):
        ours, our_unit, theirs, their_unit = rows[figure].split()
        assert our_unit == their_unit == unit
        assert float(ours) > 0
        assert float(theirs) > 0
    assert float(rows["estimated memory"].split()[0]) <= 8


def test_show_estimates_both_networks_on_the_scale_of_the_plans_planner(make_dataset, planned, capsys):
    folder, plans = make_dataset(ONE_SLICE), planned(ONE_SLICE, "-pl", "nnUNetPlannerCFNetXL")
    write(folder, plans, "nnUNetCFNetPlansXL")
    shown = re.search(r"estimated memory +([\d.]+) GB +([\d.]+) GB", show(capsys, "-p", "nnUNetCFNetPlansXL"))
    configuration = plans["configurations"]["2d"]
    arguments = configuration["architecture"]["arch_kwargs"]
    of_unet = inspect.signature(ResidualEncoderUNet).parameters.keys() & arguments
    unet = configuration["architecture"] | {
        "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        "arch_kwargs": {name: arguments[name] for name in of_unet},
    }
    patch_size, batch_size = configuration["patch_size"], configuration["batch_size"]
    for architecture, gb in zip((configuration["architecture"], unet), shown.groups(), strict=True):
        values = network_on_meta(architecture, 4, num_classes=4).compute_conv_feature_map_size(patch_size)
        assert float(gb) == pytest.approx(40 * values * batch_size / (560e6 * 12), abs=0.06)


def test_show_translates_plans_of_nnunet(make_dataset, planned, capsys):
    folder, plans = make_dataset(), planned(default=True)
    write(folder, plans, "nnUNetPlans")
    shown = show(capsys, "-p", "nnUNetPlans")
    assert "CFNet         PlainConvUNet" in shown
    assert "encoders          residual\n" in shown
    for configuration in plans["configurations"].values():
        if "architecture" in configuration:
            configuration["architecture"]["arch_kwargs"]["residual_encoders"] = False
    write(folder, plans, "nnUNetPlans")
    assert "encoders          plain\n" in show(capsys, "-p", "nnUNetPlans")


def test_show_names_configurations_that_are_not_for_cfnet(make_dataset, planned, capsys):
    folder, plans = make_dataset(ONE_SLICE), planned(ONE_SLICE)
    planned_2d = plans["configurations"]["2d"]
    other = planned_2d["architecture"] | {"network_class_name": "some.Transformer\x1b[2J"}
    plans["configurations"]["other"] = planned_2d | {"architecture": other}
    write(folder, plans)
    shown = show(capsys)
    assert "2d\n  patch size" in shown
    assert "other\n  not for CFNet: plans 'nnUNetCFNetPlansM', configuration 'other': CFNet can't take the" in shown
    assert "place of some.Transformer\\x1b[2J. " in shown  # nothing that would act on a terminal
    plans["configurations"]["2d"]["architecture"] = {}
    write(folder, plans, "Edited")
    assert refused(folder, "-p", "Edited", command="show")
    message = capsys.readouterr().err
    assert "CFNet can be trained with none of the configurations of these plans." in message
    assert "2d\n  not for CFNet: plans 'nnUNetCFNetPlansM', configuration '2d': can't be read as nnU-Net's" in message
    assert "other\n  not for CFNet: " in message


BAD_DATASETS = {
    "regions without an order": (
        {"labels": {"background": 0, "whole": [1, 2], "core": [2]}},
        "you need to define regions_class_order!",
    ),
    "a list of readers": (
        {"overwrite_image_reader_writer": ["SimpleITKIO"]},
        'overwrite_image_reader_writer is ["SimpleITKIO"]; it must be the name of one of nnU-Net\'s readers',
    ),
}


@pytest.mark.parametrize("command", ["plan", "show"])
@pytest.mark.parametrize("defect", BAD_DATASETS)
def test_a_dataset_that_nnunet_would_stop_at_is_one_message(make_dataset, planned, capsys, command, defect):
    folder, (change, message) = make_dataset(), BAD_DATASETS[defect]
    write(folder, planned(default=True), PLANS if command == "show" else "nnUNetPlans")
    for file in (folder / "dataset.json", folder.parents[1] / "nnUNet_raw" / folder.name / "dataset.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert refused(folder, command=command)
    error = capsys.readouterr().err
    assert message in error
    assert "dataset.json: " in error


def test_show_of_absent_plans_names_those_that_are_there_and_plans_none(make_dataset, capsys):
    folder = make_dataset()
    assert refused(folder, command="show")
    message = (
        f"-p {PLANS}: there are no such plans in {folder}. No plans are there. CFNet's are made by: nnunetv2_cfnet"
    )
    assert message in capsys.readouterr().err
    write(folder, {"configurations": {}}, "nnUNetPlans")
    write(folder, {"configurations": {}}, "Mine")
    assert refused(folder, command="show")
    assert f"{folder}. For -p there are Mine, nnUNetPlans. " in capsys.readouterr().err
    assert refused(folder, "-p", "dataset", command="show")
    assert "-p dataset: there are no such plans" in capsys.readouterr().err
