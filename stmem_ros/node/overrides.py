"""Values that a user gave a node at its start: brought to the declared type, and those that no parameter takes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable
from typing import Any

from rclpy.parameter import Parameter

QOS = "qos_overrides."
# What a value of a default's type looks like, for people.
KINDS = {
    bool: "true or false",
    int: "a whole number, such as {default}",
    float: "a number, such as {default}",
    str: "a string; write it in quotes: \"'{value}'\"",
    list: 'a list of strings, such as ["front", "rear"]',
}


def fitted(name: str, value: Any, default: Any) -> Any:
    """`value` as the type of `default`: a whole number may be a float, and one string a list.

    None, which rcl makes of an empty list, is the default of a list. Raises ValueError that names the parameter, the
    value and what is allowed.
    """
    kind = type(default)
    if value is None and kind is list:
        return default
    if isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        if kind is not list:
            return value
        if all(isinstance(each, str) for each in value):
            return value or default
    elif kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    elif kind is list and isinstance(value, str):
        return [value]
    allowed = KINDS[kind].format(default=default, value=value)
    raise ValueError(f"parameter {name} is {value!r}; it must be {allowed}")


def require_range(name: str, value: Any, bounds: tuple[float, float]) -> None:
    """Raises ValueError if a number is outside of `bounds`, both included."""
    least, most = bounds
    if math.isnan(value) or not least <= value <= most:
        raise ValueError(f"parameter {name} is {value:g}; it must be from {least:g} to {most:g}")


def unknown(overrides: Iterable[Parameter], known: Collection[str]) -> list[str]:
    """A line for each override whose name is not among the parameters' `known` names."""
    return [
        f"parameter {override.name} is not known here, so its value {override.value!r} has no effect; "
        f"{_advice(override.name, known)}"
        for override in overrides
        if override.name not in known
    ]


def _advice(name: str, known: Collection[str]) -> str:
    near = nearest(name, known)
    return f"did you mean {near}?" if near else "`ros2 param list` shows the names that there are"


def nearest(name: str, known: Collection[str]) -> str:
    """The known name that is most like `name`, or like its last part after a dot; empty if none is."""
    for written in dict.fromkeys((name, name.rpartition(".")[2])):
        found = difflib.get_close_matches(written, known, n=1)
        if found:
            return found[0]
    return ""
