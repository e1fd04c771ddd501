"""Operating points of networks: how accurate against how quick, and which of them no other one beats in both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator, ScalarFormatter
from rich.table import Table

from stmem_ros.benchmark.measure import Spread
from training.measure.report import ROW_COLORS
from training.measure.rows import full_name

LINES = ("-", "--", ":", "-.")
TICKS = tuple(step * 10**power for power in range(-1, 5) for step in (1, 1.5, 2, 3, 5, 7))


@dataclasses.dataclass(frozen=True)
class Point:
    """A network at one size of image, and what was measured of it; None where nothing was.

    `kind` and `label` are the row's, without its window. `channels` is d, that of the features; `stf_stride` is in
    pixels of the network's image, None without STF. `figures` are those of `evaluate --json`.
    """

    kind: str
    label: str
    checkpoint: str
    channels: int
    stf_stride: int | None
    short_side: int
    figures: dict[str, Any] | None = None
    latency: Spread | None = None

    @property
    def name(self) -> str:
        return full_name(self.kind, self.label)

    @property
    def whole(self) -> bool:
        """Whether accuracy and latency are both known."""
        return self.figures is not None and self.latency is not None

    def to_dict(self) -> dict[str, Any]:
        latency = self.latency and {
            "latency_ms": self.latency.median,
            "quartiles_ms": list(self.latency.quartiles),
            "rounds": self.latency.count,
        }
        fields = ("checkpoint", "channels", "stf_stride", "short_side")
        about = {"row": self.kind} | {field: getattr(self, field) for field in fields}
        return about | (latency or {}) | (self.figures or {})


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of points (milliseconds, accuracy): whether none is as quick and as accurate as it, and better in one."""
    return [
        not any(other[0] <= point[0] and other[1] >= point[1] and other != point for other in points)
        for point in points
    ]


def on_front(points: Sequence[Point]) -> list[bool]:
    """`front` by median latency and mean IoU; a point of which one is not known is not on it."""
    places = [place for place, point in enumerate(points) if point.whole]
    best = front([_place(points[place]) for place in places])
    chosen = {place for place, good in zip(places, best, strict=True) if good}
    return [place in chosen for place in range(len(points))]


def _place(point: Point) -> tuple[float, float]:
    assert point.latency is not None and point.figures is not None
    return point.latency.median, point.figures["miou"]


def points_table(points: Sequence[Point], title: str) -> Table:
    """A line a point; a star marks the Pareto front.

    Columns that no point has anything for are left out, and d and STF's stride where they are the same throughout.
    """
    lines = []
    for point, best in zip(points, on_front(points), strict=True):
        figures, latency = point.figures or {}, point.latency
        lines.append(
            {
                "row": point.name,
                "d": str(point.channels),
                "STF\nstride": "" if point.stf_stride is None else str(point.stf_stride),
                "short\nside": str(point.short_side),
                "mIoU\n%": _number(figures.get("miou")),
                "VC_8\n%": _number(figures.get("vc8")),
                "GMACs": _number(figures.get("gmacs")),
                "median\nms": "" if latency is None else f"{latency.median:.1f}",
                "quartiles\nms": "" if latency is None else "-".join(map(_short, latency.quartiles)),
                "*": "*" if best else "",
            }
        )
    texts = {column: {line[column] for line in lines} - {""} for column in lines[0]}
    shown = [column for column in texts if len(texts[column]) > (column in ("d", "STF\nstride"))]
    table = Table(title=title, title_justify="left", caption_justify="left")
    if texts["*"]:
        table.caption = "*: on the Pareto front, no other is as quick and as accurate, and better in one"
    for column in shown:
        table.add_column(column, justify="left" if column == "row" else "right")
    for place, line in enumerate(lines):
        if place and line["row"] != lines[place - 1]["row"]:
            table.add_section()
        table.add_row(*(line[column] for column in shown))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.{0 if milliseconds >= 100 else 1}f}"


def draw_points(path: Path, points: Sequence[Point], title: str) -> None:
    """Mean IoU against milliseconds, a line a row of a checkpoint, its short sides beside the points. Raises OSError.

    Points of which one figure is not known are left out; there must be one that is whole.
    """
    points = [point for point in points if point.whole]
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    best = sorted(_place(point) for point, good in zip(points, on_front(points), strict=True) if good)
    axes.plot(*zip(*best, strict=True), color="#dddddd", linewidth=9, solid_capstyle="round", zorder=1)
    axes.plot([], [], color="#dddddd", linewidth=9, label="Pareto front")
    labels = list(dict.fromkeys(point.label for point in points))
    for name in dict.fromkeys(point.name for point in points):
        line = sorted((point for point in points if point.name == name), key=lambda point: point.short_side)
        color, style = ROW_COLORS[line[0].kind], LINES[labels.index(line[0].label) % len(LINES)]
        # MAR changes little: its row lies beside the one without.
        above = line[0].kind in ("base", "stf")
        places = [_place(point) for point in line]
        spans = [point.latency.quartiles for point in line if point.latency is not None]
        axes.plot(*zip(*places, strict=True), style, marker="o", markersize=5, color=color, label=name, zorder=3)
        for point, (milliseconds, miou), span in zip(line, places, spans, strict=True):
            axes.plot(span, (miou, miou), color=color, linewidth=1.2, zorder=2)
            text = axes.annotate(
                str(point.short_side),
                (milliseconds, miou),
                xytext=(-6, 5) if above else (6, -5),
                textcoords="offset points",
                horizontalalignment="right" if above else "left",
                verticalalignment="bottom" if above else "top",
                fontsize=8,
                color=color,
                zorder=2.5,
            )
            text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in TICKS if low <= tick <= high])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("milliseconds a frame: median of the engine's step, quartiles as bars")
    axes.set_ylabel("mean IoU, %")
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", title="row (numbers: short side, pixels)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
