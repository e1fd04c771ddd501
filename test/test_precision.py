"""Half precision gives the labels of float32, and every tensor is made on the device that the network is on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint, load_rows
from stmem_ros.network import BASES, MAR, BaseNetwork, MARConfig, SegmenterConfig, STFConfig, VideoSegmenter
from stmem_ros.network.bases import catalog
from stmem_ros.network.segmenter import build_segmenter, empty_segmenter, upsample
from stmem_ros.network.stf import direction
from stmem_ros.preprocess import Preprocessor, resize_on_device
from stmem_ros.streaming import StreamConfig, StreamingSegmenter, label_map
from stmem_ros.streaming.exact import FoldedMAR, StreamingNetwork, streaming_network

CPU, META = torch.device("cpu"), torch.device("meta")
HALVES = [torch.bfloat16, torch.float16]
CLASSES = 5
# How many labels are the same in two number formats.
LEAST_EQUAL = 0.99
Logits = Callable[[int], Tensor]
Form = Callable[[VideoSegmenter, Sequence[Tensor]], Logits]


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        yield


def plain(model: VideoSegmenter, frames: Sequence[Tensor]) -> Logits:
    """The plain modules, as evaluation runs them: logits of each frame of a window, in the frames' number format."""
    model = copy.deepcopy(model).to(frames[0].dtype)
    window = torch.stack([model.features(frame) for frame in frames], 1)
    return lambda query: model.predict(window, query)


def folded(model: VideoSegmenter, frames: Sequence[Tensor]) -> Logits:
    """The same as the engine runs it."""
    network = streaming_network(model, frames[0].device, frames[0].dtype)
    window = [network.frame(frame) for frame in frames]
    return lambda query: network.predict(window, query)


FORMS = pytest.mark.parametrize("form", [plain, folded])


def photographs(folder: Path) -> list[np.ndarray]:
    """Three neighbouring frames `(H, W, 3)` RGB."""
    return [cv2.imread(str(path))[..., ::-1].copy() for path in sorted(folder.glob("*"))[40:43]]


def same_labels(ours: Tensor, theirs: Tensor, size: tuple[int, int]) -> float:
    one, other = (upsample(logits.float(), size).argmax(1) for logits in (ours, theirs))
    return (one == other).float().mean().item()


@FORMS
@pytest.mark.parametrize("dtype", HALVES)
@torch.inference_mode()
def test_the_shipped_networks_give_float32s_labels_of_real_images(form: Form, dtype: torch.dtype, shared: Path) -> None:
    model, info = load_checkpoint(DEFAULT_CHECKPOINT)
    networks = {"both": model, "stf": load_rows(DEFAULT_CHECKPOINT)["stf"][0]}
    preprocess = Preprocessor(info.normalization, 120, CPU)
    frames = [preprocess(image) for image in photographs(shared / "camvid" / "val")]
    for name, network in networks.items():
        exact, half = (form(network, [frame.to(each) for frame in frames]) for each in (torch.float32, dtype))
        for query in (1, 2):
            ours = half(query)
            assert ours.dtype == dtype
            assert same_labels(ours, exact(query), (360, 480)) >= LEAST_EQUAL, (name, query)


@pytest.mark.parametrize("window", ["causal", "centered"])
def test_the_engine_gives_float32s_labels_and_confidence_in_bfloat16(window: Any, shared: Path) -> None:
    found = []
    for precision in ("float32", "bfloat16"):
        config = StreamConfig(window, short_side=120, device="cpu", precision=precision)
        engine = StreamingSegmenter.from_checkpoint(DEFAULT_CHECKPOINT, config)
        engine.warm_up((360, 480))
        for number, image in enumerate(photographs(shared / "camvid" / "val")):
            result = engine.step(image, number * 10**8)
        assert result is not None and result.confidence is not None
        found.append(result)
    assert (found[0].labels == found[1].labels).mean() >= LEAST_EQUAL
    assert np.abs(found[0].confidence.astype(int) - found[1].confidence).mean() <= 0.01 * 255


STFS = [
    None,
    STFConfig((4, 3), (6, 6), heads=1, feedforward=6),
    STFConfig((2, 2), (6, 6), frames=2, depth=2, heads=2, feedforward=6, stride=2),
    STFConfig((3, 4), (6, 6), heads=2, feedforward=6, stride=3, sharpness=0, fading=1),
]
MARS = [None, MARConfig(CLASSES, 3), MARConfig(CLASSES, 3, 3, residual=True)]


@FORMS
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("mar", MARS)
@pytest.mark.parametrize("stf", STFS)
@torch.inference_mode()
def test_every_shape_of_stf_and_mar_runs_in_half_precision(
    pixel_base: str, stf: STFConfig | None, mar: MARConfig | None, dtype: torch.dtype, form: Form
) -> None:
    model = build_segmenter(SegmenterConfig(pixel_base, CLASSES, 2, stf, mar)).eval()
    torch.nn.init.normal_(model.classifier.linear.weight)
    frames = list(torch.randn(model.window_frames, 2, 3, 11, 13))
    exact, half = (form(model, [frame.to(each) for frame in frames]) for each in (torch.float32, dtype))
    for query in range(model.window_frames):
        ours, theirs = half(query), exact(query)
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=0.05 * theirs.abs().max().item())


# One of each kind, as small as it can be. VGG-16 is convolutions alone, and too large to be run here.
KINDS: dict[str, Callable[[], BaseNetwork]] = {
    "efficientnet": partial(catalog.efficientnet_lite, "lite0"),
    "pspnet": partial(catalog.pspnet, 18, 32),
    "deeplabv3": partial(catalog.deeplabv3, 18, 32),
    "upernet_swin": partial(catalog.upernet_swin, "tiny", 7, 32),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> VideoSegmenter:
    """A network on each kind of base, with STF and MAR."""
    monkeypatch.setitem(BASES, "small", KINDS[request.param])
    stf = STFConfig((4, 3), (6, 6), heads=2, feedforward=6, stride=2)
    model = build_segmenter(SegmenterConfig("small", CLASSES, 1, stf, MARConfig(CLASSES, 3)))
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def test_every_kind_of_base_runs_in_half_precision_plain_and_folded(kind: VideoSegmenter) -> None:
    images = torch.randn(1, 3, 65, 97)
    network = StreamingNetwork(kind)
    before = kind.features(images)
    for dtype in HALVES:
        for base in (network.base, kind.base):
            ours = copy.deepcopy(base).to(dtype)(images.to(dtype))
            assert ours.dtype == dtype
            assert (ours.float() - before).norm() <= 0.05 * before.norm()


class OneDevice(TorchDispatchMode):
    """Refuses what a GPU refuses: an operation on tensors of two devices, one without dimensions aside.

    Counts what no CUDA graph may hold: copies between devices, and numbers that the host waits for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.crossings: list[str] = []

    def __torch_dispatch__(
        self, function: OpOverload, types: Sequence[type], arguments: tuple[Any, ...] = (), names: Any = None
    ) -> Any:
        result = function(*arguments, **(names or {}))
        self.operations += 1
        given = [leaf for leaf in tree_leaves((arguments, names)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        name = function._schema.name
        devices = {tensor.device.type for tensor in given if tensor.dim()}
        if name in ("aten::_to_copy", "aten::copy_"):
            if len({tensor.device.type for tensor in (*given, *made)}) > 1:
                self.crossings.append(name)
        elif len(devices) > 1:
            raise RuntimeError(f"{name} of tensors on {sorted(devices)}")
        if name in ("aten::_local_scalar_dense", "aten::nonzero") or any(tensor.device == CPU for tensor in made):
            self.crossings.append(name)
        return result


@pytest.mark.parametrize("name", sorted(BASES))
@torch.inference_mode()
def test_every_base_makes_its_tensors_where_it_is(name: str) -> None:
    dtype = torch.float16
    model = empty_segmenter(SegmenterConfig(name, CLASSES, stf=STFConfig((4, 4)), mar=MARConfig(CLASSES)))
    model.eval().to(dtype)
    with OneDevice() as device:
        images = torch.empty(1, 3, 3, 65, 97, dtype=dtype, device=META)
        logits = model(images)
    assert device.operations > 50
    assert (logits.device, logits.dtype, tuple(logits.shape)) == (META, dtype, (1, CLASSES, 65, 97))


def can_be_captured(model: VideoSegmenter, images: Tensor) -> bool:
    """Whether a CUDA graph could hold what the engine does with `images`, once it has done it."""
    network = streaming_network(model, images.device, images.dtype)
    for _ in range(2):
        with OneDevice() as device:
            logits = network.predict([network.frame(images)] * network.window_frames, network.window_frames - 1)
    assert device.operations
    assert (logits.device, logits.dtype) == (images.device, images.dtype)
    return not device.crossings


@torch.inference_mode()
def test_networks_on_every_kind_of_base_can_be_captured(kind: VideoSegmenter) -> None:
    assert can_be_captured(kind, torch.empty(2, 3, 65, 97, dtype=torch.float16, device=META))


@pytest.mark.parametrize("mar", MARS)
@pytest.mark.parametrize("stf", STFS)
@torch.inference_mode()
def test_every_shape_of_stf_and_mar_can_be_captured(
    pixel_base: str, stf: STFConfig | None, mar: MARConfig | None
) -> None:
    model = build_segmenter(SegmenterConfig(pixel_base, CLASSES, 2, stf, mar)).eval()
    assert can_be_captured(model, torch.empty(1, 3, 11, 13, dtype=torch.float16, device=META))


@pytest.mark.parametrize("most", [2**26, 2**12])
@torch.inference_mode()
def test_pixels_and_labels_stay_where_the_network_is(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_map, "MOST_ON_GPU", most)
    with OneDevice():
        pixels = torch.empty(3, 72, 100, dtype=torch.uint8, device=META)
        assert resize_on_device(pixels, (36, 50)).device == META
        logits = torch.empty(1, CLASSES, 9, 13, dtype=torch.float16, device=META)
        found = label_map.on_device(logits, (72, 100), True)
    assert (found.device, found.dtype, tuple(found.shape)) == (META, torch.uint8, (2, 72, 100))


@pytest.mark.parametrize("dtype", HALVES)
@torch.inference_mode()
def test_a_place_whose_features_are_all_alike_has_no_direction_and_not_nan(dtype: torch.dtype) -> None:
    features = torch.zeros(1, 4, 2, 2, dtype=dtype)
    features[:, :, 0] = 3
    assert torch.equal(direction(features), torch.zeros_like(features))


@pytest.mark.parametrize("dtype", HALVES)
@torch.inference_mode()
def test_memory_scores_beyond_half_precision_choose_the_key_that_float32_chooses(dtype: torch.dtype) -> None:
    mar = MAR(4, MARConfig(2, 2)).eval()
    for chain in (mar.theta, mar.phi):
        for linear in chain:
            torch.nn.init.eye_(linear.weight)  # type: ignore[arg-type]
    # Scores of 66620 and 66560: more than float16 holds, and one number in bfloat16.
    keys = torch.tensor([[[130.0, 1, 0, 0], [0, 1, 0, 0]], [[130.0, 0, 0, 0], [0, 2, 0, 0]]])
    mar.set_memory(keys, torch.randn(2, 1, 4))
    features = torch.tensor([512.0, 60, 0, 0]).view(1, 4, 1, 1)
    expected = mar(features)
    for network in (mar, FoldedMAR(mar)):
        found = copy.deepcopy(network).to(dtype)(features.to(dtype))
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.05)
