"""Class names, palette and label images: what the numbers in a label image mean and how they are coloured."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

IGNORE_INDEX = 255


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """The classes of a network: label id i is `names[i]`, drawn in `palette[i]` (RGB, 0..255)."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        names = tuple(str(name) for name in self.names)
        palette = tuple(tuple(int(value) for value in color) for color in self.palette)
        if not 1 <= len(names) <= 255:
            raise ValueError(f"there are {len(names)} classes; 1 to 255 fit a label image")
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"class {twice!r} is listed twice")
        if len(palette) != len(names):
            raise ValueError(f"the palette has {len(palette)} colours for {len(names)} classes")
        for name, color in zip(names, palette, strict=True):
            if len(color) != 3 or not all(0 <= value <= 255 for value in color):
                raise ValueError(f"the colour of {name!r} is {list(color)}; it must be three numbers 0..255")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "palette", palette)

    def __len__(self) -> int:
        return len(self.names)

    def lookup_table(self) -> NDArray[np.uint8]:
        """`(256, 3)` RGB by label id; ids that are no class, 255 (ignored) among them, are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.palette
        return table


def colorize(
    labels: NDArray[np.uint8], table: NDArray[np.uint8], out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """`(H, W)` label ids to `(H, W, 3)` RGB through a `(256, 3)` table."""
    # mode="clip" lets NumPy write straight into `out`; every uint8 is a row of the table.
    return np.take(table, labels, axis=0, out=out, mode="clip")
