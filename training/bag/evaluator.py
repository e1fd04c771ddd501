"""One bag to the figures of its sequences: every network sees every frame once, in stamp order."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from stmem_ros.bag.io.reader import Bag
from stmem_ros.bag.pipeline import read_ahead
from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, CheckpointInfo, load_checkpoint, read_info
from stmem_ros.decode import ImageError
from stmem_ros.labels import LabelSet
from stmem_ros.streaming import StreamingSegmenter
from training.bag.frames import Clip, Frame, Labeller, NetworkLabels, RecordedLabels, frames
from training.bag.result import SequenceResult
from training.bag.samples import Camera, Samples
from training.bag.scores import SequenceScores
from training.bag.settings import EvaluationError, EvaluationSettings
from training.bag.truth import TruthReader
from training.data.dataset import load_spec
from training.measure.rows import require_numbers, row_name

# Frames that are decoded and followed while one is segmented.
AHEAD = 4


def evaluate_bag(path: Path, settings: EvaluationSettings) -> list[SequenceResult]:
    """The sequences of one bag: of each camera, each model's, in the order of `settings.models`.

    May be called in another process; the networks are kept for the next bag.
    Raises BagError, DatasetError, EvaluationError, CheckpointError, DeviceError or OSError, one line each.
    """
    return _evaluator(settings).evaluate(path)


@functools.lru_cache(maxsize=1)
def _evaluator(settings: EvaluationSettings) -> Evaluator:
    return Evaluator(settings)


def label_set(settings: EvaluationSettings) -> LabelSet:
    """The classes that everything is measured in: the networks', else the data set's, the bags' or the package's.

    Raises CheckpointError, DatasetError, and EvaluationError where two networks have different ones.
    """
    if not settings.checkpoints:
        if settings.dataset is not None:
            return load_spec(settings.dataset).labels
        return settings.classes or read_info(DEFAULT_CHECKPOINT).labels
    found = [info_of(path).labels for path in settings.paths]
    for path, labels in zip(settings.paths, found, strict=True):
        if labels.names != found[0].names:
            raise EvaluationError(
                f"{path} has the classes {', '.join(labels.names)}, {settings.paths[0]} has "
                f"{', '.join(found[0].names)}: networks of different classes cannot be compared"
            )
    return found[0]


class Evaluator:
    """Holds the networks; `evaluate` may be called for one bag after the other.

    Raises CheckpointError, DeviceError, DatasetError and EvaluationError.
    """

    def __init__(self, settings: EvaluationSettings) -> None:
        self.settings, self.labels = settings, label_set(settings)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        where = str(settings.paths[0]) if settings.checkpoints else settings.classes_from
        self._truth = TruthReader(self.labels, settings.dataset, where)
        self._engines = [_engine(path, settings) for path in settings.paths]

    def evaluate(self, path: Path) -> list[SequenceResult]:
        """See `evaluate_bag`."""
        with Bag(path) as bag:
            samples = Samples(bag, self.settings, self.labels, self._truth)
            sequences = [self._sequence(place, camera) for place, camera in enumerate(samples.cameras)]
            clips = [Clip(self.settings.max_gap) for _ in sequences]
            bar = tqdm(total=samples.frames, desc=bag.name, unit="frame", leave=False, disable=None)
            with bar, contextlib.closing(read_ahead(frames(samples.read(), clips), AHEAD)) as pairs:
                for sample, frame in pairs:
                    for one in sequences[sample.camera]:
                        one.push(sample.stamp_ns, frame)
                    bar.update()
                for one in (one for sequence in sequences for one in sequence):
                    one.end()
            return [
                one.result(bag, camera, clip)
                for camera, clip, sequence in zip(samples.cameras, clips, sequences, strict=True)
                for one in sequence
            ]

    def _sequence(self, place: int, camera: Camera) -> list[_Sequence]:
        labellers: list[Labeller] = [NetworkLabels(engine.sibling()) for engine in self._engines]
        labellers += [RecordedLabels(number) for number in range(len(self.settings.recorded(place)))]
        return [
            _Sequence(model, labeller, SequenceScores(self.labels, camera.frames, self.settings))
            for model, labeller in zip(self.settings.models, labellers, strict=True)
        ]


class _Sequence:
    """A camera's frames on their way through one model."""

    def __init__(self, model: str, labeller: Labeller, scores: SequenceScores) -> None:
        self._model, self._labeller, self._scores = model, labeller, scores

    def push(self, stamp_ns: int, frame: Frame | None) -> None:
        try:
            for labelled in self._labeller.push(stamp_ns, frame):
                self._scores.add(labelled)
        except ImageError as error:
            raise EvaluationError(f"{self._model} cannot take the frame at {stamp_ns} ns: {error}") from error

    def end(self) -> None:
        for labelled in self._labeller.end():
            self._scores.add(labelled)

    def result(self, bag: Bag, camera: Camera, clip: Clip) -> SequenceResult:
        """Raises EvaluationError where there is nothing to count."""
        lost, notes = _lost(bag, camera), [*dict.fromkeys(bag.notes), *_unusual(clip, self._scores)]
        if isinstance(self._labeller, RecordedLabels) and self._labeller.missing:
            lost.append(f"{self._labeller.missing} frames of {camera.topic} have no labels as {self._model}")
        if not self._scores.frames:
            raise EvaluationError(f"{bag.path}: no frame of {camera.topic} can be measured; {lost[0]}")
        if self._scores.expects_truth and not self._scores.with_truth:
            raise EvaluationError(f"{bag.path}: no frame of {camera.topic} can be measured with its truth; {lost[0]}")
        blocks = self._scores.blocks()
        if self._scores.expects_truth and not any(block.sums.confusion.any() for block in blocks):
            truth = camera.truth or "the label images"
            raise EvaluationError(f"{bag.path}: no pixel of {camera.topic} has a ground truth: all of {truth} is void")
        if {int(label) for block in blocks for label in np.flatnonzero(block.sums.confusion.sum(1))} == {0}:
            notes.append(
                f"the ground truth of {camera.topic} has class 0 and void alone: if its label images are masks of 0 "
                "and 255, give --dataset a YAML file whose classes have label_ids: [0] and label_ids: [255]"
            )
        return SequenceResult(
            bag.name,
            camera.topic,
            self._model,
            tuple(self._scores.frames),
            blocks,
            *self._scores.pictures(),
            notes=(*lost, *notes),
            complete=not lost,
        )


def _lost(bag: Bag, camera: Camera) -> list[str]:
    lines = [
        f"{count} {what}" + (f"; the first {first}" if first else "") for what, (count, first) in camera.lost.items()
    ]
    return [*dict.fromkeys(bag.lost), *lines]


def _unusual(clip: Clip, scores: SequenceScores) -> list[str]:
    notes = []
    if len(clip.sizes) > 1:
        listed = ", ".join(f"{width}x{height} from {stamp} ns" for (height, width), stamp in clip.sizes[:5])
        notes.append(f"the image size changes, which begins a new window each time: {listed}")
    if clip.cuts:
        listed = ", ".join(f"{reason.value} ({count} times)" for reason, count in clip.cuts.items())
        notes.append(f"windows began anew: {listed}")
    if scores.expects_truth and scores.with_truth < len(scores.frames):
        notes.append(f"{scores.with_truth} of {len(scores.frames)} frames have a ground truth")
    return notes


def _engine(path: Path, settings: EvaluationSettings) -> StreamingSegmenter:
    if path.is_dir():
        return StreamingSegmenter.from_checkpoint(path, settings.stream())
    model, info = load_checkpoint(path)
    require_numbers(path, row_name(info.config), model)
    return StreamingSegmenter(model, info, settings.stream())


def info_of(path: Path) -> CheckpointInfo:
    """What a checkpoint or an exported folder says of its network. Raises CheckpointError."""
    if path.is_dir():
        from stmem_ros.streaming.exported import read_export

        return read_export(path).info
    return read_info(path)
