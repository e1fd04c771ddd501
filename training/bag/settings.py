"""What an evaluation is to do: the command line's options, checked once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, find_checkpoint
from stmem_ros.labels import LabelSet
from stmem_ros.streaming import StreamConfig
from training.measure.rows import distinct_name

RECORDED = "recorded labels"
NO_NETWORK = "a network, and none is measured: give --checkpoint"


class EvaluationError(Exception):
    """A request that cannot be met, or a bag that cannot be evaluated: one line with the reason."""


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """How bags are evaluated; the same for all of them. Raises EvaluationError.

    Args:
        image_topics: the cameras, each a sequence of its own; none: the only image topic there is
        truth_topics: the topic of label images of each camera, in their order; none: no ground truth, or a folder
        truth_folder: label images named by stamp; in a folder of a bag's name there, or else in it
        dataset: what the values of label images mean, a name in training/datasets or a YAML file; None: they are
            the network's class ids
        checkpoints: files, folders of `training.export`, or names of the package's models
        labels_topics: labels that are in the bag, measured as one more network's: of each camera, or several of one
        classes: what the bags say that their labels are, where neither a checkpoint nor a data set says it; None: the
            classes of the package's model
        classes_from: where the classes are from, for people
        window, short_side, device, precision, max_gap: see StreamConfig
        threads: CPU threads of a network; 0 is PyTorch's choice
        used_bits: those of 16-bit images, 0 for all (`UsedBits`)
        tolerance: seconds that stamps may differ by which label images are matched with frames
        vc_rule: one of VC_RULES
        shots, worst: how many pictures of a sequence are kept for the report, evenly and of the worst
    """

    image_topics: tuple[str, ...] = ()
    truth_topics: tuple[str, ...] = ()
    truth_folder: Path | None = None
    dataset: str | None = None
    checkpoints: tuple[Path, ...] = (DEFAULT_CHECKPOINT,)
    labels_topics: tuple[str, ...] = ()
    classes: LabelSet | None = None
    classes_from: str = "the network"
    window: str = "causal"
    short_side: int = 0
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    max_gap: float = 1.0
    used_bits: int = 0
    tolerance: float = 0.001
    vc_rule: str = "all"
    shots: int = 120
    worst: int = 12

    def __post_init__(self) -> None:
        cameras = max(len(self.image_topics), 1)
        if self.truth_topics and self.truth_folder is not None:
            raise EvaluationError("--truth-topic and --truth both name a ground truth: give one of them")
        if self.truth_topics and len(self.truth_topics) != cameras:
            raise EvaluationError(
                f"--truth-topic is given {len(self.truth_topics)} times for {cameras} image topics: "
                "give it once for each --image-topic, in their order"
            )
        if self.truth_folder is not None and cameras > 1:
            raise EvaluationError(f"--truth is of one camera, and --image-topic names {cameras}: give one of them")
        if self.truth_folder is not None and not self.truth_folder.is_dir():
            raise EvaluationError(
                f"--truth {self.truth_folder} is not a folder: give the one that holds the label images"
            )
        if cameras > 1 and self.labels_topics and len(self.labels_topics) != cameras:
            raise EvaluationError(
                f"--labels-topic is given {len(self.labels_topics)} times for {cameras} image topics: "
                "give it once for each --image-topic, in their order"
            )
        if not self.checkpoints and not self.labels_topics:
            raise EvaluationError("there is nothing to measure: give --checkpoint or --labels-topic")
        topics = (
            ("--image-topic", self.image_topics),
            ("--truth-topic", self.truth_topics),
            ("--labels-topic", self.labels_topics),
        )
        for option, values in (("--checkpoint", self.paths), *topics):
            twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
            if twice is not None:
                raise EvaluationError(f"{option} names {twice} twice: give it once")
        both = next((topic for topic in self.truth_topics if topic in self.labels_topics), None)
        if both is not None:
            raise EvaluationError(
                f"--truth-topic and --labels-topic both name {both}: labels are no truth of themselves"
            )
        if not self.tolerance >= 0:
            raise EvaluationError(f"--tolerance is {self.tolerance:g}; it must be a number of seconds from 0 on")
        if self.threads < 0:
            raise EvaluationError(f"--threads is {self.threads}; it must be a number from 0 on")
        self._require_effect()
        try:
            self.stream()
        except ValueError as error:
            raise EvaluationError(f"--{str(error).replace('short_side', 'short-side')}") from error

    def _require_effect(self) -> None:
        """Raises EvaluationError for a setting that was changed and that nothing here would use."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for names, used, missing in (
            # Not device and threads: no figure depends on them.
            (("window", "short_side", "precision"), self.checkpoints, NO_NETWORK),
            (("dataset", "vc_rule"), self.has_truth, "a ground truth: give --truth-topic or --truth"),
            (("tolerance",), self.has_truth or self.labels_topics, "label images: give --truth-topic or --truth"),
        ):
            changed = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) != defaults[name]]
            if changed and not used:
                verb = "is" if len(changed) == 1 else "are"
                raise EvaluationError(f"{' and '.join(changed)} {verb} of {missing} too")

    def stream(self) -> StreamConfig:
        config = (self.window, self.max_gap, self.short_side, self.device, self.precision)
        return StreamConfig(*config)  # type: ignore[arg-type]

    @property
    def has_truth(self) -> bool:
        return bool(self.truth_topics) or self.truth_folder is not None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The checkpoints' files or folders."""
        return tuple(find_checkpoint(path).resolve() for path in self.checkpoints)

    @property
    def models(self) -> tuple[str, ...]:
        """What is measured: each checkpoint by as much of its path as tells it apart, then labels of the bag."""
        several = len(self.image_topics) > 1
        recorded = self.labels_topics[: 1 if several else None]
        names = [distinct_name(path, list(self.paths)) for path in self.paths]
        return *names, *(RECORDED if several else topic for topic in recorded)

    def recorded(self, camera: int) -> tuple[str, ...]:
        """The topics of recorded labels of a camera, each a model's."""
        return self.labels_topics[camera : camera + 1] if len(self.image_topics) > 1 else self.labels_topics
