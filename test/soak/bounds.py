"""What a soak measured, the bounds that it must keep, and how that reads."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from soak.measure import Handles, Sample, slope, slope_error

MIB = 2**20
# For a run that is long enough to measure it: 1 MiB an hour.
LONG_RUN_S = 1500.0
MOST_PER_HOUR = 1 * MIB
# Standard errors by which growth must stand out: in half an hour one is more than the bound.
SURE = 2.0
# Memory goes up and down within a few disturbances: what is further apart tells something new.
BLOCK_S = 20.0
# A shorter run shows what is lost at every frame: one image at each label must stand out.
MOST_OF_AN_IMAGE = 0.5
# Scheduling and DDS between a stamp and its arrival at the node, which are no fault of the node's.
SLACK_S = 0.05
# Between the stamps of a camera that was started again, and how long the graph takes to be whole again.
PAUSE_NS = 200_000_000
SECONDS_TO_FIND_A_CAMERA = 2.0
# Where the node labels more than this share of the camera's frames, nothing was too fast for it.
MOST_OF_THE_RATE = 0.75
# Of the labels that may be later than that, on a machine that does other things as well; in a short run one moment in
# which it did counts for more.
LATE_SHARE, LATE_SHARE_SHORT = 0.02, 0.1


@dataclasses.dataclass(frozen=True)
class Label:
    """One label image: its stamp, and when the node sent it, by the system's clock; `life` is the node's process."""

    stamp_ns: int
    sent_ns: int
    life: int


@dataclasses.dataclass(frozen=True)
class Record:
    """Everything that a soak saw. `steady` are samples after warm-up, of one process, while it only segments.

    `centered` are the times, in nanoseconds, in which labels were of the frame before the newest one.
    """

    labels: Sequence[Label]
    centered: Sequence[tuple[int, int]]
    published: frozenset[int]
    rate: float
    image_bytes: int
    steady: Sequence[Sample]
    warm: Handles
    end: Handles
    disturbances: dict[str, int]
    complaints: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table; `broken` says which bound, empty where it holds."""

    name: str
    value: str
    bound: str
    broken: bool


def excess_ages(labels: Sequence[Label], published: Iterable[int]) -> np.ndarray:
    """Seconds by which each label's frame was older than one inference and one camera period when its label left.

    While frames wait, the network takes the next one when it is done with the one before: the time between two labels
    is what the second one took. The period is the camera's own, to the image after that frame: what is positive here
    is the time that this newer image had been there already. Not of a camera's first seconds, when its images do not
    reach everyone yet.
    """
    stamps = np.array(sorted(published))
    pairs = [(old.sent_ns, new.stamp_ns) for old, new in itertools.pairwise(labels) if old.life == new.life]
    sent, taken = np.array(pairs, np.int64).reshape(-1, 2).T
    if not len(stamps):
        return np.array([])
    following = np.searchsorted(stamps, taken, side="right")
    known = following < len(stamps)
    starts = stamps[np.diff(stamps, prepend=stamps[:1] - 2 * PAUSE_NS) > PAUSE_NS]
    begun = starts[np.searchsorted(starts, taken, side="right") - 1]
    known &= taken - begun > SECONDS_TO_FIND_A_CAMERA * 1e9
    return (sent[known] - stamps[following[known]]) * 1e-9


def judge(record: Record) -> list[Row]:
    """Every figure beside its bound."""
    labels = record.labels
    rate = _labels_per_second(labels)
    causal = [label for label in labels if not any(start <= label.sent_ns <= end for start, end in record.centered)]
    excess = excess_ages(causal, record.published)
    most_late = LATE_SHARE if _seconds(record) >= LONG_RUN_S else LATE_SHARE_SHORT
    late = float((excess > SLACK_S).mean()) if len(excess) else 0.0
    foreign = sum(label.stamp_ns not in record.published for label in labels)
    backwards = sum(old.life == new.life and new.stamp_ns <= old.stamp_ns for old, new in itertools.pairwise(labels))
    resident = [sample.resident / MIB for sample in record.steady] or [0.0]
    warm, end = record.warm, record.end
    rows = [
        Row("images published", f"{len(record.published)}", "", False),
        Row("labels received", f"{len(labels)}", "some", not labels),
        Row(
            "labels a second",
            f"{rate:.1f}",
            f"below {MOST_OF_THE_RATE * record.rate:g}, so that frames wait (--rate)",
            rate >= MOST_OF_THE_RATE * record.rate,
        ),
        Row("memory MiB", f"{min(resident):.1f} to {max(resident):.1f}", "measured", not record.steady),
        *_growth(record),
        Row("threads", f"{end.threads}", f"{warm.threads} after warm-up", end.threads > warm.threads),
        Row("open files", f"{end.files}", f"{warm.files} after warm-up", end.files > warm.files),
        Row(
            "frames older than inference + period",
            f"{late:.1%}, p99 by {_p99(excess) * 1e3:.0f} ms",
            f"at most {most_late:.0%} by more than {SLACK_S * 1e3:.0f} ms of scheduling",
            late > most_late,
        ),
        Row("labels with a stamp that no image had", f"{foreign}", "0", foreign > 0),
        Row("labels not newer than the one before", f"{backwards}", "0, but for a new process", backwards > 0),
        Row("complaints", f"{len(record.complaints)}", "0", bool(record.complaints)),
    ]
    rows += [Row(f"disturbances: {name}", f"{count}", "", False) for name, count in record.disturbances.items()]
    return rows


def _growth(record: Record) -> list[Row]:
    """Of memory: over time, and from label to label."""
    times = [sample.time for sample in record.steady]
    resident = [sample.resident for sample in record.steady]
    seconds = _seconds(record)
    an_hour, error = slope(times, resident) * 3600, slope_error(times, resident, BLOCK_S) * 3600
    long = seconds >= LONG_RUN_S
    said = (
        f"at most {MOST_PER_HOUR / MIB:g} MiB, or {SURE:g} standard errors"
        if long
        else f"of no weight below {LONG_RUN_S:.0f} s"
    )
    sent = np.array([label.sent_ns for label in record.labels], np.int64) * 1e-9
    a_label = slope([float((sent <= each).sum()) for each in times], resident)
    most = MOST_OF_AN_IMAGE * record.image_bytes
    return [
        Row(
            f"growth an hour, over {seconds:.0f} s",
            f"{an_hour / MIB:+.1f} \N{PLUS-MINUS SIGN} {error / MIB:.1f} MiB",
            said,
            long and an_hour > max(MOST_PER_HOUR, SURE * error),
        ),
        Row(
            "growth a label",
            f"{a_label / 1024:+.0f} KiB",
            f"at most {most / 1024:.0f} KiB, half an image",
            a_label > most,
        ),
    ]


def table(rows: Sequence[Row]) -> str:
    """For people."""
    names, values = (max(len(getattr(row, field)) for row in rows) for field in ("name", "value"))
    lines = [
        f"{row.name:<{names}}  {row.value:>{values}}  {row.bound}{'   <-- BROKEN' if row.broken else ''}".rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _seconds(record: Record) -> float:
    """Of the run after warm-up."""
    return record.steady[-1].time - record.steady[0].time if record.steady else 0.0


def _labels_per_second(labels: Sequence[Label]) -> float:
    """By the median interval: pauses that were asked for do not count."""
    intervals = np.diff([label.sent_ns for label in labels]) * 1e-9
    return float(1 / max(np.median(intervals), 1e-9)) if len(intervals) else 0.0


def _p99(values: np.ndarray) -> float:
    return float(np.percentile(values, 99)) if len(values) else 0.0
