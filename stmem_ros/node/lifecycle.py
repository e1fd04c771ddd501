"""What rclpy's lifecycle nodes need beside what they have."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode


def survive_invalid_transitions(node: LifecycleNode) -> None:
    """rclpy up to Jazzy lets a lifecycle request that does not fit the state end the node (rclpy#1209)."""
    service = getattr(node, "_service_change_state", None)
    if service is None:
        return
    original = service.callback

    def callback(request: Any, response: Any) -> Any:
        try:
            return original(request, response)
        except RuntimeError as error:
            node.get_logger().warning(f"lifecycle request refused: {' '.join(str(error).split())}")
            response.success = False
            return response

    service.callback = callback
