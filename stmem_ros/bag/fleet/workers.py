"""Processes of this machine that do one bag after the other, each with what its function keeps between them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from stmem_ros.bag.io.errors import BagError, why

Function = Callable[[Path, Any], Any]
STOP_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a bag came to: the pickled result, or the line that says why there is none."""

    pickled: bytes = b""
    failure: str | None = None


@dataclasses.dataclass(frozen=True)
class Event:
    """Of a worker: it is `ready` for its first bag, `done` with one, or `died`, with the reason."""

    worker: int
    kind: Literal["ready", "done", "died"]
    outcome: Outcome = Outcome()
    reason: str = ""


class Workers(Protocol):
    """Processes that can be given bags. `stop` leaves none behind, whatever they are doing."""

    count: int
    waiting_for: str

    def start(self) -> None:
        """Begin one more worker; `wait` tells when it is ready."""

    def give(self, worker: int, bag: Path, settings: Any) -> None: ...

    def wait(self, seconds: float) -> Sequence[Event]:
        """What has happened; none after that many seconds."""

    def stop(self) -> None: ...


def attempt(function: Function, bag: Path, settings: Any) -> Outcome:
    """One bag, whatever comes of it. What a person can do nothing about has its place in the code."""
    try:
        return Outcome(pickle.dumps(function(bag, settings)))
    except (BagError, OSError) as error:
        name = f"{error.filename}: " if isinstance(error, OSError) and error.filename and error.strerror else ""
        return Outcome(failure=f"{name}{why(error)}")
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("stmem_ros", "training"):
            return Outcome(failure=why(error))
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome(failure=f"{type(error).__name__}: {why(error)} ({Path(place.filename).name}:{place.lineno})")


class LocalWorkers:
    """`count` processes; with several GPUs they share them out among themselves, and the CPU's cores always."""

    waiting_for = "a process to start"

    def __init__(self, function: Function, count: int) -> None:
        self.count = count
        self._function = pickle.dumps(function)
        self._context = multiprocessing.get_context("spawn")
        self._gpus = visible_gpus()
        self._processes: dict[int, multiprocessing.process.BaseProcess] = {}
        self._pipes: dict[int, multiprocessing.connection.Connection] = {}
        self._started = 0

    def start(self) -> None:
        environment = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // self.count))}
        if len(self._gpus) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[self._started % len(self._gpus)]
        ours, theirs = self._context.Pipe()
        worker, self._started = self._started, self._started + 1
        process = self._context.Process(target=_serve, args=(theirs, self._function), daemon=True)
        with _environment(environment):
            process.start()
        theirs.close()
        self._processes[worker], self._pipes[worker] = process, ours

    def give(self, worker: int, bag: Path, settings: Any) -> None:
        # A worker that has just died is found dead by `wait`.
        with contextlib.suppress(OSError):
            self._pipes[worker].send((bag, settings))

    def wait(self, seconds: float) -> list[Event]:
        workers = {pipe: worker for worker, pipe in self._pipes.items()}
        answered = multiprocessing.connection.wait(list(workers), seconds)
        return [self._event(worker) for pipe, worker in workers.items() if pipe in answered]

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes.values():
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self._pipes.values():
            pipe.close()
        self._processes, self._pipes = {}, {}

    def _event(self, worker: int) -> Event:
        try:
            message: str | Outcome | None = self._pipes[worker].recv()
        except (EOFError, OSError):
            message = ""
        if message is None:
            return Event(worker, "ready")
        if isinstance(message, Outcome):
            return Event(worker, "done", message)
        process = self._processes.pop(worker)
        self._pipes.pop(worker).close()
        process.join()
        code = process.exitcode or 0
        ended = f"killed by signal {-code}" if code < 0 else f"ended with status {code}"
        return Event(worker, "died", reason=message or f"{ended}; was the memory too small?")


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [each.strip() for each in named.split(",") if each.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


class _NoTerminal(io.TextIOWrapper):
    """The terminal, for lines alone: progress bars of several processes would overwrite each other."""

    def isatty(self) -> bool:
        return False


def _serve(pipe: multiprocessing.connection.Connection, pickled: bytes) -> None:
    """A worker's life: bags come through the pipe, outcomes go back, until it is closed."""
    # Ctrl-C reaches every process of the terminal; whoever started this one says what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stderr = _NoTerminal(open(2, "wb", closefd=False), line_buffering=True)  # noqa: SIM115
    try:
        function = pickle.loads(pickled)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {why(error)}")
        return
    pipe.send(None)
    with contextlib.suppress(EOFError):
        while True:
            bag, settings = pipe.recv()
            pipe.send(attempt(function, bag, settings))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    # First as a request, so that what is half written is cleared away.
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(1)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables for processes that are started in the block; those that the user has set stay."""
    new = {name: value for name, value in values.items() if name == "CUDA_VISIBLE_DEVICES" or name not in os.environ}
    old = {name: os.environ.get(name) for name in new}
    os.environ.update(new)
    try:
        yield
    finally:
        for name, value in old.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
