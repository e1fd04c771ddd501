"""The class list that a bag carries beside a topic of label images: vision_msgs/LabelInfo."""

from __future__ import annotations

import colorsys
import dataclasses
from collections.abc import Iterable, Sequence

from stmem_ros.bag.io.reader import Bag
from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, read_info
from stmem_ros.labels import IGNORE_INDEX, LabelSet
from training.data.label_images import DatasetError

LABEL_INFO = "vision_msgs/msg/LabelInfo"
COMPRESSED = "/compressed"


@dataclasses.dataclass(frozen=True)
class LabelInfo:
    """What `topic` of a bag says: the name of each class id below 255, the ids in order."""

    bag: str
    topic: str
    names: dict[int, str]

    @property
    def where(self) -> str:
        return f"{self.topic} of {self.bag}"

    def labels(self) -> LabelSet:
        """The classes; an id that the list leaves out is `class_ID`. Raises DatasetError for a list that is none."""
        names = [self.names.get(label, f"class_{label}") for label in range(max(self.names) + 1)]
        try:
            return named(names)
        except ValueError as error:
            raise DatasetError(f"{self.where} is no list of classes: {error}") from error

    def require(self, labels: LabelSet, where: str) -> None:
        """Raises DatasetError where `labels`, those of `where`, are other classes."""
        for label, ours in enumerate(labels.names):
            theirs = repr(self.names[label]) if label in self.names else "missing"
            # An id that is not listed is no contradiction where nobody has named it.
            if theirs != repr(ours) and not (label not in self.names and ours == f"class_{label}"):
                raise DatasetError(f"class {label} is {theirs} on {self.where} but {ours!r} in {where}")
        if max(self.names) >= len(labels):
            raise DatasetError(
                f"{self.where} lists {len(self.names)} classes up to id {max(self.names)}, {where} has {len(labels)}: "
                "they must have the same in the same order"
            )


def beside(topic: str, name: str) -> str:
    """`/segmentation/confidence` of `/segmentation/labels`, or of `/segmentation/labels/compressed`."""
    return f"{topic.removesuffix(COMPRESSED).rpartition('/')[0]}/{name}"


def read_label_info(bag: Bag, labels_topic: str) -> LabelInfo | None:
    """The class list beside a topic of labels, None where there is none.

    Raises DatasetError where it names no class or changes within the bag, BagError where it cannot be read.
    """
    topic = bag.topics.get(beside(labels_topic, "label_info"))
    if topic is None or topic.type != LABEL_INFO or not topic.count:
        return None
    found: LabelInfo | None = None
    for message in bag.messages([topic.name]):
        entries = bag.decode(message).class_map
        names = {int(entry.class_id): str(entry.class_name) for entry in entries if entry.class_id != IGNORE_INDEX}
        info = LabelInfo(str(bag.path), topic.name, dict(sorted(names.items())))
        if not names or max(names) > IGNORE_INDEX:
            what = f"lists class id {max(names)}; ids in label images are 0 to 254" if names else "lists no class"
            raise DatasetError(f"{info.where} {what}")
        if found is not None and info != found:
            raise DatasetError(
                f"{info.where} lists other classes from {message.stamp_ns} ns on ({_listed(found)}; then "
                f"{_listed(info)}): give bags with the labels of one model each"
            )
        found = info
    return found


def first_label_info(bag: Bag, labels_topics: Iterable[str]) -> LabelInfo | None:
    """Of the first of these topics that has one. Raises as `read_label_info` does."""
    return next((info for topic in labels_topics if (info := read_label_info(bag, topic)) is not None), None)


def named(names: Sequence[str]) -> LabelSet:
    """Classes of these names in colours that can be told apart: the package's model's where they are its classes.

    Raises ValueError for names that are no label set's.
    """
    own = read_info(DEFAULT_CHECKPOINT).labels
    if tuple(names) == own.names:
        return own
    hues = (0.618 * label % 1 for label in range(len(names)))
    colors = [tuple(round(255 * value) for value in colorsys.hsv_to_rgb(hue, 0.7, 0.9)) for hue in hues]
    return LabelSet(tuple(names), tuple(colors))


def _listed(info: LabelInfo) -> str:
    return ", ".join(f"{label} {name}" for label, name in info.names.items())
