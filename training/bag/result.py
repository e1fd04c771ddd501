"""What an evaluation of bags came to, as sums that can be added: one sequence, a few, or a fleet's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from stmem_ros.labels import LabelSet
from training.measure.metrics import Accuracy
from training.measure.quality import CALIBRATION_BINS, QUALITY_NAMES, calibration_error
from training.measure.share import percent

ACCURACY_NAMES = {"miou": "mean IoU", "fw_iou": "fwIoU", "pixel_accuracy": "pixel accuracy"}
# Shares of all pixels, whatever their truth: the mean probability of their label, those whose label has a probability
# below 0.5, and those whose label is another one than in the frame before.
STREAM_NAMES = {"confidence": "mean confidence", "uncertain": "uncertain pixels", "changed": "labels that change"}
FIGURE_NAMES = ACCURACY_NAMES | QUALITY_NAMES | STREAM_NAMES
# Of which less is better; of the others more is. Mean confidence is neither.
LESS_IS_BETTER = ("ece", "uncertain", "changed")


@dataclasses.dataclass
class Sums:
    """Everything that is counted over frames; what two stretches counted is added field by field.

    `confusion` `(C, C)` counts pixels, rows are the truth; empty sums have zeros. `means` has, by a name of
    QUALITY_NAMES or STREAM_NAMES, the numerator and denominator of a share (`flow_consistency`, `vc8` ...);
    `calibration` `(3, 15)` the pixels of each bin of confidence, how many are right, and their summed confidence.
    """

    confusion: NDArray[np.int64]
    means: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    calibration: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros((3, CALIBRATION_BINS)))

    @classmethod
    def zero(cls, classes: int) -> Sums:
        return cls(np.zeros((classes, classes), np.int64))

    def __add__(self, other: Sums) -> Sums:
        names = [*self.means, *(name for name in other.means if name not in self.means)]
        pairs = {name: (self.means.get(name, (0.0, 0.0)), other.means.get(name, (0.0, 0.0))) for name in names}
        return Sums(
            self.confusion + other.confusion,
            {name: (one[0] + two[0], one[1] + two[1]) for name, (one, two) in pairs.items()},
            self.calibration + other.calibration,
        )

    @property
    def accuracy(self) -> Accuracy | None:
        """None where no pixel has a truth."""
        return Accuracy.of(self.confusion) if self.confusion.any() else None

    def figures(self) -> dict[str, float | None]:
        """Percentages by the names in FIGURE_NAMES; None where there is no value."""
        accuracy = self.accuracy
        values = {name: None if accuracy is None else getattr(accuracy, name) for name in ACCURACY_NAMES}
        values |= {name: percent(*self.means.get(name, (0.0, 0.0))) for name in FIGURE_NAMES if name not in values}
        return values | {"ece": calibration_error(self.calibration)}


@dataclasses.dataclass(frozen=True)
class FrameScore:
    """One frame: shares in percent, None where they cannot be had (no ground truth, no frame before).

    `latency_ms` is what the engine took for the step that gave the labels, from the camera's pixels on; a centred
    window's wait for the next frame is not in it. It and `confidence` are None where recorded labels have none.
    """

    stamp_ns: int
    confidence: float | None
    latency_ms: float | None
    consistency: float | None = None
    miou: float | None = None
    pixel_accuracy: float | None = None


@dataclasses.dataclass(frozen=True)
class Shot:
    """A frame kept for the eye, small: `camera` is a JPEG, the others PNG in the palette's colours.

    `difference` is black where the prediction is right or the truth void, and the predicted class's colour where
    it is wrong; without ground truth, the pixels whose label changed along optical flow since the frame before.
    """

    stamp_ns: int
    camera: bytes
    prediction: bytes
    truth: bytes | None = None
    difference: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Block:
    """A stretch of a sequence, which the bootstrap draws as one where there are too few sequences."""

    start_ns: int
    sums: Sums


@dataclasses.dataclass(frozen=True)
class SequenceResult:
    """One image topic of one bag as one network labels it.

    `frames` are in stamp order, all of them; `shots` a bounded choice, evenly over the sequence and the worst of them,
    in stamp order. `flicker` is a JPEG of the camera's mean image with the places whose labels change most in
    red. `notes` are lines for a person: what was lost, skipped or unusual; `complete` says that nothing was lost.
    """

    bag: str
    topic: str
    model: str
    frames: tuple[FrameScore, ...]
    blocks: tuple[Block, ...]
    shots: tuple[Shot, ...] = ()
    flicker: bytes | None = None
    notes: tuple[str, ...] = ()
    complete: bool = True

    @property
    def sums(self) -> Sums:
        return added(block.sums for block in self.blocks)


# All that a SequenceResult is made of.
RESULT_TYPES = (SequenceResult, FrameScore, Block, Sums, Shot)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How much higher a figure of FIGURE_NAMES is with network `second` than with `first`, in percentage points.

    `low` and `high` are the ends of the 95 % bootstrap confidence interval of that, paired: every resample draws the
    same `count` `units` ("bags" or "blocks of 10 s") of both. None where there are fewer than five.
    """

    first: str
    second: str
    figure: str
    difference: float
    low: float | None
    high: float | None
    units: str
    count: int

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Sequences of one or several networks over the same bags, in the order bags and networks were given.

    `failures` has, by bag, the line that says why it could not be evaluated. `settings` are what the report's reader
    needs to repeat it: command line, versions, each network's file and SHA-256, window, device. `comparisons` are of
    every further network with the first, figure by figure.
    """

    labels: LabelSet
    models: tuple[str, ...]
    sequences: tuple[SequenceResult, ...]
    has_truth: bool
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()

    def of(self, model: str) -> tuple[SequenceResult, ...]:
        return tuple(each for each in self.sequences if each.model == model)


def added(several: Iterable[Sums]) -> Sums:
    """The sum of at least one."""
    first, *others = several
    for other in others:
        first = first + other
    return first
