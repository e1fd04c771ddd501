"""Any feature backbone of the package timm, where that is installed, under the light default's pyramid head.

The one file that imports timm, and only when such a base is built.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmem_ros.network.bases.base import IMAGENET_MEAN, IMAGENET_STD, BackboneWithHead, BaseNetwork
from stmem_ros.network.bases.pyramid import PyramidHead

PREFIX = "timm:"
# Asked of a model in this order; the first that it takes: dilated to stride 16, or images that are not its own size.
OPTIONS: tuple[dict[str, Any], ...] = ({"output_stride": 16}, {"strict_img_size": False}, {})


class TimmBackbone(nn.Module):
    """Images `(N, 3, H, W)` to a list of the model's three deepest features whose strides double each time.

    Weights are random. Where the model can be dilated to stride 16, the strides are 4, 8, 16; else mostly 8, 16, 32.
    An image is padded with zeros, below and right, to whole cells of the coarsest. `mean` and `std` are those of the
    model's own weights. Raises ValueError where timm or the model is missing or gives no such features.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        timm = import_timm(name)
        if not timm.is_model(name):
            raise ValueError(f"base is '{PREFIX}{name}', and timm {timm.__version__} has no model of that name")
        # Built and tried with numbers, wherever the rest is: many models compute with small tensors as they are made.
        with torch.device("cpu"):
            model = create(timm, name)
            self._indices, self.strides = deepest_three(name, model.feature_info.reduction())
            self.channels = tuple(model.feature_info.channels()[index] for index in self._indices)
            self._channels_last = str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")
            self.model = model
            self._try(name)
        config = getattr(timm.get_pretrained_cfg(name), "__dict__", {})
        self.mean = tuple(255 * value for value in config.get("mean") or ()) or IMAGENET_MEAN
        self.std = tuple(255 * value for value in config.get("std") or ()) or IMAGENET_STD
        self.to(torch.get_default_device())

    @torch.inference_mode()
    def _try(self, name: str) -> None:
        """Raises ValueError unless the features of an image of some other size are as stated."""
        size = (2 * self.strides[-1] + 1, 3 * self.strides[-1] - 1)
        self.model.eval()
        try:
            found = [tuple(level.shape[1:]) for level in self(torch.zeros(1, 3, *size))]
        except (RuntimeError, ValueError, AssertionError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"base is '{PREFIX}{name}', which does not take every size of image: {reason}") from error
        finally:
            self.model.train()
        stated = [
            (channels, -(-size[0] // stride), -(-size[1] // stride))
            for channels, stride in zip(self.channels, self.strides, strict=True)
        ]
        if found != stated:
            raise ValueError(
                f"base is '{PREFIX}{name}', whose features for {size[1]}x{size[0]} pixels are {found}, not {stated}"
            )

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        coarsest = self.strides[-1]
        levels = self.model(F.pad(images, (0, -width % coarsest, 0, -height % coarsest)))
        levels = [levels[index] for index in self._indices]
        if self._channels_last:
            levels = [level.permute(0, 3, 1, 2) for level in levels]
        return [
            level[:, :, : -(-height // stride), : -(-width // stride)]
            for level, stride in zip(levels, self.strides, strict=True)
        ]


def import_timm(name: str) -> Any:
    try:
        import timm
    # What fails in it is often not an ImportError: a torchvision made for another torch raises RuntimeError.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"base is '{PREFIX}{name}', which needs the package timm; it cannot be imported: {reason}. pip install timm"
        ) from error
    return timm


def create(timm: Any, name: str) -> Any:
    """The model as a list of features. Raises ValueError where it cannot be one."""
    reason = ""
    for options in OPTIONS:
        try:
            return timm.create_model(name, pretrained=False, features_only=True, **options)
        except (TypeError, ValueError, RuntimeError, AssertionError, NotImplementedError, AttributeError) as error:
            reason = str(error).strip().partition("\n")[0]
    raise ValueError(f"base is '{PREFIX}{name}', which gives no features: {reason}")


def deepest_three(name: str, strides: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Places and values of the last three strides that double each time; of equal ones the last."""
    places = {stride: index for index, stride in enumerate(strides)}
    coarsest = max(places)
    wanted = (coarsest // 4, coarsest // 2, coarsest)
    if coarsest % 4 or not all(stride in places for stride in wanted):
        raise ValueError(f"base is '{PREFIX}{name}', whose features lie at strides {strides}; three must double")
    return tuple(places[stride] for stride in wanted), wanted


def timm_base(name: str, channels: int = 128) -> BaseNetwork:
    """The model `name` of timm under a pyramid head. Raises ValueError as `TimmBackbone` does."""
    backbone = TimmBackbone(name)
    fine, middle, coarse = backbone.channels
    return BackboneWithHead(backbone, PyramidHead((fine, middle, coarse), backbone.strides[1], channels), deep=-1)
