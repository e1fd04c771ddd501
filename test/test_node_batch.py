"""Several cameras through one network at once: each gets the labels that it would get alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stmem_ros.checkpoint import CheckpointInfo, Normalization
from stmem_ros.labels import LabelSet
from stmem_ros.network import MARConfig, SegmenterConfig, STFConfig, build_segmenter
from stmem_ros.streaming import StreamConfig, StreamingSegmenter, batches, step_together
from stmem_ros.streaming.batch import NetworkError, Step

CLASSES = 6
PERIOD = 66_000_000


def engine(base: str, window: str = "causal", stride: int = 1) -> StreamingSegmenter:
    torch.manual_seed(5)
    stf = STFConfig((8, 8), (8, 8), 3, feedforward=8, stride=stride)
    config = SegmenterConfig(base, CLASSES, stf=stf, mar=MARConfig(CLASSES, 3))
    model = build_segmenter(config).eval()
    with torch.no_grad():
        model.classifier.linear.weight.normal_()
    labels = LabelSet([str(k) for k in range(CLASSES)], [(k, k, k) for k in range(CLASSES)])
    info = CheckpointInfo(config, labels, Normalization((127,) * 3, (128,) * 3), 64)
    return StreamingSegmenter(model, info, StreamConfig(window=window))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("window", ["causal", "centered"])
def test_cameras_that_step_together_get_the_labels_of_single_steps(pixel_base: str, window: str, stride: int) -> None:
    first = engine(pixel_base, window, stride)
    together, alone = ([first.sibling() for _ in range(3)] for _ in range(2))
    random = np.random.default_rng(1)
    # The third has another size, the second starts later and starts again in between.
    sizes = [(70, 94), (70, 94), (80, 64)]
    for index in range(5):
        steps, expected = [], []
        for camera, size in enumerate(sizes):
            if camera == 1 and index == 0:
                continue
            image = random.integers(0, 256, (*size, 3), np.uint8)
            stamp = 0 if (camera, index) == (1, 3) else (index + 1) * PERIOD
            steps.append(Step(together[camera], together[camera].prepare(image, stamp), camera == 0))
            expected.append(alone[camera].step(image, stamp, confidence=camera == 0))
        for result, own in zip(step_together(steps), expected, strict=True):
            assert (result is None) == (own is None)
            if result is not None and own is not None:
                assert result.stamp_ns == own.stamp_ns and result.image is own.image
                np.testing.assert_array_equal(result.labels, own.labels)
                assert (result.confidence is None) == (own.confidence is None)


def test_frames_of_one_size_are_one_pass_through_the_network(pixel_base: str) -> None:
    first = engine(pixel_base)
    passes = []
    first.network.base.register_forward_hook(lambda module, inputs, output: passes.append(len(inputs[0])))
    image = np.zeros((64, 80, 3), np.uint8)
    streams = [first.sibling() for _ in range(4)]
    step_together([Step(stream, stream.prepare(image, 0), False) for stream in streams])
    assert passes == [4]


@pytest.mark.parametrize("window", ["causal", "centered"])
def test_where_no_labels_are_wanted_the_window_moves_on_and_nothing_is_predicted(
    pixel_base: str, monkeypatch: pytest.MonkeyPatch, window: str
) -> None:
    first = engine(pixel_base, window)
    seen, alone, unseen = (first.sibling() for _ in range(3))
    predicted: list[int] = []
    predict = first.network.predict

    def counted(features: Any, query: int) -> Any:
        predicted.append(len(features[0].tensors()[0]))
        return predict(features, query)

    random = np.random.default_rng(3)
    for index in range(6):
        image = random.integers(0, 256, (64, 80, 3), np.uint8)
        expected = alone.step(image, index * PERIOD)
        with monkeypatch.context() as patch:
            patch.setattr(first.network, "predict", counted)
            steps = [Step(stream, stream.prepare(image, index * PERIOD)) for stream in (seen, unseen)]
            steps[1] = steps[1]._replace(labels=index == 4)
            results = step_together(steps)
        due = expected is not None
        assert [result is not None for result in results] == [due, due and index == 4]
        for result in results:
            if result is not None and expected is not None:
                assert result.stamp_ns == expected.stamp_ns
                np.testing.assert_array_equal(result.labels, expected.labels)
    assert predicted == ([1, 1, 1, 1, 2, 1] if window == "causal" else [1, 1, 1, 2, 1])


def test_a_limit_splits_a_batch_and_an_export_goes_alone(pixel_base: str) -> None:
    first = engine(pixel_base)
    image = np.zeros((64, 80, 3), np.uint8)
    steps = [Step(stream, stream.prepare(image, 0), False) for stream in (first.sibling() for _ in range(5))]
    assert [len(group) for group in batches(steps, 2)] == [2, 2, 1]
    for step in steps:
        step.stream.most_together = 1
    assert [len(group) for group in batches(steps, 0)] == [1] * 5


def test_a_cameras_window_holds_its_own_features_alone(pixel_base: str) -> None:
    first = engine(pixel_base)
    streams = [first.sibling() for _ in range(3)]
    image = np.zeros((64, 80, 3), np.uint8)
    step_together([Step(stream, stream.prepare(image, 0), False) for stream in streams])
    for tensor in streams[0].state.features[0].tensors():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    assert all(stream.network is first.network for stream in streams)


def states(streams: list[StreamingSegmenter]) -> list[tuple[object, ...]]:
    return [
        (
            id(state.newest),
            state.frames,
            [id(frame) for frame in state.features],
            [id(frame) for frame in state.waiting],
        )
        for state in (stream.state for stream in streams)
    ]


@pytest.mark.parametrize("place", ["frame", "predict", "one camera's logits"])
@pytest.mark.parametrize("window", ["causal", "centered"])
def test_where_a_pass_fails_no_window_has_moved_and_the_same_frames_can_go_one_by_one(
    pixel_base: str, monkeypatch: pytest.MonkeyPatch, window: str, place: str
) -> None:
    first = engine(pixel_base, window)
    streams, alone = ([first.sibling() for _ in range(3)] for _ in range(2))
    random = np.random.default_rng(2)
    images = [random.integers(0, 256, (64, 80, 3), np.uint8) for _ in range(4)]
    for index, image in enumerate(images[:3]):
        step_together([Step(stream, stream.prepare(image, index * PERIOD), False) for stream in streams])
        for stream in alone:
            stream.step(image, index * PERIOD, confidence=False)
    before = states(streams)
    network = first.network
    own = getattr(network, "frame" if place == "frame" else "predict")

    def fail_together(*arguments: Any) -> Any:
        result = own(*arguments)
        if place == "one camera's logits":
            result[1] = torch.nan
        elif len(result.features if place == "frame" else result) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return result

    steps = [Step(stream, stream.prepare(images[3], 3 * PERIOD), False) for stream in streams]
    with monkeypatch.context() as patch:
        patch.setattr(network, own.__name__, fail_together)
        with pytest.raises((torch.cuda.OutOfMemoryError, NetworkError)):
            step_together(steps)
    assert states(streams) == before
    for step, stream in zip(steps, alone, strict=True):
        (result,) = step_together([step])
        expected = stream.step(images[3], 3 * PERIOD, confidence=False)
        assert result is not None and expected is not None and result.stamp_ns == expected.stamp_ns
        np.testing.assert_array_equal(result.labels, expected.labels)
