"""The cameras of a bag, the topics of label images beside them, and what belongs together by stamp."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from pathlib import Path

from stmem_ros.bag.io.reader import Bag, BagError
from stmem_ros.labels import LabelSet
from training.bag.settings import EvaluationError, EvaluationSettings
from training.bag.truth import files_by_stamp, require_nanoseconds
from training.data.dataset import DatasetError
from training.data.label_info import COMPRESSED, beside, read_label_info
from training.data.pairing import require_pairs

# A topic and a stamp there.
Key = tuple[str, int]


class Camera:
    """An image topic and the topics beside it; `mates` says by topic which stamp there belongs to which frame's."""

    def __init__(self, bag: Bag, topic: str, truth: str | None, recorded: Iterable[str]) -> None:
        self.topic, self.truth = topic, truth
        self.recorded = [(labels, _confidence(bag, labels)) for labels in recorded]
        self.files: dict[int, Path] = {}
        self.frames = 0
        self.mates: dict[str, dict[int, int]] = {}
        # What was lost: the kind of it, how often, the reason of the first.
        self.lost: dict[str, tuple[int, str]] = {}

    @property
    def others(self) -> list[str]:
        topics = [topic for pair in self.recorded for topic in pair]
        return [topic for topic in (self.truth, *topics) if topic is not None]

    def keys(self, stamp_ns: int) -> dict[str, Key]:
        """By topic, what belongs to the frame of that stamp."""
        return {topic: (topic, its[stamp_ns]) for topic, its in self.mates.items() if stamp_ns in its}

    def lose(self, what: str, why: str = "", count: int = 1) -> None:
        before, first = self.lost.get(what, (0, why))
        self.lost[what] = before + count, first


def choose_cameras(bag: Bag, settings: EvaluationSettings, labels: LabelSet) -> list[Camera]:
    """Raises BagError, DatasetError and EvaluationError where the bag has not what `settings` ask for."""
    truths = [bag.image_topic(topic, "--truth-topic") for topic in settings.truth_topics]
    recorded = [bag.image_topic(topic, "--labels-topic") for topic in settings.labels_topics]
    topics = bag.choose_images(settings.image_topics or _likely(bag, truths, recorded))
    cameras = []
    for place, topic in enumerate(topics):
        truth = truths[place] if truths else None
        own = recorded if len(topics) == 1 else recorded[place : place + 1]
        if topic in (truth, *own):
            raise EvaluationError(f"{bag.path}: {topic} cannot be the camera's images and their labels")
        for each in own if truth is None or settings.dataset is not None else (*own, truth):
            info = read_label_info(bag, each)
            if info is not None:
                info.require(labels, settings.classes_from)
        cameras.append(Camera(bag, topic, truth, own))
    return cameras


def _likely(bag: Bag, truths: Sequence[str], recorded: Sequence[str]) -> list[str]:
    """The only image topic that is no label's, none where there are several."""
    names = ("labels", "confidence", "color", "overlay")
    outputs = {beside(topic, name) + ending for topic in recorded for name in names for ending in ("", COMPRESSED)}
    left = [topic for topic in bag.image_topics if topic not in outputs.union(truths, recorded)]
    return left if len(left) == 1 else []


def all_topics(cameras: Iterable[Camera]) -> list[str]:
    return list(dict.fromkeys(topic for camera in cameras for topic in (camera.topic, *camera.others)))


def match(bag: Bag, cameras: list[Camera], settings: EvaluationSettings) -> collections.Counter[Key]:
    """Fill the cameras' `frames`, `mates` and `files` from one pass over the stamps; returns how many messages of each
    stamp belong to a frame. Raises BagError and DatasetError.
    """
    stamps: dict[str, list[int]] = {topic: [] for topic in all_topics(cameras)}
    for message in bag.messages(list(stamps)):
        stamps[message.topic].append(message.stamp_ns)
    files = {}
    if settings.truth_folder is not None:
        files = files_by_stamp(settings.truth_folder, bag.name)
    awaited = collections.Counter[Key]()
    for camera in cameras:
        images = stamps[camera.topic]
        camera.frames = len(images)
        if not images:
            raise BagError(f"{bag.path} has no message on image topic {camera.topic} that can be read")
        for topic in camera.others:
            confidence = topic in [name for _, name in camera.recorded]
            camera.mates[topic] = _mates(bag, settings, camera, images, topic, stamps[topic], confidence)
            wanted = set(camera.mates[topic].values())
            awaited.update((topic, stamp) for stamp in stamps[topic] if stamp in wanted)
        if files:
            require_nanoseconds(settings.truth_folder, files, images)
            mates = _mates(bag, settings, camera, images, f"in {settings.truth_folder}", list(files), False)
            camera.files = {image: files[stamp] for image, stamp in mates.items()}
    return awaited


def _mates(
    bag: Bag,
    settings: EvaluationSettings,
    camera: Camera,
    images: list[int],
    place: str,
    stamps: list[int],
    optional: bool,
) -> dict[int, int]:
    where = place if place.startswith("in ") else f"on {place}"
    if not stamps:
        raise BagError(f"{bag.path} has no message {where}")
    unique, others = (list(dict.fromkeys(each)) for each in (images, stamps))
    try:
        none = f"{bag.path} has no label image {where}"
        pairs = require_pairs(unique, others, settings.tolerance, none, f"an image on {camera.topic}")
    except DatasetError:
        if not optional:
            raise
        pairs = {}
    mates = {unique[image]: others[label] for image, label in pairs.items()}
    images_of, labels_of = collections.Counter(images), collections.Counter(stamps)
    used = sum(min(images_of[image], labels_of[label]) for image, label in mates.items())
    if used < len(stamps):
        near = f"within {settings.tolerance:g} s"
        camera.lose(f"label images {where} without an image on {camera.topic} {near}", count=len(stamps) - used)
    return mates


def _confidence(bag: Bag, labels: str) -> str | None:
    """The topic of confidence beside one of labels."""
    topic = beside(labels, "confidence")
    return topic if topic in bag.image_topics and bag.topics[topic].count else None
