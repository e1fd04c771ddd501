"""Which fields a message type has: the bag's own definitions first, then ROS 2's, and what is made of ROS 1's."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

from rosbags.convert.converter import is_same_wireformat, migrate_bytes
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

VISION_CLASS = "uint16 class_id\nstring class_name\n"
LABEL_INFO = "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"
# Humble's where the two differ: only bags from before Iron come without definitions.
FALLBACKS = (Stores.ROS2_HUMBLE, Stores.ROS2_JAZZY)
RENAMED = {"tf/msg/tfMessage": "tf2_msgs/msg/TFMessage"}
HEADER = "std_msgs/msg/Header"

_IDL_SEPARATOR = "=" * 80 + "\n"

Convert = Callable[[bytes], bytes]


def ros2_typestore(own: Iterable[Connection] = (), notes: list[str] | None = None) -> Typestore:
    """The types that `own` define, and those of ROS 2 and vision_msgs beside them.

    A definition that cannot be understood becomes a line in `notes`, and its type remains unknown.
    """
    store = get_typestore(Stores.EMPTY)
    for connection in own:
        try:
            types = _parse(connection)
            new = {name: fields for name, fields in types.items() if name not in store.fielddefs}
            if new:
                store.register(new)
        except Exception:  # parsers raise many kinds for what recorders wrote
            line = f"the bag's definition of {connection.msgtype} is not understood: it is handed on, but not decoded"
            if notes is not None and line not in notes:
                notes.append(line)
    for fallback in FALLBACKS:
        _fill(store, get_typestore(fallback))
    vision = get_types_from_msg(VISION_CLASS, "vision_msgs/msg/VisionClass")
    vision |= get_types_from_msg(LABEL_INFO, "vision_msgs/msg/LabelInfo")
    missing = {name: fields for name, fields in vision.items() if name not in store.fielddefs}
    if missing:
        store.register(missing)
    return store


def ros1_typestores(connections: Iterable[Connection]) -> tuple[Typestore, Typestore]:
    """The types of a ROS 1 bag as ROS 1 has them, and as ROS 2: its own types keep their fields, others are ROS 2's."""
    old = get_typestore(Stores.EMPTY)
    for connection in connections:
        new = {name: fields for name, fields in _parse(connection).items() if name not in old.fielddefs}
        if new:
            old.register(new)
    store = ros2_typestore()
    _fill(store, old)
    return old, store


def ros1_converter(msgtype: str, old: Typestore, new: Typestore) -> tuple[str, Convert]:
    """The type's name in ROS 2, and what turns a ROS 1 message into its CDR."""
    name = RENAMED.get(msgtype, msgtype)
    if is_same_wireformat(old, new, msgtype, name):
        return name, lambda data: bytes(new.ros1_to_cdr(data, name))
    cache: dict[str, Any] = {}
    return name, lambda data: bytes(migrate_bytes(old, new, msgtype, name, cache, data, src_is2=False, dst_is2=True))


def full_name(msgtype: str) -> str:
    """Also `sensor_msgs/Image`, which some recorders write, as `sensor_msgs/msg/Image`."""
    return msgtype.replace("/", "/msg/") if msgtype.count("/") == 1 else msgtype


def has_header(store: Typestore, msgtype: str) -> bool:
    """Whether messages of this type begin with a std_msgs/Header."""
    fields = store.fielddefs[msgtype][1] if msgtype in store.fielddefs else []
    return bool(fields) and fields[0][1][1] == HEADER


def header_stamp_ns(data: bytes) -> int:
    """The stamp of a CDR message that begins with a header, 0 where it is too short for one."""
    if len(data) < 12:
        return 0
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(seconds * 1_000_000_000 + nanoseconds)


def _parse(connection: Connection) -> dict[str, Any]:
    kind, text = connection.msgdef
    # A definition that the recorder did not find is recorded as an empty one.
    if kind == MessageDefinitionFormat.NONE or (not text.strip() and connection.msgtype != "std_msgs/msg/Empty"):
        return {}
    if kind == MessageDefinitionFormat.MSG:
        return dict(get_types_from_msg(text, connection.msgtype))
    parts = text.split(_IDL_SEPARATOR)[1:] if text.startswith(f"{_IDL_SEPARATOR}IDL: ") else [f"\n{text}"]
    types: dict[str, Any] = {}
    for part in parts:
        types |= get_types_from_idl(part.split("\n", 1)[1])
    return types


def _fill(store: Typestore, other: Typestore) -> None:
    for name, fields in other.fielddefs.items():
        if name not in store.fielddefs:
            store.fielddefs[name] = fields
            store.types[name] = other.types[name]
