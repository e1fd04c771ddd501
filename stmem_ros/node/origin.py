"""Whose image it is, where several publish on one topic."""

from __future__ import annotations

import dataclasses

# What middlewares that do not number messages say.
UNNUMBERED = 2**64 - 1
# A publisher that sent none of so many messages is gone: another one's numbers must not be taken for its.
FORGOTTEN_AFTER = 20
# Of one publisher's messages, in a row. What jumps further is another's, or comes after a long gap.
MOST_LOST = 100


@dataclasses.dataclass
class _Publisher:
    name: int
    number: int
    seen: int


class Origins:
    """Tells the publishers of a topic apart by the numbers that each of them counts its messages with.

    rclpy does not say who sent a message. A publisher's numbers rise; a message belongs to the publisher whose last
    number is the nearest below its own, and to a new one where none is near. So a camera that is started again is
    another publisher. Where several are near, each message is taken for a new one's: any may be lost, and rather a
    window too many than one of two cameras.

    What it cannot see: that a second one begins, or one follows another, at a number just above the first one's last.
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
        near = [each for each in self._known if abs(number - each.number) <= MOST_LOST]
        below = [each for each in near if each.number < number]
        # Of those with one number each has its turn.
        found = max(below, key=lambda each: (each.number, -each.seen), default=None)
        if found is None:
            found = _Publisher(0, 0, 0)
            self._known.append(found)
        if not found.name or len(near) > 1:
            self._names += 1
            found.name = self._names
        found.number, found.seen = number, self._messages
        return found.name
