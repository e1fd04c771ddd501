"""Lists and YAML files that a person or another program wrote: UTF-8, or a line that says why not."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import yaml

# UTF-32 first: it begins with the mark of UTF-16.
_OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_MERGE = "tag:yaml.org,2002:merge"


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, but a key that is given twice is an error: the plain one takes the last and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises ValueError with the reason why there is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    for mark, encoding in _OTHER_MARKS:
        if data.startswith(mark):
            raise ValueError(f"it is {encoding} text: save it as UTF-8")
    if b"\0" in data:
        raise ValueError("it is no text, or text in UTF-16: save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"byte {data[error.start]:#04x} in line {line} is not UTF-8: save it as UTF-8") from error


def read_yaml(path: Path) -> Any:
    """What a YAML file holds. Raises ValueError as `read_text`, and with line and column for wrong YAML."""
    text = read_text(path)
    try:
        return yaml.load(text, UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        reason = error.problem or error.context or "it is no YAML"
        hint = " (a regular expression needs single quotes)" if "escape character" in reason else ""
        raise ValueError(f"{where}{reason}{hint}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
