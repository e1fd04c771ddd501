"""Results as JSON, so that reading one back makes data and runs nothing."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

# What a value is, where JSON has no word for it.
KIND = "kind"
# Kinds of arrays.
NUMBERS = "biuf"


class Plain:
    """Of what JSON has, tuples, bytes, arrays of numbers, and the dataclasses `types`."""

    def __init__(self, types: tuple[type, ...] = ()) -> None:
        self._types = {f"{each.__module__}.{each.__qualname__}": each for each in types}
        self._names = {each: name for name, each in self._types.items()}

    def dumps(self, value: Any) -> bytes:
        """Raises TypeError for anything else."""
        return json.dumps(self._packed(value)).encode()

    def loads(self, data: bytes) -> Any:
        """Raises ValueError, TypeError, KeyError or RecursionError for what `dumps` did not write."""
        return self._unpacked(json.loads(data))

    def _packed(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, list):
            return [self._packed(each) for each in value]
        if isinstance(value, tuple):
            return {KIND: "tuple", "items": [self._packed(each) for each in value]}
        if isinstance(value, bytes):
            return {KIND: "bytes", "base64": base64.b64encode(value).decode()}
        if isinstance(value, np.ndarray) and value.dtype.kind in NUMBERS:
            data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
            return {KIND: "array", "dtype": value.dtype.str, "shape": list(value.shape), "base64": data}
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {KIND: "mapping", "items": {key: self._packed(each) for key, each in value.items()}}
        if type(value) in self._names:
            fields = {field.name: self._packed(getattr(value, field.name)) for field in dataclasses.fields(value)}
            return {KIND: self._names[type(value)], "items": fields}
        raise TypeError(f"a result holds a {type(value).__module__}.{type(value).__qualname__}, which is no plain data")

    def _unpacked(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._unpacked(each) for each in value]
        if not isinstance(value, dict):
            return value
        kind = value[KIND]
        if kind == "tuple":
            return tuple(self._unpacked(each) for each in value["items"])
        if kind == "bytes":
            return base64.b64decode(value["base64"], validate=True)
        if kind == "array":
            dtype = np.dtype(value["dtype"])
            if dtype.kind not in NUMBERS:
                raise ValueError(f"an array of {dtype}")
            return np.ndarray(value["shape"], dtype, base64.b64decode(value["base64"], validate=True)).copy()
        items = {key: self._unpacked(each) for key, each in value["items"].items()}
        return items if kind == "mapping" else self._types[kind](**items)
