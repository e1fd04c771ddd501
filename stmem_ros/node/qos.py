"""Publishers and subscriptions whose QoS users can override, and which say what to do where two sides do not match."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:
    # Humble's name.
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

Warn = Callable[[str, str], object]
# Takes a message, and what rclpy knows of it: nothing on Humble.
Receive = Callable[[Any, Mapping[str, Any]], None]
INFORMED = hasattr(Subscription, "CallbackType")
UNKNOWN = "_NODE_NAME_UNKNOWN_"
RELIABILITY = "reliability"
AUTO = "auto"
RELIABILITIES = {"reliable": ReliabilityPolicy.RELIABLE, "best_effort": ReliabilityPolicy.BEST_EFFORT}
# What an override may be.
VALUES = {"history": ("keep_last", "keep_all"), RELIABILITY: tuple(RELIABILITIES)}
MAX_DEPTH = 10_000
# What a subscriber may ask for of any publisher.
LEAST = {
    RELIABILITY: "best effort reliability",
    "durability": "volatile durability",
    "deadline": "no deadline",
    "liveliness": "automatic liveliness without a lease duration",
}


def create_output(node: LifecycleNode, kind: type, topic: str, profile: QoSProfile, warn: Warn) -> Any:
    """A lifecycle publisher; `qos_overrides.<topic>.publisher.*` are parameters. Raises ValueError if one is none."""
    name = node.resolve_topic_name(topic)
    _require_policies(node, f"qos_overrides.{name}.publisher")

    def on_incompatible(event: Any) -> None:
        policy = _policy(event)
        subscribers = [_endpoint(info) for info in node.get_subscriptions_info_by_topic(name)]
        remedy = f"let it ask for {LEAST.get(policy, 'what this node offers')}"
        override = f"qos_overrides.{name}.publisher.{policy}"
        if policy == RELIABILITY and node.has_parameter(override):
            value = node.get_parameter(override).value
            remedy += f", or set parameter {override}, which is {value}, to reliable when this node starts"
        warn(
            f"incompatible {name}",
            f"a subscriber of {name} asks for a {policy} that this node does not offer, so it gets nothing "
            f"(subscribers: {', '.join(subscribers) or 'gone again'}); {remedy}",
        )

    return node.create_lifecycle_publisher(
        kind,
        topic,
        # rclpy writes the overrides into the profile that it is given.
        copy.copy(profile),
        qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        event_callbacks=PublisherEventCallbacks(incompatible_qos=on_incompatible),
    )


def create_input(node: Node, kind: type, topic: str, profile: QoSProfile, callback: Receive, warn: Warn) -> Any:
    """A subscription; `qos_overrides.<topic>.subscription.*` are parameters.

    Its reliability is only where it was set: else it may be chosen anew while the node runs. Raises ValueError if one
    of them is none.
    """
    name = node.resolve_topic_name(topic)
    _require_policies(node, f"qos_overrides.{name}.subscription")

    def on_incompatible(event: Any) -> None:
        override = overridden_reliability(node, name)
        asked = node.get_parameter(RELIABILITY).value
        if override is not None:
            remedy = f"parameter {_reliability_of(name)} is {override}; set it to best_effort, or leave it out,"
        elif asked != AUTO:
            remedy = f"parameter {RELIABILITY} is {asked}; set it to {AUTO}"
        else:
            # Who chooses anew when publishers change has nothing to be told.
            return
        warn(
            f"incompatible {name}",
            f"a publisher of {name} does not offer the {_policy(event)} that this node asks for, so its images do not "
            f"come (publishers: {', '.join(publishers(node, name)) or 'gone again'}); {remedy} when this node starts",
        )

    policies = [QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH]
    if overridden_reliability(node, name) is not None:
        policies.append(QoSPolicyKind.RELIABILITY)
    return node.create_subscription(
        kind,
        topic,
        callback if INFORMED else lambda message: callback(message, {}),
        copy.copy(profile),
        qos_overriding_options=QoSOverridingOptions(policies),
        event_callbacks=SubscriptionEventCallbacks(incompatible_qos=on_incompatible),
    )


def overridden_reliability(node: Node, topic: str) -> str | None:
    """What `qos_overrides.<topic>.subscription.reliability` was set to when the node started; None if it was not.

    It is a parameter only if it was set: one without a value could be dumped, but not loaded again.
    Raises ValueError if the value is no reliability.
    """
    name = _reliability_of(topic)
    if name not in node._parameter_overrides:
        return None
    if not node.has_parameter(name):
        descriptor = ParameterDescriptor(description=f"reliability for subscription `{topic}`", dynamic_typing=True)
        descriptor.read_only = True
        node.declare_parameter(name, None, descriptor)
    _require(name, node.get_parameter(name).value)
    return node.get_parameter(name).value


def _require_policies(node: Node, prefix: str) -> None:
    """Raises ValueError for an override below `prefix` that is none; rclpy would name neither topic nor choices."""
    for policy in (*VALUES, "depth"):
        override = node._parameter_overrides.get(f"{prefix}.{policy}")
        if override is not None:
            _require(override.name, override.value)


def _require(name: str, value: Any) -> None:
    choices = VALUES.get(name.rpartition(".")[2])
    if choices is None:
        valid, allowed = type(value) is int and 1 <= value <= MAX_DEPTH, f"a whole number from 1 to {MAX_DEPTH}"
    else:
        valid, allowed = value in choices, f"one of {', '.join(choices)}"
    if not valid:
        raise ValueError(f"parameter {name} is {value!r}; it must be {allowed}, or left out")


def override_names(topic: str) -> set[str]:
    """The parameters that override QoS of a subscription to a topic, given by its full name."""
    return {f"qos_overrides.{topic}.subscription.{policy}" for policy in ("history", "depth", RELIABILITY)}


def publishers(node: Node, topic: str) -> list[str]:
    """`NODE (RELIABILITY)` of each publisher of a topic, with the type where it is not an image."""
    return [_endpoint(info, "sensor_msgs/msg/Image") for info in node.get_publishers_info_by_topic(topic)]


def _reliability_of(topic: str) -> str:
    """The parameter that overrides it of a subscription."""
    return f"qos_overrides.{topic}.subscription.{RELIABILITY}"


def _endpoint(info: Any, usual: str = "") -> str:
    profile = info.qos_profile
    words = [profile.reliability.name.lower().replace("_", " ")]
    if usual and info.topic_type != usual:
        words.append(info.topic_type)
    elif not usual:
        words.append(profile.durability.name.lower().replace("_", " "))
    # An endpoint may be there before it is known whose it is.
    name = f"{info.node_namespace.rstrip('/')}/{info.node_name}"
    return f"{'a node not known yet' if UNKNOWN in name else name} ({', '.join(words)})"


def _policy(event: Any) -> str:
    try:
        return qos_policy_name_from_kind(event.last_policy_kind).lower()
    except ValueError:
        return "policy"
