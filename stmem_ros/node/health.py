"""How well a camera's stream does: from what was counted to a level and a line for a person."""

from __future__ import annotations

import dataclasses
import math
import time

from diagnostic_msgs.msg import DiagnosticStatus

from stmem_ros.node.clocks import ClockFault
from stmem_ros.node.settings import Thresholds
from stmem_ros.node.statistics import RATE_SECONDS, Persistent
from stmem_ros.node.stream import Stream

LOOKS_TO_REPORT_LOSS = 10
FAILURES_TO_REPORT = 10
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`kind` is a short word for the rate limit of the log."""

    level: bytes
    kind: str
    message: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """Of one camera that is listened to. Times are in seconds.

    `quiet` is how long no image came, `unlabelled` how long images came without labels. `rate` is None, and `latency`
    0, while nobody wants labels; `rate` also until they were wanted for as long as rates are measured over, and
    `latency` once no image comes any more.
    """

    topic: str
    publishers: list[str]
    quiet: float
    unlabelled: float
    rate: float | None
    latency: float
    lost: float
    clock_fault: ClockFault | None
    failures: int = 0


def facts_of(stream: Stream) -> Facts:
    """What is known of a stream with a camera."""
    statistics, camera = stream.statistics, stream.camera
    assert camera is not None
    wanted = stream.look_for_subscribers()
    waited = time.monotonic() - stream.listening_since
    since_image = statistics.seconds_since_image()
    quiet = waited if since_image is None else min(since_image, waited)
    return Facts(
        camera.where(),
        camera.publishers(),
        quiet,
        statistics.seconds_unlabelled(),
        statistics.labels_per_second() if wanted and waited >= RATE_SECONDS else None,
        statistics.latency_p99() if wanted and quiet < RATE_SECONDS else 0.0,
        statistics.lost_share(),
        stream.clock_fault,
        statistics.failures_in_a_row,
    )


def judge(facts: Facts, thresholds: Thresholds) -> list[Verdict]:
    """Everything that is not as it should be, errors first."""
    topic, patience = facts.topic, thresholds.no_image_warning
    publishers = ", ".join(facts.publishers) or "none: is the camera running, is the topic right?"
    no_image = f"no image for {facts.quiet:.0f} s on {topic} (publishers: {publishers})"
    found = []
    if facts.failures >= FAILURES_TO_REPORT:
        found.append(
            Verdict(
                ERROR,
                "failing",
                f"the network failed on the last {facts.failures} frames of {topic}, which have no labels: the log has "
                "the reason",
            )
        )
    if thresholds.watchdog and facts.quiet > thresholds.watchdog:
        found.append(Verdict(ERROR, "stalled", f"the camera is stalled: {no_image}"))
    elif patience and facts.quiet > patience:
        found.append(Verdict(WARN, "no image", no_image))
    elif patience and facts.unlabelled > patience:
        found.append(
            Verdict(
                WARN,
                "no labels",
                f"images come on {topic}, but no labels left for {facts.unlabelled:.0f} s: see the rejections, "
                "or the network is too slow",
            )
        )
    found += _limits(facts, thresholds)
    if len(facts.publishers) > 1:
        found.append(
            Verdict(
                WARN,
                "publishers",
                f"{len(facts.publishers)} publishers on {topic}, and a window is of one camera ({publishers}); "
                "give each camera a topic of its own (image_topics)",
            )
        )
    if facts.clock_fault is not None:
        fault = facts.clock_fault
        found.append(
            Verdict(WARN, f"clock {fault.kind}", f"images on {topic} {fault.text}; latencies are from arrival")
        )
    return sorted(found, key=lambda verdict: verdict.level, reverse=True)


def _limits(facts: Facts, thresholds: Thresholds) -> list[Verdict]:
    """Rates, latencies and losses beyond what the thresholds allow."""
    found: list[Verdict] = []
    for level, most, least in (
        (ERROR, thresholds.latency_error, thresholds.rate_error),
        (WARN, thresholds.latency_warning, thresholds.rate_warning),
    ):
        if most and facts.latency > most and not any(verdict.kind == "latency" for verdict in found):
            text = f"labels of {facts.topic} leave {facts.latency:.2f} s after the stamp (p99); the limit is {most:g}"
            found.append(Verdict(level, "latency", text))
        rate = math.inf if facts.rate is None else facts.rate
        if least and rate < least and not any(verdict.kind == "rate" for verdict in found):
            text = f"{rate:.1f} labels a second of {facts.topic}; the limit is {least:g}"
            found.append(Verdict(level, "rate", text))
    if facts.lost > thresholds.lost_warning:
        text = (
            f"frames are missing: by their stamps {facts.lost:.0%} of the images on {facts.topic} never arrived; "
            "for large images over Fast DDS see large_data in the README"
        )
        found.append(Verdict(WARN, "lost", text))
    return found


class Judge:
    """`judge` for one camera, look after look: what is lost for a moment is no news."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._lossy = Persistent(LOOKS_TO_REPORT_LOSS)

    def __call__(self, thresholds: Thresholds) -> list[Verdict]:
        """What is wrong, the worst first; or why nothing is expected, or that all is well."""
        stream = self._stream
        if stream.camera is None:
            return [Verdict(OK, "inactive", "not active")]
        if not stream.enabled:
            return [Verdict(OK, "disabled", "disabled")]
        found = judge(facts_of(stream), thresholds)
        lossy = self._lossy(any(verdict.kind == "lost" for verdict in found))
        found = [verdict for verdict in found if verdict.kind != "lost" or lossy]
        well = "segmenting" if stream.outputs.wanted() else "nobody subscribes: images go into the window alone"
        return found or [Verdict(OK, "well", well)]
