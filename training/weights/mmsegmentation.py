"""mmsegmentation's networks: PSPNet, DeepLabv3 and UPerNet-Swin."""

from __future__ import annotations

import re

from stmem_ros.network import SegmenterConfig
from training.weights.resnet import PLAIN_STEM, STAGES, V1C_STEM
from training.weights.rules import Rule, Source, State, under
from training.weights.swin import INDICES, OFFICIAL_WITH_NORMS, OPENMMLAB_WITH_NORMS, V2


def _layer(ours: str, theirs: str) -> tuple[Rule, Rule]:
    """A convolution and its batch norm; names as regular expression and template."""
    groups = re.compile(ours).groups
    return (
        Rule(rf"{ours}\.0\.(.+)", rf"{theirs}.conv.\{groups + 1}"),
        Rule(rf"{ours}\.1\.(.+)", rf"{theirs}.bn.\{groups + 1}"),
    )


# A loss on a deep stage.
AUXILIARY = (r"auxiliary_head\..+", "auxiliary head, for training only")
CLASSIFIER = (Rule(r"classifier\.linear\.(.+)", r"conv_seg.\1"),)
_POOLING = _layer(r"pooling\.levels\.(\d)", r"psp_modules.\1.1")
PSP_HEAD = (*_POOLING, *_layer("fuse", "bottleneck"))
ASPP_HEAD = (
    *_layer("image", "image_pool.1"),
    *_layer(r"branches\.(\d)", r"aspp_modules.\1"),
    *_layer("fuse", "bottleneck"),
)
UPER_HEAD = (
    *_POOLING,
    *_layer("top", "bottleneck"),
    *_layer(r"laterals\.(\d)", r"lateral_convs.\1"),
    *_layer(r"smooth\.(\d)", r"fpn_convs.\1"),
    *_layer("fuse", "fpn_bottleneck"),
)


def classes_of(state: State, classifier: str) -> int:
    """How many classes the classifier of that name has. Raises ValueError."""
    if classifier not in state:
        raise ValueError(f"there is no {classifier}, which would tell how many classes there are")
    return state[classifier].shape[0]


def _network(state: State, base: str) -> SegmenterConfig:
    return SegmenterConfig(base, classes_of(state, "decode_head.conv_seg.weight"))


def _whole(backbone: tuple[Rule, ...], head: tuple[Rule, ...]) -> tuple[Rule, ...]:
    return (
        *under(backbone, "base.backbone.", "backbone."),
        *under(head, "base.head.", "decode_head."),
        *under(CLASSIFIER, theirs="decode_head."),
    )


_RESNET = (*V1C_STEM, *PLAIN_STEM, *STAGES)
_DILATED = "taken for a -d8 one, dilated to stride 8: -d16 and -d32 have the same names and shapes"

SOURCES = {
    "mmsegmentation_pspnet": Source(
        about="mmsegmentation's PSPNet, as pspnet_r50-d8_512x1024_80k_cityscapes_*.pth, pspnet_r18b-d8_*.pth",
        has=(r"backbone\.layer1\.0\.conv1\.weight", r"decode_head\.psp_modules\.0\.1\.conv\.weight"),
        lacks=(r"decode_head\.fpn_bottleneck\..+",),
        bases=r"pspnet_resnet\d+b?",
        rules=_whole(_RESNET, PSP_HEAD),
        left_over=(AUXILIARY,),
        network=_network,
        note=_DILATED,
    ),
    "mmsegmentation_deeplabv3": Source(
        about="mmsegmentation's DeepLabv3, as deeplabv3_r101-d8_512x1024_80k_cityscapes_*.pth",
        has=(r"backbone\.layer1\.0\.conv1\.weight", r"decode_head\.aspp_modules\.0\.conv\.weight"),
        lacks=(r"decode_head\.c1_bottleneck\..+",),
        bases=r"deeplabv3_resnet\d+b?",
        rules=_whole(_RESNET, ASPP_HEAD),
        left_over=(AUXILIARY,),
        network=_network,
        note=_DILATED,
    ),
    "mmsegmentation_upernet_swin": Source(
        about="mmsegmentation's UPerNet on Swin, as upernet_swin_base_patch4_window7_512x512_*.pth",
        has=(r"backbone\.stages\.0\.blocks\.0\.attn\.w_msa\.qkv\.weight", r"decode_head\.fpn_bottleneck\.conv\.weight"),
        lacks=(V2,),
        bases=r"upernet_swin_.+",
        rules=_whole(OPENMMLAB_WITH_NORMS, UPER_HEAD),
        left_over=(AUXILIARY, INDICES),
        network=_network,
    ),
    "swin_upernet": Source(
        about="UPerNet of Swin's own release for segmentation, as upernet_swin_base_patch4_window7_512x512.pth",
        has=(r"backbone\.layers\.0\.blocks\.0\.attn\.qkv\.weight", r"decode_head\.fpn_bottleneck\.conv\.weight"),
        lacks=(V2,),
        bases=r"upernet_swin_.+",
        rules=_whole(OFFICIAL_WITH_NORMS, UPER_HEAD),
        left_over=(AUXILIARY, INDICES),
        network=_network,
    ),
}
