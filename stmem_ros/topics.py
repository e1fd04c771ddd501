"""What the outputs of a segmentation are called, and which calibration belongs to an image topic."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile


def names_in(text: str) -> list[str]:
    """The names in one string, which may be separated by commas or blanks and stand in quotes and in brackets.

    `/front/image, /rear/image` and `["/front/image", "/rear/image"]` are the same two.
    """
    return re.findall(r"[^\s,\[\]\"']+", text)


def camera_names(topics: Sequence[str]) -> dict[str, str]:
    """A name for each of several image topics, empty for a single one: the fewest parts that tell them apart.

    `/cam/front/image_raw` and `/cam/rear/image_raw` are `front` and `rear`.
    """
    if len(topics) == 1:
        return {topics[0]: ""}
    parts = {topic: topic.strip("/").split("/") for topic in topics}
    # Of what they have in common at the start, the last part stays where a topic ends there.
    columns = zip(*(each[:-1] for each in parts.values()), strict=False)
    common = len(list(takewhile(lambda column: len(set(column)) == 1, columns)))
    for length in range(1, max(map(len, parts.values())) + 1):
        names = {topic: "/".join(each[common : common + length]) for topic, each in parts.items()}
        if len(set(names.values())) == len(topics):
            return names
    raise ValueError(f"the topics {', '.join(topics)} are not all different")


def output_topics(namespace: str, camera: str, outputs: Sequence[str]) -> dict[str, str]:
    """The topic of each output of one camera."""
    prefix = "/".join(filter(None, (namespace.strip("/"), camera)))
    return {name: f"/{prefix}/{name}" if prefix else f"/{name}" for name in outputs}


def camera_info_topic(image_topic: str) -> str:
    """The topic of the calibration of the images on a topic, as image_transport names it, also for `.../compressed`."""
    return image_topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"


def camera_info_topics(image_topics: Sequence[str]) -> list[str]:
    """Of each camera; empty where one topic lies beside several cameras' images: it is at most one camera's."""
    topics = [camera_info_topic(topic) for topic in image_topics]
    return [topic if topics.count(topic) == 1 else "" for topic in topics]
