"""Messages in the order of their stamps, whatever the order of their recording, with bounded memory.

Each topic is read by itself and held back until its stamps are a second further on, or its messages take 256 MiB; the
topics are then merged, so their clocks may be apart, and labels may have been recorded long after their images. What
is further back than that is not sorted in, because it is another drive (a bag that was looped, a clock that was set):

- where a topic's stamps go back and stay back, a new stretch begins. It comes after all of the stretch before it, and
  the n-th stretches of the topics are merged with each other.
- a single message among later ones stays at its place in the recording.

Either leaves a note.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stmem_ros.bag.io.reader import Message

WINDOW_NS = 1_000_000_000
WINDOW_BYTES = 1 << 28
# Of each topic; more are counted.
MOST_NOTES = 3

# The number of the stretch, and a stamp that never falls within it.
Key = tuple[int, int]


def in_stamp_order(topics: list[Generator[Message, None, None]], notes: list[str]) -> Generator[Message, None, None]:
    """Of topics whose messages are given in the order of recording; at equal stamps, in the order of the topics."""
    with ExitStack() as stack:
        streams = []
        for topic in topics:
            stack.enter_context(closing(topic))
            streams.append(stack.enter_context(closing(_sorted(topic, notes))))
        for _, message in heapq.merge(*streams, key=lambda item: item[0]):
            yield message


def _sorted(messages: Iterator[Message], notes: list[str]) -> Generator[tuple[Key, Message], None, None]:
    held: list[tuple[int, int, Message]] = []
    size, stretch, number, told = 0, 0, -1, 0
    newest = given = -(1 << 63)
    late: tuple[int, Message] | None = None

    def is_late(message: Message) -> bool:
        return message.stamp_ns < max(newest - WINDOW_NS, given)

    def tell(message: Message, number: int, what: str) -> None:
        nonlocal told
        told += 1
        seconds = (newest - message.stamp_ns) / 1e9
        line = f"{message.topic}: the stamp of message {number} is {seconds:.3f} s before an earlier one's: {what}"
        if told <= MOST_NOTES and line not in notes:
            notes.append(line)

    def begin_stretch() -> Generator[tuple[Key, Message], None, None]:
        """Give what is held, and begin again with the message that was late."""
        nonlocal stretch, newest, given, late, size
        assert late is not None
        while held:
            stamp, _, message = heapq.heappop(held)
            yield (stretch, stamp), message
        tell(late[1], late[0], "a new stretch begins there")
        stretch, newest, given, size = stretch + 1, late[1].stamp_ns, -(1 << 63), len(late[1].data)
        heapq.heappush(held, (late[1].stamp_ns, late[0], late[1]))
        late = None

    for number, message in enumerate(messages):
        if late is not None:
            if is_late(message):
                yield from begin_stretch()
            else:
                tell(late[1], late[0], "it stays where it was recorded")
                yield (stretch, max(given, late[1].stamp_ns)), late[1]
                late = None
        if is_late(message):
            late = number, message
            continue
        heapq.heappush(held, (message.stamp_ns, number, message))
        size += len(message.data)
        newest = max(newest, message.stamp_ns)
        while held and (held[0][0] < newest - WINDOW_NS or size > WINDOW_BYTES):
            given, _, message = heapq.heappop(held)
            size -= len(message.data)
            yield (stretch, given), message
    if late is not None:
        yield from begin_stretch()
    for stamp, _, message in sorted(held, key=lambda item: item[:2]):
        yield (stretch, stamp), message
    if told > MOST_NOTES and (line := f"{message.topic}: {told - MOST_NOTES} more such places") not in notes:
        notes.append(line)
