"""The terminal that commands print tables on."""

from __future__ import annotations

from rich.console import Console


def plain_console() -> Console:
    """Prints names as they are: rich would take a class `[void]` for a style, and a sequence `:car:` for a picture."""
    return Console(markup=False, emoji=False)
