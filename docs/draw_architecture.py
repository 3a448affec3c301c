"""Draw docs/architecture.svg from a built CFNet: every box is named by the class of the module it stands for.

Run: python docs/draw_architecture.py
"""

from pathlib import Path
from xml.sax.saxutils import escape

from torch import nn

from nnunetv2_cfnet.architecture.cfnet import CFNet

PICTURE = Path(__file__).with_name("architecture.svg")
N_STAGES = 4
BOX_WIDTH, BOX_HEIGHT, ROW = 156, 40, 116
COLUMNS = {"input": 16, "first": 128, "second": 306, "fusion": 498, "gate": 694, "block": 890, "head": 1086}
COLOURS = {"encoder": "#dbe9f6", "fusion": "#fde3c8", "context": "#e5d8f0", "gate": "#f9d4d4", "block": "#d9eed7"}


def build_network() -> CFNet:
    """The network of a four-stage isotropic plan, as the trainer builds it; channels T1, T1ce, T2, FLAIR."""
    return CFNet(
        4,
        n_stages=N_STAGES,
        features_per_stage=[8, 16, 32, 64],
        conv_op=nn.Conv3d,
        kernel_sizes=[[3] * 3] * N_STAGES,
        strides=[[1] * 3, *[[2] * 3] * (N_STAGES - 1)],
        num_classes=3,
        n_conv_per_stage=[2] * N_STAGES,
        n_conv_per_stage_decoder=[2] * (N_STAGES - 1),
        norm_op=nn.InstanceNorm3d,
        nonlin=nn.LeakyReLU,
        residual_encoders=True,
        modality_groups=[[0, 1], [2, 3]],
    )


def box(x: int, y: int, title: str, subtitle: str, colour: str) -> str:
    centre = x + BOX_WIDTH / 2
    return (
        f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5" fill="{colour}" stroke="#555"/>'
        f'<text x="{centre}" y="{y + 17}" class="title">{escape(title)}</text>'
        f'<text x="{centre}" y="{y + 32}" class="sub">{escape(subtitle)}</text>'
    )


def arrow(*points: tuple[float, float]) -> str:
    path = " L".join(f"{x} {y}" for x, y in points)
    return f'<path d="M{path}" class="arrow" marker-end="url(#tip)"/>'


def text(x: float, y: float, words: str, style: str = "sub") -> str:
    return f'<text x="{x}" y="{y}" class="{style}">{escape(words)}</text>'


def kind(module: nn.Module) -> str:
    return type(module).__name__


def draw(network: CFNet) -> str:
    """The picture as SVG text, finest scale on top."""
    half = BOX_HEIGHT / 2
    shapes = []
    for column, title in (
        ("first", "encoder.first"),
        ("second", "encoder.second"),
        ("fusion", "fusion"),
        ("gate", "decoder.gates"),
        ("block", "decoder.stages"),
        ("head", "decoder.seg_layers"),
    ):
        width = BOX_WIDTH if column != "head" else 120
        shapes.append(text(COLUMNS[column] + width / 2, 28, title, "column"))

    for stage in range(N_STAGES):
        top = 52 + stage * ROW
        first_y, second_y, middle_y = top, top + 50, top + 25
        scale = "full resolution" if stage == 0 else f"stride {2**stage}"
        for group, y in (("first", first_y), ("second", second_y)):
            encoder = getattr(network.encoder, group)
            shapes.append(box(COLUMNS[group], y, f"{kind(encoder)}", f"stage {stage}, {scale}", COLOURS["encoder"]))
            if stage:
                x = COLUMNS[group] + BOX_WIDTH / 2
                shapes.append(arrow((x, y - ROW + BOX_HEIGHT), (x, y)))
        fusion_x = COLUMNS["fusion"]
        shapes.append(box(fusion_x, middle_y, kind(network.fusion[stage]), f"fusion[{stage}]", COLOURS["fusion"]))
        shapes.append(arrow((COLUMNS["first"] + BOX_WIDTH, first_y + half), (fusion_x, middle_y + 10)))
        shapes.append(arrow((COLUMNS["second"] + BOX_WIDTH, second_y + half), (fusion_x, middle_y + 30)))

        fused = (fusion_x + BOX_WIDTH, middle_y + half)
        gate_x, block_x, head_x = COLUMNS["gate"], COLUMNS["block"], COLUMNS["head"]
        if stage == N_STAGES - 1:
            shapes.append(box(block_x, middle_y, kind(network.context), "context", COLOURS["context"]))
            shapes.append(arrow(fused, (block_x, middle_y + half)))
            continue
        index = N_STAGES - 2 - stage  # the decoder's lists are coarsest first
        gate, block = network.decoder.gates[index], network.decoder.stages[index]
        shapes.append(box(gate_x, middle_y, kind(gate), f"gates[{index}]", COLOURS["gate"]))
        shapes.append(box(block_x, middle_y, kind(block), f"stages[{index}]", COLOURS["block"]))
        shapes.append(arrow(fused, (gate_x, middle_y + half)))
        shapes.append(arrow((gate_x + BOX_WIDTH, middle_y + half), (block_x, middle_y + half)))
        below, centre = middle_y + ROW, block_x + BOX_WIDTH / 2
        shapes.append(arrow((centre, below), (centre, middle_y + BOX_HEIGHT)))
        shapes.append(text(centre + 58, below - 34, kind(network.decoder.transpconvs[index])))
        corner = gate_x + BOX_WIDTH / 2
        shapes.append(arrow((centre, below - 20), (corner, below - 20), (corner, middle_y + BOX_HEIGHT)))
        shapes.append(arrow((block_x + BOX_WIDTH, middle_y + half), (head_x + 4, middle_y + half)))
        logits = "logits" if stage == 0 else "deep supervision"
        shapes.append(text(head_x + 60, middle_y + half + 4, logits))

    for y, channels in ((52, "T1, T1ce"), (102, "T2, FLAIR")):
        shapes.append(text(COLUMNS["input"] + 46, y + half - 8, channels, "column"))
        shapes.append(arrow((COLUMNS["input"], y + half), (COLUMNS["first" if y == 52 else "second"], y + half)))
    width, height = 1216, 52 + N_STAGES * ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">\n'
        "<style>.title{font-size:12px;font-weight:600}.sub{font-size:11px;fill:#444}"
        ".column{font-size:13px;font-weight:600;fill:#222}text{text-anchor:middle}"
        ".arrow{fill:none;stroke:#555;stroke-width:1.4}</style>\n"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#555"/></marker></defs>\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(shapes) + "\n</svg>\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(build_network()))
