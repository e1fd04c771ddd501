"""A bag as its cameras' frames in stamp order, each with the label images that belong to it by stamp."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from stmem_ros.bag.io.reader import Bag, BagError, Message
from stmem_ros.decode import ImageError, decode_message
from stmem_ros.labels import LabelSet
from stmem_ros.used_bits import UsedBits
from training.bag.cameras import Camera, Key, all_topics, choose_cameras, match
from training.bag.settings import EvaluationSettings
from training.bag.truth import (
    Labels,
    TruthReader,
    prediction,
    probability,
)
from training.data.dataset import require_one_size

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Recorded:
    """Labels that are in the bag, and the probability of them, 0..255, where that is there too; both `(H, W)`."""

    labels: Labels
    confidence: Labels | None


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One frame of a camera: `image` `(H, W, 3)` RGB uint8, None where it cannot be decoded.

    `recorded` are those of each of the camera's topics of recorded labels, None where it has none for this frame.
    """

    camera: int
    stamp_ns: int
    frame_id: str = ""
    image: NDArray[np.uint8] | None = None
    truth: Labels | None = None
    recorded: tuple[Recorded | None, ...] = ()


class Arrivals:
    """Label messages that wait for their frames. Where a stamp comes again (a bag that was looped), the first goes with
    the first.
    """

    def __init__(self, awaited: collections.Counter[Key]) -> None:
        self._awaited = awaited
        self._messages: dict[Key, collections.deque[Message]] = collections.defaultdict(collections.deque)

    def add(self, message: Message) -> None:
        key = message.topic, message.stamp_ns
        if self._awaited[key] > 0:
            self._awaited[key] -= 1
            self._messages[key].append(message)

    def lacks(self, key: Key) -> bool:
        """Whether a message is still to come for the next frame that wants it."""
        return not self._messages.get(key) and self._awaited[key] > 0

    def take(self, key: Key) -> Message | None:
        queue = self._messages.get(key)
        if not queue:
            return None
        message = queue.popleft()
        if not queue:
            del self._messages[key]
        return message


class Samples:
    """The frames of one bag: `read` them once; after that `lost` of each camera is complete.

    A first pass reads stamps alone, so that what belongs together is known before anything is segmented. Memory is
    bounded by the frames that come while one waits for its label images, so by `tolerance`.
    Raises BagError, DatasetError and EvaluationError.
    """

    def __init__(self, bag: Bag, settings: EvaluationSettings, labels: LabelSet, reader: TruthReader) -> None:
        self._bag, self._settings, self._reader = bag, settings, reader
        self._ids = TruthReader(labels, None, settings.classes_from)
        self.cameras = choose_cameras(bag, settings, labels)
        self._awaited = match(bag, self.cameras, settings)
        self._used_bits = [
            UsedBits(settings.used_bits, partial(self._note, camera.topic), "--used-bits") for camera in self.cameras
        ]

    @property
    def frames(self) -> int:
        """How many images there are, readable or not."""
        return sum(camera.frames for camera in self.cameras)

    def read(self) -> Generator[Sample, None, None]:
        places = {camera.topic: place for place, camera in enumerate(self.cameras)}
        arrivals = Arrivals(self._awaited)
        waiting: list[collections.deque[Message]] = [collections.deque() for _ in self.cameras]
        for message in self._bag.in_stamp_order(all_topics(self.cameras)):
            arrivals.add(message)
            if message.topic in places:
                waiting[places[message.topic]].append(message)
            for place, (camera, queue) in enumerate(zip(self.cameras, waiting, strict=True)):
                while queue and not any(map(arrivals.lacks, camera.keys(queue[0].stamp_ns).values())):
                    yield self._sample(place, queue.popleft(), arrivals)
        for place, queue in enumerate(waiting):
            while queue:
                yield self._sample(place, queue.popleft(), arrivals)

    def _sample(self, place: int, message: Message, arrivals: Arrivals) -> Sample:
        camera, stamp = self.cameras[place], message.stamp_ns
        mates = {topic: arrivals.take(key) for topic, key in camera.keys(stamp).items()}
        file = camera.files.get(stamp)
        decoded = self._decoded(camera, message, partial(_image, self._used_bits[place]))
        if decoded is None:
            return Sample(place, stamp)
        image, frame_id = decoded
        truth = None
        if file is not None:
            truth = self._reader.file(file)
            require_one_size(image.shape, truth.shape, file)
        elif camera.truth is not None:
            truth = self._labels(camera, mates.get(camera.truth), image, self._reader.message)
        recorded = []
        for labels_topic, confidence_topic in camera.recorded:
            labels = self._labels(camera, mates.get(labels_topic), image, self._prediction)
            confidence = None
            if confidence_topic is not None:
                confidence = self._labels(camera, mates.get(confidence_topic), image, probability)
            recorded.append(None if labels is None else Recorded(labels, confidence))
        return Sample(place, stamp, frame_id, image, truth, tuple(recorded))

    def _note(self, topic: str, line: str) -> None:
        self._bag.notes.append(f"{topic}: {line}")

    def _prediction(self, content: Any, where: str) -> Labels:
        return prediction(self._ids, content, where)

    def _labels(
        self,
        camera: Camera,
        message: Message | None,
        image: NDArray[np.uint8],
        decode: Callable[[Any, str], Labels],
    ) -> Labels | None:
        if message is None:
            return None
        labels = self._decoded(camera, message, decode)
        if labels is not None:
            require_one_size(image.shape, labels.shape, self._where(message))
        return labels

    def _decoded(self, camera: Camera, message: Message, decode: Callable[[Any, str], T]) -> T | None:
        """None, and a line in `lost`, where the message is damaged."""
        where = self._where(message)
        try:
            return decode(self._bag.decode(message), where)
        except (ImageError, BagError) as error:
            reason = " ".join(str(error).split())
            camera.lose(f"messages on {message.topic} that cannot be decoded", f"at {message.stamp_ns} ns, {reason}")
            return None

    def _where(self, message: Message) -> str:
        return f"{self._bag.path}, message of {message.topic} at {message.stamp_ns} ns"


def _image(used_bits: UsedBits, content: Any, _: str) -> tuple[NDArray[np.uint8], str]:
    return decode_message(content, used_bits), content.header.frame_id
