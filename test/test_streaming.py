"""A stream of frames through the engine: the same labels as the whole network on each window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stmem_ros.checkpoint import CheckpointInfo, Normalization
from stmem_ros.decode import ImageError
from stmem_ros.labels import LabelSet
from stmem_ros.network import MARConfig, SegmenterConfig, STFConfig, VideoSegmenter, build_segmenter
from stmem_ros.preprocess import Preprocessor, network_size
from stmem_ros.streaming import DeviceError, ResetReason, StreamConfig, StreamingSegmenter, resolve_device

CLASSES = 6
SIZE = (70, 94)
SECOND = 1_000_000_000
PERIOD = SECOND // 15


def network(
    base: str, stf: bool = True, mar: bool = True, window_frames: int = 3
) -> tuple[VideoSegmenter, CheckpointInfo]:
    torch.manual_seed(5)
    config = SegmenterConfig(
        base,
        CLASSES,
        stf=STFConfig((16, 16), (8, 8), window_frames, feedforward=8) if stf else None,
        mar=MARConfig(CLASSES, 3) if mar else None,
    )
    model = build_segmenter(config).eval()
    with torch.no_grad():
        model.classifier.linear.weight.normal_()
    labels = LabelSet([str(k) for k in range(CLASSES)], [(k, k, k) for k in range(CLASSES)])
    return model, CheckpointInfo(config, labels, Normalization((127,) * 3, (128,) * 3), 64)


def frames(count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    random = np.random.default_rng(count)
    return [random.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]


def whole_network_labels(
    model: VideoSegmenter, info: CheckpointInfo, window: list[np.ndarray], query: int
) -> np.ndarray:
    """What the plain network says of frame `query` of a window of images."""
    preprocess = Preprocessor(info.normalization, info.short_side, torch.device("cpu"))
    with torch.inference_mode():
        features = torch.stack([model.features(preprocess(image)) for image in window], 1)
        logits = model.predict(features, query)
        full = torch.nn.functional.interpolate(logits, window[query].shape[:2], mode="bilinear", align_corners=False)
    return full.argmax(1)[0].numpy()


def test_causal_labels_come_at_once_from_the_frame_and_those_before_it(pixel_base: str) -> None:
    model, info = network(pixel_base)
    engine = StreamingSegmenter(model, info, StreamConfig(window="causal"))
    images = frames(6)
    for index, image in enumerate(images):
        result = engine.step(image, index * PERIOD, "camera")
        assert result is not None
        assert (result.stamp_ns, result.frame_id, result.labels.shape) == (index * PERIOD, "camera", SIZE)
        window = [images[max(0, index - back)] for back in (2, 1, 0)]
        np.testing.assert_array_equal(result.labels, whole_network_labels(model, info, window, 2))


def test_centered_labels_come_one_frame_later_from_both_neighbours(pixel_base: str) -> None:
    model, info = network(pixel_base)
    engine = StreamingSegmenter(model, info, StreamConfig(window="centered"))
    images = frames(6)
    results = [engine.step(image, index * PERIOD) for index, image in enumerate(images)]
    assert results[0] is None
    results = [*results[1:], engine.flush()]
    for index, result in enumerate(results):
        assert result is not None and result.stamp_ns == index * PERIOD
        assert result.image is images[index]
        window = [images[min(max(0, index + offset), 5)] for offset in (-1, 0, 1)]
        np.testing.assert_array_equal(result.labels, whole_network_labels(model, info, window, 1))
    assert engine.flush() is None


def test_the_middle_of_an_even_window_is_the_later_of_two_as_in_training(pixel_base: str) -> None:
    model, info = network(pixel_base, window_frames=4)
    engine = StreamingSegmenter(model, info, StreamConfig(window="centered"))
    images = frames(5)
    results = [engine.step(image, index * PERIOD) for index, image in enumerate(images)][1:]
    for index, result in enumerate(results):
        assert result is not None and result.stamp_ns == index * PERIOD
        window = [images[max(0, index + offset)] for offset in (-2, -1, 0, 1)]
        np.testing.assert_array_equal(result.labels, whole_network_labels(model, info, window, 2))


@pytest.mark.parametrize("size", [(64, 80), (94, 70)])
def test_cameras_of_other_sizes_on_the_same_network_change_nothing(pixel_base: str, size: tuple[int, int]) -> None:
    model, info = network(pixel_base)
    engine = StreamingSegmenter(model, info, StreamConfig(window="centered"))
    alone, other = engine.sibling(), engine.sibling()
    images, others = frames(3), frames(3, size)
    expected = [alone.step(image, index * PERIOD) for index, image in enumerate(images)] + [alone.flush()]
    found = []
    for index in range(3):
        found.append(engine.step(images[index], index * PERIOD))
        other.step(others[index], index * PERIOD)
    found.append(engine.flush())
    for one, two in zip(found[1:], expected[1:], strict=True):
        assert one is not None and two is not None
        np.testing.assert_array_equal(one.labels, two.labels)


@pytest.mark.parametrize("window", ["causal", "centered"])
def test_without_stf_every_label_comes_at_once_from_its_own_frame(pixel_base: str, window: str) -> None:
    model, info = network(pixel_base, stf=False)
    engine = StreamingSegmenter(model, info, StreamConfig(window=window))
    for index, image in enumerate(frames(3)):
        result = engine.step(image, index * PERIOD)
        assert result is not None
        np.testing.assert_array_equal(result.labels, whole_network_labels(model, info, [image], 0))


def test_the_base_network_runs_once_a_frame(pixel_base: str) -> None:
    model, info = network(pixel_base)
    engine = StreamingSegmenter(model, info)
    calls = []
    engine.network.base.register_forward_hook(lambda *_: calls.append(1))
    for index, image in enumerate(frames(5)):
        engine.step(image, index * PERIOD)
    assert len(calls) == 5


FORGETTING = {
    "backward stamp": (ResetReason.BACKWARD, {"stamp_ns": PERIOD}),
    "gap": (ResetReason.GAP, {"stamp_ns": 2 * PERIOD + SECOND + 1}),
    "other size": (ResetReason.SIZE, {"size": (80, 94)}),
    "other frame_id": (ResetReason.FRAME_ID, {"frame_id": "rear"}),
}


@pytest.mark.parametrize("name", FORGETTING)
def test_a_frame_that_cannot_follow_starts_a_new_window(pixel_base: str, name: str) -> None:
    reason, change = FORGETTING[name]
    model, info = network(pixel_base)
    engine = StreamingSegmenter(model, info, StreamConfig(max_gap=1.0))
    for index, image in enumerate(frames(3)):
        engine.step(image, index * PERIOD, "front")
    newcomer = frames(1, change.get("size", SIZE))[0]
    result = engine.step(newcomer, change.get("stamp_ns", 3 * PERIOD), change.get("frame_id", "front"))
    assert engine.last_reset is reason
    assert result is not None
    np.testing.assert_array_equal(result.labels, whole_network_labels(model, info, [newcomer] * 3, 2))


@pytest.mark.parametrize(
    ("skipped", "stamp", "reason"),
    [
        ([SECOND, 2 * SECOND], 3 * SECOND, None),
        ([], 3 * SECOND, ResetReason.GAP),
        ([2 * SECOND], 2 * SECOND + PERIOD, ResetReason.GAP),
        ([-PERIOD], PERIOD, ResetReason.BACKWARD),
    ],
)
def test_skipped_frames_leave_no_gap_but_hide_none(
    pixel_base: str, skipped: list[int], stamp: int, reason: ResetReason | None
) -> None:
    engine = StreamingSegmenter(*network(pixel_base), StreamConfig(max_gap=1.0))
    image = frames(1)[0]
    engine.step(image, 0)
    engine.step(image, stamp, skipped=skipped)
    assert engine.last_reset is reason


def test_equal_stamps_and_a_gap_of_exactly_max_gap_go_on(pixel_base: str) -> None:
    engine = StreamingSegmenter(*network(pixel_base), StreamConfig(max_gap=1.0))
    for stamp in (0, 0, SECOND):
        engine.step(frames(1)[0], stamp)
        assert engine.last_reset is None


@pytest.mark.parametrize("stf", [False, True])
@pytest.mark.parametrize("window", ["causal", "centered"])
def test_warming_up_runs_all_that_a_frame_runs_and_leaves_no_trace(
    pixel_base: str, window: str, stf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = StreamingSegmenter(*network(pixel_base, stf=stf), StreamConfig(window=window))  # type: ignore[arg-type]
    ran: list[tuple[str, tuple[int, ...]]] = []

    def watch(name: str) -> None:
        own = getattr(engine.network, name)

        def seen(*inputs: Any) -> Any:
            result = own(*inputs)
            ran.append((name, tuple((result if name == "predict" else result.features).shape)))
            return result

        monkeypatch.setattr(engine.network, name, seen)

    watch("frame")
    watch("predict")
    engine.warm_up(SIZE)
    warmed = set(ran)
    for index, image in enumerate(frames(3)):
        engine.step(image, index * PERIOD)
    assert {name for name, _ in warmed} == {"frame", "predict"}
    assert set(ran) == warmed
    assert engine.last_reset is None


def test_reset_forgets_and_says_nothing_of_the_next_frame(pixel_base: str) -> None:
    model, info = network(pixel_base)
    engine = StreamingSegmenter(model, info)
    first, second = frames(2)
    engine.step(first, 0)
    engine.reset()
    result = engine.step(second, PERIOD)
    assert engine.last_reset is None and result is not None
    np.testing.assert_array_equal(result.labels, whole_network_labels(model, info, [second] * 3, 2))


def test_a_centered_frame_that_waited_is_dropped_when_the_stream_jumps_back(pixel_base: str) -> None:
    engine = StreamingSegmenter(*network(pixel_base), StreamConfig(window="centered"))
    images = frames(4)
    assert engine.step(images[0], 10 * PERIOD) is None
    assert engine.step(images[1], 0) is None
    result = engine.step(images[2], PERIOD)
    assert result is not None and result.stamp_ns == 0


def test_confidence_is_the_probability_of_the_label(pixel_base: str) -> None:
    model, info = network(pixel_base, stf=False, mar=False)
    engine = StreamingSegmenter(model, info)
    image = frames(1)[0]
    result = engine.step(image, 0)
    assert result is not None and result.confidence is not None
    with torch.inference_mode():
        logits = model.classifier(model.features(engine.preprocess(image)))
        full = torch.nn.functional.interpolate(logits, SIZE, mode="bilinear", align_corners=False)
    expected = full.softmax(1).max(1).values[0].numpy() * 255
    assert np.abs(result.confidence - expected).max() <= 0.5 + 1e-3
    without = engine.step(image, 1, confidence=False)
    assert without is not None and without.confidence is None


def test_memory_does_not_grow_with_the_stream(pixel_base: str) -> None:
    engine = StreamingSegmenter(*network(pixel_base), StreamConfig(window="centered"))
    for index in range(20):
        engine.step(np.zeros((*SIZE, 3), np.uint8), index * PERIOD)
        assert len(engine.state.features) == 3 and len(engine.state.waiting) <= 1


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((720, 960), 360, (360, 480)),
        ((960, 720), 360, (480, 360)),
        ((272, 640), 360, (360, 847)),
        ((540, 960), 0, (540, 960)),
        ((50, 80), 0, (64, 80)),
        ((4, 4000), 600, (64, 4000)),  # a strip: enlarging it would take all memory there is
        ((3000, 2), 600, (3000, 64)),
        ((100, 1000), 360, (144, 1440)),
        ((50, 4000), 32, (64, 2560)),
    ],
)
def test_the_network_sees_the_asked_short_side_at_the_cameras_aspect(
    size: tuple[int, int], short_side: int, expected: tuple[int, int]
) -> None:
    assert network_size(size, short_side) == expected


def test_preprocessing_is_the_checkpoints_normalisation() -> None:
    preprocess = Preprocessor(Normalization((10, 20, 30), (2, 4, 8)), 0, torch.device("cpu"))
    image = np.random.default_rng(0).integers(0, 256, (64, 66, 3), np.uint8)
    expected = (image.transpose(2, 0, 1) - np.array([10, 20, 30])[:, None, None]) / np.array([2, 4, 8])[:, None, None]
    np.testing.assert_allclose(preprocess(image)[0].numpy(), expected, atol=1e-5)


def test_an_image_that_would_take_all_memory_is_refused_before_the_network_sees_it(pixel_base: str) -> None:
    engine = StreamingSegmenter(*network(pixel_base), StreamConfig(short_side=-1))
    with pytest.raises(ImageError, match="would see it at 2100x4096 pixels, and takes at most 8388608: set short_side"):
        engine.step(np.zeros((4096, 2100, 3), np.uint8), 0)
    assert engine.step(frames(1, (64, 80))[0], 1) is not None


def test_a_read_only_image_is_taken_too(pixel_base: str) -> None:
    image = frames(1, (64, 80))[0]
    image.flags.writeable = False
    assert StreamingSegmenter(*network(pixel_base), StreamConfig(short_side=-1)).step(image, 0) is not None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"window": "sideways"}, "window is 'sideways'"),
        ({"max_gap": 0.0}, "max_gap is 0.0"),
        ({"max_gap": float("nan")}, "max_gap is nan"),
        ({"short_side": 63}, "short_side is 63"),
    ],
)
def test_unusable_settings_are_named(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        StreamConfig(**settings)


@pytest.mark.parametrize("device", ["gpu", "cpu:x", "mps:0x", ""])
def test_an_unknown_device_is_named(device: str) -> None:
    with pytest.raises(DeviceError, match="it must be auto, cpu, cuda or cuda:N"):
        resolve_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_cuda_without_a_gpu_says_what_to_do() -> None:
    with pytest.raises(DeviceError, match="use device auto or cpu"):
        resolve_device("cuda")
