"""The node's own services: forget the window, ignore images or segment again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from std_srvs.srv import SetBool, Trigger

from stmem_ros.node.settings import value_of

if TYPE_CHECKING:
    from stmem_ros.node.segmentation_node import SegmentationNode

# Name: (type, meaning).
SERVICES = {
    "~/reset": (Trigger, "forget the window; the next frame starts a new one"),
    "~/enable": (SetBool, "ignore images, or segment again"),
}
# What is missing, in each state but the active one.
STEPS = {"unconfigured": ("configure", "activate"), "inactive": ("activate",)}


class Services:
    """`enabled` is what ~/enable said last; the executor's thread calls the rest."""

    def __init__(self, node: SegmentationNode) -> None:
        self._node = node
        self.enabled = True
        callbacks = {"~/reset": self._on_reset, "~/enable": self._on_enable}
        for name, (kind, _) in SERVICES.items():
            node.create_service(kind, name, callbacks[name])

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        for stream in self._node.streams:
            stream.reset_asked.set()
        response.success = True
        response.message = self._once_active("the next frame starts a new window")
        self._node.info(f"~/reset: {response.message}")
        return response

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.enabled = request.data
        self._node.enable_cameras(value_of(self._node, "enabled_cameras"))
        response.success = True
        response.message = self._once_active("segmenting") if self.enabled else "images are ignored until enabled again"
        self._node.info(f"~/enable {str(self.enabled).lower()}: {response.message}")
        return response

    def _once_active(self, what: str) -> str:
        """What happens, or what must be done before it does."""
        state = self._node.state
        if state == "active":
            return what
        name = self._node.get_fully_qualified_name()
        ways = ", then ".join(f"`ros2 lifecycle set {name} {step}`" for step in STEPS.get(state, ()))
        return f"{what} once the node is active; it is {state}: {ways or 'start it anew'}"
