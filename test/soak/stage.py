"""The camera and the segmentation node as processes, and a consumer in this one that sees and asks for everything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

from soak.bounds import Label
from stmem_ros.node.messages import stamp_to_ns

NAMESPACE = "/soak"
NODE = f"{NAMESPACE}/segmentation"
TOPIC = f"{NAMESPACE}/image"
SECONDS_TO_START = 120.0
SECONDS_TO_ANSWER = 30.0
# What is freed goes back to the system at once, so that resident memory is what the process uses: else it goes up and
# down by tens of MiB with every model that is loaded.
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "cleanup": Transition.TRANSITION_CLEANUP,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
}


class SoakError(Exception):
    """Why the soak cannot go on; one line."""


class Stage:
    """`labels` are all that came; `life` counts the node's processes; `pid` is the one that runs.

    While it was `centered` (from, to, nanoseconds), labels are of the frame before the newest one.
    """

    def __init__(self, folder: Path, rate: float, size: tuple[int, int], parameters: dict[str, str]) -> None:
        self.folder, self.rate, self.size, self._parameters = folder, rate, size, parameters
        self.labels: list[Label] = []
        self.centered: list[tuple[int, int]] = []
        self.life = 0
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._cameras = 0
        self._context = rclpy.Context()
        rclpy.init(context=self._context, args=[])
        self._node = rclpy.create_node("soak", context=self._context)
        self._node.create_subscription(Image, f"{NAMESPACE}/labels", self._on_labels, QoSProfile(depth=50))
        kinds = {
            "reset": Trigger,
            "enable": SetBool,
            "change_state": ChangeState,
            "set_parameters": SetParameters,
        }
        self._clients = {name: self._node.create_client(kind, f"{NODE}/{name}") for name, kind in kinds.items()}
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, name="consumer")
        self._thread.start()

    def _on_labels(self, message: Image, info: dict[str, Any]) -> None:
        self.labels.append(Label(stamp_to_ns(message.header.stamp), info["source_timestamp"], self.life))

    # Processes

    @property
    def pid(self) -> int | None:
        process = self._processes.get("node")
        return None if process is None or process.poll() is not None else process.pid

    def start_node(self) -> None:
        self.life += 1
        settings = [word for name, value in self._parameters.items() for word in ("-p", f"{name}:={value}")]
        module = ["stmem_ros.node.segmentation_node", "--ros-args"]
        self._start("node", [*module, "-r", f"__ns:={NAMESPACE}", *settings])

    def start_camera(self) -> None:
        """Reliable and best effort by turns: the node must follow."""
        self._cameras += 1
        options = {
            "--topic": TOPIC,
            "--log": str(self.folder / f"camera{self._cameras}.stamps"),
            "--rate": str(self.rate),
            "--reliability": ("best_effort", "reliable")[self._cameras % 2],
        }
        size = ["--size", *map(str, self.size)]
        self._start("camera", ["soak.camera", *(word for pair in options.items() for word in pair), *size])

    def _start(self, name: str, arguments: list[str]) -> None:
        command = [sys.executable, "-m", "soak.child", str(os.getpid()), *arguments]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | ALLOCATOR)

    def stop(self, name: str, number: int = signal.SIGINT) -> None:
        """End a process with a signal, and wait for its end. Raises SoakError where Ctrl-C does not end it well."""
        process = self._processes.pop(name)
        if process.poll() is not None:
            raise SoakError(f"the {name} had ended by itself with exit code {process.returncode}: {self.said(name)}")
        if number == signal.SIGKILL:
            process.kill()
            process.wait()
            return
        process.send_signal(number)
        try:
            process.wait(SECONDS_TO_ANSWER)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise SoakError(f"the {name} did not end within {SECONDS_TO_ANSWER:g} s of {number.name}") from None
        if process.returncode:
            raise SoakError(f"the {name} ended with exit code {process.returncode}: {self.said(name)}")

    def said(self, name: str) -> str:
        """The last lines of a process's output."""
        lines = (self.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:])

    # The consumer

    def published(self) -> frozenset[int]:
        """Every stamp that an image ever had."""
        files = sorted(self.folder.glob("*.stamps"))
        return frozenset(int(stamp) for file in files for stamp in np.frombuffer(file.read_bytes(), "<u8"))

    def wait_labels(self, count: int = 3, seconds: float = SECONDS_TO_ANSWER) -> None:
        """For that many labels of frames that were stamped from now on."""
        now = time.time_ns()
        self.wait_for(
            lambda: sum(label.stamp_ns > now for label in self.labels[-2 * count :]) >= count,
            f"{count} labels of new frames",
            seconds,
        )

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float = SECONDS_TO_ANSWER) -> None:
        """Raises SoakError where a process has ended, or `condition` does not hold in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise SoakError(f"the {name} ended with exit code {process.returncode}: {self.said(name)}")
            if time.monotonic() > deadline:
                raise SoakError(f"waited {seconds:g} s for {what}; the node says: {self.said('node')}")
            time.sleep(0.02)

    def call(self, service: str, request: Any) -> Any:
        client = self._clients[service]
        self.wait_for(client.service_is_ready, f"service {service}")
        future = client.call_async(request)
        self.wait_for(future.done, f"an answer of {service}")
        return future.result()

    def change_state(self, *transitions: str) -> None:
        for name in transitions:
            request = ChangeState.Request(transition=Transition(id=TRANSITIONS[name]))
            if not self.call("change_state", request).success:
                raise SoakError(f"the node would not {name}: {self.said('node')}")

    def set_parameter(self, name: str, value: Any) -> str:
        """Why it was refused; empty where it was taken."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        result = self.call("set_parameters", request).results[0]
        return "" if result.successful else result.reason or "no reason given"

    def watch(self, topic: str) -> Callable[[], None]:
        """Subscribe to another output, for nothing; returns how to leave again."""
        subscription = self._node.create_subscription(
            Image, f"{NAMESPACE}/{topic}", lambda _: None, QoSProfile(depth=5)
        )
        return lambda: self._node.destroy_subscription(subscription)

    def close(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGINT)
        for process in self._processes.values():
            try:
                process.wait(SECONDS_TO_ANSWER)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()
        self._context.try_shutdown()
