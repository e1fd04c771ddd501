"""A camera in a process of its own. Each stamp is in a file before its image is sent, so that none is unknown."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from stmem_ros.node.messages import stamp_from_ns, to_image_msg

PICTURES = 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--log", required=True, help="file that stamps are appended to, eight bytes each")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--size", type=int, nargs=2, required=True, help="height and width")
    parser.add_argument("--reliability", choices=("reliable", "best_effort"), required=True)
    options = parser.parse_args()
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.append(1))
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("camera")
    reliability = ReliabilityPolicy.RELIABLE if options.reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT
    publisher = node.create_publisher(Image, options.topic, QoSProfile(depth=5, reliability=reliability))
    random = np.random.default_rng(0)
    header = Header(frame_id="camera")
    pictures = [
        to_image_msg(random.integers(0, 256, (*options.size, 3), np.uint8), "rgb8", header) for _ in range(PICTURES)
    ]
    log = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    started, sent = time.monotonic(), 0
    while not stopping:
        wait = started + sent / options.rate - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        else:
            # A camera that was held up does not catch up.
            started -= wait
        message = pictures[sent % PICTURES]
        stamp = time.time_ns()
        os.write(log, stamp.to_bytes(8, "little"))
        message.header.stamp = stamp_from_ns(stamp)
        publisher.publish(message)
        sent += 1
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
