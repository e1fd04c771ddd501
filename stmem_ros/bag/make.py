"""Make a bag from a folder of images, with ground truth where there is a folder of label images.

The images are written in the order of their names (numbers by value), `rate` a second from `--start` on, and each
label image at the stamp of the image whose name it has. Label images are PNG, TIFF, BMP or lossless WebP of class ids:
what is stored counts, of a palette the places in it. Images are turned upright as their EXIF data says.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stmem_ros.bag.io.errors import BagError, why
from stmem_ros.bag.io.reader import COMPRESSED_IMAGE, IMAGE
from stmem_ros.bag.io.writer import BagWriter
from stmem_ros.bag.messages import CAMERA_INFO, MessageMaker, Stamp
from stmem_ros.decode import ImageError, check_compressed, decode_encoded
from stmem_ros.encode import EncodeError, encode_image
from stmem_ros.files import user_path
from stmem_ros.image_header import Header
from stmem_ros.label_image import LabelFormatError, decode_label_file
from stmem_ros.labels import IGNORE_INDEX
from stmem_ros.sources import DEFAULT_RATE, IMAGE_SUFFIXES, SourceError, image_files
from stmem_ros.used_bits import UsedBits, add_used_bits

JPEG_QUALITY = 95
TOPIC = re.compile(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*")
# A stamp of 0 means none, and its seconds have 32 bits.
STARTS = (1e-9, 2**31 - 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", type=user_path, help="the bag to make, a folder that is not there")
    parser.add_argument("--frames", type=user_path, required=True, metavar="FOLDER", help="the images")
    parser.add_argument(
        "--labels", type=user_path, metavar="FOLDER", help="label images of class ids, named as the images they are of"
    )
    parser.add_argument(
        "--void-ids",
        type=_ids,
        default=(),
        metavar="ID,ID",
        help=f"label ids that are no class and become {IGNORE_INDEX}; CamVid's is 11",
    )
    parser.add_argument("--rate", type=float, default=DEFAULT_RATE, help="images a second (default: %(default)g)")
    parser.add_argument("--start", type=float, default=1.0, help="seconds of the first stamp (default: %(default)g)")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="all of them N times, for a long bag")
    parser.add_argument("--image-topic", default="/camera/image_raw", metavar="TOPIC", help="default: %(default)s")
    parser.add_argument("--truth-topic", default="/gt/labels", metavar="TOPIC", help="mono8 (default: %(default)s)")
    parser.add_argument(
        "--compressed",
        default="none",
        choices=["none", "png", "jpeg"],
        help="none: Image, rgb8 (default); else CompressedImage on TOPIC/compressed, png without loss, jpeg small",
    )
    add_used_bits(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")
    parser.add_argument("--frame-id", default="camera", help="default: %(default)s")
    parser.add_argument(
        "--field-of-view",
        type=float,
        metavar="DEGREES",
        help="horizontal: also a camera_info beside the images, of an ideal pinhole camera (default: none)",
    )


def run(options: argparse.Namespace) -> None:
    """Raises BagError or OSError; then there is no bag."""
    _check(options)
    frames = _images("--frames", options.frames)
    labels = _pair(frames, _images("--labels", options.labels), options) if options.labels else {}
    image_topic, truth_topic = (f"/{topic.strip('/')}" for topic in (options.image_topic, options.truth_topic))
    info_topic = f"{image_topic.rpartition('/')[0]}/camera_info"
    if options.compressed != "none":
        image_topic += "/compressed"
    total = len(frames) * options.repeat
    bag = BagWriter(options.out, overwrite=options.overwrite)
    try:
        with bag:
            bag.add(image_topic, IMAGE if options.compressed == "none" else COMPRESSED_IMAGE)
            if options.labels:
                bag.add(truth_topic, IMAGE)
            if options.field_of_view:
                bag.add(info_topic, CAMERA_INFO)
            maker = FrameMessages(bag.typestore, options)
            for index in tqdm(range(total), "make", unit="frame", disable=None):
                path = frames[index % len(frames)]
                recorded_ns = round(options.start * 1e9) + round(index * 1e9 / options.rate)
                stamp = divmod(recorded_ns, 1_000_000_000)
                size, message = maker.frame(path, stamp)
                bag.write(image_topic, message, recorded_ns)
                if options.field_of_view:
                    bag.write(info_topic, maker.pinhole(size, stamp), recorded_ns)
                if path in labels:
                    bag.write(truth_topic, maker.truth(labels[path], size, stamp), recorded_ns)
    except BaseException:
        # Nothing of it is worth going on from.
        shutil.rmtree(bag.partial, ignore_errors=True)
        raise
    truths = f", {len(labels) * options.repeat} label images on {truth_topic}" if options.labels else ""
    if maker.label_ids == {0, IGNORE_INDEX} and IGNORE_INDEX not in options.void_ids:
        print(
            f"the label images hold 0 and {IGNORE_INDEX} alone, and evaluate takes {IGNORE_INDEX} for void: if it is a "
            f"class, give evaluate a data set (--dataset) whose YAML file has label_ids: [{IGNORE_INDEX}] for it"
        )
    print(f"wrote {options.out}: {total} images on {image_topic}{truths}, {total / options.rate:.1f} s")


class FrameMessages(MessageMaker):
    """Image files, label images and a calibration as messages."""

    def __init__(self, typestore: Any, options: argparse.Namespace) -> None:
        super().__init__(typestore)
        self._kind, self._frame_id = options.compressed, options.frame_id
        self._degrees = options.field_of_view
        self._used_bits = UsedBits(options.used_bits, partial(_warn, options.frames), "--used-bits")
        self._table = np.arange(1 << 16, dtype=np.uint16)
        self._table[list(options.void_ids)] = IGNORE_INDEX
        # Of all label images so far.
        self.label_ids: set[int] = set()

    def frame(self, path: Path, stamp: Stamp) -> tuple[tuple[int, int], memoryview]:
        """Height and width of an image, and its Image or CompressedImage. Raises BagError."""
        try:
            data = np.fromfile(path, np.uint8)
            image = decode_encoded(data, self._used_bits)
        except (OSError, ImageError) as error:
            raise BagError(f"{path} cannot be read: {why(error)}") from error
        size = (image.shape[0], image.shape[1])
        if self._kind == "none":
            return size, self.image(image, "rgb8", stamp, self._frame_id)
        header = _header_as_it_is(data, self._kind)
        if header is None:
            settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if self._kind == "jpeg" else []
            try:
                data = encode_image(image, f".{self._kind}", settings)
            except EncodeError as error:
                raise BagError(f"{path} cannot go into the bag: {why(error)}") from error
        # As image_transport writes it.
        gray = header is not None and header.channels == 1
        name = f"mono8; {self._kind} compressed " if gray else f"rgb8; {self._kind} compressed bgr8"
        return size, self._serialize(COMPRESSED_IMAGE, stamp, self._frame_id, format=name, data=data)

    def truth(self, path: Path, size: tuple[int, int], stamp: Stamp) -> memoryview:
        """A label image of `size` as a `mono8` Image. Raises BagError."""
        labels = self._table[_read_labels(path, size)]
        if (largest := int(labels.max())) > 255:
            raise BagError(
                f"{path} has label id {largest}, and a bag's label images hold 0 to 255: name it among --void-ids, or "
                "give label images of fewer classes"
            )
        self.label_ids.update(np.flatnonzero(np.bincount(labels.ravel())).tolist())
        return self.image(labels.astype(np.uint8), "mono8", stamp, self._frame_id)

    def pinhole(self, size: tuple[int, int], stamp: Stamp) -> memoryview:
        """The CameraInfo of a camera without distortion, its centre the image's and its pixels square."""
        height, width = size
        focal = width / 2 / math.tan(math.radians(self._degrees) / 2)
        k = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
        region = self._store.types["sensor_msgs/msg/RegionOfInterest"]
        return self._serialize(
            CAMERA_INFO,
            stamp,
            self._frame_id,
            height=height,
            width=width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=k.ravel(),
            r=np.eye(3).ravel(),
            p=np.hstack([k, np.zeros((3, 1))]).ravel(),
            binning_x=0,
            binning_y=0,
            roi=region(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
        )


def _warn(frames: Path, line: str) -> None:
    tqdm.write(f"bag make: {frames}: {line}", file=sys.stderr)


def _ids(text: str) -> tuple[int, ...]:
    """Raises ArgumentTypeError."""
    try:
        ids = tuple(int(each) for each in text.split(","))
    except ValueError:
        ids = (-1,)
    if not all(0 <= each <= 65535 for each in ids):
        raise argparse.ArgumentTypeError(f"{text!r} must be label ids 0 to 65535 with commas between, such as 11,12")
    return ids


def _check(options: argparse.Namespace) -> None:
    """Raises BagError."""
    if not (math.isfinite(options.rate) and 0 < options.rate <= 1000):
        raise BagError(f"--rate is {options.rate}; it must be above 0 and at most 1000 images a second")
    if not STARTS[0] <= options.start <= STARTS[1]:
        raise BagError(f"--start is {options.start}; it must be above 0 seconds and at most {STARTS[1]:.0f}")
    if options.repeat < 1:
        raise BagError(f"--repeat is {options.repeat}; it must be 1 or more")
    if options.field_of_view is not None and not 0 < options.field_of_view < 180:
        raise BagError(f"--field-of-view is {options.field_of_view}; it must be between 0 and 180 degrees")
    for name, topic in (("--image-topic", options.image_topic), ("--truth-topic", options.truth_topic)):
        if not TOPIC.fullmatch(topic):
            raise BagError(f"{name} is {topic!r}, which is no name of a topic, such as /camera/image_raw")
    if options.image_topic.strip("/") == options.truth_topic.strip("/"):
        raise BagError(f"--image-topic and --truth-topic are both {options.image_topic}")
    if options.void_ids and not options.labels:
        raise BagError("--void-ids are of label images: give their folder as --labels")


def _images(name: str, folder: Path) -> list[Path]:
    """Raises BagError."""
    if not folder.is_dir():
        raise BagError(f"{name} {folder} is no folder" if folder.exists() else f"{name} {folder} does not exist")
    try:
        files = image_files(folder)
    except SourceError as error:
        raise BagError(f"{name} {error}") from error
    if not files:
        raise BagError(f"{name} {folder} holds no images ({' '.join(IMAGE_SUFFIXES)})")
    return files


def _pair(frames: list[Path], labels: list[Path], options: argparse.Namespace) -> dict[Path, Path]:
    """The label image of each frame that has one. Raises BagError."""
    by_name: dict[str, Path] = {}
    for frame in frames:
        if (other := by_name.setdefault(frame.stem, frame)) != frame:
            raise BagError(f"{other} and {frame.name} have one name: which of them is labelled? Rename or remove one")
    pairs: dict[Path, Path] = {}
    alone = [label for label in labels if label.stem not in by_name]
    if alone:
        more = f" (nor have {len(alone) - 1} others)" if len(alone) > 1 else ""
        raise BagError(
            f"{alone[0]} has no image of that name in {options.frames}{more}: label images are named as their images"
        )
    for label in labels:
        if (other := pairs.setdefault(by_name[label.stem], label)) != label:
            raise BagError(f"{other} and {label.name} are both labels of {by_name[label.stem].name}: remove one")
    return pairs


def _header_as_it_is(data: NDArray[np.uint8], kind: str) -> Header | None:
    """The header of a file that can be handed on: in a bag it must be the same picture. None if it is another there.

    A bag's images are not turned, may be too large to be read, and have 8 bits in one or three channels.
    """
    try:
        header = check_compressed(data.tobytes(), "it")
    except ImageError:
        return None
    same = header.kind == kind and header.orientation == 1 and header.bits <= 8 and header.channels in (1, 3)
    return header if same else None


def _read_labels(path: Path, size: tuple[int, int]) -> NDArray[Any]:
    """The `(H, W)` ids of a label image, uint8 or uint16. Raises BagError."""
    try:
        labels = decode_label_file(np.fromfile(path, np.uint8)).ids()
    except OSError as error:
        raise BagError(f"{path} cannot be read: {why(error)}") from error
    except LabelFormatError as error:
        raise BagError(f"{path} {error}") from error
    if labels is None:
        raise BagError(
            f"{path} has colours, and a bag's ground truth is class ids: leave --labels out, and give the folder and "
            "the data set that says what the colours mean to evaluate (its --dataset)"
        )
    if labels.shape != size:
        found = f"{labels.shape[1]}x{labels.shape[0]}"
        raise BagError(f"{path} has {found} pixels and its image {size[1]}x{size[0]}: they must be the same")
    return labels
