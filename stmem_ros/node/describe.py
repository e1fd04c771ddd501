"""What the node has in the graph, from the declarations that it uses itself.

`python -m stmem_ros.node.describe > docs/topics.md` writes the page.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo

from stmem_ros.node import camera, camera_info, diagnostics, label_info, outputs
from stmem_ros.node.parameters import PARAMETERS, Parameter
from stmem_ros.node.services import SERVICES
from stmem_ros.node.settings import THE_MODEL, THE_NODE, THE_STREAM
from stmem_ros.node.statistics import ANOTHER_MODEL, ANOTHER_PUBLISHER, ASKED_FOR, LOST_TO_FAILURE
from stmem_ros.node.stream import THE_TOPIC
from stmem_ros.streaming.window import ResetReason
from stmem_ros.topics import camera_info_topic

# What every node has, and every lifecycle node.
STANDARD_PARAMETERS = ("use_sim_time", "start_type_description_service")
STANDARD_TOPICS = ("/parameter_events", "/rosout", "~/transition_event")
STANDARD_SERVICES = (
    *("~/change_state", "~/get_state", "~/get_available_states", "~/get_available_transitions"),
    *("~/get_transition_graph", "~/get_parameters", "~/set_parameters", "~/set_parameters_atomically"),
    *("~/list_parameters", "~/describe_parameters", "~/get_parameter_types", "~/get_type_description"),
)
# Their own, since Iron.
NOT_ON_HUMBLE = ("start_type_description_service", "~/get_type_description")
CHOSEN = "as parameter `reliability` has it"
WIDTH = 118


@dataclasses.dataclass(frozen=True)
class Topic:
    """`name` is below the node's namespace and the camera's name, or begins with a slash; `type` as the graph has it.

    `reliability` stands in place of the profile's where the node chooses it.
    """

    name: str
    type: str
    meaning: str
    qos: QoSProfile
    reliability: str = ""


def published() -> list[Topic]:
    """What the node publishes; all but `/diagnostics` once for each camera."""
    found = [Topic(name, type_name(kind), text, outputs.QOS) for name, (kind, text) in outputs.TOPICS.items()]
    found.append(Topic(label_info.TOPIC, label_info.TYPE, label_info.MEANING, label_info.QOS))
    text = f"every {diagnostics.PERIOD_S:g} s: see below"
    return [*found, Topic(diagnostics.TOPIC, type_name(DiagnosticArray), text, diagnostics.QOS)]


def subscribed() -> list[Topic]:
    """What the node may subscribe to for one camera; of the images, the first of these that is published."""
    best_effort = camera.qos(ReliabilityPolicy.BEST_EFFORT)
    images = [
        Topic(
            topic, type_name(kind), f"the camera's image, where `image_transport` is {transports}", best_effort, CHOSEN
        )
        for (topic, kind), transports in images_by_transport().items()
    ]
    text = "the camera's calibration, beside its images; subscribed to while somebody subscribes to `camera_info` below"
    beside = camera_info_topic(f"/{THE_TOPIC}")[1:]
    return [*images, Topic(beside, type_name(CameraInfo), text, camera_info.QOS)]


def images_by_transport() -> dict[tuple[str, type], str]:
    """For each topic and type that a camera may have: under which values of `image_transport` it is looked for."""
    found: dict[tuple[str, type], list[str]] = {}
    for transport in ("auto", "raw", "compressed"):
        for place in camera.candidates(THE_TOPIC, transport):
            found.setdefault(place, []).append(f"`{transport}`")
    return {place: " or ".join(transports) for place, transports in found.items()}


def services() -> dict[str, tuple[str, str]]:
    """Of each of the node's own services: its type and what it does."""
    return {name: (type_name(kind, "srv"), text) for name, (kind, text) in SERVICES.items()}


def override_policies() -> list[str]:
    """The policies that `qos_overrides.TOPIC.publisher.POLICY` may set."""
    return [kind.name.lower() for kind in QoSOverridingOptions.with_default_policies().policy_kinds]


def type_name(kind: Any, family: str = "msg") -> str:
    return f"{kind.__module__.partition('.')[0]}/{family}/{kind.__name__}"


# The page


def page() -> str:
    """The Markdown of docs/topics.md."""
    policies = ",".join(override_policies())
    parts = [
        "# Topics, services, parameters and diagnostics",
        "<!-- Written by `python -m stmem_ros.node.describe > docs/topics.md`; edit the declarations it reads. -->",
        paragraph(
            "What the segmentation node has in the graph. Names without a leading slash are below its namespace, "
            "`/segmentation` with the launch file; `~` is the node, `/segmentation/segmentation` there. With "
            "`image_topics` each output lies below its camera's name too: `/segmentation/front/labels`."
        ),
        "## Subscribed",
        table(QOS_HEAD, map(topic_row, subscribed())),
        paragraph(
            f"`{THE_TOPIC}` is what the launch file's `image_topic` remaps, or each of `image_topics`; the calibration "
            "is beside the images unless `camera_info_topics` says where. Nothing is subscribed to before a publisher "
            "is there, where the type or the reliability depends on it. With `use_sim_time` also `/clock`."
        ),
        "## Published",
        table(QOS_HEAD, map(topic_row, published())),
        paragraph(
            "Those of an image leave in this order, with its stamp and its frame_id, each only for those who "
            f"subscribe; `{label_info.TOPIC}` leaves when the node is activated. Who asks for less than is offered "
            "gets it too: best effort, volatile."
        ),
        paragraph(
            f"`qos_overrides.TOPIC.publisher.{{{policies}}}` and `qos_overrides.TOPIC.subscription.{{{policies}}}` "
            "override QoS of outputs and images, with the full name of the topic, when the node starts; the "
            "reliability of images is a parameter only if it was set then."
        ),
        "## Services",
        table(("service", "type", "what"), ((f"`{name}`", kind, text) for name, (kind, text) in services().items())),
        "## Parameters",
        table(("parameter", "type", "default", "values", "may change", "what"), map(parameter_row, PARAMETERS)),
        paragraph(
            "A parameter that may change does so between two frames. Where it loads a model, that is done beside the "
            "one that runs, and a file that cannot be used changes nothing. The others refuse with the reason while "
            'the node is configured, `autostart` always. An empty list is `[""]`. A whole number is accepted for a '
            "double, and one string with commas or blanks for a list. After an invalid value at the start the node "
            "stays unconfigured, and an ERROR says why."
        ),
        "## Diagnostics",
        paragraph(
            f"One status of the node, `NODE: {THE_NODE}`, where `NODE` is its full name: an ERROR, and why, where its "
            "last transition failed. While it is configured one a camera, "
            f"`NODE: {THE_STREAM}` or `NODE: ` and the camera's name, and one of the model, `NODE: {THE_MODEL}`. "
            "The message is what is wrong, the worst first; the thresholds of WARN and ERROR are parameters."
        ),
        table(("key of a camera", "value"), code_rows(diagnostics.STREAM_VALUES)),
        paragraph(f"`REASON` is one of {', '.join(f'`{reason}`' for reason in reset_reasons())}."),
        table((f"key of `{THE_NODE}`", "value"), code_rows(diagnostics.NODE_VALUES)),
        table((f"key of `{THE_MODEL}`", "value"), code_rows(diagnostics.MODEL_VALUES)),
        "## As every lifecycle node",
        paragraph(
            f"Topics {codes(STANDARD_TOPICS)}; services {codes(STANDARD_SERVICES)}; parameters "
            f"{codes(STANDARD_PARAMETERS)}. On Humble there are no {codes(NOT_ON_HUMBLE)}."
        ),
    ]
    return "\n\n".join(parts) + "\n"


QOS_HEAD = ("topic", "type", "what", "reliability", "durability", "history")


def topic_row(topic: Topic) -> tuple[str, ...]:
    qos = topic.qos
    return (
        f"`{topic.name}`",
        topic.type,
        topic.meaning,
        topic.reliability or words(qos.reliability),
        words(qos.durability),
        f"{words(qos.history)} {qos.depth}",
    )


def parameter_row(parameter: Parameter) -> tuple[str, ...]:
    kind = RosParameter.Type.from_parameter_value(parameter.default).name.lower().replace("_array", "[]")
    values = ", ".join(f"`{choice}`" for choice in parameter.choices)
    if parameter.range is not None:
        values = f"{parameter.range[0]:g} to {parameter.range[1]:g}"
    change = f"no: {parameter.fixed}" if parameter.fixed else "loads the model anew" if parameter.of_model else "yes"
    default = str(parameter.default).lower() if isinstance(parameter.default, bool) else str(parameter.default)
    if isinstance(parameter.default, list):
        default = '[""]'
    return (f"`{parameter.name}`", kind, f"`{default}`" if default else "empty", values, change, parameter.description)


def reset_reasons() -> list[str]:
    """Of a window, as diagnostics count them. What is asked for reaches the node as a service call."""
    seen = [reason.value for reason in ResetReason if reason is not ResetReason.ASKED]
    return [*seen, ASKED_FOR, ANOTHER_MODEL, ANOTHER_PUBLISHER, LOST_TO_FAILURE]


def code_rows(values: dict[str, str]) -> Iterable[tuple[str, str]]:
    return ((f"`{key}`", text) for key, text in values.items())


def codes(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def words(policy: ReliabilityPolicy | DurabilityPolicy | HistoryPolicy) -> str:
    return str(policy.name).lower().replace("_", " ")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def paragraph(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    print(page(), end="")
