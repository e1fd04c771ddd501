"""timm's ImageNet classifiers (its ResNets with a 7x7 stem are called as torchvision's), and those of mmpretrain."""

from __future__ import annotations

from stmem_ros.network.bases.timm_backbone import PREFIX
from training.weights.resnet import STAGES, TIMM_DEEP_STEM, V1C_STEM
from training.weights.rules import Rule, Source
from training.weights.torchvision import RESNET_CLASSIFIER, VGG_FEATURES

# The first stage does not expand; others expand, convolve each channel by itself, project.
_EFFICIENTNET_LITE = (
    Rule(r"stem\.0\.(.+)", r"conv_stem.\1"),
    Rule(r"stem\.1\.(.+)", r"bn1.\1"),
    *(
        Rule(rf"stages\.{stage}\.(\d+)\.layers\.{ours}\.(.+)", rf"blocks.{stage}.\1.{theirs}.\2")
        for stage in range(7)
        for ours, theirs in (
            {0: "conv_dw", 1: "bn1", 3: "conv_pw", 4: "bn2"}
            if stage == 0
            else {0: "conv_pw", 1: "bn1", 3: "conv_dw", 4: "bn2", 6: "conv_pwl", 7: "bn3"}
        ).items()
    ),
)

SOURCES = {
    "timm_resnet_c": Source(
        about="timm's ResNets with a deep stem, resnet50c and resnet101c",
        has=(r"conv1\.0\.weight", r"conv1\.6\.weight", r"layer1\.0\.conv1\.weight"),
        bases=r"(pspnet|deeplabv3)_resnet\d+",
        rules=(*TIMM_DEEP_STEM, *STAGES),
        left_over=(RESNET_CLASSIFIER,),
    ),
    "mmpretrain_resnet_v1c": Source(
        about="OpenMMLab's ResNets with a deep stem, as resnet50_v1c-*.pth",
        has=(r"stem\.0\.weight", r"layer1\.0\.conv1\.weight"),
        bases=r"(pspnet|deeplabv3)_resnet\d+",
        rules=(*V1C_STEM, *STAGES),
        left_over=((r"(head\.)?fc\.(weight|bias)", RESNET_CLASSIFIER[1]),),
        prefix="backbone.",
    ),
    "timm_efficientnet_lite": Source(
        about="timm's tf_efficientnet_lite0 and tf_efficientnet_lite2",
        has=(r"conv_stem\.weight", r"blocks\.0\.0\.conv_dw\.weight"),
        lacks=(r"blocks\..+\.se\..+",),
        bases=r"efficientnet_lite\d",
        rules=_EFFICIENTNET_LITE,
        left_over=((r"(conv_head|bn2|classifier)\..+", "ImageNet's classes and the layer before them"),),
        note="taken for a tf_ one: those without tf_ pad otherwise, under the same names",
    ),
    "timm": Source(
        about="any of timm's classifiers, with --base timm:NAME",
        has=(),
        bases=f"{PREFIX}.+",
        # Some are wrapped once more, and of some the first numbers are joined to the names before them.
        rules=(
            Rule(r"model\.(.+)", r"\1"),
            Rule(r"model\.model\.(.+)", r"\1"),
            Rule(r"model\.(\w+?)_(\d+)\.(.+)", r"\1.\2.\3"),
        ),
        left_over=((r".+", "of the classifier, not of its features"),),
    ),
    "timm_vgg16": Source(
        about="timm's vgg16",
        has=(r"features\.0\.weight", r"pre_logits\.fc1\.weight"),
        bases=r"dilation8_vgg16",
        rules=(
            VGG_FEATURES,
            Rule(r"fc6\.(.+)", r"pre_logits.fc1.\1"),
            Rule(r"fc7\.(.+)", r"pre_logits.fc2.\1"),
        ),
        left_over=((r"head\.fc\.(weight|bias)", "ImageNet's classes"),),
    ),
}
