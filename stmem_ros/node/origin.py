"""Whose image it is, where several publish on one topic."""

from __future__ import annotations

import dataclasses

# What middlewares that do not number messages say.
UNNUMBERED = 2**64 - 1
# A publisher that sent none of so many messages is gone: another one's numbers must not be taken for its.
FORGOTTEN_AFTER = 50
# Of one publisher's messages, in a row. What jumps further is another's, or comes after a long gap.
MOST_LOST = 100


@dataclasses.dataclass
class _Publisher:
    name: int
    number: int
    seen: int


class Origins:
    """Tells the publishers of a topic apart by the numbers that each of them counts its messages with.

    rclpy does not say who sent a message. A publisher's numbers rise; each message belongs to the publisher whose last
    number is the nearest below its own, and to a new one where none is near. So a camera that is started again is
    another publisher. Where the numbers of two are near one another, the first message of the second, or one after
    losses, may be taken for the other's.
    """

    def __init__(self) -> None:
        self._known: list[_Publisher] = []
        self._messages = self._names = 0

    def of(self, number: int | None) -> int:
        """A name for the publisher of the message that has this number; 0 always where messages are not numbered."""
        if number is None or number == UNNUMBERED:
            return 0
        self._messages += 1
        self._known = [each for each in self._known if self._messages - each.seen <= FORGOTTEN_AFTER]
        below = [each for each in self._known if 0 < number - each.number <= MOST_LOST]
        if below:
            # Of two that started together, each has its turn.
            found = max(below, key=lambda each: (each.number, -each.seen))
        else:
            self._names += 1
            found = _Publisher(self._names, 0, 0)
            self._known.append(found)
        found.number, found.seen = number, self._messages
        return found.name
