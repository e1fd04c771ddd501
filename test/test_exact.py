"""The engine's fast form of a network gives the plain modules' logits (design: section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from stmem_ros.network import (
    BASES,
    MAR,
    STF,
    MARConfig,
    SegmenterConfig,
    STFConfig,
    VideoSegmenter,
    build_base,
    build_segmenter,
)
from stmem_ros.network.bases.pspnet import PSPHead
from stmem_ros.streaming.exact import (
    FoldedMAR,
    FoldedSTF,
    FusedConv2d,
    StreamingNetwork,
    fold_batch_norms,
    fold_pyramids,
    fuse_convolutions,
    streaming_network,
)

TOLERANCE = {"rtol": 0, "atol": 1e-4}
CLASSES = 5


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        yield


def randomise(network: nn.Module, std: float = 0.2) -> None:
    """Weights larger than any initialisation, so that every term shows."""
    for name, parameter in network.named_parameters():
        if not name.startswith("base"):
            nn.init.normal_(parameter, std=std)


def randomise_norms(network: nn.Module) -> None:
    """Statistics as after a training."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)


def streamed(network: StreamingNetwork, frames: Tensor, query: int) -> Tensor:
    """Logits of frame `query` of the window `(N, T, 3, H, W)`, each frame computed alone."""
    return network.predict([network.frame(frame) for frame in frames.unbind(1)], query)


def plain(model: VideoSegmenter, frames: Tensor, query: int) -> Tensor:
    return model.predict(torch.stack([model.features(frame) for frame in frames.unbind(1)], 1), query)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    size=some.tuples(some.integers(3, 17), some.integers(3, 17)),
    block=some.tuples(some.integers(1, 6), some.integers(1, 6)),
    frames=some.integers(1, 4),
    depth=some.integers(1, 2),
    heads=some.sampled_from([1, 2, 4]),
    cameras=some.integers(1, 3),
    data=some.data(),
)
@torch.inference_mode()
def test_folded_stf_is_stf(
    size: tuple[int, int],
    block: tuple[int, int],
    frames: int,
    depth: int,
    heads: int,
    cameras: int,
    data: some.DataObject,
) -> None:
    config = STFConfig(block, (5, 7), frames=frames, depth=depth, heads=heads, feedforward=6)
    stf = STF(8, config).eval()
    randomise(stf)
    folded = FoldedSTF(stf)
    window = torch.randn(cameras, frames, 8, *size)
    query = data.draw(some.integers(0, frames - 1))
    fused = folded.fuse([folded.frame(frame) for frame in window.unbind(1)], query, size)
    torch.testing.assert_close(fused, stf(window, query), **TOLERANCE)


class Products(TorchDispatchMode):
    """Counts batched products whose weights are one matrix, repeated for each token: many times slower than one."""

    def __init__(self) -> None:
        super().__init__()
        self.all = self.repeating = 0

    def __torch_dispatch__(
        self, function: OpOverload, types: Sequence[type], arguments: tuple[Any, ...] = (), names: Any = None
    ) -> Any:
        if function._schema.name in ("aten::bmm", "aten::mm", "aten::addmm"):
            self.all += 1
            self.repeating += any(part.dim() == 3 and len(part) > 1 and part.stride(0) == 0 for part in arguments)
        return function(*arguments, **(names or {}))


@pytest.mark.parametrize("size", [(8, 12), (9, 13)])
@pytest.mark.parametrize("cameras", [1, 2])
@torch.no_grad()
def test_no_weights_are_repeated_for_each_token(cameras: int, size: tuple[int, int]) -> None:
    # As StreamingNetwork has them: PyTorch takes another way where weights are being trained.
    stf = STF(8, STFConfig((4, 3), (6, 6), heads=2, feedforward=6)).eval().requires_grad_(False)
    folded = FoldedSTF(stf)
    with Products() as products:
        frames = [folded.frame(torch.randn(cameras, 8, *size)) for _ in range(3)]
        folded.fuse(frames, 2, size)
    assert products.all > 10
    assert not products.repeating


@pytest.mark.parametrize("size", [(9, 9), (65, 97), (128, 64)])
@torch.inference_mode()
def test_a_folded_pyramid_is_a_pyramid(size: tuple[int, int]) -> None:
    base = build_base("pspnet_resnet18").eval()
    fold_batch_norms(base, torch.zeros(1, 3, 64, 64))
    images = torch.randn(2, 3, *size)
    before = base(images)
    fold_pyramids(base)
    assert not any(isinstance(module, PSPHead) for module in base.modules())
    torch.testing.assert_close(base(images), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("values_per_class", [1, 4])
@torch.inference_mode()
def test_folded_mar_is_mar(values_per_class: int, residual: bool) -> None:
    mar = MAR(16, MARConfig(CLASSES, 4, values_per_class, residual)).eval()
    randomise(mar)
    features = torch.randn(2, 16, 7, 9)
    torch.testing.assert_close(FoldedMAR(mar)(features), mar(features), **TOLERANCE)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "pspnet_resnet18", "pspnet_resnet50"])
@torch.inference_mode()
def test_every_batch_norm_of_a_base_is_folded_and_its_features_stay(name: str) -> None:
    base = build_base(name).eval()
    randomise_norms(base)
    images = torch.randn(1, 3, 65, 97)
    before = base(images)
    fold_batch_norms(base, torch.zeros(1, 3, 64, 64))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in base.modules())
    assert (base(images) - before).abs().max() <= 1e-4 * before.abs().max()


class Awkward(nn.Module):
    """A norm after a sum, a convolution with two readers of which one is a norm, and one convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.shared = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.after_sum, self.after_one, self.after_shared = (nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x)
        x = self.after_sum(one + self.two(x)) + self.after_one(one)
        return self.after_shared(self.shared(self.shared(x)))


@torch.inference_mode()
def test_norms_that_cannot_be_folded_stay() -> None:
    network = Awkward().eval()
    randomise_norms(network)
    images = torch.randn(1, 3, 8, 8)
    before = network(images)
    fold_batch_norms(network, images)
    torch.testing.assert_close(network(images), before, **TOLERANCE)


@pytest.mark.parametrize("query", [0, 1, 2])
@pytest.mark.parametrize("cameras", [1, 2])
@pytest.mark.parametrize(
    ("stf", "mar"),
    [
        (STFConfig((4, 3), (6, 6), heads=1, feedforward=6), MARConfig(CLASSES, 3)),
        (STFConfig((2, 2), (6, 6), heads=2, feedforward=6, stride=2), MARConfig(CLASSES, 3, residual=True)),
        (STFConfig((3, 4), (6, 6), heads=2, feedforward=6, stride=3, sharpness=0, fading=1), None),
    ],
)
@torch.inference_mode()
def test_a_stream_gives_the_networks_logits(
    pixel_base: str, stf: STFConfig, mar: MARConfig | None, cameras: int, query: int
) -> None:
    model = build_segmenter(SegmenterConfig(pixel_base, CLASSES, 2, stf, mar)).eval()
    randomise(model)
    for size in ((11, 13), (8, 12)):
        frames = torch.randn(cameras, 3, 3, *size)
        torch.testing.assert_close(
            streamed(StreamingNetwork(model), frames, query), plain(model, frames, query), **TOLERANCE
        )


@torch.inference_mode()
def test_other_sizes_may_follow_one_another(pixel_base: str) -> None:
    stf = STFConfig((4, 3), (6, 6), heads=1, feedforward=6)
    model = build_segmenter(SegmenterConfig(pixel_base, CLASSES, stf=stf)).eval()
    network = StreamingNetwork(model)
    for size in ((8, 12), (9, 7), (8, 12)):
        frames = torch.randn(1, 3, 3, *size)
        torch.testing.assert_close(streamed(network, frames, 2), plain(model, frames, 2), **TOLERANCE)


@pytest.mark.parametrize("query", [1, 2])
@torch.inference_mode()
def test_the_shipped_networks_labels_stay(query: int) -> None:
    model, _ = load_checkpoint(DEFAULT_CHECKPOINT)
    frames = torch.nn.functional.interpolate(torch.randn(3, 3, 10, 13), (150, 203), mode="bicubic")[None]
    network = streaming_network(model, torch.device("cpu"), torch.float32)
    ours, theirs = streamed(network, frames, query), plain(model, frames, query)
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    assert (ours.argmax(1) == theirs.argmax(1)).float().mean() >= 0.9999


def folded_base(name: str) -> nn.Module:
    base = build_base(name).eval().requires_grad_(False)
    randomise_norms(base)
    fold_batch_norms(base, torch.zeros(1, 3, 64, 64))
    return base.to(memory_format=torch.channels_last)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize("name", ["efficientnet_lite0", "pspnet_resnet18", "dilation8_vgg16"])
@torch.inference_mode()
def test_convolutions_fused_with_their_activations_give_the_same_for_images_of_every_size(name: str) -> None:
    base = folded_base(name)
    sizes = [(64, 96), (65, 97), (66, 83), (64, 96)]
    images = [torch.randn(cameras, 3, *size) for cameras, size in zip((1, 2, 1, 3), sizes, strict=True)]
    before = [base(image) for image in images]
    assert fuse_convolutions(base, torch.randn(1, 3, 64, 64))
    assert sum(isinstance(module, FusedConv2d) for module in base.modules()) > 5
    for image, features in zip(images, before, strict=True):
        assert (base(image) - features).abs().max() <= 1e-5 * features.abs().max()


@pytest.mark.parametrize("wrong", ["missing", "other figures"])
@torch.inference_mode()
def test_a_network_stays_as_it_is_where_fused_convolutions_do_not_work(
    monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    def broken(fused: FusedConv2d, x: Tensor) -> Tensor:
        if wrong == "missing":
            raise AttributeError("no _convolution_pointwise")
        return torch.zeros_like(fused.conv(x))

    base, images = folded_base("efficientnet_lite0"), torch.randn(1, 3, 64, 64)
    before = base(images)
    monkeypatch.setattr(FusedConv2d, "forward", broken)
    assert not fuse_convolutions(base, images)
    assert torch.equal(base(images), before)


@torch.inference_mode()
def test_the_plain_network_is_left_as_it_was() -> None:
    model = build_segmenter(SegmenterConfig("pspnet_resnet18", CLASSES)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    StreamingNetwork(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_name_of_every_base_can_be_streamed() -> None:
    """`fold_batch_norms` runs a base once on a small image: each must take it."""
    with torch.device("meta"):
        for name in BASES:
            build_base(name).eval()(torch.zeros(1, 3, 64, 64))
