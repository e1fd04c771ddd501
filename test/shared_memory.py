"""What killed processes leave of Fast DDS in shared memory: Fast DDS itself does not clear it away."""

from __future__ import annotations

import fcntl
from pathlib import Path

FOLDER = Path("/dev/shm")
PREFIX, LOCK = "fastrtps_", "_el"


def remove_left(since: float, folder: Path = FOLDER) -> None:
    """Delete segments and ports that were made after the time `since`, in seconds, and that no process holds."""
    for path in sorted(folder.glob(f"{PREFIX}*")):
        name = path.name.removesuffix(LOCK)
        try:
            if path.stat().st_mtime < since or held(folder / (name + LOCK)):
                continue
        except FileNotFoundError:
            # With its lock, or by its owner.
            continue
        for part in (name, name + LOCK, f"sem.{name}_mutex"):
            (folder / part).unlink(missing_ok=True)


def held(lock: Path) -> bool:
    """Whether a process that lives has it locked, as Fast DDS does with what it uses."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
