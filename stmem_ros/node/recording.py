"""What the demo leaves behind: label images, an overlay video, a contact sheet and the latencies."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stmem_ros.labels import LabelSet

SHEET_COLUMNS, SHEET_ROWS, TILE_WIDTH = 3, 4, 480
LEGEND_ROW = 34
LABEL_NAME = re.compile(r"\d{6}_-?\d+\.png")
PRODUCTS = ("overlay.mp4", "contact_sheet.png", "report.json")


class Recorder:
    """Collects labels and overlays as they arrive and writes them into a folder.

    The video runs at `rate` frames a second in the stream's own time: an overlay stays until the next one's stamp.
    """

    def __init__(self, folder: Path, labels: LabelSet, rate: float) -> None:
        self.folder, self._classes, self._rate = folder, labels, rate
        self.latencies_ms: list[float] = []
        self.stamps: list[int] = []
        self._video: cv2.VideoWriter | None = None
        self._video_size = (0, 0)
        self._held: NDArray[np.uint8] | None = None
        self._first_stamp = 0
        self._written = 0
        self._tiles: list[NDArray[np.uint8]] = []
        self._tile_every, self._overlays = 1, 0

    @staticmethod
    def check(folder: Path) -> None:
        """Raises FileExistsError where the folder's `labels` holds what no recorder wrote; OSError where it is none."""
        foreign = [path.name for path in (folder / "labels").glob("*") if not LABEL_NAME.fullmatch(path.name)]
        if foreign:
            raise FileExistsError(f"its labels folder holds files of yours, such as {foreign[0]}")
        (folder / "labels").mkdir(parents=True, exist_ok=True)

    def begin(self) -> None:
        """Remove what an earlier recording left in the folder. Raises OSError."""
        self.check(self.folder)
        for path in [*(self.folder / "labels").iterdir(), *(self.folder / name for name in PRODUCTS)]:
            path.unlink(missing_ok=True)

    def add_labels(self, labels: NDArray[np.uint8], stamp_ns: int, arrival_ns: int) -> None:
        """Write one label image `(H, W)` as PNG, named by its place among the labels and its stamp."""
        self.latencies_ms.append((arrival_ns - stamp_ns) * 1e-6)
        self.stamps.append(stamp_ns)
        name = f"{len(self.stamps):06d}_{stamp_ns}.png"
        cv2.imwrite(str(self.folder / "labels" / name), labels, [cv2.IMWRITE_PNG_COMPRESSION, 1])

    def add_overlay(self, overlay: NDArray[np.uint8], stamp_ns: int) -> None:
        """Append one overlay `(H, W, 3)` RGB to the video."""
        bgr = cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR)
        if self._video is None:
            self._video_size = (bgr.shape[1], bgr.shape[0])
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._video = cv2.VideoWriter(str(self.folder / "overlay.mp4"), fourcc, self._rate, self._video_size)
            self._first_stamp = stamp_ns
        if (bgr.shape[1], bgr.shape[0]) != self._video_size:
            bgr = cv2.resize(bgr, self._video_size, interpolation=cv2.INTER_AREA)
        self._hold_until(round((stamp_ns - self._first_stamp) * 1e-9 * self._rate))
        self._held = bgr
        if self._overlays % self._tile_every == 0:
            height = round(TILE_WIDTH * bgr.shape[0] / bgr.shape[1])
            self._tiles.append(cv2.resize(bgr, (TILE_WIDTH, height), interpolation=cv2.INTER_AREA))
            if len(self._tiles) > 4 * SHEET_COLUMNS * SHEET_ROWS:
                self._tiles = self._tiles[::2]
                self._tile_every *= 2
        self._overlays += 1

    def finish(self) -> None:
        """Close the video and write the contact sheet."""
        if self._video is not None:
            self._hold_until(self._written + 1)
            self._video.release()
            self._video = None
        if self._tiles:
            cv2.imwrite(str(self.folder / "contact_sheet.png"), self._contact_sheet())

    def _hold_until(self, frame: int) -> None:
        while self._video is not None and self._held is not None and self._written < frame:
            self._video.write(self._held)
            self._written += 1

    def _contact_sheet(self) -> NDArray[np.uint8]:
        count = min(SHEET_COLUMNS * SHEET_ROWS, len(self._tiles))
        chosen = [self._tiles[index] for index in np.linspace(0, len(self._tiles) - 1, count).round().astype(int)]
        while len(chosen) % SHEET_COLUMNS:
            chosen.append(np.zeros_like(chosen[0]))
        rows = [np.hstack(chosen[start : start + SHEET_COLUMNS]) for start in range(0, len(chosen), SHEET_COLUMNS)]
        return np.vstack([*rows, self._legend(rows[0].shape[1])])

    def _legend(self, width: int) -> NDArray[np.uint8]:
        """Colour and name of every class, in as many rows as they need."""
        boxes, x, y = [], 10, 0
        for name in self._classes.names:
            needed = 34 + cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.55, 1)[0][0] + 18
            if x + needed > width and x > 10:
                x, y = 10, y + LEGEND_ROW
            boxes.append((x, y))
            x += needed
        legend = np.full((y + LEGEND_ROW, width, 3), 255, np.uint8)
        for (x, y), name, color in zip(boxes, self._classes.names, self._classes.palette, strict=True):
            cv2.rectangle(legend, (x, y + 8), (x + 26, y + 26), color[::-1], cv2.FILLED)
            cv2.putText(legend, name, (x + 34, y + 23), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
        return legend
