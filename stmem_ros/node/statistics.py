"""What the node counts and times, and how that reads as diagnostics."""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections.abc import Callable

import numpy as np

# What a frame is rejected for where the network failed on it.
FAILURE = "failure"
# Or because its stamp is none.
STAMP = "stamp"
# Why a window was started anew, beside what the frames themselves tell (ResetReason).
ASKED_FOR = "asked for"
ANOTHER_MODEL = "another model"
ANOTHER_PUBLISHER = "another publisher's image came"
LOST_TO_FAILURE = "the network failed"
RECENT = 300
# Rates are of the last five seconds: room for a camera of 400 Hz.
RATE_SECONDS = 5.0
RATE_EVENTS = 2000
# Seconds between stamps above which a camera has paused rather than lost frames.
LONGEST_PERIOD = 2.0


@dataclasses.dataclass(frozen=True)
class FrameTimes:
    """Seconds that one frame spent: in the mailbox, being read, in the network, being published.

    `latency` runs from the camera's stamp to the published labels, by the node's clock; from the image's arrival if
    the stamp is of another clock.
    """

    wait: float
    decode: float
    network: float
    publish: float
    latency: float

    def line(self) -> str:
        """For people, in milliseconds."""
        return ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in dataclasses.asdict(self).items())


class Statistics:
    """Counters since the node was configured, and the times of the last 300 frames. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.received = 0
        self.labelled = 0
        self.replaced = 0
        self.ignored = 0
        self.unwanted = 0
        self.unstamped = 0
        self.other_clock = 0
        self.rejected: collections.Counter[str] = collections.Counter()
        # Frames on which the network failed since it last labelled one.
        self.failures_in_a_row = 0
        self.resets: collections.Counter[str] = collections.Counter()
        self._times: collections.deque[FrameTimes] = collections.deque(maxlen=RECENT)
        self._started = clock()
        self._arrivals: collections.deque[float] = collections.deque(maxlen=RATE_EVENTS)
        self._labels: collections.deque[float] = collections.deque(maxlen=RATE_EVENTS)
        self._stamps: collections.deque[float] = collections.deque(maxlen=60)
        # When the first image came for which there are no labels yet.
        self._waiting_since: float | None = None

    def begin(self) -> None:
        """Rates and times begin anew, as after a pause; counts go on."""
        self.forget_times()
        with self._lock:
            self._started = self._clock()
            self._waiting_since = None
            self.failures_in_a_row = 0
            for recent in (self._arrivals, self._labels, self._stamps):
                recent.clear()

    def forget_times(self) -> None:
        """Latencies are of what comes now, such as of another model."""
        with self._lock:
            self._times.clear()

    def arrived(self, stamp: float, other_clock: bool = False) -> None:
        """A message came in; `stamp` is its header's, in seconds, and may be of another clock than the node's."""
        with self._lock:
            self.received += 1
            self.unstamped += stamp == 0
            self.other_clock += other_clock and stamp != 0
            now = self._clock()
            self._arrivals.append(now)
            if self._waiting_since is None:
                self._waiting_since = now
            if self._stamps and not 0 < stamp - self._stamps[-1] < LONGEST_PERIOD:
                self._stamps.clear()
            self._stamps.append(stamp)

    def arrived_disabled(self) -> None:
        """A message came in while the node is disabled."""
        with self._lock:
            self.ignored += 1
            self._waiting_since = None

    def remembered(self) -> None:
        """A frame went into the window, and nobody wanted labels."""
        with self._lock:
            self.unwanted += 1
            self._waiting_since = None

    def dropped_for_newer(self) -> None:
        with self._lock:
            self.replaced += 1

    def reject(self, kind: str) -> None:
        with self._lock:
            self.rejected[kind] += 1
            self.failures_in_a_row += kind == FAILURE

    def reset(self, reason: str) -> None:
        with self._lock:
            self.resets[reason] += 1

    def labels_published(self, times: FrameTimes) -> None:
        with self._lock:
            self.labelled += 1
            self._waiting_since = None
            self.failures_in_a_row = 0
            self._times.append(times)
            self._labels.append(self._clock())

    def seconds_unlabelled(self) -> float:
        """For how long images have come without labels; 0 where the last one has them, or nobody wants any."""
        with self._lock:
            return 0.0 if self._waiting_since is None else self._clock() - self._waiting_since

    def labels_per_second(self) -> float:
        with self._lock:
            return self._rate(self._labels, self._clock())

    def latency_p99(self) -> float:
        """Seconds from stamp to labels over the last 300 frames; 0 where there were none."""
        with self._lock:
            times = [entry.latency for entry in self._times]
        return float(np.percentile(times, 99)) if times else 0.0

    def seconds_since_image(self) -> float | None:
        """None where none came yet."""
        with self._lock:
            return self._clock() - self._arrivals[-1] if self._arrivals else None

    def lost_share(self) -> float:
        """The share of frames that the stamps say were sent but never came, 0..1, over the last 60 that did.

        The camera's period is taken to be the median interval between stamps, so a loss of most frames reads as a
        slower camera, not as a loss; 0 while there are too few.
        """
        with self._lock:
            stamps = np.array(self._stamps)
        if len(stamps) < 20:
            return 0.0
        intervals = np.diff(stamps)
        period = float(np.median(intervals))
        sent = np.maximum(np.rint(intervals / period), 1).sum()
        return float(1 - len(intervals) / sent)

    def _rate(self, events: collections.deque[float], now: float) -> float:
        """Events per second over the last five seconds, or since the start where that is less."""
        seconds = min(RATE_SECONDS, max(now - self._started, 1e-9))
        return sum(event > now - seconds for event in events) / seconds

    def summary(self) -> dict[str, str]:
        """Names and values for diagnostics; times in milliseconds, over the last 300 frames."""
        with self._lock:
            now = self._clock()
            values = {
                "frames received": str(self.received),
                "frames labelled": str(self.labelled),
                "frames dropped for newer ones": str(self.replaced),
                "frames ignored while disabled": str(self.ignored),
                "frames that nobody wanted": str(self.unwanted),
                "frames rejected": str(sum(self.rejected.values())),
                "frames with a stamp of zero": str(self.unstamped),
                "frames with a stamp of another clock": str(self.other_clock),
                "images per second": f"{self._rate(self._arrivals, now):.1f}",
                "labels per second": f"{self._rate(self._labels, now):.1f}",
            }
            values |= {f"rejected for {kind}": str(count) for kind, count in sorted(self.rejected.items())}
            values |= {f"window reset: {reason}": str(count) for reason, count in sorted(self.resets.items())}
            times = list(self._times)
        if times:
            latency = np.array([entry.latency for entry in times]) * 1e3
            values["latency p50 ms"] = f"{np.percentile(latency, 50):.1f}"
            values["latency p99 ms"] = f"{np.percentile(latency, 99):.1f}"
            for field in ("wait", "decode", "network", "publish"):
                values[f"{field} p50 ms"] = f"{np.median([getattr(entry, field) for entry in times]) * 1e3:.2f}"
            overhead = np.median([entry.decode + entry.publish for entry in times]) * 1e3
            values["node overhead p50 ms"] = f"{overhead:.2f}"
        return values


class Persistent:
    """True once a condition has held at `needed` looks in a row: what passes by itself is no news."""

    def __init__(self, needed: int) -> None:
        self._needed, self._held = needed, 0

    def __call__(self, condition: bool) -> bool:
        self._held = self._held + 1 if condition else 0
        return self._held >= self._needed


class Complaints:
    """Says each kind of complaint at once, then at most every `period` seconds, with how often it came since."""

    def __init__(
        self,
        warn: Callable[[str], object],
        error: Callable[[str], object] | None = None,
        period: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._warn, self._error, self._period, self._clock = warn, error or warn, period, clock
        self._last: dict[str, float] = {}
        self._silent: collections.Counter[str] = collections.Counter()

    def __call__(self, kind: str, message: str) -> None:
        """Say it as a warning."""
        self._say(kind, message, self._warn)

    def error(self, kind: str, message: str) -> None:
        """Say it as an error."""
        self._say(kind, message, self._error)

    def _say(self, kind: str, message: str, say: Callable[[str], object]) -> None:
        now = self._clock()
        if kind in self._last and now - self._last[kind] < self._period:
            self._silent[kind] += 1
            return
        more = self._silent.pop(kind, 0)
        self._last[kind] = now
        say(f"{message} ({more} more like it since)" if more else message)
