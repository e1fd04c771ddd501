"""What a baseline is: something else than STF and MAR that is put on the base network, and measured beside them."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Baseline(abc.ABC):
    """Either a `Fusion` or a `Refinement`; a frozen dataclass whose fields are its settings."""

    name: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """Its name and its settings."""
        return {"name": self.name, **dataclasses.asdict(self)}  # type: ignore[call-overload]


class Fusion(Baseline):
    """Works on the base's features of a window of `frames` frames, in STF's place."""

    frames: int

    @abc.abstractmethod
    def fuse(self, features: list[Tensor], images: list[NDArray[np.uint8]], query: int) -> Tensor:
        """Features of frame `query` for the base's classifier, `(1, C, h, w)`.

        `features` are the base's of each frame, `(1, C, h, w)`, oldest first; `images` what it saw, `(H, W, 3)` RGB.
        At the ends of a sequence a frame may be in the window twice, as the same object.
        """


class Refinement(Baseline):
    """Works on the base's output at full resolution."""

    @abc.abstractmethod
    def refine(self, logits: Tensor, image: NDArray[np.uint8]) -> Tensor:
        """Better logits `(classes, H, W)` from logits of that shape and their image `(H, W, 3)` RGB."""
