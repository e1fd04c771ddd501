"""What the page's script draws from: the evaluation as one JSON object, its images aside."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from training.bag.report.pictures import Images, Moment, choose, moments
from training.bag.report.tables import Recording, hexadecimal, row_shares
from training.bag.report.timeline import points_of_each, thinned
from training.bag.result import Evaluation, FrameScore, Sums

SECOND = 1_000_000_000


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The moments that the page shows of each recording, in stamp order, their images, and how many were kept."""

    images: Images
    moments: list[list[Moment]]
    kept: int

    @property
    def shown(self) -> int:
        return sum(map(len, self.moments))


def choose_pictures(found: Sequence[Recording], budget: int) -> Pictures:
    """At most `budget` characters of images."""
    images = Images(budget)
    several = [moments(each.results) for each in found]
    return Pictures(images, choose(several, images), sum(map(len, several)))


def document(
    evaluation: Evaluation, found: Sequence[Recording], pictures: Pictures, sums: Sequence[Sums]
) -> dict[str, Any]:
    points = points_of_each(len(evaluation.sequences))
    return {
        "classes": list(evaluation.labels.names),
        "colors": [hexadecimal(color) for color in evaluation.labels.palette],
        "models": list(evaluation.models),
        "hasTruth": evaluation.has_truth,
        "confusions": [row_shares(each.confusion) if each.confusion.any() else None for each in sums],
        "recordings": [
            {
                "name": f"{each.bag} {each.topic}",
                "lines": [thinned(one.frames, each.start_ns, points) if one else None for one in each.results],
                "frames": [frame_of(moment, each.start_ns, pictures.images) for moment in pictures.moments[place]],
            }
            for place, each in enumerate(found)
        ],
    }


def frame_of(moment: Moment, start_ns: int, images: Images) -> dict[str, Any]:
    first = next(shot for shot in moment.shots if shot is not None)
    return {
        "t": round((moment.stamp_ns - start_ns) / SECOND, 3),
        "stamp": f"{moment.stamp_ns // SECOND}.{moment.stamp_ns % SECOND:09d}",
        "camera": images.place(first.camera),
        "truth": images.place(first.truth),
        "of": [
            {
                "prediction": images.place(shot.prediction) if shot else None,
                "difference": images.place(shot.difference) if shot else None,
                "scores": _scores(score),
            }
            for shot, score in zip(moment.shots, moment.scores, strict=True)
        ],
    }


def _scores(score: FrameScore | None) -> dict[str, float]:
    if score is None:
        return {}
    named = {
        "mean IoU": score.miou,
        "pixels right": score.pixel_accuracy,
        "consistency": score.consistency,
        "confidence": score.confidence,
        "latency": score.latency_ms,
    }
    return {name: round(value, 2) for name, value in named.items() if value is not None}
