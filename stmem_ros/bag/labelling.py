"""The run of a segmentation: decoding ahead of the network, writing behind it, all in an order that repeats."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from stmem_ros.bag.frames import BagFrame, Piece, pieces
from stmem_ros.bag.io.errors import why
from stmem_ros.bag.io.reader import Bag
from stmem_ros.bag.messages import CameraInfos, MessageMaker
from stmem_ros.bag.pipeline import WriteBehind, read_ahead
from stmem_ros.bag.plan import CameraPlan, Plan
from stmem_ros.bag.stream import CameraStream, Due
from stmem_ros.decode import ImageError
from stmem_ros.labels import LabelSet, colorize
from stmem_ros.streaming import Segmentation, StreamingSegmenter
from stmem_ros.used_bits import UsedBits

# Pieces between the threads; each has one frame at most, or some megabytes of other messages.
DEPTH = 4

Write = Callable[[str, bytes | memoryview, int], None]


@dataclasses.dataclass
class CameraResult:
    """What became of a camera's frames.

    `problems` has, by reason, the first line and how many have no label; `uncalibrated` the first line about a label
    without a calibration, and how many there are.
    """

    plan: CameraPlan
    stream: CameraStream[BagFrame]
    frames: int = 0
    labelled: int = 0
    left_out: int = 0
    problems: dict[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
    uncalibrated: tuple[str, int] = ("", 0)

    def summary(self) -> str:
        """One line: what was labelled, on topics that have messages, and how often the window began anew."""
        empty = "camera_info" if self.uncalibrated[1] == self.labelled else ""
        outputs = ", ".join(topic for name, topic in self.plan.outputs.items() if name != empty)
        line = f"{self.plan.topic}: {self.labelled} of {self.frames} frames labelled, on {outputs}"
        resets = [f"{count} because {reason.value}" for reason, count in self.stream.resets.items()]
        return f"{line}; new windows: {', '.join(resets)}" if resets else line

    def losses(self) -> list[str]:
        """A line for each reason why frames have no label, and one for labels that have no calibration."""
        lines = [
            f"{first}; {count} of {self.frames} frames on {self.plan.topic} for this reason" if count > 1 else first
            for first, count in self.problems.values()
        ]
        first, count = self.uncalibrated
        if count:
            topic = self.plan.outputs["camera_info"]
            whole = (
                f"{topic} is empty" if count == self.labelled else f"{topic} lacks {count} of {self.labelled} messages"
            )
            lines.append(f"{whole}: {first}")
        return lines


class Labelling:
    """One run over a bag. Without `wanted` all frames are labelled, else those of these stamps.

    Two runs with the same settings call `write` with the same messages in the same order. A run that is to go on from
    another's first `done` messages calls it with the ones after them, and computes only what those need.
    """

    def __init__(
        self, bag: Bag, plan: Plan, engine: StreamingSegmenter, infos: Mapping[str, CameraInfos], done: int = 0
    ) -> None:
        confidence = any("confidence" in camera.outputs for camera in plan.cameras)
        self.cameras = {
            camera.topic: CameraResult(camera, CameraStream(engine.sibling(), confidence)) for camera in plan.cameras
        }
        self._bag, self._plan, self._infos = bag, plan, infos
        self._labels: LabelSet = engine.info.labels
        self._table = self._labels.lookup_table()
        self._maker = MessageMaker(bag.typestore)
        self._done = done

    def run(
        self,
        write: Write,
        wanted: Container[int] | None = None,
        progress: Callable[[], object] = lambda: None,
        warn: Callable[[str], object] = lambda line: None,
    ) -> None:
        """`progress` is called after each frame, `warn` with a line at each new reason why a frame has no label,
        and for images that seem to be darker than they should be.

        Raises BagError, and what `write` raises.
        """
        self._write, self._warn = write, warn
        used_bits = {
            topic: UsedBits(self._plan.used_bits, partial(_warn_of, warn, topic), "--used-bits")
            for topic in self._plan.frames
        }
        with (
            WriteBehind[Callable[[], None]](lambda job: job(), DEPTH) as self._behind,
            contextlib.closing(
                read_ahead(pieces(self._bag, self._plan.frames, self._plan.passed, used_bits, wanted), DEPTH)
            ) as ahead,
        ):
            first = True
            for piece in ahead:
                if first:
                    self._introduce(piece)
                    first = False
                self._pass_on([(each.topic, each.data, each.recorded_ns) for each in piece.messages])
                if piece.frame is not None:
                    self._take(piece.frame)
                    progress()
            for camera in self.cameras.values():
                for due in camera.stream.end():
                    self._label(camera, due)

    def _introduce(self, piece: Piece) -> None:
        """Which classes there are, before everything else."""
        times = [message.recorded_ns for message in piece.messages]
        start_ns = min([*times, piece.frame.recorded_ns] if piece.frame is not None else times)
        data = self._maker.label_info(self._labels, divmod(start_ns, 1_000_000_000))
        topics = [each.plan.outputs.get("label_info") for each in self.cameras.values()]
        self._pass_on([(topic, data, start_ns) for topic in topics if topic is not None])

    def _pass_on(self, messages: Sequence[tuple[str, bytes | memoryview, int]]) -> None:
        left = messages[self._leave_out(len(messages)) :]
        if left:
            self._behind.put(partial(self._write_all, left))

    def _leave_out(self, count: int) -> int:
        """How many of the next `count` messages another run has written."""
        written = min(self._done, count)
        self._done -= written
        return written

    def _take(self, frame: BagFrame) -> None:
        camera = self.cameras[frame.camera]
        camera.frames += 1
        problem = frame.problem
        if problem is None and frame.image.size:
            try:
                camera.stream.check(frame.image)
            except ImageError as error:
                problem = error
        if problem is not None:
            line = f"the image of stamp {frame.stamp_ns} ns on {frame.camera} gets no label: {why(problem)}"
            first, count = camera.problems.get(problem.kind, (line, 0))
            camera.problems[problem.kind] = (first, count + 1)
            if not count:
                self._warn(line)
            camera.stream.skip(frame.stamp_ns)
        elif not frame.image.size:
            camera.left_out += 1
            camera.stream.skip(frame.stamp_ns)
        else:
            for due in camera.stream.push(frame):
                self._label(camera, due)

    def _label(self, camera: CameraResult, due: Due[BagFrame]) -> None:
        camera.labelled += 1
        frame, plan = due.frame, camera.plan
        info = self._calibration(camera, frame)
        count = len(plan.pictures) + (info is not None)
        written = self._leave_out(count)
        if written < count:
            self._behind.put(partial(self._write_labelled, plan, frame, due.label(), info, written))

    def _calibration(self, camera: CameraResult, frame: BagFrame) -> memoryview | None:
        topic = camera.plan.info_topic
        if topic is None:
            return None
        height, width = frame.image.shape[:2]
        try:
            return self._infos[topic].at(frame.stamp_ns, (height, width), frame.stamp, frame.frame_id)
        except ValueError as error:
            first, count = camera.uncalibrated
            line = first or (
                f"the calibration on {topic} cannot be used for the image of stamp {frame.stamp_ns} ns on "
                f"{frame.camera}: {error}, or name the topic of another with --camera-info-topic"
            )
            camera.uncalibrated = line, count + 1
            return None

    # The writer's thread

    def _write_all(self, messages: Sequence[tuple[str, bytes | memoryview, int]]) -> None:
        for message in messages:
            self._write(*message)

    def _write_labelled(
        self, plan: CameraPlan, frame: BagFrame, segmentation: Segmentation, info: memoryview | None, written: int
    ) -> None:
        messages: list[tuple[str, bytes | memoryview, int]] = []
        if info is not None:
            messages.append((plan.outputs["camera_info"], info, frame.recorded_ns))
        for name, topic in plan.pictures:
            pixels = self._picture(name, segmentation)
            data = self._maker.image(pixels, "mono8" if pixels.ndim == 2 else "rgb8", frame.stamp, frame.frame_id)
            messages.append((topic, data, frame.recorded_ns))
        self._write_all(messages[written:])

    def _picture(self, name: str, segmentation: Segmentation) -> NDArray[np.uint8]:
        if name == "color":
            return colorize(segmentation.labels, self._table)
        if name == "labels":
            return segmentation.labels
        assert segmentation.confidence is not None
        return segmentation.confidence


def _warn_of(warn: Callable[[str], object], topic: str, line: str) -> None:
    warn(f"{topic}: {line}")
