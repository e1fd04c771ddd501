"""torchvision's ImageNet classifiers."""

from __future__ import annotations

from training.weights.resnet import PLAIN_STEM, STAGES
from training.weights.rules import Rule, Source, reshaped

RESNET_CLASSIFIER = (r"fc\.(weight|bias)", "ImageNet's classes")

# Ours are numbered as theirs.
VGG_FEATURES = Rule(r"features\.(.+)", r"features.\1")

SOURCES = {
    "torchvision_resnet": Source(
        about="torchvision's and timm's ResNet-18, -50, -101, as resnet50-*.pth",
        has=(r"conv1\.weight", r"layer1\.0\.conv1\.weight"),
        bases=r"(pspnet|deeplabv3)_resnet\d+b",
        rules=(*PLAIN_STEM, *STAGES),
        left_over=(RESNET_CLASSIFIER,),
    ),
    "torchvision_vgg16": Source(
        about="torchvision's VGG-16, as vgg16-397923af.pth",
        has=(r"features\.0\.weight", r"classifier\.0\.weight"),
        bases=r"dilation8_vgg16",
        rules=(
            VGG_FEATURES,
            Rule(r"fc6\.(.+)", r"classifier.0.\1", reshaped),
            Rule(r"fc7\.(.+)", r"classifier.3.\1", reshaped),
        ),
        left_over=((r"classifier\.6\.(weight|bias)", "ImageNet's classes"),),
    ),
}
