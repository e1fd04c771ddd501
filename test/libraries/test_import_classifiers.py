"""Imported classifiers against the libraries that they come from, where these are installed.

Apart from the other tests of importing: with torchvision installed that does not fit the torch beside it, Lightning,
which training needs, cannot be imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import weight_layouts
from torch import Tensor, nn
from torch.nn import functional as F
from weight_layouts import CLASSIFIERS, filled

from stmem_ros.network import build_base
from training.import_weights import main
from training.weights.backbone_file import load_backbone
from training.weights.catalog import SOURCES, backbone_shapes, closest_base, recognise
from training.weights.matching import match
from training.weights.rules import State

CLOSE = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


@pytest.fixture(scope="module")
def torchvision() -> Any:
    return pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))


@pytest.fixture(scope="module")
def timm(torchvision: Any) -> Any:
    return pytest.importorskip("timm")


LIBRARY_NAMES = {
    "torchvision resnet18": "resnet18",
    "torchvision resnet50": "resnet50",
    "torchvision resnet101": "resnet101",
    "torchvision vgg16": "vgg16",
    "torchvision swin_t": "swin_t",
    "torchvision swin_b": "swin_b",
    "timm resnet50c": "resnet50c",
    "timm resnet101c": "resnet101c",
    "timm vgg16": "vgg16",
    "timm tf_efficientnet_lite0": "tf_efficientnet_lite0",
    "timm tf_efficientnet_lite2": "tf_efficientnet_lite2",
}


@pytest.mark.parametrize("name", LIBRARY_NAMES)
def test_the_names_and_shapes_here_are_the_librarys(torchvision: Any, timm: Any, name: str) -> None:
    with torch.device("meta"):
        if name.startswith("timm"):
            model = timm.create_model(LIBRARY_NAMES[name])
        else:
            model = getattr(torchvision.models, LIBRARY_NAMES[name])()
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == CLASSIFIERS[name][2]


def imported_backbone(state: State) -> nn.Module:
    """The backbone that a classifier's state becomes."""
    source = SOURCES[recognise(state) or ""]
    base = closest_base(state, source)
    result = match(state, backbone_shapes(base), source.rules, source.left_over)
    assert result.faults == 0
    backbone = build_base(base).backbone.eval()
    backbone.load_state_dict(result.tensors, strict=False)
    return backbone


def randomised(model: nn.Module, name: str) -> nn.Module:
    model.load_state_dict(
        {
            key: model.state_dict()[key] if "index" in key else value
            for key, value in filled(CLASSIFIERS[name][2]).items()
        }
    )
    return model.eval()


@torch.inference_mode()
def test_torchvisions_resnet_dilated_as_ours_has_our_features(torchvision: Any) -> None:
    name = "torchvision resnet50"
    model = randomised(torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True]), name)
    x = image = torch.randn(1, 3, 64, 96)
    for part in (model.conv1, model.bn1, model.relu, model.maxpool):
        x = part(x)
    for ours, stage in zip(
        imported_backbone(model.state_dict())(image),
        (model.layer1, model.layer2, model.layer3, model.layer4),
        strict=True,
    ):
        x = stage(x)
        torch.testing.assert_close(ours, x, **CLOSE)


@torch.inference_mode()
def test_timms_resnet_c_dilated_as_ours_has_our_features(timm: Any) -> None:
    model = randomised(timm.create_model("resnet50c", output_stride=8), "timm resnet50c")
    image = torch.randn(1, 3, 64, 96)
    theirs = model.forward_intermediates(image, intermediates_only=True)[1:]
    for ours, feature in zip(imported_backbone(model.state_dict())(image), theirs, strict=True):
        torch.testing.assert_close(ours, feature, **CLOSE)


@torch.inference_mode()
def test_timms_efficientnet_lite_has_our_features_as_far_as_ours_is_not_dilated(timm: Any) -> None:
    model = randomised(timm.create_model("tf_efficientnet_lite0"), "timm tf_efficientnet_lite0")
    image = torch.randn(1, 3, 65, 97)
    x = model.bn1(model.conv_stem(image))
    features = [x := block(x) for block in model.blocks]
    ours = imported_backbone(model.state_dict())(image)
    for index in range(3):
        torch.testing.assert_close(ours[index], features[index], **CLOSE)


def plain_norm(x: Tensor) -> Tensor:
    """As our norms behind the first three stages are: no classifier has them."""
    return F.layer_norm(x, x.shape[-1:]).permute(0, 3, 1, 2)


@torch.inference_mode()
def test_torchvisions_swin_has_our_features(torchvision: Any) -> None:
    model = randomised(torchvision.models.swin_t(), "torchvision swin_t")
    # Theirs does not shift where one window holds the whole grid: the last stage has 8 x 8 cells.
    x = image = torch.randn(1, 3, 256, 256)
    *ours, last = imported_backbone(model.state_dict())(image)
    for index, part in enumerate(model.features):
        x = part(x)
        if index in (1, 3, 5):
            torch.testing.assert_close(ours[index // 2], plain_norm(x), **CLOSE)
    torch.testing.assert_close(last, model.norm(x).permute(0, 3, 1, 2), **CLOSE)


@torch.inference_mode()
def test_timms_swin_has_our_features_where_both_shift(timm: Any) -> None:
    model = randomised(timm.create_model("swin_tiny_patch4_window7_224"), "timm swin_tiny")
    image = torch.randn(1, 3, 224, 224)
    ours, x = imported_backbone(model.state_dict())(image), model.patch_embed(image)
    for feature, stage in zip(ours[:3], model.layers[:3], strict=True):
        x = stage(x)
        torch.testing.assert_close(feature, plain_norm(x), **CLOSE)


@torch.inference_mode()
def test_torchvisions_vgg_has_our_features_up_to_the_pooling_that_ours_lacks(torchvision: Any) -> None:
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    state = filled({name: s for name, s in weight_layouts.vgg16("torchvision").items() if name.startswith("features")})
    layers.load_state_dict({name.removeprefix("features."): tensor for name, tensor in state.items()})
    result = match(state, backbone_shapes("dilation8_vgg16"), SOURCES["torchvision_vgg16"].rules)
    with torch.device("meta"):
        ours = build_base("dilation8_vgg16").backbone
    ours.load_state_dict(result.tensors, strict=False, assign=True)
    image = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(ours.features[:23](image), layers[:23](image), **CLOSE)


@pytest.mark.parametrize(
    "name", ["resnet26d", "mobilenetv3_small_050", "convnext_atto", "swin_tiny_patch4_window7_224"]
)
def test_any_of_timms_classifiers_fills_the_base_of_its_name(timm: Any, tmp_path: Path, name: str) -> None:
    classifier, file = timm.create_model(name), tmp_path / "in.pth"
    torch.save(classifier.state_dict(), file)
    assert main([str(file), str(tmp_path / "out.safetensors"), "--base", f"timm:{name}"]) == 0
    backbone = build_base(f"timm:{name}").backbone
    load_backbone(tmp_path / "out.safetensors", backbone, f"timm:{name}")
    # timm's own way to the same features.
    theirs = timm.create_model(name, features_only=True, pretrained_cfg_overlay={"file": str(file)}, pretrained=True)
    ours = {key.removeprefix("model."): tensor for key, tensor in backbone.state_dict().items()}
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(ours[key.removeprefix("model.")], tensor), key
