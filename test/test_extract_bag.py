"""A bag of camera images and label images becomes a data set that can be trained on."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from stmem_ros.bag.io.typestore import ros2_typestore
from stmem_ros.labels import IGNORE_INDEX
from training import extract_bag
from training.data.dataset import list_frames, list_images, load_spec, read_frame
from training.data.pairing import pair

HEIGHT, WIDTH = 32, 48
START_NS = 1_700_000_000_000_000_000
STEP_NS = 66_666_667
SHAPES = """\
classes:
  - {name: ground, color: [90, 90, 90]}
  - {name: disc, color: [220, 40, 40]}
  - {name: box, color: [40, 60, 200]}
void_ids: [9]
frames: "{split}"
labels: "{split}annot"
name_pattern: '(?P<sequence>[^_]+)_(?P<frame>\\d+)'
"""
PALETTE = np.array([[90, 90, 90], [220, 40, 40], [40, 60, 200]], np.uint8)


def picture(number: int) -> np.ndarray:
    """RGB, another one for each number."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0], image[..., 1], image[:, number] = 200, 3 * number, 255
    return image


def truth(number: int) -> np.ndarray:
    """Ids 0 to 2 and, in the last row, void (9)."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[:16, : number + 1], labels[16:, :20], labels[-1] = 1, 2, 9
    return labels


def png(pixels: np.ndarray, ending: str = ".png") -> dict[str, Any]:
    """Fields of a CompressedImage."""
    data = cv2.imencode(ending, pixels if pixels.ndim == 2 else pixels[..., ::-1])[1].reshape(-1)
    return {"format": ending[1:], "data": data}


def raw(pixels: np.ndarray, encoding: str) -> dict[str, Any]:
    """Fields of an Image."""
    data = np.ascontiguousarray(pixels).view(np.uint8).reshape(-1)
    height, width = pixels.shape[:2]
    fields = {"height": height, "width": width, "encoding": encoding, "is_bigendian": 0}
    return {**fields, "step": data.size // height, "data": data}


Message = tuple[str, int, dict[str, Any]]


def write_bag(path: Path, messages: list[Message], ros1: bool = False) -> Path:
    """A bag of (topic, stamp in ns, fields)."""
    types = get_typestore(Stores.ROS1_NOETIC) if ros1 else ros2_typestore()
    time, header = types.types["builtin_interfaces/msg/Time"], types.types["std_msgs/msg/Header"]
    with Writer1(path) if ros1 else Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}
        for topic, stamp, fields in messages:
            kind = f"sensor_msgs/msg/{'Image' if 'encoding' in fields else 'CompressedImage'}"
            kind = "vision_msgs/msg/LabelInfo" if "class_map" in fields else kind
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=types)
            names = {"seq": 0} if ros1 else {}
            message = types.types[kind](
                header=header(**names, stamp=time(*divmod(stamp, 10**9)), frame_id="camera"), **fields
            )
            serialize = types.serialize_ros1 if ros1 else types.serialize_cdr
            # Labels are made after their images, and so are recorded after them.
            writer.write(connections[topic], stamp + 10**6 * (topic == "/labels"), serialize(message, kind))
    return path


def class_list(names: list[str]) -> Message:
    """What a node says of its labels, beside them."""
    kind = ros2_typestore().types["vision_msgs/msg/VisionClass"]
    return "/label_info", START_NS, {"class_map": [kind(*each) for each in enumerate(names)], "threshold": 0.0}


def drive(count: int = 6, every: int = 1, shift_ns: int = 0) -> list[Message]:
    """Images, and labels for each `every`th of them, `shift_ns` late."""
    messages: list[Message] = []
    for number in range(count):
        stamp = START_NS + number * STEP_NS
        messages.append(("/camera", stamp, raw(picture(number), "rgb8")))
        if number % every == 0:
            messages.append(("/labels", stamp + shift_ns, raw(truth(number), "mono8")))
    return messages


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """The YAML file of a data set whose classes the bags have."""
    path = tmp_path / "shapes.yaml"
    path.write_text(SHAPES)
    return path


@pytest.fixture
def extract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command into `tmp_path/out`, asserts its exit code and returns what it printed; errors are one line."""

    def run(expected: int, bag: Path, *arguments: str) -> str:
        code = extract_bag.main(
            [str(bag), "--images", "/camera", "--labels", "/labels", "--output", str(tmp_path / "out"), *arguments]
        )
        printed = capsys.readouterr()
        assert code == expected, printed
        if code:
            assert printed.err.count("\n") == 1
            assert not list((tmp_path / "out").rglob("*.partial")) and not list((tmp_path / "out").rglob(".extract*"))
        return printed.err if code else printed.out

    return run


class TestDataset:
    def test_a_bag_becomes_a_data_set(self, extract: Callable[..., str], shapes: Path, tmp_path: Path) -> None:
        printed = extract(0, write_bag(tmp_path / "my drive", drive()), "--dataset", str(shapes))
        assert "wrote 6 frames, 6 of them labelled, as sequence my-drive of split train" in printed
        spec = load_spec(tmp_path / "out" / "out.yaml")
        assert spec.labels == load_spec(shapes).labels
        assert spec.frame_rate == 1000
        frames = list_frames(spec, tmp_path / "out", "train")
        assert [frame.number for frame in frames] == [0, 67, 133, 200, 267, 333]
        for number, frame in enumerate(frames):
            image, labels = read_frame(frame, spec)
            np.testing.assert_array_equal(image, picture(number))
            np.testing.assert_array_equal(labels[:-1], truth(number)[:-1])
            assert (labels[-1] == IGNORE_INDEX).all()

    def test_the_command_that_it_suggests_finds_nothing_wrong(
        self, extract: Callable[..., str], shapes: Path, tmp_path: Path
    ) -> None:
        printed = extract(0, write_bag(tmp_path / "drive", drive()), "--dataset", str(shapes))
        from training import check_dataset

        arguments = printed.split("training.check_dataset ")[1].split()
        assert check_dataset.main(arguments) == 0

    def test_a_ros_1_bag(self, extract: Callable[..., str], shapes: Path, tmp_path: Path) -> None:
        bag = write_bag(tmp_path / "drive.bag", drive(), ros1=True)
        assert "sequence drive of" in extract(0, bag, "--dataset", str(shapes))

    def test_an_mcap_file_alone(self, extract: Callable[..., str], shapes: Path, tmp_path: Path) -> None:
        bag = next(write_bag(tmp_path / "drive", drive()).glob("*.mcap"))
        assert "wrote 6 frames" in extract(0, bag, "--dataset", str(shapes))

    def test_compressed_topics(self, extract: Callable[..., str], shapes: Path, tmp_path: Path) -> None:
        messages = [
            (topic, stamp, png(picture(0), ".jpg") if topic == "/camera" else png(truth(3)))
            for topic, stamp, _ in drive()
        ]
        extract(0, write_bag(tmp_path / "drive", messages), "--dataset", str(shapes))
        spec = load_spec(tmp_path / "out" / "out.yaml")
        image, labels = read_frame(list_frames(spec, tmp_path / "out", "train")[2], spec)
        np.testing.assert_array_equal(labels[:-1], truth(3)[:-1])
        assert np.abs(image.astype(int) - picture(0)).mean() < 20

    @pytest.mark.parametrize("fields", [lambda colors: raw(colors, "rgb8"), png])
    def test_labels_in_the_colours_of_the_classes(
        self, extract: Callable[..., str], shapes: Path, tmp_path: Path, fields: Callable[[np.ndarray], dict[str, Any]]
    ) -> None:
        colors = PALETTE[np.where(truth(3) == 9, 0, truth(3))]
        colors[-1] = 0
        messages = [(topic, at, fields(colors) if topic == "/labels" else each) for topic, at, each in drive()]
        extract(0, write_bag(tmp_path / "drive", messages), "--dataset", str(shapes))
        spec = load_spec(tmp_path / "out" / "out.yaml")
        _, labels = read_frame(list_frames(spec, tmp_path / "out", "train")[0], spec)
        np.testing.assert_array_equal(labels[:-1], truth(3)[:-1])
        assert (labels[-1] == IGNORE_INDEX).all()

    def test_255_is_void_whatever_the_class_list(
        self, extract: Callable[..., str], shapes: Path, tmp_path: Path
    ) -> None:
        void = raw(np.where(truth(0) == 9, 255, truth(0)).astype(np.uint8), "mono8")
        messages: list[Message] = [("/camera", START_NS, raw(picture(0), "rgb8")), ("/labels", START_NS, void)]
        extract(0, write_bag(tmp_path / "drive", messages), "--dataset", str(shapes))
        spec = load_spec(tmp_path / "out" / "out.yaml")
        _, labels = read_frame(list_frames(spec, tmp_path / "out", "train")[0], spec)
        assert set(np.unique(labels)) == {0, 1, 2, IGNORE_INDEX}

    def test_without_a_class_list_every_id_is_a_class_to_be_named(
        self, extract: Callable[..., str], tmp_path: Path
    ) -> None:
        extract(0, write_bag(tmp_path / "drive", drive()))
        path = tmp_path / "out" / "out.yaml"
        spec = load_spec(path)
        assert spec.labels.names == tuple(f"class_{label}" for label in range(10))
        assert len(set(spec.labels.palette)) == 10
        np.testing.assert_array_equal(read_frame(list_frames(spec, tmp_path / "out", "train")[0], spec)[1], truth(0))
        path.write_text(path.read_text().replace("class_1", "disc"))
        extract(0, write_bag(tmp_path / "next", drive()))
        assert load_spec(path).labels.names[1] == "disc"

    def test_the_bags_own_class_list_names_them(self, extract: Callable[..., str], tmp_path: Path) -> None:
        names = ["ground", "disc", "box", *(f"thing {number}" for number in range(3, 10))]
        extract(0, write_bag(tmp_path / "drive", [class_list(names), *drive()]))
        spec = load_spec(tmp_path / "out" / "out.yaml")
        assert spec.labels.names == tuple(names)
        # Also those that no image of this bag shows.
        line = extract(1, write_bag(tmp_path / "next", [class_list([*names[:-1], "void"]), *drive()]))
        assert "class 9 is 'void' on /label_info of" in line and "but 'thing 9' in" in line and "--dataset" in line
        assert "label id 9, and /label_info of" in extract(
            1, write_bag(tmp_path / "few", [class_list(names[:3]), *drive()]), "--output", str(tmp_path / "few_out")
        )


class TestChoice:
    """Which frames are written."""

    def numbers(self, root: Path) -> tuple[list[int], list[int]]:
        """Of labelled frames, and of all."""
        spec = load_spec(root / "out.yaml")
        images = list_images(spec, root, "train")
        return [frame.number for frame in list_frames(spec, root, "train")], sorted(images["drive"])

    def test_frames_without_labels_are_left_out(self, extract: Callable[..., str], tmp_path: Path) -> None:
        extract(0, write_bag(tmp_path / "drive", drive(6, every=3)))
        assert self.numbers(tmp_path / "out") == ([0, 200], [0, 200])

    def test_or_kept_as_neighbours(self, extract: Callable[..., str], tmp_path: Path) -> None:
        extract(0, write_bag(tmp_path / "drive", drive(6, every=3)), "--keep-unlabelled")
        assert self.numbers(tmp_path / "out") == ([0, 200], [0, 67, 133, 200, 267, 333])

    def test_every_second_pair(self, extract: Callable[..., str], tmp_path: Path) -> None:
        extract(0, write_bag(tmp_path / "drive", drive()), "--every", "2")
        assert self.numbers(tmp_path / "out") == ([0, 133, 267], [0, 133, 267])

    def test_stamps_that_differ(self, extract: Callable[..., str], tmp_path: Path) -> None:
        bag = write_bag(tmp_path / "drive", drive(3, shift_ns=20_000_000))
        message = extract(1, bag)
        assert "no label image on /labels within 0.001 s of an image on /camera; the nearest is 0.020000 s" in message
        extract(0, bag, "--tolerance", "0.03")
        assert self.numbers(tmp_path / "out")[0] == [0, 67, 133]

    def test_a_damaged_message_is_left_out_and_told(self, extract: Callable[..., str], tmp_path: Path) -> None:
        messages = drive()
        for place in (2, 5):  # the second image, the third label image
            messages[place][2]["data"] = messages[place][2]["data"][:100]
        printed = extract(0, write_bag(tmp_path / "drive", messages))
        assert "wrote 4 frames, 4 of them labelled" in printed
        assert "skipped 2 messages" in printed and "message 1 on /camera: data has 100 bytes" in printed
        assert self.numbers(tmp_path / "out") == ([0, 200, 267, 333],) * 2

    def test_labels_of_no_image_and_images_of_one_stamp_are_told(
        self, extract: Callable[..., str], tmp_path: Path
    ) -> None:
        late = [(topic, stamp + 30_000_000 * (topic == "/labels"), fields) for topic, stamp, fields in drive(2)]
        printed = extract(0, write_bag(tmp_path / "drive", [*late, *drive(6)[4:]]))
        assert "wrote 4 frames, 4 of them labelled" in printed
        assert "left out 2 of 6 label images on /labels, which have no image on /camera of their own" in printed
        looped = write_bag(tmp_path / "looped", [*drive(3), *drive(3)])
        printed = extract(0, looped, "--keep-unlabelled", "--output", str(tmp_path / "other"))
        assert "left out 3 of 6 images: others have their stamps, to the millisecond" in printed

    def test_pairs_are_the_nearest_and_each_image_has_one(self) -> None:
        assert pair([0, 100, 200], [101, 90, 260], 10) == {1: 0}
        assert pair([200, 0, 100], [104, 197, 2], 10) == {2: 0, 0: 1, 1: 2}
        assert pair([0, 100], [5, 3], 10) == {0: 1}
        assert pair([0, 100], [11], 10) == {}


KINDS = {
    "mono16": lambda ids: raw(ids.astype(np.uint16), "mono16"),
    "mono16, big-endian": lambda ids: raw(ids.astype(">u2"), "mono16") | {"is_bigendian": 1},
    "32SC1": lambda ids: raw(ids.astype(np.int32), "32SC1"),
    "three channels": lambda ids: raw(np.dstack([ids] * 3), "rgb8"),
    "png of 16 bits": lambda ids: png(ids.astype(np.uint16)),
    "png of 4 bits": lambda ids: pillow_png(PillowImage.fromarray(ids, "P"), [0, 17, 0] * 16, bits=4),
    "palette": lambda ids: pillow_png(PillowImage.fromarray(ids, "P"), [0, 0, 0, 128, 0, 0, 128, 0, 0] * 4),
}


def pillow_png(image: PillowImage.Image, palette: list[int], **options: int) -> dict[str, Any]:
    image.putpalette(palette)
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return {"format": "mono8; png compressed ", "data": np.frombuffer(file.getvalue(), np.uint8)}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_read_in_whatever_way_they_are_recorded(
    extract: Callable[..., str], shapes: Path, tmp_path: Path, kind: str
) -> None:
    messages: list[Message] = []
    for number in range(2):
        stamp = START_NS + number * STEP_NS
        messages += [("/camera", stamp, raw(picture(number), "rgb8")), ("/labels", stamp, KINDS[kind](truth(number)))]
    extract(0, write_bag(tmp_path / "drive", messages), "--dataset", str(shapes))
    spec = load_spec(tmp_path / "out" / "out.yaml")
    for number, frame in enumerate(list_frames(spec, tmp_path / "out", "train")):
        expected = np.where(truth(number) == 9, IGNORE_INDEX, truth(number))
        np.testing.assert_array_equal(read_frame(frame, spec)[1], expected)


def test_255_is_the_class_that_the_data_set_says(extract: Callable[..., str], tmp_path: Path) -> None:
    text = SHAPES.replace("40, 40]}", "40, 40], label_ids: [255]}").replace("90, 90]}", "90, 90], label_ids: [0]}")
    (tmp_path / "masks.yaml").write_text(text.replace("  - {name: box, color: [40, 60, 200]}\n", ""))
    mask = np.where(truth(3) == 1, 255, 0).astype(np.uint8)
    messages: list[Message] = [
        ("/camera", START_NS, raw(picture(3), "rgb8")),
        ("/labels", START_NS, raw(mask, "mono8")),
    ]
    extract(0, write_bag(tmp_path / "drive", messages), "--dataset", str(tmp_path / "masks.yaml"))
    spec = load_spec(tmp_path / "out" / "out.yaml")
    (frame,) = list_frames(spec, tmp_path / "out", "train")
    np.testing.assert_array_equal(read_frame(frame, spec)[1], mask // 255)


class TestRefusals:
    def test_a_topic_that_is_missing(self, extract: Callable[..., str], tmp_path: Path) -> None:
        messages = [(topic.replace("labels", "masks"), stamp, fields) for topic, stamp, fields in drive()]
        message = extract(1, write_bag(tmp_path / "drive", messages))
        assert "no image topic /labels; its image topics: /camera, /masks" in message

    def test_a_bag_that_is_missing(self, extract: Callable[..., str], tmp_path: Path) -> None:
        assert f"{tmp_path / 'nothing'} does not exist" in extract(1, tmp_path / "nothing")

    def test_one_topic_for_both(self, extract: Callable[..., str], tmp_path: Path) -> None:
        bag = write_bag(tmp_path / "drive", drive())
        assert "are both /labels" in extract(1, bag, "--images", "labels")

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            (raw(truth(0)[:-2], "mono8"), "message 0 on /labels is 48x30, its image 48x32"),
            (raw(truth(0).astype(np.float32), "32FC1"), "message 0 on /labels has encoding '32FC1'"),
            (png(picture(0), ".jpg"), "message 0 on /labels is a JPEG"),
            (
                png(truth(0).astype(np.uint16) + 26_000),
                "message 0 on /labels has label id 26000, 26001, 26002, 26009, neither",
            ),
            (raw(np.full((HEIGHT, WIDTH), 5, np.uint8), "mono8"), "message 0 on /labels has label id 5, neither"),
            (raw(picture(0), "rgb8"), "message 0 on /labels has colour"),
            ({**raw(truth(0), "mono8"), "step": 1}, "no frame could be read together with its labels; the first"),
        ],
    )
    def test_labels_of_no_use(
        self, extract: Callable[..., str], shapes: Path, tmp_path: Path, fields: dict[str, Any], reason: str
    ) -> None:
        messages: list[Message] = [("/camera", START_NS, raw(picture(0), "rgb8")), ("/labels", START_NS, fields)]
        assert reason in extract(1, write_bag(tmp_path / "drive", messages), "--dataset", str(shapes))
        assert not list((tmp_path / "out").iterdir())

    def test_colours_without_a_class_list(self, extract: Callable[..., str], tmp_path: Path) -> None:
        messages: list[Message] = [(topic, START_NS, raw(picture(0), "rgb8")) for topic in ("/camera", "/labels")]
        assert "--dataset" in extract(1, write_bag(tmp_path / "drive", messages))

    def test_nothing_but_void(self, extract: Callable[..., str], tmp_path: Path) -> None:
        void = raw(np.full((HEIGHT, WIDTH), 255, np.uint8), "mono8")
        messages: list[Message] = [("/camera", START_NS, raw(picture(0), "rgb8")), ("/labels", START_NS, void)]
        assert "nothing but 255" in extract(1, write_bag(tmp_path / "drive", messages))

    @pytest.mark.parametrize(
        ("option", "value"),
        [("--every", "0"), ("--tolerance", "-1"), ("--sequence", "a/b"), ("--split", "../x"), ("--split", "")],
    )
    def test_wrong_options(self, tmp_path: Path, option: str, value: str) -> None:
        with pytest.raises(SystemExit):
            extract_bag.main(["bag", "--images", "/a", "--labels", "/b", "--output", str(tmp_path), option, value])
        assert not list(tmp_path.iterdir())


class TestOutput:
    """A folder may be written into again; nobody's files are overwritten."""

    def test_a_folder_of_others_is_left_alone(self, extract: Callable[..., str], tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("mine")
        assert "did not write: give a new or empty folder" in extract(1, write_bag(tmp_path / "drive", drive()))
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]

    def test_a_file_is_no_folder(self, extract: Callable[..., str], tmp_path: Path) -> None:
        (tmp_path / "out").write_text("mine")
        assert "is a file" in extract(1, write_bag(tmp_path / "drive", drive()))

    def test_a_second_extraction_of_a_bag_replaces_the_first(self, extract: Callable[..., str], tmp_path: Path) -> None:
        bag = write_bag(tmp_path / "drive", drive())
        extract(0, bag)
        extract(0, bag, "--every", "3")
        assert len(list((tmp_path / "out" / "train").iterdir())) == 2
        assert len(list((tmp_path / "out" / "trainannot").iterdir())) == 2

    def test_bags_add_up(self, extract: Callable[..., str], tmp_path: Path) -> None:
        extract(0, write_bag(tmp_path / "drive", drive()))
        extract(0, write_bag(tmp_path / "drive_2", drive(4)))
        extract(0, write_bag(tmp_path / "evening", drive(2)), "--split", "val")
        spec = load_spec(tmp_path / "out" / "out.yaml")
        train = list_images(spec, tmp_path / "out", "train")
        assert {sequence: len(numbers) for sequence, numbers in train.items()} == {"drive": 6, "drive_2": 4}
        assert len(list_frames(spec, tmp_path / "out", "val")) == 2

    def test_one_sequence_is_not_learnt_from_and_tested_on(self, extract: Callable[..., str], tmp_path: Path) -> None:
        bag = write_bag(tmp_path / "drive", drive())
        extract(0, bag)
        assert "holds sequence drive already" in extract(1, bag, "--split", "val")

    def test_classes_must_agree_with_those_there(
        self, extract: Callable[..., str], shapes: Path, tmp_path: Path
    ) -> None:
        extract(0, write_bag(tmp_path / "drive", drive()), "--dataset", str(shapes))
        shapes.write_text(SHAPES.replace("disc", "ball"))
        bag = write_bag(tmp_path / "next", drive())
        assert "class 1 is 'ball' in shapes" in extract(1, bag, "--dataset", str(shapes))

    def test_neighbours_are_not_slipped_into_a_set_without_them(
        self, extract: Callable[..., str], tmp_path: Path
    ) -> None:
        bag = write_bag(tmp_path / "drive", drive(6, every=2))
        extract(0, bag)
        assert "set unlabelled_frames: true" in extract(1, bag, "--keep-unlabelled")
        path = tmp_path / "out" / "out.yaml"
        path.write_text(path.read_text().replace("unlabelled_frames: false", "unlabelled_frames: true"))
        extract(0, bag, "--keep-unlabelled")
        assert len(list((tmp_path / "out" / "train").iterdir())) == 6

    def test_what_was_there_survives_a_failure(self, extract: Callable[..., str], tmp_path: Path) -> None:
        extract(0, write_bag(tmp_path / "drive", drive()))
        odd = [(topic, stamp + 10**8 * (topic == "/labels"), fields) for topic, stamp, fields in drive(1)]
        (tmp_path / "again").mkdir()
        extract(1, write_bag(tmp_path / "again" / "drive", odd))
        assert len(list((tmp_path / "out" / "train").iterdir())) == 6
