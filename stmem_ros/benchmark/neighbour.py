"""The engine beside another process that keeps a core busy, as a robot's cores are, and alone, by turns."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from stmem_ros.benchmark.measure import FEWEST_ROUNDS, Budget, Spread, wait
from stmem_ros.benchmark.ways import Moment, Way

FRAMES_A_TURN = 3
MOST_TURNS = 40
# The share of the budget's seconds that this may take.
SHARE_OF_BUDGET = 0.1
# After which the system has moved both processes to where they run.
SETTLE_S = 0.02


class Neighbour:
    """A process that takes all of a core while it is not paused; it begins paused."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
        self.pid = self._process.pid
        self._paused = False
        self.pause()

    def pause(self) -> None:
        """Returns when it has stopped."""
        if not self._paused:
            os.kill(self.pid, signal.SIGSTOP)
            os.waitpid(self.pid, os.WUNTRACED)
        self._paused = True

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self._paused = False

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def neighbour() -> Iterator[Neighbour]:
    other = Neighbour()
    try:
        yield other
    finally:
        other.close()


@dataclasses.dataclass(frozen=True)
class NeighbourTimes:
    """Of a frame, alone and beside one busy process, in the same minutes."""

    alone: Spread
    busy: Spread

    def to_dict(self) -> dict[str, Any]:
        return {
            "busy_processes": 1,
            "alone_ms": self.alone.median,
            "alone_quartiles_ms": list(self.alone.quartiles),
            "busy_ms": self.busy.median,
            "busy_quartiles_ms": list(self.busy.quartiles),
            "frames": self.busy.count,
            "busy_over_alone": self.busy.median / self.alone.median,
        }


def time_beside_neighbour(
    way: Way, scene: Callable[[int], Moment], device: torch.device, budget: Budget, start: int
) -> NeighbourTimes:
    """Some frames alone, some beside the other process, by turns; frames count from `start`, as a stream's do."""
    times: dict[bool, list[float]] = {False: [], True: []}
    number = start

    def frame() -> float:
        nonlocal number
        moment = scene(number)
        number += 1
        wait(device)
        begun = time.perf_counter()
        way(moment)
        wait(device)
        return time.perf_counter() - begun

    with torch.inference_mode(), neighbour() as other:
        for turn in range(turns(budget, frame())):
            # Each is first in turn, so that neither is always later.
            for busy in (False, True) if turn % 2 else (True, False):
                other.go_on() if busy else other.pause()
                time.sleep(SETTLE_S)
                times[busy] += [frame() for _ in range(FRAMES_A_TURN)]
    return NeighbourTimes(Spread.of(times[False]), Spread.of(times[True]))


def turns(budget: Budget, one: float) -> int:
    """How many turns of each kind, if a frame takes `one` second."""
    if budget.repeats:
        return min(budget.repeats, MOST_TURNS)
    # A frame beside another process may take twice as long.
    return min(max(int(budget.seconds * SHARE_OF_BUDGET / (3 * FRAMES_A_TURN * one)), FEWEST_ROUNDS), MOST_TURNS)
