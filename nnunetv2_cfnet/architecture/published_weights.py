"""Weights for the published network: checkpoints of its release, and ImageNet's for its encoders."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nnunetv2_cfnet.architecture.published import RESNET, PublishedCFNet
from nnunetv2_cfnet.errors import UserError, listing_of
from nnunetv2_cfnet.files.checkpoints import read_checkpoint

# Our names of the network's parts -> the release's.
RELEASE_NAMES = {
    "pair_projection.": "conv_2_3.",
    "stem.": "encoder_one_",
    "first.": "encoder_one_",
    "second.": "encoder_two_",
    **{
        f"fusion.{level}.{ours}.": f"modules.{level}.{theirs}."
        for level in range(4)
        for ours, theirs in {
            "projection_1.0": "cross.channel_proj1",
            "projection_2.0": "cross.channel_proj2",
            "key_value_1": "cross.cross_attn.kv1",
            "key_value_2": "cross.cross_attn.kv2",
            "merge.project.0": "cross.end_proj",
            "merge.project.1": "cross.norm",
            "merge.residual": "channel_emb.residual",
            "merge.embed": "channel_emb.channel_embed",
            "merge.norm": "channel_emb.norm",
        }.items()
    },
    "context.squeeze.": "aspp3.conv1.",
    "context.expand.1.": "aspp3.conv2.",
    **{f"context.branches.{branch}.": f"aspp3.context{branch + 1}." for branch in range(4)},
    **{f"context.selectors.{branch}.": f"aspp3.fc{branch + 1}." for branch in range(4)},
    **{
        f"upsampling.{step}.{ours}.": f"decoder{3 - step}.{theirs}."
        for step in range(3)
        for ours, theirs in {0: "conv1", 1: "norm1", 3: "deconv2", 4: "norm2", 6: "conv3", 7: "norm3"}.items()
    },
    **{
        f"communication.{step}.{ours}.": f"multi_modal_process{step + 1}.{theirs}."
        for step in range(3)
        for ours, theirs in {
            "shallow_projection": "shallow_fusion_conv",
            "deep_projection": "deep_fusion_conv",
            "gate.attention.1": "attention_conv_bn_relu.0",
            "gate.attention.2": "attention_conv_bn_relu.1",
            "conv": "fusion_conv",
        }.items()
    },
    "head.upsample.": "finaldeconv1.",
    "head.conv.": "finalconv2.",
    "head.seg_layers.0.": "finalconv3.",
}
# What the release builds and its forward never uses.
RELEASE_UNUSED = re.compile(
    r"(?:encoder_two_(?:conv1|bn1)|encoder_(?:one|two)_layer4|encoder_downsampling[1-4]|conv[0-4]|"
    r"(?:local|global)_att[0-4]|aspp2|aspp3\.ln|fusion_layer[0-3]|multi_modal_process[1-3]\.final_conv_bn)(?=\.)"
)
# The release calls the list `modules`, which breaks its forward: those who made it run renamed it.
PARALLEL_PREFIX = re.compile(r"(?:module\.)+")  # of DataParallel; matched at the start alone
FUSION_ENTRY = re.compile(r"(?P<list>.+)\.(?P<entry>[0-3]\.(?:cross|channel_emb)\..+)")


class PublishedWeights(NamedTuple):
    """Names in a checkpoint of the release, by what became of them.

    loaded: the network's weights. unused: the release's forward never uses them. unknown: not of the release.
    """

    loaded: list[str]
    unused: list[str]
    unknown: list[str]


def load_published_state_dict(network: PublishedCFNet, checkpoint: str | Path | Mapping) -> PublishedWeights:
    """Load a checkpoint of the published release into the network.

    The state dict may lie in a dictionary under any key, have DataParallel's prefix "module.", and have the list of
    fusion modules under any name. A file is read with read_checkpoint: nothing in it is run.

    Args:
        network: left as it is if the checkpoint is refused.
        checkpoint: a file, or what is in it.

    Raises:
        UserError: a file that is no checkpoint; weights that forward uses are missing, have another shape or type,
            are not finite, or are negative variances. Names them.
        OSError: there is no file to read.
    """
    if isinstance(checkpoint, Mapping):
        where, content = "the checkpoint", checkpoint
    else:
        where, content = str(checkpoint), _read(Path(checkpoint))
    found = _released_state_dict(content, where)
    state, problems = {}, []
    for name, own in network.state_dict().items():
        released_name = _released_name(name)
        # the release has linear layers where we have 1x1 convs
        shape = own.shape[:2] if ".cross." in released_name else own.shape
        if problem := _problem(released_name, found.get(released_name), shape, own.dtype):
            problems.append(f"{released_name} {problem}")
        else:
            state[name] = found[released_name].to(own.dtype).reshape(own.shape)
    if problems:
        raise UserError(
            f"{where} does not fit the published CFNet of {network.num_classes} classes; its first names are "
            f"{', '.join(list(found)[:5])}. {listing_of(problems)}. Give a checkpoint of the whole network, as the "
            "release's training saves it."
        )
    network.load_state_dict(state)
    loaded = {_released_name(name) for name in state}
    others = [name for name in found if name not in loaded]
    return PublishedWeights(
        loaded=[name for name in found if name in loaded],
        unused=[name for name in others if RELEASE_UNUSED.match(name)],
        unknown=[name for name in others if not RELEASE_UNUSED.match(name)],
    )


def load_imagenet_weights(network: PublishedCFNet) -> str:
    """Load timm's ImageNet weights of ResNet-50 into stem and trunks, and return where they lie.

    They are kept, and looked for first, in torch.hub's folder ($TORCH_HOME).

    Raises:
        UserError: they are not there and can't be downloaded, or are damaged; says what to put where.
    """
    import timm  # see published.py

    url = timm.models.get_pretrained_cfg(RESNET).url
    file = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    try:
        weights = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
        for part in (network.stem, network.first, network.second):
            part.load_state_dict({name: weights[name] for name in part.state_dict()})
    # no network, a wrong hash, a damaged file: the same helps
    except Exception as error:
        raise UserError(
            f"the ImageNet weights of ResNet-50 can't be had ({type(error).__name__}: {error}). Download {url} "
            f"where there is a network and put it at {file}; or train nnUNetTrainerCFNetPublished, without them."
        ) from error
    return str(file)


def _problem(name: str, value: Any, shape: torch.Size, dtype: torch.dtype) -> str | None:
    """What keeps a checkpoint's value from being the weight of this name, shape and type."""
    if value is None:
        return "is missing"
    if not isinstance(value, torch.Tensor):
        return f"is no tensor but {type(value).__name__}"
    if value.layout != torch.strided or value.is_complex() or value.is_quantized or value.is_meta:
        return "is a sparse, complex, quantized or empty tensor"
    if value.shape != shape:
        return f"has the shape {tuple(value.shape)} instead of {tuple(shape)}"
    # a network in half precision can have its counters so, too
    if dtype.is_floating_point and not value.is_floating_point():
        return f"has the type {value.dtype} instead of {dtype}"
    if not torch.isfinite(value.to(dtype)).all():
        return f"has values that are not finite in {dtype}"
    return "has negative variances" if name.endswith("running_var") and (value < 0).any() else None


def _read(path: Path) -> Mapping:
    content = read_checkpoint(
        path,
        "If the file is whole, save the state dict alone where it was made: torch.save(network.state_dict(), path).",
    )
    _check_whole(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds no state dict but {type(content).__name__}: give the network's state dict.")
    return content


def _check_whole(path: Path) -> None:
    """Compare checksums, which torch does not: a damaged file would be loaded with wrong weights."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            try:
                damaged = archive.testzip()
            except RuntimeError as error:  # a flag of encryption
                damaged = str(error)
        if damaged:
            raise UserError(f"{path} is damaged ({damaged} is not what was saved). Copy it anew.")


def _released_state_dict(content: Mapping, where: str) -> dict[str, Any]:
    """The state dict in a checkpoint, under the names of the release."""
    states = {}
    for key, candidate in {"the top level": content, **content}.items():
        if isinstance(candidate, Mapping):
            state = _with_released_names(candidate, where)
            if any(name.startswith(tuple(RELEASE_NAMES.values())) for name in state):
                states[str(key)] = state
    if not states:
        keys = ", ".join(map(str, list(content)[:5]))
        raise UserError(
            f"{where} holds no weights of the published CFNet: its first keys are [{keys}]. Give a checkpoint that its "
            "release's training saved."
        )
    if len(states) > 1:
        raise UserError(f"{where} holds several state dicts, at {', '.join(states)}: save the one that you want alone.")
    return next(iter(states.values()))


def _with_released_names(state: Mapping, where: str) -> dict[str, Any]:
    names = {
        name: name.removeprefix(match[0]) if (match := PARALLEL_PREFIX.match(name)) else name
        for name in state
        if isinstance(name, str)
    }
    entries = {name: match for name in names if (match := FUSION_ENTRY.fullmatch(names[name]))}
    lists = sorted({match["list"] for match in entries.values()})
    if len(lists) > 1:
        raise UserError(f"{where} has fusion modules under several names, {', '.join(lists)}: leave one of them in it.")
    names |= {name: f"modules.{match['entry']}" for name, match in entries.items()}
    return {names[name]: value for name, value in state.items() if name in names}


def _released_name(name: str) -> str:
    prefix = next(prefix for prefix in RELEASE_NAMES if name.startswith(prefix))
    return RELEASE_NAMES[prefix] + name.removeprefix(prefix)
