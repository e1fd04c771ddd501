"""What a soak does to the node, and what must be true right after. Each raises SoakError where it is not."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from std_srvs.srv import SetBool, Trigger

from soak.stage import SoakError, Stage

Disturbance = Callable[[Stage], None]
# Longer than the frame that is in work when somebody says stop.
QUIET_S = 1.0


def reset(stage: Stage) -> None:
    if not stage.call("reset", Trigger.Request()).success:
        raise SoakError("the node would not reset")


def enable(stage: Stage) -> None:
    """Off and on: no label in between."""
    stage.call("enable", SetBool.Request(data=False))
    off = time.time_ns()
    time.sleep(QUIET_S)
    late = sum(label.stamp_ns > off for label in stage.labels)
    stage.call("enable", SetBool.Request(data=True))
    if late:
        raise SoakError(f"{late} frames were labelled that came while the node was disabled")


def parameters(stage: Stage) -> None:
    """Good values are taken, others are refused with a reason."""
    for name, value in (("overlay_alpha", 0.2), ("overlay_alpha", 0.5), ("max_gap", 0.5), ("max_gap", 1.0)):
        _take(stage, name, value)
    for name, value in (("overlay_alpha", 7.0), ("window", "sideways"), ("reliability", "reliable"), ("max_gap", "x")):
        if not stage.set_parameter(name, value):
            raise SoakError(f"parameter {name} was set to {value!r}")


def window(stage: Stage) -> None:
    """Centred and back: each loads the model anew."""
    began = time.time_ns()
    try:
        for value in ("centered", "causal"):
            _take(stage, "window", value)
            stage.wait_labels()
    finally:
        stage.centered.append((began, time.time_ns()))


def outputs(stage: Stage) -> None:
    """Somebody looks at the pictures for a while."""
    leave = [stage.watch(topic) for topic in ("color", "overlay", "confidence")]
    stage.wait_labels()
    for each in leave:
        each()


def restart_camera(stage: Stage) -> None:
    stage.stop("camera")
    stage.start_camera()


def kill_camera(stage: Stage) -> None:
    stage.stop("camera", signal.SIGKILL)
    stage.start_camera()


def deactivate(stage: Stage) -> None:
    stage.change_state("deactivate", "activate")


def clean_up(stage: Stage) -> None:
    stage.change_state("deactivate", "cleanup", "configure", "activate")


def restart_node(stage: Stage) -> None:
    stage.stop("node")
    stage.start_node()


def kill_node(stage: Stage) -> None:
    stage.stop("node", signal.SIGKILL)
    stage.start_node()


class SwapModel:
    """Another checkpoint and back, and between them one that is cut off: it is refused and changes nothing."""

    __name__ = "swap model"

    def __init__(self, first: Path, second: Path, broken: Path) -> None:
        self._first, self._second, self._broken = first, second, broken

    def __call__(self, stage: Stage) -> None:
        _take(stage, "checkpoint", str(self._second))
        stage.wait_labels()
        if not stage.set_parameter("checkpoint", str(self._broken)):
            raise SoakError(f"a checkpoint that is cut off was taken: {self._broken}")
        stage.wait_labels()
        _take(stage, "checkpoint", str(self._first))


def _take(stage: Stage, name: str, value: object) -> None:
    reason = stage.set_parameter(name, value)
    if reason:
        raise SoakError(f"parameter {name} could not be set to {value!r}: {reason}")


# Another process begins with another amount of memory: these come before memory is measured.
PROCESS_RESTARTS: tuple[Disturbance, ...] = (restart_node, kill_node)
CYCLE: tuple[Disturbance, ...] = (
    reset,
    parameters,
    enable,
    restart_camera,
    outputs,
    deactivate,
    kill_camera,
    window,
    clean_up,
)
