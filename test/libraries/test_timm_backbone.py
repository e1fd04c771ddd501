"""A base network from timm: what it gives, with a stand-in where timm is not installed, and what is refused."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmem_ros.checkpoint import CheckpointError, CheckpointInfo, Normalization, load_checkpoint, save_checkpoint
from stmem_ros.labels import LabelSet
from stmem_ros.network import SegmenterConfig, build_base, build_segmenter
from stmem_ros.network.segmenter import empty_segmenter


class FeatureInfo:
    def __init__(self, strides: list[int]) -> None:
        self._strides = strides

    def reduction(self) -> list[int]:
        return self._strides

    def channels(self) -> list[int]:
        return [4 * (index + 1) for index in range(len(self._strides))]


class FakeModel(nn.Module):
    """As timm's models of the same features: each level the image's means, its grid rounded down."""

    def __init__(self, strides: list[int], output_fmt: str = "NCHW", sides: int | None = None) -> None:
        super().__init__()
        self.feature_info, self.output_fmt, self.sides = FeatureInfo(strides), output_fmt, sides
        # Many models of timm read numbers as they are made.
        self.rates = torch.linspace(0, 0.1, 3).tolist()
        self.levels = nn.ModuleList(nn.Conv2d(3, channels, 1) for channels in self.feature_info.channels())

    def forward(self, images: Tensor) -> list[Tensor]:
        if self.sides is not None:
            assert images.shape[-1] == self.sides, f"Input width ({images.shape[-1]}) doesn't match ({self.sides})"
        found = []
        for level, stride in zip(self.levels, self.feature_info.reduction(), strict=True):
            x = level(F.avg_pool2d(images, stride))
            found.append(x.permute(0, 2, 3, 1) if self.output_fmt == "NHWC" else x)
        return found


def plain(output_stride: int = 32) -> FakeModel:
    return FakeModel([min(stride, output_stride) for stride in (2, 4, 8, 16, 32)])


MODELS: dict[str, Any] = {
    "plain": plain,
    "undilated": lambda: FakeModel([4, 8, 16, 32]),
    "channels_last": lambda strict_img_size=True: FakeModel([4, 8, 16, 32], "NHWC", 224 if strict_img_size else None),
    "one_size": lambda: FakeModel([4, 8, 16, 32], sides=224),
    "one_stride": lambda: FakeModel([16, 16, 16]),
    "two_strides": lambda: FakeModel([16, 32]),
}


def create_model(name: str, pretrained: bool, features_only: bool, **options: Any) -> FakeModel:
    assert not pretrained and features_only
    if name == "no_features":
        raise RuntimeError("features_only not implemented for no_features.\nA second line.")
    return MODELS[name](**options)


@pytest.fixture
def fake_timm(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("timm")
    module.__version__ = "1.2.3"
    module.is_model = lambda name: name in MODELS or name == "no_features"
    module.create_model = create_model
    config = types.SimpleNamespace(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.4))
    module.get_pretrained_cfg = lambda name: config if name == "plain" else None
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def assert_usable(name: str) -> None:
    base = build_base(f"timm:{name}").eval()
    for size in ((64, 64), (65, 71), (97, 130)):
        with torch.inference_mode():
            features, deep = base.forward_with_deep(torch.randn(2, 3, *size))
        assert features.shape == (2, base.channels, *(math.ceil(side / base.stride) for side in size))
        assert deep.shape[1] == base.deep_channels
    features = base.train()(torch.randn(2, 3, 65, 71))
    (features * torch.randn_like(features)).sum().backward()
    assert all(parameter.grad is not None for parameter in base.head.parameters())
    empty = empty_segmenter(SegmenterConfig(f"timm:{name}", 5)).base.state_dict()
    assert {key: tensor.shape for key, tensor in empty.items()} == {
        key: tensor.shape for key, tensor in base.state_dict().items()
    }
    assert all(tensor.is_meta for tensor in empty.values())


@pytest.mark.parametrize(
    ("name", "strides", "channels"),
    [
        ("plain", (4, 8, 16), (8, 12, 20)),
        ("undilated", (8, 16, 32), (8, 12, 16)),
        ("channels_last", (8, 16, 32), (8, 12, 16)),
    ],
)
def test_the_deepest_three_strides_that_double_are_used(
    fake_timm: types.ModuleType, name: str, strides: tuple, channels: tuple
) -> None:
    base = build_base(f"timm:{name}")
    assert (base.backbone.strides, base.backbone.channels) == (strides, channels)
    assert (base.stride, base.channels, base.deep_channels) == (strides[1], 128, channels[-1])
    assert_usable(name)


def test_it_is_normalised_as_its_own_weights_were(fake_timm: types.ModuleType) -> None:
    base = build_base("timm:plain")
    assert base.mean == pytest.approx((127.5, 102, 76.5)) and base.std == pytest.approx((51, 51, 102))
    assert build_base("timm:undilated").mean == (123.675, 116.28, 103.53)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet19", r"'timm:resnet19', and timm 1.2.3 has no model of that name"),
        ("", r"'timm:', and timm 1.2.3 has no model"),
        (
            "no_features",
            r"'timm:no_features', which gives no features: features_only not implemented for no_features\.$",
        ),
        ("one_stride", r"'timm:one_stride', whose features lie at strides \[16, 16, 16\]; three must double"),
        ("two_strides", r"strides \[16, 32\]; three must double"),
        ("one_size", r"'timm:one_size', which does not take every size of image: Input width \(96\) doesn't match"),
    ],
)
def test_a_model_that_cannot_serve_is_named_with_the_reason(fake_timm: types.ModuleType, name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_base(f"timm:{name}")


class Liar(FakeModel):
    def forward(self, images: Tensor) -> list[Tensor]:
        return [level[:, 1:] for level in super().forward(images)]


def test_a_model_whose_features_are_not_as_stated_is_refused(
    fake_timm: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "liar", lambda: Liar([4, 8, 16, 32]))
    said = r"'timm:liar', whose features for 95x65 pixels are \[\(7, 9, 12\), .*\], not \[\(8, 9, 12\)"
    with pytest.raises(ValueError, match=said):
        build_base("timm:liar")


NEEDED = r"base is 'timm:resnet18', which needs the package timm; it cannot be imported: .*{}.*\. pip install timm"


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=NEEDED.format("timm")):
        build_base("timm:resnet18")


def test_a_timm_that_fails_to_import_gives_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=NEEDED.format("operator torchvision::nms does not exist")):
        build_base("timm:resnet18")


def test_a_checkpoint_of_it_needs_timm_too(
    fake_timm: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SegmenterConfig("timm:plain", 2)
    model = build_segmenter(config).eval()
    labels = LabelSet(["road", "sky"], [(0, 0, 0), (1, 1, 1)])
    file = tmp_path / "model.safetensors"
    save_checkpoint(file, model, CheckpointInfo(config, labels, Normalization(model.base.mean, model.base.std), 64))
    images = torch.randn(1, 3, 70, 90)
    with torch.inference_mode():
        assert torch.equal(load_checkpoint(file)[0].features(images), model.features(images))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(CheckpointError, match="cannot be built: base is 'timm:plain', which needs the package timm"):
        load_checkpoint(file)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenetv3_small_100", "convnext_atto", "efficientnet_lite0", "swin_tiny_patch4_window7_224"],
)
def test_models_of_timm_itself_serve(name: str) -> None:
    try:
        import timm  # noqa: F401
    except Exception as error:
        pytest.skip(f"timm cannot be imported: {error}")
    assert_usable(name)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "hf-hub:timm/resnet18", "local-dir:/tmp"])
def test_models_that_timm_cannot_serve_or_would_fetch_are_refused(name: str) -> None:
    try:
        import timm  # noqa: F401
    except Exception as error:
        pytest.skip(f"timm cannot be imported: {error}")
    with pytest.raises(ValueError, match=f"base is 'timm:{name}'"):
        build_base(f"timm:{name}")
