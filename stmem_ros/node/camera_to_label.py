"""How long labels take through the node and DDS: a camera in this process, the segmentation node in another."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from stmem_ros.node.clocks import Reading, latency_of
from stmem_ros.node.messages import stamp_from_ns, stamp_to_ns, to_image_msg
from stmem_ros.node.outputs import QOS
from stmem_ros.node.processes import NAMESPACE, START_SECONDS, Observer, ProcessError

CAMERA_TOPIC = "/stmem_benchmark/image"
CAMERA_DEPTH = 5
# Frames of so many seconds are sent first and not counted, and so long nothing comes before the run is over.
WARM_UP_SECONDS, QUIET_SECONDS = 2.0, 2.0
PARTS = ("wait", "decode", "network", "publish", "node overhead")


def camera_to_label(
    images: Sequence[NDArray[np.uint8]], rate: float, frames: int, parameters: dict[str, object]
) -> dict[str, Any]:
    """Publish `frames` frames at `rate` Hz, `images` `(H, W, 3)` RGB in turn, and hear the labels.

    `parameters` are the segmentation node's. Latencies run from the stamp, set as a frame is published, to the
    arrival of its labels; `node_ms` is what the node says of itself, medians of its last 300 frames.
    Raises ProcessError.
    """
    observer = Observer("benchmark")
    try:
        return _drive(observer, images, rate, frames, parameters)
    except ExternalShutdownException:
        # rclpy's word for Ctrl-C.
        raise KeyboardInterrupt from None
    finally:
        observer.close()


def _drive(
    observer: Observer,
    images: Sequence[NDArray[np.uint8]],
    rate: float,
    frames: int,
    parameters: dict[str, object],
) -> dict[str, Any]:
    arrivals: list[tuple[int, Reading]] = []
    last_label = [time.monotonic()]

    def on_labels(message: Image) -> None:
        arrivals.append((stamp_to_ns(message.header.stamp), Reading.of_system()))
        last_label[0] = time.monotonic()

    messages = [to_image_msg(image, "rgb8", Header(frame_id="camera")) for image in images]
    observer.node.create_subscription(Image, f"{NAMESPACE}/labels", on_labels, QOS)
    camera = observer.node.create_publisher(
        Image, CAMERA_TOPIC, QoSProfile(depth=CAMERA_DEPTH, reliability=ReliabilityPolicy.RELIABLE)
    )
    observer.start_segmentation(CAMERA_TOPIC, parameters, ("labels",))
    observer.spin_until(lambda: camera.get_subscription_count() > 0, START_SECONDS, "the node to subscribe")

    sent: list[int] = []
    warm_up = round(WARM_UP_SECONDS * rate)
    started = time.monotonic()
    for number in range(warm_up + frames):
        observer.spin_once(0)
        while (left := started + number / rate - time.monotonic()) > 0:
            observer.spin_once(left)
        message = messages[number % len(messages)]
        sent.append(time.time_ns())
        message.header.stamp = stamp_from_ns(sent[-1])
        camera.publish(message)
    last_label[0] = time.monotonic()
    observer.spin_until(lambda: time.monotonic() - last_label[0] > QUIET_SECONDS, START_SECONDS, "the last labels")
    values = {pair.key: pair.value for pair in observer.health[-1].values}
    return _report(sent, warm_up, arrivals, values) | {"rate_hz": rate, "device": observer.health[-1].hardware_id}


def _report(
    sent: list[int], warm_up: int, arrivals: list[tuple[int, Reading]], values: dict[str, str]
) -> dict[str, Any]:
    """`sent` are stamps, the first `warm_up` of them not counted; `arrivals` stamps of labels and when they came."""
    counted = [(stamp, arrival) for stamp, arrival in arrivals if stamp >= sent[warm_up]]
    if len(counted) < 2:
        raise ProcessError(f"{len(counted)} of {len(sent) - warm_up} frames came back with labels; send more of them")
    stamps = [stamp for stamp, _ in arrivals]
    timed = [latency for stamp, arrival in counted if (latency := latency_of(stamp, arrival)) is not None]
    if not timed:
        raise ProcessError("no latency was measured, since this computer's clock jumped meanwhile; measure again")
    latencies = [latency * 1e3 for latency in timed]
    p50, p99 = (float(value) for value in np.percentile(latencies, [50, 99]))
    return {
        "frames_sent": len(sent) - warm_up,
        "frames_labelled": len(counted),
        "frames_received_by_node": int(values.get("frames received", 0)) - warm_up,
        "labels_per_second": (len(counted) - 1) / ((counted[-1][1].uptime - counted[0][1].uptime) * 1e-9),
        "latency_ms": {"p50": p50, "p99": p99},
        "p99_over_p50": p99 / p50,
        # Each on the stamp of a frame that was sent, none twice, in order.
        "stamps_are_frames": set(stamps) <= set(sent) and stamps == sorted(set(stamps)),
        "node_ms": {part: float(values[f"{part} p50 ms"]) for part in PARTS},
        "rmw": get_rmw_implementation_identifier(),
        "transports": os.environ.get("FASTDDS_BUILTIN_TRANSPORTS", "default"),
    }
