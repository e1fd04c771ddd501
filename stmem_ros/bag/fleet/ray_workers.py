"""Actors of a Ray cluster that do one bag after the other. Ray is imported here alone, and when it is asked for."""

from __future__ import annotations

import logging
import os
import pickle
import re
import site
import socket
import sys
import sysconfig
from pathlib import Path
from typing import Any

from stmem_ros.bag.fleet.workers import Event, Function, Outcome, attempt
from stmem_ros.bag.io.errors import BagError, why

REACH_SECONDS = 10.0


class _Actor:
    """Lives in a process of the cluster and keeps the function, and with it the network, between bags."""

    def __init__(self, pickled: bytes) -> None:
        self._function = pickle.loads(pickled)

    def ready(self) -> None:
        """Answers when the actor has been placed and its function imported."""

    def run(self, bag: Path, settings: Any) -> Outcome:
        return attempt(self._function, bag, settings)


class RayWorkers:
    """Actors on the cluster of RAY_ADDRESS or the one that `ray start` began here, else on one of this run's own.

    Each has a CPU and, where the cluster has GPUs, `gpus` of them; `count` of 0 are as many as fit. Bags, checkpoints
    and this package must lie at the same places on every node. Raises BagError.
    """

    def __init__(self, function: Function, count: int, gpus: float, most: int) -> None:
        self._ray = ray = import_ray()
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, tuple[int, bool]] = {}
        self._started = 0
        self._owns = not ray.is_initialized()
        if self._owns:
            _connect(ray)
        try:
            resources = ray.cluster_resources()
            gpus = gpus if resources.get("GPU", 0) else 0
            fit = int(resources["GPU"] // gpus) if gpus else int(resources.get("CPU", 0))
            if not count and not fit:
                raise BagError(
                    f"the Ray cluster has no room for a worker: {resources.get('CPU', 0):g} CPUs and "
                    f"{resources.get('GPU', 0):g} GPUs, of which each needs 1 and {gpus:g} (--gpus-per-worker)"
                )
            self.count = min(count or fit, most)
            self.waiting_for = f"room for an actor of 1 CPU{f' and {gpus:g} GPU' if gpus else ''} on the Ray cluster"
            options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
            environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(import_places())}}
            self._actor = ray.remote(_Actor).options(**options, runtime_env=environment)
            self._function = ray.put(pickle.dumps(function))
        except BaseException:
            self.stop()
            raise

    def start(self) -> None:
        worker = self._started
        self._started += 1
        self._actors[worker] = actor = self._actor.remote(self._function)
        self._pending[actor.ready.remote()] = (worker, True)

    def give(self, worker: int, bag: Path, settings: Any) -> None:
        self._pending[self._actors[worker].run.remote(bag, settings)] = (worker, False)

    def wait(self, seconds: float) -> list[Event]:
        done, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=seconds)
        return [self._event(each) for each in done]

    def stop(self) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)
        if self._owns:
            self._ray.shutdown()

    def _event(self, reference: Any) -> Event:
        worker, starting = self._pending.pop(reference)
        try:
            outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            # It may be out of reach and alive: its bag is another's now.
            self._ray.kill(self._actors.pop(worker))
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return Event(
                worker, "died", reason=(lines[-1] if starting else lines[0]) if lines else type(error).__name__
            )
        return Event(worker, "ready") if starting else Event(worker, "done", outcome)


def import_places() -> list[str]:
    """Where this process imports from, but for what belongs to Python's installation."""
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    installed |= {*site.getsitepackages(), site.getusersitepackages(), *(f"{each}/lib-dynload" for each in installed)}
    places = [os.path.abspath(each) for each in sys.path]
    return [each for each in dict.fromkeys(places) if each not in installed and os.path.isdir(each)]


def import_ray() -> Any:
    """Raises BagError."""
    # What workers print, and what Ray tells of those that die: `wait` tells it, in one line.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        import ray
    except ImportError as error:
        raise BagError(
            f"--workers ray needs a package that cannot be imported ({why(error)}): pip install ray"
        ) from error
    return ray


def cluster_address() -> str:
    """RAY_ADDRESS, else where `ray start` began a cluster that still answers, else `local`: one of this run's own.

    Raises OSError where nobody answers at RAY_ADDRESS; Ray itself would try for a quarter of an hour.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address:
        _require_answer(address)
        return address
    folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    try:
        address = (folder / "ray" / "ray_current_cluster").read_text().strip()
        _require_answer(address)
    except OSError:
        return "local"
    return address


def _require_answer(address: str) -> None:
    """Of an address that names a port. Raises OSError."""
    if match := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address):
        socket.create_connection((match[1].strip("[]"), int(match[2])), REACH_SECONDS).close()


def _connect(ray: Any) -> None:
    """Raises BagError."""
    try:
        ray.init(cluster_address(), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # it raises whatever its connection raises
        address = os.environ.get("RAY_ADDRESS")
        place = f"at {address} (RAY_ADDRESS)" if address else "of this machine"
        raise BagError(f"the Ray cluster {place} cannot be used: {why(error)}; see `ray status`") from error
