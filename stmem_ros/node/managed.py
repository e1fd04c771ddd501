"""A lifecycle node that neither a user's wrong value nor a failing transition ends, and that says what was wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import LoggingSeverity
from rclpy.parameter import Parameter

from stmem_ros.files import kind_and_line
from stmem_ros.node.lifecycle import refuse_invalid_transitions
from stmem_ros.node.overrides import QOS, fitted, require_range, unknown
from stmem_ros.node.parameters import BY_NAME

Transition = Callable[[Any, LifecycleState], TransitionCallbackReturn]
SIM_TIME = "use_sim_time"


def explained(transition: Transition) -> Transition:
    """Log an exception raised in a transition; rclpy would swallow it."""

    @functools.wraps(transition)
    def run(node: ManagedNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:
            node.fail(f"{transition.__name__} failed: {kind_and_line(error)}")
            return TransitionCallbackReturn.ERROR

    return run


class ManagedNode(LifecycleNode):
    """`unusable` has the reason for each parameter whose override could not be taken; such a node runs on defaults.

    `failure` is why the last transition failed, empty if it did not.
    """

    def __init__(self, name: str, **options: Any) -> None:
        self.unusable: dict[str, str] = {}
        self.failure = ""
        super().__init__(name, **options)
        refuse_invalid_transitions(self)
        # Humble has no such callbacks, and refuses values of another type.
        if hasattr(self, "add_pre_set_parameters_callback"):
            self.add_pre_set_parameters_callback(_fit)

    def declare_parameter(
        self,
        name: str,
        value: Any = None,
        descriptor: ParameterDescriptor | None = None,
        ignore_override: bool = False,
    ) -> Parameter:
        """As rclpy's, but an override that cannot be taken goes to `unusable` instead of ending the process.

        A launch file with `respawn` would start such a process again and again.
        """
        override = self._parameter_overrides.get(name)
        if override is not None and (name in BY_NAME or name == SIM_TIME):
            try:
                taken = fitted(name, override.value, value)
                bounds = BY_NAME[name].range if name in BY_NAME else None
                if bounds is not None:
                    require_range(name, taken, bounds)
                self._parameter_overrides[name] = Parameter(name, value=taken)
            except ValueError as error:
                self.unusable[name] = str(error)
                ignore_override = True
        return super().declare_parameter(name, value, descriptor or ParameterDescriptor(), ignore_override)

    def warn_of_unknown_overrides(self, of_qos: bool, known: set[str]) -> None:
        """Warn of each override that neither a declared parameter nor one of `known` takes.

        Those of QoS can be judged once the node knows its topics, the rest at its start.
        """
        overrides = [each for each in self._parameter_overrides.values() if each.name.startswith(QOS) == of_qos]
        names = {name for name in (*self._parameters, *known) if name.startswith(QOS) == of_qos}
        for line in unknown(overrides, names):
            self.warn(line)

    def fail(self, message: str) -> TransitionCallbackReturn:
        """A transition failed: say why, now and in diagnostics until it succeeds."""
        self.failure = message
        self.error(message)
        return TransitionCallbackReturn.FAILURE

    # During shutdown any call may fail, so stay quiet. rclpy ties a line of code to one severity, hence four of them.

    def debug(self, make: Callable[[], str]) -> None:
        """Log what `make` returns, which is called if somebody asked for it."""
        if self.context.ok() and self.get_logger().is_enabled_for(LoggingSeverity.DEBUG):
            self.get_logger().debug(make())

    def info(self, message: str) -> None:
        if self.context.ok():
            self.get_logger().info(message)

    def warn(self, message: str) -> None:
        if self.context.ok():
            self.get_logger().warning(message)

    def error(self, message: str) -> None:
        if self.context.ok():
            self.get_logger().error(message)


def _fit(parameters: list[Parameter]) -> list[Parameter]:
    """Values as the declared types; rclpy refuses what stays another type."""
    return [_fit_one(parameter) for parameter in parameters]


def _fit_one(parameter: Parameter) -> Parameter:
    declared = BY_NAME.get(parameter.name)
    if declared is None:
        return parameter
    try:
        return Parameter(parameter.name, value=fitted(parameter.name, parameter.value, declared.default))
    except ValueError:
        return parameter
