"""What the demo leaves behind: label images, an overlay video, a contact sheet and the latencies."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stmem_ros.encode import write_image
from stmem_ros.labels import LabelSet
from stmem_ros.node.clocks import Reading, latency_of
from stmem_ros.video import TimedVideo, legend

SHEET_COLUMNS, SHEET_ROWS, TILE_WIDTH = 3, 4, 480
# Also what a recorder that was killed was writing.
LABEL_NAME = re.compile(r"\d{6,}_-?\d+\.png|\.\d{6,}_-?\d+\.png\.\d+\.partial")
PRODUCTS = ("overlay.mp4", "contact_sheet.png", "report.json")


class Recorder:
    """Collects labels and overlays as they arrive and writes them into a folder.

    The video runs at `rate` frames a second in the stream's own time: an overlay stays until the next one's stamp.
    """

    def __init__(self, folder: Path, labels: LabelSet, rate: float) -> None:
        self.folder, self._classes = folder, labels
        self.latencies_ms: list[float] = []
        self.stamps: list[int] = []
        self._video = TimedVideo(folder / "overlay.mp4", rate)
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

    def add_labels(self, labels: NDArray[np.uint8], stamp_ns: int, clocks: Reading) -> None:
        """Write one label image `(H, W)` as PNG, named by its place among the labels and its stamp. Raises OSError.

        It arrived at `clocks`; a stamp of another clock gives no latency.
        """
        latency = latency_of(stamp_ns, clocks)
        if latency is not None:
            self.latencies_ms.append(latency * 1e3)
        self.stamps.append(stamp_ns)
        name = f"{len(self.stamps):06d}_{stamp_ns}.png"
        write_image(self.folder / "labels" / name, labels, [cv2.IMWRITE_PNG_COMPRESSION, 1], survive_power_loss=False)

    def add_overlay(self, overlay: NDArray[np.uint8], stamp_ns: int) -> None:
        """Append one overlay `(H, W, 3)` RGB to the video. Raises VideoError."""
        self._video.add(overlay, stamp_ns)
        if self._overlays % self._tile_every == 0:
            height = round(TILE_WIDTH * overlay.shape[0] / overlay.shape[1])
            self._tiles.append(cv2.resize(overlay, (TILE_WIDTH, height), interpolation=cv2.INTER_AREA))
            if len(self._tiles) > 4 * SHEET_COLUMNS * SHEET_ROWS:
                self._tiles = self._tiles[::2]
                self._tile_every *= 2
        self._overlays += 1

    @property
    def note(self) -> str:
        """A line for a person where the video is none that browsers play."""
        return self._video.note

    def finish(self) -> None:
        """Close the video and write the contact sheet. Raises OSError."""
        self._video.close()
        if self._tiles:
            write_image(self.folder / "contact_sheet.png", self._contact_sheet())

    def discard(self) -> None:
        """Where the recording has failed: no video and no contact sheet; the label images stay."""
        self._video.discard()
        self._tiles.clear()

    def _contact_sheet(self) -> NDArray[np.uint8]:
        count = min(SHEET_COLUMNS * SHEET_ROWS, len(self._tiles))
        chosen = [self._tiles[index] for index in np.linspace(0, len(self._tiles) - 1, count).round().astype(int)]
        while len(chosen) % SHEET_COLUMNS:
            chosen.append(np.zeros_like(chosen[0]))
        rows = [np.hstack(chosen[start : start + SHEET_COLUMNS]) for start in range(0, len(chosen), SHEET_COLUMNS)]
        return np.vstack([*rows, legend(self._classes, rows[0].shape[1])])
