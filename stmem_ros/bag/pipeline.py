"""Threads around the network: what comes next is read ahead of it, what it made is written behind it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
_END = object()


def read_ahead(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """The same items, made in a thread that is at most `depth` of them ahead; it raises what they raise.

    The items are closed, and their thread has ended, when this generator is closed or at its end.
    """
    ready: queue.Queue[tuple[object, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def work() -> None:
        end: BaseException | None = None
        try:
            with contextlib.closing(items):
                for item in items:
                    ready.put((item, None))
                    if stop.is_set():
                        return
        except BaseException as error:
            end = error
        ready.put((_END, end))

    thread = threading.Thread(target=work, name="read ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        # Room for the one item that the thread may be about to put, and for the end.
        while thread.is_alive():
            with contextlib.suppress(queue.Empty):
                ready.get(timeout=0.01)
        thread.join()


class WriteBehind(Generic[T]):
    """Calls `write` with each item that is put, in order, in a thread at most `depth` items behind.

    What was put is written before the `with` block ends, however that ends. What `write` raises, the next `put` or the
    end of the block raises, and nothing is written after it.
    """

    def __init__(self, write: Callable[[T], None], depth: int) -> None:
        self._write = write
        self._waiting: queue.Queue[object] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="write behind", daemon=True)

    def put(self, item: T) -> None:
        if self._error is not None:
            raise self._error
        self._waiting.put(item)

    def __enter__(self) -> WriteBehind[T]:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._waiting.put(_END)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (item := self._waiting.get()) is not _END:
            # After an error the queue is emptied all the same, so that nobody waits for room in it.
            if self._error is None:
                try:
                    self._write(item)  # type: ignore[arg-type]
                except BaseException as failure:
                    self._error = failure
