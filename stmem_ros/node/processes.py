"""Nodes in processes of their own, and this process's node among them: what starts, watches and ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor

from stmem_ros.node.settings import THE_STREAM

# Far from the domains that people use, so that a robot on this network does not hear what runs here.
OWN_DOMAIN = "97"
START_SECONDS = 120.0
NAMESPACE = "/segmentation"


class ProcessError(Exception):
    """Why the nodes could not do their work; one line."""


class Child:
    """A node in a process of its own; its output goes to a file that an error message can quote."""

    def __init__(self, module: str, arguments: list[str]) -> None:
        self.name = module.rpartition(".")[2]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by stop)
        command = [sys.executable, "-m", module, "--ros-args", *arguments]
        self.process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)

    def output(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def check_alive(self) -> None:
        code = self.process.poll()
        # Of SIGALRM it dies while the middleware does not end: its work is done (lifecycle.end_soon).
        if code and code != -signal.SIGALRM:
            last = " | ".join(self.output().strip().splitlines()[-3:])
            raise ProcessError(f"{self.name} ended with exit code {code}: {last}")

    def stop(self) -> int:
        """Ctrl-C, then kill if it does not end within ten seconds; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()
        return self.process.returncode


class Observer:
    """A node of this process, `node`, and the child processes around it; `close` ends all of them.

    `health` collects what the segmentation node says of its camera in diagnostics.
    """

    def __init__(self, name: str) -> None:
        os.environ.setdefault("ROS_DOMAIN_ID", OWN_DOMAIN)
        rclpy.init(args=[])
        self.node = rclpy.create_node(name)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self.children: list[Child] = []
        self.health: list[DiagnosticStatus] = []
        self._failure = ""
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        own = [status for status in message.status if status.name.startswith(f"{NAMESPACE}/segmentation: ")]
        self.health.extend(status for status in own if status.name.endswith(f": {THE_STREAM}"))
        self._failure = next((status.message for status in own if status.level == DiagnosticStatus.ERROR), "")

    def start(self, module: str, arguments: list[str]) -> Child:
        """Start the node that is Python module `module`."""
        self.children.append(Child(module, arguments))
        return self.children[-1]

    def start_segmentation(self, image_topic: str, parameters: dict[str, object], outputs: tuple[str, ...]) -> Child:
        """Start the segmentation node, and wait until `outputs` have their publishers."""
        settings = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
        child = self.start(
            "stmem_ros.node.segmentation_node", ["-r", f"__ns:={NAMESPACE}", "-r", f"image:={image_topic}", *settings]
        )
        self.spin_until(
            lambda: all(self.node.count_publishers(f"{NAMESPACE}/{name}") for name in outputs) and bool(self.health),
            START_SECONDS,
            "the segmentation node to start",
        )
        return child

    def spin_once(self, seconds: float) -> None:
        """Take one message if one comes within `seconds`. Raises ProcessError where a child has failed."""
        self._executor.spin_once(timeout_sec=seconds)
        for child in self.children:
            child.check_alive()
        if self._failure:
            raise ProcessError(f"the segmentation node {self._failure}")

    def spin_until(self, condition: Callable[[], bool], seconds: float, waiting_for: str) -> None:
        """Raises ProcessError where a child has failed, or `condition` does not hold within `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.spin_once(0.1)
            if time.monotonic() > deadline:
                said = " | ".join(self.children[0].output().strip().splitlines()[-3:])
                raise ProcessError(f"waited {seconds:.0f} s for {waiting_for}; the segmentation node says: {said}")

    def close(self) -> None:
        for child in self.children:
            child.stop()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()
