"""A reproduced table for the terminal, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.table import Table

from stmem_ros.files import whole_file
from training.console import plain_console

NOTHING = "-"


class NotMeasured(Exception):
    """Why a figure cannot be had here: one line that says what to do."""


@dataclasses.dataclass(frozen=True)
class Source:
    """What gave a figure: a file and its SHA-256, and the frames it was measured on, `short_side` pixels high or wide.

    `frames` are those that count; their neighbours do not.
    """

    checkpoint: str
    sha256: str
    dataset: str
    split: str
    frames: int
    short_side: int

    def __str__(self) -> str:
        return (
            f"{self.checkpoint} (sha256 {self.sha256[:12]}) on {self.frames} frames of {self.dataset} {self.split}, "
            f"short side {self.short_side}"
        )


@dataclasses.dataclass(frozen=True)
class Line:
    """One row: the paper's figure and ours (None: there is none), what gave ours, and what must be said of them."""

    name: str
    paper: float | None = None
    ours: float | None = None
    note: str = ""
    source: Source | None = None

    @property
    def difference(self) -> float | None:
        return None if self.paper is None or self.ours is None else self.ours - self.paper


@dataclasses.dataclass(frozen=True)
class Document:
    """What one command found; `remarks` are paragraphs below the table, `pictures` files beside it.

    `more` columns, by name, have a text for each line. With `relative` the table shows differences in % of the paper's.
    Figures have `digits` behind the point. A column that no line has anything for is left out.
    """

    name: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    remarks: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    more: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    relative: bool = False
    digits: int = 2

    @property
    def notes(self) -> list[str]:
        """The lines' notes, each once: number n of the column `note` is the n-th."""
        return list(dict.fromkeys(line.note for line in self.lines if line.note))

    @property
    def sources(self) -> list[Source]:
        """What gave the figures, each once: a letter in the column `source`."""
        return list(dict.fromkeys(line.source for line in self.lines if line.source is not None))

    @property
    def measured(self) -> bool:
        """Whether there is any figure of ours."""
        return bool(self.sources) or any(line.ours is not None for line in self.lines)

    def columns(self) -> list[tuple[str, ...]]:
        """Title row first: texts as a reader sees them."""
        notes, sources = self.notes, self.sources
        differences = [self._difference(line) for line in self.lines]
        columns = {
            "": [line.name for line in self.lines],
            "paper": [number(line.paper, self.digits) for line in self.lines],
            "ours": [number(line.ours, self.digits) for line in self.lines],
            "difference, %" if self.relative else "difference": [
                number(value, self.digits, "+") for value in differences
            ],
            **self.more,
            "source": ["" if line.source is None else _letter(sources.index(line.source)) for line in self.lines],
            "note": [str(notes.index(line.note) + 1) if line.note else "" for line in self.lines],
        }
        used = {
            head: texts for head, texts in columns.items() if head in ("", "ours") or any(set(texts) - {"", NOTHING})
        }
        return [tuple(used), *zip(*used.values(), strict=True)]

    def _difference(self, line: Line) -> float | None:
        if self.relative and line.difference is not None and line.paper:
            return 100 * line.difference / line.paper
        return line.difference

    def markdown(self) -> str:
        head, *rows = self.columns()
        table = ["| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in (head, *rows)]
        table.insert(1, "| " + " | ".join(["---", *["---:"] * (len(head) - 1)]) + " |")
        notes = "\n".join(f"{place}. {note}" for place, note in enumerate(self.notes, 1))
        parts = [f"# {self.title}", f"Unit: {self.unit}.", "\n".join(table), *([notes] if notes else [])]
        parts += self.remarks
        parts += [f"![{self.title}]({picture})" for picture in self.pictures]
        if self.sources:
            sources = (f"- {_letter(place)}: {source}" for place, source in enumerate(self.sources))
            parts += ["## Measured with", "\n".join(sources)]
        return "\n\n".join(parts) + "\n"

    def to_dict(self) -> dict[str, Any]:
        lines = [
            dataclasses.asdict(line)
            | {"difference": line.difference}
            | {name: texts[place] for name, texts in self.more.items()}
            for place, line in enumerate(self.lines)
        ]
        return {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "rows": lines,
            "remarks": list(self.remarks),
            "pictures": list(self.pictures),
        }

    def write(self, folder: Path) -> list[Path]:
        """NAME.md and NAME.json in `folder`, each whole or not at all. Raises OSError."""
        texts = {".md": self.markdown(), ".json": json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"}
        paths = []
        for ending, text in texts.items():
            path = folder / f"{self.name}{ending}"
            with whole_file(path) as partial:
                partial.write_text(text)
            paths.append(path)
        return paths

    def print(self) -> None:
        head, *rows = self.columns()
        table = Table(*head, title=f"{self.title} ({self.unit})", title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*row)
        console = plain_console()
        console.print(table)
        notes = (f"{place}: {note}" for place, note in enumerate(self.notes, 1))
        sources = (f"{_letter(place)}: {source}" for place, source in enumerate(self.sources))
        for text in (*notes, *sources, *self.remarks):
            console.print(text, highlight=False, soft_wrap=True)


def number(value: float | None, digits: int = 2, sign: str = "") -> str:
    """A figure as tables show it."""
    return NOTHING if value is None else f"{value:{sign}.{digits}f}"


def _letter(place: int) -> str:
    """a to z, then aa to zz."""
    return chr(ord("a") + place % 26) * (1 + place // 26)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
