"""Swin Transformer's tensors as the authors of Swin, timm, torchvision and OpenMMLab call them."""

from __future__ import annotations

from torch import Tensor

from training.weights.rules import Rule, Shape, Source

# Computed from the window's size.
INDICES = (
    r".+\.(relative_position_index|relative_coords_table|attn_mask)",
    "tables that follow from the window's size",
)
# Of Swin v2, under otherwise the same names.
V2 = r".+\.cpb_mlp\..+"

_PATCHES = Rule(r"patch_embed\.(.+)", r"patch_embed.\1")
_BLOCKS = Rule(r"layers\.(\d)\.blocks\.(.+)", r"layers.\1.blocks.\2")
_DOWNSAMPLE = Rule(r"layers\.(\d)\.downsample\.(.+)", r"layers.\1.downsample.\2")
# A classifier has one norm, behind the last stage.
_CLASSIFIER_NORMS = (Rule(r"norm3\.(.+)", r"norm.\1"), Rule(r"norm[012]\..+", None))
_OUTPUT_NORMS = (Rule(r"norm(\d)\.(.+)", r"norm\1.\2"),)


def _cells_first(tensor: Tensor, wanted: Shape) -> Tensor:
    """OpenMMLab merges patches channel by channel, each with its 2x2 cells; here it is cell by cell, down first."""
    by_cell = tensor.unflatten(-1, (wanted[-1] // 4, 2, 2))
    return by_cell.transpose(-3, -1).flatten(-3)


OFFICIAL = (_PATCHES, _BLOCKS, _DOWNSAMPLE)
TIMM = (
    _PATCHES,
    _BLOCKS,
    *(Rule(rf"layers\.{s}\.downsample\.(.+)", rf"layers.{s + 1}.downsample.\1") for s in range(3)),
)
TORCHVISION = (
    Rule(r"patch_embed\.proj\.(.+)", r"features.0.0.\1"),
    Rule(r"patch_embed\.norm\.(.+)", r"features.0.2.\1"),
    *(
        rule
        for s in range(4)
        for rule in (
            Rule(rf"layers\.{s}\.blocks\.(\d+)\.mlp\.fc1\.(.+)", rf"features.{2 * s + 1}.\1.mlp.0.\2"),
            Rule(rf"layers\.{s}\.blocks\.(\d+)\.mlp\.fc2\.(.+)", rf"features.{2 * s + 1}.\1.mlp.3.\2"),
            Rule(rf"layers\.{s}\.blocks\.(\d+)\.((?:attn|norm\d)\..+)", rf"features.{2 * s + 1}.\1.\2"),
            Rule(rf"layers\.{s}\.downsample\.(.+)", rf"features.{2 * s + 2}.\1"),
        )
    ),
)
OPENMMLAB = (
    Rule(r"patch_embed\.proj\.(.+)", r"patch_embed.projection.\1"),
    Rule(r"patch_embed\.norm\.(.+)", r"patch_embed.norm.\1"),
    Rule(r"layers\.(\d)\.blocks\.(\d+)\.attn\.(.+)", r"stages.\1.blocks.\2.attn.w_msa.\3"),
    Rule(r"layers\.(\d)\.blocks\.(\d+)\.mlp\.fc1\.(.+)", r"stages.\1.blocks.\2.ffn.layers.0.0.\3"),
    Rule(r"layers\.(\d)\.blocks\.(\d+)\.mlp\.fc2\.(.+)", r"stages.\1.blocks.\2.ffn.layers.1.\3"),
    Rule(r"layers\.(\d)\.blocks\.(\d+)\.(norm\d\..+)", r"stages.\1.blocks.\2.\3"),
    Rule(r"layers\.(\d)\.downsample\.(.+)", r"stages.\1.downsample.\2", _cells_first),
)
OFFICIAL_WITH_NORMS = (*OFFICIAL, *_OUTPUT_NORMS)
OPENMMLAB_WITH_NORMS = (*OPENMMLAB, *_OUTPUT_NORMS)

_CLASSES = (r"head(\.fc)?\.(weight|bias)", "ImageNet's classes")
_BASES = r"upernet_swin_.+"

SOURCES = {
    "swin": Source(
        about="Swin's own ImageNet classifiers, as swin_base_patch4_window7_224.pth",
        has=(r"patch_embed\.proj\.weight", r"layers\.0\.downsample\.reduction\.weight"),
        lacks=(V2,),
        bases=_BASES,
        rules=(*OFFICIAL, *_CLASSIFIER_NORMS),
        left_over=(_CLASSES, INDICES),
    ),
    "timm_swin": Source(
        about="timm's swin_tiny_patch4_window7_224, swin_base_patch4_window7_224, swin_base_patch4_window12_384",
        has=(r"patch_embed\.proj\.weight", r"layers\.3\.downsample\.reduction\.weight"),
        lacks=(V2,),
        bases=_BASES,
        rules=(*TIMM, *_CLASSIFIER_NORMS),
        left_over=(_CLASSES, INDICES),
    ),
    "torchvision_swin": Source(
        about="torchvision's swin_t and swin_b, as swin_t-*.pth",
        has=(r"features\.0\.0\.weight", r"features\.1\.0\.attn\.qkv\.weight"),
        lacks=(V2,),
        bases=_BASES,
        rules=(*TORCHVISION, *_CLASSIFIER_NORMS),
        left_over=(_CLASSES, INDICES),
    ),
    "openmmlab_swin": Source(
        about="OpenMMLab's Swin classifiers and what mmsegmentation begins with, as swin_tiny_patch4_window7_224_*.pth",
        has=(r"patch_embed\.projection\.weight", r"stages\.0\.blocks\.0\.attn\.w_msa\.qkv\.weight"),
        lacks=(V2, r"decode_head\..+"),
        bases=_BASES,
        rules=(*OPENMMLAB, Rule(r"norm3\.(.+)", r"norm3.\1"), *_CLASSIFIER_NORMS),
        left_over=(_CLASSES, INDICES),
        prefix="backbone.",
    ),
}
