"""What a process takes, as Linux says it, and what became of it over time."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

PAGE = os.sysconf("SC_PAGE_SIZE")
SAMPLE_S = 0.25


@dataclasses.dataclass(frozen=True)
class Sample:
    """Resident memory in bytes of process `pid` at `time` seconds of the system's clock, as stamps have it."""

    time: float
    pid: int
    resident: int


@dataclasses.dataclass(frozen=True)
class Handles:
    """What a process holds open."""

    threads: int
    files: int


def resident(pid: int) -> int:
    """Bytes. Raises OSError where there is no such process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def handles(pid: int) -> Handles:
    """Raises OSError where there is no such process."""
    return Handles(len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd")))


def slope(places: Sequence[float], values: Sequence[float]) -> float:
    """Of `values` over `places` by least squares; 0 where there are fewer than three places."""
    if len(set(places)) < 3:
        return 0.0
    middle = np.array(places, float)
    return float(np.polyfit(middle - middle.mean(), np.array(values, float), 1)[0])


def slope_error(places: Sequence[float], values: Sequence[float], block: float) -> float:
    """Of `slope`, one standard error; infinite below four blocks.

    Samples that are `block` or less apart tell the same: what is left of a block beside the line counts once.
    """
    x = np.array(places, float)
    x -= x.mean() if len(x) else 0
    left = np.array(values, float) - slope(places, values) * x
    weighted = (left - left.mean()) * x if len(x) else left
    _, blocks = np.unique(x // block, return_inverse=True)
    count = int(blocks.max(initial=-1)) + 1
    if count < 4:
        return float("inf")
    return float(np.sqrt((np.bincount(blocks, weighted) ** 2).sum() * count / (count - 2)) / (x**2).sum())


class Sampler:
    """Looks at the memory of the process that `pid` names at the moment, four times a second, in a thread."""

    def __init__(self, pid: Callable[[], int | None]) -> None:
        self._pid = pid
        self.samples: list[Sample] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory sampler")
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            pid = self._pid()
            if pid is None:
                continue
            try:
                self.samples.append(Sample(time.time(), pid, resident(pid)))
            except (OSError, IndexError, ValueError):
                # It ended meanwhile.
                continue

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
