"""The thread that decodes, segments and publishes: what waits goes through the network together."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rclpy.clock import ROSClock
from std_msgs.msg import Header

from stmem_ros.decode import ImageError, decode_message
from stmem_ros.files import kind_and_line
from stmem_ros.node.clocks import Reading, latency_of
from stmem_ros.node.mailbox import Letter, Mailbox
from stmem_ros.node.messages import stamp_from_ns
from stmem_ros.node.outputs import at_output_size
from stmem_ros.node.settings import FrameSettings
from stmem_ros.node.statistics import ANOTHER_PUBLISHER, ASKED_FOR, FAILURE, LOST_TO_FAILURE, FrameTimes
from stmem_ros.node.stream import Stream
from stmem_ros.streaming import Segmentation, batches, step_together
from stmem_ros.streaming.batch import Step

Complain = Callable[[str, str], object]
# Takes what makes a line, which is made if somebody asked for it.
Debug = Callable[[Callable[[], str]], object]
# Seconds between two frames whose times are logged for debugging.
TIMED_EVERY = 5.0
T = TypeVar("T")


@dataclasses.dataclass
class Job:
    """A frame in work: when it came and was decoded, and the seconds it took so far."""

    stream: Stream
    letter: Letter
    step: Step
    wait: float
    decode: float
    prepare: float


class Worker:
    """`between` is called before each round, while no frame is in work; `alive` is whether to go on complaining."""

    def __init__(
        self,
        clock: ROSClock,
        settings: Callable[[], FrameSettings],
        between: Callable[[], None],
        complain: Complain,
        alive: Callable[[], bool],
        debug: Debug = lambda _: None,
    ) -> None:
        self.mailbox: Mailbox[Stream] = Mailbox()
        self._clock, self._settings = clock, settings
        self._between, self._complain, self._alive, self._debug = between, complain, alive, debug
        self._timed = 0.0
        # Colours `(256, 3)` of the labels, and how many cameras the network takes at once (0: any number).
        self.table: NDArray[np.uint8] = np.zeros((256, 3), np.uint8)
        self.most_together = 0
        self._thread = threading.Thread(target=self._run, name="segmentation worker")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Wait for the frame in work, and end."""
        self.mailbox.close()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while (letters := self.mailbox.take(self._guarded(self._most) or 0)) is not None:
            self._guarded(self._between)
            self._guarded(partial(self._round, letters))

    def _most(self) -> int:
        """How many cameras the next round may take; 0: any number."""
        return min((count for count in (self._settings().max_batch, self.most_together) if count), default=0)

    def _guarded(self, work: Callable[[], T]) -> T | None:
        """What `work` returns; None where it raises, which must not end the thread."""
        try:
            return work()
        except Exception as error:
            # Where the context is gone, nobody is there to be told, and the mailbox will be closed.
            if self._alive():
                self._complain("worker", f"between two frames: {kind_and_line(error)}")
            return None

    def _round(self, letters: list[tuple[Stream, Letter]]) -> None:
        settings = self._settings()
        jobs = {}
        for stream, letter in letters:
            try:
                jobs[id(stream.engine)] = self._prepare(stream, letter, settings)
            except ImageError as error:
                self._reject(stream, error.kind, str(error))
            except Exception as error:
                # Whatever went wrong with this frame must not end the stream.
                self._fail(stream, error)
        for group in batches([job.step for job in jobs.values()], settings.max_batch):
            self._segment([jobs[id(step.stream)] for step in group], settings)

    def _prepare(self, stream: Stream, letter: Letter, settings: FrameSettings) -> Job:
        engine, message = stream.engine, letter.message
        assert engine is not None
        if engine.config.max_gap != settings.max_gap:
            engine.config = dataclasses.replace(engine.config, max_gap=settings.max_gap)
        if stream.reset_asked.is_set():
            stream.reset_asked.clear()
            engine.reset()
            stream.statistics.reset(ASKED_FOR)
            self._debug(lambda: f"new window on {stream.topic}: {ASKED_FOR}")
        taken = time.perf_counter()
        stream.used_bits.bits = settings.used_bits
        image = decode_message(message, stream.used_bits)
        stream.size = (image.shape[0], image.shape[1])
        decoded = time.perf_counter()
        if engine.state.newest is not None and letter.origin != stream.origin:
            engine.reset()
            self._say_reset(stream, ANOTHER_PUBLISHER)
        stream.origin = letter.origin
        prepared = engine.prepare(image, letter.stamp_ns, message.header.frame_id, letter.skipped)
        if engine.last_reset is not None:
            self._say_reset(stream, engine.last_reset.value)
        step = Step(engine, prepared, stream.outputs.wanted("confidence"), stream.look_for_subscribers())
        return Job(stream, letter, step, taken - letter.arrival, decoded - taken, time.perf_counter() - decoded)

    def _segment(self, jobs: list[Job], settings: FrameSettings) -> bool:
        """Returns whether the network took all of them. Where it fails on several, it is given them one by one."""
        started = time.perf_counter()
        failure = ""
        try:
            results = step_together([job.step for job in jobs])
        except Exception as error:
            if len(jobs) == 1 or not self._alive():
                self._fail(jobs[0].stream, error)
                return False
            failure = kind_and_line(error)
        if failure:
            # Only here: the error held the memory of the pass that failed.
            if all([self._segment([job], settings) for job in jobs]):
                self._complain(
                    "together",
                    f"the network fails on {len(jobs)} cameras' frames together, and labels them one by one, which is "
                    f"slower: {failure}; a max_batch below {len(jobs)} spares the attempt",
                )
            return False
        network = time.perf_counter() - started
        done = []
        for job, result in zip(jobs, results, strict=True):
            if result is None:
                if not job.step.labels:
                    job.stream.statistics.remembered()
                continue
            try:
                done.append((job, *self._publish(job, result, network, settings)))
            except Exception as error:
                self._fail(job.stream, error)
        # Labels of all cameras first: people can wait.
        for job, segmentation, header in done:
            try:
                job.stream.outputs.publish_pictures(segmentation, header, self.table, settings)
            except Exception as error:
                self._say_missing(job.stream, "pictures", error)
        return True

    def _publish(
        self, job: Job, result: Segmentation, network: float, settings: FrameSettings
    ) -> tuple[Segmentation, Header]:
        started = time.perf_counter()
        stream = job.stream
        segmentation = at_output_size(result, settings)
        header = Header(stamp=stamp_from_ns(result.stamp_ns), frame_id=result.frame_id)
        stream.outputs.publish_labels(segmentation, header)
        try:
            stream.publish_camera_info((segmentation.labels.shape[0], segmentation.labels.shape[1]), header)
        except Exception as error:
            self._say_missing(stream, "camera_info", error)
        published = time.perf_counter()
        latency = latency_of(result.stamp_ns, Reading.of(self._clock))
        if latency is None:
            latency = published - job.letter.arrival
        times = FrameTimes(job.wait, job.decode, job.prepare + network, published - started, latency)
        stream.statistics.labels_published(times)
        if published - self._timed > TIMED_EVERY:
            self._timed = published
            self._debug(lambda: f"a frame of {stream.line()}: {times.line()}")
        return segmentation, header

    def _reject(self, stream: Stream, kind: str, reason: str) -> None:
        stream.statistics.reject(kind)
        self._complain(f"{kind} {stream.name}", f"a frame on {stream.topic} cannot be segmented: {reason}")

    def _say_reset(self, stream: Stream, reason: str) -> None:
        stream.statistics.reset(reason)
        self._complain(f"{reason} {stream.name}", f"new window on {stream.topic}: {reason}")
        self._debug(lambda: f"new window on {stream.topic}, number {stream.statistics.resets[reason]}: {reason}")

    def _say_missing(self, stream: Stream, what: str, error: Exception) -> None:
        """Something beside the labels, which have left, cannot be made."""
        if not self._alive():
            raise error
        self._complain(f"{what} {stream.name}", f"no {what} for a frame on {stream.topic}: {kind_and_line(error)}")

    def _fail(self, stream: Stream, error: Exception) -> None:
        """A frame is lost to something that nobody foresaw, and with it the window."""
        if not self._alive():
            raise error
        self._reject(stream, FAILURE, kind_and_line(error))
        if stream.engine is not None and stream.engine.state.newest is not None:
            stream.engine.reset()
            stream.statistics.reset(LOST_TO_FAILURE)
            self._debug(lambda: f"new window on {stream.topic}: {LOST_TO_FAILURE}")
