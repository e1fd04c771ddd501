"""kill -9 of a ROS process, and what it cannot put away itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from pathlib import Path

LOCK = "_el"


def kill(process: subprocess.Popen[bytes]) -> None:
    """As the system would; then the shared memory goes that Fast DDS held for it and that nobody else holds."""
    locks = []
    with contextlib.suppress(OSError):
        links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{process.pid}/fd")]
        locks = [Path(link) for link in links if link.startswith("/dev/shm/fastrtps_") and link.endswith(LOCK)]
    process.kill()
    process.wait()
    for lock in locks:
        with contextlib.suppress(OSError), lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.with_name(lock.name.removesuffix(LOCK)).unlink()
            lock.unlink()
