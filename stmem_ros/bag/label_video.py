"""A segmented bag to look at: each camera beside its labels, as a video."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stmem_ros.bag.frames import BagFrame, pieces
from stmem_ros.bag.io.reader import Bag
from stmem_ros.bag.pipeline import read_ahead
from stmem_ros.bag.plan import CameraPlan, Plan
from stmem_ros.bag.video import OverlayVideo, frame_rate
from stmem_ros.labels import LabelSet
from stmem_ros.used_bits import UsedBits

FRAMES_FOR_RATE = 100
DEPTH = 4


def video_path(path: Path, camera: CameraPlan) -> Path:
    """`path`, with the camera's name where there are several."""
    return path.with_stem(f"{path.stem}_{camera.name.replace('/', '_')}") if camera.name else path


def write_videos(path: Path, source: Bag, segmented: Path, plan: Plan, labels: LabelSet, lost: list[str]) -> list[str]:
    """One video for each camera; each is written whole or not at all. A camera without labels becomes a line in `lost`.

    Returns a line for each video, and one about videos that browsers do not play. Raises BagError or VideoError.
    """
    written: list[str] = []
    notes: list[str] = []
    with Bag(segmented) as bag:
        for camera in plan.cameras:
            topic = camera.outputs["labels"]
            count = bag.topics[topic].count
            if not count:
                lost.append(f"no video of {camera.topic}: it has no labels on {topic}")
                continue
            with contextlib.closing(bag.in_stamp_order([topic])) as messages:
                rate = frame_rate(message.stamp_ns for message in islice(messages, FRAMES_FOR_RATE))
            target = video_path(path, camera)
            used_bits = {camera.topic: UsedBits(plan.used_bits)}
            with (
                OverlayVideo(target, labels, rate) as video,
                contextlib.closing(read_ahead(pieces(source, [camera.topic], (), used_bits), DEPTH)) as ahead,
            ):
                frames = (piece.frame for piece in ahead if piece.frame is not None)
                for message in tqdm(bag.in_stamp_order([topic]), target.name, count, unit="frame", disable=None):
                    content = bag.decode(message)
                    ids = np.frombuffer(content.data, np.uint8).reshape(content.height, content.width)
                    frame = _of_stamp(frames, message.stamp_ns, ids.shape)
                    video.add(frame.image, ids, message.stamp_ns)
            written.append(f"wrote {target}")
            notes += [video.note] if video.note else []
    return [*written, *notes[:1]]


def _of_stamp(frames: Iterator[BagFrame], stamp_ns: int, size: tuple[int, ...]) -> BagFrame:
    """Labels are in the order of their frames, of which some have none."""
    return next(frame for frame in frames if frame.stamp_ns == stamp_ns and frame.image.shape[:2] == size)
