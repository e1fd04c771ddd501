"""What a fleet of bags does in tests. Its own file: worker processes import no more than they need."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from stmem_ros.bag.io.errors import BagError

SLOW_SECONDS = 60.0


class Worker:
    """Leaves a line in a file for each bag that is begun, and what a bag's name asks for.

    `dies` kills its process with SIGKILL the first time it is tried, `deadly` each time, `bad` and `broken` fail.
    """

    def __init__(self) -> None:
        self.loaded = 0

    def __call__(self, bag: Path, settings: Any) -> tuple[str, int, int]:
        self.loaded = self.loaded or os.getpid()
        tries = bag.with_name(f"{bag.name}.tries")
        with tries.open("a") as file:
            file.write(f"{os.getpid()}\n")
        first = tries.read_text().count("\n") == 1
        if "deadly" in bag.name or ("dies" in bag.name and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if "bad" in bag.name:
            raise BagError("it is cut off")
        if "broken" in bag.name:
            raise KeyError("a\nb")
        if "slow" in bag.name:
            time.sleep(SLOW_SECONDS)
        return bag.name, self.loaded, os.getpid()


def vanish(_: Path, __: Any) -> None:
    """Stands for a function that a worker cannot import."""
