"""What rclpy's nodes need beside what they have, so that no request and no message ends them, but Ctrl-C does."""

from __future__ import annotations

import signal
import time
from typing import Any

from rclpy.executors import Executor, ExternalShutdownException
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node

from stmem_ros.files import kind_and_line, one_line

# Seconds after a callback that failed: one that fails at once, again and again, leaves time for others.
PAUSE_S = 0.01
# Before a launch file, which asks again after five seconds and kills after ten.
ENDS_WITHIN_S = 8


def spin(executor: Executor, node: Node) -> None:
    """As `executor.spin()`, but what a callback raises is logged and ends nothing.

    rclpy's own callbacks raise for what anybody can send: a negative time on /clock, a parameter of an unknown type.
    Raises ExternalShutdownException and KeyboardInterrupt.
    """
    while True:
        try:
            return executor.spin()
        except ExternalShutdownException:
            raise
        except Exception as error:
            if not executor.context.ok():
                raise
            text = kind_and_line(error)
            node.get_logger().error(
                f"a message or a request could not be handled, and is ignored: {text}", throttle_duration_sec=10.0
            )
            time.sleep(PAUSE_S)


def end_soon() -> None:
    """This process is about to end: after ENDS_WITHIN_S the system ends it (SIGALRM, status 142).

    Over TCP (`LARGE_DATA`) Fast DDS 2.14.5 waits for ever at its end for a process that is stopped (Fast DDS 6066).
    rclpy holds the interpreter's lock meanwhile, so that no thread and no signal handler of Python's would end it.
    The wait may come as late as the interpreter's own end. Main thread only.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(ENDS_WITHIN_S)


def refuse_invalid_transitions(node: LifecycleNode) -> None:
    """Refuse a lifecycle request that does not fit the state, and say which do; rclpy up to Jazzy ends (rclpy#1209)."""
    service = getattr(node, "_service_change_state", None)
    if service is None:
        return
    original, machine = service.callback, node._state_machine

    def callback(request: Any, response: Any) -> Any:
        wanted = request.transition
        possible = {number: label for number, label, *_ in machine.available_transitions if label}
        known = {number: label for number, label, *_ in machine.transition_graph}
        name = wanted.label or known.get(wanted.id, f"transition {wanted.id}")
        try:
            if name in possible.values():
                return original(request, response)
            ways = ", ".join(possible.values()) or "none: start it anew"
            reason = f"{name} is not possible while the node is {machine.current_state[1]}; possible: {ways}"
        except RuntimeError as error:
            reason = one_line(error)
        node.get_logger().warning(f"lifecycle request refused: {reason}")
        response.success = False
        return response

    service.callback = callback


def forget_destroyed(node: Node) -> None:
    """rclpy's callback groups keep a reference, if a weak one, to every entity that was ever in them."""
    entities = node.default_callback_group.entities
    # A copy: a transition that another thread triggers adds to them.
    entities.difference_update([entity for entity in list(entities) if entity() is None])
