"""The segmentation node as a process, for as long as you like: a camera too fast for it, restarts of everything.

Measures what the node takes, how old the frames are that it works on, and whether its labels can be trusted. Prints a
table; exit code 1 where a bound is broken, and the table says which.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from shared_memory import remove_left

from soak.bounds import LONG_RUN_S, Record, judge, table
from soak.disturbances import CYCLE, PROCESS_RESTARTS, Disturbance, SwapModel, kill_camera
from soak.measure import Handles, Sampler, handles
from soak.stage import SECONDS_TO_START, SoakError, Stage
from stmem_ros.checkpoint import DEFAULT_CHECKPOINT
from stmem_ros.node.processes import OWN_DOMAIN

SIZE = (240, 320)
# What two cores label about ten times a second.
SHORT_SIDE = 240
WARM_S, SETTLE_S = 2.0, 10.0
# Each disturbance comes this often before memory is measured, in a run that is long enough to measure it: DDS keeps
# room for the participants that it met and for a thousand lines of /rosout.
WARM_ROUNDS = 8
# Each camera that is killed leaves DDS more of that room to keep until about a hundred of them were.
WARM_KILLS = 120
# For what comes after warm-up at least: of the time, and in a run that measures memory.
MEASURED_SHARE, MEASURED_S = 0.5, LONG_RUN_S + 60


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """By a signal, its argument."""


def stop(number: int, _: FrameType | None) -> None:
    """Ends what was started; whoever cannot wait for that says it again."""
    for each in STOPPING:
        signal.signal(each, signal.SIG_DFL)
    raise Stopped(signal.Signals(number))


def least(stage: Stage, seconds: float, enough: Handles | None = None) -> Handles:
    """The least that the node holds open in that time, or what is `enough`: threads of what was done last may end."""
    stage.wait_labels()
    assert stage.pid is not None
    found = handles(stage.pid)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if enough is not None and found.threads <= enough.threads and found.files <= enough.files:
            break
        time.sleep(0.2)
        now = handles(stage.pid)
        found = Handles(min(found.threads, now.threads), min(found.files, now.files))
    return found


def soak(folder: Path, seconds: float, pause: float, rate: float) -> Record:
    """Disturb the node for about `seconds` after its first labels. Raises SoakError where it cannot be started."""
    second, broken = folder / "second.safetensors", folder / "broken.safetensors"
    data = DEFAULT_CHECKPOINT.read_bytes()
    second.write_bytes(data)
    broken.write_bytes(data[: len(data) // 2])
    cycle = [*CYCLE, SwapModel(DEFAULT_CHECKPOINT, second, broken)]
    done: collections.Counter[str] = collections.Counter()
    complaints: list[str] = []
    stage = Stage(folder, rate, SIZE, {"short_side": str(SHORT_SIDE), "checkpoint": str(DEFAULT_CHECKPOINT)})
    sampler = Sampler(lambda: stage.pid)

    busy: list[tuple[float, float]] = []

    def disturb(action: Disturbance, pause: float = pause) -> None:
        started = time.time()
        try:
            action(stage)
            stage.wait_labels(seconds=SECONDS_TO_START)
        except SoakError as error:
            complaints.append(f"{action.__name__}: {error}")
            print(f"soak: {complaints[-1]}", file=sys.stderr, flush=True)
        busy.append((started, time.time()))
        done[action.__name__.replace("_", " ")] += 1
        time.sleep(pause)

    try:
        stage.start_node()
        stage.start_camera()
        stage.wait_labels(seconds=SECONDS_TO_START)
        end = time.time() + seconds
        long = seconds > LONG_RUN_S
        for action in (*PROCESS_RESTARTS, *cycle * (WARM_ROUNDS if long else 1)):
            disturb(action)
        for _ in range(WARM_KILLS if long else 0):
            disturb(kill_camera, pause=0)
        warm, warm_at = least(stage, WARM_S), time.time()
        # However long that took: what is left must be long enough to be judged.
        end = max(end, warm_at + max(MEASURED_SHARE * seconds, MEASURED_S if long else 0.0))
        order = random.Random(0)
        while time.time() < end:
            disturb(order.choice(cycle))
        steady = [
            sample
            for sample in sampler.samples
            if sample.time >= warm_at and not any(start <= sample.time <= stop for start, stop in busy)
        ]
        return Record(
            tuple(stage.labels),
            tuple(stage.centered),
            stage.published(),
            rate,
            SIZE[0] * SIZE[1] * 3,
            tuple(steady),
            warm,
            least(stage, SETTLE_S, warm),
            dict(done),
            tuple(complaints),
        )
    finally:
        sampler.close()
        stage.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument(
        "--seconds",
        type=float,
        default=1800.0,
        help="how long (default: half an hour; where warm-up takes more than its share, some minutes more)",
    )
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two disturbances")
    parser.add_argument(
        "--rate", type=float, default=60.0, help="Hz of the camera, too fast for the node (default: 60)"
    )
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    os.environ.setdefault("ROS_DOMAIN_ID", OWN_DOMAIN)
    for number in STOPPING:
        signal.signal(number, stop)
    started = time.time()
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        try:
            record = soak(Path(folder), options.seconds, options.pause, options.rate)
        except SoakError as error:
            print(f"soak: {error}", file=sys.stderr)
            return 1
        except Stopped as stopped:
            (number,) = stopped.args
            print(f"soak: stopped by {number.name} before the end, so nothing was measured", file=sys.stderr)
            return 128 + number
        finally:
            remove_left(started)
    rows = judge(record)
    print(table(rows))
    if options.json:
        figures = {row.name: {"value": row.value, "bound": row.bound, "broken": row.broken} for row in rows}
        samples = [[round(sample.time - record.steady[0].time, 2), sample.resident] for sample in record.steady]
        document = {"figures": figures, "complaints": record.complaints, "resident_bytes": samples}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    broken = [row for row in rows if row.broken]
    for row in broken:
        print(f"soak: {row.name}: {row.value}, but the bound is {row.bound}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
