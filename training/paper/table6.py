"""Table 6: what each part costs, from the shapes alone."""

from __future__ import annotations

from stmem_ros.network import MARConfig, SegmenterConfig, STFConfig
from training.measure.cost import cost_of, streaming_macs
from training.paper.document import Document, Line
from training.paper.tables import TABLE6

SIZE = (1024, 2048)
RULE = (
    "Counted: the multiply-accumulates of convolutions and matrix products, attention's among them, as half of what "
    "PyTorch's flop counter says of the plain modules; nothing for norms, activations, softmax and interpolation. "
    "The paper does not say how it counts: two for each element that batch norm gives would add 6.6 to PSPNet-50 and "
    "11.8 to PSPNet-101 (three frames) and leave less than 0.1 %. Its classifier, 512 x 19 products at 128 x 256 "
    "places, is 0.32 by this rule. MAR has a value for each of its 190 keys here, as the authors' checkpoint."
)


def table6() -> Document:
    """GMACs for images of 1024 x 2048, beside what a stream costs that keeps the neighbours' features."""
    stf, mar = STFConfig(), MARConfig(19, 10, values_per_class=10)
    macs = {
        depth: cost_of(SegmenterConfig(f"pspnet_resnet{depth}", 19, stf=stf, mar=mar), SIZE).macs for depth in (50, 101)
    }
    parts = {part: count / 1e9 for part, count in macs[50].items()}
    ours = {
        "PSPNet-50, 3 frames": 3 * parts["base"],
        "PSPNet-101, 3 frames": 3 * macs[101]["base"] / 1e9,
        "STF": parts["stf"],
        "MAR": parts["mar"],
        "classifier": parts["classifier"],
    }
    lines = [Line(name, paper, ours[name]) for name, paper in TABLE6.items()]
    rest = ("STF", "MAR", "classifier")
    for depth in (50, 101):
        paper = sum(TABLE6[name] for name in (f"PSPNet-{depth}, 3 frames", *rest))
        whole = sum(ours[name] for name in (f"PSPNet-{depth}, 3 frames", *rest))
        lines.append(Line(f"PSPNet-{depth} + STF + MAR, a frame, the paper's way", paper, whole, "three base passes"))
        config = SegmenterConfig(f"pspnet_resnet{depth}", 19, stf=stf, mar=mar)
        for how, streamed, what in (
            ("its features kept", sum(macs[depth].values()) / 1e9, "one base pass, plain modules"),
            ("the engine", streaming_macs(config, SIZE) / 1e9, "and its exact folds"),
        ):
            note = f"{what}; the same labels: {whole / streamed:.2f} times less"
            lines.append(Line(f"PSPNet-{depth} + STF + MAR, a frame, {how}", None, streamed, note))
    return Document(
        "table6", "Table 6: arithmetic for images of 1024 x 2048", "GMACs", tuple(lines), (RULE,), relative=True
    )
