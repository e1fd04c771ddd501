"""What rclpy's lifecycle nodes need beside what they have."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node


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


def forget_destroyed(node: Node) -> None:
    """rclpy's callback groups keep a reference, if a weak one, to every entity that was ever in them."""
    entities = node.default_callback_group.entities
    # A copy: a transition that another thread triggers adds to them.
    entities.difference_update([entity for entity in list(entities) if entity() is None])
