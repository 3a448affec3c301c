"""Checkpoints of the release, in every form that they come in, and ImageNet's weights."""

import os
import pickle
import zipfile
from argparse import Namespace
from copy import copy
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from nnunetv2_cfnet.architecture.published import RESNET, PublishedCFNet
from nnunetv2_cfnet.architecture.published_weights import (
    RELEASE_UNUSED,
    load_imagenet_weights,
    load_published_state_dict,
)
from nnunetv2_cfnet.errors import UserError


@pytest.fixture(scope="module")
def network() -> PublishedCFNet:
    return PublishedCFNet(4, num_classes=4)


def renamed(state: dict, old: str, new: str) -> dict:
    return {new + name.removeprefix(old) if name.startswith(old) else name: value for name, value in state.items()}


def test_unused_names_are_those_that_the_releases_forward_does_not_use(release_entries):
    assert {name for name in release_entries if RELEASE_UNUSED.match(name)} == {
        name for name, (_, used) in release_entries.items() if not used
    }


FORMS = {
    "as saved": lambda state: state,
    "DataParallel": lambda state: renamed(state, "", "module."),
    "wrapped": lambda state: {"epoch": 3, "optimizer": {"state": {0: torch.zeros(1)}}, "model": state},
    "wrapped, of DataParallel": lambda state: {"state_dict": renamed(state, "", "module.")},
    "DataParallel, with counters of a profiler": lambda state: {
        "total_ops": torch.zeros(1),
        **renamed(state, "", "module."),
        "module.aspp3.total_ops": torch.zeros(1),
    },
    "half precision": lambda state: {name: value.half() for name, value in state.items()},
    "with keys that are no names": lambda state: {0: torch.zeros(1), None: {}, **state},
    "another name for the fusion list": lambda state: renamed(state, "modules.", "fusions."),
    "another name, of DataParallel": lambda state: renamed(renamed(state, "modules.", "net.mcafm."), "", "module."),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_checkpoint_gives_the_same_weights(network, release_state_dict, release_entries, form):
    torch.nn.init.zeros_(network.fusion[3].projection_1[0].weight)
    report = load_published_state_dict(network, FORMS[form](release_state_dict))
    assert set(report.loaded) == {name for name, (_, used) in release_entries.items() if used}
    assert set(report.unused) == {name for name, (_, used) in release_entries.items() if not used}
    assert set(report.unknown) <= {"total_ops", "aspp3.total_ops"}
    for ours, theirs in {
        "pair_projection.bias": "conv_2_3.bias",
        "stem.bn1.running_var": "encoder_one_bn1.running_var",
        "first.layer3.5.conv2.weight": "encoder_one_layer3.5.conv2.weight",
        "second.layer1.0.downsample.0.weight": "encoder_two_layer1.0.downsample.0.weight",
        "fusion.3.projection_1.0.weight": "modules.3.cross.channel_proj1.weight",
        "upsampling.0.3.weight": "decoder3.deconv2.weight",
        "communication.2.gate.attention.1.weight": "multi_modal_process3.attention_conv_bn_relu.0.weight",
        "head.seg_layers.0.weight": "finalconv3.weight",
        "stem.bn1.num_batches_tracked": "encoder_one_bn1.num_batches_tracked",
    }.items():
        value = release_state_dict[theirs].half().float() if form == "half precision" else release_state_dict[theirs]
        assert torch.equal(network.state_dict()[ours].flatten(), value.flatten()), ours


def test_a_file_is_read_and_names_that_are_not_the_releases_are_reported(network, release_state_dict, tmp_path):
    state = {name: value for name, value in release_state_dict.items() if not RELEASE_UNUSED.match(name)}
    torch.save({**state, "total_ops": torch.zeros(1), "aspp3.total_ops": torch.zeros(1)}, tmp_path / "best.pth")
    report = load_published_state_dict(network, tmp_path / "best.pth")
    assert (len(report.loaded), report.unused) == (853, [])
    assert report.unknown == ["total_ops", "aspp3.total_ops"]


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({"aspp3.conv1.bias": None, "decoder1.norm3.weight": None}, ["aspp3.conv1.bias is missing", "decoder1.norm3"]),
        ({"modules.1.cross.norm.weight": None}, ["modules.1.cross.norm.weight is missing"]),
        ({"finalconv3.weight": torch.zeros(3, 32, 2, 2)}, [r"finalconv3.weight has the shape (3, 32, 2, 2) instead"]),
        ({"modules.0.cross.end_proj.weight": torch.zeros(64, 64, 1, 1)}, ["end_proj.weight has the shape (64, 64, 1"]),
        ({"conv_2_3.bias": torch.tensor([0.0, torch.nan, 0.0])}, ["conv_2_3.bias has values that are not finite"]),
        (
            {"conv_2_3.bias": torch.tensor([0, 1e300, 0], dtype=torch.float64)},
            ["values that are not finite in torch.f"],
        ),
        ({"conv_2_3.bias": torch.zeros(3).to_sparse()}, ["conv_2_3.bias is a sparse, complex, quantized or empty"]),
        ({"conv_2_3.bias": torch.zeros(3, device="meta")}, ["conv_2_3.bias is a sparse, complex, quantized or empty"]),
        (
            {"conv_2_3.bias": torch.zeros(3, dtype=torch.complex64)},
            ["conv_2_3.bias is a sparse, complex, quantized or"],
        ),
        ({"conv_2_3.bias": [0.0, 0.0, 0.0]}, ["conv_2_3.bias is no tensor but list"]),
        (
            {"conv_2_3.bias": torch.ones(3, dtype=torch.bool)},
            ["conv_2_3.bias has the type torch.bool instead of torch.f"],
        ),
        ({"conv_2_3.bias": torch.ones(3, dtype=torch.int64)}, ["conv_2_3.bias has the type torch.int64 instead of"]),
        (
            {"encoder_one_bn1.running_var": torch.tensor([1.0] * 63 + [-1e-3])},
            ["encoder_one_bn1.running_var has negative variances"],
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(network, release_state_dict, change, messages):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = {name: value for name, value in (release_state_dict | change).items() if value is not None}
    with pytest.raises(UserError) as refused:
        load_published_state_dict(network, state)
    assert all(message in str(refused.value) for message in messages)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_two_lists_of_fusion_modules_are_not_guessed_between(network, release_state_dict):
    twice = release_state_dict | renamed(release_state_dict, "modules.", "fusions.")
    with pytest.raises(UserError, match="fusion modules under several names, fusions, modules: leave one"):
        load_published_state_dict(network, twice)


def test_two_state_dicts_are_not_guessed_between(network, release_state_dict):
    with pytest.raises(UserError, match="holds several state dicts, at ema, model: save the one that you want alone"):
        load_published_state_dict(network, {"ema": release_state_dict, "model": dict(release_state_dict)})


def test_a_dictionary_that_holds_itself_is_refused(network):
    content: dict = {"epoch": 1}
    content["state_dict"] = content
    with pytest.raises(UserError, match="holds no weights of the published CFNet"):
        load_published_state_dict(network, content)


@pytest.mark.parametrize("content", [{}, {"conv1.weight": torch.zeros(1)}, {"epoch": 1, "state_dict": {}}])
def test_another_networks_checkpoint_is_refused(network, content):
    with pytest.raises(UserError, match="holds no weights of the published CFNet: its first keys are"):
        load_published_state_dict(network, content)


class Malicious:
    """Unpickled without care, it makes a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def test_a_malicious_pickle_is_refused_and_runs_nothing(network, release_state_dict, tmp_path):
    witness, zipped, bare = tmp_path / "witness", tmp_path / "zipped.pth", tmp_path / "bare.pth"
    some = {"conv_2_3.bias": release_state_dict["conv_2_3.bias"]}
    torch.save({**some, "epoch": Malicious(witness)}, zipped)
    bare.write_bytes(pickle.dumps(Malicious(witness)))
    for file, reason in ((zipped, "it holds posix.mkdir, which is neither weight nor number"), (bare, ".*")):
        message = rf"{file} is no readable checkpoint \({reason}\); nothing in it was run"
        with pytest.raises(UserError, match=message):
            load_published_state_dict(network, file)
    assert not witness.exists()
    torch.load(zipped, weights_only=False)  # so the file would have done it
    assert witness.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"args": Namespace(lr=0.01)}, "it holds argparse.Namespace, which is neither weight nor number"),
        (torch.nn.Linear(1, 1), "it holds torch.nn.modules.linear.Linear, which is neither weight nor number"),
    ],
)
def test_what_is_no_weight_is_named(network, tmp_path, content, reason):
    """And torch's advice to load it without care is not handed on."""
    torch.save(content, tmp_path / "more.pth")
    with pytest.raises(UserError, match=reason) as refused:
        load_published_state_dict(network, tmp_path / "more.pth")
    assert "weights_only" not in str(refused.value)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(network, tmp_path, share, legacy):
    file = tmp_path / "truncated.pth"
    torch.save({"conv_2_3.bias": torch.zeros(1000)}, file, _use_new_zipfile_serialization=not legacy)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"truncated\.pth is no readable checkpoint"):
        load_published_state_dict(network, file)


def test_a_file_with_wrong_bytes_is_refused(network, tmp_path):
    """torch would load them as weights."""
    file = tmp_path / "flipped.pth"
    torch.save({"conv_2_3.bias": torch.zeros(1000)}, file)
    content = bytearray(file.read_bytes())
    middle = content.index(bytes(2000)) + 1000
    content[middle] = 255
    file.write_bytes(content)
    assert torch.load(file, weights_only=True)["conv_2_3.bias"].any()
    with pytest.raises(UserError, match=r"flipped\.pth is damaged \(flipped/data/0 is not what was saved\)"):
        load_published_state_dict(network, file)


@pytest.mark.parametrize("how", ["deflated", "one part under two names"])
def test_a_file_that_would_fill_the_memory_is_refused_before_it_is_read(network, tmp_path, monkeypatch, how):
    saved, file = tmp_path / "saved.pth", tmp_path / "bomb.pth"
    torch.save({"conv_2_3.bias": torch.zeros(1000)}, saved)
    with zipfile.ZipFile(saved) as ours, zipfile.ZipFile(file, "w") as bomb:
        for entry in ours.infolist():
            compression = zipfile.ZIP_DEFLATED if how == "deflated" else zipfile.ZIP_STORED
            bomb.writestr(entry.filename, ours.read(entry), compression)
        if how != "deflated":
            again = copy(bomb.getinfo("saved/data/0"))
            again.filename = "saved/data/1"
            bomb.filelist.append(again)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(UserError, match=r"bomb\.pth is no readable checkpoint \(its parts have \d+ bytes, compressed"):
        load_published_state_dict(network, file)


def test_numbers_of_numpy_beside_the_weights_do_no_harm(network, release_state_dict, tmp_path):
    torch.save({"best_dice": np.float64(0.9), "model": release_state_dict}, tmp_path / "best.pth")
    assert len(load_published_state_dict(network, tmp_path / "best.pth").loaded) == 853


def test_of_many_problems_some_are_named(network, release_state_dict):
    few = {name: value for name, value in release_state_dict.items() if name.startswith("aspp3")}
    with pytest.raises(UserError, match=r"conv_2_3\.weight is missing, .* and \d+ more\. Give a checkpoint") as refused:
        load_published_state_dict(network, few)
    assert len(str(refused.value)) < 1000


def test_a_file_that_holds_no_mapping_is_refused(network, tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list\.pth holds no state dict but list"):
        load_published_state_dict(network, tmp_path / "list.pth")


@pytest.fixture
def imagenet_file(tmp_path, monkeypatch) -> Path:
    """Where ImageNet's weights are looked for; no network is asked."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(url, *arguments, **more):
        raise OSError("no network here")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    file = tmp_path / "hub" / "checkpoints" / "resnet50_a1_0-14fe96d1.pth"
    file.parent.mkdir(parents=True)
    return file


def test_imagenet_weights_go_into_stem_and_both_trunks(network, imagenet_file):
    resnet = timm.create_model(RESNET)
    torch.save(resnet.state_dict(), imagenet_file)
    assert load_imagenet_weights(network) == str(imagenet_file)
    assert torch.equal(network.stem.conv1.weight, resnet.conv1.weight)
    for trunk in (network.first, network.second):
        assert torch.equal(trunk.layer3[5].conv3.weight, resnet.layer3[5].conv3.weight)


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_without_imagenet_weights_the_message_says_what_to_put_where(network, imagenet_file, content):
    if content:
        imagenet_file.write_bytes(content)
    with pytest.raises(UserError) as refused:
        load_imagenet_weights(network)
    assert "Download https://github.com/" in str(refused.value)
    assert f"resnet50_a1_0-14fe96d1.pth where there is a network and put it at {imagenet_file}" in str(refused.value)
