"""Tables 1 to 5: mean IoU, and the IoU of each class, of the systems that can be measured here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from training.paper.document import Document, Line, NotMeasured, Source, number
from training.paper.local import Local
from training.paper.tables import TABLE5, TABLE5_SYSTEM, TABLES, PaperRow, System

PAPER_GAIN = (
    "Some gains that the paper prints over PSPNet-50 (TDNet +0.27, EFC +2.31, STF +2.62, MAR +2.24) are 0.11 more than "
    "the differences of its own figures; the figures are what counts here."
)


def accuracy_table(name: str, local: Local) -> Document:
    """`name` is a key of TABLES. What cannot be measured has its reason as a note."""
    table = TABLES[name]
    lines = tuple(_line(row, local) for row in table.rows)
    remarks = (PAPER_GAIN,) if name in ("table1", "table3") else ()
    return Document(name, table.title, table.unit, lines, remarks)


def _line(row: PaperRow, local: Local) -> Line:
    if row.system is None:
        return Line(row.name, row.paper, None, row.reason)
    return Line(row.name, row.paper, *measured(local, row.system, lambda figures: figures["miou"]))


def measured(local: Local, system: System, pick: Callable[[dict[str, Any]], Any]) -> tuple[Any, str, Source | None]:
    """A figure of a system, what must be said of it, what gave it; None and the reason where there is none."""
    try:
        figures, data, source = local.row(system)
    except NotMeasured as error:
        return None, str(error), None
    return pick(figures), data.differs, source


def table5(local: Local) -> Document:
    """Table 5: each class of Cityscapes val, PSPNet-50 with and without MAR; the columns are those of MAR."""
    config, dataset = TABLE5_SYSTEM
    (base, _, base_source), (ours, note, source) = (
        measured(
            local, System(config, dataset, row), lambda figures: figures["per_class_iou"] | {"mean": figures["miou"]}
        )
        for row in ("base", "mar")
    )
    lines = []
    for label, (_, paper) in TABLE5.items():
        lines.append(Line(label, paper, None if ours is None else ours.get(label), note, source or base_source))
    more = {
        "base, paper": tuple(f"{figure:.2f}" for figure, _ in TABLE5.values()),
        "base, ours": tuple(number(None if base is None else base.get(label)) for label in TABLE5),
    }
    return Document("table5", "Table 5: Cityscapes val by class, PSPNet-50 + MAR", "IoU, %", tuple(lines), (), (), more)
