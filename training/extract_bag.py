"""A training set out of a ROS bag: camera frames, and the label images that belong to them by stamp.

`python -m training.extract_bag BAG --images TOPIC --labels TOPIC --output DIR` writes PNG files and the YAML file
that describes them. Further bags, splits and sequences may be written into the same folder.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from tqdm import tqdm

from stmem_ros.command import exit_status
from stmem_ros.decode import ImageError, decode_message
from stmem_ros.encode import write_image
from stmem_ros.files import user_path, whole_file
from stmem_ros.labels import IGNORE_INDEX, LabelSet
from stmem_ros.program import called
from stmem_ros.sources import BagSource, SourceError
from stmem_ros.used_bits import UsedBits, add_used_bits
from training.data.dataset import DatasetError, load_spec, require_classes, require_one_size
from training.data.label_info import read_label_info
from training.data.label_messages import LabelReader
from training.data.pairing import require_pairs

MARK = (
    "# Written by training.extract_bag, which may add to this folder. The classes' names and colours are yours to edit."
)
NUMBERS = "# Frame numbers are milliseconds since the sequence's first frame."
NAME_PATTERN = r"(?P<sequence>[^/]+)_(?P<frame>\d+)"


def extract(options: argparse.Namespace) -> list[str]:
    """One extraction as the command line asks for it; returns lines that tell of it.

    Raises DatasetError, SourceError or OSError; what was in the folder before is then still there.
    """
    bag, output = options.bag, options.output
    if not bag.exists():
        raise SourceError(f"{bag} does not exist: give a rosbag2 folder or a bag file")
    sequence = options.sequence or re.sub(r"[^\w.-]+", "-", bag.resolve().name if bag.is_dir() else bag.stem)
    spec = None if options.dataset is None else load_spec(options.dataset)
    own = own_yaml(output)
    if own is not None:
        written = load_spec(own)
        if spec is not None:
            require_classes(spec.labels, written, spec.name)
        if options.keep_unlabelled and not written.unlabelled_frames:
            raise DatasetError(f"{own} allows no unlabelled frames: set unlabelled_frames: true in it")
        spec = spec or written
    folders = [options.split, f"{options.split}annot"]
    for other in output.iterdir() if own is not None else ():
        if other.name not in folders and other.is_dir() and _files_of(sequence, other):
            raise DatasetError(f"{other} holds sequence {sequence} already: a sequence belongs to one split")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".extract-", dir=output) as partial:
        frames, labels = (Path(partial, folder) for folder in folders)
        frames.mkdir()
        labels.mkdir()
        with BagSource(bag, options.images) as images, BagSource(bag, options.labels) as truths:
            if images.topic == truths.topic:
                raise DatasetError(f"--images and --labels are both {images.topic}")
            info = None if options.dataset is not None else read_label_info(truths.bag, truths.topic)
            if info is not None and own is not None and spec is not None:
                info.require(spec.labels, f"{own}; if they are the same classes, say so with --dataset {own}")
            reader = LabelReader(spec, info)
            left_out = write_frames(images, truths, reader, frames, labels, sequence, options)
        counts = [len(list(folder.iterdir())) for folder in (frames, labels)]
        if own is None:
            own = output / f"{output.resolve().name}.yaml"
            write_yaml(own, reader.labels(), options.keep_unlabelled)
        for source in (labels, frames):
            move_sequence(sequence, source, output / source.name)
    lines = [f"wrote {counts[0]} frames, {counts[1]} of them labelled, as sequence {sequence} of split {options.split}"]
    return [
        *lines,
        *left_out,
        f"check them: python -m training.check_dataset --dataset {own} --root {output} --splits {folders[0]}",
    ]


def write_frames(
    images: BagSource,
    truths: BagSource,
    reader: LabelReader,
    frames: Path,
    labels: Path,
    sequence: str,
    options: argparse.Namespace,
) -> list[str]:
    """Write the frames and label images of one bag; returns a line for each kind of message that was left out.

    Raises DatasetError where nothing can be labelled, or a label image is unfit in a way that others will be, too.
    """
    stamps, truth_stamps = ([stamp for _, stamp in source.messages()] for source in (images, truths))
    where = f"{images.name} has no label image on {truths.topic}", f"an image on {images.topic}"
    pairs = require_pairs(stamps, truth_stamps, options.tolerance, *where)
    labelled = sorted(pairs, key=lambda image: stamps[image])[:: options.every]
    first, by_number = min(stamps), {}
    # Of images within one millisecond the first stays, a labelled one before others.
    for image in [*labelled, *(range(len(stamps)) if options.keep_unlabelled else ())]:
        by_number.setdefault(round((stamps[image] - first) / 1e6), image)
    names = {image: f"{sequence}_{number:08d}.png" for number, image in by_number.items()}
    told = []
    if len(pairs) < len(truth_stamps):
        alone = f"{len(truth_stamps) - len(pairs)} of {len(truth_stamps)} label images on {truths.topic}"
        told.append(
            f"left out {alone}, which have no image on {images.topic} of their own within {options.tolerance:g} s"
        )
    wanted = len(stamps) if options.keep_unlabelled else len(labelled)
    if len(names) < wanted:
        told.append(f"left out {wanted - len(names)} of {wanted} images: others have their stamps, to the millisecond")
    skipped: list[str] = []
    shapes = {}
    used_bits = UsedBits(
        options.used_bits, lambda line: tqdm.write(f"{images.topic}: {line}", sys.stderr), "--used-bits"
    )
    for image, pixels in read(images, names, lambda message, _: decode_message(message, used_bits), skipped):
        write_image(frames / names[image], pixels, survive_power_loss=False)
        shapes[image] = pixels.shape
    image_of = {pairs[image]: image for image in labelled if image in shapes}
    for truth, ids in read(truths, image_of, reader.read, skipped):
        image = image_of.pop(truth)
        require_one_size(shapes[image], ids.shape, _where(truths, truth))
        write_image(labels / names[image], ids, survive_power_loss=False)
    if not options.keep_unlabelled:
        for image in image_of.values():
            (frames / names[image]).unlink()
    if not any(labels.iterdir()):
        raise DatasetError(f"{images.name}: no frame could be read together with its labels; the first: {skipped[0]}")
    if skipped:
        told.append(f"skipped {len(skipped)} messages that could not be read; the first: {skipped[0]}")
    return told


def read(
    source: BagSource, wanted: Container[int], decode: Callable[[Any, str], NDArray[np.uint8]], skipped: list[str]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The wanted messages of a topic, decoded, each with its index; a damaged one becomes a line in `skipped`."""
    messages = tqdm(source.messages(), source.topic, source.frame_count, unit="message", disable=None)
    for index, (message, _) in enumerate(messages):
        if index in wanted:
            where = _where(source, index)
            try:
                pixels = decode(message, where)
            except ImageError as error:
                skipped.append(f"{where}: {error}")
            else:
                yield index, pixels


def own_yaml(output: Path) -> Path | None:
    """The YAML file of an earlier extraction, None for a new folder. Raises DatasetError for a folder of others'."""
    if not output.exists():
        return None
    if not output.is_dir():
        raise DatasetError(f"--output {output} is a file; it must be a folder")
    for path in sorted(output.glob("*.yaml")):
        if path.read_text("utf-8-sig", errors="replace").startswith(MARK):
            return path
    if any(not path.name.startswith(".") for path in output.iterdir()):
        raise DatasetError(f"--output {output} holds files that extract_bag did not write: give a new or empty folder")
    return None


def write_yaml(path: Path, labels: LabelSet, unlabelled: bool) -> None:
    """Describe an extracted data set. The file is written whole or not at all."""
    classes = zip(labels.names, labels.palette, strict=True)
    document = {
        "classes": [{"name": name, "color": list(color)} for name, color in classes],
        "void_ids": [IGNORE_INDEX],
        "frames": "{split}",
        "labels": "{split}annot",
        "name_pattern": NAME_PATTERN,
        "unlabelled_frames": unlabelled,
        "frame_rate": 1000,
    }
    text = yaml.safe_dump(document, sort_keys=False, default_flow_style=None)
    with whole_file(path) as partial:
        partial.write_text(f"{MARK}\n{NUMBERS}\n{text}")


def move_sequence(sequence: str, source: Path, target: Path) -> None:
    """Put the files in `source` in the place of what `target` has of that sequence."""
    target.mkdir(exist_ok=True)
    for path in _files_of(sequence, target):
        path.unlink()
    for path in source.iterdir():
        os.replace(path, target / path.name)


def _files_of(sequence: str, folder: Path) -> list[Path]:
    matches = ((path, re.fullmatch(NAME_PATTERN, path.stem)) for path in folder.glob("*.png"))
    return [path for path, match in matches if match and match["sequence"] == sequence]


def _where(source: BagSource, index: int) -> str:
    return f"{source.name}, message {index} on {source.topic}"


def _word(text: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} may hold letters, digits, '.', '_' and '-' only")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 on")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds from 0 on")
    return seconds


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0, or 1 after one line on stderr that says why nothing was written."""
    parser = argparse.ArgumentParser(
        prog=called("training.extract_bag"),
        description="Write camera frames of a bag, and the label images that belong to them by stamp, as a data set.",
    )
    parser.add_argument("bag", type=user_path, help="a rosbag2 folder, or a .mcap, .db3 or ROS 1 .bag file")
    parser.add_argument("--images", required=True, help="topic of camera images (Image or CompressedImage)")
    parser.add_argument(
        "--labels", required=True, help="topic of label images: mono8 ids or colours (Image, or CompressedImage of PNG)"
    )
    parser.add_argument(
        "--output", required=True, type=user_path, help="folder to write, new or of an earlier extraction"
    )
    parser.add_argument("--split", default="train", type=_word, help="train, val or test (default: %(default)s)")
    parser.add_argument("--sequence", type=_word, help="name for this bag's frames (default: the bag's name)")
    parser.add_argument("--every", type=_positive, default=1, help="label only every Nth of the pairs (default: all)")
    parser.add_argument(
        "--keep-unlabelled", action="store_true", help="also write frames without labels, as neighbours in time"
    )
    parser.add_argument(
        "--tolerance", type=_seconds, default=0.001, help="seconds that the stamps may differ (default: %(default)s)"
    )
    parser.add_argument(
        "--dataset",
        help="which classes the labels are: a name from training/datasets or a YAML file "
        "(default: the folder's own, those that label_info beside the labels lists, or one class for each id, to be "
        "named in the YAML file written)",
    )
    add_used_bits(parser)
    options = parser.parse_args(arguments)
    return exit_status(
        "extract_bag",
        lambda: print(*extract(options), sep="\n"),
        (DatasetError, SourceError),
        "the same command begins anew",
    )


if __name__ == "__main__":
    sys.exit(main())
