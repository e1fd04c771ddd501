"""Which frames and flicker maps the page shows as thumbnails that lead to the frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from training.bag.report.document import SECOND, Pictures, frame_of
from training.bag.report.pictures import Moment, badness
from training.bag.report.tables import Recording
from training.bag.result import SequenceResult
from training.measure.share import percent

# In all, shared by the networks, and for each network at least.
COUNT, FEWEST = 12, 4
# The score of a frame of which nothing bad is known.
NOTHING_WRONG = 100.0


def of_each_network(networks: int) -> int:
    return max(FEWEST, COUNT // networks)


def worst_frames(model: int, count: int, found: Sequence[Recording], pictures: Pictures) -> list[dict[str, Any]]:
    """The network's worst frames in the page, the worst first; of each second one, of each recording its share."""
    share = max(1, -(-count // max(len(found), 1)))
    seconds: set[tuple[int, int]] = set()
    taken = [0] * len(found)
    chosen: list[dict[str, Any]] = []
    for score, place, index, moment in sorted(_scored(model, pictures), key=lambda each: each[:3]):
        second = (place, (moment.stamp_ns - found[place].start_ns) // SECOND)
        if second in seconds or taken[place] == share:
            continue
        seconds.add(second)
        taken[place] += 1
        frame = frame_of(moment, found[place].start_ns, pictures.images)
        images = {"camera": frame["camera"], "truth": frame["truth"], **frame["of"][model]}
        chosen.append(_thumbnail(place, index, found[place]) | {"t": frame["t"], "score": score, "images": images})
        if len(chosen) == count:
            break
    return chosen


def flicker_maps(model: int, count: int, found: Sequence[Recording], pictures: Pictures) -> list[dict[str, Any]]:
    """The maps of the network's least steady recordings; each leads to its least steady frame in the page."""
    several = [
        (steadiness(result), place, result.flicker)
        for place, recording in enumerate(found)
        if (result := recording.results[model]) is not None and result.flicker is not None
    ]
    chosen = []
    for score, place, flicker in sorted(several)[:count]:
        of_frames = [
            (NOTHING_WRONG if its is None or its.consistency is None else its.consistency, index)
            for index, its in enumerate(moment.scores[model] for moment in pictures.moments[place])
        ]
        frame = min(of_frames)[1] if of_frames else None
        image = {"flicker map": pictures.images.require(flicker)}
        chosen.append(_thumbnail(place, frame, found[place]) | {"score": score, "images": image})
    return chosen


def steadiness(result: SequenceResult) -> float:
    """Flow consistency in percent, 100 where it is not known."""
    known = percent(*result.sums.means.get("flow_consistency", (0.0, 0.0))) if result.blocks else None
    return NOTHING_WRONG if known is None else known


def _scored(model: int, pictures: Pictures) -> Iterator[tuple[float, int, int, Moment]]:
    for place, one in enumerate(pictures.moments):
        for index, moment in enumerate(one):
            score = badness(moment.scores[model])
            if moment.shots[model] is not None and score < NOTHING_WRONG:
                yield score, place, index, moment


def _thumbnail(place: int, frame: int | None, recording: Recording) -> dict[str, Any]:
    return {"recording": place, "frame": frame, "bag": recording.bag, "topic": recording.topic}
