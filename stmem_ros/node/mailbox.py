"""One slot a camera between the executor and the worker: the newest message wins, the longest unserved goes first."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
# Stamps of skipped frames that are kept; a network that is slower than that is not segmenting a stream.
MOST_SKIPPED = 1000


@dataclasses.dataclass(frozen=True)
class Letter:
    """A message, when it came (by `perf_counter`), and the stamps of those that it replaced, oldest first.

    Those are of its own `origin`, the publisher. Letters of one `group` can be worked on together.
    """

    message: Any
    stamp_ns: int
    arrival: float
    group: Hashable
    origin: int
    skipped: tuple[int, ...]


class Mailbox(Generic[K]):
    """`put` never waits; `take` waits for the next letters. Thread-safe."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._slots: dict[K, Letter] = {}
        # When each camera was served last, counted in services.
        self._served: dict[K, int] = {}
        self._services = 0
        self._woken = False
        self._closed = False

    def put(self, camera: K, message: Any, stamp_ns: int, group: Hashable = None, origin: int = 0) -> bool:
        """Leave a message; True where it replaced one that nobody had taken."""
        with self._condition:
            old = self._slots.pop(camera, None)
            skipped: tuple[int, ...] = ()
            if old is not None and old.origin == origin:
                skipped = (*old.skipped, old.stamp_ns)[-MOST_SKIPPED:]
            self._slots[camera] = Letter(message, stamp_ns, time.perf_counter(), group, origin, skipped)
            self._condition.notify()
            return old is not None

    def take(self, most: int = 0) -> list[tuple[K, Letter]] | None:
        """The camera that was served longest ago of those that wait, and the others of its group.

        `most` letters (0: any number). Waits for one; empty after `wake`, None once the mailbox is closed.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._slots or self._woken or self._closed)
            if self._closed:
                return None
            self._woken = False
            waiting = sorted(self._slots, key=lambda camera: self._served.get(camera, -1))
            chosen = [camera for camera in waiting if self._slots[camera].group == self._slots[waiting[0]].group]
            taken = []
            for camera in chosen[: most or None]:
                self._services += 1
                self._served[camera] = self._services
                taken.append((camera, self._slots.pop(camera)))
            return taken

    def clear(self, camera: K | None = None) -> None:
        """Throw away what waits, of one camera or of all."""
        with self._condition:
            if camera is None:
                self._slots.clear()
            else:
                self._slots.pop(camera, None)

    def wake(self) -> None:
        """Let `take` return though nothing waits."""
        with self._condition:
            self._woken = True
            self._condition.notify_all()

    def close(self) -> None:
        """Wake whoever waits, for good."""
        with self._condition:
            self._closed = True
            self._slots.clear()
            self._condition.notify_all()
