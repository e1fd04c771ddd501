"""What commands share: one line for a person where they fail or are stopped, outputs that can be written, sizes."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from stmem_ros.files import one_line
from stmem_ros.program import STOPPED, begin


class OutputError(OSError):
    """A place that cannot be written to: one line with the option, the place and what to do."""


def exit_status(
    name: str, work: Callable[[], int | None], errors: tuple[type[Exception], ...] = (), stopped: str = ""
) -> int:
    """Do the work of the command `name`; returns its status, 0 where it gives none.

    1 after one line on stderr where it raises one of `errors` or OSError; 130 after one line on Ctrl-C, in which
    the KeyboardInterrupt's own words and `stopped` say what the stop means. Other exceptions pass: they are defects.
    """
    caught: tuple[type[Exception], ...] = (*errors, OSError)
    begin()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files need not be UTF-8, and no line that names one may end a command.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return work() or 0
    except KeyboardInterrupt as error:
        status, line = STOPPED, "; ".join(filter(None, ["stopped", *map(str, error.args), stopped]))
    except caught as error:
        status, line = 1, _line(error)
    # Only here, where nothing refers to the work any more, has a progress bar ended its line.
    print(f"{name}: {line}", file=sys.stderr)
    return status


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}"
    return one_line(error) or type(error).__name__


def require_writable(name: str, path: Path, folder: bool = False) -> None:
    """See that `path`, given as the option `name`, can become a file, or a folder. Raises OutputError.

    Makes nothing, so that a command which fails later leaves nothing behind.
    """
    if not folder and path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise OutputError(f"{name} {path} is {kind}; it must be a file's name")
    wanted = path if folder else path.parent
    place = next((place for place in (wanted, *wanted.parents) if os.path.lexists(place)), Path())
    if not place.is_dir():
        raise OutputError(f"{name} needs a folder where {place} is a file: name another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(
            f"{name} {path} cannot be written: {place} is read-only here; name another place, or change that folder's "
            "permissions"
        )


def image_size(text: str) -> tuple[int, int]:
    """An argparse type: height and width from `480x640`, in pixels. Raises ArgumentTypeError."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} must be HEIGHTxWIDTH in pixels, such as 480x640")
    return int(match[1]), int(match[2])
