"""What README and docs/ show is so: links, the picture, the example of the network, the table of the walk-through."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from nnunetv2_cfnet import CFNet
from nnunetv2_cfnet.architecture.fusion import CrossAttentionFusion

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([\w-]+))?\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


@pytest.mark.host
def test_picture_is_drawn_from_the_code(tmp_path):
    script = tmp_path / "draw_architecture.py"
    script.write_text((DOCS / "draw_architecture.py").read_text())
    subprocess.run([sys.executable, str(script)], check=True)
    drawn, committed = script.with_name("architecture.svg"), DOCS / "architecture.svg"
    assert drawn.read_text() == committed.read_text(), "run docs/draw_architecture.py and commit what it draws"


def test_example_of_the_network_runs_and_is_short():
    example = re.search(r"^```python\n(.*?)^```$", (DOCS / "network.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    names = {}
    exec(example, names)
    assert names["logits"].shape == (1, 3, 32, 32, 32)
    assert len([line for line in example.splitlines() if line]) <= 10


def test_walkthrough_has_the_shapes_of_the_network():
    """For nnU-Net's default 3D plan of BraTS."""
    with torch.device("meta"):
        network = CFNet(
            input_channels=4,
            n_stages=6,
            features_per_stage=[32, 64, 128, 256, 320, 320],
            conv_op=nn.Conv3d,
            kernel_sizes=3,
            strides=[1, 2, 2, 2, 2, 2],
            num_classes=3,
            n_conv_per_stage_decoder=2,
            n_conv_per_stage=2,
            deep_supervision=True,
        )
        x = torch.empty(1, 4, 128, 128, 128)
        pairs = list(zip(*network.encoder(x), strict=True))
        fused = [fusion(*pair) for fusion, pair in zip(network.fusion, pairs, strict=True)]
        logits = [*(len(scale[0]) for scale in network(x)), "none"]
    rows = []
    for stage, (fusion, (first, _), out) in enumerate(zip(network.fusion, pairs, fused, strict=True)):
        heads = fusion.context_1.num_heads if isinstance(fusion, CrossAttentionFusion) else 0
        how = f"attention, {heads} head{'s' * (heads > 1)}" if heads else "concatenation"
        rows.append(f"| {stage} | {out.shape[-1]}³ | {first.shape[1]} | {how} | {out.shape[1]} | {logits[stage]} |")
    assert "\n".join(rows) in (DOCS / "walkthrough.md").read_text()
