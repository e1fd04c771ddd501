"""Which kept frames go into the page: as many as a number of bytes allows, the worst first, spread over the bags."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from training.bag.result import FrameScore, SequenceResult, Shot

PNG = b"\x89PNG"


@dataclasses.dataclass(frozen=True)
class Moment:
    """One stamp of one image topic, as each network shows and scores it; a network without it is None."""

    stamp_ns: int
    shots: tuple[Shot | None, ...]
    scores: tuple[FrameScore | None, ...]

    @property
    def worst(self) -> float:
        """The lowest score of a network; lower is worse."""
        return min(badness(score) for score in self.scores)


def badness(score: FrameScore | None) -> float:
    """What frames are ranked by: mean IoU, without ground truth consistency, 100 where there is neither."""
    if score is None:
        return 100.0
    known = score.miou if score.miou is not None else score.consistency
    return 100.0 if known is None else known


class Images:
    """The page's images as data URLs, each once, up to a number of characters."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.urls: list[str] = []
        self._places: dict[bytes, int] = {}

    def place(self, image: bytes | None) -> int | None:
        """The place in `urls` of an image that was added."""
        return None if image is None else self._places.get(image)

    def add(self, images: Iterable[bytes | None]) -> bool:
        """Add all of them; nothing and False where that would be more than the budget."""
        new = dict.fromkeys(image for image in images if image is not None and image not in self._places)
        cost = sum(len(data_url(image)) for image in new)
        if cost > self.budget:
            return False
        self.budget -= cost
        for image in new:
            self.require(image)
        return True

    def require(self, image: bytes) -> int:
        """Add an image whatever the budget; returns its place."""
        if image not in self._places:
            self._places[image] = len(self.urls)
            self.urls.append(data_url(image))
        return self._places[image]


def data_url(image: bytes) -> str:
    kind = "png" if image.startswith(PNG) else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def moments(sequences: Sequence[SequenceResult | None]) -> list[Moment]:
    """The frames that any of the networks kept of one image topic, in stamp order."""
    shots = [{shot.stamp_ns: shot for shot in each.shots} if each else {} for each in sequences]
    wanted = sorted(set().union(*shots))
    scores = [{frame.stamp_ns: frame for frame in each.frames} if each else {} for each in sequences]
    return [
        Moment(stamp, tuple(each.get(stamp) for each in shots), tuple(each.get(stamp) for each in scores))
        for stamp in wanted
    ]


def choose(several: Sequence[list[Moment]], images: Images) -> list[list[Moment]]:
    """Of each sequence's moments those that fit: the worst of every sequence, then every second worst, and so on."""
    ranked = sorted(
        (
            sorted(((moment.worst, place, moment) for moment in one), key=lambda each: each[0])
            for place, one in enumerate(several)
            if one
        ),
        key=lambda one: one[0][0],
    )
    kept: list[list[Moment]] = [[] for _ in several]
    for each in (each for turn in zip_longest(*ranked) for each in turn if each is not None):
        _, place, moment = each
        if not images.add(_files(moment)):
            break
        kept[place].append(moment)
    return [sorted(one, key=lambda moment: moment.stamp_ns) for one in kept]


def _files(moment: Moment) -> list[bytes | None]:
    shots = [shot for shot in moment.shots if shot is not None]
    common = shots[0]
    return [common.camera, common.truth, *(part for shot in shots for part in (shot.prediction, shot.difference))]
