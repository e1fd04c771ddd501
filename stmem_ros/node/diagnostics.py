"""What the node says of itself in /diagnostics."""

from __future__ import annotations

from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.qos import QoSProfile

from stmem_ros.node.health import Verdict
from stmem_ros.node.live import LiveParameters
from stmem_ros.node.model import Model
from stmem_ros.node.settings import THE_MODEL, THE_NODE
from stmem_ros.node.statistics import Complaints
from stmem_ros.node.stream import Stream

TOPIC = "/diagnostics"
QOS = QoSProfile(depth=10)
PERIOD_S = 1.0
# What the status of a camera says, by key; what is in capitals is filled in.
STREAM_VALUES = {
    "frames received": "since the node was configured, as all counts",
    "frames labelled": "whose labels were published; with `centered` a frame whose window is forgotten before the "
    "next one comes is never labelled",
    "frames dropped for newer ones": "that came while the network was busy",
    "frames ignored while disabled": "by `~/enable` or `enabled_cameras`",
    "frames that nobody wanted": "they went into the window, and no output had a subscriber",
    "frames rejected": "that could not be segmented, and the log says why",
    "frames with a stamp of zero": "whose camera driver sets none",
    "frames with a stamp of another clock": "ahead of the node's clock or over a minute behind it; the message says "
    "what to do",
    "images per second": "that came, in the last five seconds",
    "labels per second": "that left, in the last five seconds",
    "rejected for KIND": "of those rejected: `data`, `encoding`, `float`, `size`, `stamp`, `step` of the message, or "
    "`failure` of the network",
    "window reset: REASON": "how often a new window was started for it",
    "latency p50 ms": "from the camera's stamp to the published labels, or from the image's arrival if the stamp is "
    "zero or from another clock; this and the following over 300 frames",
    "latency p99 ms": "the same",
    "wait p50 ms": "until the worker takes the frame",
    "decode p50 ms": "message to image",
    "network p50 ms": "image to labels",
    "publish p50 ms": "labels to messages",
    "node overhead p50 ms": "decode and publish",
    "checkpoint": "path of the model",
    "window": "how much of it is filled with frames of its own",
    "topic": "that is subscribed to, or would be",
    "reliability": "of the subscription; `none` while no publisher is known",
}
NODE_VALUES = {"state": "of its lifecycle: `unconfigured`, `inactive`, `active` or `finalized`"}
MODEL_VALUES = {
    "checkpoint": "path of the model",
    "model": "its file's name",
    "sha256": "of the file; of an exported folder, of its `model.json`",
    "classes": "how many",
    "window": "its mode and length in frames",
    "device": "where the network runs",
    "precision": "of its numbers",
    "memory MiB": "of the node's process",
    "GPU memory MiB": "that PyTorch has allocated; on a GPU alone",
    "loading": "the model that is being loaded beside this one; only meanwhile",
}


def node_status(prefix: str, state: str, failure: str) -> DiagnosticStatus:
    """Of the node: the state of its lifecycle, or why its last transition failed, which was logged when it came."""
    level = DiagnosticStatus.ERROR if failure else DiagnosticStatus.OK
    return _status(f"{prefix}: {THE_NODE}", level, failure or state, "", {"state": state})


def stream_status(
    prefix: str, stream: Stream, verdicts: list[Verdict], model: Model | None, complain: Complaints
) -> DiagnosticStatus:
    """Of one camera; what is wrong is said in the log too. The worst of the verdicts is the status's."""
    for verdict in verdicts:
        if verdict.level != DiagnosticStatus.OK:
            say = complain.error if verdict.level == DiagnosticStatus.ERROR else complain
            say(f"{verdict.kind} {stream.name}", verdict.message)
    values = stream.statistics.summary()
    if model is not None:
        values["checkpoint"] = str(model.path)
    engine, camera = stream.engine, stream.camera
    if engine is not None:
        values["window"] = f"{engine.state.frames} of {engine.length} frames"
    if camera is not None:
        reliability = camera.reliability
        values |= {"topic": camera.topic, "reliability": reliability.name.lower() if reliability else "none"}
    message = "; ".join(verdict.message for verdict in verdicts)
    hardware = str(engine.device) if engine is not None else ""
    return _status(f"{prefix}: {stream.title}", verdicts[0].level, message, hardware, values)


def model_status(prefix: str, model: Model, live: LiveParameters) -> DiagnosticStatus:
    """Of the network that all cameras share."""
    loading = live.loading
    values = model.describe() | ({"loading": loading.checkpoint or "the package's model"} if loading else {})
    level = DiagnosticStatus.WARN if live.model_failure else DiagnosticStatus.OK
    message = live.model_failure or ("loading another model" if loading else "loaded")
    return _status(f"{prefix}: {THE_MODEL}", level, message, str(model.engine.device), values)


def _status(name: str, level: bytes, message: str, hardware: str, values: Mapping[str, str]) -> DiagnosticStatus:
    status = DiagnosticStatus(level=level, name=name, message=message, hardware_id=hardware)
    status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
    return status
