"""From one frame to one label map: the temporal window and the engine around the network. Knows no ROS."""

from stmem_ros.streaming.batch import NetworkError, Segmentation, batches, step_together
from stmem_ros.streaming.device import DeviceError, resolve_device
from stmem_ros.streaming.segmenter import StreamConfig, StreamingSegmenter
from stmem_ros.streaming.window import ResetReason, StreamState

__all__ = [
    "DeviceError",
    "NetworkError",
    "ResetReason",
    "Segmentation",
    "StreamConfig",
    "StreamState",
    "StreamingSegmenter",
    "batches",
    "resolve_device",
    "step_together",
]
