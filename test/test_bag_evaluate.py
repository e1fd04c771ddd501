"""`bag evaluate`: a bag's figures are those of the same frames in a folder, and nothing is lost without a line."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer

from stmem_ros.bag import __main__ as bag
from stmem_ros.bag.io.typestore import ros2_typestore
from stmem_ros.checkpoint import CheckpointInfo, Normalization, save_checkpoint
from stmem_ros.labels import LabelSet
from stmem_ros.network import SegmenterConfig, STFConfig, build_segmenter
from stmem_ros.streaming import StreamingSegmenter
from training import evaluate as folder_command
from training.bag import evaluate as command
from training.bag.evaluator import evaluate_bag
from training.bag.frames import Frame, Labelled
from training.bag.result import FIGURE_NAMES, SequenceResult, added
from training.bag.settings import EvaluationSettings
from training.bag.shots import FlickerMap, ShotKeeper
from training.measure.flow import Motion, pixel_grid
from training.measure.metrics import Accuracy
from training.measure.quality import Quality
from training.measure.temporal import MotionTracker

SIZE = (64, 80)
START_NS = 1_700_000_000_000_000_000
STEP_NS = 66_666_667
CAMERA, TRUTH, LABELS = "/camera/image_raw", "/gt/labels", "/segmentation/labels"
CLASSES = LabelSet(("ground", "disc", "box"), ((90, 90, 90), (220, 40, 40), (40, 60, 200)))
COLORS = CLASSES.lookup_table()
NORMALIZATION = Normalization((80.0, 90.0, 100.0), (40.0, 80.0, 120.0))
STF = STFConfig(block=(8, 8), positional_grid=(8, 8), heads=1, feedforward=4)
TYPES = ros2_typestore()

Message = tuple[str, int, dict[str, Any]]


def scene(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Ids: a disc that moves to the right, and a box."""
    labels = np.zeros(size, np.uint8)
    cv2.circle(labels, (14 + number % 20, 20), 10, 1, -1)
    labels[36:60, 40:70] = 2
    return labels


def picture(labels: np.ndarray) -> np.ndarray:
    """RGB of which the test's network makes just these labels."""
    return COLORS[labels]


def raw(pixels: np.ndarray) -> dict[str, Any]:
    height, width = pixels.shape[:2]
    encoding = "mono8" if pixels.ndim == 2 else "rgb8"
    fields = {"height": height, "width": width, "encoding": encoding, "is_bigendian": 0}
    return fields | {"step": pixels.size // height, "data": np.ascontiguousarray(pixels).reshape(-1)}


def compressed(pixels: np.ndarray, ending: str) -> dict[str, Any]:
    return {"format": ending[1:], "data": cv2.imencode(ending, pixels)[1].reshape(-1)}


def class_list(names: dict[int, str], topic: str = "/segmentation/label_info", stamp: int = START_NS) -> Message:
    """What a node says of its labels."""
    kind = TYPES.types["vision_msgs/msg/VisionClass"]
    return topic, stamp, {"class_map": [kind(*each) for each in names.items()], "threshold": 0.0}


def stamp_of(number: int) -> int:
    return START_NS + number * STEP_NS


def drive(count: int = 4, predicted: Callable[[int], np.ndarray] = scene, truth: bool = True) -> list[Message]:
    """Frames that the network labels as `predicted` says, and their truth, `scene`."""
    messages: list[Message] = []
    for number in range(count):
        messages.append((CAMERA, stamp_of(number), raw(picture(predicted(number)))))
        if truth:
            messages.append((TRUTH, stamp_of(number), raw(scene(number))))
    return messages


def write_bag(path: Path, messages: Sequence[Message]) -> Path:
    """Recorded in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time, header = TYPES.types["builtin_interfaces/msg/Time"], TYPES.types["std_msgs/msg/Header"]
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}
        for place, (topic, stamp, fields) in enumerate(messages):
            kind = f"sensor_msgs/msg/{'Image' if 'encoding' in fields else 'CompressedImage'}"
            kind = "vision_msgs/msg/LabelInfo" if "class_map" in fields else kind
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=TYPES)
            message = TYPES.types[kind](header=header(stamp=time(*divmod(stamp, 10**9)), frame_id="camera"), **fields)
            writer.write(connections[topic], START_NS + place, TYPES.serialize_cdr(message, kind))
    return path


@pytest.fixture
def save(pixel_base: str, tmp_path: Path) -> Callable[..., Path]:
    """Writes a checkpoint that gives every pixel the class of the nearest colour, unless `modules` garble that."""

    def write(
        name: str = "network",
        labels: LabelSet = CLASSES,
        bias: Sequence[float] = (),
        trained: bool = True,
        **modules: Any,
    ) -> Path:
        """Not `trained`, the classifier's weights are random."""
        config = SegmenterConfig(pixel_base, len(labels), **modules)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = build_segmenter(config)
        colors = (torch.tensor(labels.palette) - torch.tensor(NORMALIZATION.mean)) / torch.tensor(NORMALIZATION.std)
        linear = model.classifier.linear
        with torch.no_grad():
            if trained:
                linear.weight[:, :3, 0, 0], linear.weight[:, 3:] = colors, 0
                linear.bias.copy_(-(colors**2).sum(1) / 2 + torch.tensor([*bias] or [0.0]))
            else:
                linear.weight.normal_(generator=torch.Generator().manual_seed(1))
        path = tmp_path / f"{name}.safetensors"
        save_checkpoint(path, model, CheckpointInfo(config, labels, NORMALIZATION, SIZE[0]))
        return path

    return write


@pytest.fixture
def network(save: Callable[..., Path]) -> Path:
    return save()


@pytest.fixture
def run(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[dict, str]]:
    """The command with the test's network and --json; asserts its status, returns what it wrote and stderr."""

    def call(expected: int, path: Path, *arguments: str | Path, checkpoint: bool = True) -> tuple[dict, str]:
        figures = tmp_path / "figures.json"
        own = ["--checkpoint", str(network)] if checkpoint else []
        words = ["evaluate", str(path), "--device", "cpu", "--json", str(figures), *own, *map(str, arguments)]
        status = bag.main(words)
        printed = capsys.readouterr()
        assert status == expected, printed
        assert "Traceback" not in printed.err
        assert figures.exists() == (status in (0, 3)) and not list(tmp_path.glob(".*partial"))
        return json.loads(figures.read_text()) if figures.exists() else {}, printed.err

    return call


def settings_for(network: Path, **changes: Any) -> EvaluationSettings:
    return EvaluationSettings(**{"truth_topics": (TRUTH,), "checkpoints": (network,), "device": "cpu"} | changes)


def write_folder(root: Path, labels: Callable[[int], np.ndarray], count: int, noise: int) -> tuple[Path, list[Message]]:
    """A data set of a 15 Hz video, and the messages of the same frames."""
    random = np.random.default_rng(1)
    messages: list[Message] = []
    for folder in ("val", "valannot"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        truth = labels(number)
        # What a window of frames makes of a light that changes tells where in it the frame stands.
        light = number % 3 * noise
        image = picture(truth).astype(int) + light + random.integers(-noise, noise + 1, (*truth.shape, 3))
        image = image.clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(root / "val" / f"drive_{2 * number:06d}.png"), image[..., ::-1])
        cv2.imwrite(str(root / "valannot" / f"drive_{2 * number:06d}.png"), truth)
        messages += [(CAMERA, stamp_of(number), raw(image)), (TRUTH, stamp_of(number), raw(truth))]
    classes = "\n".join(
        f"  - {{name: {name}, color: {list(color)}}}"
        for name, color in zip(CLASSES.names, CLASSES.palette, strict=True)
    )
    (root / "shapes.yaml").write_text(
        f'classes:\n{classes}\nvoid_ids: [255]\nframes: "{{split}}"\nlabels: "{{split}}annot"\nframe_rate: 30\n'
        "name_pattern: '(?P<sequence>[^_]+)_(?P<frame>\\d+)'\n"
    )
    return root, messages


def test_used_bits_of_16_bit_images(run: Callable[..., tuple[dict, str]], tmp_path: Path) -> None:
    messages = []
    for number in range(3):
        deep = picture(scene(number)).astype(np.uint16) << 4
        fields = raw(picture(scene(number))) | {"encoding": "rgb16", "step": 6 * deep.shape[1]}
        messages.append((CAMERA, stamp_of(number), fields | {"data": deep.view(np.uint8).reshape(-1)}))
        messages.append((TRUTH, stamp_of(number), raw(scene(number))))
    drive_bag = write_bag(tmp_path / "drive", messages)
    figures, error = run(0, drive_bag, "--truth-topic", TRUTH, "--used-bits", "12")
    assert next(iter(figures["figures"].values()))["miou"] == 100 and "16-bit" not in error
    figures, error = run(0, drive_bag, "--truth-topic", TRUTH)
    assert next(iter(figures["figures"].values()))["miou"] < 100
    assert f"{CAMERA}: 16-bit images with no pixel above 4095 of 65535" in error and "set --used-bits to 12" in error


def test_a_truth_of_masks_is_told_of(run: Callable[..., tuple[dict, str]], tmp_path: Path) -> None:
    messages = []
    for number in range(3):
        mask = np.where(scene(number) == 0, 0, 255).astype(np.uint8)
        messages += [(CAMERA, stamp_of(number), raw(picture(scene(number)))), (TRUTH, stamp_of(number), raw(mask))]
    _, error = run(0, write_bag(tmp_path / "drive", messages), "--truth-topic", TRUTH)
    assert (
        f"the ground truth of {CAMERA} has class 0 and void alone: if its label images are masks of 0 and 255" in error
    )


class TestFigures:
    def test_are_those_of_the_same_frames_in_a_folder(
        self, run: Callable[..., tuple[dict, str]], save: Callable[..., Path], tmp_path: Path
    ) -> None:
        def with_void(number: int) -> np.ndarray:
            labels = scene(number)
            labels[:3] = 255
            return labels

        network = save("stf", trained=False, stf=STF)
        root, messages = write_folder(tmp_path / "shapes", with_void, 18, noise=60)
        path = write_bag(tmp_path / "drive", messages)
        words = ["--dataset", root / "shapes.yaml", "--root", root, "--checkpoint", network, "--window", "both"]
        assert folder_command.main([*map(str, words), "--device", "cpu", "--json", str(tmp_path / "folder.json")]) == 0
        rows = json.loads((tmp_path / "folder.json").read_text())["rows"]
        for window, row in (("causal", "stf_causal"), ("centered", "stf")):
            options = ("--checkpoint", network, "--window", window, "--truth-topic", TRUTH)
            found, _ = run(0, path, *options, checkpoint=False)
            (figures,) = found["figures"].values()
            expected = rows[row]
            assert figures["miou"] == pytest.approx(expected["miou"], abs=0.01)
            assert figures["per_class_iou"] == pytest.approx(expected["per_class_iou"], abs=0.01)
            assert all(expected[name] is not None for name in ("vc16", "flow_consistency", "ece"))
            for name in FIGURE_NAMES.keys() & expected.keys():
                # The engine's confidence has 8 bits, so that some of it is in the next bin.
                assert figures[name] == pytest.approx(expected[name], abs=0.5 if name == "ece" else 0.02), name
        assert rows["stf"]["miou"] != pytest.approx(rows["stf_causal"]["miou"], abs=0.01)

    def test_by_hand(self, run: Callable[..., tuple[dict, str]], tmp_path: Path) -> None:
        def predicted(number: int) -> np.ndarray:
            return np.zeros_like(scene(0)) if number == 2 else scene(number)

        found, lines = run(0, write_bag(tmp_path / "drive", drive(4, predicted)), "--truth-topic", TRUTH)
        assert lines == ""
        wrong = int((scene(2) > 0).sum())
        figures = found["figures"]["network"]
        assert figures["pixel_accuracy"] == pytest.approx(100 * (1 - wrong / (4 * scene(0).size)))
        assert np.sum(figures["confusion"]) == 4 * scene(0).size
        assert figures["confusion"][1][0] == (scene(2) == 1).sum()
        (sequence,) = found["sequences"]
        frames = sequence["frames"]
        assert frames["stamp_ns"] == [stamp_of(number) for number in range(4)]
        assert frames["miou"][0] == frames["miou"][1] == frames["miou"][3] == 100.0
        assert frames["miou"][2] == pytest.approx(100 * (1 - wrong / scene(0).size) / 3)
        assert frames["consistency"][0] is None and frames["consistency"][2] < 100
        assert all(latency > 0 for latency in frames["latency_ms"])
        # Two of three steps change the labels from frame to frame.
        changed = [(predicted(number) != predicted(number - 1)).mean() for number in (1, 2, 3)]
        assert figures["changed"] == pytest.approx(100 * np.mean(changed))

    def test_add_up_over_blocks_and_bags(self, network: Path, tmp_path: Path) -> None:
        # 2 Hz, so three blocks of 10 s; the second bag has frames of another kind.
        random = np.random.default_rng(0)

        def noisy(number: int) -> np.ndarray:
            labels = scene(number)
            return np.where(random.random(labels.shape) < 0.1, 2, labels).astype(np.uint8)

        messages = [
            (topic, START_NS + (stamp - START_NS) // STEP_NS * 500_000_000, fields)
            for topic, stamp, fields in drive(45, noisy)
        ]
        (long,) = evaluate_bag(write_bag(tmp_path / "long", messages), settings_for(network))
        (short,) = evaluate_bag(write_bag(tmp_path / "short", drive(3, noisy)), settings_for(network))
        assert [(block.start_ns - START_NS) / 1e9 for block in long.blocks] == [0, 10, 20]
        engine = StreamingSegmenter.from_checkpoint(network)
        confusion = np.zeros((3, 3), np.int64)
        quality = Quality(3)
        pixels = [fields["data"].reshape(*SIZE, -1) for topic, _, fields in messages if topic == CAMERA]
        tracker = MotionTracker()
        for number, image in enumerate(pixels):
            found = engine.step(image, number)
            assert found is not None and found.confidence is not None
            truth = scene(number)
            np.add.at(confusion, (truth, found.labels), 1)
            motion = tracker.follow(image)
            quality.update_labels(found.labels, found.confidence.astype(np.float32) / 255, truth, number > 0, motion)
        figures = long.sums.figures()
        assert figures["miou"] == pytest.approx(Accuracy.of(confusion).miou, abs=1e-9)
        expected = {name: value for name, value in quality.to_dict().items() if value is not None}
        assert len(expected) == 7
        assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-9)
        both = added([long.sums, short.sums])
        np.testing.assert_array_equal(both.confusion, confusion + short.sums.confusion)
        for name, (top, bottom) in both.means.items():
            ours, theirs = long.sums.means[name], short.sums.means[name]
            assert (top, bottom) == pytest.approx((ours[0] + theirs[0], ours[1] + theirs[1]))

    def test_without_ground_truth_are_of_steadiness_and_confidence_alone(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path
    ) -> None:
        found, _ = run(0, write_bag(tmp_path / "drive", drive(4, truth=False)))
        assert not found["has_truth"]
        known = {name for name, value in found["figures"]["network"].items() if value is not None}
        assert known == {"flow_consistency", "confidence", "uncertain", "changed"}
        assert found["sequences"][0]["frames"]["miou"] == [None] * 4

    def test_of_frames_without_truth_are_left_out(self, run: Callable[..., tuple[dict, str]], tmp_path: Path) -> None:
        messages = [each for each in drive(4) if each[:2] not in [(TRUTH, stamp_of(1)), (TRUTH, stamp_of(2))]]
        found, lines = run(0, write_bag(tmp_path / "drive", messages), "--truth-topic", TRUTH)
        assert found["sequences"][0]["frames"]["miou"] == [100.0, None, None, 100.0]
        assert np.sum(found["figures"]["network"]["confusion"]) == 2 * scene(0).size
        assert lines == "bag evaluate: drive: 2 of 4 frames have a ground truth\n"


class TestTruth:
    @pytest.mark.parametrize("shift", [-900_000, 900_000])
    def test_is_matched_by_stamp_however_it_was_recorded(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path, shift: int
    ) -> None:
        messages = drive(5)
        truths = [(topic, stamp + shift, fields) for topic, stamp, fields in messages if topic == TRUTH]
        images = [each for each in messages if each[0] == CAMERA]
        found, _ = run(0, write_bag(tmp_path / "drive", [*reversed(truths), *images]), "--truth-topic", TRUTH)
        assert found["sequences"][0]["frames"]["miou"] == [100.0] * 5

    @pytest.mark.parametrize("name", ["{0}.png", "{1}.{2:09d}.png", "000007_{0}.PNG"])
    @pytest.mark.parametrize("own_folder", [False, True])
    def test_may_be_a_folder_of_files_named_by_stamp(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path, name: str, own_folder: bool
    ) -> None:
        folder = tmp_path / "truth" / ("drive" if own_folder else "")
        folder.mkdir(parents=True)
        for number in range(3):
            stamp = stamp_of(number)
            cv2.imwrite(str(folder / name.format(stamp, *divmod(stamp, 10**9))), scene(number))
        found, _ = run(0, write_bag(tmp_path / "drive", drive(3, truth=False)), "--truth", tmp_path / "truth")
        assert found["sequences"][0]["frames"]["miou"] == [100.0] * 3

    def test_may_have_the_ids_of_a_data_set(self, run: Callable[..., tuple[dict, str]], tmp_path: Path) -> None:
        ids = {"ground": [0], "disc": [1, 7], "box": [2]}
        document = {
            "classes": [
                {"name": name, "color": list(color), "label_ids": ids[name]}
                for name, color in zip(CLASSES.names, CLASSES.palette, strict=True)
            ],
            "void_ids": [9],
            "frames": "{split}",
            "labels": "{split}",
            "name_pattern": r"(?P<sequence>\w)(?P<frame>\d)",
        }
        (tmp_path / "shapes.yaml").write_text(yaml.safe_dump(document))
        truth = scene(0)
        truth[truth == 1] = 7
        truth[0] = 9
        messages = [(CAMERA, START_NS, raw(picture(scene(0)))), (TRUTH, START_NS, raw(truth))]
        path = write_bag(tmp_path / "drive", messages)
        found, _ = run(0, path, "--truth-topic", TRUTH, "--dataset", tmp_path / "shapes.yaml")
        assert found["figures"]["network"]["miou"] == 100.0
        assert np.sum(found["figures"]["network"]["confusion"]) == truth.size - SIZE[1]

    def test_of_a_bag_whose_stamps_come_twice_goes_with_its_own_frame(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path
    ) -> None:
        first = drive(30)
        other = [
            (topic, stamp, raw(picture(scene(9)) if topic == CAMERA else scene(9))) for topic, stamp, _ in drive(30)
        ]
        found, lines = run(0, write_bag(tmp_path / "drive", [*first, *other]), "--truth-topic", TRUTH)
        assert found["sequences"][0]["frames"]["miou"] == [100.0] * 60
        assert "windows began anew: the stamp went backwards (1 times)" in lines


class TestRecordedLabels:
    def messages(self, count: int, missing: Sequence[int] = ()) -> list[Message]:
        """Labels of which one row is wrong, at three quarters of certainty."""
        messages = drive(count)
        for number in range(count):
            if number not in missing:
                labels = scene(number)
                labels[5] = 2
                messages.append((LABELS, stamp_of(number), raw(labels)))
                confidence = np.full(SIZE, 191, np.uint8)
                messages.append(("/segmentation/confidence", stamp_of(number), raw(confidence)))
        return messages

    def test_are_one_more_network(self, run: Callable[..., tuple[dict, str]], tmp_path: Path) -> None:
        path = write_bag(tmp_path / "drive", self.messages(3))
        found, _ = run(0, path, "--truth-topic", TRUTH, "--labels-topic", LABELS)
        assert found["models"] == ["network", LABELS]
        assert found["figures"]["network"]["pixel_accuracy"] == 100.0
        assert found["figures"][LABELS]["pixel_accuracy"] == pytest.approx(100 - 100 / SIZE[0])
        assert found["figures"][LABELS]["confidence"] == pytest.approx(100 * 191 / 255)
        assert found["latency_ms"][LABELS] is None
        compared = {each["figure"]: each["difference"] for each in found["comparisons"]}
        assert compared["pixel_accuracy"] == pytest.approx(-100 / SIZE[0])

    def test_of_another_size_are_refused(self, run: Callable[..., tuple[dict, str]], tmp_path: Path) -> None:
        messages = [*drive(2, truth=False), (LABELS, stamp_of(0), raw(scene(0)[:32]))]
        _, line = run(1, write_bag(tmp_path / "drive", messages), "--labels-topic", LABELS)
        assert "is 80x32, its image 80x64" in line and line.count("\n") == 1

    def test_need_no_network_and_may_lack_frames(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: Path
    ) -> None:
        monkeypatch.setattr("training.bag.evaluator.DEFAULT_CHECKPOINT", network)
        path = write_bag(tmp_path / "drive", self.messages(4, missing=[1]))
        arguments = ("--truth-topic", TRUTH, "--labels-topic", LABELS)
        found, lines = run(3, path, *arguments, checkpoint=False)
        assert found["models"] == [LABELS]
        assert found["sequences"][0]["frames"]["stamp_ns"] == [stamp_of(number) for number in (0, 2, 3)]
        # The frame after the one that is missing has no frame before it.
        assert [value is None for value in found["sequences"][0]["frames"]["consistency"]] == [True, True, False]
        assert lines == f"bag evaluate: drive: 1 frames of {CAMERA} have no labels as {LABELS}\n"


OTHERS = {0: "floor", 1: "shelf", 2: "forklift", 255: "unknown"}


class TestClassList:
    """A bag's label_info says what its labels are."""

    def messages(self, *lists: Message, ending: str = "") -> list[Message]:
        messages = [*lists, *drive(3)]
        for number in range(3):
            pixels = scene(number)
            fields = compressed(pixels, ".png") if ending else raw(pixels)
            messages.append((LABELS + ending, stamp_of(number), fields))
        return messages

    @pytest.mark.parametrize("ending", ["", "/compressed"])
    def test_labels_alone_are_measured_in_its_classes(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path, ending: str
    ) -> None:
        path = write_bag(tmp_path / "drive", self.messages(class_list(OTHERS), ending=ending))
        arguments = ("--truth-topic", TRUTH, "--labels-topic", LABELS + ending)
        found, lines = run(0, path, *arguments, checkpoint=False)
        assert found["classes"] == ["floor", "shelf", "forklift"] and found["has_truth"]
        assert found["figures"][LABELS + ending]["miou"] == 100.0
        assert lines == ""
        assert "/segmentation/label_info" in found["settings"]["its values"]

    def test_ids_that_it_leaves_out_are_classes_without_a_name(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path
    ) -> None:
        path = write_bag(tmp_path / "drive", self.messages(class_list({0: "floor", 2: "forklift"})))
        found, _ = run(0, path, "--truth-topic", TRUTH, "--labels-topic", LABELS, checkpoint=False)
        assert found["classes"] == ["floor", "class_1", "forklift"]

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["--window", "centered"], "--window is of a network, and none is measured: give --checkpoint too"),
            (["--precision", "bfloat16", "--short-side", "96"], "--short-side and --precision are of a network"),
            (["--vc-rule", "vspw"], "--vc-rule is of a ground truth: give --truth-topic or --truth too"),
            (["--dataset", "camvid"], "--dataset is of a ground truth"),
        ],
    )
    def test_an_option_that_would_change_no_figure_is_refused(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path, arguments: list[str], reason: str
    ) -> None:
        path = write_bag(tmp_path / "drive", self.messages(class_list(OTHERS)))
        _, line = run(1, path, "--labels-topic", LABELS, *arguments, checkpoint=False)
        assert reason in line and line.count("\n") == 1

    def test_that_of_the_truth_serves_too(self, run: Callable[..., tuple[dict, str]], tmp_path: Path) -> None:
        path = write_bag(tmp_path / "drive", self.messages(class_list(OTHERS, "/gt/label_info")))
        found, _ = run(0, path, "--truth-topic", TRUTH, "--labels-topic", LABELS, checkpoint=False)
        assert found["classes"] == ["floor", "shelf", "forklift"]

    @pytest.mark.parametrize(
        ("lists", "reason"),
        [
            ([class_list(OTHERS), class_list({0: "floor", 1: "cat"}, stamp=stamp_of(9))], "lists other classes from"),
            ([class_list({0: "floor", 300: "cat"})], "lists class id 300; ids in label images are 0 to 254"),
            ([class_list({})], "lists no class"),
            ([class_list({0: "floor", 1: "floor", 2: "cat"})], "class 'floor' is listed twice"),
            ([class_list({0: "floor", 1: "cat"})], "(of the 2 classes of /segmentation/label_info of"),
            ([class_list(OTHERS), class_list({0: "rug"}, "/gt/label_info")], "class 0 is 'rug' on /gt/label_info of"),
        ],
    )
    def test_that_is_of_no_use_is_refused(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path, lists: list[Message], reason: str
    ) -> None:
        path = write_bag(tmp_path / "drive", self.messages(*lists))
        _, line = run(1, path, "--truth-topic", TRUTH, "--labels-topic", LABELS, checkpoint=False)
        assert reason in line and line.count("\n") == 1

    def test_of_other_classes_than_the_network_is_refused(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path
    ) -> None:
        path = write_bag(tmp_path / "drive", self.messages(class_list(OTHERS)))
        _, line = run(1, path, "--image-topic", CAMERA, "--labels-topic", LABELS)
        assert "class 0 is 'floor' on /segmentation/label_info of" in line and "but 'ground' in the network" in line


class TestSettings:
    def test_that_decide_the_figures_are_told_of(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write_bag(tmp_path / "drive", drive(2))
        told = run(0, path, "--truth-topic", TRUTH)[0]["settings"]
        assert told["window"] == "causal" and told["precision"] == "float32" and told["device"] == "cpu"
        assert told["short side"] == f"as trained ({SIZE[0]} px)" and told["max gap"] == "1 s"
        assert told["threads"] == str(torch.get_num_threads())
        options = ["--precision", "bfloat16", "--short-side", "96", "--window", "centered", "--threads", "1"]
        before = torch.get_num_threads()
        try:
            other = run(0, path, "--truth-topic", TRUTH, *options)[0]["settings"]
        finally:
            torch.set_num_threads(before)
        assert (other["precision"], other["short side"], other["window"]) == ("bfloat16", "96 px", "centered")
        assert other["threads"] == "1"
        assert all(
            f"{name} {value}" in other["command"] for name, value in zip(options[::2], options[1::2], strict=True)
        )

    def test_vc_may_count_as_vspws_script_does(self, run: Callable[..., tuple[dict, str]], tmp_path: Path) -> None:
        path = write_bag(tmp_path / "drive", drive(8))
        arguments = ("--truth-topic", TRUTH)
        assert run(0, path, *arguments)[0]["figures"]["network"]["vc8"] is not None
        found, _ = run(0, path, *arguments, "--vc-rule", "vspw")
        assert found["figures"]["network"]["vc8"] is None
        assert "VC_perclip.py" in found["settings"]["VC_n counts"] and "--vc-rule vspw" in found["settings"]["command"]

    def test_are_on_the_terminal(self, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = write_bag(tmp_path / "drive", drive(2))
        assert bag.main(["evaluate", str(path), "--truth-topic", TRUTH, "--checkpoint", str(network)]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert f"with window causal, short side as trained ({SIZE[0]} px), precision" in text

    def test_of_networks_are_not_told_where_there_is_none(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path
    ) -> None:
        labels = [(LABELS, stamp_of(number), raw(scene(number))) for number in range(2)]
        path = write_bag(tmp_path / "drive", [*drive(2), *labels])
        arguments = ("--truth-topic", TRUTH, "--labels-topic", LABELS)
        assert not {"window", "precision"} & run(0, path, *arguments, checkpoint=False)[0]["settings"].keys()


class TestSeveral:
    def test_networks_are_compared_over_the_same_frames(
        self, run: Callable[..., tuple[dict, str]], save: Callable[..., Path], tmp_path: Path
    ) -> None:
        # Frames of 50 s at 1 Hz; the second network calls everything ground.
        messages = [
            (topic, START_NS + (stamp - START_NS) // STEP_NS * 10**9, fields) for topic, stamp, fields in drive(50)
        ]
        blind = save("blind", bias=(100.0, 0.0, 0.0))
        path = write_bag(tmp_path / "drive", messages)
        found, _ = run(0, path, "--truth-topic", TRUTH, "--checkpoint", blind)
        assert found["models"] == ["network", "blind"]
        compared = {each["figure"]: each for each in found["comparisons"]}
        accuracy = compared["pixel_accuracy"]
        assert (accuracy["first"], accuracy["second"]) == ("network", "blind")
        assert (accuracy["units"], accuracy["count"]) == ("blocks of 10 s", 5)
        assert accuracy["low"] <= accuracy["difference"] <= accuracy["high"] < 0
        assert compared["miou"]["difference"] == pytest.approx(
            found["figures"]["blind"]["miou"] - found["figures"]["network"]["miou"]
        )

    def test_bags_are_pooled_and_one_that_fails_is_told(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path
    ) -> None:
        for place, name in enumerate(("monday/drive", "tuesday/drive", "tuesday/dark")):
            write_bag(tmp_path / "bags" / name, drive(2 + place, truth=name != "tuesday/dark"))
        found, lines = run(3, tmp_path / "bags", "--truth-topic", TRUTH)
        assert [(each["bag"], len(each["frames"]["miou"])) for each in found["sequences"]] == [
            ("monday/drive", 2),
            ("tuesday/drive", 3),
        ]
        assert np.sum(found["figures"]["network"]["confusion"]) == 5 * scene(0).size
        assert f"has no image topic {TRUTH}" in found["failures"]["tuesday/dark"]
        assert f"has no image topic {TRUTH}" in lines

    def test_cameras_each_have_their_own_truth(self, run: Callable[..., tuple[dict, str]], tmp_path: Path) -> None:
        messages = drive(3)
        for number in range(3):
            messages.append(("/rear/image", stamp_of(number), raw(picture(scene(number + 9)))))
            messages.append(("/rear/truth", stamp_of(number), raw(scene(number + 9))))
        cameras = ("--image-topic", "/rear/image", "--image-topic", CAMERA)
        path = write_bag(tmp_path / "drive", messages)
        found, _ = run(0, path, *cameras, "--truth-topic", "/rear/truth", "--truth-topic", TRUTH)
        assert [each["topic"] for each in found["sequences"]] == ["/rear/image", CAMERA]
        assert found["figures"]["network"]["miou"] == 100.0

    def test_processes_may_do_the_work(self, network: Path, tmp_path: Path) -> None:
        function, settings = pickle.loads(pickle.dumps((evaluate_bag, settings_for(network))))
        (found,) = function(write_bag(tmp_path / "drive", drive(2)), settings)
        assert isinstance(pickle.loads(pickle.dumps(found)), SequenceResult)


class TestWhatIsUnusual:
    @pytest.mark.parametrize("window", ["causal", "centered"])
    def test_every_frame_is_measured_where_windows_end(
        self, run: Callable[..., tuple[dict, str]], save: Callable[..., Path], tmp_path: Path, window: str
    ) -> None:
        # A size that changes, and a gap of 2 s.
        messages = drive(3)
        large = (96, 120)
        for number in range(3, 6):
            stamp = stamp_of(number) + (2 * 10**9 if number == 5 else 0)
            messages.append((CAMERA, stamp, raw(picture(scene(number, large)))))
            messages.append((TRUTH, stamp, raw(scene(number, large))))
        path = write_bag(tmp_path / "drive", messages)
        network = save("stf", stf=STF)
        found, lines = run(
            0, path, "--truth-topic", TRUTH, "--window", window, "--checkpoint", network, checkpoint=False
        )
        frames = found["sequences"][0]["frames"]
        assert len(frames["stamp_ns"]) == 6
        assert [value is None for value in frames["consistency"]] == [True, False, False, True, False, True]
        assert f"80x64 from {stamp_of(0)} ns, 120x96 from {stamp_of(3)} ns" in lines
        assert "the image size changed (1 times), frames were missing for longer than max_gap (1 times)" in lines

    def test_what_is_damaged_is_told_and_the_rest_is_measured(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path
    ) -> None:
        messages = drive(5)
        messages[2] = (*messages[2][:2], messages[2][2] | {"data": np.zeros(9, np.uint8)})
        messages[7] = (*messages[7][:2], messages[7][2] | {"step": 3})
        found, lines = run(3, write_bag(tmp_path / "drive", messages), "--truth-topic", TRUTH)
        (sequence,) = found["sequences"]
        assert not sequence["complete"] and len(sequence["frames"]["miou"]) == 4
        assert sequence["frames"]["miou"] == [100.0, 100.0, None, 100.0]
        assert (
            f"1 messages on {CAMERA} that cannot be decoded; the first at {stamp_of(1)} ns, data has 9 bytes" in lines
        )
        assert f"1 messages on {TRUTH} that cannot be decoded; the first at {stamp_of(3)} ns, step is 3" in lines

    def test_of_a_bag_that_is_cut_off_what_is_whole_is_measured(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path
    ) -> None:
        path = write_bag(tmp_path / "drive", drive(20))
        (file,) = path.glob("*.mcap")
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        found, lines = run(3, path, "--truth-topic", TRUTH)
        (sequence,) = found["sequences"]
        assert 5 < len(sequence["frames"]["miou"]) < 15 and not sequence["complete"]
        assert "are lost" in lines and lines.count("bag evaluate: drive: ") == lines.count("\n")

    def test_finished_bags_are_not_measured_again(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        for name in ("one", "two"):
            write_bag(tmp_path / "bags" / name, drive(2))
        at_once, _ = run(0, tmp_path / "bags", "--truth-topic", TRUTH)
        (tmp_path / "figures.json").unlink()
        arguments = (tmp_path / "bags", "--truth-topic", TRUTH, "--journal", tmp_path / "journal")
        with monkeypatch.context() as patch:
            patch.setattr(command, "print_summary", stop)
            run(130, *arguments)
        monkeypatch.setattr("training.bag.evaluator.Evaluator.evaluate", stop)
        found, _ = run(0, *arguments)
        assert [each["bag"] for each in found["sequences"]] == ["one", "two"]
        assert found["figures"] == at_once["figures"]

    def test_truth_that_belongs_to_no_frame_is_told(self, run: Callable[..., tuple[dict, str]], tmp_path: Path) -> None:
        messages = [each for each in drive(4) if each[:2] != (CAMERA, stamp_of(2))]
        found, lines = run(3, write_bag(tmp_path / "drive", messages), "--truth-topic", TRUTH)
        assert len(found["sequences"][0]["frames"]["miou"]) == 3
        assert f"1 label images on {TRUTH} without an image on {CAMERA} within 0.001 s" in lines

    def test_a_stop_leaves_nothing(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(command, "print_summary", stop)
        _, line = run(130, write_bag(tmp_path / "drive", drive(2)), "--truth-topic", TRUTH)
        assert line == "bag evaluate: stopped; nothing was written\n"


def shifted(messages: list[Message], nanoseconds: int) -> list[Message]:
    return [(topic, stamp + (topic == TRUTH) * nanoseconds, fields) for topic, stamp, fields in messages]


def with_truth(image: dict[str, Any]) -> list[Message]:
    return [(CAMERA, START_NS, raw(picture(scene(0)))), (TRUTH, START_NS, image)]


REFUSED: dict[str, tuple[list[Message], list[str], str]] = {
    "no pair": (
        shifted(drive(2), 20_000_000),
        [],
        f"has no label image on {TRUTH} within 0.001 s of an image on {CAMERA}; the nearest is 0.020000 s away",
    ),
    "another size": (with_truth(raw(scene(0)[:32])), [], "is 80x32, its image 80x64: they must be of one size"),
    "another class list": (
        with_truth(raw(scene(0) + 5)),
        [],
        "network.safetensors, 0 to 2, and 255 for void); say with --dataset what its values mean",
    ),
    "another data set": (drive(1), ["--dataset", "camvid"], "class 0 is 'ground' in"),
    "a JPEG": (with_truth(compressed(scene(0), ".jpg")), [], "is a JPEG, which alters labels"),
    "only void": (
        with_truth(raw(np.full(SIZE, 255, np.uint8))),
        [],
        f"has a ground truth: all of {TRUTH} is void",
    ),
    "no such topic": (drive(1, truth=False), [], f"has no image topic {TRUTH} for --truth-topic; its image topics: "),
    "no such camera": (drive(1), ["--image-topic", "/rear"], f"has no image topic /rear; its image topics: {CAMERA}, "),
    "the camera itself": (drive(1), ["--image-topic", TRUTH], "cannot be the camera's images and their labels"),
    "two truths": (drive(1), ["--truth-topic", "/other"], "--truth-topic is given 2 times for 1 image topics"),
    "no tolerance": (drive(1), ["--tolerance", "-1"], "--tolerance is -1; it must be a number of seconds from 0 on"),
    "no precision": (drive(1), ["--precision", "float16"], "precision float16 needs a GPU"),
    "no threads": (drive(1), ["--threads", "-1"], "--threads is -1; it must be a number from 0 on"),
    "too small": (drive(1), ["--short-side", "7"], "--short-side is 7; it must be 0"),
    "no such data set": (drive(1), ["--dataset", "nowhere"], "nowhere is neither a file nor a known data set"),
    "no such network": (drive(1), ["--checkpoint", "nowhere.safetensors"], "nowhere.safetensors does not exist"),
    "nowhere to write": (drive(1), ["--json", "/proc/nowhere/figures.json"], "--json /proc/nowhere/figures.json"),
}


class TestRefused:
    @pytest.mark.parametrize("case", REFUSED)
    def test_with_one_line_that_says_why(self, run: Callable[..., tuple[dict, str]], tmp_path: Path, case: str) -> None:
        messages, arguments, reason = REFUSED[case]
        _, line = run(1, write_bag(tmp_path / "drive", messages), "--truth-topic", TRUTH, *arguments)
        assert reason in line
        assert line.startswith("bag evaluate: ") and line.count("\n") == 1

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            (
                "000001.5.png",
                "is not named by its stamp: label images must be called like 1700000000066666667.png (nano",
            ),
            ("left_000123.png", "left_000123.png is not named by its stamp"),
            ("1700000000.png", "are named in seconds, such as 1700000000: name them by the whole stamp"),
            ("1700000000000.png", "are named in milliseconds, such as 1700000000000"),
            ("1700000000000000.PNG", "are named in microseconds, such as 1700000000000000"),
            ("000001_000123.png", "is not named by its stamp"),
            ("7.png", "has no label image in "),
            ("notes.txt", "holds no label image"),
        ],
    )
    def test_a_folder_of_other_files(
        self, run: Callable[..., tuple[dict, str]], tmp_path: Path, name: str, reason: str
    ) -> None:
        (tmp_path / "truth").mkdir()
        (tmp_path / "truth" / name).write_bytes(cv2.imencode(".png", scene(0))[1].tobytes())
        _, line = run(1, write_bag(tmp_path / "drive", drive(1, truth=False)), "--truth", tmp_path / "truth")
        assert reason in line and line.count("\n") == 1

    def test_networks_of_different_classes(
        self, run: Callable[..., tuple[dict, str]], save: Callable[..., Path], tmp_path: Path
    ) -> None:
        other = save("other", LabelSet(("ground", "disc", "cat"), CLASSES.palette))
        _, line = run(1, write_bag(tmp_path / "drive", drive(1)), "--checkpoint", other)
        assert "networks of different classes cannot be compared" in line and "cat" in line


def labelled(number: int, truth: np.ndarray | None, still: bool = True) -> Labelled:
    """A frame each second, without motion."""
    motion = Motion(pixel_grid(SIZE), np.ones(SIZE, bool)) if still and number else None
    image = picture(scene(number))
    frame = Frame(number, START_NS + number * 10**9, "", image, truth, (), number > 0, motion)
    return Labelled(frame, scene(number))


def opened(data: bytes | None) -> np.ndarray:
    assert data is not None
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


class TestPictures:
    def test_are_few_and_the_worst_are_among_them(self) -> None:
        keeper = ShotKeeper(CLASSES, 50, even=5, worst=2)
        for number in range(50):
            keeper.add(labelled(number, scene(number)), None, {17: 10.0, 33: 20.0, 34: 30.0}.get(number, 90.0))
        seconds = [(shot.stamp_ns - START_NS) // 10**9 for shot in keeper.shots()]
        assert seconds == sorted({0, 12, 24, 37, 49} | {17, 33})

    def test_of_one_bad_second_one_is_kept(self) -> None:
        keeper = ShotKeeper(CLASSES, 30, even=1, worst=3)
        for number in range(30):
            each = labelled(number, scene(number))
            frame = dataclasses.replace(each.frame, stamp_ns=START_NS + number * 10**8)
            keeper.add(dataclasses.replace(each, frame=frame), None, 50.0 - number)
        tenths = [(shot.stamp_ns - START_NS) // 10**8 for shot in keeper.shots()]
        assert tenths == [0, 9, 19, 29]

    def test_show_what_is_wrong_in_the_colour_of_the_prediction(self) -> None:
        truth = scene(0)
        truth[40:44] = 1
        truth[0] = 255
        keeper = ShotKeeper(CLASSES, 1, even=1, worst=0)
        keeper.add(labelled(0, truth), None, None)
        (shot,) = keeper.shots()
        np.testing.assert_array_equal(opened(shot.prediction), picture(scene(0)))
        assert (opened(shot.truth)[0] == 0).all()
        difference = opened(shot.difference)
        np.testing.assert_array_equal(difference[40:44], picture(scene(0))[40:44])
        assert not difference[:40].any() and not difference[44:].any()
        assert np.abs(opened(shot.camera).astype(int) - picture(scene(0))).mean() < 10

    def test_without_truth_show_what_did_not_keep_its_label(self) -> None:
        changed = np.zeros(SIZE, bool)
        changed[:10] = True
        keeper = ShotKeeper(CLASSES, 1, even=1, worst=0)
        keeper.add(labelled(0, None), changed, None)
        (shot,) = keeper.shots()
        difference = opened(shot.difference)
        np.testing.assert_array_equal(difference[:10], picture(scene(0))[:10])
        assert shot.truth is None and not difference[10:].any()

    def test_are_at_most_480_wide(self) -> None:
        wide = dataclasses.replace(labelled(0, None).frame, image=np.zeros((100, 1000, 3), np.uint8))
        keeper = ShotKeeper(CLASSES, 1, even=1, worst=0)
        keeper.add(Labelled(wide, np.zeros((100, 1000), np.uint8)), None, None)
        assert opened(keeper.shots()[0].prediction).shape == (48, 480, 3)

    def test_flicker_is_red_where_labels_change(self) -> None:
        flicker = FlickerMap()
        changed = np.zeros(SIZE, bool)
        changed[:, :40] = True
        for number in range(4):
            flicker.add(labelled(number, None), changed if number else None)
        picture = opened(flicker.picture()).astype(int)
        assert (picture[10:50, 5:35, 0] - picture[10:50, 5:35, 1]).min() > 150
        assert np.abs(picture[10:50, 50:75, 0] - picture[10:50, 50:75, 1]).max() < 30
        assert FlickerMap().picture() is None
