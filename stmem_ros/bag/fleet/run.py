"""A folder of hundreds of bags as one run: in this process, in several, or on a Ray cluster, with one result."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import pickle
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stmem_ros.bag.fleet.find import size_of
from stmem_ros.bag.fleet.journal import Journal, key_of
from stmem_ros.bag.fleet.workers import Function, LocalWorkers, Outcome, Workers, attempt
from stmem_ros.bag.io.errors import BagError, why

MOST_WORKERS = 1024
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Job:
    """One bag, and what is asked of it: plain data (dataclasses, paths, what JSON has) that can be pickled."""

    bag: Path
    settings: Any = None


@dataclasses.dataclass(frozen=True)
class Failure:
    bag: Path
    reason: str


@dataclasses.dataclass(frozen=True)
class FleetResult:
    """`results` are in the order of the jobs, None where one failed; `resumed` of them are of an earlier run."""

    results: tuple[Any, ...]
    failures: tuple[Failure, ...]
    resumed: int
    journal: Journal | None

    def forget(self) -> None:
        """Clear the journal, when what was made of the results is written."""
        if self.journal is not None:
            self.journal.clear()


def add_fleet_arguments(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--workers",
        type=worker_count,
        default="1",
        metavar="N",
        help="bags at a time: 1 in this process (default), N in processes of this machine, or ray: actors on the "
        "cluster of RAY_ADDRESS or `ray start`, or on one of its own, as many as fit (ray:N: so many)",
    )
    parser.add_argument(
        "--gpus-per-worker",
        type=float,
        default=1.0,
        metavar="GPUS",
        help="of a Ray cluster that has some; 0.5 lets two share one (default: %(default)g)",
    )


def worker_count(text: str) -> str:
    """An argparse type: `N`, `ray` or `ray:N`. Raises ArgumentTypeError."""
    match = re.fullmatch(r"(ray(?::(?=.))?)?([1-9]\d*)?", text)
    if not text or not match or not 1 <= int(match[2] or 1) <= MOST_WORKERS or (match[1] == "ray" and match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 1 to {MOST_WORKERS}, ray, or ray:N")
    return text


def run_fleet(
    function: Function,
    jobs: Sequence[Job],
    workers: str | int = 1,
    *,
    journal: Path | None = None,
    types: tuple[type, ...] = (),
    identity: str = "",
    retries: int = 2,
    gpus_per_worker: float = 1.0,
) -> FleetResult:
    """`function(bag, settings)` of every job, with a progress bar over bags.

    Args:
        function: can be pickled, as can what it returns. Each worker has one copy for all its bags, so what it keeps
            (on itself, or in an lru_cache) is made once a worker; it may be a callable object. What it raises is that
            bag's failure and does not stop the rest.
        workers: 1: in this process, in the order of the jobs; N: in so many processes of this machine; `ray`, `ray:N`:
            on a Ray cluster. An idle worker takes the largest bag that is left.
        journal: a folder for finished results; where it has one of a job, that job is not done again. It stays
            until the result's `forget`.
        types: the dataclasses that results for a journal are made of, beside plain data (`Plain`).
        identity: what else results depend on, such as the checkpoint's SHA-256.
        retries: how often a bag whose worker died is given to another, before that is its failure.
        gpus_per_worker: of a Ray cluster.

    Raises BagError for a bag that is listed twice, and where workers cannot be had; KeyboardInterrupt, with what the
    stop means, on Ctrl-C. No process is left behind, and what was finished is in the journal.
    """
    run = _Run(function, jobs, None if journal is None else Journal(journal, types), identity)
    kind, _, number = str(workers).partition(":")
    try:
        with run.bar:
            if not run.waiting:
                pass
            elif kind == "1":
                for index in run.waiting:
                    run.finish(index, attempt(function, jobs[index].bag, jobs[index].settings))
            elif kind == "ray":
                from stmem_ros.bag.fleet.ray_workers import RayWorkers

                pool = RayWorkers(function, int(number or 0), gpus_per_worker, len(run.waiting))
                _share_out(run, pool, retries)
            else:
                _share_out(run, LocalWorkers(function, min(int(kind), len(run.waiting))), retries)
    except KeyboardInterrupt as error:
        goes_on = "; the same command goes on with the rest" if run.journal is not None else ""
        raise KeyboardInterrupt(f"{run.done} of {len(jobs)} bags are done{goes_on}") from error
    return run.result()


class _Run:
    """What is finished and what is left; a job is finished once."""

    def __init__(self, function: Function, jobs: Sequence[Job], journal: Journal | None, identity: str) -> None:
        """Raises BagError for a bag that is listed twice."""
        self.jobs, self.journal = jobs, journal
        self._results: dict[int, Any] = {}
        self._failures: dict[int, Failure] = {}
        name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
        self._keys: dict[int, str] = {}
        for index, job in enumerate(jobs):
            try:
                key = key_of(name, job.bag, job.settings, identity)
            except OSError as error:
                self._failures[index] = Failure(job.bag, f"it cannot be read: {why(error)}")
                continue
            if key in self._keys.values():
                raise BagError(f"{job.bag} is listed twice: give it once")
            self._keys[index] = key
            found, result = journal.read(key) if journal is not None else (False, None)
            if found:
                self._results[index] = result
        self.resumed = len(self._results)
        self.waiting = [index for index in self._keys if index not in self._results]
        hidden = True if len(jobs) == 1 else None
        self.bar = tqdm(total=len(jobs), initial=self.done, desc="bags", unit="bag", disable=hidden)
        for failure in self._failures.values():
            self._tell(failure)

    @property
    def done(self) -> int:
        return len(self._results) + len(self._failures)

    def finish(self, index: int, outcome: Outcome) -> None:
        """Raises OSError where the journal cannot be written."""
        assert index not in self._results and index not in self._failures
        if outcome.failure is None:
            # From this run's own processes.
            result = pickle.loads(outcome.pickled)
            if self.journal is not None:
                self.journal.write(self._keys[index], result)
            self._results[index] = result
        else:
            self._failures[index] = Failure(self.jobs[index].bag, outcome.failure)
            self._tell(self._failures[index])
        self.bar.update(1)

    def result(self) -> FleetResult:
        results = tuple(self._results.get(index) for index in range(len(self.jobs)))
        failures = tuple(self._failures[index] for index in sorted(self._failures))
        return FleetResult(results, failures, self.resumed, self.journal)

    def _tell(self, failure: Failure) -> None:
        reason = failure.reason if str(failure.bag) in failure.reason else f"{failure.bag}: {failure.reason}"
        tqdm.write(f"failed: {reason}", file=sys.stderr)


def _share_out(run: _Run, pool: Workers, retries: int) -> None:
    """Give every waiting job to a worker that is idle, until all are finished. Raises BagError, OSError."""
    queue = collections.deque(sorted(run.waiting, key=lambda index: _size(run.jobs[index].bag), reverse=True))
    attempts: collections.Counter[int] = collections.Counter()
    busy: dict[int, int] = {}
    idle: list[int] = []
    alive, deaths, since = 0, 0, time.monotonic()
    try:
        while queue or busy:
            while alive < min(pool.count, len(queue) + len(busy)):
                pool.start()
                alive += 1
            while queue and idle:
                worker, index = idle.pop(), queue.popleft()
                attempts[index] += 1
                busy[worker] = index
                pool.give(worker, run.jobs[index].bag, run.jobs[index].settings)
            for event in pool.wait(POLL_SECONDS):
                if event.kind == "ready":
                    idle.append(event.worker)
                    deaths = 0
                elif event.kind == "done":
                    idle.append(event.worker)
                    run.finish(busy.pop(event.worker), event.outcome)
                else:
                    alive -= 1
                    if event.worker in idle:
                        idle.remove(event.worker)
                    elif event.worker not in busy:
                        deaths += 1
                        if deaths > pool.count + retries:
                            raise BagError(f"no worker can be started: {event.reason}")
                    elif attempts[index := busy.pop(event.worker)] <= retries:
                        queue.appendleft(index)
                        tqdm.write(f"{run.jobs[index].bag} is begun anew: its worker died ({event.reason})", sys.stderr)
                    else:
                        times = f"{attempts[index]} times, the last time: " if retries else ""
                        run.finish(index, Outcome(failure=f"its worker died {times}{event.reason}"))
            if idle or busy:
                since = time.monotonic()
            elif time.monotonic() - since > PATIENCE_SECONDS:
                tqdm.write(f"still waiting for {pool.waiting_for}", file=sys.stderr)
                since = time.monotonic()
            run.bar.refresh()
    finally:
        pool.stop()


def _size(bag: Path) -> int:
    try:
        return size_of(bag)
    except OSError:
        return 0
