"""What the node says of itself in /diagnostics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from stmem_ros.node.health import Verdict
from stmem_ros.node.live import LiveParameters
from stmem_ros.node.model import Model
from stmem_ros.node.stream import THE_STREAM, Stream


def node_status(prefix: str, failure: str) -> DiagnosticStatus:
    """Of a node without streams, or whose last transition failed; that was logged when it came."""
    level = DiagnosticStatus.ERROR if failure else DiagnosticStatus.OK
    return _status(f"{prefix}: {THE_STREAM}", level, failure or "not active", "", {})


def stream_status(
    prefix: str, stream: Stream, verdicts: list[Verdict], model: Model | None, complain: Callable[[str, str], object]
) -> DiagnosticStatus:
    """Of one camera; what is wrong is said in the log too. The worst of the verdicts is the status's."""
    for verdict in verdicts:
        if verdict.level != DiagnosticStatus.OK:
            complain(f"{verdict.kind} {stream.name}", verdict.message)
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
    return _status(f"{prefix}: model", level, message, str(model.engine.device), values)


def _status(name: str, level: bytes, message: str, hardware: str, values: Mapping[str, str]) -> DiagnosticStatus:
    status = DiagnosticStatus(level=level, name=name, message=message, hardware_id=hardware)
    status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
    return status
