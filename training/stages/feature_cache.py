"""What frozen parts of the network say of an input, computed once and kept on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stmem_ros.files import whole_file


class FeatureCache:
    """Tensors by name, in half precision, in files below `folder`; never more than `limit` bytes.

    Any file, or all of them, may be deleted at any time: what is missing or damaged is computed again.
    What was computed and what was cached are the same to the last bit: `rounded` says what `get` would give.
    """

    def __init__(self, folder: Path, limit: float) -> None:
        self.folder = folder
        self.limit = limit
        self._full = limit <= 0
        self._used = 0.0
        if not self._full:
            folder.mkdir(parents=True, exist_ok=True)
            self._used = sum(file.stat().st_size for file in folder.iterdir())

    @staticmethod
    def rounded(tensor: Tensor) -> Tensor:
        return tensor.half().float()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def __contains__(self, name: str) -> bool:
        return self._path(name).is_file()

    def get(self, name: str) -> Tensor | None:
        """The float32 tensor kept under `name`, or None."""
        try:
            return torch.from_numpy(np.load(self._path(name), allow_pickle=False)).float()
        except (OSError, ValueError, EOFError):
            return None

    def put(self, name: str, tensor: Tensor) -> None:
        """Keep it if there is room. A disk that is full ends the caching, not the training."""
        size = 2 * tensor.numel() + 128
        if self._full or self._used + size > self.limit:
            self._full = True
            return
        try:
            with whole_file(self._path(name)) as partial, partial.open("wb") as file:
                np.save(file, tensor.half().cpu().numpy())
            self._used += size
        except OSError:
            self._full = True
