"""What is made once and kept while it is in use, without growing for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")
# Image sizes of which a network keeps what is the same for all frames: some, as several cameras have.
MOST_SIZES = 8


class LastUsed(Generic[Key, Value]):
    """The `most` values that were asked for last, by key. Not thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[Key, Value] = {}

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of `key`; `make` makes it where it is not kept, when there is room for it."""
        if key in self._kept:
            value = self._kept.pop(key)
        else:
            while len(self._kept) >= self._most:
                del self._kept[next(iter(self._kept))]
            value = make()
        self._kept[key] = value
        return value

    def values(self) -> list[Value]:
        """Those that are kept now, the one asked for last at the end."""
        return list(self._kept.values())
