"""ResNet's tensors, called alike by torchvision, timm and mmsegmentation but for the stem."""

from __future__ import annotations

from training.weights.rules import Rule

STAGES = tuple(Rule(rf"stages\.{stage}\.(.+)", rf"layer{stage + 1}.\1") for stage in range(4))
# The 7x7 stem, and the deep one as mmsegmentation's v1c and as timm's "c" have it.
PLAIN_STEM = (Rule(r"stem\.0\.(.+)", r"conv1.\1"), Rule(r"stem\.1\.(.+)", r"bn1.\1"))
V1C_STEM = (Rule(r"stem\.(\d)\.(.+)", r"stem.\1.\2"),)
TIMM_DEEP_STEM = (Rule(r"stem\.([01346])\.(.+)", r"conv1.\1.\2"), Rule(r"stem\.7\.(.+)", r"bn1.\1"))
