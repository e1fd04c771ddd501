"""A bag as the frames of its cameras, decoded, with the messages that were recorded between them."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Container, Generator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stmem_ros.bag.io.reader import Bag, BagError, Message
from stmem_ros.bag.messages import Stamp
from stmem_ros.decode import ImageError, decode_message
from stmem_ros.used_bits import UsedBits

# What lies between two frames goes on in pieces: messages, and bytes.
MOST_MESSAGES = 256
MOST_BYTES = 1 << 22

_NONE = np.empty((0, 0, 3), np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class BagFrame:
    """One image of a camera: `image` `(H, W, 3)` RGB uint8, empty where it has none to be labelled.

    `stamp_ns` orders frames (the recording's time where the header has none), `stamp` `(sec, nanosec)` is the header's
    own. `problem` says why it cannot be segmented.
    """

    camera: str
    stamp_ns: int
    recorded_ns: int
    stamp: Stamp = (0, 0)
    frame_id: str = ""
    image: NDArray[np.uint8] = dataclasses.field(default_factory=lambda: _NONE)
    problem: ImageError | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """Some messages to hand on, then a frame or none."""

    messages: Sequence[Message]
    frame: BagFrame | None


def pieces(
    bag: Bag,
    cameras: Sequence[str],
    others: Sequence[str],
    used_bits: Mapping[str, UsedBits],
    wanted: Container[int] | None = None,
) -> Generator[Piece, None, None]:
    """Each camera's images in stamp order, among the messages of the topics `others` in the order of recording.

    Only frames whose stamp is in `wanted` are decoded, all where it is None. `used_bits` has one for each camera.
    Raises BagError.
    """
    sources = [((message, True) for message in bag.in_stamp_order([camera])) for camera in cameras]
    if others:
        sources.insert(0, ((message, False) for message in bag.messages(others)))
    between: list[Message] = []
    size = 0
    for message, is_frame in heapq.merge(*sources, key=lambda entry: entry[0].recorded_ns):
        if is_frame:
            yield Piece(between, _decoded(bag, message, used_bits[message.topic], wanted))
        else:
            between.append(message)
            size += len(message.data)
            if len(between) < MOST_MESSAGES and size < MOST_BYTES:
                continue
            yield Piece(between, None)
        between, size = [], 0
    if between:
        yield Piece(between, None)


def _decoded(bag: Bag, message: Message, used_bits: UsedBits, wanted: Container[int] | None) -> BagFrame:
    frame = BagFrame(message.topic, message.stamp_ns, message.recorded_ns)
    if wanted is not None and message.stamp_ns not in wanted:
        return frame
    try:
        content = bag.decode(message)
        stamp = content.header.stamp
        if stamp.nanosec >= 1_000_000_000:
            raise ImageError("stamp", f"the stamp has {stamp.nanosec} nanoseconds; a second has 10^9")
        image = decode_message(content, used_bits)
    except BagError as error:
        return dataclasses.replace(frame, problem=ImageError("message", str(error)))
    except ImageError as error:
        return dataclasses.replace(frame, problem=error)
    return dataclasses.replace(frame, stamp=(stamp.sec, stamp.nanosec), frame_id=content.header.frame_id, image=image)
