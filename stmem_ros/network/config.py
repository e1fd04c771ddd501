"""What a network is made of, as data: checked once here, written into every checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any


def _require(condition: bool, field: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{field} is {value!r}; it must be {allowed}")


# A checkpoint's header is not trusted with more than any network here can need.
LARGEST = 65536
DEEPEST = 64


def _is_count(value: object, most: int = LARGEST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


@dataclasses.dataclass(frozen=True)
class STFConfig:
    """Spatial-temporal fusion (paper, section 3.2). Grids and blocks are (rows, columns) of the cells it sees.

    `stride` 1 is the paper's: it sees every feature, and its output takes the feature's place. With a larger
    stride it sees means over `stride` x `stride` features, a `stride`**2-th of the arithmetic, and its output
    is added to the window's mean at each place. In that mean a frame weighs exp(`sharpness` * correlation with
    the query's feature), less by exp(-`fading`) for each frame beyond the query's neighbours: zeros are the plain
    mean, which is steady but smears what moves; a large sharpness keeps the query.
    """

    block: tuple[int, int] = (16, 16)
    positional_grid: tuple[int, int] = (128, 256)
    frames: int = 3
    depth: int = 1
    heads: int = 2
    feedforward: int = 256
    dropout: float = 0.1
    stride: int = 1
    sharpness: float = 2.0
    fading: float = 2.0

    def __post_init__(self) -> None:
        for field in ("block", "positional_grid"):
            pair = getattr(self, field)
            _require(
                isinstance(pair, (tuple, list)) and len(pair) == 2 and all(_is_count(n) for n in pair),
                f"stf.{field}",
                pair,
                f"two whole numbers from 1 to {LARGEST}, rows and columns",
            )
            object.__setattr__(self, field, tuple(pair))
        for field, most in (
            ("frames", DEEPEST),
            ("depth", DEEPEST),
            ("heads", LARGEST),
            ("feedforward", LARGEST),
            ("stride", 8),
        ):
            value = getattr(self, field)
            _require(_is_count(value, most), f"stf.{field}", value, f"a whole number from 1 to {most}")
        _require(
            isinstance(self.dropout, (int, float)) and 0 <= self.dropout < 1,
            "stf.dropout",
            self.dropout,
            "at least 0 and below 1",
        )
        for field in ("sharpness", "fading"):
            value = getattr(self, field)
            _require(isinstance(value, (int, float)) and 0 <= value <= 1000, f"stf.{field}", value, "from 0 to 1000")


@dataclasses.dataclass(frozen=True)
class MARConfig:
    """Memory-augmented refinement (paper, section 3.3).

    `memory_classes` classes have a memory, each `hard_per_class` (K_L) keys and
    `values_per_class` values: 1 is the paper's one prototype a class; `hard_per_class`
    gives every key a value of its own, as the authors' trained checkpoints have. With `residual`
    MAR's output is added to the features, and nothing at first; without, it replaces them, as in the paper.
    """

    memory_classes: int
    hard_per_class: int = 10
    values_per_class: int = 1
    residual: bool = False

    def __post_init__(self) -> None:
        for field in ("memory_classes", "hard_per_class"):
            value = getattr(self, field)
            _require(_is_count(value), f"mar.{field}", value, f"a whole number from 1 to {LARGEST}")
        _require(
            self.values_per_class in (1, self.hard_per_class),
            "mar.values_per_class",
            self.values_per_class,
            f"1 or hard_per_class ({self.hard_per_class})",
        )
        _require(isinstance(self.residual, bool), "mar.residual", self.residual, "true or false")


@dataclasses.dataclass(frozen=True)
class SegmenterConfig:
    """Base network, classifier, and the two optional modules; each row of the paper's table 3 is one of these."""

    base: str
    classes: int
    classifier_upscale: int = 1
    stf: STFConfig | None = None
    mar: MARConfig | None = None

    def __post_init__(self) -> None:
        _require(isinstance(self.base, str) and bool(self.base), "base", self.base, "the name of a base network")
        _require(_is_count(self.classes) and self.classes <= 255, "classes", self.classes, "from 1 to 255")
        _require(_is_count(self.classifier_upscale, 8), "classifier_upscale", self.classifier_upscale, "from 1 to 8")

    @property
    def window_frames(self) -> int:
        """How many frames one prediction looks at: 1 without STF."""
        return 1 if self.stf is None else self.stf.frames

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready data; `from_dict` gives the same config back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SegmenterConfig:
        """Raises ValueError where a field is unknown, missing or out of range."""
        try:
            fields = dict(data)
            if fields.get("stf") is not None:
                fields["stf"] = STFConfig(**fields["stf"])
            if fields.get("mar") is not None:
                fields["mar"] = MARConfig(**fields["mar"])
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"the network's configuration does not fit: {error}") from error
