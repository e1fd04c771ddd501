"""Results for the eye: tables on the terminal, and pictures of where a network is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from stmem_ros.labels import IGNORE_INDEX, LabelSet, colorize
from training.console import plain_console
from training.data.dataset import LabelledFrame, read_image
from training.measure.cost import Cost
from training.measure.metrics import Accuracy
from training.measure.quality import QUALITY_NAMES
from training.measure.rows import CAUSAL, full_name

PICTURES = ("confusion_matrix.png", "per_class_iou.png", "worst_frames.png")
# Okabe and Ito's colours, which the colour-blind can tell apart.
ROW_COLORS = {
    "base": "#999999",
    "stf": "#0072B2",
    "mar": "#E69F00",
    "both": "#009E73",
    "base+dense_crf": "#CC79A7",
    "base+segfix": "#56B4E9",
    "base+flow_average": "#D55E00",
}
WRONG = (214, 39, 40)
PALER = 0.55


@dataclasses.dataclass(frozen=True)
class Result:
    """What one row came to. `confusion` counts pixels, rows are the truth; `quality` is in percent.

    `kind` and `label` are the row's.
    """

    kind: str
    accuracy: Accuracy
    quality: dict[str, float | None]
    cost: Cost
    confusion: NDArray[np.int64]
    label: str = ""

    @property
    def name(self) -> str:
        return full_name(self.kind, self.label)

    def to_dict(self, classes: tuple[str, ...]) -> dict[str, Any]:
        return self.accuracy.to_dict(classes) | self.quality | self.cost.to_dict()


def print_tables(results: list[Result], classes: tuple[str, ...], pixels: NDArray[np.int64]) -> None:
    """IoU of each class beside its share of the labelled pixels, then the figures over all; a column a row.

    Columns that do not fit the terminal beside the others come in a table below.
    """
    console = plain_console()
    for shown in _fitting(console, results, lambda shown: per_class_table(shown, classes, pixels)):
        console.print(per_class_table(shown, classes, pixels))
    for shown in _fitting(console, results, summary_table):
        console.print(summary_table(shown))


def per_class_table(results: list[Result], classes: tuple[str, ...], pixels: NDArray[np.int64]) -> Table:
    table = _table("IoU, %", "class", "pixels, %", *map(_heading, results))
    for label, name in enumerate(classes):
        ious = (result.accuracy.per_class_iou[label] for result in results)
        table.add_row(name, f"{100 * pixels[label] / pixels.sum():.2f}", *map(_number, ious))
    return table


def summary_table(results: list[Result]) -> Table:
    table = _table("All classes, %", "", *map(_heading, results))
    table.add_row("mean IoU", *(_number(result.accuracy.miou) for result in results))
    table.add_row("pixel accuracy", *(_number(result.accuracy.pixel_accuracy) for result in results))
    table.add_row("fwIoU", *(_number(result.accuracy.fw_iou) for result in results))
    for key, name in QUALITY_NAMES.items():
        values = [result.quality[key] for result in results]
        if any(value is not None for value in values):
            table.add_row(name, *map(_number, values))
    table.add_section()
    costs = [result.cost.to_dict() for result in results]
    table.add_row("parameters, M", *(_number(cost["parameters"] / 1e6) for cost in costs))
    table.add_row("GMACs a frame", *(_number(cost["gmacs"]) for cost in costs))
    if any("+" in result.kind for result in results):
        table.caption, table.caption_justify = "cost beside a +: the base's alone", "left"
    return table


def _fitting(console: Console, results: list[Result], build: Callable[[list[Result]], Table]) -> Iterator[list[Result]]:
    """The results in parts, each as many as the console is wide enough for."""
    unlimited = console.options.update(width=10_000)
    while results:
        count = len(results)
        while count > 1 and Measurement.get(console, unlimited, build(results[:count])).maximum > console.width:
            count -= 1
        yield results[:count]
        results = results[count:]


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _heading(result: Result) -> str:
    """The row's name, its parts below each other."""
    kind = result.kind.removesuffix(CAUSAL)
    causal = "" if kind == result.kind else "\ncausal"
    return kind.replace("+", "\n+") + causal + (f"\n{result.label}" if result.label else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


@dataclasses.dataclass(frozen=True)
class Shot:
    """A frame with its predicted and true labels `(H, W)`, and the percentage of labelled pixels that are right."""

    image: Path
    prediction: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    accuracy: float


class WorstFrames:
    """The frames with the fewest labelled pixels right, of each second of video the worst one."""

    def __init__(self, count: int, frame_rate: float | None) -> None:
        self._count = count
        self._frame_rate = frame_rate
        self._worst: dict[tuple[str, int], Shot] = {}

    def update(self, frame: LabelledFrame, prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """One more frame's labels, both `(H, W)`; frames without a labelled pixel are passed over."""
        labelled = truth != IGNORE_INDEX
        if not labelled.any():
            return
        second = frame.number if self._frame_rate is None else int(frame.number / self._frame_rate)
        place = (frame.sequence, second)
        shot = Shot(frame.image, prediction, truth, 100 * float((prediction == truth)[labelled].mean()))
        if place not in self._worst or shot.accuracy < self._worst[place].accuracy:
            self._worst[place] = shot
        if len(self._worst) > self._count:
            del self._worst[max(self._worst, key=lambda place: self._worst[place].accuracy)]

    def shots(self) -> list[Shot]:
        """At most `count` of them, the worst first."""
        return sorted(self._worst.values(), key=lambda shot: shot.accuracy)


def write_pictures(
    folder: Path,
    results: list[Result],
    headline: Result,
    worst: list[Shot],
    labels: LabelSet,
    read: Callable[[Path], NDArray[np.uint8]] = read_image,
) -> None:
    """Write `PICTURES` into `folder`; confusion and worst frames are those of `headline`. Raises OSError.

    Makes the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = (
        draw_confusion(headline, labels.names),
        draw_per_class(results, labels.names),
        draw_worst(worst, headline.name, labels, read),
    )
    for name, figure in zip(PICTURES, drawn, strict=True):
        figure.savefig(folder / name, dpi=120, bbox_inches="tight")


def draw_confusion(result: Result, classes: tuple[str, ...]) -> Figure:
    """Of each true class's pixels, the percentage that was given each label: row c is 100 n_cj / sum_j n_cj."""
    counts = result.confusion.astype(float)
    total = counts.sum(1, keepdims=True)
    shares = np.divide(100 * counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    side = 3 + 0.5 * len(classes)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.05:
            text = f"{share:.1f}" if share < 9.95 else f"{share:.0f}"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=8, color="white" if share > 55 else "#1a1a1a"
            )
    places = range(len(classes))
    axes.set_xticks(places, classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, classes)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    axes.set_title(f"{result.name}: where each class's pixels went, % (blank: below 0.05 %)", fontsize=11)
    figure.colorbar(image, ax=axes, shrink=0.8, label="% of the true class")
    return figure


def draw_per_class(results: list[Result], classes: tuple[str, ...]) -> Figure:
    """IoU of each class and their mean, a bar a row; a causal row is hatched, a second of one kind paler."""
    groups = ("mean", *classes)
    width = 0.8 / len(results)
    figure = Figure(figsize=(max(7.0, 1.5 + len(groups) * (0.45 + 0.13 * len(results))), 4.5), layout="constrained")
    axes = figure.add_subplot()
    for place, result in enumerate(results):
        kind = result.kind.removesuffix(CAUSAL)
        earlier = sum(other.kind == result.kind for other in results[:place])
        ious = [result.accuracy.miou, *(iou or 0.0 for iou in result.accuracy.per_class_iou)]
        bars = axes.bar(
            np.arange(len(groups)) + (place - (len(results) - 1) / 2) * width,
            ious,
            0.94 * width,
            label=f"{result.name} ({result.accuracy.miou:.2f})",
            color=_paler(ROW_COLORS[kind], earlier),
            hatch="////" if kind != result.kind else None,
            edgecolor="white",
            linewidth=0.0,
        )
        if len(results) <= 2:
            axes.bar_label(bars, [f"{iou:.0f}" for iou in ious], fontsize=8, padding=2)
    axes.axvline(0.5, color="#bbbbbb", linewidth=0.8)
    axes.set_xticks(range(len(groups)), groups, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(0, 104)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("IoU, %")
    axes.grid(axis="y", color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=min(len(results), 6), frameon=False, title="row (mean IoU)")
    return figure


def _paler(color: str, times: int) -> tuple[float, ...]:
    return tuple(1 - (1 - part) * PALER**times for part in to_rgb(color))


def draw_worst(
    shots: list[Shot], name: str, labels: LabelSet, read: Callable[[Path], NDArray[np.uint8]] = read_image
) -> Figure:
    """A line a frame: image, prediction, truth (void is black), and the image with wrong pixels in red."""
    table = labels.lookup_table()
    height, width = shots[0].truth.shape
    column = 3.2
    line = column * height / width + 0.12
    figure = Figure(figsize=(4 * column, len(shots) * line + 1.1), layout="constrained")
    grid: NDArray[Any] = figure.subplots(len(shots), 4, squeeze=False)
    for row, shot in zip(grid, shots, strict=True):
        image = read(shot.image)
        panels = (image, colorize(shot.prediction, table), colorize(shot.truth, table), errors(image, shot))
        for axes, panel in zip(row, panels, strict=True):
            _show(axes, panel)
        row[0].set_title(shot.image.name, fontsize=9, loc="left")
        row[3].set_title(f"{shot.accuracy:.1f} % right", fontsize=9, loc="right")
    for axes, title in zip(grid[-1], ("image", "prediction", "truth", "errors (void is black)"), strict=True):
        axes.set_xlabel(title, fontsize=10)
    used = np.unique([label for shot in shots for part in (shot.prediction, shot.truth) for label in np.unique(part)])
    patches = [
        Patch(facecolor=np.array(labels.palette[label]) / 255, edgecolor="#888888", label=labels.names[label])
        for label in used
        if label < len(labels)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=7, fontsize=9, frameon=False)
    figure.suptitle(f"{name}: frames with the fewest labelled pixels right", fontsize=11)
    return figure


def errors(image: NDArray[np.uint8], shot: Shot) -> NDArray[np.uint8]:
    """`(H, W, 3)` RGB: the image in pale grey, wrong pixels red, void black."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    picture = np.repeat((128 + gray // 2)[..., None], 3, -1)
    picture[shot.prediction != shot.truth] = WRONG
    picture[shot.truth == IGNORE_INDEX] = 0
    return picture


def _show(axes: Axes, picture: NDArray[np.uint8]) -> None:
    axes.imshow(picture, interpolation="antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
