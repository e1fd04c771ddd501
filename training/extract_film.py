"""Take labelled frames' neighbours from the film that they were stills of: CamVid's labels lie a second apart.

`python -m training.extract_film 0006R0.MXF --sequence 0006R0 --root CamVid`
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stmem_ros.command import exit_status
from stmem_ros.encode import write_image
from stmem_ros.files import user_path
from stmem_ros.program import called
from training.data.dataset import DatasetError, DatasetSpec, LabelledFrame, load_spec, scan

# What pictures are compared by, (width, height), and how alike (correlation) a still and its own frame are at least:
# decoders differ in brightness and contrast, a frame of another moment falls below this unless nothing moves.
THUMBNAIL = (48, 36)
ALIKE = 0.97
LARGEST_REACH = 15


def read_film(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Every frame `(H, W, 3)` RGB of a film. Raises DatasetError where OpenCV cannot decode it."""
    film = cv2.VideoCapture(str(path))
    try:
        read, image = film.read()
        if not read:
            raise DatasetError(f"{path} cannot be decoded: it must be a film that OpenCV reads")
        while read:
            yield np.ascontiguousarray(image[..., ::-1])
            read, image = film.read()
    finally:
        film.release()


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A small grey picture as a vector of mean 0 and length 1: products of two are correlations."""
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), THUMBNAIL, interpolation=cv2.INTER_AREA)
    vector = small.astype(np.float32).ravel()
    vector -= vector.mean()
    return vector / max(float(np.linalg.norm(vector)), 1e-3)


def align(stills: NDArray[np.float32], numbers: NDArray[np.int64], film: NDArray[np.float32]) -> tuple[int, list[bool]]:
    """The number of the film's first frame, and which stills the film shows at their numbers.

    The number is the one under which stills and film are most alike. `stills` and `film` are rows of thumbnails.
    """
    alike = stills @ film.T
    rows = np.arange(len(numbers))

    def likeness(first: int) -> NDArray[np.float32]:
        places = numbers - first
        inside = (places >= 0) & (places < len(film))
        return np.where(inside, alike[rows, np.clip(places, 0, len(film) - 1)], 0)

    candidates = range(int(numbers.min()) - len(film) + 1, int(numbers.max()) + 1)
    first = max(candidates, key=lambda candidate: float(likeness(candidate).sum()))
    return first, (likeness(first) >= ALIKE).tolist()


def frame_name(frame: LabelledFrame, number: int, spec: DatasetSpec) -> str:
    """`frame`'s file name with another number. Raises DatasetError where the data set's names hold none."""
    match = spec.name_pattern.fullmatch(frame.image.stem)
    if match is None:
        raise DatasetError(f"{frame.image.name} alone does not fit the name_pattern of {spec.name}: it names folders")
    digits = str(number).zfill(len(match["frame"]))
    return f"{frame.image.stem[: match.start('frame')]}{digits}{frame.image.stem[match.end('frame') :]}.png"


def extract(film: Path, frames: list[LabelledFrame], spec: DatasetSpec, output: Path, reach: int) -> tuple[int, int]:
    """Write the `reach` frames before and after each labelled frame that the film shows; returns (labelled, written).

    They have the size of the labelled frames. Raises DatasetError where the film is that of other frames.
    """
    numbers = np.array([frame.number for frame in frames])
    stills = np.stack([thumbnail(spec.read_image(frame.image)) for frame in frames])
    first, shown = align(stills, numbers, np.stack([thumbnail(image) for image in read_film(film)]))
    if 2 * sum(shown) <= len(frames):
        raise DatasetError(
            f"{film} shows {sum(shown)} of the {len(frames)} labelled frames of sequence {frames[0].sequence}: "
            "it is another sequence's film, or its frame numbers do not follow those of the stills"
        )
    labelled = {frame.number for frame in frames}
    wanted: dict[int, LabelledFrame] = {}
    for frame, there in zip(frames, shown, strict=True):
        near = range(frame.number - reach, frame.number + reach + 1) if there else ()
        wanted.update({number: frame for number in near if number not in labelled})
    written = 0
    for number, image in enumerate(read_film(film), first):
        if number in wanted:
            height, width = spec.read_image(wanted[number].image).shape[:2]
            if image.shape[:2] != (height, width):
                image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            write_image(output / frame_name(wanted[number], number, spec), image)
            written += 1
    print(f"{film}: its first frame is number {first}; {sum(shown)} of {len(frames)} labelled frames found in it")
    return sum(shown), written


def run(options: argparse.Namespace) -> None:
    if not 1 <= options.reach <= LARGEST_REACH:
        raise DatasetError(f"--reach is {options.reach}; it must be 1 to {LARGEST_REACH} frames")
    # All labelled frames, whatever split they are listed in.
    spec = dataclasses.replace(load_spec(options.dataset), list_file=None, unlabelled_frames=True)
    frames = scan(spec, options.root, options.split).frames
    sequences = sorted({frame.sequence for frame in frames})
    frames = [frame for frame in frames if frame.sequence == options.sequence]
    if not frames:
        raise DatasetError(f"--sequence {options.sequence} has no labelled frame; there are {', '.join(sequences)}")
    output = options.output or options.root / spec.frames_folder.format(split=options.split) / "film"
    _, written = extract(options.film, frames, spec, output, options.reach)
    print(f"wrote {written} neighbours into {output}")


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0, or 1 after one line on stderr that says why nothing was extracted."""
    parser = argparse.ArgumentParser(
        prog=called("training.extract_film"),
        description="Find labelled frames in the film that they come from, and write the frames beside each.",
    )
    parser.add_argument("film", type=user_path, help="a video file: CamVid's .avi or .MXF")
    parser.add_argument("--sequence", required=True, help="as the labelled frames' names have it: 0001TP, Seq05VD ...")
    parser.add_argument("--root", required=True, type=user_path, help="the folder that the data set lies in")
    parser.add_argument("--dataset", default="camvid_full", help="a name or a YAML file (default: camvid_full)")
    parser.add_argument("--split", default="train", help="where a data set has a folder a split (default: train)")
    parser.add_argument(
        "--reach", type=int, default=2, help="frames before and after: 2 serve centred and causal windows (default)"
    )
    parser.add_argument(
        "--output", type=user_path, help="folder to write into (default: film/, in the folder of the frames)"
    )
    options = parser.parse_args(arguments)
    return exit_status("extract_film", lambda: run(options), (DatasetError,), "the same command begins anew")


if __name__ == "__main__":
    sys.exit(main())
