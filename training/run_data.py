"""The data of a training run: what it learns from, what it is validated on, and what says whether they are the same."""

from __future__ import annotations

import functools
from typing import Any

from training.data.clips import Windows
from training.data.dataset import DatasetError, DatasetSpec, LabelledFrame, class_pixels, list_images, of_sequences
from training.data.fingerprint import Digests, Fingerprint, describe, of_frames, of_windows
from training.data.overlap import require_own_labels
from training.stages.base_stage import class_weights
from training.train_config import TrainConfig


class RunData:
    """Labelled frames of both splits, their windows, the classes' pixels and weights, and fingerprints of all that.

    Raises DatasetError if a file cannot be used, a split has no labelled pixel, or no frame is of a chosen sequence.
    """

    def __init__(
        self, config: TrainConfig, spec: DatasetSpec, frames: list[LabelledFrame], validation: list[LabelledFrame]
    ) -> None:
        self.config, self.spec = config, spec
        self.frames, self.validation = of_sequences(frames, config.sequences, config.train_split), validation
        # Reads every label image: what is wrong with one is known before anything is learnt.
        self.pixels = class_pixels(self.frames, spec).sum(0)
        self.weights = class_weights(self.pixels[None])
        for split, pixels in (
            (config.train_split, self.pixels),
            (config.val_split, class_pixels(validation, spec)),
        ):
            if not pixels.any():
                raise DatasetError(f"the {split} split of {spec.name} in {config.root} has no labelled pixel")
        # What is to be said of the images is said here, and not by each process that reads them.
        spec.read_image(self.frames[0].image)
        require_own_labels([*self.frames, *validation], spec.read_image)
        self._digests = Digests()
        self.files = {"train": of_frames(self.frames, self._digests), "val": of_frames(validation, self._digests)}
        self.summary: dict[str, Any] = {
            "dataset": spec.name,
            "spec": describe(spec),
            "chosen": list(config.sequences),
            "train": {"split": config.train_split, **self.files["train"].summary()},
            "val": {"split": config.val_split, **self.files["val"].summary()},
        }

    @functools.cached_property
    def windows(self) -> dict[str, Windows]:
        """Which frames stand beside those of each split."""
        return {
            split: Windows(list_images(self.spec, self.config.root, split), self.spec, self.config.window)
            for split in (self.config.train_split, self.config.val_split)
        }

    @functools.cached_property
    def neighbors(self) -> dict[str, Fingerprint]:
        """Of the images in the windows of both splits, the frame in the middle or (learnt from) the last one."""
        length, config = self.config.network.window_frames, self.config
        middle, last = length // 2, length - 1
        train, val = (self.windows[split] for split in (config.train_split, config.val_split))
        return {
            "train_windows": of_windows(self.frames, train, length, (middle, last), self._digests),
            "val_windows": of_windows(self.validation, val, length, (middle,), self._digests),
        }
