"""One suite that every base network passes, and what is particular to some of them."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tally
import torch
from safetensors.torch import load_file, save_file
from tally import Tally, cells
from torch import Tensor, nn

from stmem_ros.checkpoint import CheckpointInfo, Normalization
from stmem_ros.labels import LabelSet
from stmem_ros.network import BASES, MAR, STF, MARConfig, SegmenterConfig, STFConfig, VideoSegmenter, build_base
from stmem_ros.network.bases import BackboneWithHead
from stmem_ros.network.bases.catalog import dilation8
from stmem_ros.network.bases.dilation8 import BASIC, ContextHead
from stmem_ros.network.bases.swin import PatchMerging, Stage, SwinTransformer
from stmem_ros.network.bases.upernet import UPerHead
from stmem_ros.network.bases.vgg import VGG16
from stmem_ros.network.segmenter import Classifier
from stmem_ros.streaming import StreamConfig, StreamingSegmenter
from training.measure.cost import cost_of

HALF_CITYSCAPES, CITYSCAPES = (512, 1024), (1024, 2048)
# Those that a test can afford to run at 512 x 1024, not only to follow the shapes.
LIGHT = ("efficientnet_lite0", "efficientnet_lite2", "pspnet_resnet18")


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


def with_lively_norms(module: nn.Module) -> nn.Module:
    """Norms as after some training: at first batch norms change nothing and a ResNet's blocks are their shortcuts."""
    for norm in module.modules():
        if isinstance(norm, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(norm.weight, 0.4, 0.8)
            nn.init.normal_(norm.bias, std=0.1)
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.7, 1.3)
    return module


@pytest.fixture(scope="module", params=BASES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def shared_base(name: str) -> Iterator[BackboneWithHead]:
    """Built once for all tests of that base: some have 140 million weights."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        base = with_lively_norms(build_base(name))
    yield base
    del base
    gc.collect()


@pytest.fixture
def base(shared_base: BackboneWithHead) -> BackboneWithHead:
    return shared_base.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Two small images of odd sides."""
    return torch.randn(2, 3, 33, 47, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
@torch.inference_mode()
def features(shared_base: BackboneWithHead, images: Tensor) -> Tensor:
    """What the base makes of them."""
    return shared_base.eval()(images)


def unset_base(name: str) -> BackboneWithHead:
    """A base whose weights are whatever memory held: building it is quick."""
    with pytest.MonkeyPatch.context() as patch:
        for function in ("kaiming_uniform_", "kaiming_normal_", "trunc_normal_", "normal_", "uniform_"):
            patch.setattr(nn.init, function, lambda tensor, *args, **kwargs: tensor)
        return build_base(name).eval()


def empty_base(name: str) -> BackboneWithHead:
    with torch.device("meta"):
        return build_base(name).eval()


def assert_alike(ours: Tensor, other: Tensor) -> None:
    """Equal but for the order of additions, which costs the more the larger the numbers."""
    torch.testing.assert_close(ours, other, rtol=0, atol=1e-5 * other.abs().max().item())


class TestEveryBase:
    def test_is_a_backbone_under_a_head_and_says_what_they_give(self, name: str, base: BackboneWithHead) -> None:
        assert isinstance(base, BackboneWithHead)
        assert (base.channels, base.stride) == (base.head.channels, base.head.stride)
        assert len(base.backbone.channels) == len(base.backbone.strides)
        assert base.stride in base.backbone.strides
        assert base.deep_channels in base.backbone.channels
        assert base.channels % 4 == 0, "STF's heads and MAR's halves"

    def test_states_its_normalisation(self, name: str, base: BackboneWithHead) -> None:
        assert len(base.mean) == len(base.std) == 3
        assert (base.mean, base.std) == (base.backbone.mean, base.backbone.std)
        assert all(100 < mean < 130 for mean in base.mean) and all(50 < std < 130 for std in base.std)

    @torch.inference_mode()
    def test_gives_the_grids_that_its_strides_say(self, name: str, base: BackboneWithHead, images: Tensor) -> None:
        levels = []
        hook = base.backbone.register_forward_hook(lambda module, inputs, output: levels.extend(output))
        features, deep = base.forward_with_deep(images[:1])
        hook.remove()
        assert features.shape == (1, base.channels, *(math.ceil(side / base.stride) for side in (33, 47)))
        assert features.isfinite().all() and features.std() > 0
        assert deep.shape[1] == base.deep_channels
        for level, channels, stride in zip(levels, base.backbone.channels, base.backbone.strides, strict=True):
            assert level.shape == (1, channels, *(math.ceil(side / stride) for side in (33, 47)))

    @torch.inference_mode()
    def test_takes_images_of_any_size(self, name: str) -> None:
        empty = empty_base(name)
        for size in ((65, 71), HALF_CITYSCAPES):
            features = empty(torch.empty(1, 3, *size, device="meta"))
            assert features.shape == (1, empty.channels, *(math.ceil(side / empty.stride) for side in size))
        if name in LIGHT:
            assert unset_base(name)(torch.zeros(1, 3, *HALF_CITYSCAPES)).shape == features.shape

    def test_every_parameter_learns(self, name: str, base: BackboneWithHead) -> None:
        # In evaluation mode: dropout leaves nothing out.
        features = base(torch.randn(1, 3, 33, 47))
        # oneDNN needs 20 s for the gradient of VGG's fc6.
        torch.backends.mkldnn.set_flags(name != "dilation8_vgg16")
        # Random weights on the output: the plain sum of what a norm gives has no gradient.
        (features * torch.randn_like(features)).sum().backward()
        torch.backends.mkldnn.set_flags(True)
        for parameter_name, parameter in base.named_parameters():
            assert parameter.grad is not None, f"{parameter_name} has no gradient"
            assert 0 < parameter.grad.norm() < math.inf, f"{parameter_name} has a gradient of {parameter.grad.norm()}"
            parameter.grad = None

    def test_trains_on_a_batch(self, name: str, base: BackboneWithHead) -> None:
        before = {key: tensor.clone() for key, tensor in base.named_buffers() if key.endswith("running_mean")}
        with torch.no_grad():
            features = base.train()(torch.randn(2, 3, 33, 47))
        assert features.isfinite().all()
        after = dict(base.named_buffers())
        assert all(not torch.equal(tensor, after[key]) for key, tensor in before.items())
        with torch.no_grad():
            for key, tensor in before.items():
                after[key].copy_(tensor)

    @torch.inference_mode()
    def test_is_deterministic_in_evaluation(self, base: BackboneWithHead, images: Tensor, features: Tensor) -> None:
        assert torch.equal(base(images), features)

    @torch.inference_mode()
    def test_a_batch_equals_its_images_one_by_one(
        self, base: BackboneWithHead, images: Tensor, features: Tensor
    ) -> None:
        assert_alike(torch.cat([base(image[None]) for image in images]), features)

    @torch.inference_mode()
    def test_saved_and_loaded_it_is_the_same(
        self, name: str, base: BackboneWithHead, images: Tensor, features: Tensor, tmp_path: Path
    ) -> None:
        file, other = tmp_path / "base.safetensors", unset_base(name)
        save_file(base.state_dict(), file)
        other.load_state_dict(load_file(file), assign=True)
        file.unlink()
        # The file's tensors begin at other addresses, which changes the order of additions.
        assert_alike(other(images), features)

    def test_is_known_without_its_weights(self, name: str, base: BackboneWithHead) -> None:
        empty = empty_base(name).state_dict()
        assert all(tensor.is_meta for tensor in empty.values())
        assert {key: (tensor.shape, tensor.dtype) for key, tensor in empty.items()} == {
            key: (tensor.shape, tensor.dtype) for key, tensor in base.state_dict().items()
        }

    @torch.inference_mode()
    def test_streamed_with_stf_and_mar_it_gives_the_labels_of_the_whole_clip(
        self, name: str, base: BackboneWithHead
    ) -> None:
        classes = 6
        stf = STFConfig(block=(4, 4), positional_grid=(8, 9), feedforward=16)
        config = SegmenterConfig(name, classes, stf=stf, mar=MARConfig(classes, 3))
        classifier = Classifier(base.channels, classes)
        nn.init.normal_(classifier.linear.weight)
        model = VideoSegmenter(base, classifier, STF(base.channels, stf), MAR(base.channels, config.mar)).eval()
        coarse = np.random.default_rng(1).integers(0, 2, (3, 4, 5, 3), np.uint8) * 255
        video = coarse.repeat(16, 1).repeat(16, 2)
        pixels = torch.from_numpy(video).permute(0, 3, 1, 2).float()
        clip = (pixels - torch.tensor(base.mean).view(3, 1, 1)) / torch.tensor(base.std).view(3, 1, 1)
        logits = model(clip[None], query=2)[0]
        # Random weights prefer one class everywhere: their means apart, each class is the best somewhere.
        preference = logits.mean((1, 2))
        classifier.linear.bias -= preference
        expected = logits - preference[:, None, None]
        best, second = expected.topk(2, dim=0).values
        clear = (best - second > 1e-5 * logits.abs().max()).numpy()
        assert clear.mean() > 0.99 and len(expected.argmax(0).unique()) > 2

        labels = LabelSet([str(k) for k in range(classes)], [(k, k, k) for k in range(classes)])
        info = CheckpointInfo(config, labels, Normalization(base.mean, base.std), 64)
        engine = StreamingSegmenter(model, info, StreamConfig(window="causal", short_side=-1))
        result = [engine.step(image, index * 66_000_000) for index, image in enumerate(video)][-1]
        np.testing.assert_array_equal(result.labels[clear], expected.argmax(0).numpy()[clear])

    def test_costs_what_its_definition_says_and_what_was_published(self, name: str) -> None:
        size, parameters, gmacs, beside = PUBLISHED.get(name, (CITYSCAPES, None, None, None))
        cost, by_hand = cost_of(SegmenterConfig(name, 19), size), BY_HAND[name](size)
        assert cost.parameters["base"] == by_hand.parameters
        assert cost.macs["base"] == pytest.approx(by_hand.macs, rel=0.001)
        if parameters is not None:
            assert cost.parameters["base"] + beside.parameters == pytest.approx(parameters, rel=0.01)
        if gmacs is not None:
            assert cost.macs["base"] + beside.macs == pytest.approx(gmacs * 1e9, rel=0.01)


def swin_by_hand(size: str, window: int, image: tuple[int, int]) -> Tally:
    """Patches, then for each block qkv, both attention products, projection and MLP on grids of whole windows."""
    width, depths, heads = {"tiny": (96, (2, 2, 6, 2), 3), "base": (128, (2, 2, 18, 2), 4)}[size]
    count = Tally().conv(3, width, 4, cells(image, 4), bias=True)
    for stage, depth in enumerate(depths):
        d, grid = width * 2**stage, [math.ceil(side / (4 * 2**stage)) for side in image]
        here = grid[0] * grid[1]
        padded = math.prod(math.ceil(side / window) * window for side in grid)
        block = Tally().conv(d, 3 * d, 1, padded, bias=True, norm=False).conv(d, d, 1, padded, bias=True)
        block.conv(d, 4 * d, 1, here, bias=True, norm=False).conv(4 * d, d, 1, here, bias=True)
        block.parameters += heads * 2**stage * (2 * window - 1) ** 2
        block.macs += 2 * padded * window**2 * d
        for _ in range(depth):
            count += block
        count.parameters += 2 * d
        if stage < 3:
            count.conv(4 * d, 2 * d, 1, cells(image, 8 * 2**stage), norm=False).parameters += 2 * 4 * d
    return count


def resnet_base(head, depth: int, channels: int, deep_stem: bool):
    inputs = 512 if depth == 18 else 2048
    return lambda size: tally.resnet(depth, size, deep_stem=deep_stem) + head(inputs, channels, cells(size, 8))


def lite_base(variant: str):
    channels = tally.LITES[variant][0]
    return lambda size: (
        tally.efficientnet_lite(variant, size) + tally.pyramid_head(channels[1], channels[2], channels[6], 128, size)
    )


def swin_base(size: str, window: int):
    width = {"tiny": 96, "base": 128}[size]
    inputs = tuple(width * 2**stage for stage in range(4))
    return lambda image: swin_by_hand(size, window, image) + tally.uper_head(inputs, 512, image)


BY_HAND = {
    "efficientnet_lite0": lite_base("lite0"),
    "efficientnet_lite2": lite_base("lite2"),
    **{
        f"pspnet_resnet{depth}{stem}": resnet_base(tally.psp_head, depth, 128 if depth == 18 else 512, not stem)
        for depth in (18, 50, 101)
        for stem in ("", "b")
    },
    "deeplabv3_resnet101": resnet_base(tally.aspp_head, 101, 512, True),
    "deeplabv3_resnet101b": resnet_base(tally.aspp_head, 101, 512, False),
    # The front end of the original's network definition, and the large form of its context module over 16 maps.
    "dilation8_vgg16": lambda size: (
        tally.vgg16(size) + tally.dilation8_head(16, (2, 2, 4, 8, 16, 32, 32), cells(size, 8))
    ),
    "upernet_swin_t": swin_base("tiny", 7),
    "upernet_swin_b": swin_base("base", 7),
    "upernet_swin_b_window12": swin_base("base", 12),
}


def ade20k_beside(aux_inputs: int, size: tuple[int, int]) -> Tally:
    """The classifier, and the parameters of the auxiliary head, which does not run in evaluation."""
    classifier = Tally().conv(512, 150, 1, cells(size, 4), bias=True, norm=False)
    return classifier + Tally(tally.fcn_head(aux_inputs, 256, 150, 0).parameters)


TABLE_6_CLASSIFIER = Tally().conv(512, 19, 1, cells(CITYSCAPES, 8))
WIDE = (512, 2048)
# Whole networks whose figures are published: size, parameters, GMACs, and what these count beside the base network.
# They count norms, activations and resizing too, which the package does not: some tenths of a percent.
PUBLISHED = {
    # Table 6 of the paper, which is of three frames.
    "pspnet_resnet50": (CITYSCAPES, None, 4285.9 / 3, TABLE_6_CLASSIFIER),
    "pspnet_resnet101": (CITYSCAPES, None, 6152.9 / 3, TABLE_6_CLASSIFIER),
    # README of Swin's release for segmentation, UPerNet on ADE20K.
    "upernet_swin_t": (WIDE, 60e6, 945, ade20k_beside(384, WIDE)),
    "upernet_swin_b": (WIDE, 121e6, 1188, ade20k_beside(512, WIDE)),
}

IMAGENET = (224, 224)
CLASSIFIER_STRIDES = (4, 8, 16, 32)
# Of torchvision's documentation: num_params and GFLOPS (which are multiply-accumulates), at 224 or 520 pixels.
SEGMENTATION = (520, 520)
HERE = cells(SEGMENTATION, 8)
AUX = tally.fcn_head(1024, 256, 21, HERE)
LITE_STRIDES = (2, 4, 8, 16, 16, 32, 32)


def lite_classifier(variant: str, side: int) -> Tally:
    last = tally.LITES[variant][0][-1]
    body = tally.efficientnet_lite(variant, (side, side), LITE_STRIDES)
    return body.conv(last, 1280, 1, cells((side, side), 32)).linear(1280, 1000)


PUBLISHED_FORMULAS = {
    "torchvision resnet18": (tally.resnet(18, IMAGENET, CLASSIFIER_STRIDES).linear(512, 1000), 11_689_512, 1.814),
    "torchvision resnet50": (tally.resnet(50, IMAGENET, CLASSIFIER_STRIDES).linear(2048, 1000), 25_557_032, 4.089),
    "torchvision resnet101": (tally.resnet(101, IMAGENET, CLASSIFIER_STRIDES).linear(2048, 1000), 44_549_160, 7.801),
    "torchvision fcn_resnet50": (
        tally.resnet(50, SEGMENTATION) + tally.fcn_head(2048, 512, 21, HERE) + AUX,
        35_322_218,
        152.717,
    ),
    "torchvision fcn_resnet101": (
        tally.resnet(101, SEGMENTATION) + tally.fcn_head(2048, 512, 21, HERE) + AUX,
        54_314_346,
        232.738,
    ),
    "torchvision deeplabv3_resnet101": (
        tally.resnet(101, SEGMENTATION)
        + tally.aspp_branches(2048, 256, HERE).conv(5 * 256, 256, 1, HERE)
        + tally.fcn_head(256, 256, 21, HERE)
        + AUX,
        60_996_202,
        258.743,
    ),
    "torchvision vgg16": (
        tally.vgg16(IMAGENET, (1, 2, 4, 8, 16)).linear(512 * 7 * 7, 4096).linear(4096, 4096).linear(4096, 1000),
        138_357_544,
        15.47,
    ),
    # Norms apart; TensorFlow's own 0.407 and 0.899 count more.
    "PyTorch efficientnet-lite0": (lite_classifier("lite0", 224), 4.652e6, 0.385),
    "PyTorch efficientnet-lite2": (lite_classifier("lite2", 260), 6.092e6, 0.860),
    # Of the four norms the classifiers have one.
    "torchvision swin_t": (swin_by_hand("tiny", 7, IMAGENET).linear(768, 1000), 28_288_354, 4.491),
    "torchvision swin_b": (swin_by_hand("base", 7, IMAGENET).linear(1024, 1000), 87_768_224, 15.431),
    "Swin's README, swin_base_patch4_window12_384": (
        swin_by_hand("base", 12, (384, 384)).linear(1024, 1000),
        88e6,
        47.1,
    ),
}


@pytest.mark.parametrize("network", PUBLISHED_FORMULAS)
def test_the_formulas_give_what_is_published(network: str) -> None:
    by_hand, parameters, gmacs = PUBLISHED_FORMULAS[network]
    exact = isinstance(parameters, int) and "swin" not in network
    assert by_hand.parameters == (parameters if exact else pytest.approx(parameters, rel=0.01))
    assert by_hand.macs / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_an_unknown_base_is_named_beside_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'resnet'.*efficientnet_lite0.*timm:NAME"):
        build_base("resnet")


class TestSwin:
    @torch.inference_mode()
    def test_shifted_windows_are_attention_within_regions(self) -> None:
        """Against every cell's attention written out: who sees whom, and with which bias."""
        height, width, window, channels, heads = 6, 11, 4, 8, 2
        stage = with_lively_norms(Stage(channels, heads, window, [0.0, 0.0], last=True))
        x = torch.randn(1, height, width, channels)
        for block in stage.blocks:
            nn.init.normal_(block.attn.relative_position_bias_table)
            nn.init.normal_(block.attn.qkv.weight)
        expected = x
        for block in stage.blocks:
            tokens = nn.functional.pad(block.norm1(expected), (0, 0, 0, -width % window, 0, -height % window))[0]
            rows, columns = tokens.shape[:2]
            q, k, v = block.attn.qkv(tokens.flatten(0, 1)).unflatten(-1, (3, heads, -1)).unbind(1)
            attended = torch.zeros(rows * columns, heads, channels // heads)
            places = [(row, column) for row in range(rows) for column in range(columns)]
            for i, here in enumerate(places):
                seen, bias = [], []
                for j, there in enumerate(places):
                    # Windows of a shifted block begin half a window in; the strips before and behind are apart.
                    if all(
                        (a + window - block.shift) // window == (b + window - block.shift) // window
                        for a, b in zip(here, there, strict=True)
                    ):
                        seen.append(j)
                        down, right = (a - b + window - 1 for a, b in zip(here, there, strict=True))
                        bias.append(block.attn.relative_position_bias_table[down * (2 * window - 1) + right])
                scores = (q[i] * k[seen]).sum(-1) / math.sqrt(channels // heads) + torch.stack(bias)
                attended[i] = (scores.softmax(0)[..., None] * v[seen]).sum(0)
            attended = block.attn.proj(attended.flatten(1)).unflatten(0, (rows, columns))[:height, :width]
            expected = expected + attended
            expected = expected + block.mlp(block.norm2(expected))
        torch.testing.assert_close(stage(x)[0], expected, rtol=0, atol=1e-4)

    def test_patches_merge_in_the_documented_order(self) -> None:
        merging = PatchMerging(3)
        seen = []
        merging.norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        x = torch.arange(2 * 2 * 3).view(1, 2, 2, 3).float()
        merging(x)
        assert seen[0].flatten().tolist() == [0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11]
        by_channel = nn.functional.unfold(x.permute(0, 3, 1, 2), 2).flatten()
        assert torch.equal(by_channel.view(-1, 3, 2, 2).permute(0, 3, 2, 1).flatten(1), seen[0].flatten(0, 2))

    def test_drop_path_leaves_out_whole_images_and_keeps_the_mean(self) -> None:
        drop = SwinTransformer("tiny", 7).layers[3].blocks[1].drop_path
        assert drop.rate == pytest.approx(0.3)
        x = torch.ones(4000, 2, 2, 3)
        dropped = drop.train()(x)
        assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.7])
        assert torch.equal(dropped.amin((1, 2, 3)), dropped.amax((1, 2, 3)))
        assert dropped.mean().item() == pytest.approx(1, abs=0.05)
        assert torch.equal(drop.eval()(x), x)


@torch.inference_mode()
def test_upernet_adds_what_is_coarser_before_it_smooths() -> None:
    widths, grids = (4, 6, 8, 10), [(17, 18), (9, 9), (5, 5), (3, 3)]
    head = with_lively_norms(UPerHead(widths, 4, 16)).eval()
    levels = [torch.randn(1, width, *grid) for width, grid in zip(widths, grids, strict=True)]

    def at(x: Tensor, grid: tuple[int, int]) -> Tensor:
        return nn.functional.interpolate(x, grid, mode="bilinear", align_corners=False)

    path = [head.top(torch.cat([levels[3], head.pooling(levels[3])], 1))]
    for index in (2, 1, 0):
        path.append(head.laterals[index](levels[index]) + at(path[-1], grids[index]))
    smoothed = [head.smooth[index](path[3 - index]) for index in range(3)]
    fused = head.fuse(torch.cat([at(x, grids[0]) for x in (*smoothed, path[0])], 1))
    torch.testing.assert_close(head(levels), fused)


class TestDilation8:
    @torch.inference_mode()
    def test_begins_as_what_its_front_end_says(self) -> None:
        head = ContextHead(8, 8, maps=4)
        scores = torch.rand(1, 4, 9, 9)
        head.scores = nn.Identity()
        features = head([scores]).unflatten(1, (4, 32))
        torch.testing.assert_close(features, scores[:, :, None].expand_as(features), rtol=0, atol=0.15)
        torch.testing.assert_close(features.mean(2), scores, rtol=0, atol=0.05)

    def test_can_be_the_originals_for_camvid(self) -> None:
        with torch.device("meta"):
            base = dilation8(maps=11, widths=BASIC)
        layers = [layer for layer in base.head.context if isinstance(layer, nn.Conv2d)]
        assert [(layer.in_channels, layer.out_channels, layer.dilation[0]) for layer in layers] == [
            (11, 11, dilation) for dilation in (1, 1, 2, 4, 8, 16, 1)
        ]

    def test_its_front_end_is_numbered_as_torchvisions(self) -> None:
        with torch.device("meta"):
            state = VGG16().state_dict()
        numbers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
        assert [key for key in state if key.endswith("weight")] == [
            *(f"features.{number}.weight" for number in numbers),
            "fc6.weight",
            "fc7.weight",
        ]
        assert state["fc6.weight"].shape == (4096, 512, 7, 7)
