"""One process at a time trains in a run's folder."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from training.stages.stage_folder import TrainingError

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run's folder, which is made, until the block ends or the process does, be it by kill -9.

    Raises TrainingError that names the process that holds it, and OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # A record lock, not flock: processes that load data inherit open files, and would hold a dead run's folder.
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = " ".join(file.read().split()) or "another process"
            raise TrainingError(
                f"--run {folder} is being trained by {holder}: wait for it or stop it, or give another --run"
            ) from error
        except OSError as error:
            # Some network file systems have no locks.
            print(
                f"training: --run {folder} cannot be locked ({error.strerror}): let no other process train there",
                file=sys.stderr,
            )
        since = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
        # On a full disk the lock holds all the same.
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {since} ({shlex.join(sys.argv)})\n")
            file.flush()
        yield
