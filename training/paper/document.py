"""A reproduced table for the terminal, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stmem_ros.files import whole_file


@dataclasses.dataclass(frozen=True)
class Line:
    """One row: the paper's figure and ours (None: there is none), and what must be said of them."""

    name: str
    paper: float | None = None
    ours: float | None = None
    note: str = ""

    @property
    def difference(self) -> float | None:
        return None if self.paper is None or self.ours is None else self.ours - self.paper


@dataclasses.dataclass(frozen=True)
class Document:
    """What one command found; `remarks` are paragraphs below the table, `pictures` files beside it.

    `more` columns, by name, have a text for each line. With `relative` the table shows differences in % of the paper's.
    """

    name: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    remarks: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    more: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    relative: bool = False

    @property
    def notes(self) -> list[str]:
        """The lines' notes, each once: number n of the column `note` is the n-th."""
        return list(dict.fromkeys(line.note for line in self.lines if line.note))

    def columns(self) -> list[tuple[str, ...]]:
        """Title row first: texts as a reader sees them."""
        notes = self.notes
        head = ["", "paper", "ours", "difference, %" if self.relative else "difference", *self.more, "note"]
        rows = [tuple(head)]
        for place, line in enumerate(self.lines):
            difference = line.difference
            if self.relative and difference is not None and line.paper:
                difference = 100 * difference / line.paper
            figures = (_number(line.paper), _number(line.ours), _number(difference, "+"))
            note = str(notes.index(line.note) + 1) if line.note else ""
            rows.append((line.name, *figures, *(texts[place] for texts in self.more.values()), note))
        return rows

    def markdown(self) -> str:
        head, *rows = self.columns()
        aligned = ["---", "---:", "---:", "---:", *["---:"] * len(self.more), "---:"]
        table = ["| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in (head, *rows)]
        table.insert(1, "| " + " | ".join(aligned) + " |")
        notes = "\n".join(f"{place}. {note}" for place, note in enumerate(self.notes, 1))
        parts = [f"# {self.title}", f"Figures in {self.unit}.", "\n".join(table), *([notes] if notes else [])]
        parts += self.remarks
        parts += [f"![{self.title}]({picture})" for picture in self.pictures]
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
            table.add_row(*map(Text, row))
        console = Console()
        console.print(table)
        for text in (*(f"{place}: {note}" for place, note in enumerate(self.notes, 1)), *self.remarks):
            console.print(text, markup=False, highlight=False, soft_wrap=True)


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.2f}"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
